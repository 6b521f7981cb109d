//! The places of those peers at a listener that have proven nothing yet, in their handshake or after it, and the order in which they give way when
//! all are taken.
//!
//! ```text
//! one more ─┬─ its peer has its share ───────────────────────────────────── waits, in place of its peer's own oldest
//!           ├─ there is room ────────────────────────────────────────────── waits
//!           ├─ a network holds more than its own will ───────────────────── waits, in place of one of the network that holds most
//!           ├─ within its own network a peer holds more than its own will ─ waits, in place of one of the peer that holds most
//!           └─ nobody does ──────────────────────────────────────────────── refused
//! ```
//!
//! So a few that hold all places take none from the others, and one that holds all of its peer's none from those behind the same address; and
//! where many peers come at once, as after an outage, those that have begun are not driven out by those of others that follow.
//!
//! Invariant: a peer is an IPv4 address or an IPv6 /64, a network an IPv4 /24 or an IPv6 /48. The place that gives way is the oldest of the peer
//! that holds most, or of the peer that has its share; and a peer that gives way to another has no fewer afterwards than that. The oldest is the
//! one whose [`Turn`] was over first; where none is over yet, the one whose turn began first: so nobody keeps a place by having itself waited for, and
//! who has just come finds all others before it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::clock;

/// The places that are taken.
#[derive(Debug, Default)]
pub(super) struct Places {
    all: usize,
    networks: BTreeMap<IpAddr, Network>,
    /// How many each network has, the fewest first.
    sizes: BTreeSet<(usize, IpAddr)>,
    next: u64,
}

/// The places of one network.
#[derive(Debug, Default)]
struct Network {
    all: usize,
    /// The places of each peer, the one whose turn is over first before the others.
    peers: BTreeMap<IpAddr, BTreeMap<Order, Holder>>,
    /// How many each peer has, the fewest first.
    sizes: BTreeSet<(usize, IpAddr)>,
}

/// The time in which a place gives way after all whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Turn {
    began: Instant,
    until: Instant,
}

/// The end of a place's turn, and its number.
type Order = (Instant, u64);

/// The facts about a place by which one that gives way is chosen.
#[derive(Debug)]
struct Holder {
    began: Instant,
    gives_way: Arc<Notify>,
}

/// The place of one connection.
#[derive(Debug)]
pub(super) struct Place {
    number: u64,
    /// Changed while the places are locked, and not otherwise.
    turn: Mutex<Turn>,
    peer: IpAddr,
    gives_way: Arc<Notify>,
}

impl Turn {
    /// A turn that begins now.
    pub(crate) fn of(length: Duration) -> Self {
        let began = clock::now();
        Self { began, until: began + length }
    }

    /// The turn that is over first.
    pub(crate) fn first(self, other: Self) -> Self {
        if other.until < self.until { other } else { self }
    }
}

impl Place {
    /// The notice that another one has this place.
    pub(crate) fn gives_way(&self) -> &Arc<Notify> {
        &self.gives_way
    }

    fn turn(&self) -> Turn {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order(&self) -> Order {
        (self.turn().until, self.number)
    }
}

impl Places {
    /// A place for one more of `peer`, which has `per_peer` at most; `None` when `all` places are taken and nobody gives way.
    pub(crate) fn take(&mut self, peer: IpAddr, all: usize, per_peer: usize, turn: Turn) -> Option<Place> {
        let peer = as_one_peer(peer);
        if self.of(peer) >= per_peer {
            self.free_one_of(peer);
        } else if self.all >= all && !self.free_one_for(peer) {
            return None;
        }
        let place = Place { number: self.next, turn: Mutex::new(turn), peer, gives_way: Arc::default() };
        self.next += 1;
        self.add(&place);
        Some(place)
    }

