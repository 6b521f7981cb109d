//! An INVITE that comes for a binding, and the devices that it is forked to or that are woken for it.
//!
//! Invariant: an INVITE is answered 100 before anything is looked up for it; a device is forked to by its flow, and to no
//! address that a message names.

use std::time::{Duration, Instant};

use super::Arrival;
use crate::edge::call::invite::{Invite, valid_until};
use crate::edge::call::{Announced, Call};
use crate::edge::caller::{self, Caller};
use crate::edge::caller_key::CallerKey;
use crate::edge::forward;
use crate::edge::invite_mark::InviteMark;
use crate::edge::replaces::Replaces;
use crate::endpoint::core::{ClientOwner, ServerOwner, Timer};
use crate::endpoint::{CallState, Endpoint, Event, IncomingCall, Side, Source};
use crate::flow::FlowToken;
use crate::id::{BindingId, CallId, InstanceId};
use crate::message::{Composer, Message, Method, Uri};
use crate::transaction::{Reply, ServerId};

/// A call that may begin.
pub(super) struct Admitted {
    pub(super) call: CallId,
    instances: Vec<InstanceId>,
    /// The devices that would get the call if they had not had too many.
    refused: Vec<InstanceId>,
    caller: Caller,
    key: CallerKey,
    mark: InviteMark,
    /// When the INVITE's Expires ends.
    pub(super) valid_until: Option<Instant>,
}

impl Endpoint {
    pub(in crate::endpoint) fn on_invite(
        &mut self,
        now: Instant,
        source: Source,
        reply: Reply<'_>,
        invite: Message,
        binding: BindingId,
    ) {
        if let Err(stop) = forward::check(&invite, &self.core.settings.own_addresses()) {
            return self.refuse_call(now, reply, &invite, stop.status());
        }
        if self.is_refused_at_end(now, binding, &invite) {
            return self.refuse_call_at_end(now, &source, &invite, binding);
        }
        let callees = self.callees(binding);
        if self.has_overtaken(binding, &callees) {
            return self.defer_overtaking(now, source, reply, invite, binding);
        }
        let admitted = match self.admit(now, &invite, binding, callees) {
            Ok(admitted) => admitted,
            Err(status) => return self.refuse_call(now, reply, &invite, status),
        };
        let Ok(server) = self.core.transactions.open(&invite, reply, ServerOwner::Call(admitted.call)) else {
            return self.busy(reply, &invite);
        };
        self.answer_trying(now, server, &invite);
        self.take_call(now, source, server, invite, binding, admitted);
    }

    /// The devices that an INVITE for a binding may be for.
    pub(super) fn callees(&self, binding: BindingId) -> Vec<InstanceId> {
        let mut callees = self.callable_instances(binding);
        callees.extend(self.push_bindings.instance_of(binding));
        callees
    }

    pub(super) fn answer_trying(&mut self, now: Instant, server: ServerId, invite: &Message) {
        let trying = Composer::response(invite, 100, Composer::reason(100), None).finish();
        self.core.transactions.respond(now, server, 100, trying);
    }

