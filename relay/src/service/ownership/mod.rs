//! Ownership: the node's lease, and what follows when the lease is lost, or the store has lost something.
//!
//! | room | what it is |
//! | --- | --- |
//! | `claims` | taking over instances without an owner |
//! | `restore`, `missing_records` | writing again the records that the store has lost |
//! | `missing_ends` | ending instances whose records are gone from the store |
//! | `shown_again` | serving such an instance again when its record comes back |
//! | `left_to_owner` | instances that another node owns now, while their calls end here |
//! | `unanswered_writes` | writes whose answers were lost |
//! | `unreachable_servers`, `unserved`, `offers` | offering instances that fail here to other nodes |
//! | `given_back` | offering instances that were taken over, and were not registered here, to their earlier node when it lives again |
//!
//! Invariant: an instance is registered from here only while the store says that this node owns it, as far as the store can be asked. A store that is away
//! changes nothing for the instances that are here.

pub(super) mod claims;
pub(super) mod given_back;
pub(super) mod left_to_owner;
mod missing_ends;
pub(super) mod missing_records;
pub(super) mod offers;
mod restore;
pub(super) mod shown_again;
pub(super) mod unanswered_writes;
mod unreachable_servers;
pub(super) mod unserved;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use sip::id::InstanceId;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use self::missing_records::Comparing;
use self::unanswered_writes::WritingBack;
use super::Inner;
use crate::agent::request::{InstanceStatus, ReleaseReason, Request};
use crate::clock::since_boot;
use crate::metrics::labels::StoreOperation;
use crate::outage::Outage;
use crate::vault::record::StoredRecord;
use crate::vault::{Fence, LEASE, Lease, RENEWAL, StoreError, Stored};

/// Instances that may be looked up at once.
pub(super) const AT_ONCE: usize = 128;
/// How often all instances are looked up when the store has lost something: at once, and when the other nodes have noticed.
const PASSES: u8 = 2;
/// How long after the notice of an instance's end the store may still have its record: the notice comes before the erasure.
const ERASED_SOON: Duration = Duration::from_millis(500);

/// This node's ownership as far as it is known, and the work under way about it.
#[derive(Default)]
struct Keeping {
    /// Whether the store did not answer the last question.
    was_away: bool,
    outage: Outage,
    /// When the last answer that the lease is held was asked for, since boot.
    held_at: Duration,
    /// A lapse of the lease after which the instances must be looked up.
    lapsed: Option<Lapse>,
    looking: Option<JoinHandle<bool>>,
    /// Whether the store was away, or lost the lease, since it was last asked for its losses.
    has_doubts: bool,
    /// Whether the store refuses everything but the lease.
    refusal: Outage,
    /// The number of its losses.
    losses: u64,
    restoring: Option<Restoring>,
    comparing: Comparing,
    writing_back: WritingBack,
    /// Whether the store was searched for wiped instances since this node last got its lease.
    has_looked_for_wiped: bool,
    looking_for_wiped: Option<JoinHandle<bool>>,
    /// Whether deletions must be repeated.
    deletes_again: bool,
    deleting_again: Option<JoinHandle<bool>>,
    /// The number of claims that still have to be ended.
    resuming: Option<JoinHandle<usize>>,
}

/// Why a lease has lapsed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lapse {
    /// This node stood still.
    StoodStill,
    /// The store was away for a lease or longer.
    Away,
    /// The lease was missing before its time, while nobody could take over what is this node's: the store has lost it with others of its data, its
    /// clock has jumped, or it has evicted it. That is a [loss](crate::vault::Vault::losses), too.
    Early,
}

/// The restoring of lost records.
struct Restoring {
    /// The number of lookups still to come: the last one when the other nodes have noticed, too.
    passes: u8,
    under_way: Option<JoinHandle<bool>>,
}

