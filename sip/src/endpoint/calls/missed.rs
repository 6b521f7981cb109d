//! The devices that have missed a call which has ended, and when they are told.
//!
//! | the caller's server was answered | a device that has missed the call |
//! | --- | --- |
//! | 401, 407, 413 to 416, 420 to 422, 428, 433, 436 to 438, 484, 488 or 494: it may send the call again in another form (RFC 3261 §8.1.3.5, §21.4.21, §21.4.26, §22.2, RFC 4028 §7.3, RFC 8224 §6.2.2, RFC 5079 §4, RFC 3329 §2.3) | is told [`comes_again`](crate::timing::EdgeTiming::comes_again) later |
//! | – and within that time comes an INVITE of the same caller to the binding, which this device gets, or exceeds its budget | is told of that call alone |
//! | – and all calls are ended, or another node serves the device from now on | is told at once |
//! | any other answer | is told at once |
//!
//! Invariant: a device is told at most once of a call that it has missed, and it is told unless the call goes on as another one.

use std::collections::HashMap;
use std::time::Instant;

use crate::edge::caller_key::CallerKey;
use crate::endpoint::core::Timer;
use crate::endpoint::{CallState, Endpoint, Event, IncomingCall};
use crate::id::{BindingId, CallId, InstanceId};

/// The devices that have missed calls which may come again, by the key of such an INVITE.
pub(super) type PendingMissed = HashMap<(BindingId, CallerKey), Vec<Missed>>;

/// A call that a device has missed.
#[derive(Debug)]
pub(super) struct Missed {
    call: Box<IncomingCall>,
    /// How; `None`: the device had had too many to get it.
    state: Option<CallState>,
    told_at: Instant,
}

impl Endpoint {
    /// A call of these devices has ended, with this final answer to its caller.
    pub(super) fn on_missed(&mut self, now: Instant, call: CallId, instances: &[InstanceId], status: u16) {
        let waits = may_come_again(status).then_some(self.core.settings.timing.edge.comes_again);
        let told_at = now + waits.unwrap_or_default();
        let Some(row) = self.calls.get_mut(call) else { return };
        let limited = row.take_limited();
        let row = &*row;
        let missed = |instance, state| Missed { call: Box::new(row.describe(now, instance)), state, told_at };
        let limited = limited.into_iter().filter(|_| row.is_missed_by_limited()).map(|instance| missed(instance, None));
        let theirs = instances.iter().filter_map(|it| Some(missed(*it, Some(row.missed_by(*it)?))));
        let all: Vec<Missed> = theirs.chain(limited).collect();
        if waits.is_none() {
            return self.tell_missed(now, all);
        }
        if !all.is_empty() {
            let key = (row.binding(), row.caller());
            self.calls.pending_missed.entry(key).or_default().extend(all);
            self.core.timers.set(told_at, Timer::Missed(Box::new(key)));
        }
    }

    /// Withdraws the pending missed calls of these devices by this caller: the caller has just sent the same call again.
    pub(super) fn forget_missed(&mut self, key: (BindingId, CallerKey), instances: [&[InstanceId]; 2]) {
        let Some(pending_missed) = self.calls.pending_missed.get_mut(&key) else { return };
        let goes_on = |instance| instances.iter().any(|some| some.contains(&instance));
        pending_missed.retain(|missed| !goes_on(self.successors.current(missed.call.instance)));
        if pending_missed.is_empty() {
            self.calls.pending_missed.remove(&key);
        }
    }

    pub(in crate::endpoint) fn on_missed_due(&mut self, now: Instant, key: (BindingId, CallerKey)) {
        let Some(pending_missed) = self.calls.pending_missed.remove(&key) else { return };
        let (due, later): (Vec<_>, Vec<_>) = pending_missed.into_iter().partition(|missed| missed.told_at <= now);
        if !later.is_empty() {
            self.calls.pending_missed.insert(key, later);
        }
        self.tell_missed(now, due);
    }

    /// Another node serves this device from now on, and knows nothing of what it has missed here.
    pub(in crate::endpoint) fn tell_missed_of(&mut self, now: Instant, instance: InstanceId) {
        let Self { calls, successors, .. } = self;
        let mut theirs = Vec::new();
        #[expect(clippy::disallowed_methods, reason = "sorted before anybody sees it")]
        calls.pending_missed.retain(|_, pending_missed| {
            theirs.extend(pending_missed.extract_if(.., |missed| successors.current(missed.call.instance) == instance));
            !pending_missed.is_empty()
        });
        theirs.sort_unstable_by_key(|missed| (missed.told_at, missed.call.call));
        self.tell_missed(now, theirs);
    }

    /// The process is about to end.
    pub(super) fn tell_all_missed(&mut self, now: Instant) {
        let pending_missed = std::mem::take(&mut self.calls.pending_missed);
        #[expect(clippy::disallowed_methods, reason = "sorted before anybody sees it")]
        let mut all: Vec<Missed> = pending_missed.into_values().flatten().collect();
        all.sort_unstable_by_key(|missed| (missed.told_at, missed.call.call, missed.call.instance));
        self.tell_missed(now, all);
    }

    /// The device was wiped: nobody is left to be told.
    pub(in crate::endpoint) fn drop_missed_of(&mut self, instance: InstanceId) {
        let Self { calls, successors, .. } = self;
        #[expect(clippy::disallowed_methods, reason = "what is dropped is seen by nobody")]
        calls.pending_missed.retain(|_, pending_missed| {
            pending_missed.retain(|missed| successors.current(missed.call.instance) != instance);
            !pending_missed.is_empty()
        });
    }

    fn tell_missed(&mut self, now: Instant, all: Vec<Missed>) {
        for Missed { mut call, state, .. } in all {
            call.instance = self.successors.current(call.instance);
            match state {
                Some(state) => self.core.event(Event::Missed { call, state }),
                None => self.tell_of_refusal(now, call),
            }
        }
    }
}

/// Whether a caller's server that hears this may send the call again, with credentials, another offer, other extensions, a signed or shown identity, or more
/// digits, and without its user.
fn may_come_again(status: u16) -> bool {
    matches!(status, 401 | 407 | 413..=416 | 420..=422 | 428 | 433 | 436..=438 | 484 | 488 | 494)
}
