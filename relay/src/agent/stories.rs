//! The stories of calls that are over. The store keeps them; this node remembers their numbers, not their content.
//!
//! ```text
//! shard ── keep ──► a queue ──► the store, sealed, beside the record ──► [`Recent`]: call, instance, App, how it ended
//! ```
//!
//! Stories that an earlier run or another node kept are not known at first: [`Stories::recall`] reads them, a few instances at a time.
//!
//! Invariant: only the one writing task waits for the store. A story for which the queue has no room is counted as lost. Once a write has been tried, memory
//! holds nothing of a caller in the clear. A story that the store refuses delays no other. A story is forgotten, here and in the store, a day after its call
//! and at once with its instance; the TTL is the backstop.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use futures_util::future::join_all;
use sip::id::{CallId, InstanceId};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::clock::advertised_now;
use crate::domain::story::{Story, StoryOutcome};
use crate::lock::Mutex;
use crate::metrics::Metrics;
use crate::metrics::labels::MissedCallOutcome;
use crate::vault::items::{STORY_LIFE_S, SealedItem};
use crate::vault::{StoreError, Vault};

/// Stories that wait to be written, and as many that the store has not taken yet; a further one is lost.
const QUEUE: usize = 8 * 1024;
/// Stories that are known to a node; with a further one the oldest is known no longer, and stays in the store for its day.
pub(crate) const RECENT_MAX: usize = 50_000;
/// Stories that are written at once.
const WRITTEN_AT_ONCE: usize = 128;
/// Stories gather for so long.
const GATHER: Duration = Duration::from_millis(50);
/// The pause after the store did not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// Instances that are read anew between two pauses.
const RECALL_BATCH: usize = 64;
/// The pause between two batches: a restart is no storm.
const RECALL_PAUSE: Duration = Duration::from_millis(20);
/// How often it is looked for what is old.
const FORGET_EVERY: Duration = Duration::from_secs(60);

/// A kept story, without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentCall {
    /// When the INVITE came, in milliseconds since 1970.
    pub at_ms: u64,
    /// The call.
    pub call: CallId,
    /// The instance.
    pub instance: InstanceId,
    /// Its App.
    pub app: Arc<str>,
    /// How it ended.
    pub outcome: StoryOutcome,
}

impl RecentCall {
    /// A call whose story goes on.
    pub fn of(story: &Story) -> Self {
        let Story { at_ms, call, instance, .. } = *story;
        Self { at_ms, call, instance, app: story.app.as_ref().into(), outcome: story.outcome() }
    }
}

type Key = (u64, CallId, InstanceId);

/// The stories that a node knows to be kept.
#[derive(Default)]
struct Recent {
    calls: BTreeMap<Key, (Arc<str>, StoryOutcome)>,
    by_instance: BTreeSet<(InstanceId, u64, CallId)>,
    apps: BTreeSet<Arc<str>>,
    /// When the latest call began that is known no longer for want of room, in milliseconds since 1970.
    crowded_out_ms: u64,
}

/// The stories of one node; cheap to clone.
#[derive(Clone)]
pub struct Stories {
    keep: mpsc::Sender<Box<Story>>,
    recall: mpsc::UnboundedSender<InstanceId>,
    recent: Arc<Mutex<Recent>>,
    /// Instances that are still to be read.
    unread: Arc<AtomicUsize>,
    metrics: Metrics,
}

impl Stories {
    /// Starts the tasks that write and read, which end with the runtime.
    pub(crate) fn start(vault: Vault, metrics: Metrics) -> Self {
        let (keep, kept) = mpsc::channel(QUEUE);
        let (recall, recalled) = mpsc::unbounded_channel();
        let it = Self { keep, recall, recent: Arc::default(), unread: Arc::default(), metrics: metrics.clone() };
        tokio::spawn(write(kept, it.recent.clone(), vault.clone(), metrics));
        tokio::spawn(read(recalled, it.recent.clone(), it.unread.clone(), vault));
        it
    }

    /// Keeps a story, once the store takes it.
    pub(crate) fn keep(&self, story: Story) {
        if self.keep.try_send(Box::new(story)).is_err() {
            self.metrics.call_story(MissedCallOutcome::Lost);
        }
    }

