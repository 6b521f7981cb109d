//! Every message from the network, and the room that deals with it.
//!
//! | from | message | goes to |
//! | --- | --- | --- |
//! | the peer that was asked | response | its client transaction's owner |
//! | its SIP server, late | response to a REGISTER | `late_answers` |
//! | anybody else | response | nowhere; with the branch of what a device was sent in a call: `unproven` |
//! | either | what breaks the rules of every message | `broken` |
//! | either | CANCEL of a pending INVITE | the call, or the forwarded INVITE |
//! | either | ACK, or a request with our signed Route | `dialogs` |
//! | device | REGISTER | `devices`, or `push_bindings` when it is for a SIP server |
//! | device | anything else | `outgoing`: to the SIP server that it has registered at, or 403 |
//! | SIP server | anything with our Path as Route | `push_bindings` |
//! | SIP server | INVITE to a binding | `calls`; 503 when the process is about to end |
//! | SIP server | OPTIONS to a binding | 200, from `notify` |
//! | SIP server | OPTIONS to the relay itself | 200: a ping |
//! | SIP server | MESSAGE to a binding | `messages` |
//! | SIP server | NOTIFY to a binding | `notify` |
//! | SIP server | BYE in the early dialog of the relay's own 180 or 183 | the call, as a CANCEL |
//! | SIP server | BYE, INFO, PRACK, UPDATE, or anything with a To tag | 481: its dialog is not here |
//! | SIP server | anything to a Contact that was unregistered longer ago than a request may have been under way | 404 |
//! | SIP server | another method | 405; an unknown Contact 404; a wrong source 403 |
//!
//! Invariant: every request but ACK gets exactly one final answer. A request that is refused before its sender is trusted leaves no state, and cannot be used
//! to flood anybody: it gets one answer (RFC 3261 §8.2.7), to where it came from, and hardly larger than itself.

use std::time::Instant;

use bytes::Bytes;

use super::bindings::RegisterAnswer;
use super::upstreams::Timeliness;
use super::{ClientOwner, Endpoint, Event, Missing, RequestRefusal, ServerOwner, Source};
use crate::edge::call::Call;
use crate::edge::{forward, push_proxy, returned};
use crate::flow::{Side, SignOfLife};
use crate::id::{BindingId, BranchId, FlowId, InstanceId, UpstreamId};
use crate::message::{Composer, Message, Method, Name, Uri, Via};
use crate::transaction::{Arrival, Asked, Reply, RequestKey};

/// An answer to a sender that is not believed is at most so many times as large as its request, in halves; else it is not
/// sent, because a datagram's sender may be somebody else than it says.
const REFLECTED_HALVES_MAX: usize = 3;

/// When a request may be tried again that came as the process was about to end, in seconds.
const AT_END_AFTER_S: u32 = 1;

/// The bytes of an answer that is kept for a request of which nothing more will come. As many as there may be of them take 200 MB.
const ONCE_BYTES: usize = 4 * 1024;

/// The methods that are served outside a dialog or in one.
pub(super) const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, MESSAGE, NOTIFY";

/// Whether a request only asks whether somebody is there: OPTIONS outside a dialog whose Request-URI names a host and no user.
/// Monitors and dispatchers send it (`keepalive`, `ds_ping`).
fn is_ping(request: &Message) -> bool {
    let names_host = |uri: Uri<'_>| uri.user.is_none_or(str::is_empty) && !uri.host.is_empty();
    let to_a_host = request.request_uri().and_then(Uri::parse).is_some_and(names_host);
    let in_dialog = request.to().is_some_and(|to| to.tag().is_some());
    request.method() == Some(Method::Options) && to_a_host && !in_dialog
}

