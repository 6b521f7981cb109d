//! Spare connections for calls that wait for a stream of a healthy connection whose streams are all taken: the service is slow, or permits few streams.
//!
//! | a call waits for a stream | consequence |
//! | --- | --- |
//! | and a spare connection has a free one | the call leaves by that, at once |
//! | for [`FULL_FOR`], and all connections work, and are full | one more is begun, for all waiting calls |
//! | likewise, and one without an answer so far is full for [`HELD_UP_AFTER`] | that one counts as full: its requests may be unanswered because of their devices alone |
//!
//! A service that devices choose has none before it has taken pushes of [`MANY`] devices: so many devices could have named as many services. Until then a
//! single user, whose own service permits one stream, costs one connection.
//!
//! Invariant: at most [`SPARES`] for each service of an App, beside the shared connection and those of the cores. One that was unused for [`IDLE`] is closed.
//! Only calls begin spare connections, and only calls use them. Of all waiting calls, one checks whether one more is needed, once in each [`FULL_FOR`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::futures::Notified;
use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio::time::{Instant, sleep_until};

use super::backoff::Backoff;
use super::further_connections::HELD_UP_AFTER;
use super::single_flight::{Freshness, SingleFlight};
use super::state::Line;
use crate::lock::Mutex as Lock;
use crate::push::health::since_taken::DistinctDevices;

/// How long a call waits for a stream before a connection is begun.
const FULL_FOR: Duration = Duration::from_millis(250);
/// How long one is kept that is not used.
pub(super) const IDLE: Duration = Duration::from_secs(30);
/// Spare connections at most.
const SPARES: usize = 3;

/// Devices whose pushes a chosen service must have taken before it gets spare connections.
const MANY: usize = 8;

/// Whether a service that devices have chosen serves many of them.
#[derive(Default)]
pub(super) struct ServesMany {
    does: AtomicBool,
    devices: Lock<DistinctDevices<MANY>>,
}

impl ServesMany {
    /// Notes that the service has taken a push to this device.
    pub(super) fn note_taken(&self, whom: u64) {
        if !self.does() && self.devices.lock().add(whom) {
            self.does.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn does(&self) -> bool {
        self.does.load(Ordering::Relaxed)
    }
}

/// The spare connections of one channel.
pub(super) struct SpareConnections<T, E> {
    flights: [Arc<SingleFlight<T, E>>; SPARES],
    /// Told when one was made, or could not be.
    changed: Arc<Notify>,
    /// When it was looked last; held by the call that has waited longest.
    looked: Mutex<Option<Instant>>,
}

/// The turn of one call to look for all that wait.
pub(super) struct Turn<'a> {
    looked: MutexGuard<'a, Option<Instant>>,
    /// Since when this call waits.
    since: Instant,
}

impl Turn<'_> {
    /// Waits until it is to be looked.
    pub(super) async fn due(&mut self) {
        let from = self.looked.map_or(self.since, |looked| looked.max(self.since));
        sleep_until(from + FULL_FOR).await;
        *self.looked = Some(Instant::now());
    }
}

impl<T: Clone + Send + 'static, E: Copy + Send + 'static> SpareConnections<T, E> {
    pub(super) fn new(backoff: Backoff) -> Self {
        let changed = Arc::<Notify>::default();
        let flights = std::array::from_fn(|_| SingleFlight::notifying(backoff, Arc::clone(&changed)));
        Self { flights, changed, looked: Mutex::default() }
    }

    /// Waits for the turn of a call that waits from now on.
    pub(super) async fn turn(&self) -> Turn<'_> {
        let since = Instant::now();
        Turn { looked: self.looked.lock().await, since }
    }

    /// Told when another one was made after this, or could not be.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// The spare connections.
    pub(super) fn all(&self, freshness: impl Fn(&T) -> Freshness) -> impl Iterator<Item = T> {
        self.flights.iter().filter_map(move |flight| flight.have(&freshness))
    }

    /// The next one to make, where all before it are full.
    pub(super) fn next(
        &self,
        freshness: impl Fn(&T) -> Freshness,
        is_full: impl Fn(&T) -> bool,
    ) -> Option<&Arc<SingleFlight<T, E>>> {
        for flight in &self.flights {
            match flight.have(&freshness) {
                None => return Some(flight),
                Some(spare) if !is_full(&spare) => return None,
                Some(_) => {}
            }
        }
        None
    }
}

/// Whether all streams are taken of a connection that serves.
pub(super) fn is_full(line: &Line) -> bool {
    line.has_served() && line.is_proven() && !line.has_room()
}

/// Whether all streams are taken of one that does not serve yet, though it has had time to.
pub(super) fn is_held_up(line: &Line) -> bool {
    !line.has_room() && line.busy_since() + HELD_UP_AFTER <= Instant::now()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn however_many_wait_one_looks_and_when_it_has_its_stream_the_next_one_does() {
        const NONE: Backoff = Backoff { first: Duration::ZERO, most: Duration::ZERO };
        let (spare, looks) = (Arc::new(SpareConnections::<(), ()>::new(NONE)), Arc::new(AtomicU32::new(0)));
        let began = Instant::now();
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let (spare, looks) = (Arc::clone(&spare), Arc::clone(&looks));
                tokio::spawn(async move {
                    let mut turn = spare.turn().await;
                    loop {
                        turn.due().await;
                        looks.fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        for seconds in 1..=10 {
            sleep_until(began + Duration::from_secs(seconds) + FULL_FOR / 2).await;
            assert_eq!(u64::from(looks.load(Ordering::Relaxed)), seconds * 4, "after {seconds} s");
            // The one whose turn it is leaves.
            waiting[seconds as usize - 1].abort();
        }
    }
}
