//! Requests that are not lost but late: bytes on a stream wait for a phone that was suspended, or is in a tunnel; or the stream is dead, and nobody
//! has noticed.
//!
//! | 64·T1 after it, or after its CANCEL | then | its peer |
//! | --- | --- | --- |
//! | an INVITE has no response | it waits on, for Timer B is for what a network loses (RFC 3261 §17.1.1.2) | says 1xx: it goes on as if it were in time, and is cancelled if it was to be |
//! | an INVITE was cancelled, and has no final response | it waits on: the CANCEL may have gone into a dead stream | has another stream: the CANCEL goes there |
//! | a re-INVITE for a device has no response | its user says until when it waits, which is longer | likewise |
//! | another request has no response | its user is told so, and it waits on | likewise: it goes there |
//!
//! Otherwise a phone that reads its INVITE late rings for nobody: no CANCEL may be sent by its stream before a response (§9.1), and none would be after. A phone
//! that gets no BYE stays in a dead call.
//!
//! Invariant: a transaction that waits on is over [`LATE`] later, and a quarter of the table at most waits so; of a cancelled INVITE the CANCEL alone
//! is kept.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::hop_by_hop::compose_cancel;
use super::patience::Patience;
use super::table::{Client, ClientKey, Table};
use crate::id::{BranchId, InstanceId};

/// A kernel that hears nothing of the other end delivers what it was given for so long at most: Linux, with its 15 retransmissions, for
/// about 15 minutes.
pub const LATE: Duration = Duration::from_secs(15 * 60);

impl<C> Client<C> {
    /// Frees the request of an INVITE that was cancelled too early to say so, and that its peer may read late, down to the material for its CANCEL
    /// and its ACK.
    pub(super) fn shrink_if_late(&mut self) {
        if self.patience.is_spent() && self.cancel {
            self.shrink();
        }
    }

    /// Frees the request of a transaction by a stream, which is not sent again: of an INVITE the material for its CANCEL and its ACK is kept, of
    /// another request nothing.
    fn shrink(&mut self) {
        if !self.line.flow.is_reliable() {
            return;
        }
        if !self.machine.is_invite() {
            self.request = Bytes::new();
        } else if let Some(cancel) = compose_cancel(&self.request, None) {
            self.request = cancel;
        }
    }
}

impl<C: Copy, S: Copy> Table<C, S> {
    /// A request that was just sent to or for a device, by a stream, may be heard late.
    pub fn expect_late(&mut self, branch: BranchId, device: InstanceId) {
        let client = self.clients.get_mut(&ClientKey { branch, cancel: false });
        if let Some(client) = client.filter(|client| client.line.flow.is_reliable()) {
            client.patience = Patience::For(device);
        }
    }

    /// An INVITE that was just sent to a device by a stream is given up at this moment and not by Timer B, unless it is answered before: the
    /// stream may be dead, and the device come back by another one.
    pub fn give_up_at(&mut self, branch: BranchId, until: Instant) {
        let key = ClientKey { branch, cancel: false };
        let client = self.clients.get_mut(&key).filter(|client| client.line.flow.is_reliable());
        if client.is_some_and(|client| client.machine.is_invite() && client.machine.wait_until(until)) {
            self.arm_client(key);
        }
    }

    /// Whether a client transaction is that of an INVITE.
    pub fn is_invite(&self, branch: BranchId) -> bool {
        self.clients.get(&ClientKey { branch, cancel: false }).is_some_and(|client| client.machine.is_invite())
    }

    /// A request goes to its device by no other stream any more.
    pub fn forget_sent(&mut self, branch: BranchId) {
        if let Some(client) = self.clients.get_mut(&ClientKey { branch, cancel: false }) {
            client.shrink();
        }
    }

    /// Ends the longer waits of requests that are sent to a device or for it, and forgets those that have waited beyond their time: they name its
    /// account. Of an INVITE that is not forgotten, only the material for its CANCEL is kept. All client transactions are looked through.
    pub(super) fn forget_late(&mut self, device: InstanceId) {
        let late = &mut self.late;
        #[expect(clippy::disallowed_methods, reason = "each is judged by itself")]
        self.clients.retain(|_, client| {
            if !client.patience.is_for(device) {
                return true;
            }
            let was_late = client.patience.is_spent();
            *late -= usize::from(was_late);
            client.patience = Patience::None;
            if client.machine.is_invite() {
                client.shrink();
            }
            !was_late
        });
    }

    /// Whether a client transaction waits beyond its time, or will.
    pub fn is_patient(&self, branch: BranchId) -> bool {
        let client = self.clients.get(&ClientKey { branch, cancel: false });
        client.is_some_and(|client| client.patience != Patience::None)
    }

    /// The time of a client transaction is over; whether it waits on.
    pub(super) fn waits_on(&mut self, now: Instant, key: ClientKey) -> bool {
        let has_room = self.late < self.capacity / 4;
        let Some(client) = self.clients.get_mut(&key).filter(|_| has_room) else { return false };
        let Patience::For(device) = client.patience else { return false };
        if !client.machine.wait_until(now + LATE) {
            return false;
        }
        client.patience = Patience::Spent(device);
        client.shrink_if_late();
        self.late += 1;
        true
    }
}
