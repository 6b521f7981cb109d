//! Views: instances and calls as they look from outside.
//!
//! Invariant: no view holds a secret.

use sip::id::InstanceId;

use crate::domain::WipeReason;
use crate::hpke::PublicKey;
use crate::vault::items::Counts;
use crate::vault::record::{Presence, Provider, WakeFor};

/// How the registration of an account stands at its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The state.
    pub state: RegistrationState,
    /// The SIP status of the last answer, 100 to 699; `None` before the first, and when nothing was answered since the registration was lost.
    pub status: Option<u16>,
    /// How many seconds the server will keep it; `None` unless registered.
    pub expires_in_s: Option<u32>,
    /// Since when it has been lost, in seconds since 1970, once the user was told.
    pub failing_since: Option<u64>,
}

/// The states of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationState {
    /// The registration stands.
    Registered,
    /// The first answer has not come yet.
    Registering,
    /// The registration failed and will be tried again.
    Retrying,
    /// A registration is not wanted: the app is in the foreground, or the instance is ending.
    Unregistered,
}

impl RegistrationState {
    /// The word of the API for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Registering => "registering",
            Self::Retrying => "retrying",
            Self::Unregistered => "unregistered",
        }
    }
}

/// The edge as a device needs it; the password is the instance secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeAddress {
    /// The outbound proxy to set: `sip:relay1.example.net:5061;transport=tls`.
    pub proxy: Box<str>,
    /// For a device that speaks SIP over WebSocket: `wss://relay1.example.net:7443/`, where the operator opened it.
    pub websocket: Option<Box<str>>,
    /// The digest user name: the instance id.
    pub username: InstanceId,
    /// The digest realm.
    pub realm: &'static str,
}

/// Whether an instance works for its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceStatusView {
    /// The relay registers, or tries to.
    Active,
    /// The app registers by itself.
    Foreground,
    /// The instance is being unregistered and wiped.
    Ending,
}

/// An instance as its device sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The instance's id.
    pub instance: InstanceId,
    /// Whether it works.
    pub state: InstanceStatusView,
    /// How its registration stands.
    pub registration: Registration,
    /// When it was enabled, in seconds since 1970.
    pub created_at: u64,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
    /// The user's name for the device.
    pub label: Option<Box<str>>,
    /// The push service for calls.
    pub call_push: Provider,
    /// The push service for everything else.
    pub alert_push: Option<Provider>,
    /// The key that what names a person is sealed to.
    pub public_key: Option<PublicKey>,
    /// The events that wake the device.
    pub wake_for: WakeFor,
    /// Whether the app registers by itself.
    pub presence: Presence,
    /// The address at which the device connects.
    pub edge: EdgeAddress,
    /// How its mailbox stands, once the SIP server has told.
    pub voicemail: Option<Voicemail>,
    /// The number of kept items; `None` while the store does not answer.
    pub kept: Option<Counts>,
}

/// How a mailbox stands (RFC 3842).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voicemail {
    /// Whether anything waits.
    pub waiting: bool,
    /// Messages not heard yet, where the SIP server tells.
    pub new: Option<u32>,
    /// Messages heard.
    pub old: Option<u32>,
    /// The number of new messages that are urgent.
    pub urgent: Option<u32>,
}

/// The proof of a wipe, signed by the relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptView {
    /// The wiped instance.
    pub instance: InstanceId,
    /// When, in seconds since 1970.
    pub wiped_at: u64,
    /// Why.
    pub reason: WipeReason,
    /// Whether the SIP server confirmed the unregistration.
    pub unregistered: bool,
    /// The signature over the other members (Ed25519, base64url).
    pub signature: Box<str>,
}

/// A call as its device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallView {
    /// How it stands.
    pub state: CallStatus,
    /// When the relay gives up waiting, in seconds since 1970; the state can be asked until then at least.
    pub deadline: u64,
}

/// The states of a call; the last five are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallStatus {
    /// The push is on its way, the device is not attached.
    Waking,
    /// The device rings.
    Ringing,
    /// The device answered.
    Answered,
    /// The caller gave up.
    Cancelled,
    /// Another device answered.
    AnsweredElsewhere,
    /// The device declined.
    Declined,
    /// The SIP server did not answer in time.
    TimedOut,
}

/// How a wipe stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wiped {
    /// Nothing is left.
    Done(ReceiptView),
    /// Memory is wiped and the SIP server was told; the store is away, and what it holds is erased as soon as it is back, or the wipe could not be
    /// written down yet.
    Wiping,
}
