//! How many pushes go by HTTP/1.1 at once: each has a connection of its own, which whoever has chosen the service may keep hanging as long as
//! the push is worth anything.
//!
//! | the service | for it alone | with all others of the App that are so |
//! | --- | --- | --- |
//! | has taken a push | [`OF_ONE`] | [`OF_ALL`] |
//! | has taken none yet | [`OF_A_NEW_ONE`] | [`OF_ALL_NEW`] |
//!
//! A call waits for a place. What is no call does not, and leaves a quarter of them free.
//!
//! Invariant: services that take nothing keep none from its places that has taken a push.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

/// Pushes to one service that has taken one, and to all such of an App.
const OF_ONE: usize = 64;
const OF_ALL: usize = 512;
/// Likewise where none has been taken yet.
const OF_A_NEW_ONE: usize = 8;
const OF_ALL_NEW: usize = 64;

/// Those of one App.
pub(super) struct Places {
    known: Semaphore,
    new: Semaphore,
}

/// Those of one service.
pub(super) struct OwnPlaces {
    known: Semaphore,
    new: Semaphore,
    all: Arc<Places>,
}

/// The leave for one push, given back when dropped.
pub(super) struct Place<'a> {
    _own: SemaphorePermit<'a>,
    _of_all: SemaphorePermit<'a>,
}

impl Default for Places {
    fn default() -> Self {
        Self { known: Semaphore::new(OF_ALL), new: Semaphore::new(OF_ALL_NEW) }
    }
}

impl OwnPlaces {
    pub(super) fn among(all: &Arc<Places>) -> Self {
        let (known, new) = (Semaphore::new(OF_ONE), Semaphore::new(OF_A_NEW_ONE));
        Self { known, new, all: Arc::clone(all) }
    }

    /// A place for a push, of a call or of none, to the service, which has taken one or none. `None`: there is none until then.
    pub(super) async fn take(&self, urgent: bool, has_taken: bool, until: Instant) -> Option<Place<'_>> {
        let (own, all, (most, most_of_all)) = match has_taken {
            true => (&self.known, &self.all.known, (OF_ONE, OF_ALL)),
            false => (&self.new, &self.all.new, (OF_A_NEW_ONE, OF_ALL_NEW)),
        };
        if !urgent && (own.available_permits() <= most / 4 || all.available_permits() <= most_of_all / 4) {
            return None;
        }
        // Whoever waits for its own service holds none of all.
        let taking = async { Some(Place { _own: own.acquire().await.ok()?, _of_all: all.acquire().await.ok()? }) };
        timeout_at(until, taking).await.ok()?
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn services_that_take_nothing_have_few_places_and_keep_no_other_from_its_own() {
        let all = Arc::<Places>::default();
        let until = || Instant::now() + Duration::from_millis(1);
        let strangers: Vec<_> = (0..100).map(|_| OwnPlaces::among(&all)).collect();
        let mut hanging = Vec::new();
        for stranger in &strangers {
            for _ in 0..100 {
                hanging.extend(stranger.take(true, false, until()).await);
            }
        }
        assert_eq!(hanging.len(), OF_ALL_NEW);
        let own = OwnPlaces::among(&all);
        let mut alerts = Vec::new();
        while let Some(place) = own.take(false, true, until()).await {
            alerts.push(place);
        }
        assert_eq!(alerts.len(), OF_ONE / 4 * 3);
        for _ in alerts.len()..OF_ONE {
            alerts.extend(own.take(true, true, until()).await);
        }
        assert!(alerts.len() == OF_ONE && own.take(true, true, until()).await.is_none());
        let (next, ()) =
            tokio::join!(own.take(true, true, Instant::now() + Duration::from_secs(1)), async { drop(alerts.pop()) });
        assert!(next.is_some(), "a call waits for one");
        assert!(own.take(true, false, until()).await.is_none(), "it has taken none yet");
    }
}
