//! What the store still has to erase.
//!
//! Invariant: what is handed over is erased as soon as the store answers, however long that takes; a wipe's tombstone has the
//! next run go on with it, and the record's own TTL is the backstop. The number of waiting erasures is bounded by the
//! instances there were. Its tombstone says that a record is erased when the store has said so, and not before.

use std::collections::VecDeque;
use std::time::Duration;

use sip::id::InstanceId;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::metrics::Metrics;
use crate::metrics::labels::StoreOperation;
use crate::vault::{Lookup, StoreError, Vault};

/// The pause after the store did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// An erasure that waits: the instance, and its lookup where that is known.
type Waiting = (InstanceId, Option<Lookup>);

/// Takes erasures over; cheap to clone.
#[derive(Clone)]
pub(crate) struct Erasures {
    orders: mpsc::UnboundedSender<Waiting>,
    /// How many wait.
    count: watch::Sender<usize>,
}

impl Erasures {
    /// Starts the task that erases, with what an earlier run has left; it ends with the last clone.
    pub(crate) fn start(vault: Vault, metrics: Metrics) -> Self {
        let (orders, waiting) = mpsc::unbounded_channel();
        let it = Self { orders, count: watch::Sender::new(0) };
        let left = vault.tombstones().pending();
        if !left.is_empty() {
            tracing::info!(event = "wipes-resumed", wipes = left.len(), "wipes of an earlier run are gone on with");
        }
        for (id, lookup) in left {
            it.later(id, lookup);
        }
        tokio::spawn(erase_all(waiting, it.count.clone(), vault, metrics));
        it
    }

    /// Erases this instance, in its turn.
    pub(crate) fn later(&self, id: InstanceId, lookup: Option<Lookup>) {
        self.count.send_modify(|count| *count += 1);
        // An error means that the runtime ends; tombstone and TTL are the backstop.
        let _ = self.orders.send((id, lookup));
    }

    /// Waits until nothing waits any more, at most `limit`; how many are left.
    pub(crate) async fn flush(&self, limit: Duration) -> usize {
        let mut count = self.count.subscribe();
        // Neither error says more than the number that is left.
        let _ = timeout(limit, count.wait_for(|count| *count == 0)).await;
        *self.count.borrow()
    }
}

async fn erase_all(
    mut orders: mpsc::UnboundedReceiver<Waiting>,
    count: watch::Sender<usize>,
    vault: Vault,
    metrics: Metrics,
) {
    let mut left: VecDeque<Waiting> = VecDeque::new();
    loop {
        if left.is_empty() {
            let Some(next) = orders.recv().await else { return };
            left.push_back(next);
        }
        while let Ok(next) = orders.try_recv() {
            left.push_back(next);
        }
        let Some((id, lookup)) = left.pop_front() else { continue };
        if erase(&vault, &metrics, id, lookup).await {
            count.send_modify(|count| *count -= 1);
        } else {
            // One that the store does not understand must not keep the others waiting.
            left.push_back((id, lookup));
            sleep(PAUSE).await;
        }
    }
}

/// Asks the store once; `false` when it did not say that nothing is left.
pub(crate) async fn erase(vault: &Vault, metrics: &Metrics, id: InstanceId, lookup: Option<Lookup>) -> bool {
    let began = clock::now();
    match vault.erase_all_of(id, lookup).await {
        Ok(_) => {
            metrics.store_answered(began.elapsed());
            vault.tombstones().note_erased(id);
            true
        }
        Err(error) => {
            metrics.store_error(StoreOperation::Erase);
            if !matches!(error, StoreError::Away(_)) {
                tracing::error!(event = "erasure-refused", instance = %id, %error, "the store did not erase a record; it is asked again");
            }
            false
        }
    }
}
