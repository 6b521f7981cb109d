//! A changed copy of a message: what a proxy must change, and nothing else (RFC 3261 §16.6).
//!
//! Invariant: every header line that no change names leaves byte for byte as it came, a second From or To excepted, which is left out, and so does the body. Whatever the
//! values hold, the copy is one message; its `Content-Length` is right, and is added where it was absent, because what
//! came as a datagram may leave on a stream, and written anew where it was folded. Where a line may be taken for a length by its reader, it
//! is written anew before all others, for the first one counts. [`Name::Other`] and `Content-Length` cannot be changed.

use std::borrow::Cow;

use bytes::Bytes;

use super::compose::{is_identity, push_identity, push_length, push_line, push_status, push_uri, takes_tag};
use super::grammar::{list_end, trim_bytes};
use super::{Field, Message, Name, Start};

/// The changes to one message.
#[derive(Debug)]
pub struct Edit<'a> {
    message: &'a Message,
    request_uri: Option<Cow<'a, str>>,
    /// Lines put before all others, top first.
    on_top: Vec<(Name, Cow<'a, str>)>,
    /// How many elements are taken from the top of a comma-separated header.
    popped: Vec<(Name, usize)>,
    /// Headers whose lines are all left out.
    removed: Vec<Name>,
    /// Lines put behind all others.
    at_end: Vec<(Name, Cow<'a, str>)>,
    /// The request that a response answers, as it came.
    asked: Option<&'a Message>,
}

impl<'a> Edit<'a> {
    pub(super) fn new(message: &'a Message) -> Self {
        Self {
            message,
            request_uri: None,
            on_top: Vec::new(),
            popped: Vec::new(),
            removed: Vec::new(),
            at_end: Vec::new(),
            asked: None,
        }
    }

    /// Replaces the Request-URI.
    pub fn request_uri(mut self, uri: impl Into<Cow<'a, str>>) -> Self {
        self.request_uri = Some(uri.into());
        self
    }

    /// The Request-URI of the copy; `None` of a response.
    pub fn target(&self) -> Option<&str> {
        self.request_uri.as_deref().or_else(|| self.message.request_uri())
    }

    /// Puts a line before all others; of several, the last one put is topmost.
    pub fn prepend(mut self, name: Name, value: impl Into<Cow<'a, str>>) -> Self {
        self.on_top.insert(0, (name, value.into()));
        self
    }

    /// Takes the topmost element of a comma-separated header away; twice takes two.
    pub fn pop(mut self, name: Name) -> Self {
        match self.popped.iter_mut().find(|(popped, _)| *popped == name) {
            Some((_, count)) => *count += 1,
            None => self.popped.push((name, 1)),
        }
        self
    }

    /// Leaves a header out.
    pub fn remove(mut self, name: Name) -> Self {
        self.removed.push(name);
        self
    }

    /// Puts a line behind all others.
    pub fn append(mut self, name: Name, value: impl Into<Cow<'a, str>>) -> Self {
        self.at_end.push((name, value.into()));
        self
    }

    /// Replaces all lines of a header by one, at the end.
    pub fn set(self, name: Name, value: impl Into<Cow<'a, str>>) -> Self {
        self.remove(name).append(name, value)
    }

    /// Takes what identifies the transaction of a response from the request that it answers: Via, From, Call-ID, CSeq and To. Of
    /// the sender of the response is the tag of To alone, where the request had none (RFC 3261 §8.2.6). Its status line is
    /// written anew.
    pub fn answering(mut self, asked: &'a Message) -> Self {
        self.asked = Some(asked);
        self
    }

    /// Writes the changed message.
    pub fn finish(self) -> Bytes {
        let message = self.message;
        let mut out = Vec::with_capacity(message.head.len() + message.body.len() + 512);
        self.write_start(&mut out);
        let hides_length = self.hides_length();
        if hides_length {
            push_length(&mut out, message.body.len());
        }
        if let Some(asked) = self.asked {
            let to = message.to();
            let tag = to.as_ref().and_then(|to| to.tag()).filter(|tag| takes_tag(asked, tag));
            for field in asked.fields_that_count().filter(|field| is_identity(field.name)) {
                push_identity(&mut out, asked, field, tag);
            }
        }
        for (name, value) in &self.on_top {
            push_line(&mut out, *name, value.as_bytes());
        }
        let (mut popped, writes_length) = (self.popped.clone(), self.writes_length());
        for field in message.fields_that_count() {
            let is_gone = match field.name {
                Name::ContentLength => writes_length,
                name => self.removes(name),
            };
            if is_gone {
                continue;
            }
            match popped.iter_mut().find(|(name, count)| *name == field.name && *count > 0) {
                None => out.extend_from_slice(field.line.of(&message.head)),
                Some((name, count)) => {
                    if let Some(rest) = without_elements(field.value.of(&message.head), count) {
                        push_line(&mut out, *name, rest);
                    }
                }
            }
        }
        for (name, value) in &self.at_end {
            push_line(&mut out, *name, value.as_bytes());
        }
        if !hides_length && writes_length {
            push_length(&mut out, message.body.len());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&message.body);
        out.into()
    }

    /// Whether a line leaves that is no length.
    fn removes(&self, name: Name) -> bool {
        name != Name::Other && (self.asked.is_some() && is_identity(name) || self.removed.contains(&name))
    }

    /// Whether a line that leaves may be taken for a length.
    fn hides_length(&self) -> bool {
        self.message.hides_length || self.asked.is_some_and(|asked| asked.hides_length)
    }

    /// Whether `Content-Length` is written anew: where another line may be taken for it, where it is absent, in doubt, repeated or folded, which not every reader of a stream follows.
    fn writes_length(&self) -> bool {
        let Message { head, fields, length_fault, .. } = self.message;
        let mut lengths = fields.iter().filter(|field| field.name == Name::ContentLength);
        let is_plain = |field: &Field| memchr::memchr(b'\n', field.line.of(head)) == Some(field.line.length() - 1);
        let is_as_it_came = lengths.next().is_some_and(is_plain) && lengths.next().is_none();
        self.hides_length() || self.asked.is_some() || length_fault.is_some() || !is_as_it_came
    }

    fn write_start(&self, out: &mut Vec<u8>) {
        match (self.message.start, &self.request_uri) {
            (Start::Request { written, .. }, Some(uri)) => {
                out.extend_from_slice(written.of(&self.message.head));
                out.push(b' ');
                push_uri(out, uri);
                out.extend_from_slice(b" SIP/2.0\r\n");
            }
            (Start::Response { status, reason }, _) if self.asked.is_some() => {
                push_status(out, status, reason.of(&self.message.head));
            }
            _ => {
                let end = memchr::memchr(b'\n', &self.message.head).map_or(0, |at| at + 1);
                out.extend_from_slice(&self.message.head[..end]);
            }
        }
    }
}

/// A list value without its first `count` elements; `None` when nothing is left. Counts down what it took.
fn without_elements<'v>(value: &'v [u8], count: &mut usize) -> Option<&'v [u8]> {
    let mut rest = trim_bytes(value);
    while *count > 0 || rest.starts_with(b",") {
        let end = list_end(rest);
        if end > 0 {
            *count -= 1;
        }
        rest = trim_bytes(rest.get(end + 1..)?);
    }
    Some(rest).filter(|rest| !rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Limits;

    const INVITE: &[u8] = b"INVITE sip:a@b SIP/2.0\r\nv: SIP/2.0/TLS one , SIP/2.0/UDP two;x=\"a,b\"\r\nX-New: \xff\r\n y\r\n\
        ROUTE: <sip:r1,x;lr>\r\nVia: SIP/2.0/UDP three\r\nRoute: <sip:r2;lr>,\r\n <sip:r3;lr>\r\nMax-Forwards: 70\r\nl: 2\r\n\r\nhi";

    fn invite() -> Message {
        parse(Bytes::from_static(INVITE))
    }

    fn parse(bytes: Bytes) -> Message {
        Message::parse(&bytes, &Limits::default()).unwrap()
    }

    fn elements(bytes: Bytes, name: Name) -> Vec<String> {
        parse(bytes).elements(name).map(str::to_owned).collect()
    }

    #[test]
    fn a_copy_without_changes_is_the_message() {
        assert_eq!(invite().edit().finish(), INVITE);
    }

    #[test]
    fn what_is_not_named_leaves_byte_for_byte() {
        let invite = invite();
        let out =
            invite.edit().request_uri("sip:c@d").prepend(Name::Via, "SIP/2.0/TLS zero").set(Name::MaxForwards, "69");
        let expected = [
            &b"INVITE sip:c@d SIP/2.0\r\nVia: SIP/2.0/TLS zero\r\n"[..],
            INVITE[24..].split_at(INVITE.len() - 24 - b"Max-Forwards: 70\r\nl: 2\r\n\r\nhi".len()).0,
            b"l: 2\r\nMax-Forwards: 69\r\n\r\nhi",
        ];
        assert_eq!(out.finish(), expected.concat());
    }

    #[test]
    fn elements_are_popped_over_several_lines() {
        let popped = |n: usize| {
            let message = invite();
            let edit = (0..n).fold(message.edit(), |edit, _| edit.pop(Name::Via).pop(Name::Route));
            edit.finish()
        };
        let vias = ["SIP/2.0/TLS one", "SIP/2.0/UDP two;x=\"a,b\"", "SIP/2.0/UDP three"];
        let routes = ["<sip:r1,x;lr>", "<sip:r2;lr>", "<sip:r3;lr>"];
        for n in 0..=4 {
            assert_eq!(elements(popped(n), Name::Via), &vias[n.min(3)..]);
            assert_eq!(elements(popped(n), Name::Route), &routes[n.min(3)..]);
        }
    }

    #[test]
    fn a_pop_passes_over_empty_elements_and_keeps_what_is_not_utf_8() {
        let text = b"BYE sip:a@b SIP/2.0\r\nRoute: ,\r\nRoute: , <sip:\xff>,,\r\nRoute: <sip:b\xfe>\r\n\r\n";
        let message = parse(Bytes::from_static(text));
        let out = message.edit().pop(Name::Route).finish();
        assert_eq!(parse(out).values(Name::Route).collect::<Vec<_>>(), [b"<sip:b\xfe>"]);
        let list = parse(Bytes::from_static(b"BYE sip:a@b SIP/2.0\r\nRoute: <sip:\xff>, <sip:c>\r\n\r\n"));
        assert_eq!(elements(list.edit().pop(Name::Route).finish(), Name::Route), ["<sip:c>"]);
    }

    #[test]
    fn the_last_line_put_on_top_is_topmost() {
        let out = invite().edit().prepend(Name::RecordRoute, "<sip:1>").prepend(Name::RecordRoute, "<sip:2>").finish();
        assert_eq!(elements(out, Name::RecordRoute), ["<sip:2>", "<sip:1>"]);
    }

    #[test]
    fn the_length_is_added_where_it_was_absent_and_cannot_be_changed() {
        let datagram = parse(Bytes::from_static(b"BYE sip:a@b SIP/2.0\r\nTo: x\r\n\r\nbody"));
        assert_eq!(datagram.edit().finish(), "BYE sip:a@b SIP/2.0\r\nTo: x\r\nContent-Length: 4\r\n\r\nbody");
        let edit =
            invite().edit().remove(Name::ContentLength).append(Name::ContentLength, "9").remove(Name::Other).finish();
        assert_eq!(edit, INVITE);
        for odd in ["l:\r\n 4", "l: 4\r\n\t", "Content-Length\t:\r\n\t04\r\n "] {
            let text = format!("BYE sip:a@b SIP/2.0\r\n{odd}\r\nTo: x\r\n\r\nbody");
            let out = parse(text.into()).edit().finish();
            assert_eq!(out, "BYE sip:a@b SIP/2.0\r\nTo: x\r\nContent-Length: 4\r\n\r\nbody", "{odd:?}");
        }
        let twice = parse(Bytes::from_static(b"SIP/2.0 200 OK\r\nl: 4\r\nl: 04\r\n\r\nbody"));
        assert_eq!(twice.edit().finish(), "SIP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nbody");
        let doubtful = parse(Bytes::from_static(b"BYE sip:a@b SIP/2.0\r\nl: 9\r\nl: 1\r\n\r\nbody"));
        assert_eq!(doubtful.edit().finish(), "BYE sip:a@b SIP/2.0\r\nContent-Length: 0\r\n\r\n");
    }

    #[test]
    fn no_value_begins_another_line() {
        let bad = "x\r\nEvil: 1\r\n\r\nbody\u{0}\u{b}";
        let out = invite().edit().request_uri(bad).prepend(Name::Via, bad).append(Name::Reason, bad).finish();
        let message = parse(out);
        assert_eq!(message.values_written("Evil").count(), 0);
        assert_eq!((message.request_uri(), message.body().as_ref()), (Some("xEvil:1body"), &b"hi"[..]));
    }
}
