//! The HTTPS server: both protocols, its limits, and how it ends connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes as AxumBytes;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Extension, Router};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::{Request, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use relay::net::dial;
use relay::net::drain::{self, Trigger};
use relay::net::https::{self, EndConnection, Peer};
use relay::net::listen::{Limits, Listener, Security};
use relay::net::stream::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::authority::{Authority, Kind};

pub(super) const SOON: Duration = Duration::from_secs(10);

pub(super) struct Server {
    authority: Authority,
    address: SocketAddr,
    trigger: Trigger,
    task: JoinHandle<()>,
    pub(super) gate: Arc<Gate>,
}

/// Where a request to `/slow` waits until the test lets it through.
pub(super) struct Gate {
    pub(super) entered: Semaphore,
    pub(super) open: Semaphore,
}

async fn slow(gate: Arc<Gate>) -> &'static str {
    gate.entered.add_permits(1);
    let _open = gate.open.acquire().await;
    "slow"
}

/// Refuses what it has not read.
async fn refuse(gate: Arc<Gate>, _unread: axum::extract::Request) -> impl IntoResponse {
    gate.entered.add_permits(1);
    (StatusCode::UNAUTHORIZED, Extension(EndConnection), "refused")
}

pub(super) async fn server() -> Server {
    server_with(Limits::API).await
}

pub(super) async fn server_with(limits: Limits) -> Server {
    let authority = Authority::new();
    let (trigger, drain) = drain::drain();
    let security = Security::Tls(authority.server(&["localhost"], Kind::Usual).config(https::ALPN));
    let bind = Listener::bind("127.0.0.1:0".parse().unwrap(), security, limits, drain.clone());
    let listener = bind.await.unwrap();
    let address = listener.local_address();
    let gate = Arc::new(Gate { entered: Semaphore::new(0), open: Semaphore::new(0) });
    let [got, posted, refused] = [gate.clone(), gate.clone(), gate.clone()];
    let router = Router::new()
        .route("/peer", get(|Extension(Peer(peer)): Extension<Peer>| async move { peer.to_string() }))
        .route("/end", get(|| async { (Extension(EndConnection), "bye").into_response() }))
        .route("/end-without-a-word", get(|| async { (Extension(EndConnection), StatusCode::NO_CONTENT) }))
        .route("/long", get(|| async { (Extension(EndConnection), vec![b'x'; 200_000]).into_response() }))
        .route("/refused", post(move |request: axum::extract::Request| refuse(refused.clone(), request)))
        .route("/slow", get(move || slow(got.clone())).post(move |_: AxumBytes| slow(posted.clone())))
        .route("/length", post(|body: AxumBytes| async move { body.len().to_string() }));
    let task = tokio::spawn(https::serve(listener, router, drain));
    Server { authority, address, trigger, task, gate }
}

impl Server {
    async fn plain_stream(&self) -> Stream {
        dial::tls(self.address, &self.authority.client(), "localhost").await.unwrap()
    }

    async fn http1(&self) -> (http1::SendRequest<Full<Bytes>>, JoinHandle<()>) {
        let (sender, connection) = http1::handshake(TokioIo::new(self.plain_stream().await)).await.unwrap();
        (sender, tokio::spawn(async move { drop(connection.await) }))
    }

    async fn http2(&self) -> (http2::SendRequest<Full<Bytes>>, JoinHandle<()>) {
        let stream = TokioIo::new(self.stream_for_http2().await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        (sender, tokio::spawn(async move { drop(connection.await) }))
    }

    pub(super) async fn stream_for_http2(&self) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        let pem = std::fs::read(&self.authority.ca).unwrap();
        use rustls_pki_types::pem::PemObject;
        roots.add(rustls_pki_types::CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        stream
    }
}

fn get_request(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("https://localhost{path}")).header("host", "localhost").body(Full::default()).unwrap()
}

async fn text(response: hyper::Response<hyper::body::Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn both_protocols_answer_and_handlers_see_who_asks() {
    let server = server().await;
    let (mut one, _one) = server.http1().await;
    let response = one.send_request(get_request("/peer")).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_11);
    assert!(text(response).await.starts_with("127.0.0.1:"));
    let (mut two, _two) = server.http2().await;
    let response = two.send_request(get_request("/peer")).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    assert!(text(response).await.starts_with("127.0.0.1:"));
    let body = Request::post("https://localhost/length").body(Full::from(vec![0; 10_000])).unwrap();
    assert_eq!(text(two.send_request(body).await.unwrap()).await, "10000");
}

