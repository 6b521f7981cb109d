//! Instances that are enabled again: what the later one, the successor, takes over from the earlier one.
//!
//! | of the predecessor | with its successor |
//! | --- | --- |
//! | a call that waits, or is expected | is for the successor, which counts as woken where the predecessor was |
//! | a leg | is the successor's, and may be answered by the flow that it is on |
//! | the flow by which its device is | carries the dialogs of the successor until it ends, and begins nothing |
//! | a request of a dialog that waits | waits for the successor |
//! | what its device has asked | is answered by the flow of the successor, where its own is gone |
//! | the token of a dialog | is as one of the successor's for [`KEPT`] |
//!
//! Invariant: a successor is of the same binding, and its SIP server has accepted its credentials, or they are those of one that it has accepted:
//! whoever enables another account by the same name gets nothing of these calls. What is known of a predecessor is its name alone. At most
//! [`SUCCESSIONS_MAX`] are known, and [`LINE_MAX`] of one instance: beyond it the oldest is forgotten, as all are by a restart, and its dialogs are open to nobody.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::core::{OfflinePeer, Timer};
use super::{Endpoint, Source};
use crate::flow::FlowToken;
use crate::id::{CallId, FlowId, InstanceId};

/// How long the tokens of a predecessor's dialogs are open to its successor. Few calls are longer, and those end at their device's word.
pub const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Predecessors known to one endpoint; some 5 MB.
pub const SUCCESSIONS_MAX: usize = 50_000;
/// Predecessors of one instance: an app that enables at each start, in one call.
pub const LINE_MAX: usize = 16;

/// Who has succeeded whom.
#[derive(Debug, Default)]
pub(super) struct Successors {
    rows: HashMap<InstanceId, Succession>,
    /// The predecessors of each successor, in the order in which they ended.
    lines: HashMap<InstanceId, Vec<InstanceId>>,
    /// In the order in which they began, each with when it is forgotten.
    order: VecDeque<(Instant, InstanceId)>,
}

/// What is known of a predecessor.
#[derive(Debug)]
struct Succession {
    /// The last of its line.
    successor: InstanceId,
    /// The flow that its device had.
    flow: Option<FlowId>,
}

impl Successors {
    /// The instance that stands for this one: its successor, or itself.
    pub(super) fn current(&self, instance: InstanceId) -> InstanceId {
        self.rows.get(&instance).map_or(instance, |row| row.successor)
    }

    /// The predecessors of an instance, oldest first.
    fn line(&self, successor: InstanceId) -> &[InstanceId] {
        self.lines.get(&successor).map_or(&[], Vec::as_slice)
    }

    /// Whether a flow was that of a predecessor of this instance's successor.
    fn has_left(&self, instance: InstanceId, flow: FlowId) -> bool {
        let was_by = |earlier: &InstanceId| self.rows.get(earlier).is_some_and(|row| row.flow == Some(flow));
        self.line(self.current(instance)).iter().any(was_by)
    }

    /// Notes a succession; whether no other one is to be forgotten before it.
    fn note(&mut self, now: Instant, earlier: InstanceId, successor: InstanceId, flow: Option<FlowId>) -> bool {
        let is_first = self.order.is_empty();
        let mut line = self.lines.remove(&earlier).unwrap_or_default();
        for it in &line {
            if let Some(row) = self.rows.get_mut(it) {
                row.successor = successor;
            }
        }
        line.push(earlier);
        self.rows.insert(earlier, Succession { successor, flow });
        self.order.push_back((now + KEPT, earlier));
        let all = self.lines.entry(successor).or_default();
        all.append(&mut line);
        let surplus = all.len().saturating_sub(LINE_MAX);
        for oldest in all.drain(..surplus) {
            self.rows.remove(&oldest);
        }
        self.forget_old(now);
        is_first
    }

    /// Forgets those of which it is time, and the oldest beyond the limit; when the next one is to be.
    fn forget_old(&mut self, now: Instant) -> Option<Instant> {
        while let Some((until, earlier)) = self.order.front().copied()
            && (until <= now || self.order.len() > SUCCESSIONS_MAX)
        {
            self.order.pop_front();
            let Some(row) = self.rows.remove(&earlier) else { continue };
            if let Some(line) = self.lines.get_mut(&row.successor) {
                line.retain(|it| *it != earlier);
                if line.is_empty() {
                    self.lines.remove(&row.successor);
                }
            }
        }
        self.order.front().map(|(until, _)| *until)
    }
}

impl Endpoint {
    /// The instance that stands for this one: the one that succeeded it, or itself.
    pub fn current(&self, instance: InstanceId) -> InstanceId {
        self.successors.current(instance)
    }

    /// The instances that this one has succeeded, of which something may still be asked; oldest first.
    pub fn predecessors(&self, instance: InstanceId) -> &[InstanceId] {
        self.successors.line(instance)
    }

