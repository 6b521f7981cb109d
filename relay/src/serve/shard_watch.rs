//! Watching that every shard of the protocol answers: one that does not has nobody's calls served, whatever listens.
//!
//! Each is asked by itself, and asked again only when it has answered: one that is busy answers late, and one that hangs never does. How many there are, and how
//! long they take together, says nothing of any of them.
//!
//! Invariant: the relay is not ready while a question has stood for [`SILENT_AFTER`] on a shard, and not alive once one has for [`DEAD_AFTER`]: then it is to be
//! started anew, for nothing else would have it answer.

use std::ops::Range;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::operator::readiness::{Check, Readiness};

/// How often each is asked, and how often it is looked how long its question has stood.
const EVERY: Duration = Duration::from_secs(5);
/// How long a question stands before calls count as not served.
const SILENT_AFTER: Duration = Duration::from_secs(10);
/// How long one stands before the process is dead.
const DEAD_AFTER: Duration = Duration::from_secs(60);

/// How long the question of each shard has stood that has none answered.
type Standing = Vec<Option<Duration>>;

/// Watches these shards for as long as the relay runs; `answers` ends when a shard does, with `false` when it has ended.
pub(super) async fn watch(shards: Range<usize>, answers: impl AsyncFn(usize) -> bool, readiness: Readiness) {
    readiness.pass(Check::Shards);
    let standing = watch::Sender::new(vec![None; shards.len()]);
    let each = shards.enumerate().map(|(place, shard)| ask(&answers, shard, place, &standing));
    tokio::join!(join_all(each), judge(standing.subscribe(), &readiness));
}

/// Asks one shard again and again, and notes how long its question has stood.
async fn ask(answers: &impl AsyncFn(usize) -> bool, shard: usize, place: usize, standing: &watch::Sender<Standing>) {
    let note = |stood: Option<Duration>| standing.send_modify(|all| all[place] = stood);
    let mut since = None;
    loop {
        sleep(EVERY).await;
        let asked_at = *since.get_or_insert_with(Instant::now);
        let mut answer = pin!(answers(shard));
        let has_answered = loop {
            match timeout(EVERY, &mut answer).await {
                Ok(has_answered) => break has_answered,
                Err(_) => note(Some(asked_at.elapsed())),
            }
        };
        if has_answered {
            since = None;
        }
        note((!has_answered).then(|| asked_at.elapsed()));
    }
}

/// Says what follows for the relay.
async fn judge(mut standing: watch::Receiver<Standing>, readiness: &Readiness) {
    let mut is_silent = false;
    loop {
        let longest = standing.borrow_and_update().iter().flatten().max().copied().unwrap_or_default();
        let was_silent = std::mem::replace(&mut is_silent, longest >= SILENT_AFTER);
        if is_silent && !was_silent {
            tracing::error!(event = "shard-hangs", "a shard does not answer");
            readiness.fail(Check::Shards, "a shard does not answer: calls of its phones are not served");
        } else if was_silent && !is_silent {
            tracing::warn!(event = "shards-answer", "every shard answers again");
            readiness.pass(Check::Shards);
        }
        readiness.note_dead(longest >= DEAD_AFTER);
        if standing.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn stands(readiness: &Readiness) -> (bool, bool) {
        let shards = readiness.checks().into_iter().find(|(check, _)| *check == Check::Shards);
        (shards.is_some_and(|(_, state)| state.is_ok()), readiness.is_alive())
    }

    /// A question that a shard answers once it does not hang any more.
    async fn answered(hangs: &AtomicBool) -> bool {
        while hangs.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(100)).await;
        }
        true
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_hangs_makes_unready_and_after_a_minute_dead_and_one_that_was_slow_once_does_not() {
        let (readiness, hangs) = (Readiness::default(), Arc::new(AtomicBool::new(false)));
        let seen = hangs.clone();
        let answers = async move |shard| shard != 1 || answered(&seen).await;
        tokio::spawn(watch(0..3, answers, readiness.clone()));
        for (now_hangs, seconds, expected) in [
            (false, 60, (true, true)),
            (true, 9, (true, true)),
            (false, 20, (true, true)),
            (true, 40, (false, true)),
            (true, 60, (false, false)),
            (false, 20, (true, true)),
        ] {
            hangs.store(now_hangs, Ordering::Relaxed);
            sleep(Duration::from_secs(seconds)).await;
            assert_eq!(stands(&readiness), expected, "{now_hangs} for {seconds} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_shards_that_each_answer_in_time_are_no_silent_node_and_busy_ones_are_never_a_dead_one() {
        for (each, is_ready) in
            [(Duration::from_millis(400), true), (Duration::from_secs(8), true), (Duration::from_secs(40), false)]
        {
            let readiness = Readiness::default();
            let answers = async move |_| {
                sleep(each).await;
                true
            };
            tokio::spawn(watch(0..64, answers, readiness.clone()));
            let mut was_ready = true;
            for _ in 0..300 {
                sleep(Duration::from_secs(1)).await;
                let (ready, alive) = stands(&readiness);
                assert!(alive, "{each:?}");
                was_ready &= ready;
            }
            assert_eq!(was_ready, is_ready, "{each:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_has_ended_is_one_that_hangs() {
        let readiness = Readiness::default();
        tokio::spawn(watch(0..2, async |shard| shard == 0, readiness.clone()));
        sleep(Duration::from_secs(30)).await;
        assert_eq!(stands(&readiness), (false, true));
        sleep(Duration::from_secs(60)).await;
        assert_eq!(stands(&readiness), (false, false));
    }
}
