//! A network that exists in this process alone, for push services in virtual time: names, addresses, and what answers at
//! them.
//!
//! Invariant: nothing here waits for real time, so that a test with a paused clock runs as fast as it can be computed.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use relay::push::{ByteStream, Network, Opening, Withdrawal};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

/// Bytes that are on their way in one direction before a writer waits.
const IN_FLIGHT: usize = 64 * 1024;

/// Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct VirtualNet(Arc<Mutex<Tables>>);

type Listening = Arc<dyn Fn(Box<dyn ByteStream>) + Send + Sync>;

#[derive(Default)]
struct Tables {
    ports: u16,
    listening: HashMap<u16, Listening>,
    /// The addresses of a port's name, when that is not loopback alone.
    addresses: HashMap<u16, Vec<IpAddr>>,
    moods: HashMap<IpAddr, Mood>,
    resolver_is_away: bool,
    dials: Vec<SocketAddr>,
    withdrawn: usize,
    /// Streams that nobody answers, kept so that they are not closed.
    ignored: Vec<DuplexStream>,
}

/// The reaction of an address to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Hands it to who listens at the port.
    Serves,
    /// Refuses it.
    Refuses,
    /// Does not answer.
    Mute,
    /// Accepts it, and says nothing.
    MuteAfterConnect,
}

impl VirtualNet {
    /// An empty network.
    pub fn new() -> Self {
        Self::default()
    }

    /// The name of this port resolves to these addresses, each with its mood.
    pub fn place(&self, port: u16, addresses: &[(IpAddr, Mood)]) {
        let mut tables = self.lock();
        tables.addresses.insert(port, addresses.iter().map(|(address, _)| *address).collect());
        tables.moods.extend(addresses.iter().copied());
    }

    /// Whether the resolver answers no more.
    pub fn resolver_is_away(&self, away: bool) {
        self.lock().resolver_is_away = away;
    }

    /// The addresses that were dialled, in order.
    pub fn dials(&self) -> Vec<SocketAddr> {
        self.lock().dials.clone()
    }

    /// How many connections have taken back what was on its way.
    pub fn withdrawn(&self) -> usize {
        self.lock().withdrawn
    }

    pub(crate) fn free_port(&self) -> u16 {
        let mut tables = self.lock();
        tables.ports += 1;
        tables.ports
    }

    /// Hands each connection to this port to `with`.
    pub fn listen(&self, port: u16, with: impl Fn(Box<dyn ByteStream>) + Send + Sync + 'static) {
        self.lock().listening.insert(port, Arc::new(with));
    }

    /// Hands the next `count` connections to this port to `with`, and those that follow to who has it.
    pub fn intercept(&self, port: u16, count: usize, with: impl Fn(Box<dyn ByteStream>) + Send + Sync + 'static) {
        let mut tables = self.lock();
        let (left, then) = (AtomicUsize::new(count), tables.listening.get(&port).cloned());
        let interceptor = move |stream| {
            let is_meant = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
            match &then {
                _ if is_meant => with(stream),
                Some(then) => then(stream),
                None => {}
            }
        };
        tables.listening.insert(port, Arc::new(interceptor));
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Network for VirtualNet {
    fn resolve(&self, _host: &str, port: u16, _app: Option<&Arc<str>>) -> Opening<Vec<SocketAddr>> {
        let tables = self.lock();
        if tables.resolver_is_away {
            return Box::pin(std::future::pending());
        }
        let addresses = tables.addresses.get(&port).cloned();
        let addresses = addresses.unwrap_or_else(|| vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        let found = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        Box::pin(async move { Ok(found) })
    }

    fn connect(&self, address: SocketAddr, withdrawal: &Withdrawal) -> Opening<Box<dyn ByteStream>> {
        let mut tables = self.lock();
        tables.dials.push(address);
        let mood = tables.moods.get(&address.ip()).copied().unwrap_or(Mood::Serves);
        let listening = tables.listening.get(&address.port()).cloned();
        let (ours, theirs) = tokio::io::duplex(IN_FLIGHT);
        let (withdrawal, net) = (withdrawal.clone(), self.clone());
        match (mood, listening) {
            (Mood::Serves, Some(listening)) => Box::pin(async move {
                listening(Box::new(theirs));
                Ok(Box::new(VirtualStream { stream: ours, withdrawal, net }) as Box<dyn ByteStream>)
            }),
            (Mood::Mute, _) => Box::pin(std::future::pending()),
            (Mood::MuteAfterConnect, _) => {
                tables.ignored.push(theirs);
                Box::pin(async move { Ok(Box::new(ours) as Box<dyn ByteStream>) })
            }
            _ => Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) }),
        }
    }
}

/// The end of who has dialled.
struct VirtualStream {
    stream: DuplexStream,
    withdrawal: Withdrawal,
    net: VirtualNet,
}

impl Drop for VirtualStream {
    fn drop(&mut self) {
        if self.withdrawal.is_asked() {
            self.net.lock().withdrawn += 1;
        }
    }
}

impl AsyncRead for VirtualStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for VirtualStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
