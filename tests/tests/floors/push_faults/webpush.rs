//! Web Push services: every status and fault, an endpoint that leads inside, and services that speak HTTP/1.1 alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use relay::metrics::Metrics;
use relay::push::{AppPush, Event, Push, PushService, State, Verdict};
use relay::secret::PushToken;
use relay::vault::record::PushTarget;
use tests::authority::Authority;
use tests::virtual_net::{Mood, VirtualNet};
use tests::webpush::{Answer, WebPush};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::{APP, call};

struct Web {
    net: VirtualNet,
    server: WebPush,
    service: PushService,
}

impl Web {
    fn new(authority: &Authority) -> Self {
        let net = VirtualNet::new();
        let server = WebPush::start_within(&net, authority);
        let app = AppPush { webpush: Some(server.settings()), ..AppPush::default() };
        let apps = vec![(APP.into(), app)];
        let service = PushService::over(Arc::new(net.clone()), apps, &Metrics::new()).expect("the settings are good");
        Self { net, server, service }
    }
}

fn alert() -> Push {
    Push { event: Event::Message, call: None, ..call(1) }
}

/// What the caller hears, the requests and the connections that it took, whether the subscription is gone.
type Outcome = (&'static str, u64, usize, bool);

const TAKEN: Outcome = ("taken", 1, 1, false);
const AGAIN: Outcome = ("taken", 2, 1, false);
const AFRESH: Outcome = ("taken", 2, 2, false);
const REFUSED: Outcome = ("refused", 1, 1, false);
const GONE: Outcome = ("refused", 1, 1, true);

fn rows() -> Vec<(Answer, Outcome)> {
    let statuses = [
        (&[200, 201, 202, 204][..], TAKEN),
        (&[404, 410], GONE),
        (&[301, 302, 303, 307, 308], REFUSED),
        (&[400, 401, 402, 403, 405, 406, 407, 411, 413, 415, 418, 422, 451], REFUSED),
        (&[408, 421], AFRESH),
        (&[425, 429], AGAIN),
        (&[500, 501, 502, 503, 504, 507, 520, 599], AFRESH),
    ];
    let mut rows: Vec<_> = statuses
        .into_iter()
        .flat_map(|(codes, outcome)| codes.iter().map(move |code| (Answer::Status(*code, None), outcome)))
        .collect();
    rows.extend([
        (Answer::Status(429, Some(5)), AGAIN),
        (Answer::Status(429, Some(600)), REFUSED),
        (Answer::Status(503, Some(5)), AFRESH),
        (Answer::Status(503, Some(600)), REFUSED),
        (Answer::Slow(Duration::from_millis(3_500)), TAKEN),
        (Answer::Stall, AGAIN),
        (Answer::RefusedStream, AGAIN),
        (Answer::GoAway, AFRESH),
        (Answer::ConnectionLost, AFRESH),
    ]);
    rows.extend([1, 2, 8, 11].map(|code| (Answer::Reset(code), AFRESH)));
    rows
}

#[tokio::test(start_paused = true)]
async fn each_answer_and_fault_of_a_web_push_service_has_its_consequence() {
    let authority = Authority::new();
    let mut wrong = Vec::new();
    for (answer, wanted) in rows() {
        for push in [call(1), alert()] {
            let web = Web::new(&authority);
            let device = web.server.subscribe();
            web.server.answer_with(&device.token, [answer.clone()]);
            let delivery = web.service.deliver(APP, &device.push_target(), &push).await;
            let hears = if delivery.verdict == Verdict::Accepted { "taken" } else { "refused" };
            let gone = delivery.verdict.token_is_dead(0);
            let found = (hears, web.server.requests(), web.server.connections(), gone);
            if found != wanted || !web.server.violations().is_empty() || delivery.copies > 2 {
                let violations = web.server.violations();
                wrong.push(format!("{answer:?} {:?}: {found:?}, not {wanted:?}; {violations:?}", push.event));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn what_one_service_asks_for_is_kept_there_and_slows_no_other_and_one_that_is_away_is_not_all_of_them() {
    let authority = Authority::new();
    let web = Web::new(&authority);
    let other = WebPush::start_within(&web.net, &authority);
    let (here, there) = (web.server.subscribe(), other.subscribe());
    web.server.answer_with(&here.token, [Answer::Status(429, Some(10))]);
    let began = Instant::now();
    let ring = async |target: PushTarget, number| {
        let delivery = web.service.deliver(APP, &target, &call(number)).await;
        (delivery, began.elapsed())
    };
    let (first, second) = tokio::join!(ring(here.push_target(), 1), ring(there.push_target(), 2));
    assert_eq!((first.0.verdict, second.0.verdict), (Verdict::Accepted, Verdict::Accepted));
    assert!(began.elapsed() >= Duration::from_secs(10) && second.1 < Duration::from_secs(1), "{:?}", second.1);
    // A third device's own service is away for hours: the app's pushes are well.
    web.net.place(9, &[([203, 0, 114, 9].into(), Mood::Refuses)]);
    let away = PushTarget { token: PushToken::new("https://away.example:9/x"), ..here.push_target() };
    let unreachable = PushTarget { token: PushToken::new("https://away.example:7777/x"), ..here.push_target() };
    for _ in 0..2 {
        for target in [&away, &unreachable] {
            let delivery = web.service.deliver(APP, target, &call(3)).await;
            assert_ne!(delivery.verdict, Verdict::Accepted);
        }
        assert_eq!(web.service.deliver(APP, &there.push_target(), &call(4)).await.verdict, Verdict::Accepted);
        assert_eq!(web.service.health()[0].state, State::Well);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_leads_inside_is_never_dialled_whatever_its_name() {
    let authority = Authority::new();
    let web = Web::new(&authority);
    let device = web.server.subscribe();
    for (port, inside) in [
        (8001, "10.0.0.1"),
        (8002, "192.168.1.1"),
        (8003, "169.254.169.254"),
        (8004, "100.64.0.1"),
        (8005, "::ffff:10.0.0.1"),
        (8006, "fd00::1"),
        (8007, "fe80::1"),
        (8008, "64:ff9b::a00:1"),
    ] {
        web.net.place(port, &[(inside.parse().expect("an address"), Mood::Serves)]);
        let target =
            PushTarget { token: PushToken::new(&format!("https://push.example:{port}/x")), ..device.push_target() };
        let delivery = web.service.deliver(APP, &target, &call(1)).await;
        assert_eq!(delivery.verdict, Verdict::Refused { reason: "EndpointNotAllowed" }, "{inside}");
    }
    // Ports of databases and of what is below 1024 neither.
    for port in [22, 25, 5432, 6379] {
        web.net.place(port, &[([203, 0, 114, 1].into(), Mood::Serves)]);
        let target =
            PushTarget { token: PushToken::new(&format!("https://push.example:{port}/x")), ..device.push_target() };
        let delivery = web.service.deliver(APP, &target, &call(1)).await;
        assert_eq!(delivery.verdict, Verdict::Refused { reason: "EndpointNotAllowed" }, "{port}");
    }
    assert_eq!(web.net.dials(), []);
    assert_eq!(web.service.health()[0].state, State::Unknown, "it says nothing of the services");
    // One that moves inside after it was well is not followed there.
    assert_eq!(web.service.deliver(APP, &device.push_target(), &call(1)).await.verdict, Verdict::Accepted);
}

#[tokio::test]
async fn a_service_that_speaks_http_1_alone_gets_its_pushes_too() {
    let authority = Authority::new();
    let answers = [201, 410];
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let tls = TlsAcceptor::from(authority.server_config(&["localhost"], &[b"http/1.1"]));
    let served = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&served);
    let heads = Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = Arc::clone(&heads);
    let serving = tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let Ok(mut stream) = tls.accept(tcp).await else { continue };
            let mut request = Vec::new();
            let length = loop {
                let mut buffer = [0; 8_192];
                let read = stream.read(&mut buffer).await.unwrap_or(0);
                request.extend_from_slice(&buffer[..read]);
                let head = String::from_utf8_lossy(&request).into_owned();
                if let Some((head, _)) = head.split_once("\r\n\r\n") {
                    noted.lock().expect("no panic").push(head.to_owned());
                    break head.len() + 4;
                }
                if read == 0 {
                    break 0;
                }
            };
            if length == 0 {
                // A connection that was only looked at.
                continue;
            }
            let status = answers[counted.fetch_add(1, Ordering::Relaxed) % 2];
            let _ = stream.write_all(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let push_server = WebPush::start(&authority).await;
    let app = AppPush { webpush: Some(push_server.settings()), ..AppPush::default() };
    let service = PushService::new(vec![(APP.into(), app)], &Metrics::new()).expect("the settings are good");
    let target = PushTarget {
        token: PushToken::new(&format!("https://localhost:{port}/up?id=7")),
        ..push_server.subscribe().push_target()
    };
    assert_eq!(service.deliver(APP, &target, &call(1)).await.verdict, Verdict::Accepted);
    assert_eq!(service.deliver(APP, &target, &alert()).await.verdict, Verdict::Gone { since: None });
    assert_eq!(served.load(Ordering::Relaxed), 2);
    let heads = heads.lock().expect("no panic").join("\n");
    for says in [
        "POST /up?id=7 HTTP/1.1",
        "ttl: 0",
        "urgency: high",
        "authorization: vapid t=",
        &format!("host: localhost:{port}"),
    ] {
        assert!(heads.contains(says), "{says}: {heads}");
    }
    serving.abort();
}
