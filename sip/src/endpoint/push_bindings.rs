//! Registrations that passed through to their own SIP server: push bindings (RFC 8599), and flow bindings, which are reached by their flow alone (RFC 5626; see
//! [`super::flow_bindings`]).
//!
//! An INVITE that comes back by our Path is a call like any other: it waits, is pushed, and is forked to the flow that the device registers on; its Request-URI
//! stays as it came. Other requests wait in [`super::parked`].
//!
//! [`super::forwarded_registers`] brings the registrations. A device that has registered is attached by its flow until the end that was granted.
//!
//! Invariant: a device is pushed only for a request from the registration's own SIP server, or because the registration ends soon. A row belongs to one SIP
//! server, registrar and proxy: what another one accepts neither finds it, nor changes it, nor attaches a device to it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use super::attachments::Attached;
use super::core::OfflinePeer;
use super::dialogs::HeaderEdits;
use super::pushed::{FlowBinding, PushBinding, PushBindingEnd, RestoredPushBinding};
use super::register_table::Sent;
use super::requests::is_in_dialog;
use super::{Endpoint, Event, Missing, Side, Source, Timer};
use crate::edge::device_contacts::DeviceContact;
use crate::edge::forward;
use crate::edge::push_proxy::{self, PushContact, RENEW_BEFORE, Reach, RegisterIntent};
use crate::edge::removed_contacts::RemovedContact;
use crate::flow::TokenKey;
use crate::id::{BindingId, InstanceId, UpstreamId};
use crate::message::{Limits, Message, Method, Name};
use crate::timers::Armed;
use crate::transaction::Reply;

/// Registrations of one AOR at one SIP server; a further one is answered 403.
pub const CONTACTS_PER_AOR: usize = 16;
/// The longest life of a registration without a refresh: as long as its sealed record can be kept. If the server grants more, the device is asked to refresh
/// before that.
pub const KEPT_MAX: Duration = Duration::from_secs(6 * 86_400);
/// The least time before the end at which a device is asked for the last time to refresh.
const RENEW_LAST: Duration = Duration::from_secs(15);
/// Registrations on one shard; a further one is answered 503.
pub const REGISTRATIONS_MAX: usize = 500_000;

/// A registration that its SIP server has just accepted, with what its REGISTER said.
pub(super) struct Accepted {
    pub(super) source: Source,
    pub(super) intent: RegisterIntent,
    pub(super) instance: InstanceId,
    /// The push contact of its device. `None`: the device is reached by its flow alone.
    pub(super) push: Option<PushContact>,
    pub(super) registrar: Box<str>,
    pub(super) proxy: Option<Box<str>>,
    /// The Service-Route of its SIP server (RFC 3608).
    pub(super) service_route: Box<[Box<str>]>,
    /// The identities of other domains that its SIP server gives it.
    pub(super) identities: Box<[Box<str>]>,
    /// Whether its SIP server tries the flows of a device one after the other (RFC 5626 §5.3, §6).
    pub(super) tries_flows: bool,
    /// The upstream of its REGISTER, whose reference goes to the row.
    pub(super) upstream: UpstreamId,
    /// The lifetime that was granted.
    pub(super) expires: Duration,
    /// The Contacts that it takes away.
    pub(super) removed: Vec<RemovedContact>,
    /// When its REGISTER was forwarded.
    pub(super) sent: Option<Sent>,
    /// Whether a REGISTER that was sent later has registered or removed it meanwhile.
    pub(super) is_overtaken: bool,
}

impl Accepted {
    /// The place of its REGISTER among the forwarded ones.
    fn order(&self) -> u64 {
        self.sent.map_or(0, |sent| sent.order)
    }

