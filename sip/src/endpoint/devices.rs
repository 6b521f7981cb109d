//! Which device is attached by which flow.
//!
//! Invariant: an instance is attached by at most one flow, the latest; a flow that failed to prove anybody
//! [`FAILURES_PER_FLOW`] times is closed; a flow carries at most [`INSTANCES_PER_FLOW`] instances.

use std::time::{Duration, Instant};

use super::parked::OfflinePeer;
use super::{Endpoint, Event, Output, Proof, Source, Timer, VerificationId};
use crate::edge::admission::{Admission, Replay};
use crate::flow::{Side, Transport};
use crate::id::{BindingId, BranchId, FlowId, InstanceId};
use crate::message::{Composer, Message, Name};
use crate::transaction::ServerId;

/// REGISTERs with a wrong proof that one flow may send before it is closed.
pub const FAILURES_PER_FLOW: u8 = 5;
/// Instances that one flow may carry (accounts of one softphone); a further one is answered 403.
pub const INSTANCES_PER_FLOW: usize = 16;
/// Bounds of a device's registration at the edge, and what it gets when it asks for nothing, in seconds.
const EXPIRES: (u32, u32, u32) = (10, 3600, 600);
/// Calls that one device may get at once, and then one more each second; a further one is answered 480, unpushed.
const CALLS_BURST: u8 = 20;
/// MESSAGEs that one device may get at once, and then one more each second; a further one is answered 480.
const MESSAGES_BURST: u8 = 60;
/// NOTIFYs likewise.
const NOTIFIES_BURST: u8 = 20;
/// Forwarded requests remembered for one flow, so that its end fails them at once.
const FORWARDED_PER_FLOW: usize = 64;

/// An instance that this endpoint serves.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) binding: BindingId,
    calls: u8,
    messages: u8,
    notifies: u8,
    refilled: Instant,
    /// Its last challenge has no answer yet.
    challenged: bool,
    /// Its app registers by itself.
    pub(super) foreground: bool,
    /// The SIP server has accepted its credentials.
    pub(super) proven: bool,
}

/// A device that has come.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) flow: FlowId,
    pub(super) transport: Transport,
    /// The URI of its Contact.
    pub(super) contact: Box<str>,
    pub(super) expires_at: Instant,
}

/// What is known of a flow from a device.
#[derive(Debug, Default)]
pub(super) struct DeviceFlow {
    instances: Vec<(InstanceId, Replay)>,
    failures: u8,
    /// Requests forwarded on it that may still be answered, and for which instance.
    pub(super) forwarded: Vec<(InstanceId, BranchId)>,
}

/// A REGISTER whose proof the shell is verifying.
#[derive(Debug)]
pub(super) struct Verification {
    server: ServerId,
    source: Source,
    instance: InstanceId,
    register: Box<Message>,
}

impl Endpoint {
    pub(super) fn add_device(&mut self, now: Instant, instance: InstanceId, binding: BindingId) {
        self.devices.insert(instance, Device::new(now, binding));
    }

    /// The instance is wiped: it leaves its calls; a dialog that stands may still be hung up by the flow that carries it.
    pub(super) fn remove_device(&mut self, now: Instant, instance: InstanceId) {
        if let Some(device) = self.devices.remove(&instance) {
            self.leave_expected(instance, device.binding);
            self.give_up_parked(now, instance, device.binding);
        }
        for call in self.calls_of.get(&instance).cloned().unwrap_or_default() {
            self.leave_call(now, call, instance);
        }
    }

    /// Takes one call from a device's budget; whether there was one.
    pub(super) fn spend_call(&mut self, now: Instant, instance: InstanceId) -> bool {
        self.devices.get_mut(&instance).is_some_and(|device| spend(&mut device.refill(now).calls))
    }

    /// Takes one MESSAGE from a device's budget; whether there was one.
    pub(super) fn spend_message(&mut self, now: Instant, instance: InstanceId) -> bool {
        self.devices.get_mut(&instance).is_some_and(|device| spend(&mut device.refill(now).messages))
    }

    /// Takes one NOTIFY from a device's budget; whether there was one.
    pub(super) fn spend_notify(&mut self, now: Instant, instance: InstanceId) -> bool {
        self.devices.get_mut(&instance).is_some_and(|device| spend(&mut device.refill(now).notifies))
    }

