//! Which of many services that stand behind one record are in trouble.
//!
//! Devices choose them, so that one of them may be anybody's: what befalls it must not be taken for all.
//!
//! | a trouble of | counts |
//! | --- | --- |
//! | one of those that have taken a push within [`TAKEN_FOR`] | once until some push is taken, and as a light one |
//! | likewise, when all of those are in trouble | always, as what it is |
//! | another one | not |
//! | where none has taken any: one of those that are known | once, as a light one; always, when all of them are in trouble |
//!
//! Invariant: at most [`SERVICES_MAX`] are remembered of each kind.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a service that has taken a push is one of those that count.
const TAKEN_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Services that are remembered. The trouble of a further one does not count; a further one that takes a push replaces the one that
/// has taken none for longest.
const SERVICES_MAX: usize = 1_024;

/// What the trouble of one service says of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    Nothing,
    /// As much as a light one.
    Light,
    /// As much as it says of that service.
    Whole,
}

/// Those in trouble.
pub(super) struct Troubled {
    services: Mutex<Services>,
    /// How many there are.
    known: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Services {
    /// When each last took a push.
    taken: HashMap<Box<str>, Instant>,
    /// Since some push was taken.
    in_trouble: HashSet<Box<str>>,
}

impl Troubled {
    pub(super) fn new(known: Arc<AtomicUsize>) -> Self {
        Self { services: Mutex::default(), known }
    }

    /// This one has taken a push.
    pub(super) fn took(&self, origin: &str) {
        let mut services = self.lock();
        let now = Instant::now();
        services.in_trouble.clear();
        if let Some(at) = services.taken.get_mut(origin) {
            *at = now;
            return;
        }
        if services.taken.len() >= SERVICES_MAX {
            let oldest = services.taken.iter().min_by_key(|(_, at)| **at).map(|(origin, _)| origin.clone());
            oldest.and_then(|oldest| services.taken.remove(&oldest));
        }
        services.taken.insert(origin.into(), now);
    }

    /// One of them is well.
    pub(super) fn clear(&self) {
        self.lock().in_trouble.clear();
    }

    /// This one is in trouble.
    pub(super) fn weigh(&self, origin: &str) -> Weight {
        let mut services = self.lock();
        let now = Instant::now();
        services.taken.retain(|_, at| *at + TAKEN_FOR > now);
        let Services { taken, in_trouble } = &mut *services;
        if !taken.is_empty() && !taken.contains_key(origin) {
            return Weight::Nothing;
        }
        let is_new = in_trouble.len() < SERVICES_MAX && in_trouble.insert(origin.into());
        let none_has_taken = taken.is_empty();
        let all = match none_has_taken {
            true => in_trouble.len() >= self.known.load(Ordering::Relaxed),
            false => taken.keys().all(|origin| in_trouble.contains(origin)),
        };
        match all {
            true if !none_has_taken => Weight::Whole,
            all if all || is_new => Weight::Light,
            _ => Weight::Nothing,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Services> {
        // Whole entries go in and out.
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among(known: usize) -> Troubled {
        Troubled::new(Arc::new(AtomicUsize::new(known)))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_taken_pushes_counts_and_nobody_else_does() {
        let troubled = among(3);
        assert_eq!(troubled.weigh("a"), Weight::Light, "none has taken any");
        assert_eq!(troubled.weigh("a"), Weight::Nothing, "once");
        troubled.took("good");
        for stranger in ["a", "b", "c"] {
            assert_eq!(troubled.weigh(stranger), Weight::Nothing);
        }
        assert_eq!(
            (troubled.weigh("good"), troubled.weigh("good")),
            (Weight::Whole, Weight::Whole),
            "it is all of them"
        );
        troubled.took("other");
        assert_eq!((troubled.weigh("good"), troubled.weigh("good")), (Weight::Light, Weight::Nothing));
        assert_eq!(troubled.weigh("other"), Weight::Whole, "now all are");
        tokio::time::advance(TAKEN_FOR).await;
        assert_eq!(troubled.weigh("a"), Weight::Light, "what was long ago says nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_one_counts_always_and_what_is_remembered_is_limited() {
        let troubled = among(1);
        assert_eq!((troubled.weigh("a"), troubled.weigh("a")), (Weight::Light, Weight::Light));
        for number in 0..=SERVICES_MAX {
            tokio::time::advance(Duration::from_millis(1)).await;
            troubled.took(&number.to_string());
        }
        assert_eq!(troubled.weigh("0"), Weight::Nothing, "it took one longest ago");
        assert_eq!(troubled.weigh("1"), Weight::Light);
        assert_eq!(troubled.lock().taken.len(), SERVICES_MAX);
    }
}
