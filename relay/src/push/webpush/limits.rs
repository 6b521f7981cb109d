//! Subscriptions that are left alone for a while: a 429 is about one push resource (RFC 8030 §8.4), and each device has its own.
//!
//! | a 429 | consequence |
//! | --- | --- |
//! | for a subscription, with a time | nothing is sent to it until that time has passed |
//! | for a subscription, without a time | nothing is sent to it for the growing pauses between the attempts of a push; but a call goes, with pauses of its own |
//! | for [`SEVERAL`] subscriptions that had none lately, with no push taken between them | the service may be overloaded: see [`Limits::note`] |
//!
//! Invariant: a limit for one device delays no call to another. While there is no limit, a push costs one atomic read. An endpoint is kept as its keyed hash
//! alone.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::Mutex;
use crate::push::connection::backoff::RETRY;
use crate::push::connection::not_before::PAUSE_MAX;
use crate::push::connection::urgency::Urgency;

/// Subscriptions of one service that are told so before the service itself is taken to be asked too much.
const SEVERAL: usize = 8;
/// Subscriptions of one service that are remembered; each push to a further one asks again.
const LIMITED_MAX: usize = 256;
/// How long it is remembered that a subscription was told so: one that is told again says nothing new of the service.
const REMEMBERED: Duration = Duration::from_secs(60);

/// How long a subscription is still to be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Its service has said so.
    Named(Duration),
    /// Its service has said no time.
    Unnamed(Duration),
}

impl Left {
    /// The time that the service has named.
    pub(super) fn named(self) -> Option<Duration> {
        match self {
            Self::Named(left) => Some(left),
            Self::Unnamed(_) => None,
        }
    }
}

/// The limits of one service.
#[derive(Default)]
pub(super) struct Limits {
    any: AtomicBool,
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: HashMap<u64, Held>,
    /// Devices that were told so since a push was taken, and not lately before that; at most [`SEVERAL`].
    told: Vec<u64>,
}

/// A subscription that was told 429.
struct Held {
    until: Instant,
    /// Its service named that time.
    is_named: bool,
    /// How often in a row.
    times: u32,
}

impl Held {
    fn is_remembered(&self, now: Instant) -> bool {
        now < self.until + REMEMBERED
    }
}

impl Limits {
    /// How long the subscription at `path` is still to be left alone, by an urgent push for a time alone that was named.
    pub(super) fn left(&self, path: &str, urgency: Urgency) -> Option<Left> {
        if !self.any.load(Ordering::Relaxed) {
            return None;
        }
        let state = self.lock();
        let held = state.held.get(&self.hasher.hash_one(path))?;
        let left = held.until.saturating_duration_since(Instant::now());
        if left.is_zero() || urgency.is_urgent() && !held.is_named {
            return None;
        }
        Some(if held.is_named { Left::Named(left) } else { Left::Unnamed(left) })
    }

    /// Notes that the device at `path` is told 429, and perhaps for how long, of which [`PAUSE_MAX`] is kept. Whether so many are, this one for the
    /// first time, that the service itself may be asked too much.
    pub(super) fn note(&self, path: &str, asked: Option<Duration>) -> bool {
        let (key, now) = (self.hasher.hash_one(path), Instant::now());
        let mut state = self.lock();
        self.any.store(true, Ordering::Relaxed);
        let again = state.held.get(&key).filter(|held| held.is_remembered(now));
        let is_again = again.is_some();
        let times = again.map_or(1, |held| held.times.saturating_add(1));
        let pause = now + RETRY.pause(times);
        let (until, is_named) = match (asked, again) {
            (Some(asked), _) => (now + asked.min(PAUSE_MAX), true),
            // A time that was named stands.
            (None, Some(held)) if held.until > pause => (held.until, held.is_named),
            (None, _) => (pause, false),
        };
        if state.held.len() >= LIMITED_MAX {
            state.held.retain(|_, held| held.until > now);
        }
        if state.held.len() < LIMITED_MAX || state.held.contains_key(&key) {
            state.held.insert(key, Held { until, is_named, times });
        }
        if is_again {
            return false;
        }
        if state.told.len() < SEVERAL && !state.told.contains(&key) {
            state.told.push(key);
        }
        state.told.len() >= SEVERAL
    }

    /// A push to the device at `path` was taken.
    pub(super) fn taken(&self, path: &str) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.lock();
        let now = Instant::now();
        state.told.clear();
        state.held.remove(&self.hasher.hash_one(path));
        state.held.retain(|_, held| held.is_remembered(now));
        self.any.store(!state.held.is_empty(), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
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
        assert_eq!(
            (limits.left("/a", Urgency::CanWait), limits.left("/b", Urgency::CanWait)),
            (Some(Left::Named(10 * SECOND)), None)
        );
        limits.taken("/b");
        assert_eq!(limits.left("/a", Urgency::CanWait), Some(Left::Named(10 * SECOND)), "by another one");
        assert_eq!(limits.left("/a", Urgency::Urgent), limits.left("/a", Urgency::CanWait));
        tokio::time::advance(10 * SECOND).await;
        assert_eq!(limits.left("/a", Urgency::CanWait), None);
        tokio::time::advance(REMEMBERED).await;
        limits.taken("/b");
        assert!(!limits.any.load(Ordering::Relaxed), "nothing is to be looked up any more");
        for number in 1..SEVERAL {
            assert!(!limits.note(&number.to_string(), None) && !limits.note("1", None), "{number}");
        }
        assert!(limits.note("one more", None));
        limits.taken("/b");
        assert!(!limits.note("one more", Some(PAUSE_MAX * 100)));
        assert_eq!(limits.left("one more", Urgency::CanWait), Some(Left::Named(PAUSE_MAX)));
        assert!(
            !limits.note("one more", None) && limits.left("one more", Urgency::CanWait) == Some(Left::Named(PAUSE_MAX)),
            "the time stands"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_told_no_time_is_left_alone_for_longer_and_longer_and_says_nothing_new_of_its_service() {
        let limits = Limits::default();
        let tell_all = || (0..20).filter(|number| limits.note(&number.to_string(), None)).count();
        assert_eq!(tell_all(), 20 - SEVERAL + 1);
        let mut before = Duration::ZERO;
        for _ in 0..5 {
            assert_eq!(limits.left("0", Urgency::Urgent), None, "a call has pauses of its own");
            let Some(Left::Unnamed(left)) = limits.left("0", Urgency::CanWait) else { panic!("no time was named") };
            assert!(left >= before && limits.left("other", Urgency::CanWait).is_none(), "{left:?}");
            before = left;
            tokio::time::advance(left).await;
            assert_eq!((limits.left("0", Urgency::CanWait), tell_all()), (None, 0));
            limits.taken("other");
        }
        assert!((SECOND..=5 * SECOND).contains(&before), "{before:?}");
        limits.taken("0");
        assert_eq!(limits.left("0", Urgency::CanWait), None);
        let is_short = |left| matches!(left, Some(Left::Unnamed(left)) if left < SECOND);
        assert!(!limits.note("0", None) && is_short(limits.left("0", Urgency::CanWait)), "it begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_limited() {
        let limits = Limits::default();
        for number in 0..=LIMITED_MAX {
            limits.note(&number.to_string(), Some(SECOND));
        }
        assert_eq!(limits.left(&LIMITED_MAX.to_string(), Urgency::CanWait), None);
        tokio::time::advance(SECOND).await;
        limits.note("later", Some(SECOND));
        assert_eq!((limits.left("later", Urgency::CanWait), limits.lock().held.len()), (Some(Left::Named(SECOND)), 1));
    }
}
