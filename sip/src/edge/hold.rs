//! One incoming call, from the INVITE to its final answer.
//!
//! | state | device attached | device 1xx | device 2xx | device ≥ 300 | CANCEL | deadline |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | Waking | offer | → Ringing | → Answered | → Declined, unless another leg lives | 487 → Cancelled | 480 → TimedOut |
//! | Ringing | offer | pass | → Answered | likewise | → Cancelled | 408 → TimedOut |
//! | final | – | – | a late 2xx is ended with ACK and BYE | – | – | – |
//!
//! A leg is one offer of the call to one flow of the device (RFC 3261 §16.7). A flow gets one leg and never a second; a
//! leg whose flow is lost does not end the call while there is time for the device to come back.
//!
//! While the caller waits it hears each [`REMINDER`] that the call lives (RFC 3261 §13.3.1.1): what it heard last, or 183.
//!
//! Invariant: the caller gets exactly one final answer; no leg begins after it; each leg is answered or cancelled.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{CallState, IncomingCall};
use crate::flow::Source;
use crate::id::{BindingId, BranchId, CallId, FlowId, InstanceId};
use crate::message::{Composer, Message, Name};
use crate::transaction::ServerId;

/// How long a device that is attached may leave an INVITE without any response before it is woken by push as well: its
/// flow may be dead without either side knowing.
pub const SILENCE: Duration = Duration::from_secs(2);

/// How long a device may take to end a cancelled INVITE before the caller is answered 487 without it.
pub const CANCEL_WAIT: Duration = Duration::from_secs(4);

/// How often a caller that waits hears that the call lives, so that no proxy's Timer C ends it (RFC 3261 §13.3.1.1; §16.6:
/// more than three minutes, which a 100 does not restart).
pub const REMINDER: Duration = Duration::from_secs(60);

/// One offer of the call to one flow.
#[derive(Debug)]
pub struct Leg {
    /// Its client transaction.
    pub branch: BranchId,
    /// The device's flow.
    pub flow: FlowId,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No response yet.
    Offered,
    /// A provisional response came.
    Alive,
    /// A final response came, or the flow is lost.
    Ended,
}

/// What the caller heard last, and when it hears of the call again.
#[derive(Debug)]
struct Heard {
    /// `None` where only a device can speak: the caller wants provisional responses reliably (RFC 3262).
    again_at: Option<Instant>,
    what: Said,
}

#[derive(Debug)]
enum Said {
    /// 100 alone.
    Nothing,
    /// This, which may be said again as it is.
    Plain { status: u16, response: Bytes },
    /// This status with this To tag, reliably: to say the same again would ask for another PRACK (RFC 3262 §3).
    Reliable { status: u16, tag: Box<str> },
}

/// What a leg's response means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing.
    Ignore,
    /// Pass this provisional response.
    Pass,
    /// Pass this 2xx; cancel the other legs.
    Answer,
    /// A 2xx that comes too late, or from a second device: ACK and BYE it.
    TooLate,
    /// Pass this failure: it is the call's final answer. Cancel the other legs.
    Fail,
    /// All legs have ended after a CANCEL: 487.
    Terminated,
}

/// One incoming call.
#[derive(Debug)]
pub struct Hold {
    /// Its name.
    pub call: CallId,
    /// Whom it is for.
    pub instance: InstanceId,
    /// By which binding it came.
    pub binding: BindingId,
    /// The INVITE's server transaction.
    pub server: ServerId,
    /// Where it came from.
    pub source: Source,
    /// The INVITE; `None` once it is offered no more.
    pub invite: Option<Box<Message>>,
    /// The tag of the answers that the relay gives itself.
    pub tag: String,
    /// The caller, for the push.
    pub from: Box<str>,
    /// The caller's display name.
    pub name: Option<Box<str>>,
    state: CallState,
    legs: Vec<Leg>,
    heard: Heard,
    arrived: Instant,
    deadline: Instant,
    woken: bool,
    attached: bool,
    answered_by: Option<BranchId>,
    /// The caller has its final answer.
    closed: bool,
}

