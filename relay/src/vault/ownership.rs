//! The ownership of records: leases, living nodes, claims, and losses of the store.
//!
//! Invariant: a node claims nothing before its own time is certain while another process has held its name before, and nothing at all while lost records are
//! being written again.

use std::time::{Duration, Instant};

use sip::id::{InstanceId, ShardTag};
use tokio::time::timeout;

use super::peer_messages::Letter;
use super::redis::RedisStore;
use super::store::{Expiry, RecordToWrite};
use super::{Lease, Owner, Peer, Placed, Store, StoreError, Stored, Vault, lookup};
use crate::clock::since_boot;

impl Vault {
    /// Takes over up to `batch` (at least 1) records that nobody looks after: those of an earlier run of this node,
    /// and those whose owner's lease ran out or was released. Resumes where it left off; an empty answer ends a round,
    /// and the next call begins another. What died is shared among the nodes that live, by account; another node's share is taken
    /// only when that node has not. So rounds are to be repeated, for instance with each [`Self::hold_lease`].
    ///
    /// Of what an index names, those of one shard tag come after each other; what is [wanted](Self::want) comes before all
    /// others, and by itself.
    ///
    /// # Errors
    /// [`StoreError::Away`]; what was taken but not answered is answered by the next call.
    pub async fn claim(&self, batch: usize) -> Result<Vec<Stored>, StoreError> {
        let (batch, wanted) = (batch.max(1), &self.0.wanted);
        match &self.0.store {
            Store::Memory(memory) => Ok(memory.claim(&self.0.owner, batch, wanted)),
            Store::Redis(redis) if self.may_take().await? && self.may_claim(redis).await? => {
                redis.claim(&self.0.owner, batch, wanted).await
            }
            Store::Redis(_) => Ok(Vec::new()),
        }
    }

    /// Writes a record in the place of another run's, by the next fence, whatever its own says: at no time is there none. A node that had it is told to let go.
    /// The record's lookup, and what is kept beside it, stay its own. A damaged one, which has no fence to go by, is erased.
    ///
    /// # Errors
    /// [`StoreError::Gone`] when there is none any more, and [`StoreError::NotOwner`] when it has changed hands in this moment; [`StoreError::Away`], also as
    /// [`Self::takes_new`] says.
    pub async fn take_over(&self, record: RecordToWrite<'_>) -> Result<Placed, StoreError> {
        self.takes_new().await?;
        self.0.agreement.note_put();
        let owner = &self.0.owner;
        let redis = match &self.0.store {
            Store::Memory(memory) => return memory.take_over(owner, record),
            Store::Redis(redis) => redis,
        };
        let taken = redis.take_over(owner, record).await;
        if taken == Err(StoreError::Malformed) {
            self.erase_all_of(record.id, Some(*record.lookup)).await?;
            return Err(StoreError::Gone);
        }
        let (placed, earlier) = taken?;
        if let Some(earlier) = earlier {
            // A letter that is lost delays the news to its next renewal of its lease.
            let _ = self.write_letter(&earlier, &Letter::Ended).await;
        }
        Ok(placed)
    }

    /// A node that lives has offered these of its own: they are [claimed](Self::claim) next, until then, if that node has its lease still.
    pub fn take_offered(&self, from: &Owner, ids: Vec<InstanceId>, until: Instant) {
        match &self.0.store {
            Store::Memory(memory) => memory.take_offered(from, &ids, until),
            Store::Redis(redis) => redis.take_offered(from.clone(), ids, until),
        }
    }

    /// Whether what others leave behind is claimed here only when no other node has done so for two leases.
    pub fn yield_claims(&self, yields: bool) {
        match &self.0.store {
            Store::Memory(_) => {}
            Store::Redis(redis) => redis.yield_claims(yields),
        }
    }

    async fn may_claim(&self, redis: &RedisStore) -> Result<bool, StoreError> {
        redis.may_claim(&self.0.owner, async |before| self.write_letter(&before, &Letter::Ended).await).await
    }

    /// Whether another process runs by this node's name, and has its lease in turn with this one: each is to have a name of its own.
    pub fn is_contested(&self) -> bool {
        match &self.0.store {
            Store::Memory(_) => false,
            Store::Redis(redis) => redis.is_contested(),
        }
    }

