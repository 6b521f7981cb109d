//! Whose credentials answer the challenges of a binding that several devices share.
//!
//! Invariant: another device's credentials begin without a nonce, so that a wrong password is sent once; a device whose check fails leaves no
//! trace of it.

use std::time::Instant;

use super::bound::Bound;
use super::{Challenges, Goal, Registration, State, Step};
use crate::id::InstanceId;

/// The state of a registration while the credentials of a joining device are checked.
#[derive(Debug)]
pub struct SuspendedAuth {
    /// Whose credentials answered until then.
    pub instance: InstanceId,
    challenges: Challenges,
    state: State,
    was_registered: bool,
    bound: Bound,
    was_established: bool,
    was_refused: bool,
    refusals: u8,
    paused_until: Option<Instant>,
}

impl Registration {
    /// From now on this device's credentials answer. They begin without a nonce, so that a wrong password is sent once.
    /// `proven`: the SIP server has accepted them before.
    pub fn set_credential_owner(&mut self, instance: InstanceId, proven: bool) -> Step {
        self.instance = instance;
        self.challenges.clear();
        (self.established, self.refusals, self.is_refused) = (proven, 0, false);
        self.pause_until(None);
        match self.state {
            State::Asking(_) | State::Sent { .. } | State::Refused => {
                self.state = State::Waiting;
                if self.wants_flow() { Step::WantFlow } else { Step::Nothing }
            }
            State::Waiting | State::Registered { .. } | State::BackingOff { .. } | State::LetGo => Step::Nothing,
        }
    }

    /// The same for a device that shares the binding: its refusals count on, and a pause goes on, so that nobody shows the
    /// server refused credentials oftener by going from one device to another. Gives the refusals of the one before.
    pub fn pass_credentials(&mut self, instance: InstanceId, proven: bool, refusals: u8) -> (u8, Step) {
        let (before, paused_until) = (self.refusals, self.paused_until());
        let step = self.set_credential_owner(instance, proven);
        (self.refusals, self.is_refused) = (refusals, refusals > 0);
        self.pause_until(paused_until);
        (before, step)
    }

    /// Whether another member's credentials can be tried: nothing is under way.
    pub fn may_try_credentials(&self) -> bool {
        self.goal == Goal::Registered && matches!(self.state, State::Registered { .. } | State::BackingOff { .. })
    }

    /// Registers again, with this member's credentials.
    pub fn try_credentials(&mut self, instance: InstanceId) -> (SuspendedAuth, Step) {
        let paused_until = self.paused_until();
        self.pause_until(None);
        let suspended = SuspendedAuth {
            instance: std::mem::replace(&mut self.instance, instance),
            challenges: std::mem::take(&mut self.challenges),
            state: std::mem::replace(&mut self.state, State::Waiting),
            was_registered: self.registered,
            bound: self.bound,
            was_established: std::mem::take(&mut self.established),
            was_refused: std::mem::take(&mut self.is_refused),
            refusals: std::mem::take(&mut self.refusals),
            paused_until,
        };
        (suspended, Step::WantFlow)
    }

    /// The credentials that were tried did not do: goes on as before. `moved`: the flow is another one than then, so that it
    /// must register again.
    pub fn resume_credentials(&mut self, suspended: SuspendedAuth, moved: bool) -> Step {
        (self.instance, self.challenges) = (suspended.instance, suspended.challenges);
        (self.registered, self.bound) = (suspended.was_registered, suspended.bound);
        (self.established, self.is_refused) = (suspended.was_established, suspended.was_refused);
        self.refusals = suspended.refusals;
        self.pause_until(suspended.paused_until);
        self.state = if moved { State::Waiting } else { suspended.state };
        if self.wants_flow() { Step::WantFlow } else { Step::Nothing }
    }
}
