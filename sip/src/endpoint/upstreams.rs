//! The flows toward SIP servers, and whose turn it is on them.
//!
//! Bindings of one registrar share one flow.
//!
//! | link | wanted | dialled | dial failed | flow lost, first or settled | flow lost, soon again | wait over |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | Down | dial → Dialling | – | – | – | – | – |
//! | Dialling | – | → Up, begin those that want it | → BackingOff | – | – | – |
//! | BackingOff | – | → Up | – | – | – | dial → Dialling |
//! | Up | begin, in turn | – | – | dial → Dialling | → BackingOff | – |
//!
//! A registration begins when it is its turn: [`Pace`] lets so many begin in a second, whatever made them want to: a
//! restart, a lost flow, a device that goes to sleep. Those that stand and those that end go first.
//!
//! Invariant: an upstream has at most one flow and one dial under way; a binding that wants a flow is begun when it is up.
//! One binding's misfortune (a request left unanswered, a 503) moves no flow by which others are registered and heard.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::core::OfflinePeer;
use super::failback::FailbackProbe;
use super::{Endpoint, Event, Output, Timer, Transport};
use crate::flow::{KeepAlive, Pulse, back_off, stun};
use crate::id::{BindingId, FlowId, InstanceId, ShardTag, UpstreamId};
use crate::registration::{Registration, RegistrationFailure, Turn};

/// Failures in a row after which a wait grows no more; bounded so that the counter cannot wrap.
const FAILURES_MAX: u8 = 16;

/// A registrar or outbound proxy, and the flow to it.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) registrar: Box<str>,
    pub(super) link: Link,
    /// The transport of the flow, or of the last one.
    pub(super) transport: Transport,
    /// Requests from these addresses are believed.
    pub(super) trusted: Arc<[IpAddr]>,
    /// When a REGISTER was answered last, or a message came by the flow.
    pub(super) heard_at: Option<Instant>,
    /// Where the SIP server sees this relay.
    pub(super) public: Option<SocketAddr>,
    /// What STUN said of it by this flow.
    mapped: Option<SocketAddr>,
    /// Whom the address that is to be avoided turned away, or left without an answer.
    turned_away: Option<BindingId>,
    /// A better flow that is being tried.
    pub(super) probe: Option<FailbackProbe>,
    /// The flow that a better one has replaced, while answers may be due on it.
    pub(super) replaced: Option<FlowId>,
    pub(super) members: BTreeSet<BindingId>,
    /// REGISTERs and registrations that only pass through; they want a flow as long as there is one of them.
    transit_refs: usize,
    /// Members that are registered.
    registered_count: usize,
    /// Members that wait for their turn on the flow: those whose turn comes first, and the others.
    urgent: VecDeque<BindingId>,
    queue: VecDeque<BindingId>,
    pace: Pace,
    /// Dials that failed, in a row.
    failures: u8,
    /// Flows that did not settle, in a row.
    losses: u8,
    /// When another address was asked for because this one served badly.
    moved_at: Option<Instant>,
    /// The one deadline that counts; earlier timers that still fire are ignored.
    armed: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum Link {
    Down,
    Dialling,
    BackingOff,
    Up { flow: FlowId, keep_alive: KeepAlive, since: Instant },
}

/// How many may begin: a burst at once, and then as many as the policy says in a second.
#[derive(Debug)]
struct Pace {
    interval: Duration,
    burst: u32,
    /// When the next one would be due if none came early.
    due: Instant,
    /// A timer is set.
    armed: bool,
}

impl Pace {
    fn new(now: Instant, per_second: u32) -> Self {
        let rate = per_second.max(1);
        Self { interval: Duration::from_secs(1) / rate, burst: (rate / 100).clamp(1, 20), due: now, armed: false }
    }

    /// How many of `waiting` may begin now; and when the next ones may, if any is left.
    fn take(&mut self, now: Instant, waiting: usize) -> (usize, Option<Instant>) {
        let ahead = self.interval * (self.burst - 1);
        let mut granted = 0;
        while granted < waiting && self.due <= now + ahead {
            self.due = self.due.max(now) + self.interval;
            granted += 1;
        }
        let left = waiting - granted;
        // A whole burst at a time, so that a long queue costs few timers.
        let batch = u32::try_from(left).unwrap_or(u32::MAX).min(self.burst);
        let next = (left > 0).then(|| (self.due + self.interval * (batch - 1)).checked_sub(ahead).unwrap_or(now));
        (granted, next.map(|at| at.max(now)))
    }
}

