//! One connection, plain or TLS, accepted or dialled.
//!
//! Invariant: an accepted stream holds its slot in its listener's limits until it is dropped, so that nobody has to
//! remember to give it back.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt::{set_tcp_user_timeout, tcp_user_timeout};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::slots::Slot;
use super::socket::Socket;
use super::tcp_options;

/// A connected stream of bytes.
#[derive(Debug)]
pub struct Stream {
    kind: Kind,
    _slot: Option<Slot>,
}

#[derive(Debug)]
enum Kind {
    Plain(TcpStream),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    pub(super) fn plain(stream: TcpStream, slot: Option<Slot>) -> Self {
        Self { kind: Kind::Plain(stream), _slot: slot }
    }

    /// A plain connection that counts nowhere.
    #[cfg(test)]
    pub(crate) fn uncounted(stream: TcpStream) -> Self {
        Self::plain(stream, None)
    }

    pub(super) fn tls(stream: impl Into<TlsStream<Socket>>, slot: Option<Slot>) -> Self {
        Self { kind: Kind::Tls(Box::new(stream.into())), _slot: slot }
    }

    /// Whether the bytes are encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self.kind, Kind::Tls(_))
    }

    /// The application protocol agreed on (RFC 7301).
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::Plain(_) => None,
            Kind::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }

    /// The local address. Fails when the connection is gone.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }

    /// The peer's address. Fails when the connection is gone.
    pub fn peer_address(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }

    /// Has the system end the connection when what was written is not acknowledged by its peer for this long, to the millisecond. Fails
    /// when the connection is gone.
    pub fn end_when_unacknowledged(&self, after: Duration) -> io::Result<()> {
        let millis = u32::try_from(after.as_millis()).unwrap_or(u32::MAX).max(1);
        Ok(set_tcp_user_timeout(self.tcp(), millis)?)
    }

    /// How many written bytes the peer has not acknowledged. Fails when the connection is gone.
    pub fn unacknowledged(&self) -> io::Result<u32> {
        tcp_options::unacknowledged(self.tcp())
    }

    /// How long that is now; zero: as long as the system has it. Fails when the connection is gone.
    pub fn unacknowledged_limit(&self) -> io::Result<Duration> {
        Ok(Duration::from_millis(u64::from(tcp_user_timeout(self.tcp())?)))
    }

    /// Has this runtime, and not the one that it was opened on, hear of what comes. Fails when the system has no
    /// descriptor to spare; then it stays as it was.
    pub fn adopt(&mut self) -> io::Result<()> {
        let other = self.tcp().as_fd().try_clone_to_owned()?;
        let ours = TcpStream::from_std(other.into())?;
        match &mut self.kind {
            Kind::Plain(stream) => *stream = ours,
            Kind::Tls(stream) => match &mut **stream {
                TlsStream::Client(stream) => stream.get_mut().0.replace(ours),
                TlsStream::Server(stream) => stream.get_mut().0.replace(ours),
            },
        }
        Ok(())
    }

    fn tcp(&self) -> &TcpStream {
        match &self.kind {
            Kind::Plain(stream) => stream,
            Kind::Tls(stream) => stream.get_ref().0.tcp(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Kind::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            Kind::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            Kind::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Kind::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Plain(stream) => stream.is_write_vectored(),
            Kind::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
