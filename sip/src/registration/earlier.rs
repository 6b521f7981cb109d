//! The Contacts of relays that had an account, or one of its devices, before: a REGISTER takes them away (RFC 3261 §10.2.2).
//!
//! A registrar may refuse a REGISTER that names another Contact beside its own, with a 4xx or with a 5xx that comes again. Then each of the others is removed
//! alone, before the own one is registered: a registrar that counts Contacts has room for it then. After a refusal that may be one of credentials, the own
//! one comes first, alone, because a server may ban an address that shows wrong ones again and again.
//!
//! | a REGISTER for one of them alone is | follows |
//! | --- | --- |
//! | granted | the next one, or the own Contact |
//! | refused | the own Contact at once; a grant of that gives the other one up |
//! | not served (408, 5xx), after failures | the own Contact at the next try, then this one again, and so on by turns: one REGISTER a try |
//! | not served (408, 5xx), after none | the own Contact; a grant of that gives the other one up |
//! | not answered | the own Contact at the next try; a grant of that gives the other one up the second time |
//!
//! Where the own Contact is refused while another one may stand, it may be one too many: that one is named alone at the next try. So may it be when the
//! removal of that one was granted just before, by the same credentials: a registrar that knows it under another URI has removed nothing.
//!
//! Invariant: each is named until one REGISTER with it has been granted, or has failed with it alone at a registrar that serves, and no longer. The own
//! Contact waits for none of them: it is asked for after each REGISTER that names one alone and was not granted.

use std::sync::Arc;

use super::{Attempt, ContactHosts, FinalResponse, Goal, Registration, State, Step};
use crate::message::Message;

/// Relays whose Contacts are to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Earlier {
    hosts: Vec<Arc<ContactHosts>>,
    /// How many of them the REGISTER has named that is under way, or was sent last.
    named: usize,
    /// The Contacts of the next attempt's first REGISTER: [`Named::All`] until the registrar has refused several Contacts in one.
    next: Named,
    /// Whether the first of them has been named alone since the registrar served last.
    was_asked: bool,
    /// Whether the first of them is given up when the own Contact is granted.
    given_up: bool,
    /// Whether the own Contact alone was refused meanwhile.
    is_own_refused: bool,
}

impl Earlier {
    /// Forgets the first `count`, which need not be named again.
    fn forget(&mut self, count: usize) {
        self.hosts.drain(..count.min(self.hosts.len()));
        self.begin_next();
    }

    /// Starts anew: the findings about the first one say nothing of its successor.
    fn begin_next(&mut self) {
        if self.hosts.is_empty() {
            *self = Self::default();
        } else if self.next != Named::All {
            *self = Self { hosts: std::mem::take(&mut self.hosts), next: Named::Earlier, ..Self::default() };
        }
    }
}

