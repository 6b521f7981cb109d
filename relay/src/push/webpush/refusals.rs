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
//! | either, of a service that has never taken a push, and this is a call | at once in one of its own service's turns, of [`OWN`]; else likewise |
//! | none, of a service that has never taken a push, when [`AT_ONCE`] were refused at its address by such services, the last one within [`QUIET`] | likewise where it is no call: a new subscription has all alerts pushed that have waited. A call goes at once |
//!
//! A push that is accepted after a refusal shows that the service has changed its mind: all pushes go at once again, those that wait for a turn, too.
//!
//! Invariant: no call to a subscription that was not refused waits for one that was, and at a service that has taken a push nothing else does. At most
//! [`REFUSED_MAX`] are remembered, as keyed hashes, for [`KEPT`], and [`PLACES_MAX`] addresses; what is known outlives the origin.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use sip::bucket::{Bucket, Rate};
use tokio::sync::Notify;
use tokio::time::{self, sleep_until};

use crate::lock::Mutex;
use crate::push::Verdict;
use crate::push::connection::attempt::Attempt;
use crate::push::connection::urgency::Urgency;

/// Pushes to refused subscriptions of one service.
const PACE: Rate = Rate { burst: 10, interval: Duration::from_millis(100) };
/// Calls to refused subscriptions of one service that has never taken a push, whatever others do at its address.
const OWN: Rate = Rate { burst: 2, interval: Duration::from_secs(30) };
/// How long a push waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(1);
/// Refused subscriptions that are remembered; a further one replaces any of them.
const REFUSED_MAX: usize = 16_384;
/// How long each of them is.
const KEPT: Duration = Duration::from_secs(24 * 3_600);
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
    /// Some that wait may go at once.
    eased: Notify,
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

/// A subscription, as it stands in the table.
struct Named {
    key: u64,
    place: u64,
    has_taken: bool,
    has_address: bool,
}

#[derive(Default)]
struct Table {
    refused: BTreeMap<u64, Refused>,
    /// Services, each with the refused ones of it.
    of_services: BTreeSet<(u64, u64)>,
    /// How many were replaced.
    displaced: u64,
    /// By address where nothing was taken, else by service.
    places: BTreeMap<u64, Place>,
}

/// The last answer to a subscription.
struct Refused {
    service: u64,
    /// Where its turns were counted then.
    place: u64,
    /// `None`: an error.
    reason: Option<&'static str>,
    last: Instant,
}

struct Place {
    pace: Bucket,
    /// How many were refused.
    refused: u32,
    last: Instant,
}

