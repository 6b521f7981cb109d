//! The flows that devices have left for later ones, as long as the later one is open.
//!
//! A device is attached by its latest flow alone. When that one ends, the flows that the device has left are closed. So a device that is still connected by one
//! of them, such as a phone that has tried another network, registers again, and is not unreachable for the rest of the time that it was granted there.
//!
//! Invariant: a flow that another device is attached by, or has its dialogs by, is not closed. At most [`LEFT_MAX`] are known of a device.

use std::collections::HashMap;

use super::{Endpoint, Output};
use crate::id::{FlowId, InstanceId};

/// Flows of one device; of more the oldest is forgotten, and stays open.
const LEFT_MAX: usize = 4;

/// The flows that each device has left.
#[derive(Debug, Default)]
pub(super) struct LeftFlows(HashMap<InstanceId, Vec<FlowId>>);

impl LeftFlows {
    /// A device is by `flow` from now on, and has left `earlier`.
    pub(super) fn note(&mut self, instance: InstanceId, earlier: FlowId, flow: FlowId) {
        let left = self.0.entry(instance).or_default();
        left.retain(|known| *known != flow && *known != earlier);
        if left.len() >= LEFT_MAX {
            left.remove(0);
        }
        left.push(earlier);
    }

    /// A flow has ended that has carried a device.
    pub(super) fn forget(&mut self, instance: InstanceId, ended: FlowId) {
        let Some(left) = self.0.get_mut(&instance) else { return };
        left.retain(|known| *known != ended);
        if left.is_empty() {
            self.0.remove(&instance);
        }
    }

    /// The flows of a device that is by none any more.
    pub(super) fn take(&mut self, instance: InstanceId) -> Vec<FlowId> {
        self.0.remove(&instance).unwrap_or_default()
    }
}

impl Endpoint {
    /// Closes those of the flows that only this device was by.
    pub(super) fn close_left(&mut self, instance: InstanceId, left: Vec<FlowId>) {
        for flow in left {
            let is_alone = self.attachments.carried_by(flow, instance) == 0 && !self.attachments.has_gone(flow);
            if is_alone && self.attachments.carries(flow, instance) {
                self.core.flush();
                self.core.outputs.push_back(Output::Close(flow));
            }
        }
    }
}
