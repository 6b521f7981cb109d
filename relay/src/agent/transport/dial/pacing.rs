//! The pace of connections to an address at which no account was ever registered by this process.
//!
//! Names and ports are chosen by others, and each may lead to the same address. REGISTERs by datagrams are paced by the address that they go to, in
//! [`sip::endpoint`]; a connection goes at the same pace, whatever port it is for: else an address that only accepts would get one for each name, as fast as
//! they are enabled. An address that has granted a registration is a SIP server, and as many connections as there are domains may be its due at once.
//!
//! Invariant: an address that has granted nothing within [`SERVED`] gets [`Rate`] connections at most. One that has is waited for by nobody. At most
//! [`REMEMBERED`] that have granted are known.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sip::bucket::{Bucket, Rate};

use crate::lock::Mutex;

/// How long an address is known to have granted a registration: devices register again within hours.
const SERVED: Duration = Duration::from_secs(24 * 3600);
/// Addresses that are remembered; of those that have granted the one goes that did so first of all.
const REMEMBERED: usize = 16_384;
/// Addresses that are paced before those that nobody dials any more are looked for.
const SPARE: usize = 1_024;

/// The paces of all addresses.
pub(super) struct Paces {
    rate: Rate,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    served: BTreeMap<IpAddr, Instant>,
    paced: BTreeMap<IpAddr, Bucket>,
    sweep_at: usize,
}

impl Paces {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, table: Mutex::default() }
    }

    /// An address has granted a registration.
    pub(super) fn served(&self, address: IpAddr, now: Instant) {
        let mut table = self.table.lock();
        let address = address.to_canonical();
        table.paced.remove(&address);
        if table.served.insert(address, now).is_none() && table.served.len() > REMEMBERED {
            let first = table.served.iter().min_by_key(|(_, at)| **at).map(|(address, _)| *address);
            first.map(|address| table.served.remove(&address));
        }
    }

    /// A connection to an address may be opened now; else how long it takes until one may.
    pub(super) fn take(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut table = self.table.lock();
        let address = address.to_canonical();
        if table.served.get(&address).is_some_and(|at| now.saturating_duration_since(*at) < SERVED) {
            return Ok(());
        }
        if table.paced.len() >= table.sweep_at.max(SPARE) {
            table.paced.retain(|_, bucket| !bucket.is_full(now));
            table.sweep_at = table.paced.len() * 2;
        }
        table.paced.entry(address).or_insert(Bucket::full(now)).take(now, self.rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        IpAddr::from([10, 0, high, low])
    }

    #[test]
    fn an_address_that_has_granted_nothing_gets_connections_at_the_pace_whoever_asks() {
        let (paces, start) = (Paces::new(Rate::per_second(10, 10)), Instant::now());
        let opened = |from: u64, until: u64| {
            let at = |ms| start + Duration::from_millis(ms);
            (from..until).filter(|ms| paces.take(address(1), at(*ms)).is_ok()).count()
        };
        assert_eq!((opened(0, 1_000), opened(1_000, 20_000)), (19, 190));
        let mapped = IpAddr::V6(std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        assert!(paces.take(mapped, start).is_err(), "the same");
        assert!(paces.take(address(2), start).is_ok(), "another");
    }

    /// Thousands of domains at one provider's address.
    #[test]
    fn an_address_that_has_granted_a_registration_is_waited_for_by_nobody() {
        let (paces, start) = (Paces::new(Rate::per_second(10, 10)), Instant::now());
        while paces.take(address(1), start).is_ok() {}
        paces.served(address(1), start);
        assert!((0..10_000).all(|_| paces.take(address(1), start).is_ok()));
        assert!((0..100).any(|_| paces.take(address(1), start + SERVED).is_err()), "a day later");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (paces, start) = (Paces::new(Rate::per_second(10, 10)), Instant::now());
        for number in 0..u16::MAX {
            let now = start + Duration::from_millis(u64::from(number) * 10);
            assert!(paces.take(address(number), now).is_ok());
            paces.served(address(number / 2), now);
        }
        let table = paces.table.lock();
        assert!(table.served.len() <= REMEMBERED && table.paced.len() <= SPARE);
        assert!(table.served.contains_key(&address(u16::MAX / 2 - 1)), "the last one");
    }
}