    fn new_row(&mut self) -> NewRow {
        let RegisterIntent { aor, contact, server, outbound, .. } = &self.intent;
        let reached = match self.push {
            Some(_) => Reached::ByPush { renew_before: renew_before(self.refreshes_itself(), self.expires) },
            // RFC 5626 §5.3: a registrar that knows flows tries another one.
            None => Reached::ByFlow { failure: if *outbound { 430 } else { 480 } },
        };
        NewRow {
            instance: self.instance,
            upstream: self.upstream,
            key: ContactKey { server: server.clone(), aor: aor.clone(), contact: contact.clone() },
            expires: self.expires,
            reached,
            tries_flows: self.tries_flows,
            origin: Origin::Accepted { service_route: std::mem::take(&mut self.service_route), order: self.order() },
        }
    }

    fn refreshes_itself(&self) -> bool {
        self.intent.keeps_itself(self.expires)
    }

    /// The event for the shell.
    fn into_event(self) -> Event {
        let refreshes_itself = self.refreshes_itself();
        let Self { source, intent, instance, push, registrar, proxy, expires, sent, .. } = self;
        let RegisterIntent { aor, contact, .. } = intent;
        match push {
            Some(push) => Event::PushBindingAccepted(Box::new(PushBinding {
                instance,
                aor,
                contact,
                registrar,
                proxy,
                push,
                expires,
                refreshes_itself,
                source: Some(source.peer.ip()),
                sent_at: sent.map(|sent| sent.at),
            })),
            None => Event::FlowBindingAccepted(Box::new(FlowBinding {
                instance,
                aor,
                registrar,
                proxy,
                source: source.peer.ip(),
                flow: source.flow,
            })),
        }
    }
}

/// The registrations that passed through.
#[derive(Default)]
pub(super) struct PushBindings {
    rows: HashMap<InstanceId, Row>,
    bindings: HashMap<BindingId, InstanceId>,
    /// The identities of other domains that SIP servers have given registrations; few give any.
    identities: HashMap<InstanceId, Box<[Box<str>]>>,
    /// Two phones without an instance id may have one address.
    contacts: BTreeSet<(ContactKey, InstanceId)>,
}

/// The lowest name of a registration.
const LOWEST: InstanceId = InstanceId::from_bytes([0; 16]);

/// A device of an AOR at a SIP server.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ContactKey {
    server: Box<str>,
    aor: Box<str>,
    contact: Box<str>,
}

struct Row {
    binding: BindingId,
    upstream: UpstreamId,
    key: ContactKey,
    /// The Service-Route of the last 2xx; none after a restore, until its device registers again.
    service_route: Box<[Box<str>]>,
    expires_at: Instant,
    /// When its device is pushed to refresh it.
    renew_at: Option<Instant>,
    /// When its device was last pushed for a request other than a call.
    woken_at: Option<Instant>,
    /// The answer to requests while a flow binding has no flow. `None`: the device is pushed.
    flow_failure: Option<u16>,
    /// Whether its SIP server tries other flows of its device when this one is reported as failed; unknown after a restore.
    tries_flows: bool,
    /// The one timer of the row, however often it is refreshed.
    armed: Armed,
    /// The number of its last REGISTER among the forwarded ones; 0: it was restored.
    order: u64,
    /// After a restore, until its device registers here: the time of its REGISTER, in milliseconds since 1970.
    confirmed_at_ms: Option<u64>,
    /// The reason of its end, while it stays for a call.
    lingers: Option<PushBindingEnd>,
}

/// A registration that is to be stored as a row.
struct NewRow {
    instance: InstanceId,
    upstream: UpstreamId,
    key: ContactKey,
    expires: Duration,
    reached: Reached,
    tries_flows: bool,
    origin: Origin,
}

/// The way to a device.
#[derive(Clone, Copy)]
enum Reached {
    /// It is pushed, and asked to refresh so long before the end.
    ByPush { renew_before: Duration },
    /// Its flow alone leads to it; the answer to requests while it has none.
    ByFlow { failure: u16 },
}

/// The source of a new row.
enum Origin {
    /// A 2xx of the SIP server.
    Accepted { service_route: Box<[Box<str>]>, order: u64 },
    /// An earlier run.
    Restored { confirmed_at_ms: u64 },
}

