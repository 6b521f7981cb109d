//! Verdicts of a SIP server on the different credentials of the devices of one binding.
//!
//! Devices with the same credentials are interchangeable: a verdict on one holds for all of them. Different credentials are either two valid passwords, or a
//! password before and after a change; a device that still has the old one must lose its calls.
//!
//! | credentials | their devices | tried again |
//! | --- | --- | --- |
//! | accepted, and no newer ones since | are called | with each refresh of their binding |
//! | accepted before, and newer ones since, or in an earlier run | are called | once, [`recheck`](crate::timing::UpstreamTiming::recheck) later |
//! | shown and refused, while others are accepted | are not called | after [`refused_once`](crate::timing::BackOff::refused_once), then after `refused_twice`, then never: the devices must be unbound |
//! | refused while they were in use | as before | likewise; until then others are in use, at once |
//! | not judged: silence, 5xx, or refused before a challenge | as before | likewise, but without an end |
//!
//! Credentials that are accepted after they were refused show that the server also refuses correct credentials: the devices are then called again until their
//! own credentials are refused once more.
//!
//! Invariant: refused credentials are shown no sooner, and no more often in a row, because other ones are accepted; a pause is that of the credentials which
//! were refused. Credentials that were never accepted change nothing for any others.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Endpoint, Timer};
use crate::bucket::{Bucket, Rate};
use crate::id::{BindingId, InstanceId};
use crate::registration::{RegistrationFailure, Standing};

/// Other credentials than those in use that may be shown for one binding, beside joining ones: three at once, then one in two
/// minutes, for a server may ban an address by the wrong ones; a further one waits.
const TRIES: Rate = Rate { burst: 3, interval: Duration::from_secs(120) };

/// Tells the different credentials of one endpoint apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Credentials(pub u32);

/// The verdicts on the credentials of one binding's devices.
#[derive(Debug, Default)]
pub(super) struct Verdicts {
    /// Accepted since the newest ones were.
    accepted: Vec<Credentials>,
    refused: BTreeMap<Credentials, Refused>,
    /// When the next ones are checked again.
    recheck_at: Option<Instant>,
    tries: Option<Bucket>,
}

/// Credentials that were not accepted when they were tried last.
#[derive(Clone, Copy, Debug)]
struct Refused {
    /// The number of refusals in a row.
    refusals: u8,
    /// The earliest time of the next attempt.
    until: Instant,
    /// Whether the server has seen the credentials.
    shown: bool,
    /// Whether others are accepted, so that the devices with these get no calls.
    locked: bool,
}

impl Verdicts {
    pub(super) fn has_accepted(&self, credentials: Credentials) -> bool {
        self.accepted.contains(&credentials)
    }

    /// Whether devices with these credentials get no calls.
    pub(super) fn are_locked(&self, credentials: Credentials) -> bool {
        self.refused.get(&credentials).is_some_and(|refused| refused.locked)
    }

    /// Whether they are not to be tried now, refused or not.
    fn must_wait(&self, now: Instant, credentials: Credentials) -> bool {
        self.refused.get(&credentials).is_some_and(|refused| refused.until > now)
    }

    /// Whether they were refused and are not to be tried now.
    pub(super) fn are_paused(&self, now: Instant, credentials: Credentials) -> bool {
        self.refused.get(&credentials).is_some_and(|refused| refused.refusals > 0 && refused.until > now)
    }

    /// The standing with which credentials come into use.
    pub(super) fn standing(&self, now: Instant, credentials: Credentials) -> Standing {
        let refused = self.refused.get(&credentials).filter(|refused| refused.refusals > 0);
        Standing {
            refusals: refused.map_or(0, |refused| refused.refusals),
            paused_until: refused.map(|refused| refused.until).filter(|until| *until > now),
        }
    }

    /// Records that credentials in use were refused.
    pub(super) fn note_refused(&mut self, credentials: Credentials, standing: Standing, shown: bool) {
        self.accepted.retain(|it| *it != credentials);
        let Standing { refusals, paused_until: Some(until) } = standing else { return };
        let locked = self.are_locked(credentials);
        self.refused.insert(credentials, Refused { refusals, until, shown, locked });
    }

