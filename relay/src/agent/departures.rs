//! The nodes that have announced that they leave. Most of them only restart: they serve until they end, and are back soon.
//!
//! Invariant: a node that is not back within [`BACK_WITHIN`] counts as gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::lock::Mutex;

/// How long a node is waited for from its word on: 30 s of hand-over, 10 s of drain, and its start.
pub(super) const BACK_WITHIN: Duration = Duration::from_secs(60);

/// When each is to be back.
#[derive(Default)]
pub(super) struct Departures(Mutex<BTreeMap<Arc<str>, Instant>>);

impl Departures {
    /// A node says that it leaves.
    pub(super) fn note(&self, node: Arc<str>, now: Instant) {
        let mut nodes = self.0.lock();
        nodes.retain(|_, until| *until > now);
        nodes.insert(node, now + BACK_WITHIN);
    }

    /// Until when a node is waited for.
    pub(super) fn back_by(&self, node: &str, now: Instant) -> Option<Instant> {
        let nodes = self.0.lock();
        nodes.get(node).copied().filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_has_said_that_it_leaves_is_waited_for_and_no_other_one() {
        let (departures, now) = (Departures::default(), Instant::now());
        departures.note("one".into(), now);
        assert_eq!(departures.back_by("one", now), Some(now + BACK_WITHIN));
        assert_eq!((departures.back_by("other", now), departures.back_by("one", now + BACK_WITHIN)), (None, None));
        departures.note("other".into(), now + BACK_WITHIN);
        assert_eq!(departures.0.lock().len(), 1, "what is over is forgotten");
    }
}