impl super::Service {
    /// Holds the node's lease, and claims its own and abandoned instances, until the drain. `told` hears of the store's fault, if any, after each renewal.
    pub async fn keep_ownership(self, told: impl Fn(Option<&StoreError>)) {
        let it = self.0;
        let mut ticks = interval(RENEWAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut keeping = Keeping { held_at: since_boot(), ..Keeping::default() };
        let mut lapsed = None;
        let agent = &it.dependencies.agent;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = it.dependencies.drain.begun() => break,
            }
            if it.is_leaving() {
                // The instances here are served until the end, whatever node owns them by now.
                agent.be_sure(since_boot());
                continue;
            }
            let renewal = match lapsed.take() {
                Some(renewal) => renewal,
                None => it.renew(keeping.held_at).await,
            };
            keeping.note(&renewal);
            let Renewal { asked_at, held, .. } = renewal;
            let is_sure = keeping.lapsed.is_none();
            if is_sure || held.is_err() {
                agent.be_sure(asked_at);
            }
            if is_held(&held) {
                // The lease may have been renewed during other work since.
                keeping.held_at = keeping.held_at.max(asked_at);
            }
            let held_at = keeping.held_at;
            let going_on = keeping.go_on(&it, held.map(drop), &told);
            let (answers, renewed) = it.renewing_beside(is_sure, held_at, going_on).await;
            keeping.held_at = renewed.held_at;
            keeping.was_away = !answers || renewed.was_away;
            lapsed = renewed.lapsed;
        }
        // The drain waits for calls, and they are served.
        loop {
            agent.be_sure(since_boot());
            ticks.tick().await;
        }
    }
}

/// The store's answer about the lease, with the times of question and answer, since boot.
struct Renewal {
    asked_at: Duration,
    answered_at: Duration,
    /// When it was asked that held the lease last before.
    held_before: Duration,
    held: Result<Lease, StoreError>,
}

impl Renewal {
    /// Whether the store answered before a lease could run out.
    fn is_early(&self) -> bool {
        self.answered_at.saturating_sub(self.held_before) < LEASE
    }
}

/// Whether this run has the lease.
fn is_held(held: &Result<Lease, StoreError>) -> bool {
    matches!(held, Ok(Lease::Held | Lease::Lapsed))
}

/// The state of the lease after an answer.
struct Renewed {
    /// When the store was asked that held it last, since boot.
    held_at: Duration,
    /// The store did not answer.
    was_away: bool,
    /// The lease has lapsed, and the consequences are still to be handled. Of several lapses, one that was not early.
    lapsed: Option<Renewal>,
}

impl Inner {
    async fn renew(&self, held_before: Duration) -> Renewal {
        let asked_at = since_boot();
        let held = self.timed(StoreOperation::Lease, self.dependencies.vault.hold_lease()).await;
        Renewal { asked_at, answered_at: since_boot(), held_before, held }
    }

    /// Does `work`, and renews the lease meanwhile, because with a slow store the work may take longer than a lease. `is_sure`: the instances here are this
    /// node's as long as the lease is held, which it was at `held_at`.
    async fn renewing_beside<T>(
        &self,
        is_sure: bool,
        held_at: Duration,
        work: impl Future<Output = T>,
    ) -> (T, Renewed) {
        let over = Notify::new();
        let working = async {
            let done = work.await;
            over.notify_one();
            done
        };
        let renewing = async {
            let mut renewed = Renewed { held_at, was_away: false, lapsed: None };
            // A renewal under way is awaited: it may show a lapse.
            while timeout(RENEWAL, over.notified()).await.is_err() {
                if self.is_leaving() {
                    // The node gives its lease up, or has done so.
                    self.dependencies.agent.be_sure(since_boot());
                    continue;
                }
                let renewal = self.renew(renewed.held_at).await;
                let (asked_at, is_away) = (renewal.asked_at, renewal.held.is_err());
                match renewal.held {
                    Ok(Lease::GivenWay) => {}
                    Ok(held) => {
                        renewed.held_at = asked_at;
                        if held == Lease::Lapsed && renewed.lapsed.as_ref().is_none_or(Renewal::is_early) {
                            renewed.lapsed = Some(renewal);
                        }
                    }
                    Err(_) => renewed.was_away = true,
                }
                // After a lapse nothing is certain before the lookup. The lease is renewed all the same, or it would lapse once more.
                if (is_sure || is_away) && renewed.lapsed.is_none() {
                    self.dependencies.agent.be_sure(asked_at);
                }
            }
            renewed
        };
        tokio::join!(working, renewing)
    }
}

