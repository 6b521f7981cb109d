//! Further connections for calls. A new connection carries a single request until the service has accepted our credentials, and calls wait behind that request.
//! But the request may be unanswered because of its device alone.
//!
//! | a call waits behind an unproven line, whose request left [`HELD_UP_AFTER`] ago | consequence |
//! | --- | --- |
//! | no further line was begun within that time | one more is dialled for this call, is asked by PING, and carries it alone |
//! | the answer proves the further line | it replaces the other line, and all waiting requests take it |
//! | the other line is proven first | all waiting requests take that, and the further line ends with its request |
//!
//! Invariant: until the service answers anything, at most [`FURTHER_MAX`] requests leave by further lines: a service that is slow in everything gets three
//! requests in place of one, and one that is silent gets one. A request that has left by one line never leaves by another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::state::Line;
use crate::lock::Mutex;

/// How long a line may hold calls up before one of them gets a line of its own.
pub(super) const HELD_UP_AFTER: Duration = Duration::from_millis(1_500);
/// So many further lines there are until the service answers.
const FURTHER_MAX: usize = 2;

/// The further connections of one channel.
#[derive(Default)]
pub(super) struct FurtherConnections {
    /// How many were begun since the service has answered anything.
    begun: AtomicUsize,
    /// When the latest was.
    latest: Mutex<Option<Instant>>,
}

/// A further connection that is being made; it counts for nothing when it is dropped before a request may go over it.
pub(super) struct Begun<'a>(Option<&'a AtomicUsize>);

impl Begun<'_> {
    /// A request goes over it.
    pub(super) fn take_up(mut self) {
        self.0 = None;
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Some(begun) = self.0 {
            // An answer may have come meanwhile.
            let _ = begun.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
        }
    }
}

impl FurtherConnections {
    /// Waits until one is due for a call that waits behind this line; never, once it is proven.
    pub(super) async fn due(&self, line: &Line) -> Begun<'_> {
        loop {
            if line.is_proven() {
                std::future::pending::<()>().await;
            }
            let now = Instant::now();
            let at = {
                let mut latest = self.latest.lock();
                let since = latest.map_or(line.busy_since(), |latest| latest.max(line.busy_since()));
                let is_due = since + HELD_UP_AFTER <= now;
                if is_due && self.begun.load(Ordering::Relaxed) < FURTHER_MAX {
                    self.begun.fetch_add(1, Ordering::Relaxed);
                    *latest = Some(now);
                    return Begun(Some(&self.begun));
                }
                if is_due { now + HELD_UP_AFTER } else { since + HELD_UP_AFTER }
            };
            sleep_until(at).await;
        }
    }

    /// The service has answered something.
    pub(super) fn answered(&self) {
        if self.begun.load(Ordering::Relaxed) > 0 {
            self.begun.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::timeout;

    use super::super::state::LineFate;
    use super::*;
    use crate::push::connection::urgency::Urgency;

    #[tokio::test(start_paused = true)]
    async fn two_are_due_one_after_the_other_and_the_next_once_the_service_has_answered() {
        let (line, further) = (Line::new(true, 100, Arc::default()), FurtherConnections::default());
        let _held = line.try_admit(Urgency::Urgent, || 1);
        let began = Instant::now();
        further.due(&line).await.take_up();
        assert!(began.elapsed() >= HELD_UP_AFTER);
        // One that is not used is none.
        drop(further.due(&line).await);
        further.due(&line).await.take_up();
        assert!(timeout(HELD_UP_AFTER * 20, further.due(&line)).await.is_err());
        further.answered();
        assert!(timeout(HELD_UP_AFTER, further.due(&line)).await.is_ok());
        line.answered(LineFate::Good, true, || 1);
        assert!(
            timeout(HELD_UP_AFTER * 20, further.due(&line)).await.is_err(),
            "its streams are those that the service allows"
        );
    }
}
