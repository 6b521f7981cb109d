//! When a push leaves: at the moment at which the last byte of its request is handed to the TLS of a connection.
//!
//! What `h2` was given may wait in it: for a stream, when the service lowers how many it allows, or for its window. A request whose body
//! has not left was certainly not processed.
//!
//! Invariant: the first departure of a call's push is measured, and a call's push that never departs is counted, whichever
//! way its delivery ends. Nobody is woken for a departure who does not wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;
use tokio::time;

use crate::metrics::Metrics;

/// The departures of one push.
pub struct Departure(Arc<Departures>);

struct Departures {
    /// When the INVITE came, for the push of a call; where that is counted.
    call: Option<(Instant, Metrics)>,
    began: time::Instant,
    count: AtomicU32,
    /// When the latest left, in microseconds since `began`.
    latest: AtomicU64,
    changed: Notify,
}

impl Departure {
    /// Of a push that nobody measures.
    pub fn unmeasured() -> Self {
        Self::new(None)
    }

    /// Of the push of a call whose INVITE came at `arrived`.
    pub fn of_call(arrived: Instant, metrics: &Metrics) -> Self {
        Self::new(Some((arrived, metrics.clone())))
    }

    fn new(call: Option<(Instant, Metrics)>) -> Self {
        let (count, latest, changed) = (AtomicU32::new(0), AtomicU64::new(0), Notify::new());
        Self(Arc::new(Departures { call, began: time::Instant::now(), count, latest, changed }))
    }

    /// A request has left.
    pub(super) fn note(&self) {
        self.0.note();
    }

    /// A request is on its way out, with this body.
    pub(super) fn begin(&self, body: Bytes) -> (Body, Passage) {
        let passage = Arc::new(Passing { departures: Arc::clone(&self.0), is_over: AtomicBool::new(false) });
        (Body { rest: body, passing: Arc::clone(&passage) }, Passage(passage))
    }

    /// How many requests have left.
    pub(super) fn count(&self) -> u32 {
        self.0.count.load(Ordering::Acquire)
    }

    /// When the latest has left, if more than `known` have.
    pub(super) fn latest_beyond(&self, known: u32) -> Option<time::Instant> {
        (self.count() > known).then(|| self.0.began + Duration::from_micros(self.0.latest.load(Ordering::Relaxed)))
    }

    /// Waits until more than `known` have left.
    pub(super) async fn beyond(&self, known: u32) {
        while self.count() <= known {
            self.0.changed.notified().await;
        }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        // One that leaves after its delivery has ended is not measured.
        if let Some((_, metrics)) = &self.0.call
            && self.0.count.fetch_max(1, Ordering::AcqRel) == 0
        {
            metrics.call_push_unsent();
        }
    }
}

impl Departures {
    fn note(&self) {
        let at = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latest.store(at, Ordering::Relaxed);
        if self.count.fetch_add(1, Ordering::AcqRel) == 0
            && let Some((arrived, metrics)) = &self.call
        {
            metrics.invite_to_push(arrived.elapsed());
        }
        self.changed.notify_one();
    }
}

/// One request on its way out.
struct Passing {
    departures: Arc<Departures>,
    is_over: AtomicBool,
}

/// What the sender keeps of a request.
pub(super) struct Passage(Arc<Passing>);

impl Passage {
    /// Whether all of it has left.
    pub(super) fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Acquire)
    }
}

/// The body of a request, which tells when its last byte leaves. One without a byte never does.
pub(super) struct Body {
    rest: Bytes,
    passing: Arc<Passing>,
}

impl Buf for Body {
    fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.rest
    }

    fn advance(&mut self, count: usize) {
        self.rest.advance(count);
        if self.rest.is_empty() && count > 0 {
            self.passing.is_over.store(true, Ordering::Release);
            self.passing.departures.note();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_has_left_with_the_last_byte_of_its_body() {
        let departure = Departure::unmeasured();
        let (mut body, passage) = departure.begin(Bytes::from_static(b"whole"));
        body.advance(4);
        assert!(!passage.is_over() && departure.latest_beyond(0).is_none());
        body.advance(0);
        body.advance(1);
        assert!(passage.is_over() && departure.latest_beyond(0).is_some());
        departure.beyond(0).await;
        let (_, passage) = departure.begin(Bytes::from_static(b"another"));
        assert!(!passage.is_over(), "each for itself");
        assert_eq!(departure.count(), 1);
    }
}
