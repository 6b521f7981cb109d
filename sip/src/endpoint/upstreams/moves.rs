//! Leaving an address of a SIP server that serves badly for the next one (RFC 3263 §4.3), and how a server has served.
//!
//! | a REGISTER | nobody is served by the flow | others are |
//! | --- | --- | --- |
//! | is left unanswered, and no keep-alive was answered either | leave it | leave it, unless others were [granted together](TOGETHER) with it |
//! | is left unanswered, and nothing but keep-alives was answered | leave it | as after a 500: the server may drop what one account sends |
//! | is answered 503 or 430 | leave it | look for another address once the server is [unfit](UNFIT), and go over when there is one |
//! | is answered anything else that is tried again, such as 408, 480, 500 or 504, for an account that it had accepted | leave it; unless they are [several](SEVERAL), others may be served well there | look for another address once [several](SEVERAL) such accounts are not served and nobody was granted for 32 s, and go over when there is one |
//!
//! The REGISTERs of devices that pass through count likewise (RFC 8599): all devices of an address of record are one account, which the server had accepted
//! once it has granted the device. The devices of other accounts are then served by the flow as well; while there are any, no flow is left, and silence
//! counts as a 500 does, because a device may write a REGISTER that the server drops. For devices that it had not accepted, only 503, 430 and silence count,
//! and only if nobody else is served. A REGISTER for which another address is sought is sent once more by the next flow, before its refusal goes to the
//! device; one that is answered 503 or 430 where others are served, to a further address alone (`asides`).
//!
//! Bindings that were turned away ask the next address at once, each in its turn: all of them the first time, and while none is granted only the one
//! for which another address was sought, unless that is found beside the flow in use and was not left in this round. After silence a few of the registered bindings ask with them. Bindings that are registered by a stream that
//! was left, or by an address that was silent by UDP, follow once the next address has granted a registration. A binding that the left address grants
//! only after that follows at once, and so does one that it grants after its REGISTER was given up. A binding that a left address challenges gets a
//! nonce of the next address.
//! When a server serves again, bindings that wait for another try begin early, as `recovery` says: all of them after it had served none, and after a
//! single failure those that failed once. It has served none when no binding is registered, when it was silent, or when it has granted nothing for 32
//! s and is unfit, or fails several bindings that it had accepted: a REGISTER refused between grants means that it is overloaded, or is an account's
//! own misfortune.
//! An account that failed while others were granted is [known by that](Fitness::alone) until it is granted, and counts for nothing meanwhile.
//! A binding that was told how long to wait (Retry-After) waits for the server that said it.
//!
//! When DNS has put another server in its place, what it had refused is asked for there at once.
//!
//! A stream that is left stays open as long as a call that came by it may need an answer; its requests are believed until then.
//!
//! Invariant: one account's misfortune moves no flow by which others are served; each address is left for another once in 32 s at most, as `rounds` says,
//! but at once after going back to a better one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::asides::NextAddress;
use super::rounds::Rounds;
use super::{Link, Upstream, Upstreams};
use crate::endpoint::core::Timer;
use crate::endpoint::{Endpoint, FlowOutcome, Output, Transport};
use crate::id::{BindingId, FlowId, UpstreamId};
use crate::registration::Registration;

/// A SIP server that serves others is unfit when its refusals with 503 or 430 since its last grant, weighted by binding, reach this sum.
const UNFIT: u8 = 4;
/// The weight of an account that it had accepted before.
const PROVEN_COUNTS: u8 = 2;
/// The weight of another one; zero while registrations of others pass through, which the relay cannot make anew.
const NEW_COUNTS: u8 = 1;
/// The number of accepted accounts left unserved, whatever is answered, from which on the server itself counts as failing.
const SEVERAL: usize = 2;
/// Accounts that are known to fail alone, at one SIP server.
const ALONE_MAX: usize = 64;
/// Flows of one SIP server that were left and are still believed; the oldest gives way, and is closed in its time.
const REPLACED_MAX: usize = 8;

