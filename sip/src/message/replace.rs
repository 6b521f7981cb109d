//! A copy of a message in which one part of a header's value is another text, without reading it all again.
//!
//! Invariant: only what stands behind the part moves, and by as much as the text is longer: the copy is what
//! [`Message::parse`] would make of its bytes.

use super::grammar::trim;
use super::{Field, Message, Span};

impl Message {
    /// A copy in which `part` is `text`. `part` is what a typed view of this message gave out: a piece of one header's value.
    /// `None`: it is none, or `text` is empty, would begin another line or has white space around it.
    pub fn with_part(&self, part: &str, text: &str) -> Option<Self> {
        let from = part.as_ptr().addr().checked_sub(self.head.as_ptr().addr())?;
        let to = from.checked_add(part.len())?;
        let at = self.fields.iter().position(|field| field.value.holds(from, to))?;
        let length = self.head.len() - part.len() + text.len();
        let is_text = !text.is_empty() && text == trim(text) && !text.bytes().any(|byte| byte.is_ascii_control());
        if !is_text {
            return None;
        }
        let mut head = Vec::with_capacity(length);
        head.extend_from_slice(&self.head[..from]);
        head.extend_from_slice(text.as_bytes());
        head.extend_from_slice(&self.head[to..]);
        let moved = |at: u32| (at as usize + text.len() - part.len()) as u32;
        let mut fields = self.fields.clone();
        let (changed, behind) = fields[at..].split_first_mut()?;
        changed.line.end = moved(changed.line.end);
        changed.value.end = moved(changed.value.end);
        for Field { line, written, value, .. } in behind {
            for span in [line, written, value] {
                *span = Span { start: moved(span.start), end: moved(span.end) };
            }
        }
        let (head, start, body, length_fault) = (head.into(), self.start, self.body.clone(), self.length_fault);
        Some(Self {
            head,
            start,
            fields,
            body,
            length_fault,
            odd_line: self.odd_line,
            is_torn: self.is_torn,
            hides_length: self.hides_length,
        })
    }
}

impl Span {
    fn holds(self, from: usize, to: usize) -> bool {
        self.start as usize <= from && to <= self.end as usize
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::message::{Limits, Name};

    fn parse(text: &str) -> Message {
        Message::parse(&Bytes::copy_from_slice(text.as_bytes()), &Limits::default()).unwrap()
    }

    const BYE: &str = "BYE sip:a@b SIP/2.0\r\nTo: <sip:c@d>\r\nv: SIP/2.0/UDP one;rport , SIP/2.0/UDP two\r\nX: y\r\n z\r\nl: 2\r\n\r\nhi there";

    #[test]
    fn a_copy_is_what_its_bytes_read_as() {
        let bye = parse(BYE);
        let via = bye.via().unwrap();
        for text in ["SIP/2.0/UDP one;received=192.0.2.1;rport=5060", "x"] {
            let copy = bye.with_part(via.text, text).unwrap();
            let whole = BYE.replace("SIP/2.0/UDP one;rport", text).replace(" there", "");
            assert_eq!(copy.to_bytes(), whole.as_bytes());
            let read = parse(&whole);
            assert_eq!(format!("{:?}", copy.fields), format!("{:?}", read.fields));
            assert_eq!((copy.body(), copy.method()), (read.body(), read.method()));
            assert_eq!(copy.values_written("x").next(), Some(&b"y\r\n z"[..]));
        }
        let copy = bye.with_part(bye.elements(Name::Via).nth(1).unwrap(), "SIP/2.0/UDP three");
        assert_eq!(copy.unwrap().elements(Name::Via).nth(1), Some("SIP/2.0/UDP three"));
    }

    #[test]
    fn what_is_no_part_of_a_value_is_not_replaced_and_no_text_begins_a_line() {
        let bye = parse(BYE);
        for part in [BYE, bye.request_uri().unwrap(), "SIP/2.0/UDP one;rport", ""] {
            assert!(bye.with_part(part, "x").is_none(), "{part:?}");
        }
        for text in ["x\r\nEvil: 1", "x\n", "\u{0}", "", " x"] {
            assert!(bye.with_part(bye.via().unwrap().text, text).is_none(), "{text:?}");
        }
    }
}
