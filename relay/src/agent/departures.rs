//! The nodes that have announced that they leave, and those that live. Most of the first only restart: they serve until they end, and are back soon.
//!
//! Invariant: a node that is not back within [`BACK_WITHIN`] counts as gone. All shards together ask the store once within [`LIVING_FOR`] which nodes live.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::lock::Mutex;
use crate::vault::{Owner, StoreError};

/// How long a node is waited for from its word on: 30 s of hand-over, 10 s of drain, and its start.
pub(super) const BACK_WITHIN: Duration = Duration::from_secs(60);

/// How long the store's list of living nodes is trusted.
const LIVING_FOR: Duration = Duration::from_secs(1);

/// The nodes that live, as the store has said.
type Living = Option<Arc<[Owner]>>;

/// When each is to be back.
#[derive(Default)]
pub(super) struct Departures {
    back_by: Mutex<BTreeMap<Arc<str>, Instant>>,
    /// The time of the list. The lock is held while the store is asked.
    living: tokio::sync::Mutex<Option<(Instant, Living)>>,
}

impl Departures {
    /// A node says that it leaves.
    pub(super) fn note(&self, node: Arc<str>, now: Instant) {
        let mut nodes = self.back_by.lock();
        nodes.retain(|_, until| *until > now);
        nodes.insert(node, now + BACK_WITHIN);
    }

    /// The nodes that live; `asked` is called unless another shard has asked just now. `None`: the store does not answer.
    pub(super) async fn living(&self, asked: impl Future<Output = Result<Vec<Owner>, StoreError>>) -> Living {
        let began = clock::now();
        let mut known = self.living.lock().await;
        // An answer that came while this shard waited is new enough, however long it took.
        if let Some((at, living)) = &*known
            && (*at >= began || began.saturating_duration_since(*at) < LIVING_FOR)
        {
            return living.clone();
        }
        let living: Living = asked.await.ok().map(Into::into);
        *known = Some((clock::now(), living.clone()));
        living
    }

    /// Until when a node is waited for.
    pub(super) fn back_by(&self, node: &str, now: Instant) -> Option<Instant> {
        let nodes = self.back_by.lock();
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
        assert_eq!(departures.back_by.lock().len(), 1, "what is over is forgotten");
    }

    #[tokio::test]
    async fn the_store_is_asked_once_for_all_that_ask_together_also_where_it_does_not_say() {
        let living = Departures::default();
        for said in [Ok(Vec::from_iter(Owner::parse("one#1"))), Err(StoreError::Gone)] {
            *living.living.lock().await = None;
            let expected: Option<Arc<[Owner]>> = said.clone().ok().map(Into::into);
            assert_eq!(living.living(async { said }).await, expected);
            assert_eq!(living.living(async { Ok(Vec::new()) }).await, expected, "of a moment ago");
        }
    }
}
