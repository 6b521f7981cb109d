//! Serving a router over HTTPS, HTTP/1.1 and HTTP/2.
//!
//! A handler finds the client's address in the extension [`Peer`], and [`BadHead`] on a request that is to be refused, and ends the connection after
//! its answer by putting [`EndConnection`] into the response's extensions: then the buffers that held a credential are freed. A request with a body
//! that its client gives up ends its connection likewise.
//!
//! ```text
//! the handler is done ── the request's rest is read ── the answer is written ── a pause (leaving) ── GOAWAY, or the stream's end
//!                        (unread)               (open_requests)                                 (farewell)
//! ```
//!
//! Invariant: a connection that does nothing is closed: no TLS handshake in ten seconds, no complete header within [`HEADER_TIMEOUT`], no complete
//! body within [`BODY_TIMEOUT`], no request for [`IDLE_CHECK`] to twice that; one whose peer does not take an answer within [`ANSWER_TIMEOUT`]; and
//! one that is to end, while its peer is silent, after [`LINGER`] to twice that, and one that an answer ends after [`LEAVE_TIMEOUT`] at the latest. The
//! end that an answer asks for begins when the answer was written.
//! A request that is being served when the drain begins is answered, within [`DRAIN_TIMEOUT`]. The connection that the relay has waited for longest gives
//! way to others of its peer, or of other networks, where there are too many.

mod farewell;
mod leaving;
mod open_requests;
mod progress;
mod unread;

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Request, Response, Version};
use futures_util::future::Either;
use futures_util::poll;
use hyper::body::{Body as _, Incoming};
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tower::Service as _;

use self::farewell::{Ending, Farewell};
pub use self::leaving::{LAST_PATIENCE, LEAVE_TIMEOUT, LINGER, PATIENCE, QUIET};
use self::leaving::{LOOK, Leaving, Step};
use self::open_requests::{Answer, Life, Served};
use self::progress::{MonitoredStream, Progress};
use self::unread::timed;
pub use self::unread::{BODY_TIMEOUT, MAX_REST, REST_TIMEOUT};
use super::drain::Drain;
use super::listen::{Accepted, Listener};
use super::tls::ACME_PROTOCOL;

/// The port that is meant where none is named.
const HTTPS_PORT: u16 = 443;

/// The application protocols that a listener served here offers, best first.
pub const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
/// A request's header that takes longer, or an HTTP/1.1 connection without a request for as long, is closed.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a connection is looked at: one that had no request since the last look is ended.
pub const IDLE_CHECK: Duration = Duration::from_secs(30);
/// An answer that its peer has not taken whole after this long, at the next [`IDLE_CHECK`], is cut off with its connection: 1 MiB at
/// 3.5 kB/s takes as long.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// The time that requests being served have to end when the drain begins; then they are cut off.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 peers are asked for a sign of life this often.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// And closed when it takes longer than this.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers in a request, and their bytes in all: more is answered 431.
const MAX_HEADERS: usize = 64;
/// As many are read over HTTP/1.1, so that a few too many are refused by the route that is asked, and not by a status alone.
const MAX_HEADERS_READ: usize = 2 * MAX_HEADERS;
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Requests at once on one HTTP/2 connection; more wait at the peer.
const MAX_STREAMS: u32 = 64;

/// The client's address: an extension of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// As an extension of a request: whatever it asks for, it is to be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadHead {
    /// The request says in no way, or in several, which host it is for: 400 (RFC 9112 §3.2).
    Host,
    /// The request has more than 64 header fields: 431 (RFC 6585 §5).
    Fields,
    /// Its body has another transfer coding than `chunked`: 501 (RFC 9112 §6.1).
    Coding,
}

/// As an extension of a response: end the connection after it (`Connection: close`, or on HTTP/2 GOAWAY when it is idle).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndConnection;

/// Serves `router` on `listener` until the drain begins and the last answer is out, at most [`DRAIN_TIMEOUT`] later.
pub async fn serve(mut listener: Listener, router: Router, drain: Drain) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Some(accepted) => connections.spawn(connection(accepted, router.clone(), drain.clone())),
                None => break,
            },
            Some(_) = connections.join_next() => continue,
        };
    }
    // Connections left after this are cut off by dropping the set.
    let _ = timeout(DRAIN_TIMEOUT, async { while connections.join_next().await.is_some() {} }).await;
}