    /// The oldest of `peer` gives way; whether it has any.
    pub(super) fn free_one_of(&mut self, peer: IpAddr) -> bool {
        let peer = as_one_peer(peer);
        let oldest = self.networks.get(&network_of(peer)).and_then(|network| network.oldest_of(peer));
        self.free(oldest)
    }

    /// The oldest of the peer that holds most gives way to one more of `peer`; false when no peer holds more than `peer` would then.
    pub(super) fn free_one_for(&mut self, peer: IpAddr) -> bool {
        let oldest = self.oldest_that_gives_way_to(as_one_peer(peer));
        self.free(oldest)
    }

    fn free(&mut self, oldest: Option<(IpAddr, Order)>) -> bool {
        let gives_way = oldest.and_then(|(peer, order)| self.remove(peer, order));
        if let Some(gives_way) = &gives_way {
            gives_way.notify_one();
        }
        gives_way.is_some()
    }

    /// A place has another turn. One that has given way stays away.
    pub(crate) fn renew(&mut self, place: &Place, turn: Turn) {
        if self.remove(place.peer, place.order()).is_some() {
            *place.turn.lock().unwrap_or_else(PoisonError::into_inner) = turn;
            self.add(place);
        }
    }

    /// A place is given back. One that has given way is not here any more.
    pub(crate) fn end(&mut self, place: &Place) {
        self.remove(place.peer, place.order());
    }

    /// The networks that hold most, `count` of them at most.
    pub(super) fn largest(&self, count: usize) -> impl Iterator<Item = IpAddr> + '_ {
        self.sizes.iter().rev().take(count).map(|(_, network)| *network)
    }

    /// How many a network has.
    pub(super) fn of_network(&self, network: IpAddr) -> usize {
        self.networks.get(&network).map_or(0, |network| network.all)
    }

    /// The oldest of the peer that holds most in a network gives way.
    pub(super) fn free_one_of_network(&mut self, network: IpAddr) -> bool {
        let oldest = self.networks.get(&network).and_then(Network::oldest_of_most);
        self.free(oldest)
    }

    /// The oldest of the peer that holds most in the network of `peer` gives way to one more of `peer`; false when none holds more than `peer` would then.
    pub(super) fn free_one_beside(&mut self, peer: IpAddr) -> bool {
        let peer = as_one_peer(peer);
        let oldest = self.networks.get(&network_of(peer)).and_then(|network| network.oldest_that_gives_way_to(peer));
        self.free(oldest)
    }

    /// How many a peer has.
    pub(super) fn of(&self, peer: IpAddr) -> usize {
        self.networks.get(&network_of(peer)).map_or(0, |network| network.of(peer))
    }

    fn oldest_that_gives_way_to(&self, peer: IpAddr) -> Option<(IpAddr, Order)> {
        let own = self.networks.get(&network_of(peer));
        let has = own.map_or(0, |network| network.all);
        let &(most, largest) = self.sizes.last()?;
        if most > has + 1 {
            return self.networks.get(&largest)?.oldest_of_most();
        }
        own?.oldest_that_gives_way_to(peer)
    }

    fn add(&mut self, place: &Place) {
        let key = network_of(place.peer);
        let network = self.networks.entry(key).or_default();
        self.sizes.remove(&(network.all, key));
        network.add(place);
        self.sizes.insert((network.all, key));
        self.all += 1;
    }

    fn remove(&mut self, peer: IpAddr, order: Order) -> Option<Arc<Notify>> {
        let key = network_of(peer);
        let network = self.networks.get_mut(&key)?;
        let before = network.all;
        let removed = network.remove(peer, order)?;
        self.sizes.remove(&(before, key));
        match network.all {
            0 => drop(self.networks.remove(&key)),
            all => drop(self.sizes.insert((all, key))),
        }
        self.all -= 1;
        Some(removed)
    }
}

impl Network {
    /// How many a peer has.
    fn of(&self, peer: IpAddr) -> usize {
        self.peers.get(&peer).map_or(0, BTreeMap::len)
    }

