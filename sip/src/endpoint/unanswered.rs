//! Requests of SIP servers whose stream ends before they are answered (RFC 3261 §18.2.2).
//!
//! | the SIP server's flow | the answer goes |
//! | --- | --- |
//! | is a stream to the address that the request came from | by it: its transaction is known by its Via (RFC 3261 §17.1.3) |
//! | is being dialled, or was lost and will be, which is soon then | by that one, if it leads there |
//! | could not be dialled | by a stream that is opened to that address, and to the port of the request's sent-by; what has no answer yet waits for the next dial |
//! | leads elsewhere, is UDP, or there is none | by a stream that is opened to that address, and to the port of the request's sent-by |
//!
//! Invariant: no answer goes to another address than its request came from, and none is dialled but one whose request was trusted as that of the
//! account's SIP server. Answers that wait for a flow are forgotten with their SIP server; there are [`UNANSWERED_MAX`] at most for each, and
//! [`RETURNS_MAX`] streams that have ended are remembered.

use std::net::IpAddr;
use std::time::Instant;

use super::returns::{RETURNS_MAX, Return};
use super::{Endpoint, ServerOwner, Timer, Transport};
use crate::edge::call::Call;
use crate::id::{FlowId, UpstreamId};
use crate::transaction::ServerId;

/// Requests that wait for the next flow of one SIP server, to be answered; what a further one is answered is lost.
pub(super) const UNANSWERED_MAX: usize = 4_096;

impl Endpoint {
    /// A SIP server's stream has ended, by which these came.
    pub(super) fn answer_elsewhere(&mut self, now: Instant, ended: FlowId, transport: Transport, address: IpAddr) {
        for (server, owner) in self.core.transactions.unanswered_on(ended) {
            let Some(upstream) = self.asked_by(server, owner) else { continue };
            self.remember_return(now, ended, Return { upstream, address, transport });
            match self.flow_to(upstream) {
                Some(flow) if flow != ended => self.answer_by(server, flow, address),
                _ if self.upstreams.is_awaited(upstream) => {
                    self.upstreams.answer_later(upstream, server);
                    self.want_flow_soon(now, upstream);
                }
                _ => self.core.transactions.answer_anew(server),
            }
        }
    }

    /// A flow toward a SIP server is up: what waits for it is answered there, if it leads to where that came from.
    pub(super) fn answer_unanswered(&mut self, id: UpstreamId, flow: FlowId) {
        for server in self.upstreams.take_unanswered(id) {
            let came_by = self.core.transactions.came_by(server);
            if let Some(Return { address, .. }) = came_by.and_then(|ended| self.core.returns.get(&ended)) {
                self.answer_by(server, flow, *address);
            }
        }
    }

    /// No flow toward a SIP server could be opened: an answer that is here by now waits no longer for one.
    pub(super) fn answer_without_flow(&mut self, now: Instant, id: UpstreamId) {
        for server in self.upstreams.take_unanswered(id) {
            if self.core.transactions.is_pending(server) {
                self.upstreams.answer_later(id, server);
                self.want_flow_soon(now, id);
            } else {
                self.core.transactions.answer_anew(server);
            }
        }
    }

    fn answer_by(&mut self, server: ServerId, flow: FlowId, address: IpAddr) {
        if flow.is_reliable() && !self.upstreams.leads_elsewhere(flow, address) {
            self.core.transactions.answer_by(server, flow);
        } else {
            self.core.transactions.answer_anew(server);
        }
    }

    /// Records the peer of a stream that has ended: requests by that stream may be answered as long as a call may last until its answer.
    fn remember_return(&mut self, now: Instant, ended: FlowId, way: Return) {
        if self.core.returns.len() < RETURNS_MAX && self.core.returns.insert(ended, way).is_none() {
            self.core.later(now, self.core.settings.answered_within(), Timer::Return(Box::new(ended)));
        }
    }

    /// The SIP server that has sent a request.
    fn asked_by(&self, server: ServerId, owner: ServerOwner) -> Option<UpstreamId> {
        let binding = match owner {
            ServerOwner::Call(call) => self.calls.get(call).map(Call::binding)?,
            ServerOwner::Overtaking(binding, _) => binding,
            ServerOwner::Forwarded(_) | ServerOwner::Parked(..) => {
                return self.server_of(self.current(self.dialogs.device_of(server)?));
            }
            ServerOwner::Nobody => return None,
        };
        self.upstream_of(binding)
    }
}
