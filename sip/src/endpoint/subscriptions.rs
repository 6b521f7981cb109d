//! Subscriptions to mailboxes: what each of them wants next.
//!
//! Invariant: a SUBSCRIBE goes by the flow that its binding is registered on, and by no other; a challenge to it is
//! answered only when it came back by that flow, which the transaction sees to.

use std::collections::HashMap;
use std::time::Instant;

use super::bindings::hashes;
use super::{ClientOwner, Endpoint, Event, Timer};
use crate::flow::{Side, Transport};
use crate::id::{BindingId, BranchId, FlowId};
use crate::message::{Message, Method};
use crate::registration::RequestContext;
use crate::subscription::{Step, Subscription};

/// The mailbox subscriptions of bindings.
#[derive(Debug, Default)]
pub(super) struct Subscriptions(HashMap<BindingId, Box<Subscription>>);

impl Subscriptions {
    /// The binding is gone, and the server is told nothing.
    pub(super) fn forget(&mut self, binding: BindingId) {
        self.0.remove(&binding);
    }
}

impl Endpoint {
    /// The instance wants to know of its mailbox.
    pub(super) fn on_subscribe(&mut self, now: Instant, binding: BindingId) {
        let Some(registration) = self.bindings.get(binding) else { return };
        if self.subscriptions.0.contains_key(&binding) {
            return;
        }
        let subscription = Subscription::new(now, registration.aor().into(), &mut self.core.random);
        self.subscriptions.0.insert(binding, Box::new(subscription));
        self.go_on(now, binding, Step::Nothing);
    }

    pub(super) fn on_subscription_due(&mut self, now: Instant, binding: BindingId) {
        let is_registered = self.has_its_flow(binding);
        let Some(subscription) = self.subscriptions.0.get_mut(&binding) else { return };
        match subscription.armed.fires(now) {
            true if is_registered => {
                let step = subscription.on_deadline(now);
                self.go_on(now, binding, step);
            }
            true => self.put_off_subscription(now, binding),
            false => {}
        }
    }

    fn put_off_subscription(&mut self, now: Instant, binding: BindingId) {
        let Some(subscription) = self.subscriptions.0.get_mut(&binding) else { return };
        subscription.put_off(now, &self.core.settings.timing.upstream.back_off, &mut self.core.random);
        self.go_on(now, binding, Step::Nothing);
    }

    pub(super) fn on_subscription_authorization(
        &mut self,
        now: Instant,
        binding: BindingId,
        authorization: Option<String>,
    ) {
        let Some(subscription) = self.subscriptions.0.get_mut(&binding) else { return };
        let step = subscription.answer(authorization);
        self.go_on(now, binding, step);
    }

    pub(super) fn on_subscribe_response(
        &mut self,
        now: Instant,
        binding: BindingId,
        branch: BranchId,
        response: &Message,
    ) {
        let hashes = hashes(self.core.settings.upstream.allow_md5);
        let Some(subscription) = self.subscriptions.0.get_mut(&binding) else { return };
        let step = subscription.on_response(
            now,
            branch,
            response,
            hashes,
            &self.core.settings.timing.upstream.back_off,
            &mut self.core.random,
        );
        self.go_on(now, binding, step);
    }

    pub(super) fn on_subscribe_silence(&mut self, now: Instant, binding: BindingId, branch: BranchId) {
        let Some(subscription) = self.subscriptions.0.get_mut(&binding) else { return };
        subscription.on_silence(now, branch, &self.core.settings.timing.upstream.back_off, &mut self.core.random);
        self.go_on(now, binding, Step::Nothing);
    }

    /// Whether a NOTIFY with a To tag is of this binding's subscription.
    pub(super) fn is_subscribed(&self, binding: BindingId, notify: &Message) -> bool {
        let ours = notify.call_id().is_some_and(|call_id| Subscription::owns(binding, &self.core.epoch, call_id));
        ours && self.subscriptions.0.get(&binding).is_some_and(|subscription| subscription.may_be_notified())
    }

    /// A NOTIFY of a subscription has been answered.
    pub(super) fn on_notified(&mut self, now: Instant, binding: BindingId, notify: &Message) {
        if let Some(subscription) = self.subscriptions.0.get_mut(&binding) {
            subscription.on_notify(now, notify, &self.core.settings.timing.upstream.back_off, &mut self.core.random);
            self.go_on(now, binding, Step::Nothing);
        }
    }

    /// The binding ends, and its subscription with it: the server is told once, and its answer is not waited for.
    pub(super) fn end_subscription(&mut self, now: Instant, binding: BindingId) {
        let Some(mut subscription) = self.subscriptions.0.remove(&binding) else { return };
        let branch = self.core.branch();
        let Some((flow, transport)) = self.flow_of_registration(binding) else { return };
        let local = self.core.settings.sent_by(Side::Upstream, transport).host;
        let hosts = self.core.settings.contact_hosts();
        let head = RequestContext { registrar: "", transport, local, hosts, branch, epoch: &self.core.epoch };
        if let Some(bytes) = subscription.compose_end(binding, &head) {
            // Full: the subscription runs out by itself.
            let _ = self.core.transactions.send(now, branch, Method::Subscribe, bytes, flow, ClientOwner::Nobody);
        }
    }

    fn flow_of_registration(&self, binding: BindingId) -> Option<(FlowId, Transport)> {
        self.upstreams.flow(self.bindings.get(binding)?.upstream)
    }

    fn go_on(&mut self, now: Instant, binding: BindingId, step: Step) {
        match step {
            Step::Nothing => {}
            Step::Ask => {
                let cnonce = self.core.random.tag();
                let Some(subscription) = self.subscriptions.0.get_mut(&binding) else { return };
                let uri = subscription.uri().into();
                if let Some((challenge, nc)) = subscription.challenge() {
                    // If the server has one nonce for both, the REGISTERs have counted it on.
                    let nc = self.bindings.get_mut(binding).map_or(nc, |it| it.count_answer(&challenge, nc));
                    self.core.event(Event::SubscriptionChallenged { binding, challenge, nc, cnonce, uri });
                }
            }
            Step::Send => return self.send_subscribe(now, binding),
        }
        let Some(subscription) = self.subscriptions.0.get_mut(&binding) else { return };
        if let Some(at) = subscription.armed.must_set(subscription.deadline()) {
            self.core.timers.set(at, Timer::Subscription(binding));
        }
    }

    fn send_subscribe(&mut self, now: Instant, binding: BindingId) {
        let branch = self.core.branch();
        let Some((flow, transport)) = self.flow_of_registration(binding) else {
            return self.put_off_subscription(now, binding);
        };
        let Some(registration) = self.bindings.get(binding) else { return };
        let Some(subscription) = self.subscriptions.0.get_mut(&binding) else { return };
        let local = self.core.settings.sent_by(Side::Upstream, transport).host;
        let hosts = self.core.settings.contact_hosts();
        let head = RequestContext { registrar: "", transport, local, hosts, branch, epoch: &self.core.epoch };
        let bytes = subscription.compose(binding, &head, registration.service_route());
        subscription.sent(branch);
        let owner = ClientOwner::Subscribe(binding);
        if self.core.transactions.send(now, branch, Method::Subscribe, bytes, flow, owner).is_err() {
            self.on_subscribe_silence(now, binding, branch);
        }
    }
}