impl Endpoint {
    /// Whether a datagram on the upstream socket is STUN and goes to [`super::Input::Stun`].
    pub fn is_stun(datagram: &[u8]) -> bool {
        stun::is_stun(datagram)
    }

    /// The shard that asked what this STUN datagram answers; `None` when it answers nothing.
    pub fn shard_of_stun(datagram: &[u8]) -> Option<ShardTag> {
        let [a, b, ..] = stun::answer(datagram)?.id;
        Some(ShardTag(u16::from_be_bytes([a, b])))
    }

    pub(super) fn join_upstream(&mut self, now: Instant, id: UpstreamId, registrar: Box<str>, binding: BindingId) {
        let per_second = self.core.settings.upstream.registrations_per_second;
        let upstream = self.upstreams.entry(id).or_insert_with(|| Upstream::new(now, registrar, per_second));
        upstream.members.insert(binding);
    }

    /// One more REGISTER, or registration, that only passes through.
    pub(super) fn join_transit(&mut self, now: Instant, id: UpstreamId, registrar: Box<str>) {
        let per_second = self.core.settings.upstream.registrations_per_second;
        self.upstreams.entry(id).or_insert_with(|| Upstream::new(now, registrar, per_second)).transit_refs += 1;
    }

    /// One less. `last`: the instance whose dialogs may still want the flow.
    pub(super) fn leave_transit(&mut self, id: UpstreamId, last: Option<InstanceId>) {
        self.core.event(Event::UpstreamReleased(id));
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        upstream.transit_refs = upstream.transit_refs.saturating_sub(1);
        if upstream.members.is_empty() && upstream.transit_refs == 0 {
            self.forget_upstream(id, last);
        }
    }

    /// The flow toward a SIP server, and its transport.
    pub(super) fn flow_of_upstream(&self, id: UpstreamId) -> Option<(FlowId, Transport)> {
        match self.upstreams.get(&id)? {
            Upstream { link: Link::Up { flow, .. }, transport, .. } => Some((*flow, *transport)),
            _ => None,
        }
    }

    /// A guest wants a flow: one is opened unless that is under way.
    pub(super) fn want_transit_flow(&mut self, id: UpstreamId) {
        if self.upstreams.get(&id).is_some_and(|upstream| matches!(upstream.link, Link::Down)) {
            self.dial(id, None);
        }
    }

    /// Whether one more REGISTER may go to this SIP server now.
    pub(super) fn may_register_now(&mut self, now: Instant, id: UpstreamId) -> bool {
        self.upstreams.get_mut(&id).is_some_and(|upstream| upstream.pace.take(now, 1).0 == 1)
    }

