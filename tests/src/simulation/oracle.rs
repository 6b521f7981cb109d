//! The oracle: what must hold, whatever happens. Its rules are written down in [`super`].
//!
//! Invariant: a rule is judged from what the relay received and sent, and from what the peers saw; never from what the
//! relay says of itself, but for the counts of what it holds.

use std::collections::{BTreeMap, HashMap};

use sip::endpoint::{CallState, Counts, IncomingCall, Side, Source};
use sip::id::{BindingId, CallId, FlowId, InstanceId};
use sip::message::{Message, Method, Name};

use super::agenda::{At, HOUR, MINUTE, S};
use super::caller::call_of;
use super::network::Peer;
use super::registrar::{Hostility, Mood};
use super::world::{Happening, World};
use super::{ANSWER_TIMEOUT, RING_TIMEOUT, SLACK, UNBIND_DEADLINE};

/// New REGISTERs of one binding in an hour, whatever its server does: a lifetime of five seconds, the shortest that is
/// believed, refreshed at 70 % of it, and each refresh challenged.
const REGISTERS_PER_HOUR: u32 = 2_100;
/// The same toward a server that grants what it should.
const REGISTERS_PER_HOUR_WELL: u32 = 120;
/// Dials of one server by one shard in an hour.
const DIALS_PER_HOUR: u32 = 400;
/// The longest back-off, two transactions that time out, and some seconds.
const BACK_OFF: At = 30 * MINUTE + 2 * 32 * S + 20 * S;
/// Answers with one wrong password of a phone that a server may see: one to the nonce that is used again, one to a fresh one in each of
/// three attempts, and one when the app comes back from the foreground, where a refusal is told to nobody.
const WRONG_MAX: u32 = 5;

/// What is looked at later.
#[derive(Clone, Debug)]
pub(super) enum Check {
    /// The INVITE has its final answer.
    Final(usize),
    /// The call has reached the phone, or its push service.
    Reached(usize),
    /// The phone rings no more.
    Quiet(usize),
    /// A phone that was attached by this flow was offered the call.
    Offered { call: usize, flow: u64 },
    /// What the phone answered at that moment is a call on both sides.
    Answered { call: usize, flow: u64, at: At },
    /// A BYE reached the other side.
    Bye { call: usize, by_phone: bool, flow: Option<u64>, troubles: u64 },
    /// The binding is gone.
    Unbound(BindingId),
    /// The second phone is gone.
    Parted(InstanceId),
    /// Everything at once, again and again.
    Sweep,
}

/// What a call came to.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The relay got the INVITE.
    pub delivered: Option<At>,
    /// The relay gave the final answer, or got the CANCEL.
    pub ended: Option<At>,
    /// The relay's final answer: its status and To tag.
    pub answer: Option<(u16, String)>,
    /// The relay got the CANCEL.
    pub cancelled: Option<At>,
    /// Pushes.
    pub wakes: u32,
    /// Pushes to a second phone.
    pub second_wakes: u32,
    /// The caller gave up.
    pub gave_up: bool,
    /// The caller heard 180.
    pub caller_heard_ringing: bool,
    /// What the caller got.
    pub caller_final: Option<u16>,
    /// These phones got the INVITE, by these flows.
    pub offered: Vec<(usize, u64)>,
    /// These phones declined.
    pub declined: Vec<usize>,
    /// Whose 200 by these flows got its ACK.
    pub acknowledged: Vec<u64>,
    /// Whose 200 by these flows was followed by a BYE.
    pub hung_up_on: Vec<u64>,
    /// The caller got a BYE.
    pub caller_hung_up_on: bool,
    /// What the caller's BYE was answered.
    pub bye_status: Option<u16>,
}

impl Facts {
    /// Whether the caller's answer is the one that a phone gave by this flow.
    pub fn is_won_by(&self, flow: u64) -> bool {
        self.answer.as_ref().is_some_and(|(status, tag)| *status == 200 && *tag == format!("p{flow}"))
    }
}

/// What is known of a lease, for ever.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Whose.
    pub slot: usize,
    /// Its instance.
    pub instance: InstanceId,
    /// Its binding.
    pub binding: BindingId,
    /// The device's secret.
    pub secret: String,
    /// What its user typed.
    pub password: String,
    /// When it began, or was resumed.
    pub since: At,
    /// The app is in the foreground.
    pub silent: bool,
    unbinding: Option<At>,
    unbound: Option<At>,
    hour: (At, u32),
    /// Call-ID, CSeq and branch of the last REGISTER.
    last: Option<(String, u32, String)>,
}