    /// Records that credentials were accepted. `new`: for the first time; `shown`: the server had asked for them.
    pub(super) fn note_accepted(&mut self, credentials: Credentials, new: bool, shown: bool) {
        let recovered = self.refused.remove(&credentials).is_some_and(|refused| refused.refusals > 0);
        for other in self.refused.values_mut() {
            if recovered {
                (other.shown, other.locked) = (false, false);
            } else if shown {
                other.locked |= other.shown;
            }
        }
        if !self.accepted.contains(&credentials) {
            if new && shown {
                self.accepted.clear();
            }
            self.accepted.push(credentials);
        }
    }

    /// Forgets the credentials that no device has.
    pub(super) fn retain(&mut self, has: impl Fn(Credentials) -> bool) {
        self.accepted.retain(|it| has(*it));
        self.refused.retain(|it, _| has(*it));
    }

    /// Whether there is nothing that must be kept when one device is left.
    pub(super) fn are_clear(&self) -> bool {
        self.refused.is_empty()
    }

    /// Takes one of the tries; otherwise says how long until there is one.
    fn take_try(&mut self, now: Instant) -> Result<(), Duration> {
        self.tries.get_or_insert(Bucket::full(now)).take(now, TRIES)
    }
}

impl Endpoint {
    /// Whether the SIP server has accepted a device's credentials, or the same of another device, since the newest ones came, or asks for none.
    pub(super) fn is_accepted(&self, binding: BindingId, instance: InstanceId) -> bool {
        let Some(registration) = self.bindings.get(binding) else { return false };
        let own = self.devices.credentials_of(instance);
        self.devices.is_proven(instance)
            && (!registration.asks_credentials()
                || own == self.devices.credentials_of(registration.instance)
                || own.zip(self.verdicts(binding)).is_some_and(|(own, verdicts)| verdicts.has_accepted(own)))
    }

    /// Whether a device's credentials were refused and are not to be tried now.
    pub(super) fn is_paused(&self, now: Instant, binding: BindingId, instance: InstanceId) -> bool {
        let own = self.devices.credentials_of(instance).zip(self.verdicts(binding));
        own.is_some_and(|(own, verdicts)| verdicts.are_paused(now, own))
    }

    /// The standing with which a device's credentials come into use.
    pub(super) fn standing_of(&self, now: Instant, binding: BindingId, instance: InstanceId) -> Standing {
        let own = self.devices.credentials_of(instance).zip(self.verdicts(binding));
        own.map(|(own, verdicts)| verdicts.standing(now, own)).unwrap_or_default()
    }

    /// An attempt with the credentials in use has failed: when they were refused, others are tried at once.
    pub(super) fn note_failed(&mut self, now: Instant, binding: BindingId) {
        let Some(registration) = self.bindings.get(binding) else { return };
        let (standing, shown) = (registration.standing(), registration.is_refused());
        let Some(until) = standing.paused_until else { return };
        let own = self.devices.credentials_of(registration.instance);
        let Some((own, verdicts)) = own.zip(self.verdicts_mut(binding)) else { return };
        verdicts.note_refused(own, standing, shown);
        self.core.later(now, until - now, Timer::Check(binding));
        self.give_way(now, binding);
    }

    /// While the credentials in use are paused, those of another device are used that are not.
    pub(super) fn give_way(&mut self, now: Instant, binding: BindingId) {
        let Some(registration) = self.bindings.get(binding).filter(|it| it.may_try_credentials()) else { return };
        let (owner, standing) = (registration.instance, registration.standing());
        let Some((own, verdicts)) = self.devices.credentials_of(owner).zip(self.verdicts(binding)) else { return };
        if standing.paused_until.is_none() || self.is_checked(binding, owner) {
            return;
        }
        let may = |instance: &&InstanceId| {
            let credentials = self.devices.credentials_of(**instance);
            let other = credentials.is_some_and(|it| it != own && !verdicts.must_wait(now, it));
            other && self.devices.is_proven(**instance) && self.devices.is_in_background(**instance)
        };
        let others = self.others(binding).iter().filter(may);
        let Some(next) = others.min_by_key(|it| !self.is_accepted(binding, **it)).copied() else { return };
        match self.verdicts_mut(binding).map_or(Ok(()), |verdicts| verdicts.take_try(now)) {
            Ok(()) => self.pass_on(now, binding, owner, next),
            Err(wait) => self.core.later(now, wait, Timer::Check(binding)),
        }
    }