impl Keeping {
    /// Handles the outcome of a renewal. Returns whether the store has answered.
    async fn go_on(
        &mut self,
        it: &Arc<Inner>,
        held: Result<(), StoreError>,
        told: &impl Fn(Option<&StoreError>),
    ) -> bool {
        let is_held = held.is_ok();
        let answered = match held {
            Ok(()) => self.look_for_losses(it).await,
            Err(error) => Err(error),
        };
        self.note_refused(is_held.then(|| answered.as_ref().err()).flatten());
        // The lease alone is not enough: with a store that refuses the rest, nothing is claimed or restored.
        it.dependencies.metrics.store_up(answered.is_ok());
        told(answered.as_ref().err());
        if answered.is_err() {
            return false;
        }
        if self.lapsed.is_some() {
            // This comes first: instances that another node has ended are unregistered, and those that it has claimed are not.
            it.release_ended().await;
            self.look_up_lapsed(it).await;
            if self.lapsed.is_none() {
                it.dependencies.agent.be_sure(self.held_at);
            }
        }
        if self.was_away {
            // The store's content may be older than a wipe.
            self.look_for_wiped_anew();
            self.deletes_again = true;
        }
        self.delete_again(it).await;
        it.release_ended().await;
        if self.lapsed.is_none() {
            self.writing_back.go_on(it);
        }
        it.watch_silent().await;
        self.look_for_wiped(it).await;
        self.restore(it).await;
        self.compare(it).await;
        self.resume(it).await;
        true
    }

    /// Notes the store's answer about the lease.
    fn note(&mut self, renewal: &Renewal) {
        let held = &renewal.held;
        match held {
            Ok(Lease::Lapsed) => {
                // An answer that came during other work is noted when that is done.
                let lapse = match renewal.is_early() {
                    true => Lapse::Early,
                    false if self.was_away => Lapse::Away,
                    false => Lapse::StoodStill,
                };
                self.lapsed = Some(lapse);
                self.look_for_wiped_anew();
                self.has_doubts |= lapse != Lapse::StoodStill;
                // The records looked up until now may have changed.
                if let Some(looking) = self.looking.take() {
                    looking.abort();
                }
            }
            Ok(Lease::Held | Lease::GivenWay) => {}
            Err(error) => {
                if let Some(times) = self.outage.again() {
                    tracing::warn!(event = "lease-not-renewed", %error, remedy = error.remedy(), times, "the lease of this node could not be renewed");
                }
            }
        }
        if held.is_ok()
            && let Some(times) = self.outage.over()
        {
            tracing::warn!(event = "lease-renewed-again", times, "the store answers again, and the lease is renewed");
        }
    }

    /// Notes the store's refusal of the rest of a renewal.
    fn note_refused(&mut self, error: Option<&StoreError>) {
        match error {
            Some(error) => {
                if let Some(times) = self.refusal.again() {
                    tracing::warn!(event = "store-refuses", %error, remedy = error.remedy(), times, "the store grants the lease of this node and refuses what else it needs");
                }
            }
            None => {
                if let Some(times) = self.refusal.over() {
                    tracing::warn!(event = "store-grants-again", times, "the store grants again what this node needs");
                }
            }
        }
    }

