//! Registrations: the next step of each, and what the shell is told of it.
//!
//! Invariant: only the [`Pace`](super::upstreams) of an upstream begins a REGISTER. At most one timer of a binding counts.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::upstreams::{GrantEffects, Timeliness};
use super::{ClientOwner, Endpoint, Event, GivenName, NewBinding, Presence, Source, Timer, Unbinding};
use crate::auth::Hash;
use crate::flow::Side;
use crate::id::{BindingId, BranchId, FlowId, InstanceId, UpstreamId};
use crate::message::{Message, Method, Uri, unescaped};
use crate::registration::grant::{flow_timer, seen_from};
use crate::registration::{Goal, NewRegistration, Registration, RegistrationFailure, RequestContext, Step, Terms};

/// The hashes for a digest; MD5 unless the operator forbids it.
const HASHES: &[Hash] = &[Hash::Sha512_256, Hash::Sha256, Hash::Md5];
const HASHES_BUT_MD5: &[Hash] = &[Hash::Sha512_256, Hash::Sha256];

/// The hashes for a digest.
pub(super) fn hashes(allow_md5: bool) -> &'static [Hash] {
    if allow_md5 { HASHES } else { HASHES_BUT_MD5 }
}

/// The status of a failure that says something about the server for other accounts: not that it does not know this one, or
/// has no room for one more Contact of it.
fn server_failure(step: &Step) -> Option<u16> {
    match *step {
        Step::Failed(RegistrationFailure::Retry { status: Some(403 | 404 | 604), .. }) => None,
        Step::Failed(RegistrationFailure::Retry { status, .. }) => status,
        _ => None,
    }
}

/// A response to a REGISTER of a binding.
pub(super) struct RegisterAnswer<'a> {
    pub(super) branch: BranchId,
    /// The flow that the REGISTER was sent by.
    pub(super) by: FlowId,
    pub(super) timeliness: Timeliness,
    pub(super) response: &'a Message,
}

/// The registrations of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    rows: HashMap<BindingId, Box<Registration>>,
    /// GRUUs of bindings (RFC 5627), in their canonical form; empty where no registrar gives any.
    gruus: BTreeSet<(GivenName, BindingId)>,
    /// The number of registrations so far, which makes Call-IDs unique.
    generation: u32,
    /// The bindings that another relay registers from now on.
    handed_over: bool,
}

impl Bindings {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn get(&self, binding: BindingId) -> Option<&Registration> {
        self.rows.get(&binding).map(|registration| &**registration)
    }

    pub(super) fn get_mut(&mut self, binding: BindingId) -> Option<&mut Registration> {
        self.rows.get_mut(&binding).map(|registration| &mut **registration)
    }

    fn contains(&self, binding: BindingId) -> bool {
        self.rows.contains_key(&binding)
    }

