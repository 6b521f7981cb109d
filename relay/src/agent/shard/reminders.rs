//! What a user is told of the lease: that it should be renewed, that it ends, that it is lost and why.
//!
//! Invariant: a reminder goes to the alert target, and on APNs never as a VoIP push; what it says of a failure is a SIP
//! status and words of our own.

use serde_json::Value;
use sip::id::InstanceId;

use super::Shard;
use super::alerts::AlertContent;
use crate::agent::digest::Unanswerable;
use crate::agent::tables::lease;
use crate::agent::tables::timeline::What;
use crate::agent::{RecordNote, Reminded};
use crate::clock::{DAY_S, shared_now};
use crate::push::Event;
use crate::vault::record::Reminder;

/// How long it is worth telling that a registration was lost, in seconds.
const LOST_LIFE_S: u64 = DAY_S;

impl Shard {
    /// A reminder is due: sends it, and has it written down that it was.
    pub(crate) fn remind(&mut self, id: InstanceId, reminder: Reminder) {
        if self.is_handed_over() {
            // Its owner reminds.
            return;
        }
        let Some(row) = self.instances.get(id).filter(|row| row.ending.is_none()) else { return };
        let expires_at = row.expires_at();
        let life_s = lease::worth_until(expires_at, reminder).saturating_sub(shared_now());
        tracing::info!(event = "lease-ends", instance = %id, push = lease::event(reminder).name(), "the lease ends");
        self.tell_user(lease::event(reminder), id, life_s, vec![("expires_at", expires_at.into())]);
        // An error means that nobody writes it down any more: the process ends.
        let _ = self.shared.record_notes.send(RecordNote::Reminded(Reminded { id, expires_at, reminder }));
    }

    /// The SIP server has refused the account: for good, and the user should know why.
    pub(crate) fn tell_registration_lost(&mut self, id: InstanceId, status: u16, unanswerable: Option<Unanswerable>) {
        let said = vec![("status", status.into()), ("reason", reason(status, unanswerable).into())];
        self.tell_user(Event::RegistrationLost, id, LOST_LIFE_S, said);
    }

    /// The registration has been lost for long, for whatever cause: the user should know that no call comes.
    pub(crate) fn tell_registration_failing(&mut self, id: InstanceId, since: u64) {
        let Some(row) = self.instances.get(id).filter(|row| row.ending.is_none()) else { return };
        let (status, unanswerable, unreachable) =
            (row.status, row.unanswerable, self.unreachable.contains(&row.upstream));
        let why = match status {
            _ if unreachable => "the SIP server cannot be reached",
            0 | 200 => "the SIP server does not answer",
            _ => reason(status, unanswerable),
        };
        let mut said = vec![("reason", why.into()), ("since", since.into())];
        if !matches!(status, 0 | 200) && !unreachable {
            said.push(("status", status.into()));
        }
        tracing::info!(event = "registration-lost", instance = %id, status, "a registration has been lost for long");
        self.note(id, None, What::RegistrationFailing { status: Some(status).filter(|it| !matches!(it, 0 | 200)) });
        self.tell_user(Event::RegistrationFailing, id, LOST_LIFE_S, said);
    }

    /// The registration is back, after its user was told of the loss.
    pub(crate) fn tell_registration_restored(&mut self, id: InstanceId) {
        self.note(id, None, What::RegistrationRestored);
        self.tell_user(Event::RegistrationRestored, id, LOST_LIFE_S, Vec::new());
    }

    /// Tells the user, by the alert target, that something happened to the lease; worth delivering for `life_s` seconds.
    pub(crate) fn tell_user(
        &mut self,
        event: Event,
        instance: InstanceId,
        life_s: u64,
        extra: Vec<(&'static str, Value)>,
    ) {
        self.send_alert(instance, event, life_s, AlertContent { extra, ..AlertContent::default() }, |_| true);
    }
}

/// Why a registration was lost, in words that a user understands.
fn reason(status: u16, unanswerable: Option<Unanswerable>) -> &'static str {
    match (unanswerable, status) {
        (Some(Unanswerable::Realm), _) => "the SIP server asks for another realm than the one that the HA1 is for",
        (Some(Unanswerable::Algorithm), _) => "the SIP server asks for a digest algorithm that no HA1 was given for",
        (Some(Unanswerable::Digest), _) => "the SIP server offers no digest that this relay makes",
        (Some(Unanswerable::Challenge), _) => "the SIP server asks for the password in a way that cannot be read",
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
            (302, None, "moved"),
            (606, None, "refused the registration"),
        ] {
            assert!(reason(status, unanswerable).contains(words), "{status} {unanswerable:?}");
        }
    }
}
