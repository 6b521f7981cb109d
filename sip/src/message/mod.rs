//! Bytes ⇄ [`Message`]: lossless headers, lazy typed views, framing of streams, and limits (RFC 3261 §7, §20, §25).
//!
//! A message is one buffer and a list of spans into it. Nothing is copied or interpreted until somebody asks for a typed
//! view; what is forwarded is the bytes that came in, with the few lines changed that a proxy must change
//! ([`Message::edit`]).
//!
//! Two tiers of judgement, because their consequences differ:
//! * [`Message::parse`] fails with [`Malformed`] when the bytes have no structure; such a message is dropped, and answered where
//!   [`Message::refusal`] finds what an answer needs.
//! * [`Message::check`] names the first [`Fault`] of a message that has structure; a request with one is answered 400.
//!
//! | room | what it is |
//! | --- | --- |
//! | *reading* | |
//! | `parse`, `check` | bytes to a message, and the headers that a message must have |
//! | `grammar`, `limits` | the pieces of all views, and what a message may cost |
//! | `address`, `party`, `uri`, `params` | From, To, Contact and their URIs |
//! | `via`, `name`, `method` | Via, header names, methods |
//! | *a stream* | |
//! | `frame`, `head_reader`, `length` | where a message ends |
//! | `by_lf`, `long_head` | servers that see bare LFs, and heads that are passed over |
//! | *writing* | |
//! | `compose`, `refusal` | new messages, and the answers to what is no message |
//! | `edit`, `replace`, `received` | changed copies, the change of one part of a value, and the sender's address in a Via |
//!
//! Invariant: bytes that this module does not understand leave as they came. No input makes it panic, recurse, or
//! allocate more than a constant times the input's length.

mod address;
mod by_lf;
mod check;
mod compose;
mod edit;
mod frame;
mod grammar;
mod head_reader;
mod length;
mod limits;
mod long_head;
mod method;
mod name;
mod params;
mod parse;
mod party;
mod received;
mod refusal;
mod replace;
mod uri;
mod via;

use std::fmt;

use bytes::Bytes;

pub(crate) use grammar::saturating_digits;
use grammar::{digits, is_lws, is_token, split_list, trim};

pub use address::NameAddr;
pub use check::Fault;
pub use compose::Composer;
pub use edit::Edit;
pub use frame::{Frame, FrameError, Framer, PASSED_OVER_MAX};
pub use limits::Limits;
pub use method::Method;
pub use name::Name;
pub(crate) use params::unfolded;
pub use params::{Params, is_quoted_text, media_type, unquote};
pub use party::Party;
pub use uri::{Scheme, Uri};
pub(crate) use uri::{unescaped, wholly_unescaped};
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

    fn length(self) -> usize {
        (self.end - self.start) as usize
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
    Request { method: Method, written: Span, uri: Span, version_2: bool, spaced: bool },
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
    /// The fault of `Content-Length`; the body is then empty, because its end would be a guess.
    length_fault: Option<Fault>,
    /// A line of the head that is no header may read to others as one that matters.
    odd_line: bool,
    /// Some readers would cut the head into other lines.
    is_torn: bool,
    /// Some servers would take a line for `Content-Length` that is none: they look at the beginning of folded lines, too, or hold `_` for `-`.
    hides_length: bool,
}

/// Reason why bytes are not a SIP message at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Longer than [`Limits::message_bytes`].
    TooLong,
    /// No empty line ends the head.
    NoEnd,
    /// The first line is neither a request line nor a status line.
    StartLine,
    /// The message came as [`Frame::BareLf`].
    BareLf,
    /// More fields than [`Limits::headers`].
    TooManyHeaders,
    /// More Via values than [`Limits::vias`].
    TooManyVias,
}

impl Message {
    /// Parses one whole message: a datagram, or what [`Framer`] cut from a stream.
    ///
    /// Bytes behind `Content-Length` are dropped (RFC 3261 §18.3). Where it is no length, or larger than the bytes that
    /// came, the body is empty and [`Message::check`] says so.
    ///
    /// # Errors
    /// [`Malformed`] when the bytes have no SIP structure or exceed a limit.
    pub fn parse(bytes: &Bytes, limits: &Limits) -> Result<Self, Malformed> {
        parse::message(bytes, limits)
    }

    /// Judges what RFC 3261 §8.1.1 and §8.2.2 ask of every message.
    ///
    /// # Errors
    /// The first [`Fault`], for the 400 that answers a request.
    pub fn check(&self) -> Result<(), Fault> {
        check::message(self)
    }

