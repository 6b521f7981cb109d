//! Writing new messages (RFC 3261 §8.1.1, §8.2.6).
//!
//! Invariant: what is written is one message, whatever the values hold: control characters, which could begin another
//! line, become spaces, and white space is left out of a URI. `Content-Length` is written by the end alone, once, and
//! right; a line of that name, or of [`Name::Other`], is not written. Where a copied line may be taken for a length by its
//! reader, the true one stands before all of them, for the first one counts.

use std::fmt::Display;
use std::io::Write as _;

use bytes::Bytes;

use super::grammar::is_token;
use super::{Field, Message, Method, Name, Span};

/// Options that an `Unsupported` names at most, and the bytes that they take together at most.
const OPTIONS_NAMED: usize = 16;
const OPTIONS_BYTES: usize = 512;

/// A message that is being written, line by line.
#[derive(Debug)]
pub struct Composer {
    out: Vec<u8>,
    /// Where the first line ends.
    first_end: usize,
    /// Something was copied that some servers take for `Content-Length`.
    hides_length: bool,
}

impl Composer {
    /// Begins a request. The method is one that [`Method`] lists: a request with another one is only ever forwarded, which
    /// is [`super::Edit`]'s part.
    pub fn request(method: Method, uri: &str) -> Self {
        debug_assert_ne!(method, Method::Other);
        let mut out = Vec::with_capacity(768);
        out.extend_from_slice(method.as_str().as_bytes());
        out.push(b' ');
        push_uri(&mut out, uri);
        out.extend_from_slice(b" SIP/2.0\r\n");
        Self { first_end: out.len(), out, hides_length: false }
    }

    /// Begins a response to `request`: Via, From, To, Call-ID, CSeq and, where it may form a dialog, Record-Route are
    /// copied byte for byte (RFC 3261 §12.1.1). `to_tag`, a token, is added when To has none (§8.2.6.2). `status` is 100
    /// to 699.
    pub fn response(request: &Message, status: u16, reason: &str, to_tag: Option<&str>) -> Self {
        let mut out = Vec::with_capacity(768);
        push_status(&mut out, status, reason.as_bytes());
        let first_end = out.len();
        let forms_dialog = matches!(request.method(), Some(Method::Invite | Method::Subscribe | Method::Refer));
        let record_routes = (101..300).contains(&status) && forms_dialog;
        let to_tag = to_tag.filter(|tag| status > 100 && takes_tag(request, tag));
        for field in request.fields_that_count() {
            match field.name {
                name if is_identity(name) => push_identity(&mut out, request, field, to_tag),
                Name::Timestamp if status == 100 => push_copy(&mut out, request, field.line),
                Name::RecordRoute if record_routes => push_copy(&mut out, request, field.line),
                _ => {}
            }
        }
        Self { out, first_end, hides_length: request.hides_length }
    }

