//! Any bytes as a stream; the first sixteen say how it is cut.
//!
//! Invariant: no panic; however a stream is cut, the same messages come out, and the same error or none.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sip::message::{Frame, FrameError, Framer, Limits, Message};

fuzz_target!(|data: &[u8]| {
    let Some((sizes, stream)) = data.split_at_checked(16) else {
        return;
    };
    let sizes: Vec<usize> = sizes.iter().map(|size| usize::from(*size) + 1).collect();
    let whole = cut(stream, &[usize::MAX]);
    assert_eq!(cut(stream, &sizes), whole);
    assert_eq!(cut(stream, &[1]), whole);
    for message in whole.0 {
        if let Ok(message) = Message::parse(&message, &Limits::default()) {
            let _ = message.check();
        }
    }
});

fn cut(stream: &[u8], sizes: &[usize]) -> (Vec<Bytes>, Option<FrameError>) {
    let mut framer = Framer::new(Limits::default());
    let (mut messages, mut at, mut turn) = (Vec::new(), 0, 0);
    while at < stream.len() {
        let size = sizes[turn % sizes.len()].min(stream.len() - at);
        framer.push(&stream[at..at + size]);
        (at, turn) = (at + size, turn + 1);
        loop {
            match framer.next_frame() {
                Ok(Some(Frame::Message(message))) => messages.push(message),
                Ok(Some(Frame::Ping | Frame::Pong | Frame::TooLong(_) | Frame::BareLf(_) | Frame::Stray(_))) => {}
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}
