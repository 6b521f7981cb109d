//! The length of the body behind a stream's head: the one length that all who read the head find (RFC 3261 §18.3, §20.14).
//!
//! Invariant: an odd head is measured only where all who read it come to the same end of the message: a stream from a SIP server carries
//! what strangers wrote, and a length that two read otherwise is how a forged request is smuggled in. One exception: behind an empty line of LF
//! alone, which those who see LF (Kamailio) measure from, the last length of those who see CRLF alone counts, where both come to the same end by
//! it. The first line names no length, whatever its method is. A head is read in pieces of any size, with the same result as in one.

use memchr::{memchr, memchr_iter};

use super::grammar::trim_bytes;
use super::head_reader::{Breaks, HeadReader};
use super::{Name, parse};

/// Reason why the end of a message is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InDoubt {
    /// No length is there, or what is there is none, or those who read it find two.
    Length,
    /// Some end the head before others do, and come to another end of the message.
    Head,
}

/// The one `Content-Length` of a head, in its long or compact form. A line may end with a bare LF, as some peers and callers
/// write it, where all who read it find the same length and the same end.
pub(super) fn of_head(head: &[u8]) -> Result<usize, InDoubt> {
    if has_lone_cr(head) { with_lone_cr(head) } else { without_lone_cr(head) }
}

fn without_lone_cr(head: &[u8]) -> Result<usize, InDoubt> {
    let mut found = None;
    let mut at = memchr(b'\n', head).map_or(head.len(), |end| end + 1);
    let mut is_whole = head[..at].ends_with(b"\r\n");
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

/// Likewise, for a head with a CR alone: readers that end a line at it come to the same length as the others.
#[cold]
fn with_lone_cr(head: &[u8]) -> Result<usize, InDoubt> {
    let body = without_lone_cr(head)?;
    let mut reader = HeadReader::new(Breaks::Cr);
    let is_same = reader.read(head) && reader.bytes() == head.len() && says(&reader, body);
    is_same.then_some(body).ok_or(InDoubt::Head)
}

/// Whether a reader finds this length alone.
fn says(reader: &HeadReader, body: usize) -> bool {
    !reader.differ() && reader.lengths().is_some_and(|(_, last)| last == Some(body))
}

/// Whether a CR stands alone in it.
fn has_lone_cr(head: &[u8]) -> bool {
    memchr_iter(b'\r', head).any(|at| head.get(at + 1).is_some_and(|next| *next != b'\n'))
}

/// The value of a line that is named `Content-Length`.
fn length_line(line: &[u8]) -> Option<&[u8]> {
    let colon = memchr(b':', line)?;
    is_length_name(&line[..colon]).then(|| &line[colon + 1..])
}

fn is_length_name(name: &[u8]) -> bool {
    Name::from_bytes(name.trim_ascii_end()) == Name::ContentLength
}

/// The length behind a head with a length that is folded, repeated or beside a bare LF, or with an empty line that ends with LF alone.
#[cold]
fn odd(head: &[u8]) -> Result<usize, InDoubt> {
    let mut lengths = Lengths::default();
    lengths.read(head);
    lengths.by_lines()
}

/// The lengths that the readers of a head find, which comes piece by piece.
#[derive(Debug)]
pub(super) struct Lengths {
    of_crlf: HeadReader,
    of_lf: HeadReader,
    /// The reader that ends a line at a CR alone, too; and whether there is one.
    of_cr: HeadReader,
    has_lone_cr: bool,
    was_cr: bool,
}

impl Default for Lengths {
    fn default() -> Self {
        Self {
            of_crlf: HeadReader::new(Breaks::Crlf),
            of_lf: HeadReader::new(Breaks::Lf),
            of_cr: HeadReader::new(Breaks::Cr),
            has_lone_cr: false,
            was_cr: false,
        }
    }
}

impl Lengths {
    /// Reads the next piece of the head, which ends with the first empty line of CRLF.
    pub(super) fn read(&mut self, piece: &[u8]) {
        let Some((first, last)) = piece.first().zip(piece.last()) else { return };
        self.has_lone_cr |= self.was_cr && *first != b'\n' || has_lone_cr(piece);
        self.was_cr = *last == b'\r';
        self.of_crlf.read(piece);
        self.of_lf.read(piece);
        self.of_cr.read(piece);
    }

    /// The length of the body behind the head that was read: that which those who see CRLF alone, those who see LF and, where there is one, those
    /// who see a CR alone come to the same end by.
    ///
    /// # Errors
    /// [`InDoubt`].
    pub(super) fn body(&self) -> Result<usize, InDoubt> {
        let body = self.by_lines()?;
        let is_same = !self.has_lone_cr || self.of_cr.bytes() == self.of_crlf.bytes() && says(&self.of_cr, body);
        is_same.then_some(body).ok_or(InDoubt::Head)
    }

    /// Likewise, for the readers that do not end a line at a CR alone. Where one of them finds no length, the other's counts: a message without a
    /// length has no end on a stream, so no peer sends one.
    fn by_lines(&self) -> Result<usize, InDoubt> {
        let (crlf, lf) = (&self.of_crlf, &self.of_lf);
        let of_crlf = crlf.lengths().ok_or(InDoubt::Length)?.1;
        let of_lf = lf.lengths().ok_or(InDoubt::Length)?.1;
        if lf.bytes() < crlf.bytes() {
            // A server that reads so, and passes on a caller's message, has measured from its empty line. A reader that ends lines at CRLF alone must
            // come to the same end by the length next to the body; with another length beside it, the server would not have sent this.
            let ends = of_crlf.map(|body| crlf.bytes() + body).zip(of_lf.map(|body| lf.bytes() + body));
            let is_same = ends.is_some_and(|(one, other)| one == other && !lf.differ());
            return of_crlf.filter(|_| is_same).ok_or(InDoubt::Head);
        }
        match (of_crlf, of_lf) {
            _ if crlf.differ() || lf.differ() => Err(InDoubt::Length),
            (Some(one), Some(other)) if one != other => Err(InDoubt::Length),
            (one, other) => one.or(other).ok_or(InDoubt::Length),
        }
    }
}