impl Row {
    fn deadline(&self) -> Instant {
        self.renew_at.map_or(self.expires_at, |at| at.min(self.expires_at))
    }

    /// Whether another node owns it by now, and it stays for a call alone.
    fn is_released(&self) -> bool {
        self.lingers == Some(PushBindingEnd::Removed)
    }
}

impl fmt::Debug for PushBindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushBindings").field("rows", &self.rows.len()).finish_non_exhaustive()
    }
}

impl PushBindings {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether a registration is known.
    pub(super) fn knows(&self, instance: InstanceId) -> bool {
        self.rows.contains_key(&instance)
    }

    /// Whether a registration is known, and no other node owns it by now.
    pub(super) fn is_here(&self, instance: InstanceId) -> bool {
        self.rows.get(&instance).is_some_and(|row| !row.is_released())
    }

    /// Whether a registration stands whose REGISTER was accepted by way of this relay.
    pub(super) fn was_made_here(&self, instance: InstanceId) -> bool {
        self.rows.get(&instance).is_some_and(|row| row.lingers.is_none() && row.confirmed_at_ms.is_none())
    }

    /// Whether the timer of a registration for this moment counts.
    pub(super) fn is_armed(&self, instance: InstanceId, at: Instant) -> bool {
        self.rows.get(&instance).is_some_and(|row| row.armed.is_at(at))
    }

    /// The registration behind a binding.
    pub(super) fn instance_of(&self, binding: BindingId) -> Option<InstanceId> {
        self.bindings.get(&binding).copied()
    }

    /// The SIP server of the registration behind a binding.
    pub(super) fn upstream_of(&self, binding: BindingId) -> Option<UpstreamId> {
        self.rows.get(self.bindings.get(&binding)?).map(|row| row.upstream)
    }

    /// The answer to requests for a flow binding without a flow. `None`: it is no flow binding.
    pub(super) fn flow_failure(&self, instance: InstanceId) -> Option<u16> {
        self.rows.get(&instance)?.flow_failure
    }

    /// Whether the SIP server of a registration tries another flow of its device when this one is reported as failed.
    pub(super) fn tries_flows(&self, instance: InstanceId) -> bool {
        self.rows.get(&instance).is_some_and(|row| row.tries_flows)
    }

    /// Ends a flow binding `at` this time at the latest. Returns whether there is one.
    pub(super) fn end_by(&mut self, instance: InstanceId, at: Instant) -> bool {
        let row = self.rows.get_mut(&instance).filter(|row| row.flow_failure.is_some());
        row.map(|row| row.expires_at = row.expires_at.min(at)).is_some()
    }

    /// The address of record of a registration.
    pub(super) fn aor_of(&self, instance: InstanceId) -> Option<&str> {
        self.rows.get(&instance).map(|row| &*row.key.aor)
    }

    /// Whether its SIP server has given a registration this identity of another domain.
    pub(super) fn has_identity(&self, instance: InstanceId, address: &str) -> bool {
        self.identities.get(&instance).is_some_and(|given| given.iter().any(|it| **it == *address))
    }

    fn set_identities(&mut self, instance: InstanceId, given: Box<[Box<str>]>) {
        if given.is_empty() {
            drop(self.identities.remove(&instance));
        } else {
            drop(self.identities.insert(instance, given));
        }
    }

    /// The Routes for requests of its device: the Service-Route of its SIP server, otherwise the proxy that it has registered by.
    pub(super) fn routes_of(&self, instance: InstanceId) -> Vec<Box<str>> {
        let Some(row) = self.rows.get(&instance) else { return Vec::new() };
        let proxy = push_proxy::server_parts(&row.key.server).1.map(|proxy| format!("<{proxy};lr>").into());
        if row.service_route.is_empty() { proxy.into_iter().collect() } else { row.service_route.to_vec() }
    }

