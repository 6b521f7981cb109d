//! The wait of a forwarded REGISTER: its turn at the SIP server, a flow, its turn at the flow's address.
//!
//! | stage | ends when | otherwise |
//! | --- | --- | --- |
//! | [`Stage::Route`] | the shell has found its route | |
//! | [`Stage::Turn`] | its turn comes at the SIP server | 503, where that is later than [`TURN_WAIT_MAX`], or [`TURN_WAIT_FAMILIAR`] |
//! | [`Stage::Flow`] | a flow is up | 504, when none is in time |
//! | [`Stage::Place`] | its turn comes at the flow's address | 503, likewise |
//! | [`Stage::Sent`] | a response comes; where that has another address sought, or the flow ends, it waits for the next flow | 504 |
//! | [`Stage::PlaceAside`] | its turn comes at the further address that it alone goes to (`asides`) | the refusal that it has |
//! | [`Stage::SentAside`] | a response comes | likewise, after [`ASIDE_ANSWERS`], or [`ASIDE_ENDS`] where it goes on there |
//!
//! Turns are counted by [`super::upstreams`] for all REGISTERs alike: many phones that come at once, after a network was away
//! or a server was new, wait a moment in place of being sent away. A phone that is registered here may wait longer than others: as long as strangers, and new
//! phones, come faster than a SIP server may be asked, they fill the line up to their own limit alone.
//!
//! Invariant: a REGISTER has one timer that counts, that of its stage.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::pushed::ForwardedRegisterId;
use super::upstreams::Place;
use super::{Endpoint, Timer, Transport};
use crate::id::{BranchId, FlowId, UpstreamId};
use crate::message::Message;

/// SIP servers that are dialled at once because of REGISTERs from one address, on one shard; one for a further one is
/// answered 503.
pub const DIALS_PER_SOURCE: usize = 16;
/// How long a REGISTER waits for a turn; one that would wait longer is answered 503 at once. A device gives up after 32 s.
pub const TURN_WAIT_MAX: Duration = Duration::from_secs(4);
/// The same for one that shows a secret of a registration that is known here.
pub const TURN_WAIT_FAMILIAR: Duration = Duration::from_secs(8);
/// How long a further address has for an answer to a REGISTER that the address in use has refused. Its device waits for that refusal meanwhile.
pub const ASIDE_ANSWERS: Duration = Duration::from_secs(8);
/// The same where it has sent a provisional response.
pub const ASIDE_ENDS: Duration = Duration::from_secs(16);

/// The stage of a REGISTER.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    Route,
    Turn { at: Instant },
    Flow { until: Instant },
    Place { place: Place, until: Instant },
    Sent(BranchId),
    PlaceAside { place: Place, until: Instant, by: FlowId, transport: Transport },
    SentAside { branch: BranchId, until: Instant, by: FlowId },
}

impl Stage {
    /// The branch, once the REGISTER has been sent.
    pub(super) fn branch(self) -> Option<BranchId> {
        match self {
            Self::Sent(branch) | Self::SentAside { branch, .. } => Some(branch),
            Self::Route | Self::Turn { .. } | Self::Flow { .. } | Self::Place { .. } | Self::PlaceAside { .. } => None,
        }
    }

    fn is_due(self, now: Instant) -> bool {
        match self {
            Self::Turn { at }
            | Self::Flow { until: at }
            | Self::Place { place: Place { at, .. }, .. }
            | Self::PlaceAside { place: Place { at, .. }, .. }
            | Self::SentAside { until: at, .. } => at <= now,
            Self::Route | Self::Sent(_) => false,
        }
    }
}

impl Endpoint {
    /// A REGISTER has its route: it goes, or waits for its turn.
    pub(super) fn take_register_turn(&mut self, now: Instant, id: ForwardedRegisterId, upstream: UpstreamId) {
        match self.upstreams.register_turn(now, upstream, self.turn_wait(id)) {
            None => self.end_register(now, id, 503),
            Some(at) if at <= now => self.find_flow(now, id, upstream),
            Some(at) => self.wait_until(id, at, Stage::Turn { at }),
        }
    }

