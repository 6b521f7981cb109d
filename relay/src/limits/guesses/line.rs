//! The waiters for an account's next attempt, when attempts for it come one after the other.
//!
//! A source that has not failed for the account, and is told to wait, has a place in this line; the next attempt is for the first of it, which
//! has [`TURN`] to come. So a source that polls with wrong passwords spends each pause's attempt once, and is behind all others from then on.
//!
//! Invariant: the line lets no source past that would have to wait without it: it takes turns from sources, and adds none. One network has at most
//! [`OF_A_NETWORK_MAX`] of its [`WAITERS_MAX`] places.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Sources in one line; a further one waits without a place.
const WAITERS_MAX: usize = 16;
/// Likewise of one network: the others of it have no place.
const OF_A_NETWORK_MAX: usize = 4;
/// How long an attempt is for the first in the line alone: its wait was rounded up, and its request takes its time.
pub(super) const TURN: Duration = Duration::from_secs(10);
/// How long after it asked last a source has its place.
const PATIENCE: Duration = Duration::from_secs(90);

/// The waiting sources, in their order of arrival.
#[derive(Default)]
pub(super) struct Line(Vec<Waiter>);

struct Waiter {
    source: IpAddr,
    /// When it asked last.
    asked: Instant,
}

impl Line {
    /// Takes a place, or keeps it.
    pub(super) fn join(&mut self, source: IpAddr, now: Instant) {
        self.forget(now);
        if let Some(waiter) = self.0.iter_mut().find(|waiter| waiter.source == source) {
            waiter.asked = now;
        } else if self.0.len() < WAITERS_MAX && self.of_network(network_of(source)) < OF_A_NETWORK_MAX {
            self.0.push(Waiter { source, asked: now });
        }
    }

    /// The source whose turn is next.
    pub(super) fn first(&mut self, now: Instant) -> Option<IpAddr> {
        self.forget(now);
        self.0.first().map(|waiter| waiter.source)
    }

    /// This source has its attempt; the first has missed its turn, when that was another one. Whether anybody waits still.
    pub(super) fn attempted(&mut self, source: IpAddr) -> bool {
        let first = self.0.first().map(|waiter| waiter.source);
        self.0.retain(|waiter| waiter.source != source && Some(waiter.source) != first);
        !self.0.is_empty()
    }

    fn of_network(&self, network: IpAddr) -> usize {
        self.0.iter().filter(|waiter| network_of(waiter.source) == network).count()
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|waiter| now.saturating_duration_since(waiter.asked) < PATIENCE);
    }
}

/// The usual network of one holder of addresses: an IPv4 /24, an IPv6 /48.
pub(super) fn network_of(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & !0xff)),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 80 << 80)),
    }
}
