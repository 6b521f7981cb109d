//! Listeners: what is accepted, what is closed, and that nobody disturbs anybody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use relay::net::dial;
use relay::net::drain::{self, Trigger};
use relay::net::listen::ListenerEvent::{Closed, HandshakeCompleted, HandshakeFailed, Limited, Opened};
use relay::net::listen::{Accepted, Limits, Listener, Security};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::authority::{Authority, Kind};

const SOON: Duration = Duration::from_secs(10);

async fn bind(security: Security, limits: Limits) -> (Listener, Trigger) {
    let (trigger, drain) = drain::drain();
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), security, limits, drain).await.unwrap();
    (listener, trigger)
}

async fn accept(listener: &mut Listener) -> Accepted {
    timeout(SOON, listener.accept()).await.expect("a connection in time").expect("the listener is open")
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0; 64];
    loop {
        match timeout(SOON, stream.read(&mut byte)).await.expect("the end in time") {
            Ok(0) | Err(_) => return true,
            Ok(_) => {} // An alert before the end.
        }
    }
}

fn tls(authority: &Authority) -> Security {
    Security::Tls(authority.server(&["localhost"], Kind::Usual).config(&[]))
}

async fn echo(mut accepted: Accepted) {
    let mut bytes = [0; 4];
    accepted.stream.read_exact(&mut bytes).await.unwrap();
    accepted.stream.write_all(&bytes).await.unwrap();
    accepted.stream.flush().await.unwrap();
}