/// Whether a request is of a dialog: its To says so, or its method means something there alone (RFC 3261 §15.1.2, RFC 3262 §3, RFC 3311 §5.2,
/// RFC 6086 §4.2.2).
pub(super) fn is_in_dialog(request: &Message) -> bool {
    let is_bound = matches!(request.method(), Some(Method::Bye | Method::Info | Method::Prack | Method::Update));
    is_bound || request.to().is_some_and(|to| to.tag().is_some())
}

/// The Contact that a SIP server's request names.
fn named_contact(source: &Source, request: &Message) -> Option<BindingId> {
    if !request.is_request() || source.side != Side::Upstream || request.method() == Some(Method::Ack) {
        return None;
    }
    request.request_uri().and_then(Uri::user_of).and_then(BindingId::parse)
}

impl Endpoint {
    pub(super) fn on_message(&mut self, now: Instant, source: Source, message: Message) {
        self.on_sign_of_life(now, source.flow, SignOfLife::Message);
        match source.side {
            Side::Upstream => self.flows.note_upstream(&source),
            Side::Device => self.attachments.note_heard(source.flow),
        }
        if message.is_request() {
            self.on_request(now, source, message);
        } else {
            self.on_response(now, source, &message);
        }
    }

    fn on_response(&mut self, now: Instant, source: Source, response: &Message) {
        let mended = response.mended(&self.core.settings.limits);
        let response = mended.as_ref().unwrap_or(response);
        // Nobody can be told that a response is broken (RFC 4475 §3.1.2.4): it is as if it had not come.
        if response.check().is_err() {
            return;
        }
        // RFC 3261 §18.1.2: it is for another client.
        let Some(via) = response.via().filter(|via| self.core.settings.has_sent_by(source.side, via)) else {
            return self.core.event(Event::ResponseRefused);
        };
        let Some(asked) = self.core.transactions.asked(response, &via) else {
            return self.on_late_response(now, &source, response);
        };
        if !self.was_asked(&source, &asked) && !self.is_answered_elsewhere(&source, &asked, response) {
            if !asked.flow.is_reliable() {
                self.core.event(Event::ResponseRefused);
            }
            return;
        }
        // A response with further Vias is for another element, and came here by mistake (RFC 3261 §8.1.3.3).
        if asked.owner.begins_here() && response.vias() > 1 {
            return;
        }
        if asked.flow.is_reliable() && asked.flow != source.flow {
            self.core.transactions.turn_to(&asked, source.flow);
            if source.side == Side::Upstream {
                self.note_asked_of_server(source.flow, asked.branch());
            }
            self.note_answered(&source, &asked, response);
        }
        if response.status() == Some(481) {
            self.hang_up_forgotten(now, &source, &asked);
        }
        let Some((branch, owner)) = self.core.transactions.on_response(now, &asked, response) else { return };
        match owner {
            ClientOwner::Register(binding) => {
                let answer = RegisterAnswer { branch, by: asked.flow, timeliness: Timeliness::InTime, response };
                self.on_register_response(now, binding, &answer);
            }
            ClientOwner::Leg(call) => self.on_leg_response(now, call, branch, response),
            ClientOwner::Subscribe(binding) => self.on_subscribe_response(now, binding, branch, response),
            ClientOwner::Message(message) => self.on_message_response(now, message, branch, response),
            ClientOwner::Forwarded(server, _) => self.on_forwarded_response(now, server, source.side, response),
            ClientOwner::ForwardedRegister(register) => {
                self.on_forwarded_register_response(now, register, asked.flow, response);
            }
            ClientOwner::FailbackProbe(upstream) => self.on_probe_response(now, upstream, branch, response),
            ClientOwner::Nobody => {}
        }
    }

