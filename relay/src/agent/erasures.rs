//! Records that the store has yet to erase.
//!
//! | order of the erasures | |
//! | --- | --- |
//! | first | records whose receipts are awaited |
//! | then | records that a store has brought back |
//! | retries | take turns with new ones: one record, or one slot of a Cluster, that does not answer delays no other |
//!
//! Invariant: a record that is handed over is erased as soon as the store answers, however long that takes. After a crash the tombstone makes the next run
//! go on, and the record's TTL is the backstop. An instance is queued once, however often it is handed over. Its tombstone is marked as erased only when the
//! store has confirmed the erasure.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, MutexGuard, Weak};
use std::time::Duration;

use sip::id::InstanceId;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::agent::NodeNews;
use crate::clock;
use crate::lock::Mutex;
use crate::metrics::Metrics;
use crate::metrics::labels::StoreOperation;
use crate::vault::{Lookup, StoreError, Tombstone, Vault};

/// The pause after the store did not answer for one: twice as long each time that it does not for the next, either.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

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
    /// A requester waits for its receipt, or its end has not been reported to anybody.
    First,
    /// The record was erased before, and the store has it again.
    Again,
    /// The store has failed to erase it, where it was the [first](Self::First), or [again](Self::Again).
    FirstRetried,
    AgainRetried,
}

/// The turns that alternate, where there is no [first](Turn::First) one.
const IN_TURN: [Turn; 3] = [Turn::FirstRetried, Turn::Again, Turn::AgainRetried];

impl Turn {
    /// The turn of what the store has failed to erase in this one.
    fn after_failure(self) -> Self {
        match self {
            Self::First | Self::FirstRetried => Self::FirstRetried,
            Self::Again | Self::AgainRetried => Self::AgainRetried,
        }
    }

    /// Whether one that waits for this turn is to wait for that one in its place.
    fn gives_way_to(self, other: Self) -> bool {
        other == Self::First && matches!(self, Self::Again | Self::AgainRetried)
    }
}

/// The erasures that wait.
#[derive(Default)]
struct Queue {
    /// Each with its lookup where that is known, and its turn.
    waiting: HashMap<InstanceId, (Option<Lookup>, Turn)>,
    /// By turn, in the order in which they came; one whose turn was moved up stands in both.
    by_turn: [VecDeque<InstanceId>; 4],
    /// The next one of [`IN_TURN`].
    next: usize,
    is_under_way: bool,
}

impl Queue {
    fn add(&mut self, id: InstanceId, lookup: Option<Lookup>, turn: Turn) {
        match self.waiting.entry(id) {
            Entry::Occupied(waiting) => {
                let (known, before) = waiting.into_mut();
                *known = known.or(lookup);
                if !before.gives_way_to(turn) {
                    return;
                }
                *before = turn;
            }
            Entry::Vacant(place) => drop(place.insert((lookup, turn))),
        }
        self.by_turn[turn as usize].push_back(id);
    }

    fn take(&mut self) -> Option<(InstanceId, Option<Lookup>, Turn)> {
        self.is_under_way = false;
        if let Some(first) = self.take_of(Turn::First) {
            return Some(first);
        }
        for _ in IN_TURN {
            let turn = IN_TURN[self.next];
            self.next = (self.next + 1) % IN_TURN.len();
            if let Some(next) = self.take_of(turn) {
                return Some(next);
            }
        }
        None
    }

    fn take_of(&mut self, turn: Turn) -> Option<(InstanceId, Option<Lookup>, Turn)> {
        while let Some(id) = self.by_turn[turn as usize].pop_front() {
            if self.waiting.get(&id).is_some_and(|(_, its)| *its == turn)
                && let Some((lookup, turn)) = self.waiting.remove(&id)
            {
                self.is_under_way = true;
                return Some((id, lookup, turn));
            }
        }
        None
    }

    fn count(&self) -> usize {
        self.waiting.len() + usize::from(self.is_under_way)
    }
}

impl Erasures {
    /// Starts the task that erases, with what an earlier run has left; it ends with the last clone.
    pub(crate) fn start(vault: Vault, metrics: Metrics, node_news: mpsc::UnboundedSender<NodeNews>) -> Self {
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
        tokio::spawn(erase_all(orders, count, it.vault.clone(), metrics, node_news));
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
        self.queue.lock()
    }
}

