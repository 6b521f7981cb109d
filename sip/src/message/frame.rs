//! Cutting a byte stream into messages and keep-alives (RFC 3261 §18.3, RFC 5626 §4.4.1).
//!
//! Invariant: an idle framer holds no memory beyond itself; a half message never exceeds its [`Limits::message_bytes`] plus one read; bytes are
//! looked at once, however few come at a time. A longer message is passed over, its head line by line, so that the next one is found: many accounts
//! share a SIP server's stream, and strangers wrote the messages on it. Where the length is in doubt ([`super::length`]) the stream is given up,
//! because the next message's beginning would be a guess, and a guess is how a forged request is smuggled in. Where the server is known to see bare
//! LFs, as Kamailio and OpenSIPS do and pass them on, its own reading counts, and a message that others would read otherwise is passed over.

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memmem};

use super::Limits;
use super::by_lf::{ByLf, Measured};
use super::grammar::is_token_byte;
use super::head_reader::with_crlf;
use super::length::{self, InDoubt};
use super::long_head::{LongHead, Passing, whole_lines};

/// One frame of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One whole message, for [`super::Message::parse`].
    Message(Bytes),
    /// The head of a message beyond [`Limits::message_bytes`], of which the rest is passed over. Of a head that is itself beyond it:
    /// its whole lines within, and the empty line.
    TooLong(Bytes),
    /// The head of a request that has a CR or a LF alone, or of a message that others would end elsewhere, from a server that is known to see those:
    /// the lines that it sees, with CRLF. The body is passed over.
    BareLf(Bytes),
    /// A line that begins no message, where one should begin, on a stream that others share: what follows is looked at anew.
    Stray(Bytes),
    /// A double CRLF: the peer wants a [`Frame::Pong`] back. Two pongs with nothing between them look the same.
    Ping,
    /// A single CRLF: the answer to a ping.
    Pong,
}

/// Reason why a stream cannot be read on; it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A head or a body beyond [`PASSED_OVER_MAX`].
    TooLong,
    /// `Content-Length` is missing or no length, or two who read it find two.
    ContentLength,
    /// The first byte of a message cannot begin one, or some would end its head elsewhere: this is not SIP.
    NotSip,
}

impl From<InDoubt> for FrameError {
    fn from(doubt: InDoubt) -> Self {
        match doubt {
            InDoubt::Length => Self::ContentLength,
            InDoubt::Head => Self::NotSip,
        }
    }
}

/// Bytes of a head, and of a body, that are read and passed over, because the message is too long; a stream with a longer one is given up.
pub const PASSED_OVER_MAX: usize = 1024 * 1024;

/// Cuts one stream.
#[derive(Debug)]
pub struct Framer {
    buffer: BytesMut,
    /// The reading of the server that writes it, which is known to see a bare LF as the end of a line.
    by_lf: Option<Box<ByLf>>,
    /// Whether strangers wrote what the stream carries, and a server is known to have taken it.
    is_shared: bool,
    /// Whether the first line is here, and can begin a message; how far the search for its end has come.
    has_begun: bool,
    first_line: usize,
    /// How far the search for the end of the head has come.
    searched: usize,
    /// The whole length, once the head is complete.
    length: Option<usize>,
    /// The head that is passed over, because it is too long.
    long_head: Option<Box<LongHead>>,
    /// How much of the body of a message that is too long is still to come.
    passed_over: usize,
    /// A single CRLF was just seen: another one completes a ping.
    half_ping: bool,
    limits: Limits,
}

