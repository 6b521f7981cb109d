//! Inputs and outputs of the use cases: requests that are right by construction, views that hold no secret, and errors by the answer that they lead
//! to.
//!
//! Invariant: of the types that go out, only [`Enabled`] holds a secret; no error carries text that a peer chose.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sip::id::{CallId, InstanceId};
use thiserror::Error;
use tokio::sync::mpsc;

pub use crate::agent::request::{Tested, TraceAnswer, TraceRequest};
use crate::agent::stories::RecentCall;
pub use crate::agent::tables::timeline::{Step, What};
pub use crate::domain::WipeReason;
use crate::domain::story::{Story, StoryOutcome};
use crate::domain::words;
use crate::hpke::PublicKey;
use crate::secret::{Aor, InstanceSecret};
use crate::vault::SealError;
use crate::vault::items::{Counts, Message, MissedCall};
use crate::vault::record::{Account, Device, Presence, Provider, PushTarget, WakeFor};

/// An app's request to enable push. Its fields are checked: URIs parse, tokens have their provider's form, the lifetime is within the operator's
/// range.
#[derive(Clone, PartialEq)]
pub struct Enable {
    /// The SIP account that is lent.
    pub account: Account,
    /// The device to wake.
    pub device: Device,
    /// How long, in seconds; within the configured range, at most 6 days.
    pub lifetime_s: u64,
    /// The events that wake the device.
    pub wake_for: WakeFor,
}

impl fmt::Debug for Enable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Enable(..)")
    }
}

/// A device's changes; a field that is `None` or [`Field::Keep`] stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// The new target of calls.
    pub call_push: Option<PushTarget>,
    /// The new target of everything else.
    pub alert_push: Field<PushTarget>,
    /// The key that what names a person is sealed to from now on.
    pub public_key: Field<PublicKey>,
    /// Renew: seconds from now, within the configured range.
    pub lifetime_s: Option<u64>,
    /// Whether the app registers by itself from now on.
    pub presence: Option<Presence>,
    /// The events that wake the device from now on.
    pub wake_for: Option<WakeFor>,
}

/// A change to an optional field (JSON merge patch, RFC 7396).
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Field<T> {
    /// The field was not named.
    #[default]
    Keep,
    /// The field was `null`.
    Clear,
    /// The field has a new value.
    Set(T),
}

/// The answer to an enabling.
#[derive(Clone, Debug, PartialEq)]
pub struct Enabled {
    /// The new instance.
    pub instance: InstanceId,
    /// The secret that proves the device from now on; handed out this once.
    pub secret: InstanceSecret,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
    /// How the registration stands: `Registered` is answered 201, anything else 202.
    pub registration: Registration,
    /// The address at which the device connects.
    pub edge: EdgeAddress,
}

/// How the registration of an account stands at its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The state.
    pub state: RegistrationState,
    /// The SIP status of the last answer, 100 to 699; `None` before the first.
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

/// The timeline of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Timeline {
    /// When it was enabled, in seconds since 1970.
    pub created_at: u64,
    /// The steps since then that this process knows of, oldest first.
    pub steps: Vec<Step>,
}

words!(
    /// As what the digest's secret is held.
    OwnCredential {
        /// The password.
        Password = "password",
        /// The hash that answers the SIP server in place of the password.
        Ha1 = "ha1",
    }
);

/// Everything that is held about an instance, as its own device may have it: no password or digest, no push token, no
/// instance secret.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnExport {
    /// The instance.
    pub view: View,
    /// The App's id.
    pub app: Box<str>,
    /// The address of record.
    pub aor: Aor,
    /// The digest's user name.
    pub auth_username: Box<str>,
    /// As what the digest's secret is held.
    pub credential: OwnCredential,
    /// The registrar, where the app named one.
    pub registrar: Option<Box<str>>,
    /// The outbound proxy, where the app named one.
    pub outbound_proxy: Option<Box<str>>,
    /// Its calls that are still known.
    pub calls: Vec<(CallId, CallView)>,
    /// The timeline.
    pub timeline: Timeline,
    /// The messages that are kept.
    pub messages: Vec<Message>,
    /// The missed calls that are kept.
    pub missed_calls: Vec<MissedCall>,
    /// The stories of its calls.
    pub stories: Vec<Story>,
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

