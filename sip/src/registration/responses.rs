//! The responses to the REGISTER that is under way, by the table in [`super`].
//!
//! Invariant: a response to any other REGISTER changes nothing here: see [`crossed`](super::crossed) and [`late`](super::late).

use std::time::{Duration, Instant};

use super::challenges::{Challenger, Verdict};
use super::earlier::Named;
use super::grant::{self, OwnContact, RegistrarInfo};
use super::refusals::{leads_anywhere, leads_to, retry_after};
use super::{Attempt, EXPIRES_MAX, FinalResponse, Goal, Registration, State, Step, Terms};
use crate::id::BranchId;
use crate::message::Message;
use crate::random::Random;

/// A registration is not refreshed sooner than this, however short it was granted, so that a hostile registrar cannot make the relay spin.
const REFRESH_MIN: Duration = Duration::from_secs(1);

/// Whether a status may mean that one Contact is too many: it is a refusal that no other request is to follow by, and none that passes by itself.
fn is_of_contacts(status: u16) -> bool {
    matches!(status, 400 | 403..=407 | 409..=422 | 424..=428 | 431..=438 | 440..=479 | 481..=499 | 600..=699)
}

impl Registration {
    /// A response to the REGISTER that is under way.
    pub fn on_response(
        &mut self,
        now: Instant,
        branch: BranchId,
        response: &Message,
        terms: &Terms<'_>,
        random: &mut Random,
    ) -> Step {
        let State::Sent { branch: waiting_for, attempt, goal, .. } = self.state else { return Step::Nothing };
        let Some(status) = response.status().filter(|status| *status >= 200 && branch == waiting_for) else {
            return Step::Nothing;
        };
        if status >= 300 && attempt.named != Named::Earlier {
            self.bound.on_refusal(status);
        }
        let response = FinalResponse { now, status, message: response, terms, random };
        if goal != self.goal {
            return self.on_crossed(goal, attempt, response);
        }
        let step = self.on_wanted(attempt, response);
        self.await_overtaken(step)
    }

    /// An answer to what is wanted still.
    fn on_wanted(&mut self, attempt: Attempt, response: FinalResponse<'_>) -> Step {
        let FinalResponse { now, status, message, terms, .. } = response;
        match status {
            ..401 | 402..407 | 408.. if attempt.named == Named::Earlier => self.on_earlier_answered(attempt, response),
            ..300 => {
                self.forget_refused(attempt);
                self.on_success(response)
            }
            401 | 407 => self.on_challenge(attempt, response),
            423 if self.goal == Goal::Registered && !attempt.lengthened => self.on_too_brief(attempt, response),
            439 if self.outbound => {
                self.outbound = false;
                self.write(attempt, Vec::new())
            }
            _ if is_of_contacts(status) && self.name_alone(attempt, status) => {
                self.challenges.begin();
                self.write(Attempt { named: Named::Earlier, ..attempt }, Vec::new())
            }
            _ if is_of_contacts(status) && self.name_own(attempt, status) => {
                self.write(Attempt { named: Named::Own, ..attempt }, Vec::new())
            }
            _ if is_of_contacts(status) && self.forget_named() => {
                // The registrar may have refused the second Contact. One that was another node's stands where it cannot be named.
                let is_theirs = self.goal != Goal::Registered && !self.registered;
                if is_theirs {
                    self.state = State::Unregistered { at: None };
                    Step::Unregistered { confirmed: false }
                } else {
                    self.write(attempt, Vec::new())
                }
            }
            _ if is_of_contacts(status) && self.waits_for_another(attempt, status) => self.retry_by(response),
            300..=399 if leads_to(message, terms.registrar, self.contacts) => {
                if attempt.redirected {
                    return self.retry_by(response);
                }
                self.write(Attempt { redirected: true, ..attempt }, Vec::new())
            }
            300..=399 if !self.established && leads_anywhere(message) => self.refused(status),
            300..=399 | 408 | 423 | 429 | 430 | 439 | 480 | 500..=599 => {
                if status >= 400 && self.failures > 0 && !response.has_retry_after() {
                    // This is no passing fault: there may be one Contact too many.
                    self.name_alone(attempt, status);
                }
                self.retry_by(response)
            }
            403 if self.goal == Goal::Silent && self.established => {
                self.unregistration_forbidden(now, &terms.back_off, response.random)
            }
            403 if attempt.proven => self.retry_by(response),
            403 => self.credentials_refused(now, status, &terms.back_off, response.random),
            404 | 604 => self.put_off(now, status, &terms.back_off, response.random),
            _ if self.established => {
                // It may be an old nonce that is turned down so.
                self.challenges.rest();
                self.retry_by(response)
            }
            _ => self.refused(status),
        }
    }

