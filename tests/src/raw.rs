//! A connection on which a test says what it likes, byte by byte, from any loopback address.
//!
//! Invariant: nothing is added to what is sent and nothing is read into what comes; every wait has a deadline.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::authority::Authority;

/// How long connecting and one write may take.
const PATIENCE: Duration = Duration::from_secs(40);

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where an attacker sits: beside 127.0.0.1, so that limits by address do not concern the others.
pub const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));

/// A TCP connection from `from` to `to`.
///
/// # Errors
/// When it cannot be made.
pub async fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let stream = timeout(PATIENCE, socket.connect(to)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A UDP socket at a free port of `from`.
///
/// # Errors
/// When it cannot be bound.
pub async fn datagrams(from: IpAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(SocketAddr::new(from, 0)).await
}

/// A stream, in TLS or plain.
pub struct Raw {
    stream: Box<dyn Stream>,
    seen: Vec<u8>,
    ended: bool,
}

impl Raw {
    /// Plain TCP.
    ///
    /// # Errors
    /// When it cannot be connected.
    pub async fn tcp(from: IpAddr, to: SocketAddr) -> io::Result<Self> {
        Ok(Self::over(connect(from, to).await?))
    }

    /// TLS that offers `alpn`.
    ///
    /// # Errors
    /// When it cannot be connected, or the handshake fails.
    pub async fn tls(from: IpAddr, to: SocketAddr, authority: &Authority, alpn: &[&[u8]]) -> io::Result<Self> {
        let connector = TlsConnector::from(authority.client_config(alpn));
        let handshake = connector.connect(ServerName::from(to.ip()), connect(from, to).await?);
        Ok(Self::over(timeout(PATIENCE, handshake).await??))
    }

    /// A stream that a test made itself.
    pub fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self { stream: Box::new(stream), seen: Vec::new(), ended: false }
    }

    /// Sends; `false` when the peer takes no more.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let write = async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        };
        matches!(timeout(PATIENCE, write).await, Ok(Ok(())))
    }

    /// Sends and reads at the same time, as a peer does that answers while it is talked to; `false` when it takes no
    /// more.
    pub async fn send_while_reading(&mut self, bytes: &[u8]) -> bool {
        let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
        let mut space = [0; 4096];
        let write = async { writer.write_all(bytes).await.is_ok() && writer.flush().await.is_ok() };
        tokio::pin!(write);
        let deadline = Instant::now() + PATIENCE;
        loop {
            tokio::select! {
                sent = &mut write => return sent,
                read = reader.read(&mut space) => match read {
                    Ok(length @ 1..) => self.seen.extend_from_slice(&space[..length]),
                    _ => {
                        self.ended = true;
                        return false;
                    }
                },
                () = tokio::time::sleep_until(deadline) => return false,
            }
        }
    }

    /// Says that nothing more follows, and goes on listening.
    pub async fn finish(&mut self) {
        let _ = timeout(PATIENCE, self.stream.shutdown()).await;
    }

    /// Whether the peer has closed, as far as was read.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// The text received so far.
    pub fn seen(&self) -> String {
        String::from_utf8_lossy(&self.seen).into_owned()
    }

    /// Reads until `text` has come; `false` when the peer closes or `within` passes first.
    pub async fn await_text(&mut self, text: &str, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        while memchr::memmem::find(&self.seen, text.as_bytes()).is_none() {
            if !self.read(deadline).await {
                return false;
            }
        }
        true
    }

    /// Reads until the peer closes, in whatever way; `None` when it has not `within` the time.
    pub async fn await_end(&mut self, within: Duration) -> Option<String> {
        let deadline = Instant::now() + within;
        while self.read(deadline).await {}
        self.ended.then(|| self.seen())
    }

    /// Reads until the peer closes, and gives the code of the WebSocket close frame that it ended with, if any (RFC 6455
    /// §5.5.1); `None` when it has not closed `within` the time.
    pub async fn await_close(&mut self, within: Duration) -> Option<Option<u16>> {
        self.await_end(within).await?;
        let [.., first, second, high, low] = self.seen[..] else { return Some(None) };
        Some((first == 0x88 && second == 2).then(|| u16::from_be_bytes([high, low])))
    }

    /// The status of each response that has come so far, HTTP/1.1 or SIP, in order.
    pub fn statuses(&self) -> Vec<u16> {
        statuses(&self.seen())
    }

    async fn read(&mut self, deadline: Instant) -> bool {
        let mut space = [0; 16 * 1024];
        match timeout_at(deadline, self.stream.read(&mut space)).await {
            Ok(Ok(length @ 1..)) => {
                self.seen.extend_from_slice(&space[..length]);
                true
            }
            Ok(_) => {
                self.ended = true;
                false
            }
            Err(_) => false,
        }
    }
}

/// The status of each line in `text` that begins a response of HTTP/1.1 or SIP.
pub fn statuses(text: &str) -> Vec<u16> {
    let status = |line: &str| {
        let rest = line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("SIP/2.0 "))?;
        rest.get(..3)?.parse().ok()
    };
    text.lines().filter_map(status).collect()
}
