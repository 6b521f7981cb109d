//! Cutting a byte stream into messages and keep-alives (RFC 3261 §18.3, RFC 5626 §4.4.1).
//!
//! Invariant: an idle framer holds no memory beyond itself; a half message never exceeds its [`Limits::message_bytes`] plus
//! one read; bytes are looked at once, however few come at a time. An odd head is cut where all who read it see its end: a stream from a
//! SIP server carries what strangers wrote. Where the length is in doubt the stream is given up, because the next message's
//! beginning would be a guess, and a guess is how a forged request is smuggled in. One exception: behind an empty line of LF alone, which those who see
//! LF (Kamailio) measure from, the last length of those who see CRLF alone counts, where both come to the same end by it.

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memmem};

use super::grammar::is_token_byte;
use super::{Limits, Name, parse};

/// What a stream carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One whole message, for [`super::Message::parse`].
    Message(Bytes),
    /// The head of a message beyond [`Limits::message_bytes`], whose body is passed over.
    TooLong(Bytes),
    /// A double CRLF: the peer wants a [`Frame::Pong`] back.
    Ping,
    /// A single CRLF: the answer to a ping.
    Pong,
}

/// Why a stream cannot be read on; it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A head beyond [`Limits::message_bytes`], or a body beyond [`PASSED_OVER_MAX`].
    TooLong,
    /// `Content-Length` is missing or no length, or two who read it find two.
    ContentLength,
    /// The first byte of a message cannot begin one, or some would end its head at a bare LF: this is not SIP.
    NotSip,
}

/// Bytes of a message that are read and passed over, because it is too long; a stream with a longer one is given up.
pub const PASSED_OVER_MAX: usize = 1024 * 1024;

/// Cuts one stream.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    /// How far the search for the end of the head has come.
    searched: usize,
    /// The whole length, once the head is complete.
    length: Option<usize>,
    /// How much of a message that is too long is still to come.
    passed_over: usize,
    /// A single CRLF was just seen: another one completes a ping.
    half_ping: bool,
    limits: Limits,
}

impl Framer {
    /// A framer for a new stream.
    pub fn new(limits: Limits) -> Self {
        Self { buffer: BytesMut::new(), searched: 0, length: None, passed_over: 0, half_ping: false, limits }
    }

    /// Adds bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a message or a keep-alive has begun that is not whole yet.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty() || self.passed_over > 0
    }

    /// The next frame, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`FrameError`] when the stream must be closed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let here = self.passed_over.min(self.buffer.len());
        self.buffer.advance(here);
        self.passed_over -= here;
        if self.passed_over > 0 {
            return Ok(None);
        }
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
        if length > self.limits.of(&self.buffer).message_bytes {
            let head = self.buffer.split_to(self.searched).freeze();
            self.passed_over = length - self.searched;
            (self.length, self.searched) = (None, 0);
            return Ok(Some(Frame::TooLong(head)));
        }
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
        let limit = self.limits.of(&self.buffer).message_bytes;
        let Some(at) = memmem::find(&self.buffer[from..], b"\r\n\r\n") else {
            self.searched = self.buffer.len();
            return if self.buffer.len() >= limit { Err(FrameError::TooLong) } else { Ok(None) };
        };
        let head = from + at + 4;
        let body = content_length(&self.buffer[..head])?;
        if head > limit || body > PASSED_OVER_MAX {
            return Err(FrameError::TooLong);
        }
        self.searched = head;
        self.length = Some(head + body);
        Ok(self.length)
    }
}

/// The one `Content-Length` of a head, in its long or compact form. A line may end with a bare LF, as some peers and callers
/// write it, where all who read it find the same length and the same end.
fn content_length(head: &[u8]) -> Result<usize, FrameError> {
    let mut found = None;
    let (mut at, mut is_whole) = (0, true);
    while let Some(end) = memchr(b'\n', &head[at..]) {
        let line = &head[at..at + end];
        at += end + 1;
        let begins_whole = std::mem::replace(&mut is_whole, line.ends_with(b"\r"));
        if at < head.len() && matches!(line, b"" | b"\r") {
            return odd_length(head);
        }
        // Most lines are told apart by their first letter.
        if !matches!(line.first(), Some(b'l' | b'L' | b'c' | b'C')) {
            continue;
        }
        let Some(value) = length_line(line) else {
            continue;
        };
        let in_doubt = !begins_whole || !is_whole || matches!(head.get(at), Some(b' ' | b'\t')) || found.is_some();
        found = parse::length(super::grammar::trim_bytes(value)).filter(|_| !in_doubt);
        if found.is_none() {
            return odd_length(head);
        }
    }
    found.ok_or(FrameError::ContentLength)
}