    /// How long a REGISTER may wait for each of its turns.
    fn turn_wait(&self, id: ForwardedRegisterId) -> Duration {
        let is_familiar = self.registers.get(id).is_some_and(|register| register.is_familiar);
        if is_familiar { TURN_WAIT_FAMILIAR } else { TURN_WAIT_MAX }
    }

    fn find_flow(&mut self, now: Instant, id: ForwardedRegisterId, upstream: UpstreamId) {
        if self.upstreams.flow(upstream).is_some() {
            return self.take_place(now, id, upstream);
        }
        let Some(source) = self.registers.get(id).map(|register| register.source.peer.ip()) else { return };
        if self.dials_for_others(upstream, source) >= DIALS_PER_SOURCE {
            return self.end_register(now, id, 503);
        }
        let until = now + self.core.settings.timing.upstream.flow;
        self.wait_until(id, until, Stage::Flow { until });
        self.want_flow_soon(now, upstream);
    }

    fn take_place(&mut self, now: Instant, id: ForwardedRegisterId, upstream: UpstreamId) {
        let Some((flow, transport)) = self.upstreams.flow(upstream) else { return self.find_flow(now, id, upstream) };
        let (per_second, wait) = (self.core.settings.upstream.registrations_per_second, self.turn_wait(id));
        match self.upstreams.register_place(now, flow, per_second, wait) {
            None => self.end_register(now, id, 503),
            Some(place) if place.at <= now => self.send_register_on(now, id, flow, transport),
            Some(place) => self.wait_until(id, place.at, Stage::Place { place, until: now + wait }),
        }
    }

    /// Continues a REGISTER whose stage has ended: its turn or its flow has come, or will not come.
    pub(super) fn on_forwarded_register_due(&mut self, now: Instant, id: ForwardedRegisterId) {
        let Some(register) = self.registers.get(id).filter(|register| register.stage.is_due(now)) else { return };
        let Some(upstream) = register.upstream() else { return };
        match register.stage {
            Stage::Turn { .. } => self.find_flow(now, id, upstream),
            Stage::Flow { .. } => self.end_register(now, id, 504),
            Stage::Place { place, until } => match self.upstreams.flow(upstream) {
                None => self.find_flow(now, id, upstream),
                Some((flow, transport)) => match self.upstreams.moved_place(now, flow, place) {
                    Some(moved) if moved.at > until => self.end_register(now, id, 503),
                    Some(place) if place.at > now => self.wait_until(id, place.at, Stage::Place { place, until }),
                    Some(_) | None => self.send_register_on(now, id, flow, transport),
                },
            },
            Stage::PlaceAside { by, .. } if !self.upstreams.is_aside(upstream, by) => self.end_register(now, id, 503),
            Stage::PlaceAside { place, until, by, transport } => match self.upstreams.moved_place(now, by, place) {
                Some(moved) if moved.at > until => self.end_register(now, id, 503),
                Some(place) if place.at > now => {
                    self.wait_until(id, place.at, Stage::PlaceAside { place, until, by, transport });
                }
                Some(_) | None => self.send_aside(now, id, by, transport),
            },
            Stage::SentAside { by, .. } => {
                let sent_at = register.sent.map(|sent| sent.at);
                self.on_aside_silent(now, upstream, by, sent_at);
                self.end_register(now, id, 503);
            }
            Stage::Route | Stage::Sent(_) => {}
        }
    }

