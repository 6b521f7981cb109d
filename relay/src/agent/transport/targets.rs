//! The order of a SIP server's addresses: which one is dialled first, and when a worse one is left for a better one (RFC 3263 §4.3).
//!
//! | an address | is |
//! | --- | --- |
//! | that could not be connected to, or had a wrong certificate | away |
//! | that left a REGISTER or a keep-alive unanswered, or answered 503 or 430 while it served nobody, or to several accounts | away |
//! | that ended a stream before it granted anything, or several streams soon after they were opened | away |
//! | that did not answer, or granted nothing, when it was probed as the better one | away |
//! | that did not serve a single account, without saying that it serves nobody | away for the shard of that account alone, until it fails accounts of [several](SEVERAL) shards, and no other account is served there |
//!
//! An address that is away is dialled after all others, and not probed as the better one: at first for the setting `upstream.failback_interval`, and twice as
//! long after each further failure, up to [`AWAY_MAX`]. The doubling starts anew once the address has served for [`SETTLED`]. When its time is over the address
//! may be probed; it is dialled like the others once it has answered.
//!
//! A flow is left for another address only when DNS ranks that one better: by transport or priority, never by weight or by the order of an answer. An address
//! that DNS no longer names counts as the worst after [`UNNAMED`]. It does so at once if it refuses an account that it had accepted and has granted none since:
//! the server has moved. Some name servers name only a few of many addresses at a time. So where DNS has twice named addresses again that it had left out, an
//! address that is left out is kept for [`UNLISTED`], whatever it answers; likewise one that is missing from an answer that may be incomplete.
//!
//! The current address is that of the flow which the shard's endpoint reports as taken. The endpoint may decline a flow, because the server in use serves again
//! or because nobody wants the flow any more; that says nothing about its address.
//!
//! Invariant: at most [`REMEMBERED`] addresses are remembered. The same calls give the same answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sip::endpoint::FlowOutcome;
use sip::id::FlowId;

use crate::net::Transport;
use crate::net::dns::resolve::{Candidate, MAX_CANDIDATES};

/// An address is left alone for at most this long.
pub(crate) const AWAY_MAX: Duration = Duration::from_secs(3_600);
/// The service time of an address after which its next failure counts as the first.
const SETTLED: Duration = Duration::from_secs(600);
/// How long DNS must have named others alone, until a flow to an address that it named before is left.
const UNNAMED: Duration = Duration::from_secs(300);
/// Likewise where DNS names a few of many at a time, or may have named others beside.
const UNLISTED: Duration = Duration::from_secs(3_600);
/// How long it is held to do so after it has named an address again, for the second time within as long.
const ROTATES: Duration = Duration::from_secs(6 * 3_600);
/// Addresses that failed, remembered for one SIP server; the one that is back soonest is forgotten first.
const REMEMBERED: usize = MAX_CANDIDATES;

/// So many shards each with an account that an address fails: it is the address that fails.
const SEVERAL: usize = 2;

/// The destination of a flow.
pub(crate) type Destination = (SocketAddr, Transport);

/// The addresses of one SIP server.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    away: BTreeMap<Destination, Away>,
    /// Addresses that have failed a single account of a shard, and are away for that shard alone.
    away_for_one: BTreeMap<(usize, Destination), Away>,
    /// By shard.
    current: BTreeMap<usize, Current>,
    /// Addresses of shards whose last flow ended while none was wanted.
    last: BTreeMap<usize, Current>,
    /// Flows of which an endpoint has not said yet whether it takes them: dialled, and to be tried as better ones.
    dialled: BTreeMap<usize, (FlowId, Candidate)>,
    trying: BTreeMap<usize, (FlowId, Candidate)>,
    /// Addresses that were left because DNS named them no more.
    left: BTreeMap<Destination, Instant>,
    /// When DNS has named an address again that it had left out.
    returned_at: Option<Instant>,
    /// When it has done so soon after another time.
    rotated_at: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Away {
    until: Instant,
    failures: u32,
    /// A flow leads there again.
    back: bool,
}

#[derive(Debug, Clone, Copy)]
struct Current {
    candidate: Candidate,
    since: Instant,
    /// Since when DNS names others alone.
    unnamed_since: Option<Instant>,
    /// Since when no answer of DNS has it, whole or not.
    unheard_since: Option<Instant>,
    /// It has refused an account that it had accepted, and granted none since.
    refuses: bool,
}

