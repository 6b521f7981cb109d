//! Ending an instance on request, with a receipt.
//!
//! | the store | the answer | the answer to a repeated request |
//! | --- | --- | --- |
//! | has erased it | the receipt | the receipt, for a day |
//! | is away | that it is being wiped, once its tombstone is durable | the same, or the receipt when the store has erased it |
//! | is away, and the tombstone cannot be written | that it has ended and is not written down | it is tried again |
//! | is away; a push binding, which has no tombstone | likewise; it is erased when the store answers, if this run lives so long | it is tried again |
//! | has erased it for another node, which has not confirmed yet that it pushes no more | that it is being wiped | the receipt |
//! | has erased it, and the tombstone cannot be written | that it is being wiped | the same, or the receipt when the tombstone is written |
//! | has it, and another node that is gone had begun to wipe it | the receipt: this node goes on with the wipe | the receipt, for a day |
//! | has it, but its owner is gone, or it is on its way here | the receipt: this node unregisters and erases it | the receipt, for a day |
//!
//! An instance is on its way here while it is claimed, or about to be, and no shard has it yet:
//!
//! ```text
//! its tombstone is raised ── its shard is told ──┬── has it by now ── it ends as any other
//!                                                └── has it not ───── its record is erased; a shard asks for the tombstone before it binds, and turns it away
//! ```
//!
//! Invariant: a receipt is signed only when nothing is left of the instance, in memory or in the store, and its tombstone is durable. If the instance was on
//! its way here, the part of its record that was read is dropped unused. A stored instance is never reported as unknown. A wipe that has begun completes, also
//! when nobody waits for it.

mod by_record;
pub(super) mod removed_contacts;

use std::sync::Arc;

use sip::id::InstanceId;
use tokio::time::timeout;
use tracing::Instrument as _;

use super::Inner;
use super::devices::AccessError;
use super::views::{ReceiptView, Wiped};
use crate::agent::request::{Denied, EndKind, Erasure, Principal, Request, WipeDone};
use crate::clock::shared_now;
use crate::domain::WipeReason;
use crate::domain::Word as _;
use crate::metrics::labels::StoreOperation;
use crate::secret::InstanceSecret;
use crate::service::nodes::drain_messages::{HEARD_WITHIN, NodeMessage, is_heard};
use crate::vault::{Lookup, Owner, PeerTombstone, StoreError, Stored, Tombstone, WRITE_LIMIT};

