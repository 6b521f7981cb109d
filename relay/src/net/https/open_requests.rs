//! The state of an HTTPS connection: the requests that are being served, each until the last byte of its answer was written.
//!
//! Over HTTP/2 an answer waits for its peer to make room (RFC 9113 §5.2), after the handler is done and while nothing moves. So the data
//! written holds its request: the request is over when the last of it was dropped, which is when it was written, or is wanted no more.
//!
//! Invariant: an end that an answer asks for is told when that answer was written, and one that a request asks for which was given up, at once. A
//! connection is being served while the relay owes its peer something: while a body is awaited, or an answer lies unread, it soon gives way to others, and
//! no further request on it changes that.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::{Duration, Instant};

use crate::lock::Mutex;
use crate::net::slots::{Stranger, Turn};

/// How long a connection is left to a handler that has all that it needs: most are done within milliseconds, an enabling at a silent SIP server in 32 s.
const HANDLER_TURN: Duration = Duration::from_secs(35);
/// How long it is left to a peer that is to send its body, or to take its answer: a phone on a poor network needs some seconds.
const PEER_TURN: Duration = Duration::from_secs(5);

/// The state of a connection.
#[derive(Debug)]
pub(super) struct Life {
    /// Told when the connection is to end.
    end: Notify,
    /// Its slot: an idle connection gives way before one that is being served.
    stranger: Stranger,
    requests: Mutex<Requests>,
}

#[derive(Debug)]
struct Requests {
    /// How many have begun.
    begun: u64,
    /// When the last one was over, or the connection began.
    ended: Instant,
    /// The requests that are not over, by their number.
    open: BTreeMap<u64, Open>,
}

/// A request that is not over.
#[derive(Debug)]
struct Open {
    turn: Turn,
    /// When its answer began.
    answered: Option<Instant>,
}

impl Life {
    pub(crate) fn new(stranger: Stranger) -> Arc<Self> {
        let requests = Requests { begun: 0, ended: Instant::now(), open: BTreeMap::new() };
        Arc::new(Self { end: Notify::new(), stranger, requests: Mutex::new(requests) })
    }

    /// A request begins, with a body or without.
    pub(crate) fn begin(self: &Arc<Self>, has_body: bool) -> Served {
        let mut requests = self.requests();
        requests.begun += 1;
        let number = requests.begun;
        let turn = Turn::of(if has_body { PEER_TURN } else { HANDLER_TURN });
        requests.open.insert(number, Open { turn, answered: None });
        self.give_turn(&requests);
        drop(requests);
        Served { life: self.clone(), number, ends: has_body }
    }

    /// Waits until the connection is to end.
    pub(super) async fn is_to_end(&self) {
        self.end.notified().await;
    }

    /// Its slot among its listener's.
    pub(crate) fn stranger(&self) -> &Stranger {
        &self.stranger
    }

    /// Whether requests are being served, and of all the answer began this long ago.
    pub(super) fn waits_for_its_peer(&self, limit: Duration) -> bool {
        let requests = self.requests();
        let is_older = |open: &Open| open.answered.is_some_and(|began| began.elapsed() >= limit);
        !requests.open.is_empty() && requests.open.values().all(is_older)
    }

    /// How long none has been served; `None` while one is.
    pub(super) fn quiet_for(&self) -> Option<Duration> {
        let requests = self.requests();
        requests.open.is_empty().then(|| requests.ended.elapsed())
    }

    /// How many requests there were; `None` while one is being served.
    pub(super) fn idle_after(&self) -> Option<u64> {
        let requests = self.requests();
        requests.open.is_empty().then_some(requests.begun)
    }

    /// Whether no request is being served and none began since the last look.
    pub(super) fn is_quiet_since(&self, last: &mut u64) -> bool {
        let requests = self.requests();
        std::mem::replace(last, requests.begun) == requests.begun && requests.open.is_empty()
    }

    /// Whether an answer began longer ago than this, and is not written yet.
    pub(super) fn has_an_answer_older_than(&self, limit: Duration) -> bool {
        self.requests().open.values().filter_map(|open| open.answered).any(|began| began.elapsed() > limit)
    }

