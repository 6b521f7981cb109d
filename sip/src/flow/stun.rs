//! The little of STUN that keeps a flow over UDP open (RFC 8489, as RFC 5626 §4.4.2 uses it): Binding requests out, their
//! answers in.
//!
//! A STUN message and a SIP message are told apart by the first two bits, which are 0 in STUN alone, and by the magic
//! cookie (RFC 8489 §5).
//!
//! Invariant: reading allocates nothing and never panics, whatever the bytes are; nothing is believed that does not name
//! the transaction of a request of ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// 96 bits that an answer repeats (RFC 8489 §5).
pub type TransactionId = [u8; 12];

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER: usize = 20;
const REQUEST: [u8; 2] = [0x00, 0x01];
const SUCCESS: [u8; 2] = [0x01, 0x01];
const ERROR: [u8; 2] = [0x01, 0x11];
const MAPPED_ADDRESS: u16 = 0x0001;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const ERROR_CODE: u16 = 0x0009;

/// An answer to a Binding request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The request's transaction.
    pub id: TransactionId,
    /// The address at which the server saw the request; `None` in an error.
    pub mapped: Option<SocketAddr>,
    /// The code of an error, 300 to 699; 0 where it names none (RFC 8489 §14.8).
    pub error: Option<u16>,
}

/// Whether a datagram is STUN: the two bits, the cookie and the length are right (RFC 8489 §5, §6.3).
pub fn is_stun(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER
        && bytes[0] & 0xc0 == 0
        && bytes[4..8] == COOKIE
        && bytes.len() - HEADER == usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))
        && bytes.len().is_multiple_of(4)
}

/// A Binding request without attributes (RFC 8489 §3).
pub fn request(id: &TransactionId) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    bytes[..2].copy_from_slice(&REQUEST);
    bytes[4..8].copy_from_slice(&COOKIE);
    bytes[8..].copy_from_slice(id);
    bytes
}

/// Reads an answer to a Binding request; `None` for any other bytes.
pub fn answer(bytes: &[u8]) -> Option<Answer> {
    if !is_stun(bytes) || bytes[..2] != SUCCESS && bytes[..2] != ERROR {
        return None;
    }
    let id: TransactionId = bytes[8..HEADER].try_into().ok()?;
    let find = |wanted| attributes(&bytes[HEADER..]).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let xored = find(XOR_MAPPED_ADDRESS).and_then(|value| address(value, Some(&id)));
    let mapped = xored.or_else(|| find(MAPPED_ADDRESS).and_then(|value| address(value, None)));
    let is_error = bytes[..2] == ERROR;
    let error = is_error.then(|| find(ERROR_CODE).and_then(error_code).unwrap_or(0));
    Some(Answer { id, mapped: mapped.filter(|_| !is_error), error })
}

/// Type and value of each attribute, up to one that is cut off (RFC 8489 §14).
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, behind) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = behind.get(..length)?;
        rest = behind.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_be_bytes([head[0], head[1]]), value))
    })
}

/// ERROR-CODE: hundreds in the third byte, the rest in the fourth (RFC 8489 §14.8).
fn error_code(value: &[u8]) -> Option<u16> {
    let [_, _, hundreds, rest, ..] = *value else { return None };
    Some(u16::from(hundreds & 0x07) * 100 + u16::from(rest))
}