    /// Whether a response came from the peer that its request was sent to: by the same stream, or of a leg by another one that the device has, or of
    /// a device's request by another one of the SIP server; of a datagram from the same host, by whatever port or transport, or from another address
    /// of the same SIP server.
    fn was_asked(&self, source: &Source, asked: &Asked<ClientOwner>) -> bool {
        let FlowId::Datagram(peer) = asked.flow else {
            return asked.went_by(source.flow)
                || self.is_of_leg(source.flow, asked)
                || self.is_of_server(source, asked);
        };
        let by_another_address = || {
            let server = match asked.owner {
                ClientOwner::Register(binding) | ClientOwner::Subscribe(binding) => self.upstream_of(binding),
                ClientOwner::Forwarded(_, server) => server,
                ClientOwner::ForwardedRegister(register) => self.registers.get(register).and_then(|it| it.upstream()),
                ClientOwner::FailbackProbe(upstream) => Some(upstream),
                ClientOwner::Leg(_) | ClientOwner::Message(_) | ClientOwner::Nobody => None,
            };
            server.is_some_and(|server| self.upstreams.is_trusted(server, source))
        };
        let is_same_host = peer.ip().to_canonical() == source.peer.ip().to_canonical();
        source.side == Side::Upstream && (is_same_host || by_another_address())
    }

    /// Whether a flow is one that a leg of a call may be answered by.
    fn is_of_leg(&self, flow: FlowId, asked: &Asked<ClientOwner>) -> bool {
        let ClientOwner::Leg(call) = asked.owner else { return false };
        self.calls.get(call).is_some_and(|row| row.goes_by(asked.branch(), flow))
    }

    /// Whether a stream is one that a SIP server may have opened to answer a device's request (RFC 3261 §18.2.2).
    fn is_of_server(&self, source: &Source, asked: &Asked<ClientOwner>) -> bool {
        let ClientOwner::Forwarded(_, Some(server)) = asked.owner else { return false };
        source.side == Side::Upstream && source.flow.is_reliable() && self.upstreams.is_trusted(server, source)
    }

    /// A request that was sent got no final response, or its flow is gone.
    pub(super) fn on_unanswered(&mut self, now: Instant, branch: BranchId, owner: ClientOwner) {
        match owner {
            ClientOwner::Register(binding) => self.on_register_silence(now, binding, branch),
            ClientOwner::Leg(call) => self.on_leg_lost(now, call, branch),
            ClientOwner::Subscribe(binding) => self.on_subscribe_silence(now, binding, branch),
            ClientOwner::Message(message) => self.on_message_lost(now, message, branch),
            ClientOwner::Forwarded(server, _) => self.on_forwarded_silence(now, server),
            ClientOwner::ForwardedRegister(register) => self.on_forwarded_register_timeout(now, register),
            ClientOwner::FailbackProbe(upstream) => self.on_probe_unanswered(upstream, branch),
            ClientOwner::Nobody => {}
        }
    }

    fn on_request(&mut self, now: Instant, source: Source, request: Message) {
        let method = request.method().unwrap_or(Method::Other);
        let request = match request.check() {
            Ok(()) => request,
            Err(fault) => match self.as_of_its_invite(&source, &request) {
                Some(sound) => sound,
                None => return self.refuse_broken(&source, &request, fault),
            },
        };
        let request = forward::add_received(&request, &source).unwrap_or(request);
        if source.side == Side::Device && !returned::is_fit(&request) {
            if method != Method::Ack {
                self.answer_stranger(&source, &request, 513);
            }
            return;
        }
        let loose = forward::from_strict_router(&request, &self.core.token_key, source.side);
        let request = loose.unwrap_or(request);
        let is_devices = source.side == Side::Device;
        let inner = is_devices
            .then(|| forward::past_outbound_proxy(&request, &self.core.token_key, || self.own_routes(&request)));
        let inner = inner.flatten();
        self.judge_request(now, source, inner.unwrap_or(request));
    }

    /// Whether a request is a copy of one that has come here, or its CANCEL.
    pub(super) fn has_come(&self, source: &Source, request: &Message) -> bool {
        self.core.transactions.has_come(&RequestKey::of(request, request.via().as_ref(), source.side))
    }

