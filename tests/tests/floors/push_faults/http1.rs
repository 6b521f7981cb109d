//! FCM and its token endpoint behind what speaks HTTP/1.1 alone.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use relay::metrics::Metrics;
use relay::push::{AppPush, Delivery, PushService, Verdict};
use serde_json::Value;
use tests::authority::Authority;
use tests::fcm::Fcm;
use tests::virtual_net::VirtualNet;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::{APP, call, google};

const PORT: u16 = 8_443;

/// FCM and a token endpoint, as their clients see them, by HTTP/1.1 alone at first.
#[derive(Clone)]
struct Old(Arc<State>);

struct State {
    tls: Mutex<TlsAcceptor>,
    /// The token endpoint's answer.
    token: String,
    /// The calls whose pushes were taken.
    calls: Mutex<HashSet<String>>,
    /// The connections that have carried a request of HTTP/1.1, and how many of HTTP/2.
    used: Mutex<HashSet<usize>>,
    by_http2: AtomicUsize,
    /// How long an answer takes.
    delay: Mutex<Duration>,
    /// How long a connection without a request is kept open.
    idle: Mutex<Duration>,
    /// The next message is taken, and its connection cut instead of an answer.
    cuts_next: AtomicBool,
    /// Each answer ends its connection.
    closes: AtomicBool,
    /// Connections before this one answer nothing any more.
    deaf_before: AtomicUsize,
    connections: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic")
}

impl Old {
    fn start(net: &VirtualNet, tls: TlsAcceptor, token: String) -> Self {
        let old = Self(Arc::new(State {
            tls: Mutex::new(tls),
            token,
            calls: Mutex::default(),
            used: Mutex::default(),
            by_http2: AtomicUsize::new(0),
            delay: Mutex::default(),
            idle: Mutex::new(Duration::from_secs(3_600)),
            cuts_next: AtomicBool::new(false),
            closes: AtomicBool::new(false),
            deaf_before: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        }));
        let state = Arc::clone(&old.0);
        net.listen(PORT, move |stream| {
            let (tls, state) = (lock(&state.tls).clone(), Arc::clone(&state));
            tokio::spawn(async move {
                if let Ok(stream) = tls.accept(stream).await {
                    let number = state.connections.fetch_add(1, Ordering::Relaxed);
                    Line { number, state, cut: Notify::new(), last: Mutex::new(None) }
                        .serve(TokioIo::new(stream))
                        .await;
                }
            });
        });
        old
    }

    /// How many connections have carried requests.
    fn used(&self) -> usize {
        lock(&self.0.used).len()
    }

    fn calls(&self) -> usize {
        lock(&self.0.calls).len()
    }
}

/// One connection.
struct Line {
    number: usize,
    state: Arc<State>,
    cut: Notify,
    /// When the last answer was given; `None` while one is due.
    last: Mutex<Option<tokio::time::Instant>>,
}

impl Line {
    async fn serve<S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static>(self, stream: S) {
        let line = Arc::new(self);
        *lock(&line.last) = Some(tokio::time::Instant::now());
        let answering = Arc::clone(&line);
        let service = service_fn(move |request| Arc::clone(&answering).answer(request));
        let builder = auto::Builder::new(TokioExecutor::new());
        let idle = async {
            loop {
                let (last, idle) = (*lock(&line.last), *lock(&line.state.idle));
                match last {
                    Some(last) if last.elapsed() >= idle => return,
                    Some(last) => tokio::time::sleep_until(last + idle).await,
                    None => sleep(Duration::from_millis(1)).await,
                }
            }
        };
        tokio::select! {
            _ = builder.serve_connection(stream, service) => {}
            () = line.cut.notified() => {}
            () = idle => {}
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let state = &*self.state;
        *lock(&self.last) = None;
        if request.version() == Version::HTTP_2 {
            state.by_http2.fetch_add(1, Ordering::Relaxed);
        } else {
            assert_eq!(request.headers().get_all(HOST).iter().count(), 1, "RFC 9112 §3.2");
            lock(&state.used).insert(self.number);
        }
        let is_of_token = request.uri().path() == "/token";
        let body = request.into_body().collect().await.expect("a whole body").to_bytes();
        if self.number < state.deaf_before.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let answer = if is_of_token {
            state.token.clone()
        } else {
            let message: Value = serde_json::from_slice(&body).expect("JSON");
            let payload = message["message"]["data"]["sipwake"].as_str().expect("an entry");
            let payload: Value = serde_json::from_str(payload).expect("JSON");
            lock(&state.calls).insert(payload["call"].as_str().expect("a call").to_owned());
            if state.cuts_next.swap(false, Ordering::Relaxed) {
                self.cut.notify_one();
                std::future::pending::<()>().await;
            }
            let delay = *lock(&state.delay);
            sleep(delay).await;
            r#"{"name":"projects/sipwake-test/messages/0:1"}"#.to_owned()
        };
        let mut response = Response::new(Full::new(answer.into()));
        if state.closes.load(Ordering::Relaxed) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        *lock(&self.last) = Some(tokio::time::Instant::now());
        Ok(response)
    }
}

/// The part of FCM that speaks HTTP/1.1 alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Endpoint,
    TokenUri,
    Both,
}

struct World {
    old: Old,
    new: Fcm,
    service: PushService,
    authority: Authority,
}

