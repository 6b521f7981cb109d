//! Addresses: `"Bob" <sip:bob@example.com>;tag=1` (RFC 3261 §20.10, name-addr and addr-spec).
//!
//! Invariant: a view into its text; without angle brackets, parameters belong to the header and not to the URI.

use std::borrow::Cow;

use super::{Params, Uri, trim, unquote};

/// A URI with an optional display name and header parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// The display name as written, with its quotes; `None` when there is none.
    pub display: Option<&'a str>,
    /// The URI.
    pub uri: Uri<'a>,
    /// The parameters behind the URI.
    pub params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// Reads an address.
    pub fn parse(text: &'a str) -> Option<Self> {
        let text = trim(text);
        match angle(text) {
            Some(open) => {
                let display = trim(&text[..open]);
                let close = open + text[open..].find('>')?;
                if !display_is_sound(display) {
                    return None;
                }
                Some(Self {
                    display: (!display.is_empty()).then_some(display),
                    uri: Uri::parse(&text[open + 1..close])?,
                    params: Params::parse(&text[close + 1..])?,
                })
            }
            None => {
                let (uri, params) = text.split_at(text.find(';').unwrap_or(text.len()));
                // RFC 3261 §20: a URI with a comma, question mark or semicolon must be in angle brackets.
                let uri = trim(uri);
                if uri.contains([',', '?']) {
                    return None;
                }
                Some(Self { display: None, uri: Uri::parse(uri)?, params: Params::parse(params)? })
            }
        }
    }

    /// The tag (RFC 3261 §19.3).
    pub fn tag(&self) -> Option<&'a str> {
        self.params.value("tag").filter(|tag| !tag.is_empty())
    }

    /// The display name without quotes and escapes.
    pub fn name(&self) -> Option<Cow<'a, str>> {
        self.display.map(unquote).filter(|name| !name.is_empty())
    }
}

/// Where the `<` of the URI stands: the first one outside quotes.
fn angle(text: &str) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'<' if !quoted => return Some(at),
            _ => {}
        }
    }
    None
}

/// Tokens with white space between them, or one quoted string that ends where the display name ends.
fn display_is_sound(display: &str) -> bool {
    match display.strip_prefix('"') {
        None => !display.contains('"'),
        Some(inner) => {
            let mut escaped = false;
            let closed = inner.bytes().position(|byte| {
                let closes = byte == b'"' && !escaped;
                escaped = byte == b'\\' && !escaped;
                closes
            });
            closed.is_some_and(|at| at + 1 == inner.len())
        }
    }
}