/// Which Contacts a REGISTER names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Named {
    /// The own one, and those that are to go.
    #[default]
    All,
    /// A Contact that is to go.
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

    /// The Contacts of the next attempt's first REGISTER.
    pub(super) fn first_named(&self) -> Named {
        let next = self.rare.as_ref().map_or(Named::All, |rare| rare.earlier.next);
        if self.goal == Goal::Registered { next } else { Named::All }
    }

    /// Leaves out those that are `local` as well; whether any is left.
    pub(super) fn forget_earlier_at(&mut self, is_local: impl Fn(&ContactHosts) -> bool) -> bool {
        if self.has_earlier() {
            self.with_rare(|rare| {
                let first = rare.earlier.hosts.first().cloned();
                rare.earlier.hosts.retain(|hosts| !is_local(hosts));
                if rare.earlier.hosts.first() != first.as_ref() {
                    rare.earlier.begin_next();
                }
            });
        }
        self.has_earlier()
    }

    /// A REGISTER was sent that names these.
    pub(super) fn note_named(&mut self, these: Named) {
        let is_served = self.failures == 0;
        let Some(earlier) = self.rare.as_mut().map(|rare| &mut rare.earlier).filter(|it| !it.hosts.is_empty()) else {
            return;
        };
        match these {
            Named::All => earlier.named = earlier.hosts.len(),
            // The own Contact comes next, even if this one is not answered.
            Named::Earlier => {
                (earlier.named, earlier.next) = (1, Named::Own);
                earlier.given_up = is_served && earlier.was_asked;
                earlier.was_asked |= is_served;
            }
            Named::Own => {
                earlier.named = 0;
                earlier.next = if earlier.given_up { Named::Own } else { Named::Earlier };
            }
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
            if named > 0 {
                rare.earlier.forget(named);
            }
            named
        });
        named > 0 || had_others
    }

    /// A REGISTER that names them beside the own Contact was refused with this status: from now on each is named alone. Whether there was one to name.
    pub(super) fn name_alone(&mut self, attempt: Attempt, status: u16) -> bool {
        let may_be = self.has_named_all(attempt) && !self.may_be_of_credentials(status);
        if may_be {
            self.with_rare(|rare| rare.earlier.next = Named::Earlier);
        }
        may_be
    }

    /// The same for a refusal that may be one of credentials: the own Contact comes next. Whether there was another one to name.
    pub(super) fn name_own(&mut self, attempt: Attempt, status: u16) -> bool {
        let may_be = self.has_named_all(attempt) && self.may_be_of_credentials(status);
        if may_be {
            self.contacts.forget_others();
            self.with_rare(|rare| rare.earlier.next = Named::Own);
        }
        may_be
    }

    fn has_named_all(&self, attempt: Attempt) -> bool {
        let has_named = self.rare.as_ref().is_some_and(|rare| rare.earlier.named > 0);
        has_named && attempt.named == Named::All && self.goal == Goal::Registered
    }

    fn may_be_of_credentials(&self, status: u16) -> bool {
        matches!(status, 403 | 404 | 604) && !self.challenges.is_empty()
    }

    /// The answer to a REGISTER that names one of them alone, by the table above.
    pub(super) fn on_earlier_answered(&mut self, attempt: Attempt, response: FinalResponse<'_>) -> Step {
        let is_unserved = matches!(response.status, 408 | 429 | 430 | 480 | 500..=599) && self.failures > 0;
        let proven = response.status < 300;
        if proven {
            self.on_earlier_gone(response.message);
        } else if is_unserved || response.has_retry_after() {
            return self.retry_by(response);
        } else {
            let is_of_credentials = self.may_be_of_credentials(response.status);
            let is_own_refused = self.with_rare(|rare| {
                rare.earlier.given_up = true;
                rare.earlier.is_own_refused
            });
            if is_of_credentials && is_own_refused {
                if response.status != 403 {
                    return self.put_off(response.now, response.status, &response.terms.back_off, response.random);
                }
                return self.credentials_refused(
                    response.now,
                    response.status,
                    &response.terms.back_off,
                    response.random,
                );
            }
        }
        self.challenges.begin();
        self.write(Attempt { named: self.first_named(), proven, ..attempt }, Vec::new())
    }

    /// The own Contact alone was refused while another one may stand that was not given up: it may be one too many. The other one is named at the next try.
    /// Credentials that the registrar has never accepted are told to be wrong at once.
    pub(super) fn waits_for_another(&mut self, attempt: Attempt, status: u16) -> bool {
        let is_own = attempt.named == Named::Own && self.goal == Goal::Registered && self.has_earlier();
        let is_of_credentials = self.may_be_of_credentials(status);
        if !is_own || (is_of_credentials && !self.established) {
            return false;
        }
        self.with_rare(|rare| {
            rare.earlier.is_own_refused |= is_of_credentials;
            !rare.earlier.given_up
        })
    }

    /// The Contact that the last REGISTER named alone is removed.
    pub(super) fn on_earlier_gone(&mut self, response: &Message) {
        self.challenges.on_success(response);
        self.forget_named();
    }

    /// The own Contact is granted: the one that was named alone, and that the registrar did not take away, is not named again.
    pub(super) fn forget_refused(&mut self, attempt: Attempt) {
        if attempt.named == Named::Own && self.rare.as_ref().is_some_and(|rare| rare.earlier.given_up) {
            self.with_rare(|rare| rare.earlier.forget(1));
        }
    }
}
