//! The ephemeral credential store: sealed records with a time to live, in memory or in Redis.
//!
//! ```text
//! Record --seal--> Sealed --put--> store (memory | redis), with a TTL, an owner and a fence
//! ```
//!
//! | room | what it is |
//! | --- | --- |
//! | `record`, `codec`, `seal` | a record in the clear, as bytes, and sealed |
//! | `keyring`, `keyring_agreement`, `own_records` | the keys, and whether all nodes, and what is stored, have the same |
//! | `lookup` | finding an instance, and the devices of an account |
//! | `items`, `item_order`, `deletions` | what is kept beside a record |
//! | `passed_ends` | what has ended of what passed through |
//! | `store`, `memory`, `redis` | what the stores have in common, and the two |
//! | `fault`, `refusal` | what is wrong with a store, for an operator |
//! | `ownership`, `wanted` | leases and claims, and what is claimed first |
//! | `peer_messages` | letters between nodes |
//! | `tombstones`, `receipt` | what was wiped, and the proof of it |
//!
//! Invariant: a store sees only the [`Sealed`] form and keyed hashes, never a password, an AOR, a push token or a
//! caller. Whatever is stored ends by itself at its expiry, at most [`MAX_LIFETIME_S`] after it was put. Exactly one
//! node owns a record; each change of owner gets a higher [`Fence`], and a node with an older one is refused. Nothing
//! here schedules: due times live with the caller, the TTL is the backstop.

mod codec;
mod deletions;
pub mod fault;
mod item_order;
pub mod items;
mod keyring;
mod keyring_agreement;
mod lookup;
mod memory;
mod own_records;
mod ownership;
mod passed_ends;
pub mod peer_messages;
mod receipt;
pub mod record;
mod redis;
mod refusal;
mod seal;
mod store;
mod tombstones;
mod wanted;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sip::id::InstanceId;

use crate::clock::{DAY_S, Reading};
use crate::domain::WipeReason;
use crate::lock::Mutex;
use crate::secret::{Aor, InstanceSecret, PushToken, SecretKey, with_clean_stack};
use record::{Account, PushTarget, Record, Storable, StoredRecord};

pub use fault::StoreFault;
pub use keyring::{EPOCH_S, Fingerprint, KEY_LIFETIME_S, Keyring, KeyringError, file_of_node};
pub use lookup::{AorHash, AorKey, GroupKey, Lookup};
pub(crate) use lookup::{hex, unhex};
pub use passed_ends::PassedEnds;
pub use receipt::{Receipt, ReceiptError, verify_receipt};
pub use seal::{SealError, Sealed};
pub use store::{
    AwayReason, Fence, KeyringMismatch, LEASE, Lease, Naming, OPERATION_LIMIT, Owner, Peer, Placed, RENEWAL,
    RecordOwner, RecordToWrite, Settings, StoreError, StoreTls, Stored,
};

pub use tombstones::{NotWritten, PeerTombstone, RECEIPT_LIFE_S, Tombstone, Tombstones, WRITE_LIMIT};

use deletions::Deletions;
use item_order::Places;
use memory::MemoryStore;
use redis::RedisStore;
use store::{ErasedIf, Expiry};
use wanted::Wanted;

/// The longest that a record lives after it was put, in seconds: 6 days.
pub const MAX_LIFETIME_S: u64 = 6 * DAY_S;

/// The credential store of one node. Cheap to clone: the clones are one vault.
#[derive(Clone)]
pub struct Vault(Arc<Inner>);

struct Inner {
    keyring: Keyring,
    owner: Owner,
    settings: Settings,
    /// When this run asked for its lease that it got last, since boot; `None`: never.
    held_at: Mutex<Option<Duration>>,
    agreement: keyring_agreement::AgreementState,
    store: Store,
    tombstones: OnceLock<Tombstones>,
    /// What is to be claimed first.
    wanted: Wanted,
    /// Where what is kept next comes.
    places: Places,
    /// What this run has deleted.
    deletions: Deletions,
    /// What has ended here of what passed through.
    passed_ends: PassedEnds,
    /// The letters of other nodes that came lately.
    seen: peer_messages::Seen,
    /// What this node says of itself to the others.
    note: OnceLock<Box<str>>,
}

enum Store {
    Memory(MemoryStore),
    Redis(Box<RedisStore>),
}

