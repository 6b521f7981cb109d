//! Digest authentication: challenge, HA1, answer, verification (RFC 7616, RFC 8760; RFC 2617 and RFC 2069 as a peer asks).
//!
//! As a client: [`Challenge::topmost_supported`], then [`Challenge::answer`] with an [`Ha1`].
//! As a server: [`challenge_value`], then [`Credentials::parse`] and [`Credentials::verify`].
//!
//! The checks that need memory are left to the caller: that a nonce is fresh and its count grows, that the realm is the one expected, that the `uri`
//! of the credentials is the request's, that a challenge is answered a bounded number of times.
//!
//! | room | what it is |
//! | --- | --- |
//! | `challenge`, `response` | a challenge, read and written; the answer to one |
//! | `credentials` | credentials, read and verified |
//! | `digest`, `hash` | the digest of both sides, and the hashes below |
//! | `fields` | the parameters of both headers |
//! | `packed` | a challenge as it is kept between two answers |
//!
//! Invariant: nothing that a peer sends is kept beyond the limits named here, and nothing that it sends makes this module
//! panic. An [`Ha1`] never shows through `Debug` and is wiped on drop, as are the hash states that saw a password.
//! Responses are compared in constant time.

mod challenge;
mod credentials;
mod digest;
mod fields;
mod hash;
mod packed;
mod response;

pub use challenge::{Challenge, ChallengeError, Qop, challenge_value};
pub use credentials::{Credentials, bearer, text_of, usernames};
pub(crate) use credentials::{digest_names, digest_nonce};
pub use digest::Protection;
pub use hash::{Algorithm, Ha1, Hash};
pub use packed::PackedChallenge;
pub use response::{DigestResponse, DigestResponseError};

/// Bytes of a whole challenge or credentials value; a longer one is refused.
pub const VALUE_BYTES: usize = 8 * 1024;
/// Bytes of a realm; a longer one is refused.
pub const REALM_BYTES: usize = 512;
/// Bytes of a nonce or a cnonce; a longer one is refused.
pub const NONCE_BYTES: usize = 1024;
/// Bytes of an opaque; a longer one is refused.
pub const OPAQUE_BYTES: usize = 1024;
/// Bytes of a username; a longer one is refused.
pub const USERNAME_BYTES: usize = 512;
/// Bytes of a digest URI; a longer one is refused.
pub const URI_BYTES: usize = 2048;
/// Parameters of one challenge or credentials; more are refused.
pub const PARAMS: usize = 32;
/// How many challenges of one response are looked at, from the top.
pub const CHALLENGES: usize = 16;

#[cfg(test)]
mod tests;
