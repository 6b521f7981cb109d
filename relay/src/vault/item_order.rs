//! The order of items beside a record.
//!
//! An item's place is its time in milliseconds since 1970, by the clock that the nodes share, so that items of another node or of the next run come after it.
//! An item that would come before an earlier one, or share its place, because the clock was put back, takes the next number.
//!
//! Invariant: an item of an instance gets a higher place than all items that the same run stored before.

use std::sync::atomic::{AtomicU64, Ordering};

use sip::id::InstanceId;

/// Among so many numbers the instances are divided. So the places run ahead of the clock only where a node keeps more than 256 things a
/// millisecond, or one instance more than one.
const NUMBERS: usize = 256;

/// The latest places.
pub(super) struct Places(Box<[AtomicU64; NUMBERS]>);

impl Default for Places {
    fn default() -> Self {
        Self(Box::new([const { AtomicU64::new(0) }; NUMBERS]))
    }
}

impl Places {
    /// The place of what is kept now, at `now_ms`.
    pub fn next(&self, instance: InstanceId, now_ms: u64) -> u64 {
        let [number, ..] = instance.to_bytes();
        let after = |latest: u64| now_ms.max(latest.saturating_add(1));
        let latest = &self.0[usize::from(number)];
        let earlier = latest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |latest| Some(after(latest)));
        earlier.map_or(now_ms, after)
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn a_later_one_has_a_higher_place_also_within_a_millisecond_and_when_the_clock_is_put_back() {
        let places = Places::default();
        let next = |now_ms| places.next(InstanceId::new(7 << 120, ShardTag(1)), now_ms);
        assert_eq!([next(5_000), next(5_000), next(5_001), next(4_000)], [5_000, 5_001, 5_002, 5_003]);
        assert_eq!(next(9_000), 9_000, "the clock leads again");
        assert_eq!(places.next(InstanceId::new(8 << 120, ShardTag(1)), 5_000), 5_000, "another's are its own");
    }
}
