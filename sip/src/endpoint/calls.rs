//! Held calls and their legs.
//!
//! A call is for all members of its binding: those that are attached are offered it at once, the others are woken, and the
//! first that answers has it (RFC 3261 §16.7).
//!
//! Invariant: every INVITE that becomes a call ends with exactly one final answer, and with one final [`CallState`] for each
//! of its devices; each of them is woken at most once.

use std::time::Instant;

use super::expected::ExpectedCall;
use super::{CallState, ClientOwner, Endpoint, Event, ServerOwner, Side, Source, Timer};
use crate::edge::forward;
use crate::edge::pending_invite::{Outcome, PendingInvite};
use crate::flow::FlowToken;
use crate::id::{BindingId, BranchId, CallId, FlowId, InstanceId};
use crate::message::{Composer, Message, Method, Name};

/// Calls that one instance may have waiting at once; a further one is answered 486, unpushed.
pub const CALLS_PER_INSTANCE: usize = 8;
/// Why a device's ringing ends when another one has answered (RFC 3326): it shows no missed call.
const ANSWERED_ELSEWHERE: &str = "SIP;cause=200;text=\"Call completed elsewhere\"";
/// Likewise when another one has declined for all.
const DECLINED_ELSEWHERE: &str = "SIP;cause=603;text=\"Declined elsewhere\"";

impl Endpoint {
    pub(super) fn on_invite(
        &mut self,
        now: Instant,
        source: Source,
        reply: FlowId,
        invite: Message,
        binding: BindingId,
    ) {
        if let Err(stop) = forward::check(&invite, &self.core.settings.own_addresses()) {
            return self.refuse_call(now, reply, &invite, stop.status());
        }
        let expected = self.expected_for(now, binding).map(|expected| (expected.call, expected.state));
        if expected.is_some_and(|(_, state)| state == CallState::Declined) {
            self.take_expected(binding);
            return self.refuse_call(now, reply, &invite, 603);
        }
        let instances = match self.callable(now, binding) {
            Ok(instances) => instances,
            Err(status) => return self.refuse_call(now, reply, &invite, status),
        };
        let call = expected.map_or_else(|| CallId::new(self.core.random.wide(), binding.tag()), |(call, _)| call);
        let Ok(server) = self.core.transactions.open(&invite, reply, ServerOwner::Call(call)) else {
            return self.busy(reply, &invite);
        };
        let trying = Composer::response(&invite, 100, Composer::reason(100), None).finish();
        self.core.transactions.respond(now, server, 100, trying);
        let (wait, tag) = (self.core.settings.ring_timeout, self.core.random.tag());
        let pending = PendingInvite::new(
            now,
            self.core.settings.timing.edge,
            wait,
            call,
            &instances,
            binding,
            server,
            source,
            invite,
            tag,
        );
        self.calls.insert(call, pending);
        self.core.later(now, wait.min(self.core.settings.timing.edge.provisional_interval), Timer::Call(call));
        for instance in &instances {
            self.calls_of.entry(*instance).or_default().push(call);
        }
        match expected.and_then(|_| self.take_expected(binding)) {
            Some(expected) => self.begin_expected(now, call, &instances, &expected),
            None => self.begin(now, call, &instances),
        }
    }

    /// Offers a call to those of its devices that are attached, and wakes the others.
    fn begin(&mut self, now: Instant, call: CallId, instances: &[InstanceId]) {
        let mut forked = false;
        for instance in instances.iter().copied() {
            if self.fork_to(now, call, instance) {
                forked = true;
                self.tell(now, call, instance, Event::Forked);
            } else {
                self.wake(now, call, instance);
            }
        }
        if forked {
            self.core.later(now, self.core.settings.timing.edge.no_response, Timer::Call(call));
        }
    }