    /// Somebody waits for what has this tag: if it is still to be claimed, it is claimed next. Costs nothing else, and waits for nobody.
    pub fn want(&self, tag: ShardTag) {
        self.0.wanted.want(tag);
    }

    /// This run is about to give its lease up for good. What is stored from now on is named to the others even if they have claimed the rest before.
    pub fn note_leaving(&self) {
        if let Store::Redis(redis) = &self.0.store {
            redis.note_leaving();
        }
    }

    /// Takes or renews this node's lease; to be called every [`RENEWAL`](super::RENEWAL). [`Lease::Lapsed`] tells that it had
    /// run out, or was taken by a later run: then each record must be loaded, and dropped unless
    /// [`Stored::owned`], before it is registered again. [`Lease::GivenWay`] tells that it is not this run's, and nothing new:
    /// another process has it, or this run [serves nothing](super::keyring_agreement) of what its node has.
    ///
    /// # Errors
    /// [`StoreError::Away`]; a node that hears it for a whole [`LEASE`](super::LEASE) has lost its lease.
    pub async fn hold_lease(&self) -> Result<Lease, StoreError> {
        let asked_at = since_boot();
        let found = match &self.0.store {
            Store::Memory(memory) => {
                if memory.hold_lease(&self.0.owner, self.0.settings.lease) {
                    Lease::Held
                } else {
                    Lease::Lapsed
                }
            }
            Store::Redis(redis) => {
                if self.leaves_lease(redis).await? {
                    // It begins as a new one.
                    *self.0.held_at.lock() = None;
                    return Ok(Lease::GivenWay);
                }
                let held_at = *self.0.held_at.lock();
                redis.hold_lease(&self.0.owner, held_at, || self.sealed_note()).await?
            }
        };
        if found == Lease::GivenWay {
            return Ok(found);
        }
        if found == Lease::Lapsed && !self.0.agreement.is_other() {
            // It is the first one, or the store has lost it, and may have lost which keyring stands. One that does not answer is asked again by whoever
            // compares. Beside the lease, for how long that took tells what has become of it.
            let (vault, limit) = (self.clone(), self.0.settings.operation_limit);
            tokio::spawn(async move { drop(timeout(limit, vault.check_keyring()).await) });
        }
        let earlier = self.0.held_at.lock().replace(asked_at);
        Ok(match earlier {
            None => Lease::Held,
            // A renewal that nobody waited for any more may have been carried out since: then the store names this run, and the lease had run out.
            Some(earlier) if asked_at.saturating_sub(earlier) >= self.0.settings.lease => Lease::Lapsed,
            Some(_) => found,
        })
    }