/// What the oracle remembers.
#[derive(Debug, Default)]
pub struct Oracle {
    leases: HashMap<BindingId, Lease>,
    by_instance: HashMap<InstanceId, BindingId>,
    /// The second phones of accounts, until they are unbound.
    seconds: HashMap<InstanceId, Lease>,
    calls: HashMap<(CallId, InstanceId), Option<CallState>>,
    dials: BTreeMap<usize, (At, u32)>,
    /// What was broken.
    pub wrongs: Vec<String>,
}

impl Oracle {
    /// A lease, until its binding is gone.
    pub fn lease(&self, binding: BindingId) -> Option<&Lease> {
        self.leases.get(&binding).filter(|lease| lease.unbound.is_none())
    }

    /// Whether nobody has asked for a binding's end.
    pub fn lives(&self, binding: BindingId) -> bool {
        self.leases.get(&binding).is_some_and(|lease| lease.unbinding.is_none())
    }

    /// The device's secret.
    pub fn secret(&self, instance: InstanceId) -> Option<String> {
        if let Some(second) = self.seconds.get(&instance) {
            return Some(second.secret.clone());
        }
        self.lease(*self.by_instance.get(&instance)?).map(|lease| lease.secret.clone())
    }

    /// A second phone joins.
    pub fn join(&mut self, lease: Lease) {
        self.seconds.insert(lease.instance, lease);
    }

    /// Somebody asks for the end of a second phone's part.
    pub fn part(&mut self, instance: InstanceId) {
        if let Some(second) = self.seconds.get_mut(&instance) {
            second.unbinding = Some(0);
        }
    }

    /// A lease begins.
    pub fn begin(&mut self, lease: Lease) {
        self.by_instance.insert(lease.instance, lease.binding);
        self.leases.insert(lease.binding, lease);
    }

    /// The lease of a live slot goes silent, or speaks again.
    pub fn silence(&mut self, now: At, binding: BindingId, silent: bool) {
        if let Some(lease) = self.leases.get_mut(&binding) {
            lease.silent = silent;
            lease.since = now;
        }
    }
}

impl Lease {
    /// A lease that begins now.
    pub fn new(now: At, slot: usize, ids: (InstanceId, BindingId), secret: String, password: String) -> Self {
        let (instance, binding) = ids;
        let (silent, unbinding, unbound) = (false, None, None);
        Self {
            slot,
            instance,
            binding,
            secret,
            password,
            since: now,
            silent,
            unbinding,
            unbound,
            hour: (now, 0),
            last: None,
        }
    }
}

impl World {
    /// Something is wrong: it is remembered, with the moment.
    pub(super) fn wrong(&mut self, what: String) {
        let at = self.agenda.now();
        if self.oracle.wrongs.len() < 20 {
            self.oracle.wrongs.push(format!("at {}.{:06} s: {what}", at / S, at % S));
        }
    }

    pub(super) fn judge_received(&mut self, _shard: usize, source: &Source, message: &Message) {
        let (Side::Upstream, Some(index)) = (source.side, call_of(message)) else { return };
        let now = self.agenda.now();
        match message.method() {
            Some(Method::Invite) if self.calls[index].facts.delivered.is_none() => {
                self.calls[index].facts.delivered = Some(now);
                self.stats.delivered += 1;
                let slot = self.calls[index].slot;
                self.watch(slot, || format!("call {index}: the relay gets the INVITE"));
                self.agenda.plan(RING_TIMEOUT + ANSWER_TIMEOUT + SLACK, Happening::Check(Check::Final(index)));
                self.agenda.plan(3 * S, Happening::Check(Check::Reached(index)));
                if let Some(flow) = self.slots[slot].phone.flow.filter(|_| self.slots[slot].phone.registered) {
                    self.agenda.plan(3 * S, Happening::Check(Check::Offered { call: index, flow }));
                }
            }
            Some(Method::Cancel) if self.calls[index].facts.answer.is_none() => {
                let facts = &mut self.calls[index].facts;
                facts.cancelled.get_or_insert(now);
                self.end_call_at(index, now);
            }
            _ => {}
        }
    }

