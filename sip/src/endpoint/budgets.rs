//! Limits on what a device may be sent and may begin, and the share of each caller and of each sender of MESSAGEs.
//!
//! | of one device | at once, then | a further one |
//! | --- | --- | --- |
//! | calls | [`CALLS`] | 480 |
//! | of these, by one caller | [`CALLS_OF_CALLER`] | 480 |
//! | of these, that wake it; and pushes for other requests | [`WAKES`] | 480, unpushed |
//! | refused calls that are told to the shell | [`TOLD`], of one caller [`TOLD_OF_CALLER`] | refused all the same |
//! | MESSAGEs, attached or not | [`MESSAGES`] | 480 |
//! | of these, by one sender | [`MESSAGES_OF_SENDER`] | 480 |
//! | NOTIFYs | [`NOTIFIES`] | 480 |
//! | what it begins: calls; SUBSCRIBE and PUBLISH; the rest | [`BEGUN_CALLS`], [`SUBSCRIPTIONS`], [`BEGUN`] | 503 |
//! | emergency calls that it begins | [`EMERGENCIES`] | counts as any other call that it begins |
//!
//! The last quarter of a device's budget is for callers that have not called it within [`AGAIN`], and for senders that have not written to it: a few who come
//! again and again keep nobody out. A MESSAGE costs no push here: whether one tells of it, the shell decides.
//! Requests that a device begins are counted for its address only beyond a part of its own, so that a neighbour takes that from nobody.
//!
//! Invariant: what is refused takes from no budget. Callers are known by a [`CallerKey`] alone, for [`AGAIN`] and until their shares are full
//! again, at most as long as the device: those of one are no more than its own budgets grant meanwhile. Rows that miss nothing are dropped when
//! there are [`SWEEP_AT`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::bucket::{Bucket, Rate};
use crate::edge::caller_key::{CallerKey, CallerKeys};
use crate::id::InstanceId;
use crate::message::Method;

const CALLS: Rate = Rate { burst: 100, interval: Duration::from_millis(100) };
const CALLS_OF_CALLER: Rate = Rate { burst: 20, interval: Duration::from_secs(1) };
const WAKES: Rate = Rate { burst: 40, interval: Duration::from_millis(500) };
const TOLD: Rate = Rate { burst: 20, interval: Duration::from_secs(1) };
const TOLD_OF_CALLER: Rate = Rate { burst: 5, interval: Duration::from_secs(10) };
/// The store holds no more than a hundred for a device, and an attached one takes what a chat brings.
const MESSAGES: Rate = Rate { burst: 200, interval: Duration::from_millis(100) };
const MESSAGES_OF_SENDER: Rate = Rate { burst: 100, interval: Duration::from_millis(500) };
const NOTIFIES: Rate = Rate { burst: 20, interval: Duration::from_secs(1) };

const BEGUN_CALLS: Begun = Begun {
    all: Rate { burst: 30, interval: Duration::from_secs(1) },
    own: Rate { burst: 10, interval: Duration::from_secs(6) },
};
/// A desk phone watches a few hundred others when it starts, and is challenged for each: all that is its own affair, not its neighbours'.
const SUBSCRIPTIONS: Begun = Begun {
    all: Rate { burst: 600, interval: Duration::from_millis(200) },
    own: Rate { burst: 600, interval: Duration::from_secs(6) },
};
const BEGUN: Begun = Begun {
    all: Rate { burst: 30, interval: Duration::from_secs(1) },
    own: Rate { burst: 10, interval: Duration::from_secs(6) },
};
/// Each comes twice where it is challenged.
const EMERGENCIES: Rate = Rate { burst: 16, interval: Duration::from_secs(1) };

/// How long a caller has called, and a sender written, lately.
const AGAIN: Duration = Duration::from_secs(30);
/// Rows of callers at which those are dropped that miss nothing.
const SWEEP_AT: usize = 4_096;

/// The rates at which a device may begin requests of one kind.
#[derive(Clone, Copy)]
struct Begun {
    all: Rate,
    /// The part of them that its address is not charged for.
    own: Rate,
}

/// The remaining budgets for requests to one device.
#[derive(Debug)]
pub(super) struct Budgets {
    calls: Bucket,
    wakes: Bucket,
    told: Bucket,
    messages: Bucket,
    notifies: Bucket,
    /// `None`: the device has begun nothing.
    begun: Option<Box<BegunBudgets>>,
}

/// The remaining budgets for requests that a device begins.
#[derive(Debug)]
struct BegunBudgets {
    calls: BegunBudget,
    subscriptions: BegunBudget,
    rest: BegunBudget,
    emergencies: Bucket,
}

