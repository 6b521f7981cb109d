//! Registrations that pass through on their way to their own SIP server, and are pushed for (RFC 8599).
//!
//! | REGISTER | from here |
//! | --- | --- |
//! | comes | the shell is asked for its way: 403, 555, or an upstream |
//! | has its way | on the upstream's flow, with our Path, `Supported: path` and Feature-Caps; dialled first where there is none |
//! | 401, 407 | back to the device: the digest is between the two |
//! | 2xx, pushes asked for | the device is attached by its flow until the end that was granted; back with Feature-Caps |
//! | 2xx, no more pushes or `expires=0` | forgotten |
//! | 403, 404, 410, 604 | forgotten |
//! | silence, no flow | 504 |
//!
//! A request that comes back by our Path is a call like any other: held, pushed, offered to the flow that the device
//! registers on; its Request-URI stays as it came. What is no INVITE waits in [`super::away`].
//!
//! Invariant: nothing is kept of a REGISTER that its SIP server has not accepted. A flow has at most [`PASSAGES_PER_FLOW`]
//! of them under way and [`BURST`] at once; every way that the shell gave is given back once, by [`Event::Left`].

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use super::away::Absent;
use super::devices::{Attached, INSTANCES_PER_FLOW};
use super::{ClientOwner, Endpoint, Event, Output, ServerOwner, Side, Source, Timer, Transport};
use crate::edge::forward;
use crate::edge::push_proxy::{self, Asked, PushContact, RENEW_BEFORE, Wish};
use crate::id::{BindingId, BranchId, FlowId, InstanceId, UpstreamId};
use crate::message::{Composer, Message, Method, Name, Uri};
use crate::transaction::ServerId;

/// REGISTERs of one flow that may be under way; a further one is answered 503.
pub const PASSAGES_PER_FLOW: u8 = 8;
/// REGISTERs that one flow may send at once, and then one more every two seconds; a further one is answered 503.
pub const BURST: u8 = 40;
/// Of those 503, so many until the flow is closed.
pub const OVERRUNS_MAX: u8 = 40;
/// Registrations of one AOR; a further one is answered 403.
pub const CONTACTS_PER_AOR: usize = 16;
/// Registrations on one shard; a further one is answered 503.
pub const REGISTRATIONS_MAX: usize = 500_000;
/// REGISTERs under way on one shard; a further one is answered 503.
pub const PASSAGES_MAX: usize = 20_000;
/// How long a REGISTER waits for a flow to its SIP server; then 504.
pub const WAIT_FOR_FLOW: Duration = Duration::from_secs(15);
/// How soon a device is pushed again for requests that are no call.
pub const CALL_BACK_AGAIN: Duration = Duration::from_secs(10);
/// What a device that goes too fast is told to wait, in seconds.
const RETRY_AFTER_S: u32 = 10;

/// One REGISTER on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PassageId(pub u64);

/// A REGISTER whose way is not known yet.
pub struct WayAsked {
    /// Which one; for [`super::Input::Way`].
    pub passage: PassageId,
    /// The address of record.
    pub aor: Box<str>,
    /// Its Request-URI.
    pub registrar: Box<str>,
    /// The Route that is left when ours is taken off: the SIP server's own outbound proxy.
    pub proxy: Option<Box<str>>,
    /// What it asks for.
    pub wish: Wish,
}

/// Where a REGISTER goes.
#[derive(Clone, Debug)]
pub struct ProxyWay {
    /// Its SIP server.
    pub upstream: UpstreamId,
    /// The Request-URI of that server.
    pub registrar: Box<str>,
    /// The push services there are, as `pn-provider` names them.
    pub services: Vec<&'static str>,
}

/// A registration that its SIP server has accepted, as the shell must know it to push for it and to keep it over a restart.
pub struct ProxiedRegistration {
    /// Its name.
    pub instance: InstanceId,
    /// The address of record.
    pub aor: Box<str>,
    /// What tells the AOR's devices apart.
    pub contact: Box<str>,
    /// The Request-URI of its REGISTER.
    pub registrar: Box<str>,
    /// The Route of its REGISTER beyond ours.
    pub proxy: Option<Box<str>>,
    /// Whom to push to.
    pub push: PushContact,
    /// How long it lives from now on.
    pub expires: Duration,
    /// The device refreshes it by itself.
    pub refreshes_itself: bool,
}

