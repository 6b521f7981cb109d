//! Client transactions: what was asked, until it is answered.
//!
//! | INVITE | 1xx | 2xx | 300–699 | deadline |
//! | --- | --- | --- | --- | --- |
//! | Calling | pass → Proceeding | pass → Accepted | pass, ACK → Completed | A: resend · B: time out |
//! | Proceeding | pass | pass → Accepted | pass, ACK → Completed | C: CANCEL · 64·T1 after a CANCEL: time out |
//! | Completed | – | – | ACK again | D: end |
//! | Accepted | – | pass | – | M: end |
//!
//! | other | 1xx | 200–699 | deadline |
//! | --- | --- | --- | --- |
//! | Trying | pass → Proceeding | pass → Completed | E: resend · F: time out |
//! | Proceeding | pass | pass → Completed | E (at T2): resend · F: time out |
//! | Completed | – | – | K: end |
//!
//! A 100 leaves Timer C as it is, any other 1xx restarts it (RFC 3261 §16.7.2), unless a CANCEL was sent. Where a time out says little, as
//! [`super::late`] tells, the table waits on.
//!
//! Invariant: over a reliable transport nothing is sent twice, and D and K are zero.

use std::time::{Duration, Instant};

use super::{Due, Reliability, Timing};

/// Timer C (RFC 3261 §16.6: more than three minutes): how long a provisional response keeps an INVITE alive.
pub const TIMER_C: Duration = Duration::from_secs(11 * 60);

/// The consequences of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The response goes to the transaction user.
    pub pass: bool,
    /// Send the ACK that ends this transaction (RFC 3261 §17.1.1.3).
    pub ack: bool,
    /// Forget the transaction.
    pub ended: bool,
}

/// The INVITE client transaction.
#[derive(Debug)]
pub struct InviteClient {
    state: Invite,
    reliability: Reliability,
}

#[derive(Debug)]
enum Invite {
    Calling {
        resend: Retry,
        give_up: Instant,
    },
    /// `give_up`: Timer C, or what a CANCEL leaves (RFC 3261 §9.1).
    Proceeding {
        give_up: Instant,
        cancelled: bool,
    },
    Completed {
        until: Instant,
    },
    Accepted {
        until: Instant,
    },
}

/// A retransmission and the interval to the one after it.
#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Instant,
    interval: Duration,
}

impl Retry {
    fn first(now: Instant, timing: &Timing) -> Self {
        Self { at: now + timing.t1, interval: timing.t1 }
    }
}

impl InviteClient {
    /// The INVITE was just sent.
    pub fn new(now: Instant, reliability: Reliability, timing: &Timing) -> Self {
        let resend = Retry::first(now, timing);
        Self { state: Invite::Calling { resend, give_up: now + timing.t1_64() }, reliability }
    }

    /// The INVITE is sent by an unreliable transport now, because it could not go by a reliable one: timer A begins.
    pub fn leave_stream(&mut self, now: Instant, timing: &Timing) {
        self.reliability = Reliability::Unreliable;
        if let Invite::Calling { resend, .. } = &mut self.state {
            *resend = Retry::first(now, timing);
        }
    }

    /// A response came.
    pub fn on_response(&mut self, now: Instant, status: u16, timing: &Timing) -> Verdict {
        let pass = Verdict { pass: true, ..Verdict::default() };
        match (&self.state, status) {
            (Invite::Calling { .. }, ..200) => {
                self.state = Invite::Proceeding { give_up: now + TIMER_C, cancelled: false };
                pass
            }
            (Invite::Proceeding { cancelled, .. }, ..200) => {
                // 100 does not restart Timer C (RFC 3261 §16.7.2).
                if !cancelled && status > 100 {
                    self.state = Invite::Proceeding { give_up: now + TIMER_C, cancelled: false };
                }
                pass
            }
            (Invite::Calling { .. } | Invite::Proceeding { .. }, 200..300) => {
                self.state = Invite::Accepted { until: now + timing.t1_64() };
                pass
            }
            (Invite::Calling { .. } | Invite::Proceeding { .. }, _) => {
                // Timer D: at least 32 s where responses may be lost, none where they may not.
                self.state = Invite::Completed { until: now + timing.t1_64() };
                Verdict { pass: true, ack: true, ended: self.reliability.is_reliable() }
            }
            (Invite::Completed { .. }, 300..) => Verdict { ack: true, ..Verdict::default() },
            (Invite::Accepted { .. }, 200..300) => pass,
            _ => Verdict::default(),
        }
    }

    /// Whether a provisional response has come, so that a CANCEL may be sent (RFC 3261 §9.1), and no final one.
    pub fn may_cancel(&self) -> bool {
        matches!(self.state, Invite::Proceeding { .. })
    }

