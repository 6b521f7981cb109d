//! Writing SIP messages line by line, valid or not, without the product's own writer.
//!
//! Invariant: what is asked for is what is written: nothing is added but `Content-Length`, nothing is checked.

use std::fmt::Write as _;

use bytes::Bytes;
use sip::message::{Composer, Limits, Message, Name};

/// A message that is being written.
#[derive(Clone, Debug)]
pub struct Lines(String);

impl Lines {
    /// Begins a request.
    pub fn request(method: &str, uri: &str) -> Self {
        Self(format!("{method} {uri} SIP/2.0\r\n"))
    }

    /// Begins a response: Via, From, To (with `tag`, when it has none), Call-ID, CSeq; Record-Route below 300.
    pub fn response(request: &Message, status: u16, tag: &str) -> Self {
        let mut lines = Self(format!("SIP/2.0 {status} {}\r\n", Composer::reason(status)));
        lines = lines.copy(request, Name::Via).copy(request, Name::From);
        let tagged = request.to().is_some_and(|to| to.tag().is_some());
        let to = request.text(Name::To).unwrap_or_default();
        lines =
            if tagged || status == 100 { lines.line("To", to) } else { lines.line("To", &format!("{to};tag={tag}")) };
        lines = lines.copy(request, Name::CallId).copy(request, Name::CSeq);
        if (101..300).contains(&status) { lines.copy(request, Name::RecordRoute) } else { lines }
    }

    /// Adds a header.
    pub fn line(mut self, name: &str, value: &str) -> Self {
        let _ = write!(self.0, "{name}: {value}\r\n");
        self
    }

    /// Adds several headers.
    pub fn lines<'a>(mut self, headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        for (name, value) in headers {
            self = self.line(name, value);
        }
        self
    }

    /// Copies every value of a header.
    pub fn copy(mut self, from: &Message, name: Name) -> Self {
        for value in from.values(name) {
            self = self.line(name.as_str(), &String::from_utf8_lossy(value));
        }
        self
    }

    /// Ends the message without a body.
    pub fn finish(self) -> Bytes {
        self.line("Content-Length", "0").end("")
    }

    /// Ends the message with a body.
    pub fn body(self, content_type: &str, body: &str) -> Bytes {
        let length = body.len().to_string();
        self.line("Content-Type", content_type).line("Content-Length", &length).end(body)
    }

    fn end(self, body: &str) -> Bytes {
        Bytes::from(self.0 + "\r\n" + body)
    }
}

/// Reads back what was written.
///
/// # Panics
/// When it is no SIP message.
pub fn parse(bytes: &Bytes) -> Message {
    Message::parse(bytes, &Limits::default()).expect("a stand-in writes SIP")
}

/// The first line of a message, for reports.
pub fn first_line(message: &Message) -> String {
    let head = message.head();
    let end = memchr::memchr(b'\r', head).unwrap_or(head.len());
    String::from_utf8_lossy(&head[..end]).into_owned()
}

/// An SDP body that offers or accepts one audio stream at a port where nobody listens.
pub fn sdp(version: u32) -> String {
    format!(
        "v=0\r\no=- 1 {version} IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0\r\n\
         a=rtpmap:0 PCMU/8000\r\n"
    )
}
