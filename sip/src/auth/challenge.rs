//! Challenges: read as a client, written as a server (RFC 7616 §3.3, RFC 8760 §2).
//!
//! Invariant: a [`Challenge`] is one that can be answered: its algorithm is known and its parts are within their limits.

use std::borrow::Cow;
use std::fmt;

use super::fields::{FieldError, named, push_quoted, strip_scheme};
use super::{Algorithm, CHALLENGES, Hash, NONCE_BYTES, OPAQUE_BYTES, REALM_BYTES};

/// A challenge that can be answered.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The realm, its escapes resolved.
    pub realm: Box<str>,
    /// The nonce.
    pub nonce: Box<str>,
    /// The opaque value, which is sent back unchanged.
    pub opaque: Option<Box<str>>,
    /// The algorithm; MD5 when the challenge names none.
    pub algorithm: Algorithm,
    /// The protections offered.
    pub qop: Qop,
    /// The earlier answer was right but its nonce is spent (RFC 7616 §3.3).
    pub stale: bool,
    /// The username is to be sent as `H(username:realm)` (RFC 7616 §3.4.4).
    pub userhash: bool,
    /// The algorithm as the peer wrote it, which some peers want back.
    pub(super) algorithm_written: Option<Box<str>>,
}

/// The protections that a challenge offers, of those known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qop {
    /// No `qop`: the form of RFC 2069.
    Absent,
    /// `auth`.
    Auth,
    /// `auth-int`.
    AuthInt,
    /// `auth` and `auth-int`.
    Both,
    /// Others alone; such a challenge cannot be answered.
    Unknown,
}

/// Reason why a challenge cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeError {
    /// Another scheme than Digest.
    NotDigest,
    /// Broken syntax, or a realm or a nonce is missing.
    Broken,
    /// A part beyond its limit.
    TooLong,
    /// An algorithm that is not known.
    UnknownAlgorithm,
}

impl Challenge {
    /// Reads the value of one `WWW-Authenticate` or `Proxy-Authenticate`. Values may be quoted or not, and white space
    /// and unknown parameters are passed over.
    ///
    /// # Errors
    /// [`ChallengeError`] when it cannot be answered; a `qop` that is not known is no error here.
    pub fn parse(value: &str) -> Result<Self, ChallengeError> {
        let text = strip_scheme(value, "Digest").ok_or(ChallengeError::NotDigest)?;
        let names = ["realm", "nonce", "opaque", "algorithm", "qop", "stale", "userhash"];
        let [realm, nonce, opaque, algorithm, qop, stale, userhash] = named(text, names)?;
        let realm = bounded(realm.ok_or(ChallengeError::Broken)?, REALM_BYTES)?;
        let nonce = bounded(nonce.ok_or(ChallengeError::Broken)?, NONCE_BYTES)?;
        let opaque = opaque.map(|opaque| bounded(opaque, OPAQUE_BYTES)).transpose()?;
        let known = match &algorithm {
            None => Algorithm::from(Hash::Md5),
            Some(token) => Algorithm::parse(token).ok_or(ChallengeError::UnknownAlgorithm)?,
        };
        let is_true = |text: Option<Cow<'_, str>>| text.is_some_and(|text| text.eq_ignore_ascii_case("true"));
        Ok(Self {
            realm,
            nonce,
            opaque,
            algorithm: known,
            qop: qop.map_or(Qop::Absent, |list| Qop::parse(&list)),
            stale: is_true(stale),
            userhash: is_true(userhash),
            algorithm_written: algorithm.map(|token| token.as_ref().into()),
        })
    }

