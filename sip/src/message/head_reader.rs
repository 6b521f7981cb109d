//! One way to read a head: which breaks end its lines, where it ends, and which lengths it names.
//!
//! Invariant: a head is read in pieces of any size, with the same result as in one; each byte is looked at once, and of the head no more is kept
//! than the beginning of a name and a number.

use bytes::Bytes;
use memchr::{memchr, memchr2};

use super::grammar::is_lws;

/// The breaks that end a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Breaks {
    /// CRLF alone, as RFC 3261 §7 has it.
    Crlf,
    /// A bare LF, too, as many a server does.
    Lf,
    /// A CR alone, too.
    Cr,
    /// The breaks of the parser of Kamailio and OpenSIPS, which decides what these pass on, and the length they give it: LF, and a CR alone in To and
    /// Via. A break that is escaped in the quoted display name of To is text, one CR after the first line is nothing, a CR that begins a line is an
    /// empty one, and a name without a colon goes on in the next line.
    Kamailio,
}

/// Reads one head.
#[derive(Debug)]
pub(super) struct HeadReader {
    breaks: Breaks,
    at: At,
    line: Line,
    name: Beginning,
    number: Number,
    /// The value of the line has begun.
    has_begun: bool,
    /// The last byte was a CR.
    was_cr: bool,
    read: usize,
    first: Option<usize>,
    last: Option<usize>,
    differ: bool,
    is_broken: bool,
}

/// The position of the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// At the beginning of a line.
    Start,
    /// Likewise, right behind the first line.
    BehindFirst,
    /// Behind a CR at the beginning of a line.
    EmptyLine,
    Name,
    /// In the first line, or behind a colon.
    Value,
    /// In a quoted display name.
    Quoted,
    /// Behind a backslash in it.
    Escaped,
    /// Behind a CR that ends the line, unless it is folded there.
    BehindCr,
    /// Likewise behind a LF.
    BehindLf,
    Over,
}

/// The kind of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    First,
    /// The name of the line is still read.
    Unnamed,
    To,
    Via,
    ContentLength,
    Other,
}

impl HeadReader {
    pub(super) fn new(breaks: Breaks) -> Self {
        Self {
            breaks,
            at: At::Value,
            line: Line::First,
            name: Beginning::default(),
            number: Number::default(),
            has_begun: false,
            was_cr: false,
            read: 0,
            first: None,
            last: None,
            differ: false,
            is_broken: false,
        }
    }

    /// Reads the next piece, as far as the head goes. Whether the head is over.
    pub(super) fn read(&mut self, piece: &[u8]) -> bool {
        let mut rest = piece;
        while let Some(next) = rest.first().filter(|_| self.at != At::Over) {
            let taken = self.step(*next, rest);
            rest = &rest[taken..];
            self.read += taken;
        }
        self.at == At::Over
    }

    /// The bytes of the head, as far as it was read.
    pub(super) fn bytes(&self) -> usize {
        self.read
    }

    /// Nothing follows: whether that ends the head, by the CR alone that was read last.
    pub(super) fn end_by_silence(&mut self) -> bool {
        let is_over = self.at == At::EmptyLine && matches!(self.breaks, Breaks::Cr | Breaks::Kamailio);
        if is_over {
            self.at = At::Over;
        }
        is_over
    }

    /// The first length, and the last. `None`: one of them is none; of servers the first counts alone.
    pub(super) fn lengths(&self) -> Option<(Option<usize>, Option<usize>)> {
        (!self.is_broken).then_some((self.first, self.last))
    }

    /// Whether one length says otherwise than another.
    pub(super) fn differ(&self) -> bool {
        self.differ
    }

