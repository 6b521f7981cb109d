//! Bytes ⇄ [`Message`]: lossless headers, lazy typed views, framing of streams, and limits (RFC 3261 §7, §20, §25).
//!
//! A message is one buffer and a list of spans into it. Nothing is copied or interpreted until somebody asks for a typed
//! view; what is forwarded is the bytes that came in, with the few lines changed that a proxy must change
//! ([`Message::edit`]).
//!
//! Two tiers of judgement, because their consequences differ:
//! * [`Message::parse`] fails with [`Malformed`] when the bytes have no structure; such a message is dropped.
//! * [`Message::check`] names the first [`Fault`] of a message that has structure; a request with one is answered 400.
//!
//! Invariant: bytes that this module does not understand leave as they came. No input makes it panic, recurse, or
//! allocate more than a constant times the input's length.

mod address;
mod compose;
mod edit;
mod frame;
mod limits;
mod method;
mod name;
mod params;
mod uri;
mod via;

use std::fmt;

use bytes::Bytes;
use memchr::{memchr, memchr2, memmem};

pub use address::NameAddr;
pub use compose::Composer;
pub use edit::Edit;
pub use frame::{Frame, FrameError, Framer};
pub use limits::Limits;
pub use method::Method;
pub use name::Name;
pub use params::{Params, unquote};
pub use uri::{Scheme, Uri};
pub use via::Via;

/// The place of some bytes in a message's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    fn new(start: usize, end: usize) -> Self {
        // A head is at most `Limits::message_bytes`, which is far below 4 GiB.
        Self { start: start as u32, end: end as u32 }
    }

    fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// One header field: a whole line, with its foldings.
#[derive(Clone, Copy, Debug)]
struct Field {
    name: Name,
    /// From the first byte of the name to the end of the line, its CRLF included.
    line: Span,
    /// The name as written.
    written: Span,
    /// The value without surrounding white space; foldings inside are kept.
    value: Span,
}

#[derive(Clone, Copy, Debug)]
enum Start {
    Request { method: Method, written: Span, uri: Span, version_2: bool },
    Response { status: u16, reason: Span },
}

/// A SIP request or response.
#[derive(Clone)]
pub struct Message {
    /// Start line and headers, with the empty line that ends them.
    head: Bytes,
    start: Start,
    fields: Vec<Field>,
    body: Bytes,
}

/// Why bytes are not a SIP message at all. Such bytes get no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Longer than [`Limits::message_bytes`].
    TooLong,
    /// No empty line ends the head.
    NoEnd,
    /// The first line is neither a request line nor a status line.
    StartLine,
    /// A line of the head is no header field, or ends with a bare CR or LF.
    HeaderLine,
    /// More fields than [`Limits::headers`].
    TooManyHeaders,
    /// More Via values than [`Limits::vias`].
    TooManyVias,
    /// `Content-Length` is repeated, not a number, or larger than the bytes that came.
    ContentLength,
}

/// What is wrong with a message that has the structure of one. A request is answered 400 with this as the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A header that every message needs is absent.
    Missing(Name),
    /// A header that may stand only once stands twice.
    Repeated(Name),
    /// A header whose value breaks its grammar.
    Broken(Name),
    /// The method in CSeq is not the request's.
    CSeqMethod,
    /// The Request-URI breaks the grammar of its scheme.
    RequestUri,
    /// A SIP version other than 2.0: 505.
    Version,
}

impl Message {
    /// Parses one whole message: a datagram, or what [`Framer`] cut from a stream.
    ///
    /// Bytes behind `Content-Length` are dropped (RFC 3261 §18.3).
    ///
    /// # Errors
    /// [`Malformed`] when the bytes have no SIP structure or exceed a limit.
    pub fn parse(bytes: &Bytes, limits: &Limits) -> Result<Self, Malformed> {
        if bytes.len() > limits.message_bytes {
            return Err(Malformed::TooLong);
        }
        let end = memmem::find(bytes, b"\r\n\r\n").ok_or(Malformed::NoEnd)? + 4;
        let head = bytes.slice(..end);
        let first = memmem::find(&head, b"\r\n").ok_or(Malformed::NoEnd)?;
        let start = start_line(&head[..first])?;
        let fields = header_fields(&head, first + 2, limits)?;
        let mut message = Self { head, start, fields, body: Bytes::new() };
        let rest = bytes.len() - end;
        let length = message.content_length()?.unwrap_or(rest);
        if length > rest {
            return Err(Malformed::ContentLength);
        }
        message.body = bytes.slice(end..end + length);
        Ok(message)
    }

