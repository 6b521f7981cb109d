//! A call after its INVITE: the answers of devices, the CANCEL of its caller or the end of its Expires, and the end of the call.
//!
//! Invariant: a caller gets exactly one final answer, and after a 2xx each further 2xx of that device, because a proxy behind it may fork (RFC 3261 §16.7 step
//! 5). A 2xx that nobody waits for is ended with ACK and BYE.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crate::edge::call::{Call, Invite, MERGED, Outcome};
use crate::edge::forward;
use crate::edge::returned::{self, FROM_DEVICE_BYTES};
use crate::endpoint::core::{ClientOwner, Timer};
use crate::endpoint::{CallState, DialogMark, Endpoint, Event, Failover, Side, Transport};
use crate::flow::Source;
use crate::id::{BranchId, CallId, FlowId, InstanceId};
use crate::message::{Composer, Message, Method, Name};

/// The Reason with which a device's ringing ends when another one has answered (RFC 3326): it shows no missed call.
const ANSWERED_ELSEWHERE: &str = "SIP;cause=200;text=\"Call completed elsewhere\"";
/// The same when another one has declined for all.
const DECLINED_ELSEWHERE: &str = "SIP;cause=603;text=\"Declined elsewhere\"";
/// When a caller's server may try a call again that another node takes, in seconds.
const ELSEWHERE_AFTER_S: u32 = 1;

impl Endpoint {
    pub(in crate::endpoint) fn on_call_due(&mut self, now: Instant, call: CallId) {
        let Some(row) = self.calls.get(call) else { return };
        for instance in row.silent(now) {
            if self.push_bindings.flow_failure(instance).is_none() {
                self.wake_after_all(now, call, instance);
            }
        }
        if self.settle_refusals(now, call) {
            return;
        }
        self.give_up_lost(now, call);
        self.end_if_over(now, call);
    }

    /// Callers have waited for so much longer than deadlines have counted. Nobody is woken first for a call that ends by it.
    pub(in crate::endpoint) fn calls_lose_time(&mut self, now: Instant, lost: Duration) {
        for call in self.calls.unfinished() {
            let Some(row) = self.calls.get_mut(call) else { continue };
            row.lose_time(now, lost);
            let until = row.until();
            self.core.timers.set(until, Timer::Call(call));
            self.end_if_over(now, call);
        }
        self.overtaking_lose_time(now, lost);
    }

    fn end_if_over(&mut self, now: Instant, call: CallId) {
        let Some(row) = self.calls.get_mut(call) else { return };
        if row.is_expected() {
            return self.on_expected_due(now, call);
        }
        if row.has_expired(now) {
            let is_open = |instance: &InstanceId| row.state_of(*instance).is_some_and(|state| !state.is_final());
            for instance in row.instances().filter(is_open) {
                self.core.event(Event::InviteExpired { call, instance });
            }
            return self.give_up_call(now, call, CallState::Cancelled, None);
        }
        let settings = &self.core.settings;
        let contact = |source: &Source, binding| settings.sent_by(Side::Upstream, source.transport).contact(binding);
        if let (Some((status, response)), Some(server)) = (row.repeat(now, contact), row.server()) {
            self.core.transactions.respond(now, server, status, response);
        }
        match row.on_deadline(now) {
            None => {
                if let Some(at) = row.deadline(now).filter(|at| *at > now) {
                    self.core.timers.set(at, Timer::Call(call));
                }
            }
            Some(487) => self.answer_call(now, call, 487),
            Some(status) => self.end_call(now, call, CallState::TimedOut, status),
        }
    }

    /// Applies the refusals of devices that are settled by now; returns whether that has ended the call.
    fn settle_refusals(&mut self, now: Instant, call: CallId) -> bool {
        while let Some((legs, outcome)) = self.calls.get_mut(call).and_then(|row| row.settle_refusal(now)) {
            self.cancel_legs(now, legs, None);
            self.tell_changes(call);
            if outcome == Outcome::Fail {
                self.conclude(now, call, 480);
                return true;
            }
        }
        false
    }

