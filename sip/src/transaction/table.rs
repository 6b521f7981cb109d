//! The transactions that run at this moment, found by messages from the network.
//!
//! Invariant: it holds at most its capacity of transactions; each has a deadline or a user who will answer. Messages to send wait in order in a queue
//! until they are taken.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::client::{InviteClient, OtherClient};
use super::hop_by_hop::compose_ack;
use super::io::{Arrival, Expired, Full, InviteChange, Reply, ServerId, Transmit};
use super::large::{self, Carrier, Line, Refusing, Unheard};
use super::machine::{ClientMachine, ServerMachine};
use super::matching::{RequestKey, is_same_host, is_same_sender, own_branch};
use super::patience::Patience;
use super::server::{InviteServer, OtherServer};
use super::{Due, Reliability, Timing};
use crate::id::{BranchId, FlowId, InstanceId};
use crate::message::{Limits, Message, Method, Via};
use crate::timers::{Armed, Timers};

/// Transactions that there is always room for once there was; about 250 KB.
const ROOM_KEPT: usize = 1_024;

#[derive(Debug)]
pub(super) struct Client<C> {
    pub(super) machine: ClientMachine,
    pub(super) line: Line,
    pub(super) request: Bytes,
    method: Method,
    /// The ACK of a failed INVITE, for its retransmissions.
    ack: Option<Bytes>,
    /// CANCEL as soon as a provisional response allows it.
    pub(super) cancel: bool,
    /// Likewise as soon as the peer has another flow, whether it has said anything or not.
    pub(super) cancel_by_next: bool,
    /// The To tag of the latest early dialog of an INVITE.
    pub(super) early_tag: Option<Box<str>>,
    /// The peer has said that it does not have the INVITE.
    pub(super) is_unknown: bool,
    /// Why (RFC 3326), for the CANCEL.
    pub(super) reason: Option<Box<str>>,
    pub(super) owner: C,
    armed: Armed,
    pub(super) patience: Patience,
    /// The flow that it began on, where it has gone to another one since.
    pub(super) begun_on: Option<Box<FlowId>>,
    /// Whether the request was sent again by another flow.
    pub(super) carried: bool,
}

impl<C> Client<C> {
    pub(super) fn transmit(&self, bytes: Bytes, again: bool) -> Transmit {
        Transmit { flow: self.line.flow, bytes, again, by_stream: self.line.is_beside() }
    }
}

#[derive(Debug)]
pub(super) struct Server<S> {
    pub(super) machine: ServerMachine,
    pub(super) flow: FlowId,
    key: Arc<str>,
    pub(super) last: Bytes,
    /// The To tag of the 2xx to an INVITE, which is not kept itself once it was sent.
    accepted_by: Option<Box<str>>,
    pub(super) owner: S,
    armed: Armed,
    /// The request, where somebody else answers it, and the device at one end.
    asked: Option<Box<(Message, InstanceId)>>,
    /// Whether the final answer has gone by another stream than the request came by.
    pub(super) carried: bool,
    /// Whether the stream of the request has ended, so that its answer waits for another flow.
    pub(super) waits_for_flow: bool,
    /// An earlier flow of its sender, which may be dead or not: it is answered there as well.
    pub(super) beside: Option<Box<FlowId>>,
}

impl<S> Server<S> {
    fn to_tag(&self) -> Option<String> {
        let accepted = self.accepted_by.as_deref().map(str::to_owned);
        accepted.or_else(|| to_tag(&self.last).map(String::from))
    }
}

fn to_tag(response: &Bytes) -> Option<Box<str>> {
    let response = Message::parse(response, &Limits::COMPOSED).ok()?;
    response.to()?.tag().map(Into::into)
}

#[derive(Clone, Copy, Debug)]
enum Timer {
    Client(ClientKey),
    Server(ServerId),
}

/// A CANCEL has the branch of what it cancels (RFC 3261 §9.1), so a branch alone does not name a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ClientKey {
    pub(super) branch: BranchId,
    pub(super) cancel: bool,
}

