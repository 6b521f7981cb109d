//! From the name an account gave to the addresses to try, in order (RFC 3263).
//!
//! | the target has | transports | addresses and ports |
//! | --- | --- | --- |
//! | a numeric host | see below | itself, the port given or the transport's own |
//! | a port | see below | A and AAAA, that port |
//! | a name, and no transport or TLS | by NAPTR: `SIPS+D2T`, `SIP+D2T`, `SIP+D2U`, by order and preference | SRV of what they name |
//! | a name with a transport, or without NAPTR | by SRV: `_sips._tcp`, `_sip._tcp`, `_sip._udp` | SRV, by priority and weight |
//! | a name without SRV | see below | A and AAAA, the transport's own port |
//!
//! Only transports that the operator enabled are followed, and for `sips:` and `transport=tls` TLS alone. NAPTR records of no SIP service are as none (RFC 3263
//! §4.1). A domain whose services are of other transports is looked up by SRV all the same, and then given up; one whose service has no SRV records, by SRV and
//! then by address, in that service's transport. Where it is not known whether there are NAPTR records, the usual SRV records are followed as far as TLS alone
//! is spoken, or once that question has been answered with errors alone for a minute: some name servers have nothing else for a type that they do not know (RFC
//! 4074 §4.3). Nothing else is. Without SRV the transport is the one named, or each that the operator enabled: TLS, then TCP, then UDP; port 5061 means TLS and
//! 5060 a transport in the clear, as far as those are enabled. A name in the hosts file, and `localhost`, never reaches DNS.
//!
//! The addresses of several servers are asked for at once, as far as their questions have places ([`super::questions`]). Of a name's IPv4 and IPv6 addresses
//! those that are known go first ([`super::addresses`]). How a name server is asked is told in [`super::name_server`], and how much at once in [`super::questions`].
//!
//! Invariant: every address given has passed [`Reach`] after it was resolved; a resolution ends within
//! [`RESOLVE_TIMEOUT`]. Additions by DNS are bounded by [`MAX_SERVICES`], [`MAX_SERVERS`] and [`MAX_CANDIDATES`], and one answer of it in
//! [`super::cache`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::{timeout, timeout_at};

use super::addresses::{Answer, Known, Patience, gather};
use super::answer_size::RECORDS_MAX;
pub use super::cache::{MAX_TTL, MIN_TTL};
use super::name_files::Names;
use super::name_server::{is_silence, name_server, options};
use super::naptr::{self, Service};
use super::questions::{BRIEF, OfOneName, Questions, Requester};
use super::srv::{self, Server};
use crate::config::{self, Transports};
use crate::limits::counted_as;
use crate::net::Transport;
use crate::net::address_policy::{Reach, Refused};
use crate::net::udp::{routes_from, sends_to};

/// A resolution takes at most this long, whatever DNS does; then it is [`ResolveError::Timeout`].
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// SRV records of one target that are followed, as many as are kept of an answer; the rest, by order, are not tried.
pub const MAX_SERVERS: usize = RECORDS_MAX;
/// Services of one domain's NAPTR records that are followed; the rest, by order, are not tried.
const MAX_SERVICES: usize = 6;
/// Addresses given for one target; the rest, by order, are not tried.
pub const MAX_CANDIDATES: usize = 128;

/// The target that an account named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A host name, an IPv4 address in canonical dotted form, or an IPv6 address in brackets.
    pub host: Box<str>,
    /// The port, when one was named.
    pub port: Option<u16>,
    /// The transport, when one was named (`;transport=`, or TLS for `sips:`).
    pub transport: Option<Transport>,
}

/// One address to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The address.
    pub address: SocketAddr,
    /// The transport.
    pub transport: Transport,
    /// How good it is, by transport and priority: lower is better, and among equals none is.
    pub rank: u16,
}

/// The addresses of a target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    /// The addresses to try, best first; never empty.
    pub candidates: Vec<Candidate>,
    /// How long this holds, from [`MIN_TTL`] to [`MAX_TTL`].
    pub ttl: Duration,
    /// Whether these are all addresses; else a question was not answered, which [`Resolver::resolve_whole`] waits for, or there are more than
    /// are followed.
    pub is_whole: bool,
}

