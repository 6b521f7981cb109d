//! The store in Redis (6.2 or later, or Valkey): standalone, behind Sentinel, or a Cluster.
//!
//! | key | type | holds | TTL |
//! | --- | --- | --- | --- |
//! | `sipwake:i:{pi_…}` | hash | `s` sealed, `o` owner, `f` fence, `e` expiry, `l` lookup, `c` ticket of the last claim, `p` the node that put it last where another one has it, `h` the last nodes that had it before | the record's |
//! | `sipwake:m:{pi_…}` | hash | by item key: `order[8] sealed`, of each message that is kept | the record's, six days after the last at most |
//! | `sipwake:c:{pi_…}` | hash | likewise, of each missed call | likewise |
//! | `sipwake:s:{pi_…}` | hash | likewise, of each call's story | a day after the last, the record's at most |
//! | `sipwake:v:{pi_…}` | hash | likewise, how its mailbox stands: one | the record's, six days after the last change at most |
//! | `sipwake:l:<hex>` | string | the instance that has this lookup | the record's |
//! | `sipwake:n:<node>` | set | the instances of a node; may hold more, so only a hint | [`INDEX_TTL`] after the last addition |
//! | `sipwake:ended:<node>` | set | the node's instances that another node has ended, until it has released them | [`ENDED_TTL`] |
//! | `sipwake:nodes` | set | the nodes there may be; a hint | [`INDEX_TTL`] |
//! | `sipwake:letters:<node>#<run>` | list | sealed letters of other nodes to this run | [`LETTER_LIFE`](super::peer_messages::LETTER_LIFE) after the last |
//! | `sipwake:note:<node>` | string | sealed: where the node's Contacts lead, for whoever takes them away | [`INDEX_TTL`] |
//! | `sipwake:memo:<hex>` | string | that this app's pushes were accepted by this environment, key and endpoint, or that it, or a service of Web Push, is believed so often what may be a fault of all; a keyed hash | [`INDEX_TTL`], or less |
//! | `sipwake:mark:<node>#<run>` | string | how often this run has written a record; tells a store that has lost something | [`INDEX_TTL`] after the last |
//! | `sipwake:memo:{sipwake:ring}:<hex>` | string | how often a keyring was rotated; a keyed hash, in the slot of what stands | [`INDEX_TTL`] |
//! | `sipwake:ring`, `sipwake:ring:<hex>:<day>` | string | what tells the keyring of the living nodes from another one: keyed hashes | ten minutes after the last look |
//! | `sipwake:check:{<hex>}:…` | any | what an examination tries | 5 s |
//! | `sipwake:lease:<node>` | string | the run that holds the node's lease, or `-`: released | the lease |
//!
//! | room | what it is |
//! | --- | --- |
//! | `client`, `connect`, `sentinel`, `link` | the URL, making a connection, and the one that all share |
//! | `scripts`, `claim`, `dead_nodes`, `shares` | changes as a whole; taking over, what from, and which node does |
//! | `record_reads` | what stands in the place of a record |
//! | `names` | which instance a device has |
//! | `items`, `bulk_reads` | what is kept beside records |
//! | `hints`, `keyring_agreement`, `peer_messages` | nodes and runs, their keyring, their letters |
//! | `examine`, `persistence`, `marks` | what kind of Redis it is, and whether it has lost something |
//! | `rivals` | another process by this node's name |
//! | `failure`, `unasked` | what an error means |
//!
//! Invariant: what happens to one record happens in one script, and so as a whole. No operation spans two slots of a
//! Cluster. An index names an instance before its record exists, and a lookup is corrected by whoever follows it: a
//! crash in between leaves a name without a record, never a record without a name. Every key has a TTL.

mod bulk_reads;
mod claim;
mod client;
mod connect;
mod dead_nodes;
mod examine;
mod failure;
mod hints;
mod items;
mod keyring_agreement;
mod link;
mod marks;
mod names;
mod peer_messages;
mod persistence;
mod record_reads;
mod rivals;
mod scripts;
mod sentinel;
mod shares;
mod unasked;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sip::id::InstanceId;

