//! Transactions whose peer has another stream than the one that they began on: requests that it left unanswered are sent there again, and its own
//! requests are answered there (RFC 3261 §17.1.3, §17.2.3, §18.2.2).
//!
//! Invariant: a transaction keeps its branch, whatever stream it is on.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::io::{ServerId, Transmit};
use super::large::{self, Carrier, Line};
use super::table::{Asked, Client, ClientKey, Server, Table, count};
use crate::id::{BranchId, FlowId};

/// The beginning of a response that tells a waiting client nothing.
const TRYING: &[u8] = b"SIP/2.0 100 ";

impl<C> Asked<C> {
    /// The branch of the request; a CANCEL has that of its INVITE.
    pub fn branch(&self) -> BranchId {
        self.key.branch
    }

    /// Whether the request is on this flow, or was first.
    pub fn went_by(&self, flow: FlowId) -> bool {
        self.flow == flow || self.begun_on == Some(flow)
    }
}

impl<C> Client<C> {
    fn turn(&mut self, flow: FlowId) {
        if self.line.flow != flow && self.begun_on.is_none() {
            self.begun_on = Some(Box::new(self.line.flow));
        }
        self.line = Line { flow, way: Carrier::Flow };
    }
}

impl<S> Server<S> {
    /// Whether its sender has this flow: it is answered there, or there as well.
    pub(super) fn is_by(&self, flow: FlowId) -> bool {
        self.flow == flow || self.beside.as_deref() == Some(&flow)
    }

    /// The stream of the request has ended: its answer is kept, and waits for another flow.
    fn lose_stream(&mut self) {
        self.waits_for_flow = true;
        self.machine.outlive_stream();
    }
}

impl<C: Copy, S: Copy> Table<C, S> {
    /// The peer of a client transaction has another stream now, and has the request, as far as is known: its responses come by that one.
    pub fn follow(&mut self, branch: BranchId, flow: FlowId) {
        if let Some(client) = self.clients.get_mut(&ClientKey { branch, cancel: false }) {
            client.turn(flow);
        }
    }

    /// Sends a request, which the peer has and has not answered, once more by this flow, as the retransmission that it is (RFC 3261 §17.2.3).
    pub fn repeat(&mut self, branch: BranchId, flow: FlowId) {
        let Some(client) = self.clients.get(&ClientKey { branch, cancel: false }) else { return };
        if client.machine.is_pending() && !client.cancel && !client.request.is_empty() {
            self.transmits.push_back(Transmit::again(flow, client.request.clone()));
        }
    }

    /// The peer has an INVITE, as it says of another one: as if it had answered 100.
    pub fn note_received(&mut self, now: Instant, branch: BranchId) {
        let key = ClientKey { branch, cancel: false };
        let Some(client) = self.clients.get_mut(&key) else { return };
        if client.machine.is_pending() && !client.machine.may_cancel() {
            let is_cancelled = client.cancel;
            client.machine.on_response(now, 100, &self.timing);
            self.arm_client(key);
            if is_cancelled {
                self.send_cancel(now, branch);
            }
        }
    }

    /// The peer answers a request by another one of its streams than was thought: what follows from it goes there.
    pub fn turn_to(&mut self, asked: &Asked<C>, flow: FlowId) {
        if let Some(client) = self.clients.get_mut(&asked.key) {
            client.turn(flow);
        }
    }

    /// The peer of a client transaction has another stream now: its responses come by that one, and what it has left
    /// unanswered is sent there again, as the retransmission that it is (RFC 3261 §17.2.3); of an INVITE that was cancelled, the CANCEL alone.
    pub fn carry(&mut self, now: Instant, branch: BranchId, flow: FlowId) {
        let cancelled = self.has_cancelled(branch);
        for cancel in [false, true] {
            let Some(client) = self.clients.get_mut(&ClientKey { branch, cancel }) else { continue };
            client.turn(flow);
            client.carried = true;
            if client.machine.is_pending() && (cancel || !cancelled) && !client.request.is_empty() {
                self.transmits.push_back(Transmit::again(flow, client.request.clone()));
            }
        }
        // The CANCEL was given up, and what it is for was not.
        let invite = self.clients.get(&ClientKey { branch, cancel: false });
        let may_go = invite.is_some_and(|it| it.machine.may_cancel() || it.has_moved() && !it.is_unknown);
        if cancelled && may_go && !self.clients.contains_key(&ClientKey { branch, cancel: true }) {
            self.send_cancel(now, branch);
        }
    }

    /// Whether a client transaction has gone to another stream before, with what was to be sent there again.
    pub fn was_carried(&self, branch: BranchId) -> bool {
        self.clients.get(&ClientKey { branch, cancel: false }).is_some_and(|client| client.carried)
    }

    /// Whether the peer has said that it has a request, and has not answered it.
    pub fn is_proceeding(&self, branch: BranchId) -> bool {
        self.clients.get(&ClientKey { branch, cancel: false }).is_some_and(|client| client.machine.is_proceeding())
    }

