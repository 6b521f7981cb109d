//! What becomes of the instance that was enabled earlier for the same app, AOR and push token.
//!
//! | the SIP server, about the new one | credentials | the earlier one | calls go to |
//! | --- | --- | --- | --- |
//! | has accepted it | any | ends at once | the new one |
//! | has not, yet | those of the earlier one, which is proven, of the same binding | ends at once | the new one, which it vouches for |
//! | has answered that it cannot now | those of the earlier one, by another way to the server | ends at once: its Contact may be what stands in the way | nobody, until the new one is registered |
//! | has not, yet | others, or nothing was answered by another way | stands until the new one is proven | the earlier one |
//! | has not, yet | any; the earlier one is not proven either | ends at once | the new one, once it is proven |
//! | refuses it later | | stands | the earlier one |
//!
//! While both stand, the earlier one has their lookup in the store, so that whatever dies meanwhile the new one finds what it is to replace.
//! The device has asked for the new one: who disables that disables both.
//!
//! Invariant: of one app, AOR and push token at most two instances stand on a node, of which one is proven and the other one is not.

use std::sync::Arc;
use std::time::Duration;

use sip::id::InstanceId;
use tokio::time::sleep;

use super::Inner;
use super::types::{AccessError, OperatorError, Registration, RegistrationState, WipeReason, Wiped};
use super::views;
use crate::agent::request::{InstanceStatus, Principal, Request};
use crate::agent::same_credentials;
use crate::domain::InstanceState;
use crate::metrics::labels::StoreOperation;
use crate::secret::InstanceSecret;
use crate::vault::record::Record;
use crate::vault::{AorKey, Fence, Lookup, Placed, Sealed, StoreError};

/// How soon the store is asked again to write down that an instance is proven.
const AGAIN: Duration = Duration::from_secs(5);

/// What becomes of an earlier instance when a new one is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Succession {
    /// It ends.
    AtOnce,
    /// It ends, and its credentials vouch for the new one's.
    Vouched,
    /// It ends when the new one is proven.
    WhenProven,
}

impl Inner {
    /// What becomes of an earlier instance, by how the first registration of the new one went.
    pub(super) async fn succession(
        &self,
        id: InstanceId,
        sealed: &Sealed,
        earlier: InstanceId,
        registration: &Registration,
    ) -> Succession {
        if registration.state == RegistrationState::Registered {
            return Succession::AtOnce;
        }
        let (status, is_here) = match self.look_as_relay(earlier).await {
            Ok(status) => (status, true),
            Err(_) => match self.dependencies.vault.load(earlier).await {
                Ok(Some(stored)) => (views::by_record(stored), false),
                _ => return Succession::AtOnce,
            },
        };
        if status.state == InstanceState::Ending {
            return Succession::AtOnce;
        }
        let compare = |new: &Record| {
            self.with_record(&status, |old| {
                let is_proven = old.proven || status.state == InstanceState::Registered;
                (is_proven, same_credentials(old, new), old.binding == new.binding)
            })
        };
        let compared = self.dependencies.vault.open_lent(id, sealed, compare).ok().flatten();
        match compared {
            // One that nobody can open, or that never got a call, is no loss.
            None | Some((false, ..)) => Succession::AtOnce,
            Some((true, true, true)) if is_here => Succession::Vouched,
            Some((true, true, _)) if registration.status.is_some() => Succession::AtOnce,
            Some((true, ..)) => Succession::WhenProven,
        }
    }

    /// Stores a new instance, which leaves the lookup to an earlier one that stands.
    pub(super) async fn put_new(
        &self,
        id: InstanceId,
        sealed: &Sealed,
        expires_at: u64,
        lookup: &Lookup,
        succession: Succession,
    ) -> Result<Placed, StoreError> {
        let vault = &self.dependencies.vault;
        match succession {
            Succession::WhenProven => {
                self.timed(StoreOperation::Put, vault.put_beside(id, sealed, expires_at, lookup)).await
            }
            Succession::AtOnce | Succession::Vouched => {
                self.timed(StoreOperation::Put, vault.put(id, sealed, expires_at, lookup, Fence::NEW)).await
            }
        }
    }

