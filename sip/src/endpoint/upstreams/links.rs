//! The flow to a SIP server: dialled, up, lost; and the turns of its bindings on it.
//!
//! | link | wanted | dialled | dial failed | flow lost, first or settled | flow lost, soon again | wait over |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | Down | dial → Dialling | – | – | – | – | – |
//! | Dialling | – | → Up, begin those that want it | → BackingOff | – | – | – |
//! | BackingOff | anew: dial soon | → Up | – | – | – | dial → Dialling |
//! | Up | begin, in turn | – | – | dial → Dialling | → BackingOff | – |
//!
//! A registration begins in its turn: `pace` limits how many begin in a second at a SIP server, and at the address that is dialled, whatever the reason: a
//! restart, a lost flow, a device that goes to sleep. Registered bindings, and those that end, go first.
//!
//! After a failed dial, and after a flow that soon ended again, [`redial`] says how long to wait. The next dial tries the same address last if it answered no
//! keep-alive, if the flow ended before it granted anything, or if two flows ended soon after each other: a balancer without a server behind it accepts and
//! closes (RFC 3263 §4.3). Otherwise a wait is as long as RFC 5626 §4.5 says, 30 s to 30 min, but no longer than a part of what the SIP server has granted,
//! [`DIALLED_IN`] or [`ASKED_IN`], because registrations would expire meanwhile. That holds for registrations of an earlier run as well: if there is one, and
//! nothing has been granted yet, the setting `register_expires` counts as granted.
//!
//! Invariant: an upstream has at most one flow and one dial under way. A binding that wants a flow begins when it is up.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Link, Upstream, redial};
use crate::endpoint::core::{OfflinePeer, Timer};
use crate::endpoint::{Endpoint, Event, FlowOutcome, Output, Transport};
use crate::flow::{Heard, KeepAlive, Pulse, SignOfLife, stun};
use crate::id::{BindingId, FlowId, ShardTag, UpstreamId};
use crate::registration::{RegistrationFailure, Turn};
use crate::timing::BackOff;

/// Failures in a row after which a wait grows no more; bounded so that the counter cannot wrap.
const FAILURES_MAX: u8 = 16;

/// A SIP server that has registered somebody is dialled again after this part, an eighth, of the shortest time that it has granted, at the latest.
const DIALLED_IN: u32 = 8;
/// For an account it is asked again after a half of what it has granted that, at the latest: there may be many.
const ASKED_IN: u32 = 2;
/// However short a time it has granted, it is left alone for this long.
const WAIT_MIN: Duration = Duration::from_secs(5);

/// The flow that follows one that can be used no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A dial is under way.
    Dialled,
    Wanted,
    Unwanted,
}

impl Endpoint {
    /// Whether a datagram on the upstream socket is STUN and goes to [`Input::Stun`](crate::endpoint::Input::Stun).
    pub fn is_stun(datagram: &[u8]) -> bool {
        stun::is_stun(datagram)
    }

    /// The shard that asked what this STUN datagram answers; `None` when it answers nothing.
    pub fn shard_of_stun(datagram: &[u8]) -> Option<ShardTag> {
        let [a, b, ..] = stun::answer(datagram)?.id;
        Some(ShardTag(u16::from_be_bytes([a, b])))
    }

    pub(in crate::endpoint) fn want_flow(&mut self, now: Instant, binding: BindingId) {
        let Some(registration) = self.bindings.get_mut(binding) else { return };
        let id = registration.upstream;
        let Some(upstream) = self.upstreams.get(id) else { return };
        match upstream.link {
            Link::Up { .. } => {
                self.upstreams.enqueue(registration);
                self.take_turns(now, id);
            }
            Link::Down => self.dial(id, None),
            Link::Dialling | Link::BackingOff => {}
        }
    }

    pub(super) fn dial(&mut self, id: UpstreamId, avoid: Option<FlowId>) {
        self.dial_for(id, avoid, false);
    }

