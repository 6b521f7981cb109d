//! How messages lie in a stream: one after the other with their length, or each in a WebSocket message.
//!
//! Invariant: over WebSocket a message is one SIP message, a ping or a pong, whole and alone (RFC 7118 §5.1); what it would
//! mean otherwise is not guessed at. Bytes that are to be sent are never copied.

use bytes::Bytes;
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

/// What came.
pub(crate) enum Came {
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
    /// What came is not one message of SIP.
    NotSip,
}

impl Framing {
    pub(crate) fn stream(limits: Limits) -> Self {
        Self::Stream(Framer::new(limits))
    }

    pub(crate) fn websocket(limits: Limits) -> Self {
        Self::WebSocket(Reader::new(limits.of_responses().message_bytes))
    }

    /// Adds bytes that were read.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        match self {
            Self::Stream(framer) => framer.push(bytes),
            Self::WebSocket(reader) => reader.push(bytes),
        }
    }

    /// What comes next, or `None` until more bytes come.
    pub(crate) fn next(&mut self) -> Result<Option<Came>, Broken> {
        match self {
            Self::Stream(framer) => framer.next_frame().map(|frame| frame.map(Came::Frame)).map_err(Broken::Stream),
            Self::WebSocket(reader) => {
                let incoming = reader.next_message().map_err(Broken::WebSocket)?;
                Ok(incoming.map(|incoming| match incoming {
                    Incoming::Message(bytes) => Came::Frame(match &bytes[..] {
                        b"\r\n\r\n" => Frame::Ping,
                        b"\r\n" => Frame::Pong,
                        _ => Frame::Message(bytes),
                    }),
                    Incoming::Ping(payload) => Came::Control(websocket::pong(&payload)),
                    Incoming::Close(code) => Came::End(websocket::close(code.unwrap_or(websocket::CLOSE_NORMAL))),
                }))
            }
        }
    }

    /// Whether a message has begun that is not whole yet.
    pub(crate) fn is_partial(&self) -> bool {
        match self {
            Self::Stream(framer) => framer.is_partial(),
            Self::WebSocket(reader) => reader.is_partial(),
        }
    }

    /// What stands before a message that is sent; often nothing.
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

    /// Whether a message of so many bytes came alone: in a stream it always does.
    pub(crate) fn is_whole(&self, came: usize, message: usize) -> bool {
        matches!(self, Self::Stream(_)) || came == message
    }
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
