//! The words of the domain: how an instance stands, why it ended, what became of a push or a message.
//!
//! Each has one word, which the JSON of the API, the receipts, the timelines and the labels of the metrics share.
//!
//! Invariant: a word is part of the published API, and names no person, address or token.

pub mod characters;
pub mod story;

/// An enum whose variants each have a word that is seen outside.
pub trait Word: Copy + Eq + std::hash::Hash + std::fmt::Debug + Send + Sync + 'static {
    /// Every variant, in the order of [`Word::index`].
    const ALL: &'static [Self];

    /// The variant's place in [`Word::ALL`].
    fn index(self) -> usize;

    /// The variant's word.
    fn word(self) -> &'static str;
}

/// Declares enums with their words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $crate::domain::Word for $name {
            const ALL: &'static [Self] = &[$(Self::$variant,)*];

            fn index(self) -> usize {
                self as usize
            }

            fn word(self) -> &'static str {
                match self { $(Self::$variant => $value,)* }
            }
        }
    };
}
pub(crate) use words;

words!(
    /// The state of a push instance.
    InstanceState {
        /// Its registration stands at the SIP server.
        Registered = "registered",
        /// Its first registration, or one after a restart, is under way.
        Registering = "registering",
        /// Its registration failed and will be tried again.
        Retrying = "retrying",
        /// The app is awake and registers by itself.
        Foreground = "foreground",
        /// The instance is being unregistered and wiped.
        Ending = "ending",
    }
);
words!(
    /// How one MESSAGE from the account's server ended, for one device.
    MessageOutcome {
        /// Kept until the device fetches it.
        Kept = "kept",
        /// The same one was kept before.
        Repeated = "repeated",
        /// The device took it on its flow.
        Delivered = "delivered",
        /// The device refused it.
        Refused = "refused",
        /// The message only said that somebody writes.
        Composing = "composing",
        /// Its body is over the limit: 413.
        TooLarge = "too-large",
        /// As many are kept as may be: 480.
        Full = "full",
        /// Too many came at once: 480.
        Limited = "limited",
        /// The message cannot be kept as it is: 400, 415, 420.
        Unfit = "unfit",
        /// The store did not answer: 503.
        StoreAway = "store-away",
    }
);
words!(
    /// A push service.
    PushProvider {
        /// Apple's.
        Apns = "apns",
        /// Firebase Cloud Messaging.
        Fcm = "fcm",
        /// Web Push, UnifiedPush among it.
        WebPush = "webpush",
        /// Printed instead of sent: `serve` without a configuration.
        Printed = "printed",
    }
);
words!(
    /// How one push ended, retries included.
    PushOutcome {
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
    }
);
words!(
    /// Why an instance was wiped.
    WipeReason {
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

impl WipeReason {
    /// Whether a node has ended an instance by itself, by its own knowledge; else the end was requested, which counts whichever node has the
    /// instance.
    pub fn is_nobodys_word(self) -> bool {
        matches!(self, Self::Expired | Self::PushTokenGone | Self::RefusedUpstream)
    }
}

words!(
    /// The steps that a canary waits for, one after the other.
    CanaryStep {
        /// The relay took the account, and its SIP server has registered it.
        Enable = "enable",
        /// The SIP server took the call, and the relay has it.
        Invite = "invite",
        /// The push service took the push.
        Push = "push",
        /// The device was let in at the edge.
        Attach = "attach",
        /// The call was at the device.
        Ring = "ring",
        /// The caller had the device's answer.
        Answer = "answer",
        /// The caller hung up.
        End = "end",
        /// The account was taken back, with a receipt.
        Wipe = "wipe",
    }
);

impl serde::Serialize for WipeReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl<'de> serde::Deserialize<'de> for WipeReason {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = std::borrow::Cow::<str>::deserialize(deserializer)?;
        let reason = Self::ALL.iter().find(|reason| reason.word() == word);
        reason.copied().ok_or_else(|| serde::de::Error::custom("no reason of a wipe"))
    }
}
