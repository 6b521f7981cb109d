//! One read of a stream.
//!
//! Invariant: the bytes read are left neither in a buffer nor on the stack.

use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use super::framing::Framing;

/// Bytes read at once, on the stack.
const READ_BYTES: usize = 4 * 1024;

/// Reads what there is, into this or for nobody; an error at the end of the stream, too.
pub(super) struct Read<'a, S> {
    pub stream: &'a mut S,
    pub framing: Option<&'a mut Framing>,
}

impl<S: AsyncRead + Unpin> Future for Read<'_, S> {
    type Output = std::io::Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        // On the stack of this poll, not in the future: a connection that waits holds no buffer.
        let mut space = [0; READ_BYTES];
        let mut buffer = ReadBuf::new(&mut space);
        std::task::ready!(Pin::new(&mut *this.stream).poll_read(context, &mut buffer))?;
        if buffer.filled().is_empty() {
            return Poll::Ready(Err(ErrorKind::UnexpectedEof.into()));
        }
        if let Some(framing) = &mut this.framing {
            framing.push(buffer.filled());
        }
        // A device's bearer token or digest is not left on the stack.
        buffer.filled_mut().fill(0);
        std::hint::black_box(&space);
        Poll::Ready(Ok(()))
    }
}
