//! INVITEs that have overtaken the 200 to the first REGISTER of their binding, as datagrams may, or messages of two processes of a SIP server. Each waits, with
//! a 100, until that REGISTER has ended.
//!
//! | meanwhile | the caller's server hears |
//! | --- | --- |
//! | the REGISTER is granted | the outcome of the call, which is taken then |
//! | the REGISTER is refused, is unanswered for 64·T1, or the account is gone | 480 |
//! | the INVITE is cancelled, or its Expires ends | 487, and nobody was woken |
//!
//! Invariant: at most [`OVERTAKING_MAX`] wait, [`CALLS_PER_INSTANCE`](super::CALLS_PER_INSTANCE) of them for one binding; none longer than its REGISTER is
//! under way, or than 64·T1. One SIP server has no more waiting INVITEs than there are free places, so that a server which answers no REGISTER leaves room for
//! those of others. The waiting INVITEs are examined when a registration has changed, and not with each message.

use std::time::{Duration, Instant};

use super::is_room;
use crate::bucket::counted_as;
use crate::edge::call::invite::valid_until;
use crate::edge::caller_key::CallerKey;
use crate::endpoint::core::{ServerOwner, Timer};
use crate::endpoint::{Endpoint, Event, Source};
use crate::id::{BindingId, BranchId, CallId, InstanceId};
use crate::message::{Composer, Message};
use crate::timers::bring_forward;
use crate::transaction::{Reply, ServerId};

/// INVITEs that may wait so in one endpoint, a half of them from one address; a further one is answered 480, and one more than
/// [`CALLS_PER_INSTANCE`](super::CALLS_PER_INSTANCE) for a binding 486.
pub const OVERTAKING_MAX: usize = 256;

/// An INVITE that waits for its binding's first REGISTER.
#[derive(Debug)]
pub(super) struct Overtaking {
    binding: BindingId,
    /// The branch of the INVITE.
    key: BranchId,
    server: ServerId,
    source: Source,
    /// The key by which the caller is counted: read once, because its address may be as long as a message.
    counted_by: CallerKey,
    until: Instant,
    /// When its Expires ends.
    valid_until: Option<Instant>,
    invite: Box<Message>,
}

impl Endpoint {
    /// Whether an INVITE for a binding has overtaken the 200 to its first REGISTER, when these may be called.
    pub(super) fn has_overtaken(&self, binding: BindingId, callees: &[InstanceId]) -> bool {
        callees.is_empty() && self.bindings.get(binding).is_some_and(|registration| registration.may_be_granted())
    }

    pub(super) fn defer_overtaking(
        &mut self,
        now: Instant,
        source: Source,
        reply: Reply<'_>,
        invite: Message,
        binding: BindingId,
    ) {
        let (caller, counted_by) = self.caller_of(&invite);
        if let Some(status) = self.overtakes_too_many(binding, &source, counted_by) {
            let call = CallId::new(self.core.random.wide(), binding.tag());
            self.tell_refused(now, call, &self.all_instances(binding), &invite, &caller, counted_by);
            return self.refuse_call(now, reply, &invite, status);
        }
        let key = self.core.branch();
        let Ok(server) = self.core.transactions.open(&invite, reply, ServerOwner::Overtaking(binding, key)) else {
            return self.busy(reply, &invite);
        };
        self.answer_trying(now, server, &invite);
        let (valid_until, longest) = (valid_until(now, &invite), now + self.core.settings.timing.transaction.t1_64());
        let until = valid_until.map_or(longest, |at| at.min(longest));
        self.core.timers.set(until, Timer::Overtaking);
        let invite = Box::new(invite);
        self.calls.overtaking.push(Overtaking { binding, key, server, source, counted_by, until, valid_until, invite });
    }

    /// The status that refuses one more.
    fn overtakes_too_many(&self, binding: BindingId, source: &Source, caller: CallerKey) -> Option<u16> {
        let server = counted_as(source.peer.ip());
        let of_server = self.calls.overtaking.iter().filter(|it| counted_as(it.source.peer.ip()) == server).count();
        let waiting = self.calls.overtaking.iter().filter(|it| it.binding == binding);
        let of_caller = waiting.clone().filter(|it| it.counted_by == caller).count();
        match () {
            () if !is_room(waiting.count(), of_caller) => Some(486),
            () if self.calls.overtaking.len() + of_server >= OVERTAKING_MAX => Some(480),
            () => None,
        }
    }

    /// Takes those whose REGISTER has ended, in the order in which they came.
    pub(in crate::endpoint) fn judge_overtaking(&mut self, now: Instant) {
        if !std::mem::take(&mut self.calls.registration_changed) || self.calls.overtaking.is_empty() {
            return;
        }
        for waiting in std::mem::take(&mut self.calls.overtaking) {
            let callees = self.callees(waiting.binding);
            if now < waiting.until && self.has_overtaken(waiting.binding, &callees) {
                self.calls.overtaking.push(waiting);
                continue;
            }
            let Overtaking { binding, server, source, valid_until, invite, .. } = waiting;
            if valid_until.is_some_and(|until| until <= now) {
                self.refuse_overtaking(now, server, &invite, 487);
                continue;
            }
            match self.admit(now, &invite, binding, callees) {
                Ok(mut admitted) => {
                    admitted.valid_until = valid_until;
                    self.core.transactions.adopt(server, ServerOwner::Call(admitted.call));
                    self.take_call(now, source, server, *invite, binding, admitted);
                }
                Err(status) => self.refuse_overtaking(now, server, &invite, status),
            }
        }
    }

    /// Callers have waited for so much longer than deadlines have counted.
    pub(super) fn overtaking_lose_time(&mut self, now: Instant, lost: Duration) {
        for waiting in &mut self.calls.overtaking {
            bring_forward(&mut waiting.until, now, lost);
            if let Some(until) = &mut waiting.valid_until {
                bring_forward(until, now, lost);
            }
            self.core.timers.set(waiting.until, Timer::Overtaking);
        }
    }

    /// The To tag with which one that waits is refused.
    pub(in crate::endpoint) fn tag_of_overtaking(&self, key: BranchId) -> Option<String> {
        let waiting = self.calls.overtaking.iter().find(|it| it.key == key)?;
        Some(self.stateless_tag(&waiting.invite))
    }

    /// A CANCEL of one that waits: nobody has seen it but us.
    pub(in crate::endpoint) fn cancel_overtaking(&mut self, now: Instant, key: BranchId) {
        let Some(at) = self.calls.overtaking.iter().position(|it| it.key == key) else { return };
        let Overtaking { server, invite, .. } = self.calls.overtaking.remove(at);
        self.refuse_overtaking(now, server, &invite, 487);
    }

    /// Refuses all, when the process is about to end.
    pub(super) fn end_overtaking(&mut self, now: Instant, status: u16) {
        for Overtaking { server, invite, .. } in std::mem::take(&mut self.calls.overtaking) {
            self.refuse_overtaking(now, server, &invite, status);
        }
    }

    fn refuse_overtaking(&mut self, now: Instant, server: ServerId, invite: &Message, status: u16) {
        let tag = self.stateless_tag(invite);
        let response = Composer::response(invite, status, Composer::reason(status), Some(&tag)).finish();
        self.core.transactions.respond(now, server, status, response);
        self.core.event(Event::InviteRefused { status });
    }
}
