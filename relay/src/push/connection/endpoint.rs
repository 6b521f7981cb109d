//! The endpoint of a push service, and the roots trusted there.
//!
//! Invariant: nothing but an `https` origin, dialled with TLS 1.2 or 1.3 and a certificate for its own name.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use hyper::Uri;
use hyper::http::uri::{Authority, Parts, PathAndQuery, Scheme};
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

use super::dial::Dialler;
use super::identity;
use super::network::Network;
use crate::clock::TlsTime;
use crate::net::https_port::https_port;
use crate::push::setup::Problem;
use crate::regular_file;

/// One `https` origin and how it is dialled.
pub(crate) struct Endpoint {
    origin: Box<str>,
    authority: Authority,
    path: Box<str>,
    dialler: Dialler,
}

impl Endpoint {
    /// Reads an `https` URL with a host, perhaps a port and perhaps a path; `setting` is its name in an error.
    pub(crate) fn new(
        url: &str,
        setting: &'static str,
        tls: Arc<ClientConfig>,
        network: Arc<dyn Network>,
    ) -> Result<Self, Problem> {
        let bad =
            || Problem::Setting { setting, wanted: "an https:// URL with a host, and a port from 1 to 65535 if any" };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("https") || uri.authority().is_none_or(|authority| authority.as_str().contains('@'))
        {
            return Err(bad());
        }
        let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
        let port = https_port(&uri).ok_or_else(bad)?;
        let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let origin = format!("https://{authority}");
        let authority = authority.parse().map_err(|_| bad())?;
        let path = uri.path().trim_end_matches('/').into();
        let dialler = Dialler::new(host, port, name, tls, network);
        Ok(Self { origin: origin.into(), authority, path, dialler })
    }

    /// As one whose service may speak HTTP/1.1 alone.
    pub(crate) fn or_http1(self) -> Self {
        Self { dialler: self.dialler.or_http1(), ..self }
    }

    /// `https://host:port`
    pub(crate) fn origin(&self) -> &str {
        &self.origin
    }

    /// The URI of this path there; `None` when it is none.
    pub(super) fn uri(&self, path: &str) -> Option<Uri> {
        let mut parts = Parts::default();
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = Some(self.authority.clone());
        parts.path_and_query =
            Some(if path.is_empty() { PathAndQuery::from_static("/") } else { path.parse().ok()? });
        Uri::from_parts(parts).ok()
    }

    /// The URL's path, without a slash at its end; empty for none.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn dialler(&self) -> &Dialler {
        &self.dialler
    }
}

/// A TLS client for HTTP/2 that trusts the system's roots and, beside them, those of `ca_file`. It shows the certificate of
/// `identity`, a PEM file with the private key in it.
pub(crate) fn trust(ca_file: Option<&Path>, identity: Option<&Path>) -> Result<Arc<ClientConfig>, Problem> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system_roots().iter().cloned());
    if let Some(path) = ca_file {
        let unreadable = |source| Problem::Unreadable { path: path.into(), source };
        let text = regular_file::read(path).map_err(unreadable)?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(regular_file::without_byte_order_mark(&text))
            .filter_map(Result::ok)
            .collect();
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(Problem::NoCertificate { path: path.into() });
        }
    }
    if roots.is_empty() {
        return Err(Problem::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_details(provider, Arc::new(TlsTime)).with_safe_default_protocol_versions();
    // The provider and the versions are both compiled in.
    let builder = builder.map_err(|_| Problem::NoRoots)?.with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity::read(path)?))),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// The system's trusted roots, read once.
fn system_roots() -> &'static [CertificateDer<'static>] {
    static ROOTS: OnceLock<Vec<CertificateDer<'static>>> = OnceLock::new();
    ROOTS.get_or_init(|| rustls_native_certs::load_native_certs().certs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::connection::network::Nowhere;

    fn endpoint(url: &str) -> Result<Endpoint, Problem> {
        let roots = RootCertStore::empty();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Endpoint::new(
            url,
            "endpoint",
            Arc::new(builder.with_root_certificates(roots).with_no_client_auth()),
            Arc::new(Nowhere),
        )
    }

    #[test]
    fn an_endpoint_is_an_https_url() {
        for (url, origin, path) in [
            ("https://api.push.apple.com", "https://api.push.apple.com:443", ""),
            ("https://localhost:1234/", "https://localhost:1234", ""),
            ("https://[::1]:8443/token", "https://[::1]:8443", "/token"),
        ] {
            let endpoint = endpoint(url).unwrap();
            assert_eq!((endpoint.origin(), endpoint.path()), (origin, path));
            for path in ["", "/", "/3/device/00ff", "/send?to=%41"] {
                let whole = format!("{origin}{}", if path.is_empty() { "/" } else { path });
                assert_eq!(endpoint.uri(path).map(|uri| uri.to_string()), Some(whole));
            }
            assert_eq!(endpoint.uri("/ "), None);
        }
        for url in [
            "http://localhost",
            "localhost:1",
            "https://",
            "https://user@host",
            "",
            "ftp://x",
            "https://h:0",
            "https://h:99999",
        ] {
            assert!(endpoint(url).is_err(), "{url}");
        }
    }
}
