//! The wait of a forwarded REGISTER: its turn at the SIP server, a flow, its turn at the flow's address.
//!
//! | stage | ends when | otherwise |
//! | --- | --- | --- |
//! | [`Stage::Route`] | the shell has found its route | |
//! | [`Stage::Turn`] | its turn comes at the SIP server | 503, where that is later than [`TURN_WAIT_MAX`] |
//! | [`Stage::Flow`] | a flow is up | 504, when none is in time |
//! | [`Stage::Place`] | its turn comes at the flow's address | 503, likewise |
//! | [`Stage::Sent`] | a response comes; where that has another address sought, it waits for the next flow, once | 504 |
//!
//! Turns are counted by [`super::upstreams`] for all REGISTERs alike: many phones that come at once, after a network was away
//! or a server was new, wait a moment in place of being sent away.
//!
//! Invariant: a REGISTER has one timer that counts, that of its stage.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::pushed::ForwardedRegisterId;
use super::upstreams::Place;
use super::{Endpoint, Timer};
use crate::id::{BranchId, FlowId, UpstreamId};
use crate::message::Message;

/// SIP servers that are dialled at once because of REGISTERs from one address, on one shard; one for a further one is
/// answered 503.
pub const DIALS_PER_SOURCE: usize = 16;
/// How long a REGISTER waits for a turn; one that would wait longer is answered 503 at once. A device gives up after 32 s.
pub const TURN_WAIT_MAX: Duration = Duration::from_secs(4);

/// The stage of a REGISTER.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    Route,
    Turn { at: Instant },
    Flow { until: Instant },
    Place { place: Place, until: Instant },
    Sent(BranchId),
}

impl Stage {
    /// The branch, once the REGISTER has been sent.
    pub(super) fn branch(self) -> Option<BranchId> {
        match self {
            Self::Sent(branch) => Some(branch),
            Self::Route | Self::Turn { .. } | Self::Flow { .. } | Self::Place { .. } => None,
        }
    }

    fn is_due(self, now: Instant) -> bool {
        match self {
            Self::Turn { at } | Self::Flow { until: at } | Self::Place { place: Place { at, .. }, .. } => at <= now,
            Self::Route | Self::Sent(_) => false,
        }
    }
}

impl Endpoint {
    /// A REGISTER has its route: it goes, or waits for its turn.
    pub(super) fn take_register_turn(&mut self, now: Instant, id: ForwardedRegisterId, upstream: UpstreamId) {
        match self.upstreams.register_turn(now, upstream, TURN_WAIT_MAX) {
            None => self.end_register(now, id, 503),
            Some(at) if at <= now => self.find_flow(now, id, upstream),
            Some(at) => self.wait_until(id, at, Stage::Turn { at }),
        }
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
        let per_second = self.core.settings.upstream.registrations_per_second;
        match self.upstreams.register_place(now, flow, per_second, TURN_WAIT_MAX) {
            None => self.end_register(now, id, 503),
            Some(place) if place.at <= now => self.send_register_on(now, id, flow, transport),
            Some(place) => self.wait_until(id, place.at, Stage::Place { place, until: now + TURN_WAIT_MAX }),
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
            Stage::Route | Stage::Sent(_) => {}
        }
    }

    /// A REGISTER that was refused `by` this flow goes by the next one.
    pub(super) fn ask_next(&mut self, now: Instant, id: ForwardedRegisterId, by: FlowId, refusal: &Message) {
        let Some(register) = self.registers.get_mut(id) else { return };
        register.refused = Some((by, Box::new(refusal.clone())));
        let Some(upstream) = register.upstream() else { return };
        let until = now + self.core.settings.timing.upstream.flow;
        self.wait_until(id, until, Stage::Flow { until });
        if self.upstreams.flow(upstream).is_some_and(|(flow, _)| flow != by) {
            self.take_place(now, id, upstream);
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
            let refused_by = self.registers.get(id).and_then(|it| it.refused.as_ref()).map(|(by, _)| *by);
            match self.upstreams.flow(upstream) {
                // There is no other address.
                Some((flow, _)) if refused_by == Some(flow) => self.end_register(now, id, 503),
                _ => self.take_place(now, id, upstream),
            }
        }
    }

    /// There is no flow to a SIP server. `waiting`: what waits for one ends; else what was sent by the one there was.
    pub(super) fn fail_registers(&mut self, now: Instant, upstream: UpstreamId, waiting: bool) {
        let ends = |stage| match stage {
            Stage::Flow { .. } => waiting,
            Stage::Sent(_) => !waiting,
            Stage::Route | Stage::Turn { .. } | Stage::Place { .. } => false,
        };
        for id in self.registers_to(upstream, ends) {
            self.end_register(now, id, 504);
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
        for id in theirs.map(|(id, _)| id).collect::<Vec<_>>() {
            self.end_register(now, id, 504);
        }
    }
}
