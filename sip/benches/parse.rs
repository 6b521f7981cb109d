//! What lies between the bytes of an INVITE and its push: parse, check, typed views, edit, frame; and the digest of a REGISTER.

mod measure;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use sip::auth::{Challenge, DigestResponse, Ha1, Hash};
use sip::message::{Composer, Framer, Limits, Message, Name};

use measure::ProcessorTime;

criterion_group! {
    name = benches;
    config = measure::criterion();
    targets = message
}
criterion_main!(benches);

fn message(criterion: &mut Criterion<ProcessorTime>) {
    let invite = Bytes::from(invite());
    let limits = Limits::default();
    let parsed = Message::parse(&invite, &limits).expect("the INVITE parses");
    parsed.check().expect("the INVITE is sound");
    assert_eq!(invite.len(), 1_663);

    criterion.bench_function("parse", |bencher| bencher.iter(|| Message::parse(black_box(&invite), &limits).is_ok()));
    criterion.bench_function("check", |bencher| bencher.iter(|| black_box(&parsed).check().is_ok()));
    criterion.bench_function("parse, check, typed views", |bencher| {
        bencher.iter(|| {
            let message = Message::parse(black_box(&invite), &limits).ok()?;
            message.check().ok()?;
            let (from, to) = (message.from()?, message.to()?);
            Some(
                black_box((from.name(), from.user(), to.user(), message.via()?.branch(), message.call_id()?))
                    .1
                    .is_some(),
            )
        });
    });
    criterion.bench_function("edit as a proxy does", |bencher| {
        bencher.iter(|| {
            let edit = black_box(&parsed).edit().request_uri("sip:pi_0123456789@192.0.2.7:5061;transport=tls");
            let edit = edit.prepend(Name::RecordRoute, "<sip:token@relay1.example.net:5061;transport=tls;lr>");
            let edit = edit.prepend(Name::Via, "SIP/2.0/TLS relay1.example.net:5061;branch=z9hG4bK0123456789abcdef");
            edit.pop(Name::Route).set(Name::MaxForwards, "69").finish()
        });
    });
    criterion.bench_function("answer 180", |bencher| {
        bencher.iter(|| Composer::response(black_box(&parsed), 180, "Ringing", Some("a1b2c3")).finish());
    });
    criterion.bench_function("frame", |bencher| {
        bencher.iter(|| {
            let mut framer = Framer::new(limits);
            framer.push(black_box(&invite));
            framer.next_frame().is_ok()
        });
    });
    let value =
        "Digest realm=\"example.com\", nonce=\"84a4cc6f3082121f32b42a2187831a9e\", qop=\"auth\", algorithm=SHA-256";
    let ha1 = Ha1::compute(Hash::Sha256, "alice", "example.com", "correct horse");
    let answer = DigestResponse {
        username: "alice",
        method: "REGISTER",
        uri: "sip:example.com",
        cnonce: "0a4f113b0a4f113b",
        nc: 1,
        body: b"",
    };
    criterion.bench_function("answer a challenge", |bencher| {
        bencher.iter(|| Challenge::parse(black_box(value)).ok()?.answer(&ha1, &answer).ok());
    });
}

/// What a softphone sends through two proxies: 1,663 bytes, as long as the one that libraries were compared with.
fn invite() -> Vec<u8> {
    let mut head = String::from(
        "INVITE sip:b7f3a9c2e1d04856@relay1.example.net:5071;transport=tls SIP/2.0\r\n\
         Record-Route: <sip:edge.example.com:5061;transport=tls;lr;did=3a1.6f2>\r\n\
         Via: SIP/2.0/TLS edge.example.com:5061;branch=z9hG4bK8f1c.5d0e7a3b9c2f4e1d.0;i=61\r\n\
         Via: SIP/2.0/TLS 10.20.30.40:5061;received=10.20.30.40;rport=40112;branch=z9hG4bKcore77aa\r\n\
         Via: SIP/2.0/UDP 192.168.1.23:5060;received=203.0.113.9;rport=5060;branch=z9hG4bK-524287-1---0f3eb40b11f97a9c\r\n\
         Max-Forwards: 68\r\n\
         Contact: <sip:bob@203.0.113.9:5060;transport=udp;ob>;+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-000A95A0E128>\"\r\n\
         To: \"Alice Example\" <sip:alice@example.com>\r\n\
         From: \"Bob Builder\" <sip:bob@example.com>;tag=7c19e0e5\r\n\
         Call-ID: wSSsR1c-lUjKuRhxr0iEKA..@192.168.1.23\r\n\
         CSeq: 314159 INVITE\r\n\
         Route: <sip:relay1.example.net:5071;transport=tls;lr>\r\n\
         Allow: INVITE, ACK, CANCEL, BYE, NOTIFY, REFER, MESSAGE, OPTIONS, INFO, SUBSCRIBE, UPDATE, PRACK\r\n\
         Supported: replaces, norefersub, extended-refer, timer, outbound, path, 100rel, gruu\r\n\
         Session-Expires: 1800\r\n\
         Min-SE: 90\r\n\
         User-Agent: Softphone 5.6.1 v2.10.19.9\r\n\
         P-Asserted-Identity: \"Bob Builder\" <sip:bob@example.com>\r\n\
         Privacy: none\r\n\
         Content-Type: application/sdp\r\n",
    );
    let sdp = "v=0\r\no=- 3903820 3903820 IN IP4 203.0.113.9\r\ns=-\r\nc=IN IP4 203.0.113.9\r\nt=0 0\r\n\
               m=audio 49170 RTP/AVP 0 8 9 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n\
               a=rtpmap:9 G722/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=sendrecv\r\n";
    let length = format!("Content-Length: {}\r\n\r\n", sdp.len());
    let missing = 1663usize.saturating_sub(head.len() + length.len() + sdp.len() + "X-Path: \r\n".len());
    head.push_str(&format!("X-Path: {}\r\n", "p".repeat(missing)));
    [head.as_bytes(), length.as_bytes(), sdp.as_bytes()].concat()
}