#[tokio::test]
async fn bytes_go_both_ways_over_tcp_and_over_tls() {
    let authority = Authority::new();
    for security in [Security::Plain, tls(&authority)] {
        let encrypted = matches!(security, Security::Tls(_));
        let (mut listener, _trigger) = bind(security, Limits::DEVICES).await;
        let address = listener.local_address();
        let server = tokio::spawn(async move {
            let accepted = accept(&mut listener).await;
            assert_eq!(accepted.local, address);
            assert_eq!(accepted.stream.is_tls(), encrypted);
            assert_eq!(accepted.stream.peer_address().unwrap(), accepted.peer);
            echo(accepted).await;
        });
        let mut stream = if !encrypted {
            dial::tcp(address).await.unwrap()
        } else {
            dial::tls(address, &authority.client(), "localhost").await.unwrap()
        };
        stream.write_all(b"ping").await.unwrap();
        stream.flush().await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_and_a_plaintext_client_disturb_nobody() {
    let authority = Authority::new();
    let (mut listener, _trigger) = bind(tls(&authority), Limits::DEVICES).await;
    let address = listener.local_address();
    let silent = TcpStream::connect(address).await.unwrap();
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/TCP x\r\n\r\n").await.unwrap();
    assert!(is_closed(&mut plain).await);
    let client = authority.client();
    let (dialled, accepted) =
        tokio::join!(dial::tls(address, &client, "localhost"), async { accept(&mut listener).await });
    assert!(dialled.is_ok());
    assert!(accepted.stream.is_tls());
    drop(silent);
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed_when_its_time_is_over() {
    let authority = Authority::new();
    let (listener, _trigger) = bind(tls(&authority), Limits::DEVICES).await;
    let mut silent = TcpStream::connect(listener.local_address()).await.unwrap();
    let begin = tokio::time::Instant::now();
    let mut byte = [0; 1];
    let limit = relay::net::listen::HANDSHAKE_TIMEOUT + SOON;
    let end = timeout(limit, silent.read(&mut byte)).await.expect("closed in time");
    assert!(matches!(end, Ok(0) | Err(_)));
    assert!(begin.elapsed() >= relay::net::listen::HANDSHAKE_TIMEOUT - Duration::from_millis(500));
}

#[tokio::test]
async fn a_few_that_keep_all_handshakes_waiting_shut_nobody_out() {
    let authority = Authority::new();
    let limits = Limits { handshakes: 8, handshakes_per_peer: 4, ..Limits::DEVICES };
    let (mut listener, _trigger) = bind(tls(&authority), limits).await;
    let address = listener.local_address();
    let mut silent = Vec::new();
    for n in 0..8 {
        silent.push(from(&format!("127.0.0.{}:0", 11 + n / 4), address).await);
    }
    let client = authority.client();
    let (dialled, accepted) =
        tokio::join!(dial::tls(address, &client, "localhost"), async { accept(&mut listener).await });
    assert!(dialled.is_ok() && accepted.stream.is_tls());
    assert!(is_closed(&mut silent[0]).await, "it has given way");
}

#[tokio::test]
async fn a_peer_over_its_share_is_closed_and_another_peer_is_not() {
    let limits = Limits { connections_per_peer: 2, ..Limits::DEVICES };
    let (mut listener, _trigger) = bind(Security::Plain, limits).await;
    let address = listener.local_address();
    let (first, _second) = (dial::tcp(address).await.unwrap(), dial::tcp(address).await.unwrap());
    // Both have proven who they are: they are no strangers.
    let held = accept(&mut listener).await.stream;
    let _held_too = accept(&mut listener).await.stream;
    assert!(is_closed(&mut TcpStream::connect(address).await.unwrap()).await);

    let _other = from("127.0.0.2:0", address).await;
    assert_eq!(accept(&mut listener).await.peer.ip().to_string(), "127.0.0.2");

    drop((first, held));
    let _again = dial::tcp(address).await.unwrap();
    accept(&mut listener).await;
}

#[tokio::test]
async fn at_a_peers_share_its_own_oldest_handshake_and_stranger_give_way() {
    let authority = Authority::new();
    let limits = Limits { handshakes_per_peer: 1, strangers_per_peer: 1, ..Limits::DEVICES };
    let (mut listener, _trigger) = bind(tls(&authority), limits).await;
    let (address, client) = (listener.local_address(), authority.client());
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut meet = async || {
        let (dialled, accepted) =
            tokio::join!(dial::tls(address, &client, "localhost"), async { accept(&mut listener).await });
        (dialled.unwrap(), accepted)
    };
    let (first, second) = (meet().await, meet().await);
    assert!(is_closed(&mut silent).await, "it has given way");
    timeout(SOON, first.1.stranger.gives_way().notified()).await.expect("the first gives way to the second");
    assert!(second.1.stranger.gives_way().notified().now_or_never().is_none());
}

#[tokio::test]
async fn nothing_is_accepted_after_the_drain_began() {
    let (mut listener, trigger) = bind(Security::Plain, Limits::DEVICES).await;
    let address = listener.local_address();
    let mut before = dial::tcp(address).await.unwrap();
    let accepted = accept(&mut listener).await;
    trigger.begin();
    assert!(timeout(SOON, listener.accept()).await.unwrap().is_none());
    assert!(TcpStream::connect(address).await.is_err());
    tokio::spawn(echo(accepted));
    before.write_all(b"ping").await.unwrap();
    before.read_exact(&mut [0; 4]).await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_nobody_finishes_keeps_no_listener_from_its_end() {
    let authority = Authority::new();
    let (mut listener, trigger) = bind(tls(&authority), Limits::DEVICES).await;
    let silent = TcpStream::connect(listener.local_address()).await.unwrap();
    // It was accepted before one that came later.
    let _later = dial::tls(listener.local_address(), &authority.client(), "localhost").await.unwrap();
    let _accepted = accept(&mut listener).await;
    trigger.begin();
    assert!(listener.accept().await.is_none());
    let is_open = silent.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(is_open, "the end has not waited for its handshake");
}

#[tokio::test]
async fn what_happens_at_a_listener_is_told() {
    let authority = Authority::new();
    let (_trigger, drain) = drain::drain();
    let (sender, mut told) = mpsc::unbounded_channel();
    let limits = Limits { connections: 1, ..Limits::DEVICES };
    let observe = move |happened| sender.send(happened).unwrap_or_default();
    let any = "127.0.0.1:0".parse().unwrap();
    let mut listener = Listener::bind_observed(any, tls(&authority), limits, drain, observe).await.unwrap();
    let address = listener.local_address();
    let mut next = async || timeout(SOON, told.recv()).await.expect("told in time").unwrap();

    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"nonsense, and no ClientHello").await.unwrap();
    assert_eq!([next().await, next().await, next().await], [Opened, HandshakeFailed, Closed]);
    let stream = dial::tls(address, &authority.client(), "localhost").await.unwrap();
    assert_eq!([next().await, next().await], [Opened, HandshakeCompleted]);
    let _over = TcpStream::connect(address).await.unwrap();
    assert_eq!(next().await, Limited);
    drop((stream, accept(&mut listener).await));
    assert_eq!(next().await, Closed);
}

#[tokio::test]
async fn a_hundred_handshakes_at_once_are_all_accepted() {
    let authority = Authority::new();
    let (mut listener, _trigger) = bind(tls(&authority), Limits::DEVICES).await;
    let (address, client) = (listener.local_address(), Arc::new(authority.client()));
    let dials: Vec<_> = (0..100)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { dial::tls(address, &client, "localhost").await.is_ok() })
        })
        .collect();
    let mut streams = Vec::new();
    while streams.len() < 100 {
        streams.push(accept(&mut listener).await);
    }
    for dial in dials {
        assert!(dial.await.unwrap());
    }
}

async fn from(local: &str, to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(local.parse().unwrap()).unwrap();
    socket.connect(to).await.unwrap()
}
