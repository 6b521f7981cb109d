//! Messages that are written on a connection in one go.
//!
//! Invariant: nothing is copied, and a single message needs no memory. A batch is closed once it exceeds [`ROOM`] bytes: over TLS that is one record, or two.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// Bytes; as many as a TLS record carries (RFC 8446 §5.1).
const ROOM: usize = 16 * 1024;

/// Bytes that lie in several places.
#[derive(Default)]
pub(super) struct WriteBatch {
    first: Bytes,
    rest: VecDeque<Bytes>,
    length: usize,
}

impl WriteBatch {
    /// Adds what is written next.
    pub(super) fn add(&mut self, bytes: Bytes) {
        self.length += bytes.len();
        match () {
            () if bytes.is_empty() => {}
            () if self.first.is_empty() => self.first = bytes,
            () => self.rest.push_back(bytes),
        }
    }

    /// Whether one more message is taken in.
    pub(super) fn has_room(&self) -> bool {
        self.length < ROOM
    }
}

impl Buf for WriteBatch {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        &self.first
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let parts = std::iter::once(&self.first).chain(&self.rest).filter(|part| !part.is_empty());
        let filled = into.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part));
        filled.count()
    }

    fn advance(&mut self, mut count: usize) {
        self.length -= count;
        while count >= self.first.len() && !self.first.is_empty() {
            count -= self.first.len();
            self.first = self.rest.pop_front().unwrap_or_default();
        }
        self.first.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_leave_in_their_order_however_they_are_taken() {
        let parts = ["one", "", "two", "three"];
        for step in 1..=11 {
            let mut batch = WriteBatch::default();
            parts.iter().for_each(|part| batch.add(Bytes::from_static(part.as_bytes())));
            assert_eq!(batch.remaining(), 11);
            let mut slices = [IoSlice::new(&[]); 4];
            assert_eq!(batch.chunks_vectored(&mut slices), 3);
            let mut taken = Vec::new();
            while batch.has_remaining() {
                let count = step.min(batch.chunk().len());
                taken.extend_from_slice(&batch.chunk()[..count]);
                batch.advance(count);
            }
            assert_eq!(taken, b"onetwothree", "by {step}");
        }
        let mut batch = WriteBatch::default();
        parts.iter().for_each(|part| batch.add(Bytes::from_static(part.as_bytes())));
        batch.advance(7);
        assert_eq!((batch.chunk(), batch.remaining()), (&b"hree"[..], 4));
    }

    #[test]
    fn a_parcel_is_full_at_a_record() {
        let mut batch = WriteBatch::default();
        batch.add(Bytes::from(vec![0; ROOM - 1]));
        assert!(batch.has_room());
        batch.add(Bytes::from_static(b"x"));
        assert!(!batch.has_room());
    }
}
