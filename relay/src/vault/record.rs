//! The record of one push instance. It is in the clear only in memory, and only while it is used.
//!
//! Invariant: nothing here prints a secret or its owner. The encoded form exists only inside a sealed record.

use std::borrow::Cow;
use std::fmt;

use zeroize::Zeroize as _;

use crate::hpke::PublicKey;
use crate::secret::{Aor, Ha1Text, InstanceSecret, Password, PushToken};

pub use sip::endpoint::Presence;

/// Realms of one account whose HA1s are kept at most; the REGISTER of one is asked in one or two.
pub const REALMS_MAX: usize = 8;

/// The kind of a sealed record.
#[derive(Clone, Debug, PartialEq)]
pub enum StoredRecord {
    /// A lent account.
    Lent(Record),
    /// A push binding: a registration that only passes through (RFC 8599).
    PushBinding(PushBindingRecord),
}

impl StoredRecord {
    /// The lent account, if it is one.
    pub fn lent(&self) -> Option<&Record> {
        match self {
            Self::Lent(record) => Some(record),
            Self::PushBinding(_) => None,
        }
    }

    /// The push binding, if it is one.
    pub fn push_binding(&self) -> Option<&PushBindingRecord> {
        match self {
            Self::Lent(_) => None,
            Self::PushBinding(record) => Some(record),
        }
    }
}

/// What can be sealed as a record, and found by its app, its AOR and its push token.
pub trait Storable {
    /// Shows every byte of the encoded form to `sink`, in order.
    fn visit(&self, sink: &mut dyn FnMut(&[u8]));

    /// What it is found by. A push binding has another name for its app than a lent account, so that the two of one device
    /// are two.
    fn found_by(&self) -> (Cow<'_, str>, &Aor, &PushToken);
}

/// Everything the relay knows of one push instance: the account, the device and what joins them.
#[derive(Clone, PartialEq)]
pub struct Record {
    /// The App's id, as the operator configured it.
    pub app: Box<str>,
    /// The lent SIP account.
    pub account: Account,
    /// The device to wake.
    pub device: Device,
    /// Which events wake it.
    pub wake_for: WakeFor,
    /// The device's proof.
    pub secret: InstanceSecret,
    /// The opaque user of the relay's Contact; the same for all devices of one account in one app.
    pub binding: sip::id::BindingId,
    /// `+sip.instance` of the binding, a UUID (RFC 5626 §4.1); the same for all devices of one account in one app on one node.
    pub sip_instance: [u8; 16],
    /// Whether the SIP server had accepted the credentials when this was stored. An instance of which it has not gets no call
    /// before it has.
    pub proven: bool,
    /// When it was enabled, in seconds since 1970.
    pub created_at: u64,
    /// When it ends, in seconds since 1970; at most 6 days after the last renewal.
    pub expires_at: u64,
    /// Whether the app itself is registered at this moment.
    pub presence: Presence,
    /// The last reminder of its end that a push service took, or that its lifetime was too short for.
    pub reminded: Option<Reminder>,
    /// A push service took that the registration fails, and none that it is back.
    pub told_failing: bool,
}

/// A registration that passed through, as it is found again after a restart.
#[derive(Clone, PartialEq)]
pub struct PushBindingRecord {
    /// The App's id.
    pub app: Box<str>,
    /// The address of record.
    pub aor: Aor,
    /// What tells the AOR's devices apart.
    pub contact: Box<str>,
    /// The Request-URI of its REGISTER.
    pub registrar: Box<str>,
    /// The SIP server's own outbound proxy.
    pub proxy: Option<Box<str>>,
    /// `pn-provider`
    pub provider: Box<str>,
    /// `pn-param`
    pub param: Option<Box<str>>,
    /// `pn-prid`
    pub prid: PushToken,
    /// The device refreshes it by itself.
    pub refreshes_itself: bool,
    /// When its device named the push token last, in milliseconds since 1970.
    pub confirmed_at_ms: u64,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
}

/// Makes each type print its name alone: its contents name a person, or are a secret.
macro_rules! print_nothing {
    ($($name:ident),+) => {
        $(impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        })+
    };
}

