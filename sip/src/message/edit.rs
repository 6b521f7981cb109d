//! A changed copy of a message: what a proxy must change, and nothing else (RFC 3261 §16.6).
//!
//! Invariant: every header line that no change names leaves byte for byte as it came, and so does the body. Whatever the
//! values hold, the copy is one message; its `Content-Length` is right, and is added where it was absent, because what
//! came as a datagram may leave on a stream. [`Name::Other`] and `Content-Length` cannot be changed.

use std::borrow::Cow;

use bytes::Bytes;

use super::compose::{push_length, push_line, push_uri};
use super::grammar::{list_end, trim_bytes};
use super::{Message, Name, Start};

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
        }
    }

    /// Replaces the Request-URI.
    pub fn request_uri(mut self, uri: impl Into<Cow<'a, str>>) -> Self {
        self.request_uri = Some(uri.into());
        self
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

    /// Writes the changed message.
    pub fn finish(self) -> Bytes {
        let message = self.message;
        let mut out = Vec::with_capacity(message.head.len() + message.body.len() + 512);
        self.write_start(&mut out);
        for (name, value) in &self.on_top {
            push_line(&mut out, *name, value.as_bytes());
        }
        let mut popped = self.popped.clone();
        for field in &message.fields {
            if self.removes(field.name) {
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
        if message.length_fault.is_some() || !message.has(Name::ContentLength) {
            push_length(&mut out, message.body.len());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&message.body);
        out.into()
    }

    fn removes(&self, name: Name) -> bool {
        match name {
            Name::Other => false,
            Name::ContentLength => self.message.length_fault.is_some(),
            name => self.removed.contains(&name),
        }
    }

    fn write_start(&self, out: &mut Vec<u8>) {
        match (self.message.start, &self.request_uri) {
            (Start::Request { written, .. }, Some(uri)) => {
                out.extend_from_slice(written.of(&self.message.head));
                out.push(b' ');
                push_uri(out, uri);
                out.extend_from_slice(b" SIP/2.0\r\n");
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
