//! Web Push services: every status and fault, an endpoint that leads inside, and services that a device has chosen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use relay::metrics::Metrics;
use relay::push::{
    AppPush, Delivery, Departure, Event, IsGoneFuture, Push, PushService, Recipient, State, StaysFuture, Verdict,
};
use relay::secret::PushToken;
use relay::vault::record::PushTarget;
use tests::authority::Authority;
use tests::push_services::system;
use tests::virtual_net::{Mood, VirtualNet};
use tests::webpush::{Answer, Subscription, WebPush};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use super::{APP, call};

pub(super) struct Web {
    pub(super) net: VirtualNet,
    pub(super) server: WebPush,
    pub(super) service: PushService,
}

impl Web {
    pub(super) fn new(authority: &Authority) -> Self {
        let net = VirtualNet::new();
        let server = WebPush::start_within(&net, authority);
        let app = AppPush { webpush: Some(server.settings()), ..AppPush::default() };
        let apps = vec![(APP.into(), app)];
        let service = PushService::new(Arc::new(net.clone()), apps, &Metrics::new()).expect("the settings are good");
        Self { net, server, service }
    }
}

pub(super) fn alert() -> Push {
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
        (&[400, 401, 402, 403, 405, 407, 411, 413, 415, 418, 422, 451], REFUSED),
        (&[408, 421, 425], AFRESH),
        (&[406, 429], AGAIN),
        (&[500, 501, 502, 503, 504, 507, 520, 599], AFRESH),
    ];
    let mut rows: Vec<_> = statuses
        .into_iter()
        .flat_map(|(codes, outcome)| codes.iter().map(move |code| (Answer::Status(*code, None), outcome)))
        .collect();
    rows.extend([
        (Answer::Status(429, Some(5)), AGAIN),
        (Answer::Status(429, Some(600)), REFUSED),
        (Answer::Status(406, Some(5)), AGAIN),
        (Answer::Status(503, Some(5)), AFRESH),
        (Answer::Status(503, Some(600)), REFUSED),
        (Answer::Slow(Duration::from_millis(3_500)), TAKEN),
        (Answer::Stall, AFRESH),
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
        for push in [call(1), Push { event: Event::CallEnded, ..call(1) }, alert()] {
            // Where a service asks for longer than calls wait, they ask, and so do their ends.
            let wanted = match (&answer, push.event) {
                (Answer::Status(503, Some(600)), Event::Call | Event::CallEnded) => AFRESH,
                // What is no call waits for the operator to put it right.
                (Answer::Status(401 | 403, _), Event::Message) => AGAIN,
                _ => wanted,
            };
            let push = Push { made_at: relay::clock::now(), ..push };
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
async fn a_call_that_may_ring_by_its_first_copy_does_not_end_with_the_refusal_of_the_second() {
    let web = Web::new(&Authority::new());
    let device = web.server.subscribe();
    web.server.answer_with(&device.token, [Answer::ConnectionLost, Answer::Status(403, None)]);
    let delivery = web.service.deliver(APP, &device.push_target(), &call(1)).await;
    assert_eq!((delivery.verdict, delivery.copies), (Verdict::Unconfirmed, 1));
    assert_eq!((web.server.count(), web.server.requests()), (1, 2));
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
async fn a_service_that_knows_none_of_many_subscriptions_wipes_eight_and_the_calls_of_the_others_end_at_once() {
    let web = Web::new(&Authority::new());
    let push = |count: usize, answer: Answer, push: fn(u32) -> Push| {
        let devices: Vec<_> = (0..count).map(|_| web.server.subscribe()).collect();
        let pushes = devices.into_iter().zip(1..).map(|(device, number)| {
            web.server.answer_with(&device.token, [answer.clone()]);
            let (service, target) = (web.service.clone(), device.push_target());
            tokio::spawn(async move { service.deliver(APP, &target, &push(number)).await })
        });
        pushes.collect::<Vec<_>>()
    };
    let ended = async |pushes: Vec<tokio::task::JoinHandle<_>>| {
        let mut counts = [0; 3];
        for push in pushes {
            let delivery: Delivery = push.await.expect("no panic");
            let end = match delivery.verdict {
                Verdict::Gone { .. } => 0,
                Verdict::Refused { reason: "ManyNotFound" } if delivery.elapsed < Duration::from_secs(1) => 1,
                Verdict::Accepted => 2,
                _ => panic!("{delivery:?}"),
            };
            counts[end] += 1;
        }
        counts
    };
    let not_found = Answer::Status(404, None);
    assert_eq!(ended(push(20, not_found.clone(), call)).await, [8, 12, 0]);
    // What is no call is tried again.
    assert_eq!(ended(push(20, not_found, |_| alert())).await, [0, 0, 20]);
    // No proxy says 410 of what it does not know.
    assert_eq!(ended(push(20, Answer::Status(410, None), call)).await, [20, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_is_told_to_wait_is_left_alone_and_no_other_one_is() {
    let web = Web::new(&Authority::new());
    let (told, other) = (web.server.subscribe(), web.server.subscribe());
    let ring =
        async |device: &Subscription, number| web.service.deliver(APP, &device.push_target(), &call(number)).await;
    web.server.answer_with(&told.token, [Answer::Status(429, Some(120))]);
    assert!(matches!(ring(&told, 1).await.verdict, Verdict::Retry { .. }));
    assert_eq!(web.service.health()[0].state, State::Unknown, "it says nothing of the service");
    let delivery = ring(&other, 2).await;
    assert_eq!(delivery.verdict, Verdict::Accepted);
    assert!(delivery.elapsed < Duration::from_secs(1), "{:?}", delivery.elapsed);
    assert!(matches!(ring(&told, 3).await.verdict, Verdict::Retry { .. }));
    assert_eq!(web.server.requests(), 2, "RFC 8030 §8.4: nothing is sent to it until then");
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(ring(&told, 4).await.verdict, Verdict::Accepted);
}

#[tokio::test(start_paused = true)]
async fn an_alert_that_is_told_to_wait_without_a_time_asks_seldom_and_delays_no_call_of_its_device() {
    let web = Web::new(&Authority::new());
    let device = web.server.subscribe();
    web.server.answer_with(&device.token, std::iter::repeat_n(Answer::Status(429, None), 10_000));
    let deliver = |push: Push| {
        let (service, target) = (web.service.clone(), device.push_target());
        tokio::spawn(async move { service.deliver(APP, &target, &push).await })
    };
    let push = alert();
    let waiting = deliver(Push { deadline: push.sent_at + 3_600, ..push });
    tokio::time::sleep(Duration::from_secs(1_800)).await;
    let asked = web.server.requests();
    assert!(!waiting.is_finished() && (8..60).contains(&asked), "{asked} in half an hour");
    for number in 2..10 {
        let before = web.server.requests();
        let ringing = deliver(call(number));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(web.server.requests() >= before + 2, "call {number} is tried at once, and again");
        ringing.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_tells_one_subscription_after_the_other_to_wait_is_left_alone_for_seconds_by_all_but_calls() {
    // The eighth was told so 50 ms before.
    for (is_call, waits) in [(false, 450..6_000), (true, 0..100)] {
        let (web, mut told) = (Web::new(&Authority::new()), Vec::new());
        for number in 1..=8 {
            let device = web.server.subscribe();
            web.server.answer_with(&device.token, [Answer::Status(429, Some(600))]);
            // Its call lives on, untried.
            let (service, target) = (web.service.clone(), device.push_target());
            told.push(tokio::spawn(async move { service.deliver(APP, &target, &call(number)).await }));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(web.server.requests(), 8);
        let push = if is_call { call(9) } else { alert() };
        let push = Push { deadline: push.sent_at + 30, ..push };
        let delivery = web.service.deliver(APP, &web.server.subscribe().push_target(), &push).await;
        assert_eq!(delivery.verdict, Verdict::Accepted);
        let waited = delivery.elapsed.as_millis();
        assert!(waits.contains(&waited), "{waited} ms");
        for call in told {
            let delivery = call.await.expect("no panic");
            assert!(matches!(delivery.verdict, Verdict::Retry { .. }) && delivery.attempts == 1, "{delivery:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn strangers_who_are_told_to_wait_without_a_time_delay_no_call_of_another_subscription() {
    let web = Web::new(&Authority::new());
    let device = web.server.subscribe();
    let strangers: Vec<_> = (0..20)
        .map(|number| {
            let stranger = web.server.subscribe();
            web.server.answer_with(&stranger.token, std::iter::repeat_n(Answer::Status(429, None), 1_000));
            let (service, target) = (web.service.clone(), stranger.push_target());
            tokio::spawn(async move { service.deliver(APP, &target, &call(100 + number)).await })
        })
        .collect();
    for number in 0..25 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let delivery = web.service.deliver(APP, &device.push_target(), &call(number)).await;
        assert_eq!(delivery.verdict, Verdict::Accepted);
        assert!(delivery.elapsed < Duration::from_millis(100), "call {number}: {:?}", delivery.elapsed);
    }
    for stranger in strangers {
        assert!(stranger.await.is_ok_and(|delivery| matches!(delivery.verdict, Verdict::Retry { .. })));
    }
    let asked = web.server.requests() - 25;
    assert!((20 * 4..20 * 16).contains(&asked), "each asks again, and seldom: {asked}");
}

#[tokio::test(start_paused = true)]
async fn strangers_services_that_are_away_or_ask_to_wait_cost_no_other_its_pushes_and_say_nothing_of_the_app() {
    let authority = Authority::new();
    let web = Web::new(&authority);
    let (here, there) = (web.server.subscribe(), WebPush::start_within(&web.net, &authority));
    let ring = async |target: PushTarget, number| web.service.deliver(APP, &target, &call(number)).await.verdict;
    assert_eq!(ring(here.push_target(), 1).await, Verdict::Accepted);
    let busy = WebPush::start_within(&web.net, &authority);
    let stranger = busy.subscribe();
    busy.answer_all(Some(Answer::Status(503, Some(60))));
    for number in 2..5 {
        assert!(matches!(ring(stranger.push_target(), number).await, Verdict::Retry { .. }));
    }
    // More of them than are known, all of which alerts wait for.
    let waiting: Vec<_> = (0..1_100)
        .map(|number| {
            let token = PushToken::new(&format!("https://push{number}.example:7777/x"));
            let (service, target) = (web.service.clone(), PushTarget { token, ..here.push_target() });
            let alert = Push { deadline: alert().sent_at + 3_600, ..alert() };
            tokio::spawn(async move { service.deliver(APP, &target, &alert).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let connections = web.server.connections();
    assert_eq!(ring(there.subscribe().push_target(), 10).await, Verdict::Accepted);
    assert_eq!(ring(here.push_target(), 11).await, Verdict::Accepted);
    assert_eq!(web.server.connections(), connections, "its connection has stayed");
    assert_eq!(web.service.health()[0].state, State::Well);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
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

/// An app whose devices are at a service on this port of loopback.
pub(super) async fn lone(authority: &Authority, port: u16) -> (PushService, PushTarget) {
    let push_server = WebPush::start(authority).await;
    let app = AppPush { webpush: Some(push_server.settings()), ..AppPush::default() };
    let service = PushService::new(system(), vec![(APP.into(), app)], &Metrics::new()).expect("the settings are good");
    let token = PushToken::new(&format!("https://localhost:{port}/x"));
    (service, PushTarget { token, ..push_server.subscribe().push_target() })
}

#[tokio::test]
async fn a_service_that_sends_without_end_is_cut_off() {
    let authority = Authority::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let (service, target) = lone(&authority, listener.local_addr().expect("an address").port()).await;
    let tls = TlsAcceptor::from(authority.server_config(&["localhost"], &[b"h2"]));
    let (told, mut cut) = tokio::sync::mpsc::unbounded_channel();
    let serving = tokio::spawn(async move {
        let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let window_update = [0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let unknown = [0, 0, 0, 0xee, 0, 0, 0, 0, 0];
        let floods = [&ping[..], &window_update, &settings, &unknown];
        for flood in floods.iter().cycle() {
            let Ok((tcp, _)) = listener.accept().await else { continue };
            let Ok(stream) = tls.accept(tcp).await else { continue };
            let (mut hears, mut says) = tokio::io::split(stream);
            let hearing =
                tokio::spawn(async move { while hears.read(&mut [0; 4_096]).await.is_ok_and(|read| read > 0) {} });
            let _ = says.write_all(&settings).await;
            while says.write_all(&flood.repeat(100)).await.is_ok() {}
            hearing.abort();
            let _ = told.send(());
        }
    });
    let rings = service.clone();
    let ringing = tokio::spawn(async move { rings.deliver(APP, &target, &call(1)).await });
    for _ in 0..2 {
        tokio::time::timeout(Duration::from_secs(60), cut.recv()).await.expect("it is cut off");
    }
    let delivery = ringing.await.expect("a delivery does not panic");
    assert_ne!(delivery.verdict, Verdict::Accepted);
    // Its end would have ended the connections, too.
    drop(service);
    serving.abort();
}

/// A device whose subscription is not believed to be gone, for other nodes have believed enough.
#[derive(Default)]
struct Doubted(AtomicU32);

impl Recipient for Doubted {
    fn stays(&self) -> StaysFuture<'_> {
        Box::pin(async { true })
    }

    fn is_gone(&self) -> IsGoneFuture<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Some(false) })
    }
}

/// A device of which nobody can say so now.
#[derive(Default)]
struct Unjudged(AtomicU32);

impl Recipient for Unjudged {
    fn stays(&self) -> StaysFuture<'_> {
        Box::pin(async { true })
    }

    fn is_gone(&self) -> IsGoneFuture<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { None })
    }
}

#[tokio::test(start_paused = true)]
async fn a_404_that_cannot_be_judged_wipes_nobody_is_no_fault_of_the_service_and_the_next_one_is_judged() {
    let web = Web::new(&Authority::new());
    let (unjudged, device) = (Unjudged::default(), web.server.subscribe());
    assert_eq!(web.service.deliver(APP, &device.push_target(), &call(1)).await.verdict, Verdict::Accepted);
    let not_found = || Answer::Status(404, None);
    web.server.answer_with(&device.token, [not_found(), not_found(), not_found()]);
    let (push, target) = (call(2), device.push_target());
    let until = push.made_at + Duration::from_secs(30);
    for _ in 0..2 {
        let (it, departure) = (&web.service, Departure::unmeasured());
        let delivery = it.deliver_measured(APP, &target, &push, until, &departure, &unjudged).await;
        assert!(!matches!(delivery.verdict, Verdict::Accepted | Verdict::Gone { .. }), "{delivery:?}");
        assert_eq!(it.health()[0].state, State::Well);
    }
    assert_eq!(unjudged.0.load(Ordering::Relaxed), 2);
    let delivery = web.service.deliver(APP, &target, &call(3)).await;
    assert!(matches!(delivery.verdict, Verdict::Gone { .. }), "{delivery:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_a_device_has_chosen_has_one_connection_however_few_streams_it_allows() {
    let web = Web::new(&Authority::new());
    web.server.allow_streams(1);
    let devices: Vec<_> = (0..6).map(|_| web.server.subscribe()).collect();
    assert_eq!(web.service.deliver(APP, &devices[0].push_target(), &call(1)).await.verdict, Verdict::Accepted);
    let began = Instant::now();
    let calls = devices.into_iter().zip(2..).map(|(device, number)| {
        web.server.answer_with(&device.token, [Answer::Slow(Duration::from_millis(600))]);
        let (service, target) = (web.service.clone(), device.push_target());
        tokio::spawn(async move { service.deliver(APP, &target, &call(number)).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.expect("no panic").verdict, Verdict::Accepted);
    }
    assert!(began.elapsed() >= Duration::from_millis(3_600), "one after the other: {:?}", began.elapsed());
    assert_eq!(web.server.connections(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_many_devices_have_chosen_has_further_connections_for_calls_that_wait_for_a_stream() {
    let web = Web::new(&Authority::new());
    web.server.allow_streams(1);
    let devices: Vec<_> = (0..8).map(|_| web.server.subscribe()).collect();
    for (device, number) in devices.iter().zip(1..) {
        assert_eq!(web.service.deliver(APP, &device.push_target(), &call(number)).await.verdict, Verdict::Accepted);
    }
    assert_eq!(web.server.connections(), 1);
    let began = Instant::now();
    let calls = devices.into_iter().zip(101..).map(|(device, number)| {
        web.server.answer_with(&device.token, [Answer::Slow(Duration::from_millis(1_500))]);
        let (service, target) = (web.service.clone(), device.push_target());
        tokio::spawn(async move { service.deliver(APP, &target, &call(number)).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.expect("no panic").verdict, Verdict::Accepted);
    }
    assert!(began.elapsed() < Duration::from_secs(7), "eight of 1.5 s each: {:?}", began.elapsed());
    assert!((2..=4).contains(&web.server.connections()), "{}", web.server.connections());
}

#[tokio::test(start_paused = true)]
async fn a_404_that_other_nodes_have_believed_often_enough_wipes_nobody() {
    let web = Web::new(&Authority::new());
    let (doubted, devices) = (Doubted::default(), [web.server.subscribe(), web.server.subscribe()]);
    for device in &devices {
        web.server.answer_with(&device.token, [Answer::Status(404, None), Answer::Status(404, None)]);
    }
    let deliver = async |push: Push, device: usize| {
        let (target, until) = (devices[device].push_target(), push.made_at + Duration::from_secs(30));
        web.service.deliver_measured(APP, &target, &push, until, &Departure::unmeasured(), &doubted).await.verdict
    };
    for device in 0..2 {
        assert_eq!(deliver(call(1), device).await, Verdict::Refused { reason: "ManyNotFound" });
    }
    assert_eq!(doubted.0.load(Ordering::Relaxed), 1, "what is doubted here already is asked of nobody");
    assert_eq!(
        deliver(Push { made_at: relay::clock::now(), ..alert() }, 0).await,
        Verdict::Accepted,
        "it is tried again"
    );
}
