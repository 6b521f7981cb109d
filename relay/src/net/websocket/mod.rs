//! WebSocket (RFC 6455), the server's side: frames in, messages out, and the other way round.
//!
//! | comes | is |
//! | --- | --- |
//! | text or binary, whole or in fragments | one message |
//! | ping | [`Incoming::Ping`]: a pong with the same bytes is due |
//! | pong | nothing |
//! | close | [`Incoming::Close`]: the last frame |
//! | a close with a code that no peer may send, or a reason that is not UTF-8 | [`Fault`] |
//! | anything else, a frame without a mask, a reserved bit | [`Fault`] |
//!
//! The HTTP request that comes first is dealt with in [`upgrade`].
//!
//! Invariant: an idle reader holds no memory beyond itself; its memory never exceeds the limit of one message plus one
//! read; a frame's length is judged before its bytes are awaited. No extension is ever agreed on.

pub mod upgrade;

use bytes::{Buf, Bytes, BytesMut};

/// Fragments of one message; with one more it is too long. A SIP stack sends one, or a few of some kilobytes.
const FRAGMENTS_MAX: u32 = 256;
/// Bytes of a control frame's payload (RFC 6455 §5.5).
const CONTROL_MAX: usize = 125;

/// The service ended the connection for a usual reason (RFC 6455 §7.4.1).
pub const CLOSE_NORMAL: u16 = 1000;
/// The process is about to end.
pub const CLOSE_GOING_AWAY: u16 = 1001;
/// A frame broke RFC 6455.
pub const CLOSE_PROTOCOL_ERROR: u16 = 1002;
/// A text was not UTF-8.
pub const CLOSE_NOT_TEXT: u16 = 1007;
/// A message was not what this service takes.
pub const CLOSE_POLICY: u16 = 1008;
/// A message was too long.
pub const CLOSE_TOO_LONG: u16 = 1009;
/// The client may come again later.
pub const CLOSE_TRY_AGAIN_LATER: u16 = 1013;

/// Input from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A whole message, text or binary.
    Message(Bytes),
    /// A ping; [`pong`] with these bytes is due.
    Ping(Bytes),
    /// The end, with its code when it named one.
    Close(Option<u16>),
}

/// Why a connection cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A frame that RFC 6455 does not allow.
    #[error("a frame breaks RFC 6455")]
    Protocol,
    /// A text message, or the reason of a close, that is not UTF-8.
    #[error("a text is not UTF-8")]
    NotText,
    /// A message beyond the limit, or in too many fragments.
    #[error("a message is too long")]
    TooLong,
}

impl Fault {
    /// The code to close with.
    pub fn code(self) -> u16 {
        match self {
            Self::Protocol => CLOSE_PROTOCOL_ERROR,
            Self::NotText => CLOSE_NOT_TEXT,
            Self::TooLong => CLOSE_TOO_LONG,
        }
    }
}

/// Reads the frames of one client.
#[derive(Debug)]
pub struct Reader {
    buffer: BytesMut,
    /// The fragments so far of a message that is not whole.
    fragments: Option<Fragments>,
    /// Bytes of one message.
    limit: usize,
}

#[derive(Debug)]
struct Fragments {
    text: bool,
    count: u32,
    bytes: BytesMut,
}

