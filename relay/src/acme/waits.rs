//! How long to wait between two orders, by what is left of the certificate in use.
//!
//! | after | the wait |
//! | --- | --- |
//! | a failure | longer each time, at most an eighth of what is left; where nothing is left, as long as after the first one |
//! | a refusal by the CA | likewise, from five first waits on, and where little is left twenty of them: CAs count refused orders (Let's Encrypt takes five in an hour) |
//! | an order that was issued | ten times the first wait, whatever the certificate says: a clock that is wrong orders no certificate each second |
//!
//! Each is up to a quarter more or less, and at a bound up to a tenth less than that: those of many nodes are not all at once, however long a CA is away.
//!
//! Invariant: no wait takes more than an eighth of what is left, except where that is less than the shortest one. The CA refuses five orders in any
//! hour at most, with a first wait of a minute, besides those that an operator asks for.

use std::time::Duration;

/// The longest wait after a failure.
const LONGEST: Duration = Duration::from_secs(12 * 3_600);
/// A wait takes no more than this part of what is left.
const PART_OF_LEFT: u32 = 8;
/// After refusals the longest wait is at least this many first ones, whatever is left.
const REFUSED: u32 = 20;
/// And the first one as many.
const FIRST_REFUSED: u32 = 5;
/// How many first waits an issued certificate is left alone, or this part of its life.
const CALM: u32 = 10;
const CALM_PART: u32 = 6;
/// No wait need be shorter than this part of a certificate's life.
const SHORTEST_PART: u32 = 12;
/// The largest factor of a wait: a quarter more.
const LONGEST_SHARE: f64 = 1.25;
/// How much of that is taken off a bound: up to a tenth of it, where a wait may be shorter by a quarter.
const OFF_BOUND: f64 = 0.2;
const SECOND: Duration = Duration::from_secs(1);

/// The facts that decide the waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// The wait after a first failure.
    pub first: Duration,
    /// How long the certificate in use is valid in all; zero: there is none.
    pub life: Duration,
    /// How long it is valid still.
    pub left: Duration,
}

impl Waits {
    /// After one failure more than `failures`; `is_refused`: by the CA. `share`, from 0.75 to [`LONGEST_SHARE`], of a wait is taken where its bounds allow.
    pub fn after_failure(self, failures: u32, is_refused: bool, share: f64) -> Duration {
        let shortest = match self.life {
            Duration::ZERO => self.first,
            life => self.first.min((life / SHORTEST_PART).max(SECOND)),
        };
        let (first, least) =
            if is_refused { (self.first * FIRST_REFUSED, self.first * REFUSED) } else { (self.first, shortest) };
        let most = (self.left / PART_OF_LEFT).max(least).min(LONGEST);
        let bound = most.mul_f64(1.0 - (LONGEST_SHARE - share).max(0.0) * OFF_BOUND);
        first.saturating_mul(1 << failures.min(16)).mul_f64(share).min(bound)
    }

    /// After an order that was issued.
    pub fn after_issue(self) -> Duration {
        (self.first * CALM).min((self.life / CALM_PART).max(SECOND))
    }

    /// After the last attempt, before one that an operator asks for.
    pub fn before_asked(self) -> Duration {
        self.first / 6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;

    fn waits(life: u64, left: u64) -> Waits {
        let s = Duration::from_secs;
        Waits { first: s(MINUTE), life: s(life), left: s(left) }
    }

    /// How long after the failures began the certificate is ordered that a CA issues again after so long: the waits as long as they may be.
    fn issued_after(life: u64, left: u64, away: u64, is_refused: bool) -> u64 {
        let (mut at, mut failures) = (0, 0);
        while at < away {
            let wait = waits(life, left.saturating_sub(at)).after_failure(failures, is_refused, LONGEST_SHARE);
            assert!(is_refused || at >= left || wait.as_secs() <= ((left - at) / 8).max(MINUTE), "{wait:?}");
            at += wait.as_secs();
            failures += 1;
        }
        at
    }

    #[test]
    fn a_ca_that_is_back_before_the_end_is_asked_before_the_end() {
        for (life, left, away) in [
            (DAY, 8 * HOUR, 5 * HOUR),
            (DAY, 8 * HOUR, 7 * HOUR),
            (6 * DAY, 2 * DAY, 40 * HOUR),
            (90 * DAY, 30 * DAY, 29 * DAY),
            (HOUR, 20 * MINUTE, 15 * MINUTE),
        ] {
            assert!(issued_after(life, left, away, false) < left, "{life} {left} {away}");
        }
        assert!(issued_after(6 * DAY, 2 * DAY, 40 * HOUR, true) < 2 * DAY);
    }

    #[test]
    fn waits_grow_to_half_a_day_while_much_is_left_and_stay_short_where_nothing_is() {
        let times = |life, left, is_refused| {
            let wait = |failures| waits(life, left).after_failure(failures, is_refused, LONGEST_SHARE);
            [0, 1, 3, 5, 9, 40].map(|failures| wait(failures).as_secs() / MINUTE)
        };
        assert_eq!(times(90 * DAY, 30 * DAY, false), [1, 2, 10, 40, 640, 720]);
        assert_eq!(times(90 * DAY, 30 * DAY, true), [6, 12, 50, 200, 720, 720]);
        assert_eq!(times(0, 0, false), [1, 1, 1, 1, 1, 1]);
        assert_eq!(times(90 * DAY, 0, false), [1, 1, 1, 1, 1, 1]);
        assert_eq!(times(0, 0, true), [6, 12, 20, 20, 20, 20]);
    }

    #[test]
    fn at_their_bounds_the_waits_of_many_nodes_still_differ() {
        for (left, is_refused) in [(0, false), (0, true), (8 * HOUR, false), (30 * DAY, false), (30 * DAY, true)] {
            let [short, middle, long] = [0.75, 1.0, LONGEST_SHARE]
                .map(|share| waits(90 * DAY, left).after_failure(40, is_refused, share).as_secs_f64());
            let off = |wait: f64| (1.0 - wait / long) * 100.0;
            assert_eq!([off(short), off(middle)].map(f64::round), [10.0, 5.0], "{left} {is_refused}");
        }
    }

    #[test]
    fn a_ca_refuses_five_orders_in_any_hour_at_most_where_nothing_is_left() {
        for share in [0.75, 1.0, 1.25] {
            let waits: Vec<_> =
                (0..40).map(|failures| waits(0, 0).after_failure(failures, true, share).as_secs()).collect();
            assert!(waits.windows(5).all(|waits| waits.iter().sum::<u64>() >= HOUR), "{share} {waits:?}");
        }
    }

    #[test]
    fn the_calm_after_an_issue_is_over_before_the_next_one_is_due() {
        for (life, calm) in [(90 * DAY, 10 * MINUTE), (DAY, 10 * MINUTE), (90, 15), (3, 1), (0, 1)] {
            assert_eq!(waits(life, life).after_issue().as_secs(), calm, "{life}");
        }
    }
}
