//! The values that a label of a metric can take.
//!
//! Invariant: every label value is a variant of an enum here, or a route template or HTTP status from a fixed table; so
//! no series can name a person, an address or a token, and the number of series is known beforehand.

/// A label whose values are the variants of an enum.
pub trait Label: Copy + 'static {
    /// The label's name in the exposition.
    const NAME: &'static str;
    /// Every variant, in the order of [`Label::index`].
    const ALL: &'static [Self];

    /// The variant's place in [`Label::ALL`].
    fn index(self) -> usize;

    /// The label's value in the exposition.
    fn value(self) -> &'static str;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident as $label:literal { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl Label for $name {
            const NAME: &'static str = $label;
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            fn index(self) -> usize {
                self as usize
            }

            fn value(self) -> &'static str {
                match self { $(Self::$variant => $value,)* }
            }
        }
    };
}

label!(
    /// Where a push instance stands.
    InstanceState as "state" {
        /// Its registration stands at the SIP server.
        Registered = "registered",
        /// Its first registration, or one after a restart, is under way.
        Registering = "registering",
        /// Its registration failed and will be tried again.
        Retrying = "retrying",
        /// The app is awake and registers by itself.
        Foreground = "foreground",
        /// It is being unregistered and wiped.
        Ending = "ending",
    }
);
label!(
    /// How one REGISTER ended.
    RegistrationOutcome as "outcome" {
        /// 200 to a first registration, or to one after a loss.
        Registered = "registered",
        /// 200 to a refresh.
        Refreshed = "refreshed",
        /// 200 to an unregistration.
        Unregistered = "unregistered",
        /// The server refused for good (403, 404, credentials).
        Refused = "refused",
        /// The server answered with an error that may pass (5xx, 6xx).
        Failed = "failed",
        /// No answer in time.
        TimedOut = "timed-out",
        /// No connection, no address, or a certificate that does not fit.
        Unreachable = "unreachable",
    }
);
label!(
    /// How one INVITE from the account's server ended.
    InviteOutcome as "outcome" {
        /// The device answered.
        Answered = "answered",
        /// The caller gave up.
        Cancelled = "cancelled",
        /// Another device of the AOR answered.
        AnsweredElsewhere = "answered-elsewhere",
        /// The device declined.
        Declined = "declined",
        /// The device answered busy or with another refusal.
        Refused = "refused",
        /// No device, or no answer, in time.
        TimedOut = "timed-out",
        /// The push could not be delivered, and no device was attached.
        Unreachable = "unreachable",
        /// The Contact user is not known here: 404.
        Unknown = "unknown",
        /// It did not come from the account's own server: 403.
        WrongSource = "wrong-source",
        /// A limit (calls held, pushes for a device) was reached.
        Limited = "limited",
    }
);
label!(
    /// How one MESSAGE from the account's server ended, for one device.
    MessageOutcome as "outcome" {
        /// Kept until the device fetches it.
        Kept = "kept",
        /// The same one was kept before.
        Repeated = "repeated",
        /// The device took it on its flow.
        Delivered = "delivered",
        /// The device refused it.
        Refused = "refused",
        /// It only said that somebody writes.
        Composing = "composing",
        /// Its body is over the limit: 413.
        TooLarge = "too-large",
        /// As many are kept as may be: 480.
        Full = "full",
        /// Too many came at once: 480.
        Limited = "limited",
        /// It cannot be kept as it is: 400, 415, 420.
        Unfit = "unfit",
        /// The store did not answer: 503.
        StoreAway = "store-away",
    }
);
label!(
    /// What became of the note of a call that nobody answered.
    MissedCallOutcome as "outcome" {
        /// Kept until the device fetches it.
        Kept = "kept",
        /// The store did not answer; the push was sent all the same.
        Lost = "lost",
    }
);
label!(
    /// What a NOTIFY said of a mailbox.
    MailboxNotice as "notice" {
        /// Something new.
        Changed = "changed",
        /// What was known.
        Unchanged = "unchanged",
    }
);
label!(
    /// A push service.
    PushProvider as "provider" {
        /// Apple's.
        Apns = "apns",
        /// Firebase Cloud Messaging.
        Fcm = "fcm",
        /// Printed instead of sent: `serve` without a configuration.
        Printed = "printed",
    }
);
label!(
    /// How one push ended, retries included.
    PushOutcome as "outcome" {
        /// The service took it.
        Accepted = "accepted",
        /// The token is dead.
        Gone = "gone",
        /// The service refuses it for good.
        Refused = "refused",
        /// The service could not be reached, or kept asking to wait.
        Failed = "failed",
        /// The deadline passed first.
        TooLate = "too-late",
        /// Not sent: the device's rate limit was reached.
        Limited = "limited",
    }
);
label!(
    /// Why an instance was wiped.
    WipeReason as "reason" {
        /// The app disabled push.
        Disabled = "disabled",
        /// The lease ended.
        Expired = "expired",
        /// The push service called the token dead.
        PushTokenGone = "push-token-gone",
        /// The SIP server refused the credentials.
        RefusedUpstream = "refused-upstream",
        /// The same app, AOR and push token was enabled again.
        Replaced = "replaced",
        /// The operator asked for it.
        Operator = "operator",
    }
);
label!(
    /// How a REGISTER of a device at the edge ended.
    AdmissionOutcome as "outcome" {
        /// The device is attached.
        Attached = "attached",
        /// The first REGISTER, without credentials: challenged.
        Challenged = "challenged",
        /// The credentials do not fit.
        Refused = "refused",
        /// No such instance.
        Unknown = "unknown",
        /// A limit was reached.
        Limited = "limited",
    }
);
label!(
    /// A listener of this process.
    Listener as "listener" {
        /// SIP over TLS, for devices.
        Edge = "edge",
        /// SIP over secure WebSocket, for devices.
        Websocket = "websocket",
        /// HTTPS, for apps.
        Api = "api",
        /// HTTPS, for operators.
        Operator = "operator",
        /// SIP from the accounts' servers.
        Upstream = "upstream",
    }
);
label!(
    /// How an inbound TLS handshake ended.
    HandshakeOutcome as "outcome" {
        /// It was completed.
        Completed = "completed",
        /// The peer did not speak TLS, or not as it must.
        Failed = "failed",
        /// The peer was too slow.
        TimedOut = "timed-out",
        /// The listener was full.
        Limited = "limited",
    }
);
label!(
    /// Why a SIP message was dropped or refused before it reached a binding.
    SipRefusal as "reason" {
        /// It does not parse.
        Malformed = "malformed",
        /// It is over a limit of size or count.
        TooLarge = "too-large",
        /// It came from an address that may not send it.
        WrongSource = "wrong-source",
        /// It names nobody here.
        Unknown = "unknown",
        /// Its method is not served here.
        Method = "method",
    }
);
label!(
    /// What was asked of the store.
    StoreOperation as "operation" {
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
