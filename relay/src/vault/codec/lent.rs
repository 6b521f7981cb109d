//! The record of a lent account as bytes.
//!
//! ```text
//! record  = version binding[16] sip_instance[16] flags created_at expires_at app aor auth_username
//!           [registrar] [outbound_proxy] proof target [target] [label] [public_key[32]] secret
//! proof   = password | ha1s | count derived…     count and kind are one byte
//! ha1s    = realm [md5] [sha256] [sha512_256]      each as packed, as is a token
//! derived = kind ha1s                            kind: 1 for MD5, 2 for SHA-256, 4 for SHA-512-256, added up
//! target  = provider confirmed_at_ms token [p256dh[65] auth[16]]    keys: where provider is 4, Web Push
//! text    = length bytes          numbers and lengths are LEB128, 7 bits a byte, least significant first
//! packed  = 2·length bytes | 2·length+1 bytes    the second: each byte stands for two lower-case hexadecimal digits
//! ```
//! What stands in brackets is there when its bit in `flags` (32 bits, big-endian) is set. `version` is one byte, 1.
//! Records of an earlier version have a text for each that is packed; they lack the bit that says so. `expires_at` has a byte more than it needs where the
//! user was told that the registration fails: an earlier version, which takes no flag that it does not know, reads the same number.
//!
//! Invariant: that of the [folder](super).

use std::borrow::Cow;

use sip::id::BindingId;

use super::{NotARecord, Reader, marked_number, milliseconds, number, packed, text};
use crate::hpke::PublicKey;
use crate::secret::{Aor, Ha1Text, InstanceSecret, Password, PushToken};
use crate::vault::record::{
    Account, Device, Ha1s, Presence, Proof, Provider, PushTarget, REALMS_MAX, Record, Reminder, Storable, WakeFor,
    WebPushKeys,
};

/// The version that is written, and the only one that is read; the first byte, which tells it from other records.
pub(super) const VERSION: u8 = 1;

const WAKE_CALL: u32 = 1;
const WAKE_MESSAGE: u32 = 1 << 1;
const WAKE_VOICEMAIL: u32 = 1 << 2;
const WAKE_MISSED_CALL: u32 = 1 << 3;
const FOREGROUND: u32 = 1 << 4;
const HAS_REGISTRAR: u32 = 1 << 5;
const HAS_OUTBOUND_PROXY: u32 = 1 << 6;
const HAS_ALERT_PUSH: u32 = 1 << 7;
const HAS_LABEL: u32 = 1 << 8;
const PROOF_IS_HA1: u32 = 1 << 9;
const HAS_MD5: u32 = 1 << 10;
const HAS_SHA256: u32 = 1 << 11;
const HAS_SHA512_256: u32 = 1 << 12;
/// Two bits: which [`Reminder`] was the last, from 1; 0: none.
const REMINDED_SHIFT: u32 = 13;
const REMINDED: u32 = 3 << REMINDED_SHIFT;
const PROVEN: u32 = 1 << 15;
const PROOF_IS_DERIVED: u32 = 1 << 16;
const HAS_PUBLIC_KEY: u32 = 1 << 17;
/// Tokens and HA1s are packed; always written.
const PACKED: u32 = 1 << 18;
const KNOWN_FLAGS: u32 = (1 << 19) - 1;

impl Storable for Record {
    fn visit(&self, sink: &mut dyn FnMut(&[u8])) {
        visit(self, sink);
    }

    fn found_by(&self) -> (Cow<'_, str>, &Aor, &PushToken) {
        (Cow::Borrowed(&self.app), &self.account.aor, &self.device.call_push.token)
    }
}

