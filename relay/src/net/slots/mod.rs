//! The slots of a listener: how many connections, unfinished handshakes and strangers there are, in all and of each peer.
//!
//! Invariant: a slot is given back when it is dropped, so that nobody has to remember to. A peer is an IPv4 address or an
//! IPv6 /64.

pub(super) mod descriptors;
pub(super) mod unproven_slots;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use descriptors::Leaves;
pub(super) use unproven_slots::Turn;
use unproven_slots::{Place, Places, as_one_peer, network_of};

use crate::lock::Mutex;

/// A TLS handshake that takes longer is closed: a phone on a poor network needs two or three seconds.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The capacity of one listener. A connection over it is closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all: with a further one the oldest stranger of the peer that has most is closed, or its oldest handshake, or the newcomer
    /// where nobody has more.
    pub connections: usize,
    /// Connections of one peer: with a further one its own oldest stranger is closed, or its oldest handshake, or the newcomer where all have
    /// proven who they are.
    pub connections_per_peer: usize,
    /// Unfinished handshakes in all: with a further one the oldest of the peer that has most is closed, or the newcomer where nobody has more.
    pub handshakes: usize,
    /// Unfinished handshakes of one peer: with a further one its oldest is closed.
    pub handshakes_per_peer: usize,
    /// Connections whose peer has not proven who it is, in all: with a further one the oldest of the peer that has most is closed, or the newcomer
    /// where nobody has more. Where HTTPS is spoken all are such, and the oldest is the one that the relay has waited for longest.
    pub strangers: usize,
    /// Such connections of one peer: with a further one its oldest is closed.
    pub strangers_per_peer: usize,
    /// How long such a connection has to ask for something before it is among the oldest.
    pub grace: Duration,
    /// File descriptors that stay free: a connection above that is closed at once.
    pub leaves: Leaves,
}

impl Limits {
    /// The connections that one address may have here without proving who it is.
    pub fn unproven_per_peer(&self) -> usize {
        self.handshakes_per_peer + self.strangers_per_peer
    }

    /// For devices: many, and many behind one carrier's address.
    pub const DEVICES: Self = Self {
        connections: 1_000_000,
        connections_per_peer: 20_000,
        handshakes: 4_096,
        handshakes_per_peer: 1_024,
        strangers: 50_000,
        strangers_per_peer: 4_096,
        grace: Duration::ZERO,
        leaves: Leaves::Reserve,
    };
    /// For apps' HTTPS: short connections.
    pub const API: Self = Self {
        connections: 20_000,
        connections_per_peer: 1_024,
        handshakes: 2_048,
        handshakes_per_peer: 256,
        strangers: 20_000,
        strangers_per_peer: 1_024,
        grace: Duration::from_secs(5),
        leaves: Leaves::Reserve,
    };
    /// For the operator's HTTPS, and a CA's questions: as short.
    pub const OPERATOR: Self = Self { leaves: Leaves::Quarter, ..Self::API };
    /// For SIP servers: few connections, each carrying much.
    pub const SIP_SERVERS: Self = Self {
        connections: 10_000,
        connections_per_peer: 256,
        handshakes: 512,
        handshakes_per_peer: 64,
        strangers: 2_048,
        strangers_per_peer: 128,
        grace: Duration::ZERO,
        leaves: Leaves::Quarter,
    };
}

/// An event at a listener, for those that count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerEvent {
    /// A connection was let in.
    Opened,
    /// An accepted connection has ended.
    Closed,
    /// Its TLS handshake was completed.
    HandshakeCompleted,
    /// The peer did not speak TLS, or not as it must.
    HandshakeFailed,
    /// The peer was too slow.
    HandshakeTimedOut,
    /// A connection was closed: over a limit, or its place was given to another.
    Limited,
}

pub(super) type Observer = dyn Fn(ListenerEvent) + Send + Sync;

/// How many connections and handshakes there are, in all and of each peer.
pub(crate) struct Slots {
    counts: Mutex<Counts>,
    pub(super) observe: Box<Observer>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: Count,
    handshakes: Places,
    strangers: Places,
}

