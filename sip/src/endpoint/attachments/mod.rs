//! Devices at the edge: which of them is attached by which flow.
//!
//! | room | what it is |
//! | --- | --- |
//! | `registers` | REGISTERs of devices, and their proofs |
//! | `proven` | proofs that the shell has verified, and the dialogs of devices that are not attached |
//! | `register_order` | a REGISTER that another one has overtaken |
//! | `left_both` | a device that answers no challenge with two algorithms |
//! | `copies` | a client that crashes on retransmissions by another connection |
//! | `gone` | devices that are not served any more, and their dialogs |
//!
//! | a device | its flow |
//! | --- | --- |
//! | is attached | carries all that is for it |
//! | is detached: its time is over, the Contact that it is attached with was removed, or its account has ended | carries its dialogs until the flow ends, the account is wiped, or the device proves itself by another one: a dialog does not depend on a registration (RFC 3261 §12, RFC 5626 §5.3) |
//! | is not served any more | carries the BYEs of its dialogs; if its account is wiped, only until its registration would have ended, or that of the predecessor whose flow it has |
//!
//! The end of its flow detaches a device, too. A removal that comes by a flow which the device has left detaches nothing. A device that is not served any more
//! takes no place on its flow. Neither does an instance that has left a challenge unanswered there, or that has another flow by now, once its place is needed.
//!
//! Invariant: an instance is attached by at most one flow, the latest. A flow is closed when it has failed to prove anybody [`FAILURES_PER_FLOW`] times, and
//! carries at most [`INSTANCES_PER_FLOW`] instances. At most one detached device is kept for each instance that an open flow carries.

mod copies;
mod gone;
mod left_both;
mod proven;
mod register_order;
mod registers;

use std::collections::HashMap;
use std::time::Instant;

use self::gone::Gone;
use self::left_both::{LeftBoth, OfferedChallenges};
use self::register_order::RegisterOrder;
use super::{Endpoint, Event, Source, Timer, VerificationId};
use crate::edge::admission::{Admission, Nonces, Replay};
use crate::edge::device_contacts::DeviceContact;
use crate::flow::{Side, Transport};
use crate::id::{BranchId, FlowId, InstanceId};
use crate::message::Message;
use crate::transaction::ServerId;

/// REGISTERs with a wrong proof that one flow may send before it is closed.
pub const FAILURES_PER_FLOW: u8 = 5;
/// Instances that one flow may carry (accounts of one softphone); a further one is answered 403.
pub const INSTANCES_PER_FLOW: usize = 16;
/// Forwarded requests remembered for one flow, so that its end fails them at once, or has them wait; of more those that are answered go, then the
/// oldest.
const FORWARDED_PER_FLOW: usize = 64;

/// The flows of devices, and the devices that are attached by them.
#[derive(Debug)]
pub(super) struct Attachments {
    attached: HashMap<InstanceId, Attached>,
    /// The flows that devices have proved themselves on last without being attached by them.
    detached: HashMap<InstanceId, Detached>,
    /// The state of devices that are known no more and were attached or detached; each stands in [`DeviceFlow::gone`] of its flow.
    gone: HashMap<InstanceId, Gone>,
    flows: HashMap<FlowId, DeviceFlow>,
    nonces: Nonces,
    left_both: LeftBoth,
    verifications: HashMap<VerificationId, Verification>,
    next: u64,
    /// Whether instances may be on their way here.
    pub(super) is_incomplete: bool,
}

/// A device that has come.
#[derive(Debug)]
pub(super) struct Attached {
    pub(super) flow: FlowId,
    pub(super) transport: Transport,
    /// The Contact of the device; empty where its SIP server knows it.
    pub(super) contact: DeviceContact,
    pub(super) expires_at: Instant,
    /// The Call-ID and the CSeq of its REGISTER, where the relay is its registrar.
    pub(super) order: Option<RegisterOrder>,
}

/// The flow that a device's dialogs go by.
#[derive(Clone, Copy, Debug)]
pub(super) struct DialogFlow {
    pub(super) flow: FlowId,
    pub(super) transport: Transport,
}

/// The flow that carries the dialogs of a device which is not attached by it.
#[derive(Clone, Copy, Debug)]
struct Detached {
    dialogs: DialogFlow,
    /// When the registration of its predecessor ends, which came by that flow; `None`: there is none.
    until: Option<Instant>,
}

