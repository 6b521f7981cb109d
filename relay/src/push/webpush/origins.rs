//! The push services that an App's devices have chosen: one connection for each origin, made when it is needed.
//!
//! A subscribing client names its service, and may name anything. So `upstream.allow_addresses` judges each address when it is dialled, and an origin costs its
//! own connection alone.
//!
//! | when there is no room for a new origin, it replaces |
//! | --- |
//! | one that has never taken a push, rather than one that has |
//! | among those, one that no push waits for |
//! | among those, the one used longest ago |
//!
//! Invariant: at most [`ORIGINS_MAX`] origins are known, and [`OF_A_HOST_MAX`] of one host. An origin that nobody has needed for [`IDLE`] is forgotten within
//! [`LOOK_EVERY`], with its connection, its VAPID token and its TLS session, because it tells whose device it served. A push keeps its origin: one that was
//! replaced lives on for the pushes that it has.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::Uri;
use hyper::header::HeaderValue;
use rustls::ClientConfig;
use rustls::client::Resumption;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use super::http1_limits::{OwnPlaces, Place, Places};
use super::limits::Limits;
use super::pacing::{Paced, Paces, Standing};
use super::refusals::{Refusals, Subscription};
use super::unknown::Unknown;
use super::vapid::{RENEW_AFTER, Vapid};
use crate::clock::advertised_now;
use crate::lock::Mutex;
use crate::net::address_policy::Reach;
use crate::net::https_port::https_port;
use crate::push::Verdict;
use crate::push::connection::attempt::Attempt;
use crate::push::connection::backoff::Backoff;
use crate::push::connection::endpoint::Endpoint;
use crate::push::connection::http2::Channel;
use crate::push::connection::network::{Guarded, Network};
use crate::push::connection::not_before::PauseFor;
use crate::push::connection::urgency::Urgency;
use crate::push::health::origin_health::Troubled;
use crate::push::health::{Note, Record, Trouble};

/// Origins that are known for one App; with a further one another is forgotten.
const ORIGINS_MAX: usize = 1_024;
/// Likewise of one host, by different ports.
const OF_A_HOST_MAX: usize = 16;
/// How long an origin is kept that nobody needs.
const IDLE: Duration = Duration::from_secs(600);
/// How often those are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// TLS sessions that one origin's next connection may go on with.
const SESSIONS: usize = 1;
/// How long what is no call leaves a service alone that tells one subscription after the other to wait.
const TOLD_BY_ALL: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(5) };

/// The origins of one App.
pub(super) struct Origins {
    label: Box<str>,
    tls: Arc<ClientConfig>,
    network: Arc<dyn Network>,
    record: Arc<Record>,
    troubled: Arc<Troubled>,
    places: Arc<Places>,
    paces: Arc<Paces>,
    refusals: Arc<Refusals>,
    /// The runtime of the process, where this was made.
    runtime: Option<Handle>,
    table: Arc<Table>,
}

/// The known origins.
#[derive(Default)]
struct Table {
    origins: Mutex<HashMap<Box<str>, Arc<Origin>>>,
    /// How many there are.
    known: Arc<AtomicUsize>,
}

/// One push service.
pub(super) struct Origin {
    pub(super) channel: Channel,
    pub(super) limits: Limits,
    pub(super) unknown: Unknown,
    refusals: Arc<Refusals>,
    places: OwnPlaces,
    /// In lower case.
    pub(super) host: Box<str>,
    standing: Arc<Standing>,
    /// As VAPID names it: without the usual port.
    audience: Box<str>,
    /// The origin speaks HTTP/1.1 alone.
    speaks_http1: AtomicBool,
    token: Mutex<Option<(HeaderValue, SystemTime)>>,
    used_at: Mutex<Instant>,
}

