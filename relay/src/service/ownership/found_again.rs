//! Records that the store has for this run, and that nobody serves: the node has let go of them while the store did not show them.
//!
//! ```text
//! the index of this node ── not here ── not here at the next look either ── the record is this run's, and has its place ── bound, registered
//! ```
//!
//! Invariant: what is on its way here, ends here or was replaced is not found again: nothing is looked for while instances are being taken over, what has a
//! tombstone is left to its erasure, and a proven account whose place names another one has ended. What does not stay here is tried once. A registration that
//! passed through is read from the store when a request names it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sip::id::InstanceId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::agent::request::Request;
use crate::clock;
use crate::service::Inner;
use crate::vault::Stored;
use crate::vault::record::StoredRecord;

/// How often is looked for them at the most.
const EVERY: Duration = Duration::from_secs(10);
/// How many names are read for each further second between two looks.
const NAMES_A_SECOND: u32 = 1_000;
/// Records that are looked at with one look, and bound in one turn of their shards.
const AT_ONCE: usize = 32;

/// How far the search is.
#[derive(Default)]
pub(super) struct Searching {
    due_at: Option<Instant>,
    under_way: Option<JoinHandle<Found>>,
    found: Found,
}

/// The outcome of a look.
#[derive(Clone, Default)]
struct Found {
    /// How many names the index has.
    named: u32,
    /// Those that were named and not here.
    absent: BTreeSet<InstanceId>,
    /// Those of them that were tried.
    tried: BTreeSet<InstanceId>,
}

impl Searching {
    /// Goes on, beside the renewals.
    pub(super) async fn go_on(&mut self, it: &Arc<Inner>) {
        if let Some(ended) = self.under_way.take_if(|under_way| under_way.is_finished()) {
            self.found = ended.await.unwrap_or_default();
            self.due_at = Some(clock::now() + EVERY.max(Duration::from_secs(1) * (self.found.named / NAMES_A_SECOND)));
        }
        let due_at = *self.due_at.get_or_insert_with(|| clock::now() + EVERY);
        if self.under_way.is_none() && due_at <= clock::now() && !it.takes_or_leaves() {
            self.under_way = Some(tokio::spawn(it.clone().look_for_unserved_records(self.found.clone())));
        }
    }
}

impl Inner {
    /// Whether instances may be on their way here, or away from here.
    fn takes_or_leaves(&self) -> bool {
        let agent = &self.dependencies.agent;
        agent.is_claiming() || agent.is_doubtful() || self.is_leaving()
    }

    /// Looks once, and serves what an earlier look has missed as well.
    async fn look_for_unserved_records(self: Arc<Self>, earlier: Found) -> Found {
        let agent = &self.dependencies.agent;
        // Before what is here: what is enabled meanwhile is not named yet.
        let Ok(named) = self.dependencies.vault.named_here().await else { return earlier };
        let owned = agent.ask_all(Request::Owned).await.into_iter().flatten();
        let here: BTreeSet<InstanceId> = owned.map(|(id, _)| id).collect();
        let absent: BTreeSet<InstanceId> = named.iter().filter(|id| !here.contains(*id)).copied().collect();
        let mut tried: BTreeSet<InstanceId> = earlier.tried.intersection(&absent).copied().collect();
        let due: Vec<InstanceId> = absent
            .iter()
            .filter(|id| earlier.absent.contains(*id) && !tried.contains(*id))
            .take(AT_ONCE)
            .copied()
            .collect();
        let mut unserved = Vec::new();
        for id in due {
            // A store that is away is asked again with the next look.
            let Ok(stored) = self.dependencies.vault.load(id).await else { continue };
            tried.insert(id);
            if let Some(stored) = stored.filter(|stored| stored.owned) {
                unserved.push(stored);
            }
        }
        self.serve_again(unserved).await;
        Found { named: u32::try_from(named.len()).unwrap_or(u32::MAX), absent, tried }
    }

    /// Binds those that are to be served here.
    async fn serve_again(self: &Arc<Self>, unserved: Vec<Stored>) {
        let agent = &self.dependencies.agent;
        let mut found = Vec::new();
        for stored in unserved {
            if self.is_to_be_served(&stored).await {
                found.extend(self.open_left(stored, None).await.map(|new| *new));
            }
        }
        if found.is_empty() || self.takes_or_leaves() {
            found.into_iter().for_each(|new| agent.upstreams().release(new.binding.upstream));
            return;
        }
        tracing::warn!(
            event = "instances-found-again",
            instances = found.len(),
            "the store has records of this node that nobody served; they are registered again"
        );
        self.dependencies.metrics.instances_found_again(found.len());
        // Nobody waits for the answers of their SIP servers.
        let (settled, _) = mpsc::unbounded_channel();
        agent.bind_all(found, &settled).await.ended().await;
    }

    /// Whether nothing of it is here, and nothing has taken its place.
    async fn is_to_be_served(&self, stored: &Stored) -> bool {
        let vault = &self.dependencies.vault;
        let is_here = self.look_as_relay(stored.id).await.is_ok() || vault.tombstones().look(stored.id).is_some();
        let place = vault.open_record(stored.id, &stored.sealed, |record| match record {
            StoredRecord::Lent(record) => Some((vault.lookup_of(record), record.proven)),
            StoredRecord::PushBinding(_) => None,
        });
        match place {
            Ok(Some((lookup, proven))) if !is_here => {
                vault.find(&lookup).await.is_ok_and(|named| !proven || named.is_none_or(|named| named == stored.id))
            }
            _ => false,
        }
    }
}
