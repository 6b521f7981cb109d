//! The two ways by which the floor pushes.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use hyper::Request;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio_rustls::TlsConnector;

use crate::apns::BUNDLE;
use crate::load::accounts;

/// A connection to a push service that is open.
pub(super) enum Pushes {
    /// HTTP/1.1 without TLS.
    Plain(OwnedWriteHalf),
    /// APNs.
    Apple(SendRequest<Bytes>),
}

impl Pushes {
    /// Connects: to the address in the one argument, or to APNs by the port, CA and certificate in three.
    pub(super) async fn open(arguments: &[String]) -> io::Result<Self> {
        match arguments {
            [address] => Self::plain(address).await,
            [port, ca, identity] => Self::apple(port, ca, identity).await,
            _ => Err(io::Error::other("an address, or a port and two files, are wanted")),
        }
    }

    async fn plain(address: &str) -> io::Result<Self> {
        let service = TcpStream::connect(address).await?;
        service.set_nodelay(true)?;
        let (mut answers, pushes) = service.into_split();
        tokio::spawn(async move {
            let mut answered = [0; 4096];
            while answers.read(&mut answered).await.is_ok_and(|length| length > 0) {}
        });
        Ok(Self::Plain(pushes))
    }

    async fn apple(port: &str, ca: &str, identity: &str) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).map_err(io::Error::other)?).map_err(io::Error::other)?;
        let own = CertificateDer::from_pem_file(identity).map_err(io::Error::other)?;
        let key = PrivateKeyDer::from_pem_file(identity).map_err(io::Error::other)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(io::Error::other)?.with_root_certificates(roots);
        let mut config = builder.with_client_auth_cert(vec![own], key).map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let port: u16 = port.parse().map_err(io::Error::other)?;
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let (sender, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self::Apple(sender))
    }

    /// Pushes for this user.
    pub(super) async fn push(&mut self, user: &str) -> io::Result<()> {
        match self {
            Self::Plain(service) => {
                let body = format!("{{\"token\":\"{user}\"}}");
                let head = format!("POST /push HTTP/1.1\r\nHost: push\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                service.write_all(head.as_bytes()).await
            }
            Self::Apple(service) => {
                let token = accounts::apns_token(
                    accounts::of_user(user).ok_or_else(|| io::Error::other("no user of this run"))?,
                );
                let request = Request::post(format!("https://localhost/3/device/{token}"))
                    .header("apns-topic", format!("{BUNDLE}.voip"))
                    .header("apns-push-type", "voip")
                    .header("apns-priority", "10")
                    .header("apns-expiration", "0")
                    .header("apns-id", format!("00000000-0000-4000-8000-{}", &token[token.len() - 12..]))
                    .body(())
                    .map_err(io::Error::other)?;
                let body = format!(
                    "{{\"aps\":{{}},\"sipwake\":{{\"event\":\"call\",\"instance\":\"{user}\",\"call\":\"{user}\"}}}}"
                );
                let mut ready = service.clone().ready().await.map_err(io::Error::other)?;
                let (answer, mut stream) = ready.send_request(request, false).map_err(io::Error::other)?;
                stream.send_data(body.into(), true).map_err(io::Error::other)?;
                tokio::spawn(answer);
                // The connection writes now, and not after the caller has heard 180.
                tokio::task::yield_now().await;
                Ok(())
            }
        }
    }
}