    /// Takes a byte, or more where none of them matters; none, where another state is to look at it.
    fn step(&mut self, byte: u8, rest: &[u8]) -> usize {
        let kamailio = self.breaks == Breaks::Kamailio;
        match self.at {
            At::Over => 0,
            At::BehindFirst => {
                self.at = At::Start;
                usize::from(byte == b'\r' && (kamailio || self.breaks == Breaks::Cr))
            }
            At::Start => match byte {
                b'\n' if self.breaks != Breaks::Crlf => self.go(At::Over, 1),
                b'\r' => self.go(At::EmptyLine, 1),
                _ => self.begin_name(),
            },
            At::EmptyLine => match byte {
                b'\n' => self.go(At::Over, 1),
                _ if kamailio || self.breaks == Breaks::Cr => self.go(At::Over, 0),
                _ => {
                    self.begin_name();
                    self.name.push(b'\r');
                    0
                }
            },
            At::BehindCr if byte == b'\n' => self.go(At::BehindLf, 1),
            At::BehindCr | At::BehindLf => match byte {
                b' ' | b'\t' => self.go(if self.line == Line::Unnamed { At::Name } else { At::Value }, 0),
                _ if kamailio && self.line == Line::Unnamed && !matches!(byte, b'\r' | b'\n') => {
                    self.name = Beginning::OTHER;
                    self.go(At::Name, 0)
                }
                _ => self.end_line(),
            },
            At::Name => self.step_name(byte),
            At::Quoted => match byte {
                b'\\' => self.go(At::Escaped, 1),
                b'"' => self.go(At::Value, 1),
                b'\r' | b'\n' => self.go(At::Value, 0),
                _ => 1,
            },
            At::Escaped => self.go(At::Quoted, 1),
            At::Value => self.step_value(byte, rest),
        }
    }

    fn go(&mut self, at: At, taken: usize) -> usize {
        self.at = at;
        taken
    }

    fn begin_name(&mut self) -> usize {
        (self.line, self.name, self.was_cr) = (Line::Unnamed, Beginning::default(), false);
        self.go(At::Name, 0)
    }

    fn step_name(&mut self, byte: u8) -> usize {
        if byte == b':' {
            self.line = self.name.line();
            (self.number, self.has_begun, self.was_cr) = (Number::default(), false, false);
            return self.go(At::Value, 1);
        }
        if !self.breaks_at(byte) {
            self.name.push(byte);
        }
        1
    }

    fn step_value(&mut self, byte: u8, rest: &[u8]) -> usize {
        match self.line {
            Line::ContentLength => {
                self.number.push(byte);
                self.breaks_at(byte);
                return 1;
            }
            Line::To if self.breaks == Breaks::Kamailio && !self.has_begun && !is_lws(byte) => {
                self.has_begun = true;
                return if byte == b'"' { self.go(At::Quoted, 1) } else { 0 };
            }
            Line::To if self.breaks == Breaks::Kamailio && !self.has_begun => {
                self.breaks_at(byte);
                return 1;
            }
            _ => {}
        }
        let end = if self.sees_cr() { memchr2(b'\r', b'\n', rest) } else { memchr(b'\n', rest) };
        let text = &rest[..end.unwrap_or(rest.len())];
        if let Some(last) = text.last() {
            self.was_cr = *last == b'\r';
        }
        let Some(end) = end else { return rest.len() };
        self.breaks_at(rest[end]);
        end + 1
    }

    /// Whether a CR alone ends the line.
    fn sees_cr(&self) -> bool {
        match self.breaks {
            Breaks::Crlf | Breaks::Lf => false,
            Breaks::Cr => true,
            Breaks::Kamailio => matches!(self.line, Line::To | Line::Via),
        }
    }

    /// Whether the line ends with this byte.
    fn breaks_at(&mut self, byte: u8) -> bool {
        let was_cr = std::mem::replace(&mut self.was_cr, byte == b'\r');
        match byte {
            b'\n' if self.breaks != Breaks::Crlf || was_cr => self.at = At::BehindLf,
            b'\r' if self.sees_cr() => self.at = At::BehindCr,
            _ => return false,
        }
        true
    }

