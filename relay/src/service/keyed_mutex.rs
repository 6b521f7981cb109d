//! A mutex for each key. The holder of a key can learn that another task waits for it.
//!
//! Invariant: a key that nobody holds or waits for takes no memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, MutexGuard};

use tokio::sync::{Notify, OwnedMutexGuard};

use crate::lock::Mutex;

/// KeyedMutex for keys of one kind.
pub(super) struct KeyedMutex<K>(Mutex<HashMap<K, Waiting>>);

struct Waiting {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// Told whenever one more waits.
    joined: Arc<Notify>,
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
            let entry = waiting.entry(key).or_insert_with(|| Waiting {
                turn: Arc::default(),
                joined: Arc::default(),
                count: 0,
            });
            entry.count += 1;
            entry.joined.notify_waiters();
            entry.turn.clone()
        };
        // Made before the wait, so that a wait that is given up is counted back.
        let mut mine = KeyedGuard { mutex: self, key, held: None };
        mine.held = Some(turn.lock_owned().await);
        mine
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Waiting>> {
        self.0.lock()
    }
}

impl<K: Eq + Hash + Copy> KeyedGuard<'_, K> {
    /// Waits until somebody else waits for the key.
    pub(super) async fn wanted(&self) {
        loop {
            let joined = {
                let waiting = self.mutex.lock();
                let Some(entry) = waiting.get(&self.key).filter(|entry| entry.count == 1) else { return };
                // Made under the lock: nobody joins unnoticed between.
                entry.joined.clone().notified_owned()
            };
            joined.await;
        }
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

    #[tokio::test]
    async fn whoever_holds_a_key_learns_that_another_one_waits_for_it() {
        let mutex = KeyedMutex::default();
        let first = mutex.lock_key(1).await;
        let mut wanted = Box::pin(first.wanted());
        let _other = mutex.lock_key(2).await;
        assert!(futures_poll(&mut wanted).await.is_none());
        let mut second = Box::pin(mutex.lock_key(1));
        assert!(futures_poll(&mut second).await.is_none());
        assert!(
            futures_poll(&mut wanted).await.is_some() && futures_poll(&mut Box::pin(first.wanted())).await.is_some()
        );
        drop(second);
        assert!(futures_poll(&mut Box::pin(first.wanted())).await.is_none(), "it has given up");
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
