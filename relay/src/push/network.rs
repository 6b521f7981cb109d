//! The streams below TLS: the system's network, unless a test makes another one.
//!
//! Invariant: knows names, addresses and bytes alone; what is trusted is decided above.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

/// Bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// What is being opened or asked for.
pub type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// Where names and connections come from.
pub trait Network: Send + Sync {
    /// The addresses of a host, the best first.
    fn resolve(&self, host: &str, port: u16) -> Opening<Vec<SocketAddr>>;

    /// A connection to one of them.
    fn connect(&self, address: SocketAddr) -> Opening<Box<dyn ByteStream>>;
}

/// The system's resolver and TCP. Small writes leave at once (TCP_NODELAY).
pub(super) struct System;

impl Network for System {
    fn resolve(&self, host: &str, port: u16) -> Opening<Vec<SocketAddr>> {
        let host = host.to_owned();
        Box::pin(async move { Ok(lookup_host((host, port)).await?.collect()) })
    }

    fn connect(&self, address: SocketAddr) -> Opening<Box<dyn ByteStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }
}
