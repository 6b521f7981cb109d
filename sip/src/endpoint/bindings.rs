//! Registrations: what each of them wants next, and what the shell is told of it.
//!
//! Invariant: a REGISTER is begun by its upstream's [`Pace`](super::upstreams) alone; a binding has at most one timer that
//! counts.

use std::time::{Duration, Instant};

use super::upstreams::Link;
use super::{ClientOwner, Endpoint, Event, NewBinding, Source, Timer, Transport};
use crate::auth::Hash;
use crate::flow::Side;
use crate::id::{BindingId, BranchId, FlowId};
use crate::message::{Message, Method, Uri};
use crate::registration::grant::{flow_timer, seen_from};
use crate::registration::{Goal, Letterhead, Registration, RegistrationFailure, Step, Terms};

<<<<<<< HEAD
/// The hashes that a digest may be made with; MD5 unless the operator forbids it.
const HASHES: &[Hash] = &[Hash::Sha512_256, Hash::Sha256, Hash::Md5];
const HASHES_BUT_MD5: &[Hash] = &[Hash::Sha512_256, Hash::Sha256];
=======
use super::{ClientOwner, Endpoint, Event, NewBinding, Output, Source, Timer, Transport};
use crate::flow::{KeepAlive, Pulse, Side, back_off};
use crate::id::{BindingId, BranchId, FlowId, InstanceId, UpstreamId};
use crate::message::{Message, Method};
use crate::registration::{Goal, Letterhead, Registration, RegistrationFailure, Step};

/// Registrations that begin at once when a flow comes up.
const PACE_BURST: usize = 20;
/// How often that many may begin: 2,000 registrations a second for each registrar.
const PACE_INTERVAL: Duration = Duration::from_millis(10);
/// Failures in a row after which a dial waits at most half an hour; bounded so that the counter cannot wrap.
const FAILURES_MAX: u8 = 16;
/// A flow that ends sooner than this after it came up had a short life.
const SHORT_LIFE: Duration = Duration::from_secs(30);
/// Short lives in a row after which a flow is dialled again at once; after more, as after a dial that failed. A server
/// that closes each connection, or whose answers are no SIP, is not hammered.
const SHORT_LIVES: u8 = 2;

/// A registrar or outbound proxy, and the flow to it.
#[derive(Debug)]
pub(super) struct Upstream {
    registrar: Box<str>,
    link: Link,
    /// The transport of the flow, or of the last one.
    transport: Transport,
    members: BTreeSet<BindingId>,
    /// Members that wait for their turn on the flow.
    queue: VecDeque<BindingId>,
    /// Requests from these addresses are believed.
    trusted: Arc<[IpAddr]>,
    failures: u8,
    /// When the flow came up, or the last one.
    up_since: Option<Instant>,
    short_lives: u8,
    /// The one deadline that counts; earlier timers that still fire are ignored.
    armed: Option<Instant>,
}

#[derive(Debug)]
enum Link {
    Down,
    Dialling,
    BackingOff,
    Up { flow: FlowId, keep_alive: KeepAlive },
}
>>>>>>> calls

impl Endpoint {
    pub(super) fn on_bind(&mut self, now: Instant, new: NewBinding) {
<<<<<<< HEAD
        self.join_upstream(now, new.upstream, new.registrar, new.binding);
=======
        let upstream = self.upstreams.entry(new.upstream).or_insert_with(|| Upstream {
            registrar: new.registrar,
            link: Link::Down,
            transport: Transport::Tls,
            members: BTreeSet::new(),
            queue: VecDeque::new(),
            trusted: Arc::new([]),
            failures: 0,
            up_since: None,
            short_lives: 0,
            armed: None,
        });
        upstream.members.insert(new.binding);
>>>>>>> hostile
        self.add_device(now, new.instance, new.binding);
        let expires = self.settings.register_expires;
        let registration = Registration::new(
            new.binding,
            new.instance,
            new.upstream,
            new.aor,
            new.sip_instance,
            expires,
            new.register,
        );
        self.bindings.insert(new.binding, Box::new(registration));
        if new.register {
            self.carry_out(now, new.binding, Step::WantFlow);
        }
    }

