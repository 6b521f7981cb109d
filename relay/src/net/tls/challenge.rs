//! Proving to a CA that a name is this relay's, on its own TLS listener (TLS-ALPN-01, RFC 8737).
//!
//! Invariant: the certificate of a challenge is shown to who offers `acme-tls/1` and nothing else, while the challenge lasts, and
//! for its name alone; nobody else sees it, and nobody who offers that protocol sees another one.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;

use super::TlsError;

/// The application protocol of a CA that looks.
pub const ACME_PROTOCOL: &[u8] = b"acme-tls/1";

/// The challenges under way, by the name that is to be proved.
#[derive(Debug, Default)]
pub struct Challenges(ArcSwap<HashMap<Box<str>, Arc<CertifiedKey>>>);

impl Challenges {
    /// Answers for `name` with the SHA-256 of the key authorization, until [`Challenges::forget`].
    ///
    /// # Errors
    /// [`TlsError`] when the certificate cannot be made.
    pub fn answer(&self, name: &str, digest: &[u8]) -> Result<(), TlsError> {
        let certificate = Arc::new(certificate(name, digest).map_err(TlsError::Challenge)?);
        self.0.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.insert(name.into(), certificate.clone());
            known
        });
        Ok(())
    }

    /// Answers for `name` no more.
    pub fn forget(&self, name: &str) {
        self.0.rcu(|known| {
            let mut known = HashMap::clone(known);
            known.remove(name);
            known
        });
    }

    /// The certificate for a CA that validates; `None` for every other client.
    pub(super) fn of(&self, hello: &ClientHello<'_>) -> Option<Option<Arc<CertifiedKey>>> {
        let mut offered = hello.alpn()?;
        let looks = offered.next() == Some(ACME_PROTOCOL) && offered.next().is_none();
        looks.then(|| self.0.load().get(&*hello.server_name()?.to_ascii_lowercase()).cloned())
    }
}

fn certificate(name: &str, digest: &[u8]) -> Result<CertifiedKey, String> {
    let text = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate().map_err(text)?;
    let mut params = CertificateParams::new([name.to_owned()]).map_err(text)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(text)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
    let key = default_provider().key_provider.load_private_key(key).map_err(|error| error.to_string())?;
    // Unchecked: no verifier knows the critical extension that the CA looks for.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}