impl Resolution {
    /// The target's addresses, best first, each once.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = Vec::new();
        for Candidate { address, .. } in &self.candidates {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses
    }

    /// The same where a question was not answered: it is asked for again soon.
    fn in_part(self) -> Self {
        Self { is_whole: false, ttl: MIN_TTL, ..self }
    }
}

/// Why a target has no address to try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The policy forbids every address it has: answered 403, not tried again.
    #[error(transparent)]
    NotAllowed(#[from] Refused),
    /// The text is no host name and no address in canonical form: answered 422, not tried again.
    #[error("it is not a host name or a numeric address in canonical form")]
    NotAHost,
    /// The name does not exist or has no address: tried again later.
    #[error("the name does not exist or has no address")]
    NoSuchDomain,
    /// The domain serves none of the transports that the operator enabled: not tried again soon.
    #[error("no transport that this relay has enabled leads there")]
    NoUsableTransport,
    /// DNS did not answer in time: tried again.
    #[error("the name servers did not answer in time")]
    Timeout,
    /// DNS answered that it cannot answer, or cannot be asked: tried again.
    #[error("the name servers cannot answer")]
    Unavailable,
}

/// Resolves targets; cheap to clone, with one cache.
#[derive(Clone)]
pub struct Resolver {
    names: Arc<Names>,
    questions: Arc<Questions>,
    /// The requesters whose shares a question takes; none where the relay asks for itself.
    requesters: Arc<[Requester]>,
    /// The App by whose key the names came, which is counted as well.
    app: Option<Arc<str>>,
    /// The turns of the hosts that one name leads to.
    hosts: Option<Arc<OfOneName>>,
    reach: Reach,
    transports: Transports,
    /// The address of the one socket for datagrams, where its family limits them.
    datagrams_from: Option<IpAddr>,
}

impl Resolver {
    /// Uses the system's name servers and hosts file. Fails with [`ResolveError::Unavailable`] only when no resolver
    /// can be built; a system without name servers still resolves numeric hosts and the hosts file.
    pub fn new(reach: Reach, transports: Transports) -> Result<Self, ResolveError> {
        let names = Names::of_system(options()).map_err(|_| ResolveError::Unavailable)?;
        Ok(Self::of(names, reach, transports))
    }

    /// Uses these name servers in place of the system's, each asked over UDP and then TCP, beside the hosts file. Fails as
    /// [`Resolver::new`].
    pub fn with_nameservers(
        addresses: &[SocketAddr],
        reach: Reach,
        transports: Transports,
    ) -> Result<Self, ResolveError> {
        let servers = addresses.iter().map(|address| name_server(*address)).collect();
        Self::with_config(ResolverConfig::from_name_servers(servers), reach, transports)
    }

    /// Uses one name server, asked over UDP and then TCP, beside the hosts file.
    pub fn with_nameserver(address: SocketAddr, reach: Reach, transports: Transports) -> Result<Self, ResolveError> {
        Self::with_nameservers(&[address], reach, transports)
    }

    pub(super) fn with_config(
        config: ResolverConfig,
        reach: Reach,
        transports: Transports,
    ) -> Result<Self, ResolveError> {
        let names = Names::with(config, options()).map_err(|_| ResolveError::Unavailable)?;
        Ok(Self::of(names, reach, transports))
    }

    fn of(names: Names, reach: Reach, transports: Transports) -> Self {
        let (questions, requesters) = (Arc::default(), Arc::new([]));
        let (app, hosts, datagrams_from) = (None, None, None);
        Self { names: Arc::new(names), questions, requesters, app, hosts, reach, transports, datagrams_from }
    }

    /// The same for a relay that sends its datagrams from this address.
    pub fn sending_from(self, datagrams_from: IpAddr) -> Self {
        Self { datagrams_from: Some(datagrams_from), ..self }
    }

