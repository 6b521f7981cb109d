//! Held calls and their legs.
//!
//! Invariant: every INVITE that becomes a call ends with exactly one final answer and one final [`CallState`]; its device
//! is woken at most once.

use std::time::Instant;

use super::announced::Announced;
use super::{CallState, ClientOwner, Endpoint, Event, ServerOwner, Side, Source, Timer};
use crate::edge::forward;
use crate::edge::hold::{Hold, Outcome, REMINDER, SILENCE};
use crate::flow::FlowToken;
use crate::id::{BindingId, BranchId, CallId, FlowId, InstanceId};
use crate::message::{Composer, Message, Method, Name};
use crate::transaction::Timing;

/// Calls that one instance may have waiting at once; a further one is answered 486, unpushed.
pub const CALLS_PER_INSTANCE: usize = 8;

impl Endpoint {
    pub(super) fn on_invite(
        &mut self,
        now: Instant,
        source: Source,
        reply: FlowId,
        invite: Message,
        binding: BindingId,
    ) {
        let own = self.bindings.get(&binding).map(|registration| registration.instance);
        let Some(instance) = own.or_else(|| self.proxied.instance_of(binding)) else { return };
        if let Err(stop) = forward::check(&invite, &self.settings.faces()) {
            return self.refuse_call(now, reply, &invite, stop.status());
        }
        let announced = self.announced_for(now, binding).map(|announced| (announced.call, announced.state));
        if announced.is_some_and(|(_, state)| state == CallState::Declined) {
            self.take_announced(binding);
            return self.refuse_call(now, reply, &invite, 603);
        }
        if self.calls_of.get(&instance).is_some_and(|calls| calls.len() >= CALLS_PER_INSTANCE) {
            return self.refuse_call(now, reply, &invite, 486);
        }
        if announced.is_none() && !self.spend_call(now, instance) {
            return self.refuse_call(now, reply, &invite, 480);
        }
        let call = announced.map_or_else(|| CallId::new(self.random.wide(), binding.tag()), |(call, _)| call);
        let Ok(server) = self.transactions.open(&invite, reply, ServerOwner::Call(call)) else {
            return self.busy(reply, &invite);
        };
        let trying = Composer::response(&invite, 100, Composer::reason(100), None).finish();
        self.transactions.respond(now, server, 100, trying);
        let (wait, tag) = (self.settings.ring_timeout, self.random.tag());
        let hold = Hold::new(now, wait, call, instance, binding, server, source, invite, tag);
        self.calls.insert(call, hold);
        self.calls_of.entry(instance).or_default().push(call);
        self.later(now, wait.min(REMINDER), Timer::Call(call));
        if let Some(announced) = announced.and_then(|_| self.take_announced(binding)) {
            return self.begin_announced(now, call, &announced);
        }
        if self.offer(now, call) {
            self.later(now, SILENCE, Timer::Call(call));
            self.tell(now, call, Event::Offered);
        } else {
            self.wake(now, call);
        }
    }

    /// The INVITE of an announced call has come: its device was woken, and may be there already.
    fn begin_announced(&mut self, now: Instant, call: CallId, announced: &Announced) {
        let (rang, instance) = (announced.state == CallState::Ringing, self.calls.get(&call).map(|hold| hold.instance));
        let woken = instance.is_some_and(|instance| announced.woken.contains(&instance));
        if let Some(hold) = self.calls.get_mut(&call).filter(|_| woken) {
            hold.wake();
        }
        if self.offer(now, call) {
            self.later(now, SILENCE, Timer::Call(call));
        } else if woken {
            // Who comes later than its push said finds nothing.
            let wait = announced.until.saturating_duration_since(now);
            if let Some(hold) = self.calls.get_mut(&call) {
                hold.wait_until(announced.until);
            }
            self.later(now, wait, Timer::Call(call));
        } else {
            self.wake(now, call);
        }
        self.tell(now, call, Event::Announced);
        if rang {
            self.on_ring(now, call);
        }
    }

    /// Offers every call that waits for this instance to the flow it came by.
    pub(super) fn offer_all(&mut self, now: Instant, instance: InstanceId) {
        for call in self.calls_of.get(&instance).cloned().unwrap_or_default() {
            self.offer(now, call);
        }
    }

