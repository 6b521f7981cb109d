//! The CANCEL of an INVITE (RFC 3261 §9.1).
//!
//! | of the INVITE | its peer has | the CANCEL goes |
//! | --- | --- | --- |
//! | a provisional response was heard | any flow | at once |
//! | nothing was heard | the flow that the INVITE went by | with the first provisional response |
//! | nothing was heard, and it is over for its peer | another flow, by now or later | by that flow, as soon as there is one |
//!
//! A CANCEL waits for a response so that it does not overtake its INVITE. By another stream no INVITE comes that it could overtake, and no response either
//! that the peer has sent by the earlier one: a phone whose 180 was lost so would ring without a caller. The INVITE itself does not go there, because
//! some stacks crash on its retransmission by another connection, and a phone that has started again would ring by it.
//!
//! A stack may forget the transactions of a connection that has ended, and let its session ring on (JsSIP): it says 481 to each CANCEL. Where the call is over for it,
//! and it had made an early dialog, the BYE of that ends the session (§15); one that has no such dialog says 481 once more.
//!
//! Invariant: a CANCEL is not sent twice by one flow while it waits for its answer, but by its own retransmission.

use std::time::Instant;

use bytes::Bytes;

use super::hop_by_hop::{compose_cancel, compose_early_bye};
use super::io::Transmit;
use super::large::Carrier;
use super::machine::ClientMachine;
use super::table::{Asked, Client, ClientKey, Table};
use crate::id::{BranchId, FlowId};
use crate::message::Method;

impl<C> Client<C> {
    /// Whether this is an INVITE that is over for its peer, and nothing was heard of it.
    pub(super) fn is_over_unheard(&self) -> bool {
        self.cancel && self.cancel_by_next && self.machine.is_pending() && !self.machine.is_proceeding()
    }

    /// Whether it is by another flow than the one that it went by first.
    pub(super) fn has_moved(&self) -> bool {
        self.begun_on.as_deref().is_some_and(|begun_on| *begun_on != self.line.flow)
    }
}

impl<C: Copy, S: Copy> Table<C, S> {
    /// Cancels an INVITE: at once, or when a provisional response allows it (RFC 3261 §9.1). A request of another method
    /// is left alone. `reason`: the value of its Reason header (RFC 3326), if it has one. Whether a CANCEL goes now.
    pub fn cancel(&mut self, now: Instant, branch: BranchId, reason: Option<&str>) -> bool {
        self.begin_cancel(branch, reason) && self.cancel_if_heard(now, branch)
    }

    /// Cancels an INVITE that is over for its peer, as [`Self::cancel`] does. Where nothing was heard of it and the peer has another flow than the one
    /// that it went by, now or later, the CANCEL goes by that at once: the INVITE does not come by that flow, so no CANCEL overtakes it, and the response
    /// that allows one may be lost with the earlier flow. A peer that does not have the INVITE answers 481 (RFC 3261 §9.2).
    /// Whether a CANCEL goes now of which a response tells that the peer has the INVITE.
    pub fn cancel_by_any(&mut self, now: Instant, branch: BranchId, reason: Option<&str>) -> bool {
        if !self.begin_cancel(branch, reason) {
            return false;
        }
        let Some(client) = self.clients.get_mut(&ClientKey { branch, cancel: false }) else { return false };
        client.cancel_by_next = client.machine.is_invite();
        let has_moved = client.has_moved() && client.is_over_unheard();
        if has_moved {
            self.send_cancel(now, branch);
        }
        self.cancel_if_heard(now, branch)
    }

    /// Notes that an INVITE is to be cancelled; whether that is new.
    fn begin_cancel(&mut self, branch: BranchId, reason: Option<&str>) -> bool {
        let Some(client) = self.clients.get_mut(&ClientKey { branch, cancel: false }) else { return false };
        let first = !std::mem::replace(&mut client.cancel, true);
        if first {
            client.reason = reason.map(Into::into);
            client.shrink_if_late();
        }
        first
    }

    fn cancel_if_heard(&mut self, now: Instant, branch: BranchId) -> bool {
        let client = self.clients.get(&ClientKey { branch, cancel: false });
        let goes = client.is_some_and(|client| client.machine.may_cancel());
        if goes {
            self.send_cancel(now, branch);
        }
        goes
    }

    /// Whether a client transaction that waits for its final response was sent a CANCEL, or is sent one by the next flow of its peer.
    pub fn has_cancelled(&self, branch: BranchId) -> bool {
        let client = self.clients.get(&ClientKey { branch, cancel: false });
        client.is_some_and(|client| client.cancel && client.machine.may_cancel() || client.is_over_unheard())
    }

    /// The BYE that ends the early dialog of an INVITE which is over for its peer, and whose peer has come by another flow and does not know it there.
    pub fn early_bye(&self, cancel: &Asked<C>, bye: BranchId) -> Option<Bytes> {
        let client = self.clients.get(&ClientKey { branch: cancel.key.branch, cancel: false })?;
        let is_lost = client.cancel_by_next && client.has_moved() && client.machine.is_pending();
        let tag = client.early_tag.as_deref().filter(|_| is_lost && cancel.key.cancel)?;
        compose_early_bye(&client.request, tag, bye)
    }

    /// The peer of a CANCEL does not know its INVITE: none goes to it by a further flow.
    pub(super) fn cancel_no_more(&mut self, branch: BranchId) {
        if let Some(client) = self.clients.get_mut(&ClientKey { branch, cancel: false }).filter(|it| it.has_moved()) {
            client.is_unknown = true;
        }
    }

    /// The CANCEL of an INVITE, which was just sent, goes by this flow as well, unless that is the one that it went by.
    pub fn cancel_beside(&mut self, branch: BranchId, flow: FlowId) {
        let cancel = self.clients.get(&ClientKey { branch, cancel: true });
        if let Some(cancel) = cancel.filter(|cancel| cancel.line.flow != flow) {
            self.transmits.push_back(Transmit::again(flow, cancel.request.clone()));
        }
    }

    pub(super) fn send_cancel(&mut self, now: Instant, branch: BranchId) {
        let key = ClientKey { branch, cancel: false };
        let Some(client) = self.clients.get_mut(&key) else { return };
        let (mut line, owner) = (client.line, client.owner);
        if let ClientMachine::Invite(machine) = &mut client.machine {
            machine.on_cancelled(now, &self.timing);
        }
        let cancel = compose_cancel(&client.request, client.reason.as_deref());
        self.arm_client(key);
        let Some(cancel) = cancel else { return };
        let under_way = self.clients.get(&ClientKey { branch, cancel: true });
        if under_way.is_some_and(|it| it.machine.is_pending() && it.line.flow == line.flow) {
            return;
        }
        if line.is_beside() {
            line.way = Carrier::Stream;
        }
        // A full table keeps the CANCEL from being sent; the INVITE then ends by its own deadline.
        let _ = self.start(now, branch, Method::Cancel, cancel, line, owner);
    }
}
