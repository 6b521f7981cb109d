//! The network: datagrams that are lost, doubled and overtaken; streams that break, openly or in silence.
//!
//! Invariant: on a stream, bytes arrive in the order in which they were sent, or not at all; each side is told of its end once. Nothing is delivered
//! before it was sent.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sip::endpoint::{Endpoint, Input, Side, Source, Transport};
use sip::id::FlowId;
use sip::message::Message;

use super::agenda::{At, MINUTE, MS, S};
use super::registrar::Mood;
use super::world::{Happening, World};

/// The payload of a stream or a datagram.
#[derive(Clone, Debug)]
pub enum Frame {
    /// A SIP message.
    Message(Message),
    /// A double CRLF.
    Ping,
    /// A single CRLF.
    Pong,
}

/// The other end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The SIP server of this number.
    Registrar(usize),
    /// The phone of this slot.
    Phone(usize),
}

/// One stream between the relay and a peer.
#[derive(Debug)]
pub struct Stream {
    /// The other end.
    pub peer: Peer,
    /// The peer's end stands.
    pub peer_open: bool,
    relay_open: bool,
    /// Neither side's bytes arrive any more, and nobody has been told.
    hole: bool,
    /// Shards that have heard of it, a bit for each.
    told: u64,
    home: Option<usize>,
    /// The last arrival planned, in each direction.
    to_relay: At,
    to_peer: At,
}

/// All streams.
#[derive(Debug, Default)]
pub struct Network {
    streams: HashMap<u64, Stream>,
    opened: u64,
}

/// Of 1,000 datagrams, how many are lost on a good day.
const LOSS: u64 = 20;
/// The same on a bad one.
const LOSS_HEAVY: u64 = 300;
/// The most of large ones that are lost, in thousandths.
const LOSS_MAX: u64 = 600;
/// Bytes of a datagram that travel in one piece.
const FRAGMENT: u64 = 1_400;
/// Of 1,000 datagrams, how many come twice.
const DOUBLED: u64 = 10;
/// Of 1,000 datagrams, how many are overtaken by later ones.
const LATE: u64 = 20;

impl Network {
    /// A stream that either end still holds.
    pub fn stream(&self, flow: u64) -> Option<&Stream> {
        self.streams.get(&flow)
    }

    /// Whether bytes still pass between the two ends.
    pub fn is_alive(&self, flow: u64) -> bool {
        self.streams.get(&flow).is_some_and(|stream| stream.peer_open && stream.relay_open && !stream.hole)
    }

    /// Streams that either end still holds.
    pub fn open(&self) -> usize {
        self.streams.len()
    }
}

impl World {
    /// A new stream; `shard`: the one that dialled it.
    pub(super) fn open_stream(&mut self, peer: Peer, shard: Option<usize>) -> u64 {
        self.network.opened += 1;
        let told = shard.map_or(0, |shard| 1 << shard);
        let stream = Stream {
            peer,
            peer_open: true,
            relay_open: true,
            hole: false,
            told,
            home: shard,
            to_relay: self.agenda.now(),
            to_peer: self.agenda.now(),
        };
        self.network.streams.insert(self.network.opened, stream);
        self.network.opened
    }

    /// The relay sends on a stream; `false`: it is gone.
    pub(super) fn send_to_peer(&mut self, flow: u64, frame: Frame) -> bool {
        let delay = self.stream_delay();
        let Some(stream) = self.network.streams.get_mut(&flow).filter(|stream| stream.relay_open) else { return false };
        if stream.hole {
            // A stream whose data is never acknowledged ends after a while.
            let patience = self.random.between(2 * S, 2 * MINUTE);
            self.agenda.plan(patience, Happening::ClosedAtRelay(flow));
        } else if stream.peer_open {
            stream.to_peer = stream.to_peer.max(self.agenda.now() + delay);
            self.agenda.plan_at(stream.to_peer, Happening::ToPeer { flow, frame });
        }
        true
    }

    /// A peer sends on a stream; lost when the stream is gone.
    pub(super) fn send_to_relay(&mut self, flow: u64, frame: Frame) {
        let delay = self.stream_delay();
        let Some(stream) = self.network.streams.get_mut(&flow).filter(|stream| stream.peer_open && !stream.hole) else {
            return;
        };
        stream.to_relay = stream.to_relay.max(self.agenda.now() + delay);
        self.agenda.plan_at(stream.to_relay, Happening::ToRelay { flow, frame });
    }

    /// The peer closes; the relay learns it behind what was sent before.
    pub(super) fn close_by_peer(&mut self, flow: u64) {
        let delay = self.stream_delay();
        let Some(stream) = self.network.streams.get_mut(&flow).filter(|stream| stream.peer_open) else { return };
        stream.peer_open = false;
        let at =
            if stream.hole { self.agenda.now() + 5 * MINUTE } else { stream.to_relay.max(self.agenda.now() + delay) };
        self.agenda.plan_at(at, Happening::ClosedAtRelay(flow));
    }

    /// The peer is gone without a word; the relay learns it late.
    pub(super) fn vanish(&mut self, flow: u64) {
        let late = self.random.between(2 * S, 15 * MINUTE);
        let Some(stream) = self.network.streams.get_mut(&flow).filter(|stream| stream.peer_open) else { return };
        stream.peer_open = false;
        stream.hole = true;
        self.agenda.plan(late, Happening::ClosedAtRelay(flow));
    }

