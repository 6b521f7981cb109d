//! Whose pushes a service answers with a fault of its own (5xx). Such a fault may stick to the line that it came by, so that the line is
//! given up for a fresh one; but one that sticks to a device follows it to each line, and what goes to all others must not change lines for it.
//!
//! Invariant: a device costs its channel at most [`LINES_OF_ONE`] lines within [`WITHIN`]. An answer that is no fault costs nothing here.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lines that the faults of one device may cost ...
const LINES_OF_ONE: u32 = 3;
/// ... within this time.
const WITHIN: Duration = Duration::from_secs(60);
/// Devices that are counted; with a further one all begin anew.
const DEVICES_MAX: usize = 1_024;

/// Those of one channel.
#[derive(Default)]
pub(super) struct Faults(Mutex<HashMap<u64, (u32, Instant)>>);

/// A name for whoever has this token, in this process alone.
pub(super) fn name_of(token: &str) -> u64 {
    static NAMES: LazyLock<RandomState> = LazyLock::new(RandomState::default);
    NAMES.hash_one(token)
}

impl Faults {
    /// A push to `whom` was answered with a fault. Whether its line may be given up for that.
    pub(super) fn may_cost_a_line(&self, whom: u64) -> bool {
        // Whole entries go in and out.
        let mut devices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if devices.len() >= DEVICES_MAX && !devices.contains_key(&whom) {
            devices.clear();
        }
        let (lines, since) = devices.entry(whom).or_insert((0, now));
        if now.saturating_duration_since(*since) >= WITHIN {
            (*lines, *since) = (0, now);
        }
        *lines = lines.saturating_add(1);
        *lines <= LINES_OF_ONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_device_costs_few_lines_and_many_as_many_as_they_are() {
        let faults = Faults::default();
        let cost = |whom: u64, times: u32| (0..times).filter(|_| faults.may_cost_a_line(whom)).count();
        assert_eq!((cost(1, 100), cost(2, 1)), (3, 1));
        tokio::time::advance(WITHIN).await;
        assert_eq!(cost(1, 100), 3);
        for whom in 10..3_000 {
            assert_eq!(cost(whom, 1), 1);
        }
        assert!(faults.0.lock().unwrap().len() <= DEVICES_MAX);
        assert_eq!((name_of("a"), name_of("a") == name_of("b")), (name_of("a"), false));
    }
}
