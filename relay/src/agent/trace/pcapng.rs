//! The file format of packet captures (draft-ietf-opsawg-pcapng), with the messages as Wireshark's exported PDUs: whatever the
//! transport was, each packet is one SIP message in the clear.
//!
//! Invariant: every block's length is a multiple of four and stands at both of its ends.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use sip::endpoint::{Side, Transport};

use super::Recorded;

/// LINKTYPE_WIRESHARK_UPPER_PDU.
const LINK_TYPE: u16 = 252;
const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
/// Options: of every block, and of a packet.
const COMMENT: u16 = 1;
const FLAGS: u16 = 2;
/// Tags of an exported PDU (Wireshark's `epan/exported_pdu.h`).
const PROTOCOL: u16 = 12;
const SOURCES: [u16; 3] = [20, 22, 25];
const DESTINATIONS: [u16; 3] = [21, 23, 26];
const PORT_TYPE: u16 = 24;

/// A file with these messages.
pub(crate) fn write<'a>(messages: impl Iterator<Item = &'a Recorded>) -> Vec<u8> {
    let mut file = Vec::new();
    let mut section = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
    section.extend([1, 0, 0, 0]);
    section.extend(u64::MAX.to_le_bytes());
    block(&mut file, SECTION, &section);
    let mut interface = LINK_TYPE.to_le_bytes().to_vec();
    interface.extend([0; 6]);
    block(&mut file, INTERFACE, &interface);
    for message in messages {
        block(&mut file, PACKET, &packet(message));
    }
    file
}

fn packet(message: &Recorded) -> Vec<u8> {
    let mut data = Vec::new();
    tag(&mut data, PROTOCOL, b"sip\0");
    let peer = message.peer.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0));
    let here = SocketAddr::new(
        match peer.ip().to_canonical() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        },
        0,
    );
    let (from, to) = if message.came { (peer, here) } else { (here, peer) };
    for (address, [v4, v6, port]) in [(from, SOURCES), (to, DESTINATIONS)] {
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => tag(&mut data, v4, &ip.octets()),
            IpAddr::V6(ip) => tag(&mut data, v6, &ip.octets()),
        }
        tag(&mut data, port, &u32::from(address.port()).to_be_bytes());
    }
    let is_udp = message.transport == Some(Transport::Udp);
    tag(&mut data, PORT_TYPE, &(if is_udp { 3_u32 } else { 2 }).to_be_bytes());
    tag(&mut data, 0, b"");
    data.extend_from_slice(&message.text);

    let length = (data.len() as u32).to_le_bytes();
    let mut body = 0_u32.to_le_bytes().to_vec();
    body.extend(((message.at_us >> 32) as u32).to_le_bytes());
    body.extend((message.at_us as u32).to_le_bytes());
    body.extend(length);
    body.extend(length);
    padded(&mut body, &data);
    let side = match message.side {
        Side::Device => "the device",
        Side::Upstream => "the SIP server",
    };
    let way = if message.came { "from" } else { "to" };
    let by = message.transport.map(|transport| format!(" by {}", transport.via())).unwrap_or_default();
    option(&mut body, COMMENT, format!("{way} {side}{by}").as_bytes());
    option(&mut body, FLAGS, &(if message.came { 1_u32 } else { 2 }).to_le_bytes());
    option(&mut body, 0, b"");
    body
}

fn block(file: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let length = (body.len() as u32 + 12).to_le_bytes();
    file.extend(kind.to_le_bytes());
    file.extend(length);
    file.extend_from_slice(body);
    file.extend(length);
}

/// Little-endian, as the file is.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    padded(body, value);
}

/// Big-endian, as exported PDUs are.
fn tag(data: &mut Vec<u8>, code: u16, value: &[u8]) {
    data.extend(code.to_be_bytes());
    data.extend((value.len() as u16).to_be_bytes());
    data.extend_from_slice(value);
}

fn padded(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_as_long_as_it_says_at_both_ends() {
        let message = |text: &[u8], peer: &str| Recorded {
            at_us: 1_795_000_000_000_001,
            came: true,
            side: Side::Upstream,
            transport: Some(Transport::Tls),
            peer: Some(peer.parse().unwrap()),
            text: bytes::Bytes::copy_from_slice(text),
        };
        let messages = [message(b"OPTIONS", "192.0.2.1:5060"), message(b"BYE", "[2001:db8::1]:5061")];
        let file = write(messages.iter());
        let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        let (mut at, mut kinds) = (0, Vec::new());
        while at < file.len() {
            let length = number(at + 4);
            assert_eq!((length % 4, number(at + length - 4)), (0, length));
            kinds.push(number(at) as u32);
            at += length;
        }
        assert_eq!(kinds, [SECTION, INTERFACE, PACKET, PACKET]);
        for text in ["sip", "OPTIONS", "BYE", "from the SIP server by TLS"] {
            assert!(file.windows(text.len()).any(|part| part == text.as_bytes()), "{text}");
        }
    }
}
