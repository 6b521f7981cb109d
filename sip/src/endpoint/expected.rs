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
pub(super) struct ExpectedCall {
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
    pub fn expects_call(&self, instance: InstanceId) -> bool {
        let binding = self.devices.get(&instance).map(|device| device.binding);
        let expected = binding.and_then(|binding| self.expected.get(&binding));
        expected.is_some_and(|expected| !expected.state.is_final() && expected.woken.contains(&instance))
    }

    pub(super) fn on_expect_call(
        &mut self,
        now: Instant,
        instance: InstanceId,
        from: Box<str>,
        name: Option<Box<str>>,
    ) {
        let Some(binding) = self.devices.get(&instance).map(|device| device.binding) else { return };
        // Who declined is asked anew: this may be another call.
        let earlier = self.expected_for(now, binding).filter(|earlier| !earlier.state.is_final());
        if earlier.is_some_and(|earlier| earlier.woken.contains(&instance)) {
            return;
        }
        // The devices that its INVITE would be for, and no other.
        let callable = self.callable_instances(binding).contains(&instance)
            || self.push_bindings.instance_of(binding) == Some(instance);
        let busy = self.calls_of.get(&instance).is_some_and(|calls| calls.len() >= CALLS_PER_INSTANCE);
        let known = earlier.map(|earlier| (earlier.call, earlier.until));
        if !callable || busy || !self.spend_call(now, instance) {
            return;
        }
        let (call, until) = known.unwrap_or_else(|| self.expect_invite(now, binding));
        if let Some(expected) = self.expected.get_mut(&binding) {
            expected.woken.push(instance);
        }
        let wait = until.saturating_duration_since(now);
        self.core.event(Event::Wake(Box::new(IncomingCall { call, instance, from, name, wait })));
    }

    /// The call that an INVITE to this binding is expected for.
    pub(super) fn expected_for(&self, now: Instant, binding: BindingId) -> Option<&ExpectedCall> {
        self.expected.get(&binding).filter(|expected| expected.until > now)
    }

    /// Its INVITE has come.
    pub(super) fn take_expected(&mut self, binding: BindingId) -> Option<ExpectedCall> {
        let expected = self.expected.remove(&binding)?;
        self.expected_bindings.remove(&expected.call);
        Some(expected)
    }

    /// A device rings for an announced call; whether it was one.
    pub(super) fn ring_expected(&mut self, call: CallId, instance: InstanceId) -> bool {
        let Some(binding) = self.expected_bindings.get(&call) else { return false };
        let Some(expected) = self.expected.get_mut(binding).filter(|it| !it.state.is_final()) else { return true };
        if expected.woken.contains(&instance) && !expected.rang.contains(&instance) {
            expected.rang.push(instance);
            self.core.event(Event::Call { call, instance, state: CallState::Ringing, woke_after: None });
        }
        true
    }

    /// An announced call ends before its INVITE has come; whether it was one. A decline is remembered for the INVITE.
    pub(super) fn end_expected(&mut self, call: CallId, state: CallState) -> bool {
        let Some(binding) = self.expected_bindings.get(&call).copied() else { return false };
        let Some(expected) = self.expected.get_mut(&binding) else { return false };
        let ends = !expected.state.is_final();
        expected.state = if ends { state } else { expected.state };
        let woken = expected.woken.clone();
        if state != CallState::Declined {
            self.expected.remove(&binding);
            self.expected_bindings.remove(&call);
        }
        for instance in woken.into_iter().filter(|_| ends) {
            self.core.event(Event::Call { call, instance, state, woke_after: None });
        }
        true
    }

    /// A device is wiped: it is not expected any more.
    pub(super) fn leave_expected(&mut self, instance: InstanceId, binding: BindingId) {
        let Some(expected) = self.expected.get_mut(&binding) else { return };
        if !expected.woken.contains(&instance) {
            return;
        }
        expected.woken.retain(|other| *other != instance);
        expected.rang.retain(|other| *other != instance);
        let (call, ends, left) = (expected.call, !expected.state.is_final(), expected.woken.is_empty());
        if left {
            self.expected.remove(&binding);
            self.expected_bindings.remove(&call);
        }
        if ends {
            self.core.event(Event::Call { call, instance, state: CallState::TimedOut, woke_after: None });
        }
    }

    pub(super) fn on_expected_due(&mut self, now: Instant, call: CallId) {
        let binding = self.expected_bindings.get(&call);
        if binding.and_then(|binding| self.expected.get(binding)).is_some_and(|expected| expected.until <= now) {
            self.end_expected(call, CallState::TimedOut);
        }
    }

    /// The process is about to end.
    pub(super) fn end_all_expected(&mut self) {
        #[expect(clippy::disallowed_methods, reason = "sorted before anything is sent")]
        let mut calls: Vec<CallId> = self.expected_bindings.keys().copied().collect();
        calls.sort_unstable();
        for call in calls {
            self.end_expected(call, CallState::TimedOut);
        }
    }

    fn expect_invite(&mut self, now: Instant, binding: BindingId) -> (CallId, Instant) {
        let call = CallId::new(self.core.random.wide(), binding.tag());
        let until = now + self.core.settings.ring_timeout;
        let expected = ExpectedCall { call, woken: Vec::new(), rang: Vec::new(), until, state: CallState::Waking };
        if let Some(earlier) = self.expected.insert(binding, expected) {
            self.expected_bindings.remove(&earlier.call);
        }
        self.expected_bindings.insert(call, binding);
        self.core.timers.set(until, Timer::ExpectedCall(call));
        (call, until)
    }
}
