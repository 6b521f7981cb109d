//! In-call messages by a connection on which their device has not proved itself: its earlier connection broke, and the device continues by the next one before
//! it registers there.
//!
//! | the device sends | consequence |
//! | --- | --- |
//! | a request of a dialog, while its REGISTER is under way there, or its account is not lent | it waits. A proof: it is handled as if it had just come; a wrong proof: 403 |
//! | the same, and no REGISTER of a lent account is under way | 407; its credentials prove the device as those of a REGISTER do, for its dialogs alone |
//! | an ACK; a CANCEL of a request that waits, or was forwarded | it waits likewise |
//! | a request that has waited for [`EdgeTiming::unproven`](crate::timing::EdgeTiming::unproven) | 407 if the account is lent, otherwise 403; a CANCEL 481, an ACK nothing |
//! | a final response with the branch of a request to its device, which has no flow now | is accepted; what the other side sends in that dialog goes there, until the device proves itself |
//!
//! A client may REGISTER before it continues (Linphone, JsSIP), or when the next refresh is due (baresip); both work. The branch of a request has 128 random
//! bits, and went to its device alone, by a connection on which that had proved itself.
//!
//! Invariant: only a final response to a request that the device was sent is forwarded from here. Only messages with the token of a dialog, which covers a tag,
//! are kept; their number and size are limited for each flow and in all, and any further one is refused, as if nothing could wait.

use std::collections::HashMap;
use std::time::Instant;

use super::attachments::DialogFlow;
use super::core::Timer;
use super::{ClientOwner, DialogMark, Endpoint, Event, Side, Source};
use crate::edge::admission::{Admission, shows_proof};
use crate::edge::forward;
use crate::id::{FlowId, InstanceId};
use crate::message::{Composer, Message, Method, Name};
use crate::transaction::{Asked, RequestKey, key_of_cancelled_or_acked};

/// Messages that may wait on one flow; a further one is refused, an ACK dropped.
pub const UNPROVEN_PER_FLOW: usize = 16;
/// Their bytes; what is beyond is refused likewise.
pub const UNPROVEN_BYTES_PER_FLOW: usize = 64 * 1024;
/// Messages that may wait for one instance on all flows; a further one is refused likewise. Anybody who was once in a call with the instance knows enough to
/// fill this queue.
pub const UNPROVEN_PER_INSTANCE: usize = 64;
/// INVITEs of one shard whose refusal is remembered until their ACK; the ACK of a further one waits in vain.
pub const REFUSED_MAX: usize = 4_096;
/// Messages that may wait on one shard; a further one is refused likewise.
pub const UNPROVEN_MAX: usize = 4_096;
/// Their bytes; what is beyond is refused likewise.
pub const UNPROVEN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Dialogs that a device may continue by one flow without a proof; requests of the other side in a further one wait.
pub const ANSWERED_PER_FLOW: usize = 16;

/// A message that waits for a proof on a flow.
#[derive(Debug)]
struct UnprovenRequest {
    source: Source,
    instance: InstanceId,
    until: Instant,
    deferred: Deferred,
}

#[derive(Debug)]
enum Deferred {
    Message(Box<Message>),
    /// An INVITE was refused: the ACK with its key is dropped.
    Refused(Box<str>),
}

impl UnprovenRequest {
    fn size(&self) -> usize {
        match &self.deferred {
            Deferred::Message(message) => size_of(message),
            Deferred::Refused(invite) => invite.len(),
        }
    }
}

/// The messages that wait for a proof, and the dialogs that continue without one.
#[derive(Debug, Default)]
pub(super) struct Unproven {
    waiting: HashMap<FlowId, Vec<UnprovenRequest>>,
    /// The number of messages that wait for each instance.
    of: HashMap<InstanceId, usize>,
    count: usize,
    bytes: usize,
    refused: usize,
    /// The flows by which devices have answered in a dialog.
    answered: HashMap<(InstanceId, DialogMark), DialogFlow>,
    /// The same dialogs, by flow.
    answered_by: HashMap<FlowId, Vec<(InstanceId, DialogMark)>>,
}

impl Unproven {
    /// The number of waiting messages and of continued dialogs.
    pub(super) fn len(&self) -> usize {
        self.count + self.refused + self.answered.len()
    }

    /// The flow by which a device has answered in this dialog.
    pub(super) fn dialog_flow(&self, instance: InstanceId, request: &Message) -> Option<DialogFlow> {
        if self.answered.is_empty() {
            return None;
        }
        self.answered.get(&(instance, DialogMark::of(request.call_id()?))).copied()
    }