/// A request that was sent, and that is not over.
#[derive(Clone, Copy, Debug)]
pub struct Asked<C> {
    pub(super) key: ClientKey,
    /// The flow that it was sent on, or has gone to since.
    pub flow: FlowId,
    /// Whether it has gone to another flow than this one, on which it began.
    pub(super) begun_on: Option<FlowId>,
    /// The owner of the transaction.
    pub owner: C,
}

/// The running transactions. `C` and `S` are what their users want back.
#[derive(Debug)]
pub struct Table<C, S> {
    pub(super) clients: HashMap<ClientKey, Client<C>>,
    pub(super) servers: HashMap<ServerId, Server<S>>,
    by_key: HashMap<Arc<str>, ServerId>,
    /// How many server transactions each stream has.
    pub(super) on_streams: HashMap<FlowId, u32>,
    timers: Timers<Timer>,
    pub(super) transmits: VecDeque<Transmit>,
    /// The requests by TCP beside UDP, until a response comes.
    pub(super) unheard: Unheard<ClientKey>,
    /// The addresses at which no stream opens beside UDP.
    pub(super) refusing: Refusing,
    invites: VecDeque<InviteChange>,
    next_server: u64,
    pub(super) capacity: usize,
    /// How many client transactions wait beyond their time.
    pub(super) late: usize,
    /// Whether what is too large for a datagram goes by TCP.
    pub(super) tcp_beside_udp: bool,
    pub(super) timing: Timing,
}

impl<C: Copy, S: Copy> Table<C, S> {
    /// An empty table for at most `capacity` transactions of either kind. `tcp_beside_udp`: whether a request that is too large for a
    /// datagram goes by TCP.
    pub fn new(capacity: usize, timing: Timing, tcp_beside_udp: bool) -> Self {
        Self {
            clients: HashMap::new(),
            servers: HashMap::new(),
            by_key: HashMap::new(),
            on_streams: HashMap::new(),
            timers: Timers::default(),
            transmits: VecDeque::new(),
            unheard: Unheard::new(),
            refusing: Refusing::default(),
            invites: VecDeque::new(),
            next_server: 0,
            capacity,
            late: 0,
            tcp_beside_udp,
            timing,
        }
    }

    /// Sends a request, whose topmost Via carries `branch`, and waits for its responses.
    ///
    /// # Errors
    /// [`Full`]; then nothing is sent.
    pub fn send(
        &mut self,
        now: Instant,
        branch: BranchId,
        method: Method,
        request: Bytes,
        flow: FlowId,
        owner: C,
    ) -> Result<(), Full> {
        let large = (self.tcp_beside_udp && !flow.is_reliable()).then(|| large::by_stream(&request)).flatten();
        let way = if large.is_some() { Carrier::Stream } else { Carrier::Flow };
        self.start(now, branch, method, large.unwrap_or(request), Line { flow, way }, owner)
    }

    pub(super) fn start(
        &mut self,
        now: Instant,
        branch: BranchId,
        method: Method,
        request: Bytes,
        line: Line,
        owner: C,
    ) -> Result<(), Full> {
        if self.clients.len() >= self.capacity {
            return Err(Full);
        }
        let machine = match method {
            Method::Invite => ClientMachine::Invite(InviteClient::new(now, line.reliability(), &self.timing)),
            _ => ClientMachine::Other(OtherClient::new(now, line.reliability(), &self.timing)),
        };
        let key = ClientKey { branch, cancel: method == Method::Cancel };
        let client = Client {
            machine,
            line,
            request,
            method,
            ack: None,
            cancel: false,
            cancel_by_next: false,
            early_tag: None,
            is_unknown: false,
            reason: None,
            owner,
            armed: Armed::default(),
            patience: Patience::None,
            begun_on: None,
            carried: false,
        };
        self.transmits.push_back(client.transmit(client.request.clone(), false));
        self.unheard.add(line, key);
        self.clients.insert(key, client);
        self.arm_client(key);
        Ok(())
    }