/// What stands behind the colon of a line that is named `Content-Length`.
fn length_line(line: &[u8]) -> Option<&[u8]> {
    let colon = memchr(b':', line)?;
    (Name::from_bytes(line[..colon].trim_ascii_end()) == Name::ContentLength).then(|| &line[colon + 1..])
}

/// Which line breaks of a head a reader sees.
#[derive(Clone, Copy)]
enum Breaks {
    /// CRLF alone, as RFC 3261 §7 has it.
    Crlf,
    /// A bare LF, too, as many a server does.
    Lf,
}

/// The length behind a head with a length that is folded, repeated or beside a bare LF, or with an empty line that ends with LF alone: that
/// which those who see CRLF alone and those who see LF come to the same end by. Where one of them finds none, the other's counts: what is
/// without a length has no end on a stream, so nobody sends it so.
#[cold]
fn odd_length(head: &[u8]) -> Result<usize, FrameError> {
    let (of_crlf, of_lf) = (Reading::of(head, Breaks::Crlf)?, Reading::of(head, Breaks::Lf)?);
    if of_lf.head < head.len() {
        // A server that reads so, and passes on what a caller wrote, has measured from its empty line. Whoever sees CRLF alone must come
        // to its end by the length next to the body; with another one beside it, it would not have sent this.
        let ends = of_crlf.end().zip(of_lf.end()).filter(|(one, other)| one == other && !of_lf.differ);
        return ends.and(of_crlf.length).ok_or(FrameError::NotSip);
    }
    match (of_crlf.length, of_lf.length) {
        _ if of_crlf.differ || of_lf.differ => Err(FrameError::ContentLength),
        (Some(one), Some(other)) if one != other => Err(FrameError::ContentLength),
        (one, other) => one.or(other).ok_or(FrameError::ContentLength),
    }
}

/// What one kind of reader finds.
struct Reading {
    /// Where the head ends.
    head: usize,
    /// The last length in it.
    length: Option<usize>,
    /// Whether another one says otherwise.
    differ: bool,
}

impl Reading {
    /// Reads a head, folded lines unfolded. A value that goes on behind a bare LF is none for whoever
    /// does not see it.
    fn of(head: &[u8], breaks: Breaks) -> Result<Self, FrameError> {
        let (mut length, mut differ, mut start) = (None, false, 0);
        for at in memchr::memchr_iter(b'\n', head) {
            let is_seen = matches!(breaks, Breaks::Lf) || head[..at].ends_with(b"\r");
            if !is_seen || matches!(head.get(at + 1), Some(b' ' | b'\t')) {
                continue;
            }
            let line = &head[std::mem::replace(&mut start, at + 1)..at];
            if matches!(line, b"" | b"\r") {
                return Ok(Self { head: at + 1, length, differ });
            }
            let Some(value) = length_line(line).map(super::grammar::trim_bytes) else {
                continue;
            };
            match parse::length(value) {
                None if memchr(b'\n', value).is_some() && matches!(breaks, Breaks::Crlf) => {}
                None => return Err(FrameError::ContentLength),
                Some(found) => differ |= length.replace(found).is_some_and(|before| before != found),
            }
        }
        Ok(Self { head: head.len(), length, differ })
    }

