//! Calls that a SIP server announces before it sends their INVITE.
//!
//! | an expected call | becomes |
//! | --- | --- |
//! | its INVITE comes | a call that waits, with the identifier that its devices were pushed; none is pushed a second time |
//! | its caller is announced again while a requester waits for its devices, or one of them is there | the same call, expected as long from then on; a device that was pushed is not pushed again |
//! | its caller is announced again, or the INVITE comes, when its devices have been there and have gone, or their pushes' time is over | timed out; another call, with pushes of its own |
//! | its caller is announced again after no device was found in time | likewise |
//! | no device is found in time, or the requester waits no longer, and its INVITE does not follow within [`comes_again`](crate::timing::EdgeTiming::comes_again) | timed out |
//! | another caller is announced | one more call, with a push and a deadline of its own |
//! | a device declines it | declined; its INVITE, should it come, is answered 603: that of its caller, and any other only where no other caller was announced in its time |
//! | no INVITE by the deadline | timed out |
//! | no push reaches any of its devices | over for these at once; timed out when its INVITE does not follow within [`comes_again`](crate::timing::EdgeTiming::comes_again): that is another call, with pushes of its own |
//! | the app of a device comes to the foreground, or wants no calls any more | of the others alone |
//!
//! A call that has timed out is one that its devices have missed, unless its INVITE makes another call of it, or the process ends.
//!
//! Invariant: no call is announced to a device that its INVITE would not be for, nor to an app in the foreground. A device is woken for an expected call at
//! most once, and from the budget that its calls have. A binding expects [`CALLS_PER_INSTANCE`] calls at most, one of each caller.

use std::time::{Duration, Instant};

use crate::edge::call::Call;
use crate::edge::caller_key::CallerKey;
use crate::endpoint::calls::CALLS_PER_INSTANCE;
use crate::endpoint::core::Timer;
use crate::endpoint::{CallState, Endpoint, Event};
use crate::id::{BindingId, CallId, InstanceId};

impl Endpoint {
    /// The call of this caller, as it was announced, that this device has been woken for and whose INVITE has not come yet; and until when
    /// that is waited for.
    pub fn expected_call(&self, now: Instant, instance: InstanceId, from: &str) -> Option<(CallId, Instant)> {
        let (binding, caller) = (self.devices.binding_of(instance)?, self.devices.caller_key(from));
        let call = self.calls.announced_by(binding, caller)?;
        let is_awaited = !call.state().is_final() && call.has_woken(instance) && !self.is_another(now, call);
        is_awaited.then(|| (call.id(), call.until()))
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
        wait: Duration,
    ) {
        let Some(binding) = self.devices.binding_of(instance) else { return };
        let caller = self.devices.caller_key(&from);
        self.calls.note_announced(binding, caller);
        // A call that was declined is announced anew: this may be another one.
        let earlier = self.calls.announced_by(binding, caller).filter(|call| !call.state().is_final());
        let known = earlier.filter(|call| !self.is_another(now, call)).map(Call::id);
        let earlier = earlier.map(Call::id);
        if let Some(call) = known {
            self.expect_longer(now, call, wait);
            if self.calls.get(call).is_some_and(|call| call.has_woken(instance)) {
                return;
            }
        }
        let callable = self.is_announced_to(instance);
        let is_room = earlier.is_some() || self.calls.expected_by(binding).count() < CALLS_PER_INSTANCE;
        let may_ring = callable && is_room && !self.calls.is_busy(instance, caller);
        if !may_ring || !self.devices.spend_call(now, instance, caller, true) {
            return;
        }
        let call = known.unwrap_or_else(|| {
            if let Some(earlier) = earlier {
                self.miss_expected(now, earlier);
            }
            self.expect_invite(now, binding, caller, wait)
        });
        if let Some(row) = self.calls.get_mut(call) {
            row.expect(instance, caller, (from, name));
            let incoming = Box::new(row.describe(now, instance));
            self.core.event(Event::Wake(incoming));
        }
    }

    /// Whether what announces the caller of an expected call now is another call.
    fn is_another(&self, now: Instant, call: &Call) -> bool {
        call.is_abandoned(now) || self.is_stale(now, call)
    }

    fn is_stale(&self, now: Instant, call: &Call) -> bool {
        call.is_stale(now, |instance| self.attachments.is_attached(instance))
    }

    /// The call that an INVITE of this caller is taken for.
    pub(super) fn expected_for(&self, now: Instant, binding: BindingId, caller: CallerKey) -> Option<&Call> {
        let follows = self.core.settings.timing.edge.comes_again;
        let is_fresh = |call: &Call| call.expected_until(follows) > now && !self.is_stale(now, call);
        self.calls.expected_for(binding, caller, is_fresh)
    }

