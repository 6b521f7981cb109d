//! The upstream UDP socket of a core: each datagram goes to its shard.
//!
//! Invariant: a datagram that is not SIP is dropped and counted; one whose shard's queue is full is dropped, and its sender retransmits it (RFC 3261 §17). A
//! request that exceeds a limit, or whose lines not all parsers see alike, is answered once, at its source address. STUN goes to the shard that asked.
//! Keep-alives of CRLF or zeros mean nothing on UDP and are dropped.

use bytes::Bytes;
use sip::endpoint::{Endpoint, Input, Side, Source, Transport};
use sip::id::FlowId;
use sip::message::{Limits, Message};

use crate::agent::ShardInput;
use crate::agent::Shards;
use crate::clock;
use crate::metrics::Metrics;
use crate::metrics::labels::SipRefusal;
use crate::net::drain::Drain;
use crate::net::udp::{Datagram, Udp};

/// An answer is at most so many times as large as what it answers, in halves, as the endpoint's to those whom it does not believe.
const REFLECTED_HALVES_MAX: usize = 3;

/// Receives until the drain is over.
pub(crate) async fn receive(core: usize, socket: Udp, shards: Shards, metrics: Metrics, end: Drain) {
    let limits = Limits::default();
    let take = |datagram: Datagram| deliver(&datagram, &socket, core, &limits, &shards, &metrics);
    let received = socket.receive(core, &end, take).await;
    if let Err(error) = received {
        tracing::error!(event = "datagrams-unread", %error, "the system lets nobody read datagrams: SIP servers that speak UDP are not heard");
    }
}

fn deliver(datagram: &Datagram, socket: &Udp, core: usize, limits: &Limits, shards: &Shards, metrics: &Metrics) {
    let bytes = behind_line_ends(&datagram.bytes);
    if is_keep_alive(&bytes) {
        return;
    }
    let (flow, peer) = (FlowId::Datagram(datagram.peer), datagram.peer);
    if Endpoint::is_stun(&bytes) {
        if let Some(tag) = Endpoint::shard_of_stun(&bytes) {
            let input = Input::Stun { flow, bytes };
            shards.try_send(tag.shard(shards.len()), ShardInput::Sip { at: clock::now(), input });
        }
        return;
    }
    let message = match Message::parse(&bytes, limits) {
        Ok(message) => message,
        Err(fault) => {
            metrics.sip_refused(SipRefusal::Malformed);
            // Its sender may be somebody else than it says, and gets hardly more than was sent in its name.
            let is_short = |answer: &Bytes| answer.len() * 2 <= bytes.len() * REFLECTED_HALVES_MAX;
            let answer = Message::refusal(&bytes, fault, limits, peer).filter(is_short);
            if let Some(answer) = answer {
                // An answer that cannot be sent is lost, as a datagram may be.
                let _ = socket.send(core, &answer, peer);
            }
            return;
        }
    };
    let shard = shards.of(&message, Side::Upstream).unwrap_or(0);
    let source = Source { flow, side: Side::Upstream, transport: Transport::Udp, peer, split: false };
    shards.try_send(shard, ShardInput::Sip { at: clock::now(), input: Input::Received { source, message } });
}

/// Whether a datagram only keeps a way through a NAT open: by line ends, or by the four zeros of Kamailio's and OpenSIPS' nathelper.
fn is_keep_alive(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0)
}

/// The datagram without the line ends at its beginning: a sender of datagrams puts them there as one of streams does (RFC 3261 §7.5).
fn behind_line_ends(bytes: &Bytes) -> Bytes {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
    bytes.slice(start..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::udp::Steering;

    #[tokio::test]
    async fn a_datagram_that_only_keeps_a_way_open_is_no_malformed_message() {
        let (cores, made) = crate::cores::Cores::start(1).unwrap();
        made.into_iter().for_each(|core| core.begin(std::future::pending()));
        let (sender, _inbox) = tokio::sync::mpsc::channel(1);
        let (shards, metrics) = (Shards::new(vec![sender], cores), Metrics::new());
        let socket = Udp::bind(1, "127.0.0.1:0".parse().unwrap(), &Steering::default()).unwrap();
        let malformed = "sipwake_sip_refused_total{reason=\"malformed\"}";
        for (came, counted) in [("\r\n\r\n", "0"), ("\0\0\0\0", "0"), ("\0\r\n", "0"), ("\0x", "1")] {
            let datagram = Datagram { bytes: came.into(), peer: "192.0.2.1:5060".parse().unwrap() };
            deliver(&datagram, &socket, 0, &Limits::default(), &shards, &metrics);
            let told = metrics.render();
            let count = told.lines().find_map(|line| line.strip_prefix(malformed)).map_or("0", str::trim);
            assert_eq!(count, counted, "{came:?}");
        }
    }

    #[test]
    fn a_message_begins_behind_the_line_ends_before_it() {
        for (came, left) in [
            ("INVITE", "INVITE"),
            ("\r\nINVITE\r\n", "INVITE\r\n"),
            ("\n\r\n\r\nINVITE", "INVITE"),
            (" INVITE", " INVITE"),
            ("\r\n\r\n", ""),
            ("", ""),
        ] {
            assert_eq!(behind_line_ends(&Bytes::from(came)), left, "{came:?}");
        }
    }
}
