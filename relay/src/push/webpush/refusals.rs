//! The pace of pushes to subscriptions whose last one their service refused.
//!
//! Anybody with an App's key may name any host as a push service, and have the relay post to it for each call of an own account. A host that is no push
//! service refuses every push. So pushes to refused subscriptions of a service go no faster than [`PACE`], all of these together. A service that has never
//! taken one may have many names and ports; all that lead to its address count as one.
//!
//! | last answer to a subscription | its next push |
//! | --- | --- |
//! | none, or it was taken | goes at once |
//! | refused, as what is no push service would answer (400, 401, 403, 405, a redirection, …) | takes its turn, for which it waits [`TURN_WITHIN`] at most; then it is refused for the same reason |
//! | an error (5xx, many 404), of a service that has never taken a push | likewise, but then it is tried again later |
//! | none, of a service that has never taken a push, when [`AT_ONCE`] were refused at its address by such services, the last one within [`QUIET`] | likewise where it is no call: a new subscription has all alerts pushed that have waited. A call goes at once |
//!
//! A push that is accepted after a refusal shows that the service has changed its mind: all pushes go at once again.
//!
//! Invariant: no call to a subscription that was not refused waits for one that was, and at a service that has taken a push nothing else does. At most [`REFUSED_MAX`] are remembered, as keyed
//! hashes, and [`PLACES_MAX`] addresses; what is known outlives the origin.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sip::bucket::{Bucket, Rate};
use tokio::time::{self, sleep_until};

use crate::lock::Mutex;
use crate::push::Verdict;
use crate::push::connection::attempt::Attempt;
use crate::push::connection::urgency::Urgency;

/// Pushes to refused subscriptions of one service.
const PACE: Rate = Rate { burst: 10, interval: Duration::from_millis(100) };
/// How long a push waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(1);
/// Refused subscriptions that are remembered; a further one replaces any of them.
const REFUSED_MAX: usize = 16_384;
/// Refusals at one address, by services that have never taken a push, after which what is no call takes turns at new subscriptions, too.
const AT_ONCE: u32 = 10;
/// How long after the last one they count no more.
const QUIET: Duration = Duration::from_secs(600);
/// Addresses, and services that have taken a push, whose paces are remembered; a further one replaces the one whose last refusal is longest ago.
const PLACES_MAX: usize = 4_096;

/// The refused subscriptions of an App.
#[derive(Default)]
pub(super) struct Refusals {
    hash: RandomState,
    table: Mutex<Table>,
}

/// A subscription, and what is known of its service.
pub(super) struct Subscription<'a> {
    pub(super) origin: &'a str,
    pub(super) path: &'a str,
    /// Its service has taken a push lately.
    pub(super) has_taken: bool,
    /// Where it was reached last.
    pub(super) address: Option<IpAddr>,
}

#[derive(Default)]
struct Table {
    refused: BTreeMap<u64, Refused>,
    /// How many were replaced.
    displaced: u64,
    /// By address where nothing was taken, else by service.
    places: BTreeMap<u64, Place>,
}

/// The last answer to a subscription.
struct Refused {
    service: u64,
    /// `None`: an error.
    reason: Option<&'static str>,
}

struct Place {
    pace: Bucket,
    /// How many were refused.
    refused: u32,
    last: Instant,
}