/// A REGISTER that is sent within this time after another was granted has come together with it.
const TOGETHER: Duration = Duration::from_secs(1);
/// The number of registered bindings that ask the next address at once after silence.
const FIRST_ASKERS: usize = 4;

/// How a SIP server has served since it last granted a registration.
#[derive(Debug, Default)]
pub(super) struct Fitness {
    /// The bindings, and accounts of devices, that it refused with 503 or 430, and how much each counts; no more than make it unfit.
    refused: BTreeMap<BindingId, u8>,
    /// The bindings it had accepted before and has not served since, whatever it answered; no more than [`SEVERAL`].
    unserved: BTreeSet<BindingId>,
    /// The bindings that it has not served while it granted others; no more than [`ALONE_MAX`].
    alone: BTreeSet<BindingId>,
    /// The extent to which it failed, if it did.
    failed: Option<Failed>,
    /// The addresses that were left of late.
    rounds: Rounds,
    /// Whether the bindings that were turned away have asked the next address.
    all_asked: bool,
    /// The binding that it left unanswered last, and when that was known.
    unanswered: Option<(Instant, BindingId)>,
    /// Whether a registration was granted by the flow in use.
    served: bool,
    /// When a registration was granted last, and of which binding if it is one of ours.
    granted: Option<(Instant, Option<BindingId>)>,
    /// Whether the bindings registered by a flow that was left follow when the one in use grants one.
    follow: bool,
    /// Whether the address that is avoided now has left a REGISTER unanswered.
    silent: bool,
    /// The binding that was refused or left unanswered at the address that is avoided now.
    turned_away: Option<BindingId>,
    /// The dial that is under way beside the flow in use.
    search: Option<AddressSearch>,
}

/// The consequences for other bindings when a SIP server grants a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::endpoint) struct GrantEffects {
    /// The extent to which it failed before.
    failed: Option<Failed>,
    /// Whether the bindings registered by a flow that was left register by this one.
    follow: bool,
}

/// The extent to which a SIP server failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failed {
    /// Some bindings were not served.
    Some,
    /// No binding was served.
    All,
}

/// How an address has failed that is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// It leaves REGISTERs unanswered.
    IsSilent,
    /// It says itself that it does not serve, or does not serve several accounts that it had accepted.
    Refuses,
    /// It does not serve a single account, for whatever reason that has.
    OfOne,
}

/// The sender of a REGISTER that passes through.
#[derive(Clone, Copy, Debug)]
pub(in crate::endpoint) struct PassedSender {
    /// The [name](crate::edge::push_proxy::account_name) of its account, if the SIP server had accepted the registration that it is about.
    pub(in crate::endpoint) account: Option<BindingId>,
    /// The transit references of the account's registrations, none if the server had accepted nothing, and of all REGISTERs that are under way: who is not
    /// registered is not served.
    pub(in crate::endpoint) refs: usize,
}

/// Whether the answer to a REGISTER came before the REGISTER was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::endpoint) enum Timeliness {
    /// Before.
    InTime,
    /// After that (Timer F).
    Late,
}

/// The search for another address while a flow still serves other bindings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressSearch {
    Sought,
    Found,
    /// The server serves again, or is gone back to.
    Needless,
    /// Nobody is to move: single REGISTERs alone are to go there.
    Aside,
    AsideFound,
}