    pub(super) fn judge_sent(&mut self, flow: FlowId, message: &Message) {
        let to_phone = match flow {
            FlowId::Stream(flow) => {
                self.network.stream(flow).is_some_and(|stream| matches!(stream.peer, Peer::Phone(_)))
            }
            FlowId::Datagram(_) => false,
        };
        match (message.method(), message.status(), message.cseq()) {
            (Some(Method::Register), ..) => self.judge_register(message),
            (Some(Method::Invite), ..) if to_phone => self.judge_offer(message),
            (None, Some(status @ 200..), Some((_, "INVITE"))) if !to_phone => self.judge_final(status, message),
            _ => {}
        }
    }

    fn judge_register(&mut self, register: &Message) {
        let now = self.agenda.now();
        let contact = register.contacts().first().and_then(|it| BindingId::parse(it.user()?));
        let Some(lease) = contact.and_then(|binding| self.oracle.leases.get_mut(&binding)) else {
            return self.wrong("a REGISTER for no binding".to_owned());
        };
        let (slot, binding, unbound) = (lease.slot, lease.binding, lease.unbound);
        let (call_id, branch) = (register.call_id().unwrap_or_default(), register.via().and_then(|via| via.branch()));
        let (branch, cseq) = (branch.unwrap_or_default(), register.cseq().map_or(0, |(cseq, _)| cseq));
        let again = lease.last.as_ref().is_some_and(|(_, _, last)| last == branch);
        let rises = lease
            .last
            .as_ref()
            .is_none_or(|(id, last, _)| id == call_id && if again { cseq == *last } else { cseq > *last });
        if !again {
            lease.last = Some((call_id.to_owned(), cseq, branch.to_owned()));
            let registrar = self.slots[slot].registrar;
            let hostile = self.registrars[registrar].nature.hostile.is_some();
            if lease.hour.0 + HOUR <= now {
                lease.hour = (now, 0);
            }
            lease.hour.1 += 1;
            let count = lease.hour.1;
            let bound = if hostile { REGISTERS_PER_HOUR } else { REGISTERS_PER_HOUR_WELL };
            self.stats.registers += 1;
            if count == bound + 1 {
                let hostile = self.registrars[registrar].nature.hostile;
                self.wrong(format!(
                    "more than {bound} REGISTERs in an hour for {binding} (server {registrar}, {hostile:?})"
                ));
            }
        }
        if !rises {
            self.wrong(format!("CSeq does not rise for {binding} of slot {slot}: {cseq}"));
        }
        self.watch(slot, || format!("REGISTER {cseq} {branch} expires {:?}", register.number(Name::Expires)));
        if unbound.is_some() {
            self.wrong(format!("a REGISTER for {binding} of slot {slot} after it was gone"));
        }
    }

    fn judge_offer(&mut self, invite: &Message) {
        let Some(index) = call_of(invite) else { return self.wrong("an INVITE of nobody's".to_owned()) };
        if let Some(at) = self.calls[index].facts.ended.filter(|at| *at < self.agenda.now()) {
            self.wrong(format!("call {index} is offered, and ended {} s ago", (self.agenda.now() - at) / S));
        }
        let binding = BindingId::parse(&self.calls[index].binding);
        if !binding.is_some_and(|binding| self.oracle.lives(binding)) {
            self.wrong(format!("call {index} is offered to a device that was disabled"));
        }
    }

    fn judge_final(&mut self, status: u16, response: &Message) {
        let Some(index) = call_of(response) else { return };
        let now = self.agenda.now();
        let tag = response.to().and_then(|to| to.tag().map(str::to_owned)).unwrap_or_default();
        let facts = &mut self.calls[index].facts;
        match &facts.answer {
            None => {
                facts.answer = Some((status, tag));
                self.end_call_at(index, now);
            }
            Some(first) if *first == (status, tag) => {}
            Some((first, _)) => {
                let first = *first;
                self.wrong(format!("call {index} gets a second final answer: {first}, then {status}"));
            }
        }
    }

    fn end_call_at(&mut self, index: usize, now: At) {
        if self.calls[index].facts.ended.is_none() {
            self.calls[index].facts.ended = Some(now);
            self.agenda.plan(SLACK, Happening::Check(Check::Quiet(index)));
        }
    }

