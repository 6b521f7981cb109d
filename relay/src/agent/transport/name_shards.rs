//! The shard of a binding that a registrar has named (RFC 5627): a GRUU says nothing of a shard.
//!
//! Invariant: it holds a keyed hash of each name, and no name. A name that two registrars have given belongs to the shard that reported it
//! first. A hit here grants no right: the endpoint judges whose request it is.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

/// The shards of names; cheap to clone. The default finds nothing, for a relay of one shard.
#[derive(Clone, Default)]
pub(crate) struct NameShards(Option<Arc<Table>>);

#[derive(Default)]
struct Table {
    /// By the hash of a name, the shards that have it, the first first.
    shards: RwLock<HashMap<u64, Vec<u8>>>,
    /// Keyed, so that nobody chooses names that meet.
    hash: RandomState,
}

impl NameShards {
    pub(crate) fn new() -> Self {
        Self(Some(Arc::default()))
    }

    /// A binding of a shard has a name, or has it no more.
    pub(crate) fn note(&self, shard: usize, name: &str, given: bool) {
        let (Some(table), Ok(shard)) = (self.0.as_deref(), u8::try_from(shard)) else { return };
        let hash = table.hash.hash_one(name);
        // A panic while the lock was held leaves a whole table behind: each change is one statement.
        let mut shards = table.shards.write().unwrap_or_else(PoisonError::into_inner);
        if given {
            shards.entry(hash).or_default().push(shard);
        } else if let Some(theirs) = shards.get_mut(&hash) {
            if let Some(at) = theirs.iter().position(|it| *it == shard) {
                theirs.remove(at);
            }
            if theirs.is_empty() {
                shards.remove(&hash);
            }
        }
    }

    /// The shard of a name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        let table = self.0.as_deref()?;
        let shards = table.shards.read().unwrap_or_else(PoisonError::into_inner);
        shards.get(&table.hash.hash_one(name))?.first().map(|shard| usize::from(*shard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_where_it_was_given_first_until_it_is_taken_back() {
        let names = NameShards::new();
        names.note(3, "sip:alice@example.com;gr=x", true);
        names.note(1, "sip:alice@example.com;gr=x", true);
        assert_eq!(names.find("sip:alice@example.com;gr=x"), Some(3));
        assert_eq!(names.find("sip:alice@example.com;gr=y"), None);
        names.note(3, "sip:alice@example.com;gr=x", false);
        assert_eq!(names.find("sip:alice@example.com;gr=x"), Some(1));
        names.note(1, "sip:alice@example.com;gr=x", false);
        names.note(1, "sip:alice@example.com;gr=x", false);
        assert_eq!(names.find("sip:alice@example.com;gr=x"), None);
        let table = names.0.unwrap();
        assert!(table.shards.read().unwrap().is_empty(), "nothing is left behind");
    }
}
