//! Instances that another node owns, while their dialogs go through here: this node had them when the dialogs began, so its address is in their Record-Routes.
//!
//! | for such an instance comes | consequence |
//! | --- | --- |
//! | a REGISTER with the right proof | 200, for [`REGISTERS_FOR_S`], and a Warning: the dialogs of its device take that flow. Calls do not, because they are the owner's |
//! | a request of a dialog, from either side | is forwarded, or waits, as if the instance were here |
//! | anything else | is refused, as for an unknown instance |
//!
//! The shell asks the store for such an instance: at [`Event::VerifyDevice`] of an instance that is not here, [`Endpoint::missing_by_path`] and
//! [`Endpoint::missing_by_device`]. A device that only heard 403 could not hang up its calls, because most stacks keep to the address at which they have
//! registered.
//!
//! Invariant: at most [`ELSEWHERE_MAX`] are known, each with one reference to its SIP server, and none for longer than [`KEPT`] after its dialogs have had a
//! flow or a waiting request.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::attachments::{DialogFlow, Verification};
use super::core::OfflinePeer;
use super::{Endpoint, Event, KnownElsewhere, Source, Timer, VerificationId};
use crate::edge::admission::shows_proof;
use crate::edge::device_contacts::ContactRequest;
use crate::edge::forward;
use crate::flow::{Side, TokenKey};
use crate::id::{InstanceId, UpstreamId};
use crate::message::{Composer, Message, Method, Name};
use crate::transaction::{LATE, ServerId};

/// Instances of other nodes that are known on one shard; the dialogs of a further one do not go through here.
pub const ELSEWHERE_MAX: usize = 16_384;
/// How long one is known without a flow or a request that waits.
const KEPT: Duration = LATE;
/// The longest registration of its device, in seconds: the instance may be here again by then, and the device is attached with its next REGISTER.
pub const REGISTERS_FOR_S: u32 = 60;
/// The Warning for the device's developer.
const WARNING: &str = "another node has this instance: calls come by the edge that their push names, and here only the calls go on that stand";

/// The instances that other nodes have.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    rows: HashMap<InstanceId, Row>,
    /// Whether there are other nodes.
    are_possible: bool,
}

#[derive(Debug)]
struct Row {
    upstream: UpstreamId,
    /// When it is looked at next.
    due: Instant,
}

impl Elsewhere {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn upstream_of(&self, instance: InstanceId) -> Option<UpstreamId> {
        self.rows.get(&instance).map(|row| row.upstream)
    }
}

impl Endpoint {
    /// Other nodes have instances of the same store.
    pub fn expect_other_nodes(&mut self) {
        self.elsewhere.are_possible = true;
    }

    /// Whether an instance is here, or its dialogs go through here.
    pub(super) fn carries_instance(&self, instance: InstanceId) -> bool {
        self.devices.knows(instance) || self.elsewhere.rows.contains_key(&instance)
    }

    /// Likewise, or the shell may find that they do.
    pub(super) fn may_carry_instance(&self, instance: InstanceId) -> bool {
        self.carries_instance(instance) || self.elsewhere.are_possible && !self.attachments.is_incomplete
    }

    /// The instance of a dialog that a device goes on with by a connection which does not carry it, where it is not here and nobody has asked whether another
    /// node has it. A caller may tell, and hand the request in afterwards; without a word it is refused as of one that is unknown.
    pub fn missing_by_device(&self, now: Instant, source: &Source, request: &Message) -> Option<InstanceId> {
        let may_be = source.side == Side::Device && self.elsewhere.are_possible && !self.attachments.is_incomplete;
        let asks = request.is_request() && !matches!(request.method(), Some(Method::Ack | Method::Cancel));
        if !may_be || !asks {
            return None;
        }
        let device = TokenKey::device_of(request.route_user(0)?)?;
        let named = self.current(device);
        if self.carries_instance(named) || self.push_bindings.knows(named) || self.carries_dialogs_of(device, source) {
            return None;
        }
        // The verdict on its REGISTER says the same.
        if !shows_proof(request) && self.attachments.is_registering(now, named, source.flow) {
            return None;
        }
        forward::own_route(request, &self.core.token_key, Side::Device).map(|_| named)
    }

    /// The SIP server of a device, wherever that is.
    pub(super) fn server_of(&self, device: InstanceId) -> Option<UpstreamId> {
        match self.devices.binding_of(device) {
            Some(binding) => self.upstream_of(binding),
            None => self.elsewhere.upstream_of(device),
        }
    }

