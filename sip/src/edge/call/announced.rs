//! A call that its SIP server has announced: its devices are woken, and its INVITE is still to come.
//!
//! Invariant: it ends once, and each of its devices hears so.

use std::time::Instant;

use super::{Call, Stage, Target};
use crate::edge::CallState;
use crate::edge::caller::Caller;
use crate::edge::caller_key::CallerKey;
use crate::id::InstanceId;

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
        self.targets.push(Target { woken: true, ..Target::new(instance) });
    }

    /// The time until which the INVITE is expected.
    pub fn expect_until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// Ends an expected call, whose INVITE has not come; whether it had not ended before.
    pub fn end_expected(&mut self, state: CallState) -> bool {
        let ends = !self.state.is_final();
        if ends {
            self.state = state;
            for target in &mut self.targets {
                target.state = state;
                self.changes.push((target.instance, state));
            }
        }
        ends
    }

    /// A device has nothing to do with an expected call any more; whether no device is left.
    pub fn leave_expected(&mut self, instance: InstanceId) -> bool {
        let before = self.targets.len();
        self.targets.retain(|target| target.instance != instance);
        if self.targets.len() < before && !self.state.is_final() {
            self.changes.push((instance, CallState::TimedOut));
        }
        self.targets.is_empty()
    }
}