impl Origins {
    pub(super) fn new(
        app: &str,
        tls: Arc<ClientConfig>,
        network: Arc<dyn Network>,
        reach: Reach,
        record: Arc<Record>,
    ) -> Self {
        let (table, runtime) = (Arc::<Table>::default(), Handle::try_current().ok());
        let (paces, refusals) = (Arc::<Paces>::default(), Arc::<Refusals>::default());
        let troubled = Arc::new(Troubled::new(Arc::clone(&table.known)));
        if let Some(runtime) = &runtime {
            let (origins, troubled) = (Arc::downgrade(&table), Arc::downgrade(&troubled));
            runtime.spawn(forget(origins, troubled, Arc::downgrade(&paces), Arc::downgrade(&refusals)));
        }
        Self {
            label: format!("{app}/webpush").into(),
            tls,
            network: Arc::new(Guarded::new(network, app, reach)),
            troubled,
            places: Arc::default(),
            paces,
            refusals,
            record,
            runtime,
            table,
        }
    }

    pub(super) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// The origin of this URL; `None` when it is no `https` URL.
    pub(super) fn of(&self, url: &Uri) -> Option<Arc<Origin>> {
        let origin = origin_of(url)?;
        let mut table = self.table.lock();
        let now = Instant::now();
        if let Some(known) = table.get(&*origin) {
            *known.used_at.lock() = now;
            return Some(Arc::clone(known));
        }
        forget_idle(&mut table, now);
        let host: Box<str> = url.host()?.to_ascii_lowercase().into();
        make_room(&mut table, &host);
        // The origin may have been forgotten for others.
        let standing = Standing::new(self.troubled.has_taken(&origin));
        let (network, paces) = (Arc::clone(&self.network), Arc::clone(&self.paces));
        let (named, service) = (origin.as_str().into(), Arc::clone(&standing));
        let network = Arc::new(Paced { network, paces, origin: named, service });
        let endpoint = Endpoint::new(&origin, "endpoint", self.tls_of_one(), network).ok()?;
        let audience = endpoint.origin().strip_suffix(":443").unwrap_or(endpoint.origin()).into();
        let record = Record::part_of(&self.record, &self.troubled, &origin);
        let channel =
            Channel::new(self.label.to_string(), endpoint, false, record).of_any_service(self.runtime.clone());
        let made = Arc::new(Origin {
            channel,
            limits: Limits::default(),
            unknown: Unknown::default(),
            refusals: Arc::clone(&self.refusals),
            places: OwnPlaces::among(&self.places, &host),
            host,
            standing,
            audience,
            speaks_http1: AtomicBool::new(false),
            token: Mutex::default(),
            used_at: Mutex::new(now),
        });
        table.insert(origin.into(), Arc::clone(&made));
        self.table.known.store(table.len(), Ordering::Relaxed);
        Some(made)
    }

    /// The same trust, with sessions that go with the origin: a session has the name of its server.
    fn tls_of_one(&self) -> Arc<ClientConfig> {
        let mut tls = ClientConfig::clone(&self.tls);
        tls.resumption = Resumption::in_memory_sessions(SESSIONS);
        Arc::new(tls)
    }
}

/// The origin of this URL, which is one however it is written; `None` when it is no `https` URL.
pub(super) fn origin_of(url: &Uri) -> Option<String> {
    let mut origin = format!("https://{}:{}", url.host()?, https_port(url)?);
    origin.make_ascii_lowercase();
    Some(origin)
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Origin>>> {
        self.origins.lock()
    }
}

/// Forgets what nobody needs any more, as long as the App pushes by these origins.
async fn forget(table: Weak<Table>, troubled: Weak<Troubled>, paces: Weak<Paces>, refusals: Weak<Refusals>) {
    loop {
        sleep(LOOK_EVERY).await;
        let (Some(table), Some(troubled)) = (table.upgrade(), troubled.upgrade()) else { return };
        let (Some(paces), Some(refusals)) = (paces.upgrade(), refusals.upgrade()) else { return };
        let gone = {
            let mut known = table.lock();
            let gone = forget_idle(&mut known, Instant::now());
            table.known.store(known.len(), Ordering::Relaxed);
            gone
        };
        // Their connections end without the lock.
        drop(gone);
        troubled.forget();
        paces.forget();
        refusals.forget();
    }
}

