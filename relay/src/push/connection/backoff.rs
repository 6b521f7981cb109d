//! The pause after a failure: it doubles each time, and is randomised.
//!
//! Invariant: a pause lies between half of its step and the whole of it. No step exceeds the given maximum.

use std::time::Duration;

use crate::random;

/// Pauses that double from `first` up to `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) most: Duration,
}

/// Between two tries of one push, unless the service asks for more.
pub(crate) const RETRY: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(5) };

impl Backoff {
    /// The pause after `failures` failures in a row (1 for the first), with jitter.
    pub(crate) fn pause(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let step = self.first.saturating_mul(1 << doublings).min(self.most);
        step.mul_f64(0.5 + jitter() / 2.0)
    }

    /// Likewise, or what was asked for where that is known; a request for less than the first steps is none.
    pub(crate) fn pause_or(self, failures: u32, asked: Option<Duration>) -> Duration {
        match asked {
            Some(asked) => asked.max(self.pause(failures.min(2))),
            None => self.pause(failures),
        }
    }
}

/// A random number from 0 to 1.
fn jitter() -> f64 {
    f64::from(u16::from_be_bytes(random::bytes())) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_up_to_the_most_and_is_never_less_than_half_of_its_step() {
        let backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(5) };
        for (failures, step) in [(0, 200), (1, 200), (2, 400), (3, 800), (6, 5_000), (u32::MAX, 5_000)] {
            let pause = backoff.pause(failures);
            let step = Duration::from_millis(step);
            assert!(pause >= step / 2 && pause <= step, "{failures} failures: {pause:?} of {step:?}");
        }
    }
}