    /// The relay closes; the peer learns it behind what was sent before.
    pub(super) fn close_by_relay(&mut self, flow: u64) {
        let delay = self.stream_delay();
        let Some(stream) = self.network.streams.get_mut(&flow).filter(|stream| stream.relay_open) else { return };
        self.agenda.plan(MS, Happening::ClosedAtRelay(flow));
        if stream.peer_open && !stream.hole {
            self.agenda.plan_at(stream.to_peer.max(self.agenda.now() + delay), Happening::ClosedAtPeer(flow));
        }
    }

    pub(super) fn on_closed_at_relay(&mut self, flow: u64) {
        let Some(stream) = self.network.streams.get_mut(&flow).filter(|stream| stream.relay_open) else { return };
        stream.relay_open = false;
        let told = stream.told;
        if stream.peer_open {
            self.agenda.plan(20 * MS, Happening::ClosedAtPeer(flow));
        } else {
            self.network.streams.remove(&flow);
        }
        for shard in (0..self.relay.shards.len()).filter(|shard| told & 1 << shard != 0) {
            self.tell(shard, Input::Closed(FlowId::Stream(flow)));
        }
    }

    pub(super) fn on_closed_at_peer(&mut self, flow: u64) {
        let Some(stream) = self.network.streams.get_mut(&flow) else { return };
        let (peer, was_open) = (stream.peer, std::mem::replace(&mut stream.peer_open, false));
        if stream.relay_open {
            self.agenda.plan(MS, Happening::ClosedAtRelay(flow));
        } else {
            self.network.streams.remove(&flow);
        }
        if let (Peer::Phone(slot), true) = (peer, was_open) {
            self.phone_lost_flow(slot, flow);
        }
    }

    /// Passes a stream's payload to the relay: each message to its shard.
    pub(super) fn on_to_relay(&mut self, flow: u64, frame: Frame) {
        let shards = self.relay.shards.len();
        let Some(stream) = self.network.streams.get_mut(&flow).filter(|stream| stream.relay_open && !stream.hole)
        else {
            return;
        };
        let shard = match &frame {
            Frame::Message(message) => Endpoint::shard_of(message).map(|tag| tag.shard(shards)),
            Frame::Ping | Frame::Pong => None,
        };
        let shard = shard.or(stream.home).unwrap_or((flow % shards as u64) as usize);
        stream.home.get_or_insert(shard);
        stream.told |= 1 << shard;
        let (side, peer) = match stream.peer {
            Peer::Registrar(number) => (Side::Upstream, registrar_address(number)),
            Peer::Phone(_) => (Side::Device, SocketAddr::from((Ipv4Addr::new(203, 0, 113, 7), 40_000))),
        };
        // A device that comes back may come by the other door.
        let transport = if side == Side::Device && flow.is_multiple_of(3) { Transport::Wss } else { Transport::Tls };
        let source = Source { flow: FlowId::Stream(flow), side, transport, peer, split: false };
        self.receive(shard, source, frame);
    }

    /// The relay sends a datagram to a SIP server.
    pub(super) fn datagram_to_registrar(&mut self, number: usize, message: Message) {
        let (first, second) = self.datagram_delays(number, &message);
        if let Some(delay) = second {
            self.agenda.plan(delay, Happening::DatagramToRegistrar { number, message: message.clone() });
        }
        if let Some(delay) = first {
            self.agenda.plan(delay, Happening::DatagramToRegistrar { number, message });
        }
    }

    /// A SIP server sends a datagram to the relay.
    pub(super) fn datagram_to_relay(&mut self, number: usize, message: Message) {
        let (first, second) = self.datagram_delays(number, &message);
        if let Some(delay) = second {
            self.agenda.plan(delay, Happening::DatagramToRelay { number, message: message.clone() });
        }
        if let Some(delay) = first {
            self.agenda.plan(delay, Happening::DatagramToRelay { number, message });
        }
    }

    pub(super) fn on_datagram_to_relay(&mut self, number: usize, message: Message) {
        let shard = Endpoint::shard_of(&message).map_or(0, |tag| tag.shard(self.relay.shards.len()));
        let peer = registrar_address(number);
        let source = Source {
            flow: FlowId::Datagram(peer),
            side: Side::Upstream,
            transport: Transport::Udp,
            peer,
            split: false,
        };
        self.receive(shard, source, Frame::Message(message));
    }

    fn stream_delay(&mut self) -> At {
        self.random.between(5 * MS, 60 * MS)
    }

    /// When a datagram and its double arrive; `None`: it is lost, or there is no double.
    fn datagram_delays(&mut self, number: usize, message: &Message) -> (Option<At>, Option<At>) {
        let loss = if self.registrars[number].mood == Mood::Lossy { LOSS_HEAVY } else { LOSS };
        // A large one comes in fragments, and is lost with one of them.
        let fragments = 1 + (message.head().len() + message.body().len()) as u64 / FRAGMENT;
        let loss = (loss * fragments).min(LOSS_MAX);
        let draw = self.random.between(0, 999);
        if draw < loss {
            return (None, None);
        }
        let late = if self.random.between(0, 999) < LATE { S } else { 0 };
        let first = self.random.between(5 * MS, 60 * MS + late);
        let second = (draw >= 1000 - DOUBLED).then(|| self.random.between(5 * MS, S));
        (Some(first), second)
    }
}

/// Where a SIP server is.
pub fn registrar_address(number: usize) -> SocketAddr {
    let [.., high, low] = (number as u32).to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(198, 18, high, low), 5060))
}

/// Which SIP server is there.
pub fn registrar_at(address: SocketAddr) -> Option<usize> {
    match address.ip() {
        IpAddr::V4(ip) if ip.octets()[..2] == [198, 18] => {
            Some(usize::from(ip.octets()[2]) << 8 | usize::from(ip.octets()[3]))
        }
        _ => None,
    }
}