    pub(super) fn leave_upstream(&mut self, id: UpstreamId, registration: &Registration) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        upstream.members.remove(&registration.binding);
        if registration.counted {
            upstream.registered_count -= 1;
        }
        if upstream.members.is_empty() && upstream.transit_refs == 0 {
            self.forget_upstream(id, Some(registration.instance));
        }
    }

    /// Its last binding, of this instance, is gone. While the device is attached the stream stays, for it may carry a call
    /// that is to be hung up; no longer than the device's own registration, which it cannot renew.
    fn forget_upstream(&mut self, id: UpstreamId, last: Option<InstanceId>) {
        let gone = self.upstreams.remove(&id);
        if let Some(probe) = gone.as_ref().and_then(|upstream| upstream.probe.as_ref()) {
            self.abandon_probe(probe);
        }
        if let Some(Upstream { link: Link::Up { flow, .. }, .. }) = gone
            && flow.is_reliable()
        {
            self.links.remove(&flow);
            match last.and_then(|last| self.attached.get(&last)).map(|attached| attached.expires_at) {
                Some(until) => self.core.timers.set(until, Timer::Linger(flow)),
                None => {
                    self.core.flush();
                    self.core.outputs.push_back(Output::Close(flow));
                }
            }
        }
    }

    /// Keeps count of the members that are registered.
    pub(super) fn count_registered(&mut self, binding: BindingId) {
        let Some(registration) = self.bindings.get_mut(&binding) else { return };
        let Some(upstream) = self.upstreams.get_mut(&registration.upstream) else { return };
        match (registration.counted, registration.is_registered()) {
            (false, true) => upstream.registered_count += 1,
            (true, false) => upstream.registered_count -= 1,
            _ => {}
        }
        registration.counted = registration.is_registered();
    }

    /// A registration succeeded: what failed before does not count any more.
    pub(super) fn on_upstream_works(&mut self, binding: BindingId) {
        let id = self.bindings.get(&binding).map(|registration| registration.upstream);
        if let Some(upstream) = id.and_then(|id| self.upstreams.get_mut(&id)) {
            upstream.failures = 0;
        }
    }

    pub(super) fn want_flow(&mut self, now: Instant, binding: BindingId) {
        let Some(registration) = self.bindings.get_mut(&binding) else { return };
        let id = registration.upstream;
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        match upstream.link {
            Link::Up { .. } => {
                upstream.enqueue(registration);
                self.take_turns(now, id);
            }
            Link::Down => self.dial(id, None),
            Link::Dialling | Link::BackingOff => {}
        }
    }

    fn dial(&mut self, id: UpstreamId, avoid: Option<FlowId>) {
        if let Some(upstream) = self.upstreams.get_mut(&id) {
            upstream.link = Link::Dialling;
            self.core.outputs.push_back(Output::Dial { upstream: id, avoid });
        }
    }

    pub(super) fn on_pace_due(&mut self, now: Instant, id: UpstreamId) {
        if let Some(upstream) = self.upstreams.get_mut(&id) {
            upstream.pace.armed = false;
            self.take_turns(now, id);
        }
    }

    /// Begins those whose turn it is.
    fn take_turns(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        if upstream.pace.armed {
            return;
        }
        let (granted, next) = upstream.pace.take(now, upstream.urgent.len() + upstream.queue.len());
        let turns: Vec<_> = std::iter::from_fn(|| upstream.urgent.pop_front().or_else(|| upstream.queue.pop_front()))
            .take(granted)
            .collect();
        if let Some(at) = next {
            upstream.pace.armed = true;
            self.core.timers.set(at, Timer::Pace(id));
        }
        for binding in turns {
            let Some(registration) = self.bindings.get_mut(&binding) else { continue };
            registration.turn = Turn::None;
            let step = registration.begin();
            self.carry_out(now, binding, step);
        }
    }

    pub(super) fn on_dialled(&mut self, now: Instant, id: UpstreamId, flow: FlowId, transport: Transport) {
        let Some(upstream) = self.upstreams.get_mut(&id) else {
            if flow.is_reliable() {
                self.core.outputs.push_back(Output::Close(flow));
            }
            return;
        };
        let [a, b] = self.core.settings.tag.0.to_be_bytes();
        let [c, d, e, f] = id.0.to_be_bytes();
        let keep_alive = KeepAlive::new(
            now,
            flow,
            [a, b, c, d, e, f],
            self.core.settings.timing.upstream.keep_alive,
            &mut self.core.random,
        );
        let at = keep_alive.deadline();
        upstream.link = Link::Up { flow, keep_alive, since: now };
        upstream.armed = Some(at);
        upstream.transport = transport;
        upstream.mapped = None;
        upstream.heard_at = Some(now);
        if flow.is_reliable() {
            self.links.insert(flow, id);
        }
        for binding in upstream.members.iter().copied().collect::<Vec<_>>() {
            if let Some(registration) = self.bindings.get_mut(&binding).filter(|it| it.wants_flow()) {
                upstream.enqueue(registration);
            }
        }
        self.core.timers.set(at, Timer::Upstream(id));
        self.take_turns(now, id);
        self.send_parked(now, OfflinePeer::Server(id));
        self.send_waiting(now, id);
    }

    pub(super) fn on_dial_failed(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        upstream.failures = (upstream.failures + 1).min(FAILURES_MAX);
        let after = back_off(upstream.failures, &self.core.settings.timing.upstream.back_off, &mut self.core.random);
        self.wait_to_dial(now, id, after);
        self.fail_registers(now, id, true);
    }

    fn wait_to_dial(&mut self, now: Instant, id: UpstreamId, after: Duration) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        upstream.link = Link::BackingOff;
        upstream.armed = Some(now + after);
        let failure = RegistrationFailure::Retry { status: None, after };
        let bindings = &self.bindings;
        let waiting = upstream.members.iter().copied().filter(|b| bindings.get(b).is_some_and(|r| r.wants_flow()));
        for binding in waiting.collect::<Vec<_>>() {
            if let Some(instance) = self.bindings.get(&binding).map(|registration| registration.instance) {
                self.core.event(Event::RegistrationFailed { binding, instance, failure });
            }
        }
        self.core.later(now, after, Timer::Upstream(id));
    }

    pub(super) fn on_addresses(&mut self, id: UpstreamId, addresses: Arc<[IpAddr]>) {
        if let Some(upstream) = self.upstreams.get_mut(&id) {
            upstream.trusted = addresses;
        }
    }

    /// The flow toward an upstream has ended: its bindings want another one. At once when it had settled, or the first
    /// time; a server that ends one flow after the other is not stormed.
    pub(super) fn on_link_closed(&mut self, now: Instant, id: UpstreamId) {
        let timing = self.core.settings.timing.upstream;
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        let settled = matches!(upstream.link, Link::Up { since, .. } if since + timing.settled <= now);
        upstream.losses = if settled { 0 } else { (upstream.losses + 1).min(FAILURES_MAX) };
        let wait =
            (upstream.losses > 1).then(|| back_off(upstream.losses - 1, &timing.back_off, &mut self.core.random));
        // So that those who want another flow wait for what is decided below.
        upstream.link = Link::Dialling;
        self.fail_registers(now, id, false);
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        let mut wanted = upstream.transit_refs > 0;
        for binding in upstream.members.iter().copied().collect::<Vec<_>>() {
            let Some(registration) = self.bindings.get_mut(&binding) else { continue };
            if let Some(branch) = registration.branch() {
                self.core.transactions.abandon(branch);
            }
            let step = registration.on_flow_lost();
            wanted |= registration.wants_flow();
            self.carry_out(now, binding, step);
        }
        match wait {
            None if wanted => self.dial(id, None),
            Some(after) if wanted => self.wait_to_dial(now, id, after),
            _ => {
                if let Some(upstream) = self.upstreams.get_mut(&id) {
                    upstream.link = Link::Down;
                }
            }
        }
    }

    /// A REGISTER was left without any response. When nothing else was heard meanwhile, another address is tried.
    pub(super) fn on_upstream_silent(&mut self, now: Instant, id: UpstreamId, binding: BindingId) {
        let Some(upstream) = self.upstreams.get(&id) else { return };
        let heard = upstream.heard_at.is_some_and(|at| at + self.core.settings.timing.transaction.t1_64() > now);
        if !heard {
            self.move_flow(now, id, binding);
        }
    }

    /// The server says that it, or its flow, serves nobody (503, 430). When nobody is registered by it, another address is
    /// tried (RFC 3263 §4.3).
    pub(super) fn on_upstream_unfit(&mut self, now: Instant, id: UpstreamId, binding: BindingId) {
        if self.upstreams.get(&id).is_some_and(|upstream| upstream.registered_count == 0) {
            self.move_flow(now, id, binding);
        }
    }

    /// There is another address: the binding for which the last one was left begins there at once.
    pub(super) fn on_address_changed(&mut self, now: Instant, id: UpstreamId) {
        let turned_away = self.upstreams.get_mut(&id).and_then(|upstream| upstream.turned_away.take());
        let Some(binding) = turned_away else { return };
        if let Some(registration) = self.bindings.get_mut(&binding) {
            let step = registration.on_address_changed();
            self.carry_out(now, binding, step);
        }
    }

    fn move_flow(&mut self, now: Instant, id: UpstreamId, binding: BindingId) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        let Link::Up { flow, .. } = upstream.link else { return };
        // Each of many bindings may say the same of the same server.
        if upstream.moved_at.is_some_and(|at| at + self.core.settings.timing.transaction.t1_64() > now) {
            return;
        }
        upstream.moved_at = Some(now);
        upstream.turned_away = Some(binding);
        let members: Vec<_> = upstream.members.iter().copied().collect();
        self.dial(id, Some(flow));
        if self.links.remove(&flow).is_some() {
            self.core.outputs.push_back(Output::Close(flow));
        }
        for binding in members {
            if let Some(registration) = self.bindings.get_mut(&binding).filter(|r| flow.is_reliable() || r.wants_flow())
            {
                if let Some(branch) = registration.branch() {
                    self.core.transactions.abandon(branch);
                }
                let step = registration.on_flow_lost();
                self.carry_out(now, binding, step);
            }
        }
    }

    pub(super) fn on_sign_of_life(&mut self, now: Instant, flow: FlowId, pong: bool) {
        let Some(id) = self.links.get(&flow).copied().filter(|id| !self.is_probe(*id, flow)) else { return };
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        upstream.heard_at = Some(now);
        if let Link::Up { keep_alive, .. } = &mut upstream.link {
            keep_alive.on_sign_of_life(pong);
        }
    }

    /// A STUN datagram. A mapped address that changes means that a router on the way has forgotten the flow: the server
    /// must be told of the new one (RFC 5626 §4.4.2).
    pub(super) fn on_stun(&mut self, now: Instant, from: FlowId, bytes: &[u8]) {
        let Some(answer) = stun::answer(bytes) else { return };
        let [_, _, a, b, c, d, ..] = answer.id;
        let id = UpstreamId(u32::from_be_bytes([a, b, c, d]));
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        let Link::Up { flow, keep_alive, .. } = &mut upstream.link else { return };
        if *flow != from || !keep_alive.on_stun(&answer) {
            return;
        }
        upstream.heard_at = Some(now);
        let Some(mapped) = answer.mapped else { return };
        let moved = upstream.mapped.replace(mapped).is_some_and(|before| before != mapped);
        self.learn_address(id, mapped);
        if moved {
            self.register_all(now, id);
        }
    }

    /// Registers again all that stand, each in its turn.
    fn register_all(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get(&id) else { return };
        for binding in upstream.members.iter().copied().collect::<Vec<_>>() {
            let Some(registration) = self.bindings.get_mut(&binding).filter(|it| it.awaits_refresh()) else { continue };
            let step = registration.on_flow_lost();
            self.carry_out(now, binding, step);
        }
    }

    pub(super) fn follow_flow_timer(&mut self, now: Instant, id: UpstreamId, interval: Duration) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        if let Link::Up { keep_alive, .. } = &mut upstream.link {
            keep_alive.follow(now, interval, &mut self.core.random);
            self.arm_keep_alive(id);
        }
    }

    pub(super) fn learn_address(&mut self, id: UpstreamId, address: SocketAddr) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        if upstream.public.replace(address) != Some(address) {
            self.core.event(Event::PublicAddress { upstream: id, address });
        }
    }

    pub(super) fn on_upstream_due(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(&id).filter(|upstream| upstream.armed.is_some_and(|at| at <= now))
        else {
            return;
        };
        upstream.armed = None;
        match &mut upstream.link {
            Link::BackingOff => self.dial(id, None),
            Link::Up { flow, keep_alive, .. } => {
                let flow = *flow;
                match keep_alive.on_deadline(now, &mut self.core.random) {
                    Pulse::Nothing => {}
                    Pulse::Ping => self.core.send(flow, Bytes::from_static(b"\r\n\r\n")),
                    Pulse::Stun(transaction) => {
                        self.core.send(flow, Bytes::copy_from_slice(&stun::request(&transaction)));
                    }
                    Pulse::Dead => return self.on_flow_dead(now, id, flow),
                }
                self.arm_keep_alive(id);
            }
            Link::Down | Link::Dialling => {}
        }
    }

    fn on_flow_dead(&mut self, now: Instant, id: UpstreamId, flow: FlowId) {
        if flow.is_reliable() {
            self.core.outputs.push_back(Output::Close(flow));
            self.on_closed(now, flow);
        } else {
            self.on_link_closed(now, id);
        }
    }

    /// Sets the timer of the flow's keep-alive, unless an earlier one is set.
    fn arm_keep_alive(&mut self, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        let Link::Up { keep_alive, .. } = &upstream.link else { return };
        let at = keep_alive.deadline();
        if upstream.armed.is_none_or(|armed| at < armed) {
            upstream.armed = Some(at);
            self.core.timers.set(at, Timer::Upstream(id));
        }
    }
}

impl Upstream {
    fn new(now: Instant, registrar: Box<str>, per_second: u32) -> Self {
        Self {
            registrar,
            link: Link::Down,
            transport: Transport::Tls,
            trusted: Arc::new([]),
            heard_at: None,
            public: None,
            mapped: None,
            turned_away: None,
            probe: None,
            replaced: None,
            members: BTreeSet::new(),
            transit_refs: 0,
            registered_count: 0,
            urgent: VecDeque::new(),
            queue: VecDeque::new(),
            pace: Pace::new(now, per_second),
            failures: 0,
            losses: 0,
            moved_at: None,
            armed: None,
        }
    }

    fn enqueue(&mut self, registration: &mut Registration) {
        let turn = registration.due_turn();
        if registration.turn >= turn {
            return;
        }
        // One that moves forward leaves its old place behind, where it will want nothing any more.
        registration.turn = turn;
        let queue = if turn == Turn::First { &mut self.urgent } else { &mut self.queue };
        queue.push_back(registration.binding);
    }
}
