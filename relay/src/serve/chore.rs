//! A part of the relay that works beside everything else.
//!
//! Invariant: a chore that ends by a fault of its own is reported, in the log and on the status page, for nothing else would notice.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;

use crate::metrics::labels::Warning;
use crate::operator::readiness::Readiness;

/// Does `work` in a task of its own; `what` it is for.
pub(super) fn chore(
    readiness: &Readiness,
    what: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) -> JoinHandle<()> {
    let readiness = readiness.clone();
    tokio::spawn(async move {
        // The chore's state is gone with it, and locks show by themselves that a panic left something behind.
        if AssertUnwindSafe(work).catch_unwind().await.is_err() {
            tracing::error!(
                event = "chore-ended",
                what,
                "a part of the relay has ended by a fault of its own; drain this node and start it anew, and report what the log says before this"
            );
            let words = format!("{what}: it has ended by a fault of its own; drain this node and start it anew");
            readiness.warn_also(Warning::Chores, words.into());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_chore_that_panics_is_told_and_one_that_is_over_is_not() {
        let readiness = Readiness::default();
        chore(&readiness, "what is over", async {}).await.unwrap();
        assert!(readiness.warnings().is_empty());
        for what in ["letters", "certificates"] {
            chore(&readiness, what, async { panic!("a fault") }).await.unwrap();
        }
        let told = readiness.warnings();
        assert!(
            told.len() == 2 && told[0].starts_with("letters: ") && told[1].starts_with("certificates: "),
            "{told:?}"
        );
    }
}