    /// The body of a request has come whole: it is the handler's turn.
    fn has_whole(&self, number: u64) {
        let mut requests = self.requests();
        if let Some(open) = requests.open.get_mut(&number).filter(|open| open.answered.is_none()) {
            open.turn = Turn::of(HANDLER_TURN);
            self.give_turn(&requests);
        }
    }

    /// The connection has the turn of the request that has waited for longest; it has none without requests.
    fn give_turn(&self, requests: &Requests) {
        let first = requests.open.values().map(|open| open.turn).reduce(Turn::first);
        self.stranger.has_turn(first.unwrap_or_else(|| Turn::of(Duration::ZERO)));
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock()
    }
}

/// A request being served; dropped when it is over.
#[derive(Debug)]
pub(super) struct Served {
    life: Arc<Life>,
    number: u64,
    /// Whether the connection ends with it. One that has a body, and is given up before its answer, ends it: what came of the body lies in the
    /// connection's buffers.
    ends: bool,
}

impl Served {
    /// The call that reports that the request's body has come whole.
    pub(super) fn whole(&self) -> impl FnOnce() + Send + 'static {
        let (life, number) = (self.life.clone(), self.number);
        move || life.has_whole(number)
    }

    /// Answers the request with this body, and `ends` its connection.
    pub(crate) fn answered(mut self, body: Body, ends: bool) -> Answer {
        self.ends = ends;
        let mut requests = self.life.requests();
        if let Some(open) = requests.open.get_mut(&self.number) {
            *open = Open { turn: Turn::of(PEER_TURN), answered: Some(Instant::now()) };
            self.life.give_turn(&requests);
        }
        drop(requests);
        Answer { body, served: Arc::new(self) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let mut requests = self.life.requests();
        requests.open.remove(&self.number);
        requests.ended = Instant::now();
        self.life.give_turn(&requests);
        drop(requests);
        if self.ends {
            self.life.end.notify_one();
        }
    }
}

/// The body of an answer, which holds its request until all of it was written.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Body,
    served: Arc<Served>,
}

/// Bytes of an answer, which hold its request until they were written.
struct Part {
    bytes: Bytes,
    _served: Arc<Served>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let holds = |bytes| Bytes::from_owner(Part { bytes, _served: self.served.clone() });
        polled.map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(holds))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http_body_util::BodyExt as _;

    use super::*;

    fn life() -> Arc<Life> {
        Life::new(Stranger::of_a_test())
    }

    fn is_to_end(life: &Life) -> bool {
        life.is_to_end().now_or_never().is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_served_until_the_last_byte_of_its_answer_was_written() {
        let (life, mut begun) = (life(), 0);
        let mut answer = life.begin(true).answered(Body::from("whole"), true);
        let bytes = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(answer);
        assert!(
            life.quiet_for().is_none() && !life.is_quiet_since(&mut begun) && !is_to_end(&life),
            "it waits to be written"
        );
        let limit = Duration::from_secs(60);
        tokio::time::advance(limit).await;
        assert!(!life.has_an_answer_older_than(limit));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(life.has_an_answer_older_than(limit));
        let rest = bytes.slice(3..);
        drop(bytes);
        assert!(life.quiet_for().is_none(), "a part of it waits");
        drop(rest);
        assert!(life.quiet_for().is_some() && life.is_quiet_since(&mut begun) && is_to_end(&life));
        assert!(!life.has_an_answer_older_than(limit));
    }

    #[test]
    fn a_connection_ends_with_what_asks_for_it_and_with_a_body_that_is_given_up() {
        let life = life();
        drop(life.begin(false));
        drop(life.begin(true).answered(Body::empty(), false));
        assert!(!is_to_end(&life));
        drop(life.begin(true));
        assert!(is_to_end(&life));
        drop(life.begin(false).answered(Body::empty(), true));
        assert!(is_to_end(&life) && life.quiet_for().is_some());
    }
}
