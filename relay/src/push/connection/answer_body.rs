//! The body of a push service's answer, read member by member.
//!
//! Invariant: a member that is absent, null or of another type affects no other member. Of a member that occurs twice, the last one counts. A byte order mark
//! before the body, and anything after it, are ignored.

use std::time::UNIX_EPOCH;

use serde_json::Value;

/// The value that a body holds; `Null` when it is no JSON.
pub(crate) fn read(body: &[u8]) -> Value {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<Value>();
    values.next().and_then(Result::ok).unwrap_or_default()
}

/// A text; empty when there is none.
pub(crate) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

/// A list; empty when there is none.
pub(crate) fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

/// A count, as a number of whatever form, or as text; `None`: it says nothing.
pub(crate) fn count(value: &Value) -> Option<u64> {
    let number = match value {
        Value::Number(number) => return number.as_u64().or_else(|| number.as_f64().and_then(whole)),
        Value::String(text) => text.trim(),
        _ => return None,
    };
    number.parse().ok().or_else(|| number.parse().ok().and_then(whole))
}

/// A time, in milliseconds since 1970: a count of them, or one of micro- or nanoseconds, or a date of HTTP. One in seconds is read as it stands: long ago.
pub(crate) fn time_ms(value: &Value) -> Option<u64> {
    // 5138 in milliseconds, 1973 in microseconds.
    const MILLIS_MAX: u64 = 100_000_000_000_000;
    let date = || {
        let date = httpdate::parse_http_date(value.as_str()?.trim()).ok()?;
        u64::try_from(date.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
    };
    Some(match count(value) {
        None => return date(),
        Some(millis @ ..MILLIS_MAX) => millis,
        Some(micros) if micros / 1_000 < MILLIS_MAX => micros / 1_000,
        Some(nanos) => nanos / 1_000_000,
    })
}

/// Without its fraction; a number below zero is zero.
fn whole(number: f64) -> Option<u64> {
    number.is_finite().then_some(number.max(0.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_whatever_form_it_comes() {
        for body in [
            r#"{"timestamp":1795000000123}"#,
            r#"{"timestamp":1795000000123.0}"#,
            r#"{"timestamp":1.795000000123e12}"#,
            r#"{"timestamp":"1795000000123"}"#,
            r#"{"timestamp":" 1795000000123.5 "}"#,
            r#"{"timestamp":1,"timestamp":1795000000123}"#,
            "\u{feff}{\"timestamp\":1795000000123}",
            "{\"reason\":null,\"timestamp\":1795000000123}\n and more",
        ] {
            assert_eq!(count(&read(body.as_bytes())["timestamp"]), Some(1_795_000_000_123), "{body}");
        }
        assert_eq!(count(&read(br#"{"timestamp":-5}"#)["timestamp"]), Some(0));
        for body in [
            r#"{"timestamp":1795000000123}"#,
            r#"{"timestamp":1795000000123456}"#,
            r#"{"timestamp":"1795000000123456789"}"#,
        ] {
            assert_eq!(time_ms(&read(body.as_bytes())["timestamp"]), Some(1_795_000_000_123), "{body}");
        }
        for (body, time) in [
            (r#"{"timestamp":"Sun, 06 Nov 1994 08:49:37 GMT"}"#, Some(784_111_777_000)),
            (r#"{"timestamp":1795000000}"#, Some(1_795_000_000)),
            (r#"{"timestamp":"soon"}"#, None),
            (r#"{"timestamp":null}"#, None),
        ] {
            assert_eq!(time_ms(&read(body.as_bytes())["timestamp"]), time, "{body}");
        }
        for body in
            [r#"{"timestamp":null}"#, r#"{"timestamp":"soon"}"#, r#"{"timestamp":[1]}"#, "{}", "[]", "", "<html>"]
        {
            assert_eq!(count(&read(body.as_bytes())["timestamp"]), None, "{body}");
        }
    }
}
