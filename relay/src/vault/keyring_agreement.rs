//! The agreement of all nodes of a store on one keyring.
//!
//! | a node that finds no fingerprint in the store | writes its own |
//! | --- | --- |
//! | its keyring was the agreed one at its last comparison | at once, also when its lease is a new one: the store may have lost both |
//! | it has not compared before, and no other node has a lease | at once |
//! | it has not compared before, and another node has a lease | when there was none for as long as a lease: a node with the agreed keyring has written it by then |
//! | its keyring was not the agreed one, and no other node has a lease | likewise |
//! | its keyring was not the agreed one, and another node has a lease | when there was none for as long as a fingerprint lasts |
//! | its keyring opens nothing that this node has stored, or was rotated since | never, unless its operator has accepted the keyring |
//! | its keyring is a new one, made because there was none, and the store holds instances | never; its operator decides. If no other node has a lease, it does not start, whatever fingerprint there is |
//!
//! A keyring that opens what this node has stored becomes the agreed one at once if no other node has a lease, whatever the fingerprint in the store. So does
//! one that its operator has accepted, if no other node is known: others may be back in a moment, and their fingerprint outlasts their absence. The number of
//! rotations is stored beside the fingerprints, and for longer.
//!
//! A run that has had another keyring from its start, and can open nothing that its node has, leaves the records to the others: it [holds no
//! lease](Vault::leaves_lease) while another node does. So does a run whose copy was not rotated: it may claim nothing of what it can open, and the others can
//! open that as well.
//!
//! Invariant: a node with another keyring claims nothing and takes no new account, because nobody else could open what it seals, and it could not open what the
//! others have sealed. It serves what it has, and writes it again if the store has lost it. A wrong keyring does not become the agreed one while a node with
//! the right one lives, even if the store has lost everything. An agreed keyring is not exchanged for another one that lies in the place of its file.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::keyring::{Fingerprint, KeyringError};
use super::redis::{AGREEMENT_TTL, AgreementWrite, Compared, RedisStore, beside_agreement};
use super::store::{KeyringMismatch, StoreError};
use super::{Store, Vault, lookup};
use crate::clock::{self, DAY_S, Reading};
use crate::lock::Mutex;

/// Rotations that are looked for beyond a keyring's own.
const ROTATIONS_AHEAD: u32 = 8;

/// The state of the agreement.
#[derive(Default)]
pub(super) struct AgreementState {
    looked: Mutex<Looked>,
    /// This run has put something new.
    has_put: AtomicBool,
    /// This run has left its lease to the others.
    has_left_lease: AtomicBool,
    /// The day and the rotation that were written down last.
    rotation: AtomicU64,
}

#[derive(Default)]
struct Looked {
    known: Known,
    /// This run's keyring has stood.
    has_stood: bool,
    /// Since when none is written down.
    absent_since: Option<Instant>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Known {
    #[default]
    Nothing,
    Stands,
    Fault(KeyringMismatch),
}

impl AgreementState {
    pub fn is_other(&self) -> bool {
        matches!(self.lock().known, Known::Fault(_))
    }

    pub fn stands(&self) -> bool {
        self.lock().known == Known::Stands
    }

    fn is_unknown(&self) -> bool {
        self.lock().known == Known::Nothing
    }

    /// The fault that was found last.
    fn fault(&self) -> Option<KeyringMismatch> {
        match self.lock().known {
            Known::Fault(fault) => Some(fault),
            Known::Nothing | Known::Stands => None,
        }
    }

    /// This run puts something new.
    pub fn note_put(&self) {
        self.has_put.store(true, Ordering::Relaxed);
    }

    /// Whether nothing that was sealed for this run can be anywhere.
    fn has_nothing(&self) -> bool {
        !self.has_put.load(Ordering::Relaxed) && !self.has_stood()
    }

    fn has_stood(&self) -> bool {
        self.lock().has_stood
    }

    fn note(&self, known: Known) {
        let mut looked = self.lock();
        let has_stood = looked.has_stood || known == Known::Stands;
        *looked = Looked { known, has_stood, absent_since: None };
    }

    /// None is written down: for how long that is known.
    fn note_absent(&self) -> Duration {
        clock::since(*self.lock().absent_since.get_or_insert_with(clock::now))
    }

    fn lock(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock()
    }
}

impl Vault {
    /// What tells this node's keyring from another one.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0.keyring.fingerprint(Reading::now())
    }