/// The remaining budget for requests of one kind that a device begins.
#[derive(Clone, Copy, Debug)]
struct BegunBudget {
    all: Bucket,
    own: Bucket,
}

/// The shares of callers at devices.
#[derive(Debug)]
pub(super) struct Callers {
    keys: CallerKeys,
    rows: BTreeMap<(InstanceId, CallerKey), Caller>,
    sweep_at: usize,
}

/// The remaining shares of one caller at a device.
#[derive(Clone, Copy, Debug)]
struct Caller {
    calls: Share,
    messages: Share,
    told: Bucket,
}

/// The remaining share of what a caller may send of one kind.
#[derive(Clone, Copy, Debug)]
struct Share {
    left: Bucket,
    /// When it sent last.
    taken: Option<Instant>,
}

impl Budgets {
    pub(super) fn full(now: Instant) -> Self {
        let full = Bucket::full(now);
        Self { calls: full, wakes: full, told: full, messages: full, notifies: full, begun: None }
    }

    /// Takes one call by this caller; whether there was one.
    pub(super) fn take_call(
        &mut self,
        now: Instant,
        callers: &mut Callers,
        instance: InstanceId,
        caller: CallerKey,
        wakes: bool,
    ) -> bool {
        let share = callers.of(now, instance, caller);
        let calls_again = share.calls.is_again(now);
        let granted = share.calls.left.level(now, CALLS_OF_CALLER) > 0
            && has(&self.calls, now, CALLS, calls_again)
            && (!wakes || has(&self.wakes, now, WAKES, calls_again));
        if granted {
            callers.change(now, instance, caller, |share| share.calls.take(now, CALLS_OF_CALLER));
            self.calls.owe(now, CALLS, 1);
            if wakes {
                self.wakes.owe(now, WAKES, 1);
            }
        }
        granted
    }

    /// Takes one push that is for no new call; whether there was one.
    pub(super) fn take_wake(&mut self, now: Instant) -> bool {
        self.wakes.take(now, WAKES).is_ok()
    }

    /// Takes one refused call that is told; whether there was one.
    pub(super) fn take_told(
        &mut self,
        now: Instant,
        callers: &mut Callers,
        instance: InstanceId,
        caller: CallerKey,
    ) -> bool {
        let share = callers.of(now, instance, caller);
        let granted = share.told.level(now, TOLD_OF_CALLER) > 0 && has(&self.told, now, TOLD, !share.told.is_full(now));
        if granted {
            callers.change(now, instance, caller, |share| share.told.owe(now, TOLD_OF_CALLER, 1));
            self.told.owe(now, TOLD, 1);
        }
        granted
    }

    /// Takes one MESSAGE by this sender; whether there was one.
    pub(super) fn take_message(
        &mut self,
        now: Instant,
        senders: &mut Callers,
        instance: InstanceId,
        sender: CallerKey,
    ) -> bool {
        let share = senders.of(now, instance, sender).messages;
        let granted =
            share.left.level(now, MESSAGES_OF_SENDER) > 0 && has(&self.messages, now, MESSAGES, share.is_again(now));
        if granted {
            senders.change(now, instance, sender, |share| share.messages.take(now, MESSAGES_OF_SENDER));
            self.messages.owe(now, MESSAGES, 1);
        }
        granted
    }

    pub(super) fn take_notify(&mut self, now: Instant) -> bool {
        self.notifies.take(now, NOTIFIES).is_ok()
    }

    /// Takes one request that the device begins; whether there was one. `address`: whether its address bears what is beyond the device's own
    /// part.
    pub(super) fn take_begun(&mut self, now: Instant, method: Method, address: impl FnOnce() -> bool) -> bool {
        let begun = self.begun(now);
        let (budget, rate) = match method {
            Method::Invite => (&mut begun.calls, BEGUN_CALLS),
            Method::Subscribe | Method::Publish => (&mut begun.subscriptions, SUBSCRIPTIONS),
            _ => (&mut begun.rest, BEGUN),
        };
        let granted = budget.all.level(now, rate.all) > 0 && (budget.own.take(now, rate.own).is_ok() || address());
        if granted {
            budget.all.owe(now, rate.all, 1);
        }
        granted
    }

    /// Takes one emergency call that the device begins; whether there was one.
    pub(super) fn take_emergency(&mut self, now: Instant) -> bool {
        self.begun(now).emergencies.take(now, EMERGENCIES).is_ok()
    }

    fn begun(&mut self, now: Instant) -> &mut BegunBudgets {
        let emergencies = Bucket::full(now);
        let full = BegunBudget { all: emergencies, own: emergencies };
        let new = || BegunBudgets { calls: full, subscriptions: full, rest: full, emergencies };
        self.begun.get_or_insert_with(|| Box::new(new()))
    }
}