impl Fitness {
    /// A registration was granted; what follows. Nobody leaves it for an address that is looked for. `in_use`: by the flow that is in use.
    fn grant(&mut self, now: Instant, whose: Option<BindingId>, in_use: bool) -> GrantEffects {
        self.refused.clear();
        let failed = std::mem::take(&mut self.unserved);
        let room = ALONE_MAX.saturating_sub(self.alone.len());
        self.alone.extend(failed.into_iter().take(room));
        if let Some(whose) = whose {
            self.alone.remove(&whose);
        }
        self.rounds.grant();
        (self.all_asked, self.served, self.granted) = (false, true, Some((now, whose)));
        if self.search.is_some() && !self.is_looking_aside() {
            self.search = Some(AddressSearch::Needless);
        }
        let follow = in_use && std::mem::take(&mut self.follow);
        GrantEffects { failed: self.failed.take().or(follow.then_some(Failed::Some)), follow }
    }

    /// Another flow is in use.
    pub(super) fn begin(&mut self) {
        self.refused.clear();
        self.unserved.clear();
        (self.served, self.silent) = (false, false);
    }

    /// Whether a registration was granted by the flow in use.
    pub(super) fn has_served(&self) -> bool {
        self.served
    }

    /// A better address is gone back to: when it serves badly all the same, it may be left at once.
    pub(super) fn go_back(&mut self) {
        self.rounds.begin_anew();
    }

    /// Whether addresses of it were left.
    pub(super) fn has_left_addresses(&self) -> bool {
        self.rounds.has_left()
    }

    /// A flow is in use from now on beside which a dial is under way, for a flow that had been left: nobody needs that any more.
    pub(super) fn need_no_dial(&mut self) {
        self.search = Some(AddressSearch::Needless);
    }

    /// Whether a dial is under way beside the flow in use; it counts for nothing beside that one from now on.
    pub(super) fn end_search(&mut self) -> bool {
        self.search.take().is_some()
    }

    /// Whether another address is dialled for single REGISTERs.
    pub(super) fn is_looking_aside(&self) -> bool {
        matches!(self.search, Some(AddressSearch::Aside | AddressSearch::AsideFound))
    }

    /// One is to be dialled for them; whether no other dial is under way.
    pub(super) fn look_aside(&mut self) -> bool {
        let is_free = self.search.is_none();
        self.search.get_or_insert(AddressSearch::Aside);
        is_free
    }

    fn fail(&mut self, whom: Failed) {
        self.failed = self.failed.max(Some(whom));
    }

    /// An account that it had accepted is not served; whether they are several by that.
    fn leave_unserved(&mut self, binding: BindingId) -> bool {
        if self.unserved.len() < SEVERAL && !self.alone.contains(&binding) {
            self.unserved.insert(binding);
        }
        self.unserved.len() >= SEVERAL
    }

    /// An account is not here any more.
    pub(super) fn forget(&mut self, binding: BindingId) {
        self.unserved.remove(&binding);
        self.alone.remove(&binding);
    }

    /// Whether nobody was granted for this time.
    fn has_granted_nobody(&self, now: Instant, time: Duration) -> bool {
        self.granted.is_none_or(|(at, _)| at + time <= now)
    }

    /// An account is refused; whether the server is unfit by that.
    fn refuse(&mut self, binding: BindingId, counts: u8) -> bool {
        let sum = |refused: &BTreeMap<BindingId, u8>| refused.values().sum::<u8>();
        if counts > 0 && sum(&self.refused) < UNFIT {
            self.refused.insert(binding, counts);
        }
        sum(&self.refused) >= UNFIT
    }
}

impl Upstream {
    /// Whether another account is registered here, or registers, beside the one that holds this many transit references.
    fn serves_others(&self, refs: usize) -> bool {
        self.registered_count > 0 || self.transit_refs > refs
    }

    /// Whether anybody is registered here, or registered through the relay.
    fn serves_somebody(&self) -> bool {
        self.registered_count > 0 || self.transit_refs > 0
    }

    /// Records that a registration was granted that was asked for `by` this flow; returns the consequences for others, if any. A late answer of a
    /// server that was left says nothing of the one in use.
    pub(super) fn grant(&mut self, now: Instant, by: FlowId, whose: Option<BindingId>) -> Option<GrantEffects> {
        if matches!(self.link, Link::Up { flow, .. } if flow != by) {
            return None;
        }
        self.pace.grant();
        let in_use = matches!(self.link, Link::Up { .. });
        let back = self.fitness.grant(now, whose, in_use);
        (back.failed.is_some() || self.recovery.is_under_way()).then_some(back)
    }
}