    /// The names of the nodes that this store has seen within a week, and whether each holds its lease.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn known_nodes(&self) -> Result<Vec<(Box<str>, bool)>, StoreError> {
        match &self.0.store {
            Store::Memory(memory) => Ok(memory.known_nodes()),
            Store::Redis(redis) => redis.known_nodes().await,
        }
    }

    /// Compares this node's keyring with those of the nodes that live, and has it known to them; to be called a few times a minute.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn check_keyring(&self) -> Result<Option<KeyringMismatch>, StoreError> {
        let agreement = &self.0.agreement;
        let write = if agreement.stands() { AgreementWrite::IfAbsent } else { AgreementWrite::Refresh };
        let mut found = self.compare_keyring(write).await?;
        if matches!(found, Compared::Absent) && agreement.note_absent() >= self.founds_after().await? {
            found = match self.bars_founding().await? {
                Some(fault) => Compared::Fault(fault),
                None => self.compare_keyring(AgreementWrite::IfAbsent).await?,
            };
        }
        if matches!(found, Compared::Fault(KeyringMismatch::Other)) && self.may_take_name().await? {
            found = self.compare_keyring(AgreementWrite::Replace).await?;
        }
        match found {
            Compared::Stands => {
                if !agreement.stands()
                    && let Err(error) = self.0.keyring.note_stands()
                {
                    tracing::warn!(event = "keyring-unreadable", %error, "what is noted beside the keyring cannot be removed");
                }
                agreement.note(Known::Stands);
                self.remember_rotation().await?;
            }
            Compared::Fault(fault) => {
                let fault = self.explained(fault).await?;
                agreement.note(Known::Fault(fault));
            }
            Compared::Absent => {}
        }
        Ok(agreement.fault())
    }

    /// The same comparison, which leaves nothing behind.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn peek_keyring(&self) -> Result<Option<KeyringMismatch>, StoreError> {
        Ok(match self.compare_keyring(AgreementWrite::Nothing).await? {
            Compared::Fault(fault) => Some(self.explained(fault).await?),
            Compared::Absent => self.bars_founding().await?,
            Compared::Stands => None,
        })
    }

    /// Looks before anything is stored, and takes a keyring that was just made for that of a store that holds nothing. The fault of one that was
    /// made although the store holds something.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn begin_keyring(&self) -> Result<Option<KeyringMismatch>, StoreError> {
        if !self.0.keyring.is_untried() {
            return Ok(None);
        }
        let fault = self.peek_keyring().await?;
        if fault.is_none()
            && let Err(error) = self.0.keyring.note_stands()
        {
            tracing::warn!(event = "keyring-unreadable", %error, "what is noted beside the keyring cannot be removed");
        }
        Ok(fault.filter(|fault| *fault == KeyringMismatch::Untried))
    }

    /// The fault as an operator is told it: what stands may be this node's own from before its keyring was gone, for a name lasts longer than a run.
    async fn explained(&self, fault: KeyringMismatch) -> Result<KeyringMismatch, StoreError> {
        if fault != KeyringMismatch::Other || !self.living_peers().await?.is_empty() {
            return Ok(fault);
        }
        Ok(match self.is_untried().await? {
            true => KeyringMismatch::Untried,
            false if self.has_foreign_records().await? => KeyringMismatch::Foreign,
            false => fault,
        })
    }

    /// Why this keyring is not to be written down where none is.
    async fn bars_founding(&self) -> Result<Option<KeyringMismatch>, StoreError> {
        if self.is_untried().await? {
            return Ok(Some(KeyringMismatch::Untried));
        }
        if self.0.agreement.has_stood() || self.0.keyring.is_accepted() {
            return Ok(None);
        }
        let rotation = self.fingerprint().rotation;
        for later in (1..=ROTATIONS_AHEAD).filter_map(|ahead| rotation.checked_add(ahead)) {
            if self.remembers_rotation(later).await? {
                return Ok(Some(KeyringMismatch::Behind));
            }
        }
        Ok(self.has_foreign_records().await?.then_some(KeyringMismatch::Foreign))
    }

    /// Whether this node has stored something, and nothing of it opens; an operator who has accepted that is asked no more. What lies in a part of a
    /// Cluster that is away alone tells nothing: the others' accounts do not wait for it.
    async fn has_foreign_records(&self) -> Result<bool, StoreError> {
        let Store::Redis(redis) = &self.0.store else { return Ok(false) };
        if self.0.keyring.is_accepted() {
            return Ok(false);
        }
        match self.own_records().await {
            Ok(own) => Ok(own.are_foreign()),
            Err(_) if matches!(redis.part_away().await, Ok(Some(_))) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether another keyring's name is this one's to write over: nobody lives who may have that, and this one is what this node's records were
    /// sealed with, or its operator has accepted it and there is no other node that could come back with that.
    async fn may_take_name(&self) -> Result<bool, StoreError> {
        if self.0.agreement.has_stood() || self.is_untried().await? {
            return Ok(false);
        }
        let peers = self.peers().await?;
        if peers.iter().any(|peer| peer.run.is_some()) {
            return Ok(false);
        }
        Ok(peers.is_empty() && self.0.keyring.is_accepted() || self.own_records().await?.open())
    }

    /// Writes down each day how often the keyring was rotated, for longer than a name stands.
    async fn remember_rotation(&self) -> Result<(), StoreError> {
        let (Fingerprint { day, rotation, .. }, known) = (self.fingerprint(), &self.0.agreement.rotation);
        let now = u64::from(day) << 32 | u64::from(rotation);
        if rotation > 0 && known.load(Ordering::Relaxed) != now {
            if let Store::Redis(redis) = &self.0.store {
                redis.remember(&self.memo_of_rotation(rotation)).await?;
            }
            known.store(now, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn remembers_rotation(&self, rotation: u32) -> Result<bool, StoreError> {
        let Store::Redis(redis) = &self.0.store else { return Ok(false) };
        redis.remembers(&self.memo_of_rotation(rotation)).await
    }

    /// The memo of a rotation. A Cluster that tells which keyring stands tells that as well.
    fn memo_of_rotation(&self, rotation: u32) -> String {
        beside_agreement(&lookup::memo(&self.0.keyring.index_key(), &format!("keyring rotated {rotation}")))
    }

    /// Gives this run's lease up, or takes none, while it serves nothing of what its node has and another node lives; whether that is so.
    pub(super) async fn leaves_lease(&self, redis: &RedisStore) -> Result<bool, StoreError> {
        let agreement = &self.0.agreement;
        let may_leave = agreement.is_other() && agreement.has_nothing() && !self.living_peers().await?.is_empty();
        let has_left = agreement.has_left_lease.load(Ordering::Relaxed);
        let others_open = agreement.fault() == Some(KeyringMismatch::Behind);
        if !may_leave || !has_left && !others_open && self.own_records().await?.open() {
            agreement.has_left_lease.store(false, Ordering::Relaxed);
            return Ok(false);
        }
        redis.release_lease(&self.0.owner).await?;
        if !agreement.has_left_lease.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                event = "lease-left-to-others",
                "this node's keyring is not that of the others, and nothing of what the node has is served with it; its lease is given up, and the others take that over"
            );
        }
        Ok(true)
    }

    /// Whether the keyring was made because there was none, and the store holds instances, which it does not open.
    async fn is_untried(&self) -> Result<bool, StoreError> {
        let (Store::Redis(redis), keyring) = (&self.0.store, &self.0.keyring) else { return Ok(false) };
        // Asked again: another node may share the file, and have begun meanwhile.
        Ok(keyring.is_untried() && redis.holds_instances().await? && keyring.is_untried())
    }

    /// Whether the keyring is still to be compared, before anything is sealed with it.
    pub(super) fn keyring_is_unknown(&self) -> bool {
        self.0.agreement.is_unknown()
    }

    /// Whether this node's keyring is the one that the store names, by one comparison.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn has_agreed_keyring(&self) -> Result<bool, StoreError> {
        Ok(matches!(self.compare_keyring(AgreementWrite::Nothing).await?, Compared::Stands))
    }

    async fn compare_keyring(&self, write: AgreementWrite) -> Result<Compared, StoreError> {
        let Store::Redis(redis) = &self.0.store else { return Ok(Compared::Stands) };
        let keyring = &self.0.keyring;
        let found = redis.check_keyring(&keyring.fingerprint(Reading::now()), write).await?;
        if matches!(found, Compared::Fault(_)) {
            if write == AgreementWrite::Nothing {
                return Ok(found);
            }
            match keyring.tend(Reading::now()) {
                // Another process may just have changed the file.
                Ok(()) => {}
                Err(KeyringError::Other { .. }) => self.take_that_of_the_others(redis).await?,
                Err(error) => {
                    tracing::warn!(event = "keyring-unreadable", %error, "the keyring cannot be read again");
                }
            }
            return redis.check_keyring(&keyring.fingerprint(Reading::now()), write).await;
        }
        let now = Reading::now();
        if write == AgreementWrite::IfAbsent
            && matches!(found, Compared::Stands)
            && DAY_S - now.system % DAY_S <= AGREEMENT_TTL.as_secs()
        {
            // The fingerprint of the next day is there before any node needs it.
            redis.check_keyring(&keyring.fingerprint_of_tomorrow(now), write).await?;
        }
        Ok(found)
    }

    /// Takes the keyring that was put in the place of this one, where the store names it.
    async fn take_that_of_the_others(&self, redis: &RedisStore) -> Result<(), StoreError> {
        if let Some(other) = self.0.keyring.other()
            && !matches!(
                redis.check_keyring(&other.fingerprint(Reading::now()), AgreementWrite::Nothing).await?,
                Compared::Fault(_)
            )
        {
            self.0.keyring.take(other);
        }
        Ok(())
    }

    /// For how long none is to be written down before this node writes down its own.
    async fn founds_after(&self) -> Result<Duration, StoreError> {
        let (is_other, lease) = (self.0.agreement.is_other(), self.0.settings.lease);
        Ok(match (is_other, self.living_peers().await?.is_empty()) {
            (false, true) => Duration::ZERO,
            (false, false) | (true, true) => lease,
            (true, false) => AGREEMENT_TTL,
        })
    }

    /// Whether something may be taken over with this keyring.
    pub(super) async fn may_take(&self) -> Result<bool, StoreError> {
        if self.0.agreement.is_unknown() {
            self.check_keyring().await?;
        }
        Ok(self.0.agreement.stands())
    }
}
