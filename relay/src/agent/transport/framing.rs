//! The messages in a stream: one after the other with their length, or each in a WebSocket message.
//!
//! Invariant: over WebSocket a message is one SIP message, a ping or a pong (RFC 7118 §5.1), with line ends around it, which a stream may have as
//! well (RFC 3261 §7.5); what else is behind it is discarded (§18.3), and never taken for another message. Bytes that are to be sent are never copied.

use bytes::{Buf as _, Bytes};
use sip::message::{Frame, FrameError, Framer, Limits};

use crate::metrics::labels::SipRefusal;
use crate::net::websocket::{self, CLOSE_POLICY, Fault, Incoming, Reader};

/// The framing of one connection, for what comes.
#[derive(Debug)]
pub(crate) enum Framing {
    /// TCP, TLS: RFC 3261 §18.3.
    Stream(Framer),
    /// WebSocket: RFC 7118.
    WebSocket(Reader),
}

/// A complete input from the bytes of a stream.
pub(crate) enum StreamEvent {
    /// A message or a keep-alive of SIP.
    Frame(Frame),
    /// A ping of the WebSocket; this is to be written.
    Control(Bytes),
    /// The peer says that nothing follows; this is to be written last.
    End(Bytes),
}

/// Why a connection is not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The stream cannot be cut into messages.
    Stream(FrameError),
    /// The WebSocket cannot.
    WebSocket(Fault),
    /// The bytes are not one message of SIP.
    NotSip,
}

impl Framing {
    pub(crate) fn stream(limits: Limits) -> Self {
        Self::Stream(Framer::new(limits))
    }

    pub(crate) fn websocket(limits: Limits) -> Self {
        Self::WebSocket(Reader::new(limits.of_responses().message_bytes))
    }

    /// The server that writes it sees a bare LF as the end of a line.
    pub(crate) fn sees_bare_lf(&mut self) {
        if let Self::Stream(framer) = self {
            framer.sees_bare_lf();
        }
    }

    /// A server has taken what it carries.
    pub(crate) fn is_of_server(&mut self) {
        if let Self::Stream(framer) = self {
            framer.is_of_server();
        }
    }

    /// Adds bytes that were read.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Stream(framer) => framer.push(bytes),
            Self::WebSocket(reader) => reader.push(bytes),
        }
    }

    /// The next input, or `None` until more bytes come.
    pub(crate) fn next(&mut self) -> Result<Option<StreamEvent>, Broken> {
        match self {
            Self::Stream(framer) => {
                framer.next_frame().map(|frame| frame.map(StreamEvent::Frame)).map_err(Broken::Stream)
            }
            Self::WebSocket(reader) => {
                let incoming = reader.next_message().map_err(Broken::WebSocket)?;
                Ok(incoming.map(|incoming| match incoming {
                    Incoming::Message(bytes) => StreamEvent::Frame(frame_of(bytes)),
                    Incoming::Ping(payload) => StreamEvent::Control(websocket::pong(&payload)),
                    Incoming::Close(code) => {
                        StreamEvent::End(websocket::close(code.unwrap_or(websocket::CLOSE_NORMAL)))
                    }
                }))
            }
        }
    }

    /// Nothing has followed for long: whether that ends the message that has begun.
    pub(crate) fn end_by_silence(&mut self) -> bool {
        match self {
            Self::Stream(framer) => framer.end_by_silence(),
            Self::WebSocket(_) => false,
        }
    }

    /// Whether a message has begun that is not whole yet.
    pub(crate) fn is_partial(&self) -> bool {
        match self {
            Self::Stream(framer) => framer.is_partial(),
            Self::WebSocket(reader) => reader.is_partial(),
        }
    }

    /// The bytes that precede a message that is sent; often none.
    pub(crate) fn head_of(&self, message: &[u8]) -> Bytes {
        match self {
            Self::Stream(_) => Bytes::new(),
            Self::WebSocket(_) => websocket::head_of(message),
        }
    }

    /// The last bytes of a connection that this side ends, with the code that tells why.
    pub(crate) fn farewell(&self, code: u16) -> Option<Bytes> {
        match self {
            Self::Stream(_) => None,
            Self::WebSocket(_) => Some(websocket::close(code)),
        }
    }

    /// Whether a message of so many bytes came alone, but for line ends behind it: in a stream it always does.
    pub(crate) fn is_whole(&self, came: &[u8], message: usize) -> bool {
        matches!(self, Self::Stream(_)) || came.get(message..).is_some_and(is_line_ends)
    }
}

