//! Bytes to [`Message`]: the start line, the header lines, the body's length.
//!
//! Invariant: each byte of the head belongs to exactly one line, and writing the lines one after the other gives the
//! head again. A head that some readers would cut into other lines, at a bare CR or LF or because white space begins its first
//! one, is marked, and [`Message::check`] fails.

use bytes::Bytes;
use memchr::{memchr, memchr2, memmem, memrchr};

use super::grammar::{digits, is_lws, is_token, is_token_byte, split_list};
use super::{Field, Limits, Malformed, Message, Method, Name, Span, Start};

/// At least as long as each [decisive](is_decisive) name.
const NAME_MAX: usize = 24;

/// See [`Message::parse`].
pub(super) fn message(bytes: &Bytes, limits: &Limits) -> Result<Message, Malformed> {
    let limits = limits.of(bytes);
    if bytes.len() > limits.message_bytes {
        return Err(Malformed::TooLong);
    }
    let end = memmem::find(bytes, b"\r\n\r\n").ok_or(Malformed::NoEnd)? + 4;
    let head = bytes.slice(..end);
    let (first, is_torn) = line_end(&head, 0).filter(|(_, is_torn)| !is_torn).ok_or(Malformed::StartLine)?;
    let start = start_line(&head[..first])?;
    let mut message = Message {
        head,
        start,
        fields: Vec::new(),
        body: Bytes::new(),
        length_fault: None,
        odd_line: false,
        is_torn,
        hides_length: false,
    };
    header_fields(&mut message, first + 2, &limits)?;
    message.odd_line = message.fields.iter().any(|field| field.is_odd(&message.head));
    let rest = bytes.len() - end;
    match content_length(&message) {
        Ok(length) if length.unwrap_or(rest) <= rest => message.body = bytes.slice(end..end + length.unwrap_or(rest)),
        Ok(_) => message.length_fault = Some(super::Fault::Broken(Name::ContentLength)),
        Err(fault) => message.length_fault = Some(fault),
    }
    Ok(message)
}

/// A `Content-Length` value: digits alone, and small enough to be a length at all.
pub(super) fn length(value: &[u8]) -> Option<usize> {
    digits(value).map(|number| number as usize)
}

fn content_length(message: &Message) -> Result<Option<usize>, super::Fault> {
    let mut values = message.values(Name::ContentLength);
    let Some(value) = values.next() else {
        return Ok(None);
    };
    // A request's sender can be told.
    if values.any(|other| message.is_request() || length(other) != length(value)) {
        return Err(super::Fault::Repeated(Name::ContentLength));
    }
    length(value).map(Some).ok_or(super::Fault::Broken(Name::ContentLength))
}

fn start_line(line: &[u8]) -> Result<Start, Malformed> {
    match strip_version(line) {
        Some(rest) => status_line(line, rest),
        None => request_line(line),
    }
    .ok_or(Malformed::StartLine)
}

fn status_line(line: &[u8], rest: &[u8]) -> Option<Start> {
    let code = rest.strip_prefix(b" ")?.get(..3)?;
    let status = u16::try_from(digits(code)?).ok().filter(|status| (100..700).contains(status))?;
    let at = line.len() - rest.len() + 4;
    match line.get(at) {
        None => Some(Start::Response { status, reason: Span::new(at, at) }),
        Some(b' ') => Some(Start::Response { status, reason: Span::new(at + 1, line.len()) }),
        Some(_) => None,
    }
}

/// Takes superfluous spaces too, because the request can then be answered: [`super::Fault::StartLine`].
fn request_line(line: &[u8]) -> Option<Start> {
    let method_end = memchr(b' ', line)?;
    let end = line.iter().rposition(|b| *b != b' ')? + 1;
    let uri_end = memrchr(b' ', &line[..end]).filter(|at| *at > method_end)?;
    let (method, uri, version) = (&line[..method_end], &line[method_end + 1..uri_end], &line[uri_end + 1..end]);
    let number = version.get(..4).filter(|sip| sip.eq_ignore_ascii_case(b"SIP/")).map(|_| &version[4..])?;
    let legible = !number.is_empty() && number.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'.');
    if !is_token(method) || !legible || uri.iter().any(u8::is_ascii_control) || uri.iter().all(|b| *b == b' ') {
        return None;
    }
    Some(Start::Request {
        method: Method::from_bytes(method),
        written: Span::new(0, method_end),
        uri: Span::new(method_end + 1, uri_end),
        version_2: number == b"2.0",
        spaced: end != line.len() || uri.starts_with(b" ") || uri.ends_with(b" "),
    })
}

