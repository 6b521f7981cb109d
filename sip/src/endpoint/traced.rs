//! The instances that a message is about, so that the SIP of one can be recorded with its user's consent.
//!
//! Invariant: nothing here changes any state, and no message is read that is not recorded.

use std::collections::BTreeSet;

use super::{Endpoint, Side};
use crate::edge::{forward, push_proxy};
use crate::id::{BindingId, FlowId, InstanceId};
use crate::message::{Message, Method, Uri};

/// The instances and bindings that a message names.
#[derive(Debug)]
pub struct Named {
    /// Instances that are named by their ids, our Path, or the signed Route of their dialog.
    instances: [Option<InstanceId>; 3],
    /// Bindings that are named by a Contact of this relay's.
    bindings: BTreeSet<BindingId>,
    /// Registrations that pass through, whose device this comes from.
    senders: Vec<InstanceId>,
}

impl Endpoint {
    /// The instances and bindings that a message names; the message is read once, however many instances are recorded. Other messages with the same
    /// Call-ID are about the same instances.
    pub fn named(&self, side: Side, flow: FlowId, message: &Message) -> Named {
        let key = &self.core.token_key;
        let own = [Side::Device, Side::Upstream].into_iter().find_map(|from| forward::own_route(message, key, from));
        let instances = [
            message.from().and_then(|from| from.user().and_then(InstanceId::parse)),
            push_proxy::own_path(key, message).map(|(named, _)| named),
            own.map(|own| self.current(own.token.instance)),
        ];
        let contacts = if message.is_request() { message.contacts() } else { Vec::new() };
        let users = contacts.iter().filter_map(|contact| contact.user());
        let users = message.request_uri().and_then(Uri::user_of).into_iter().chain(users);
        let senders = if side == Side::Device { self.senders(flow, message) } else { Vec::new() };
        Named { instances, bindings: users.filter_map(BindingId::parse).collect(), senders }
    }

    /// What passes through is named by no id: its REGISTERs, by whatever flow they come, by what they are for, and what its device begins by the
    /// flow that it has registered by.
    fn senders(&self, flow: FlowId, request: &Message) -> Vec<InstanceId> {
        if request.method() == Some(Method::Register) {
            let Ok(intent) = push_proxy::read(request, self.own_routes(request)) else { return Vec::new() };
            let asked_for = intent.registration(&self.core.token_key).map(|(instance, _)| instance);
            return self.push_bindings.known_as(&intent).into_iter().chain(asked_for).collect();
        }
        self.sender_by(flow, request).filter(|_| request.is_request()).into_iter().collect()
    }

    /// Whether this instance is among those that a message names.
    pub fn is_named(&self, named: &Named, instance: InstanceId) -> bool {
        named.instances.contains(&Some(instance))
            || named.senders.contains(&instance)
            || self.devices.binding_of(instance).is_some_and(|binding| named.bindings.contains(&binding))
    }

    /// Whether a message that did not go by its device's flow is shown to who records this instance: as long as its credentials are not proven, the REGISTERs
    /// with these alone. The calls and the other REGISTERs of its account are others'. What
    /// passes through has no credentials of its own here.
    pub fn is_shown(&self, message: &Message, instance: InstanceId) -> bool {
        if self.push_bindings.knows(instance) {
            return true;
        }
        let Some(binding) = self.devices.binding_of(instance).filter(|_| !self.devices.is_proven(instance)) else {
            return true;
        };
        let is_register = message.cseq().is_some_and(|(_, method)| method == "REGISTER");
        is_register && self.bindings.get(binding).is_some_and(|registration| registration.instance == instance)
    }

    /// The flow by which a device is attached.
    pub fn device_flow(&self, instance: InstanceId) -> Option<FlowId> {
        self.attachments.get(instance).map(|attached| attached.flow)
    }

    /// Whether a flow leads to a device.
    pub fn is_device_flow(&self, flow: FlowId) -> bool {
        self.attachments.knows_flow(flow)
    }
}