    /// A REGISTER at the edge.
    pub(super) fn on_device_register(&mut self, now: Instant, source: Source, reply: FlowId, register: Message) {
        let from = register.from().and_then(|from| from.uri.user.and_then(InstanceId::parse));
        let to = register.to().and_then(|to| to.uri.user.and_then(InstanceId::parse));
        let instance = match from {
            Some(instance) if to == Some(instance) => instance,
            Some(_) => return self.refuse(now, reply, &register, 403),
            None => return self.on_forwarded_register(now, source, reply, register),
        };
        let state = self.device_flows.entry(source.flow).or_default();
        if state.instances.iter().all(|(known, _)| *known != instance) {
            if state.instances.len() >= INSTANCES_PER_FLOW {
                return self.refuse(now, reply, &register, 403);
            }
            state.instances.push((instance, Replay::default()));
        }
        let Some((_, replay)) = state.instances.iter_mut().find(|(known, _)| *known == instance) else { return };
        let md5_alone = self.devices.get(&instance).is_some_and(|device| device.challenged);
        let own = [&*self.settings.edge, &*self.settings.edge_websocket];
        let admission = self.nonces.check(now, &register, instance, source.flow, replay, &own, md5_alone);
        if let Some(device) = self.devices.get_mut(&instance) {
            device.challenged = matches!(admission, Admission::Challenge { .. });
        }
        match admission {
            Admission::Forbidden => self.on_failed_proof(now, source, reply, &register, 403),
            Admission::OtherResource => self.on_failed_proof(now, source, reply, &register, 400),
            Admission::Challenge { challenges } => self.challenge(now, reply, &register, &challenges),
            Admission::Verify(_) if !self.devices.contains_key(&instance) => {
                self.on_failed_proof(now, source, reply, &register, 403);
            }
            Admission::Verify(proof) => self.verify_device(source, reply, register, instance, proof),
        }
    }

    fn challenge(&mut self, now: Instant, reply: FlowId, register: &Message, challenges: &[String]) {
        let tag = self.random.tag();
        let response = Composer::response(register, 401, Composer::reason(401), Some(&tag));
        let response =
            challenges.iter().fold(response, |response, value| response.header(Name::WwwAuthenticate, value));
        self.respond_once(now, reply, register, 401, response.finish());
    }

    fn verify_device(&mut self, source: Source, reply: FlowId, register: Message, instance: InstanceId, proof: Proof) {
        let Ok(server) = self.transactions.open(&register, reply, super::ServerOwner::Nobody) else {
            return self.busy(reply, &register);
        };
        let verification = VerificationId(self.next_verification);
        self.next_verification += 1;
        self.verifications
            .insert(verification, Verification { server, source, instance, register: Box::new(register) });
        self.event(Event::VerifyDevice { verification, instance, proof });
    }

    fn on_failed_proof(&mut self, now: Instant, source: Source, reply: FlowId, register: &Message, status: u16) {
        self.refuse(now, reply, register, status);
        self.count_failure(source.flow);
    }

    pub(super) fn count_failure(&mut self, flow: FlowId) {
        let state = self.device_flows.entry(flow).or_default();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES_PER_FLOW {
            self.flush();
            self.outputs.push_back(Output::Close(flow));
        }
    }

    /// The shell has verified a proof.
    pub(super) fn on_device_verified(&mut self, now: Instant, verification: VerificationId, granted: bool) {
        let Some(pending) = self.verifications.remove(&verification) else { return };
        let Verification { server, source, instance, register } = pending;
        let tag = self.random.tag();
        if !granted || !self.devices.contains_key(&instance) {
            let response = Composer::response(&register, 403, Composer::reason(403), Some(&tag));
            self.transactions.respond(now, server, 403, response.finish());
            return self.count_failure(source.flow);
        }
        let response = Composer::response(&register, 200, Composer::reason(200), Some(&tag));
        let response = match self.contact_request(&register) {
            ContactRequest::Query => response.maybe(Name::Contact, self.contact_line(now, instance)),
            ContactRequest::Remove => {
                self.detach(now, instance);
                response
            }
            ContactRequest::Bind { contact, expires } => {
                let line = format!("<{contact}>;expires={expires}");
                let expires_at = now + Duration::from_secs(u64::from(expires));
                let attached = Attached { flow: source.flow, transport: source.transport, contact, expires_at };
                self.attach(now, instance, attached);
                response.header(Name::Contact, line)
            }
            ContactRequest::Malformed => {
                let response = Composer::response(&register, 400, "Invalid Contact", Some(&tag));
                return self.transactions.respond(now, server, 400, response.finish());
            }
        };
        self.transactions.respond(now, server, 200, response.finish());
        self.flush();
        self.send_parked(now, OfflinePeer::Device(instance));
        self.fork_waiting(now, instance);
    }

    fn contact_request(&self, register: &Message) -> ContactRequest {
        let header = register.number(Name::Expires);
        let Some(contacts) = register.contacts() else { return ContactRequest::Malformed };
        let Some(contact) = contacts.first() else {
            let star = register.text(Name::Contact) == Some("*");
            return if star && header == Some(0) { ContactRequest::Remove } else { ContactRequest::Query };
        };
        let (min, max, default) = EXPIRES;
        let own = contact.params.value("expires").map(|value| value.parse().unwrap_or(default));
        match own.or(header).unwrap_or(default) {
            0 => ContactRequest::Remove,
            expires => ContactRequest::Bind { contact: contact.uri.text.into(), expires: expires.clamp(min, max) },
        }
    }

    fn contact_line(&self, now: Instant, instance: InstanceId) -> Option<String> {
        let attached = self.attached.get(&instance)?;
        let left = attached.expires_at.saturating_duration_since(now).as_secs();
        Some(format!("<{}>;expires={left}", attached.contact))
    }

