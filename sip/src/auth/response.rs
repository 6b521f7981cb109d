//! Answering a challenge (RFC 7616 §3.4).
//!
//! Invariant: the value written is one header value, whatever the username or the URI hold; no secret is in it.

use std::fmt;

use super::digest::{DigestInput, Protection};
use super::fields::push_quoted;
use super::{Challenge, Ha1, NONCE_BYTES, Qop, URI_BYTES, USERNAME_BYTES};

/// The parts of a request that its credentials are computed from.
#[derive(Clone, Copy)]
pub struct DigestResponse<'a> {
    /// The username, at most [`USERNAME_BYTES`].
    pub username: &'a str,
    /// The request's method.
    pub method: &'a str,
    /// The Request-URI as it is sent, at most [`URI_BYTES`].
    pub uri: &'a str,
    /// Fresh and unpredictable for each use, not empty, at most [`NONCE_BYTES`].
    pub cnonce: &'a str,
    /// The number of requests sent with this nonce, this one included.
    pub nc: u32,
    /// The body, which `auth-int` protects.
    pub body: &'a [u8],
}

/// Reason why a challenge was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestResponseError {
    /// The HA1 was made with another hash than the challenge asks for.
    OtherHash,
    /// The challenge offers only protections that are not known.
    UnknownQop,
    /// A part of the [`DigestResponse`] is empty, too long, or holds a control character.
    BadPart,
}

impl Challenge {
    /// The value of an `Authorization` or `Proxy-Authorization`. Prefers `auth` to `auth-int`; without `qop` it takes the
    /// form of RFC 2069.
    ///
    /// # Errors
    /// [`DigestResponseError`] when the challenge, the HA1 and the answer do not fit together.
    pub fn answer(&self, ha1: &Ha1, answer: &DigestResponse<'_>) -> Result<String, DigestResponseError> {
        if ha1.hash() != self.algorithm.hash {
            return Err(DigestResponseError::OtherHash);
        }
        let parts = [
            (answer.username, USERNAME_BYTES),
            (answer.uri, URI_BYTES),
            (answer.cnonce, NONCE_BYTES),
            (answer.method, USERNAME_BYTES),
        ];
        let bad = |(part, limit): (&str, usize)| {
            part.is_empty() || part.len() > limit || part.bytes().any(|b| b.is_ascii_control())
        };
        if parts.into_iter().any(bad) {
            return Err(DigestResponseError::BadPart);
        }
        let protection = match self.qop {
            Qop::Absent => None,
            Qop::Auth | Qop::Both => Some(Protection::Auth),
            Qop::AuthInt => Some(Protection::AuthInt),
            Qop::Unknown => return Err(DigestResponseError::UnknownQop),
        };
        let response = DigestInput {
            algorithm: self.algorithm,
            nonce: &self.nonce,
            cnonce: answer.cnonce,
            nc: &format!("{:08x}", answer.nc),
            protection,
            method: answer.method,
            uri: answer.uri,
            body: answer.body,
        }
        .response(ha1);
        Ok(self.write(answer, protection, &response))
    }

    fn write(&self, answer: &DigestResponse<'_>, protection: Option<Protection>, response: &str) -> String {
        let mut out = String::with_capacity(256 + self.nonce.len() + self.realm.len() + answer.uri.len());
        if self.userhash {
            let hashed = self.algorithm.hash.of(&[answer.username.as_bytes(), self.realm.as_bytes()]);
            push_quoted(&mut out, "Digest username", &hashed);
        } else {
            push_quoted(&mut out, "Digest username", answer.username);
        }
        push_quoted(&mut out, ", realm", &self.realm);
        push_quoted(&mut out, ", nonce", &self.nonce);
        push_quoted(&mut out, ", uri", answer.uri);
        push_quoted(&mut out, ", response", response);
        if let Some(written) = &self.algorithm_written {
            out.push_str(", algorithm=");
            out.push_str(written);
        }
        if let Some(protection) = protection {
            push_quoted(&mut out, ", cnonce", answer.cnonce);
            out.push_str(&format!(", qop={}, nc={:08x}", protection.as_str(), answer.nc));
        } else if self.algorithm.session {
            // RFC 2617 §3.2.2 forbids cnonce without qop, yet a session's HA1 cannot be checked without it.
            push_quoted(&mut out, ", cnonce", answer.cnonce);
        }
        if let Some(opaque) = &self.opaque {
            push_quoted(&mut out, ", opaque", opaque);
        }
        if self.userhash {
            out.push_str(", userhash=true");
        }
        out
    }
}

impl fmt::Debug for DigestResponse<'_> {
    /// Shows the method alone: the others name people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DigestResponse").field("method", &self.method).finish_non_exhaustive()
    }
}

impl fmt::Display for DigestResponseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OtherHash => "the HA1 was made with another hash",
            Self::UnknownQop => "the challenge offers no known protection",
            Self::BadPart => "a part of the answer is empty, too long or holds a control character",
        })
    }
}

impl std::error::Error for DigestResponseError {}