/// Takes out those that no push has, and that nobody has needed for [`IDLE`].
fn forget_idle(table: &mut HashMap<Box<str>, Arc<Origin>>, now: Instant) -> Vec<Arc<Origin>> {
    let idle = table.extract_if(|_, origin| Arc::strong_count(origin) == 1 && origin.idle_since() + IDLE <= now);
    idle.map(|(_, origin)| origin).collect()
}

/// Makes room for one more of this host.
fn make_room(table: &mut HashMap<Box<str>, Arc<Origin>>, host: &str) {
    let crowded = table.values().filter(|origin| *origin.host == *host).count() >= OF_A_HOST_MAX;
    if !crowded && table.len() < ORIGINS_MAX {
        return;
    }
    let of_those = table.iter().filter(|(_, origin)| !crowded || *origin.host == *host);
    let least = of_those.min_by_key(|(_, origin)| {
        let is_in_use = Arc::strong_count(origin) > 1;
        (origin.standing.has_taken(), is_in_use, origin.idle_since())
    });
    if let Some(name) = least.map(|(name, _)| name.clone()) {
        table.remove(&name);
    }
}

impl Origin {
    /// It knows no such subscription, which `is_gone` where that is believed (`unknown.rs`); `None`: it cannot be judged now, which is no fault of the
    /// service. Where it is not believed an urgent push ends, for its caller waits.
    pub(super) fn not_found(&self, is_gone: Option<bool>, urgency: Urgency) -> Attempt {
        match is_gone {
            Some(true) => {
                self.channel.record().note(Note::Well);
                return Attempt::Done(Verdict::Gone { since: None });
            }
            Some(false) => self.channel.record().trouble(Trouble::light("ManyNotFound"), ""),
            None => {}
        }
        if urgency.is_urgent() {
            Attempt::Done(Verdict::Refused { reason: "ManyNotFound" })
        } else {
            Attempt::Again { after: None }
        }
    }

    /// Takes note of an answer to a push at `path` for later ones.
    pub(super) fn note(&self, path: &str, attempt: &Attempt) {
        let has_changed_its_mind = self.refusals.note(&self.subscription(path), attempt);
        match attempt {
            Attempt::Done(Verdict::Accepted) => {
                if self.standing.takes() || has_changed_its_mind {
                    self.refusals.ease();
                }
                self.limits.taken(path);
                self.unknown.taken();
            }
            Attempt::Limited { after } if self.limits.note(path, *after) => {
                self.channel.pause(PauseFor::Sparing(TOLD_BY_ALL));
                self.channel.record().trouble(Trouble::light("AskedToWait"), "");
            }
            _ => {}
        }
    }

