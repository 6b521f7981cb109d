//! Leaving: a node that is told to end gives its instances to the others before it goes.
//!
//! ```text
//! leave ── nothing is enabled or registered here any more ── the lease is released ── the others claim, and register
//!       ── they say so by letter ── all are registered elsewhere, or the limit is over ── the drain
//! ```
//!
//! Until the drain calls that come are pushed and answered here as ever: a registrar may send one to the earlier Contact
//! in the moment before the next node has replaced it.
//!
//! Invariant: a node that is alone, or whose store is away, hands nothing over and leaves at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sip::id::InstanceId;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::{Inner, Service};
use crate::agent::request::Request;
use crate::vault::Owner;
use crate::vault::letters::Letter;

/// How long the others may take to register what this node hands over; what is not registered by then they go on with.
pub const HAND_OVER_LIMIT: Duration = Duration::from_secs(30);
/// How long the SIP servers may take to answer the first REGISTER of what was taken over, until nobody waits for them any more.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// How often it is looked whether they have.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How far it is.
#[derive(Default)]
pub(super) struct HandOver {
    leaving: AtomicBool,
    taken: AtomicU64,
    news: Notify,
}

impl HandOver {
    pub(super) fn note_taken(&self, count: u64) {
        self.taken.fetch_add(count, Ordering::Relaxed);
        self.news.notify_one();
    }
}

impl Service {
    /// Hands all instances over to the other nodes of this store; comes back when they are registered there, at the latest after
    /// [`HAND_OVER_LIMIT`].
    pub async fn leave(&self) {
        let it = &self.0;
        it.hand_over.leaving.store(true, Ordering::Relaxed);
        let (agent, vault) = (&it.dependencies.agent, &it.dependencies.vault);
        let ids = agent.ask_all(Request::Ids).await.into_iter().map(|ids| ids.len() as u64).sum();
        if ids == 0 || vault.living_peers().await.unwrap_or_default().is_empty() {
            return;
        }
        let begun = Instant::now();
        agent.hand_over().await;
        if let Err(error) = vault.release_lease().await {
            tracing::warn!(%error, "the instances cannot be handed over; the others take them when the lease runs out");
            return;
        }
        let all_taken = async {
            while it.hand_over.taken.load(Ordering::Relaxed) < ids {
                it.hand_over.news.notified().await;
            }
        };
        let in_time = timeout(HAND_OVER_LIMIT, all_taken).await.is_ok();
        let taken = it.hand_over.taken.load(Ordering::Relaxed);
        let took_ms = begun.elapsed().as_millis() as u64;
        match in_time {
            true => tracing::info!(instances = ids, took_ms, "all instances are registered by other nodes"),
            false => tracing::warn!(
                instances = ids,
                taken,
                took_ms,
                "not all instances were registered by other nodes in time"
            ),
        }
    }
}

impl Inner {
    /// Whether this node takes nothing on any more.
    pub(super) fn is_leaving(&self) -> bool {
        self.hand_over.leaving.load(Ordering::Relaxed) || self.dependencies.drain.has_begun()
    }

    /// Waits until the SIP servers of these have answered, ends their claim, and tells the run that they were taken from.
    pub(super) async fn settle(self: Arc<Self>, from: Option<Owner>, ids: Arc<[InstanceId]>) {
        let until = Instant::now() + SETTLE_LIMIT;
        let mut waiting = ids.clone();
        while !waiting.is_empty() && Instant::now() < until {
            sleep(LOOK_AGAIN).await;
            let ask = |reply| Request::NotSettled { ids: waiting.clone(), reply };
            let left: Vec<InstanceId> = self.dependencies.agent.ask_all(ask).await.into_iter().flatten().collect();
            waiting = left.into();
        }
        self.dependencies.agent.end_claim().await;
        if let Some(from) = from {
            // One that is not waiting any more does not read it.
            let _ = self.dependencies.vault.write_letter(&from, &Letter::TakenOver(ids.len() as u64)).await;
        }
    }
}
