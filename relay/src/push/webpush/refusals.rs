//! The pace of pushes to subscriptions whose last one their service refused.
//!
//! Anybody with an App's key may name any host as a push service, and have the relay post to it for each call of an own account. A host that is no push
//! service refuses every push. So pushes to refused subscriptions of a service go no faster than [`PACE`], all of these together.
//!
//! | last answer to a subscription | its next push |
//! | --- | --- |
//! | none, or it was taken | goes at once |
//! | refused, as what is no push service would answer (400, 401, 403, 405, a redirection, …) | takes its turn, for which it waits [`TURN_WITHIN`] at most; then it is refused for the same reason |
//! | an error (5xx), of a service that has never taken a push | likewise, but then it is tried again later |
//!
//! A push that is accepted after a refusal shows that the service has changed its mind: all pushes go at once again.
//!
//! Invariant: a subscription that was not refused waits for none that was. At most [`REFUSED_MAX`] are remembered, as keyed hashes.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use sip::bucket::{Bucket, Rate};
use tokio::time::{self, sleep};

use crate::lock::Mutex;
use crate::push::Verdict;
use crate::push::connection::attempt::Attempt;

/// Pushes to refused subscriptions of one service.
const PACE: Rate = Rate { burst: 10, interval: Duration::from_millis(100) };
/// How long a push waits for its turn. Its caller waits with it, and of many that wait, most get no turn.
const TURN_WITHIN: Duration = Duration::from_secs(1);
/// Refused subscriptions that are remembered; a further one replaces any of them.
const REFUSED_MAX: usize = 16_384;

/// The refused subscriptions of one service.
#[derive(Default)]
pub(super) struct Refusals {
    hash: RandomState,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// The reason of each; `None`: an error.
    refused: BTreeMap<u64, Option<&'static str>>,
    /// How many were replaced.
    displaced: u64,
    pace: Option<Bucket>,
}

