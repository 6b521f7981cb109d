//! SIP servers, the flows toward them, and whose turn it is on each.
//!
//! | room | what it holds |
//! | --- | --- |
//! | `links` | a flow is dialled, comes up, carries REGISTERs in turn, breaks |
//! | `pace` | how many registrations may begin in a second, at a SIP server and at an address |
//! | `window` | how many may be under way at a SIP server |
//! | `moves` | leaving an address that serves badly, and how a SIP server has served |
//! | `rounds` | which addresses were left of late, each of which is asked once before any is asked again |
//! | `accounts` | how many registrations that pass through each account has |
//! | `asides` | a further address that single REGISTERs are sent to, while others are served by the flow in use |
//! | `held` | a SIP server whose last REGISTER has failed is remembered for some minutes |
//! | `recovery` | who begins, and when, after a SIP server serves again |
//! | `redial` | when one is dialled again that could not be reached |
//! | `doubts` | a stream whose messages cannot be told apart any more, and which the server did not end |
//! | `failback` | going back to a better address of a SIP server |
//! | `trust` | whether something came from any SIP server |
//! | `kept` | streams that stay for calls whose device is registered no more |
//!
//! Bindings of one registrar share one flow.
//!
//! Invariant: an upstream is known while a binding, a transit reference or a kept stream needs it, or it is held, and not longer; nobody outside
//! this folder changes one.

mod accounts;
mod asides;
mod doubts;
mod failback;
mod held;
mod kept;
mod links;
mod moves;
mod pace;
mod recovery;
mod redial;
mod rounds;
mod trust;
mod window;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::unanswered::UNANSWERED_MAX;
use super::{Endpoint, Event, Source, Transport};
use crate::flow::KeepAlive;
use crate::id::{BindingId, BranchId, FlowId, InstanceId, UpstreamId};
use crate::registration::{Began, Registration, Turn};
use crate::timing::BackOff;
use crate::transaction::ServerId;
use accounts::Accounts;
pub(super) use asides::NextAddress;
use kept::Kept;
use moves::Fitness;
pub(super) use moves::{GrantEffects, PassedSender, Timeliness};
pub(super) use pace::Place;
use pace::{Pace, Paces};
use recovery::Recovery;
pub(super) use rounds::Destination;
use trust::{GrantedAt, Trust};
use window::Window;

/// The SIP servers of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    rows: BTreeMap<UpstreamId, Upstream>,
    /// Dialled streams and where they lead.
    links: HashMap<FlowId, UpstreamId>,
    /// The addresses that dialled streams lead to.
    addresses: HashMap<FlowId, SocketAddr>,
    /// The addresses and flows of all of them.
    trust: Trust,
    /// The devices for whose dialogs streams stay.
    kept: Kept,
    /// How many may begin at each address.
    paces: Paces,
    /// Registrations that wait for their turn.
    waiting: usize,
    /// How many are [`held`].
    held: usize,
}

