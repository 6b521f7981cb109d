//! Opening flows toward SIP servers, and knowing their addresses.
//!
//! A connection is opened in three shares: of who asked for the SIP server, of the address, and of all. So nobody who names
//! silent servers, one after the other or under many names, keeps the diallers from others. UDP opens nothing and waits for
//! nobody.
//!
//! | room | what it is |
//! | --- | --- |
//! | [`answers`] | streams for answers whose own stream has ended |
//! | [`connecting`] | a connection to one address: whose turn it is, and how long that is waited for |
//! | [`pacing`] | the pace of connections to ports of an address that have granted no registration |
//! | [`sources`] | the addresses from which an upstream's requests are believed |
//! | [`mod@unreachable`] | addresses that nobody could connect to |
//!
//! Invariant: every [`Output::Dial`](sip::endpoint::Output::Dial) is answered once: with a flow, or with
//! [`Input::DialFailed`], within `limits.dial_timeout` and as soon as nobody wants the flow any more. At most [`DIALS`] and
//! [`DIALS_PROVEN`] connections are being opened, and others for answers; the others wait for their turn. A shard hears of an upstream's
//! addresses before it hears of its flow. A better flow is handed over ([`Input::FailbackDialled`]) once; what becomes of each flow is told by
//! [`Dialler::on_flow_outcome`].

mod answers;
mod connecting;
mod pacing;
mod sources;
mod unreachable;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use answers::{ANSWER_DIALS, ANSWER_DIALS_PER_SERVER, ANSWERS_WAITING, Answering, StreamKey};
use connecting::{DialOutcome, Opened, Patience};
use pacing::Paces;
use sip::bucket::Rate;
use sip::endpoint::{FlowOutcome, Input, Transport};
use sip::id::{FlowId, UpstreamId};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use unreachable::Unreachable;

use crate::agent::ShardInput;
use crate::agent::Shards;
use crate::agent::transport::connections::Connection;
use crate::agent::transport::targets::{Destination, Settled, Targets, place_of};
use crate::agent::transport::trusted::NameAddresses;
use crate::agent::transport::upstreams::{DialShare, Route, Upstreams};
use crate::clock;
use crate::config;
use crate::limits::shares::Shares;
use crate::lock::Mutex;
use crate::metrics::Metrics;
use crate::metrics::labels::Limit;
use crate::net;
use crate::net::dns::questions::Requester;
use crate::net::dns::resolve::{Candidate, ResolveError, Resolver, Target};
use crate::net::drain::Drain;
use crate::net::tls::ClientTls;
use crate::timing::ConnectionTiming;

/// Connections that are being opened at once.
const DIALS: usize = 192;
/// Likewise, kept for SIP servers at which accounts are registered.
const DIALS_PROVEN: usize = 64;
/// Likewise to one address and port, whatever names lead there.
const DIALS_PER_ADDRESS: usize = 8;
/// SIP servers whose names are being resolved again at once.
const REFRESHES: usize = 256;
/// How often a dial looks whether anybody still wants it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Names are not resolved again before this, whatever their TTL, unless a request comes from an address that they may have by then.
const RESOLVE_AGAIN_MIN: Duration = Duration::from_secs(30);
/// How soon names are resolved again that could not be.
const RESOLVE_RETRY: Duration = Duration::from_secs(60);
/// How soon other names than the next hop's are resolved again that have no address.
const NOTHING_AGAIN: Duration = Duration::from_secs(300);
/// How often it is looked for names to resolve again.
const TICK: Duration = Duration::from_secs(1);

/// Opens flows; cheap to clone.
#[derive(Clone)]
pub(crate) struct Dialler(Arc<Inner>);

struct Inner {
    resolver: Resolver,
    tls: ClientTls,
    failback_interval: Duration,
    connection_timing: ConnectionTiming,
    upstreams: Upstreams,
    shards: Shards,
    metrics: Metrics,
    turns: Semaphore,
    turns_proven: Semaphore,
    by_source: Shares<IpAddr>,
    by_address: Shares<SocketAddr>,
    unreachable: Unreachable,
    paces: Paces,
    /// Draws the order among SRV records of one priority, for each SIP server and shard anew (RFC 2782): another one in each process, else all nodes would
    /// choose the same.
    seeds: RandomState,
    answer_turns: Semaphore,
    answer_dials: Shares<UpstreamId>,
    answers_waiting: Shares<UpstreamId>,
    refreshes: Semaphore,
    dial_timeout: Duration,
    /// Streams beside the flows of SIP servers, for answers.
    answer_streams: Mutex<HashMap<StreamKey, Answering>>,
}

