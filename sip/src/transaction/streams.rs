//! Transactions whose peer has another stream than the one that they began on: what it was sent and left unanswered is sent there again, and
//! what it has asked is answered there (RFC 3261 §17.1.3, §17.2.3, §18.2.2).
//!
//! Invariant: a transaction keeps its branch, whatever stream it is on.

use super::table::{ClientKey, ServerId, Table, Transmit, count};
use crate::id::{BranchId, FlowId};

impl<C: Copy, S: Copy> Table<C, S> {
    /// Whether a CANCEL was sent for a client transaction that waits for its final response.
    pub fn has_cancelled(&self, branch: BranchId) -> bool {
        let client = self.clients.get(&ClientKey { branch, cancel: false });
        client.is_some_and(|client| client.cancel && client.machine.may_cancel())
    }

    /// The peer of a client transaction has another stream now, and has the request, as far as is known: its responses come by that one.
    pub fn follow(&mut self, branch: BranchId, flow: FlowId) {
        if let Some(client) = self.clients.get_mut(&ClientKey { branch, cancel: false }) {
            client.flow = flow;
        }
    }

    /// The peer of a client transaction has another stream now: its responses come by that one, and what it has left
    /// unanswered is sent there again, as the retransmission that it is (RFC 3261 §17.2.3); of an INVITE that was cancelled, the CANCEL alone.
    pub fn carry(&mut self, branch: BranchId, flow: FlowId) {
        let cancelled = self.has_cancelled(branch);
        for cancel in [false, true] {
            let Some(client) = self.clients.get_mut(&ClientKey { branch, cancel }) else { continue };
            client.flow = flow;
            if client.machine.is_pending() && (cancel || !cancelled) {
                self.transmits.push_back(Transmit { flow, bytes: client.request.clone(), again: true });
            }
        }
    }

    /// The requests of a stream that has ended whose answers nobody has heard, each with its owner, in the order in which they came. They wait
    /// for [`Self::answer_by`].
    pub fn unanswered_on(&mut self, flow: FlowId) -> Vec<(ServerId, S)> {
        if !self.on_streams.contains_key(&flow) {
            return Vec::new();
        }
        #[expect(clippy::disallowed_methods, reason = "sorted before anybody sees it")]
        let theirs = self.servers.iter_mut().filter(|(_, server)| server.flow == flow && server.machine.is_unheard());
        let mut theirs: Vec<_> = theirs
            .map(|(id, server)| {
                server.waits_for_flow = true;
                server.machine.outlive_stream();
                (*id, server.owner)
            })
            .collect();
        theirs.sort_unstable_by_key(|(id, _)| *id);
        theirs
    }

    /// A request is answered by another flow from now on; what was answered last is sent there again.
    pub fn answer_by(&mut self, id: ServerId, flow: FlowId) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let before = std::mem::replace(&mut server.flow, flow);
        server.waits_for_flow = false;
        count(&mut self.on_streams, before, false);
        count(&mut self.on_streams, flow, true);
        let last = if server.machine.is_accepted() { std::mem::take(&mut server.last) } else { server.last.clone() };
        if !last.is_empty() {
            self.transmits.push_back(Transmit { flow, bytes: last, again: true });
        }
    }
}
