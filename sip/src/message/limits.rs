//! What a message may cost.
//!
//! Invariant: each limit has a unit and a stated consequence.

/// Limits of one message. Beyond one of them a message is dropped, and a request is answered 400 or 513.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole message, head and body; 65,536 unless told.
    pub message_bytes: usize,
    /// Header lines; 128 unless told.
    pub headers: usize,
    /// Via values, over all lines; 32 unless told.
    pub vias: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes: 64 * 1024, headers: 128, vias: 32 }
    }
}
