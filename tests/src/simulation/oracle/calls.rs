//! Rules for calls: none is lost, none ends twice, none rings for nothing, and a BYE arrives.

use sip::endpoint::{CallState, IncomingCall, Side, Source};
use sip::id::{BindingId, CallId, InstanceId};
use sip::message::{Message, Method};

use super::super::agenda::{At, MINUTE, S};
use super::super::caller::call_of;
use super::super::registrar::Mood;
use super::super::world::{Happening, World};
use super::super::{ANSWER_TIMEOUT, RING_TIMEOUT, SLACK};
use super::Check;

impl World {
    pub(in crate::simulation) fn judge_received(&mut self, _shard: usize, source: &Source, message: &Message) {
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
                    self.agenda.plan(3 * S, Happening::Check(Check::Invited { call: index, flow }));
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

    pub(super) fn judge_offer(&mut self, invite: &Message) {
        let Some(index) = call_of(invite) else { return self.wrong("an INVITE of nobody's".to_owned()) };
        if let Some(at) = self.calls[index].facts.ended.filter(|at| *at < self.agenda.now()) {
            self.wrong(format!("call {index} is forked, and ended {} s ago", (self.agenda.now() - at) / S));
        }
        let binding = BindingId::parse(&self.calls[index].binding);
        if !binding.is_some_and(|binding| self.oracle.lives(binding)) {
            self.wrong(format!("call {index} is forked to a device that was disabled"));
        }
    }

    pub(super) fn judge_final(&mut self, status: u16, response: &Message) {
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
    pub(in crate::simulation) fn judge_wake(&mut self, call: &IncomingCall) -> Option<usize> {
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

    pub(in crate::simulation) fn judge_call_state(&mut self, call: CallId, instance: InstanceId, state: CallState) {
        let known = self.oracle.calls.entry((call, instance)).or_default();
        if let Some(last) = *known {
            self.wrong(format!("{call} is {} after it was {}", state.as_str(), last.as_str()));
        } else if state.is_final() {
            *known = Some(state);
            self.stats.ended += 1;
        }
    }

    /// The phone was told 200 at the edge: what waits for it must come.
    pub(in crate::simulation) fn expect_offers(&mut self, slot: usize, flow: u64) {
        let (calls, account) = (&self.calls, self.slots[slot].first.unwrap_or(slot));
        self.slots[account].calls.retain(|index| !calls[*index].is_over());
        // A phone that joins during a call has no part in it.
        let since = self.slots[slot].lease.as_ref().map_or(At::MAX, |lease| lease.since);
        for index in self.slots[account].calls.clone() {
            let facts = &self.calls[index].facts;
            let waits = facts.ended.is_none() && !facts.declined.contains(&slot);
            if waits && facts.delivered.is_some_and(|at| slot == account || since < at) {
                self.agenda.plan(3 * S, Happening::Check(Check::Invited { call: index, flow }));
            }
        }
    }

    pub(super) fn check_reached(&mut self, index: usize) {
        let call = &self.calls[index];
        if call.facts.ended.is_none()
            && call.facts.wakes == 0
            && !call.facts.invited.iter().any(|(slot, _)| *slot == call.slot)
        {
            let slot = call.slot;
            self.wrong(format!("call {index} of slot {slot} is neither forked nor pushed"));
        }
    }

    pub(super) fn check_quiet(&mut self, index: usize) {
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
    pub(in crate::simulation) fn winner_of(&self, index: usize) -> Option<usize> {
        let facts = &self.calls[index].facts;
        let won = |slot: &usize| self.slots[*slot].phone.answered_by(index).is_some_and(|flow| facts.is_won_by(flow));
        self.phones_of(self.calls[index].slot).find(won)
    }

    pub(super) fn check_invited(&mut self, index: usize, flow: u64) {
        let facts = &self.calls[index].facts;
        if facts.ended.is_none() && self.stood(index, flow) && !facts.invited.iter().any(|(_, by)| *by == flow) {
            self.wrong(format!("call {index} waits, its phone is attached by flow {flow}, and the INVITE never came"));
        }
    }

    /// Whether the way to the caller was good all the time.
    fn way_was_good(&self, index: usize, troubles: u64) -> bool {
        let registrar = &self.registrars[self.calls[index].registrar];
        registrar.troubles == troubles && registrar.mood == Mood::Well
    }

    pub(super) fn check_answered(&mut self, index: usize, flow: u64, at: At) {
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
            self.stats.seconds_connected += u64::from(facts.invited.iter().any(by_second));
            self.stats.connected += 1;
        } else if hung_up_on {
            self.stats.too_late += 1;
        } else {
            self.wrong(format!("call {index} was answered by another phone before this one, which was never told"));
        }
    }

    pub(super) fn check_bye(&mut self, index: usize, by_phone: bool, flow: Option<u64>, troubles: u64) {
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
        let reached = if by_phone {
            facts.caller_hung_up_on || self.calls[index].is_over()
        } else {
            phones.filter(|phone| phone.flow == Some(flow)).all(|phone| phone.is_done_with(index))
        };
        self.stats.byes += 1;
        if !reached {
            let status = facts.bye_status;
            self.wrong(format!(
                "the BYE of call {index} of slot {slot} (by the phone: {by_phone}) never came ({status:?})"
            ));
        }
    }
}
