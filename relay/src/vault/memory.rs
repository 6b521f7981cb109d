//! The store within the process: for development, for tests, and for a relay that has to forget everything when it stops.
//!
//! Invariant: it holds the sealed form and no more, as a Redis would. Expired entries are removed before anything is read. Its answers equal those of
//! [`super::redis`]: one conformance suite runs against both.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use sip::id::InstanceId;

use super::items::{Collection, ItemKey, Kept, Placement, SealedItem};
use super::lookup::Lookup;
use super::seal::Sealed;
use super::store::{ErasedIf, Expiry, Fence, Naming, Owner, Placed, RecordToWrite, StoreError, Stored};
use super::wanted::Wanted;
use crate::clock::{self, since_boot};
use crate::lock::Mutex;

/// Nodes that are remembered for a record.
const HAD_BY_MAX: usize = 4;

/// A store that ends with the process. Clones are one store.
#[derive(Clone, Default)]
pub(super) struct MemoryStore {
    table: Arc<Mutex<Table>>,
    /// Where the last claim of this clone's node left off.
    cursor: Arc<Mutex<Option<InstanceId>>>,
    /// What other nodes have offered this clone's node, each with its owner and until when.
    offered: Arc<Mutex<BTreeMap<InstanceId, (Owner, Instant)>>>,
}

#[derive(Default)]
struct Table {
    /// Boxed: a node of the tree has room for a half more than it holds.
    records: BTreeMap<InstanceId, Box<Entry>>,
    lookups: BTreeMap<Lookup, InstanceId>,
    /// By [`Entry::ends_at_ms`].
    by_expiry: BTreeSet<(i64, InstanceId)>,
    /// Each owner of a record, once.
    owners: Vec<Arc<Owner>>,
    leases: BTreeMap<Arc<str>, Held>,
    /// What is remembered beside instances.
    memos: BTreeSet<Box<str>>,
    /// Until when each is taken.
    turns: BTreeMap<Box<str>, Instant>,
}

struct Entry {
    sealed: Sealed,
    /// One for all that it owns.
    owner: Arc<Owner>,
    fence: Fence,
    expires_at: u64,
    /// The same by the time since boot, in milliseconds.
    ends_at_ms: i64,
    lookup: Lookup,
    kept: Option<Box<Collections>>,
    earlier: Option<Box<EarlierNodes>>,
}

/// The nodes that had a record before. Most records have had one node alone.
#[derive(Clone, Default)]
struct EarlierNodes {
    /// The node that has put it last, where another one has claimed it since.
    put_by: Option<Arc<str>>,
    /// The nodes from which it was claimed, the latest first, but for the last one, which stays the last.
    had_by: Vec<Arc<str>>,
}

/// What is kept beside a record, each with its place in the order, for each [`Collection`].
type Collections = [BTreeMap<ItemKey, (u64, Sealed)>; Collection::ALL.len()];

struct Held {
    run: Arc<str>,
    until: Instant,
}

impl MemoryStore {
    /// The same store, for another node.
    pub fn as_another(&self) -> Self {
        Self { table: self.table.clone(), ..Self::default() }
    }

    pub fn put(&self, owner: &Owner, record: RecordToWrite<'_>, naming: Naming<'_>) -> Result<Placed, StoreError> {
        let (table, fence) = (self.table(), record.fence);
        let fence = match table.records.get(&record.id) {
            Some(entry) if *entry.owner != *owner => return Err(StoreError::NotOwner),
            Some(entry) if fence == Fence::NEW && entry.fence == Fence::FIRST => Fence::FIRST,
            Some(entry) if fence != entry.fence => return Err(StoreError::NotOwner),
            Some(_) => fence,
            None if fence == Fence::NEW => Fence::FIRST,
            None => return Err(StoreError::Gone),
        };
        Ok(write(table, owner, RecordToWrite { fence, ..record }, naming))
    }

    /// Another owner's record is written over.
    pub fn take_over(&self, owner: &Owner, record: RecordToWrite<'_>) -> Result<Placed, StoreError> {
        let table = self.table();
        let entry = table.records.get(&record.id).ok_or(StoreError::Gone)?;
        let fence = if *entry.owner == *owner { entry.fence } else { entry.fence.next() };
        Ok(write(table, owner, RecordToWrite { fence, ..record }, Naming::Takes))
    }

    pub fn take_lookup(&self, id: InstanceId, lookup: &Lookup) {
        let mut table = self.table();
        if table.records.contains_key(&id) {
            table.lookups.insert(*lookup, id);
        }
    }