    pub(super) fn attach(&mut self, now: Instant, instance: InstanceId, attached: Attached) {
        self.timers.set(attached.expires_at, Timer::Device(instance));
        let flow = attached.flow;
        let earlier = self.attached.insert(instance, attached);
        if earlier.as_ref().is_none_or(|earlier| earlier.flow != flow) {
            if let Some(earlier) = earlier {
                self.lose_legs(now, instance, earlier.flow);
                self.leave_flow(now, instance, earlier.flow);
            }
            self.event(Event::Attached(instance));
        }
    }

    fn detach(&mut self, now: Instant, instance: InstanceId) {
        if let Some(attached) = self.attached.remove(&instance) {
            self.lose_legs(now, instance, attached.flow);
            self.event(Event::Detached(instance));
        }
    }

    pub(super) fn on_device_due(&mut self, now: Instant, instance: InstanceId) {
        if self.attached.get(&instance).is_some_and(|attached| attached.expires_at <= now) {
            self.detach(now, instance);
        }
    }

    /// How many instances a flow carries beside this one.
    pub(super) fn carried_by(&self, flow: FlowId, beside: InstanceId) -> usize {
        let carried = self.device_flows.get(&flow).map(|state| &state.instances[..]).unwrap_or_default();
        carried.iter().filter(|(instance, _)| *instance != beside).count()
    }

    /// Notes that a flow carries this instance; `false` when the flow has ended meanwhile, or is full.
    pub(super) fn device_flow_carries(&mut self, flow: FlowId, instance: InstanceId) -> bool {
        let Some(state) = self.device_flows.get_mut(&flow) else { return false };
        if state.instances.iter().all(|(known, _)| *known != instance) {
            if state.instances.len() >= INSTANCES_PER_FLOW {
                return false;
            }
            state.instances.push((instance, Replay::default()));
        }
        true
    }

    /// A stream has ended, whichever side it led to.
    pub(super) fn on_closed(&mut self, now: Instant, flow: FlowId) {
        self.streams.remove(&flow);
        self.forget_quota(flow);
        if let Some(id) = self.links.remove(&flow)
            && !self.lost_probe(id, flow)
        {
            self.on_link_closed(now, id);
        }
        let Some(state) = self.device_flows.remove(&flow) else { return };
        for (instance, _) in state.instances {
            if self.attached.get(&instance).is_some_and(|attached| attached.flow == flow) {
                self.detach(now, instance);
            }
        }
        for (instance, branch) in state.forwarded {
            self.lose_forwarded(now, instance, branch);
        }
    }

    /// Remembers that a request was forwarded on a device's flow.
    pub(super) fn note_forwarded(&mut self, flow: FlowId, instance: InstanceId, branch: BranchId) {
        if let Some(state) = self.device_flows.get_mut(&flow) {
            if state.forwarded.len() >= FORWARDED_PER_FLOW {
                state.forwarded.remove(0);
            }
            state.forwarded.push((instance, branch));
        }
    }

    /// Answers a double CRLF of a device (RFC 5626 §4.4.1); a SIP server's too.
    pub(super) fn on_ping(&mut self, source: Source) {
        if source.flow.is_reliable() {
            self.send(source.flow, bytes::Bytes::from_static(b"\r\n"));
        }
    }

    /// Whether a flow carries this instance at this moment.
    pub(super) fn is_attached_by(&self, instance: InstanceId, source: &Source) -> bool {
        source.side == Side::Device && self.attached.get(&instance).is_some_and(|attached| attached.flow == source.flow)
    }
}

impl Device {
    fn new(now: Instant, binding: BindingId) -> Self {
        let (calls, messages, notifies) = (CALLS_BURST, MESSAGES_BURST, NOTIFIES_BURST);
        Self { binding, calls, messages, notifies, refilled: now, challenged: false, foreground: false, proven: false }
    }

    /// Adds to each budget what it has earned since.
    fn refill(&mut self, now: Instant) -> &mut Self {
        let earned = now.saturating_duration_since(self.refilled).as_secs();
        if earned > 0 {
            let add = |budget: u8, burst: u8| u64::from(budget).saturating_add(earned).min(u64::from(burst)) as u8;
            self.calls = add(self.calls, CALLS_BURST);
            self.messages = add(self.messages, MESSAGES_BURST);
            self.notifies = add(self.notifies, NOTIFIES_BURST);
            self.refilled = now;
        }
        self
    }
}

/// Takes one; whether there was one.
fn spend(budget: &mut u8) -> bool {
    let granted = *budget > 0;
    *budget = budget.saturating_sub(1);
    granted
}

/// What a REGISTER of a device asks for.
enum ContactRequest {
    /// What is registered.
    Query,
    /// Nothing more.
    Remove,
    /// To be reached at `contact` for `expires` seconds.
    Bind { contact: Box<str>, expires: u32 },
    /// A Contact that is none.
    Malformed,
}
