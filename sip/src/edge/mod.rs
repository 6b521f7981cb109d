//! The edge: which devices are let in, which calls wait for them, and how requests pass between the two sides.
//!
//! | room | what it is |
//! | --- | --- |
//! | [`admission`] | nonces, and what a device's REGISTER must show |
//! | [`hold`] | one incoming call, from the INVITE to its final answer |
//! | [`forward`] | what a proxy changes in a message (RFC 3261 §16.6, §16.7) |
//! | [`push_proxy`] | registrations that pass through and are pushed for (RFC 8599) |
//!
//! Invariant: nothing here sends; a decision comes out and the endpoint carries it out.

pub mod admission;
pub mod forward;
pub mod hold;
pub mod push_proxy;

use std::time::Duration;

use crate::auth::Credentials;
use crate::id::{CallId, InstanceId};

/// One device's attempt to attach, while its proof is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KnockId(pub u64);

/// What a device shows to prove itself.
#[derive(Debug)]
pub enum Proof {
    /// A digest over a nonce that this endpoint made and has found fresh; what is left is to verify the response.
    Digest(Box<Credentials>),
    /// A bearer token (RFC 8898): the instance secret itself.
    Bearer(Box<str>),
}

/// A call that waits for its device.
#[derive(Clone, Debug)]
pub struct IncomingCall {
    /// The call.
    pub call: CallId,
    /// Whom it is for.
    pub instance: InstanceId,
    /// The caller's URI; `sip:anonymous@anonymous.invalid` when privacy was asked for (RFC 3323).
    pub from: Box<str>,
    /// The caller's display name.
    pub name: Option<Box<str>>,
    /// How long it waits at most, from now.
    pub wait: Duration,
}

/// How a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallState {
    /// Held; the device is being woken.
    Waking,
    /// The caller hears ringing.
    Ringing,
    /// A device answered.
    Answered,
    /// The caller gave up.
    Cancelled,
    /// Another device answered.
    AnsweredElsewhere,
    /// The device declined.
    Declined,
    /// Nobody came, or nobody answered, in time.
    TimedOut,
}

impl CallState {
    /// Whether the call needs no device any more.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Waking | Self::Ringing)
    }

    /// Whether the caller ended it with a CANCEL.
    pub fn is_given_up(self) -> bool {
        matches!(self, Self::Cancelled | Self::AnsweredElsewhere)
    }

    /// The contract's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waking => "waking",
            Self::Ringing => "ringing",
            Self::Answered => "answered",
            Self::Cancelled => "cancelled",
            Self::AnsweredElsewhere => "answered-elsewhere",
            Self::Declined => "declined",
            Self::TimedOut => "timed-out",
        }
    }
}
