//! MESSAGEs outside a dialog (RFC 3428): each is sent to the device if it is attached, and otherwise given to the store. A notice that the sender is composing
//! (RFC 3994) is given to no store.
//!
//! Invariant: every MESSAGE gets exactly one final answer, within `no_response` and `store` of [`EdgeTiming`](crate::timing::EdgeTiming), which is far less
//! than its sender waits (RFC 3261 §17.1.2.2). A MESSAGE that comes again has the same [`MessageId`], so that a store keeps it once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{
    ClientOwner, Endpoint, Event, InboundMessage, MessageEnd, MessageRequestId, ServerOwner, Side, StoreOutcome, Timer,
};
use crate::edge::message_content::MessageContent;
use crate::edge::pending_message::{FinalResponse, PendingMessage};
use crate::edge::{caller, forward, returned};
use crate::id::{BindingId, BranchId, InstanceId, MessageId};
use crate::message::{Composer, Message, Method, Name, Uri, media_type, unfolded};
use crate::transaction::Reply;

/// MESSAGEs on their way at once; a further one is answered 503.
pub const MESSAGES_MAX: usize = 10_000;
/// The Retry-After of a sender that was refused for now, in seconds.
const RETRY_AFTER: u32 = 30;
/// The same where a budget was spent: by then there is room for a few.
const LIMITED_RETRY_AFTER: u32 = 5;
/// The most that is kept of a sender's URI and of a media type, in bytes, and of a display name, in characters.
const FROM_BYTES: usize = 1024;
const TYPE_BYTES: usize = 255;
const NAME_CHARS: usize = 256;

/// The MESSAGEs of one endpoint that are not over.
#[derive(Debug, Default)]
pub(super) struct Messages {
    rows: HashMap<MessageRequestId, PendingMessage>,
    next: u64,
}

impl Messages {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The MESSAGEs without a final answer, in the order in which they came.
    pub(super) fn unanswered(&self) -> Vec<MessageRequestId> {
        #[expect(clippy::disallowed_methods, reason = "sorted before anybody is answered")]
        let open = self.rows.iter().filter(|(_, pending)| pending.request().is_some());
        let mut open: Vec<_> = open.map(|(id, _)| *id).collect();
        open.sort_unstable();
        open
    }

    fn add(&mut self, message: PendingMessage) -> MessageRequestId {
        let id = MessageRequestId(self.next);
        self.next += 1;
        self.rows.insert(id, message);
        id
    }

    /// A device is known by another name from now on: what it was sent, and has not answered, was sent to that one.
    pub(super) fn succeed(&mut self, earlier: InstanceId, successor: InstanceId) {
        #[expect(clippy::disallowed_methods, reason = "each is renamed by itself")]
        self.rows.values_mut().for_each(|pending| pending.succeed(earlier, successor));
    }
}

impl Endpoint {
    pub(super) fn on_message_request(&mut self, now: Instant, reply: Reply<'_>, request: Message, binding: BindingId) {
        let mut members = self.callable_instances(binding);
        let Some(&first) = members.first() else { return self.refuse(now, reply, &request, 480) };
        if let Some((status, end)) = self.refusal_of(now, &request, &members) {
            self.core.event(Event::MessageEnded { instance: first, end });
            return self.answer_unstored(now, reply, &request, status, end);
        }
        if self.messages.len() >= MESSAGES_MAX {
            return self.busy(reply, &request);
        }
        let Ok(server) = self.core.transactions.open(&request, reply, ServerOwner::Nobody) else {
            return self.busy(reply, &request);
        };
        if is_composing(&request) {
            members.retain(|instance| self.attachments.is_attached(*instance));
        }
        let tag = self.core.random.tag();
        let id = self.messages.add(PendingMessage::new(now, self.core.settings.timing.edge, server, tag, request));
        for instance in members {
            self.start_copy(now, id, instance);
        }
        // A MESSAGE that only says that its sender is composing may have no attached device, and is over then.
        self.answer_message(now, id);
        if let Some(due) = self.messages.rows.get(&id).map(PendingMessage::due) {
            self.core.timers.set(due, Timer::Message(id));
        }
    }

