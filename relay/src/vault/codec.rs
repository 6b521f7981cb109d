//! A record as bytes, for sealing.
//!
//! ```text
//! record  = version binding[16] sip_instance[16] flags created_at expires_at app aor auth_username
//!           [registrar] [outbound_proxy] proof target [target] [label] secret
//! proof   = password | realm [md5] [sha256] [sha512_256]
//! target  = provider confirmed_at token
//! text    = length bytes          numbers and lengths are LEB128, 7 bits a byte, least significant first
//! ```
//! What stands in brackets is there when its bit in `flags` (32 bits, big-endian) is set. `version` is one byte, 1.
//!
//! Invariant: writing appends exactly [`encoded_len`] bytes, so that a buffer of that capacity never moves and leaves
//! no plaintext behind. Reading accepts only what writing makes: every byte used, no unknown bit, no length beyond the
//! end. Neither keeps a copy of its own.

use sip::id::BindingId;

use super::record::{Account, Device, Presence, Proof, Provider, PushTarget, Record, Reminder, WakeFor};
use crate::secret::{Aor, Ha1Text, InstanceSecret, Password, PushToken};

/// The version that is written, and the only one that is read.
const VERSION: u8 = 1;

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
const KNOWN_FLAGS: u32 = (1 << 16) - 1;

/// The bytes are not a record of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NotARecord;

/// How many bytes [`encode`] appends for this record.
pub(super) fn encoded_len(record: &Record) -> usize {
    let mut len = 0;
    visit(record, &mut |bytes| len += bytes.len());
    len
}

/// Appends the record to `out`, whose spare capacity should be at least [`encoded_len`].
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) {
    visit(record, &mut |bytes| out.extend_from_slice(bytes));
}

/// Shows every byte of the encoded form to `sink`, in order.
fn visit(record: &Record, sink: &mut dyn FnMut(&[u8])) {
    let Record { app, account, device, wake_for: _, secret, binding, sip_instance, .. } = record;
    sink(&[VERSION]);
    sink(&binding.to_bytes());
    sink(sip_instance);
    sink(&flags(record).to_be_bytes());
    number(record.created_at, sink);
    number(record.expires_at, sink);
    text(app, sink);
    text(account.aor.expose(), sink);
    text(&account.auth_username, sink);
    for uri in [&account.registrar, &account.outbound_proxy].into_iter().flatten() {
        text(uri, sink);
    }
    match &account.proof {
        Proof::Password(password) => text(password.expose(), sink),
        Proof::Ha1 { realm, md5, sha256, sha512_256 } => {
            text(realm, sink);
            for ha1 in [md5, sha256, sha512_256].into_iter().flatten() {
                text(ha1.expose(), sink);
            }
        }
    }
    for push in std::iter::once(&device.call_push).chain(&device.alert_push) {
        sink(&[provider_code(push.provider)]);
        number(push.confirmed_at, sink);
        text(push.token.expose(), sink);
    }
    if let Some(label) = &device.label {
        text(label, sink);
    }
    text(secret.expose(), sink);
}

