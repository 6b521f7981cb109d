//! Successors: an instance that is enabled again; or a push binding whose device registers again with another push token, or with pushes where it had none, or
//! the reverse. The later one, the successor, takes over from the earlier one, its predecessor:
//!
//! | of the predecessor | the successor |
//! | --- | --- |
//! | a call that waits, or is expected | gets it, and counts as woken if the predecessor was |
//! | a leg | has it, and may answer by the flow that the leg is on |
//! | the flow of its device | has its dialogs carried by it until it ends; nothing begins there |
//! | a waiting request of a dialog | gets it |
//! | an unanswered request of its device | gets the answer by its own flow if that of the request is gone |
//! | the token of a dialog | is meant by it for [`KEPT`] |
//! | the Path of a registration | is reached by it as long as a message may be on its way: any longer would fork a call twice if a server has both Contacts |
//! | the remaining budgets of a registration's device | has them |
//!
//! Invariant: a successor is of the same binding, and its SIP server has accepted its credentials, or the same credentials of another device. So a stranger who
//! enables another account by the same name gets nothing of these calls. The successor of a registration is of the same AOR, accepted by the same SIP server,
//! and of the same device (see [`super::replaced`]). Only the name of a predecessor is kept. At most [`SUCCESSIONS_MAX`] are known, and [`LINE_MAX`] of one
//! instance; beyond that the oldest is forgotten, as all are by a restart, and its dialogs end for both sides.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::core::{OfflinePeer, Timer};
use super::pushed::PushBindingSuccession;
use super::{Endpoint, Event, Source};
use crate::flow::FlowToken;
use crate::id::{CallId, FlowId, InstanceId};

/// How long the tokens of a predecessor's dialogs are open to its successor. Few calls are longer, and those end at their device's word.
pub const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Predecessors known to one endpoint; some 5 MB.
pub const SUCCESSIONS_MAX: usize = 50_000;
/// Predecessors of one instance: an app that enables at each start, in one call.
pub const LINE_MAX: usize = 16;

/// The instances that were succeeded, and their successors.
#[derive(Debug, Default)]
pub(super) struct Successors {
    rows: HashMap<InstanceId, Succession>,
    /// The predecessors of each successor, in the order in which they ended.
    lines: HashMap<InstanceId, Vec<InstanceId>>,
    /// In the order in which they began, each with when it is forgotten.
    order: VecDeque<(Instant, InstanceId)>,
}

/// The record of a predecessor.
#[derive(Debug)]
struct Succession {
    /// The last instance of its line of successors.
    successor: InstanceId,
    /// The flow that its device had.
    flow: Option<FlowId>,
    /// When it was succeeded.
    since: Instant,
}

impl Successors {
    /// The instance that stands for this one: its successor, or itself.
    pub(super) fn current(&self, instance: InstanceId) -> InstanceId {
        self.rows.get(&instance).map_or(instance, |row| row.successor)
    }

    /// The instance that has succeeded this one no longer ago than `within`.
    pub(super) fn recent(&self, now: Instant, instance: InstanceId, within: Duration) -> Option<InstanceId> {
        self.rows.get(&instance).filter(|row| now <= row.since + within).map(|row| row.successor)
    }

    /// An instance stands in its own name, as one does whose device has its earlier push token again.
    pub(super) fn revive(&mut self, instance: InstanceId) {
        if let Some(row) = self.rows.remove(&instance) {
            self.leave_line(row.successor, instance);
        }
    }

