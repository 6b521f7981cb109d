//! Cutting a byte stream into messages and keep-alives (RFC 3261 §18.3, RFC 5626 §4.4.1).
//!
//! Invariant: an idle framer holds no memory beyond itself; a half message never exceeds [`Limits::message_bytes`] plus
//! one read; bytes are looked at once, however few come at a time. Where the length is in doubt the stream is given up,
//! because the next message's beginning would be a guess, and a guess is how a forged request is smuggled in.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

use super::grammar::is_token_byte;
use super::{Limits, Name, parse};

/// What a stream carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One whole message, for [`super::Message::parse`].
    Message(Bytes),
    /// A double CRLF: the peer wants a [`Frame::Pong`] back.
    Ping,
    /// A single CRLF: the answer to a ping.
    Pong,
}

/// Why a stream cannot be read on; it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A message beyond [`Limits::message_bytes`].
    TooLong,
    /// `Content-Length` is missing, repeated or no length.
    ContentLength,
    /// The first byte of a message cannot begin one: this is not SIP.
    NotSip,
}

/// Cuts one stream.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    /// How far the search for the end of the head has come.
    searched: usize,
    /// The whole length, once the head is complete.
    length: Option<usize>,
    /// A single CRLF was just seen: another one completes a ping.
    half_ping: bool,
    limits: Limits,
}

impl Framer {
    /// A framer for a new stream.
    pub fn new(limits: Limits) -> Self {
        Self { buffer: BytesMut::new(), searched: 0, length: None, half_ping: false, limits }
    }

    /// Adds bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`FrameError`] when the stream must be closed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.length.is_none() && self.searched == 0 {
            if let Some(frame) = self.keep_alive() {
                return Ok(Some(frame));
            }
            match self.buffer.first() {
                None => {
                    self.buffer = BytesMut::new();
                    return Ok(None);
                }
                Some(b'\r') if b"\r\n\r".starts_with(&self.buffer) => return Ok(None),
                Some(first) if !is_token_byte(*first) => return Err(FrameError::NotSip),
                Some(_) => self.half_ping = false,
            }
        }
        let length = match self.length {
            Some(length) => length,
            None => match self.measure()? {
                Some(length) => length,
                None => return Ok(None),
            },
        };
        if self.buffer.len() < length {
            return Ok(None);
        }
        self.length = None;
        self.searched = 0;
        Ok(Some(Frame::Message(self.buffer.split_to(length).freeze())))
    }

    fn keep_alive(&mut self) -> Option<Frame> {
        if self.buffer.starts_with(b"\r\n\r\n") {
            self.buffer.advance(4);
            self.half_ping = false;
            Some(Frame::Ping)
        } else if self.buffer.starts_with(b"\r\n") && self.buffer.get(2) != Some(&b'\r') {
            self.buffer.advance(2);
            let whole = std::mem::replace(&mut self.half_ping, true);
            if whole {
                self.half_ping = false;
            }
            Some(if whole { Frame::Ping } else { Frame::Pong })
        } else {
            None
        }
    }

    /// The length of the whole message, once its head is here.
    fn measure(&mut self) -> Result<Option<usize>, FrameError> {
        let from = self.searched.saturating_sub(3);
        let Some(at) = memmem::find(&self.buffer[from..], b"\r\n\r\n") else {
            self.searched = self.buffer.len();
            return if self.buffer.len() >= self.limits.message_bytes { Err(FrameError::TooLong) } else { Ok(None) };
        };
        let head = from + at + 4;
        let body = content_length(&self.buffer[..head])?;
        if head.saturating_add(body) > self.limits.message_bytes {
            return Err(FrameError::TooLong);
        }
        self.searched = head;
        self.length = Some(head + body);
        Ok(self.length)
    }
}

/// The one `Content-Length` of a head, in its long or compact form.
fn content_length(head: &[u8]) -> Result<usize, FrameError> {
    let mut found = None;
    let mut at = 0;
    while let Some(end) = memmem::find(&head[at..], b"\r\n") {
        let line = &head[at..at + end];
        at += end + 2;
        let Some(colon) = memchr::memchr(b':', line) else {
            continue;
        };
        if Name::from_bytes(line[..colon].trim_ascii_end()) != Name::ContentLength {
            continue;
        }
        // A folded length is legal and never seen; it reads as broken, and the stream is given up.
        let value = parse::length(super::grammar::trim_bytes(&line[colon + 1..])).ok_or(FrameError::ContentLength)?;
        if found.replace(value).is_some() || matches!(head.get(at), Some(b' ' | b'\t')) {
            return Err(FrameError::ContentLength);
        }
    }
    found.ok_or(FrameError::ContentLength)
}
