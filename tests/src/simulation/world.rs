//! The world: who is there, what happens, and the life of the leases.
//!
//! Invariant: one source of randomness, one order of happenings; nothing is decided by iterating over a hash map.

use sip::auth::{Ha1, Hash};
use sip::endpoint::{Input, NewBinding, Presence};
use sip::id::{BindingId, InstanceId, ShardTag, UpstreamId};
use sip::message::Message;
use sip::random::Random;

use super::agenda::{Agenda, At, DAY, HOUR, MINUTE, S};
use super::caller::{Call, CallDue};
use super::network::{Frame, Network};
use super::oracle::{Check, Lease, Oracle};
use super::phone::{Phone, PhoneDue};
use super::registrar::{REALM, Registrar};
use super::relay::Relay;
use super::{Plan, Report, UNBIND_DEADLINE};

/// An event of the simulation.
#[derive(Debug)]
pub(super) enum Happening {
    DatagramToRelay { number: usize, message: Message },
    DatagramToRegistrar { number: usize, message: Message },
    ToRelay { flow: u64, frame: Frame },
    ToPeer { flow: u64, frame: Frame },
    ClosedAtRelay(u64),
    ClosedAtPeer(u64),
    DialEnds { shard: usize, number: usize, open: bool },
    Tell { shard: usize, input: Input },
    RegistrarSends { number: usize, stream: Option<u64>, message: Message },
    Trouble(usize),
    Recovery(usize),
    PushArrives { slot: usize, deadline: At },
    Phone(usize, PhoneDue),
    ForgetPhoneCall(usize, usize),
    Somebody(usize),
    Call(usize, CallDue),
    Life(usize, Life),
    Wipe(BindingId),
    Check(Check),
    Quiet,
}

/// A change of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// The user enables push.
    Enable,
    /// The user disables it, or the lease is over.
    Disable(BindingId),
    /// The user enables it again while it is enabled.
    Replace(BindingId),
    /// The app comes to the foreground, or goes.
    Presence(BindingId),
    /// The password is changed at the server.
    NewPassword,
    /// A second phone lends the account, too.
    Join(BindingId),
    /// The second phone leaves it to the first.
    Part(BindingId),
}

/// One account on one phone; or the second phone of an account, which has no other part of a slot of its own.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) registrar: usize,
    pub(super) password: String,
    pub(super) phone: Phone,
    pub(super) lease: Option<Lease>,
    /// The slot of the account's second phone.
    second: Option<usize>,
    /// Of a second phone, the slot of its account.
    pub(super) first: Option<usize>,
    /// Calls to it that may still be going on.
    pub(super) calls: Vec<usize>,
    /// Digests of what was typed as its password, so that they are computed once.
    ha1s: Vec<(Hash, String, Ha1)>,
}

impl Slot {
    fn new(registrar: usize, password: String) -> Self {
        Self {
            registrar,
            password,
            phone: Phone::default(),
            lease: None,
            second: None,
            first: None,
            calls: Vec::new(),
            ha1s: Vec::new(),
        }
    }
}

/// Everything.
#[derive(Debug)]
pub struct World {
    pub(super) plan: Plan,
    pub(super) random: Random,
    pub(super) agenda: Agenda<Happening>,
    pub(super) network: Network,
    pub(super) relay: Relay,
    pub(super) registrars: Vec<Registrar>,
    pub(super) slots: Vec<Slot>,
    pub(super) calls: Vec<Call>,
    pub(super) oracle: Oracle,
    pub(super) stats: Report,
    /// Nothing new begins.
    pub(super) quiet: bool,
}

/// Of so many accounts one has a second phone.
const ACCOUNTS_FOR_A_SECOND: usize = 2;

/// Between two calls to one slot, on average.
const CALLS_EVERY: At = 3 * HOUR;

