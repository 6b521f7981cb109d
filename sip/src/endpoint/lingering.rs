//! Registrations that passed through, and have expired or moved to another node while a caller waits. The call was for the device when it came, and only a
//! removal of the registration ends it. A device that another node has may still come here, by the edge that its push names; a device that rings and loses its
//! connection is pushed to do so.
//!
//! | the registration | stays | as long as | meanwhile |
//! | --- | --- | --- | --- |
//! | expires, and its device is pushed for | for all its calls | one waits | nothing new is accepted for it without a flow, and nobody is asked to refresh it |
//! | expires, and its flow alone leads to it | for calls that its device has responded to | likewise | likewise |
//! | is another node's by now | as when it expires; a call without a response of its device ends by 430 if the device has registered there and its SIP server then tries that flow (RFC 5626 §5.3) | likewise | what new comes, and what its device removes, is for that node: the store is asked |
//!
//! Invariant: a registration stays no longer than the calls that waited when it ended.

use std::time::{Duration, Instant};

use super::pushed::PushBindingEnd;
use super::{Endpoint, NewOwner};
use crate::edge::call::Call;
use crate::id::InstanceId;

/// How long behind the deadline of a call its registration ends.
const AFTER: Duration = Duration::from_secs(1);

impl Endpoint {
    /// Until when calls wait for a device, and are over by their own deadlines; `None`: none waits.
    fn waits_until(&self, instance: InstanceId, counts: impl Fn(&Call) -> bool) -> Option<Instant> {
        let calls = self.calls.waiting_for(instance).into_iter().filter_map(|call| self.calls.get(call));
        calls.filter(|call| call.invite().is_some() && counts(call)).map(|call| call.until() + AFTER).max()
    }

    /// Likewise, calls that the device has said something to, by a flow that stands.
    pub(super) fn rings_until(&self, instance: InstanceId) -> Option<Instant> {
        self.waits_until(instance, |call| call.is_heard_by(instance))
    }

    /// A registration has run out, or stays no longer.
    pub(super) fn end_unless_awaited(&mut self, now: Instant, instance: InstanceId) {
        let end = self.push_bindings.lingers(instance).unwrap_or(PushBindingEnd::Expired);
        let by_flow = !self.is_pushed_for(instance);
        let until = if by_flow { self.rings_until(instance) } else { self.waits_until(instance, |_| true) };
        match until.filter(|until| *until > now) {
            Some(until) => self.linger(instance, end, until),
            None if end == PushBindingEnd::Removed => self.forget_released(now, instance),
            None => self.remove_push_binding(now, instance, end),
        }
    }

    /// Another node has a registration by now: it is forgotten here when its calls are over.
    pub(super) fn on_released(&mut self, now: Instant, instance: InstanceId, to: NewOwner) {
        let unheard = |call: &Call| call.invite().is_some() && !call.is_heard_by(instance);
        if to == NewOwner::Chosen && self.push_bindings.tries_flows(instance) {
            for call in self.calls.waiting_for(instance) {
                if self.calls.get(call).is_some_and(unheard) {
                    self.leave_call(now, call, instance, 430);
                }
            }
        }
        self.linger(instance, PushBindingEnd::Removed, now);
        self.end_unless_awaited(now, instance);
    }

    fn linger(&mut self, instance: InstanceId, end: PushBindingEnd, until: Instant) {
        self.push_bindings.linger(instance, end, until);
        self.arm_push_binding(instance);
    }

    /// A device has no flow any more; one that is another node's stays for calls that wait for it alone.
    pub(super) fn end_released(&mut self, now: Instant, instance: InstanceId) {
        if self.push_bindings.lingers(instance) == Some(PushBindingEnd::Removed) {
            self.end_unless_awaited(now, instance);
        }
    }

    /// The device may come back here: the BYEs of its calls are kept for it.
    fn forget_released(&mut self, now: Instant, instance: InstanceId) {
        let owed = self.take_owed(now, instance);
        self.attachments.end_dialogs(now, instance);
        self.remove_push_binding(now, instance, PushBindingEnd::Removed);
        self.keep_owed(now, instance, owed);
    }
}
