//! The machine of a transaction, of either method (RFC 3261 §17.1, §17.2).
//!
//! Invariant: whatever both kinds of machine do has one method here, so that the table never asks which kind it holds.

use std::time::Instant;

use super::client::{InviteClient, OtherClient, Verdict};
use super::server::{InviteServer, OtherServer};
use super::{Due, Timing};

#[derive(Debug)]
pub(super) enum ClientMachine {
    Invite(InviteClient),
    Other(OtherClient),
}

#[derive(Debug)]
pub(super) enum ServerMachine {
    Invite(InviteServer),
    Other(OtherServer),
}

impl ClientMachine {
    pub(super) fn on_response(&mut self, now: Instant, status: u16, timing: &Timing) -> Verdict {
        match self {
            Self::Invite(machine) => machine.on_response(now, status, timing),
            Self::Other(machine) => machine.on_response(now, status, timing),
        }
    }

    pub(super) fn is_invite(&self) -> bool {
        matches!(self, Self::Invite(_))
    }

    pub(super) fn may_cancel(&self) -> bool {
        matches!(self, Self::Invite(machine) if machine.may_cancel())
    }

    pub(super) fn is_pending(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.is_pending(),
            Self::Other(machine) => machine.is_pending(),
        }
    }

    /// Whether a provisional response has come, and no final one.
    pub(super) fn is_proceeding(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.may_cancel(),
            Self::Other(machine) => machine.is_proceeding(),
        }
    }

    /// Waits until this moment; whether there is anything to wait for.
    pub(super) fn wait_until(&mut self, until: Instant) -> bool {
        match self {
            Self::Invite(machine) => machine.wait_until(until),
            Self::Other(machine) => machine.wait_until(until),
        }
    }

    /// Moves a request by a stream that got no response to datagrams.
    pub(super) fn leave_stream(&mut self, now: Instant, timing: &Timing) {
        match self {
            Self::Invite(machine) => machine.leave_stream(now, timing),
            Self::Other(machine) => machine.leave_stream(now, timing),
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Invite(machine) => machine.deadline(),
            Self::Other(machine) => machine.deadline(),
        }
    }

    pub(super) fn on_deadline(&mut self, now: Instant, timing: &Timing) -> Due {
        match self {
            Self::Invite(machine) => machine.on_deadline(now),
            Self::Other(machine) => machine.on_deadline(now, timing),
        }
    }
}

impl ServerMachine {
    pub(super) fn on_answer(&mut self, now: Instant, status: u16, timing: &Timing) -> bool {
        match self {
            Self::Invite(machine) => machine.on_answer(now, status, timing),
            Self::Other(machine) => machine.on_answer(now, status, timing),
        }
    }

    pub(super) fn on_again(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.on_again(),
            Self::Other(machine) => machine.on_again(),
        }
    }

    pub(super) fn is_pending(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.is_pending(),
            Self::Other(machine) => machine.is_pending(),
        }
    }

    /// The stream of the request has ended, and its answer waits for another one: it is kept, as one by UDP is.
    pub(super) fn outlive_stream(&mut self) {
        if let Self::Other(machine) = self {
            machine.outlive_stream();
        }
    }

    /// Whether its sender may not have heard its answer; a 2xx to INVITE is repeated by who gave it.
    pub(super) fn is_unheard(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.on_again() || machine.is_accepted(),
            Self::Other(machine) => machine.is_pending(),
        }
    }

    pub(super) fn is_acknowledged(&self) -> bool {
        matches!(self, Self::Invite(machine) if machine.is_acknowledged())
    }

    pub(super) fn is_accepted(&self) -> bool {
        matches!(self, Self::Invite(machine) if machine.is_accepted())
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Invite(machine) => machine.deadline(),
            Self::Other(machine) => machine.deadline(),
        }
    }

    pub(super) fn on_deadline(&mut self, now: Instant, timing: &Timing) -> Due {
        match self {
            Self::Invite(machine) => machine.on_deadline(now, timing),
            Self::Other(machine) => machine.on_deadline(now),
        }
    }
}
