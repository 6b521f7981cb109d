//! Requests inside a dialog, in both directions (RFC 3261 §16, statefully, except ACK).
//!
//! A request passes by the signed token in the Route that this relay itself put there. The token names the device and the SIP server's flow. No state of a
//! dialog is kept, so a dialog costs nothing and outlives a change of the device's flow.
//!
//! | the request | passes |
//! | --- | --- |
//! | with a To tag, and with the tag of the end that began the dialog, which the token covers | whatever its method |
//! | without a To tag (RFC 2543 knew none), in a dialog of that very end | if it is BYE, INFO, PRACK or UPDATE: they begin nothing |
//!
//! A request for a peer that is away for a moment waits in [`super::parked`]. One for a device that has registered through here and is not known here (any
//! more) first makes the shell look it up ([`Endpoint::missing_by_path`]): it may be another node's by now ([`super::elsewhere`]).
//!
//! Invariant: a device begins nothing with the token of a call. Its requests go to the flow that the token names, and to no address that a message names; a SIP
//! server's go to the flow of the token's device, attached or not.

use std::collections::HashMap;
use std::time::Instant;

use super::{ClientOwner, DialogMark, Endpoint, Event, ServerOwner, Side, Source, Transport};
use crate::edge::forward::OwnRoute;
use crate::edge::own_proof::{self, Sender};
use crate::edge::{forward, push_proxy, returned};
use crate::flow::FlowToken;
use crate::id::{BranchId, FlowId, InstanceId, UpstreamId};
use crate::message::{Composer, Message, Method, Name};
use crate::transaction::{Reply, ServerId};

/// Bytes of a BYE that is kept beyond its time, for a stream that ended unseen or a device that is away; a longer one is not.
pub(super) const LATE_BYTES: usize = 4_096;

/// The destination of a request of a dialog.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextHop {
    pub(super) flow: FlowId,
    /// The side that it leads to.
    pub(super) side: Side,
    pub(super) transport: Transport,
    /// The dialog's device, whichever side it leads to.
    pub(super) device: InstanceId,
}

/// Changes to a request as it is forwarded.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeaderEdits {
    /// The number of its Route values that are ours, and are removed.
    pub(super) ours: usize,
    /// The flow by which the device's requests of the dialog pass that the request begins: it gets our Record-Route.
    pub(super) begun_by: Option<(FlowId, Transport)>,
}

/// The requests inside dialogs that are forwarded and not answered.
#[derive(Debug, Default)]
pub(super) struct DialogForwarding {
    unanswered: HashMap<ServerId, Unanswered>,
}

/// A request that is forwarded and not answered.
#[derive(Debug)]
struct Unanswered {
    /// The response when nobody else answers it, with its status.
    failure: (u16, bytes::Bytes),
    /// The device of its dialog.
    device: InstanceId,
}

impl DialogForwarding {
    pub(super) fn len(&self) -> usize {
        self.unanswered.len()
    }