impl Upstreams {
    /// Whether a binding that was just granted `by` this flow must register by the flow in use at once: its flow was left, and no grant of the next one
    /// makes it follow.
    pub(in crate::endpoint) fn must_follow(&self, id: UpstreamId, by: FlowId, timeliness: Timeliness) -> bool {
        let Some(upstream) = self.get(id) else { return false };
        let in_use = matches!(upstream.link, Link::Up { flow, .. } if flow == by);
        let will_follow = upstream.fitness.follow && upstream.replaced.contains(&by);
        !in_use && (timeliness == Timeliness::Late || by.is_reliable() && !will_follow)
    }
}

impl Endpoint {
    /// A REGISTER was left without any response. When nothing else was heard meanwhile, another address is tried; unless others were granted
    /// just as it was sent, for then the server drops what is too much for it. A server that answers others is asked more slowly. Where others are registered
    /// and keep-alives are answered, the server may drop the REGISTERs of a single account, so that counts as a 500 does.
    pub(in crate::endpoint) fn on_upstream_silent(&mut self, now: Instant, id: UpstreamId, binding: BindingId) {
        let within = self.core.settings.timing.transaction.t1_64();
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let earlier = upstream.fitness.unanswered.replace((now, binding));
        if upstream.answered_at.is_some_and(|at| at + within > now) {
            if earlier.is_some_and(|(at, other)| other != binding && at + within > now) {
                upstream.pace.refuse(now);
            }
            return;
        }
        let registration = self.bindings.get(binding);
        let own = usize::from(registration.is_some_and(|it| it.counted));
        let under_way = self.registers.count_to(id);
        if (upstream.registered_count > own || upstream.transit_refs > under_way)
            && upstream.heard_at.is_some_and(|at| at + within > now)
        {
            let is_proven = registration.is_some_and(|it| it.is_established());
            upstream.fitness.fail(Failed::Some);
            let are_several = is_proven && upstream.fitness.leave_unserved(binding);
            if are_several && upstream.fitness.has_granted_nobody(now, within) {
                upstream.pace.begin_anew();
                upstream.fitness.fail(Failed::All);
                self.search_elsewhere(now, id, Some(binding));
            }
            return;
        }
        upstream.pace.begin_anew();
        let granted = upstream.fitness.granted.filter(|(_, whose)| *whose != Some(binding));
        if granted.is_none_or(|(at, _)| at + within + TOGETHER <= now) {
            upstream.fitness.fail(Failed::All);
            self.leave_address(now, id, Some(binding), Failure::IsSilent);
        }
    }

