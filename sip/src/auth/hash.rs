//! The hashes of RFC 7616 and RFC 8760, and HA1.
//!
//! Invariant: a hash state lives on the heap and is wiped on drop; so is each HA1.

use std::fmt;

use md5::Md5;
use sha2::digest::FixedOutputReset;
use sha2::{Digest, Sha256, Sha512_256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// A hash function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hash {
    /// MD5: 32 hexadecimal digits.
    Md5,
    /// SHA-256: 64 hexadecimal digits.
    Sha256,
    /// SHA-512/256: 64 hexadecimal digits.
    Sha512_256,
}

/// An `algorithm` token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Algorithm {
    /// The hash function.
    pub hash: Hash,
    /// `-sess`: HA1 is bound to the nonce and the cnonce.
    pub session: bool,
}

/// `H(username:realm:password)` in lower-case hexadecimal (RFC 7616 §3.4.2): as good as the password within its realm.
#[derive(Clone)]
pub struct Ha1 {
    hash: Hash,
    hex: Zeroizing<Box<str>>,
}

impl Hash {
    /// Reads a name such as `SHA-256`, without case.
    pub fn parse(token: &str) -> Option<Self> {
        [Self::Md5, Self::Sha256, Self::Sha512_256].into_iter().find(|hash| token.eq_ignore_ascii_case(hash.as_str()))
    }

    /// The name as RFC 8760 §2.1 registers it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
            Self::Sha512_256 => "SHA-512-256",
        }
    }

    /// How many hexadecimal digits its result has.
    pub fn hex_digits(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha256 | Self::Sha512_256 => 64,
        }
    }

    /// The hash of `parts` with a colon between each, in lower-case hexadecimal.
    pub(super) fn of(self, parts: &[&[u8]]) -> Zeroizing<Box<str>> {
        match self {
            Self::Md5 => hex_of::<Md5>(parts),
            Self::Sha256 => hex_of::<Sha256>(parts),
            Self::Sha512_256 => hex_of::<Sha512_256>(parts),
        }
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Algorithm {
    /// Reads a token such as `MD5` or `SHA-256-sess`, without case; `None` when it is not known.
    pub fn parse(token: &str) -> Option<Self> {
        let at = token.len().saturating_sub("-sess".len());
        let (hash, session) = match token.split_at_checked(at) {
            Some((hash, sess)) if sess.eq_ignore_ascii_case("-sess") => (hash, true),
            _ => (token, false),
        };
        Some(Self { hash: Hash::parse(hash)?, session })
    }
}

impl From<Hash> for Algorithm {
    fn from(hash: Hash) -> Self {
        Self { hash, session: false }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.hash, if self.session { "-sess" } else { "" })
    }
}

impl Ha1 {
    /// Computes it from a password.
    pub fn compute(hash: Hash, username: &str, realm: &str, password: &str) -> Self {
        Self { hash, hex: hash.of(&[username.as_bytes(), realm.as_bytes(), password.as_bytes()]) }
    }

    /// Takes one computed elsewhere; `None` when `hex` is not exactly as many hexadecimal digits as the hash has.
    pub fn from_hex(hash: Hash, hex: &str) -> Option<Self> {
        if hex.len() != hash.hex_digits() || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut hex = Zeroizing::new(Box::<str>::from(hex));
        hex.make_ascii_lowercase();
        Some(Self { hash, hex })
    }

    /// The hash it was made with.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The lower-case hexadecimal digits, for sealing. Each use is a place to review.
    pub fn expose(&self) -> &str {
        &self.hex
    }

    /// The HA1 that the response is computed with: itself, or that of the session (RFC 7616 §3.4.2).
    pub(super) fn for_session(&self, session: bool, nonce: &str, cnonce: &str) -> Zeroizing<Box<str>> {
        if session {
            self.hash.of(&[self.hex.as_bytes(), nonce.as_bytes(), cnonce.as_bytes()])
        } else {
            self.hex.clone()
        }
    }
}

impl PartialEq for Ha1 {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && bool::from(self.hex.as_bytes().ct_eq(other.hex.as_bytes()))
    }
}

impl Eq for Ha1 {}

impl fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ha1({}, [redacted])", self.hash)
    }
}

/// The state stays in its box, so that what it saw is never copied from stack to stack; the digest crates wipe it on
/// drop.
fn hex_of<D: Digest + FixedOutputReset + Default>(parts: &[&[u8]]) -> Zeroizing<Box<str>> {
    let mut state = Box::<D>::default();
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            Digest::update(&mut *state, b":");
        }
        Digest::update(&mut *state, part);
    }
    let mut hash = Digest::finalize_reset(&mut *state);
    let mut hex = String::with_capacity(hash.len() * 2);
    for byte in &hash {
        for digit in [byte >> 4, byte & 15] {
            hex.push(char::from(b"0123456789abcdef"[usize::from(digit)]));
        }
    }
    hash.as_mut_slice().zeroize();
    // The capacity is exact, so boxing does not move the digits and leave a copy behind.
    Zeroizing::new(hex.into_boxed_str())
}