    /// Leaves the addresses to which the relay can send: its one socket for datagrams may know IPv4 alone, or this machine alone. Where it has a way to some
    /// addresses, those to which it has none are left out as well (RFC 6724 §5, rule 1), as on a machine with IPv6 alone: that a datagram goes nowhere is
    /// found out by silence, and a connection's failure at once. Fails with [`ResolveError::NoUsableTransport`] when nothing is left.
    pub fn sendable(&self, found: Resolution) -> Result<Resolution, ResolveError> {
        let mut candidates = found.candidates;
        if let Some(from) = self.datagrams_from {
            let is_datagram = |it: &Candidate| it.transport == Transport::Udp;
            candidates.retain(|it| !is_datagram(it) || sends_to(from, it.address.ip()));
            let has_way = |it: &Candidate| routes_from(from, it.address.ip());
            if candidates.iter().any(|it| is_datagram(it) && has_way(it)) {
                candidates.retain(|it| !is_datagram(it) || has_way(it));
            }
        }
        let is_none = candidates.is_empty();
        if is_none { Err(ResolveError::NoUsableTransport) } else { Ok(Resolution { candidates, ..found }) }
    }

    /// The same for names that others have chosen: a question takes the share of the first of `requesters` that has room.
    pub fn asked_by(&self, requesters: impl Into<Arc<[Requester]>>) -> Self {
        Self { requesters: requesters.into(), ..self.clone() }
    }

    /// Likewise for names that came from this address.
    pub fn asked_by_source(&self, source: IpAddr) -> Self {
        self.asked_by([Requester::Source(counted_as(source))])
    }

    /// Likewise for names that came with the key of this App.
    pub fn asked_by_app(&self, app: &str, source: IpAddr) -> Self {
        Self { app: Some(app.into()), ..self.asked_by_source(source) }
    }

