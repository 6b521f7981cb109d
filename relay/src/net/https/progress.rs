//! A stream that tells whether anything moves on it.
//!
//! Invariant: what counts is a byte that came, or that the system took. Whether the system takes nothing more, as the peer is slow to read, is told
//! beside it: others say how long a peer may be slow.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes moved so far; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<State>);

#[derive(Debug, Default)]
struct State {
    bytes: AtomicU64,
    /// The system took nothing more when it was last asked to.
    is_full: AtomicBool,
}

impl Progress {
    /// Whether anything has moved since this was asked with the same `last`.
    pub fn has_moved_since(&self, last: &mut u64) -> bool {
        let bytes = self.0.bytes.load(Ordering::Relaxed);
        std::mem::replace(last, bytes) != bytes
    }

    /// Whether something waits that the system did not take when it was last asked to.
    pub fn is_full(&self) -> bool {
        self.0.is_full.load(Ordering::Relaxed)
    }

    /// The progress of a stream of which the system takes nothing.
    #[cfg(test)]
    pub(super) fn full() -> Self {
        let progress = Self::default();
        progress.written(&Poll::Pending);
        progress
    }

    fn add(&self, bytes: usize) {
        self.0.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn written(&self, written: &Poll<io::Result<usize>>) {
        self.0.is_full.store(written.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Ok(bytes)) = written {
            self.add(*bytes);
        }
    }
}

/// The stream.
#[derive(Debug)]
pub struct InMotion<S> {
    stream: S,
    progress: Progress,
}

impl<S> InMotion<S> {
    /// A stream that counts into `progress`.
    pub fn new(stream: S, progress: Progress) -> Self {
        Self { stream, progress }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for InMotion<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        this.progress.add(buffer.filled().len().saturating_sub(before));
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for InMotion<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.progress.written(&polled);
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bytes);
        this.progress.written(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn what_comes_and_what_is_taken_is_progress_and_a_peer_that_is_slow_to_read_is_seen() {
        let (mut peer, own) = duplex(8);
        let progress = Progress::default();
        let mut stream = InMotion::new(own, progress.clone());
        let mut last = 0;
        assert!(!progress.has_moved_since(&mut last));
        stream.write_all(b"123").await.unwrap();
        assert!(progress.has_moved_since(&mut last));
        assert!(!progress.has_moved_since(&mut last));
        peer.write_all(b"4").await.unwrap();
        assert!(!progress.has_moved_since(&mut last), "nobody has read it");
        assert_eq!(stream.read_u8().await.unwrap(), b'4');
        assert!(progress.has_moved_since(&mut last));
        let mut more = Box::pin(stream.write_all(b"5678901"));
        assert!(poll!(more.as_mut()).is_pending());
        assert!(progress.has_moved_since(&mut last) && progress.is_full());
        assert!(!progress.has_moved_since(&mut last) && progress.is_full(), "it waits to be read");
        assert_eq!(peer.read(&mut [0; 8]).await.unwrap(), 8);
        more.await.unwrap();
        assert!(progress.has_moved_since(&mut last) && !progress.is_full());
        assert!(!progress.has_moved_since(&mut last));
    }
}
