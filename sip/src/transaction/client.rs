//! Client transactions: what was asked, until it is answered.
//!
//! | INVITE | 1xx | 2xx | 300–699 | deadline |
//! | --- | --- | --- | --- | --- |
//! | Calling | pass → Proceeding | pass → Accepted | pass, ACK → Completed | A: resend · B: time out |
//! | Proceeding | pass | pass → Accepted | pass, ACK → Completed | C, or 64·T1 after a CANCEL: time out |
//! | Completed | – | – | ACK again | D: end |
//! | Accepted | – | pass | – | M: end |
//!
//! | other | 1xx | 200–699 | deadline |
//! | --- | --- | --- | --- |
//! | Trying | pass → Proceeding | pass → Completed | E: resend · F: time out |
//! | Proceeding | pass | pass → Completed | E (at T2): resend · F: time out |
//! | Completed | – | – | K: end |
//!
//! Invariant: over a reliable transport nothing is sent twice, and D and K are zero.

use std::time::{Duration, Instant};

use super::{Due, Timing};

/// Timer C (RFC 3261 §16.6: more than three minutes): how long a provisional response keeps an INVITE alive.
pub const TIMER_C: Duration = Duration::from_secs(11 * 60);

/// What follows from a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Verdict {
    /// The user must see it.
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
    reliable: bool,
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

impl InviteClient {
    /// The INVITE was just sent.
    pub fn new(now: Instant, reliable: bool, timing: &Timing) -> Self {
        let resend = Retry { at: now + timing.t1, interval: timing.t1 };
        Self { state: Invite::Calling { resend, give_up: now + timing.t1_64() }, reliable }
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
                if !cancelled {
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
                Verdict { pass: true, ack: true, ended: self.reliable }
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

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            Invite::Calling { give_up, .. } if self.reliable => Some(give_up),
            Invite::Calling { resend, give_up } => Some(give_up.min(resend.at)),
            Invite::Proceeding { give_up, .. } => Some(give_up),
            Invite::Completed { until } | Invite::Accepted { until } => Some(until),
        }
    }

    /// A deadline may have come.
    pub fn on_deadline(&mut self, now: Instant) -> Due {
        match &mut self.state {
            Invite::Calling { give_up, .. } | Invite::Proceeding { give_up, .. } if *give_up <= now => Due::TimedOut,
            Invite::Calling { resend, .. } if !self.reliable && resend.at <= now => {
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
    reliable: bool,
}

#[derive(Debug)]
enum Other {
    Trying { resend: Retry, give_up: Instant },
    Proceeding { resend: Retry, give_up: Instant },
    Completed { until: Instant },
}

impl OtherClient {
    /// The request was just sent.
    pub fn new(now: Instant, reliable: bool, timing: &Timing) -> Self {
        let resend = Retry { at: now + timing.t1, interval: timing.t1 };
        Self { state: Other::Trying { resend, give_up: now + timing.t1_64() }, reliable }
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
                Verdict { pass: true, ended: self.reliable, ..Verdict::default() }
            }
        }
    }

    /// Whether no final response has come.
    pub fn is_pending(&self) -> bool {
        !matches!(self.state, Other::Completed { .. })
    }

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            Other::Trying { give_up, .. } | Other::Proceeding { give_up, .. } if self.reliable => Some(give_up),
            Other::Trying { resend, give_up } | Other::Proceeding { resend, give_up } => Some(give_up.min(resend.at)),
            Other::Completed { until } => Some(until),
        }
    }

    /// A deadline may have come.
    pub fn on_deadline(&mut self, now: Instant, timing: &Timing) -> Due {
        let in_proceeding = matches!(self.state, Other::Proceeding { .. });
        match &mut self.state {
            Other::Trying { give_up, .. } | Other::Proceeding { give_up, .. } if *give_up <= now => Due::TimedOut,
            Other::Trying { resend, .. } | Other::Proceeding { resend, .. } if !self.reliable && resend.at <= now => {
                resend.interval = if in_proceeding { timing.t2 } else { (resend.interval * 2).min(timing.t2) };
                resend.at = now + resend.interval;
                Due::Resend
            }
            Other::Completed { until } if *until <= now => Due::Ended,
            _ => Due::Nothing,
        }
    }
}
