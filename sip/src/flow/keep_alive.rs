//! Keep-alive of one flow toward a SIP server (RFC 5626 §4.4).
//!
//! | state | period over | answered | pong overdue | resend due |
//! | --- | --- | --- | --- | --- |
//! | Idle | ping → Waiting | – | – | – |
//! | Waiting, the peer has answered before | ping | → Idle | dead | STUN: again |
//! | Waiting, by STUN, the peer never answered | – | → Idle, it answers | by CRLF from now on: ping → Idle | STUN: again |
//! | Waiting, by CRLF, the peer never answered | ping | → Idle, it answers | – | – |
//!
//! A stream is pinged with a double CRLF, which a single one answers. Two answers with nothing between them look as the halves of the peer's own ping do, so a
//! ping proves the peer alive, too. Over UDP the first pings are STUN Binding requests,
//! and a server that never answers one gets double CRLFs, as many that know nothing of RFC 5626 expect them.
//!
//! A STUN error says that the server is there, and that it has lost what it knew of the flow where it names that (430), or where it knows RFC 5626 at
//! all, as Flow-Timer says: then its bindings are registered again (RFC 5626 §4.4.2), and pings go more often than it asks for from then on, down to
//! [`KeepAliveTiming::shortest`], so that they are again before it forgets them where the errors go on.
//!
//! The owner decides whether a peer that has never sent a datagram back is pinged at all ([`KeepAlive::put_off`]).
//!
//! Invariant: a peer that never answered is not blamed for its silence; one that did, or that promised to with Flow-Timer,
//! is.

use std::time::{Duration, Instant};

use super::stun::{Answer, TransactionId};
use crate::id::FlowId;
use crate::random::Random;
use crate::timing::KeepAliveTiming;

/// The code of the error by which a server says that it has lost a flow (RFC 5626 §11.6).
const FLOW_FAILED: u16 = 430;

/// Keep-alive of one upstream flow.
#[derive(Debug)]
pub struct KeepAlive {
    timing: KeepAliveTiming,
    ping_method: PingMethod,
    next_ping: Instant,
    waiting: Option<Waiting>,
    /// Whether the peer has answered a ping, or promised to.
    answers: bool,
    /// Whether the server has named an interval (Flow-Timer).
    is_asked_for: bool,
    /// Whether the server has said that the flow has failed.
    has_failed: bool,
    period: Duration,
    reliable: bool,
}

/// The next action of a keep-alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Nothing is due yet.
    Nothing,
    /// Send a double CRLF.
    Ping,
    /// Send a STUN Binding request of this transaction.
    Stun(TransactionId),
    /// The flow is dead.
    Dead,
}

/// A proof that the peer of a stream is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignOfLife {
    /// A message of SIP.
    Message,
    /// A double CRLF, in one piece or in two: a ping of its own, or two answers to pings.
    Ping,
    /// A single CRLF, the answer to a ping.
    Pong,
}

/// The verdict of a STUN answer on its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The server knows it.
    Alive,
    /// The server has lost it: what was registered by it is to be registered again.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PingMethod {
    Crlf,
    /// The first bytes of each transaction, which lead an answer back here.
    Stun {
        prefix: [u8; 6],
    },
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    since: Instant,
    /// The STUN request that was sent, and when it is sent again.
    stun: Option<(TransactionId, Instant, Duration)>,
}

impl KeepAlive {
    /// A flow that was just opened. `prefix` begins the transactions by which STUN answers are led back.
    pub fn new(now: Instant, flow: FlowId, prefix: [u8; 6], timing: KeepAliveTiming, random: &mut Random) -> Self {
        let (ping_method, period) = if flow.is_reliable() {
            (PingMethod::Crlf, timing.stream)
        } else {
            (PingMethod::Stun { prefix }, timing.datagram)
        };
        let reliable = flow.is_reliable();
        let mut keep_alive = Self {
            timing,
            ping_method,
            next_ping: now,
            waiting: None,
            answers: false,
            is_asked_for: false,
            has_failed: false,
            period,
            reliable,
        };
        keep_alive.plan(now, random);
        keep_alive
    }

