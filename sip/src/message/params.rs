//! Parameters: `;name=value` behind an address, a Via or a URI (RFC 3261 §25.1, generic-param).
//!
//! Invariant: a view into the message; names are compared without case; a quoted value keeps its quotes until
//! [`unquote`] is asked.

use std::borrow::Cow;

use super::grammar::{find_unquoted, is_quoted, trim};

/// The parameters behind an element, as written: empty, or beginning with `;`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Params<'a>(&'a str);

impl<'a> Params<'a> {
    /// Takes the text behind an element. `None` when it is neither empty nor begins with `;`, or a
    /// parameter has no name, an open quote, or characters that belong to another structure.
    pub fn parse(text: &'a str) -> Option<Self> {
        let text = trim(text);
        let params = Self(text);
        (text.is_empty() || text.starts_with(';') && params.iter().all(is_sound)).then_some(params)
    }

    /// Each parameter with its value, if it has one.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let text = rest.strip_prefix(';')?;
            let end = find_unquoted(text, b';').unwrap_or(text.len());
            rest = &text[end..];
            let text = trim(&text[..end]);
            Some(match text.split_once('=') {
                Some((name, value)) => (trim(name), Some(trim(value))),
                None => (text, None),
            })
        })
    }

    /// The first parameter of this name: `Some(None)` when it has no value.
    pub fn get(self, name: &str) -> Option<Option<&'a str>> {
        self.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The value of the first parameter of this name; `None` when it is absent or has none.
    pub fn value(self, name: &str) -> Option<&'a str> {
        self.get(name).flatten()
    }

    /// The parameters as written.
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

/// The content of a quoted string, its escapes resolved; other text as it is.
pub fn unquote(text: &str) -> Cow<'_, str> {
    let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else {
        return Cow::Borrowed(text);
    };
    if !inner.contains(['\\', '\r', '\n']) {
        return Cow::Borrowed(inner);
    }
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next()),
            '\r' | '\n' => {
                // A folding reads as one space (RFC 3261 §25.1, LWS).
                chars = chars.as_str().trim_start_matches([' ', '\t', '\r', '\n']).chars();
                out.truncate(out.trim_end_matches([' ', '\t']).len());
                out.push(' ');
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// A name and a value that cannot be taken for another structure: no white space, control character, quote or angle
/// bracket outside a quoted string that is closed.
fn is_sound((name, value): (&str, Option<&str>)) -> bool {
    let plain = |text: &str| !text.bytes().any(|b| matches!(b, b' ' | b'"' | b'<' | b'>') || b.is_ascii_control());
    !name.is_empty() && plain(name) && value.is_none_or(|value| plain(value) || is_quoted(value))
}
