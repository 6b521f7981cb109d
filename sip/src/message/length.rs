//! How long the body behind a stream's head is: the one length that all who read the head find (RFC 3261 §18.3, §20.14).
//!
//! Invariant: an odd head is measured only where all who read it come to the same end of the message: a stream from a SIP server carries
//! what strangers wrote, and a length that two read otherwise is how a forged request is smuggled in. One exception: behind an empty line of LF
//! alone, which those who see LF (Kamailio) measure from, the last length of those who see CRLF alone counts, where both come to the same end by
//! it. A head is read in pieces of any size, with the same result as in one; of it at most [`LINE_KEPT`] bytes are kept for each
//! kind of reader.

use memchr::{memchr, memchr_iter, memmem};

use super::grammar::trim_bytes;
use super::{Name, parse};

/// Why nobody can tell where a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InDoubt {
    /// No length is there, or what is there is none, or those who read it find two.
    Length,
    /// Some end the head before others do, and come to another end of the message.
    Head,
}

/// Bytes of a line that are kept to be read; a length that goes beyond them is in doubt.
const LINE_KEPT: usize = 4 * 1024;

/// The one `Content-Length` of a head, in its long or compact form. A line may end with a bare LF, as some peers and callers
/// write it, where all who read it find the same length and the same end.
pub(super) fn of_head(head: &[u8]) -> Result<usize, InDoubt> {
    if has_lone_cr(head) { with_lone_cr(head) } else { without_lone_cr(head) }
}

fn without_lone_cr(head: &[u8]) -> Result<usize, InDoubt> {
    let mut found = None;
    let (mut at, mut is_whole) = (0, true);
    while let Some(end) = memchr(b'\n', &head[at..]) {
        let line = &head[at..at + end];
        at += end + 1;
        let begins_whole = std::mem::replace(&mut is_whole, line.ends_with(b"\r"));
        if at < head.len() && matches!(line, b"" | b"\r") {
            return odd(head);
        }
        // Most lines are told apart by their first letter.
        if !matches!(line.first(), Some(b'l' | b'L' | b'c' | b'C')) {
            continue;
        }
        let Some(value) = length_line(line) else {
            if is_length_name(line) {
                // Its colon is on the next line.
                return odd(head);
            }
            continue;
        };
        let in_doubt = !begins_whole || !is_whole || matches!(head.get(at), Some(b' ' | b'\t')) || found.is_some();
        found = parse::length(trim_bytes(value)).filter(|_| !in_doubt);
        if found.is_none() {
            return odd(head);
        }
    }
    found.ok_or(InDoubt::Length)
}

/// Likewise, for a head with a CR alone: where that ends a line for some, they come to the same.
#[cold]
fn with_lone_cr(head: &[u8]) -> Result<usize, InDoubt> {
    let body = without_lone_cr(head)?;
    let mut reader = Reader::new(Breaks::Lf);
    reader.read(&broken_at_each_cr(head))?;
    reader.finish()?;
    let is_same = reader.read == head.len() && reader.length == Some(body) && !reader.differ;
    is_same.then_some(body).ok_or(InDoubt::Head)
}

/// Whether a CR stands alone in it.
pub(super) fn has_lone_cr(head: &[u8]) -> bool {
    memchr_iter(b'\r', head).any(|at| head.get(at + 1).is_some_and(|next| *next != b'\n'))
}

/// The same bytes, where a CR that stands alone is a LF.
fn broken_at_each_cr(head: &[u8]) -> Vec<u8> {
    let mut broken = head.to_vec();
    for at in memchr_iter(b'\r', head) {
        if head.get(at + 1).is_some_and(|next| *next != b'\n') {
            broken[at] = b'\n';
        }
    }
    broken
}

/// The length behind a head that ends where those who see bare LFs find an empty line: the first one, which Kamailio corrects, and it passes on what
/// else there is.
pub(super) fn by_lf(head: &[u8]) -> Result<usize, InDoubt> {
    let body = first_by_lf(head)?;
    let last = head.len() - 1;
    if has_lone_cr(&head[..last]) {
        // What to some ends by it must not begin with another length, nor end the head.
        let broken = broken_at_each_cr(&head[..last]);
        let ends_before = broken.windows(2).any(|two| two == b"\n\n") || memmem::find(&broken, b"\n\r\n").is_some();
        if ends_before || first_by_lf(&broken)? != body {
            return Err(InDoubt::Head);
        }
    }
    Ok(body)
}

