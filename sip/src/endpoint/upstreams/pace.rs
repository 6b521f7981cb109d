//! The pace of registrations, as a number in each second: at one SIP server, and at one address, whatever names lead there.
//!
//! A SIP server is paced by its row, and so is the address that its flow leads to, which many names may share. A retransmitted REGISTER counts at its address
//! like a new one, so that a silent address gets little.
//!
//! | a SIP server | its pace |
//! | --- | --- |
//! | grants a registration | one more in a second, up to the policy |
//! | refuses two accounts with 503 or 430, and grants none between | half of it, at most once in [`LOWERED_EACH`], and at least [`SLOWEST`] |
//! | leaves two accounts unanswered within one transaction's time while it answers others | likewise |
//! | is silent | [`SLOWEST`] |
//!
//! | a REGISTER | waits behind |
//! | --- | --- |
//! | of a device, which passes through | all that have a place |
//! | of the relay's own registrations | likewise; but half of all turns are theirs, however many devices come |
//!
//! The relay has its own begin when it is their turn, and they have no place before: a line of devices that never ends would leave them none.
//!
//! Invariant: a REGISTER that must wait for its turn has a place, and keeps it, so that each of many costs one timer. Retransmissions move all places back
//! alike. An unused place is lost.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::bucket::{Bucket, Rate};

/// How far a REGISTER that is sent again may move an address's turn: as long as one REGISTER is repeated.
const DEBT_MAX: Duration = Duration::from_secs(32);
/// Addresses that are remembered beyond one for each SIP server, before those at rest are forgotten.
const ADDRESSES_SPARE: usize = 64;
/// Likewise, when a REGISTER passes through that no SIP server's row is counted for.
const ADDRESSES_MAX: usize = 4_096;

/// Registrations that begin at once: as many as have their turn within 10 ms, which is as often as a shard looks at its timers, and at
/// least one. More than 200 never do, so a pace above 20,000 in a second is not reached.
const BURST_MAX: u32 = 200;

/// However much a SIP server refuses, so many begin in a second, where the policy lets them.
const SLOWEST: u32 = 10;
/// A pace is halved once in this time, for what was sent at the faster one is refused together.
const LOWERED_EACH: Duration = Duration::from_secs(1);

/// A turn that comes later than it was to by no more than this is counted as if it had come in time: else each late look at the timers
/// would take from the pace.
const LATE_MAX: Duration = Duration::from_millis(20);

/// A burst at once, and then as many as the policy says in a second.
#[derive(Debug)]
pub(super) struct Pace {
    /// The policy's rate, per second.
    policy: u32,
    /// The rate that its server bears, per second.
    per_second: u32,
    rate: Rate,
    lowered_at: Option<Instant>,
    bucket: Bucket,
    /// What the relay's own have taken, at half of the rate: it has a turn for them where those that pass through have all others.
    own: Bucket,
    /// When the next turns are to come.
    next: Option<Instant>,
    /// By how much all places were moved back since the beginning.
    moved_back: Duration,
}

/// The turns that an address grants.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// The number that may begin now.
    pub(super) now: usize,
    /// The place of the others.
    pub(super) later: Option<Place>,
}

/// A place in the queue of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::endpoint) struct Place {
    /// When its turn comes.
    pub(in crate::endpoint) at: Instant,
    moved_back: Duration,
}

impl Place {
    /// A place of its own, shared with no other registration.
    pub(super) fn at(at: Instant) -> Self {
        Self { at, moved_back: Duration::ZERO }
    }
}

impl Pace {
    pub(super) fn new(now: Instant, per_second: u32) -> Self {
        Self {
            policy: per_second,
            per_second,
            rate: rate_of(per_second),
            lowered_at: None,
            bucket: Bucket::full(now),
            own: Bucket::full(now),
            next: None,
            moved_back: Duration::ZERO,
        }
    }

    /// The server has granted one: it bears one more in a second.
    pub(super) fn grant(&mut self) {
        if self.per_second < self.policy {
            self.set(self.per_second + 1);
        }
    }

    /// Lowers the pace: the server refuses more than one account.
    pub(super) fn refuse(&mut self, now: Instant) {
        if self.lowered_at.is_none_or(|at| at + LOWERED_EACH <= now) {
            self.lowered_at = Some(now);
            self.set(self.per_second / 2);
        }
    }

    /// Begins anew with a server that has answered nothing: it is asked slowly, until it grants.
    pub(super) fn begin_anew(&mut self) {
        self.set(0);
    }

