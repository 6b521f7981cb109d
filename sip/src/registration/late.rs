//! A REGISTER that was given up and may still be answered.
//!
//! Invariant: only the last one is kept, until another one is sent. Its answer is taken once, within [`LATE_MAX`], while the registration is wanted, and
//! concerns only the credentials that were in use when it was sent.

use std::time::{Duration, Instant};

use super::{Attempt, Goal, Registration, State};
use crate::id::{BranchId, FlowId, InstanceId};

/// How long after a REGISTER was given up its answer still counts.
pub const LATE_MAX: Duration = Duration::from_secs(64);

/// A REGISTER that was given up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct GivenUp {
    branch: BranchId,
    /// The flow that it went by.
    by: FlowId,
    /// When it was.
    at: Instant,
    /// The device whose credentials were in use.
    owner: InstanceId,
}

impl Registration {
    /// The REGISTER with this branch, which went by this flow, was left unanswered.
    pub(super) fn give_up(&mut self, now: Instant, branch: BranchId, by: FlowId) {
        // A late answer to an unregistration grants nothing.
        if self.goal == Goal::Registered && matches!(self.state, State::BackingOff { .. }) {
            let given_up = GivenUp { branch, by, at: now, owner: self.instance };
            self.with_rare(|rare| rare.given_up = Some(given_up));
        }
    }

    pub(super) fn forget_given_up(&mut self) {
        if self.rare.as_ref().is_some_and(|rare| rare.given_up.is_some()) {
            self.with_rare(|rare| rare.given_up = None);
        }
    }

    /// The flow that the REGISTER with this branch went by, if it was given up and its answer still counts.
    pub fn given_up_by(&self, now: Instant, branch: BranchId) -> Option<FlowId> {
        let is_it = |it: &GivenUp| it.branch == branch && it.owner == self.instance && now <= it.at + LATE_MAX;
        self.rare.as_ref().and_then(|rare| rare.given_up).filter(is_it).map(|it| it.by)
    }

    /// An answer to a REGISTER that was given up: whether it is to be read as if it had come in time.
    pub fn take_up_late(&mut self, now: Instant, branch: BranchId, status: u16) -> bool {
        let Some(by) = self.given_up_by(now, branch) else { return false };
        // A registration that waits for its turn sends a REGISTER anyway, and counts as registered when that is granted.
        let waits = match self.state {
            State::BackingOff { .. } => true,
            State::Waiting => status < 300,
            _ => false,
        };
        if !waits || self.goal != Goal::Registered {
            return false;
        }
        self.forget_given_up();
        // A challenge in a late answer is old, and refuses nothing.
        self.challenges.begin();
        self.state = State::Sent { branch, by, attempt: Attempt::default(), goal: self.goal };
        true
    }

    /// Moves a registration from a flow that is no longer in use to the present one, in its turn.
    pub fn follow(&mut self, now: Instant) {
        if let State::Registered { refresh_at } = &mut self.state {
            *refresh_at = now;
        }
    }
}
