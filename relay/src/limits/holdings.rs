//! How much each key holds, given back by being dropped. One thing may count for several keys: its node, its source, …
//!
//! Invariant: a key that holds nothing is forgotten; what was counted once is given back once. Keys are hashes: no name lies
//! here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The counts of all keys; cheap to clone.
#[derive(Clone, Default)]
pub struct Holdings(Arc<Mutex<BTreeMap<u64, u32>>>);

/// What is held of each of its keys.
pub struct Holding {
    holdings: Holdings,
    keys: Box<[u64]>,
}

impl Holdings {
    /// One more for each key, unless one of them holds its maximum already: the error is which.
    pub fn take(&self, wanted: &[(u64, u32)]) -> Result<Holding, usize> {
        let mut counts = self.lock();
        let full = |(key, max): &(u64, u32)| counts.get(key).is_some_and(|count| count >= max);
        if let Some(which) = wanted.iter().position(full) {
            return Err(which);
        }
        for (key, _) in wanted {
            *counts.entry(*key).or_default() += 1;
        }
        drop(counts);
        Ok(Holding { holdings: self.clone(), keys: wanted.iter().map(|(key, _)| *key).collect() })
    }

    /// One more for each key, whatever it holds.
    pub fn count(&self, wanted: &[(u64, u32)]) -> Holding {
        let keys: Box<[u64]> = wanted.iter().map(|(key, _)| *key).collect();
        let mut counts = self.lock();
        for key in &keys {
            *counts.entry(*key).or_default() += 1;
        }
        drop(counts);
        Holding { holdings: self.clone(), keys }
    }

    // A panic while the lock was held leaves a whole table behind: each change is one statement.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut counts = self.holdings.lock();
        for key in &self.keys {
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