    pub fn restore(&self, owner: &Owner, record: RecordToWrite<'_>) -> Result<(), StoreError> {
        let (table, fence) = (self.table(), record.fence);
        let is_anothers = |entry: &Entry| entry.fence > fence || entry.fence == fence && *entry.owner != *owner;
        if table.records.get(&record.id).is_some_and(|entry| is_anothers(entry)) {
            return Err(StoreError::NotOwner);
        }
        write(table, owner, record, Naming::Takes);
        Ok(())
    }

    pub fn find(&self, lookup: &Lookup) -> Option<InstanceId> {
        self.table().lookups.get(lookup).copied()
    }

    pub fn load(&self, owner: &Owner, id: InstanceId) -> Option<Stored> {
        self.table().records.get(&id).map(|entry| entry.stored(owner, id))
    }

    /// Whether there was a record; `None` where another one is left.
    pub fn erase(&self, id: InstanceId, erased_if: ErasedIf<'_>) -> Option<bool> {
        let mut table = self.table();
        if let ErasedIf::Unchanged(sealed) = erased_if
            && table.records.get(&id).is_some_and(|entry| entry.sealed.as_bytes() != sealed.as_bytes())
        {
            return None;
        }
        Some(table.remove(id))
    }

    pub fn claim(&self, owner: &Owner, batch: usize, wanted: &Wanted) -> Vec<Stored> {
        let mut table = self.table();
        let mut cursor = self.cursor.lock();
        let own = table.shared(owner);
        let Table { records, leases, .. } = &mut *table;
        let now = clock::now();
        let is_live = |node: &str| leases.get(node).is_some_and(|lease| lease.until > now);
        let is_orphan =
            |entry: &Entry| *entry.owner != *owner && (entry.owner.node == owner.node || !is_live(&entry.owner.node));
        let place = |id: &InstanceId, entry: &mut Entry| {
            let earlier = std::mem::replace(&mut entry.owner, own.clone());
            entry.fence = entry.fence.next();
            let taken_from = Some(&*earlier).filter(|earlier| earlier.node != owner.node).cloned();
            if let Some(earlier) = &taken_from {
                entry.earlier.get_or_insert_default().claimed_from(&earlier.node);
            }
            Stored { taken_from, ..entry.stored(owner, *id) }
        };
        let offered = std::mem::take(&mut *self.offered.lock());
        let is_held = |from: &Owner| leases.get(&from.node).is_some_and(|it| it.run == from.run && it.until > now);
        let stands = offered.into_iter().filter(|(_, (from, until))| *until > now && is_held(from));
        let given: Vec<_> = stands
            .filter_map(|(id, (from, _))| Some(place(&id, records.get_mut(&id).filter(|entry| *entry.owner == from)?)))
            .collect();
        if !given.is_empty() {
            return given;
        }
        let tags = wanted.take();
        if !tags.is_empty() {
            let is_wanted = |id: &InstanceId, entry: &Entry| tags.contains(&id.tag()) && is_orphan(entry);
            let all = records.iter_mut().filter(|(id, entry)| is_wanted(id, entry)).take(batch);
            let hurried: Vec<_> = all.map(|(id, entry)| place(id, entry)).collect();
            if !hurried.is_empty() {
                return hurried;
            }
        }
        let from = cursor.map_or(Unbounded, Excluded);
        let orphans = records.range_mut((from, Unbounded)).filter(|(_, entry)| is_orphan(entry)).take(batch);
        let claimed: Vec<_> = orphans.map(|(id, entry)| place(id, entry)).collect();
        *cursor = claimed.last().map(|stored| stored.id);
        claimed
    }

    pub fn take_offered(&self, from: &Owner, ids: &[InstanceId], until: Instant) {
        let mut offered = self.offered.lock();
        offered.extend(ids.iter().map(|id| (*id, (from.clone(), until))));
    }

    /// True when this run held it until now.
    pub fn hold_lease(&self, owner: &Owner, duration: Duration) -> bool {
        let now = clock::now();
        let lease = Held { run: owner.run.clone(), until: now + duration };
        let earlier = self.table().leases.insert(owner.node.clone(), lease);
        earlier.is_some_and(|earlier| earlier.run == owner.run && earlier.until > now)
    }

    pub fn holds_lease(&self, owner: &Owner) -> bool {
        let now = clock::now();
        self.table().leases.get(&owner.node).is_some_and(|lease| lease.run == owner.run && lease.until > now)
    }

