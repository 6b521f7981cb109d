//! Requests of SIP servers whose connection ends before they are answered: the answer goes by the flow that its SIP server has
//! next, or has beside it, for its transaction is known by its Via (RFC 3261 §17.1.3, §18.2.2).
//!
//! Invariant: only a stream is left for another one, and only for one toward the SIP server of the request's binding. What waits for a flow is
//! forgotten with its SIP server; there are [`UNANSWERED_MAX`] at most for each.

use super::{Endpoint, ServerOwner};
use crate::edge::call::Call;
use crate::id::{FlowId, UpstreamId};
use crate::transaction::ServerId;

/// Requests that wait for the next flow of one SIP server, to be answered; what a further one is answered is lost.
pub(super) const UNANSWERED_MAX: usize = 4_096;

impl Endpoint {
    /// A SIP server's stream has ended, by which these came.
    pub(super) fn answer_elsewhere(&mut self, ended: FlowId) {
        for (server, owner) in self.core.transactions.unanswered_on(ended) {
            let Some(id) = self.asked_by(server, owner) else { continue };
            match self.flow_to(id) {
                Some(flow) if flow.is_reliable() && flow != ended => self.core.transactions.answer_by(server, flow),
                // No stream is to be expected where datagrams do.
                Some(FlowId::Datagram(_)) => {}
                _ => self.upstreams.answer_later(id, server),
            }
        }
    }

    /// A stream toward a SIP server is up: what waits for it is answered there.
    pub(super) fn answer_unanswered(&mut self, id: UpstreamId, flow: FlowId) {
        for server in self.upstreams.take_unanswered(id) {
            if flow.is_reliable() {
                self.core.transactions.answer_by(server, flow);
            }
        }
    }

    /// Which SIP server has asked.
    fn asked_by(&self, server: ServerId, owner: ServerOwner) -> Option<UpstreamId> {
        let binding = match owner {
            ServerOwner::Call(call) => self.calls.get(call).map(Call::binding)?,
            ServerOwner::Overtaking(binding, _) => binding,
            ServerOwner::Forwarded(_) | ServerOwner::Parked(..) => {
                self.devices.binding_of(self.dialogs.device_of(server)?)?
            }
            ServerOwner::Nobody => return None,
        };
        self.upstream_of(binding)
    }
}