/// One flow of devices.
#[derive(Debug, Default)]
struct DeviceFlow {
    instances: Vec<Carried>,
    /// Devices that are known no more and whose dialogs go by it, at most [`INSTANCES_PER_FLOW`]; the oldest gives way.
    gone: Vec<InstanceId>,
    failures: u8,
    /// REGISTERs that came before their instance, if there is one.
    early: u8,
    /// Requests forwarded on it that may still be answered, and for which instance.
    forwarded: Vec<(InstanceId, BranchId)>,
    /// A device has left on it what any device answers at once, and nothing has come by it since.
    is_silent: bool,
    /// Its client dies of a retransmission that comes by another connection than the request did.
    is_hurt_by_copies: bool,
}

/// An instance that has named itself on a flow.
#[derive(Debug)]
struct Carried {
    instance: InstanceId,
    replay: Replay,
    /// It is to be offered one algorithm: it may be a client that does not know what to do with two.
    left_both: bool,
    offered: OfferedChallenges,
    /// Whether the device has been attached by this flow; where it is attached by another one, it has left this one.
    has_bound: bool,
    /// The time until which the device, which was asked for its proof, may be about to show it.
    registers_until: Option<Instant>,
}

impl Carried {
    fn new(instance: InstanceId) -> Self {
        let offered = OfferedChallenges::default();
        Self { instance, replay: Replay::default(), left_both: false, offered, has_bound: false, registers_until: None }
    }
}

/// A proof that the shell is verifying.
#[derive(Debug)]
pub(super) struct Verification {
    pub(super) source: Source,
    pub(super) instance: InstanceId,
    /// The REGISTER that carries it; `None`: a request in a call, which waits in [`super::unproven`].
    pub(super) register: Option<(ServerId, Box<Message>)>,
}

impl Attachments {
    /// Nobody is attached. The key makes nonces, which die with the process.
    pub(super) fn new(nonce_key: [u8; 32], now: Instant) -> Self {
        Self {
            attached: HashMap::new(),
            detached: HashMap::new(),
            gone: HashMap::new(),
            flows: HashMap::new(),
            nonces: Nonces::new(nonce_key, now),
            left_both: LeftBoth::default(),
            verifications: HashMap::new(),
            next: 0,
            is_incomplete: false,
        }
    }

