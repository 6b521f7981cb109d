//! A share for each key of something that many want at once.
//!
//! Invariant: of one key at most so many hold a share; the others wait in the order in which they came. A key that nobody
//! holds or waits for is forgotten.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::lock::Mutex;

/// Keys that are remembered before those that are over are looked for.
const SPARE: usize = 64;

/// The shares of all keys.
pub struct Shares<K> {
    each: usize,
    table: Mutex<Table<K>>,
}

struct Table<K> {
    rows: BTreeMap<K, Weak<Semaphore>>,
    /// How many rows there may be before those that are over go.
    sweep_at: usize,
}

/// A share that is held; given back when dropped.
pub struct Share {
    _permit: Option<OwnedSemaphorePermit>,
}

impl<K: Ord> Shares<K> {
    /// `each`: how many of one key at once, at least one.
    pub fn new(each: usize) -> Self {
        Self { each: each.max(1), table: Mutex::new(Table { rows: BTreeMap::new(), sweep_at: SPARE }) }
    }

    /// Waits for a share.
    pub async fn take(&self, key: K) -> Share {
        let semaphore = self.semaphore(key);
        // The semaphore is never closed.
        Share { _permit: semaphore.acquire_owned().await.ok() }
    }

    /// A share, if one is free.
    pub fn try_take(&self, key: K) -> Option<Share> {
        self.semaphore(key).try_acquire_owned().ok().map(|permit| Share { _permit: Some(permit) })
    }

    /// The share of the first of these keys that has one free; else waits for one of the first. There is one key at least.
    pub async fn take_any(&self, keys: Vec<K>) -> Option<Share>
    where
        K: Clone,
    {
        let free = keys.iter().find_map(|key| self.semaphore(key.clone()).try_acquire_owned().ok());
        match (free, keys.into_iter().next()) {
            (Some(permit), _) => Some(Share { _permit: Some(permit) }),
            (None, Some(first)) => Some(self.take(first).await),
            (None, None) => None,
        }
    }

    /// The share of the first of these keys that has one free.
    pub fn try_take_any(&self, keys: &[K]) -> Option<Share>
    where
        K: Clone,
    {
        keys.iter().find_map(|key| self.try_take(key.clone()))
    }

    fn semaphore(&self, key: K) -> Arc<Semaphore> {
        let mut table = self.lock();
        if table.rows.len() >= table.sweep_at {
            table.rows.retain(|_, semaphore| semaphore.strong_count() > 0);
            table.sweep_at = table.rows.len() * 2 + SPARE;
        }
        if let Some(known) = table.rows.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let fresh = Arc::new(Semaphore::new(self.each));
        table.rows.insert(key, Arc::downgrade(&fresh));
        fresh
    }

    fn lock(&self) -> MutexGuard<'_, Table<K>> {
        self.table.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn one_key_takes_nothing_from_another_and_leaves_nothing() {
        let shares = Shares::new(2);
        let held = [shares.take("a").await, shares.take("a").await];
        let soon = Duration::from_millis(20);
        assert!(timeout(soon, shares.take("a")).await.is_err());
        assert!(timeout(soon, shares.take("b")).await.is_ok());
        assert!(shares.try_take("a").is_none() && shares.try_take("b").is_some());
        assert!(timeout(soon, shares.take_any(vec!["a", "b"])).await.is_ok_and(|share| share.is_some()));
        assert!(timeout(soon, shares.take_any(vec!["a"])).await.is_err());
        drop(held);
        assert!(timeout(soon, shares.take("a")).await.is_ok());
        let keys: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        for key in &keys {
            drop(shares.take(key.as_str()).await);
        }
        assert!(shares.lock().rows.len() <= SPARE + 1);
    }
}