    /// The members of a binding that may get one more call; who was woken for it before has paid for it.
    fn callable(&mut self, now: Instant, binding: BindingId) -> Result<Vec<InstanceId>, u16> {
        let mut status = 480;
        let paid = self.expected_for(now, binding).map(|expected| expected.woken.clone()).unwrap_or_default();
        let mut instances = self.callable_instances(binding);
        instances.extend(self.push_bindings.instance_of(binding));
        instances.retain(|instance| {
            let full = self.calls_of.get(instance).is_some_and(|calls| calls.len() >= CALLS_PER_INSTANCE);
            status = if full { 486 } else { status };
            !full && (paid.contains(instance) || self.spend_call(now, *instance))
        });
        if instances.is_empty() { Err(status) } else { Ok(instances) }
    }

    /// The INVITE of an announced call has come: its devices were woken, and may be there already.
    fn begin_expected(&mut self, now: Instant, call: CallId, instances: &[InstanceId], expected: &ExpectedCall) {
        let (mut forked, mut full_time) = (false, false);
        for instance in instances.iter().copied() {
            let woken = expected.woken.contains(&instance);
            if let Some(pending) = self.calls.get_mut(&call).filter(|_| woken) {
                pending.wake(instance);
            }
            if self.fork_to(now, call, instance) {
                forked = true;
            } else if !woken {
                full_time = true;
                self.wake(now, call, instance);
            }
            self.tell(now, call, instance, Event::ExpectedCallArrived);
        }
        if forked {
            self.core.later(now, self.core.settings.timing.edge.no_response, Timer::Call(call));
        } else if !full_time {
            // Who comes later than its push said finds nothing.
            let wait = expected.until.saturating_duration_since(now);
            if let Some(pending) = self.calls.get_mut(&call) {
                pending.wait_until(expected.until);
            }
            self.core.later(now, wait, Timer::Call(call));
        }
        for instance in expected.rang.iter().copied() {
            self.on_ring(now, call, instance);
        }
        // A device that is not called any more (its app has come to the foreground) stops ringing.
        for instance in expected.woken.iter().copied().filter(|woken| !instances.contains(woken)) {
            self.core.event(Event::Call { call, instance, state: CallState::TimedOut, woke_after: None });
        }
    }

    /// Offers every call that waits for this instance to the flow it came by.
    pub(super) fn fork_waiting(&mut self, now: Instant, instance: InstanceId) {
        for call in self.calls_of.get(&instance).cloned().unwrap_or_default() {
            self.fork_to(now, call, instance);
        }
    }

    /// Offers a call to a device's flow; whether the device is attached.
    fn fork_to(&mut self, now: Instant, call: CallId, instance: InstanceId) -> bool {
        let branch = self.core.branch();
        let Some(pending) = self.calls.get_mut(&call) else { return false };
        let Some(attached) = self.attached.get(&instance) else { return false };
        let wanted = pending.wants(instance, attached.flow);
        let Some(invite) = pending.invite.as_deref().filter(|_| wanted) else { return true };
        let (device, upstream) = (
            self.core.settings.sent_by(Side::Device, attached.transport),
            self.core.settings.sent_by(Side::Upstream, pending.source.transport),
        );
        let token = FlowToken { instance, upstream: pending.source.flow };
        let token = self.core.token_key.sign(&token, invite.call_id().unwrap_or_default());
        let edit = forward::forward_request(invite, device, branch);
        // What came back by a Path names its device itself (RFC 8599 §5.6.2).
        let edit = if self.push_bindings.knows(instance) { edit } else { edit.request_uri(&*attached.contact) };
        let bytes = forward::record_route(edit, &token, device, upstream).finish();
        let flow = attached.flow;
        if self.core.transactions.send(now, branch, Method::Invite, bytes, flow, ClientOwner::Leg(call)).is_err() {
            return true;
        }
        let moved = pending.forked(branch, instance, flow);
        let woke_after = pending.note_attached(now, instance);
        let state = pending.state_of(instance).unwrap_or(CallState::Waking);
        self.note_forwarded(flow, instance, branch);
        self.cancel_legs(now, moved, None);
        self.core.event(Event::Call { call, instance, state, woke_after });
        true
    }