    /// A device that was proven before others had their credentials accepted, and whose own are to be tried now.
    pub(super) fn next_recheck(&mut self, now: Instant, binding: BindingId) -> Option<InstanceId> {
        self.plan_recheck(now, binding);
        let next = self.awaits_recheck(now, binding)?;
        let verdicts = self.verdicts_mut(binding).filter(|verdicts| verdicts.recheck_at.is_some_and(|at| at <= now))?;
        match verdicts.take_try(now) {
            Ok(()) => {
                verdicts.recheck_at = None;
                Some(next)
            }
            Err(wait) => {
                verdicts.recheck_at = Some(now + wait);
                self.core.later(now, wait, Timer::Check(binding));
                None
            }
        }
    }

    /// Sets the time for the next one that is to be checked again.
    pub(super) fn plan_recheck(&mut self, now: Instant, binding: BindingId) {
        let is_awaited = self.awaits_recheck(now, binding).is_some();
        let after = self.core.settings.timing.upstream.recheck;
        let Some(verdicts) = self.verdicts_mut(binding) else { return };
        if !is_awaited {
            verdicts.recheck_at = None;
        } else if verdicts.recheck_at.is_none() {
            verdicts.recheck_at = Some(now + after);
            self.core.later(now, after, Timer::Check(binding));
        }
    }

    fn awaits_recheck(&self, now: Instant, binding: BindingId) -> Option<InstanceId> {
        self.bindings.get(binding).filter(|registration| registration.awaits_refresh())?;
        let waits = |instance: &&InstanceId| {
            let own = self.devices.credentials_of(**instance).zip(self.verdicts(binding));
            self.devices.is_in_background(**instance)
                && self.devices.is_proven(**instance)
                && !self.is_accepted(binding, **instance)
                && own.is_some_and(|(own, verdicts)| !verdicts.must_wait(now, own))
        };
        self.others(binding).iter().find(waits).copied()
    }

    /// A device that is proven was checked again in vain. `refused`: the standing of its credentials, if the server has seen and refused them. Returns the
    /// consequence for the device.
    pub(super) fn note_recheck(
        &mut self,
        now: Instant,
        binding: BindingId,
        instance: InstanceId,
        refused: Option<Standing>,
        failure: RegistrationFailure,
    ) -> RegistrationFailure {
        let waits = self.core.settings.timing.upstream.back_off;
        let (status, after) = match failure {
            RegistrationFailure::Refused { status } => (Some(status), waits.refused_twice),
            RegistrationFailure::CredentialsRefused { status, after, .. } => {
                (Some(status), after.max(waits.refused_once))
            }
            RegistrationFailure::Retry { status, after } => (status, after.max(waits.refused_once)),
        };
        let own = self.devices.credentials_of(instance);
        if let Some((own, verdicts)) = own.zip(self.verdicts_mut(binding)) {
            let fresh = Refused { refusals: 0, until: now, shown: false, locked: false };
            let verdict = verdicts.refused.entry(own).or_insert(fresh);
            verdict.until = now + after;
            if let Some(standing) = &refused {
                (verdict.refusals, verdict.shown, verdict.locked) = (standing.refusals, true, true);
            }
        }
        // The server accepts others of the same account: it is well.
        match status.filter(|_| refused.is_some() && failure.is_final()) {
            Some(status) => RegistrationFailure::Refused { status },
            None => RegistrationFailure::Retry { status, after },
        }
    }
}