impl Hold {
    /// A call that has just come.
    #[expect(clippy::too_many_arguments, reason = "each is a fact of one INVITE, told once")]
    pub fn new(
        now: Instant,
        wait: Duration,
        call: CallId,
        instance: InstanceId,
        binding: BindingId,
        server: ServerId,
        source: Source,
        invite: Message,
        tag: String,
    ) -> Self {
        let (from, name) = super::forward::caller(&invite);
        let again_at = (!invite.lists(Name::Require, "100rel")).then(|| now + REMINDER);
        Self {
            call,
            instance,
            binding,
            server,
            source,
            invite: Some(Box::new(invite)),
            tag,
            from,
            name,
            state: CallState::Waking,
            legs: Vec::new(),
            heard: Heard { again_at, what: Said::Nothing },
            arrived: now,
            deadline: now + wait,
            woken: false,
            attached: false,
            answered_by: None,
            closed: false,
        }
    }

    /// How it stands.
    pub fn state(&self) -> CallState {
        self.state
    }

    /// What the shell is told of it.
    pub fn describe(&self, now: Instant) -> IncomingCall {
        IncomingCall {
            call: self.call,
            instance: self.instance,
            from: self.from.clone(),
            name: self.name.clone(),
            wait: self.deadline.saturating_duration_since(now),
        }
    }

    /// Whether the device shall be woken now; true once.
    pub fn wake(&mut self) -> bool {
        !self.closed && !self.state.is_final() && !std::mem::replace(&mut self.woken, true)
    }

    /// Waits for its device until this moment, in place of the whole time.
    pub fn wait_until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// The device has come: the time since the INVITE; `Some` once.
    pub fn note_attached(&mut self, now: Instant) -> Option<Duration> {
        (!std::mem::replace(&mut self.attached, true)).then(|| now.saturating_duration_since(self.arrived))
    }

    /// Whether to offer the call to this flow: it still waits, and this flow was not offered it before.
    pub fn wants(&self, flow: FlowId) -> bool {
        !self.state.is_final() && !self.closed && self.legs.iter().all(|leg| leg.flow != flow)
    }

    /// Notes an offer. Legs on other flows of the same device are over: it moved.
    pub fn offered(&mut self, branch: BranchId, flow: FlowId) -> Vec<BranchId> {
        let moved = self.end_legs(|_| true);
        self.legs.push(Leg { branch, flow, phase: Phase::Offered });
        moved
    }

