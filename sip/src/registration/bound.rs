//! The Contacts of a binding that a registrar may have, as far as its answers tell.
//!
//! | what happens | what may stand from then on |
//! | --- | --- |
//! | a REGISTER for the Contact is sent | the Contact |
//! | it is granted | the Contact, until the grant ends |
//! | it is answered 3xx, 4xx but 408, or 6xx | what stood before: a registrar takes a request whole or not at all (RFC 3261 §10.3) |
//! | any other answer, or none | the Contact: the answer may be a proxy's, and the registrar may have taken it |
//! | a 2xx to an unregistration lists the Contact with time left | the Contact, until that ends |
//! | another 2xx to one | nothing |
//!
//! Invariant: nothing may stand only when the registrar said so, when nothing was ever asked for, or when all that was granted has ended.

use std::time::{Duration, Instant};

use super::earlier::Earlier;
use super::{Goal, Registration, State};

/// The state of a binding at its SIP server, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bound {
    granted_until: Option<Instant>,
    /// Whether a REGISTER may have been accepted whose answer does not say so.
    unsure: bool,
    /// The same before the last REGISTER.
    was_unsure: bool,
}

impl Bound {
    /// An earlier run, or another relay, has registered it.
    pub(super) fn earlier() -> Self {
        Self { unsure: true, ..Self::default() }
    }

    pub(super) fn may_stand(&self) -> bool {
        self.unsure || self.granted_until.is_some()
    }

    /// Until when the Contact stands by what was granted last.
    pub(super) fn granted_until(&self) -> Option<Instant> {
        self.granted_until
    }

    /// Forgets a grant that has ended.
    pub(super) fn look(&mut self, now: Instant) {
        self.granted_until = self.granted_until.filter(|until| *until > now);
    }

    /// A REGISTER was sent; `registers`: not to unregister.
    pub(super) fn on_sent(&mut self, registers: bool) {
        self.was_unsure = self.unsure;
        self.unsure |= registers;
    }

    /// The REGISTER was answered with this status, which is no 2xx.
    pub(super) fn on_refusal(&mut self, status: u16) {
        if matches!(status, 300..=407 | 409..=499 | 600..) {
            self.unsure = self.was_unsure;
        }
    }

    /// A 2xx says that the Contact stands for so long.
    pub(super) fn on_listed(&mut self, now: Instant, left: Duration) {
        *self = Self { granted_until: (!left.is_zero()).then(|| now + left), ..Self::default() };
    }
}

impl Registration {
    /// The lifetime that was granted last in this run, 18 hours at most.
    pub fn granted(&self) -> Option<Duration> {
        (self.granted_s != 0).then(|| Duration::from_secs(self.granted_s.into()))
    }

    /// Whether its first REGISTER from here is due or under way, and removes the Contacts of relays that had it before.
    pub fn is_taking_over(&self) -> bool {
        let is_under_way = matches!(self.state, State::Waiting | State::Asking(_) | State::Sent { .. });
        let is_first = self.granted_s == 0 && self.failures == 0;
        self.has_earlier() && self.goal == Goal::Registered && is_first && is_under_way
    }

    /// Another relay has one of its devices by now, and removes the Contacts of others. It may be one of the earlier relays, so only the own Contact is named
    /// from here from now on; without a grant in this run there is none.
    pub(crate) fn leave_to_another(&mut self) {
        if self.has_earlier() {
            self.with_rare(|rare| rare.earlier = Earlier::default());
        }
        if self.granted_s == 0 {
            self.bound = Bound::default();
        }
    }

    /// When the SIP server said that it has no Contact of it any more; `None` where it may have one.
    pub fn unregistered_at(&self) -> Option<Instant> {
        match self.state {
            State::Unregistered { at } => at,
            _ => None,
        }
    }
}
