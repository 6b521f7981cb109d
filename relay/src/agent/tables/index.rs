//! An index from the hash of a key to the slot of its row: 12 bytes for each row, where a table of keys takes the length of the keys and more.
//!
//! Invariant: the hash is stored with the slot, so that a table that grows reads no row.

use hashbrown::HashTable;

/// The slots of a table, by the hash of what their rows are found by. Several may have the same.
#[derive(Default)]
pub(crate) struct Index(HashTable<Entry>);

struct Entry {
    hash: u32,
    slot: u32,
}

/// The bucket hash of a key's hash.
fn spread(hash: u32) -> u64 {
    // Buckets are chosen by the low bits and told apart by the high ones.
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn short(hash: u64) -> u32 {
    hash as u32
}

impl Index {
    pub(crate) fn insert(&mut self, hash: u64, slot: u32) {
        let hash = short(hash);
        self.0.insert_unique(spread(hash), Entry { hash, slot }, |entry| spread(entry.hash));
    }

    pub(crate) fn remove(&mut self, hash: u64, slot: u32) {
        if let Ok(entry) = self.0.find_entry(spread(short(hash)), |entry| entry.slot == slot) {
            entry.remove();
        }
    }

    /// The slots whose rows may be those that are looked for, in no order.
    pub(crate) fn candidates(&self, hash: u64) -> impl Iterator<Item = u32> {
        let hash = short(hash);
        self.0.iter_hash(spread(hash)).filter(move |entry| entry.hash == hash).map(|entry| entry.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_slot_is_found_by_its_hash_until_it_is_removed() {
        let mut index = Index::default();
        let hash_of = |slot: u32| u64::from(slot / 3) << 7;
        for slot in 0..9_000 {
            index.insert(hash_of(slot), slot);
        }
        for slot in (0..9_000).filter(|slot| slot % 3 == 1) {
            index.remove(hash_of(slot), slot);
        }
        for slot in 0..9_000 {
            let mut found: Vec<_> = index.candidates(hash_of(slot)).collect();
            found.sort_unstable();
            assert_eq!(found, [slot / 3 * 3, slot / 3 * 3 + 2]);
        }
    }
}
