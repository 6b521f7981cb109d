//! Leaving: a node that is told to end hands its instances over to the other nodes before it exits.
//!
//! ```text
//! leaver ── enables, registers and wipes nothing any more
//!        ── stores what it is enabling, without a wait for its SIP server
//!        ── tells the others that it leaves, and for which calls it has woken devices
//!        ── releases its lease                              others ── claim, and register
//!                                                                  ── report that by letter
//!        ── waits until nothing is awaited any more, or the limit is over ── the drain
//! ```
//!
//! | an instance is awaited until | known from |
//! | --- | --- |
//! | another node has registered it | its letter |
//! | another node has it, and cannot open it, or hears nothing of its SIP server | its letter |
//! | its registration has failed at another node, and no Contact of this one stands, either | its letter, and the shards, after [`QUIET`] |
//! | it has ended here | the shards, after [`QUIET`] |
//! | the store has no record of it, or a damaged one | the store, after [`QUIET`] |
//! | another node has had it, and no letter has come, for [`LETTER_LOST`], unless its registration has failed there | the store |
//! | no other node lives | the store, after [`QUIET`] |
//!
//! Until the drain, this node pushes and answers incoming calls as before, because a registrar may still send a call to the earlier Contact before the next
//! node has replaced it. One second after the letter about an instance, this node sends no more pushes for it: a call that still comes is another branch of a
//! call that the next node has. This node is told of later changes to the instance ([`drain_messages`](crate::service::nodes::drain_messages)), so that a
//! device that was disabled there gets nothing more.
//!
//! At the end the lease is given up: for good if other nodes have taken something, and otherwise as by a crash, so that the next run finds its own instances.
//!
//! Invariant: a node that is alone, or whose store is away, hands nothing over and leaves at once. One instance that nobody can take delays no other.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use sip::id::InstanceId;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, timeout};

use super::woken_calls::Announcer;
use crate::agent::request::Request;
use crate::lock::Mutex;
use crate::service::ownership::claims::HAND_OVER_LIMIT;
use crate::service::{Inner, Service};
use crate::vault::{OPERATION_LIMIT, RENEWAL, StoreError};

/// The time without a letter after which this node checks whether there is anything left to wait for.
const QUIET: Duration = Duration::from_secs(1);
/// How long another node may own an instance without reporting it, before its letter counts as lost.
const LETTER_LOST: Duration = Duration::from_secs(12);

/// How long the enablings under way may take to be stored: each is a few answers of the store.
const ENABLINGS_STORED: Duration = Duration::from_secs(3);

/// How long a shard may take to answer: the lease is held meanwhile, and what one has that hangs is to be taken over as well.
const SHARD_LIMIT: Duration = Duration::from_secs(10);

/// The stage of the hand-over.
#[derive(Default)]
pub(crate) struct HandOver {
    leaving: watch::Sender<bool>,
    /// How many instances are being enabled that the store does not have yet.
    enablings: watch::Sender<usize>,
    waiting: Mutex<Waiting>,
    news: Notify,
}

/// An enabling whose instance is not stored yet. Its drop is the end of that: the instance is stored, or nothing is kept of it.
pub(crate) struct EnablingUnderWay(Arc<Inner>);

impl Drop for EnablingUnderWay {
    fn drop(&mut self) {
        self.0.hand_over.enablings.send_modify(|count| *count -= 1);
    }
}

/// The instances whose registration elsewhere is awaited.
#[derive(Default)]
struct Waiting {
    ids: HashSet<InstanceId>,
    /// The instances whose registration has failed at another node, which reports that again and again.
    failed: HashSet<InstanceId>,
    /// The number of instances that other nodes have registered.
    registered: usize,
    /// Whether another node has taken any.
    is_taking: bool,
}

impl Waiting {
    fn take(&mut self, registered: &[InstanceId], left: &[InstanceId]) {
        self.is_taking |= !registered.is_empty();
        self.registered += registered.iter().filter(|id| self.ids.remove(*id)).count();
        for id in left {
            self.ids.remove(id);
        }
    }

    /// Whether no letter can be expected any more about an instance that another node owns, because none has come for long. About an instance whose
    /// registration fails, letters keep coming.
    fn is_lost(&self, id: InstanceId) -> bool {
        !self.failed.contains(&id)
    }
}