    /// Whether an instance may take over what is an earlier one's.
    pub fn may_succeed(&self, earlier: InstanceId, successor: InstanceId) -> bool {
        let binding = self.devices.binding_of(earlier);
        earlier != successor
            && binding.is_some()
            && binding == self.devices.binding_of(successor)
            && self.devices.is_proven(successor)
    }

    /// The calls that wait for an instance, and those that are expected for it.
    pub fn calls_for(&self, instance: InstanceId) -> Vec<CallId> {
        let mut calls = self.calls.waiting_for(instance);
        let binding = self.devices.binding_of(instance);
        calls.extend(binding.into_iter().flat_map(|binding| self.calls.expected_of(binding, instance)));
        calls
    }

    pub(super) fn on_succeed(&mut self, now: Instant, earlier: InstanceId, successor: InstanceId) {
        let Some(binding) = self.devices.binding_of(earlier).filter(|_| self.may_succeed(earlier, successor)) else {
            return;
        };
        let flow = self.attachments.hand_over(earlier, successor);
        if self.successors.note(now, earlier, successor, flow) {
            self.core.later(now, KEPT, Timer::Successors);
        }
        self.asked.succeed(earlier, successor, flow);
        self.unproven.succeed(earlier, successor);
        self.calls.succeed(earlier, successor, binding);
        self.messages.succeed(earlier, successor);
        self.core.transactions.succeed(earlier, successor);
        self.succeed_parked(now, earlier, successor, binding);
        let Some(attached) = self.attachments.get(successor).map(|attached| attached.flow) else { return };
        if let Some(left) = flow.filter(|flow| *flow != attached) {
            self.leave_legs(now, successor, left);
            self.leave_flow(now, successor, left);
        }
        self.send_parked(now, OfflinePeer::Device(successor));
        self.fork_waiting(now, successor);
    }

    pub(super) fn on_successors_due(&mut self, now: Instant) {
        if let Some(next) = self.successors.forget_old(now) {
            self.core.timers.set(next, Timer::Successors);
        }
    }

    /// A token that a predecessor was given, as its successor's.
    pub(super) fn of_successor(&self, token: FlowToken) -> FlowToken {
        FlowToken { instance: self.successors.current(token.instance), ..token }
    }

    /// Whether what comes by a flow may be of the dialogs that this instance's token is for: by the flow of its successor, or that which its own device
    /// had, and may still have.
    pub(super) fn carries_dialogs_of(&self, instance: InstanceId, source: &Source) -> bool {
        self.attachments.carries_dialogs(self.successors.current(instance), source)
            || self.successors.has_left(instance, source.flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ShardTag;

    fn instance(number: usize) -> InstanceId {
        InstanceId::new((number as u128 + 1) << 32, ShardTag(0))
    }

    #[test]
    fn the_last_of_a_line_stands_for_those_before_it() {
        let (now, mut successors) = (Instant::now(), Successors::default());
        let [first, second, third, other] = [0, 1, 2, 3].map(instance);
        successors.note(now, first, second, Some(FlowId::Stream(7)));
        successors.note(now, second, third, None);
        assert_eq!([first, second, third, other].map(|it| successors.current(it)), [third, third, third, other]);
        assert_eq!(successors.line(third), [first, second]);
        assert!(successors.has_left(second, FlowId::Stream(7)) && !successors.has_left(other, FlowId::Stream(7)));
    }

    #[test]
    fn a_predecessor_is_known_for_a_day() {
        let (now, mut successors) = (Instant::now(), Successors::default());
        let [first, second, third] = [0, 1, 2].map(instance);
        successors.note(now, first, second, None);
        successors.note(now + KEPT / 2, second, third, None);
        successors.forget_old(now + KEPT);
        assert_eq!((successors.current(first), successors.current(second)), (first, third));
        successors.forget_old(now + KEPT / 2 * 3);
        assert_eq!((successors.rows.len(), successors.lines.len(), successors.order.len()), (0, 0, 0));
    }

    #[test]
    fn the_predecessors_of_one_instance_and_of_all_are_bounded() {
        let (now, mut successors) = (Instant::now(), Successors::default());
        for number in 0..LINE_MAX + 2 {
            successors.note(now, instance(number), instance(number + 1), None);
        }
        let last = instance(LINE_MAX + 2);
        assert_eq!((successors.line(last).len(), successors.rows.len()), (LINE_MAX, LINE_MAX));
        assert_eq!(successors.current(instance(1)), instance(1), "the oldest went first");
        for number in 0..SUCCESSIONS_MAX {
            successors.note(now, instance(1_000 + number * 2), instance(1_001 + number * 2), None);
        }
        assert_eq!((successors.rows.len(), successors.order.len()), (SUCCESSIONS_MAX, SUCCESSIONS_MAX));
        assert!(successors.line(last).is_empty());
    }
}
