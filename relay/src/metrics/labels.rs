//! The labels of the metrics, and the values that they take.
//!
//! Invariant: every label value is a word of the [domain](crate::domain) or of this file, an app's id of the configuration or of an operator's canary, or a
//! route template or HTTP status from a fixed table; so no series can name a person, an address or a token, and the number of series is known
//! beforehand.

use std::fmt;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

use crate::domain::{CanaryStep, InstanceState, MessageOutcome, PushOutcome, PushProvider, WipeReason, Word, words};

/// A label whose values are the words of an enum.
pub trait Label: Word {
    /// The label's name in the exposition.
    const NAME: &'static str;
}

/// One label and its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct OneLabel<L>(pub L);

/// Two labels and their values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TwoLabels<A, B>(pub A, pub B);

impl<L: Label> EncodeLabelSet for OneLabel<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        (L::NAME, self.0.word()).encode(encoder.encode_label())
    }
}

impl<A: Label, B: Label> EncodeLabelSet for TwoLabels<A, B> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        OneLabel(self.0).encode(encoder)?;
        OneLabel(self.1).encode(encoder)
    }
}

/// A push service of an app of the configuration, and perhaps another label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OfApp<L> {
    pub provider: &'static str,
    pub app: Box<str>,
    pub label: Option<L>,
}

impl EncodeLabelSet for OfApp<()> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        (PushProvider::NAME, self.provider).encode(encoder.encode_label())?;
        ("app", &*self.app).encode(encoder.encode_label())
    }
}

impl<L: Label> EncodeLabelSet for OfApp<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        (PushProvider::NAME, self.provider).encode(encoder.encode_label())?;
        if let Some(label) = self.label {
            OneLabel(label).encode(encoder)?;
        }
        ("app", &*self.app).encode(encoder.encode_label())
    }
}

/// An app that has a canary, and perhaps another label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Canary<L> {
    pub app: Box<str>,
    pub label: L,
}

impl EncodeLabelSet for Canary<()> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("app", &*self.app).encode(encoder.encode_label())
    }
}

impl<L: Label> EncodeLabelSet for Canary<L> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("app", &*self.app).encode(encoder.encode_label())?;
        OneLabel(self.label).encode(encoder)
    }
}

/// The end of a canary's round: whole, or the step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CanaryOutcome(pub Option<CanaryStep>);

/// The labels of an HTTP request: the only set whose values are not all known beforehand.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct HttpRequest {
    /// A route template.
    pub route: &'static str,
    pub status: u16,
}

impl Label for CanaryStep {
    const NAME: &'static str = "step";
}

impl EncodeLabelSet for Canary<CanaryOutcome> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        ("app", &*self.app).encode(encoder.encode_label())?;
        ("outcome", self.label.0.map_or("whole", Word::word)).encode(encoder.encode_label())
    }
}

impl Label for InstanceState {
    const NAME: &'static str = "state";
}

impl RegistrationOutcome {
    /// The word for an answer that grants nothing, and is not the end of the account.
    pub const fn of_refusal(status: u16) -> Self {
        match status {
            401 | 403 | 404 | 407 | 604 => Self::Refused,
            _ => Self::Failed,
        }
    }
}

impl Label for RegistrationOutcome {
    const NAME: &'static str = "outcome";
}

impl Label for InviteOutcome {
    const NAME: &'static str = "outcome";
}

impl Label for MessageOutcome {
    const NAME: &'static str = "outcome";
}

impl Label for MissedCallOutcome {
    const NAME: &'static str = "outcome";
}

impl Label for TraceOutcome {
    const NAME: &'static str = "outcome";
}

impl Label for MwiNotify {
    const NAME: &'static str = "notice";
}

impl Label for PushProvider {
    const NAME: &'static str = "provider";
}

impl Label for PushOutcome {
    const NAME: &'static str = "outcome";
}

impl Label for WipeReason {
    const NAME: &'static str = "reason";
}

impl Label for EdgeRegisterOutcome {
    const NAME: &'static str = "outcome";
}

impl Label for PassedRegisterOutcome {
    const NAME: &'static str = "outcome";
}

impl Label for LostWithin {
    const NAME: &'static str = "within";
}

impl Label for PassedEnd {
    const NAME: &'static str = "end";
}

impl Label for Listener {
    const NAME: &'static str = "listener";
}

impl Label for Warning {
    const NAME: &'static str = "about";
}

impl Label for CertificateOrder {
    const NAME: &'static str = "outcome";
}

impl Label for HandshakeOutcome {
    const NAME: &'static str = "outcome";
}

impl Label for SipRefusal {
    const NAME: &'static str = "reason";
}

impl Label for Limit {
    const NAME: &'static str = "limit";
}

