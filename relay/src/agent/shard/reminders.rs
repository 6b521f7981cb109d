//! Notices to a user: the lease should be renewed, or ends; the registration fails, is back, or is lost, and why.
//!
//! A notice counts as told, and is written down, when a push service has taken it. Otherwise it is [sent again](crate::agent::tables::pending_notices) after a
//! while, and soon after the service has recovered or has new settings.
//!
//! Invariant: a reminder goes to the alert target, and on APNs never as a VoIP push. It describes a failure by a SIP status and words of our own.

use std::time::{Duration, Instant};

use serde_json::Value;
use sip::id::InstanceId;

use super::Shard;
use super::alerts::AlertContent;
use crate::agent::digest::Unanswerable;
use crate::agent::tables::instances::{RepeatedNotice, Row};
use crate::agent::tables::lease;
use crate::agent::tables::pending_notices::Notice;
use crate::agent::tables::timeline::TimelineEvent;
use crate::agent::{RecordNote, Reminded};
use crate::clock::{DAY_S, confirmed_now, shared_now};
use crate::push::{Event, Report, State, Subject};
use crate::vault::record::Reminder;

/// How long a notice of a lost registration is worth delivering, in seconds.
const LOST_LIFE_S: u64 = DAY_S;

/// How often the health of the push services is read while a notice waits for them.
const LOOK_EACH: Duration = Duration::from_secs(15);

/// The last known health of the push services.
#[derive(Default)]
pub(crate) struct Services {
    looked_at: Option<Instant>,
    failing: Vec<(Box<str>, &'static str)>,
    /// The last time that one recovered, in seconds since 1970.
    well_since: u64,
}

impl Services {
    /// Whether one takes pushes again, or may because of new settings.
    fn are_better(&mut self, reports: &[Report]) -> bool {
        let of = |report: &Report| (report.app.clone(), report.service);
        let failing: Vec<_> = reports.iter().filter(|it| it.state == State::Failing).map(of).collect();
        let well_since = reports.iter().filter(|it| it.state == State::Well).map(|it| it.since).max().unwrap_or(0);
        let is_known = self.looked_at.is_some();
        let better = self.failing.iter().any(|before| !failing.contains(before)) || well_since > self.well_since;
        (self.failing, self.well_since) = (failing, well_since);
        is_known && better
    }
}

impl Shard {
    /// Makes pending notices due soon once a push service has recovered.
    pub(super) fn look_at_services(&mut self, now: Instant) {
        if !self.instances.has_pending_notices() {
            self.services = Services::default();
            return;
        }
        if self.services.looked_at.is_some_and(|at| at + LOOK_EACH > now) {
            return;
        }
        let better = self.services.are_better(&self.shared.push.health());
        self.services.looked_at = Some(now);
        if better {
            self.instances.hasten_pending_notices(confirmed_now());
        }
    }

    /// A push service has taken a notice of a lease or a registration: that is written down.
    pub(super) fn note_told(&mut self, id: InstanceId, event: Event) {
        let Some(told) = self.instances.take_told(id, event) else { return };
        let Some(expires_at) = self.instances.get(id).map(Row::expires_at) else { return };
        let note = match told {
            Notice::Reminder(reminder) => RecordNote::Reminded(Reminded { id, expires_at, reminder }),
            Notice::Lost => RecordNote::ToldFailing { id, fails: true },
            Notice::Restored => RecordNote::ToldFailing { id, fails: false },
        };
        // An error means that nobody writes it down any more: the process ends.
        let _ = self.shared.record_notes.send(note);
    }

    /// Sends a notice again that no push service has taken.
    pub(crate) fn tell_again(&mut self, id: InstanceId, what: RepeatedNotice) {
        let subject = if matches!(what, RepeatedNotice::Reminder(_)) { Subject::Lease } else { Subject::Registration };
        if self.is_handed_over() || self.is_telling(id, subject) {
            return;
        }
        match what {
            RepeatedNotice::Reminder(reminder) => self.remind(id, reminder),
            RepeatedNotice::Lost(since) => self.tell_registration_failing(id, since),
            RepeatedNotice::Restored => self.push_restored(id),
        }
    }

    /// Sends a reminder that is due. One without a target counts as told.
    pub(crate) fn remind(&mut self, id: InstanceId, reminder: Reminder) {
        if self.is_handed_over() {
            // The owner reminds.
            return;
        }
        let Some(row) = self.instances.get(id).filter(|row| row.ending.is_none()) else { return };
        let expires_at = row.expires_at();
        let life_s = lease::worth_until(expires_at, reminder).saturating_sub(shared_now());
        tracing::info!(event = "lease-ends", instance = %id, push = lease::event(reminder).name(), "the lease ends");
        self.tell_until_taken(lease::event(reminder), id, life_s, vec![("expires_at", expires_at.into())]);
    }

    /// The SIP server has refused the account for good: the user is told why.
    pub(crate) fn tell_registration_lost(&mut self, id: InstanceId, status: u16, unanswerable: Option<Unanswerable>) {
        let said = vec![("status", status.into()), ("reason", reason(status, unanswerable).into())];
        let _ = self.tell_user(Event::RegistrationLost, id, LOST_LIFE_S, said);
    }