/// A connection by HTTP/2, or by HTTP/1.1.
type Serving<I, S> = Either<http2::Connection<I, S, TokioExecutor>, http1::Connection<I, S>>;

async fn connection(accepted: Accepted, router: Router, drain: Drain) {
    let gives_way = accepted.stranger.gives_way();
    let life = Life::new(accepted.stranger);
    let peer = Peer(accepted.peer);
    let serving = life.clone();
    let service = service_fn(move |request| begin(&router, request, peer, &serving));
    // A CA that validates a challenge sends no request (RFC 8737 §3).
    if accepted.stream.alpn() == Some(ACME_PROTOCOL) {
        return;
    }
    let is_http2 = accepted.stream.alpn() == Some(b"h2");
    let progress = Progress::default();
    let farewell = Farewell::default();
    let stream = Ending::new(MonitoredStream::new(accepted.stream, progress.clone()), farewell.clone());
    let stream = TokioIo::new(stream);
    let mut connection = std::pin::pin!(if is_http2 {
        Either::Left(http2().serve_connection(stream, service))
    } else {
        Either::Right(http1().serve_connection(stream, service))
    });
    let mut looks = interval(IDLE_CHECK);
    looks.tick().await;
    let mut begun = 0;
    let mut leaving: Option<Leaving> = None;
    let mut steps = interval(LOOK);
    steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_told = leaving.as_ref().is_some_and(Leaving::is_told);
        let step = tokio::select! {
            // The connection comes first: later requests are asked for when everything has been written that could be.
            biased;
            ended = connection.as_mut() => {
                // The usual ends: the peer left, or was not heard from.
                if let Err(error) = ended { tracing::trace!(event = "https-ended-early", peer = %peer.0, %error, "a connection ended early") }
                return;
            }
            () = gives_way.notified() => {
                life.stranger().gave_way();
                // Its peer is told, as far as that needs no waiting.
                shut_down(connection.as_mut(), &life, &progress, &farewell).await;
                return;
            }
            () = life.is_to_end(), if leaving.is_none() => {
                let asked = leaving.insert(Leaving::asked(is_http2));
                asked.look(&life, &progress)
            }
            () = drain.begun(), if !is_told => Step::Tell,
            _ = looks.tick() => match idle_step(&life, &mut begun, is_told) {
                Some(step) => step,
                None => return,
            },
            _ = steps.tick(), if leaving.is_some() => leaving.as_mut().map_or(Step::Wait, |it| it.look(&life, &progress)),
        };
        match step {
            Step::Wait => (),
            Step::Tell => {
                leaving.get_or_insert_with(Leaving::told).tell();
                if shut_down(connection.as_mut(), &life, &progress, &farewell).await {
                    return;
                }
            }
            Step::Close if is_http2 && !is_told => {
                farewell.say();
                // Its peer is told, as far as that needs no waiting.
                let _ = poll!(connection.as_mut());
                return;
            }
            Step::Close => return,
        }
    }
}

/// The step that follows from a look at an idle connection. `None`: the connection is closed at once.
fn idle_step(life: &Life, begun: &mut u64, is_told: bool) -> Option<Step> {
    let is_quiet = life.is_quiet_since(begun);
    if is_quiet && is_told || life.has_an_answer_older_than(ANSWER_TIMEOUT) {
        return None;
    }
    Some(if is_quiet { Step::Tell } else { Step::Wait })
}

/// Takes no further request on a connection; `true` where it is over with that.
async fn shut_down<I, S, B>(
    mut connection: Pin<&mut Serving<I, S>>,
    life: &Life,
    progress: &Progress,
    farewell: &Farewell,
) -> bool
where
    I: Read + Write + Unpin + 'static,
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    S::Future: Send + 'static,
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let idle_after = life.idle_after();
    // A request is over when its answer was handed on, so what waits is written first.
    if poll!(connection.as_mut()).is_ready() {
        return true;
    }
    let is_idle = idle_after.is_some() && idle_after == life.idle_after() && !progress.is_full();
    match connection.as_mut().as_pin_mut() {
        Either::Left(_) if is_idle => farewell.say(),
        Either::Left(connection) => connection.graceful_shutdown(),
        Either::Right(connection) => connection.graceful_shutdown(),
    }
    poll!(connection).is_ready()
}

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS_READ)
        .max_buf_size(MAX_HEADER_BYTES);
    builder
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES as u32)
        // HPACK's table would keep a Bearer beside what h2's buffers keep of the latest requests (RFC 7541 §2.3.2).
        .header_table_size(0);
    builder
}