    /// An INVITE of this caller has become a call of its own, whose devices hear nothing more of the one that it would have been taken for, if that is stale.
    pub(super) fn end_stale(&mut self, now: Instant, binding: BindingId, caller: CallerKey) {
        let stale = self.calls.expected_for(binding, caller, |call| self.is_stale(now, call)).map(Call::id);
        if let Some(stale) = stale {
            self.end_expected(stale, CallState::TimedOut);
        }
    }

    fn expect_invite(&mut self, now: Instant, binding: BindingId, caller: CallerKey, wait: Duration) -> CallId {
        let call = CallId::new(self.core.random.wide(), binding.tag());
        let (timing, rings) = (self.core.settings.timing.edge, self.core.settings.ring_timeout);
        let mut row = Call::expected(now, timing, rings, call, binding, caller);
        row.ask_until(now + wait);
        self.core.timers.set(row.expected_until(timing.comes_again), Timer::Call(call));
        self.calls.expect(row);
        call
    }

    /// The caller was announced once more, by somebody who waits so long for a device.
    fn expect_longer(&mut self, now: Instant, call: CallId, wait: Duration) {
        let until = now + self.core.settings.ring_timeout;
        if let Some(row) = self.calls.get_mut(call) {
            row.expect_until(until);
            row.ask_until(now + wait);
            self.core.timers.set(row.expected_until(self.core.settings.timing.edge.comes_again), Timer::Call(call));
        }
    }

    /// Nobody waits for the devices of an announced call any more, and nobody was told whether one has come.
    pub(in crate::endpoint) fn on_stop_expecting(&mut self, now: Instant, call: CallId) {
        let Some(row) = self.calls.get_mut(call).filter(|row| row.is_expected()) else { return };
        row.abandon(now);
        self.core.timers.set(row.expected_until(self.core.settings.timing.edge.comes_again), Timer::Call(call));
    }

    /// A device has come.
    pub(super) fn note_expected_come(&mut self, now: Instant, instance: InstanceId) {
        let Some(binding) = self.devices.binding_of(instance) else { return };
        for call in self.calls.expected_of(binding, instance) {
            if let Some(row) = self.calls.get_mut(call) {
                row.note_come(now, instance);
            }
        }
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

    /// An expected call ends without its INVITE, or a decline is remembered no longer: its devices have missed the call unless they have declined it.
    fn miss_expected(&mut self, now: Instant, call: CallId) {
        let Some(row) = self.calls.get_mut(call).filter(|row| row.is_expected()) else { return };
        let (binding, devices) = (row.binding(), row.instances().collect::<Vec<_>>());
        let ends = row.end_expected(CallState::TimedOut);
        self.tell_changes(call);
        if ends {
            self.on_missed(now, call, &devices, 480);
        }
        self.calls.forget_expected(binding, call);
    }

    /// A device is wiped, its app has come to the foreground, or wants no calls: none is expected for it any more.
    pub(in crate::endpoint) fn leave_all_expected(&mut self, instance: InstanceId, binding: BindingId) {
        for call in self.calls.expected_of(binding, instance) {
            self.leave_expected(instance, call);
        }
    }

    pub(in crate::endpoint) fn on_leave_expected(&mut self, instance: InstanceId) {
        if let Some(binding) = self.devices.binding_of(instance) {
            self.leave_all_expected(instance, binding);
        }
    }

    /// No push reaches a device: the call is not expected for it any more. Without another one nobody waits for its devices: whoever did hears so.
    pub(super) fn lose_expected(&mut self, now: Instant, instance: InstanceId, call: CallId) {
        let Some(row) = self.calls.get_mut(call) else { return };
        row.lose_expected(instance);
        let (is_lost, is_abandoned) = (row.reaches_nobody(), row.is_abandoned(now));
        self.tell_changes(call);
        match (is_lost, is_abandoned) {
            (true, true) => self.miss_expected(now, call),
            (true, false) => self.on_stop_expecting(now, call),
            (false, _) => {}
        }
    }

    fn leave_expected(&mut self, instance: InstanceId, call: CallId) {
        let Some(row) = self.calls.get_mut(call) else { return };
        let (binding, left) = (row.binding(), row.leave_expected(instance));
        self.tell_changes(call);
        if left {
            self.calls.forget_expected(binding, call);
        }
    }

    pub(super) fn on_expected_due(&mut self, now: Instant, call: CallId) {
        let Some(row) = self.calls.get(call) else { return };
        let until = row.expected_until(self.core.settings.timing.edge.comes_again);
        if until <= now {
            self.miss_expected(now, call);
        } else {
            self.core.timers.set(until, Timer::Call(call));
        }
    }

    /// The process is about to end.
    pub(super) fn end_all_expected(&mut self) {
        for call in self.calls.all_expected() {
            self.end_expected(call, CallState::TimedOut);
        }
    }
}