/// Whether a bucket has a token for a caller; the last quarter is for those that do not come `again`.
fn has(bucket: &Bucket, now: Instant, rate: Rate, again: bool) -> bool {
    bucket.level(now, rate) > if again { rate.burst / 4 } else { 0 }
}

impl Default for Callers {
    fn default() -> Self {
        Self { keys: CallerKeys::default(), rows: BTreeMap::new(), sweep_at: SWEEP_AT }
    }
}

impl Callers {
    /// The key by which a caller with this address is counted.
    pub(super) fn key(&self, caller: &str) -> CallerKey {
        self.keys.of(caller)
    }

    /// A device is known no more: nor are those who have called it.
    pub(super) fn forget(&mut self, instance: InstanceId) {
        self.take(instance);
    }

    /// Moves the shares of a device's callers to the device that takes its place.
    pub(super) fn succeed(&mut self, earlier: InstanceId, successor: InstanceId) {
        for (caller, share) in self.take(earlier) {
            self.rows.entry((successor, caller)).or_insert(share);
        }
    }

    fn take(&mut self, instance: InstanceId) -> Vec<(CallerKey, Caller)> {
        let (first, last) = CallerKey::ALL;
        let theirs = self.rows.extract_if((instance, first)..=(instance, last), |_, _| true);
        theirs.map(|((_, caller), share)| (caller, share)).collect()
    }

    fn of(&self, now: Instant, instance: InstanceId, caller: CallerKey) -> Caller {
        self.rows.get(&(instance, caller)).copied().unwrap_or_else(|| Caller::full(now))
    }

    fn change(&mut self, now: Instant, instance: InstanceId, caller: CallerKey, change: impl FnOnce(&mut Caller)) {
        if self.rows.len() >= self.sweep_at {
            self.rows.retain(|_, share| !share.misses_nothing(now));
            self.sweep_at = SWEEP_AT.max(self.rows.len() * 2);
        }
        change(self.rows.entry((instance, caller)).or_insert_with(|| Caller::full(now)));
    }
}

impl Caller {
    fn full(now: Instant) -> Self {
        let full = Share { left: Bucket::full(now), taken: None };
        Self { calls: full, messages: full, told: full.left }
    }

    fn misses_nothing(&self, now: Instant) -> bool {
        self.calls.misses_nothing(now) && self.messages.misses_nothing(now) && self.told.is_full(now)
    }
}

impl Share {
    fn take(&mut self, now: Instant, rate: Rate) {
        self.left.owe(now, rate, 1);
        self.taken = Some(now);
    }

    fn is_again(&self, now: Instant) -> bool {
        self.taken.is_some_and(|at| now < at + AGAIN)
    }