    /// Whether the names are chosen by others than the operator.
    pub(super) fn asks_for_others(&self) -> bool {
        !self.requesters.is_empty()
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// Takes the system's files about names again when they change, for ever; give it a task of its own. Each look tells what is
    /// the matter with them, and whether the name servers answer.
    pub async fn watch_files(self, told: impl Fn(Vec<String>)) {
        self.names.watch(told).await;
    }

    /// The addresses of `target`, best first. `seed` decides among SRV records of one priority.
    pub async fn resolve(&self, target: &Target, seed: u64) -> Result<Resolution, ResolveError> {
        self.resolve_with(target, seed, Patience::Brief).await
    }

    /// Likewise all addresses, also those that DNS is slow to tell.
    pub async fn resolve_whole(&self, target: &Target, seed: u64) -> Result<Resolution, ResolveError> {
        self.resolve_with(target, seed, Patience::Whole).await
    }

    /// The same for who judges a source by the addresses, and believes it at once when one of them `is_sought`: after `limit` those that
    /// are known by then.
    pub async fn resolve_sought(
        &self,
        target: &Target,
        seed: u64,
        limit: Duration,
        is_sought: impl Fn(IpAddr) -> bool,
    ) -> Result<Resolution, ResolveError> {
        let until = tokio::time::Instant::now() + limit;
        let found = timeout_at(until, self.resolve(target, seed)).await.unwrap_or(Err(ResolveError::Timeout))?;
        if found.is_whole || found.candidates.iter().any(|candidate| is_sought(candidate.address.ip())) {
            return Ok(found);
        }
        match timeout_at(until, self.resolve_whole(target, seed)).await {
            Ok(Ok(whole)) => Ok(whole),
            Ok(Err(_)) | Err(_) => Ok(found),
        }
    }

    async fn resolve_with(&self, target: &Target, seed: u64, wait: Patience) -> Result<Resolution, ResolveError> {
        let until = tokio::time::Instant::now() + RESOLVE_TIMEOUT;
        let steps = async {
            let found = self.find(target, seed, wait).await?;
            let is_whole = found.is_whole;
            match self.allowed(found) {
                // All that is known is forbidden, and the rest may not be.
                Err(refused @ ResolveError::NotAllowed(_)) if !is_whole => {
                    let whole = timeout_at(until, self.find(target, seed, Patience::Whole)).await;
                    whole.ok().and_then(Result::ok).map_or(Err(refused), |found| self.allowed(found))
                }
                judged => judged,
            }
        };
        timeout_at(until, steps).await.unwrap_or(Err(ResolveError::Timeout))
    }

    /// The addresses of a target, also those that are forbidden.
    async fn find(&self, target: &Target, seed: u64, wait: Patience) -> Result<Resolution, ResolveError> {
        let host = Host::parse(&target.host).ok_or(ResolveError::NotAHost)?;
        match (host, target.port) {
            (Host::Numeric(ip), port) => self.at(&whole(vec![ip]), port, target.transport),
            (Host::Name(name), Some(port)) => {
                self.at(&self.addresses(&name, wait).await?, Some(port), target.transport)
            }
            (Host::Name(name), None) => self.by_name(&name, target.transport, seed, wait).await,
        }
    }

    /// Leaves what the policy allows; fails when that is nothing.
    fn allowed(&self, found: Resolution) -> Result<Resolution, ResolveError> {
        let mut candidates = Vec::new();
        let mut refused = None;
        for candidate in &found.candidates {
            match self.reach.check(candidate.address) {
                Ok(address) => candidates.push(Candidate { address, ..*candidate }),
                Err(why) => refused = refused.or(Some(why)),
            }
        }
        let rest = candidates.split_off(candidates.len().min(MAX_CANDIDATES));
        let ips: BTreeSet<_> = candidates.iter().map(|candidate| candidate.address.ip()).collect();
        let is_whole = found.is_whole && rest.iter().all(|candidate| ips.contains(&candidate.address.ip()));
        match (candidates.is_empty(), refused) {
            (true, Some(why)) => Err(why.into()),
            (true, None) => Err(ResolveError::NoSuchDomain),
            (false, _) => Ok(Resolution { candidates, ttl: found.ttl.clamp(MIN_TTL, MAX_TTL), is_whole }),
        }
    }

    /// A name without a port: SRV first, then A and AAAA.
    async fn by_name(
        &self,
        name: &Name,
        wanted: Option<Transport>,
        seed: u64,
        wait: Patience,
    ) -> Result<Resolution, ResolveError> {
        if let Some(ips) = self.in_hosts(name) {
            return self.at(&whole(ips), None, wanted);
        }
        let usable = self.usable(None, wanted)?;
        let ask = |transport| async move {
            if usable.contains(&transport) { self.servers(service_name(name, transport)).await } else { Ok(None) }
        };
        let (services, tls, tcp, udp) =
            tokio::join!(self.services(name, wanted), ask(Transport::Tls), ask(Transport::Tcp), ask(Transport::Udp));
        let (services, unanswered) = match services {
            // If TLS alone may be spoken, the usual service is nothing weaker than another one may be.
            Err(why) if usable == [Transport::Tls] || self.always_fails(name, RecordType::NAPTR) => (None, Some(why)),
            services => (services?, None),
        };
        if let Some((services, ttl)) = &services {
            let usable = services.iter().filter(|service| usable.contains(&service.transport));
            if let Some(found) = self.of_services(usable, *ttl, seed, wait).await? {
                return Ok(found);
            }
        }
        let mut ttl = MAX_TTL;
        let mut groups = Vec::new();
        for (transport, answer) in [(Transport::Tls, tls), (Transport::Tcp, tcp), (Transport::Udp, udp)] {
            // One question unanswered says nothing about the service: to go on would be to fall back to a weaker one.
            let Some((records, valid)) = answer? else { continue };
            ttl = ttl.min(valid);
            groups.push((transport, records));
        }
        match (groups.is_empty(), services, unanswered) {
            (false, _, None) => self.of_servers(groups, ttl, seed, wait).await,
            (false, _, Some(_)) => self.of_servers(groups, ttl, seed, wait).await.map(Resolution::in_part),
            // Whether the domain serves by another name is not known, and its own addresses may be anybody's.
            (true, _, Some(why)) => Err(why),
            (true, Some((services, _)), None) => {
                let usable = services.iter().find(|service| usable.contains(&service.transport));
                let Service { transport, .. } = usable.ok_or(ResolveError::NoUsableTransport)?;
                self.at(&self.addresses(name, wait).await?, None, Some(*transport))
            }
            (true, None, None) => self.at(&self.addresses(name, wait).await?, None, wanted),
        }
    }

    /// The services that a domain's NAPTR records offer, best first; `None` when they offer none that is known, or when the account named
    /// a transport in the clear, which leaves nothing to ask (RFC 3263 §4.1).
    async fn services(
        &self,
        name: &Name,
        wanted: Option<Transport>,
    ) -> Result<Option<(Vec<Service>, Duration)>, ResolveError> {
        if !matches!(wanted, None | Some(Transport::Tls)) {
            return Ok(None);
        }
        let Some((records, ttl)) = self.lookup(name.clone(), RecordType::NAPTR).await? else { return Ok(None) };
        let records = records.into_iter().filter_map(|record| match record {
            RData::NAPTR(record) => Some(record),
            _ => None,
        });
        let services = naptr::services(records.collect());
        Ok((!services.is_empty()).then_some((services, ttl)))
    }

    /// The addresses behind services, in their order; `None` when none of them has a SRV record.
    async fn of_services<'a>(
        &self,
        services: impl Iterator<Item = &'a Service>,
        mut ttl: Duration,
        seed: u64,
        wait: Patience,
    ) -> Result<Option<Resolution>, ResolveError> {
        let mut groups = Vec::new();
        for Service { transport, replacement } in services.take(MAX_SERVICES) {
            if let Some((records, valid)) = self.servers(Some(replacement.clone())).await? {
                ttl = ttl.min(valid);
                groups.push((*transport, records));
            }
        }
        if groups.is_empty() { Ok(None) } else { self.of_servers(groups, ttl, seed, wait).await.map(Some) }
    }