    /// The other instances on this node of the same lookup, each with when it was enabled, in seconds since 1970.
    pub(super) async fn others_of(&self, id: InstanceId, account: AorKey, lookup: Lookup) -> Vec<(InstanceId, u64)> {
        let answers = self.dependencies.agent.ask_all(|reply| Request::OfAccount { aor: account, reply }).await;
        let is_other = |status: &InstanceStatus| status.id != id && status.state != InstanceState::Ending;
        let enabled_at = |status: InstanceStatus| {
            let enabled_at =
                |record: &Record| (self.dependencies.vault.lookup_of(record) == lookup).then_some(record.created_at);
            Some((status.id, self.with_record(&status, enabled_at).flatten()?))
        };
        answers.into_iter().flatten().filter(is_other).filter_map(enabled_at).collect()
    }

    /// An instance that was stored before its SIP server had accepted it is proven: what it replaces ends, and its record says so, which
    /// comes last, so that whatever dies in between is done again.
    pub(super) async fn succeed(self: Arc<Self>, id: InstanceId) {
        while let Err(AccessError::StoreAway) = self.try_to_succeed(id).await {
            sleep(AGAIN).await;
        }
    }

    async fn try_to_succeed(self: &Arc<Self>, id: InstanceId) -> Result<(), AccessError> {
        let vault = &self.dependencies.vault;
        let status = self.look_as_relay(id).await.map_err(|error| match error {
            OperatorError::Unknown => AccessError::Unknown,
            _ => AccessError::StoreAway,
        })?;
        let facts = |record: &Record| (vault.lookup_of(record), vault.aor_key(&record.account.aor), record.created_at);
        let Some((lookup, account, enabled_at)) = self.with_record(&status, facts) else { return Ok(()) };
        let named = vault.find(&lookup).await.map_err(|_| AccessError::StoreAway)?.filter(|other| *other != id);
        let others = self.others_of(id, account, lookup).await;
        let earlier = others.into_iter().filter(|(other, at)| *at < enabled_at && Some(*other) != named);
        for earlier in named.into_iter().chain(earlier.map(|(other, _)| other)) {
            self.end_earlier(earlier, lookup, WipeReason::Replaced).await;
        }
        vault.take_lookup(id, status.expires_at, &lookup).await.map_err(|_| AccessError::StoreAway)?;
        self.write_down_proven(id).await
    }

    /// Ends an instance at its device's word, and the earlier one that still stands for it.
    pub(super) async fn disable(self: &Arc<Self>, id: InstanceId, proof: InstanceSecret) -> Result<Wiped, AccessError> {
        let earlier = self.stands_for(id, &proof).await;
        let wiped = self.wipe(id, Principal::Device(proof), WipeReason::Disabled).await?;
        if let Some((earlier, lookup)) = earlier {
            self.end_earlier(earlier, lookup, WipeReason::Disabled).await;
        }
        Ok(wiped)
    }

    /// The earlier instance that stands for one that is not proven yet.
    async fn stands_for(&self, id: InstanceId, proof: &InstanceSecret) -> Option<(InstanceId, Lookup)> {
        let status = match self.look(id, proof).await {
            Err(AccessError::OwnerAway) => self.look_at_record(id, proof).await?,
            looked => looked.ok()?,
        };
        let unproven = |record: &Record| (!record.proven).then(|| self.dependencies.vault.lookup_of(record));
        let lookup = self.with_record(&status, unproven).flatten()?;
        let named = self.dependencies.vault.find(&lookup).await.ok().flatten();
        named.filter(|named| *named != id).map(|named| (named, lookup))
    }
}
