//! Addresses that no dial could connect to, whatever SIP server they belong to.
//!
//! | a connection to an address | the address is, for all SIP servers |
//! | --- | --- |
//! | was refused, or timed out | away: it is dialled last and not probed as a better one, and dials that wait for a place at it go on to another address |
//! | was opened | there |
//!
//! An address is away for the setting `upstream.failback_interval`, and twice as long after each further failure, up to
//! [`AWAY_MAX`](crate::agent::transport::targets::AWAY_MAX). A failure after the connection was opened counts for one SIP server alone: an address may have
//! another certificate for each name, or lead each name to another server, and clients choose the names.
//!
//! Invariant: at most [`REMEMBERED`] addresses are known. A fault of this machine says nothing about an address.

use std::collections::BTreeMap;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use crate::agent::transport::targets::{Destination, away_for};
use crate::lock::Mutex;

/// Addresses that are remembered; the one that was tried first of all is forgotten first.
const REMEMBERED: usize = 4_096;

/// The findings about all addresses.
#[derive(Debug, Default)]
pub(super) struct Unreachable(Mutex<BTreeMap<Destination, Found>>);

#[derive(Debug)]
struct Found {
    tried_at: Instant,
    failed_at: Option<Instant>,
    /// The last time that a connection could be used.
    opened_at: Option<Instant>,
    failures: u32,
    away_until: Option<Instant>,
}

impl Unreachable {
    /// Notes a failed connection to an address; away for `first` if it had not failed before.
    pub(super) fn failed(&self, place: Destination, now: Instant, first: Duration) {
        self.change(place, now, |found| {
            found.failed_at = Some(now);
            // Several who have begun together find the same.
            if found.away_until.is_none_or(|until| until <= now) {
                found.away_until = Some(now + away_for(first, found.failures));
                found.failures += 1;
            }
        });
    }

    /// Notes a connection to an address.
    pub(super) fn connected(&self, place: Destination, now: Instant) {
        self.change(place, now, |found| (found.failures, found.away_until, found.failed_at) = (0, None, None));
    }

    /// A connection to it can be used.
    pub(super) fn opened(&self, place: Destination, now: Instant) {
        self.change(place, now, |found| found.opened_at = Some(now));
    }

    /// Until when it is away; `None`: it is not.
    pub(super) fn away_until(&self, place: Destination, now: Instant) -> Option<Instant> {
        self.lock().get(&place)?.away_until.filter(|until| *until > now)
    }

    /// Whether a connection to it has failed since then.
    pub(super) fn has_failed_since(&self, place: Destination, since: Instant) -> bool {
        self.lock().get(&place).and_then(|found| found.failed_at).is_some_and(|at| at >= since)
    }

    /// Whether a connection to it could be used since then.
    pub(super) fn has_opened_since(&self, place: Destination, since: Instant) -> bool {
        self.lock().get(&place).and_then(|found| found.opened_at).is_some_and(|at| at >= since)
    }

    fn change(&self, place: Destination, now: Instant, change: impl FnOnce(&mut Found)) {
        let mut all = self.lock();
        let new = || Found { tried_at: now, failed_at: None, opened_at: None, failures: 0, away_until: None };
        let found = all.entry(place).or_insert_with(new);
        found.tried_at = now;
        change(found);
        if all.len() > REMEMBERED {
            let oldest = all.iter().min_by_key(|(_, found)| found.tried_at).map(|(place, _)| *place);
            oldest.map(|place| all.remove(&place));
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Destination, Found>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::net::Transport;

    const MINUTE: Duration = Duration::from_secs(60);

    fn place(last: u16) -> Destination {
        (SocketAddr::from(([192, 0, 2, 1], last)), Transport::Tls)
    }

    #[test]
    fn what_many_find_at_once_counts_once_and_what_is_back_is_as_if_it_had_never_failed() {
        let (start, all) = (Instant::now(), Unreachable::default());
        let (mut now, mut waits) = (start, Vec::new());
        for _ in 0..8 {
            for _ in 0..8 {
                all.failed(place(1), now, MINUTE);
            }
            let until = all.away_until(place(1), now).unwrap();
            waits.push((until - now).as_secs() / 60);
            assert!(all.has_failed_since(place(1), now) && all.away_until(place(1), until).is_none());
            now = until;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        all.failed(place(1), now, MINUTE);
        all.connected(place(1), now);
        assert_eq!((all.away_until(place(1), now), all.has_failed_since(place(1), now)), (None, false));
        all.failed(place(1), now, MINUTE);
        assert_eq!(all.away_until(place(1), now), Some(now + MINUTE));
        assert_eq!(all.away_until(place(2), now), None);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (now, all) = (Instant::now(), Unreachable::default());
        for port in 1..=5_000 {
            all.opened(place(port), now + Duration::from_millis(port.into()));
        }
        assert_eq!(all.lock().len(), REMEMBERED);
        assert!(all.has_opened_since(place(5_000), now) && !all.has_opened_since(place(1), now));
    }
}