    /// The addresses of the servers of SRV answers, in their order; a server without an address is passed over, and one whose addresses could
    /// not be asked for may have some.
    async fn of_servers(
        &self,
        groups: Vec<(Transport, Vec<Server>)>,
        mut ttl: Duration,
        seed: u64,
        wait: Patience,
    ) -> Result<Resolution, ResolveError> {
        let mut candidates = Vec::new();
        // A server that has no address says nothing of one that could not be asked for.
        let mut failure = None;
        let mut is_whole = groups.iter().all(|(_, records)| records.len() < RECORDS_MAX);
        let mut rank = 0;
        let mut class = None;
        let ordered = groups.into_iter().enumerate().flat_map(|(group, (transport, records))| {
            let ordered = srv::order(records, seed, MAX_SERVERS).into_iter();
            ordered.filter_map(move |server| match Host::parse(&server.host)? {
                Host::Name(name) if server.port != 0 => Some((group, transport, server, name)),
                _ => None,
            })
        });
        let mut ordered: Vec<_> = ordered.collect();
        let rest = ordered.split_off(ordered.len().min(MAX_SERVERS));
        // Many servers may be one host. The best are asked for first.
        let mut hosts = BTreeSet::new();
        let names: Vec<_> = ordered.iter().map(|(.., name)| name).filter(|name| hosts.insert(*name)).collect();
        is_whole &= rest.iter().all(|(.., name)| hosts.contains(name));
        let by_turns = Self { hosts: Some(Arc::new(OfOneName::new())), ..self.clone() };
        let asked = names.into_iter().map(async |name| (name.clone(), by_turns.addresses(name, wait).await));
        let known: BTreeMap<_, _> = join_all(asked).await.into_iter().collect();
        for (group, transport, server, name) in ordered {
            if class.replace((group, server.priority)).is_some_and(|before| before != (group, server.priority)) {
                rank += 1;
            }
            match &known[&name] {
                Ok(known) => {
                    ttl = ttl.min(known.ttl);
                    is_whole &= known.is_whole;
                    let addresses = known.ips.iter().map(|ip| SocketAddr::new(*ip, server.port));
                    candidates.extend(addresses.map(|address| Candidate { address, transport, rank }));
                }
                Err(ResolveError::NoSuchDomain) => {}
                Err(why) => failure = Some(why.clone()),
            }
        }
        let found = Resolution { candidates, ttl, is_whole };
        match (found.candidates.is_empty(), failure) {
            // That there is no such service is said by the domain (RFC 2782), and no setting of the operator's changes it.
            (true, failure) => Err(failure.unwrap_or(ResolveError::NoSuchDomain)),
            (false, Some(_)) => Ok(found.in_part()),
            (false, None) => Ok(found),
        }
    }

