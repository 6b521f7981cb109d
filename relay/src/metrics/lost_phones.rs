//! The phones that register through the relay and cannot, for the metrics: those whose last refresh failed, and those whose registrations ran out, until they
//! are back.
//!
//! Invariant: of a lost phone two keyed hashes and a time are kept, in memory, for a day. There are at most [`LOST_MAX`]; beyond that, the earliest loss is
//! forgotten. A phone that registers for the first time counts as back only where a phone of its own account is lost.

use std::collections::BTreeMap;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;

use super::labels::LostWithin;
use crate::lock::Mutex;

/// Losses that are remembered, about 100 bytes each.
const LOST_MAX: usize = 100_000;
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// A registration whose last refresh failed: it counts while this lives.
pub struct Failing(Gauge);

impl Failing {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Of one run of a node.
#[derive(Default)]
pub(super) struct LostPhones(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// By account and registration: when it ran out, as the time since boot.
    of: BTreeMap<([u8; 16], [u8; 16]), Duration>,
    by_time: BTreeMap<(Duration, [u8; 16]), [u8; 16]>,
}

impl LostPhones {
    /// A registration of this account ran out.
    pub(super) fn lose(&self, account: [u8; 16], registration: [u8; 16], now: Duration) {
        let mut table = self.0.lock();
        table.remove(account, registration);
        table.forget_old(now);
        if table.by_time.len() >= LOST_MAX
            && let Some(((_, first), account)) = table.by_time.first_key_value().map(|(key, account)| (*key, *account))
        {
            table.remove(account, first);
        }
        table.of.insert((account, registration), now);
        table.by_time.insert((now, registration), account);
    }

    /// A phone of this account has registered that was not registered here. It may have another push token, and so another registration, than the one that
    /// was lost.
    pub(super) fn find(&self, account: [u8; 16], registration: [u8; 16]) {
        let mut table = self.0.lock();
        if !table.remove(account, registration) {
            let theirs = table.of.range((account, [0; 16])..=(account, [255; 16])).map(|((_, it), _)| *it).next();
            if let Some(one) = theirs {
                table.remove(account, one);
            }
        }
    }

    /// How many were lost within that time before `now`.
    pub(super) fn count(&self, within: LostWithin, now: Duration) -> usize {
        let span = match within {
            LostWithin::Hour => HOUR,
            LostWithin::Day => DAY,
        };
        let mut table = self.0.lock();
        table.forget_old(now);
        table.by_time.range((now.saturating_sub(span), [0; 16])..).count()
    }
}

impl Table {
    fn remove(&mut self, account: [u8; 16], registration: [u8; 16]) -> bool {
        let at = self.of.remove(&(account, registration));
        at.is_some_and(|at| self.by_time.remove(&(at, registration)).is_some())
    }

    fn forget_old(&mut self, now: Duration) {
        while let Some(((at, registration), account)) = self.by_time.first_key_value().map(|(key, of)| (*key, *of))
            && at + DAY < now
        {
            self.remove(account, registration);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_phone_counts_for_an_hour_and_for_a_day_unless_its_account_registers_one_again() {
        let lost = LostPhones::default();
        let (of, id, at) = (|account: u8| [account; 16], |id: u8| [id; 16], Duration::from_secs);
        let counts = |now| (lost.count(LostWithin::Hour, now), lost.count(LostWithin::Day, now));
        for phone in 1..=4 {
            lost.lose(of(phone), id(phone), at(100));
        }
        lost.lose(of(1), id(9), at(200));
        assert_eq!(counts(at(300)), (5, 5));
        // A phone of an account that has lost none is no come-back, however many there are.
        (10..50).for_each(|other| lost.find(of(other), id(other)));
        assert_eq!(counts(at(300)), (5, 5));
        // The same registration, and one with another push token.
        lost.find(of(1), id(9));
        lost.find(of(2), id(7));
        lost.find(of(2), id(8));
        assert_eq!(counts(at(300)), (3, 3));
        assert_eq!(counts(at(3_701)), (0, 3));
        // It is lost once more.
        lost.lose(of(1), id(1), at(4_000));
        assert_eq!(counts(at(4_001)), (1, 3));
        assert_eq!(counts(at(86_501)), (0, 1));
        let table = lost.0.lock();
        assert_eq!((table.of.len(), table.by_time.len()), (1, 1));
    }

    #[test]
    fn of_too_many_the_earliest_loss_is_forgotten() {
        let lost = LostPhones::default();
        let id = |number: usize| (number as u128).to_be_bytes();
        for number in 0..=LOST_MAX {
            lost.lose([1; 16], id(number), Duration::from_secs(number as u64 / 1_000));
        }
        let table = lost.0.lock();
        assert_eq!((table.of.len(), table.by_time.len()), (LOST_MAX, LOST_MAX));
        assert!(!table.of.contains_key(&([1; 16], id(0))) && table.of.contains_key(&([1; 16], id(LOST_MAX))));
    }
}
