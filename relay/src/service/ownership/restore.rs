//! Restoring: the nodes write again the records that the store has lost.
//!
//! A store may come back empty, with older data, or without the last moments: after a restart, or a fail-over to a replica that lagged. Each node notices that
//! by itself ([`Vault::losses`](crate::vault::Vault::losses)) and looks up all that it owns:
//!
//! | the store has | the node |
//! | --- | --- |
//! | nothing | writes the record again |
//! | another form of the record, with this node's fence | writes it again: the store gets a change before the shard, so its form is the older one |
//! | the record as it is here, to be kept beyond its end | writes it again: the store's clock was ahead when it was written |
//! | an older fence | writes it again; the node named there, if it lives, is told to release it |
//! | a newer fence, or another owner with the same fence | releases the instance: it was claimed from what came back |
//!
//! Each node looks twice: at once, and a [lease](crate::vault::LEASE) later, when all nodes have noticed and written. Until then nothing is claimed, because
//! restored records may name owners that are dead, or that have handed over since; and a call for an instance that is not here waits.
//!
//! A store that has lost nothing else may miss a single record, because it was evicted or deleted: [`missing_records`](super::missing_records) finds it.
//!
//! Invariant: only the owner writes a record again, with the fence that it was given. Of two nodes that believe to own it, the later one keeps it. Wiped
//! instances do not come back:
//! - Those that this node has wiped have a tombstone, and are erased again, both times.
//! - Those that another node has ended are erased again when that is known: a node that writes a record again asks every other node before and after, and a
//!   node that has wiped it erases it once more. A listed node that is silent, with or without a lease, is waited for as
//!   [`unresponsive_peers`](crate::service::nodes::unresponsive_peers) says, and nothing is written again meanwhile.
//! - A node that was given up, or that the store had lost from its list, erases its own wiped records when it comes back: it looks for them with each new
//!   lease.

use std::sync::Arc;

use sip::id::InstanceId;
use tokio::task::JoinSet;

use super::AT_ONCE;
use super::missing_records::PeerAnswers;
use crate::agent::request::{InstanceStatus, Request};
use crate::clock::{confirmed_now, shared_now};
use crate::domain::InstanceState;
use crate::metrics::labels::StoreOperation;
use crate::service::Inner;
use crate::vault::record::StoredRecord;
use crate::vault::{AwayReason, Fence, Lookup, RecordToWrite, SealError, StoreError, Stored};

/// How long ago, in seconds, what another node may still have was wiped at the most: it hears of that with its next renewal.
const HEARD_WITHIN_S: u64 = 600;

/// How long ago, in seconds, an instance was enabled at the most that the store took for the only one of its device because it had lost the other.
const JUST_NOW_S: u64 = 60;

/// The extent of the store's loss.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// This record may be the only one.
    Alone,
    /// More, and perhaps all; it may have come back as it was before.
    WithOthers,
}

/// The outcomes of a look-up of all instances.
#[derive(Default)]
pub(super) struct Tally {
    written: Vec<(InstanceId, Fence)>,
    released: usize,
}

/// The outcome for one instance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Restored {
    /// The store has it as it is here.
    Found,
    /// The record is written again.
    Written,
    /// The instance is another node's.
    Released,
    /// The instance is none of this node's, or ends.
    NotHere,
    /// The record cannot be written, and that is said.
    Refused,
}

impl Inner {
    /// Writes again what the store has lost. Whether it answered, and all nodes did; else it is to be done again. `is_last`: instances wiped lately
    /// are erased again before.
    pub(super) async fn restore_all(self: Arc<Self>, is_last: bool) -> bool {
        let owned: Vec<(InstanceId, Fence)> =
            self.dependencies.agent.ask_all(Request::Owned).await.into_iter().flatten().collect();
        let mut tally = Tally::default();
        let (wiped, heard) = self.wiped_elsewhere(&owned).await;
        self.release_wiped(&wiped).await;
        if heard != PeerAnswers::All {
            return false;
        }
        // A clock that has jumped ahead makes nothing old.
        let lately = shared_now().min(confirmed_now()).saturating_sub(HEARD_WITHIN_S);
        if is_last && !self.erase_returned(lately).await {
            return false;
        }
        for some in owned.chunks(AT_ONCE) {
            if self.is_leaving() {
                return true;
            }
            let mut under_way = JoinSet::new();
            for (id, fence) in some.iter().copied() {
                let it = self.clone();
                under_way.spawn(async move {
                    let _guard = it.changing.lock_key(id).await;
                    (id, fence, it.restore(id, Loss::WithOthers).await)
                });
            }
            while let Some(Ok((id, fence, restored))) = under_way.join_next().await {
                match restored {
                    Ok(restored) => tally.note(id, fence, restored),
                    Err(_) => return false,
                }
            }
        }
        self.finish_restoring(owned.len(), tally).await
    }