    /// The shell has found an instance at another node.
    pub(super) fn on_known_elsewhere(&mut self, now: Instant, known: KnownElsewhere) {
        let KnownElsewhere { instance, upstream, registrar } = known;
        let is_known = self.elsewhere.upstream_of(instance) == Some(upstream);
        if self.devices.knows(instance) || is_known || self.is_beyond(instance) {
            return self.core.event(Event::UpstreamReleased(upstream));
        }
        self.forget_elsewhere(now, instance);
        self.join_transit(now, upstream, registrar);
        let due = now + KEPT;
        self.elsewhere.rows.insert(instance, Row { upstream, due });
        self.core.timers.set(due, Timer::Elsewhere(instance));
    }

    /// Whether there is no room for an instance that is not here.
    pub(super) fn is_beyond(&self, instance: InstanceId) -> bool {
        self.elsewhere.len() >= ELSEWHERE_MAX && !self.carries_instance(instance)
    }

    /// No node has an instance any more.
    pub(super) fn on_not_elsewhere(&mut self, now: Instant, instance: InstanceId) {
        if self.elsewhere.rows.contains_key(&instance) {
            self.forget_elsewhere(now, instance);
            self.attachments.forget_dialogs(instance);
        }
    }

    /// The instance is here, or nothing of it goes through here any more.
    pub(super) fn forget_elsewhere(&mut self, now: Instant, instance: InstanceId) {
        if let Some(row) = self.elsewhere.rows.remove(&instance) {
            self.leave_transit(now, row.upstream);
        }
    }

    pub(super) fn on_elsewhere_due(&mut self, now: Instant, instance: InstanceId) {
        let is_used = self.attachments.dialog_flow(instance).is_some() || self.has_parked(instance);
        match self.elsewhere.rows.get_mut(&instance).filter(|row| row.due <= now) {
            Some(row) if is_used => {
                row.due = now + KEPT;
                self.core.timers.set(row.due, Timer::Elsewhere(instance));
            }
            Some(_) => self.forget_elsewhere(now, instance),
            None => {}
        }
    }

    /// The shell cannot tell whose an instance is, or that is on its way here.
    pub(super) fn on_device_unverified(&mut self, now: Instant, verification: VerificationId) {
        if let Some(judged) = self.take_verification(now, verification) {
            self.answer_unverified(now, judged);
        }
    }

    /// A proof was not judged, or its instance has no room: that is no fault of the device.
    pub(super) fn answer_unverified(&mut self, now: Instant, judged: Verification) {
        let Verification { source, instance, register } = judged;
        if let Some((server, register)) = register {
            let response = self.early_answer(&register);
            self.core.transactions.respond(now, server, 503, response);
            self.core.flush();
        }
        self.refuse_all_unproven(now, instance, source.flow, 503);
        // A device that has proved itself there before is no stranger, however long the store is away.
        if self.attachments.dialog_flow(instance).is_none_or(|dialogs| dialogs.flow != source.flow) {
            self.count_early(source.flow);
        }
    }

    /// A device of an instance that another node has has proved itself by a REGISTER.
    pub(super) fn on_registered_elsewhere(
        &mut self,
        now: Instant,
        Source { flow, transport, .. }: Source,
        instance: InstanceId,
        (server, register): (ServerId, Box<Message>),
    ) {
        let tag = self.core.random.tag();
        let contact = match ContactRequest::read(&register) {
            ContactRequest::Bind { contact, expires } => {
                Some(format!("<{}>;expires={}", contact.uri, expires.min(REGISTERS_FOR_S)))
            }
            ContactRequest::Malformed => {
                let response = Composer::response(&register, 400, "Invalid Contact", Some(&tag));
                return self.core.transactions.respond(now, server, 400, response.finish());
            }
            ContactRequest::Query | ContactRequest::Remove(_) | ContactRequest::RemoveAll => None,
        };
        let response = Composer::response(&register, 200, Composer::reason(200), Some(&tag));
        let response = response.maybe(Name::Contact, contact).header(Name::Warning, self.warning(WARNING));
        self.core.transactions.respond(now, server, 200, response.finish());
        self.core.flush();
        self.carry_dialogs(now, instance, DialogFlow { flow, transport });
    }

    /// Whether a request waits for a device.
    fn has_parked(&self, instance: InstanceId) -> bool {
        self.parked.waits_for(&OfflinePeer::Device(instance))
    }
}