    /// How many devices are attached, how many flows are known of devices, for detached and for wiped ones, and how many proofs are being
    /// verified.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (self.attached.len(), self.flows.len() + self.detached.len() + self.gone.len(), self.verifications.len())
    }

    pub(super) fn get(&self, instance: InstanceId) -> Option<&Attached> {
        self.attached.get(&instance)
    }

    pub(super) fn is_attached(&self, instance: InstanceId) -> bool {
        self.attached.contains_key(&instance)
    }

    /// Whether a flow carries this instance at this moment.
    pub(super) fn is_attached_by(&self, instance: InstanceId, source: &Source) -> bool {
        source.side == Side::Device && self.attached.get(&instance).is_some_and(|attached| attached.flow == source.flow)
    }

    /// The flow of a device's dialogs: that by which it has proved itself last.
    pub(super) fn dialog_flow(&self, instance: InstanceId) -> Option<DialogFlow> {
        let attached = || self.get(instance).map(|it| DialogFlow { flow: it.flow, transport: it.transport });
        let gone = || self.gone.get(&instance).map(|it| it.dialogs);
        self.detached.get(&instance).map(|it| it.dialogs).or_else(attached).or_else(gone)
    }

    /// When the registration of a device ends that is attached, or was when it was wiped.
    pub(super) fn attached_until(&self, instance: InstanceId) -> Option<Instant> {
        let gone = || self.gone.get(&instance).and_then(|it| it.until);
        self.get(instance).map(|attached| attached.expires_at).or_else(gone)
    }

    /// Whether what comes by a flow may be of this device's dialogs.
    pub(super) fn carries_dialogs(&self, instance: InstanceId, source: &Source) -> bool {
        source.side == Side::Device && self.dialog_flow(instance).is_some_and(|it| it.flow == source.flow)
    }

    /// Whether a REGISTER of this instance is under way on a flow.
    pub(super) fn is_registering(&self, now: Instant, instance: InstanceId, flow: FlowId) -> bool {
        #[expect(clippy::disallowed_methods, reason = "whether there is any depends on no order")]
        let is_verified = || self.verifications.values().any(|it| it.instance == instance && it.source.flow == flow);
        let carried = self.flows.get(&flow).and_then(|state| state.instances.iter().find(|it| it.instance == instance));
        carried.is_some_and(|it| it.registers_until.is_some_and(|until| now < until) || is_verified())
    }

    /// A REGISTER came by this flow before its instance, if there is one; how many have.
    pub(super) fn note_early(&mut self, flow: FlowId) -> u8 {
        let Some(state) = self.flows.get_mut(&flow) else { return 0 };
        state.early = state.early.saturating_add(1);
        state.early
    }

    /// Judges the proof of a request in a call; `None` when its flow carries as many instances as it may.
    pub(super) fn judge_request(
        &mut self,
        now: Instant,
        request: &Message,
        instance: InstanceId,
        flow: FlowId,
        own: &[&str],
    ) -> Option<Admission> {
        self.note_flow(flow);
        self.make_place(Some(now), flow, instance);
        let carried = self.flows.get_mut(&flow)?.carried(instance)?;
        let (replay, md5_alone) = (&mut carried.replay, carried.left_both);
        Some(self.nonces.check(now, request, instance, flow, replay, own, md5_alone))
    }

    /// The challenges that a request in a call gets.
    pub(super) fn challenges_of(&mut self, now: Instant, request: &Message, flow: FlowId) -> Vec<String> {
        self.nonces.challenges(now, request, flow)
    }

    /// The dialogs of a device that is not attached go by a flow that it has proved itself on, as long as that is open.
    fn leave_dialogs(&mut self, instance: InstanceId, dialogs: DialogFlow) {
        if self.carries(dialogs.flow, instance) {
            let same = self.detached.get(&instance).filter(|it| it.dialogs.flow == dialogs.flow);
            let until = same.and_then(|it| it.until);
            self.detached.insert(instance, Detached { dialogs, until });
        }
    }

    /// The device is wiped: the flow that it is not attached by carries its dialogs no longer than the registration of its predecessor would have lasted.
    pub(super) fn end_dialogs(&mut self, now: Instant, instance: InstanceId) {
        if self.detached.get(&instance).is_some_and(|it| it.until.is_none_or(|until| until <= now)) {
            self.detached.remove(&instance);
        }
    }

    /// The dialogs of a device that is not attached go by no flow any more.
    pub(super) fn forget_dialogs(&mut self, instance: InstanceId) {
        self.detached.remove(&instance);
    }

    /// A device is known by another name from now on: the flow that it has carries its dialogs in that name, and what was sent to it there counts as
    /// sent to that one. That flow, if it has one.
    pub(super) fn hand_over(&mut self, earlier: InstanceId, successor: InstanceId) -> Option<FlowId> {
        let dialogs = self.dialog_flow(earlier)?;
        let attached_until = self.attached.remove(&earlier).map(|it| it.expires_at);
        let until = self.detached.remove(&earlier).and_then(|it| it.until).or(attached_until);
        let state = self.flows.get_mut(&dialogs.flow)?;
        for (of, _) in state.forwarded.iter_mut().filter(|(of, _)| *of == earlier) {
            *of = successor;
        }
        if state.instances.iter().any(|it| it.instance == successor) {
            state.instances.retain(|it| it.instance != earlier);
        } else if let Some(carried) = state.instances.iter_mut().find(|it| it.instance == earlier) {
            carried.instance = successor;
        }
        if self.dialog_flow(successor).is_none() {
            self.leave_dialogs(successor, dialogs);
            if let Some(detached) = self.detached.get_mut(&successor) {
                detached.until = until;
            }
        }
        Some(dialogs.flow)
    }

    /// Remembers a flow, so that its end is heard of.
    pub(super) fn note_flow(&mut self, flow: FlowId) {
        self.flows.entry(flow).or_default();
    }

    /// Whether a flow is a device's.
    pub(super) fn knows_flow(&self, flow: FlowId) -> bool {
        self.flows.contains_key(&flow)
    }

    /// How many instances a flow carries beside this one that give their places up to none.
    pub(super) fn carried_by(&self, flow: FlowId, beside: InstanceId) -> usize {
        let carried = self.flows.get(&flow).map(|state| &state.instances[..]).unwrap_or_default();
        carried.iter().filter(|it| it.instance != beside && self.is_by(it.instance, flow)).count()
    }

    /// Whether a device is attached by a flow, or its dialogs go by it.
    fn is_by(&self, instance: InstanceId, flow: FlowId) -> bool {
        self.get(instance).is_some_and(|attached| attached.flow == flow)
            || self.detached.get(&instance).is_some_and(|it| it.dialogs.flow == flow)
    }

    /// Makes a place on a full flow for this instance, in place of one that is not attached by that flow; an instance that may be about to show its
    /// proof keeps its place, unless `now` is none.
    fn make_place(&mut self, now: Option<Instant>, flow: FlowId, instance: InstanceId) {
        let Some(state) = self.flows.get(&flow).filter(|state| state.instances.len() >= INSTANCES_PER_FLOW) else {
            return;
        };
        if state.instances.iter().any(|it| it.instance == instance) {
            return;
        }
        let may_prove = |it: &Carried| now.is_some_and(|now| it.registers_until.is_some_and(|until| now < until));
        let idle = state.instances.iter().position(|it| !self.is_by(it.instance, flow) && !may_prove(it));
        if let (Some(idle), Some(state)) = (idle, self.flows.get_mut(&flow)) {
            state.instances.remove(idle);
        }
    }

    /// Whether a flow carries this instance.
    pub(super) fn carries(&self, flow: FlowId, instance: InstanceId) -> bool {
        self.flows.get(&flow).is_some_and(|state| state.instances.iter().any(|it| it.instance == instance))
    }

    /// Whether a device was attached by this flow, and is by another one now.
    fn has_left(&self, instance: InstanceId, flow: FlowId) -> bool {
        let carried = self.flows.get(&flow).map(|state| &state.instances[..]).unwrap_or_default();
        self.get(instance).is_some_and(|attached| attached.flow != flow)
            && carried.iter().any(|it| it.instance == instance && it.has_bound)
    }

    /// Notes that a flow carries this instance; `false` when the flow has ended meanwhile, or is full.
    pub(super) fn carry(&mut self, flow: FlowId, instance: InstanceId) -> bool {
        self.make_place(None, flow, instance);
        self.flows.get_mut(&flow).is_some_and(|state| state.carried(instance).is_some())
    }

    /// Bytes came by a flow, so its peer is alive.
    pub(super) fn note_heard(&mut self, flow: FlowId) {
        if let Some(state) = self.flows.get_mut(&flow) {
            state.is_silent = false;
        }
    }

    /// A device has left a request without any response on a flow, although every device answers such a request at once.
    pub(super) fn note_silent(&mut self, flow: FlowId) {
        if let Some(state) = self.flows.get_mut(&flow) {
            state.is_silent = true;
        }
    }

    /// Whether nothing has come by a flow since a device has left something unanswered on it.
    pub(super) fn is_silent(&self, flow: FlowId) -> bool {
        self.flows.get(&flow).is_some_and(|state| state.is_silent)
    }

    /// The instances that are attached by a flow.
    pub(super) fn attached_by(&self, flow: FlowId) -> Vec<InstanceId> {
        let carried = self.flows.get(&flow).map(|state| &state.instances[..]).unwrap_or_default();
        let here = |instance: &InstanceId| self.attached.get(instance).is_some_and(|attached| attached.flow == flow);
        carried.iter().map(|it| it.instance).filter(here).collect()
    }

    /// The requests that were forwarded to an instance by a flow and may still be answered.
    pub(super) fn forwarded_to(&self, instance: InstanceId, flow: FlowId) -> Vec<BranchId> {
        let forwarded = self.flows.get(&flow).map(|state| &state.forwarded[..]).unwrap_or_default();
        forwarded.iter().filter(|(of, _)| *of == instance).map(|(_, branch)| *branch).collect()
    }
}