    pub(super) fn dial_for(&mut self, id: UpstreamId, avoid: Option<FlowId>, for_one: bool) {
        if let Some(upstream) = self.upstreams.get_mut(id) {
            upstream.link = Link::Dialling;
            let avoid = avoid.or(upstream.avoided.take());
            self.core.outputs.push_back(Output::Dial { upstream: id, avoid, for_one });
        }
    }

    pub(in crate::endpoint) fn on_pace_due(&mut self, now: Instant, id: UpstreamId) {
        let address = self.upstreams.flow(id).and_then(|(flow, _)| self.upstreams.address_of(flow));
        let Some(upstream) = self.upstreams.rows.get_mut(&id) else { return };
        if let (Some((count, place)), Some(address)) = (upstream.reserved, address)
            && let Some(moved) = self.upstreams.paces.moved(now, address, place)
        {
            upstream.reserved = Some((count, moved));
            return self.core.timers.set(moved.at, Timer::Pace(id));
        }
        upstream.pacing = false;
        let reserved = upstream.reserved.take().map_or(0, |(count, _)| count);
        self.begin_turns(now, id, reserved);
        self.take_turns(now, id);
    }

    /// There may be room for another one: whose turn it is begins with the timers that are due.
    pub(in crate::endpoint) fn go_on_in_turn(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id).filter(|upstream| !upstream.pacing) else { return };
        upstream.pacing = true;
        self.core.timers.set(now, Timer::Pace(id));
    }

    /// Begins those whose turn it is.
    fn take_turns(&mut self, now: Instant, id: UpstreamId) {
        let per_second = self.core.settings.upstream.registrations_per_second;
        let address = self.upstreams.flow(id).and_then(|(flow, _)| self.upstreams.address_of(flow));
        let servers = self.upstreams.rows.len();
        // Without a flow no turn is of use: all that wait are put in order when there is one.
        let may_begin = |upstream: &&mut Upstream| !upstream.pacing && matches!(upstream.link, Link::Up { .. });
        let Some(upstream) = self.upstreams.rows.get_mut(&id).filter(may_begin) else { return };
        let due = upstream.pace.due(now);
        let waiting = upstream.urgent.len() + upstream.queue.len();
        let room = upstream.window.room(now, upstream.pace.per_second());
        let (granted, mut next) = upstream.pace.take(due, waiting.min(room));
        let mut begun = granted;
        if let Some(address) = address.filter(|_| granted > 0) {
            let at_address = self.upstreams.paces.reserve(due, address, granted, per_second, servers);
            begun = at_address.now;
            upstream.reserved = at_address.later.map(|place| (granted - begun, place));
            next = at_address.later.map(|place| place.at).or(next);
        }
        if let Some(at) = next {
            upstream.pacing = true;
            self.core.timers.set(at, Timer::Pace(id));
        }
        self.begin_turns(now, id, begun);
    }

    /// Begins the next so many.
    fn begin_turns(&mut self, now: Instant, id: UpstreamId, count: usize) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let turns: Vec<_> = std::iter::from_fn(|| upstream.urgent.pop_front().or_else(|| upstream.queue.pop_front()))
            .take(count)
            .collect();
        for binding in turns {
            let Some(registration) = self.bindings.get_mut(binding) else { continue };
            self.upstreams.dequeue(registration);
            let step = registration.begin();
            self.carry_out(now, binding, step);
        }
    }

    pub(in crate::endpoint) fn on_dialled(&mut self, now: Instant, id: UpstreamId, flow: FlowId, transport: Transport) {
        let Some(upstream) = self.upstreams.rows.get_mut(&id) else {
            return self.decline_flow(id, flow, FlowOutcome::NotWanted);
        };
        if matches!(upstream.link, Link::Up { .. }) {
            return self.on_looked(now, id, flow, transport);
        }
        self.core.event(Event::FlowSettled { upstream: id, flow, outcome: FlowOutcome::Taken });
        upstream.fitness.begin();
        upstream.window.begin_anew(now);
        (upstream.avoided, upstream.hurried_until) = (None, None);
        let [a, b] = self.core.settings.tag.0.to_be_bytes();
        let [c, d, e, f] = id.0.to_be_bytes();
        let keep_alive = KeepAlive::new(
            now,
            flow,
            [a, b, c, d, e, f],
            self.core.settings.timing.upstream.keep_alive.after_losses(upstream.losses),
            &mut self.core.random,
        );
        let at = keep_alive.deadline();
        upstream.link = Link::Up { flow, keep_alive, since: now };
        upstream.armed = Some(at);
        upstream.transport = transport;
        (upstream.mapped, upstream.seen) = (None, None);
        (upstream.heard_at, upstream.answered_at) = (Some(now), Some(now));
        if flow.is_reliable() {
            self.upstreams.links.insert(flow, id);
        }
        let bindings = &self.bindings;
        let wants = |binding| bindings.get(binding).filter(|it| it.wants_flow()).map(|it| (it.urgency(), binding));
        let mut wanting: Vec<_> = upstream.members.iter().copied().filter_map(wants).collect();
        wanting.sort_unstable();
        for (_, binding) in wanting {
            if let Some(registration) = self.bindings.get_mut(binding) {
                self.upstreams.enqueue_after_a_loss(registration);
            }
        }
        if let Some(upstream) = self.upstreams.rows.get_mut(&id) {
            // The places that they have left would take turns from others.
            let bindings = &self.bindings;
            upstream.queue.retain(|it| bindings.get(*it).is_some_and(|it| it.turn == Turn::Waiting));
        }
        self.upstreams.trust.note_dialled(flow, self.upstreams.rows.values());
        self.core.timers.set(at, Timer::Upstream(id));
        self.take_turns(now, id);
        self.answer_unanswered(id, flow);
        self.send_parked(now, OfflinePeer::Server(id));
        self.send_waiting(now, id);
    }

    pub(in crate::endpoint) fn on_dial_failed(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        if upstream.fitness.end_search() {
            // No other address is there for REGISTERs that the one in use has refused.
            return self.fail_registers(now, id);
        }
        if matches!(upstream.link, Link::Up { .. }) {
            // Another dial has opened the flow: the server was forgotten, and came back, while this one was under way.
            return;
        }
        upstream.failures = (upstream.failures + 1).min(FAILURES_MAX);
        let (failures, redial) = (upstream.failures, self.core.settings.timing.upstream.redial);
        let waits = self.dial_back_off(id);
        let after = redial::wait_after(failures, redial, &waits, &mut self.core.random);
        self.wait_to_dial(now, id, after);
        self.fail_registers(now, id);
        self.give_up_begun(now, id);
        self.answer_without_flow(now, id);
    }

    /// The waits after failures to have a flow here.
    fn dial_back_off(&self, id: UpstreamId) -> BackOff {
        let timing = self.core.settings.timing.upstream.back_off;
        let Some(upstream) = self.upstreams.get(id) else { return timing };
        let stands = |binding: &BindingId| self.bindings.get(*binding).is_some_and(|it| it.is_established());
        match upstream.shortest_grant {
            None if upstream.members.iter().any(stands) => {
                bounded(&timing, self.core.settings.register_expires / DIALLED_IN)
            }
            _ => upstream.back_off(&timing, DIALLED_IN),
        }
    }

    fn wait_to_dial(&mut self, now: Instant, id: UpstreamId, after: Duration) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        upstream.link = Link::BackingOff;
        upstream.armed = Some(now + after);
        let failure = RegistrationFailure::Retry { status: None, after };
        let bindings = &self.bindings;
        let waiting = upstream.members.iter().copied().filter(|b| bindings.get(*b).is_some_and(|r| r.wants_flow()));
        for binding in waiting.collect::<Vec<_>>() {
            if let Some(instance) = self.bindings.get(binding).map(|registration| registration.instance) {
                self.core.event(Event::RegistrationFailed { binding, instance, failure });
            }
        }
        self.core.later(now, after, Timer::Upstream(id));
    }

    /// A stream has ended; nothing happens here when it led to no SIP server.
    pub(in crate::endpoint) fn on_upstream_closed(&mut self, now: Instant, flow: FlowId) {
        let was_dialled = self.upstreams.addresses.remove(&flow).is_some();
        let kept_by = self.lose_kept(flow);
        match self.upstreams.links.remove(&flow) {
            Some(id) if !self.lost_probe(now, id, flow) => self.on_link_closed(now, id),
            None if was_dialled => self.on_replaced_closed(now, flow),
            _ => {}
        }
        if let Some(id) = kept_by {
            self.forget_unless_needed(now, id, true);
        }
    }

    /// The flow toward an upstream has ended: its bindings want another one. At once when it had settled, or the first
    /// time; a server that ends one flow after the other is not stormed.
    fn on_link_closed(&mut self, now: Instant, id: UpstreamId) {
        let timing = self.core.settings.timing.upstream;
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let settled = matches!(upstream.link, Link::Up { since, .. } if since + timing.settled <= now);
        let has_served = upstream.fitness.has_served();
        upstream.failures = if settled { 0 } else { upstream.failures };
        upstream.losses = if settled { 0 } else { (upstream.losses + 1).min(FAILURES_MAX) };
        let losses = upstream.losses;
        if let Link::Up { flow, .. } = upstream.link
            && !settled
            && (!has_served || losses > 1)
        {
            upstream.avoided = Some(flow);
        }
        let waits = self.dial_back_off(id);
        let wait = (losses > 1).then(|| redial::wait_after(losses - 1, timing.redial, &waits, &mut self.core.random));
        match (self.begin_anew(now, id), wait) {
            (Next::Dialled, _) => {}
            (Next::Wanted, None) => self.dial(id, None),
            (Next::Wanted, Some(after)) => self.wait_to_dial(now, id, after),
            (Next::Unwanted, _) => self.rest(id),
        }
    }

    /// The flow in use can be used no more: all that was registered or asked by it wants another one.
    pub(super) fn begin_anew(&mut self, now: Instant, id: UpstreamId) -> Next {
        let ended = self.upstreams.flow(id).map(|(flow, _)| flow);
        let Some(upstream) = self.upstreams.get_mut(id) else { return Next::Unwanted };
        // Bindings that want another flow wait for what the caller decides.
        upstream.link = Link::Dialling;
        let is_dialled = upstream.fitness.end_search();
        self.ask_all_anew(now, id, ended);
        let Some(upstream) = self.upstreams.get_mut(id) else { return Next::Unwanted };
        let mut is_wanted = upstream.transit_refs > 0;
        for binding in upstream.members.iter().copied().collect::<Vec<_>>() {
            let Some(registration) = self.bindings.get_mut(binding) else { continue };
            if let Some(branch) = registration.branch() {
                self.core.transactions.abandon(branch);
            }
            let step = registration.on_flow_lost();
            is_wanted |= registration.wants_flow();
            self.carry_out(now, binding, step);
        }
        match is_dialled {
            true => Next::Dialled,
            false if is_wanted => Next::Wanted,
            false => Next::Unwanted,
        }
    }

    /// No flow is wanted.
    pub(super) fn rest(&mut self, id: UpstreamId) {
        if let Some(upstream) = self.upstreams.get_mut(id) {
            (upstream.link, upstream.avoided) = (Link::Down, None);
            self.core.event(Event::UpstreamIdle { upstream: id, forgotten: false });
        }
    }

    pub(in crate::endpoint) fn on_sign_of_life(&mut self, now: Instant, flow: FlowId, sign: SignOfLife) {
        let Some(id) = self.upstreams.links.get(&flow).copied().filter(|id| !self.is_probe(*id, flow)) else { return };
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        upstream.heard_at = Some(now);
        if sign == SignOfLife::Message {
            upstream.answered_at = Some(now);
        }
        if let Link::Up { keep_alive, .. } = &mut upstream.link {
            keep_alive.on_sign_of_life(sign);
        }
    }

    /// A STUN datagram. A mapped address that changes means that a router on the way has forgotten the flow, an error may mean that the server has: the
    /// server must be told of it anew (RFC 5626 §4.4.2).
    pub(in crate::endpoint) fn on_stun(&mut self, now: Instant, from: FlowId, bytes: &[u8]) {
        let Some(answer) = stun::answer(bytes) else { return };
        let [_, _, a, b, c, d, ..] = answer.id;
        let id = UpstreamId(u32::from_be_bytes([a, b, c, d]));
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let Link::Up { flow, keep_alive, .. } = &mut upstream.link else { return };
        if *flow != from {
            return;
        }
        let Some(heard) = keep_alive.on_stun(now, &answer, &mut self.core.random) else { return };
        upstream.heard_at = Some(now);
        if heard == Heard::Failed {
            self.arm_keep_alive(id);
            return self.register_standing(now, id, None, usize::MAX);
        }
        let Some(mapped) = answer.mapped else { return };
        let moved = upstream.mapped.replace(mapped).is_some_and(|before| before != mapped);
        self.learn_address(id, mapped);
        if moved {
            self.register_standing(now, id, None, usize::MAX);
        }
    }

    pub(in crate::endpoint) fn follow_flow_timer(&mut self, now: Instant, id: UpstreamId, interval: Duration) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        if let Link::Up { keep_alive, .. } = &mut upstream.link {
            keep_alive.follow(now, interval, &mut self.core.random);
            self.arm_keep_alive(id);
        }
    }

    /// A registration was granted `by` a flow.
    pub(in crate::endpoint) fn tell_address_grants(&mut self, by: FlowId) {
        if let Some(address) = self.upstreams.peer_of(by) {
            self.core.event(Event::AddressGrants(address));
        }
    }

    /// A binding was granted `by` a flow, and the server saw its REGISTER come from this address. Another one than before means, where no STUN answer tells
    /// it sooner, that a router on the way has forgotten the flow: calls to the others that stand are lost there. The one before must have stood for 32 s, so
    /// that a server which sees another address each time is not asked again and again.
    pub(in crate::endpoint) fn on_seen_from(
        &mut self,
        now: Instant,
        by: FlowId,
        binding: BindingId,
        address: SocketAddr,
    ) {
        let stood = self.core.settings.timing.transaction.t1_64();
        let Some(id) = self.bindings.get(binding).map(|registration| registration.upstream) else { return };
        self.learn_address(id, address);
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let in_use = matches!(upstream.link, Link::Up { flow, .. } if flow == by);
        let is_known = upstream.mapped.is_some() || upstream.seen.is_some_and(|(seen, _)| seen == address);
        if !in_use || by.is_reliable() || is_known {
            return;
        }
        let before = upstream.seen.replace((address, now));
        if before.is_some_and(|(_, since)| since + stood <= now) {
            self.register_standing(now, id, Some(binding), usize::MAX);
        }
    }

    fn learn_address(&mut self, id: UpstreamId, address: SocketAddr) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        if upstream.public.replace(address) != Some(address) {
            self.core.event(Event::PublicAddress { upstream: id, address });
        }
    }

    pub(in crate::endpoint) fn on_upstream_due(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id).filter(|upstream| upstream.armed.is_some_and(|at| at <= now))
        else {
            return;
        };
        upstream.armed = None;
        let bindings = &self.bindings;
        let stands = |binding: &BindingId| bindings.get(*binding).is_some_and(|it| it.is_established());
        let is_needed = !upstream.is_unheard() || upstream.transit_refs > 0 || upstream.members.iter().any(stands);
        match &mut upstream.link {
            // A server that is only remembered is not dialled.
            Link::BackingOff if !upstream.members.is_empty() || upstream.transit_refs > 0 => self.dial(id, None),
            Link::BackingOff => self.rest(id),
            Link::Up { keep_alive, .. } if !is_needed => {
                keep_alive.put_off(now, &mut self.core.random);
                self.arm_keep_alive(id);
            }
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

    /// The flow in use leads to another server than the one before: what that one refused is asked for there, each in its turn.
    pub(in crate::endpoint) fn on_upstream_replaced(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get(id) else { return };
        for binding in upstream.members.iter().copied().collect::<Vec<_>>() {
            let Some(registration) = self.bindings.get_mut(binding) else { continue };
            let step = registration.on_server_replaced();
            self.carry_out(now, binding, step);
        }
    }

    pub(super) fn close_stream(&mut self, flow: FlowId) {
        if flow.is_reliable() {
            self.core.outputs.push_back(Output::Close(flow));
        }
    }

    fn on_flow_dead(&mut self, now: Instant, id: UpstreamId, flow: FlowId) {
        if let Some(upstream) = self.upstreams.get_mut(id) {
            upstream.avoided = Some(flow);
        }
        if flow.is_reliable() {
            self.core.outputs.push_back(Output::Close(flow));
            self.on_closed(now, flow);
        } else {
            self.on_link_closed(now, id);
        }
    }

    /// Asks each flow that is up for a sign of life.
    pub(in crate::endpoint) fn probe_flows(&mut self, now: Instant) {
        let all: Vec<UpstreamId> = self.upstreams.rows.keys().copied().collect();
        for id in all {
            if let Some(Upstream { link: Link::Up { keep_alive, .. }, .. }) = self.upstreams.get_mut(id) {
                keep_alive.ask_at_once(now);
                self.arm_keep_alive(id);
            }
        }
    }

    /// Sets the timer of the flow's keep-alive, unless an earlier one is set.
    fn arm_keep_alive(&mut self, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let Link::Up { keep_alive, .. } = &upstream.link else { return };
        let at = keep_alive.deadline();
        if upstream.armed.is_none_or(|armed| at < armed) {
            upstream.armed = Some(at);
            self.core.timers.set(at, Timer::Upstream(id));
        }
    }
}