/// A registrar or outbound proxy, and the flow to it.
#[derive(Debug)]
struct Upstream {
    registrar: Box<str>,
    link: Link,
    /// The transport of the flow, or of the last one.
    transport: Transport,
    /// Requests from these addresses are believed: DNS names them now.
    trusted: Arc<[IpAddr]>,
    /// Whether DNS has told all of them.
    is_whole: bool,
    /// The addresses at which registrations were granted, which are trusted likewise.
    granted_at: GrantedAt,
    /// When anything came from it last.
    heard_at: Option<Instant>,
    /// When a REGISTER was answered last, or a message came by the flow: keep-alives may be answered by what stands before a server that is gone.
    answered_at: Option<Instant>,
    /// The address at which the SIP server sees this relay.
    public: Option<SocketAddr>,
    /// The public address as STUN reported it on this flow.
    mapped: Option<SocketAddr>,
    /// The same as an answer to a REGISTER reported it, and since when.
    seen: Option<(SocketAddr, Instant)>,
    /// A better flow that is being tried.
    probe: Option<FailbackProbe>,
    /// Flows that others have replaced, while answers may be due on them.
    replaced: Vec<FlowId>,
    /// The streams that stay for the dialogs of devices that are known no more.
    kept: BTreeMap<InstanceId, FlowId>,
    /// A flow to a further address, by which single REGISTERs go, and when one was last dialled.
    aside: Option<(FlowId, Transport)>,
    /// When a REGISTER was last answered by it.
    aside_heard_at: Option<Instant>,
    aside_sought_at: Option<Instant>,
    /// Until when it is remembered although nobody is there.
    held_until: Option<Instant>,
    /// How it has served of late.
    fitness: Fitness,
    /// The bindings that wait for another try, and may begin before their time.
    recovery: Recovery,
    /// When a stream was left last because its messages could not be told apart.
    doubted_at: Option<Instant>,
    /// The flow that broke, and to whose address the next dial leads last.
    avoided: Option<FlowId>,
    /// Requests that came by a stream that has ended, and whose answers wait for the next one.
    unanswered: Vec<ServerId>,
    members: BTreeSet<BindingId>,
    /// REGISTERs and registrations that only pass through; they want a flow as long as there is one of them.
    transit_refs: usize,
    /// The accounts of registrations that pass through.
    accounts: Accounts,
    /// Members that are registered.
    registered_count: usize,
    /// Members that wait for their turn on the flow: those whose turn comes first, and the others.
    urgent: VecDeque<BindingId>,
    queue: VecDeque<BindingId>,
    pace: Pace,
    window: Window,
    /// A timer is set for those whose turn comes later.
    pacing: bool,
    /// How many have their place at the address when the timer fires, and which.
    reserved: Option<(usize, Place)>,
    /// Dials that failed, in a row.
    failures: u8,
    /// Flows that did not settle, in a row.
    losses: u8,
    /// The shortest time that it has granted and that has not been over when it granted a longer one, and when it is; none yet.
    shortest_grant: Option<(Duration, Instant)>,
    /// Until when another shard's success does not have it dialled once more.
    hurried_until: Option<Instant>,
    /// The one deadline that counts; earlier timers that still fire are ignored.
    armed: Option<Instant>,
}

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each SIP server, and nearly always up")]
enum Link {
    Down,
    Dialling,
    BackingOff,
    Up { flow: FlowId, keep_alive: KeepAlive, since: Instant },
}

/// A flow to a better address on which OPTIONS was sent.
#[derive(Debug)]
struct FailbackProbe {
    flow: FlowId,
    transport: Transport,
    branch: BranchId,
    /// The member that registers by it, once that was answered.
    on_trial: Option<BindingId>,
}

impl Upstreams {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Registrations that wait for their turn, at all SIP servers.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Dialled streams that are open.
    pub(super) fn links(&self) -> usize {
        self.links.len()
    }

    fn get(&self, id: UpstreamId) -> Option<&Upstream> {
        self.rows.get(&id)
    }

    fn get_mut(&mut self, id: UpstreamId) -> Option<&mut Upstream> {
        self.rows.get_mut(&id)
    }

    /// The Request-URI of REGISTER at this SIP server.
    pub(super) fn registrar(&self, id: UpstreamId) -> Option<&str> {
        self.rows.get(&id).map(|upstream| &*upstream.registrar)
    }

    /// The flow toward a SIP server, and its transport; `None` when none is up.
    pub(super) fn flow(&self, id: UpstreamId) -> Option<(FlowId, Transport)> {
        match self.rows.get(&id)? {
            Upstream { link: Link::Up { flow, .. }, transport, .. } => Some((*flow, *transport)),
            _ => None,
        }
    }

    /// The better flow that is being tried, and its transport.
    pub(super) fn probed(&self, id: UpstreamId) -> Option<(FlowId, Transport)> {
        self.rows.get(&id)?.probe.as_ref().map(|probe| (probe.flow, probe.transport))
    }

    /// Whether a request came from this SIP server: by its flow, or from one of its addresses.
    pub(super) fn is_trusted(&self, id: UpstreamId, source: &Source) -> bool {
        self.rows.get(&id).is_some_and(|upstream| {
            let by_flow = matches!(&upstream.link, Link::Up { flow, .. } if *flow == source.flow);
            let ip = source.peer.ip().to_canonical();
            // A flow that carries a registration on trial may also carry requests for that binding.
            let is_tried = upstream.probe.as_ref().is_some_and(|it| it.on_trial.is_some() && it.flow == source.flow);
            by_flow
                || is_tried
                || upstream.replaced.contains(&source.flow)
                || upstream.trusted.iter().any(|trusted| trusted.to_canonical() == ip)
                || upstream.granted_at.has(ip)
        })
    }