    /// The proxy that its device has registered by.
    pub(super) fn proxy_of(&self, instance: InstanceId) -> Option<&str> {
        push_proxy::server_parts(&self.rows.get(&instance)?.key.server).1
    }

    /// The registrations that a REGISTER concerns, at its own SIP server alone: those of its device, or all of the AOR.
    pub(super) fn known_as(&self, intent: &RegisterIntent) -> Vec<InstanceId> {
        self.of_contact(intent, &intent.contact)
    }

    /// Whether a Contact of a REGISTER is known, and no other node owns it by now.
    pub(super) fn is_device_here(&self, intent: &RegisterIntent, contact: &str) -> bool {
        let known = self.of_contact(intent, contact);
        !known.is_empty() && known.iter().all(|it| self.is_here(*it))
    }

    /// The registrations of one device of an AOR at a SIP server, or of all its devices if `contact` is empty.
    pub(super) fn of_contact(&self, intent: &RegisterIntent, contact: &str) -> Vec<InstanceId> {
        let RegisterIntent { server, aor, .. } = intent;
        if contact.is_empty() {
            return self.of_aor(server, aor).collect();
        }
        self.of_key(&ContactKey { server: server.clone(), aor: aor.clone(), contact: contact.into() }).collect()
    }

    fn of_key<'a>(&'a self, key: &'a ContactKey) -> impl Iterator<Item = InstanceId> + 'a {
        let theirs = self.contacts.range((key.clone(), LOWEST)..).take_while(move |(other, _)| other == key);
        theirs.map(|(_, instance)| *instance)
    }

    /// When a registration ends.
    pub(super) fn expires_at(&self, instance: InstanceId) -> Option<Instant> {
        self.rows.get(&instance).map(|row| row.expires_at)
    }

    /// The end of a registration that stays for a call.
    pub(super) fn lingers(&self, instance: InstanceId) -> Option<PushBindingEnd> {
        self.rows.get(&instance)?.lingers
    }

    /// Lets a registration stay for a call until this moment; its device is not asked to refresh it.
    pub(super) fn linger(&mut self, instance: InstanceId, end: PushBindingEnd, until: Instant) {
        if let Some(row) = self.rows.get_mut(&instance) {
            (row.lingers, row.expires_at, row.renew_at) = (Some(end), until, None);
        }
    }

    /// Whether a registration is of a REGISTER that was forwarded later than this one.
    pub(super) fn is_newer(&self, instance: InstanceId, order: u64) -> bool {
        self.rows.get(&instance).is_some_and(|row| row.order > order)
    }

    /// Whether a registration is of an earlier REGISTER than one of this time, in milliseconds since 1970, or has ended and stays for a call.
    fn is_before(&self, instance: InstanceId, confirmed_at_ms: u64) -> bool {
        let is_earlier = |row: &Row| row.confirmed_at_ms.is_some_and(|earlier| earlier < confirmed_at_ms);
        self.rows.get(&instance).is_some_and(|row| row.lingers.is_some() || is_earlier(row))
    }

    /// The number of registrations of an AOR at a SIP server, at most [`CONTACTS_PER_AOR`].
    pub(super) fn contacts_of(&self, intent: &RegisterIntent) -> usize {
        self.of_aor(&intent.server, &intent.aor).take(CONTACTS_PER_AOR).count()
    }

    /// The registrations of an AOR at a SIP server.
    pub(super) fn of_aor<'a>(&'a self, server: &'a str, aor: &'a str) -> impl Iterator<Item = InstanceId> + 'a {
        let first = ContactKey { server: server.into(), aor: aor.into(), contact: "".into() };
        let same = move |key: &ContactKey| *key.server == *server && *key.aor == *aor;
        self.contacts.range((first, LOWEST)..).take_while(move |(key, _)| same(key)).map(|(_, instance)| *instance)
    }
}