impl Current {
    /// Whether DNS has named others for so long, or may have for [`UNLISTED`].
    fn is_unnamed_for(&self, kept: Duration, now: Instant) -> bool {
        self.unnamed_since.is_some_and(|since| since + kept <= now) || self.is_unheard(now)
    }

    fn is_unheard(&self, now: Instant) -> bool {
        self.unheard_since.is_some_and(|since| since + UNLISTED <= now)
    }
}

/// The state of a flow that was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// It was tried as a better one.
    pub tried: bool,
    /// It has taken the place of one to an address that DNS names no more.
    pub replaces: bool,
}

impl Targets {
    /// The addresses to dial, best first; those that are away come last, the one that is back soonest before the others.
    pub(crate) fn in_order(&self, shard: usize, mut candidates: Vec<Candidate>, now: Instant) -> Vec<Candidate> {
        // Stable: the rest keeps its order.
        candidates.sort_by_key(|candidate| {
            let away = self.all_away(shard, candidate).filter(|away| !away.back && away.until + AWAY_MAX > now);
            away.map(|away| away.until).max()
        });
        candidates
    }

    /// An address failed at `now`; away for `first` if it had not failed before.
    pub(crate) fn failed(&mut self, place: Destination, now: Instant, first: Duration) {
        let settled = self.current.values().any(|it| place_of(&it.candidate) == place && it.since + SETTLED <= now);
        note_failure(&mut self.away, place, settled, now, first);
    }

    /// An address failed a single account of a shard at `now`, for whatever reason that has.
    pub(crate) fn failed_one(&mut self, shard: usize, place: Destination, now: Instant, first: Duration) {
        let leads_there = |it: &Current| place_of(&it.candidate) == place;
        let settled = self.current.get(&shard).is_some_and(|it| leads_there(it) && it.since + SETTLED <= now);
        note_failure(&mut self.away_for_one, (shard, place), settled, now, first);
        let is_failed =
            |shard: usize| self.away_for_one.get(&(shard, place)).is_some_and(|away| !away.back && away.until > now);
        let failed = self.away_for_one.keys().filter(|(other, at)| *at == place && is_failed(*other)).count();
        let is_used = self.current.iter().any(|(other, it)| leads_there(it) && !is_failed(*other));
        if failed >= SEVERAL && !is_used {
            self.failed(place, now, first);
        }
    }

    /// The failures of an address, as all shards and this one know them.
    fn all_away(&self, shard: usize, candidate: &Candidate) -> impl Iterator<Item = &Away> {
        let place = place_of(candidate);
        self.away.get(&place).into_iter().chain(self.away_for_one.get(&(shard, place)))
    }

    /// A shard's flow leads there, and serves.
    fn be_back(&mut self, shard: usize, place: Destination) {
        for away in self.away.get_mut(&place).into_iter().chain(self.away_for_one.get_mut(&(shard, place))) {
            away.back = true;
        }
    }

    /// A shard's flow leads there from now on. Whether it took the place of one to an address that DNS names no more.
    fn leads(&mut self, shard: usize, candidate: Candidate, now: Instant) -> bool {
        self.be_back(shard, place_of(&candidate));
        let current = Current { candidate, since: now, unnamed_since: None, unheard_since: None, refuses: false };
        let (before, last) = (self.current.insert(shard, current), self.last.remove(&shard));
        let before = before.or(last).filter(|it| place_of(&it.candidate) != place_of(&candidate));
        let Some(left) = before.filter(|it| it.unnamed_since.is_some() || it.is_unheard(now)) else { return false };
        note_left(&mut self.left, place_of(&left.candidate), now);
        !self.rotates(now) || left.is_unheard(now)
    }

    /// DNS has answered with these addresses; `all`: these, and those of earlier answers that it may have left out.
    pub(crate) fn named(&mut self, heard: &[Candidate], all: &[Candidate], now: Instant) {
        let hears = |place: Destination| heard.iter().any(|candidate| place_of(candidate) == place);
        let names = |place: Destination| all.iter().find(|candidate| place_of(candidate) == place);
        let mut again = false;
        self.left.retain(|place, _| {
            let is_named = hears(*place);
            again |= is_named;
            !is_named
        });
        for current in self.current.values_mut().chain(self.last.values_mut()) {
            if hears(place_of(&current.candidate)) {
                current.unheard_since = None;
            } else {
                current.unheard_since.get_or_insert(now);
            }
            match names(place_of(&current.candidate)) {
                Some(named) => {
                    current.candidate.rank = named.rank;
                    again |= current.unnamed_since.take().is_some();
                }
                None => {
                    current.unnamed_since.get_or_insert(now);
                }
            }
        }
        if again && self.returned_at.replace(now).is_some_and(|at| at + ROTATES > now) {
            self.rotated_at = Some(now);
        }
    }