    /// Writes one record again that the store may miss, and whose lock is held. Whether the store has it then, and it goes on.
    ///
    /// # Errors
    /// [`StoreError::Away`], also while this node may own nothing any more.
    pub(crate) async fn write_again(self: &Arc<Self>, id: InstanceId) -> Result<bool, StoreError> {
        let Inner { dependencies, .. } = &**self;
        if dependencies.agent.is_doubtful() || self.is_leaving() {
            return Err(StoreError::Away(AwayReason::TimedOut));
        }
        // A node that erases another node's record leaves word before, which may be lost as well.
        self.release_ended().await;
        // An instance that is not here is not written.
        let fence = self.look_as_relay(id).await.map_or(Fence::NEW, |status| status.fence);
        let (wiped, heard) = self.wiped_elsewhere(&[(id, fence)]).await;
        self.release_wiped(&wiped).await;
        if heard != PeerAnswers::All {
            return Err(StoreError::Away(AwayReason::TimedOut));
        }
        let loss = if dependencies.vault.is_being_restored() { Loss::WithOthers } else { Loss::Alone };
        let (restored, mut tally) = (self.restore(id, loss).await?, Tally::default());
        tally.note(id, fence, restored);
        if !self.finish_restoring(1, tally).await {
            return Err(StoreError::Away(AwayReason::TimedOut));
        }
        Ok(matches!(restored, Restored::Found | Restored::Written) && self.is_here(id).await.is_some())
    }

    /// Makes sure that nothing was written again that has ended. Whether the store answered, and all nodes did.
    async fn finish_restoring(self: &Arc<Self>, looked_up: usize, tally: Tally) -> bool {
        let Tally { written, released } = tally;
        if !written.is_empty() || released > 0 {
            tracing::warn!(
                event = "records-restored",
                instances = looked_up,
                written = written.len(),
                let_go = released,
                "the store had lost records, or would have kept them for too long; they are written again"
            );
        }
        self.release_ended().await;
        // Instances wiped meanwhile.
        let (wiped, heard) = self.wiped_elsewhere(&written).await;
        self.release_wiped(&wiped).await;
        self.erase_ended(&written).await && heard == PeerAnswers::All
    }

    /// Erases what this node has wiped, since this time in seconds since 1970, or has ended of what passed through, and the store has again: it came back with
    /// what it had before, or others have written it again while this node was not there to be asked. The rest costs one short question each. Whether the store
    /// answered.
    pub(super) async fn erase_returned(self: &Arc<Self>, since: u64) -> bool {
        let vault = &self.dependencies.vault;
        if !self.end_returned().await {
            return false;
        }
        for some in vault.tombstones().erased_since(since).chunks(AT_ONCE) {
            let mut under_way = JoinSet::new();
            for (id, lookup) in some.iter().copied() {
                let vault = vault.clone();
                under_way.spawn(async move { (id, lookup, vault.has_any_of(id).await) });
            }
            while let Some(Ok((id, lookup, has))) = under_way.join_next().await {
                match has {
                    Ok(false) => {}
                    Ok(true) => {
                        tracing::warn!(event = "wiped-record-returned", instance = %id, "a record that was wiped is in the store again; it is erased");
                        self.dependencies.agent.erase(id, lookup);
                    }
                    Err(_) => return false,
                }
            }
        }
        true
    }

    /// Compares the store's record of an instance with the one here. Its lock is held: the one here is in the store, or is not yet to be.
    pub(super) async fn restore(self: &Arc<Self>, id: InstanceId, loss: Loss) -> Result<Restored, StoreError> {
        let vault = &self.dependencies.vault;
        let stands = |status: &InstanceStatus| status.expires_at > confirmed_now() && status.fence != Fence::NEW;
        let status = self.is_here(id).await.filter(stands);
        let Some(status) = status else { return Ok(Restored::NotHere) };
        let stored = match vault.load(id).await {
            Err(StoreError::Malformed) => None,
            stored => stored?,
        };
        let is_same = |stored: &Stored| {
            stored.owned && stored.fence == status.fence && stored.sealed.as_bytes() == status.sealed.as_bytes()
        };
        if stored.as_ref().is_some_and(is_same) && !vault.outlasts(id, status.expires_at).await? {
            if !vault.is_ordered() {
                // The store may have lost the index, in another slot.
                vault.name_again(&[id]).await?;
            }
            return Ok(Restored::Found);
        }
        let Ok((lookup, created_at, proven)) = self.name_of(&status) else { return Ok(Restored::Refused) };
        let other = vault.find(&lookup).await?.filter(|other| *other != id);
        if let Some(other) = other
            && self.is_newer(other, created_at, loss).await?
        {
            // The same device was set up again while the store did not know of this one.
            self.clone().replace(id, other, lookup);
            return Ok(Restored::NotHere);
        }
        let (sealed, expires_at, fence) = (&status.sealed, status.expires_at, status.fence);
        let record = RecordToWrite { id, sealed, expires_at, lookup: &lookup, fence };
        match self.timed(StoreOperation::Put, vault.restore(record)).await {
            Ok(()) if self.is_here(id).await.is_none() => {
                // The instance has ended while it was written, and the requester may have its receipt.
                self.dependencies.agent.erase(id, lookup);
                Ok(Restored::Written)
            }
            Ok(()) => {
                if let Some(other) = other.filter(|_| !proven) {
                    // The instance stands beside that one until it is proven.
                    vault.take_lookup(other, status.expires_at, &lookup).await?;
                }
                Ok(Restored::Written)
            }
            Err(StoreError::NotOwner) => {
                let record = stored.map_or(status.sealed, |stored| stored.sealed);
                self.leave_to_owner(id, status.fence, record).await;
                Ok(Restored::Released)
            }
            Err(StoreError::Away(reason)) if !matches!(reason, AwayReason::MayPersist | AwayReason::OtherKeyring) => {
                Err(StoreError::Away(reason))
            }
            Err(error) => {
                tracing::warn!(event = "record-not-rewritten", instance = %id, %error, "a record could not be written again");
                Ok(Restored::Refused)
            }
        }
    }