    /// Whether a message has room.
    fn has_room(&self, flow: FlowId, instance: InstanceId, size: usize) -> bool {
        let waiting = self.waiting.get(&flow).map(|waiting| &waiting[..]).unwrap_or_default();
        let bytes: usize = waiting.iter().map(UnprovenRequest::size).sum();
        waiting.len() < UNPROVEN_PER_FLOW
            && bytes + size <= UNPROVEN_BYTES_PER_FLOW
            && self.of.get(&instance).is_none_or(|count| *count < UNPROVEN_PER_INSTANCE)
            && self.count < UNPROVEN_MAX
            && self.bytes + size <= UNPROVEN_BYTES_MAX
    }

    /// Whether the refusal of an INVITE has room.
    fn has_room_for_refused(&self, flow: FlowId) -> bool {
        self.refused < REFUSED_MAX && self.waiting.get(&flow).is_none_or(|waiting| waiting.len() < UNPROVEN_PER_FLOW)
    }

    fn add(&mut self, new: UnprovenRequest) {
        match &new.deferred {
            Deferred::Message(_) => {
                *self.of.entry(new.instance).or_default() += 1;
                self.count += 1;
                self.bytes += new.size();
            }
            Deferred::Refused(_) => self.refused += 1,
        }
        self.waiting.entry(new.source.flow).or_default().push(new);
    }

    fn discount(&mut self, waiting: &UnprovenRequest) {
        match &waiting.deferred {
            Deferred::Message(_) => {
                if let Some(count) = self.of.get_mut(&waiting.instance) {
                    *count -= 1;
                    if *count == 0 {
                        self.of.remove(&waiting.instance);
                    }
                }
                self.count -= 1;
                self.bytes -= waiting.size();
            }
            Deferred::Refused(_) => self.refused -= 1,
        }
    }

    /// Passes the messages that wait for an instance, and its dialogs that go on without a proof, to its successor.
    pub(super) fn succeed(&mut self, earlier: InstanceId, successor: InstanceId) {
        if let Some(count) = self.of.remove(&earlier) {
            *self.of.entry(successor).or_default() += count;
        }
        #[expect(clippy::disallowed_methods, reason = "each is renamed by itself")]
        for waiting in self.waiting.values_mut().flatten().filter(|waiting| waiting.instance == earlier) {
            waiting.instance = successor;
        }
        #[expect(clippy::disallowed_methods, reason = "each is renamed by itself")]
        for (instance, mark) in self.answered_by.values_mut().flatten().filter(|(instance, _)| *instance == earlier) {
            *instance = successor;
            if let Some(flow) = self.answered.remove(&(earlier, *mark)) {
                self.answered.insert((successor, *mark), flow);
            }
        }
    }

    /// Takes some of the messages on a flow, in their order of arrival.
    fn take(&mut self, flow: FlowId, which: impl Fn(&UnprovenRequest) -> bool) -> Vec<UnprovenRequest> {
        let Some(waiting) = self.waiting.get_mut(&flow) else { return Vec::new() };
        let (taken, left): (Vec<_>, Vec<_>) = waiting.drain(..).partition(which);
        if left.is_empty() {
            self.waiting.remove(&flow);
        } else {
            *waiting = left;
        }
        taken.iter().for_each(|waiting| self.discount(waiting));
        taken
    }

    /// Whether an INVITE waits on a flow that a CANCEL names.
    fn has_invite(&self, flow: FlowId, cancel: &Message) -> bool {
        let Some(waiting) = self.waiting.get(&flow) else { return false };
        let named = key_of_cancelled_or_acked(cancel, Side::Device);
        let is_its = |waiting: &UnprovenRequest| match &waiting.deferred {
            Deferred::Message(invite) if invite.method() == Some(Method::Invite) => {
                named.as_deref() == Some(RequestKey::of(invite, invite.via().as_ref(), Side::Device).as_str())
            }
            Deferred::Message(_) | Deferred::Refused(_) => false,
        };
        waiting.iter().any(is_its)
    }

    fn forget_flow(&mut self, flow: FlowId) {
        self.take(flow, |_| true);
        for dialog in self.answered_by.remove(&flow).unwrap_or_default() {
            if self.answered.get(&dialog).is_some_and(|dialogs| dialogs.flow == flow) {
                self.answered.remove(&dialog);
            }
        }
    }

    /// A device has proved itself: its dialogs go by the flow of its proof.
    pub(super) fn forget_answered(&mut self, instance: InstanceId) {
        if !self.answered.is_empty() {
            #[expect(clippy::disallowed_methods, reason = "each is judged by itself")]
            self.answered.retain(|(of, _), _| *of != instance);
        }
    }
}