impl Dialler {
    /// `pace`: of connections to an address that has granted no registration.
    pub(crate) fn new(
        (resolver, tls): (Resolver, ClientTls),
        (failback_interval, pace): (Duration, Rate),
        connection_timing: ConnectionTiming,
        upstreams: Upstreams,
        shards: Shards,
        metrics: Metrics,
        limits: &config::Limits,
    ) -> Self {
        Self(Arc::new(Inner {
            resolver,
            tls,
            failback_interval,
            connection_timing,
            upstreams,
            shards,
            metrics,
            turns: Semaphore::new(DIALS),
            turns_proven: Semaphore::new(DIALS_PROVEN),
            by_source: Shares::new(limits.dials_per_source as usize),
            by_address: Shares::new(DIALS_PER_ADDRESS),
            unreachable: Unreachable::default(),
            paces: Paces::new(pace),
            seeds: RandomState::new(),
            answer_turns: Semaphore::new(ANSWER_DIALS),
            answer_dials: Shares::new(ANSWER_DIALS_PER_SERVER),
            answers_waiting: Shares::new(ANSWERS_WAITING),
            refreshes: Semaphore::new(REFRESHES),
            dial_timeout: limits.dial_timeout,
            answer_streams: Mutex::default(),
        }))
    }

    /// Handles the verdict of a shard's endpoint on a flow that was opened for it.
    pub(crate) fn on_flow_outcome(&self, shard: usize, upstream: UpstreamId, flow: FlowId, outcome: FlowOutcome) {
        let (now, first) = (clock::now(), self.0.failback_interval);
        let settle = |targets: &mut Targets| targets.on_flow_outcome(shard, flow, outcome, now, first);
        let Settled { tried, replaces } = self.0.upstreams.targets(upstream, settle).unwrap_or_default();
        if replaces {
            let it = self.0.clone();
            tokio::spawn(async move {
                it.shards.send(shard, ShardInput::sip(Input::UpstreamReplaced(upstream))).await;
            });
        }
        if tried {
            tracing::info!(
                event = "failback-tried",
                upstream = upstream.0,
                moved = outcome == FlowOutcome::Taken,
                "a better address of a SIP server was tried"
            );
        }
        if outcome == FlowOutcome::Taken {
            self.0.upstreams.look_for_better(upstream, now + first);
        }
    }

    /// No flow of a shard leads to an upstream, and none is wanted; `forgotten`: not even its addresses are.
    pub(crate) fn idle(&self, shard: usize, upstream: UpstreamId, forgotten: bool) {
        self.0.upstreams.targets(upstream, |targets| targets.go_idle(shard));
        if forgotten {
            self.0.upstreams.unused_by(upstream, shard);
        }
    }

    /// Where a shard's flow to a SIP server leads, or led last.
    pub(crate) fn led_to(&self, shard: usize, upstream: UpstreamId) -> Option<Destination> {
        self.0.upstreams.targets(upstream, |targets| targets.led_to(shard)).flatten()
    }

    /// The address of a shard's flow has refused an account that it had accepted. Whether DNS names others in its place: the refusal is another
    /// server's then, and they are tried at once.
    pub(crate) fn refused(&self, shard: usize, upstream: UpstreamId) -> bool {
        let now = clock::now();
        let is_moved = self.0.upstreams.targets(upstream, |targets| targets.refused(shard, now)) == Some(true);
        if is_moved {
            self.0.upstreams.resolve_by(upstream, now);
        }
        is_moved
    }

    /// An address and port have granted a registration: connections to them are not paced any more.
    pub(crate) fn grants(&self, address: SocketAddr) {
        self.0.paces.served(address, clock::now());
    }

    /// A SIP server has granted a registration of a shard: the others that it has failed hear of it.
    pub(crate) fn serves(&self, shard: usize, upstream: UpstreamId) {
        let failed = self.0.upstreams.serves(upstream, shard);
        if failed == 0 {
            return;
        }
        let it = self.0.clone();
        tokio::spawn(async move {
            for other in (0..it.shards.len()).filter(|other| failed & 1 << other != 0) {
                it.shards.send(other, ShardInput::sip(Input::UpstreamServes(upstream))).await;
            }
        });
    }

