//! The pace of connections to push services that have taken nothing.
//!
//! A device names its service, and may name any host, by any number of names and ports. What a service has done is known of its origin alone, and of so many
//! origins at once; but all of them may lead to one address, which has chosen none of it. So connections to an address go at [`DIALS`], whatever the names and
//! ports that lead there, and however often these are forgotten.
//!
//! | a connection of a service that | is opened |
//! | --- | --- |
//! | has taken a push within a day | at once |
//! | has taken none lately | in its turn at the address, for which it waits [`TURN_WITHIN`] at most; then it fails, and its pushes are tried again |
//!
//! Invariant: what one service has taken frees no other at its address. Nobody waits who would get no turn in time. An address is kept for as long as its
//! turns are given out, and in memory alone.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sip::bucket::{Bucket, Rate};
use tokio::time::{self, sleep_until};

use crate::lock::Mutex;
use crate::push::connection::network::{ByteStream, Network, Opening};
use crate::push::connection::withdrawal::Withdrawal;

/// Connections to one address.
const DIALS: Rate = Rate { burst: 10, interval: Duration::from_millis(100) };
/// How long a connection, or a push, waits for its turn.
pub(super) const TURN_WITHIN: Duration = Duration::from_secs(1);
/// The number of addresses above which those whose turns are over are removed.
const SPARE: usize = 1_024;

/// The paces of the addresses that an App's devices have chosen.
#[derive(Default)]
pub(super) struct Paces(Mutex<Table>);

#[derive(Default)]
struct Table {
    addresses: BTreeMap<IpAddr, Bucket>,
    sweep_at: usize,
}

/// What is known of a service.
#[derive(Default)]
pub(super) struct Standing {
    /// It has taken a push, within a day before this was made or since then.
    has_taken: AtomicBool,
    /// The address at which it was reached last.
    address: Mutex<Option<IpAddr>>,
}

/// The network as one service is dialled in it.
pub(super) struct Paced {
    pub(super) network: Arc<dyn Network>,
    pub(super) paces: Arc<Paces>,
    pub(super) service: Arc<Standing>,
}

/// When the next turn of a bucket is, which is taken; `None`: not until then.
pub(super) fn turn_of(bucket: &mut Bucket, rate: Rate, now: Instant, until: Instant) -> Option<Instant> {
    let at = bucket.when(now, rate, 1);
    if at > now && at > until {
        return None;
    }
    bucket.owe(now, rate, 1);
    Some(at)
}

impl Paces {
    /// When a connection to this address may be opened; `None`: not soon.
    fn turn(&self, address: IpAddr, now: Instant) -> Option<Instant> {
        let mut table = self.0.lock();
        if table.addresses.len() >= table.sweep_at.max(SPARE) {
            table.addresses.retain(|_, bucket| !bucket.is_full(now));
            table.sweep_at = table.addresses.len() * 2;
        }
        let bucket = table.addresses.entry(address.to_canonical()).or_insert_with(|| Bucket::full(now));
        turn_of(bucket, DIALS, now, now + TURN_WITHIN)
    }
}

impl Standing {
    pub(super) fn new(has_taken: bool) -> Arc<Self> {
        Arc::new(Self { has_taken: AtomicBool::new(has_taken), address: Mutex::default() })
    }

    pub(super) fn has_taken(&self) -> bool {
        self.has_taken.load(Ordering::Relaxed)
    }

    /// It has taken a push.
    pub(super) fn takes(&self) {
        self.has_taken.store(true, Ordering::Relaxed);
    }

    /// The address at which it was reached last.
    pub(super) fn address(&self) -> Option<IpAddr> {
        *self.address.lock()
    }
}

impl Network for Paced {
    fn resolve(&self, host: &str, port: u16, app: Option<&Arc<str>>) -> Opening<Vec<SocketAddr>> {
        self.network.resolve(host, port, app)
    }

    fn connect(&self, address: SocketAddr, withdrawal: &Withdrawal) -> Opening<Box<dyn ByteStream>> {
        let (network, paces, service) = (Arc::clone(&self.network), Arc::clone(&self.paces), Arc::clone(&self.service));
        let withdrawal = withdrawal.clone();
        Box::pin(async move {
            if !service.has_taken() {
                let now = time::Instant::now().into_std();
                let turn = paces.turn(address.ip(), now).ok_or(io::ErrorKind::ResourceBusy)?;
                if turn > now {
                    sleep_until(turn.into()).await;
                }
            }
            let stream = network.connect(address, &withdrawal).await?;
            *service.address.lock() = Some(address.ip().to_canonical());
            Ok(stream)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Accepts each connection; how many.
    #[derive(Default)]
    struct Victim(AtomicUsize);

    impl Network for Victim {
        fn resolve(&self, _host: &str, port: u16, _app: Option<&Arc<str>>) -> Opening<Vec<SocketAddr>> {
            Box::pin(async move { Ok(vec![to(1, port)]) })
        }

        fn connect(&self, _address: SocketAddr, _withdrawal: &Withdrawal) -> Opening<Box<dyn ByteStream>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Box::pin(async { Ok(Box::new(tokio::io::empty()) as Box<dyn ByteStream>) })
        }
    }

    fn to(number: u16, port: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([198, 51, high, low], port))
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_gets_ten_connections_a_second_by_whatever_ports_and_new_origins() {
        let (victim, paces) = (Arc::new(Victim::default()), Arc::<Paces>::default());
        let connect = |address, has_taken| {
            let (network, paces) = (Arc::<Victim>::clone(&victim), Arc::clone(&paces));
            let paced = Paced { network, paces, service: Standing::new(has_taken) };
            tokio::spawn(async move {
                let opened = paced.connect(address, &Withdrawal::default()).await.is_ok();
                (opened, paced.service.address())
            })
        };
        let began = time::Instant::now();
        let tries: Vec<_> = (0..3_000).map(|n| connect(to(1, n), false)).collect();
        let mut opened = 0;
        for one in tries {
            let (is_opened, address) = one.await.unwrap();
            opened += usize::from(is_opened);
            assert_eq!(address, is_opened.then(|| to(1, 0).ip()));
        }
        assert_eq!((opened, victim.0.load(Ordering::Relaxed)), (20, 20), "a burst, and those of a second");
        assert_eq!(began.elapsed(), TURN_WITHIN);
        // Others, and whoever has taken pushes, wait for none of those.
        let waiting: Vec<_> = (0..100).map(|n| connect(to(1, n), false)).collect();
        tokio::task::yield_now().await;
        let began = time::Instant::now();
        for address in [to(2, 443), to(3, 443)] {
            assert!(connect(address, false).await.unwrap().0);
        }
        for _ in 0..100 {
            assert!(connect(to(1, 443), true).await.unwrap().0);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(waiting);
    }

    #[test]
    fn what_is_remembered_is_bounded_by_what_is_due() {
        let (paces, start) = (Paces::default(), Instant::now());
        for number in 0..u16::MAX {
            assert!(paces.turn(to(number, 1).ip(), start + Duration::from_millis(number.into())).is_some());
        }
        assert!(paces.0.lock().addresses.len() <= SPARE + 100);
    }
}
