//! The requirements of RFC 3261 §8.1.1 and §8.2.2 on every message that has structure, as far as the relay needs them.
//!
//! | header | of a request | of a response |
//! | --- | --- | --- |
//! | Via, CSeq, `Content-Length` | there, and sound | likewise |
//! | each line | ends with CRLF alone; one that is no header is not what others may take for one of those that matter | ends with CRLF alone |
//! | Call-ID | there once, and sound | – |
//! | From, To | there; the first counts | – |
//! | Max-Forwards | sound; the lowest counts | – |
//! | every other | – | – |
//!
//! Invariant: a message that passes has a topmost Via and a CSeq that can be read, and a body as long as it says; a request has From, To
//! and one Call-ID, too. The contents of From, To and Contact decide nothing.

use std::fmt;

use super::{Message, Method, Name, Start, Uri};

/// A fault in a message that has the structure of one. A request is answered with [`Fault::status`] and the fault as the reason; a response is
/// dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A header that every message needs is absent.
    Missing(Name),
    /// A header that may stand only once stands twice.
    Repeated(Name),
    /// A header whose value breaks its grammar, or a `Content-Length` beyond the bytes that came.
    Broken(Name),
    /// The method in CSeq is not the request's.
    CSeqMethod,
    /// The Request-URI cannot be told from what stands beside it, or carries headers (RFC 3261 §19.1.5); that of a REGISTER also
    /// when it breaks the grammar of its scheme.
    RequestUri,
    /// More than one space between the parts of the request line, or spaces behind it.
    StartLine,
    /// A line that is no header and that some would read as one that matters, or a line with a bare CR or LF.
    HeaderLine,
    /// A SIP version other than 2.0.
    Version,
}

impl Fault {
    /// The status that answers a request with this fault: 505 for [`Fault::Version`], else 400.
    pub fn status(self) -> u16 {
        if self == Self::Version { 505 } else { 400 }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(name) => write!(f, "Missing {name}"),
            Self::Repeated(name) => write!(f, "Repeated {name}"),
            Self::Broken(name) => write!(f, "Invalid {name}"),
            Self::CSeqMethod => f.write_str("CSeq Method Differs"),
            Self::RequestUri => f.write_str("Invalid Request-URI"),
            Self::StartLine => f.write_str("Invalid Request-Line"),
            Self::HeaderLine => f.write_str("Invalid Header Line"),
            Self::Version => f.write_str("Version Not Supported"),
        }
    }
}

/// See [`Message::check`].
pub(super) fn message(message: &Message) -> Result<(), Fault> {
    start(message)?;
    if message.is_torn {
        return Err(Fault::HeaderLine);
    }
    if message.is_request() {
        request(message)?;
    }
    via(message)?;
    let (_, method) = message.cseq().ok_or(Fault::Broken(Name::CSeq))?;
    if message.method_text().is_some_and(|text| text != method) {
        return Err(Fault::CSeqMethod);
    }
    message.length_fault.map_or(Ok(()), Err)
}

fn request(message: &Message) -> Result<(), Fault> {
    if message.odd_line {
        return Err(Fault::HeaderLine);
    }
    for name in [Name::From, Name::To, Name::CallId, Name::CSeq] {
        match message.values(name).count() {
            0 => return Err(Fault::Missing(name)),
            2.. if matches!(name, Name::CallId | Name::CSeq) => return Err(Fault::Repeated(name)),
            _ => {}
        }
    }
    message.call_id().ok_or(Fault::Broken(Name::CallId))?;
    message.cseq().ok_or(Fault::Broken(Name::CSeq))?;
    if message.has(Name::MaxForwards) && message.max_forwards().is_none() {
        return Err(Fault::Broken(Name::MaxForwards));
    }
    Ok(())
}

fn start(message: &Message) -> Result<(), Fault> {
    let Start::Request { version_2, spaced, .. } = message.start else {
        return Ok(());
    };
    if !version_2 {
        return Err(Fault::Version);
    }
    if spaced {
        return Err(Fault::StartLine);
    }
    let target = message.request_uri().ok_or(Fault::RequestUri)?;
    let sound = match Uri::parse(target) {
        Some(uri) => uri.headers.is_none(),
        // A request in a dialog goes to the Contact of its other end, however odd that is; our Route leads it here.
        None => message.method() != Some(Method::Register) && Uri::is_legible(target),
    };
    if sound { Ok(()) } else { Err(Fault::RequestUri) }
}