    /// Offers a call to its device's flow; whether the device is attached.
    fn offer(&mut self, now: Instant, call: CallId) -> bool {
        let branch = self.branch();
        let Some(hold) = self.calls.get_mut(&call) else { return false };
        let Some(attached) = self.attached.get(&hold.instance) else { return false };
        let Some(invite) = hold.invite.as_deref().filter(|_| hold.wants(attached.flow)) else { return true };
        let (device, upstream) = (
            self.settings.face(Side::Device, attached.transport),
            self.settings.face(Side::Upstream, hold.source.transport),
        );
        let token = FlowToken { instance: hold.instance, upstream: hold.source.flow };
        let token = self.token_key.sign(&token, invite.call_id().unwrap_or_default());
        let edit = forward::onward(invite, device, branch);
        // What came back by a Path names its device itself (RFC 8599 §5.6.2).
        let edit = if self.proxied.knows(hold.instance) { edit } else { edit.request_uri(&*attached.contact) };
        let bytes = forward::record_route(edit, &token, device, upstream).finish();
        let flow = attached.flow;
        if self.transactions.send(now, branch, Method::Invite, bytes, flow, ClientOwner::Leg(call)).is_err() {
            return true;
        }
        let moved = hold.offered(branch, flow);
        let woke_after = hold.note_attached(now);
        let (instance, state) = (hold.instance, hold.state());
        self.note_forwarded(flow, instance, branch);
        self.cancel_legs(now, moved);
        self.event(Event::Call { call, instance, state, woke_after });
        true
    }

    fn wake(&mut self, now: Instant, call: CallId) {
        if self.calls.get_mut(&call).is_some_and(Hold::wake) {
            self.tell(now, call, Event::Wake);
        }
    }

    fn tell(&mut self, now: Instant, call: CallId, event: fn(Box<super::IncomingCall>) -> Event) {
        if let Some(hold) = self.calls.get(&call) {
            let incoming = Box::new(hold.describe(now));
            self.event(event(incoming));
        }
    }

    pub(super) fn on_call_due(&mut self, now: Instant, call: CallId) {
        let Some(hold) = self.calls.get(&call) else { return };
        if hold.is_silent(now) {
            self.wake(now, call);
        }
        let Some(hold) = self.calls.get_mut(&call) else { return };
        if let Some((status, response)) = hold.remind(now) {
            self.transactions.respond(now, hold.server, status, response);
        }
        match hold.on_deadline(now) {
            None => {
                if let Some(at) = hold.deadline(now).filter(|at| *at > now) {
                    self.timers.set(at, Timer::Call(call));
                }
            }
            Some(487) => self.answer_call(now, call, 487),
            Some(status) => self.end_call(now, call, CallState::TimedOut, status),
        }
    }

    /// The caller shall hear ringing, unless it has heard it or wants it reliably (RFC 3262), which only a device can do.
    pub(super) fn on_ring(&mut self, now: Instant, call: CallId) {
        if self.ring_announced(call) {
            return;
        }
        let Some(hold) = self.calls.get_mut(&call) else { return };
        let Some(invite) = hold.invite.as_deref() else { return };
        if invite.lists(Name::Require, "100rel") {
            return;
        }
        let response = Composer::response(invite, 180, Composer::reason(180), Some(&hold.tag)).finish();
        if hold.ring() {
            hold.said(now, 180, None, &response);
            let (server, instance) = (hold.server, hold.instance);
            self.transactions.respond(now, server, 180, response);
            self.event(Event::Call { call, instance, state: CallState::Ringing, woke_after: None });
        }
    }

    pub(super) fn on_give_up(&mut self, now: Instant, call: CallId) {
        if self.end_announced(call, CallState::TimedOut) {
            return;
        }
        if self.calls.get(&call).is_some_and(|hold| !hold.has_live_leg()) {
            self.end_call(now, call, CallState::TimedOut, 480);
        }
    }

    pub(super) fn on_end_calls(&mut self, now: Instant) {
        self.end_all_announced();
        let mut open: Vec<CallId> =
            self.calls.iter().filter(|(_, hold)| !hold.is_closed()).map(|(call, _)| *call).collect();
        open.sort_unstable();
        for call in open {
            self.end_call(now, call, CallState::TimedOut, 480);
        }
    }

    /// Ends a call for a reason of the relay's own.
    pub(super) fn end_call(&mut self, now: Instant, call: CallId, state: CallState, status: u16) {
        if self.end_announced(call, state) {
            return;
        }
        let Some(legs) = self.calls.get_mut(&call).and_then(|hold| hold.end(state)) else { return };
        self.cancel_legs(now, legs);
        self.answer_call(now, call, status);
    }

    pub(super) fn on_call_cancelled(&mut self, now: Instant, call: CallId, cancel: &Message) {
        let Some(hold) = self.calls.get_mut(&call) else { return };
        if hold.state().is_final() {
            return;
        }
        let (legs, at_once) = hold.cancel(now, forward::answered_elsewhere(cancel));
        let deadline = hold.deadline(now);
        let reason = forward::reason(cancel);
        for branch in legs {
            self.transactions.cancel(now, branch, reason.as_deref());
        }
        // Told with the final answer: until then a 200 of the device may cross the CANCEL and win (RFC 3261 §9.1).
        if at_once {
            self.answer_call(now, call, 487);
        } else if let Some(at) = deadline {
            self.timers.set(at, Timer::Call(call));
        }
    }

