//! The pace of connections to push services that have taken nothing.
//!
//! A device names its service, and may name any host, by any number of names and ports. All of them may lead to one address, which has chosen none of it; and
//! a service that is well may be at that address, too. So only who has failed has a pace.
//!
//! | a handshake of a service at an address | begins |
//! | --- | --- |
//! | it has taken a push within a day | at once |
//! | the last one there was whole, or there was none | at once, whatever others do |
//! | others there were given up, because that one was whole | likewise |
//! | the last one there failed | at once after a pause of its own, which grows up to that of [`AGAIN`]; before, when all that failed at the address have a turn left of [`TURNS`] |
//!
//! Nobody waits here: who gets none is told so, and that is no trouble of the service.
//!
//! Invariant: no service that is well waits for another one. What has failed is known however often its origin is forgotten, by a keyed hash, of
//! [`KNOWN_MAX`] services and addresses at most, for [`KNOWN_FOR`], and in memory alone.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sip::bucket::{Bucket, Rate};
use tokio::time;

use crate::lock::Mutex;
use crate::push::connection::backoff::Backoff;
use crate::push::connection::network::{ByteStream, Handshake, HandshakeEnd, Network, Opening};
use crate::push::connection::withdrawal::Withdrawal;

/// Handshakes at one address, of services that have failed there and whose own pause is not over.
const TURNS: Rate = Rate { burst: 10, interval: Duration::from_millis(100) };
/// How long a service that has failed at an address has none there but in turn.
const AGAIN: Backoff = Backoff { first: Duration::from_secs(2), most: Duration::from_secs(30) };
/// Handshakes of one service at one address that are open at once before the first of them has ended.
const OPEN_MAX: u32 = 8;
/// Services and addresses of which it is known that they have failed; a further one replaces any of them.
const KNOWN_MAX: usize = 16_384;
/// How long that is known after its pause.
const KNOWN_FOR: Duration = Duration::from_secs(600);

/// The paces of the addresses that an App's devices have chosen.
#[derive(Default)]
pub(super) struct Paces {
    hash: RandomState,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    addresses: BTreeMap<IpAddr, Bucket>,
    /// By service and address.
    tried: BTreeMap<u64, Tried>,
    /// How many were replaced.
    displaced: u64,
}

/// What has become of the handshakes of a service at an address.
struct Tried {
    open: u32,
    /// Those of them that are given up, because another one was whole.
    given_up: u32,
    /// Failures in a row, where the pause between was over.
    failed: u32,
    /// When it has the next one by itself.
    next: Instant,
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
    pub(super) origin: Box<str>,
    pub(super) service: Arc<Standing>,
}

impl Paces {
    /// Whether a handshake of this service at this address begins now; its end is then told to [`Self::ended`].
    fn begins(&self, service: u64, address: IpAddr, now: Instant) -> bool {
        let mut table = self.table.lock();
        table.make_room(service, &self.hash, now);
        let Table { addresses, tried, .. } = &mut *table;
        let tried = tried.entry(service).or_insert(Tried { open: 0, given_up: 0, failed: 0, next: now });
        let is_by_itself = if tried.failed == 0 { tried.open < OPEN_MAX } else { tried.next <= now };
        if !is_by_itself {
            addresses.retain(|other, bucket| *other == address || !bucket.is_full(now));
            if addresses.entry(address).or_insert_with(|| Bucket::full(now)).take(now, TURNS).is_err() {
                return false;
            }
        } else if tried.failed > 0 {
            // It counts as one more failure, until it is whole.
            tried.fail(now);
        }
        tried.open += 1;
        true
    }

    fn ended(&self, service: u64, how: HandshakeEnd, now: Instant) {
        let mut table = self.table.lock();
        table.make_room(service, &self.hash, now);
        let tried = table.tried.entry(service).or_insert(Tried { open: 0, given_up: 0, failed: 0, next: now });
        tried.open = tried.open.saturating_sub(1);
        match how {
            HandshakeEnd::Whole => (tried.failed, tried.given_up) = (0, tried.open),
            HandshakeEnd::OtherProtocol => tried.next = now,
            HandshakeEnd::Failed if tried.given_up > 0 => tried.given_up -= 1,
            HandshakeEnd::Failed if tried.failed == 0 || tried.next <= now => tried.fail(now),
            HandshakeEnd::Failed => {}
        }
        tried.given_up = tried.given_up.min(tried.open);
        if tried.open == 0 && tried.failed == 0 {
            table.tried.remove(&service);
        }
    }

