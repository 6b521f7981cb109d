//! Watching that this node knows what it owns: one that does not acts on nothing from the network, and is not ready.
//!
//! Invariant: a doubt that the store settles at once is told to nobody: each node that stood still has one for a moment.

use std::time::Duration;

use tokio::time::sleep;

use crate::operator::readiness::{Check, Readiness};

/// How often it is looked whether there is a doubt.
const EVERY: Duration = Duration::from_secs(1);
/// How many looks one after the other must find one before it counts.
const LOOKS: u32 = 3;

const CONTESTED: &str = "another process runs by this node's name (edge.public): each takes the other's lease";
const DOUBTFUL: &str =
    "the lease had lapsed, and the store does not tell what is still this node's: calls are not answered";

/// Watches for as long as the relay runs.
pub(super) async fn watch(is_doubtful: impl Fn() -> bool, is_contested: impl Fn() -> bool, readiness: Readiness) {
    readiness.pass(Check::Ownership);
    let (mut looks, mut was_contested) = (0_u32, false);
    loop {
        sleep(EVERY).await;
        let was_told = looks >= LOOKS;
        looks = if is_doubtful() { looks.saturating_add(1) } else { 0 };
        let is_told = looks >= LOOKS;
        if is_told != was_told || is_contested() != was_contested {
            was_contested = is_contested();
            match (was_contested, is_told) {
                (true, _) => readiness.fail(Check::Ownership, CONTESTED),
                (false, true) => readiness.fail(Check::Ownership, DOUBTFUL),
                (false, false) => readiness.pass(Check::Ownership),
            }
        }
        match is_told {
            true if !was_told => {
                tracing::error!(
                    event = "ownership-in-doubt",
                    "the lease of this node had lapsed, and the store does not tell what is still its own; calls are not answered until it does"
                );
            }
            false if was_told => {
                tracing::info!(event = "ownership-known", "the store has told what this node owns");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_does_not_know_what_it_owns_is_not_ready_and_one_that_stood_still_for_a_moment_is() {
        let (readiness, doubt) = (Readiness::default(), Arc::new(AtomicBool::new(false)));
        let seen = doubt.clone();
        let contested = Arc::new(AtomicBool::new(false));
        let seen_contested = contested.clone();
        let is_contested = move || seen_contested.load(Ordering::Relaxed);
        tokio::spawn(watch(move || seen.load(Ordering::Relaxed), is_contested, readiness.clone()));
        let is_well = |readiness: &Readiness| {
            readiness.checks().into_iter().any(|(check, state)| check == Check::Ownership && state.is_ok())
        };
        for (is_doubtful, seconds, expected) in
            [(false, 5, true), (true, 2, true), (false, 2, true), (true, 5, false), (false, 2, true)]
        {
            doubt.store(is_doubtful, Ordering::Relaxed);
            sleep(Duration::from_secs(seconds)).await;
            assert_eq!(is_well(&readiness), expected, "{is_doubtful} for {seconds} s");
        }
        for is_contested in [true, false] {
            contested.store(is_contested, Ordering::Relaxed);
            sleep(Duration::from_secs(2)).await;
            assert_eq!(is_well(&readiness), !is_contested);
        }
    }
}
