//! The peer of a stream that has ended: its unanswered requests are answered by another stream (RFC 3261 §18.2.2).
//!
//! Invariant: an answer goes to the address that the stream came from, and to the port that its request's Via names.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::{Output, Transport};
use crate::id::UpstreamId;
use crate::message::{Limits, Message};

/// Streams of SIP servers that have ended before they were answered and are remembered; what a further one asked is answered by a flow that
/// there is, and else not.
pub(super) const RETURNS_MAX: usize = 4_096;

/// The other end of a SIP server's stream that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Return {
    pub(super) upstream: UpstreamId,
    pub(super) address: IpAddr,
    pub(super) transport: Transport,
}

impl Return {
    /// The output that sends a response by a stream which is opened for it; `None` for anything else.
    pub(super) fn answer(&self, bytes: &Bytes) -> Option<Output> {
        let response = Message::parse(bytes, &Limits::COMPOSED).ok().filter(|message| !message.is_request())?;
        let port = response.via()?.port.unwrap_or(self.transport.default_port());
        let peer = SocketAddr::new(self.address, port);
        Some(Output::Answer { upstream: self.upstream, peer, transport: self.transport, bytes: bytes.clone() })
    }
}