use super::MAX_LIFETIME_S;
use super::items::Collection;
use super::lookup::Lookup;
use super::seal::Sealed;
use super::store::{
    AwayReason, ErasedIf, Expiry, Fence, Lease, Naming, OPERATION_LIMIT, Owner, Peer, Placed, RecordToWrite, Settings,
    StoreError, Stored,
};
use super::wanted::Wanted;
use crate::clock::{self, since_boot};
use crate::lock::Mutex;
use bulk_reads::Boxes;
use claim::{Claims, Offered};
use client::RedisClient;
use hints::text;
pub(super) use keyring_agreement::{AGREEMENT_TTL, AgreementWrite, Compared, beside_agreement};
use link::{Link, WriteTarget};
use marks::Marked;
use rivals::Rivals;
use scripts::{EraseOutcome, Erased, PutRefusal, SCRIPTS};

/// How long a hint outlives the last addition to it: the longest life of a record, and a day.
const INDEX_TTL: Duration = Duration::from_secs(MAX_LIFETIME_S + 86_400);

/// How long a node may take to hear that another one has ended an instance of it. One that hears nothing for a lease has lost
/// it, and looks all of its instances up.
const ENDED_TTL: Duration = Duration::from_secs(600);

/// How often a node puts its name among the nodes anew.
const ENLIST_EVERY: Duration = Duration::from_secs(3_600);

/// How many members of a set are asked for at once, about: no answer grows with the set.
const PAGE: usize = 256;

/// What a released lease holds in place of a run.
const RELEASED: &str = "-";

/// What a record is written for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writing {
    /// It is new, or changed.
    Put,
    /// It is changed, and registered from here: the nodes that had it before are forgotten.
    PutRegistered,
    /// It is changed, and takes its lookup, which is not the one that it had before.
    PutMoved,
    /// Likewise, and leaves its lookup to another instance that has it.
    PutBeside,
    /// The store has lost it, or has it as it was before.
    Restore,
    /// Another run has it by this fence.
    Over,
}

/// A store in Redis, as one node sees it.
pub(super) struct RedisStore {
    link: Arc<Link>,
    /// For the wait for letters alone.
    letters: Arc<Link>,
    /// For reading what is kept beside records.
    boxes: Arc<Boxes>,
    lease: Duration,
    /// Whether a store that may write to a disk is given no account that it has not.
    require_ephemeral: bool,
    claims: Claims,
    enlisted: Mutex<Option<Instant>>,
    /// Whether this node has given up its lease, and the others may have struck its name off.
    has_left: AtomicBool,
    /// This run is to give its lease up for good.
    leaves: AtomicBool,
    marked: Marked,
    rivals: Rivals,
}

impl RedisStore {
    /// Reads the URL; connects when first asked something.
    pub fn open(url: &str, settings: &Settings) -> Result<Self, StoreError> {
        let link = |limit| {
            let client = RedisClient::read(url, &settings.tls)?;
            Ok(Arc::new(Link::new(client, limit)))
        };
        Ok(Self::on(
            link(settings.operation_limit)?,
            link(settings.operation_limit.max(OPERATION_LIMIT))?,
            Arc::new(Boxes::on(link(settings.operation_limit)?)),
            settings.lease,
            settings.require_ephemeral,
        ))
    }

    /// The same store over the same connection, for another node.
    pub fn as_another(&self) -> Self {
        Self::on(self.link.clone(), self.letters.clone(), self.boxes.clone(), self.lease, self.require_ephemeral)
    }

    fn on(link: Arc<Link>, letters: Arc<Link>, boxes: Arc<Boxes>, lease: Duration, require_ephemeral: bool) -> Self {
        let (claims, enlisted, marked) = (Claims::default(), Mutex::new(None), Marked::default());
        let rivals = Rivals::new(lease);
        let (has_left, leaves) = Default::default();
        Self { link, letters, boxes, lease, require_ephemeral, claims, enlisted, has_left, leaves, marked, rivals }
    }

    /// That it may be given an account that it has not.
    ///
    /// # Errors
    /// [`AwayReason::MayPersist`]; [`StoreError::Away`].
    pub async fn takes_new(&self) -> Result<(), StoreError> {
        if self.require_ephemeral { self.link.needs_ephemeral().await } else { Ok(()) }
    }

