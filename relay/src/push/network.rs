//! The streams below TLS: the system's network, unless a test makes another one.
//!
//! Invariant: knows names, addresses and bytes alone; what is trusted is decided above. Through a [`Guarded`] one no address is
//! dialled that the operator does not allow.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};

use crate::net::reach::Reach;

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

/// A network that leads to no address that the operator does not allow.
pub(super) struct Guarded {
    network: Arc<dyn Network>,
    reach: Reach,
}

impl Guarded {
    pub(super) fn new(network: Arc<dyn Network>, reach: Reach) -> Self {
        Self { network, reach }
    }
}

/// The address is none that the relay may talk to.
#[derive(Debug, thiserror::Error)]
#[error("the address is not one that this relay may talk to")]
struct Forbidden;

/// Whether it was refused for its address.
pub(super) fn is_forbidden(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Forbidden>())
}

impl Network for Guarded {
    fn resolve(&self, host: &str, port: u16) -> Opening<Vec<SocketAddr>> {
        let (resolving, reach) = (self.network.resolve(host, port), self.reach.clone());
        Box::pin(async move {
            let found = resolving.await?;
            let any = !found.is_empty();
            let allowed: Vec<_> = found.into_iter().filter_map(|address| reach.check(address).ok()).collect();
            if any && allowed.is_empty() { Err(io::Error::other(Forbidden)) } else { Ok(allowed) }
        })
    }

    fn connect(&self, address: SocketAddr) -> Opening<Box<dyn ByteStream>> {
        match self.reach.check(address) {
            Ok(address) => self.network.connect(address),
            Err(_) => Box::pin(std::future::ready(Err(io::Error::other(Forbidden)))),
        }
    }
}