/// Shows every byte of the encoded form to `sink`, in order.
fn visit(record: &Record, sink: &mut dyn FnMut(&[u8])) {
    let Record { app, account, device, wake_for: _, secret, binding, sip_instance, .. } = record;
    sink(&[VERSION]);
    sink(&binding.to_bytes());
    sink(sip_instance);
    sink(&flags(record).to_be_bytes());
    number(record.created_at, sink);
    marked_number(record.expires_at, record.told_failing, sink);
    text(app, sink);
    text(account.aor.expose(), sink);
    text(&account.auth_username, sink);
    for uri in [&account.registrar, &account.outbound_proxy].into_iter().flatten() {
        text(uri, sink);
    }
    match &account.proof {
        Proof::Password(password) => text(password.expose(), sink),
        Proof::Ha1(ha1s) => visit_ha1s(ha1s, sink),
        Proof::Derived(all) => {
            sink(&[all.len() as u8]);
            for ha1s in all {
                let bits = has_ha1s(ha1s).into_iter().enumerate();
                sink(&[bits.fold(0, |kind, (bit, there)| kind | u8::from(there) << bit)]);
                visit_ha1s(ha1s, sink);
            }
        }
    }
    for push in std::iter::once(&device.call_push).chain(&device.alert_push) {
        sink(&[provider_code(push.provider)]);
        number(push.confirmed_at_ms, sink);
        packed(push.token.expose(), sink);
        if let Some(keys) = push.web.as_deref().filter(|_| push.provider == Provider::WebPush) {
            sink(&keys.p256dh);
            sink(&keys.auth);
        }
    }
    if let Some(label) = &device.label {
        text(label, sink);
    }
    if let Some(key) = device.public_key() {
        sink(key.as_bytes());
    }
    text(secret.expose(), sink);
}

fn visit_ha1s(Ha1s { realm, md5, sha256, sha512_256 }: &Ha1s, sink: &mut dyn FnMut(&[u8])) {
    text(realm, sink);
    for ha1 in [md5, sha256, sha512_256].into_iter().flatten() {
        packed(ha1.expose(), sink);
    }
}

fn has_ha1s(Ha1s { md5, sha256, sha512_256, .. }: &Ha1s) -> [bool; 3] {
    [md5.is_some(), sha256.is_some(), sha512_256.is_some()]
}

fn flags(record: &Record) -> u32 {
    let Record { account, device, wake_for, presence, reminded, .. } = record;
    let (is_ha1, has_ha1s) = match &account.proof {
        Proof::Password(_) | Proof::Derived(_) => (false, [false; 3]),
        Proof::Ha1(ha1s) => (true, has_ha1s(ha1s)),
    };
    [
        (WAKE_CALL, wake_for.call),
        (WAKE_MESSAGE, wake_for.message),
        (WAKE_VOICEMAIL, wake_for.voicemail),
        (WAKE_MISSED_CALL, wake_for.missed_call),
        (FOREGROUND, *presence == Presence::Foreground),
        (HAS_REGISTRAR, account.registrar.is_some()),
        (HAS_OUTBOUND_PROXY, account.outbound_proxy.is_some()),
        (HAS_ALERT_PUSH, device.alert_push.is_some()),
        (HAS_LABEL, device.label.is_some()),
        (HAS_PUBLIC_KEY, device.public_key().is_some()),
        (PROOF_IS_HA1, is_ha1),
        (HAS_MD5, has_ha1s[0]),
        (HAS_SHA256, has_ha1s[1]),
        (HAS_SHA512_256, has_ha1s[2]),
        (PROVEN, record.proven),
        (PROOF_IS_DERIVED, matches!(account.proof, Proof::Derived(_))),
    ]
    .into_iter()
    .filter(|&(_, set)| set)
    .fold(PACKED | reminded_code(*reminded) << REMINDED_SHIFT, |flags, (bit, _)| flags | bit)
}

fn reminded_code(reminded: Option<Reminder>) -> u32 {
    match reminded {
        None => 0,
        Some(Reminder::Renew) => 1,
        Some(Reminder::Soon) => 2,
        Some(Reminder::VerySoon) => 3,
    }
}

fn reminded_of(flags: u32) -> Option<Reminder> {
    match (flags & REMINDED) >> REMINDED_SHIFT {
        1 => Some(Reminder::Renew),
        2 => Some(Reminder::Soon),
        3 => Some(Reminder::VerySoon),
        _ => None,
    }
}