    /// All registrations, in the order of their ids.
    #[expect(clippy::disallowed_methods, reason = "what is gathered is sorted at once")]
    pub(super) fn all(&self) -> Vec<BindingId> {
        let mut all: Vec<BindingId> = self.rows.keys().copied().collect();
        all.sort_unstable();
        all
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    fn insert(&mut self, registration: Registration) {
        self.rows.insert(registration.binding, Box::new(registration));
    }

    /// The bindings that registrars have given this GRUU.
    fn named(&self, request_uri: &str) -> impl Iterator<Item = BindingId> {
        let (gruu, lowest) = (canonical(request_uri), BindingId::from_bytes([0; 16]));
        let named = self.gruus.range((gruu.clone(), lowest)..);
        named.take_while(move |(name, _)| *name == gruu).map(|(_, binding)| *binding)
    }
}

/// A name in the form for comparison: scheme and host in lower case, the user without escapes (RFC 3261 §19.1.4), the rest as it is.
fn canonical(uri: &str) -> GivenName {
    let Some((scheme, rest)) = uri.split_once(':') else { return GivenName(uri.into()) };
    let (user, rest) = rest.split_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
    let (host, behind) = rest.split_at(rest.find([';', '?']).unwrap_or(rest.len()));
    let (scheme, host) = (scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
    let name = match user {
        Some(user) => format!("{scheme}:{}@{host}{behind}", unescaped(user)),
        None => format!("{scheme}:{host}{behind}"),
    };
    GivenName(name.into())
}

impl Endpoint {
    /// The form of the name in [`Event::Name`].
    pub fn canonical_name(request_uri: &str) -> GivenName {
        canonical(request_uri)
    }

    /// Replaces the earlier GRUUs of a binding by its present ones.
    fn rename(&mut self, binding: BindingId, before: &[Box<str>]) {
        let after = self.bindings.get(binding).map(|registration| registration.gruus()).unwrap_or_default();
        let names = |gruus: &[Box<str>]| gruus.iter().map(|gruu| canonical(gruu)).collect::<Vec<_>>();
        let (before, after) = (names(before), names(after));
        for name in before {
            if self.bindings.gruus.remove(&(name.clone(), binding)) {
                self.core.event(Event::Name { name, given: false });
            }
        }
        for name in after {
            if self.bindings.gruus.insert((name.clone(), binding)) {
                self.core.event(Event::Name { name, given: true });
            }
        }
    }

    pub(super) fn on_bind(&mut self, now: Instant, new: NewBinding) {
        let was_taken = self.is_taken(new.binding);
        self.add_device(new.instance, new.binding, new.same_as);
        self.devices.set_presence(new.instance, new.presence);
        self.devices.set_proven(new.instance, new.proven);
        if self.bindings.contains(new.binding) {
            if let Some(registration) = self.bindings.get_mut(new.binding) {
                registration.take_from(new.taken_from);
            }
            self.join(now, new.instance, new.binding);
            self.redirect(now, new.binding, Registration::replace_earlier);
            if was_taken {
                // A refresh that fell due meanwhile was held back.
                self.redirect(now, new.binding, Registration::on_flow_lost);
            }
            return self.want_flow_anew(now, new.binding);
        }
        self.join_upstream(now, new.upstream, new.registrar, new.binding);
        let mut registration = Registration::new(NewRegistration {
            binding: new.binding,
            instance: new.instance,
            upstream: new.upstream,
            aor: new.aor,
            sip_instance: new.sip_instance,
            expires: self.core.settings.register_expires,
            generation: self.bindings.next_generation(),
            goal: match new.presence {
                Presence::Background => Goal::Registered,
                Presence::Foreground => Goal::Silent,
            },
        });
        registration.take_from(new.taken_from);
        self.bindings.insert(if new.proven { registration.established() } else { registration });
        if new.presence == Presence::Background {
            self.carry_out(now, new.binding, Step::WantFlow);
            self.want_flow_anew(now, new.binding);
        }
    }

    pub(super) fn on_hand_over(&mut self) {
        self.bindings.handed_over = true;
    }

    /// Whether a binding must not be registered from here any more.
    fn is_handed_over(&self, binding: BindingId) -> bool {
        let goal = self.bindings.get(binding).map(|registration| registration.goal());
        goal == Some(Goal::Registered) && (self.bindings.handed_over || self.is_taken(binding))
    }

    /// Whether another relay has all devices of a binding.
    fn is_taken(&self, binding: BindingId) -> bool {
        let devices = self.all_instances(binding);
        !devices.is_empty() && devices.iter().all(|it| self.devices.is_taken(*it))
    }

    pub(super) fn on_unbind_due(&mut self, now: Instant, binding: BindingId) {
        if self.bindings.get(binding).is_some_and(|registration| registration.goal() == Goal::Gone) {
            self.end_binding(now, binding, Unbinding::Unconfirmed);
        }
    }

    /// Stops retransmitting the REGISTER that the unregistration has overtaken: there may be no time left to unregister its Contact.
    pub(super) fn on_too_late_again(&mut self, now: Instant, binding: BindingId) {
        let overtaken = self.bindings.get(binding).filter(|it| it.again_until().is_some_and(|until| until <= now));
        if let Some(branch) = overtaken.and_then(|registration| registration.overtaken_branch()) {
            self.core.transactions.hold(branch, true);
        }
    }

    pub(super) fn aim(&mut self, now: Instant, binding: BindingId, goal: Goal) {
        self.redirect(now, binding, |registration| registration.aim(now, goal));
    }

    /// A possible obstacle to a registration is gone.
    pub(super) fn retry_now(&mut self, now: Instant, instance: InstanceId) {
        if let Some(binding) = self.devices.binding_of(instance) {
            self.redirect(now, binding, |registration| registration.on_server_back());
            self.want_flow_anew(now, binding);
        }
    }

    /// A registration may have been removed at its SIP server.
    pub(super) fn register_again(&mut self, now: Instant, instance: InstanceId) {
        if let Some(binding) = self.devices.binding_of(instance) {
            self.redirect(now, binding, Registration::register_again);
        }
    }

    /// Changes the goal of a registration; that of a REGISTER under way is obsolete.
    pub(super) fn redirect(
        &mut self,
        now: Instant,
        binding: BindingId,
        change: impl FnOnce(&mut Registration) -> Step,
    ) {
        let Some(registration) = self.bindings.get_mut(binding) else { return };
        let under_way = |registration: &Registration| [registration.branch(), registration.overtaken_branch()];
        let before = under_way(registration);
        let step = change(registration);
        let after = under_way(registration);
        for branch in before.into_iter().flatten().filter(|branch| !after.contains(&Some(*branch))) {
            self.core.transactions.abandon(branch);
        }
        if let Some(branch) = registration.overtaken_branch() {
            self.core.transactions.hold(branch, true);
        }
        self.carry_out(now, binding, step);
    }

    pub(super) fn on_authorization(
        &mut self,
        now: Instant,
        binding: BindingId,
        instance: InstanceId,
        authorization: Option<String>,
    ) {
        // The device that was asked may have left meanwhile.
        let Some(registration) = self.bindings.get_mut(binding).filter(|it| it.instance == instance) else { return };
        let waits = self.core.settings.timing.upstream.back_off;
        let random = &mut self.core.random;
        match registration.go_on(false, |it| it.answer(now, authorization, &waits, random)) {
            Some(step) => self.carry_out(now, binding, step),
            None => self.fail_trial(now, binding),
        }
    }

    pub(super) fn on_binding_due(&mut self, now: Instant, binding: BindingId) {
        let Some(registration) = self.bindings.get_mut(binding) else { return };
        if registration.armed.fires(now) {
            let step = registration.on_deadline(now);
            self.carry_out(now, binding, step);
        }
    }

    pub(super) fn on_register_response(&mut self, now: Instant, binding: BindingId, answer: &RegisterAnswer<'_>) {
        let RegisterAnswer { branch, by, response, .. } = *answer;
        let Some(registration) = self.bindings.get_mut(binding) else { return };
        if registration.has_overtaken(branch) {
            let Some(status) = response.status().filter(|status| *status >= 200) else { return };
            let step = registration.on_overtaken(status);
            return self.carry_out(now, binding, step);
        }
        let id = registration.upstream;
        let is_latest = registration.branch() == Some(branch);
        let is_trial = is_latest && registration.is_on_trial();
        if !is_trial {
            self.upstreams.note_heard(now, id);
        }
        self.upstreams.note_answer(now, id, registration.asks);
        let asks = is_latest && matches!(response.status(), Some(401 | 407));
        if asks && !is_trial && !self.upstreams.leads_to_where(id, by) {
            // The address in use does not know this nonce, and might refuse correct credentials: it must send a challenge of its own.
            let step = registration.on_flow_lost();
            return self.carry_out(now, binding, step);
        }
        let Some(registrar) = self.upstreams.registrar(id) else { return };
        let settings = &self.core.settings;
        let back_off = self.upstreams.back_off(id, &settings.timing.upstream.back_off, registration.granted());
        let terms = Terms { hashes: hashes(settings.upstream.allow_md5), registrar, back_off };
        let gruus = registration.gruus().to_vec();
        let granted = response.status().is_some_and(|status| (200..300).contains(&status));
        let random = &mut self.core.random;
        let step = registration.go_on(granted, |it| it.on_response(now, branch, response, &terms, random));
        if let Some(overtaken) = registration.awaited_overtaken(now) {
            self.core.transactions.hold(overtaken, false);
        }
        let Some(step) = step else { return self.fail_trial(now, binding) };
        self.tell_unregistered(binding, &step, response.status());
        if is_trial && granted {
            self.fail_back(now, id, Some(binding));
        }
        let mut back = None;
        if let Step::Registered { expires, renamed, .. } = step {
            self.tell_address_grants(by);
            if renamed {
                self.rename(binding, &gruus);
            }
            back = self.on_granted(now, id, binding, answer, expires);
        }
        let failed = server_failure(&step);
        self.carry_out(now, binding, step);
        if let Some(back) = back {
            self.on_upstream_back(now, id, Some(binding), &back);
        }
        if let Some(status) = failed {
            self.on_upstream_failed(now, id, binding, by, status);
        }
    }

    /// Reads Flow-Timer and the public address from a 2xx, and notes the flow by which it came.
    fn on_granted(
        &mut self,
        now: Instant,
        id: UpstreamId,
        binding: BindingId,
        answer: &RegisterAnswer<'_>,
        expires: Duration,
    ) -> Option<GrantEffects> {
        if let Some(interval) = flow_timer(answer.response) {
            self.follow_flow_timer(now, id, interval);
        }
        if let Some(address) = seen_from(answer.response) {
            self.on_seen_from(now, answer.by, binding, address);
        }
        let back = self.upstreams.note_success(now, id, binding, answer.by, expires);
        if self.upstreams.must_follow(id, answer.by, answer.timeliness)
            && let Some(registration) = self.bindings.get_mut(binding)
        {
            registration.follow(now);
        }
        self.close_unread(id, answer.by);
        back
    }

    pub(super) fn on_register_silence(&mut self, now: Instant, binding: BindingId, branch: BranchId) {
        let Some(registration) = self.bindings.get_mut(binding) else { return };
        let upstream = registration.upstream;
        let was_current = registration.branch() == Some(branch);
        if was_current && registration.is_on_trial() {
            return self.fail_trial(now, binding);
        }
        let waits =
            self.upstreams.back_off(upstream, &self.core.settings.timing.upstream.back_off, registration.granted());
        let step = registration.on_silence(now, branch, &waits, &mut self.core.random);
        self.tell_unregistered(binding, &step, None);
        self.carry_out(now, binding, step);
        if was_current {
            self.on_upstream_silent(now, upstream, binding);
        }
    }

    /// Tells the shell the outcome of an unregistration after which the binding stays.
    fn tell_unregistered(&mut self, binding: BindingId, step: &Step, status: Option<u16>) {
        let is_kept = self.bindings.get(binding).is_some_and(|registration| registration.goal() == Goal::Silent);
        if let Step::Unregistered { confirmed } = step
            && is_kept
        {
            let outcome = status.filter(|_| *confirmed).ok_or(status);
            self.core.event(Event::Unregistered(binding, outcome));
        }
    }

    pub(super) fn carry_out(&mut self, now: Instant, binding: BindingId, step: Step) {
        match step {
            // Another node owns it, or will.
            Step::Send | Step::Ask if self.is_handed_over(binding) => {}
            // The timer may have been of an earlier deadline: the one that counts is set below.
            Step::Nothing => {}
            Step::WantFlow => self.want_flow(now, binding),
            Step::Send => self.send_register(now, binding),
            Step::Ask => self.ask(binding),
            Step::Registered { expires, refresh, renamed: _ } => {
                if let Some(instance) = self.prove(binding) {
                    self.core.event(Event::Registered { binding, instance, expires, refresh });
                }
                self.settle_step(now, binding);
                return self.check_next(now, binding);
            }
            Step::Unanswerable { failure, unreadable } => {
                if let Some(instance) = self.bindings.get(binding).map(|registration| registration.instance) {
                    self.core.event(Event::Unanswerable { instance, unreadable });
                }
                return self.carry_out(now, binding, Step::Failed(failure));
            }
            Step::Failed(failure) => {
                let Some(instance) = self.bindings.get(binding).map(|registration| registration.instance) else {
                    return;
                };
                let back = self.end_check(now, binding, failure);
                let failure = back.as_ref().map_or(failure, |(failure, _)| *failure);
                self.core.event(Event::RegistrationFailed { binding, instance, failure });
                if let Some((_, step)) = back {
                    if let RegistrationFailure::Retry { after, .. } = failure {
                        self.core.later(now, after, Timer::Check(binding));
                    }
                    self.carry_out(now, binding, step);
                    self.settle_goal(now, binding);
                    return self.plan_recheck(now, binding);
                }
                // The shell first decides which other devices have the same credentials, and whether the account lives.
                if !failure.is_final() {
                    self.note_failed(now, binding);
                }
            }
            Step::Unregistered { confirmed } => {
                if self.bindings.get(binding).is_some_and(|registration| registration.goal() == Goal::Gone) {
                    let outcome = if confirmed { Unbinding::Confirmed } else { Unbinding::Unconfirmed };
                    return self.end_binding(now, binding, outcome);
                }
                self.settle_step(now, binding);
                // A device that is not proven has waited for it.
                return self.settle_group(now, binding);
            }
        }
        self.settle_step(now, binding);
    }

    /// After a step: sets the timer, and updates the counts of the upstream.
    fn settle_step(&mut self, now: Instant, binding: BindingId) {
        self.calls.registration_changed = true;
        let Some(registration) = self.bindings.get_mut(binding) else { return };
        if let Some(at) = registration.armed.must_set(registration.deadline()) {
            self.core.timers.set(at, Timer::Binding(binding));
        }
        let (id, is_on_trial) = (registration.upstream, registration.is_on_trial());
        let has_room = self.upstreams.count(now, registration);
        if !is_on_trial {
            self.give_up_trial(id, binding);
        }
        if has_room {
            self.go_on_in_turn(now, id);
        }
    }

    fn ask(&mut self, binding: BindingId) {
        let cnonce = self.core.random.tag();
        let Some(registration) = self.bindings.get_mut(binding) else { return };
        let Some(registrar) = self.upstreams.registrar(registration.upstream) else { return };
        let (uri, instance) = (registrar.into(), registration.instance);
        if let Some((challenge, nc)) = registration.challenge() {
            self.core.event(Event::Challenged { binding, instance, challenge, nc, cnonce, uri });
        }
    }

    fn send_register(&mut self, now: Instant, binding: BindingId) {
        let branch = self.core.branch();
        let Some(registration) = self.bindings.get_mut(binding) else { return };
        let Some(registrar) = self.upstreams.registrar(registration.upstream) else { return };
        let way = if registration.is_on_trial() {
            self.upstreams.probed(registration.upstream)
        } else {
            self.upstreams.flow(registration.upstream)
        };
        let Some((flow, transport)) = way else {
            // The flow broke while the shell computed the answer.
            let step = registration.on_flow_lost();
            return self.carry_out(now, binding, step);
        };
        let head = RequestContext {
            registrar,
            transport,
            local: self.core.settings.sent_by(Side::Upstream, transport).host,
            hosts: self.core.settings.contact_hosts(),
            branch,
            epoch: &self.core.epoch,
        };
        let bytes = registration.compose(&head);
        registration.sent(branch, flow);
        let owner = ClientOwner::Register(binding);
        if self.core.transactions.send(now, branch, Method::Register, bytes, flow, owner).is_err() {
            if registration.is_on_trial() {
                return self.fail_trial(now, binding);
            }
            let step = registration.on_silence(
                now,
                branch,
                &self.core.settings.timing.upstream.back_off,
                &mut self.core.random,
            );
            self.carry_out(now, binding, step);
        }
    }

    pub(super) fn forget_binding(&mut self, now: Instant, binding: BindingId, outcome: Unbinding) {
        let Some(mut registration) = self.bindings.rows.remove(&binding) else { return };
        self.calls.registration_changed = true;
        self.rename(binding, registration.gruus());
        self.subscriptions.forget(binding);
        for branch in [registration.branch(), registration.overtaken_branch()].into_iter().flatten() {
            self.core.transactions.abandon(branch);
        }
        self.groups.remove(binding);
        self.leave_upstream(now, registration.upstream, &mut registration);
        self.core.event(Event::Unbound { instance: registration.instance, outcome });
    }

    /// The binding that a Request-URI names: by the opaque user of its Contact, whatever parameters follow it (`ob`, `gr`), or by a name that its
    /// registrar gave it (RFC 5627 §6.2). One registrar cannot take a name that another has given: of several bindings with one name, the one whose
    /// server asks is meant.
    pub(super) fn binding_of(&self, request_uri: &str, source: &Source) -> Option<BindingId> {
        let user = Uri::user_of(request_uri).and_then(BindingId::parse);
        let known = user.filter(|binding| self.bindings.contains(*binding));
        known.or_else(|| {
            let mut named = self.bindings.named(request_uri);
            named.find(|binding| self.is_trusted(*binding, source))
        })
    }

    /// Whether a request came from the binding's own SIP server: by its flow, or from one of its addresses.
    pub(super) fn is_trusted(&self, binding: BindingId, source: &Source) -> bool {
        self.upstream_of(binding).is_some_and(|upstream| self.upstreams.is_trusted(upstream, source))
    }

    /// The SIP server of a binding; also of a push binding.
    pub(super) fn upstream_of(&self, binding: BindingId) -> Option<UpstreamId> {
        let own = self.bindings.get(binding).map(|registration| registration.upstream);
        own.or_else(|| self.push_bindings.upstream_of(binding))
    }
}
