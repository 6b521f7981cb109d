//! Pushes: their content, the services that carry them, and the services' answers.
//!
//! | room | what it is |
//! | --- | --- |
//! | `payload` | what a push says |
//! | `delivery` | a push from its order to its verdict |
//! | `recipient` | whether a push is still for the token that it was tried with |
//! | `apns`, `fcm`, `webpush` | the services |
//! | `connection` | the way to a service |
//! | `health` | how each service stands |
//! | `setup` | what can be wrong before the first push |
//! | `jwt`, `rfc8599` | tokens that sign; the parameters of a Contact |
//! | `measured` | the parts that benches measure |
//!
//! Invariant: a call is pushed once and never again (APNs); no push outlives its deadline; a verdict tells what follows,
//! and never holds a token.

pub mod apns;
mod connection;
mod delivery;
pub mod fcm;
mod health;
mod jwt;
#[doc(hidden)]
pub mod measured;
pub mod payload;
mod recipient;
mod rfc8599;
mod setup;
pub mod webpush;

use std::fmt;
use std::time::{Duration, Instant};

use sip::id::{CallId, InstanceId};

use crate::clock;

pub(crate) use connection::departure::ANSWERED_WITHIN;
pub use connection::departure::{Departure, Recall, Recalled, Unsent};
pub use connection::identity::chain;
#[cfg(test)]
pub(crate) use connection::network::Nowhere;
pub use connection::network::{ByteStream, Network, Opening, System};
pub use connection::withdrawal::Withdrawal;
pub use delivery::dry_run::DryRun;
pub use delivery::printed::take_printed;
pub(crate) use delivery::service::Mode;
pub use delivery::service::{AppPush, Delivery, PushService, check};
pub use health::{Report, State};
pub use payload::collapse::Subject;
pub use recipient::{Fixed, IsGoneFuture, Recipient, StaysFuture};
pub use rfc8599::{Address, NoAddress};
pub use setup::{Problem, SetupError};

/// The event, as the payload's `event`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A call waits at the relay.
    Call,
    /// A call that was pushed has ended (FCM only; never a VoIP push).
    CallEnded,
    /// A SIP MESSAGE is stored.
    Message,
    /// The mailbox changed.
    Voicemail,
    /// A call was not answered.
    MissedCall,
    /// The lease ends in a day: renew, silently.
    Renew,
    /// The lease ends soon: the user should know.
    Expiring,
    /// The lease has ended.
    Expired,
    /// The registration has been lost for long: the user should know.
    RegistrationFailing,
    /// The registration is back, silently.
    RegistrationRestored,
    /// The SIP server no longer accepts the registration.
    RegistrationLost,
    /// The app asked for a test.
    Test,
}

impl Event {
    /// The payload's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Event::Call => "call",
            Event::CallEnded => "call-ended",
            Event::Message => "message",
            Event::Voicemail => "voicemail",
            Event::MissedCall => "missed-call",
            Event::Renew => "renew",
            Event::Expiring => "expiring",
            Event::Expired => "expired",
            Event::RegistrationFailing => "registration-failing",
            Event::RegistrationRestored => "registration-restored",
            Event::RegistrationLost => "registration-lost",
            Event::Test => "test",
        }
    }

    /// Whether it concerns a phone that rings, or should ring: it cannot wait.
    pub fn is_of_a_call(self) -> bool {
        matches!(self, Event::Call | Event::CallEnded)
    }
}

/// One push, the same object for every service.
#[derive(Clone, PartialEq)]
pub struct Push {
    /// The event.
    pub event: Event,
    /// The instance concerned.
    pub instance: InstanceId,
    /// The call, for `call` and `call-ended`.
    pub call: Option<CallId>,
    /// The caller's URI; `sip:anonymous@anonymous.invalid` when privacy was asked for.
    pub from: Option<Box<str>>,
    /// The caller's display name; any text, made safe where it is encoded.
    pub name: Option<Box<str>>,
    /// The public edge of the node at which the call waits: `host:port`.
    pub edge: Box<str>,
    /// Seconds since 1970, by the clock of which phones are [told](crate::clock::advertised_now): when it was made; a call's push says [when it
    /// leaves](Push::renewed).
    pub sent_at: u64,
    /// Likewise; after it the push is worthless and is not sent.
    pub deadline: u64,
    /// The time at which it was made, by the monotonic clock, which alone decides its age ([`Push::until`]).
    pub made_at: Instant,
    /// Further members of the object (`status`, `reason`, counts), already free of secrets.
    pub extra: Vec<(&'static str, serde_json::Value)>,
}

impl fmt::Debug for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Push({}, {})", self.event.name(), self.instance)
    }
}

impl Push {
    /// The end of its use: as long after its making as its deadline is after `sent_at`, even if the wall clock is changed meanwhile.
    pub fn until(&self) -> Instant {
        self.made_at + Duration::from_secs(self.life_s())
    }

    /// The same push with the present time, if a call's has waited for a second or longer: `deadline` less `sent_at` is how long the call still waits.
    pub(crate) fn renewed(&self) -> Option<Self> {
        let waited = clock::now().saturating_duration_since(self.made_at).as_secs();
        let waits = self.event == Event::Call && waited > 0;
        waits.then(|| Self { sent_at: (self.sent_at + waited).min(self.deadline), ..self.clone() })
    }

    /// How long it is worth delivering, in seconds.
    pub fn life_s(&self) -> u64 {
        self.deadline.saturating_sub(self.sent_at)
    }

    /// Whether it is for the app alone and shows its user nothing: a renewal, or a mailbox without waiting messages.
    pub fn is_silent(&self) -> bool {
        match self.event {
            Event::Renew | Event::RegistrationRestored => true,
            Event::Voicemail => self.extra.iter().any(|(key, value)| *key == "waiting" && *value == false),
            _ => false,
        }
    }
}

/// A push service's answer, by its consequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The service took it.
    Accepted,
    /// The token is dead, since the moment (milliseconds since 1970) that the service named, if it named one: wipe.
    Gone {
        /// When the service saw the token die.
        since: Option<u64>,
    },
    /// The service does not know the token (APNs `BadDeviceToken`): it is dead, or the operator has mixed up the environments.
    BadToken,
    /// Not now: the service is overloaded, unreachable or asks to wait.
    Retry {
        /// How long the service asks to wait.
        after: Option<Duration>,
    },
    /// This push can never succeed: a configuration or payload the service refuses. The reason is the service's own
    /// word from a bounded set, fit for a log and an operator.
    Refused {
        /// The service's word for it.
        reason: &'static str,
    },
    /// The deadline passed before or during the attempts.
    TooLate,
    /// The connection was lost or went silent after the service may have taken a call's push: it is not sent again.
    Unconfirmed,
    /// No further attempt was made: the device has another token by now, or has attached by itself.
    Moved,
}

impl Verdict {
    /// Whether the token is dead for an app that confirmed it at `confirmed_at_ms` (milliseconds since 1970): true for
    /// [`Verdict::Gone`], unless the service saw an earlier installation's token die.
    pub fn token_is_dead(&self, confirmed_at_ms: u64) -> bool {
        match self {
            Verdict::Gone { since } => since.is_none_or(|since| since >= confirmed_at_ms),
            _ => false,
        }
    }
}
