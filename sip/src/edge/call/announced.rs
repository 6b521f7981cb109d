//! A call that its SIP server has announced: its devices are woken, and its INVITE is still to come.
//!
//! Invariant: it ends once, and each of its devices is told. No INVITE and no further announcement counts as this call once none of its devices would come for
//! it: they have come and gone, were told that it is over, or were reached by no push.

use std::time::{Duration, Instant};

use super::{Call, Stage, Target};
use crate::edge::CallState;
use crate::edge::caller::Caller;
use crate::edge::caller_key::CallerKey;
use crate::id::InstanceId;

/// A request that waits for a device of an expected call.
#[derive(Clone, Copy, Debug)]
pub(super) struct WakeRequest {
    /// The time at which the last one gives up.
    pub(super) until: Instant,
    /// Whether a device has come by then.
    pub(super) has_come: bool,
}

/// The devices of an expected call at the moment when its INVITE came.
#[derive(Debug)]
pub struct Announced {
    /// The devices that were woken for it.
    pub woken: Vec<InstanceId>,
    /// The devices among them that ring.
    pub rang: Vec<InstanceId>,
    /// How long they were told that it waits.
    pub until: Instant,
}

impl Call {
    /// Whether the INVITE is still to come.
    pub fn is_expected(&self) -> bool {
        matches!(self.stage, Stage::Expected)
    }

    /// One more device is woken for an expected call, with the caller as its announcement names it.
    pub fn expect(&mut self, instance: InstanceId, key: CallerKey, (from, name): Caller) {
        (self.from, self.name, self.caller) = (from, name, key);
        // One that no push reached before is woken once more.
        self.targets.retain(|target| target.instance != instance);
        self.targets.push(Target { woken: true, ..Target::new(instance) });
    }

    /// The time until which the INVITE is expected.
    pub fn expect_until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// A SIP server waits for a device of the call until this moment.
    pub fn ask_until(&mut self, until: Instant) {
        self.asked.until = self.asked.until.max(until);
    }

    /// Nobody waits for its devices any more, and nobody was told that one has come.
    pub fn abandon(&mut self, now: Instant) {
        self.asked.until = self.asked.until.min(now);
    }

    /// Whether those who have asked for its devices have gone without one.
    pub fn is_abandoned(&self, now: Instant) -> bool {
        !self.asked.has_come && self.asked.until <= now
    }

    /// The time until which its INVITE is taken for it: as long as its devices were told, once one has come in time; else `follows` after the last one has
    /// given up who waits for that. A decline counts as long as the devices were told.
    pub fn expected_until(&self, follows: Duration) -> Instant {
        if self.asked.has_come || self.state.is_final() {
            self.deadline
        } else {
            self.deadline.min(self.asked.until + follows)
        }
    }

    /// A device has come that was woken for an expected call.
    pub fn note_come(&mut self, now: Instant, instance: InstanceId) {
        if let Some(target) = self.targets.iter_mut().find(|target| target.instance == instance && target.woken) {
            target.attached = true;
            self.asked.has_come |= now <= self.asked.until;
        }
    }

    /// Whether none of its devices is there, and none will come: all were there and have gone, or were told that it is over by now.
    pub fn is_stale(&self, now: Instant, is_there: impl Fn(InstanceId) -> bool) -> bool {
        let awaited = || self.targets.iter().filter(|target| target.woken);
        let are_gone = self.comes_until <= now || awaited().all(|target| target.attached);
        !self.state.is_final() && are_gone && !awaited().any(|target| is_there(target.instance))
    }

    /// Whether none of its devices was reached by a push.
    pub fn reaches_nobody(&self) -> bool {
        self.targets.iter().all(|target| !target.woken)
    }

    /// Ends an expected call, whose INVITE has not come; whether it had not ended before.
    pub fn end_expected(&mut self, state: CallState) -> bool {
        let ends = !self.state.is_final();
        if ends {
            self.state = state;
            for target in self.targets.iter_mut().filter(|target| !target.state.is_final()) {
                target.state = state;
                self.changes.push((target.instance, state));
            }
        }
        ends
    }

    /// No push reaches a device: an expected call is over for it, and it has missed the call where the others do.
    pub fn lose_expected(&mut self, instance: InstanceId) {
        if self.state.is_final() {
            return;
        }
        if let Some(target) = self.targets.iter_mut().find(|target| target.instance == instance && target.woken) {
            (target.woken, target.state) = (false, CallState::TimedOut);
            self.changes.push((instance, CallState::TimedOut));
        }
    }

    /// A device has nothing to do with an expected call any more; whether no device is left.
    pub fn leave_expected(&mut self, instance: InstanceId) -> bool {
        if self.has_woken(instance) && !self.state.is_final() {
            self.changes.push((instance, CallState::TimedOut));
        }
        self.targets.retain(|target| target.instance != instance);
        self.targets.is_empty()
    }
}