fn flags(record: &Record) -> u32 {
    let Record { account, device, wake_for, presence, reminded, .. } = record;
    let (is_ha1, has_ha1s) = match &account.proof {
        Proof::Password(_) => (false, [false; 3]),
        Proof::Ha1 { md5, sha256, sha512_256, .. } => (true, [md5.is_some(), sha256.is_some(), sha512_256.is_some()]),
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
        (PROOF_IS_HA1, is_ha1),
        (HAS_MD5, has_ha1s[0]),
        (HAS_SHA256, has_ha1s[1]),
        (HAS_SHA512_256, has_ha1s[2]),
        (PROVEN, record.proven),
    ]
    .into_iter()
    .filter(|&(_, set)| set)
    .fold(reminded_code(*reminded) << REMINDED_SHIFT, |flags, (bit, _)| flags | bit)
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

pub(super) fn text(text: &str, sink: &mut dyn FnMut(&[u8])) {
    number(text.len() as u64, sink);
    sink(text.as_bytes());
}

pub(super) fn number(mut value: u64, sink: &mut dyn FnMut(&[u8])) {
    while value >= 0x80 {
        sink(&[value as u8 | 0x80]);
        value >>= 7;
    }
    sink(&[value as u8]);
}

fn provider_code(provider: Provider) -> u8 {
    match provider {
        Provider::ApnsProduction => 1,
        Provider::ApnsSandbox => 2,
        Provider::Fcm => 3,
    }
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(bytes: &[u8]) -> Result<Record, NotARecord> {
    let mut rest = Reader(bytes);
    let record = rest.record()?;
    if rest.0.is_empty() { Ok(record) } else { Err(NotARecord) }
}

/// Reads one part after the other.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

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
        // The fields of a struct expression are read in the order in which they stand here: that of the format.
        let (created_at, expires_at, app) = (self.number()?, self.number()?, self.text()?.into());
        let account = Account {
            aor: Aor::new(self.text()?),
            auth_username: self.text()?.into(),
            registrar: self.text_if(has(HAS_REGISTRAR))?.map(Into::into),
            outbound_proxy: self.text_if(has(HAS_OUTBOUND_PROXY))?.map(Into::into),
            proof: self.proof(flags)?,
        };
        let device = Device {
            call_push: self.target()?,
            alert_push: has(HAS_ALERT_PUSH).then(|| self.target()).transpose()?,
            label: self.text_if(has(HAS_LABEL))?.map(Into::into),
        };
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
        })
    }

    fn proof(&mut self, flags: u32) -> Result<Proof, NotARecord> {
        let ha1s = [HAS_MD5, HAS_SHA256, HAS_SHA512_256].map(|bit| flags & bit != 0);
        if flags & PROOF_IS_HA1 == 0 {
            return match ha1s {
                [false, false, false] => Ok(Proof::Password(Password::new(self.text()?))),
                _ => Err(NotARecord),
            };
        }
        let realm = self.text()?.into();
        let mut ha1 = |present| Ok(self.text_if(present)?.map(Ha1Text::new));
        let (md5, sha256, sha512_256) = (ha1(ha1s[0])?, ha1(ha1s[1])?, ha1(ha1s[2])?);
        Ok(Proof::Ha1 { realm, md5, sha256, sha512_256 })
    }

    fn target(&mut self) -> Result<PushTarget, NotARecord> {
        let provider = match self.byte()? {
            1 => Provider::ApnsProduction,
            2 => Provider::ApnsSandbox,
            3 => Provider::Fcm,
            _ => return Err(NotARecord),
        };
        let confirmed_at = self.number()?;
        Ok(PushTarget { provider, token: PushToken::new(self.text()?), confirmed_at })
    }

    pub(super) fn text_if(&mut self, present: bool) -> Result<Option<&'a str>, NotARecord> {
        present.then(|| self.text()).transpose()
    }

    pub(super) fn text(&mut self) -> Result<&'a str, NotARecord> {
        let len = usize::try_from(self.number()?).map_err(|_| NotARecord)?;
        std::str::from_utf8(self.take(len)?).map_err(|_| NotARecord)
    }

    pub(super) fn number(&mut self) -> Result<u64, NotARecord> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(NotARecord)
    }

    pub(super) fn byte(&mut self) -> Result<u8, NotARecord> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], NotARecord> {
        self.take(N)?.try_into().map_err(|_| NotARecord)
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], NotARecord> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(NotARecord)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
pub(super) mod tests {
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
                    provider: Provider::ApnsProduction,
                    token: PushToken::new(&"a5".repeat(32)),
                    confirmed_at: 1_795_000_000,
                },
                alert_push: Some(PushTarget {
                    provider: Provider::ApnsSandbox,
                    token: PushToken::new(&"c7".repeat(32)),
                    confirmed_at: u64::MAX,
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
        };
        let mut bare = full.clone();
        bare.account.registrar = None;
        bare.account.outbound_proxy = None;
        bare.account.proof = Proof::Ha1 {
            realm: "example.com".into(),
            md5: Some(Ha1Text::new(&"0f".repeat(16))),
            sha256: None,
            sha512_256: Some(Ha1Text::new(&"1e".repeat(32))),
        };
        bare.device.call_push.provider = Provider::Fcm;
        bare.device.call_push.token = PushToken::new(&"f".repeat(163));
        bare.device.alert_push = None;
        bare.device.label = None;
        bare.wake_for = WakeFor { call: false, message: true, voicemail: false, missed_call: true };
        bare.presence = Presence::Background;
        vec![full, bare]
    }

    fn encoded(record: &Record) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(encoded_len(record));
        encode(record, &mut bytes);
        bytes
    }

    #[test]
    fn a_record_reads_back_as_itself_and_its_length_is_known_beforehand() {
        for record in samples() {
            let bytes = encoded(&record);
            assert_eq!(bytes.len(), encoded_len(&record));
            assert_eq!(decode(&bytes), Ok(record));
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
