//! A head that is too long to be kept, and passed over as it comes, so that the message behind it is found.
//!
//! Invariant: what is in doubt of a head that is kept is in doubt of one that is passed over.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

use super::length::{InDoubt, Lengths, end_by_lf, has_lone_cr};

/// How far a head was passed over.
pub(super) enum Passing {
    /// It goes on.
    Head,
    /// It is over, and its body has so many bytes.
    Body(usize),
    /// It or its body is longer than anything is passed over.
    TooLong,
}

/// A head, passed over as it comes.
#[derive(Debug)]
pub(super) struct LongHead {
    /// The server that writes it sees bare LFs.
    sees_lf: bool,
    lengths: Lengths,
    /// Bytes that were passed over.
    passed: usize,
}

impl LongHead {
    pub(super) fn new(sees_lf: bool) -> Self {
        Self { sees_lf, lengths: Lengths::default(), passed: 0 }
    }

    /// Takes what has come of the head out of `buffer`. At most `most` bytes of it are passed over, and as many of its body.
    pub(super) fn pass(&mut self, buffer: &mut BytesMut, most: usize) -> Result<Passing, InDoubt> {
        let end = match self.sees_lf {
            true => end_by_lf(buffer),
            false => memmem::find(buffer, b"\r\n\r\n").map(|at| at + 4),
        };
        // The beginning of an empty line may be here, and the rest of it not.
        let here = end.unwrap_or(buffer.len().saturating_sub(3));
        self.passed += here;
        if self.passed > most {
            return Ok(Passing::TooLong);
        }
        let read = &buffer[..here];
        let ahead = &buffer[..(here + 1).min(buffer.len())];
        match self.sees_lf {
            // The empty line may be a CR alone, and no other.
            true if !read.ends_with(b"\n\r") && has_lone_cr(ahead) => return Err(InDoubt::Head),
            true => self.lengths.read_by_lf(read)?,
            false => {
                self.lengths.read(read)?;
                self.lengths.read_by_cr(ahead, here)?;
            }
        }
        buffer.advance(here);
        if end.is_none() {
            // The room of what is passed is given back.
            *buffer = BytesMut::from(&buffer[..]);
            return Ok(Passing::Head);
        }
        let body = if self.sees_lf { self.lengths.body_by_lf()? } else { self.lengths.body()? };
        Ok(if body > most { Passing::TooLong } else { Passing::Body(body) })
    }
}

/// The lines of a head's beginning that are certainly whole, with all their foldings, and an empty line.
pub(super) fn whole_lines(beginning: &[u8]) -> Bytes {
    let is_end = |at: &usize| beginning.get(at + 2).is_some_and(|next| !matches!(next, b' ' | b'\t'));
    let end = memmem::rfind_iter(beginning, b"\r\n").find(is_end).map_or(0, |at| at + 2);
    Bytes::from([&beginning[..end], b"\r\n"].concat())
}