/// A registration that an earlier run of this relay left behind.
pub struct Adopted {
    /// What the earlier run was told; `expires` is what is left.
    pub registration: ProxiedRegistration,
    /// Its SIP server.
    pub upstream: UpstreamId,
    /// The Request-URI of that server.
    pub upstream_registrar: Box<str>,
}

/// Why a registration is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxiedEnd {
    /// The device took it back, or wants no pushes any more.
    Unregistered,
    /// Its SIP server refused to renew it.
    Refused,
    /// Its time is over.
    Expired,
    /// The same device registered with another push token.
    Replaced,
    /// The shell said so: its push token is dead.
    Forgotten,
}

// What is in them names people and their devices.
impl fmt::Debug for WayAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WayAsked").field("passage", &self.passage).field("wish", &self.wish).finish_non_exhaustive()
    }
}

impl fmt::Debug for ProxiedRegistration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxiedRegistration").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl fmt::Debug for Adopted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.registration, f)
    }
}

/// Everything that passes through.
#[derive(Default)]
pub(super) struct Proxied {
    rows: HashMap<InstanceId, Row>,
    bindings: HashMap<BindingId, InstanceId>,
    /// AOR and device.
    contacts: BTreeMap<(Box<str>, Box<str>), InstanceId>,
    passages: BTreeMap<PassageId, Passage>,
    next_passage: u64,
    passengers: HashMap<FlowId, Passenger>,
}

struct Row {
    binding: BindingId,
    upstream: UpstreamId,
    aor: Box<str>,
    contact: Box<str>,
    expires_at: Instant,
    /// When its device is pushed to refresh it.
    renew_at: Option<Instant>,
    /// It was pushed for already in this life of it.
    renewed: bool,
    /// When its device was called back last for a request that is no call.
    called_back: Option<Instant>,
}

struct Passage {
    source: Source,
    server: ServerId,
    register: Box<Message>,
    asked: Asked,
    registrar: Box<str>,
    proxy: Option<Box<str>>,
    /// How many of its Routes are ours.
    own_routes: usize,
    way: Option<ProxyWay>,
    branch: Option<BranchId>,
}

/// What is known of a flow that REGISTERs came by.
struct Passenger {
    budget: u8,
    refilled: Instant,
    overruns: u8,
    under_way: u8,
}

impl fmt::Debug for Proxied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rows, passages) = (self.rows.len(), self.passages.len());
        f.debug_struct("Proxied").field("rows", &rows).field("passages", &passages).finish_non_exhaustive()
    }
}

impl Proxied {
    /// How many registrations, and how many REGISTERs under way, there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.rows.len(), self.passages.len())
    }

    /// Whether a registration is known.
    pub(super) fn knows(&self, instance: InstanceId) -> bool {
        self.rows.contains_key(&instance)
    }

    /// The registration behind a binding.
    pub(super) fn instance_of(&self, binding: BindingId) -> Option<InstanceId> {
        self.bindings.get(&binding).copied()
    }

    /// The SIP server of the registration behind a binding.
    pub(super) fn upstream_of(&self, binding: BindingId) -> Option<UpstreamId> {
        self.rows.get(self.bindings.get(&binding)?).map(|row| row.upstream)
    }

    fn known_as(&self, asked: &Asked) -> Vec<InstanceId> {
        if asked.contact.is_empty() {
            let of_aor = self.contacts.range((asked.aor.clone(), "".into())..);
            return of_aor.take_while(|((aor, _), _)| *aor == asked.aor).map(|(_, instance)| *instance).collect();
        }
        self.contacts.get(&(asked.aor.clone(), asked.contact.clone())).copied().into_iter().collect()
    }

    fn contacts_of(&self, aor: &str) -> usize {
        let of_aor = self.contacts.range((Box::from(aor), "".into())..);
        of_aor.take_while(|((other, _), _)| **other == *aor).take(CONTACTS_PER_AOR).count()
    }
}