    pub(super) fn on_unbind(&mut self, now: Instant, binding: BindingId, deadline: Duration) {
        let Some(registration) = self.bindings.get_mut(&binding) else {
            self.event(Event::Unbound { binding, confirmed: true });
            return;
        };
        let instance = registration.instance;
        self.remove_device(now, instance);
        self.later(now, deadline, Timer::Unbind(binding));
        self.aim(now, binding, Goal::Gone);
    }

    pub(super) fn on_supersede(&mut self, now: Instant, binding: BindingId, deadline: Duration) {
        if let Some(registration) = self.bindings.get_mut(&binding) {
            registration.supersede();
        }
        self.on_unbind(now, binding, deadline);
    }

    pub(super) fn on_yield(&mut self, now: Instant, binding: BindingId) {
        match self.bindings.get(&binding).map(|registration| registration.instance) {
            Some(instance) => {
                self.remove_device(now, instance);
                self.forget_binding(binding, false);
            }
            None => self.event(Event::Unbound { binding, confirmed: true }),
        }
    }

    pub(super) fn on_unbind_due(&mut self, binding: BindingId) {
        if self.bindings.get(&binding).is_some_and(|registration| registration.goal() == Goal::Gone) {
            self.forget_binding(binding, false);
        }
    }

    pub(super) fn on_aim(&mut self, now: Instant, binding: BindingId, goal: Goal) {
        if self.bindings.get(&binding).is_some_and(|registration| registration.goal() != Goal::Gone) {
            self.aim(now, binding, goal);
        }
    }

    fn aim(&mut self, now: Instant, binding: BindingId, goal: Goal) {
        let Some(registration) = self.bindings.get_mut(&binding) else { return };
        let under_way = registration.branch();
        let step = registration.aim(goal);
        // What a REGISTER that is under way asked for is not wanted any more.
        if let Some(branch) = under_way.filter(|branch| registration.branch() != Some(*branch)) {
            self.transactions.abandon(branch);
        }
        self.carry_out(now, binding, step);
    }

    pub(super) fn on_answer(&mut self, now: Instant, binding: BindingId, authorization: Option<String>) {
        let Some(registration) = self.bindings.get_mut(&binding) else { return };
        let step = registration.answer(authorization);
        self.carry_out(now, binding, step);
    }

    pub(super) fn on_binding_due(&mut self, now: Instant, binding: BindingId) {
        let Some(registration) = self.bindings.get_mut(&binding) else { return };
        if registration.armed.fires(now) {
            let step = registration.on_deadline(now);
            self.carry_out(now, binding, step);
        }
    }

    pub(super) fn on_register_response(
        &mut self,
        now: Instant,
        binding: BindingId,
        branch: BranchId,
        response: &Message,
    ) {
        let Some(registration) = self.bindings.get_mut(&binding) else { return };
        let id = registration.upstream;
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        upstream.heard_at = Some(now);
        let hashes = if self.settings.upstream.allow_md5 { HASHES } else { HASHES_BUT_MD5 };
        let terms = Terms { hashes, registrar: &upstream.registrar };
        let names = registration.names().to_vec();
        let step = registration.on_response(now, branch, response, &terms, &mut self.random);
        if let Step::Registered { learned, .. } = &step {
            if learned.is_some() {
                self.rename(binding, &names);
            }
            self.on_granted(now, binding, response);
        }
        let failed = matches!(step, Step::Failed(RegistrationFailure::Retry { status: Some(430 | 503), .. }));
        self.carry_out(now, binding, step);
        if failed {
            self.on_upstream_unfit(now, id);
        }
    }

    /// What a 2xx says of the flow that it came by.
    fn on_granted(&mut self, now: Instant, binding: BindingId, response: &Message) {
        let Some(id) = self.bindings.get(&binding).map(|registration| registration.upstream) else { return };
        if let Some(interval) = flow_timer(response) {
            self.follow_flow_timer(now, id, interval);
        }
        if let Some(address) = seen_from(response) {
            self.learn_address(id, address);
        }
    }

