//! A token bucket: a burst at once, and then one at each interval.
//!
//! A bucket is one moment, the one at which the next token would be due if none were taken early (the generic cell rate
//! algorithm): nothing refills it, and it costs sixteen bytes.
//!
//! Invariant: within any time at most its burst and one for each interval of it are granted.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The capacity and the fill rate of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The most tokens that are kept; 0 counts as 1.
    pub burst: u32,
    /// One token flows in each time; zero sets no limit.
    pub interval: Duration,
}

/// One bucket. Its owner keeps the [`Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    due: Instant,
}

impl Rate {
    /// A rate of so many in a second, at least one.
    pub fn per_second(tokens: u32, burst: u32) -> Self {
        Self { burst, interval: Duration::from_secs(1) / tokens.max(1) }
    }

    /// How much earlier than due a token may be taken.
    fn ahead(self) -> Duration {
        self.interval.saturating_mul(self.burst.max(1) - 1)
    }
}

impl Bucket {
    /// A full one.
    pub fn full(now: Instant) -> Self {
        Self { due: now }
    }

    /// Takes a token, or says how long it takes until there is one.
    pub fn take(&mut self, now: Instant, rate: Rate) -> Result<(), Duration> {
        let wait = self.when(now, rate, 1).saturating_duration_since(now);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.owe(now, rate, 1);
        Ok(())
    }

    /// Puts a token back that was taken and not used.
    pub fn give_back(&mut self, rate: Rate) {
        self.due = self.due.checked_sub(rate.interval).unwrap_or(self.due);
    }

    /// Takes tokens whether they are there or not: the next ones are due so much later.
    pub fn owe(&mut self, now: Instant, rate: Rate, tokens: u32) {
        self.due = self.due.max(now) + rate.interval.saturating_mul(tokens);
    }

    /// Likewise, but the next token comes within `longest`, unless it would have come later before.
    pub fn owe_at_most(&mut self, now: Instant, rate: Rate, tokens: u32, longest: Duration) {
        let deepest = (now + rate.ahead() + longest).max(self.due);
        self.owe(now, rate, tokens);
        self.due = self.due.min(deepest);
    }

    /// How many tokens there are.
    pub fn level(&self, now: Instant, rate: Rate) -> u32 {
        let early = self.due.saturating_duration_since(now).as_nanos();
        let used = early.div_ceil(rate.interval.as_nanos().max(1));
        rate.burst.max(1).saturating_sub(u32::try_from(used).unwrap_or(u32::MAX))
    }

    /// Whether nothing is missing: such a bucket need not be kept.
    pub fn is_full(&self, now: Instant) -> bool {
        self.due <= now
    }

    /// When the last of so many may be taken, if each is taken as soon as it is there; `tokens` is at least one.
    pub fn when(&self, now: Instant, rate: Rate, tokens: u32) -> Instant {
        let due = self.due.max(now) + rate.interval.saturating_mul(tokens.max(1) - 1);
        due.checked_sub(rate.ahead()).unwrap_or(now).max(now)
    }
}

/// The unit by which an address is counted: IPv4 by itself, IPv6 by its /64, IPv4-mapped IPv6 as IPv4.
pub fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, interval: Duration::from_millis(100) };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_burst_is_granted_at_once_and_then_one_at_each_interval() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        for left in [2, 1, 0] {
            assert_eq!(bucket.take(start, RATE), Ok(()));
            assert_eq!(bucket.level(start, RATE), left);
        }
        assert_eq!(bucket.take(start, RATE), Err(ms(100)));
        assert_eq!(bucket.take(start + ms(60), RATE), Err(ms(40)), "a part of an interval is not lost");
        assert_eq!(bucket.take(start + ms(100), RATE), Ok(()));
        assert_eq!(bucket.take(start + ms(100), RATE), Err(ms(100)));
        bucket.give_back(RATE);
        assert_eq!(bucket.take(start + ms(100), RATE), Ok(()), "it was not used");
        assert_eq!(bucket.take(start + ms(100), RATE), Err(ms(100)));
        assert!(!bucket.is_full(start + ms(399)) && bucket.is_full(start + ms(400)));
        let granted = (0..1000).filter(|n| bucket.take(start + ms(400 + n), RATE).is_ok()).count();
        assert_eq!(granted, 3 + 9);
    }

    #[test]
    fn what_is_owed_moves_the_next_one_back_and_no_further_than_the_longest_wait() {
        let start = Instant::now();
        let mut bucket = Bucket::full(start);
        assert_eq!(bucket.when(start, RATE, 3), start);
        assert_eq!(bucket.when(start, RATE, 5), start + ms(200));
        bucket.owe(start, RATE, 5);
        assert_eq!(bucket.when(start, RATE, 1), start + ms(300));
        assert_eq!(bucket.take(start, RATE), Err(ms(300)));
        for _ in 0..100 {
            bucket.owe_at_most(start, RATE, 10, ms(5000));
        }
        assert_eq!(bucket.take(start, RATE), Err(ms(5000)));
        assert_eq!(bucket.level(start, RATE), 0);
    }

    #[test]
    fn a_burst_of_0_is_one_of_1_and_an_interval_of_0_refuses_nobody() {
        let now = Instant::now();
        let none = Rate { burst: 0, interval: Duration::from_secs(1) };
        let mut bucket = Bucket::full(now);
        assert!(bucket.take(now, none).is_ok() && bucket.take(now, none).is_err(), "a burst of 0 is one of 1");
        let free = Rate { burst: 1, interval: Duration::ZERO };
        let mut bucket = Bucket::full(now);
        assert!((0..1000).all(|_| bucket.take(now, free).is_ok()));
    }

    #[test]
    fn neighbours_in_one_ipv6_network_count_as_one() {
        let counted = |text: &str| counted_as(text.parse().unwrap()).to_string();
        assert_eq!(counted("2001:db8:0:1::7"), counted("2001:db8:0:1:ffff::"));
        assert_ne!(counted("2001:db8:0:1::7"), counted("2001:db8:0:2::7"));
        assert_eq!(counted("::ffff:192.0.2.7"), "192.0.2.7");
    }
}
