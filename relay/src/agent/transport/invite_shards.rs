//! The shard of the INVITE that a CANCEL or an ACK is for.
//!
//! Both match their INVITE by branch and sent-by alone (RFC 3261 §9.2, §17.2.3). Servers send them with another Route or
//! Request-URI than the INVITE had, which then say nothing of a shard, or the wrong one.
//!
//! Invariant: a fixed table of [`SLOTS`] numbers without a lock: a shard writes down what it has, before its first answer, and
//! strikes it out when the transaction is over; the reader of a CANCEL or an ACK looks it up. A place is never taken from another
//! transaction. A transaction that finds no room, or is a stranger's, is routed by the message itself, and a hit here grants no right:
//! the endpoint judges who may cancel.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sip::endpoint::InviteChange;

/// INVITEs at most, in 1 MiB of memory.
const SLOTS: usize = 128 * 1024;
/// The places that an INVITE may have.
const WAYS: usize = 8;
/// The lowest byte of a slot: the number of its shard and one.
const SHARD: u64 = 0xff;

/// The shards of the INVITEs that are under way; cheap to clone. The default finds nothing, for a relay of one shard.
#[derive(Clone, Default)]
pub(crate) struct InviteShards(Option<Arc<Table>>);

struct Table {
    slots: Box<[AtomicU64]>,
    /// Keyed, so that nobody chooses branches that share their places.
    hash: RandomState,
}

impl InviteShards {
    pub(crate) fn new() -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self(Some(Arc::new(Table { slots, hash: RandomState::new() })))
    }

    /// Whether anything is found here.
    pub(crate) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// A shard's INVITE has begun, or is over.
    pub(crate) fn note(&self, shard: usize, change: &InviteChange) {
        let Some((hash, places)) = self.places(&change.key) else { return };
        let entry = hash & !SHARD | (shard as u64 + 1);
        let (from, to) = if change.begun { (0, entry) } else { (entry, 0) };
        // The release pairs with `find`: an INVITE that is answered after this is found.
        let _ =
            places.iter().find(|slot| slot.compare_exchange(from, to, Ordering::Release, Ordering::Relaxed).is_ok());
    }

    /// The shard that has the INVITE with this key.
    pub(crate) fn find(&self, key: &str) -> Option<usize> {
        let (hash, places) = self.places(key)?;
        let mut entries = places.iter().map(|slot| slot.load(Ordering::Acquire));
        let entry = entries.find(|entry| *entry != 0 && (entry ^ hash) & !SHARD == 0)?;
        Some((entry & SHARD) as usize - 1)
    }

    fn places(&self, key: &str) -> Option<(u64, &[AtomicU64])> {
        let table = self.0.as_deref()?;
        let hash = table.hash.hash_one(key);
        let first = hash as usize % (SLOTS / WAYS) * WAYS;
        Some((hash, &table.slots[first..first + WAYS]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, begun: bool) -> InviteChange {
        InviteChange { key: key.into(), begun }
    }

    #[test]
    fn an_invite_is_found_from_its_beginning_to_its_end() {
        let invites = InviteShards::new();
        let keys: Vec<String> = (0..5_000).map(|n| format!("z9hG4bK{n} host INVITE")).collect();
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(invites.find(key), None);
            invites.note(n % 128, &change(key, true));
        }
        for (n, key) in keys.iter().enumerate() {
            assert_eq!(invites.find(key), Some(n % 128), "{key}");
            invites.note((n + 1) % 128, &change(key, false));
            assert_eq!(invites.find(key), Some(n % 128), "another shard ends nothing");
            invites.note(n % 128, &change(key, false));
            assert_eq!(invites.find(key), None);
        }
        assert_eq!(InviteShards::default().find("INVITE"), None);
    }

    #[test]
    fn a_full_table_keeps_what_it_has_and_empties_again() {
        let invites = InviteShards::new();
        let keys: Vec<String> = (0..2 * SLOTS).map(|n| n.to_string()).collect();
        keys.iter().for_each(|key| invites.note(1, &change(key, true)));
        let kept = keys.iter().filter(|key| invites.find(key) == Some(1)).count();
        assert!(kept > SLOTS * 9 / 10 && kept <= SLOTS, "{kept}");
        keys.iter().for_each(|key| invites.note(1, &change(key, false)));
        assert!(keys.iter().all(|key| invites.find(key).is_none()));
    }
}