    /// The requests of a stream that has ended whose answers nobody has heard, each with its owner, in the order in which they came. They wait
    /// for [`Self::answer_by`]. A final answer has one more stream and no third: it may be what its reader closes them for. A 2xx to an INVITE, which its
    /// device repeats, follows to each and is sent by none but the second by itself.
    pub fn unanswered_on(&mut self, flow: FlowId) -> Vec<(ServerId, S)> {
        if !self.on_streams.contains_key(&flow) {
            return Vec::new();
        }
        #[expect(clippy::disallowed_methods, reason = "sorted before anybody sees it")]
        let theirs = self
            .servers
            .iter_mut()
            .filter(|(_, server)| server.flow == flow && server.machine.is_unheard())
            .filter(|(_, server)| !server.carried || server.machine.is_accepted());
        let mut theirs: Vec<_> = theirs
            .map(|(id, server)| {
                server.lose_stream();
                (*id, server.owner)
            })
            .collect();
        theirs.sort_unstable_by_key(|(id, _)| *id);
        theirs
    }

    /// The stream of a request has ended; whether nobody has heard its answer, which waits for [`Self::answer_by`] then.
    pub fn lose_stream(&mut self, id: ServerId) -> bool {
        let unheard = self.servers.get_mut(&id).filter(|server| server.machine.is_unheard());
        unheard.map(Server::lose_stream).is_some()
    }

    /// The sender of a request has another flow, and its earlier one may be dead without either side knowing: it is answered by both
    /// from now on.
    pub fn answer_by_both(&mut self, id: ServerId, flow: FlowId) {
        let earlier = self.came_by(id).filter(|earlier| *earlier != flow);
        self.answer_by(id, flow);
        if let (Some(server), Some(earlier)) = (self.servers.get_mut(&id), earlier) {
            server.beside = Some(Box::new(earlier));
        }
    }

    /// An earlier flow of a request's sender has ended.
    pub fn end_beside(&mut self, id: ServerId, ended: FlowId) {
        if let Some(server) = self.servers.get_mut(&id) {
            server.beside = server.beside.take().filter(|beside| **beside != ended);
        }
    }

    /// The 2xx to an INVITE that waits for a flow of its sender.
    pub fn kept_answer(&self, id: ServerId) -> Option<&Bytes> {
        let server = self.servers.get(&id).filter(|server| server.waits_for_flow && server.machine.is_accepted())?;
        Some(&server.last).filter(|last| !last.is_empty())
    }

    /// Whether a server transaction still waits for its final answer.
    pub fn is_pending(&self, id: ServerId) -> bool {
        self.servers.get(&id).is_some_and(|server| server.machine.is_pending())
    }

    /// A request is answered by another flow from now on; what was answered last is sent there again, if that says anything.
    pub fn answer_by(&mut self, id: ServerId, flow: FlowId) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let before = std::mem::replace(&mut server.flow, flow);
        (server.waits_for_flow, server.beside) = (false, None);
        server.carried = !server.machine.is_pending();
        count(&mut self.on_streams, before, false);
        count(&mut self.on_streams, flow, true);
        let last = if server.machine.is_accepted() { std::mem::take(&mut server.last) } else { server.last.clone() };
        if !last.is_empty() && !last.starts_with(TRYING) {
            self.transmits.push_back(Transmit::again(flow, last));
        }
    }

    /// A request is answered by a stream that its sender is opened, for which the one that it came by stands. A final answer that nobody has
    /// heard is sent at once; a provisional one is worth no stream.
    pub fn answer_anew(&mut self, id: ServerId) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.waits_for_flow = false;
        server.carried = !server.machine.is_pending();
        let last = match (server.machine.is_pending(), server.machine.is_accepted()) {
            (true, _) => return,
            (false, true) => std::mem::take(&mut server.last),
            (false, false) => server.last.clone(),
        };
        if !last.is_empty() {
            self.transmits.push_back(Transmit::again(server.flow, last));
        }
    }

    /// The flow that a request came by, unless it is answered by another one by now.
    pub fn came_by(&self, id: ServerId) -> Option<FlowId> {
        self.servers.get(&id).map(|server| server.flow)
    }

    /// Whether requests that came by a stream are not forgotten.
    pub fn has_requests_of(&self, flow: FlowId) -> bool {
        self.on_streams.contains_key(&flow)
    }

    /// Sends the ACK of a 2xx, which has no transaction (RFC 3261 §13.2.2.4).
    pub fn pass_ack(&mut self, now: Instant, flow: FlowId, ack: Bytes) {
        let large = match flow {
            FlowId::Datagram(peer) if self.tcp_beside_udp && !self.refusing.has(now, peer) => large::by_stream(&ack),
            FlowId::Datagram(_) | FlowId::Stream(_) => None,
        };
        let by_stream = large.is_some();
        self.transmits.push_back(Transmit { by_stream, ..Transmit::first(flow, large.unwrap_or(ack)) });
    }

    /// No stream opens to this address for messages too large for a datagram; or the one that `was_open` has ended. Requests that went there and have
    /// no response are sent again.
    pub fn on_stream_lost(&mut self, now: Instant, peer: SocketAddr, was_open: bool) {
        if !was_open {
            self.refusing.add(now, peer, now + 2 * self.timing.t1_64());
        }
        for key in self.unheard.take(peer) {
            let Some(client) = self.clients.get_mut(&key) else { continue };
            if was_open && client.line.way == Carrier::Stream {
                client.line.way = Carrier::AnotherStream;
                self.unheard.add(client.line, key);
            } else {
                client.line.way = Carrier::Flow;
                client.request = large::by_datagram(&client.request);
                client.machine.leave_stream(now, &self.timing);
            }
            self.transmits.push_back(client.transmit(client.request.clone(), true));
            self.arm_client(key);
        }
    }
}
