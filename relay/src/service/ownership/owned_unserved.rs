//! Accounts that the store says are this run's, and that no shard has: nobody registers them, nobody claims them, and a call reaches none of their devices until
//! a restart. That comes of a claim which meets its own instance at the end of its time here, or of a store that came back as it was before another node had it.
//!
//! ```text
//! the names of this node in the store ── not here ── this run's ── not let go of, not ended ── no node has wiped it ── bound, registered
//! ```
//!
//! Invariant: what was [let go of](super::shown_again) is not served by its record alone, and what has ended, here or as another node says, is not served at all.
//! One that is on its way here is bound once: the shard that has it by this fence binds it no second time.

use std::sync::Arc;

use sip::id::InstanceId;
use tokio::task::JoinHandle;

use crate::service::Inner;
use crate::vault::RecordOwner;

/// Names that are looked at with each renewal, about: of 100,000 instances all within five minutes.
const NAMES: usize = 256;

/// How far the search is.
#[derive(Default)]
pub(super) struct SearchForUnserved {
    under_way: Option<JoinHandle<u64>>,
}

impl SearchForUnserved {
    /// Looks at some more names, beside the renewals.
    pub(super) async fn go_on(&mut self, it: &Arc<Inner>) {
        if self.under_way.as_ref().is_some_and(|under_way| !under_way.is_finished()) {
            return;
        }
        let place = match self.under_way.take() {
            Some(ended) => ended.await.unwrap_or(0),
            None => 0,
        };
        self.under_way = Some(tokio::spawn(it.clone().serve_unserved_from(place)));
    }
}

impl Inner {
    /// Serves what is this run's, and what no shard has, of the names from this place on; where to go on.
    async fn serve_unserved_from(self: Arc<Self>, place: u64) -> u64 {
        let (agent, vault) = (&self.dependencies.agent, &self.dependencies.vault);
        if agent.is_claiming() || agent.is_doubtful() || self.is_leaving() || vault.is_being_restored() {
            return place;
        }
        // A store that is away is asked again.
        let Ok((next, named)) = vault.named_from(place, NAMES).await else { return place };
        for id in named {
            // What is being claimed is on its way to its shard.
            if !agent.is_claiming()
                && self.look_as_relay(id).await.is_err()
                && !self.released.has(id)
                && vault.tombstones().look(id).is_none()
                && vault.record_owner(id).await == Ok(RecordOwner::ThisRun)
            {
                self.serve_unserved(id).await;
            }
        }
        next
    }

    async fn serve_unserved(self: &Arc<Self>, id: InstanceId) -> Option<()> {
        let _guard = self.changing.lock_key(id).await;
        let stored = self.dependencies.vault.load(id).await.ok()??;
        // The other nodes are asked for an account alone.
        if stored.owned && self.has_its_place(&stored).await? && self.serve_owned(stored).await? {
            tracing::warn!(
                event = "owned-and-unserved",
                instance = %id,
                "the store says that an instance is this node's, and nothing here had it; it is served again"
            );
        }
        Some(())
    }
}
