//! The calls that a shard has told a device of, so that a device that wakes late can ask how they stand.
//!
//! Invariant: a call is known until [`KEPT`] after its deadline, and never more than [`CALLS`] at once: at the limit the
//! oldest is forgotten. Nothing here tells who called.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use sip::endpoint::CallState;
use sip::id::{CallId, InstanceId};

use crate::vault::record::Provider;

/// How long a call's state can be asked after its deadline.
const KEPT: Duration = Duration::from_secs(60);
/// Calls known to one shard.
const CALLS: usize = 50_000;

/// What is known of one call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Whom it is for.
    pub instance: InstanceId,
    /// How it stands.
    pub state: CallState,
    /// When the relay gives up waiting, in seconds since 1970.
    pub deadline: u64,
    /// The service that was asked to wake the device, if one was.
    pub pushed: Option<Provider>,
    /// It waits for its device, and counts in the metric of held calls.
    pub held: bool,
    /// Its INVITE has come; `false` while it is only announced.
    pub invited: bool,
    /// The push could not be delivered.
    pub unreachable: bool,
    /// The device has shown since it was pushed that it lives: it came, rang, declined or asked how the call stands.
    pub sign: bool,
}

/// The calls of one shard.
#[derive(Default)]
pub(super) struct Calls {
    known: HashMap<CallId, Call>,
    /// Roughly by age, each with the moment (seconds since 1970) to look whether to forget it.
    order: VecDeque<(u64, CallId)>,
}

impl Calls {
    /// Remembers a call, or what is new of one that is known.
    pub(super) fn remember(&mut self, id: CallId, call: Call) {
        if self.known.insert(id, call).is_none() {
            self.order.push_back((call.deadline.saturating_add(KEPT.as_secs()), id));
        }
        if self.order.len() > CALLS
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// What is known of a call.
    pub(super) fn get_mut(&mut self, id: CallId) -> Option<&mut Call> {
        self.known.get_mut(&id)
    }

    /// A call of this instance.
    pub(super) fn of(&self, instance: InstanceId, id: CallId) -> Option<&Call> {
        self.known.get(&id).filter(|call| call.instance == instance)
    }

    /// All calls of this instance, by id.
    pub(super) fn all_of(&self, instance: InstanceId) -> Vec<(CallId, Call)> {
        let theirs = self.known.iter().filter(|(_, call)| call.instance == instance);
        let mut theirs: Vec<_> = theirs.map(|(id, call)| (*id, *call)).collect();
        theirs.sort_by_key(|(id, _)| *id);
        theirs
    }

    /// Forgets what is over, at `now` in seconds since 1970.
    pub(super) fn forget_old(&mut self, now: u64) {
        while let Some(&(until, id)) = self.order.front()
            && until <= now
        {
            self.order.pop_front();
            // A device came, and rings: then the deadline has moved.
            let moved = self.known.get(&id).map(|call| call.deadline.saturating_add(KEPT.as_secs()));
            match moved.filter(|until| *until > now) {
                Some(until) => self.order.push_back((until, id)),
                None => drop(self.known.remove(&id)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    fn call(instance: InstanceId, deadline: u64) -> Call {
        Call {
            instance,
            state: CallState::Waking,
            deadline,
            pushed: None,
            held: true,
            invited: true,
            unreachable: false,
            sign: false,
        }
    }

    #[test]
    fn a_call_can_be_asked_until_a_minute_after_its_deadline_and_by_its_own_instance() {
        let (mine, other) = (InstanceId::new(1 << 16, ShardTag(0)), InstanceId::new(2 << 16, ShardTag(0)));
        let id = CallId::new(3 << 16, ShardTag(0));
        let mut calls = Calls::default();
        calls.remember(id, call(mine, 1_000));
        calls.forget_old(1_059);
        assert!(calls.of(mine, id).is_some() && calls.of(other, id).is_none());
        calls.forget_old(1_060);
        assert!(calls.of(mine, id).is_none());
    }

    #[test]
    fn the_number_of_calls_known_is_bounded() {
        let instance = InstanceId::new(1 << 16, ShardTag(0));
        let mut calls = Calls::default();
        for number in 0..CALLS as u128 + 10 {
            calls.remember(CallId::new(number << 16, ShardTag(0)), call(instance, 1_000));
        }
        assert_eq!(calls.known.len(), CALLS);
        assert!(calls.of(instance, CallId::new(0, ShardTag(0))).is_none(), "the oldest went first");
    }
}