impl Vault {
    /// Opens the store that `url` names, for the node that is called `node` (its public edge), without connecting yet:
    /// [`Self::ping`] tells whether it answers.
    ///
    /// `url`: `memory:`, `redis://`, `rediss://`, `redis+sentinel://HOST,HOST/SERVICE[/DB]`, `redis+cluster://HOST,HOST`
    /// and their `rediss+` forms.
    ///
    /// # Errors
    /// [`StoreError::Url`] when the URL is none of these; it never repeats the URL, which may hold a password.
    pub fn open(url: &str, keyring: Keyring, node: &str) -> Result<Self, StoreError> {
        Self::open_with(url, keyring, node, Settings::default())
    }

    /// As [`Self::open`], with other limits than the usual ones or a CA of one's own.
    ///
    /// # Errors
    /// As [`Self::open`]; also [`StoreError::Tls`] when what [`StoreTls`] holds is not PEM.
    pub fn open_with(url: &str, keyring: Keyring, node: &str, settings: Settings) -> Result<Self, StoreError> {
        let store = if url == "memory:" {
            Store::Memory(MemoryStore::default())
        } else {
            Store::Redis(Box::new(RedisStore::open(url, &settings)?))
        };
        Ok(Self::assemble(keyring, node, settings, store))
    }

    fn assemble(keyring: Keyring, node: &str, settings: Settings, store: Store) -> Self {
        Self(Arc::new(Inner {
            keyring,
            owner: Owner::of(node),
            settings,
            held_at: Mutex::default(),
            agreement: keyring_agreement::AgreementState::default(),
            store,
            tombstones: OnceLock::new(),
            wanted: Wanted::default(),
            places: Places::default(),
            deletions: Deletions::default(),
            passed_ends: PassedEnds::default(),
            seen: peer_messages::Seen::default(),
            note: OnceLock::new(),
        }))
    }

    /// The same store and keyring as another process called `node` would see them; so a restart of a node, or a second
    /// one, can be played within one process. For a store in memory this is the only way to have two.
    pub fn as_node(&self, node: &str) -> Self {
        let Inner { keyring, settings, store, .. } = &*self.0;
        let store = match store {
            Store::Memory(memory) => Store::Memory(memory.as_another()),
            Store::Redis(redis) => Store::Redis(Box::new(redis.as_another())),
        };
        Self::assemble(keyring.clone(), node, settings.clone(), store)
    }

    /// Seals a record under a key of its own, derived from today's epoch key. What is put with a later expiry than it
    /// was sealed for must be sealed anew: the epoch key is destroyed [`KEY_LIFETIME_S`] after its creation.
    pub fn seal(&self, id: InstanceId, record: &impl Storable) -> Sealed {
        seal::seal(&self.0.keyring, id, record, Reading::now())
    }

    /// Seals what `make` makes, and names where it is found; what that left on the stack is overwritten.
    pub fn seal_new<R: Storable>(&self, id: InstanceId, make: impl FnOnce() -> R) -> (Sealed, Lookup) {
        with_clean_stack(|| {
            let record = make();
            (self.seal(id, &record), self.lookup_of(&record))
        })
    }

    /// Opens what [`Self::seal`] made for the same instance, and gives it to `work` for this moment; what it left on the stack
    /// is overwritten.
    ///
    /// # Errors
    /// When it was altered, made for another instance, or its key is gone.
    pub fn open_record<T>(
        &self,
        id: InstanceId,
        sealed: &Sealed,
        work: impl FnOnce(&StoredRecord) -> T,
    ) -> Result<T, SealError> {
        seal::open(&self.0.keyring, id, sealed, work)
    }

    /// Whether no keyring opens a record any more: it was altered, or is in a form of another version. While the nodes do not agree on this keyring, one
    /// that another keyring has sealed is not said to be damaged.
    pub fn is_damaged(&self, id: InstanceId, sealed: &Sealed) -> bool {
        match self.open_record(id, sealed, |_| ()) {
            Ok(()) => false,
            Err(SealError::KeyGone) => self.0.agreement.stands(),
            Err(SealError::Broken | SealError::OtherVersion) => true,
        }
    }

    /// As [`Self::open_record`], for a lent account.
    ///
    /// # Errors
    /// As [`Self::open_record`]; [`SealError::OtherVersion`] for a push binding.
    pub fn open_lent<T>(
        &self,
        id: InstanceId,
        sealed: &Sealed,
        work: impl FnOnce(&Record) -> T,
    ) -> Result<T, SealError> {
        self.open_record(id, sealed, |record| record.lent().map(work))?.ok_or(SealError::OtherVersion)
    }