    /// The server asks for a sign of life at least this often (RFC 5626 §4.4): never less often than without it, never
    /// more often than [`KeepAliveTiming::shortest`].
    pub fn follow(&mut self, now: Instant, flow_timer: Duration, random: &mut Random) {
        self.is_asked_for = true;
        let wanted = flow_timer.max(self.timing.shortest);
        if wanted < self.period {
            self.period = wanted;
            self.plan(now, random);
        }
        // A server that sends Flow-Timer answers keep-alives (RFC 5626 §4.4); over UDP only STUN has an answer.
        self.answers |= self.reliable;
    }

    /// The peer may be gone: it is asked at once, unless it was just asked.
    pub fn ask_at_once(&mut self, now: Instant) {
        if self.waiting.is_none() {
            self.next_ping = now;
        }
    }

    /// Skips a deadline that has come: nothing is sent, and nothing waits for an answer any more, so the next deadline lies ahead.
    pub fn put_off(&mut self, now: Instant, random: &mut Random) {
        if self.deadline() > now {
            return;
        }
        self.waiting = None;
        if self.next_ping <= now {
            self.plan(now, random);
        }
    }

    /// The peer has proved itself alive by a stream. Only a pong tells that it answers pings.
    pub fn on_sign_of_life(&mut self, sign: SignOfLife) {
        self.answers |= sign == SignOfLife::Pong && self.waiting.is_some();
        self.waiting = None;
    }

    /// A STUN answer came; what it says, if it is to our last request.
    pub fn on_stun(&mut self, now: Instant, answer: &Answer, random: &mut Random) -> Option<Heard> {
        let ours = matches!(self.waiting, Some(Waiting { stun: Some((id, ..)), .. }) if id == answer.id);
        if !ours {
            return None;
        }
        self.answers = true;
        self.waiting = None;
        let is_failure = answer.error.is_some_and(|code| code == FLOW_FAILED || self.is_asked_for);
        let had_failed = std::mem::replace(&mut self.has_failed, is_failure);
        if !is_failure {
            return Some(Heard::Alive);
        }
        if !had_failed {
            self.plan(now, random);
        }
        Some(Heard::Failed)
    }

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Instant {
        let Some(waiting) = self.waiting else { return self.next_ping };
        let judged = match waiting.stun {
            Some((_, resend_at, _)) => resend_at.min(waiting.since + self.timing.pong),
            None if self.answers => waiting.since + self.timing.pong,
            None => self.next_ping,
        };
        judged.min(self.next_ping)
    }

    /// A deadline may have come.
    pub fn on_deadline(&mut self, now: Instant, random: &mut Random) -> Pulse {
        if let Some(waiting) = &mut self.waiting {
            let over = waiting.since + self.timing.pong <= now;
            if over && self.answers {
                return Pulse::Dead;
            }
            match &mut waiting.stun {
                Some(_) if over => {
                    (self.ping_method, self.waiting) = (PingMethod::Crlf, None);
                    self.plan(now, random);
                    return Pulse::Ping;
                }
                Some((id, resend_at, interval)) if *resend_at <= now => {
                    *interval *= 2;
                    *resend_at = now + *interval;
                    return Pulse::Stun(*id);
                }
                _ => {}
            }
        }
        if self.next_ping > now {
            return Pulse::Nothing;
        }
        self.plan(now, random);
        self.ping(now, random)
    }

    fn ping(&mut self, now: Instant, random: &mut Random) -> Pulse {
        let PingMethod::Stun { prefix } = self.ping_method else {
            self.waiting = Some(Waiting { since: now, stun: None });
            return Pulse::Ping;
        };
        let mut id = [0; 12];
        id[..6].copy_from_slice(&prefix);
        id[6..].copy_from_slice(&random.bits().to_be_bytes()[..6]);
        let resend = self.timing.stun_resend;
        self.waiting = Some(Waiting { since: now, stun: Some((id, now + resend, resend)) });
        Pulse::Stun(id)
    }