    /// How many connections were opened until now.
    pub fn connections(&self) -> u64 {
        self.link.generation()
    }

    /// How often the relay's user was denied something until now, or the server did not know it.
    pub fn denials(&self) -> u64 {
        self.link.denials() + self.letters.denials() + self.boxes.denials()
    }

    pub async fn put(
        &self,
        owner: &Owner,
        record: RecordToWrite<'_>,
        naming: Naming<'_>,
    ) -> Result<Placed, StoreError> {
        let writing = match naming {
            Naming::Takes => Writing::Put,
            Naming::TakesRegistered => Writing::PutRegistered,
            Naming::Moves { .. } => Writing::PutMoved,
            Naming::Leaves => Writing::PutBeside,
        };
        let (placed, _) = self.write(owner, record, writing).await?;
        if let Naming::Moves { from } = naming
            && from != record.lookup
        {
            self.unpoint(from, record.id).await?;
        }
        Ok(placed)
    }

    /// Writes a record again that the store has lost, or has as it was before; the run that had it, where that was another one.
    pub async fn restore(&self, owner: &Owner, record: RecordToWrite<'_>) -> Result<Option<Owner>, StoreError> {
        let (_, earlier) = self.write(owner, record, Writing::Restore).await?;
        Ok(Owner::parse(&earlier).filter(|earlier| earlier != owner))
    }

    /// Writes a record over that of another run, which is told before, so that whatever dies now, it hears of it; and that run, where it is of another node.
    /// [`StoreError::NotOwner`] and [`StoreError::Gone`]: the record has changed in this moment; [`StoreError::Malformed`]: it is damaged.
    pub async fn take_over(
        &self,
        owner: &Owner,
        record: RecordToWrite<'_>,
    ) -> Result<(Placed, Option<Owner>), StoreError> {
        let stored = self.load(owner, record.id).await?.ok_or(StoreError::Gone)?;
        let other = Some(stored.owner).filter(|other| other.node != owner.node);
        if let Some(other) = &other {
            self.note_ended(other, &[record.id]).await?;
        }
        let record = RecordToWrite { fence: stored.fence, ..record };
        let (placed, _) = self.write(owner, record, Writing::Over).await?;
        if let Some(other) = &other {
            self.unindex(&other.node, &[record.id]).await?;
        }
        Ok((placed, other))
    }

    /// What became of it, and the owner that the record had.
    async fn write(
        &self,
        owner: &Owner,
        record: RecordToWrite<'_>,
        writing: Writing,
    ) -> Result<(Placed, String), StoreError> {
        let RecordToWrite { id, sealed, expires_at, lookup, fence } = record;
        let expiry = Expiry::at(expires_at);
        let left_ms = expiry.left_ms();
        let is_new = fence == Fence::NEW || writing == Writing::Restore;
        let target = if is_new && self.require_ephemeral { WriteTarget::Ephemeral } else { WriteTarget::Anywhere };
        self.index(&owner.node, &[id]).await?;
        let connection = self.link.generation();
        let put = |late_at: u64| {
            let mut put = SCRIPTS.put.key(record_key(id));
            for collection in Collection::ALL {
                put.key(collection_key(id, collection));
            }
            put.arg(late_at).arg(sealed.as_bytes()).arg(owner.to_string()).arg(fence.number()).arg(expiry.at_s);
            put.arg(lookup.to_string()).arg(left_ms).arg(match writing {
                Writing::Put | Writing::PutMoved | Writing::PutBeside => 0,
                Writing::Restore => 1,
                Writing::Over => 2,
                Writing::PutRegistered => 3,
            });
            for collection in Collection::ALL {
                put.arg(collection.kept_ms());
            }
            put
        };
        // What is erased because this has failed is not to be written then.
        let put = self.link.ask_in_time_or_never(put, target).await;
        if put == Err(StoreError::Away(AwayReason::MayPersist)) {
            self.unindex(&owner.node, &[id]).await?;
        }
        let (outcome, earlier, owned_by): (i64, Vec<u8>, Vec<u8>) = put?;
        if let Some(refusal) = PutRefusal::of_number(outcome) {
            // One that a later run of this node has is named for it.
            let is_of_node = Owner::parse(&text(owned_by)).is_some_and(|it| it.node == owner.node);
            if !is_of_node {
                self.unindex(&owner.node, &[id]).await?;
            }
            return Err(match refusal {
                PutRefusal::NotOwner => StoreError::NotOwner,
                PutRefusal::Gone => StoreError::Gone,
            });
        }
        if self.has_left.load(Ordering::Relaxed) {
            // The others have claimed what this node had, and look at its index no more.
            self.enlist(&owner.node).await?;
        }
        let fence_before = fence;
        let number = u64::try_from(outcome).map_err(|_| StoreError::Away(AwayReason::Unreachable))?;
        let fence = Fence::from_number(number);
        self.mark(owner, connection).await?;
        let earlier = Lookup::parse(&text(earlier));
        // One that was written before, and whose answer was lost, takes its lookup all the same.
        let is_taken = earlier == Some(*lookup) && fence_before != Fence::NEW && writing != Writing::PutMoved;
        let takes = writing != Writing::PutBeside && !is_taken;
        let displaced = self.point(lookup, id, left_ms, takes).await?;
        if let Some(earlier) = earlier.filter(|earlier| earlier != lookup) {
            self.unpoint(&earlier, id).await?;
        }
        Ok((Placed { fence, displaced }, text(owned_by)))
    }

