//! A trial: a binding that is registered sends a REGISTER to another address of its SIP server, to see whether that registers it, too.
//!
//! Invariant: only a 2xx of the other address counts. No other answer, and no silence, makes a wait grow or credentials count as refused.

use super::{Attempt, Registration, State, Step};

impl Registration {
    /// Begins an attempt at another address; one that does not stand and wait for its refresh does nothing.
    pub fn begin_trial(&mut self) -> Step {
        if !self.awaits_refresh() {
            return Step::Nothing;
        }
        self.challenges.begin();
        self.write(Attempt { trial: true, ..Attempt::default() }, Vec::new())
    }

    /// Whether such an attempt is under way.
    pub fn is_on_trial(&self) -> bool {
        match &self.state {
            State::Asking(asking) => asking.attempt.trial,
            State::Sent { attempt, .. } => attempt.trial,
            _ => false,
        }
    }

    /// Goes on with an attempt; `granted`: because of a 2xx. `None`: it was one at another address and has failed there; then nothing has
    /// changed, and [`Self::on_flow_lost`] ends it.
    pub fn go_on(&mut self, granted: bool, how: impl FnOnce(&mut Self) -> Step) -> Option<Step> {
        let before = self.is_on_trial().then(|| self.clone());
        let step = how(self);
        match (before, &step) {
            (None, _) | (_, Step::Nothing | Step::Send | Step::Ask | Step::Registered { .. }) => Some(step),
            // Meanwhile another goal is aimed at.
            (_, Step::WantFlow) if granted => Some(step),
            (Some(before), _) => {
                *self = before;
                None
            }
        }
    }
}
