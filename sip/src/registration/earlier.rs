//! The Contacts of relays that had an account, or one of its devices, before: a REGISTER takes them away (RFC 3261 §10.2.2).
//!
//! Invariant: each is named until one REGISTER with it has been answered, and no longer.

use std::sync::Arc;

use super::{ContactHosts, Registration, State, Step};

/// Relays whose Contacts are to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Earlier {
    hosts: Vec<Arc<ContactHosts>>,
    /// How many of them the REGISTER has named that is under way, or was sent last.
    named: usize,
}

impl Registration {
    /// Another relay had it before, or had a device that joins it: that relay's Contact goes with the next REGISTER.
    pub fn take_from(&mut self, earlier: Option<Arc<ContactHosts>>) {
        let Some(hosts) = earlier else { return };
        self.with_rare(|rare| {
            if !rare.earlier.hosts.contains(&hosts) {
                rare.earlier.hosts.push(hosts);
            }
        });
    }

    /// Registers again at once what stands while another relay's Contact stands beside it: an INVITE would fork to both.
    pub fn replace_earlier(&mut self) -> Step {
        match self.state {
            State::Registered { .. } if self.has_earlier() => {
                self.state = State::Waiting;
                Step::WantFlow
            }
            // The next REGISTER removes that Contact, or the one after.
            _ => Step::Nothing,
        }
    }

    /// Whether another relay's Contact may stand beside its own.
    pub fn has_earlier(&self) -> bool {
        !self.earlier_hosts().is_empty()
    }

    pub(super) fn earlier_hosts(&self) -> &[Arc<ContactHosts>] {
        self.rare.as_ref().map_or(&[], |rare| &rare.earlier.hosts)
    }

    /// A REGISTER was sent that names them all.
    pub(super) fn note_named(&mut self) {
        if let Some(Earlier { hosts, named }) = self.rare.as_mut().map(|rare| &mut rare.earlier) {
            *named = hosts.len();
        }
    }

    /// The Contacts that the last REGISTER named are not named again; whether there were any.
    pub(super) fn forget_named(&mut self) -> bool {
        let had_others = self.contacts.forget_others();
        if !self.has_earlier() {
            return had_others;
        }
        let named = self.with_rare(|rare| {
            let named = std::mem::take(&mut rare.earlier.named);
            rare.earlier.hosts.drain(..named);
            named
        });
        named > 0 || had_others
    }
}