    /// The rate that its server bears, per second.
    pub(super) fn per_second(&self) -> u32 {
        self.per_second
    }

    fn set(&mut self, per_second: u32) {
        self.per_second = per_second.max(SLOWEST).min(self.policy);
        self.rate = rate_of(self.per_second);
    }

    /// When the turns that come now were to come.
    pub(super) fn due(&mut self, now: Instant) -> Instant {
        self.next.take().filter(|next| *next <= now && now - *next <= LATE_MAX).unwrap_or(now)
    }

    /// How many of `waiting` may begin now; and when the next ones may, if any is left.
    pub(super) fn take(&mut self, now: Instant, waiting: usize) -> (usize, Option<Instant>) {
        let granted = self.take_now(now, waiting);
        let left = waiting - granted;
        // A whole burst at a time, so that a long queue costs few timers.
        let batch = u32::try_from(left).unwrap_or(u32::MAX).min(self.rate.burst);
        self.next = (left > 0).then(|| self.own_turn(now, batch));
        (granted, self.next)
    }

    fn take_now(&mut self, now: Instant, waiting: usize) -> usize {
        let begins = |_: &usize| {
            let is_turn = self.own_turn(now, 1) <= now;
            if is_turn {
                self.owe_own(now, 1);
            }
            is_turn
        };
        (0..waiting).take_while(begins).count()
    }

    /// When the last of so many of the relay's own has its turn. Without others that is never by their half: each of them is owed twice the time there.
    fn own_turn(&self, now: Instant, count: u32) -> Instant {
        self.bucket.when(now, self.rate, count).min(self.own.when(now, self.half(), count))
    }

    fn owe_own(&mut self, now: Instant, count: u32) {
        self.bucket.owe(now, self.rate, count);
        self.own.owe(now, self.half(), count);
    }

    fn half(&self) -> Rate {
        Rate { interval: 2 * self.rate.interval, ..self.rate }
    }

    fn reserve(&mut self, now: Instant, waiting: usize) -> Granted {
        let granted = self.take_now(now, waiting);
        let left = u32::try_from(waiting - granted).unwrap_or(u32::MAX);
        let later = (left > 0).then(|| {
            let at = self.own_turn(now, left);
            self.owe_own(now, left);
            Place { at, moved_back: self.moved_back }
        });
        Granted { now: granted, later }
    }

    /// A place for one, which may be now; `None`: its turn would not come within this time.
    pub(super) fn place(&mut self, now: Instant, within: Duration) -> Option<Place> {
        let at = self.bucket.when(now, self.rate, 1);
        (at <= now + within).then(|| {
            self.bucket.owe(now, self.rate, 1);
            Place { at, moved_back: self.moved_back }
        })
    }

    fn charge(&mut self, now: Instant) {
        self.bucket.owe_at_most(now, self.rate, 1, DEBT_MAX);
        self.own.owe_at_most(now, self.half(), 1, 2 * DEBT_MAX);
        self.moved_back += self.rate.interval;
    }

    fn is_at_rest(&self, now: Instant) -> bool {
        self.bucket.is_full(now) && self.own.is_full(now)
    }
}

fn rate_of(per_second: u32) -> Rate {
    Rate::per_second(per_second, (per_second / 100).clamp(1, BURST_MAX))
}

/// The addresses that flows lead to.
#[derive(Debug, Default)]
pub(super) struct Paces {
    rows: BTreeMap<IpAddr, Pace>,
}

impl Paces {
    /// Lets some of those begin that wait for one SIP server, and gives the others a place; `servers`: how many SIP servers
    /// there are.
    pub(super) fn reserve(
        &mut self,
        now: Instant,
        address: IpAddr,
        waiting: usize,
        per_second: u32,
        servers: usize,
    ) -> Granted {
        if self.rows.len() > servers + ADDRESSES_SPARE {
            self.rows.retain(|_, pace| !pace.is_at_rest(now));
        }
        self.rows.entry(address.to_canonical()).or_insert_with(|| Pace::new(now, per_second)).reserve(now, waiting)
    }

    /// Where a place is now, if it was moved back since it was given.
    pub(super) fn moved(&self, now: Instant, address: IpAddr, place: Place) -> Option<Place> {
        let pace = self.rows.get(&address.to_canonical())?;
        let by = pace.moved_back.saturating_sub(place.moved_back);
        (!by.is_zero()).then(|| Place { at: now.max(place.at) + by, moved_back: pace.moved_back })
    }

