//! From, To and Contact as they come: read as far as they can be (RFC 3261 §20.10, §20.20, §20.39), and never refused.
//!
//! The relay passes these headers on and needs little of them: a tag, a name to show, an address to compare. So an address
//! that breaks its grammar is odd and not an error.
//!
//! | the value | what is read |
//! | --- | --- |
//! | a `<` outside quotes | the URI up to its `>`; parameters behind it |
//! | a quote that is never closed | the last `<scheme:…>` that only parameters follow |
//! | no angle brackets | the URI up to the first `;` outside quotes, a quoted name before it left out; parameters behind it |
//! | parameters that are no text | those before or behind the bytes in doubt that hold a tag |
//!
//! Invariant: a tag inside a display name or inside a URI does not count. Every part is a view of the bytes as they came.

use std::borrow::Cow;

use super::grammar::{Class, all, find_unquoted_byte, is_quoted, quote_end, saturating_digits, split_once, trim_bytes};
use super::{Params, Uri, unfolded, unquote};

/// Brackets behind a quote that was left open that are looked at, from the last one: so many `<` that are none end the search,
/// because each is followed to its `>`, and a sender may write thousands.
const BRACKETS_MAX: usize = 16;
/// Places that name a user which are looked at, likewise.
const MENTIONS_MAX: usize = 16;

/// An address in From, To or Contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Party<'a> {
    display: &'a [u8],
    target: &'a [u8],
    /// The parameters behind the address.
    pub params: Params<'a>,
}

impl<'a> Party<'a> {
    /// Reads what can be read.
    pub fn read(value: &'a [u8]) -> Self {
        let value = trim_bytes(value);
        let (display, target, rest) = match angle_brackets(value) {
            Some((open, close)) => (trim_bytes(&value[..open]), &value[open + 1..close], &value[close + 1..]),
            None => {
                let name = if value.starts_with(b"\"") { quote_end(value, 0).unwrap_or(value.len()) } else { 0 };
                let end = find_unquoted_byte(value, b';').unwrap_or(value.len());
                (&value[..name], trim_bytes(&value[name..end]), &value[end..])
            }
        };
        let params = find_unquoted_byte(rest, b';').map_or(&rest[..0], |at| &rest[at..]);
        Self { display, target, params: Params::loose(legible(params)) }
    }

    /// The tag (RFC 3261 §19.3): the first that is not empty, if it is without white space and control characters. A device may have put its own
    /// behind an empty one of the request.
    pub fn tag(&self) -> Option<&'a str> {
        let tags = self.params.iter().filter(|(name, _)| name.eq_ignore_ascii_case("tag"));
        let first = tags.filter_map(|(_, tag)| tag).find(|tag| !tag.is_empty());
        first.filter(|tag| !tag.contains(|c: char| c.is_whitespace() || c.is_control()))
    }

    /// For how many seconds a Contact is to last (RFC 3261 §20.10), also where that stands in quotes; a number beyond `u32` is the largest, and
    /// what is no number `default`. `None`: it does not say.
    pub fn expires(&self, default: u32) -> Option<u32> {
        let value = unquote(self.params.value("expires")?);
        Some(saturating_digits(value.trim().as_bytes()).unwrap_or(default))
    }

    /// The URI, where it is one.
    pub fn uri(&self) -> Option<Uri<'a>> {
        std::str::from_utf8(self.target).ok().and_then(Uri::parse)
    }

    /// The user of the URI.
    pub fn user(&self) -> Option<&'a str> {
        std::str::from_utf8(self.target).ok().and_then(Uri::user_of)
    }

    /// The address as written, where it can stand as a Request-URI: a scheme, and no white space, control character or angle
    /// bracket. It need not be a URI that [`Uri::parse`] takes apart.
    pub fn target(&self) -> Option<&'a str> {
        let text = std::str::from_utf8(self.target).ok()?;
        let (scheme, rest) = split_once(text, b':')?;
        let legible = |b: u8| b > b' ' && !matches!(b, b'<' | b'>' | 0x7f);
        (is_scheme(scheme) && !rest.is_empty() && text.bytes().all(legible)).then_some(text)
    }

    /// The display name without quotes and escapes, each fold and each control character as a space; bytes that are no text as U+FFFD.
    pub fn name(&self) -> Option<Cow<'a, str>> {
        let text = match String::from_utf8_lossy(trim_bytes(self.display)) {
            Cow::Borrowed(text) if is_quoted(text) => unquote(text),
            Cow::Owned(text) if is_quoted(&text) => Cow::Owned(unquote(&text).into_owned()),
            // A quote that belongs to no pair says nothing.
            text if text.contains('"') => Cow::Owned(text.replace('"', "")),
            text => text,
        };
        let text = match text {
            Cow::Borrowed(text) => unfolded(text),
            Cow::Owned(text) => Cow::Owned(unfolded(&text).into_owned()),
        };
        let text = if text.contains(char::is_control) {
            Cow::Owned(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
        } else {
            text
        };
        let name = match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
            Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
        };
        (!name.is_empty()).then_some(name)
    }
}

