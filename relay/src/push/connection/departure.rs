//! The departure of a push: the moment at which the last byte of its request is handed to the TLS of a connection. And its recall, when its call is over or the
//! push may have to take another connection: a push that has not begun to leave never does, and one that has begun is given [`ANSWERED_WITHIN`] for its answer.
//!
//! A body that was given to `h2` may wait there: for a stream when the service lowers their number, for its window, or for room in the system's buffer. A
//! request whose body has not left was certainly not processed.
//!
//! | the body | can be recalled | `h2` gets |
//! | --- | --- | --- |
//! | waits | yes | the body, from then on |
//! | leaves, or has left | no | the body |
//! | has left in part, and nothing of it is being written | yes: without its end the request is incomplete | the body, once the rest is written |
//! | was recalled | – | blanks in place of the body, should `h2` write it nevertheless; no service takes them for a push |
//!
//! Invariant: the first departure of a call's push is measured, and a call's push that never departs is counted, however its delivery ends. A departure wakes
//! only the tasks that wait for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::sync::Notify;
use tokio::time::{self, timeout_at};

use super::answer::Bearing;
use super::state::Place;
use crate::lock::Mutex;
use crate::metrics::Metrics;
use crate::push::health::Note;

const WAITS: u8 = 0;
const LEAVES: u8 = 1;
const HAS_LEFT: u8 = 2;
const TAKEN_BACK: u8 = 3;
/// Its answer is waited for no more; it may leave yet.
const FORGOTTEN: u8 = 4;
/// A part of it has left; the rest waits, and nothing of it is being written.
const HAS_LEFT_IN_PART: u8 = 5;
/// How long the answer to a push is waited for that was recalled.
pub(crate) const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// The replacement of a body that was taken back.
static BLANKS: [u8; 1_024] = [b' '; 1_024];

/// The departures of one push.
pub struct Departure {
    departures: Arc<Departures>,
    /// Why it was not taken, as far as is known.
    said: Mutex<Option<&'static str>>,
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
    /// Requests that have begun to leave and are not answered.
    unanswered: AtomicU32,
    /// Copies that were lost on the way, taken or not.
    lost: AtomicU32,
    /// Nothing more is to leave, although a request had begun to.
    is_recalled: AtomicBool,
    had_left: AtomicBool,
    /// The push is not over: it may go elsewhere, or later.
    goes_on: AtomicBool,
    /// It goes elsewhere.
    moves: AtomicBool,
    /// For the one that waits for the recall, and then for the answers.
    recalled: Notify,
    /// For all that wait for the recall alone.
    over: Notify,
}

/// The end of a call, for its push; or the news that it may have to go elsewhere.
#[derive(Clone)]
pub struct Recall(Arc<Departures>);

impl fmt::Debug for Recall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recall")
    }
}

impl Recall {
    /// The call is over: from now on no request leaves. Whether one has begun to, the answer to which is waited for.
    pub fn ask(&self) -> bool {
        self.recall(false)
    }

    /// Likewise, but the push is not over: it is judged anew what becomes of it.
    pub fn reconsider(&self) {
        // The end of a call is the last word.
        let is_over = self.0.is_recalled.load(Ordering::Acquire) && !self.0.goes_on.load(Ordering::Acquire);
        if !is_over {
            self.recall(true);
        }
    }

    /// Likewise, for its device is pushed to elsewhere by now.
    pub fn redirect(&self) {
        self.0.moves.store(true, Ordering::Release);
        self.reconsider();
    }

    fn recall(&self, goes_on: bool) -> bool {
        self.0.goes_on.store(goes_on, Ordering::Release);
        let had_left = self.0.unanswered.load(Ordering::Acquire) > 0;
        self.0.had_left.store(had_left, Ordering::Relaxed);
        self.0.is_recalled.store(true, Ordering::Release);
        self.0.recalled.notify_one();
        self.0.over.notify_waiters();
        had_left
    }
}

