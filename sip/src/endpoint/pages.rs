//! MESSAGEs outside a dialog (RFC 3428): offered to the device that is attached, else given to the store.
//!
//! Invariant: every MESSAGE gets exactly one final answer, within [`SILENCE`](crate::edge::page::SILENCE) and
//! [`STORE_WAIT`](crate::edge::page::STORE_WAIT), which is far less than its sender waits (RFC 3261 §17.1.2.2). One that
//! comes again has the same [`MessageId`], so that a store keeps it once.

use std::time::{Duration, Instant};

use super::{ClientOwner, Endpoint, Event, IncomingPage, Kept, PageEnd, PageId, ServerOwner, Side, Timer};
use crate::edge::forward;
use crate::edge::page::{Answer, Page};
use crate::id::{BindingId, BranchId, FlowId, InstanceId, MessageId};
use crate::message::{Composer, Message, Method, Name};

/// MESSAGEs on their way at once; a further one is answered 503.
pub const PAGES_MAX: usize = 10_000;
/// How long a sender is asked to wait that was refused for now, in seconds.
const RETRY_AFTER: u32 = 30;
/// The most that is kept of a sender's URI and of a media type, in bytes, and of a display name, in characters.
const FROM_BYTES: usize = 1024;
const TYPE_BYTES: usize = 255;
const NAME_CHARS: usize = 256;

impl Endpoint {
    pub(super) fn on_page(&mut self, now: Instant, reply: FlowId, request: Message, binding: BindingId) {
        let members = self.members(binding);
        let Some(&first) = members.first() else { return self.refuse(now, reply, &request, 480) };
        if let Some((status, end)) = self.judge_page(now, &request, &members) {
            self.event(Event::PageEnded { instance: first, end });
            return self.end_page(now, reply, &request, status);
        }
        if self.pages.len() >= PAGES_MAX {
            return self.busy(reply, &request);
        }
        let Ok(server) = self.transactions.open(&request, reply, ServerOwner::Nobody) else {
            return self.busy(reply, &request);
        };
        let id = PageId(self.next_page);
        self.next_page += 1;
        let tag = self.random.tag();
        self.pages.insert(id, Page::new(now, server, tag, request));
        for instance in members {
            self.start_copy(now, id, instance);
        }
        if let Some(due) = self.pages.get(&id).map(Page::due) {
            self.timers.set(due, Timer::Page(id));
        }
    }

    /// What a MESSAGE is answered that goes neither to a device nor to the store.
    fn judge_page(&mut self, now: Instant, request: &Message, members: &[InstanceId]) -> Option<(u16, PageEnd)> {
        let media = request.text(Name::ContentType).unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim();
        let attached = members.iter().any(|instance| self.attached.contains_key(instance));
        let kept_only = members.iter().all(|instance| !self.attached.contains_key(instance));
        if let Err(stop) = forward::check(request, &self.settings.faces())
            && attached
        {
            return Some((stop.status(), PageEnd::Unfit));
        }
        if media.eq_ignore_ascii_case("application/im-iscomposing+xml") {
            return Some((200, PageEnd::Composing));
        }
        if request.body().len() > self.settings.page_bytes {
            return Some((413, PageEnd::TooLarge));
        }
        if kept_only && (request.elements(Name::Require).next().is_some() || request.has(Name::ProxyRequire)) {
            return Some((420, PageEnd::Unfit));
        }
        let coded = |value: &[u8]| !value.eq_ignore_ascii_case(b"identity");
        if kept_only && (media.len() > TYPE_BYTES || request.values_written("Content-Encoding").any(coded)) {
            return Some((415, PageEnd::Unfit));
        }
        // Who is not there cannot take what is worth nothing later.
        if kept_only && request.number(Name::Expires) == Some(0) {
            return Some((480, PageEnd::Unfit));
        }
        // Each device pays, whichever of them still can.
        let mut granted = false;
        for instance in members {
            granted |= self.spend_page(now, *instance);
        }
        (!granted).then_some((480, PageEnd::Limited))
    }

    fn end_page(&mut self, now: Instant, reply: FlowId, request: &Message, status: u16) {
        let tag = self.random.tag();
        let response = Composer::response(request, status, Composer::reason(status), Some(&tag));
        let response = match status {
            415 => response.extension("Accept-Encoding", "identity"),
            420 => [Name::Require, Name::ProxyRequire]
                .into_iter()
                .flat_map(|name| request.elements(name))
                .fold(response, |response, option| response.header(Name::Unsupported, option)),
            480 => response.header(Name::RetryAfter, RETRY_AFTER),
            _ => response,
        };
        self.respond_once(now, reply, request, status, response.finish());
    }

