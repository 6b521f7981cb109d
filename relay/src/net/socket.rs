//! A TCP connection that leaves nothing in the buffer that it is read into.
//!
//! rustls decrypts where it has read, and keeps that buffer for the next read: what a peer wrote would lie there until as much comes
//! again.
//!
//! Invariant: a reader that has asked for more, where there is none yet, has its buffer zeroed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use super::write_by_stream::write_by_stream;

/// The connection.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// Something was read since the buffer was zeroed.
    was_read: bool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, was_read: false }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.stream
    }

    /// Goes on with another descriptor of the same connection.
    pub(super) fn replace(&mut self, stream: TcpStream) {
        self.stream = stream;
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.was_read) {
            buffer.initialize_unfilled().fill(0);
        }
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        this.was_read = polled.is_ready();
        polled
    }
}

write_by_stream!(Socket);

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_was_read_into_a_buffer_is_gone_once_more_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::new(listener.accept().await.unwrap().0);
        let mut place = [0; 64];
        peer.write_all(b"a long secret, sealed").await.unwrap();
        let mut buffer = ReadBuf::new(&mut place);
        poll_fn(|cx| Pin::new(&mut socket).poll_read(cx, &mut buffer)).await.unwrap();
        assert_eq!(buffer.filled(), b"a long secret, sealed");
        // Its reader opens it where it lies, and keeps the beginning of the next message.
        place[..21].copy_from_slice(b"next! secret, opened!");
        let mut buffer = ReadBuf::new(&mut place[5..]);
        let waits = poll_fn(|cx| Poll::Ready(Pin::new(&mut socket).poll_read(cx, &mut buffer).is_pending())).await;
        assert!(waits);
        assert_eq!(&place[..5], b"next!", "what is not read yet");
        assert_eq!(place[5..], [0; 59]);
        // The awaited bytes come into the place as ever.
        peer.write_all(b"more").await.unwrap();
        let mut buffer = ReadBuf::new(&mut place[5..]);
        poll_fn(|cx| Pin::new(&mut socket).poll_read(cx, &mut buffer)).await.unwrap();
        assert_eq!(buffer.filled(), b"more");
    }
}