async fn erase_all(
    orders: Weak<Orders>,
    mut count: watch::Receiver<usize>,
    vault: Vault,
    metrics: Metrics,
    node_news: mpsc::UnboundedSender<NodeNews>,
) {
    let mut pause = PAUSE_MIN;
    while let Some(next) = orders.upgrade().map(|orders| orders.take()) {
        let Some((id, lookup, turn)) = next else {
            // An error means that nobody can hand over any more.
            if count.wait_for(|count| *count > 0).await.is_err() {
                return;
            }
            continue;
        };
        match erase(&vault, &metrics, id, lookup).await {
            Answer::Erased => {
                pause = PAUSE_MIN;
                continue;
            }
            Answer::Left => {
                // An error means that the relay ends.
                let _ = node_news.send(NodeNews::Left { id, is_noted: false });
                pause = PAUSE_MIN;
                continue;
            }
            Answer::Away => {}
        }
        if let Some(orders) = orders.upgrade() {
            orders.add(id, lookup, turn.after_failure());
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// The store's answer about a record that it was to erase.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing is left.
    Erased,
    /// This node has ended it by itself, and another one goes on with it.
    Left,
    /// The store did not say.
    Away,
}

/// Asks the store once.
pub(crate) async fn erase(vault: &Vault, metrics: &Metrics, id: InstanceId, lookup: Option<Lookup>) -> Answer {
    let tombstones = vault.tombstones();
    loop {
        let began = clock::now();
        let erased = match tombstones.fence_of(id) {
            Some(fence) => vault.erase_own(id, lookup, fence).await,
            None => vault.erase_all_of(id, lookup).await.map(|_| true),
        };
        match erased {
            Ok(true) => {
                metrics.store_answered(began.elapsed());
                tombstones.note_erased(id);
                return Answer::Erased;
            }
            // A request may have ended it meanwhile: then it is erased, whichever node has it.
            Ok(false) if tombstones.leave(id) => {
                metrics.store_answered(began.elapsed());
                tracing::info!(event = "end-left", instance = %id, "this node had ended what another one has by now, which goes on with it");
                return Answer::Left;
            }
            Ok(false) => {}
            Err(error) => {
                metrics.store_error(StoreOperation::Erase);
                if !matches!(error, StoreError::Away(_)) {
                    tracing::error!(event = "erasure-refused", instance = %id, %error, "the store did not erase a record; it is asked again");
                }
                return Answer::Away;
            }
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
        assert_eq!((queue.count(), queue.by_turn[Turn::Again as usize].len()), (3, 3));
        for _ in 0..3_000 {
            queue.add(id(2), None, Turn::First);
        }
        assert_eq!((queue.count(), queue.by_turn[Turn::First as usize].len()), (3, 1));
        let taken: Vec<_> = std::iter::from_fn(|| queue.take()).map(|(id, ..)| id).collect();
        assert_eq!((taken, queue.count()), (vec![id(2), id(0), id(1)], 0));
        // Handed over again after it has failed.
        for turn in [Turn::FirstRetried, Turn::First, Turn::Again] {
            queue.add(id(3), None, turn);
        }
        assert_eq!(queue.take(), Some((id(3), None, Turn::FirstRetried)));
        assert_eq!((queue.take(), queue.count()), (None, 0));
    }

    #[test]
    fn what_somebody_waits_for_comes_before_what_is_erased_again() {
        let mut queue = Queue::default();
        (0..1_000).for_each(|number| queue.add(id(number), None, Turn::Again));
        queue.add(id(5_000), None, Turn::First);
        assert_eq!(queue.take().map(|(id, ..)| id), Some(id(5_000)));
        // The store did not answer.
        queue.add(id(5_000), None, Turn::First.after_failure());
        queue.add(id(5_001), None, Turn::First);
        assert_eq!(queue.take().map(|(id, ..)| id), Some(id(5_001)));
        assert_eq!(queue.take().map(|(id, ..)| id), Some(id(5_000)));
        assert_eq!(queue.count(), 1_001, "the one that is under way counts");
        assert_eq!(queue.take().map(|(id, ..)| id), Some(id(0)));
    }

    #[test]
    fn what_the_store_does_not_erase_keeps_nothing_else_waiting() {
        let fails = |id: InstanceId| (0..40).any(|number| id == self::id(number));
        for failing in [Turn::First, Turn::Again] {
            let mut queue = Queue::default();
            (0..40).for_each(|number| queue.add(id(number), None, failing));
            (1_000..1_100).for_each(|number| queue.add(id(number), None, Turn::Again));
            let (mut erased, mut tried) = (0, 0);
            while erased < 100 && tried < 1_000 {
                let (id, lookup, turn) = queue.take().unwrap();
                tried += 1;
                if fails(id) {
                    queue.add(id, lookup, turn.after_failure());
                } else {
                    erased += 1;
                }
            }
            assert!(erased == 100 && tried <= 40 + 3 * 100, "{failing:?}: {erased} of {tried}");
            let rest: std::collections::BTreeSet<_> = (0..40).map(|_| queue.take().unwrap().0).collect();
            assert_eq!((rest.len(), queue.take()), (40, None), "each of them has its turn again");
        }
    }
}