    /// An instance has come here that may have stories of an earlier run.
    pub(crate) fn recall(&self, instance: InstanceId) {
        self.unread.fetch_add(1, Ordering::Relaxed);
        if self.recall.send(instance).is_err() {
            self.unread.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Forgets what is known of an instance; the store erases its stories with the record.
    pub(crate) fn forget(&self, instance: InstanceId) {
        lock(&self.recent).forget(instance);
    }

    /// How many instances are still to be read.
    pub fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    /// Whether none that began since this moment (milliseconds since 1970), and within a day, is known no longer for want of room.
    pub fn knows_all_since(&self, since_ms: u64) -> bool {
        let kept_since_ms = advertised_now().saturating_sub(STORY_LIFE_S).saturating_mul(1_000);
        lock(&self.recent).crowded_out_ms < since_ms.max(kept_since_ms)
    }

    /// At most `limit` calls that `is` one asked for, newest first.
    pub fn recent(&self, limit: usize, is: impl Fn(&RecentCall) -> bool) -> Vec<RecentCall> {
        let recent = lock(&self.recent);
        let all = recent.calls.iter().rev().map(|(&(at_ms, call, instance), (app, outcome))| RecentCall {
            at_ms,
            call,
            instance,
            app: app.clone(),
            outcome: *outcome,
        });
        all.filter(is).take(limit).collect()
    }
}

fn lock(recent: &Mutex<Recent>) -> MutexGuard<'_, Recent> {
    // Each change leaves both indexes whole, or one that names what the other does not know: then nothing is told of it.
    recent.lock()
}

impl Recent {
    fn insert(&mut self, new: &RecentCall) {
        let app = match self.apps.get(&*new.app) {
            Some(app) => app.clone(),
            None => {
                self.apps.insert(new.app.clone());
                new.app.clone()
            }
        };
        self.calls.insert((new.at_ms, new.call, new.instance), (app, new.outcome));
        self.by_instance.insert((new.instance, new.at_ms, new.call));
        while self.calls.len() > RECENT_MAX
            && let Some((&(at_ms, call, instance), _)) = self.calls.first_key_value()
        {
            self.remove(at_ms, call, instance);
            self.crowded_out_ms = self.crowded_out_ms.max(at_ms);
        }
    }

    fn remove(&mut self, at_ms: u64, call: CallId, instance: InstanceId) {
        self.calls.remove(&(at_ms, call, instance));
        self.by_instance.remove(&(instance, at_ms, call));
    }

    fn forget(&mut self, instance: InstanceId) {
        let (first, last) = (CallId::from_bytes([0; 16]), CallId::from_bytes([0xff; 16]));
        let range = (instance, 0, first)..=(instance, u64::MAX, last);
        for (instance, at_ms, call) in self.by_instance.range(range).copied().collect::<Vec<_>>() {
            self.remove(at_ms, call, instance);
        }
    }