    /// A REGISTER that went `by` this flow was answered something after which it is tried again.
    pub(in crate::endpoint) fn on_upstream_failed(
        &mut self,
        now: Instant,
        id: UpstreamId,
        binding: BindingId,
        by: FlowId,
        status: u16,
    ) {
        let outage = self.core.settings.timing.transaction.t1_64();
        let in_use = self.upstreams.flow(id).map(|(flow, _)| (flow, self.upstreams.destination(flow)));
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        if let Some((_, place)) = in_use.filter(|(flow, _)| *flow != by) {
            // The server of this answer was left before.
            if !upstream.fitness.rounds.has_left_in_round(place) {
                self.begin_elsewhere(now, binding);
            }
            return;
        }
        upstream.fitness.fail(Failed::Some);
        let is_proven = self.bindings.get(binding).is_some_and(|registration| registration.is_established());
        let are_several = is_proven && upstream.fitness.leave_unserved(binding);
        if !matches!(status, 430 | 503) {
            let fails_all = are_several && upstream.fitness.has_granted_nobody(now, outage);
            return match upstream.serves_somebody() {
                false if is_proven => {
                    upstream.fitness.fail(Failed::All);
                    let failure = if are_several { Failure::Refuses } else { Failure::OfOne };
                    self.leave_address(now, id, Some(binding), failure);
                }
                true if fails_all => {
                    upstream.fitness.fail(Failed::All);
                    self.search_elsewhere(now, id, Some(binding));
                }
                _ => {}
            };
        }
        let counts = match upstream.transit_refs {
            _ if is_proven => PROVEN_COUNTS,
            0 => NEW_COUNTS,
            _ => 0,
        };
        let is_unfit = upstream.fitness.refuse(binding, counts);
        if upstream.fitness.refused.len() > 1 {
            upstream.pace.refuse(now);
        }
        upstream.recovery.refuse();
        if !upstream.serves_somebody() {
            upstream.fitness.fail(Failed::All);
            return self.leave_address(now, id, Some(binding), Failure::Refuses);
        }
        if is_unfit {
            if upstream.fitness.has_granted_nobody(now, outage) {
                upstream.fitness.fail(Failed::All);
            }
            self.search_elsewhere(now, id, Some(binding));
        }
    }

    /// A REGISTER that passes through went `by` this flow, and was answered in a way after which another address may serve. Returns how it goes on.
    pub(in crate::endpoint) fn on_passed_failed(
        &mut self,
        now: Instant,
        id: UpstreamId,
        sender: PassedSender,
        by: FlowId,
        status: u16,
    ) -> NextAddress {
        let Some(upstream) = self.upstreams.get(id) else { return NextAddress::None };
        match upstream.link {
            Link::Up { flow, .. } if flow == by => {}
            // The flow in use has refused it before.
            Link::Up { .. } if upstream.aside.is_some_and(|(flow, _)| flow == by) => return NextAddress::None,
            // The server of this answer was left before.
            Link::Up { .. } | Link::Dialling => return NextAddress::Awaited,
            Link::Down | Link::BackingOff => return NextAddress::None,
        }
        let failure = if matches!(status, 430 | 503) { Failure::Refuses } else { Failure::OfOne };
        self.judge_passed(now, id, sender, failure);
        let is_sought = |it: &Upstream| {
            matches!(it.link, Link::Dialling)
                || matches!(it.fitness.search, Some(AddressSearch::Sought | AddressSearch::Found))
        };
        match self.upstreams.get(id) {
            Some(upstream) if is_sought(upstream) => NextAddress::Awaited,
            Some(upstream) if failure == Failure::Refuses && upstream.serves_others(sender.refs) => {
                self.seek_aside(now, id)
            }
            _ => NextAddress::None,
        }
    }

    /// Likewise a REGISTER without any response, which counts only if nothing else was heard meanwhile: a device writes its REGISTER itself, and the server
    /// may drop it.
    pub(in crate::endpoint) fn on_passed_silent(
        &mut self,
        now: Instant,
        id: UpstreamId,
        sender: PassedSender,
        by: FlowId,
    ) {
        let within = self.core.settings.timing.transaction.t1_64();
        let in_use = self.upstreams.flow(id).is_some_and(|(flow, _)| flow == by);
        if in_use && self.upstreams.get(id).is_some_and(|it| it.answered_at.is_none_or(|at| at + within <= now)) {
            self.judge_passed(now, id, sender, Failure::IsSilent);
        }
    }