impl Refusals {
    /// Waits for the turn of a push to the subscription at `path`, at most until this time. An error: there was none in time, and the reason of the last refusal, if it was one.
    pub(super) async fn turn(&self, path: &str, leaves_until: time::Instant) -> Result<(), Option<&'static str>> {
        let until = leaves_until.min(time::Instant::now() + TURN_WITHIN);
        while let Err((wait, reason)) = self.take(path, time::Instant::now().into_std()) {
            if time::Instant::now() + wait > until {
                return Err(reason);
            }
            sleep(wait).await;
        }
        Ok(())
    }

    /// A push to the subscription at `path` may go now; or after this time, and the reason of its last refusal.
    fn take(&self, path: &str, now: Instant) -> Result<(), (Duration, Option<&'static str>)> {
        let mut table = self.table.lock();
        if table.refused.is_empty() {
            return Ok(());
        }
        let Some(reason) = table.refused.get(&self.hash.hash_one(path)).copied() else { return Ok(()) };
        let pace = table.pace.get_or_insert_with(|| Bucket::full(now));
        pace.take(now, PACE).map_err(|wait| (wait, reason))
    }

    /// Notes an answer to a push at `path`. `has_taken`: the service has taken a push before.
    pub(super) fn note(&self, path: &str, attempt: &Attempt, has_taken: bool) {
        let reason = match attempt {
            Attempt::Done(Verdict::Accepted) => {
                let mut table = self.table.lock();
                if !table.refused.is_empty() && table.refused.contains_key(&self.hash.hash_one(path)) {
                    table.refused.clear();
                }
                return;
            }
            Attempt::Done(Verdict::Refused { reason: reason @ ("VapidRefused" | "Redirected" | "OtherReason") }) => {
                Some(*reason)
            }
            Attempt::Again { .. } if !has_taken => None,
            _ => return,
        };
        let mut table = self.table.lock();
        let subscription = self.hash.hash_one(path);
        if table.refused.len() >= REFUSED_MAX && !table.refused.contains_key(&subscription) {
            table.displaced += 1;
            // A random one, so that none stays because of its hash.
            let from = self.hash.hash_one(table.displaced);
            let next = table.refused.range(from..).next().map(|(other, _)| *other);
            match next {
                Some(other) => drop(table.refused.remove(&other)),
                None => drop(table.refused.pop_first()),
            }
        }
        table.refused.insert(subscription, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Attempt = Attempt::Done(Verdict::Refused { reason: "VapidRefused" });
    const TAKEN: Attempt = Attempt::Done(Verdict::Accepted);
    const FAILED: Attempt = Attempt::Again { after: None };

    /// Posts to this many subscriptions, repeatedly, each with this answer.
    fn posts(refusals: &Refusals, start: Instant, seconds: u64, answer: &Attempt, has_taken: bool) -> usize {
        let tries = (0..seconds * 1_000).map(|ms| (start + Duration::from_millis(ms), format!("/w/{}", ms % 300)));
        let posted = tries.filter(|(now, path)| {
            let goes = refusals.take(path, *now).is_ok();
            if goes {
                refusals.note(path, answer, has_taken);
            }
            goes
        });
        posted.count()
    }

    #[test]
    fn a_host_that_refuses_each_push_gets_one_of_each_subscription_and_then_ten_in_a_second() {
        for (answer, has_taken) in [(&REFUSED, false), (&REFUSED, true), (&FAILED, false)] {
            let posted = posts(&Refusals::default(), Instant::now(), 20, answer, has_taken);
            assert!((300..=300 + 210).contains(&posted), "{answer:?}: {posted}");
        }
    }

    /// One service with thousands of devices, many of which belong to one attacker.
    #[test]
    fn a_subscription_that_was_not_refused_waits_for_nothing() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        assert_eq!(posts(&refusals, start, 1, &TAKEN, true), 1_000);
        assert_eq!(posts(&refusals, start, 1, &FAILED, true), 1_000, "an outage of a service that has taken pushes");
        for n in 0..1_000 {
            refusals.note(&format!("/bad/{n}"), &REFUSED, true);
        }
        while refusals.take("/bad/1", start).is_ok() {}
        assert!((0..10_000).all(|n| refusals.take(&format!("/good/{n}"), start).is_ok()));
    }

    #[test]
    fn a_service_that_has_changed_its_mind_is_asked_for_all_at_once() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        posts(&refusals, start, 2, &REFUSED, true);
        let later = start + Duration::from_secs(10);
        assert!(refusals.take("/w/1", later).is_ok());
        refusals.note("/w/1", &TAKEN, true);
        assert!((0..300).all(|n| refusals.take(&format!("/w/{n}"), later).is_ok()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let refusals = Refusals::default();
        for n in 0..REFUSED_MAX + 100 {
            refusals.note(&format!("/{n}"), &REFUSED, true);
        }
        assert_eq!(refusals.table.lock().refused.len(), REFUSED_MAX);
    }

    #[test]
    fn those_that_are_forgotten_for_others_are_any() {
        let refusals = Refusals::default();
        let known = |n: usize| refusals.table.lock().refused.contains_key(&refusals.hash.hash_one(format!("/{n}")));
        for n in 0..REFUSED_MAX * 3 {
            refusals.note(&format!("/{n}"), &REFUSED, true);
            assert!(known(n), "{n} has just been refused");
        }
        let of_the_last = (REFUSED_MAX * 2..REFUSED_MAX * 3).filter(|n| known(*n)).count();
        assert!(of_the_last > REFUSED_MAX / 2, "those refused of late stay rather: {of_the_last}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_without_its_turn_within_a_second_ends_as_the_refusal_that_it_was() {
        let (refusals, late) = (Refusals::default(), time::Instant::now() + Duration::from_secs(30));
        refusals.note("/refused", &REFUSED, true);
        refusals.note("/failed", &FAILED, false);
        for _ in 0..PACE.burst {
            assert_eq!(refusals.turn("/refused", late).await, Ok(()));
        }
        let began = time::Instant::now();
        assert_eq!(refusals.turn("/refused", late).await, Ok(()), "it waits for its turn");
        assert!(began.elapsed() <= TURN_WITHIN);
        // Many wait for it.
        let began = time::Instant::now();
        let turns = (0..40).map(|n| refusals.turn(if n % 2 == 0 { "/refused" } else { "/failed" }, late));
        let turns = futures_util::future::join_all(turns).await;
        let without: Vec<_> = turns.iter().filter_map(|turn| turn.err()).collect();
        assert!((20..=30).contains(&without.len()), "ten a second: {without:?}");
        assert!(without.iter().all(|reason| matches!(reason, Some("VapidRefused") | None)), "{without:?}");
        assert!(began.elapsed() <= TURN_WITHIN);
        let now = time::Instant::now();
        assert_eq!((refusals.turn("/refused", now).await, now.elapsed()), (Err(Some("VapidRefused")), Duration::ZERO));
    }
}