fn strip_version(line: &[u8]) -> Option<&[u8]> {
    let (version, rest) = line.split_at_checked(7)?;
    version.eq_ignore_ascii_case(b"SIP/2.0").then_some(rest)
}

fn header_fields(message: &mut Message, mut at: usize, limits: &Limits) -> Result<(), Malformed> {
    let head = message.head.clone();
    message.fields.reserve(limits.headers.min(24));
    let mut vias = 0;
    // White space behind the start line is folded onto it, or hides a header.
    message.is_torn |= is_lws(head[at]) && head[at] != b'\r';
    loop {
        let mut end = next_line(message, &head, at)?;
        if end == at {
            return Ok(());
        }
        while matches!(head.get(end + 2), Some(b' ' | b'\t')) {
            message.hides_length |= reads_as_length(&head[end + 2..]);
            end = next_line(message, &head, end + 2)?;
        }
        if message.fields.len() == limits.headers {
            return Err(Malformed::TooManyHeaders);
        }
        let field = header_field(&head, at, end).unwrap_or_else(|| odd_line(at, end));
        if field.name == Name::Via {
            vias += count_elements(field.value.of(&head));
            if vias > limits.vias {
                return Err(Malformed::TooManyVias);
            }
        }
        message.hides_length |= field.name == Name::Other && reads_as_length(field.line.of(&head));
        message.fields.push(field);
        at = end + 2;
    }
}

/// Whether Kamailio and OpenSIPS take a line for `Content-Length` when they look for the end of a message in a stream: where it is folded, too,
/// and with `_` for `-`.
fn reads_as_length(line: &[u8]) -> bool {
    let is_blank = |byte: &&u8| matches!(byte, b' ' | b'\t');
    let line = &line[line.iter().take_while(is_blank).count()..];
    let is_long = |name: &[u8]| name[..7].eq_ignore_ascii_case(b"content") && name[8..].eq_ignore_ascii_case(b"length");
    let rest = match (line, line.split_at_checked(14)) {
        ([b'l' | b'L', rest @ ..], _) => rest,
        (_, Some((name, rest))) if matches!(name[7], b'-' | b'_') && is_long(name) => rest,
        _ => return false,
    };
    rest.iter().find(|byte| !is_blank(byte)) == Some(&b':')
}

/// The index of the CRLF that ends the line at `from`; a bare CR or LF before it marks the message.
fn next_line(message: &mut Message, head: &[u8], from: usize) -> Result<usize, Malformed> {
    // The head ends with an empty line, so each line has its end.
    let (end, is_torn) = line_end(head, from).ok_or(Malformed::NoEnd)?;
    message.is_torn |= is_torn;
    Ok(end)
}

/// How many elements a list has; one that is not UTF-8 counts as one, as no typed view reads it.
pub(super) fn count_elements(value: &[u8]) -> usize {
    if memchr(b',', value).is_none() {
        return 1;
    }
    std::str::from_utf8(value).map_or(1, |value| split_list(value).count())
}

/// The index of the CRLF that ends the line at `from`, and whether a bare CR or LF stands before it.
fn line_end(head: &[u8], from: usize) -> Option<(usize, bool)> {
    let (mut at, mut is_torn) = (from, false);
    loop {
        at += memchr2(b'\r', b'\n', head.get(at..)?)?;
        if head[at..].starts_with(b"\r\n") {
            return Some((at, is_torn));
        }
        is_torn = true;
        at += 1;
    }
}

fn header_field(head: &[u8], start: usize, end: usize) -> Option<Field> {
    let line = &head[start..end];
    let colon = memchr(b':', line)?;
    // RFC 3261 §25.1, HCOLON: spaces and tabs may stand before the colon, and nothing else.
    let name = &line[..line[..colon].iter().rposition(|b| !matches!(b, b' ' | b'\t'))? + 1];
    let known = Name::from_bytes(name);
    if known == Name::Other && !is_token(name) {
        return None;
    }
    let mut from = colon + 1;
    let mut to = line.len();
    while from < to && is_lws(line[from]) {
        from += 1;
    }
    while to > from && is_lws(line[to - 1]) {
        to -= 1;
    }
    Some(Field {
        name: known,
        line: Span::new(start, end + 2),
        written: Span::new(start, start + name.len()),
        value: Span::new(start + from, start + to),
    })
}

/// A line that is no header field: it has no name, and passes as it is. [`Field::is_odd`] tells which of them do not.
fn odd_line(start: usize, end: usize) -> Field {
    let none = Span::new(start, start);
    Field { name: Name::Other, line: Span::new(start, end + 2), written: none, value: Span::new(start, end) }
}