    /// Whether a request came from any SIP server.
    pub(super) fn any_trusts(&self, source: &Source) -> bool {
        self.trust.has_address(source.peer.ip())
            || self.trust.may_be_dialled(source.flow) && self.rows.keys().any(|id| self.is_trusted(*id, source))
    }

    /// Whether it is known by its addresses, so that its requests can be told from others'.
    pub(super) fn is_known(&self, id: UpstreamId) -> bool {
        let known = |upstream: &Upstream| matches!(upstream.link, Link::Up { .. }) || !upstream.trusted.is_empty();
        self.rows.get(&id).is_some_and(known)
    }

    /// Whether all its addresses are known, so that what comes from others is not its.
    pub(super) fn is_known_whole(&self, id: UpstreamId) -> bool {
        self.is_known(id) && self.rows.get(&id).is_some_and(|upstream| upstream.is_whole)
    }

    /// The SIP server has answered.
    pub(super) fn note_heard(&mut self, now: Instant, id: UpstreamId) {
        if let Some(upstream) = self.rows.get_mut(&id) {
            (upstream.heard_at, upstream.answered_at) = (Some(now), Some(now));
        }
    }

    /// When one more REGISTER may go to this SIP server; its turn is kept. `None`: not `within` this time.
    pub(super) fn register_turn(&mut self, now: Instant, id: UpstreamId, within: Duration) -> Option<Instant> {
        Some(self.rows.get_mut(&id)?.pace.place(now, within)?.at)
    }

    /// Likewise by this flow: its address may be another SIP server's, too.
    pub(super) fn register_place(
        &mut self,
        now: Instant,
        flow: FlowId,
        per_second: u32,
        within: Duration,
    ) -> Option<Place> {
        match self.address_of(flow) {
            Some(address) => self.paces.place(now, address, per_second, within),
            None => Some(Place::at(now)),
        }
    }

    /// Where a place at a flow's address is now, if it was moved back since it was given.
    pub(super) fn moved_place(&self, now: Instant, flow: FlowId, place: Place) -> Option<Place> {
        self.paces.moved(now, self.address_of(flow)?, place)
    }

    /// A stream that will be told of as dialled leads to this address.
    pub(super) fn note_address(&mut self, flow: FlowId, address: SocketAddr) {
        self.addresses.insert(flow, address);
    }

    /// A REGISTER was sent again to this address.
    pub(super) fn charge(&mut self, now: Instant, address: IpAddr) {
        self.paces.charge(now, address);
    }

    /// The address that a flow leads to, where that is known.
    pub(super) fn address_of(&self, flow: FlowId) -> Option<IpAddr> {
        self.peer_of(flow).map(|peer| peer.ip())
    }

    /// Likewise, with the port.
    pub(super) fn peer_of(&self, flow: FlowId) -> Option<SocketAddr> {
        match flow {
            FlowId::Datagram(peer) => Some(peer),
            stream => self.addresses.get(&stream).copied(),
        }
    }

    /// Keeps count of the members that are registered, and of those that ask; whether there is room for another one that waits.
    pub(super) fn count(&mut self, now: Instant, registration: &mut Registration) -> bool {
        let Some(upstream) = self.rows.get_mut(&registration.upstream) else { return false };
        let frees = match (registration.asks, registration.is_asking()) {
            (None, true) => {
                registration.asks = Some(upstream.window.begin(now));
                false
            }
            (Some(began), false) => {
                registration.asks = None;
                upstream.window.end(began);
                let waiting = upstream.urgent.len() + upstream.queue.len();
                !upstream.pacing && waiting > 0
            }
            _ => false,
        };
        match (registration.counted, registration.is_registered()) {
            (false, true) => upstream.registered_count += 1,
            (true, false) => upstream.registered_count -= 1,
            _ => {}
        }
        registration.counted = registration.is_registered();
        frees
    }