    /// Every usable transport at these addresses: by transport first, so that TLS is tried everywhere before another.
    fn at(&self, known: &Known, port: Option<u16>, wanted: Option<Transport>) -> Result<Resolution, ResolveError> {
        let candidates = self.usable(port, wanted)?.iter().zip(0..).flat_map(|(transport, rank)| {
            let port = port.unwrap_or(transport.default_port());
            known.ips.iter().map(move |ip| Candidate {
                address: SocketAddr::new(*ip, port),
                transport: *transport,
                rank,
            })
        });
        Ok(Resolution { candidates: candidates.collect(), ttl: known.ttl, is_whole: known.is_whole })
    }

    /// The transports to try, best first; never empty.
    fn usable(&self, port: Option<u16>, wanted: Option<Transport>) -> Result<&'static [Transport], ResolveError> {
        use Transport::{Tcp, Tls, Udp};
        let Transports { tls, tcp, udp } = self.transports;
        let tls = tls && !(port == Some(5060) && (tcp || udp) && wanted.is_none());
        let clear = !(port == Some(5061) && tls && wanted.is_none());
        let fits = |transport| wanted.is_none_or(|wanted| wanted == transport);
        match (tls && fits(Tls), tcp && clear && fits(Tcp), udp && clear && fits(Udp)) {
            (true, true, true) => Ok(&[Tls, Tcp, Udp]),
            (true, true, false) => Ok(&[Tls, Tcp]),
            (true, false, true) => Ok(&[Tls, Udp]),
            (true, false, false) => Ok(&[Tls]),
            (false, true, true) => Ok(&[Tcp, Udp]),
            (false, true, false) => Ok(&[Tcp]),
            (false, false, true) => Ok(&[Udp]),
            (false, false, false) => Err(ResolveError::NoUsableTransport),
        }
    }

    /// The SRV records of a service; `None` when there are none.
    async fn servers(&self, owner: Option<Name>) -> Result<Option<(Vec<Server>, Duration)>, ResolveError> {
        let Some(owner) = owner else { return Ok(None) };
        let Some((records, ttl)) = self.lookup(owner, RecordType::SRV).await? else { return Ok(None) };
        let servers = records.iter().filter_map(|record| match record {
            RData::SRV(srv) => Some(Server {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                host: srv.target.to_ascii().trim_end_matches('.').to_ascii_lowercase(),
            }),
            _ => None,
        });
        let servers: Vec<_> = servers.collect();
        Ok((!servers.is_empty()).then_some((servers, ttl)))
    }

    /// The addresses of a name.
    pub(crate) async fn addresses(&self, name: &Name, wait: Patience) -> Result<Known, ResolveError> {
        if let Some(ips) = self.in_hosts(name) {
            return Ok(whole(ips));
        }
        let ask = |kind| {
            let (it, name) = (self.clone(), name.clone());
            async move { it.lookup(name, kind).await }
        };
        let known = gather(ask(RecordType::A), ask(RecordType::AAAA), wait).await?;
        let mut known = known.ok_or(ResolveError::NoSuchDomain)?;
        // A name that is half known is asked for again soon, unless the other half has been an error for long.
        let is_soon =
            !known.is_whole && !self.always_fails(name, RecordType::A) && !self.always_fails(name, RecordType::AAAA);
        known.ttl = known.ttl.min(if is_soon { MIN_TTL } else { MAX_TTL });
        // Of so many records others may have been left out.
        let v4 = known.ips.iter().filter(|ip| ip.is_ipv4()).count();
        known.is_whole &= v4.max(known.ips.len() - v4) < RECORDS_MAX;
        Ok(known)
    }

    /// Whether a question about a name has been answered with errors alone for some time.
    fn always_fails(&self, name: &Name, kind: RecordType) -> bool {
        self.names.known().always_fails(&Query::query(name.clone(), kind))
    }

    /// The addresses that the hosts file has for a name; `localhost` is known without it (RFC 6761 §6.3).
    pub(super) fn in_hosts(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let lookups = self.names.with_hosts(|hosts| {
            let ask = |kind| hosts.lookup_static_host(&Query::query(name.clone(), kind));
            [ask(RecordType::A), ask(RecordType::AAAA)]
        });
        let answers = lookups.iter().flatten().flat_map(|lookup| lookup.answers());
        let ips: Vec<_> = answers.filter_map(|record| record.data.ip_addr()).take(MAX_CANDIDATES).collect();
        match (ips.is_empty(), name.is_localhost()) {
            (false, _) => Some(ips),
            (true, true) => Some(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
            (true, false) => None,
        }
    }

    /// The addresses that may be dialled.
    pub(crate) fn reach(&self) -> &Reach {
        &self.reach
    }

    /// One question; `None` when the answer is that there is nothing.
    pub(super) async fn lookup(&self, name: Name, kind: RecordType) -> Answer<ResolveError> {
        let known = self.names.known();
        let query = Query::query(name, kind);
        let answer = match known.remembered(&query) {
            Some(found) => Ok(found),
            None => {
                let place = match &self.hosts {
                    Some(hosts) => Some(hosts.take().await.ok_or(ResolveError::Timeout)?),
                    None => None,
                };
                let turn = self.questions.take(&self.requesters, self.app.as_ref()).await;
                let turn = turn.ok_or(ResolveError::Timeout)?;
                let mut asked = pin!(async {
                    tokio::select! {
                        answer = known.ask(&query) => answer,
                        () = turn.is_over() => Err(NetError::Timeout),
                    }
                });
                let answer = match timeout(BRIEF, &mut asked).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        drop(place);
                        asked.await
                    }
                };
                if answer.as_ref().is_err_and(is_silence) {
                    turn.was_silent();
                }
                answer
            }
        };
        match answer {
            Ok(found) => Ok(found),
            Err(error) => {
                if is_silence(&error) {
                    self.names.note_silence();
                }
                match error {
                    NetError::Timeout => Err(ResolveError::Timeout),
                    _ => Err(ResolveError::Unavailable),
                }
            }
        }
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolver").field("transports", &self.transports).finish_non_exhaustive()
    }
}

/// Addresses that no name server was asked for.
fn whole(ips: Vec<IpAddr>) -> Known {
    Known { ips, ttl: MAX_TTL, is_whole: true }
}

/// The owner of the SRV records of a domain for a transport; `None` when the name would be too long.
fn service_name(name: &Name, transport: Transport) -> Option<Name> {
    let service = match transport {
        Transport::Tls => "_sips._tcp",
        Transport::Tcp => "_sip._tcp",
        Transport::Udp => "_sip._udp",
    };
    Name::from_ascii(service).and_then(|service| service.append_name(name)).ok()
}

enum Host {
    Numeric(IpAddr),
    Name(Name),
}

impl Host {
    /// Only canonical forms: an octal, hexadecimal or decimal address is neither numeric nor a name.
    fn parse(text: &str) -> Option<Self> {
        let host = config::canonical_host(text.strip_suffix('.').unwrap_or(text))?;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = bare.parse() {
            return Some(Host::Numeric(ip));
        }
        dns_name(&host).map(Host::Name)
    }
}

/// A name as DNS has it; `None` when it is none.
pub(super) fn dns_name(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests;