    pub(super) fn on_register_silence(&mut self, now: Instant, binding: BindingId, branch: BranchId) {
        let Some(registration) = self.bindings.get_mut(&binding) else { return };
        let upstream = registration.upstream;
        let was_current = registration.branch() == Some(branch);
        let step = registration.on_silence(now, branch, &mut self.random);
        self.carry_out(now, binding, step);
        if was_current {
            self.on_upstream_silent(now, upstream);
        }
    }

    pub(super) fn carry_out(&mut self, now: Instant, binding: BindingId, step: Step) {
        match step {
            Step::Nothing => return,
            Step::WantFlow => self.want_flow(now, binding),
            Step::Send => self.send_register(now, binding),
            Step::Ask => self.ask(binding),
            Step::Registered { expires, refresh, learned } => {
                self.on_upstream_works(binding);
                self.event(Event::Registered { binding, expires, refresh });
                if let Some(learned) = learned {
                    self.event(Event::Learned { binding, learned });
                }
            }
            Step::Failed(failure) => self.event(Event::RegistrationFailed { binding, failure }),
            Step::Unregistered { confirmed } => {
                if self.bindings.get(&binding).is_some_and(|registration| registration.goal() == Goal::Gone) {
                    return self.forget_binding(binding, confirmed);
                }
            }
        }
        let Some(registration) = self.bindings.get_mut(&binding) else { return };
        if let Some(at) = registration.armed.must_set(registration.deadline()) {
            self.timers.set(at, Timer::Binding(binding));
        }
        self.count_standing(binding);
    }

    /// Writes down what a binding is called from now on.
    fn rename(&mut self, binding: BindingId, before: &[Box<str>]) {
        for name in before {
            self.names.remove(&(name.clone(), binding));
        }
        let names = self.bindings.get(&binding).map(|registration| registration.names()).unwrap_or_default();
        self.names.extend(names.iter().map(|name| (name.clone(), binding)));
    }

    fn ask(&mut self, binding: BindingId) {
        let cnonce = self.random.tag();
        let Some(registration) = self.bindings.get_mut(&binding) else { return };
        let Some(upstream) = self.upstreams.get(&registration.upstream) else { return };
        let uri = upstream.registrar.clone();
        if let Some((challenge, nc)) = registration.challenge() {
            let challenge = challenge.clone();
            self.event(Event::Challenged { binding, challenge, nc, cnonce, uri });
        }
    }

    fn send_register(&mut self, now: Instant, binding: BindingId) {
        let branch = self.branch();
        let Some(registration) = self.bindings.get_mut(&binding) else { return };
        let Some(upstream) = self.upstreams.get(&registration.upstream) else { return };
        let Link::Up { flow, .. } = upstream.link else {
            // The flow broke while the shell computed the answer.
            let step = registration.on_flow_lost();
            return self.carry_out(now, binding, step);
        };
        let head = Letterhead {
            registrar: &upstream.registrar,
            transport: upstream.transport,
            local: self.settings.face(Side::Upstream, upstream.transport).host,
            branch,
            epoch: &self.epoch,
        };
        let bytes = registration.compose(&head);
        registration.sent(branch);
        let owner = ClientOwner::Register(binding);
        if self.transactions.send(now, branch, Method::Register, bytes, flow, owner).is_err() {
            let step = registration.on_silence(now, branch, &mut self.random);
            self.carry_out(now, binding, step);
        }
    }

