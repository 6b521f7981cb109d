//! What the store still has to erase.
//!
//! Invariant: what is handed over is erased as soon as the store answers, however long that takes; a wipe's tombstone has the
//! next run go on with it, and the record's own TTL is the backstop. An instance waits once, however often it is handed over, and one whose
//! receipt is still to come before any that the store has again. Its tombstone says that a record is erased when the store has said so, and not before.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use sip::id::InstanceId;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::metrics::Metrics;
use crate::metrics::labels::StoreOperation;
use crate::vault::{Lookup, StoreError, Tombstone, Vault};

/// The pause after the store did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// Takes erasures over; cheap to clone.
#[derive(Clone)]
pub(crate) struct Erasures {
    orders: Arc<Orders>,
    vault: Vault,
}

struct Orders {
    queue: Mutex<Queue>,
    /// How many wait, or are under way.
    count: watch::Sender<usize>,
}

/// When an erasure has its turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    /// Somebody waits for its receipt, or nobody has been told anything of it.
    First,
    /// It was erased before, and the store has it again.
    Again,
}

/// The erasures that wait.
#[derive(Default)]
struct Queue {
    /// Each with its lookup where that is known, and its turn.
    waiting: HashMap<InstanceId, (Option<Lookup>, Turn)>,
    /// In the order in which they came; one whose turn was moved up stands in both.
    first: VecDeque<InstanceId>,
    again: VecDeque<InstanceId>,
    is_under_way: bool,
}

impl Queue {
    fn add(&mut self, id: InstanceId, lookup: Option<Lookup>, turn: Turn) {
        match self.waiting.entry(id) {
            Entry::Occupied(waiting) => {
                let (known, before) = waiting.into_mut();
                *known = known.or(lookup);
                if turn == *before || turn == Turn::Again {
                    return;
                }
                *before = turn;
            }
            Entry::Vacant(place) => drop(place.insert((lookup, turn))),
        }
        match turn {
            Turn::First => self.first.push_back(id),
            Turn::Again => self.again.push_back(id),
        }
    }

    fn take(&mut self) -> Option<(InstanceId, Option<Lookup>, Turn)> {
        self.is_under_way = false;
        loop {
            let (id, turn) = match self.first.pop_front() {
                Some(id) => (id, Turn::First),
                None => (self.again.pop_front()?, Turn::Again),
            };
            if self.waiting.get(&id).is_some_and(|(_, its)| *its == turn)
                && let Some((lookup, turn)) = self.waiting.remove(&id)
            {
                self.is_under_way = true;
                return Some((id, lookup, turn));
            }
        }
    }

    fn count(&self) -> usize {
        self.waiting.len() + usize::from(self.is_under_way)
    }
}

impl Erasures {
    /// Starts the task that erases, with what an earlier run has left; it ends with the last clone.
    pub(crate) fn start(vault: Vault, metrics: Metrics) -> Self {
        let orders = Orders { queue: Mutex::default(), count: watch::Sender::new(0) };
        let it = Self { orders: Arc::new(orders), vault };
        let left = it.vault.tombstones().pending();
        if !left.is_empty() {
            tracing::info!(event = "wipes-resumed", wipes = left.len(), "wipes of an earlier run are gone on with");
        }
        for (id, lookup) in left {
            it.later(id, lookup);
        }
        let (orders, count) = (Arc::downgrade(&it.orders), it.orders.count.subscribe());
        tokio::spawn(erase_all(orders, count, it.vault.clone(), metrics));
        it
    }

    /// Erases this instance, in its turn.
    pub(crate) fn later(&self, id: InstanceId, lookup: Option<Lookup>) {
        let is_again = |tombstone: &Tombstone| tombstone.wiped_at.is_some();
        let turn =
            if self.vault.tombstones().look(id).as_ref().is_some_and(is_again) { Turn::Again } else { Turn::First };
        self.orders.add(id, lookup, turn);
    }

    /// Waits until nothing waits any more, at most `limit`; how many are left.
    pub(crate) async fn flush(&self, limit: Duration) -> usize {
        let mut count = self.orders.count.subscribe();
        // Neither error says more than the number that is left.
        let _ = timeout(limit, count.wait_for(|count| *count == 0)).await;
        *self.orders.count.borrow()
    }
}

impl Orders {
    fn add(&self, id: InstanceId, lookup: Option<Lookup>, turn: Turn) {
        let mut queue = self.queue();
        queue.add(id, lookup, turn);
        self.count.send_replace(queue.count());
    }

    fn take(&self) -> Option<(InstanceId, Option<Lookup>, Turn)> {
        let mut queue = self.queue();
        let next = queue.take();
        self.count.send_replace(queue.count());
        next
    }

    // A panic while the lock was held leaves at worst an instance out whose tombstone the next run goes by.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn erase_all(orders: Weak<Orders>, mut count: watch::Receiver<usize>, vault: Vault, metrics: Metrics) {
    while let Some(next) = orders.upgrade().map(|orders| orders.take()) {
        let Some((id, lookup, turn)) = next else {
            // An error means that nobody can hand over any more.
            if count.wait_for(|count| *count > 0).await.is_err() {
                return;
            }
            continue;
        };
        if !erase(&vault, &metrics, id, lookup).await {
            // One that the store does not understand must not keep the others waiting.
            if let Some(orders) = orders.upgrade() {
                orders.add(id, lookup, turn);
            }
            sleep(PAUSE).await;
        }
    }
}

/// Asks the store once; `false` when it did not say that nothing is left.
pub(crate) async fn erase(vault: &Vault, metrics: &Metrics, id: InstanceId, lookup: Option<Lookup>) -> bool {
    let began = clock::now();
    match vault.erase_all_of(id, lookup).await {
        Ok(_) => {
            metrics.store_answered(began.elapsed());
            vault.tombstones().note_erased(id);
            true
        }
        Err(error) => {
            metrics.store_error(StoreOperation::Erase);
            if !matches!(error, StoreError::Away(_)) {
                tracing::error!(event = "erasure-refused", instance = %id, %error, "the store did not erase a record; it is asked again");
            }
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    fn id(number: u128) -> InstanceId {
        InstanceId::new(number << 16, ShardTag(0))
    }

    #[test]
    fn an_instance_waits_once_however_often_it_is_handed_over() {
        let mut queue = Queue::default();
        for number in 0..3_000 {
            queue.add(id(number % 3), None, Turn::Again);
        }
        assert_eq!((queue.count(), queue.again.len()), (3, 3));
        for _ in 0..3_000 {
            queue.add(id(2), None, Turn::First);
        }
        assert_eq!((queue.count(), queue.first.len()), (3, 1));
        let taken: Vec<_> = std::iter::from_fn(|| queue.take()).map(|(id, ..)| id).collect();
        assert_eq!((taken, queue.count()), (vec![id(2), id(0), id(1)], 0));
    }

    #[test]
    fn what_somebody_waits_for_comes_before_what_is_erased_again() {
        let mut queue = Queue::default();
        (0..1_000).for_each(|number| queue.add(id(number), None, Turn::Again));
        queue.add(id(5_000), None, Turn::First);
        assert_eq!(queue.take().map(|(id, ..)| id), Some(id(5_000)));
        // The store did not answer.
        queue.add(id(5_000), None, Turn::First);
        assert_eq!(queue.take().map(|(id, ..)| id), Some(id(5_000)));
        assert_eq!(queue.count(), 1_001, "the one that is under way counts");
        assert_eq!(queue.take().map(|(id, ..)| id), Some(id(0)));
    }
}