    /// A REGISTER that was refused `by` this flow goes by the next one.
    pub(super) fn ask_next(&mut self, now: Instant, id: ForwardedRegisterId, by: FlowId, refusal: &Message) {
        let Some(register) = self.registers.get_mut(id) else { return };
        register.refused = Some(Box::new(refusal.clone()));
        register.failed_at.extend(register.sent.iter().flat_map(|sent| [sent.place; 2]));
        if self.registers.is_superseded(id) {
            return self.end_register(now, id, 503);
        }
        self.wait_for_next(now, id, by);
    }

    /// The flow of a REGISTER has ended, or is left, before it was answered: it goes by the next one, as it would after a refusal (RFC 3263 §4.3), unless its
    /// device has sent a later one: that one is not to be undone.
    pub(super) fn ask_anew(&mut self, now: Instant, id: ForwardedRegisterId) {
        let sent = self.registers.get(id).and_then(|register| register.sent);
        let is_superseded = self.registers.is_superseded(id);
        let Some((sent, register)) = sent.zip(self.registers.get_mut(id)) else {
            return self.end_register(now, id, 504);
        };
        register.failed_at.push(sent.place);
        let is_up = |upstream| self.upstreams.flow(upstream).is_some_and(|(flow, _)| flow == sent.by);
        let may_go_on = register.may_go_on(now) && !register.upstream().is_some_and(is_up);
        if !may_go_on || is_superseded {
            return self.end_register(now, id, 504);
        }
        if let Some(branch) = register.stage.branch() {
            self.core.transactions.abandon(branch);
        }
        self.wait_for_next(now, id, sent.by);
    }

    fn wait_for_next(&mut self, now: Instant, id: ForwardedRegisterId, by: FlowId) {
        let Some(upstream) = self.registers.get(id).and_then(|register| register.upstream()) else { return };
        let until = now + self.core.settings.timing.upstream.flow;
        self.wait_until(id, until, Stage::Flow { until });
        if self.upstreams.flow(upstream).is_some_and(|(flow, _)| flow != by) {
            self.go_by_next(now, id, upstream);
        }
    }

    /// A flow is up for a REGISTER that waits: it goes by it, unless its address has failed it before.
    fn go_by_next(&mut self, now: Instant, id: ForwardedRegisterId, upstream: UpstreamId) {
        let place = self.upstreams.flow(upstream).map(|(flow, _)| self.upstreams.destination(flow));
        let Some((place, register)) = place.zip(self.registers.get(id)) else { return };
        if register.may_be_asked_at(place) {
            self.take_place(now, id, upstream);
        } else {
            // There is no other address.
            self.end_register(now, id, if register.refused.is_some() { 503 } else { 504 });
        }
    }

    /// A REGISTER that the flow in use has refused goes by another one, beside it, unless its address has refused it as well, or takes no more for long.
    pub(super) fn go_aside(&mut self, now: Instant, id: ForwardedRegisterId, flow: FlowId, transport: Transport) {
        let place = self.upstreams.destination(flow);
        let (per_second, wait) = (self.core.settings.upstream.registrations_per_second, self.turn_wait(id));
        if !self.registers.get(id).is_some_and(|register| register.may_be_asked_at(place)) {
            return self.end_register(now, id, 503);
        }
        match self.upstreams.register_place(now, flow, per_second, wait) {
            None => self.end_register(now, id, 503),
            Some(place) if place.at <= now => self.send_aside(now, id, flow, transport),
            Some(place) => {
                let stage = Stage::PlaceAside { place, until: now + wait, by: flow, transport };
                self.wait_until(id, place.at, stage);
            }
        }
    }

    fn send_aside(&mut self, now: Instant, id: ForwardedRegisterId, flow: FlowId, transport: Transport) {
        self.send_register_on(now, id, flow, transport);
        if let Some(branch) = self.registers.get(id).and_then(|register| register.stage.branch()) {
            let until = now + ASIDE_ANSWERS;
            self.wait_until(id, until, Stage::SentAside { branch, until, by: flow });
        }
    }

