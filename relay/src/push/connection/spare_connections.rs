//! Spare connections for calls that wait for a stream of a connection which serves, and whose streams are all taken: the service is slow, or lets few be open.
//!
//! | a call waits for a stream | consequence |
//! | --- | --- |
//! | and a spare connection has one that is free | it leaves by that, at once |
//! | for [`FULL_FOR`], and those that there are serve, and are full | one more is begun, for all that wait |
//!
//! Invariant: at most [`SPARES`] for each service of an App, beside the one for all and those of the cores; one by which nothing has left for [`IDLE`] is let
//! go. What is no call begins none, and goes over none.

use std::sync::Arc;
use std::time::Duration;

use super::backoff::Backoff;
use super::single_flight::{Freshness, SingleFlight};

/// How long a call waits for a stream before a connection is begun.
pub(super) const FULL_FOR: Duration = Duration::from_millis(250);
/// How long one is kept that is not used.
pub(super) const IDLE: Duration = Duration::from_secs(30);
/// Spare connections at most.
const SPARES: usize = 3;

/// The spare connections of one channel.
pub(super) struct SpareConnections<T, E>([Arc<SingleFlight<T, E>>; SPARES]);

impl<T: Clone + Send + 'static, E: Copy + Send + 'static> SpareConnections<T, E> {
    pub(super) fn new(backoff: Backoff) -> Self {
        Self(std::array::from_fn(|_| SingleFlight::new(backoff)))
    }

    /// Those that there are.
    pub(super) fn all(&self, freshness: impl Fn(&T) -> Freshness) -> Vec<T> {
        self.0.iter().filter_map(|flight| flight.have(&freshness)).collect()
    }

    /// The next one to make, where all before it are full.
    pub(super) fn next(
        &self,
        freshness: impl Fn(&T) -> Freshness,
        is_full: impl Fn(&T) -> bool,
    ) -> Option<&Arc<SingleFlight<T, E>>> {
        for flight in &self.0 {
            match flight.have(&freshness) {
                None => return Some(flight),
                Some(spare) if !is_full(&spare) => return None,
                Some(_) => {}
            }
        }
        None
    }
}