    fn rotates(&self, now: Instant) -> bool {
        self.rotated_at.is_some_and(|at| at + ROTATES > now)
    }

    /// The address of a shard's flow has refused an account that it had accepted. Whether DNS has put another one in its place, so that this says
    /// nothing of the account.
    pub(crate) fn refused(&mut self, shard: usize, now: Instant) -> bool {
        let rotates = self.rotates(now);
        let Some(current) = self.current.get_mut(&shard) else { return false };
        current.refuses = true;
        current.is_unnamed_for(if rotates { UNLISTED } else { Duration::ZERO }, now)
    }

    /// The address of a shard's flow has granted an account.
    pub(crate) fn grants(&mut self, shard: usize) {
        if let Some(current) = self.current.get_mut(&shard) {
            current.refuses = false;
        }
    }

    /// Whether a shard's flow is to be left for any address that DNS names.
    fn is_over(&self, current: &Current, now: Instant) -> bool {
        let kept = match (self.rotates(now), current.refuses) {
            (true, _) => UNLISTED,
            (false, true) => Duration::ZERO,
            (false, false) => UNNAMED,
        };
        current.is_unnamed_for(kept, now)
    }

    /// The address of a shard's flow, or of its last one.
    pub(crate) fn led_to(&self, shard: usize) -> Option<Destination> {
        self.current.get(&shard).map(|current| place_of(&current.candidate))
    }

    /// A better address for a shard's flow, of those that DNS names now; `None` also while one is being tried.
    /// The verdict of `is_away` on an address counts beside this table.
    pub(crate) fn better(
        &self,
        shard: usize,
        candidates: &[Candidate],
        now: Instant,
        is_away: impl Fn(&Candidate) -> bool,
    ) -> Option<Candidate> {
        let current = self.current.get(&shard).filter(|_| !self.trying.contains_key(&shard))?;
        let place = place_of(&current.candidate);
        let listed = candidates.iter().find(|candidate| place_of(candidate) == place);
        let rank = listed.map_or(current.candidate.rank, |listed| listed.rank);
        let is_over = listed.is_none() && self.is_over(current, now);
        candidates
            .iter()
            .filter(|candidate| (is_over || candidate.rank < rank) && place_of(candidate) != place)
            .find(|candidate| self.away_until(shard, candidate, now).is_none() && !is_away(candidate))
            .copied()
    }

    /// Whether a shard's flow leads to a worse address than the best of these, or to one that DNS names no more.
    pub(crate) fn is_second_best(&self, candidates: &[Candidate]) -> bool {
        let best = candidates.iter().map(|candidate| candidate.rank).min();
        let is_missing = |it: &Current| it.unnamed_since.is_some() || it.unheard_since.is_some();
        let is_worse = |it: &Current| best.is_some_and(|best| it.candidate.rank > best) || is_missing(it);
        self.current.values().any(is_worse)
    }

    /// A shard's endpoint will be told of this flow, which was dialled for it.
    pub(crate) fn dialled(&mut self, shard: usize, flow: FlowId, candidate: Candidate) {
        self.dialled.insert(shard, (flow, candidate));
    }

    /// A shard's endpoint is asked to try it.
    pub(crate) fn tries(&mut self, shard: usize, flow: FlowId, candidate: Candidate) {
        self.trying.insert(shard, (flow, candidate));
    }