    /// Waits for the turn of a push at `path`, as [`Refusals::turn`] does.
    pub(super) async fn turn(&self, path: &str, urgency: Urgency, until: Instant) -> Result<(), Option<&'static str>> {
        self.refusals.turn(|| self.subscription(path), urgency, until).await
    }

    fn subscription<'a>(&'a self, path: &'a str) -> Subscription<'a> {
        let (has_taken, address) = (self.standing.has_taken(), self.standing.address());
        Subscription { origin: self.channel.origin(), path, has_taken, address }
    }

    /// A place for a push by HTTP/1.1; `None`: there is none until then.
    pub(super) async fn place(&self, urgency: Urgency, until: Instant) -> Option<Place<'_>> {
        self.places.take(urgency, self.standing.has_taken(), until).await
    }

    /// The VAPID header that identifies the sender. `None` when the system cannot sign.
    pub(super) fn authorization(&self, vapid: &Vapid) -> Option<HeaderValue> {
        let now = UNIX_EPOCH + Duration::from_secs(advertised_now());
        let mut token = self.token.lock();
        // A clock that was set back makes the age an error: sign anew then, too.
        if let Some((header, at)) = &*token
            && now.duration_since(*at).is_ok_and(|age| age < RENEW_AFTER)
        {
            return Some(header.clone());
        }
        let header = vapid.token(&self.audience, now)?;
        *token = Some((header.clone(), now));
        Some(header)
    }

    pub(super) fn speaks_http1(&self) -> bool {
        self.speaks_http1.load(Ordering::Relaxed)
    }

    /// Whether it offers HTTP/1.1 alone.
    pub(super) fn note_http1(&self, alone: bool) {
        self.speaks_http1.store(alone, Ordering::Relaxed);
    }

    fn idle_since(&self) -> Instant {
        *self.used_at.lock()
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use bytes::Bytes;
    use hyper::HeaderMap;

    use super::super::by_http1;
    use super::*;
    use crate::clock::{Machine, set_virtual};
    use crate::cores::{self, Cores};
    use crate::metrics::Metrics;
    use crate::push::connection::answer_timeout::{Patience, TryTimes, WhenSilent};
    use crate::push::connection::departure::Departure;
    use crate::push::connection::endpoint::trust;
    use crate::push::connection::http2::{Failure, Request};
    use crate::push::connection::network::Nowhere;

    fn origins() -> Origins {
        let series = Metrics::new().push_service("com.example.phone", "webpush");
        let record = Record::new("com.example.phone", "webpush", series, None);
        let tls = trust(None, None).ok().unwrap();
        Origins::new("com.example.phone", tls, Arc::new(Nowhere), Reach::new(&[]), record)
    }

    fn url(number: usize) -> Uri {
        format!("https://push{number}.example.net/a").parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_is_reached_however_many_were_named_and_those_that_took_pushes_stay() {
        let origins = origins();
        let taken = Attempt::Done(Verdict::Accepted);
        origins.of(&url(0)).unwrap().note("/a", &taken);
        for number in 1..ORIGINS_MAX {
            tokio::time::advance(Duration::from_millis(1)).await;
            assert!(origins.of(&url(number)).is_some());
        }
        assert!(origins.of(&url(ORIGINS_MAX)).is_some(), "the one used longest ago gives way");
        let known = |number| origins.table.lock().contains_key(&*format!("https://push{number}.example.net:443"));
        assert!(known(0) && !known(1) && known(2) && known(ORIGINS_MAX), "and none that took pushes");
        // Pushes wait for each of them.
        let _waiting: Vec<_> = (2..=ORIGINS_MAX).map(|number| origins.of(&url(number)).unwrap()).collect();
        for number in 0..10 {
            origins.of(&url(5_000 + number)).unwrap().note("/a", &taken);
        }
        assert_eq!(origins.table.lock().len(), ORIGINS_MAX);
        assert!(known(0) && (0..10).all(|number| known(5_000 + number)));
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_service_has_taken_a_push_is_known_when_it_was_forgotten_for_others() {
        let origins = origins();
        let has_taken = |number| origins.of(&url(number)).unwrap().standing.has_taken();
        let origin = origins.of(&url(0)).unwrap();
        origin.note("/a", &Attempt::Done(Verdict::Accepted));
        origin.channel.record().note(Note::Accepted);
        drop(origin);
        tokio::time::advance(IDLE).await;
        assert!(!has_taken(1) && origins.table.lock().len() == 1, "the other one has come in its place");
        assert!(has_taken(0));
        tokio::time::advance(Duration::from_secs(24 * 3_600)).await;
        assert!(!has_taken(2) && !has_taken(0), "a day ago");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_needs_is_forgotten_though_nobody_asks_for_another() {
        let origins = origins();
        let of = |number| {
            let origin = origins.of(&url(number)).unwrap();
            origin.note("/a", &Attempt::Done(Verdict::Accepted));
            origin.channel.record().note(Note::Accepted);
            origin
        };
        let (needed, alone) = (of(0), Arc::downgrade(&of(1)));
        sleep(IDLE - Duration::from_secs(1)).await;
        assert!(alone.upgrade().is_some(), "it may be needed again");
        sleep(LOOK_EVERY * 2).await;
        assert!(alone.upgrade().is_none(), "its connection went with it");
        assert_eq!((origins.table.lock().len(), origins.table.known.load(Ordering::Relaxed)), (1, 1));
        drop(needed);
        sleep(LOOK_EVERY * 2).await;
        assert_eq!((origins.table.lock().len(), origins.troubled.len()), (0, 2));
        sleep(Duration::from_secs(24 * 3_600)).await;
        assert_eq!(origins.troubled.len(), 0, "nor is it remembered that it was well");
    }

    #[test]
    fn a_tls_session_goes_with_its_origin() {
        let origins = origins();
        let sessions = |tls: &ClientConfig| format!("{:p}", &tls.resumption);
        let (one, other) = (origins.tls_of_one(), origins.tls_of_one());
        assert!(sessions(&one) != sessions(&other) && sessions(&one) != sessions(&origins.tls));
    }

    #[test]
    fn a_vapid_token_goes_by_the_time_that_phones_are_told_also_when_that_is_set() {
        let name = format!("sipwake-vapid-{:016x}", u64::from_ne_bytes(crate::random::bytes()));
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let vapid = Vapid::new(&file, "mailto:push@example.net").ok().unwrap();
        std::fs::remove_file(&file).unwrap();
        let origin = origins().of(&url(0)).unwrap();
        let ends_at = || {
            let header = origin.authorization(&vapid).unwrap();
            let claims = header.to_str().unwrap().split('.').nth(1).unwrap();
            let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
            claims["exp"].as_u64().unwrap()
        };
        for days in [0, 30, -30, 0] {
            let mut machine = Machine::default();
            machine.off_ms = days * 86_400_000;
            set_virtual(&machine);
            let hours = ends_at().saturating_sub(advertised_now()) / 3_600;
            assert!((6..=12).contains(&hours), "{days} days: {hours} h");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_that_finds_no_place_says_nothing_of_the_service() {
        let origin = origins().of(&url(0)).unwrap();
        let until = Instant::now() + Duration::from_secs(1);
        let mut hanging = Vec::new();
        while let Some(place) = origin.place(Urgency::Urgent, Instant::now() + Duration::from_millis(1)).await {
            hanging.push(place);
        }
        let request = Request { whom: None, path: "/".to_owned(), headers: HeaderMap::new(), body: Bytes::new() };
        for urgency in [Urgency::CanWait, Urgency::Urgent] {
            let departure = Departure::unmeasured();
            let patience = Patience {
                times: TryTimes::whole(until),
                when_silent: WhenSilent::Leaves,
                urgency,
                departure: &departure,
                renewed: None,
            };
            let sent = by_http1(&origin, &request, patience).await;
            assert!(matches!(sent, Err(Failure::NoPlace { .. })), "{sent:?}");
        }
    }

    #[tokio::test]
    async fn what_a_service_sends_is_read_on_no_core() {
        let origin = origins().of(&url(0)).unwrap();
        let (_cores, mut made) = Cores::start(1).unwrap();
        let (tell, told) = tokio::sync::oneshot::channel();
        made.remove(0).begin(async move {
            let made_at = origin.channel.have_made(|_| async { cores::here() }).await;
            tell.send((cores::here(), made_at)).unwrap();
        });
        assert_eq!(told.await.unwrap(), (Some(0), Some(None)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_ports_of_one_host_displace_no_other_and_one_origin_has_one_name() {
        let origins = origins();
        let of = |url: &str| origins.of(&url.parse().unwrap()).unwrap();
        of("https://other.example.net/a");
        for port in 1..=1_000 {
            tokio::time::advance(Duration::from_millis(1)).await;
            of(&format!("https://push.example.net:{port}/a"));
        }
        assert_eq!(origins.table.lock().len(), OF_A_HOST_MAX + 1);
        assert!(origins.table.lock().contains_key("https://other.example.net:443"));
        let first = of("https://other.example.net/a");
        for same in ["https://OTHER.example.net/b", "https://other.example.net:/", "https://other.example.net:0443/"] {
            assert!(Arc::ptr_eq(&first, &of(same)), "{same}");
        }
        assert_eq!(&*first.audience, "https://other.example.net");
    }
}
