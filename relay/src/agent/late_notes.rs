//! Notes of missed calls that the store did not take when the calls ended, because it did not answer.
//!
//! A store that was away may come back without records, which their nodes then write again. So the note of an instance without a record waits for
//! [`RESTORED_WITHIN`], unless the instance is known to be wiped.
//!
//! Invariant: a note is held in its sealed form alone, until the store has taken it or its instance is gone. Notes are tried in turn, one at a time, so that
//! one slot of a Cluster that is away holds up no other note. There are at most [`MAX`]; a further one is dropped, and a restart forgets all.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sip::id::{CallId, InstanceId};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::clock;
use crate::metrics::Metrics;
use crate::metrics::labels::{MissedCallOutcome, StoreOperation};
use crate::vault::items::{Placement, SealedItem};
use crate::vault::{StoreError, Vault};

/// Notes that wait, of a few hundred bytes each: half of them to be tried first, and as many again.
const MAX: usize = 8 * 1024;
/// The pause after the store did not take one: twice as long each time.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long the record of a note may be missing: its node writes it again when every other one has answered, or has been silent for a minute, and writes
/// all that it owns before it may come to this one.
const RESTORED_WITHIN: Duration = Duration::from_mins(5);

/// The note of one missed call.
pub(crate) struct Note {
    /// The instance whose caller was missed.
    pub(crate) instance: InstanceId,
    /// The note.
    pub(crate) item: SealedItem,
    /// An earlier one that gives way to it.
    pub(crate) displaces: Option<CallId>,
    /// Its instance goes on: a store that has no record of it has lost that.
    pub(crate) goes_on: bool,
}

/// A note that waits.
struct Late {
    note: Note,
    /// Since when the store says that it has no record of its instance.
    missing_since: OnceLock<Instant>,
}

/// The outcome of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tried {
    /// It is to be tried again.
    Waits,
    Kept,
    /// Its instance is gone, and the note is to be.
    Gone,
    Lost,
}

/// The consequence of the store's answer. `missing_since`: since when the store has no record of the instance. `is_wiped`: whether the instance is known to be
/// wiped.
fn judge(
    kept: Option<Result<(), StoreError>>,
    goes_on: bool,
    missing_since: &OnceLock<Instant>,
    now: Instant,
    is_wiped: impl FnOnce() -> bool,
) -> Tried {
    match kept {
        None => Tried::Waits,
        Some(Ok(())) => Tried::Kept,
        Some(Err(StoreError::Gone)) if !goes_on || is_wiped() => Tried::Gone,
        Some(Err(StoreError::Gone)) => {
            let since = *missing_since.get_or_init(|| now);
            if now.saturating_duration_since(since) < RESTORED_WITHIN { Tried::Waits } else { Tried::Lost }
        }
        Some(Err(_)) => Tried::Lost,
    }
}

impl Note {
    /// Writes it to the store. `None`: the store does not answer.
    pub(crate) async fn keep(&self, vault: &Vault, metrics: &Metrics) -> Option<Result<(), StoreError>> {
        match keep(vault, metrics, self.instance, &self.item).await {
            Err(StoreError::Away(_)) => return None,
            Err(error) => return Some(Err(error)),
            Ok(_) => {}
        }
        if let Some(earlier) = self.displaces {
            // A store that is away keeps one more of them.
            drop(vault.displace_missed_call(self.instance, earlier).await);
        }
        Some(Ok(()))
    }
}

/// The waiting notes of a node.
pub(crate) struct LateNotes(mpsc::Sender<Late>);

impl LateNotes {
    /// Starts the task that tries them, which ends with this.
    pub(crate) fn start(vault: Vault, metrics: Metrics) -> Self {
        let (add, added) = mpsc::channel(MAX / 2);
        let tries = async move |late: &Late| {
            let kept = late.note.keep(&vault, &metrics).await;
            let is_wiped = || vault.tombstones().forbids(late.note.instance, None).is_some();
            match judge(kept, late.note.goes_on, &late.missing_since, clock::now(), is_wiped) {
                Tried::Waits => return false,
                Tried::Kept => metrics.missed_call(MissedCallOutcome::Kept),
                Tried::Gone => {}
                Tried::Lost => metrics.missed_call(MissedCallOutcome::Lost),
            }
            true
        };
        tokio::spawn(write(added, tries));
        Self(add)
    }

