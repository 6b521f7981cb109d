//! The common part of the flows of both sides: pings, and the end of a stream.
//!
//! Invariant: everything that used a stream forgets it when it ends.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Instant;

use super::{Endpoint, Source, Transport};
use crate::flow::SignOfLife;
use crate::id::FlowId;

/// The streams by which SIP servers have sent something, and which requests of their dialogs may go by; each with the address at its other
/// end.
#[derive(Debug, Default)]
pub(super) struct FlowTable {
    upstream: HashMap<FlowId, (Transport, IpAddr)>,
    /// The flows among them that are read no more, and may still be written on.
    unread: HashSet<FlowId>,
}

impl FlowTable {
    pub(super) fn len(&self) -> usize {
        self.upstream.len()
    }

    /// The transport of a flow toward a SIP server; `None` when nothing can be asked by it any more.
    pub(super) fn transport_of(&self, flow: FlowId) -> Option<Transport> {
        match flow {
            FlowId::Datagram(_) => Some(Transport::Udp),
            FlowId::Stream(_) if self.unread.contains(&flow) => None,
            FlowId::Stream(_) => self.upstream.get(&flow).map(|(transport, _)| *transport),
        }
    }

    /// Records that a flow is read no more until it ends.
    pub(super) fn note_unread(&mut self, flow: FlowId) {
        if self.upstream.contains_key(&flow) {
            self.unread.insert(flow);
        }
    }

    /// Whether a flow is open, but read no more.
    pub(super) fn is_unread(&self, flow: FlowId) -> bool {
        self.unread.contains(&flow)
    }

    /// A SIP server has sent something by a flow.
    pub(super) fn note_upstream(&mut self, source: &Source) {
        if source.flow.is_reliable() {
            self.upstream.insert(source.flow, (source.transport, source.peer.ip()));
        }
    }
}

impl Endpoint {
    /// A stream has ended, whichever side it led to.
    pub(super) fn on_closed(&mut self, now: Instant, flow: FlowId) {
        let dialled = self.upstreams.address_of(flow);
        let of_server = self.flows.upstream.remove(&flow);
        self.flows.unread.remove(&flow);
        self.registers.forget_quota(flow);
        self.forget_waiting(now, flow);
        self.on_upstream_closed(now, flow);
        if let Some((transport, address)) = of_server {
            self.answer_elsewhere(now, flow, transport, address);
        }
        self.ask_by_next_flow(now, flow, of_server.map(|(_, address)| address).or(dialled));
        self.forget_unproven(flow);
        self.on_device_flow_closed(now, flow);
        self.lose_asked(now, flow);
    }

    /// Answers a double CRLF (RFC 5626 §4.4.1), of a device or of a SIP server.
    pub(super) fn on_ping(&mut self, now: Instant, source: Source) {
        self.on_sign_of_life(now, source.flow, SignOfLife::Ping);
        self.attachments.note_heard(source.flow);
        if source.flow.is_reliable() {
            self.core.send(source.flow, bytes::Bytes::from_static(b"\r\n"));
        }
    }
}
