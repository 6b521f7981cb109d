//! Requests inside a dialog, in both directions (RFC 3261 §16, statefully, except ACK).
//!
//! What opens the way is the signed token in the Route that this relay itself put there. It names the device and the SIP
//! server's flow; no state of a dialog is kept, so a dialog costs nothing and outlives a change of the device's flow.
//!
//! Invariant: a device's requests go to the flow that its token names, and to no address that a message names; a SIP
//! server's go to the flow of the token's device.

use std::time::Instant;

use super::{ClientOwner, Endpoint, ServerOwner, Side, Source, Transport};
use crate::edge::forward;
use crate::flow::FlowToken;
use crate::id::{BindingId, FlowId};
use crate::message::{Composer, Message, Method, Name};
use crate::transaction::ServerId;

impl Endpoint {
    pub(super) fn on_dialog_request(
        &mut self,
        now: Instant,
        source: Source,
        reply: FlowId,
        request: &Message,
        token: FlowToken,
        ours: usize,
    ) {
        if request.to().is_none_or(|to| to.tag().is_none()) || !self.may_use(&source, &token) {
            return self.refuse(now, reply, request, 403);
        }
        if let Err(stop) = forward::check(request, &self.settings.faces()) {
            return self.refuse(now, reply, request, stop.status());
        }
        let Some((flow, side, transport)) = self.way(&source, &token) else {
            if self.may_hold(&source, request, &token) {
                return self.hold_request(now, reply, request, ours, token.instance);
            }
            return self.refuse(now, reply, request, 480);
        };
        self.forward(now, reply, request, ours, flow, side, transport);
    }

    /// A MESSAGE outside a dialog, to a device that is attached.
    pub(super) fn on_page(
        &mut self,
        now: Instant,
        source: Source,
        reply: FlowId,
        request: &Message,
        binding: BindingId,
    ) {
        let instance = self.bindings.get(&binding).map(|registration| registration.instance);
        let attached = instance.and_then(|instance| self.attached.get(&instance));
        let Some((flow, transport)) = attached.map(|attached| (attached.flow, attached.transport)) else {
            return self.refuse(now, reply, request, 480);
        };
        if let Err(stop) = forward::check(request, &self.settings.faces()) {
            return self.refuse(now, reply, request, stop.status());
        }
        debug_assert_eq!(source.side, Side::Upstream);
        self.forward(now, reply, request, 0, flow, Side::Device, transport);
    }

    #[expect(clippy::too_many_arguments, reason = "one request, and the way it goes")]
    pub(super) fn forward(
        &mut self,
        now: Instant,
        reply: FlowId,
        request: &Message,
        ours: usize,
        flow: FlowId,
        side: Side,
        transport: Transport,
    ) {
        let Ok(server) = self.transactions.open(request, reply, ServerOwner::Nobody) else {
            return self.busy(reply, request);
        };
        if request.method() == Some(Method::Invite) {
            let trying = Composer::response(request, 100, Composer::reason(100), None).finish();
            self.transactions.respond(now, server, 100, trying);
        }
        self.pass_on(now, server, request, ours, flow, side, transport);
    }

    /// Sends a request on, whose server transaction stands.
    #[expect(clippy::too_many_arguments, reason = "one request, and the way it goes")]
    pub(super) fn pass_on(
        &mut self,
        now: Instant,
        server: ServerId,
        request: &Message,
        ours: usize,
        flow: FlowId,
        side: Side,
        transport: Transport,
    ) {
        let method = request.method().unwrap_or(Method::Other);
        let branch = self.branch();
        self.transactions.adopt(server, ServerOwner::Forwarded(branch));
        // A request other than INVITE is never answered 408 (RFC 4320 §4.2).
        let (tag, status) = (self.random.tag(), if method == Method::Invite { 408 } else { 480 });
        let failure = Composer::response(request, status, Composer::reason(status), Some(&tag)).finish();
        self.failures.insert(server, (status, failure));
        let bytes = self.onward_bytes(request, ours, side, transport, branch);
        if self.transactions.send(now, branch, method, bytes, flow, ClientOwner::Forwarded(server)).is_err() {
            return self.on_forwarded_silence(now, server);
        }
        self.note_forwarded(flow, branch);
    }

