//! Writing new messages (RFC 3261 §8.1.1, §8.2.6).
//!
//! Invariant: what is written is one message, whatever the values hold: control characters, which could begin another
//! line, become spaces. `Content-Length` is always written, and always right.

use std::fmt::Display;
use std::io::Write as _;

use bytes::Bytes;

use super::{Message, Method, Name};

/// A message that is being written, line by line.
#[derive(Debug)]
pub struct Composer {
    out: Vec<u8>,
}

impl Composer {
    /// Begins a request.
    pub fn request(method: Method, uri: &str) -> Self {
        let mut out = Vec::with_capacity(768);
        out.extend_from_slice(method.as_str().as_bytes());
        out.push(b' ');
        push_text(&mut out, uri);
        out.extend_from_slice(b" SIP/2.0\r\n");
        Self { out }
    }

    /// Begins a response to `request`: Via, From, To, Call-ID, CSeq and, in a dialog-forming one, Record-Route are copied
    /// byte for byte. `to_tag` is added when To has none (RFC 3261 §8.2.6.2).
    pub fn response(request: &Message, status: u16, reason: &str, to_tag: Option<&str>) -> Self {
        let mut out = Vec::with_capacity(768);
        // Writing to a Vec cannot fail.
        let _ = write!(out, "SIP/2.0 {status} ");
        push_text(&mut out, reason);
        out.extend_from_slice(b"\r\n");
        let record_routes = (101..300).contains(&status) && request.method() == Some(Method::Invite);
        for field in &request.fields {
            match field.name {
                Name::Via | Name::From | Name::CallId | Name::CSeq => {
                    out.extend_from_slice(field.line.of(&request.head));
                }
                Name::Timestamp if status == 100 => out.extend_from_slice(field.line.of(&request.head)),
                Name::RecordRoute if record_routes => out.extend_from_slice(field.line.of(&request.head)),
                Name::To => {
                    let tagged = request.to().is_some_and(|to| to.tag().is_some());
                    match to_tag.filter(|_| !tagged && status > 100) {
                        None => out.extend_from_slice(field.line.of(&request.head)),
                        Some(tag) => {
                            out.extend_from_slice(b"To: ");
                            out.extend_from_slice(field.value.of(&request.head));
                            out.extend_from_slice(b";tag=");
                            push_text(&mut out, tag);
                            out.extend_from_slice(b"\r\n");
                        }
                    }
                }
                _ => {}
            }
        }
        Self { out }
    }

    /// The reason phrase that RFC 3261 §21 gives a status, or that of its class.
    pub fn reason(status: u16) -> &'static str {
        match status {
            100 => "Trying",
            180 => "Ringing",
            181 => "Call Is Being Forwarded",
            182 => "Queued",
            183 => "Session Progress",
            200 => "OK",
            202 => "Accepted",
            400 => "Bad Request",
            401 => "Unauthorized",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            407 => "Proxy Authentication Required",
            408 => "Request Timeout",
            413 => "Request Entity Too Large",
            415 => "Unsupported Media Type",
            416 => "Unsupported URI Scheme",
            420 => "Bad Extension",
            423 => "Interval Too Brief",
            430 => "Flow Failed",
            439 => "First Hop Lacks Outbound Support",
            480 => "Temporarily Unavailable",
            481 => "Call/Transaction Does Not Exist",
            482 => "Loop Detected",
            483 => "Too Many Hops",
            486 => "Busy Here",
            487 => "Request Terminated",
            489 => "Bad Event",
            500 => "Server Internal Error",
            501 => "Not Implemented",
            503 => "Service Unavailable",
            504 => "Server Time-out",
            505 => "Version Not Supported",
            513 => "Message Too Large",
            555 => "Push Notification Service Not Supported",
            600 => "Busy Everywhere",
            603 => "Decline",
            604 => "Does Not Exist Anywhere",
            606 => "Not Acceptable",
            100..=199 => "Progress",
            200..=299 => "OK",
            300..=399 => "Redirection",
            400..=499 => "Request Failure",
            500..=599 => "Server Failure",
            _ => "Global Failure",
        }
    }

    /// Adds a line.
    pub fn header(mut self, name: Name, value: impl Display) -> Self {
        push_line(&mut self.out, name.as_str(), &value.to_string());
        self
    }

    /// Adds a line when there is a value for it.
    pub fn maybe(self, name: Name, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.header(name, value),
            None => self,
        }
    }

    /// Copies all lines of a header from another message, byte for byte.
    pub fn copy(mut self, name: Name, from: &Message) -> Self {
        for field in from.fields.iter().filter(|field| field.name == name) {
            self.out.extend_from_slice(field.line.of(&from.head));
        }
        self
    }

    /// Ends a message without a body.
    pub fn finish(mut self) -> Bytes {
        self.out.extend_from_slice(b"Content-Length: 0\r\n\r\n");
        self.out.into()
    }

    /// Ends a message with a body of the given media type.
    pub fn body(mut self, content_type: &str, body: &[u8]) -> Bytes {
        push_line(&mut self.out, Name::ContentType.as_str(), content_type);
        let _ = write!(self.out, "Content-Length: {}\r\n\r\n", body.len());
        self.out.extend_from_slice(body);
        self.out.into()
    }
}

/// Writes one line, whatever `value` holds.
pub(super) fn push_line(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    push_text(out, value);
    out.extend_from_slice(b"\r\n");
}

/// Writes text, each control character as a space.
fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().map(|b| if b.is_ascii_control() && b != b'\t' { b' ' } else { b }));
}
