//! The services in trouble among the many that stand behind one record.
//!
//! Devices choose the services, and anybody may run one: the trouble of one must not be taken for that of all, and its health must not hide the trouble of the
//! others.
//!
//! | a trouble of | counts |
//! | --- | --- |
//! | a service that has taken a push within [`TAKEN_FOR`] | once until it is well, as a light trouble |
//! | likewise, when the services in trouble have taken [`SHARE`] of the latest pushes | always, as a light trouble |
//! | likewise, when each of them has a grave trouble, or its third in a row | always: all fail, until each of them is well, or in no trouble for [`TAKEN_FOR`] |
//! | any other service | not at all |
//! | a known service, while none has taken a push | once, as a light trouble; always, when all of them are in trouble |
//!
//! Invariant: at most [`SERVICES_MAX`] services of each kind are remembered, for [`TAKEN_FOR`] and by a keyed hash, because their names would tell whose
//! devices there were. After [`LATEST`] pushes or fewer, earlier pushes count half.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::Mutex;

/// Light troubles in a row at which a service fails.
pub(super) const TROUBLES: u32 = 3;
/// How long a service counts after it has taken a push.
const TAKEN_FOR: Duration = Duration::from_secs(24 * 3_600);
/// The part of the latest pushes that is representative: one in so many.
const SHARE: u32 = 4;
/// After so many pushes, earlier ones count half.
const LATEST: u32 = 1_024;
/// Services that are remembered. The trouble of a further one does not count; a further one that takes a push replaces the one that
/// has taken none for longest.
const SERVICES_MAX: usize = 1_024;

/// The weight of one service's trouble for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    Nothing,
    /// The weight of a light trouble.
    Light,
    /// The weight of a failure.
    Fails,
}

/// The services in trouble.
pub(crate) struct Troubled {
    services: Mutex<Services>,
    /// The random key of the hashes of services.
    key: RandomState,
    /// The number of services.
    known: Arc<AtomicUsize>,
}

#[derive(Default)]
struct Services {
    taken: HashMap<u64, Taken>,
    /// The pushes taken since earlier ones last counted half.
    latest: u32,
    in_trouble: HashMap<u64, InTrouble>,
}

struct Taken {
    pushes: u32,
    last: Instant,
}

struct InTrouble {
    /// Troubles in a row; a grave one is as many as make a failure.
    count: u32,
    last: Instant,
    /// Whether all were called failing because of it.
    counts: bool,
}

impl Troubled {
    pub(crate) fn new(known: Arc<AtomicUsize>) -> Self {
        Self { services: Mutex::default(), key: RandomState::new(), known }
    }

    /// A service has taken a push. Returns whether that shows that all are well.
    pub(super) fn took(&self, origin: &str) -> bool {
        let (origin, mut services) = (self.name_of(origin), self.lock());
        services.count(origin, Instant::now());
        services.is_well(origin)
    }

    /// Whether a service is known to have taken a push within [`TAKEN_FOR`].
    pub(crate) fn has_taken(&self, origin: &str) -> bool {
        self.lock().taken.get(&self.name_of(origin)).is_some_and(|taken| taken.last + TAKEN_FOR > Instant::now())
    }

    /// A service is well. Returns whether that shows that all are.
    pub(super) fn well(&self, origin: &str) -> bool {
        self.lock().is_well(self.name_of(origin))
    }

    /// Forgets services that do not count any more.
    pub(crate) fn forget(&self) {
        self.lock().forget(Instant::now());
    }

    fn name_of(&self, origin: &str) -> u64 {
        self.key.hash_one(origin)
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        let services = self.lock();
        services.taken.len() + services.in_trouble.len()
    }

    /// This one is in trouble.
    pub(super) fn weigh(&self, origin: &str, is_grave: bool) -> Weight {
        let (origin, mut services) = (self.name_of(origin), self.lock());
        let now = Instant::now();
        services.forget(now);
        let Services { taken, in_trouble, .. } = &mut *services;
        let counted = in_trouble.get(&origin).is_some_and(|it| it.counts);
        if !counted && !taken.is_empty() && !taken.contains_key(&origin) {
            return Weight::Nothing;
        }
        if in_trouble.len() >= SERVICES_MAX && !in_trouble.contains_key(&origin) {
            return Weight::Nothing;
        }
        let own = in_trouble.entry(origin).or_insert(InTrouble { count: 0, last: now, counts: false });
        let is_new = own.count == 0;
        own.count = own.count.saturating_add(if is_grave { TROUBLES } else { 1 });
        own.last = now;
        let own_fails = own.count >= TROUBLES;
        if taken.is_empty() && !counted {
            let all = in_trouble.len() >= self.known.load(Ordering::Relaxed);
            return if all || is_new { Weight::Light } else { Weight::Nothing };
        }
        if counted || own_fails && services.speak_for_all(|it| it.count >= TROUBLES) {
            if let Some(own) = services.in_trouble.get_mut(&origin) {
                own.counts = true;
            }
            return Weight::Fails;
        }
        if is_new || services.speak_for_all(|_| true) { Weight::Light } else { Weight::Nothing }
    }

