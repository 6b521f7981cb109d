//! The consequences for a call when a device refuses one of its legs.
//!
//! | the device has another leg that is | 482 | 486, or another refusal | 6xx |
//! | --- | --- | --- | --- |
//! | Alive | it has that one: nothing | it has that one: nothing | refuses for all |
//! | Sent | it has that one: nothing | refuses, unless it says within [`EdgeTiming::first_sign`](crate::timing::EdgeTiming::first_sign) that it has that one | likewise |
//! | Ended, or adrift | it has had that one, and may come back: nothing; of a leg that was repeated: it has no way to answer that, and refuses, its caller gets 480 | refuses | likewise |
//! | none | another branch of its server's fork says what became of it: refuses | refuses | likewise |
//!
//! A phone that lost its connection says 482 or 486 by itself to the copy that it gets by its next one; so does one in another call, or whose user has declined
//! in the notification, to the only INVITE that it knows. The one rings, the other does not, and the leg of which nothing was heard tells them apart. Until
//! then that leg follows the device, and nothing new is asked of it: no further leg begins, and no push wakes it.
//!
//! A refusal by a person and a refusal by the device's stack have different consequences for that person:
//!
//! | its refusal | its device has said that it rings | it has not |
//! | --- | --- | --- |
//! | 3xx, 482, 486, 6xx | declined | declined |
//! | 408, 487, 5xx | it has missed the call, for no button says so: its stack has given up | likewise |
//! | any other | declined: there are buttons that say 480 | it has missed the call, for nobody has heard of it, unless somebody declines on another device; of what its caller's server may send again it is told when the call has not come again |
//!
//! When a device that rang is out, the others are waited for as long as if none had rung.
//!
//! Invariant: a device declines a call once; what it has refused is kept no longer than until that counts, it rings, or the call ends.

use std::time::Instant;

use super::{Call, Outcome, Stage};
use crate::edge::CallState;
use crate::id::{BranchId, FlowId, InstanceId};
use crate::message::Message;

/// The device has this INVITE, or has answered it (RFC 3261 §8.2.2.2).
pub const MERGED: u16 = 482;

/// A refusal that counts later, if at all.
#[derive(Debug)]
pub(super) struct Refused {
    response: Message,
    counts_at: Instant,
}

impl Call {
    /// A device has refused a leg: its earlier legs to repeat, each with the flow by which the device is. `is_lost`: whether a flow has ended.
    pub fn repeated_by(
        &mut self,
        branch: BranchId,
        status: u16,
        is_lost: impl Fn(FlowId) -> bool,
    ) -> Vec<(BranchId, FlowId)> {
        if self.is_closed() || self.state.is_final() || self.state.is_given_up() {
            return Vec::new();
        }
        // Of two devices with one secret none says 482 of what the other one has.
        self.legs.repeat_before(branch, |begun_on| status == MERGED || is_lost(begun_on))
    }

    /// A leg of this device, which had no final response before, was refused while the caller waits. `is_repeated`: the device got it by two flows.
    pub(super) fn on_refusal(
        &mut self,
        now: Instant,
        instance: InstanceId,
        response: &Message,
        is_repeated: bool,
    ) -> Outcome {
        let status = response.status().unwrap_or(500);
        if self.state.is_given_up() {
            return self.after_a_loss();
        }
        let (legs, is_live, is_alive) =
            (self.legs.count_of(instance), self.legs.any_live_of(instance), self.legs.any_alive_of(instance));
        let counts_at = (now + self.timing.first_sign).min(self.deadline);
        let Some(target) = self.open(instance) else { return Outcome::Ignore };
        if status == MERGED && legs > 1 {
            target.has_it = true;
            // Where no other leg is left, the INVITE that the device has is the one that it has refused.
            let refused = target.refused.take().filter(|_| !is_live);
            return match refused {
                Some(refused) => self.decline(now, instance, &refused.response),
                None if is_repeated && !is_live => self.decline_by(now, instance, MERGED, None),
                None => Outcome::Ignore,
            };
        }
        if status >= 600 || !is_live {
            return self.decline(now, instance, response);
        }
        if !is_alive {
            target.refused = Some(Box::new(Refused { response: response.clone(), counts_at }));
        }
        Outcome::Ignore
    }

    /// A device has refused one leg and said nothing by another: its refusal counts. Its legs to cancel, and what that means for the caller.
    pub fn settle_refusal(&mut self, now: Instant) -> Option<(Vec<BranchId>, Outcome)> {
        if self.is_closed() || self.state.is_final() {
            return None;
        }
        let is_due = |refused: &mut Box<Refused>| refused.counts_at <= now;
        let open = self.targets.iter_mut().filter(|target| !target.state.is_final());
        let (instance, refused) =
            open.filter_map(|target| Some((target.instance, target.refused.take_if(is_due)?))).next()?;
        let legs = self.legs.end(|leg| leg.instance == instance);
        Some((legs, self.decline(now, instance, &refused.response)))
    }