impl Reader {
    /// A reader for a new connection, whose messages may have `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { buffer: BytesMut::new(), fragments: None, limit }
    }

    /// Adds bytes that were read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a message has begun that is not whole yet.
    pub fn is_partial(&self) -> bool {
        self.fragments.is_some() || !self.buffer.is_empty()
    }

    /// The next input, or `None` until more bytes come.
    ///
    /// # Errors
    /// [`Fault`] when the connection must be closed.
    pub fn next_message(&mut self) -> Result<Option<Incoming>, Fault> {
        loop {
            let Some(head) = Head::read(&self.buffer)? else {
                if self.buffer.is_empty() {
                    self.buffer = BytesMut::new();
                }
                return Ok(None);
            };
            self.judge(&head)?;
            if self.buffer.len() - head.size < head.length {
                return Ok(None);
            }
            self.buffer.advance(head.size);
            let mut payload = self.buffer.split_to(head.length);
            unmask(&mut payload, head.mask);
            if let Some(incoming) = self.take(&head, payload)? {
                return Ok(Some(incoming));
            }
        }
    }

    /// Judges a frame by its head alone.
    fn judge(&self, head: &Head) -> Result<(), Fault> {
        let so_far = self.fragments.as_ref();
        let in_place = match head.opcode {
            Opcode::Continuation => so_far.is_some(),
            Opcode::Text | Opcode::Binary => so_far.is_none(),
            Opcode::Close | Opcode::Ping | Opcode::Pong => return Ok(()),
        };
        let (length, count) = so_far.map_or((0, 0), |it| (it.bytes.len(), it.count));
        match in_place {
            false => Err(Fault::Protocol),
            true if head.length > self.limit - length || count >= FRAGMENTS_MAX => Err(Fault::TooLong),
            true => Ok(()),
        }
    }

    fn take(&mut self, head: &Head, payload: BytesMut) -> Result<Option<Incoming>, Fault> {
        match head.opcode {
            Opcode::Ping => return Ok(Some(Incoming::Ping(payload.freeze()))),
            Opcode::Pong => return Ok(None),
            Opcode::Close => {
                return match payload.split_first_chunk() {
                    Some((code, reason)) => close_code(u16::from_be_bytes(*code), reason).map(Some),
                    None if payload.is_empty() => Ok(Some(Incoming::Close(None))),
                    None => Err(Fault::Protocol),
                };
            }
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {}
        }
        let (text, bytes) = match self.fragments.take() {
            None if head.last => (head.opcode == Opcode::Text, payload),
            None => {
                self.fragments = Some(Fragments { text: head.opcode == Opcode::Text, count: 1, bytes: payload });
                return Ok(None);
            }
            Some(mut so_far) => {
                so_far.bytes.extend_from_slice(&payload);
                so_far.count += 1;
                if !head.last {
                    self.fragments = Some(so_far);
                    return Ok(None);
                }
                (so_far.text, so_far.bytes)
            }
        };
        if text && std::str::from_utf8(&bytes).is_err() {
            return Err(Fault::NotText);
        }
        Ok(Some(Incoming::Message(bytes.freeze())))
    }
}

/// The end that a close frame tells. Codes that are reserved, or that an endpoint only tells itself (1005, 1006, 1015), are in no frame (RFC 6455
/// §7.4).
fn close_code(code: u16, reason: &[u8]) -> Result<Incoming, Fault> {
    match code {
        1000..=1003 | 1007..=1014 | 3000..=4999 if std::str::from_utf8(reason).is_ok() => {
            Ok(Incoming::Close(Some(code)))
        }
        1000..=1003 | 1007..=1014 | 3000..=4999 => Err(Fault::NotText),
        _ => Err(Fault::Protocol),
    }
}

/// The head of a frame that carries `message` to a client: as text when it is UTF-8, else as binary (RFC 7118 §5.1). The
/// message itself follows, unchanged: a server masks nothing.
pub fn head_of(message: &[u8]) -> Bytes {
    let opcode = if std::str::from_utf8(message).is_ok() { 0x81 } else { 0x82 };
    let length = message.len();
    let mut head = BytesMut::with_capacity(10);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..=125), _) => head.extend_from_slice(&[opcode, short]),
        (_, Ok(medium)) => {
            head.extend_from_slice(&[opcode, 126]);
            head.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            head.extend_from_slice(&[opcode, 127]);
            head.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    head.freeze()
}

/// A question whether the client is there, which every client answers (RFC 6455 §5.5.2).
pub fn ping() -> Bytes {
    Bytes::from_static(&[0x89, 0])
}

/// The answer to a ping.
pub fn pong(payload: &[u8]) -> Bytes {
    let payload = &payload[..payload.len().min(CONTROL_MAX)];
    [&[0x8a, payload.len() as u8], payload].concat().into()
}

