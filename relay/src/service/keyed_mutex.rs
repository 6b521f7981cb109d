//! One at a time for each key.
//!
//! Invariant: a key that nobody holds or waits for takes no memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// KeyedMutex for keys of one kind.
pub(super) struct KeyedMutex<K>(Mutex<HashMap<K, Waiting>>);

struct Waiting {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Tasks that hold it or wait for it.
    count: usize,
}

/// One key, locked until this is dropped.
pub(super) struct KeyedGuard<'a, K: Eq + Hash + Copy> {
    mutex: &'a KeyedMutex<K>,
    key: K,
    held: Option<OwnedMutexGuard<()>>,
}

impl<K> Default for KeyedMutex<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Copy> KeyedMutex<K> {
    /// Locks `key`, when nobody else has.
    pub(super) async fn lock_key(&self, key: K) -> KeyedGuard<'_, K> {
        let turn = {
            let mut waiting = self.lock();
            let entry = waiting.entry(key).or_insert_with(|| Waiting { turn: Arc::default(), count: 0 });
            entry.count += 1;
            entry.turn.clone()
        };
        // Made before the wait, so that a wait that is given up is counted back.
        let mut mine = KeyedGuard { mutex: self, key, held: None };
        mine.held = Some(turn.lock_owned().await);
        mine
    }

    // Each change under the lock is one step.
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash + Copy> Drop for KeyedGuard<'_, K> {
    fn drop(&mut self) {
        let mut waiting = self.mutex.lock();
        self.held = None;
        if let Some(entry) = waiting.get_mut(&self.key) {
            entry.count -= 1;
            if entry.count == 0 {
                waiting.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_of_one_key_waits_and_another_key_does_not() {
        let mutex = KeyedMutex::default();
        let first = mutex.lock_key(1).await;
        let other = mutex.lock_key(2).await;
        let mut second = Box::pin(mutex.lock_key(1));
        let waits = futures_poll(&mut second).await;
        assert!(waits.is_none());
        drop((first, other));
        drop(second.await);
        assert!(mutex.lock().is_empty());
    }

    /// Polls once.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|context| match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(value) => std::task::Poll::Ready(Some(value)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}
