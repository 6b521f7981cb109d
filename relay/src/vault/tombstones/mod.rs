//! Tombstones of wiped instances, which must not come back: one for each wipe, until every form of the record that was ever stored would have expired anyway.
//!
//! ```text
//! raise ── durable ──┬── erased from the store ── a receipt, for a day ── forgotten with the record's own end
//!                    └── the store is away ────── 202, asked again; every start goes on with it
//! ```
//!
//! A store may be away when an instance is wiped, and it may come back with data that is older than the wipe: from its append-only file, or a snapshot. So a
//! tombstone is written and synced to a file beside the keyring before anybody is told that an instance was, or will be, wiped. A record that is claimed while
//! its tombstone stands, or that is wiped before a shard has bound it, is erased, and not registered. A store in memory needs no file: it ends with the
//! process.
//!
//! An instance that a node ends by itself (its lease is over, a push token is dead, credentials are refused) may be another node's by then, with another lease,
//! token or password, because a node that is cut off from the store learns nothing. So the tombstone of such a wipe holds the record's fence, even when the
//! store has no record any more: it may have lost a record that the other node had claimed, and will write again. Only a record with that fence or an earlier
//! one is erased and barred. If another node has claimed the record, the tombstone is removed.
//!
//! Invariant: a tombstone holds an instance's id, its lookup, its end, the reason, and a keyed hash by which the device that asks for the receipt is
//! recognised; nothing of it opens or names an account. There is limited [room](Tombstones::make_room) for tombstones of erased records: beyond it, those
//! erased longest ago are dropped first, which is reported if their record could still live. A tombstone of a record that is not erased is never dropped; of
//! those there are no more than the store has records.

mod log;
mod peers;
mod room;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use sip::id::InstanceId;
use subtle::ConstantTimeEq;
use tokio::sync::oneshot;

use super::MAX_LIFETIME_S;
use super::keyring::KeyringError;
use super::lookup::Lookup;
use super::store::Fence;
use crate::aside::in_place;
use crate::clock::{DAY_S, confirmed_now, latest_now, shared_now};
use crate::domain::WipeReason;
use crate::lock::Mutex;
use log::{Line, Log};
pub use peers::PeerTombstone;
use peers::Peers;
use room::Room;

/// How long a receipt can be fetched again, in seconds.
pub const RECEIPT_LIFE_S: u64 = DAY_S;
/// How long a disk may take to write a tombstone; then the store erases without it, and the receipt waits until it is written.
pub const WRITE_LIMIT: Duration = Duration::from_secs(1);

/// The tombstones of one node; cheap to clone.
#[derive(Clone)]
pub struct Tombstones(Arc<Inner>);

struct Inner {
    room: Room,
    table: Arc<Mutex<Table>>,
    log: Option<Log>,
    peers: Mutex<Peers>,
}

type Table = HashMap<InstanceId, Tombstone>;

/// A wipe that was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tombstone {
    /// The record's lookup, as far as the record could be opened.
    pub lookup: Option<Lookup>,
    /// When the last form of the record that was ever stored would have ended, in seconds since 1970.
    pub ends_at: u64,
    /// Why it was wiped.
    pub reason: WipeReason,
    /// The keyed hash of the instance's secret; `None`: nobody can show it any more.
    pub proof: Option<[u8; 16]>,
    /// Whether the SIP server confirmed.
    pub unregistered: bool,
    /// When the store had nothing left of it, in seconds since 1970; `None`: not yet.
    pub wiped_at: Option<u64>,
    /// Of what this node has ended by itself: the fence that its record had here. It bars, and erases, nothing that another node has claimed since. `None`: it
    /// counts whoever has the record.
    pub fence: Option<Fence>,
    /// It is in the file, synced.
    is_durable: bool,
}

/// The tombstone could not be made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tombstone could not be written")]
pub struct NotWritten;

impl Tombstones {
    /// Without a file: for a store that ends with the process.
    pub fn in_memory() -> Self {
        Self::with(Arc::default(), None, Mutex::default())
    }

