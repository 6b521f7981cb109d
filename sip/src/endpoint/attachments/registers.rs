//! REGISTERs of devices at the edge, and the proofs in them and in requests of calls.
//!
//! | a REGISTER | gets |
//! | --- | --- |
//! | names two instances, or shows a proof of another resource | 403, 400 |
//! | names no instance | passes through: see [`on_forwarded_register`](Endpoint::on_forwarded_register) |
//! | shows no proof over a nonce that is still good | 401 |
//! | shows a proof | what the shell finds: 200, or a refusal |
//!
//! Invariant: nothing is done for a proof before the shell has verified it, and each wrong one counts against its flow.

use std::time::{Duration, Instant};

use super::left_both::OfferedChallenges;
use super::register_order::RegisterOrder;
use super::{Attached, DialogFlow, FAILURES_PER_FLOW, Verification};
use crate::edge::admission::Admission;
use crate::edge::device_contacts::ContactRequest;
use crate::endpoint::core::OfflinePeer;
use crate::endpoint::{EdgeRegister, Endpoint, Event, Output, Proof, ServerOwner, Source, VerificationId};
use crate::id::{FlowId, InstanceId};
use crate::message::{Composer, Message, Name};
use crate::transaction::{Reply, ServerId};

/// The extensions that a device's REGISTER may require: its registrar is the first hop, and knows its flow (RFC 3327, RFC 5626).
const UNDERSTOOD: &[&str] = &["path", "outbound"];

impl Endpoint {
    /// A REGISTER at the edge.
    pub(in crate::endpoint) fn on_device_register(
        &mut self,
        now: Instant,
        source: Source,
        reply: Reply<'_>,
        register: Message,
    ) {
        self.attachments.note_client(source.flow, &register);
        let from = register.from().and_then(|from| from.user().and_then(InstanceId::parse));
        let to = register.to().and_then(|to| to.user().and_then(InstanceId::parse));
        let instance = match from {
            Some(instance) if to == Some(instance) => instance,
            Some(_) => return self.refuse_register(now, reply, &register, EdgeRegister::Refused),
            None => return self.on_forwarded_register(now, source, reply, register),
        };
        // RFC 3261 §10.3 step 2: before anything is asked for.
        if self.refuse_extension(now, reply, &register, UNDERSTOOD) {
            return self.core.event(Event::EdgeRegister(EdgeRegister::Refused));
        }
        let own = [&*self.core.settings.edge, &*self.core.settings.edge_websocket];
        self.attachments.make_place(Some(now), source.flow, instance);
        let comes_first = !self.attachments.carries(source.flow, instance);
        let state = self.attachments.flows.entry(source.flow).or_default();
        let Some(carried) = state.carried(instance) else {
            return self.refuse_register(now, reply, &register, EdgeRegister::Limited);
        };
        carried.left_both |= comes_first && self.attachments.left_both.wants_one(instance);
        let (replay, md5_alone) = (&mut carried.replay, carried.left_both);
        let admission = self.attachments.nonces.check(now, &register, instance, source.flow, replay, &own, md5_alone);
        let is_asked = matches!(admission, Admission::Challenge { .. });
        let (before, offered) = (carried.offered, OfferedChallenges::by(is_asked, md5_alone));
        carried.left_both = match before {
            _ if is_asked => !md5_alone,
            OfferedChallenges::None => md5_alone,
            OfferedChallenges::Two | OfferedChallenges::One => before == OfferedChallenges::One,
        };
        carried.offered.follow(offered);
        if self.devices.knows(instance) {
            self.attachments.left_both.note(instance, before, offered);
        }
        carried.registers_until = is_asked.then(|| now + self.core.settings.timing.edge.unproven);
        match admission {
            Admission::Forbidden => self.on_failed_proof(now, source, reply, &register, EdgeRegister::Refused, 403),
            Admission::OtherResource => self.on_failed_proof(now, source, reply, &register, EdgeRegister::Refused, 400),
            Admission::Challenge { challenges } => self.challenge(now, reply, &register, &challenges),
            Admission::Verify(_) if !self.may_carry_instance(instance) => {
                self.deny_unknown(now, source, reply, &register);
            }
            Admission::Verify(proof) => self.verify_device(source, reply, register, instance, proof),
        }
    }

    fn challenge(&mut self, now: Instant, reply: Reply<'_>, register: &Message, challenges: &[String]) {
        self.core.event(Event::EdgeRegister(EdgeRegister::Challenged));
        let tag = self.core.random.tag();
        let response = Composer::response(register, 401, Composer::reason(401), Some(&tag));
        let response =
            challenges.iter().fold(response, |response, value| response.header(Name::WwwAuthenticate, value));
        self.respond_once(now, reply, register, 401, response.finish());
    }

    fn verify_device(
        &mut self,
        source: Source,
        reply: Reply<'_>,
        register: Message,
        instance: InstanceId,
        proof: Proof,
    ) {
        let Ok(server) = self.core.transactions.open(&register, reply, ServerOwner::Nobody) else {
            self.core.event(Event::EdgeRegister(EdgeRegister::Limited));
            return self.busy(reply, &register);
        };
        self.verify(source, instance, Some((server, Box::new(register))), "REGISTER".into(), proof);
    }

    /// A request in a call carries the proof of its device, and waits.
    pub(in crate::endpoint) fn verify_by_request(
        &mut self,
        source: Source,
        request: &Message,
        instance: InstanceId,
        proof: Proof,
    ) {
        let method = request.method_text().unwrap_or_default().into();
        self.verify(source, instance, None, method, proof);
    }