impl Endpoint {
    /// A REGISTER at the edge that is not for the relay itself.
    pub(super) fn on_passing_register(&mut self, now: Instant, source: Source, reply: FlowId, register: Message) {
        if !self.spend_passage(now, source.flow) {
            return self.slow_down(now, source.flow, reply, &register);
        }
        if let Err(stop) = forward::check(&register, &self.settings.faces()) {
            return self.refuse(now, reply, &register, stop.status());
        }
        let asked = match push_proxy::read(&register) {
            Ok(asked) => asked,
            Err(status) => return self.refuse(now, reply, &register, status),
        };
        if !self.may_pass(&source, &asked) {
            return self.refuse(now, reply, &register, 403);
        }
        let full = self.proxied.passages.len() >= PASSAGES_MAX || self.proxied.rows.len() >= REGISTRATIONS_MAX;
        let Some(server) = self.transactions.open(&register, reply, ServerOwner::Nobody).ok().filter(|_| !full) else {
            return self.busy(reply, &register);
        };
        let passage = PassageId(self.proxied.next_passage);
        self.proxied.next_passage += 1;
        let own_routes = self.own_routes(&register);
        let proxy: Option<Box<str>> = register.route(own_routes).map(|route| route.uri.text.into());
        let registrar: Box<str> = register.request_uri().unwrap_or_default().into();
        let way = WayAsked {
            passage,
            aor: asked.aor.clone(),
            registrar: registrar.clone(),
            proxy: proxy.clone(),
            wish: asked.wish.clone(),
        };
        if let Some(passenger) = self.proxied.passengers.get_mut(&source.flow) {
            passenger.under_way += 1;
        }
        // So that its end is heard of.
        self.device_flows.entry(source.flow).or_default();
        let register = Box::new(register);
        let row = Passage { source, server, register, asked, registrar, proxy, own_routes, way: None, branch: None };
        self.proxied.passages.insert(passage, row);
        self.event(Event::Way(Box::new(way)));
    }

    /// Whether a REGISTER may travel on: it asks for pushes, or about them, or ends what asked for them. Nothing else is
    /// this relay's business.
    fn may_pass(&self, source: &Source, asked: &Asked) -> bool {
        let Wish::Push(push) = &asked.wish else {
            return matches!(asked.wish, Wish::Query(_)) || !self.proxied.known_as(asked).is_empty();
        };
        let (instance, _) = push_proxy::identify(&self.token_key, &asked.aor, push);
        let replaces = !self.proxied.known_as(asked).is_empty();
        let room = self.carried_by(source.flow, instance) < INSTANCES_PER_FLOW;
        room && (self.proxied.knows(instance) || replaces || self.proxied.contacts_of(&asked.aor) < CONTACTS_PER_AOR)
    }

    /// The shell has found the way of a REGISTER, or the status that refuses it.
    pub(super) fn on_way(&mut self, now: Instant, id: PassageId, way: Result<ProxyWay, u16>) {
        let way = match way {
            Ok(way) => way,
            Err(status) => return self.end_passage(now, id, status),
        };
        let upstream = way.upstream;
        let Some(passage) = self.proxied.passages.get_mut(&id) else { return self.event(Event::Left(upstream)) };
        let registrar = way.registrar.clone();
        passage.way = Some(way);
        self.join_as_guest(now, upstream, registrar);
        if !self.may_register_now(now, upstream) {
            return self.end_passage(now, id, 503);
        }
        match self.flow_of_upstream(upstream) {
            Some((flow, transport)) => self.send_passage(now, id, flow, transport),
            None => {
                self.later(now, WAIT_FOR_FLOW, Timer::Passage(id));
                self.want_flow_for_guest(upstream);
            }
        }
    }

