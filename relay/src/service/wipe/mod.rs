//! Ending an instance on somebody's word, with a receipt.
//!
//! | the store | the answer | asked again |
//! | --- | --- | --- |
//! | has erased it | the receipt | the receipt, for a day |
//! | is away | that it is being wiped, once its tombstone is durable | the same, or the receipt when the store has erased it |
//! | is away, and the tombstone cannot be written | that the store is away | it is tried again |
//! | is away, of a registration that passed through, which has no tombstone | that the store is away; it is erased when that answers, if this run lives so long | it is tried again |
//! | has erased it, and the tombstone cannot be written | that it is being wiped | the same, or the receipt when that is written |
//! | has it, and another node that is gone had begun to wipe it | the receipt: it is gone on with here | the receipt, for a day |
//! | has it, but its owner is gone, or it is on its way here | the receipt: the record is erased here | the receipt, for a day |
//!
//! One that is on its way here was claimed, or is about to be, and no shard has it yet:
//!
//! ```text
//! its tombstone is raised ── its shard is told ──┬── has it by now ── it ends as any other
//!                                                └── has it not ───── its record is erased; a shard asks for the tombstone before it binds, and turns it away
//! ```
//!
//! Invariant: a receipt is signed when nothing is left of the instance, in memory or in the store, and its tombstone is durable, and not before; of one on its way, what was read
//! of its record is dropped unused. What is stored is never answered as what was never there. What is begun ends, also when nobody waits for it.

mod by_record;
pub(super) mod taken_back;

use std::sync::Arc;