    /// The answer to a MESSAGE that goes neither to a device nor to the store.
    fn refusal_of(&mut self, now: Instant, request: &Message, members: &[InstanceId]) -> Option<(u16, MessageEnd)> {
        let media = media_of(request);
        let attached = members.iter().any(|instance| self.attachments.is_attached(*instance));
        let stored_only = members.iter().all(|instance| !self.attachments.is_attached(*instance));
        if let Err(stop) = forward::check(request, &self.core.settings.own_addresses())
            && attached
        {
            return Some((stop.status(), MessageEnd::Unfit));
        }
        if is_composing(request) && stored_only {
            return Some((200, MessageEnd::Composing));
        }
        if request.body().len() > self.core.settings.message_bytes {
            return Some((413, MessageEnd::TooLarge));
        }
        if stored_only
            && (request.elements(Name::Require).next().is_some()
                || forward::unknown_to_proxies(request).next().is_some())
        {
            return Some((420, MessageEnd::Unfit));
        }
        let coded = |value: &[u8]| !value.eq_ignore_ascii_case(b"identity");
        // In its long and in its compact form (RFC 3261 §7.3.3).
        let mut codings = request.values_written("Content-Encoding").chain(request.values_written("e"));
        if stored_only && (media.len() > TYPE_BYTES || codings.any(coded)) {
            return Some((415, MessageEnd::Unfit));
        }
        // A device without a flow cannot take a MESSAGE that expires at once.
        if stored_only && request.number(Name::Expires) == Some(0) {
            return Some((480, MessageEnd::Unfit));
        }
        // Each device with a budget left is charged.
        let (mut granted, (_, sender)) = (false, self.caller_of(request));
        for instance in members {
            granted |= self.devices.spend_message(now, *instance, sender);
        }
        (!granted).then_some((480, MessageEnd::Limited))
    }

    fn answer_unstored(&mut self, now: Instant, reply: Reply<'_>, request: &Message, status: u16, end: MessageEnd) {
        let tag = self.core.random.tag();
        let response = Composer::response(request, status, Composer::reason(status), Some(&tag));
        let response = match status {
            415 => response.extension("Accept-Encoding", "identity"),
            420 => response.unsupported(request.elements(Name::Require).chain(forward::unknown_to_proxies(request))),
            480 if end == MessageEnd::Limited => response.header(Name::RetryAfter, LIMITED_RETRY_AFTER),
            480 => response.header(Name::RetryAfter, RETRY_AFTER),
            _ => response,
        };
        self.respond_once(now, reply, request, status, response.finish());
    }

    /// A copy for one device: on its flow, or to the store.
    fn start_copy(&mut self, now: Instant, id: MessageRequestId, instance: InstanceId) {
        let branch = self.core.branch();
        let Some(pending) = self.messages.rows.get_mut(&id) else { return };
        let Some(request) = pending.request() else { return };
        let message = name_of(&self.core.token_key, request, instance);
        let sent_on = self.attachments.get(instance).and_then(|attached| {
            let sent_by = self.core.settings.sent_by(Side::Device, attached.transport);
            let target = Uri::request_uri_of(&attached.contact.uri);
            let bytes = forward::forward_request(request, sent_by, branch).request_uri(target).finish();
            let owner = ClientOwner::Message(id);
            let sent = self.core.transactions.send(now, branch, Method::Message, bytes, attached.flow, owner);
            sent.ok().map(|()| attached.flow)
        });
        match sent_on {
            Some(flow) => {
                pending.sent(instance, message, branch);
                self.note_forwarded(flow, instance, branch);
            }
            None => {
                pending.storing(now, instance, message);
                self.store_copy(id, instance, message);
            }
        }
    }

    fn store_copy(&mut self, id: MessageRequestId, instance: InstanceId, message: MessageId) {
        let Some(pending) = self.messages.rows.get_mut(&id) else { return };
        let Some(request) = pending.request() else { return };
        if is_composing(request) {
            // No later requester needs it.
            pending.on_stored(instance, StoreOutcome::Stored);
            return;
        }
        let sender = caller::caller(request);
        let counted_by = self.devices.caller_key(&caller::counted_caller(request, &sender));
        let (from, name) = sender;
        let lasts = request.number(Name::Expires).filter(|seconds| *seconds > 0);
        let pending = InboundMessage {
            request: id,
            message,
            instance,
            from: cut(&from, FROM_BYTES).into(),
            name: name.map(|name| name.chars().take(NAME_CHARS).collect::<String>().into()),
            sender: counted_by,
            content_type: cut(&unfolded(request.text(Name::ContentType).unwrap_or("text/plain")), TYPE_BYTES).into(),
            body: request.body().clone(),
            lasts: lasts.map(|seconds| Duration::from_secs(seconds.into())),
        };
        self.core.event(Event::StoreMessage(Box::new(pending)));
    }

    pub(super) fn on_message_response(
        &mut self,
        now: Instant,
        id: MessageRequestId,
        branch: BranchId,
        response: &Message,
    ) {
        let Some(status) = response.status().filter(|status| *status >= 200) else { return };
        let Some(pending) = self.messages.rows.get_mut(&id) else { return };
        let (status, answer) = match pending.request() {
            Some(request) => {
                let fitting = returned::fitting(request, response, Side::Device);
                let answer = returned::forward_response(request, &fitting, Side::Device);
                (fitting.status().unwrap_or(status), answer)
            }
            // The MESSAGE was answered already: this response is only counted.
            None => (status, bytes::Bytes::new()),
        };
        if let Some((instance, message)) = pending.on_response(branch, status, answer) {
            self.core.event(Event::DiscardMessage { instance, message });
        }
        self.answer_message(now, id);
    }

    /// The flow that a copy went by is gone, or the device never answered.
    pub(super) fn on_message_lost(&mut self, now: Instant, id: MessageRequestId, branch: BranchId) {
        let Some(pending) = self.messages.rows.get_mut(&id) else { return };
        if let Some((instance, message)) = pending.on_lost(now, branch) {
            self.core.timers.set(pending.due(), Timer::Message(id));
            self.store_copy(id, instance, message);
        }
        self.answer_message(now, id);
    }