    /// Forgets what matters no more.
    pub(super) fn forget(&self) {
        let now = time::Instant::now().into_std();
        let mut table = self.table.lock();
        table.addresses.retain(|_, bucket| !bucket.is_full(now));
        table.tried.retain(|_, tried| tried.open > 0 || tried.next + KNOWN_FOR > now);
    }
}

impl Table {
    /// Makes room for one more, in place of a random one, so that none stays because of its hash.
    fn make_room(&mut self, service: u64, hash: &RandomState, now: Instant) {
        if self.tried.len() < KNOWN_MAX || self.tried.contains_key(&service) {
            return;
        }
        self.displaced += 1;
        let from = hash.hash_one((now, self.displaced));
        match self.tried.range(from..).next().map(|(other, _)| *other) {
            Some(other) => drop(self.tried.remove(&other)),
            None => drop(self.tried.pop_first()),
        }
    }
}

impl Tried {
    fn fail(&mut self, now: Instant) {
        self.failed = self.failed.saturating_add(1);
        self.next = now + AGAIN.pause(self.failed);
    }
}

impl Standing {
    pub(super) fn new(has_taken: bool) -> Arc<Self> {
        Arc::new(Self { has_taken: AtomicBool::new(has_taken), address: Mutex::default() })
    }

    pub(super) fn has_taken(&self) -> bool {
        self.has_taken.load(Ordering::Relaxed)
    }

    /// It has taken a push. Returns whether that is new.
    pub(super) fn takes(&self) -> bool {
        !self.has_taken.swap(true, Ordering::Relaxed)
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
        self.network.connect(address, withdrawal)
    }