    /// Tries again when the response says so, and not before the back-off.
    pub(super) fn retry_by(&mut self, response: FinalResponse<'_>) -> Step {
        let FinalResponse { now, status, message, terms, random } = response;
        self.retry(now, Some(status), &terms.back_off, retry_after(message), random)
    }

    fn on_success(&mut self, response: FinalResponse<'_>) -> Step {
        let FinalResponse { now, status, message: response, terms, random } = response;
        self.challenges.on_success(response);
        if self.goal != Goal::Registered {
            let left = grant::left(self.own_contact(), response);
            self.bound.on_listed(now, left);
            self.contacts.forget_others();
            if !left.is_zero() {
                return self.retry(now, Some(status), &terms.back_off, None, random);
            }
            (self.registered, self.failures) = (false, 0);
            self.state = State::Unregistered { at: Some(now) };
            return Step::Unregistered { confirmed: true };
        }
        let granted = grant::lifetime(self.own_contact(), response, self.expires);
        if granted.is_zero() {
            return self.retry(now, Some(status), &terms.back_off, None, random);
        }
        self.bound.on_listed(now, granted);
        let expires = granted.min(EXPIRES_MAX);
        let refresh = std::mem::replace(&mut self.registered, true);
        self.forget_named();
        (self.failures, self.established, self.refusals, self.is_refused) = (0, true, 0, false);
        self.hurried = false;
        self.granted_s = u16::try_from(expires.as_secs().max(1)).unwrap_or(u16::MAX);
        self.end_pauses();
        // The refresh is early enough for a second try, and never at the same moment for all. A registrar that grants more than was asked for is
        // asked as often as any other: otherwise the loss of all its bindings would be noticed the later, the more it grants. The lifetime that a 423
        // demands is then the one asked for.
        let millis = (expires.as_millis() as u64).min(u64::from(self.expires) * 1_000);
        let refresh_at = if self.has_earlier() {
            now
        } else {
            let after = Duration::from_millis(random.between(millis * 70 / 100, millis * 85 / 100));
            now + after.max(REFRESH_MIN)
        };
        self.state = State::Registered { refresh_at };
        Step::Registered { expires, refresh, renamed: self.read_info(response) }
    }

    /// Keeps what a 2xx says beside the lifetime; whether the binding's GRUUs are others than before.
    fn read_info(&mut self, response: &Message) -> bool {
        let info = RegistrarInfo::read(self.own_contact(), response);
        let renamed = info.gruus != self.gruus();
        if self.rare.is_some() || !info.is_empty() {
            self.with_rare(|rare| rare.info = info);
        }
        renamed
    }

    /// The Contact that the registrar is asked for.
    pub(super) fn own_contact(&self) -> OwnContact {
        OwnContact { binding: self.binding, instance: self.sip_instance }
    }

    fn on_challenge(&mut self, attempt: Attempt, response: FinalResponse<'_>) -> Step {
        let FinalResponse { now, status, terms, .. } = response;
        match self.challenges.on_challenge(Challenger::by(status), response.message, terms.hashes) {
            Verdict::Answer { others } => self.write(attempt, others),
            Verdict::Refused => self.credentials_refused(now, status, &terms.back_off, response.random),
            Verdict::Unanswerable { unreadable } => {
                let step = if self.established { self.retry_by(response) } else { self.refused(status) };
                step.unanswerable(unreadable)
            }
            Verdict::Endless => self.retry(now, Some(status), &terms.back_off, None, response.random),
        }
    }
}
