//! Going back to a better address of a SIP server, after a worse one had to do (RFC 3263 §4.3).
//!
//! | probe | a better flow is open | OPTIONS is answered | it is not, or with 408, 430 or 5xx | the REGISTER is granted | it is answered otherwise, or not | the flow breaks |
//! | --- | --- | --- | --- | --- | --- | --- |
//! | none | send OPTIONS → asked; while no flow is up and none is dialled, move at once | – | – | – | – | – |
//! | asked | close it | one registered member registers by it → on trial; while none is registered, move → none | close it → none | – | – | → none |
//! | on trial | close it | – | – | move → none | close it → none | → none |
//!
//! A server may answer OPTIONS before it has its database; an account needs it to register. The member on trial is any registered one, another one each time.
//! It stays registered by the flow in use meanwhile, and a refusal of the better address does not count against it: it registers again by the flow in use.
//!
//! A move registers every other member again, each in its turn, on the better flow. The old one stays open as long as a call that came by it may need an
//! answer, and its requests are believed until then, so no call is lost.
//!
//! Invariant: a flow that has granted no registration never replaces one by which a binding is registered. One upstream has one probe at a time. The outcome of
//! each flow is told once.

use std::time::Instant;

use super::{FailbackProbe, Link, Upstream};
use crate::endpoint::core::ClientOwner;
use crate::endpoint::{Endpoint, Event, FlowOutcome, Transport};
use crate::flow::Side;
use crate::id::{BindingId, BranchId, FlowId, UpstreamId};
use crate::message::{Composer, Message, Method, Name};

impl Endpoint {
    /// A flow to a better address is open.
    pub(in crate::endpoint) fn on_failback_dialled(
        &mut self,
        now: Instant,
        id: UpstreamId,
        flow: FlowId,
        transport: Transport,
    ) {
        let branch = self.core.branch();
        let Some(upstream) = self.upstreams.get_mut(id) else {
            return self.decline_flow(id, flow, FlowOutcome::NotWanted);
        };
        match upstream.link {
            Link::Up { .. } if upstream.probe.is_none() && upstream.is_used() => {}
            // There is nothing that works and could be lost by it.
            Link::BackingOff => return self.on_dialled(now, id, flow, transport),
            _ => return self.decline_flow(id, flow, FlowOutcome::NotWanted),
        }
        upstream.probe = Some(FailbackProbe { flow, transport, branch, on_trial: None });
        let registrar = upstream.registrar.clone();
        if flow.is_reliable() {
            self.upstreams.links.insert(flow, id);
        }
        let local = self.core.settings.sent_by(Side::Upstream, transport).host;
        let rport = if transport == Transport::Udp { ";rport" } else { "" };
        let tag = self.core.random.tag();
        let ask = Composer::request(Method::Options, &registrar)
            .header(Name::Via, format_args!("SIP/2.0/{} {local};branch={branch}{rport}", transport.via()))
            .header(Name::MaxForwards, 70)
            .header(Name::From, format_args!("<sip:{local}>;tag={tag}"))
            .header(Name::To, format_args!("<{registrar}>"))
            .header(Name::CallId, format_args!("{tag}.{}", self.core.epoch))
            .header(Name::CSeq, "1 OPTIONS")
            .header(Name::UserAgent, concat!("sipwake/", env!("CARGO_PKG_VERSION")))
            .finish();
        if self.core.transactions.send(now, branch, Method::Options, ask, flow, ClientOwner::FailbackProbe(id)).is_err()
        {
            self.on_probe_unanswered(id, branch);
        }
    }

    pub(in crate::endpoint) fn on_probe_response(
        &mut self,
        now: Instant,
        id: UpstreamId,
        branch: BranchId,
        response: &Message,
    ) {
        match response.status() {
            // A challenge, a 404 or a 405 is an answer, too.
            Some(200..=407 | 409..=429 | 431..=499 | 600..) => self.on_probe_answered(now, id, branch),
            Some(408 | 430 | 500..=599) => self.on_probe_unanswered(id, branch),
            _ => {}
        }
    }

    /// The address is silent, or only says that it does not serve.
    pub(in crate::endpoint) fn on_probe_unanswered(&mut self, id: UpstreamId, branch: BranchId) {
        let probe = self.upstreams.get_mut(id).and_then(|upstream| upstream.probe.take_if(|it| it.branch == branch));
        if let Some(probe) = probe {
            self.decline_flow(id, probe.flow, FlowOutcome::DoesNotServe);
        }
    }