    /// Seals a record anew after `change`.
    ///
    /// # Errors
    /// Those of [`Self::open_lent`]; those of `change`, which leave everything as it was.
    pub fn reseal<T, E: From<SealError>>(
        &self,
        id: InstanceId,
        sealed: &Sealed,
        change: impl FnOnce(&mut Record) -> Result<T, E>,
    ) -> Result<(Sealed, T), E> {
        self.open_lent(id, sealed, |record| {
            let mut record = record.clone();
            let told = change(&mut record)?;
            Ok((self.seal(id, &record), told))
        })?
    }

    /// The name under which the instance of this app, AOR and push token is found, and which tells nothing of them.
    pub fn lookup(&self, app: &str, aor: &Aor, token: &PushToken) -> Lookup {
        lookup::lookup(&self.0.keyring.index_key(), app, aor, token)
    }

    /// The lookup of a record.
    pub fn lookup_of(&self, record: &impl Storable) -> Lookup {
        let (app, aor, token) = record.found_by();
        self.lookup(&app, aor, token)
    }

    /// The name under which the instances of an AOR are found, over all Apps, and which tells nothing of it.
    pub fn aor_key(&self, aor: &Aor) -> AorKey {
        self.aor_key_of(AorHash::of(aor))
    }

    /// The name of an AOR with the port of this registrar, by which its account may be asked for as well; `None`: there is none.
    pub fn aor_key_with_port(&self, aor: &Aor, registrar: &str) -> Option<AorKey> {
        lookup::with_port(aor, registrar).map(|written| self.aor_key(&written))
    }

    /// Under which name the devices of an account are found whose AOR has this hash.
    pub fn aor_key_of(&self, hash: AorHash) -> AorKey {
        lookup::aor_key(&self.0.keyring.index_key(), hash)
    }

    /// What the devices of this account in this app have in common: the same app, AOR, user name, registrar and proxy. They
    /// live on one shard and share one Contact.
    pub fn group(&self, app: &str, account: &Account) -> GroupKey {
        lookup::group(&self.0.keyring.index_key(), app, account)
    }

    /// The UUID for a group's `+sip.instance` (RFC 5626 §4.1) on this node: the same whenever the group comes again, and of no
    /// use to find it.
    pub fn sip_instance(&self, group: GroupKey) -> [u8; 16] {
        lookup::sip_instance(&self.0.keyring.index_key(), &self.0.owner.node, group)
    }

    /// Stores a record until its end.
    ///
    /// With [`Fence::NEW`] it is created, owned by this node, and takes over its lookup: an instance that had it is
    /// named in [`Placed::displaced`] and is the caller's to wipe. With the fence of an earlier [`Placed`] or [`Stored`]
    /// it is updated, and a changed lookup takes the place of the earlier one.
    ///
    /// # Errors
    /// [`StoreError::NotOwner`] when another node or a later run owns it; [`StoreError::Gone`] when it is to be updated
    /// and was erased or has expired; [`StoreError::Away`] when the store does not answer in time.
    pub async fn put(&self, record: RecordToWrite<'_>) -> Result<Placed, StoreError> {
        self.put_named(record, Naming::Takes).await
    }

