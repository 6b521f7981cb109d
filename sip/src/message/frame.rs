//! Cutting a byte stream into messages and keep-alives (RFC 3261 §18.3, RFC 5626 §4.4.1).
//!
//! Invariant: an idle framer holds no memory beyond itself; a half message never exceeds its [`Limits::message_bytes`] plus
//! one read; bytes are looked at once, however few come at a time. What is longer is passed over, its head line by line, so that
//! the next message is found: many share a SIP server's stream, and strangers wrote what it carries. Where the length is in doubt
//! ([`super::length`]) the stream is given up, because the next message's beginning would be a guess, and a guess is how a forged request is
//! smuggled in. Where the server is known to see bare LFs, as Kamailio and OpenSIPS do and pass them on, its own reading counts, and what others
//! would read otherwise is passed over.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

use super::Limits;
use super::grammar::is_token_byte;
use super::length::{self, InDoubt, end_by_lf};
use super::long_head::{LongHead, Passing, whole_lines};

/// What a stream carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One whole message, for [`super::Message::parse`].
    Message(Bytes),
    /// The head of a message beyond [`Limits::message_bytes`], of which the rest is passed over. Of a head that is itself beyond it:
    /// its whole lines within, and the empty line.
    TooLong(Bytes),
    /// The head of a message that a server of whom that is known ends by bare LFs, and that others would end elsewhere: its lines, with CRLF. Its
    /// body is passed over.
    BareLf(Bytes),
    /// A double CRLF: the peer wants a [`Frame::Pong`] back.
    Ping,
    /// A single CRLF: the answer to a ping.
    Pong,
}