fn provider_code(provider: Provider) -> u8 {
    match provider {
        Provider::ApnsProduction => 1,
        Provider::ApnsSandbox => 2,
        Provider::Fcm => 3,
        Provider::WebPush => 4,
    }
}

/// Reads what [`Storable::visit`] showed.
pub(super) fn decode(bytes: &[u8]) -> Result<Record, NotARecord> {
    let mut rest = Reader(bytes);
    let record = rest.record()?;
    if rest.0.is_empty() { Ok(record) } else { Err(NotARecord) }
}

impl<'a> Reader<'a> {
    fn record(&mut self) -> Result<Record, NotARecord> {
        if self.byte()? != VERSION {
            return Err(NotARecord);
        }
        let binding = BindingId::from_bytes(self.array()?);
        let sip_instance = self.array()?;
        let flags = u32::from_be_bytes(self.array()?);
        if flags & !KNOWN_FLAGS != 0 {
            return Err(NotARecord);
        }
        let has = |bit| flags & bit != 0;
        let packed = has(PACKED);
        // The fields of a struct expression are read in the order in which they stand here: that of the format.
        let (created_at, (expires_at, told_failing), app) =
            (self.number()?, self.marked_number()?, self.text()?.into());
        let account = Account {
            aor: Aor::new(self.text()?),
            auth_username: self.text()?.into(),
            registrar: self.text_if(has(HAS_REGISTRAR))?.map(Into::into),
            outbound_proxy: self.text_if(has(HAS_OUTBOUND_PROXY))?.map(Into::into),
            proof: self.proof(flags)?,
        };
        let mut device = Device {
            call_push: self.target(packed)?,
            alert_push: has(HAS_ALERT_PUSH).then(|| self.target(packed)).transpose()?,
            label: self.text_if(has(HAS_LABEL))?.map(Into::into),
        };
        if has(HAS_PUBLIC_KEY) {
            device.set_public_key(Some(PublicKey::from_bytes(self.array()?)));
        }
        Ok(Record {
            app,
            account,
            device,
            wake_for: WakeFor {
                call: has(WAKE_CALL),
                message: has(WAKE_MESSAGE),
                voicemail: has(WAKE_VOICEMAIL),
                missed_call: has(WAKE_MISSED_CALL),
            },
            secret: InstanceSecret::new(self.text()?),
            binding,
            sip_instance,
            proven: has(PROVEN),
            created_at,
            expires_at,
            presence: if has(FOREGROUND) { Presence::Foreground } else { Presence::Background },
            reminded: reminded_of(flags),
            told_failing,
        })
    }

    fn proof(&mut self, flags: u32) -> Result<Proof, NotARecord> {
        let ha1s = [HAS_MD5, HAS_SHA256, HAS_SHA512_256].map(|bit| flags & bit != 0);
        let packed = flags & PACKED != 0;
        match (flags & PROOF_IS_HA1 != 0, flags & PROOF_IS_DERIVED != 0, ha1s) {
            (true, false, ha1s) => Ok(Proof::Ha1(self.ha1s(ha1s, packed)?)),
            (false, false, [false, false, false]) => Ok(Proof::Password(Password::new(self.text()?))),
            (false, true, [false, false, false]) => {
                let count = usize::from(self.byte()?);
                if !(1..=REALMS_MAX).contains(&count) {
                    return Err(NotARecord);
                }
                let mut one = || {
                    let kind = self.byte()?;
                    match kind {
                        1..=7 => self.ha1s([1, 2, 4].map(|bit| kind & bit != 0), packed),
                        _ => Err(NotARecord),
                    }
                };
                Ok(Proof::Derived((0..count).map(|_| one()).collect::<Result<_, _>>()?))
            }
            _ => Err(NotARecord),
        }
    }