    fn wake(&mut self, now: Instant, call: CallId, instance: InstanceId) {
        if self.calls.get_mut(&call).is_some_and(|pending| pending.wake(instance)) {
            self.tell(now, call, instance, Event::Wake);
        }
    }

    fn tell(&mut self, now: Instant, call: CallId, instance: InstanceId, event: fn(Box<super::IncomingCall>) -> Event) {
        if let Some(pending) = self.calls.get(&call) {
            let incoming = Box::new(pending.describe(now, instance));
            self.core.event(event(incoming));
        }
    }

    /// Tells the shell how a call stands for those devices for which that has changed.
    fn tell_changes(&mut self, call: CallId) {
        let changes = self.calls.get_mut(&call).map(PendingInvite::take_changes).unwrap_or_default();
        for (instance, state) in changes {
            self.core.event(Event::Call { call, instance, state, woke_after: None });
        }
    }

    pub(super) fn on_call_due(&mut self, now: Instant, call: CallId) {
        let Some(pending) = self.calls.get(&call) else { return };
        for instance in pending.silent(now) {
            self.wake(now, call, instance);
        }
        let Some(pending) = self.calls.get_mut(&call) else { return };
        if let Some((status, response)) = pending.repeat(now) {
            self.core.transactions.respond(now, pending.server, status, response);
        }
        match pending.on_deadline(now) {
            None => {
                if let Some(at) = pending.deadline(now).filter(|at| *at > now) {
                    self.core.timers.set(at, Timer::Call(call));
                }
            }
            Some(487) => self.answer_call(now, call, 487),
            Some(status) => self.end_call(now, call, CallState::TimedOut, status),
        }
    }

    /// The caller shall hear ringing, unless it has heard it or wants it reliably (RFC 3262), which only a device can do.
    pub(super) fn on_ring(&mut self, now: Instant, call: CallId, instance: InstanceId) {
        if self.ring_expected(call, instance) {
            return;
        }
        let Some(pending) = self.calls.get_mut(&call) else { return };
        let Some(invite) = pending.invite.as_deref() else { return };
        if invite.lists(Name::Require, "100rel") {
            return;
        }
        let response = Composer::response(invite, 180, Composer::reason(180), Some(&pending.tag)).finish();
        if pending.ring(instance) {
            pending.record(now, 180, None, &response);
            let server = pending.server;
            self.core.transactions.respond(now, server, 180, response);
        }
        self.tell_changes(call);
    }

    pub(super) fn on_device_unreachable(&mut self, now: Instant, call: CallId, instance: InstanceId) {
        if let Some(binding) = self.expected_bindings.get(&call).copied() {
            return self.leave_expected(instance, binding);
        }
        if self.calls.get_mut(&call).is_some_and(|pending| pending.give_up(instance)) {
            self.conclude(now, call);
        }
    }

    /// A device has nothing to do with a call any more; the others ring on.
    pub(super) fn leave_call(&mut self, now: Instant, call: CallId, instance: InstanceId) {
        let Some(pending) = self.calls.get_mut(&call) else { return };
        let (legs, outcome) = pending.drop_target(instance);
        self.cancel_legs(now, legs, None);
        self.forget_call_of(instance, call);
        self.tell_changes(call);
        match outcome {
            Outcome::Fail => self.conclude(now, call),
            Outcome::Terminated => self.answer_call(now, call, 487),
            _ => {}
        }
    }

    pub(super) fn on_end_calls(&mut self, now: Instant) {
        self.end_all_expected();
        #[expect(clippy::disallowed_methods, reason = "sorted before anything is sent")]
        let mut open: Vec<CallId> =
            self.calls.iter().filter(|(_, pending)| !pending.is_closed()).map(|(call, _)| *call).collect();
        open.sort_unstable();
        for call in open {
            self.end_call(now, call, CallState::TimedOut, 480);
        }
    }

