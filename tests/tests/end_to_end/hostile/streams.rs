//! Broken SIP, raw, at every listener that speaks it: the edge, the upstream over TLS and TCP, and UDP.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::future::join_all;
use tests::digest::token;
use tests::raw::{ELSEWHERE, Raw, datagrams, statuses};
use tests::wire::Transport;
use tests::world::{Outcome, SOON, World};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};

/// The listeners that are streams, by name; whether each is TLS.
fn listeners(world: &World) -> [(&'static str, SocketAddr, bool); 3] {
    [
        ("edge", world.relay.edge_address(), true),
        ("upstream TLS", world.relay.upstream(Transport::Tls), true),
        ("upstream TCP", world.relay.upstream(Transport::Tcp), false),
    ]
}

async fn open(world: &World, from: IpAddr, address: SocketAddr, tls: bool) -> Raw {
    if tls {
        Raw::tls(from, address, &world.authority, &[]).await.unwrap()
    } else {
        Raw::tcp(from, address).await.unwrap()
    }
}

/// An OPTIONS that is right, for an unknown user; `length` stands where Content-Length does, `body` behind the head.
fn options(call_id: &str, length: &str, body: &str) -> String {
    format!(
        "OPTIONS sip:nobody@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.66:5099;branch=z9hG4bK{};rport\r\n\
         From: <sip:a@b>;tag=1\r\nTo: <sip:nobody@127.0.0.1>\r\nCall-ID: {call_id}\r\nCSeq: 1 OPTIONS\r\n\
         Max-Forwards: 70\r\n{length}\r\n{body}",
        token()
    )
}

/// Says it on a connection of its own, and gives what came back until the relay closed.
async fn exchange(world: &World, address: SocketAddr, tls: bool, what: &str, bytes: &[u8]) -> String {
    let mut raw = open(world, ELSEWHERE, address, tls).await;
    say_and_leave(&mut raw, bytes).await.unwrap_or_else(|| panic!("{what} was left open"))
}

/// Says it, gives the relay a moment to answer or to close, and hangs up.
async fn say_and_leave(raw: &mut Raw, bytes: &[u8]) -> Option<String> {
    // Half a message is never answered, so this wait may end without anything.
    const MOMENT: Duration = Duration::from_millis(200);
    if raw.send_while_reading(bytes).await {
        raw.await_text("Content-Length: 0\r\n\r\n", MOMENT).await;
    }
    raw.finish().await;
    // What is long is read to its end before the connection closes.
    raw.await_end(4 * SOON).await
}

/// The messages of RFC 4475, byte for byte.
fn torture() -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../sip/tests/messages/rfc4475");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = files.filter(|path| path.extension().is_some_and(|it| it == "dat")).collect();
    all.sort();
    let named =
        |path: PathBuf| (path.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap());
    all.into_iter().map(named).collect()
}

