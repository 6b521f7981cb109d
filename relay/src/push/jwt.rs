//! JSON Web Tokens in compact form (RFC 7515), and the private keys that sign them.
//!
//! Invariant: key text and tokens are wiped when they are dropped, no `Debug` shows them, and no error repeats them.

use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use hyper::header::HeaderValue;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use zeroize::{Zeroize, Zeroizing};

use super::setup::Problem;
use crate::regular_file;

/// The largest key file that is read, in bytes; a service account's is about 2,400.
const MAX_KEY_FILE: u64 = 64 * 1024;

/// A text that is wiped when it is dropped: a token, a form with a token in it.
pub(super) type SecretBytes = Zeroizing<Vec<u8>>;

/// Joins header and claims and what `sign` makes of them. `None` when signing fails.
pub(super) fn compact(
    header: &Value,
    claims: &Value,
    sign: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Option<SecretBytes> {
    let header = URL_SAFE_NO_PAD.encode(header.to_string());
    let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
    let signed = format!("{header}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes())?);
    let mut token = Zeroizing::new(Vec::with_capacity(signed.len() + 1 + signature.len()));
    token.extend_from_slice(signed.as_bytes());
    token.push(b'.');
    token.extend_from_slice(signature.as_bytes());
    Some(token)
}

/// The header value `Bearer TOKEN`: marked sensitive, so that it is neither printed nor kept in a compression table,
/// and wiped when its last clone is dropped. `None` when the token holds what a header cannot.
pub(super) fn bearer(token: &[u8]) -> Option<HeaderValue> {
    let mut text = Zeroizing::new(Vec::with_capacity(b"Bearer ".len() + token.len()));
    text.extend_from_slice(b"Bearer ");
    text.extend_from_slice(token);
    sensitive(text)
}

/// The header value `text`, likewise.
pub(super) fn sensitive(text: SecretBytes) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(Wiped(text))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Reads a whole key file into a buffer that is wiped.
pub(super) fn read_key_file(path: &Path) -> Result<SecretBytes, Problem> {
    let unreadable = |source| Problem::Unreadable { path: path.into(), source };
    let mut file = regular_file::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if length > MAX_KEY_FILE {
        return Err(Problem::TooLarge { path: path.into() });
    }
    // One byte more than the file holds, so that reading to its end never moves the buffer.
    let mut text = Zeroizing::new(vec![0; length as usize + 1]);
    let mut filled = 0;
    while filled < text.len() {
        match file.read(&mut text[filled..]).map_err(unreadable)? {
            0 => break,
            read => filled += read,
        }
    }
    text.truncate(filled);
    Ok(text)
}

/// The PKCS#8 key in PEM text. `None` when there is none.
pub(super) fn pkcs8_from_pem(pem: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut key = PrivatePkcs8KeyDer::from_pem_slice(regular_file::without_byte_order_mark(pem)).ok()?;
    let der = Zeroizing::new(key.secret_pkcs8_der().to_vec());
    key.zeroize();
    Some(der)
}

struct Wiped(SecretBytes);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_three_parts_of_unpadded_base64url() {
        let token =
            compact(&serde_json::json!({"alg": "x"}), &serde_json::json!({}), |_| Some(vec![0xfb, 0xff])).unwrap();
        assert_eq!(std::str::from_utf8(&token).unwrap(), "eyJhbGciOiJ4In0.e30.-_8");
    }

    #[test]
    fn a_bearer_header_does_not_print() {
        let value = bearer(b"topsecret").unwrap();
        assert_eq!(value.as_bytes(), b"Bearer topsecret");
        assert!(!format!("{value:?}").contains("topsecret"));
        assert!(bearer(b"a\r\nb").is_none());
    }
}
