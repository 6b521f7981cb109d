//! Withdrawal of requests that are still on their way to a push service when nobody wants them there any more.
//!
//! TCP keeps what was written until it is acknowledged, and delivers it after the connection was closed, too: a push that was written
//! while the path was broken wakes its phone when the path is well again, long after its call has ended.
//!
//! Invariant: a stream whose withdrawal is asked for when it is dropped takes back all bytes that have not arrived.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

use crate::net::write_by_stream::write_by_stream;

/// Whether what has not arrived is taken back when a stream ends; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Withdrawal(Arc<AtomicBool>);

impl Withdrawal {
    /// Takes it back, or no longer does.
    pub fn ask(&self, is_asked: bool) {
        self.0.store(is_asked, Ordering::Release);
    }

    /// Whether it is taken back.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A stream that ends with RST instead of FIN when its withdrawal is asked for (RFC 9293 §3.10.5, ABORT): its system forgets what was
/// not acknowledged.
pub(super) struct WithdrawableStream {
    pub(super) stream: TcpStream,
    pub(super) withdrawal: Withdrawal,
}

impl Drop for WithdrawableStream {
    fn drop(&mut self) {
        if self.withdrawal.is_asked() {
            // Fails where the connection has ended already.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for WithdrawableStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

write_by_stream!(WithdrawableStream);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// The other end's input once the stream was dropped.
    async fn ended(is_asked: bool) -> io::Result<usize> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let stream = TcpStream::connect(listener.local_addr()?).await?;
        let (mut theirs, _) = listener.accept().await?;
        let withdrawal = Withdrawal::default();
        let mut ours = WithdrawableStream { stream, withdrawal: withdrawal.clone() };
        ours.write_all(b"a push").await?;
        theirs.read_exact(&mut [0; 6]).await?;
        withdrawal.ask(is_asked);
        drop(ours);
        theirs.read(&mut [0; 6]).await
    }

    #[tokio::test]
    async fn a_stream_ends_with_a_reset_where_what_is_on_its_way_is_taken_back() {
        assert_eq!(ended(false).await.expect("FIN"), 0);
        assert_eq!(ended(true).await.expect_err("RST").kind(), io::ErrorKind::ConnectionReset);
    }
}
