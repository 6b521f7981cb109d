//! The pieces of RFC 3261 §25.1 that several views share: tokens, white space, numbers, quotes, comma lists.
//!
//! Invariant: each function looks at its input once and allocates nothing.

/// Linear white space, folded or not.
pub(super) fn is_lws(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// Without the linear white space around it.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\r', '\n'])
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

/// A `token`: one character or more.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|b| is_token_byte(*b))
}

/// A character of a `token`.
pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(byte as u8, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~');
        byte += 1;
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
pub(super) fn saturating_digits(text: &[u8]) -> Option<u32> {
    let all = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    all.then(|| digits(text).unwrap_or(u32::MAX))
}

/// Whether this is one quoted string and nothing else: the quote that opens it is closed by its last character.
pub(super) fn is_quoted(text: &str) -> bool {
    let Some(inner) = text.strip_prefix('"') else {
        return false;
    };
    let mut escaped = false;
    let closed = inner.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    closed.is_some_and(|at| at + 1 == inner.len())
}

/// The index of the first `wanted` outside quotes.
pub(super) fn find_unquoted(text: &str, wanted: u8) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.bytes().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => return byte == wanted && !quoted,
        }
        false
    })
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
    let (mut quoted, mut escaped, mut angle) = (false, false, false);
    for (at, byte) in text.iter().enumerate() {
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