    /// Opens a flow for a shard, in a task of its own; `avoid` has failed, a single account where that is `for_one`, and is tried last.
    pub(crate) fn dial(&self, shard: usize, upstream: UpstreamId, avoid: Option<Destination>, for_one: bool) {
        let it = self.0.clone();
        tokio::spawn(async move {
            let way = tokio::select! {
                way = timeout(it.dial_timeout, it.way(shard, upstream, avoid, for_one)) => way.unwrap_or_else(|_| {
                    it.metrics.limit(Limit::Dials);
                    tracing::info!(event = "sip-server-slow", upstream = upstream.0, "a SIP server took too long to be connected to");
                    None
                }),
                () = it.unwanted(upstream) => None,
            };
            match way {
                // The connection is handed over even if the dial is no longer wanted: one that its shard does not hear of is closed by nobody.
                Some((candidate, opened)) => it.hand_over(shard, upstream, avoid, candidate, opened).await,
                None => it.shards.send(shard, ShardInput::sip(Input::DialFailed(upstream))).await,
            }
        });
    }

    /// The addresses that requests of `source` to a target go to, as far as they resolve now.
    pub(crate) async fn addresses_of(&self, target: &Target, source: IpAddr) -> Vec<SocketAddr> {
        let names = self.0.resolver.asked_by_source(source);
        let found = names.resolve(target, 0).await;
        found.map(|found| found.addresses()).unwrap_or_default()
    }

    /// Resolves again what is stale, until `end`.
    pub(crate) async fn refresh(self, end: Drain) {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = end.begun() => return,
            }
            for (upstream, shards, believed) in self.0.upstreams.take_over(clock::now()) {
                self.0.tell_addresses(upstream, shards, believed).await;
            }
            for (upstream, route) in self.0.upstreams.take_stale(clock::now()) {
                let it = self.0.clone();
                tokio::spawn(async move {
                    let Ok(_turn) = it.refreshes.acquire().await else { return };
                    match it.learn(upstream, &route, it.seed(upstream, None)).await {
                        Ok(candidates) => it.try_better(upstream, &route, &candidates).await,
                        Err(error) => {
                            tracing::info!(event = "sip-server-without-address", upstream = upstream.0, %error, "a SIP server has no address now");
                        }
                    }
                });
            }
        }
    }
}

impl Inner {
    /// The first way to an upstream that is open.
    async fn way(
        self: &Arc<Self>,
        shard: usize,
        upstream: UpstreamId,
        avoid: Option<Destination>,
        for_one: bool,
    ) -> Option<(Candidate, Opened)> {
        let route = self.upstreams.route(upstream)?;
        self.upstreams.used_by(upstream, shard);
        let candidates = match self.learn(upstream, &route, self.seed(upstream, Some(shard))).await {
            Ok(candidates) => candidates,
            Err(error) => {
                // Addresses that DNS does not give now are taken from its last answer (RFC 8767).
                let may_be_there = is_outage(&error) || error == ResolveError::NoSuchDomain;
                let before = may_be_there.then(|| self.upstreams.last_answer(upstream, clock::now())).flatten();
                let Some(before) = before else {
                    tracing::info!(event = "sip-server-without-address", upstream = upstream.0, %error, "a SIP server has no address");
                    return None;
                };
                tracing::info!(event = "sip-server-address-kept", upstream = upstream.0, %error, "DNS tells no address of a SIP server: those that it told last are dialled");
                before
            }
        };
        let (now, first) = (clock::now(), self.failback_interval);
        let ordered = self.upstreams.targets(upstream, |targets| {
            for candidate in candidates.iter().filter(|candidate| Some(place_of(candidate)) == avoid) {
                if for_one {
                    targets.failed_one(shard, place_of(candidate), now, first);
                } else {
                    targets.failed(place_of(candidate), now, first);
                }
            }
            targets.in_order(shard, candidates, now)
        });
        self.connect_first(upstream, &route, ordered.unwrap_or_default(), avoid).await
    }