    /// The request that a response, whose topmost Via this is, claims to answer. Anybody who knows a branch may claim it: the caller of this method checks that the response came
    /// from where the request went.
    pub fn asked(&self, response: &Message, via: &Via<'_>) -> Option<Asked<C>> {
        let (_, method) = response.cseq()?;
        let key = ClientKey { branch: own_branch(via)?, cancel: method == "CANCEL" };
        // RFC 3261 §17.1.3: the branch alone does not make it an answer to this request.
        let client = self.clients.get(&key).filter(|client| client.method == Method::from_bytes(method.as_bytes()))?;
        let begun_on = client.begun_on.as_deref().copied();
        Some(Asked { key, flow: client.line.flow, begun_on, owner: client.owner })
    }

    /// Judges a response from the peer that was asked; returns the owner of the request when the owner must see it.
    pub fn on_response(&mut self, now: Instant, asked: &Asked<C>, response: &Message) -> Option<(BranchId, C)> {
        let key = asked.key;
        let client = self.clients.get_mut(&key)?;
        let status = response.status()?;
        let verdict = client.machine.on_response(now, status, &self.timing);
        let owner = client.owner;
        if client.machine.is_invite() && (101..199).contains(&status) && !key.cancel {
            // A later one may be a proxy's own, without a tag.
            let tag = response.to().and_then(|to| to.tag().map(Into::into));
            client.early_tag = tag.or(client.early_tag.take());
        }
        if verdict.ack {
            client.ack = client.ack.take().or_else(|| compose_ack(&client.request, response));
            self.transmits.extend(client.ack.iter().map(|ack| client.transmit(ack.clone(), false)));
        }
        self.unheard.remove(client.line, key);
        self.late -= usize::from(client.patience.renew());
        if !client.machine.is_pending() {
            // The request is not sent again; only late responses are still absorbed, for up to 32 s.
            client.request = Bytes::new();
        }
        let cancels = client.cancel && client.machine.may_cancel();
        if verdict.ended {
            self.clients.remove(&key);
        } else {
            self.arm_client(key);
        }
        if cancels {
            self.send_cancel(now, key.branch);
        }
        if key.cancel && response.status() == Some(481) {
            self.cancel_no_more(key.branch);
        }
        (verdict.pass && !key.cancel).then_some((key.branch, owner))
    }

    /// The owner of a client transaction that is not over, and whether it still waits for a final response.
    pub fn progress(&self, branch: BranchId) -> Option<(C, bool)> {
        let client = self.clients.get(&ClientKey { branch, cancel: false })?;
        Some((client.owner, client.machine.is_pending()))
    }

    /// Whether a client transaction still waits for its first response.
    pub fn is_unheard(&self, branch: BranchId) -> bool {
        let client = self.clients.get(&ClientKey { branch, cancel: false });
        client.is_some_and(|client| client.machine.is_pending() && !client.machine.is_proceeding())
    }

    /// Forgets a client transaction, because its flow is gone: its owner, when it still waited for a final response.
    pub fn abandon(&mut self, branch: BranchId) -> Option<C> {
        let client = self.forget_client(ClientKey { branch, cancel: false })?;
        client.machine.is_pending().then_some(client.owner)
    }

    /// A request other than INVITE is not sent again, or is again: by UDP its copies would come behind what follows it.
    pub fn hold(&mut self, branch: BranchId, is_held: bool) {
        let key = ClientKey { branch, cancel: false };
        if let Some(ClientMachine::Other(machine)) = self.clients.get_mut(&key).map(|client| &mut client.machine) {
            machine.hold(is_held);
            self.arm_client(key);
        }
    }

    /// The flow of a client transaction that is not over.
    pub fn flow_of(&self, branch: BranchId) -> Option<FlowId> {
        self.clients.get(&ClientKey { branch, cancel: false }).map(|client| client.line.flow)
    }

