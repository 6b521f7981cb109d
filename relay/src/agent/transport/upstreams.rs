//! The SIP servers that accounts name: a number for each, and the way to reach it.
//!
//! Invariant: bindings with the same registrar, proxy and domain share one [`UpstreamId`], so that they can share its flow. A number is never used again. An
//! upstream that no binding uses is forgotten.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use sip::id::UpstreamId;
use sip::message::{Scheme, Uri};

use crate::agent::transport::targets::Targets;
use crate::agent::transport::trusted::{Believed, NAMELESS, NameAddresses, Trusted};
use crate::limits::counted_as;
use crate::lock::Mutex;
use crate::net::Transport;
use crate::net::dns::resolve::{Candidate, MAX_CANDIDATES, Target};
use crate::net::tls::ClientTls;
use crate::vault::record::Account;

/// How a SIP server is reached, and which names its requests may come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The next hop of requests: the outbound proxy, the registrar or the AOR's domain, whichever is named first.
    next_hop: Hop,
    /// Further hosts whose addresses are trusted, beside the next hop's: the registrar and the AOR's domain.
    others: Vec<Hop>,
    /// The Request-URI of REGISTER.
    registrar: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Hop {
    host: Box<str>,
    port: Option<u16>,
    transport: Option<Transport>,
}

/// Why an account leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoute {
    /// A URI of it is not one of SIP.
    #[error("a URI of the account is not one of SIP")]
    NotSip,
    /// The URI names a transport that is not known.
    #[error("a URI of the account names a transport that is not known")]
    UnknownTransport,
}

impl Route {
    /// The route of an account.
    ///
    /// # Errors
    /// [`NoRoute`] when one of its URIs cannot be used.
    pub fn of(account: &Account) -> Result<Self, NoRoute> {
        Self::to(account.aor.expose(), account.registrar.as_deref(), account.outbound_proxy.as_deref())
    }

    /// The route of an AOR whose registrar and proxy may be named beside it.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn to(aor: &str, registrar: Option<&str>, proxy: Option<&str>) -> Result<Self, NoRoute> {
        let aor = Uri::parse(aor).ok_or(NoRoute::NotSip)?;
        let mut domain = Hop::of(&aor)?;
        // A transport parameter has no meaning in an AOR, and its port is seldom the registrar's.
        if aor.scheme == Scheme::Sip {
            domain.transport = None;
        }
        let mut hops = vec![domain];
        for uri in [registrar, proxy].into_iter().flatten() {
            let uri = Uri::parse(uri).ok_or(NoRoute::NotSip)?;
            hops.push(Hop::of(&uri)?);
        }
        if aor.scheme == Scheme::Sips {
            // The default is TLS, too (RFC 3261 §26.2.2).
            for hop in &mut hops {
                hop.transport.get_or_insert(Transport::Tls);
            }
        }
        let Some(next_hop) = hops.pop() else { return Err(NoRoute::NotSip) };
        let registrar = match registrar.and_then(Uri::parse) {
            Some(uri) => without_user(&uri),
            None => without_user(&aor),
        };
        hops.retain(|hop| *hop != next_hop);
        Ok(Self { next_hop, others: hops, registrar })
    }

    /// The route of a registration that only passes through: its AOR, the Request-URI of its REGISTER, and the Route that
    /// is left when the relay's own is taken off.
    ///
    /// # Errors
    /// [`NoRoute`] when one of the URIs cannot be used.
    pub fn through(aor: &str, registrar: &str, proxy: Option<&str>) -> Result<Self, NoRoute> {
        Self::to(aor, Some(registrar), proxy)
    }

    /// The Request-URI of REGISTER.
    pub fn registrar(&self) -> &str {
        &self.registrar
    }

    /// The name to resolve for a flow.
    pub fn target(&self) -> Target {
        self.next_hop.target()
    }

    /// The domain that a TLS certificate must be valid for (RFC 5922 §4).
    pub fn verified_domain(&self) -> &str {
        &self.next_hop.host
    }

    /// The host and the port where requests go: one server, however else its URI is written.
    pub fn server(&self) -> String {
        match self.next_hop.port {
            Some(port) => format!("{}:{port}", self.next_hop.host.trim_end_matches('.')),
            None => self.next_hop.host.trim_end_matches('.').into(),
        }
    }

    /// The number of its names.
    fn names(&self) -> usize {
        1 + self.others.len()
    }

    /// The other names to resolve, for the addresses whose requests are trusted.
    pub fn other_targets(&self) -> impl Iterator<Item = Target> {
        self.others.iter().map(Hop::target)
    }
}

