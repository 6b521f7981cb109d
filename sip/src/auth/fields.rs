//! The parameters of a challenge or of credentials: `name=value` or `name="value"`, with commas between.
//!
//! Invariant: a view where nothing is escaped; no value holds a control character; a parameter that stands twice is
//! refused, because two readers would take two of them.

use std::borrow::Cow;

use super::{PARAMS, VALUE_BYTES};

/// Reason why a value has no readable parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldError {
    /// Beyond [`VALUE_BYTES`] or [`PARAMS`].
    TooLong,
    /// An open quote, a control character, a repeated parameter, or no `=`.
    Broken,
}

/// The text after the scheme, if it is the one wanted.
pub(super) fn strip_scheme<'a>(value: &'a str, scheme: &str) -> Option<&'a str> {
    let value = value.trim_matches(LWS);
    let (word, rest) = value.split_at_checked(scheme.len())?;
    (word.eq_ignore_ascii_case(scheme) && rest.starts_with(LWS)).then(|| rest.trim_start_matches(LWS))
}

/// The values of parameters, in the order in which they were asked for.
pub(super) type Values<'a, const N: usize> = [Option<Cow<'a, str>>; N];

/// The values of the named parameters; others are passed over. `names` are in lower case.
///
/// Where a second challenge begins in the same value (RFC 7235 allows it, RFC 3261 §20.44 does not), reading ends.
pub(super) fn named<'a, const N: usize>(text: &'a str, names: [&str; N]) -> Result<Values<'a, N>, FieldError> {
    named_before_another(text, names).map(|(values, _)| values)
}

/// The same, and whether the parameters are all that there is: no second challenge, and no other credentials, begin behind them.
pub(super) fn named_before_another<'a, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> Result<(Values<'a, N>, bool), FieldError> {
    if text.len() > VALUE_BYTES {
        return Err(FieldError::TooLong);
    }
    if has_stray_control(text) {
        return Err(FieldError::Broken);
    }
    let mut found = [const { None }; N];
    let mut rest = text.trim_start_matches([' ', '\t', '\r', '\n', ',']);
    let mut count = 0;
    while !rest.is_empty() {
        count += 1;
        if count > PARAMS {
            return Err(FieldError::TooLong);
        }
        let end = rest.find(['=', ',', '"']).unwrap_or(rest.len());
        if !rest[end..].starts_with('=') {
            return Err(FieldError::Broken);
        }
        let name = rest[..end].trim_matches(LWS);
        if name.contains(LWS) {
            return Ok((found, false));
        }
        let (value, behind) = value(rest[end + 1..].trim_start_matches(LWS))?;
        if let Some(at) = names.iter().position(|wanted| name.eq_ignore_ascii_case(wanted))
            && found[at].replace(value).is_some()
        {
            return Err(FieldError::Broken);
        }
        let behind = behind.trim_start_matches(LWS);
        if !behind.is_empty() && !behind.starts_with(',') {
            return Err(FieldError::Broken);
        }
        rest = behind.trim_start_matches([' ', '\t', '\r', '\n', ',']);
    }
    Ok((found, true))
}

/// Writes `name="value"`, escaped. Characters that a quoted string cannot hold are left out; the caller has refused them before.
pub(super) fn push_quoted(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push_str("=\"");
    for c in value.chars().filter(|c| !c.is_ascii_control() || *c == '\t') {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

const LWS: [char; 4] = [' ', '\t', '\r', '\n'];

/// One value, quoted or not, and what stands behind it.
fn value(text: &str) -> Result<(Cow<'_, str>, &str), FieldError> {
    let Some(inner) = text.strip_prefix('"') else {
        let (value, rest) = text.split_at(text.find([',', ' ', '\t', '\r', '\n']).unwrap_or(text.len()));
        return if value.contains('"') { Err(FieldError::Broken) } else { Ok((Cow::Borrowed(value), rest)) };
    };
    let mut escaped = false;
    let close = inner.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    });
    let close = close.ok_or(FieldError::Broken)?;
    Ok((crate::message::unquote(&text[..close + 2]), &inner[close + 1..]))
}

/// A control character that is neither a tab nor part of a folding.
fn has_stray_control(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().enumerate().any(|(at, byte)| match byte {
        b'\t' => false,
        b'\r' => bytes.get(at + 1) != Some(&b'\n'),
        b'\n' => at == 0 || bytes[at - 1] != b'\r' || !matches!(bytes.get(at + 1), Some(b' ' | b'\t')),
        _ => byte.is_ascii_control(),
    })
}
