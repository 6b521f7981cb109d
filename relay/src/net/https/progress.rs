//! A stream that tells whether anything moves on it.
//!
//! Invariant: what counts is a byte that came, that the system took, or that the peer acknowledged while the system takes nothing more: it does so again
//! only when a good part of its buffer is free, which may be minutes' worth of a slow network. That it takes nothing more, as the peer is slow to read, is
//! told beside it: others say how long a peer may be slow.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::stream::Stream;

/// A stream whose system tells how much it has taken that the peer has not acknowledged.
pub trait Queue {
    /// So many bytes; `None`: that is not known.
    fn unacknowledged(&self) -> Option<u32>;
}

impl Queue for Stream {
    fn unacknowledged(&self) -> Option<u32> {
        Self::unacknowledged(self).ok()
    }
}

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

impl<S: Queue> MonitoredStream<S> {
    fn written(&mut self, written: &Poll<io::Result<usize>>) {
        self.progress.written(written);
        let queued = if written.is_pending() { self.stream.unacknowledged() } else { None };
        if let (Some(before), Some(now)) = (self.queued, queued) {
            self.progress.add(before.saturating_sub(now) as usize);
        }
        self.queued = queued;
    }
}

/// The stream.
#[derive(Debug)]
pub struct MonitoredStream<S> {
    stream: S,
    progress: Progress,
    /// How much was not acknowledged when the system took nothing more.
    queued: Option<u32>,
}

impl<S> MonitoredStream<S> {
    /// A stream that counts into `progress`.
    pub fn new(stream: S, progress: Progress) -> Self {
        Self { stream, progress, queued: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MonitoredStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        this.progress.add(buffer.filled().len().saturating_sub(before));
        polled
    }
}

impl<S: AsyncWrite + Queue + Unpin> AsyncWrite for MonitoredStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(&polled);
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
        this.written(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::{Duration, sleep};

    use super::*;

    impl Queue for DuplexStream {
        fn unacknowledged(&self) -> Option<u32> {
            None
        }
    }

    #[tokio::test]
    async fn a_peer_that_reads_what_the_system_has_taken_is_progress_before_the_system_takes_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connecting = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, (mut peer, _)) = tokio::try_join!(connecting, listener.accept()).unwrap();
        let (progress, mut last) = (Progress::default(), 0);
        let mut stream = MonitoredStream::new(Stream::uncounted(ours), progress.clone());
        let whole = vec![7; 64 << 20];
        let mut answer = Box::pin(stream.write_all(&whole));
        // All bytes under way have come to rest when nothing moves for a while.
        let mut still = 0;
        while still < 5 {
            assert!(poll!(answer.as_mut()).is_pending());
            still = if progress.has_moved_since(&mut last) { 0 } else { still + 1 };
            sleep(Duration::from_millis(20)).await;
        }
        assert!(progress.is_full());
        // It reads little by little, until that is seen.
        let mut read = vec![0; 64 << 10];
        while !progress.has_moved_since(&mut last) {
            peer.read_exact(&mut read).await.unwrap();
            sleep(Duration::from_millis(1)).await;
            assert!(poll!(answer.as_mut()).is_pending());
        }
        assert!(progress.is_full(), "the system takes nothing more, and its peer reads");
    }

    #[tokio::test]
    async fn what_comes_and_what_is_taken_is_progress_and_a_peer_that_is_slow_to_read_is_seen() {
        let (mut peer, own) = duplex(8);
        let progress = Progress::default();
        let mut stream = MonitoredStream::new(own, progress.clone());
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
