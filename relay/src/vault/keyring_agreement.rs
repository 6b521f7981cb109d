//! Whether this node has the keyring that the other nodes of its store have.
//!
//! | who finds that none is written down | writes its own |
//! | --- | --- |
//! | a node whose keyring stood when it looked last | at once; so it does when its lease is a new one: the store may have lost both |
//! | one that has not looked before, and no other node has a lease | at once |
//! | the same, and another node has one | when none was there for as long as a lease: whose keyring stands has written it by then |
//! | one whose keyring was not the others', and no other node has a lease | likewise |
//! | the same, and another node has one | when none was there for as long as a name lasts |
//! | one whose keyring was made, or is to be, because there was none, and the store holds instances | never; its operator says what is to be. Where no other node has a lease, it does not start, whatever name stands |
//!
//! Invariant: a node that has another one takes over nothing and takes no new account: what it would seal nobody else could open,
//! and what the others sealed it would leave to its end. What it has it serves, and writes again where the store has lost it. A store that has lost everything
//! makes a wrong keyring no right one while a node with the right one lives. A keyring that stands is exchanged for no other one that lies in its
//! file's place.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::keyring::{Fingerprint, KeyringError};
use super::redis::{AGREEMENT_TTL, Compared, Look, RedisStore};
use super::store::{KeyringMismatch, StoreError};
use super::{Store, Vault};
use crate::clock::{self, DAY_S, Reading};

/// What is known of it.
#[derive(Default)]
pub(super) struct AgreementState(Mutex<Looked>);

#[derive(Default)]
struct Looked {
    known: Known,
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

    fn note(&self, known: Known) {
        *self.lock() = Looked { known, absent_since: None };
    }

    /// None is written down: for how long that is known.
    fn note_absent(&self) -> Duration {
        self.lock().absent_since.get_or_insert_with(clock::now).elapsed()
    }

    // A panic between two assignments leaves nothing broken.
    fn lock(&self) -> MutexGuard<'_, Looked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let look = if agreement.stands() { Look::Found } else { Look::Refresh };
        let mut found = self.look(look).await?;
        if matches!(found, Compared::Absent) && agreement.note_absent() >= self.founds_after().await? {
            found = if self.is_untried().await? {
                Compared::Fault(KeyringMismatch::Untried)
            } else {
                self.look(Look::Found).await?
            };
        }
        match found {
            Compared::Stands => {
                if !agreement.stands()
                    && let Err(error) = self.0.keyring.accept()
                {
                    tracing::warn!(event = "keyring-unreadable", %error, "what is noted beside the keyring cannot be removed");
                }
                agreement.note(Known::Stands);
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
        Ok(match self.look(Look::Only).await? {
            Compared::Fault(fault) => Some(self.explained(fault).await?),
            Compared::Absent => self.is_untried().await?.then_some(KeyringMismatch::Untried),
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
            && let Err(error) = self.0.keyring.accept()
        {
            tracing::warn!(event = "keyring-unreadable", %error, "what is noted beside the keyring cannot be removed");
        }
        Ok(fault.filter(|fault| *fault == KeyringMismatch::Untried))
    }

    /// The fault as an operator is told it: what stands may be this node's own from before its keyring was gone, for a name lasts longer than a run.
    async fn explained(&self, fault: KeyringMismatch) -> Result<KeyringMismatch, StoreError> {
        let is_own =
            fault == KeyringMismatch::Other && self.is_untried().await? && self.living_peers().await?.is_empty();
        Ok(if is_own { KeyringMismatch::Untried } else { fault })
    }

    /// Whether the keyring was made because there was none, and the store holds instances, which it does not open.
    async fn is_untried(&self) -> Result<bool, StoreError> {
        let (Store::Redis(redis), keyring) = (&self.0.store, &self.0.keyring) else { return Ok(false) };
        // Asked again: another node may share the file, and have begun meanwhile.
        Ok(keyring.is_untried() && redis.holds_instances().await? && keyring.is_untried())
    }

    /// Whether a keyring that was just made is still to be compared, before anything is sealed with it.
    pub(super) fn keyring_is_untried(&self) -> bool {
        self.0.agreement.is_unknown() && self.0.keyring.is_untried()
    }

    /// Whether this node's keyring is the one that the store names, by one look.
    pub(super) async fn has_agreed_keyring(&self) -> Result<bool, StoreError> {
        Ok(matches!(self.look(Look::Only).await?, Compared::Stands))
    }

    async fn look(&self, look: Look) -> Result<Compared, StoreError> {
        let Store::Redis(redis) = &self.0.store else { return Ok(Compared::Stands) };
        let keyring = &self.0.keyring;
        let found = redis.check_keyring(&keyring.fingerprint(Reading::now()), look).await?;
        if matches!(found, Compared::Fault(_)) {
            if look == Look::Only {
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
            return redis.check_keyring(&keyring.fingerprint(Reading::now()), look).await;
        }
        let now = Reading::now();
        if look == Look::Found
            && matches!(found, Compared::Stands)
            && DAY_S - now.system % DAY_S <= AGREEMENT_TTL.as_secs()
        {
            // The day that begins finds what stands, whoever looks first.
            redis.check_keyring(&keyring.fingerprint_of_tomorrow(now), look).await?;
        }
        Ok(found)
    }

    /// Takes the keyring that was put in the place of this one, where the store names it.
    async fn take_that_of_the_others(&self, redis: &RedisStore) -> Result<(), StoreError> {
        if let Some(other) = self.0.keyring.other()
            && !matches!(redis.check_keyring(&other.fingerprint(Reading::now()), Look::Only).await?, Compared::Fault(_))
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
