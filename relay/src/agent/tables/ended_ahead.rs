//! Instances that ended before they arrived here: their record had been claimed, or was about to be, and no shard had it yet.
//!
//! The end of a lent account leaves a tombstone, which lasts longer than an entry here. The end of a push binding leaves none, because its device may register
//! it again under the same id; nor does the end of an instance that another node has to release.
//!
//! Invariant: each end is remembered for [`REMEMBERED`], longer than any record is on its way. A device that registers again is not turned away.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use sip::id::InstanceId;

/// How long an end is remembered.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The ends that came before their instance.
#[derive(Default)]
pub(crate) struct EndedAhead {
    ended: HashMap<InstanceId, Instant>,
    /// Oldest first; some were noted again, or have registered anew.
    order: VecDeque<(Instant, InstanceId)>,
}

impl EndedAhead {
    /// Notes that an instance has ended that is not here.
    pub(crate) fn note(&mut self, now: Instant, id: InstanceId) {
        while let Some((at, old)) = self.order.front().copied() {
            if now.saturating_duration_since(at) < REMEMBERED {
                break;
            }
            self.order.pop_front();
            if self.ended.get(&old) == Some(&at) {
                self.ended.remove(&old);
            }
        }
        self.ended.insert(id, now);
        self.order.push_back((now, id));
    }

    /// Whether it has ended.
    pub(crate) fn has(&self, now: Instant, id: InstanceId) -> bool {
        self.ended.get(&id).is_some_and(|at| now.saturating_duration_since(*at) < REMEMBERED)
    }

    /// Its device has registered it anew.
    pub(crate) fn forget(&mut self, id: InstanceId) {
        self.ended.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn an_end_is_remembered_until_its_device_registers_anew_or_nothing_can_be_on_its_way_any_more() {
        let id = |number: u128| InstanceId::new(number << 32, ShardTag(1));
        let (mut ended, now) = (EndedAhead::default(), Instant::now());
        ended.note(now, id(1));
        ended.note(now, id(2));
        ended.forget(id(2));
        assert!(ended.has(now, id(1)) && !ended.has(now, id(2)) && !ended.has(now, id(3)));
        let half = now + REMEMBERED / 2;
        ended.note(half, id(1));
        ended.note(now + REMEMBERED, id(3));
        assert!(ended.has(now + REMEMBERED, id(1)), "it was told again meanwhile");
        let over = half + REMEMBERED;
        assert!(
            !ended.has(over, id(1)) && ended.has(over, id(3)),
            "nothing was noted since, and it is over all the same"
        );
        ended.note(over, id(4));
        assert_eq!(ended.ended.len(), 2, "and it takes no room any more");
    }
}