    fn end(&self) -> Option<usize> {
        Some(self.head + self.length?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::limits::ADDED_BYTES;

    const INVITE: &[u8] = b"INVITE sip:a@b SIP/2.0\r\nContent-Length: 4\r\n\r\nbody";

    fn frames(framer: &mut Framer) -> Result<Vec<Frame>, FrameError> {
        let mut frames = Vec::new();
        while let Some(frame) = framer.next_frame()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// Feeds the pieces one after the other.
    fn fed(pieces: &[&[u8]]) -> Result<Vec<Frame>, FrameError> {
        let mut framer = Framer::new(Limits::default());
        let mut all = Vec::new();
        for piece in pieces {
            framer.push(piece);
            all.extend(frames(&mut framer)?);
        }
        Ok(all)
    }

    fn message(bytes: &'static [u8]) -> Frame {
        Frame::Message(Bytes::from_static(bytes))
    }

    fn with_length(lines: &str) -> Result<Vec<Frame>, FrameError> {
        fed(&[format!("INVITE sip:a@b SIP/2.0\r\n{lines}\r\n\r\nbody").as_bytes()])
    }

    #[test]
    fn a_message_that_comes_byte_by_byte_is_one_frame() {
        let pieces: Vec<&[u8]> = INVITE.chunks(1).collect();
        assert_eq!(fed(&pieces), Ok(vec![message(INVITE)]));
    }

    #[test]
    fn pipelined_messages_are_a_frame_each() {
        let twice = [INVITE, b"\r\n", INVITE, b"\r\n\r\n", &INVITE[..30]].concat();
        assert_eq!(fed(&[&twice]), Ok(vec![message(INVITE), Frame::Pong, message(INVITE), Frame::Ping]));
        assert_eq!(fed(&[&twice, &INVITE[30..]]).unwrap().len(), 5, "the rest completes the third");
    }

    #[test]
    fn a_length_in_doubt_ends_the_stream() {
        for lines in [
            "Content-Length: 4294967328",
            "Content-Length: 4294967300",
            "Content-Length: -1",
            "Content-Length: +4",
            "Content-Length: 9223372036854775808",
            "Content-Length: 18446744073709551620",
            "Content-Length: 4 4",
            "Content-Length: 4,4",
            "Content-Length: 0x4",
            "Content-Length: 4.0",
            "Content-Length:",
            "Content-Length: \u{0664}",
            "Content-Length: 4\u{c}",
            "Content-Length: 4\r\n 4",
            "Content-Length:\r\n \r\n 4 4",
            "Content-Length: 4\r\nl: 5",
            "l: 4\r\nX: y\r\nl: 4\r\nl: 5",
            "l: 4\r\nl:",
            "Content-Length: 4\n 4",
            "Content-Length: 4\nl: 5",
            "Content-Length:\nX: y",
            "X-Content-Length: 4",
            "X: y\r\n Content-Length: 4",
            "Content-Length\u{b}: 4",
            "To: x",
        ] {
            assert_eq!(with_length(lines), Err(FrameError::ContentLength), "{lines:?}");
        }
        for lines in [
            "X: y\nl: 5\r\nContent-Length: 4",
            "Content-Length: 4\r\nX: y\nl: 5",
            "Content-Length: 5\nl: 4",
            "Content-Length: 4\nl: 5\r\nl: 4",
        ] {
            assert_eq!(with_length(lines), Err(FrameError::ContentLength), "{lines:?}");
        }
        for lines in [
            "l: 4\nX: y\n\nZ: y",
            "X: y\nl: 9\r\n\nZ: y\r\nl: 4",
            "X: y\n\nl: 4",
            "X: y\r\nl: 18\r\n\nZ: y",
            "l: 9\nl: 18\r\n\nZ: y\r\nl: 4",
            "l:\r\n 4\r\nX: y\r\n\nZ: y",
            "l: 4\r\nX: y\n",
            "l: 4\r\nX: y\n\nZ: y",
            "l: 4\r\nX: y\n\r\nZ: y",
            "\nl: 4",
        ] {
            assert_eq!(with_length(lines), Err(FrameError::NotSip), "{lines:?}");
        }
        for lines in [
            "X: y\nZ: y\r\nl: 4",
            "l: 4\r\nX: y\nZ: y",
            "l:4",
            "Content-Length :\t0004 ",
            "CONTENT-length: 4",
            "X: y\r\n l: 9\r\nL: 4",
        ] {
            assert_eq!(with_length(lines).map(|frames| frames.len()), Ok(1), "{lines:?}");
        }
    }

    #[test]
    fn a_length_that_nobody_reads_otherwise_is_followed_however_it_is_written() {
        for lines in [
            "Content-Length:\r\n 4",
            "Content-Length:\r\n\t4\r\n ",
            "Content-Length: 4\r\n\t",
            "Content-Length:\n 4",
            "Content-Length :\r\n 4\r\nX: y",
            "l: 4\r\nCONTENT-LENGTH : 4",
            "Content-Length: 4\r\nContent-Length: 04",
            "X: y\nContent-Length: 4",
            "Content-Length: 4\nX: y",
            "X: y\nContent-Length: 4\nX: y",
            "X: y\nContent-Length: 4\r\nl: 4",
            "Content-Length: 4\r\nX: y\nl: 4",
            "Content-Length: 4\nl: 4",
            // As a server measures that takes the empty line for the end of the head.
            "X: y\nl: 18\r\n\nZ: y\r\nl: 4",
            "X: y\r\nl: 18\r\n\nZ: y\r\nl: 4",
            "X: y\r\nl: 24\r\n\nl: 4\r\nZ: y\r\nl: 4",
        ] {
            let came = format!("INVITE sip:a@b SIP/2.0\r\n{lines}\r\n\r\nbody");
            let next = fed(&[came.as_bytes(), INVITE]);
            assert_eq!(next, Ok(vec![Frame::Message(came.into()), message(INVITE)]), "{lines:?}");
        }
    }

    #[test]
    fn a_ping_is_seen_however_it_is_split() {
        assert_eq!(fed(&[b"\r\n\r\n"]), Ok(vec![Frame::Ping]));
        assert_eq!(fed(&[b"\r", b"\n\r\n"]), Ok(vec![Frame::Ping]));
        assert_eq!(fed(&[b"\r\n\r", b"\n"]), Ok(vec![Frame::Ping]));
        // Half a ping is a pong until the rest comes; a needless pong does no harm, a missed ping ends the flow.
        assert_eq!(fed(&[b"\r\n", b"\r\n"]), Ok(vec![Frame::Pong, Frame::Ping]));
        assert_eq!(fed(&[b"\r\n", INVITE, b"\r\n"]), Ok(vec![Frame::Pong, message(INVITE), Frame::Pong]));
        assert_eq!(fed(&[b"\r"]), Ok(vec![]));
    }

    #[test]
    fn what_cannot_begin_a_message_is_not_sip() {
        for first in [&b"\x16\x03\x01"[..], b"\n", b" INVITE", b"\r\r", b"\r\n\rX", b"\0", b"\xff", b":", b"<"] {
            assert_eq!(fed(&[first]), Err(FrameError::NotSip), "{first:?}");
        }
        assert_eq!(fed(&[b"!token sip:a"]), Ok(vec![]), "a method is any token");
    }

    #[test]
    fn a_million_crlfs_are_pings_and_leave_no_memory_behind() {
        let mut framer = Framer::new(Limits::default());
        let mut pings = 0;
        for _ in 0..250 {
            framer.push(&b"\r\n".repeat(4000));
            pings += frames(&mut framer).unwrap().iter().filter(|frame| **frame == Frame::Ping).count();
            assert_eq!(framer.buffer.capacity(), 0);
        }
        assert_eq!(pings, 500_000);
    }

    #[test]
    fn five_megabytes_without_an_empty_line_are_given_up_at_the_limit() {
        let limits = Limits::default();
        let mut framer = Framer::new(limits);
        framer.push(b"INVITE sip:a@b SIP/2.0\r\nX: ");
        let mut taken = 0;
        let error = loop {
            framer.push(&[b'x'; 1000]);
            taken += 1000;
            match framer.next_frame() {
                Ok(frame) => assert_eq!(frame, None),
                Err(error) => break error,
            }
            assert!(taken < 5_000_000 && framer.buffer.len() <= limits.message_bytes);
        };
        assert_eq!(error, FrameError::TooLong);
        assert!(taken <= limits.message_bytes + 1000);
    }

    #[test]
    fn a_response_may_be_longer_than_a_request() {
        let framed = |first: &str, more: usize| {
            let body = Limits::default().message_bytes + more - first.len() - "l: 65536\r\n\r\n".len();
            fed(&[format!("{first}l: {body:05}\r\n\r\n{}", "x".repeat(body)).as_bytes()]).unwrap()
        };
        assert!(matches!(framed("INVITE sip:a@b SIP/2.0\r\n", 1)[0], Frame::TooLong(_)));
        assert!(matches!(framed("SIP/2.0 200 OK\r\n", 1)[0], Frame::Message(_)));
        assert!(matches!(framed("SIP/2.0 200 OK\r\n", ADDED_BYTES)[0], Frame::Message(_)));
        assert!(matches!(framed("SIP/2.0 200 OK\r\n", ADDED_BYTES + 1)[0], Frame::TooLong(_)));
    }

    #[test]
    fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
        let limits = Limits { message_bytes: INVITE.len(), ..Limits::default() };
        let mut framer = Framer::new(limits);
        framer.push(INVITE);
        assert_eq!(framer.next_frame(), Ok(Some(message(INVITE))));
        let mut framer = Framer::new(Limits { message_bytes: INVITE.len() - 1, ..limits });
        framer.push(&INVITE[..INVITE.len() - 4]);
        let head = Frame::TooLong(Bytes::from_static(&INVITE[..INVITE.len() - 4]));
        assert_eq!(framer.next_frame(), Ok(Some(head)), "its length tells it before its body comes");
        assert_eq!((framer.next_frame(), framer.is_partial(), framer.buffer.len()), (Ok(None), true, 0));
        framer.push(b"bo");
        framer.push(&[b"dy", &INVITE[..INVITE.len() - 7]].concat());
        assert_eq!((framer.next_frame(), framer.passed_over), (Ok(None), 0), "another one has begun");
        let length = INVITE.len() + PASSED_OVER_MAX;
        let beyond = format!("INVITE sip:a@b SIP/2.0\r\nl: {length}\r\n\r\n");
        assert_eq!(fed(&[beyond.as_bytes()]), Err(FrameError::TooLong));
    }
}
