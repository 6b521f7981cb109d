//! REGISTERs that are forwarded from a device to its own SIP server (RFC 3327, RFC 8599 §5.6.1).
//!
//! | REGISTER | action |
//! | --- | --- |
//! | comes | the shell is asked for its route: 403 with a Warning, 503, 555, or an upstream |
//! | asks which push services there are | 200 from here: it is not forwarded |
//! | has its route, and its turn (`register_turns`) | goes by the upstream's flow, with our Path, `Supported: path` and Feature-Caps |
//! | 401, 407 | goes back to the device: the digest is between the two; whether its proof has failed, `given_nonces` says |
//! | 2xx, pushes asked for | `push_bindings` keeps it; the 2xx goes back with Feature-Caps, once it is kept (`held_answers`) |
//! | 2xx, no pushes asked for, and the shell permits a flow binding | `push_bindings` keeps it while its flow is open |
//! | 2xx, no more pushes or `expires=0` | is forgotten; the shell is told if it is not known here |
//! | another refusal | goes back to the device; what an earlier one has registered stays until its grant is over, for the SIP server calls by it (RFC 3261 §10.3) |
//! | 2xx, after a REGISTER that was sent later was accepted | goes back to the device; what the later one has registered stays, and what it has removed does not come back |
//! | 408, 430, 480, 500, 502, 503 or 504, and another address of the SIP server is sought for it (`upstreams`) | is sent once more, by the next flow, and so on along the list, within 32 s; goes back to the device when there is none |
//! | its flow ends, or is left for silence | likewise, once more also to the same address |
//! | silence, no flow | 504 |
//!
//! Invariant: nothing is kept of a REGISTER that its SIP server has not accepted. A flow has at most [`REGISTERS_PER_FLOW`] of them under way and [`REGISTERS`]
//! at once. Every upstream that the shell gave is given back once, by [`Event::UpstreamReleased`].

use std::collections::BTreeSet;
use std::time::Instant;

use super::attachments::INSTANCES_PER_FLOW;
use super::push_bindings::{Accepted, CONTACTS_PER_AOR, REGISTRATIONS_MAX};
use super::pushed::{
    CarriedProof, ContactsRemoved, ForwardedRegisterId, PushBindingEnd, RegisterRoute, RouteRefusal, RouteRequest,
};
use super::register_outcomes::{Answered, ProofWord};
use super::register_table::ForwardedRegister;
pub use super::register_table::{QUOTA_VIOLATIONS_MAX, REGISTERS, REGISTERS_PER_FLOW, REGISTERS_PER_SOURCE};
use super::register_turns::Stage;
use super::upstreams::{NextAddress, PassedSender};
use super::{ClientOwner, Endpoint, Event, Output, ServerOwner, Side, Source, Transport};
use crate::auth::usernames;
use crate::edge::forward;
use crate::edge::own_proof;
use crate::edge::push_proxy::{self, PushRequest, Reach, RegisterIntent, names_device};
use crate::edge::removed_contacts::{RemovedContact, removed_contacts};
use crate::edge::returned;
use crate::id::{BindingId, FlowId, InstanceId};
use crate::message::{Composer, Message, Method, Name, Uri};
use crate::transaction::Reply;

/// REGISTERs under way on one shard; a further one is answered 503.
pub const REGISTERS_MAX: usize = 20_000;
/// User names in the credentials of one REGISTER; one with more, or with one over [`USERNAME_BYTES`](crate::auth::USERNAME_BYTES), is answered 400.
pub const USERNAMES_MAX: usize = 4;
/// The Retry-After of a device that sends too many, in seconds.
const RETRY_AFTER_S: u32 = 10;
/// The text of a Warning in a 2xx: its SIP server sends back the Path that it keeps (RFC 3327 §5.3), unless it is told not to.
const NO_PATH: &str =
    "your SIP server does not say that it keeps Path (RFC 3327), without which no call comes by this relay";