    /// All of them, in the order in which they came.
    pub(super) fn unanswered(&self) -> Vec<ServerId> {
        #[expect(clippy::disallowed_methods, reason = "sorted before anybody is answered")]
        let mut all: Vec<_> = self.unanswered.keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// The device of the dialog of a request that is not answered.
    pub(super) fn device_of(&self, server: ServerId) -> Option<InstanceId> {
        self.unanswered.get(&server).map(|it| it.device)
    }

    /// A request that waited is sent: what it is answered when nobody else answers it.
    pub(super) fn fail_with(&mut self, server: ServerId, failure: (u16, bytes::Bytes)) {
        if let Some(unanswered) = self.unanswered.get_mut(&server) {
            unanswered.failure = failure;
        }
    }

    /// A request is answered; what it would have been answered otherwise.
    pub(super) fn settle(&mut self, server: ServerId) -> Option<(u16, bytes::Bytes)> {
        self.unanswered.remove(&server).map(|it| it.failure)
    }
}

impl Endpoint {
    pub(super) fn on_dialog_request(
        &mut self,
        now: Instant,
        source: Source,
        reply: Reply<'_>,
        request: &Message,
        OwnRoute { token: named, values: ours }: OwnRoute,
    ) {
        let token = self.of_successor(named);
        match source.side {
            _ if self.may_use(&source, &named) => {}
            Side::Upstream => return self.refuse_stranger(&source, request, 403),
            Side::Device => return self.on_unproven_request(now, source, request, token.instance),
        }
        let in_dialog = request.to().is_some_and(|to| to.tag().is_some());
        if !in_dialog && begins_something(request) {
            return self.refuse(now, reply, request, 403);
        }
        if let Err(stop) = forward::check(request, &self.core.settings.own_addresses()) {
            return self.refuse(now, reply, request, stop.status());
        }
        if source.side == Side::Device && self.awaits_word(now, source, reply, request, token.instance) {
            return;
        }
        if request.method() == Some(Method::Bye)
            && let Some(dialog) = request.call_id().map(DialogMark::of)
        {
            self.unacknowledged.settle(request);
            let by_device = source.side == Side::Device;
            self.core.event(Event::DialogEnded { instance: token.instance, dialog, by_device });
        }
        // A NOTIFY makes the subscriber's dialog, one for each notifier (RFC 6665 §4.4.1), so it has a Record-Route as its SUBSCRIBE had (§4.3).
        let makes_dialog = source.side == Side::Upstream && request.method() == Some(Method::Notify);
        let edits = HeaderEdits { ours, begun_by: makes_dialog.then(|| self.way_of(&source, &token)) };
        let wakes = source.side == Side::Upstream
            && push_proxy::purr(request).map(|it| self.current(it)) == Some(token.instance);
        match self.next_hop(&source, &token, request) {
            Some(hop) if wakes => self.forward_heard(now, reply, request, edits, hop),
            Some(hop) => drop(self.forward(now, reply, request, edits, hop)),
            None => {
                if wakes {
                    self.wake_for_request(now, token.instance);
                }
                self.park(now, reply, request, source.side, token.instance, edits);
            }
        }
    }

    /// Sends a request on; by which branch, where it is not answered already.
    pub(super) fn forward(
        &mut self,
        now: Instant,
        reply: Reply<'_>,
        request: &Message,
        edits: HeaderEdits,
        hop: NextHop,
    ) -> Option<BranchId> {
        let branch = self.core.branch();
        // A request other than INVITE is never answered 408 (RFC 4320 §4.2). A device that is silent is away.
        let is_for_server = hop.side == Side::Upstream;
        let status = if request.method() == Some(Method::Invite) && is_for_server { 408 } else { 480 };
        let server = self.open_forwarded(now, reply, request, ServerOwner::Forwarded(branch), hop.device, status)?;
        self.send_forwarded(now, server, branch, request, edits, hop);
        Some(branch)
    }

    pub(super) fn send_forwarded(
        &mut self,
        now: Instant,
        server: ServerId,
        branch: BranchId,
        request: &Message,
        edits: HeaderEdits,
        hop: NextHop,
    ) {
        let method = request.method().unwrap_or(Method::Other);
        let bytes = self.forwarded_bytes(request, edits, &hop, branch);
        let is_short = bytes.len() <= LATE_BYTES;
        let owner = ClientOwner::Forwarded(server, self.server_behind(&hop));
        if self.core.transactions.send(now, branch, method, bytes, hop.flow, owner).is_err() {
            return self.on_forwarded_silence(now, server);
        }
        if method == Method::Bye && is_short {
            self.core.transactions.expect_late(branch, hop.device);
        }
        if hop.side == Side::Device {
            self.core.transactions.give_up_at(branch, now + self.core.settings.answer_timeout);
            self.note_forwarded(hop.flow, hop.device, branch);
        } else {
            self.note_asked_of_server(hop.flow, branch);
        }
    }

    /// An ACK to a 2xx: passed on without a transaction (RFC 3261 §16.6, §17.1.1.3).
    pub(super) fn on_dialog_ack(&mut self, now: Instant, source: Source, ack: &Message) {
        let own = forward::own_route(ack, &self.core.token_key, source.side);
        let Some(OwnRoute { token, values: ours }) = own else { return };
        if !self.may_use(&source, &token) {
            return self.on_unproven_ack(now, source, ack, self.of_successor(token).instance);
        }
        if forward::check(ack, &self.core.settings.own_addresses()).is_err() {
            return;
        }
        let Some(hop) = self.next_hop(&source, &self.of_successor(token), ack) else { return };
        self.unacknowledged.settle(ack);
        let branch = self.core.branch();
        let bytes = self.forwarded_bytes(ack, HeaderEdits { ours, begun_by: None }, &hop, branch);
        self.core.transactions.pass_ack(now, hop.flow, bytes);
    }