    /// The runs of the other nodes that have their lease.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn living_peers(&self) -> Result<Vec<Owner>, StoreError> {
        match &self.0.store {
            Store::Memory(memory) => Ok(memory.living_peers(&self.0.owner)),
            Store::Redis(redis) => redis.living_peers(&self.0.owner).await,
        }
    }

    /// The other nodes that there may be, each with the run that has its lease, where one has. A store in memory loses nothing of theirs, and names none.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn peers(&self) -> Result<Vec<Peer>, StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(Vec::new()),
            Store::Redis(redis) => redis.peers(&self.0.owner).await,
        }
    }

    /// The names of the other nodes that have no lease, and whose records may not have been [claimed](Self::claim) yet.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn unclaimed_nodes(&self) -> Result<Vec<Box<str>>, StoreError> {
        match &self.0.store {
            Store::Memory(memory) => Ok(memory.unclaimed_nodes(&self.0.owner)),
            Store::Redis(redis) => redis.unclaimed_nodes(&self.0.owner).await,
        }
    }

    /// Writes down that something has happened that is nothing of any instance, for the runs and nodes of the next week.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn remember(&self, what: &str) -> Result<(), StoreError> {
        let name = lookup::memo(&self.0.keyring.index_key(), what);
        match &self.0.store {
            Store::Memory(memory) => memory.remember(&name),
            Store::Redis(redis) => redis.remember(&name).await?,
        }
        Ok(())
    }

    /// Whether that was written down.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn remembers(&self, what: &str) -> Result<bool, StoreError> {
        let name = lookup::memo(&self.0.keyring.index_key(), what);
        match &self.0.store {
            Store::Memory(memory) => Ok(memory.remembers(&name)),
            Store::Redis(redis) => redis.remembers(&name).await,
        }
    }

    /// Writes down one more of what may happen `most` times within `life`, for all runs and nodes. False: it has happened so often.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn take_turn(&self, what: &str, most: u32, life: Duration) -> Result<bool, StoreError> {
        for name in self.turns(what, most) {
            let is_taken = match &self.0.store {
                Store::Memory(memory) => memory.take_turn(&name, life),
                Store::Redis(redis) => redis.take_turn(&name, life).await?,
            };
            if is_taken {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// It may happen `most` times again.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn give_turns_back(&self, what: &str, most: u32) -> Result<(), StoreError> {
        for name in self.turns(what, most) {
            match &self.0.store {
                Store::Memory(memory) => memory.give_turn_back(&name),
                Store::Redis(redis) => redis.give_turn_back(&name).await?,
            }
        }
        Ok(())
    }

    fn turns(&self, what: &str, most: u32) -> impl Iterator<Item = String> {
        (0..most).map(move |turn| lookup::memo(&self.0.keyring.index_key(), &format!("turn {turn} of {what}")))
    }

    /// Whether a run of a node has its lease now.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn holds_lease(&self, owner: &Owner) -> Result<bool, StoreError> {
        match &self.0.store {
            Store::Memory(memory) => Ok(memory.holds_lease(owner)),
            Store::Redis(redis) => redis.holds_lease(owner).await,
        }
    }

    /// How often this run has noticed that the store may miss, or have as it was before, what nobody has wiped: it has lost what it was told,
    /// or cannot tell. `was_away`: it did not answer for a while. To be asked often: a loss that nobody asked about is made up by later writes.
    ///
    /// # Errors
    /// [`StoreError::Away`]; then what was noticed is counted by the next call.
    pub async fn losses(&self, was_away: bool) -> Result<u64, StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(0),
            Store::Redis(redis) => redis.losses(&self.0.owner, was_away).await,
        }
    }

    /// Whether the store would keep a record, which ends then in seconds since 1970, for longer: its clock was ahead when that was written.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn outlasts(&self, id: InstanceId, expires_at: u64) -> Result<bool, StoreError> {
        match &self.0.store {
            Store::Memory(_) => Ok(false),
            Store::Redis(redis) => redis.outlasts(id, Expiry::at(expires_at)).await,
        }
    }

    /// A part of a Cluster was away and serves again, perhaps without what it was told last: [`Self::losses`] counts it.
    pub fn note_part_back(&self) {
        if let Store::Redis(redis) = &self.0.store {
            redis.note_part_back();
        }
    }

    /// Whether something was lost so lately that its owners may not have [written it again](Self::restore) yet: nothing is claimed then, and what is
    /// not there may be in a moment.
    pub fn is_being_restored(&self) -> bool {
        match &self.0.store {
            Store::Memory(_) => false,
            Store::Redis(redis) => redis.is_being_restored(),
        }
    }

    /// Whether the store loses in the order in which it was written to, so that a loss can be told from a wipe. A Cluster does not.
    pub fn is_ordered(&self) -> bool {
        match &self.0.store {
            Store::Memory(_) => true,
            Store::Redis(redis) => redis.is_ordered(),
        }
    }

    /// Whether what the store does not have was wiped, or never was: it has lost nothing so lately that its owners may not have written it again yet. A single
    /// record that it has lost alone shows nothing of that.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn is_whole(&self) -> Result<bool, StoreError> {
        self.losses(false).await?;
        Ok(!self.is_being_restored())
    }

    /// Gives up this node's lease, so that others take its records over at once: for a drain before a stop.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn release_lease(&self) -> Result<(), StoreError> {
        match &self.0.store {
            Store::Memory(memory) => {
                memory.release_lease(&self.0.owner);
                Ok(())
            }
            Store::Redis(redis) => redis.release_lease(&self.0.owner).await,
        }
    }
    /// Ends this node's lease as if it had run out: its next run has its records at once, and others take them over when they have missed the lease for a
    /// while.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn drop_lease(&self) -> Result<(), StoreError> {
        match &self.0.store {
            Store::Memory(memory) => {
                memory.release_lease(&self.0.owner);
                Ok(())
            }
            Store::Redis(redis) => redis.drop_lease(&self.0.owner).await,
        }
    }
}
