//! Going back to a better address of a SIP server, after a worse one had to do (RFC 3263 §4.3).
//!
//! | probe | a better flow is open | it answers OPTIONS | it does not, or answers 408, 430 or 5xx | it breaks |
//! | --- | --- | --- | --- | --- |
//! | none | send OPTIONS → sent; while no flow is up and none is dialled, move at once | – | – | – |
//! | sent | close it | move, report it → none | close it, report it → none | report it → none |
//!
//! A move registers every member anew, each in its turn, on the better flow. The old one stays open as long as a call that
//! came by it may need an answer, and its requests are believed until then, so no call is lost on the way.
//!
//! Invariant: a flow that has not answered never takes the place of one that works; one upstream has one probe at a time.

use std::time::Instant;

use super::{FailbackProbe, Link};
use crate::endpoint::core::ClientOwner;
use crate::endpoint::{Endpoint, Event, Transport};
use crate::flow::Side;
use crate::id::{BranchId, FlowId, UpstreamId};
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
        let Some(upstream) = self.upstreams.get_mut(id) else { return self.reject_failback(id, flow) };
        match upstream.link {
            Link::Up { .. } if upstream.probe.is_none() => {}
            // There is nothing that works and could be lost by it.
            Link::BackingOff => {
                self.core.event(Event::FailbackProbed { upstream: id, moved: true });
                return self.on_dialled(now, id, flow, transport);
            }
            _ => return self.reject_failback(id, flow),
        }
        upstream.probe = Some(FailbackProbe { flow, transport, branch });
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
            Some(200..=407 | 409..=429 | 431..=499 | 600..) => self.fail_back(now, id, branch),
            Some(408 | 430 | 500..=599) => self.on_probe_unanswered(id, branch),
            _ => {}
        }
    }

    /// Nobody there answers, or only to say that it does not serve.
    pub(in crate::endpoint) fn on_probe_unanswered(&mut self, id: UpstreamId, branch: BranchId) {
        let probe = self.upstreams.get_mut(id).and_then(|upstream| upstream.probe.take_if(|it| it.branch == branch));
        if let Some(probe) = probe {
            self.reject_failback(id, probe.flow);
        }
    }

    /// Whether the flow that has ended was being probed.
    pub(in crate::endpoint) fn lost_probe(&mut self, id: UpstreamId, flow: FlowId) -> bool {
        let probe = self.upstreams.get_mut(id).and_then(|upstream| upstream.probe.take_if(|it| it.flow == flow));
        let Some(probe) = probe else { return false };
        self.core.transactions.abandon(probe.branch);
        self.core.event(Event::FailbackProbed { upstream: id, moved: false });
        true
    }

    /// Whether a flow is being probed: what comes by it says nothing of the one in use.
    pub(in crate::endpoint) fn is_probe(&self, id: UpstreamId, flow: FlowId) -> bool {
        self.upstreams.get(id).and_then(|upstream| upstream.probe.as_ref()).is_some_and(|probe| probe.flow == flow)
    }

    /// Its upstream is forgotten.
    pub(super) fn abandon_probe(&mut self, probe: &FailbackProbe) {
        self.core.transactions.abandon(probe.branch);
        self.upstreams.links.remove(&probe.flow);
        self.close_stream(probe.flow);
    }

    fn reject_failback(&mut self, id: UpstreamId, flow: FlowId) {
        self.upstreams.links.remove(&flow);
        self.close_stream(flow);
        self.core.event(Event::FailbackProbed { upstream: id, moved: false });
    }

    fn fail_back(&mut self, now: Instant, id: UpstreamId, branch: BranchId) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let Some(probe) = upstream.probe.take_if(|probe| probe.branch == branch) else { return };
        let Link::Up { flow: old, .. } = upstream.link else { return self.reject_failback(id, probe.flow) };
        // Bindings that want a flow wait for the better one.
        upstream.link = Link::Dialling;
        upstream.fitness.go_back();
        let members: Vec<_> = upstream.members.iter().copied().collect();
        self.replace_flow(now, id, old);
        for binding in members {
            let Some(registration) = self.bindings.get_mut(binding) else { continue };
            if let Some(branch) = registration.branch() {
                self.core.transactions.abandon(branch);
            }
            let step = registration.on_flow_lost();
            self.carry_out(now, binding, step);
        }
        self.core.event(Event::FailbackProbed { upstream: id, moved: true });
        self.on_dialled(now, id, probe.flow, probe.transport);
    }
}