    /// A response without the line breaks in it that only some readers see: each is a space from then on. `None`: there are none.
    /// A request is never read so, because its sender can be told.
    pub fn mended(&self, limits: &Limits) -> Option<Self> {
        if !self.is_torn || self.is_request() {
            return None;
        }
        let mut head = self.head.to_vec();
        let end = head.len() - 4;
        let (mut at, mut is_first) = (0, true);
        while at < end {
            let is_break = head[at..].starts_with(b"\r\n");
            // White space behind the first line would be folded onto it, or hide a header.
            let is_folded_first = is_break && is_first && is_lws(head[at + 2]);
            match head[at] {
                b'\r' if is_break && !is_folded_first => {
                    is_first = false;
                    at += 2;
                }
                b'\r' | b'\n' => {
                    head[at] = b' ';
                    at += 1;
                }
                _ => at += 1,
            }
        }
        head.extend_from_slice(&self.body);
        Self::parse(&head.into(), limits).ok()
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

    /// A copy of the head alone, in memory of its own; `Content-Length` is written anew where it is changed or sent.
    pub fn without_body(&self) -> Option<Self> {
        Self::parse(&Bytes::copy_from_slice(&self.head), &Limits::COMPOSED).ok()
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
        self.element(Name::Via, 0).and_then(Via::parse)
    }

    /// How many Via values there are.
    pub fn vias(&self) -> usize {
        self.values(Name::Via).map(parse::count_elements).sum()
    }

    /// The From address; `None` when there is none.
    pub fn from(&self) -> Option<Party<'_>> {
        self.values(Name::From).next().map(Party::read)
    }

    /// The To address; `None` when there is none.
    pub fn to(&self) -> Option<Party<'_>> {
        self.values(Name::To).next().map(Party::read)
    }

    /// The Contact addresses that lead somewhere, judged one by one (RFC 3261 §16.3 step 1); `*` is none of them.
    pub fn contacts(&self) -> Vec<Party<'_>> {
        let contacts = self.values(Name::Contact).flat_map(party::split).map(Party::read);
        contacts.filter(|contact| contact.target().is_some()).collect()
    }

    /// The Contact addresses with this user, also where what stands beside them in their line is too broken to tell where one
    /// ends and the next begins. `user`: one that nobody writes by chance.
    pub fn contacts_of(&self, user: &str) -> Vec<Party<'_>> {
        let is_own = |contact: &Party<'_>| contact.user().is_some_and(|it| unescaped(it) == user);
        let own: Vec<_> = self.contacts().into_iter().filter(is_own).collect();
        if !own.is_empty() {
            return own;
        }
        self.values(Name::Contact).flat_map(|value| party::mentions(value, user)).filter(is_own).collect()
    }

    /// The route at `index` of the Route header, from the top.
    pub fn route(&self, index: usize) -> Option<NameAddr<'_>> {
        self.element(Name::Route, index).and_then(NameAddr::parse)
    }

    /// The user of the route at `index`, however odd the rest of it is: what we have put there ourselves some servers change.
    pub fn route_user(&self, index: usize) -> Option<&str> {
        self.element(Name::Route, index).and_then(|route| Party::read(route.as_bytes()).user())
    }

    /// The Call-ID.
    pub fn call_id(&self) -> Option<&str> {
        self.text(Name::CallId).filter(|id| !id.is_empty() && !id.bytes().any(|b| b == b' ' || b.is_ascii_control()))
    }

    /// The number, below 2^31, and the method of the CSeq (RFC 3261 §8.1.1.5).
    pub fn cseq(&self) -> Option<(u32, &str)> {
        let text = self.text(Name::CSeq)?;
        let (number, method) = text.split_at(text.find(is_lws_char)?);
        let method = trim(method);
        let number = digits(number.as_bytes())?;
        (number < 1 << 31 && is_token(method.as_bytes())).then_some((number, method))
    }

    /// Max-Forwards, 0 to 255, of several the lowest; `None` when absent, or one of them is broken.
    pub fn max_forwards(&self) -> Option<u8> {
        let hops = |value| digits(value).and_then(|number| u8::try_from(number).ok());
        self.values(Name::MaxForwards).map(hops).min().flatten()
    }

    /// A header whose value is a number of seconds or a count; numbers above `u32::MAX` read as `u32::MAX`. Parameters
    /// and a comment behind it are passed over.
    pub fn number(&self, name: Name) -> Option<u32> {
        let text = self.text(name)?;
        let end = text.find(|c: char| matches!(c, ';' | '(') || is_lws_char(c)).unwrap_or(text.len());
        saturating_digits(&text.as_bytes()[..end])
    }

    /// The lines as they are written again: of From and To the first, which is the one that counts.
    fn fields_that_count(&self) -> impl Iterator<Item = &Field> {
        let (mut from, mut to) = (false, false);
        self.fields.iter().filter(move |field| match field.name {
            Name::From => !std::mem::replace(&mut from, true),
            Name::To => !std::mem::replace(&mut to, true),
            _ => true,
        })
    }

    /// One element of a comma-separated header, from the top. `None` also when a line above it is not UTF-8: what stands
    /// on top must never be passed over for what stands below.
    fn element(&self, name: Name, mut index: usize) -> Option<&str> {
        for value in self.values(name) {
            for element in split_list(std::str::from_utf8(value).ok()?) {
                if index == 0 {
                    return Some(element);
                }
                index -= 1;
            }
        }
        None
    }

    /// Begins a changed copy of this message; what is not changed leaves byte for byte as it came.
    pub fn edit(&self) -> Edit<'_> {
        Edit::new(self)
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

fn is_lws_char(c: char) -> bool {
    c.is_ascii() && is_lws(c as u8)
}