    /// The reason phrase that RFC 3261 §21, or a later one, gives a status, or that of its class.
    pub fn reason(status: u16) -> &'static str {
        match status {
            100 => "Trying",
            180 => "Ringing",
            181 => "Call Is Being Forwarded",
            182 => "Queued",
            183 => "Session Progress",
            200 => "OK",
            202 => "Accepted",
            300 => "Multiple Choices",
            301 => "Moved Permanently",
            302 => "Moved Temporarily",
            305 => "Use Proxy",
            380 => "Alternative Service",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            407 => "Proxy Authentication Required",
            406 => "Not Acceptable",
            408 => "Request Timeout",
            410 => "Gone",
            413 => "Request Entity Too Large",
            414 => "Request-URI Too Long",
            415 => "Unsupported Media Type",
            416 => "Unsupported URI Scheme",
            420 => "Bad Extension",
            421 => "Extension Required",
            422 => "Session Interval Too Small",
            423 => "Interval Too Brief",
            430 => "Flow Failed",
            439 => "First Hop Lacks Outbound Support",
            480 => "Temporarily Unavailable",
            481 => "Call/Transaction Does Not Exist",
            482 => "Loop Detected",
            483 => "Too Many Hops",
            484 => "Address Incomplete",
            485 => "Ambiguous",
            486 => "Busy Here",
            487 => "Request Terminated",
            488 => "Not Acceptable Here",
            489 => "Bad Event",
            491 => "Request Pending",
            493 => "Undecipherable",
            494 => "Security Agreement Required",
            500 => "Server Internal Error",
            501 => "Not Implemented",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Server Time-out",
            505 => "Version Not Supported",
            513 => "Message Too Large",
            555 => "Push Notification Service Not Supported",
            580 => "Precondition Failure",
            600 => "Busy Everywhere",
            603 => "Decline",
            607 => "Unwanted",
            608 => "Rejected",
            604 => "Does Not Exist Anywhere",
            606 => "Not Acceptable",
            _ => Self::class(status),
        }
    }

    fn class(status: u16) -> &'static str {
        match status / 100 {
            1 => "Progress",
            2 => "OK",
            3 => "Redirection",
            4 => "Request Failure",
            5 => "Server Failure",
            _ => "Global Failure",
        }
    }

    /// Adds a line.
    pub fn header(mut self, name: Name, value: impl Display) -> Self {
        push_line(&mut self.out, name, value.to_string().as_bytes());
        self
    }

    /// Adds a line of a name that [`Name`] does not list, which must be a token; else nothing is added.
    pub fn extension(mut self, name: &str, value: impl Display) -> Self {
        if is_token(name.as_bytes()) && Name::from_bytes(name.as_bytes()) == Name::Other {
            push_named(&mut self.out, name, value.to_string().as_bytes());
        }
        self
    }

    /// Adds a line when there is a value for it.
    pub fn maybe(self, name: Name, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.header(name, value),
            None => self,
        }
    }

    /// Adds the one `Unsupported` of a 420 (RFC 3261 §20.40): of the first 16 options each once, as long as all of them take no more than 512
    /// bytes. The answer is hardly longer than what it answers, however many that requires.
    pub fn unsupported<'a>(self, options: impl Iterator<Item = &'a str>) -> Self {
        let mut named: Vec<&str> = Vec::with_capacity(OPTIONS_NAMED);
        let mut bytes = 0;
        for option in options.take(OPTIONS_NAMED) {
            let is_new = !named.iter().any(|earlier| earlier.eq_ignore_ascii_case(option));
            if is_new && bytes + option.len() <= OPTIONS_BYTES {
                bytes += option.len();
                named.push(option);
            }
        }
        self.maybe(Name::Unsupported, (!named.is_empty()).then(|| named.join(",")))
    }

    /// Copies all lines of a header from another message, byte for byte; of From and To the first.
    pub fn copy(mut self, name: Name, from: &Message) -> Self {
        for field in from.fields_that_count().filter(|field| field.name == name && is_free(name)) {
            push_copy(&mut self.out, from, field.line);
            self.hides_length |= from.hides_length;
        }
        self
    }

    /// Ends a message without a body.
    pub fn finish(mut self) -> Bytes {
        self.push_length(0);
        self.out.extend_from_slice(b"\r\n");
        self.out.into()
    }

    /// Ends a message with a body of the given media type.
    pub fn body(mut self, content_type: &str, body: &[u8]) -> Bytes {
        push_line(&mut self.out, Name::ContentType, content_type.as_bytes());
        self.push_length(body.len());
        self.out.extend_from_slice(b"\r\n");
        self.out.extend_from_slice(body);
        self.out.into()
    }

    fn push_length(&mut self, length: usize) {
        if !self.hides_length {
            return push_length(&mut self.out, length);
        }
        let mut line = Vec::new();
        push_length(&mut line, length);
        self.out.splice(self.first_end..self.first_end, line);
    }
}