print_nothing!(Record, PushBindingRecord, Account, Ha1s, Device);

/// A SIP account as the app handed it over.
#[derive(Clone, PartialEq)]
pub struct Account {
    /// The address of record; `sip:` or `sips:`.
    pub aor: Aor,
    /// The user name of the digest; the AOR's user when the app named none.
    pub auth_username: Box<str>,
    /// The secrets from which the digest is computed.
    pub proof: Proof,
    /// The registrar's URI; the AOR's domain when absent.
    pub registrar: Option<Box<str>>,
    /// Where requests are sent instead of the registrar's address.
    pub outbound_proxy: Option<Box<str>>,
}

/// A password, or the HA1s that let the relay do without it.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// The password itself.
    Password(Password),
    /// HA1s that the app has made.
    Ha1(Ha1s),
    /// HA1s that this relay has made of a password, of which nothing else is left: for each realm that the SIP server has asked in,
    /// one at least.
    Derived(Vec<Ha1s>),
}

impl Proof {
    /// Whether it is the password itself.
    pub fn is_password(&self) -> bool {
        matches!(self, Self::Password(_))
    }
}

/// Precomputed HA1s for one realm; at least one is present.
#[derive(Clone, PartialEq)]
pub struct Ha1s {
    /// The realm they were made for; a challenge for another realm is refused.
    pub realm: Box<str>,
    /// For MD5 (RFC 7616).
    pub md5: Option<Ha1Text>,
    /// For SHA-256 (RFC 8760).
    pub sha256: Option<Ha1Text>,
    /// For SHA-512-256 (RFC 8760).
    pub sha512_256: Option<Ha1Text>,
}

/// The device that a push wakes.
#[derive(Clone, PartialEq)]
pub struct Device {
    /// Where calls go.
    pub call_push: PushTarget,
    /// Where everything else goes; `None`: to the call target, nowhere on APNs.
    pub alert_push: Option<PushTarget>,
    /// The user's name for the device; at most 64 characters.
    pub label: Option<Box<str>>,
}

impl Device {
    /// Where everything but calls goes: the alert target, or on FCM and Web Push, where one token serves for both, the call
    /// target.
    pub fn alert_target(&self) -> Option<&PushTarget> {
        let by_call = Some(&self.call_push).filter(|target| !target.provider.is_apple());
        self.alert_push.as_ref().or(by_call)
    }

    /// The key that what names a person is sealed to, in the pushes of either target.
    pub fn public_key(&self) -> Option<PublicKey> {
        self.call_push.public_key.as_deref().copied()
    }

    /// Seals to this key from now on, or to none.
    pub fn set_public_key(&mut self, key: Option<PublicKey>) {
        for target in std::iter::once(&mut self.call_push).chain(&mut self.alert_push) {
            target.public_key = key.map(Box::new);
        }
    }
}

/// One address of a push service.
#[derive(Clone, Debug, PartialEq)]
pub struct PushTarget {
    /// The service and, for APNs, its environment.
    pub provider: Provider,
    /// The service's token for the device.
    pub token: PushToken,
    /// When the app last said that the token is good, in milliseconds since 1970: a 410 with an older timestamp is stale.
    pub confirmed_at_ms: u64,
    /// The device's key; with one, whatever a push says beside its event is sealed to it. It stands here so that no push can
    /// forget it.
    pub public_key: Option<Box<PublicKey>>,
    /// The keys that encrypt a push, for Web Push; then `token` is the endpoint.
    pub web: Option<Box<WebPushKeys>>,
}

impl PushTarget {
    /// An address whose device has given no key.
    pub fn new(provider: Provider, token: PushToken, confirmed_at_ms: u64) -> Self {
        Self { provider, token, confirmed_at_ms, public_key: None, web: None }
    }