fn first_by_lf(head: &[u8]) -> Result<usize, InDoubt> {
    let mut start = 0;
    for at in memchr_iter(b'\n', head) {
        if matches!(head.get(at + 1), Some(b' ' | b'\t')) {
            continue;
        }
        let line = &head[std::mem::replace(&mut start, at + 1)..at];
        if let Some(value) = length_line(line) {
            return parse::length(trim_bytes(value)).ok_or(InDoubt::Length);
        }
    }
    Err(InDoubt::Length)
}

/// The end of the first empty line, for who sees bare LFs: to Kamailio a CR alone is one, too.
pub(super) fn end_by_lf(bytes: &[u8]) -> Option<usize> {
    memchr_iter(b'\n', bytes).find_map(|at| match &bytes[at + 1..] {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        [b'\r', _, ..] => Some(at + 2),
        _ => None,
    })
}

/// What stands behind the colon of a line that is named `Content-Length`.
fn length_line(line: &[u8]) -> Option<&[u8]> {
    let colon = memchr(b':', line)?;
    is_length_name(&line[..colon]).then(|| &line[colon + 1..])
}

fn is_length_name(name: &[u8]) -> bool {
    Name::from_bytes(name.trim_ascii_end()) == Name::ContentLength
}

/// Which line breaks of a head a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Breaks {
    /// CRLF alone, as RFC 3261 §7 has it.
    Crlf,
    /// A bare LF, too, as many a server does.
    Lf,
}

/// The length behind a head with a length that is folded, repeated or beside a bare LF, or with an empty line that ends with LF alone.
#[cold]
fn odd(head: &[u8]) -> Result<usize, InDoubt> {
    let mut lengths = Lengths::default();
    lengths.read(head)?;
    lengths.body()
}

/// The lengths that the readers of a head find, which comes piece by piece.
#[derive(Debug)]
pub(super) struct Lengths {
    of_crlf: Reader,
    of_lf: Reader,
    /// That of those to whom a CR alone ends a line, too; and whether there is one.
    of_cr: Reader,
    has_lone_cr: bool,
}

impl Default for Lengths {
    fn default() -> Self {
        Self {
            of_crlf: Reader::new(Breaks::Crlf),
            of_lf: Reader::new(Breaks::Lf),
            of_cr: Reader::new(Breaks::Lf),
            has_lone_cr: false,
        }
    }
}

impl Lengths {
    /// Reads the next piece of the head, which ends with the first empty line of CRLF.
    ///
    /// # Errors
    /// [`InDoubt::Length`].
    pub(super) fn read(&mut self, piece: &[u8]) -> Result<(), InDoubt> {
        self.of_crlf.read(piece)?;
        self.of_lf.read(piece)
    }

    /// Reads the next `length` bytes, with what follows them as far as it is known, for those to whom a CR alone ends a line.
    pub(super) fn read_by_cr(&mut self, ahead: &[u8], length: usize) -> Result<(), InDoubt> {
        self.has_lone_cr |= has_lone_cr(ahead);
        self.of_cr.read(&broken_at_each_cr(ahead)[..length])
    }

    /// Reads it for those alone who see bare LFs.
    pub(super) fn read_by_lf(&mut self, piece: &[u8]) -> Result<(), InDoubt> {
        self.of_lf.read(piece)
    }

    /// The first length that those find.
    pub(super) fn body_by_lf(&mut self) -> Result<usize, InDoubt> {
        self.of_lf.finish()?;
        self.of_lf.first.ok_or(InDoubt::Length)
    }

    /// The length of the body behind the head that was read: that which those who see CRLF alone and those who see LF come to the same end
    /// by. Where one of them finds none, the other's counts: what is without a length has no end on a stream, so nobody sends it so.
    ///
    /// # Errors
    /// [`InDoubt`].
    pub(super) fn body(&mut self) -> Result<usize, InDoubt> {
        let body = self.body_by_lines()?;
        if self.has_lone_cr {
            self.of_cr.finish()?;
            let Reader { read, length, differ, .. } = &self.of_cr;
            if *read != self.of_crlf.read || *length != Some(body) || *differ {
                return Err(InDoubt::Head);
            }
        }
        Ok(body)
    }

