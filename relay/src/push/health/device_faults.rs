//! Devices whose pushes a service answers with a fault of its own (5xx). If the connection is the cause, it has to be replaced. But if the device is the cause,
//! its fault follows it to each connection, and other pushes must not lose their connection for it.
//!
//! Invariant: a device costs its channel at most [`LINES_OF_ONE`] connections within [`WITHIN`]. A call leaves a connection that has given no good answer yet,
//! up to [`LINES_OF_CALLS`] times: where some hosts of the service are sick, each attempt may meet another host. Only faults that replaced a connection count.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{LazyLock, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::Mutex;

/// The lines that the faults of one device may cost within [`WITHIN`].
const LINES_OF_ONE: u32 = 3;
/// The same, including lines on which its call was the first request: more than a call has attempts.
const LINES_OF_CALLS: u32 = 16;
/// The time within which they count.
const WITHIN: Duration = Duration::from_secs(60);
/// The number of devices that are counted; a further one clears all counts.
const DEVICES_MAX: usize = 1_024;

/// The faults of one channel.
#[derive(Default)]
pub(crate) struct Faults(Mutex<HashMap<u64, (u32, Instant)>>);

/// A name for the device with this token, in this process alone.
pub(crate) fn name_of(token: &str) -> u64 {
    static NAMES: LazyLock<RandomState> = LazyLock::new(RandomState::default);
    NAMES.hash_one(token)
}

impl Faults {
    /// Whether a line may be given up because a push to `whom` was answered with a fault. `is_calls_first`: the push is a call's, and the line has given no
    /// good answer yet.
    pub(crate) fn may_cost_a_line(&self, whom: u64, is_calls_first: bool) -> bool {
        let lines = self.lock().get(&whom).filter(|(_, since)| since.elapsed() < WITHIN).map_or(0, |(lines, _)| *lines);
        lines < if is_calls_first { LINES_OF_CALLS } else { LINES_OF_ONE }
    }

    /// A line was given up for a push to `whom`.
    pub(crate) fn cost_a_line(&self, whom: u64) {
        let mut devices = self.lock();
        let now = Instant::now();
        if devices.len() >= DEVICES_MAX && !devices.contains_key(&whom) {
            devices.clear();
        }
        let (lines, since) = devices.entry(whom).or_insert((0, now));
        if now.saturating_duration_since(*since) >= WITHIN {
            (*lines, *since) = (0, now);
        }
        *lines = lines.saturating_add(1);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (u32, Instant)>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_device_costs_few_lines_and_many_as_many_as_they_are() {
        let faults = Faults::default();
        let cost_of = |whom: u64, times: u32, is_calls_first: bool| {
            let costs = || faults.may_cost_a_line(whom, is_calls_first);
            (0..times).filter(|_| costs()).inspect(|_| faults.cost_a_line(whom)).count()
        };
        let cost = |whom, times| cost_of(whom, times, false);
        assert_eq!((cost(1, 100), cost(2, 1)), (3, 1));
        assert_eq!((cost_of(1, 100, true), cost_of(3, 100, true), cost(3, 1)), (13, 16, 0), "a call has some more");
        // A fault that has cost no line is not counted.
        assert!((0..100).all(|_| faults.may_cost_a_line(4, false)));
        tokio::time::advance(WITHIN).await;
        assert_eq!(cost(1, 100), 3);
        for whom in 10..3_000 {
            assert_eq!(cost(whom, 1), 1);
        }
        assert!(faults.0.lock().len() <= DEVICES_MAX);
        assert_eq!((name_of("a"), name_of("a") == name_of("b")), (name_of("a"), false));
    }
}
