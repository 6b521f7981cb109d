//! Time that has passed without this machine, while a caller waited, or gave up unheard.
//!
//! Invariant: a call whose deadline has passed meanwhile ends at once, as at its deadline.

use std::time::{Duration, Instant};

use super::{Call, Stage};
use crate::timers::bring_forward;

impl Call {
    /// So much time has passed that no deadline has counted.
    pub fn lose_time(&mut self, now: Instant, lost: Duration) {
        bring_forward(&mut self.comes_until, now, lost);
        bring_forward(&mut self.deadline, now, lost);
        bring_forward(&mut self.asked.until, now, lost);
        if let Stage::Waiting(invite) = &mut self.stage
            && let Some(until) = &mut invite.valid_until
        {
            bring_forward(until, now, lost);
        }
    }
}
