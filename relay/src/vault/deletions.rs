//! What was deleted of what is kept beside records, and must not come back with a store that has lost the deletion: a fail-over to a replica
//! that lagged, a restart with older data.
//!
//! ```text
//! noted ── deleted from the store ── marked ──┬── the store has lost something, or was away: deleted again
//!                                             └── forgotten when no record of its time can live
//! ```
//!
//! Invariant: what is noted is neither listed nor kept again by this run, whatever the store has. It is noted before the store is asked. A deletion holds
//! names of instances and keyed hashes alone. There are at most [`DELETIONS_MAX`]: then the oldest goes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sip::id::InstanceId;

use super::MAX_LIFETIME_S;
use super::items::{Collection, ItemKey};
use crate::clock::since_boot;

/// Deletions of one run that are remembered, about 100 bytes each.
const DELETIONS_MAX: usize = 100_000;

/// Of one run of a node.
#[derive(Default)]
pub(super) struct Deletions(Mutex<Table>);

#[derive(Default)]
struct Table {
    of: BTreeMap<Place, BTreeSet<ItemKey>>,
    /// With the second since boot in which each was noted, oldest first; some may be taken back by now.
    in_order: VecDeque<(u64, Place, ItemKey)>,
}

type Place = (InstanceId, Collection);

impl Deletions {
    /// This is to be deleted. Whether it was not known before.
    pub fn note(&self, instance: InstanceId, collection: Collection, item_key: ItemKey) -> bool {
        self.note_at(since_boot().as_secs(), (instance, collection), item_key)
    }

    fn note_at(&self, now_s: u64, place: Place, item_key: ItemKey) -> bool {
        let mut table = self.table();
        while table.in_order.len() > DELETIONS_MAX
            || table.in_order.front().is_some_and(|(at, ..)| at.saturating_add(MAX_LIFETIME_S) < now_s)
        {
            let Some((_, place, item_key)) = table.in_order.pop_front() else { break };
            table.take(place, item_key);
        }
        let is_new = table.of.entry(place).or_default().insert(item_key);
        if is_new {
            table.in_order.push_back((now_s, place, item_key));
        }
        is_new
    }

    /// There was no such thing, so that it has not to be remembered.
    pub fn take_back(&self, instance: InstanceId, collection: Collection, item_key: ItemKey) {
        let mut table = self.table();
        let place = (instance, collection);
        table.take(place, item_key);
        if table.in_order.back().is_some_and(|(_, last, key)| (*last, *key) == (place, item_key)) {
            table.in_order.pop_back();
        }
    }

    /// Whether this was deleted.
    pub fn has(&self, instance: InstanceId, collection: Collection, item_key: &ItemKey) -> bool {
        self.table().of.get(&(instance, collection)).is_some_and(|keys| keys.contains(item_key))
    }

    /// All that was deleted, by where it was.
    pub fn all(&self) -> Vec<(InstanceId, Collection, Vec<ItemKey>)> {
        let table = self.table();
        let of = |((instance, collection), keys): (&Place, &BTreeSet<ItemKey>)| {
            (*instance, *collection, keys.iter().copied().collect())
        };
        table.of.iter().map(of).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic in between leaves whole maps behind, and at worst one name too few.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn take(&mut self, place: Place, item_key: ItemKey) {
        let Some(keys) = self.of.get_mut(&place) else { return };
        keys.remove(&item_key);
        if keys.is_empty() {
            self.of.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    const MESSAGES: Collection = Collection::Messages;

    fn id(number: u128) -> InstanceId {
        InstanceId::new(number << 64, ShardTag(1))
    }

    #[test]
    fn a_deletion_is_known_until_no_record_of_its_time_can_live() {
        let deletions = Deletions::default();
        assert!(deletions.note_at(5, (id(1), MESSAGES), [1; 16]) && !deletions.note_at(6, (id(1), MESSAGES), [1; 16]));
        assert!(deletions.has(id(1), MESSAGES, &[1; 16]));
        assert!(!deletions.has(id(2), MESSAGES, &[1; 16]) && !deletions.has(id(1), Collection::MissedCalls, &[1; 16]));
        assert!(deletions.note_at(6 + MAX_LIFETIME_S, (id(2), MESSAGES), [2; 16]));
        assert_eq!(deletions.all(), [(id(2), MESSAGES, vec![[2; 16]])]);
        deletions.take_back(id(2), MESSAGES, [2; 16]);
        assert_eq!(deletions.all(), []);
    }

    #[test]
    fn of_more_than_are_remembered_the_oldest_goes() {
        let deletions = Deletions::default();
        let key = |number: usize| (number as u128).to_be_bytes();
        for number in 0..=DELETIONS_MAX {
            deletions.note_at(7, (id(1), MESSAGES), key(number));
            // What was never there takes nobody's place.
            deletions.note_at(7, (id(2), MESSAGES), key(number));
            deletions.take_back(id(2), MESSAGES, key(number));
        }
        assert!(!deletions.has(id(1), MESSAGES, &key(0)) && deletions.has(id(1), MESSAGES, &key(DELETIONS_MAX)));
        assert_eq!(deletions.all().into_iter().map(|(.., keys)| keys.len()).sum::<usize>(), DELETIONS_MAX);
    }
}