    fn lock(&self) -> MutexGuard<'_, Services> {
        self.services.lock()
    }
}

impl Services {
    fn count(&mut self, origin: u64, now: Instant) {
        if self.latest >= LATEST {
            self.taken.values_mut().for_each(|taken| taken.pushes /= 2);
            self.latest = 0;
        }
        self.latest += 1;
        if let Some(taken) = self.taken.get_mut(&origin) {
            (taken.pushes, taken.last) = (taken.pushes + 1, now);
            return;
        }
        if self.taken.len() >= SERVICES_MAX {
            let oldest = self.taken.iter().min_by_key(|(_, taken)| taken.last).map(|(origin, _)| *origin);
            oldest.and_then(|oldest| self.taken.remove(&oldest));
        }
        self.taken.insert(origin, Taken { pushes: 1, last: now });
    }

    fn is_well(&mut self, origin: u64) -> bool {
        if self.in_trouble.is_empty() {
            return true;
        }
        self.in_trouble.remove(&origin);
        self.forget(Instant::now());
        !self.in_trouble.values().any(|it| it.counts)
    }

    /// Whether those have taken enough of the latest pushes.
    fn speak_for_all(&self, are: impl Fn(&InTrouble) -> bool) -> bool {
        let (mut all, mut theirs) = (0, 0);
        for (origin, taken) in &self.taken {
            all += taken.pushes;
            theirs += self.in_trouble.get(origin).filter(|it| are(it)).map_or(0, |_| taken.pushes);
        }
        theirs * SHARE >= all
    }

    pub(crate) fn forget(&mut self, now: Instant) {
        self.taken.retain(|_, taken| taken.last + TAKEN_FOR > now);
        self.in_trouble.retain(|_, it| it.last + TAKEN_FOR > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn among(known: usize) -> Troubled {
        Troubled::new(Arc::new(AtomicUsize::new(known)))
    }

    fn light(troubled: &Troubled, origin: &str, times: usize) -> Vec<Weight> {
        (0..times).map(|_| troubled.weigh(origin, false)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_taken_pushes_counts_and_nobody_else_does() {
        let troubled = among(3);
        assert_eq!(light(&troubled, "a", 2), [Weight::Light, Weight::Nothing], "once, while none has taken any");
        (0..10).for_each(|_| assert!(troubled.took("good")));
        for stranger in ["a", "b", "c"] {
            assert_eq!(troubled.weigh(stranger, true), Weight::Nothing);
        }
        assert_eq!(light(&troubled, "good", 3), [Weight::Light, Weight::Light, Weight::Fails]);
        assert!(troubled.took("good"));
        assert_eq!(troubled.weigh("good", true), Weight::Fails);
        tokio::time::advance(TAKEN_FOR).await;
        assert_eq!(troubled.weigh("a", true), Weight::Light, "what was long ago says nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn what_strangers_and_other_services_take_hides_no_outage_and_what_they_refuse_makes_none() {
        let troubled = among(3);
        (0..6).for_each(|_| _ = troubled.took("real"));
        (0..4).for_each(|_| _ = troubled.took("other"));
        assert!(troubled.took("stranger"));
        let of_stranger: Vec<_> = (0..4).map(|_| troubled.weigh("stranger", true)).collect();
        assert_eq!(of_stranger, [Weight::Light, Weight::Nothing, Weight::Nothing, Weight::Nothing]);
        for (fails, well) in [("real", "other"), ("other", "real")] {
            assert_eq!(light(&troubled, fails, 2), [Weight::Light; 2]);
            assert!(troubled.took(well) && troubled.well("stranger"), "not yet");
            assert_eq!(light(&troubled, fails, 2), [Weight::Fails; 2]);
            for hour in 0..48 {
                tokio::time::advance(Duration::from_secs(3_600)).await;
                (0..200).for_each(|_| assert!(!troubled.took(well)));
                assert!(!troubled.took("stranger") && !troubled.well("stranger"));
                assert_eq!(troubled.weigh(fails, false), Weight::Fails, "after {hour} h");
            }
            assert!(troubled.took(fails), "it is well again");
            (0..LATEST).for_each(|_| _ = troubled.took(fails));
        }
        assert_eq!(troubled.weigh("other", true), Weight::Fails);
        tokio::time::advance(TAKEN_FOR).await;
        assert!(troubled.took("real"), "nobody has needed the other for a day");
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_one_counts_always_and_what_is_remembered_is_limited() {
        let troubled = among(1);
        assert_eq!(light(&troubled, "a", 2), [Weight::Light; 2]);
        for number in 0..=SERVICES_MAX {
            tokio::time::advance(Duration::from_millis(1)).await;
            troubled.took(&number.to_string());
        }
        assert_eq!(troubled.weigh("0", false), Weight::Nothing, "it took one longest ago");
        assert_eq!(troubled.weigh("1", false), Weight::Light);
        assert_eq!(troubled.lock().taken.len(), SERVICES_MAX);
    }
}