    pub(super) fn forget_binding(&mut self, binding: BindingId, confirmed: bool) {
        let Some(registration) = self.bindings.remove(&binding) else { return };
        if let Some(branch) = registration.branch() {
            self.transactions.abandon(branch);
        }
<<<<<<< HEAD
        for name in registration.names() {
            self.names.remove(&(name.clone(), binding));
=======
        if let Some(upstream) = self.upstreams.get_mut(&registration.upstream) {
            upstream.members.remove(&binding);
            if upstream.members.is_empty() {
                self.forget_upstream(registration.upstream, registration.instance);
            }
>>>>>>> calls
        }
        self.leave_upstream(registration.upstream, &registration);
        self.event(Event::Unbound { binding, confirmed });
    }

<<<<<<< HEAD
    /// The binding that a Request-URI names: by the opaque user of its Contact, whatever parameters stand behind it (`ob`,
    /// `gr`), or by a name that its registrar gave it (RFC 5627 §6.2). What one registrar calls a binding, another cannot
    /// take: of several with one name, the one whose server asks is meant.
    pub(super) fn binding_of(&self, request_uri: &str, source: &Source) -> Option<BindingId> {
        let user = Uri::parse(request_uri).and_then(|uri| uri.user).and_then(BindingId::parse);
        let known = user.filter(|binding| self.bindings.contains_key(binding));
        known.or_else(|| {
            let lowest = BindingId::from_bytes([0; 16]);
            let named = self.names.range((Box::from(request_uri), lowest)..);
            let mut named = named.take_while(|(name, _)| **name == *request_uri).map(|(_, binding)| *binding);
            named.find(|binding| self.is_trusted(*binding, source))
        })
=======
    /// Its last binding, of this instance, is gone. While the device is attached the stream stays, for it may carry a call
    /// that is to be hung up; no longer than the device's own registration, which it cannot renew.
    fn forget_upstream(&mut self, id: UpstreamId, last: InstanceId) {
        if let Some(Upstream { link: Link::Up { flow, .. }, .. }) = self.upstreams.remove(&id)
            && flow.is_reliable()
        {
            self.links.remove(&flow);
            match self.attached.get(&last).map(|attached| attached.expires_at) {
                Some(until) => self.timers.set(until, Timer::Linger(flow)),
                None => {
                    self.flush();
                    self.outputs.push_back(Output::Close(flow));
                }
            }
        }
    }

    pub(super) fn on_dialled(&mut self, now: Instant, id: UpstreamId, flow: FlowId, transport: Transport) {
        let Some(upstream) = self.upstreams.get_mut(&id) else {
            if flow.is_reliable() {
                self.outputs.push_back(Output::Close(flow));
            }
            return;
        };
        let keep_alive = KeepAlive::new(now, flow, &mut self.random);
        let at = keep_alive.deadline();
        upstream.link = Link::Up { flow, keep_alive };
        upstream.up_since = Some(now);
        upstream.armed = Some(at);
        upstream.transport = transport;
        if flow.is_reliable() {
            self.links.insert(flow, id);
        }
        let bindings = &self.bindings;
        let wanting = upstream.members.iter().copied().filter(|b| bindings.get(b).is_some_and(|r| r.wants_flow()));
        upstream.queue = wanting.collect();
        self.timers.set(at, Timer::Upstream(id));
        self.on_pace_due(now, id);
    }

    pub(super) fn on_dial_failed(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        upstream.failures = (upstream.failures + 1).min(FAILURES_MAX);
        let after = back_off(upstream.failures, &mut self.random);
        upstream.link = Link::BackingOff;
        upstream.armed = Some(now + after);
        let failure = RegistrationFailure::Retry { status: None, after };
        let bindings = &self.bindings;
        let waiting = upstream.members.iter().copied().filter(|b| bindings.get(b).is_some_and(|r| r.wants_flow()));
        for binding in waiting.collect::<Vec<_>>() {
            self.event(Event::RegistrationFailed { binding, failure });
        }
        self.later(now, after, Timer::Upstream(id));
    }

    pub(super) fn on_addresses(&mut self, id: UpstreamId, addresses: Arc<[IpAddr]>) {
        if let Some(upstream) = self.upstreams.get_mut(&id) {
            upstream.trusted = addresses;
        }
>>>>>>> calls
    }

    /// Whether a request came from the binding's own SIP server: by its flow, or from one of its addresses.
    pub(super) fn is_trusted(&self, binding: BindingId, source: &Source) -> bool {
        let upstream = self.bindings.get(&binding).and_then(|registration| self.upstreams.get(&registration.upstream));
        upstream.is_some_and(|upstream| {
            let by_flow = matches!(&upstream.link, Link::Up { flow, .. } if *flow == source.flow);
            let ip = source.peer.ip().to_canonical();
            by_flow || upstream.trusted.iter().any(|trusted| trusted.to_canonical() == ip)
        })
    }

    /// The flow toward a binding's SIP server, and its transport.
    pub(super) fn flow_of_binding(&self, binding: BindingId) -> Option<(FlowId, Transport)> {
        let upstream = self.upstreams.get(&self.bindings.get(&binding)?.upstream)?;
        match &upstream.link {
            Link::Up { flow, .. } => Some((*flow, upstream.transport)),
            _ => None,
        }
    }
<<<<<<< HEAD
=======

    /// A stream toward an upstream has ended: its bindings want another one, at once unless its lives are short.
    pub(super) fn on_link_closed(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        let short = upstream.up_since.is_some_and(|since| now.saturating_duration_since(since) < SHORT_LIFE);
        upstream.short_lives = if short { upstream.short_lives.saturating_add(1) } else { 0 };
        let spins = upstream.short_lives > SHORT_LIVES;
        upstream.link = if spins { Link::BackingOff } else { Link::Down };
        for binding in upstream.members.iter().copied().collect::<Vec<_>>() {
            let Some(registration) = self.bindings.get_mut(&binding) else { continue };
            if let Some(branch) = registration.branch() {
                self.transactions.abandon(branch);
            }
            let step = registration.on_flow_lost();
            self.carry_out(now, binding, step);
        }
        if spins {
            self.on_dial_failed(now, id);
        }
    }

    /// A REGISTER by this upstream's flow was left without any response: try another address next.
    fn on_upstream_silent(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        let Link::Up { flow, .. } = upstream.link else { return };
        upstream.link = Link::Dialling;
        self.outputs.push_back(Output::Dial { upstream: id, avoid: Some(flow) });
        if self.links.remove(&flow).is_some() {
            self.outputs.push_back(Output::Close(flow));
        }
        for binding in
            self.upstreams.get(&id).map(|u| u.members.iter().copied().collect::<Vec<_>>()).unwrap_or_default()
        {
            if let Some(registration) = self.bindings.get_mut(&binding).filter(|r| flow.is_reliable() || r.wants_flow())
            {
                let step = registration.on_flow_lost();
                self.carry_out(now, binding, step);
            }
        }
    }

    pub(super) fn on_sign_of_life(&mut self, flow: FlowId, pong: bool) {
        let Some(id) = self.links.get(&flow) else { return };
        if let Some(Upstream { link: Link::Up { keep_alive, .. }, .. }) = self.upstreams.get_mut(id) {
            keep_alive.on_sign_of_life(pong);
        }
    }

    pub(super) fn on_upstream_due(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(&id).filter(|upstream| upstream.armed.is_some_and(|at| at <= now))
        else {
            return;
        };
        upstream.armed = None;
        match &mut upstream.link {
            Link::BackingOff => {
                upstream.link = Link::Dialling;
                self.outputs.push_back(Output::Dial { upstream: id, avoid: None });
            }
            Link::Up { flow, keep_alive } => {
                let flow = *flow;
                let pulse = keep_alive.on_deadline(now, &mut self.random);
                let at = keep_alive.deadline();
                if pulse == Pulse::Dead {
                    self.outputs.push_back(Output::Close(flow));
                    return self.on_closed(now, flow);
                }
                upstream.armed = Some(at);
                self.timers.set(at, Timer::Upstream(id));
                if pulse == Pulse::Ping {
                    self.send(flow, Bytes::from_static(b"\r\n\r\n"));
                }
            }
            Link::Down | Link::Dialling => {}
        }
    }

    pub(super) fn on_pace_due(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(&id) else { return };
        let turn = upstream.queue.len().min(PACE_BURST);
        let batch: Vec<BindingId> = upstream.queue.drain(..turn).collect();
        if !upstream.queue.is_empty() {
            self.later(now, PACE_INTERVAL, Timer::Pace(id));
        }
        for binding in batch {
            self.begin(now, binding);
        }
    }
>>>>>>> hostile
}