impl DeviceFlow {
    /// An instance on this flow; `None` when the flow carries as many others as it may.
    fn carried(&mut self, instance: InstanceId) -> Option<&mut Carried> {
        let known = self.instances.iter().position(|it| it.instance == instance);
        if known.is_none() {
            if self.instances.len() >= INSTANCES_PER_FLOW {
                return None;
            }
            self.instances.push(Carried::new(instance));
        }
        let at = known.unwrap_or(self.instances.len() - 1);
        self.instances.get_mut(at)
    }
}

impl Endpoint {
    /// Remembers that a request was forwarded on a device's flow.
    pub(super) fn note_forwarded(&mut self, flow: FlowId, instance: InstanceId, branch: BranchId) {
        let Self { attachments, core, .. } = self;
        let Some(DeviceFlow { forwarded, .. }) = attachments.flows.get_mut(&flow) else { return };
        if forwarded.len() >= FORWARDED_PER_FLOW {
            forwarded.retain(|(_, branch)| core.transactions.progress(*branch).is_some_and(|it| it.1));
        }
        if forwarded.len() >= FORWARDED_PER_FLOW {
            forwarded.remove(0);
        }
        forwarded.push((instance, branch));
    }

    pub(super) fn attach(&mut self, now: Instant, instance: InstanceId, attached: Attached) {
        // A registration that passed through may be there again by the same name.
        self.forget_gone(now, instance);
        if let Some(at) = self.devices.arm(instance, attached.expires_at) {
            self.core.timers.set(at, Timer::Device(instance));
        }
        let flow = attached.flow;
        self.attachments.make_place(None, flow, instance);
        if let Some(carried) = self.attachments.flows.get_mut(&flow).and_then(|state| state.carried(instance)) {
            carried.has_bound = true;
        }
        let detached = self.attachments.detached.remove(&instance).map(|earlier| earlier.dialogs.flow);
        let attached = self.attachments.attached.insert(instance, attached).map(|earlier| earlier.flow);
        for earlier in [detached, attached].into_iter().flatten().filter(|earlier| *earlier != flow) {
            self.leave_legs(now, instance, earlier);
            self.leave_flow(now, instance, earlier);
        }
        if let Some(earlier) = attached.filter(|earlier| *earlier != flow) {
            self.left_flows.note(instance, earlier, flow);
        }
        self.answer_asked(instance, flow, [detached, attached].into_iter().flatten().filter(|it| *it != flow));
        if attached != Some(flow) {
            self.core.event(Event::Attached(instance));
        }
    }