impl HandOver {
    /// Another node reports which instances of this one it has registered or left.
    pub(crate) fn note_taken(&self, registered: &[InstanceId], left: &[InstanceId]) {
        self.waiting().take(registered, left);
        self.news.notify_one();
    }

    /// Another node reports which instances of this one it could not register yet. Its repeated reports say nothing about the letters on other instances.
    pub(crate) fn note_failed(&self, failing: &[InstanceId]) {
        let Waiting { failed, is_taking, .. } = &mut *self.waiting();
        *is_taking |= !failing.is_empty();
        failed.extend(failing);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }
}

impl Service {
    /// Hands all instances over to the other nodes of this store. Returns when they are registered there, at the latest after [`HAND_OVER_LIMIT`].
    pub async fn leave(&self) {
        let it = &self.0;
        it.hand_over.leaving.send_replace(true);
        let vault = &it.dependencies.vault;
        vault.note_leaving();
        let Some((instances, begun)) = it.holding_lease(it.prepare_to_leave()).await else { return };
        if let Err(error) = vault.release_lease().await {
            tracing::warn!(event = "hand-over-impossible", %error, "the instances cannot be handed over; the others take them when the lease runs out");
            return;
        }
        // Instances without a letter by then are reported below.
        let _ = timeout(HAND_OVER_LIMIT, it.wait_for_takers()).await;
        let took_ms = begun.elapsed().as_millis() as u64;
        let registered = it.hand_over.waiting().registered;
        if registered == instances {
            tracing::info!(event = "handed-over", instances, took_ms, "all instances are registered by other nodes");
        } else {
            tracing::warn!(
                event = "hand-over-incomplete",
                instances,
                registered,
                took_ms,
                "not all instances were registered by other nodes"
            )
        }
    }
}

impl Service {
    /// Gives up this node's lease at its end. If no other node has taken anything, as when all are told to end at once, the lease expires as by a crash: nodes
    /// that restart at the same time claim nothing from each other, and calls wait for the node of their Contact.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn give_up_lease(&self) -> Result<(), StoreError> {
        let (it, vault) = (&self.0, &self.0.dependencies.vault);
        let is_left = !it.hand_over.waiting().is_taking && !it.instances_here().await.is_empty();
        // Where there is no other node, nobody takes anything by mistake; and a node by another name that is to take the instances has them at once.
        if is_left && vault.peers().await.is_ok_and(|peers| !peers.is_empty()) {
            return vault.drop_lease().await;
        }
        vault.release_lease().await
    }
}

impl Inner {
    /// Whether this node accepts nothing new any more.
    pub(crate) fn is_leaving(&self) -> bool {
        *self.hand_over.leaving.borrow() || self.dependencies.drain.has_begun()
    }

    /// Waits until this node accepts nothing new any more.
    pub(crate) async fn leaves(&self) {
        let mut leaving = self.hand_over.leaving.subscribe();
        tokio::select! {
            // There is no error: the sender lives as long as this node.
            _ = leaving.wait_for(|leaving| *leaving) => {}
            () = self.dependencies.drain.begun() => {}
        }
    }

    /// Begins to enable an instance; `None`: this node leaves, and enables nothing any more.
    pub(crate) fn begin_enabling(self: &Arc<Self>) -> Option<EnablingUnderWay> {
        // It is counted first: a node that begins to leave after this waits for it.
        self.hand_over.enablings.send_modify(|count| *count += 1);
        let under_way = EnablingUnderWay(self.clone());
        (!self.is_leaving()).then_some(under_way)
    }

    /// Does `work`, and holds the lease meanwhile: it may take longer than a lease with a slow store, and before its end no other node is to claim anything.
    async fn holding_lease<T>(&self, work: impl Future<Output = T>) -> T {
        let over = Notify::new();
        let working = async {
            let done = work.await;
            over.notify_one();
            done
        };
        let holding = async {
            // A renewal under way is awaited: it would take the lease back that is released then.
            while timeout(RENEWAL, over.notified()).await.is_err() {
                // A store that is away is asked again; a lease that was lost meanwhile is as one that is released.
                let _ = self.dependencies.vault.hold_lease().await;
            }
        };
        tokio::join!(working, holding).0
    }