impl Hop {
    fn of(uri: &Uri<'_>) -> Result<Self, NoRoute> {
        let named = uri.transport().map(str::to_ascii_lowercase);
        let transport = match (uri.scheme, named.as_deref()) {
            (Scheme::Other, _) => return Err(NoRoute::NotSip),
            // `sips:` is TLS whatever transport it runs over (RFC 3261 §26.2.2).
            (Scheme::Sips, None | Some("tcp" | "tls")) => Some(Transport::Tls),
            (Scheme::Sip, None) => None,
            (Scheme::Sip, Some("tls")) => Some(Transport::Tls),
            (Scheme::Sip, Some("tcp")) => Some(Transport::Tcp),
            (Scheme::Sip, Some("udp")) => Some(Transport::Udp),
            _ => return Err(NoRoute::UnknownTransport),
        };
        Ok(Self { host: uri.host.to_ascii_lowercase().into(), port: uri.port, transport })
    }

    fn target(&self) -> Target {
        Target { host: self.host.clone(), port: self.port, transport: self.transport }
    }
}

/// `sip:host:port` with the parameters but without the user (RFC 3261 §10.2).
fn without_user(uri: &Uri<'_>) -> Box<str> {
    let scheme = if uri.scheme == Scheme::Sips { "sips" } else { "sip" };
    match uri.port {
        Some(port) => format!("{scheme}:{}:{port}", uri.host).into(),
        None => format!("{scheme}:{}", uri.host).into(),
    }
}

/// All upstreams in use; cheap to clone.
#[derive(Clone, Default)]
pub struct Upstreams(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    /// TLS client whose sessions with a server go with its last route; `None` in tests.
    tls: Option<ClientTls>,
    last: u32,
    numbers: HashMap<Arc<Route>, UpstreamId>,
    entries: HashMap<UpstreamId, Entry>,
}

struct Entry {
    route: Arc<Route>,
    bindings: usize,
    /// The shards that have dialled it: one bit for each.
    shards: u128,
    /// Its addresses, and where flows lead.
    targets: Targets,
    /// When its names are to be resolved again.
    stale_at: Option<Instant>,
    /// Until when what DNS has told of its names holds; `None`: nobody knows, or it is over.
    holds_until: Option<Instant>,
    /// DNS may tell otherwise by now.
    is_over: bool,
    /// The addresses whose requests are believed.
    trusted: Trusted,
    /// The addresses of its next hop by the last answer of DNS, and when that came.
    last: Option<(Instant, Vec<Candidate>)>,
    /// Since when DNS says that there is no such name.
    nameless_since: Option<Instant>,
    /// The sources that asked for it, as the limits count them; the latest [`ASKERS_MAX`].
    asked_by: Vec<IpAddr>,
    /// An account has been registered at it.
    proven: bool,
    /// It has granted a registration in this run.
    granted: bool,
    /// The shards at which it failed an account since another one was last told that it serves: one bit for each.
    failed_at: u128,
}

impl Entry {
    fn believed(&self) -> Believed {
        let Believed { addresses, is_whole } = self.trusted.believed(self.route.names());
        Believed { addresses, is_whole: is_whole && !self.is_over }
    }
}

/// How old an answer of DNS may be that is used because none comes (RFC 8767 §5 recommends one to three days); then the SIP server has no address.
const STALE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Sources that are remembered because they asked for one SIP server.
const ASKERS_MAX: usize = 8;

/// The share that a dial takes a place of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DialShare {
    /// The room that is kept for SIP servers at which accounts are registered.
    Proven,
    /// The share of a source that asked for it: the first of these that has room, so that no later asker takes it away.
    Of(Vec<IpAddr>),
}

impl Upstreams {
    /// None is in use. `tls` keeps sessions of those alone that are.
    pub fn new(tls: ClientTls) -> Self {
        Self(Arc::new(Mutex::new(Table { tls: Some(tls), ..Table::default() })))
    }

