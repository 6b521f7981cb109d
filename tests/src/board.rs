//! The observations of a stand-in, so that a test can wait for them: state behind a lock, and a wait with a deadline.
//!
//! Invariant: a wait ends as soon as its condition holds, and at its deadline at the latest; nobody sleeps to
//! synchronise.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// Shared state whose changes can be awaited; cheap to clone.
#[derive(Default)]
pub struct Board<T>(Arc<Inner<T>>);

#[derive(Default)]
struct Inner<T> {
    state: Mutex<T>,
    changed: Notify,
}

impl<T> Clone for Board<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Board<T> {
    /// A board that begins with `state`.
    pub fn new(state: T) -> Self {
        Self(Arc::new(Inner { state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Looks at the state.
    pub fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }

    /// Changes the state and wakes every waiter.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.0.changed.notify_waiters();
        result
    }

    /// Waits until `find` finds something; it may take it out of the state. `None` when `within` has passed.
    pub async fn wait<R>(&self, within: Duration, mut find: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let look = async {
            loop {
                let mut changed = std::pin::pin!(self.0.changed.notified());
                changed.as_mut().enable();
                if let Some(found) = find(&mut self.lock()) {
                    return found;
                }
                changed.await;
            }
        };
        tokio::time::timeout(within, look).await.ok()
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        // A test that panicked has failed already; the others may go on.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An expected event that did not happen, or an unexpected one that did.
#[derive(Clone)]
pub struct Missed {
    /// The event that was awaited.
    pub awaited: String,
    /// The events seen until then.
    pub seen: String,
}

impl Missed {
    /// `awaited` did not come; `seen` did.
    pub fn new(awaited: impl Into<String>, seen: impl Into<String>) -> Self {
        Self { awaited: awaited.into(), seen: seen.into() }
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "awaited {}, but saw: {}", self.awaited, if self.seen.is_empty() { "nothing" } else { &self.seen })
    }
}

impl fmt::Debug for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Missed {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_when_its_condition_holds_or_at_its_deadline() {
        let board = Board::new(0);
        let other = board.clone();
        let task = tokio::spawn(async move { other.change(|n| *n = 7) });
        assert_eq!(board.wait(Duration::from_secs(5), |n| (*n == 7).then_some(*n)).await, Some(7));
        task.await.unwrap();
        assert_eq!(board.wait(Duration::from_millis(1), |n| (*n == 8).then_some(())).await, None);
    }
}