    fn judge_passed(&mut self, now: Instant, id: UpstreamId, sender: PassedSender, failure: Failure) {
        let outage = self.core.settings.timing.transaction.t1_64();
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let PassedSender { account, refs } = sender;
        let says_so = failure == Failure::Refuses;
        let serves_others = upstream.serves_others(refs);
        let fails_all = upstream.fitness.has_granted_nobody(now, outage);
        let are_several = account.is_some_and(|account| upstream.fitness.leave_unserved(account));
        let is_unfit = says_so && account.is_some_and(|account| upstream.fitness.refuse(account, PROVEN_COUNTS));
        if says_so && upstream.fitness.refused.len() > 1 {
            upstream.pace.refuse(now);
        }
        let is_left = !serves_others && (account.is_some() || failure != Failure::OfOne);
        let is_doubted = if says_so { is_unfit } else { are_several && fails_all };
        if is_left || is_doubted && fails_all {
            upstream.fitness.fail(Failed::All);
        }
        if is_left {
            let failure = if failure == Failure::OfOne && are_several { Failure::Refuses } else { failure };
            self.leave_address(now, id, account, failure);
        } else if is_doubted {
            self.search_elsewhere(now, id, account);
        }
    }

    /// A SIP server that did not serve has granted a registration, of this binding if it is one of ours: others wait no longer.
    pub(in crate::endpoint) fn on_upstream_back(
        &mut self,
        now: Instant,
        id: UpstreamId,
        granted: Option<BindingId>,
        back: &GrantEffects,
    ) {
        if back.follow {
            self.register_standing(now, id, granted, usize::MAX);
        }
        match back.failed {
            Some(failed) => self.begin_recovery(now, id, failed == Failed::All),
            None => self.go_on_recovering(now, id),
        }
    }

    /// Makes up to `count` registered bindings, except `but`, register by the flow in use, or the next one.
    pub(super) fn register_standing(&mut self, now: Instant, id: UpstreamId, but: Option<BindingId>, count: usize) {
        let Some(upstream) = self.upstreams.get(id) else { return };
        let bindings = &self.bindings;
        let stands = |binding: &BindingId| bindings.get(*binding).is_some_and(|it| it.awaits_refresh());
        let others = upstream.members.iter().copied().filter(|binding| Some(*binding) != but);
        for binding in others.filter(stands).take(count).collect::<Vec<_>>() {
            let Some(registration) = self.bindings.get_mut(binding) else { continue };
            let step = registration.on_flow_lost();
            self.carry_out(now, binding, step);
        }
    }

    /// A SIP server has granted a registration of another endpoint: where it could not be reached it is dialled. That says nothing of the bindings
    /// that it fails alone: only those that have failed once begin, unless it has served none here and failed several.
    pub(in crate::endpoint) fn on_upstream_serves(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get(id) else { return };
        let Fitness { failed, unserved, .. } = &upstream.fitness;
        let (has_failed, all) = (failed.is_some(), *failed == Some(Failed::All) && unserved.len() >= SEVERAL);
        if matches!(upstream.link, Link::BackingOff) {
            self.dial_served(now, id);
        }
        if has_failed {
            self.begin_recovery(now, id, all);
        }
    }

    /// The dial that is under way leads to another address than the one that was to be avoided.
    pub(in crate::endpoint) fn on_address_changed(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        match upstream.fitness.search.as_mut() {
            // The bindings would still ask by the flow in use.
            Some(search @ AddressSearch::Sought) => *search = AddressSearch::Found,
            Some(search @ AddressSearch::Aside) => *search = AddressSearch::AsideFound,
            Some(AddressSearch::Found | AddressSearch::Needless | AddressSearch::AsideFound) => {}
            None => {
                if upstream.fitness.silent {
                    self.leave_silent(now, id);
                }
                self.ask_elsewhere(now, id);
            }
        }
    }

    /// The address that was silent is left for another one: what is under way there goes there, too, and those that stand follow.
    fn leave_silent(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let had_followed = std::mem::replace(&mut upstream.fitness.follow, true);
        for binding in upstream.members.iter().copied().collect::<Vec<_>>() {
            let Some(registration) = self.bindings.get_mut(binding) else { continue };
            let Some(branch) = registration.branch() else { continue };
            self.core.transactions.abandon(branch);
            let step = registration.on_flow_lost();
            self.carry_out(now, binding, step);
        }
        self.ask_all_anew(now, id, None);
        if !had_followed {
            self.register_standing(now, id, None, FIRST_ASKERS);
        }
    }