    /// Has the store keep a record no longer than it lives.
    pub(super) async fn cut_to_its_end(self: &Arc<Self>, id: InstanceId) {
        let Some(status) = self.is_here(id).await else { return };
        if self.dependencies.vault.outlasts(id, status.expires_at).await == Ok(true) {
            let _guard = self.changing.lock_key(id).await;
            // A store that is away is asked again in the next round. Another node may have wiped it in this moment.
            let _ = self.write_again(id).await;
        }
    }

    /// Has the store name an instance that is here for its device, where it names none any more: it has lost the name alone, by which another node finds what
    /// it replaces.
    pub(super) async fn name_where_none_is(&self, id: InstanceId) -> Result<(), StoreError> {
        let vault = &self.dependencies.vault;
        let Some(status) = self.is_here(id).await else { return Ok(()) };
        // One that is not proven leaves the name to an earlier one.
        let Ok((lookup, _, true)) = self.name_of(&status) else { return Ok(()) };
        match vault.find(&lookup).await? {
            None => vault.name_where_none_is(id, status.expires_at, &lookup).await,
            Some(_) => Ok(()),
        }
    }

    /// By what the store finds an instance, when it was enabled, in seconds since 1970, and whether it is proven.
    fn name_of(&self, status: &InstanceStatus) -> Result<(Lookup, u64, bool), SealError> {
        let vault = &self.dependencies.vault;
        vault.open_record(status.id, &status.sealed, |record| match record {
            StoredRecord::Lent(record) => (vault.lookup_of(record), record.created_at, record.proven),
            StoredRecord::PushBinding(record) => (vault.lookup_of(record), u64::MAX, true),
        })
    }

    /// An instance that is here, and goes on.
    pub(crate) async fn is_here(&self, id: InstanceId) -> Option<InstanceStatus> {
        let status = self.look_as_relay(id).await.ok()?;
        let is_wiped = self.dependencies.vault.tombstones().forbids(id, Some(status.fence)).is_some();
        (status.state != InstanceState::Ending && !is_wiped).then_some(status)
    }

    /// Whether another instance was enabled later than this, and is proven; where the store may have it from before, just now.
    async fn is_newer(&self, other: InstanceId, created_at: u64, loss: Loss) -> Result<bool, StoreError> {
        let vault = &self.dependencies.vault;
        let stored = match vault.load(other).await {
            // A malformed record can have no owner.
            Err(StoreError::Malformed) => None,
            stored => stored?,
        };
        let is_wiped = |stored: &Stored| vault.tombstones().forbids(other, Some(stored.fence)).is_some();
        let Some(stored) = stored.filter(|stored| !is_wiped(stored)) else { return Ok(false) };
        let since = match loss {
            Loss::Alone => created_at,
            Loss::WithOthers => shared_now().saturating_sub(JUST_NOW_S).max(created_at),
        };
        Ok(vault.open_lent(other, &stored.sealed, |record| record.proven && record.created_at > since).unwrap_or(false))
    }

    /// Erases what was written again, and has ended in that moment. Whether the store answered.
    async fn erase_ended(&self, written: &[(InstanceId, Fence)]) -> bool {
        let mut ended = Vec::new();
        for (id, _) in written.iter().copied() {
            if self.is_here(id).await.is_none() {
                ended.push(id);
            }
        }
        let mut is_away = false;
        self.look_up(&ended, |id, stored| match stored {
            Ok(Some(stored)) if stored.owned => self.dependencies.agent.erase(id, None),
            Ok(_) | Err(StoreError::Malformed) => {}
            Err(_) => is_away = true,
        })
        .await;
        !is_away
    }
}

impl Tally {
    fn note(&mut self, id: InstanceId, fence: Fence, restored: Restored) {
        match restored {
            Restored::Written => self.written.push((id, fence)),
            Restored::Released => self.released += 1,
            Restored::Found | Restored::NotHere | Restored::Refused => {}
        }
    }
}