    /// Keeps one until the store takes it; `false`: too many wait.
    pub(crate) fn add(&self, note: Note) -> bool {
        self.0.try_send(Late { note, missing_since: OnceLock::new() }).is_ok()
    }
}

/// Writes an item to the store, and counts the outcome.
pub(crate) async fn keep(
    vault: &Vault,
    metrics: &Metrics,
    instance: InstanceId,
    item: &SealedItem,
) -> Result<Placement, StoreError> {
    let began = clock::now();
    let outcome = vault.put_item(instance, item).await;
    match &outcome {
        Ok(_) | Err(StoreError::Gone) => metrics.store_answered(began.elapsed()),
        Err(_) => metrics.store_error(StoreOperation::Put),
    }
    outcome
}

/// Tries each until `is_done` says so.
async fn write<N>(mut added: mpsc::Receiver<N>, is_done: impl AsyncFn(&N) -> bool) {
    let (mut waiting, mut pause) = (VecDeque::new(), PAUSE_MIN);
    loop {
        if waiting.is_empty() {
            match added.recv().await {
                Some(note) => waiting.push_back(note),
                None => return,
            }
        }
        while waiting.len() < MAX / 2
            && let Ok(note) = added.try_recv()
        {
            waiting.push_back(note);
        }
        let Some(note) = waiting.pop_front() else { continue };
        if is_done(&note).await {
            pause = PAUSE_MIN;
            continue;
        }
        if added.is_closed() && added.is_empty() {
            // The process ends.
            return;
        }
        waiting.push_back(note);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lock::Mutex;

    #[tokio::test(start_paused = true)]
    async fn each_is_tried_until_the_store_takes_it_and_one_that_it_never_takes_keeps_no_other_waiting() {
        let (add, added) = mpsc::channel(MAX / 2);
        let (taken, tried) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
        let store = {
            let (taken, tried, began) = (taken.clone(), tried.clone(), tokio::time::Instant::now());
            async move |number: &u32| {
                *tried.lock() += 1;
                let is_back = began.elapsed() >= Duration::from_secs(90) && *number != 0;
                if is_back {
                    taken.lock().push(*number);
                }
                is_back
            }
        };
        let writing = tokio::spawn(write(added, store));
        for number in 0..5 {
            add.send(number).await.unwrap();
        }
        sleep(Duration::from_secs(89)).await;
        assert!(taken.lock().is_empty() && (80..100).contains(&*tried.lock()), "about once a second");
        add.send(5).await.unwrap();
        sleep(Duration::from_secs(10)).await;
        let mut all = taken.lock().clone();
        all.sort_unstable();
        assert_eq!(all, [1, 2, 3, 4, 5], "each once");
        drop(add);
        writing.await.unwrap();
    }

    #[test]
    fn a_note_outlives_the_loss_of_its_record_for_a_while_and_its_instance_never() {
        let (since, now) = (OnceLock::new(), clock::now());
        let gone =
            |goes_on, after, is_wiped| judge(Some(Err(StoreError::Gone)), goes_on, &since, now + after, || is_wiped);
        let (soon, late) = (RESTORED_WITHIN / 2, RESTORED_WITHIN);
        assert_eq!(gone(true, Duration::ZERO, false), Tried::Waits);
        assert_eq!(gone(true, soon, false), Tried::Waits);
        assert_eq!(gone(true, soon, true), Tried::Gone);
        assert_eq!(gone(false, soon, false), Tried::Gone);
        assert_eq!(gone(true, late, false), Tried::Lost, "and that is counted");
        assert_eq!(judge(Some(Ok(())), true, &since, now + late, || false), Tried::Kept);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_notes_wait_than_there_is_room_for() {
        let (add, added) = mpsc::channel(MAX / 2);
        tokio::spawn(write(added, async |_: &usize| false));
        let mut kept = 0;
        for _ in 0..4 {
            kept += (0..MAX).filter(|number| add.try_send(*number).is_ok()).count();
            sleep(PAUSE_MAX * 2).await;
        }
        // One of those that wait may be under way.
        assert!((MAX..=MAX + 1).contains(&kept), "{kept}");
    }
}
