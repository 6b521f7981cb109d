//! Ending an instance on somebody's word, with a receipt.
//!
//! | the store | the answer | asked again |
//! | --- | --- | --- |
//! | has erased it | the receipt | the receipt, for a day |
//! | is away | that it is being wiped, once its tombstone is durable | the same, or the receipt when the store has erased it |
//! | is away, and the tombstone cannot be written | that the store is away | it is tried again |
//! | has it, but its owner is gone, or it is on its way here | the receipt: the record is erased here | the receipt, for a day |
//!
//! One that is on its way here was claimed, or is about to be, and no shard has it yet:
//!
//! ```text
//! its tombstone is raised ── its shard is told ──┬── has it by now ── it ends as any other
//!                                                └── has it not ───── its record is erased; a shard asks for the tombstone before it binds, and turns it away
//! ```
//!
//! Invariant: a receipt is signed when nothing is left of the instance, in memory or in the store, and not before; of one on its way, what was read
//! of its record is dropped unused. What is stored is never answered as what was never there. What is begun ends, also when nobody waits for it.

use std::sync::Arc;

use sip::id::InstanceId;
use tracing::Instrument as _;

use super::Inner;
use super::types::{AccessError, Receipt, WipeReason, Wiped};
use super::views::by_record;
use crate::agent::request::{Denied, EndKind, Erasure, Principal, Request, WipeDone};
use crate::audit::Act;
use crate::clock::{latest_now, shared_now};
use crate::domain::Word as _;
use crate::metrics::labels::StoreOperation;
use crate::secret::InstanceSecret;
use crate::vault::record::StoredRecord;
use crate::vault::{Lookup, MAX_LIFETIME_S, Tombstone};

impl Inner {
    pub(super) async fn wipe(
        self: &Arc<Self>,
        id: InstanceId,
        who: Principal,
        reason: WipeReason,
    ) -> Result<Wiped, AccessError> {
        let proof = match &who {
            Principal::Device(secret) => Some(secret.clone()),
            Principal::Relay => None,
        };
        let kind = EndKind::Wiped(reason);
        let end = |reply| Request::End { id, who, kind, reply: Some(reply) };
        match self.dependencies.agent.ask(id, end).await {
            Some(Ok(done)) => self.wiped_here(id, &done),
            Some(Err(denied)) => match self.wiped_before(id, proof.as_ref(), denied).await {
                Err(AccessError::OwnerAway) => {
                    let it = self.clone();
                    // In a task of its own: whoever hangs up leaves no half of a wipe.
                    let wipe = async move { it.wipe_record(id, proof.as_ref(), reason).await };
                    tokio::spawn(wipe.in_current_span()).await.unwrap_or(Err(AccessError::StoreAway))
                }
                wiped => wiped,
            },
            None => Err(AccessError::StoreAway),
        }
    }

    /// What a shard has wiped.
    fn wiped_here(&self, id: InstanceId, done: &WipeDone) -> Result<Wiped, AccessError> {
        let WipeDone { reason, unregistered, erasure } = *done;
        let wiped_at = self.dependencies.vault.tombstones().look(id).and_then(|tombstone| tombstone.wiped_at);
        match (wiped_at, erasure) {
            (Some(wiped_at), _) => Ok(Wiped::Done(self.receipt(id, wiped_at, reason, unregistered))),
            // Its tombstone had no room, and the store needs none.
            (None, Erasure::Done) => Ok(Wiped::Done(self.receipt(id, shared_now(), reason, unregistered))),
            (None, Erasure::Pending) => Ok(Wiped::Wiping),
            (None, Erasure::Unsure) => Err(AccessError::StoreAway),
        }
    }

    /// An instance that is not here may have been wiped: then its tombstone knows how that stands.
    async fn wiped_before(
        &self,
        id: InstanceId,
        proof: Option<&InstanceSecret>,
        denied: Denied,
    ) -> Result<Wiped, AccessError> {
        let tombstone = self.dependencies.vault.tombstones().look(id).filter(|_| denied == Denied::Unknown);
        let Some(tombstone) = tombstone else {
            return Err(self.denied(id, denied, proof).await);
        };
        let shown = proof.map(|proof| self.dependencies.vault.wipe_proof(id, proof));
        if shown.is_some() && tombstone.proof.is_none() {
            // Nobody can show what it is known by: who asks learns no more than of any that is gone.
            return Err(tombstone.wiped_at.map_or(AccessError::StoreAway, |_| AccessError::Unknown));
        }
        if shown.is_some_and(|shown| !tombstone.is_of(&shown)) {
            return Err(AccessError::Forbidden);
        }
        match tombstone {
            Tombstone { wiped_at: None, .. } => {
                let written = self.dependencies.vault.tombstones().ensure_durable(id).await;
                written.map(|()| Wiped::Wiping).map_err(|_| AccessError::StoreAway)
            }
            Tombstone { wiped_at: Some(wiped_at), reason, unregistered, .. } if tombstone.receipt_is_kept() => {
                Ok(Wiped::Done(self.receipt(id, wiped_at, reason, unregistered)))
            }
            Tombstone { .. } => Err(AccessError::Unknown),
        }
    }