    /// A sound request has come, now or when its device had not proved itself.
    pub(super) fn judge_request(&mut self, now: Instant, source: Source, request: Message) {
        let method = request.method().unwrap_or(Method::Other);
        let via = request.via();
        let key = RequestKey::of(&request, via.as_ref(), source.side);
        let reply = Reply { flow: reply_flow(&source, via.as_ref()), side: source.side, key: &key };
        match self.core.transactions.on_request(now, &request, reply) {
            Arrival::Absorbed => {}
            Arrival::AckOfAccepted => self.on_dialog_ack(now, source, &request),
            Arrival::Cancel(owner) => self.on_cancel(now, reply, &request, owner),
            Arrival::CopyElsewhere(server, owner)
                if self.is_its_server(&source, owner) || self.is_of_dialog(&source, &request) =>
            {
                self.core.transactions.answer_elsewhere(server, &request, reply.flow);
            }
            Arrival::CopyElsewhere(..) => self.core.event(Event::RequestRefused(RequestRefusal::WrongSource)),
            Arrival::CancelElsewhere(owner)
                if self.is_its_server(&source, owner) || self.may_cancel_forwarded(&source, &request, &key, owner) =>
            {
                self.on_cancel(now, reply, &request, owner);
            }
            Arrival::CancelElsewhere(_) if self.defer_cancel(now, &source, &request, true) => {}
            Arrival::CancelElsewhere(_) => self.refuse_stranger(&source, &request, 481),
            Arrival::CancelTooLate => {
                let response = self.cancel_taken(&request, &key, ServerOwner::Nobody);
                self.send_reflected(source.flow, &request, response);
            }
            Arrival::New => match (method, source.side) {
                (Method::Ack, _) => self.on_dialog_ack(now, source, &request),
                (Method::Cancel, _) if self.defer_cancel(now, &source, &request, false) => {}
                (Method::Cancel, _) => self.refuse_stranger(&source, &request, 481),
                (Method::Register, Side::Device) => self.on_device_register(now, source, reply, request),
                _ => self.on_new_request(now, source, reply, request),
            },
        }
    }

    /// Whether what came by another flow than its INVITE is the SIP server's own, a CANCEL or a copy: its connection broke, and it has
    /// opened another one, or it has several addresses.
    fn is_its_server(&self, source: &Source, owner: ServerOwner) -> bool {
        let binding = match owner {
            ServerOwner::Call(call) => self.calls.get(call).map(Call::binding),
            ServerOwner::Overtaking(binding, _) => Some(binding),
            _ => return false,
        };
        source.side == Side::Upstream && binding.is_some_and(|binding| self.is_trusted(binding, source))
    }

    /// Whether a CANCEL that came by another flow than the INVITE of its dialog is from the same end of that dialog.
    fn may_cancel_forwarded(&self, source: &Source, cancel: &Message, key: &RequestKey, owner: ServerOwner) -> bool {
        matches!(owner, ServerOwner::Forwarded(_) | ServerOwner::Parked(..))
            && self.core.transactions.is_of_call(cancel, key)
            && self.is_of_dialog(source, cancel)
    }

    /// Whether a request came from one of the two ends of the dialog that its Route names.
    fn is_of_dialog(&self, source: &Source, request: &Message) -> bool {
        let own = forward::own_route(request, &self.core.token_key, source.side);
        own.is_some_and(|own| self.may_use(source, &own.token))
    }

    /// 200 to a CANCEL, with the To tag of the responses to its INVITE (RFC 3261 §9.2, §16.10), also of those that are still to come.
    fn cancel_taken(&mut self, cancel: &Message, key: &RequestKey, owner: ServerOwner) -> Bytes {
        let tag = self.core.transactions.to_tag_for(key).or_else(|| match owner {
            ServerOwner::Call(call) => self.own_tag_of(call),
            ServerOwner::Overtaking(_, key) => self.tag_of_overtaking(key),
            ServerOwner::Forwarded(_) | ServerOwner::Parked(..) | ServerOwner::Nobody => None,
        });
        let tag = tag.unwrap_or_else(|| self.core.random.tag());
        Composer::response(cancel, 200, Composer::reason(200), Some(&tag)).finish()
    }