    pub fn living_peers(&self, owner: &Owner) -> Vec<Owner> {
        let now = clock::now();
        let table = self.table();
        let living = table.leases.iter().filter(|(node, lease)| **node != owner.node && lease.until > now);
        living.map(|(node, lease)| Owner { node: node.clone(), run: lease.run.clone() }).collect()
    }

    pub fn unclaimed_nodes(&self, owner: &Owner) -> Vec<Box<str>> {
        let now = clock::now();
        let table = self.table();
        let is_live = |node: &str| table.leases.get(node).is_some_and(|lease| lease.until > now);
        let owners = table.records.values().map(|entry| &*entry.owner.node);
        let unclaimed: BTreeSet<&str> = owners.filter(|node| *node != &*owner.node && !is_live(node)).collect();
        unclaimed.into_iter().map(Into::into).collect()
    }

    pub fn known_nodes(&self) -> Vec<(Box<str>, bool)> {
        let now = Instant::now();
        self.table().leases.iter().map(|(node, lease)| ((**node).into(), lease.until > now)).collect()
    }

    pub fn release_lease(&self, owner: &Owner) {
        let mut table = self.table();
        if table.leases.get(&owner.node).is_some_and(|lease| lease.run == owner.run) {
            table.leases.remove(&owner.node);
        }
    }

    pub fn remember(&self, name: &str) {
        self.table().memos.insert(name.into());
    }

    pub fn remembers(&self, name: &str) -> bool {
        self.table().memos.contains(name)
    }

    pub fn take_turn(&self, name: &str, life: Duration) -> bool {
        let now = clock::now();
        let mut table = self.table();
        table.turns.retain(|_, until| *until > now);
        let is_free = !table.turns.contains_key(name);
        if is_free {
            table.turns.insert(name.into(), now + life);
        }
        is_free
    }

    pub fn give_turn_back(&self, name: &str) {
        self.table().turns.remove(name);
    }

    pub fn put_item(&self, id: InstanceId, item: &SealedItem) -> Result<Placement, StoreError> {
        let mut table = self.table();
        let entry = table.records.get_mut(&id).ok_or(StoreError::Gone)?;
        let collection = &mut entry.kept.get_or_insert_default()[item.collection as usize];
        if let Some(life) = item.collection.life_s() {
            let oldest = item.order.saturating_sub(life.saturating_mul(1_000));
            collection.retain(|_, (order, _)| *order >= oldest);
        }
        if let Some((_, sealed)) = collection.get(&item.item_key) {
            if *sealed == item.sealed || !item.collection.is_replaced() {
                return Ok(if *sealed == item.sealed { Placement::Kept } else { Placement::Known });
            }
            collection.remove(&item.item_key);
        }
        let (_, oldest_goes) = item.collection.limit();
        if collection.len() >= item.places {
            let oldest = collection.iter().min_by_key(|(_, (order, _))| *order).map(|(item_key, _)| *item_key);
            match oldest.filter(|_| oldest_goes) {
                Some(oldest) => drop(collection.remove(&oldest)),
                None => return Ok(Placement::Full),
            }
        }
        collection.insert(item.item_key, (item.order, item.sealed.clone()));
        Ok(Placement::Kept)
    }

    pub fn kept(&self, id: InstanceId, collection: Collection) -> Vec<Kept> {
        let table = self.table();
        let kept = table.records.get(&id).and_then(|entry| entry.kept.as_ref());
        let kept = kept.into_iter().flat_map(|collections| &collections[collection as usize]);
        let of = |(item_key, (order, sealed)): (&ItemKey, &(u64, Sealed))| {
            let (item_key, order, sealed) = (*item_key, *order, sealed.clone());
            Kept { item_key, order, sealed }
        };
        kept.map(of).collect()
    }

    pub fn item_counts(&self, id: InstanceId) -> [usize; Collection::OF_DEVICE.len()] {
        let table = self.table();
        let kept = table.records.get(&id).and_then(|entry| entry.kept.as_ref());
        Collection::OF_DEVICE.map(|collection| kept.map_or(0, |collections| collections[collection as usize].len()))
    }

    pub fn remove_item(&self, id: InstanceId, collection: Collection, item_key: ItemKey) -> bool {
        let mut table = self.table();
        let kept = table.records.get_mut(&id).and_then(|entry| entry.kept.as_mut());
        kept.is_some_and(|collections| collections[collection as usize].remove(&item_key).is_some())
    }

