//! Flow bindings: registrations that passed through and are reached by their flow alone (RFC 5626). Their devices are stock clients that write no `pn-*`, where
//! the operator permits them. Their rows are in [`super::push_bindings`].
//!
//! | its device | a call, a MESSAGE | a request of a dialog |
//! | --- | --- | --- |
//! | has its flow | goes by that flow | likewise |
//! | has none | 430 if it registered with a reg-id, so that its registrar tries another flow; otherwise 480 | waits for [`parked`](crate::timing::EdgeTiming::parked), because the device may come back with the same call |
//! | loses it while it rings | likewise, unless it has come by another one, or does so within [`first_sign`](crate::timing::EdgeTiming::first_sign) | – |
//! | has been away for that long, has unregistered or was refused, or its grant is over | as with none: the Path tells its kind | 480 |
//!
//! Invariant: nobody is pushed for a flow binding, and it outlives its flow no longer than a request of a dialog may wait.

use std::time::Instant;

use super::{Endpoint, Event, RequestRefusal, Source};
use crate::edge::push_proxy::{self, Reach};
use crate::id::{CallId, InstanceId};
use crate::message::{Message, Method};
use crate::transaction::Reply;

impl Endpoint {
    /// A device has no flow any more.
    pub(super) fn on_flow_lost(&mut self, now: Instant, instance: InstanceId) {
        if self.push_bindings.end_by(instance, now + self.core.settings.timing.edge.parked) {
            self.arm_push_binding(instance);
        }
        self.end_released(now, instance);
    }

    /// A device's leg of a call was lost, and it has no other. Whether its flow alone leads to it, and the call is so dealt
    /// with: it goes on by the flow that the device has come by meanwhile or comes by soon, or it is over.
    pub(super) fn lose_only_flow(&mut self, now: Instant, call: CallId, instance: InstanceId) -> bool {
        let Some(status) = self.push_bindings.flow_failure(instance) else { return false };
        let flow = self.attachments.get(instance).map(|attached| attached.flow);
        let goes_on = flow.is_some_and(|flow| self.calls.wants(call, instance, flow));
        if !goes_on && !self.waits_for_lost(now, call, instance, Some(status)) {
            self.leave_call(now, call, instance, status);
        }
        true
    }

    /// A request for a device without a flow, from its own SIP server.
    pub(super) fn refuse_without_flow(&mut self, now: Instant, reply: Reply<'_>, request: &Message, status: u16) {
        self.refuse(now, reply, request, status);
        self.tell_without_flow(request);
    }

    /// A request by a Path of ours whose registration is not known here.
    pub(super) fn refuse_unknown_path(&mut self, source: &Source, request: &Message, reach: Reach) {
        // A registrar of RFC 5626 takes the binding for dead and tries another one (§5.3 there).
        let outbound = push_proxy::is_outbound(request);
        match reach {
            Reach::Pushed => self.refuse_stranger(source, request, if outbound { 430 } else { 404 }),
            Reach::ByFlow => {
                self.answer_stranger(source, request, if outbound { 430 } else { 480 });
                self.tell_without_flow(request);
            }
        }
    }

    fn tell_without_flow(&mut self, request: &Message) {
        self.core.event(Event::RequestRefused(RequestRefusal::Unknown));
        if request.method() == Some(Method::Invite) {
            self.core.event(Event::InviteRefused { status: 430 });
        }
    }
}
