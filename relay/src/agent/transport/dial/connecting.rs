//! A connection to one address of a SIP server: its place in the queue of that address, and how long the place is waited for.
//!
//! | patience | the wait for a place at the address |
//! | --- | --- |
//! | none | none |
//! | brief | while the address is not known to be away, and admits others: it ends after 2 s in which nobody was admitted |
//! | while it may be there | until the address fails for another dial |
//! | whole | as long as the dial may take |
//!
//! A dial tries all addresses with brief patience, then those where it had no place with more; at the last one it waits. So a few dials find out, for all names
//! that share them, which address is silent and which one serves. An address that is to be avoided, by one transport, is tried last, even behind those that
//! are known to be away; but only the [`MAY_BE_BACK_MAX`] of these that are due soonest are tried before it, where a place is free.
//!
//! A connection takes a place at its address, and permission to dial: a share of the source that asked for the SIP server, and a turn among all dials. A dial
//! holds neither while it waits for the other. Otherwise one source could block a provider's address for all accounts, or one silent address could block all
//! SIP servers of a source.
//!
//! Invariant: a dial that only waits fails no address, and holds nothing that others could use.

use std::pin::pin;
use std::time::Duration;

use sip::id::UpstreamId;
use tokio::sync::SemaphorePermit;

use super::Inner;
use super::pacing::Leave;
use crate::agent::transport::targets::{Destination, place_of};
use crate::agent::transport::upstreams::{DialShare, Route};
use crate::clock;
use crate::limits::shares::Share;
use crate::net::dial::DialError;
use crate::net::dns::resolve::Candidate;
use crate::net::stream::Stream;
use crate::net::{self, dial};

/// An address that has let nobody in for so long is left by who waits for a place there and knows another one.
const SLOW: Duration = Duration::from_secs(2);
/// Addresses that are away and are tried before the one that is to be avoided: the others have their turn in the next dial, for these are away for longer then.
/// All of them could take as long as the dial may.
const MAY_BE_BACK_MAX: usize = 2;
/// Addresses that one dial tries, beside the one to be avoided. The next dial goes on behind them, because failed addresses come last then.
const OF_ONE_DIAL: usize = 16;
/// A connection to a SIP server ends when what was written was not acknowledged for so long. That a server is gone which answers no keep-alive is found out by
/// the system alone, which takes a quarter of an hour by itself.
const UNACKNOWLEDGED: Duration = Duration::from_secs(60);
/// How often who waits looks what became of others.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long a place at an address is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    None,
    Brief,
    WhileThere,
    Whole,
}

/// The outcome of dialling one address.
pub(super) enum DialOutcome {
    Open(Opened),
    /// The address cannot be used now.
    Failed,
    /// The turn was another dial's.
    Passed,
}

/// The queue in which a connection has its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turns {
    /// Streams that become flows.
    Flows,
    /// Streams for answers.
    Answers,
}

/// The permits of a connection that is being opened; given back when dropped.
pub(super) struct Admitted<'a> {
    _place: Share,
    _permit: DialPermit<'a>,
}

/// The permission to dial.
struct DialPermit<'a> {
    _source: Option<Share>,
    _turn: SemaphorePermit<'a>,
}

/// A way that is open.
pub(super) enum Opened {
    /// The relay's one socket.
    Udp,
    /// A connection of its own.
    Stream(Stream),
}

