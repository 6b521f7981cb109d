//! The pieces of RFC 3261 §25.1 that several views share: tokens, white space, numbers, quotes, comma lists.
//!
//! Invariant: each function looks at its input once and allocates nothing.

use memchr::{memchr, memchr2, memchr3};

/// Linear white space, folded or not.
pub(super) fn is_lws(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Without the linear white space around it.
pub(super) fn trim(text: &str) -> &str {
    let bytes = text.as_bytes();
    let start = bytes.iter().position(|b| !is_lws(*b)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|b| !is_lws(*b)).map_or(start, |last| last + 1);
    // White space is ASCII, so both ends are character boundaries.
    text.get(start..end).unwrap_or_default()
}

/// Bytes without the linear white space around them.
pub(super) fn trim_bytes(mut bytes: &[u8]) -> &[u8] {
    while let [first, rest @ ..] = bytes
        && is_lws(*first)
    {
        bytes = rest;
    }
    while let [rest @ .., last] = bytes
        && is_lws(*last)
    {
        bytes = rest;
    }
    bytes
}

/// What stands before and behind the first `separator`, an ASCII character.
pub(super) fn split_once(text: &str, separator: u8) -> Option<(&str, &str)> {
    let at = memchr(separator, text.as_bytes())?;
    Some((&text[..at], &text[at + 1..]))
}

/// Whether a text has a control character, linear white space aside.
pub(super) fn has_control(text: &str) -> bool {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') || is_lws(byte);
    // What is beyond ASCII is rare, and looked at by characters.
    !text.bytes().all(is_plain) && text.chars().any(|c| c.is_control() && !u8::try_from(c).is_ok_and(is_lws))
}

/// A set of characters that something may consist of.
#[derive(Clone, Copy)]
pub(super) enum Class {
    /// `token`.
    Token = 1,
    /// A parameter's name or its value without quotes: all but white space, control characters, quotes and angle
    /// brackets, which belong to another structure.
    Plain = 2,
    /// A host name or an IPv4 address; the underscore is let pass, as some names have it.
    Host = 4,
}

/// Whether all bytes are of a class.
pub(super) fn all(bytes: &[u8], class: Class) -> bool {
    bytes.iter().all(|b| CLASSES[usize::from(*b)] & class as u8 != 0)
}

/// A `token`: one character or more.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, Class::Token)
}

/// A character of a `token`.
pub(super) fn is_token_byte(byte: u8) -> bool {
    all(&[byte], Class::Token)
}

static CLASSES: [u8; 256] = {
    let mut table = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        let mark = matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~');
        if byte.is_ascii_alphanumeric() || mark {
            table[at] |= Class::Token as u8;
        }
        if byte > b' ' && !matches!(byte, b'"' | b'<' | b'>' | 0x7f) {
            table[at] |= Class::Plain as u8;
        }
        if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') {
            table[at] |= Class::Host as u8;
        }
        at += 1;
    }
    table
};

/// Digits alone, whose number fits; leading zeros are allowed.
pub(super) fn digits(text: &[u8]) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u32, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| u32::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Digits alone; a number that does not fit reads as the largest.
pub(crate) fn saturating_digits(text: &[u8]) -> Option<u32> {
    let all = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    all.then(|| digits(text).unwrap_or(u32::MAX))
}

/// Whether this is one quoted string and nothing else: the quote that opens it is closed by its last character.
pub(super) fn is_quoted(text: &str) -> bool {
    text.starts_with('"') && quote_end(text.as_bytes(), 0) == Some(text.len())
}

/// The index of the first `wanted`, an ASCII character, outside quotes.
pub(super) fn find_unquoted(text: &str, wanted: u8) -> Option<usize> {
    find_unquoted_byte(text.as_bytes(), wanted)
}

/// As [`find_unquoted`], of bytes that may be no text.
pub(super) fn find_unquoted_byte(bytes: &[u8], wanted: u8) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(wanted, b'"', &bytes[at..])?;
        if bytes[at] == wanted {
            return Some(at);
        }
        at = quote_end(bytes, at)?;
    }
}

/// The index behind the quoted string that begins at `open`; `None` when it is left open.
pub(super) fn quote_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

/// Splits at commas outside quotes and angle brackets; empty elements are left out.
pub(super) fn split_list(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = list_end(text.as_bytes());
        rest = text.get(end + 1..);
        Some(trim(&text[..end]))
    })
    .filter(|element| !element.is_empty())
}

/// The index of the comma that ends the first element, or the length.
pub(super) fn list_end(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(found) = text.get(at..).and_then(|rest| memchr3(b',', b'"', b'<', rest)) {
        at += found;
        let behind = match text[at] {
            b',' => return at,
            b'"' => quote_end(text, at),
            _ => angle_end(text, at),
        };
        match behind {
            Some(behind) => at = behind,
            None => break,
        }
    }
    text.len()
}

/// The index behind the angle brackets that open at `open`; quotes inside are passed over.
fn angle_end(text: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr2(b'>', b'"', text.get(at..)?)?;
        if text[at] == b'>' {
            return Some(at + 1);
        }
        at = quote_end(text, at)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_split_at_commas_that_stand_free() {
        let list = "\"Bell, A\\\", B\" <sip:a,b@c>;x=\"1,2\" ,, sip:d@e , \"open, <sip:f@g>";
        let elements: Vec<_> = split_list(list).collect();
        assert_eq!(elements, ["\"Bell, A\\\", B\" <sip:a,b@c>;x=\"1,2\"", "sip:d@e", "\"open, <sip:f@g>"]);
        assert_eq!(split_list(" , ,\r\n ,").count(), 0);
    }

    #[test]
    fn numbers_are_digits_that_fit() {
        assert_eq!(digits(b"0068"), Some(68));
        assert_eq!(digits(b"4294967295"), Some(u32::MAX));
        assert_eq!(saturating_digits(b"4294967296"), Some(u32::MAX));
        for bad in [&b""[..], b"-1", b"+1", b" 1", b"1 ", b"4294967296", b"18446744073709551617", b"0x1", b"1e3"] {
            assert_eq!(digits(bad), None, "{bad:?}");
        }
        assert_eq!(saturating_digits(b""), None);
    }

    #[test]
    fn a_token_has_no_separators_controls_or_bytes_above_ascii() {
        assert!(is_token(b"!interesting-Method0123456789_*+`.%indeed'~"));
        for bad in [&b""[..], b"a b", b"a\x0b", b"a:", b"a/b", b"\xc3\xa9", b"a\x00", b"\"a\"", b"a,b", b"(a)"] {
            assert!(!is_token(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_quoted_string_ends_where_it_is_closed() {
        assert!(is_quoted("\"a \\\" b\\\\\"") && is_quoted("\"\""));
        for bad in ["", "\"", "a", "\"a", "\"a\\\"", "\"a\" b", "\"a\"\"b\""] {
            assert!(!is_quoted(bad), "{bad}");
        }
    }
}
