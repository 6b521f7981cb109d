//! Flow bindings: registrations that passed through and are reached by their flow alone (`edge.flow_domains`; RFC 5626).
//!
//! Invariant: a shard keeps the quota place of each, and nothing else. A flow binding is in no store, list or receipt; it ends with its flow, or with this
//! process.

use std::collections::HashMap;

use sip::endpoint::FlowBinding;
use sip::id::InstanceId;

use super::Shard;
use crate::agent::transport::upstreams::Route;
use crate::limits::holdings::Holding;

/// The quota place of each flow binding.
pub(crate) type FlowBindings = HashMap<InstanceId, Holding>;

impl Shard {
    /// A SIP server has accepted a flow binding, or its refresh.
    pub(crate) fn on_flow_binding(&mut self, accepted: &FlowBinding) {
        let FlowBinding { instance, aor, registrar, proxy, source, flow } = accepted;
        self.keep_alive(*flow);
        if self.flow_bindings.contains_key(instance) {
            return;
        }
        let Ok(route) = Route::through(aor, registrar, proxy.as_deref()) else { return };
        let place = self.shared.quotas.count_registration(&route.server(), Some(*source));
        self.flow_bindings.insert(*instance, place);
        self.shared.metrics.flow_registrations(1);
    }

    /// A flow binding has ended.
    pub(crate) fn on_flow_binding_ended(&mut self, instance: InstanceId) {
        if self.flow_bindings.remove(&instance).is_some() {
            self.shared.metrics.flow_registrations(-1);
        }
    }
}