impl Slots {
    pub(crate) fn new(observe: impl Fn(ListenerEvent) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::default(), observe: Box::new(observe) })
    }

    /// How many connections there are.
    fn connections(&self) -> usize {
        self.counts().connections.all
    }

    /// The networks that have most unproven connections, `count` of each kind at most.
    fn largest(&self, count: usize) -> Vec<IpAddr> {
        let counts = self.counts();
        counts.strangers.largest(count).chain(counts.handshakes.largest(count)).collect()
    }

    /// How many unproven connections a network has.
    fn of_network(&self, network: IpAddr) -> usize {
        let counts = self.counts();
        counts.strangers.of_network(network) + counts.handshakes.of_network(network)
    }

    /// One of a network gives way, of the kind of which it has more.
    fn free_one_of_network(&self, network: IpAddr) -> bool {
        self.counts().most_of(network).free_one_of_network(network)
    }

    /// One of the network of `address` gives way to one more of that, or the oldest of `address` where that holds most.
    fn free_one_beside(&self, address: IpAddr) -> bool {
        let mut counts = self.counts();
        let places = counts.most_of(network_of(address));
        places.free_one_beside(address) || places.of(as_one_peer(address)) > 1 && places.free_one_of(address)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock()
    }
}

#[derive(Debug, Default)]
struct Count {
    all: usize,
    of_peer: BTreeMap<IpAddr, usize>,
}

impl Counts {
    /// The places of the kind of which a network has more.
    fn most_of(&mut self, network: IpAddr) -> &mut Places {
        let Self { strangers, handshakes, .. } = self;
        if strangers.of_network(network) >= handshakes.of_network(network) { strangers } else { handshakes }
    }

    /// Whether there is room for one more connection of `peer`, or another one gives way to it. Those that have given way count until they are
    /// closed; they are never more than strangers may be.
    fn makes_room(&mut self, peer: IpAddr, limits: Limits) -> bool {
        let (all, of_peer) = (self.connections.all, self.connections.of(peer));
        let are_closing = |count, most, strangers| count >= most + strangers;
        if are_closing(all, limits.connections, limits.strangers)
            || are_closing(of_peer, limits.connections_per_peer, limits.strangers_per_peer)
        {
            return false;
        }
        if self.handshakes.of(peer) >= limits.handshakes_per_peer {
            // Its own oldest handshake gives way to it, and no other place is needed.
            true
        } else if of_peer >= limits.connections_per_peer {
            self.strangers.free_one_of(peer) || self.handshakes.free_one_of(peer)
        } else if all >= limits.connections {
            self.strangers.free_one_for(peer) || self.handshakes.free_one_for(peer)
        } else {
            true
        }
    }
}

impl Count {
    fn of(&self, peer: IpAddr) -> usize {
        self.of_peer.get(&peer).copied().unwrap_or_default()
    }

    fn add(&mut self, peer: IpAddr) {
        self.all += 1;
        *self.of_peer.entry(peer).or_default() += 1;
    }

    fn remove(&mut self, peer: IpAddr) {
        self.all = self.all.saturating_sub(1);
        if let Some(count) = self.of_peer.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.of_peer.remove(&peer);
            }
        }
    }
}

/// A slot among the connections; given back when dropped.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    peer: IpAddr,
}

/// A slot among the unfinished handshakes; given back when dropped.
pub(crate) struct Waiting {
    slots: Arc<Slots>,
    place: Place,
}

/// A slot among the strangers, for a connection whose handshake is done; given back when dropped, which is when its peer has proven who it is, or
/// has gone.
pub struct Stranger {
    slots: Arc<Slots>,
    place: Place,
}

impl Slot {
    /// A slot for the connection and one for its handshake; `None` when a limit is reached.
    pub(crate) fn take(slots: &Arc<Slots>, address: IpAddr, limits: Limits) -> Option<(Self, Waiting)> {
        let peer = as_one_peer(address);
        let mut counts = slots.counts();
        if !counts.makes_room(peer, limits) {
            return None;
        }
        let place =
            counts.handshakes.take(address, limits.handshakes, limits.handshakes_per_peer, Turn::of(Duration::ZERO))?;
        counts.connections.add(peer);
        drop(counts);
        (slots.observe)(ListenerEvent::Opened);
        Some((Self { slots: slots.clone(), peer }, Waiting { slots: slots.clone(), place }))
    }
}

impl Waiting {
    /// Another handshake has this slot.
    pub(super) async fn given_way(&self) {
        self.place.gives_way().notified().await;
    }

    /// The handshake is done: a slot among the strangers; `None` when the limit is reached.
    pub(super) fn met(self, address: IpAddr, limits: Limits) -> Option<Stranger> {
        let (all, of_peer, turn) = (limits.strangers, limits.strangers_per_peer, Turn::of(limits.grace));
        let place = self.slots.counts().strangers.take(address, all, of_peer, turn)?;
        Some(Stranger { slots: self.slots.clone(), place })
    }
}