    fn leave_line(&mut self, successor: InstanceId, earlier: InstanceId) {
        if let Some(line) = self.lines.get_mut(&successor) {
            line.retain(|it| *it != earlier);
            if line.is_empty() {
                self.lines.remove(&successor);
            }
        }
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

    /// Notes a succession by an instance that stands in its own name; whether no other one is to be forgotten before it.
    fn note(&mut self, now: Instant, earlier: InstanceId, successor: InstanceId, flow: Option<FlowId>) -> bool {
        let is_first = self.order.is_empty();
        let mut line = self.lines.remove(&earlier).unwrap_or_default();
        for it in &line {
            if let Some(row) = self.rows.get_mut(it) {
                row.successor = successor;
            }
        }
        line.push(earlier);
        self.rows.insert(earlier, Succession { successor, flow, since: now });
        self.order.push_back((now + KEPT, earlier));
        let all = self.lines.entry(successor).or_default();
        all.append(&mut line);
        let surplus = all.len().saturating_sub(LINE_MAX);
        for oldest in all.drain(..surplus) {
            self.rows.remove(&oldest);
        }
        self.forget_old(now);
        // A line that loses its oldest again and again takes nothing from others.
        if self.order.len() > 2 * SUCCESSIONS_MAX {
            let rows = &self.rows;
            self.order.retain(|(until, it)| rows.get(it).is_some_and(|row| row.since + KEPT == *until));
        }
        is_first
    }

    /// Forgets those of which it is time, and the oldest beyond the limit; when the next one is to be.
    fn forget_old(&mut self, now: Instant) -> Option<Instant> {
        while let Some((until, earlier)) = self.order.front().copied()
            && (until <= now || self.rows.len() > SUCCESSIONS_MAX)
        {
            self.order.pop_front();
            // The predecessor may have come back and been succeeded again.
            if self.rows.get(&earlier).is_some_and(|row| row.since + KEPT == until) {
                self.revive(earlier);
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
        if !self.may_succeed(earlier, successor) {
            return;
        }
        let flow = self.take_over(now, earlier, successor);
        let Some(attached) = self.attachments.get(successor).map(|attached| attached.flow) else { return };
        if let Some(left) = flow.filter(|flow| *flow != attached) {
            self.leave_legs(now, successor, left);
            self.leave_flow(now, successor, left);
        }
        self.send_parked(now, OfflinePeer::Device(successor));
        self.fork_waiting(now, successor);
    }

    /// The device of a registration has another one from now on, which is written down: its calls and dialogs go on.
    pub(super) fn succeed_registration(&mut self, now: Instant, earlier: InstanceId, successor: InstanceId) {
        let calls = self.calls_for(earlier);
        if self.attachments.is_attached(earlier) {
            self.core.event(Event::Detached(earlier));
        }
        let succession = PushBindingSuccession { earlier, successor, calls };
        self.core.event(Event::PushBindingSucceeded(Box::new(succession)));
        self.take_over(now, earlier, successor);
        self.devices.succeed(earlier, successor);
    }

    /// Renames what is of an instance; the flow that its device had.
    fn take_over(&mut self, now: Instant, earlier: InstanceId, successor: InstanceId) -> Option<FlowId> {
        let bindings = (self.devices.binding_of(earlier)?, self.devices.binding_of(successor)?);
        let flow = self.attachments.hand_over(earlier, successor);
        if self.successors.note(now, earlier, successor, flow) {
            self.core.later(now, KEPT, Timer::Successors);
        }
        self.asked.succeed(earlier, successor, flow);
        self.unproven.succeed(earlier, successor);
        self.calls.succeed(earlier, successor, bindings);
        self.messages.succeed(earlier, successor);
        self.core.transactions.succeed(earlier, successor);
        self.succeed_parked(now, earlier, successor, bindings.0);
        flow
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
    fn one_that_comes_back_stands_in_its_own_name() {
        let (now, mut successors) = (Instant::now(), Successors::default());
        let [first, second, third] = [0, 1, 2].map(instance);
        successors.note(now, first, second, None);
        successors.revive(first);
        successors.note(now + KEPT / 2, second, first, None);
        assert_eq!([first, second].map(|it| successors.current(it)), [first, first]);
        assert_eq!(successors.line(first), [second]);
        successors.note(now + KEPT / 2, first, third, None);
        successors.forget_old(now + KEPT);
        assert_eq!(
            [first, second].map(|it| successors.current(it)),
            [third, third],
            "its first time is over, and not its second"
        );
        assert_eq!(successors.recent(now + KEPT, first, KEPT / 2), Some(third));
        assert_eq!(successors.recent(now + KEPT, first, KEPT / 4), None);
        successors.forget_old(now + 2 * KEPT);
        assert_eq!((successors.rows.len(), successors.lines.len(), successors.order.len()), (0, 0, 0));
    }

    #[test]
    fn one_that_is_succeeded_again_and_again_keeps_nobody_elses_out() {
        let (now, mut successors) = (Instant::now(), Successors::default());
        let [other, last] = [0, 1].map(instance);
        successors.note(now, other, last, None);
        for turn in 0..3 * SUCCESSIONS_MAX {
            successors.revive(instance(10 + (turn + 1) % 2));
            successors.note(now, instance(10 + turn % 2), instance(10 + (turn + 1) % 2), None);
        }
        assert_eq!(successors.current(other), last);
        assert!(successors.order.len() <= 2 * SUCCESSIONS_MAX);
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