    /// Takes out what began before this time, in milliseconds since 1970.
    fn take_old(&mut self, before_ms: u64) -> Vec<(InstanceId, CallId)> {
        let mut old = Vec::new();
        while let Some((&(at_ms, call, instance), _)) = self.calls.first_key_value()
            && at_ms <= before_ms
        {
            self.remove(at_ms, call, instance);
            old.push((instance, call));
        }
        old
    }
}

/// Writes what is kept, and erases what is old.
async fn write(mut kept: mpsc::Receiver<Box<Story>>, recent: Arc<Mutex<Recent>>, vault: Vault, metrics: Metrics) {
    let mut ticks = interval(FORGET_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::with_capacity(WRITTEN_AT_ONCE);
    let (mut later, mut is_over) = (Later::default(), false);
    while !(is_over && later.is_empty()) {
        tokio::select! {
            count = kept.recv_many(&mut batch, WRITTEN_AT_ONCE), if !is_over && later.takes_more() => is_over = count == 0,
            () = sleep_until(later.due_at()), if !later.is_empty() => {}
            _ = ticks.tick() => {
                let before_ms = advertised_now().saturating_sub(STORY_LIFE_S).saturating_mul(1_000);
                let old = lock(&recent).take_old(before_ms);
                for some in old.chunks(WRITTEN_AT_ONCE) {
                    // Stories that a store that is away still holds end by their TTL.
                    drop(join_all(some.iter().map(|(instance, call)| vault.remove_story(*instance, *call))).await);
                }
                continue;
            }
        }
        let new = latest(batch.drain(..).map(|story: Box<Story>| *story)).into_iter();
        let new = new.map(|story| Waiting { item: vault.seal_story(&story), call: RecentCall::of(&story) }).collect();
        let tried = later.with_due(new);
        // Together: none waits for the answer to another, and each wake would take a core from calls.
        let taken = join_all(tried.iter().map(|waiting| write_one(waiting, &recent, &vault, &metrics))).await;
        let lost = later.note(tried, &taken);
        (0..lost).for_each(|_| metrics.call_story(MissedCallOutcome::Lost));
        if kept.is_empty() {
            sleep(GATHER).await;
        }
    }
}

/// A story that is to be written, sealed.
struct Waiting {
    item: SealedItem,
    call: RecentCall,
}

/// Stories that the store did not take, each with its next attempt: one that it refuses, or one slot of a Cluster that is away, keeps none of the
/// others.
#[derive(Default)]
struct Later {
    waiting: BTreeMap<(InstanceId, CallId), (Instant, Waiting)>,
    /// Nothing was taken when it was last asked: the store is away, and what else comes waits where it is.
    is_away: bool,
}

impl Later {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn takes_more(&self) -> bool {
        !self.is_away || self.waiting.len() < QUEUE
    }

    /// When the first is tried again.
    fn due_at(&self) -> Instant {
        self.waiting.values().map(|(due_at, _)| *due_at).min().unwrap_or_else(Instant::now)
    }

    /// The stories to try: the new ones, and some of those that are due.
    fn with_due(&mut self, new: Vec<Waiting>) -> Vec<Waiting> {
        let (now, mut tried) = (Instant::now(), new);
        for Waiting { call, .. } in &tried {
            // An older story of the same call is not to be written after a newer one.
            self.waiting.remove(&(call.instance, call.call));
        }
        let due = self.waiting.iter().filter(|(_, (due_at, _))| *due_at <= now).map(|(key, _)| *key);
        for key in due.take(WRITTEN_AT_ONCE).collect::<Vec<_>>() {
            tried.extend(self.waiting.remove(&key).map(|(_, waiting)| waiting));
        }
        tried
    }

    /// Takes note of the stories that the store is done with; the others wait. Returns how many had no room to.
    fn note(&mut self, tried: Vec<Waiting>, taken: &[bool]) -> usize {
        if !taken.is_empty() {
            self.is_away = !taken.contains(&true);
        }
        let mut lost = 0;
        for (waiting, _) in tried.into_iter().zip(taken).filter(|(_, is_taken)| !**is_taken) {
            let key = (waiting.call.instance, waiting.call.call);
            if self.waiting.len() < QUEUE {
                drop(self.waiting.insert(key, (Instant::now() + PAUSE, waiting)));
            } else {
                lost += 1;
            }
        }
        lost
    }
}

/// Of several that tell the same call the last, which tells most.
fn latest(stories: impl Iterator<Item = Story>) -> Vec<Story> {
    let latest: BTreeMap<_, _> = stories.map(|story| ((story.instance, story.call), story)).collect();
    latest.into_values().collect()
}

/// Whether it is done with: the store has taken it, or never will.
async fn write_one(Waiting { item, call }: &Waiting, recent: &Mutex<Recent>, vault: &Vault, metrics: &Metrics) -> bool {
    let outcome = match vault.put_item(call.instance, item).await {
        Ok(_) => {
            lock(recent).insert(call);
            // The instance was wiped meanwhile, and forgotten before the story was known.
            if vault.tombstones().look(call.instance).is_some() {
                lock(recent).forget(call.instance);
            }
            MissedCallOutcome::Kept
        }
        Err(StoreError::Away(_)) => return false,
        // Its instance is gone, and the story is to be.
        Err(StoreError::Gone) => return true,
        Err(_) => MissedCallOutcome::Lost,
    };
    metrics.call_story(outcome);
    true
}

/// Reads what an earlier run has kept.
async fn read(
    mut recalled: mpsc::UnboundedReceiver<InstanceId>,
    recent: Arc<Mutex<Recent>>,
    unread: Arc<AtomicUsize>,
    vault: Vault,
) {
    let mut batch = Vec::with_capacity(RECALL_BATCH);
    // Stories of a part of the store that is away; the others come before them.
    let mut again: VecDeque<InstanceId> = VecDeque::new();
    loop {
        let count = if again.is_empty() {
            recalled.recv_many(&mut batch, RECALL_BATCH).await
        } else {
            timeout(PAUSE, recalled.recv_many(&mut batch, RECALL_BATCH)).await.unwrap_or(1)
        };
        if count == 0 {
            if again.is_empty() {
                return;
            }
            sleep(PAUSE).await;
        }
        batch.extend(again.drain(..again.len().min(RECALL_BATCH)));
        let of_batch = loop {
            match vault.with_stories(&batch).await {
                Err(StoreError::Away(_)) => sleep(PAUSE).await,
                // A fault of a single story is met when that one is read.
                found => break found.unwrap_or_else(|_| batch.clone()),
            }
        };
        unread.fetch_sub(batch.len() - of_batch.len(), Ordering::Relaxed);
        batch.clear();
        for instance in of_batch {
            let stories = match vault.stories(instance).await {
                Err(StoreError::Away(_)) => {
                    again.push_back(instance);
                    continue;
                }
                stories => stories.unwrap_or_default(),
            };
            let mut recent = lock(&recent);
            stories.iter().for_each(|story| recent.insert(&RecentCall::of(story)));
            if vault.tombstones().look(instance).is_some() {
                recent.forget(instance);
            }
            unread.fetch_sub(1, Ordering::Relaxed);
        }
        sleep(RECALL_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    fn story(number: u128, instance: u128, at_ms: u64) -> Story {
        let (call, instance) = (CallId::new(number << 16, ShardTag(0)), InstanceId::new(instance << 16, ShardTag(0)));
        Story::new(call, instance, "com.example.phone", "sip:bob@example.com", at_ms)
    }

    #[test]
    fn of_several_that_tell_a_call_the_last_is_written() {
        let told =
            [(1, 1, 10), (2, 1, 20), (1, 1, 30), (1, 2, 40)].map(|(call, instance, at)| story(call, instance, at));
        let written = latest(told.into_iter());
        assert_eq!(written.iter().map(|story| story.at_ms).collect::<Vec<_>>(), [30, 20, 40]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_store_refuses_is_tried_again_and_keeps_nothing_else_waiting() {
        let vault = Vault::open("memory:", crate::vault::Keyring::ephemeral(), "a").expect("opened");
        let sealed = |number, instance, at_ms| {
            let story = story(number, instance, at_ms);
            Waiting { item: vault.seal_story(&story), call: RecentCall::of(&story) }
        };
        fn go_on(later: &mut Later, new: Vec<Waiting>, takes: impl Fn(&RecentCall) -> bool) -> (Vec<u64>, usize) {
            let tried = later.with_due(new);
            let taken: Vec<bool> = tried.iter().map(|waiting| takes(&waiting.call)).collect();
            let written = tried.iter().zip(&taken).filter(|(_, taken)| **taken).map(|(it, _)| it.call.at_ms).collect();
            (written, later.note(tried, &taken))
        }
        let (mut later, mut written) = (Later::default(), Vec::new());
        let refused = story(0, 7, 0).instance;
        // A slot is away: each batch has one of it.
        for number in 0..200_u64 {
            let new = vec![sealed(number.into(), 7, number), sealed(number.into(), 1, number)];
            let (taken, lost) = go_on(&mut later, new, |call| call.instance != refused);
            written.extend(taken);
            assert!(lost == 0 && later.takes_more());
        }
        assert_eq!(written, (0..200).collect::<Vec<_>>());
        // A newer story of a call takes the place of the waiting one; and when the slot is back all are written, the last of each.
        assert_eq!(go_on(&mut later, vec![sealed(5, 7, 5_000)], |_| false), (Vec::new(), 0));
        written.clear();
        while !later.is_empty() {
            sleep_until(later.due_at()).await;
            written.extend(go_on(&mut later, Vec::new(), |_| true).0);
        }
        assert_eq!(written.len(), 200);
        assert!(written.contains(&5_000) && !written.contains(&5));
        // A store that is away altogether leaves the rest where it waits, once this is full.
        let new = (0..QUEUE as u128).map(|number| sealed(number, 1, 1)).collect();
        assert_eq!(go_on(&mut later, new, |_| false), (Vec::new(), 0));
        assert!(!later.takes_more());
        assert_eq!(go_on(&mut later, vec![sealed(1, 2, 1)], |_| false).1, 1);
    }

    #[test]
    fn what_is_known_is_forgotten_with_its_instance_when_it_is_old_and_at_the_limit() {
        let mut recent = Recent::default();
        for (number, instance, at_ms) in [(1, 1, 10), (2, 2, 20), (3, 1, 30)] {
            recent.insert(&RecentCall::of(&story(number, instance, at_ms)));
            recent.insert(&RecentCall::of(&story(number, instance, at_ms)));
        }
        assert_eq!(recent.calls.len(), 3, "a story that is kept again is one");
        recent.forget(story(1, 1, 10).instance);
        assert_eq!(recent.calls.keys().map(|key| key.0).collect::<Vec<_>>(), [20]);
        assert_eq!(recent.take_old(19), []);
        assert_eq!(recent.take_old(20), [(story(2, 2, 20).instance, story(2, 2, 20).call)]);
        for number in 0..RECENT_MAX as u128 + 5 {
            recent.insert(&RecentCall::of(&story(number, number, number as u64)));
        }
        assert_eq!((recent.calls.len(), recent.by_instance.len(), recent.apps.len()), (RECENT_MAX, RECENT_MAX, 1));
        assert_eq!(recent.calls.first_key_value().map(|(key, _)| key.0), Some(5), "the oldest went");
        assert_eq!(recent.crowded_out_ms, 4);
    }
}