    fn on_cancel(&mut self, now: Instant, reply: Reply<'_>, cancel: &Message, owner: ServerOwner) {
        let response = self.cancel_taken(cancel, reply.key, owner);
        self.respond_once(now, reply, cancel, 200, response);
        match owner {
            ServerOwner::Call(call) => self.on_call_cancelled(now, call, cancel),
            ServerOwner::Forwarded(branch) => {
                self.core.transactions.cancel(now, branch, forward::reason(cancel).as_deref());
            }
            ServerOwner::Overtaking(_, key) => self.cancel_overtaking(now, key),
            ServerOwner::Parked(who, branch) => self.cancel_parked(now, who, branch),
            ServerOwner::Nobody => {}
        }
    }

    fn on_new_request(&mut self, now: Instant, source: Source, reply: Reply<'_>, request: Message) {
        if let Some(own) = forward::own_route(&request, &self.core.token_key, source.side) {
            return self.on_dialog_request(now, source, reply, &request, own);
        }
        if source.side == Side::Device {
            return self.on_outgoing(now, source, reply, &request);
        }
        if let Some(named) = push_proxy::own_path(&self.core.token_key, &request) {
            return self.on_path_request(now, source, reply, request, named);
        }
        if is_ping(&request) {
            return self.answer_ping(&source, &request);
        }
        let Some(binding) = request.request_uri().and_then(|uri| self.binding_of(uri, &source)) else {
            self.core.event(Event::RequestRefused(RequestRefusal::Unknown));
            let is_sip = request.request_uri().is_some_and(Uri::is_sip);
            let status = if !is_sip {
                416
            } else if is_in_dialog(&request) {
                481
            } else {
                404
            };
            return self.refuse_stranger(&source, &request, status);
        };
        if !self.is_trusted(binding, &source) {
            self.core.event(Event::RequestRefused(RequestRefusal::WrongSource));
            return self.refuse_stranger(&source, &request, 403);
        }
        let request = self.past_own_route(&request, binding).unwrap_or(request);
        let in_dialog = is_in_dialog(&request);
        match request.method() {
            Some(Method::Notify) if in_dialog && self.is_subscribed(binding, &request) => {
                if self.on_notify(now, reply, &request, binding) {
                    self.on_notified(now, binding, &request);
                }
            }
            Some(Method::Bye) if self.hang_up_early(now, reply, &request, binding) => {}
            _ if in_dialog => self.refuse(now, reply, &request, 481),
            _ if self.is_long_unregistered(now, binding) => {
                self.core.event(Event::RequestRefused(RequestRefusal::Unknown));
                self.refuse_call(now, reply, &request, 404);
            }
            Some(Method::Invite) => self.on_invite(now, source, reply, request, binding),
            Some(Method::Options) => self.answer_options(now, reply, &request),
            Some(Method::Message) => self.on_message_request(now, reply, request, binding),
            Some(Method::Notify) => {
                self.on_notify(now, reply, &request, binding);
            }
            _ => {
                self.core.event(Event::RequestRefused(RequestRefusal::Method));
                let tag = self.core.random.tag();
                let response = Composer::response(&request, 405, Composer::reason(405), Some(&tag));
                self.respond_once(now, reply, &request, 405, response.header(Name::Allow, ALLOW).finish());
            }
        }
    }

    /// A SIP server's request for a binding without the topmost Routes that name this relay, as its address or as the Contact of the binding
    /// (RFC 3261 §16.4). `None`: there are none.
    fn past_own_route(&self, request: &Message, binding: BindingId) -> Option<Message> {
        if !request.has(Name::Route) {
            return None;
        }
        let is_contact = request.route_user(0).and_then(BindingId::parse) == Some(binding);
        forward::past_routes(request, if is_contact { 1 } else { self.own_routes(request) })
    }