/// Sends datagrams, then one that is answered for sure; gives all that came until then.
async fn datagrams_until_answered(
    socket: &UdpSocket,
    to: SocketAddr,
    sent: impl Iterator<Item = Vec<u8>>,
) -> Vec<String> {
    let mut seen = Vec::new();
    let mut space = vec![0; 65_536];
    for bytes in sent {
        // More than a datagram holds cannot be sent at all.
        let _ = socket.send_to(&bytes, to).await;
        while let Ok((length, _)) = socket.try_recv_from(&mut space) {
            seen.push(String::from_utf8_lossy(&space[..length]).into_owned());
        }
    }
    let last = token();
    socket.send_to(options(&last, "Content-Length: 0\r\n", "").as_bytes(), to).await.unwrap();
    loop {
        let (length, _) = timeout(SOON, socket.recv_from(&mut space)).await.expect("UDP is still served").unwrap();
        let text = String::from_utf8_lossy(&space[..length]).into_owned();
        if text.contains(&last) {
            assert_eq!(statuses(&text), [404]);
            return seen;
        }
        seen.push(text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_torture_messages_of_rfc_4475_succeed_nowhere_and_harm_nobody() -> Outcome {
    let world = World::attacked().await?;
    let messages = torture();
    assert_eq!(messages.len(), 50 - 1);
    let pushes = world.apns.count();
    let server = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for (name, bytes) in &messages {
        for (listener, address, tls) in listeners(&world) {
            for from in [ELSEWHERE, server] {
                let mut raw = open(&world, from, address, tls).await;
                let seen = say_and_leave(&mut raw, bytes).await;
                let seen = seen.unwrap_or_else(|| panic!("{listener} left {name} open"));
                assert!(statuses(&seen).iter().all(|status| *status >= 400), "{listener}, {name}: {seen}");
            }
        }
    }
    for from in [ELSEWHERE, server] {
        let socket = datagrams(from).await?;
        let all = messages.iter().map(|(_, bytes)| bytes.clone());
        let seen = datagrams_until_answered(&socket, world.relay.upstream(Transport::Udp), all).await;
        assert!(seen.iter().flat_map(|text| statuses(text)).all(|status| status >= 400), "{seen:?}");
    }
    assert_eq!(world.apns.count(), pushes, "nobody was woken");
    assert_eq!(world.registrar.violations(), Vec::<String>::new(), "nothing was passed on");
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_in_doubt_ends_the_stream_before_what_is_hidden_behind_it() -> Outcome {
    let world = World::attacked().await?;
    let hidden = options("hidden", "Content-Length: 0\r\n", "");
    let doubtful = [
        "Content-Length: 4294967328\r\n",
        "Content-Length: 4294967296\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 9223372036854775808\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length: 99999999999999999999999999999999\r\n",
        "Content-Length: 0x10\r\n",
        "Content-Length: 1e1\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: 5;x=y\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: \"5\"\r\n",
        "Content-Length: 0, 5\r\n",
        "Content-Length:\r\n",
        "Content-Length: 0\r\n 0\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n",
        "Content-Length: 0\r\nl: 5\r\n",
        "l: 5\r\nContent-Length: 0\r\n",
        "X: y\nContent-Length: 5\r\nl: 0\r\n",
        "Content-Length : 5\r\nContent-Length: 0\r\n",
        "content-LENGTH: 0\r\nContent-Length\t: 5\r\n",
        "",
    ];
    for (listener, address, tls) in listeners(&world) {
        for length in doubtful {
            let bytes = options("outer", length, &hidden);
            let seen = exchange(&world, address, tls, length, bytes.as_bytes()).await;
            assert!(!seen.contains("hidden"), "{listener}, {length:?}: {seen}");
            assert!(statuses(&seen).len() <= 1, "{listener}, {length:?}: {seen}");
        }
        // One that is sure, and a body that looks like a request: the body is no request.
        let length = format!("Content-Length: {}\r\n", hidden.len());
        let seen = exchange(&world, address, tls, "a body", options("outer", &length, &hidden).as_bytes()).await;
        assert!(!seen.contains("hidden") && statuses(&seen).len() == 1, "{listener}: {seen}");
    }
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_together_are_each_answered() -> Outcome {
    let world = World::attacked().await?;
    for (listener, address, tls) in listeners(&world) {
        // Few of them come in one read.
        let long = format!("l: 0\r\nX-Long: {}\r\n", "x".repeat(400));
        for count in [3, 300] {
            let all: String = (0..count).map(|number| options(&format!("c{number}"), &long, "")).collect();
            let mut raw = open(&world, ELSEWHERE, address, tls).await;
            raw.send_while_reading(all.as_bytes()).await;
            for number in 0..count {
                let answered = raw.await_text(&format!("Call-ID: c{number}\r\n"), SOON).await;
                assert!(answered, "{listener}, {number} of {count}: {}", raw.statuses().len());
            }
            let expected = if listener == "edge" { 403 } else { 404 };
            assert_eq!(raw.statuses(), vec![expected; count], "{listener}");
        }
    }
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_and_then_writes_no_more_is_answered() -> Outcome {
    let world = World::attacked().await?;
    for (listener, address, tls) in listeners(&world) {
        let mut raw = open(&world, ELSEWHERE, address, tls).await;
        raw.send(&options("last", "l: 0\r\n", "")).await;
        raw.finish().await;
        let answer = raw.await_end(SOON).await.unwrap_or_else(|| panic!("{listener} was left open"));
        assert_eq!(statuses(&answer).len(), 1, "{listener}: {answer:?}");
    }
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_ends_and_what_is_too_much_is_cut_off() -> Outcome {
    let world = World::attacked().await?;
    let whole =
        |headers: &str, body: &str| options("big", &format!("{headers}Content-Length: {}\r\n", body.len()), body);
    let many = |line: &str, count: usize| whole(&line.repeat(count), "");
    let big: Vec<(&str, Vec<u8>)> = vec![
        ("five megabytes of one line", [b"OPTIONS sip:".to_vec(), vec![b'a'; 5_000_000]].concat()),
        ("five megabytes of lines", format!("OPTIONS sip:a SIP/2.0\r\n{}", "X: y\r\n".repeat(830_000)).into()),
        ("ten thousand Vias", many("v:SIP/2.0/TLS a\r\n", 3_000).into()),
        ("ten thousand Vias on a line", whole(&format!("Via: {}a\r\n", "SIP/2.0/TLS a,".repeat(4_500)), "").into()),
        ("ten thousand headers", many("X:\r\n", 10_000).into()),
        ("a header of 64 KiB", many(&format!("X: {}\r\n", "y".repeat(65_536)), 1).into()),
        ("a body of a megabyte", whole("", &"v=0\r\n".repeat(200_000)).into()),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n".to_vec()),
        ("HTTP with a length", b"POST / HTTP/1.1\r\nHost: relay\r\nContent-Length: 2\r\n\r\nhi".to_vec()),
        ("NULs", vec![0; 100_000]),
        ("NULs in a header", whole("Subject: a\0b\0\r\nX\0: y\r\n", "").into()),
        ("a vertical tab in a name", whole("To\x0b: <sip:x@y>\r\n", "").into()),
        ("a double To", whole("To: <sip:other@127.0.0.1>\r\n", "").into()),
        ("an empty From", whole("From:\r\n", "").into()),
        ("half a code point", [b"OPTIONS sip:\xc3\x28\xff SIP/2.0\r\nl: 0\r\n\r\n".to_vec(), vec![0xff; 64]].concat()),
        ("a response to nothing", b"SIP/2.0 200 OK\r\nCSeq: 1 REGISTER\r\nl: 0\r\n\r\n".repeat(500)),
        ("a million line ends", b"\r\n".repeat(500_000)),
    ];
    for (listener, address, tls) in listeners(&world) {
        for (what, bytes) in &big {
            let seen = exchange(&world, address, tls, what, bytes).await;
            assert!(statuses(&seen).iter().all(|status| *status >= 400), "{listener}, {what}: {seen}");
        }
    }
    let socket = datagrams(ELSEWHERE).await?;
    let all = big.into_iter().map(|(_, bytes)| bytes[..bytes.len().min(65_000)].to_vec());
    let seen = datagrams_until_answered(&socket, world.relay.upstream(Transport::Udp), all).await;
    assert!(seen.iter().flat_map(|text| statuses(text)).all(|status| status >= 400), "{seen:?}");
    world.unharmed().await
}

/// Strangers' connections end as they did; those that have proven themselves carry the calls of others.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_beyond_a_limit_is_answered_and_ends_only_a_stream_that_has_proven_nothing() -> Outcome {
    let world = World::attacked().await?;
    let line = |length: usize| format!("X: {}\r\n", "y".repeat(length));
    let beyond = [
        ("a line of 70 KB", line(70_000), "513 Message Too Large"),
        ("a line of 900 KB", line(900_000), "513 Message Too Large"),
        ("lines of 70 KB", line(12).repeat(5_000), "513 Message Too Large"),
        ("many lines", line(1).repeat(513), "400 More Than 512 Header Lines"),
        ("many Vias", "v: SIP/2.0/UDP h\r\n".repeat(73), "400 More Than 72 Via Values"),
    ];
    for (listener, address, tls) in listeners(&world) {
        for (what, more, expected) in &beyond {
            let big = options("big", &format!("{more}l: 0\r\n"), "");
            let seen = exchange(&world, address, tls, what, big.as_bytes()).await;
            assert!(seen.starts_with(&format!("SIP/2.0 {expected}\r\n")), "{listener}, {what}: {seen:?}");
            assert_eq!(statuses(&seen).len(), 1, "{listener}, {what}: {seen:?}");
            let mut raw = open(&world, ELSEWHERE, address, tls).await;
            let body = options("hidden", "l: 0\r\n", "");
            let long = options("big", &format!("{more}l: {}\r\n", body.len()), &body);
            let last = options("last", "l: 0\r\n", "");
            let all = [options("first", "l: 0\r\n", ""), long.repeat(2), last].concat();
            raw.send_while_reading(all.as_bytes()).await;
            assert!(raw.await_text("Call-ID: last", SOON).await, "{listener}, {what}: {:?}", raw.seen());
            let seen = raw.seen();
            assert_eq!(seen.matches(expected).count(), 2, "{listener}, {what}: {seen:?}");
            assert!(statuses(&seen).len() == 4 && !seen.contains("hidden"), "{listener}, {what}: {seen:?}");
        }
        // Not so many bytes are read for anybody.
        let mut raw = open(&world, ELSEWHERE, address, tls).await;
        let endless = options("big", &line(1_100_000), "");
        raw.send_while_reading([options("first", "l: 0\r\n", ""), endless].concat().as_bytes()).await;
        assert!(raw.await_end(SOON).await.is_some(), "{listener} reads on");
    }
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_asks_and_never_reads_is_cut_off() -> Outcome {
    let world = World::attacked().await?;
    let world = &world;
    let asked = listeners(world).into_iter().map(|(listener, address, tls)| async move {
        let mut raw = open(world, ELSEWHERE, address, tls).await;
        let batch: String = (0..100).map(|number| options(&format!("{number}"), "l: 0\r\n", "")).collect();
        let mut taken = 0;
        // 80,000 answers of 300 bytes are more than the sockets between us hold.
        for _ in 0..800 {
            if !raw.send(&batch).await {
                break;
            }
            taken += 1;
        }
        assert!(taken < 800, "{listener} held all the answers");
    });
    join_all(asked).await;
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_message_on_many_connections_costs_what_one_message_may() -> Outcome {
    let world = World::attacked().await?;
    let mut held = Vec::new();
    for (_, address, tls) in listeners(&world) {
        for _ in 0..60 {
            let mut raw = open(&world, ELSEWHERE, address, tls).await;
            raw.send(format!("OPTIONS sip:a SIP/2.0\r\nX: {}", "y".repeat(60_000))).await;
            held.push(raw);
        }
    }
    // 180 halves of 60,000 bytes, twice for the growth of a buffer, beside what anything costs.
    world.unharmed_within(tests::world::attack::GROWTH / 2).await?;
    drop(held);
    Ok(())
}

/// A connection that has proven itself gets no more time for a message than any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_never_becomes_whole_ends_its_connection_and_a_quiet_connection_lives() -> Outcome {
    let world = World::attacked_with(|setup| setup.further.push_str("\n[limits]\nmessage_timeout = \"2s\"\n")).await?;
    for (listener, address, tls) in listeners(&world) {
        let mut quiet = open(&world, ELSEWHERE, address, tls).await;
        let mut dripping = open(&world, ELSEWHERE, address, tls).await;
        for raw in [&mut quiet, &mut dripping] {
            raw.send(options(&token(), "Content-Length: 0\r\n", "")).await;
            assert!(raw.await_text("SIP/2.0 4", SOON).await, "{listener}");
        }
        dripping.send("OPTIONS sip:a SIP/2.0\r\nX: ").await;
        let dripped = async {
            while dripping.send("y").await && !dripping.has_ended() {
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(SOON, dripped).await.unwrap_or_else(|_| panic!("{listener} waits for ever"));
        // What is whole is served, however long the connection is idle between.
        quiet.send(options(&token(), "Content-Length: 0\r\n", "")).await;
        assert!(!quiet.has_ended(), "{listener}");
    }
    let ended = world.relay.metric("sipwake_limits_total{limit=\"half-message\"}").await;
    assert_eq!(ended, Some(3.0));
    world.unharmed().await
}
