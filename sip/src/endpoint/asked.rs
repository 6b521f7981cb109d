//! Unanswered requests of devices, and the flows by which their answers go (RFC 3261 §18.2.2, RFC 5626 §5.3).
//!
//! | the flow of a device's request | the answer goes |
//! | --- | --- |
//! | is open | by that flow |
//! | is open, and the device has proved itself by another one since | by both: nobody can tell whether the earlier one is dead |
//! | has ended, and the device has another one | by the other one |
//! | has ended, and the device has none | by the next one, within [`EdgeTiming::parked`](crate::timing::EdgeTiming::parked); later by none |
//!
//! An INVITE that begins a call is cancelled when its device has had no flow for [`EdgeTiming::first_sign`](crate::timing::EdgeTiming::first_sign): a client
//! that closes one connection before it opens the next is back by then, and otherwise the callee must not ring for nobody. A call to an emergency service (RFC
//! 5031) is cancelled only when its device has been away for [`EdgeTiming::parked`](crate::timing::EdgeTiming::parked). If the call is answered all the same
//! and the device does not come back, the relay ends it with ACK and BYE.
//!
//! Invariant: an answer goes only by the flow of its request, and by flows on which the device has proved itself. At most the latest [`ASKED_PER_FLOW`]
//! requests of a flow, and of a device without one, are remembered.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::core::Timer;
use super::dialogs::HeaderEdits;
use super::outgoing::is_emergency;
use super::{ClientOwner, Endpoint, Side};
use crate::edge::forward;
use crate::id::{BranchId, FlowId, InstanceId};
use crate::message::{Limits, Message, Method};
use crate::transaction::ServerId;

/// Requests that are remembered for one flow of devices, and for a device without one. The answer to an earlier request goes by its own flow alone, and an
/// earlier INVITE rings on when that flow ends.
pub(super) const ASKED_PER_FLOW: usize = 64;

/// A request of a device.
#[derive(Clone, Copy, Debug)]
struct Asked {
    instance: InstanceId,
    server: ServerId,
    /// The INVITE that was forwarded, if the request begins a call.
    placed: Option<BranchId>,
}

/// A request of a device that has no flow.
#[derive(Debug)]
struct Waiting {
    asked: Asked,
    /// The time at which its INVITE is cancelled. `None`: that has been done.
    cancel_at: Option<Instant>,
    until: Instant,
}

impl Waiting {
    fn due(&self) -> Instant {
        self.cancel_at.map_or(self.until, |at| at.min(self.until))
    }
}

/// The requests of devices that may still be unanswered.
#[derive(Debug, Default)]
pub(super) struct AskedByDevices {
    by: HashMap<FlowId, Vec<Asked>>,
    waiting: HashMap<InstanceId, Vec<Waiting>>,
}

impl AskedByDevices {
    /// The number of devices without a flow that await an answer.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The INVITE of a flow's request was forwarded.
    pub(super) fn note_placed(&mut self, flow: FlowId, server: ServerId, branch: BranchId) {
        let asked = self.by.get_mut(&flow).and_then(|asked| asked.iter_mut().rev().find(|it| it.server == server));
        if let Some(asked) = asked {
            asked.placed = Some(branch);
        }
    }

    /// Passes the unanswered requests of an instance, by its present flow or by one that has ended, to its successor.
    pub(super) fn succeed(&mut self, earlier: InstanceId, successor: InstanceId, flow: Option<FlowId>) {
        let here = flow.and_then(|flow| self.by.get_mut(&flow)).into_iter().flatten();
        here.filter(|it| it.instance == earlier).for_each(|it| it.instance = successor);
        for mut waiting in self.waiting.remove(&earlier).unwrap_or_default() {
            waiting.asked.instance = successor;
            self.waiting.entry(successor).or_default().push(waiting);
        }
    }

    /// Takes the requests of an instance by a flow.
    fn take(&mut self, flow: FlowId, instance: InstanceId) -> Vec<Asked> {
        let Some(asked) = self.by.get_mut(&flow) else { return Vec::new() };
        let (theirs, others): (Vec<_>, Vec<_>) = asked.drain(..).partition(|it| it.instance == instance);
        *asked = others;
        theirs
    }
}

impl Endpoint {
    /// A device has sent a request by a flow, and a transaction was opened for it.
    pub(super) fn note_asked(&mut self, flow: FlowId, instance: InstanceId, server: ServerId) {
        self.remember_asked(flow, Asked { instance, server, placed: None });
    }

    fn remember_asked(&mut self, flow: FlowId, new: Asked) {
        let Self { asked, core, .. } = self;
        let asked = asked.by.entry(flow).or_default();
        if asked.len() >= ASKED_PER_FLOW {
            asked.retain(|it| core.transactions.came_by(it.server).is_some());
        }
        if asked.len() >= ASKED_PER_FLOW {
            asked.remove(0);
        }
        asked.push(new);
    }