    /// The topmost challenge that can be answered with one of the `allowed` hashes (RFC 8760 §2.4). Of more than
    /// [`CHALLENGES`] the rest is not looked at.
    pub fn topmost_supported<'v>(values: impl Iterator<Item = &'v str>, allowed: &[Hash]) -> Option<Self> {
        Self::supported(values, allowed).next()
    }

    /// All challenges that can be answered with one of the `allowed` hashes, in the peer's order, which is its preference
    /// (RFC 8760 §2.4). Of more than [`CHALLENGES`] the rest is not looked at.
    pub fn all_supported<'v>(values: impl Iterator<Item = &'v str>, allowed: &[Hash]) -> Vec<Self> {
        Self::supported(values, allowed).collect()
    }

    /// Whether these values hold a Digest challenge that cannot be read: its syntax is broken, or a part of it is beyond its limit.
    pub fn is_unreadable<'v>(values: impl Iterator<Item = &'v str>) -> bool {
        let mut all = values.flat_map(split_challenges).take(CHALLENGES).map(Self::parse);
        all.any(|read| matches!(read, Err(ChallengeError::Broken | ChallengeError::TooLong)))
    }

    /// Takes the nonce that the value of an `Authentication-Info` names for the next request (RFC 7616 §3.5); whether it
    /// is another one.
    pub fn follow(&mut self, info: &str) -> bool {
        let Ok([Some(nonce)]) = named(info, ["nextnonce"]) else { return false };
        match bounded(nonce, NONCE_BYTES) {
            Ok(nonce) if !nonce.is_empty() => {
                let changed = nonce != self.nonce;
                self.nonce = nonce;
                changed
            }
            _ => false,
        }
    }

    fn supported<'v>(values: impl Iterator<Item = &'v str>, allowed: &[Hash]) -> impl Iterator<Item = Self> {
        values
            .flat_map(split_challenges)
            .take(CHALLENGES)
            .filter_map(|value| Self::parse(value).ok())
            .filter(|challenge| allowed.contains(&challenge.algorithm.hash) && challenge.qop != Qop::Unknown)
    }
}

impl fmt::Debug for Challenge {
    /// Leaves the nonce and the opaque out: they may carry what the peer keeps for itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge")
            .field("realm", &self.realm)
            .field("algorithm", &self.algorithm)
            .field("qop", &self.qop)
            .field("stale", &self.stale)
            .finish_non_exhaustive()
    }
}

impl Qop {
    fn parse(list: &str) -> Self {
        let options = || list.split(',').map(str::trim).filter(|option| !option.is_empty());
        let offers = |wanted: &str| options().any(|option| option.eq_ignore_ascii_case(wanted));
        match (offers("auth"), offers("auth-int")) {
            (true, true) => Self::Both,
            (true, false) => Self::Auth,
            (false, true) => Self::AuthInt,
            (false, false) if options().next().is_none() => Self::Absent,
            (false, false) => Self::Unknown,
        }
    }
}

impl From<FieldError> for ChallengeError {
    fn from(error: FieldError) -> Self {
        match error {
            FieldError::TooLong => Self::TooLong,
            FieldError::Broken => Self::Broken,
        }
    }
}

impl fmt::Display for ChallengeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotDigest => "the challenge is not Digest",
            Self::Broken => "the challenge is broken",
            Self::TooLong => "the challenge is too long",
            Self::UnknownAlgorithm => "the challenge asks for an unknown algorithm",
        })
    }
}

impl std::error::Error for ChallengeError {}

/// The value of a `WWW-Authenticate` or `Proxy-Authenticate` that offers `qop="auth"`.
pub fn challenge_value(realm: &str, nonce: &str, algorithm: impl Into<Algorithm>, stale: bool) -> String {
    let mut out = String::with_capacity(64 + realm.len() + nonce.len());
    push_quoted(&mut out, "Digest realm", realm);
    push_quoted(&mut out, ", nonce", nonce);
    out.push_str(", algorithm=");
    out.push_str(&algorithm.into().to_string());
    out.push_str(", qop=\"auth\"");
    if stale {
        out.push_str(", stale=true");
    }
    out
}

/// The challenges of one value. RFC 3261 §20.44 allows one; HTTP's grammar (RFC 9110 §11.6.1) allows more, with the commas
/// between them that also stand between parameters: one begins where a scheme stands before a parameter's name.
fn split_challenges(value: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let (mut quoted, mut escaped) = (false, false);
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                b',' if !quoted && begins_challenge(&text[at + 1..]) => {
                    rest = Some(&text[at + 1..]);
                    return Some(&text[..at]);
                }
                _ => {}
            }
        }
        Some(text)
    })
}

fn begins_challenge(text: &str) -> bool {
    let text = text.trim_start_matches([' ', '\t', '\r', '\n']);
    let name = text.split(['=', ',', '"']).next().unwrap_or_default();
    // White space before `=` belongs to a parameter; a scheme is followed by a name.
    name.trim_end_matches([' ', '\t', '\r', '\n']).contains([' ', '\t'])
}

fn bounded(text: Cow<'_, str>, limit: usize) -> Result<Box<str>, ChallengeError> {
    if text.len() > limit { Err(ChallengeError::TooLong) } else { Ok(text.into_owned().into_boxed_str()) }
}
