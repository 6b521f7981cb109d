//! The slots of a listener: how many connections and unfinished handshakes there are, in all and of each peer.
//!
//! Invariant: a slot is given back when it is dropped, so that nobody has to remember to. A peer is an IPv4 address or an
//! IPv6 /64.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A TLS handshake that takes longer is closed: a phone on a poor network needs two or three seconds.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What one listener carries. What is over is closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all: a peer above it is closed until another leaves.
    pub connections: usize,
    /// Connections of one peer: above it only that peer is closed.
    pub connections_per_peer: usize,
    /// Unfinished handshakes in all.
    pub handshakes: usize,
    /// Unfinished handshakes of one peer.
    pub handshakes_per_peer: usize,
}

impl Limits {
    /// For devices: many, and many behind one carrier's address.
    pub const DEVICES: Self =
        Self { connections: 1_000_000, connections_per_peer: 20_000, handshakes: 4_096, handshakes_per_peer: 1_024 };
    /// For apps' and operators' HTTPS: short connections.
    pub const HTTPS: Self =
        Self { connections: 20_000, connections_per_peer: 1_024, handshakes: 2_048, handshakes_per_peer: 256 };
    /// For SIP servers: few connections, each carrying much.
    pub const SIP_SERVERS: Self =
        Self { connections: 10_000, connections_per_peer: 256, handshakes: 512, handshakes_per_peer: 64 };
}

/// What happens at a listener, for those that count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerEvent {
    /// A connection was let in.
    Opened,
    /// One that was let in is gone.
    Closed,
    /// Its TLS handshake was completed.
    HandshakeCompleted,
    /// The peer did not speak TLS, or not as it must.
    HandshakeFailed,
    /// The peer was too slow.
    HandshakeTimedOut,
    /// A connection was closed at once: over a limit.
    Limited,
}

pub(super) type Observer = dyn Fn(ListenerEvent) + Send + Sync;

/// How many connections and handshakes there are, in all and of each peer.
pub(super) struct Slots {
    counts: Mutex<Counts>,
    pub(super) observe: Box<Observer>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: Count,
    handshakes: Count,
}

impl Slots {
    pub(super) fn new(observe: impl Fn(ListenerEvent) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::default(), observe: Box::new(observe) })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Count {
    all: usize,
    of_peer: BTreeMap<IpAddr, usize>,
}

impl Count {
    fn has_room(&self, peer: IpAddr, all: usize, per_peer: usize) -> bool {
        self.all < all && self.of_peer.get(&peer).is_none_or(|count| *count < per_peer)
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
pub(super) struct Slot {
    slots: Arc<Slots>,
    peer: IpAddr,
    of: Of,
}

#[derive(Debug, Clone, Copy)]
enum Of {
    Connections,
    Handshakes,
}

impl Slot {
    /// A slot for the connection and one for its handshake; `None` when a limit is reached.
    pub(super) fn take(slots: &Arc<Slots>, peer: IpAddr, limits: Limits) -> Option<(Self, Self)> {
        let peer = as_one_peer(peer);
        let mut counts = slots.counts();
        let room = counts.connections.has_room(peer, limits.connections, limits.connections_per_peer)
            && counts.handshakes.has_room(peer, limits.handshakes, limits.handshakes_per_peer);
        if !room {
            return None;
        }
        counts.connections.add(peer);
        counts.handshakes.add(peer);
        drop(counts);
        (slots.observe)(ListenerEvent::Opened);
        let slot = |of| Self { slots: slots.clone(), peer, of };
        Some((slot(Of::Connections), slot(Of::Handshakes)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        match self.of {
            Of::Connections => {
                self.slots.counts().connections.remove(self.peer);
                (self.slots.observe)(ListenerEvent::Closed);
            }
            Of::Handshakes => self.slots.counts().handshakes.remove(self.peer),
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("peer", &self.peer).field("of", &self.of).finish()
    }
}

/// An IPv6 peer is its /64: one subscriber has them all.
fn as_one_peer(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_with_a_whole_ipv6_network_is_one_peer() {
        let one = |text: &str| as_one_peer(text.parse().unwrap());
        assert_eq!(one("2001:db8:1:2::1"), one("2001:db8:1:2:ffff::9"));
        assert_ne!(one("2001:db8:1:2::1"), one("2001:db8:1:3::1"));
        assert_eq!(one("::ffff:192.0.2.1"), one("192.0.2.1"));
    }

    #[test]
    fn a_slot_given_back_is_free_and_leaves_no_trace() {
        let limits = Limits { connections: 2, connections_per_peer: 1, handshakes: 9, handshakes_per_peer: 9 };
        let slots = Slots::new(|_| {});
        let take = |text: &str| Slot::take(&slots, text.parse().unwrap(), limits);
        let first = take("192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none(), "one peer has one");
        let _second = take("192.0.2.2").unwrap();
        assert!(take("192.0.2.3").is_none(), "two in all");
        drop(first);
        assert!(take("192.0.2.1").is_some());
        let counts = slots.counts();
        assert_eq!((counts.connections.all, counts.connections.of_peer.len()), (1, 1));
    }
}
