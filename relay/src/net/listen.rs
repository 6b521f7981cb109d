//! A TCP listener, with TLS where asked, that no peer can fill alone.
//!
//! Each handshake runs in a task of its own, so that a silent peer delays nobody. A connection over a limit is closed at
//! once, before a byte is read.
//!
//! Invariant: at most [`Limits::connections`] streams and [`Limits::handshakes`] unfinished handshakes are alive, and of each at most the share of
//! one peer (an IPv4 address or an IPv6 /64), beside those that are being closed; of the handshakes, and of the strangers, the peer that has most
//! gives way, and a peer at its share to itself (see [`slots`](super::slots)); the last file descriptors are not theirs ([`Limits::leaves`]), and
//! before those the peer that has most gives way as well; a handshake
//! of TLS ends within [`HANDSHAKE_TIMEOUT`], and one of WebSocket within as long again. A failed `accept` never ends the listener.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::drain::Drain;
pub use super::slots::descriptors::{Leaves, RESERVE};
use super::slots::descriptors::{OF_PROCESS, Room};
pub use super::slots::{HANDSHAKE_TIMEOUT, Limits, ListenerEvent, Stranger};
use super::slots::{Observer, Slot, Slots};
use super::socket::Socket;
use super::stream::Stream;
use super::tcp_options::be_prompt;
use super::websocket::upgrade;
use crate::outage::Outage;
use crate::systemd::sockets;

/// The pause after the system refused to accept (out of file descriptors, most often).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that the kernel keeps ready; past it, it leaves SYNs unanswered.
const BACKLOG: u32 = 4_096;
/// Accepted streams that wait for their owner; past it, strangers wait in turn.
const READY: usize = 64;

/// The security layer of a listener.
#[derive(Clone)]
pub enum Security {
    /// Plain TCP: only toward SIP servers, where the operator named it.
    Plain,
    /// TLS with this configuration (see [`super::tls::ServerTls::config`]).
    Tls(Arc<ServerConfig>),
    /// WebSocket for SIP over TLS; an accepted stream carries frames (see [`super::websocket`]).
    WebSocket(Arc<ServerConfig>),
}

/// A connection that is ready.
#[derive(Debug)]
pub struct Accepted {
    /// The bytes.
    pub stream: Stream,
    /// The address of the peer.
    pub peer: SocketAddr,
    /// The local address.
    pub local: SocketAddr,
    /// Its slot among the strangers: dropped once the peer has proven who it is, or where all are served alike.
    pub stranger: Stranger,
}

/// A listener at work. Dropping it stops accepting; streams already given away live on.
#[derive(Debug)]
pub struct Listener {
    local: SocketAddr,
    ready: mpsc::Receiver<Accepted>,
}

impl Listener {
    /// Binds `address` (port 0 takes a free one), or takes the socket for it that the service manager has handed over, and accepts
    /// until the drain begins. Fails when the port is taken or not permitted, or held by the service manager for other addresses.
    pub async fn bind(address: SocketAddr, security: Security, limits: Limits, drain: Drain) -> io::Result<Self> {
        Self::bind_observed(address, security, limits, drain, |_| {}).await
    }

    /// As [`Listener::bind`], and tells `observe` what happens; it must not wait.
    pub async fn bind_observed(
        address: SocketAddr,
        security: Security,
        limits: Limits,
        drain: Drain,
        observe: impl Fn(ListenerEvent) + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = match sockets::stream(address)? {
            Some(inherited) => TcpListener::from_std(inherited)?,
            None => listening(address)?,
        };
        let local = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(READY);
        let acceptor = Acceptor { security, limits, slots: Slots::new(observe), sender };
        OF_PROCESS.join(&acceptor.slots);
        tokio::spawn(async move {
            tokio::select! {
                () = acceptor.accept_all(&listener) => {}
                () = drain.begun() => {}
                () = acceptor.sender.closed() => {}
            }
        });
        Ok(Self { local, ready })
    }

    /// The address that it listens at, with the port it got.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// The next connection; `None` when the drain has begun and all that were ready are given away: no handshake is waited for that is not done then.
    pub async fn accept(&mut self) -> Option<Accepted> {
        self.ready.recv().await
    }
}