impl Endpoint {
    /// A SIP server has accepted a registration.
    pub(super) fn on_accepted(&mut self, now: Instant, mut accepted: Accepted) {
        let order = accepted.order();
        if accepted.is_overtaken {
            self.end_others_removed(now, &accepted);
            return self.leave_transit(now, accepted.upstream);
        }
        accepted.expires = accepted.expires.min(KEPT_MAX);
        let Accepted { source, instance, upstream, expires, .. } = accepted;
        let mut replaced = self.replaced_by(&source, &accepted.intent, &accepted.removed, instance);
        replaced.retain(|it| !self.push_bindings.is_newer(it.instance, order));
        if expires.is_zero() {
            self.end_replaced(now, replaced, None);
            self.remove_push_binding(now, instance, PushBindingEnd::Unregistered);
            return self.leave_transit(now, upstream);
        }
        let carried = self.attachments.carry(source.flow, instance);
        if carried {
            self.core.event(Event::FlowProven(source.flow));
        } else if accepted.push.is_none() {
            // The flow has ended meanwhile: nothing leads to the device.
            self.end_replaced(now, replaced, None);
            return self.leave_transit(now, upstream);
        }
        let identities = std::mem::take(&mut accepted.identities);
        self.write_down(now, accepted.new_row());
        self.core.event(accepted.into_event());
        self.push_bindings.set_identities(instance, identities);
        self.end_replaced(now, replaced, Some(instance));
        if carried {
            self.attach_carried(now, instance, &source, now + expires);
        }
    }

    /// Ends the other registrations that an accepted REGISTER removes, unless a later REGISTER has made them.
    fn end_others_removed(&mut self, now: Instant, accepted: &Accepted) {
        let Accepted { source, intent, instance, removed, .. } = accepted;
        let gone: Vec<_> = removed.iter().flat_map(|it| self.removed_by(source, intent, it)).collect();
        for other in gone.into_iter().filter(|other| other != instance) {
            if !self.push_bindings.is_newer(other, accepted.order()) {
                self.remove_push_binding(now, other, PushBindingEnd::Unregistered);
            }
        }
    }

    /// Attaches a device by the flow of its REGISTER, and sends the requests that wait for it.
    fn attach_carried(&mut self, now: Instant, instance: InstanceId, source: &Source, expires_at: Instant) {
        let Source { flow, transport, .. } = *source;
        let attached = Attached { flow, transport, contact: DeviceContact::default(), expires_at, order: None };
        self.attach(now, instance, attached);
        // Its waiting calls follow the answer.
        let is_awaited = self.parked.waits_for(&OfflinePeer::Device(instance));
        if is_awaited || !self.calls.waiting_for(instance).is_empty() {
            self.answer_held(now, instance);
        }
        self.fork_waiting(now, instance);
        self.send_parked(now, OfflinePeer::Device(instance));
        self.release_unproven(now, instance, flow);
    }

    /// A registration of an earlier run.
    pub(super) fn on_restore_push_binding(&mut self, now: Instant, restored: RestoredPushBinding) {
        let RestoredPushBinding { registration, upstream, upstream_registrar, confirmed_at_ms } = restored;
        let instance = registration.instance;
        self.join_transit(now, upstream, upstream_registrar);
        let server = push_proxy::server_of(&registration.registrar, registration.proxy.as_deref());
        let is_here = self.push_bindings.knows(instance) && self.push_bindings.lingers(instance).is_none();
        let Some(server) = server.filter(|_| !is_here && !registration.expires.is_zero()) else {
            return self.leave_transit(now, upstream);
        };
        let PushBinding { aor, contact, expires, refreshes_itself, .. } = registration;
        let key = ContactKey { server, aor, contact };
        let is_named = push_proxy::names_device(&key.contact);
        let others: Vec<_> = self.push_bindings.of_key(&key).filter(|it| is_named && *it != instance).collect();
        if others.iter().any(|it| !self.push_bindings.is_before(*it, confirmed_at_ms)) {
            self.leave_transit(now, upstream);
            return self.core.event(Event::PushBindingEnded { instance, end: PushBindingEnd::Replaced });
        }
        let tries_flows = self.push_bindings.tries_flows(instance);
        let reached = Reached::ByPush { renew_before: renew_before(refreshes_itself, expires) };
        let origin = Origin::Restored { confirmed_at_ms };
        let new = NewRow { instance, upstream, key, expires, reached, tries_flows, origin };
        self.write_down(now, new);
        // A node died between the two, or the store has the earlier one again.
        self.end_succeeded(now, others, instance);
        // So that its addresses are known, and its requests believed.
        self.want_flow_soon(now, upstream);
    }

