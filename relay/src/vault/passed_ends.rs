//! Push bindings (RFC 8599) that have ended here. They leave no tombstone, because a device may register again under the same id. A record that a store brings
//! back, because it has lost the erasure, is recognised by its date.
//!
//! Invariant: the id and two times of each are kept, in memory, until its SIP server's grant has ended. A registration that its SIP server has confirmed since
//! does not count as ended. There are at most [`ENDS_MAX`]; beyond that, the one that would be forgotten first is dropped.

use std::collections::{BTreeMap, BTreeSet};

use sip::id::InstanceId;

use super::record::PushBindingRecord;
use super::{Sealed, Vault};
use crate::clock::confirmed_now;
use crate::lock::Mutex;

/// Ends that are remembered, about 100 bytes each.
const ENDS_MAX: usize = 100_000;

/// Of one run of a node.
#[derive(Default)]
pub struct PassedEnds(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// When its SIP server was asked for it last, in milliseconds since 1970, and until when that had granted it.
    of: BTreeMap<InstanceId, (u64, u64)>,
    by_end: BTreeSet<(u64, InstanceId)>,
}

impl Vault {
    /// Remembers that a registration has ended here, which was this. One that opens no more is known by no date, and runs out; an account that was lent
    /// has a tombstone.
    pub fn note_passed_end(&self, id: InstanceId, sealed: &Sealed) {
        let note = |it: &PushBindingRecord| {
            self.passed_ends().note_at(id, it.confirmed_at_ms, it.expires_at, confirmed_now());
        };
        let _ = self.open_record(id, sealed, |record| record.push_binding().map(note));
    }
}

impl PassedEnds {
    fn note_at(&self, id: InstanceId, confirmed_at_ms: u64, expires_at: u64, now: u64) {
        let mut table = self.0.lock();
        while let Some(&(ends_at, first)) = table.by_end.first()
            && (ends_at <= now || table.by_end.len() >= ENDS_MAX)
        {
            table.remove(first);
        }
        let before = table.remove(id).unwrap_or_default();
        let end = (confirmed_at_ms.max(before.0), expires_at.max(before.1));
        table.by_end.insert((end.1, id));
        table.of.insert(id, end);
    }

    /// Its device has registered it again, here or at another node.
    pub fn forget(&self, id: InstanceId) {
        self.0.lock().remove(id);
    }

    /// All that are remembered, in order.
    pub fn all(&self) -> Vec<InstanceId> {
        self.0.lock().of.keys().copied().collect()
    }

    /// Whether this registration, or a later form of it, has ended here.
    pub fn has_ended(&self, id: InstanceId, record: &PushBindingRecord) -> bool {
        self.0.lock().of.get(&id).is_some_and(|(confirmed_at_ms, _)| record.confirmed_at_ms <= *confirmed_at_ms)
    }
}

impl Table {
    fn remove(&mut self, id: InstanceId) -> Option<(u64, u64)> {
        let end = self.of.remove(&id)?;
        self.by_end.remove(&(end.1, id));
        Some(end)
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn an_end_is_remembered_until_the_grant_is_over_or_its_device_has_registered_again() {
        let (ends, id) = (PassedEnds::default(), |number: u128| InstanceId::new(number << 32, ShardTag(1)));
        ends.note_at(id(1), 5_000, 100, 10);
        ends.note_at(id(2), 6_000, 200, 10);
        // An earlier form of it that ends once more changes nothing.
        ends.note_at(id(1), 4_000, 90, 20);
        assert_eq!(ends.0.lock().of.get(&id(1)), Some(&(5_000, 100)));
        ends.note_at(id(3), 7_000, 300, 100);
        assert_eq!(ends.all(), [id(2), id(3)]);
        ends.forget(id(2));
        assert_eq!((ends.all(), ends.0.lock().by_end.len()), (vec![id(3)], 1));
    }

    #[test]
    fn of_too_many_those_go_that_would_be_forgotten_first() {
        let (ends, id) = (PassedEnds::default(), |number: usize| InstanceId::new((number as u128) << 32, ShardTag(1)));
        for number in 0..=ENDS_MAX {
            ends.note_at(id(number), 1, 1_000 + number as u64, 10);
        }
        let all = ends.all();
        assert_eq!((all.len(), all.first(), all.last()), (ENDS_MAX, Some(&id(1)), Some(&id(ENDS_MAX))));
    }
}
