//! Ending an instance on somebody's word, with a receipt.
//!
//! Invariant: a receipt is signed when the instance is out of memory and the store was asked to erase it. A store that
//! was away then is asked until it does (the TTL is the backstop), and the receipt does not wait for that.

use sip::id::InstanceId;

use super::Inner;
use super::types::{AccessError, Receipt, WipeReason};
use crate::agent::request::{EndKind, Principal, Request, WipeDone};

impl Inner {
    pub(super) async fn wipe(
        &self,
        id: InstanceId,
        who: Principal,
        reason: WipeReason,
    ) -> Result<Receipt, AccessError> {
        let kind = EndKind::Wiped(reason);
        let end = |reply| Request::End { id, who, kind, reply: Some(reply) };
        let WipeDone { wiped_at, reason, unregistered } = match self.dependencies.agent.ask(id, end).await {
            Some(Ok(done)) => done,
            Some(Err(denied)) => return Err(self.denied(id, denied).await),
            None => return Err(AccessError::StoreAway),
        };
        let signed = self.dependencies.vault.receipt(id, wiped_at, reason, unregistered);
        Ok(Receipt { instance: id, wiped_at, reason, unregistered, signature: signed.signature.into() })
    }
}