    fn send_passage(&mut self, now: Instant, id: PassageId, flow: FlowId, transport: Transport) {
        let branch = self.branch();
        let Some(passage) = self.proxied.passages.get_mut(&id) else { return };
        passage.branch = Some(branch);
        let face = self.settings.face(Side::Upstream, transport);
        let mut edit = forward::onward(&passage.register, face, branch);
        for _ in 0..passage.own_routes {
            edit = edit.pop(Name::Route);
        }
        if let Wish::Push(push) = &passage.asked.wish {
            let (instance, _) = push_proxy::identify(&self.token_key, &passage.asked.aor, push);
            let path = push_proxy::path(&self.token_key, instance, face, passage.asked.outbound);
            edit = edit.prepend(Name::Path, path).append(Name::FeatureCaps, push_proxy::serves(&push.provider));
            // A registrar may refuse a Path that the device says nothing of (RFC 3327 §5.3), and it is for the device.
            if !passage.register.lists(Name::Supported, "path") {
                edit = edit.append(Name::Supported, "path");
            }
        }
        let owner = ClientOwner::Passage(id);
        if self.transactions.send(now, branch, Method::Register, edit.finish(), flow, owner).is_err() {
            self.end_passage(now, id, 503);
        }
    }

    /// A flow to a SIP server is up: what waited for it goes.
    pub(super) fn send_waiting(&mut self, now: Instant, upstream: UpstreamId) {
        let Some((flow, transport)) = self.flow_of_upstream(upstream) else { return };
        for id in self.passages_to(upstream, true) {
            self.send_passage(now, id, flow, transport);
        }
    }

    /// There is no flow to a SIP server. `waiting`: what waits for one ends; else what was sent by the one there was.
    pub(super) fn fail_passages(&mut self, now: Instant, upstream: UpstreamId, waiting: bool) {
        for id in self.passages_to(upstream, waiting) {
            self.end_passage(now, id, 504);
        }
    }

    fn passages_to(&self, upstream: UpstreamId, waiting: bool) -> Vec<PassageId> {
        let to = |passage: &Passage| passage.way.as_ref().is_some_and(|way| way.upstream == upstream);
        let theirs = self.proxied.passages.iter().filter(|(_, it)| to(it) && it.branch.is_none() == waiting);
        theirs.map(|(id, _)| *id).collect()
    }

    pub(super) fn on_passage_due(&mut self, now: Instant, id: PassageId) {
        if self.proxied.passages.get(&id).is_some_and(|passage| passage.branch.is_none()) {
            self.end_passage(now, id, 504);
        }
    }

    /// The SIP server left a REGISTER without a final response: its sender has timed out too (RFC 4320 §4.2).
    pub(super) fn on_passage_timeout(&mut self, now: Instant, id: PassageId) {
        if let Some(passage) = self.take_passage(id) {
            self.transactions.give_up(now, passage.server);
            self.leave(&passage);
        }
    }

    pub(super) fn on_passage_response(&mut self, now: Instant, id: PassageId, response: &Message) {
        let Some(status) = response.status().filter(|status| *status > 100) else { return };
        if status < 200 {
            if let Some(passage) = self.proxied.passages.get(&id) {
                self.transactions.respond(now, passage.server, status, forward::back(response, Side::Upstream));
            }
            return;
        }
        let Some(passage) = self.take_passage(id) else { return };
        let (server, flow, bytes) = (passage.server, passage.source.flow, self.back(&passage, status, response));
        self.transactions.respond(now, server, status, bytes);
        self.flush();
        let failed = passage.asked.proves && is_failed_proof(status, response);
        match (&passage.asked.wish, status) {
            (Wish::Push(push), 200..300) => {
                let push = push.clone();
                return self.on_accepted(now, passage, push, response);
            }
            (Wish::Nothing, 200..300) => {
                for instance in self.proxied.known_as(&passage.asked) {
                    self.forget_proxied(now, instance, ProxiedEnd::Unregistered);
                }
            }
            // Whoever knows its push token may end it; nobody else can name it.
            (Wish::Push(push), 403 | 404 | 410 | 604) => {
                let (instance, _) = push_proxy::identify(&self.token_key, &passage.asked.aor, push);
                self.forget_proxied(now, instance, ProxiedEnd::Refused);
            }
            _ => {}
        }
        self.leave(&passage);
        if failed {
            self.count_failure(flow);
        }
    }

