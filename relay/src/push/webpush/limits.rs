//! The subscriptions that their service wants to be left alone: a 429 is about one push resource (RFC 8030 §8.4), and each device has
//! its own.
//!
//! | who is told 429 | what follows |
//! | --- | --- |
//! | a subscription | nothing is sent to it until the time that was named has passed |
//! | [`SEVERAL`] of them, and none is taken meanwhile | it is the service that is asked too much: see [`Limits::note`] |
//!
//! Invariant: a limit told to one device holds no other back. Without any of it a push costs one atomic read. No endpoint is kept, but its
//! keyed hash.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::push::connection::not_before::REST_MAX;

/// Subscriptions of one service that are told so before the service itself is taken to be asked too much.
const SEVERAL: usize = 8;
/// Subscriptions of one service that are remembered; each push to a further one asks again.
const LIMITED_MAX: usize = 256;

/// The limits of one service.
#[derive(Default)]
pub(super) struct Limits {
    any: AtomicBool,
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    until: HashMap<u64, Instant>,
    /// Devices that were told so since a push was taken, at most [`SEVERAL`].
    told: Vec<u64>,
}

impl Limits {
    /// How long the subscription at `path` is still to be left alone.
    pub(super) fn left(&self, path: &str) -> Option<Duration> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let until = self.lock().until.get(&self.hasher.hash_one(path)).copied()?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Notes that the device at `path` is told 429, and perhaps for how long, of which [`REST_MAX`] is kept. Whether so many are that the service
    /// itself is to be left alone.
    pub(super) fn note(&self, path: &str, asked: Option<Duration>) -> bool {
        let (key, now) = (self.hasher.hash_one(path), Instant::now());
        let mut state = self.lock();
        if let Some(asked) = asked {
            if state.until.len() >= LIMITED_MAX {
                state.until.retain(|_, until| *until > now);
            }
            if state.until.len() < LIMITED_MAX || state.until.contains_key(&key) {
                state.until.insert(key, now + asked.min(REST_MAX));
            }
        }
        if state.told.len() < SEVERAL && !state.told.contains(&key) {
            state.told.push(key);
        }
        self.any.store(true, Ordering::Relaxed);
        state.told.len() >= SEVERAL
    }

    /// A push was taken.
    pub(super) fn taken(&self) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.lock();
        let now = Instant::now();
        state.told.clear();
        state.until.retain(|_, until| *until > now);
        self.any.store(!state.until.is_empty(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole entries go in and out.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn one_that_is_told_is_left_alone_and_several_are_the_service() {
        let limits = Limits::default();
        assert!(!limits.note("/a", Some(10 * SECOND)));
        assert_eq!((limits.left("/a"), limits.left("/b")), (Some(10 * SECOND), None));
        limits.taken();
        assert_eq!(limits.left("/a"), Some(10 * SECOND), "by another one");
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(limits.left("/a"), None);
        limits.taken();
        assert!(!limits.any.load(Ordering::Relaxed), "nothing is to be looked up any more");
        for number in 1..SEVERAL {
            assert!(!limits.note(&number.to_string(), None) && !limits.note("1", None), "{number}");
        }
        assert!(limits.note("one more", None));
        limits.taken();
        assert!(!limits.note("one more", Some(REST_MAX * 100)));
        assert_eq!(limits.left("one more"), Some(REST_MAX));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_limited() {
        let limits = Limits::default();
        for number in 0..=LIMITED_MAX {
            limits.note(&number.to_string(), Some(SECOND));
        }
        assert_eq!(limits.left(&LIMITED_MAX.to_string()), None);
        tokio::time::advance(SECOND).await;
        limits.note("later", Some(SECOND));
        assert_eq!((limits.left("later"), limits.lock().until.len()), (Some(SECOND), 1));
    }
}
