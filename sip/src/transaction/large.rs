//! Requests that are too large for a datagram, and how they go (RFC 3261 §18.1.1).
//!
//! | a request by TCP | no response has come | a response has come |
//! | --- | --- | --- |
//! | no stream opens | by UDP, whose Via it gets, and whose timers begin | – |
//! | its stream ends | again, by another stream: the same bytes, and so the same request there (§17.2.3) | – |
//! | that one ends, too | by UDP | – |
//!
//! How a request goes is chosen when it is sent first; it is not sent again while its stream stands. Its CANCEL and the ACK of its refusal go
//! the same way, for they have its Via (§9.1, §17.1.1.3). The ACK of a 2xx has no transaction, and nothing of it is kept: it goes by UDP where no
//! stream has opened of late, as when its 2xx comes again because it was lost.
//!
//! Invariant: what is changed is the transport that the topmost Via names, and nothing else.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;

use super::Reliability;
use crate::id::FlowId;

/// Bytes above which a request must not go by UDP where the path's MTU is not known (RFC 3261 §18.1.1).
const DATAGRAM_BYTES: usize = 1300;

/// Addresses without a stream that are remembered; ACKs to a further one are sent by a stream each time.
const REFUSING_MAX: usize = 1024;

const DATAGRAM: &[u8; 12] = b"SIP/2.0/UDP ";
const STREAM: &[u8; 12] = b"SIP/2.0/TCP ";

/// How a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// The request goes by its flow.
    Flow,
    /// The request goes by TCP, to the address of its datagram flow.
    Stream,
    /// Likewise, by another stream than at first.
    AnotherStream,
}

/// The flow of a request, and how it goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) flow: FlowId,
    pub(super) way: Carrier,
}

impl Line {
    /// Whether it is TCP beside a flow of datagrams.
    pub(super) fn is_beside(self) -> bool {
        self.way != Carrier::Flow
    }

    /// Whether something may be lost on it.
    pub(super) fn reliability(self) -> Reliability {
        if self.is_beside() { Reliability::Reliable } else { Reliability::of(self.flow) }
    }
}

/// The request as it goes by TCP; `None` when it may go by UDP, or is no request that was written for UDP.
pub(super) fn by_stream(request: &Bytes) -> Option<Bytes> {
    if request.len() <= DATAGRAM_BYTES || request.starts_with(b"SIP/2.0 ") {
        return None;
    }
    with_transport(request, DATAGRAM, STREAM)
}

/// A request from [`by_stream`] in its form for UDP, by which it goes after all.
pub(super) fn by_datagram(request: &Bytes) -> Bytes {
    with_transport(request, STREAM, DATAGRAM).unwrap_or_else(|| request.clone())
}

fn with_transport(request: &Bytes, before: &[u8; 12], after: &[u8; 12]) -> Option<Bytes> {
    // The topmost Via is the first place that says so; a request line and what else may stand above hold no such words.
    let at = memchr::memmem::find(request, before)?;
    let mut bytes = request.to_vec();
    bytes[at..at + after.len()].copy_from_slice(after);
    Some(bytes.into())
}

/// The requests that went by TCP and have no response yet, by the address that they went to.
#[derive(Debug)]
pub(super) struct Unheard<K>(HashMap<SocketAddr, BTreeSet<K>>);

impl<K: Copy + Ord> Unheard<K> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Adds a request that goes by TCP.
    pub(super) fn add(&mut self, line: Line, key: K) {
        if let (true, FlowId::Datagram(peer)) = (line.is_beside(), line.flow) {
            self.0.entry(peer).or_default().insert(key);
        }
    }

    pub(super) fn remove(&mut self, line: Line, key: K) {
        if let (true, FlowId::Datagram(peer)) = (line.is_beside(), line.flow)
            && let Some(keys) = self.0.get_mut(&peer)
            && keys.remove(&key)
            && keys.is_empty()
        {
            self.0.remove(&peer);
        }
    }

    /// Takes out the requests to this address.
    pub(super) fn take(&mut self, peer: SocketAddr) -> BTreeSet<K> {
        self.0.remove(&peer).unwrap_or_default()
    }
}

/// The addresses at which no stream has opened, each with the moment until which that is believed.
#[derive(Debug, Default)]
pub(super) struct Refusing(HashMap<SocketAddr, Instant>);

impl Refusing {
    pub(super) fn add(&mut self, now: Instant, peer: SocketAddr, until: Instant) {
        if self.0.len() >= REFUSING_MAX {
            #[expect(clippy::disallowed_methods, reason = "each is judged by itself")]
            self.0.retain(|_, until| *until > now);
        }
        if self.0.len() < REFUSING_MAX {
            self.0.insert(peer, until);
        }
    }

    pub(super) fn has(&self, now: Instant, peer: SocketAddr) -> bool {
        self.0.get(&peer).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(body: usize) -> Bytes {
        let head = "REGISTER sip:a SIP/2.0\r\nVia: SIP/2.0/UDP r:5070;branch=z9hG4bK1\r\nVia: SIP/2.0/UDP d\r\n\r\n";
        format!("{head}{}", "x".repeat(body)).into()
    }

    #[test]
    fn a_large_request_names_tcp_in_its_topmost_via_and_a_small_one_goes_by_udp() {
        let small = request(0).len();
        assert_eq!(by_stream(&request(DATAGRAM_BYTES - small)), None);
        let request = request(DATAGRAM_BYTES - small + 1);
        let large = by_stream(&request).unwrap();
        let text = std::str::from_utf8(&large).unwrap();
        assert!(text.contains("Via: SIP/2.0/TCP r:5070;branch=z9hG4bK1\r\nVia: SIP/2.0/UDP d\r\n"), "{text}");
        assert_eq!(by_datagram(&large), request);
    }

    #[test]
    fn a_response_goes_as_its_request_came() {
        let response = format!("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP d\r\n\r\n{}", "x".repeat(2000));
        assert_eq!(by_stream(&response.into()), None);
    }
}
