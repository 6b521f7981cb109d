//! The answers to requests that are no message for anybody else: beyond a limit, or in lines that not all readers see.
//!
//! | the request | is answered |
//! | --- | --- |
//! | longer than the limit | 513 |
//! | with too many lines, or Via values | 400, which names the limit |
//! | with a line that ends with a bare LF, or without the empty line behind its head | 400: its lines are those that end with LF or CRLF |
//! | with a first line that is no request line; an ACK; without each once that an answer copies | nothing |
//!
//! Invariant: nothing of such a request goes anywhere but back to where it came from.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{Composer, Limits, Malformed, Message, Method, Name};

impl Message {
    /// The answer to a request that came from `peer` and cannot be taken, for the reason `beyond` (RFC 3261 §8.2, §18.3). `bytes`: the message, or its head, or
    /// what [`super::Frame::TooLong`] or [`super::Frame::BareLf`] has of that. `None` for what is no request, for an ACK, and for what has not each once that
    /// an answer copies (RFC 3261 §8.2.6.2).
    pub fn refusal(bytes: &Bytes, beyond: Malformed, limits: &Limits, peer: SocketAddr) -> Option<Bytes> {
        let (status, reason) = match beyond {
            Malformed::TooLong => (513, Composer::reason(513).to_owned()),
            Malformed::TooManyHeaders => (400, format!("More Than {} Header Lines", limits.headers)),
            Malformed::TooManyVias => (400, format!("More Than {} Via Values", limits.vias)),
            Malformed::NoEnd if !has_bare_lf(bytes) => (400, "No Empty Line Behind Head".to_owned()),
            Malformed::BareLf | Malformed::NoEnd | Malformed::StartLine => (400, "Line Without CRLF".to_owned()),
        };
        let read = Self::parse(bytes, &Limits::COMPOSED).or_else(|_| Self::parse(&by_lines(bytes), &Limits::COMPOSED));
        let request = read.ok().filter(|it| it.is_request() && it.via().is_some())?;
        let is_one = |name| request.fields_that_count().filter(|field| field.name == name).count() == 1;
        let has_all = [Name::From, Name::To, Name::CallId, Name::CSeq].into_iter().all(is_one);
        if !has_all || request.method() == Some(Method::Ack) {
            return None;
        }
        let marked = request.received_from(peer);
        let request = marked.as_ref().unwrap_or(&request);
        let tag = format!("{:08x}", bytes.len());
        Some(Composer::response(request, status, &reason, Some(&tag)).finish())
    }
}

fn has_bare_lf(bytes: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', bytes).any(|at| at == 0 || bytes[at - 1] != b'\r')
}

/// The head with CRLF behind each of its lines, which end with LF or CRLF in `bytes`, and with the empty line behind them.
fn by_lines(bytes: &[u8]) -> Bytes {
    let lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut head = Vec::with_capacity(bytes.len() + 64);
    for line in lines.take_while(|line| !line.is_empty()) {
        head.extend_from_slice(line);
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIA: &str = "Via: SIP/2.0/UDP a.example;branch=z9hG4bK1;rport\r\n";
    const NAMES: &str = "From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: i\r\nCSeq: 1 INVITE\r\n";

    fn answer(text: &str) -> Option<Message> {
        let peer = SocketAddr::from(([192, 0, 2, 5], 5999));
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let fault = Message::parse(&bytes, &Limits::default()).err()?;
        let answer = Message::refusal(&bytes, fault, &Limits::default(), peer)?;
        let answer = Message::parse(&answer, &Limits::COMPOSED).expect("an answer");
        assert_eq!((answer.check(), answer.call_id(), answer.cseq()), (Ok(()), Some("i"), Some((1, "INVITE"))));
        Some(answer)
    }

    #[test]
    fn a_request_in_lines_that_not_all_see_is_answered_400() {
        let head = format!("INVITE sip:a@b SIP/2.0\r\n{VIA}{NAMES}");
        let whole = format!("{head}Content-Length: 4\r\n\r\nbody");
        for (text, reason) in [
            (whole.replace("\r\n", "\n"), "Line Without CRLF"),
            (whole.replacen("\r\n", "\n", 1), "Line Without CRLF"),
            (whole.replace("\r\n\r\n", "\r\n\n"), "Line Without CRLF"),
            (whole.replace("\r\n\r\n", "\n\r\n"), "Line Without CRLF"),
            (head.replace("\r\n", "\n") + "\r\nbody", "Line Without CRLF"),
            (head.clone(), "No Empty Line Behind Head"),
            (head.trim_end().to_owned(), "No Empty Line Behind Head"),
        ] {
            let answer = answer(&text).unwrap_or_else(|| panic!("{text:?}"));
            assert_eq!((answer.status(), answer.reason()), (Some(400), Some(reason)), "{text:?}");
            let via = "SIP/2.0/UDP a.example;branch=z9hG4bK1;received=192.0.2.5;rport=5999";
            assert_eq!(answer.text(Name::Via), Some(via), "RFC 3581 §4");
        }
    }

    #[test]
    fn what_cannot_be_answered_is_not() {
        let lf = |text: String| text.replace("\r\n", "\n");
        for text in [
            lf(format!("ACK sip:a@b SIP/2.0\r\n{VIA}{NAMES}\r\n")),
            lf(format!("SIP/2.0 200 OK\r\n{VIA}{NAMES}\r\n")),
            lf(format!("GET / HTTP/1.1\r\n{VIA}{NAMES}\r\n")),
            lf(format!("INVITE sip:a@b SIP/2.0\r\n{VIA}\r\n{NAMES}\r\n")),
            lf(format!("INVITE sip:a@b SIP/2.0\r\n{NAMES}\r\n")),
            lf(format!("INVITE sip:a@b SIP/2.0\r\n{VIA}{NAMES}{NAMES}\r\n")),
            "\n".to_owned(),
            String::new(),
            "x".to_owned(),
        ] {
            assert!(answer(&text).is_none(), "{text:?}");
        }
    }
}
