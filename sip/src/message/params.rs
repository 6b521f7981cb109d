//! Parameters: `;name=value` behind an address, a Via or a URI (RFC 3261 §25.1, generic-param).
//!
//! Invariant: a view into the message; names are compared without case; a quoted value keeps its quotes until
//! [`unquote`] is asked.

use std::borrow::Cow;

use super::trim;

/// The parameters behind an element, as written: empty, or beginning with `;`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Params<'a>(&'a str);

impl<'a> Params<'a> {
    /// Takes the text behind an element. `None` when it is neither empty nor begins with `;`, or a quote is left open.
    pub fn parse(text: &'a str) -> Option<Self> {
        let text = trim(text);
        let params = Self(text);
        (text.is_empty() || text.starts_with(';') && params.iter().all(|(name, _)| !name.is_empty())).then_some(params)
    }

    /// Each parameter with its value, if it has one.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let text = rest.strip_prefix(';')?;
            let end = param_end(text);
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

/// The index of the `;` that begins the next parameter, or the length.
fn param_end(text: &str) -> usize {
    let (mut quoted, mut escaped) = (false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b';' if !quoted => return at,
            _ => {}
        }
    }
    text.len()
}
