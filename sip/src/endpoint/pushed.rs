//! Registrations that passed through, pushed for (RFC 8599) or reached by their flow alone, as the shell sees them.
//!
//! Invariant: values that identify people and their devices are not printed.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::edge::push_proxy::{PushContact, PushRequest};
use crate::edge::removed_contacts::RemovedContact;
use crate::id::{CallId, FlowId, InstanceId, UpstreamId};

/// A REGISTER that is being forwarded, as the endpoint numbered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ForwardedRegisterId(pub u64);

/// A REGISTER whose route is not known yet.
pub struct RouteRequest {
    /// The number for the answer, [`super::Input::Route`].
    pub register: ForwardedRegisterId,
    /// The address of record.
    pub aor: Box<str>,
    /// The Request-URI of the REGISTER.
    pub registrar: Box<str>,
    /// The Route that is left when ours is taken off: the SIP server's own outbound proxy.
    pub proxy: Option<Box<str>>,
    /// The request that it makes of the push proxy.
    pub push: PushRequest,
    /// The address of its sender.
    pub source: IpAddr,
    /// Whether it asks for a registration; else it ends one, which may be known here or at another node (RFC 3261 §10.2.2), or only asks (§10.2.3).
    pub registers: bool,
    /// Whether it renews a registration that is known here, or takes its place, and names its device.
    pub renews: bool,
    /// Whether it shows a secret of a registration that is known here: its push token, or its own connection. The key that tells devices apart does
    /// not count: a callee may read it.
    pub familiar: bool,
    /// The proof that it carries for its SIP server; [`super::Event::RegisterEnded`] tells its outcome.
    pub proof: Option<CarriedProof>,
}

/// A proof that passes through to its SIP server, without what would help to guess a password.
pub struct CarriedProof {
    /// The user names of all credentials in it, each once.
    pub usernames: Vec<Box<str>>,
}

/// A proof in a request other than REGISTER, as the endpoint numbered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CarriedProofId(pub u64);

/// A request other than REGISTER with a proof for its SIP server, which waits for the shell's word.
pub struct ProofRequest {
    /// The number for the answer, [`super::Input::ProofAdmitted`].
    pub proof: CarriedProofId,
    /// The address of record of the registration that it goes by; of one that is lent its instance.
    pub aor: Box<str>,
    /// Its SIP server.
    pub upstream: UpstreamId,
    /// The address of its sender.
    pub source: IpAddr,
    /// The user names of all credentials in it, each once.
    pub usernames: Vec<Box<str>>,
}

/// What becomes of a proof in a request other than REGISTER.
#[derive(Debug)]
pub enum ProofStep {
    /// May it pass? Answer with [`super::Input::ProofAdmitted`].
    Asked(Box<ProofRequest>),
    /// A request that was let through has ended; once for each.
    Ended {
        /// Its number.
        proof: CarriedProofId,
        /// Whether its SIP server said that it is wrong; else nothing was said about it.
        refused: bool,
    },
}

/// Reason why a REGISTER is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteRefusal {
    /// The status of the answer: 403, 503, 555, …
    pub status: u16,
    /// How long its sender waits before it comes again, in seconds.
    pub retry_after_s: Option<u32>,
    /// The reason for a developer, in the text of a Warning (RFC 3261 §20.43).
    pub warning: Option<&'static str>,
}

impl From<u16> for RouteRefusal {
    fn from(status: u16) -> Self {
        Self { status, retry_after_s: None, warning: None }
    }
}

/// The destination of a forwarded REGISTER.
#[derive(Clone, Debug)]
pub struct RegisterRoute {
    /// The SIP server, with one reference that [`super::Event::UpstreamReleased`] gives back.
    pub upstream: UpstreamId,
    /// The Request-URI of that server.
    pub registrar: Box<str>,
    /// The push services there are, as `pn-provider` names them.
    pub services: Vec<&'static str>,
    /// Whether a registration that asks for no pushes may live by its flow alone.
    pub by_flow: bool,
    /// Whether the device of a registration that is not known here has its answer only when that is kept; [`super::Input::PushBindingKept`] says so.
    pub kept_first: bool,
}

/// A registration that its SIP server has accepted, and that its flow alone leads to (RFC 5626): nothing of it is kept
/// elsewhere, and nobody is pushed for it.
pub struct FlowBinding {
    /// A keyed hash of its SIP server, AOR and device.
    pub instance: InstanceId,
    /// The address of record.
    pub aor: Box<str>,
    /// The Request-URI of its REGISTER.
    pub registrar: Box<str>,
    /// The Route of its REGISTER beyond ours.
    pub proxy: Option<Box<str>>,
    /// The address that its REGISTER came from.
    pub source: IpAddr,
    /// The flow that leads to it.
    pub flow: FlowId,
}

