//! The pace of connections to an address and port at which no account was ever registered by this process.
//!
//! Strangers choose names and ports, and many of these may lead to one address. REGISTERs by datagrams are paced by the address that they go to, in
//! [`sip::endpoint`]; connections go at the same pace, whatever their port. Otherwise an address that only accepts connections would get one for each name,
//! as fast as accounts are enabled. A port that has granted a registration is a SIP server's, and may need a connection for each of its domains at once. It
//! says nothing of the other ports: whoever has an account there chooses these as he likes.
//!
//! Dials that wait for an address form one line, in the order in which they came. A permit for a connection that is not opened is given back.
//!
//! Invariant: all ports of an address that have granted nothing within [`SERVED`] get [`Rate`] connections together at most. A dial to one that has waits for
//! [`LOOK_EVERY`] at most. At most [`REMEMBERED`] such ports are known, and [`PORTS`] of one address.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sip::bucket::{Bucket, Rate};
use tokio::time::sleep;

use crate::clock;
use crate::lock::Mutex;

/// How long a port is known to have granted a registration: devices register again within hours.
const SERVED: Duration = Duration::from_secs(24 * 3600);
/// Ports of all addresses that are remembered, and of one address; of these, the one that granted a registration first goes for a further one.
const REMEMBERED: usize = 16_384;
const PORTS: usize = 1_024;
/// How often a waiting dial looks whether its port has granted a registration, which ends its wait.
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
    served: BTreeMap<Port, Instant>,
    paced: BTreeMap<IpAddr, Paced>,
    sweep_at: usize,
}

