//! The only meeting place: inputs in, outputs out.

mod io;

pub use io::*;

use std::time::Instant;

use bytes::Bytes;

use crate::id::ShardTag;

/// One shard's SIP: registrations, held calls, attached devices.
#[derive(Debug)]
pub struct Endpoint {}

impl Endpoint {
    /// An endpoint with nothing in it. The seed makes every identifier, tag and nonce; it must be secret and random.
    pub fn new(_settings: Settings, _seed: [u8; 32]) -> Self {
        unimplemented!("being written by the lead")
    }
    /// One mutation. Drain [`Self::poll_output`] before the next.
    pub fn handle(&mut self, _now: Instant, _input: Input) {}
    /// Fires what is due at `now`.
    pub fn handle_timeout(&mut self, _now: Instant) {}
    /// When [`Self::handle_timeout`] must be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// What is to be done; `None` when all is told.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }
    /// The shard that a message belongs to, looked at without parsing it whole; `None`: any shard may answer it.
    pub fn shard_of(_message: &Bytes) -> Option<ShardTag> {
        None
    }
}
