//! The nodes that are believed dead, as far as their leases show.
//!
//! | a node is believed dead when | because |
//! | --- | --- |
//! | it released its lease | it said so |
//! | its lease has been missing for longer than a renewal, and this node's connection to the store has not broken for a whole lease | a Redis that came back empty, was paused or was flushed has lost the leases of living nodes, which renew them meanwhile |
//! | in a Cluster: likewise, and the one server that has the lease has answered for so long | likewise |
//!
//! Invariant: a lease that would last longer than one, because the store's clock was set back, is cut to one: a living node renews it meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::{RELEASED, RedisStore};
use crate::clock;
use crate::vault::store::StoreError;

/// How long a lease must be missing, in tenths of a lease: longer than a node that lives takes to renew it.
const MISSING: u32 = 3;

/// After how many limits of an operation without a look a lease that can be read counts as one that could not, where a lease is shorter.
const UNREAD_LIMITS: u32 = 4;

/// The findings about the leases of other nodes.
#[derive(Default)]
pub(super) struct DeadNodes {
    /// Since when the lease of a node is missing.
    missing_since: BTreeMap<Arc<str>, Instant>,
    /// Since when the lease of a node could be read each time that it was to be, and when it was last.
    read_since: BTreeMap<Arc<str>, (Instant, Instant)>,
    /// Since when a node is believed dead.
    dead_since: BTreeMap<Arc<str>, Instant>,
}

impl DeadNodes {
    /// Since when a node is believed dead, by the last look.
    pub fn since(&self, node: &str) -> Option<Instant> {
        self.dead_since.get(node).copied()
    }

    /// Reads a node's lease, and tells whether the node is dead; `None`: the server of a Cluster that has the lease does not answer.
    ///
    /// # Errors
    /// As the store's.
    pub async fn look(&mut self, store: &RedisStore, node: &str) -> Result<Option<bool>, StoreError> {
        let read = async {
            let lease = store.lease_of(node).await?;
            if lease.is_some() {
                store.cut_lease(node).await?;
            }
            Ok(lease)
        };
        let Some(lease) = store.link.skip_silent_server(read.await)? else {
            self.read_since.remove(node);
            self.missing_since.remove(node);
            return Ok(None);
        };
        let is_read_since = self.note_read(store, node);
        if lease.is_some() {
            self.missing_since.remove(node);
        }
        let steady_for = if store.link.is_cluster() { clock::since(is_read_since) } else { store.link.steady_for() };
        let is_dead = match lease.as_deref() {
            Some(run) => run == RELEASED,
            None => {
                let missing = clock::since(*self.missing_since.entry(node.into()).or_insert_with(clock::now));
                // A node that has released its lease before stays dead.
                self.dead_since.contains_key(node) || missing >= store.lease * MISSING / 10 && steady_for >= store.lease
            }
        };
        if is_dead {
            self.dead_since.entry(node.into()).or_insert_with(clock::now);
        } else if lease.is_some() {
            self.dead_since.remove(node);
        }
        Ok(Some(is_dead))
    }

    /// The lease of a node was read; since when it could be, each time. One that was not read for long may have been lost, and renewed, meanwhile.
    fn note_read(&mut self, store: &RedisStore, node: &str) -> Instant {
        let now = clock::now();
        let (since, at) = self.read_since.entry(node.into()).or_insert((now, now));
        if clock::since(*at) > store.lease.max(store.link.limit() * UNREAD_LIMITS) {
            *since = now;
        }
        *at = now;
        *since
    }
}

impl RedisStore {
    /// This node is about to give up its lease: the others may strike its name off from then on, and if it runs out before.
    pub fn note_leaving(&self) {
        self.leaves.store(true, Ordering::Relaxed);
        self.has_left.store(true, Ordering::Relaxed);
    }
}