    /// When [`Self::settle_refusal`] must be asked.
    pub fn refusal_due(&self) -> Option<Instant> {
        let open = self.targets.iter().filter(|target| !target.state.is_final() && !self.state.is_final());
        open.filter_map(|target| target.refused.as_ref()).map(|refused| refused.counts_at).min()
    }

    /// A device has said something by another leg than the one that it has refused.
    pub(super) fn forget_refusal(&mut self, instance: InstanceId) {
        if let Some(target) = self.targets.iter_mut().find(|target| target.instance == instance) {
            target.refused = None;
        }
    }

    /// The devices that have left the call by their own refusal since the last call of this, each with its status.
    pub fn take_refusals(&mut self) -> Vec<(InstanceId, u16)> {
        std::mem::take(&mut self.refusals)
    }

    /// Notes the status of the device's own response, which may differ from what the caller gets.
    pub fn correct_refusal(&mut self, said: u16) {
        match self.refusals.pop() {
            Some((instance, _)) if said >= 300 => self.refusals.push((instance, said)),
            _ => {}
        }
    }

    /// How a call that is over, and that nobody answered, was missed by this device; `None` where it was not: it has declined, or its stack has refused, and
    /// who declined on another device is its user, too.
    pub fn missed_by(&self, instance: InstanceId) -> Option<CallState> {
        let target = self.targets.iter().find(|target| target.instance == instance)?;
        let is_missed = matches!(target.state, CallState::Cancelled | CallState::TimedOut);
        let is_missed =
            is_missed && self.state != CallState::Answered && !(target.refused_itself && self.is_declined());
        is_missed.then_some(target.state)
    }

    /// Whether a call that is over was missed, too, by those devices that had had too many to get it: nobody has answered it, and where it was refused no user
    /// did that.
    pub fn is_missed_by_limited(&self) -> bool {
        match self.state {
            CallState::Cancelled | CallState::TimedOut => true,
            CallState::Declined => !self.is_declined(),
            _ => false,
        }
    }

    fn is_declined(&self) -> bool {
        self.targets.iter().any(|target| target.state == CallState::Declined)
    }

    /// A device is out: whether another one may still answer. Where none of these rings, they are waited for as long as if none had.
    pub(super) fn goes_on_without(&mut self, now: Instant) -> bool {
        if !self.may_be_answered() {
            return false;
        }
        let open = || self.targets.iter().filter(|target| !target.state.is_final());
        // One that has the INVITE already may ring by it, and its 180 be lost; one between two connections has its time to come back.
        if !open().any(|target| target.rings || target.has_it) {
            let legs = &self.legs;
            let has_leg = open().any(|it| legs.any_live_of(it.instance) || legs.any_heard_of(it.instance));
            let sign_by = if has_leg { now + self.timing.first_sign } else { now };
            self.deadline = self.deadline.min(self.comes_until.max(sign_by));
        }
        self.deadline > now
    }

    fn decline(&mut self, now: Instant, instance: InstanceId, response: &Message) -> Outcome {
        self.decline_by(now, instance, response.status().unwrap_or(500), Some(response))
    }

    /// A device has refused; `response`: what of that its caller may get.
    fn decline_by(&mut self, now: Instant, instance: InstanceId, status: u16, response: Option<&Message>) -> Outcome {
        let Some(target) = self.open(instance) else { return Outcome::Ignore };
        target.refused_itself = is_of_its_stack(status, target.rings);
        target.state = if target.refused_itself { CallState::TimedOut } else { CallState::Declined };
        let state = target.state;
        self.changes.push((instance, state));
        self.refusals.push((instance, status));
        if let (Stage::Waiting(invite), Some(response)) = (&mut self.stage, response) {
            invite.refusals.add(response);
        }
        self.forget_provisional(instance);
        if status >= 600 {
            self.state = CallState::Declined;
            return Outcome::Fail;
        }
        if self.goes_on_without(now) {
            return Outcome::Ignore;
        }
        self.end_refused();
        Outcome::Fail
    }
}

/// Whether a refusal with this status is no user's doing. Of a device that has not rung its user knows nothing.
fn is_of_its_stack(status: u16, rang: bool) -> bool {
    match status {
        300..=399 | MERGED | 486 | 600.. => false,
        408 | 487 | 500..=599 => true,
        _ => !rang,
    }
}