impl Upstream {
    /// Nothing has come back by the datagrams of the flow that is up: nobody at that address has asked for datagrams, so it gets the paced REGISTERs alone.
    fn is_unheard(&self) -> bool {
        match &self.link {
            Link::Up { flow, since, .. } => !flow.is_reliable() && self.heard_at == Some(*since),
            Link::Down | Link::Dialling | Link::BackingOff => false,
        }
    }

    /// The waits after failures of an account that it has `granted` so long. One that it has granted nothing in this run waits no less than any
    /// does at first, however short another one was granted.
    pub(super) fn asks_again(&self, timing: &BackOff, granted: Option<Duration>) -> BackOff {
        match (granted, self.shortest_grant) {
            (Some(granted), _) => bounded(timing, granted / ASKED_IN),
            (None, Some((shortest, _))) => bounded(timing, (shortest / ASKED_IN).max(timing.base)),
            (None, None) => *timing,
        }
    }

    fn back_off(&self, timing: &BackOff, part: u32) -> BackOff {
        self.shortest_grant.map_or(*timing, |(granted, _)| bounded(timing, granted / part))
    }
}

/// The same waits, none of them longer than `most`.
fn bounded(timing: &BackOff, most: Duration) -> BackOff {
    BackOff { max: timing.max.min(most.max(WAIT_MIN)), ..*timing }
}