    /// Judges a request.
    pub fn on_request(&mut self, now: Instant, request: &Message, reply: Reply<'_>) -> Arrival<S> {
        let method = request.method().unwrap_or(Method::Other);
        if let Some(id) = self.by_key.get(reply.key.as_str()).copied() {
            return self.on_known_request(now, id, method, reply.flow);
        }
        if method == Method::Cancel {
            return match self.cancelled(reply.key) {
                None => Arrival::New,
                Some(server) if !server.machine.is_pending() => Arrival::CancelTooLate,
                Some(server) if server.is_by(reply.flow) => Arrival::Cancel(server.owner),
                Some(server) => Arrival::CancelElsewhere(server.owner),
            };
        }
        Arrival::New
    }

    /// Whether a request is known, or the INVITE that it cancels.
    pub fn has_come(&self, key: &RequestKey) -> bool {
        self.by_key.contains_key(key.as_str()) || self.cancelled(key).is_some()
    }

    /// The To tag of the responses of the INVITE that a CANCEL names, which that of its own response should be (RFC 3261 §9.2).
    pub fn to_tag_for(&self, cancel: &RequestKey) -> Option<String> {
        self.cancelled(cancel)?.to_tag()
    }

    /// The To tag of the last response to a request.
    pub fn to_tag_of(&self, id: ServerId) -> Option<String> {
        self.servers.get(&id)?.to_tag()
    }

    /// A message with the From, To, Call-ID and CSeq of the INVITE that a CANCEL, or the ACK of a refusal, names by its key (RFC 3261 §9.1, §17.1.1.3):
    /// the INVITE, or its last response.
    pub fn invite_named_by(&self, key: &RequestKey, method: Method) -> Option<Message> {
        let named = match method {
            Method::Cancel => self.cancelled(key),
            Method::Ack => self.servers.get(self.by_key.get(key.as_str())?).filter(|it| !it.machine.is_accepted()),
            _ => None,
        };
        let server = named.filter(|server| matches!(server.machine, ServerMachine::Invite(_)))?;
        let asked = server.asked.as_deref().map(|(request, _)| request.clone());
        asked.or_else(|| Message::parse(&server.last, &Limits::COMPOSED).ok())
    }

    /// Whether the INVITE that a CANCEL names has its Call-ID, as far as its last response tells.
    pub fn is_of_call(&self, cancel: &Message, key: &RequestKey) -> bool {
        let last = self.cancelled(key).and_then(|server| Message::parse(&server.last, &Limits::COMPOSED).ok());
        last.is_some_and(|last| last.call_id() == cancel.call_id())
    }

    /// The transaction that a CANCEL is for.
    fn cancelled(&self, cancel: &RequestKey) -> Option<&Server<S>> {
        self.servers.get(self.by_key.get(cancel.cancelled()?)?)
    }

    fn on_known_request(&mut self, now: Instant, id: ServerId, method: Method, flow: FlowId) -> Arrival<S> {
        let Some(server) = self.servers.get_mut(&id) else { return Arrival::Absorbed };
        let is_sender = is_same_sender(server.flow, flow) || server.is_by(flow);
        match &mut server.machine {
            // A stranger's ACK does not keep a refusal from being sent again.
            ServerMachine::Invite(_) if method == Method::Ack && !is_same_host(server.flow, flow) => {}
            ServerMachine::Invite(machine) if method == Method::Ack => {
                if machine.is_accepted() {
                    return Arrival::AckOfAccepted;
                }
                machine.on_ack(now, &self.timing);
            }
            _ if !is_sender => return Arrival::CopyElsewhere(id, server.owner),
            _ => self.answer_again(id, flow),
        }
        self.arm_server(id);
        Arrival::Absorbed
    }