    /// A further address goes on with a REGISTER: it has longer for it.
    pub(super) fn on_aside_proceeds(&mut self, id: ForwardedRegisterId) {
        let Some(register) = self.registers.get(id) else { return };
        if let (Stage::SentAside { branch, by, .. }, Some(sent)) = (register.stage, register.sent) {
            let until = sent.at + ASIDE_ENDS;
            self.wait_until(id, until, Stage::SentAside { branch, until, by });
        }
    }

    /// Likewise all that wait.
    pub(super) fn send_refused_aside(
        &mut self,
        now: Instant,
        upstream: UpstreamId,
        flow: FlowId,
        transport: Transport,
    ) {
        for id in self.registers_to(upstream, |stage| matches!(stage, Stage::Flow { .. })) {
            self.go_aside(now, id, flow, transport);
        }
    }

    fn wait_until(&mut self, id: ForwardedRegisterId, at: Instant, stage: Stage) {
        if let Some(register) = self.registers.get_mut(id) {
            register.stage = stage;
            self.core.timers.set(at, Timer::ForwardedRegister(id));
        }
    }

    /// A flow to a SIP server is up: what waited for it goes on.
    pub(super) fn send_waiting(&mut self, now: Instant, upstream: UpstreamId) {
        for id in self.registers_to(upstream, |stage| matches!(stage, Stage::Flow { .. })) {
            self.go_by_next(now, id, upstream);
        }
    }

    /// There is no flow to a SIP server, and none is dialled: what waits for one ends. What has had a flow, which ended, waits for the next dial.
    pub(super) fn fail_registers(&mut self, now: Instant, upstream: UpstreamId) {
        for id in self.registers_to(upstream, |stage| matches!(stage, Stage::Flow { .. })) {
            let has_lost = self.registers.get(id).is_some_and(|register| register.has_lost_its_flow());
            if !(has_lost && self.upstreams.is_awaited(upstream)) {
                self.end_register(now, id, 504);
            }
        }
    }

    /// A flow to a SIP server, or any where that is `None`, is used no more: what was sent by it and is not answered goes by the next one.
    pub(super) fn ask_all_anew(&mut self, now: Instant, upstream: UpstreamId, by: Option<FlowId>) {
        for id in self.registers_to(upstream, |stage| stage.branch().is_some()) {
            let sent = self.registers.get(id).and_then(|register| register.sent);
            if by.is_none_or(|by| sent.is_some_and(|sent| sent.by == by)) {
                self.ask_anew(now, id);
            }
        }
    }

    fn registers_to(&self, upstream: UpstreamId, is_meant: impl Fn(Stage) -> bool) -> Vec<ForwardedRegisterId> {
        self.registers.to(upstream).filter(|(_, it)| is_meant(it.stage)).map(|(id, _)| id).collect()
    }

    /// The number of other SIP servers that REGISTERs of a source wait for: a source that names one silent server after the other keeps no dialler
    /// from servers that answer, and takes no place from another source.
    fn dials_for_others(&self, upstream: UpstreamId, source: IpAddr) -> usize {
        let waiting = self.registers.of_source(source).filter(|(_, it)| matches!(it.stage, Stage::Flow { .. }));
        let others = waiting.filter_map(|(_, it)| it.upstream()).filter(|other| *other != upstream);
        others.collect::<BTreeSet<_>>().len()
    }

    /// A device's connection has ended: what waits waits for nobody any more.
    pub(super) fn forget_waiting(&mut self, now: Instant, flow: FlowId) {
        let theirs = self.registers.of_flow(flow).filter(|(_, it)| it.stage.branch().is_none());
        // One that waits for its turn has not failed at its SIP server.
        let status = |stage: Stage| if matches!(stage, Stage::Turn { .. } | Stage::Place { .. }) { 503 } else { 504 };
        for (id, status) in theirs.map(|(id, it)| (id, status(it.stage))).collect::<Vec<_>>() {
            self.end_register(now, id, status);
        }
    }
}
