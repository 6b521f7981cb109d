//! An INVITE that comes when the process is about to end.
//!
//! It gets 503 with Retry-After and wakes nobody, because nobody would wait for the device. If another node lives, it gets the next try; otherwise the devices
//! have missed the call.
//!
//! Invariant: devices are told once of an INVITE, however often it is repeated. The INVITE of an announced call is accepted, because its phone rings already.

use std::collections::HashSet;
use std::time::Instant;

use crate::edge::invite_mark::InviteMark;
use crate::endpoint::{Endpoint, Failover, Source};
use crate::id::{BindingId, CallId};
use crate::message::Message;

/// INVITEs of which devices are told; those of further ones are not.
const TOLD_MAX: usize = 10_000;

/// How calls are refused.
#[derive(Debug)]
pub(in crate::endpoint) struct AtEnd {
    failover: Failover,
    /// The INVITEs that devices were told of.
    told: HashSet<(InviteMark, BindingId)>,
}

impl AtEnd {
    pub(in crate::endpoint) fn new(failover: Failover) -> Self {
        Self { failover, told: HashSet::new() }
    }

    /// Whether the devices have to be told that they miss this INVITE: no other node takes it, and they were not told before.
    fn is_first_report(&mut self, invite: &Message, binding: BindingId) -> bool {
        self.failover == Failover::Nobody
            && self.told.len() < TOLD_MAX
            && self.told.insert((InviteMark::of(invite), binding))
    }
}

impl Endpoint {
    /// Whether an INVITE comes too late to be taken.
    pub(super) fn is_refused_at_end(&self, now: Instant, binding: BindingId, invite: &Message) -> bool {
        let is_expected = || self.expected_for(now, binding, self.caller_of(invite).1).is_some();
        self.calls.refused.is_some() && !is_expected()
    }

    pub(super) fn refuse_call_at_end(&mut self, now: Instant, source: &Source, invite: &Message, binding: BindingId) {
        if self.calls.refused.as_mut().is_some_and(|refused| refused.is_first_report(invite, binding)) {
            let (caller, key) = self.caller_of(invite);
            let call = CallId::new(self.core.random.wide(), binding.tag());
            self.tell_refused(now, call, &self.callees(binding), invite, &caller, key);
        }
        self.refuse_at_end(source, invite);
    }
}
