//! The senders of the messages to a device, so that the many messages of one sender leave places for those of others.
//!
//! Invariant: of the [`MESSAGES_MAX`] places, the last quarter is reserved for senders that have sent less than a quarter of the latest messages. Senders are
//! known by a [`CallerKey`], those with withheld names too. A restart forgets this table.

use std::collections::VecDeque;

use sip::endpoint::CallerKey;

use crate::vault::items::MESSAGES_MAX;

/// The places that no sender of many takes.
const OF_OTHERS: usize = MESSAGES_MAX / 4;

/// The senders of the latest [`MESSAGES_MAX`] messages, oldest first, whatever became of these.
#[derive(Debug, Default)]
pub(crate) struct Senders(VecDeque<CallerKey>);

impl Senders {
    /// Notes one more message; how many may be kept at most for this one to be kept, too.
    pub(crate) fn note(&mut self, sender: CallerKey) -> usize {
        let of_sender = self.0.iter().filter(|of| **of == sender).count();
        if self.0.len() >= MESSAGES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(sender);
        if of_sender < OF_OTHERS { MESSAGES_MAX } else { MESSAGES_MAX - OF_OTHERS }
    }
}

#[cfg(test)]
mod tests {
    use sip::endpoint::CallerKeys;

    use super::*;

    /// The number of kept messages of each sender, of which there are so many in turn.
    fn kept(senders: &[(&str, usize)]) -> Vec<usize> {
        let (mut noted, keys, mut total) = (Senders::default(), CallerKeys::default(), 0);
        let mut keep = |(name, count): &(&str, usize)| {
            let before = total;
            for _ in 0..*count {
                total += usize::from(total < noted.note(keys.of(name)));
            }
            total - before
        };
        let all = senders.iter().map(&mut keep).collect();
        assert!(noted.0.len() <= MESSAGES_MAX);
        all
    }

    #[test]
    fn one_senders_many_leave_a_quarter_of_the_places_to_others() {
        assert_eq!(kept(&[("pest", 1_000), ("doctor", 3), ("pest", 1_000), ("friend", 30)]), [75, 3, 0, 22]);
        assert_eq!(kept(&[("chat", 75), ("other", 25), ("third", 1)]), [75, 25, 0]);
        assert_eq!(kept(&[("a", 30), ("b", 30), ("c", 30), ("d", 30)]), [30, 30, 25, 15]);
    }
}