/// The frame in a message of a WebSocket, without the line ends before it; line ends alone are a pong, and two of them or more a ping (RFC 5626
/// §4.4.1). An empty message, by which some keep a connection alive, asks for nothing, and is as a pong.
fn frame_of(mut bytes: Bytes) -> Frame {
    if is_line_ends(&bytes) {
        let is_ping = bytes.len() > 2 && bytes.chunks(2).all(|pair| pair == b"\r\n");
        return if is_ping { Frame::Ping } else { Frame::Pong };
    }
    while bytes.starts_with(b"\r\n") {
        bytes.advance(2);
    }
    Frame::Message(bytes)
}

fn is_line_ends(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
}

impl Broken {
    /// How it is counted.
    pub(crate) fn refusal(self) -> SipRefusal {
        match self {
            Self::Stream(FrameError::TooLong) | Self::WebSocket(Fault::TooLong) => SipRefusal::TooLarge,
            Self::Stream(FrameError::ContentLength | FrameError::NotSip) | Self::WebSocket(_) | Self::NotSip => {
                SipRefusal::Malformed
            }
        }
    }

    /// The code that a WebSocket is closed with.
    pub(crate) fn code(self) -> u16 {
        match self {
            Self::WebSocket(fault) => fault.code(),
            Self::Stream(_) | Self::NotSip => CLOSE_POLICY,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes a client's frame with this text, of at most 125 bytes: the message, and whether it came alone.
    fn came(text: &str) -> (Frame, bool) {
        let mut framing = Framing::websocket(Limits::default());
        // A mask of zeros changes nothing.
        framing.push(&[&[0x81, 0x80 | u8::try_from(text.len()).unwrap()], &[0; 4][..], text.as_bytes()].concat());
        let Ok(Some(StreamEvent::Frame(frame))) = framing.next() else { panic!("no frame: {text:?}") };
        let whole = match &frame {
            Frame::Message(bytes) => sip::message::Message::parse(bytes, &Limits::default())
                .is_ok_and(|it| framing.is_whole(bytes, it.head().len() + it.body().len())),
            _ => true,
        };
        (frame, whole)
    }

    #[test]
    fn line_ends_around_a_message_of_a_websocket_are_passed_over() {
        let message = "OPTIONS sip:a@b SIP/2.0\r\nContent-Length: 2\r\n\r\nhi";
        for (before, behind) in [("", ""), ("", "\r\n"), ("\r\n", ""), ("\r\n\r\n", "\r\n\r\n"), ("", "\n")] {
            let (frame, whole) = came(&format!("{before}{message}{behind}"));
            assert_eq!(
                (frame, whole),
                (Frame::Message(format!("{message}{behind}").into()), true),
                "{before:?} {behind:?}"
            );
        }
        for behind in ["x", " ", "\r\nx", "\0", message] {
            assert!(!came(&format!("{message}{behind}")).1, "{behind:?}");
        }
        assert!(!came(&format!(" {message}")).1, "what is no line end is no message's beginning");
    }

    #[test]
    fn line_ends_alone_are_keep_alives() {
        for (text, frame) in [("\r\n", Frame::Pong), ("\r\n\r\n", Frame::Ping), ("\r\n\r\n\r\n", Frame::Ping)] {
            assert_eq!(came(text).0, frame, "{text:?}");
        }
        for text in ["", "\r", "\n", "\n\r", "\n\n", "\r\n\n"] {
            assert_eq!(came(text).0, Frame::Pong, "{text:?}");
        }
        for odd in ["\0", " ", "\0\r\n"] {
            assert!(!came(odd).1, "{odd:?}");
        }
    }
}