    /// A place for one at this address; `None`: not within this time.
    pub(super) fn place(&mut self, now: Instant, address: IpAddr, per_second: u32, within: Duration) -> Option<Place> {
        if self.rows.len() > ADDRESSES_MAX {
            self.rows.retain(|_, pace| !pace.is_at_rest(now));
        }
        self.rows.entry(address.to_canonical()).or_insert_with(|| Pace::new(now, per_second)).place(now, within)
    }

    /// A REGISTER was sent again to this address.
    pub(super) fn charge(&mut self, now: Instant, address: IpAddr) {
        if let Some(pace) = self.rows.get_mut(&address.to_canonical()) {
            pace.charge(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_who_wait_at_one_address_have_each_their_place() {
        let (mut paces, now) = (Paces::default(), Instant::now());
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let mut places: Vec<Duration> = (0..41)
            .map(|_| match paces.reserve(now, address, 1, 10, 1) {
                Granted { now: 1, later: None } => Duration::ZERO,
                Granted { now: 0, later: Some(place) } => place.at - now,
                other => panic!("{other:?}"),
            })
            .collect();
        places.sort_unstable();
        assert_eq!(places.len(), 41);
        assert_eq!(places[40], Duration::from_secs(4), "ten in a second");
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(paces.reserve(now, mapped, 1, 10, 1).now, 0, "the same address");
        let other: IpAddr = "192.0.2.2".parse().unwrap();
        assert_eq!(paces.reserve(now, other, 1, 10, 1), Granted { now: 1, later: None });
    }

    #[test]
    fn a_pace_is_reached_by_who_looks_at_the_time_each_10_ms_and_is_late() {
        for per_second in [1, 70, 500, 5_000, 10_000] {
            let start = Instant::now();
            let (mut pace, mut now, mut granted) = (Pace::new(start, per_second), start, 0);
            while now < start + Duration::from_secs(10) {
                let due = pace.due(now);
                let (begun, next) = pace.take(due, 1_000_000);
                granted += begun;
                let late = Duration::from_millis(granted as u64 % 8);
                now = next.map_or(now, |next| next + late);
            }
            let wanted = 10 * per_second as usize;
            assert!((wanted * 98 / 100..=wanted * 102 / 100 + 1).contains(&granted), "{granted} of {wanted}");
        }
    }

    #[test]
    fn what_a_server_refuses_slows_what_it_is_sent_and_what_it_grants_speeds_it_up() {
        let start = Instant::now();
        let mut pace = Pace::new(start, 2_000);
        for _ in 0..100 {
            pace.refuse(start);
        }
        assert_eq!(pace.per_second, 1_000, "what came together counts once");
        for second in 1..20 {
            pace.refuse(start + Duration::from_secs(second));
        }
        assert_eq!(pace.per_second, SLOWEST);
        // All that it is sent is granted: it is asked as fast as ever after a few seconds.
        let (mut now, mut granted) = (start + Duration::from_secs(20), 0);
        while pace.per_second < 2_000 {
            let (begun, next) = pace.take(now, 100_000);
            (0..begun).for_each(|_| pace.grant());
            granted += begun;
            now = next.unwrap();
        }
        let took = now - start - Duration::from_secs(20);
        assert!(took < Duration::from_secs(8), "{took:?} for {granted}");
        pace.begin_anew();
        assert_eq!(pace.per_second, SLOWEST);
        let mut slow = Pace::new(start, 4);
        slow.refuse(start);
        assert_eq!(slow.per_second, 4, "never faster than the policy");
    }

    #[test]
    fn what_is_sent_again_counts() {
        let (mut paces, now) = (Paces::default(), Instant::now());
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let one = |paces: &mut Paces, at| paces.place(at, address, 10, Duration::ZERO).is_some();
        assert_eq!(paces.reserve(now, address, 1, 10, 1).now, 1);
        let place = paces.reserve(now, address, 1, 10, 1).later.unwrap();
        assert_eq!(paces.moved(now, address, place), None);
        for _ in 0..10 {
            paces.charge(now, address);
        }
        assert_eq!(paces.moved(now, address, place).unwrap().at, place.at + Duration::from_secs(1));
        assert!(!one(&mut paces, now + Duration::from_millis(1100)));
        assert!(one(&mut paces, now + Duration::from_millis(1200)));
    }
}
