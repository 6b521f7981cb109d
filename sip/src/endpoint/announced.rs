//! Calls that a SIP server has announced before it sends their INVITE.
//!
//! | an announced call | becomes |
//! | --- | --- |
//! | its INVITE comes | a call of the name that its devices were pushed, which is pushed no second time |
//! | announced again before that | the same: who was pushed is not pushed again |
//! | a device declines it | declined; its INVITE, should it come, is answered 603 |
//! | no INVITE by the deadline, or no device can be reached | timed out |
//!
//! The next INVITE to a binding is taken for the one that was announced for it: a SIP server that holds a call sends it as
//! soon as it knows that a device is awake.
//!
//! Invariant: a binding has at most one announced call; each ends by its INVITE or at its deadline; a device is woken for
//! it at most once, and from the budget that its calls have.

use std::time::Instant;

use super::calls::CALLS_PER_INSTANCE;
use super::{CallState, Endpoint, Event, IncomingCall, Timer};
use crate::id::{BindingId, CallId, InstanceId};

/// A call whose INVITE is expected.
#[derive(Debug)]
pub(super) struct Announced {
    /// Its name.
    pub(super) call: CallId,
    /// The devices that were woken for it.
    pub(super) woken: Vec<InstanceId>,
    /// When it is not expected any more.
    pub(super) until: Instant,
    /// Those of them that ring.
    pub(super) rang: Vec<InstanceId>,
    /// Waking or Declined.
    pub(super) state: CallState,
}

impl Endpoint {
    /// Whether this device has been woken for a call whose INVITE has not come yet.
    pub fn is_announced(&self, instance: InstanceId) -> bool {
        let binding = self.devices.get(&instance).map(|device| device.binding);
        let announced = binding.and_then(|binding| self.announced.get(&binding));
        announced.is_some_and(|announced| !announced.state.is_final() && announced.woken.contains(&instance))
    }

    pub(super) fn on_announce(&mut self, now: Instant, instance: InstanceId, from: Box<str>, name: Option<Box<str>>) {
        let Some(binding) = self.devices.get(&instance).map(|device| device.binding) else { return };
        // Who declined is asked anew: this may be another call.
        let earlier = self.announced_for(now, binding).filter(|earlier| !earlier.state.is_final());
        if earlier.is_some_and(|earlier| earlier.woken.contains(&instance)) {
            return;
        }
        let busy = self.calls_of.get(&instance).is_some_and(|calls| calls.len() >= CALLS_PER_INSTANCE);
        let known = earlier.map(|earlier| (earlier.call, earlier.until));
        if busy || !self.spend_call(now, instance) {
            return;
        }
        let (call, until) = known.unwrap_or_else(|| self.expect_invite(now, binding));
        if let Some(announced) = self.announced.get_mut(&binding) {
            announced.woken.push(instance);
        }
        let wait = until.saturating_duration_since(now);
        self.event(Event::Wake(Box::new(IncomingCall { call, instance, from, name, wait })));
    }

    /// The call that an INVITE to this binding is expected for.
    pub(super) fn announced_for(&self, now: Instant, binding: BindingId) -> Option<&Announced> {
        self.announced.get(&binding).filter(|announced| announced.until > now)
    }

    /// Its INVITE has come.
    pub(super) fn take_announced(&mut self, binding: BindingId) -> Option<Announced> {
        let announced = self.announced.remove(&binding)?;
        self.announced_as.remove(&announced.call);
        Some(announced)
    }

    /// A device rings for an announced call; whether it was one.
    pub(super) fn ring_announced(&mut self, call: CallId, instance: InstanceId) -> bool {
        let Some(binding) = self.announced_as.get(&call) else { return false };
        let Some(announced) = self.announced.get_mut(binding).filter(|it| !it.state.is_final()) else { return true };
        if announced.woken.contains(&instance) && !announced.rang.contains(&instance) {
            announced.rang.push(instance);
            self.event(Event::Call { call, instance, state: CallState::Ringing, woke_after: None });
        }
        true
    }

    /// An announced call ends before its INVITE has come; whether it was one. A decline is remembered for the INVITE.
    pub(super) fn end_announced(&mut self, call: CallId, state: CallState) -> bool {
        let Some(binding) = self.announced_as.get(&call).copied() else { return false };
        let Some(announced) = self.announced.get_mut(&binding) else { return false };
        let ends = !announced.state.is_final();
        announced.state = if ends { state } else { announced.state };
        let woken = announced.woken.clone();
        if state != CallState::Declined {
            self.announced.remove(&binding);
            self.announced_as.remove(&call);
        }
        for instance in woken.into_iter().filter(|_| ends) {
            self.event(Event::Call { call, instance, state, woke_after: None });
        }
        true
    }

    /// A device is wiped: it is not expected any more.
    pub(super) fn leave_announced(&mut self, instance: InstanceId, binding: BindingId) {
        let Some(announced) = self.announced.get_mut(&binding) else { return };
        if !announced.woken.contains(&instance) {
            return;
        }
        announced.woken.retain(|other| *other != instance);
        announced.rang.retain(|other| *other != instance);
        let (call, ends, left) = (announced.call, !announced.state.is_final(), announced.woken.is_empty());
        if left {
            self.announced.remove(&binding);
            self.announced_as.remove(&call);
        }
        if ends {
            self.event(Event::Call { call, instance, state: CallState::TimedOut, woke_after: None });
        }
    }

    pub(super) fn on_announced_due(&mut self, now: Instant, call: CallId) {
        let binding = self.announced_as.get(&call);
        if binding.and_then(|binding| self.announced.get(binding)).is_some_and(|announced| announced.until <= now) {
            self.end_announced(call, CallState::TimedOut);
        }
    }

    /// The process is about to end.
    pub(super) fn end_all_announced(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "sorted before anything is sent")]
        let mut calls: Vec<CallId> = self.announced_as.keys().copied().collect();
        calls.sort_unstable();
        for call in calls {
            self.end_announced(call, CallState::TimedOut);
        }
    }

    fn expect_invite(&mut self, now: Instant, binding: BindingId) -> (CallId, Instant) {
        let call = CallId::new(self.random.wide(), binding.tag());
        let until = now + self.settings.ring_timeout;
        let announced = Announced { call, woken: Vec::new(), rang: Vec::new(), until, state: CallState::Waking };
        if let Some(earlier) = self.announced.insert(binding, announced) {
            self.announced_as.remove(&earlier.call);
        }
        self.announced_as.insert(call, binding);
        self.timers.set(until, Timer::Announced(call));
        (call, until)
    }
}