    fn body_by_lines(&mut self) -> Result<usize, InDoubt> {
        self.of_crlf.finish()?;
        self.of_lf.finish()?;
        let (of_crlf, of_lf) = (&self.of_crlf, &self.of_lf);
        if of_lf.read < of_crlf.read {
            // A server that reads so, and passes on what a caller wrote, has measured from its empty line. Whoever sees CRLF alone must come
            // to its end by the length next to the body; with another one beside it, it would not have sent this.
            let ends = of_crlf.end().zip(of_lf.end()).filter(|(one, other)| one == other && !of_lf.differ);
            return ends.and(of_crlf.length).ok_or(InDoubt::Head);
        }
        match (of_crlf.length, of_lf.length) {
            _ if of_crlf.differ || of_lf.differ => Err(InDoubt::Length),
            (Some(one), Some(other)) if one != other => Err(InDoubt::Length),
            (one, other) => one.or(other).ok_or(InDoubt::Length),
        }
    }
}

/// One kind of reader.
#[derive(Debug)]
struct Reader {
    breaks: Breaks,
    /// The bytes of the head, as far as it was read.
    read: usize,
    /// Its empty line was read.
    is_over: bool,
    /// The beginning of the line that is read, with its foldings.
    line: Vec<u8>,
    /// More of that line came than is kept.
    is_cut: bool,
    /// The last byte was a CR.
    is_cr: bool,
    /// The last byte was a line break, and what follows tells whether the line is folded there.
    is_break: bool,
    /// The first length, and the last.
    first: Option<usize>,
    length: Option<usize>,
    /// Whether another one says otherwise.
    differ: bool,
}

impl Reader {
    fn new(breaks: Breaks) -> Self {
        Self {
            breaks,
            read: 0,
            is_over: false,
            line: Vec::new(),
            is_cut: false,
            is_cr: false,
            is_break: false,
            first: None,
            length: None,
            differ: false,
        }
    }

    fn read(&mut self, mut piece: &[u8]) -> Result<(), InDoubt> {
        while let Some(next) = piece.first().filter(|_| !self.is_over) {
            if std::mem::take(&mut self.is_break) && !matches!(next, b' ' | b'\t') {
                self.judge_line()?;
                continue;
            }
            let end = memchr(b'\n', piece).map_or(piece.len(), |at| at + 1);
            let (part, rest) = piece.split_at(end);
            let kept = part.len().min(LINE_KEPT - self.line.len());
            self.line.extend_from_slice(&part[..kept]);
            self.is_cut |= kept < part.len();
            self.read += part.len();
            let is_cr = if part == b"\n" { self.is_cr } else { part.ends_with(b"\r\n") };
            self.is_break = part.ends_with(b"\n") && (self.breaks == Breaks::Lf || is_cr);
            self.is_cr = part.ends_with(b"\r");
            piece = rest;
        }
        Ok(())
    }

    /// Nothing follows.
    fn finish(&mut self) -> Result<(), InDoubt> {
        if std::mem::take(&mut self.is_break) { self.judge_line() } else { Ok(()) }
    }

    /// A line is whole. A value that goes on behind a bare LF is none for whoever does not see it.
    fn judge_line(&mut self) -> Result<(), InDoubt> {
        let is_cut = std::mem::take(&mut self.is_cut);
        let line = if is_cut { &self.line[..] } else { &self.line[..self.line.len() - 1] };
        if matches!(line, b"" | b"\r") {
            self.is_over = true;
        } else if let Some(value) = length_line(line).map(trim_bytes) {
            match parse::length(value).filter(|_| !is_cut) {
                None if memchr(b'\n', value).is_some() && self.breaks == Breaks::Crlf => {}
                None => return Err(InDoubt::Length),
                Some(found) => {
                    self.first.get_or_insert(found);
                    self.differ |= self.length.replace(found).is_some_and(|before| before != found);
                }
            }
        } else if is_cut && is_length_name(line) {
            return Err(InDoubt::Length);
        }
        self.line.clear();
        Ok(())
    }

    /// Where the message ends.
    fn end(&self) -> Option<usize> {
        Some(self.read + self.length?)
    }
}
