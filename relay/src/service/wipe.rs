//! Ending an instance on somebody's word, with a receipt.
//!
//! | the store | the answer | asked again |
//! | --- | --- | --- |
//! | has erased it | the receipt | the receipt, for a day |
//! | is away | that it is being wiped, once its tombstone is durable | the same, or the receipt when the store has erased it |
//! | is away, and the tombstone cannot be written | that the store is away | it is tried again |
//! | has it, but its owner is gone | the receipt: the record is erased here | the receipt, for a day |
//!
//! Invariant: a receipt is signed when nothing is left of the instance, in memory or in the store, and not before.

use sip::id::InstanceId;

use super::Inner;
use super::types::{AccessError, Receipt, WipeReason, Wiped};
use crate::agent::request::{Denied, EndKind, Erasure, Principal, Request, WipeDone};
use crate::clock::shared_now;
use crate::secret::InstanceSecret;
use crate::vault::Tombstone;

impl Inner {
    pub(super) async fn wipe(&self, id: InstanceId, who: Principal, reason: WipeReason) -> Result<Wiped, AccessError> {
        let proof = match &who {
            Principal::Device(secret) => Some(secret.clone()),
            Principal::Relay => None,
        };
        let kind = EndKind::Wiped(reason);
        let end = |reply| Request::End { id, who, kind, reply: Some(reply) };
        let WipeDone { reason, unregistered, erasure } = match self.dependencies.agent.ask(id, end).await {
            Some(Ok(done)) => done,
            Some(Err(denied)) => {
                return match (self.wiped_before(id, proof.as_ref(), denied).await, proof) {
                    (Err(AccessError::OwnerAway), proof) => {
                        match self.wipe_record(id, proof.as_ref(), reason).await {
                            // Somebody else has asked for the same meanwhile.
                            Err(AccessError::Unknown) => self.wiped_before(id, proof.as_ref(), denied).await,
                            wiped => wiped,
                        }
                    }
                    (wiped, _) => wiped,
                };
            }
            None => return Err(AccessError::StoreAway),
        };
        let wiped_at = self.dependencies.vault.tombstones().look(id).and_then(|tombstone| tombstone.wiped_at);
        match (wiped_at, erasure) {
            (Some(wiped_at), _) => Ok(Wiped::Done(self.receipt(id, wiped_at, reason, unregistered))),
            // Its tombstone had no room, and the store needs none.
            (None, Erasure::Done) => Ok(Wiped::Done(self.receipt(id, shared_now(), reason, unregistered))),
            (None, Erasure::Pending) => Ok(Wiped::Wiping),
            (None, Erasure::Unsure) => Err(AccessError::StoreAway),
        }
    }

    /// An instance that is not here may have been wiped, by this node or by one whose tombstones lie beside ours: then its tombstone knows how
    /// that stands.
    async fn wiped_before(
        &self,
        id: InstanceId,
        proof: Option<&InstanceSecret>,
        denied: Denied,
    ) -> Result<Wiped, AccessError> {
        let tombstone = match denied {
            Denied::Unknown => self.dependencies.vault.tombstones().look_anywhere(id).await,
            Denied::Forbidden => None,
        };
        let Some(tombstone) = tombstone else {
            return Err(self.denied(id, denied, proof).await);
        };
        let shown = proof.map(|proof| self.dependencies.vault.wipe_proof(id, proof));
        if shown.is_some_and(|shown| !tombstone.is_of(&shown)) {
            return Err(AccessError::Forbidden);
        }
        match tombstone {
            Tombstone { wiped_at: None, .. } => {
                // That of another node was read from its file.
                if self.dependencies.vault.tombstones().look(id).is_none() {
                    return Ok(Wiped::Wiping);
                }
                let written = self.dependencies.vault.tombstones().ensure_durable(id).await;
                written.map(|()| Wiped::Wiping).map_err(|_| AccessError::StoreAway)
            }
            Tombstone { wiped_at: Some(wiped_at), reason, unregistered, .. } if tombstone.receipt_is_kept() => {
                Ok(Wiped::Done(self.receipt(id, wiped_at, reason, unregistered)))
            }
            Tombstone { .. } => Err(AccessError::Unknown),
        }
    }

    /// Wipes an instance whose owner is gone: nobody is left who could unregister it, and nobody registers it again.
    async fn wipe_record(
        &self,
        id: InstanceId,
        proof: Option<&InstanceSecret>,
        reason: WipeReason,
    ) -> Result<Wiped, AccessError> {
        let stored = match proof {
            Some(proof) => self.kept_elsewhere(id, proof).await,
            None => self.record_elsewhere(id).await,
        };
        let stored = stored.ok_or(AccessError::Unknown)?;
        let vault = &self.dependencies.vault;
        if vault.holds_lease(&stored.owner).await.unwrap_or(true) {
            // It is only slow: it knows more, and is to be asked again.
            return Err(AccessError::OwnerAway);
        }
        self.wipe_stored(&stored, reason).await
    }

    pub(super) fn receipt(&self, id: InstanceId, wiped_at: u64, reason: WipeReason, unregistered: bool) -> Receipt {
        let signed = self.dependencies.vault.receipt(id, wiped_at, reason, unregistered);
        Receipt { instance: id, wiped_at, reason, unregistered, signature: signed.signature.into() }
    }
}
