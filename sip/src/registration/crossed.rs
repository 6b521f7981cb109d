//! Responses that have crossed a change of the goal, and a REGISTER that the unregistration at a binding's end has overtaken.
//!
//! The end of a binding may take a few seconds, and a SIP server may take longer for a REGISTER. So the unregistration is sent at once. A server that works
//! in parallel may grant the earlier REGISTER afterwards; then the unregistration before it has removed nothing.
//!
//! | the answer to the REGISTER that was overtaken | follows |
//! | --- | --- |
//! | none yet, when the unregistration is answered | that answer is waited for, until the shell's deadline for the end; then nothing was confirmed. By UDP the REGISTER may be lost, and would never be answered: it is sent again from then on, as it was, during the first half of that time |
//! | one by which the registrar may have the Contact: 2xx, 408, 5xx | one more unregistration, behind the one that is under way |
//! | any other | nothing: the registrar has taken nothing of it (RFC 3261 §10.3) |
//!
//! Invariant: an unregistration is confirmed only when no REGISTER that was sent before it is unanswered. The overtaken REGISTER is not
//! sent again before the unregistration is answered, because by UDP it could arrive after it. What it registers later is unregistered once more.

use std::time::Instant;

use super::bound::Bound;
use super::challenges::{Challenger, Verdict};
use super::earlier::Named;
use super::refusals::{retry_after, wanted_interval};
use super::{Attempt, FinalResponse, Goal, Registration, State, Step, grant};
use crate::id::BranchId;

/// A REGISTER that was under way when its binding was to be forgotten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Overtaken {
    /// It is unanswered.
    Unanswered(BranchId),
    /// The registrar may have the Contact by it, since the last unregistration was sent.
    Taken,
}

impl Registration {
    /// An answer to what is not wanted any more: it says whether the registrar has a Contact, and what it wants to be shown.
    pub(super) fn on_crossed(&mut self, asked: Goal, attempt: Attempt, response: FinalResponse<'_>) -> Step {
        let FinalResponse { now, status, message: response, terms, random } = response;
        match status {
            ..300 if attempt.named == Named::Earlier => self.on_earlier_gone(response),
            ..300 => {
                self.challenges.on_success(response);
                self.registered = asked == Goal::Registered;
                self.is_refused &= !self.registered;
                self.bound.on_listed(
                    now,
                    match asked {
                        Goal::Registered => grant::lifetime(self.own_contact(), response, self.expires),
                        Goal::Silent | Goal::Gone => grant::left(self.own_contact(), response),
                    },
                );
            }
            401 | 407 => match self.challenges.on_challenge(Challenger::by(status), response, terms.hashes) {
                Verdict::Refused => return self.credentials_refused(now, status, &terms.back_off, random),
                Verdict::Unanswerable { unreadable } if !self.established => {
                    return self.refused(status).unanswerable(unreadable);
                }
                _ => {}
            },
            423 => self.expires = wanted_interval(response, self.expires).unwrap_or(self.expires),
            439 => self.outbound = false,
            // The server has said for how long it is to be left alone, whatever was asked.
            300..=399 | 408 | 429 | 430 | 480 | 500..=599 if self.goal == Goal::Registered => {
                if let Some(after) = retry_after(response) {
                    return self.retry(now, Some(status), &terms.back_off, Some(after), random);
                }
            }
            _ => {}
        }
        self.turn_round()
    }

    /// A goal was set: what is under way is overtaken when all is to be forgotten, and by no other goal.
    pub(super) fn overtake(&mut self) {
        match self.state {
            _ if self.goal != Goal::Gone => self.note_overtaken(None),
            State::Sent { branch, goal: Goal::Registered, .. } => {
                self.note_overtaken(Some(Overtaken::Unanswered(branch)));
            }
            _ => {}
        }
    }

    /// A REGISTER was sent, behind whatever was taken before.
    pub(super) fn note_followed(&mut self) {
        if self.overtaken() == Some(Overtaken::Taken) {
            self.note_overtaken(None);
        }
    }

    /// After an answer to the unregistration: the end waits for the answer to what was overtaken, or unregisters what that has brought.
    pub(super) fn await_overtaken(&mut self, step: Step) -> Step {
        match (&step, self.overtaken()) {
            (Step::Unregistered { .. }, Some(Overtaken::Unanswered(_))) => {
                self.state = State::Unregistered { at: None };
                Step::Nothing
            }
            (Step::Unregistered { .. }, Some(Overtaken::Taken)) => self.unregister_again(),
            _ => step,
        }
    }

    /// Whether this is the branch of a REGISTER that was overtaken and is unanswered.
    pub fn has_overtaken(&self, branch: BranchId) -> bool {
        self.overtaken_branch() == Some(branch)
    }

    /// The branch of the REGISTER that was overtaken and is unanswered.
    pub fn overtaken_branch(&self) -> Option<BranchId> {
        match self.overtaken() {
            Some(Overtaken::Unanswered(branch)) => Some(branch),
            Some(Overtaken::Taken) | None => None,
        }
    }

    /// The same, when the end waits for nothing else, and what it brings can be unregistered before the shell's deadline.
    pub fn awaited_overtaken(&self, now: Instant) -> Option<BranchId> {
        let may_come = self.again_until().is_none_or(|until| now < until);
        self.overtaken_branch().filter(|_| may_come && matches!(self.state, State::Unregistered { .. }))
    }

    /// Until when what was overtaken may be sent again.
    pub fn again_until(&self) -> Option<Instant> {
        self.rare.as_ref().and_then(|rare| rare.again_until)
    }

    /// An overtaken REGISTER is not sent again from this time on; whether there is one.
    pub fn send_again_until(&mut self, until: Instant) -> bool {
        let is_any = self.overtaken_branch().is_some();
        if is_any {
            self.with_rare(|rare| rare.again_until = Some(until));
        }
        is_any
    }

    /// The REGISTER that was overtaken is answered, with this final status.
    pub fn on_overtaken(&mut self, status: u16) -> Step {
        let is_taken = matches!(status, ..300 | 408 | 500..600);
        self.note_overtaken(is_taken.then_some(Overtaken::Taken));
        match self.state {
            State::Unregistered { .. } if is_taken => self.unregister_again(),
            State::Unregistered { .. } => self.turn_round(),
            // The unregistration that is about to be sent follows it.
            State::Sent { .. } => Step::Nothing,
            _ => {
                self.note_overtaken(None);
                Step::Nothing
            }
        }
    }

    fn unregister_again(&mut self) -> Step {
        self.note_overtaken(None);
        (self.bound, self.registered) = (Bound::earlier(), true);
        self.turn_round()
    }

    fn overtaken(&self) -> Option<Overtaken> {
        self.rare.as_ref().and_then(|rare| rare.overtaken)
    }

    fn note_overtaken(&mut self, overtaken: Option<Overtaken>) {
        if self.overtaken() != overtaken {
            self.with_rare(|rare| {
                rare.overtaken = overtaken;
                rare.again_until = rare.again_until.filter(|_| overtaken.is_some());
            });
        }
    }
}
