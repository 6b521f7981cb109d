//! Connections to a push service that belong to one core each.
//!
//! A push that leaves by a connection of another core wakes that core, and its answer wakes this one. A core that pushes often avoids both by a connection
//! of its own; a core that pushes seldom uses the one for all.
//!
//! Invariant: at most [`CONNECTIONS_MAX`] for each service of an App, made only where pushes have been frequent. No push waits for one.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backoff::Backoff;
use super::history::ConnectionHistory;
use super::single_flight::SingleFlight;
use crate::cores;
use crate::lock::Mutex;

/// Connections at most, beside the one for all; cores above it share them.
const CONNECTIONS_MAX: usize = 8;
/// So many pushes by the connection for all, within so long, are often.
const OFTEN: (u32, Duration) = (16, Duration::from_secs(10));

/// The connections of all cores.
pub(super) struct CoreConnections<T, E>([CoreConnection<T, E>; CONNECTIONS_MAX]);

/// The connection of one core, if it has one.
pub(super) struct CoreConnection<T, E> {
    /// The core that owns it: its number, modulo [`CONNECTIONS_MAX`].
    pub(super) core: usize,
    pub(super) flight: Arc<SingleFlight<T, E>>,
    /// How its connections have ended: what befalls them delays no dial of the one for all.
    pub(super) history: Arc<ConnectionHistory>,
    borrowed: Mutex<Borrowed>,
}

/// How often a core has pushed by the connection for all.
#[derive(Clone, Copy)]
struct Borrowed {
    since: Instant,
    count: u32,
}

impl<T: Clone + Send + 'static, E: Copy + Send + 'static> CoreConnections<T, E> {
    pub(super) fn new(backoff: Backoff) -> Self {
        let borrowed = || Mutex::new(Borrowed { since: Instant::now(), count: 0 });
        Self(std::array::from_fn(|core| CoreConnection {
            core,
            flight: SingleFlight::new(backoff),
            history: Arc::default(),
            borrowed: borrowed(),
        }))
    }

    /// The connection of the core that this runs on; `None` off the cores.
    pub(super) fn here(&self) -> Option<&CoreConnection<T, E>> {
        cores::here().map(|core| &self.0[core % CONNECTIONS_MAX])
    }
}

impl<T, E> CoreConnection<T, E> {
    /// A further push leaves by the connection for all: returns whether a connection for this core is worth it.
    pub(super) fn is_wanted(&self, now: Instant) -> bool {
        let (count, period) = OFTEN;
        // Of one core alone: nobody waits here.
        let mut borrowed = self.borrowed.lock();
        if now.duration_since(borrowed.since) > period {
            *borrowed = Borrowed { since: now, count: 0 };
        }
        borrowed.count += 1;
        borrowed.count >= count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_frequent_pushes_are_worth_a_connection() {
        let connections = CoreConnections::<(), ()>::new(Backoff { first: Duration::ZERO, most: Duration::ZERO });
        assert!(connections.here().is_none(), "this is no core");
        let (own, now) = (&connections.0[0], Instant::now());
        let seldom = (0..100).any(|push| own.is_wanted(now + OFTEN.1 * push));
        assert!(!seldom);
        let later = now + OFTEN.1 * 200;
        let wanted: Vec<bool> = (0..OFTEN.0).map(|_| own.is_wanted(later)).collect();
        assert_eq!(wanted.iter().position(|wanted| *wanted), Some(OFTEN.0 as usize - 1));
    }
}
