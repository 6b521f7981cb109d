//! The streams below TLS: the system's network, unless a test provides another one.
//!
//! Invariant: this layer knows names, addresses and bytes alone; trust is decided above. A [`Guarded`] network dials only addresses that the operator allows,
//! and looks up names in the share of its App. No thread blocks for a name.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::withdrawal::{WithdrawableStream, Withdrawal};
use crate::net::address_policy::Reach;
use crate::net::dns::questions::Requester;
use crate::net::dns::resolve::Resolver;

/// Bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A connection or an answer that is being waited for.
pub type Opening<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// The source of names and connections.
pub trait Network: Send + Sync {
    /// The addresses of a host, the best first. A device of `app` has named it; where there is none, the operator has.
    fn resolve(&self, host: &str, port: u16, app: Option<&Arc<str>>) -> Opening<Vec<SocketAddr>>;

    /// A connection to one of them. Whether what it has on its way is taken back when it is dropped, `withdrawal` says then.
    fn connect(&self, address: SocketAddr, withdrawal: &Withdrawal) -> Opening<Box<dyn ByteStream>>;

    /// Leave to begin a handshake there; `None`: there is none now, which says nothing of the service.
    fn leave(&self, _address: SocketAddr) -> Option<Handshake> {
        Some(Handshake::default())
    }
}

/// How a handshake has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeEnd {
    /// It is whole.
    Whole,
    /// The service speaks another protocol, in which it is asked next.
    OtherProtocol,
    /// It was not answered, or came to no end.
    Failed,
}

/// A handshake that has leave, which tells its end once. One that is dropped has failed.
#[derive(Default)]
pub struct Handshake(Option<Box<dyn FnOnce(HandshakeEnd) + Send>>);

impl Handshake {
    /// One whose end is told to `tell`.
    pub(crate) fn telling(tell: impl FnOnce(HandshakeEnd) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    pub(crate) fn ended(mut self, how: HandshakeEnd) {
        self.tell(how);
    }

    fn tell(&mut self, how: HandshakeEnd) {
        if let Some(tell) = self.0.take() {
            tell(how);
        }
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.tell(HandshakeEnd::Failed);
    }
}

/// Name servers, the hosts file, and TCP. Small writes leave at once (TCP_NODELAY).
pub struct System(Resolver);

impl System {
    /// Asks for names by `names`, whatever that lets through.
    pub fn new(names: Resolver) -> Self {
        Self(names)
    }
}

impl Network for System {
    fn resolve(&self, host: &str, port: u16, app: Option<&Arc<str>>) -> Opening<Vec<SocketAddr>> {
        let requesters: Vec<_> = app.cloned().map(Requester::App).into_iter().collect();
        let (names, host) = (self.0.asked_by(requesters), host.to_owned());
        Box::pin(async move {
            let found = names.addresses_of(&host).await.map_err(io::Error::other)?;
            Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
        })
    }

    fn connect(&self, address: SocketAddr, withdrawal: &Withdrawal) -> Opening<Box<dyn ByteStream>> {
        let withdrawal = withdrawal.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(WithdrawableStream { stream, withdrawal }) as Box<dyn ByteStream>)
        })
    }
}

/// No network at all: for what is set up and never dialled.
pub(crate) struct Nowhere;

impl Network for Nowhere {
    fn resolve(&self, _host: &str, _port: u16, _app: Option<&Arc<str>>) -> Opening<Vec<SocketAddr>> {
        Box::pin(async { Err(io::ErrorKind::NetworkUnreachable.into()) })
    }

    fn connect(&self, _address: SocketAddr, _withdrawal: &Withdrawal) -> Opening<Box<dyn ByteStream>> {
        Box::pin(async { Err(io::ErrorKind::NetworkUnreachable.into()) })
    }
}

/// A network for the devices of an App, which leads to no address that the operator does not allow.
pub(crate) struct Guarded {
    network: Arc<dyn Network>,
    app: Arc<str>,
    reach: Reach,
}

impl Guarded {
    pub(crate) fn new(network: Arc<dyn Network>, app: &str, reach: Reach) -> Self {
        Self { network, app: app.into(), reach }
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
    fn resolve(&self, host: &str, port: u16, _app: Option<&Arc<str>>) -> Opening<Vec<SocketAddr>> {
        let (resolving, reach) = (self.network.resolve(host, port, Some(&self.app)), self.reach.clone());
        Box::pin(async move {
            let found = resolving.await?;
            let any = !found.is_empty();
            let allowed: Vec<_> = found.into_iter().filter_map(|address| reach.check(address).ok()).collect();
            if any && allowed.is_empty() { Err(io::Error::other(Forbidden)) } else { Ok(allowed) }
        })
    }

    fn connect(&self, address: SocketAddr, withdrawal: &Withdrawal) -> Opening<Box<dyn ByteStream>> {
        match self.reach.check(address) {
            Ok(address) => self.network.connect(address, withdrawal),
            Err(_) => Box::pin(std::future::ready(Err(io::Error::other(Forbidden)))),
        }
    }
}
