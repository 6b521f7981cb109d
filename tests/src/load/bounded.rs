//! A run ends in time, and one that does not says what it was at.
//!
//! Invariant: what is bounded ends within its bound, or is given up with the step that it stood at. A round of calls that has begun
//! blocks a thread, and holds the process's end up until it is over, which has a bound of its own.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Failure;

/// Where a run is.
#[derive(Debug)]
pub struct Progress(Mutex<Step>);

#[derive(Clone, Copy, Debug)]
struct Step {
    name: &'static str,
    since: Instant,
}

impl Progress {
    fn new() -> Self {
        Self(Mutex::new(Step { name: "nothing yet", since: Instant::now() }))
    }

    /// The next step begins.
    pub fn enter(&self, name: &'static str) {
        *self.lock() = Step { name, since: Instant::now() };
    }

    fn lock(&self) -> MutexGuard<'_, Step> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does `work` within `bound`, and says beforehand when that is.
///
/// # Errors
/// The failures of `work`, and [`Failure::TooLong`].
pub async fn whole<T>(bound: Duration, work: impl AsyncFnOnce(&Progress) -> Result<T, Failure>) -> Result<T, Failure> {
    eprintln!("load: this run ends within {} s, with its figures or with what was in their way", bound.as_secs());
    within(bound, work).await
}

/// Does `work` within `bound`.
///
/// # Errors
/// The failures of `work`, and [`Failure::TooLong`].
pub async fn within<T>(bound: Duration, work: impl AsyncFnOnce(&Progress) -> Result<T, Failure>) -> Result<T, Failure> {
    let progress = Progress::new();
    match tokio::time::timeout(bound, work(&progress)).await {
        Ok(done) => done,
        Err(_) => {
            let Step { name, since } = *progress.lock();
            Err(Failure::TooLong { bound, step: name, stood: since.elapsed() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_run_that_does_not_end_says_where_it_stood() {
        let run = within(Duration::from_secs(5), async |progress| {
            progress.enter("the first");
            progress.enter("the second");
            std::future::pending::<Result<(), Failure>>().await
        });
        let said = run.await.expect_err("it does not end").to_string();
        assert!(said.starts_with("the run did not end within 5s: it was at \"the second\" for the last "), "{said}");
    }
}
