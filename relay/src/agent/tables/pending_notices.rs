//! Notices of a lease or a registration that no push service has taken yet.
//!
//! | a push service | a notice |
//! | --- | --- |
//! | took it, or may have taken it | counts as told |
//! | did not take it | is due again after [`AGAIN_S`], or half-way to the end of its use if that is sooner; but not within [`AGAIN_MIN_S`] |
//! | has recovered, or has new settings | is due soon: [`SOON_PER_SECOND`] of all notices in a second |
//!
//! Invariant: an instance has at most one notice of each [`Subject`]: a newer one replaces an older one.

use std::collections::BTreeMap;

use crate::clock::DAY_S;
use crate::push::{Event, Subject};
use crate::vault::record::Reminder;

/// After how long it is due again at the latest, in seconds: its push was tried for an hour.
const AGAIN_S: u64 = 7_200;
/// How soon it is due again at the earliest, in seconds; one that would be sooner is due no more.
const AGAIN_MIN_S: u64 = 600;
/// How long it is worth telling of a registration, in seconds.
const OF_REGISTRATION_S: u64 = DAY_S;
/// How many of one shard are due in a second when all of them are.
const SOON_PER_SECOND: usize = 20;

/// A thing that a user is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// A reminder of the lease's end.
    Reminder(Reminder),
    /// The registration has been lost for long.
    Lost,
    /// The registration is back.
    Restored,
}

impl Notice {
    /// The matter that it tells of.
    pub(crate) fn subject(self) -> Subject {
        match self {
            Self::Reminder(_) => Subject::Lease,
            Self::Lost | Self::Restored => Subject::Registration,
        }
    }

    fn is_covered_by(self, event: Event) -> bool {
        match self {
            Self::Reminder(reminder) => super::lease::event(reminder) == event,
            Self::Lost => event == Event::RegistrationFailing,
            Self::Restored => event == Event::RegistrationRestored,
        }
    }
}

/// A notice that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    notice: Notice,
    /// When it is due again, in seconds since 1970; `None`: not by itself.
    again_at: Option<u64>,
    /// When it is worth nothing any more, likewise.
    until: u64,
}

/// The notices of one shard, by the slots of their rows.
#[derive(Debug, Default)]
pub(crate) struct PendingNotices(BTreeMap<(u32, Subject), Waiting>);

impl PendingNotices {
    /// A reminder is being pushed, which is worth it until then, in seconds since 1970.
    pub(super) fn remind(&mut self, slot: u32, reminder: Reminder, now: u64, until: u64) {
        self.insert(slot, Notice::Reminder(reminder), now, until);
    }

    /// A push is under way that a registration is lost, or back.
    pub(super) fn tell_of_registration(&mut self, slot: u32, notice: Notice, now: u64) {
        self.insert(slot, notice, now, now.saturating_add(OF_REGISTRATION_S));
    }

    fn insert(&mut self, slot: u32, notice: Notice, now: u64, until: u64) {
        self.0.insert((slot, notice.subject()), Waiting { notice, again_at: again_at(now, until), until });
    }

    /// The reminder that is not taken yet.
    pub(super) fn reminder(&self, slot: u32) -> Option<Reminder> {
        match self.0.get(&(slot, Subject::Lease))?.notice {
            Notice::Reminder(reminder) => Some(reminder),
            Notice::Lost | Notice::Restored => None,
        }
    }

    /// When one is due next, in seconds since 1970.
    pub(super) fn next(&self, slot: u32) -> Option<u64> {
        self.of(slot).filter_map(|(_, waiting)| waiting.again_at).min()
    }

    /// A notice that is due now.
    pub(super) fn pop_due(&mut self, slot: u32, now: u64) -> Option<Notice> {
        let due = |waiting: &Waiting| waiting.again_at.is_some_and(|at| at <= now);
        let (key, _) = self.of(slot).find(|(_, waiting)| due(waiting))?;
        let key = *key;
        let waiting = self.0.get_mut(&key)?;
        if waiting.until <= now {
            self.0.remove(&key);
            return None;
        }
        waiting.again_at = again_at(now, waiting.until);
        Some(waiting.notice)
    }

    /// A push service has taken this push, or may have: what it told.
    pub(super) fn take(&mut self, slot: u32, event: Event) -> Option<Notice> {
        let key = (slot, event.subject()?);
        let notice = self.0.get(&key)?.notice;
        notice.is_covered_by(event).then(|| self.0.remove(&key)).map(|_| notice)
    }

    /// A notice of this is worth nothing any more.
    pub(super) fn forget(&mut self, slot: u32, subject: Subject) {
        self.0.remove(&(slot, subject));
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All are due soon; the slots of those that are sooner than before.
    pub(super) fn hasten(&mut self, now: u64) -> Vec<u32> {
        let mut sooner = Vec::new();
        for (count, ((slot, _), waiting)) in self.0.iter_mut().enumerate() {
            let at = now.saturating_add((count / SOON_PER_SECOND) as u64);
            if waiting.again_at.is_none_or(|before| at < before) {
                waiting.again_at = Some(at);
                sooner.push(*slot);
            }
        }
        sooner
    }

    fn of(&self, slot: u32) -> impl Iterator<Item = (&(u32, Subject), &Waiting)> {
        self.0.range((slot, Subject::Mailbox)..=(slot, Subject::Registration))
    }
}

fn again_at(now: u64, until: u64) -> Option<u64> {
    let half = until.saturating_sub(now) / 2;
    (half >= AGAIN_MIN_S).then(|| now.saturating_add(half.min(AGAIN_S)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_000_000;

    #[test]
    fn what_no_service_takes_is_due_again_and_again_until_it_is_worth_nothing() {
        let mut pending_notices = PendingNotices::default();
        pending_notices.remind(1, Reminder::Renew, NOW, NOW + DAY_S / 2);
        let mut times = Vec::new();
        while let Some(now) = pending_notices.next(1) {
            assert_eq!(pending_notices.pop_due(1, now - 1), None);
            assert_eq!(pending_notices.pop_due(1, now), Some(Notice::Reminder(Reminder::Renew)));
            times.push((now - NOW) / 60);
        }
        assert_eq!(times, [120, 240, 360, 480, 600, 660, 690, 705]);
        assert_eq!(pending_notices.take(1, Event::Expiring), None, "that tells something else");
        assert_eq!(pending_notices.take(1, Event::Renew), Some(Notice::Reminder(Reminder::Renew)));
        assert!(pending_notices.is_empty());
    }

    #[test]
    fn when_a_service_is_well_again_all_are_due_a_few_at_a_time() {
        let mut pending_notices = PendingNotices::default();
        (0..100).for_each(|slot| pending_notices.tell_of_registration(slot, Notice::Lost, NOW));
        assert_eq!(pending_notices.hasten(NOW).len(), 100);
        let due = |pending_notices: &mut PendingNotices, now| {
            (0..100).filter(|slot| pending_notices.pop_due(*slot, now).is_some()).count()
        };
        assert_eq!([0, 1, 4, 5].map(|after| due(&mut pending_notices, NOW + after)), [20, 20, 60, 0]);
    }
}