    /// The caller shall hear ringing, unless it has heard it or wants it reliably (RFC 3262), which only a device can do.
    pub(in crate::endpoint) fn on_ring(&mut self, now: Instant, call: CallId, instance: InstanceId) {
        let Some(row) = self.calls.get_mut(call) else { return };
        // The response makes a dialog, whose other end is where the call waits (RFC 3261 §12.1.1).
        let (settings, binding) = (&self.core.settings, row.binding());
        let compose = |invite: &Invite| {
            let contact = settings.sent_by(Side::Upstream, invite.source.transport).contact(binding);
            let response = Composer::response(&invite.message, 180, Composer::reason(180), Some(&invite.tag));
            (invite.server, response.header(Name::Contact, contact).finish())
        };
        if row.invite().is_some_and(|invite| invite.message.lists(Name::Require, "100rel")) {
            return;
        }
        let own = row.invite().map(compose);
        if row.ring(instance)
            && let Some((server, response)) = own
        {
            row.record(now, 180, None, &response);
            self.core.transactions.respond(now, server, 180, response);
        }
        self.tell_changes(call);
    }

    pub(in crate::endpoint) fn on_device_unreachable(&mut self, now: Instant, call: CallId, instance: InstanceId) {
        if self.calls.get(call).is_some_and(Call::is_expected) {
            return self.lose_expected(now, instance, call);
        }
        if !self.waits_for_lost(now, call, instance, None) {
            self.give_up_device(now, call, instance);
        }
    }

    fn give_up_device(&mut self, now: Instant, call: CallId, instance: InstanceId) {
        if self.calls.get_mut(call).is_some_and(|row| row.give_up(instance)) {
            self.conclude(now, call, 480);
        }
    }

    /// Whether a device that nothing calls back has the call, and is given up only when it has had time to come back with it. `status`: what its caller
    /// gets then.
    pub(in crate::endpoint) fn waits_for_lost(
        &mut self,
        now: Instant,
        call: CallId,
        instance: InstanceId,
        status: Option<u16>,
    ) -> bool {
        let until = self.calls.get_mut(call).and_then(|row| row.wait_for_lost(now, instance, status));
        if let Some(until) = until {
            self.core.timers.set(until, Timer::Call(call));
        }
        until.is_some()
    }

    /// The devices that have not come back with the call.
    fn give_up_lost(&mut self, now: Instant, call: CallId) {
        for (instance, status) in self.calls.get_mut(call).map(|row| row.take_lost(now)).unwrap_or_default() {
            match status {
                Some(status) => self.leave_call(now, call, instance, status),
                None => self.give_up_device(now, call, instance),
            }
        }
    }

    /// A device has nothing to do with a call any more; the others ring on. `status`: what the caller gets without any other.
    pub(in crate::endpoint) fn leave_call(&mut self, now: Instant, call: CallId, instance: InstanceId, status: u16) {
        let Some(row) = self.calls.get_mut(call) else { return };
        let (legs, outcome) = row.drop_target(now, instance);
        if let Some(at) = row.deadline(now).filter(|_| outcome == Outcome::Ignore) {
            self.core.timers.set(at, Timer::Call(call));
        }
        self.cancel_legs(now, legs, None);
        self.calls.leave(instance, call);
        self.tell_changes(call);
        match outcome {
            Outcome::Fail => self.conclude(now, call, status),
            Outcome::Terminated => self.answer_call(now, call, 487),
            _ => {}
        }
    }

    pub(in crate::endpoint) fn on_end_calls(&mut self, now: Instant, failover: Failover) {
        self.end_all_expected();
        self.end_overtaking(now, failover.status());
        for call in self.calls.open() {
            self.end_call(now, call, CallState::TimedOut, failover.status());
        }
        self.tell_all_missed(now);
    }

    /// Ends a call for a reason of the relay's own; the caller gets a device's refusal where that says more.
    pub(in crate::endpoint) fn end_call(&mut self, now: Instant, call: CallId, state: CallState, status: u16) {
        if self.end_expected(call, state) {
            return;
        }
        let Some(row) = self.calls.get_mut(call) else { return };
        let Some(legs) = row.end(state) else { return };
        let best = row.best_refusal(Some(status)).filter(|_| state == CallState::TimedOut);
        let declined = (state == CallState::Declined).then_some(DECLINED_ELSEWHERE);
        self.cancel_legs(now, legs, declined);
        match best {
            Some((status, response)) => self.close_call(now, call, status, response),
            None => self.answer_call(now, call, status),
        }
    }

