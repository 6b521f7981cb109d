//! Deletions of items beside records, which must not come back when a store has lost a deletion: after a fail-over to a replica that lagged, or a restart with
//! older data.
//!
//! ```text
//! noted ── deleted from the store ── marked ──┬── the store has lost something, or was away: deleted again
//!                                             └── forgotten when no record of its time can live
//! ```
//!
//! Invariant: an item whose deletion is noted is neither listed nor stored again by this run, whatever the store has. The deletion is noted before the store is
//! asked; the note is dropped again only if everybody who asked was told that there was no such item. A deletion holds names of instances and keyed hashes
//! alone. There are at most [`DELETIONS_MAX`]: beyond that the owner with the most loses its oldest, so that the many deletions of one displace none of
//! another.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::MutexGuard;

use sip::id::InstanceId;

use super::MAX_LIFETIME_S;
use super::items::{Collection, ItemKey};
use crate::clock::since_boot;
use crate::lock::Mutex;

/// Deletions of one run that are remembered, about 250 bytes each.
const DELETIONS_MAX: usize = 100_000;

/// Of one run of a node.
#[derive(Default)]
pub(super) struct Deletions(Mutex<Table>);

#[derive(Default)]
struct Table {
    of: BTreeMap<Place, Own>,
    /// The second since boot in which each was noted, and where it is.
    in_order: BTreeMap<Number, (u64, Place)>,
    /// The places, by their [`Rank`]: the last one has the most, and of several that one with the oldest.
    by_rank: BTreeSet<(Rank, Place)>,
    /// How many were ever noted.
    noted: u64,
}

/// The deletions of one place.
#[derive(Default)]
struct Own {
    of: BTreeMap<ItemKey, Deletion>,
    in_order: BTreeMap<Number, ItemKey>,
}

struct Deletion {
    number: Number,
    /// How many have asked the store for it, and were not told yet what was there. One that has given up is among them for good.
    asking: u32,
    /// It was there, or may have been.
    was_there: bool,
}

type Place = (InstanceId, Collection);
/// How many a place has, and its oldest.
type Rank = (usize, Reverse<Number>);

/// Tells one deletion from an earlier one of the same thing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Number(u64);

impl Deletions {
    /// The store is about to be asked to delete this; to be [told](Self::tell) what it says. Without that it is remembered.
    pub fn note(&self, instance: InstanceId, collection: Collection, item_key: ItemKey) -> Number {
        self.note_at(since_boot().as_secs(), (instance, collection), item_key)
    }

    fn note_at(&self, now_s: u64, place: Place, item_key: ItemKey) -> Number {
        let mut table = self.table();
        while let Some((number, (at, place))) = table.in_order.first_key_value().map(|(number, it)| (*number, *it))
            && at.saturating_add(MAX_LIFETIME_S) < now_s
        {
            table.forget(place, number);
        }
        if let Some(known) = table.of.get_mut(&place).and_then(|own| own.of.get_mut(&item_key)) {
            known.asking = known.asking.saturating_add(1);
            return known.number;
        }
        while table.in_order.len() >= DELETIONS_MAX
            && let Some(((_, Reverse(oldest)), place)) = table.by_rank.last().copied()
        {
            table.forget(place, oldest);
        }
        table.noted += 1;
        let number = Number(table.noted);
        table.in_order.insert(number, (now_s, place));
        table.change(place, |own| {
            own.of.insert(item_key, Deletion { number, asking: 1, was_there: false });
            own.in_order.insert(number, item_key);
        });
        number
    }

    /// Notes the store's answer to a deletion: one that was there for no request need not be remembered.
    pub fn tell(&self, instance: InstanceId, collection: Collection, number: Number, was_there: bool) {
        let mut table = self.table();
        let place = (instance, collection);
        let Some(own) = table.of.get_mut(&place) else { return };
        let Some(known) = own.in_order.get(&number).and_then(|item_key| own.of.get_mut(item_key)) else { return };
        known.asking = known.asking.saturating_sub(1);
        known.was_there |= was_there;
        if known.asking == 0 && !known.was_there {
            table.forget(place, number);
        }
    }

    /// Whether this was deleted.
    pub fn has(&self, instance: InstanceId, collection: Collection, item_key: &ItemKey) -> bool {
        self.table().of.get(&(instance, collection)).is_some_and(|own| own.of.contains_key(item_key))
    }

    /// All that was deleted, by where it was.
    pub fn all(&self) -> Vec<(InstanceId, Collection, Vec<ItemKey>)> {
        let table = self.table();
        let of =
            |((instance, collection), own): (&Place, &Own)| (*instance, *collection, own.of.keys().copied().collect());
        table.of.iter().map(of).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic in between leaves whole maps behind, and at worst one name too few.
        self.0.lock()
    }
}

impl Table {
    fn forget(&mut self, place: Place, number: Number) {
        self.in_order.remove(&number);
        self.change(place, |own| {
            if let Some(item_key) = own.in_order.remove(&number) {
                own.of.remove(&item_key);
            }
        });
    }

