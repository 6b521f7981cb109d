//! Connecting to a SIP server.
//!
//! Invariant: a dial ends within [`CONNECT_TIMEOUT`] plus [`HANDSHAKE_TIMEOUT`]; a TLS stream that is given back was
//! verified for the domain named. Whether the address may be talked to was asked of [`super::address_policy`] before.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::socket::Socket;
use super::stream::Stream;
use super::tcp_options::be_prompt;
use super::tls::{self, ClientTls};
use super::tls_fault::TlsFault;

/// A TCP connection that takes longer is given up, and the next candidate is tried.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A TLS handshake that takes longer is given up.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The peer did not answer in time: the next candidate, then later again.
    #[error("{0} did not answer in time")]
    Timeout(SocketAddr),
    /// The peer is not there, or it closed: the next candidate, then later again.
    #[error("{0} cannot be connected to: {1}")]
    Unreachable(SocketAddr, io::Error),
    /// The peer answered, and not with TLS: the next candidate.
    #[error("{0} does not speak TLS: {1}")]
    NotTls(SocketAddr, String),
    /// Its certificate is not good for the domain: never sent anything; tried again later, its operator told.
    #[error("the certificate of {address} is not valid for {domain}: {why}")]
    NotTrusted {
        /// The address of the peer.
        address: SocketAddr,
        /// For which domain.
        domain: String,
        /// The fault, with the names that the certificate has.
        why: String,
        /// The same without any name.
        fault: TlsFault,
    },
    /// The domain cannot stand in a certificate: not tried again.
    #[error("{0:?} is not a domain or a numeric address")]
    NotADomain(String),
}

impl DialError {
    /// The error as it may be told to anybody: without the domain, which is an account's, and without a word of the other side's.
    pub fn discreet(&self) -> String {
        match self {
            Self::Timeout(_) | Self::Unreachable(..) => self.to_string(),
            Self::NotTls(address, _) => format!("{address} does not speak TLS that is spoken here"),
            Self::NotTrusted { address, fault, .. } => format!("{address}: {fault}"),
            Self::NotADomain(_) => "neither a domain nor a numeric address".to_owned(),
        }
    }

    /// Whether the address could not be connected to, for any account: neither a failure after the connection, nor one of this machine.
    pub fn is_of_address(&self) -> bool {
        match self {
            Self::Timeout(_) => true,
            Self::Unreachable(_, error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::TimedOut
            ),
            Self::NotTls(..) | Self::NotTrusted { .. } | Self::NotADomain(_) => false,
        }
    }

    /// Whether nothing was sent to anybody: this machine has no descriptor, port or memory left, or no network that leads there.
    pub fn is_of_machine(&self) -> bool {
        let Self::Unreachable(_, error) = self else { return false };
        let lacks = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL];
        let has_no_way = [libc::ENETDOWN, libc::ENETUNREACH];
        error.raw_os_error().is_some_and(|code| lacks.contains(&code) || has_no_way.contains(&code))
    }
}

/// Connects over TCP.
pub async fn tcp(address: SocketAddr) -> Result<Stream, DialError> {
    Ok(plain(connect(address).await?))
}

/// Speaks in the clear on a connection.
pub fn plain(stream: TcpStream) -> Stream {
    Stream::plain(stream, None)
}

/// Connects over TLS and verifies the certificate for `domain`: the account's SIP domain (RFC 5922 §4), or a numeric
/// host (bracketed when IPv6) that the certificate must then name as an IP address.
pub async fn tls(address: SocketAddr, client: &ClientTls, domain: &str) -> Result<Stream, DialError> {
    secure(connect(address).await?, address, client, domain).await
}

/// Speaks TLS on a connection, and verifies the certificate as [`tls()`] does.
pub async fn secure(
    stream: TcpStream,
    address: SocketAddr,
    client: &ClientTls,
    domain: &str,
) -> Result<Stream, DialError> {
    let name = tls::server_name(domain).ok_or_else(|| DialError::NotADomain(domain.to_owned()))?;
    let handshake = TlsConnector::from(client.config()).connect(name, Socket::new(stream));
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Err(_) => Err(DialError::Timeout(address)),
        Ok(Ok(stream)) => Ok(Stream::tls(stream, None)),
        Ok(Err(error)) => {
            let error = failed(address, domain, error);
            if matches!(error, DialError::NotTrusted { fault: TlsFault::UnknownCa, .. }) {
                client.doubt();
            }
            Err(error)
        }
    }
}

/// Connects; the protocol on top comes after it.
pub async fn connect(address: SocketAddr) -> Result<TcpStream, DialError> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| DialError::Timeout(address))?;
    let stream = stream.map_err(|error| DialError::Unreachable(address, error))?;
    be_prompt(&stream);
    Ok(stream)
}

fn failed(address: SocketAddr, domain: &str, error: io::Error) -> DialError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error @ rustls::Error::InvalidCertificate(why)) => {
            let (domain, why, fault) = (domain.to_owned(), why.to_string(), TlsFault::of(error));
            DialError::NotTrusted { address, domain, why, fault }
        }
        Some(why) => DialError::NotTls(address, why.to_string()),
        None => DialError::Unreachable(address, error),
    }
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, Error};

    use super::*;

    #[test]
    fn what_this_machine_lacks_says_nothing_of_an_address() {
        let of = |code| DialError::Unreachable("192.0.2.1:5061".parse().unwrap(), io::Error::from_raw_os_error(code));
        for code in [libc::EMFILE, libc::ENFILE, libc::EADDRNOTAVAIL, libc::ENETUNREACH, libc::ENOBUFS] {
            assert!(of(code).is_of_machine() && !of(code).is_of_address(), "{}", of(code));
        }
        for code in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ETIMEDOUT, libc::ECONNRESET] {
            assert!(!of(code).is_of_machine() && of(code).is_of_address(), "{}", of(code));
        }
    }

    #[test]
    fn what_can_be_told_to_anybody_names_no_domain_and_nothing_that_the_other_side_says() {
        let (address, domain) = ("192.0.2.1:5061".parse().unwrap(), "smith-family.example");
        let expected = tls::server_name(domain).unwrap();
        let presented = vec!["DnsName(\"box.smith-family.example\")".to_owned()];
        let other_name = CertificateError::NotValidForNameContext { expected, presented };
        for (why, told) in [
            (Error::InvalidCertificate(other_name), "192.0.2.1:5061: its certificate is for another name"),
            (Error::General(domain.to_owned()), "192.0.2.1:5061 does not speak TLS that is spoken here"),
        ] {
            let error = failed(address, domain, io::Error::other(why));
            assert!(error.to_string().contains(domain), "whoever wrote the domain is told all: {error}");
            assert_eq!(error.discreet(), told);
        }
        assert!(!DialError::NotADomain(domain.to_owned()).discreet().contains(domain));
        assert_eq!(DialError::Timeout(address).discreet(), DialError::Timeout(address).to_string());
    }
}
