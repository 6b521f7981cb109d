//! Limits on the pushes that a device, a caller and an app may cause.
//!
//! | counted | for | at the limit |
//! | --- | --- | --- |
//! | pushes of a device | a minute | alerts are left out from half of it on; calls at the whole of it: 480 |
//! | calls of one caller at a device | a minute | 480 |
//! | pushes of an app | a day | alerts are left out from nine tenths on; calls at the whole of it: 480 |
//!
//! That a call has ended is told to each device that was pushed for it, however little budget is left: it counts, and is never left out, or the phone
//! would ring on. Likewise that a lease ends, and that a registration is lost or back; but these count for the device alone where the app has no more
//! than its last tenth, which is the calls': a SIP server that comes and goes causes any number of them.
//!
//! Invariant: calls are the last to be refused, and other pushes take nothing of the last tenth of an app's day but the ends of calls; a refused
//! push takes from no other budget. One shard has one of these, and
//! its share of an app's day, so that nothing is shared between cores; a key that has caused nothing lately is not kept.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use sip::bucket::{Bucket, Rate};
use sip::endpoint::CallerKey;
use sip::id::InstanceId;

use crate::config;
use crate::metrics::labels::Limit;

/// Rows of a table at which those are dropped that miss nothing.
const SWEEP_AT: usize = 4_096;

/// The budgets of one shard.
pub struct PushBudgets {
    devices: Table<InstanceId>,
    callers: Table<(InstanceId, CallerKey)>,
    apps: Table<Box<str>>,
}

impl PushBudgets {
    /// The budgets of one of so many shards.
    pub fn new(limits: &config::Limits, shards: usize) -> Self {
        let a_minute = |pushes| rate(pushes, Duration::from_secs(60));
        let share = limits.pushes_per_app.div_ceil(u32::try_from(shards.max(1)).unwrap_or(u32::MAX));
        Self {
            devices: Table::new(a_minute(limits.pushes_per_device)),
            callers: Table::new(a_minute(limits.pushes_per_caller)),
            apps: Table::new(rate(share, Duration::from_secs(86_400))),
        }
    }

    /// Takes the push of a call, or names the limit that it meets.
    pub fn take_call(&mut self, now: Instant, app: &str, device: InstanceId, caller: CallerKey) -> Result<(), Limit> {
        let caller = (device, caller);
        for (level, limit) in [
            (self.devices.level(now, &device), Limit::PushesDevice),
            (self.callers.level(now, &caller), Limit::PushesCaller),
            (self.apps.level(now, app), Limit::PushesApp),
        ] {
            if level == 0 {
                return Err(limit);
            }
        }
        self.callers.take(now, &caller, || caller);
        self.take(now, app, device);
        Ok(())
    }

    /// Takes any other push, or names the limit that it meets.
    pub fn take_alert(&mut self, now: Instant, app: &str, device: InstanceId) -> Result<(), Limit> {
        if self.devices.level(now, &device) <= self.devices.rate.burst / 2 {
            return Err(Limit::PushesDevice);
        }
        if self.only_calls_are_left(now, app) {
            return Err(Limit::PushesApp);
        }
        self.take(now, app, device);
        Ok(())
    }

    /// Takes the push of a call's end, of which there is at most one for each push of a call; a shortfall is owed.
    pub fn take_end(&mut self, now: Instant, app: &str, device: InstanceId) {
        self.take(now, app, device);
    }

    /// Takes a notice about a lease or a registration; a shortfall is owed by the device, and nothing by the app.
    pub fn take_notice(&mut self, now: Instant, app: &str, device: InstanceId) {
        if self.only_calls_are_left(now, app) {
            self.devices.take(now, &device, || device);
        } else {
            self.take(now, app, device);
        }
    }

    /// Whether what is left of the app's day is for calls.
    fn only_calls_are_left(&self, now: Instant, app: &str) -> bool {
        self.apps.level(now, app) <= self.apps.rate.burst / 10
    }

    fn take(&mut self, now: Instant, app: &str, device: InstanceId) {
        self.devices.take(now, &device, || device);
        self.apps.take(now, app, || app.into());
    }
}

fn rate(pushes: u32, within: Duration) -> Rate {
    Rate { burst: pushes, interval: within / pushes.max(1) }
}

struct Table<K> {
    rate: Rate,
    rows: HashMap<K, Bucket>,
    sweep_at: usize,
}

impl<K: Hash + Eq> Table<K> {
    fn new(rate: Rate) -> Self {
        Self { rate, rows: HashMap::new(), sweep_at: SWEEP_AT }
    }

    fn level<Q: Hash + Eq + ?Sized>(&self, now: Instant, key: &Q) -> u32
    where
        K: std::borrow::Borrow<Q>,
    {
        self.rows.get(key).map_or(self.rate.burst, |bucket| bucket.level(now, self.rate))
    }

