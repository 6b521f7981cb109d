//! What a message says of the instance that it is about, for whoever records one instance's SIP with its user's consent.
//!
//! Invariant: nothing here changes anything, and nobody is asked for what is not recorded.

use super::{Endpoint, Side};
use crate::edge::{forward, push_proxy};
use crate::id::{BindingId, FlowId, InstanceId};
use crate::message::{Message, Uri};

impl Endpoint {
    /// Whether a request names an instance: by its id, its Contact, our Path, or the signed Route of its dialog. What belongs to
    /// the same Call-ID is about it, too.
    pub fn names(&self, message: &Message, instance: InstanceId) -> bool {
        let binding = self.devices.binding_of(instance);
        let is_own = |user: Option<&str>| user.and_then(BindingId::parse).is_some_and(|own| Some(own) == binding);
        let key = &self.core.token_key;
        message.from().and_then(|from| from.user().and_then(InstanceId::parse)) == Some(instance)
            || message.request_uri().is_some_and(|uri| is_own(Uri::user_of(uri)))
            || message.is_request() && message.contacts().iter().any(|contact| is_own(contact.user()))
            || push_proxy::own_path(key, message).is_some_and(|(named, _)| named == instance)
            || [Side::Device, Side::Upstream]
                .into_iter()
                .find_map(|from| forward::own_route(message, key, from))
                .is_some_and(|own| self.current(own.opened.token.instance) == instance)
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