    /// The registration has been lost for long, for whatever reason: the user is told that no calls arrive.
    pub(crate) fn tell_registration_failing(&mut self, id: InstanceId, since: u64) {
        let Some(row) = self.instances.get(id).filter(|row| row.ending.is_none()) else { return };
        let (status, unanswerable, unreachable) =
            (row.status, row.unanswerable, self.unreachable.contains(&row.upstream));
        let why = match status {
            _ if unreachable => "the SIP server cannot be reached",
            0 => "the SIP server does not answer",
            _ => reason(status, unanswerable),
        };
        let mut said = vec![("reason", why.into()), ("since", since.into())];
        if status != 0 && !unreachable {
            said.push(("status", status.into()));
        }
        tracing::info!(event = "registration-lost", instance = %id, status, "a registration has been lost for long");
        self.note(id, None, TimelineEvent::RegistrationFailing { status: Some(status).filter(|it| *it != 0) });
        self.tell_until_taken(Event::RegistrationFailing, id, LOST_LIFE_S, said);
    }

    /// The registration is back after its user was told of the loss.
    pub(crate) fn tell_registration_restored(&mut self, id: InstanceId) {
        self.note(id, None, TimelineEvent::RegistrationRestored);
        self.instances.set_restored(id, confirmed_now());
        self.push_restored(id);
    }

    fn push_restored(&mut self, id: InstanceId) {
        self.tell_until_taken(Event::RegistrationRestored, id, LOST_LIFE_S, Vec::new());
    }

    /// Sends a notice to the user. It counts as told when a push service has taken it, or when there is no target.
    fn tell_until_taken(&mut self, event: Event, id: InstanceId, life_s: u64, extra: Vec<(&'static str, Value)>) {
        if !self.tell_user(event, id, life_s, extra) {
            self.note_told(id, event);
        }
    }

    /// Sends an event of the lease to the alert target; it is worth delivering for `life_s` seconds. Returns whether there is a target.
    pub(crate) fn tell_user(
        &mut self,
        event: Event,
        instance: InstanceId,
        life_s: u64,
        extra: Vec<(&'static str, Value)>,
    ) -> bool {
        self.send_alert(instance, event, life_s, AlertContent { extra, ..AlertContent::default() }, |_| true)
    }
}

/// Why a registration was lost, in words that a user understands.
fn reason(status: u16, unanswerable: Option<Unanswerable>) -> &'static str {
    match (unanswerable, status) {
        (Some(Unanswerable::Realm), _) => "the SIP server asks for another realm than the one that the HA1 is for",
        (Some(Unanswerable::Algorithm), _) => "the SIP server asks for a digest algorithm that no HA1 was given for",
        (Some(Unanswerable::Digest), _) => "the SIP server offers no digest that this relay makes",
        (Some(Unanswerable::Challenge), _) => "the SIP server asks for the password in a way that cannot be read",
        (None, 200..=299) => "the SIP server grants no registration",
        (None, 401 | 407) => "the SIP server refused the password",
        (None, 403) => "the SIP server forbids this account to register",
        (None, 404 | 410 | 604) => "the SIP server does not know this account",
        (None, 300..=399) => "the SIP server has moved to another address",
        (None, 408 | 500..=599) => "the SIP server is in trouble",
        (None, _) => "the SIP server refused the registration",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_takes_pushes_again_is_noticed_once() {
        let report = |state, since| Report {
            app: "app".into(),
            service: "apns",
            state,
            since,
            reason: None,
            last_accepted: 0,
            waiting: 0,
        };
        let mut services = Services::default();
        let mut better = |reports: &[Report]| {
            let better = services.are_better(reports);
            services.looked_at = Some(Instant::now());
            better
        };
        assert!(!better(&[report(State::Failing, 100)]), "the first look");
        assert!(!better(&[report(State::Failing, 100)]));
        assert!(better(&[report(State::Well, 200)]));
        assert!(!better(&[report(State::Well, 200)]));
        assert!(!better(&[report(State::Failing, 300)]));
        assert!(better(&[report(State::Unknown, 0)]), "other settings");
        assert!(!better(&[report(State::Unknown, 0)]));
        assert!(better(&[report(State::Well, 400)]));
        assert!(better(&[report(State::Well, 500)]), "it failed between two looks");
    }

    #[test]
    fn each_way_to_lose_a_registration_has_its_words() {
        for (status, unanswerable, words) in [
            (401, None, "password"),
            (407, None, "password"),
            (401, Some(Unanswerable::Realm), "realm"),
            (401, Some(Unanswerable::Algorithm), "algorithm"),
            (401, Some(Unanswerable::Digest), "no digest"),
            (401, Some(Unanswerable::Challenge), "cannot be read"),
            (403, None, "forbids"),
            (404, None, "does not know"),
            (604, None, "does not know"),
            (200, None, "grants no registration"),
            (302, None, "moved"),
            (606, None, "refused the registration"),
        ] {
            assert!(reason(status, unanswerable).contains(words), "{status} {unanswerable:?}");
        }
    }
}