    fn oldest_that_gives_way_to(&self, peer: IpAddr) -> Option<(IpAddr, Order)> {
        let &(most, _) = self.sizes.last()?;
        self.oldest_of_most().filter(|_| most > self.of(peer) + 1)
    }

    fn oldest_of_most(&self) -> Option<(IpAddr, Order)> {
        let &(_, peer) = self.sizes.last()?;
        self.oldest_of(peer)
    }

    fn oldest_of(&self, peer: IpAddr) -> Option<(IpAddr, Order)> {
        let places = self.peers.get(&peer)?;
        let (&order, _) = places.first_key_value()?;
        if order.0 <= clock::now() {
            return Some((peer, order));
        }
        // Where each is in its turn they are few: the share of one peer.
        let (&order, _) = places.iter().min_by_key(|((_, number), holder)| (holder.began, *number))?;
        Some((peer, order))
    }

    fn add(&mut self, place: &Place) {
        let waiting = self.peers.entry(place.peer).or_default();
        self.sizes.remove(&(waiting.len(), place.peer));
        waiting.insert(place.order(), Holder { began: place.turn().began, gives_way: place.gives_way.clone() });
        self.sizes.insert((waiting.len(), place.peer));
        self.all += 1;
    }

    fn remove(&mut self, peer: IpAddr, order: Order) -> Option<Arc<Notify>> {
        let waiting = self.peers.get_mut(&peer)?;
        let before = waiting.len();
        let removed = waiting.remove(&order)?.gives_way;
        self.sizes.remove(&(before, peer));
        match waiting.len() {
            0 => drop(self.peers.remove(&peer)),
            left => drop(self.sizes.insert((left, peer))),
        }
        self.all -= 1;
        Some(removed)
    }
}

/// An IPv6 peer is its /64: one subscriber has them all.
pub(super) fn as_one_peer(ip: IpAddr) -> IpAddr {
    masked(ip, 32, 64)
}

/// The usual network of one holder of addresses.
pub(super) fn network_of(ip: IpAddr) -> IpAddr {
    masked(ip, 24, 48)
}

