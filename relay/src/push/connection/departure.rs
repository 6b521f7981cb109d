//! When a push leaves: at the moment at which the last byte of its request is handed to the TLS of a connection.
//!
//! A body given to `h2` may wait in it: for a stream, when the service lowers how many it allows, for its window, or for room in the
//! system's buffer. A request whose body has not left was certainly not processed.
//!
//! | the body | may be taken back | `h2` gets |
//! | --- | --- | --- |
//! | waits | yes | itself, from then on |
//! | leaves, or has left | no | itself |
//! | was taken back | it is | blanks, which no service takes for a push, where `h2` writes it nevertheless |
//!
//! Invariant: the first departure of a call's push is measured, and a call's push that never departs is counted, whichever
//! way its delivery ends. A departure wakes only the tasks that wait for it.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;
use tokio::time;

use super::state::Place;
use crate::metrics::Metrics;

const WAITS: u8 = 0;
const LEAVES: u8 = 1;
const HAS_LEFT: u8 = 2;
const TAKEN_BACK: u8 = 3;
/// The replacement of a body that was taken back.
static BLANKS: [u8; 1_024] = [b' '; 1_024];

/// The departures of one push.
pub struct Departure {
    departures: Arc<Departures>,
    /// The places of requests of which nobody knows whether they arrive.
    unsure: Mutex<Vec<Place>>,
}

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
        let departures = Arc::new(Departures { call, began: time::Instant::now(), count, latest, changed });
        Self { departures, unsure: Mutex::default() }
    }

    /// A request has left.
    pub(crate) fn note(&self) {
        self.departures.note();
    }

    /// A request is on its way out, with this body.
    pub(super) fn begin(&self, body: Bytes) -> (Body, Passage) {
        let passage = Arc::new(Passing { departures: Arc::clone(&self.departures), stage: AtomicU8::new(WAITS) });
        (Body { rest: body, passing: Arc::clone(&passage) }, Passage(passage))
    }

    /// Holds the place of a request that may arrive yet, as long as anybody waits for what comes of the push.
    pub(super) fn hold(&self, place: Place) {
        self.unsure.lock().unwrap_or_else(PoisonError::into_inner).push(place);
    }

    /// How many requests have left.
    pub(crate) fn count(&self) -> u32 {
        self.departures.count.load(Ordering::Acquire)
    }

    /// When the latest has left, if more than `known` have.
    pub(crate) fn latest_beyond(&self, known: u32) -> Option<time::Instant> {
        (self.count() > known)
            .then(|| self.departures.began + Duration::from_micros(self.departures.latest.load(Ordering::Relaxed)))
    }

    /// Waits until more than `known` have left.
    pub(crate) async fn beyond(&self, known: u32) {
        while self.count() <= known {
            self.departures.changed.notified().await;
        }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        // A departure after the end of its delivery is not measured.
        if let Some((_, metrics)) = &self.departures.call
            && self.departures.count.fetch_max(1, Ordering::AcqRel) == 0
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
    stage: AtomicU8,
}

/// The sender's handle on a request.
pub(super) struct Passage(Arc<Passing>);

impl Passage {
    /// Whether all of it has left.
    pub(super) fn is_over(&self) -> bool {
        self.0.stage.load(Ordering::Acquire) == HAS_LEFT
    }

    /// Takes the request back, unless its body has begun to leave: then nothing of that ever leaves.
    pub(super) fn take_back(&self) -> bool {
        self.0.stage.compare_exchange(WAITS, TAKEN_BACK, Ordering::AcqRel, Ordering::Acquire).is_ok()
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
        match self.passing.stage.compare_exchange(WAITS, LEAVES, Ordering::AcqRel, Ordering::Acquire) {
            Err(TAKEN_BACK) => &BLANKS[..self.rest.len().min(BLANKS.len())],
            _ => &self.rest,
        }
    }

    fn advance(&mut self, count: usize) {
        self.rest.advance(count);
        if self.rest.is_empty() && count > 0 && self.passing.stage.load(Ordering::Acquire) != TAKEN_BACK {
            self.passing.stage.store(HAS_LEFT, Ordering::Release);
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

    #[test]
    fn nothing_of_a_body_leaves_that_was_taken_back_and_one_that_leaves_is_not() {
        let departure = Departure::unmeasured();
        let whole = Bytes::from(vec![b'x'; 3_000]);
        let (mut body, passage) = departure.begin(whole.clone());
        assert!(passage.take_back() && !passage.take_back());
        let written = body.copy_to_bytes(3_000);
        assert!(written.iter().all(|byte| *byte == b' '), "the frame has its length");
        assert!(!passage.is_over() && departure.count() == 0);
        let (mut body, passage) = departure.begin(whole.clone());
        assert_eq!(body.chunk().len(), 3_000);
        assert!(!passage.take_back(), "some of it may be written");
        assert_eq!(body.copy_to_bytes(3_000), whole);
        assert!(passage.is_over() && departure.count() == 1);
    }
}