    /// Serves what was opened for a shard, and tells it.
    async fn hand_over(
        &self,
        shard: usize,
        upstream: UpstreamId,
        avoid: Option<Destination>,
        candidate: Candidate,
        opened: Opened,
    ) {
        let (flow, transport) = self.begin(shard, opened, candidate).await;
        self.upstreams.targets(upstream, |targets| targets.dialled(shard, flow, candidate));
        if avoid.is_some_and(|avoid| avoid != place_of(&candidate)) {
            self.shards.send(shard, ShardInput::sip(Input::UpstreamAddressChanged(upstream))).await;
        }
        self.shards.send(shard, ShardInput::sip(Input::Dialled { upstream, flow, transport })).await;
    }

    /// Opens a flow to a better address for each shard whose flow leads to a worse one, and lets its endpoint try it. Nobody is waited for:
    /// what cannot be tried now is tried the next time.
    async fn try_better(&self, upstream: UpstreamId, route: &Route, candidates: &[Candidate]) {
        for shard in 0..self.shards.len() {
            if self.better(upstream, shard, candidates).is_none() {
                continue;
            }
            // Of equals, each shard draws its own.
            let drawn = self.names_for(upstream).resolve(&route.target(), self.seed(upstream, Some(shard))).await;
            let drawn =
                drawn.and_then(|found| self.resolver.sendable(found)).map(|found| found.candidates).unwrap_or_default();
            let Some(candidate) = self.better(upstream, shard, &drawn) else { continue };
            let way = self.connect(upstream, route, candidate, Patience::None);
            match timeout(self.dial_timeout, way).await {
                Ok(DialOutcome::Open(opened)) => {
                    let (flow, transport) = self.begin(shard, opened, candidate).await;
                    self.upstreams.targets(upstream, |targets| targets.tries(shard, flow, candidate));
                    let input = Input::FailbackDialled { upstream, flow, transport };
                    self.shards.send(shard, ShardInput::sip(input)).await;
                }
                Ok(DialOutcome::Failed | DialOutcome::Passed) => {}
                Err(_) => break,
            }
        }
        self.upstreams.look_for_better(upstream, clock::now() + self.failback_interval);
    }

    /// A better address for a shard's flow that may be there.
    fn better(&self, upstream: UpstreamId, shard: usize, candidates: &[Candidate]) -> Option<Candidate> {
        let now = clock::now();
        let is_away = |candidate: &Candidate| self.unreachable.away_until(place_of(candidate), now).is_some();
        self.upstreams.targets(upstream, |targets| targets.better(shard, candidates, now, is_away)).flatten()
    }

    /// The seed that decides among equal SRV records: the same each time for one shard.
    fn seed(&self, upstream: UpstreamId, shard: Option<usize>) -> u64 {
        self.seeds.hash_one((upstream.0, shard))
    }

    /// Ends when nobody uses an upstream any more.
    async fn unwanted(&self, upstream: UpstreamId) {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        while self.upstreams.route(upstream).is_some() {
            looks.tick().await;
        }
    }

    /// Resolves an upstream's next hop and tells the shards that use it; the addresses to dial, best first. Its other
    /// names follow in a task of their own: a registration does not wait for them.
    async fn learn(
        self: &Arc<Self>,
        upstream: UpstreamId,
        route: &Arc<Route>,
        seed: u64,
    ) -> Result<Vec<Candidate>, ResolveError> {
        let next_hop = self.names_for(upstream).resolve(&route.target(), seed).await;
        let ttl = next_hop.as_ref().map_or(RESOLVE_RETRY, |found| found.ttl);
        self.upstreams.resolve_again(upstream, clock::now() + ttl.max(RESOLVE_AGAIN_MIN));
        self.upstreams.hold(upstream, clock::now() + ttl);
        let next_hop = match next_hop {
            Ok(next_hop) => next_hop,
            Err(error) => {
                self.learn_nothing(upstream, route, &error).await;
                return Err(error);
            }
        };
        let is_whole = next_hop.is_whole;
        let hop: Vec<IpAddr> = next_hop.candidates.iter().map(|candidate| candidate.address.ip()).collect();
        self.shards.lf_servers.resolved(&route.target().host, &hop);
        let hop = NameAddresses { addresses: hop, is_whole };
        let (shards, believed) = self.upstreams.told(upstream, clock::now(), &[(0, hop)]);
        self.tell_addresses(upstream, shards, believed).await;
        if !is_whole || route.other_targets().next().is_some() {
            tokio::spawn(self.clone().learn_others(upstream, route.clone(), is_whole));
        }
        let sendable = self.resolver.sendable(next_hop).map(|found| found.candidates);
        self.upstreams.answered(upstream, clock::now(), sendable.as_deref().unwrap_or_default(), is_whole);
        sendable
    }

