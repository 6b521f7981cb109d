//! Calls that a SIP server announces before it sends their INVITE.
//!
//! | an expected call | becomes |
//! | --- | --- |
//! | its INVITE comes | a call that waits, with the identifier that its devices were pushed; none is pushed a second time |
//! | its caller is announced again before that | the same call, expected as long from then on; a device that was pushed is not pushed again |
//! | another caller is announced | one more call, with a push and a deadline of its own |
//! | a device declines it | declined; its INVITE, should it come, is answered 603: that of its caller, and any other only where no other caller was announced in its time |
//! | no INVITE by the deadline, or no device can be reached | timed out |
//!
//! Invariant: no call is announced to a device that its INVITE would not be for, nor to an app in the foreground. A device is woken for an expected call at most once, and from the budget that its calls have. A binding expects
//! [`CALLS_PER_INSTANCE`] calls at most, one of each caller.

use std::time::Instant;

use crate::edge::call::Call;
use crate::edge::caller_key::CallerKey;
use crate::endpoint::calls::CALLS_PER_INSTANCE;
use crate::endpoint::core::Timer;
use crate::endpoint::{CallState, Endpoint, Event};
use crate::id::{BindingId, CallId, InstanceId};

impl Endpoint {
    /// The call of this caller, as it was announced, that this device has been woken for and whose INVITE has not come yet; and until when
    /// that is waited for.
    pub fn expected_call(&self, instance: InstanceId, from: &str) -> Option<(CallId, Instant)> {
        let (binding, caller) = (self.devices.binding_of(instance)?, self.devices.caller_key(from));
        let is_it = |call: &&Call| call.caller() == caller && !call.state().is_final() && call.has_woken(instance);
        self.calls.expected_by(binding).find(is_it).map(|call| (call.id(), call.until()))
    }

    /// Whether a call that a SIP server announces would be for this device: its INVITE would be, and its app is not one that has registered by
    /// itself, at whose own Contact the SIP server finds it.
    pub fn is_announced_to(&self, instance: InstanceId) -> bool {
        let Some(binding) = self.devices.binding_of(instance) else { return false };
        self.push_bindings.instance_of(binding) == Some(instance)
            || self.devices.is_in_background(instance) && self.callable_instances(binding).contains(&instance)
    }

    pub(in crate::endpoint) fn on_expect_call(
        &mut self,
        now: Instant,
        instance: InstanceId,
        from: Box<str>,
        name: Option<Box<str>>,
    ) {
        let Some(binding) = self.devices.binding_of(instance) else { return };
        let caller = self.devices.caller_key(&from);
        self.calls.note_announced(binding, caller);
        // A call that was declined is announced anew: this may be another one.
        let earlier = self.calls.announced_by(now, binding, caller).filter(|call| !call.state().is_final());
        let known = earlier.map(Call::id);
        if let Some(call) = known {
            self.expect_longer(now, call);
            if self.calls.get(call).is_some_and(|call| call.has_woken(instance)) {
                return;
            }
        }
        let callable = self.is_announced_to(instance);
        let is_room = known.is_some() || self.calls.expected_by(binding).count() < CALLS_PER_INSTANCE;
        let may_ring = callable && is_room && !self.calls.is_busy(instance, caller);
        if !may_ring || !self.devices.spend_call(now, instance, caller, true) {
            return;
        }
        let call = known.unwrap_or_else(|| self.expect_invite(now, binding, caller));
        if let Some(row) = self.calls.get_mut(call) {
            row.expect(instance, caller, (from, name));
            let incoming = Box::new(row.describe(now, instance));
            self.core.event(Event::Wake(incoming));
        }
    }

    fn expect_invite(&mut self, now: Instant, binding: BindingId, caller: CallerKey) -> CallId {
        let call = CallId::new(self.core.random.wide(), binding.tag());
        let (timing, wait) = (self.core.settings.timing.edge, self.core.settings.ring_timeout);
        self.calls.expect(Call::expected(now, timing, wait, call, binding, caller));
        self.core.later(now, wait, Timer::Call(call));
        call
    }

    /// The caller was announced once more.
    fn expect_longer(&mut self, now: Instant, call: CallId) {
        let wait = self.core.settings.ring_timeout;
        if let Some(row) = self.calls.get_mut(call) {
            row.expect_until(now + wait);
        }
        self.core.later(now, wait, Timer::Call(call));
    }

    /// Ends an expected call before its INVITE has come; whether it was one. A decline is remembered for the INVITE.
    pub(super) fn end_expected(&mut self, call: CallId, state: CallState) -> bool {
        let Some(row) = self.calls.get_mut(call).filter(|row| row.is_expected()) else { return false };
        let binding = row.binding();
        row.end_expected(state);
        self.tell_changes(call);
        if state != CallState::Declined {
            self.calls.forget_expected(binding, call);
        }
        true
    }

    /// A device is wiped: no call is expected for it any more.
    pub(in crate::endpoint) fn leave_all_expected(&mut self, instance: InstanceId, binding: BindingId) {
        for call in self.calls.expected_of(binding, instance) {
            self.leave_expected(instance, call);
        }
    }

    /// No push reaches a device: the call is not expected for it any more.
    pub(super) fn leave_expected(&mut self, instance: InstanceId, call: CallId) {
        let Some(row) = self.calls.get_mut(call).filter(|row| row.has_woken(instance)) else { return };
        let (binding, left) = (row.binding(), row.leave_expected(instance));
        self.tell_changes(call);
        if left {
            self.calls.forget_expected(binding, call);
        }
    }

    pub(super) fn on_expected_due(&mut self, now: Instant, call: CallId) {
        if self.calls.get(call).is_some_and(|row| row.until() <= now) {
            self.end_expected(call, CallState::TimedOut);
        }
    }

    /// The process is about to end.
    pub(super) fn end_all_expected(&mut self) {
        for call in self.calls.all_expected() {
            self.end_expected(call, CallState::TimedOut);
        }
    }
}
