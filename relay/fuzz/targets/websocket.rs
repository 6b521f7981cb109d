//! Any bytes as a WebSocket client's frames; the first sixteen say how they are cut.
//!
//! Invariant: no panic; the reader says what a plain decoder of RFC 6455 says, however the bytes are cut; no message is longer than
//! the limit; what was read is read again when it is framed again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relay::net::websocket::{CLOSE_NORMAL, Fault, Incoming, Reader, close, head_of, pong};

/// Bytes of one message.
const LIMIT: usize = 1000;
/// Fragments of one message: the reader's own limit.
const FRAGMENTS_MAX: usize = 256;

fuzz_target!(|data: &[u8]| {
    let (cuts, bytes) = data.split_at(data.len().min(16));
    let expected = decode(bytes);
    assert_eq!(read([bytes].into_iter()), expected, "in one piece");
    assert_eq!(read(pieces(cuts, bytes).into_iter()), expected, "in pieces");
    for incoming in &expected.0 {
        match incoming {
            Incoming::Message(message) => {
                assert!(message.len() <= LIMIT);
                let again = masked(&[&head_of(message)[..], &message[..]].concat());
                assert_eq!(read([&again[..]].into_iter()), (vec![incoming.clone()], None));
            }
            Incoming::Ping(payload) => assert_eq!(pong(payload)[2..], payload[..]),
            Incoming::Close(code) => assert_eq!(close(code.unwrap_or(CLOSE_NORMAL)).len(), 4),
        }
    }
});

type Heard = (Vec<Incoming>, Option<Fault>);

fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Heard {
    let mut reader = Reader::new(LIMIT);
    let mut heard = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next_message() {
                Ok(Some(incoming)) => heard.push(incoming),
                Ok(None) => break,
                Err(fault) => return (heard, Some(fault)),
            }
        }
    }
    (heard, None)
}

/// The bytes in pieces whose sizes `cuts` gives, in turn.
fn pieces<'a>(cuts: &[u8], mut bytes: &'a [u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts.iter().cycle() {
        let (piece, rest) = bytes.split_at(bytes.len().min(1 + usize::from(*cut)));
        pieces.push(piece);
        bytes = rest;
        if bytes.is_empty() {
            break;
        }
    }
    pieces
}

/// RFC 6455 §5 read from the beginning, without any thought of memory.
fn decode(mut bytes: &[u8]) -> Heard {
    let mut heard = Vec::new();
    let mut fragments: Option<(bool, usize, Vec<u8>)> = None;
    while let Some((&[first, second], rest)) = bytes.split_first_chunk::<2>() {
        let (last, opcode, control) = (first & 0x80 != 0, first & 0x0f, first & 0x08 != 0);
        let known = matches!(opcode, 0 | 1 | 2 | 8 | 9 | 10);
        if !known || first & 0x70 != 0 || second & 0x80 == 0 || control && (!last || second & 0x7f > 125) {
            return (heard, Some(Fault::Protocol));
        }
        let wide = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if rest.len() < wide + 4 {
            break;
        }
        let (number, rest) = rest.split_at(wide);
        let (mask, rest) = rest.split_at(4);
        let number = number.iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        let (length, shortest) = match wide {
            0 => (u64::from(second & 0x7f), 0),
            2 => (number, 126),
            _ => (number, 0x1_0000),
        };
        if length < shortest || length >> 63 != 0 {
            return (heard, Some(Fault::Protocol));
        }
        if !control {
            if (opcode == 0) != fragments.is_some() {
                return (heard, Some(Fault::Protocol));
            }
            let (count, sum) = fragments.as_ref().map_or((0, 0), |(_, count, bytes)| (*count, bytes.len()));
            if length > (LIMIT - sum) as u64 || count >= FRAGMENTS_MAX {
                return (heard, Some(Fault::TooLong));
            }
        }
        let Some((payload, rest)) = rest.split_at_checked(length as usize) else { break };
        let payload: Vec<u8> = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        bytes = rest;
        match opcode {
            8 if payload.len() == 1 => return (heard, Some(Fault::Protocol)),
            8 => heard.push(Incoming::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code)))),
            9 => heard.push(Incoming::Ping(payload.into())),
            10 => {}
            _ => {
                let (text, count, mut whole) = fragments.take().unwrap_or((opcode == 1, 0, Vec::new()));
                whole.extend(payload);
                match last {
                    false => fragments = Some((text, count + 1, whole)),
                    true if text && std::str::from_utf8(&whole).is_err() => return (heard, Some(Fault::NotText)),
                    true => heard.push(Incoming::Message(whole.into())),
                }
            }
        }
    }
    (heard, None)
}

/// A server's frame as a client would send it: with a mask, here of zeros.
fn masked(frame: &[u8]) -> Vec<u8> {
    let head = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let mut masked = frame.to_vec();
    masked[1] |= 0x80;
    masked.splice(head..head, [0; 4]);
    masked
}
