//! The key by which callers are counted: a hash with the random key of an endpoint.
//!
//! Invariant: a key identifies no person, and is of no use to another endpoint or to the next run.

use std::hash::{BuildHasher as _, RandomState};

/// One caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallerKey(u64);

/// Makes the keys of one endpoint.
#[derive(Debug, Default)]
pub struct CallerKeys(RandomState);

impl CallerKey {
    /// The first and the last of all.
    pub const ALL: (Self, Self) = (Self(0), Self(u64::MAX));
}

impl CallerKeys {
    /// That of a caller with this address.
    pub fn of(&self, caller: &str) -> CallerKey {
        CallerKey(self.0.hash_one(caller))
    }
}
