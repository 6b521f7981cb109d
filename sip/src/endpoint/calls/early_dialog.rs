//! The early dialog that the relay's own provisional responses establish while a call waits for its devices (RFC 3261 §12.1.1).
//!
//! | a request in this dialog | answer |
//! | --- | --- |
//! | BYE (RFC 3261 §15, §15.1.2) | 200; the call ends as by a CANCEL: its INVITE is answered 487, and its devices stop ringing |
//! | any other | 481, as without the dialog: it has no meaning before a device has answered |
//!
//! A device that has sent a 180 has an early dialog with the caller, too. If the device has forgotten its INVITE, the relay ends that dialog by a BYE.
//!
//! Invariant: a caller that has hung up leaves no device ringing, whether it sends CANCEL or BYE.

use std::time::Instant;

use crate::edge::call::Invite;
use crate::endpoint::core::ClientOwner;
use crate::endpoint::{CallState, Endpoint, Side, Source};
use crate::id::{BindingId, CallId};
use crate::message::{Composer, Message, Method};
use crate::transaction::{Asked, Reply};

impl Endpoint {
    /// Ends the call in whose early dialog a BYE has come; whether there is one.
    pub(in crate::endpoint) fn hang_up_early(
        &mut self,
        now: Instant,
        reply: Reply<'_>,
        bye: &Message,
        binding: BindingId,
    ) -> bool {
        let Some(call) = self.early_call_of(bye, binding) else { return false };
        let response = Composer::response(bye, 200, Composer::reason(200), None).finish();
        self.respond_once(now, reply, bye, 200, response);
        self.give_up_call(now, call, CallState::Cancelled, None);
        true
    }

    /// A device does not know what it is to cancel: its stack may have forgotten the INVITE with its earlier connection, and ring on.
    pub(in crate::endpoint) fn hang_up_forgotten(
        &mut self,
        now: Instant,
        source: &Source,
        cancel: &Asked<ClientOwner>,
    ) {
        if source.side != Side::Device || !matches!(cancel.owner, ClientOwner::Leg(_)) {
            return;
        }
        let branch = self.core.branch();
        if let Some(bye) = self.core.transactions.early_bye(cancel, branch) {
            // Full: the device's own time to ring ends it.
            let _ = self.core.transactions.send(now, branch, Method::Bye, bye, source.flow, ClientOwner::Nobody);
        }
    }

    /// The call of a binding that waits, and whose caller sends a request in the relay's own early dialog.
    fn early_call_of(&self, request: &Message, binding: BindingId) -> Option<CallId> {
        let mut callees = self.all_instances(binding);
        callees.extend(self.push_bindings.instance_of(binding));
        let mut waiting = callees.into_iter().flat_map(|instance| self.calls.waiting_for(instance));
        waiting.find(|call| {
            let row = self.calls.get(*call).filter(|row| row.binding() == binding);
            row.and_then(|row| row.invite()).is_some_and(|invite| is_in_dialog_of(request, invite))
        })
    }

    /// The To tag of the relay's own responses to the INVITE of a call that waits.
    pub(in crate::endpoint) fn own_tag_of(&self, call: CallId) -> Option<String> {
        Some(self.calls.get(call)?.invite()?.tag.clone())
    }
}

/// Whether a caller's request is in the dialog of the relay's own responses to this INVITE (RFC 3261 §12).
fn is_in_dialog_of(request: &Message, Invite { message, tag, .. }: &Invite) -> bool {
    let (from, to) = (request.from(), request.to());
    to.as_ref().and_then(|to| to.tag()) == Some(tag)
        && request.call_id() == message.call_id()
        && from.as_ref().and_then(|from| from.tag()) == message.from().as_ref().and_then(|from| from.tag())
}