    /// Whether a push that was made for one is as good for the other: the same token, and the same keys.
    pub fn takes_the_same(&self, other: &Self) -> bool {
        self.is_same_token(other) && self.public_key == other.public_key && self.web == other.web
    }

    /// Whether both are the same token of the same service, whenever the app has confirmed it.
    pub fn is_same_token(&self, other: &Self) -> bool {
        self.provider == other.provider && self.token == other.token
    }
}

/// A push service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provider {
    /// Apple's, production environment.
    ApnsProduction,
    /// Apple's, sandbox environment.
    ApnsSandbox,
    /// Firebase Cloud Messaging, HTTP v1.
    Fcm,
    /// Web Push (RFC 8030), at whichever service the device has subscribed; UnifiedPush is one.
    WebPush,
}

impl Provider {
    /// Whether it is Apple's, in either environment: there a call's push is a VoIP push, which is sent once and carries nothing else.
    pub fn is_apple(self) -> bool {
        matches!(self, Self::ApnsProduction | Self::ApnsSandbox)
    }
}

/// The keys of a Web Push subscription (RFC 8291 §2).
#[derive(Clone, PartialEq, Eq)]
pub struct WebPushKeys {
    /// The device's public key: an uncompressed point of P-256.
    pub p256dh: [u8; 65],
    /// The secret that the device and the relay alone know.
    pub auth: [u8; 16],
}

impl std::fmt::Debug for WebPushKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Drop for WebPushKeys {
    fn drop(&mut self) {
        self.auth.zeroize();
    }
}

impl Provider {
    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::ApnsProduction => "apns",
            Self::ApnsSandbox => "apns-sandbox",
            Self::Fcm => "fcm",
            Self::WebPush => "webpush",
        }
    }
}

/// The events that wake a device; a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WakeFor {
    /// An incoming call.
    pub call: bool,
    /// A SIP MESSAGE.
    pub message: bool,
    /// A change in the mailbox (RFC 3842).
    pub voicemail: bool,
    /// A call that nobody answered.
    pub missed_call: bool,
}

/// The reminders that a device gets before its lease ends, in the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reminder {
    /// A day before: the app should renew, silently.
    Renew,
    /// Half a day before: the user should know.
    Soon,
    /// An hour before: the user should know at once.
    VerySoon,
}

#[cfg(test)]
mod tests {
    use sip::id::{BindingId, ShardTag};

    use super::*;

    #[test]
    fn what_is_printed_of_a_record_names_nobody_and_nothing_of_his() {
        let target = PushTarget::new(Provider::Fcm, PushToken::new("a-token"), 0);
        let ha1s =
            Ha1s { realm: "realm.example".into(), md5: Some(Ha1Text::new("0a1b")), sha256: None, sha512_256: None };
        let account = Account {
            aor: Aor::new("sip:alice@example.com"),
            auth_username: "alice".into(),
            proof: Proof::Derived(vec![ha1s]),
            registrar: Some("sip:registrar.example".into()),
            outbound_proxy: None,
        };
        let device = Device { call_push: target, alert_push: None, label: Some("Alice's phone".into()) };
        let record = Record {
            app: "app".into(),
            account: account.clone(),
            device: device.clone(),
            wake_for: WakeFor { call: true, message: true, voicemail: true, missed_call: true },
            secret: InstanceSecret::new("a-secret"),
            binding: BindingId::new(7 << 20, ShardTag(1)),
            sip_instance: [7; 16],
            proven: true,
            created_at: 1,
            expires_at: 2,
            presence: Presence::Background,
            reminded: None,
            told_failing: false,
        };
        assert_eq!(
            format!("{account:?} {device:?} {:?}", StoredRecord::Lent(record)),
            "Account(..) Device(..) Lent(Record(..))"
        );
        assert_eq!(format!("{:?}", account.proof), "Derived([Ha1s(..)])");
    }
}