impl Refusals {
    /// Waits for the turn of a push to a subscription, at most until this time. An error: there was none in time, and the reason of the last refusal, if it was one.
    pub(super) async fn turn(
        &self,
        of: &Subscription<'_>,
        urgency: Urgency,
        leaves_until: time::Instant,
    ) -> Result<(), Option<&'static str>> {
        let now = time::Instant::now();
        let until = leaves_until.min(now + TURN_WITHIN);
        let at = self.take(of, urgency, now.into_std(), until.into_std())?;
        if let Some(at) = at.filter(|at| *at > now.into_std()) {
            sleep_until(at.into()).await;
        }
        Ok(())
    }

    /// Takes the turn of a push to a subscription, and says when it is; `None`: it goes at once. An error as of [`Self::turn`].
    fn take(
        &self,
        of: &Subscription<'_>,
        urgency: Urgency,
        now: Instant,
        until: Instant,
    ) -> Result<Option<Instant>, Option<&'static str>> {
        let mut table = self.table.lock();
        if table.refused.is_empty() && table.places.is_empty() {
            return Ok(None);
        }
        let place = self.place_of(of);
        let reason = match table.refused.get(&self.key_of(of)) {
            Some(refused) => refused.reason,
            None if of.has_taken || urgency.is_urgent() => return Ok(None),
            None if table.places.get(&place).is_some_and(|it| it.refuses_all(now)) => None,
            None => return Ok(None),
        };
        let pace = &mut table.place(place, now).pace;
        turn_of(pace, PACE, now, until).map(Some).ok_or(reason)
    }

    /// Notes an answer to a push to a subscription.
    pub(super) fn note(&self, of: &Subscription<'_>, attempt: &Attempt) {
        let reason = match attempt {
            Attempt::Done(Verdict::Accepted) => {
                let mut table = self.table.lock();
                if !table.refused.is_empty() && table.refused.contains_key(&self.key_of(of)) {
                    let service = self.hash.hash_one(of.origin);
                    table.refused.retain(|_, refused| refused.service != service);
                }
                return;
            }
            Attempt::Done(Verdict::Refused { reason: reason @ ("VapidRefused" | "Redirected" | "OtherReason") }) => {
                Some(*reason)
            }
            Attempt::Done(Verdict::Refused { reason: "ManyNotFound" }) | Attempt::Again { .. } if !of.has_taken => None,
            _ => return,
        };
        let now = time::Instant::now().into_std();
        let mut table = self.table.lock();
        let place = table.place(self.place_of(of), now);
        place.refused = if place.is_quiet(now) { 1 } else { place.refused.saturating_add(1) };
        place.last = now;
        let key = self.key_of(of);
        if table.refused.len() >= REFUSED_MAX && !table.refused.contains_key(&key) {
            table.displaced += 1;
            // A random one, so that none stays because of its hash.
            let from = self.hash.hash_one(table.displaced);
            let next = table.refused.range(from..).next().map(|(other, _)| *other);
            match next {
                Some(other) => drop(table.refused.remove(&other)),
                None => drop(table.refused.pop_first()),
            }
        }
        table.refused.insert(key, Refused { service: self.hash.hash_one(of.origin), reason });
    }

    fn key_of(&self, of: &Subscription<'_>) -> u64 {
        self.hash.hash_one((of.origin, of.path))
    }

    fn place_of(&self, of: &Subscription<'_>) -> u64 {
        match of.address {
            Some(address) if !of.has_taken => self.hash.hash_one(address),
            _ => self.hash.hash_one(of.origin),
        }
    }
}

/// When the next turn of a bucket is, which is taken; `None`: not until then.
fn turn_of(bucket: &mut Bucket, rate: Rate, now: Instant, until: Instant) -> Option<Instant> {
    let at = bucket.when(now, rate, 1);
    if at > now && at > until {
        return None;
    }
    bucket.owe(now, rate, 1);
    Some(at)
}

impl Table {
    fn place(&mut self, place: u64, now: Instant) -> &mut Place {
        if self.places.len() >= PLACES_MAX && !self.places.contains_key(&place) {
            self.places.retain(|_, it| !it.is_quiet(now));
            let oldest = self.places.iter().min_by_key(|(_, it)| it.last).map(|(oldest, _)| *oldest);
            oldest.filter(|_| self.places.len() >= PLACES_MAX).map(|oldest| self.places.remove(&oldest));
        }
        self.places.entry(place).or_insert_with(|| Place { pace: Bucket::full(now), refused: 0, last: now })
    }
}

impl Place {
    fn is_quiet(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= QUIET
    }

