//! Accounts that this node has released because the store did not show their records, and whose records the store shows again.
//!
//! ```text
//! released ── its device, or app, shows its secret ── no node has wiped it ── the record is this run's, and nothing has replaced it ── bound, registered
//! ```
//!
//! Invariant: a record alone is not enough, because a store may show one that was wiped: its secret was shown as well, every other node was heard, and nothing
//! has replaced the instance. At most [`RELEASED_MAX`] are remembered; a restart serves the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use sip::id::InstanceId;

use super::missing_records::PeerAnswers;
use crate::agent::request::SettlingNews;
use crate::lock::Mutex;
use crate::service::Inner;
use crate::vault::record::StoredRecord;
use crate::vault::{Fence, Stored};

/// Released accounts that are remembered, 24 bytes each.
const RELEASED_MAX: usize = 100_000;

/// The accounts that were released in this run because the store did not show them, each with its fence.
#[derive(Default)]
pub(crate) struct Released(Mutex<BTreeMap<InstanceId, Fence>>);

impl Released {
    /// An account was released.
    pub(super) fn note(&self, id: InstanceId, fence: Fence) {
        let mut all = self.0.lock();
        if all.len() < RELEASED_MAX {
            all.insert(id, fence);
        }
    }

    fn take(&self, id: InstanceId) -> Option<Fence> {
        self.0.lock().remove(&id)
    }
}

impl Inner {
    /// The secret of an instance was shown whose record is this run's, and which is not here: it is served again, if it was released.
    pub(crate) fn serve_if_released(self: &Arc<Self>, id: InstanceId) {
        // Of two who show it at once, one has it served.
        if let Some(fence) = self.released.take(id) {
            let it = self.clone();
            tokio::spawn(async move {
                if it.serve_again(id, fence).await.is_none() {
                    it.released.note(id, fence);
                }
            });
        }
    }

    /// Serves an account again unless it has ended; `None`: nobody can tell now.
    async fn serve_again(self: &Arc<Self>, id: InstanceId, fence: Fence) -> Option<()> {
        let agent = &self.dependencies.agent;
        let _guard = self.changing.lock_key(id).await;
        // It is a store that shows it now and then.
        let stored = self.dependencies.vault.load(id).await.ok()??;
        if !stored.owned {
            return (stored.fence > fence).then_some(());
        }
        let (wiped, heard) = self.wiped_elsewhere(&[(id, stored.fence)]).await;
        if heard != PeerAnswers::All || agent.is_claiming() || agent.is_doubtful() || self.is_leaving() {
            return None;
        }
        if !wiped.is_empty() || !self.has_its_place(&stored).await? {
            return Some(());
        }
        let Some(new) = self.open_left(stored, None).await else { return Some(()) };
        tracing::info!(
            event = "let-go-served-again",
            instance = %id,
            "the store shows the record of an instance again, and its secret was shown; it is served again"
        );
        agent.bind_all(vec![*new], &SettlingNews::for_nobody()).await.ended().await;
        Some(())
    }

    /// Whether it is an account that is not here, has not ended here, and that nothing has replaced; `None`: the store does not say.
    async fn has_its_place(&self, stored: &Stored) -> Option<bool> {
        let vault = &self.dependencies.vault;
        let lookup = vault.open_record(stored.id, &stored.sealed, |record| match record {
            StoredRecord::Lent(record) => Some(vault.lookup_of(record)),
            StoredRecord::PushBinding(_) => None,
        });
        let Ok(Some(lookup)) = lookup else { return Some(false) };
        let named = vault.find(&lookup).await.ok()?;
        let is_here = self.look_as_relay(stored.id).await.is_ok() || vault.tombstones().look(stored.id).is_some();
        Some(!is_here && named.is_none_or(|named| named == stored.id))
    }
}
