//! Finding an instance by its app, AOR and push token in a store that must know none of them; and finding the devices of one account.
//!
//! Invariant: what leaves this module is HMAC-SHA256 under the keyring's index key, cut to 128 bits. Equal inputs give equal outputs; without the key, an
//! output is of no use to guess its input.

use std::fmt;

use aws_lc_rs::{digest, hmac};

use sip::id::{BindingId, ShardTag};
use sip::message::Uri;
use zeroize::Zeroizing;

use super::record::Account;
use crate::secret::{Aor, InstanceSecret, PushToken, SecretKey, with_clean_stack};

/// The keyed hash of app, AOR and push token: 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lookup([u8; 16]);

/// The keyed hash of an address of record, whatever its scheme: finds an account's instances without naming it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AorKey([u8; 16]);

impl AorKey {
    /// As the nodes of a keyring tell it each other.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// Reads what [`Self::to_bytes`] gives.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

#[cfg(test)]
impl AorKey {
    /// Of nobody.
    pub(crate) const FIRST: Self = Self([0; 16]);

    /// Of somebody.
    pub(crate) fn of_number(number: u128) -> Self {
        Self(number.to_be_bytes())
    }
}

impl fmt::Display for AorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Display for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for AorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Lookup {
    /// Reads the 32 hex digits that `Display` writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        unhex(text.as_bytes(), &mut bytes).then_some(Self(bytes))
    }
}

pub(super) fn lookup(key: &SecretKey, app: &str, aor: &Aor, token: &PushToken) -> Lookup {
    as_compared(aor, |aor| {
        Lookup(keyed_hash(key, "sipwake lookup 1", &[app.as_bytes(), aor.as_bytes(), token.expose().as_bytes()]))
    })
}

/// An AOR as it is compared: `sip:%61lice@h` is `sip:alice@h` (RFC 3261 §19.1.4).
fn as_compared<T>(aor: &Aor, work: impl FnOnce(&str) -> T) -> T {
    let text = aor.expose();
    match text.rsplit_once('@').filter(|(user, _)| user.contains('%')) {
        None => work(text),
        Some((user, host)) => {
            let user = Zeroizing::new(Uri::unescaped_user(user).into_owned());
            work(&Zeroizing::new([user.as_str(), "@", host].concat()))
        }
    }
}

/// An AOR without a port, with that of its registrar, as an account is written whose domain and port are its SIP server's.
pub(super) fn with_port(aor: &Aor, registrar: &str) -> Option<Aor> {
    let registrar = Uri::parse(registrar)?;
    let host = Uri::parse(aor.expose())?.canonical_host();
    let port = registrar.port.filter(|_| registrar.canonical_host() == host)?.to_string();
    Some(Aor::new(&Zeroizing::new([aor.expose(), ":", &port].concat())))
}

/// What tells a keyring from another one: the same as long as its index key is.
pub(super) fn keyring_identity(key: &SecretKey) -> [u8; 16] {
    keyed_hash(key, "sipwake ring 1", &[])
}

/// The plain hash of an address of record, whatever its scheme: by it an operator asks for an account without naming it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AorHash([u8; 32]);

impl AorHash {
    /// SHA-256 of `user@host[:port]` as a checked AOR writes it, its user without escapes but for those of what is reserved.
    pub fn of(aor: &Aor) -> Self {
        let mut hash = [0; 32];
        as_compared(aor, |aor| {
            let address = aor.split_once(':').map_or(aor, |(_, address)| address);
            with_clean_stack(|| hash.copy_from_slice(digest::digest(&digest::SHA256, address.as_bytes()).as_ref()));
        });
        Self(hash)
    }

    /// Reads the 64 hex digits that [`Self::to_hex`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        unhex(text.as_bytes(), &mut hash).then_some(Self(hash))
    }

    /// In lower-case hex.
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }
}

impl fmt::Debug for AorHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AorHash(..)")
    }
}

pub(super) fn aor_key(key: &SecretKey, aor: AorHash) -> AorKey {
    AorKey(keyed_hash(key, "sipwake aor 2", &[&aor.0]))
}

/// The keyed hash of what the devices of one account in one app have in common: 16 bytes. It is shown as the user of
/// their Contact, and never stored but sealed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GroupKey([u8; 16]);

