//! A call as the shell is told of it, for one of its devices.
//!
//! Invariant: a closed call whose devices were told of it keeps no name and no address of its caller.

use std::time::Instant;

use super::Call;
use crate::edge::IncomingCall;
use crate::id::InstanceId;

impl Call {
    /// The call as the shell is told of it for one of its devices.
    pub fn describe(&self, now: Instant, instance: InstanceId) -> IncomingCall {
        IncomingCall {
            call: self.id,
            instance,
            from: self.from.clone(),
            name: self.name.clone(),
            caller: self.caller,
            mark: self.mark,
            replaces: self.replaces,
            arrived: self.arrived,
            wait: self.deadline.saturating_duration_since(now),
            valid: self.invite().and_then(|invite| invite.valid_until).map(|at| at.saturating_duration_since(now)),
        }
    }

    /// Forgets the caller of a closed call: who called is no part of what may still come of it.
    pub fn forget_caller(&mut self) {
        (self.from, self.name) = (Box::default(), None);
    }
}