    /// Notices losses of the store.
    async fn look_for_losses(&mut self, it: &Arc<Inner>) -> Result<(), StoreError> {
        self.has_doubts |= self.was_away;
        let losses = it.dependencies.vault.losses(self.has_doubts).await?;
        self.has_doubts = false;
        if losses == self.losses {
            return Ok(());
        }
        self.losses = losses;
        self.deletes_again = true;
        tracing::warn!(
            event = "store-lost-records",
            "the store may have lost records; those of this node are looked up"
        );
        self.look_for_wiped_anew();
        match &mut self.restoring {
            // The work under way may have looked before the loss.
            Some(restoring) => restoring.passes = PASSES + 1,
            None => {
                it.dependencies.agent.begin_claim();
                self.restoring = Some(Restoring { passes: PASSES, under_way: None });
            }
        }
        Ok(())
    }

    /// After a lapse of the lease, looks up the instances here, which may be another node's.
    async fn look_up_lapsed(&mut self, it: &Arc<Inner>) {
        let Some(lapse) = self.lapsed else { return };
        let has_lost = self.restoring.is_some();
        // Beside the renewals: it may take longer than a lease.
        let task = self.looking.get_or_insert_with(|| tokio::spawn(it.clone().look_up_all(lapse, has_lost)));
        if let Ok(ended) = timeout(RENEWAL, task).await {
            self.looking = None;
            if ended.unwrap_or(false) {
                self.lapsed = None;
                it.dependencies.agent.lapsed();
                it.clone().await_given_back();
            }
        }
    }

    /// Has lost records written again, in parallel to renewals.
    async fn restore(&mut self, it: &Arc<Inner>) {
        let Some(restoring) = &mut self.restoring else { return };
        if restoring.under_way.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(ended) = restoring.under_way.take()
            && ended.await.unwrap_or(false)
        {
            restoring.passes -= 1;
        }
        let is_last = restoring.passes <= 1;
        let waits = is_last && it.dependencies.vault.is_being_restored() || self.lapsed.is_some();
        if restoring.passes == 0 || restoring.under_way.is_some() || waits {
            return;
        }
        restoring.under_way = Some(tokio::spawn(it.clone().restore_all(is_last)));
    }

    /// Searches the store again for instances that this node has wiped. A search under way may have looked before the loss.
    fn look_for_wiped_anew(&mut self) {
        self.has_looked_for_wiped = false;
        if let Some(looking) = self.looking_for_wiped.take() {
            looking.abort();
        }
    }

    /// Searches the store, in parallel to renewals, for records that this node has wiped; one search at a time.
    async fn look_for_wiped(&mut self, it: &Arc<Inner>) {
        if let Some(looking) = self.looking_for_wiped.take_if(|looking| looking.is_finished()) {
            self.has_looked_for_wiped |= looking.await.unwrap_or(false);
        }
        if !self.has_looked_for_wiped && self.looking_for_wiped.is_none() {
            let it = it.clone();
            self.looking_for_wiped = Some(tokio::spawn(async move { it.erase_returned(0).await }));
        }
    }

    /// Repeats deletions, in parallel to renewals, after the store was away or has lost something.
    async fn delete_again(&mut self, it: &Arc<Inner>) {
        if let Some(deleting) = self.deleting_again.take_if(|deleting| deleting.is_finished()) {
            self.deletes_again |= !deleting.await.unwrap_or(false);
        }
        if self.deletes_again && self.deleting_again.is_none() {
            self.deletes_again = false;
            let vault = it.dependencies.vault.clone();
            self.deleting_again = Some(tokio::spawn(async move { vault.delete_again().await.is_ok() }));
        }
    }

    /// Compares some records with the store, in parallel to renewals.
    async fn compare(&mut self, it: &Arc<Inner>) {
        // A full look-up needs no comparison.
        if self.lapsed.is_none() && self.restoring.is_none() {
            self.comparing.go_on(it).await;
        }
    }