    fn refuses_all(&self, now: Instant) -> bool {
        self.refused >= AT_ONCE && !self.is_quiet(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Attempt = Attempt::Done(Verdict::Refused { reason: "VapidRefused" });
    const TAKEN: Attempt = Attempt::Done(Verdict::Accepted);
    const FAILED: Attempt = Attempt::Again { after: None };

    fn of(path: &str, has_taken: bool) -> Subscription<'_> {
        at("https://push.example.net:443", path, has_taken)
    }

    /// All origins are at one address.
    fn at<'a>(origin: &'a str, path: &'a str, has_taken: bool) -> Subscription<'a> {
        Subscription { origin, path, has_taken, address: Some(IpAddr::from([198, 51, 100, 1])) }
    }

    fn goes(refusals: &Refusals, of: &Subscription<'_>, now: Instant) -> bool {
        goes_as(refusals, of, Urgency::Urgent, now)
    }

    fn goes_as(refusals: &Refusals, of: &Subscription<'_>, urgency: Urgency, now: Instant) -> bool {
        refusals.take(of, urgency, now, now).is_ok()
    }

    /// Posts to this many subscriptions, repeatedly, each with this answer.
    fn posts(refusals: &Refusals, start: Instant, seconds: u64, answer: &Attempt, has_taken: bool) -> usize {
        let tries = (0..seconds * 1_000).map(|ms| (start + Duration::from_millis(ms), format!("/w/{}", ms % 300)));
        let posted = tries.filter(|(now, path)| {
            let goes = goes(refusals, &of(path, has_taken), *now);
            if goes {
                refusals.note(&of(path, has_taken), answer);
            }
            goes
        });
        posted.count()
    }

    #[test]
    fn a_service_that_refuses_each_push_gets_one_of_each_subscription_and_then_ten_in_a_second() {
        let posted = posts(&Refusals::default(), Instant::now(), 20, &REFUSED, true);
        assert!((300..=300 + 210).contains(&posted), "{posted}");
    }

    #[test]
    fn a_host_that_has_never_taken_one_gets_ten_in_a_second_by_whatever_origins_and_alerts_to_new_subscriptions() {
        const NOT_FOUND: Attempt = Attempt::Done(Verdict::Refused { reason: "ManyNotFound" });
        for answer in [&REFUSED, &FAILED, &NOT_FOUND] {
            let (refusals, start) = (Refusals::default(), Instant::now());
            let posted = |urgency, subscriptions: u64| {
                let tries = (0..20_000_u64).map(|ms| {
                    let of = ms % subscriptions;
                    let origin = format!("https://push{}.example.net:{}", of % 50, of % 40 + 443);
                    (start + Duration::from_millis(ms), origin, format!("/{urgency:?}/{of}"))
                });
                let posted = tries.filter(|(now, origin, path)| {
                    let goes = goes_as(&refusals, &at(origin, path, false), urgency, *now);
                    if goes {
                        refusals.note(&at(origin, path, false), answer);
                    }
                    goes
                });
                posted.count()
            };
            let alerts = posted(Urgency::CanWait, 20_000);
            assert!((200..=10 + 10 + 200).contains(&alerts), "{answer:?}: {alerts}");
            // The pace is used up, and a call to each subscription goes all the same, once.
            let calls = posted(Urgency::Urgent, 300);
            assert!((300..=302).contains(&calls), "{answer:?}: {calls}");
            // Whoever has taken pushes there, and any other address, waits for none of those.
            let later = start + Duration::from_secs(20);
            let elsewhere = Subscription { address: Some(IpAddr::from([198, 51, 100, 2])), ..of("/", false) };
            let goes = |of: &_, at| goes_as(&refusals, of, Urgency::CanWait, at);
            assert!((0..1_000).all(|_| goes(&of("/", true), later) && goes(&elsewhere, later)));
            assert!((0..100).any(|_| !goes(&of("/", false), later)));
            assert!((0..100).all(|_| goes(&of("/", false), later + QUIET)), "long ago");
        }
    }

    /// One service with thousands of devices, many of which belong to one attacker.
    #[test]
    fn a_subscription_that_was_not_refused_waits_for_nothing() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        assert_eq!(posts(&refusals, start, 1, &TAKEN, true), 1_000);
        assert_eq!(posts(&refusals, start, 1, &FAILED, true), 1_000, "an outage of a service that has taken pushes");
        for n in 0..1_000 {
            refusals.note(&of(&format!("/bad/{n}"), true), &REFUSED);
        }
        while goes(&refusals, &of("/bad/1", true), start) {}
        assert!((0..10_000).all(|n| goes(&refusals, &of(&format!("/good/{n}"), true), start)));
    }