    /// Stores a registration, or its refresh. The upstream reference of its REGISTER is the row's from now on.
    fn write_down(&mut self, now: Instant, new: NewRow) {
        let NewRow { instance, upstream, key, expires, reached, tries_flows, origin } = new;
        let binding = push_proxy::binding_of(&self.core.token_key, instance);
        let expires_at = now + expires;
        let (renew_at, flow_failure) = match reached {
            Reached::ByPush { renew_before } => (Some(expires_at - renew_before), None),
            Reached::ByFlow { failure } => (None, Some(failure)),
        };
        let (service_route, order, confirmed_at_ms) = match origin {
            Origin::Accepted { service_route, order } => (service_route, order, None),
            Origin::Restored { confirmed_at_ms } => (Box::default(), 0, Some(confirmed_at_ms)),
        };
        let row = Row {
            binding,
            upstream,
            key: key.clone(),
            service_route,
            expires_at,
            renew_at,
            woken_at: None,
            flow_failure,
            tries_flows,
            armed: self.push_bindings.rows.get(&instance).map(|earlier| earlier.armed).unwrap_or_default(),
            order,
            confirmed_at_ms,
            lingers: None,
        };
        self.join_account(upstream, &key.aor);
        if let Some(earlier) = self.push_bindings.rows.insert(instance, row) {
            self.leave_account(earlier.upstream, &earlier.key.aor);
            self.push_bindings.contacts.remove(&(earlier.key, instance));
            self.leave_transit(now, earlier.upstream);
        }
        self.push_bindings.bindings.insert(binding, instance);
        self.push_bindings.contacts.insert((key, instance));
        if !self.devices.knows(instance) {
            self.add_device(instance, binding, None);
        }
        self.arm_push_binding(instance);
    }

    pub(super) fn arm_push_binding(&mut self, instance: InstanceId) {
        let Some(row) = self.push_bindings.rows.get_mut(&instance) else { return };
        let deadline = row.deadline();
        if let Some(at) = row.armed.must_set(Some(deadline)) {
            self.core.timers.set(at, Timer::PushBinding(instance));
        }
    }

    /// A registration is to be refreshed, or is over.
    pub(super) fn on_push_binding_due(&mut self, now: Instant, instance: InstanceId) {
        let Some(row) = self.push_bindings.rows.get_mut(&instance) else { return };
        if !row.armed.fires(now) {
            return;
        }
        if row.expires_at <= now {
            return self.end_unless_awaited(now, instance);
        }
        if row.renew_at.is_none_or(|at| at > now) {
            return self.arm_push_binding(instance);
        }
        // A push may be lost, or its device doze: again and again, half-way to the end, until that is too near.
        let left = row.expires_at - now;
        row.renew_at = (left / 2 >= RENEW_LAST).then(|| now + left / 2);
        self.arm_push_binding(instance);
        self.core.event(Event::RefreshNeeded(instance));
    }

    /// Whether a device is pushed for: what comes for it without a flow wakes it.
    pub(super) fn is_pushed_for(&self, instance: InstanceId) -> bool {
        self.push_bindings.rows.get(&instance).is_some_and(|row| row.flow_failure.is_none())
    }

