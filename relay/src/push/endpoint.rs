//! Where a push service is, whom to trust there, and how to dial it: TCP, TLS, HTTP/2.
//!
//! Invariant: nothing but TLS 1.2 or 1.3 with a certificate for the endpoint's own name, and nothing but HTTP/2 in it.
//! Small writes leave at once (TCP_NODELAY).

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use hyper::Uri;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::setup::Problem;

/// How long one address may take to accept the connection.
const TCP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long name, addresses and both handshakes may take together.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// One `https` origin and the trust it is dialled with.
pub(super) struct Endpoint {
    host: Box<str>,
    port: u16,
    name: ServerName<'static>,
    origin: Box<str>,
    path: Box<str>,
    tls: Arc<ClientConfig>,
}

/// A freshly made HTTP/2 connection: the handle to send with, and what must be driven.
pub(super) type Dialled = (h2::client::SendRequest<Bytes>, h2::client::Connection<TlsStream<TcpStream>, Bytes>);

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("its name does not resolve: {0}")]
    Name(#[source] io::Error),
    #[error("no address accepts the connection: {0}")]
    Tcp(#[source] io::Error),
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    #[error("it does not speak HTTP/2")]
    NotHttp2,
    #[error("the HTTP/2 handshake failed: {0}")]
    Http2(#[source] h2::Error),
    #[error("it did not answer in time")]
    Timeout,
}

impl Endpoint {
    /// Reads an `https` URL with a host, perhaps a port and perhaps a path; `setting` is its name in an error.
    pub(super) fn new(url: &str, setting: &'static str, tls: Arc<ClientConfig>) -> Result<Self, Problem> {
        let bad = || Problem::Setting { setting, wanted: "an https:// URL with a host" };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        if uri.scheme_str() != Some("https") || uri.authority().is_none_or(|authority| authority.as_str().contains('@'))
        {
            return Err(bad());
        }
        let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| bad())?;
        let port = uri.port_u16().unwrap_or(443);
        let origin = match host.contains(':') {
            true => format!("https://[{host}]:{port}"),
            false => format!("https://{host}:{port}"),
        };
        let path = uri.path().trim_end_matches('/');
        Ok(Self { host: host.into(), port, name, origin: origin.into(), path: path.into(), tls })
    }

    /// `https://host:port`
    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    /// The URL's path, without a slash at its end; empty for none.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Connects, in at most [`DIAL_TIMEOUT`].
    pub(super) async fn dial(&self) -> Result<Dialled, DialError> {
        timeout(DIAL_TIMEOUT, self.dial_unbounded()).await.unwrap_or(Err(DialError::Timeout))
    }

    async fn dial_unbounded(&self) -> Result<Dialled, DialError> {
        let tcp = self.dial_tcp().await?;
        let tls = TlsConnector::from(Arc::clone(&self.tls));
        let stream = tls.connect(self.name.clone(), tcp).await.map_err(DialError::Tls)?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(DialError::NotHttp2);
        }
        h2::client::Builder::new().enable_push(false).handshake(stream).await.map_err(DialError::Http2)
    }

    async fn dial_tcp(&self) -> Result<TcpStream, DialError> {
        let addresses = tokio::net::lookup_host((&*self.host, self.port)).await.map_err(DialError::Name)?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match timeout(TCP_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true).map_err(DialError::Tcp)?;
                    return Ok(stream);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(DialError::Tcp(last))
    }
}

/// A TLS client for HTTP/2 that trusts the system's roots and, beside them, those of `ca_file`.
pub(super) fn trust(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, Problem> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(system_roots().iter().cloned());
    if let Some(path) = ca_file {
        let unreadable = |source| Problem::Unreadable { path: path.into(), source };
        let text = std::fs::read(path).map_err(unreadable)?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).collect();
        if roots.add_parsable_certificates(certificates).0 == 0 {
            return Err(Problem::NoCertificate { path: path.into() });
        }
    }
    if roots.is_empty() {
        return Err(Problem::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    // The provider and the versions are both compiled in.
    let mut config = builder.map_err(|_| Problem::NoRoots)?.with_root_certificates(roots).with_no_client_auth();
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

    fn endpoint(url: &str) -> Result<Endpoint, Problem> {
        let roots = RootCertStore::empty();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Endpoint::new(url, "endpoint", Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
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
        }
        for url in ["http://localhost", "localhost:1", "https://", "https://user@host", "", "ftp://x"] {
            assert!(endpoint(url).is_err(), "{url}");
        }
    }
}