impl GroupKey {
    /// The shard on which the group's devices live.
    pub fn tag(self) -> ShardTag {
        ShardTag(u16::from_be_bytes([self.0[0], self.0[1]]))
    }

    /// The user of the Contact that they share: 112 bits that nobody can guess without the key.
    pub fn binding(self) -> BindingId {
        BindingId::new(u128::from_be_bytes(self.0).rotate_left(16), self.tag())
    }
}

impl fmt::Debug for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupKey(..)")
    }
}

/// Of an account as one app was given it: whatever its registrations differ by.
pub(super) fn group(key: &SecretKey, app: &str, account: &Account) -> GroupKey {
    let or_none = |uri: &Option<Box<str>>| uri.as_deref().unwrap_or_default().as_bytes().to_vec();
    let (registrar, proxy) = (or_none(&account.registrar), or_none(&account.outbound_proxy));
    let username = account.auth_username.as_bytes();
    as_compared(&account.aor, |aor| {
        let parts = [app.as_bytes(), aor.as_bytes(), username, registrar.as_slice(), proxy.as_slice()];
        GroupKey(keyed_hash(key, "sipwake group 1", &parts))
    })
}

/// `node`: what the node is called, for two that serve devices of one account must not take each other's Contact.
pub(super) fn sip_instance(key: &SecretKey, node: &str, group: GroupKey) -> [u8; 16] {
    let mut uuid = keyed_hash(key, "sipwake sip-instance 2", &[node.as_bytes(), &group.0]);
    // RFC 9562 §5.8: a UUID of the implementer's own making is of version 8.
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// Where something of an instance lies that is kept beside its record: tells neither what it is nor whose.
pub(super) fn item_key(key: &SecretKey, instance: &[u8; 16], kind: &[u8], name: &[u8; 16]) -> [u8; 16] {
    keyed_hash(key, "sipwake slot 1", &[instance, kind, name])
}

/// The mark of a device that was wiped: it tells nothing of the secret, which is 256 random bits.
pub(super) fn wipe_proof(key: &SecretKey, instance: &[u8; 16], secret: &InstanceSecret) -> [u8; 16] {
    keyed_hash(key, "sipwake wipe 1", &[instance, secret.expose().as_bytes()])
}

pub(super) fn token_mark(key: &SecretKey, provider: u8, token: &PushToken) -> [u8; 16] {
    keyed_hash(key, "sipwake token 1", &[&[provider], token.expose().as_bytes()])
}

/// The mark by which the nodes of a keyring speak of a device of an AOR at a SIP server.
pub(super) fn device_mark(key: &SecretKey, aor: &Aor, server: &str, contact: &str) -> [u8; 16] {
    keyed_hash(key, "sipwake device 1", &[aor.expose(), server, contact].map(str::as_bytes))
}

/// The name of something that is remembered and is nothing of any instance.
pub(super) fn memo(key: &SecretKey, what: &str) -> String {
    hex(&keyed_hash(key, "sipwake memo 1", &[what.as_bytes()]))
}

/// HMAC-SHA256 over the purpose and the parts, each with its length before it, so that no two lists look alike.
fn keyed_hash(key: &SecretKey, purpose: &str, parts: &[&[u8]]) -> [u8; 16] {
    with_clean_stack(|| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        let mut context = hmac::Context::with_key(&key);
        for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut cut = [0; 16];
        cut.copy_from_slice(&context.sign().as_ref()[..16]);
        cut
    })
}