    /// Names instances of this node in its index again. One whose record is erased meanwhile is struck off behind it: an erasure takes the record away
    /// first and the name after it, and here it is the other way round, so whichever comes last leaves none.
    pub async fn name_again(&self, owner: &Owner, ids: &[InstanceId]) -> Result<(), StoreError> {
        for some in ids.chunks(PAGE) {
            self.index(&owner.node, some).await?;
            let looks = some.iter().map(|id| async move {
                let exists = self.link.ask::<bool>(::redis::cmd("EXISTS").arg(record_key(*id))).await;
                (exists == Ok(false)).then_some(*id)
            });
            let erased: Vec<InstanceId> = join_all(looks).await.into_iter().flatten().collect();
            self.unindex(&owner.node, &erased).await?;
        }
        Ok(())
    }

    /// Whether there was a record, and the run of another node that is to hear of its end: the one that it was erased from. `None` where another one is left.
    pub async fn erase(
        &self,
        owner: &Owner,
        id: InstanceId,
        lookup: Option<&Lookup>,
        erased_if: ErasedIf<'_>,
    ) -> Result<Option<(bool, Option<Owner>)>, StoreError> {
        let connection = self.link.open_generation().await?;
        let (mut from, mut told): (Vec<u8>, Option<Owner>) = (Vec::new(), None);
        let (existed, other, earlier) = loop {
            let (outcome, owned_by, earlier) = self.try_erase(owner, id, &from, erased_if).await?;
            if outcome == EraseOutcome::Left {
                return Ok(None);
            }
            let other = Owner::parse(&text(owned_by.clone())).filter(|other| other.node != owner.node);
            if outcome != EraseOutcome::Others {
                break (outcome == EraseOutcome::Erased, other.or(told), earlier);
            }
            if let Some(other) = &other {
                // First, so that whatever dies now, its owner hears of it; and so does whoever has claimed it since then.
                self.note_ended(other, &[id]).await?;
            }
            (from, told) = (owned_by, other);
        };
        // The secret is gone; what follows are names, and is the same when it is done twice.
        if let Some(lookup) = lookup {
            self.unpoint(lookup, id).await?;
        }
        if let Some(earlier) = Lookup::parse(&text(earlier)).filter(|earlier| Some(earlier) != lookup) {
            self.unpoint(&earlier, id).await?;
        }
        self.unindex(&owner.node, &[id]).await?;
        if let Some(other) = &other {
            self.unindex(&other.node, &[id]).await?;
        }
        // Also where there was none: an earlier try may have erased it, whose answer was lost.
        match self.mark(owner, connection).await {
            // Nothing is left of it in a store that takes no writes, which may be full: whether it stays erased is in doubt alone.
            Err(StoreError::Away(AwayReason::Refused(_))) => self.marked.note_doubt(),
            marked => marked?,
        }
        Ok(Some((existed, other)))
    }