impl Inner {
    /// The first of these addresses that can be used, and what is open there; `avoid` only when no other one can.
    pub(super) async fn connect_first(
        &self,
        upstream: UpstreamId,
        route: &Route,
        mut candidates: Vec<Candidate>,
        avoid: Option<Destination>,
    ) -> Option<(Candidate, Opened)> {
        let now = clock::now();
        let is_avoided = |candidate: &Candidate| Some(place_of(candidate)) == avoid;
        let away_until = |candidate: &Candidate| self.unreachable.away_until(place_of(candidate), now);
        // Stable: the rest keeps its order.
        candidates.sort_by_key(|candidate| (is_avoided(candidate), away_until(candidate)));
        let mut others = 0;
        candidates.retain(|candidate| {
            others += usize::from(!is_avoided(candidate));
            is_avoided(candidate) || others <= OF_ONE_DIAL
        });
        // An address that was away may be back, and serve, where the one to avoid only accepts connections.
        let away = candidates.iter().filter(|candidate| !is_avoided(candidate) && away_until(candidate).is_some());
        let may_be_back: Vec<_> = away.take(if avoid.is_some() { MAY_BE_BACK_MAX } else { 0 }).copied().collect();
        for impatient in [Patience::Brief, Patience::WhileThere] {
            let mut passed = Vec::new();
            let mut left = candidates.len();
            for candidate in candidates {
                left -= 1;
                let is_last = left == 0 && (passed.is_empty() || impatient == Patience::WhileThere);
                let patience = match impatient {
                    _ if is_last => Patience::Whole,
                    Patience::Brief if may_be_back.contains(&candidate) => Patience::None,
                    impatient => impatient,
                };
                match self.connect(upstream, route, candidate, patience).await {
                    DialOutcome::Open(opened) => return Some((candidate, opened)),
                    DialOutcome::Failed => {}
                    DialOutcome::Passed => passed.push(candidate),
                }
            }
            candidates = passed;
        }
        None
    }

    /// The way to an address: a stream, or nothing to open for UDP.
    pub(super) async fn connect(
        &self,
        upstream: UpstreamId,
        route: &Route,
        candidate: Candidate,
        patience: Patience,
    ) -> DialOutcome {
        if candidate.transport == net::Transport::Udp {
            return DialOutcome::Open(Opened::Udp);
        }
        let Some(leave) = self.in_pace(place_of(&candidate), patience).await else { return DialOutcome::Passed };
        let Some(_admitted) = self.admitted(upstream, place_of(&candidate), Turns::Flows, patience).await else {
            return DialOutcome::Passed;
        };
        leave.used();
        match self.open_stream(route, &candidate).await {
            Ok(stream) => {
                // Without it the connection works as well.
                let _ = stream.end_when_unacknowledged(UNACKNOWLEDGED);
                self.unreachable.opened(place_of(&candidate), clock::now());
                DialOutcome::Open(Opened::Stream(stream))
            }
            Err(error) => {
                tracing::info!(
                    event = "sip-server-unreachable",
                    upstream = upstream.0,
                    error = error.discreet(),
                    "a SIP server cannot be reached"
                );
                if !error.is_of_machine() {
                    let (now, first) = (clock::now(), self.failback_interval);
                    self.upstreams.targets(upstream, |targets| targets.failed(place_of(&candidate), now, first));
                }
                DialOutcome::Failed
            }
        }
    }