    /// Reads those of an earlier run of `node`, from the file beside `keyring`, and goes on with it.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn open(keyring: &Path, node: &str) -> Result<Self, KeyringError> {
        let path = log::path(keyring, node);
        let mut table = log::read(&path)?;
        retain_live(&mut table);
        let read_before = table.len();
        let table = Arc::new(Mutex::new(table));
        let log = Log::open(path.clone(), table.clone())?;
        let peers = Mutex::new(Peers::of(keyring.to_owned(), path));
        let it = Self::with(table, Some(log), peers);
        // That run had room for them, and this one does not know yet how many instances it has.
        it.make_room(read_before * 2);
        Ok(it)
    }

    fn with(table: Arc<Mutex<Table>>, log: Option<Log>, peers: Mutex<Peers>) -> Self {
        Self(Arc::new(Inner { room: Room::default(), table, log, peers }))
    }

    /// Makes room for `count` of them: for 200,000 at the least and 1,000,000 at the most, and never for less than before.
    pub fn make_room(&self, count: usize) {
        self.0.room.make(count);
    }

    /// How many were forgotten, since the start, whose record could still live: one that a store comes back with is claimed, and registered.
    pub fn forgotten(&self) -> u64 {
        self.0.room.forgotten()
    }

    /// Whether those of an earlier run of `node` can be read; changes nothing.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn can_be_read(keyring: &Path, node: &str) -> Result<(), KeyringError> {
        log::read(&log::path(keyring, node)).map(drop)
    }

    /// Raises one: it is honoured from now on, and durable when the future has ended well.
    pub fn raise(&self, id: InstanceId, tombstone: Tombstone) -> impl Future<Output = Result<(), NotWritten>> + use<> {
        {
            let mut table = self.table();
            self.0.room.tidy(&mut table);
            table.insert(id, tombstone);
        }
        self.write(id)
    }

    /// Writes one again unless it is durable.
    pub fn ensure_durable(&self, id: InstanceId) -> impl Future<Output = Result<(), NotWritten>> + use<> {
        self.write(id)
    }

    fn write(&self, id: InstanceId) -> impl Future<Output = Result<(), NotWritten>> + use<> {
        let tombstone = self.look(id);
        let (written, outcome) = oneshot::channel();
        let is_durable = match (&tombstone, &self.0.log) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(tombstone), Some(log)) => {
                if !tombstone.is_durable {
                    log.append(Line::Wipe(id, tombstone.clone()), Some(written));
                }
                tombstone.is_durable
            }
        };
        async move {
            if is_durable {
                return Ok(());
            }
            // The writer has noted that, also where nobody waits any more.
            if outcome.await == Ok(true) { Ok(()) } else { Err(NotWritten) }
        }
    }

    /// Its record was renewed in the very moment in which it was wiped: a store may come back with that one, too.
    pub fn note_renewed(&self, id: InstanceId, ends_at: u64) {
        let mut table = self.table();
        if let Some(tombstone) = table.get_mut(&id).filter(|tombstone| tombstone.ends_at < ends_at) {
            tombstone.ends_at = ends_at;
            self.append(Line::Wipe(id, tombstone.clone()));
        }
    }

    /// The SIP server has answered the unregistration, or was silent too long.
    pub fn note_unregistered(&self, id: InstanceId, unregistered: bool) {
        if let Some(tombstone) = self.table().get_mut(&id)
            && unregistered
        {
            tombstone.unregistered = true;
            self.append(Line::Unregistered(id));
        }
    }

    /// The store has nothing left of it.
    pub fn note_erased(&self, id: InstanceId) {
        if let Some(tombstone) = self.table().get_mut(&id).filter(|tombstone| tombstone.wiped_at.is_none()) {
            let wiped_at = shared_now();
            tombstone.wiped_at = Some(wiped_at);
            self.append(Line::Erased(id, wiped_at));
        }
    }

    /// The highest fence with which a record may be erased; `None`: with any.
    pub fn fence_of(&self, id: InstanceId) -> Option<Fence> {
        self.table().get(&id)?.fence
    }

    /// Another node has the record of what this one has ended by itself, and goes on with it: its tombstone goes. Whether it does; it stands where
    /// somebody's word has ended it since.
    pub fn leave(&self, id: InstanceId) -> bool {
        let mut table = self.table();
        let leaves = table.get(&id).is_some_and(|tombstone| tombstone.fence.is_some());
        if leaves {
            table.remove(&id);
            self.append(Line::Left(id));
        }
        leaves
    }

    /// Somebody's word ends what this node has ended by itself: it counts whoever has it. Whether there is a tombstone; it is being written anew.
    pub fn insist(&self, id: InstanceId) -> bool {
        let mut table = self.table();
        let Some(tombstone) = table.get_mut(&id) else { return false };
        if tombstone.fence.take().is_some() {
            tombstone.is_durable = false;
            self.append(Line::Wipe(id, tombstone.clone()));
        }
        true
    }

    /// The tombstone of an instance that this node wiped.
    pub fn look(&self, id: InstanceId) -> Option<Tombstone> {
        self.table().get(&id).cloned()
    }

    /// The tombstone of an instance that another node wiped whose file lies beside ours. Waits for the disk.
    pub async fn look_beside(&self, id: InstanceId) -> Option<PeerTombstone> {
        let inner = self.0.clone();
        let look = move || Self(inner).peers().look(id);
        // An error means that the runtime ends.
        tokio::task::spawn_blocking(look).await.ok().flatten()
    }

    /// Its own tombstone, or else one [beside](Self::look_beside).
    pub async fn look_anywhere(&self, id: InstanceId) -> Option<Tombstone> {
        match self.look(id) {
            Some(tombstone) => Some(tombstone),
            None => self.look_beside(id).await.map(|beside| beside.tombstone),
        }
    }

    /// Whether what somebody has with this fence was wiped, and its lookup; `None` for the fence: with whichever it has it. Asks the files of other nodes in
    /// the same directory, too: their instances are taken over here.
    pub fn forbids(&self, id: InstanceId, held: Option<Fence>) -> Option<Option<Lookup>> {
        self.bars(id, held).or_else(|| self.ask_peers(|peers| peers.forbids(id, |stone| stone.counts_for(held))))
    }

    /// Whether a record that this node has claimed, and has now with this fence, is to be erased and not registered; and its lookup.
    pub fn forbids_claimed(&self, id: InstanceId, fence: Fence) -> Option<Option<Lookup>> {
        // A record that is not erased yet may have been claimed here while its node was cut off.
        let counts = |stone: &Tombstone| {
            stone.counts_for(Some(fence)) || stone.wiped_at.is_some() && stone.counts_for_claimed(fence)
        };
        self.bars_claimed(id, fence).or_else(|| self.ask_peers(|peers| peers.forbids(id, counts)))
    }

    /// Whether this node has wiped what somebody has with this fence, or with whichever, and its lookup; reads no file, so that a shard may ask.
    pub fn bars(&self, id: InstanceId, held: Option<Fence>) -> Option<Option<Lookup>> {
        self.table().get(&id).filter(|tombstone| tombstone.counts_for(held)).map(|tombstone| tombstone.lookup)
    }

    /// The same of a record that this node has claimed, and has now with this fence.
    pub fn bars_claimed(&self, id: InstanceId, fence: Fence) -> Option<Option<Lookup>> {
        self.table().get(&id).filter(|tombstone| tombstone.counts_for_claimed(fence)).map(|tombstone| tombstone.lookup)
    }

    /// The tombstones of records that are still to be erased.
    pub fn pending(&self) -> Vec<(InstanceId, Option<Lookup>)> {
        let table = self.table();
        let pending = table.iter().filter(|(_, tombstone)| tombstone.wiped_at.is_none());
        let mut pending: Vec<_> = pending.map(|(id, tombstone)| (*id, tombstone.lookup)).collect();
        pending.sort_unstable_by_key(|(id, _)| *id);
        pending
    }

    /// Those that were erased, at this time or later in seconds since 1970, and whose record could still live: a store that was away may have
    /// come back with it.
    pub fn erased_since(&self, since: u64) -> Vec<(InstanceId, Option<Lookup>)> {
        let (table, now) = (self.table(), confirmed_now());
        let is_erased = |stone: &Tombstone| stone.wiped_at.is_some_and(|at| at >= since) && stone.ends_at > now;
        let erased = table.iter().filter(|(_, tombstone)| is_erased(tombstone));
        let mut erased: Vec<_> = erased.map(|(id, tombstone)| (*id, tombstone.lookup)).collect();
        erased.sort_unstable_by_key(|(id, _)| *id);
        erased
    }

    /// Whether a promise can be made: it is written down, or its store ends with the process.
    pub fn is_durable(&self, id: InstanceId) -> bool {
        self.0.log.is_none() || self.table().get(&id).is_some_and(|tombstone| tombstone.is_durable)
    }

    /// Why tombstones cannot be written down, while that is so.
    pub fn trouble(&self) -> Option<Box<str>> {
        self.0.log.as_ref()?.trouble()
    }

    fn append(&self, line: Line) {
        if let Some(log) = &self.0.log {
            log.append(line, None);
        }
    }

    /// Asks the files of other nodes, which are looked at about once a second: a disk that stands still then, or a directory whose server is away, holds up
    /// who asks and no other task.
    fn ask_peers<T>(&self, ask: impl FnOnce(&mut Peers) -> T) -> T {
        match self.0.peers.try_lock().filter(|peers| !peers.is_due()) {
            Some(mut peers) => ask(&mut peers),
            None => in_place(|| ask(&mut self.peers())),
        }
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.0.peers.lock()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic between two assignments leaves whole tombstones behind.
        self.0.table.lock()
    }
}

