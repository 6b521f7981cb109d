//! A REGISTER that was not accepted: what is tried again, after how long, and what ends.
//!
//! Whether the third refusal ends an account is the shell's word: it alone knows whether the same server refuses others, too. Until it has
//! unbound the account, that is asked for once in [`refused_twice`](BackOff::refused_twice).
//!
//! Invariant: refused credentials are tried far apart, and only where they had been accepted before.

use std::time::{Duration, Instant};

use super::{Goal, REFUSALS_MAX, Registration, RegistrationFailure, State, Step};
use crate::flow::back_off;
use crate::random::Random;
use crate::timing::BackOff;

impl Registration {
    pub(super) fn retry(
        &mut self,
        now: Instant,
        status: Option<u16>,
        timing: &BackOff,
        retry_after: Option<Duration>,
        random: &mut Random,
    ) -> Step {
        if self.goal != Goal::Registered {
            self.state = State::LetGo;
            self.registered = false;
            return Step::Unregistered { confirmed: false };
        }
        if status.is_some() {
            // Refusals count in a row.
            self.refusals = 0;
        }
        self.pause_until(None);
        self.failures = self.failures.saturating_add(1);
        let after = back_off(self.failures, timing, random).max(retry_after.unwrap_or_default());
        self.state = State::BackingOff { until: now + after, told: retry_after.is_some() };
        self.registered = false;
        Step::Failed(RegistrationFailure::Retry { status, after })
    }

    /// What may have stood in its way is gone: it waits no longer, unless it was told for how long.
    pub fn on_server_back(&mut self) -> Step {
        match self.state {
            State::BackingOff { told: true, .. } => Step::Nothing,
            _ => self.on_server_changed(),
        }
    }

    /// Whether it may begin before its wait is over, because the SIP server grants others: once, until it has waited in full. `all`: that
    /// server had served nobody; else only one that has failed once, for the failure may be its own.
    pub fn may_hurry(&self, all: bool) -> bool {
        let waits = matches!(self.state, State::BackingOff { told: false, .. }) && self.paused_until().is_none();
        waits && !self.hurried && (all || self.failures <= 1)
    }

    /// It begins before its wait is over.
    pub fn hurry(&mut self) -> Step {
        self.hurried = true;
        self.on_server_changed()
    }

    /// Another server is there than the one that turned it away: it waits no longer.
    pub fn on_server_changed(&mut self) -> Step {
        match self.state {
            // Another address of the same server would ban as well who shows it refused credentials again.
            State::BackingOff { .. } if self.paused_until().is_none() => {
                self.state = State::Waiting;
                Step::WantFlow
            }
            _ => Step::Nothing,
        }
    }

    /// The SIP server refuses the credentials. An account that was registered before is tried again, far apart.
    pub(super) fn credentials_refused(
        &mut self,
        now: Instant,
        status: u16,
        waits: &BackOff,
        random: &mut Random,
    ) -> Step {
        self.is_refused = !self.challenges.is_empty();
        if !self.established || self.goal != Goal::Registered {
            return self.refused(status);
        }
        let pause = if self.refusals == 0 { waits.refused_once } else { waits.refused_twice };
        self.refusals = (self.refusals + 1).min(REFUSALS_MAX);
        self.challenges.clear();
        let millis = pause.as_millis() as u64;
        let after = Duration::from_millis(random.between(millis, millis * 11 / 10));
        self.state = State::BackingOff { until: now + after, told: false };
        self.pause_until(Some(now + after));
        self.registered = false;
        Step::Failed(RegistrationFailure::CredentialsRefused { status, in_a_row: self.refusals, after })
    }

    pub(super) fn refused(&mut self, status: u16) -> Step {
        self.challenges.clear();
        self.state = State::Refused;
        self.registered = false;
        match self.goal {
            Goal::Registered => Step::Failed(RegistrationFailure::Refused { status }),
            Goal::Silent | Goal::Gone => Step::Unregistered { confirmed: false },
        }
    }
}