impl Endpoint {
    /// A request of a dialog of this device, by a flow that does not carry its dialogs.
    pub(super) fn on_unproven_request(
        &mut self,
        now: Instant,
        source: Source,
        request: &Message,
        instance: InstanceId,
    ) {
        if !self.may_carry_instance(instance) {
            return self.answer_stranger(&source, request, 403);
        }
        let has_proof = shows_proof(request);
        let judged = has_proof || !self.attachments.is_registering(now, instance, source.flow);
        if judged && !self.carries_instance(instance) {
            // No node is known to own it: a challenge would make its device show a secret in vain.
            self.answer_stranger(&source, request, 403);
        } else if judged && self.is_lent(instance) {
            self.judge_request_proof(now, source, request, instance);
        } else if !self.defer(now, source, instance, request) {
            self.refuse_unproven(now, source, instance, request, 403, &[]);
        }
    }

    /// An ACK of a dialog of this device, by such a flow.
    pub(super) fn on_unproven_ack(&mut self, now: Instant, source: Source, ack: &Message, instance: InstanceId) {
        let named = key_of_cancelled_or_acked(ack, source.side);
        let is_refused = |waiting: &UnprovenRequest| match &waiting.deferred {
            Deferred::Refused(invite) => named.as_deref() == Some(invite),
            Deferred::Message(_) => false,
        };
        let refused = self.unproven.take(source.flow, is_refused);
        if source.side == Side::Device && refused.is_empty() && self.may_carry_instance(instance) {
            self.defer(now, source, instance, ack);
        }
    }

    /// A CANCEL for a request that its flow may not cancel. Returns whether it waits for the proof of its device.
    pub(super) fn defer_cancel(&mut self, now: Instant, source: &Source, cancel: &Message, is_forwarded: bool) -> bool {
        if source.side != Side::Device || !is_forwarded && !self.unproven.has_invite(source.flow, cancel) {
            return false;
        }
        let Some(own) = forward::own_route(cancel, &self.core.token_key, Side::Device) else { return false };
        let instance = self.current(own.token.instance);
        self.may_carry_instance(instance) && self.defer(now, *source, instance, cancel)
    }

    /// Whether a device without a flow answers by one on which it has not proved itself, with the branch of a request that was sent to it alone.
    pub(super) fn is_answered_elsewhere(
        &self,
        source: &Source,
        asked: &Asked<ClientOwner>,
        response: &Message,
    ) -> bool {
        let is_away = |instance| self.attachments.dialog_flow(instance).is_none();
        source.side == Side::Device && response.status() >= Some(200) && self.device_asked(asked).is_some_and(is_away)
    }

    /// A response came by another flow than that of its request. If its device has not proved itself there, the dialog that it confirms continues by that
    /// flow.
    pub(super) fn note_answered(&mut self, source: &Source, asked: &Asked<ClientOwner>, response: &Message) {
        let is_accepted = response.status().is_some_and(|status| (200..300).contains(&status));
        let (Some(instance), Some(call_id)) = (self.device_asked(asked), response.call_id()) else { return };
        if source.side != Side::Device || self.attachments.carries_dialogs(instance, source) {
            return;
        }
        // So that its end is heard of.
        self.attachments.note_flow(source.flow);
        let dialog = (instance, DialogMark::of(call_id));
        let dialogs = self.unproven.answered_by.entry(source.flow).or_default();
        let is_known = dialogs.contains(&dialog);
        if is_accepted && (is_known || dialogs.len() < ANSWERED_PER_FLOW) {
            if !is_known {
                dialogs.push(dialog);
            }
            let Source { flow, transport, .. } = *source;
            self.unproven.answered.insert(dialog, DialogFlow { flow, transport });
            // No other device got that branch: the connection belongs to the call's device.
            self.core.event(Event::FlowProven(flow));
        }
    }

    /// The device that a request was sent to, in a call or for one.
    fn device_asked(&self, asked: &Asked<ClientOwner>) -> Option<InstanceId> {
        let asked = match asked.owner {
            ClientOwner::Leg(call) => self.calls.get(call)?.instance_of(asked.branch()),
            ClientOwner::Forwarded(server, None) => self.dialogs.device_of(server),
            _ => None,
        };
        asked.map(|instance| self.current(instance))
    }

    /// A device has proved itself by a flow: its earlier messages by that flow are handled.
    pub(super) fn release_unproven(&mut self, now: Instant, instance: InstanceId, flow: FlowId) {
        self.unproven.forget_answered(instance);
        for UnprovenRequest { source, deferred, .. } in self.unproven.take(flow, |waiting| waiting.instance == instance)
        {
            if let Deferred::Message(message) = deferred {
                self.judge_request(now, source, *message);
            }
        }
    }