/// For how long after a wipe its node may try to tell the device of it, in seconds.
const LAST_WORDS_S: u64 = 70;

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
        self.offered.settled(id).await;
        let kind = EndKind::Wiped(reason);
        let end = |reply| Request::End { id, who, kind, reply: Some(reply) };
        match self.dependencies.agent.ask(id, end).await {
            Some(Ok(done)) => self.wiped_here(id, &done),
            Some(Err(denied)) => match self.wiped_before(id, proof.as_ref(), denied).await {
                Err(AccessError::OwnerAway) => {
                    let it = self.clone();
                    // In a task of its own: a client that hangs up leaves no half of a wipe.
                    let wipe = async move {
                        match it.wipe_record(id, proof.as_ref(), reason).await {
                            // Another requester has asked for the same meanwhile.
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

    /// Ends what an app ends and an accepted keyring does not open, so that the earlier keyring does not bring it back: its record is erased, and a tombstone
    /// stands by its id. The app is told that there is none, as of every instance whose secret nobody can compare.
    async fn end_given_up(&self, &Stored { id, expires_at, .. }: &Stored) -> AccessError {
        match self.dependencies.vault.has_agreed_keyring().await {
            Ok(true) => {}
            // Another copy was rotated meanwhile, and may open it.
            Ok(false) => return AccessError::OwnerAway,
            Err(_) => return AccessError::StoreAway,
        }
        tracing::info!(event = "record-given-up", instance = %id, "an app has ended an instance whose record another keyring has sealed, in whose place the operator has accepted this one; it is erased, and stays so");
        let tombstone = Tombstone::new(None, expires_at, WipeReason::Disabled, None);
        let raised = self.dependencies.vault.tombstones().raise(id, tombstone);
        // Before the wait, in which a client may hang up.
        self.dependencies.agent.erase(id, None);
        let written = timeout(WRITE_LIMIT, raised).await;
        if matches!(written, Ok(Ok(()))) { AccessError::Unknown } else { AccessError::StoreAway }
    }

    /// The answer for an instance that a shard has wiped.
    pub(super) fn wiped_here(&self, id: InstanceId, done: &WipeDone) -> Result<Wiped, AccessError> {
        let WipeDone { reason, unregistered, erasure } = *done;
        let wiped_at = self.dependencies.vault.tombstones().look(id).and_then(|tombstone| tombstone.wiped_at);
        match (wiped_at, erasure) {
            (_, Erasure::Unmarked) => Ok(Wiped::Done(self.receipt(id, shared_now(), reason, unregistered))),
            // The store may yet come back with older data.
            _ if erasure == Erasure::Done && !self.dependencies.vault.tombstones().is_durable(id) => Ok(Wiped::Wiping),
            (Some(wiped_at), _) => Ok(Wiped::Done(self.receipt(id, wiped_at, reason, unregistered))),
            // The store needs none, and it was forgotten since.
            (None, Erasure::Done) => Ok(Wiped::Done(self.receipt(id, shared_now(), reason, unregistered))),
            (None, Erasure::Pending) => Ok(Wiped::Wiping),
            (None, Erasure::Unsure) => Err(AccessError::Unwritten),
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
            return match self.denied_with_record(id, denied, proof).await {
                (AccessError::Unknown, Some(stored)) if self.dependencies.vault.is_given_up(&stored.sealed) => {
                    Err(self.end_given_up(&stored).await)
                }
                (error, _) => Err(error),
            };
        };
        let shown = proof.map(|proof| self.dependencies.vault.wipe_proof(id, proof));
        if shown.is_some() && tombstone.proof.is_none() {
            // The secret that it is known by can be shown by no client: a requester learns no more than of any instance that is gone.
            if tombstone.wiped_at.is_some() {
                return Err(AccessError::Unknown);
            }
            if beside.is_none() {
                // One that waits already waits once.
                self.dependencies.agent.erase(id, tombstone.lookup);
            }
            return Err(AccessError::StoreAway);
        }
        if shown.is_some_and(|shown| !tombstone.is_of(&shown)) {
            return Err(AccessError::Forbidden);
        }
        // The receipt waits until no push is on its way: only its request breaks off the pushes that the phone is to get.
        self.dependencies.agent.ask(id, |reply| Request::Silence { id, reply }).await;
        if let Some(beside) = beside {
            return self.wiped_beside(id, beside).await;
        }
        let is_over = !tombstone.receipt_is_kept();
        // An instance that this node has ended by itself may be another node's by now, in a store that had lost the end: it is wiped wherever it is.
        let is_own = tombstone.fence.is_some() && !is_over;
        if (tombstone.wiped_at.is_none() || is_own) && !tombstones.insist(id) {
            // Another node has it.
            return Err(self.denied(id, denied, proof).await);
        }
        let is_erased = match tombstone.wiped_at {
            None => false,
            Some(_) => !is_own || self.erase_whosever(id, tombstone.lookup).await,
        };
        let written = timeout(WRITE_LIMIT, tombstones.ensure_durable(id)).await;
        let is_written = matches!(written, Ok(Ok(())));
        match tombstone.wiped_at {
            None => is_written.then_some(Wiped::Wiping).ok_or(AccessError::Unwritten),
            Some(_) if !is_erased || !is_written && !tombstones.is_durable(id) => Ok(Wiped::Wiping),
            Some(_) if is_over => Err(AccessError::Unknown),
            Some(wiped_at) => Ok(Wiped::Done(self.receipt(id, wiped_at, tombstone.reason, tombstone.unregistered))),
        }
    }

    /// Whether the store has nothing of it any more, whichever node had it; else it is asked again.
    async fn erase_whosever(&self, id: InstanceId, lookup: Option<Lookup>) -> bool {
        let erased = self.timed(StoreOperation::Erase, self.dependencies.vault.erase_all_of(id, lookup)).await;
        if erased.is_err() {
            self.dependencies.agent.erase(id, lookup);
        }
        erased.is_ok()
    }

    /// The answer for an instance that another node has wiped, whose tombstone lies beside ours. That node, if it lives, may be trying to push the
    /// end to the device.
    async fn wiped_beside(&self, id: InstanceId, beside: PeerTombstone) -> Result<Wiped, AccessError> {
        let Tombstone { wiped_at, fence, reason, unregistered, .. } = beside.tombstone;
        if !beside.tombstone.receipt_is_kept() {
            return Err(AccessError::Unknown);
        }
        if wiped_at.is_some_and(|wiped_at| shared_now().saturating_sub(wiped_at) <= LAST_WORDS_S) {
            let is_silent = match self.dependencies.vault.living_peers().await {
                Ok(peers) => match peers.iter().find(|peer| beside.is_of_node(peer.node())) {
                    Some(peer) => !self.silence_at(peer, id).await,
                    // That node may be cut off from the store alone, and say why calls no longer come.
                    None => matches!(reason, WipeReason::Expired | WipeReason::RefusedUpstream),
                },
                Err(_) => true,
            };
            if is_silent {
                return Ok(Wiped::Wiping);
            }
        }
        match (wiped_at, fence) {
            (Some(wiped_at), None) => Ok(Wiped::Done(self.receipt(id, wiped_at, reason, unregistered))),
            // The record is not erased, or may be another node's by now.
            _ => Ok(self.go_on_wiping(id, beside).await),
        }
    }

    /// Has a node break off what it pushes for an instance that has ended there; whether it has. One of an earlier version does not know how, and goes on.
    async fn silence_at(&self, node: &Owner, id: InstanceId) -> bool {
        self.ask_within(node, NodeMessage::Silence(id).encode(), HEARD_WITHIN)
            .await
            .is_some_and(|answer| is_heard(&answer))
    }

    /// Goes on with what another node has begun to wipe, unless that lives, and does so itself.
    async fn go_on_wiping(&self, id: InstanceId, beside: PeerTombstone) -> Wiped {
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
            // Without room on this disk, that node's own tombstone stands.
            let _ = timeout(WRITE_LIMIT, raised).await;
            vault.tombstones().note_unregistered(id, unregistered);
            tracing::info!(event = "wipe-gone-on-with", instance = %id, reason = reason.word(), "a node that is gone had begun to wipe this; it is gone on with here");
        }
        if !self.erase_whosever(id, lookup).await {
            return Wiped::Wiping;
        }
        vault.tombstones().note_erased(id);
        let wiped_at = vault.tombstones().look(id).and_then(|tombstone| tombstone.wiped_at);
        Wiped::Done(self.receipt(id, wiped_at.unwrap_or_else(shared_now), reason, unregistered))
    }

    /// Wipes an instance that no shard had, by its record: its owner is gone, or it is on its way here.
    async fn wipe_record(
        self: &Arc<Self>,
        id: InstanceId,
        proof: Option<&InstanceSecret>,
        reason: WipeReason,
    ) -> Result<Wiped, AccessError> {
        let vault = &self.dependencies.vault;
        let stored = match vault.load(id).await {
            Ok(Some(stored)) => stored,
            // The instance was wiped in this moment, or its record is damaged.
            Ok(None) | Err(StoreError::Malformed) => return self.wiped_before(id, proof, Denied::Unknown).await,
            Err(_) => return Err(AccessError::StoreAway),
        };
        match proof.map(|proof| self.is_secret_of(&stored, proof)) {
            None | Some(Some(true)) => {}
            Some(Some(false)) => return Err(AccessError::Forbidden),
            Some(None) => return Err(AccessError::OwnerAway),
        }
        if !stored.owned && vault.holds_lease(&stored.owner).await.unwrap_or(true) {
            // That node knows more, and can be asked again.
            return Err(self.silence_of(&stored.owner).await);
        }
        self.wipe_stored(stored, reason).await
    }

    /// Ends an instance on its shard, or has it turned away there when it comes; `None`: the shards have ended.
    pub(super) async fn end_ahead(&self, id: InstanceId, reason: WipeReason) -> Option<Result<WipeDone, Denied>> {
        let kind = EndKind::Wiped(reason);
        self.dependencies.agent.ask(id, |reply| Request::EndAhead { id, kind, reply }).await
    }

    pub(super) fn receipt(&self, id: InstanceId, wiped_at: u64, reason: WipeReason, unregistered: bool) -> ReceiptView {
        let signed = self.dependencies.vault.receipt(id, wiped_at, reason, unregistered);
        ReceiptView { instance: id, wiped_at, reason, unregistered, signature: signed.signature.into() }
    }
}