/// The last frame, with this code.
pub fn close(code: u16) -> Bytes {
    let [high, low] = code.to_be_bytes();
    Bytes::copy_from_slice(&[0x88, 2, high, low])
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

/// The head of a frame, before its payload (RFC 6455 §5.2).
#[derive(Debug)]
struct Head {
    last: bool,
    opcode: Opcode,
    mask: [u8; 4],
    /// Its own bytes.
    size: usize,
    /// The payload's.
    length: usize,
}

impl Head {
    /// `None` until it is whole; what its first two bytes do not allow is refused by them alone.
    fn read(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let Some([first, second]) = bytes.first_chunk::<2>().copied() else { return Ok(None) };
        let (last, reserved, masked) = (first & 0x80 != 0, first & 0x70, second & 0x80 != 0);
        let opcode = match first & 0x0f {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return Err(Fault::Protocol),
        };
        let short = usize::from(second & 0x7f);
        let control = matches!(opcode, Opcode::Close | Opcode::Ping | Opcode::Pong);
        if reserved != 0 || !masked || control && (!last || short > CONTROL_MAX) {
            return Err(Fault::Protocol);
        }
        let extended = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let size = 2 + extended + 4;
        let Some(head) = bytes.get(..size) else { return Ok(None) };
        let length = head[2..2 + extended].iter().fold(0u64, |length, byte| length << 8 | u64::from(*byte));
        // The shortest form alone, and no length with the highest bit (RFC 6455 §5.2).
        let length = match extended {
            0 => short as u64,
            2 if length <= 125 => return Err(Fault::Protocol),
            8 if length <= 0xffff || length >> 63 != 0 => return Err(Fault::Protocol),
            _ => length,
        };
        let mut mask = [0; 4];
        mask.copy_from_slice(&head[size - 4..]);
        let length = usize::try_from(length).map_err(|_| Fault::TooLong)?;
        Ok(Some(Self { last, opcode, mask, size, length }))
    }
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// A client's frame.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = head_of(payload).to_vec();
        bytes[0] = first;
        bytes[1] |= 0x80;
        bytes.extend(MASK);
        bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    fn read(limit: usize, pieces: &[&[u8]]) -> Result<Vec<Incoming>, Fault> {
        let mut reader = Reader::new(limit);
        let mut all = Vec::new();
        for piece in pieces {
            reader.push(piece);
            while let Some(incoming) = reader.next_message()? {
                all.push(incoming);
            }
        }
        assert!(reader.buffer.len() <= limit + 16);
        Ok(all)
    }

    fn message(text: &'static str) -> Incoming {
        Incoming::Message(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_message_is_the_same_however_it_is_cut() {
        // RFC 6455 §5.7: "Hello", masked.
        let example = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(frame(0x81, b"Hello"), example);
        assert_eq!(read(100, &[&example]), Ok(vec![message("Hello")]));
        let bytes: Vec<&[u8]> = example.chunks(1).collect();
        assert_eq!(read(100, &bytes), Ok(vec![message("Hello")]));
        let fragments = [frame(0x01, b"Hel"), frame(0x00, b""), frame(0x89, b"?"), frame(0x80, b"lo")].concat();
        assert_eq!(
            read(100, &[&fragments]),
            Ok(vec![Incoming::Ping(Bytes::from_static(b"?")), message("Hello")]),
            "a control frame stands between fragments"
        );
        assert_eq!(read(100, &[&frame(0x82, b"a\xff")]), Ok(vec![Incoming::Message(Bytes::from_static(b"a\xff"))]));
    }

    #[test]
    fn every_length_has_its_form() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 70_000] {
            let payload = vec![b'x'; length];
            let read = read(70_000, &[&frame(0x81, &payload)]);
            assert_eq!(read, Ok(vec![Incoming::Message(payload.into())]), "{length}");
        }
    }

    #[test]
    fn what_rfc_6455_forbids_ends_the_connection() {
        let long = |first: u8, form: &[u8]| [&[first][..], form, &MASK].concat();
        let faults: &[(&str, Vec<u8>)] = &[
            ("no mask", vec![0x81, 0x05]),
            ("a reserved bit", frame(0xc1, b"x")),
            ("another reserved bit", frame(0x91, b"x")),
            ("an unknown opcode", frame(0x83, b"x")),
            ("an unknown control frame", frame(0x8b, b"x")),
            ("a ping in fragments", frame(0x09, b"x")),
            ("a ping of 126 bytes", frame(0x89, &[b'x'; 126])),
            ("a continuation of nothing", frame(0x80, b"x")),
            ("a message within a message", [frame(0x01, b"x"), frame(0x81, b"y")].concat()),
            ("a length that is too long a form", long(0x81, &[0xfe, 0, 125])),
            ("another", long(0x81, &[0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff])),
            ("a negative length", long(0x82, &[0xff, 0x80, 0, 0, 0, 0, 0, 0, 0])),
            ("half a code", frame(0x88, b"x")),
            ("HTTP", b"GET / HTTP/1.1\r\n".to_vec()),
            ("TLS", b"\x16\x03\x01\x00".to_vec()),
        ];
        for (what, bytes) in faults {
            assert_eq!(read(70_000, &[bytes]), Err(Fault::Protocol), "{what}");
        }
        assert_eq!(read(100, &[&frame(0x81, b"a\xff")]), Err(Fault::NotText));
        let split = [frame(0x01, "ü".as_bytes().first_chunk::<1>().unwrap()), frame(0x80, b"x")].concat();
        assert_eq!(read(100, &[&split]), Err(Fault::NotText));
    }

    #[test]
    fn too_much_is_refused_before_it_is_awaited() {
        let head = [0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(read(65_536, &[&head]), Err(Fault::TooLong), "four gigabytes");
        assert_eq!(read(10, &[&frame(0x81, b"12345678901")]), Err(Fault::TooLong));
        assert_eq!(read(10, &[&frame(0x81, b"1234567890")]), Ok(vec![message("1234567890")]));
        let parts = [frame(0x01, b"123456"), frame(0x80, b"78901")].concat();
        assert_eq!(read(10, &[&parts]), Err(Fault::TooLong), "in two");
        let mut endless = frame(0x01, b"");
        for _ in 0..FRAGMENTS_MAX {
            endless.extend(frame(0x00, b""));
        }
        assert_eq!(read(10, &[&endless]), Err(Fault::TooLong), "endless fragments of nothing");
    }

    #[test]
    fn an_idle_reader_holds_nothing() {
        let mut reader = Reader::new(65_536);
        reader.push(&frame(0x81, &[b'x'; 60_000]));
        assert!(matches!(reader.next_message(), Ok(Some(Incoming::Message(_)))));
        assert_eq!(reader.next_message(), Ok(None));
        assert_eq!((reader.buffer.capacity(), reader.fragments.is_none()), (0, true));
    }

    #[test]
    fn the_end_may_name_its_reason() {
        assert_eq!(read(9, &[&frame(0x88, b"")]), Ok(vec![Incoming::Close(None)]));
        assert_eq!(read(9, &[&frame(0x88, b"\x03\xe8bye")]), Ok(vec![Incoming::Close(Some(1000))]));
        for code in [1000u16, 1001, 1003, 1007, 1011, 1014, 3000, 4999] {
            assert_eq!(read(9, &[&frame(0x88, &code.to_be_bytes())]), Ok(vec![Incoming::Close(Some(code))]));
        }
        for code in [0u16, 5, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
            assert_eq!(read(9, &[&frame(0x88, &code.to_be_bytes())]), Err(Fault::Protocol), "{code}");
        }
        assert_eq!(read(9, &[&frame(0x88, b"\x03\xe8\xff")]), Err(Fault::NotText));
        assert_eq!(close(CLOSE_TOO_LONG)[..], [0x88, 2, 0x03, 0xf1]);
        assert_eq!(pong(b"?")[..], [0x8a, 1, b'?']);
    }
}