    /// DNS tells no address of an upstream's next hop. Its other names are asked for all the same: from their addresses, too, requests are believed.
    async fn learn_nothing(self: &Arc<Self>, upstream: UpstreamId, route: &Arc<Route>, error: &ResolveError) {
        let now = clock::now();
        match error {
            ResolveError::NoSuchDomain => self.upstreams.nameless(upstream, now),
            error if is_outage(error) => self.upstreams.unanswered(upstream),
            _ => self.upstreams.answered(upstream, now, &[], true),
        }
        let hop = NameAddresses { addresses: Vec::new(), is_whole: !is_outage(error) };
        let (shards, believed) = self.upstreams.told(upstream, now, &[(0, hop)]);
        self.tell_addresses(upstream, shards, believed).await;
        if route.other_targets().next().is_some() {
            tokio::spawn(self.clone().learn_others(upstream, route.clone(), true));
        }
    }

    /// Asks for an upstream's names in the same shares in which it is dialled.
    fn names_for(&self, upstream: UpstreamId) -> Resolver {
        match self.upstreams.dial_share(upstream) {
            Some(DialShare::Of(sources)) => {
                self.resolver.asked_by(sources.into_iter().map(Requester::Source).collect::<Vec<_>>())
            }
            Some(DialShare::Proven) | None => self.resolver.clone(),
        }
    }

    /// Serves what was opened; the shard knows how to write on it when this returns.
    async fn begin(&self, shard: usize, opened: Opened, candidate: Candidate) -> (FlowId, Transport) {
        let peer = candidate.address;
        let transport = match candidate.transport {
            net::Transport::Udp => Transport::Udp,
            net::Transport::Tcp => Transport::Tcp,
            net::Transport::Tls => Transport::Tls,
        };
        let Opened::Stream(stream) = opened else { return (FlowId::Datagram(peer), transport) };
        let metrics = self.metrics.clone();
        let mut connection =
            Connection::dialled(transport, peer, self.connection_timing, shard, self.shards.clone(), metrics.clone())
                .of_registrations();
        let flow = connection.flow();
        if let Some(writer) = connection.writer() {
            self.shards.send(shard, ShardInput::Flow { flow, writer, peer }).await;
            self.shards.send(shard, ShardInput::sip(Input::LeadsTo { flow, address: peer })).await;
        }
        self.shards.cores.carry(shard, async move {
            metrics.upstream_flows(1);
            connection.serve(stream).await;
            metrics.upstream_flows(-1);
        });
        (flow, transport)
    }
}

