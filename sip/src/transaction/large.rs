//! Requests that are too large for a datagram (RFC 3261 §18.1.1).
//!
//! Invariant: what is changed is the transport that the topmost Via names, and nothing else.

use bytes::Bytes;

/// Bytes above which a request must not go by UDP where the path's MTU is not known (RFC 3261 §18.1.1).
pub const DATAGRAM_BYTES: usize = 1300;

const DATAGRAM: &[u8] = b"SIP/2.0/UDP ";
const STREAM: &[u8] = b"SIP/2.0/TCP ";

/// The request as it goes by TCP; `None` when it may go by UDP, or is no request that was written for UDP.
pub fn by_stream(request: &Bytes) -> Option<Bytes> {
    if request.len() <= DATAGRAM_BYTES || request.starts_with(b"SIP/2.0 ") {
        return None;
    }
    // The topmost Via is the first place that says so; a request line and what else may stand above hold no such words.
    let at = memchr::memmem::find(request, DATAGRAM)?;
    let mut bytes = request.to_vec();
    bytes[at..at + STREAM.len()].copy_from_slice(STREAM);
    Some(bytes.into())
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
        let large = by_stream(&request(DATAGRAM_BYTES - small + 1)).unwrap();
        let text = std::str::from_utf8(&large).unwrap();
        assert!(text.contains("Via: SIP/2.0/TCP r:5070;branch=z9hG4bK1\r\nVia: SIP/2.0/UDP d\r\n"), "{text}");
    }

    #[test]
    fn a_response_goes_as_its_request_came() {
        let response = format!("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP d\r\n\r\n{}", "x".repeat(2000));
        assert_eq!(by_stream(&response.into()), None);
    }
}