    /// The process ends: the sender is told to try again. A copy that the store may have got by then has the same name.
    pub(super) fn end_message(&mut self, now: Instant, id: MessageRequestId, retry_after_s: u32) {
        let Some(pending) = self.messages.rows.get_mut(&id) else { return };
        let Some(request) = pending.request() else { return };
        let response = Composer::response(request, 503, Composer::reason(503), Some(&pending.tag));
        let response = response.header(Name::RetryAfter, retry_after_s).finish();
        pending.close();
        self.core.transactions.respond(now, pending.server, 503, response);
    }

    /// A device is wiped: what it was sent, and has not answered, it is not waited for, and nothing is kept of it.
    pub(super) fn give_up_messages(&mut self, now: Instant, device: InstanceId) {
        #[expect(clippy::disallowed_methods, reason = "sorted before anybody is answered")]
        let theirs = self.messages.rows.iter().filter(|(_, pending)| pending.is_for(device));
        let mut theirs: Vec<_> = theirs.map(|(id, _)| *id).collect();
        theirs.sort_unstable();
        for id in theirs {
            let branches = self.messages.rows.get_mut(&id).map(|pending| pending.give_up(device)).unwrap_or_default();
            for branch in branches {
                self.core.transactions.abandon(branch);
            }
            self.answer_message(now, id);
        }
    }

    pub(super) fn on_message_due(&mut self, now: Instant, id: MessageRequestId) {
        let Some(pending) = self.messages.rows.get_mut(&id) else { return };
        let silent = pending.on_due(now);
        if pending.request().is_some() {
            self.core.timers.set(pending.due(), Timer::Message(id));
        }
        for (instance, message) in silent {
            self.store_copy(id, instance, message);
        }
        self.answer_message(now, id);
    }

    pub(super) fn on_message_stored(
        &mut self,
        now: Instant,
        id: MessageRequestId,
        instance: InstanceId,
        outcome: StoreOutcome,
    ) {
        let Some(pending) = self.messages.rows.get_mut(&id) else { return };
        if let Some((instance, message)) = pending.on_stored(instance, outcome) {
            self.core.event(Event::DiscardMessage { instance, message });
        }
        self.answer_message(now, id);
    }

    fn answer_message(&mut self, now: Instant, id: MessageRequestId) {
        let Some(pending) = self.messages.rows.get_mut(&id) else { return };
        if let (Some(answer), Some(request)) = (pending.response(), pending.request()) {
            let own = |status| Composer::response(request, status, Composer::reason(status), Some(&pending.tag));
            let (status, bytes) = match answer {
                FinalResponse::Pass(status, bytes) => (status, bytes),
                FinalResponse::Accepted => (202, own(202).finish()),
                FinalResponse::Full => (480, own(480).header(Name::RetryAfter, RETRY_AFTER).finish()),
                FinalResponse::Unavailable => (503, own(503).header(Name::RetryAfter, RETRY_AFTER).finish()),
            };
            let (ends, composing) = (pending.ends(), is_composing(request));
            pending.close();
            self.core.transactions.respond(now, pending.server, status, bytes);
            for (instance, status) in ends {
                let end = match status {
                    _ if composing => MessageEnd::Composing,
                    ..300 => MessageEnd::Delivered,
                    _ => MessageEnd::Refused(status),
                };
                self.core.event(Event::MessageEnded { instance, end });
            }
        }
        if self.messages.rows.get(&id).is_some_and(PendingMessage::is_over) {
            self.messages.rows.remove(&id);
        }
    }
}

/// The identifier of a MESSAGE for a device: the same whenever it comes again, and unpredictable.
fn name_of(key: &crate::flow::TokenKey, request: &Message, instance: InstanceId) -> MessageId {
    let from = request.from().and_then(|from| from.tag().map(str::to_owned)).unwrap_or_default();
    let number = request.cseq().map_or(0, |(number, _)| number);
    let told = format!("{}\n{number}\n{from}", request.call_id().unwrap_or_default());
    let half = |which: u8| {
        let payload = [&b"page"[..], &[which], &instance.to_bytes()].concat();
        let mut bits = [0; 16];
        bits[..10].copy_from_slice(&key.mac(&payload, told.as_bytes()));
        u128::from_be_bytes(bits)
    };
    MessageId::new(half(1) ^ half(2).rotate_right(64), instance.tag())
}

/// The media type of the body, without its parameters.
fn media_of(request: &Message) -> String {
    media_type(request.text(Name::ContentType).unwrap_or_default())
}

/// Whether a MESSAGE only says that somebody writes.
fn is_composing(request: &Message) -> bool {
    let content_type = unfolded(request.text(Name::ContentType).unwrap_or_default());
    MessageContent::of(&content_type, request.body()) == MessageContent::Composing
}

/// At most `bytes` of a text, whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}
