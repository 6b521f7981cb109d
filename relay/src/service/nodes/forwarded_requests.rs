//! The nodes to which requests about an instance were forwarded. Such a node knows what became of the instance when the store has nothing left of it.
//!
//! Invariant: an entry is an id, a keyed hash of the secret that was right, and the name of a node. There are at most [`KNOWN_MAX`] entries, each for at most
//! [`RECEIPT_LIFE_S`]. An entry is used only for a requester that shows that secret.

use std::collections::HashMap;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use sip::id::InstanceId;
use subtle::ConstantTimeEq as _;

use crate::clock;
use crate::lock::Mutex;
use crate::vault::RECEIPT_LIFE_S;

/// Instances that are known at most; then the older half is forgotten.
const KNOWN_MAX: usize = 8_192;

/// The nodes that requests were passed on to.
#[derive(Default)]
pub(crate) struct PassedOn(Mutex<HashMap<InstanceId, Passed>>);

struct Passed {
    node: Box<str>,
    proof: [u8; 16],
    at: Instant,
}

impl PassedOn {
    /// A request about an instance is passed on to its owner, a run of `node`, for who showed its secret.
    pub(crate) fn note(&self, id: InstanceId, proof: [u8; 16], node: &str) {
        let (mut known, at) = (self.lock(), clock::now());
        if known.len() >= KNOWN_MAX && !known.contains_key(&id) {
            let mut ages: Vec<Instant> = known.values().map(|passed| passed.at).collect();
            let (_, middle, _) = ages.select_nth_unstable(KNOWN_MAX / 2);
            let middle = *middle;
            known.retain(|_, passed| passed.at > middle);
        }
        known.insert(id, Passed { node: node.into(), proof, at });
    }

    /// The name of the node that one was passed on to, for who shows the same secret.
    pub(super) fn node_of(&self, id: InstanceId, proof: &[u8; 16]) -> Option<Box<str>> {
        let known = self.lock();
        let passed = known.get(&id)?;
        let is_theirs: bool = passed.proof.ct_eq(proof).into();
        let is_young = clock::now().saturating_duration_since(passed.at) < Duration::from_secs(RECEIPT_LIFE_S);
        (is_theirs && is_young).then(|| passed.node.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, Passed>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn it_is_told_to_who_shows_the_same_secret_and_the_oldest_give_way() {
        let id = |number: usize| InstanceId::new((number as u128 + 1) << 32, ShardTag(1));
        let known = PassedOn::default();
        for number in 0..=KNOWN_MAX {
            known.note(id(number), [number as u8; 16], "relay2:5061");
        }
        assert_eq!(known.node_of(id(KNOWN_MAX), &[KNOWN_MAX as u8; 16]).as_deref(), Some("relay2:5061"));
        assert_eq!(known.node_of(id(KNOWN_MAX), &[9; 16]), None);
        assert_eq!(known.node_of(id(0), &[0; 16]), None);
    }
}