    /// The response as the device gets it.
    fn back(&self, passage: &Passage, status: u16, response: &Message) -> bytes::Bytes {
        let mut edit = response.edit().pop(Name::Via);
        if (200..300).contains(&status) {
            match (&passage.asked.wish, &passage.way) {
                (Wish::Push(push), _) => {
                    let (instance, _) = push_proxy::identify(&self.token_key, &passage.asked.aor, push);
                    let value = push_proxy::feature_caps(&passage.asked, push, instance);
                    edit = edit.append(Name::FeatureCaps, value);
                }
                (Wish::Query(one), Some(way)) => {
                    let wanted = |service: &&&str| one.as_deref().is_none_or(|one| one == **service);
                    for service in way.services.iter().filter(wanted) {
                        edit = edit.append(Name::FeatureCaps, push_proxy::serves(service));
                    }
                }
                _ => {}
            }
        }
        edit.finish()
    }

    /// A SIP server has accepted a registration that asks for pushes.
    fn on_accepted(&mut self, now: Instant, passage: Passage, push: PushContact, response: &Message) {
        let (instance, binding) = push_proxy::identify(&self.token_key, &passage.asked.aor, &push);
        let expires = passage.asked.granted(response);
        let Passage { source, asked, registrar, proxy, way: Some(way), .. } = passage else { return };
        for other in self.proxied.known_as(&asked).into_iter().filter(|other| *other != instance) {
            self.forget_proxied(now, other, ProxiedEnd::Replaced);
        }
        if expires.is_zero() {
            self.forget_proxied(now, instance, ProxiedEnd::Unregistered);
            return self.leave_as_guest(way.upstream, None);
        }
        let registration = ProxiedRegistration {
            instance,
            aor: asked.aor,
            contact: asked.contact,
            registrar,
            proxy,
            push,
            expires,
            refreshes_itself: asked.refreshes_itself,
        };
        self.write_down(now, binding, way.upstream, &registration);
        self.event(Event::Proxied(Box::new(registration)));
        let expires_at = now + expires;
        if self.device_flow_carries(source.flow, instance) {
            let attached = Attached { flow: source.flow, transport: source.transport, contact: "".into(), expires_at };
            self.attach(now, instance, attached);
            self.offer_all(now, instance);
            self.send_kept(now, Absent::Device(instance));
        }
    }

    /// A registration of an earlier run.
    pub(super) fn on_adopt(&mut self, now: Instant, adopted: Adopted) {
        let Adopted { registration, upstream, upstream_registrar } = adopted;
        let (instance, binding) = push_proxy::identify(&self.token_key, &registration.aor, &registration.push);
        self.join_as_guest(now, upstream, upstream_registrar);
        if self.proxied.knows(instance) || instance != registration.instance || registration.expires.is_zero() {
            return self.leave_as_guest(upstream, None);
        }
        self.write_down(now, binding, upstream, &registration);
        // So that its addresses are known, and its requests believed.
        self.want_flow_for_guest(upstream);
    }

    /// Writes a registration down, or its new life. The way that it came by is the row's from now on.
    fn write_down(
        &mut self,
        now: Instant,
        binding: BindingId,
        upstream: UpstreamId,
        registration: &ProxiedRegistration,
    ) {
        let ProxiedRegistration { instance, aor, contact, expires, refreshes_itself, .. } = registration;
        let (instance, expires) = (*instance, *expires);
        let before = match refreshes_itself {
            true => RENEW_BEFORE.min(expires / 4),
            false => push_proxy::renew_before(expires),
        };
        let expires_at = now + expires;
        let row = Row {
            binding,
            upstream,
            aor: aor.clone(),
            contact: contact.clone(),
            expires_at,
            renew_at: Some(expires_at - before),
            renewed: false,
            called_back: None,
        };
        if let Some(earlier) = self.proxied.rows.insert(instance, row) {
            self.proxied.contacts.remove(&(earlier.aor, earlier.contact));
            self.leave_as_guest(earlier.upstream, None);
        }
        self.proxied.bindings.insert(binding, instance);
        self.proxied.contacts.insert((aor.clone(), contact.clone()), instance);
        if !self.devices.contains_key(&instance) {
            self.add_device(now, instance, binding);
        }
        self.timers.set(expires_at - before, Timer::Proxied(instance));
        self.timers.set(expires_at, Timer::Proxied(instance));
    }

