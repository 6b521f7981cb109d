//! The moments at which the slots of a table fall due, in seconds since 1970.
//!
//! A replaced moment stays in the order without effect. Which moment counts is known without a look at the row.
//!
//! Invariant: at most one moment of a slot counts. The order holds at most twice as many moments as slots with one, and [`SPARE`] more.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Moments in the order that mean nothing any more, beside as many as there are that count.
const SPARE: usize = 64;
/// Of a slot that does not fall due.
const NEVER: u32 = u32::MAX;

/// The moments of all slots.
#[derive(Default)]
pub(super) struct Moments {
    order: BinaryHeap<Reverse<(u32, u32)>>,
    /// The moment that counts, by slot.
    counting: Vec<u32>,
    /// How many slots have one.
    count: usize,
}

impl Moments {
    /// A slot falls due then, and not when it was to before.
    pub(super) fn set(&mut self, slot: u32, moment: u32) {
        // 2106 is as good as a second before.
        let moment = moment.min(NEVER - 1);
        let place = slot as usize;
        if self.counting.len() <= place {
            self.counting.resize(place + 1, NEVER);
        }
        let before = std::mem::replace(&mut self.counting[place], moment);
        self.count += usize::from(before == NEVER);
        if before != moment {
            self.order.push(Reverse((moment, slot)));
            self.tidy();
        }
    }

    /// Whether a slot falls due at some time.
    pub(super) fn is_set(&self, slot: u32) -> bool {
        self.counting.get(slot as usize).is_some_and(|moment| *moment != NEVER)
    }

    /// A slot does not fall due any more.
    pub(super) fn clear(&mut self, slot: u32) {
        let before = self.counting.get_mut(slot as usize).map(|moment| std::mem::replace(moment, NEVER));
        if before.is_some_and(|before| before != NEVER) {
            self.count -= 1;
            self.tidy();
        }
    }

    /// The first moment, or an earlier one that counted once: then nothing is due.
    pub(super) fn first(&self) -> Option<u32> {
        self.order.peek().map(|Reverse((moment, _))| *moment)
    }

    /// Takes a slot that is due at `now`; it does not fall due again unless that is set.
    pub(super) fn pop_due(&mut self, now: u64) -> Option<u32> {
        while let Some(&Reverse((moment, slot))) = self.order.peek()
            && u64::from(moment) <= now
        {
            self.order.pop();
            if self.counting.get(slot as usize) == Some(&moment) {
                self.clear(slot);
                return Some(slot);
            }
        }
        None
    }

    /// Forgets what means nothing any more, once it is too much.
    fn tidy(&mut self) {
        if self.order.len() > 2 * self.count + SPARE {
            let slots = self.counting.iter().zip(0..).filter(|(moment, _)| **moment != NEVER);
            self.order = slots.map(|(moment, slot)| Reverse((*moment, slot))).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Set(u32, u32),
        Clear(u32),
        Pass(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0..6_u32, 0..40_u32).prop_map(|(slot, moment)| Step::Set(slot, moment)),
            1 => (0..6_u32).prop_map(Step::Clear),
            2 => (0..3_u32).prop_map(Step::Pass),
        ];
        proptest::collection::vec(step, 0..400)
    }

    proptest! {
        /// As a table of slots that is searched from end to end would have it.
        #[test]
        fn each_slot_falls_due_once_when_it_was_last_set_to(steps in steps()) {
            let (mut moments, mut model, mut now) = (Moments::default(), BTreeMap::new(), 0);
            for step in steps {
                match step {
                    Step::Set(slot, after) => {
                        moments.set(slot, now + after);
                        model.insert(slot, now + after);
                    }
                    Step::Clear(slot) => {
                        moments.clear(slot);
                        model.remove(&slot);
                    }
                    Step::Pass(time) => {
                        now += time;
                        let due: Vec<_> = std::iter::from_fn(|| moments.pop_due(now.into())).collect();
                        prop_assert!(due.is_sorted_by_key(|slot| model.get(slot).copied()));
                        for slot in due {
                            prop_assert!(model.remove(&slot).is_some_and(|moment| moment <= now));
                        }
                        prop_assert!(model.values().all(|moment| *moment > now));
                    }
                }
                prop_assert!(model.values().min().is_none_or(|least| moments.first().is_some_and(|first| first <= *least)));
                prop_assert!(moments.order.len() <= 2 * model.len() + SPARE);
            }
        }
    }

    #[test]
    fn a_moment_after_2106_is_one() {
        let mut moments = Moments::default();
        moments.set(0, u32::MAX);
        assert_eq!(moments.pop_due(u32::MAX.into()), Some(0));
    }
}