    /// A flow of devices has ended: its requests are answered by another one.
    pub(super) fn lose_asked(&mut self, now: Instant, ended: FlowId) {
        let until = now + self.core.settings.timing.edge.parked;
        for asked in self.asked.by.remove(&ended).unwrap_or_default() {
            let Asked { instance, server, placed, .. } = asked;
            let unheard = self.core.transactions.lose_stream(server);
            match self.attachments.dialog_flow(instance).filter(|_| unheard) {
                Some(dialogs) => {
                    self.core.transactions.answer_by(server, dialogs.flow);
                    self.remember_asked(dialogs.flow, asked);
                }
                None => {
                    let may_come_back = unheard && self.devices.knows(instance);
                    let Some(branch) = placed.filter(|_| !may_come_back) else {
                        if may_come_back {
                            let cancel_at = placed.map(|_| now + self.grace_for(server));
                            self.await_flow(now, Waiting { asked, cancel_at, until });
                        }
                        continue;
                    };
                    self.core.transactions.cancel(now, branch, None);
                }
            }
        }
    }

    /// How long a call that a device has placed goes on while the device has no flow.
    fn grace_for(&self, server: ServerId) -> Duration {
        let timing = &self.core.settings.timing.edge;
        let is_emergency = self.core.transactions.asked_by(server).is_some_and(is_emergency);
        if is_emergency { timing.parked } else { timing.first_sign }
    }

    /// An earlier flow of a device has ended, by which answers went as well.
    pub(super) fn end_beside(&mut self, instance: InstanceId, ended: FlowId) {
        let dialogs = self.attachments.dialog_flow(instance).and_then(|dialogs| self.asked.by.get(&dialogs.flow));
        for asked in dialogs.into_iter().flatten().filter(|it| it.instance == instance) {
            self.core.transactions.end_beside(asked.server, ended);
        }
    }

    fn await_flow(&mut self, now: Instant, new: Waiting) {
        let instance = new.asked.instance;
        self.core.later(now, new.due().saturating_duration_since(now), Timer::Asked(instance));
        let Self { asked, core, .. } = self;
        let waiting = asked.waiting.entry(instance).or_default();
        if waiting.len() >= ASKED_PER_FLOW {
            let Waiting { asked, cancel_at, .. } = waiting.remove(0);
            // Without this CANCEL the callee would ring on.
            if let Some(branch) = asked.placed.filter(|_| cancel_at.is_some()) {
                core.transactions.cancel(now, branch, None);
            }
        }
        waiting.push(new);
    }

    /// A device has proved itself by a flow: its requests by `earlier` ones are answered there.
    pub(super) fn answer_asked(
        &mut self,
        instance: InstanceId,
        flow: FlowId,
        earlier: impl IntoIterator<Item = FlowId>,
    ) {
        for Waiting { asked, .. } in self.asked.waiting.remove(&instance).unwrap_or_default() {
            self.core.transactions.answer_by(asked.server, flow);
            self.remember_asked(flow, asked);
        }
        for earlier in earlier {
            for asked in self.asked.take(earlier, instance) {
                self.core.transactions.answer_by_both(asked.server, flow);
                self.remember_asked(flow, asked);
            }
        }
    }

    /// The time for a device to come back for its answers is over.
    pub(super) fn on_asked_due(&mut self, now: Instant, instance: InstanceId) {
        let instance = self.current(instance);
        let waiting = self.asked.waiting.remove(&instance).unwrap_or_default();
        let (due, left): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|it| it.due() <= now);
        if !left.is_empty() {
            self.asked.waiting.insert(instance, left);
        }
        for Waiting { asked, cancel_at, until } in due {
            let Some(branch) = asked.placed else { continue };
            if cancel_at.is_some_and(|at| at <= now) {
                self.core.transactions.cancel(now, branch, None);
            }
            if until > now {
                self.await_flow(now, Waiting { asked, cancel_at: None, until });
                continue;
            }
            if self.core.transactions.is_pending(asked.server) {
                // The request was cancelled, and ends within 64·T1.
                let until = now + self.core.settings.timing.edge.parked;
                self.await_flow(now, Waiting { asked, cancel_at: None, until });
            } else {
                self.hang_up_for(now, asked, branch);
            }
        }
    }

    /// Ends a call of a device that was answered when the device was gone.
    fn hang_up_for(&mut self, now: Instant, asked: Asked, branch: BranchId) {
        let Some(answer) = self.core.transactions.kept_answer(asked.server) else { return };
        let Ok(answer) = Message::parse(answer, &Limits::COMPOSED) else { return };
        let by_server = || self.hop_to_server(self.server_of(asked.instance)?, asked.instance);
        let Some(mut hop) = by_server() else { return };
        // The stream of the INVITE, if it is open.
        if let Some(flow) = self.core.transactions.flow_of(branch)
            && let Some(transport) = self.flows.transport_of(flow)
        {
            (hop.flow, hop.transport) = (flow, transport);
        }
        for method in [Method::Ack, Method::Bye] {
            let Some(request) = forward::of_caller(&answer, method) else { return };
            let own = forward::own_route(&request, &self.core.token_key, Side::Device);
            let edits = HeaderEdits { ours: own.map_or(0, |own| own.values), begun_by: None };
            let branch = self.core.branch();
            let bytes = self.forwarded_bytes(&request, edits, &hop, branch);
            if method == Method::Ack {
                self.core.transactions.pass_ack(now, hop.flow, bytes);
            } else {
                // Full: the other side's session timer, or its user, ends the call.
                let _ = self.core.transactions.send(now, branch, method, bytes, hop.flow, ClientOwner::Nobody);
            }
        }
    }
}
