//! A head that is too long to be kept, and passed over as it comes, so that the message behind it is found.
//!
//! Invariant: a head that is passed over is in doubt for the same reasons as one that is kept.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

use super::head_reader::{Breaks, HeadReader};
use super::length::{InDoubt, Lengths};

/// How far a head was passed over.
pub(super) enum Passing {
    /// The head continues.
    Head,
    /// The head is over, and its body has so many bytes.
    Body(usize),
    /// The head or the body is longer than anything is passed over.
    TooLong,
}

/// A head, passed over as it comes.
#[derive(Debug)]
pub(super) struct LongHead {
    reading: Reading,
    /// Bytes that were passed over.
    passed: usize,
}

#[derive(Debug)]
enum Reading {
    /// The lengths that all readers see.
    All(Box<Lengths>),
    /// The lengths that the server alone sees which writes the message, and sees bare LFs.
    Server(HeadReader),
}

impl LongHead {
    pub(super) fn new(is_by_lf: bool) -> Self {
        let reading =
            if is_by_lf { Reading::Server(HeadReader::new(Breaks::Kamailio)) } else { Reading::All(Box::default()) };
        Self { reading, passed: 0 }
    }

    /// Takes what has come of the head out of `buffer`. At most `most` bytes of it are passed over, and as many of its body.
    pub(super) fn pass(&mut self, buffer: &mut BytesMut, most: usize) -> Result<Passing, InDoubt> {
        let (here, body) = match &mut self.reading {
            Reading::Server(reader) => {
                let before = reader.bytes();
                let is_over = reader.read(buffer);
                (reader.bytes() - before, is_over.then(|| first_of(reader)))
            }
            Reading::All(lengths) => {
                let end = memmem::find(buffer, b"\r\n\r\n").map(|at| at + 4);
                // The beginning of an empty line may be here, and the rest of it not.
                let here = end.unwrap_or(buffer.len().saturating_sub(3));
                lengths.read(&buffer[..here]);
                (here, end.map(|_| lengths.body()))
            }
        };
        buffer.advance(here);
        self.passed += here;
        if self.passed > most {
            return Ok(Passing::TooLong);
        }
        let Some(body) = body.transpose()? else {
            // The room of what is passed is given back.
            *buffer = BytesMut::from(&buffer[..]);
            return Ok(Passing::Head);
        };
        Ok(if body > most { Passing::TooLong } else { Passing::Body(body) })
    }

    /// See [`super::Framer::end_by_silence`].
    pub(super) fn end_by_silence(&mut self) -> bool {
        match &mut self.reading {
            Reading::Server(reader) => end_by_silence(reader),
            Reading::All(_) => false,
        }
    }
}

/// Ends a head that is over if nothing follows, and has no body.
pub(super) fn end_by_silence(reader: &mut HeadReader) -> bool {
    first_of(reader) == Ok(0) && reader.end_by_silence()
}

/// The length by which a server ends its message: the first one, which Kamailio corrects; it passes on what else there is.
pub(super) fn first_of(reader: &HeadReader) -> Result<usize, InDoubt> {
    reader.lengths().and_then(|(first, _)| first).ok_or(InDoubt::Length)
}

/// The lines of a head's beginning that are certainly whole, with all their foldings, and an empty line.
pub(super) fn whole_lines(beginning: &[u8]) -> Bytes {
    let is_end = |at: &usize| beginning.get(at + 2).is_some_and(|next| !matches!(next, b' ' | b'\t'));
    let end = memmem::rfind_iter(beginning, b"\r\n").find(is_end).map_or(0, |at| at + 2);
    Bytes::from([&beginning[..end], b"\r\n"].concat())
}
