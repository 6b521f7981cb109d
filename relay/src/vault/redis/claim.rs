//! Claims: taking over records that no living node owns.
//!
//! A round examines candidates in this order:
//!
//! | stage | candidates | when |
//! | --- | --- | --- |
//! | offered | what a living node has offered ([`Offered`]) | before each round |
//! | own | the index of this node: an earlier run's | in each round until it was read to its end |
//! | peers | the indexes of the nodes that are believed dead | in each round |
//! | scan | every record there is: the indexes are hints | from the second round on, [`SCAN_PAGES`] in each, then every [`SCAN_EVERY`]; not in a Cluster |
//!
//! All names are read before the first record is claimed, because they are short. Then the records for which a call waits ([`Wanted`]) are claimed first, with
//! all others of the same shard tag, so that the devices of an account come together. The rest follows in the order of shard tags.
//!
//! The living nodes share what a [dead](DeadNodes) node leaves ([`Shares`]). A node claims another one's share only if that node has not claimed it [`GRACE`]
//! of a lease after the death was seen. A node that [yields](Claims::yield_to_others) claims its own share [`YIELD`] after that at the earliest.
//!
//! Invariant: a record is claimed by one script, which increments the fence. The lease of its owner was read just before: it must still be held if that owner
//! has offered the record. What was claimed is remembered until it is answered, also when a call fails or is given up half-way. A server of a Cluster that does
//! not answer delays no claim at the others, and is tried again in each round.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use sip::id::InstanceId;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::dead_nodes::DeadNodes;
use super::hints::texts;
use super::scripts::{ClaimOutcome, Claimed, SCRIPTS};
use super::shares::Shares;
use super::{NODES_KEY, RECORD_PREFIX, RedisStore, node_key, record_id, record_key};
use crate::clock;
use crate::lock;
use crate::vault::seal::Sealed;
use crate::vault::store::{AwayReason, Fence, Owner, StoreError, Stored, nodes_in};
use crate::vault::wanted::Wanted;

/// How often all records are looked through, in case an index lost a name.
const SCAN_EVERY: Duration = Duration::from_secs(600);

/// How long the shares of a dead node are left to those whose they are, in tenths of a lease.
const GRACE: u32 = 5;

/// How long a node that yields leaves its own shares to the others, in leases.
const YIELD: u32 = 2;

/// How many pages of all keys a round looks through: beside the claims of each round it costs nobody a wait.
const SCAN_PAGES: usize = 8;

/// Keys in such a page, about.
const SCAN_PAGE: usize = 1_000;

/// Names that are read at once, about: Redis stands still for less than a claim's script takes.
const NAMES: usize = 2_048;

/// How many claims are under way at once.
const WAVE: usize = 256;

/// How many records one script claims where no slots part them: few enough that Redis stands still for no time that anybody feels.
const AT_ONCE: usize = 64;

/// Damaged records that are told, each once.
const DAMAGED_MAX: usize = 1_000;

/// The claims of one run of one node.
#[derive(Default)]
pub(super) struct Claims {
    round: Mutex<Round>,
    offered: lock::Mutex<Vec<Offered>>,
    yields: AtomicBool,
}

/// Records that a node which lives has offered.
pub(super) struct Offered {
    /// The run that owns them.
    pub from: Owner,
    /// The records.
    pub ids: Vec<InstanceId>,
    /// When they are not tried any more that were not tried before.
    pub until: Instant,
}

#[derive(Default)]
struct Round {
    stage: Stage,
    /// Records that an index has named and that were not tried yet, by shard tag, each with the node of the index.
    named: BTreeMap<(u16, InstanceId), Option<Arc<str>>>,
    /// Shard tags of what calls wait for, each with some that are named.
    wanted: BTreeSet<u16>,
    /// Records that are being tried; after a failure, the same again.
    trying: Vec<Candidate>,
    taken: Vec<Stored>,
    /// Offered records that are being tried, each with its owner's node and the end of the offer; after a failure, the same again.
    offered: Vec<(Arc<str>, Instant, Vec<Candidate>)>,
    /// Other nodes claim before this one.
    yields: bool,
    /// Of a Cluster: what a server did not answer for, each to be tried again with its ticket; and what is among it.
    postponed: VecDeque<Candidate>,
    is_postponed: BTreeSet<InstanceId>,
    /// A server did not answer for something in this round: there may be more to claim.
    has_missed: bool,
    /// The nodes, as they were told last.
    nodes: Vec<String>,
    dead: DeadNodes,
    /// Among whom is shared what the dead left.
    shares: Shares,
    tickets: u64,
    scanned_at: Option<Instant>,
    /// Where the next round goes on with a scan that has begun.
    scan_from: Option<u64>,
    /// Records that were found damaged, and reported.
    damaged: BTreeSet<InstanceId>,
    /// A round has ended.
    not_first: bool,
    /// The index of this node was read to its end: what an earlier run had is known.
    own_is_read: bool,
}

