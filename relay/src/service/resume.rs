//! Ownership: the node's lease, and what follows when it was lost. What nobody looks after is taken over by `claims`.
//!
//! Invariant: an instance is registered from here only while the store says that this node owns it, as far as the store
//! can be asked; a store that is away changes nothing for the instances that are here.

use std::sync::Arc;
use std::time::Duration;

use sip::id::InstanceId;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Inner;
use crate::agent::request::{EndKind, Principal, Request};
use crate::clock::since_boot;
use crate::metrics::labels::StoreOperation;
use crate::outage::Outage;
use crate::vault::{Fence, LEASE, Lease, RENEWAL, StoreError, Stored};

/// Instances that are looked up at once.
const AT_ONCE: usize = 128;
/// How often the sealing keys are looked after.
const TEND_KEYS: Duration = Duration::from_secs(10);

impl super::Service {
    /// Holds the node's lease and resumes what is its own or was left behind, until the drain. `told` hears after each
    /// renewal whether the store answers.
    pub async fn keep_ownership(self, told: impl Fn(bool)) {
        let it = self.0;
        let mut ticks = interval(RENEWAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut keys = interval(TEND_KEYS);
        let (mut was_away, mut outage) = (false, Outage::default());
        let mut held_at = since_boot();
        // Since the lease lapsed the instances are to be looked up; whether the store may have come back empty.
        let mut unsure: Option<bool> = None;
        let mut looking: Option<JoinHandle<bool>> = None;
        let mut resuming: Option<JoinHandle<()>> = None;
        let agent = &it.dependencies.agent;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = keys.tick() => {
                    if let Err(error) = it.dependencies.vault.tend_keys() {
                        tracing::warn!(event = "keyring-not-tended", %error, "the keyring could not be looked after");
                    }
                    continue;
                }
                () = it.dependencies.drain.begun() => break,
            }
            if it.is_leaving() {
                // What is here is served until the end, whoever owns it by now.
                agent.be_sure(since_boot());
                continue;
            }
            let asked_at = since_boot();
            let held = it.timed(StoreOperation::Lease, it.dependencies.vault.hold_lease()).await;
            it.dependencies.metrics.store_up(held.is_ok());
            told(held.is_ok());
            match held {
                // A lease that is missing before its time was lost with the rest of the store's data.
                Ok(Lease::Lapsed) => {
                    unsure = Some(was_away || since_boot().saturating_sub(held_at) < LEASE);
                    // What was looked up until now may have changed.
                    if let Some(looking) = looking.take() {
                        looking.abort();
                    }
                }
                Ok(Lease::Held) => {}
                Err(ref error) => {
                    if let Some(times) = outage.again() {
                        tracing::warn!(event = "lease-not-renewed", %error, times, "the lease of this node could not be renewed");
                    }
                }
            }
            if held.is_ok()
                && let Some(times) = outage.over()
            {
                tracing::warn!(
                    event = "lease-renewed-again",
                    times,
                    "the store answers again, and the lease is renewed"
                );
            }
            if let Some(may_be_empty) = unsure.filter(|_| held.is_ok()) {
                // Beside the renewals: it may take longer than a lease.
                let task = looking.get_or_insert_with(|| tokio::spawn(it.clone().look_up_all(may_be_empty)));
                if let Ok(ended) = timeout(RENEWAL, task).await {
                    looking = None;
                    if ended.unwrap_or(false) {
                        unsure = None;
                        agent.lapsed();
                    }
                }
            }
            if unsure.is_none() || held.is_err() {
                agent.be_sure(asked_at);
            }
            if held.is_ok() {
                if was_away {
                    // What it holds may be older than a wipe.
                    for (id, lookup) in it.dependencies.vault.tombstones().erased() {
                        agent.erase(id, lookup);
                    }
                }
                it.let_go_of_ended().await;
                // Beside the renewals: it may take longer than a lease.
                if resuming.as_ref().is_none_or(JoinHandle::is_finished) {
                    let first = resuming.is_none();
                    resuming = Some(tokio::spawn(it.clone().resume(first)));
                }
                held_at = asked_at;
            }
            was_away = held.is_err();
        }
        // The drain waits for calls, and they are served.
        loop {
            agent.be_sure(since_boot());
            ticks.tick().await;
        }
    }
}