    /// Notes for another node that instances of it have ended.
    pub async fn note_ended(&self, other: &Owner, ids: &[InstanceId]) -> Result<(), StoreError> {
        self.add(&ended_key(&other.node), ids.iter().map(InstanceId::to_string), ENDED_TTL).await
    }

    /// `from`: the other node's run that has heard of its end, and may be the owner.
    async fn try_erase(
        &self,
        owner: &Owner,
        id: InstanceId,
        from: &[u8],
        erased_if: ErasedIf<'_>,
    ) -> Result<Erased, StoreError> {
        let mut erase = SCRIPTS.erase.key(record_key(id));
        for collection in Collection::ALL {
            erase.key(collection_key(id, collection));
        }
        let erase = erase.arg(&*owner.node).arg(from);
        match erased_if {
            ErasedIf::Any => erase.arg("").arg(""),
            // A later run of this node may have claimed it since.
            ErasedIf::OwnedBy(fence) => erase.arg(fence.next().number()).arg(""),
            ErasedIf::Unchanged(sealed) => erase.arg("").arg(sealed.as_bytes()),
        };
        self.link.ask(erase).await
    }

    /// Some instances of this node that other nodes have ended; none when there are none.
    pub async fn ended_elsewhere(&self, owner: &Owner) -> Result<Vec<InstanceId>, StoreError> {
        let names = self.some_of(&ended_key(&owner.node)).await?;
        let ids: Vec<InstanceId> = names.iter().filter_map(|name| InstanceId::parse(name)).collect();
        if ids.len() < names.len() {
            // What names no instance would stand before those that do.
            let mut forget = ::redis::cmd("SREM");
            forget
                .arg(ended_key(&owner.node))
                .arg(names.iter().filter(|name| InstanceId::parse(name).is_none()).collect::<Vec<_>>());
            self.link.ask::<()>(&forget).await?;
        }
        Ok(ids)
    }

    /// This node has released them.
    pub async fn forget_ended(&self, owner: &Owner, ids: &[InstanceId]) -> Result<(), StoreError> {
        let mut forget = ::redis::cmd("SREM");
        forget.arg(ended_key(&owner.node));
        for id in ids {
            forget.arg(id.to_string());
        }
        self.link.ask(&forget).await
    }

    /// Nothing while those write again what the store has lost who have it: it may say that the dead own it, or a node that has given it up.
    pub async fn claim(&self, owner: &Owner, batch: usize, wanted: &Wanted) -> Result<Vec<Stored>, StoreError> {
        self.losses(owner, false).await?;
        if self.is_being_restored() { Ok(Vec::new()) } else { self.claims.claim(self, owner, batch, wanted).await }
    }

    /// Another node has offered these of its own, until then.
    pub fn take_offered(&self, from: Owner, ids: Vec<InstanceId>, until: Instant) {
        self.claims.offer(Offered { from, ids, until });
    }

    /// Whether other nodes claim before this one.
    pub fn yield_claims(&self, yields: bool) {
        self.claims.yield_to_others(yields);
    }

    /// `held_at`: when it asked for the one that it got last, since boot. `note`: what the node says of itself, asked for when it
    /// is written.
    pub async fn hold_lease(
        &self,
        owner: &Owner,
        held_at: Option<Duration>,
        note: impl FnOnce() -> Option<Sealed>,
    ) -> Result<Lease, StoreError> {
        let held = self.write_lease(owner, held_at, note).await;
        if held.is_err() {
            self.rivals.note_unwritten();
        }
        held
    }