    /// Ends a call for a reason of the relay's own; the caller gets a device's refusal where that says more.
    pub(super) fn end_call(&mut self, now: Instant, call: CallId, state: CallState, status: u16) {
        if self.end_expected(call, state) {
            return;
        }
        let Some(pending) = self.calls.get_mut(&call) else { return };
        let Some(legs) = pending.end(state) else { return };
        let best = pending.best_refusal(Some(status)).filter(|_| state == CallState::TimedOut);
        let declined = (state == CallState::Declined).then_some(DECLINED_ELSEWHERE);
        self.cancel_legs(now, legs, declined);
        match best {
            Some((status, response)) => self.close_call(now, call, status, response),
            None => self.answer_call(now, call, status),
        }
    }

    /// Nobody is left that may answer: the caller gets the best refusal, if there was one.
    fn conclude(&mut self, now: Instant, call: CallId) {
        match self.calls.get(&call).and_then(|pending| pending.best_refusal(None)) {
            Some((status, response)) => self.close_call(now, call, status, response),
            None => self.end_call(now, call, CallState::TimedOut, 480),
        }
    }

    pub(super) fn on_call_cancelled(&mut self, now: Instant, call: CallId, cancel: &Message) {
        let Some(pending) = self.calls.get_mut(&call) else { return };
        if pending.state().is_final() {
            return;
        }
        let (legs, at_once) = pending.cancel(now, forward::answered_elsewhere(cancel));
        let deadline = pending.deadline(now);
        let reason = forward::reason(cancel);
        for branch in legs {
            self.core.transactions.cancel(now, branch, reason.as_deref());
        }
        // Told with the final answer: until then a 200 of the device may cross the CANCEL and win (RFC 3261 §9.1).
        if at_once {
            self.answer_call(now, call, 487);
        } else if let Some(at) = deadline {
            self.core.timers.set(at, Timer::Call(call));
        }
    }

    pub(super) fn on_leg_response(&mut self, now: Instant, call: CallId, branch: BranchId, response: &Message) {
        let (Some(status), wait) = (response.status(), self.core.settings.answer_timeout) else { return };
        let Some(pending) = self.calls.get_mut(&call) else {
            return self.end_late_answer(now, branch, status, response);
        };
        let outcome = pending.on_response(now, branch, response, wait);
        let server = pending.server;
        match outcome {
            Outcome::Ignore => {}
            Outcome::Pass => {
                let passed = forward::forward_response(response, Side::Device);
                pending.record(now, status, Some(response), &passed);
                if let Some(at) = pending.deadline(now) {
                    self.core.timers.set(at, Timer::Call(call));
                }
                self.core.transactions.respond(now, server, status, passed);
            }
            Outcome::Answer => {
                let (moved, others) = pending.others(branch);
                self.cancel_legs(now, moved, None);
                self.cancel_legs(now, others, Some(ANSWERED_ELSEWHERE));
                return self.close_call(now, call, status, forward::forward_response(response, Side::Device));
            }
            Outcome::Fail => {
                let (moved, others) = pending.others(branch);
                self.cancel_legs(now, moved, None);
                self.cancel_legs(now, others, Some(DECLINED_ELSEWHERE));
                return self.conclude(now, call);
            }
            Outcome::TooLate => self.end_late_answer(now, branch, status, response),
            Outcome::Terminated => self.answer_call(now, call, 487),
        }
        self.tell_changes(call);
    }

    pub(super) fn on_leg_lost(&mut self, now: Instant, call: CallId, branch: BranchId) {
        let Some(pending) = self.calls.get_mut(&call) else { return };
        let outcome = pending.on_leg_lost(branch);
        let Some(instance) = pending.instance_of(branch) else { return };
        if outcome == Outcome::Terminated {
            self.answer_call(now, call, 487);
        } else if !self.calls.get(&call).is_some_and(|pending| pending.has_live_leg(instance)) {
            self.wake(now, call, instance);
        }
    }

