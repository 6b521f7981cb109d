//! The output of a shard: its connections, and the datagrams of one turn.
//!
//! Invariant: a connection that takes no more bytes is forgotten. Datagrams leave together at the end of their turn.

use std::collections::HashMap;
use std::net::SocketAddr;

use bytes::Bytes;
use sip::id::FlowId;

use crate::agent::transport::outbox::Writer;
use crate::net::udp::Udp;

#[derive(Default)]
pub(super) struct Outgoing {
    flows: HashMap<FlowId, (Writer, SocketAddr)>,
    datagrams: Vec<(SocketAddr, Bytes)>,
}

impl Outgoing {
    pub(super) fn opened(&mut self, flow: FlowId, writer: Writer, peer: SocketAddr) {
        self.flows.insert(flow, (writer, peer));
    }

    pub(super) fn closed(&mut self, flow: FlowId) {
        self.flows.remove(&flow);
    }

    /// Closes a connection from this side.
    pub(super) fn close(&mut self, flow: FlowId) {
        if let Some((writer, _)) = self.flows.remove(&flow) {
            writer.close();
        }
    }

    pub(super) fn writer(&self, flow: FlowId) -> Option<&Writer> {
        self.flows.get(&flow).map(|(writer, _)| writer)
    }

    /// The address that a flow leads to; `None`: it is closed.
    pub(super) fn peer_of(&self, flow: FlowId) -> Option<SocketAddr> {
        match flow {
            FlowId::Datagram(peer) => Some(peer),
            stream => self.flows.get(&stream).map(|(_, peer)| *peer),
        }
    }

    /// Sends bytes by a flow. Returns whether it takes them; a connection that does not is forgotten.
    pub(super) fn send(&mut self, flow: FlowId, bytes: Bytes) -> bool {
        if let FlowId::Datagram(peer) = flow {
            self.datagrams.push((peer, bytes));
            return true;
        }
        let is_taken = self.flows.get(&flow).is_some_and(|(writer, _)| writer.send(bytes));
        if !is_taken {
            self.flows.remove(&flow);
        }
        is_taken
    }

    /// Sends the datagrams of this turn. A lost one is retransmitted (RFC 3261 §17).
    pub(super) fn send_datagrams(&mut self, udp: &Udp, shard: usize) {
        udp.send_all(shard, &mut self.datagrams);
    }
}
