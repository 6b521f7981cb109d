//! Whether this node has the keyring that the other nodes of its store have.
//!
//! Invariant: a node that has another one takes over nothing and takes no new account: what it would seal nobody else could open,
//! and what the others sealed it would leave to its end. What it has it serves.

use std::sync::atomic::{AtomicU8, Ordering};

use super::keyring::Fingerprint;
use super::store::{RingFault, StoreError};
use super::{Store, Vault};
use crate::clock::Reading;

/// What is known of it.
#[derive(Default)]
pub(super) struct RingState(AtomicU8);

const UNKNOWN: u8 = 0;
const OURS: u8 = 1;
const OTHER: u8 = 2;

impl RingState {
    pub fn is_other(&self) -> bool {
        self.0.load(Ordering::Relaxed) == OTHER
    }

    fn set(&self, fault: Option<RingFault>) {
        self.0.store(if fault.is_some() { OTHER } else { OURS }, Ordering::Relaxed);
    }

    fn is_unknown(&self) -> bool {
        self.0.load(Ordering::Relaxed) == UNKNOWN
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
    pub async fn compare_ring(&self) -> Result<Option<RingFault>, StoreError> {
        let fault = self.look_at_ring(false).await?;
        self.0.ring.set(fault);
        Ok(fault)
    }

    /// The same comparison, which leaves nothing behind.
    ///
    /// # Errors
    /// [`StoreError::Away`].
    pub async fn look_at_ring(&self, look_only: bool) -> Result<Option<RingFault>, StoreError> {
        let Store::Redis(redis) = &self.0.store else { return Ok(None) };
        let keyring = &self.0.keyring;
        match redis.compare_ring(&keyring.fingerprint(Reading::now()), look_only).await? {
            None => Ok(None),
            Some(_) => {
                // Another process may just have changed the file.
                if let Err(error) = keyring.tend(Reading::now()) {
                    tracing::warn!(event = "keyring-unreadable", %error, "the keyring cannot be read again");
                }
                redis.compare_ring(&keyring.fingerprint(Reading::now()), look_only).await
            }
        }
    }

    /// Whether something may be taken over with this keyring.
    pub(super) async fn may_take(&self) -> Result<bool, StoreError> {
        if self.0.ring.is_unknown() {
            self.compare_ring().await?;
        }
        Ok(!self.0.ring.is_other())
    }
}
