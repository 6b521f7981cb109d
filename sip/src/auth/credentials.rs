//! Credentials: read and verified as a server (RFC 7616 §3.4, RFC 8898 for bearer tokens).
//!
//! Invariant: verification takes the same time whatever digit differs; nothing here shows a response or a token.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use subtle::ConstantTimeEq;

use super::digest::{DigestInput, Protection};
use super::fields::{named, named_before_another, strip_scheme};
use super::{Algorithm, Ha1, Hash, NONCE_BYTES, OPAQUE_BYTES, REALM_BYTES, URI_BYTES, USERNAME_BYTES, VALUE_BYTES};

/// Base64 as lenient readers accept it.
const BASIC: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A parsed `Authorization` or `Proxy-Authorization`.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The username, its escapes resolved.
    pub username: Box<str>,
    /// The realm.
    pub realm: Box<str>,
    /// The nonce answered to.
    pub nonce: Box<str>,
    /// The digest URI.
    pub uri: Box<str>,
    /// The response: as many hexadecimal digits as the algorithm's hash has.
    pub response: Box<str>,
    /// The algorithm; MD5 when none is named.
    pub algorithm: Algorithm,
    /// The client's nonce; present whenever `qop` is.
    pub cnonce: Option<Box<str>>,
    /// The protection; `None` in the form of RFC 2069.
    pub qop: Option<Protection>,
    /// The nonce count; present whenever `qop` is.
    pub nc: Option<u32>,
    /// The opaque value of the challenge, as it was sent back.
    pub opaque: Option<Box<str>>,
    /// The nonce count as written, which the response covers.
    nc_written: Box<str>,
}

impl Credentials {
    /// Reads a header value; `None` when it is not Digest, breaks the grammar, exceeds a limit, names an unknown
    /// algorithm or `qop`, or lacks what its form needs.
    pub fn parse(value: &str) -> Option<Self> {
        let text = strip_scheme(value, "Digest")?;
        let names = ["username", "realm", "nonce", "uri", "response", "algorithm", "cnonce", "qop", "nc", "opaque"];
        let [username, realm, nonce, uri, response, algorithm, cnonce, qop, nc, opaque] = named(text, names).ok()?;
        let algorithm = match algorithm {
            None => Algorithm::from(Hash::Md5),
            Some(token) => Algorithm::parse(&token)?,
        };
        let qop = match qop.as_deref() {
            None => None,
            Some(text) => Some(Protection::parse(text)?),
        };
        let nc_written: Box<str> = nc.as_deref().unwrap_or_default().into();
        let count = (nc_written.len() == 8 && nc_written.bytes().all(|b| b.is_ascii_hexdigit()))
            .then(|| u32::from_str_radix(&nc_written, 16).ok())
            .flatten();
        if qop.is_some() && (count.is_none() || cnonce.is_none()) || algorithm.session && cnonce.is_none() {
            return None;
        }
        let response = response?;
        if response.len() != algorithm.hash.hex_digits() || !response.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        Some(Self {
            username: bounded(username?, USERNAME_BYTES)?,
            realm: bounded(realm?, REALM_BYTES)?,
            nonce: bounded(nonce?, NONCE_BYTES)?,
            uri: bounded(uri?, URI_BYTES)?,
            response: response.to_ascii_lowercase().into(),
            algorithm,
            cnonce: match cnonce {
                None => None,
                Some(cnonce) => Some(bounded(cnonce, NONCE_BYTES)?),
            },
            qop,
            nc: count,
            opaque: match opaque {
                None => None,
                Some(opaque) => Some(bounded(opaque, OPAQUE_BYTES)?),
            },
            nc_written,
        })
    }

    /// Whether the response is right for this HA1, method and body, and for the `uri`, nonce and count that the
    /// credentials themselves name; whether those are acceptable is the caller's to judge.
    pub fn verify(&self, ha1: &Ha1, method: &str, body: &[u8]) -> bool {
        if ha1.hash() != self.algorithm.hash {
            return false;
        }
        let expected = DigestInput {
            algorithm: self.algorithm,
            nonce: &self.nonce,
            cnonce: self.cnonce.as_deref().unwrap_or_default(),
            nc: &self.nc_written,
            protection: self.qop,
            method,
            uri: &self.uri,
            body,
        }
        .response(ha1);
        expected.as_bytes().ct_eq(self.response.as_bytes()).into()
    }
}

impl fmt::Debug for Credentials {
    /// Leaves out all that names a person or helps to guess a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("algorithm", &self.algorithm)
            .field("qop", &self.qop)
            .field("nc", &self.nc)
            .finish_non_exhaustive()
    }
}

/// Every user name that an `Authorization` or `Proxy-Authorization` of these values holds, however odd or broken they are, each once: any reader
/// takes one of these. That of RFC 7616's `username*` is without its character set, its escapes unresolved. `None` where there are more than `most`,
/// or one is longer than [`USERNAME_BYTES`]: nothing is read after that. A `Basic` (RFC 7617) has its name, too.
pub fn usernames<'a>(values: impl Iterator<Item = &'a [u8]>, most: usize) -> Option<BTreeSet<Box<str>>> {
    let mut names = BTreeSet::new();
    for value in values {
        names.extend(basic_username(value)?);
        for at in 0..value.len() {
            if let Some(written) = written_username(value, at) {
                names.insert(username(written)?);
            }
            if names.len() > most {
                return None;
            }
        }
    }
    Some(names)
}

