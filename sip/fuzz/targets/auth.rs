//! Any text as a challenge and as credentials.
//!
//! Invariant: no panic; a challenge that can be answered is answered by one line that verifies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sip::auth::{Challenge, Credentials, DigestResponse, Ha1, bearer};

fuzz_target!(|text: &str| {
    let _ = bearer(text);
    if let Some(credentials) = Credentials::parse(text) {
        let ha1 = Ha1::compute(credentials.algorithm.hash, "a", "b", "c");
        let _ = credentials.verify(&ha1, "REGISTER", b"");
    }
    let Ok(challenge) = Challenge::parse(text) else {
        return;
    };
    let ha1 = Ha1::compute(challenge.algorithm.hash, "alice", &challenge.realm, "secret");
    let answer = DigestResponse { username: "alice", method: "REGISTER", uri: "sip:b", cnonce: "c", nc: 1, body: b"" };
    let Ok(value) = challenge.answer(&ha1, &answer) else {
        return;
    };
    assert!(!value.contains(|c: char| c.is_ascii_control() && c != '\t'));
    let credentials = Credentials::parse(&value).expect("an answer parses");
    assert!(credentials.verify(&ha1, "REGISTER", b""));
});