    /// Whether a device that is pushed for has left something unanswered, and has said nothing since.
    fn is_silent(&self, instance: InstanceId) -> bool {
        let attached = self.attachments.get(instance).filter(|_| self.is_pushed_for(instance));
        attached.is_some_and(|attached| self.attachments.is_silent(attached.flow))
    }

    /// Has a device that passed through pushed, because a request waits for it that is no call. One push serves all that
    /// wait.
    pub(super) fn wake_for_request(&mut self, now: Instant, instance: InstanceId) {
        let push_again = self.core.settings.timing.edge.push_again;
        let Some(row) = self.push_bindings.rows.get_mut(&instance) else { return };
        if row.flow_failure.is_some() || row.woken_at.is_some_and(|at| at + push_again > now) {
            return;
        }
        row.woken_at = Some(now);
        if self.devices.spend_wake(now, instance) {
            self.core.event(Event::RefreshNeeded(instance));
        }
    }

    /// Ends a registration's calls and forgets it. The SIP server is told nothing: only the device can.
    pub(super) fn remove_push_binding(&mut self, now: Instant, instance: InstanceId, end: PushBindingEnd) {
        self.answer_held(now, instance);
        let Some(row) = self.push_bindings.rows.remove(&instance) else { return };
        self.push_bindings.bindings.remove(&row.binding);
        self.push_bindings.identities.remove(&instance);
        self.proofs.forget(instance);
        self.leave_account(row.upstream, &row.key.aor);
        self.push_bindings.contacts.remove(&(row.key, instance));
        self.remove_device(now, instance, end == PushBindingEnd::Removed);
        self.give_up_parked(now, instance, Some(row.upstream));
        self.keep_stream(instance, row.upstream);
        self.leave_transit(now, row.upstream);
        self.core.event(match row.flow_failure {
            None => Event::PushBindingEnded { instance, end },
            Some(_) => Event::FlowBindingEnded(instance),
        });
    }

    /// The SIP server that a registration was accepted by.
    pub fn push_binding_upstream(&self, instance: InstanceId) -> Option<UpstreamId> {
        self.push_bindings.rows.get(&instance).map(|row| row.upstream)
    }

    /// The registration that a request of `source` names by our own Path, or by the Route of a dialog, and the missing state without which the request cannot
    /// be judged: the registration is not known here, and another node, or an earlier run, may have stored it; or DNS has not told all addresses of its SIP
    /// server. A caller may supply what is missing and hand the request in afterwards.
    pub fn missing_by_path(&self, now: Instant, source: &Source, request: &Message) -> Option<(InstanceId, Missing)> {
        let beyond = request.is_request() && request.method() != Some(Method::Ack);
        if !beyond {
            return None;
        }
        let Some((instance, reach)) = push_proxy::own_path(&self.core.token_key, request) else {
            return self.missing_in_dialog(source, request);
        };
        if reach != Reach::Pushed {
            // A registration that is reached by its flow alone is written down nowhere.
            return None;
        }
        let instance = self.led_to(now, instance);
        let row = self.push_bindings.rows.get(&instance);
        let Some(Row { binding, .. }) = row.filter(|row| !row.is_released() || self.has_come(source, request)) else {
            return Some((instance, Missing::Binding));
        };
        self.missing_of(*binding, source).map(|missing| (instance, missing))
    }

    /// Likewise the registration of a dialog, by the Route that this relay has put there: its device may be at another node by now, or have had its call by
    /// an earlier run.
    fn missing_in_dialog(&self, source: &Source, request: &Message) -> Option<(InstanceId, Missing)> {
        if source.side != Side::Upstream || !is_in_dialog(request) {
            return None;
        }
        let device = self.current(TokenKey::device_of(request.route_user(0)?)?);
        let row = self.push_bindings.rows.get(&device);
        if row.is_none() && self.devices.knows(device) {
            // It has no registration to miss, whether the token is ours or not.
            return None;
        }
        let token = forward::own_route(request, &self.core.token_key, source.side)?.token;
        match row {
            Some(row) if token.upstream != source.flow => {
                self.missing_of(row.binding, source).map(|missing| (device, missing))
            }
            Some(_) => None,
            // What is left of a device that has just gone has a flow: whoever had its call hangs up without a word from the store.
            None if let Some(server) = self.elsewhere.upstream_of(device) => {
                let missing = || self.missing_of_server(server, source).map(|missing| (device, missing));
                if token.upstream == source.flow { None } else { missing() }
            }
            None if self.attachments.is_gone(device) && token.upstream == source.flow => None,
            None => Some((device, Missing::Binding)),
        }
    }

