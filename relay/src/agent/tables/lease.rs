//! The reminders of a lease's end, and their times, computed from the end alone.
//!
//! | reminder | before the end | on APNs | on FCM |
//! | --- | --- | --- | --- |
//! | [`Reminder::Renew`] | 24 h | `renew`, in the background: the app may renew by itself | data |
//! | [`Reminder::Soon`] | 12 h | `expiring`, which the user sees | data |
//! | [`Reminder::VerySoon`] | 1 h | `expiring`, which the user sees | data |
//!
//! The record names the last reminder that a push service took, and a restart goes on from there. So no reminder that was taken is repeated, unless the process
//! died before it was written down. A reminder that was not taken ([`pending_notices`](super::pending_notices)), or that fell due while no node served the
//! instance, is sent when a node does; of several, the latest. When a lease begins or is renewed, past reminders count as sent: a short lifetime skips them.
//!
//! Invariant: nothing here reads a clock or sends. Each reminder of a lease is due at most once, unless a push service has certainly not taken it.

use crate::clock::DAY_S;
use crate::push::Event;
use crate::vault::record::{Record, Reminder};

/// The end of an instance, and what was said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseExpiry {
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
    /// The last reminder of its end.
    pub reminded: Option<Reminder>,
}

impl LeaseExpiry {
    /// As a record has it.
    pub fn of(record: &Record) -> Self {
        Self { expires_at: record.expires_at, reminded: record.reminded }
    }
}

/// In the order of time.
const ALL: [Reminder; 3] = [Reminder::Renew, Reminder::Soon, Reminder::VerySoon];

/// How long before the end it is due, in seconds.
const fn ahead_s(reminder: Reminder) -> u64 {
    match reminder {
        Reminder::Renew => DAY_S,
        Reminder::Soon => DAY_S / 2,
        Reminder::VerySoon => 3_600,
    }
}

/// Its push.
pub(crate) fn event(reminder: Reminder) -> Event {
    match reminder {
        Reminder::Renew => Event::Renew,
        Reminder::Soon | Reminder::VerySoon => Event::Expiring,
    }
}

/// The reminder that counts as sent when a lease that ends at `expires_at` begins or is renewed at `now`, both in seconds since 1970.
pub fn skipped(expires_at: u64, now: u64) -> Option<Reminder> {
    due(expires_at, None, now)
}

/// The reminder to send at `now` after `reminded` was; `None`: none is due.
pub(crate) fn due(expires_at: u64, reminded: Option<Reminder>, now: u64) -> Option<Reminder> {
    let last = ALL.into_iter().rfind(|reminder| moment(expires_at, *reminder) <= now);
    last.filter(|last| reminded.is_none_or(|reminded| *last > reminded))
}

/// When the next reminder is due after `reminded`, or else the lease ends, in seconds since 1970.
pub(crate) fn next(expires_at: u64, reminded: Option<Reminder>) -> u64 {
    let next = ALL.into_iter().find(|reminder| reminded.is_none_or(|reminded| *reminder > reminded));
    next.map_or(expires_at, |next| moment(expires_at, next))
}

/// Until when a reminder that is sent at `now` is worth delivering: until the next one, or the end.
pub(crate) fn worth_until(expires_at: u64, reminder: Reminder) -> u64 {
    next(expires_at, Some(reminder))
}

fn moment(expires_at: u64, reminder: Reminder) -> u64 {
    expires_at.saturating_sub(ahead_s(reminder))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600;
    const END: u64 = 1_795_000_000;

    /// Every reminder that is sent, with the hours before the end, by one who looks every `step` seconds from `from` on.
    fn sent(from: u64, step: u64, mut reminded: Option<Reminder>) -> Vec<(Event, u64)> {
        let mut sent = Vec::new();
        let mut now = from;
        while now < END {
            if let Some(reminder) = due(END, reminded, now) {
                sent.push((event(reminder), (END - now).div_ceil(HOUR)));
                reminded = Some(reminder);
            }
            now += step;
        }
        sent
    }

    #[test]
    fn a_lease_is_renewed_silently_a_day_before_and_its_user_warned_twice() {
        let all = vec![(Event::Renew, 24), (Event::Expiring, 12), (Event::Expiring, 1)];
        for days in [3, 5, 6] {
            let begun = END - days * DAY_S;
            assert_eq!(sent(begun, 1, skipped(END, begun)), all);
        }
    }

    #[test]
    fn a_lifetime_that_is_shorter_than_a_reminder_skips_it() {
        for (hours, expected) in [
            (25, vec![(Event::Renew, 24), (Event::Expiring, 12), (Event::Expiring, 1)]),
            (24, vec![(Event::Expiring, 12), (Event::Expiring, 1)]),
            (13, vec![(Event::Expiring, 12), (Event::Expiring, 1)]),
            (12, vec![(Event::Expiring, 1)]),
            (2, vec![(Event::Expiring, 1)]),
            (1, vec![]),
        ] {
            let begun = END - hours * HOUR;
            assert_eq!(sent(begun, 1, skipped(END, begun)), expected, "{hours} h");
        }
    }

    #[test]
    fn who_looks_again_after_a_restart_repeats_nothing_and_forgets_nothing() {
        for (reminded, back, expected) in [
            (None, 30, vec![(Event::Renew, 24), (Event::Expiring, 12), (Event::Expiring, 1)]),
            (None, 20, vec![(Event::Renew, 20), (Event::Expiring, 12), (Event::Expiring, 1)]),
            (Some(Reminder::Renew), 20, vec![(Event::Expiring, 12), (Event::Expiring, 1)]),
            (Some(Reminder::Renew), 11, vec![(Event::Expiring, 11), (Event::Expiring, 1)]),
            (None, 11, vec![(Event::Expiring, 11), (Event::Expiring, 1)]),
            (Some(Reminder::Soon), 11, vec![(Event::Expiring, 1)]),
            (Some(Reminder::Renew), 1, vec![(Event::Expiring, 1)]),
            (Some(Reminder::VerySoon), 1, vec![]),
        ] {
            assert_eq!(sent(END - back * HOUR, 60, reminded), expected, "{reminded:?}, {back} h before the end");
        }
    }

    #[test]
    fn what_is_due_next_is_known_beforehand() {
        let at = |reminded| END - next(END, reminded);
        assert_eq!([None, Some(Reminder::Renew), Some(Reminder::Soon)].map(at), [24 * HOUR, 12 * HOUR, HOUR]);
        assert_eq!(next(END, Some(Reminder::VerySoon)), END);
        assert_eq!(next(0, None), 0, "a clock that stands before all times harms nothing");
        assert_eq!(worth_until(END, Reminder::Renew), END - 12 * HOUR);
    }
}
