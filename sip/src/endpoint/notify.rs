//! NOTIFYs outside a dialog, and OPTIONS: what the account's server tells and asks a registered user agent.
//!
//! Invariant: a NOTIFY is answered 200 only when its content was understood (RFC 6665 §4.1.3, RFC 3842 §3.7). Its content is not kept here.

use std::time::Instant;

use bytes::Bytes;

use super::requests::bad_extension;
use super::{Endpoint, Event};
use crate::edge::forward;
use crate::edge::mailbox::{MEDIA_TYPE, Mailbox};
use crate::id::BindingId;
use crate::message::{Composer, Message, Method, Name};
use crate::transaction::Reply;

/// The event package that is understood (RFC 3842 §3.1).
pub(super) const PACKAGE: &str = "message-summary";
/// The extensions of what a registered user agent understands here.
const SUPPORTED: &[&str] = &["path", "outbound", "gruu"];
/// The largest body of a NOTIFY, in bytes; a larger one is answered 413.
const NOTIFY_BYTES: usize = 8 * 1024;
/// The Retry-After of a server that sends too many, in seconds.
const RETRY_AFTER: u32 = 30;

impl Endpoint {
    /// A NOTIFY outside a dialog: unsolicited, as many servers send it to what is registered. Whether it requires nothing that is not understood.
    pub(super) fn on_notify(&mut self, now: Instant, reply: Reply<'_>, request: &Message, binding: BindingId) -> bool {
        if self.refuse_extension(now, reply, request, SUPPORTED) {
            return false;
        }
        let status = self.check_notify(now, request, binding);
        let tag = self.core.random.tag();
        let response = Composer::response(request, status, Composer::reason(status), Some(&tag));
        let response = match status {
            489 => response.extension("Allow-Events", PACKAGE),
            415 => response.header(Name::Accept, MEDIA_TYPE),
            480 => response.header(Name::RetryAfter, RETRY_AFTER),
            _ => response,
        };
        self.respond_once(now, reply, request, status, response.finish());
        true
    }

    fn check_notify(&mut self, now: Instant, request: &Message, binding: BindingId) -> u16 {
        let package = request.text(Name::Event).unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !package.eq_ignore_ascii_case(PACKAGE) {
            return 489;
        }
        let members = self.callable_instances(binding);
        // Each device with a budget left is charged.
        let mut granted = false;
        for instance in &members {
            granted |= self.devices.spend_notify(now, *instance);
        }
        if !granted {
            return 480;
        }
        let body = request.body();
        if body.is_empty() {
            // A subscription's first or last NOTIFY may say nothing (RFC 6665 §4.2.2).
            return 200;
        }
        if body.len() > NOTIFY_BYTES {
            return 413;
        }
        let media = request.text(Name::ContentType).unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !media.eq_ignore_ascii_case(MEDIA_TYPE) {
            return 415;
        }
        let Some(mailbox) = Mailbox::parse(body) else { return 400 };
        for instance in members {
            self.core.event(Event::Mailbox { instance, mailbox: Box::new(mailbox.clone()) });
        }
        200
    }

    /// Answers OPTIONS as a registered user agent (RFC 3261 §11.2). OPTIONS inside a dialog passes to the device.
    pub(super) fn answer_options(&mut self, now: Instant, reply: Reply<'_>, request: &Message) {
        debug_assert_eq!(request.method(), Some(Method::Options));
        let tag = self.core.random.tag();
        let (status, response) = options_answer(request, &tag);
        self.respond_once(now, reply, request, status, response);
    }
}

/// The answer to OPTIONS: what is understood here, or that something is not.
pub(super) fn options_answer(request: &Message, tag: &str) -> (u16, Bytes) {
    if forward::not_understood(request, SUPPORTED).next().is_some() {
        return (420, bad_extension(request, SUPPORTED, tag));
    }
    let response = Composer::response(request, 200, Composer::reason(200), Some(tag))
        .header(Name::Allow, super::requests::ALLOW)
        .header(Name::Accept, format_args!("application/sdp, text/plain, {MEDIA_TYPE}"))
        .extension("Accept-Encoding", "identity")
        .extension("Accept-Language", "en")
        .header(Name::Supported, SUPPORTED.join(", "))
        .extension("Allow-Events", PACKAGE)
        .finish();
    (200, response)
}