    pub(super) fn forwarded_bytes(
        &self,
        request: &Message,
        edits: HeaderEdits,
        hop: &NextHop,
        branch: BranchId,
    ) -> bytes::Bytes {
        let mut edit = forward::forward_request(request, self.core.settings.sent_by(hop.side, hop.transport), branch);
        if hop.side == Side::Upstream {
            let passes = self.push_bindings.knows(hop.device);
            edit = forward::strip_asserted_identity(edit, Side::Device);
            edit = own_proof::take(edit, request, if passes { Sender::Passing } else { Sender::Lent });
        } else {
            edit = edit.remove(Name::SipwakeCall);
        }
        edit = forward::take_route(edit, request, edits.ours);
        if let Some((flow, transport)) = edits.begun_by {
            let token = FlowToken { instance: hop.device, upstream: flow };
            let token = forward::token_for(request, &self.core.token_key, Side::Upstream, &token);
            let device = self.core.settings.sent_by(Side::Device, hop.transport);
            edit = forward::record_route(edit, &token, device, self.core.settings.sent_by(Side::Upstream, transport));
        }
        let bytes = edit.finish();
        match hop.side {
            Side::Upstream => own_proof::withheld(bytes, request.body().len()),
            Side::Device => bytes,
        }
    }

    /// Whether the sender is one of the two ends that the token names.
    pub(super) fn may_use(&self, source: &Source, token: &FlowToken) -> bool {
        match source.side {
            Side::Device => self.carries_dialogs_of(token.instance, source),
            Side::Upstream => {
                token.upstream == source.flow
                    || (self.server_of(self.current(token.instance)))
                        .is_some_and(|server| self.upstreams.is_trusted(server, source))
            }
        }
    }

    /// The flow to a SIP server by which the other requests of a dialog pass, or that this one came by, where that is gone.
    fn way_of(&self, source: &Source, token: &FlowToken) -> (FlowId, Transport) {
        let transport = self.flows.transport_of(token.upstream);
        transport.map_or((source.flow, source.transport), |transport| (token.upstream, transport))
    }

    /// The next hop of a request: the other end that the token names.
    fn next_hop(&self, source: &Source, token: &FlowToken, request: &Message) -> Option<NextHop> {
        match source.side {
            Side::Upstream => {
                let device = token.instance;
                let answered = self.unproven.dialog_flow(device, request);
                let dialogs = answered.or_else(|| self.attachments.dialog_flow(device))?;
                Some(NextHop { flow: dialogs.flow, side: Side::Device, transport: dialogs.transport, device })
            }
            Side::Device => {
                let transport = self.flows.transport_of(token.upstream);
                let (side, device) = (Side::Upstream, token.instance);
                let here = transport.map(|transport| NextHop { flow: token.upstream, side, transport, device });
                // The stream that the INVITE came by is gone: by the binding's own flow instead.
                here.or_else(|| self.hop_to_server(self.server_of(device)?, device))
            }
        }
    }

    /// The SIP server that a hop leads to; `None` where it leads to a device.
    pub(super) fn server_behind(&self, hop: &NextHop) -> Option<UpstreamId> {
        self.server_of(hop.device).filter(|_| hop.side == Side::Upstream)
    }

    pub(super) fn hop_to_server(&self, id: UpstreamId, device: InstanceId) -> Option<NextHop> {
        let (flow, transport) = self.upstreams.flow(id)?;
        Some(NextHop { flow, side: Side::Upstream, transport, device })
    }

    /// The next hop of a request that begins something, or has waited: to a device that is attached.
    pub(super) fn hop_to_device(&self, device: InstanceId) -> Option<NextHop> {
        let attached = self.attachments.get(device)?;
        Some(NextHop { flow: attached.flow, side: Side::Device, transport: attached.transport, device })
    }

