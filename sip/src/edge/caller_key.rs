//! The key by which callers are counted: a hash with the random key of an endpoint.
//!
//! Invariant: a key identifies no person, and is of no use to another endpoint or to the next run.

use std::hash::{BuildHasher as _, RandomState};

use super::caller;

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
    /// The key of a caller with this address, in whatever spelling.
    pub fn of(&self, caller: &str) -> CallerKey {
        CallerKey(self.0.hash_one(caller::counted(caller)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_has_one_key_however_the_address_is_written() {
        let keys = CallerKeys::default();
        assert_eq!(keys.of("sip:mal@x.example"), keys.of("sip:%6dal;a=1@X.EXAMPLE"));
        assert_ne!(keys.of("sip:mal@x.example"), keys.of("sip:mal@y.example"));
    }
}
