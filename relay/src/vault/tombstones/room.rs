//! The room for tombstones, and which ones are dropped when it is full.
//!
//! Invariant: a tombstone of a record that is not erased is never dropped. A dropped tombstone whose record could still live is counted.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use sip::id::InstanceId;

use super::{Table, Tombstone, retain_live};
use crate::clock::confirmed_now;

/// Tombstones of one node for which there is room, at the least and at the most; about 150 bytes each in memory, and as many in the file and at each node
/// beside.
const ROOM: RangeInclusive<usize> = 200_000..=1_000_000;

/// The room of one node.
pub(super) struct Room {
    /// For how many.
    at_most: AtomicUsize,
    /// How many were forgotten whose record could still live.
    forgotten: AtomicU64,
}

impl Default for Room {
    fn default() -> Self {
        Self { at_most: AtomicUsize::new(*ROOM.start()), forgotten: AtomicU64::new(0) }
    }
}

impl Room {
    /// For `count`, as far as that is within [`ROOM`]; never less than before.
    pub(super) fn make(&self, count: usize) {
        self.at_most.fetch_max(count.min(*ROOM.end()), Ordering::Relaxed);
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    /// Makes room for one more.
    pub(super) fn tidy(&self, table: &mut Table) {
        let forgotten = tidy(table, self.at_most.load(Ordering::Relaxed));
        if forgotten > 0 {
            self.forgotten.fetch_add(forgotten, Ordering::Relaxed);
            tracing::warn!(
                event = "tombstones-forgotten",
                forgotten,
                "there is no room for all that was wiped within six days: of what was wiped longest ago it is forgotten, and a store that comes back as it was before brings that back"
            );
        }
    }
}

/// Takes out, where there is no room for one more, those that are over, or were erased longest ago; of how many the record could still live.
fn tidy(table: &mut Table, room: usize) -> u64 {
    if table.len() < room {
        return 0;
    }
    retain_live(table);
    let Some(surplus) = table.len().checked_sub(room) else { return 0 };
    let now = confirmed_now();
    // Those first whose record is over, so that only a receipt is lost.
    let order = |(id, stone): (&InstanceId, &Tombstone)| Some((stone.ends_at > now, stone.wiped_at?, *id));
    let mut erased: Vec<_> = table.iter().filter_map(order).collect();
    // A tenth at once, so that a full table is not searched for each; and in no order, because shards wait for the table.
    let count = surplus + room / 10;
    if count < erased.len() {
        erased.select_nth_unstable(count);
        erased.truncate(count);
    }
    for (_, _, id) in &erased {
        table.remove(id);
    }
    erased.iter().filter(|(may_live, ..)| *may_live).count() as u64
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::super::Tombstones;
    use super::*;

    const LEAST: usize = *ROOM.start();
    use crate::clock::{DAY_S, shared_now};
    use crate::domain::WipeReason;

    fn id(number: u128) -> InstanceId {
        InstanceId::new(number << 32, ShardTag(1))
    }

    fn tombstone(wiped_at: Option<u64>) -> Tombstone {
        let new = Tombstone::new(None, shared_now() + 3 * DAY_S, WipeReason::Disabled, None);
        Tombstone { wiped_at, ..new }
    }

    #[tokio::test]
    async fn a_full_table_lets_go_of_what_was_erased_longest_ago_and_tells_so() {
        let stones = Tombstones::in_memory();
        for number in 0..LEAST as u128 {
            let wiped_at = (number % 2 == 0).then(|| shared_now() + number as u64);
            stones.table().insert(id(number + 1), tombstone(wiped_at));
        }
        stones.raise(id(u64::MAX.into()), tombstone(None)).await.expect("it has room");
        assert!(stones.look(id(1)).is_none() && stones.look(id(2)).is_some());
        assert_eq!(stones.pending().len(), LEAST / 2 + 1, "none that is not erased was let go");
        assert_eq!(stones.forgotten(), LEAST as u64 / 10);
    }

    #[tokio::test]
    async fn what_has_room_stays_and_so_does_what_is_not_erased_whatever_there_is() {
        let stones = Tombstones::in_memory();
        stones.make_room(LEAST + 2);
        for number in 0..LEAST as u128 {
            stones.table().insert(id(number + 1), tombstone(Some(shared_now())));
        }
        stones.raise(id(u64::MAX.into()), tombstone(None)).await.expect("it has room");
        assert_eq!((stones.table().len(), stones.forgotten()), (LEAST + 1, 0));
        stones.table().values_mut().for_each(|stone| stone.wiped_at = None);
        for number in 1..=3 {
            stones.raise(id(u128::from(u64::MAX) + number), tombstone(None)).await.expect("it has room");
        }
        assert_eq!((stones.table().len(), stones.forgotten()), (LEAST + 4, 0));
    }

    #[test]
    fn there_is_room_for_what_a_small_machine_bears_and_it_never_shrinks() {
        let room = Room::default();
        for (count, is) in [(5, LEAST), (LEAST * 2, LEAST * 2), (LEAST, LEAST * 2), (usize::MAX, 1_000_000)] {
            room.make(count);
            assert_eq!(room.at_most.load(Ordering::Relaxed), is);
        }
    }

    #[test]
    fn more_than_there_is_room_for_goes_at_once() {
        let mut table: Table = (0..100).map(|number| (id(number + 1), tombstone(Some(shared_now())))).collect();
        assert_eq!((tidy(&mut table, 20), table.len()), (82, 18), "an earlier run had more room");
        let over =
            |(number, ends_at): (u128, u64)| (id(number), Tombstone { ends_at, ..tombstone(Some(shared_now())) });
        let mut table: Table = [(1, 5), (2, shared_now() + DAY_S)].map(over).into();
        assert_eq!((tidy(&mut table, 2), table.contains_key(&id(2))), (0, true), "a receipt alone is lost");
    }
}
