//! Devices that leave a challenge unanswered because it offers two algorithms.
//!
//! On one connection, a device that has left two algorithms unanswered is offered one when it registers again, and then two, in turn, so that a device that
//! knows SHA-256 alone is not shut out. Some clients (sofia-sip) do not register again until the next call wakes them, so the count outlives the connection. A
//! device that may have lost its network after its challenge is offered two once more.
//!
//! | its earlier connections | the next one is offered first |
//! | --- | --- |
//! | one was left with two | two |
//! | two were left with two | one |
//! | the last one was left with one | two |
//! | it answered one on the last one, not two | one |
//!
//! Invariant: at least the latest [`REMEMBERED`] of these devices are known, and at most twice as many. A device that answers two is forgotten.

use std::collections::HashMap;

use crate::id::InstanceId;

/// A device beyond these is offered two again.
const REMEMBERED: usize = 8_192;
/// The connections that a device has left with two, before it is offered one.
const ENOUGH: u8 = 2;

/// The challenges that a flow has offered a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum OfferedChallenges {
    /// None, or they were answered.
    #[default]
    None,
    Two,
    /// One, which may have been answered.
    One,
}

impl OfferedChallenges {
    /// The challenges in the answer to a REGISTER.
    pub(super) fn by(is_challenged: bool, with_one: bool) -> Self {
        match (is_challenged, with_one) {
            (false, _) => Self::None,
            (true, false) => Self::Two,
            (true, true) => Self::One,
        }
    }

    /// The flow has answered a further REGISTER. One stays what was offered: a refresh with the same nonce answers it again.
    pub(super) fn follow(&mut self, now: Self) {
        if (*self, now) != (Self::One, Self::None) {
            *self = now;
        }
    }
}

/// How many connections each device has left with two.
#[derive(Debug, Default)]
pub(super) struct LeftBoth {
    latest: HashMap<InstanceId, u8>,
    earlier: HashMap<InstanceId, u8>,
}

impl LeftBoth {
    /// Whether a device is offered one algorithm by a new connection.
    pub(super) fn wants_one(&self, instance: InstanceId) -> bool {
        self.count(instance) >= ENOUGH
    }

    /// A REGISTER is answered: with a challenge that offers one algorithm or two, or with a verdict, as it answers what its flow had `offered`.
    pub(super) fn note(&mut self, instance: InstanceId, offered: OfferedChallenges, now: OfferedChallenges) {
        match (now, offered) {
            (OfferedChallenges::Two, OfferedChallenges::None) => {
                self.set(instance, self.count(instance).saturating_add(1).min(ENOUGH));
            }
            (OfferedChallenges::One, OfferedChallenges::None) | (OfferedChallenges::Two, OfferedChallenges::One) => {
                self.set(instance, ENOUGH - 1);
            }
            (OfferedChallenges::One | OfferedChallenges::Two, _) => (),
            (OfferedChallenges::None, OfferedChallenges::One) => self.set(instance, ENOUGH),
            (OfferedChallenges::None, OfferedChallenges::Two) => self.forget(instance),
            // A proof with a challenge of before says nothing.
            (OfferedChallenges::None, OfferedChallenges::None) => (),
        }
    }

    /// A device has answered two, or is known no more.
    pub(super) fn forget(&mut self, instance: InstanceId) {
        self.latest.remove(&instance);
        self.earlier.remove(&instance);
    }

    fn count(&self, instance: InstanceId) -> u8 {
        self.latest.get(&instance).or_else(|| self.earlier.get(&instance)).copied().unwrap_or_default()
    }

    fn set(&mut self, instance: InstanceId, count: u8) {
        if self.latest.len() >= REMEMBERED && !self.latest.contains_key(&instance) {
            self.earlier = std::mem::take(&mut self.latest);
        }
        self.latest.insert(instance, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered_and_a_bound_holds() {
        let id = |number: usize| InstanceId::from_bytes((number as u128).to_be_bytes());
        let mut left = LeftBoth::default();
        let two =
            |left: &mut LeftBoth, number| left.note(id(number), OfferedChallenges::default(), OfferedChallenges::Two);
        for number in 0..3 * REMEMBERED {
            two(&mut left, number);
            two(&mut left, number);
            assert!(left.latest.len() + left.earlier.len() <= 2 * REMEMBERED);
            assert!(left.wants_one(id(number)) && left.wants_one(id(number.saturating_sub(REMEMBERED - 1))));
        }
        assert!(!left.wants_one(id(0)));
        let last = id(3 * REMEMBERED - 1);
        left.note(last, OfferedChallenges::None, OfferedChallenges::None);
        assert!(left.wants_one(last));
        left.note(last, OfferedChallenges::Two, OfferedChallenges::None);
        assert!(!left.wants_one(last));
    }
}