    /// The call that an INVITE begins, and its devices; else the status that refuses it.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        invite: &Message,
        binding: BindingId,
        callees: Vec<InstanceId>,
    ) -> Result<Admitted, u16> {
        let mark = InviteMark::of(invite);
        // As long as the network may keep a message (RFC 3261 §17.1.1.1).
        let late = self.core.settings.timing.transaction.t4;
        let (transactions, successors) = (&self.core.transactions, &self.successors);
        let is_acknowledged = |server| transactions.is_acknowledged(server);
        if self.calls.is_merged(now, (binding, &callees), mark, late, is_acknowledged, |it| successors.current(it)) {
            return Err(482);
        }
        let (caller, key) = self.caller_of(invite);
        let expected = self.expected_for(now, binding, key).map(|call| (call.id(), call.state()));
        if let Some((declined, CallState::Declined)) = expected {
            self.calls.forget_expected(binding, declined);
            return Err(603);
        }
        let ((instances, refused), status) = self.callable(now, binding, callees, key);
        let call = expected.map_or_else(|| CallId::new(self.core.random.wide(), binding.tag()), |(call, _)| call);
        if instances.is_empty() {
            self.tell_refused(now, call, &refused, invite, &caller, key);
            return Err(status);
        }
        Ok(Admitted { call, instances, refused, caller, key, mark, valid_until: valid_until(now, invite) })
    }

    /// The caller of an INVITE, and the key by which it is counted.
    pub(in crate::endpoint) fn caller_of(&self, invite: &Message) -> (Caller, CallerKey) {
        let caller = caller::caller(invite);
        let key = self.devices.caller_key(&caller::counted_caller(invite, &caller));
        (caller, key)
    }

    /// Tells the shell of a call that these devices do not get, because they have had too many: few of each caller.
    pub(super) fn tell_refused(
        &mut self,
        now: Instant,
        call: CallId,
        instances: &[InstanceId],
        invite: &Message,
        caller: &Caller,
        key: CallerKey,
    ) {
        let (mark, replaces) = (Some(InviteMark::of(invite)), Replaces::of(invite));
        for instance in instances.iter().copied().filter(|it| self.devices.spend_told(now, *it, key)) {
            let ((from, name), caller, wait, valid) = (caller.clone(), key, Duration::ZERO, None);
            let call = IncomingCall { call, instance, from, name, caller, mark, replaces, arrived: now, wait, valid };
            self.core.event(Event::Refused(Box::new(call)));
        }
    }

    pub(super) fn tell_of_refusal(&mut self, now: Instant, call: Box<IncomingCall>) {
        if self.devices.spend_told(now, call.instance, call.caller) {
            self.core.event(Event::Refused(call));
        }
    }

    /// Begins a call whose INVITE was answered 100.
    pub(super) fn take_call(
        &mut self,
        now: Instant,
        source: Source,
        server: ServerId,
        invite: Message,
        binding: BindingId,
        Admitted { call, instances, refused, caller, key, mark, valid_until }: Admitted,
    ) {
        self.forget_missed((binding, key), [&instances, &refused]);
        self.end_stale(now, binding, key);
        let timing = self.core.settings.timing.edge;
        let invite = Invite::new(now, timing, server, source, (invite, mark, valid_until), self.core.random.tag());
        let wait = invite.limit(now + self.core.settings.ring_timeout).saturating_duration_since(now);
        self.core.later(now, wait.min(timing.provisional_interval), Timer::Call(call));
        let announced =
            self.calls.arrive(now, call, binding, &instances, Arrival { invite, caller, key, timing, wait });
        if let Some(row) = self.calls.get_mut(call) {
            row.limit(key, refused);
        }
        match announced {
            Some(announced) => self.begin_announced(now, call, &instances, &announced),
            None => self.begin(now, call, &instances),
        }
    }

    /// Forks a call to those of its devices that are attached, and wakes the others.
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

    /// The `instances` of a binding that may get one more call by this caller, and those that have had too many, with the status that says so; an
    /// instance that was woken for the call before has already consumed its budget.
    fn callable(
        &mut self,
        now: Instant,
        binding: BindingId,
        instances: Vec<InstanceId>,
        caller: CallerKey,
    ) -> ((Vec<InstanceId>, Vec<InstanceId>), u16) {
        let mut status = 480;
        let expected = self.expected_for(now, binding, caller).map(Call::id);
        let may_get = |instance: &InstanceId| {
            let busy = self.calls.is_busy(*instance, caller);
            status = if busy { 486 } else { status };
            let paid = expected.and_then(|call| self.calls.get(call)).is_some_and(|call| call.has_woken(*instance));
            let wakes = !self.attachments.is_attached(*instance);
            !busy && (paid || self.devices.spend_call(now, *instance, caller, wakes))
        };
        (instances.into_iter().partition(may_get), status)
    }

    /// The INVITE of an announced call has come: its devices were woken, and may be there already.
    fn begin_announced(&mut self, now: Instant, call: CallId, instances: &[InstanceId], announced: &Announced) {
        let (mut forked, mut full_time) = (false, false);
        for instance in instances.iter().copied() {
            let woken = announced.woken.contains(&instance);
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
            // A device that comes later than its push said finds nothing.
            let wait = announced.until.saturating_duration_since(now);
            if let Some(row) = self.calls.get_mut(call) {
                row.wait_until(announced.until);
            }
            self.core.later(now, wait, Timer::Call(call));
        }
        for instance in announced.rang.iter().copied() {
            self.on_ring(now, call, instance);
        }
        // A device that is not called any more (its app has come to the foreground) stops ringing.
        for instance in announced.woken.iter().copied().filter(|woken| !instances.contains(woken)) {
            self.core.event(Event::Call { call, instance, state: CallState::TimedOut, woke_after: None });
        }
    }

    /// Forks every call that waits for this instance to the flow that it has come by; it has come for those that are expected.
    pub(in crate::endpoint) fn fork_waiting(&mut self, now: Instant, instance: InstanceId) {
        self.note_expected_come(now, instance);
        for call in self.calls.waiting_for(instance) {
            self.follow(call, instance);
            self.fork_to(now, call, instance);
        }
    }

    /// Moves what a device has left unanswered on its earlier flows to its present one.
    fn follow(&mut self, call: CallId, instance: InstanceId) {
        let (Some(row), Some(attached)) = (self.calls.get_mut(call), self.attachments.get(instance)) else { return };
        let flow = attached.flow;
        for branch in row.on_flow_found(instance, flow) {
            self.core.transactions.follow(branch, flow);
            self.note_forwarded(flow, instance, branch);
        }
    }

    /// Forks a call to a device's flow; whether the device is attached.
    fn fork_to(&mut self, now: Instant, call: CallId, instance: InstanceId) -> bool {
        let branch = self.core.branch();
        let Some(row) = self.calls.get_mut(call) else { return false };
        let Some(attached) = self.attachments.get(instance) else { return false };
        let wanted = row.wants(instance, attached.flow);
        let Some(invite) = row.invite().filter(|_| wanted) else { return true };
        let (device, upstream) = (
            self.core.settings.sent_by(Side::Device, attached.transport),
            self.core.settings.sent_by(Side::Upstream, invite.source.transport),
        );
        let token = FlowToken { instance, upstream: invite.source.flow };
        let token = forward::token_for(&invite.message, &self.core.token_key, Side::Upstream, &token);
        let edit = forward::name_call(forward::forward_request(&invite.message, device, branch), call);
        // A request that came back by our Path names its device itself (RFC 8599 §5.6.2).
        let edit = if self.push_bindings.knows(instance) {
            edit
        } else {
            edit.request_uri(Uri::request_uri_of(&attached.contact.uri))
        };
        let bytes = forward::record_route(edit, &token, device, upstream).finish();
        let flow = attached.flow;
        if self.core.transactions.send(now, branch, Method::Invite, bytes, flow, ClientOwner::Leg(call)).is_err() {
            return true;
        }
        self.core.transactions.expect_late(branch, instance);
        let unheard = row.forked(branch, instance, flow);
        row.wait_for_sign(now, self.core.settings.ring_timeout + self.core.settings.answer_timeout);
        let woke_after = row.note_attached(now, instance);
        let state = row.state_of(instance).unwrap_or(CallState::Waking);
        self.note_forwarded(flow, instance, branch);
        self.cancel_surplus_legs(now, unheard);
        if woke_after.is_some() {
            self.core.event(Event::Call { call, instance, state, woke_after });
        }
        true
    }

    /// Wakes a device for a call whose push its budget has borne.
    fn wake(&mut self, now: Instant, call: CallId, instance: InstanceId) {
        if self.calls.get_mut(call).is_some_and(|row| row.wake(instance)) {
            self.tell(now, call, instance, Event::Wake);
        }
    }

    /// Wakes a device that seemed to be there when the call came; where it has been woken too often it is called no more.
    pub(super) fn wake_after_all(&mut self, now: Instant, call: CallId, instance: InstanceId) {
        if !self.calls.get_mut(call).is_some_and(|row| row.wake(instance)) {
            return;
        }
        if self.devices.spend_wake(now, instance) {
            self.tell(now, call, instance, Event::Wake);
        } else {
            self.on_device_unreachable(now, call, instance);
        }
    }

    fn tell(&mut self, now: Instant, call: CallId, instance: InstanceId, event: fn(Box<IncomingCall>) -> Event) {
        if let Some(row) = self.calls.get(call) {
            let incoming = Box::new(row.describe(now, instance));
            self.core.event(event(incoming));
        }
    }

    /// Tells the shell how a call stands for those devices for which that has changed.
    pub(super) fn tell_changes(&mut self, call: CallId) {
        let Some(row) = self.calls.get_mut(call) else { return };
        let (refusals, changes) = (row.take_refusals(), row.take_changes());
        for (instance, status) in refusals {
            self.core.event(Event::DeviceRefused { call, instance, status });
        }
        for (instance, state) in changes {
            self.core.event(Event::Call { call, instance, state, woke_after: None });
        }
    }
}