/// The end of a push that was recalled before its verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// Nothing had left.
    Withdrawn,
    /// What had left was answered, and would have to be tried again.
    Answered,
    /// What had left has no answer.
    Unanswered,
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

    /// The delivery is over. `Some`: nothing of the push has left that is measured, and another one may go in its place.
    pub fn unsent(&self) -> Option<Unsent> {
        let call = self.departures.call.as_ref()?;
        (self.departures.count.fetch_max(1, Ordering::AcqRel) == 0).then(|| Unsent(Some(call.clone())))
    }

    fn new(call: Option<(Instant, Metrics)>) -> Self {
        let (count, latest, changed) = (AtomicU32::new(0), AtomicU64::new(0), Notify::new());
        let (unanswered, is_recalled, had_left) = (AtomicU32::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let (lost, goes_on, moves) = (AtomicU32::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let (began, recalled, over) = (time::Instant::now(), Notify::new(), Notify::new());
        let departures = Arc::new(Departures {
            call,
            began,
            count,
            latest,
            changed,
            unanswered,
            lost,
            is_recalled,
            had_left,
            goes_on,
            moves,
            recalled,
            over,
        });
        Self { departures, said: Mutex::default(), unsure: Mutex::default() }
    }

    /// It was not taken, for this reason: one of the words of `reasons`, or of the service for this device.
    pub(crate) fn say(&self, reason: &'static str) {
        *self.said.lock() = Some(reason);
    }

    /// Its answer tells of trouble with the service.
    pub(in crate::push) fn say_of(&self, bearing: &Bearing) {
        if let Note::Trouble(trouble) = bearing.note {
            self.say(trouble.reason);
        }
    }

    /// Why it was not taken when it was tried last, as far as is known.
    pub(crate) fn said(&self) -> Option<&'static str> {
        *self.said.lock()
    }

    /// A request has left.
    pub(crate) fn note(&self) {
        self.departures.note();
    }

    /// A request is on its way out, with this body. `None`: the push was recalled.
    pub(in crate::push) fn begin(&self, body: Bytes) -> Option<(Body, Passage)> {
        if self.is_recalled() {
            return None;
        }
        let (stage, left) = (AtomicU8::new(WAITS), AtomicUsize::new(0));
        let passage = Arc::new(Passing { departures: Arc::clone(&self.departures), stage, left });
        Some((Body { rest: body, passing: Arc::clone(&passage) }, Passage(passage)))
    }

    /// Recalls it when its call is over, or when it may have to go elsewhere.
    pub fn recall(&self) -> Recall {
        Recall(Arc::clone(&self.departures))
    }

    /// Whether it was recalled: nothing more is to leave.
    pub(crate) fn is_recalled(&self) -> bool {
        self.departures.is_recalled.load(Ordering::Acquire)
    }

    /// Waits until it is recalled.
    pub(super) async fn over(&self) {
        let told = self.departures.over.notified();
        tokio::pin!(told);
        told.as_mut().enable();
        if !self.is_recalled() {
            told.await;
        }
    }

    /// Whether it was recalled to be judged anew.
    pub(crate) fn goes_on(&self) -> bool {
        self.departures.goes_on.load(Ordering::Acquire)
    }

    /// Whether it is to go elsewhere.
    pub(crate) fn moves(&self) -> bool {
        self.goes_on() && self.departures.moves.load(Ordering::Acquire)
    }

    /// A copy was lost on the way, taken or not.
    pub(crate) fn note_lost(&self) {
        self.departures.lost.fetch_add(1, Ordering::AcqRel);
    }

    /// How many were: the service may have taken them.
    pub(crate) fn lost(&self) -> u32 {
        self.departures.lost.load(Ordering::Acquire)
    }

    /// Waits until it is recalled and no answer is to be waited for any more: none is for longer than `within` says, from then on or from the end of its
    /// call. One alone waits.
    pub async fn recalled(&self, within: impl Fn() -> Duration) -> Recalled {
        let it = &self.departures;
        while !self.is_recalled() {
            it.recalled.notified().await;
        }
        let (mut since, mut goes_on) = (time::Instant::now(), self.goes_on());
        let mut had_left = it.had_left.load(Ordering::Relaxed);
        while it.unanswered.load(Ordering::Acquire) > 0 {
            had_left = true;
            if self.goes_on() != goes_on {
                (since, goes_on) = (time::Instant::now(), self.goes_on());
            }
            if timeout_at(since + within(), it.recalled.notified()).await.is_err() {
                it.lost.fetch_add(it.unanswered.load(Ordering::Acquire), Ordering::AcqRel);
                return Recalled::Unanswered;
            }
        }
        if had_left { Recalled::Answered } else { Recalled::Withdrawn }
    }

    /// Holds the place of a request that may arrive yet, as long as anybody waits for what comes of the push.
    pub(super) fn hold(&self, place: Place) {
        self.unsure.lock().push(place);
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
        drop(self.unsent());
    }
}

