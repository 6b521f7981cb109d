//! Limits on the requests of an address and of an App, and on the mistakes of an address: token buckets in memory.
//!
//! Failures are counted after a key was found wrong, and nowhere before: what an address has failed at is no reason to
//! refuse the right key that comes from it, because many people share an address (carrier NAT, load balancers).
//!
//! Invariant: a table holds at most [`MAX_BUCKETS`] buckets. When it is full and none of them is idle, newcomers share
//! one bucket, so that a crowd of addresses cannot take memory or outrun the limit by its size.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use sip::bucket::Bucket;
pub use sip::bucket::Rate;

use crate::lock::Mutex;

/// The most buckets of one table; about 5 MB.
pub const MAX_BUCKETS: usize = 65_536;

/// The longest pause that wrong keys lead to; the address is as good as new after it.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// How often a full table is searched for idle buckets, at most.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// The limits of the API. At a limit the answer is 429 with `Retry-After`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Enablings by one App.
    pub enable_per_app: Rate,
    /// Enablings from one address (IPv6: one /64).
    pub enable_per_address: Rate,
    /// Examinations by one App.
    pub examine_per_app: Rate,
    /// Examinations from one address (IPv6: one /64): each sends a few requests to a SIP server.
    pub examine_per_address: Rate,
    /// Wakes by one SIP server.
    pub wake_per_server: Rate,
    /// Wakes of one AOR by one SIP server: each may be a push, and a device has its budget for these whoever asks.
    pub wake_per_aor: Rate,
    /// Wrong keys and secrets from one address (IPv6: one /64). Right ones are served at any rate.
    pub failures_per_address: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            enable_per_app: Rate::per_second(5_000, 10_000),
            enable_per_address: Rate::per_second(5_000, 10_000),
            examine_per_app: Rate::per_second(2, 20),
            examine_per_address: Rate { burst: 5, interval: Duration::from_secs(5) },
            wake_per_server: Rate::per_second(2_000, 4_000),
            wake_per_aor: Rate::per_second(1, 10),
            failures_per_address: Rate::per_second(10, 50),
        }
    }
}

/// Buckets of one rate, one for each key.
pub struct Buckets<K> {
    rate: Rate,
    table: Mutex<Table<K>>,
}

struct Table<K> {
    buckets: HashMap<K, Bucket>,
    newcomers: Bucket,
    swept_at: Instant,
}

impl<K: Eq + Hash> Buckets<K> {
    /// An empty table.
    pub fn new(rate: Rate) -> Self {
        let now = Instant::now();
        let table = Table { buckets: HashMap::new(), newcomers: Bucket::full(now), swept_at: now };
        Self { rate, table: Mutex::new(table) }
    }

    /// Takes one token of `key`; the error is how many seconds to wait (at least 1).
    pub fn take(&self, key: K, now: Instant) -> Result<(), u64> {
        self.with_bucket(key, now, |bucket| bucket.take(now, self.rate).map_err(whole_seconds))
    }

    /// Takes one token of `key`, or, where there is none, puts one second more on the wait; the error is how many seconds
    /// that is by now (at least 1, at most [`LONGEST_PAUSE`]).
    pub fn owe(&self, key: K, now: Instant) -> Result<(), u64> {
        let second = Duration::from_secs(1).as_nanos() / self.rate.interval.as_nanos().max(1);
        let second = u32::try_from(second).unwrap_or(u32::MAX).max(1);
        self.with_bucket(key, now, |bucket| {
            let taken = bucket.take(now, self.rate);
            taken.inspect_err(|_| bucket.owe_at_most(now, self.rate, second, LONGEST_PAUSE)).map_err(whole_seconds)
        })
    }

    fn with_bucket<T>(&self, key: K, now: Instant, work: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut table = self.lock();
        let table = &mut *table;
        let may_sweep = now.saturating_duration_since(table.swept_at) >= SWEEP_EVERY;
        if may_sweep && table.buckets.len() >= MAX_BUCKETS && !table.buckets.contains_key(&key) {
            table.swept_at = now;
            table.buckets.retain(|_, bucket| !bucket.is_full(now));
        }
        let bucket = if table.buckets.len() < MAX_BUCKETS || table.buckets.contains_key(&key) {
            table.buckets.entry(key).or_insert_with(|| Bucket::full(now))
        } else {
            &mut table.newcomers
        };
        work(bucket)
    }

    fn lock(&self) -> MutexGuard<'_, Table<K>> {
        self.table.lock()
    }
}

/// A wait as `Retry-After` tells it.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1000).max(1) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, interval: Duration::from_millis(100) };

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let buckets = Buckets::new(RATE);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(buckets.take("a", start), Ok(()));
        }
        assert_eq!(buckets.take("a", start), Err(1));
        assert_eq!(buckets.take("b", start), Ok(()), "another key is not concerned");
        assert_eq!(buckets.take("a", start + Duration::from_millis(101)), Ok(()));
        assert_eq!(buckets.take("a", start + Duration::from_millis(102)), Err(1));
    }

    #[test]
    fn each_failure_beyond_the_burst_makes_the_pause_longer_up_to_a_limit() {
        let failures = Buckets::new(RATE);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(failures.owe("a", start), Ok(()));
        }
        let pauses: Vec<_> = (0..400).map(|_| failures.owe("a", start).unwrap_err()).collect();
        assert_eq!(pauses[..4], [1, 2, 3, 4]);
        assert!(pauses.is_sorted());
        assert_eq!(pauses[399], LONGEST_PAUSE.as_secs());
        assert_eq!(failures.owe("b", start), Ok(()), "another address is not concerned");
        assert_eq!(failures.owe("a", start + Duration::from_secs(300)), Ok(()), "who waits is heard again");
    }

    #[test]
    fn a_crowd_of_keys_is_bounded_and_shares_one_bucket() {
        let buckets = Buckets::new(RATE);
        let now = Instant::now();
        for key in 0..MAX_BUCKETS {
            buckets.take(key, now).unwrap();
        }
        let passed = (MAX_BUCKETS..MAX_BUCKETS + 100).filter(|&key| buckets.take(key, now).is_ok()).count();
        assert_eq!(passed, 3);
        assert_eq!(buckets.lock().buckets.len(), MAX_BUCKETS);
        let later = now + Duration::from_secs(1);
        assert!((MAX_BUCKETS..MAX_BUCKETS + 100).all(|key| buckets.take(key, later).is_ok()), "idle ones made room");
    }
}