    /// A REGISTER was answered that was under way since then.
    pub(super) fn note_answer(&mut self, now: Instant, id: UpstreamId, began: Option<Began>) {
        if let Some((upstream, began)) = self.rows.get_mut(&id).zip(began) {
            upstream.window.answer(now, began);
        }
    }

    /// The answer to this request waits for the next flow to its SIP server.
    pub(super) fn answer_later(&mut self, id: UpstreamId, server: ServerId) {
        if let Some(upstream) = self.rows.get_mut(&id).filter(|it| it.unanswered.len() < UNANSWERED_MAX) {
            upstream.unanswered.push(server);
        }
    }

    /// Takes those whose answers wait for a flow.
    pub(super) fn take_unanswered(&mut self, id: UpstreamId) -> Vec<ServerId> {
        self.rows.get_mut(&id).map(|upstream| std::mem::take(&mut upstream.unanswered)).unwrap_or_default()
    }

    /// A registration has a place in the line of its SIP server.
    fn enqueue(&mut self, registration: &mut Registration) {
        self.enqueue_for(registration, registration.due_turn());
    }

    /// Likewise after a flow was lost. A binding registered by that flow may be gone as well as one that was not registered, so all bindings that the
    /// server has accepted go first.
    fn enqueue_after_a_loss(&mut self, registration: &mut Registration) {
        let turn = if registration.is_established() { Turn::First } else { registration.due_turn() };
        self.enqueue_for(registration, turn);
    }

    fn enqueue_for(&mut self, registration: &mut Registration, turn: Turn) {
        let Some(upstream) = self.rows.get_mut(&registration.upstream) else { return };
        if registration.turn >= turn {
            return;
        }
        self.waiting += usize::from(registration.turn == Turn::None);
        // A registration that moves forward leaves its old place behind, which is passed over.
        registration.turn = turn;
        let queue = if turn == Turn::First { &mut upstream.urgent } else { &mut upstream.queue };
        queue.push_back(registration.binding);
    }

    /// A registration waits no longer.
    fn dequeue(&mut self, registration: &mut Registration) {
        self.waiting -= usize::from(registration.turn != Turn::None);
        registration.turn = Turn::None;
    }

    /// Records that a REGISTER of a binding that went `by` this flow succeeded for this time: earlier failures count no more. Returns the
    /// consequences for others.
    pub(super) fn note_success(
        &mut self,
        now: Instant,
        id: UpstreamId,
        binding: BindingId,
        by: FlowId,
        granted: Duration,
    ) -> Option<GrantEffects> {
        let upstream = self.rows.get_mut(&id)?;
        upstream.failures = 0;
        if upstream.shortest_grant.is_none_or(|(shortest, over)| granted <= shortest || over <= now) {
            upstream.shortest_grant = Some((granted, now + granted));
        }
        let back = upstream.grant(now, by, Some(binding));
        self.believe(now, id, by, granted);
        back
    }

    /// Likewise a registration that only passes through; `whose` names its account, if the registration was known.
    pub(super) fn note_passed(
        &mut self,
        now: Instant,
        id: UpstreamId,
        whose: Option<BindingId>,
        by: FlowId,
        granted: Duration,
    ) -> Option<GrantEffects> {
        self.believe(now, id, by, granted);
        self.rows.get_mut(&id)?.grant(now, by, whose)
    }

    /// Whether a flow is known to lead to this address.
    fn leads_there(&self, flow: FlowId, address: IpAddr) -> bool {
        self.address_of(flow).is_some_and(|to| to.to_canonical() == address.to_canonical())
    }

    /// Whether a flow is known to lead to another address than this one.
    pub(super) fn leads_elsewhere(&self, flow: FlowId, address: IpAddr) -> bool {
        self.address_of(flow).is_some_and(|to| to.to_canonical() != address.to_canonical())
    }

    /// Whether the flow in use leads to where this one does.
    pub(super) fn leads_to_where(&self, id: UpstreamId, by: FlowId) -> bool {
        let Some((flow, _)) = self.flow(id) else { return false };
        flow == by || self.address_of(flow).is_some_and(|address| self.leads_there(by, address))
    }