    /// A device's flow has ended: its legs there are lost, and the device is woken if it was not.
    pub(super) fn lose_legs(&mut self, now: Instant, instance: InstanceId, flow: FlowId) {
        for call in self.calls_of.get(&instance).cloned().unwrap_or_default() {
            let legs = self.calls.get(&call).map(|pending| pending.legs_on(instance, flow)).unwrap_or_default();
            for branch in legs {
                self.core.transactions.cancel(now, branch, None);
                self.on_leg_lost(now, call, branch);
            }
        }
    }

    /// Gives the caller the relay's own final answer.
    fn answer_call(&mut self, now: Instant, call: CallId, status: u16) {
        let Some(pending) = self.calls.get(&call) else { return };
        let compose =
            |invite| Composer::response(invite, status, Composer::reason(status), Some(&pending.tag)).finish();
        if let Some(response) = pending.invite.as_deref().map(compose) {
            self.close_call(now, call, status, response);
        }
    }

    /// Gives the caller its final answer: the call counts no more, and is forgotten when its transactions are over. A
    /// winner's 2xx that comes again passes again.
    fn close_call(&mut self, now: Instant, call: CallId, status: u16, response: bytes::Bytes) {
        let Some(pending) = self.calls.get_mut(&call) else { return };
        let server = pending.server;
        let again = pending.is_closed();
        pending.close();
        let (state, instances): (_, Vec<_>) = (pending.state(), pending.instances().collect());
        self.core.transactions.respond(now, server, status, response);
        self.tell_changes(call);
        if again {
            return;
        }
        self.core.event(Event::Ended { call, state });
        for instance in instances {
            self.tell_missed(now, call, instance);
            self.forget_call_of(instance, call);
        }
        self.core.later(now, self.core.settings.timing.transaction.t1_64(), Timer::Forget(call));
    }

    /// A call that has ended, and that nobody answered, is missed by those of its devices that did not decline it.
    fn tell_missed(&mut self, now: Instant, call: CallId, instance: InstanceId) {
        let Some(pending) = self.calls.get(&call) else { return };
        if let Some(state @ (CallState::Cancelled | CallState::TimedOut)) = pending.state_of(instance) {
            let missed = Box::new(pending.describe(now, instance));
            self.core.event(Event::Missed { call: missed, state });
        }
    }

    fn forget_call_of(&mut self, instance: InstanceId, call: CallId) {
        if let Some(calls) = self.calls_of.get_mut(&instance) {
            calls.retain(|other| *other != call);
            if calls.is_empty() {
                self.calls_of.remove(&instance);
            }
        }
    }

    pub(super) fn forget_call(&mut self, call: CallId) {
        self.calls.remove(&call);
    }

    fn cancel_legs(&mut self, now: Instant, legs: Vec<BranchId>, reason: Option<&str>) {
        for branch in legs {
            self.core.transactions.cancel(now, branch, reason);
        }
    }

    /// A 2xx that nobody waits for must not leave the device in a call with nobody.
    fn end_late_answer(&mut self, now: Instant, branch: BranchId, status: u16, response: &Message) {
        if !(200..300).contains(&status) {
            return;
        }
        let Some(flow) = self.core.transactions.flow_of(branch) else { return };
        let (ack, bye) = (self.core.branch(), self.core.branch());
        let sent_by = self.core.settings.sent_by(Side::Device, super::Transport::Tls);
        if let Some((ack, hang_up)) = forward::end_late_answer(response, sent_by, ack, bye) {
            self.core.send(flow, ack);
            // Full: the device's own session timer, or its user, ends the call.
            let _ = self.core.transactions.send(now, bye, Method::Bye, hang_up, flow, ClientOwner::Nobody);
        }
    }
}