    /// The registration that a Path leads to: the one that it names, or that which has just taken its place.
    fn led_to(&self, now: Instant, named: InstanceId) -> InstanceId {
        if self.push_bindings.knows(named) {
            return named;
        }
        // A message may be on its way so long (RFC 3261 §17.1.1.1).
        let recent = self.successors.recent(now, named, self.core.settings.timing.transaction.t4);
        recent.filter(|successor| self.push_bindings.knows(*successor)).unwrap_or(named)
    }

    /// A request that came back by our Path.
    pub(super) fn on_path_request(
        &mut self,
        now: Instant,
        source: Source,
        reply: Reply<'_>,
        request: Message,
        (instance, reach): (InstanceId, Reach),
    ) {
        let instance = self.led_to(now, instance);
        self.answer_held(now, instance);
        let attached = self.attachments.is_attached(instance);
        let may_come = |row: &&Row| row.lingers.is_none() || attached && !row.is_released();
        let row = self.push_bindings.rows.get(&instance).filter(may_come);
        let Some(Row { binding, flow_failure, .. }) = row else {
            return self.refuse_unknown_path(&source, &request, reach);
        };
        let (binding, flow_failure) = (*binding, *flow_failure);
        if !self.is_trusted(binding, &source) {
            return self.refuse_stranger(&source, &request, 403);
        }
        if is_in_dialog(&request) {
            return self.refuse(now, reply, &request, 481);
        }
        if let Some(status) = flow_failure.filter(|_| !attached) {
            return self.refuse_without_flow(now, reply, &request, status);
        }
        match request.method() {
            Some(Method::Invite) => {
                let bytes = request.edit().pop(Name::Route).finish();
                let Ok(invite) = Message::parse(&bytes, &Limits::COMPOSED) else {
                    return self.refuse_call(now, reply, &request, 513);
                };
                self.on_invite(now, source, reply, invite, binding);
            }
            Some(Method::Register) => self.refuse(now, reply, &request, 405),
            // A registrar that asks whether its Contact is still there must not wake the phone each minute.
            Some(Method::Options) if !attached || self.is_silent(instance) => self.answer_options(now, reply, &request),
            _ => match forward::check(&request, &self.core.settings.own_addresses()) {
                Err(stop) => self.refuse(now, reply, &request, stop.status()),
                Ok(()) => {
                    // RFC 6665 §4.1, RFC 3515 §2.4.4: the device's NOTIFYs come back by our Record-Route.
                    let begins = matches!(request.method(), Some(Method::Subscribe | Method::Refer));
                    let begun_by = begins.then_some((source.flow, source.transport));
                    let edits = HeaderEdits { ours: 1, begun_by };
                    match self.hop_to_device(instance) {
                        Some(hop) if flow_failure.is_none() => self.forward_heard(now, reply, &request, edits, hop),
                        Some(hop) => drop(self.forward(now, reply, &request, edits, hop)),
                        None => {
                            self.wake_for_request(now, instance);
                            self.park(now, reply, &request, Side::Upstream, instance, edits);
                        }
                    }
                }
            },
        }
    }
}

/// How long before its end a registration is pushed for.
fn renew_before(refreshes_itself: bool, expires: Duration) -> Duration {
    if refreshes_itself { RENEW_BEFORE.min(expires / 4) } else { push_proxy::renew_before(expires) }
}
