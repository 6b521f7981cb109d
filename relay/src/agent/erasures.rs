//! What the store still has to erase.
//!
//! Invariant: what is handed over is erased as soon as the store answers, however long that takes; the record's own TTL
//! is the backstop for a process that ends before. The number of waiting erasures is bounded by the instances there were.

use std::collections::VecDeque;
use std::time::Duration;

use sip::id::InstanceId;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::metrics::Metrics;
use crate::metrics::labels::StoreOperation;
use crate::vault::{Lookup, StoreError, Vault};

/// The pause after the store did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes erasures over; cheap to clone.
#[derive(Clone)]
pub(crate) struct Erasures(mpsc::UnboundedSender<(InstanceId, Lookup)>);

impl Erasures {
    /// Starts the task that erases; it ends with the last clone.
    pub(crate) fn start(vault: Vault, metrics: Metrics) -> Self {
        let (sender, mut waiting) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut left: VecDeque<(InstanceId, Lookup)> = VecDeque::new();
            loop {
                if left.is_empty() {
                    let Some(next) = waiting.recv().await else { return };
                    left.push_back(next);
                }
                while let Ok(next) = waiting.try_recv() {
                    left.push_back(next);
                }
                let Some(&(id, lookup)) = left.front() else { continue };
                if erase(&vault, &metrics, id, &lookup).await {
                    left.pop_front();
                } else {
                    sleep(PAUSE).await;
                }
            }
        });
        Self(sender)
    }

    /// Erases this instance, in its turn.
    pub(crate) fn later(&self, id: InstanceId, lookup: Lookup) {
        // An error means that the runtime ends; the TTL is the backstop.
        let _ = self.0.send((id, lookup));
    }
}

/// Asks the store once; `false` when it is away.
pub(crate) async fn erase(vault: &Vault, metrics: &Metrics, id: InstanceId, lookup: &Lookup) -> bool {
    let began = std::time::Instant::now();
    match vault.erase(id, lookup).await {
        Ok(_) => {
            metrics.store_answered(began.elapsed());
            true
        }
        Err(StoreError::Away(_)) => {
            metrics.store_error(StoreOperation::Erase);
            false
        }
        Err(error) => {
            // Nothing that a repetition would mend.
            tracing::error!(instance = %id, %error, "the store did not erase a record");
            metrics.store_error(StoreOperation::Erase);
            true
        }
    }
}
