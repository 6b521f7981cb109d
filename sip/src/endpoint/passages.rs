//! REGISTERs on their way through, from a device to its own SIP server and back (RFC 3327, RFC 8599 §5.6.1).
//!
//! | REGISTER | from here |
//! | --- | --- |
//! | comes | the shell is asked for its way: 403, 555, or an upstream |
//! | has its way | on the upstream's flow, with our Path, `Supported: path` and Feature-Caps; dialled first where there is none |
//! | 401, 407 | back to the device: the digest is between the two |
//! | 2xx, pushes asked for | `proxied` keeps it; back with Feature-Caps |
//! | 2xx, no more pushes or `expires=0` | forgotten |
//! | 403, 404, 410, 604 | forgotten |
//! | silence, no flow | 504 |
//!
//! Invariant: nothing is kept of a REGISTER that its SIP server has not accepted. A flow has at most [`PASSAGES_PER_FLOW`]
//! of them under way and [`BURST`] at once; every way that the shell gave is given back once, by [`Event::Left`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::devices::INSTANCES_PER_FLOW;
use super::proxied::{CONTACTS_PER_AOR, PassageId, ProxiedEnd, ProxyWay, REGISTRATIONS_MAX, WayAsked};
use super::{ClientOwner, Endpoint, Event, Output, ServerOwner, Side, Source, Timer, Transport};
use crate::edge::forward;
use crate::edge::push_proxy::{self, Asked, Wish};
use crate::id::{BranchId, FlowId, UpstreamId};
use crate::message::{Composer, Message, Method, Name, Uri};
use crate::transaction::ServerId;

/// REGISTERs of one flow that may be under way; a further one is answered 503.
pub const PASSAGES_PER_FLOW: u8 = 8;
/// REGISTERs that one flow may send at once, and then one more every two seconds; a further one is answered 503.
pub const BURST: u8 = 40;
/// Of those 503, so many until the flow is closed.
pub const OVERRUNS_MAX: u8 = 40;
/// REGISTERs under way on one shard; a further one is answered 503.
pub const PASSAGES_MAX: usize = 20_000;
/// SIP servers that are dialled at once because of a REGISTER, on one shard; one for a further one is answered 503.
pub const DIALS_MAX: usize = 64;
/// How long a REGISTER waits for a flow to its SIP server; then 504.
pub const WAIT_FOR_FLOW: Duration = Duration::from_secs(15);
/// What a device that goes too fast is told to wait, in seconds.
const RETRY_AFTER_S: u32 = 10;

/// What is under way.
#[derive(Default)]
pub(super) struct Passages {
    under_way: BTreeMap<PassageId, Passage>,
    next: u64,
    passengers: HashMap<FlowId, Passenger>,
}

impl Passages {
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }
}

/// One REGISTER.
pub(super) struct Passage {
    pub(super) source: Source,
    server: ServerId,
    register: Box<Message>,
    pub(super) asked: Asked,
    pub(super) registrar: Box<str>,
    pub(super) proxy: Option<Box<str>>,
    /// How many of its Routes are ours.
    own_routes: usize,
    pub(super) way: Option<ProxyWay>,
    branch: Option<BranchId>,
}

/// What is known of a flow that REGISTERs came by.
struct Passenger {
    budget: u8,
    refilled: Instant,
    overruns: u8,
    under_way: u8,
}

impl Endpoint {
    /// A REGISTER at the edge that is not for the relay itself.
    pub(super) fn on_passing_register(&mut self, now: Instant, source: Source, reply: FlowId, register: Message) {
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
        if !self.spend_passage(now, source.flow) {
            return self.slow_down(now, source.flow, reply, &register);
        }
        let full = self.proxied.passages.len() >= PASSAGES_MAX || self.proxied.counts().0 >= REGISTRATIONS_MAX;
        let Some(server) = self.transactions.open(&register, reply, ServerOwner::Nobody).ok().filter(|_| !full) else {
            return self.busy(reply, &register);
        };
        let passage = PassageId(self.proxied.passages.next);
        self.proxied.passages.next += 1;
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
        if let Some(passenger) = self.proxied.passages.passengers.get_mut(&source.flow) {
            passenger.under_way += 1;
        }
        // So that its end is heard of.
        self.device_flows.entry(source.flow).or_default();
        let register = Box::new(register);
        let row = Passage { source, server, register, asked, registrar, proxy, own_routes, way: None, branch: None };
        self.proxied.passages.under_way.insert(passage, row);
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
        let Some(passage) = self.proxied.passages.under_way.get_mut(&id) else {
            return self.event(Event::Left(upstream));
        };
        let registrar = way.registrar.clone();
        passage.way = Some(way);
        self.join_as_guest(now, upstream, registrar);
        if !self.may_register_now(now, upstream) {
            return self.end_passage(now, id, 503);
        }
        match self.flow_of_upstream(upstream) {
            Some((flow, transport)) => self.send_passage(now, id, flow, transport),
            None if self.dials_for_others(upstream) >= DIALS_MAX => self.end_passage(now, id, 503),
            None => {
                self.later(now, WAIT_FOR_FLOW, Timer::Passage(id));
                self.want_flow_for_guest(upstream);
            }
        }
    }

    fn send_passage(&mut self, now: Instant, id: PassageId, flow: FlowId, transport: Transport) {
        let branch = self.branch();
        let Some(passage) = self.proxied.passages.under_way.get_mut(&id) else { return };
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
        let theirs = self.proxied.passages.under_way.iter().filter(|(_, it)| to(it) && it.branch.is_none() == waiting);
        theirs.map(|(id, _)| *id).collect()
    }

    /// How many SIP servers other than this one REGISTERs wait for: whoever names one after the other that is silent keeps
    /// no dialler from those that answer.
    fn dials_for_others(&self, upstream: UpstreamId) -> usize {
        let waiting = self.proxied.passages.under_way.values().filter(|passage| passage.branch.is_none());
        let others = waiting.filter_map(|passage| passage.way.as_ref().map(|way| way.upstream));
        others.filter(|other| *other != upstream).collect::<BTreeSet<_>>().len()
    }

    pub(super) fn on_passage_due(&mut self, now: Instant, id: PassageId) {
        if self.proxied.passages.under_way.get(&id).is_some_and(|passage| passage.branch.is_none()) {
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
            if let Some(passage) = self.proxied.passages.under_way.get(&id) {
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
        let passage = self.proxied.passages.under_way.remove(&id)?;
        if let Some(passenger) = self.proxied.passages.passengers.get_mut(&passage.source.flow) {
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
        let passenger = self.proxied.passages.passengers.entry(flow).or_insert_with(fresh);
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
        if self.proxied.passages.passengers.get(&flow).is_some_and(|passenger| passenger.overruns >= OVERRUNS_MAX) {
            self.flush();
            self.outputs.push_back(Output::Close(flow));
        }
    }

    /// A flow has ended: what passed through from it goes on without anybody to answer to.
    pub(super) fn forget_passenger(&mut self, flow: FlowId) {
        self.proxied.passages.passengers.remove(&flow);
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
