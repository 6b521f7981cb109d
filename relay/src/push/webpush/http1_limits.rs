//! Limits on simultaneous pushes by HTTP/1.1. Each has a connection of its own, and the service, which a client has chosen, may keep it open as long as the
//! push lives.
//!
//! | the service | places for it alone | places with all others like it |
//! | --- | --- | --- |
//! | has taken a push within a day | [`OF_ONE`] | [`OF_ALL`] of the App |
//! | has taken none lately | [`OF_A_NEW_HOST`], with all other ports of its host | [`OF_ALL_NEW`] of the App, which hosts take in turn (`turns.rs`) |
//!
//! A call waits for a place. Any other push does not, and leaves a quarter of the places free.
//!
//! Invariant: services that take nothing use no place of a service that has taken a push. A host waits for the places of another host only until one is given
//! back.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::turns::{Turn, Turns};
use crate::push::connection::urgency::Urgency;

/// Pushes to one service that has taken one, and to all such of an App.
const OF_ONE: usize = 64;
const OF_ALL: usize = 512;
/// Likewise where none has been taken lately.
const OF_A_NEW_HOST: usize = 8;
const OF_ALL_NEW: usize = 64;

/// The places of one App.
pub(super) struct Places {
    known: Semaphore,
    new: Arc<Turns>,
}

/// The places of one service.
pub(super) struct OwnPlaces {
    known: Semaphore,
    host: Box<str>,
    all: Arc<Places>,
}

/// The leave for one push, given back when dropped.
pub(super) enum Place<'a> {
    Known { _own: SemaphorePermit<'a>, _of_all: SemaphorePermit<'a> },
    New { _turn: Turn },
}

impl Default for Places {
    fn default() -> Self {
        Self { known: Semaphore::new(OF_ALL), new: Turns::new(OF_ALL_NEW, OF_A_NEW_HOST) }
    }
}

impl OwnPlaces {
    pub(super) fn among(all: &Arc<Places>, host: &str) -> Self {
        Self { known: Semaphore::new(OF_ONE), host: host.into(), all: Arc::clone(all) }
    }

    /// A place for a push, of a call or of none, to the service, which has taken one lately or has not. `None`: there is none until then.
    pub(super) async fn take(&self, urgency: Urgency, has_taken: bool, until: Instant) -> Option<Place<'_>> {
        let (left, (most, most_of_all)) = if has_taken {
            ((self.known.available_permits(), self.all.known.available_permits()), (OF_ONE, OF_ALL))
        } else {
            (self.all.new.left(&self.host), (OF_A_NEW_HOST, OF_ALL_NEW))
        };
        if !urgency.is_urgent() && (left.0 <= most / 4 || left.1 <= most_of_all / 4) {
            return None;
        }
        if !has_taken {
            return self.all.new.take(&self.host, until).await.map(|_turn| Place::New { _turn });
        }
        // A push that waits for its own service holds none of the common places.
        let taking = async {
            let own = self.known.acquire().await.ok()?;
            Some(Place::Known { _own: own, _of_all: self.all.known.acquire().await.ok()? })
        };
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
        let strangers: Vec<_> = (0..100).map(|number| OwnPlaces::among(&all, &format!("stranger{number}"))).collect();
        let mut hanging = Vec::new();
        for stranger in &strangers {
            for _ in 0..100 {
                hanging.extend(stranger.take(Urgency::Urgent, false, until()).await);
            }
        }
        assert_eq!(hanging.len(), OF_ALL_NEW);
        let own = OwnPlaces::among(&all, "own");
        let mut alerts = Vec::new();
        while let Some(place) = own.take(Urgency::CanWait, true, until()).await {
            alerts.push(place);
        }
        assert_eq!(alerts.len(), OF_ONE / 4 * 3);
        for _ in alerts.len()..OF_ONE {
            alerts.extend(own.take(Urgency::Urgent, true, until()).await);
        }
        assert!(alerts.len() == OF_ONE && own.take(Urgency::Urgent, true, until()).await.is_none());
        let (next, ()) =
            tokio::join!(own.take(Urgency::Urgent, true, Instant::now() + Duration::from_secs(1)), async {
                drop(alerts.pop())
            });
        assert!(next.is_some(), "a call waits for one");
        assert!(own.take(Urgency::Urgent, false, until()).await.is_none(), "it has taken none yet");
    }
}