    /// Whether no final response has come.
    pub fn is_pending(&self) -> bool {
        matches!(self.state, Invite::Calling { .. } | Invite::Proceeding { .. })
    }

    /// A CANCEL was sent: a final response that does not come within 64·T1 never will (RFC 3261 §9.1).
    pub fn on_cancelled(&mut self, now: Instant, timing: &Timing) {
        if let Invite::Proceeding { .. } = self.state {
            self.state = Invite::Proceeding { give_up: now + timing.t1_64(), cancelled: true };
        }
    }

    /// Waits for its final response until this moment, whatever was said before; whether none has come.
    pub fn wait_until(&mut self, until: Instant) -> bool {
        let (Invite::Calling { give_up, .. } | Invite::Proceeding { give_up, .. }) = &mut self.state else {
            return false;
        };
        *give_up = until;
        true
    }

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            Invite::Calling { give_up, .. } if self.reliability.is_reliable() => Some(give_up),
            Invite::Calling { resend, give_up } => Some(give_up.min(resend.at)),
            Invite::Proceeding { give_up, .. } => Some(give_up),
            Invite::Completed { until } | Invite::Accepted { until } => Some(until),
        }
    }

    /// A deadline may have come.
    pub fn on_deadline(&mut self, now: Instant) -> Due {
        match &mut self.state {
            Invite::Calling { give_up, .. } | Invite::Proceeding { give_up, .. } if *give_up <= now => Due::TimedOut,
            Invite::Calling { resend, .. } if !self.reliability.is_reliable() && resend.at <= now => {
                // Timer A doubles without a bound (RFC 3261 §17.1.1.2).
                resend.interval *= 2;
                resend.at = now + resend.interval;
                Due::Resend
            }
            Invite::Completed { until } | Invite::Accepted { until } if *until <= now => Due::Ended,
            _ => Due::Nothing,
        }
    }
}

/// The non-INVITE client transaction.
#[derive(Debug)]
pub struct OtherClient {
    state: Other,
    reliability: Reliability,
    /// It is not sent again for now.
    is_held: bool,
}

#[derive(Debug)]
enum Other {
    Trying { resend: Retry, give_up: Instant },
    Proceeding { resend: Retry, give_up: Instant },
    Completed { until: Instant },
}

impl OtherClient {
    /// The request was just sent.
    pub fn new(now: Instant, reliability: Reliability, timing: &Timing) -> Self {
        let resend = Retry::first(now, timing);
        Self { state: Other::Trying { resend, give_up: now + timing.t1_64() }, reliability, is_held: false }
    }

    /// The request is not sent again, or is again as timer E has it; its response is waited for all the same.
    pub fn hold(&mut self, is_held: bool) {
        self.is_held = is_held;
    }

    fn is_sent_again(&self) -> bool {
        !self.reliability.is_reliable() && !self.is_held
    }

    /// The request is sent by an unreliable transport now, because it could not go by a reliable one: timer E begins.
    pub fn leave_stream(&mut self, now: Instant, timing: &Timing) {
        self.reliability = Reliability::Unreliable;
        if let Other::Trying { resend, .. } = &mut self.state {
            *resend = Retry::first(now, timing);
        }
    }

    /// A response came.
    pub fn on_response(&mut self, now: Instant, status: u16, timing: &Timing) -> Verdict {
        match &self.state {
            Other::Completed { .. } => Verdict::default(),
            Other::Trying { resend, give_up } | Other::Proceeding { resend, give_up } if status < 200 => {
                self.state = Other::Proceeding { resend: *resend, give_up: *give_up };
                Verdict { pass: true, ..Verdict::default() }
            }
            Other::Trying { .. } | Other::Proceeding { .. } => {
                self.state = Other::Completed { until: now + timing.t4 };
                Verdict { pass: true, ended: self.reliability.is_reliable(), ..Verdict::default() }
            }
        }
    }

    /// Whether a provisional response has come, and no final one.
    pub fn is_proceeding(&self) -> bool {
        matches!(self.state, Other::Proceeding { .. })
    }

    /// Waits for a first response until this moment, whatever was said before; whether none has come.
    pub fn wait_until(&mut self, until: Instant) -> bool {
        let Other::Trying { give_up, .. } = &mut self.state else { return false };
        *give_up = until;
        true
    }

