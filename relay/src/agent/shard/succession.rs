//! Succession: an instance, or a push binding, replaces an earlier one of the same device and takes over its calls.
//!
//! | of the predecessor | the successor |
//! | --- | --- |
//! | the states of its calls, and a push on its way | takes them over: no call is pushed twice, and the push service's verdict counts |
//! | a requester that waits for its device | is waited for in its place |
//! | its answered calls, and its open stories | takes them over |
//! | its calls that are over | answers for them as long as they are known |
//! | its timeline, its mailbox, and the items kept beside its record | does not get them |
//!
//! A successor with another binding, shard or node takes over no call: the calls end with the predecessor, and the successor has missed them.
//!
//! Invariant: only a successor by the endpoint's own rules takes anything over (`sip/src/endpoint/successors.rs`).

use std::collections::btree_map::Entry;

use sip::endpoint::Input;
use sip::id::{CallId, InstanceId};

use super::Shard;
use super::call_pushes::ReconsiderReason;
use crate::agent::tables::calls::Call;
use crate::agent::tables::instances::Row;
use crate::clock;
use crate::push::Event;

impl Shard {
    /// An instance is about to end for one that was enabled later.
    pub(crate) fn succeed(&mut self, earlier: InstanceId, successor: InstanceId) {
        let stands = |id| self.instances.get(id).is_some_and(|row| row.ending.is_none());
        if !stands(earlier) || earlier == successor {
            return;
        }
        if !stands(successor) || !self.endpoint.may_succeed(earlier, successor) {
            self.hand_over.note_heir(earlier, successor);
            return;
        }
        let calls = self.endpoint.calls_for(earlier);
        self.hand_on(earlier, successor, &calls);
        let dialogs = self.instances.get_mut(earlier).and_then(|row| row.activity.as_mut());
        for (dialog, call) in dialogs.map(|activity| std::mem::take(&mut activity.dialogs)).unwrap_or_default() {
            self.on_dialog_begun(successor, call, dialog);
        }
        self.drive(clock::now(), Input::Succeed { earlier, successor });
    }

    /// Whether an instance has anything that a successor would take over.
    pub(crate) fn is_in_call(&self, id: InstanceId) -> bool {
        let row = self.instances.get(id).filter(|row| row.ending.is_none());
        let has_dialogs = |row: &Row| row.activity.as_ref().is_some_and(|activity| !activity.dialogs.is_empty());
        row.is_some_and(|row| has_dialogs(row) || !self.endpoint.calls_for(id).is_empty())
    }

    /// Gives a successor the calls and open stories of its predecessor, and the requesters that wait for its device.
    pub(crate) fn hand_on(&mut self, earlier: InstanceId, successor: InstanceId, calls: &[CallId]) {
        for call in calls {
            self.succeed_in_call(*call, earlier, successor);
        }
        let target = |instance| self.target_of(instance, Event::Call).map(|(_, target)| target);
        if let (Some(before), Some(now)) = (target(earlier), target(successor))
            && !now.takes_the_same(&before)
        {
            self.reconsider_pushes(successor, ReconsiderReason::TargetChanged);
        }
        self.succeed_in_stories(earlier, successor);
        for (call, waiting) in self.take_arrivals(earlier) {
            self.arrivals.entry((successor, call)).or_default().extend(waiting);
        }
        if self.attached.contains(successor) {
            self.tell_arrivals(successor);
        }
    }

    fn succeed_in_call(&mut self, call: CallId, earlier: InstanceId, successor: InstanceId) {
        self.calls.succeed(call, earlier, successor);
        if let Some(push) = self.pushes.remove(&(earlier, call)) {
            // If the call was pushed for the other one as well, that push is enough.
            match self.pushes.entry((successor, call)) {
                Entry::Occupied(_) => push.task.abort(),
                Entry::Vacant(place) => {
                    place.insert(push);
                }
            }
        }
    }

    /// The state of a call of an instance, or of its predecessor.
    pub(crate) fn call_of(&self, instance: InstanceId, call: CallId) -> Option<&Call> {
        let earlier = || self.endpoint.predecessors(instance).iter().rev().find_map(|it| self.calls.of(*it, call));
        self.calls.of(instance, call).or_else(earlier)
    }
}