impl World {
    fn new(part: Part, alpn: &[&[u8]]) -> Self {
        let (net, authority) = (VirtualNet::new(), Authority::new());
        let new = Fcm::start_within(&net, &authority);
        let tls = TlsAcceptor::from(authority.server_config(&["localhost"], alpn));
        let old = Old::start(&net, tls, new.issue_token());
        let (mut settings, theirs) = (new.settings(), format!("https://localhost:{PORT}"));
        if part != Part::TokenUri {
            settings.endpoint = Some(theirs.clone().into());
        }
        if part != Part::Endpoint {
            let account = new.service_account_json().replace(&new.endpoint(), &theirs);
            settings.service_account_file = authority.write("old-fcm.json", &account);
        }
        let app = AppPush { fcm: Some(settings), ..AppPush::default() };
        let service = PushService::new(Arc::new(net), vec![(APP.into(), app)], &Metrics::new());
        Self { old, new, service: service.expect("the settings are good"), authority }
    }

    fn both() -> Self {
        Self::new(Part::Both, &[b"http/1.1"])
    }

    async fn ring(&self, number: u32) -> Delivery {
        self.service.deliver(APP, &google(number), &call(number)).await
    }

    async fn ring_all(&self, numbers: std::ops::Range<u32>) -> Vec<Delivery> {
        let ring = |number| {
            let service = self.service.clone();
            tokio::spawn(async move { service.deliver(APP, &google(number), &call(number)).await })
        };
        let rings: Vec<_> = numbers.map(ring).collect();
        let mut deliveries = Vec::new();
        for ring in rings {
            deliveries.push(ring.await.expect("no panic"));
        }
        deliveries
    }
}

fn assert_taken_at_once(delivery: &Delivery) {
    let is_so = (&delivery.verdict, delivery.attempts, delivery.copies) == (&Verdict::Accepted, 1, 1);
    assert!(is_so && delivery.elapsed < Duration::from_millis(500), "{delivery:?}");
}

#[tokio::test(start_paused = true)]
async fn fcm_and_its_token_endpoint_are_reached_where_they_speak_http_1_alone() {
    for alpn in [&[b"http/1.1" as &[u8]] as &[&[u8]], &[]] {
        for (part, connections) in [(Part::Endpoint, 1), (Part::TokenUri, 1), (Part::Both, 2)] {
            let world = World::new(part, alpn);
            for number in 1..=3 {
                assert_taken_at_once(&world.ring(number).await);
            }
            let taken = world.old.calls() + world.new.pushes().len();
            assert_eq!((taken, world.old.used()), (3, connections), "{part:?} {alpn:?}: one connection each");
            let report = &world.service.health()[0];
            assert_eq!(report.reason, None, "nothing fails: {report:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_http_1_serves_one_call_after_the_other_and_no_call_is_lost_with_it() {
    let world = World::both();
    *lock(&world.old.0.idle) = Duration::from_secs(5);
    assert_taken_at_once(&world.ring(0).await);
    for (number, pause) in (1..).zip([0, 10, 4_900, 4_990, 5_010, 5_100, 6_000, 29_000, 31_000, 700_000]) {
        sleep(Duration::from_millis(pause)).await;
        assert_taken_at_once(&world.ring(number).await);
    }
    assert_eq!(world.old.calls(), 11);
    world.old.0.closes.store(true, Ordering::Relaxed);
    for number in 20..25 {
        assert_taken_at_once(&world.ring(number).await);
    }
    assert_eq!(world.old.calls(), 16);
}

#[tokio::test(start_paused = true)]
async fn many_calls_at_once_go_side_by_side_by_http_1_also_to_a_slow_service() {
    let world = World::both();
    for (from, seconds) in [(0, 0), (1_000, 1), (2_000, 4), (3_000, 9)] {
        *lock(&world.old.0.delay) = Duration::from_secs(seconds);
        let deliveries = world.ring_all(from..from + 100).await;
        for delivery in deliveries {
            assert_eq!(delivery.verdict, Verdict::Accepted, "{delivery:?}");
            assert!(delivery.elapsed < Duration::from_secs(seconds + 1), "{delivery:?}");
        }
    }
    assert_eq!(world.old.calls(), 400);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_connection_of_http_1_is_cut_or_dead_goes_out_once_more() {
    let world = World::both();
    world.ring_all(0..10).await;
    world.old.0.cuts_next.store(true, Ordering::Relaxed);
    let cut = world.ring(20).await;
    assert_eq!((cut.verdict, cut.copies), (Verdict::Accepted, 2));
    assert!(cut.elapsed < Duration::from_secs(1), "{:?}", cut.elapsed);
    world.ring_all(30..40).await;
    // All that are kept are dead, and nobody says so.
    let made = world.old.0.connections.load(Ordering::Relaxed);
    world.old.0.deaf_before.store(made, Ordering::Relaxed);
    let dead = world.ring(50).await;
    assert_eq!((&dead.verdict, dead.copies), (&Verdict::Accepted, 2), "{dead:?}");
    assert!(dead.elapsed < Duration::from_secs(6), "{:?}", dead.elapsed);
    assert_taken_at_once(&world.ring(51).await);
}

#[tokio::test(start_paused = true)]
async fn fcm_that_comes_to_speak_http_2_alone_is_reached_at_once() {
    let world = World::both();
    assert_taken_at_once(&world.ring(1).await);
    *lock(&world.old.0.tls) = TlsAcceptor::from(world.authority.server_config(&["localhost"], &[b"h2"]));
    *lock(&world.old.0.idle) = Duration::ZERO;
    sleep(Duration::from_secs(3_600)).await;
    *lock(&world.old.0.idle) = Duration::from_secs(3_600);
    let changed = world.ring(2).await;
    assert_eq!((&changed.verdict, changed.copies), (&Verdict::Accepted, 1), "{changed:?}");
    assert!(changed.elapsed < Duration::from_secs(1), "{changed:?}");
    assert_taken_at_once(&world.ring(3).await);
    assert!(world.old.0.by_http2.load(Ordering::Relaxed) >= 3, "with the token");
}