    /// A device is to be detached at its own request, which is not heard by a flow that it has left.
    fn detach_by(&mut self, now: Instant, instance: InstanceId, source: &Source) {
        if !self.attachments.has_left(instance, source.flow) {
            self.detach(now, instance);
        }
    }

    fn detach(&mut self, now: Instant, instance: InstanceId) {
        self.left_flows.take(instance);
        if let Some(attached) = self.attachments.attached.remove(&instance) {
            let Attached { flow, transport, .. } = attached;
            // A later flow that it has proved itself on stays.
            if !self.attachments.detached.contains_key(&instance) {
                self.attachments.leave_dialogs(instance, DialogFlow { flow, transport });
            }
            self.leave_legs(now, instance, flow);
            self.on_flow_lost(now, instance);
            self.core.event(Event::Detached(instance));
        }
    }

    pub(super) fn on_device_due(&mut self, now: Instant, instance: InstanceId) {
        if self.attachments.attached_until(instance).is_some_and(|until| until <= now) {
            self.forget_gone(now, instance);
        }
        if !self.devices.fires(now, instance) {
            return;
        }
        let Some(expires_at) = self.attachments.get(instance).map(|attached| attached.expires_at) else { return };
        // A phone whose registration has run out while it rings may be answered.
        let rings = self.rings_until(instance).filter(|until| *until > now && self.push_bindings.knows(instance));
        let expires_at = if expires_at <= now { rings.unwrap_or(expires_at) } else { expires_at };
        if let Some(attached) = self.attachments.attached.get_mut(&instance) {
            attached.expires_at = expires_at;
        }
        if expires_at <= now {
            self.detach(now, instance);
        } else if let Some(at) = self.devices.arm(instance, expires_at) {
            self.core.timers.set(at, Timer::Device(instance));
        }
    }

    /// A flow of devices has ended.
    pub(super) fn on_device_flow_closed(&mut self, now: Instant, flow: FlowId) {
        let Some(state) = self.attachments.flows.remove(&flow) else { return };
        for instance in state.gone {
            self.forget_gone(now, instance);
        }
        for Carried { instance, .. } in state.instances {
            self.end_beside(instance, flow);
            if self.attachments.get(instance).is_some_and(|attached| attached.flow == flow) {
                let left = self.left_flows.take(instance);
                self.detach(now, instance);
                self.close_left(instance, left);
            } else {
                self.left_flows.forget(instance, flow);
                self.leave_legs(now, instance, flow);
            }
            if self.attachments.detached.get(&instance).is_some_and(|it| it.dialogs.flow == flow) {
                self.attachments.forget_dialogs(instance);
            }
        }
        for (instance, branch) in state.forwarded {
            self.lose_forwarded(now, flow, instance, branch);
        }
    }
}