    async fn write_lease(
        &self,
        owner: &Owner,
        held_at: Option<Duration>,
        note: impl FnOnce() -> Option<Sealed>,
    ) -> Result<Lease, StoreError> {
        let gives_way = self.rivals.gives_way();
        if gives_way {
            let held_by = self.lease_of(&owner.node).await?;
            self.rivals.note(&owner.run, held_by.as_deref());
            if held_by.is_some_and(|run| run != RELEASED && *run != *owner.run) {
                return Ok(Lease::GivenWay);
            }
        }
        let mut set = ::redis::cmd("SET");
        set.arg(lease_key(&owner.node)).arg(&*owner.run).arg("PX").arg(millis(self.lease));
        let earlier: Option<Vec<u8>> = match self.link.ask(set.clone().arg("GET")).await {
            // It is no string, and was not changed.
            Err(StoreError::Malformed) => self.link.ask::<()>(&set).await.map(|()| None)?,
            earlier => earlier?,
        };
        self.has_left.store(self.leaves.load(Ordering::Relaxed), Ordering::Relaxed);
        let kept = earlier.as_deref() == Some(owner.run.as_bytes());
        let is_early = |held_at| since_boot().saturating_sub(held_at) < self.lease;
        if earlier.is_none() && held_at.is_some_and(is_early) && !gives_way {
            self.note_lost_lease();
        }
        self.rivals.note(&owner.run, earlier.as_deref().map(String::from_utf8_lossy).as_deref());
        let enlisted = *self.enlisted.lock();
        if !kept || enlisted.is_none_or(|at| clock::since(at) >= ENLIST_EVERY) {
            self.enlist(&owner.node).await?;
            if let Some(note) = note() {
                self.write_note(owner, &note).await?;
            }
            *self.enlisted.lock() = Some(clock::now());
        }
        Ok(if kept { Lease::Held } else { Lease::Lapsed })
    }

    /// Names a node to the others, which look at its index when it is dead.
    async fn enlist(&self, node: &str) -> Result<(), StoreError> {
        self.add(NODES_KEY, [node.to_string()].into_iter(), INDEX_TTL).await
    }

    /// Says something of this node to the others.
    async fn write_note(&self, owner: &Owner, note: &Sealed) -> Result<(), StoreError> {
        let mut set = ::redis::cmd("SET");
        self.link.ask(set.arg(note_key(&owner.node)).arg(note.as_bytes()).arg("PX").arg(millis(INDEX_TTL))).await
    }

    pub async fn remember(&self, name: &str) -> Result<(), StoreError> {
        let mut set = ::redis::cmd("SET");
        self.link.ask(set.arg(memo_key(name)).arg(1).arg("PX").arg(millis(INDEX_TTL))).await
    }

    pub async fn remembers(&self, name: &str) -> Result<bool, StoreError> {
        self.link.ask(::redis::cmd("EXISTS").arg(memo_key(name))).await
    }

    /// Whether it was free.
    pub async fn take_turn(&self, name: &str, life: Duration) -> Result<bool, StoreError> {
        let mut set = ::redis::cmd("SET");
        let set = set.arg(memo_key(name)).arg(1).arg("NX").arg("PX").arg(millis(life));
        Ok(self.link.ask::<Option<String>>(&*set).await?.is_some())
    }

    pub async fn give_turn_back(&self, name: &str) -> Result<(), StoreError> {
        self.link.ask(::redis::cmd("DEL").arg(memo_key(name))).await
    }

    /// What a node says of itself.
    pub async fn note_of(&self, node: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.bytes_at(&note_key(node)).await
    }

    pub async fn holds_lease(&self, owner: &Owner) -> Result<bool, StoreError> {
        Ok(self.lease_of(&owner.node).await?.as_deref() == Some(&*owner.run))
    }

    pub async fn living_peers(&self, owner: &Owner) -> Result<Vec<Owner>, StoreError> {
        Ok(self.peers(owner).await?.into_iter().filter_map(|peer| peer.run).collect())
    }

    pub async fn peers(&self, owner: &Owner) -> Result<Vec<Peer>, StoreError> {
        let nodes = self.nodes().await?;
        let mut peers = Vec::new();
        for node in nodes.iter().filter(|node| **node != *owner.node) {
            let (run, node) = (self.run_of(node).await?, Arc::<str>::from(node.as_str()));
            peers.push(Peer { run: run.map(|run| Owner { node: node.clone(), run: run.into() }), node });
        }
        Ok(peers)
    }