    /// Judges what RFC 3261 §8.1.1 and §8.2.2 ask of every message.
    ///
    /// # Errors
    /// The first [`Fault`], for the 400 that answers a request.
    pub fn check(&self) -> Result<(), Fault> {
        if let Start::Request { uri, version_2, .. } = self.start {
            if !version_2 {
                return Err(Fault::Version);
            }
            let uri = std::str::from_utf8(uri.of(&self.head)).map_err(|_| Fault::RequestUri)?;
            Uri::parse(uri).ok_or(Fault::RequestUri)?;
        }
        for name in [Name::From, Name::To, Name::CallId, Name::CSeq] {
            match self.fields.iter().filter(|f| f.name == name).count() {
                0 => return Err(Fault::Missing(name)),
                1 => {}
                _ => return Err(Fault::Repeated(name)),
            }
        }
        if self.fields.iter().filter(|f| f.name == Name::MaxForwards).count() > 1 {
            return Err(Fault::Repeated(Name::MaxForwards));
        }
        self.via().ok_or(if self.has(Name::Via) { Fault::Broken(Name::Via) } else { Fault::Missing(Name::Via) })?;
        let from = self.from().ok_or(Fault::Broken(Name::From))?;
        let to = self.to().ok_or(Fault::Broken(Name::To))?;
        for (address, name) in [(&from, Name::From), (&to, Name::To)] {
            if address.params.get("tag").is_some_and(|tag| tag.is_none_or(str::is_empty)) {
                return Err(Fault::Broken(name));
            }
        }
        self.call_id().ok_or(Fault::Broken(Name::CallId))?;
        let (_, method) = self.cseq().ok_or(Fault::Broken(Name::CSeq))?;
        if self.has(Name::MaxForwards) && self.max_forwards().is_none() {
            return Err(Fault::Broken(Name::MaxForwards));
        }
        if self.has(Name::Contact) && self.contacts().is_none() {
            return Err(Fault::Broken(Name::Contact));
        }
        match self.method_text() {
            Some(text) if text != method => Err(Fault::CSeqMethod),
            _ => Ok(()),
        }
    }

    /// Whether this is a request.
    pub fn is_request(&self) -> bool {
        matches!(self.start, Start::Request { .. })
    }

    /// The method, of a request.
    pub fn method(&self) -> Option<Method> {
        match self.start {
            Start::Request { method, .. } => Some(method),
            Start::Response { .. } => None,
        }
    }

    /// The method as written, of a request.
    pub fn method_text(&self) -> Option<&str> {
        match self.start {
            Start::Request { written, .. } => std::str::from_utf8(written.of(&self.head)).ok(),
            Start::Response { .. } => None,
        }
    }

    /// The status code, 100 to 699, of a response.
    pub fn status(&self) -> Option<u16> {
        match self.start {
            Start::Request { .. } => None,
            Start::Response { status, .. } => Some(status),
        }
    }

    /// The reason phrase, of a response.
    pub fn reason(&self) -> Option<&str> {
        match self.start {
            Start::Request { .. } => None,
            Start::Response { reason, .. } => std::str::from_utf8(reason.of(&self.head)).ok(),
        }
    }

    /// The Request-URI as written, of a request.
    pub fn request_uri(&self) -> Option<&str> {
        match self.start {
            Start::Request { uri, .. } => std::str::from_utf8(uri.of(&self.head)).ok(),
            Start::Response { .. } => None,
        }
    }

    /// The body, exactly as it came.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Start line and headers, exactly as they came, with the empty line that ends them.
    pub fn head(&self) -> &Bytes {
        &self.head
    }