/// A request begins as soon as it was read: over HTTP/2 its handler is a task that runs later, and meanwhile the connection is not idle.
fn begin(
    router: &Router,
    request: Request<Incoming>,
    peer: Peer,
    life: &Arc<Life>,
) -> impl Future<Output = Result<Response<Answer>, Infallible>> + use<> {
    let served = life.begin(!request.body().is_end_stream());
    answer(router.clone(), request, peer, served)
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
    peer: Peer,
    served: Served,
) -> Result<Response<Answer>, Infallible> {
    let version = request.version();
    let (mut request, rest) = timed(request, served.whole());
    request.extensions_mut().insert(peer);
    if let Some(bad) = bad_head(&request) {
        request.extensions_mut().insert(bad);
    }
    let mut router = router;
    let Ok(mut response) = router.call(request).await;
    rest.read(response.status()).await;
    let ends = response.extensions_mut().remove::<EndConnection>().is_some();
    if ends && version != Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| served.answered(body, ends && version == Version::HTTP_2)))
}

fn bad_head<B>(request: &Request<B>) -> Option<BadHead> {
    let is_chunked = |coding: &HeaderValue| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    match () {
        () if request.headers().len() > MAX_HEADERS => Some(BadHead::Fields),
        () if !names_its_host(request) => Some(BadHead::Host),
        () if !request.headers().get_all(TRANSFER_ENCODING).iter().all(is_chunked) => Some(BadHead::Coding),
        () => None,
    }
}