    fn plan(&mut self, now: Instant, random: &mut Random) {
        let sooner = (self.period * 2 / 3).max(self.timing.shortest.min(self.period));
        let period = if self.has_failed { sooner } else { self.period };
        let millis = period.as_millis() as u64;
        self.next_ping = now + Duration::from_millis(random.between(millis * 4 / 5, millis));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PONG_WAIT: Duration = Duration::from_secs(10);
    const PREFIX: [u8; 6] = [0, 1, 0, 0, 0, 9];

    struct Flow {
        start: Instant,
        keep_alive: KeepAlive,
        random: Random,
    }

    impl Flow {
        fn new(flow: FlowId) -> Self {
            let (start, mut random) = (Instant::now(), Random::new([2; 32]));
            Self {
                start,
                keep_alive: KeepAlive::new(start, flow, PREFIX, KeepAliveTiming::default(), &mut random),
                random,
            }
        }

        fn stream() -> Self {
            Self::new(FlowId::Stream(1))
        }

        fn datagram() -> Self {
            Self::new(FlowId::Datagram("192.0.2.1:5060".parse().unwrap()))
        }

        /// Fires the next deadline; what it wants, and when that is.
        fn fire(&mut self) -> (Pulse, Instant) {
            let at = self.keep_alive.deadline();
            let early = at.checked_sub(Duration::from_millis(1)).unwrap();
            assert_eq!(self.keep_alive.on_deadline(early, &mut self.random), Pulse::Nothing);
            (self.keep_alive.on_deadline(at, &mut self.random), at)
        }

        fn stun(&mut self, id: TransactionId, error: Option<u16>) -> Option<Heard> {
            self.keep_alive.on_stun(self.start, &Answer { id, mapped: None, error }, &mut self.random)
        }

        /// Fires until it wants another thing than to send the same STUN request again.
        fn fire_past_resends(&mut self) -> (Pulse, Instant) {
            loop {
                match self.fire() {
                    (Pulse::Stun(_), _) => {}
                    other => return other,
                }
            }
        }
    }

    fn within(start: Instant, at: Instant, from: u64, to: u64) -> bool {
        at >= start + Duration::from_secs(from) && at <= start + Duration::from_secs(to)
    }

    #[test]
    fn a_stream_that_never_answers_is_pinged_for_ever() {
        let mut flow = Flow::stream();
        let mut last = flow.start;
        for _ in 0..100 {
            let (pulse, at) = flow.fire();
            assert_eq!(pulse, Pulse::Ping);
            assert!(within(last, at, 88, 110));
            last = at;
        }
    }

    #[test]
    fn a_stream_that_answered_once_is_dead_when_it_stops() {
        let mut flow = Flow::stream();
        flow.fire();
        flow.keep_alive.on_sign_of_life(SignOfLife::Pong);
        let (pulse, asked) = flow.fire();
        assert_eq!(pulse, Pulse::Ping);
        assert_eq!(flow.fire(), (Pulse::Dead, asked + PONG_WAIT));
    }

    #[test]
    fn anything_that_comes_by_a_stream_proves_it_alive() {
        let mut flow = Flow::stream();
        flow.fire();
        flow.keep_alive.on_sign_of_life(SignOfLife::Pong);
        flow.fire();
        flow.keep_alive.on_sign_of_life(SignOfLife::Message);
        assert_eq!(flow.fire().0, Pulse::Ping);
    }

    #[test]
    fn flow_timer_makes_pings_more_frequent_within_reason_and_is_a_promise_to_answer() {
        let mut flow = Flow::stream();
        flow.keep_alive.follow(flow.start, Duration::from_secs(40), &mut flow.random);
        let (pulse, at) = flow.fire();
        assert!(pulse == Pulse::Ping && within(flow.start, at, 32, 40));
        assert_eq!(flow.fire(), (Pulse::Dead, at + PONG_WAIT));
        let mut greedy = Flow::stream();
        greedy.keep_alive.follow(greedy.start, Duration::from_secs(1), &mut greedy.random);
        let at = greedy.fire().1;
        assert!(within(greedy.start, at, 12, 15));
        let mut lazy = Flow::stream();
        lazy.keep_alive.follow(lazy.start, Duration::from_secs(3600), &mut lazy.random);
        let at = lazy.fire().1;
        assert!(within(lazy.start, at, 88, 110), "a router in between forgets sooner than the server");
    }

    #[test]
    fn a_server_that_knows_no_stun_gets_crlf_without_being_blamed() {
        let mut flow = Flow::datagram();
        let (pulse, first) = flow.fire();
        assert!(matches!(pulse, Pulse::Stun(id) if id[..6] == PREFIX));
        assert!(within(flow.start, first, 23, 29));
        for millis in [500, 1500, 3500, 7500] {
            assert_eq!(flow.fire(), (pulse, first + Duration::from_millis(millis)), "the same transaction again");
        }
        assert_eq!(flow.fire(), (Pulse::Ping, first + PONG_WAIT));
        let mut last = first + PONG_WAIT;
        for _ in 0..10 {
            let (pulse, at) = flow.fire();
            assert!(pulse == Pulse::Ping && within(last, at, 23, 29));
            last = at;
        }
    }

    #[test]
    fn a_ping_that_is_put_off_leaves_no_deadline_that_has_come() {
        let mut flow = Flow::datagram();
        let (pulse, first) = flow.fire();
        assert!(matches!(pulse, Pulse::Stun(_)));
        for _ in 0..5 {
            let at = flow.keep_alive.deadline();
            flow.keep_alive.put_off(at, &mut flow.random);
            assert!(flow.keep_alive.deadline() > at, "{:?}", at - first);
        }
        let early = flow.keep_alive.deadline() - Duration::from_millis(1);
        flow.keep_alive.put_off(early, &mut flow.random);
        assert_eq!(flow.keep_alive.deadline(), early + Duration::from_millis(1), "it has not come");
    }

    #[test]
    fn a_server_that_answered_stun_once_is_dead_when_it_stops() {
        let mut flow = Flow::datagram();
        let (pulse, _) = flow.fire();
        let Pulse::Stun(id) = pulse else { panic!("{pulse:?}") };
        assert_eq!(flow.stun([0; 12], None), None, "of another transaction");
        assert_eq!(flow.stun(id, None), Some(Heard::Alive));
        assert_eq!(flow.stun(id, None), None, "a copy");
        let (pulse, asked) = flow.fire();
        assert!(matches!(pulse, Pulse::Stun(other) if other != id));
        assert_eq!(flow.fire_past_resends(), (Pulse::Dead, asked + PONG_WAIT));
    }

    #[test]
    fn a_stun_error_is_a_failed_flow_where_it_says_so_or_the_server_knows_of_flows_and_else_a_sign_of_life() {
        for (flow_timer, code, heard) in [
            (None, 430, Heard::Failed),
            (None, 400, Heard::Alive),
            (None, 0, Heard::Alive),
            (Some(29), 430, Heard::Failed),
            (Some(29), 400, Heard::Failed),
        ] {
            let mut flow = Flow::datagram();
            if let Some(seconds) = flow_timer {
                flow.keep_alive.follow(flow.start, Duration::from_secs(seconds), &mut flow.random);
            }
            let (Pulse::Stun(id), first) = flow.fire() else { panic!("STUN") };
            flow.start = first;
            assert_eq!(flow.stun(id, Some(code)), Some(heard), "{flow_timer:?} {code}");
            let (pulse, next) = flow.fire();
            assert!(matches!(pulse, Pulse::Stun(_)), "it is asked on");
            let (from, to) = if heard == Heard::Failed { (15, 20) } else { (23, 29) };
            assert!(within(first, next, from, to), "{:?}", next - first);
        }
        let mut greedy = Flow::datagram();
        greedy.keep_alive.follow(greedy.start, Duration::from_secs(1), &mut greedy.random);
        for _ in 0..10 {
            let (Pulse::Stun(id), at) = greedy.fire() else { panic!("STUN") };
            greedy.start = at;
            assert_eq!(greedy.stun(id, Some(FLOW_FAILED)), Some(Heard::Failed));
            assert!(within(at, greedy.keep_alive.deadline(), 12, 15), "not below the shortest, whatever it says");
        }
    }
}