    /// A registration is to be refreshed, or is over.
    pub(super) fn on_proxied_due(&mut self, now: Instant, instance: InstanceId) {
        let Some(row) = self.proxied.rows.get_mut(&instance) else { return };
        if row.expires_at <= now {
            return self.forget_proxied(now, instance, ProxiedEnd::Expired);
        }
        if row.renew_at.is_none_or(|at| at > now) {
            return;
        }
        // A push may be lost: once more, half-way to the end.
        let again = (!std::mem::replace(&mut row.renewed, true)).then(|| now + (row.expires_at - now) / 2);
        row.renew_at = again;
        if let Some(at) = again {
            self.timers.set(at, Timer::Proxied(instance));
        }
        self.event(Event::Refresh(instance));
    }

    /// Has a device that passed through pushed, because a request waits for it that is no call. One push serves all that
    /// wait.
    pub(super) fn call_back(&mut self, now: Instant, instance: InstanceId) {
        let Some(row) = self.proxied.rows.get_mut(&instance) else { return };
        if row.called_back.is_some_and(|at| at + CALL_BACK_AGAIN > now) {
            return;
        }
        row.called_back = Some(now);
        if self.spend_call(now, instance) {
            self.event(Event::Refresh(instance));
        }
    }

    /// Ends a registration's calls and forgets it. The SIP server is told nothing: only the device can.
    pub(super) fn forget_proxied(&mut self, now: Instant, instance: InstanceId, end: ProxiedEnd) {
        let Some(row) = self.proxied.rows.remove(&instance) else { return };
        self.proxied.bindings.remove(&row.binding);
        self.proxied.contacts.remove(&(row.aor, row.contact));
        self.remove_device(now, instance);
        self.leave_as_guest(row.upstream, Some(instance));
        self.event(Event::ProxiedEnded { instance, end });
    }

    /// A request that came back by our Path.
    pub(super) fn on_path_request(
        &mut self,
        now: Instant,
        source: Source,
        reply: FlowId,
        request: Message,
        instance: InstanceId,
    ) {
        let Some(binding) = self.proxied.rows.get(&instance).map(|row| row.binding) else {
            // A registrar of RFC 5626 takes the binding for dead and tries another one (§5.3 there).
            let outbound = request.route(0).is_some_and(|route| route.uri.params.get("ob").is_some());
            return self.refuse_call(now, reply, &request, if outbound { 430 } else { 404 });
        };
        if !self.is_trusted(binding, &source) {
            return self.refuse_call(now, reply, &request, 403);
        }
        if request.to().is_some_and(|to| to.tag().is_some()) {
            return self.refuse(now, reply, &request, 481);
        }
        let attached = self.attached.contains_key(&instance);
        match request.method() {
            Some(Method::Invite) => {
                let bytes = request.edit().pop(Name::Route).finish();
                let Ok(invite) = Message::parse(&bytes, &self.settings.limits) else {
                    return self.refuse_call(now, reply, &request, 513);
                };
                self.on_invite(now, source, reply, invite, binding);
            }
            Some(Method::Register) => self.refuse(now, reply, &request, 405),
            // A registrar that asks whether its Contact is still there must not wake the phone each minute.
            Some(Method::Options) if !attached => self.answer_options(now, reply, &request),
            _ => match forward::check(&request, &self.settings.faces()) {
                Err(stop) => self.refuse(now, reply, &request, stop.status()),
                Ok(()) => match self.way_to_device(instance) {
                    Some(way) => self.forward(now, reply, &request, 1, way),
                    None => {
                        self.call_back(now, instance);
                        self.keep(now, reply, &request, Side::Upstream, instance, 1);
                    }
                },
            },
        }
    }