impl Field {
    /// Whether the line may read to others as a header by which messages are framed, routed or believed: it has no name, and what stands
    /// before its colon is one where odd bytes are passed over, as by who trims more than blanks.
    fn is_odd(&self, head: &[u8]) -> bool {
        let nameless = self.name == Name::Other && self.written.of(head).is_empty();
        let line = self.value.of(head);
        nameless && memchr(b':', line).is_some_and(|colon| is_decisive(without_odd_bytes(&line[..colon])))
    }
}

/// The name that is left of a text without the bytes that stand in none.
fn without_odd_bytes(text: &[u8]) -> Name {
    let (mut name, mut length) = ([0; NAME_MAX], 0);
    for byte in text.iter().filter(|byte| is_token_byte(**byte)) {
        let Some(place) = name.get_mut(length) else { return Name::Other };
        *place = *byte;
        length += 1;
    }
    Name::from_bytes(&name[..length])
}

/// Whether a header tells where a message ends, where it goes, which one it is, or whom it comes from.
fn is_decisive(name: Name) -> bool {
    matches!(
        name,
        Name::ContentLength
            | Name::Via
            | Name::Route
            | Name::RecordRoute
            | Name::Path
            | Name::ServiceRoute
            | Name::Contact
            | Name::MaxForwards
            | Name::From
            | Name::To
            | Name::CallId
            | Name::CSeq
            | Name::Authorization
            | Name::ProxyAuthorization
            | Name::PAssertedIdentity
            | Name::PPreferredIdentity
            | Name::RemotePartyId
            | Name::SipwakeCall
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Composer;
    use crate::message::limits::{ADDED_BYTES, ADDED_HEADERS, ADDED_VIAS};

    const BARE: &str = "OPTIONS sip:a@b SIP/2.0\r\n";

    fn parse(text: impl AsRef<[u8]>) -> Result<Message, Malformed> {
        message(&Bytes::copy_from_slice(text.as_ref()), &Limits::default())
    }

    #[test]
    fn compact_forms_foldings_and_lists_are_read_and_written_as_they_came() {
        let text = "SIP/2.0 200 OK\r\nv : SIP/2.0/TCP a;x=\"1,2\",\r\n SIP/2.0/UDP b\r\nX-New:  \u{c3}\u{bf} \r\n\t more \r\n\
                    f:sip:a@b;tag=1\r\nt:\r\n sip:c@d\r\ni: 1\r\nCSeq: 1 \r\n\tINVITE\r\nSubject:\r\n\r\n";
        let message = parse(text).unwrap();
        assert_eq!(message.to_bytes(), text.as_bytes());
        assert_eq!(message.elements(Name::Via).collect::<Vec<_>>(), ["SIP/2.0/TCP a;x=\"1,2\"", "SIP/2.0/UDP b"]);
        assert_eq!(message.values_written("x-new").next(), Some("\u{c3}\u{bf} \r\n\t more".as_bytes()));
        assert_eq!(message.values_written("subject").next(), Some(&b""[..]));
        assert_eq!((message.cseq(), message.check()), (Some((1, "INVITE")), Ok(())));
    }

    #[test]
    fn bytes_that_are_not_utf_8_pass_and_are_in_no_typed_view() {
        let head = b"OPTIONS sip:a@b SIP/2.0\r\nX: \xff\0\r\nVia: SIP/2.0/UDP \xff\r\nVia: SIP/2.0/UDP a\r\n\r\n";
        let message = parse(head).unwrap();
        assert_eq!(message.to_bytes(), &head[..]);
        assert_eq!(message.via(), None, "what stands below is not taken for what stands on top");
        assert_eq!(message.values_written("x").next(), Some(&b"\xff\0"[..]));
    }

    #[test]
    fn a_line_that_some_readers_would_split_is_a_fault() {
        let lines =
            ["To : x\u{0}\rX: y", "To: x\nX: y", "To: x\r X: y", " To: x", "\tTo: x", "To: x\n", "\nTo: x", "To: x\r"];
        for line in lines {
            let text = format!("{BARE}{line}\r\n\r\n");
            let message = parse(&text).unwrap();
            assert_eq!((message.to_bytes(), message.is_torn), (text.into(), true), "{line:?}");
            assert_eq!(message.check(), Err(super::super::Fault::HeaderLine), "{line:?}");
            let response = parse(format!("SIP/2.0 200 OK\r\n{line}\r\n\r\n")).unwrap();
            assert_eq!(response.check(), Err(super::super::Fault::HeaderLine), "{line:?}");
        }
        assert!(!parse(BARE.to_owned() + "\r\n").unwrap().is_torn);
        assert_eq!(parse(format!("{BARE}To: x\r\n")).err(), Some(Malformed::NoEnd));
        assert_eq!(parse(format!("{BARE}To: x\n\n")).err(), Some(Malformed::NoEnd));
    }

    #[test]
    fn a_line_that_is_no_header_passes_as_it_is() {
        for line in [
            "To x",
            ">world",
            "@",
            "\u{7}",
            "Subject",
            ">world: how are you",
            "see you at 10:30",
            "<http://127.0.0.1/ring>;info=x",
            "<sip:bob@h>;tag=q1",
            "User Agent: Foo/1.0",
            "X-CallerName(CNAM): Bob",
            ": x",
            ":",
            "\"x:y\"",
            "call to: bob",
            "Content Length: 5",
            "P Asserted Identity: x",
            "(a name that is longer than any header's): To: x",
        ] {
            let text = format!("{BARE}Subject: hello\r\n{line}\r\nTo: x\r\n\r\n");
            let message = parse(&text).unwrap();
            assert_eq!((message.to_bytes(), message.odd_line), (text.into(), false), "{line:?}");
        }
    }

    #[test]
    fn a_line_that_others_may_read_as_a_header_is_a_fault() {
        let lines = ["To\u{b}: x", "T o: x", "To\r\n : x", "T\u{f6}: x", "To\u{c}: x", "\"To\": x", "(To): x"];
        for line in lines {
            assert!(parse(format!("{BARE}{line}\r\n\r\n")).unwrap().odd_line, "{line:?}");
        }
        for name in ["Content-Length", "l", "Via", "Record-Route", "m", "CSeq", "P-Preferred-Identity", "Sipwake-Call"]
        {
            for line in [format!("\u{feff}{name}: x"), format!("{name}\u{b}: x"), format!("{name}\u{a0}:x:y")] {
                assert!(parse(format!("{BARE}{line}\r\n\r\n")).unwrap().odd_line, "{line:?}");
            }
        }
    }

    #[test]
    fn a_first_line_is_a_request_line_or_a_status_line() {
        for line in [
            "",
            "INVITE",
            "INVITE sip:a@b",
            "INVITE SIP/2.0",
            "INVITE  SIP/2.0",
            "IN(VITE sip:a SIP/2.0",
            "GET / HTTP/1.1",
            "INVITE sip:a@b SIP/",
            "INVITE sip:a@b SIP/2.0\tx",
            "INVITE sip:a\tb SIP/2.0",
            "INVITE sip:a@b SIP2.0",
            "INVITE\tsip:a@b SIP/2.0",
            " INVITE sip:a@b SIP/2.0",
            "INVITE sip:a@b SIP/2\u{e9}",
            "SIP/2.0",
            "SIP/2.0 ",
            "SIP/2.0 20",
            "SIP/2.0 099 x",
            "SIP/2.0 700 x",
            "SIP/2.0 2000 x",
            "SIP/2.0 200x",
            "SIP/2.0  200 OK",
            "SIP/2.0 +20 x",
            "SIP/3.0 200 OK",
            "INVITE sip:a@b SIP/2.0\nX: y",
            "SIP/2.0 200 OK\rX",
        ] {
            assert_eq!(parse(format!("{line}\r\nTo: x\r\n\r\n")).err(), Some(Malformed::StartLine), "{line:?}");
        }
        assert_eq!(parse("sip/2.0 180\r\n\r\n").unwrap().status(), Some(180));
        assert_eq!(parse("OPTIONS sip:a@b sip/2.0\r\n\r\n").unwrap().request_uri(), Some("sip:a@b"));
    }

    #[test]
    fn each_limit_holds_at_its_edge() {
        let lines = |n: usize| format!("{BARE}{}\r\n", "X: y\r\n".repeat(n));
        assert!(parse(lines(512)).is_ok());
        assert_eq!(parse(lines(513)).err(), Some(Malformed::TooManyHeaders));
        let vias = |n: usize| format!("{BARE}Via: a\r\nv: {}\r\n\r\n", vec!["b"; n - 1].join(","));
        assert!(parse(vias(72)).is_ok());
        assert_eq!(parse(vias(73)).err(), Some(Malformed::TooManyVias));
        assert_eq!(parse(vias(10_000)).err(), Some(Malformed::TooManyVias));
        let whole = |n: usize| format!("{BARE}\r\n{}", "x".repeat(n - BARE.len() - 2));
        assert!(parse(whole(65_536)).is_ok());
        assert_eq!(parse(whole(65_537)).err(), Some(Malformed::TooLong));
    }

    #[test]
    fn a_response_holds_what_a_request_may_and_what_was_added_to_it() {
        let answer = |lines: &str| parse(format!("SIP/2.0 200 OK\r\n{lines}\r\n"));
        assert!(answer(&"X: y\r\n".repeat(512 + ADDED_HEADERS)).is_ok());
        assert_eq!(answer(&"X: y\r\n".repeat(513 + ADDED_HEADERS)).err(), Some(Malformed::TooManyHeaders));
        assert!(answer(&"Via: a\r\n".repeat(72 + ADDED_VIAS)).is_ok());
        assert_eq!(answer(&"Via: a\r\n".repeat(73 + ADDED_VIAS)).err(), Some(Malformed::TooManyVias));
        let whole = |n: usize| answer(&format!("X: {}\r\n", "y".repeat(n - "SIP/2.0 200 OK\r\nX: \r\n\r\n".len())));
        assert!(whole(65_536 + ADDED_BYTES).is_ok());
        assert_eq!(whole(65_537 + ADDED_BYTES).err(), Some(Malformed::TooLong));
    }

    #[test]
    fn a_request_beyond_a_limit_is_answered_and_nothing_else_is() {
        let via = "Via: SIP/2.0/TCP h;branch=z9hG4bK1\r\n";
        let named = format!("{via}From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: i\r\nCSeq: 1 OPTIONS\r\n");
        let (limits, peer) = (Limits::default(), ([192, 0, 2, 1], 5060).into());
        let answer = |text: &str, beyond| {
            let bytes = Message::refusal(&Bytes::copy_from_slice(text.as_bytes()), beyond, &limits, peer)?;
            Some(message(&bytes, &Limits::COMPOSED).expect("an answer"))
        };
        let refused = |text: &str| {
            let answer = answer(text, parse(text).err().unwrap_or(Malformed::TooLong))?;
            assert_eq!((answer.check(), answer.values(Name::CallId).count()), (Ok(()), 1));
            Some((answer.status()?, answer.reason()?.to_owned(), answer.elements(Name::Via).count()))
        };
        let with_reason = |status, reason: &str, vias| Some((status, reason.to_owned(), vias));
        for lines in [600, 10_000] {
            let odd = "X: y\r\n".repeat(lines);
            let text = format!("{BARE}{odd}{named}\r\n");
            assert_eq!(refused(&text), with_reason(400, "More Than 512 Header Lines", 1));
        }
        let text = format!("{BARE}{named}{}\r\n", via.repeat(99));
        assert_eq!(refused(&text), with_reason(400, "More Than 72 Via Values", 100), "as many Vias as it had");
        let reason = Composer::reason(513);
        let text = format!("{BARE}{named}Content-Length: 99999\r\n\r\n");
        assert_eq!(refused(&text), with_reason(513, reason, 1), "its head alone");
        let text = format!("{BARE}{named}\r\n{}", "x".repeat(65_536));
        assert_eq!(refused(&text), with_reason(513, reason, 1), "whole");
        let odd = "X: y\r\n".repeat(600);
        for none in [
            format!("ACK sip:a@b SIP/2.0\r\n{named}{odd}\r\n"),
            format!("SIP/2.0 200 OK\r\n{named}{odd}\r\n"),
            format!("{BARE}{odd}\r\n"),
            format!("{BARE}{via}{odd}\r\n"),
            format!("{BARE}{}\r\n", named.replace("Via", "X")),
            format!("{BARE}{}\r\n", named.replace("CSeq", "X")),
            format!("{BARE}{}\r\n", named.replace("To", "X")),
            format!("GET / HTTP/1.1\r\n{named}{odd}\r\n"),
            "\r\n".to_owned(),
        ] {
            assert_eq!(answer(&none, Malformed::TooLong).map(|it| it.status()), None, "{none:?}");
        }
    }

    #[test]
    fn a_body_is_as_long_as_it_says_or_else_left_out() {
        let body = |lines: &str| parse(format!("{BARE}{lines}\r\nabcdef")).unwrap();
        assert_eq!(body("").body(), "abcdef");
        assert_eq!(body("l: 4\r\n").body(), "abcd");
        assert_eq!(body("Content-Length: 0\r\n").to_bytes(), format!("{BARE}Content-Length: 0\r\n\r\n"));
        for lines in
            ["l: 7\r\n", "l: -1\r\n", "l: 4294967302\r\n", "l:\r\n", "l: 6\r\nContent-Length: 6\r\n", "l: 2,2\r\n"]
        {
            let message = body(lines);
            assert_eq!((message.body().len(), message.length_fault.is_some()), (0, true), "{lines:?}");
        }
    }
}
