//! Limits on the bytes that a service chosen by a device may send: reading them costs the time of all.
//!
//! | it may send | bytes |
//! | --- | --- |
//! | on a new connection: the handshakes, its settings | [`TO_BEGIN`] |
//! | for each request, its answer | [`FOR_AN_ANSWER`] |
//! | for each second, to keep the connection open | [`FOR_A_SECOND`] |
//!
//! Unused allowance is kept for later, but never more than [`TO_BEGIN`] beside the answers that are expected: a service that keeps a
//! connection open for a day has saved nothing.
//!
//! Invariant: bytes are counted below TLS, so that no kind of record or frame is free; each read costs [`A_READ`] beside its bytes, so
//! that a trickle is not either. A connection that sends more reads as broken from then on.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::network::ByteStream;
use crate::lock::Mutex;
use crate::net::write_by_stream::write_by_stream;

/// Twice the longest certificate chain that TLS takes from it.
const TO_BEGIN: u64 = 128 * 1_024;
/// Of an answer nothing but its head is used; a page of somebody between is mostly shorter, too.
const FOR_AN_ANSWER: u64 = 32 * 1_024;
/// Dozens of PINGs.
const FOR_A_SECOND: u64 = 1_024;
/// About what a wake-up costs, in terms of bytes.
const A_READ: u64 = 32;

/// The allowance of one connection.
pub(crate) struct Allowance(Mutex<Balance>);

struct Balance {
    /// The bytes that may still be read.
    left: u64,
    /// Until when it was credited for its time.
    credited: Instant,
    /// Answers that are under way.
    expected: u64,
}

impl Default for Allowance {
    fn default() -> Self {
        Self(Mutex::new(Balance { left: TO_BEGIN, credited: Instant::now(), expected: 0 }))
    }
}

impl Allowance {
    /// The allowance of a connection which is for one request alone.
    pub(crate) fn of_one_answer() -> Self {
        Self(Mutex::new(Balance { left: TO_BEGIN + FOR_AN_ANSWER, credited: Instant::now(), expected: 1 }))
    }

    /// One more request leaves; its answer is expected until this is dropped.
    pub(super) fn expect_an_answer(&self) -> Expected<'_> {
        let mut balance = self.lock();
        balance.expected += 1;
        balance.left += FOR_AN_ANSWER;
        Expected(self)
    }

    /// Whether so much more may be read.
    fn covers(&self, bytes: usize) -> bool {
        let mut balance = self.lock();
        balance.credit_time();
        let rest = balance.left.checked_sub(bytes as u64 + A_READ);
        balance.left = rest.unwrap_or(0);
        rest.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Balance> {
        self.0.lock()
    }
}

impl Balance {
    fn credit_time(&mut self) {
        let seconds = self.credited.elapsed().as_secs();
        self.credited += Duration::from_secs(seconds);
        self.left = (self.left + seconds.saturating_mul(FOR_A_SECOND)).min(self.most());
    }

    fn most(&self) -> u64 {
        TO_BEGIN + self.expected * FOR_AN_ANSWER
    }
}

/// An answer that is under way.
pub(super) struct Expected<'a>(&'a Allowance);

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        let mut balance = self.0.lock();
        balance.expected -= 1;
        balance.left = balance.left.min(balance.most());
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

write_by_stream!(MeteredStream);

#[cfg(test)]
mod tests {
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
        let expected: Vec<_> = (0..100).map(|_| asked.expect_an_answer()).collect();
        let answers = readable(&asked, piece).await - first;
        assert!(answers <= 100 * FOR_AN_ANSWER && answers > 90 * FOR_AN_ANSWER, "{answers}");
        drop(expected);
        tokio::time::advance(Duration::from_secs(100)).await;
        let kept_open = readable(&asked, piece).await;
        assert!(kept_open <= 100 * FOR_A_SECOND && kept_open > 90 * FOR_A_SECOND, "{kept_open}");
        let saved = Arc::<Allowance>::default();
        for _ in 0..24 * 6 {
            drop(saved.expect_an_answer());
            tokio::time::advance(Duration::from_secs(600)).await;
        }
        assert_eq!(readable(&saved, piece).await, first, "a day of silence saves nothing");
        let trickled = readable(&Arc::default(), 1).await;
        assert!(trickled < TO_BEGIN / A_READ, "{trickled}");
    }
}