    /// Takes note of the endpoint's verdict on a flow.
    pub(crate) fn on_flow_outcome(
        &mut self,
        shard: usize,
        flow: FlowId,
        outcome: FlowOutcome,
        now: Instant,
        first: Duration,
    ) -> Settled {
        let take = |flows: &mut BTreeMap<usize, (FlowId, Candidate)>| {
            let entry = flows.remove(&shard)?;
            let is_meant = entry.0 == flow;
            if !is_meant {
                flows.insert(shard, entry);
            }
            is_meant.then_some(entry.1)
        };
        let (tried, dialled) = (take(&mut self.trying), take(&mut self.dialled));
        let Some(candidate) = tried.or(dialled) else { return Settled::default() };
        let mut replaces = false;
        match outcome {
            FlowOutcome::Taken => replaces = self.leads(shard, candidate, now),
            // The account that is tried there may be the one that it has failed.
            FlowOutcome::DoesNotServe if self.away_for_one.contains_key(&(shard, place_of(&candidate))) => {
                self.failed_one(shard, place_of(&candidate), now, first);
            }
            FlowOutcome::DoesNotServe => self.failed(place_of(&candidate), now, first),
            // Another one was dialled, and what is in use serves again.
            FlowOutcome::NotWanted if tried.is_none() => {
                let in_use = self.current.get(&shard).map(|current| place_of(&current.candidate));
                if let Some(in_use) = in_use.filter(|it| *it != place_of(&candidate)) {
                    self.be_back(shard, in_use);
                }
            }
            FlowOutcome::NotWanted => {}
        }
        Settled { tried: tried.is_some(), replaces }
    }

    /// No flow of a shard leads anywhere, and none is wanted.
    pub(crate) fn go_idle(&mut self, shard: usize) {
        if let Some(last) = self.current.remove(&shard) {
            self.last.insert(shard, last);
        }
        self.dialled.remove(&shard);
        self.trying.remove(&shard);
    }

    fn away_until(&self, shard: usize, candidate: &Candidate, now: Instant) -> Option<Instant> {
        let away = self.all_away(shard, candidate).filter(|away| !away.back);
        away.map(|away| away.until).filter(|until| *until > now).max()
    }
}

/// Notes that an address has failed, again unless it had `settled`. With too many, the one that may be dialled soonest is forgotten.
fn note_failure<K: Ord + Copy>(all: &mut BTreeMap<K, Away>, key: K, settled: bool, now: Instant, first: Duration) {
    let before = all.get(&key).filter(|_| !settled).map_or(0, |away| away.failures);
    all.insert(key, Away { until: now + away_for(first, before), failures: before + 1, back: false });
    while all.len() > REMEMBERED {
        let soonest = all.iter().min_by_key(|(_, away)| away.until).map(|(key, _)| *key);
        soonest.map(|key| all.remove(&key));
    }
}

/// An address was left; of too many the earliest is forgotten.
fn note_left(left: &mut BTreeMap<Destination, Instant>, place: Destination, now: Instant) {
    left.insert(place, now);
    while left.len() > REMEMBERED {
        let earliest = left.iter().min_by_key(|(_, at)| **at).map(|(place, _)| *place);
        earliest.map(|place| left.remove(&place));
    }
}

/// The place of a candidate.
pub(crate) fn place_of(candidate: &Candidate) -> Destination {
    (candidate.address, candidate.transport)
}

