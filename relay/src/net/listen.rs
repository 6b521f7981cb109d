//! A TCP listener, with TLS where asked, that no peer can fill alone.
//!
//! Each handshake runs in a task of its own, so that a silent peer delays nobody. What is over a limit is closed at
//! once, before a byte is read.
//!
//! Invariant: at most [`Limits::connections`] streams and [`Limits::handshakes`] unfinished handshakes are alive, and
//! of each at most the share of one peer (an IPv4 address or an IPv6 /64); a handshake of TLS ends within
//! [`HANDSHAKE_TIMEOUT`], and one of WebSocket within as long again. A failed `accept` never ends the listener.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::drain::Drain;
use super::stream::Stream;
use super::websocket::upgrade;

/// A TLS handshake that takes longer is closed: a phone on a poor network needs two or three seconds.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after the system refused to accept (out of file descriptors, most often).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that the kernel keeps ready; past it, it leaves SYNs unanswered.
const BACKLOG: u32 = 4_096;
/// Accepted streams that wait for their owner; past it, handshakes wait in turn and then count against their limit.
const READY: usize = 64;

/// What one listener carries. What is over is closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all: a peer above it is closed until another leaves.
    pub connections: usize,
    /// Connections of one peer: above it only that peer is closed.
    pub connections_per_peer: usize,
    /// Unfinished handshakes in all.
    pub handshakes: usize,
    /// Unfinished handshakes of one peer.
    pub handshakes_per_peer: usize,
}

impl Limits {
    /// For devices: many, and many behind one carrier's address.
    pub const DEVICES: Self =
        Self { connections: 1_000_000, connections_per_peer: 20_000, handshakes: 4_096, handshakes_per_peer: 1_024 };
    /// For apps' and operators' HTTPS: short connections.
    pub const HTTPS: Self =
        Self { connections: 20_000, connections_per_peer: 1_024, handshakes: 2_048, handshakes_per_peer: 256 };
    /// For SIP servers: few connections, each carrying much.
    pub const SIP_SERVERS: Self =
        Self { connections: 10_000, connections_per_peer: 256, handshakes: 512, handshakes_per_peer: 64 };
}

/// What a listener speaks.
#[derive(Clone)]
pub enum Security {
    /// Plain TCP: only toward SIP servers, where the operator named it.
    Plain,
    /// TLS with this configuration (see [`super::tls::ServerTls::config`]).
    Tls(Arc<ServerConfig>),
    /// WebSocket for SIP over TLS; what is accepted carries frames (see [`super::websocket`]).
    WebSocket(Arc<ServerConfig>),
}

/// A connection that is ready.
#[derive(Debug)]
pub struct Accepted {
    /// The bytes.
    pub stream: Stream,
    /// Who connected.
    pub peer: SocketAddr,
    /// Where to.
    pub local: SocketAddr,
}

/// What happens at a listener, for those that count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// A connection was let in.
    Opened,
    /// One that was let in is gone.
    Closed,
    /// Its TLS handshake was completed.
    HandshakeCompleted,
    /// The peer did not speak TLS, or not as it must.
    HandshakeFailed,
    /// The peer was too slow.
    HandshakeTimedOut,
    /// A connection was closed at once: over a limit.
    Limited,
}

/// A listener at work. Dropping it stops accepting; streams already given away live on.
#[derive(Debug)]
pub struct Listener {
    local: SocketAddr,
    ready: mpsc::Receiver<Accepted>,
}

impl Listener {
    /// Binds `address` (port 0 takes a free one) and accepts until the drain begins. Fails when the port is taken or
    /// not permitted.
    pub async fn bind(address: SocketAddr, security: Security, limits: Limits, drain: Drain) -> io::Result<Self> {
        Self::bind_observed(address, security, limits, drain, |_| {}).await
    }

    /// As [`Listener::bind`], and tells `observe` what happens; it must not wait.
    pub async fn bind_observed(
        address: SocketAddr,
        security: Security,
        limits: Limits,
        drain: Drain,
        observe: impl Fn(Happened) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        let listener = socket.listen(BACKLOG)?;
        let local = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(READY);
        let door = Door { security, limits, places: Places::new(observe), sender };
        tokio::spawn(async move {
            tokio::select! {
                () = door.accept_all(&listener) => {}
                () = drain.begun() => {}
                () = door.sender.closed() => {}
            }
        });
        Ok(Self { local, ready })
    }

    /// Where it listens, with the port it got.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// The next connection; `None` when the drain has begun and all that were ready are given away.
    pub async fn accept(&mut self) -> Option<Accepted> {
        self.ready.recv().await
    }
}

struct Door {
    security: Security,
    limits: Limits,
    places: Arc<Places>,
    sender: mpsc::Sender<Accepted>,
}