/// Splits a list of addresses at commas outside quotes and angle brackets; empty elements are left out. No URI has a `>` in
/// it, so the first one closes the brackets, whatever quotes stand between.
pub(super) fn split(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = element_end(text);
        rest = text.get(end + 1..);
        Some(trim_bytes(&text[..end]))
    })
    .filter(|element| !element.is_empty())
}

/// The addresses in angle brackets that hold `user`, each with what follows up to the next comma.
pub(super) fn mentions<'a>(value: &'a [u8], user: &str) -> impl Iterator<Item = Party<'a>> {
    memchr::memmem::find_iter(value, user).take(MENTIONS_MAX).filter_map(|at| {
        let open = memchr::memrchr(b'<', &value[..at])?;
        split(&value[open..]).next().map(Party::read)
    })
}

/// The index of the comma that ends the first element, or the length.
fn element_end(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = memchr::memchr3(b',', b'"', b'<', &text[at..]) {
        at += found;
        let behind = match text[at] {
            b',' => return at,
            b'"' => quote_end(text, at),
            _ => memchr::memchr(b'>', &text[at..]).map(|length| at + length + 1),
        };
        match behind {
            Some(behind) => at = behind,
            None => break,
        }
    }
    text.len()
}

/// Parameters as text: all of them, or the first in a row that are text and have a tag among them.
fn legible(params: &[u8]) -> &str {
    if let Ok(text) = std::str::from_utf8(params) {
        return text;
    }
    let (mut start, mut at) = (0, 0);
    while at < params.len() {
        let end = find_unquoted_byte(&params[at + 1..], b';').map_or(params.len(), |length| at + 1 + length);
        match std::str::from_utf8(&params[at..end]) {
            Ok(param) if Params::loose(param).get("tag").is_some() => {
                return std::str::from_utf8(&params[start..end]).unwrap_or_default();
            }
            Ok(_) => {}
            Err(_) => start = end,
        }
        at = end;
    }
    ""
}