/// The bytes as text: UTF-8, or if they are none, the Latin-1 of databases, which is Windows-1252.
pub fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    /// The letters among 0x80 to 0x9F.
    const LETTERS: [(u8, char); 8] = [
        (0x83, '\u{192}'),
        (0x8a, '\u{160}'),
        (0x8c, '\u{152}'),
        (0x8e, '\u{17d}'),
        (0x9a, '\u{161}'),
        (0x9c, '\u{153}'),
        (0x9e, '\u{17e}'),
        (0x9f, '\u{178}'),
    ];
    let read = |byte: &u8| LETTERS.iter().find(|(of, _)| of == byte).map_or(char::from(*byte), |(_, letter)| *letter);
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.iter().map(read).collect::<String>().into(),
    }
}

/// The user name of a `Basic`, if the value is one that can be read; `None` where it is too long.
fn basic_username(value: &[u8]) -> Option<Option<Box<str>>> {
    let scheme =
        value.trim_ascii().split_first_chunk().filter(|(it, _): &(&[u8; 5], _)| it.eq_ignore_ascii_case(b"Basic"));
    let Some((_, written)) = scheme else { return Some(None) };
    let Ok(decoded) = BASIC.decode(written.trim_ascii()) else { return Some(None) };
    let name = decoded.split(|byte| *byte == b':').next().unwrap_or_default();
    if name.is_empty() { Some(None) } else { bounded(text_of(name), USERNAME_BYTES).map(Some) }
}

/// The rest of the text after a `username=` or `username*=` that begins at a place, and whether it has the star.
fn written_username(value: &[u8], at: usize) -> Option<(&[u8], bool)> {
    const NAME: &[u8] = b"username";
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!~*'%".contains(&byte);
    let begins = at == 0 || !is_word(value[at - 1]);
    let (name, rest) = value[at..].split_at_checked(NAME.len()).filter(|_| begins)?;
    if !name.eq_ignore_ascii_case(NAME) {
        return None;
    }
    let (is_extended, rest) = rest.strip_prefix(b"*").map_or((false, rest), |rest| (true, rest));
    Some((rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start(), is_extended))
}

/// The user name at the beginning of what is written; `None` where it is too long.
fn username((written, is_extended): (&[u8], bool)) -> Option<Box<str>> {
    // Two quotes, and each byte escaped.
    let longest = 2 * USERNAME_BYTES + 2;
    let looked_at = &written[..written.len().min(longest)];
    let end = match looked_at.strip_prefix(b"\"") {
        Some(inner) => {
            let mut escaped = false;
            let close = inner.iter().position(|byte| {
                let closes = *byte == b'"' && !escaped;
                escaped = *byte == b'\\' && !escaped;
                closes
            });
            close.map(|close| close + 2)
        }
        None => looked_at.iter().position(|b| *b == b',' || b.is_ascii_whitespace()),
    };
    // One that does not end within so many bytes ends with the value.
    let end = end.or_else(|| (written.len() <= longest).then_some(written.len()))?;
    let text = text_of(&written[..end]);
    let text = crate::message::unquote(&text);
    let name = if is_extended { text.splitn(3, '\'').last().unwrap_or_default() } else { &text };
    bounded(name.trim_matches('"').into(), USERNAME_BYTES)
}

/// The token of a `Bearer` value (RFC 8898 §2.1.1); `None` for another scheme, or one that is no `b64token`.
pub fn bearer(value: &str) -> Option<&str> {
    let token = strip_scheme(value, "Bearer")?;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
    (!token.is_empty() && token.len() <= VALUE_BYTES && token.bytes().all(legal)).then_some(token)
}

/// The realm and the user name of a Digest, whatever else is in it: its algorithm may be unknown here. `None`: it is none, names no realm or
/// breaks the grammar, or other credentials begin in the same value.
pub fn digest_names(value: &str) -> Option<(Cow<'_, str>, Option<Cow<'_, str>>)> {
    let text = strip_scheme(value, "Digest")?;
    let ([realm, username], is_all) = named_before_another(text, ["realm", "username"]).ok()?;
    Some((realm.filter(|_| is_all)?, username))
}

/// The nonce that a Digest challenge gives, or that Digest credentials answer, and whether no others begin in the same value. `None`: it is none,
/// names no nonce or breaks the grammar.
pub(crate) fn digest_nonce(value: &str) -> Option<(Cow<'_, str>, bool)> {
    let ([nonce], is_all) = named_before_another(strip_scheme(value, "Digest")?, ["nonce"]).ok()?;
    Some((nonce?, is_all))
}

fn bounded(text: Cow<'_, str>, limit: usize) -> Option<Box<str>> {
    (text.len() <= limit).then(|| text.into_owned().into_boxed_str())
}
