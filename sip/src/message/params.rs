//! Parameters: `;name=value` behind an address, a Via or a URI (RFC 3261 §25.1, generic-param).
//!
//! Invariant: a view into the message; names are compared without case; a quoted value keeps its quotes until
//! [`unquote`] is asked.

use std::borrow::Cow;

use super::grammar::{Class, all, find_unquoted, is_quoted, split_once, trim};

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

    /// Takes the text behind an element as it is: empty, or beginning with `;`. Parameters that are none read as odd names.
    pub(crate) fn loose(text: &'a str) -> Self {
        Self(text)
    }

    /// Each parameter with its value, if it has one.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let text = rest.strip_prefix(';')?;
            let end = find_unquoted(text, b';').unwrap_or(text.len());
            rest = &text[end..];
            let text = trim(&text[..end]);
            Some(match split_once(text, b'=') {
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

/// A value that may be folded over several lines as one line: each fold is one space (RFC 3261 §7.3.1), and so is a bare CR or LF.
pub(crate) fn unfolded(text: &str) -> Cow<'_, str> {
    let is_break = |char: char| matches!(char, '\r' | '\n');
    if !text.contains(is_break) {
        return Cow::Borrowed(text);
    }
    let lines = text.split(is_break).map(|line| line.trim_matches([' ', '\t'])).filter(|line| !line.is_empty());
    Cow::Owned(lines.collect::<Vec<_>>().join(" "))
}

/// The media type that a Content-Type begins with, in small letters, without the white space that may stand about its slash (RFC 3261 §25.1).
pub fn media_type(content_type: &str) -> String {
    let media = content_type.split(';').next().unwrap_or_default();
    let parts: Vec<_> = media.split('/').map(|part| part.trim().to_ascii_lowercase()).collect();
    parts.join("/")
}

/// Whether a text is one quoted string, white space around it aside.
pub fn is_quoted_text(text: &str) -> bool {
    is_quoted(trim(text))
}

/// A name and a value that cannot be taken for another structure: no white space, control character, quote or angle
/// bracket outside a quoted string that is closed.
fn is_sound((name, value): (&str, Option<&str>)) -> bool {
    let plain = |text: &str| all(text.as_bytes(), Class::Plain);
    !name.is_empty() && plain(name) && value.is_none_or(|value| plain(value) || is_quoted(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_without_case_and_the_first_counts() {
        let params = Params::parse(" ;Tag=a ; lr;q = 0.5;s=\"x;y=\\\"z\\\"\";TAG=b;e=").unwrap();
        assert_eq!(params.value("tag"), Some("a"));
        assert_eq!((params.get("LR"), params.value("Q"), params.value("e")), (Some(None), Some("0.5"), Some("")));
        assert_eq!(params.value("s").map(unquote).as_deref(), Some("x;y=\"z\""));
        assert_eq!((params.get("y"), params.get("absent")), (None, None));
        assert!(Params::parse("").is_some_and(|params| params.iter().next().is_none()));
    }

    #[test]
    fn what_could_be_taken_for_another_structure_is_no_parameter() {
        for bad in [
            "a=b",
            ";",
            ";;",
            ";=b",
            ";a;",
            ";a=\"b",
            ";a=\"b\\\"",
            ";a=b\"c\"",
            ";a=\"b\"c",
            ";a=<b>",
            ";a b",
            ";a=b c",
            ";a=b\u{0}",
            ";\u{b}a",
            ";a\"=b",
        ] {
            assert_eq!(Params::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_quoted_string_is_unquoted_and_its_foldings_read_as_one_space() {
        assert_eq!(unquote("\"a \\\"b\\\" \\\\ c\""), "a \"b\" \\ c");
        assert_eq!(unquote("\"a \r\n\t b\""), "a b");
        assert_eq!(unquote("plain"), "plain");
        assert_eq!(unquote("\""), "\"");
    }
}
