//! The end of a client transaction's time: the transaction is given up, or waits on for a late answer.
//!
//! Invariant: only a transaction that may wait on does so, and it is marked as late until its peer has answered.

use crate::id::InstanceId;

/// Whether a client transaction waits beyond its time, for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    /// The transaction does not wait longer.
    None,
    /// The transaction will wait longer.
    For(InstanceId),
    /// The transaction waits longer now.
    Spent(InstanceId),
}

impl Patience {
    pub(super) fn is_spent(self) -> bool {
        matches!(self, Self::Spent(_))
    }

    /// The peer has spoken; whether it was late.
    pub(super) fn renew(&mut self) -> bool {
        let Self::Spent(device) = *self else { return false };
        *self = Self::For(device);
        true
    }

    /// A wait for one device is for another one from now on.
    pub(super) fn succeed(&mut self, earlier: InstanceId, successor: InstanceId) {
        match self {
            Self::For(of) | Self::Spent(of) if *of == earlier => *of = successor,
            Self::None | Self::For(_) | Self::Spent(_) => {}
        }
    }

    /// Whether it waits for this device, or will.
    pub(super) fn is_for(self, device: InstanceId) -> bool {
        matches!(self, Self::For(of) | Self::Spent(of) if of == device)
    }
}