impl Label for StoreOperation {
    const NAME: &'static str = "operation";
}

words!(
    /// How one REGISTER ended.
    RegistrationOutcome {
        /// 200 to a first registration, or to one after a loss.
        Registered = "registered",
        /// 200 to a refresh.
        Refreshed = "refreshed",
        /// 200 to an unregistration.
        Unregistered = "unregistered",
        /// Another answer to an unregistration than one that confirms it: no call is missing for it.
        UnregistrationFailed = "unregistration-failed",
        /// The server refused the account or its credentials (401, 403, 404, 407, 604), whatever follows.
        Refused = "refused",
        /// The server answered with an error that may pass (5xx, 6xx).
        Failed = "failed",
        /// No answer in time.
        TimedOut = "timed-out",
        /// No connection, no address, or a certificate that does not fit.
        Unreachable = "unreachable",
    }
);
words!(
    /// How one INVITE from the account's server ended.
    InviteOutcome {
        /// The device answered.
        Answered = "answered",
        /// The caller gave up.
        Cancelled = "cancelled",
        /// Another device of the AOR answered.
        AnsweredElsewhere = "answered-elsewhere",
        /// The device declined.
        Declined = "declined",
        /// The device's SIP stack refused the call before it rang, and nobody declined on another device.
        RefusedByDevice = "refused-by-device",
        /// The relay refused the INVITE by itself, for another reason than those below.
        Refused = "refused",
        /// No device, or no answer, in time.
        TimedOut = "timed-out",
        /// The push could not be delivered, and no device was attached.
        Unreachable = "unreachable",
        /// The Contact user is not known here: 404.
        Unknown = "unknown",
        /// The INVITE did not come from the account's own server: 403.
        WrongSource = "wrong-source",
        /// A limit (calls that wait, pushes for a device) was reached.
        Limited = "limited",
    }
);
words!(
    /// Outcome of storing the note of a missed call, or a call's story.
    MissedCallOutcome {
        /// Kept.
        Kept = "kept",
        /// The store refused it, or did not answer and too many waited for it; the push was sent all the same.
        Lost = "lost",
    }
);
words!(
    /// How an order of a certificate ended.
    CertificateOrder {
        /// The new certificate is in use.
        Issued = "issued",
        /// The old one stays.
        Failed = "failed",
    }
);
words!(
    /// Outcome of a trace for the collector of `[otlp]`.
    TraceOutcome {
        /// The collector took it.
        Sent = "sent",
        /// The collector did not, or not all that came with it; or there was no room.
        Lost = "lost",
    }
);
words!(
    /// Content of a NOTIFY about a mailbox.
    MwiNotify {
        /// Something new.
        Changed = "changed",
        /// Nothing new.
        Unchanged = "unchanged",
    }
);
words!(
    /// How a REGISTER of a device at the edge ended.
    EdgeRegisterOutcome {
        /// The device is attached.
        Attached = "attached",
        /// The first REGISTER, without credentials: challenged.
        Challenged = "challenged",
        /// The credentials do not fit.
        Refused = "refused",
        /// No such instance, nor a registration that may pass through.
        Unknown = "unknown",
        /// No such instance yet, and some may be on their way here.
        Early = "early",
        /// Another node has the instance: its dialogs go on here, and no call comes.
        Elsewhere = "elsewhere",
        /// A limit was reached.
        Limited = "limited",
    }
);
words!(
    /// How a REGISTER ended that a device sent to its own SIP server through the edge (RFC 8599). A refresh is one for a registration that this node knows.
    PassedRegisterOutcome {
        /// The SIP server granted a first registration.
        Registered = "registered",
        /// The SIP server granted a refresh.
        Refreshed = "refreshed",
        /// A 2xx that makes no registration here: to an unregistration, to a question, or to a registration that no call comes back for.
        Unregistered = "unregistered",
        /// The SIP server asks for a proof, or for a newer one: the device answers.
        Challenged = "challenged",
        /// The SIP server did not take the proof of a refresh: it was wrong, or made for an old nonce.
        Unproven = "unproven",
        /// The SIP server (403, 404, 410, 604), or this relay's configuration, refused a refresh.
        Refused = "refused",
        /// The SIP server answered a refresh with another error.
        Failed = "failed",
        /// No answer to a refresh in time.
        TimedOut = "timed-out",
        /// No connection or no address for a refresh.
        Unreachable = "unreachable",
        /// The relay put a refresh off: it was not its turn (upstream.registrations_per_second), a limit was reached, or the relay ended.
        Limited = "limited",
        /// A first registration was not granted, whatever the reason: anybody may ask for one.
        FirstFailed = "first-failed",
    }
);
words!(
    /// How a registration that passed through ended.
    PassedEnd {
        /// Its device took it back, or wants no pushes any more.
        Unregistered = "unregistered",
        /// It was not renewed in time, or not granted again.
        Expired = "expired",
        /// Its device has another one from now on.
        Replaced = "replaced",
        /// The relay ended it: its push token is dead, or an operator wiped it.
        Removed = "removed",
        /// Another node has it by now, or has ended it.
        Moved = "moved",
    }
);
words!(
    /// How long ago a registration ran out whose phone is not back.
    LostWithin {
        /// An hour at most.
        Hour = "hour",
        /// A day at most.
        Day = "day",
    }
);
words!(
    /// A listener of this process.
    Listener {
        /// SIP over TLS, for devices.
        Edge = "edge",
        /// SIP over secure WebSocket, for devices.
        Websocket = "websocket",
        /// HTTPS, for apps.
        Api = "api",
        /// HTTPS, for operators.
        Operator = "operator",
        /// For the CA that looks whether a name is this relay's.
        Acme = "acme",
        /// SIP from the accounts' servers.
        Upstream = "upstream",
    }
);
words!(
    /// A fault to be mended although the relay does its work, by its subject.
    Warning {
        /// An error of the CA in ACME.
        Acme = "acme",
        /// Accounts of an app that is not in this node's configuration.
        Apps = "apps",
        /// The audit trail.
        Audit = "audit",
        /// The certificate in its files.
        Certificate = "certificate",
        /// A part of the relay that has ended by a fault of its own.
        Chores = "chores",
        /// This machine's clock.
        Clock = "clock",
        /// The keyring: another one than the other nodes have.
        Keyring = "keyring",
        /// The keyring's file: gone, or not to be read.
        KeyringFile = "keyring-file",
        /// The name servers.
        NameServers = "name-servers",
        /// A certificate that Apple is shown.
        PushCertificate = "push-certificate",
        /// The kind of store.
        Store = "store",
        /// How far the store's clock is from this machine's.
        StoreClock = "store-clock",
        /// Wipes that cannot be written down.
        Tombstones = "tombstones",
        /// The certificate in use, as those who connect will see it.
        Trust = "trust",
    }
);
words!(
    /// How an inbound TLS handshake ended.
    HandshakeOutcome {
        /// The handshake was completed.
        Completed = "completed",
        /// The peer did not speak TLS, or not as it must.
        Failed = "failed",
        /// The peer was too slow.
        TimedOut = "timed-out",
        /// The listener was full.
        Limited = "limited",
    }
);
words!(
    /// Why a SIP message was dropped or refused before it reached a binding.
    SipRefusal {
        /// The request does not parse.
        Malformed = "malformed",
        /// The request is over a limit of size or count.
        TooLarge = "too-large",
        /// The request came from an address that may not send it.
        WrongSource = "wrong-source",
        /// The request names nobody here.
        Unknown = "unknown",
        /// Its method is not served here.
        Method = "method",
    }
);
words!(
    /// A limit that kept somebody from taking too much.
    Limit {
        /// A message that was not whole in time: its connection is closed.
        HalfMessage = "half-message",
        /// Connections or handshakes of one source, or of a listener: the further one is closed.
        Connections = "connections",
        /// Instances of this node: 503.
        InstancesNode = "instances-node",
        /// Instances of one App: 429.
        InstancesApp = "instances-app",
        /// Instances of one account at its SIP server: 429.
        InstancesAccount = "instances-account",
        /// Instances that one source has enabled: 429.
        InstancesSource = "instances-source",
        /// Registrations that passed through this node (RFC 8599): 503.
        RegistrationsNode = "registrations-node",
        /// Registrations that passed through to one SIP server: 503.
        RegistrationsServer = "registrations-server",
        /// Registrations that passed through from one source: 503.
        RegistrationsSource = "registrations-source",
        /// Pushes of one device in a minute: an alert is left out, a call is 480.
        PushesDevice = "pushes-device",
        /// Calls of one caller at one device in a minute: 480.
        PushesCaller = "pushes-caller",
        /// Pushes of one App in a day: an alert is left out, a call is 480.
        PushesApp = "pushes-app",
        /// A SIP server that could not be connected to in time: it is tried again later.
        Dials = "dials",
        /// Wrong passwords for one account: 429, 503.
        FailuresAccount = "failures-account",
        /// Wrong passwords from one source: 429, 503.
        FailuresSource = "failures-source",
    }
);
words!(
    /// An operation of the store.
    StoreOperation {
        /// A record was written.
        Put = "put",
        /// A record was read or looked up.
        Load = "load",
        /// A record was erased.
        Erase = "erase",
        /// Records were claimed from a node that died, or after a restart.
        Claim = "claim",
        /// The lease of this node was renewed, or the store was pinged.
        Lease = "lease",
    }
);