    /// Answers a sender that is not known to be the SIP server of what it asks for.
    pub(super) fn refuse_stranger(&mut self, source: &Source, request: &Message, status: u16) {
        self.answer_stranger(source, request, status);
        if request.method() == Some(Method::Invite) {
            self.core.event(Event::InviteRefused { status });
        }
    }

    pub(super) fn answer_stranger(&mut self, source: &Source, request: &Message, status: u16) {
        let tag = self.stateless_tag(request);
        let response = Composer::response(request, status, Composer::reason(status), Some(&tag)).finish();
        self.send_reflected(source.flow, request, response);
    }

    /// 200 to a ping of anybody (RFC 3261 §11.2), as to a stranger: without state, and hardly larger than the request.
    fn answer_ping(&mut self, source: &Source, request: &Message) {
        let tag = self.stateless_tag(request);
        let response = match forward::not_understood(request, &[]).next() {
            Some(_) => bad_extension(request, &[], &tag),
            None => {
                let response = Composer::response(request, 200, Composer::reason(200), Some(&tag));
                response.header(Name::Allow, ALLOW).finish()
            }
        };
        self.send_reflected(source.flow, request, response);
    }

    pub(super) fn send_reflected(&mut self, flow: FlowId, request: &Message, response: Bytes) {
        // Parameters that the relay added to the Via did not come by the network.
        let added = request.via().map_or(0, |via| {
            let value = |name| via.params.get(name).flatten().map(str::len);
            value("received").map_or(0, |length| ";received=".len() + length)
                + value("rport").map_or(0, |length| 1 + length)
        });
        let asked = (request.head().len() + request.body().len()).saturating_sub(added);
        if flow.is_reliable() || response.len() * 2 <= asked * REFLECTED_HALVES_MAX {
            self.core.send(flow, response);
        }
    }

    /// The Contact of a SIP server's request that is not here, or not served yet: while bindings are being taken over, the shell keeps
    /// the request back until it can be judged.
    pub fn unclaimed_contact(&self, source: &Source, request: &Message) -> Option<BindingId> {
        let binding = named_contact(source, request)?;
        self.missing(binding)?;
        // Last, for it takes a hash of each request in a dialog.
        forward::own_route(request, &self.core.token_key, source.side).is_none().then_some(binding)
    }

    /// The Contact that a request of `source` names, where DNS has not told all addresses of its SIP server, and `source` is none of the known ones,
    /// so that the origin of the request cannot be judged. A caller may resolve the addresses and hand the request in afterwards.
    pub fn unserved(&self, source: &Source, request: &Message) -> Option<(BindingId, UpstreamId)> {
        let binding = named_contact(source, request)?;
        let Missing::Addresses(upstream) = self.missing_of(binding, source)? else { return None };
        // Last, as above.
        forward::own_route(request, &self.core.token_key, source.side).is_none().then_some((binding, upstream))
    }

    /// The reason why a request of this source for a binding cannot be judged yet.
    pub(super) fn missing_of(&self, binding: BindingId, source: &Source) -> Option<Missing> {
        self.upstream_of(binding).map_or(Some(Missing::Binding), |upstream| self.missing_of_server(upstream, source))
    }

    /// The reason why no request of this source for an account at a SIP server can be judged yet.
    pub(super) fn missing_of_server(&self, upstream: UpstreamId, source: &Source) -> Option<Missing> {
        let is_told = self.upstreams.is_known_whole(upstream) || self.upstreams.is_trusted(upstream, source);
        (!is_told).then_some(Missing::Addresses(upstream))
    }

