//! A further address of a SIP server that single REGISTERs are sent to, while others are served by the flow in use (RFC 3263 §4.3, RFC 3261 §16.7).
//!
//! A REGISTER that passes through and is answered 503 or 430 says nothing of the others, so nobody moves; but its phone is to be registered.
//!
//! | such a REGISTER | action |
//! | --- | --- |
//! | while a flow to a further address is open | goes by that one |
//! | otherwise | waits for a dial beside the flow in use, of which there is one in 32 s at most |
//! | the dial leads elsewhere | goes by that flow, which stays open as one that was left does |
//! | it leads nowhere, or back to the same address | its refusal goes to the device |
//! | the further address refuses it as well | likewise |
//! | the further address leaves it unanswered for 8 s, or for 16 s after a provisional response | likewise |
//! | and has answered nothing else meanwhile | nothing goes there any more, and the next dial is 32 s later at the soonest |
//!
//! Invariant: by such a flow goes nothing but REGISTERs that the flow in use has refused, and it is never the flow in use.

use std::time::Instant;

use super::{Link, Upstreams};
use crate::endpoint::{Endpoint, Event, FlowOutcome, Output, Transport};
use crate::id::{FlowId, UpstreamId};

/// How a REGISTER that an address has refused goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::endpoint) enum NextAddress {
    /// Its device hears of the refusal.
    None,
    /// It waits for the next flow.
    Awaited,
    /// It goes by this flow, and no one else does.
    Aside(FlowId, Transport),
}

impl Upstreams {
    /// Whether single REGISTERs go by this flow.
    pub(in crate::endpoint) fn is_aside(&self, id: UpstreamId, flow: FlowId) -> bool {
        self.get(id).is_some_and(|upstream| upstream.aside.is_some_and(|(aside, _)| aside == flow))
    }

    /// A REGISTER was answered `by` this flow.
    pub(in crate::endpoint) fn note_aside_heard(&mut self, now: Instant, id: UpstreamId, by: FlowId) {
        if self.is_aside(id, by)
            && let Some(upstream) = self.get_mut(id)
        {
            upstream.aside_heard_at = Some(now);
        }
    }

    /// A flow is closed, or believed no more.
    pub(super) fn forget_aside(&mut self, id: UpstreamId, flow: FlowId) {
        if let Some(upstream) = self.get_mut(id) {
            upstream.aside.take_if(|(aside, _)| *aside == flow);
        }
    }
}

impl Endpoint {
    /// Another address is sought for single REGISTERs.
    pub(super) fn seek_aside(&mut self, now: Instant, id: UpstreamId) -> NextAddress {
        let rest = self.core.settings.timing.transaction.t1_64();
        let Some(upstream) = self.upstreams.get_mut(id) else { return NextAddress::None };
        let Link::Up { flow: in_use, .. } = upstream.link else { return NextAddress::None };
        if let Some((flow, transport)) = upstream.aside.filter(|(flow, _)| *flow != in_use) {
            return NextAddress::Aside(flow, transport);
        }
        if upstream.fitness.is_looking_aside() {
            return NextAddress::Awaited;
        }
        if upstream.aside_sought_at.is_some_and(|at| at + rest > now) || !upstream.fitness.look_aside() {
            return NextAddress::None;
        }
        upstream.aside_sought_at = Some(now);
        self.core.outputs.push_back(Output::Dial { upstream: id, avoid: Some(in_use), for_one: true });
        NextAddress::Awaited
    }

    /// A flow is used no more for single REGISTERs: what was sent by it, and is not answered, has the refusal of the flow in use.
    pub(super) fn end_aside(&mut self, now: Instant, id: UpstreamId, flow: FlowId) {
        self.upstreams.forget_aside(id, flow);
        self.ask_all_anew(now, id, Some(flow));
    }

    /// A further address has left a REGISTER of `sent_at` unanswered. If it has answered others since, it is that one's own affair. Its flow stays for the
    /// calls of those that it has registered.
    pub(in crate::endpoint) fn on_aside_silent(
        &mut self,
        now: Instant,
        id: UpstreamId,
        flow: FlowId,
        sent_at: Option<Instant>,
    ) {
        let heard_at = self.upstreams.get(id).and_then(|upstream| upstream.aside_heard_at);
        if self.upstreams.is_aside(id, flow) && heard_at <= sent_at {
            self.upstreams.forget_aside(id, flow);
            if let Some(upstream) = self.upstreams.get_mut(id) {
                upstream.aside_sought_at = Some(now);
            }
        }
    }

    /// A flow is open that was dialled for single REGISTERs; `found`: it leads to another address than the one in use.
    pub(super) fn on_aside_open(
        &mut self,
        now: Instant,
        id: UpstreamId,
        (flow, transport): (FlowId, Transport),
        found: bool,
    ) {
        let in_use = self.upstreams.flow(id).map(|(in_use, _)| self.upstreams.destination(in_use));
        if !found || in_use == Some(self.upstreams.destination(flow)) {
            self.decline_flow(id, flow, FlowOutcome::NotWanted);
            return self.fail_registers(now, id);
        }
        // It takes the place of none, and says nothing of the address in use.
        self.core.event(Event::FlowSettled { upstream: id, flow, outcome: FlowOutcome::NotWanted });
        self.replace_flow(now, id, flow);
        if let Some(upstream) = self.upstreams.get_mut(id) {
            upstream.aside = Some((flow, transport));
            upstream.aside_heard_at = None;
        }
        self.upstreams.trust.note_dialled(flow, self.upstreams.rows.values());
        self.send_refused_aside(now, id, flow, transport);
    }
}
