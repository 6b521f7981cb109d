//! Changes that were refused because the store did not answer. The store may have made them all the same, and only its answer was lost.
//!
//! ```text
//! change ── written, and no answer ── refused: "nothing was changed" ── [`SETTLED`] later, when the store answers ── compared with the record here ─┬─ equal
//!                                                                                                                                            └─ another ── written again
//! ```
//!
//! Invariant: a change that was refused is not in force after the next start or claim, if this node reaches the store once before that. No write of a record is
//! under way when it is compared: the store ignores late ones, and changes wait for the lock.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use sip::id::InstanceId;
use tokio::task::JoinHandle;

use super::restore::Loss;
use crate::clock;
use crate::lock::Mutex;
use crate::service::Inner;
use crate::vault::{OPERATION_LIMIT, StoreError};

/// After how long no write is under way any more that has had no answer.
const SETTLED: Duration = OPERATION_LIMIT.saturating_mul(2);

/// The instances whose record may be another one in the store, each with when it was written last.
#[derive(Default)]
pub(crate) struct UnansweredWrites(Mutex<BTreeMap<InstanceId, Instant>>);

/// The comparing that is under way.
#[derive(Default)]
pub(super) struct WritingBack(Option<JoinHandle<()>>);

impl UnansweredWrites {
    /// The store has not answered for a write of this instance.
    pub(crate) fn note(&self, id: InstanceId, now: Instant) {
        self.lock().insert(id, now);
    }

    /// Takes those that are settled.
    fn take(&self, now: Instant) -> Vec<InstanceId> {
        let settled = |_: &InstanceId, at: &mut Instant| now.saturating_duration_since(*at) >= SETTLED;
        self.lock().extract_if(.., settled).map(|(id, _)| id).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Instant>> {
        self.0.lock()
    }
}

impl WritingBack {
    /// Compares those that are settled, beside the renewals.
    pub(super) fn go_on(&mut self, it: &Arc<Inner>) {
        if self.0.as_ref().is_some_and(|under_way| !under_way.is_finished()) {
            return;
        }
        let settled = it.unanswered_writes.take(clock::now());
        self.0 = (!settled.is_empty()).then(|| tokio::spawn(it.clone().write_back(settled)));
    }
}

impl Inner {
    async fn write_back(self: Arc<Self>, ids: Vec<InstanceId>) {
        for id in ids {
            if self.write_back_one(id).await.is_err() {
                self.unanswered_writes.note(id, clock::now());
            }
        }
    }

    async fn write_back_one(self: &Arc<Self>, id: InstanceId) -> Result<(), StoreError> {
        let _guard = self.changing.lock_key(id).await;
        if self.is_leaving() {
            // Another node has taken it over, as the store has it.
            return Ok(());
        }
        let Some(status) = self.is_here(id).await else { return Ok(()) };
        let stored = match self.dependencies.vault.load(id).await {
            Err(StoreError::Malformed) => None,
            stored => stored?,
        };
        // A missing record, or one of another node, is found by the comparison of all.
        let is_other = stored.is_some_and(|stored| {
            stored.owned && stored.fence == status.fence && stored.sealed.as_bytes() != status.sealed.as_bytes()
        });
        if is_other {
            self.restore(id, Loss::Alone).await?;
            tracing::info!(event = "change-taken-back", instance = %id, "the store had a change that was refused because its answer was lost; the record is written again as it was");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn what_was_written_in_vain_is_compared_when_no_write_of_it_is_under_way() {
        let (writes, start) = (UnansweredWrites::default(), Instant::now());
        let id = |number: u128| InstanceId::new(number << 32, ShardTag(1));
        writes.note(id(1), start);
        writes.note(id(2), start);
        writes.note(id(2), start + SETTLED / 2);
        assert!(writes.take(start + SETTLED / 2).is_empty());
        assert_eq!(writes.take(start + SETTLED), [id(1)]);
        assert_eq!(writes.take(start + SETTLED * 2), [id(2)]);
        assert!(writes.take(start + SETTLED * 9).is_empty());
    }
}