    /// Has everything stored that is to be handed over, and the others told. How many instances that are, and since when; `None`: nothing is handed over.
    async fn prepare_to_leave(self: &Arc<Self>) -> Option<(usize, Instant)> {
        self.await_enablings().await;
        let (agent, vault) = (&self.dependencies.agent, &self.dependencies.vault);
        let ids: HashSet<_> = self.instances_here().await.into_keys().collect();
        let instances = ids.len();
        let peers = vault.living_peers().await.unwrap_or_default();
        if ids.is_empty() || peers.is_empty() {
            // Push bindings go to them without a report; their Paths lead here again when this node is back.
            let _ = timeout(OPERATION_LIMIT, self.tell_leaving(&peers)).await;
            return None;
        }
        self.hand_over.waiting().ids = ids;
        let begun = Instant::now();
        let (woken, news) = mpsc::unbounded_channel();
        agent.hand_over(&woken, SHARD_LIMIT).await;
        drop(woken);
        let mut telling = Announcer::new(news);
        // This comes before any node can claim them; a node that is not told wakes a device once more.
        let _ = timeout(OPERATION_LIMIT, telling.tell(self)).await;
        tokio::spawn(telling.go_on(self.clone()));
        Some((instances, begun))
    }

    /// Waits until no instance is being enabled: the others claim what the store has when the lease is released, and would not see a later one.
    async fn await_enablings(&self) {
        let mut enablings = self.hand_over.enablings.subscribe();
        // What a store that is away keeps waiting is named to the others when it is stored.
        let _ = timeout(ENABLINGS_STORED, enablings.wait_for(|count| *count == 0)).await;
    }

    /// The instances here, but for those of a shard that hangs, each with whether its Contact stands at its SIP server.
    async fn instances_here(&self) -> HashMap<InstanceId, bool> {
        self.dependencies.agent.ask_all_within(SHARD_LIMIT, Request::Ids).await.into_iter().flatten().collect()
    }

    async fn wait_for_takers(&self) {
        let mut heard_at = Instant::now();
        while !self.hand_over.waiting().ids.is_empty() {
            match timeout(QUIET, self.hand_over.news.notified()).await {
                Ok(()) => heard_at = Instant::now(),
                Err(_) => self.wait_no_longer_in_vain(heard_at.elapsed() >= LETTER_LOST).await,
            }
        }
    }

    /// Waits no longer for instances whose registration can no longer be reported by any node.
    async fn wait_no_longer_in_vain(&self, letters_are_lost: bool) {
        let here = self.instances_here().await;
        {
            let Waiting { ids, failed, .. } = &mut *self.hand_over.waiting();
            // A Contact that stands brings calls here until another one is registered.
            ids.retain(|id| here.get(id).is_some_and(|is_registered| *is_registered || !failed.contains(id)));
        }
        let vault = &self.dependencies.vault;
        if vault.living_peers().await.is_ok_and(|peers| peers.is_empty()) {
            self.hand_over.waiting().ids.clear();
        }
        let waiting: Vec<InstanceId> = self.hand_over.waiting().ids.iter().copied().collect();
        let mut in_vain = Vec::new();
        self.look_up(&waiting, |id, stored| {
            let is_in_vain = match stored {
                Ok(Some(stored)) => !stored.owned && letters_are_lost && self.hand_over.waiting().is_lost(id),
                Ok(None) | Err(StoreError::Malformed) => true,
                // The store is asked again in a moment.
                Err(_) => false,
            };
            in_vain.extend(is_in_vain.then_some(id));
        })
        .await;
        for id in in_vain {
            self.hand_over.waiting().ids.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn letters_about_what_fails_are_no_news_of_what_else_is_awaited() {
        let (hand_over, id) = (HandOver::default(), |number: u128| InstanceId::new(number << 32, ShardTag(1)));
        hand_over.waiting().ids = [1, 2, 3].map(id).into();
        hand_over.note_failed(&[id(1)]);
        assert!(timeout(QUIET, hand_over.news.notified()).await.is_err());
        assert!(hand_over.waiting().is_taking);
        assert_eq!([1, 2].map(|number| hand_over.waiting().is_lost(id(number))), [false, true]);
        hand_over.note_taken(&[id(1)], &[id(3)]);
        assert!(timeout(QUIET, hand_over.news.notified()).await.is_ok());
        let waiting = hand_over.waiting();
        assert!(waiting.registered == 1 && waiting.ids == [id(2)].into());
    }
}