/// MAPPED-ADDRESS, or XOR-MAPPED-ADDRESS when the transaction is given (RFC 8489 §14.1, §14.2).
fn address(value: &[u8], xored: Option<&TransactionId>) -> Option<SocketAddr> {
    let (head, ip) = value.split_first_chunk::<4>()?;
    let mut mask = [0; 16];
    if let Some(id) = xored {
        mask[..4].copy_from_slice(&COOKIE);
        mask[4..].copy_from_slice(id);
    }
    let port = u16::from_be_bytes([head[2] ^ mask[0], head[3] ^ mask[1]]);
    let ip = match (head[1], ip.len()) {
        (1, 4) => IpAddr::V4(Ipv4Addr::from(unmask::<4>(ip, &mask)?)),
        (2, 16) => IpAddr::V6(Ipv6Addr::from(unmask::<16>(ip, &mask)?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn unmask<const N: usize>(bytes: &[u8], mask: &[u8; 16]) -> Option<[u8; N]> {
    let mut out: [u8; N] = bytes.try_into().ok()?;
    out.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    /// The message of RFC 5769 §2.2 or §2.3, its integrity and fingerprint left out.
    fn sample(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x01, 0x01, 0x00, attributes.len() as u8, 0x21, 0x12, 0xa4, 0x42];
        bytes.extend_from_slice(&ID);
        bytes.extend_from_slice(attributes);
        bytes
    }

    /// SOFTWARE "test vector", and XOR-MAPPED-ADDRESS 192.0.2.1:32853, as RFC 5769 §2.2 prints them.
    const V4: &[u8] = &[
        0x80, 0x22, 0x00, 0x0b, 0x74, 0x65, 0x73, 0x74, 0x20, 0x76, 0x65, 0x63, 0x74, 0x6f, 0x72, 0x20, 0x00, 0x20,
        0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43,
    ];
    /// XOR-MAPPED-ADDRESS [2001:db8:1234:5678:11:2233:4455:6677]:32853, as RFC 5769 §2.3 prints it.
    const V6: &[u8] = &[
        0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25,
        0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
    ];

    #[test]
    fn the_samples_of_rfc_5769_give_the_addresses_printed_there() {
        let v4 = answer(&sample(V4)).unwrap();
        assert_eq!(v4, Answer { id: ID, mapped: Some("192.0.2.1:32853".parse().unwrap()), error: None });
        let v6 = answer(&sample(V6)).unwrap();
        assert_eq!(v6.mapped, Some("[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap()));
    }

    #[test]
    fn an_older_server_names_the_address_plainly_and_an_error_names_none() {
        let plain = [0x00, 0x01, 0x00, 0x08, 0x00, 0x01, 0x13, 0xc4, 192, 0, 2, 9];
        assert_eq!(answer(&sample(&plain)).unwrap().mapped, Some("192.0.2.9:5060".parse().unwrap()));
        let mut error = sample(V4);
        error[..2].copy_from_slice(&ERROR);
        assert_eq!(answer(&error), Some(Answer { id: ID, mapped: None, error: Some(0) }));
        let mut failed =
            sample(&[0, 9, 0, 15, 0, 0, 4, 30, b'F', b'l', b'o', b'w', b' ', b'F', b'a', b'i', b'l', b'e', b'd', 0]);
        failed[..2].copy_from_slice(&ERROR);
        assert_eq!(answer(&failed), Some(Answer { id: ID, mapped: None, error: Some(430) }));
    }

    #[test]
    fn a_request_is_stun_and_no_answer_and_sip_is_neither() {
        let bytes = request(&ID);
        assert!(is_stun(&bytes) && answer(&bytes).is_none());
        for other in [&b"OPTIONS sip:a@b SIP/2.0\r\n\r\n"[..], b"\r\n\r\n", b"", &bytes[..19]] {
            assert!(!is_stun(other) && answer(other).is_none());
        }
        let mut wrong = bytes;
        wrong[4] ^= 1;
        assert!(!is_stun(&wrong), "the cookie");
    }

    #[test]
    fn cut_and_twisted_answers_name_no_address_and_do_no_harm() {
        for cut in 0..V4.len() {
            let mapped = answer(&sample(&V4[..cut])).and_then(|answer| answer.mapped);
            assert_eq!(mapped, None, "{cut}");
        }
        let whole = sample(V4);
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut twisted = whole.clone();
                twisted[at] ^= 1 << bit;
                let _ = answer(&twisted);
            }
        }
    }
}