    fn leave(&self, address: SocketAddr) -> Option<Handshake> {
        let address = address.ip().to_canonical();
        let (paces, standing) = (Arc::clone(&self.paces), Arc::clone(&self.service));
        let service = paces.hash.hash_one((&self.origin, address));
        let is_paced = !standing.has_taken();
        if is_paced && !paces.begins(service, address, time::Instant::now().into_std()) {
            return None;
        }
        Some(Handshake::telling(move |how| {
            if how == HandshakeEnd::Whole {
                *standing.address.lock() = Some(address);
            }
            if is_paced {
                paces.ended(service, how, time::Instant::now().into_std());
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::connection::network::Nowhere;

    fn paced(paces: &Arc<Paces>, origin: &str, has_taken: bool) -> Paced {
        let (network, paces) = (Arc::new(Nowhere), Arc::clone(paces));
        Paced { network, paces, origin: origin.into(), service: Standing::new(has_taken) }
    }

    fn to(number: u16, port: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::from(([198, 51, high, low], port))
    }

    /// One handshake that ends so, if it begins.
    fn tries(network: &Paced, address: SocketAddr, how: HandshakeEnd) -> bool {
        network.leave(address).map(|leave| leave.ended(how)).is_some()
    }

    /// Strangers' names and ports all lead to the address, each push meets a new origin, and all of their handshakes fail.
    #[tokio::test(start_paused = true)]
    async fn services_that_fail_at_an_address_get_some_tens_a_second_there_and_one_that_is_well_goes_at_once() {
        let (paces, well) = (Arc::<Paces>::default(), "https://push.example.net:443");
        let mut begun = Vec::new();
        for second in 0..120_u16 {
            begun.push(0);
            for name in 0..1_000 {
                let stranger = paced(&paces, &format!("https://x{}.example.com:{}", name % 600, name % 1_000), false);
                *begun.last_mut().unwrap() += u32::from(tries(&stranger, to(1, name), HandshakeEnd::Failed));
            }
            // It has just come into the table, by each kind of a handshake, several at once.
            for how in [HandshakeEnd::OtherProtocol, HandshakeEnd::Whole] {
                let new = paced(&paces, well, false);
                let open: Vec<_> = (0..OPEN_MAX).map(|_| new.leave(to(1, 443))).collect();
                assert!(open.iter().all(Option::is_some), "{second}: {how:?}");
                open.into_iter().flatten().for_each(|leave| leave.ended(how));
            }
            assert!(tries(&paced(&paces, "https://taken.example.net:443", true), to(1, 443), HandshakeEnd::Failed));
            time::advance(Duration::from_secs(1)).await;
        }
        assert!(begun[0] == 1_000 + 10 || begun[0] == 1_000, "the first of each: {begun:?}");
        let later: u32 = begun[60..].iter().sum();
        assert!(later <= 60 * (1_000 / 15 + 10), "{begun:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_has_failed_goes_by_itself_after_its_pause_and_at_once_when_it_was_reached() {
        let (paces, one) = (Arc::<Paces>::default(), "https://push.example.net:443");
        let all_turns =
            || while tries(&paced(&paces, "https://other.example.net:1", false), to(1, 1), HandshakeEnd::Failed) {};
        for _ in 0..20 {
            all_turns();
            let _ = tries(&paced(&paces, one, false), to(1, 443), HandshakeEnd::Failed);
            assert!(!tries(&paced(&paces, one, false), to(1, 443), HandshakeEnd::Failed));
            assert!(tries(&paced(&paces, one, false), to(2, 443), HandshakeEnd::Whole), "another address");
            time::advance(AGAIN.most).await;
        }
        all_turns();
        assert!(tries(&paced(&paces, one, false), to(1, 443), HandshakeEnd::OtherProtocol));
        assert!(tries(&paced(&paces, one, false), to(1, 443), HandshakeEnd::Whole), "it is asked in its protocol");
        assert!((0..100).all(|_| tries(&paced(&paces, one, false), to(1, 443), HandshakeEnd::Whole)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_that_is_given_up_for_another_one_is_no_failure() {
        let (paces, origin) = (Arc::<Paces>::default(), "https://push.example.net:443");
        let one = paced(&paces, origin, false);
        let [lost, won, other] = [(); 3].map(|()| one.leave(to(1, 443)).unwrap());
        won.ended(HandshakeEnd::Whole);
        drop((lost, other));
        assert!(paces.table.lock().tried.is_empty());
        // One that begins later fails by itself.
        assert!(tries(&one, to(1, 443), HandshakeEnd::Failed));
        assert_eq!(paces.table.lock().tried.values().map(|tried| tried.failed).collect::<Vec<_>>(), [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn handshakes_that_hang_are_few_and_the_address_is_that_of_one_that_was_whole() {
        let paces = Arc::<Paces>::default();
        let origin = || paced(&paces, "https://push.example.net:443", false);
        let one = origin();
        let hanging: Vec<_> = (0..100).filter_map(|_| origin().leave(to(1, 443))).collect();
        assert_eq!(hanging.len(), 8 + 10);
        assert!(tries(&one, to(2, 443), HandshakeEnd::Whole));
        drop(hanging);
        assert_eq!(one.service.address(), Some(to(2, 443).ip()));
        assert!(one.leave(to(1, 443)).is_none(), "they have failed");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded_and_forgotten() {
        let paces = Arc::<Paces>::default();
        for number in 0..u16::MAX {
            let one = paced(&paces, &format!("https://push{number}.example.net:443"), false);
            let _ =
                (tries(&one, to(number, 1), HandshakeEnd::Failed), tries(&one, to(number, 1), HandshakeEnd::Failed));
            assert!(paces.table.lock().addresses.len() <= 1_024);
            time::advance(Duration::from_millis(1)).await;
        }
        assert_eq!(paces.table.lock().tried.len(), KNOWN_MAX);
        time::advance(AGAIN.most + KNOWN_FOR).await;
        paces.forget();
        assert!(paces.table.lock().tried.is_empty() && paces.table.lock().addresses.is_empty());
    }
}