    /// No device is left that may answer: the caller gets the best refusal, if there was one, else `status`.
    fn conclude(&mut self, now: Instant, call: CallId, status: u16) {
        let Some(row) = self.calls.get(call) else { return };
        match row.best_refusal(None) {
            Some((status, response)) => self.close_call(now, call, status, response),
            // A device is out by a refusal that says nothing to a caller.
            None if row.state() == CallState::Declined => self.answer_call(now, call, status),
            None => self.end_call(now, call, CallState::TimedOut, status),
        }
    }

    pub(in crate::endpoint) fn on_call_cancelled(&mut self, now: Instant, call: CallId, cancel: &Message) {
        let (state, reason) = (forward::end_told_by(cancel), forward::reason(cancel));
        self.give_up_call(now, call, state, reason.as_deref());
    }

    /// The caller waits no longer, whether by its CANCEL, by its BYE in the early dialog or by the Expires of its INVITE.
    pub(super) fn give_up_call(&mut self, now: Instant, call: CallId, state: CallState, reason: Option<&str>) {
        let Some(row) = self.calls.get_mut(call) else { return };
        if row.state().is_final() {
            return;
        }
        let (legs, at_once) = row.cancel(now, state);
        let (deadline, state, crossing) = (row.deadline(now), row.state(), row.crossing());
        self.cancel_legs(now, legs, reason);
        if at_once {
            return self.answer_call(now, call, 487);
        }
        self.tell_changes(call);
        // Until the final answer a 200 of theirs may cross the CANCEL and win (RFC 3261 §9.1).
        for instance in crossing {
            self.core.event(Event::GivenUp { call, instance, state });
        }
        if let Some(at) = deadline {
            self.core.timers.set(at, Timer::Call(call));
        }
    }

    pub(in crate::endpoint) fn on_leg_response(
        &mut self,
        now: Instant,
        call: CallId,
        branch: BranchId,
        response: &Message,
    ) {
        let (Some(status), wait) = (response.status(), self.core.settings.answer_timeout) else { return };
        let Some(row) = self.calls.get(call) else { return self.end_late_answer(now, branch, status, response) };
        let asked = row.invite().map(|invite| &invite.message);
        let fitting = asked.map_or(Cow::Borrowed(response), |asked| returned::fitting(asked, response, Side::Device));
        let is_replaced = matches!(fitting, Cow::Owned(_));
        if is_replaced {
            self.end_late_answer(now, branch, status, response);
        }
        let is_too_long = is_replaced && status != 503 && status >= 200;
        let (response, said) = (&*fitting, status);
        let status = response.status().unwrap_or(status);
        let Some(row) = self.calls.get_mut(call) else { return };
        if is_too_long && let Some(instance) = row.instance_of(branch) {
            self.core.event(Event::AnswerTooLong { call, instance });
        }
        let received = if status == MERGED { row.confirmed_by(branch) } else { Vec::new() };
        let outcome = row.on_response(now, branch, response, wait);
        if is_replaced {
            row.correct_refusal(said);
        }
        for earlier in received {
            self.core.transactions.note_received(now, earlier);
        }
        if outcome == Outcome::Ignore && status >= 300 {
            self.repeat_legs(call, branch, status);
        }
        self.on_leg_outcome(now, call, branch, outcome, response);
    }

    /// The consequence of a device's response for the call.
    fn on_leg_outcome(&mut self, now: Instant, call: CallId, branch: BranchId, outcome: Outcome, response: &Message) {
        let Some(row) = self.calls.get_mut(call) else { return };
        let Some(server) = row.server() else { return };
        let status = response.status().unwrap_or_default();
        match outcome {
            Outcome::Ignore => {
                if let Some(at) = row.deadline(now).filter(|_| status >= 300) {
                    self.core.timers.set(at, Timer::Call(call));
                }
            }
            Outcome::Pass => {
                let Some(invite) = row.invite() else { return };
                let passed = returned::forward_response(&invite.message, response, Side::Device);
                let said = row.instance_of(branch).map(|device| (response, device));
                row.record(now, status, said, &passed);
                if let Some(at) = row.deadline(now) {
                    self.core.timers.set(at, Timer::Call(call));
                }
                let replaced = row.replaced_by(branch);
                self.core.transactions.respond(now, server, status, passed);
                self.cancel_surplus_legs(now, replaced);
            }
            Outcome::Tell => {
                let Some(invite) = row.invite() else { return };
                let passed = returned::forward_response(&invite.message, response, Side::Device);
                self.core.transactions.respond(now, server, status, passed);
            }
            Outcome::Answer => {
                let (moved, others) = row.others(branch);
                self.cancel_surplus_legs(now, moved);
                self.cancel_legs(now, others, Some(ANSWERED_ELSEWHERE));
                return self.pass_answer(now, call, branch, response);
            }
            Outcome::Fail => {
                let (moved, others) = row.others(branch);
                self.cancel_surplus_legs(now, moved);
                self.cancel_legs(now, others, (status >= 600).then_some(DECLINED_ELSEWHERE));
                return self.conclude(now, call, 480);
            }
            Outcome::TooLate => self.end_late_answer(now, branch, status, response),
            Outcome::Terminated => return self.terminate(now, call, response),
        }
        self.tell_changes(call);
    }