    pub(super) fn on_forwarded_response(&mut self, now: Instant, server: ServerId, from: Side, response: &Message) {
        let Some(asked) = self.core.transactions.asked_by(server) else { return };
        let response = returned::fitting(asked, response, from);
        let Some(status) = response.status().filter(|status| *status > 100) else { return };
        let passed = returned::forward_response(asked, &response, from);
        if status >= 200 {
            self.end_carried_proof(server, (from == Side::Upstream).then_some(&response));
            self.dialogs.settle(server);
        } else if status >= 180 && from == Side::Upstream {
            self.end_ringing_proof(server);
        }
        self.note_passed(now, status, &response);
        self.core.transactions.respond(now, server, status, passed);
    }

    /// A forwarded request could not be sent, or its flow broke.
    pub(super) fn on_forwarded_silence(&mut self, now: Instant, server: ServerId) {
        if let Some((status, failure)) = self.settle_forwarded(server) {
            self.core.transactions.respond(now, server, status, failure);
        }
    }

    /// A forwarded request was left without an answer for its whole time.
    pub(super) fn on_forwarded_timeout(&mut self, now: Instant, server: ServerId, upstream: Option<UpstreamId>) {
        if let Some(upstream) = upstream {
            self.hang_up_elsewhere(now, server, upstream);
        }
        if self.core.transactions.give_up(now, server) {
            self.on_forwarded_silence(now, server);
        } else {
            self.settle_forwarded(server);
        }
    }

    /// A request is answered by nobody behind the relay; what it would have been answered.
    pub(super) fn settle_forwarded(&mut self, server: ServerId) -> Option<(u16, bytes::Bytes)> {
        self.end_carried_proof(server, None);
        self.dialogs.settle(server)
    }

    /// A device's BYE by datagrams is left unanswered: its server may be gone, and its calls may be at the one that the account's flow leads to by
    /// now (RFC 3263 §4.3). Otherwise the other party would stay in a dead call.
    fn hang_up_elsewhere(&mut self, now: Instant, server: ServerId, upstream: UpstreamId) {
        let asked = self.core.transactions.asked_by(server).filter(|asked| asked.method() == Some(Method::Bye));
        let (Some(device), Some(bye)) = (self.dialogs.device_of(server), asked.cloned()) else { return };
        let device = self.current(device);
        let Some(own) = forward::own_route(&bye, &self.core.token_key, Side::Device) else { return };
        let named = own.token.upstream;
        let Some(hop) = self.hop_to_server(upstream, device).filter(|hop| !named.is_reliable() && hop.flow != named)
        else {
            return;
        };
        let branch = self.core.branch();
        let bytes = self.forwarded_bytes(&bye, HeaderEdits { ours: own.values, begun_by: None }, &hop, branch);
        // Full: the other side's session timer, or its user, ends the call.
        let _ = self.core.transactions.send(now, branch, Method::Bye, bytes, hop.flow, ClientOwner::Nobody);
    }

    /// Opens the server transaction of a request that is forwarded, now or later; `status` is what it is answered when
    /// nobody else answers it.
    pub(super) fn open_forwarded(
        &mut self,
        now: Instant,
        reply: Reply<'_>,
        request: &Message,
        owner: ServerOwner,
        device: InstanceId,
        status: u16,
    ) -> Option<ServerId> {
        let Ok(server) = self.core.transactions.open(request, reply, owner) else {
            self.busy(reply, request);
            return None;
        };
        self.core.transactions.keep_request(server, request, device);
        self.note_admitted_as(server);
        if request.method() == Some(Method::Invite) {
            let trying = Composer::response(request, 100, Composer::reason(100), None).finish();
            self.core.transactions.respond(now, server, 100, trying);
        }
        let tag = self.core.random.tag();
        let failure = Composer::response(request, status, Composer::reason(status), Some(&tag)).finish();
        self.dialogs.unanswered.insert(server, Unanswered { failure: (status, failure), device });
        if reply.side == Side::Device {
            self.note_asked(reply.flow, device, server);
        }
        Some(server)
    }
}

/// Whether a request does something also where it is of no dialog; one that does not is answered 481 there.
fn begins_something(request: &Message) -> bool {
    let within = [Method::Bye, Method::Info, Method::Prack, Method::Update];
    !request.method().is_some_and(|method| within.contains(&method))
}
