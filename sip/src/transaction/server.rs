//! Server transactions: what we were asked, until our answer has surely arrived.
//!
//! | INVITE | INVITE again | answer 1xx | answer 2xx | answer 300–699 | ACK | deadline |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | Proceeding | last 1xx again | send | send → Accepted | send → Completed | – | – |
//! | Completed | final again | – | – | – | → Confirmed | G: resend · H: time out |
//! | Confirmed | – | – | – | – | – | I: end |
//! | Accepted | – | – | send | – | pass | L: end |
//!
//! | other | request again | answer 100 | answer 101–199 | answer 408 | other final answer | deadline |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | Trying | – | send → Proceeding | – | → Completed | send → Completed | – |
//! | Proceeding | last 1xx again | send | – | → Completed | send → Completed | – |
//! | Completed | final again | – | – | – | – | J: end |
//!
//! Another request than INVITE gets no provisional answer but 100, and never 408: its sender has timed out by then (RFC
//! 4320 §4.1, §4.2).
//!
//! Invariant: a final answer is given once; a 2xx to INVITE may be passed on again, as the user agent sends it (RFC 6026).

use std::time::{Duration, Instant};

use super::{Due, Reliability, Timing};

/// The INVITE server transaction.
#[derive(Debug)]
pub struct InviteServer {
    state: Invite,
    reliability: Reliability,
}

#[derive(Debug)]
enum Invite {
    Proceeding,
    Completed { resend_at: Instant, interval: Duration, give_up: Instant },
    Confirmed { until: Instant },
    Accepted { until: Instant },
}

impl InviteServer {
    /// The INVITE just came.
    pub fn new(reliability: Reliability) -> Self {
        Self { state: Invite::Proceeding, reliability }
    }

    /// The user answers; whether the answer may be sent.
    pub fn on_answer(&mut self, now: Instant, status: u16, timing: &Timing) -> bool {
        match (&self.state, status) {
            (Invite::Proceeding, ..200) => true,
            (Invite::Proceeding, 200..300) => {
                self.state = Invite::Accepted { until: now + timing.t1_64() };
                true
            }
            (Invite::Proceeding, _) => {
                let (interval, give_up) = (timing.t1, now + timing.t1_64());
                self.state = Invite::Completed { resend_at: now + interval, interval, give_up };
                true
            }
            (Invite::Accepted { .. }, 200..300) => true,
            _ => false,
        }
    }

    /// The INVITE came again; whether the last answer is sent again.
    pub fn on_again(&self) -> bool {
        matches!(self.state, Invite::Proceeding | Invite::Completed { .. })
    }

    /// An ACK with the INVITE's branch came.
    pub fn on_ack(&mut self, now: Instant, timing: &Timing) {
        if matches!(self.state, Invite::Completed { .. }) {
            let linger = if self.reliability.is_reliable() { Duration::ZERO } else { timing.t4 };
            self.state = Invite::Confirmed { until: now + linger };
        }
    }

    /// Whether no final answer was given.
    pub fn is_pending(&self) -> bool {
        matches!(self.state, Invite::Proceeding)
    }

    /// Whether its refusal was acknowledged.
    pub fn is_acknowledged(&self) -> bool {
        matches!(self.state, Invite::Confirmed { .. })
    }

    /// Whether a 2xx was passed on.
    pub fn is_accepted(&self) -> bool {
        matches!(self.state, Invite::Accepted { .. })
    }

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            Invite::Proceeding => None,
            Invite::Completed { give_up, .. } if self.reliability.is_reliable() => Some(give_up),
            Invite::Completed { resend_at, give_up, .. } => Some(resend_at.min(give_up)),
            Invite::Confirmed { until } | Invite::Accepted { until } => Some(until),
        }
    }

    /// A deadline may have come.
    pub fn on_deadline(&mut self, now: Instant, timing: &Timing) -> Due {
        match &mut self.state {
            Invite::Completed { give_up, .. } if *give_up <= now => Due::TimedOut,
            Invite::Completed { resend_at, interval, .. } if !self.reliability.is_reliable() && *resend_at <= now => {
                *interval = (*interval * 2).min(timing.t2);
                *resend_at = now + *interval;
                Due::Resend
            }
            Invite::Confirmed { until } | Invite::Accepted { until } if *until <= now => Due::Ended,
            _ => Due::Nothing,
        }
    }
}

/// The non-INVITE server transaction.
#[derive(Debug)]
pub struct OtherServer {
    state: Other,
    reliability: Reliability,
}

