//! The digest that answering and verifying share (RFC 7616 §3.4.1).
//!
//! Invariant: the result is wiped on drop; nothing here is kept.

use zeroize::Zeroizing;

use super::{Algorithm, Ha1};

/// The parts of a request that a digest protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// `auth`: method and URI.
    Auth,
    /// `auth-int`: the body too.
    AuthInt,
}

/// The input of a digest, except the HA1.
pub(super) struct DigestInput<'a> {
    pub(super) algorithm: Algorithm,
    pub(super) nonce: &'a str,
    pub(super) cnonce: &'a str,
    /// The nonce count as written: eight hexadecimal digits.
    pub(super) nc: &'a str,
    pub(super) protection: Option<Protection>,
    pub(super) method: &'a str,
    pub(super) uri: &'a str,
    pub(super) body: &'a [u8],
}

impl DigestInput<'_> {
    /// The response in lower-case hexadecimal (RFC 7616 §3.4.1).
    pub(super) fn response(&self, ha1: &Ha1) -> Zeroizing<Box<str>> {
        let hash = self.algorithm.hash;
        let ha1 = ha1.for_session(self.algorithm.session, self.nonce, self.cnonce);
        let (method, uri) = (self.method.as_bytes(), self.uri.as_bytes());
        let ha2 = match self.protection {
            None | Some(Protection::Auth) => hash.of(&[method, uri]),
            Some(Protection::AuthInt) => hash.of(&[method, uri, hash.of(&[self.body]).as_bytes()]),
        };
        let (ha1, ha2, nonce) = (ha1.as_bytes(), ha2.as_bytes(), self.nonce.as_bytes());
        match self.protection {
            None => hash.of(&[ha1, nonce, ha2]),
            Some(protection) => {
                let qop = protection.as_str().as_bytes();
                hash.of(&[ha1, nonce, self.nc.as_bytes(), self.cnonce.as_bytes(), qop, ha2])
            }
        }
    }
}

impl Protection {
    /// The `qop` token.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::AuthInt => "auth-int",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Auth, Self::AuthInt].into_iter().find(|known| text.eq_ignore_ascii_case(known.as_str()))
    }
}
