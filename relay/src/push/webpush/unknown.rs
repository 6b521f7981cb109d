//! Whether a service is believed that it knows a subscription no more. A 404 may as well be said by who stands before it (a proxy that has
//! lost its way to the service says so of each path), and what is wiped is gone for good.
//!
//! | 404, and none is taken since | is |
//! | --- | --- |
//! | for at most [`BELIEVED`] subscriptions | believed: each is gone |
//! | for more of them, until [`QUIET`] after the last | a fault of the service: none of the others is gone, and their pushes are tried again |
//!
//! A 410 is no matter of this: only who knows a resource knows that it was there (RFC 9110 §15.5.11).
//!
//! Invariant: a push that is taken costs one atomic read here. No endpoint is kept, but its keyed hash.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::push::faults::name_of;

/// Subscriptions that are believed to be gone while nothing else is taken.
const BELIEVED: usize = 2;
/// How long after the last 404 nothing of it counts any more.
const QUIET: Duration = Duration::from_secs(600);

/// Those of one service.
#[derive(Default)]
pub(super) struct Unknown {
    any: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    believed: Vec<u64>,
    last: Option<Instant>,
}

impl Unknown {
    /// The service says 404 of the subscription at `path`. Whether that is believed.
    pub(super) fn is_believed(&self, path: &str) -> bool {
        let (key, now) = (name_of(path), Instant::now());
        let mut state = self.lock();
        if state.last.is_some_and(|last| now.saturating_duration_since(last) >= QUIET) {
            state.believed.clear();
        }
        state.last = Some(now);
        self.any.store(true, Ordering::Relaxed);
        if state.believed.contains(&key) {
            return true;
        }
        let is_one_of_few = state.believed.len() < BELIEVED;
        if is_one_of_few {
            state.believed.push(key);
        }
        is_one_of_few
    }

    /// A push was taken.
    pub(super) fn taken(&self) {
        if self.any.swap(false, Ordering::Relaxed) {
            *self.lock() = State::default();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole values go in and out.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_few_are_believed_and_many_are_a_fault_of_the_service_until_it_takes_one_or_is_quiet() {
        let unknown = Unknown::default();
        let judged = |paths: &[&str]| paths.iter().map(|path| unknown.is_believed(path)).collect::<Vec<_>>();
        assert_eq!(judged(&["/a", "/a", "/b", "/c", "/d", "/a"]), [true, true, true, false, false, true]);
        unknown.taken();
        assert_eq!(judged(&["/c", "/d", "/e"]), [true, true, false]);
        tokio::time::advance(QUIET - Duration::from_secs(1)).await;
        assert_eq!(judged(&["/f"]), [false]);
        tokio::time::advance(QUIET - Duration::from_secs(1)).await;
        assert_eq!(judged(&["/f"]), [false], "it goes on");
        tokio::time::advance(QUIET).await;
        assert_eq!(judged(&["/f", "/g", "/h"]), [true, true, false]);
    }
}
