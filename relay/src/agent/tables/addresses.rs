//! The registrations that pass through (RFC 8599), by the addresses by which they are asked for.
//!
//! An AOR is kept without the port of To. But an account may be written with one (`sip:alice@example.com:5061`), and who asks for it writes it as its phone
//! does: so each stands by its AOR, and by the AOR with the port of its registrar.
//!
//! Invariant: an address stands here by its keyed hash alone. A registration stands by two addresses at most, until it is removed.

use std::collections::{BTreeMap, BTreeSet};

use sip::id::InstanceId;

use crate::vault::AorKey;

/// The registrations of one shard.
#[derive(Default)]
pub(crate) struct Addresses {
    known: BTreeSet<(AorKey, InstanceId)>,
    /// The further addresses, of the few registrations that have one.
    with_port: BTreeMap<InstanceId, AorKey>,
}

impl Addresses {
    /// A registration of this AOR, and of this further address.
    pub(crate) fn add(&mut self, id: InstanceId, aor: AorKey, with_port: Option<AorKey>) {
        self.known.insert((aor, id));
        if let Some(further) = with_port {
            self.known.insert((further, id));
            self.with_port.insert(id, further);
        }
    }

    /// The registration of this AOR is gone.
    pub(crate) fn remove(&mut self, id: InstanceId, aor: AorKey) {
        self.known.remove(&(aor, id));
        if let Some(further) = self.with_port.remove(&id) {
            self.known.remove(&(further, id));
        }
    }

    /// The registrations by this address, in order.
    pub(crate) fn of(&self, address: AorKey) -> impl Iterator<Item = InstanceId> {
        let from = (address, InstanceId::from_bytes([0; 16]));
        self.known.range(from..).take_while(move |(other, _)| *other == address).map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn a_registration_stands_by_both_of_its_addresses_until_it_is_removed() {
        let (id, key) = (|number: u128| InstanceId::new(number << 32, ShardTag(1)), AorKey::of_number);
        let mut addresses = Addresses::default();
        addresses.add(id(1), key(1), Some(key(2)));
        addresses.add(id(2), key(1), Some(key(3)));
        addresses.add(id(3), key(1), None);
        // Each refresh says so again.
        addresses.add(id(1), key(1), Some(key(2)));
        let of = |addresses: &Addresses, number| addresses.of(key(number)).collect::<Vec<_>>();
        assert_eq!(of(&addresses, 1), [id(1), id(2), id(3)]);
        assert_eq!((of(&addresses, 2), of(&addresses, 3), of(&addresses, 4)), (vec![id(1)], vec![id(2)], vec![]));
        (1..=3).for_each(|number| addresses.remove(id(number), key(1)));
        assert!(addresses.known.is_empty() && addresses.with_port.is_empty());
    }
}