    fn ha1s(&mut self, there: [bool; 3], packed: bool) -> Result<Ha1s, NotARecord> {
        let realm = self.text()?.into();
        let mut ha1 = |there: bool| there.then(|| self.secret(packed, Ha1Text::new)).transpose();
        let (md5, sha256, sha512_256) = (ha1(there[0])?, ha1(there[1])?, ha1(there[2])?);
        Ok(Ha1s { realm, md5, sha256, sha512_256 })
    }

    fn secret<T>(&mut self, packed: bool, make: impl FnOnce(&str) -> T) -> Result<T, NotARecord> {
        if packed { self.packed().map(|text| make(&text)) } else { self.text().map(make) }
    }

    fn target(&mut self, packed: bool) -> Result<PushTarget, NotARecord> {
        let provider = match self.byte()? {
            1 => Provider::ApnsProduction,
            2 => Provider::ApnsSandbox,
            3 => Provider::Fcm,
            4 => Provider::WebPush,
            _ => return Err(NotARecord),
        };
        let confirmed_at_ms = milliseconds(self.number()?);
        let mut target = PushTarget::new(provider, self.secret(packed, PushToken::new)?, confirmed_at_ms);
        if provider == Provider::WebPush {
            target.web = Some(Box::new(WebPushKeys { p256dh: self.array()?, auth: self.array()? }));
        }
        Ok(target)
    }
}

#[cfg(test)]
pub(in crate::vault) mod tests {
    use sip::id::ShardTag;

    use super::*;

    /// Records that use each field in each of its ways.
    pub(in crate::vault) fn samples() -> Vec<Record> {
        let full = Record {
            app: "com.example.phone".into(),
            account: Account {
                aor: Aor::new("sip:alice@example.com"),
                auth_username: "alice".into(),
                proof: Proof::Password(Password::new("correct horse battery staple")),
                registrar: Some("sip:example.com;transport=tls".into()),
                outbound_proxy: Some("sip:edge.example.com:5061;transport=tls".into()),
            },
            device: Device {
                call_push: PushTarget {
                    public_key: Some(Box::new(PublicKey::from_bytes([9; 32]))),
                    ..PushTarget::new(Provider::ApnsProduction, PushToken::new(&"a5".repeat(32)), 1_795_000_000_123)
                },
                alert_push: Some(PushTarget {
                    public_key: Some(Box::new(PublicKey::from_bytes([9; 32]))),
                    ..PushTarget::new(Provider::ApnsSandbox, PushToken::new(&"c7".repeat(32)), u64::MAX)
                }),
                label: Some("Alice’s phone".into()),
            },
            wake_for: WakeFor { call: true, message: false, voicemail: true, missed_call: false },
            secret: InstanceSecret::new("c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LTEyMzQ"),
            binding: BindingId::new(99 << 80, ShardTag(0xbeef)),
            sip_instance: [3; 16],
            proven: true,
            created_at: 0,
            expires_at: 1_795_432_000,
            presence: Presence::Foreground,
            reminded: Some(Reminder::Soon),
            told_failing: false,
        };
        let mut bare = full.clone();
        bare.account.registrar = None;
        bare.account.outbound_proxy = None;
        let ha1s = Ha1s {
            realm: "example.com".into(),
            md5: Some(Ha1Text::new(&"0f".repeat(16))),
            sha256: None,
            sha512_256: Some(Ha1Text::new(&"1e".repeat(32))),
        };
        bare.account.proof = Proof::Ha1(ha1s.clone());
        bare.device.set_public_key(None);
        bare.device.call_push.provider = Provider::Fcm;
        bare.device.call_push.token = PushToken::new(&"f".repeat(163));
        bare.device.alert_push = None;
        bare.device.label = None;
        bare.wake_for = WakeFor { call: false, message: true, voicemail: false, missed_call: true };
        bare.presence = Presence::Background;
        bare.told_failing = true;
        let mut derived = full.clone();
        derived.account.proof = Proof::Derived(vec![ha1s.clone(), Ha1s { realm: "proxy".into(), md5: None, ..ha1s }]);
        let mut web = bare.clone();
        web.device.call_push = PushTarget {
            web: Some(Box::new(WebPushKeys { p256dh: [4; 65], auth: [5; 16] })),
            ..PushTarget::new(
                Provider::WebPush,
                PushToken::new("https://push.example.net/wpush/v2/abc"),
                1_795_000_000_123,
            )
        };
        vec![full, bare, derived, web]
    }

