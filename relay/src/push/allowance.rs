//! How much a service may send that somebody else has chosen: what is read costs the time of all.
//!
//! | what it may send | bytes |
//! | --- | --- |
//! | on a new connection: the handshakes, its settings | [`TO_BEGIN`] |
//! | for each request, its answer | [`FOR_AN_ANSWER`] |
//! | for each second, to keep the connection open | [`FOR_A_SECOND`] |
//!
//! Invariant: bytes are counted below TLS, so that no kind of record or frame is free; each read costs [`A_READ`] beside its bytes, so
//! that a trickle is not either. A connection that sends more reads as broken from then on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::network::ByteStream;

/// Twice the longest certificate chain that TLS takes from it.
const TO_BEGIN: u64 = 128 * 1_024;
/// Of an answer nothing but its head is used; a page of somebody between is mostly shorter, too.
const FOR_AN_ANSWER: u64 = 32 * 1_024;
/// Dozens of PINGs.
const FOR_A_SECOND: u64 = 1_024;
/// About what a wake-up costs, in terms of bytes.
const A_READ: u64 = 32;

/// That of one connection.
pub(super) struct Allowance {
    opened: Instant,
    granted: AtomicU64,
    read: AtomicU64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { opened: Instant::now(), granted: AtomicU64::new(TO_BEGIN), read: AtomicU64::new(0) }
    }
}

impl Allowance {
    /// One more request leaves.
    pub(super) fn grow_by_an_answer(&self) {
        self.granted.fetch_add(FOR_AN_ANSWER, Ordering::Relaxed);
    }

    /// Whether so much more may be read.
    fn covers(&self, bytes: usize) -> bool {
        let cost = bytes as u64 + A_READ;
        let read = self.read.fetch_add(cost, Ordering::Relaxed) + cost;
        let granted = self.granted.load(Ordering::Relaxed);
        read <= granted || read <= granted + self.opened.elapsed().as_secs() * FOR_A_SECOND
    }
}

/// The connection sends more than it may.
#[derive(Debug, thiserror::Error)]
#[error("it sends more than was asked for")]
struct Overrun;

/// The stream, charged to the allowance, where there is one.
pub(super) fn metered(stream: Box<dyn ByteStream>, allowance: Option<Arc<Allowance>>) -> Box<dyn ByteStream> {
    match allowance {
        Some(allowance) => Box::new(MeteredStream { stream, allowance }),
        None => stream,
    }
}

struct MeteredStream {
    stream: Box<dyn ByteStream>,
    allowance: Arc<Allowance>,
}

impl AsyncRead for MeteredStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        let bytes = into.filled().len() - before;
        // The end of the stream costs nothing.
        if bytes > 0 && !self.allowance.covers(bytes) {
            into.set_filled(before);
            return Poll::Ready(Err(io::Error::other(Overrun)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// How many bytes are read in pieces of this size before the connection breaks.
    async fn readable(allowance: &Arc<Allowance>, piece: usize) -> u64 {
        let (ours, mut theirs) = tokio::io::duplex(piece);
        let sending = tokio::spawn(async move { while theirs.write_all(&vec![0; piece]).await.is_ok() {} });
        let mut stream = metered(Box::new(ours), Some(Arc::clone(allowance)));
        let (mut read, mut into) = (0, vec![0; piece]);
        while let Ok(bytes) = stream.read(&mut into).await {
            read += bytes as u64;
        }
        sending.abort();
        read
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_breaks_that_sends_more_than_was_asked_for() {
        let piece = 1_024;
        let first = readable(&Arc::default(), piece).await;
        assert!(first <= TO_BEGIN && first > TO_BEGIN * 9 / 10, "{first}");
        let asked = Arc::<Allowance>::default();
        (0..100).for_each(|_| asked.grow_by_an_answer());
        let answers = readable(&asked, piece).await - first;
        assert!(answers <= 100 * FOR_AN_ANSWER && answers > 90 * FOR_AN_ANSWER, "{answers}");
        let old = Arc::<Allowance>::default();
        tokio::time::advance(Duration::from_secs(100)).await;
        let kept_open = readable(&old, piece).await - first;
        assert!(kept_open <= 100 * FOR_A_SECOND && kept_open > 90 * FOR_A_SECOND, "{kept_open}");
        let trickled = readable(&Arc::default(), 1).await;
        assert!(trickled < TO_BEGIN / A_READ, "{trickled}");
    }
}
