//! Devices between two connections that have the call and cannot be called back by a push.
//!
//! | a device without a connection that no push reaches has | and |
//! | --- | --- |
//! | said nothing to any leg | is given up at once |
//! | said 1xx to a leg that is not over | is given up [`EdgeTiming::first_sign`](crate::timing::EdgeTiming::first_sign) later, unless it is back: a client that closes one connection before it opens the next is away for a second or two, and rings on |
//!
//! Invariant: no device is waited for longer than the call itself waits.

use std::time::Instant;

use super::Call;
use crate::id::InstanceId;

/// A device that is given up, unless it comes back before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lost {
    given_up_at: Instant,
    /// The status that the caller gets when no other device is left; `None`: the one for a device that no push reaches.
    status: Option<u16>,
}

impl Call {
    /// When a device is given up that nothing calls back, but that has said something to a leg; `None`: now. `status`: that of its loss.
    pub fn wait_for_lost(&mut self, now: Instant, instance: InstanceId, status: Option<u16>) -> Option<Instant> {
        if self.has_live_leg(instance) || !self.legs.any_heard_of(instance) {
            return None;
        }
        let given_up_at = now + self.timing.first_sign;
        self.open(instance)?.lost = Some(Lost { given_up_at, status });
        Some(given_up_at)
    }

    /// The devices that are to be given up by now, each with the status of its loss.
    pub fn take_lost(&mut self, now: Instant) -> Vec<(InstanceId, Option<u16>)> {
        let is_due = |lost: &mut Lost| lost.given_up_at <= now;
        let due = self.targets.iter_mut().filter_map(|target| Some((target.instance, target.lost.take_if(is_due)?)));
        let due: Vec<_> = due.collect();
        due.into_iter().filter(|(it, _)| !self.has_live_leg(*it)).map(|(it, lost)| (it, lost.status)).collect()
    }

    /// When [`Self::take_lost`] must be asked.
    pub(super) fn lost_due(&self) -> Option<Instant> {
        self.targets.iter().filter_map(|target| target.lost).map(|lost| lost.given_up_at).min()
    }
}
