//! Connecting to a SIP server.
//!
//! Invariant: a dial ends within [`CONNECT_TIMEOUT`] plus [`HANDSHAKE_TIMEOUT`]; a TLS stream that is given back was
//! verified for the domain named. Whether the address may be talked to was asked of [`super::reach`] before.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::prompt::be_prompt;
use super::socket::Socket;
use super::stream::Stream;
use super::tls::{self, ClientTls};

/// A TCP connection that takes longer is given up, and the next candidate is tried.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A TLS handshake that takes longer is given up.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody answered in time: the next candidate, then later again.
    #[error("{0} did not answer in time")]
    Timeout(SocketAddr),
    /// Nobody is there, or it closed: the next candidate, then later again.
    #[error("{0} cannot be connected to: {1}")]
    Unreachable(SocketAddr, io::Error),
    /// It answered, and not with TLS: the next candidate.
    #[error("{0} does not speak TLS: {1}")]
    NotTls(SocketAddr, String),
    /// Its certificate is not good for the domain: never sent anything; tried again later, its operator told.
    #[error("the certificate of {address} is not valid for {domain}: {why}")]
    NotTrusted {
        /// Who was connected to.
        address: SocketAddr,
        /// For which domain.
        domain: String,
        /// What was wrong.
        why: String,
    },
    /// The domain cannot stand in a certificate: not tried again.
    #[error("{0:?} is not a domain or a numeric address")]
    NotADomain(String),
}

/// Connects over TCP.
pub async fn tcp(address: SocketAddr) -> Result<Stream, DialError> {
    Ok(Stream::plain(connect(address).await?, None))
}

/// Connects over TLS and verifies the certificate for `domain`: the account's SIP domain (RFC 5922 §4), or a numeric
/// host (bracketed when IPv6) that the certificate must then name as an IP address.
pub async fn tls(address: SocketAddr, client: &ClientTls, domain: &str) -> Result<Stream, DialError> {
    let name = tls::server_name(domain).ok_or_else(|| DialError::NotADomain(domain.to_owned()))?;
    let stream = connect(address).await?;
    let handshake = TlsConnector::from(client.config()).connect(name, Socket::new(stream));
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Err(_) => Err(DialError::Timeout(address)),
        Ok(Ok(stream)) => Ok(Stream::tls(stream, None)),
        Ok(Err(error)) => Err(failed(address, domain, error)),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, DialError> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| DialError::Timeout(address))?;
    let stream = stream.map_err(|error| DialError::Unreachable(address, error))?;
    be_prompt(&stream);
    Ok(stream)
}

fn failed(address: SocketAddr, domain: &str, error: io::Error) -> DialError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            DialError::NotTrusted { address, domain: domain.to_owned(), why: why.to_string() }
        }
        Some(why) => DialError::NotTls(address, why.to_string()),
        None => DialError::Unreachable(address, error),
    }
}
