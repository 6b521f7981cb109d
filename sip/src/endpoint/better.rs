//! Going back to a better address of a SIP server, after a worse one had to do (RFC 3263 §4.3).
//!
//! | trial | a better flow is open | it answers OPTIONS | it does not, or answers 408, 430 or 5xx | it breaks |
//! | --- | --- | --- | --- | --- |
//! | none | ask OPTIONS → asked; while no flow is up and none is dialled, move at once | – | – | – |
//! | asked | refuse it | move, told so → none | let it go, told so → none | told so → none |
//!
//! A move registers every member anew, each in its turn, on the better flow. The old one stays open as long as a call that
//! came by it may need an answer, and its requests are believed until then, so no call is lost on the way.
//!
//! Invariant: a flow that has not answered never takes the place of one that works; one upstream has one trial at a time.

use std::time::{Duration, Instant};

use super::upstreams::Link;
use super::{ClientOwner, Endpoint, Event, Output, Timer, Transport};
use crate::flow::Side;
use crate::id::{BranchId, FlowId, UpstreamId};
use crate::message::{Composer, Message, Method, Name};

/// What the old flow stays open for, beside the time that a call may take to be answered: the last transactions.
const FAREWELL: Duration = Duration::from_secs(32);

/// A better flow that is being asked whether anybody is there.
#[derive(Debug)]
pub(super) struct Trial {
    flow: FlowId,
    transport: Transport,
    branch: BranchId,
}

impl Endpoint {
    /// A flow to a better address is open.
    pub(super) fn on_better(&mut self, now: Instant, id: UpstreamId, flow: FlowId, transport: Transport) {
        let branch = self.branch();
        let Some(upstream) = self.upstreams.get_mut(&id) else { return self.refuse_trial(id, flow) };
        match upstream.link {
            Link::Up { .. } if upstream.trial.is_none() => {}
            // There is nothing that works and could be lost by it.
            Link::BackingOff => {
                self.event(Event::Tried { upstream: id, moved: true });
                return self.on_dialled(now, id, flow, transport);
            }
            _ => return self.refuse_trial(id, flow),
        }
        upstream.trial = Some(Trial { flow, transport, branch });
        let registrar = upstream.registrar.clone();
        if flow.is_reliable() {
            self.links.insert(flow, id);
        }
        let local = self.settings.face(Side::Upstream, transport).host;
        let rport = if transport == Transport::Udp { ";rport" } else { "" };
        let tag = self.random.tag();
        let ask = Composer::request(Method::Options, &registrar)
            .header(Name::Via, format_args!("SIP/2.0/{} {local};branch={branch}{rport}", transport.via()))
            .header(Name::MaxForwards, 70)
            .header(Name::From, format_args!("<sip:{local}>;tag={tag}"))
            .header(Name::To, format_args!("<{registrar}>"))
            .header(Name::CallId, format_args!("{tag}.{}", self.epoch))
            .header(Name::CSeq, "1 OPTIONS")
            .header(Name::UserAgent, concat!("sipwake/", env!("CARGO_PKG_VERSION")))
            .finish();
        if self.transactions.send(now, branch, Method::Options, ask, flow, ClientOwner::Trial(id)).is_err() {
            self.on_trial_silence(id, branch);
        }
    }

    pub(super) fn on_trial_response(&mut self, now: Instant, id: UpstreamId, branch: BranchId, response: &Message) {
        match response.status() {
            // A challenge, a 404 or a 405 is an answer, too.
            Some(200..=407 | 409..=429 | 431..=499 | 600..) => self.move_to_better(now, id, branch),
            Some(408 | 430 | 500..=599) => self.on_trial_silence(id, branch),
            _ => {}
        }
    }

    /// Nobody there answers, or only to say that it does not serve.
    pub(super) fn on_trial_silence(&mut self, id: UpstreamId, branch: BranchId) {
        let trial = self.upstreams.get_mut(&id).and_then(|upstream| upstream.trial.take_if(|it| it.branch == branch));
        if let Some(trial) = trial {
            self.refuse_trial(id, trial.flow);
        }
    }

    /// Whether the flow that has ended was one on trial.
    pub(super) fn lost_trial(&mut self, id: UpstreamId, flow: FlowId) -> bool {
        let trial = self.upstreams.get_mut(&id).and_then(|upstream| upstream.trial.take_if(|it| it.flow == flow));
        let Some(trial) = trial else { return false };
        self.transactions.abandon(trial.branch);
        self.event(Event::Tried { upstream: id, moved: false });
        true
    }

    /// Whether a flow is on trial: what comes by it says nothing of the one in use.
    pub(super) fn is_on_trial(&self, id: UpstreamId, flow: FlowId) -> bool {
        self.upstreams.get(&id).and_then(|upstream| upstream.trial.as_ref()).is_some_and(|trial| trial.flow == flow)
    }

    /// Its upstream is forgotten.
    pub(super) fn abandon_trial(&mut self, trial: &Trial) {
        self.transactions.abandon(trial.branch);
        self.links.remove(&trial.flow);
        self.close_stream(trial.flow);
    }

    fn refuse_trial(&mut self, id: UpstreamId, flow: FlowId) {
        if flow.is_reliable() {
            self.links.remove(&flow);
            self.outputs.push_back(Output::Close(flow));
        }
        self.event(Event::Tried { upstream: id, moved: false });
    }

    fn move_to_better(&mut self, now: Instant, id: UpstreamId, branch: BranchId) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        let Some(trial) = upstream.trial.take_if(|trial| trial.branch == branch) else { return };
        let Link::Up { flow: old, .. } = upstream.link else { return self.refuse_trial(id, trial.flow) };
        // So that those who want a flow wait for the better one.
        upstream.link = Link::Dialling;
        upstream.leaving = Some(old);
        let members: Vec<_> = upstream.members.iter().copied().collect();
        self.links.remove(&old);
        for binding in members {
            let Some(registration) = self.bindings.get_mut(&binding) else { continue };
            if let Some(branch) = registration.branch() {
                self.transactions.abandon(branch);
            }
            let step = registration.on_flow_lost();
            self.carry_out(now, binding, step);
        }
        let answered_by = self.settings.ring_timeout + self.settings.answer_timeout + FAREWELL;
        self.later(now, answered_by, Timer::Leave(id, old));
        self.event(Event::Tried { upstream: id, moved: true });
        self.on_dialled(now, id, trial.flow, trial.transport);
    }

    /// Nothing that came by the old flow waits for an answer any more.
    pub(super) fn on_leave_due(&mut self, id: UpstreamId, old: FlowId) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return self.close_stream(old) };
        // After a move there and back, the old flow is the one in use.
        let in_use = matches!(upstream.link, Link::Up { flow, .. } if flow == old);
        upstream.leaving.take_if(|leaving| *leaving == old);
        if !in_use {
            self.close_stream(old);
        }
    }

    fn close_stream(&mut self, flow: FlowId) {
        if flow.is_reliable() {
            self.outputs.push_back(Output::Close(flow));
        }
    }
}
