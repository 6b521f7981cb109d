//! Whether a store has lost what this run wrote: a restart without its data, a flush, a fail-over to a replica that lagged.
//!
//! Each write of a record is followed by a mark, a number that counts on. A Redis keeps, replicates and loses in the order in which
//! it was written to: as long as it has the last mark, it has had all that came before. So a record that is missing then was
//! wiped, and does not come back.
//!
//! Invariant: a doubt is a loss. A Cluster orders nothing between its slots, and is always in doubt.

use std::sync::atomic::{AtomicU64, Ordering};

use super::scripts::SCRIPTS;
use super::{INDEX_TTL, RedisStore, millis};
use crate::vault::store::{Owner, StoreError};

/// The last mark of this run that the store has confirmed; 0: none.
#[derive(Default)]
pub(super) struct Marked(AtomicU64);

impl RedisStore {
    /// Marks that everything was written that this run has written until now.
    pub(super) async fn mark(&self, owner: &Owner) -> Result<(), StoreError> {
        if !self.link.is_cluster() {
            let mark: u64 = self.link.ask(SCRIPTS.mark.key(mark_key(owner)).arg(millis(INDEX_TTL))).await?;
            self.marked.0.fetch_max(mark, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Whether something may be missing that was not wiped. Asked once after a loss: from then on the store begins anew.
    pub async fn may_have_lost(&self, owner: &Owner) -> Result<bool, StoreError> {
        let marked = self.marked.0.load(Ordering::Relaxed);
        if marked == 0 {
            return Ok(true);
        }
        let mark: Option<u64> = self.link.ask(::redis::cmd("GET").arg(mark_key(owner))).await?;
        let mark = mark.unwrap_or(0);
        if mark < marked {
            self.marked.0.store(mark, Ordering::Relaxed);
        }
        Ok(mark < marked)
    }
}

fn mark_key(run: &Owner) -> String {
    format!("sipwake:mark:{run}")
}
