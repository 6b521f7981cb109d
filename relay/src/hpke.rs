//! Sealing to the public key of a device: HPKE (RFC 9180) in base mode, with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and
//! AES-256-GCM (0x0020, 0x0001, 0x0002).
//!
//! Invariant: a [`PublicKey`] that was read from text can be sealed to, and what is sealed can be opened by who has the
//! private key: no point of low order, no second spelling of a point. A [`PrivateKey`] cannot print and is wiped.

use std::fmt;

use aws_lc_rs::agreement;
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};
use rustls::crypto::aws_lc_rs::hpke::DH_KEM_X25519_HKDF_SHA256_AES_256 as SUITE;
use rustls::crypto::hpke::{EncapsulatedSecret, Hpke as _, HpkePrivateKey, HpkePublicKey};
use zeroize::Zeroizing;

/// The length of a key, and of what is sent ahead of a ciphertext (`enc`), in bytes.
pub const KEY_LEN: usize = 32;
/// By how much a sealed text is longer than its plaintext, in bytes: `enc`, and the tag of AES-GCM.
pub const OVERHEAD: usize = KEY_LEN + 16;

/// Base64url (RFC 4648 §5), its padding written or not.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An X25519 public key (RFC 7748). It is no secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey([u8; KEY_LEN]);

/// Why a text is no key to seal to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// Not base64url.
    #[error("expected the 32 bytes of an X25519 public key in base64url (43 characters)")]
    NotBase64,
    /// Base64url of another number of bytes.
    #[error("expected an X25519 public key of 32 bytes")]
    Length,
    /// Larger than the field's prime: the holder of the private key computes another public key, and opens nothing.
    #[error(
        "expected an X25519 public key in its canonical form (RFC 7748), below 2^255 - 19, least significant byte first"
    )]
    NotCanonical,
    /// The shared secret would be all zeros, whatever the other side's key (RFC 9180 §7.1.4).
    #[error(
        "expected an X25519 public key that is no point of low order: with this one the shared secret is all zeros"
    )]
    LowOrder,
}

impl PublicKey {
    /// Reads base64url, with padding or without.
    ///
    /// # Errors
    /// [`BadKey`] for what cannot be sealed to.
    pub fn read(text: &str) -> Result<Self, BadKey> {
        let bytes = LENIENT.decode(text).map_err(|_| BadKey::NotBase64)?;
        let key = Self(bytes.try_into().map_err(|_| BadKey::Length)?);
        if !key.is_canonical() {
            return Err(BadKey::NotCanonical);
        }
        key.seal(b"", b"", b"").map(|_| key).ok_or(BadKey::LowOrder)
    }

    /// A key that was read before.
    pub(crate) fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    fn is_canonical(self) -> bool {
        // 2^255 - 19, least significant byte first: ed ff … ff 7f.
        let Self(bytes) = self;
        let largest = bytes[1..31].iter().all(|byte| *byte == 0xff) && bytes[0] >= 0xed;
        bytes[31] < 0x7f || bytes[31] == 0x7f && !largest
    }

    /// `enc` and the ciphertext, one behind the other; `None` when this system has no randomness, or the key is none.
    pub fn seal(&self, info: &[u8], aad: &[u8], plaintext: &[u8]) -> Option<Vec<u8>> {
        let (EncapsulatedSecret(mut sealed), ciphertext) =
            SUITE.seal(info, aad, plaintext, &HpkePublicKey(self.0.to_vec())).ok()?;
        sealed.extend_from_slice(&ciphertext);
        Some(sealed)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An X25519 private key.
pub struct PrivateKey(HpkePrivateKey);

impl PrivateKey {
    /// A new one; `None` when this system has no randomness.
    pub fn generate() -> Option<Self> {
        SUITE.generate_key_pair().ok().map(|(_, private)| Self(private))
    }

    /// Reads base64url, with padding or without; `None` for anything but 32 bytes.
    pub fn read(text: &str) -> Option<Self> {
        let bytes = LENIENT.decode(text).ok().map(Zeroizing::new)?;
        (bytes.len() == KEY_LEN).then(|| Self(HpkePrivateKey::from(bytes.to_vec())))
    }

    /// As base64url. Each use is a place to review.
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0.secret_bytes()))
    }

    /// The public key that others seal to.
    pub fn public(&self) -> Option<PublicKey> {
        let key = agreement::PrivateKey::from_private_key(&agreement::X25519, self.0.secret_bytes()).ok()?;
        let public = key.compute_public_key().ok()?;
        public.as_ref().try_into().ok().map(PublicKey)
    }

    /// Opens what [`PublicKey::seal`] made.
    pub fn open(&self, info: &[u8], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (enc, ciphertext) = sealed.split_at_checked(KEY_LEN)?;
        SUITE.open(&EncapsulatedSecret(enc.to_vec()), info, aad, ciphertext, &self.0).ok()
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: [u8; 32]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    fn small(first: u8) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[0] = first;
        bytes
    }

    #[test]
    fn what_is_sealed_is_opened_with_the_same_info_and_aad_alone() {
        let private = PrivateKey::generate().unwrap();
        let public = private.public().unwrap();
        let sealed = public.seal(b"info", b"aad", b"Bob").unwrap();
        assert_eq!(sealed.len(), 3 + OVERHEAD);
        assert_eq!(private.open(b"info", b"aad", &sealed).as_deref(), Some(&b"Bob"[..]));
        assert_eq!(private.open(b"other", b"aad", &sealed), None);
        assert_eq!(private.open(b"info", b"other", &sealed), None);
        assert_eq!(PrivateKey::generate().unwrap().open(b"info", b"aad", &sealed), None);
        assert_eq!(private.open(b"info", b"aad", &sealed[..31]), None);
        assert_ne!(public.seal(b"info", b"aad", b"Bob").unwrap(), sealed, "each has a key of its own");
        let again = PrivateKey::read(&private.expose()).unwrap();
        assert_eq!(again.open(b"info", b"aad", &sealed).as_deref(), Some(&b"Bob"[..]));
    }

    #[test]
    fn a_key_that_nothing_can_be_sealed_to_or_opened_with_is_refused() {
        let good = PrivateKey::generate().unwrap().public().unwrap();
        assert_eq!(PublicKey::read(&good.to_string()), Ok(good));
        assert_eq!(PublicKey::read(&format!("{good}=")), Ok(good));
        let order_eight = [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
            0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ];
        let mut prime = [0xff; 32];
        (prime[0], prime[31]) = (0xed, 0x7f);
        let mut below = prime;
        below[0] = 0xec;
        let mut high_bit = *good.as_bytes();
        high_bit[31] |= 0x80;
        for (key, expected) in [
            (small(0), BadKey::LowOrder),
            (small(1), BadKey::LowOrder),
            (order_eight, BadKey::LowOrder),
            (below, BadKey::LowOrder),
            (prime, BadKey::NotCanonical),
            (high_bit, BadKey::NotCanonical),
            ([0xff; 32], BadKey::NotCanonical),
        ] {
            assert_eq!(PublicKey::read(&text(key)), Err(expected), "{key:02x?}");
        }
        for (key, expected) in [
            ("", BadKey::Length),
            ("AAAA", BadKey::Length),
            (&URL_SAFE_NO_PAD.encode([9; 33]), BadKey::Length),
            ("not base64!", BadKey::NotBase64),
            (&"0f".repeat(32), BadKey::Length),
        ] {
            assert_eq!(PublicKey::read(key), Err(expected), "{key}");
        }
    }
}