impl Stranger {
    /// The notice that another stranger has this slot.
    pub fn gives_way(&self) -> Arc<Notify> {
        self.place.gives_way().clone()
    }

    /// It gives way after those whose turn is over.
    pub(crate) fn has_turn(&self, turn: Turn) {
        self.slots.counts().strangers.renew(&self.place, turn);
    }

    /// The connection was closed because another stranger has its slot.
    pub(crate) fn gave_way(&self) {
        (self.slots.observe)(ListenerEvent::Limited);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.counts().connections.remove(self.peer);
        (self.slots.observe)(ListenerEvent::Closed);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.slots.counts().handshakes.end(&self.place);
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.slots.counts().strangers.end(&self.place);
    }
}

impl fmt::Debug for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stranger")
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("peer", &self.peer).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Stranger {
    /// One at a listener of its own.
    pub(crate) fn of_a_test() -> Self {
        let (slots, address) = (Slots::new(|_| {}), "192.0.2.1".parse().unwrap());
        let (_, waiting) = Slot::take(&slots, address, Limits::API).unwrap();
        waiting.met(address, Limits::API).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_slot_given_back_is_free_and_leaves_no_trace() {
        let limits = Limits { connections: 2, connections_per_peer: 1, ..Limits::DEVICES };
        let slots = Slots::new(|_| {});
        let take = |text: &str| {
            let (slot, waiting) = Slot::take(&slots, text.parse().unwrap(), limits)?;
            // The peer has proven who it is.
            waiting.met(text.parse().unwrap(), limits).map(|_| slot)
        };
        let first = take("192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none(), "one peer has one");
        let _second = take("192.0.2.2").unwrap();
        assert!(take("192.0.2.3").is_none(), "two in all");
        drop(first);
        assert!(take("192.0.2.1").is_some());
        let counts = slots.counts();
        assert_eq!((counts.connections.all, counts.connections.of_peer.len()), (1, 1));
    }

    #[test]
    fn who_has_its_share_of_handshakes_gives_way_to_itself_and_no_stranger_does() {
        let limits =
            Limits { connections_per_peer: 4, strangers_per_peer: 4, handshakes_per_peer: 2, ..Limits::DEVICES };
        let slots = Slots::new(|_| {});
        let address = "192.0.2.1".parse().unwrap();
        let meet = || {
            let (slot, waiting) = Slot::take(&slots, address, limits).unwrap();
            (slot, waiting.met(address, limits).unwrap())
        };
        let strangers = [meet(), meet()];
        let handshakes = [0; 4].map(|_| Slot::take(&slots, address, limits).expect("a handshake has given way"));
        let gone = |notice: &Notify| notice.notified().now_or_never().is_some();
        assert!(strangers.iter().all(|(_, stranger)| !gone(&stranger.gives_way())));
        assert_eq!(
            handshakes.each_ref().map(|(_, waiting)| gone(waiting.place.gives_way())),
            [true, true, false, false]
        );
    }

    #[test]
    fn at_its_share_a_peers_own_stranger_gives_way_and_never_who_has_proven_who_it_is() {
        let limits = Limits { connections_per_peer: 4, strangers_per_peer: 4, ..Limits::DEVICES };
        let slots = Slots::new(|_| {});
        let address = "192.0.2.1".parse().unwrap();
        let meet = || {
            let (slot, waiting) = Slot::take(&slots, address, limits)?;
            waiting.met(address, limits).map(|stranger| (slot, stranger))
        };
        let (_phone, known) = meet().unwrap();
        drop(known);
        let mut held: Vec<_> = (0..3).map(|_| meet().unwrap()).collect();
        let silent = Slot::take(&slots, address, limits).expect("a stranger has given way");
        let has_given_way = |stranger: &Stranger| stranger.gives_way().notified().now_or_never().is_some();
        assert_eq!(held.iter().map(|(_, held)| has_given_way(held)).collect::<Vec<_>>(), [true, false, false]);
        // The strangers have closed, or have become known.
        held.remove(0);
        let _phones: Vec<_> = held.into_iter().map(|(slot, _)| slot).collect();
        let _other = Slot::take(&slots, address, limits).expect("a handshake has given way");
        assert!(silent.1.given_way().now_or_never().is_some());
        drop(silent);
        let _other = _other.1.met(address, limits).map(|_| _other.0);
        assert!(Slot::take(&slots, address, limits).is_none(), "all have proven who they are");
    }
}