    /// An ACK to a 2xx: passed on without a transaction (RFC 3261 §16.6, §17.1.1.3).
    pub(super) fn on_dialog_ack(&mut self, source: Source, ack: &Message) {
        let Some((token, ours)) = forward::own_route(ack, &self.token_key) else { return };
        if !self.may_use(&source, &token) || forward::check(ack, &self.settings.faces()).is_err() {
            return;
        }
        let Some((flow, side, transport)) = self.way(&source, &token) else { return };
        let branch = self.branch();
        let bytes = self.onward_bytes(ack, ours, side, transport, branch);
        self.send(flow, bytes);
    }

    fn onward_bytes(
        &self,
        request: &Message,
        ours: usize,
        side: Side,
        transport: Transport,
        branch: crate::id::BranchId,
    ) -> bytes::Bytes {
        let mut edit = forward::onward(request, self.settings.face(side, transport), branch);
        for _ in 0..ours {
            edit = edit.pop(Name::Route);
        }
        if ours == 0
            && let Some(attached) = self.page_contact(request)
        {
            edit = edit.request_uri(attached);
        }
        edit.finish()
    }

    /// The Contact of the device that a request to a binding is for.
    fn page_contact(&self, request: &Message) -> Option<String> {
        let user = crate::message::Uri::parse(request.request_uri()?)?.user?;
        let instance = self.bindings.get(&BindingId::parse(user)?)?.instance;
        self.attached.get(&instance).map(|attached| attached.contact.to_string())
    }

    /// Whether the sender is one of the two ends of the token's way.
    fn may_use(&self, source: &Source, token: &FlowToken) -> bool {
        match source.side {
            Side::Device => self.is_attached_by(token.instance, source),
            Side::Upstream => {
                token.upstream == source.flow
                    || self.devices.get(&token.instance).is_some_and(|device| self.is_trusted(device.binding, source))
            }
        }
    }

    /// Where a request goes from here: the other end of the token's way.
    fn way(&self, source: &Source, token: &FlowToken) -> Option<(FlowId, Side, Transport)> {
        match source.side {
            Side::Upstream => {
                let attached = self.attached.get(&token.instance)?;
                Some((attached.flow, Side::Device, attached.transport))
            }
            Side::Device => {
                let transport = match token.upstream {
                    FlowId::Datagram(_) => Some(Transport::Udp),
                    flow => self.streams.get(&flow).copied(),
                };
                let here = transport.map(|transport| (token.upstream, transport));
                // The stream that the INVITE came by is gone: by the binding's own flow instead.
                let binding = || self.devices.get(&token.instance).map(|device| device.binding);
                let (flow, transport) = here.or_else(|| binding().and_then(|b| self.flow_of_binding(b)))?;
                Some((flow, Side::Upstream, transport))
            }
        }
    }

    pub(super) fn on_forwarded_response(&mut self, now: Instant, server: ServerId, response: &Message) {
        let Some(status) = response.status().filter(|status| *status > 100) else { return };
        if status >= 200 {
            self.failures.remove(&server);
        }
        self.transactions.respond(now, server, status, forward::back(response));
    }

    /// A forwarded request could not be sent, or its flow broke.
    pub(super) fn on_forwarded_silence(&mut self, now: Instant, server: ServerId) {
        if let Some((status, failure)) = self.failures.remove(&server) {
            self.transactions.respond(now, server, status, failure);
        }
    }

    /// A forwarded request was left without an answer for its whole time.
    pub(super) fn on_forwarded_timeout(&mut self, now: Instant, server: ServerId) {
        if self.transactions.give_up(now, server) {
            self.on_forwarded_silence(now, server);
        } else {
            self.failures.remove(&server);
        }
    }
}