/// Why an enabling was not done. Nothing of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EnableError {
    /// The operator does not serve the AOR's domain.
    #[error("the SIP domain is not allowed here")]
    DomainNotAllowed,
    /// The registrar or the proxy resolves only to addresses that this relay does not connect to.
    #[error("the SIP server's address is not allowed here")]
    AddressNotAllowed,
    /// The account asks for a transport that the operator did not name.
    #[error("the SIP transport is not allowed here")]
    TransportNotAllowed,
    /// The name of the registrar or the proxy leads to no address at all.
    #[error("the SIP server has no address")]
    UpstreamNotFound,
    /// The SIP server refused the account for good.
    #[error("the SIP server refused the account with {status}")]
    UpstreamRefused {
        /// The SIP status, 300 to 699.
        status: u16,
        /// The refusal's consequence for the account.
        reason: Refusal,
    },
    /// Too many wrong passwords were tried for this account, or from this address.
    #[error("too many wrong passwords")]
    TooManyFailures {
        /// How long to wait, 1 to 900 seconds.
        retry_after_s: u64,
    },
    /// This account has as many instances as it may.
    #[error("this account has as many instances as it may")]
    TooManyOfAccount,
    /// The App, or the address that asks, has as many instances as it may.
    #[error("the app or its address has as many instances as it may")]
    TooManyOfAsker,
    /// The store does not answer.
    #[error("the store is away")]
    StoreAway,
    /// This node holds as many instances as it may.
    #[error("this relay is full")]
    TooMany,
    /// This node is shutting down.
    #[error("this relay is shutting down")]
    Draining,
    /// The same device was enabled later at another node, and that one stands. Nothing is kept.
    #[error("a later enabling of the device stands")]
    Overtaken,
    /// The app has hung up: nobody reads this.
    #[error("the app has hung up")]
    HungUp,
}

/// Why a SIP server refused an account, in words of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The SIP server refused the user name and password (or HA1).
    Credentials,
    /// Likewise, and the user name has a character that servers hash in different ways (RFC 7616 §3.4.2).
    EscapedCredentials,
    /// The SIP server asks for another realm than the HA1s were made for.
    Realm,
    /// The SIP server asks for an algorithm for which no HA1 was given.
    Algorithm,
    /// The SIP server offers no digest that this relay makes.
    Digest,
    /// Its digest challenge cannot be read.
    Challenge,
    /// The SIP server does not know the AOR.
    UnknownUser,
    /// The SIP server forbids this registration.
    Forbidden,
    /// Something else; the status tells.
    Other,
}

impl Refusal {
    /// The meaning of a final status to a REGISTER with credentials.
    pub fn of_status(status: u16) -> Self {
        match status {
            401 | 407 => Self::Credentials,
            403 => Self::Forbidden,
            404 | 410 | 604 => Self::UnknownUser,
            _ => Self::Other,
        }
    }
}

/// Why a device may not do what it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AccessError {
    /// There is no such instance, or it was wiped: 404.
    #[error("no such instance")]
    Unknown,
    /// The secret is not the instance's: 401.
    #[error("the secret is not the instance's")]
    Forbidden,
    /// The store does not answer: 503.
    #[error("the store is away")]
    StoreAway,
    /// The secret is right, but the node that looks after the instance does not answer, or none does yet: 503.
    #[error("the instance's owner is away")]
    OwnerAway,
}

/// Why a change was not made; nothing of it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ChangeError {
    /// The device may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The App has no such push service at this relay.
    #[error("the push provider is not configured for this app")]
    ProviderNotConfigured {
        /// The alert target asks for it, not the call target.
        alert: bool,
    },
}

impl From<SealError> for ChangeError {
    /// A record that does not open is lost.
    fn from(_: SealError) -> Self {
        Self::Access(AccessError::Unknown)
    }
}

/// Why a call's state was not told or not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// The device may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The instance has no such call, or not any more: 404.
    #[error("no such call")]
    UnknownCall,
    /// The call has ended, so it cannot ring or be declined: 409.
    #[error("the call is over")]
    Over(CallStatus),
}

/// Why a recording was not begun, read or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TraceError {
    /// The requester has no access.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Nothing is recorded: 404.
    #[error("nothing is recorded")]
    None,
    /// Too many are recorded at once: 429.
    #[error("too many are recorded at once")]
    TooMany,
}

/// Why no test push was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TestError {
    /// The device may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// There is only a VoIP token, which takes nothing but calls: 409.
    #[error("there is no target that takes a test push")]
    NoTarget,
    /// The last ones were too recent: 429.
    #[error("too soon")]
    TooSoon {
        /// How long to wait, in seconds.
        wait_s: u64,
    },
}

/// An instance as an operator sees it: nothing that tells whose it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Listed {
    /// The instance's id.
    pub instance: InstanceId,
    /// How it came here.
    pub kind: InstanceKind,
    /// The App's id, as the operator configured it.
    pub app: Box<str>,
    /// Whether it works.
    pub state: InstanceStatusView,
    /// How its registration stands.
    pub registration: Registration,
    /// When it was enabled, in seconds since 1970; of one that passed through, when its device registered last.
    pub created_at: u64,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
    /// The push service for calls.
    pub call_push: Provider,
    /// The push service for everything else.
    pub alert_push: Option<Provider>,
}