    /// A device has failed to prove itself by a flow.
    pub(super) fn refuse_all_unproven(&mut self, now: Instant, instance: InstanceId, flow: FlowId, status: u16) {
        for UnprovenRequest { source, deferred, .. } in self.unproven.take(flow, |waiting| waiting.instance == instance)
        {
            if let Deferred::Message(message) = deferred {
                self.refuse_unproven(now, source, instance, &message, status, &[]);
            }
        }
    }

    pub(super) fn on_unproven_due(&mut self, now: Instant, flow: FlowId) {
        for UnprovenRequest { source, instance, deferred, .. } in
            self.unproven.take(flow, |waiting| waiting.until <= now)
        {
            let Deferred::Message(message) = deferred else { continue };
            if self.is_lent(instance) {
                let challenges = self.attachments.challenges_of(now, &message, source.flow);
                self.refuse_unproven(now, source, instance, &message, 407, &challenges);
            } else {
                self.refuse_unproven(now, source, instance, &message, 403, &[]);
            }
        }
    }

    /// A flow has ended: senders by it cannot be answered any more.
    pub(super) fn forget_unproven(&mut self, flow: FlowId) {
        self.unproven.forget_flow(flow);
    }

    /// Whether this relay knows the secret of a device, or another node is known to.
    pub(super) fn is_lent(&self, instance: InstanceId) -> bool {
        self.carries_instance(instance) && !self.push_bindings.knows(instance)
    }

    fn judge_request_proof(&mut self, now: Instant, source: Source, request: &Message, instance: InstanceId) {
        let own = self.core.settings.own_addresses();
        match self.attachments.judge_request(now, request, instance, source.flow, &own) {
            None => self.refuse_unproven(now, source, instance, request, 403, &[]),
            Some(Admission::Challenge { challenges }) => {
                self.refuse_unproven(now, source, instance, request, 407, &challenges);
            }
            Some(Admission::Verify(_)) if !self.defer(now, source, instance, request) => {
                self.refuse_unproven(now, source, instance, request, 403, &[]);
            }
            Some(Admission::Verify(proof)) => self.verify_by_request(source, request, instance, proof),
            Some(refused) => {
                let status = if matches!(refused, Admission::OtherResource) { 400 } else { 403 };
                self.refuse_unproven(now, source, instance, request, status, &[]);
                self.count_failure(source.flow);
            }
        }
    }

    /// Keeps a message until its device has proved itself. Returns whether there was room.
    fn defer(&mut self, now: Instant, source: Source, instance: InstanceId, message: &Message) -> bool {
        let has_room = self.unproven.has_room(source.flow, instance, size_of(message));
        if has_room {
            // The bytes are copied, because they may be part of a larger buffer.
            let bytes = bytes::Bytes::copy_from_slice(&message.to_bytes());
            let Ok(message) = Message::parse(&bytes, &crate::message::Limits::COMPOSED) else { return false };
            self.add_unproven(now, source, instance, Deferred::Message(Box::new(message)));
        }
        has_room
    }

    fn add_unproven(&mut self, now: Instant, source: Source, instance: InstanceId, deferred: Deferred) {
        let wait = self.core.settings.timing.edge.unproven;
        // So that its end is heard of.
        self.attachments.note_flow(source.flow);
        self.core.later(now, wait, Timer::Unproven(Box::new(source.flow)));
        self.unproven.add(UnprovenRequest { source, instance, until: now + wait, deferred });
    }

    /// Answers a request whose device has not proved itself, without a transaction (RFC 3261 §8.2.7); an ACK is none.
    fn refuse_unproven(
        &mut self,
        now: Instant,
        source: Source,
        instance: InstanceId,
        request: &Message,
        status: u16,
        challenges: &[String],
    ) {
        let status = match request.method() {
            Some(Method::Ack) => return,
            // A CANCEL is not challenged (RFC 3261 §22.1), and its request has been refused.
            Some(Method::Cancel) => 481,
            _ => status,
        };
        let tag = self.stateless_tag(request);
        let response = Composer::response(request, status, Composer::reason(status), Some(&tag));
        let response = challenges
            .iter()
            .filter(|_| status == 407)
            .fold(response, |response, value| response.header(Name::ProxyAuthenticate, value));
        self.core.send(source.flow, response.finish());
        if request.method() == Some(Method::Invite) && self.unproven.has_room_for_refused(source.flow) {
            let key = RequestKey::of(request, request.via().as_ref(), source.side);
            self.add_unproven(now, source, instance, Deferred::Refused(key.as_str().into()));
        }
    }
}

fn size_of(message: &Message) -> usize {
    message.head().len() + message.body().len()
}
