//! How long a request waits for its answer, and what a long wait says about its connection (its *line*).
//!
//! Invariant: a request that waits for longer than [`ASK_AFTER`], or gives up before, causes a PING on its line. A request that waits for longer stays counted
//! as unanswered, even after it gives up.

use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::departure::{Departure, Passage};
use super::request::Request;
use super::state::{ASK_AFTER, Line};
use super::urgency::Urgency;

/// How long nothing more may leave of a body of which a part has.
const STUCK_AFTER: Duration = Duration::from_secs(2);
/// How long what is no call may wait until it leaves, in one try.
const LEAVES_WITHIN: Duration = Duration::from_secs(10);
/// How long its answer is waited for then: services ask for so much patience, and what is not urgent has it.
const ALERT_ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// A call's push that has not left, or was not taken, ends this long before its deadline, so that its outcome is known before the call ends.
const SETTLED: Duration = Duration::from_millis(100);

/// The end of a call's push that is not tried again.
pub(crate) fn settled_at(deadline: Instant) -> Instant {
    deadline.checked_sub(SETTLED).unwrap_or(deadline)
}

/// Makes the body of a push that has waited anew; `None`: it has not, or there is nothing to make anew.
pub(crate) type Renewed<'a> = Option<&'a (dyn Fn() -> Option<Bytes> + Sync)>;

/// How long a request waits, and for what.
#[derive(Clone, Copy)]
pub(crate) struct Patience<'a> {
    pub(crate) times: TryTimes,
    /// Where what the push says depends on when it leaves.
    pub(crate) renewed: Renewed<'a>,
    /// The reaction to a line that has fallen silent.
    pub(crate) when_silent: WhenSilent,
    pub(crate) urgency: Urgency,
    /// Told when it leaves.
    pub(crate) departure: &'a Departure,
}

/// The times of one try of a push.
#[derive(Clone, Copy)]
pub(crate) struct TryTimes {
    /// A request that has not begun to leave by then is not sent.
    pub(crate) leaves_until: Instant,
    /// The end of the try.
    pub(crate) until: Instant,
    /// How long the answer is waited for once the request has left; `None`: until the end.
    pub(crate) answered_within: Option<Duration>,
}

impl TryTimes {
    /// The times of a push that begins now. A call's push may leave, and be answered, until right before its deadline.
    pub(crate) fn new(is_call: bool, deadline: Instant) -> Self {
        if is_call {
            Self { leaves_until: settled_at(deadline), ..Self::whole(deadline) }
        } else {
            Self::of_alert(deadline)
        }
    }

    /// The request may leave, and be answered, until the end.
    pub(crate) fn whole(until: Instant) -> Self {
        Self { leaves_until: until, until, answered_within: None }
    }

    /// The request has [`LEAVES_WITHIN`] to leave, and its answer [`ALERT_ANSWERED_WITHIN`] from then on.
    fn of_alert(deadline: Instant) -> Self {
        let leaves_until = Instant::now() + LEAVES_WITHIN;
        Self {
            leaves_until: deadline.min(leaves_until),
            until: deadline.min(leaves_until + ALERT_ANSWERED_WITHIN),
            answered_within: Some(ALERT_ANSWERED_WITHIN),
        }
    }

    /// Until when the answer to a request is waited for that leaves now.
    pub(crate) fn answer_until(&self) -> Instant {
        self.answered_within.map_or(self.until, |within| self.until.min(Instant::now() + within))
    }
}

/// The reaction of a request that has begun to leave by a line which then falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenSilent {
    /// The request waits for its answer there: it must not be sent twice.
    Stays,
    /// The request goes elsewhere. The line is kept for its bytes on the way, as long as anybody waits for the outcome of the push.
    IsKept,
    /// The request goes elsewhere, and its bytes on the way need not arrive.
    Leaves,
}

