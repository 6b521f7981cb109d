//! The test of a keyring on records that its node has stored in earlier runs.
//!
//! Invariant: a record counts only if this node has stored it itself and this keyring would still have its key. A record that was claimed from another node,
//! altered, or older than the life of a key shows nothing. In a Cluster, a part that is away shows nothing either; another record is read in place of it. The
//! test reads a few records, and changes none.

use futures_util::future::join_all;

use sip::id::InstanceId;

use super::{Sealed, Store, StoreError, Vault, seal};

/// Records that are looked at, about: enough to tell one keyring from another.
const LOOKED_AT: usize = 256;
/// Records that are read at once.
const AT_ONCE: usize = 64;

/// How many of this node's own records can be opened, and how many cannot.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct OwnRecords {
    pub opened: usize,
    pub foreign: usize,
}

impl OwnRecords {
    /// Whether this is the keyring that has sealed them.
    pub const fn open(self) -> bool {
        self.opened > 0
    }

    /// Whether another one has sealed them all.
    pub const fn are_foreign(self) -> bool {
        self.opened == 0 && self.foreign > 0
    }
}

impl Vault {
    /// Looks at some of what this node has stored.
    pub(super) async fn own_records(&self) -> Result<OwnRecords, StoreError> {
        let (Store::Redis(redis), owner) = (&self.0.store, &self.0.owner) else { return Ok(OwnRecords::default()) };
        let (mut found, mut away) = (OwnRecords::default(), None);
        for some in redis.some_named_of(&owner.node, LOOKED_AT).await?.chunks(AT_ONCE) {
            for stored in join_all(some.iter().map(|id| redis.load(owner, *id))).await {
                let stored = match stored {
                    Ok(Some(stored)) => stored,
                    Ok(None) | Err(StoreError::Malformed) => continue,
                    Err(error) if redis.is_ordered() => return Err(error),
                    Err(error) => {
                        away = Some(error);
                        continue;
                    }
                };
                let is_own = stored.owner.node == owner.node && stored.put_by.is_none_or(|node| node == owner.node);
                match seal::is_of(&self.0.keyring, &stored.sealed).filter(|_| is_own) {
                    Some(true) => found.opened += 1,
                    Some(false) => found.foreign += 1,
                    None => {}
                }
            }
            if away.is_some() && found != OwnRecords::default() {
                // A part that is silent is waited for once.
                break;
            }
        }
        match away {
            Some(error) if found == OwnRecords::default() => Err(error),
            _ => Ok(found),
        }
    }

    /// Whether another keyring has sealed a record, and this node's operator has accepted the present one in its place since. What was sealed on a later day
    /// may be of a copy of this keyring that was rotated elsewhere.
    pub fn is_given_up(&self, sealed: &Sealed) -> bool {
        self.was_given_up(sealed, self.0.keyring.accepted_on())
    }

    /// How many of these are [given up](Self::is_given_up), and the others; reads the file of that once.
    pub fn without_given_up(&self, some: Vec<(InstanceId, Sealed)>) -> (usize, Vec<InstanceId>) {
        if some.is_empty() {
            return (0, Vec::new());
        }
        let (accepted_on, all) = (self.0.keyring.accepted_on(), some.len());
        let others = some.into_iter().filter(|(_, sealed)| !self.was_given_up(sealed, accepted_on));
        let others: Vec<_> = others.map(|(id, _)| id).collect();
        (all - others.len(), others)
    }

    /// The same, of a keyring that was accepted on this day, if any.
    fn was_given_up(&self, sealed: &Sealed, accepted_on: Option<u64>) -> bool {
        let Vault(vault) = self;
        let is_earlier = seal::day_of(sealed).zip(accepted_on).is_some_and(|(day, on)| day <= on);
        is_earlier && vault.agreement.stands() && seal::is_of(&vault.keyring, sealed) == Some(false)
    }
}