fn masked(ip: IpAddr, v4: u32, v6: u32) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip) & !(u32::MAX.checked_shr(v4).unwrap_or(0)))),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & !(u128::MAX.checked_shr(v6).unwrap_or(0)))),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const ALL: usize = 64;
    const PER_PEER: usize = 16;

    fn take(places: &mut Places, peer: &str) -> Option<Place> {
        let place = places.take(peer.parse().unwrap(), ALL, PER_PEER, Turn::of(Duration::ZERO));
        assert!(places.all <= ALL);
        assert_eq!(places.all, places.networks.values().map(|network| network.all).sum::<usize>());
        assert_eq!(places.sizes.len(), places.networks.len());
        for network in places.networks.values() {
            assert_eq!(network.all, network.peers.values().map(BTreeMap::len).sum::<usize>());
            assert_eq!(network.sizes.len(), network.peers.len());
        }
        place
    }

    fn has_given_way(place: &Place) -> bool {
        place.gives_way().notified().now_or_never().is_some()
    }

    #[test]
    fn a_few_that_hold_all_places_shut_nobody_else_out() {
        for (theirs, other) in [
            ("198.51.100.{}", "192.0.2.1"),
            ("198.51.100.{}", "198.51.100.99"),
            ("2001:db8:7:{}::1", "192.0.2.1"),
            ("2001:db8:7:{}::1", "2001:db8:7:ff::1"),
        ] {
            let mut places = Places::default();
            let held: Vec<_> = (0..ALL)
                .map(|n| take(&mut places, &theirs.replace("{}", &(n / PER_PEER).to_string())).unwrap())
                .collect();
            let phone = take(&mut places, other).expect("a place for another");
            let gone: Vec<_> = held.iter().map(has_given_way).collect();
            assert_eq!(gone.iter().filter(|gone| **gone).count(), 1);
            assert!(gone.iter().step_by(PER_PEER).any(|gone| *gone), "the oldest of its peer: {gone:?}");
            assert!(!has_given_way(&phone));
            for place in held.iter().chain([&phone]) {
                places.end(place);
            }
            assert!(places.all == 0 && places.networks.is_empty() && places.sizes.is_empty(), "no trace");
        }
    }

    #[test]
    fn who_has_begun_is_not_driven_out_by_as_many_that_follow() {
        let mut places = Places::default();
        let first: Vec<_> = (0..ALL).map(|n| take(&mut places, &format!("10.{n}.0.1")).unwrap()).collect();
        for n in 0..ALL {
            assert!(take(&mut places, &format!("10.{n}.0.2")).is_none(), "their own network has as many");
            assert!(take(&mut places, &format!("11.{n}.0.2")).is_none(), "nobody has more than one");
        }
        assert!(first.iter().all(|place| !has_given_way(place)));
    }

    #[test]
    fn many_addresses_of_one_network_are_one_holder_to_the_others() {
        let mut places = Places::default();
        let held: Vec<_> = (0..ALL).map(|n| take(&mut places, &format!("2001:db8:7:{n:x}::1")).unwrap()).collect();
        for n in 0..ALL / 2 - 1 {
            assert!(take(&mut places, &format!("192.0.2.{}", n % 4)).is_some(), "{n}");
        }
        assert_eq!(held.iter().filter(|place| has_given_way(place)).count(), ALL / 2 - 1);
    }

    #[test]
    fn one_peer_has_its_share_and_its_own_oldest_gives_way_to_more() {
        let mut places = Places::default();
        let other = take(&mut places, "2001:db8:1:3::1").unwrap();
        let mut held = Vec::new();
        for n in 0..2 * PER_PEER {
            held.push(take(&mut places, &format!("2001:db8:1:2::{n:x}")).expect("a subscriber has a whole /64"));
        }
        let gone: Vec<_> = held.iter().map(has_given_way).collect();
        assert!(gone[..PER_PEER].iter().all(|gone| *gone) && !gone[PER_PEER..].contains(&true), "{gone:?}");
        assert!(!has_given_way(&other));
        assert_eq!(as_one_peer("::ffff:192.0.2.1".parse().unwrap()), "192.0.2.1".parse::<IpAddr>().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_had_its_turn_for_longest_gives_way_first_and_then_whose_turn_is_longest() {
        let (grace, long) = (Duration::from_secs(5), Duration::from_secs(30));
        let second = || tokio::time::advance(Duration::from_secs(1));
        let mut places = Places::default();
        let mut take = |length| places.take("192.0.2.1".parse().unwrap(), ALL, PER_PEER, Turn::of(length)).unwrap();
        let mut held = vec![take(long), take(Duration::ZERO)];
        second().await;
        held.extend([take(grace), take(Duration::ZERO)]);
        second().await;
        held.extend((4..PER_PEER).map(|_| take(long)));
        let mut gone = |length| {
            held.push(places.take("192.0.2.1".parse().unwrap(), ALL, PER_PEER, Turn::of(length)).unwrap());
            held.iter().position(has_given_way)
        };
        assert_eq!((gone(grace), gone(grace)), (Some(1), Some(3)), "whose turn is over");
        second().await;
        assert_eq!(gone(grace), Some(0), "then whose turn began first, however long it is");
        assert_eq!(gone(grace), Some(2));
        assert_eq!(gone(grace), Some(4), "and never who has just come");
        tokio::time::advance(grace).await;
        assert_eq!((gone(grace), gone(grace)), (Some(PER_PEER), Some(PER_PEER + 1)), "who came and did nothing");
        let (here, away) = (&held[5], &held[0]);
        places.renew(here, Turn::of(Duration::ZERO));
        places.renew(away, Turn::of(long));
        assert_eq!(places.all, PER_PEER, "one that has given way stays away");
    }
}