/// The angle brackets around the URI.
fn angle_brackets(value: &[u8]) -> Option<(usize, usize)> {
    if let Some(open) = find_unquoted_byte(value, b'<')
        && let Some(length) = memchr::memchr(b'>', &value[open..])
    {
        return Some((open, open + length));
    }
    // A quote was left open: the last brackets that hold a URI and that only parameters follow.
    memchr::memrchr_iter(b'<', value).take(BRACKETS_MAX).find_map(|open| {
        let close = open + memchr::memchr(b'>', &value[open..])?;
        let scheme = value[open + 1..close].split(|b| *b == b':').next().filter(|it| it.len() < close - open - 1)?;
        let behind = trim_bytes(&value[close + 1..]);
        let last = behind.is_empty() || behind.starts_with(b";");
        (last && std::str::from_utf8(scheme).is_ok_and(is_scheme)).then_some((open, close))
    })
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic()) && all(text.as_bytes(), Class::Host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(value: &str) -> (Option<String>, Option<&str>, Option<&str>) {
        let party = Party::read(value.as_bytes());
        (party.name().map(Cow::into_owned), party.target(), party.tag())
    }

    #[test]
    fn what_is_sound_is_read_whole() {
        let bob = Some("Bob <b> \"B\"".to_owned());
        assert_eq!(read("\"Bob <b> \\\"B\\\"\"<sip:bob@h;lr>;tag=1"), (bob, Some("sip:bob@h;lr"), Some("1")));
        assert_eq!(read("sip:bob@h;tag=2"), (None, Some("sip:bob@h"), Some("2")));
        assert_eq!(read(" <tel:+1> ; x=\"a;tag=no\" ; TAG = 3 "), (None, Some("tel:+1"), Some("3")));
    }

    #[test]
    fn what_is_odd_is_read_as_far_as_it_goes() {
        let name = |name: &str| Some(name.to_owned());
        for (value, expected) in [
            ("Bob\r\n\tSmith <sip:u@h>", (name("Bob Smith"), Some("sip:u@h"), None)),
            ("\"Bob \r\n  Smith\" <sip:u@h>", (name("Bob Smith"), Some("sip:u@h"), None)),
            ("\"\"unknown\"\" <sip:u@h>", (name("unknown"), Some("sip:u@h"), None)),
            ("\"John \"Duke\" W\" <sip:u@h>;tag=1", (name("John Duke W"), Some("sip:u@h"), Some("1"))),
            ("<sip:@192.0.2.1>;tag=1", (None, Some("sip:@192.0.2.1"), Some("1"))),
            ("<sip:x@h;x-tiu=\"VGhd==\">", (None, Some("sip:x@h;x-tiu=\"VGhd==\""), None)),
            ("\"open <sip:u@h>;tag=1", (name("open"), Some("sip:u@h"), Some("1"))),
            ("<sip:u@h>x;tag=1", (None, Some("sip:u@h"), Some("1"))),
            ("<sip:u@h>;tag=", (None, Some("sip:u@h"), None)),
            ("<sip:u@h>;tag", (None, Some("sip:u@h"), None)),
            ("<sip:u@h>;;tag=1;x=\"y", (None, Some("sip:u@h"), Some("1"))),
            ("<unknown>;tag=1", (None, None, Some("1"))),
            ("<>;tag=1", (None, None, Some("1"))),
            ("", (None, None, None)),
            ("*", (None, None, None)),
            ("anonymous", (None, None, None)),
            ("\"A. G. Bell\" sip:agb@h;tag=1", (name("A. G. Bell"), Some("sip:agb@h"), Some("1"))),
            ("\"Sami\\\" <sip:u@h>;tag=1", (name("Sami\\"), Some("sip:u@h"), Some("1"))),
            ("< sip:u@h >;tag=1", (None, None, Some("1"))),
        ] {
            assert_eq!(read(value), expected, "{value}");
        }
        let latin = Party::read(b"Jos\xe9 <sip:u@h>;tag=1");
        assert_eq!((latin.name().as_deref(), latin.tag()), (Some("Jos\u{fffd}"), Some("1")));
        for value in [
            &b"<sip:u@h>;x=\xe9;tag=1"[..],
            b"<sip:u@h>;tag=1;x=\xe9",
            b"<sip:u@h>;x=\"\xe9;tag=evil\";tag=1",
            b"<sip:u@h>;\xe9;y;tag=1;z=\xe9",
        ] {
            assert_eq!(Party::read(value).tag(), Some("1"), "{}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn no_control_character_gets_out_of_a_display_name() {
        let party = Party::read("\"a\\\u{0}b\u{7}c\u{85}d\r\n e\" <sip:a@b>".as_bytes());
        assert_eq!(party.name().as_deref(), Some("a b c d e"));
    }

    #[test]
    fn a_list_is_judged_one_by_one() {
        let targets =
            |value: &'static [u8]| -> Vec<_> { split(value).filter_map(|it| Party::read(it).target()).collect() };
        assert_eq!(targets(b"Lastname, Firstname <sip:x@h>"), ["sip:x@h"]);
        assert_eq!(targets(b"\"A, B\" <sip:a,b@h>;q=1, , <sip:c@h>"), ["sip:a,b@h", "sip:c@h"]);
        assert_eq!(targets(b"<sip:a@h;x=\"open>;expires=1, <sip:c@h>"), ["sip:a@h;x=\"open", "sip:c@h"]);
        assert_eq!(targets(b"\"Jos\xe9\" <sip:a@h>, <sip:b@h\xe9>, <sip:c@h>"), ["sip:a@h", "sip:c@h"]);
        assert_eq!(targets(b"*"), [""; 0]);
        let broken = b"\"Anne, \"O\" <sip:x@h>;expires=1, <sip:own@h>;+sip.instance=\"<urn:uuid:1>\";expires=9";
        let own: Vec<_> = mentions(broken, "own").map(|it| (it.user(), it.params.value("expires"))).collect();
        assert_eq!(own, [(Some("own"), Some("9"))]);
    }

    #[test]
    fn a_tag_inside_a_name_or_a_uri_is_none() {
        for value in [
            "\"<sip:evil@h>;tag=evil\" <sip:u@h>",
            "<sip:u@h;tag=evil>",
            "\"a\\\"<sip:evil@h>;tag=evil\" <sip:u@h>",
            "\"x\" ;tag=evil <sip:u@h>",
            "<sip:u@h?To=x;tag=evil>",
            "\"a;tag=evil;\" sip:u@h",
            "\"a;tag=evil",
            "\"a;tag=evil <sip:u@h>",
        ] {
            assert_eq!(Party::read(value.as_bytes()).tag(), None, "{value}");
        }
    }

    #[test]
    fn a_long_value_is_read_in_a_time_that_grows_as_it_does() {
        let begun = std::time::Instant::now();
        for part in ["<", "<>", "<a:", "\"<", ";a", "\"", "<own", "own", ",", "<sip:own@h;", "a,\"<"] {
            for tail in ["", ">", ";\u{e9}"] {
                let mut value = part.repeat(65_536 / part.len()).into_bytes();
                value.extend_from_slice(tail.as_bytes());
                // The last letter is cut in two: it is no text.
                value.truncate(value.len() - usize::from(tail.len() > 1));
                for _ in 0..4 {
                    let party = Party::read(&value);
                    let _ = (party.tag(), party.name(), party.target(), split(&value).map(Party::read).count());
                    let _ = mentions(&value, "own").count();
                }
            }
        }
        // 132 times 64 KiB; what grows with the square of the length takes minutes.
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    }
}
