//! The JSON body of a request to a push service.
//!
//! Invariant: the first [`LEAD`] bytes are spaces (RFC 8259 §2). The HTTP/2 library copies the beginning of a body into a buffer, which keeps it until the next
//! request; the rest leaves from its own memory, which is zeroed when the push has left.

use serde::Serialize;

/// Spaces before the value, in bytes. With the 9 bytes of a frame's head (RFC 9113 §4.1) they are the 256 up to which the library copies.
pub(crate) const LEAD: usize = 256 - 9;
/// The room for a body, in bytes, that spares most of them to be moved while they are written.
const ROOM: usize = 1_024;

/// Writes a value as a body.
pub(crate) fn json_body(value: &impl Serialize) -> Vec<u8> {
    let mut body = Vec::with_capacity(ROOM);
    body.resize(LEAD, b' ');
    // Writing strings, numbers and string keys into memory cannot fail.
    let _ = serde_json::to_writer(&mut body, value);
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_the_value_behind_as_much_as_the_library_copies() {
        let body = json_body(&"text");
        assert_eq!(
            (&body[LEAD..], serde_json::from_slice::<String>(&body).unwrap()),
            (&b"\"text\""[..], "text".into())
        );
        assert!(body[..LEAD].iter().all(|byte| *byte == b' '));
    }
}