    /// Somebody is there: one member that stands registers by it.
    fn on_probe_answered(&mut self, now: Instant, id: UpstreamId, branch: BranchId) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let Some(probe) = upstream.probe.as_mut().filter(|probe| probe.branch == branch) else { return };
        let flow = probe.flow;
        let bindings = &self.bindings;
        let until = |binding: BindingId| {
            bindings.get(binding).filter(|it| it.awaits_refresh()).map(|it| (it.granted_until(), binding))
        };
        let mut standing: Vec<_> = upstream.members.iter().copied().filter_map(until).collect();
        let is_up = matches!(upstream.link, Link::Up { .. });
        let Some(longest) = standing.iter().copied().max().filter(|_| is_up) else {
            // Where nobody is registered nothing can be lost.
            return if is_up && upstream.registered_count == 0 {
                self.fail_back(now, id, None);
            } else {
                self.give_up_probe(id, FlowOutcome::NotWanted);
            };
        };
        // One whose grant ends while nobody answers there, its challenge included, would lapse.
        let least = now + self.core.settings.timing.transaction.t1_64() * 2;
        standing.retain(|(until, _)| *until >= Some(least));
        // One that is refused by its own fault keeps the others away once.
        let (_, binding) = match standing.len() as u64 {
            0 => longest,
            count => standing[self.core.random.between(0, count - 1) as usize],
        };
        probe.on_trial = Some(binding);
        self.upstreams.trust.note_dialled(flow, self.upstreams.rows.values());
        if let Some(address) = self.upstreams.address_of(flow) {
            self.upstreams.charge(now, address);
        }
        let Some(registration) = self.bindings.get_mut(binding) else { return };
        let step = registration.begin_trial();
        self.carry_out(now, binding, step);
    }

    /// A better address has not registered a binding that stands, or has not answered it: it stays where it is.
    pub(in crate::endpoint) fn fail_trial(&mut self, now: Instant, binding: BindingId) {
        let Some(registration) = self.bindings.get(binding) else { return };
        let id = registration.upstream;
        if self.upstreams.get(id).is_some_and(|upstream| upstream.tries(binding)) {
            self.give_up_probe(id, FlowOutcome::DoesNotServe);
        }
        self.end_trial(now, binding);
    }

    /// A binding that was on trial is not any more, because something else is wanted of it.
    pub(in crate::endpoint) fn give_up_trial(&mut self, id: UpstreamId, binding: BindingId) {
        if self.upstreams.get(id).is_some_and(|upstream| upstream.tries(binding)) {
            self.give_up_probe(id, FlowOutcome::NotWanted);
        }
    }

    /// Registers again by the flow in use.
    fn end_trial(&mut self, now: Instant, binding: BindingId) {
        let Some(registration) = self.bindings.get_mut(binding).filter(|it| it.is_on_trial()) else { return };
        if let Some(branch) = registration.branch() {
            self.core.transactions.abandon(branch);
        }
        let step = registration.on_flow_lost();
        self.carry_out(now, binding, step);
    }

    /// Whether the flow that has ended was being probed.
    pub(in crate::endpoint) fn lost_probe(&mut self, now: Instant, id: UpstreamId, flow: FlowId) -> bool {
        let probe = self.upstreams.get_mut(id).and_then(|upstream| upstream.probe.take_if(|it| it.flow == flow));
        let Some(probe) = probe else { return false };
        self.core.transactions.abandon(probe.branch);
        self.core.event(Event::FlowSettled { upstream: id, flow, outcome: FlowOutcome::DoesNotServe });
        if let Some(binding) = probe.on_trial {
            self.end_trial(now, binding);
        }
        true
    }

    /// Whether a flow is being probed: what comes by it says nothing of the one in use.
    pub(in crate::endpoint) fn is_probe(&self, id: UpstreamId, flow: FlowId) -> bool {
        self.upstreams.get(id).and_then(|upstream| upstream.probe.as_ref()).is_some_and(|probe| probe.flow == flow)
    }

    /// Abandons the probe of an upstream that is forgotten.
    pub(super) fn abandon_probe(&mut self, probe: &FailbackProbe) {
        self.core.transactions.abandon(probe.branch);
        self.upstreams.links.remove(&probe.flow);
        self.close_stream(probe.flow);
    }

    fn give_up_probe(&mut self, id: UpstreamId, outcome: FlowOutcome) {
        let Some(probe) = self.upstreams.get_mut(id).and_then(|upstream| upstream.probe.take()) else { return };
        self.core.transactions.abandon(probe.branch);
        self.decline_flow(id, probe.flow, outcome);
    }

    /// A flow that was opened is not taken.
    pub(super) fn decline_flow(&mut self, id: UpstreamId, flow: FlowId, outcome: FlowOutcome) {
        self.upstreams.links.remove(&flow);
        self.close_stream(flow);
        self.core.event(Event::FlowSettled { upstream: id, flow, outcome });
    }

    /// The better address has registered this binding, or nobody is registered: all others register there.
    pub(in crate::endpoint) fn fail_back(&mut self, now: Instant, id: UpstreamId, granted: Option<BindingId>) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let Some(probe) = upstream.probe.take() else { return };
        let old = match upstream.link {
            Link::Up { flow, .. } => Some(flow),
            Link::Down | Link::Dialling | Link::BackingOff => None,
        };
        if matches!(upstream.link, Link::Dialling) {
            upstream.fitness.need_no_dial();
        }
        // Bindings that want a flow wait for the better one.
        upstream.link = Link::Dialling;
        upstream.fitness.go_back();
        let members: Vec<_> = upstream.members.iter().copied().filter(|binding| Some(*binding) != granted).collect();
        if let Some(old) = old {
            self.replace_flow(now, id, old);
        }
        for binding in members {
            let Some(registration) = self.bindings.get_mut(binding) else { continue };
            if let Some(branch) = registration.branch() {
                self.core.transactions.abandon(branch);
            }
            let step = registration.on_flow_lost();
            self.carry_out(now, binding, step);
        }
        self.on_dialled(now, id, probe.flow, probe.transport);
    }
}

impl Upstream {
    /// Whether a better address is tried by this binding's registration.
    fn tries(&self, binding: BindingId) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.on_trial == Some(binding))
    }
}
