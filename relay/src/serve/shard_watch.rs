//! Watching that every shard of the protocol answers: one that does not has nobody's calls served, whatever listens.
//!
//! Invariant: the relay is not ready once a shard has been silent for two looks, and not alive once it has been for
//! [`DEAD_AFTER`]: then it is to be started anew, for nothing else would have it answer.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::operator::readiness::{Check, Readiness};

/// How often they are asked, and how long they may take.
pub(super) const EVERY: Duration = Duration::from_secs(5);
/// How long one is silent before the process is dead.
const DEAD_AFTER: Duration = Duration::from_secs(60);

/// Watches for as long as the relay runs; `answer`: whether all do, within [`EVERY`].
pub(super) async fn watch(answer: impl AsyncFn() -> bool, readiness: Readiness) {
    readiness.pass(Check::Shards);
    let mut silent: Option<(u32, Instant)> = None;
    loop {
        sleep(EVERY).await;
        if answer().await {
            if silent.take().is_some_and(|(looks, _)| looks > 1) {
                tracing::warn!(event = "shards-answer", "every shard answers again");
                readiness.pass(Check::Shards);
                readiness.note_dead(false);
            }
            continue;
        }
        let (looks, since) = silent.map_or((1, Instant::now()), |(looks, since)| (looks + 1, since));
        silent = Some((looks, since));
        if looks == 2 {
            tracing::error!(event = "shard-hangs", "a shard does not answer");
            readiness.fail(Check::Shards, "a shard does not answer: calls of its phones are not served");
        }
        readiness.note_dead(since.elapsed() >= DEAD_AFTER);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_shard_that_hangs_makes_unready_and_after_a_minute_dead_and_one_that_was_slow_once_does_not() {
        let (readiness, hangs) = (Readiness::default(), Arc::new(AtomicBool::new(false)));
        let seen = hangs.clone();
        let answer = async move || {
            if seen.load(Ordering::Relaxed) {
                sleep(EVERY).await;
                return false;
            }
            true
        };
        tokio::spawn(watch(answer, readiness.clone()));
        let stands = |readiness: &Readiness| {
            let shards = readiness.checks().into_iter().find(|(check, _)| *check == Check::Shards);
            (shards.is_some_and(|(_, state)| state.is_ok()), readiness.is_alive())
        };
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
}