impl Tombstone {
    /// Of a wipe that begins.
    pub fn new(lookup: Option<Lookup>, ends_at: u64, reason: WipeReason, proof: Option<[u8; 16]>) -> Self {
        Self { lookup, ends_at, reason, proof, unregistered: false, wiped_at: None, fence: None, is_durable: false }
    }

    /// Of a wipe that begins, of a record that was stored before: an older form of it, which a store may come back with, may end later than it would have, for
    /// its lease may have been shortened since.
    pub fn outliving(lookup: Option<Lookup>, ends_at: u64, reason: WipeReason, proof: Option<[u8; 16]>) -> Self {
        Self::new(lookup, ends_at.max(latest_now() + MAX_LIFETIME_S), reason, proof)
    }

    /// Whether what a device shows is what it was admitted by, in constant time.
    pub fn is_of(&self, shown: &[u8; 16]) -> bool {
        self.proof.is_some_and(|proof| proof.ct_eq(shown).into())
    }

    /// Whether it counts for what somebody has with this fence, or with whichever.
    pub fn counts_for(&self, held: Option<Fence>) -> bool {
        self.fence.is_none_or(|own| held.is_some_and(|held| held <= own))
    }

    /// The same of what was claimed, and has this fence since.
    fn counts_for_claimed(&self, fence: Fence) -> bool {
        // One claim has come after the end, which was this one: nobody else has had it meanwhile.
        self.fence.is_none_or(|own| fence <= own.next())
    }

