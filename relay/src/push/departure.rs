//! When a push leaves: at the moment at which its request is handed to a connection that may carry it.
//!
//! Invariant: the first departure of a call's push is measured, and a call's push that never departs is counted, whichever
//! way its delivery ends.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

use crate::metrics::Metrics;

/// The departures of one push.
pub struct Departure<'a> {
    /// When the INVITE came, for the push of a call; where that is counted.
    call: Option<(Instant, &'a Metrics)>,
    count: AtomicU32,
    changed: Notify,
}

impl<'a> Departure<'a> {
    /// Of a push that nobody measures.
    pub fn unmeasured() -> Self {
        Self::new(None)
    }

    /// Of the push of a call whose INVITE came at `arrived`.
    pub fn of_call(arrived: Instant, metrics: &'a Metrics) -> Self {
        Self::new(Some((arrived, metrics)))
    }

    fn new(call: Option<(Instant, &'a Metrics)>) -> Self {
        Self { call, count: AtomicU32::new(0), changed: Notify::new() }
    }

    /// A request has left.
    pub(super) fn note(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) == 0
            && let Some((arrived, metrics)) = self.call
        {
            metrics.invite_to_push(arrived.elapsed());
        }
        self.changed.notify_one();
    }

    /// How many requests have left.
    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until more than `known` have left.
    pub(super) async fn beyond(&self, known: u32) {
        while self.count() <= known {
            self.changed.notified().await;
        }
    }
}

impl Drop for Departure<'_> {
    fn drop(&mut self) {
        if let (Some((_, metrics)), 0) = (self.call, self.count()) {
            metrics.call_push_unsent();
        }
    }
}