impl Door {
    async fn accept_all(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "the system refuses to accept connections");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes the connection into a task of its own, or closes it when it is over a limit.
    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let Some((place, waiting)) = Place::take(&self.places, peer.ip(), self.limits) else {
            (self.places.observe)(Happened::Limited);
            tracing::debug!(%peer, "closed: over the listener's limits");
            return;
        };
        let (security, sender, places) = (self.security.clone(), self.sender.clone(), self.places.clone());
        tokio::spawn(async move {
            let Ok(local) = stream.local_addr() else { return };
            // A connection works without it, only slower.
            let _ = stream.set_nodelay(true);
            let stream = match security {
                Security::Plain => Some(Stream::plain(stream, Some(place))),
                Security::Tls(config) => handshake(config, stream, peer, place, &*places.observe).await,
                Security::WebSocket(config) => match handshake(config, stream, peer, place, &*places.observe).await {
                    Some(stream) => upgraded(stream, peer).await,
                    None => None,
                },
            };
            let Some(stream) = stream else { return };
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            // An error means that the listener is gone, and the stream goes with it.
            let _ = sender.send(Accepted { stream, peer, local }).await;
            drop(waiting);
        });
    }
}

/// The TLS stream, or nothing when the peer did not get that far.
async fn handshake(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    peer: SocketAddr,
    place: Place,
    observe: &Observer,
) -> Option<Stream> {
    match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => {
            observe(Happened::HandshakeCompleted);
            return Some(Stream::tls(stream, Some(place)));
        }
        Ok(Err(error)) => {
            observe(Happened::HandshakeFailed);
            tracing::debug!(%peer, %error, "closed: no TLS handshake");
        }
        Err(_) => {
            observe(Happened::HandshakeTimedOut);
            tracing::debug!(%peer, "closed: the TLS handshake took too long");
        }
    }
    None
}

/// The stream as a WebSocket, or nothing when the peer did not ask for one as it must.
async fn upgraded(stream: Stream, peer: SocketAddr) -> Option<Stream> {
    match timeout(HANDSHAKE_TIMEOUT, upgrade::upgrade(stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => tracing::debug!(%peer, %error, "closed: no WebSocket for SIP"),
        Err(_) => tracing::debug!(%peer, "closed: the WebSocket handshake took too long"),
    }
    None
}

type Observer = dyn Fn(Happened) + Send + Sync;

/// How many connections and handshakes there are, in all and of each peer.
struct Places {
    counts: Mutex<Counts>,
    observe: Box<Observer>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: Count,
    handshakes: Count,
}

impl Places {
    fn new(observe: impl Fn(Happened) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { counts: Mutex::default(), observe: Box::new(observe) })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
struct Count {
    all: usize,
    of_peer: BTreeMap<IpAddr, usize>,
}

impl Count {
    fn has_room(&self, peer: IpAddr, all: usize, per_peer: usize) -> bool {
        self.all < all && self.of_peer.get(&peer).is_none_or(|count| *count < per_peer)
    }

    fn add(&mut self, peer: IpAddr) {
        self.all += 1;
        *self.of_peer.entry(peer).or_default() += 1;
    }

    fn remove(&mut self, peer: IpAddr) {
        self.all = self.all.saturating_sub(1);
        if let Some(count) = self.of_peer.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.of_peer.remove(&peer);
            }
        }
    }
}

/// A place among the connections; given back when dropped.
pub(super) struct Place {
    places: Arc<Places>,
    peer: IpAddr,
    of: Of,
}

#[derive(Debug, Clone, Copy)]
enum Of {
    Connections,
    Handshakes,
}

impl Place {
    /// A place for the connection and one for its handshake; `None` when a limit is reached.
    fn take(places: &Arc<Places>, peer: IpAddr, limits: Limits) -> Option<(Self, Self)> {
        let peer = as_one_peer(peer);
        let mut counts = places.counts();
        let room = counts.connections.has_room(peer, limits.connections, limits.connections_per_peer)
            && counts.handshakes.has_room(peer, limits.handshakes, limits.handshakes_per_peer);
        if !room {
            return None;
        }
        counts.connections.add(peer);
        counts.handshakes.add(peer);
        drop(counts);
        (places.observe)(Happened::Opened);
        let place = |of| Self { places: places.clone(), peer, of };
        Some((place(Of::Connections), place(Of::Handshakes)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match self.of {
            Of::Connections => {
                self.places.counts().connections.remove(self.peer);
                (self.places.observe)(Happened::Closed);
            }
            Of::Handshakes => self.places.counts().handshakes.remove(self.peer),
        }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("peer", &self.peer).field("of", &self.of).finish()
    }
}

/// An IPv6 peer is its /64: one subscriber has them all.
fn as_one_peer(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_with_a_whole_ipv6_network_is_one_peer() {
        let one = |text: &str| as_one_peer(text.parse().unwrap());
        assert_eq!(one("2001:db8:1:2::1"), one("2001:db8:1:2:ffff::9"));
        assert_ne!(one("2001:db8:1:2::1"), one("2001:db8:1:3::1"));
        assert_eq!(one("::ffff:192.0.2.1"), one("192.0.2.1"));
    }

    #[test]
    fn a_place_given_back_is_free_and_leaves_no_trace() {
        let limits = Limits { connections: 2, connections_per_peer: 1, handshakes: 9, handshakes_per_peer: 9 };
        let places = Places::new(|_| {});
        let take = |text: &str| Place::take(&places, text.parse().unwrap(), limits);
        let first = take("192.0.2.1").unwrap();
        assert!(take("192.0.2.1").is_none(), "one peer has one");
        let _second = take("192.0.2.2").unwrap();
        assert!(take("192.0.2.3").is_none(), "two in all");
        drop(first);
        assert!(take("192.0.2.1").is_some());
        let counts = places.counts();
        assert_eq!((counts.connections.all, counts.connections.of_peer.len()), (1, 1));
    }
}