#[derive(Debug)]
enum Other {
    Trying,
    Proceeding,
    Completed { until: Instant },
}

impl OtherServer {
    /// The request just came.
    pub fn new(reliability: Reliability) -> Self {
        Self { state: Other::Trying, reliability }
    }

    /// The user answers; whether the answer may be sent.
    pub fn on_answer(&mut self, now: Instant, status: u16, timing: &Timing) -> bool {
        match (&self.state, status) {
            (Other::Completed { .. }, _) | (_, 101..200) => false,
            (Other::Trying | Other::Proceeding, ..200) => {
                self.state = Other::Proceeding;
                true
            }
            (Other::Trying | Other::Proceeding, _) => {
                let linger = if self.reliability.is_reliable() { Duration::ZERO } else { timing.t1_64() };
                self.state = Other::Completed { until: now + linger };
                status != 408
            }
        }
    }

    /// The stream ended before the request was answered: its answer is kept for 64·T1, as where messages are lost.
    pub fn outlive_stream(&mut self) {
        self.reliability = Reliability::Unreliable;
    }

    /// The request came again; whether the last answer is sent again.
    pub fn on_again(&self) -> bool {
        !matches!(self.state, Other::Trying)
    }

    /// Whether no final answer was given.
    pub fn is_pending(&self) -> bool {
        !matches!(self.state, Other::Completed { .. })
    }

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            Other::Completed { until } => Some(until),
            Other::Trying | Other::Proceeding => None,
        }
    }

    /// A deadline may have come.
    pub fn on_deadline(&self, now: Instant) -> Due {
        match self.state {
            Other::Completed { until } if until <= now => Due::Ended,
            _ => Due::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transaction::Reliability::{Reliable, Unreliable};

    const T: fn() -> Timing = Timing::default;

    fn invite(now: Instant, reliability: Reliability, state: &str) -> InviteServer {
        let mut machine = InviteServer::new(reliability);
        let status = match state {
            "Proceeding" => 180,
            "Accepted" => 200,
            _ => 486,
        };
        assert!(machine.on_answer(now, status, &T()));
        if state == "Confirmed" {
            machine.on_ack(now, &T());
        }
        assert_eq!(invite_state(&machine), state);
        machine
    }

    fn other(now: Instant, reliability: Reliability, state: &str) -> OtherServer {
        let mut machine = OtherServer::new(reliability);
        match state {
            "Proceeding" => assert!(machine.on_answer(now, 100, &T())),
            "Completed" => assert!(machine.on_answer(now, 200, &T())),
            _ => {}
        }
        assert_eq!(other_state(&machine), state);
        machine
    }

    fn invite_state(machine: &InviteServer) -> &'static str {
        match machine.state {
            Invite::Proceeding => "Proceeding",
            Invite::Completed { .. } => "Completed",
            Invite::Confirmed { .. } => "Confirmed",
            Invite::Accepted { .. } => "Accepted",
        }
    }

    fn other_state(machine: &OtherServer) -> &'static str {
        match machine.state {
            Other::Trying => "Trying",
            Other::Proceeding => "Proceeding",
            Other::Completed { .. } => "Completed",
        }
    }

    fn invite_deadlines(start: Instant, mut machine: InviteServer) -> Vec<(Due, u128)> {
        let mut fired = Vec::new();
        while let Some(at) = machine.deadline() {
            assert_eq!(machine.on_deadline(at.checked_sub(Duration::from_millis(1)).unwrap(), &T()), Due::Nothing);
            let due = machine.on_deadline(at, &T());
            fired.push((due, (at - start).as_millis()));
            if matches!(due, Due::Ended | Due::TimedOut) {
                break;
            }
        }
        fired
    }

    #[test]
    fn an_invite_server_walks_every_row_of_its_table() {
        let now = Instant::now();
        let rows = [
            ("Proceeding", 100, true, "Proceeding"),
            ("Proceeding", 199, true, "Proceeding"),
            ("Proceeding", 200, true, "Accepted"),
            ("Proceeding", 300, true, "Completed"),
            ("Proceeding", 699, true, "Completed"),
            ("Completed", 180, false, "Completed"),
            ("Completed", 200, false, "Completed"),
            ("Completed", 487, false, "Completed"),
            ("Confirmed", 180, false, "Confirmed"),
            ("Confirmed", 200, false, "Confirmed"),
            ("Confirmed", 487, false, "Confirmed"),
            ("Accepted", 180, false, "Accepted"),
            ("Accepted", 200, true, "Accepted"),
            ("Accepted", 487, false, "Accepted"),
        ];
        for (from, status, sent, to) in rows {
            for reliability in [Unreliable, Reliable] {
                let mut machine = invite(now, reliability, from);
                assert_eq!(machine.on_answer(now, status, &T()), sent, "{from} {status}");
                assert_eq!(invite_state(&machine), to, "{from} {status}");
            }
        }
        for (state, again, after_ack) in [
            ("Proceeding", true, "Proceeding"),
            ("Completed", true, "Confirmed"),
            ("Confirmed", false, "Confirmed"),
            // RFC 6026 §7.1: a retransmission is absorbed, and the ACK is the user's.
            ("Accepted", false, "Accepted"),
        ] {
            let mut machine = invite(now, Unreliable, state);
            assert_eq!(machine.on_again(), again, "{state}");
            assert_eq!((machine.is_pending(), machine.is_accepted()), (state == "Proceeding", state == "Accepted"));
            machine.on_ack(now, &T());
            assert_eq!(invite_state(&machine), after_ack);
        }
    }

    #[test]
    fn timer_g_doubles_to_t2_until_timer_h_and_timers_i_and_l_end_what_is_over() {
        let now = Instant::now();
        let resends = [500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500];
        let expected: Vec<_> =
            resends.map(|at| (Due::Resend, at)).into_iter().chain([(Due::TimedOut, 32_000)]).collect();
        assert_eq!(invite_deadlines(now, invite(now, Unreliable, "Completed")), expected, "G and H");
        assert_eq!(invite_deadlines(now, invite(now, Reliable, "Completed")), [(Due::TimedOut, 32_000)], "H alone");
        assert_eq!(invite_deadlines(now, invite(now, Unreliable, "Confirmed")), [(Due::Ended, 5_000)], "I");
        assert_eq!(invite_deadlines(now, invite(now, Reliable, "Confirmed")), [(Due::Ended, 0)], "I is zero");
        for reliability in [Unreliable, Reliable] {
            assert_eq!(invite_deadlines(now, invite(now, reliability, "Accepted")), [(Due::Ended, 32_000)], "L");
            assert_eq!(invite(now, reliability, "Proceeding").deadline(), None, "its user will answer");
        }
    }

    #[test]
    fn another_server_walks_every_row_of_its_table() {
        let now = Instant::now();
        let rows = [
            ("Trying", 100, true, "Proceeding"),
            ("Trying", 180, false, "Trying"),
            ("Trying", 200, true, "Completed"),
            ("Trying", 408, false, "Completed"),
            ("Trying", 699, true, "Completed"),
            ("Proceeding", 100, true, "Proceeding"),
            ("Proceeding", 199, false, "Proceeding"),
            ("Proceeding", 200, true, "Completed"),
            ("Proceeding", 408, false, "Completed"),
            ("Completed", 100, false, "Completed"),
            ("Completed", 200, false, "Completed"),
            ("Completed", 408, false, "Completed"),
        ];
        for (from, status, sent, to) in rows {
            for reliability in [Unreliable, Reliable] {
                let mut machine = other(now, reliability, from);
                assert_eq!(machine.on_answer(now, status, &T()), sent, "{from} {status}");
                assert_eq!((other_state(&machine), machine.is_pending()), (to, to != "Completed"), "{from} {status}");
            }
        }
        for (state, again) in [("Trying", false), ("Proceeding", true), ("Completed", true)] {
            assert_eq!(other(now, Unreliable, state).on_again(), again, "{state}");
        }
    }

    #[test]
    fn timer_j_keeps_an_answer_for_64_t1_and_no_time_over_a_reliable_transport() {
        let now = Instant::now();
        for (reliability, millis) in [(Unreliable, 32_000), (Reliable, 0)] {
            let machine = other(now, reliability, "Completed");
            let at = now + Duration::from_millis(millis);
            assert_eq!(machine.deadline(), Some(at));
            assert_eq!(machine.on_deadline(at), Due::Ended);
            assert_eq!(machine.on_deadline(now), if reliability.is_reliable() { Due::Ended } else { Due::Nothing });
        }
        assert_eq!(other(now, Unreliable, "Trying").deadline(), None);
        assert_eq!(other(now, Unreliable, "Proceeding").deadline(), None);
    }
}