/// A registration that its SIP server has accepted, as the shell must know it to push for it and to keep it over a restart.
#[derive(Clone)]
pub struct PushBinding {
    /// A keyed hash of its SIP server, AOR and push parameters: the same after a restart and on every node; also its PURR (RFC 8599 §6.2.1).
    pub instance: InstanceId,
    /// The address of record.
    pub aor: Box<str>,
    /// The key that tells the AOR's devices apart.
    pub contact: Box<str>,
    /// The Request-URI of its REGISTER.
    pub registrar: Box<str>,
    /// The Route of its REGISTER beyond ours.
    pub proxy: Option<Box<str>>,
    /// The push service and the device's name there.
    pub push: PushContact,
    /// How long it lives from now on.
    pub expires: Duration,
    /// The device refreshes it by itself.
    pub refreshes_itself: bool,
    /// The address that its REGISTER came from; `None` for one of an earlier run.
    pub source: Option<IpAddr>,
    /// When its REGISTER was sent on; `None` likewise.
    pub sent_at: Option<Instant>,
}

/// Contacts that a device has removed, as its SIP server has accepted, and that are not known here: another node may have them, or the store alone.
pub struct ContactsRemoved {
    /// The address of record.
    pub aor: Box<str>,
    /// The SIP server, as [`server_of`](super::server_of) spells it.
    pub server: Box<str>,
    /// The Contacts, 1 to 16.
    pub contacts: Vec<RemovedContact>,
    /// When the REGISTER was sent on that removes them: what was registered since then stays.
    pub sent_at: Instant,
}

/// A registration that an earlier run of this relay left behind.
#[derive(Clone)]
pub struct RestoredPushBinding {
    /// The push binding as the earlier run was told of it; `expires` is the rest of its lifetime.
    pub registration: PushBinding,
    /// The SIP server, with one reference that [`super::Event::UpstreamReleased`] gives back.
    pub upstream: UpstreamId,
    /// The Request-URI of that server.
    pub upstream_registrar: Box<str>,
    /// When its SIP server was asked for it last, in milliseconds since 1970: of two of one device the later one stays.
    pub confirmed_at_ms: u64,
}

/// A registration whose device has another one from now on, as it has another push token or another address: the calls and dialogs of the earlier one are
/// the later one's.
#[derive(Debug)]
pub struct PushBindingSuccession {
    /// The instance of the earlier registration.
    pub earlier: InstanceId,
    /// The instance of the later one.
    pub successor: InstanceId,
    /// The calls that wait for its device, or are expected for it.
    pub calls: Vec<CallId>,
}

/// How a REGISTER that was to pass through ended. A refresh is one for a registration that is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterOutcome {
    /// The SIP server has granted a first registration.
    Registered,
    /// The SIP server has granted a refresh.
    Refreshed,
    /// A 2xx that makes no registration here: to an unregistration, to a question, or to one that no call comes back for.
    Unregistered,
    /// The SIP server asks for a proof, or for a newer one.
    Challenged,
    /// The SIP server did not take the proof of a refresh: it was wrong, or made for an old nonce.
    Unproven,
    /// The SIP server, or the relay, refused a refresh (403, 404, …).
    Refused,
    /// The SIP server answered a refresh with an error that may pass.
    Failed,
    /// The SIP server left a refresh without an answer.
    TimedOut,
    /// A refresh did not get to its SIP server.
    Unreachable,
    /// The relay put a refresh off: it is not its turn, or a limit is reached, or the relay ends.
    Limited,
    /// A first registration was not granted, whatever the reason.
    FirstFailed,
}

/// Reason why a registration has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushBindingEnd {
    /// The device removed it, or wants no pushes any more.
    Unregistered,
    /// The registration has expired.
    Expired,
    /// The same device registered with another push token, or turned to pushes or from them.
    Replaced,
    /// The shell said so: its push token is dead.
    Removed,
}

impl PushBindingEnd {
    /// A word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unregistered => "unregistered",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::Removed => "removed",
        }
    }
}

// Their fields name people and devices.
impl fmt::Debug for RouteRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteRequest")
            .field("register", &self.register)
            .field("push", &self.push)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ProofRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProofRequest").field("proof", &self.proof).finish_non_exhaustive()
    }
}

impl fmt::Debug for PushBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushBinding").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl fmt::Debug for ContactsRemoved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContactsRemoved").field("contacts", &self.contacts.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for FlowBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowBinding").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl fmt::Debug for RestoredPushBinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.registration, f)
    }
}