    /// The number of a route, for one more binding that was registered there before.
    pub fn acquire(&self, route: Route) -> UpstreamId {
        let id = self.acquire_for(IpAddr::V4(Ipv4Addr::UNSPECIFIED), route);
        self.prove(id);
        id
    }

    /// The number of a route, for one more binding of an earlier run that proves nothing: it has a share of its own.
    pub fn acquire_kept(&self, route: Route) -> UpstreamId {
        let mut hasher = DefaultHasher::new();
        route.next_hop.host.hash(&mut hasher);
        let own = Ipv6Addr::from_bits(u128::from(hasher.finish()) << 64);
        self.acquire_for(IpAddr::V6(own), route)
    }

    /// The number of a route, for one more binding that somebody asks for.
    pub fn acquire_for(&self, asked_by: IpAddr, route: Route) -> UpstreamId {
        let asked_by = counted_as(asked_by);
        let mut table = self.lock();
        let table = &mut *table;
        if let Some(id) = table.numbers.get(&route).copied() {
            if let Some(entry) = table.entries.get_mut(&id) {
                entry.bindings += 1;
                entry.asked_by.retain(|other| *other != asked_by);
                entry.asked_by.truncate(ASKERS_MAX - 1);
                entry.asked_by.insert(0, asked_by);
            }
            return id;
        }
        table.last = table.last.wrapping_add(1);
        let (id, route) = (UpstreamId(table.last), Arc::new(route));
        table.numbers.insert(route.clone(), id);
        if let Some(tls) = &table.tls {
            tls.want(route.verified_domain());
        }
        table.entries.insert(
            id,
            Entry {
                route,
                bindings: 1,
                shards: 0,
                targets: Targets::default(),
                stale_at: None,
                holds_until: None,
                is_over: false,
                trusted: Trusted::default(),
                last: None,
                nameless_since: None,
                asked_by: vec![asked_by],
                proven: false,
                granted: false,
                failed_at: 0,
            },
        );
        id
    }