    /// Wipes an instance that no shard had, by its record: its owner is gone, and nobody is left who could unregister it; or it is on its way here.
    async fn wipe_record(
        &self,
        id: InstanceId,
        proof: Option<&InstanceSecret>,
        reason: WipeReason,
    ) -> Result<Wiped, AccessError> {
        let vault = &self.dependencies.vault;
        let stored = match vault.load(id).await {
            Ok(Some(stored)) => stored,
            // It was wiped in this moment.
            Ok(None) => return self.wiped_before(id, proof, Denied::Unknown).await,
            Err(_) => return Err(AccessError::StoreAway),
        };
        match proof.map(|proof| self.is_secret_of(&stored, proof)) {
            None | Some(Some(true)) => {}
            Some(Some(false)) => return Err(AccessError::Forbidden),
            Some(None) => return Err(AccessError::OwnerAway),
        }
        if !stored.owned && vault.holds_lease(&stored.owner).await.unwrap_or(true) {
            // It is only slow: it knows more, and is to be asked again.
            return Err(AccessError::OwnerAway);
        }
        // A registration that passed through has no tombstone: its device may register it again under the same id.
        let facts = |record: &StoredRecord| match record {
            StoredRecord::Lent(record) => {
                (Some(vault.lookup_of(record)), Some(vault.wipe_proof(id, &record.secret)), true)
            }
            StoredRecord::PushBinding(record) => (Some(vault.lookup_of(record)), None, false),
        };
        let (lookup, proof, is_lent) = vault.open_record(id, &stored.sealed, facts).unwrap_or((None, None, true));
        let tombstone = is_lent.then(|| Tombstone::new(lookup, stored.expires_at, reason, proof));
        let raised = tombstone.map(|tombstone| vault.tombstones().raise(id, tombstone));
        match self.end_ahead(id, reason).await {
            Some(Ok(done)) => return self.wiped_here(id, &done),
            Some(Err(_)) => {}
            None => return Err(AccessError::StoreAway),
        }
        let is_written = match raised {
            Some(raised) => raised.await.is_ok(),
            None => true,
        };
        if self.timed(StoreOperation::Erase, vault.erase_all_of(id, lookup)).await.is_err() {
            self.dependencies.agent.erase(id, lookup);
            return if is_written { Ok(Wiped::Wiping) } else { Err(AccessError::StoreAway) };
        }
        vault.tombstones().note_erased(id);
        if !stored.owned {
            // It has released its lease, and may serve on until another node has all that it hands over; that one may have taken the record by now,
            // and is told as its owner.
            let _ = vault.tell_ended(&stored.owner, id).await;
        }
        self.dependencies.metrics.wipe(reason);
        self.audit(Act::Wiped(reason), &by_record(stored));
        tracing::info!(event = "wiped-by-record", instance = %id, reason = reason.word(), "wiped by its record: its owner is gone, or it was on its way here");
        let wiped_at = vault.tombstones().look(id).and_then(|tombstone| tombstone.wiped_at);
        Ok(Wiped::Done(self.receipt(id, wiped_at.unwrap_or_else(shared_now), reason, false)))
    }

    /// Ends what could not be wiped: another node's, which lets go of it when its record is erased, or one that a store has which is away.
    pub(super) async fn end_unseen(&self, id: InstanceId, lookup: Lookup, reason: WipeReason, why: AccessError) {
        if why == AccessError::StoreAway {
            // The store may have it for this node.
            let tombstone = Tombstone::new(Some(lookup), latest_now() + MAX_LIFETIME_S, reason, None);
            // It is honoured as long as this run lives, also unwritten.
            let _ = self.dependencies.vault.tombstones().raise(id, tombstone).await;
        }
        let _ = self.end_ahead(id, reason).await;
        self.dependencies.agent.erase(id, lookup);
    }

    /// Ends an instance on its shard, or has it turned away there when it comes; `None`: the shards have ended.
    async fn end_ahead(&self, id: InstanceId, reason: WipeReason) -> Option<Result<WipeDone, Denied>> {
        let kind = EndKind::Wiped(reason);
        self.dependencies.agent.ask(id, |reply| Request::EndAhead { id, kind, reply }).await
    }

    fn receipt(&self, id: InstanceId, wiped_at: u64, reason: WipeReason, unregistered: bool) -> Receipt {
        let signed = self.dependencies.vault.receipt(id, wiped_at, reason, unregistered);
        Receipt { instance: id, wiped_at, reason, unregistered, signature: signed.signature.into() }
    }
}
