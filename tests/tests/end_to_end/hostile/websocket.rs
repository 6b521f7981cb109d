//! Broken HTTP, broken WebSocket and broken SIP at the edge's WebSocket listener.

use std::time::Duration;

use tests::digest::token;
use tests::phone::Phone;
use tests::raw::{ELSEWHERE, Raw};
use tests::wire::Transport;
use tests::world::{Outcome, SOON, World};

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const REST: &str = "Host: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
const SIP: &str = "Sec-WebSocket-Protocol: sip\r\n";

async fn tls(world: &World) -> Raw {
    Raw::tls(ELSEWHERE, world.relay.websocket_address(), &world.authority, &[]).await.unwrap()
}

/// A WebSocket, open.
async fn websocket(world: &World) -> Raw {
    let mut raw = tls(world).await;
    raw.send(format!("GET / HTTP/1.1\r\n{REST}{KEY}{SIP}Origin: https://anywhere.example\r\n\r\n")).await;
    assert!(raw.await_text("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", SOON).await, "{}", raw.seen());
    assert!(raw.await_text("\r\n\r\n", SOON).await);
    assert_eq!(raw.statuses(), [101]);
    raw
}

/// A client's frame; its mask is zero, so that the payload stands there as it is.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        medium @ 126..=65_535 => {
            bytes.push(0x80 | 126);
            bytes.extend((medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

fn options(call_id: &str, further: &str) -> String {
    format!(
        "OPTIONS sip:nobody@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/WSS x.invalid;branch=z9hG4bK{}\r\n\
         From: <sip:a@x.invalid>;tag=1\r\nTo: <sip:nobody@127.0.0.1>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\n\
         Max-Forwards: 70\r\n{further}\r\n",
        token()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_no_handshake_for_sip_is_refused_in_words() -> Outcome {
    let world = World::attacked().await?;
    let refused = [
        (format!("GET /ws HTTP/1.1\r\n{REST}{KEY}\r\n"), "HTTP/1.1 400", "Sec-WebSocket-Protocol: sip"),
        (format!("GET / HTTP/1.1\r\n{REST}{KEY}Sec-WebSocket-Protocol: xmpp\r\n\r\n"), "HTTP/1.1 400", "sip"),
        (format!("GET / HTTP/1.1\r\n{REST}{SIP}\r\n"), "HTTP/1.1 400", "Sec-WebSocket-Key"),
        ("GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n".into(), "HTTP/1.1 426", "RFC 7118"),
        (format!("POST / HTTP/1.1\r\nContent-Length: 0\r\n{REST}{KEY}{SIP}\r\n"), "HTTP/1.1 405", "GET"),
        (format!("GET / HTTP/1.0\r\n{REST}{KEY}{SIP}\r\n"), "HTTP/1.0 400", "HTTP/1.1"),
        (
            format!("GET / HTTP/1.1\r\nHost: r\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{KEY}{SIP}\r\n"),
            "HTTP/1.1 426",
            "version 13",
        ),
    ];
    for (request, status, why) in refused {
        let mut raw = tls(&world).await;
        raw.send(&request).await;
        let seen = raw.await_end(SOON).await.unwrap_or_else(|| panic!("left open: {request}"));
        assert!(seen.starts_with(status) && seen.contains(why), "{request}: {seen}");
    }
    let broken: [(&str, Vec<u8>); 6] = [
        ("SIP without a WebSocket", options("plain", "Content-Length: 0\r\n").into()),
        ("a header of 64 KiB", format!("GET / HTTP/1.1\r\n{REST}X: {}\r\n", "y".repeat(65_536)).into()),
        ("a thousand headers", format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1_000)).into()),
        ("no HTTP", b"\r\n\r\n\x16\x03\x01".to_vec()),
        ("two lengths", b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx".to_vec()),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
    ];
    for (what, bytes) in broken {
        let mut raw = tls(&world).await;
        raw.send_while_reading(&bytes).await;
        let seen = raw.await_end(SOON).await.unwrap_or_else(|| panic!("{what} was left open"));
        assert!(!seen.contains(" 101 ") && !seen.contains("SIP/2.0"), "{what}: {seen}");
    }
    // A client that does not wait for the answer, RFC 6455 §4.1.
    let mut raw = tls(&world).await;
    let eager =
        [format!("GET / HTTP/1.1\r\n{REST}{KEY}{SIP}\r\n").into_bytes(), frame(0x81, options("eager", "").as_bytes())];
    raw.send(eager.concat()).await;
    let seen = raw.await_end(SOON).await.unwrap();
    assert!(!seen.contains("SIP/2.0"), "{seen}");
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_a_frame_is_answered_and_anything_else_closes_with_its_reason() -> Outcome {
    let world = World::attacked().await?;
    let mut raw = websocket(&world).await;
    // Text, binary, in fragments with a ping between them, with a length and without one.
    let (first, second) = (options("text", ""), options("binary", "Content-Length: 0\r\n"));
    raw.send(frame(0x81, first.as_bytes())).await;
    raw.send(frame(0x82, second.as_bytes())).await;
    let third = options("pieces", "");
    let (head, tail) = third.as_bytes().split_at(40);
    raw.send([frame(0x01, head), frame(0x89, b"are you there"), frame(0x80, tail)].concat()).await;
    raw.send(frame(0x81, b"\r\n\r\n")).await;
    // Line ends around a message are no part of it.
    let padded = format!("\r\n{}\r\n", options("padded", "Content-Length: 0\r\n"));
    raw.send(frame(0x81, padded.as_bytes())).await;
    for answer in
        ["Call-ID: text", "Call-ID: binary", "are you there", "Call-ID: pieces", "\u{2}\r\n", "Call-ID: padded"]
    {
        assert!(raw.await_text(answer, SOON).await, "{answer}: {}", raw.seen());
    }
    assert_eq!(raw.seen().matches("SIP/2.0 403").count(), 4, "{}", raw.seen());
    // A length that the frame does not hold is answered: where the next message begins is not in doubt.
    raw.send(frame(0x81, options("long", "Content-Length: 9\r\n").as_bytes())).await;
    assert!(raw.await_text("Call-ID: long", SOON).await, "{}", raw.seen());
    assert!(raw.seen().contains("SIP/2.0 400"), "{}", raw.seen());
    // So is one of a body that is too short, and what is behind a message is discarded (RFC 3261 §18.3).
    let short = options("short", "Content-Length: 9\r\n") + "body";
    let two = options("one", "Content-Length: 0\r\n") + &options("two", "Content-Length: 0\r\n");
    let zero = options("zero", "Content-Length: 0\r\n") + "\0";
    // An empty message keeps the connection alive.
    for text in [&short, &two, &zero, &String::new(), &options("last", "")] {
        raw.send(frame(0x81, text.as_bytes())).await;
    }
    for answer in ["Call-ID: short", "Call-ID: one", "Call-ID: zero", "Call-ID: last"] {
        assert!(raw.await_text(answer, SOON).await, "{answer}: {}", raw.seen());
    }
    assert!(!raw.seen().contains("Call-ID: two"), "{}", raw.seen());
    assert_eq!(raw.seen().matches("SIP/2.0 400").count(), 2, "{}", raw.seen());
    raw.send(frame(0x88, &1000u16.to_be_bytes())).await;
    assert!(raw.await_end(SOON).await.is_some(), "a close is answered by the end");

    let unmasked = [&[0x81, 5][..], b"hello"].concat();
    let endless = [frame(0x01, b"OPTIONS "), frame(0x00, b"").repeat(1_000)].concat();
    let broken: Vec<(&str, Vec<u8>, u16)> = vec![
        ("a frame without a mask", unmasked, 1002),
        ("a reserved bit", frame(0xc1, b"x"), 1002),
        ("an unknown opcode", frame(0x83, b"x"), 1002),
        ("a ping of 126 bytes", frame(0x89, &[b'x'; 126]), 1002),
        ("a close with a code that is in no frame", frame(0x88, &1005u16.to_be_bytes()), 1002),
        ("a close with a code that is none", frame(0x88, &5u16.to_be_bytes()), 1002),
        ("a close with a reason that is not UTF-8", frame(0x88, b"\x03\xe8\xff"), 1007),
        ("SIP without a frame", options("bare", "Content-Length: 0\r\n").into(), 1002),
        ("TLS within TLS", b"\x16\x03\x01\x02\x00\x01".to_vec(), 1002),
        ("text that is not UTF-8", frame(0x81, b"OPTIONS \xff"), 1007),
        ("text that is not SIP", frame(0x81, b"{\"jsonrpc\": \"2.0\"}"), 1008),
        ("zeros", frame(0x82, &[0; 1_000]), 1008),
        ("a frame of 64 KiB and one byte", frame(0x82, &[b'x'; 65_537]), 1009),
        ("a frame of four gigabytes", vec![0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
        ("a message of more than 80 KiB in fragments", frame(0x01, &[b'x'; 41_000]), 0),
        ("endless fragments", endless, 1009),
    ];
    for (what, bytes, code) in broken {
        let mut raw = websocket(&world).await;
        raw.send_while_reading(&bytes).await;
        if code == 0 {
            raw.send_while_reading(&frame(0x00, &[b'x'; 41_000])).await;
        }
        let close = raw.await_close(SOON).await.unwrap_or_else(|| panic!("{what} was left open"));
        assert_eq!(close, Some(if code == 0 { 1009 } else { code }), "{what}");
        assert!(!raw.seen().contains("Call-ID: bare"), "{what}");
    }
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_is_slow_silent_or_never_reads_harms_nobody() -> Outcome {
    // `doors` waits for silence to end, and `streams` for a write, in real time.
    let world = World::attacked_with(|setup| setup.timing = 0.2).await?;
    // Slow: each byte of a frame by itself is heard all the same.
    let mut slow = websocket(&world).await;
    for byte in frame(0x81, options("slow", "").as_bytes()) {
        assert!(slow.send([byte]).await);
    }
    assert!(slow.await_text("Call-ID: slow", SOON).await, "{}", slow.seen());
    // Silent: pings are no message, so it is closed as one that never showed what it wants.
    let mut silent = websocket(&world).await;
    let pinged = async {
        while silent.send(frame(0x89, b"still here")).await {
            if silent.await_end(Duration::from_millis(500)).await.is_some() {
                break;
            }
        }
        silent.has_ended()
    };
    let closed = tokio::time::timeout(Duration::from_secs(90), pinged).await;
    assert_eq!(closed, Ok(true), "pings alone keep no stranger's connection");
    // Half a message on many connections costs what one message may.
    let mut held = Vec::new();
    for _ in 0..60 {
        let mut raw = websocket(&world).await;
        raw.send(&frame(0x01, &[b'x'; 60_000])).await;
        held.push(raw);
    }
    // It asks, and never reads the answers.
    let mut deaf = websocket(&world).await;
    let batch =
        (0..100).flat_map(|number| frame(0x81, options(&format!("{number}"), "").as_bytes())).collect::<Vec<_>>();
    let mut taken = 0;
    while taken < 800 && deaf.send(&batch).await {
        taken += 1;
    }
    assert!(taken < 800, "the relay held all the answers");
    let mut pinging = websocket(&world).await;
    let batch = frame(0x89, &[b'p'; 125]).repeat(1_000);
    let mut taken = 0;
    while taken < 800 && pinging.send(&batch).await {
        taken += 1;
    }
    assert!(taken < 800, "the relay held all the pongs");
    world.unharmed_within(tests::world::attack::GROWTH / 2).await?;
    drop(held);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_that_come_and_go_by_the_hundred_leave_nothing_behind() -> Outcome {
    let mut world = World::attacked().await?;
    world.edge = Transport::Wss;
    let lent = world.lend("mallory").await?;
    for round in 0..200 {
        let phone = Phone::connect(world.device(&lent)).await?;
        if round % 4 == 0 {
            assert_eq!(phone.register(SOON).await?.status(), Some(200));
        }
        // Some leave without a word.
        if round % 2 == 0 {
            phone.drop_connection();
        }
    }
    let phone = world.wake(&lent).await?;
    let (caller, call) = world.answered_on(&lent, &phone).await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!(phone.violations(), Vec::<String>::new());
    world.edge = Transport::Tls;
    world.unharmed().await
}
