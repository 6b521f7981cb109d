//! The registrations that an accepted REGISTER replaces or removes.
//!
//! | a registration of the same AOR at the same SIP server | ends | its calls and dialogs |
//! | --- | --- | --- |
//! | of the same `+sip.instance` | replaced | go on |
//! | of the same address, if neither has a `+sip.instance`, and by the same flow | replaced | go on |
//! | likewise by another flow, when both are pushed for, by two push tokens | no: two phones may have one address in their networks, and are two Contacts (RFC 3261 §19.1.4) | – |
//! | likewise, when one of them asks for no pushes | replaced: a registrar takes them for one Contact | go on, if its flow alone led to it and is gone |
//! | named by a Contact with `expires=0`, with its push parameters, otherwise by its device | removed | go on, if the same flow brings the new Contact, or its flow alone led to it and is gone |
//! | named by push parameters in a REGISTER that makes none, and the 2xx lists it with all of its life: that Contact was of an earlier address or push token | no | – |
//! | any, by `*` | removed | end |
//!
//! Invariant: a REGISTER never ends the registration that it makes. An AOR has no more registrations by this than it may have: of those of one address, the one
//! that ends first makes room.

use std::time::Instant;

use super::push_bindings::CONTACTS_PER_AOR;
use super::pushed::PushBindingEnd;
use super::{Endpoint, Source};
use crate::edge::push_proxy::{PushRequest, RegisterIntent, names_device};
use crate::edge::removed_contacts::RemovedContact;
use crate::id::InstanceId;
use crate::message::{Message, Party};

/// How far the end of a registration, and that of its Contact by its SIP server, which counts whole seconds, may be apart, in seconds.
const SAME_END_S: u64 = 1;

/// A registration that a REGISTER ends.
pub(super) struct Replaced {
    pub(super) instance: InstanceId,
    pub(super) end: PushBindingEnd,
    /// Whether its calls and dialogs become those of the registration that the REGISTER makes.
    pub(super) goes_on: bool,
}

impl Endpoint {
    /// The registrations whose place that of an accepted REGISTER, `instance`, takes, and those that the same REGISTER takes away.
    pub(super) fn replaced_by(
        &self,
        source: &Source,
        intent: &RegisterIntent,
        removed: &[RemovedContact],
        instance: InstanceId,
    ) -> Vec<Replaced> {
        let mut all = self.place_of(source, intent, instance);
        for other in removed.iter().flat_map(|removed| self.removed_by(source, intent, removed)) {
            if other != instance && all.iter().all(|it| it.instance != other) {
                let goes_on = self.attachments.carries(source.flow, other) || self.has_lost_only_flow(other);
                all.push(Replaced { instance: other, end: PushBindingEnd::Unregistered, goes_on });
            }
        }
        all
    }

    /// The registrations whose place another one of the same device takes.
    pub(super) fn place_of(&self, source: &Source, intent: &RegisterIntent, instance: InstanceId) -> Vec<Replaced> {
        let is_pushed = matches!(intent.push_request, PushRequest::Push(_));
        let theirs = || self.push_bindings.known_as(intent).into_iter().filter(|other| *other != instance);
        let judge = |other| {
            let is_its = names_device(&intent.contact) || self.attachments.carries(source.flow, other);
            let is_one_contact = !is_pushed || !self.is_pushed_for(other);
            let goes_on = is_its || self.has_lost_only_flow(other);
            let replaced = Replaced { instance: other, end: PushBindingEnd::Replaced, goes_on };
            (is_its || is_one_contact).then_some(replaced)
        };
        let mut all: Vec<_> = theirs().filter_map(judge).collect();
        let is_full = || self.push_bindings.contacts_of(intent) >= CONTACTS_PER_AOR;
        if all.is_empty() && !self.push_bindings.knows(instance) && is_full() {
            let first = theirs().min_by_key(|other| self.push_bindings.expires_at(*other));
            all.extend(first.map(|first| Replaced { instance: first, end: PushBindingEnd::Replaced, goes_on: false }));
        }
        all
    }

    /// The registrations that a Contact which is to last no longer names.
    pub(super) fn removed_by(
        &self,
        source: &Source,
        intent: &RegisterIntent,
        removed: &RemovedContact,
    ) -> Vec<InstanceId> {
        match removed.instance {
            Some(named) if self.push_bindings.knows(named) => vec![named],
            // Another token at the same address may be another phone's.
            Some(_) if !names_device(&removed.contact) => {
                let theirs = self.at_contact(source, intent, &removed.contact).into_iter();
                theirs.filter(|other| !self.is_pushed_for(*other)).collect()
            }
            _ => self.at_contact(source, intent, &removed.contact),
        }
    }

    /// Whether a 2xx lists a Contact with the push parameters of this registration that ends when it does, and so is the one that its device has
    /// registered last (RFC 3261 §10.3 step 8). What it has left behind at an earlier address ends sooner.
    pub(super) fn is_listed(
        &self,
        now: Instant,
        intent: &RegisterIntent,
        instance: InstanceId,
        response: &Message,
    ) -> bool {
        let Some(end) = self.push_bindings.expires_at(instance) else { return false };
        let left = end.saturating_duration_since(now).as_secs();
        let ends_then =
            |contact: &&Party<'_>| contact.expires(0).is_some_and(|it| u64::from(it).abs_diff(left) <= SAME_END_S);
        let contacts = response.contacts();
        let mut named =
            contacts.iter().filter(ends_then).map(|contact| intent.pushed_by(&self.core.token_key, contact));
        named.any(|it| it == Some(instance))
    }

    /// The registrations of a device; of several at one address those that the same flow has brought, if there are any.
    pub(super) fn at_contact(&self, source: &Source, intent: &RegisterIntent, contact: &str) -> Vec<InstanceId> {
        let all = self.push_bindings.of_contact(intent, contact);
        let carried = |other: &InstanceId| self.attachments.carries(source.flow, *other);
        if contact.is_empty() || !all.iter().any(carried) { all } else { all.into_iter().filter(carried).collect() }
    }

    /// Whether a flow alone led to a registration, and is gone.
    fn has_lost_only_flow(&self, instance: InstanceId) -> bool {
        self.push_bindings.flow_failure(instance).is_some() && !self.attachments.is_attached(instance)
    }

    /// Ends the earlier registrations of a device, whose calls and dialogs are its later one's.
    pub(super) fn end_succeeded(&mut self, now: Instant, earlier: Vec<InstanceId>, successor: InstanceId) {
        let end = |instance| Replaced { instance, end: PushBindingEnd::Replaced, goes_on: true };
        self.end_replaced(now, earlier.into_iter().map(end).collect(), Some(successor));
    }

    /// Ends what a registration has replaced. `successor`: the registration, once it is written down.
    pub(super) fn end_replaced(&mut self, now: Instant, all: Vec<Replaced>, successor: Option<InstanceId>) {
        for Replaced { instance, end, goes_on } in all {
            if let Some(successor) = successor.filter(|_| goes_on) {
                self.succeed_registration(now, instance, successor);
            }
            self.remove_push_binding(now, instance, end);
        }
    }
}