/// Writes a status line, whatever `reason` holds.
pub(super) fn push_status(out: &mut Vec<u8>, status: u16, reason: &[u8]) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "SIP/2.0 {status} ");
    push_text(out, reason);
    out.extend_from_slice(b"\r\n");
}

/// Whether a header is one of those that tell which request a response answers (RFC 3261 §8.2.6.2).
pub(super) fn is_identity(name: Name) -> bool {
    matches!(name, Name::Via | Name::From | Name::To | Name::CallId | Name::CSeq)
}

/// Whether the To of the answers to a request is given this tag: it has none yet, and the tag can stand there.
pub(super) fn takes_tag(request: &Message, tag: &str) -> bool {
    is_plain(tag) && request.to().is_none_or(|to| to.tag().is_none())
}

/// Copies one of the headers that tell which request a response answers; `to_tag`, which it [takes](takes_tag), is added to To.
pub(super) fn push_identity(out: &mut Vec<u8>, request: &Message, field: &Field, to_tag: Option<&str>) {
    match to_tag.filter(|_| field.name == Name::To) {
        None => push_copy(out, request, field.line),
        Some(tag) => {
            out.extend_from_slice(b"To: ");
            push_copy(out, request, without_empty_tag(request, field.value));
            out.extend_from_slice(b";tag=");
            out.extend_from_slice(tag.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// The value of a To that [takes a tag](takes_tag), without a `tag` that it ends with: that one is empty, and of two many a reader would take the
/// first, and so miss whose answer it is.
fn without_empty_tag(request: &Message, to: Span) -> Span {
    let value = to.of(&request.head).trim_ascii_end();
    let value = value.strip_suffix(b"=").unwrap_or(value).trim_ascii_end();
    let (before, name) = value.split_at(value.len().saturating_sub(b"tag".len()));
    match before.trim_ascii_end().strip_suffix(b";") {
        Some(before) if name.eq_ignore_ascii_case(b"tag") => {
            Span::new(to.start as usize, to.start as usize + before.trim_ascii_end().len())
        }
        _ => to,
    }
}

/// A tag that cannot be taken for another structure. A phone's may be more than a token, and is known to it by these bytes alone.
fn is_plain(tag: &str) -> bool {
    tag.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b',' | b';'))
}

/// Writes one line, whatever `value` holds; none for a name that is not the caller's to write.
pub(super) fn push_line(out: &mut Vec<u8>, name: Name, value: &[u8]) {
    if is_free(name) {
        push_named(out, name.as_str(), value);
    }
}

/// Writes the one `Content-Length` line.
pub(super) fn push_length(out: &mut Vec<u8>, length: usize) {
    push_named(out, Name::ContentLength.as_str(), length.to_string().as_bytes());
}

/// Writes a URI without the characters that would end it.
pub(super) fn push_uri(out: &mut Vec<u8>, uri: &str) {
    out.extend(uri.bytes().filter(|b| !b.is_ascii_control() && *b != b' '));
}

fn is_free(name: Name) -> bool {
    !matches!(name, Name::ContentLength | Name::Other)
}

fn push_named(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    push_text(out, value);
    out.extend_from_slice(b"\r\n");
}

/// Writes a part of a head as it came. Of a torn one, which is only ever refused, each bare CR and LF as a space: what some
/// readers would take for a line of its own is none in the answer.
fn push_copy(out: &mut Vec<u8>, message: &Message, part: Span) {
    let bytes = part.of(&message.head);
    if !message.is_torn {
        return out.extend_from_slice(bytes);
    }
    let is_bare = |at: usize| match bytes[at] {
        b'\r' => bytes.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || bytes[at - 1] != b'\r',
        _ => false,
    };
    out.extend((0..bytes.len()).map(|at| if is_bare(at) { b' ' } else { bytes[at] }));
}

/// Writes text, each control character as a space.
fn push_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().map(|b| if b.is_ascii_control() && *b != b'\t' { b' ' } else { *b }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Limits;

    fn parse(bytes: &Bytes) -> Message {
        Message::parse(bytes, &Limits::default()).unwrap()
    }

    fn invite(to: &str) -> Message {
        let text = format!(
            "INVITE sip:a@b SIP/2.0\r\nv: SIP/2.0/TLS h;branch=z9hG4bK1,\r\n SIP/2.0/UDP i\r\nRecord-Route: <sip:r;lr>\r\n\
             f: <sip:a@b>;tag=1\r\nTo: {to}\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nTimestamp: 54\r\nSubject: s\r\n\r\n"
        );
        parse(&Bytes::from(text))
    }

    #[test]
    fn a_response_carries_what_rfc_3261_section_8_2_6_names() {
        let bytes = Composer::response(&invite("<sip:c@d>"), 180, "Ringing", Some("t")).finish();
        assert_eq!(
            bytes,
            "SIP/2.0 180 Ringing\r\nv: SIP/2.0/TLS h;branch=z9hG4bK1,\r\n SIP/2.0/UDP i\r\nRecord-Route: <sip:r;lr>\r\n\
             f: <sip:a@b>;tag=1\r\nTo: <sip:c@d>;tag=t\r\nCall-ID: x\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
        );
        assert_eq!(parse(&bytes).check(), Ok(()));
        let trying = parse(&Composer::response(&invite("<sip:c@d>"), 100, "Trying", Some("t")).finish());
        assert_eq!(trying.to().unwrap().tag(), None, "100 has no tag");
        assert_eq!((trying.has(Name::RecordRoute), trying.text(Name::Timestamp)), (false, Some("54")));
        let refused = parse(&Composer::response(&invite("<sip:c@d>;tag=old"), 603, "Decline", Some("t")).finish());
        assert_eq!((refused.to().unwrap().tag(), refused.has(Name::RecordRoute)), (Some("old"), false));
    }

    #[test]
    fn what_some_readers_would_split_is_one_line_in_an_answer() {
        for torn in
            ["<sip:c@d>\nEvil: 1", "<sip:c@d>\rEvil: 1", "x\n\rEvil: 1", "<sip:c@d>\r\r\n \n", "\n<sip:c@d>;tag=\n"]
        {
            let request = invite(torn);
            assert_eq!(request.check(), Err(crate::message::Fault::HeaderLine), "{torn:?}");
            for answer in [
                Composer::response(&request, 400, "Bad", Some("t")),
                Composer::request(Method::Message, "sip:a@b").copy(Name::To, &request),
            ] {
                let answer = parse(&answer.finish());
                assert!(!answer.is_torn, "{torn:?}");
                assert_eq!(answer.values_written("Evil").count(), 0, "{torn:?}");
            }
        }
    }

    /// The length that Kamailio and OpenSIPS take from a stream (their `tcp_read_headers`): the first, on a folded line too, and with `_`.
    fn length_on_a_stream(message: &Bytes) -> Option<usize> {
        let lines = message.split(|b| *b == b'\n').skip(1).take_while(|line| !matches!(*line, b"" | b"\r"));
        let mut lengths = lines.filter_map(|line| {
            let (name, value) = str::from_utf8(line).ok()?.trim_start_matches([' ', '\t']).split_once(':')?;
            let name = name.trim_end_matches([' ', '\t']).to_ascii_lowercase().replace('_', "-");
            matches!(name.as_str(), "l" | "content-length").then(|| value.trim().parse().ok())?
        });
        lengths.next()
    }

    #[test]
    fn no_line_of_another_is_taken_for_the_length_by_a_server_that_reads_folded_ones() {
        for hidden in [
            "a\r\n l: 5000\r\n <sip:c@d>",
            "\r\n\tContent_Length: 5000\r\n <sip:c@d>",
            "a\r\n \t L : 5000\r\n <sip:c@d>;tag=x",
        ] {
            let request = invite(hidden);
            assert_eq!((request.check(), length_on_a_stream(&request.to_bytes())), (Ok(()), Some(5000)), "{hidden:?}");
            let answer = Composer::response(&request, 180, "Ringing", Some("t"));
            assert_eq!(length_on_a_stream(&answer.finish()), Some(0), "{hidden:?}");
            let copy = Composer::request(Method::Message, "sip:a@b").copy(Name::To, &request);
            assert_eq!(length_on_a_stream(&copy.body("text/plain", b"hello")), Some(5), "{hidden:?}");
            let answer =
                parse(&Bytes::from_static(b"SIP/2.0 200 OK\r\nl: 2\r\n\r\nhi")).edit().answering(&request).finish();
            assert_eq!(length_on_a_stream(&answer), Some(2), "{hidden:?}");
        }
        for line in
            ["X: y\r\n l: 5000", "Content_Length: 5000", "CONTENT_LENGTH \t: 5000", "Subject:\r\n content-length: 5000"]
        {
            for length in ["", "l: 2\r\n"] {
                let message = Bytes::from(format!("BYE sip:a@b SIP/2.0\r\n{line}\r\n{length}\r\nhi"));
                let passed = parse(&message).edit().prepend(Name::Via, "SIP/2.0/TLS h").finish();
                assert_eq!(length_on_a_stream(&passed), Some(2), "{line:?}");
                let passed = parse(&passed);
                assert_eq!(
                    (passed.check(), passed.values(Name::ContentLength).count()),
                    (parse(&message).check(), 1),
                    "{line:?}"
                );
                let (name, value) = line.split_once(':').unwrap();
                assert_eq!(
                    passed.values_written(name.trim()).next(),
                    Some(value.trim_start_matches([' ']).trim_start().as_bytes()),
                    "{line:?}"
                );
            }
        }
    }

    #[test]
    fn an_answer_has_the_first_to_alone_however_many_there_are() {
        let count = 600;
        let to = format!("<sip:c@d>{}", ";".repeat(3_200)) + &"\r\nt:x".repeat(count);
        let request = Message::parse(&invite(&to[..9]).edit().finish(), &Limits::COMPOSED).unwrap();
        let text = String::from_utf8(request.head().to_vec()).unwrap().replace("<sip:c@d>", &to);
        let request = Message::parse(&text.into(), &Limits::COMPOSED).unwrap();
        let answer = Composer::response(&request, 400, "Bad Request", Some("t")).finish();
        assert_eq!(memchr::memmem::find_iter(&answer, b";tag=t\r\n").count(), 1);
        assert!(answer.len() < request.head().len());
        let (beyond, peer) = (crate::message::Malformed::TooManyHeaders, ([192, 0, 2, 1], 5060).into());
        let refusal = Message::refusal(request.head(), beyond, &Limits::default(), peer).expect("an answer");
        assert_eq!(parse(&refusal).values(Name::To).count(), 1);
    }

    #[test]
    fn a_length_is_written_once_and_right_whoever_asks_for_another() {
        let composer = Composer::request(Method::Message, "sip:a@b").header(Name::ContentLength, 99);
        let from = parse(&Bytes::from_static(b"BYE sip:a@b SIP/2.0\r\nl: 0\r\nX: y\r\n\r\n"));
        let composer = composer.copy(Name::ContentLength, &from).copy(Name::Other, &from).header(Name::Other, "x");
        let composer =
            composer.extension("X-Own", "1\r\n2").extension("Content-Length", 7).extension("l", 7).extension("a b", 1);
        assert_eq!(
            composer.body("text/plain", b"hi"),
            "MESSAGE sip:a@b SIP/2.0\r\nX-Own: 1  2\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"
        );
    }

    #[test]
    fn every_status_has_a_reason() {
        for status in 100..700 {
            assert!(!Composer::reason(status).is_empty());
        }
        assert_eq!((Composer::reason(599), Composer::reason(487)), ("Server Failure", "Request Terminated"));
    }
}
