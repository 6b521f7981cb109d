//! The missed calls of a device by caller, so that the many calls of one caller do not displace those of others.
//!
//! Invariant: a missed call is always kept. A caller has at most half of the [`MISSED_CALLS_MAX`] places; with that many, or with as many as there are free
//! places, its next call replaces its own oldest one, and never another caller's. Callers are known by a [`CallerKey`], those with withheld numbers too. A
//! restart forgets this table.

use std::collections::VecDeque;

use sip::endpoint::CallerKey;
use sip::id::CallId;

use crate::vault::items::MISSED_CALLS_MAX;

/// The latest missed calls of one device, oldest first, each with the key of its caller; also those that its app has deleted since.
#[derive(Debug, Default)]
pub(crate) struct MissedCalls(VecDeque<(CallerKey, CallId)>);

impl MissedCalls {
    /// Notes one more; the one that it takes the place of, if that is not the oldest of all.
    pub(crate) fn note(&mut self, caller: CallerKey, call: CallId) -> Option<CallId> {
        let of_caller = self.0.iter().filter(|(of, _)| *of == caller).count();
        let is_full = self.0.len() + of_caller >= MISSED_CALLS_MAX;
        let oldest = self.0.iter().position(|(of, _)| *of == caller).filter(|_| is_full);
        let gone = oldest.and_then(|at| self.0.remove(at)).map(|(_, call)| call);
        // The store forgets the oldest by itself.
        if self.0.len() >= MISSED_CALLS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((caller, call));
        gone
    }
}

#[cfg(test)]
mod tests {
    use sip::endpoint::CallerKeys;
    use sip::id::ShardTag;

    use super::*;

    fn call(number: usize) -> CallId {
        CallId::new((number as u128 + 1) << 16, ShardTag(0))
    }

    /// The final content of a list with so many places.
    fn kept(callers: impl Iterator<Item = u64>) -> Vec<(u64, CallId)> {
        let (mut missed, mut kept, keys) = (MissedCalls::default(), Vec::new(), CallerKeys::default());
        for (number, caller) in callers.enumerate() {
            let gone = missed.note(keys.of(&caller.to_string()), call(number));
            kept.push((caller, call(number)));
            if kept.len() > MISSED_CALLS_MAX {
                kept.remove(0);
            }
            kept.retain(|(_, call)| Some(*call) != gone);
            assert!(missed.0.len() <= MISSED_CALLS_MAX);
        }
        kept
    }

    #[test]
    fn one_callers_many_leave_those_of_others_and_the_latest_of_its_own() {
        let friends = 100..110;
        let all = kept(friends.clone().chain((0..1_000).map(|_| 1)).chain([200]).chain((0..1_000).map(|_| 1)));
        assert!(friends.chain([200]).all(|friend| all.iter().any(|(caller, _)| *caller == friend)));
        let own: Vec<_> = all.iter().filter(|(caller, _)| *caller == 1).map(|(_, call)| *call).collect();
        assert!((15..=25).contains(&own.len()), "{}", own.len());
        assert_eq!(own.last(), Some(&call(2_010)), "the latest");
    }

    #[test]
    fn several_callers_leave_room_for_one_more() {
        let all = kept((0..5_000).map(|number| number % 4).chain([9]).chain((0..5_000).map(|number| number % 4)));
        assert!(all.iter().any(|(caller, _)| *caller == 9));
        assert!((0..4).all(|caller| all.iter().filter(|(of, _)| *of == caller).count() >= 9));
    }

    #[test]
    fn many_callers_with_one_call_each_are_kept_as_the_store_keeps_them() {
        let all = kept(0..200);
        assert_eq!(all.iter().map(|(caller, _)| *caller).collect::<Vec<_>>(), (150..200).collect::<Vec<_>>());
    }
}