#[tokio::test]
async fn an_answer_that_ends_its_connection_arrives_whole_and_is_the_last() {
    let server = server().await;
    let (mut one, connection) = server.http1().await;
    let response = one.send_request(get_request("/end")).await.unwrap();
    assert_eq!(response.headers()["connection"], "close");
    assert_eq!(text(response).await, "bye");
    timeout(SOON, connection).await.expect("closed by the server").unwrap();

    let (mut two, connection) = server.http2().await;
    let slow = tokio::spawn(two.send_request(get_request("/slow")));
    let _entered = timeout(SOON, server.gate.entered.acquire()).await.expect("entered in time");
    assert_eq!(text(two.send_request(get_request("/end")).await.unwrap()).await, "bye");
    server.gate.open.add_permits(1);
    let slow = text(timeout(SOON, slow).await.expect("answered in time").unwrap().unwrap()).await;
    assert_eq!(slow, "slow", "a request beside it is not cut off");
    timeout(SOON, connection).await.expect("closed by the server").unwrap();
    let (mut again, _again) = server.http2().await;
    assert!(again.send_request(get_request("/peer")).await.is_ok());
}

#[tokio::test]
async fn a_peer_that_does_not_say_that_it_saw_the_end_is_cut_off() {
    let server = server().await;
    let mut stream = server.stream_for_http2().await;
    // The preface, SETTINGS, and HEADERS of `GET https://localhost/end`; from here on it reads, and says nothing (RFC 9113 §3.4, §6).
    let fields = b"\x82\x87\x04\x04/end\x01\x09localhost";
    let headers = [&[0, 0, u8::try_from(fields.len()).unwrap(), 1, 5, 0, 0, 0, 1], &fields[..]].concat();
    let request = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[0, 0, 0, 4, 0, 0, 0, 0, 0][..], &headers].concat();
    stream.write_all(&request).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(2 * https::LINGER + SOON, stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the server holds on to it, and to what was sent on it");
    assert!(answer.windows(3).any(|bytes| bytes == b"bye"), "{answer:?}");
}

#[tokio::test]
async fn a_request_with_a_body_that_its_client_gives_up_ends_its_connection() {
    let server = server().await;
    let (mut two, connection) = server.http2().await;
    let request = Request::post("https://localhost/slow").body(Full::from("an account")).unwrap();
    let asked = tokio::spawn(two.send_request(request));
    let _entered = timeout(SOON, server.gate.entered.acquire()).await.expect("entered in time");
    asked.abort();
    timeout(SOON, connection).await.expect("closed by the server").unwrap();
}

#[tokio::test]
async fn a_drain_answers_what_was_asked_and_then_ends() {
    let server = server().await;
    let (mut one, _one) = server.http1().await;
    let (mut two, _two) = server.http2().await;
    let idle = server.http2().await;
    let answers = tokio::spawn(async move {
        let one = one.send_request(get_request("/slow"));
        let two = two.send_request(get_request("/slow"));
        tokio::join!(async { text(one.await.unwrap()).await }, async { text(two.await.unwrap()).await })
    });
    let _both = timeout(SOON, server.gate.entered.acquire_many(2)).await.expect("both in time");
    server.trigger.begin();
    server.gate.open.add_permits(2);
    assert_eq!(answers.await.unwrap(), ("slow".to_owned(), "slow".to_owned()));
    timeout(SOON, server.task).await.expect("ended in time").unwrap();
    drop(idle);
}

#[tokio::test]
async fn nonsense_after_the_handshake_closes_that_connection_alone() {
    let server = server().await;
    let mut stream = server.plain_stream().await;
    stream.write_all(b"\x00\x01 nonsense\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("closed in time");
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 400"));
    let mut many = server.plain_stream().await;
    let header = "x: y\r\n".repeat(200);
    many.write_all(format!("GET /peer HTTP/1.1\r\nhost: localhost\r\n{header}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(SOON, many.read_to_end(&mut answer)).await.expect("closed in time");
    assert!(String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 431"));
    let (mut one, _one) = server.http1().await;
    assert!(one.send_request(get_request("/peer")).await.unwrap().status().is_success());
}

#[tokio::test]
async fn a_connection_that_asks_nothing_is_closed() {
    let server = server().await;
    let mut silent = server.plain_stream().await;
    let mut half = server.plain_stream().await;
    half.write_all(b"GET /peer HTTP/1.1\r\nhost: loc").await.unwrap();
    half.flush().await.unwrap();
    let limit = https::HEADER_TIMEOUT + SOON;
    let (mut one, mut two) = (Vec::new(), Vec::new());
    let ends = async { tokio::join!(silent.read_to_end(&mut one), half.read_to_end(&mut two)) };
    let _ = timeout(limit, ends).await.expect("both closed in time");
}
