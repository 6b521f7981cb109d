//! Server transactions: what we were asked, until our answer has surely arrived.
//!
//! | INVITE | INVITE again | answer 1xx | answer 2xx | answer 300–699 | ACK | deadline |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | Proceeding | last 1xx again | send | send → Accepted | send → Completed | – | – |
//! | Completed | final again | – | – | – | → Confirmed | G: resend · H: time out |
//! | Confirmed | – | – | – | – | – | I: end |
//! | Accepted | – | – | send | – | pass | L: end |
//!
//! | other | request again | answer 1xx | answer 200–699 | deadline |
//! | --- | --- | --- | --- | --- |
//! | Trying | – | send → Proceeding | send → Completed | – |
//! | Proceeding | last 1xx again | send | send → Completed | – |
//! | Completed | final again | – | – | J: end |
//!
//! Invariant: a final answer is given once; a 2xx to INVITE may be passed on again, as the user agent sends it (RFC 6026).

use std::time::{Duration, Instant};

use super::{Due, Timing};

/// The INVITE server transaction.
#[derive(Debug)]
pub struct InviteServer {
    state: Invite,
    reliable: bool,
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
    pub fn new(reliable: bool) -> Self {
        Self { state: Invite::Proceeding, reliable }
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
            let linger = if self.reliable { Duration::ZERO } else { timing.t4 };
            self.state = Invite::Confirmed { until: now + linger };
        }
    }

    /// Whether no final answer was given.
    pub fn is_pending(&self) -> bool {
        matches!(self.state, Invite::Proceeding)
    }

    /// Whether a 2xx was passed on.
    pub fn is_accepted(&self) -> bool {
        matches!(self.state, Invite::Accepted { .. })
    }

    /// When [`Self::on_deadline`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            Invite::Proceeding => None,
            Invite::Completed { give_up, .. } if self.reliable => Some(give_up),
            Invite::Completed { resend_at, give_up, .. } => Some(resend_at.min(give_up)),
            Invite::Confirmed { until } | Invite::Accepted { until } => Some(until),
        }
    }

    /// A deadline may have come.
    pub fn on_deadline(&mut self, now: Instant, timing: &Timing) -> Due {
        match &mut self.state {
            Invite::Completed { give_up, .. } if *give_up <= now => Due::TimedOut,
            Invite::Completed { resend_at, interval, .. } if !self.reliable && *resend_at <= now => {
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
    reliable: bool,
}

#[derive(Debug)]
enum Other {
    Trying,
    Proceeding,
    Completed { until: Instant },
}

impl OtherServer {
    /// The request just came.
    pub fn new(reliable: bool) -> Self {
        Self { state: Other::Trying, reliable }
    }

    /// The user answers; whether the answer may be sent.
    pub fn on_answer(&mut self, now: Instant, status: u16, timing: &Timing) -> bool {
        match self.state {
            Other::Completed { .. } => false,
            Other::Trying | Other::Proceeding => {
                let linger = if self.reliable { Duration::ZERO } else { timing.t1_64() };
                self.state = if status < 200 { Other::Proceeding } else { Other::Completed { until: now + linger } };
                true
            }
        }
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