use sip::id::InstanceId;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::Inner;
use super::types::{AccessError, Receipt, WipeReason, Wiped};
use crate::agent::request::{Denied, EndKind, Erasure, Principal, Request, WipeDone};
use crate::clock::shared_now;
use crate::domain::Word as _;
use crate::metrics::labels::StoreOperation;
use crate::secret::InstanceSecret;
use crate::vault::{Beside, Owner, Tombstone, WRITE_LIMIT};

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
                    let wipe = async move {
                        match it.wipe_record(id, proof.as_ref(), reason).await {
                            // Somebody else has asked for the same meanwhile.
                            Err(AccessError::Unknown) => it.wiped_before(id, proof.as_ref(), Denied::Unknown).await,
                            wiped => wiped,
                        }
                    };
                    tokio::spawn(wipe.in_current_span()).await.unwrap_or(Err(AccessError::StoreAway))
                }
                wiped => wiped,
            },
            None => Err(AccessError::StoreAway),
        }
    }

    /// What a shard has wiped.
    pub(super) fn wiped_here(&self, id: InstanceId, done: &WipeDone) -> Result<Wiped, AccessError> {
        let WipeDone { reason, unregistered, erasure } = *done;
        let wiped_at = self.dependencies.vault.tombstones().look(id).and_then(|tombstone| tombstone.wiped_at);
        match (wiped_at, erasure) {
            // The store may yet come back with older data.
            _ if erasure == Erasure::Done && !self.dependencies.vault.tombstones().is_durable(id) => Ok(Wiped::Wiping),
            (Some(wiped_at), _) => Ok(Wiped::Done(self.receipt(id, wiped_at, reason, unregistered))),
            // The store needs none, and it was forgotten since.
            (None, Erasure::Done) => Ok(Wiped::Done(self.receipt(id, shared_now(), reason, unregistered))),
            (_, Erasure::Unmarked) => Ok(Wiped::Done(self.receipt(id, shared_now(), reason, unregistered))),
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
        let tombstones = self.dependencies.vault.tombstones();
        let own = tombstones.look(id).filter(|_| denied == Denied::Unknown);
        let beside = match denied {
            Denied::Unknown if own.is_none() => tombstones.look_beside(id).await,
            Denied::Unknown | Denied::Forbidden => None,
        };
        let Some(tombstone) = own.or_else(|| beside.as_ref().map(|beside| beside.tombstone.clone())) else {
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
        // Who may have its receipt is told it when nothing is on its way: nobody else breaks off what its phone is to hear.
        self.dependencies.agent.ask(id, |reply| Request::Silence { id, reply }).await;
        match tombstone {
            Tombstone { wiped_at: None, .. } => {
                if let Some(beside) = beside {
                    return Ok(self.go_on_wiping(id, beside).await);
                }
                if !tombstones.insist(id) {
                    // This node had ended it by itself, and another one has it.
                    return Err(self.denied(id, denied, proof).await);
                }
                let written = timeout(WRITE_LIMIT, tombstones.ensure_durable(id)).await;
                written.ok().and_then(Result::ok).map(|()| Wiped::Wiping).ok_or(AccessError::StoreAway)
            }
            Tombstone { wiped_at: Some(_), .. }
                if beside.is_none()
                    && !matches!(timeout(WRITE_LIMIT, tombstones.ensure_durable(id)).await, Ok(Ok(())))
                    && !tombstones.is_durable(id) =>
            {
                Ok(Wiped::Wiping)
            }
            Tombstone { wiped_at: Some(wiped_at), reason, unregistered, .. } if tombstone.receipt_is_kept() => {
                Ok(Wiped::Done(self.receipt(id, wiped_at, reason, unregistered)))
            }
            Tombstone { .. } => Err(AccessError::Unknown),
        }
    }

    /// Goes on with what another node has begun to wipe, unless that lives, and does so itself.
    async fn go_on_wiping(&self, id: InstanceId, beside: Beside) -> Wiped {
        let vault = &self.dependencies.vault;
        let lives = |peers: Vec<Owner>| peers.iter().any(|peer| beside.is_of_node(peer.node()));
        if vault.living_peers().await.map_or(true, lives) {
            return Wiped::Wiping;
        }
        let Tombstone { lookup, ends_at, reason, proof, unregistered, .. } = beside.tombstone;
        // Of two who ask at once, one raises it.
        let _guard = self.changing.lock_key(id).await;
        if vault.tombstones().look(id).is_none() {
            let raised = vault.tombstones().raise(id, Tombstone::new(lookup, ends_at, reason, proof));
            // Where this disk has no room for it, that node's own one stands.
            let _ = timeout(WRITE_LIMIT, raised).await;
            vault.tombstones().note_unregistered(id, unregistered);
            tracing::info!(event = "wipe-gone-on-with", instance = %id, reason = reason.word(), "a node that is gone had begun to wipe this; it is gone on with here");
        }
        if self.timed(StoreOperation::Erase, vault.erase_all_of(id, lookup)).await.is_err() {
            self.dependencies.agent.erase(id, lookup);
            return Wiped::Wiping;
        }
        vault.tombstones().note_erased(id);
        let wiped_at = vault.tombstones().look(id).and_then(|tombstone| tombstone.wiped_at);
        Wiped::Done(self.receipt(id, wiped_at.unwrap_or_else(shared_now), reason, unregistered))
    }

    /// Wipes an instance that no shard had, by its record: its owner is gone, and nobody is left who could unregister it; or it is on its way here.
    async fn wipe_record(
        self: &Arc<Self>,
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
            // It knows more, and is to be asked again.
            return Err(self.silence_of(&stored.owner).await);
        }
        self.wipe_stored(stored, reason).await
    }

    /// Ends an instance on its shard, or has it turned away there when it comes; `None`: the shards have ended.
    pub(super) async fn end_ahead(&self, id: InstanceId, reason: WipeReason) -> Option<Result<WipeDone, Denied>> {
        let kind = EndKind::Wiped(reason);
        self.dependencies.agent.ask(id, |reply| Request::EndAhead { id, kind, reply }).await
    }

    pub(super) fn receipt(&self, id: InstanceId, wiped_at: u64, reason: WipeReason, unregistered: bool) -> Receipt {
        let signed = self.dependencies.vault.receipt(id, wiped_at, reason, unregistered);
        Receipt { instance: id, wiped_at, reason, unregistered, signature: signed.signature.into() }
    }
}