    /// Ends a REGISTER with an answer of the relay's own.
    fn end_passage(&mut self, now: Instant, id: PassageId, status: u16) {
        let Some(passage) = self.take_passage(id) else { return };
        if let Some(branch) = passage.branch {
            self.transactions.abandon(branch);
        }
        let tag = self.random.tag();
        let response = Composer::response(&passage.register, status, Composer::reason(status), Some(&tag));
        let wait = (status == 503).then_some(RETRY_AFTER_S);
        self.transactions.respond(now, passage.server, status, response.maybe(Name::RetryAfter, wait).finish());
        self.leave(&passage);
    }

    fn take_passage(&mut self, id: PassageId) -> Option<Passage> {
        let passage = self.proxied.passages.remove(&id)?;
        if let Some(passenger) = self.proxied.passengers.get_mut(&passage.source.flow) {
            passenger.under_way = passenger.under_way.saturating_sub(1);
        }
        Some(passage)
    }

    /// Gives the way of a REGISTER back.
    fn leave(&mut self, passage: &Passage) {
        if let Some(way) = &passage.way {
            self.leave_as_guest(way.upstream, None);
        }
    }

    /// How many of the topmost Routes name this relay.
    fn own_routes(&self, request: &Message) -> usize {
        let faces = self.settings.faces();
        let is_own = |uri: &Uri<'_>| {
            faces.iter().any(|face| match uri.port {
                Some(port) => {
                    face.strip_suffix(&format!(":{port}")).is_some_and(|host| host.eq_ignore_ascii_case(uri.host))
                }
                None => face.rsplit_once(':').is_some_and(|(host, _)| host.eq_ignore_ascii_case(uri.host)),
            })
        };
        (0..2).take_while(|index| request.route(*index).is_some_and(|route| is_own(&route.uri))).count()
    }

    /// Takes one REGISTER from a flow's budget; whether there was one.
    fn spend_passage(&mut self, now: Instant, flow: FlowId) -> bool {
        let fresh = || Passenger { budget: BURST, refilled: now, overruns: 0, under_way: 0 };
        let passenger = self.proxied.passengers.entry(flow).or_insert_with(fresh);
        let earned = now.saturating_duration_since(passenger.refilled).as_secs() / 2;
        if earned > 0 {
            passenger.budget = u64::from(passenger.budget).saturating_add(earned).min(u64::from(BURST)) as u8;
            passenger.refilled = now;
        }
        let granted = passenger.budget > 0 && passenger.under_way < PASSAGES_PER_FLOW;
        passenger.budget = passenger.budget.saturating_sub(1);
        passenger.overruns = if granted { passenger.overruns } else { passenger.overruns.saturating_add(1) };
        granted
    }

    fn slow_down(&mut self, now: Instant, flow: FlowId, reply: FlowId, register: &Message) {
        let tag = self.random.tag();
        let response = Composer::response(register, 503, Composer::reason(503), Some(&tag));
        self.respond_once(now, reply, register, 503, response.header(Name::RetryAfter, RETRY_AFTER_S).finish());
        if self.proxied.passengers.get(&flow).is_some_and(|passenger| passenger.overruns >= OVERRUNS_MAX) {
            self.flush();
            self.outputs.push_back(Output::Close(flow));
        }
    }

    /// A flow has ended: what passed through from it goes on without anybody to answer to.
    pub(super) fn forget_passenger(&mut self, flow: FlowId) {
        self.proxied.passengers.remove(&flow);
    }
}

/// Whether a response says that the proof in its request was wrong, and not merely old.
fn is_failed_proof(status: u16, response: &Message) -> bool {
    let challenges = || response.elements(Name::WwwAuthenticate).chain(response.elements(Name::ProxyAuthenticate));
    let is_stale = || challenges().any(|part| part.to_ascii_lowercase().replace([' ', '"'], "").contains("stale=true"));
    match status {
        401 | 407 => !is_stale(),
        403 => true,
        _ => false,
    }
}