#[derive(Clone, Default)]
enum Stage {
    #[default]
    Begin,
    /// The index of a node, from this cursor on, and then those of the other nodes.
    Index {
        node: Arc<str>,
        cursor: u64,
        others: Vec<Arc<str>>,
    },
    Scan {
        cursor: u64,
        pages: usize,
    },
    End,
}

#[derive(Clone)]
struct Candidate {
    id: InstanceId,
    /// The node whose index named it.
    index: Option<Arc<str>>,
    /// A number that no other candidate of this run has.
    ticket: u64,
}

impl Claims {
    /// Puts these first in the order of claims.
    pub fn offer(&self, offered: Offered) {
        self.offered().push(offered);
    }

    /// Whether other nodes claim before this one.
    pub fn yield_to_others(&self, yields: bool) {
        self.yields.store(yields, Ordering::Relaxed);
    }

    fn offered(&self) -> MutexGuard<'_, Vec<Offered>> {
        self.offered.lock()
    }

    pub async fn claim(
        &self,
        store: &RedisStore,
        owner: &Owner,
        batch: usize,
        wanted: &Wanted,
    ) -> Result<Vec<Stored>, StoreError> {
        let mut round = self.round.lock().await;
        round.yields = self.yields.load(Ordering::Relaxed);
        let mut has_ended = false;
        // The rest of an earlier call is not mixed with the records that are taken now: it may end in the middle of a tag.
        let is_left = !round.taken.is_empty();
        if !is_left {
            let offered = std::mem::take(&mut *self.offered());
            round.take_offered(store, owner, offered).await?;
        }
        while !is_left && round.taken.len() < batch {
            if round.is_named() {
                let ends = round.wave(store, owner, batch, wanted).await?;
                if ends && !round.taken.is_empty() {
                    break;
                }
            } else if round.next_stage(store, owner).await? {
                has_ended = true;
                break;
            }
        }
        if has_ended && std::mem::take(&mut round.has_missed) && round.taken.is_empty() {
            return Err(StoreError::Away(AwayReason::Unreachable));
        }
        let rest = round.taken.len().min(batch);
        let kept = round.taken.split_off(rest);
        Ok(std::mem::replace(&mut round.taken, kept))
    }
}

impl Round {
    /// Takes what nodes that live have offered.
    async fn take_offered(
        &mut self,
        store: &RedisStore,
        owner: &Owner,
        offered: Vec<Offered>,
    ) -> Result<(), StoreError> {
        for Offered { from, ids, until } in offered {
            // A record that is not taken stays with its owner, which offers it again. A later run of that node has offered nothing.
            if clock::now() >= until || !store.holds_lease(&from).await.unwrap_or(false) {
                continue;
            }
            let candidates = ids.into_iter().map(|id| {
                self.tickets += 1;
                Candidate { id, index: Some(from.node.clone()), ticket: self.tickets }
            });
            let candidates = candidates.collect();
            self.offered.push((from.node, until, candidates));
        }
        self.offered.retain(|(_, until, _)| clock::now() < *until);
        while let Some((node, until, candidates)) = self.offered.last().cloned() {
            let connection = store.link.generation();
            let (outcomes, unanswered) = try_all(store, owner, &candidates, std::slice::from_ref(&node)).await?;
            let trying = std::mem::take(&mut self.trying);
            let settled = self.settle(store, owner, outcomes, connection).await;
            self.trying = trying;
            settled?;
            self.offered.pop();
            if !unanswered.is_empty() {
                self.has_missed = true;
                self.offered.push((node, until, unanswered));
                break;
            }
        }
        Ok(())
    }

    /// Whether something can be tried: all that the indexes name is known, or a page of a scan is.
    fn is_named(&self) -> bool {
        !self.trying.is_empty() || !self.named.is_empty() && !matches!(self.stage, Stage::Index { .. })
    }