    /// The caller has cancelled the call, and its last device has ended: the caller gets the device's 487, or the relay's own.
    fn terminate(&mut self, now: Instant, call: CallId, response: &Message) {
        let Some(row) = self.calls.get(call) else { return };
        let Some(server) = row.server() else { return };
        // By the same tag as the 200 to the caller's CANCEL (RFC 3261 §9.2), else the relay says it.
        let told_tag = self.core.transactions.to_tag_of(server);
        let is_same = response.to().and_then(|to| to.tag()) == told_tag.as_deref();
        let invite = row.invite().filter(|_| response.status() == Some(487) && is_same);
        match invite.map(|invite| returned::forward_response(&invite.message, response, Side::Device)) {
            Some(passed) => self.close_call(now, call, 487, passed),
            None => self.answer_call(now, call, 487),
        }
    }

    /// A device has refused a leg, and has the call by an earlier one, as far as it has said: that is repeated by the flow on which the device is, for a
    /// refusal of it may be lost with its connection.
    fn repeat_legs(&mut self, call: CallId, branch: BranchId, status: u16) {
        let Some(row) = self.calls.get_mut(call) else { return };
        for (earlier, flow) in row.repeated_by(branch, status, |begun_on| !self.attachments.knows_flow(begun_on)) {
            if !self.attachments.is_hurt_by_copies(flow) {
                self.core.transactions.repeat(earlier, flow);
            }
        }
    }

    pub(in crate::endpoint) fn on_leg_lost(&mut self, now: Instant, call: CallId, branch: BranchId) {
        let Some(row) = self.calls.get_mut(call) else { return };
        let outcome = row.on_leg_lost(branch);
        let Some(instance) = row.instance_of(branch) else { return };
        self.after_a_loss(now, call, instance, outcome);
    }

    /// A device is by a flow no more: its legs there wait for its next one, and it is woken if it was not and has none.
    pub(in crate::endpoint) fn leave_legs(&mut self, now: Instant, instance: InstanceId, flow: FlowId) {
        for call in self.calls.waiting_for(instance) {
            let outcome = self.calls.get_mut(call).and_then(|row| row.on_flow_left(instance, flow));
            // A device that is by another flow already needs no push.
            let is_away = !self.attachments.is_attached(instance);
            if let Some(outcome) = outcome.filter(|outcome| is_away || *outcome == Outcome::Terminated) {
                self.after_a_loss(now, call, instance, outcome);
            }
        }
    }

    fn after_a_loss(&mut self, now: Instant, call: CallId, instance: InstanceId, outcome: Outcome) {
        let has_another = self.calls.get(call).is_some_and(|row| row.has_live_leg(instance));
        if outcome == Outcome::Terminated {
            self.answer_call(now, call, 487);
        } else if !has_another && !self.lose_only_flow(now, call, instance) {
            self.wake_after_all(now, call, instance);
        }
    }

    /// Gives the caller a device's 2xx, the first or a further one.
    fn pass_answer(&mut self, now: Instant, call: CallId, branch: BranchId, response: &Message) {
        let (Some(row), Some(status)) = (self.calls.get(call), response.status()) else { return };
        if let (Some(invite), Some(server), Some(device)) = (row.invite(), row.server(), row.instance_of(branch)) {
            self.core.transactions.keep_request(server, &invite.message, device);
        }
        let asked = row.server().and_then(|server| self.core.transactions.asked_by(server));
        let passed = asked.map(|asked| returned::forward_response(asked, response, Side::Device));
        if let Some(passed) = passed.filter(|passed| passed.len() <= FROM_DEVICE_BYTES) {
            self.close_call(now, call, status, passed);
            self.note_passed(now, status, response);
        }
    }