impl Inner {
    /// Unregisters and forgets what another node has ended: its account was enabled again there, or wiped.
    pub(super) async fn let_go_of_ended(&self) {
        // A store that is away tells them with the next lease.
        while let Ok(ended) = self.dependencies.vault.ended_elsewhere().await {
            if ended.is_empty() {
                return;
            }
            tracing::info!(
                event = "ended-elsewhere",
                instances = ended.len(),
                "another node has ended instances of this one"
            );
            for id in &ended {
                let end = Request::End { id: *id, who: Principal::Relay, kind: EndKind::NeverOurs, reply: None };
                self.dependencies.agent.tell(*id, end).await;
            }
            if self.dependencies.vault.forget_ended(&ended).await.is_err() {
                // They are told again, and then there is nothing to let go of.
                return;
            }
        }
    }

    /// The lease had run out: whatever another node took, or wiped, meanwhile is let go without a word to its SIP server.
    ///
    /// A store that went away under this node's eyes, has come back with not one of the records and
    /// [cannot vouch](crate::vault::Vault::may_have_lost) for what it was told, has lost its data. Then they are stored again from
    /// what is sealed in memory. A node that itself stood still for a lease has no such excuse, and lets go. Whether the store
    /// told all; else it is to be asked again.
    async fn look_up_all(self: Arc<Self>, may_be_empty: bool) -> bool {
        let ids: Vec<InstanceId> = self.dependencies.agent.ask_all(Request::Ids).await.into_iter().flatten().collect();
        tracing::warn!(
            event = "lease-lapsed",
            instances = ids.len(),
            "the lease of this node had lapsed; each instance is looked up again"
        );
        let (mut lost, mut missing, mut found, mut is_away) = (Vec::new(), Vec::new(), false, false);
        self.look_up(&ids, |id, stored| match stored {
            Ok(Some(stored)) if stored.owned => found = true,
            Ok(Some(_)) | Err(StoreError::Malformed) => lost.push(id),
            Ok(None) => missing.push(id),
            Err(_) => is_away = true,
        })
        .await;
        if is_away {
            return false;
        }
        let is_empty = may_be_empty && !found && lost.is_empty() && !missing.is_empty();
        let may_have_lost = match is_empty {
            true => self.dependencies.vault.may_have_lost().await,
            false => Ok(false),
        };
        let Ok(may_have_lost) = may_have_lost else { return false };
        if may_have_lost {
            tracing::warn!(
                event = "store-came-back-empty",
                instances = missing.len(),
                "the store came back empty; its records are written again"
            );
            for id in missing {
                self.store_again(id).await;
            }
            return true;
        }
        for id in lost.into_iter().chain(missing) {
            self.dependencies
                .agent
                .tell(id, Request::End { id, who: Principal::Relay, kind: EndKind::HandedOver, reply: None })
                .await;
        }
        true
    }

    /// Looks instances up in the store, until `told` has heard of all, or once of a store that is away.
    pub(super) async fn look_up(
        &self,
        ids: &[InstanceId],
        mut told: impl FnMut(InstanceId, Result<Option<Stored>, StoreError>),
    ) {
        for some in ids.chunks(AT_ONCE) {
            let mut under_way = JoinSet::new();
            for id in some.iter().copied() {
                let vault = self.dependencies.vault.clone();
                under_way.spawn(async move { (id, vault.load(id).await) });
            }
            while let Some(Ok((id, stored))) = under_way.join_next().await {
                let is_away = matches!(stored, Err(ref error) if *error != StoreError::Malformed);
                told(id, stored);
                if is_away {
                    return;
                }
            }
        }
    }

    async fn store_again(&self, id: InstanceId) {
        let Ok(status) = self.look_as_relay(id).await else { return };
        if self.dependencies.vault.tombstones().look(id).is_some() {
            return;
        }
        let vault = &self.dependencies.vault;
        let Ok(lookup) = vault.open_lent(id, &status.sealed, |record| vault.lookup_of(record)) else { return };
        let put = self.dependencies.vault.put(id, &status.sealed, status.expires_at, &lookup, Fence::NEW);
        match self.timed(StoreOperation::Put, put).await {
            Ok(placed) => {
                let stored = |reply| Request::Stored { id, sealed: None, fence: placed.fence, reply };
                if self.dependencies.agent.ask(id, stored).await != Some(true) {
                    self.dependencies.agent.erase(id, lookup);
                }
            }
            Err(error) => {
                tracing::warn!(event = "record-not-rewritten", instance = %id, %error, "a record could not be written again")
            }
        }
    }
}
