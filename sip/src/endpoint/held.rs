//! Requests that wait for a sleeping device and are no new call: inside a dialog (RFC 8599 §6.2.3), or standing alone.
//!
//! | request | when its device comes | no device within [`HOLD`] | CANCEL |
//! | --- | --- | --- | --- |
//! | INVITE inside a dialog | forwarded | 480 | 487 |
//! | another | forwarded | 480 | – |
//!
//! Invariant: each gets one final answer, before its sender gives up by itself (RFC 3261 §17.1.2.2, timer F). One push is
//! sent for all that wait for one device, and the device's own rate holds for them, too.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Endpoint, Event, ServerOwner, Side, Source, Timer};
use crate::edge::push_proxy;
use crate::flow::FlowToken;
use crate::id::{FlowId, InstanceId};
use crate::message::{Composer, Message, Method};
use crate::transaction::ServerId;

/// Requests that may wait for one device; a further one is answered 480.
pub const HELD_PER_INSTANCE: usize = 8;
/// How long a request waits: less than the 32 s after which its sender gives up.
pub const HOLD: Duration = Duration::from_secs(25);

/// What waits, by device.
#[derive(Debug, Default)]
pub(super) struct HeldRequests(HashMap<InstanceId, Vec<Held>>);

#[derive(Debug)]
struct Held {
    server: ServerId,
    request: Message,
    /// How many of its Routes are ours.
    ours: usize,
    until: Instant,
}

impl HeldRequests {
    pub(super) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

impl Endpoint {
    /// Whether a request inside a dialog may wait for its device: the device asked for that by the PURR in its Contact.
    pub(super) fn may_hold(&self, source: &Source, request: &Message, token: &FlowToken) -> bool {
        source.side == Side::Upstream
            && self.proxied.knows(token.instance)
            && push_proxy::purr(request) == Some(token.instance)
    }

    /// Forwards a request to its device, or keeps it until the device has come.
    pub(super) fn hold_request(
        &mut self,
        now: Instant,
        reply: FlowId,
        request: &Message,
        ours: usize,
        instance: InstanceId,
    ) {
        if let Some(attached) = self.attached.get(&instance) {
            let (flow, transport) = (attached.flow, attached.transport);
            return self.forward(now, reply, request, ours, flow, Side::Device, transport);
        }
        let waiting = self.proxied.held.0.get(&instance).map_or(0, Vec::len);
        if waiting >= HELD_PER_INSTANCE || !self.spend_call(now, instance) {
            return self.refuse(now, reply, request, 480);
        }
        let Ok(server) = self.transactions.open(request, reply, ServerOwner::Nobody) else {
            return self.busy(reply, request);
        };
        self.transactions.adopt(server, ServerOwner::Held(instance, server));
        if request.method() == Some(Method::Invite) {
            let trying = Composer::response(request, 100, Composer::reason(100), None).finish();
            self.transactions.respond(now, server, 100, trying);
        }
        let held = Held { server, request: request.clone(), ours, until: now + HOLD };
        self.proxied.held.0.entry(instance).or_default().push(held);
        self.later(now, HOLD, Timer::Held(instance));
        if waiting == 0 {
            self.event(Event::Refresh(instance));
        }
    }

    /// A device has come: what waited for it goes down its flow.
    pub(super) fn release_held(&mut self, now: Instant, instance: InstanceId) {
        let Some(attached) = self.attached.get(&instance) else { return };
        let (flow, transport) = (attached.flow, attached.transport);
        for held in self.proxied.held.0.remove(&instance).unwrap_or_default() {
            self.pass_on(now, held.server, &held.request, held.ours, flow, Side::Device, transport);
        }
    }

    pub(super) fn on_held_due(&mut self, now: Instant, instance: InstanceId) {
        self.end_held(now, instance, 480, |held| held.until <= now);
    }

    /// The registration is gone, and with it the way to wake the device.
    pub(super) fn refuse_held(&mut self, now: Instant, instance: InstanceId) {
        self.end_held(now, instance, 480, |_| true);
    }

    pub(super) fn on_held_cancelled(&mut self, now: Instant, instance: InstanceId, server: ServerId) {
        self.end_held(now, instance, 487, |held| held.server == server);
    }

    fn end_held(&mut self, now: Instant, instance: InstanceId, status: u16, which: impl Fn(&Held) -> bool) {
        let Some(waiting) = self.proxied.held.0.get_mut(&instance) else { return };
        let (over, left) = std::mem::take(waiting).into_iter().partition(which);
        *waiting = left;
        if waiting.is_empty() {
            self.proxied.held.0.remove(&instance);
        }
        let over: Vec<Held> = over;
        for held in over {
            let tag = self.random.tag();
            let response = Composer::response(&held.request, status, Composer::reason(status), Some(&tag));
            self.transactions.respond(now, held.server, status, response.finish());
        }
    }
}