impl Endpoint {
    /// A REGISTER at the edge that is not for the relay itself.
    pub(super) fn on_forwarded_register(&mut self, now: Instant, source: Source, reply: Reply<'_>, register: Message) {
        let register = own_proof::without(&register).unwrap_or(register);
        if let Err(stop) = forward::check(&register, &self.core.settings.own_addresses()) {
            return self.refuse(now, reply, &register, stop.status());
        }
        let own_routes = self.own_routes(&register);
        let intent = match push_proxy::read(&register, own_routes) {
            Ok(intent) => intent,
            Err(status) => {
                return match push_proxy::contact_fault(&register).filter(|_| status == 400) {
                    Some(why) => self.refuse_with_warning(now, reply, &register, status, why),
                    None => self.refuse(now, reply, &register, status),
                };
            }
        };
        if let Err(why) = self.may_pass(&source, &intent) {
            return self.refuse_with_warning(now, reply, &register, 403, why);
        }
        if !self.registers.spend_quota(now, source.flow) {
            return self.slow_down(now, source.flow, reply, &register);
        }
        let proof = carried_proof(&register).filter(|_| intent.proves);
        if intent.proves && proof.is_none() {
            return self.refuse(now, reply, &register, 400);
        }
        let asks_for = intent.registration(&self.core.token_key);
        let is_familiar = self.is_familiar(&source, &intent, asks_for);
        let crowded = self.registers.is_crowded(source.peer.ip()) && !(is_familiar && self.has_own_place(&intent));
        let full = crowded || self.registers.len() >= REGISTERS_MAX || self.push_bindings.len() >= REGISTRATIONS_MAX;
        // Nobody would answer a transaction that is begun for one that has no room.
        let opened = (!full).then(|| self.core.transactions.open(&register, reply, ServerOwner::Nobody).ok());
        let Some(server) = opened.flatten() else { return self.busy(reply, &register) };
        let row = ForwardedRegister {
            source,
            server,
            asks_for,
            is_familiar,
            registrar: register.request_uri().unwrap_or_default().into(),
            proxy: register.route(own_routes).map(|route| route.uri.text.into()),
            request: Box::new(register),
            intent,
            own_routes,
            route: None,
            stage: Stage::Route,
            sent: None,
            until: now + self.core.settings.timing.transaction.t1_64(),
            refused: None,
            failed_at: Vec::new(),
            is_overtaken: false,
        };
        let id = self.registers.next_id();
        let request = self.route_request(id, &row, proof);
        // So that its end is heard of.
        self.attachments.note_flow(row.source.flow);
        self.registers.add(id, row);
        self.core.event(Event::RouteNeeded(Box::new(request)));
    }

    /// The question to the shell by which route a REGISTER goes.
    fn route_request(
        &self,
        id: ForwardedRegisterId,
        row: &ForwardedRegister,
        proof: Option<CarriedProof>,
    ) -> RouteRequest {
        let ForwardedRegister { source, intent, asks_for, is_familiar, registrar, proxy, .. } = row;
        RouteRequest {
            register: id,
            aor: intent.aor.clone(),
            registrar: registrar.clone(),
            proxy: proxy.clone(),
            push: intent.push_request.clone(),
            source: source.peer.ip(),
            registers: asks_for.is_some(),
            renews: self.renews(source, intent),
            familiar: *is_familiar,
            proof,
        }
    }