    /// Removes what has expired.
    pub fn purge(&self) {
        drop(self.table());
    }

    /// The table without what has expired. After a panic under the lock its maps are still whole maps: at worst an
    /// index names a record that is gone, which every reader takes for what it is.
    fn table(&self) -> MutexGuard<'_, Table> {
        let mut table = self.table.lock();
        let now_ms = since_boot_ms();
        while let Some(&(ends_at_ms, id)) = table.by_expiry.first()
            && ends_at_ms <= now_ms
        {
            table.by_expiry.pop_first();
            table.remove(id);
        }
        table
    }
}

/// The clock by which records end, as those of a Redis end by its own: whatever is told of the time, what is left of a record goes by.
fn since_boot_ms() -> i64 {
    since_boot().as_millis() as i64
}

/// Writes a record of this owner.
fn write(mut table: MutexGuard<'_, Table>, owner: &Owner, record: RecordToWrite<'_>, naming: Naming<'_>) -> Placed {
    let RecordToWrite { id, sealed, expires_at, lookup, fence } = record;
    let expiry = Expiry::at(expires_at);
    let (expires_at, ends_at_ms) = (expiry.at_s, since_boot_ms().saturating_add_unsigned(expiry.left_ms()));
    let takes_lookup = match naming {
        Naming::Takes | Naming::TakesRegistered => table.records.get(&id).is_none_or(|entry| entry.lookup != *lookup),
        Naming::Moves { .. } => true,
        Naming::Leaves => false,
    };
    let had = table.records.get_mut(&id).map(|entry| (entry.kept.take(), entry.earlier.take()));
    let (kept, earlier) = had.unwrap_or_default();
    let had_by = earlier.map(|earlier| earlier.had_by).unwrap_or_default();
    let is_had = !had_by.is_empty() && !matches!(naming, Naming::TakesRegistered);
    let earlier = is_had.then(|| Box::new(EarlierNodes { put_by: None, had_by }));
    table.remove(id);
    let displaced = table.lookups.get(lookup).copied().filter(|&other| other != id);
    if takes_lookup || displaced.is_none() {
        table.lookups.insert(*lookup, id);
    }
    table.by_expiry.insert((ends_at_ms, id));
    let (sealed, owner, lookup) = (sealed.clone(), table.shared(owner), *lookup);
    table.records.insert(id, Box::new(Entry { sealed, owner, fence, expires_at, ends_at_ms, lookup, kept, earlier }));
    Placed { fence, displaced: displaced.filter(|_| takes_lookup) }
}

impl Table {
    /// The same owner, in one place for all its records.
    fn shared(&mut self, owner: &Owner) -> Arc<Owner> {
        if let Some(known) = self.owners.iter().find(|known| ***known == *owner) {
            return known.clone();
        }
        // Those that own nothing any more go when another one comes.
        self.owners.retain(|known| Arc::strong_count(known) > 1);
        self.owners.push(Arc::new(owner.clone()));
        self.shared(owner)
    }

    fn remove(&mut self, id: InstanceId) -> bool {
        let Some(entry) = self.records.remove(&id) else {
            return false;
        };
        self.by_expiry.remove(&(entry.ends_at_ms, id));
        if self.lookups.get(&entry.lookup) == Some(&id) {
            self.lookups.remove(&entry.lookup);
        }
        true
    }
}

impl EarlierNodes {
    /// Another node claims the record from `node`.
    fn claimed_from(&mut self, node: &Arc<str>) {
        self.put_by.get_or_insert_with(|| node.clone());
        // The last one may have been registered, and stays the last; those before it were not.
        if self.had_by.last() != Some(node) {
            self.had_by.retain(|had| had != node);
            self.had_by.insert(0, node.clone());
        }
        while self.had_by.len() > HAD_BY_MAX {
            self.had_by.remove(HAD_BY_MAX - 1);
        }
    }
}

impl Entry {
    fn stored(&self, owner: &Owner, id: InstanceId) -> Stored {
        let EarlierNodes { put_by, had_by } = self.earlier.as_deref().cloned().unwrap_or_default();
        Stored {
            id,
            sealed: self.sealed.clone(),
            expires_at: self.expires_at,
            fence: self.fence,
            owned: *self.owner == *owner,
            owner: Owner::clone(&self.owner),
            taken_from: None,
            put_by,
            had_by,
        }
    }
}