/// Why no answer came.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// The stream has ended so.
    Ended(h2::Error),
    /// The answer was waited for long enough.
    Late,
    /// Nothing of the request's body has left or ever will: the line takes nothing any more.
    TakenBack,
    /// The body has left in part, and its rest never will.
    Stuck,
    /// Nor has it left in time, or ever will, on a line that may take others.
    NotLeft,
}

impl Patience<'_> {
    /// The body of a request that leaves now.
    pub(crate) fn body_of(&self, request: &Request) -> Bytes {
        self.renewed.and_then(|renewed| renewed()).unwrap_or_else(|| request.body.clone())
    }
}

/// Waits for the head of the answer. On the way the line is suspected, when it is silent, and noted as one that leaves requests
/// unanswered.
pub(super) async fn head_of_answer(
    mut response: ResponseFuture,
    line: &Line,
    passage: &Passage,
    (sent, known): (Instant, u32),
    patience: Patience<'_>,
) -> Result<hyper::Response<h2::RecvStream>, NoAnswer> {
    let Patience { times, when_silent, departure, .. } = patience;
    let TryTimes { leaves_until, until, answered_within } = times;
    // A caller that gives up has waited, too.
    let waiting = Waiting { line, sent, is_over: false };
    if let Ok(outcome) = timeout_at(until.min(sent + ASK_AFTER), &mut response).await {
        waiting.end();
        return outcome.map_err(NoAnswer::Ended);
    }
    line.suspect();
    let answered = async {
        match timeout_at(sent + line.answer_patience(), &mut response).await {
            Ok(outcome) => outcome,
            Err(_) => {
                line.note_unanswered(sent);
                response.await
            }
        }
    };
    let late = async {
        if let Some(within) = answered_within {
            departure.beyond(known).await;
            sleep_until(departure.latest_beyond(known).unwrap_or_else(Instant::now) + within).await;
        } else {
            pending().await
        }
    };
    tokio::select! {
        () = late => Err(NoAnswer::Late),
        outcome = timeout_at(until, answered) => match outcome {
            Ok(outcome) => {
                if outcome.is_ok() {
                    line.note_slow_answer(sent.elapsed());
                }
                waiting.end();
                outcome.map_err(NoAnswer::Ended)
            }
            Err(_) => Err(NoAnswer::Late),
        },
        why = forsaken(line, passage, when_silent, departure) => Err(why),
        () = stuck(passage) => Err(NoAnswer::Stuck),
        () = held_up(passage, leaves_until), if leaves_until < until => Err(NoAnswer::NotLeft),
    }
}

/// Waits until there is nothing to wait for on the line any more. On a silent one nothing that was recalled is waited for: it may be on its way yet, and is
/// withdrawn with its place.
async fn forsaken(line: &Line, passage: &Passage, when_silent: WhenSilent, departure: &Departure) -> NoAnswer {
    line.failure().await;
    if passage.take_back() {
        return NoAnswer::TakenBack;
    }
    line.silence().await;
    if when_silent == WhenSilent::Stays {
        departure.over().await;
    }
    NoAnswer::Late
}

/// Waits until the rest of a body is taken back that stands still, as where the service opens its window no more.
async fn stuck(passage: &Passage) {
    let mut known = None;
    while let Some(left) = passage.progress() {
        if left > 0 && known == Some(left) && passage.take_rest_back() {
            return;
        }
        known = Some(left);
        sleep(STUCK_AFTER).await;
    }
    pending().await
}

/// Waits until a request is taken back that has not begun to leave in time.
async fn held_up(passage: &Passage, leaves_until: Instant) {
    sleep_until(leaves_until).await;
    if !passage.take_back() {
        pending().await
    }
}

/// A request that waits for its answer.
struct Waiting<'a> {
    line: &'a Line,
    sent: Instant,
    is_over: bool,
}

impl Waiting<'_> {
    fn end(mut self) {
        self.is_over = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        match self.is_over {
            true => {}
            // Whether it has arrived is not known yet.
            false if self.sent.elapsed() < ASK_AFTER => self.line.doubt(),
            false => self.line.note_unanswered(self.sent),
        }
    }
}
