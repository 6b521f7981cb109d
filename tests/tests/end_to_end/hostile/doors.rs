//! Peers that connect and do not do what one connects for: at every TLS listener, before a byte of HTTP or SIP.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls_pki_types::ServerName;
use tests::digest::token;
use tests::raw::{ELSEWHERE, Raw, connect};
use tests::wire::Transport;
use tests::world::{Outcome, SOON, World};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Every TLS listener, by name.
fn doors(world: &World) -> [(&'static str, SocketAddr); 5] {
    [
        ("edge", world.relay.edge_address()),
        ("websocket", world.relay.websocket_address()),
        ("upstream", world.relay.upstream(Transport::Tls)),
        ("api", world.relay.api_address()),
        ("operator", world.relay.operator_address()),
    ]
}

/// A stream that gives away one byte at a time.
struct Trickle(TcpStream);

impl AsyncRead for Trickle {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Trickle {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &bytes[..bytes.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_tls_is_closed_at_every_tls_listener() -> Outcome {
    let world = World::attacked().await?;
    let register = "REGISTER sip:relay SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1;branch=z9hG4bKa\r\n\
                    Authorization: Bearer in-the-clear\r\nContent-Length: 0\r\n\r\n";
    world.secrets.keep("a secret of the test", "in-the-clear");
    let junk: [(&str, Vec<u8>); 8] = [
        (
            "HTTP in the clear",
            b"GET /healthz HTTP/1.1\r\nHost: relay\r\nAuthorization: Bearer in-the-clear\r\n\r\n".to_vec(),
        ),
        ("SIP in the clear", register.into()),
        ("line ends", b"\r\n".repeat(2_000)),
        ("zeros", vec![0; 20_000]),
        ("an SSL 2 hello", vec![0x80, 0x2e, 0x01, 0x00, 0x02, 0x00, 0x15, 0x00, 0x00, 0x00, 0x10, 0x01, 0x00, 0x80]),
        ("a record beyond its size", [vec![0x16, 0x03, 0x01, 0xff, 0xff], vec![1; 70_000]].concat()),
        (
            "a hello that lies about its length",
            [vec![0x16, 0x03, 0x01, 0, 8, 1, 0xff, 0xff, 0xff], vec![3; 8]].concat(),
        ),
        ("half a record", vec![0x16, 0x03, 0x01, 0x02]),
    ];
    for (door, address) in doors(&world) {
        for (what, bytes) in &junk {
            let mut raw = Raw::tcp(ELSEWHERE, address).await?;
            raw.send_while_reading(bytes).await;
            raw.finish().await;
            let seen = raw.await_end(SOON).await.unwrap_or_else(|| panic!("{door} left {what} open"));
            assert!(!seen.contains("HTTP/1.1 2") && !seen.contains("SIP/2.0"), "{door} answered {what}: {seen}");
        }
    }
    world.unharmed().await
}

/// What a silent peer does, and within how many seconds it is closed.
#[derive(Clone, Copy, Debug)]
enum Silence {
    /// Connects and says nothing.
    Connected,
    /// Says its ClientHello at two bytes a second.
    Trickling,
    /// Completes the handshake and says nothing.
    Secured,
    /// Says one letter of a request and nothing more.
    HalfAWord,
}

async fn fall_silent(address: SocketAddr, authority: tests::authority::Authority, silence: Silence) -> Option<()> {
    let alpn: &[&[u8]] = &[b"http/1.1"];
    let mut raw = match silence {
        Silence::Connected => Raw::tcp(ELSEWHERE, address).await.ok()?,
        Silence::Trickling => {
            let mut raw = Raw::tcp(ELSEWHERE, address).await.ok()?;
            let hello = [vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03], vec![7; 506]].concat();
            for byte in hello {
                // The pause is the attack; what is awaited is the end of the stream.
                if !raw.send([byte]).await || raw.await_end(Duration::from_millis(500)).await.is_some() {
                    break;
                }
            }
            raw
        }
        Silence::Secured | Silence::HalfAWord => Raw::tls(ELSEWHERE, address, &authority, alpn).await.ok()?,
    };
    if matches!(silence, Silence::HalfAWord) {
        raw.send("I").await;
    }
    raw.await_end(Duration::from_secs(45)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_nothing_is_closed_in_time_and_delays_nobody() -> Outcome {
    let world = World::attacked().await?;
    let mut silent = JoinSet::new();
    for (door, address) in doors(&world) {
        for silence in [Silence::Connected, Silence::Trickling, Silence::Secured, Silence::HalfAWord] {
            let authority = world.authority.clone();
            silent.spawn(async move { (door, silence, fall_silent(address, authority, silence).await) });
        }
    }
    let tcp = world.relay.upstream(Transport::Tcp);
    let authority = world.authority.clone();
    silent.spawn(async move { ("tcp", Silence::Connected, fall_silent(tcp, authority, Silence::Connected).await) });
    world.rings_on(world.bystander()).await?;
    while let Some(ended) = silent.join_next().await {
        let (door, silence, closed) = ended.unwrap();
        assert!(closed.is_some(), "{door} left {silence:?} open");
    }
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_and_a_request_one_byte_at_a_time_are_heard_all_the_same() -> Outcome {
    let world = World::attacked().await?;
    let requests = [
        (world.relay.edge_address(), options("edge"), "SIP/2.0 403"),
        (world.relay.upstream(Transport::Tls), options("upstream"), "SIP/2.0 404"),
        (world.relay.operator_address(), "GET /healthz HTTP/1.1\r\nHost: relay\r\n\r\n".to_owned(), "HTTP/1.1 200"),
    ];
    for (address, request, expected) in requests {
        let alpn: &[&[u8]] = if expected.starts_with("HTTP") { &[b"http/1.1"] } else { &[] };
        let connector = TlsConnector::from(world.authority.client_config(alpn));
        let stream = Trickle(connect(ELSEWHERE, address).await?);
        let stream = connector.connect(ServerName::from(address.ip()), stream).await?;
        let mut raw = Raw::over(stream);
        for byte in request.bytes() {
            assert!(raw.send([byte]).await, "{expected}");
        }
        assert!(raw.await_text(expected, SOON).await, "{expected}: {}", raw.seen());
    }
    world.unharmed().await
}

fn options(user: &str) -> String {
    format!(
        "OPTIONS sip:{user}@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TLS 127.0.0.66:5099;branch=z9hG4bKslow\r\n\
         From: <sip:a@b>;tag=1\r\nTo: <sip:{user}@127.0.0.1>\r\nCall-ID: slow\r\nCSeq: 1 OPTIONS\r\n\
         Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_hangs_up_halfway_is_let_go() -> Outcome {
    let world = World::attacked().await?;
    for (door, address) in doors(&world) {
        for half in ["", "OPTIONS sip:x", "GET / HTTP/1.1\r\nHo"] {
            let mut raw = Raw::tls(ELSEWHERE, address, &world.authority, &[b"http/1.1"]).await?;
            raw.send(half).await;
            raw.finish().await;
            assert!(raw.await_end(SOON).await.is_some(), "{door} held on after {half:?}");
        }
    }
    // An application protocol that is not HTTP is refused where HTTP is spoken.
    for address in [world.relay.api_address(), world.relay.operator_address()] {
        assert!(Raw::tls(ELSEWHERE, address, &world.authority, &[b"sip", b"foo"]).await.is_err());
    }
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_by_the_thousand_shut_nobody_else_out() -> Outcome {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let world = World::attacked().await?;
    let mut held = Vec::new();
    for (_, address) in doors(&world) {
        for _ in 0..1_500 {
            held.push(connect(ELSEWHERE, address).await?);
        }
    }
    let mut secured = JoinSet::new();
    for _ in 0..400 {
        let (address, authority) = (world.relay.edge_address(), world.authority.clone());
        let from = std::net::IpAddr::from([127, 0, 0, 67]);
        secured.spawn(async move { Raw::tls(from, address, &authority, &[]).await });
    }
    let secured = secured.join_all().await;
    assert!(secured.iter().all(Result::is_ok), "an address with fewer connections is let in");
    for (door, address) in doors(&world) {
        let neighbour = Raw::tls(ELSEWHERE, address, &world.authority, &[]).await;
        assert!(neighbour.is_ok(), "{door} shuts out who has the same address");
    }
    // At its share an address gives way to itself: of unfinished handshakes 1,024 may be at the edge, 256 or 64 elsewhere.
    let closed = held.iter().filter(|stream| stream.try_read(&mut [0]).is_ok_and(|length| length == 0)).count();
    assert!(closed > 3_000, "{closed} of 7,500 were closed");
    world.unharmed().await?;
    drop((held, secured));
    Ok(())
}

/// A ClientHello that names this server: no name of a host, for it has a space.
fn hello(name: &[u8]) -> Vec<u8> {
    let with_length = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let server_name = with_length(&[&[0][..], &with_length(name)].concat());
    let extensions = [&[0, 0][..], &with_length(&server_name), &[0, 43, 0, 3, 2, 3, 4]].concat();
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0], &with_length(&extensions)].concat();
    let message = [&[1, 0][..], &with_length(&body)].concat();
    [&[0x16, 3, 1][..], &with_length(&message)].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_says_in_its_handshake_is_written_in_no_log() -> Outcome {
    let world = World::attacked().await?;
    let name = format!("a stranger's {}", token());
    for (door, address) in doors(&world) {
        let mut raw = Raw::tcp(ELSEWHERE, address).await.unwrap();
        raw.send(hello(name.as_bytes())).await;
        assert!(raw.await_end(SOON).await.is_some(), "{door} left it open");
    }
    assert!(!world.relay.log().contains(&name));
    world.unharmed().await
}