fn via(message: &Message) -> Result<(), Fault> {
    if !message.has(Name::Via) {
        return Err(Fault::Missing(Name::Via));
    }
    let via = message.via().ok_or(Fault::Broken(Name::Via))?;
    // RFC 4475 §3.2.1: the cookie promises a unique branch, and nothing is behind it.
    let hollow = via.branch().is_some_and(|branch| branch.eq_ignore_ascii_case("z9hG4bK"));
    // RFC 4475 §3.1.2.1: parameters alone are no Via, and the responses would pass by it.
    let below = || message.element(Name::Via, 1).is_some_and(|below| below.starts_with(';'));
    if (hollow || via.text.ends_with(';') && below()) && message.is_request() {
        Err(Fault::Broken(Name::Via))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::Limits;

    const LINES: &[&str] = &[
        "INVITE sip:a@b SIP/2.0",
        "Via: SIP/2.0/TLS h;branch=z9hG4bK1",
        "From: <sip:a@b>;tag=1",
        "To: <sip:c@d>",
        "Call-ID: x",
        "CSeq: 1 INVITE",
        "Max-Forwards: 70",
        "Contact: <sip:a@h>",
    ];

    fn check(lines: &[&str]) -> Result<(), Fault> {
        let text = format!("{}\r\n\r\n", lines.join("\r\n"));
        Message::parse(&Bytes::from(text), &Limits::default()).unwrap().check()
    }

    /// The sound request with the line at `at` replaced.
    fn with(at: usize, line: &'static str) -> Result<(), Fault> {
        let mut lines = LINES.to_vec();
        lines[at] = line;
        check(&lines)
    }

    #[test]
    fn a_message_needs_its_headers() {
        assert_eq!(check(LINES), Ok(()));
        for (at, name) in [(1, Name::Via), (2, Name::From), (3, Name::To), (4, Name::CallId), (5, Name::CSeq)] {
            let mut lines = LINES.to_vec();
            lines.remove(at);
            assert_eq!(check(&lines), Err(Fault::Missing(name)));
        }
        let twice = |at: usize| check(&[LINES, &LINES[at..=at]].concat());
        for (at, name) in [(4, Name::CallId), (5, Name::CSeq)] {
            assert_eq!(twice(at), Err(Fault::Repeated(name)));
        }
        for at in [2, 3, 6] {
            assert_eq!(twice(at), Ok(()), "one counts");
        }
        assert_eq!(check(&[LINES, &["Max-Forwards: x"]].concat()), Err(Fault::Broken(Name::MaxForwards)));
        assert_eq!(check(&[&LINES[..6], &LINES[7..]].concat()), Ok(()), "RFC 2543 knew no Max-Forwards");
    }

    #[test]
    fn a_value_that_breaks_its_grammar_is_named() {
        let rows: &[(usize, Name, &[&str])] = &[
            (1, Name::Via, &["Via:", "Via: ,", "Via: x", "Via: SIP/2.0/UDP", "Via: SIP/2.0/UDP h;branch=z9hG4bK"]),
            (4, Name::CallId, &["Call-ID:", "Call-ID: a b", "Call-ID: a\u{0}", "Call-ID: a\r\n b"]),
            (
                5,
                Name::CSeq,
                &["CSeq: INVITE", "CSeq: 1", "CSeq: 2147483648 INVITE", "CSeq: -1 INVITE", "CSeq: 1 IN VITE"],
            ),
            (6, Name::MaxForwards, &["Max-Forwards:", "Max-Forwards: 256", "Max-Forwards: -1", "Max-Forwards: 7 0"]),
        ];
        for (at, name, lines) in rows {
            for line in *lines {
                let mut all = LINES.to_vec();
                all[*at] = line;
                assert_eq!(check(&all), Err(Fault::Broken(*name)), "{line:?}");
            }
        }
        assert_eq!(with(5, "CSeq: 2147483647 INVITE"), Ok(()));
        assert_eq!(with(5, "CSeq: 1 invite"), Err(Fault::CSeqMethod), "methods are compared with case");
    }

    #[test]
    fn what_the_relay_does_not_need_decides_nothing() {
        for (at, lines) in [
            (
                2,
                &["From:", "From: <sip:a@b>;tag=", "From: <sip:a@b>;tag", "From: <sip:a@b>, <sip:c@d>", "f: \"a\"\""][..],
            ),
            (3, &["To:", "To: <sip:c@d>;tag=", "To: \"x <sip:c@d>", "To: <>", "To: *", "To: \"\"u\"\" <sip:u@h>"]),
            (
                7,
                &[
                    "m: x",
                    "m: <sip:a@h>;;",
                    "m: <sip:a@h>, \"",
                    "m: <sip:a@h>;q=\"1",
                    "m: *",
                    "m: a, b <sip:x@h>",
                    ">m",
                ],
            ),
        ] {
            for line in lines {
                let mut all = LINES.to_vec();
                all[at] = line;
                assert_eq!(check(&all), Ok(()), "{line:?}");
            }
        }
    }

    #[test]
    fn a_request_line_is_judged_with_its_status() {
        for (line, fault, status) in [
            ("INVITE sip:a@b SIP/2.1", Fault::Version, 505),
            ("INVITE sip:a@b SIP/7.0", Fault::Version, 505),
            ("INVITE  sip:a@b SIP/2.0", Fault::StartLine, 400),
            ("INVITE sip:a@b SIP/2.0 ", Fault::StartLine, 400),
            ("INVITE sip:a@b x SIP/2.0", Fault::RequestUri, 400),
            ("INVITE sip:a@b?X=y SIP/2.0", Fault::RequestUri, 400),
            ("INVITE sip:a@b;x=\"y\"?X=y SIP/2.0", Fault::RequestUri, 400),
            ("INVITE <sip:a@b> SIP/2.0", Fault::RequestUri, 400),
        ] {
            assert_eq!(with(0, line), Err(fault), "{line}");
            assert_eq!(fault.status(), status);
        }
        assert_eq!(with(0, "INVITE unknown:x?y SIP/2.0"), Ok(()), "416 comes from above");
        assert_eq!(with(0, "INVITE sip:a@b;x=\"y\" SIP/2.0"), Ok(()), "somebody's Contact is like this");
    }
}