    /// Whether a connection and an AOR have room for the registration that a REGISTER asks for; else the text of a Warning.
    fn may_pass(&self, source: &Source, intent: &RegisterIntent) -> Result<(), &'static str> {
        let Some((instance, _)) = intent.registration(&self.core.token_key) else { return Ok(()) };
        let carried = self.attachments.carried_by(source.flow, instance);
        if carried + self.coming_by(source.flow, instance, INSTANCES_PER_FLOW.saturating_sub(carried))
            >= INSTANCES_PER_FLOW
        {
            return Err("this connection carries as many registrations as it may");
        }
        let is_known = || self.push_bindings.knows(instance) || !self.place_of(source, intent, instance).is_empty();
        let room = self.push_bindings.contacts_of(intent) < CONTACTS_PER_AOR;
        if room || is_known() { Ok(()) } else { Err("this address of record has as many registrations as it may") }
    }

    /// How many further registrations than those that a flow carries, and than this one, REGISTERs under way ask it for. They
    /// are looked through only when there are so many that it matters.
    fn coming_by(&self, flow: FlowId, beside: InstanceId, matters: usize) -> usize {
        if self.registers.count_of_flow(flow) < matters {
            return 0;
        }
        let theirs = self.registers.of_flow(flow).map(|(_, register)| register);
        let asked = theirs.filter_map(|register| register.asks_for);
        let new =
            asked.map(|(instance, _)| instance).filter(|it| *it != beside && !self.attachments.carries(flow, *it));
        new.collect::<BTreeSet<_>>().len()
    }

    /// Whether a REGISTER is about a registration that is known here, and names its device: a sender that removes all Contacts of an account may know
    /// no more than the account.
    pub(super) fn renews(&self, source: &Source, intent: &RegisterIntent) -> bool {
        let takes_place = || match intent.registration(&self.core.token_key) {
            Some((instance, _)) => {
                self.push_bindings.knows(instance) || !self.place_of(source, intent, instance).is_empty()
            }
            None => !self.push_bindings.known_as(intent).is_empty(),
        };
        !intent.contact.is_empty() && takes_place()
    }

    /// Others behind its address, whose SIP server may be silent, keep no phone out that is registered here, and may have been woken: of each account two for
    /// each of its registrations find room.
    fn has_own_place(&self, intent: &RegisterIntent) -> bool {
        self.registers.familiar_of(intent) < 2 * self.push_bindings.of_contact(intent, "").len()
    }

    /// Whether a REGISTER names the push token of a registration that is known here (`asks_for`), or comes by the connection of one that it is about.
    fn is_familiar(&self, source: &Source, intent: &RegisterIntent, asks_for: Option<(InstanceId, Reach)>) -> bool {
        let named = asks_for.filter(|(_, reach)| *reach == Reach::Pushed);
        named.is_some_and(|(instance, _)| self.push_bindings.knows(instance))
            || self.push_bindings.known_as(intent).iter().any(|it| self.attachments.is_attached_by(*it, source))
    }

    /// The shell has found the route of a REGISTER, or why it has none.
    pub(super) fn on_route(
        &mut self,
        now: Instant,
        id: ForwardedRegisterId,
        route: Result<RegisterRoute, RouteRefusal>,
    ) {
        let route = match route {
            Ok(route) => route,
            Err(refusal) => return self.end_register(now, id, refusal),
        };
        let upstream = route.upstream;
        let Some(register) = self.registers.get_mut(id) else {
            return self.core.event(Event::UpstreamReleased(upstream));
        };
        if let PushRequest::Query(one) = &register.intent.push_request {
            let one = one.clone();
            self.core.event(Event::UpstreamReleased(upstream));
            return self.answer_query(now, id, one.as_deref(), &route.services);
        }
        let registrar = route.registrar.clone();
        self.registers.set_route(id, route);
        self.join_transit(now, upstream, registrar);
        self.take_register_turn(now, id, upstream);
    }

    /// Tells a device which services there are (RFC 8599 §4.1.5). Its SIP server is not asked: it has no part in the answer,
    /// and nobody without an account here shall have it asked. Nothing is registered by it, and no Contact is in the answer.
    fn answer_query(&mut self, now: Instant, id: ForwardedRegisterId, one: Option<&str>, services: &[&str]) {
        let Some(register) = self.registers.take(id) else { return };
        let tag = self.core.random.tag();
        let response = Composer::response(&register.request, 200, Composer::reason(200), Some(&tag));
        let wanted = services.iter().filter(|service| one.is_none_or(|one| one == **service));
        let response =
            wanted.fold(response, |response, service| response.header(Name::FeatureCaps, push_proxy::serves(service)));
        self.core.transactions.respond(now, register.server, 200, response.finish());
        self.ended(id, &register, None, Answered::ByRelay(200));
    }

    /// Tells the shell how a REGISTER has ended, and what became of the proof that it carried.
    fn ended(
        &mut self,
        register: ForwardedRegisterId,
        row: &ForwardedRegister,
        proof: Option<bool>,
        answered: Answered<'_>,
    ) {
        let proof = proof.filter(|_| row.intent.proves);
        let outcome = self.register_outcome(row, answered);
        let instance = row.registration().filter(|_| !row.is_overtaken).map(|(instance, _)| instance);
        let in_doubt = row.intent.proves && proof.is_none() && self.is_in_doubt(row, answered);
        self.core.event(Event::RegisterEnded { register, proof, in_doubt, outcome, instance });
    }

    pub(super) fn send_register_on(
        &mut self,
        now: Instant,
        id: ForwardedRegisterId,
        flow: FlowId,
        transport: Transport,
    ) {
        if self.registers.is_superseded_before_again(id) {
            let is_refused = self.registers.get(id).is_some_and(|register| register.refused.is_some());
            return self.end_register(now, id, if is_refused { 503 } else { 504 });
        }
        let branch = self.core.branch();
        let Some(register) = self.registers.get_mut(id) else { return };
        register.stage = Stage::Sent(branch);
        self.registers.note_sent(now, id, (flow, self.upstreams.destination(flow)));
        let Some(register) = self.registers.get(id) else { return };
        let sent_by = self.core.settings.sent_by(Side::Upstream, transport);
        let mut edit = forward::forward_request(&register.request, sent_by, branch);
        // The rest goes as its sender wrote it: many clients write their proxy without `lr`, and the Request-URI is the domain of the registration.
        for _ in 0..register.own_routes {
            edit = edit.pop(Name::Route);
        }
        if let Some(registration) = register.registration() {
            let path = push_proxy::path(&self.core.token_key, registration, sent_by, register.intent.outbound);
            edit = edit.prepend(Name::Path, path);
            if let PushRequest::Push(push) = &register.intent.push_request {
                edit = edit.append(Name::FeatureCaps, push_proxy::serves(&push.provider));
            }
            // A registrar may refuse a Path that the device says nothing of (RFC 3327 §5.3), and it is for the device.
            if !register.request.lists(Name::Supported, "path") {
                edit = edit.append(Name::Supported, "path");
            }
        }
        let bytes = own_proof::withheld(edit.finish(), register.request.body().len());
        let owner = ClientOwner::ForwardedRegister(id);
        if self.core.transactions.send(now, branch, Method::Register, bytes, flow, owner).is_err() {
            self.end_register(now, id, 503);
        }
    }

    /// The SIP server left a REGISTER without a final response: its sender has timed out too (RFC 4320 §4.2).
    pub(super) fn on_forwarded_register_timeout(&mut self, now: Instant, id: ForwardedRegisterId) {
        let silence = self.core.settings.timing.transaction.t1_64();
        let Some(register) = self.registers.get(id) else { return };
        let sender = self.passed_sender(register);
        let Some(sent) = register.sent.filter(|sent| sent.at + silence <= now) else {
            // Its flow is gone, which counts by itself.
            return self.ask_anew(now, id);
        };
        let Some(register) = self.registers.take(id) else { return };
        self.core.transactions.give_up(now, register.server);
        self.ended(id, &register, None, Answered::Silent);
        if let Some(upstream) = register.upstream() {
            self.on_passed_silent(now, upstream, sender, sent.by);
        }
        self.leave(now, &register);
    }

    /// A response to a REGISTER that went `by` this flow.
    pub(super) fn on_forwarded_register_response(
        &mut self,
        now: Instant,
        id: ForwardedRegisterId,
        by: FlowId,
        response: &Message,
    ) {
        let Some(status) = response.status() else { return };
        if let Some(upstream) = self.registers.get(id).and_then(ForwardedRegister::upstream) {
            self.upstreams.note_aside_heard(now, upstream, by);
        }
        if status < 200 {
            self.on_aside_proceeds(id);
        }
        if status == 100 {
            return;
        }
        if status < 200 {
            if let Some(register) = self.registers.get(id) {
                let passed = returned::forward_response(&register.request, response, Side::Upstream);
                self.core.transactions.respond(now, register.server, status, passed);
            }
            return;
        }
        if self.asks_elsewhere(now, id, by, status, response) {
            return;
        }
        let Some(register) = self.registers.take(id) else { return };
        let bytes = self.back(&register, status, response);
        self.answer_or_hold(now, &register, status, (response, bytes));
        if status < 300 {
            self.on_register_accepted(now, id, by, register, response);
        } else {
            self.on_register_refused(now, id, &register, status, response);
        }
    }

    /// The name of a REGISTER's account, if its SIP server had accepted the registration that it is about, or one that is attached by its connection and
    /// may be what it removes or asks for.
    fn accepted_account(&self, register: &ForwardedRegister) -> Option<BindingId> {
        let is_there = |instance: InstanceId| {
            self.push_binding_upstream(instance).is_some_and(|it| register.upstream() == Some(it))
        };
        let RegisterIntent { server, aor, .. } = &register.intent;
        let is_known = match register.registration() {
            Some((instance, _)) => is_there(instance),
            None => {
                let mut of_it = self.push_bindings.of_aor(server, aor);
                of_it.any(|it| is_there(it) && self.attachments.is_attached_by(it, &register.source))
            }
        };
        is_known.then(|| push_proxy::account_name(&self.core.token_key, &register.intent.aor))
    }

    /// The sender of a REGISTER that is under way.
    fn passed_sender(&self, register: &ForwardedRegister) -> PassedSender {
        let account = self.accepted_account(register);
        let upstream = register.upstream();
        let standing =
            upstream.zip(account).map_or(0, |(upstream, account)| self.upstreams.registered_of(upstream, account));
        let refs = standing + upstream.map_or(0, |upstream| self.registers.count_to(upstream));
        PassedSender { account, refs }
    }

    /// Counts against an address of a SIP server that it has not served a REGISTER. Returns whether the REGISTER is sent once more, by the next flow (RFC
    /// 3263 §4.3). If the first address has registered it all the same, the next one registers the same Contact.
    fn asks_elsewhere(
        &mut self,
        now: Instant,
        id: ForwardedRegisterId,
        by: FlowId,
        status: u16,
        response: &Message,
    ) -> bool {
        let Some(register) = self.registers.get(id) else { return false };
        let Some(upstream) = register.upstream() else { return false };
        self.upstreams.note_heard(now, upstream);
        if !matches!(status, 408 | 430 | 480 | 500 | 502..=504) {
            return false;
        }
        let may_go_on = register.may_go_on(now);
        let next = self.on_passed_failed(now, upstream, self.passed_sender(register), by, status);
        if !may_go_on || next == NextAddress::None {
            return false;
        }
        self.ask_next(now, id, by, response);
        if let NextAddress::Aside(flow, transport) = next {
            self.go_aside(now, id, flow, transport);
        }
        true
    }

    fn on_register_accepted(
        &mut self,
        now: Instant,
        id: ForwardedRegisterId,
        by: FlowId,
        register: ForwardedRegister,
        response: &Message,
    ) {
        let expires = register.intent.granted(response);
        if !expires.is_zero() {
            self.tell_address_grants(by);
        }
        if let Some(upstream) = register.upstream() {
            self.close_unread(upstream, by);
            let whose = self.accepted_account(&register);
            if let Some(back) = self.upstreams.note_passed(now, upstream, whose, by, expires) {
                self.on_upstream_back(now, upstream, None, &back);
            }
        }
        self.ended(id, &register, Some(true), Answered::ByServer(200, response));
        if register.intent.proves {
            let flow = register.source.flow;
            let forgiven = self.registers.forgive(flow, &register.intent.server, &register.intent.aor);
            self.forgive_failures(flow, forgiven);
        }
        let removed = removed_contacts(&register.request, &register.intent, &self.core.token_key);
        self.tell_contacts_removed(now, &register, removed.clone());
        self.overtake_earlier(&register, &removed);
        let (sent, is_overtaken) = (register.sent, register.is_overtaken);
        let Some((instance, _)) = register.registration() else {
            self.end_removed(now, &register, &removed, response);
            return self.leave(now, &register);
        };
        let ForwardedRegister { source, intent, registrar, proxy, route: Some(route), request, .. } = register else {
            return;
        };
        let push = match &intent.push_request {
            PushRequest::Push(push) => Some(push.clone()),
            PushRequest::Nothing | PushRequest::Query(_) => None,
        };
        let accepted = Accepted {
            service_route: push_proxy::service_route(response),
            identities: push_proxy::identities(response, &intent.aor),
            tries_flows: intent.outbound && response.lists(Name::Require, "outbound"),
            source,
            intent,
            instance,
            push,
            registrar,
            proxy,
            upstream: route.upstream,
            expires,
            removed,
            sent,
            is_overtaken,
        };
        self.on_accepted(now, accepted);
        if self.push_bindings.knows(instance) {
            self.proofs.note_taken(instance, &request);
        }
    }

    /// A REGISTER that makes no registration here was accepted: those whose Contacts it removes, or takes for its own, end.
    fn end_removed(
        &mut self,
        now: Instant,
        register: &ForwardedRegister,
        removed: &[RemovedContact],
        response: &Message,
    ) {
        let ForwardedRegister { source, intent, .. } = register;
        if intent.is_question {
            return;
        }
        let is_its = |removed: &RemovedContact, it: &InstanceId| {
            removed.instance.is_none() || !self.is_listed(now, intent, *it, response)
        };
        let ends = |it| self.removed_by(source, intent, it).into_iter().filter(move |other| is_its(it, other));
        let mut gone: Vec<_> = removed.iter().flat_map(ends).collect();
        if intent.expires > 0 {
            gone.extend(self.at_contact(source, intent, &intent.contact));
        }
        gone.retain(|it| !self.push_bindings.is_newer(*it, register.order()));
        for instance in gone {
            self.remove_push_binding(now, instance, PushBindingEnd::Unregistered);
        }
    }

    fn on_register_refused(
        &mut self,
        now: Instant,
        id: ForwardedRegisterId,
        register: &ForwardedRegister,
        status: u16,
        response: &Message,
    ) {
        let word = self.judge_proof(register, status, response);
        let proof = (word == ProofWord::Failed).then_some(false);
        self.ended(id, register, proof, Answered::ByServer(status, response));
        if let Some(sent) = register.sent.filter(|_| matches!(status, 401 | 407)) {
            let account = (&*register.intent.server, &*register.intent.aor);
            self.given_nonces.note_answered(sent.place, account, &register.request);
            self.given_nonces.note(sent.place, account.0, response);
        }
        // What it renews stays: its grant stands at the SIP server, which goes on calling by it, and a server that restarts refuses everybody.
        self.leave(now, register);
        if word != ProofWord::Nothing {
            let flow = register.source.flow;
            self.registers.note_failure(flow, &register.intent.server, &register.intent.aor);
            self.count_failure(flow);
        }
    }

    /// REGISTERs that were sent before an accepted one, and would register what that one has registered or removed, register nothing any more.
    fn overtake_earlier(&mut self, register: &ForwardedRegister, removed: &[RemovedContact]) {
        let ForwardedRegister { source, intent, .. } = register;
        if intent.is_question {
            return;
        }
        let registers = register.registration();
        let is_same = |earlier: &ForwardedRegister| {
            let Some((instance, reach)) = earlier.registration() else { return false };
            let contact = &earlier.intent.contact;
            let is_device = |other: &str| names_device(other) && **contact == *other;
            let is_removed = removed.iter().any(|it| match it.instance {
                Some(removed) => removed == instance || is_device(&it.contact),
                None => it.contact.is_empty() || it.contact == *contact,
            });
            let takes_place = match registers {
                // As `place_of` has it of what is registered.
                Some((later, of)) => {
                    let is_one = earlier.source.flow == source.flow || (reach, of) != (Reach::Pushed, Reach::Pushed);
                    later == instance || is_device(&intent.contact) || (is_one && *contact == intent.contact)
                }
                None => intent.expires > 0 && *contact == intent.contact,
            };
            is_removed || takes_place
        };
        self.registers.overtake(register, is_same);
    }

    /// Tells the shell what an accepted REGISTER takes back that is not known here.
    fn tell_contacts_removed(&mut self, now: Instant, register: &ForwardedRegister, mut contacts: Vec<RemovedContact>) {
        let intent = &register.intent;
        contacts.retain(|removed| match removed.instance {
            Some(instance) => !self.push_bindings.is_here(instance),
            // All of an AOR may be at several nodes.
            None => removed.contact.is_empty() || !self.push_bindings.is_device_here(intent, &removed.contact),
        });
        if !contacts.is_empty() {
            let (aor, server) = (intent.aor.clone(), intent.server.clone());
            let sent_at = register.sent.map_or(now, |sent| sent.at);
            self.core.event(Event::ContactsRemoved(Box::new(ContactsRemoved { aor, server, contacts, sent_at })));
        }
    }

    /// The response as the device gets it.
    fn back(&self, register: &ForwardedRegister, status: u16, response: &Message) -> bytes::Bytes {
        let mut edit = response.edit().answering(&register.request);
        let life = register.intent.granted(response);
        let Some((instance, _)) = register.registration().filter(|_| (200..300).contains(&status) && !life.is_zero())
        else {
            return edit.finish();
        };
        if let PushRequest::Push(push) = &register.intent.push_request {
            edit = edit.append(Name::FeatureCaps, push_proxy::feature_caps(&register.intent, push, instance, life));
        }
        if !response.has(Name::Path) {
            edit = edit.append(Name::Warning, self.warning(NO_PATH));
        }
        edit.finish()
    }

    /// Ends a REGISTER with an answer of the relay's own.
    pub(super) fn end_register(&mut self, now: Instant, id: ForwardedRegisterId, refusal: impl Into<RouteRefusal>) {
        let RouteRefusal { status, retry_after_s, warning } = refusal.into();
        let Some(register) = self.registers.take(id) else { return };
        if let Some(branch) = register.stage.branch() {
            self.core.transactions.abandon(branch);
        }
        if let Some((status, response)) = register.refused.as_ref().and_then(|it| Some((it.status()?, it))) {
            // No other address has answered it.
            let bytes = self.back(&register, status, response);
            self.core.transactions.respond(now, register.server, status, bytes);
            self.ended(id, &register, None, Answered::ByServer(status, response));
            return self.leave(now, &register);
        }
        let tag = self.core.random.tag();
        let response = Composer::response(&register.request, status, Composer::reason(status), Some(&tag));
        let wait = retry_after_s.or((status == 503).then_some(RETRY_AFTER_S));
        let warning = warning.map(|text| self.warning(text));
        let response = response.maybe(Name::RetryAfter, wait).maybe(Name::Warning, warning).finish();
        self.core.transactions.respond(now, register.server, status, response);
        self.ended(id, &register, None, Answered::ByRelay(status));
        self.leave(now, &register);
    }

    /// Gives the upstream of a REGISTER back.
    fn leave(&mut self, now: Instant, register: &ForwardedRegister) {
        if let Some(upstream) = register.upstream() {
            self.leave_transit(now, upstream);
        }
    }

    /// How many of the topmost Routes name this relay.
    pub(super) fn own_routes(&self, request: &Message) -> usize {
        let own = self.core.settings.own_addresses();
        let is_own = |uri: &Uri<'_>| {
            own.iter().any(|sent_by| match uri.port {
                Some(port) => {
                    sent_by.strip_suffix(&format!(":{port}")).is_some_and(|host| host.eq_ignore_ascii_case(uri.host))
                }
                None => sent_by.rsplit_once(':').is_some_and(|(host, _)| host.eq_ignore_ascii_case(uri.host)),
            })
        };
        (0..2).take_while(|index| request.route(*index).is_some_and(|route| is_own(&route.uri))).count()
    }

    fn slow_down(&mut self, now: Instant, flow: FlowId, reply: Reply<'_>, register: &Message) {
        let tag = self.core.random.tag();
        let response = Composer::response(register, 503, Composer::reason(503), Some(&tag));
        self.respond_once(now, reply, register, 503, response.header(Name::RetryAfter, RETRY_AFTER_S).finish());
        if self.registers.is_unruly(flow) {
            self.core.flush();
            self.core.outputs.push_back(Output::Close(flow));
        }
    }
}

/// The proof that a REGISTER carries for its SIP server; `None` where its user names are more, or longer, than anybody's.
fn carried_proof(register: &Message) -> Option<CarriedProof> {
    let values = register.values(Name::Authorization).chain(register.values(Name::ProxyAuthorization));
    let usernames = usernames(values, USERNAMES_MAX)?.into_iter().collect();
    Some(CarriedProof { usernames })
}
