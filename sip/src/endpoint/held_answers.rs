//! The 200 to a REGISTER that makes a new registration, or has our Path in place of another node's, waits until that is stored where other nodes find it.
//! After the answer, the phone sleeps, and its SIP server knows only our Path. If this node died with nothing stored, no other node would push the phone to
//! register again.
//!
//! | the 200 goes | |
//! | --- | --- |
//! | at once | to a refresh of a registration that was made here, to a device that a call waits for, and if the shell has nothing to wait for |
//! | when the shell says that the registration is stored, or cannot be at present | [`Input::PushBindingKept`](super::Input::PushBindingKept) |
//! | before the first request that came by its Path, which may go by the same flow | |
//! | [`HELD_MAX`] after it came, at the latest | |
//!
//! Invariant: a registration has at most one waiting answer, and no answer waits without a deadline.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::register_table::ForwardedRegister;
use super::{Endpoint, Timer};
use crate::edge::push_proxy::Reach;
use crate::id::InstanceId;
use crate::message::Message;
use crate::transaction::ServerId;

/// How long an answer waits at the most.
pub const HELD_MAX: Duration = Duration::from_secs(1);

/// The answers that wait.
#[derive(Debug, Default)]
pub(super) struct HeldAnswers(BTreeMap<InstanceId, Held>);

#[derive(Debug)]
struct Held {
    server: ServerId,
    status: u16,
    response: Bytes,
    until: Instant,
}

impl HeldAnswers {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the timer of an answer for this moment counts.
    pub(super) fn is_armed(&self, instance: InstanceId, at: Instant) -> bool {
        self.0.get(&instance).is_some_and(|held| held.until == at)
    }
}

impl Endpoint {
    /// Gives a device the answer of its SIP server, or has it wait.
    pub(super) fn answer_or_hold(
        &mut self,
        now: Instant,
        register: &ForwardedRegister,
        status: u16,
        (answer, response): (&Message, Bytes),
    ) {
        let server = register.server;
        let Some(instance) = self.waits_to_be_kept(register, status, answer) else {
            self.core.transactions.respond(now, server, status, response);
            return self.core.flush();
        };
        let until = now + HELD_MAX;
        self.core.timers.set(until, Timer::HeldAnswer(instance));
        self.held.0.insert(instance, Held { server, status, response, until });
    }

    /// The registration that is to be kept before its device has this answer.
    fn waits_to_be_kept(&self, register: &ForwardedRegister, status: u16, answer: &Message) -> Option<InstanceId> {
        let (instance, reach) = register.registration()?;
        let is_new = (200..300).contains(&status) && !register.is_overtaken;
        let keeps = is_new && register.route.as_ref().is_some_and(|route| route.kept_first);
        let may_wait = || !self.push_bindings.was_made_here(instance) && !self.held.0.contains_key(&instance);
        (keeps && reach == Reach::Pushed && !register.intent.granted(answer).is_zero() && may_wait())
            .then_some(instance)
    }

    /// Sends the answer that waits for a registration to be kept.
    pub(super) fn answer_held(&mut self, now: Instant, instance: InstanceId) {
        let Some(Held { server, status, response, .. }) = self.held.0.remove(&instance) else { return };
        self.core.transactions.respond(now, server, status, response);
        self.core.flush();
    }

    /// The process ends: no answer waits any longer.
    pub(super) fn answer_all_held(&mut self, now: Instant) {
        for instance in self.held.0.keys().copied().collect::<Vec<_>>() {
            self.answer_held(now, instance);
        }
    }

    /// An answer may have waited long enough.
    pub(super) fn on_held_answer_due(&mut self, now: Instant, instance: InstanceId) {
        if self.held.0.get(&instance).is_some_and(|held| held.until <= now) {
            self.answer_held(now, instance);
        }
    }
}
