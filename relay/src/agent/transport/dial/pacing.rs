//! The pace of connections to an address at which no account was ever registered by this process.
//!
//! Strangers choose names and ports, and many of these may lead to one address. REGISTERs by datagrams are paced by the address that they go to, in
//! [`sip::endpoint`]; connections go at the same pace, whatever their port. Otherwise an address that only accepts connections would get one for each name,
//! as fast as accounts are enabled. An address that has granted a registration is a SIP server, and may need a connection for each of its domains at once.
//!
//! Dials that wait for an address form one line, in the order in which they came. A permit for a connection that is not opened is given back.
//!
//! Invariant: an address that has granted nothing within [`SERVED`] gets [`Rate`] connections at most. No dial waits for one that has. At most [`REMEMBERED`]
//! such addresses are known.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sip::bucket::{Bucket, Rate};
use tokio::time::sleep;

use crate::clock;
use crate::lock::Mutex;

/// How long an address is known to have granted a registration: devices register again within hours.
const SERVED: Duration = Duration::from_secs(24 * 3600);
/// Addresses that are remembered; the one that granted a registration first goes for a further one.
const REMEMBERED: usize = 16_384;
/// How often a waiting dial looks whether the address has granted a registration, which ends all waits.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The number of paced addresses above which those that nobody dials any more are removed.
const SPARE: usize = 1_024;

/// The paces of all addresses.
pub(super) struct Paces {
    rate: Rate,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    served: BTreeMap<IpAddr, Instant>,
    paced: BTreeMap<IpAddr, Paced>,
    sweep_at: usize,
}

struct Paced {
    bucket: Bucket,
    line: Line,
}

/// Its holder is the first of those that wait; the others get it in the order in which they came.
type Line = Arc<tokio::sync::Mutex<()>>;

/// The permit to open one connection to an address; given back when it is dropped unused.
pub(super) struct Leave<'a> {
    paces: &'a Paces,
    address: IpAddr,
    is_used: bool,
}

impl Leave<'_> {
    /// The connection is opened.
    pub(super) fn used(mut self) {
        self.is_used = true;
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if !self.is_used {
            self.paces.give_back(self.address);
        }
    }
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

    /// Waits for the permit to open a connection to an address.
    pub(super) async fn leave(&self, address: IpAddr) -> Leave<'_> {
        let address = address.to_canonical();
        let line = self.table.lock().line(address, clock::now());
        let _first = match &line {
            Some(line) => Some(line.lock().await),
            None => None,
        };
        while let Err(wait) = self.take(address, clock::now()) {
            sleep(wait.min(LOOK_EVERY)).await;
        }
        Leave { paces: self, address, is_used: false }
    }

    /// Takes a permit for a connection to an address. An error: the time until there may be one.
    fn take(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut table = self.table.lock();
        table.paced(address.to_canonical(), now).map_or(Ok(()), |paced| paced.bucket.take(now, self.rate))
    }

    fn give_back(&self, address: IpAddr) {
        if let Some(paced) = self.table.lock().paced.get_mut(&address) {
            paced.bucket.give_back(self.rate);
        }
    }
}

impl Table {
    /// The line of an address; `None`: connections to it are not paced.
    fn line(&mut self, address: IpAddr, now: Instant) -> Option<Line> {
        self.paced(address, now).map(|paced| paced.line.clone())
    }

    /// `None`: the address has granted a registration.
    fn paced(&mut self, address: IpAddr, now: Instant) -> Option<&mut Paced> {
        if self.served.get(&address).is_some_and(|at| now.saturating_duration_since(*at) < SERVED) {
            return None;
        }
        if self.paced.len() >= self.sweep_at.max(SPARE) {
            // A line that is shared has somebody waiting in it.
            self.paced.retain(|_, it| !it.bucket.is_full(now) || Arc::strong_count(&it.line) > 1);
            self.sweep_at = self.paced.len() * 2;
        }
        Some(self.paced.entry(address).or_insert_with(|| Paced { bucket: Bucket::full(now), line: Line::default() }))
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

    #[tokio::test]
    async fn who_waits_for_an_address_goes_in_the_order_of_coming_and_what_is_not_used_is_given_back() {
        let paces = Arc::new(Paces::new(Rate { burst: 1, interval: Duration::from_millis(2) }));
        let gone = Arc::<Mutex<Vec<u32>>>::default();
        let mut waiting = Vec::new();
        for number in 0..20 {
            let (paces, gone) = (paces.clone(), gone.clone());
            waiting.push(tokio::spawn(async move {
                let leave = paces.leave(address(1)).await;
                gone.lock().push(number);
                leave.used();
            }));
            tokio::task::yield_now().await;
        }
        for one in waiting {
            one.await.unwrap();
        }
        assert_eq!(*gone.lock(), (0..20).collect::<Vec<_>>());
        let slow = Paces::new(Rate { burst: 1, interval: Duration::from_secs(3600) });
        for _ in 0..3 {
            drop(slow.leave(address(1)).await);
        }
        slow.leave(address(1)).await.used();
        assert!(slow.take(address(1), clock::now()).is_err());
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