    pub(super) fn on_leg_response(&mut self, now: Instant, call: CallId, branch: BranchId, response: &Message) {
        let (Some(status), wait) = (response.status(), self.settings.answer_timeout) else { return };
        let Some(hold) = self.calls.get_mut(&call) else {
            return self.end_late_answer(now, branch, status, response);
        };
        let before = hold.state();
        let outcome = hold.on_response(now, branch, status, wait);
        let (server, instance, state) = (hold.server, hold.instance, hold.state());
        match outcome {
            Outcome::Ignore => {}
            Outcome::Pass => {
                let passed = forward::back(response, Side::Device);
                hold.said(now, status, Some(response), &passed);
                if let Some(at) = hold.deadline(now) {
                    self.timers.set(at, Timer::Call(call));
                }
                self.transactions.respond(now, server, status, passed);
            }
            Outcome::Answer | Outcome::Fail => {
                let others = hold.others(branch);
                hold.close();
                self.cancel_legs(now, others);
                self.transactions.respond(now, server, status, forward::back(response, Side::Device));
                self.settle(now, call);
            }
            Outcome::TooLate => self.end_late_answer(now, branch, status, response),
            Outcome::Terminated => self.answer_call(now, call, 487),
        }
        if state != before {
            self.event(Event::Call { call, instance, state, woke_after: None });
        }
    }

    pub(super) fn on_leg_lost(&mut self, now: Instant, call: CallId, branch: BranchId) {
        let Some(hold) = self.calls.get_mut(&call) else { return };
        if hold.on_leg_lost(branch) == Outcome::Terminated {
            self.answer_call(now, call, 487);
        } else if !self.calls.get(&call).is_some_and(Hold::has_live_leg) {
            self.wake(now, call);
        }
    }

    /// A device's flow has ended: its legs there are lost, and the device is woken if it was not.
    pub(super) fn lose_legs(&mut self, now: Instant, instance: InstanceId, flow: FlowId) {
        for call in self.calls_of.get(&instance).cloned().unwrap_or_default() {
            let legs = self.calls.get(&call).map(|hold| hold.legs_on(flow)).unwrap_or_default();
            for branch in legs {
                self.transactions.cancel(now, branch, None);
                self.on_leg_lost(now, call, branch);
            }
        }
    }

    /// Gives the caller the relay's own final answer.
    fn answer_call(&mut self, now: Instant, call: CallId, status: u16) {
        let Some(hold) = self.calls.get_mut(&call).filter(|hold| !hold.is_closed()) else { return };
        let (server, instance, state) = (hold.server, hold.instance, hold.state());
        let compose = |invite| Composer::response(invite, status, Composer::reason(status), Some(&hold.tag)).finish();
        let response = hold.invite.as_deref().map(compose);
        hold.close();
        if let Some(response) = response {
            self.transactions.respond(now, server, status, response);
        }
        self.event(Event::Call { call, instance, state, woke_after: None });
        if matches!(state, CallState::Cancelled | CallState::TimedOut)
            && let Some(hold) = self.calls.get(&call)
        {
            let missed = Box::new(hold.describe(now));
            self.event(Event::Missed { call: missed, state });
        }
        self.settle(now, call);
    }

    /// The caller has its final answer: the call counts no more, and is forgotten when its transactions are over.
    fn settle(&mut self, now: Instant, call: CallId) {
        if let Some(instance) = self.calls.get(&call).map(|hold| hold.instance)
            && let Some(calls) = self.calls_of.get_mut(&instance)
        {
            calls.retain(|other| *other != call);
            if calls.is_empty() {
                self.calls_of.remove(&instance);
            }
        }
        self.later(now, Timing::default().t1_64(), Timer::Forget(call));
    }

    pub(super) fn forget_call(&mut self, call: CallId) {
        self.calls.remove(&call);
    }

    fn cancel_legs(&mut self, now: Instant, legs: Vec<BranchId>) {
        for branch in legs {
            self.transactions.cancel(now, branch, None);
        }
    }

    /// A 2xx that nobody waits for must not leave the device in a call with nobody.
    fn end_late_answer(&mut self, now: Instant, branch: BranchId, status: u16, response: &Message) {
        if !(200..300).contains(&status) {
            return;
        }
        let Some(flow) = self.transactions.flow_of(branch) else { return };
        let (ack, bye) = (self.branch(), self.branch());
        let face = self.settings.face(Side::Device, super::Transport::Tls);
        if let Some((ack, hang_up)) = forward::end_late_answer(response, face, ack, bye) {
            self.send(flow, ack);
            // Full: the device's own session timer, or its user, ends the call.
            let _ = self.transactions.send(now, bye, Method::Bye, hang_up, flow, ClientOwner::Nobody);
        }
    }
}
