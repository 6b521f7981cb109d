//! The goals of a registration, and the steps that lead there.
//!
//! Invariant: a step is one action of the endpoint; nothing here holds state.

use std::time::Duration;

/// Refusals in a row that end an account which was accepted before, unless its SIP server is at fault.
pub const REFUSALS_MAX: u8 = 3;

/// Reason why a registration attempt failed, by its consequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationFailure {
    /// The SIP server refuses this account; it is not tried again.
    Refused {
        /// The status of its response; 401 and 407 when the credentials are refused.
        status: u16,
    },
    /// The SIP server refuses what it had accepted before; it is asked again after this long, unless the device is unbound.
    CredentialsRefused {
        /// The status of its response; 401 and 407 when the credentials are refused.
        status: u16,
        /// How often in a row: 1 to [`REFUSALS_MAX`], which stands for more, too.
        in_a_row: u8,
        /// The time from now to the next attempt.
        after: Duration,
    },
    /// No answer, no connection, or a failure of the server; it is tried again after this long.
    Retry {
        /// The status of the response; `None` when there was none, or no flow.
        status: Option<u16>,
        /// The time from now to the next attempt, at least the Retry-After of the response.
        after: Duration,
    },
}

impl RegistrationFailure {
    /// Whether the account is refused for good, as far as the SIP server's word for it alone tells.
    pub fn is_final(self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::CredentialsRefused { in_a_row, .. } => in_a_row >= REFUSALS_MAX,
            Self::Retry { .. } => false,
        }
    }
}

/// The state that a binding is to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// Registered.
    Registered,
    /// Unregistered, but kept: the app is in the foreground.
    Silent,
    /// Unregistered and forgotten.
    Gone,
}

/// The next action of the endpoint for a binding.
#[derive(Debug)]
pub enum Step {
    /// Nothing is to be done.
    Nothing,
    /// The registration wants its flow: dial the upstream unless it is up.
    WantFlow,
    /// Compose and send a REGISTER; then call [`Registration::sent`](super::Registration::sent).
    Send,
    /// Ask the shell for a digest with [`Registration::challenge`](super::Registration::challenge).
    Ask,
    /// The registration stands.
    Registered {
        /// The lifetime that was granted.
        expires: Duration,
        /// Whether it stood before.
        refresh: bool,
        /// Whether its GRUUs are others than before.
        renamed: bool,
    },
    /// The attempt failed.
    Failed(RegistrationFailure),
    /// The attempt failed because the SIP server sent a challenge that cannot be answered.
    Unanswerable {
        /// The failure.
        failure: RegistrationFailure,
        /// Whether the digest challenge cannot be read; otherwise it offers no supported algorithm.
        unreadable: bool,
    },
    /// The SIP server has no registration of it any more.
    Unregistered {
        /// Whether the server said so.
        confirmed: bool,
    },
}

impl Step {
    /// The same, because of a challenge that has no answer.
    pub(super) fn unanswerable(self, unreadable: bool) -> Self {
        match self {
            Self::Failed(failure) => Self::Unanswerable { failure, unreadable },
            other => other,
        }
    }
}

/// When an attempt began, as its upstream counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Began(pub u32);

/// A place in the line of those that want to register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// The registration does not wait.
    None,
    /// The registration waits.
    Waiting,
    /// The registration waits before those that only wait.
    First,
}
