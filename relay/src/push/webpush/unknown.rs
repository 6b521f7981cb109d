//! Whether a 404 is believed. It says that a subscription is gone, which ends its instance for good; but a proxy that has lost its service answers 404 to every
//! path. So many 404s in a row, with no push taken between them, count as a fault of the service.
//!
//! | 404s since the last push that was taken | each is |
//! | --- | --- |
//! | for up to [`BELIEVED`] subscriptions | believed: each is gone |
//! | for up to as many at all nodes and their runs (`agent/token_doubts.rs`) | believed |
//! | likewise, while the store that counts those is away | not believed this time, and no fault of the service |
//! | for further ones, until [`QUIET`] after the last new one | a fault of the service: no subscription is gone; calls end, and other pushes are tried again |
//!
//! A 410 is always believed: only the service itself knows that a resource was there (RFC 9110 §15.5.11).
//!
//! Invariant: a push that is taken costs one atomic read here. An endpoint is kept as its keyed hash alone, and at most [`DOUBTED_MAX`] doubted ones are.

use std::time::Duration;

use tokio::time::Instant;

use crate::push::health::device_faults::name_of;
use crate::push::health::since_taken::SinceTaken;

/// Subscriptions that are believed to be gone while nothing else is taken: more than a small service loses at once.
const BELIEVED: usize = 8;
/// How long after the last new 404 nothing of it counts any more. A 404 to a repeated push is not new.
const QUIET: Duration = Duration::from_secs(600);
/// Subscriptions that are remembered as doubted; a further one is new each time.
const DOUBTED_MAX: usize = 256;

/// The unknown subscriptions of one service.
#[derive(Default)]
pub(super) struct Unknown(SinceTaken<State>);

#[derive(Default)]
struct State {
    believed: Vec<u64>,
    doubted: Vec<u64>,
    /// No such refusal is believed any more.
    is_doubted: bool,
    last: Option<Instant>,
}

impl Unknown {
    /// The service says 404 of the subscription at `path`. Whether that is believed.
    pub(super) fn is_believed(&self, path: &str) -> bool {
        self.0.note(|state| state.believes(name_of(path), Instant::now()))
    }

    /// It was believed of enough subscriptions by others.
    pub(super) fn doubt(&self) {
        self.0.note(|state| state.is_doubted = true);
    }

    /// A push was taken.
    pub(super) fn taken(&self) {
        self.0.clear();
    }
}

impl State {
    fn believes(&mut self, key: u64, now: Instant) -> bool {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) >= QUIET) {
            *self = Self::default();
        }
        if !self.is_doubted && self.believed.contains(&key) {
            return true;
        }
        if self.doubted.contains(&key) {
            return false;
        }
        self.last = Some(now);
        let is_one_of_few = !self.is_doubted && self.believed.len() < BELIEVED;
        if is_one_of_few {
            self.believed.push(key);
        } else if self.doubted.len() < DOUBTED_MAX {
            self.doubted.push(key);
        }
        is_one_of_few
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn eight_are_believed_and_more_are_a_fault_of_the_service_until_it_takes_one_or_is_quiet() {
        const SECOND: Duration = Duration::from_secs(1);
        let unknown = Unknown::default();
        let count = |from: u32, to: u32| (from..to).filter(|number| unknown.is_believed(&format!("/{number}"))).count();
        assert_eq!((count(0, 4), count(0, 4), count(0, 20), count(0, 20)), (4, 4, 8, 8), "the same ones");
        unknown.taken();
        assert_eq!(count(10, 20), 8);
        tokio::time::advance(QUIET - SECOND).await;
        assert_eq!(count(30, 31), 0, "it goes on");
        // A push that is tried again and again makes it no longer.
        for _ in 0..QUIET.as_secs() {
            assert_eq!(count(30, 31), 0);
            tokio::time::advance(SECOND).await;
        }
        assert_eq!(count(30, 60), 8);
        assert_eq!(count(60, 2_000), 0);
        assert_eq!(unknown.0.note(|state| state.doubted.len()), DOUBTED_MAX);
        unknown.taken();
        assert_eq!(count(0, 2), 2);
        unknown.doubt();
        assert_eq!(count(0, 4), 0, "other nodes have believed enough");
        tokio::time::advance(QUIET).await;
        assert_eq!(count(0, 4), 4);
    }
}