    /// The whole message as bytes. Copies when there is a body.
    pub fn to_bytes(&self) -> Bytes {
        if self.body.is_empty() {
            return self.head.clone();
        }
        let mut out = Vec::with_capacity(self.head.len() + self.body.len());
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&self.body);
        out.into()
    }

    /// Whether a header of this name is present.
    pub fn has(&self, name: Name) -> bool {
        self.fields.iter().any(|field| field.name == name)
    }

    /// The values of all lines of a header, in order, without surrounding white space; foldings are kept.
    pub fn values(&self, name: Name) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.fields.iter().filter(move |field| field.name == name).map(|field| field.value.of(&self.head))
    }

    /// The values of all lines of a header that [`Name`] does not list; `written` is compared without case.
    pub fn values_written<'a>(&'a self, written: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |field| field.written.of(&self.head).eq_ignore_ascii_case(written.as_bytes()))
            .map(|field| field.value.of(&self.head))
    }

    /// The first value of a header as text; `None` when it is absent or not UTF-8.
    pub fn text(&self, name: Name) -> Option<&str> {
        self.values(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The elements of a comma-separated header, over all its lines, in order (RFC 3261 §7.3.1). Commas inside quotes
    /// and angle brackets do not separate. Elements that are not UTF-8 are left out.
    pub fn elements(&self, name: Name) -> impl Iterator<Item = &str> {
        self.values(name).filter_map(|value| std::str::from_utf8(value).ok()).flat_map(split_list)
    }

    /// Whether a comma-separated header of option tags holds `tag`, compared without case.
    pub fn lists(&self, name: Name, tag: &str) -> bool {
        self.elements(name).any(|element| element.eq_ignore_ascii_case(tag))
    }

    /// The topmost Via.
    pub fn via(&self) -> Option<Via<'_>> {
        self.elements(Name::Via).next().and_then(Via::parse)
    }

    /// The From address.
    pub fn from(&self) -> Option<NameAddr<'_>> {
        self.text(Name::From).and_then(NameAddr::parse)
    }

    /// The To address.
    pub fn to(&self) -> Option<NameAddr<'_>> {
        self.text(Name::To).and_then(NameAddr::parse)
    }

    /// The Contact addresses; empty when there are none or only `*`, `None` when one is broken.
    pub fn contacts(&self) -> Option<Vec<NameAddr<'_>>> {
        self.elements(Name::Contact).filter(|element| *element != "*").map(NameAddr::parse).collect()
    }

    /// The route at `index` of the Route header, from the top.
    pub fn route(&self, index: usize) -> Option<NameAddr<'_>> {
        self.elements(Name::Route).nth(index).and_then(NameAddr::parse)
    }

    /// The Call-ID.
    pub fn call_id(&self) -> Option<&str> {
        self.text(Name::CallId).filter(|id| !id.is_empty() && !id.bytes().any(is_lws))
    }

    /// The number, below 2^31, and the method of the CSeq (RFC 3261 §8.1.1.5).
    pub fn cseq(&self) -> Option<(u32, &str)> {
        let text = self.text(Name::CSeq)?;
        let (number, method) = text.split_at(text.find(|c: char| c.is_ascii() && is_lws(c as u8))?);
        let method = trim(method);
        let number: u32 = digits(number)?;
        (number < 1 << 31 && is_token(method.as_bytes())).then_some((number, method))
    }

    /// Max-Forwards, 0 to 255; `None` when absent or broken.
    pub fn max_forwards(&self) -> Option<u8> {
        let number: u32 = digits(self.text(Name::MaxForwards)?)?;
        u8::try_from(number).ok()
    }

    /// A header whose value is a number of seconds or a count; numbers above `u32::MAX` read as `u32::MAX`.
    pub fn number(&self, name: Name) -> Option<u32> {
        let text = self.text(name)?;
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        saturating_digits(&text[..end])
    }

    /// Begins a changed copy of this message; what is not changed leaves byte for byte as it came.
    pub fn edit(&self) -> Edit<'_> {
        Edit::new(self)
    }

    fn content_length(&self) -> Result<Option<usize>, Malformed> {
        let mut values = self.values(Name::ContentLength);
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(Malformed::ContentLength);
        }
        parse_length(value).map(Some).ok_or(Malformed::ContentLength)
    }
}

impl fmt::Debug for Message {
    /// Shows the first line alone without its URI: headers may name people.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.start {
            Start::Request { .. } => write!(f, "Message({})", self.method_text().unwrap_or("?")),
            Start::Response { status, .. } => write!(f, "Message({status})"),
        }
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
            Self::Version => f.write_str("Version Not Supported"),
        }
    }
}

fn start_line(line: &[u8]) -> Result<Start, Malformed> {
    if let Some(rest) = strip_version(line) {
        let rest = rest.strip_prefix(b" ").ok_or(Malformed::StartLine)?;
        let code = rest.get(..3).ok_or(Malformed::StartLine)?;
        let status = code.iter().try_fold(0u16, |n, d| d.is_ascii_digit().then(|| n * 10 + u16::from(d - b'0')));
        let status = status.filter(|s| (100..700).contains(s)).ok_or(Malformed::StartLine)?;
        let at = line.len() - rest.len() + 3;
        return match line.get(at) {
            None => Ok(Start::Response { status, reason: Span::new(at, at) }),
            Some(b' ') if memchr2(b'\r', b'\n', line).is_none() => {
                Ok(Start::Response { status, reason: Span::new(at + 1, line.len()) })
            }
            Some(_) => Err(Malformed::StartLine),
        };
    }
    let method_end = memchr(b' ', line).ok_or(Malformed::StartLine)?;
    let uri_end = memchr::memrchr(b' ', line).filter(|end| *end > method_end).ok_or(Malformed::StartLine)?;
    let (method, uri, version) = (&line[..method_end], &line[method_end + 1..uri_end], &line[uri_end + 1..]);
    let odd = |b: &u8| b.is_ascii_whitespace() || b.is_ascii_control();
    let sip = version.get(..4).is_some_and(|v| v.eq_ignore_ascii_case(b"SIP/")) && version.len() > 4;
    if !is_token(method) || uri.is_empty() || uri.iter().any(odd) || !sip {
        return Err(Malformed::StartLine);
    }
    Ok(Start::Request {
        method: Method::from_bytes(method),
        written: Span::new(0, method_end),
        uri: Span::new(method_end + 1, uri_end),
        version_2: strip_version(version) == Some(b""),
    })
}

