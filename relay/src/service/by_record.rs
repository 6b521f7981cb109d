//! Ending an instance by its record alone: its owner is gone, or another node's new instance takes its place.
//!
//! ```text
//! record ── tombstone, durable ── audit line ─┬─ erased ──────────── a receipt; its owner is told to let go
//!                                             └─ the store is away ─ asked again, by this run or the next
//! ```
//!
//! Invariant: whoever owns a record, its tombstone comes before its erasure; and what is replaced leaves one also where nothing of
//! it could be read. The SIP server is not spoken to from here: an owner that lives unregisters when it lets go, so the receipt
//! says `unregistered: false`.

use std::sync::Arc;

use sip::id::InstanceId;

use super::Inner;
use super::types::{AccessError, WipeReason, Wiped};
use crate::agent::request::Principal;
use crate::audit::{Act, Whose};
use crate::clock::shared_now;
use crate::domain::Word as _;
use crate::metrics::labels::StoreOperation;
use crate::vault::record::Record;
use crate::vault::{Lookup, MAX_LIFETIME_S, Stored, Tombstone};

impl Inner {
    /// Ends the instance that a new one replaces, in the background: its app has its answer already.
    pub(super) fn replace(self: Arc<Self>, earlier: InstanceId, lookup: Lookup) {
        tokio::spawn(async move {
            if self.wipe(earlier, Principal::Relay, WipeReason::Replaced).await.is_err() {
                self.replace_by_record(earlier, lookup).await;
            }
        });
    }

    /// Ends what a new instance replaces and what is not here.
    async fn replace_by_record(&self, earlier: InstanceId, lookup: Lookup) {
        let vault = &self.dependencies.vault;
        if vault.tombstones().look(earlier).is_none() {
            match vault.load(earlier).await {
                Ok(Some(stored)) if self.wipe_stored(&stored, WipeReason::Replaced).await.is_ok() => return,
                // The disk has no room for its tombstone, and it must go all the same.
                Ok(Some(_)) => {}
                // Its name alone was left.
                Ok(None) => {}
                Err(_) => {
                    let ends_at = shared_now() + MAX_LIFETIME_S;
                    let tombstone = Tombstone::new(Some(lookup), ends_at, WipeReason::Replaced, None);
                    // One that cannot be written is honoured as long as this run lives.
                    let _ = vault.tombstones().raise(earlier, tombstone).await;
                }
            }
        }
        self.dependencies.agent.erase(earlier, lookup);
    }

    /// Wipes an instance by its record.
    ///
    /// # Errors
    /// [`AccessError::StoreAway`] when its tombstone cannot be written; [`AccessError::Unknown`] when it was wiped meanwhile. Then nothing is done.
    pub(super) async fn wipe_stored(&self, stored: &Stored, reason: WipeReason) -> Result<Wiped, AccessError> {
        let (id, vault) = (stored.id, &self.dependencies.vault);
        // Of two who ask at once, one wipes.
        let _guard = self.changing.lock_key(id).await;
        if vault.tombstones().look(id).is_some() {
            return Err(AccessError::Unknown);
        }
        let facts = |record: &Record| {
            let whose = Whose {
                instance: Some(id),
                account: Some(vault.aor_key(&record.account.aor)),
                app: Some(record.app.clone()),
            };
            (vault.lookup_of(record), vault.wipe_proof(id, &record.secret), whose)
        };
        let facts = vault.open_lent(id, &stored.sealed, facts).ok();
        let lookup = facts.as_ref().map(|(lookup, ..)| *lookup);
        let proof = facts.as_ref().map(|(_, proof, _)| *proof);
        let tombstone = Tombstone::new(lookup, stored.expires_at, reason, proof);
        vault.tombstones().raise(id, tombstone).await.map_err(|_| AccessError::StoreAway)?;
        let whose = || facts.map_or(Whose { instance: Some(id), ..Whose::default() }, |(.., whose)| whose);
        self.dependencies.audit.note(Act::Wiped(reason), whose);
        self.dependencies.metrics.wipe(reason);
        tracing::info!(event = "wiped-for-another", instance = %id, reason = reason.word(), "wiped by its record, for its owner");
        if self.timed(StoreOperation::Erase, vault.erase_all_of(id, lookup)).await.is_err() {
            self.dependencies.agent.erase(id, lookup);
            return Ok(Wiped::Wiping);
        }
        vault.tombstones().note_erased(id);
        if !stored.owned {
            // An owner that has released its lease may serve on until another node has all that it hands over; that one may have taken the
            // record by now, and is told as its owner.
            let _ = vault.tell_ended(&stored.owner, id).await;
        }
        let wiped_at = vault.tombstones().look(id).and_then(|tombstone| tombstone.wiped_at);
        Ok(Wiped::Done(self.receipt(id, wiped_at.unwrap_or_else(shared_now), reason, false)))
    }
}