    /// Which slot is woken, when the push is right.
    pub(super) fn judge_wake(&mut self, call: &IncomingCall) -> Option<usize> {
        let index = call.from.strip_prefix("sip:c").and_then(|rest| rest.split('@').next()?.parse::<usize>().ok());
        let Some(index) = index.filter(|index| *index < self.calls.len()) else {
            self.wrong(format!("a push for a call from {}", call.from));
            return None;
        };
        let slot = self.calls[index].slot;
        self.watch(slot, || format!("call {index}: pushed"));
        let second = self.oracle.seconds.get(&call.instance).map(|lease| (lease.slot, lease.unbinding.is_none()));
        let facts = &mut self.calls[index].facts;
        let wakes = if second.is_some() { &mut facts.second_wakes } else { &mut facts.wakes };
        *wakes += 1;
        // A phone that has left and joined again is a new one.
        if *wakes > 1 && second.is_none() {
            self.wrong(format!("call {index} is pushed twice"));
        }
        if self.calls[index].facts.ended.is_some() {
            self.wrong(format!("call {index} is pushed, and has ended"));
        }
        if let Some((slot, stays)) = second {
            if !stays {
                self.wrong(format!("call {index} is pushed to a second phone that has left"));
            }
            return Some(slot);
        }
        let lease = self.oracle.by_instance.get(&call.instance).copied();
        if !lease.is_some_and(|binding| self.oracle.lives(binding)) {
            self.wrong(format!("call {index} is pushed to an instance that was disabled"));
        }
        Some(slot)
    }

    pub(super) fn judge_call_state(&mut self, call: CallId, instance: InstanceId, state: CallState) {
        let known = self.oracle.calls.entry((call, instance)).or_default();
        if let Some(last) = *known {
            self.wrong(format!("{call} is {} after it was {}", state.as_str(), last.as_str()));
        } else if state.is_final() {
            *known = Some(state);
            self.stats.ended += 1;
        }
    }

    pub(super) fn judge_dial(&mut self, number: usize) {
        let now = self.agenda.now();
        let hour = self.oracle.dials.entry(number).or_insert((now, 0));
        if hour.0 + HOUR <= now {
            *hour = (now, 0);
        }
        hour.1 += 1;
        if hour.1 == DIALS_PER_HOUR * self.relay.shards.len() as u32 + 1 {
            let registrar = &self.registrars[number];
            let (mood, hostile) = (registrar.mood, registrar.nature.hostile);
            self.wrong(format!(
                "more than {DIALS_PER_HOUR} dials in an hour of server {number} ({mood:?}, {hostile:?})"
            ));
        }
    }

    pub(super) fn judge_wrong_password(&mut self, slot: usize, binding: &str, count: u32) {
        self.watch(slot, || format!("a wrong digest, the {count}th"));
        // Each phone's password is judged by itself: the relay does not know that it is the other one's, too.
        if count > WRONG_MAX * self.phones_of(slot).count() as u32 {
            self.wrong(format!("a wrong password is tried {count} times for {binding} of slot {slot}"));
        }
    }

    /// Somebody asks for the end of a binding.
    pub(super) fn expect_unbound(&mut self, binding: BindingId) {
        let now = self.agenda.now();
        if let Some(lease) = self.oracle.leases.get_mut(&binding) {
            lease.unbinding.get_or_insert(now);
            self.agenda.plan(UNBIND_DEADLINE + S, Happening::Check(Check::Unbound(binding)));
        }
    }

    pub(super) fn judge_unbound(&mut self, instance: InstanceId) {
        let now = self.agenda.now();
        if let Some(second) = self.oracle.seconds.remove(&instance) {
            if second.unbinding.is_none() {
                self.wrong(format!("{instance} is unbound, a second phone, and nobody asked"));
            }
            return;
        }
        let binding = self.oracle.by_instance.get(&instance).copied();
        match binding.and_then(|binding| self.oracle.leases.get_mut(&binding)) {
            Some(lease) if lease.unbinding.is_some() && lease.unbound.is_none() => lease.unbound = Some(now),
            _ => self.wrong(format!("{instance} is unbound, and nobody asked or it was")),
        }
    }

