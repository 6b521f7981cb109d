//! Rules for registrations: they stand, they end when they must, and no server makes the relay spin.

use sip::id::{BindingId, InstanceId};
use sip::message::{Message, Name};

use super::super::UNBIND_DEADLINE;
use super::super::agenda::{At, HOUR, MINUTE, S};
use super::super::registrar::Hostility;
use super::super::world::{Happening, World};
use super::Check;

/// New REGISTERs of one binding in an hour, whatever its server does: one that grants a second is asked once a second, and may challenge
/// each refresh.
const REGISTERS_PER_HOUR: u32 = 7_400;
/// The same toward a server that grants what it should.
const REGISTERS_PER_HOUR_WELL: u32 = 120;
/// Dials of one server by one shard in an hour.
const DIALS_PER_HOUR: u32 = 400;
/// The longest back-off, two transactions that time out, and some seconds.
const BACK_OFF: At = 30 * MINUTE + 2 * 32 * S + 20 * S;
/// Answers with one wrong password of a phone that a server may see: one to the nonce that is used again, one to a fresh one in each of
/// three attempts, and one when the app comes back from the foreground, where a refusal is told to nobody.
const WRONG_MAX: u32 = 5;

impl World {
    pub(super) fn judge_register(&mut self, register: &Message) {
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

    pub(in crate::simulation) fn judge_dial(&mut self, number: usize) {
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

    pub(in crate::simulation) fn judge_wrong_password(&mut self, slot: usize, binding: &str, count: u32) {
        self.watch(slot, || format!("a wrong digest, the {count}th"));
        // Each phone's password is judged by itself: the relay does not know that it is the other one's, too.
        if count > WRONG_MAX * self.phones_of(slot).count() as u32 {
            self.wrong(format!("a wrong password is tried {count} times for {binding} of slot {slot}"));
        }
    }

    /// Somebody asks for the end of a binding.
    pub(in crate::simulation) fn expect_unbound(&mut self, binding: BindingId) {
        let now = self.agenda.now();
        if let Some(lease) = self.oracle.leases.get_mut(&binding) {
            lease.unbinding.get_or_insert(now);
            self.agenda.plan(UNBIND_DEADLINE + S, Happening::Check(Check::Unbound(binding)));
        }
    }

    pub(in crate::simulation) fn judge_unbound(&mut self, instance: InstanceId) {
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

    pub(super) fn sweep(&mut self) {
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

    /// Whether a server misbehaves so that its users cannot be registered.
    pub(in crate::simulation) fn is_hopeless(&self, number: usize) -> bool {
        matches!(self.registrars[number].nature.hostile, Some(kind) if kind != Hostility::GrantsOne)
    }
}