    fn encoded(record: &Record) -> Vec<u8> {
        let mut bytes = Vec::new();
        record.visit(&mut |part| bytes.extend_from_slice(part));
        bytes
    }

    #[test]
    fn a_record_reads_back_as_itself() {
        for record in samples() {
            let bytes = encoded(&record);
            assert_eq!(decode(&bytes), Ok(record));
        }
    }

    #[test]
    fn hexadecimal_is_kept_in_half_of_its_room_and_reads_back_digit_by_digit() {
        let record = |token: &str| {
            let mut record = samples().remove(1);
            record.device.call_push.token = PushToken::new(token);
            record
        };
        let length = |token: &str| encoded(&record(token)).len();
        assert_eq!(length(&"z".repeat(60)) - length(&"0a".repeat(30)), 30);
        for token in ["", "0", "00", "0af", "0AF0", "0a0b0g", &"f0".repeat(100), "a5é", &"é".repeat(70)] {
            assert_eq!(decode(&encoded(&record(token))), Ok(record(token)), "{token}");
        }
    }

    #[test]
    fn a_record_of_the_earlier_version_reads_as_it_did() {
        let bytes = b"\x01BBBBBBBBBBBBBBBBSSSSSSSSSSSSSSSS\x00\x00\x80\x01\x00\x07\x03app\x09sip:a@b.c\x01a\x02pw\x03\x00\x04beef\x01s";
        let record = decode(bytes).expect("a record");
        assert_eq!(record.device.call_push.token.expose(), "beef");
        assert_eq!(record.account.proof, Proof::Password(Password::new("pw")));
    }

    /// The version before reads each number so, and takes no flag that it does not know.
    #[test]
    fn a_record_that_says_what_its_user_was_told_reads_as_before_but_for_that() {
        let plain = Record { told_failing: false, ..samples().remove(0) };
        let told = Record { told_failing: true, ..plain.clone() };
        let (plain_bytes, told_bytes) = (encoded(&plain), encoded(&told));
        assert_eq!(told_bytes.len(), plain_bytes.len() + 1);
        let at = 1 + 16 + 16;
        assert_eq!(told_bytes[at..at + 4], plain_bytes[at..at + 4], "the flags");
        let mut numbers = Reader(&told_bytes[at + 4..]);
        assert_eq!((numbers.number(), numbers.number()), (Ok(plain.created_at), Ok(plain.expires_at)));
        assert_eq!(decode(&told_bytes), Ok(told));
        for expires_at in [0, 127, 128, 1 << 35, u64::MAX] {
            let record = Record { expires_at, ..plain.clone() };
            assert_eq!(decode(&encoded(&record)), Ok(record));
        }
    }

    #[test]
    fn a_record_that_is_cut_short_or_has_more_behind_it_is_refused() {
        for record in samples() {
            let bytes = encoded(&record);
            for len in 0..bytes.len() {
                assert_eq!(decode(&bytes[..len]), Err(NotARecord), "{len} of {}", bytes.len());
            }
            assert_eq!(decode(&[&bytes[..], &[0]].concat()), Err(NotARecord));
        }
    }

    #[test]
    fn a_byte_that_is_changed_never_makes_the_reader_panic() {
        for record in samples() {
            let bytes = encoded(&record);
            for place in 0..bytes.len() {
                for value in [0, 0x7f, 0x80, 0xff] {
                    let mut changed = bytes.clone();
                    changed[place] = value;
                    let _ = decode(&changed);
                }
            }
            let mut other_version = bytes;
            other_version[0] = 2;
            assert_eq!(decode(&other_version), Err(NotARecord));
        }
    }
}