/// A call's push that has not left until the end of its delivery; counted as one that never does, unless another one goes in its place.
pub struct Unsent(Option<(Instant, Metrics)>);

impl Unsent {
    /// The departures of the push in its place.
    pub fn departure(mut self) -> Departure {
        Departure::new(self.0.take())
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        if let Some((_, metrics)) = &self.0 {
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
    /// So many bytes of it have left.
    left: AtomicUsize,
}

impl Passing {
    /// It begins to leave, if it waits: it may arrive from now on.
    fn leaves(&self) {
        match self.stage.load(Ordering::Acquire) {
            WAITS => {}
            HAS_LEFT_IN_PART => {
                // An error: it was taken back, or is forgotten.
                let _ = self.stage.compare_exchange(HAS_LEFT_IN_PART, LEAVES, Ordering::AcqRel, Ordering::Acquire);
                return;
            }
            _ => return,
        }
        // Before it is seen: an answer is taken off when it is waited for no more.
        self.departures.unanswered.fetch_add(1, Ordering::AcqRel);
        if self.stage.compare_exchange(WAITS, LEAVES, Ordering::AcqRel, Ordering::Acquire).is_err() {
            self.departures.unanswered.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// A part of it has left.
    fn has_left_in_part(&self, count: usize) {
        self.left.fetch_add(count, Ordering::Relaxed);
        // An error: it is forgotten, or was taken back.
        let _ = self.stage.compare_exchange(LEAVES, HAS_LEFT_IN_PART, Ordering::AcqRel, Ordering::Acquire);
    }

    /// All of it has left.
    fn has_left(&self) {
        self.leaves();
        if self.stage.compare_exchange(LEAVES, HAS_LEFT, Ordering::AcqRel, Ordering::Acquire) != Err(TAKEN_BACK) {
            self.departures.note();
        }
    }
}

/// The sender's handle on a request; when it is dropped the answer is not waited for any more.
pub(in crate::push) struct Passage(Arc<Passing>);

impl Passage {
    /// Whether all of it has left.
    pub(super) fn is_over(&self) -> bool {
        self.0.stage.load(Ordering::Acquire) == HAS_LEFT
    }

    /// Takes the request back, unless its body has begun to leave: then nothing of that ever leaves.
    pub(super) fn take_back(&self) -> bool {
        self.0.stage.compare_exchange(WAITS, TAKEN_BACK, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Likewise where a part of it has left, and nothing is being written: the rest never leaves.
    pub(super) fn take_rest_back(&self) -> bool {
        let Passing { departures, stage, .. } = &*self.0;
        let is = stage.compare_exchange(HAS_LEFT_IN_PART, TAKEN_BACK, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if is {
            departures.unanswered.fetch_sub(1, Ordering::AcqRel);
            if departures.is_recalled.load(Ordering::Acquire) {
                departures.recalled.notify_one();
            }
        }
        is
    }

    /// How many bytes have left of a body that is on its way out; `None`: all, or none ever will.
    pub(super) fn progress(&self) -> Option<usize> {
        match self.0.stage.load(Ordering::Acquire) {
            WAITS | LEAVES | HAS_LEFT_IN_PART => Some(self.0.left.load(Ordering::Relaxed)),
            _ => None,
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        let Passing { departures, stage, .. } = &*self.0;
        let is_recalled = || departures.is_recalled.load(Ordering::Acquire);
        let left = stage.fetch_update(Ordering::AcqRel, Ordering::Acquire, |stage| match stage {
            TAKEN_BACK => None,
            WAITS if is_recalled() => Some(TAKEN_BACK),
            _ => Some(FORGOTTEN),
        });
        if matches!(left, Ok(LEAVES | HAS_LEFT | HAS_LEFT_IN_PART)) {
            departures.unanswered.fetch_sub(1, Ordering::AcqRel);
            if is_recalled() {
                departures.recalled.notify_one();
            }
        }
    }
}

/// The body of a request, which tells when its last byte leaves. One without a byte never does.
pub(in crate::push) struct Body {
    rest: Bytes,
    passing: Arc<Passing>,
}

impl Buf for Body {
    fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn chunk(&self) -> &[u8] {
        let Passing { departures, stage, .. } = &*self.passing;
        if departures.is_recalled.load(Ordering::Acquire) {
            // An error: it leaves already, the rest of it from now on, or was taken back.
            if stage.compare_exchange(WAITS, TAKEN_BACK, Ordering::AcqRel, Ordering::Acquire).is_err() {
                self.passing.leaves();
            }
        } else {
            self.passing.leaves();
        }
        match stage.load(Ordering::Acquire) {
            TAKEN_BACK => &BLANKS[..self.rest.len().min(BLANKS.len())],
            _ => &self.rest,
        }
    }

    fn advance(&mut self, count: usize) {
        self.rest.advance(count);
        match count {
            0 => {}
            _ if self.rest.is_empty() => self.passing.has_left(),
            _ => self.passing.has_left_in_part(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_has_left_with_the_last_byte_of_its_body() {
        let departure = Departure::unmeasured();
        let (mut body, passage) = departure.begin(Bytes::from_static(b"whole")).expect("it goes on");
        body.advance(4);
        assert!(!passage.is_over() && departure.latest_beyond(0).is_none());
        body.advance(0);
        body.advance(1);
        assert!(passage.is_over() && departure.latest_beyond(0).is_some());
        departure.beyond(0).await;
        let (_, passage) = departure.begin(Bytes::from_static(b"another")).expect("it goes on");
        assert!(!passage.is_over(), "each for itself");
        assert_eq!(departure.count(), 1);
    }

    #[test]
    fn nothing_of_a_body_leaves_that_was_taken_back_and_one_that_leaves_is_not() {
        let departure = Departure::unmeasured();
        let whole = Bytes::from(vec![b'x'; 3_000]);
        let (mut body, passage) = departure.begin(whole.clone()).expect("it goes on");
        assert!(passage.take_back() && !passage.take_back());
        drop(passage);
        let written = body.copy_to_bytes(3_000);
        assert!(written.iter().all(|byte| *byte == b' '), "the frame has its length");
        assert_eq!(departure.count(), 0);
        let (mut body, passage) = departure.begin(whole.clone()).expect("it goes on");
        assert_eq!(body.chunk().len(), 3_000);
        assert!(!passage.take_back(), "some of it may be written");
        assert_eq!(body.copy_to_bytes(3_000), whole);
        assert!(passage.is_over() && departure.count() == 1);
    }

    #[test]
    fn the_rest_of_a_body_is_taken_back_while_nothing_of_it_is_written_whether_it_was_recalled_or_not() {
        for is_recalled in [false, true] {
            let departure = Departure::unmeasured();
            let (mut body, passage) = departure.begin(Bytes::from_static(b"whole")).expect("it goes on");
            body.chunk();
            body.advance(2);
            if is_recalled {
                assert!(departure.recall().ask(), "it has begun to leave");
            }
            assert_eq!(body.chunk(), b"ole");
            assert!(!passage.take_rest_back(), "it is being written: recalled: {is_recalled}");
            body.advance(1);
            assert!(passage.take_rest_back(), "recalled: {is_recalled}");
            assert!(body.copy_to_bytes(2).iter().all(|byte| *byte == b' '));
            assert_eq!(departure.count(), 0);
        }
    }

    #[test]
    fn a_calls_push_is_measured_or_counted_as_unsent_once_however_many_went_in_its_place() {
        let metrics = Metrics::new();
        let counts = || {
            let told = metrics.render();
            ["sipwake_call_pushes_unsent_total", "sipwake_invite_to_push_seconds_count"].map(|name| {
                told.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u32>().ok()).unwrap_or_default()
            })
        };
        let next = |departure: Departure| departure.unsent().map(Unsent::departure).expect("nothing has left");
        let first = || Departure::of_call(Instant::now(), &metrics);
        drop(next(first()));
        assert_eq!(counts(), [1, 0]);
        let second = next(next(first()));
        second.note();
        assert!(second.unsent().is_none());
        drop(second);
        assert_eq!(counts(), [1, 1]);
        drop(first().unsent());
        assert_eq!(counts(), [2, 1]);
        assert!(Departure::unmeasured().unsent().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_that_is_recalled_waits_for_the_answer_to_what_has_left_and_nothing_else_leaves() {
        let whole = || Bytes::from_static(b"whole");
        let departure = Departure::unmeasured();
        let (mut waits, _passage) = departure.begin(whole()).expect("it goes on");
        assert!(!departure.recall().ask() && departure.begin(whole()).is_none());
        assert_eq!(departure.recalled(|| ANSWERED_WITHIN).await, Recalled::Withdrawn);
        assert!(waits.copy_to_bytes(5).iter().all(|byte| *byte == b' '), "what has not left never does");
        for (is_answered, recalled) in [(true, Recalled::Answered), (false, Recalled::Unanswered)] {
            let departure = Departure::unmeasured();
            let (mut body, passage) = departure.begin(whole()).expect("it goes on");
            body.advance(5);
            assert!(departure.recall().ask());
            let passage = (!is_answered).then_some(passage);
            let began = time::Instant::now();
            assert_eq!(departure.recalled(|| ANSWERED_WITHIN).await, recalled);
            assert_eq!((passage.is_some(), began.elapsed() >= ANSWERED_WITHIN), (!is_answered, !is_answered));
        }
        // It may arrive as soon as it begins to leave.
        let departure = Departure::unmeasured();
        let (body, passage) = departure.begin(whole()).expect("it goes on");
        assert_eq!(body.chunk(), whole());
        assert!(departure.recall().ask() && !passage.is_over());
        assert_eq!(departure.recalled(|| ANSWERED_WITHIN).await, Recalled::Unanswered);
        assert_eq!((departure.lost(), body.chunk()), (1, &*whole()));
        drop(passage);
        // Requests that were answered before the end are not waited for.
        let departure = Departure::unmeasured();
        let (mut body, passage) = departure.begin(whole()).expect("it goes on");
        body.advance(5);
        drop(passage);
        assert!(!departure.recall().ask());
        assert_eq!(departure.recalled(|| ANSWERED_WITHIN).await, Recalled::Withdrawn);
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_that_is_to_be_judged_anew_leaves_no_more_and_the_end_of_its_call_is_the_last_word() {
        let departure = Departure::unmeasured();
        let (mut body, passage) = departure.begin(Bytes::from_static(b"whole")).expect("it goes on");
        body.advance(5);
        departure.note_lost();
        let recall = departure.recall();
        recall.reconsider();
        assert!(departure.goes_on() && departure.begin(Bytes::from_static(b"whole")).is_none());
        let began = time::Instant::now();
        assert_eq!(departure.recalled(|| ANSWERED_WITHIN / 2).await, Recalled::Unanswered);
        drop(passage);
        assert_eq!((began.elapsed(), departure.lost()), (ANSWERED_WITHIN / 2, 2));
        recall.ask();
        recall.redirect();
        assert!(!departure.goes_on() && !departure.moves());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_waited_for_longer_where_its_push_goes_nowhere_else_or_its_call_has_ended() {
        let within = |departure: &Departure| if departure.moves() { ANSWERED_WITHIN / 2 } else { ANSWERED_WITHIN };
        let second = Duration::from_secs(1);
        // What happens a second after the recall, and how long that lasts.
        type Act = fn(&Recall);
        let cases: [(Act, Act, Duration); 4] = [
            (Recall::reconsider, Recall::reconsider, ANSWERED_WITHIN),
            (Recall::redirect, Recall::reconsider, ANSWERED_WITHIN / 2),
            (Recall::reconsider, Recall::redirect, ANSWERED_WITHIN / 2),
            (Recall::redirect, |recall| _ = recall.ask(), ANSWERED_WITHIN + second),
        ];
        for (number, (first, then, lasts)) in cases.into_iter().enumerate() {
            let departure = Departure::unmeasured();
            let (mut body, _passage) = departure.begin(Bytes::from_static(b"whole")).expect("it goes on");
            body.advance(5);
            let (recall, began) = (departure.recall(), time::Instant::now());
            first(&recall);
            let later = async {
                time::sleep(second).await;
                then(&recall);
            };
            let (recalled, ()) = tokio::join!(departure.recalled(|| within(&departure)), later);
            assert_eq!((recalled, began.elapsed()), (Recalled::Unanswered, lasts), "{number}");
        }
    }
}