    /// A flow is open that was dialled beside the one in use: it takes its place when it leads elsewhere.
    pub(super) fn on_looked(&mut self, now: Instant, id: UpstreamId, flow: FlowId, transport: Transport) {
        let place = self.upstreams.destination(flow);
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let look = upstream.fitness.search.take();
        let Link::Up { flow: old, .. } = upstream.link else { return };
        if let Some(AddressSearch::Aside | AddressSearch::AsideFound) = look {
            let found = look == Some(AddressSearch::AsideFound);
            return self.on_aside_open(now, id, (flow, transport), found);
        }
        if look != Some(AddressSearch::Found) || flow == old {
            upstream.fitness.turned_away = None;
            self.decline_flow(id, flow, FlowOutcome::NotWanted);
            // A binding that has waited for another address has none, or asks where others are served again.
            return match look {
                Some(AddressSearch::Needless) => self.send_waiting(now, id),
                _ => self.fail_registers(now, id),
            };
        }
        // Bindings that want a flow wait for the next one.
        upstream.link = Link::Dialling;
        upstream.fitness.follow |= old.is_reliable();
        upstream.fitness.all_asked &= upstream.fitness.rounds.has_left_in_round(place);
        self.replace_flow(now, id, old);
        self.on_dialled(now, id, flow, transport);
        self.ask_elsewhere(now, id);
    }