    /// The phone was told 200 at the edge: what waits for it must come.
    pub(super) fn expect_offers(&mut self, slot: usize, flow: u64) {
        let (calls, account) = (&self.calls, self.slots[slot].first.unwrap_or(slot));
        self.slots[account].calls.retain(|index| !calls[*index].is_over());
        // Who joins when a call is there already has no part in it.
        let since = self.slots[slot].lease.as_ref().map_or(At::MAX, |lease| lease.since);
        for index in self.slots[account].calls.clone() {
            let facts = &self.calls[index].facts;
            let waits = facts.ended.is_none() && !facts.declined.contains(&slot);
            if waits && facts.delivered.is_some_and(|at| slot == account || since < at) {
                self.agenda.plan(3 * S, Happening::Check(Check::Offered { call: index, flow }));
            }
        }
    }

    pub(super) fn on_check(&mut self, check: Check) {
        match check {
            Check::Final(call) => {
                if self.calls[call].facts.answer.is_none() {
                    self.wrong(format!("call {call} has no final answer in time"));
                }
            }
            Check::Reached(call) => self.check_reached(call),
            Check::Quiet(call) => self.check_quiet(call),
            Check::Offered { call, flow } => self.check_offered(call, flow),
            Check::Answered { call, flow, at } => self.check_answered(call, flow, at),
            Check::Bye { call, by_phone, flow, troubles } => self.check_bye(call, by_phone, flow, troubles),
            Check::Unbound(binding) => {
                if self.oracle.leases.get(&binding).is_some_and(|lease| lease.unbound.is_none()) {
                    self.wrong(format!("{binding} is not gone when its deadline is over"));
                }
            }
            Check::Parted(instance) => {
                if self.oracle.seconds.contains_key(&instance) {
                    self.wrong(format!("{instance}, a second phone, is not gone when its deadline is over"));
                }
            }
            Check::Sweep => self.sweep(),
        }
    }

    fn check_reached(&mut self, index: usize) {
        let call = &self.calls[index];
        if call.facts.ended.is_none()
            && call.facts.wakes == 0
            && !call.facts.offered.iter().any(|(slot, _)| *slot == call.slot)
        {
            let slot = call.slot;
            self.wrong(format!("call {index} of slot {slot} is neither offered nor pushed"));
        }
    }

    fn check_quiet(&mut self, index: usize) {
        let slot = self.calls[index].slot;
        for slot in self.phones_of(slot) {
            let phone = &self.slots[slot].phone;
            if phone.flow.is_some_and(|flow| self.network.is_alive(flow)) && phone.rings_for(index) {
                self.wrong(format!("call {index} has ended, and the phone of slot {slot} rings on"));
            }
        }
    }

    /// Whether a phone that was attached by `flow` is so still, and its lease lives.
    fn stood(&self, index: usize, flow: u64) -> bool {
        let lives = BindingId::parse(&self.calls[index].binding).is_some_and(|binding| self.oracle.lives(binding));
        let mut phones = self.phones_of(self.calls[index].slot).map(|slot| &self.slots[slot].phone);
        lives && self.network.is_alive(flow) && phones.any(|phone| phone.flow == Some(flow) && phone.registered)
    }

    /// The slot of the phone whose answer the caller has.
    pub(super) fn winner_of(&self, index: usize) -> Option<usize> {
        let facts = &self.calls[index].facts;
        let won = |slot: &usize| self.slots[*slot].phone.answered_by(index).is_some_and(|flow| facts.is_won_by(flow));
        self.phones_of(self.calls[index].slot).find(won)
    }

    fn check_offered(&mut self, index: usize, flow: u64) {
        let facts = &self.calls[index].facts;
        if facts.ended.is_none() && self.stood(index, flow) && !facts.offered.iter().any(|(_, by)| *by == flow) {
            self.wrong(format!("call {index} waits, its phone is attached by flow {flow}, and the INVITE never came"));
        }
    }

    /// Whether the way to the caller was good all the time.
    fn way_was_good(&self, index: usize, troubles: u64) -> bool {
        let registrar = &self.registrars[self.calls[index].registrar];
        registrar.troubles == troubles && registrar.mood == Mood::Well
    }