    /// Whether no final response has come.
    pub fn is_pending(&self) -> bool {
        !matches!(self.state, Other::Completed { .. })
    }

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            Other::Trying { give_up, .. } | Other::Proceeding { give_up, .. } if !self.is_sent_again() => Some(give_up),
            Other::Trying { resend, give_up } | Other::Proceeding { resend, give_up } => Some(give_up.min(resend.at)),
            Other::Completed { until } => Some(until),
        }
    }

    /// A deadline may have come.
    pub fn on_deadline(&mut self, now: Instant, timing: &Timing) -> Due {
        let in_proceeding = matches!(self.state, Other::Proceeding { .. });
        let is_sent_again = self.is_sent_again();
        match &mut self.state {
            Other::Trying { give_up, .. } | Other::Proceeding { give_up, .. } if *give_up <= now => Due::TimedOut,
            Other::Trying { resend, .. } | Other::Proceeding { resend, .. } if is_sent_again && resend.at <= now => {
                resend.interval = if in_proceeding { timing.t2 } else { (resend.interval * 2).min(timing.t2) };
                resend.at = now + resend.interval;
                Due::Resend
            }
            Other::Completed { until } if *until <= now => Due::Ended,
            _ => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::Reliability::{Reliable, Unreliable};

    const NOTHING: Verdict = Verdict { pass: false, ack: false, ended: false };
    const PASS: Verdict = Verdict { pass: true, ..NOTHING };

    fn invite(now: Instant, reliability: Reliability, statuses: &[u16]) -> InviteClient {
        let mut machine = InviteClient::new(now, reliability, &Timing::default());
        for status in statuses {
            machine.on_response(now, *status, &Timing::default());
        }
        machine
    }

    fn other(now: Instant, reliability: Reliability, statuses: &[u16]) -> OtherClient {
        let mut machine = OtherClient::new(now, reliability, &Timing::default());
        for status in statuses {
            machine.on_response(now, *status, &Timing::default());
        }
        machine
    }

    fn invite_state(machine: &InviteClient) -> &'static str {
        match machine.state {
            Invite::Calling { .. } => "Calling",
            Invite::Proceeding { .. } => "Proceeding",
            Invite::Completed { .. } => "Completed",
            Invite::Accepted { .. } => "Accepted",
        }
    }

    fn other_state(machine: &OtherClient) -> &'static str {
        match machine.state {
            Other::Trying { .. } => "Trying",
            Other::Proceeding { .. } => "Proceeding",
            Other::Completed { .. } => "Completed",
        }
    }

    /// Fires every deadline of a machine: what it asked for, and after how many milliseconds.
    fn deadlines<M>(
        start: Instant,
        machine: &mut M,
        next: impl Fn(&M) -> Option<Instant>,
        fire: impl Fn(&mut M, Instant) -> Due,
    ) -> Vec<(Due, u128)> {
        let mut fired = Vec::new();
        while let Some(at) = next(machine) {
            let early = at.checked_sub(Duration::from_millis(1)).unwrap();
            assert_eq!(fire(machine, early), Due::Nothing, "never early");
            let due = fire(machine, at);
            fired.push((due, (at - start).as_millis()));
            if matches!(due, Due::Ended | Due::TimedOut) {
                break;
            }
        }
        fired
    }

    fn invite_deadlines(start: Instant, mut machine: InviteClient) -> Vec<(Due, u128)> {
        deadlines(start, &mut machine, InviteClient::deadline, InviteClient::on_deadline)
    }

    fn other_deadlines(start: Instant, mut machine: OtherClient) -> Vec<(Due, u128)> {
        deadlines(start, &mut machine, OtherClient::deadline, |m, at| m.on_deadline(at, &Timing::default()))
    }

    #[test]
    fn an_invite_client_walks_every_row_of_its_table() {
        let now = Instant::now();
        let fail = Verdict { pass: true, ack: true, ended: false };
        let ack = Verdict { ack: true, ..NOTHING };
        let rows: &[(&[u16], u16, Verdict, &str)] = &[
            (&[], 100, PASS, "Proceeding"),
            (&[], 183, PASS, "Proceeding"),
            (&[], 200, PASS, "Accepted"),
            (&[], 302, fail, "Completed"),
            (&[], 699, fail, "Completed"),
            (&[180], 100, PASS, "Proceeding"),
            (&[180], 199, PASS, "Proceeding"),
            (&[180], 299, PASS, "Accepted"),
            (&[180], 300, fail, "Completed"),
            (&[180], 603, fail, "Completed"),
            (&[486], 180, NOTHING, "Completed"),
            (&[486], 200, NOTHING, "Completed"),
            (&[486], 486, ack, "Completed"),
            (&[200], 180, NOTHING, "Accepted"),
            (&[200], 200, PASS, "Accepted"),
            (&[200], 486, NOTHING, "Accepted"),
        ];
        for (path, status, verdict, state) in rows {
            for reliability in [Unreliable, Reliable] {
                let mut machine = invite(now, reliability, path);
                let from = invite_state(&machine);
                // Timer D is zero over a reliable transport: the first failure ends the transaction.
                let ended = reliability.is_reliable() && *verdict == fail;
                let got = machine.on_response(now, *status, &Timing::default());
                assert_eq!(got, Verdict { ended, ..*verdict }, "{from} {status} {reliability:?}");
                assert_eq!(invite_state(&machine), *state, "{from} {status}");
            }
        }
    }

    #[test]
    fn timer_a_doubles_until_timer_b_and_never_runs_over_a_reliable_transport() {
        let now = Instant::now();
        let resends = [500, 1500, 3500, 7500, 15_500, 31_500].map(|at| (Due::Resend, at));
        let expected: Vec<_> = resends.into_iter().chain([(Due::TimedOut, 32_000)]).collect();
        assert_eq!(invite_deadlines(now, invite(now, Unreliable, &[])), expected);
        assert_eq!(invite_deadlines(now, invite(now, Reliable, &[])), [(Due::TimedOut, 32_000)]);
    }

    #[test]
    fn timer_c_is_restarted_by_each_1xx_but_100_and_timers_d_and_m_end_what_is_over() {
        let now = Instant::now();
        let minutes = |n: u64| Duration::from_secs(60 * n);
        for reliability in [Unreliable, Reliable] {
            assert_eq!(invite_deadlines(now, invite(now, reliability, &[100])), [(Due::TimedOut, 660_000)], "C");
            let mut machine = invite(now, reliability, &[180]);
            machine.on_response(now + minutes(5), 100, &Timing::default());
            assert_eq!(machine.deadline(), Some(now + minutes(11)));
            machine.on_response(now + minutes(10), 180, &Timing::default());
            assert_eq!(machine.deadline(), Some(now + minutes(21)));
            assert_eq!(invite_deadlines(now, invite(now, reliability, &[200])), [(Due::Ended, 32_000)], "M");
        }
        assert_eq!(invite_deadlines(now, invite(now, Unreliable, &[486])), [(Due::Ended, 32_000)], "D");
    }

    #[test]
    fn a_cancelled_invite_waits_64_t1_for_its_end_and_no_1xx_makes_it_longer() {
        let now = Instant::now();
        let mut machine = invite(now, Unreliable, &[180]);
        assert!(machine.may_cancel() && machine.is_pending());
        machine.on_cancelled(now, &Timing::default());
        machine.on_response(now + Duration::from_secs(20), 180, &Timing::default());
        assert_eq!(invite_deadlines(now, machine), [(Due::TimedOut, 32_000)]);
        assert!(!invite(now, Unreliable, &[]).may_cancel(), "before any 1xx (RFC 3261 §9.1)");
        assert!(!invite(now, Unreliable, &[200]).may_cancel() && !invite(now, Unreliable, &[486]).is_pending());
    }

    #[test]
    fn another_client_walks_every_row_of_its_table() {
        let now = Instant::now();
        let rows: &[(&[u16], u16, Verdict, &str)] = &[
            (&[], 100, PASS, "Proceeding"),
            (&[], 199, PASS, "Proceeding"),
            (&[], 200, PASS, "Completed"),
            (&[], 699, PASS, "Completed"),
            (&[100], 100, PASS, "Proceeding"),
            (&[100], 200, PASS, "Completed"),
            (&[100], 404, PASS, "Completed"),
            (&[200], 100, NOTHING, "Completed"),
            (&[200], 200, NOTHING, "Completed"),
            (&[200], 500, NOTHING, "Completed"),
        ];
        for (path, status, verdict, state) in rows {
            for reliability in [Unreliable, Reliable] {
                let mut machine = other(now, reliability, path);
                let from = other_state(&machine);
                let ended = reliability.is_reliable() && verdict.pass && *state == "Completed";
                let got = machine.on_response(now, *status, &Timing::default());
                assert_eq!(got, Verdict { ended, ..*verdict }, "{from} {status} {reliability:?}");
                assert_eq!((other_state(&machine), machine.is_pending()), (*state, *state != "Completed"));
            }
        }
    }

    #[test]
    fn timer_e_doubles_to_t2_until_timer_f_and_timer_k_ends_what_is_answered() {
        let now = Instant::now();
        let trying = [500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500];
        let expected = |resends: &[u128]| -> Vec<(Due, u128)> {
            resends.iter().map(|at| (Due::Resend, *at)).chain([(Due::TimedOut, 32_000)]).collect()
        };
        assert_eq!(other_deadlines(now, other(now, Unreliable, &[])), expected(&trying));
        let proceeding = [500, 4500, 8500, 12_500, 16_500, 20_500, 24_500, 28_500];
        assert_eq!(other_deadlines(now, other(now, Unreliable, &[100])), expected(&proceeding), "E at T2 after a 1xx");
        for path in [&[][..], &[100]] {
            assert_eq!(other_deadlines(now, other(now, Reliable, path)), [(Due::TimedOut, 32_000)]);
        }
        assert_eq!(other_deadlines(now, other(now, Unreliable, &[200])), [(Due::Ended, 5_000)], "K");
    }
}