    /// The reason why no request for a binding can be judged yet, from whatever source.
    pub fn missing(&self, binding: BindingId) -> Option<Missing> {
        match self.upstream_of(binding) {
            None => Some(Missing::Binding),
            Some(upstream) => Some(Missing::Addresses(upstream)).filter(|_| !self.is_served(upstream)),
        }
    }

    /// Whether a caller waits for this device.
    pub fn has_waiting_call(&self, instance: InstanceId) -> bool {
        !self.calls.waiting_for(instance).is_empty()
    }

    /// Whether a SIP server is known by its addresses.
    pub fn is_served(&self, upstream: UpstreamId) -> bool {
        self.upstreams.is_known(upstream)
    }

    /// Whether a request came from a SIP server of any binding that is here.
    pub fn is_sip_server(&self, source: &Source) -> bool {
        self.upstreams.any_trusts(source)
    }

    /// Answers an INVITE that waits for a claim with 100, so that its sender waits.
    pub fn say_trying(&mut self, source: &Source, invite: &Message) {
        if invite.method() == Some(Method::Invite) {
            let response = Composer::response(invite, 100, Composer::reason(100), None).finish();
            self.send_reflected(source.flow, invite, response);
        }
    }

    /// 200 to the CANCEL of an INVITE that is kept back and has heard 100: a CANCEL is answered at once (RFC 3261 §9.2), whoever is called.
    pub fn say_cancelled(&mut self, source: &Source, cancel: &Message) {
        let tag = self.stateless_tag(cancel);
        let response = Composer::response(cancel, 200, Composer::reason(200), Some(&tag)).finish();
        self.send_reflected(source.flow, cancel, response);
    }

    /// Refuses a request whose Contact was not claimed in time: its sender may try again, after so many seconds where that is told (RFC 3261 §21.5.4), or
    /// elsewhere.
    pub fn refuse_unclaimed(&mut self, source: &Source, request: &Message, retry_after_s: Option<u32>) {
        self.core.event(Event::RequestRefused(RequestRefusal::Unknown));
        self.refuse_for_now(source, request, retry_after_s);
    }

    /// Refuses a request that nobody would answer, since the process is about to end: another node, or the next run, takes it when it is tried again.
    pub fn refuse_at_end(&mut self, source: &Source, request: &Message) {
        self.refuse_for_now(source, request, Some(AT_END_AFTER_S));
    }

    fn refuse_for_now(&mut self, source: &Source, request: &Message, retry_after_s: Option<u32>) {
        let tag = self.stateless_tag(request);
        let response = Composer::response(request, 503, Composer::reason(503), Some(&tag));
        self.send_reflected(source.flow, request, response.maybe(Name::RetryAfter, retry_after_s).finish());
        if request.method() == Some(Method::Invite) && source.side == Side::Upstream {
            self.core.event(Event::InviteRefused { status: 503 });
        }
    }

    /// A To tag that is the same each time a request comes, without anything being remembered of it (RFC 3261 §8.2.7).
    pub(super) fn stateless_tag(&self, request: &Message) -> String {
        let from = request.from().and_then(|from| from.tag().map(str::to_owned)).unwrap_or_default();
        let branch = request.via().and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default();
        let parts =
            [request.call_id().unwrap_or_default(), &from, &branch, request.text(Name::CSeq).unwrap_or_default()];
        let name = self.core.token_key.name("sipwake stateless tag 1", &parts.map(str::as_bytes));
        format!("{:016x}", u128::from_be_bytes(name) as u64)
    }

    /// Answers with a status alone.
    pub(super) fn refuse(&mut self, now: Instant, reply: Reply<'_>, request: &Message, status: u16) {
        let tag = self.core.random.tag();
        let response = Composer::response(request, status, Composer::reason(status), Some(&tag));
        // RFC 3261 §16.3 step 5: what it requires of proxies that this one cannot.
        let response = match status {
            420 => response.unsupported(forward::unknown_to_proxies(request)),
            _ => response,
        };
        self.respond_once(now, reply, request, status, response.finish());
    }

