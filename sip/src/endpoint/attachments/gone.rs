//! Devices that are not served any more, and the flows by which their dialogs may still be hung up.
//!
//! Invariant: each belongs to an open flow ([`DeviceFlow::gone`](super::DeviceFlow)). A flow has at most [`INSTANCES_PER_FLOW`]; beyond that the oldest is
//! dropped.

use std::time::Instant;

use super::{Attachments, DialogFlow, INSTANCES_PER_FLOW};
use crate::endpoint::{Endpoint, Event, Timer};
use crate::id::{BranchId, FlowId, InstanceId};

/// The remaining state of a device that is known no more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone {
    pub(super) dialogs: DialogFlow,
    /// When its registration, or its predecessor's, would have ended; `None`: it was not wiped, or was detached, and its flow's end is awaited.
    pub(super) until: Option<Instant>,
}

impl Attachments {
    /// Whether a device is known no more, and what is left of it has a flow.
    pub(in crate::endpoint) fn is_gone(&self, instance: InstanceId) -> bool {
        self.gone.contains_key(&instance)
    }

    /// Whether the dialogs of any device that is known no more go by a flow.
    pub(in crate::endpoint) fn has_gone(&self, flow: FlowId) -> bool {
        self.flows.get(&flow).is_some_and(|state| !state.gone.is_empty())
    }

    /// Whether what is left of a wiped device goes at this moment.
    pub(in crate::endpoint) fn is_gone_until(&self, instance: InstanceId, at: Instant) -> bool {
        self.gone.get(&instance).is_some_and(|it| it.until == Some(at))
    }

    /// Retires a device that is known no more: its Contact goes, and its places on the flows that it was by. Returns the requests that were forwarded to
    /// it there, and the device whose remaining state gives way.
    fn retire(&mut self, instance: InstanceId, is_wiped: bool) -> (Vec<BranchId>, Option<InstanceId>) {
        self.left_both.forget(instance);
        let dialogs = self.dialog_flow(instance);
        let attached = self.attached.remove(&instance);
        let detached = self.detached.remove(&instance);
        let (by, of_dialogs) = (attached.as_ref().map(|it| it.flow), detached.map(|it| it.dialogs.flow));
        let mut forwarded = Vec::new();
        for flow in by.into_iter().chain(of_dialogs.filter(|flow| by != Some(*flow))) {
            forwarded.extend(self.forwarded_to(instance, flow));
            if let Some(state) = self.flows.get_mut(&flow) {
                state.instances.retain(|it| it.instance != instance);
            }
        }
        let dialogs = dialogs.filter(|_| attached.is_some() || detached.is_some());
        let mut oldest = None;
        if dialogs.is_some() {
            self.forget_gone(instance);
        }
        if let Some((dialogs, state)) = dialogs.and_then(|it| Some((it, self.flows.get_mut(&it.flow)?))) {
            oldest = state.gone.first().copied().filter(|_| state.gone.len() >= INSTANCES_PER_FLOW);
            state.gone.push(instance);
            let until = attached.map(|it| it.expires_at).or(detached.and_then(|it| it.until)).filter(|_| is_wiped);
            self.gone.insert(instance, Gone { dialogs, until });
        }
        (forwarded, oldest)
    }

    /// Forgets the remaining state of a wiped device.
    fn forget_gone(&mut self, instance: InstanceId) {
        let Some(Gone { dialogs, .. }) = self.gone.remove(&instance) else { return };
        if let Some(state) = self.flows.get_mut(&dialogs.flow) {
            state.gone.retain(|it| *it != instance);
        }
    }
}

impl Endpoint {
    /// A device is known no more, and has left its calls: it is by no flow any more. Requests that it was sent there are not sent again.
    pub(in crate::endpoint) fn retire(&mut self, now: Instant, instance: InstanceId, is_wiped: bool) {
        self.left_flows.take(instance);
        let was_attached = self.attachments.is_attached(instance);
        let (forwarded, oldest) = self.attachments.retire(instance, is_wiped);
        for branch in forwarded {
            self.core.transactions.forget_sent(branch);
        }
        if let Some(oldest) = oldest {
            self.forget_gone(now, oldest);
        }
        if was_attached {
            self.core.event(Event::Detached(instance));
        }
        if let Some(until) = self.attachments.attached_until(instance) {
            self.core.timers.set(until, Timer::Device(instance));
        }
    }

    /// Forgets the remaining state of a device that was known no more.
    pub(super) fn forget_gone(&mut self, now: Instant, instance: InstanceId) {
        self.attachments.forget_gone(instance);
        self.leave_kept(now, instance);
    }
}
