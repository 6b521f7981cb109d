//! The stories of calls that are over: kept in the store, and known here by number, not by content.
//!
//! ```text
//! shard ── keep ──► a queue ──► the store, sealed, beside the record ──► [`Recent`]: call, instance, App, how it ended
//! ```
//!
//! What an earlier run or another node has kept is not known at first: [`Stories::recall`] reads it, a few instances at a time.
//!
//! Invariant: nobody waits for the store here but the one task that writes. What does not fit into its queue is counted as lost.
//! Nothing of a caller is in memory once a story is kept. A story is forgotten a day after its call, here and in the store, and with
//! its instance at once; the TTL in the store is the backstop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use sip::id::{CallId, InstanceId};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::clock::unix_now;
use crate::domain::story::{Story, StoryOutcome};
use crate::metrics::Metrics;
use crate::metrics::labels::MissedCallOutcome;
use crate::vault::items::STORY_LIFE_S;
use crate::vault::{StoreError, Vault};

/// Stories that wait for the store; a further one is lost.
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

/// One story that is kept, without what it tells.
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

/// What a node knows of the stories that it has kept.
#[derive(Default)]
struct Recent {
    calls: BTreeMap<Key, (Arc<str>, StoryOutcome)>,
    by_instance: BTreeSet<(InstanceId, u64, CallId)>,
    apps: BTreeSet<Arc<str>>,
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
    recent.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recent {
    fn insert(&mut self, story: &Story) {
        let app = match self.apps.get(&*story.app) {
            Some(app) => app.clone(),
            None => {
                let app: Arc<str> = story.app.as_ref().into();
                self.apps.insert(app.clone());
                app
            }
        };
        self.calls.insert((story.at_ms, story.call, story.instance), (app, story.outcome()));
        self.by_instance.insert((story.instance, story.at_ms, story.call));
        while self.calls.len() > RECENT_MAX
            && let Some((&(at_ms, call, instance), _)) = self.calls.first_key_value()
        {
            self.remove(at_ms, call, instance);
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
    loop {
        let count = tokio::select! {
            count = kept.recv_many(&mut batch, WRITTEN_AT_ONCE) => count,
            _ = ticks.tick() => {
                let before_ms = unix_now().saturating_sub(STORY_LIFE_S).saturating_mul(1_000);
                let old = lock(&recent).take_old(before_ms);
                for some in old.chunks(WRITTEN_AT_ONCE) {
                    // What a store that is away still holds ends by its TTL.
                    drop(join_all(some.iter().map(|(instance, call)| vault.remove_story(*instance, *call))).await);
                }
                continue;
            }
        };
        if count == 0 {
            return;
        }
        // Together: none waits for the answer to another, and each wake would take a core from calls.
        join_all(
            latest(batch.drain(..).map(|story: Box<Story>| *story))
                .into_iter()
                .map(|story| write_one(story, &recent, &vault, &metrics)),
        )
        .await;
        if kept.is_empty() {
            sleep(GATHER).await;
        }
    }
}

/// Of several that tell the same call the last, which tells most.
fn latest(stories: impl Iterator<Item = Story>) -> Vec<Story> {
    let latest: BTreeMap<_, _> = stories.map(|story| ((story.instance, story.call), story)).collect();
    latest.into_values().collect()
}

async fn write_one(story: Story, recent: &Mutex<Recent>, vault: &Vault, metrics: &Metrics) {
    let item = vault.seal_story(&story);
    let outcome = loop {
        match vault.put_item(story.instance, &item).await {
            Ok(_) => {
                lock(recent).insert(&story);
                // It was wiped meanwhile, and forgotten before it was known.
                if vault.tombstones().look(story.instance).is_some() {
                    lock(recent).forget(story.instance);
                }
                break MissedCallOutcome::Kept;
            }
            Err(StoreError::Away(_)) => sleep(PAUSE).await,
            // Its instance is gone, and the story is to be.
            Err(StoreError::Gone) => return,
            Err(_) => break MissedCallOutcome::Lost,
        }
    };
    metrics.call_story(outcome);
}

/// Reads what an earlier run has kept.
async fn read(
    mut recalled: mpsc::UnboundedReceiver<InstanceId>,
    recent: Arc<Mutex<Recent>>,
    unread: Arc<AtomicUsize>,
    vault: Vault,
) {
    let mut batch = Vec::with_capacity(RECALL_BATCH);
    while recalled.recv_many(&mut batch, RECALL_BATCH).await > 0 {
        let of_batch = loop {
            match vault.with_stories(&batch).await {
                Err(StoreError::Away(_)) => sleep(PAUSE).await,
                // Whatever is wrong with one is met when it is read.
                found => break found.unwrap_or_else(|_| batch.clone()),
            }
        };
        unread.fetch_sub(batch.len() - of_batch.len(), Ordering::Relaxed);
        batch.clear();
        for instance in of_batch {
            let stories = loop {
                match vault.stories(instance).await {
                    Err(StoreError::Away(_)) => sleep(PAUSE).await,
                    stories => break stories.unwrap_or_default(),
                }
            };
            let mut recent = lock(&recent);
            stories.iter().for_each(|story| recent.insert(story));
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

    #[test]
    fn what_is_known_is_forgotten_with_its_instance_when_it_is_old_and_at_the_limit() {
        let mut recent = Recent::default();
        for (number, instance, at_ms) in [(1, 1, 10), (2, 2, 20), (3, 1, 30)] {
            recent.insert(&story(number, instance, at_ms));
            recent.insert(&story(number, instance, at_ms));
        }
        assert_eq!(recent.calls.len(), 3, "a story that is kept again is one");
        recent.forget(story(1, 1, 10).instance);
        assert_eq!(recent.calls.keys().map(|key| key.0).collect::<Vec<_>>(), [20]);
        assert_eq!(recent.take_old(19), []);
        assert_eq!(recent.take_old(20), [(story(2, 2, 20).instance, story(2, 2, 20).call)]);
        for number in 0..RECENT_MAX as u128 + 5 {
            recent.insert(&story(number, number, number as u64));
        }
        assert_eq!((recent.calls.len(), recent.by_instance.len(), recent.apps.len()), (RECENT_MAX, RECENT_MAX, 1));
        assert_eq!(recent.calls.first_key_value().map(|(key, _)| key.0), Some(5), "the oldest went");
    }
}