fn strip_version(line: &[u8]) -> Option<&[u8]> {
    let (version, rest) = line.split_at_checked(7)?;
    version.eq_ignore_ascii_case(b"SIP/2.0").then_some(rest)
}

fn header_fields(head: &[u8], mut at: usize, limits: &Limits) -> Result<Vec<Field>, Malformed> {
    let mut fields = Vec::with_capacity(24);
    let mut vias = 0;
    loop {
        let end = line_end(head, at)?;
        if end == at {
            return Ok(fields);
        }
        let mut line_end_at = end;
        while matches!(head.get(line_end_at + 2), Some(b' ' | b'\t')) {
            line_end_at = line_end(head, line_end_at + 2)?;
        }
        let field = header_field(head, at, line_end_at)?;
        if field.name == Name::Via {
            vias += split_list(std::str::from_utf8(field.value.of(head)).unwrap_or("?")).count();
            if vias > limits.vias {
                return Err(Malformed::TooManyVias);
            }
        }
        if fields.len() == limits.headers {
            return Err(Malformed::TooManyHeaders);
        }
        fields.push(field);
        at = line_end_at + 2;
    }
}

/// The index of the CRLF that ends the line at `from`.
fn line_end(head: &[u8], from: usize) -> Result<usize, Malformed> {
    let at = from + memchr2(b'\r', b'\n', head.get(from..).unwrap_or_default()).ok_or(Malformed::HeaderLine)?;
    if head[at..].starts_with(b"\r\n") { Ok(at) } else { Err(Malformed::HeaderLine) }
}

fn header_field(head: &[u8], start: usize, end: usize) -> Result<Field, Malformed> {
    let line = &head[start..end];
    let colon = memchr(b':', line).ok_or(Malformed::HeaderLine)?;
    let name = line[..colon].trim_ascii_end();
    if !is_token(name) || line[name.len()..colon].iter().any(|b| !matches!(b, b' ' | b'\t')) {
        return Err(Malformed::HeaderLine);
    }
    let mut from = colon + 1;
    let mut to = line.len();
    while from < to && is_lws(line[from]) {
        from += 1;
    }
    while to > from && is_lws(line[to - 1]) {
        to -= 1;
    }
    Ok(Field {
        name: Name::from_bytes(name),
        line: Span::new(start, end + 2),
        written: Span::new(start, start + name.len()),
        value: Span::new(start + from, start + to),
    })
}

/// A `Content-Length` value: digits alone, and small enough to be a length at all.
fn parse_length(value: &[u8]) -> Option<usize> {
    digits(std::str::from_utf8(value).ok()?).map(|n: u32| n as usize)
}

/// Digits alone, that fit.
fn digits(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) { None } else { text.parse().ok() }
}

fn saturating_digits(text: &str) -> Option<u32> {
    (!text.is_empty()).then(|| text.parse().unwrap_or(u32::MAX))
}

/// Linear white space, folded or not.
fn is_lws(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
}

/// A `token` (RFC 3261 §25.1): one character or more.
fn is_token(bytes: &[u8]) -> bool {
    const MARKS: &[u8] = b"-.!%*_+`'~";
    !bytes.is_empty() && bytes.iter().all(|b| b.is_ascii_alphanumeric() || MARKS.contains(b))
}

/// Splits at commas outside quotes and angle brackets; empty elements are left out.
fn split_list(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = list_end(text);
        rest = text.get(end + 1..);
        Some(trim(&text[..end]))
    })
    .filter(|element| !element.is_empty())
}

/// The index of the comma that ends the first element, or the length.
fn list_end(text: &str) -> usize {
    let (mut quoted, mut escaped, mut angle) = (false, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'<' if !quoted => angle = true,
            b'>' if !quoted => angle = false,
            b',' if !quoted && !angle => return at,
            _ => {}
        }
    }
    text.len()
}
