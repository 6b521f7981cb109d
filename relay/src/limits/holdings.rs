//! Counts of what each key holds, given back by being dropped. One thing may count for several keys: its node, its source, …
//!
//! Invariant: a key that holds nothing is forgotten; a count is given back once. Keys are hashes: no name lies
//! here.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Arc, MutexGuard};

use crate::lock::Mutex;

/// The counts of all keys; cheap to clone.
#[derive(Clone, Default)]
pub struct Holdings(Arc<Mutex<BTreeMap<NonZeroU64, u32>>>);

/// Keys that one thing counts for at most.
const KEYS_MAX: usize = 4;

/// A count against each of an instance's keys. There is one for each instance.
pub struct Holding {
    holdings: Holdings,
    keys: Box<[Option<NonZeroU64>; KEYS_MAX]>,
}

impl Holdings {
    /// Counts one more for each key, unless one of them holds its maximum already: the error is which.
    ///
    /// # Panics
    /// With more keys than [`KEYS_MAX`].
    pub fn take(&self, wanted: &[(u64, u32)]) -> Result<Holding, usize> {
        let mut counts = self.lock();
        let full = |(hash, max): &(u64, u32)| counts.get(&key(*hash)).is_some_and(|count| count >= max);
        if let Some(which) = wanted.iter().position(full) {
            return Err(which);
        }
        Ok(self.hold(&mut counts, wanted))
    }

    /// Counts one more for each key, whatever it holds.
    ///
    /// # Panics
    /// With more keys than [`KEYS_MAX`].
    pub fn count(&self, wanted: &[(u64, u32)]) -> Holding {
        self.hold(&mut self.lock(), wanted)
    }

    /// How many the key of this hash holds.
    pub fn held_by(&self, hash: u64) -> u32 {
        self.lock().get(&key(hash)).copied().unwrap_or(0)
    }

    fn hold(&self, counts: &mut BTreeMap<NonZeroU64, u32>, wanted: &[(u64, u32)]) -> Holding {
        let mut keys = [None; KEYS_MAX];
        for (at, (hash, _)) in wanted.iter().enumerate() {
            keys[at] = Some(key(*hash));
            *counts.entry(key(*hash)).or_default() += 1;
        }
        Holding { holdings: self.clone(), keys: Box::new(keys) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NonZeroU64, u32>> {
        self.0.lock()
    }
}

/// A hash as a key: one that is 0 counts with its neighbour.
fn key(hash: u64) -> NonZeroU64 {
    NonZeroU64::new(hash).unwrap_or(NonZeroU64::MIN)
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut counts = self.holdings.lock();
        for key in self.keys.iter().flatten() {
            if let Some(count) = counts.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_holds_so_many_and_gets_room_again() {
        let holdings = Holdings::default();
        let (node, alice, bob) = ((1, 5), (2, 3), (3, 3));
        let held: Vec<_> = (0..3).map(|_| holdings.take(&[node, alice]).ok().unwrap()).collect();
        assert_eq!(holdings.take(&[node, alice]).err(), Some(1), "hers are used up");
        let others: Vec<_> = (0..2).map(|_| holdings.take(&[node, bob]).ok().unwrap()).collect();
        assert_eq!(holdings.take(&[node, bob]).err(), Some(0), "those of all are used up");
        let beyond = holdings.count(&[node, alice]);
        drop(held);
        assert!(holdings.take(&[node, alice]).is_ok());
        drop((others, beyond));
        assert!(holdings.lock().is_empty(), "nothing is left of it");
    }
}