fn listening(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

struct Acceptor {
    security: Security,
    limits: Limits,
    slots: Arc<Slots>,
    sender: mpsc::Sender<Accepted>,
}

impl Acceptor {
    async fn accept_all(&self, listener: &TcpListener) {
        let (mut outage, mut shortage) = (Outage::default(), Outage::default());
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let room = OF_PROCESS.room(stream.as_fd(), peer.ip(), self.limits.leaves);
                    let since = if room == Room::Free { None } else { shortage.again() };
                    if let Some(times) = since {
                        tracing::warn!(
                            event = "descriptors-run-out",
                            times,
                            "connections are closed, of strangers first: the file descriptors that are left are for the store, push services and SIP servers"
                        );
                    }
                    if room == Room::None {
                        (self.slots.observe)(ListenerEvent::Limited);
                        continue;
                    }
                    if !OF_PROCESS.is_short()
                        && let Some(times) = shortage.over()
                    {
                        tracing::warn!(
                            event = "descriptors-again",
                            times,
                            "there are file descriptors for connections again"
                        );
                    }
                    if let Some(times) = outage.over() {
                        tracing::warn!(event = "accepted-again", times, "the system accepts connections again");
                    }
                    self.admit(stream, peer);
                }
                Err(error) => {
                    if let Some(times) = outage.again() {
                        tracing::warn!(event = "accept-refused", %error, times, "the system refuses to accept connections");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes the connection into a task of its own, or closes it when it is over a limit.
    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let Some((slot, waiting)) = Slot::take(&self.slots, peer.ip(), self.limits) else {
            (self.slots.observe)(ListenerEvent::Limited);
            tracing::debug!(event = "closed-at-limit", %peer, "closed: over the listener's limits");
            return;
        };
        // Weak: a handshake that is not done when the listener ends is not waited for.
        let (security, sender, slots) = (self.security.clone(), self.sender.downgrade(), self.slots.clone());
        let limits = self.limits;
        tokio::spawn(async move {
            let Ok(local) = stream.local_addr() else { return };
            be_prompt(&stream);
            let ready = async {
                match security {
                    Security::Plain => Some(Stream::plain(stream, Some(slot))),
                    Security::Tls(config) => handshake(config, stream, peer, slot, &*slots.observe).await,
                    Security::WebSocket(config) => match handshake(config, stream, peer, slot, &*slots.observe).await {
                        Some(stream) => upgraded(stream, peer).await,
                        None => None,
                    },
                }
            };
            let stream = tokio::select! {
                biased;
                stream = ready => stream,
                () = waiting.given_way() => {
                    (slots.observe)(ListenerEvent::Limited);
                    tracing::debug!(event = "handshake-gave-way", %peer, "closed: its handshake gave way to another");
                    None
                }
            };
            let Some(stream) = stream else { return };
            let Some(stranger) = waiting.met(peer.ip(), limits) else {
                (slots.observe)(ListenerEvent::Limited);
                tracing::debug!(event = "closed-at-limit", %peer, "closed: over the listener's limit of strangers");
                return;
            };
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            // Without a listener the stream goes, too.
            if let Some(sender) = sender.upgrade() {
                let _ = sender.send(Accepted { stream, peer, local, stranger }).await;
            }
        });
    }
}

/// The TLS stream, or nothing when the peer did not get that far.
async fn handshake(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    peer: SocketAddr,
    slot: Slot,
    observe: &Observer,
) -> Option<Stream> {
    match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(Socket::new(stream))).await {
        Ok(Ok(stream)) => {
            observe(ListenerEvent::HandshakeCompleted);
            return Some(Stream::tls(stream, Some(slot)));
        }
        Ok(Err(error)) => {
            observe(ListenerEvent::HandshakeFailed);
            tracing::debug!(event = "closed-without-handshake", %peer, %error, "closed: no TLS handshake");
        }
        Err(_) => {
            observe(ListenerEvent::HandshakeTimedOut);
            tracing::debug!(event = "closed-slow-handshake", %peer, "closed: the TLS handshake took too long");
        }
    }
    None
}

/// The stream as a WebSocket, or nothing when the peer did not ask for one as it must.
async fn upgraded(stream: Stream, peer: SocketAddr) -> Option<Stream> {
    match timeout(HANDSHAKE_TIMEOUT, upgrade::upgrade(stream)).await {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(event = "closed-without-websocket", %peer, %error, "closed: no WebSocket for SIP");
        }
        Err(_) => {
            tracing::debug!(event = "closed-slow-websocket", %peer, "closed: the WebSocket handshake took too long");
        }
    }
    None
}