    /// Finds more candidates; true at the end of the round.
    async fn next_stage(&mut self, store: &RedisStore, owner: &Owner) -> Result<bool, StoreError> {
        match self.stage.clone() {
            Stage::Begin => self.begin(store, owner).await?,
            Stage::Index { node, cursor, others } => self.read_index(store, owner, node, cursor, others).await?,
            Stage::Scan { cursor, pages } => self.scan(store, owner, cursor, pages).await?,
            Stage::End => {
                self.stage = Stage::Begin;
                self.not_first = true;
                self.named = BTreeMap::new();
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn begin(&mut self, store: &RedisStore, owner: &Owner) -> Result<(), StoreError> {
        self.try_again();
        let mut others = self.dead_peers(store, owner).await?;
        if !self.own_is_read {
            others.push(owner.node.clone());
        }
        self.stage = self.after_index(store, others);
        Ok(())
    }

    /// Reads a page of the index of `node`; the indexes of `others` follow.
    async fn read_index(
        &mut self,
        store: &RedisStore,
        owner: &Owner,
        node: Arc<str>,
        cursor: u64,
        others: Vec<Arc<str>>,
    ) -> Result<(), StoreError> {
        let page = store.page_of(&node_key(&node), cursor, NAMES).await;
        let Some((cursor, names)) = store.link.skip_silent_server(page)? else {
            // From its beginning with the next round: a replica that has taken the place of its server has another order.
            self.has_missed = true;
            self.stage = self.after_index(store, others);
            return Ok(());
        };
        let waits = self.is_in_grace(store, &node);
        let is_ours = |id: &InstanceId| !waits || !self.yields && self.shares.is_of(&owner.node, id.tag());
        let ours: Vec<_> = names.iter().filter_map(|name| InstanceId::parse(name)).filter(is_ours).collect();
        self.add(ours.into_iter(), Some(&node));
        self.stage = match cursor {
            0 => {
                self.own_is_read |= node == owner.node;
                self.after_index(store, others)
            }
            cursor => Stage::Index { node, cursor, others },
        };
        Ok(())
    }

    /// Looks through a page of all keys; `pages` follow in this round.
    async fn scan(&mut self, store: &RedisStore, owner: &Owner, cursor: u64, pages: usize) -> Result<(), StoreError> {
        let mut scan = ::redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{RECORD_PREFIX}*")).arg("COUNT").arg(SCAN_PAGE);
        scan.arg("TYPE").arg("hash");
        let (cursor, keys): (u64, Vec<Vec<u8>>) = store.link.ask(&scan).await?;
        let ids: Vec<InstanceId> = texts(keys).iter().filter_map(|key| record_id(key)).collect();
        let owners = store.owners_of(&ids).await?;
        let is_left = |owned_by: &Owner| {
            if owned_by.node == owner.node { owned_by.run != owner.run } else { !self.shares.has(&owned_by.node) }
        };
        let owned = ids.into_iter().zip(owners);
        let left: Vec<_> = owned.filter(|(_, by)| by.as_ref().is_some_and(is_left)).map(|(id, _)| id).collect();
        self.add(left.into_iter(), None);
        (self.scan_from, self.stage) = match (cursor, pages) {
            (0, _) => {
                self.scanned_at = Some(clock::now());
                (None, Stage::End)
            }
            (cursor, 0) => (Some(cursor), Stage::End),
            (cursor, pages) => (Some(cursor), Stage::Scan { cursor, pages: pages - 1 }),
        };
        Ok(())
    }

    /// Whether what a dead node left is still for those whose share it is.
    fn is_in_grace(&self, store: &RedisStore, node: &str) -> bool {
        let grace = if self.yields && !self.shares.is_alone() { store.lease * YIELD } else { store.lease * GRACE / 10 };
        self.dead.since(node).is_some_and(|since| clock::since(since) < grace)
    }

    fn after_index(&self, store: &RedisStore, mut others: Vec<Arc<str>>) -> Stage {
        if let Some(node) = others.pop() {
            return Stage::Index { node, cursor: 0, others };
        }
        // Not in the first round, which calls wait for: the index knows all but what a crash has lost from it.
        let due = self.scan_from.is_some() || self.scanned_at.is_none_or(|at| clock::since(at) >= SCAN_EVERY);
        if self.not_first && due && !store.link.is_cluster() {
            Stage::Scan { cursor: self.scan_from.unwrap_or(0), pages: SCAN_PAGES }
        } else {
            Stage::End
        }
    }

    /// Has some of what a server did not answer for tried again, before anything else of this round.
    fn try_again(&mut self) {
        if self.trying.is_empty() {
            let some = self.postponed.len().min(WAVE);
            self.trying.extend(self.postponed.drain(..some));
            for candidate in &self.trying {
                self.is_postponed.remove(&candidate.id);
            }
        }
    }

    fn add(&mut self, ids: impl Iterator<Item = InstanceId>, index: Option<&str>) {
        let index: Option<Arc<str>> = index.map(Into::into);
        // Those have their tickets, by which it is known whether they were taken.
        let trying: BTreeSet<InstanceId> = self.trying.iter().map(|candidate| candidate.id).collect();
        let ids = ids.filter(|id| !self.is_postponed.contains(id) && !trying.contains(id));
        self.named.extend(ids.map(|id| ((id.tag().0, id), index.clone())));
    }

    /// Chooses what is tried next, at most `count`: what is wanted, or else what comes first, no tag in part that fits as a whole.
    /// Whether an answer should follow at once.
    fn choose(&mut self, count: usize, wanted: &Wanted) -> bool {
        let tags = wanted.take().into_iter().map(|tag| tag.0);
        self.wanted.extend(tags.filter(|tag| of_tag(&self.named, *tag).is_some()));
        let is_hurried = !self.wanted.is_empty();
        while self.trying.len() < count {
            let tag =
                if is_hurried { self.wanted.first().copied() } else { self.named.keys().next().map(|(tag, _)| *tag) };
            let Some(tag) = tag else { break };
            let Some(((_, id), index)) = of_tag(&self.named, tag).and_then(|key| self.named.remove_entry(&key)) else {
                self.wanted.remove(&tag);
                continue;
            };
            self.tickets += 1;
            self.trying.push(Candidate { id, index, ticket: self.tickets });
        }
        let last = self.trying.last().map(|candidate| candidate.id.tag().0);
        let Some(last) = last.filter(|last| of_tag(&self.named, *last).is_some()) else { return is_hurried };
        let whole = self.trying.iter().take_while(|candidate| candidate.id.tag().0 != last).count();
        if whole > 0 {
            let cut = self.trying.split_off(whole);
            self.named.extend(cut.into_iter().map(|Candidate { id, index, .. }| ((last, id), index)));
        }
        is_hurried || whole > 0
    }

    /// The other nodes that are believed dead; one that left nothing behind is struck off.
    async fn dead_peers(&mut self, store: &RedisStore, owner: &Owner) -> Result<Vec<Arc<str>>, StoreError> {
        match store.link.skip_silent_server(store.nodes().await)? {
            Some(nodes) => self.nodes = nodes,
            None => self.has_missed = true,
        }
        let nodes = self.nodes.clone();
        if !nodes.iter().any(|node| **node == *owner.node) {
            // Nobody would see this one die: its name is put there again with the next renewal.
            *store.enlisted.lock() = None;
        }
        let (mut dead, mut living) = (Vec::new(), vec![owner.node.clone()]);
        for node in nodes.iter().filter(|node| **node != *owner.node) {
            if !self.is_dead(store, node).await? {
                living.push(node.as_str().into());
                continue;
            }
            let has_index = store.link.ask(::redis::cmd("EXISTS").arg(node_key(node))).await;
            match store.link.skip_silent_server(has_index)? {
                Some(true) => dead.push(node.as_str().into()),
                Some(false) => {
                    let struck_off = store.link.ask::<u64>(::redis::cmd("SREM").arg(NODES_KEY).arg(node)).await;
                    store.link.skip_silent_server(struck_off)?;
                }
                None => self.has_missed = true,
            }
        }
        self.shares = Shares::among(living);
        Ok(dead)
    }

    async fn is_dead(&mut self, store: &RedisStore, node: &str) -> Result<bool, StoreError> {
        let is_dead = self.dead.look(store, node).await?;
        self.has_missed |= is_dead.is_none();
        // Whoever cannot be asked about may live, and may have had to renew its lease in vain.
        Ok(is_dead.unwrap_or_else(|| self.dead.since(node).is_some()))
    }

    /// Tries some candidates: as many as are still to be taken, at most [`WAVE`] at once. Whether an answer should follow at once.
    async fn wave(
        &mut self,
        store: &RedisStore,
        owner: &Owner,
        batch: usize,
        wanted: &Wanted,
    ) -> Result<bool, StoreError> {
        let ends = self.trying.is_empty() && self.choose((batch - self.taken.len()).min(WAVE), wanted);
        let wave = self.trying.clone();
        // Records from an index are our share, or everybody's by now; records from a scan may be another node's share.
        let is_shared = wave.iter().all(|candidate| candidate.index.is_some());
        let mut takeable = vec![owner.node.clone()];
        let indexes: BTreeSet<&Arc<str>> = wave.iter().filter_map(|candidate| candidate.index.as_ref()).collect();
        for node in indexes.into_iter().filter(|node| **node != owner.node) {
            if self.is_dead(store, node).await? {
                takeable.push(node.clone());
            }
        }
        let connection = store.link.generation();
        // Twice: the first time tells whose the others' are.
        for attempt in 0..2 {
            let (outcomes, unanswered) = try_all(store, owner, &wave, &takeable).await?;
            if attempt == 0 {
                let left = outcomes.iter().filter(|(_, claimed)| claimed.outcome == ClaimOutcome::Left);
                let strangers: BTreeSet<_> = left.filter_map(|(_, claimed)| Some(owner_in(claimed)?.node)).collect();
                let known = takeable.len();
                for node in strangers {
                    let may_take = !takeable.contains(&node) && self.is_dead(store, &node).await?;
                    if may_take && (is_shared || !self.is_in_grace(store, &node)) {
                        takeable.push(node);
                    }
                }
                if takeable.len() > known {
                    continue;
                }
            }
            self.settle(store, owner, outcomes, connection).await?;
            self.is_postponed.extend(unanswered.iter().map(|candidate| candidate.id));
            self.has_missed |= !unanswered.is_empty();
            self.postponed.extend(unanswered);
            break;
        }
        Ok(ends)
    }

    /// Says once of a record that it is damaged.
    fn tell_damaged(&mut self, id: InstanceId) {
        if self.damaged.len() < DAMAGED_MAX && self.damaged.insert(id) {
            tracing::error!(event = "record-damaged", instance = %id, "a stored record is damaged, or in a form of another version: nobody takes it over; it is left to its expiry, and its phone enables again when its app is told that there is none");
        }
    }

    /// Keeps what was taken over this connection, corrects the indexes, and ends the try.
    async fn settle(
        &mut self,
        store: &RedisStore,
        owner: &Owner,
        outcomes: Vec<(Candidate, Claimed)>,
        connection: u64,
    ) -> Result<(), StoreError> {
        let is_taken = |(_, claimed): &&(Candidate, Claimed)| claimed.outcome == ClaimOutcome::Taken;
        let damaged = outcomes.iter().filter(|(_, claimed)| claimed.outcome == ClaimOutcome::Damaged);
        damaged.for_each(|(candidate, _)| self.tell_damaged(candidate.id));
        let has_taken = outcomes.iter().any(|it| is_taken(&it));
        let marked = async { if has_taken { store.mark(owner, connection).await } else { Ok(()) } };
        tokio::try_join!(IndexFaults::of(&outcomes, owner).correct(store, owner), marked)?;
        self.trying.clear();
        let taken = outcomes.into_iter().filter(|it| is_taken(&it));
        self.taken.extend(taken.map(|(candidate, claimed)| stored(candidate.id, claimed, owner)));
        Ok(())
    }
}

/// What claims have shown to be wrong in the indexes.
#[derive(Default)]
struct IndexFaults<'a> {
    /// Records that were taken, and that this node's index does not name.
    unnamed: Vec<InstanceId>,
    /// Records that an index names although they are not, or no longer, that node's.
    misplaced: BTreeMap<&'a str, Vec<InstanceId>>,
}

impl<'a> IndexFaults<'a> {
    fn of(outcomes: &'a [(Candidate, Claimed)], owner: &Owner) -> Self {
        let mut faults = Self::default();
        for (candidate, claimed) in outcomes {
            let index = candidate.index.as_ref();
            let owned_by = match claimed.outcome {
                ClaimOutcome::Gone | ClaimOutcome::Damaged => None,
                ClaimOutcome::Taken => Some(owner.node.clone()),
                ClaimOutcome::Left => owner_in(claimed).map(|other| other.node),
            };
            if claimed.outcome == ClaimOutcome::Taken && index != Some(&owner.node) {
                faults.unnamed.push(candidate.id);
            }
            if let Some(index) = index.filter(|index| owned_by.as_ref() != Some(index)) {
                faults.misplaced.entry(index).or_default().push(candidate.id);
            }
        }
        faults
    }

    async fn correct(self, store: &RedisStore, owner: &Owner) -> Result<(), StoreError> {
        // In a Cluster the owner names again what its index misses, and an index is a hint.
        store.link.skip_silent_server(store.index(&owner.node, &self.unnamed).await)?;
        for (index, ids) in self.misplaced {
            store.link.skip_silent_server(store.unindex(index, &ids).await)?;
        }
        Ok(())
    }
}

/// A record that was taken.
fn stored(id: InstanceId, claimed: Claimed, owner: &Owner) -> Stored {
    let taken_from = owner_in(&claimed).filter(|earlier| earlier.node != owner.node);
    let Claimed { sealed, expires_at, fence, put_by, had_by, .. } = claimed;
    let put_by = String::from_utf8(put_by).ok().filter(|node| !node.is_empty()).map(Into::into);
    Stored {
        id,
        sealed: Sealed::from_bytes(sealed),
        expires_at,
        fence: Fence::from_number(fence),
        owned: true,
        owner: owner.clone(),
        taken_from,
        put_by,
        had_by: nodes_in(&had_by),
    }
}

/// The first that is named with this tag.
fn of_tag(named: &BTreeMap<(u16, InstanceId), Option<Arc<str>>>, tag: u16) -> Option<(u16, InstanceId)> {
    let from = (tag, InstanceId::from_bytes([0; 16]));
    named.range(from..).next().map(|(key, _)| *key).filter(|(other, _)| *other == tag)
}

/// The owner that a record had.
fn owner_in(claimed: &Claimed) -> Option<Owner> {
    Owner::parse(std::str::from_utf8(&claimed.owner).ok()?)
}

/// Runs the claims of all candidates at once, in the order of the candidates; and those that a server of a Cluster has not answered for.
async fn try_all(
    store: &RedisStore,
    owner: &Owner,
    wave: &[Candidate],
    takeable: &[Arc<str>],
) -> Result<(Vec<(Candidate, Claimed)>, Vec<Candidate>), StoreError> {
    let at_once = if store.link.is_cluster() { 1 } else { AT_ONCE };
    let mut under_way = JoinSet::new();
    for (place, some) in wave.chunks(at_once).enumerate() {
        let (link, count) = (Arc::clone(&store.link), some.len());
        let (some, takeable, owner) = (some.to_vec(), takeable.to_vec(), owner.to_string());
        // A node that is dead now may live when this arrives.
        let claim = move |late_at: u64| {
            let mut claim = SCRIPTS.claim.prepare_invoke();
            claim.arg(late_at).arg(&owner);
            for candidate in &some {
                claim.key(record_key(candidate.id)).arg(candidate.ticket);
            }
            for node in &takeable {
                claim.arg(&**node);
            }
            claim
        };
        under_way.spawn(async move {
            let claimed = match link.ask_in_time::<Vec<Claimed>>(claim).await {
                Err(StoreError::Away(_)) if link.is_cluster() => return Ok((place, None)),
                claimed => claimed?,
            };
            let is_whole = claimed.len() == count;
            is_whole.then_some((place, Some(claimed))).ok_or(StoreError::Away(AwayReason::Unreachable))
        });
    }
    let mut outcomes = BTreeMap::new();
    while let Some(joined) = under_way.join_next().await {
        // A task ends otherwise only with the runtime.
        let (place, claimed) = joined.unwrap_or(Err(StoreError::Away(crate::vault::AwayReason::Unreachable)))?;
        outcomes.insert(place, claimed);
    }
    let (mut answered, mut unanswered) = (Vec::with_capacity(wave.len()), Vec::new());
    for (some, claimed) in wave.chunks(at_once).zip(outcomes.into_values()) {
        match claimed {
            Some(claimed) => answered.extend(some.iter().cloned().zip(claimed)),
            None => unanswered.extend_from_slice(some),
        }
    }
    Ok((answered, unanswered))
}