impl World {
    /// A world that is about to begin.
    pub fn new(plan: Plan) -> Self {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&plan.seed.to_be_bytes());
        let mut world = Self {
            random: Random::new(seed),
            agenda: Agenda::default(),
            network: Network::default(),
            relay: Relay::new(plan.shards, plan.seed),
            registrars: Vec::new(),
            slots: Vec::new(),
            calls: Vec::new(),
            oracle: Oracle::default(),
            stats: Report::default(),
            quiet: false,
            plan,
        };
        let servers = (world.plan.instances / 20).clamp(12, 60);
        for number in 0..servers {
            let registrar = world.new_registrar(number, servers);
            world.registrars.push(registrar);
        }
        let good = servers - servers / 6;
        for index in 0..world.plan.instances {
            // Each hostile server has a few users, and the others share the rest.
            let hostile = index < 2 * (servers - good);
            let server = if hostile { good + index % (servers - good) } else { index % good };
            world.new_slot(index, server);
        }
        for index in (0..world.plan.instances).step_by(ACCOUNTS_FOR_A_SECOND) {
            world.add_second(index);
        }
        world.agenda.plan(5 * MINUTE, Happening::Check(Check::Sweep));
        world
    }

    fn new_slot(&mut self, index: usize, registrar: usize) {
        let password = self.random.tag();
        self.slots.push(Slot::new(registrar, password));
        let (enable, call, open) =
            (self.random.between(0, HOUR), self.random.between(0, 6 * HOUR), self.random.between(HOUR, 10 * HOUR));
        self.agenda.plan(enable, Happening::Life(index, Life::Enable));
        self.agenda.plan(call, Happening::Somebody(index));
        self.agenda.plan(open, Happening::Phone(index, PhoneDue::Opened));
        if self.random.between(0, 19) == 0 {
            let when = self.random.between(HOUR, DAY);
            self.agenda.plan(when, Happening::Life(index, Life::NewPassword));
        }
    }

    fn add_second(&mut self, index: usize) {
        let (second, registrar) = (self.slots.len(), self.slots[index].registrar);
        self.slots.push(Slot { first: Some(index), ..Slot::new(registrar, String::new()) });
        self.slots[index].second = Some(second);
        let open = self.random.between(HOUR, 10 * HOUR);
        self.agenda.plan(open, Happening::Phone(second, PhoneDue::Opened));
    }

    /// Runs to the end, or to the first thing that is wrong.
    pub fn run(mut self) -> Report {
        let end = self.plan.hours * HOUR;
        self.agenda.plan_at(end, Happening::Quiet);
        // Everything that was going on until then has ended, too.
        self.agenda.plan_at(end + 2 * HOUR, Happening::Quiet);
        // The longest deadline that may be left behind: a device's registration, a back-off, a refresh.
        self.run_until(end + 26 * HOUR);
        if self.oracle.wrongs.is_empty() {
            self.judge_quiet();
        }
        self.stats.wrongs = std::mem::take(&mut self.oracle.wrongs);
        self.stats
    }

    fn run_until(&mut self, end: At) {
        while self.oracle.wrongs.is_empty() {
            let due = self.relay.next_due();
            let next = self.agenda.next_at();
            match (due, next) {
                (Some((at, shard)), next) if next.is_none_or(|next| at <= next) => {
                    if at > end {
                        return;
                    }
                    self.agenda.go_to(at);
                    self.tick(shard);
                }
                (_, Some(at)) if at <= end => {
                    if let Some(happening) = self.agenda.pop() {
                        self.happen(happening);
                    }
                }
                _ => return,
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        self.stats.happenings += 1;
        match happening {
            Happening::DatagramToRelay { number, message } => self.on_datagram_to_relay(number, message),
            Happening::DatagramToRegistrar { number, message } => {
                self.registrar_receives(number, None, Frame::Message(message));
            }
            Happening::ToRelay { flow, frame } => self.on_to_relay(flow, frame),
            Happening::ToPeer { flow, frame } => self.on_to_peer(flow, frame),
            Happening::ClosedAtRelay(flow) => self.on_closed_at_relay(flow),
            Happening::ClosedAtPeer(flow) => self.on_closed_at_peer(flow),
            Happening::DialEnds { shard, number, open } => self.on_dial_ends(shard, number, open),
            Happening::Tell { shard, input } => self.tell(shard, input),
            Happening::RegistrarSends { number, stream, message } => self.send_from_registrar(number, stream, message),
            Happening::Trouble(number) => self.on_trouble(number),
            Happening::Recovery(number) => self.on_recovery(number),
            Happening::PushArrives { slot, deadline } => {
                // The promise: a push that comes after its deadline is no call any more.
                if self.agenda.now() <= deadline {
                    self.wake_phone(slot);
                }
            }
            Happening::Phone(slot, due) => self.on_phone_due(slot, due),
            Happening::ForgetPhoneCall(slot, call) => self.forget_phone_call(slot, call),
            Happening::Somebody(slot) => self.somebody_calls(slot),
            Happening::Call(index, due) => self.on_call_due(index, due),
            Happening::Life(slot, life) => self.on_life(slot, life),
            Happening::Wipe(binding) => self.on_wipe(binding),
            Happening::Check(check) => self.on_check(check),
            Happening::Quiet => self.on_quiet(),
        }
    }

    fn somebody_calls(&mut self, slot: usize) {
        if self.quiet {
            return;
        }
        self.place_call(slot);
        // Now and then somebody else at the same time.
        let next = match self.random.between(0, 19) {
            0 => self.random.between(0, 20 * S),
            _ => self.random.between(MINUTE, 2 * CALLS_EVERY),
        };
        self.agenda.plan(next, Happening::Somebody(slot));
    }

    fn on_life(&mut self, slot: usize, life: Life) {
        let current = self.slots[slot].lease.as_ref().map(|lease| lease.binding);
        match life {
            Life::Enable if current.is_none() && !self.quiet => self.enable(slot),
            Life::Disable(binding) if current == Some(binding) => {
                self.disable(slot);
                let later = self.random.between(MINUTE, 6 * HOUR);
                self.agenda.plan(later, Happening::Life(slot, Life::Enable));
            }
            Life::Replace(binding) if current == Some(binding) && !self.quiet => {
                self.disable(slot);
                self.enable(slot);
            }
            Life::Presence(binding) if current == Some(binding) => self.change_presence(slot, binding),
            Life::NewPassword => self.slots[slot].password = self.random.tag(),
            Life::Join(binding) if current == Some(binding) && !self.quiet => {
                self.join(slot, binding);
                let later = self.random.between(MINUTE, 12 * HOUR);
                self.agenda.plan(later, Happening::Life(slot, Life::Part(binding)));
            }
            Life::Part(binding) if current == Some(binding) => {
                self.part(slot);
                let later = self.random.between(2 * HOUR, 12 * HOUR);
                self.agenda.plan(later, Happening::Life(slot, Life::Join(binding)));
            }
            _ => {}
        }
    }

    /// The second phone lends the account; the two share the binding. It does so only with what the server takes, and not
    /// while the user is at the first.
    fn join(&mut self, slot: usize, binding: BindingId) {
        let Some(second) = self.slots[slot].second.filter(|second| self.slots[*second].lease.is_none()) else { return };
        let Some(first) = self.oracle.lease(binding) else { return };
        if first.silent || first.password != self.slots[slot].password {
            return;
        }
        let (first, password) = (first.instance, first.password.clone());
        let instance = InstanceId::new(self.random.wide(), binding.tag());
        let now = self.agenda.now();
        let lease = Lease::new(now, second, (instance, binding), self.random.tag(), password);
        self.oracle.join(lease.clone());
        self.slots[second].lease = Some(lease);
        self.watch(slot, || format!("a second phone joins: {instance}"));
        self.bind(slot, (instance, binding), first);
    }

    /// The second phone leaves.
    fn part(&mut self, slot: usize) {
        let Some(second) = self.slots[slot].second else { return };
        let Some(lease) = self.slots[second].lease.take() else { return };
        self.watch(slot, || format!("the second phone leaves: {}", lease.instance));
        self.oracle.part(lease.instance);
        self.phone_forgets(second);
        self.unbind(lease.instance);
        self.agenda.plan(UNBIND_DEADLINE + S, Happening::Check(Check::Parted(lease.instance)));
    }

    fn bind(&mut self, slot: usize, (instance, binding): (InstanceId, BindingId), first: InstanceId) {
        let new = NewBinding {
            binding,
            instance,
            aor: format!("sip:u{slot}@r.test").into(),
            registrar: "sip:r.test".into(),
            upstream: UpstreamId(self.slots[slot].registrar as u32),
            sip_instance: first.to_bytes(),
            presence: Presence::Background,
            proven: false,
            same_as: None,
            taken_from: Vec::new(),
        };
        self.tell(binding.tag().shard(self.plan.shards), Input::Bind(Box::new(new)));
    }

    fn unbind(&mut self, instance: InstanceId) {
        let deadline = std::time::Duration::from_micros(UNBIND_DEADLINE);
        self.tell(instance.tag().shard(self.plan.shards), Input::Unbind { instance, deadline });
    }

    fn enable(&mut self, slot: usize) {
        let now = self.agenda.now();
        let tag = ShardTag(self.random.bits() as u16);
        let instance = InstanceId::new(self.random.wide(), tag);
        let binding = BindingId::new(self.random.wide(), tag);
        let typed_wrong = self.random.between(0, 49) == 0;
        let password = if typed_wrong { self.random.tag() } else { self.slots[slot].password.clone() };
        let lease = Lease::new(now, slot, (instance, binding), self.random.tag(), password);
        self.oracle.begin(lease.clone());
        self.slots[slot].lease = Some(lease);
        self.watch(slot, || format!("enabled: {binding}"));
        self.bind(slot, (instance, binding), instance);
        let join = self.random.between(S, 2 * HOUR);
        self.agenda.plan(join, Happening::Life(slot, Life::Join(binding)));
        let (end, life) = match self.random.between(0, 9) {
            0 => (self.random.between(S, MINUTE), Life::Disable(binding)),
            1..4 => (self.random.between(MINUTE, DAY), Life::Disable(binding)),
            4 => (self.random.between(MINUTE, DAY), Life::Replace(binding)),
            // The lease is over.
            _ => (self.random.between(3 * DAY, 6 * DAY), Life::Disable(binding)),
        };
        self.agenda.plan(end, Happening::Life(slot, life));
        let presence = self.random.between(S, 2 * DAY);
        self.agenda.plan(presence, Happening::Life(slot, Life::Presence(binding)));
    }

    fn disable(&mut self, slot: usize) {
        self.part(slot);
        let Some(lease) = self.slots[slot].lease.take() else { return };
        self.watch(slot, || format!("disabled: {}", lease.binding));
        self.expect_unbound(lease.binding);
        self.phone_forgets(slot);
        self.unbind(lease.instance);
    }

    /// The server refused the account: the shell wipes it.
    fn on_wipe(&mut self, binding: BindingId) {
        let Some(slot) = self.oracle.lease(binding).map(|lease| lease.slot) else { return };
        if self.slots[slot].lease.as_ref().map(|lease| lease.binding) != Some(binding) {
            return;
        }
        self.disable(slot);
        let hours = if self.is_hopeless(self.slots[slot].registrar) { 8 } else { 1 };
        let later = self.random.between(MINUTE, hours * HOUR);
        self.agenda.plan(later, Happening::Life(slot, Life::Enable));
    }

    fn change_presence(&mut self, slot: usize, binding: BindingId) {
        let now = self.agenda.now();
        let Some(lease) = self.oracle.lease(binding) else { return };
        let (instance, silent) = (lease.instance, !lease.silent);
        self.oracle.silence(now, binding, silent);
        self.watch(slot, || format!("in the foreground: {silent}"));
        let second = self.slots[slot].second.and_then(|second| Some(self.slots[second].lease.as_ref()?.instance));
        for instance in [Some(instance), second].into_iter().flatten() {
            let input = if silent { Input::Suspend(instance) } else { Input::Resume(instance) };
            self.tell(binding.tag().shard(self.plan.shards), input);
        }
        // Now and then it is gone again before the server has spoken.
        let next = match (silent, self.random.between(0, 4)) {
            (_, 0) => self.random.between(0, S),
            (true, _) => self.random.between(S, HOUR),
            (false, _) => self.random.between(HOUR, 2 * DAY),
        };
        self.agenda.plan(next, Happening::Life(slot, Life::Presence(binding)));
    }

    fn on_quiet(&mut self) {
        self.quiet = true;
        for slot in 0..self.slots.len() {
            self.disable(slot);
        }
        for number in 0..self.registrars.len() {
            self.break_streams(number);
        }
    }

    /// The digest of a password that somebody believes to be a slot's.
    pub(super) fn ha1(&mut self, slot: usize, hash: Hash, password: &str) -> Ha1 {
        let known = &mut self.slots[slot].ha1s;
        if let Some((.., ha1)) = known.iter().find(|(with, of, _)| *with == hash && of == password) {
            return ha1.clone();
        }
        let ha1 = Ha1::compute(hash, &format!("u{slot}"), REALM, password);
        known.push((hash, password.to_owned(), ha1.clone()));
        ha1
    }

    /// The slots of an account's phones.
    pub(super) fn phones_of(&self, slot: usize) -> impl Iterator<Item = usize> + use<> {
        std::iter::once(slot).chain(self.slots[slot].second)
    }

    /// Tells what happens to the slot that is watched.
    pub(super) fn watch(&self, slot: usize, what: impl FnOnce() -> String) {
        if self.plan.watch == Some(slot) {
            let now = self.agenda.now();
            eprintln!("{:>8}.{:06} slot {slot}: {}", now / S, now % S, what());
        }
    }

    /// Tells what happens to the server of the slot that is watched.
    pub(super) fn watch_registrar(&self, number: usize, what: impl FnOnce() -> String) {
        if self.plan.watch.is_some_and(|slot| self.slots.get(slot).is_some_and(|slot| slot.registrar == number)) {
            let now = self.agenda.now();
            eprintln!("{:>8}.{:06} server {number} {}", now / S, now % S, what());
        }
    }
}
