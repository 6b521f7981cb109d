//! The App's identity at push services: VAPID (RFC 8292), a token for each service, signed with the App's key.
//!
//! Invariant: a token is for one origin and lives for [`LIFE`]. The private key is never printed.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::HeaderValue;
use zeroize::Zeroizing;

use crate::push::jwt;
use crate::push::setup::Problem;

/// How long a token lives; services take none beyond a day (RFC 8292 §2).
const LIFE: Duration = Duration::from_secs(12 * 3_600);
/// Nobody gives an app its key: the operator makes it.
const MAKE: &str = "make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out webpush.pem";
/// How old a token may become.
pub(super) const RENEW_AFTER: Duration = Duration::from_secs(6 * 3_600);

/// Signs for one App.
pub(in crate::push) struct Vapid {
    key: EcdsaKeyPair,
    public: Box<str>,
    subject: Box<str>,
}

impl Vapid {
    pub(in crate::push) fn new(key_file: &Path, subject: &str) -> Result<Self, Problem> {
        let key = read(key_file)?;
        let is_contact = |text: &str| {
            let named = text.strip_prefix("mailto:").is_some_and(|address| address.contains('@'))
                || text.strip_prefix("https://").is_some_and(|rest| !rest.is_empty());
            named && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !is_contact(subject) {
            return Err(Problem::Setting { setting: "subject", wanted: "mailto: with an address, or an https:// URL" });
        }
        let public = URL_SAFE_NO_PAD.encode(key.public_key().as_ref()).into();
        let vapid = Self { key, public, subject: subject.into() };
        let wrong = || Problem::WrongKey { path: key_file.into(), wanted: "a P-256 key that can sign" };
        vapid.token("https://example.net", UNIX_EPOCH).ok_or_else(wrong)?;
        Ok(vapid)
    }

    /// The header for a service at this origin. `None` when the system cannot sign.
    pub(in crate::push) fn token(&self, audience: &str, now: SystemTime) -> Option<HeaderValue> {
        let expires = now.duration_since(UNIX_EPOCH).unwrap_or_default() + LIFE;
        let header = serde_json::json!({"typ": "JWT", "alg": "ES256"});
        let claims = serde_json::json!({"aud": audience, "exp": expires.as_secs(), "sub": self.subject});
        let sign = |text: &[u8]| Some(self.key.sign(&SystemRandom::new(), text).ok()?.as_ref().to_vec());
        let token = jwt::compact(&header, &claims, sign)?;
        let mut text = Zeroizing::new(Vec::with_capacity(token.len() + self.public.len() + 12));
        text.extend_from_slice(b"vapid t=");
        text.extend_from_slice(&token);
        text.extend_from_slice(b", k=");
        text.extend_from_slice(self.public.as_bytes());
        jwt::sensitive(text)
    }
}

/// The public key in base64url, which an app subscribes with (`applicationServerKey`).
///
/// # Errors
/// When the file holds no P-256 key.
pub fn public_key(key_file: &Path) -> Result<Box<str>, Problem> {
    Ok(URL_SAFE_NO_PAD.encode(read(key_file)?.public_key().as_ref()).into())
}

fn read(key_file: &Path) -> Result<EcdsaKeyPair, Problem> {
    let text = jwt::read_key_file(key_file)?;
    let der = jwt::pkcs8_from_pem(&text).ok_or_else(|| Problem::NoKey { path: key_file.into(), remedy: MAKE })?;
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der)
        .map_err(|_| Problem::WrongKey { path: key_file.into(), wanted: "a P-256 key (PKCS #8)" })
}
