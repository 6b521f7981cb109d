//! Time that has passed without this machine: it was suspended, or a virtual one paused, and the clock that deadlines go by stood still.
//!
//! Invariant: a deadline comes forward by the time that was lost, and is not earlier than now; what is under way is left alone.

use std::time::{Duration, Instant};

use super::{Registration, State};

impl Registration {
    /// Brings what it waits for forward; whether it waits for anything.
    pub fn lose_time(&mut self, now: Instant, lost: Duration) -> bool {
        let forward = |at: &mut Instant| *at = at.checked_sub(lost).unwrap_or(now).max(now).min(*at);
        match &mut self.state {
            State::Registered { refresh_at } => forward(refresh_at),
            State::BackingOff { until, .. } => forward(until),
            _ => return false,
        }
        true
    }
}