/// For how long an address is left alone that has failed so often before: twice as long each time, from `first` on.
pub(crate) fn away_for(first: Duration, before: u32) -> Duration {
    first.saturating_mul(1 << before.min(16)).min(AWAY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const FLOW: FlowId = FlowId::Stream(1);

    fn at(last: u8, rank: u16) -> Candidate {
        let address = SocketAddr::from(([192, 0, 2, last], 5061));
        Candidate { address, transport: Transport::Tls, rank }
    }

    fn better(targets: &mut Targets, shard: usize, candidates: &[Candidate], now: Instant) -> Option<Candidate> {
        targets.better(shard, candidates, now, |_| false)
    }

    /// DNS names these, and no others.
    fn named(targets: &mut Targets, answer: &[Candidate], now: Instant) {
        targets.named(answer, answer, now);
    }

    fn fails(targets: &mut Targets, candidate: Candidate, now: Instant) {
        targets.failed(place_of(&candidate), now, MINUTE);
    }

    #[test]
    fn what_failed_is_dialled_last_and_every_address_has_its_turn() {
        let (now, mut targets) = (Instant::now(), Targets::default());
        let all = vec![at(1, 0), at(2, 1), at(3, 2)];
        let mut dialled = Vec::new();
        for step in 0..4 {
            let now = now + Duration::from_secs(32) * step;
            let first = targets.in_order(0, all.clone(), now)[0];
            dialled.push(first.rank);
            targets.leads(0, first, now);
            fails(&mut targets, first, now);
        }
        assert_eq!(dialled, [0, 1, 2, 0]);
    }

    #[test]
    fn a_better_rank_draws_a_flow_back_and_an_equal_one_does_not() {
        let (now, mut targets) = (Instant::now(), Targets::default());
        targets.leads(0, at(3, 1), now);
        let answer = [at(1, 0), at(2, 1), at(3, 1)];
        assert!(targets.is_second_best(&answer));
        assert_eq!(better(&mut targets, 0, &answer[1..], now), None, "another of the same priority");
        assert_eq!(better(&mut targets, 1, &answer, now), None, "a shard without a flow");
        assert_eq!(better(&mut targets, 0, &answer, now), Some(at(1, 0)));
        targets.tries(0, FLOW, at(1, 0));
        assert_eq!(better(&mut targets, 0, &answer, now), None, "one at a time");
        assert!(targets.on_flow_outcome(0, FLOW, FlowOutcome::Taken, now, MINUTE).tried);
        assert!(!targets.is_second_best(&answer));
        assert_eq!(better(&mut targets, 0, &answer, now), None);
    }

    #[test]
    fn one_that_fails_again_and_again_is_left_alone_longer_and_longer() {
        let (start, mut targets) = (Instant::now(), Targets::default());
        let answer = [at(1, 0), at(2, 1)];
        targets.leads(0, at(2, 1), start);
        fails(&mut targets, at(1, 0), start);
        let (mut now, mut waits) = (start, Vec::new());
        for _ in 0..8 {
            let before = now;
            while better(&mut targets, 0, &answer, now).is_none() {
                now += Duration::from_secs(1);
            }
            waits.push((now - before).as_secs() / 60);
            targets.tries(0, FLOW, at(1, 0));
            targets.on_flow_outcome(0, FLOW, FlowOutcome::DoesNotServe, now, MINUTE);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        // Once it has served, it begins anew.
        targets.leads(0, at(1, 0), now);
        now += SETTLED;
        fails(&mut targets, at(1, 0), now);
        assert!(targets.away_until(0, &at(1, 0), now + MINUTE - Duration::from_secs(1)).is_some());
        assert!(targets.away_until(0, &at(1, 0), now + MINUTE).is_none());
    }

    /// What DNS names each minute, until a flow is left: the minutes.
    fn left_after(targets: &mut Targets, answer: &[Candidate], now: &mut Instant) -> u32 {
        for minutes in 0..600 {
            named(targets, answer, *now);
            if better(targets, 0, answer, *now).is_some() {
                return minutes;
            }
            *now += MINUTE;
        }
        panic!("it stays")
    }

    fn moves(targets: &mut Targets, to: Candidate, now: Instant) -> Settled {
        targets.tries(0, FLOW, to);
        targets.on_flow_outcome(0, FLOW, FlowOutcome::Taken, now, MINUTE)
    }

    #[test]
    fn a_server_that_moves_by_dns_is_followed_after_minutes_and_at_once_where_the_old_one_refuses() {
        let (mut now, mut targets) = (Instant::now(), Targets::default());
        targets.leads(0, at(1, 0), now);
        named(&mut targets, &[at(1, 0), at(2, 0)], now);
        assert!(!targets.is_second_best(&[at(1, 0), at(2, 0)]));
        assert_eq!(left_after(&mut targets, &[at(2, 0)], &mut now), 5);
        assert!(targets.is_second_best(&[at(2, 0)]), "it is looked for");
        assert_eq!(moves(&mut targets, at(2, 0), now), Settled { tried: true, replaces: true });
        // What is refused counts until DNS names others alone.
        assert!(!targets.refused(0, now));
        named(&mut targets, &[at(2, 0)], now);
        assert!(!targets.refused(0, now));
        assert_eq!(better(&mut targets, 0, &[at(3, 0)], now), None, "an answer that is not known to be whole");
        named(&mut targets, &[at(3, 0)], now);
        assert!(targets.refused(0, now));
        assert_eq!(left_after(&mut targets, &[at(3, 0)], &mut now), 0);
        assert!(moves(&mut targets, at(3, 0), now).replaces);
        assert!(!targets.refused(0, now), "another server");
        // One that is dialled because the old one is gone.
        named(&mut targets, &[at(4, 0)], now);
        targets.dialled(0, FLOW, at(4, 0));
        let settled = targets.on_flow_outcome(0, FLOW, FlowOutcome::Taken, now, MINUTE);
        assert_eq!(settled, Settled { tried: false, replaces: true });
    }

    #[test]
    fn a_flow_stays_where_dns_names_few_of_many_and_leaves_what_is_gone_for_long() {
        let (mut now, mut targets) = (Instant::now(), Targets::default());
        targets.leads(0, at(1, 0), now);
        let mut moved = 0;
        for round in 0..200 {
            now += MINUTE;
            let answer = if round % 3 == 0 { [at(1, 0)] } else { [at(2, 0)] };
            named(&mut targets, &answer, now);
            assert_eq!(better(&mut targets, 0, &answer, now), None, "round {round}");
            assert!(round < 6 || !targets.refused(0, now), "it may be the same server: round {round}");
        }
        assert_eq!(left_after(&mut targets, &[at(2, 0)], &mut now), 60);
        assert!(moves(&mut targets, at(2, 0), now).replaces);
        // Where they are named again late, it is known after two moves.
        let (mut now, mut targets) = (Instant::now(), Targets::default());
        targets.leads(0, at(1, 0), now);
        for round in 0..200 {
            now += MINUTE;
            let answer = if round / 20 % 2 == 0 { at(1, 0) } else { at(2, 0) };
            named(&mut targets, &[answer], now);
            if better(&mut targets, 0, &[answer], now).is_some() {
                moved += 1;
                moves(&mut targets, answer, now);
            }
        }
        assert_eq!(moved, 2);
    }

    #[test]
    fn a_single_answer_of_the_time_before_keeps_nobody_at_a_server_that_has_moved() {
        let (mut now, mut targets) = (Instant::now(), Targets::default());
        targets.leads(0, at(1, 0), now);
        for old_or_new in [2, 1, 2] {
            now += MINUTE;
            named(&mut targets, &[at(old_or_new, 0)], now);
        }
        assert!(targets.refused(0, now));
        assert_eq!(left_after(&mut targets, &[at(2, 0)], &mut now), 0);
        assert!(moves(&mut targets, at(2, 0), now).replaces);
        // It moves back within hours.
        named(&mut targets, &[at(1, 0)], now + 10 * MINUTE);
        assert!(!targets.refused(0, now + 10 * MINUTE), "names a few of many");
    }

    #[test]
    fn a_server_that_moves_is_followed_after_an_hour_where_no_answer_of_dns_is_whole() {
        let (start, mut targets) = (Instant::now(), Targets::default());
        targets.leads(0, at(1, 0), start);
        let all = [at(2, 0), at(1, 0)];
        for minutes in 0..60 {
            let now = start + minutes * MINUTE;
            targets.named(&all[..1], &all, now);
            assert_eq!(
                (better(&mut targets, 0, &all[..1], now), targets.refused(0, now)),
                (None, false),
                "{minutes} min"
            );
            assert!(targets.is_second_best(&all), "it is looked for");
        }
        let now = start + 60 * MINUTE;
        targets.named(&all[..1], &all, now);
        assert!(targets.refused(0, now));
        assert_eq!(better(&mut targets, 0, &all[..1], now), Some(at(2, 0)));
        assert!(moves(&mut targets, at(2, 0), now).replaces);
        // What is heard once in a while stays.
        for minutes in 0..600 {
            let now = now + minutes * MINUTE;
            let heard = if minutes % 50 == 0 { &all[..] } else { &all[1..] };
            targets.named(heard, &all, now);
            assert_eq!(better(&mut targets, 0, heard, now), None, "{minutes} min");
        }
    }

    #[test]
    fn an_address_that_grants_others_is_not_left_at_once_for_what_it_refused_before() {
        let (mut now, mut targets) = (Instant::now(), Targets::default());
        targets.leads(0, at(1, 0), now);
        assert!(!targets.refused(0, now));
        targets.grants(0);
        assert_eq!(left_after(&mut targets, &[at(2, 0)], &mut now), 5);
    }

    #[test]
    fn a_server_that_moves_while_nobody_wants_a_flow_is_known_for_another_one() {
        for (answer, replaces) in [(at(1, 0), false), (at(2, 0), true)] {
            let (now, mut targets) = (Instant::now(), Targets::default());
            targets.leads(0, at(1, 0), now);
            targets.go_idle(0);
            named(&mut targets, &[answer], now);
            targets.dialled(0, FLOW, answer);
            let settled = targets.on_flow_outcome(0, FLOW, FlowOutcome::Taken, now, MINUTE);
            assert_eq!(settled, Settled { tried: false, replaces });
        }
    }

    #[test]
    fn a_flow_that_is_let_go_leads_nowhere_and_says_nothing_of_its_address() {
        let (now, mut targets) = (Instant::now(), Targets::default());
        let (answer, other) = ([at(1, 0), at(2, 1)], FlowId::Stream(2));
        // The server in use refuses some, and serves again before the other one is connected to.
        targets.leads(0, at(1, 0), now);
        fails(&mut targets, at(1, 0), now);
        targets.dialled(0, FLOW, at(2, 1));
        assert!(!targets.on_flow_outcome(0, other, FlowOutcome::NotWanted, now, MINUTE).tried, "another flow's end");
        assert!(targets.away_until(0, &at(1, 0), now).is_some());
        assert!(!targets.on_flow_outcome(0, FLOW, FlowOutcome::NotWanted, now, MINUTE).tried);
        assert_eq!(targets.led_to(0), Some(place_of(&at(1, 0))));
        assert_eq!((better(&mut targets, 0, &answer, now), targets.is_second_best(&answer)), (None, false));
        assert_eq!(targets.in_order(0, answer.to_vec(), now)[0], at(1, 0), "and is dialled first when it breaks");
        // A better one that a shard does not want is no worse for others.
        for shard in [0, 1] {
            targets.leads(shard, at(2, 1), now);
        }
        targets.tries(0, FLOW, at(1, 0));
        assert!(targets.on_flow_outcome(0, FLOW, FlowOutcome::NotWanted, now, MINUTE).tried);
        assert_eq!(better(&mut targets, 1, &answer, now), Some(at(1, 0)));
        // The server has no account there any more.
        targets.tries(0, FLOW, at(1, 0));
        targets.go_idle(0);
        assert_eq!((better(&mut targets, 0, &answer, now), targets.led_to(0)), (None, None));
        targets.go_idle(1);
        assert!(!targets.is_second_best(&answer), "nobody looks for a better one");
        // Accounts that come to it later go back as all others do.
        targets.dialled(0, other, at(2, 1));
        assert!(!targets.on_flow_outcome(0, other, FlowOutcome::Taken, now, MINUTE).tried);
        assert_eq!(better(&mut targets, 0, &answer, now), Some(at(1, 0)));
    }

    #[test]
    fn what_fails_a_single_account_is_away_for_its_shard_alone_unless_it_serves_nobody() {
        let (now, mut targets) = (Instant::now(), Targets::default());
        let answer = [at(1, 0), at(2, 1)];
        let first_of = |targets: &Targets, shard: usize| targets.in_order(shard, answer.to_vec(), now)[0];
        for shard in 0..3 {
            targets.leads(shard, at(1, 0), now);
        }
        for shard in [0, 1] {
            targets.failed_one(shard, place_of(&at(1, 0)), now, MINUTE);
            targets.leads(shard, at(2, 1), now);
            assert_eq!((first_of(&targets, shard), first_of(&targets, 2)), (at(2, 1), at(1, 0)), "{shard}");
            assert_eq!(better(&mut targets, shard, &answer, now), None, "{shard}");
        }
        assert_eq!(first_of(&targets, 3), at(1, 0), "nor for one that comes");
        // The account itself is tried at the better one again.
        let later = now + MINUTE;
        assert_eq!(better(&mut targets, 0, &answer, later), Some(at(1, 0)));
        targets.tries(0, FLOW, at(1, 0));
        targets.on_flow_outcome(0, FLOW, FlowOutcome::DoesNotServe, later, MINUTE);
        assert_eq!(better(&mut targets, 0, &answer, later), None);
        targets.leads(3, at(2, 1), later);
        assert_eq!(better(&mut targets, 3, &answer, later), Some(at(1, 0)));
        // Now it fails one of each shard that led there.
        targets.failed_one(2, place_of(&at(1, 0)), later, MINUTE);
        assert_eq!(first_of(&targets, 4), at(2, 1));
        assert_eq!(better(&mut targets, 3, &answer, later), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (now, mut targets) = (Instant::now(), Targets::default());
        for last in 0..=255 {
            fails(&mut targets, at(last, 0), now + Duration::from_secs(last.into()));
        }
        assert_eq!(targets.away.len(), REMEMBERED);
        assert!(targets.away_until(0, &at(255, 0), now).is_some());
    }
}
