//! The settings of an endpoint.
//!
//! Invariant: the key of the flow tokens is not printed.

use std::fmt;
use std::time::Duration;

use crate::edge::forward::SentBy;
use crate::flow::{Side, Transport};
use crate::id::ShardTag;
use crate::message::{Limits, Via};
pub use crate::timing::Timing;

/// The settings of an endpoint; fixed for its life.
#[derive(Clone)]
pub struct Settings {
    /// A tag of this endpoint's own shard, for identifiers that belong to no binding.
    pub tag: ShardTag,
    /// `host:port` of the edge, as Record-Route and Via name it to devices.
    pub edge: Box<str>,
    /// `host:port` of the edge's WebSocket listener, likewise; that of the edge where there is none.
    pub edge_websocket: Box<str>,
    /// `host:port` for each upstream transport, as Contact, Via and Record-Route name it to SIP servers.
    pub upstream_udp: Box<str>,
    /// The same over TCP.
    pub upstream_tcp: Box<str>,
    /// The same over TLS.
    pub upstream_tls: Box<str>,
    /// The registration lifetime that REGISTER asks for; 5 s to 24 h, other values are clamped.
    pub register_expires: Duration,
    /// How long a call waits for its device; then 480.
    pub ring_timeout: Duration,
    /// How long a device may ring; then 408.
    pub answer_timeout: Duration,
    /// All waits of the protocol; tests scale them with [`Timing::scaled`].
    pub timing: Timing,
    /// Limits of one message.
    pub limits: Limits,
    /// The key that signs flow tokens; the same on every shard of a node and over its restarts.
    pub token_key: [u8; 32],
    /// The policy toward SIP servers.
    pub upstream: UpstreamPolicy,
    /// The largest body of a MESSAGE, in bytes; a larger one is answered 413.
    pub message_bytes: usize,
}

impl fmt::Debug for Settings {
    /// Shows nothing of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({}, {:?})", self.edge, self.upstream)
    }
}

/// The policy toward SIP servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamPolicy {
    /// Whether a digest may be made with MD5. Without it, an account whose SIP server offers nothing else is refused with
    /// the status of the challenge.
    pub allow_md5: bool,
    /// Whether a request that is too large for a datagram goes by TCP to a server that is reached by UDP (RFC 3261
    /// §18.1.1); where the operator forbids TCP it goes by UDP all the same.
    pub allow_tcp: bool,
    /// Registrations that may start in a second at one registrar, 1 or more, of this endpoint: an operator's figure for the node is divided by its
    /// shards. Further ones wait for their turn, so that no restart and no lost flow is a storm.
    pub registrations_per_second: u32,
}

impl Default for UpstreamPolicy {
    fn default() -> Self {
        Self { allow_md5: true, allow_tcp: false, registrations_per_second: 2000 }
    }
}

impl Settings {
    /// The name of this relay toward a flow.
    pub(super) fn sent_by(&self, side: Side, transport: Transport) -> SentBy<'_> {
        let host = match (side, transport) {
            (Side::Device, Transport::Wss) => &self.edge_websocket,
            (Side::Device, _) => &self.edge,
            (Side::Upstream, Transport::Udp) => &self.upstream_udp,
            (Side::Upstream, Transport::Tcp) => &self.upstream_tcp,
            (Side::Upstream, Transport::Tls | Transport::Wss) => &self.upstream_tls,
        };
        SentBy { host, transport }
    }

    /// The names of this relay in Contacts, in the order of [`CONTACT_TRANSPORTS`](crate::registration::request::CONTACT_TRANSPORTS).
    pub(super) fn contact_hosts(&self) -> [&str; 3] {
        [&self.upstream_udp, &self.upstream_tcp, &self.upstream_tls]
    }

    /// How long a request may wait for its final answer, and for the consequences of that.
    pub(super) fn answered_within(&self) -> Duration {
        self.ring_timeout + self.answer_timeout + self.timing.upstream.replaced
    }

    /// Whether the sent-by of a Via is one that the relay writes toward this side.
    pub(super) fn has_sent_by(&self, side: Side, via: &Via<'_>) -> bool {
        match side {
            Side::Device => via.is_sent_by(&self.edge) || via.is_sent_by(&self.edge_websocket),
            Side::Upstream => self.contact_hosts().iter().any(|name| via.is_sent_by(name)),
        }
    }

    /// All names of the relay.
    pub(super) fn own_addresses(&self) -> [&str; 5] {
        [&self.edge, &self.edge_websocket, &self.upstream_udp, &self.upstream_tcp, &self.upstream_tls]
    }
}