    /// A copy for one device: on its flow, or to the store.
    fn start_copy(&mut self, now: Instant, id: PageId, instance: InstanceId) {
        let branch = self.branch();
        let Some(page) = self.pages.get_mut(&id) else { return };
        let Some(request) = page.request() else { return };
        let message = name_of(&self.token_key, request, instance);
        let offered = self.attached.get(&instance).and_then(|attached| {
            let face = self.settings.face(Side::Device, attached.transport);
            let bytes = forward::onward(request, face, branch).request_uri(&*attached.contact).finish();
            let owner = ClientOwner::Page(id);
            let sent = self.transactions.send(now, branch, Method::Message, bytes, attached.flow, owner);
            sent.ok().map(|()| attached.flow)
        });
        match offered {
            Some(flow) => {
                page.offered(instance, message, branch);
                self.note_forwarded(flow, instance, branch);
            }
            None => {
                page.keeping(now, instance, message);
                self.keep_copy(id, instance, message);
            }
        }
    }

    fn keep_copy(&mut self, id: PageId, instance: InstanceId, message: MessageId) {
        let Some(request) = self.pages.get(&id).and_then(Page::request) else { return };
        let (from, name) = forward::caller(request);
        let lasts = request.number(Name::Expires).filter(|seconds| *seconds > 0);
        let page = IncomingPage {
            page: id,
            message,
            instance,
            from: cut(&from, FROM_BYTES).into(),
            name: name.map(|name| name.chars().take(NAME_CHARS).collect::<String>().into()),
            content_type: request.text(Name::ContentType).map_or("text/plain", |text| cut(text, TYPE_BYTES)).into(),
            body: request.body().clone(),
            lasts: lasts.map(|seconds| Duration::from_secs(seconds.into())),
        };
        self.event(Event::Page(Box::new(page)));
    }

    pub(super) fn on_page_response(&mut self, now: Instant, id: PageId, branch: BranchId, response: &Message) {
        let Some(status) = response.status().filter(|status| *status >= 200) else { return };
        let Some(page) = self.pages.get_mut(&id) else { return };
        if let Some((instance, message)) = page.on_answer(branch, status, forward::back(response, Side::Device)) {
            self.event(Event::PageTaken { instance, message });
        }
        self.answer_page(now, id);
    }

    /// The flow that a copy went by is gone, or the device never answered.
    pub(super) fn on_page_lost(&mut self, now: Instant, id: PageId, branch: BranchId) {
        let Some(page) = self.pages.get_mut(&id) else { return };
        if let Some((instance, message)) = page.on_lost(now, branch) {
            self.timers.set(page.due(), Timer::Page(id));
            self.keep_copy(id, instance, message);
        }
        self.answer_page(now, id);
    }

    pub(super) fn on_page_due(&mut self, now: Instant, id: PageId) {
        let Some(page) = self.pages.get_mut(&id) else { return };
        let silent = page.on_due(now);
        if page.request().is_some() {
            self.timers.set(page.due(), Timer::Page(id));
        }
        for (instance, message) in silent {
            self.keep_copy(id, instance, message);
        }
        self.answer_page(now, id);
    }

    pub(super) fn on_paged(&mut self, now: Instant, id: PageId, instance: InstanceId, kept: Kept) {
        let Some(page) = self.pages.get_mut(&id) else { return };
        if let Some((instance, message)) = page.on_kept(instance, kept) {
            self.event(Event::PageTaken { instance, message });
        }
        self.answer_page(now, id);
    }

    fn answer_page(&mut self, now: Instant, id: PageId) {
        let Some(page) = self.pages.get_mut(&id) else { return };
        if let (Some(answer), Some(request)) = (page.answer(), page.request()) {
            let own = |status| Composer::response(request, status, Composer::reason(status), Some(&page.tag));
            let (status, bytes) = match answer {
                Answer::Pass(status, bytes) => (status, bytes),
                Answer::Accepted => (202, own(202).finish()),
                Answer::Full => (480, own(480).header(Name::RetryAfter, RETRY_AFTER).finish()),
                Answer::Away => (503, own(503).header(Name::RetryAfter, RETRY_AFTER).finish()),
            };
            let ends = page.ends();
            page.close();
            self.transactions.respond(now, page.server, status, bytes);
            for (instance, status) in ends {
                let end = if status < 300 { PageEnd::Delivered } else { PageEnd::Refused(status) };
                self.event(Event::PageEnded { instance, end });
            }
        }
        if self.pages.get(&id).is_some_and(Page::is_over) {
            self.pages.remove(&id);
        }
    }
}

/// What a MESSAGE is called for a device: the same whenever it comes again, and of no use to guess it.
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

/// At most `bytes` of a text, whole characters.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}