    /// When [`Self::on_deadline`] or [`Self::is_silent`] must be asked; `None` when the caller has its answer.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        if self.closed {
            return None;
        }
        let silence = self.arrived + SILENCE;
        let next = if self.woken || silence <= now { self.deadline } else { self.deadline.min(silence) };
        Some(self.heard.again_at.map_or(next, |at| at.min(next)))
    }

    /// The caller was told `response`, a provisional one above 100.
    pub fn said(&mut self, now: Instant, status: u16, message: Option<&Message>, response: &Bytes) {
        let reliable = message.filter(|message| message.lists(Name::Require, "100rel"));
        self.heard.what = match reliable {
            None => Said::Plain { status, response: response.clone() },
            Some(message) => {
                let tag = message.to().and_then(|to| to.tag().map(Into::into)).unwrap_or_default();
                Said::Reliable { status, tag }
            }
        };
        self.heard.again_at = self.heard.again_at.map(|_| now + REMINDER);
    }

    /// What the caller is told when it has heard nothing for [`REMINDER`].
    pub fn remind(&mut self, now: Instant) -> Option<(u16, Bytes)> {
        let due = self.heard.again_at.is_some_and(|at| at <= now) && !self.closed && !self.state.is_final();
        let invite = self.invite.as_deref().filter(|_| due)?;
        self.heard.again_at = Some(now + REMINDER);
        let compose = |status, tag| Composer::response(invite, status, Composer::reason(status), Some(tag)).finish();
        Some(match &self.heard.what {
            Said::Nothing => (183, compose(183, &self.tag)),
            Said::Plain { status, response } => (*status, response.clone()),
            Said::Reliable { status, tag } => (*status, compose(*status, tag)),
        })
    }

    /// Whether an offer has been left without any response for [`SILENCE`].
    pub fn is_silent(&self, now: Instant) -> bool {
        !self.woken && self.arrived + SILENCE <= now && !self.legs.iter().any(|leg| leg.phase == Phase::Alive)
    }

    /// The device, or its push service, says that it will ring; whether the caller shall hear it now.
    pub fn ring(&mut self) -> bool {
        let first = self.state == CallState::Waking && !self.closed;
        if first {
            self.state = CallState::Ringing;
        }
        first
    }

    /// A response on a leg. `answer_wait`: how long a ringing device may take from now on.
    pub fn on_response(&mut self, now: Instant, branch: BranchId, status: u16, answer_wait: Duration) -> Outcome {
        let Some(leg) = self.legs.iter_mut().find(|leg| leg.branch == branch) else { return Outcome::Ignore };
        match status {
            ..=100 => {
                leg.phase = if leg.phase == Phase::Offered { Phase::Alive } else { leg.phase };
                Outcome::Ignore
            }
            101..200 => {
                let first = self.state != CallState::Ringing || leg.phase == Phase::Offered;
                leg.phase = if leg.phase == Phase::Ended { Phase::Ended } else { Phase::Alive };
                if self.closed || self.state.is_final() {
                    return Outcome::Ignore;
                }
                self.state = CallState::Ringing;
                if first {
                    self.deadline = self.deadline.max(now + answer_wait);
                }
                Outcome::Pass
            }
            200..300 => self.on_answer(branch),
            _ => {
                let again = leg.phase == Phase::Ended;
                leg.phase = Phase::Ended;
                if again || self.closed { Outcome::Ignore } else { self.on_failure(status) }
            }
        }
    }

    /// A leg's flow is lost, or the device never answered at all.
    pub fn on_leg_lost(&mut self, branch: BranchId) -> Outcome {
        if let Some(leg) = self.legs.iter_mut().find(|leg| leg.branch == branch) {
            leg.phase = Phase::Ended;
        }
        if self.state.is_given_up() && !self.closed && !self.has_live_leg() {
            Outcome::Terminated
        } else {
            Outcome::Ignore
        }
    }

    /// The legs on a flow that has ended.
    pub fn legs_on(&self, flow: FlowId) -> Vec<BranchId> {
        let live = self.legs.iter().filter(|leg| leg.flow == flow && leg.phase != Phase::Ended);
        live.map(|leg| leg.branch).collect()
    }

    /// Whether a leg may still be answered.
    pub fn has_live_leg(&self) -> bool {
        self.legs.iter().any(|leg| leg.phase != Phase::Ended)
    }

    /// The caller gave up, or another device answered (`elsewhere`): the legs to cancel, and whether to answer 487 at
    /// once because none of them is alive.
    pub fn cancel(&mut self, now: Instant, elsewhere: bool) -> (Vec<BranchId>, bool) {
        if self.closed || self.state.is_final() {
            return (Vec::new(), false);
        }
        self.state = if elsewhere { CallState::AnsweredElsewhere } else { CallState::Cancelled };
        self.deadline = now + CANCEL_WAIT;
        let alive = self.legs.iter().any(|leg| leg.phase == Phase::Alive);
        let live = self.legs.iter().filter(|leg| leg.phase != Phase::Ended).map(|leg| leg.branch).collect();
        (live, !alive)
    }

    /// Ends the call for a reason of the relay's own: the legs to cancel. `None` when it has ended before.
    pub fn end(&mut self, state: CallState) -> Option<Vec<BranchId>> {
        if self.closed || self.state.is_final() {
            return None;
        }
        self.state = state;
        Some(self.end_legs(|_| true))
    }

    /// Whether the deadline has come, and then the status that tells it: 408 when a device rang, 480 when none came, 487
    /// when the caller had given up.
    pub fn on_deadline(&self, now: Instant) -> Option<u16> {
        let alive = self.legs.iter().any(|leg| leg.phase == Phase::Alive);
        match self.state {
            _ if self.closed || self.deadline > now => None,
            CallState::Cancelled | CallState::AnsweredElsewhere => Some(487),
            CallState::Waking | CallState::Ringing => Some(if alive { 408 } else { 480 }),
            _ => None,
        }
    }

    /// The caller has its final answer.
    pub fn close(&mut self) {
        self.closed = true;
        self.invite = None;
        // A call is remembered for a while: what was said in it is not.
        self.heard = Heard { again_at: None, what: Said::Nothing };
    }

    /// Whether the caller has its final answer.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// The legs other than this one that may still be answered; they count as ended from now on.
    pub fn others(&mut self, branch: BranchId) -> Vec<BranchId> {
        self.end_legs(|leg| leg.branch != branch)
    }

    fn on_answer(&mut self, branch: BranchId) -> Outcome {
        match self.answered_by {
            Some(winner) if winner == branch => Outcome::Answer,
            Some(_) => Outcome::TooLate,
            None if self.closed => Outcome::TooLate,
            // The caller's CANCEL and the device's 200 crossed: the 200 wins (RFC 3261 §9.1).
            None => {
                self.answered_by = Some(branch);
                self.state = CallState::Answered;
                Outcome::Answer
            }
        }
    }

    fn on_failure(&mut self, status: u16) -> Outcome {
        if self.state.is_given_up() {
            return if self.has_live_leg() { Outcome::Ignore } else { Outcome::Terminated };
        }
        // 482: the device takes the second offer for a copy of the first (RFC 3261 §8.2.2.2); it may still come back.
        if self.state.is_final() || status == 482 || self.has_live_leg() && status < 600 {
            return Outcome::Ignore;
        }
        self.state = CallState::Declined;
        Outcome::Fail
    }

    fn end_legs(&mut self, which: impl Fn(&Leg) -> bool) -> Vec<BranchId> {
        let mut ended = Vec::new();
        for leg in self.legs.iter_mut().filter(|leg| leg.phase != Phase::Ended && which(leg)) {
            leg.phase = Phase::Ended;
            ended.push(leg.branch);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use crate::flow::{Side, Transport};
    use crate::id::ShardTag;
    use crate::message::Limits;
    use crate::transaction::{Table, Timing};

    use super::*;

    const RING: Duration = Duration::from_secs(30);
    const ANSWER: Duration = Duration::from_secs(120);

    fn hold(now: Instant) -> Hold {
        let text = "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP p;branch=z9hG4bK1\r\nFrom: <sip:bob@example.com>;tag=1\r\n\
                    To: <sip:a@b>\r\nCall-ID: i\r\nCSeq: 1 INVITE\r\n\r\n";
        let invite = Message::parse(&text.into(), &Limits::default()).unwrap();
        let flow = FlowId::Datagram("192.0.2.1:5060".parse().unwrap());
        let source =
            Source { flow, side: Side::Upstream, transport: Transport::Udp, peer: "192.0.2.1:5060".parse().unwrap() };
        let server = Table::<(), ()>::new(1, Timing::default(), Limits::default()).open(&invite, flow, ()).unwrap();
        let tag = ShardTag(0);
        let (call, instance, binding) = (CallId::new(1, tag), InstanceId::new(1, tag), BindingId::new(1, tag));
        Hold::new(now, RING, call, instance, binding, server, source, invite, "tag".into())
    }

    fn branch(number: u64) -> BranchId {
        BranchId::new(u128::from(number) << 16, ShardTag(0))
    }

    /// A call with a leg on each of these flows that is still offered to the last alone.
    fn offered(now: Instant, flows: &[u64]) -> Hold {
        let mut hold = hold(now);
        for flow in flows {
            hold.offered(branch(*flow), FlowId::Stream(*flow));
        }
        hold
    }

    /// The three states of a call that waits, and each final one.
    fn in_state(now: Instant, state: CallState) -> Hold {
        let mut hold = offered(now, &[1]);
        match state {
            CallState::Waking => {}
            CallState::Ringing => assert_eq!(hold.on_response(now, branch(1), 180, ANSWER), Outcome::Pass),
            CallState::Answered => assert_eq!(hold.on_response(now, branch(1), 200, ANSWER), Outcome::Answer),
            CallState::Cancelled => assert_eq!(hold.cancel(now, false), (vec![branch(1)], true)),
            CallState::AnsweredElsewhere => assert_eq!(hold.cancel(now, true), (vec![branch(1)], true)),
            ended => assert_eq!(hold.end(ended), Some(vec![branch(1)])),
        }
        if state.is_final() {
            hold.close();
        }
        assert_eq!(hold.state(), state);
        hold
    }

    const FINAL: [CallState; 5] = [
        CallState::Answered,
        CallState::Cancelled,
        CallState::AnsweredElsewhere,
        CallState::Declined,
        CallState::TimedOut,
    ];

    #[test]
    fn a_call_walks_every_row_of_its_table() {
        use CallState::{Answered, Declined, Ringing, Waking};
        let now = Instant::now();
        for (from, status, outcome, to) in [
            (Waking, 100, Outcome::Ignore, Waking),
            (Waking, 180, Outcome::Pass, Ringing),
            (Waking, 200, Outcome::Answer, Answered),
            (Waking, 486, Outcome::Fail, Declined),
            (Waking, 603, Outcome::Fail, Declined),
            (Waking, 482, Outcome::Ignore, Waking),
            (Ringing, 100, Outcome::Ignore, Ringing),
            (Ringing, 183, Outcome::Pass, Ringing),
            (Ringing, 202, Outcome::Answer, Answered),
            (Ringing, 302, Outcome::Fail, Declined),
            (Ringing, 603, Outcome::Fail, Declined),
            (Ringing, 482, Outcome::Ignore, Ringing),
        ] {
            let mut hold = in_state(now, from);
            assert_eq!(hold.on_response(now, branch(1), status, ANSWER), outcome, "{from:?} {status}");
            assert_eq!(hold.state(), to, "{from:?} {status}");
        }
        for state in FINAL {
            for (status, outcome) in [(180, Outcome::Ignore), (486, Outcome::Ignore), (200, Outcome::TooLate)] {
                // A winner's 2xx that comes again passes again: its ACK was lost (RFC 6026).
                let again = state == Answered && status == 200;
                let expected = if again { Outcome::Answer } else { outcome };
                let mut hold = in_state(now, state);
                assert_eq!(hold.on_response(now, branch(1), status, ANSWER), expected, "{state:?} {status}");
                assert_eq!((hold.state(), hold.is_closed()), (state, true));
            }
        }
    }

    #[test]
    fn a_final_state_is_left_by_nothing() {
        let now = Instant::now();
        for state in FINAL {
            let mut hold = in_state(now, state);
            assert!(!hold.wants(FlowId::Stream(9)) && !hold.wake() && !hold.ring());
            assert_eq!(hold.cancel(now, false), (vec![], false));
            assert_eq!(hold.end(CallState::TimedOut), None);
            assert_eq!(hold.on_leg_lost(branch(1)), Outcome::Ignore);
            assert_eq!((hold.deadline(now), hold.on_deadline(now + ANSWER)), (None, None));
            assert_eq!((hold.state(), hold.invite.is_none()), (state, true));
        }
    }

    #[test]
    fn a_deadline_is_480_when_none_came_and_408_when_a_device_rang() {
        let now = Instant::now();
        let mut none = hold(now);
        none.wake();
        assert_eq!(none.deadline(now), Some(now + RING));
        assert_eq!(none.on_deadline(now + RING - Duration::from_millis(1)), None);
        assert_eq!(none.on_deadline(now + RING), Some(480));
        assert!(none.ring() && !none.ring(), "the caller hears the push's ringing once");
        assert_eq!(none.on_deadline(now + RING), Some(480), "a push that rang is no device");
        let rang = in_state(now, CallState::Ringing);
        assert_eq!(rang.on_deadline(now + RING), None, "an answering device has its own time");
        assert_eq!(rang.on_deadline(now + ANSWER), Some(408));
    }

    #[test]
    fn a_cancel_waits_for_the_legs_that_live_and_not_for_longer_than_its_time() {
        let now = Instant::now();
        let mut unanswered = offered(now, &[1]);
        assert_eq!(unanswered.cancel(now, false), (vec![branch(1)], true), "no response yet: 487 at once");
        let mut alive = in_state(now, CallState::Ringing);
        assert_eq!(alive.cancel(now, false), (vec![branch(1)], false));
        assert_eq!(alive.deadline(now), Some(now + SILENCE), "a deadline comes early rather than never");
        assert_eq!(alive.on_deadline(now + CANCEL_WAIT), Some(487));
        assert_eq!(alive.on_response(now, branch(1), 487, ANSWER), Outcome::Terminated);
        let mut crossed = in_state(now, CallState::Ringing);
        crossed.cancel(now, false);
        assert_eq!(crossed.on_response(now, branch(1), 200, ANSWER), Outcome::Answer, "RFC 3261 §9.1");
        let mut lost = in_state(now, CallState::Ringing);
        lost.cancel(now, false);
        assert_eq!(lost.on_leg_lost(branch(1)), Outcome::Terminated);
    }

    #[test]
    fn a_flow_gets_one_leg_and_a_device_that_moved_gets_another() {
        let now = Instant::now();
        let mut hold = hold(now);
        assert!(hold.wants(FlowId::Stream(1)));
        assert_eq!(hold.offered(branch(1), FlowId::Stream(1)), []);
        assert!(!hold.wants(FlowId::Stream(1)));
        assert_eq!(hold.legs_on(FlowId::Stream(1)), [branch(1)]);
        assert_eq!(hold.offered(branch(2), FlowId::Stream(2)), [branch(1)], "the old leg is cancelled");
        assert_eq!(hold.on_response(now, branch(1), 487, ANSWER), Outcome::Ignore);
        assert_eq!(hold.state(), CallState::Waking);
        assert_eq!(hold.on_response(now, branch(2), 200, ANSWER), Outcome::Answer);
        assert_eq!(hold.on_response(now, branch(1), 200, ANSWER), Outcome::TooLate, "a second answer is ended");
        assert_eq!(hold.on_response(now, branch(7), 200, ANSWER), Outcome::Ignore, "no leg of this call");
    }

    #[test]
    fn a_lost_leg_leaves_the_call_waiting_and_a_silent_one_has_the_device_woken() {
        let now = Instant::now();
        let mut hold = in_state(now, CallState::Ringing);
        assert_eq!(hold.on_leg_lost(branch(1)), Outcome::Ignore);
        assert!(!hold.has_live_leg() && hold.wants(FlowId::Stream(2)) && !hold.wants(FlowId::Stream(1)));
        assert_eq!(hold.state(), CallState::Ringing);
        assert_eq!(hold.on_deadline(now + ANSWER), Some(480), "it rang, but is gone");
        let mut silent = offered(now, &[1]);
        assert!(!silent.is_silent(now + SILENCE - Duration::from_millis(1)) && silent.is_silent(now + SILENCE));
        assert!(silent.wake() && !silent.wake(), "once");
        let mut heard = offered(now, &[1]);
        heard.on_response(now, branch(1), 100, ANSWER);
        assert!(!heard.is_silent(now + SILENCE));
    }

    #[test]
    fn the_time_from_invite_to_device_is_told_once() {
        let now = Instant::now();
        let mut hold = hold(now);
        assert_eq!(hold.note_attached(now + Duration::from_secs(3)), Some(Duration::from_secs(3)));
        assert_eq!(hold.note_attached(now + Duration::from_secs(4)), None);
    }
}
