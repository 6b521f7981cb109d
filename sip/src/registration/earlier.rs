//! The Contacts of relays that had an account, or one of its devices, before: a REGISTER takes them away (RFC 3261 §10.2.2).
//!
//! A registrar may refuse a REGISTER that names another Contact beside its own, with a 4xx or with a 5xx that comes again. Then each of the others is taken
//! away alone, before the own one is registered: a registrar that counts the Contacts has room for it then.
//!
//! Invariant: each is named until one REGISTER with it has been granted, or refused with it alone, and no longer. A grant of the own Contact waits for none
//! of them.

use std::sync::Arc;

use super::{Attempt, ContactHosts, FinalResponse, Goal, Registration, State, Step};

/// Relays whose Contacts are to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Earlier {
    hosts: Vec<Arc<ContactHosts>>,
    /// How many of them the REGISTER has named that is under way, or was sent last.
    named: usize,
    /// The registrar has refused to hear of them beside another one.
    alone: bool,
}

/// Which Contacts a REGISTER names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Named {
    /// The own one, and those that are to go.
    #[default]
    All,
    /// One of those that are to go.
    Earlier,
    /// The own one.
    Own,
}

impl Registration {
    /// Other relays had it before, or had a device that joins it: their Contacts go with the next REGISTER.
    pub fn take_from(&mut self, earlier: impl IntoIterator<Item = Arc<ContactHosts>>) {
        for hosts in earlier {
            self.with_rare(|rare| {
                if !rare.earlier.hosts.contains(&hosts) {
                    rare.earlier.hosts.push(hosts);
                }
            });
        }
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

    /// What the next attempt begins with.
    pub(super) fn first_named(&self) -> Named {
        let is_alone = self.rare.as_ref().is_some_and(|rare| rare.earlier.alone);
        if is_alone && self.has_earlier() && self.goal == Goal::Registered { Named::Earlier } else { Named::All }
    }

    /// Leaves those out that `local` is as well; whether any is left.
    pub(super) fn forget_earlier_at(&mut self, is_local: impl Fn(&ContactHosts) -> bool) -> bool {
        if self.has_earlier() {
            self.with_rare(|rare| rare.earlier.hosts.retain(|hosts| !is_local(hosts)));
        }
        self.has_earlier()
    }

    /// A REGISTER was sent that names these.
    pub(super) fn note_named(&mut self, these: Named) {
        if let Some(Earlier { hosts, named, .. }) = self.rare.as_mut().map(|rare| &mut rare.earlier) {
            *named = match these {
                Named::All => hosts.len(),
                Named::Earlier => hosts.len().min(1),
                Named::Own => 0,
            };
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
            rare.earlier.alone &= !rare.earlier.hosts.is_empty();
            named
        });
        named > 0 || had_others
    }

    /// A REGISTER that names them beside the own Contact was refused: from now on each is named alone. Whether there was one to name.
    pub(super) fn name_alone(&mut self, attempt: Attempt) -> bool {
        let has_named = self.rare.as_ref().is_some_and(|rare| rare.earlier.named > 0);
        let is_refused = has_named && attempt.named == Named::All && self.goal == Goal::Registered;
        if is_refused {
            self.with_rare(|rare| rare.earlier.alone = true);
        }
        is_refused
    }

    /// The answer to a REGISTER that names one of them alone: the next one is named, or the own Contact, which waits for none that cannot be taken away.
    pub(super) fn on_earlier_answered(&mut self, attempt: Attempt, response: FinalResponse<'_>) -> Step {
        let is_gone = response.status < 300;
        if is_gone {
            self.challenges.on_success(response.message);
            self.forget_named();
        } else if response.has_retry_after() {
            return self.retry_by(response);
        }
        let named = if is_gone { self.first_named() } else { Named::Own };
        self.challenges.begin();
        self.write(Attempt { named, ..attempt }, Vec::new())
    }

    /// The own Contact is granted: those that were named alone, and that the registrar did not take away, are not named again.
    pub(super) fn forget_refused(&mut self, attempt: Attempt) {
        if attempt.named == Named::Own && self.has_earlier() {
            self.with_rare(|rare| rare.earlier = Earlier::default());
        }
    }
}