impl Refusals {
    /// Waits for the turn of a push to a subscription, as `of` tells it at each time, at most until this time. An error: there was none in time, and the reason
    /// of the last refusal, if it was one.
    pub(super) async fn turn<'a>(
        &self,
        of: impl Fn() -> Subscription<'a>,
        urgency: Urgency,
        leaves_until: time::Instant,
    ) -> Result<(), Option<&'static str>> {
        let now = time::Instant::now();
        let until = leaves_until.min(now + TURN_WITHIN);
        let at = self.take(&of(), urgency, now.into_std(), until.into_std())?;
        let Some(at) = at.filter(|at| *at > now.into_std()) else { return Ok(()) };
        let mut eased = pin!(self.eased.notified());
        loop {
            eased.as_mut().enable();
            if self.table.lock().judged(&self.named(&of()), urgency, time::Instant::now().into_std()).is_none() {
                return Ok(());
            }
            tokio::select! {
                () = sleep_until(at.into()) => return Ok(()),
                () = eased.as_mut() => eased.set(self.eased.notified()),
            }
        }
    }

    /// Lets those go at once that wait for nothing any more: a service has taken its first push, or changed its mind.
    pub(super) fn ease(&self) {
        self.eased.notify_waiters();
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
        let Some((reason, place)) = table.judged(&self.named(of), urgency, now) else { return Ok(None) };
        let own = self.hash.hash_one((of.origin, "calls"));
        if urgency.is_urgent() && !of.has_taken && table.place(own, now).pace.take(now, OWN).is_ok() {
            return Ok(None);
        }
        let pace = &mut table.place(place, now).pace;
        turn_of(pace, PACE, now, until).map(Some).ok_or(reason)
    }

    /// Notes an answer to a push to a subscription. Returns whether the service has changed its mind.
    pub(super) fn note(&self, of: &Subscription<'_>, attempt: &Attempt) -> bool {
        let reason = match attempt {
            Attempt::Done(Verdict::Accepted) => {
                let mut table = self.table.lock();
                let was_refused = !table.refused.is_empty() && table.refused.contains_key(&self.key_of(of));
                if was_refused {
                    table.forget_service(self.hash.hash_one(of.origin));
                }
                return was_refused;
            }
            Attempt::Done(Verdict::Refused { reason: reason @ ("VapidRefused" | "Redirected" | "OtherReason") }) => {
                Some(*reason)
            }
            Attempt::Done(Verdict::Refused { reason: "ManyNotFound" }) | Attempt::Again { .. } if !of.has_taken => None,
            _ => return false,
        };
        let now = time::Instant::now().into_std();
        let mut table = self.table.lock();
        let named = self.named(of);
        let place = table.place(named.place, now);
        place.refused = if place.is_quiet(now) { 1 } else { place.refused.saturating_add(1) };
        place.last = now;
        let key = named.key;
        if table.refused.len() >= REFUSED_MAX && !table.refused.contains_key(&key) {
            table.displaced += 1;
            // A random one, so that none stays because of its hash.
            let from = self.hash.hash_one(table.displaced);
            let next = table.refused.range(from..).next().map(|(other, _)| *other);
            if let Some(other) = next.or_else(|| table.refused.keys().next().copied()) {
                table.remove(other);
            }
        }
        let service = self.hash.hash_one(of.origin);
        table.of_services.insert((service, key));
        table.refused.insert(key, Refused { service, place: named.place, reason, last: now });
        false
    }

    /// Forgets what was refused long ago.
    pub(super) fn forget(&self) {
        let now = time::Instant::now().into_std();
        let mut table = self.table.lock();
        let old = table.refused.iter().filter(|(_, refused)| !refused.counts(now)).map(|(key, _)| *key);
        for key in old.collect::<Vec<_>>() {
            table.remove(key);
        }
        table.places.retain(|_, it| !it.is_quiet(now) || !it.pace.is_full(now));
    }

    fn named(&self, of: &Subscription<'_>) -> Named {
        let (has_taken, has_address) = (of.has_taken, of.address.is_some());
        Named { key: self.key_of(of), place: self.place_of(of), has_taken, has_address }
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
    /// The reason for which a push takes its turn, and where; `None`: it goes at once.
    fn judged(&self, of: &Named, urgency: Urgency, now: Instant) -> Option<(Option<&'static str>, u64)> {
        match self.refused.get(&of.key).filter(|refused| refused.counts(now)) {
            // Its origin may have been forgotten, and with it the address.
            Some(refused) if !of.has_taken && !of.has_address => Some((refused.reason, refused.place)),
            Some(refused) => Some((refused.reason, of.place)),
            None if of.has_taken || urgency.is_urgent() => None,
            None => self.places.get(&of.place).is_some_and(|it| it.refuses_all(now)).then_some((None, of.place)),
        }
    }

    fn remove(&mut self, key: u64) {
        if let Some(refused) = self.refused.remove(&key) {
            self.of_services.remove(&(refused.service, key));
        }
    }

    fn forget_service(&mut self, service: u64) {
        let those = self.of_services.range((service, 0)..=(service, u64::MAX)).map(|(_, key)| *key);
        for key in those.collect::<Vec<_>>() {
            self.remove(key);
        }
    }

    fn place(&mut self, place: u64, now: Instant) -> &mut Place {
        if self.places.len() >= PLACES_MAX && !self.places.contains_key(&place) {
            self.places.retain(|_, it| !it.is_quiet(now));
            let oldest = self.places.iter().min_by_key(|(_, it)| it.last).map(|(oldest, _)| *oldest);
            oldest.filter(|_| self.places.len() >= PLACES_MAX).map(|oldest| self.places.remove(&oldest));
        }
        self.places.entry(place).or_insert_with(|| Place { pace: Bucket::full(now), refused: 0, last: now })
    }
}

impl Refused {
    fn counts(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) < KEPT
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