/// Whether a request has one Host that can be one. HTTP/1.0 may do without, and HTTP/2 names it in `:authority`, which has no user and which no Host
/// contradicts (RFC 9113 §8.3.1).
fn names_its_host<B>(request: &Request<B>) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let can_be = |host: &HeaderValue| {
        let host = host.as_bytes();
        host.is_empty() || !host.contains(&b'@') && Authority::try_from(host).is_ok()
    };
    let authority = request.uri().authority().filter(|_| request.version() == Version::HTTP_2);
    if authority.is_some_and(|it| it.as_str().contains('@')) {
        return false;
    }
    let name = |it: &Authority| (it.host().to_ascii_lowercase(), it.port_u16().unwrap_or(HTTPS_PORT));
    let is_of = |host: &HeaderValue, authority| {
        Authority::try_from(host.as_bytes()).is_ok_and(|it| name(&it) == name(authority))
    };
    match (hosts.next(), hosts.next()) {
        (None, _) => request.version() != Version::HTTP_11,
        (Some(host), None) => can_be(host) && authority.is_none_or(|it| is_of(host, it)),
        (Some(_), Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::net::slots::Stranger;

    #[tokio::test]
    async fn no_table_of_headers_is_kept_for_later_requests_by_http2() {
        let (ours, mut theirs) = tokio::io::duplex(4_096);
        let service = service_fn(|_| async { Ok::<_, Infallible>(Response::new(Body::empty())) });
        tokio::spawn(http2().serve_connection(TokioIo::new(ours), service));
        theirs.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut head = [0; 9];
        theirs.read_exact(&mut head).await.unwrap();
        let mut settings = vec![0; usize::from(head[2])];
        theirs.read_exact(&mut settings).await.unwrap();
        // SETTINGS_HEADER_TABLE_SIZE of 0 (RFC 9113 §6.5.2).
        assert!(head[3] == 4 && settings.chunks(6).any(|setting| setting == [0, 1, 0, 0, 0, 0]), "{settings:?}");
    }

    /// On this runtime a request's handler runs when the connection's task waits, and not before.
    #[tokio::test]
    async fn a_request_that_is_read_while_its_connection_is_ended_is_answered() {
        let life = Life::new(Stranger::of_a_test());
        let (progress, farewell) = (Progress::default(), Farewell::default());
        let (mut client, ours) = tokio::io::duplex(4_096);
        let stream = TokioIo::new(Ending::new(MonitoredStream::new(ours, progress.clone()), farewell.clone()));
        let (serving, peer) = (life.clone(), Peer("192.0.2.1:1".parse().unwrap()));
        let service = service_fn(move |request| begin(&Router::new(), request, peer, &serving));
        let mut connection: Pin<Box<Serving<_, _>>> = Box::pin(Either::Left(http2().serve_connection(stream, service)));
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        assert!(poll!(connection.as_mut()).is_pending() && life.idle_after() == Some(0));

        // HEADERS of `GET https://localhost/` (RFC 7541 appendix A).
        client.write_all(b"\0\0\x0e\x01\x05\0\0\0\x01\x82\x87\x84\x01\x09localhost").await.unwrap();
        assert!(!shut_down(connection.as_mut(), &life, &progress, &farewell).await, "it is not over");
        let answered = async {
            loop {
                let mut head = [0; 9];
                client.read_exact(&mut head).await.expect("an answer before the end");
                let [_, high, low, kind, _, _, _, _, stream] = head;
                client.read_exact(&mut vec![0; usize::from(u16::from_be_bytes([high, low]))]).await.unwrap();
                if (kind, stream) == (1, 1) {
                    break;
                }
            }
        };
        tokio::select! {
            () = answered => (),
            _ = connection => panic!("the connection ends without an answer"),
        }
    }

    #[test]
    fn a_head_with_too_many_fields_or_an_odd_transfer_coding_is_bad() {
        let request = |headers: &[(&str, &str)], more: usize| {
            let begin = Request::builder().header(HOST, "a");
            let built = headers.iter().fold(begin, |built, (name, value)| built.header(*name, *value));
            let built = (0..more).fold(built, |built, _| built.header("x", "y"));
            bad_head(&built.body(Body::empty()).unwrap())
        };
        assert_eq!((request(&[], 63), request(&[], 64)), (None, Some(BadHead::Fields)));
        assert_eq!(request(&[("transfer-encoding", "Chunked")], 0), None);
        for coding in ["gzip, chunked", "gzip", "chunked, chunked", ""] {
            assert_eq!(request(&[("transfer-encoding", coding)], 0), Some(BadHead::Coding), "{coding}");
        }
        assert_eq!(request(&[(HOST.as_str(), "b")], 0), Some(BadHead::Host));
    }

    #[test]
    fn a_request_names_one_host_unless_its_version_needs_none() {
        let request = |version, hosts: &[&str]| {
            let begin = Request::builder().version(version);
            let built = hosts.iter().fold(begin, |built, host| built.header(HOST, *host));
            names_its_host(&built.body(Body::empty()).unwrap())
        };
        for hosts in [&["relay.example.net"][..], &["relay:8443"], &["[::1]:8443"], &["127.0.0.1"], &[""]] {
            assert!(request(Version::HTTP_11, hosts), "{hosts:?}");
        }
        for hosts in [&[][..], &["a", "a"], &["a b"], &["user@a"], &["a/b"]] {
            assert!(!request(Version::HTTP_11, hosts), "{hosts:?}");
        }
        assert!(request(Version::HTTP_10, &[]) && request(Version::HTTP_2, &[]));
        assert!(!request(Version::HTTP_10, &["a", "b"]));
        let by_http2 = |authority: &str, hosts: &[&str]| {
            let begin = Request::builder().version(Version::HTTP_2).uri(format!("https://{authority}/"));
            let built = hosts.iter().fold(begin, |built, host| built.header(HOST, *host));
            names_its_host(&built.body(Body::empty()).unwrap())
        };
        for (authority, hosts) in
            [("a", &[][..]), ("a:8443", &["A:8443"]), ("a", &["a:443"]), ("[::1]:1", &["[::1]:1"])]
        {
            assert!(by_http2(authority, hosts), "{authority} {hosts:?}");
        }
        for (authority, hosts) in [("x@a", &[][..]), ("a", &["b"]), ("a", &["a:1"]), ("a", &["a", "a"]), ("a", &[""])] {
            assert!(!by_http2(authority, hosts), "{authority} {hosts:?}");
        }
    }
}
