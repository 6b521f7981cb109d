//! The device whose credentials answer the challenges of a binding that several devices share.
//!
//! Invariant: another device's credentials begin without a nonce, so that a wrong password is sent once. A failed check of a device changes nothing for the
//! others.

use std::time::Instant;

use super::bound::Bound;
use super::{Challenges, Goal, Registration, State, Step};
use crate::id::InstanceId;

/// How credentials stand with a SIP server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The number of refusals in a row.
    pub refusals: u8,
    /// The time before which the credentials are not shown again.
    pub paused_until: Option<Instant>,
}

/// Whether the SIP server has accepted a device's credentials before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It has.
    Given,
    /// It has not.
    Missing,
}

/// The state of a registration while the credentials of a joining device are checked.
#[derive(Debug)]
pub struct SuspendedAuth {
    /// The device whose credentials answered until then.
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
    /// Makes this device's credentials answer from now on. They begin without a nonce, so that a wrong password is sent once.
    pub fn set_credential_owner(&mut self, instance: InstanceId, proof: Proof) -> Step {
        self.instance = instance;
        self.challenges.clear();
        (self.established, self.refusals, self.is_refused) = (proof == Proof::Given, 0, false);
        self.pause_until(None);
        match self.state {
            State::Asking(_) | State::Sent { .. } | State::Refused => {
                self.state = State::Waiting;
                if self.wants_flow() { Step::WantFlow } else { Step::Nothing }
            }
            State::Waiting | State::Registered { .. } | State::BackingOff { .. } | State::Unregistered { .. } => {
                Step::Nothing
            }
        }
    }

    /// The same for a device that shares the binding. The count of its refusals and its pause are kept, so that alternating between devices shows the
    /// server refused credentials no more often.
    pub fn pass_credentials(&mut self, instance: InstanceId, proof: Proof, standing: Standing) -> Step {
        let was_paused = self.paused_until().is_some();
        let step = self.set_credential_owner(instance, proof);
        let Standing { refusals, paused_until } = standing;
        (self.refusals, self.is_refused) = (refusals, refusals > 0);
        self.pause_until(paused_until);
        match (paused_until.filter(|_| self.goal == Goal::Registered), &self.state) {
            (Some(until), _) => {
                self.state = State::BackingOff { until, told: false };
                self.registered = false;
                Step::Nothing
            }
            (None, State::BackingOff { .. }) if was_paused => {
                self.state = State::Waiting;
                Step::WantFlow
            }
            _ => step,
        }
    }

    /// Begins the registration anew for another device: what was registered before does not count for that device.
    pub fn begin_anew(&mut self, now: Instant, instance: InstanceId, proof: Proof, goal: Goal) -> Step {
        self.registered = false;
        let step = self.set_credential_owner(instance, proof);
        if self.goal != goal {
            return self.aim(now, goal);
        }
        self.bound.look(now);
        match self.state {
            State::Registered { .. } | State::BackingOff { .. } => self.turn_round(),
            _ => step,
        }
    }

    /// How the credentials in use stand.
    pub fn standing(&self) -> Standing {
        Standing { refusals: self.refusals, paused_until: self.paused_until() }
    }

    /// Whether the registrar has asked for the credentials in use and refused them.
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Whether the registrar, or a proxy before it, asks for credentials.
    pub fn asks_credentials(&self) -> bool {
        !self.challenges.is_empty()
    }

    /// Whether another member's credentials can be tried: nothing is under way.
    pub fn may_try_credentials(&self) -> bool {
        self.goal == Goal::Registered && matches!(self.state, State::Registered { .. } | State::BackingOff { .. })
    }

    /// Registers again, with this member's credentials. `earlier`: how they stand since they were accepted once; `None`: they never were.
    pub fn try_credentials(&mut self, instance: InstanceId, earlier: Option<Standing>) -> (SuspendedAuth, Step) {
        let paused_until = self.paused_until();
        self.pause_until(None);
        let suspended = SuspendedAuth {
            instance: std::mem::replace(&mut self.instance, instance),
            challenges: std::mem::take(&mut self.challenges),
            state: std::mem::replace(&mut self.state, State::Waiting),
            was_registered: self.registered,
            bound: self.bound,
            was_established: std::mem::replace(&mut self.established, earlier.is_some()),
            was_refused: std::mem::take(&mut self.is_refused),
            refusals: std::mem::replace(&mut self.refusals, earlier.map_or(0, |standing| standing.refusals)),
            paused_until,
        };
        (suspended, Step::WantFlow)
    }

    /// Goes on with the suspended credentials, because those that were tried did not do. `moved`: the flow has changed since, so that the binding must
    /// register again.
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