/// How an instance came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceKind {
    /// An app lent its account.
    Lent,
    /// Its device registered through the edge (RFC 8599); no credential is held.
    Passed,
}

/// An operator's filter of instances; a field that is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// Instances of this App.
    pub app: Option<Box<str>>,
    /// Instances whose AOR is of this domain; in lower case.
    pub domain: Option<Box<str>>,
}

/// A part of the list of instances.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// In the order of their ids.
    pub instances: Vec<Listed>,
    /// The id at which the next page goes on; `None`: this was the last.
    pub next: Option<InstanceId>,
}

/// Facts about a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AboutNode {
    /// The node takes nothing on any more.
    pub is_leaving: bool,
    /// The node may have lost its lease without noticing.
    pub is_doubtful: bool,
    /// Fingerprint of its keyring, which tells it from another one.
    pub keyring: String,
    /// The same in all copies of a keyring on the same day.
    pub key_of_today: String,
}

/// An operator's filter of calls; all, where no field is set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WhichCalls {
    /// Calls that came since then, in milliseconds since 1970.
    pub since_ms: u64,
    /// Calls of one App.
    pub app: Option<Box<str>>,
    /// Calls of one instance.
    pub instance: Option<InstanceId>,
    /// Calls that ended, or stand, like this; empty: all.
    pub outcomes: Vec<StoryOutcome>,
    /// One call, for each of its devices.
    pub call: Option<CallId>,
    /// The newest so many.
    pub limit: usize,
    /// The answer waits a moment for what an earlier run has kept.
    pub waits: bool,
}

impl WhichCalls {
    /// Whether a call is one of them.
    pub fn is_one(&self, call: &RecentCall) -> bool {
        call.at_ms >= self.since_ms
            && self.app.as_deref().is_none_or(|app| app == &*call.app)
            && self.instance.is_none_or(|instance| instance == call.instance)
            && self.call.is_none_or(|wanted| wanted == call.call)
            && (self.outcomes.is_empty() || self.outcomes.contains(&call.outcome))
    }
}

/// Stories of calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CallStories {
    /// Newest first.
    pub stories: Vec<Story>,
    /// Nothing is missing; else the store did not answer, or not everything of an earlier run has been read yet.
    pub is_whole: bool,
}

/// The data held about an instance, with everything left out that identifies its user.
#[derive(Clone, Debug, PartialEq)]
pub struct Export {
    /// The instance.
    pub listed: Listed,
    /// The events that wake the device, and whether the app registers by itself; of an account that was lent.
    pub preferences: Option<(WakeFor, Presence)>,
    /// The key that what names a person is sealed to, in pushes.
    pub public_key: Option<PublicKey>,
    /// Its calls that are still known.
    pub calls: Vec<(CallId, CallView)>,
    /// The stories of its calls.
    pub stories: Vec<Story>,
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

/// The wake request of a SIP server that holds a call itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Wake {
    /// The AOR whose devices are to be woken.
    pub aor: Aor,
    /// The caller's URI, as the server names it; empty: not told.
    pub from: Box<str>,
    /// The caller's display name.
    pub name: Option<Box<str>>,
    /// How long to wait for the first device.
    pub wait: Duration,
    /// Hosts whose registrations are woken beside those that serve the AOR's own domain: the operator's word.
    pub registrars: Arc<[Box<str>]>,
}

/// Devices that this node wakes.
#[derive(Debug)]
pub struct Expected {
    /// How many are attached, or waited for.
    pub known: usize,
    /// How many are attached already.
    pub awake: usize,
    /// Names each that comes; ends when none can come any more.
    pub arrivals: mpsc::UnboundedReceiver<InstanceId>,
}

/// Devices are awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awake {
    /// How many are attached at this moment.
    pub awake: usize,
    /// How many there are.
    pub known: usize,
}

/// Why no device is awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WakeError {
    /// The operator does not serve the AOR's domain: 403.
    #[error("the SIP domain is not allowed here")]
    DomainNotAllowed,
    /// No node has a device of the AOR that is attached, or that it can wake: 404.
    #[error("no device of this address")]
    Unknown,
    /// None came in time, or none can come: 504.
    #[error("no device came")]
    NoneInTime,
    /// This node is shutting down: 503.
    #[error("this relay is shutting down")]
    Draining,
    /// This node knows none yet, and takes something over, or is about to: 503.
    #[error("what is being taken over is not here yet")]
    OnItsWay,
    /// This node knows none, and another one that may know some does not answer: 503.
    #[error("another node does not answer")]
    OthersSilent,
}

/// Why an operator's request was not fulfilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OperatorError {
    /// There is no such instance on this node.
    #[error("no such instance")]
    Unknown,
    /// The store does not answer.
    #[error("the store is away")]
    StoreAway,
}