    fn verify(
        &mut self,
        source: Source,
        instance: InstanceId,
        register: Option<(ServerId, Box<Message>)>,
        method: Box<str>,
        proof: Proof,
    ) {
        let verification = VerificationId(self.attachments.next);
        self.attachments.next += 1;
        self.attachments.verifications.insert(verification, Verification { source, instance, register });
        self.core.event(Event::VerifyDevice { verification, instance, method, proof });
    }

    fn refuse_register(&mut self, now: Instant, reply: Reply<'_>, register: &Message, outcome: EdgeRegister) {
        self.core.event(Event::EdgeRegister(outcome));
        self.refuse(now, reply, register, 403);
    }

    fn on_failed_proof(
        &mut self,
        now: Instant,
        source: Source,
        reply: Reply<'_>,
        register: &Message,
        outcome: EdgeRegister,
        status: u16,
    ) {
        self.core.event(Event::EdgeRegister(outcome));
        self.refuse(now, reply, register, status);
        self.count_failure(source.flow);
    }

    pub(in crate::endpoint) fn count_failure(&mut self, flow: FlowId) {
        let Some(state) = self.attachments.flows.get_mut(&flow) else { return };
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES_PER_FLOW {
            self.core.flush();
            self.core.outputs.push_back(Output::Close(flow));
        }
    }

    /// Takes back what was counted against a flow.
    pub(in crate::endpoint) fn forgive_failures(&mut self, flow: FlowId, count: u8) {
        if let Some(state) = self.attachments.flows.get_mut(&flow) {
            state.failures = state.failures.saturating_sub(count);
        }
    }

    /// The shell has verified a proof.
    pub(in crate::endpoint) fn on_device_verified(
        &mut self,
        now: Instant,
        verification: VerificationId,
        granted: bool,
    ) {
        let Some(judged) = self.take_verification(now, verification) else { return };
        if granted && self.is_beyond(judged.instance) {
            return self.answer_unverified(now, judged);
        }
        let Verification { source, instance, register } = judged;
        let granted = granted && self.carries_instance(instance);
        if granted {
            self.core.event(Event::FlowProven(source.flow));
        }
        let Some((server, register)) = register else {
            return self.on_request_verified(now, source, instance, granted);
        };
        let tag = self.core.random.tag();
        if !granted {
            let (status, response) = self.answer_to_wrong_proof(&register);
            self.core.transactions.respond(now, server, status, response);
            self.core.flush();
            self.refuse_all_unproven(now, instance, source.flow, 403);
            return self.count_wrong_proof(source.flow);
        }
        if !self.devices.knows(instance) {
            return self.on_registered_elsewhere(now, source, instance, (server, register));
        }
        if let Err((status, reason)) = self.register_contact(now, instance, &source, &register) {
            let response = Composer::response(&register, status, reason, Some(&tag));
            return self.core.transactions.respond(now, server, status, response.finish());
        }
        let response = Composer::response(&register, 200, Composer::reason(200), Some(&tag));
        let response = response.maybe(Name::Contact, self.contact_line(now, instance));
        self.core.transactions.respond(now, server, 200, response.finish());
        self.core.flush();
        if self.attachments.is_attached(instance) {
            self.send_parked(now, OfflinePeer::Device(instance));
            self.fork_waiting(now, instance);
        } else {
            let Source { flow, transport, .. } = source;
            self.attachments.leave_dialogs(instance, DialogFlow { flow, transport });
            self.answer_asked(instance, flow, None);
        }
        self.release_unproven(now, instance, source.flow);
    }

    /// Does what a proven REGISTER asks for; an error is the status and the reason of its refusal.
    fn register_contact(
        &mut self,
        now: Instant,
        instance: InstanceId,
        source: &Source,
        register: &Message,
    ) -> Result<(), (u16, &'static str)> {
        let asked = ContactRequest::read(register);
        let order = RegisterOrder::of(register);
        if asked != ContactRequest::Query && self.is_overtaken(instance, source.flow, order) {
            return Err((500, "CSeq Out Of Order"));
        }
        match asked {
            ContactRequest::Query => {}
            ContactRequest::Remove(named) => {
                if self.attachments.get(instance).is_some_and(|it| it.contact.is_among(&named)) {
                    self.detach_by(now, instance, source);
                }
            }
            ContactRequest::RemoveAll => self.detach_by(now, instance, source),
            ContactRequest::Bind { contact, expires } => {
                let expires_at = now + Duration::from_secs(u64::from(expires));
                let attached = Attached { flow: source.flow, transport: source.transport, contact, expires_at, order };
                self.attach(now, instance, attached);
            }
            ContactRequest::Malformed => return Err((400, "Invalid Contact")),
        }
        Ok(())
    }

    /// Whether a REGISTER was sent before the one that stands (RFC 3261 §10.3 step 7). Those of different connections are not compared: a client
    /// that has started again may count anew.
    fn is_overtaken(&self, instance: InstanceId, flow: FlowId, order: Option<RegisterOrder>) -> bool {
        let standing = self.attachments.get(instance).filter(|it| it.flow == flow).and_then(|it| it.order);
        order.zip(standing).is_some_and(|(order, standing)| order.is_before(standing))
    }

    /// The Contact that stands (RFC 3261 §10.3 step 8).
    fn contact_line(&self, now: Instant, instance: InstanceId) -> Option<String> {
        let attached = self.attachments.attached.get(&instance)?;
        let left = attached.expires_at.saturating_duration_since(now).as_secs();
        Some(format!("<{}>;expires={left}", attached.contact.uri))
    }
}