    /// Claims abandoned records, in parallel to renewals.
    async fn resume(&mut self, it: &Arc<Inner>) {
        if self.resuming.as_ref().is_some_and(|resuming| !resuming.is_finished()) {
            return;
        }
        let mut ends = match self.resuming.take() {
            Some(ended) => ended.await.unwrap_or(0),
            None => 1,
        };
        if self.restoring.as_ref().is_some_and(|restoring| restoring.passes == 0) {
            // Records that no node has written again are claimed once more before a call is told that they are unknown.
            self.restoring = None;
            ends += 1;
        }
        self.resuming = Some(tokio::spawn(it.clone().resume(ends)));
    }
}

impl Inner {
    /// Unregisters and forgets the instances that another node has ended: the account was enabled again there, or wiped. An instance that may still be on its
    /// way here, or about which the store could not be asked, is reported again later.
    pub(super) async fn release_ended(self: &Arc<Self>) {
        // A store that is away tells them with the next lease.
        while let Ok(mut ended) = self.dependencies.vault.ended_elsewhere().await {
            let told = ended.len();
            if self.dependencies.agent.is_claiming() {
                let mut here = Vec::new();
                for id in ended {
                    here.extend(self.look_as_relay(id).await.is_ok().then_some(id));
                }
                ended = here;
            }
            if ended.is_empty() {
                return;
            }
            tracing::info!(
                event = "ended-elsewhere",
                instances = ended.len(),
                "another node has ended instances of this one"
            );
            let ended = self.release_all(ended).await;
            if ended.is_empty() {
                return;
            }
            if self.dependencies.vault.forget_ended(&ended).await.is_err() {
                // The ended instances are reported again, and then there is nothing to release.
                return;
            }
            if ended.len() < told {
                return;
            }
        }
    }

    /// Releases instances that another node has ended. Returns those that need not be reported again.
    async fn release_all(self: &Arc<Self>, ended: Vec<InstanceId>) -> Vec<InstanceId> {
        let (mut done, mut owned, mut is_away) = (Vec::with_capacity(ended.len()), Vec::new(), false);
        for some in ended.chunks(AT_ONCE) {
            let outcomes = join_all(some.iter().map(|id| self.release_one(*id))).await;
            for (id, outcome) in some.iter().zip(outcomes) {
                match outcome {
                    Ok(true) => done.push(*id),
                    Ok(false) => owned.push(*id),
                    Err(_) => is_away = true,
                }
            }
            if is_away {
                // The others are told again as well.
                break;
            }
        }
        if !owned.is_empty() {
            sleep(ERASED_SOON).await;
            for id in owned {
                done.extend(self.release_one(id).await.is_ok().then_some(id));
            }
        }
        done
    }

    /// Releases an instance that another node has ended. `false`: it is a push binding, and the store has it from this node, because its device has registered
    /// again here, or because it is not erased or overwritten yet.
    pub(super) async fn release_one(self: &Arc<Self>, id: InstanceId) -> Result<bool, StoreError> {
        let agent = &self.dependencies.agent;
        let status = self.look_as_relay(id).await.ok();
        let Some(passed) = status.as_ref().filter(|status| self.passed_through(status)) else {
            self.give_way_to_successor(id, status.as_ref()).await;
            return Ok(true);
        };
        let why = match self.dependencies.vault.load(id).await {
            Ok(Some(stored)) if stored.owned => return Ok(false),
            Ok(Some(_)) => ReleaseReason::Moved,
            Ok(None) | Err(StoreError::Malformed) => ReleaseReason::Ended,
            Err(error) => return Err(error),
        };
        agent.tell(id, Request::Release { id, fence: passed.fence, why }).await;
        Ok(true)
    }