    /// Gives the caller the relay's own final answer.
    fn answer_call(&mut self, now: Instant, call: CallId, status: u16) {
        let Some(row) = self.calls.get(call) else { return };
        let compose = |invite: &Invite| {
            let response = Composer::response(&invite.message, status, Composer::reason(status), Some(&invite.tag));
            match status {
                503 => response.header(Name::RetryAfter, ELSEWHERE_AFTER_S).finish(),
                _ => response.finish(),
            }
        };
        if let Some(response) = row.invite().map(compose) {
            self.close_call(now, call, status, response);
        }
    }

    /// Gives the caller its final answer: the call counts no more, and is forgotten when its transactions are over. A
    /// winner's 2xx that comes again passes again.
    fn close_call(&mut self, now: Instant, call: CallId, status: u16, response: bytes::Bytes) {
        let Some(row) = self.calls.get_mut(call) else { return };
        let Some(server) = row.server() else { return };
        let again = row.is_closed();
        let dialog = row.invite().and_then(|invite| invite.message.call_id()).map(DialogMark::of);
        let legs = row.close();
        let (state, instances): (_, Vec<_>) = (row.state(), row.instances().collect());
        self.core.transactions.respond(now, server, status, response);
        self.tell_changes(call);
        if again {
            return;
        }
        // However it has ended: a device that is away, and may come back with it, stops ringing then.
        self.cancel_legs(now, legs, None);
        if let (Some(instance), Some(dialog)) = (self.calls.get(call).and_then(Call::answered_by), dialog) {
            self.core.event(Event::DialogBegun { call, instance, dialog });
        }
        self.core.event(Event::Ended { call, state });
        for instance in &instances {
            self.calls.leave(*instance, call);
        }
        self.on_missed(now, call, &instances, status);
        if let Some(row) = self.calls.get_mut(call) {
            row.forget_caller();
        }
        self.core.later(now, self.core.settings.timing.transaction.t1_64(), Timer::Forget(call));
    }

    /// The call is over for the devices of these legs.
    pub(super) fn cancel_legs(&mut self, now: Instant, legs: Vec<BranchId>, reason: Option<&str>) {
        for branch in legs {
            if self.core.transactions.cancel_by_any(now, branch, reason) {
                self.cancel_beside(branch);
            }
        }
    }

    /// The devices of these legs have the call by another one: a leg of which nothing is heard is left alone, for some stacks find a call by its Call-ID
    /// and would end the other one.
    pub(super) fn cancel_surplus_legs(&mut self, now: Instant, legs: Vec<BranchId>) {
        for branch in legs {
            if self.core.transactions.cancel(now, branch, None) {
                self.cancel_beside(branch);
            }
        }
    }

    fn cancel_beside(&mut self, branch: BranchId) {
        for flow in self.flows_beside(branch) {
            self.core.transactions.cancel_beside(branch, flow);
        }
    }

    /// The open flows of a leg's device by which it may ring, whichever it has answered by last: that on which the leg began, and those by which the device was
    /// and is.
    fn flows_beside(&self, branch: BranchId) -> Vec<FlowId> {
        let Some((ClientOwner::Leg(call), _)) = self.core.transactions.progress(branch) else { return Vec::new() };
        let Some(row) = self.calls.get(call) else { return Vec::new() };
        let Some(instance) = row.instance_of(branch) else { return Vec::new() };
        let mut flows = row.flows_of(branch);
        flows.extend(self.attachments.get(instance).map(|attached| attached.flow));
        flows.sort_unstable();
        flows.dedup();
        flows.retain(|flow| self.attachments.carries(*flow, instance));
        flows
    }

    /// A 2xx that nobody waits for must not leave the device in a call with nobody.
    fn end_late_answer(&mut self, now: Instant, branch: BranchId, status: u16, response: &Message) {
        if !(200..300).contains(&status) {
            return;
        }
        let Some(flow) = self.core.transactions.flow_of(branch) else { return };
        let (ack, bye) = (self.core.branch(), self.core.branch());
        let sent_by = self.core.settings.sent_by(Side::Device, Transport::Tls);
        if let Some((ack, hang_up)) = forward::end_late_answer(response, sent_by, ack, bye) {
            self.core.send(flow, ack);
            // Full: the device's own session timer, or its user, ends the call.
            let _ = self.core.transactions.send(now, bye, Method::Bye, hang_up, flow, ClientOwner::Nobody);
        }
    }
}