    /// Waits until the address's pace permits a connection; `None`: the wait has ended without one. Nothing is held meanwhile.
    async fn in_pace(&self, to: Destination, patience: Patience) -> Option<Leave<'_>> {
        let since = clock::now();
        let known = &self.unreachable;
        if patience == Patience::Brief && known.away_until(to, since).is_some() {
            return None;
        }
        let is_over = || {
            let now = clock::now();
            match patience {
                Patience::None => true,
                Patience::Brief => since + SLOW <= now || known.away_until(to, now).is_some(),
                Patience::WhileThere => known.has_failed_since(to, since),
                Patience::Whole => false,
            }
        };
        let mut leave = pin!(self.paces.leave(to.0));
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                biased;
                leave = &mut leave => return Some(leave),
                _ = looks.tick() => if is_over() {
                    return None;
                },
            }
        }
    }

    async fn open_stream(&self, route: &Route, candidate: &Candidate) -> Result<Stream, DialError> {
        let (address, place) = (candidate.address, place_of(candidate));
        let stream = match dial::connect(address).await {
            Ok(stream) => stream,
            Err(error) => {
                if error.is_of_address() {
                    self.unreachable.failed(place, clock::now(), self.failback_interval);
                }
                return Err(error);
            }
        };
        self.unreachable.connected(place, clock::now());
        match candidate.transport {
            net::Transport::Tls => dial::secure(stream, address, &self.tls, route.verified_domain()).await,
            net::Transport::Tcp | net::Transport::Udp => Ok(dial::plain(stream)),
        }
    }

    /// All that a connection takes, once it is free: `None` when that is waited for no longer.
    pub(super) async fn admitted(
        &self,
        upstream: UpstreamId,
        to: Destination,
        turns: Turns,
        patience: Patience,
    ) -> Option<Admitted<'_>> {
        loop {
            let place = self.place_at(to, patience).await?;
            let share = match (self.upstreams.dial_share(upstream), turns) {
                (Some(share), _) => share,
                // The answer is owed all the same.
                (None, Turns::Answers) => DialShare::Proven,
                (None, Turns::Flows) => return None,
            };
            if let Some(leave) = self.try_leave(&share, turns) {
                return Some(Admitted { _place: place, _permit: leave });
            }
            // A dial that already holds the other permit goes first.
            drop(place);
            if patience == Patience::None {
                return None;
            }
            let leave = self.leave(share, turns).await?;
            if let Some(place) = self.by_address.try_take(to.0) {
                return Some(Admitted { _place: place, _permit: leave });
            }
        }
    }

    /// The leave to dial, where it is free.
    fn try_leave(&self, share: &DialShare, turns: Turns) -> Option<DialPermit<'_>> {
        let source = match share {
            DialShare::Of(sources) => Some(self.by_source.try_take_any(sources)?),
            DialShare::Proven => None,
        };
        let turn = match turns {
            Turns::Answers => self.answer_turns.try_acquire(),
            Turns::Flows => match self.turns.try_acquire() {
                Err(_) if *share == DialShare::Proven => self.turns_proven.try_acquire(),
                turn => turn,
            },
        };
        Some(DialPermit { _source: source, _turn: turn.ok()? })
    }

    /// Waits for the leave to dial.
    async fn leave(&self, share: DialShare, turns: Turns) -> Option<DialPermit<'_>> {
        let of = match (turns, &share) {
            (Turns::Answers, _) => &self.answer_turns,
            (Turns::Flows, DialShare::Proven) => &self.turns_proven,
            (Turns::Flows, DialShare::Of(_)) => &self.turns,
        };
        let source = match share {
            DialShare::Of(sources) => self.by_source.take_any(sources).await,
            DialShare::Proven => None,
        };
        Some(DialPermit { _source: source, _turn: of.acquire().await.ok()? })
    }

    /// A place among those who connect to an address.
    async fn place_at(&self, place: Destination, patience: Patience) -> Option<Share> {
        let since = clock::now();
        let known = &self.unreachable;
        if patience == Patience::Brief && known.away_until(place, since).is_some() {
            return None;
        }
        if let Some(share) = self.by_address.try_take(place.0) {
            return Some(share);
        }
        let is_over = || {
            let now = clock::now();
            match patience {
                Patience::None => true,
                Patience::Brief => {
                    let is_slow = since + SLOW <= now && !known.has_opened_since(place, now - SLOW);
                    is_slow || known.away_until(place, now).is_some()
                }
                Patience::WhileThere => known.has_failed_since(place, since),
                Patience::Whole => false,
            }
        };
        let mut turn = pin!(self.by_address.take(place.0));
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                share = &mut turn => return Some(share),
                _ = looks.tick() => if is_over() {
                    return None;
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::sync::Arc;
    use std::time::Instant;

    use sip::bucket::Rate;
    use sip::endpoint::{FlowOutcome, Input};
    use sip::id::FlowId;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::super::tests::{dialler, dialler_at};
    use super::super::{DIALS_PER_ADDRESS, Dialler};
    use super::*;
    use crate::agent::ShardInput;

    async fn listening() -> (TcpListener, Candidate) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, Candidate { address, transport: net::Transport::Tcp, rank: 0 })
    }

    /// All places at an address.
    async fn all_places(dialler: &Dialler, candidate: &Candidate) -> Vec<Share> {
        let mut places = Vec::new();
        for _ in 0..DIALS_PER_ADDRESS {
            places.push(dialler.0.by_address.take(candidate.address).await);
        }
        places
    }

    fn another(dialler: &Dialler, registrar: &str) -> (UpstreamId, Arc<Route>) {
        let route = Route::to("sip:bob@other.example", Some(registrar), None).unwrap();
        let upstream = dialler.0.upstreams.acquire_for(IpAddr::from([192, 0, 2, 2]), route);
        (upstream, dialler.0.upstreams.route(upstream).unwrap())
    }

    async fn first(dialler: &Dialler, upstream: UpstreamId, candidates: &[Candidate]) -> Option<Candidate> {
        let route = dialler.0.upstreams.route(upstream).unwrap();
        let opened = dialler.0.connect_first(upstream, &route, candidates.to_vec(), None);
        let opened = timeout(Duration::from_secs(20), opened).await.expect("it does not wait for ever");
        opened.map(|(candidate, _)| candidate)
    }

    fn own_order(dialler: &Dialler, upstream: UpstreamId, candidates: &[Candidate]) -> Vec<Candidate> {
        let order = |targets: &mut super::super::Targets| targets.in_order(0, candidates.to_vec(), clock::now());
        dialler.0.upstreams.targets(upstream, order).unwrap()
    }

    #[tokio::test]
    async fn who_waits_at_an_address_that_lets_nobody_in_goes_on_to_the_next_and_has_failed_nothing() {
        let (dialler, upstream, _inbox) = dialler();
        let ((_a, a), (_b, b)) = (listening().await, listening().await);
        let (both, alone) = ([a, b], [a]);
        let places = all_places(&dialler, &a).await;
        let begun = Instant::now();
        assert_eq!(first(&dialler, upstream, &[a, b]).await, Some(b));
        assert!(begun.elapsed() >= SLOW);
        assert_eq!(own_order(&dialler, upstream, &[a, b]), [a, b]);
        // Another dial to it fails: at once.
        let begun = Instant::now();
        let (waits, fails) = tokio::join!(first(&dialler, upstream, &both), async {
            tokio::time::sleep(LOOK_EVERY).await;
            dialler.0.unreachable.failed(place_of(&a), clock::now(), Duration::from_secs(60));
        });
        assert_eq!((waits, fails), (Some(b), ()));
        assert!(begun.elapsed() < SLOW);
        // The only known address is waited for.
        let (waits, ()) = tokio::join!(first(&dialler, upstream, &alone), async {
            tokio::time::sleep(SLOW + LOOK_EVERY * 2).await;
            drop(places);
        });
        assert_eq!(waits, Some(a));
    }

    #[tokio::test]
    async fn a_connection_whose_other_end_is_gone_without_a_word_ends_within_a_minute_of_what_is_written() {
        let (dialler, upstream, _inbox) = dialler();
        let (_a, a) = listening().await;
        let route = dialler.0.upstreams.route(upstream).unwrap();
        let opened = dialler.0.connect_first(upstream, &route, vec![a], None).await;
        let Some((_, Opened::Stream(stream))) = opened else { panic!("it is there") };
        assert_eq!(stream.unacknowledged_limit().unwrap(), UNACKNOWLEDGED);
    }

    /// Many names lead to one address, and it has not proved to be a SIP server.
    #[tokio::test]
    async fn an_address_that_has_granted_nothing_is_dialled_at_the_pace_and_a_port_that_has_by_all_at_once() {
        let (dialler, upstream, _inbox) = dialler_at(Rate { burst: 3, interval: Duration::from_secs(3600) });
        let ((_a, a), (_b, b)) = (listening().await, listening().await);
        let route = dialler.0.upstreams.route(upstream).unwrap();
        let dial = async |candidate| dialler.0.connect(upstream, &route, candidate, Patience::None).await;
        let mut opened = 0;
        for n in 0..40 {
            // Another port is the same address.
            opened += usize::from(matches!(dial(if n % 2 == 0 { a } else { b }).await, DialOutcome::Open(_)));
        }
        assert_eq!(opened, 3);
        // A waiting dial goes on as soon as its port grants a registration, and so do all others to that, but none to another one.
        let alone = [a];
        let (waits, ()) = tokio::join!(first(&dialler, upstream, &alone), async {
            tokio::task::yield_now().await;
            dialler.grants(a.address);
        });
        assert_eq!(waits, Some(a));
        for _ in 0..40 {
            assert!(matches!(dial(a).await, DialOutcome::Open(_)));
            assert!(matches!(dial(b).await, DialOutcome::Passed));
        }
    }

    #[tokio::test]
    async fn a_line_that_goes_on_is_waited_in() {
        let (dialler, upstream, _inbox) = dialler();
        let ((_a, a), (_b, b)) = (listening().await, listening().await);
        let both = [a, b];
        let places = all_places(&dialler, &a).await;
        let (waits, ()) = tokio::join!(first(&dialler, upstream, &both), async {
            for _ in 0..15 {
                dialler.0.unreachable.opened(place_of(&a), clock::now());
                tokio::time::sleep(LOOK_EVERY).await;
            }
            drop(places);
        });
        assert_eq!(waits, Some(a));
    }

    #[tokio::test]
    async fn what_one_server_cannot_connect_to_all_dial_last_until_somebody_can() {
        let (dialler, upstream, _inbox) = dialler();
        let (other, _) = another(&dialler, "sip:other.example");
        let ((gone, a), (_b, b)) = (listening().await, listening().await);
        drop(gone);
        assert_eq!(first(&dialler, upstream, &[a, b]).await, Some(b));
        let back = TcpListener::bind(a.address).await.unwrap();
        assert_eq!(first(&dialler, other, &[a, b]).await, Some(b), "it does not find out by itself");
        assert_eq!(own_order(&dialler, other, &[a, b]), [a, b]);
        assert_eq!(first(&dialler, other, &[a]).await, Some(a), "it has no other");
        assert_eq!(first(&dialler, other, &[a, b]).await, Some(a));
        // A failure after the connection says nothing of other SIP servers.
        let no_tls = Candidate { transport: net::Transport::Tls, ..a };
        let closes = tokio::spawn(async move { while back.accept().await.is_ok() {} });
        assert_eq!(first(&dialler, upstream, &[no_tls]).await, None);
        assert_eq!(own_order(&dialler, upstream, &[no_tls, b]), [b, no_tls]);
        assert_eq!(dialler.0.unreachable.away_until(place_of(&no_tls), clock::now()), None);
        closes.abort();
    }

    #[tokio::test]
    async fn what_is_to_be_avoided_is_dialled_behind_all_that_are_away_and_before_nothing() {
        let (dialler, upstream, _inbox) = dialler();
        let route = dialler.0.upstreams.route(upstream).unwrap();
        let ((gone, a), (_b, b)) = (listening().await, listening().await);
        let inner = &dialler.0;
        let avoiding = async |candidates: &[Candidate], avoid: Candidate| {
            let opened = inner.connect_first(upstream, &route, candidates.to_vec(), Some(place_of(&avoid)));
            let opened = timeout(Duration::from_secs(20), opened).await.expect("it does not wait for ever");
            opened.map(|(candidate, _)| candidate)
        };
        drop(gone);
        assert_eq!(avoiding(&[b, a], b).await, Some(b), "nobody else is there");
        let _back = TcpListener::bind(a.address).await.unwrap();
        assert!(inner.unreachable.away_until(place_of(&a), clock::now()).is_some());
        assert_eq!(avoiding(&[b, a], b).await, Some(a), "it lets in, and the other one did not serve");
        // If no other address can be tried at once, the one to avoid is better than none.
        inner.unreachable.failed(place_of(&a), clock::now(), Duration::from_secs(600));
        let places = all_places(&dialler, &a).await;
        let begun = Instant::now();
        assert_eq!(avoiding(&[b, a], b).await, Some(b));
        assert!(begun.elapsed() < SLOW, "nobody is waited for");
        drop(places);
    }

    /// A balancer, or a firewall that answers each SYN, stands before a server that speaks UDP alone.
    #[tokio::test]
    async fn a_port_that_only_lets_in_by_tcp_is_left_for_the_same_port_by_udp() {
        let (dialler, _, _inbox) = dialler();
        let (_a, tcp) = listening().await;
        let udp = Candidate { transport: net::Transport::Udp, rank: 1, ..tcp };
        let (upstream, route) = another(&dialler, &format!("sip:{}", tcp.address));
        let order = own_order(&dialler, upstream, &[tcp, udp]);
        let opened = dialler.0.connect_first(upstream, &route, order, Some(place_of(&tcp))).await;
        assert_eq!(opened.map(|(candidate, _)| candidate), Some(udp));
    }

    #[tokio::test]
    async fn one_dial_tries_some_of_many_addresses_and_the_next_goes_on_behind_those_that_failed() {
        let (dialler, upstream, _inbox) = dialler();
        let ((gone, a), (_b, b)) = (listening().await, listening().await);
        drop(gone);
        let many = (1..=2 * OF_ONE_DIAL as u8).map(|last| {
            let address = SocketAddr::from(([127, 0, 1, last], a.address.port()));
            Candidate { address, rank: last.into(), ..a }
        });
        let all: Vec<_> = many.chain([Candidate { rank: 99, ..b }]).collect();
        let mut tried = Vec::new();
        for _ in 0..3 {
            let opened = first(&dialler, upstream, &all).await;
            tried.push(opened.map(|it| it.address));
        }
        assert_eq!(tried, [None, None, Some(b.address)]);
    }

    #[tokio::test]
    async fn who_waits_for_a_share_of_its_source_keeps_nobody_else_from_an_address() {
        let (dialler, proven, _inbox) = dialler();
        let inner = &dialler.0;
        inner.upstreams.prove(proven);
        let (_a, a) = listening().await;
        // Silent servers have all that this source may dial at once.
        let source = IpAddr::from([192, 0, 2, 2]);
        let mut silent = Vec::new();
        while let Some(share) = inner.by_source.try_take(source) {
            silent.push(share);
        }
        let wait = |number: usize| {
            let (dialler, (upstream, _)) = (dialler.clone(), another(&dialler, &format!("sip:other{number}.example")));
            tokio::spawn(async move { first(&dialler, upstream, &[a]).await })
        };
        let waiting: Vec<_> = (0..2 * DIALS_PER_ADDRESS).map(wait).collect();
        tokio::task::yield_now().await;
        let begun = Instant::now();
        assert_eq!(first(&dialler, proven, &[a]).await, Some(a));
        assert!(begun.elapsed() < SLOW, "{:?}", begun.elapsed());
        drop(silent);
        for dialled in waiting {
            assert_eq!(dialled.await.unwrap(), Some(a));
        }
        // Likewise the other way round: a dial that waits for an address has no share of its source.
        let places = all_places(&dialler, &a).await;
        let waiting: Vec<_> = (0..64).map(wait).collect();
        tokio::task::yield_now().await;
        let (free, all) = (inner.by_source.try_take(source), inner.turns.available_permits());
        assert_eq!((free.is_some(), all), (true, super::super::DIALS));
        drop(places);
        for dialled in waiting {
            assert_eq!(dialled.await.unwrap(), Some(a));
        }
    }

    #[tokio::test]
    async fn a_better_address_is_tried_without_waiting_for_a_place() {
        let (dialler, _, mut inbox) = dialler();
        let ((_a, a), (_b, b)) = (listening().await, listening().await);
        let (upstream, route) = another(&dialler, &format!("sip:127.0.0.1:{};transport=tcp", a.address.port()));
        let worse = Candidate { rank: 9, ..b };
        let (inner, now) = (&dialler.0, clock::now());
        inner.upstreams.targets(upstream, |targets| {
            targets.dialled(0, FlowId::Stream(7), worse);
            targets.on_flow_outcome(0, FlowId::Stream(7), FlowOutcome::Taken, now, Duration::from_secs(60))
        });
        let mut is_tried = || {
            let told = std::iter::from_fn(|| inbox.try_recv().ok());
            told.filter(|it| matches!(it, ShardInput::Sip { input: Input::FailbackDialled { .. }, .. })).count() > 0
        };
        let places = all_places(&dialler, &a).await;
        let soon = Duration::from_secs(1);
        timeout(soon, inner.try_better(upstream, &route, &[a, worse])).await.expect("it does not wait");
        assert!(!is_tried());
        drop(places);
        // An address that other dials could not connect to is not tried.
        inner.unreachable.failed(place_of(&a), clock::now(), Duration::from_secs(60));
        inner.try_better(upstream, &route, &[a, worse]).await;
        assert!(!is_tried());
        inner.unreachable.connected(place_of(&a), clock::now());
        inner.try_better(upstream, &route, &[a, worse]).await;
        assert!(is_tried());
    }
}