/// A port of an address.
type Port = (IpAddr, u16);

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
    /// Nothing is given back: the connection is opened, or was not paced.
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

    /// A port of an address has granted a registration.
    pub(super) fn served(&self, to: SocketAddr, now: Instant) {
        let mut table = self.table.lock();
        let (address, port) = port_of(to);
        if table.served.insert((address, port), now).is_some() {
            return;
        }
        let of_it = (address, 0)..=(address, u16::MAX);
        let first = if table.served.range(of_it.clone()).count() > PORTS {
            table.served.range(of_it).min_by_key(|(_, at)| **at)
        } else if table.served.len() > REMEMBERED {
            table.served.iter().min_by_key(|(_, at)| **at)
        } else {
            None
        };
        if let Some(first) = first.map(|(first, _)| *first) {
            table.served.remove(&first);
        }
    }

    /// Waits for the permit to open a connection to a port of an address.
    pub(super) async fn leave(&self, to: SocketAddr) -> Leave<'_> {
        let port = port_of(to);
        let line = self.table.lock().line(port, clock::now());
        let _first = match &line {
            Some(line) => tokio::select! {
                first = line.lock() => Some(first),
                () = self.granted(port) => None,
            },
            None => None,
        };
        loop {
            match self.take(port, clock::now()) {
                Ok(is_paced) => return Leave { paces: self, address: port.0, is_used: !is_paced },
                Err(wait) => sleep(wait.min(LOOK_EVERY)).await,
            }
        }
    }

    /// Ends once a port has granted a registration.
    async fn granted(&self, port: Port) {
        while !self.table.lock().has_granted(port, clock::now()) {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Takes a permit for a connection to a port, and says whether it is paced. An error: the time until there may be one.
    fn take(&self, port: Port, now: Instant) -> Result<bool, Duration> {
        let mut table = self.table.lock();
        let paced = table.paced(port, now);
        paced.map_or(Ok(false), |paced| paced.bucket.take(now, self.rate).map(|()| true))
    }

    fn give_back(&self, address: IpAddr) {
        if let Some(paced) = self.table.lock().paced.get_mut(&address) {
            paced.bucket.give_back(self.rate);
        }
    }
}

impl Table {
    /// The line for a port; `None`: connections to it are not paced.
    fn line(&mut self, port: Port, now: Instant) -> Option<Line> {
        self.paced(port, now).map(|paced| paced.line.clone())
    }

    fn has_granted(&self, port: Port, now: Instant) -> bool {
        self.served.get(&port).is_some_and(|at| now.saturating_duration_since(*at) < SERVED)
    }

    /// `None`: the port has granted a registration.
    fn paced(&mut self, port: Port, now: Instant) -> Option<&mut Paced> {
        if self.has_granted(port, now) {
            return None;
        }
        if self.paced.len() >= self.sweep_at.max(SPARE) {
            // A line that is shared has somebody waiting in it.
            self.paced.retain(|_, it| !it.bucket.is_full(now) || Arc::strong_count(&it.line) > 1);
            self.sweep_at = self.paced.len() * 2;
        }
        Some(self.paced.entry(port.0).or_insert_with(|| Paced { bucket: Bucket::full(now), line: Line::default() }))
    }
}

fn port_of(to: SocketAddr) -> Port {
    (to.ip().to_canonical(), to.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(number: u16) -> SocketAddr {
        port(number, 5061)
    }

    fn port(number: u16, port: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([10, 0, high, low], port))
    }

    fn take(paces: &Paces, to: SocketAddr, now: Instant) -> Result<bool, Duration> {
        paces.take(port_of(to), now)
    }

    #[test]
    fn an_address_that_has_granted_nothing_gets_connections_at_the_pace_whoever_asks() {
        let (paces, start) = (Paces::new(Rate::per_second(10, 10)), Instant::now());
        let opened = |from: u64, until: u64| {
            let at = |ms| start + Duration::from_millis(ms);
            (from..until).filter(|ms| take(&paces, port(1, *ms as u16 % 100), at(*ms)).is_ok()).count()
        };
        assert_eq!((opened(0, 1_000), opened(1_000, 20_000)), (19, 190));
        let mapped = std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
        assert!(take(&paces, SocketAddr::from((mapped, 5061)), start).is_err(), "the same");
        assert!(take(&paces, to(2), start).is_ok(), "another");
    }

    /// Thousands of domains at one provider's address.
    #[test]
    fn an_address_that_has_granted_a_registration_is_waited_for_by_nobody() {
        let (paces, start) = (Paces::new(Rate::per_second(10, 10)), Instant::now());
        while take(&paces, to(1), start).is_ok() {}
        paces.served(to(1), start);
        assert!((0..10_000).all(|_| take(&paces, to(1), start) == Ok(false)));
        assert!((0..100).any(|_| take(&paces, to(1), start + SERVED).is_err()), "a day later");
    }

    #[test]
    fn a_port_that_has_granted_a_registration_frees_no_other_of_its_address() {
        let (paces, start) = (Paces::new(Rate::per_second(10, 10)), Instant::now());
        paces.served(to(1), start);
        let opened = |from: u64, until: u64| {
            let at = |ms| start + Duration::from_millis(ms);
            (from..until).filter(|ms| take(&paces, port(1, *ms as u16), at(*ms)).is_ok()).count()
        };
        assert_eq!((opened(0, 1_000), opened(1_000, 5_000)), (19, 40));
        assert_eq!(take(&paces, to(1), start), Ok(false), "nor do those keep it back");
    }

    #[tokio::test]
    async fn who_waits_behind_others_goes_once_its_own_port_has_granted_a_registration() {
        let paces = Arc::new(Paces::new(Rate { burst: 1, interval: Duration::from_secs(3600) }));
        paces.leave(port(1, 1)).await.used();
        let wait = |number| {
            let paces = paces.clone();
            tokio::spawn(async move { drop(paces.leave(port(1, number)).await) })
        };
        let others: Vec<_> = (2..10).map(wait).collect();
        tokio::task::yield_now().await;
        let own = wait(5061);
        tokio::task::yield_now().await;
        paces.served(to(1), clock::now());
        own.await.unwrap();
        assert!(others.iter().all(|other| !other.is_finished()));
        assert!(take(&paces, port(1, 1), clock::now()).is_err(), "it gives nothing back");
    }

    #[tokio::test]
    async fn who_waits_for_an_address_goes_in_the_order_of_coming_and_what_is_not_used_is_given_back() {
        let paces = Arc::new(Paces::new(Rate { burst: 1, interval: Duration::from_millis(2) }));
        let gone = Arc::<Mutex<Vec<u32>>>::default();
        let mut waiting = Vec::new();
        for number in 0..20 {
            let (paces, gone) = (paces.clone(), gone.clone());
            waiting.push(tokio::spawn(async move {
                let leave = paces.leave(to(1)).await;
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
            drop(slow.leave(to(1)).await);
        }
        slow.leave(to(1)).await.used();
        assert!(take(&slow, to(1), clock::now()).is_err());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (paces, start) = (Paces::new(Rate::per_second(10, 10)), Instant::now());
        // Each one beyond looks for the first of all.
        let beyond = REMEMBERED as u16 + 2_000;
        for number in 0..beyond {
            let now = start + Duration::from_millis(u64::from(number) * 10);
            assert!(take(&paces, to(number), now).is_ok());
            paces.served(to(number), now);
        }
        let table = paces.table.lock();
        assert!(table.served.len() <= REMEMBERED && table.paced.len() <= SPARE);
        assert!(table.served.contains_key(&port_of(to(beyond - 1))), "the last one");
        drop(table);
        (0..2_000).for_each(|number| paces.served(port(1, number), start + SERVED));
        let table = paces.table.lock();
        let of_one = table.served.keys().filter(|(address, _)| *address == to(1).ip()).count();
        assert_eq!((of_one, table.served.len()), (PORTS, REMEMBERED), "one address displaces few of others");
    }
}