    #[test]
    fn a_service_that_has_changed_its_mind_is_asked_for_all_at_once() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        posts(&refusals, start, 2, &REFUSED, true);
        let later = start + Duration::from_secs(10);
        let other = at("https://other.example.net:443", "/w/1", true);
        refusals.note(&other, &REFUSED);
        assert!(goes(&refusals, &of("/w/1", true), later));
        refusals.note(&of("/w/1", true), &TAKEN);
        assert!((0..300).all(|n| goes(&refusals, &of(&format!("/w/{n}"), true), later)));
        assert!((0..20).any(|_| !goes(&refusals, &other, later)), "no other service has");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let refusals = Refusals::default();
        for n in 0..REFUSED_MAX + 100 {
            refusals.note(&of(&format!("/{n}"), true), &REFUSED);
        }
        for n in 0..PLACES_MAX + 100 {
            refusals.note(&at(&format!("https://{n}.example.net:443"), "/", true), &REFUSED);
        }
        let table = refusals.table.lock();
        assert_eq!((table.refused.len(), table.places.len()), (REFUSED_MAX, PLACES_MAX));
    }

    #[test]
    fn those_that_are_forgotten_for_others_are_any() {
        let refusals = Refusals::default();
        let known =
            |n: usize| refusals.table.lock().refused.contains_key(&refusals.key_of(&of(&format!("/{n}"), true)));
        for n in 0..REFUSED_MAX * 3 {
            refusals.note(&of(&format!("/{n}"), true), &REFUSED);
            assert!(known(n), "{n} has just been refused");
        }
        let of_the_last = (REFUSED_MAX * 2..REFUSED_MAX * 3).filter(|n| known(*n)).count();
        assert!(of_the_last > REFUSED_MAX / 2, "those refused of late stay rather: {of_the_last}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_without_its_turn_within_a_second_ends_as_the_refusal_that_it_was() {
        let (refusals, late) = (Refusals::default(), time::Instant::now() + Duration::from_secs(30));
        refusals.note(&of("/refused", true), &REFUSED);
        refusals.note(&of("/failed", false), &FAILED);
        let (refused, failed) = (of("/refused", true), of("/failed", false));
        for _ in 0..PACE.burst {
            assert_eq!(refusals.turn(&refused, Urgency::Urgent, late).await, Ok(()));
        }
        let began = time::Instant::now();
        assert_eq!(refusals.turn(&refused, Urgency::Urgent, late).await, Ok(()), "it waits for its turn");
        assert!(began.elapsed() <= TURN_WITHIN);
        // Many wait for it.
        let began = time::Instant::now();
        let turns = (0..60).map(|n| refusals.turn(if n % 2 == 0 { &refused } else { &failed }, Urgency::Urgent, late));
        let turns = futures_util::future::join_all(turns).await;
        let without: Vec<_> = turns.iter().filter_map(|turn| turn.err()).collect();
        let of_each = |reason| without.iter().filter(|it| **it == reason).count();
        assert_eq!(without.len(), of_each(Some("VapidRefused")) + of_each(None));
        assert!((20..=21).contains(&of_each(Some("VapidRefused"))), "ten a second: {without:?}");
        assert!((10..=11).contains(&of_each(None)), "those, and a burst of another place: {without:?}");
        assert!(began.elapsed() <= TURN_WITHIN);
        let now = time::Instant::now();
        while refusals.turn(&refused, Urgency::Urgent, now + TURN_WITHIN).await.is_ok() {}
        let now = time::Instant::now();
        assert_eq!(
            (refusals.turn(&refused, Urgency::Urgent, now).await, now.elapsed()),
            (Err(Some("VapidRefused")), Duration::ZERO)
        );
    }
}