/// Why a stream cannot be read on; it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A head or a body beyond [`PASSED_OVER_MAX`].
    TooLong,
    /// `Content-Length` is missing or no length, or two who read it find two.
    ContentLength,
    /// The first byte of a message cannot begin one, or some would end its head at a bare LF: this is not SIP.
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
    /// The server that writes it is known to see a bare LF as the end of a line.
    sees_lf: bool,
    /// Strangers wrote what it carries, and a server is known to have taken it.
    is_shared: bool,
    /// Where a head ends, and its message, for who sees bare LFs.
    by_lf: Option<(usize, usize)>,
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
            sees_lf: false,
            is_shared: false,
            by_lf: None,
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
        self.sees_lf = true;
    }

    /// A server has taken what comes, whatever a stranger wrote in it: a message whose first byte can begin none is no end of the stream.
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
        if self.length.is_none() && self.searched == 0 {
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
                Some(first) if !is_token_byte(*first) && (!self.is_shared || matches!(first, b'\r' | b'\n')) => {
                    return Err(FrameError::NotSip);
                }
                Some(_) => self.half_ping = false,
            }
        }
        let length = match self.length {
            Some(length) => length,
            None => match self.measure()? {
                Measured::Whole(length) => length,
                Measured::Partial => return Ok(None),
                Measured::BareLf(head, body) => {
                    let head = self.buffer.split_to(head);
                    (self.searched, self.by_lf, self.passed_over) = (0, None, body);
                    return Ok(Some(Frame::BareLf(with_crlf(&head))));
                }
                Measured::TooLong(limit) => {
                    self.searched = 0;
                    self.long_head = Some(Box::new(LongHead::new(self.sees_lf)));
                    return Ok(Some(Frame::TooLong(whole_lines(&self.buffer[..limit]))));
                }
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

    /// What servers skip before a first line, and pass on; line ends are keep-alives.
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
    fn measure(&mut self) -> Result<Measured, FrameError> {
        let from = self.searched.saturating_sub(3);
        let limit = self.limits.of(&self.buffer).message_bytes;
        if self.sees_lf
            && let Some(measured) = self.measure_by_lf(from, limit)?
        {
            return Ok(measured);
        }
        let Some(at) = memmem::find(&self.buffer[from..], b"\r\n\r\n") else {
            self.searched = self.buffer.len();
            return Ok(if self.buffer.len() < limit { Measured::Partial } else { Measured::TooLong(limit) });
        };
        let head = from + at + 4;
        if head > limit {
            return Ok(Measured::TooLong(limit));
        }
        let body = match length::of_head(&self.buffer[..head]) {
            // What only the others find is nothing to the server that wrote it.
            Err(_) if self.sees_lf => return Ok(Measured::BareLf(head, length_by_lf(&self.buffer[..head])?)),
            body => body?,
        };
        if body > PASSED_OVER_MAX {
            return Err(FrameError::TooLong);
        }
        self.searched = head;
        self.length = Some(head + body);
        Ok(Measured::Whole(head + body))
    }
}

impl Framer {
    /// The length of a message whose head ends by a bare LF, once it is whole. `None`: it does not, or everyone comes to its end.
    fn measure_by_lf(&mut self, from: usize, limit: usize) -> Result<Option<Measured>, FrameError> {
        let (head, whole) = match self.by_lf {
            Some(known) => known,
            None => {
                let Some(head) = end_by_lf(&self.buffer[from..]).map(|end| from + end) else { return Ok(None) };
                if head > limit || self.buffer[..head].ends_with(b"\r\n\r\n") {
                    return Ok(None);
                }
                let known = (head, head + length_by_lf(&self.buffer[..head])?);
                *self.by_lf.insert(known)
            }
        };
        if whole <= limit && self.buffer.len() < whole {
            return Ok(Some(Measured::Partial));
        }
        let here = &self.buffer[..whole.min(self.buffer.len())];
        let end = memmem::find(here, b"\r\n\r\n").map(|at| at + 4);
        if end.is_some_and(|end| length::of_head(&here[..end]).is_ok_and(|body| end + body == whole)) {
            self.by_lf = None;
            (self.searched, self.length) = (end.unwrap_or(head), Some(whole));
            return Ok(Some(Measured::Whole(whole)));
        }
        Ok(Some(Measured::BareLf(head, whole - head)))
    }
}

/// The length of the body behind a head, for who sees bare LFs.
fn length_by_lf(head: &[u8]) -> Result<usize, FrameError> {
    let body = length::by_lf(head)?;
    if body > PASSED_OVER_MAX { Err(FrameError::TooLong) } else { Ok(body) }
}

/// The lines of a head, each with CRLF, and an empty line.
fn with_crlf(head: &[u8]) -> Bytes {
    let lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let lines = lines.filter(|line| !line.is_empty()).flat_map(|line| [line, b"\r\n"]);
    Bytes::from(lines.chain([&b"\r\n"[..]]).collect::<Vec<_>>().concat())
}

enum Measured {
    /// The lengths of a head that ends by a bare LF, and of its body.
    BareLf(usize, usize),
    /// The head is not all here.
    Partial,
    /// The length of the message.
    Whole(usize),
    /// Its head is longer than so many bytes.
    TooLong(usize),
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

    /// What a head with these lines comes to: the same whether it is within the limit or far beyond it, and however it is split.
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
    fn of_a_server_that_sees_bare_lfs_its_own_end_counts_and_what_others_read_otherwise_is_passed_over() {
        let head = "INVITE sip:a@b SIP/2.0\r\nTo: x\r\n";
        for (lines, body, is_message) in [
            ("l: 11\r\nX: b\n\n", "hello world", false),
            ("l: 25\r\nX: b\n\n", "foo\r\nl: 3\r\n\r\nhello world!", false),
            ("l: 12\r\nX: b\n\n", "foo\r\n\r\nhello", false),
            ("l: 4\r\nX: b\n\n", "\r\n\r\n", false),
            ("l: 5\r\n\n", "hello", false),
            ("l: 5\n\r\n", "hello", false),
            ("l: 0\n\n", "", false),
            ("l: 5\r\n\r", "hello", false),
            ("l: 5\r\nl: 7\r\n\r\n", "hello", false),
            ("X: y\nl: 5\r\nl: 4\r\n\r\n", "hello", false),
            ("l: 4\nl: x\n\n", "body", false),
            ("l: 2\n\r", "\r\n", false),
            ("l: 18\r\nX: b\n\n", "foo\r\nl: 5\r\n\r\nhello", true),
            ("X: b\nl: 3\r\nl: 3\r\n\r\n", "hey", true),
            ("X: b\nl: 4\r\n\r\n", "body", true),
            ("l: 4\r\n\r\n", "b\n\nd", true),
        ] {
            let came = format!("{head}{lines}{body}");
            let stream = [came.as_bytes(), INVITE, INVITE].concat();
            for chunk in [1, 3, stream.len()] {
                let mut framer = Framer::new(Limits::default());
                framer.sees_bare_lf();
                let mut all = Vec::new();
                for piece in stream.chunks(chunk) {
                    framer.push(piece);
                    all.extend(frames(&mut framer).unwrap_or_else(|error| panic!("{came:?}: {error:?}")));
                }
                let first = all.remove(0);
                assert_eq!(all, [message(INVITE), message(INVITE)], "{came:?} in pieces of {chunk}");
                match first {
                    Frame::Message(bytes) => assert!(is_message && bytes == came, "{came:?}"),
                    Frame::BareLf(lines) => {
                        assert!(!is_message && lines.starts_with(head.as_bytes()), "{came:?}");
                        assert!(lines.ends_with(b"\r\n\r\n") && !lines.windows(2).any(|two| two == b"\n\n"));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        for doubtful in [
            "X: y\n\n",
            "l: x\n\n",
            "To: x\rl: 4\r\nl: 0\r\n\r\n",
            "To: x\rl: 4\r\nl: 0\n\n",
            "l: 2\r\nTo: x\r\r\nX: y\r\n\r\n",
        ] {
            let mut framer = Framer::new(Limits::default());
            framer.sees_bare_lf();
            framer.push(format!("{head}{doubtful}body").as_bytes());
            assert!(framer.next_frame().is_err(), "{doubtful:?}");
        }
        for long in ["l: 5\r\n\n", "l: 5\r\nl: 7\r\n\r\n", "l: 5\n\r\n"] {
            let came = format!("{head}{}{long}hello", FILLING.repeat(5_000));
            let stream = [came.as_bytes(), INVITE].concat();
            for chunk in [1, 1_000, stream.len()] {
                let mut framer = Framer::new(Limits::default());
                framer.sees_bare_lf();
                let mut all = Vec::new();
                for piece in stream.chunks(chunk) {
                    framer.push(piece);
                    all.extend(frames(&mut framer).unwrap_or_else(|error| panic!("{long:?}: {error:?}")));
                }
                assert!(matches!(all.remove(0), Frame::TooLong(_)), "{long:?}");
                assert_eq!(all, [message(INVITE)], "{long:?} in pieces of {chunk}");
            }
        }
    }

    #[test]
    fn a_cr_alone_that_ends_a_line_for_some_puts_a_length_in_doubt_where_they_find_another() {
        let framed = |lines: &str| fed(&[format!("INVITE sip:a@b SIP/2.0\r\n{lines}\r\n\r\nbody").as_bytes()]);
        for harmless in ["X: a\rb\r\nl: 4", "l: 4\r\nTo: \"a\rb\" <sip:a@b>", "l: 4\r\nX: y\r"] {
            assert!(framed(harmless).is_ok() || harmless.ends_with('\r'), "{harmless:?}");
        }
        for doubtful in ["To: x\rl: 40\r\nl: 4", "l: 4\r\nTo: x\rl: 5", "l: 4\r\nTo: x\r\r\nX: y", "l: 4\r\n\rX: y"] {
            assert!(framed(doubtful).is_err(), "{doubtful:?}");
        }
    }

    #[test]
    fn a_message_with_an_odd_first_byte_is_framed_on_a_stream_that_others_share() {
        for odd in ["@FOO", "(X", "\u{e9}X", "/", " X", "\tX", "\u{1}", "\u{7f}", "\0"] {
            let text = format!("{odd} sip:a@b SIP/2.0\r\nl: 4\r\n\r\nbody");
            assert_eq!(fed(&[text.as_bytes()]), Err(FrameError::NotSip), "{odd}");
            let mut framer = Framer::new(Limits::default());
            framer.is_of_server();
            framer.push(text.as_bytes());
            framer.push(INVITE);
            let text = text.trim_start_matches([' ', '\t', '\0']);
            assert_eq!(frames(&mut framer), Ok(vec![message(text.as_bytes()), message(INVITE)]), "{odd}");
            for before in ["\n", "\r\0", " \t\0\n"] {
                framer.push(before.as_bytes());
                framer.push(INVITE);
                assert_eq!(frames(&mut framer), Ok(vec![message(INVITE)]), "{before:?}");
            }
        }
    }
}