/// Whether DNS has said nothing, in place of saying that there is nothing.
fn is_outage(error: &ResolveError) -> bool {
    matches!(error, ResolveError::Timeout | ResolveError::Unavailable)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;
    use crate::cores::Cores;
    use crate::net::address_policy::Reach;

    /// A dialler of one shard, with a SIP server that somebody has asked for.
    pub(super) fn dialler() -> (Dialler, UpstreamId, mpsc::Receiver<ShardInput>) {
        dialler_at(Rate { burst: 1, interval: Duration::ZERO })
    }

    pub(super) fn dialler_at(pace: Rate) -> (Dialler, UpstreamId, mpsc::Receiver<ShardInput>) {
        let (sender, inbox) = mpsc::channel(1_024);
        let (cores, made) = Cores::start(1).unwrap();
        made.into_iter().for_each(|core| core.begin(std::future::pending()));
        let (shards, upstreams) = (Shards::new(vec![sender], cores), Upstreams::default());
        let route = Route::to("sip:alice@sip.example.com", None, None).unwrap();
        let upstream = upstreams.acquire_for(IpAddr::from([192, 0, 2, 1]), route);
        let config = config::Config::development().unwrap();
        let reach = Reach::new(&["127.0.0.0/8".parse().unwrap()]);
        let resolver = Resolver::with_nameservers(&[], reach, config.upstream.transports).unwrap();
        let names = (resolver, ClientTls::new(None).unwrap());
        let (timing, metrics) = (ConnectionTiming::default(), Metrics::new());
        let dialler =
            Dialler::new(names, (Duration::from_secs(60), pace), timing, upstreams, shards, metrics, &config.limits);
        (dialler, upstream, inbox)
    }

    /// Opens a flow for the first shard; whether there is one.
    async fn open(dialler: &Dialler, upstream: UpstreamId) -> bool {
        let Some((candidate, opened)) = dialler.0.way(0, upstream, None, false).await else { return false };
        dialler.0.hand_over(0, upstream, None, candidate, opened).await;
        true
    }

    #[tokio::test]
    async fn a_connection_that_is_wanted_no_more_while_its_shard_is_busy_is_told_of() {
        let (dialler, _, mut inbox) = dialler();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registrar = format!("sip:{};transport=tcp", listener.local_addr().unwrap());
        let upstreams = &dialler.0.upstreams;
        let upstream = upstreams.acquire(Route::to("sip:alice@127.0.0.2", Some(&registrar), None).unwrap());
        // There is room for what comes before it: addresses twice, the flow, and where it leads.
        for _ in 0..inbox.max_capacity() - 4 {
            dialler.0.shards.send(0, ShardInput::sip(Input::UpstreamServes(upstream))).await;
        }
        dialler.dial(0, upstream, None, false);
        listener.accept().await.unwrap();
        while inbox.capacity() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        upstreams.release(upstream);
        tokio::time::sleep(LOOK_EVERY + Duration::from_millis(200)).await;
        let told = async {
            loop {
                match inbox.recv().await {
                    Some(ShardInput::Sip { input: Input::Dialled { .. }, .. }) => return true,
                    Some(ShardInput::Sip { input: Input::DialFailed(_), .. }) | None => return false,
                    Some(_) => {}
                }
            }
        };
        assert!(timeout(Duration::from_secs(10), told).await.unwrap());
    }

    #[tokio::test]
    async fn while_dns_fails_a_server_is_dialled_where_it_was_before() {
        let (dialler, upstream, mut inbox) = dialler();
        // No name server answers here, and a server that phones register at themselves (RFC 8599) has proven nothing.
        assert!(!open(&dialler, upstream).await, "nobody knows where it is");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let at = [Candidate { address, transport: net::Transport::Tcp, rank: 0 }];
        let upstreams = &dialler.0.upstreams;
        upstreams.answered(upstream, clock::now(), &at, true);
        assert!(open(&dialler, upstream).await);
        listener.accept().await.unwrap();
        assert_eq!(dialler.led_to(0, upstream), None, "until the endpoint has taken it");
        dialler.on_flow_outcome(0, upstream, dialled(&mut inbox).expect("its shard hears of it"), FlowOutcome::Taken);
        assert_eq!(dialler.led_to(0, upstream), Some(place_of(&at[0])));
        // An answer that does not tell all takes nothing away; one that there is nothing does.
        upstreams.answered(upstream, clock::now(), &[], false);
        assert!(upstreams.last_answer(upstream, clock::now()).is_some());
        assert!(upstreams.last_answer(upstream, clock::now() + Duration::from_secs(25 * 3_600)).is_none());
        upstreams.answered(upstream, clock::now(), &[], true);
        assert!(!open(&dialler, upstream).await);
        // A missing name is believed when DNS has said so for some minutes.
        let minute = Duration::from_secs(60);
        upstreams.answered(upstream, clock::now(), &at, true);
        for (minutes, is_kept) in [(0, true), (4, true), (5, false)] {
            upstreams.nameless(upstream, clock::now() + minute * minutes);
            assert_eq!(upstreams.last_answer(upstream, clock::now()).is_some(), is_kept, "{minutes} min");
        }
        upstreams.answered(upstream, clock::now(), &at, true);
        upstreams.nameless(upstream, clock::now() + minute * 6);
        assert!(upstreams.last_answer(upstream, clock::now()).is_some(), "it was named meanwhile");
    }

    #[tokio::test]
    async fn what_an_address_refuses_that_dns_names_no_more_is_anothers_word_and_is_asked_of_its_successor() {
        let (dialler, upstream, mut inbox) = dialler();
        let listeners =
            [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
        let of = |listener: &TcpListener| listener.local_addr().unwrap();
        let [old, new] = listeners.each_ref().map(|listener| Candidate {
            address: of(listener),
            transport: net::Transport::Tcp,
            rank: 0,
        });
        let upstreams = &dialler.0.upstreams;
        upstreams.prove(upstream);
        upstreams.answered(upstream, clock::now(), &[old], true);
        assert!(open(&dialler, upstream).await);
        dialler.on_flow_outcome(0, upstream, dialled(&mut inbox).unwrap(), FlowOutcome::Taken);
        assert!(!dialler.refused(0, upstream));
        upstreams.answered(upstream, clock::now(), &[new], false);
        assert!(!dialler.refused(0, upstream), "DNS has not told all");
        upstreams.answered(upstream, clock::now(), &[new], true);
        upstreams.resolve_again(upstream, clock::now() + Duration::from_secs(3_600));
        assert!(dialler.refused(0, upstream));
        assert_eq!(upstreams.take_stale(clock::now()).len(), 1, "its successor is sought at once");
        assert!(open(&dialler, upstream).await);
        dialler.on_flow_outcome(0, upstream, dialled(&mut inbox).unwrap(), FlowOutcome::Taken);
        assert_eq!(dialler.led_to(0, upstream), Some(place_of(&new)));
        let told = async {
            while let Some(told) = inbox.recv().await {
                if matches!(told, ShardInput::Sip { input: Input::UpstreamReplaced(_), .. }) {
                    return true;
                }
            }
            false
        };
        assert!(timeout(Duration::from_secs(10), told).await.unwrap());
        assert!(!dialler.refused(0, upstream));
    }

    #[test]
    fn the_order_among_equal_servers_is_drawn_for_each_process_server_and_shard_and_stays() {
        let drawn = |dialler: &Dialler| -> std::collections::BTreeSet<u64> {
            let places = (0..8).flat_map(|id| [None, Some(0), Some(1)].map(|shard| (UpstreamId(id), shard)));
            places.map(|(upstream, shard)| dialler.0.seed(upstream, shard)).collect()
        };
        let ((one, ..), (other, ..)) = (dialler(), dialler());
        assert_eq!((drawn(&one).len(), drawn(&one)), (24, drawn(&one)));
        assert!(drawn(&one).is_disjoint(&drawn(&other)));
    }

    /// The flow that a shard has been told of.
    fn dialled(inbox: &mut mpsc::Receiver<ShardInput>) -> Option<FlowId> {
        std::iter::from_fn(|| inbox.try_recv().ok()).find_map(|input| match input {
            ShardInput::Sip { input: Input::Dialled { flow, .. }, .. } => Some(flow),
            _ => None,
        })
    }

    #[tokio::test]
    async fn a_better_address_is_looked_for_while_a_flow_that_is_in_use_leads_to_a_worse_one() {
        let (dialler, upstream, mut inbox) = dialler();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let worse = Candidate { address: listener.local_addr().unwrap(), transport: net::Transport::Tcp, rank: 1 };
        let better = Candidate { address: "127.0.0.1:9".parse().unwrap(), rank: 0, ..worse };
        let upstreams = &dialler.0.upstreams;
        let is_looked_for = || {
            // By then it would be, for another reason, too.
            let stale = upstreams.take_stale(clock::now() + Duration::from_secs(60));
            upstreams.resolve_again(upstream, clock::now() + Duration::from_secs(3_600));
            !stale.is_empty()
        };
        upstreams.prove(upstream);
        upstreams.used_by(upstream, 0);
        upstreams.answered(upstream, clock::now(), &[better, worse], true);
        for (outcome, looked_for) in [(FlowOutcome::NotWanted, false), (FlowOutcome::Taken, true)] {
            upstreams.answered(upstream, clock::now(), &[better, worse], true);
            assert!(open(&dialler, upstream).await);
            is_looked_for();
            dialler.on_flow_outcome(0, upstream, dialled(&mut inbox).unwrap(), outcome);
            assert_eq!(is_looked_for(), looked_for, "{outcome:?}");
        }
        // Its last account there has ended.
        dialler.idle(0, upstream, true);
        upstreams.look_for_better(upstream, clock::now());
        assert_eq!((is_looked_for(), upstreams.told(upstream, clock::now(), &[]).0), (false, 0));
    }
}