    fn check_answered(&mut self, index: usize, flow: u64, at: At) {
        let call = &self.calls[index];
        let facts = &call.facts;
        let crossed = facts.cancelled.is_some_and(|cancelled| cancelled <= at + S);
        let lost = facts.answer.as_ref().is_some_and(|(status, _)| *status >= 300) && facts.ended <= Some(at + S);
        if !self.way_was_good(index, call.troubles) || !self.stood(index, flow) || crossed || lost {
            return;
        }
        self.stats.answerable += 1;
        if facts.caller_final != Some(200) {
            let got = facts.caller_final;
            return self.wrong(format!("call {index} was answered by its phone, and its caller got {got:?}"));
        }
        let hung_up_on = facts.hung_up_on.contains(&flow);
        if !facts.acknowledged.contains(&flow) && !hung_up_on {
            return self.wrong(format!("call {index} was answered by its phone, and the ACK never came"));
        }
        if facts.is_won_by(flow) {
            let by_second = |(slot, by): &(usize, u64)| *by == flow && self.slots[*slot].first.is_some();
            self.stats.seconds_connected += u64::from(facts.offered.iter().any(by_second));
            self.stats.connected += 1;
        } else if hung_up_on {
            self.stats.too_late += 1;
        } else {
            self.wrong(format!("call {index} was answered by another phone before this one, which was never told"));
        }
    }

    fn check_bye(&mut self, index: usize, by_phone: bool, flow: Option<u64>, troubles: u64) {
        let Some(flow) = flow else { return };
        let registrar = &self.registrars[self.calls[index].registrar];
        // A stream that broke in silence is believed in until TCP gives it up.
        let half_open = registrar.stream && registrar.well_since.saturating_add(20 * MINUTE) > self.agenda.now();
        if half_open || !self.way_was_good(index, troubles) || !self.stood(index, flow) {
            return;
        }
        let facts = &self.calls[index].facts;
        let slot = self.calls[index].slot;
        let phones = self.phones_of(slot).map(|slot| &self.slots[slot].phone);
        let reached = match by_phone {
            true => facts.caller_hung_up_on || self.calls[index].is_over(),
            false => phones.filter(|phone| phone.flow == Some(flow)).all(|phone| phone.is_done_with(index)),
        };
        self.stats.byes += 1;
        if !reached {
            let status = facts.bye_status;
            self.wrong(format!(
                "the BYE of call {index} of slot {slot} (by the phone: {by_phone}) never came ({status:?})"
            ));
        }
    }

    fn sweep(&mut self) {
        let now = self.agenda.now();
        for slot in 0..self.slots.len() {
            if self.slots[slot].first.is_some() {
                continue;
            }
            let number = self.slots[slot].registrar;
            let registrar = &self.registrars[number];
            let bound = BACK_OFF.max(At::from(registrar.nature.longest) * S * 85 / 100 + MINUTE);
            let Some(lease) = self.slots[slot].lease.as_ref().and_then(|lease| self.oracle.lease(lease.binding)) else {
                continue;
            };
            let well = registrar.serves() && registrar.well_since.saturating_add(bound) < now;
            let due = well && !lease.silent && lease.since + bound < now && lease.password == self.slots[slot].password;
            if due && self.oracle.lives(lease.binding) {
                self.stats.swept += 1;
                if !registrar.knows(now, slot, &lease.binding.to_string()) {
                    let binding = lease.binding;
                    self.wrong(format!("slot {slot} ({binding}) is not registered at server {number}, which is well"));
                }
            }
        }
        for shard in 0..self.relay.shards.len() {
            let counts = self.relay.shards[shard].counts();
            self.stats.peak_transactions = self.stats.peak_transactions.max(counts.transactions);
            self.stats.peak_timers = self.stats.peak_timers.max(counts.timers);
        }
        if !self.quiet {
            self.agenda.plan(5 * MINUTE, Happening::Check(Check::Sweep));
        }
    }

    /// When everything is disabled and time has passed, nothing is left.
    pub(super) fn judge_quiet(&mut self) {
        for shard in 0..self.relay.shards.len() {
            let counts = self.relay.shards[shard].counts();
            if counts != Counts::default() {
                let open = self.network.open();
                self.wrong(format!(
                    "shard {shard} still holds something when all is quiet ({open} streams): {counts:?}"
                ));
            }
        }
    }

    /// Whether a server misbehaves so that its users cannot be registered.
    pub(super) fn is_hopeless(&self, number: usize) -> bool {
        matches!(self.registrars[number].nature.hostile, Some(kind) if kind != Hostility::GrantsOne)
    }
}