    pub async fn unclaimed_nodes(&self, owner: &Owner) -> Result<Vec<Box<str>>, StoreError> {
        let mut unclaimed = Vec::new();
        for (node, _) in self.known_nodes().await?.into_iter().filter(|(node, lives)| !lives && **node != *owner.node) {
            // An index that names nothing any more is none.
            let has_index: bool = self.link.ask(::redis::cmd("EXISTS").arg(node_key(&node))).await?;
            unclaimed.extend(has_index.then_some(node));
        }
        Ok(unclaimed)
    }

    /// Whether any node, this one too, has something here.
    pub async fn holds_instances(&self) -> Result<bool, StoreError> {
        for node in self.nodes().await? {
            if self.link.ask(::redis::cmd("EXISTS").arg(node_key(&node))).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub async fn known_nodes(&self) -> Result<Vec<(Box<str>, bool)>, StoreError> {
        let mut known = Vec::new();
        for node in self.nodes().await? {
            let lives = self.run_of(&node).await?.is_some();
            known.push((node.into(), lives));
        }
        Ok(known)
    }

    pub async fn release_lease(&self, owner: &Owner) -> Result<(), StoreError> {
        self.has_left.store(true, Ordering::Relaxed);
        let mut release = SCRIPTS.release.key(lease_key(&owner.node));
        self.link.ask(release.arg(&*owner.run).arg(RELEASED).arg(millis(self.lease))).await
    }

    pub async fn drop_lease(&self, owner: &Owner) -> Result<(), StoreError> {
        self.has_left.store(true, Ordering::Relaxed);
        let mut drop = SCRIPTS.drop.key(lease_key(&owner.node));
        self.link.ask(drop.arg(&*owner.run).arg(RELEASED)).await
    }

    pub async fn ping(&self) -> Result<Duration, StoreError> {
        let asked = clock::now();
        let _: String = self.link.ask(&::redis::cmd("PING")).await?;
        Ok(clock::since(asked))
    }

    /// Whether it loses in the order in which it was written to.
    pub fn is_ordered(&self) -> bool {
        !self.link.is_cluster()
    }

    /// The server's own clock, in milliseconds since 1970.
    pub async fn time_ms(&self) -> Result<u64, StoreError> {
        let (seconds, micros): (u64, u64) = self.link.ask(&::redis::cmd("TIME")).await?;
        Ok(seconds.saturating_mul(1_000).saturating_add(micros / 1_000))
    }
}

const NODES_KEY: &str = "sipwake:nodes";
const RECORD_PREFIX: &str = "sipwake:i:";

fn record_key(id: InstanceId) -> String {
    format!("{RECORD_PREFIX}{{{id}}}")
}

fn collection_key(id: InstanceId, collection: Collection) -> String {
    match collection {
        Collection::Messages => format!("sipwake:m:{{{id}}}"),
        Collection::MissedCalls => format!("sipwake:c:{{{id}}}"),
        Collection::Stories => format!("sipwake:s:{{{id}}}"),
        Collection::Mailbox => format!("sipwake:v:{{{id}}}"),
    }
}

/// The instance that a record's key names.
fn record_id(key: &str) -> Option<InstanceId> {
    InstanceId::parse(key.strip_prefix(RECORD_PREFIX)?.strip_prefix('{')?.strip_suffix('}')?)
}

fn lookup_key(lookup: &Lookup) -> String {
    format!("sipwake:l:{lookup}")
}

fn node_key(node: &str) -> String {
    format!("sipwake:n:{node}")
}

fn ended_key(node: &str) -> String {
    format!("sipwake:ended:{node}")
}

fn memo_key(name: &str) -> String {
    format!("sipwake:memo:{name}")
}

fn note_key(node: &str) -> String {
    format!("sipwake:note:{node}")
}

fn lease_key(node: &str) -> String {
    format!("sipwake:lease:{node}")
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn a_records_key_has_its_hash_tag_and_reads_back() {
        let id = InstanceId::new(77 << 70, ShardTag(2));
        let key = record_key(id);
        assert_eq!(key, format!("sipwake:i:{{{id}}}"));
        assert_eq!(record_id(&key), Some(id));
        assert_eq!(record_id("sipwake:i:pi_"), None);
    }
}
