//! Limits on the size of a message.
//!
//! Invariant: each limit has a unit and a stated consequence. A message accepted on one side does not fail on the other: a response may have the
//! parts of its request, those that this relay has added to the request on its way, and its sender's own.

/// Header lines that a response may have beyond a request: the four that this relay adds (a Via, two Record-Routes, Max-Forwards), and those of the
/// answering party. A registrar lists every Contact of its account (RFC 3261 §10.3 step 8), perhaps each on a line of its own: more than so many of
/// them are beyond the bytes as well.
pub const ADDED_HEADERS: usize = 1_920;
/// Via values that a response may have beyond a request: this relay's.
pub const ADDED_VIAS: usize = 1;
/// Bytes that a response may have beyond a request: those added to the request, and those of the answering party.
pub const ADDED_BYTES: usize = 16 * 1024;

/// Limits of one request. Beyond one of them it is dropped and answered 400, with the limit as its reason, or 513; a response is dropped beyond those
/// [of responses](Self::of_responses).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole message, head and body; 65,536 unless told.
    pub message_bytes: usize,
    /// Header lines; 512 unless told.
    pub headers: usize,
    /// Via values, over all lines; 72 unless told: a request has come over 70 hops at most (RFC 3261 §8.1.1.6).
    pub vias: usize,
}

impl Limits {
    /// Limits of a message that this relay has composed from one within its limits: it may have any size, and is read again.
    pub const COMPOSED: Self = Self { message_bytes: usize::MAX, headers: usize::MAX, vias: usize::MAX };

    /// The limits of responses.
    pub fn of_responses(&self) -> Self {
        Self {
            message_bytes: self.message_bytes.saturating_add(ADDED_BYTES),
            headers: self.headers.saturating_add(ADDED_HEADERS),
            vias: self.vias.saturating_add(ADDED_VIAS),
        }
    }

    /// The limits of a message that begins with these bytes.
    pub(super) fn of(&self, beginning: &[u8]) -> Self {
        // No method has a slash in it.
        let is_response = beginning.get(..4).is_some_and(|begins| begins.eq_ignore_ascii_case(b"SIP/"));
        if is_response { self.of_responses() } else { *self }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes: 64 * 1024, headers: 512, vias: 72 }
    }
}