    /// The line is whole.
    fn end_line(&mut self) -> usize {
        let at = if self.line == Line::First { At::BehindFirst } else { At::Start };
        if self.line == Line::ContentLength {
            match self.number.value() {
                Some(found) => {
                    self.first.get_or_insert(found);
                    self.differ |= self.last.replace(found).is_some_and(|before| before != found);
                }
                // A value that continues after a bare LF is empty for a reader that does not see the LF as a break.
                None if self.breaks == Breaks::Crlf && self.number.has_break => {}
                None if self.breaks == Breaks::Kamailio && self.first.is_some() => {}
                None => self.is_broken = true,
            }
        }
        self.go(at, 0)
    }
}

/// The lines of a head as Kamailio and OpenSIPS see them, each with CRLF, and an empty line.
pub(super) fn with_crlf(head: &[u8]) -> Bytes {
    let mut reader = HeadReader::new(Breaks::Kamailio);
    let (mut lines, mut begin) = (Vec::with_capacity(head.len() + 2), 0);
    while let Some(next) = head.get(reader.read).filter(|_| reader.at != At::Over) {
        let was = reader.at;
        reader.read += reader.step(*next, &head[reader.read..]);
        match was {
            At::BehindCr | At::BehindLf if matches!(reader.at, At::Start | At::BehindFirst) => {
                lines.extend_from_slice(head[begin..reader.read].trim_ascii_end());
                lines.extend_from_slice(b"\r\n");
                begin = reader.read;
            }
            At::BehindFirst => begin = reader.read,
            _ => {}
        }
    }
    lines.extend_from_slice(b"\r\n");
    Bytes::from(lines)
}

/// The beginning of a name, as far as it tells which header it is.
#[derive(Clone, Copy, Debug, Default)]
struct Beginning {
    bytes: [u8; Self::KEPT],
    length: usize,
    /// White space was behind it.
    is_over: bool,
    is_other: bool,
}

impl Beginning {
    const KEPT: usize = "Content-Length".len();
    const OTHER: Self = Self { bytes: [0; Self::KEPT], length: 0, is_over: true, is_other: true };

    fn push(&mut self, byte: u8) {
        if byte.is_ascii_whitespace() && self.length > 0 {
            self.is_over = true;
        } else if self.is_over || self.length == Self::KEPT || byte.is_ascii_whitespace() {
            self.is_other = true;
        } else {
            self.bytes[self.length] = byte;
            self.length += 1;
        }
    }

    fn line(&self) -> Line {
        let is = |name: &[u8]| !self.is_other && self.bytes[..self.length].eq_ignore_ascii_case(name);
        match () {
            () if is(b"l") || is(b"Content-Length") => Line::ContentLength,
            () if is(b"t") || is(b"To") => Line::To,
            () if is(b"v") || is(b"Via") => Line::Via,
            () => Line::Other,
        }
    }
}

/// The value of a `Content-Length`: digits alone, with white space around them.
#[derive(Clone, Copy, Debug, Default)]
struct Number {
    digits: Option<u32>,
    /// White space is behind what was read.
    is_over: bool,
    is_none: bool,
    /// A LF was behind what was read, and something followed.
    has_break: bool,
    is_behind_break: bool,
}

impl Number {
    fn push(&mut self, byte: u8) {
        if is_lws(byte) {
            self.is_over = self.is_none || self.digits.is_some();
            self.is_behind_break |= self.is_over && byte == b'\n';
            return;
        }
        self.has_break |= self.is_behind_break;
        let digit = byte.is_ascii_digit().then(|| u32::from(byte.wrapping_sub(b'0')));
        let number = digit.and_then(|digit| self.digits.unwrap_or(0).checked_mul(10)?.checked_add(digit));
        match number {
            Some(number) if !self.is_over && !self.is_none => self.digits = Some(number),
            _ => self.is_none = true,
        }
    }

    fn value(&self) -> Option<usize> {
        self.digits.filter(|_| !self.is_none).map(|number| number as usize)
    }
}