    /// Stores a record as [`Self::put`] does; `naming` says what becomes of its lookup.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn put_named(&self, record: RecordToWrite<'_>, naming: Naming<'_>) -> Result<Placed, StoreError> {
        if record.fence == Fence::NEW {
            self.takes_new().await?;
            self.0.agreement.note_put();
        }
        let owner = &self.0.owner;
        match &self.0.store {
            Store::Memory(memory) => memory.put(owner, record, naming),
            Store::Redis(redis) => redis.put(owner, record, naming).await,
        }
    }

    /// Has a lookup name an instance, until `expires_at` (in seconds since 1970), whatever it named before.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn take_lookup(&self, id: InstanceId, expires_at: u64, lookup: &Lookup) -> Result<(), StoreError> {
        match &self.0.store {
            Store::Memory(memory) => memory.take_lookup(id, lookup),
            Store::Redis(redis) => return redis.take_lookup(id, Expiry::at(expires_at), lookup).await,
        }
        Ok(())
    }

    /// Has a lookup name an instance, until `expires_at` (in seconds since 1970), where the store names none by it any more. One in memory loses nothing.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn name_where_none_is(&self, id: InstanceId, expires_at: u64, lookup: &Lookup) -> Result<(), StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(()),
            Store::Redis(redis) => redis.name_where_none_is(id, Expiry::at(expires_at), lookup).await,
        }
    }

    /// Writes a record again that this run owns by this fence, and that the store has lost, or has as it was before: with an earlier owner, or an
    /// earlier form. Another node that had it since then is told to release it. It takes over its lookup.
    ///
    /// # Errors
    /// [`StoreError::NotOwner`] when another owner came later, or at the same time; [`StoreError::Away`] when the store does not answer in time.
    pub async fn restore(&self, record: RecordToWrite<'_>) -> Result<(), StoreError> {
        if let Store::Redis(redis) = &self.0.store {
            redis.takes_new().await?;
        }
        let owner = &self.0.owner;
        let earlier = match &self.0.store {
            Store::Memory(memory) => return memory.restore(owner, record),
            Store::Redis(redis) => redis.restore(owner, record).await?,
        };
        let Some(earlier) = earlier.filter(|earlier| earlier.node != owner.node) else { return Ok(()) };
        if self.holds_lease(&earlier).await? { self.tell_ended(&earlier, &[record.id]).await } else { Ok(()) }
    }

    /// Tells a run of another node that instances which it may have have ended.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn tell_ended(&self, owner: &Owner, ids: &[InstanceId]) -> Result<(), StoreError> {
        let Store::Redis(redis) = &self.0.store else { return Ok(()) };
        redis.note_ended(owner, ids).await?;
        // It reads that with its next renewal at the latest.
        let _ = self.write_letter(owner, &peer_messages::Letter::Ended).await;
        Ok(())
    }

    /// Whether a new record may be put. With [`Settings::require_ephemeral`] the store is asked whether it keeps anything on a disk, at most once a second; a
    /// put is refused, too, when another server has taken over by then that does.
    ///
    /// # Errors
    /// [`StoreError::Away`], also when the store may write to a disk and the operator wants none that does, when its nodes have another
    /// keyring, or when another process by this node's name has its lease.
    pub async fn takes_new(&self) -> Result<(), StoreError> {
        if let Store::Redis(redis) = &self.0.store {
            if redis.gives_way() {
                return Err(StoreError::Away(AwayReason::GivenWay));
            }
            redis.takes_new().await?;
            if self.keyring_is_unknown() {
                self.check_keyring().await?;
            }
        }
        if self.0.agreement.is_other() { Err(StoreError::Away(AwayReason::OtherKeyring)) } else { Ok(()) }
    }

    /// Whether other nodes may have instances in this store.
    pub fn is_shared(&self) -> bool {
        matches!(self.0.store, Store::Redis(_))
    }

    /// How many connections to the store were opened until now: another one may lead to another server.
    pub fn connections(&self) -> u64 {
        match &self.0.store {
            Store::Memory(_) => 0,
            Store::Redis(redis) => redis.connections(),
        }
    }

    /// How often the store has denied a command until now, or did not know it: one that is set up as the relay needs it does neither.
    pub fn denials(&self) -> u64 {
        match &self.0.store {
            Store::Memory(_) => 0,
            Store::Redis(redis) => redis.denials(),
        }
    }

    /// The live instance that was last put with this lookup.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn find(&self, lookup: &Lookup) -> Result<Option<InstanceId>, StoreError> {
        match &self.0.store {
            Store::Memory(memory) => Ok(memory.find(lookup)),
            Store::Redis(redis) => redis.find(lookup).await,
        }
    }

    /// The run that owns the record of an instance: a cheaper question than loading the record. A store in memory loses no record, and has those of this
    /// run alone.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn record_owner(&self, id: InstanceId) -> Result<RecordOwner, StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(RecordOwner::ThisRun),
            Store::Redis(redis) => redis.record_owner(&self.0.owner, id).await,
        }
    }

    /// Has the index of this node name these, which are its own: a Cluster may have lost the index alone, by which alone they are found when this run is over.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn name_again(&self, ids: &[InstanceId]) -> Result<(), StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(()),
            Store::Redis(redis) => redis.name_again(&self.0.owner, ids).await,
        }
    }

    /// Whether the store has a record of an instance, of whatever owner, or anything that was kept beside one.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn has_any_of(&self, id: InstanceId) -> Result<bool, StoreError> {
        match &self.0.store {
            Store::Memory(memory) => Ok(memory.load(&self.0.owner, id).is_some()),
            Store::Redis(redis) => redis.has_any_of(id).await,
        }
    }

    /// One record as it is stored.
    ///
    /// # Errors
    /// [`StoreError::Away`]; [`StoreError::Malformed`] when what is stored is not this version's.
    pub async fn load(&self, id: InstanceId) -> Result<Option<Stored>, StoreError> {
        match &self.0.store {
            Store::Memory(memory) => Ok(memory.load(&self.0.owner, id)),
            Store::Redis(redis) => redis.load(&self.0.owner, id).await,
        }
    }

    /// Removes every trace of an instance, whoever owns it: the record, what is kept beside it, its lookup, and `lookup` where it still names
    /// this instance. True when there was a record. After [`StoreError::Away`] it may be called again.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn erase(&self, id: InstanceId, lookup: &Lookup) -> Result<bool, StoreError> {
        self.erase_all_of(id, Some(*lookup)).await
    }

    /// As [`Self::erase`], when the lookup may be unknown: the record names it.
    ///
    /// # Errors
    /// As [`Self::erase`].
    pub async fn erase_all_of(&self, id: InstanceId, lookup: Option<Lookup>) -> Result<bool, StoreError> {
        Ok(self.erase_with(id, lookup, ErasedIf::Any).await?.unwrap_or(false))
    }

    /// As [`Self::erase_all_of`], unless another node has the record, or has had it since this one had it with this fence. Whether nothing of it is left.
    ///
    /// # Errors
    /// As [`Self::erase`].
    pub async fn erase_own(&self, id: InstanceId, lookup: Option<Lookup>, fence: Fence) -> Result<bool, StoreError> {
        Ok(self.erase_with(id, lookup, ErasedIf::OwnedBy(fence)).await?.is_some())
    }

    /// As [`Self::erase_all_of`], unless the record has been written since it was loaded. Whether nothing of it is left.
    ///
    /// # Errors
    /// As [`Self::erase`].
    pub async fn erase_unchanged(&self, stored: &Stored, lookup: Lookup) -> Result<bool, StoreError> {
        Ok(self.erase_with(stored.id, Some(lookup), ErasedIf::Unchanged(&stored.sealed)).await?.is_some())
    }

    async fn erase_with(
        &self,
        id: InstanceId,
        lookup: Option<Lookup>,
        erased_if: ErasedIf<'_>,
    ) -> Result<Option<bool>, StoreError> {
        let redis = match &self.0.store {
            Store::Memory(memory) => return Ok(memory.erase(id, erased_if)),
            Store::Redis(redis) => redis,
        };
        let Some((existed, owner)) = redis.erase(&self.0.owner, id, lookup.as_ref(), erased_if).await? else {
            return Ok(None);
        };
        if let Some(owner) = owner {
            // A letter that is lost delays the news to the owner's next renewal of its lease.
            let _ = self.write_letter(&owner, &peer_messages::Letter::Ended).await;
        }
        Ok(Some(existed))
    }

    /// Some instances of this node whose records other nodes have erased: they are to be released, and then
    /// [forgotten](Self::forget_ended); then there may be more.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn ended_elsewhere(&self) -> Result<Vec<InstanceId>, StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(Vec::new()),
            Store::Redis(redis) => redis.ended_elsewhere(&self.0.owner).await,
        }
    }

    /// This node has released these (at least one).
    ///
    /// # Errors
    /// [`StoreError::Away`]; then they are told again.
    pub async fn forget_ended(&self, ids: &[InstanceId]) -> Result<(), StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(()),
            Store::Redis(redis) => redis.forget_ended(&self.0.owner, ids).await,
        }
    }

    /// Has tombstones outlive the process: reads those of an earlier run from beside the keyring. Before this, or with a store
    /// in memory, they are in memory alone.
    ///
    /// # Errors
    /// When their file cannot be read or written.
    pub fn keep_tombstones(&self) -> Result<(), KeyringError> {
        if let (Store::Redis(_), Some(keyring)) = (&self.0.store, self.0.keyring.path()) {
            let tombstones = Tombstones::open(keyring, &self.0.owner.node)?;
            // An error means that they were asked for before: then those stay.
            let _ = self.0.tombstones.set(tombstones);
        }
        Ok(())
    }

    /// Whether [`Self::keep_tombstones`] could read those of an earlier run; changes nothing.
    ///
    /// # Errors
    /// When their file cannot be read.
    pub fn look_at_tombstones(&self) -> Result<(), KeyringError> {
        match (&self.0.store, self.0.keyring.path()) {
            (Store::Redis(_), Some(keyring)) => Tombstones::can_be_read(keyring, &self.0.owner.node),
            _ => Ok(()),
        }
    }

    /// What was wiped and must not come back.
    pub fn tombstones(&self) -> &Tombstones {
        self.0.tombstones.get_or_init(Tombstones::in_memory)
    }

    /// The registrations that passed through and have ended here.
    pub fn passed_ends(&self) -> &PassedEnds {
        &self.0.passed_ends
    }

    /// By what a device is known, once its record is gone, that shows this secret.
    pub fn wipe_proof(&self, id: InstanceId, secret: &InstanceSecret) -> [u8; 16] {
        lookup::wipe_proof(&self.0.keyring.index_key(), &id.to_bytes(), secret)
    }

    /// By what the nodes of a keyring know a push token that they speak of.
    pub fn token_mark(&self, target: &PushTarget) -> [u8; 16] {
        lookup::token_mark(&self.0.keyring.index_key(), target.provider as u8, &target.token)
    }

    /// By what the nodes of a keyring know a device of an AOR at a SIP server; of no contact, all of them.
    pub fn device_mark(&self, aor: &Aor, server: &str, contact: &str) -> [u8; 16] {
        lookup::device_mark(&self.0.keyring.index_key(), aor, server, contact)
    }

    /// Asks the store for a sign of life; how long it took.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn ping(&self) -> Result<Duration, StoreError> {
        match &self.0.store {
            Store::Memory(memory) => {
                memory.purge();
                Ok(Duration::ZERO)
            }
            Store::Redis(redis) => redis.ping().await,
        }
    }

    /// Everything that is wrong with the store, found by using it; empty: nothing.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn examine(&self) -> Result<Vec<StoreFault>, StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(Vec::new()),
            Store::Redis(redis) => redis.examine().await,
        }
    }

    /// What is the matter with a part of a Cluster whose other parts answer; `None`: nothing, or it is no Cluster.
    ///
    /// # Errors
    /// All of it is away.
    pub async fn store_part_away(&self) -> Result<Option<StoreError>, StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(None),
            Store::Redis(redis) => redis.part_away().await,
        }
    }

    /// Makes the keys of a new day and destroys those that are over; to be called at least once an hour. It reads and
    /// writes a small file, now and then.
    ///
    /// # Errors
    /// When the keyring's file cannot be read or written; the keys in memory go on serving.
    pub fn tend_keys(&self) -> Result<(), KeyringError> {
        self.0.keyring.tend(Reading::now())
    }

    /// Writes the believed time down, so that a next run under a wrong clock notices.
    ///
    /// # Errors
    /// When the file beside the keyring cannot be written.
    pub fn note_time(&self, now: u64) -> Result<(), KeyringError> {
        self.0.keyring.note_time(&self.0.owner.node, now)
    }

    /// What the store's own clock says, in milliseconds since 1970; `None`: it has none, or does not answer.
    pub async fn store_time_ms(&self) -> Option<u64> {
        match &self.0.store {
            Store::Memory(_) => None,
            Store::Redis(redis) => redis.time_ms().await.ok(),
        }
    }

    /// A signed statement that this instance was wiped at `wiped_at` (seconds since 1970). `unregistered`: the SIP
    /// server confirmed that the binding is gone; it stands while another device of the account has it.
    pub fn receipt(&self, instance: InstanceId, wiped_at: u64, reason: WipeReason, unregistered: bool) -> Receipt {
        receipt::receipt(&self.0.keyring, instance, wiped_at, reason, unregistered)
    }

    /// The Ed25519 public key (RFC 8032) that verifies this keyring's receipts.
    pub fn receipt_public_key(&self) -> [u8; 32] {
        self.0.keyring.receipt_public_key()
    }

    /// The key for signing flow tokens; all nodes that share the keyring share it.
    pub fn flow_token_key(&self) -> SecretKey {
        self.0.keyring.flow_token_key()
    }
}
