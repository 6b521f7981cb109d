//! A stream that ends an HTTP/2 connection with a GOAWAY that names its last request.
//!
//! hyper ends one with a GOAWAY that names none, and a PING (RFC 9113 §6.8): what a client then sends is answered still, but clients fail it, as
//! they take the connection for ended, and cannot tell whether it was done. What lies behind a request that was named they send again by themselves.
//! hyper has no other, so this stream writes it, and then reads as one that its peer has ended, which h2 takes for the end.
//!
//! Invariant: the last request is the latest whose head was handed to h2 whole.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::write_by_stream::write_by_stream;

/// The client's connection preface (RFC 9113 §3.4).
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Whether the connection is to end; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Farewell(Arc<AtomicBool>);

impl Farewell {
    /// Ends the connection when it is polled next. Everything that was to be written is, and no request is being served.
    pub(super) fn say(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_said(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The stream.
#[derive(Debug)]
pub(super) struct Ending<S> {
    stream: S,
    farewell: Farewell,
    came: FramesSeen,
    is_ended: bool,
}

impl<S> Ending<S> {
    /// A stream that ends by HTTP/2's rules when the `farewell` is said.
    pub(super) fn new(stream: S, farewell: Farewell) -> Self {
        Self { stream, farewell, came: FramesSeen::default(), is_ended: false }
    }
}

/// The frames that came, as far as they tell the last request.
#[derive(Debug)]
struct FramesSeen {
    /// The bytes to come of what is looked at no further.
    skipped: usize,
    head: [u8; FRAME_HEAD],
    head_bytes: usize,
    /// The stream whose head ends with this frame.
    ends_head_of: Option<u32>,
    last: u32,
}

impl Default for FramesSeen {
    fn default() -> Self {
        Self { skipped: PREFACE, head: [0; FRAME_HEAD], head_bytes: 0, ends_head_of: None, last: 0 }
    }
}

impl FramesSeen {
    fn add(&mut self, mut bytes: &[u8]) {
        while let Some(&byte) = bytes.first() {
            if self.skipped > 0 {
                let now = self.skipped.min(bytes.len());
                self.skipped -= now;
                bytes = &bytes[now..];
            } else {
                self.head[self.head_bytes] = byte;
                self.head_bytes += 1;
                bytes = &bytes[1..];
                if self.head_bytes == FRAME_HEAD {
                    self.frame_begins();
                }
            }
            if self.skipped == 0 && self.head_bytes == 0 {
                self.last = self.last.max(self.ends_head_of.take().unwrap_or_default());
            }
        }
    }

    fn frame_begins(&mut self) {
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.head_bytes = 0;
        self.skipped = u32::from_be_bytes([0, a, b, c]) as usize;
        let ends_head = matches!(kind, HEADERS | CONTINUATION) && flags & END_HEADERS != 0;
        self.ends_head_of = ends_head.then(|| u32::from_be_bytes(stream) & (u32::MAX >> 1));
    }

    /// A GOAWAY for what comes after the last request, without an error (RFC 9113 §6.8).
    fn goaway(&self) -> [u8; FRAME_HEAD + 8] {
        let [a, b, c, d] = self.last.to_be_bytes();
        [0, 0, 8, 7, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, 0]
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Ending<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.farewell.is_said() {
            if !std::mem::replace(&mut this.is_ended, true) {
                // Its peer is told, as far as that needs no waiting.
                let _ = Pin::new(&mut this.stream).poll_write(cx, &this.came.goaway());
            }
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer);
        this.came.add(buffer.filled().get(before..).unwrap_or_default());
        polled
    }
}

write_by_stream!(Ending<S>, S);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes()[..], payload].concat()
    }

    #[test]
    fn the_last_request_is_the_latest_whose_head_came_whole() {
        let mut frames = vec![
            (frame(4, 0, 0, &[0; 6]), 0),
            (frame(HEADERS, END_HEADERS | 1, 1, b"head"), 1),
            (frame(0, 0, 7, &[HEADERS; 300]), 1),
            (frame(HEADERS, 1, 3, b"he"), 1),
            (frame(CONTINUATION, 0, 3, b"a"), 1),
            (frame(CONTINUATION, END_HEADERS, 3, b"d"), 3),
            (frame(HEADERS, END_HEADERS, 1 << 31 | 5, b""), 5),
            (frame(HEADERS, END_HEADERS, 1, b"trailer"), 5),
        ];
        let mut came = FramesSeen::default();
        came.add(&[HEADERS; PREFACE]);
        for (frame, last) in &frames {
            for byte in frame {
                came.add(&[*byte]);
            }
            assert_eq!(came.last, *last, "{frame:?}");
        }
        frames.push((frame(HEADERS, END_HEADERS, 9, b"head"), 5));
        let mut all = [HEADERS; PREFACE].to_vec();
        all.extend(frames.iter().flat_map(|(frame, _)| frame));
        all.pop();
        let mut at_once = FramesSeen::default();
        at_once.add(&all);
        assert_eq!(at_once.last, 5, "the last head is not whole");
        at_once.add(b"d");
        assert_eq!(at_once.last, 9);
    }

    #[tokio::test]
    async fn a_farewell_names_the_last_request_and_reads_as_the_end() {
        let (mut peer, own) = duplex(1_000);
        let farewell = Farewell::default();
        let mut stream = Ending::new(own, farewell.clone());
        let sent = [&[0; PREFACE][..], &frame(HEADERS, END_HEADERS, 5, b"head")].concat();
        peer.write_all(&sent).await.unwrap();
        let mut came = vec![0; sent.len()];
        stream.read_exact(&mut came).await.unwrap();
        assert_eq!(came, sent);
        peer.write_all(b"more").await.unwrap();
        farewell.say();
        assert_eq!((stream.read(&mut came).await.unwrap(), stream.read(&mut came).await.unwrap()), (0, 0));
        drop(stream);
        let mut told = Vec::new();
        peer.read_to_end(&mut told).await.unwrap();
        assert_eq!(told, [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0]);
    }
}