    /// Ends a lent account here that another node has ended. Its calls go on, or are missed, in the name of its successor, if it has one.
    pub(super) async fn give_way_to_successor(self: &Arc<Self>, id: InstanceId, status: Option<&InstanceStatus>) {
        let find = || {
            let (it, status) = (self.clone(), status.cloned());
            // Without an answer of the store it has none.
            async move { it.successor_of(&status?).await.ok().flatten() }
        };
        if let Some(successor) = find().await {
            self.dependencies.agent.tell(id, Request::Succeed { earlier: id, successor }).await;
        }
        self.give_way(id, find()).await;
    }

    /// The instance that has replaced this one in the store; a wiped instance has none.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub(super) async fn successor_of(&self, status: &InstanceStatus) -> Result<Option<InstanceId>, StoreError> {
        let Some(place) = self.place_of(status) else { return Ok(None) };
        Ok(self.dependencies.vault.find(&place.lookup).await?.filter(|named| *named != status.id))
    }

    pub(super) fn passed_through(&self, status: &InstanceStatus) -> bool {
        let is_push_binding = |record: &StoredRecord| record.push_binding().is_some();
        self.dependencies.vault.open_record(status.id, &status.sealed, is_push_binding).unwrap_or(false)
    }

    /// Looks up all instances after a lapse. Those that another node has claimed meanwhile are released without a word to their SIP server, and those that it
    /// [has ended](Self::release_missing) are unregistered. Returns whether the store has answered for all; if not, it must be asked again.
    ///
    /// `has_lost`: the store has lost something. Then a record that is missing, or older than the one here, is [restored](restore) and not released,
    /// also where this node itself stood still meanwhile: it asks the others first which instances they have wiped. In a Cluster, which cannot tell a
    /// loss from a wipe, only when the lease was missing before its time (one of its masters came back without its data), or when nobody has taken over
    /// anything: a node that has taken over some has the missing ones as well, or has wiped them.
    async fn look_up_all(self: Arc<Self>, lapse: Lapse, has_lost: bool) -> bool {
        let owned = self.dependencies.agent.ask_all(Request::Owned).await.into_iter().flatten();
        let owned: HashMap<InstanceId, Fence> = owned.collect();
        // Instances being enabled are in no store yet, and ending ones are released anyway.
        let mut ids: Vec<InstanceId> = owned.keys().copied().collect();
        ids.sort_unstable();
        tracing::warn!(
            event = "lease-lapsed",
            instances = ids.len(),
            "the lease of this node had lapsed; each instance is looked up again"
        );
        let (mut lost, mut missing, mut is_away) = (Vec::new(), Vec::new(), false);
        self.look_up(&ids, |id, stored| match stored {
            Ok(Some(stored)) if stored.owned => {}
            Ok(Some(stored)) if has_lost && owned.get(&id).is_some_and(|fence| *fence > stored.fence) => {}
            Ok(Some(stored)) => lost.push((id, stored.sealed)),
            // A damaged record has no owner: the comparison writes it again.
            Err(StoreError::Malformed) => {}
            Ok(None) => missing.push(id),
            Err(_) => is_away = true,
        })
        .await;
        if is_away {
            return false;
        }
        if has_lost && (lost.is_empty() || lapse == Lapse::Early || self.dependencies.vault.is_ordered()) {
            missing.clear();
        }
        let mut left = Vec::with_capacity(lost.len());
        for (id, record) in lost {
            if let Some(fence) = owned.get(&id) {
                self.leave_to_owner(id, *fence, record).await;
                left.push((id, *fence));
            }
        }
        for some in left.chunks(AT_ONCE) {
            // Before anything is acted on: a call that waits may be another instance's by now, and is missed in its name.
            join_all(some.iter().map(|(id, fence)| self.look_after_left(*id, *fence))).await;
        }
        let missing: Vec<_> = missing.into_iter().filter_map(|id| Some((id, *owned.get(&id)?))).collect();
        self.release_missing(&missing).await
    }

    /// Looks instances up in the store, until `told` has heard of all, or that the store is away.
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
}