    fn misses_nothing(&self, now: Instant) -> bool {
        self.left.is_full(now) && !self.is_again(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardTag;

    struct Device {
        budgets: Budgets,
        callers: Callers,
        instance: InstanceId,
    }

    impl Device {
        fn new(now: Instant) -> Self {
            let instance = InstanceId::new(1 << 32, ShardTag(0));
            Self { budgets: Budgets::full(now), callers: Callers::default(), instance }
        }

        fn call(&mut self, now: Instant, caller: &str, wakes: bool) -> bool {
            let caller = self.callers.key(caller);
            self.budgets.take_call(now, &mut self.callers, self.instance, caller, wakes)
        }

        fn message(&mut self, now: Instant, sender: &str) -> bool {
            let sender = self.callers.key(sender);
            self.budgets.take_message(now, &mut self.callers, self.instance, sender)
        }

        fn tell(&mut self, now: Instant, caller: &str) -> bool {
            let caller = self.callers.key(caller);
            self.budgets.take_told(now, &mut self.callers, self.instance, caller)
        }
    }

    #[test]
    fn callers_who_call_again_and_again_keep_nobody_from_a_device() {
        for (strangers, wakes) in [(1, true), (2, true), (7, true), (1, false), (7, false)] {
            let start = Instant::now();
            let mut device = Device::new(start);
            let (mut granted, mut friends) = (0, 0);
            for step in 0..600_u64 {
                let now = start + Duration::from_millis(step * 100);
                granted += (0..strangers).filter(|n| device.call(now, &format!("stranger{n}"), wakes)).count();
                friends += usize::from(step % 50 == 49 && device.call(now, &format!("friend{step}"), wakes));
            }
            assert_eq!(friends, 12, "{strangers} strangers");
            // In a minute: the burst, and what flows in.
            let most = if wakes { 40 + 120 } else { 100 + 600 };
            assert!(granted + friends <= most.min(strangers * 80 + 12), "{granted} by {strangers}");
        }
    }

    #[test]
    fn what_is_refused_takes_from_no_budget() {
        let now = Instant::now();
        let mut device = Device::new(now);
        assert_eq!((0..1_000).filter(|_| device.call(now, "stranger", true)).count(), 20);
        assert_eq!((0..1_000).filter(|n| device.call(now, &format!("{n}"), true)).count(), 20);
        assert!(!device.budgets.take_wake(now), "a device is woken so often at most, whoever calls");
        assert_eq!((0..1_000).filter(|n| device.call(now, &format!("{n}"), false)).count(), 60, "and rings on");
    }

    #[test]
    fn senders_who_write_again_and_again_keep_nobody_from_a_device() {
        for pests in [1, 5, 50] {
            let start = Instant::now();
            let mut device = Device::new(start);
            let (mut granted, mut doctors) = (0, 0);
            for step in 0..600_u64 {
                let now = start + Duration::from_millis(step * 100);
                granted += (0..pests).filter(|n| device.message(now, &format!("pest{n}"))).count();
                doctors += usize::from(step % 50 == 49 && device.message(now, &format!("doctor{step}")));
            }
            assert_eq!(doctors, 12, "{pests} pests");
            // In a minute: the bursts, and what flows in.
            assert!(granted + doctors <= (200 + 600).min(pests * 220 + 12), "{granted} by {pests}");
        }
        let now = Instant::now();
        let mut device = Device::new(now);
        assert_eq!((0..1_000).filter(|_| device.message(now, "chat")).count(), 100);
        assert_eq!((0..1_000).filter(|n| device.message(now, &format!("{n}"))).count(), 100);
        assert!(device.call(now, "chat", true), "texts take nothing from calls");
    }

    #[test]
    fn of_one_caller_few_refused_calls_are_told_and_of_another_the_first() {
        let now = Instant::now();
        let mut device = Device::new(now);
        assert_eq!((0..1_000).filter(|_| device.tell(now, "stranger")).count(), 5);
        assert!(device.tell(now, "friend"));
        assert_eq!((0..1_000).filter(|n| device.tell(now, &format!("{n}"))).count(), 14, "of all so many");
        let later = now + Duration::from_secs(15);
        assert_eq!((device.tell(later, "stranger"), device.tell(later, "stranger")), (true, false));
    }

    #[test]
    fn callers_who_miss_nothing_are_not_kept() {
        let start = Instant::now();
        let mut device = Device::new(start);
        for number in 0..100_000_u64 {
            let now = start + Duration::from_millis(number * 100);
            assert!(device.call(now, &format!("{number}"), false));
        }
        assert!(device.callers.rows.len() <= SWEEP_AT);
    }

    #[test]
    fn with_a_device_go_the_rows_of_those_who_have_called_it_and_no_others() {
        let now = Instant::now();
        let (mut gone, mut other) = (Device::new(now), InstanceId::new(2 << 32, ShardTag(0)));
        for caller in ["one", "two"] {
            assert!(gone.call(now, caller, false));
            std::mem::swap(&mut gone.instance, &mut other);
            assert!(gone.call(now, caller, false));
            std::mem::swap(&mut gone.instance, &mut other);
        }
        gone.callers.forget(gone.instance);
        let left: Vec<_> = gone.callers.rows.keys().map(|(instance, _)| *instance).collect();
        assert_eq!(left, [other; 2]);
    }

    #[test]
    fn what_a_device_begins_of_one_kind_takes_nothing_from_another_and_the_first_of_it_nothing_from_its_address() {
        let now = Instant::now();
        let mut budgets = Budgets::full(now);
        let mut begin = |method: Method, at: Duration| {
            let mut charged = 0;
            let mut bears = || {
                charged += 1;
                true
            };
            let granted = (0..1_000).take_while(|_| budgets.take_begun(now + at, method, &mut bears)).count();
            (granted, granted - charged)
        };
        assert_eq!(begin(Method::Subscribe, Duration::ZERO), (600, 600));
        assert_eq!(begin(Method::Publish, Duration::ZERO), (0, 0));
        assert_eq!(begin(Method::Options, Duration::ZERO), (30, 10));
        assert_eq!(begin(Method::Invite, Duration::ZERO), (30, 10));
        assert_eq!(begin(Method::Invite, Duration::from_secs(12)), (12, 2));
    }

    #[test]
    fn what_its_address_refuses_takes_nothing_from_a_device() {
        let now = Instant::now();
        let mut budgets = Budgets::full(now);
        let mut begin = |bears: bool| (0..1_000).filter(|_| budgets.take_begun(now, Method::Invite, || bears)).count();
        assert_eq!((begin(false), begin(true)), (10, 20));
    }
}
