//! The signal that the process is ending.
//!
//! Invariant: a drain that has begun stays begun; a [`Drain`] whose [`Trigger`] is gone has begun, so that no task
//! outlives the one that could end it.

use tokio::sync::watch;

/// Begins the drain.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// Hears of the drain; cheap to clone.
#[derive(Debug, Clone)]
pub struct Drain(watch::Receiver<bool>);

/// A trigger and what hears of it.
pub fn drain() -> (Trigger, Drain) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Drain(receiver))
}

impl Trigger {
    /// Begins the drain; calling it again changes nothing.
    pub fn begin(&self) {
        self.0.send_replace(true);
    }
}

impl Drain {
    /// Waits until the drain begins.
    pub async fn begun(&self) {
        // An error means that the trigger is gone, which is the same news.
        let _ = self.0.clone().wait_for(|begun| *begun).await;
    }

    /// Whether the drain has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}