    /// Changes the deletions of a place, and its rank with them.
    fn change(&mut self, place: Place, change: impl FnOnce(&mut Own)) {
        let own = self.of.entry(place).or_default();
        if let Some(rank) = own.rank() {
            self.by_rank.remove(&(rank, place));
        }
        change(own);
        match own.rank() {
            Some(rank) => drop(self.by_rank.insert((rank, place))),
            None => drop(self.of.remove(&place)),
        }
    }
}

impl Own {
    /// `None`: it has none.
    fn rank(&self) -> Option<Rank> {
        self.in_order.first_key_value().map(|(oldest, _)| (self.in_order.len(), Reverse(*oldest)))
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

    fn key(number: usize) -> ItemKey {
        (number as u128).to_be_bytes()
    }

    #[test]
    fn a_deletion_is_known_until_no_record_of_its_time_can_live() {
        let deletions = Deletions::default();
        let first = deletions.note_at(5, (id(1), MESSAGES), [1; 16]);
        assert_eq!(deletions.note_at(6, (id(1), MESSAGES), [1; 16]), first);
        assert!(deletions.has(id(1), MESSAGES, &[1; 16]));
        assert!(!deletions.has(id(2), MESSAGES, &[1; 16]) && !deletions.has(id(1), Collection::MissedCalls, &[1; 16]));
        let second = deletions.note_at(6 + MAX_LIFETIME_S, (id(2), MESSAGES), [2; 16]);
        assert_eq!(deletions.all(), [(id(2), MESSAGES, vec![[2; 16]])]);
        deletions.tell(id(2), MESSAGES, second, false);
        assert_eq!(deletions.all(), []);
    }

    #[test]
    fn what_two_delete_at_once_is_remembered_whichever_hears_first_that_it_was_there() {
        for [first, second] in [[true, false], [false, true]] {
            let deletions = Deletions::default();
            let numbers = [(); 2].map(|()| deletions.note(id(1), MESSAGES, key(1)));
            deletions.tell(id(1), MESSAGES, numbers[0], first);
            deletions.tell(id(1), MESSAGES, numbers[1], second);
            assert!(deletions.has(id(1), MESSAGES, &key(1)));
            let again = deletions.note(id(1), MESSAGES, key(1));
            deletions.tell(id(1), MESSAGES, again, false);
            assert!(deletions.has(id(1), MESSAGES, &key(1)), "it was there once");
        }
        let deletions = Deletions::default();
        let numbers = [(); 2].map(|()| deletions.note(id(1), MESSAGES, key(1)));
        for number in numbers {
            deletions.tell(id(1), MESSAGES, number, false);
        }
        assert_eq!(deletions.all(), [], "never there");
        // Of one whose answer is lost nobody knows.
        deletions.note(id(1), MESSAGES, key(1));
        let number = deletions.note(id(1), MESSAGES, key(1));
        deletions.tell(id(1), MESSAGES, number, false);
        assert!(deletions.has(id(1), MESSAGES, &key(1)));
    }

    #[test]
    fn what_was_taken_back_and_is_deleted_later_is_known_as_long_as_others_of_that_time() {
        let deletions = Deletions::default();
        let in_vain = deletions.note_at(5, (id(1), MESSAGES), key(1));
        deletions.note_at(5, (id(1), MESSAGES), key(2));
        deletions.tell(id(1), MESSAGES, in_vain, false);
        deletions.note_at(9, (id(1), MESSAGES), key(1));
        deletions.tell(id(1), MESSAGES, in_vain, false);
        deletions.note_at(8 + MAX_LIFETIME_S, (id(1), MESSAGES), key(3));
        assert_eq!(deletions.all(), [(id(1), MESSAGES, vec![key(1), key(3)])]);
    }

    #[test]
    fn of_more_than_are_remembered_the_oldest_goes_of_whoever_has_the_most() {
        let deletions = Deletions::default();
        let (friend, other) = ((id(1), MESSAGES), (id(3), MESSAGES));
        for number in 0..100 {
            deletions.note_at(7, friend, key(number));
        }
        for number in 0..=DELETIONS_MAX {
            deletions.note_at(7, (id(2), MESSAGES), key(number));
            // What was never there takes nobody's place.
            let in_vain = deletions.note_at(7, (id(4), MESSAGES), key(number));
            deletions.tell(id(4), MESSAGES, in_vain, false);
        }
        deletions.note_at(7, other, key(0));
        let all: Vec<_> = deletions.all().into_iter().map(|(instance, _, keys)| (instance, keys.len())).collect();
        assert_eq!(all, [(id(1), 100), (id(2), DELETIONS_MAX - 101), (id(3), 1)]);
        assert!(!deletions.has(id(2), MESSAGES, &key(0)) && deletions.has(id(2), MESSAGES, &key(DELETIONS_MAX)));
        let table = deletions.table();
        assert_eq!((table.in_order.len(), table.by_rank.len()), (DELETIONS_MAX, 3));
    }
}
