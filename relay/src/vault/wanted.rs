//! Accounts that are wanted before they are claimed: a call has come for an account whose records still lie in the store.
//!
//! A Contact names its shard tag, and so does each record of its account. So the 16 bits in a call tell which records it waits for, without an index in the
//! store.
//!
//! Invariant: wanting an account costs a bit, however often and by whomever it is wanted. The store is never asked for a wanted account that is not there to be
//! claimed. So a stranger who invents Contacts changes the order of the work, and not its amount.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sip::id::ShardTag;

const WORDS: usize = (1 << 16) / 64;

/// The tags that are wanted.
pub(super) struct Wanted {
    bits: Box<[AtomicU64]>,
    /// Whether one of them may be set.
    any: AtomicBool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { bits: (0..WORDS).map(|_| AtomicU64::new(0)).collect(), any: AtomicBool::new(false) }
    }
}

impl Wanted {
    /// The records with this tag are wanted before others.
    pub(super) fn want(&self, tag: ShardTag) {
        self.bits[usize::from(tag.0) / 64].fetch_or(1 << (tag.0 % 64), Ordering::Relaxed);
        self.any.store(true, Ordering::Release);
    }

    /// All that are wanted, each once.
    pub(super) fn take(&self) -> Vec<ShardTag> {
        let mut tags = Vec::new();
        if !self.any.swap(false, Ordering::Acquire) {
            return tags;
        }
        for (place, word) in self.bits.iter().enumerate() {
            let mut bits = word.swap(0, Ordering::Relaxed);
            while bits != 0 {
                tags.push(ShardTag((place * 64) as u16 + bits.trailing_zeros() as u16));
                bits &= bits - 1;
            }
        }
        tags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_taken_once_however_often_it_was_wanted() {
        let wanted = Wanted::default();
        for tag in [0, 63, 64, 64, 1_000, u16::MAX, 0] {
            wanted.want(ShardTag(tag));
        }
        assert_eq!(wanted.take(), [0, 63, 64, 1_000, u16::MAX].map(ShardTag));
        assert_eq!(wanted.take(), []);
    }
}
