//! The order of a client's REGISTERs (RFC 3261 §10.3 step 7).
//!
//! Invariant: REGISTERs of different clients have no order.

use std::hash::{DefaultHasher, Hasher as _};

use crate::message::Message;

/// The place of a REGISTER among those of its client.
#[derive(Clone, Copy, Debug)]
pub(in crate::endpoint) struct RegisterOrder {
    /// A hash of the Call-ID: a client that finds two with the same one is harmed by itself.
    client: u64,
    number: u32,
}

impl RegisterOrder {
    pub(super) fn of(register: &Message) -> Option<Self> {
        let mut client = DefaultHasher::new();
        client.write(register.call_id()?.as_bytes());
        Some(Self { client: client.finish(), number: register.cseq()?.0 })
    }

    /// Whether this one was sent before another one.
    pub(super) fn is_before(self, other: Self) -> bool {
        self.client == other.client && self.number < other.number
    }
}