/// Lower-case hex of something that is no secret.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads exactly `out.len()` bytes of hex; false, with `out` undefined, for anything else.
pub(crate) fn unhex(text: &[u8], out: &mut [u8]) -> bool {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    if text.len() != out.len() * 2 {
        return false;
    }
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(fill: u8) -> SecretKey {
        SecretKey::filled_by::<()>(|key| {
            key.fill(fill);
            Ok(())
        })
        .expect("filled")
    }

    #[test]
    fn a_lookup_depends_on_each_of_its_parts_and_on_the_key() {
        let of = |key: &SecretKey, app, aor, token| lookup(key, app, &Aor::new(aor), &PushToken::new(token));
        let one = of(&key(1), "app", "sip:a@b", "token");
        assert_eq!(one, of(&key(1), "app", "sip:a@b", "token"));
        assert_ne!(one, of(&key(2), "app", "sip:a@b", "token"));
        assert_ne!(one, of(&key(1), "apps", "ip:a@b", "token"), "the parts do not run together");
        assert_ne!(one, of(&key(1), "app", "sip:a@b", "tokem"));
        assert_eq!(one, of(&key(1), "app", "sip:%61@b", "token"));
        assert_eq!(Lookup::parse(&one.to_string()), Some(one));
        assert_eq!(Lookup::parse("0g"), None);
    }

    fn account(registrar: Option<&str>) -> Account {
        Account {
            aor: Aor::new("sip:alice@example.com"),
            auth_username: "alice".into(),
            proof: crate::vault::record::Proof::Password(crate::secret::Password::new("wonderland")),
            registrar: registrar.map(Into::into),
            outbound_proxy: None,
        }
    }

    #[test]
    fn an_address_has_one_key_whatever_its_scheme() {
        let of = |key: &SecretKey, aor| aor_key(key, AorHash::of(&Aor::new(aor)));
        assert!(of(&key(1), "sip:a@b") == of(&key(1), "sips:a@b"));
        assert!(of(&key(1), "sip:a@b") != of(&key(1), "sip:a@c"));
        assert!(of(&key(1), "sip:a@b") != of(&key(2), "sip:a@b"));
        assert!(of(&key(1), "sip:%61%3b@b") == of(&key(1), "sip:a%3B@b"), "RFC 3261 §19.1.4");
        assert!(of(&key(1), "sip:a%2Bb@c") != of(&key(1), "sip:a+b@c"), "what is reserved is another character");
        let hash = AorHash::of(&Aor::new("sip:a@b"));
        assert_eq!(AorHash::parse(&hash.to_hex()), Some(hash));
        assert_eq!((AorHash::parse("ab"), format!("{hash:?}").as_str()), (None, "AorHash(..)"));
    }

    #[test]
    fn an_address_has_the_port_of_a_registrar_that_is_its_own_host() {
        let written =
            |aor: &str, registrar: &str| with_port(&Aor::new(aor), registrar).map(|it| it.expose().to_owned());
        for (aor, registrar, with_port) in [
            ("sip:a@b.example", "sip:B.example:5061;transport=tls", Some("sip:a@b.example:5061")),
            ("sips:a@[2001:db8::1]", "sip:[2001:DB8:0::1]:5070", Some("sips:a@[2001:db8::1]:5070")),
            ("sip:a@b.example", "sip:b.example", None),
            ("sip:a@b.example", "sip:registrar.b.example:5061", None),
            ("sip:a@b.example", "tel:+49", None),
        ] {
            assert_eq!(written(aor, registrar).as_deref(), with_port, "{aor} {registrar}");
        }
    }

    #[test]
    fn devices_of_one_account_in_one_app_share_a_contact_whatever_their_passwords_and_others_do_not() {
        let one = group(&key(1), "app", &account(None));
        let mut typed_wrong = account(None);
        typed_wrong.proof = crate::vault::record::Proof::Password(crate::secret::Password::new("underland"));
        assert_eq!(one, group(&key(1), "app", &typed_wrong));
        assert_eq!(one.binding().tag(), one.tag());
        let mut escaped = account(None);
        escaped.aor = Aor::new("sip:%61lice@example.com");
        assert_eq!(one, group(&key(1), "app", &escaped));
        let mut renamed = account(None);
        renamed.auth_username = "alice2".into();
        let others = [
            group(&key(2), "app", &account(None)),
            group(&key(1), "another", &account(None)),
            group(&key(1), "app", &account(Some("sip:registrar.example.com"))),
            group(&key(1), "app", &renamed),
        ];
        assert!(others.iter().all(|other| *other != one && other.binding() != one.binding()));
    }

    #[test]
    fn a_sip_instance_is_a_uuid_that_stays_on_its_node_and_does_not_show_the_group() {
        let group = GroupKey([7; 16]);
        let uuid = sip_instance(&key(1), "relay1", group);
        assert_eq!(uuid, sip_instance(&key(1), "relay1", group));
        assert_ne!(uuid, sip_instance(&key(1), "relay2", group));
        assert_eq!((uuid[6] >> 4, uuid[8] >> 6), (8, 2));
        assert_ne!(uuid, group.0);
    }
}