    /// Whether its receipt can still be fetched.
    pub fn receipt_is_kept(&self) -> bool {
        self.wiped_at.is_none_or(|wiped_at| confirmed_now() < wiped_at.saturating_add(RECEIPT_LIFE_S))
    }

    /// Until when it stands; one that is not erased stands until it is.
    fn stands_until(&self) -> u64 {
        self.wiped_at.map_or(u64::MAX, |wiped_at| self.ends_at.max(wiped_at.saturating_add(RECEIPT_LIFE_S)))
    }
}

/// Takes out those that are over.
fn retain_live(table: &mut Table) {
    let now = confirmed_now();
    table.retain(|_, tombstone| tombstone.stands_until() > now);
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;
    use crate::vault::keyring::TempFolder;

    fn id(number: u128) -> InstanceId {
        InstanceId::new(number << 32, ShardTag(1))
    }

    fn tombstone() -> Tombstone {
        let lookup = Lookup::parse("00112233445566778899aabbccddeeff");
        Tombstone::new(lookup, shared_now() + 3 * DAY_S, WipeReason::Disabled, Some([7; 16]))
    }

    fn folder() -> TempFolder {
        let folder = TempFolder::new();
        std::fs::create_dir_all(folder.keyring().parent().expect("a folder")).expect("made");
        folder
    }

    #[tokio::test]
    async fn a_tombstone_is_there_after_a_crash_and_so_is_what_became_of_it() {
        let folder = folder();
        let stones = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        for number in 1..=3 {
            stones.raise(id(number), tombstone()).await.expect("written");
        }
        stones.note_unregistered(id(1), true);
        stones.note_erased(id(1));
        // A write with a sync takes along all earlier writes.
        stones.raise(id(4), Tombstone { lookup: None, proof: None, ..tombstone() }).await.expect("written");
        let again = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened again");
        assert_eq!(again.look(id(1)), stones.look(id(1)));
        assert!(again.look(id(1)).is_some_and(|stone| stone.unregistered && stone.wiped_at.is_some()));
        assert_eq!(again.look(id(4)), stones.look(id(4)));
        let lookup = tombstone().lookup;
        assert_eq!(again.pending(), [(id(2), lookup), (id(3), lookup), (id(4), None)]);
        assert_eq!(again.forbids(id(1), None), Some(lookup), "a store may come back with what it had before");
        assert_eq!(again.forbids(id(5), None), None);
        // Who asked twice had it written twice.
        let path = log::path(&folder.keyring(), "relay1:5061");
        let text = std::fs::read_to_string(&path).expect("text");
        let first = text.lines().find(|line| line.starts_with(&format!("wipe {}", id(1)))).expect("its line");
        std::fs::write(&path, format!("{text}{first}\n")).expect("written");
        let twice = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened once more");
        assert_eq!(twice.look(id(1)), stones.look(id(1)), "what became of it stands");
    }

    #[tokio::test]
    async fn a_record_that_was_renewed_while_it_was_wiped_is_barred_until_its_new_end() {
        let folder = folder();
        let stones = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        let (now, soon) = (shared_now(), shared_now() + 60);
        stones.raise(id(1), Tombstone { ends_at: soon, ..tombstone() }).await.expect("written");
        stones.note_erased(id(1));
        for ends_at in [now + 6 * DAY_S, soon] {
            stones.note_renewed(id(1), ends_at);
        }
        stones.note_renewed(id(2), now + 6 * DAY_S);
        stones.raise(id(3), tombstone()).await.expect("written, and what was before it");
        let again = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened again");
        let is_kept = |stone: Tombstone| stone.ends_at == now + 6 * DAY_S && stone.wiped_at.is_some();
        assert!(again.look(id(1)).is_some_and(is_kept) && stones.look(id(1)).is_some_and(is_kept));
        assert!(again.look(id(2)).is_none(), "it was not wiped");
    }

    #[tokio::test]
    async fn what_a_node_has_ended_by_itself_bars_nothing_that_another_one_has_claimed_until_it_is_erased() {
        let folder = folder();
        let stones = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        let beside = Tombstones::open(&folder.keyring(), "relay2:5061").expect("opened");
        let (own, barred) = (Fence::from_number(7), Some(tombstone().lookup));
        for number in 1..=4 {
            stones.raise(id(number), Tombstone { fence: Some(own), ..tombstone() }).await.expect("written");
        }
        stones.note_erased(id(2));
        assert!(stones.insist(id(3)) && !stones.insist(id(9)), "somebody's word");
        assert!(stones.leave(id(4)) && !stones.leave(id(3)));
        stones.raise(id(5), tombstone()).await.expect("written, and what was before it");
        let again = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened again");
        for stones in [&stones, &again] {
            // The store may have lost what another node has claimed since, whether it had the record to erase or had none.
            assert_eq!([1, 2, 3, 4].map(|it| stones.bars(id(it), None)), [None, None, barred, None]);
            assert_eq!([1, 2, 3, 4].map(|it| stones.bars(id(it), Some(own))), [barred, barred, barred, None]);
            assert_eq!([1, 2, 3, 4].map(|it| stones.bars(id(it), Some(own.next()))), [None, None, barred, None]);
            assert_eq!([1, 2, 3, 4].map(|it| stones.fence_of(id(it))), [Some(own), Some(own), None, None]);
            let claimed = [own, own.next(), own.next().next()];
            for ended in [1, 2] {
                assert_eq!(claimed.map(|it| stones.forbids_claimed(id(ended), it)), [barred, barred, None]);
            }
            assert_eq!(stones.pending().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(1), id(3), id(5)]);
        }
        assert_eq!([1, 2, 3, 4].map(|it| beside.forbids(id(it), Some(own.next()))), [None, None, barred, None]);
        assert_eq!([1, 2, 3, 4].map(|it| beside.forbids_claimed(id(it), own.next())), [None, barred, barred, None]);
        assert!(again.leave(id(2)) && again.look(id(2)).is_none(), "another node has it after all");
    }

    #[tokio::test]
    async fn half_a_line_that_a_crash_left_behind_costs_no_other() {
        use std::io::Write as _;
        let folder = folder();
        let path = log::path(&folder.keyring(), "relay1:5061");
        let stones = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        stones.raise(id(1), tombstone()).await.expect("written");
        drop(stones);
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .expect("there")
            .write_all(b"wipe pi_aaaa")
            .expect("written");
        let again = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened again");
        assert_eq!(again.pending().len(), 1);
        again.raise(id(2), tombstone()).await.expect("written");
        assert_eq!(Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened").pending().len(), 2);
    }

    #[tokio::test]
    async fn what_another_node_wiped_is_not_taken_over() {
        let folder = folder();
        let one = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        let two = Tombstones::open(&folder.keyring(), "relay2:5061").expect("opened");
        one.raise(id(1), tombstone()).await.expect("written");
        assert_eq!(two.look(id(1)), None);
        assert_eq!(two.forbids(id(1), None), Some(tombstone().lookup));
    }

    #[tokio::test]
    async fn what_another_node_wiped_is_known_as_soon_as_it_is_written() {
        let folder = folder();
        let one = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        let two = Tombstones::open(&folder.keyring(), "relay2:5061").expect("opened");
        for number in 1..=3 {
            assert!(two.look_anywhere(id(number)).await.is_none());
            one.raise(id(number), tombstone()).await.expect("written");
            let beside = two.look_beside(id(number)).await.expect("known");
            assert!(beside.is_of_node("relay1:5061") && !beside.is_of_node("relay2:5061"));
            one.note_erased(id(number));
        }
        one.raise(id(4), tombstone()).await.expect("written, and what was before it");
        assert_eq!(two.look_anywhere(id(3)).await, one.look(id(3)), "what became of it is read on");
        // The file is written anew, and is another one.
        let again = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened again");
        again.raise(id(5), tombstone()).await.expect("written");
        for number in [1, 5] {
            assert_eq!(two.look_anywhere(id(number)).await, again.look(id(number)));
        }
    }

    #[test]
    fn a_disk_that_stands_still_while_others_are_asked_keeps_no_other_task_waiting() {
        let folder = folder();
        let stones = Tombstones::open(&folder.keyring(), "node").unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (says, hears) = std::sync::mpsc::channel();
        // Whoever reads the files has the lock.
        let reading = stones.peers();
        let (asking, begins) = (stones.clone(), says.clone());
        let asks = runtime.spawn(async move {
            begins.send("asks").unwrap();
            asking.forbids(id(1), None)
        });
        let soon = Duration::from_secs(30);
        assert_eq!(hears.recv_timeout(soon), Ok("asks"));
        runtime.spawn(async move { says.send("another") });
        assert_eq!(hears.recv_timeout(soon), Ok("another"), "it waits for the disk");
        assert!(!asks.is_finished(), "nothing is known before they are read");
        drop(reading);
        assert_eq!(runtime.block_on(asks).unwrap(), None);
    }

    #[tokio::test]
    async fn what_was_read_of_another_node_counts_when_its_file_cannot_be_read_any_more() {
        let folder = folder();
        let one = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        let two = Tombstones::open(&folder.keyring(), "relay2:5061").expect("opened");
        one.raise(id(1), tombstone()).await.expect("written");
        assert!(two.look_beside(id(1)).await.is_some());
        let path = log::path(&folder.keyring(), "relay1:5061");
        let text = std::fs::read(&path).expect("read");
        std::fs::remove_file(&path).expect("removed");
        // Not even root reads a folder.
        std::fs::create_dir(&path).expect("made");
        for _ in 0..2 {
            assert!(two.look_beside(id(1)).await.is_some());
        }
        std::fs::remove_dir(&path).expect("removed");
        std::fs::write(&path, text).expect("written");
        one.raise(id(2), tombstone()).await.expect("written");
        assert!(two.look_beside(id(1)).await.is_some() && two.look_beside(id(2)).await.is_some());
    }

    #[tokio::test]
    async fn a_file_with_the_number_of_an_earlier_one_is_read_from_its_beginning() {
        let folder = folder();
        let path = log::path(&folder.keyring(), "relay1:5061");
        let one = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        let two = Tombstones::open(&folder.keyring(), "relay2:5061").expect("opened");
        one.raise(id(1), tombstone()).await.expect("written");
        assert!(two.look_beside(id(1)).await.is_some());
        // In place, and longer than it was.
        let text = std::fs::read_to_string(&path).expect("read");
        let of = |number| text.replace(&id(1).to_string(), &id(number).to_string());
        std::fs::write(&path, of(2) + &of(3)).expect("written");
        assert!(two.look_beside(id(2)).await.is_some() && two.look_beside(id(3)).await.is_some());
        assert!(two.look_beside(id(1)).await.is_none(), "it is not in this one");
    }

    #[tokio::test]
    async fn one_that_is_over_is_forgotten_and_one_that_is_not_erased_never() {
        let folder = folder();
        let stones = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        stones.raise(id(1), Tombstone { ends_at: 5, ..tombstone() }).await.expect("written");
        stones.append(Line::Erased(id(1), 1_000));
        stones.raise(id(2), Tombstone { ends_at: 5, ..tombstone() }).await.expect("written");
        let again = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened again");
        assert_eq!((again.look(id(1)), again.pending().len()), (None, 1));
    }

    #[tokio::test]
    async fn what_has_no_tombstone_is_no_promise() {
        let folder = folder();
        let stones = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        assert!(!stones.is_durable(id(1)) && Tombstones::in_memory().is_durable(id(1)));
    }

    #[tokio::test]
    async fn a_tombstone_that_cannot_be_written_is_no_promise() {
        let folder = folder();
        let path = log::path(&folder.keyring(), "relay1:5061");
        let stones = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        stones.0.log.as_ref().expect("a log").break_for_test();
        assert_eq!(stones.raise(id(1), tombstone()).await, Err(NotWritten));
        assert!(!stones.is_durable(id(1)));
        assert_eq!(stones.ensure_durable(id(1)).await, Ok(()), "the file is written anew");
        assert!(stones.is_durable(id(1)) && stones.trouble().is_none());
        assert_eq!(Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened").pending().len(), 1);
        assert!(stones.look(id(1)).is_some(), "it is honoured as long as the process lives");
        assert!(path.exists());
    }

    #[tokio::test]
    async fn tombstones_that_could_not_be_written_are_told_of_and_written_as_soon_as_they_can_be() {
        let folder = folder();
        let path = log::path(&folder.keyring(), "relay1:5061");
        let stones = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        // Nothing can be put in the place of a folder.
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir_all(path.join("inside")).expect("made");
        for number in [1, 2] {
            assert_eq!(stones.raise(id(number), tombstone()).await, Err(NotWritten));
        }
        stones.note_erased(id(1));
        assert!(!stones.is_durable(id(1)) && stones.trouble().is_some());
        std::fs::remove_dir_all(&path).expect("removed");
        until_well(&stones).await;
        assert!(stones.is_durable(id(1)) && stones.is_durable(id(2)), "nobody had to ask");
        let again = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        assert_eq!(again.pending(), [(id(2), tombstone().lookup)]);
    }

    async fn until_well(stones: &Tombstones) {
        let is_well = async {
            while stones.trouble().is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), is_well).await.expect("it is written in time");
    }

    #[tokio::test]
    async fn a_start_needs_what_it_can_read_alone_and_what_is_wiped_then_is_no_promise_until_there_is_room() {
        let folder = folder();
        let path = log::path(&folder.keyring(), "relay1:5061");
        let stones = Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened");
        stones.raise(id(1), tombstone()).await.expect("written");
        drop(stones);
        // No new file can be made: a folder lies where it would be.
        let new = crate::vault::keyring::beside(&path, "new");
        std::fs::create_dir_all(new.join("inside")).expect("made");
        let stones = Tombstones::open(&folder.keyring(), "relay1:5061").expect("it starts");
        assert!(stones.forbids(id(1), None).is_some() && stones.is_durable(id(1)) && stones.trouble().is_some());
        assert_eq!(stones.raise(id(2), tombstone()).await, Err(NotWritten));
        assert_eq!(log::read(&path).expect("read").len(), 1, "nothing is lost of what was written");
        std::fs::remove_dir_all(&new).expect("removed");
        until_well(&stones).await;
        assert!(stones.is_durable(id(2)));
        assert_eq!(Tombstones::open(&folder.keyring(), "relay1:5061").expect("opened").pending().len(), 2);
    }

    #[tokio::test]
    async fn what_root_makes_beside_a_keyring_is_the_relays_and_what_cannot_be_read_is_named() {
        use std::os::unix::fs::{MetadataExt as _, chown};

        let folder = folder();
        let keyring = folder.keyring();
        let secrets = keyring.parent().expect("a folder");
        let wiped = log::path(&keyring, "relay1:5061");
        if std::fs::metadata(secrets).expect("there").uid() == 0 {
            chown(secrets, Some(12_345), Some(12_346)).expect("root");
            let opened = crate::vault::Keyring::open(&keyring).expect("made");
            opened.note_time("relay1:5061", 1_795_000_000).expect("noted");
            drop(Tombstones::open(&keyring, "relay1:5061").expect("opened"));
            let mut found: Vec<_> = std::fs::read_dir(secrets).expect("read").flatten().collect();
            found.sort_by_key(std::fs::DirEntry::file_name);
            assert!(found.len() >= 4, "{found:?}");
            for entry in found {
                let is = entry.metadata().expect("there");
                assert_eq!((is.uid(), is.gid()), (12_345, 12_346), "{}", entry.path().display());
            }
            std::fs::remove_file(&wiped).expect("removed");
        }
        std::fs::create_dir_all(&wiped).expect("made");
        let error = Tombstones::open(&keyring, "relay1:5061").err().expect("it is no file").to_string();
        assert!(error.contains("wiped-relay1") && error.contains("list of what was wiped"), "{error}");
    }
}
