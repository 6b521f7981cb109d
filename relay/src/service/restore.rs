//! Restoring: what the store has lost is written again by those who have it.
//!
//! A store may come back with nothing, with older data, or with all but the last moments: a restart, a fail-over to a replica that lagged.
//! Each node notices by itself ([`Vault::losses`](crate::vault::Vault::losses)) and looks up all that it owns:
//!
//! | the store has | what becomes of it |
//! | --- | --- |
//! | nothing | it is written again |
//! | another form of it, with this node's fence | likewise: a change is in the store before it is here, so that one is older |
//! | an older fence | likewise; the node that it names, and that lives, is told to let go |
//! | a newer fence, or another owner with the same one | it is let go of: it was claimed from what came back |
//!
//! Each looks twice, at once and a [lease](crate::vault::LEASE) later, when all have noticed and written. Until then nothing is claimed, for what came back
//! names owners that are dead, or that have handed over since; and a call for what is not here waits.
//!
//! Invariant: only the owner writes a record again, with the fence that it was given: of two that believe to own it the later one stays.
//! What was wiped does not come back: what this node has wiped has a tombstone and is erased again, both times; what another one ended
//! meanwhile is erased again when that is known.

use std::sync::Arc;

use sip::id::InstanceId;
use tokio::task::JoinSet;

use super::Inner;
use super::resume::AT_ONCE;
use crate::agent::request::{EndKind, InstanceStatus, Principal, Request};
use crate::clock::shared_now;
use crate::domain::InstanceState;
use crate::metrics::labels::StoreOperation;
use crate::vault::record::StoredRecord;
use crate::vault::{AwayReason, Fence, StoreError, Stored};

/// How long ago, in seconds, what another node may still have was wiped at the most: it hears of that with its next renewal.
const HEARD_WITHIN_S: u64 = 600;

/// How long ago, in seconds, an instance was enabled at the most that the store took for the only one of its device because it had lost the other.
const JUST_NOW_S: u64 = 60;

/// What became of one instance.
enum Restored {
    /// The store has it as it is here.
    Found,
    /// It is written again.
    Written,
    /// It is another node's.
    LetGo,
    /// It is none of this node's, or ends.
    NotHere,
    /// It cannot be written, and that is said.
    Refused,
}

impl Inner {
    /// Writes again what the store has lost. Whether it answered; else it is to be done again.
    pub(super) async fn restore_all(self: Arc<Self>) -> bool {
        let owned: Vec<(InstanceId, Fence)> =
            self.dependencies.agent.ask_all(Request::Owned).await.into_iter().flatten().collect();
        let (mut written, mut let_go) = (Vec::new(), 0);
        for some in owned.chunks(AT_ONCE) {
            if self.is_leaving() {
                return true;
            }
            let mut under_way = JoinSet::new();
            for (id, _) in some.iter().copied() {
                let it = self.clone();
                under_way.spawn(async move { (id, it.restore(id).await) });
            }
            while let Some(Ok((id, restored))) = under_way.join_next().await {
                match restored {
                    Ok(Restored::Written) => written.push(id),
                    Ok(Restored::LetGo) => let_go += 1,
                    Ok(Restored::Found | Restored::NotHere | Restored::Refused) => {}
                    Err(_) => return false,
                }
            }
        }
        if !written.is_empty() || let_go > 0 {
            tracing::warn!(
                event = "records-restored",
                instances = owned.len(),
                written = written.len(),
                let_go,
                "the store had lost records; they are written again"
            );
        }
        self.let_go_of_ended().await;
        self.erase_ended(&written).await
    }

    /// Erases again what this node has wiped, as far as the store may have it again; `lately`: what another node may still have.
    pub(super) fn erase_wiped_again(&self, lately: bool) {
        let since = if lately { shared_now().saturating_sub(HEARD_WITHIN_S) } else { 0 };
        for (id, lookup) in self.dependencies.vault.tombstones().erased_since(since) {
            self.dependencies.agent.erase(id, lookup);
        }
    }

    /// Compares what the store has of an instance with what is here.
    async fn restore(self: &Arc<Self>, id: InstanceId) -> Result<Restored, StoreError> {
        // What is here is in the store, or is not yet to be.
        let _guard = self.changing.lock_key(id).await;
        let vault = &self.dependencies.vault;
        let Some(status) = self.is_here(id).await else { return Ok(Restored::NotHere) };
        let stored = match vault.load(id).await {
            Err(StoreError::Malformed) => None,
            stored => stored?,
        };
        let is_same = |stored: &Stored| {
            stored.owned && stored.fence == status.fence && stored.sealed.as_bytes() == status.sealed.as_bytes()
        };
        if stored.as_ref().is_some_and(is_same) {
            return Ok(Restored::Found);
        }
        let facts = vault.open_record(id, &status.sealed, |record| match record {
            StoredRecord::Lent(record) => (vault.lookup_of(record), record.created_at, record.proven),
            StoredRecord::PushBinding(record) => (vault.lookup_of(record), u64::MAX, true),
        });
        let Ok((lookup, created_at, proven)) = facts else { return Ok(Restored::Refused) };
        let other = vault.find(&lookup).await?.filter(|other| *other != id);
        if let Some(other) = other
            && self.is_newer(other, created_at).await?
        {
            // The same device was set up again in the moment in which the store did not know of this one.
            self.clone().replace(id, other, lookup);
            return Ok(Restored::NotHere);
        }
        let put = vault.restore(id, &status.sealed, status.expires_at, &lookup, status.fence);
        match self.timed(StoreOperation::Put, put).await {
            Ok(()) => {
                if let Some(other) = other.filter(|_| !proven) {
                    // It stands beside that one until it is proven.
                    vault.take_lookup(other, status.expires_at, &lookup).await?;
                }
                Ok(Restored::Written)
            }
            Err(StoreError::NotOwner) => {
                let end = Request::End { id, who: Principal::Relay, kind: EndKind::HandedOver, reply: None };
                self.dependencies.agent.tell(id, end).await;
                Ok(Restored::LetGo)
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

    /// An instance that is here, and goes on.
    async fn is_here(&self, id: InstanceId) -> Option<InstanceStatus> {
        let status = self.look_as_relay(id).await.ok()?;
        (status.state != InstanceState::Ending && self.dependencies.vault.tombstones().forbids(id).is_none())
            .then_some(status)
    }

    /// Whether another instance was enabled just now, and later than this, and is proven.
    async fn is_newer(&self, other: InstanceId, created_at: u64) -> Result<bool, StoreError> {
        let vault = &self.dependencies.vault;
        if vault.tombstones().forbids(other).is_some() {
            return Ok(false);
        }
        let stored = match vault.load(other).await {
            // Nobody can look after it.
            Err(StoreError::Malformed) => None,
            stored => stored?,
        };
        let Some(stored) = stored else { return Ok(false) };
        let since = shared_now().saturating_sub(JUST_NOW_S).max(created_at);
        Ok(vault.open_lent(other, &stored.sealed, |record| record.proven && record.created_at > since).unwrap_or(false))
    }

    /// Erases what was written again, and has ended in that moment. Whether the store answered.
    async fn erase_ended(&self, written: &[InstanceId]) -> bool {
        let mut ended = Vec::new();
        for id in written.iter().copied() {
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
