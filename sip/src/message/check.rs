//! What RFC 3261 §8.1.1 and §8.2.2 ask of every message that has structure.
//!
//! Invariant: a message that passes has one each of From, To, Call-ID and CSeq, a topmost Via, and a body as long as it
//! says; each of them can be read through its typed view.

use std::fmt;

use super::{Message, Name, Start, Uri};

/// What is wrong with a message that has the structure of one. A request is answered with [`Fault::status`] and this as
/// the reason; a response is dropped.
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
    /// The Request-URI breaks the grammar of its scheme, or carries headers (RFC 3261 §19.1.5).
    RequestUri,
    /// More than one space between the parts of the request line, or spaces behind it.
    StartLine,
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
            Self::Version => f.write_str("Version Not Supported"),
        }
    }
}

/// See [`Message::check`].
pub(super) fn message(message: &Message) -> Result<(), Fault> {
    start(message)?;
    for name in [Name::From, Name::To, Name::CallId, Name::CSeq] {
        match message.fields.iter().filter(|field| field.name == name).count() {
            0 => return Err(Fault::Missing(name)),
            1 => {}
            _ => return Err(Fault::Repeated(name)),
        }
    }
    if message.values(Name::MaxForwards).nth(1).is_some() {
        return Err(Fault::Repeated(Name::MaxForwards));
    }
    via(message)?;
    for (address, name) in [(message.from(), Name::From), (message.to(), Name::To)] {
        let tag = address.ok_or(Fault::Broken(name))?.params.get("tag");
        if tag.is_some_and(|tag| tag.is_none_or(str::is_empty)) {
            return Err(Fault::Broken(name));
        }
    }
    message.call_id().ok_or(Fault::Broken(Name::CallId))?;
    let (_, method) = message.cseq().ok_or(Fault::Broken(Name::CSeq))?;
    if message.has(Name::MaxForwards) && message.max_forwards().is_none() {
        return Err(Fault::Broken(Name::MaxForwards));
    }
    if message.has(Name::Contact) && message.contacts().is_none() {
        return Err(Fault::Broken(Name::Contact));
    }
    if message.method_text().is_some_and(|text| text != method) {
        return Err(Fault::CSeqMethod);
    }
    message.length_fault.map_or(Ok(()), Err)
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
    let uri = message.request_uri().and_then(Uri::parse).ok_or(Fault::RequestUri)?;
    if uri.headers.is_some() { Err(Fault::RequestUri) } else { Ok(()) }
}

fn via(message: &Message) -> Result<(), Fault> {
    if !message.has(Name::Via) {
        return Err(Fault::Missing(Name::Via));
    }
    let via = message.via().ok_or(Fault::Broken(Name::Via))?;
    // RFC 4475 §3.2.1: the cookie promises a unique branch, and nothing is behind it.
    let hollow = via.branch().is_some_and(|branch| branch.eq_ignore_ascii_case("z9hG4bK"));
    if hollow && message.is_request() { Err(Fault::Broken(Name::Via)) } else { Ok(()) }
}
