//! The edge: admission of devices, the calls that wait for them, and how requests pass between the two sides.
//!
//! | room | what it is |
//! | --- | --- |
//! | [`admission`] | nonces, and the proof in a device's REGISTER |
//! | [`own_proof`] | removal of a device's proof to this relay from messages that leave it |
//! | [`device_contacts`] | the request that the Contacts of a device's REGISTER make (RFC 3261 §10.3) |
//! | [`call`] | one call, from its announcement or its INVITE to its final answer |
//! | [`replaces`] | an INVITE that takes the place of a call (RFC 3891) |
//! | [`caller`] | the caller, as a device may be told (RFC 3323, RFC 3325) |
//! | [`caller_key`] | the key by which callers are counted |
//! | [`refusals`] | the choice among several refusals for the caller (RFC 3261 §16.7.6) |
//! | [`invite_mark`] | the common identity of all copies of one INVITE (RFC 3261 §8.2.2.2) |
//! | [`forward`] | the changes that a proxy makes in a request (RFC 3261 §16.6) |
//! | [`returned`] | a response on its way back (RFC 3261 §16.7) |
//! | [`pending_message`] | one MESSAGE, from its arrival to its answer (RFC 3428) |
//! | [`message_content`] | what a MESSAGE says: words, or something for an app alone (RFC 3862, RFC 3994, RFC 5438) |
//! | [`mailbox`] | the state of a voicemail box in a NOTIFY (RFC 3842) |
//! | [`push_proxy`] | registrations that pass through and are pushed for (RFC 8599) |
//! | [`removed_contacts`] | the Contacts of them that a device removes (RFC 3261 §10.2.2) |
//!
//! Invariant: nothing here sends; a decision comes out and the endpoint carries it out.

pub mod admission;
pub mod call;
pub mod caller;
pub mod caller_key;
pub mod device_contacts;
pub mod forward;
pub mod invite_mark;
pub mod mailbox;
pub mod message_content;
pub mod own_proof;
pub mod pending_message;
pub mod push_proxy;
pub mod refusals;
pub mod removed_contacts;
pub mod replaces;
pub mod returned;

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::auth::Credentials;
use crate::id::{CallId, InstanceId, MessageId};
use caller_key::CallerKey;
use invite_mark::InviteMark;
use replaces::Replaces;

/// A REGISTER at the edge whose proof is being verified, as the endpoint numbered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VerificationId(pub u64);

/// The proof that a device sends with its REGISTER.
pub enum Proof {
    /// A digest over a nonce that this endpoint made and has found fresh; what is left is to verify the response.
    Digest(Box<Credentials>),
    /// A bearer token (RFC 8898): the instance secret itself.
    Bearer(Box<str>),
}

impl fmt::Debug for Proof {
    /// Shows the kind alone: a bearer token is the secret itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Digest(_) => "Digest",
            Self::Bearer(_) => "Bearer",
        })
    }
}

/// A call that waits for a device.
#[derive(Clone)]
pub struct IncomingCall {
    /// The identifier that the push carries, and by which the app asks for the call's state.
    pub call: CallId,
    /// The device to wake.
    pub instance: InstanceId,
    /// The caller's URI; `sip:anonymous@anonymous.invalid` when privacy was asked for (RFC 3323).
    pub from: Box<str>,
    /// The caller's display name.
    pub name: Option<Box<str>>,
    /// The key by which the caller is counted, also one who withholds the number, where the SIP server asserts an identity
    /// (RFC 3325).
    pub caller: CallerKey,
    /// The mark that the INVITE shares with its copies; `None`: the INVITE is still to come.
    pub mark: Option<InviteMark>,
    /// The call that the INVITE replaces, if any.
    pub replaces: Option<Replaces>,
    /// When it came, or was announced.
    pub arrived: Instant,
    /// The longest time that the call waits, from now.
    pub wait: Duration,
    /// The longest time that the caller waits, from now, where the INVITE says so by Expires.
    pub valid: Option<Duration>,
}

impl fmt::Debug for IncomingCall {
    /// Shows nothing of the caller.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IncomingCall({}, {})", self.call, self.instance)
    }
}

/// A MESSAGE on its way, as the endpoint numbered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageRequestId(pub u64);

/// A MESSAGE that is to be kept for a device (RFC 3428).
#[derive(Clone)]
pub struct InboundMessage {
    /// The request that it is a copy of.
    pub request: MessageRequestId,
    /// The name of the copy: the same when the same MESSAGE (Call-ID, CSeq, From tag) comes again for the same device.
    pub message: MessageId,
    /// The device that it is for.
    pub instance: InstanceId,
    /// The sender's URI, at most 1,024 bytes; `sip:anonymous@anonymous.invalid` when privacy was asked for (RFC 3323).
    pub from: Box<str>,
    /// The sender's display name, at most 256 characters.
    pub name: Option<Box<str>>,
    /// The key by which the sender is counted.
    pub sender: CallerKey,
    /// The media type of the body, with its parameters; at most 255 bytes.
    pub content_type: Box<str>,
    /// The body, exactly as it came.
    pub body: Bytes,
    /// How long it is worth keeping, where the sender says so (RFC 3428 §5).
    pub lasts: Option<Duration>,
}

impl fmt::Debug for InboundMessage {
    /// Shows the size alone of what somebody wrote to somebody.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InboundMessage({}, {} bytes)", self.message, self.body.len())
    }
}

/// How a call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallState {
    /// The caller waits; the device is being woken.
    Waking,
    /// The caller hears ringing.
    Ringing,
    /// A device answered.
    Answered,
    /// The caller gave up.
    Cancelled,
    /// Another device answered.
    AnsweredElsewhere,
    /// The device declined, or another one for all.
    Declined,
    /// Nobody came, or nobody answered, in time.
    TimedOut,
}

impl CallState {
    /// Whether the call needs no device any more.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Waking | Self::Ringing)
    }

    /// Whether a CANCEL may have ended it, by the caller or because another device has answered or declined.
    pub fn is_given_up(self) -> bool {
        matches!(self, Self::Cancelled | Self::AnsweredElsewhere | Self::Declined)
    }

    /// The word of the relay's API for it.
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
