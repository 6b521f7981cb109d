//! Any bytes as a message.
//!
//! Invariant: no panic; what parses is written as it came; what passes its check does so after an edit.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sip::message::{Composer, Limits, Message, Name, Via};

fuzz_target!(|data: &[u8]| {
    let limits = Limits::default();
    let Ok(message) = Message::parse(&Bytes::copy_from_slice(data), &limits) else {
        return;
    };
    assert!(data.starts_with(&message.to_bytes()));
    let sound = message.check();
    let _ = (message.via(), message.contacts(), message.route(0), message.number(Name::Expires));
    let _ = message.from().map(|from| (from.name(), from.tag().map(str::len)));
    let _ = message.elements(Name::Via).filter_map(Via::parse).count();
    let answer = Composer::response(&message, 400, "Bad Request", Some("t")).finish();
    if sound.is_err() {
        return;
    }
    let wide = Limits::COMPOSED;
    Message::parse(&answer, &wide).expect("an answer parses").check().expect("an answer is sound");
    let edit = message.edit().prepend(Name::Via, "SIP/2.0/TLS a;branch=z9hG4bK1").pop(Name::Route).finish();
    let edited = Message::parse(&edit, &wide).expect("an edited message parses");
    edited.check().expect("an edited message is sound");
    assert_eq!(edited.body(), message.body());
    let undone = edited.edit().pop(Name::Via).finish();
    let undone = Message::parse(&undone, &wide).expect("an edit is undone");
    assert!(undone.elements(Name::Via).eq(message.elements(Name::Via)));
});