    /// Answers an [`Arrival::CopyElsewhere`] whose sender is believed, by the `flow` that it came by. Only what has the Call-ID of the
    /// last response is a copy.
    pub fn answer_elsewhere(&mut self, id: ServerId, copy: &Message, flow: FlowId) {
        let last = self.servers.get(&id).and_then(|server| Message::parse(&server.last, &Limits::COMPOSED).ok());
        if last.is_some_and(|last| last.call_id() == copy.call_id()) {
            self.answer_again(id, flow);
        }
    }

    fn answer_again(&mut self, id: ServerId, flow: FlowId) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        if server.machine.on_again() && !server.last.is_empty() {
            // A datagram's sender may be made up: a copy of a request makes nobody else a target.
            let flow = if flow.is_reliable() { flow } else { server.flow };
            self.transmits.push_back(Transmit::again(flow, server.last.clone()));
        }
    }

    /// Opens a server transaction for a request that [`Self::on_request`] called new.
    ///
    /// # Errors
    /// [`Full`].
    pub fn open(&mut self, request: &Message, reply: Reply<'_>, owner: S) -> Result<ServerId, Full> {
        if self.servers.len() >= self.capacity {
            return Err(Full);
        }
        let flow = reply.flow;
        let id = ServerId(self.next_server);
        self.next_server += 1;
        let machine = match request.method() {
            Some(Method::Invite) => ServerMachine::Invite(InviteServer::new(Reliability::of(flow))),
            _ => ServerMachine::Other(OtherServer::new(Reliability::of(flow))),
        };
        let key: Arc<str> = reply.key.as_str().into();
        if matches!(machine, ServerMachine::Invite(_)) {
            self.invites.push_back(InviteChange { key: key.clone(), begun: true });
        }
        self.by_key.insert(key.clone(), id);
        count(&mut self.on_streams, flow, true);
        let (last, armed) = (Bytes::new(), Armed::default());
        self.servers.insert(
            id,
            Server {
                machine,
                flow,
                key,
                last,
                accepted_by: None,
                owner,
                armed,
                asked: None,
                carried: false,
                waits_for_flow: false,
                beside: None,
            },
        );
        Ok(id)
    }

    /// As [`Self::open`], for a request that is refused at once: these take a quarter of the table at most, so that a
    /// flood of what is refused leaves room for what is not.
    ///
    /// # Errors
    /// [`Full`]: their quarter is; the refusal is sent without a transaction (RFC 3261 §8.2.7).
    pub fn open_in_passing(&mut self, request: &Message, reply: Reply<'_>, owner: S) -> Result<ServerId, Full> {
        if self.servers.len() >= self.capacity / 4 { Err(Full) } else { self.open(request, reply, owner) }
    }

    /// Keeps a request of or for this device whose responses come from elsewhere, as long as one may be passed on.
    pub fn keep_request(&mut self, id: ServerId, request: &Message, device: InstanceId) {
        if let Some(server) = self.servers.get_mut(&id) {
            server.asked = Some(Box::new((request.clone(), device)));
        }
    }

    /// The request of [`Self::keep_request`]; `None` once it has its one final answer.
    pub fn asked_by(&self, id: ServerId) -> Option<&Message> {
        self.servers.get(&id)?.asked.as_deref().map(|(request, _)| request)
    }

    /// The requests that are kept of and for a device, and those that it may hear late, are of another one that takes its place. It looks through
    /// all transactions.
    pub fn succeed(&mut self, earlier: InstanceId, successor: InstanceId) {
        #[expect(clippy::disallowed_methods, reason = "each is renamed by itself")]
        for asked in self.servers.values_mut().filter_map(|server| server.asked.as_mut()).filter(|it| it.1 == earlier) {
            asked.1 = successor;
        }
        #[expect(clippy::disallowed_methods, reason = "each is renamed by itself")]
        self.clients.values_mut().for_each(|client| client.patience.succeed(earlier, successor));
    }

    /// Forgets the INVITEs of and for a device that are answered: they name its account, and a 2xx that is repeated has been sent once; what
    /// its requests that are not, and those for it, have for a body; and what was sent to it and may be heard late. It looks through all transactions.
    pub fn forget_requests(&mut self, device: InstanceId) {
        #[expect(clippy::disallowed_methods, reason = "each is judged by itself")]
        self.servers.values_mut().for_each(|server| {
            let is_over = server.machine.is_accepted();
            let Some(asked) = server.asked.as_deref_mut().filter(|asked| asked.1 == device) else { return };
            if is_over {
                server.asked = None;
            } else if let Some(head) = asked.0.without_body() {
                asked.0 = head;
            }
        });
        self.forget_late(device);
    }

    /// The owner of a server transaction.
    pub fn owner_of(&self, id: ServerId) -> Option<S> {
        self.servers.get(&id).map(|server| server.owner)
    }

    /// Changes the owner of a server transaction.
    pub fn adopt(&mut self, id: ServerId, owner: S) {
        if let Some(server) = self.servers.get_mut(&id) {
            server.owner = owner;
        }
    }

    /// Answers a request. A second final answer is dropped, except a 2xx to INVITE, which is passed again. Another request
    /// than INVITE is not answered 408; its transaction ends without an answer (RFC 4320 §4.2).
    pub fn respond(&mut self, now: Instant, id: ServerId, status: u16, response: Bytes) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        if server.machine.on_answer(now, status, &self.timing) {
            if !server.waits_for_flow {
                self.transmits.push_back(Transmit::first(server.flow, response.clone()));
                if let Some(beside) = &server.beside {
                    self.transmits.push_back(Transmit::first(**beside, response.clone()));
                }
            }
            // RFC 6026: a 2xx is repeated by the user agent, never by the transaction.
            let is_accepted = server.machine.is_accepted();
            server.accepted_by = if is_accepted { to_tag(&response) } else { None };
            let is_over = is_accepted && !server.waits_for_flow;
            server.last = if is_over { Bytes::new() } else { response };
        }
        if !server.machine.is_pending() && !server.machine.is_accepted() {
            server.asked = None;
        }
        self.arm_server(id);
    }

    /// Nobody will answer this request any more. A request other than INVITE ends without an answer, because its sender
    /// has timed out too (RFC 4320 §4.2); for an INVITE, whether somebody still waits.
    pub fn give_up(&mut self, now: Instant, id: ServerId) -> bool {
        match self.servers.get(&id).map(|server| &server.machine) {
            Some(ServerMachine::Invite(machine)) => machine.is_pending(),
            Some(ServerMachine::Other(_)) => {
                self.respond(now, id, 408, Bytes::new());
                false
            }
            None => false,
        }
    }

    /// Whether the sender of an INVITE has acknowledged its refusal; a transaction that is over counts as acknowledged.
    pub fn is_acknowledged(&self, id: ServerId) -> bool {
        self.servers.get(&id).is_none_or(|server| server.machine.is_acknowledged())
    }

    /// How many transactions of either kind run.
    pub fn len(&self) -> usize {
        self.clients.len() + self.servers.len()
    }

    /// How many deadlines are set.
    pub fn timers(&self) -> usize {
        self.timers.pending()
    }

    /// The next thing to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next INVITE that a server transaction has begun for, or is over.
    pub fn poll_invite(&mut self) -> Option<InviteChange> {
        self.invites.pop_front()
    }

    /// When [`Self::poll_expired`] must be asked.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Lets deadlines up to `now` fire until one ends a transaction that its user must hear of; `None` when none is left.
    pub fn poll_expired(&mut self, now: Instant) -> Option<Expired<C, S>> {
        while let Some(timer) = self.timers.pop_due(now) {
            let expired = match timer {
                Timer::Client(key) => self.client_due(now, key).map(|owner| Expired::Client(key.branch, owner)),
                Timer::Server(id) => self.server_due(now, id).map(Expired::Server),
            };
            if expired.is_some() {
                return expired;
            }
        }
        self.give_room_back();
        None
    }

    /// After a moment that was much busier: its tables are not kept for the rest of the process's life.
    fn give_room_back(&mut self) {
        let room = |len: usize, capacity: usize| (len < capacity / 8 && capacity > ROOM_KEPT).then_some(2 * len);
        if let Some(room) = room(self.clients.len(), self.clients.capacity()) {
            self.clients.shrink_to(room);
        }
        if let Some(room) = room(self.servers.len(), self.servers.capacity()) {
            self.servers.shrink_to(room);
            self.by_key.shrink_to(room);
        }
        self.timers.give_room_back(ROOM_KEPT);
    }

    /// How many transactions there is room for without another table.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.clients.capacity().max(self.servers.capacity()).max(self.timers.room())
    }

    fn client_due(&mut self, now: Instant, key: ClientKey) -> Option<C> {
        let client = self.clients.get_mut(&key)?;
        if !client.armed.fires(now) {
            return None;
        }
        let told = (!matches!(client.machine, ClientMachine::Invite(_))).then_some(client.owner);
        match client.machine.on_deadline(now, &self.timing) {
            Due::Nothing => {
                self.arm_client(key);
                None
            }
            Due::Resend => {
                self.transmits.push_back(client.transmit(client.request.clone(), true));
                self.arm_client(key);
                None
            }
            // Timer C: the peer is told so, and has 64·T1 to say what became of the INVITE (RFC 3261 §16.8).
            Due::TimedOut if client.machine.may_cancel() && !client.cancel => {
                self.cancel(now, key.branch, None);
                None
            }
            Due::TimedOut if self.waits_on(now, key) => {
                self.arm_client(key);
                told
            }
            // An INVITE that its CANCEL did not end is ended by its own deadline.
            Due::TimedOut => self.forget_client(key).filter(|_| !key.cancel).map(|client| client.owner),
            Due::Ended => {
                self.clients.remove(&key);
                None
            }
        }
    }

    fn forget_client(&mut self, key: ClientKey) -> Option<Client<C>> {
        let client = self.clients.remove(&key)?;
        self.unheard.remove(client.line, key);
        self.late -= usize::from(client.patience.is_spent());
        Some(client)
    }

    fn server_due(&mut self, now: Instant, id: ServerId) -> Option<S> {
        let server = self.servers.get_mut(&id)?;
        if !server.armed.fires(now) {
            return None;
        }
        match server.machine.on_deadline(now, &self.timing) {
            Due::Nothing => {
                self.arm_server(id);
                None
            }
            Due::Resend => {
                self.transmits.push_back(Transmit::again(server.flow, server.last.clone()));
                self.arm_server(id);
                None
            }
            Due::TimedOut => self.forget_server(id),
            Due::Ended => {
                self.forget_server(id);
                None
            }
        }
    }

    fn forget_server(&mut self, id: ServerId) -> Option<S> {
        let server = self.servers.remove(&id)?;
        self.by_key.remove(&server.key);
        count(&mut self.on_streams, server.flow, false);
        if matches!(server.machine, ServerMachine::Invite(_)) {
            self.invites.push_back(InviteChange { key: server.key, begun: false });
        }
        Some(server.owner)
    }

    pub(super) fn arm_client(&mut self, key: ClientKey) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        if let Some(at) = client.armed.must_set(client.machine.deadline()) {
            self.timers.set(at, Timer::Client(key));
        }
    }

    fn arm_server(&mut self, id: ServerId) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        if let Some(at) = server.armed.must_set(server.machine.deadline()) {
            self.timers.set(at, Timer::Server(id));
        }
    }
}

/// A stream has one server transaction more, or one less.
pub(super) fn count(on_streams: &mut HashMap<FlowId, u32>, flow: FlowId, more: bool) {
    match on_streams.get_mut(&flow) {
        _ if !flow.is_reliable() => {}
        Some(count) if more => *count += 1,
        Some(count) if *count > 1 => *count -= 1,
        Some(_) => drop(on_streams.remove(&flow)),
        None if more => drop(on_streams.insert(flow, 1)),
        None => {}
    }
}
