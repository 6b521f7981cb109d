//! The slots of a listener: how many connections, unfinished handshakes and strangers there are, in all and of each peer.
//!
//! Invariant: a slot is given back when it is dropped, so that nobody has to remember to. A peer is an IPv4 address or an
//! IPv6 /64.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::descriptors::Leaves;
use super::places::{Place, Places, as_one_peer};

/// A TLS handshake that takes longer is closed: a phone on a poor network needs two or three seconds.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What one listener carries. What is over is closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all: a peer above it is closed until another leaves.
    pub connections: usize,
    /// Connections of one peer: above it only that peer is closed.
    pub connections_per_peer: usize,
    /// Unfinished handshakes in all: with a further one the oldest of whoever has most is closed, or the newcomer where nobody has more.
    pub handshakes: usize,
    /// Unfinished handshakes of one peer.
    pub handshakes_per_peer: usize,
    /// Connections whose peer has not proven who it is, in all: with a further one the oldest of whoever has most is closed, or the newcomer
    /// where nobody has more.
    pub strangers: usize,
    /// Such connections of one peer.
    pub strangers_per_peer: usize,
    /// File descriptors that stay free: a connection above that is closed at once.
    pub leaves: Leaves,
}

impl Limits {
    /// For devices: many, and many behind one carrier's address.
    pub const DEVICES: Self = Self {
        connections: 1_000_000,
        connections_per_peer: 20_000,
        handshakes: 4_096,
        handshakes_per_peer: 1_024,
        strangers: 50_000,
        strangers_per_peer: 4_096,
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
        leaves: Leaves::Quarter,
    };
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
    /// A connection was closed: over a limit, or its place was given to another network's.
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
    handshakes: Places,
    strangers: Places,
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
}

/// A slot among the unfinished handshakes; given back when dropped.
pub(super) struct Waiting {
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
    pub(super) fn take(slots: &Arc<Slots>, address: IpAddr, limits: Limits) -> Option<(Self, Waiting)> {
        let peer = as_one_peer(address);
        let mut counts = slots.counts();
        if !counts.connections.has_room(peer, limits.connections, limits.connections_per_peer) {
            return None;
        }
        let place = counts.handshakes.take(address, limits.handshakes, limits.handshakes_per_peer)?;
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
        let place = self.slots.counts().strangers.take(address, limits.strangers, limits.strangers_per_peer)?;
        Some(Stranger { slots: self.slots.clone(), place })
    }
}

impl Stranger {
    /// What is told when another stranger has this slot.
    pub(crate) fn gives_way(&self) -> Arc<Notify> {
        self.place.gives_way().clone()
    }

    /// It was closed because another stranger has its slot.
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
mod tests {
    use super::*;

    #[test]
    fn a_slot_given_back_is_free_and_leaves_no_trace() {
        let limits = Limits { connections: 2, connections_per_peer: 1, ..Limits::DEVICES };
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