    fn again<'a>(same: &Subscription<'a>) -> Subscription<'a> {
        Subscription { ..*same }
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
            assert!((300..=302 + 2 * 200).contains(&calls), "and two of each service: {answer:?}: {calls}");
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
        assert_eq!(table.of_services.len(), REFUSED_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_a_day_ago_is_forgotten() {
        let refusals = Refusals::default();
        refusals.note(&of("/1", true), &REFUSED);
        time::advance(KEPT - Duration::from_secs(1)).await;
        refusals.note(&of("/2", true), &REFUSED);
        time::advance(Duration::from_secs(1)).await;
        let now = time::Instant::now().into_std();
        assert!((0..100).all(|_| goes(&refusals, &of("/1", true), now)));
        assert!((0..100).any(|_| !goes(&refusals, &of("/2", true), now)));
        refusals.forget();
        assert_eq!(refusals.table.lock().refused.len(), 1);
        time::advance(KEPT).await;
        refusals.forget();
        let table = refusals.table.lock();
        assert!(table.refused.is_empty() && table.of_services.is_empty() && table.places.is_empty());
    }

    /// A service that was away at a start, and is well again.
    #[tokio::test(start_paused = true)]
    async fn those_that_wait_go_at_once_when_their_service_takes_a_push() {
        let (refusals, late) = (Refusals::default(), time::Instant::now() + Duration::from_secs(30));
        let paths: Vec<_> = (0..20).map(|n| format!("/{n}")).collect();
        for path in &paths {
            let _ = refusals.note(&of(path, false), &FAILED);
        }
        let other = at("https://other.example.net:443", "/", false);
        refusals.note(&other, &FAILED);
        let calls = paths.iter().map(|path| refusals.turn(|| of(path, false), Urgency::Urgent, late));
        let calls = futures_util::future::join_all(calls);
        let has_taken = std::cell::Cell::new(false);
        let alert = refusals.turn(|| of("/new", has_taken.get()), Urgency::CanWait, late);
        let began = time::Instant::now();
        let takes = async {
            time::sleep(Duration::from_millis(50)).await;
            assert!(refusals.note(&of("/0", false), &TAKEN));
            has_taken.set(true);
            refusals.ease();
        };
        let (calls, alert, ()) = tokio::join!(calls, alert, takes);
        assert!(calls.iter().all(Result::is_ok) && alert.is_ok());
        assert_eq!(began.elapsed(), Duration::from_millis(50));
        // What waits at another service waits on.
        for _ in 0..OWN.burst {
            assert_eq!(refusals.turn(|| again(&other), Urgency::Urgent, late).await, Ok(()));
        }
        let began = time::Instant::now();
        let eases = async {
            time::sleep(Duration::from_millis(10)).await;
            refusals.ease();
        };
        let (turn, ()) = tokio::join!(refusals.turn(|| again(&other), Urgency::Urgent, late), eases);
        assert!(turn.is_ok() && began.elapsed() > Duration::from_millis(10));
    }

    #[test]
    fn a_call_to_a_service_has_turns_of_its_own_and_one_that_was_forgotten_takes_those_of_its_address() {
        let (refusals, now) = (Refusals::default(), Instant::now());
        let (stranger, well) = (of("/w", false), at("https://well.example.net:443", "/w", false));
        refusals.note(&stranger, &REFUSED);
        refusals.note(&well, &FAILED);
        while goes(&refusals, &stranger, now) {}
        assert!(!goes_as(&refusals, &well, Urgency::CanWait, now), "the turns of the address are used up");
        assert!(goes(&refusals, &well, now) && goes(&refusals, &well, now) && !goes(&refusals, &well, now));
        assert!(!goes(&refusals, &Subscription { address: None, ..stranger }, now));
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
            assert_eq!(refusals.turn(|| again(&refused), Urgency::Urgent, late).await, Ok(()));
        }
        let began = time::Instant::now();
        assert_eq!(refusals.turn(|| again(&refused), Urgency::Urgent, late).await, Ok(()), "it waits for its turn");
        assert!(began.elapsed() <= TURN_WITHIN);
        // Many wait for it.
        let began = time::Instant::now();
        let of_turn = |n| again(if n % 2 == 0 { &refused } else { &failed });
        let turns = (0..60).map(|n| refusals.turn(move || of_turn(n), Urgency::Urgent, late));
        let turns = futures_util::future::join_all(turns).await;
        let without: Vec<_> = turns.iter().filter_map(|turn| turn.err()).collect();
        let of_each = |reason| without.iter().filter(|it| **it == reason).count();
        assert_eq!(without.len(), of_each(Some("VapidRefused")) + of_each(None));
        assert!((20..=21).contains(&of_each(Some("VapidRefused"))), "ten a second: {without:?}");
        assert!((8..=9).contains(&of_each(None)), "those, two of its own, and a burst of another place: {without:?}");
        assert!(began.elapsed() <= TURN_WITHIN);
        let now = time::Instant::now();
        while refusals.turn(|| again(&refused), Urgency::Urgent, now + TURN_WITHIN).await.is_ok() {}
        let now = time::Instant::now();
        assert_eq!(
            (refusals.turn(|| again(&refused), Urgency::Urgent, now).await, now.elapsed()),
            (Err(Some("VapidRefused")), Duration::ZERO)
        );
    }
}