    fn take<Q: Hash + Eq + ?Sized>(&mut self, now: Instant, key: &Q, owned: impl FnOnce() -> K)
    where
        K: std::borrow::Borrow<Q>,
    {
        if let Some(bucket) = self.rows.get_mut(key) {
            return bucket.owe(now, self.rate, 1);
        }
        if self.rows.len() >= self.sweep_at {
            self.rows.retain(|_, bucket| !bucket.is_full(now));
            self.sweep_at = SWEEP_AT.max(self.rows.len() * 2);
        }
        let mut bucket = Bucket::full(now);
        bucket.owe(now, self.rate, 1);
        self.rows.insert(owned(), bucket);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use sip::endpoint::CallerKeys;
    use sip::id::ShardTag;

    use super::*;
    use crate::config::Config;

    fn by(caller: &str) -> CallerKey {
        static KEYS: LazyLock<CallerKeys> = LazyLock::new(CallerKeys::default);
        KEYS.of(caller)
    }

    fn budgets(device: u32, caller: u32, app: u32) -> PushBudgets {
        let mut limits = Config::development().expect("it is right").limits;
        (limits.pushes_per_device, limits.pushes_per_caller, limits.pushes_per_app) = (device, caller, app);
        PushBudgets::new(&limits, 1)
    }

    fn device(number: u128) -> InstanceId {
        InstanceId::new(number << 20, ShardTag(1))
    }

    fn how_many(mut take: impl FnMut() -> Result<(), Limit>) -> (u32, Limit) {
        for count in 0..1_000_000 {
            if let Err(limit) = take() {
                return (count, limit);
            }
        }
        panic!("no limit was met");
    }

    #[test]
    fn alerts_are_refused_at_half_of_a_devices_budget_and_calls_at_the_whole() {
        let (mut budgets, now) = (budgets(60, 60, 1_000_000), Instant::now());
        assert_eq!(how_many(|| budgets.take_alert(now, "a", device(1))), (30, Limit::PushesDevice));
        assert_eq!(how_many(|| budgets.take_call(now, "a", device(1), by("bob"))), (30, Limit::PushesDevice));
        assert!(budgets.take_call(now, "a", device(2), by("bob")).is_ok(), "another device is another matter");
        assert!(budgets.take_call(now + Duration::from_secs(1), "a", device(1), by("bob")).is_ok(), "one each second");
    }

    #[test]
    fn one_caller_takes_no_more_than_its_part_of_a_device() {
        let (mut budgets, now) = (budgets(60, 20, 1_000_000), Instant::now());
        assert_eq!(how_many(|| budgets.take_call(now, "a", device(1), by("bob"))), (20, Limit::PushesCaller));
        assert_eq!(how_many(|| budgets.take_call(now, "a", device(1), by("carol"))), (20, Limit::PushesCaller));
        assert!(budgets.take_call(now, "a", device(2), by("bob")).is_ok());
    }

    #[test]
    fn of_an_apps_day_the_last_tenth_is_for_calls() {
        let (mut budgets, now) = (budgets(60, 60, 1_000), Instant::now());
        let mut number = 0;
        let mut next = || {
            number += 1;
            device(number)
        };
        assert_eq!(how_many(|| budgets.take_alert(now, "a", next())), (900, Limit::PushesApp));
        assert_eq!(how_many(|| budgets.take_call(now, "a", next(), by("bob"))), (100, Limit::PushesApp));
        assert!(budgets.take_alert(now, "b", next()).is_ok(), "another app is another matter");
        assert!(budgets.take_call(now + Duration::from_secs(87), "a", next(), by("bob")).is_ok(), "the day goes on");
    }

    #[test]
    fn what_tells_of_leases_and_registrations_leaves_calls_the_last_tenth_however_much_of_it_there_is() {
        let (mut budgets, now) = (budgets(60, 60, 1_000), Instant::now());
        for number in 0..2_000 {
            budgets.take_notice(now, "a", device(number));
        }
        assert_eq!(budgets.take_alert(now, "a", device(2_000)), Err(Limit::PushesApp));
        let mut number = 3_000;
        let mut next = || {
            number += 1;
            device(number)
        };
        assert_eq!(how_many(|| budgets.take_call(now, "a", next(), by("bob"))), (100, Limit::PushesApp));
        budgets.take_notice(now, "a", device(1));
        assert!(budgets.take_call(now + Duration::from_secs(87), "a", next(), by("bob")).is_ok(), "nothing is owed");
        // Notices count for their device.
        (0..60).for_each(|_| budgets.take_notice(now, "b", device(1)));
        assert_eq!(budgets.take_call(now, "b", device(1), by("bob")), Err(Limit::PushesDevice));
    }

    #[test]
    fn who_has_caused_nothing_lately_is_not_kept() {
        let (mut budgets, mut now) = (budgets(60, 60, u32::MAX), Instant::now());
        for number in 0..100_000 {
            now += Duration::from_millis(10);
            assert!(budgets.take_call(now, "a", device(number), by("bob")).is_ok());
        }
        assert!(budgets.devices.rows.len() <= SWEEP_AT && budgets.callers.rows.len() <= SWEEP_AT);
    }

    #[test]
    fn the_end_of_a_call_is_never_left_out_and_counts() {
        let (mut budgets, now) = (budgets(10, 10, 1_000), Instant::now());
        for _ in 0..5 {
            budgets.take_call(now, "app", device(1), by("sip:bob@example.com")).expect("it has room");
            budgets.take_end(now, "app", device(1));
        }
        assert_eq!(budgets.take_alert(now, "app", device(1)), Err(Limit::PushesDevice));
        assert_eq!(budgets.take_call(now, "app", device(1), by("sip:carol@example.com")), Err(Limit::PushesDevice));
        budgets.take_end(now, "app", device(1));
        assert_eq!(budgets.take_call(now, "app", device(2), by("sip:bob@example.com")), Ok(()), "nobody else's");
    }
}
