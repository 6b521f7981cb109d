//! Answers to a REGISTER that come after it was given up (RFC 3261 §17.1.2.2: Timer F).
//!
//! A server that is too slow still works off requests that nobody waits for any more. Its answer is as good as one in time: a 2xx says that the registrar has
//! the Contact, and a challenge can be answered with its nonce.
//!
//! | a late answer | consequence |
//! | --- | --- |
//! | 2xx, to one that is wanted and waits for another try | the registration is valid |
//! | likewise, and another flow is in use by now, or none | the registration is valid by the flow of the REGISTER, and moves to the one in use in its turn |
//! | 401 or 407, to one that waits for another try, and the flow in use leads to where the REGISTER went | it is answered |
//! | likewise, and another address is in use by now | none: that address does not know the nonce, and might refuse correct credentials; it sends a challenge of its own |
//! | any final one, to one that the unregistration at its end has overtaken | one more unregistration, if the registrar may have the Contact: see [`crossed`](crate::registration::crossed) |
//! | any other, one later than [`LATE_MAX`](crate::registration::late::LATE_MAX), or while another device's credentials are in use | none |
//!
//! Invariant: a late answer is believed by its branch, from its own SIP server alone, and once. It counts for the device whose credentials were in use, and for
//! no other that has replaced them.

use std::time::Instant;

use super::bindings::RegisterAnswer;
use super::upstreams::Timeliness;
use super::{Endpoint, Source};
use crate::flow::Side;
use crate::id::{BindingId, BranchId};
use crate::message::{Message, Method};

impl Endpoint {
    /// A response to nothing that is under way.
    pub(super) fn on_late_response(&mut self, now: Instant, source: &Source, response: &Message) {
        let Some(status) = response.status().filter(|status| *status >= 200) else { return };
        if source.side != Side::Upstream || response.vias() > 1 {
            return;
        }
        let is_register = response.cseq().is_some_and(|(_, method)| method == Method::Register.as_str());
        let branch = response.via().and_then(|via| via.branch().and_then(BranchId::parse));
        // Its Call-ID begins with the binding.
        let named = response.call_id().and_then(|call_id| BindingId::parse(call_id.split('.').next()?));
        let Some((branch, binding)) = branch.zip(named).filter(|_| is_register) else { return };
        if !self.is_trusted(binding, source) {
            return;
        }
        let Some(registration) = self.bindings.get_mut(binding) else { return };
        if registration.has_overtaken(branch) {
            let step = registration.on_overtaken(status);
            return self.carry_out(now, binding, step);
        }
        if !matches!(status, 200..=299 | 401 | 407) {
            return;
        }
        let Some(by) = registration.given_up_by(now, branch) else { return };
        if status >= 300 && !self.upstreams.leads_to_where(registration.upstream, by) {
            return;
        }
        if registration.take_up_late(now, branch, status) {
            let answer = RegisterAnswer { branch, by, timeliness: Timeliness::Late, response };
            self.on_register_response(now, binding, &answer);
        }
    }
}