    /// Whether a flow to this SIP server is being opened, or will be.
    pub(super) fn is_awaited(&self, id: UpstreamId) -> bool {
        self.rows.get(&id).is_some_and(|upstream| matches!(upstream.link, Link::Dialling | Link::BackingOff))
    }

    /// The waits after failures of an account at this SIP server, which has `granted` it so long.
    pub(super) fn back_off(&self, id: UpstreamId, timing: &BackOff, granted: Option<Duration>) -> BackOff {
        self.rows.get(&id).map_or(*timing, |upstream| upstream.asks_again(timing, granted))
    }
}

impl Endpoint {
    /// The flow by which the bindings of a SIP server are registered; `None` while none is up.
    pub fn flow_to(&self, id: UpstreamId) -> Option<FlowId> {
        self.upstreams.flow(id).map(|(flow, _)| flow)
    }

    /// Whether a binding, or a REGISTER under way, is with a SIP server: it has not been told as forgotten.
    pub fn knows_upstream(&self, id: UpstreamId) -> bool {
        self.upstreams.get(id).is_some()
    }

    pub(super) fn join_upstream(&mut self, now: Instant, id: UpstreamId, registrar: Box<str>, binding: BindingId) {
        let per_second = self.core.settings.upstream.registrations_per_second;
        let upstream = self.upstreams.rows.entry(id).or_insert_with(|| Upstream::new(now, registrar, per_second));
        upstream.members.insert(binding);
    }

    /// Counts a reference of a REGISTER, or a registration, that only passes through.
    pub(super) fn join_transit(&mut self, now: Instant, id: UpstreamId, registrar: Box<str>) {
        let per_second = self.core.settings.upstream.registrations_per_second;
        self.upstreams.rows.entry(id).or_insert_with(|| Upstream::new(now, registrar, per_second)).transit_refs += 1;
    }

    /// Drops such a reference.
    pub(super) fn leave_transit(&mut self, now: Instant, id: UpstreamId) {
        if let Some(upstream) = self.upstreams.get_mut(id) {
            upstream.transit_refs = upstream.transit_refs.saturating_sub(1);
        }
        self.hold_if_failed(now, id);
        self.core.event(Event::UpstreamReleased(id));
        self.forget_unless_needed(now, id, false);
    }

    /// A transit reference wants a flow: one is dialled unless that is under way.
    fn want_transit_flow(&mut self, id: UpstreamId) {
        if self.upstreams.get(id).is_some_and(|upstream| matches!(upstream.link, Link::Down)) {
            self.dial(id, None);
        }
    }

    pub(super) fn leave_upstream(&mut self, now: Instant, id: UpstreamId, registration: &mut Registration) {
        self.upstreams.dequeue(registration);
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        upstream.members.remove(&registration.binding);
        upstream.fitness.forget(registration.binding);
        self.give_up_trial(id, registration.binding);
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        if registration.counted {
            upstream.registered_count -= 1;
        }
        if let Some(began) = registration.asks.take() {
            upstream.window.end(began);
            self.go_on_in_turn(now, id);
        }
        self.forget_unless_needed(now, id, true);
    }
}

impl Upstream {
    fn new(now: Instant, registrar: Box<str>, per_second: u32) -> Self {
        Self {
            registrar,
            link: Link::Down,
            transport: Transport::Tls,
            trusted: Arc::new([]),
            is_whole: false,
            granted_at: GrantedAt::default(),
            heard_at: None,
            answered_at: None,
            public: None,
            mapped: None,
            seen: None,
            probe: None,
            replaced: Vec::new(),
            kept: BTreeMap::new(),
            aside: None,
            aside_heard_at: None,
            aside_sought_at: None,
            held_until: None,
            fitness: Fitness::default(),
            recovery: Recovery::default(),
            doubted_at: None,
            avoided: None,
            hurried_until: None,
            unanswered: Vec::new(),
            members: BTreeSet::new(),
            transit_refs: 0,
            accounts: Accounts::new(),
            registered_count: 0,
            urgent: VecDeque::new(),
            queue: VecDeque::new(),
            pace: Pace::new(now, per_second),
            window: Window::new(now),
            pacing: false,
            reserved: None,
            failures: 0,
            losses: 0,
            shortest_grant: None,
            armed: None,
        }
    }
}