    /// Something more uses a server that a binding uses.
    pub(crate) fn keep(&self, id: UpstreamId) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.bindings += 1;
        }
    }

    /// A binding less uses the server.
    pub fn release(&self, id: UpstreamId) {
        let mut table = self.lock();
        let Some(entry) = table.entries.get_mut(&id) else { return };
        entry.bindings -= 1;
        if entry.bindings == 0
            && let Some(entry) = table.entries.remove(&id)
        {
            table.numbers.remove(&entry.route);
            if let Some(tls) = &table.tls {
                tls.leave(entry.route.verified_domain());
            }
        }
    }

    /// The route behind a number; `None` when no binding uses it any more.
    pub(crate) fn route(&self, id: UpstreamId) -> Option<Arc<Route>> {
        self.lock().entries.get(&id).map(|entry| entry.route.clone())
    }

    /// An account has been registered at it.
    pub(crate) fn prove(&self, id: UpstreamId) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.proven = true;
        }
    }

    /// The server has failed an account of a shard.
    pub(crate) fn fails(&self, id: UpstreamId, shard: usize) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.failed_at |= 1 << shard;
        }
    }

    /// The server has granted a registration of a shard. Returns the other shards that it has failed, each once.
    pub(crate) fn serves(&self, id: UpstreamId, shard: usize) -> u128 {
        self.lock().entries.get_mut(&id).map_or(0, |entry| {
            entry.granted = true;
            entry.targets.grants(shard);
            std::mem::take(&mut entry.failed_at) & !(1 << shard)
        })
    }

    /// The numbers of the routes whose requests go to this [server](Route::server), in order.
    pub(crate) fn of_server(&self, server: &str) -> Vec<UpstreamId> {
        let table = self.lock();
        let of_it = table.entries.iter().filter(|(_, entry)| entry.route.server() == server);
        let mut of_it: Vec<UpstreamId> = of_it.map(|(id, _)| *id).collect();
        of_it.sort_unstable();
        of_it
    }

    /// Whether this server has granted a registration in this run.
    pub(crate) fn has_granted(&self, server: &str) -> bool {
        self.lock().entries.values().any(|entry| entry.granted && entry.route.server() == server)
    }

    /// The share that a dial of it takes a place of; `None` when no binding uses it any more.
    pub(crate) fn dial_share(&self, id: UpstreamId) -> Option<DialShare> {
        let table = self.lock();
        let entry = table.entries.get(&id)?;
        Some(if entry.proven { DialShare::Proven } else { DialShare::Of(entry.asked_by.clone()) })
    }

    /// A shard dials it, and wants to hear of its addresses from now on.
    pub(crate) fn used_by(&self, id: UpstreamId, shard: usize) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.shards |= 1 << shard;
        }
    }

    /// A shard needs it no more.
    pub(crate) fn unused_by(&self, id: UpstreamId, shard: usize) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.shards &= !(1 << shard);
        }
    }

    /// What DNS has told of its names holds until then.
    pub(crate) fn hold(&self, id: UpstreamId, until: Instant) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            (entry.holds_until, entry.is_over) = (Some(until), false);
        }
    }

    /// Likewise no longer than until then.
    pub(crate) fn hold_at_most(&self, id: UpstreamId, until: Instant) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.holds_until = entry.holds_until.map(|holds| holds.min(until));
        }
    }

    /// The servers of which DNS may tell otherwise by now, once: the shards that use each, and the addresses that they are to believe until DNS is asked
    /// again.
    pub(crate) fn take_over(&self, now: Instant) -> Vec<(UpstreamId, u128, Believed)> {
        let mut table = self.lock();
        let over = table.entries.iter_mut().filter(|(_, entry)| entry.holds_until.is_some_and(|until| until <= now));
        let mut over: Vec<_> = over
            .map(|(id, entry)| {
                (entry.holds_until, entry.is_over) = (None, true);
                (*id, entry.shards, entry.believed())
            })
            .collect();
        over.sort_unstable_by_key(|(id, ..)| *id);
        over
    }

    /// Its names were resolved, or could not be: all are to be resolved again at `stale_at`.
    pub(crate) fn resolve_again(&self, id: UpstreamId, stale_at: Instant) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.stale_at = Some(stale_at);
        }
    }

    /// Likewise no later than at `at`.
    pub(crate) fn resolve_by(&self, id: UpstreamId, at: Instant) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.stale_at = Some(entry.stale_at.map_or(at, |stale_at| stale_at.min(at)));
        }
    }

    /// Takes note of DNS's answers for some of its names: 0 is the next hop, and the [others](Route::other_targets) follow. Returns the shards that
    /// use it, and the addresses that they are to believe.
    pub(crate) fn told(&self, id: UpstreamId, now: Instant, names: &[(usize, NameAddresses)]) -> (u128, Believed) {
        let mut table = self.lock();
        let Some(entry) = table.entries.get_mut(&id) else { return (0, Believed::default()) };
        for (name, told) in names {
            entry.trusted.told(*name, told, now);
        }
        (entry.shards, entry.believed())
    }

    /// The addresses that its shards are to believe, and whether one of these shards has them asked for again and again.
    pub(crate) fn believed(&self, id: UpstreamId) -> (Believed, bool) {
        let table = self.lock();
        let Some(entry) = table.entries.get(&id) else { return (Believed::default(), false) };
        (entry.believed(), entry.shards != 0)
    }

    /// DNS has answered: with these addresses, which may not be all, or that there are none.
    pub(crate) fn answered(&self, id: UpstreamId, now: Instant, candidates: &[Candidate], is_whole: bool) {
        if let Some(entry) = self.lock().entries.get_mut(&id)
            && (is_whole || !candidates.is_empty())
        {
            let mut known = candidates.to_vec();
            if !is_whole && let Some((_, before)) = &entry.last {
                known.extend(before.iter().filter(|earlier| !candidates.contains(earlier)));
                known.truncate(MAX_CANDIDATES);
            }
            if !known.is_empty() {
                entry.targets.named(candidates, &known, now);
            }
            entry.last = (!known.is_empty()).then_some((now, known));
            entry.nameless_since = None;
        }
    }

    /// DNS says that there is no such name. The addresses that it named before are used on for [`NAMELESS`]: a zone that is half loaded says so, too,
    /// or a name server that sees another part of the world.
    pub(crate) fn nameless(&self, id: UpstreamId, now: Instant) {
        if let Some(entry) = self.lock().entries.get_mut(&id)
            && *entry.nameless_since.get_or_insert(now) + NAMELESS <= now
        {
            entry.last = None;
        }
    }

    /// DNS says nothing. That there is no such name was not said all the time, then.
    pub(crate) fn unanswered(&self, id: UpstreamId) {
        if let Some(entry) = self.lock().entries.get_mut(&id) {
            entry.nameless_since = None;
        }
    }

    /// The last answer of DNS; `None` when that is too old.
    pub(crate) fn last_answer(&self, id: UpstreamId, now: Instant) -> Option<Vec<Candidate>> {
        let table = self.lock();
        let last = table.entries.get(&id)?.last.as_ref();
        last.filter(|(at, _)| *at + STALE_MAX > now).map(|(_, candidates)| candidates.clone())
    }

    /// The number of a route that is in use.
    pub(crate) fn number_of(&self, route: &Route) -> Option<UpstreamId> {
        self.lock().numbers.get(route).copied()
    }

    /// The addresses that DNS has named last, however long ago.
    pub(crate) fn last_addresses(&self, id: UpstreamId) -> Vec<SocketAddr> {
        let table = self.lock();
        let last = table.entries.get(&id).and_then(|entry| entry.last.as_ref());
        last.map(|(_, candidates)| candidates.iter().map(|candidate| candidate.address).collect()).unwrap_or_default()
    }

    /// Works with its addresses; `None` when no binding uses it any more.
    pub(crate) fn targets<T>(&self, id: UpstreamId, work: impl FnOnce(&mut Targets) -> T) -> Option<T> {
        self.lock().entries.get_mut(&id).map(|entry| work(&mut entry.targets))
    }

    /// Its names are looked at again no later than `at`, where a flow leads to a worse address than DNS has named.
    pub(crate) fn look_for_better(&self, id: UpstreamId, at: Instant) {
        if let Some(entry) = self.lock().entries.get_mut(&id)
            && let Some((_, known)) = &entry.last
            && entry.targets.is_second_best(known)
        {
            entry.stale_at = Some(entry.stale_at.map_or(at, |stale_at| stale_at.min(at)));
        }
    }

    /// The servers whose names are to be resolved again at `now`, once: they are not due again before they are resolved.
    pub(crate) fn take_stale(&self, now: Instant) -> Vec<(UpstreamId, Arc<Route>)> {
        let mut table = self.lock();
        let due = table.entries.iter_mut().filter(|(_, entry)| entry.stale_at.is_some_and(|at| at <= now));
        let mut due: Vec<_> = due
            .map(|(id, entry)| {
                entry.stale_at = None;
                (*id, entry.route.clone())
            })
            .collect();
        due.sort_unstable_by_key(|(id, _)| *id);
        due
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::{Aor, Password};
    use crate::vault::record::Proof;

    fn account(aor: &str, registrar: Option<&str>, proxy: Option<&str>) -> Account {
        Account {
            aor: Aor::new(aor),
            auth_username: "alice".into(),
            proof: Proof::Password(Password::new("secret")),
            registrar: registrar.map(Into::into),
            outbound_proxy: proxy.map(Into::into),
        }
    }

    fn route(aor: &str, registrar: Option<&str>, proxy: Option<&str>) -> Route {
        Route::of(&account(aor, registrar, proxy)).unwrap()
    }

    #[test]
    fn requests_go_to_the_proxy_else_the_registrar_else_the_domain() {
        let (registrar, proxy) = ("sip:reg.example.com:5080;transport=tcp", "sip:edge.example.com:5061;transport=tls");
        let plain = route("sip:alice@Example.com", None, None);
        assert_eq!((plain.verified_domain(), plain.registrar()), ("example.com", "sip:Example.com"));
        let direct = route("sip:alice@example.com", Some(registrar), None);
        assert_eq!((direct.verified_domain(), direct.registrar()), ("reg.example.com", "sip:reg.example.com:5080"));
        assert_eq!(direct.target().transport, Some(Transport::Tcp));
        let proxied = route("sip:alice@example.com", Some(registrar), Some(proxy));
        assert_eq!((proxied.verified_domain(), proxied.registrar()), ("edge.example.com", "sip:reg.example.com:5080"));
        assert_eq!(proxied.target().port, Some(5061));
        let trusted: Vec<String> = proxied.other_targets().map(|target| target.host.into()).collect();
        assert_eq!(trusted, ["example.com", "reg.example.com"]);
    }

    #[test]
    fn a_secure_account_is_reached_by_tls_alone() {
        assert_eq!(route("sips:alice@example.com", None, None).target().transport, Some(Transport::Tls));
        let unnamed = route("sips:alice@example.com", Some("sip:reg.example.com"), Some("sip:edge.example.com"));
        let transports = unnamed.other_targets().chain([unnamed.target()]).map(|target| target.transport);
        assert!(transports.eq([Some(Transport::Tls); 3]));
        let odd = account("sip:alice@example.com", Some("sip:example.com;transport=carrier-pigeon"), None);
        assert_eq!(Route::of(&odd), Err(NoRoute::UnknownTransport));
        assert_eq!(Route::of(&account("tel:+4930", None, None)), Err(NoRoute::NotSip));
    }

    #[test]
    fn accounts_of_one_server_share_its_number_until_the_last_is_gone() {
        let upstreams = Upstreams::default();
        let of = |name: &str| upstreams.acquire(route(&format!("sip:{name}@example.com"), None, None));
        let (alice, bob) = (of("alice"), of("bob"));
        assert_eq!(alice, bob);
        assert_ne!(upstreams.acquire(route("sip:alice@example.org", None, None)), alice);
        upstreams.release(alice);
        let number = || upstreams.number_of(&route("sip:dave@example.com", None, None));
        assert!(upstreams.route(bob).is_some() && number() == Some(bob));
        upstreams.release(bob);
        assert!(upstreams.route(bob).is_none() && number().is_none());
        assert_ne!(of("carol"), alice, "a number is not used again");
    }

    #[test]
    fn who_asks_too_takes_no_share_away_and_what_was_kept_proves_nothing() {
        let upstreams = Upstreams::default();
        let asker = |n: u8| IpAddr::from([192, 0, 2, n]);
        let of = |id| match upstreams.dial_share(id) {
            Some(DialShare::Of(askers)) => askers,
            other => panic!("{other:?}"),
        };
        let id = upstreams.acquire_for(asker(1), route("sip:alice@example.com", None, None));
        for n in [2, 3, 2] {
            upstreams.acquire_for(asker(n), route("sip:alice@example.com", None, None));
        }
        assert_eq!(of(id), [asker(2), asker(3), asker(1)]);
        for n in 10..200 {
            upstreams.acquire_for(asker(n), route("sip:alice@example.com", None, None));
        }
        assert_eq!(of(id).len(), ASKERS_MAX);
        let kept = |name: &str| upstreams.acquire_kept(route(&format!("sip:alice@{name}"), None, None));
        let (one, other) = (kept("one.test"), kept("other.test"));
        assert_ne!(of(one), of(other));
        upstreams.prove(one);
        assert_eq!(upstreams.dial_share(one), Some(DialShare::Proven));
    }

    #[test]
    fn what_dns_has_told_is_all_there_is_until_it_is_over() {
        let (upstreams, now) = (Upstreams::default(), Instant::now());
        let id = upstreams.acquire(Route::to("sip:alice@example.test", None, None).unwrap());
        let at = |seconds| now + Duration::from_secs(seconds);
        let is_whole = || {
            let told = NameAddresses { addresses: vec![IpAddr::from([192, 0, 2, 1])], is_whole: true };
            upstreams.told(id, now, &[(0, told)]).1.is_whole
        };
        upstreams.hold(id, at(5));
        assert!(is_whole() && upstreams.take_over(at(4)).is_empty());
        let over: Vec<_> =
            upstreams.take_over(at(5)).into_iter().map(|(id, _, believed)| (id, believed.is_whole)).collect();
        assert_eq!(over, [(id, false)]);
        assert!(upstreams.take_over(at(99)).is_empty(), "it is told once");
        assert!(!is_whole(), "another name may have been asked long ago");
        upstreams.hold(id, at(60));
        upstreams.hold_at_most(id, at(90));
        upstreams.hold_at_most(id, at(10));
        assert!(is_whole());
        assert_eq!(upstreams.take_over(at(10)).len(), 1);
    }
}