impl Framer {
    /// A framer for a new stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            buffer: BytesMut::new(),
            by_lf: None,
            is_shared: false,
            has_begun: false,
            first_line: 0,
            searched: 0,
            length: None,
            long_head: None,
            passed_over: 0,
            half_ping: false,
            limits,
        }
    }

    /// The server that writes this stream sees a bare LF as the end of a line, and an empty line of it as the end of a head: where a
    /// head has two ends, or two lengths, its own count, and the message is passed over.
    pub fn sees_bare_lf(&mut self) {
        self.is_shared = true;
        self.by_lf.get_or_insert_default();
    }

    /// A server has taken what comes, whatever a stranger wrote in it: a byte or a line that can begin no message is no end of the stream.
    pub fn is_of_server(&mut self) {
        self.is_shared = true;
    }

    /// Adds bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a message or a keep-alive has begun that is not whole yet.
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty() || self.long_head.is_some() || self.passed_over > 0
    }

    /// The next frame, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`FrameError`] when the stream must be closed.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(head) = &mut self.long_head {
            match head.pass(&mut self.buffer, PASSED_OVER_MAX)? {
                Passing::Head => return Ok(None),
                Passing::Body(body) => (self.long_head, self.passed_over) = (None, body),
                Passing::TooLong => return Err(FrameError::TooLong),
            }
        }
        let here = self.passed_over.min(self.buffer.len());
        self.buffer.advance(here);
        self.passed_over -= here;
        if self.passed_over > 0 {
            return Ok(None);
        }
        if !self.has_begun {
            if self.is_shared {
                self.skip_leading();
            }
            if let Some(frame) = self.keep_alive() {
                return Ok(Some(frame));
            }
            match self.buffer.first() {
                None => {
                    self.buffer = BytesMut::new();
                    return Ok(None);
                }
                Some(b'\r') if b"\r\n\r".starts_with(&self.buffer) => return Ok(None),
                Some(first) if !self.is_shared && !is_token_byte(*first) => return Err(FrameError::NotSip),
                Some(_) => self.half_ping = false,
            }
            match self.begin() {
                Beginning::Message => self.has_begun = true,
                Beginning::Partial => return Ok(None),
                Beginning::Stray(line) => return Ok(Some(Frame::Stray(self.buffer.split_to(line).freeze()))),
            }
        }
        let length = match self.length {
            Some(length) => length,
            None => match self.measure()? {
                Measured::Whole(head, body) => head + body,
                Measured::Partial => return Ok(None),
                Measured::BareLf(head, body) => {
                    let head = self.buffer.split_to(head);
                    self.passed_over = body;
                    self.end_message();
                    return Ok(Some(Frame::BareLf(with_crlf(&head))));
                }
                Measured::TooLong(limit) => {
                    self.end_message();
                    self.long_head = Some(Box::new(LongHead::new(self.by_lf.is_some())));
                    return Ok(Some(Frame::TooLong(whole_lines(&self.buffer[..limit]))));
                }
            },
        };
        if length > self.limits.of(&self.buffer).message_bytes {
            let head = self.buffer.split_to(self.searched).freeze();
            self.passed_over = length - self.searched;
            self.end_message();
            return Ok(Some(Frame::TooLong(head)));
        }
        if self.buffer.len() < length {
            return Ok(None);
        }
        self.end_message();
        Ok(Some(Frame::Message(self.buffer.split_to(length).freeze())))
    }

    /// Ends the message that has begun: it is whole, or was passed over.
    fn end_message(&mut self) {
        (self.has_begun, self.first_line, self.searched, self.length) = (false, 0, 0, None);
    }

    /// Nothing has followed for long. Whether that ends what has begun: a head whose empty line is a CR alone, unless a LF follows.
    pub fn end_by_silence(&mut self) -> bool {
        match (&mut self.long_head, &mut self.by_lf) {
            (Some(head), _) => head.end_by_silence(),
            (None, Some(by_lf)) => by_lf.end_by_silence(),
            (None, None) => false,
        }
    }

    /// Judges the first line, on a stream that several senders share: a line that begins no message is the remainder of one whose length was wrong.
    fn begin(&mut self) -> Beginning {
        if !self.is_shared {
            return Beginning::Message;
        }
        let end = memchr(b'\n', &self.buffer[self.first_line..]).map(|at| self.first_line + at + 1);
        self.first_line = end.unwrap_or(self.buffer.len());
        match end {
            Some(end) if may_begin(&self.buffer[..end]) => Beginning::Message,
            Some(end) => {
                self.first_line = 0;
                Beginning::Stray(end)
            }
            None if self.buffer.len() < self.limits.message_bytes => Beginning::Partial,
            None => Beginning::Message,
        }
    }

    /// Skips the bytes that servers skip before a first line, and pass on; line ends are keep-alives.
    fn skip_leading(&mut self) {
        let is_line_end = |at: usize| self.buffer[at] == b'\r' && matches!(self.buffer.get(at + 1), None | Some(b'\n'));
        let is_skipped =
            |at: &usize| matches!(self.buffer[*at], b'\n' | b'\r' | b'\t' | b' ' | b'\0') && !is_line_end(*at);
        let count = (0..self.buffer.len()).take_while(is_skipped).count();
        self.buffer.advance(count);
    }

    fn keep_alive(&mut self) -> Option<Frame> {
        if self.buffer.starts_with(b"\r\n\r\n") {
            self.buffer.advance(4);
            self.half_ping = false;
            Some(Frame::Ping)
        } else if self.buffer.starts_with(b"\r\n") && *self.buffer != *b"\r\n\r" {
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
    fn measure(&mut self) -> Result<Measured, FrameError> {
        let limit = self.limits.of(&self.buffer).message_bytes;
        let measured = match &mut self.by_lf {
            Some(by_lf) => by_lf.measure(&self.buffer, limit)?,
            None => self.measure_by_crlf(limit)?,
        };
        let body = match measured {
            Measured::Whole(head, body) => {
                (self.searched, self.length) = (head, Some(head + body));
                body
            }
            Measured::BareLf(_, body) => body,
            Measured::Partial | Measured::TooLong(_) => 0,
        };
        if body > PASSED_OVER_MAX { Err(FrameError::TooLong) } else { Ok(measured) }
    }

    fn measure_by_crlf(&mut self, limit: usize) -> Result<Measured, InDoubt> {
        let from = self.searched.saturating_sub(3);
        let Some(at) = memmem::find(&self.buffer[from..], b"\r\n\r\n") else {
            self.searched = self.buffer.len();
            return Ok(if self.buffer.len() < limit { Measured::Partial } else { Measured::TooLong(limit) });
        };
        let head = from + at + 4;
        if head > limit {
            return Ok(Measured::TooLong(limit));
        }
        Ok(Measured::Whole(head, length::of_head(&self.buffer[..head])?))
    }
}

enum Beginning {
    Message,
    /// The line is not all here.
    Partial,
    /// The line, of so many bytes, begins no message.
    Stray(usize),
}

/// Whether a line may be a request line or a status line, as liberally as servers read them.
fn may_begin(line: &[u8]) -> bool {
    let is_version = |word: &[u8]| word.get(..4).is_some_and(|begins| begins.eq_ignore_ascii_case(b"SIP/"));
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty());
    words.next().is_some_and(is_version) || words.skip(1).any(is_version)
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

    fn message(bytes: &[u8]) -> Frame {
        Frame::Message(Bytes::copy_from_slice(bytes))
    }

    /// The frames of a message whose head has these lines: the same whether it is within the limit or far beyond it, and however it is split.
    fn with_length(lines: &str) -> Result<Vec<Frame>, FrameError> {
        let framed = fed(&[format!("INVITE sip:a@b SIP/2.0\r\n{lines}\r\n\r\nbody").as_bytes()]);
        let long = format!("INVITE sip:a@b SIP/2.0\r\n{}{lines}\r\n\r\nbody", FILLING.repeat(5_000));
        let next = "OPTIONS sip:a@b SIP/2.0\r\nl: 0\r\n\r\n";
        let stream = [long.as_bytes(), next.as_bytes()].concat();
        let passed = framed.as_ref().map(|_| message(next.as_bytes())).map_err(|error| *error);
        let (beginning, odd) = stream.split_at(long.len() - lines.len() - 20);
        for chunk in [1, 2, 7, usize::MAX] {
            let pieces: Vec<&[u8]> = std::iter::once(beginning).chain(odd.chunks(chunk)).collect();
            let after = fed(&pieces).map(|mut frames| frames.pop().expect("two frames"));
            assert_eq!(after, passed, "{lines:?} in pieces of {chunk}");
        }
        framed
    }

    const FILLING: &str = "X-Filling: yyyyyyyy\r\n";

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
            "Content-Length\r\n : 5\r\nl: 4",
            "l: 4\r\nl\r\n\t\r\n : 5",
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
            assert!(with_length(lines).is_ok(), "{lines:?}");
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
    fn five_megabytes_without_an_empty_line_are_passed_over_for_one_and_keep_no_memory() {
        let limits = Limits::default();
        let mut framer = Framer::new(limits);
        let begun = "INVITE sip:a@b SIP/2.0\r\nVia: a\r\n ,b\r\nX: ";
        framer.push(begun.as_bytes());
        let (mut taken, mut told) = (0, Vec::new());
        let error = loop {
            framer.push(&[b'x'; 1000]);
            taken += 1000;
            match framer.next_frame() {
                Ok(frame) => told.extend(frame.map(|frame| (taken, frame))),
                Err(error) => break error,
            }
            assert!(taken < 5_000_000 && framer.is_partial());
            let most = if told.first().is_some_and(|(at, _)| *at < taken) { 3 } else { limits.message_bytes + 1000 };
            assert!(framer.buffer.len() <= most, "{taken}");
        };
        assert_eq!(error, FrameError::TooLong);
        assert!(taken <= PASSED_OVER_MAX + 1000);
        let head = "INVITE sip:a@b SIP/2.0\r\nVia: a\r\n ,b\r\n\r\n";
        assert_eq!(told, [(65_000 + 1000, Frame::TooLong(head.into()))], "its whole lines, at once");
    }

    #[test]
    fn a_head_beyond_the_limit_ends_where_its_length_says_and_the_next_message_is_found() {
        for more in [0, 1, 2, 3, 4, 100, 900_000] {
            let filling = Limits::default().message_bytes - 37 + more;
            let long = format!("INVITE sip:a@b SIP/2.0\r\nX: {}\r\nl: 4\r\n\r\nbody", "x".repeat(filling));
            let stream = [long.as_bytes(), INVITE, b"\r\n\r\n", long.as_bytes(), INVITE].concat();
            for chunk in [4096, 1000, stream.len()] {
                let mut framer = Framer::new(Limits::default());
                let (mut frames, mut most) = (Vec::new(), 0);
                for piece in stream.chunks(chunk) {
                    framer.push(piece);
                    while let Some(frame) = framer.next_frame().unwrap() {
                        frames.push(frame);
                    }
                    most = most.max(framer.buffer.len());
                }
                let told: Vec<_> = frames.iter().filter(|frame| !matches!(frame, Frame::TooLong(_))).collect();
                assert_eq!(told, [&message(INVITE), &Frame::Ping, &message(INVITE)], "{more} in pieces of {chunk}");
                assert_eq!(frames.len(), 5, "{more} in pieces of {chunk}");
                assert!(most < Limits::default().message_bytes + chunk && !framer.is_partial(), "{most}");
            }
        }
    }

    #[test]
    fn what_is_kept_of_a_head_that_is_too_long_are_whole_lines() {
        let kept = |text: &str| {
            let mut framer = Framer::new(Limits { message_bytes: text.len(), ..Limits::default() });
            framer.push(text.as_bytes());
            let Ok(Some(Frame::TooLong(head))) = framer.next_frame() else { panic!("{text:?}") };
            String::from_utf8(head.to_vec()).unwrap()
        };
        assert_eq!(kept("A b c\r\nTo: x\r\nVi"), "A b c\r\nTo: x\r\n\r\n");
        for cut in ["A b c\r\nTo: x\r\nVia: y", "A b c\r\nTo: x\r\nVia: y\r", "A b c\r\nTo: x\r\nVia: y\r\n"] {
            assert_eq!(kept(cut), "A b c\r\nTo: x\r\n\r\n", "{cut:?}: a folding may follow");
        }
        assert_eq!(kept("A b c\r\nTo: x\r\n y\r\n z"), "A b c\r\n\r\n");
        assert_eq!(kept("A b c"), "\r\n");
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
        for filling in ["", &FILLING.repeat(5_000)] {
            let beyond = format!("INVITE sip:a@b SIP/2.0\r\n{filling}l: {length}\r\n\r\n");
            assert_eq!(fed(&[beyond.as_bytes()]), Err(FrameError::TooLong));
        }
    }

    #[test]
    fn a_cr_alone_that_ends_a_line_for_some_puts_a_length_in_doubt_where_they_find_another() {
        let framed = |lines: &str| fed(&[format!("INVITE sip:a@b SIP/2.0\r\n{lines}\r\n\r\nbody").as_bytes()]);
        for harmless in ["X: a\rb\r\nl: 4", "l: 4\r\nTo: \"a\rb\" <sip:a@b>", "\rX: y\r\nl: 4"] {
            assert!(framed(harmless).is_ok_and(|frames| frames.len() == 1), "{harmless:?}");
        }
        for doubtful in [
            "To: x\rl: 40\r\nl: 4",
            "l: 4\r\nTo: x\rl: 5",
            "l: 4\r\nTo: x\r\r\nX: y",
            "l: 4\r\n\rX: y",
            "\rl: 5\r\nl: 4",
            "\r\rl: 4",
        ] {
            assert!(framed(doubtful).is_err(), "{doubtful:?}");
        }
    }

    #[test]
    fn a_first_line_names_no_length_whatever_its_method_is() {
        for method in ["l:", "L:x", "Content-Length:", "l"] {
            let filling = FILLING.repeat(5_000);
            for (lines, is_long) in
                [("", false), ("X: y\nZ: y\r\n", false), ("X: a\rb\r\n", false), (&filling[..], true)]
            {
                let text = format!("{method} sip:a@b SIP/2.0\r\n{lines}l: 4\r\n\r\nbody");
                let mut frames = fed(&[text.as_bytes(), INVITE]).unwrap_or_else(|error| panic!("{text:?}: {error:?}"));
                assert_eq!(frames.pop(), Some(message(INVITE)), "{text:?}");
                assert_eq!(matches!(frames[..], [Frame::Message(_)]), !is_long, "{text:?}");
            }
        }
    }

    #[test]
    fn a_length_is_read_however_much_white_space_and_how_many_zeros_it_has() {
        let (blanks, zeros) = (" ".repeat(5_000), "0".repeat(5_000));
        for lines in [format!("l: 4{blanks}"), format!("l:{blanks}4"), format!("l: {zeros}4"), format!("l{blanks}: 4")]
        {
            for lines in [&lines, &format!("X: y\n{lines}")] {
                assert_eq!(with_length(lines).map(|frames| frames.len()), Ok(1));
            }
        }
    }

    #[test]
    fn a_message_with_an_odd_first_byte_is_framed_on_a_stream_that_others_share() {
        for odd in ["@FOO", "(X", "\u{e9}X", "/", " X", "\tX", "\u{1}", "\u{7f}", "\0X"] {
            let text = format!("{odd} sip:a@b SIP/2.0\r\nl: 4\r\n\r\nbody");
            assert_eq!(fed(&[text.as_bytes()]), Err(FrameError::NotSip), "{odd}");
            let mut framer = Framer::new(Limits::default());
            framer.is_of_server();
            framer.push(text.as_bytes());
            framer.push(INVITE);
            let text = text.trim_start_matches([' ', '\t', '\0']);
            assert_eq!(frames(&mut framer), Ok(vec![message(text.as_bytes()), message(INVITE)]), "{odd}");
            for before in ["\n", "\r\0", " \t\0\n", "\r\r", "\r\n\r", "\r\n\r\0", "\r\n\r\r\n", "\r\n\n", "\r\n \r\n"] {
                let stream = [before.as_bytes(), INVITE].concat();
                for chunk in [1, stream.len()] {
                    let mut all = Vec::new();
                    for piece in stream.chunks(chunk) {
                        framer.push(piece);
                        all.extend(frames(&mut framer).unwrap_or_else(|error| panic!("{before:?}: {error:?}")));
                    }
                    all.retain(|frame| !matches!(frame, Frame::Ping | Frame::Pong));
                    assert_eq!(all, [message(INVITE)], "{before:?}");
                }
            }
        }
    }

    #[test]
    fn a_line_that_begins_no_message_is_passed_over_alone_on_a_stream_that_others_share() {
        let stray = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\na=x\r\n\r\n";
        let odd = "sip/2.0 200 OK\r\nl: 0\r\n\r\nX sip:a b@c  SIP/3.0 \r\nl: 0\r\n\r\n";
        let stream =
            [stray.as_bytes(), INVITE, b"Via: SIP/2.0/TLS h\r\n", odd.as_bytes(), stray.as_bytes(), INVITE].concat();
        for chunk in [1, 7, stream.len()] {
            let mut framer = Framer::new(Limits::default());
            framer.is_of_server();
            let (mut messages, mut strays) = (Vec::new(), 0);
            for piece in stream.chunks(chunk) {
                framer.push(piece);
                for frame in frames(&mut framer).unwrap() {
                    match frame {
                        Frame::Message(bytes) => messages.push(bytes),
                        Frame::Stray(_) => strays += 1,
                        Frame::Ping | Frame::Pong => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
            let begins: Vec<_> = messages.iter().map(|bytes| &bytes[..5]).collect();
            assert_eq!(begins, [b"INVIT", b"sip/2", b"X sip", b"INVIT"], "in pieces of {chunk}");
            assert_eq!(strays, 7, "in pieces of {chunk}");
            assert!(!framer.is_partial());
        }
        let mut framer = Framer::new(Limits::default());
        framer.is_of_server();
        framer.push(&[b'x'; 2 * PASSED_OVER_MAX]);
        assert!(matches!(framer.next_frame(), Ok(Some(Frame::TooLong(_)))), "a line has an end within the limit");
        assert_eq!(framer.next_frame(), Err(FrameError::TooLong));
    }
}
