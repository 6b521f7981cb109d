//! Time that has passed without this machine: it was suspended, or a virtual one paused, and the clock that deadlines go by stood still.
//!
//! Invariant: a deadline comes forward by the time that was lost, and is not earlier than now; what is under way is left alone, and so is a wait that the SIP
//! server has asked for, or a refusal: a clock that is set looks like time that was lost, and refusals that come too soon end an account.

use std::time::{Duration, Instant};

use super::{Registration, State};
use crate::timers::bring_forward;

impl Registration {
    /// Brings what it waits for forward; whether it waits for anything.
    pub fn lose_time(&mut self, now: Instant, lost: Duration) -> bool {
        let is_paused = self.paused_until().is_some();
        let forward = |at: &mut Instant| bring_forward(at, now, lost);
        match &mut self.state {
            State::Registered { refresh_at } => forward(refresh_at),
            State::BackingOff { until, told: false } if !is_paused => forward(until),
            _ => return false,
        }
        true
    }
}