    /// 420 where a request that is answered here requires what is not understood (RFC 3261 §8.2.2.3); whether it did.
    pub(super) fn refuse_extension(
        &mut self,
        now: Instant,
        reply: Reply<'_>,
        request: &Message,
        understood: &[&str],
    ) -> bool {
        let is_fit = forward::not_understood(request, understood).next().is_none();
        if !is_fit {
            let tag = self.core.random.tag();
            let response = bad_extension(request, understood, &tag);
            self.respond_once(now, reply, request, 420, response);
        }
        !is_fit
    }

    /// Refuses with a Warning that tells a developer why (RFC 3261 §20.43).
    pub(super) fn refuse_with_warning(
        &mut self,
        now: Instant,
        reply: Reply<'_>,
        request: &Message,
        status: u16,
        why: &'static str,
    ) {
        let tag = self.core.random.tag();
        let response = Composer::response(request, status, Composer::reason(status), Some(&tag));
        self.respond_once(now, reply, request, status, response.header(Name::Warning, self.warning(why)).finish());
    }

    /// The value of a Warning of ours.
    pub(super) fn warning(&self, text: &str) -> String {
        format!("399 {} \"{text}\"", self.core.settings.edge)
    }

    /// Refuses, and tells the shell when it was a call.
    pub(super) fn refuse_call(&mut self, now: Instant, reply: Reply<'_>, request: &Message, status: u16) {
        self.refuse(now, reply, request, status);
        if request.method() == Some(Method::Invite) {
            self.core.event(Event::InviteRefused { status });
        }
    }

    /// Answers a request that nothing more will come of: in a transaction of its own while such requests are few, and its answer is no longer than
    /// [`ONCE_BYTES`], else without one, so that a flood of them shuts nobody out. A device's comes once by its stream, and leaves nothing that another
    /// device's would be taken for; except an INVITE of a dialog, whose ACK has our Route and would travel on.
    pub(super) fn respond_once(
        &mut self,
        now: Instant,
        reply: Reply<'_>,
        request: &Message,
        status: u16,
        response: Bytes,
    ) {
        let is_of_dialog = || forward::own_route(request, &self.core.token_key, reply.side).is_some();
        let is_acknowledged = || request.method() == Some(Method::Invite) && is_of_dialog();
        let is_short = response.len() <= ONCE_BYTES;
        let is_kept = is_short && reply.side == Side::Upstream || is_acknowledged();
        let opened = is_kept.then(|| self.core.transactions.open_in_passing(request, reply, ServerOwner::Nobody));
        match opened {
            Some(Ok(server)) => self.core.transactions.respond(now, server, status, response),
            _ => self.core.send(reply.flow, response),
        }
    }

    /// 503 without a transaction: the table is full.
    pub(super) fn busy(&mut self, reply: Reply<'_>, request: &Message) {
        let tag = self.core.random.tag();
        let response = Composer::response(request, 503, Composer::reason(503), Some(&tag));
        self.core.send(reply.flow, response.header(Name::RetryAfter, 10).finish());
    }
}

pub(super) fn bad_extension(request: &Message, understood: &[&str], tag: &str) -> Bytes {
    let response = Composer::response(request, 420, Composer::reason(420), Some(tag));
    response.unsupported(forward::not_understood(request, understood)).finish()
}

/// Where a response goes: back on a stream; on UDP to the port that the Via names, or to where the request came from when
/// it asks so (RFC 3261 §18.2.2, RFC 3581 §4).
pub(super) fn reply_flow(source: &Source, via: Option<&Via<'_>>) -> FlowId {
    let FlowId::Datagram(mut peer) = source.flow else { return source.flow };
    if let Some(via) = via.filter(|via| via.params.get("rport").is_none()) {
        peer.set_port(via.port.unwrap_or(5060));
    }
    FlowId::Datagram(peer)
}