    /// Sends the bindings that were turned away to the next address, in their turn.
    fn ask_elsewhere(&mut self, now: Instant, id: UpstreamId) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let Some(binding) = upstream.fitness.turned_away.take() else { return };
        // Bindings that each address turns away wait like any other.
        let asks = if std::mem::replace(&mut upstream.fitness.all_asked, true) {
            vec![binding]
        } else {
            upstream.members.iter().copied().collect()
        };
        for binding in asks {
            self.begin_elsewhere(now, binding);
        }
    }

    fn begin_elsewhere(&mut self, now: Instant, binding: BindingId) {
        if let Some(registration) = self.bindings.get_mut(binding) {
            let step = registration.on_server_changed();
            self.carry_out(now, binding, step);
        }
    }

    /// Another address is dialled, beside the flow by which others are served.
    fn search_elsewhere(&mut self, now: Instant, id: UpstreamId, binding: Option<BindingId>) {
        let rest = self.core.settings.timing.transaction.t1_64();
        let Some((flow, _)) = self.upstreams.flow(id) else { return };
        let place = self.upstreams.destination(flow);
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let fitness = &mut upstream.fitness;
        let (search, is_dialled) = match fitness.search {
            None => (AddressSearch::Sought, false),
            // The dial for single REGISTERs is for all of them now.
            Some(AddressSearch::Aside) => (AddressSearch::Sought, true),
            Some(AddressSearch::AsideFound) => (AddressSearch::Found, true),
            Some(AddressSearch::Sought | AddressSearch::Found | AddressSearch::Needless) => return,
        };
        if !fitness.rounds.may_search(now, place, rest) {
            return;
        }
        fitness.rounds.leave(now, place);
        fitness.refused.clear();
        (fitness.turned_away, fitness.search) = (binding, Some(search));
        if is_dialled {
            return;
        }
        self.core.outputs.push_back(Output::Dial { upstream: id, avoid: Some(flow), for_one: false });
    }

    /// Another address is dialled in place of this one.
    fn leave_address(&mut self, now: Instant, id: UpstreamId, binding: Option<BindingId>, failure: Failure) {
        let rest = self.core.settings.timing.transaction.t1_64();
        let Some((flow, _)) = self.upstreams.flow(id) else { return };
        let place = self.upstreams.destination(flow);
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        let fitness = &mut upstream.fitness;
        // Each of many bindings may say the same of the same server.
        if fitness.search.is_some() || !fitness.rounds.may_leave(now, place, rest) {
            return;
        }
        fitness.rounds.leave(now, place);
        (fitness.turned_away, fitness.silent) = (binding, failure == Failure::IsSilent);
        // A stream that was silent may be dead, wherever the next one leads.
        fitness.follow |= flow.is_reliable();
        let is_wanted = fitness.served || upstream.transit_refs > 0 || self.core.transactions.has_requests_of(flow);
        let members: Vec<_> = upstream.members.iter().copied().collect();
        self.dial_for(id, Some(flow), failure == Failure::OfOne);
        if is_wanted {
            self.replace_flow(now, id, flow);
        } else if self.upstreams.links.remove(&flow).is_some() {
            self.close_stream(flow);
        }
        for binding in members {
            let leaves =
                |it: &&mut Registration| if flow.is_reliable() { !it.awaits_refresh() } else { it.wants_flow() };
            if let Some(registration) = self.bindings.get_mut(binding).filter(leaves) {
                if let Some(branch) = registration.branch() {
                    self.core.transactions.abandon(branch);
                }
                let step = registration.on_flow_lost();
                self.carry_out(now, binding, step);
            }
        }
        if flow.is_reliable() {
            self.register_standing(now, id, None, FIRST_ASKERS);
        }
    }

    /// A flow is left, and stays open as long as a call that came by it may need an answer.
    pub(super) fn replace_flow(&mut self, now: Instant, id: UpstreamId, old: FlowId) {
        self.upstreams.links.remove(&old);
        let Some(upstream) = self.upstreams.get_mut(id) else { return };
        upstream.replaced.retain(|flow| *flow != old);
        if upstream.replaced.len() >= REPLACED_MAX {
            let oldest = upstream.replaced.remove(0);
            upstream.aside.take_if(|(aside, _)| *aside == oldest);
        }
        upstream.replaced.push(old);
        self.core.later(now, self.core.settings.answered_within(), Timer::ReplacedFlow(id, Box::new(old)));
    }

    /// A dialled stream has ended that is in use no more: those that stand by it alone register anew.
    pub(super) fn on_replaced_closed(&mut self, now: Instant, old: FlowId) {
        let Some((id, upstream)) = self.upstreams.rows.iter_mut().find(|(_, it)| it.replaced.contains(&old)) else {
            return;
        };
        let id = *id;
        upstream.replaced.retain(|flow| *flow != old);
        let was_aside = upstream.aside.take_if(|(aside, _)| *aside == old).is_some();
        let follow = !was_aside && std::mem::take(&mut upstream.fitness.follow);
        self.ask_all_anew(now, id, Some(old));
        if follow {
            self.register_standing(now, id, None, usize::MAX);
        }
    }

    /// Closes the old flow once no request that came by it waits for an answer.
    pub(in crate::endpoint) fn on_replaced_flow_due(&mut self, now: Instant, id: UpstreamId, old: FlowId) {
        let Some(upstream) = self.upstreams.get_mut(id) else { return self.close_stream(old) };
        // After a move there and back, the old flow is the one in use.
        let in_use = matches!(upstream.link, Link::Up { flow, .. } if flow == old);
        let is_followed = upstream.fitness.follow && upstream.registered_count > 0;
        let is_kept = upstream.is_kept(old) && !self.flows.is_unread(old);
        if (is_followed || is_kept) && !in_use {
            // Others, or their dialogs, may stand by it alone.
            return self.core.later(now, self.core.settings.answered_within(), Timer::ReplacedFlow(id, Box::new(old)));
        }
        upstream.replaced.retain(|flow| *flow != old);
        if !in_use {
            self.end_aside(now, id, old);
            self.close_stream(old);
        } else {
            self.upstreams.forget_aside(id, old);
        }
    }
}
