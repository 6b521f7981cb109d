//! Push delivery, from the relay's `PushService` over real TLS and HTTP/2 to stand-ins that check what Apple and
//! Google check.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use relay::config::ApnsCredentials;
use relay::metrics::Metrics;
use relay::push::{
    AppPush, Delivery, Departure, Event, Problem, Push, PushService, Recipient, StaysFuture, Verdict, check,
};
use relay::vault::record::{Provider, PushTarget};
use sip::id::{CallId, InstanceId, ShardTag};
use tests::apns::{self, Apns};
use tests::authority::Authority;
use tests::fcm::{self, Fcm, TokenAnswer};
use tests::push_services::{PushServices, system};

use crate::push_targets::*;

const APP: &str = apns::BUNDLE;
const SOON: Duration = Duration::from_secs(20);

async fn ring(services: &PushServices, target: &PushTarget) -> Delivery {
    services.service.deliver(APP, target, &call(1, 20)).await
}

fn assert_clean(services: &PushServices) {
    assert_eq!(services.violations(), Vec::<String>::new());
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn push(event: Event, seconds: u64) -> Push {
    Push {
        event,
        instance: InstanceId::new(1 << 20, ShardTag(1)),
        call: None,
        from: Some("sip:bob@example.com".into()),
        name: Some("Bob".into()),
        edge: "relay1.example.net:5061".into(),
        sent_at: now(),
        deadline: now() + seconds,
        made_at: relay::clock::now(),
        extra: Vec::new(),
    }
}

/// The call number `number`, which may be delivered for so many seconds.
fn call(number: u32, seconds: u64) -> Push {
    Push { call: Some(CallId::new(u128::from(number) << 20, ShardTag(1))), ..push(Event::Call, seconds) }
}

#[tokio::test]
async fn a_call_reaches_apns_as_one_voip_push_of_the_contract() {
    let services = PushServices::start().await;
    let push = call(1, 30);
    let delivery = services.service.deliver(APP, &apple(1), &push).await;
    assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 1));
    let received = services.apns.next_push(SOON).await.expect("it arrives");
    assert_eq!(received.token, apple_token(1));
    assert_eq!((received.topic.as_str(), received.push_type.as_str()), ("com.example.phone.voip", "voip"));
    assert_eq!((received.priority, received.expiration), (10, 0));
    let object = serde_json::json!({
        "v": 1, "event": "call", "instance": push.instance.to_string(), "call": push.call.unwrap().to_string(),
        "from": "sip:bob@example.com", "name": "Bob", "edge": "relay1.example.net:5061",
        "sent_at": push.sent_at, "deadline": push.deadline,
    });
    assert_eq!(received.payload, serde_json::json!({"aps": {}, "sipwake": object}));
    assert_clean(&services);
}

#[tokio::test]
async fn whatever_is_no_call_is_an_alert_and_a_renewal_is_silent() {
    let services = PushServices::start().await;
    let alerts = [Event::Message, Event::Voicemail, Event::MissedCall, Event::Expiring, Event::Expired, Event::Test];
    for event in alerts.into_iter().chain([Event::RegistrationLost, Event::Renew]) {
        let push = push(event, 60);
        let sandbox = target(Provider::ApnsSandbox, &apple_token(2));
        assert_eq!(services.service.deliver(APP, &sandbox, &push).await.verdict, Verdict::Accepted, "{event:?}");
        let received = services.apns.next_push(SOON).await.expect("it arrives");
        let expected = if event == Event::Renew { ("background", 5) } else { ("alert", 10) };
        assert_eq!((received.push_type.as_str(), received.priority), expected, "{event:?}");
        assert_eq!((received.topic.as_str(), received.expiration), (APP, push.deadline));
    }
    let ended = services.service.deliver(APP, &apple(2), &push(Event::CallEnded, 60)).await;
    assert!(matches!(ended.verdict, Verdict::Refused { .. }), "never on APNs");
    assert_eq!(ended.attempts, 0);
    assert_clean(&services);
}

#[tokio::test]
async fn a_call_reaches_fcm_at_high_priority_and_the_rest_at_normal() {
    let services = PushServices::start().await;
    for (event, priority, ttl) in
        [(Event::Call, "HIGH", "0s"), (Event::CallEnded, "NORMAL", "30s"), (Event::Test, "NORMAL", "30s")]
    {
        let mut push = Push { event, ..call(1, 30) };
        push.deadline = push.sent_at + 30;
        assert_eq!(services.service.deliver(APP, &google(1), &push).await.verdict, Verdict::Accepted);
        let received = services.fcm.next_push(SOON).await.expect("it arrives");
        assert_eq!((received.priority.as_str(), received.ttl.as_str()), (priority, ttl));
        assert_eq!(received.payload["event"], event.name());
        assert_eq!(received.payload["instance"], push.instance.to_string());
    }
    assert_clean(&services);
}

#[tokio::test]
async fn each_answer_of_apns_has_its_verdict() {
    use apns::Answer;
    let refused = |reason| Verdict::Refused { reason };
    let cases = [
        (Answer::Gone { timestamp: 1_795_000_000_123 }, Verdict::Gone { since: Some(1_795_000_000_123) }),
        (Answer::BadDeviceToken, Verdict::BadToken),
        (Answer::DeviceTokenNotForTopic, refused("DeviceTokenNotForTopic")),
        (Answer::InvalidProviderToken, refused("InvalidProviderToken")),
        (Answer::Error { status: 400, reason: "SomethingNew" }, refused("OtherReason")),
        (Answer::Error { status: 413, reason: "PayloadTooLarge" }, refused("PayloadTooLarge")),
        (Answer::TooManyRequests { retry_after: Some(600) }, Verdict::Retry { after: Some(Duration::from_secs(600)) }),
        // It rests, and a call asks again before that is over.
        (Answer::Unavailable { retry_after: Some(60) }, Verdict::Accepted),
    ];
    for (number, (answer, verdict)) in (1..).zip(cases) {
        let (services, said) = (PushServices::start().await, format!("{answer:?}"));
        services.apns.answer_with(&apple_token(number), [answer]);
        // Of a call that is asked to wait for longer than it lives, the verdict comes at its end.
        let seconds = if matches!(verdict, Verdict::Retry { .. }) { 2 } else { 30 };
        let delivery = services.service.deliver(APP, &apple(number), &call(number, seconds)).await;
        let attempts = if verdict == Verdict::Accepted { 2 } else { 1 };
        assert_eq!(services.apns.count(), u64::from(verdict == Verdict::Accepted), "{said}");
        assert_eq!((delivery.verdict, delivery.attempts), (verdict, attempts), "{said}");
        assert_clean(&services);
    }
}

#[tokio::test]
async fn each_answer_of_fcm_has_its_verdict() {
    use fcm::Answer;
    let refused = |reason| Verdict::Refused { reason };
    let cases = [
        (Answer::Unregistered, Verdict::Gone { since: None }),
        (Answer::SenderIdMismatch, refused("SENDER_ID_MISMATCH")),
        (Answer::ThirdPartyAuthError, refused("THIRD_PARTY_AUTH_ERROR")),
        (Answer::InvalidArgument, refused("INVALID_ARGUMENT")),
        (Answer::InvalidToken, refused("InvalidToken")),
        (Answer::QuotaExceeded { retry_after: Some(60) }, Verdict::Accepted),
        (Answer::Unavailable { retry_after: Some(60) }, Verdict::Accepted),
    ];
    for (number, (answer, verdict)) in (1..).zip(cases) {
        let (services, said) = (PushServices::start().await, format!("{answer:?}"));
        services.fcm.answer_with(&google_token(number), [answer]);
        let delivery = ring(&services, &google(number)).await;
        let attempts = if verdict == Verdict::Accepted { 2 } else { 1 };
        assert_eq!((delivery.verdict, delivery.attempts), (verdict, attempts), "{said}");
        assert_clean(&services);
    }
    let services = PushServices::start().await;
    for answer in
        [Answer::Internal, Answer::BadGateway, Answer::QuotaExceeded { retry_after: None }, Answer::RefusedStream]
    {
        let said = format!("{answer:?}");
        services.fcm.answer_with(&google_token(100), [answer]);
        let delivery = ring(&services, &google(100)).await;
        assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 2), "{said}: tried again");
    }
    assert_clean(&services);
}

#[tokio::test]
async fn a_stale_410_does_not_kill_a_token_that_was_confirmed_since() {
    let gone = Verdict::Gone { since: Some(1_000) };
    assert!(gone.token_is_dead(999) && gone.token_is_dead(1_000) && !gone.token_is_dead(1_001));
    assert!(Verdict::Gone { since: None }.token_is_dead(u64::MAX));
    assert!(!Verdict::Accepted.token_is_dead(0));
}

#[tokio::test]
async fn a_call_left_out_by_a_goaway_is_sent_once_more_on_a_fresh_connection() {
    let services = PushServices::start().await;
    assert_eq!(ring(&services, &apple(1)).await.verdict, Verdict::Accepted);
    services.apns.answer_with(&apple_token(2), [apns::Answer::GoAway]);
    let delivery = services.service.deliver(APP, &apple(2), &call(2, 20)).await;
    assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 1));
    assert!(delivery.elapsed < Duration::from_secs(2), "at once: {:?}", delivery.elapsed);
    assert_eq!((services.apns.connections(), services.apns.count(), services.apns.requests()), (2, 2, 3));
    assert_clean(&services);
}

#[tokio::test]
async fn a_refused_stream_was_not_processed_and_is_sent_again() {
    let services = PushServices::start().await;
    services.apns.answer_with(&apple_token(1), [apns::Answer::RefusedStream]);
    let delivery = ring(&services, &apple(1)).await;
    assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 2));
    assert_eq!(services.apns.connections(), 1);
    assert_clean(&services);
}

#[tokio::test]
async fn a_call_that_apns_may_have_taken_is_never_pushed_again() {
    let services = PushServices::start().await;
    services.apns.answer_with(&apple_token(1), [apns::Answer::ConnectionLost]);
    let lost = services.service.deliver(APP, &apple(1), &call(1, 20)).await;
    assert_eq!((lost.verdict, lost.attempts), (Verdict::Unconfirmed, 1));
    services.apns.answer_with(&apple_token(2), [apns::Answer::Stall]);
    let silent = services.service.deliver(APP, &apple(2), &call(2, 2)).await;
    assert_eq!((silent.verdict, silent.attempts), (Verdict::Unconfirmed, 1));
    assert!(silent.elapsed < Duration::from_secs(3), "no longer than its deadline: {:?}", silent.elapsed);
    // Were one of them sent again, it would be among these.
    assert_eq!(services.service.deliver(APP, &apple(3), &call(3, 20)).await.verdict, Verdict::Accepted);
    assert_eq!((services.apns.requests(), services.apns.count()), (3, 2));
    assert_clean(&services);
}

/// A device that has another token by now.
struct Moved;

impl Recipient for Moved {
    fn stays(&self) -> StaysFuture<'_> {
        Box::pin(async { false })
    }
}

#[tokio::test]
async fn a_call_that_apns_has_certainly_not_taken_is_no_copy_for_a_device_that_is_pushed_to_elsewhere() {
    let services = PushServices::start().await;
    services.apns.answer_with(&apple_token(1), [apns::Answer::Unavailable { retry_after: None }]);
    let (departure, until, call) =
        (Departure::unmeasured(), relay::clock::now() + Duration::from_secs(20), call(1, 20));
    let delivery = services.service.deliver_measured(apns::BUNDLE, &apple(1), &call, until, &departure, &Moved).await;
    assert_eq!((delivery.verdict, delivery.attempts, delivery.copies), (Verdict::Moved, 1, 0));
    assert_clean(&services);
}

#[tokio::test]
async fn an_alert_that_was_lost_on_the_way_is_sent_again_under_the_same_id() {
    let services = PushServices::start().await;
    services.apns.answer_with(&apple_token(1), [apns::Answer::ConnectionLost]);
    let delivery = services.service.deliver(APP, &apple(1), &push(Event::Message, 20)).await;
    assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 2));
    let pushes = services.apns.pushes();
    assert_eq!(pushes.len(), 2);
    assert_eq!(pushes[0].apns_id, pushes[1].apns_id);
    assert_clean(&services);
}

#[tokio::test]
async fn an_alert_is_sent_three_times_at_most_where_each_may_have_been_taken_and_shown_once() {
    let services = PushServices::start().await;
    services.apns.answer_with(&apple_token(1), std::iter::repeat_n(apns::Answer::ConnectionLost, 10));
    let message = Push { extra: vec![("message", "m_1".into())], ..push(Event::Message, 3_600) };
    let delivery = services.service.deliver(APP, &apple(1), &message).await;
    assert_eq!((delivery.verdict, delivery.attempts, delivery.copies), (Verdict::Unconfirmed, 3, 3));
    let pushes = services.apns.pushes();
    assert!(pushes.len() == 3 && pushes.iter().all(|push| push.collapse_id.is_some()), "{pushes:?}");
    assert!(pushes.iter().all(|push| push.collapse_id == pushes[0].collapse_id), "{pushes:?}");
    let other = Push { extra: vec![("message", "m_2".into())], ..push(Event::Message, 3_600) };
    assert_eq!(services.service.deliver(APP, &apple(2), &other).await.verdict, Verdict::Accepted);
    assert_eq!(services.service.deliver(APP, &apple(2), &call(1, 20)).await.verdict, Verdict::Accepted);
    let ids: Vec<_> = services.apns.pushes()[3..].iter().map(|push| push.collapse_id.clone()).collect();
    assert!(ids[0].is_some() && ids[0] != pushes[0].collapse_id && ids[1].is_none(), "{ids:?}");
    assert_clean(&services);
}

#[tokio::test]
async fn a_silent_apns_delays_neither_fcm_nor_another_app() {
    let authority = Authority::new();
    let (silent, other, google_service) = (
        Apns::start(&authority).await,
        Apns::start_for(&authority, "com.example.other").await,
        Fcm::start(&authority).await,
    );
    silent.answer_all(Some(apns::Answer::Stall));
    let service = PushService::new(
        system(),
        vec![
            (
                APP.into(),
                AppPush { apns: Some(silent.settings()), fcm: Some(google_service.settings()), ..AppPush::default() },
            ),
            ("com.example.other".into(), AppPush { apns: Some(other.settings()), fcm: None, ..AppPush::default() }),
        ],
        &Metrics::new(),
    )
    .unwrap();
    let stuck: Vec<_> = (1..=50)
        .map(|number| {
            let service = service.clone();
            tokio::spawn(async move { service.deliver(APP, &apple(number), &call(number, 4)).await })
        })
        .collect();
    assert!(silent.wait_for_requests(1, SOON).await);
    let started = Instant::now();
    let to_google = service.deliver(APP, &google(1), &call(60, 20)).await;
    let to_other = service.deliver("com.example.other", &apple(1), &call(61, 20)).await;
    assert_eq!((to_google.verdict, to_other.verdict), (Verdict::Accepted, Verdict::Accepted));
    assert!(started.elapsed() < Duration::from_millis(3_500), "{:?}", started.elapsed());
    for one in stuck {
        let delivery = one.await.unwrap();
        assert!(delivery.elapsed < Duration::from_secs(6), "ended by its deadline: {:?}", delivery.elapsed);
        // What has not left ends as what may be tried again, right before its deadline.
        let is_untaken = matches!(delivery.verdict, Verdict::Unconfirmed | Verdict::TooLate | Verdict::Retry { .. });
        assert!(is_untaken, "{:?}", delivery.verdict);
    }
    assert_eq!(silent.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_stalled_error_body_is_judged_by_its_status() {
    let services = PushServices::start().await;
    for (number, status, verdict) in [
        (1, 410, Verdict::Refused { reason: "GoneWithoutReason" }),
        (2, 400, Verdict::Refused { reason: "OtherReason" }),
    ] {
        services.apns.answer_with(&apple_token(number), [apns::Answer::StalledErrorBody { status }]);
        let delivery = ring(&services, &apple(number)).await;
        assert_eq!(delivery.verdict, verdict);
        assert!(delivery.elapsed < Duration::from_secs(4), "{:?}", delivery.elapsed);
    }
    services.fcm.answer_with(&google_token(1), [fcm::Answer::StalledErrorBody { status: 503 }]);
    let delivery = ring(&services, &google(1)).await;
    assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 2));
    assert_clean(&services);
}

#[tokio::test]
async fn a_push_is_tried_again_within_its_deadline_and_never_after() {
    let services = PushServices::start().await;
    services
        .apns
        .answer_with(&apple_token(1), [apns::Answer::ServerError, apns::Answer::Unavailable { retry_after: Some(1) }]);
    let delivery = ring(&services, &apple(1)).await;
    assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 3));
    assert!(delivery.elapsed >= Duration::from_secs(1), "Retry-After is honoured: {:?}", delivery.elapsed);

    services.fcm.answer_all(Some(fcm::Answer::Unavailable { retry_after: None }));
    let push = call(2, 3);
    let delivery = services.service.deliver(APP, &google(2), &push).await;
    assert!(matches!(delivery.verdict, Verdict::Retry { .. } | Verdict::TooLate), "{:?}", delivery.verdict);
    assert!(delivery.attempts >= 3, "{}", delivery.attempts);
    assert!(now() <= push.deadline, "it does not outlive its deadline");
    assert_eq!(services.fcm.requests(), u64::from(delivery.attempts));

    let late = Push { deadline: now() - 1, ..call(3, 0) };
    for target in [apple(3), google(3)] {
        let delivery = services.service.deliver(APP, &target, &late).await;
        assert_eq!((delivery.verdict, delivery.attempts), (Verdict::TooLate, 0));
    }
    assert_eq!(services.fcm.requests(), u64::from(delivery.attempts), "nothing more was sent");
    assert_clean(&services);
}

#[tokio::test]
async fn a_push_is_judged_by_how_long_ago_it_was_made_whatever_the_systems_clock_says() {
    let services = PushServices::start().await;
    for (number, (device, target)) in (1..).zip([apple, google].iter().flat_map(|target| [(1, target), (2, target)])) {
        let sent_at = if device == 1 { now() - 86_400 } else { now() + 86_400 };
        let push = Push { sent_at, deadline: sent_at + 20, ..call(number, 20) };
        let delivery = services.service.deliver(APP, &target(device), &push).await;
        assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 1), "{number}");
    }
    let old = Push { made_at: relay::clock::now() - Duration::from_secs(20), ..call(9, 20) };
    let delivery = services.service.deliver(APP, &google(3), &old).await;
    assert_eq!((delivery.verdict, delivery.attempts), (Verdict::TooLate, 0));
    assert_clean(&services);
}

#[tokio::test]
async fn a_hostile_display_name_reaches_the_phone_as_harmless_json() {
    let services = PushServices::start().await;
    let names = ["\"},\"event\":\"test\",\"x\":{\"", "Bob\0\r\nX: y\u{202e}", "🦀\"\\".repeat(9_000).leak(), "\u{7}"];
    for (number, name) in (1..).zip(names) {
        let push = Push { name: Some((*name).into()), from: Some(format!("sip:{name}").into()), ..call(number, 20) };
        for target in [apple(number), google(number)] {
            assert_eq!(services.service.deliver(APP, &target, &push).await.verdict, Verdict::Accepted, "{number}");
        }
        let on_apns = &services.apns.next_push(SOON).await.unwrap().payload["sipwake"];
        let on_fcm = &services.fcm.next_push(SOON).await.unwrap().payload;
        for object in [on_apns, on_fcm] {
            assert_eq!((&object["event"], &object["v"]), (&"call".into(), &1.into()));
            assert!(object.get("x").is_none());
            let shown = format!("{}{}", object["name"].as_str().unwrap_or(""), object["from"].as_str().unwrap());
            assert!(!shown.chars().any(|c| c.is_control() || c == '\u{202e}'), "{shown:?}");
        }
    }
    assert_clean(&services);
}

#[tokio::test]
async fn an_expired_provider_token_is_signed_anew_once() {
    let services = PushServices::start().await;
    assert_eq!(ring(&services, &apple(1)).await.verdict, Verdict::Accepted);
    let first = services.apns.next_push(SOON).await.unwrap().provider_token;
    services.apns.answer_with(&apple_token(2), [apns::Answer::ExpiredProviderToken]);
    let delivery = services.service.deliver(APP, &apple(2), &call(2, 20)).await;
    assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 1));
    let second = services.apns.next_push(SOON).await.unwrap().provider_token;
    assert_ne!(first, second);
    // Apple refuses a key whose token changes too often: no third one within 20 minutes.
    services.apns.answer_with(&apple_token(3), [apns::Answer::ExpiredProviderToken]);
    let delivery = services.service.deliver(APP, &apple(3), &call(3, 20)).await;
    assert_eq!(delivery.verdict, Verdict::Refused { reason: "ExpiredProviderToken" });
    assert_eq!(ring(&services, &apple(4)).await.verdict, Verdict::Accepted);
    assert_eq!(services.apns.next_push(SOON).await.unwrap().provider_token, second);
}

#[tokio::test]
async fn fifty_messages_at_once_exchange_one_assertion() {
    let services = PushServices::start().await;
    services.fcm.answer_token_with([TokenAnswer::Slow(Duration::from_millis(100))]);
    deliver_all(&services.service, 50, google).await;
    assert_eq!((services.fcm.count(), services.fcm.token_requests()), (50, 1));
    assert_eq!(services.fcm.connections(), 2, "one for messages, one for the token endpoint");
    assert_clean(&services);
}

#[tokio::test]
async fn fifty_calls_on_a_cold_service_share_one_connection_and_wait_for_the_first_token() {
    let services = PushServices::start().await;
    services.apns.answer_with(&apple_token(1), [apns::Answer::Slow(Duration::from_millis(50))]);
    deliver_all(&services.service, 50, apple).await;
    assert_eq!((services.apns.count(), services.apns.connections()), (50, 1));
    let pushes = services.apns.pushes();
    assert!(pushes.iter().all(|push| push.provider_token == pushes[0].provider_token), "one token for all");
    assert_clean(&services);
}

async fn deliver_all(service: &PushService, count: u32, target: fn(u32) -> PushTarget) {
    let deliveries: Vec<_> = (1..=count)
        .map(|number| {
            let service = service.clone();
            tokio::spawn(async move { service.deliver(APP, &target(number), &call(number, 20)).await })
        })
        .collect();
    for delivery in deliveries {
        assert_eq!(delivery.await.unwrap().verdict, Verdict::Accepted);
    }
}

#[tokio::test]
async fn an_access_token_that_is_no_longer_taken_is_replaced_once() {
    let services = PushServices::start().await;
    assert_eq!(ring(&services, &google(1)).await.verdict, Verdict::Accepted);
    services.fcm.revoke_tokens();
    let delivery = ring(&services, &google(1)).await;
    assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 1));
    assert_eq!(services.fcm.token_requests(), 2);
    // One that is refused although it was just made grounds the channel for a while, and is not replaced.
    services.fcm.answer_with(&google_token(1), [fcm::Answer::Unauthenticated, fcm::Answer::Unauthenticated]);
    let delivery = ring(&services, &google(1)).await;
    assert_eq!((delivery.verdict, delivery.attempts, services.fcm.token_requests()), (Verdict::Accepted, 3, 2));
    assert!(delivery.elapsed >= Duration::from_millis(500), "{:?}", delivery.elapsed);
    assert_clean(&services);
}

#[tokio::test]
async fn an_access_token_is_renewed_before_it_ends() {
    let services = PushServices::start().await;
    services.fcm.token_life(5);
    let started = Instant::now();
    let mut number = 0;
    // At 80 % of five seconds: messages go on without a pause while the second token is fetched.
    while services.fcm.token_requests() < 2 {
        assert!(started.elapsed() < SOON, "no second exchange before the end of the first token");
        number += 1;
        let delivery = services.service.deliver(APP, &google(number), &call(number, 20)).await;
        assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 1));
    }
    assert!(started.elapsed() >= Duration::from_secs(4), "{:?}", started.elapsed());
    assert_clean(&services);
}

#[tokio::test]
async fn a_busy_token_endpoint_is_tried_again_and_a_revoked_key_is_not() {
    let services = PushServices::start().await;
    services.fcm.answer_token_with([TokenAnswer::Unavailable]);
    let delivery = ring(&services, &google(1)).await;
    assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 2));
    services.fcm.revoke_tokens();
    services.fcm.answer_token_with([TokenAnswer::InvalidGrant]);
    assert_eq!(ring(&services, &google(2)).await.verdict, Verdict::Refused { reason: "ServiceAccountRefused" });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_is_lost_or_doubled_while_the_service_closes_its_connections() {
    let services = PushServices::start().await;
    let gate = Arc::new(tokio::sync::Semaphore::new(64));
    let mut deliveries = Vec::new();
    for number in 1..=2_000 {
        let permit = Arc::clone(&gate).acquire_owned().await.unwrap();
        if number % 100 == 0 {
            services.apns.drain();
        }
        let service = services.service.clone();
        deliveries.push(tokio::spawn(async move {
            let delivery = service.deliver(APP, &apple(number), &call(number, 20)).await;
            drop(permit);
            delivery.verdict
        }));
    }
    for delivery in deliveries {
        assert_eq!(delivery.await.unwrap(), Verdict::Accepted);
    }
    assert_eq!(services.apns.count(), 2_000);
    assert!(services.apns.connections() > 5, "{}", services.apns.connections());
    assert_clean(&services);
}

#[tokio::test]
async fn a_service_with_another_name_or_authority_gets_nothing() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let apns = Apns::start(&theirs).await;
    let settings = relay::push::apns::Settings { ca_file: Some(ours.ca_file()), ..apns.settings() };
    let service = PushService::new(
        system(),
        vec![(APP.into(), AppPush { apns: Some(settings), fcm: None, ..AppPush::default() })],
        &Metrics::new(),
    )
    .unwrap();
    let delivery = service.deliver(APP, &apple(1), &call(1, 2)).await;
    assert!(matches!(delivery.verdict, Verdict::Retry { .. } | Verdict::TooLate), "{:?}", delivery.verdict);
    assert_eq!((apns.requests(), apns.connections()), (0, 0));
}

#[tokio::test]
async fn what_has_no_way_is_refused_without_a_try() {
    let services = PushServices::start().await;
    let refused = |reason| (Verdict::Refused { reason }, 0);
    let outcome = |delivery: Delivery| (delivery.verdict, delivery.attempts);
    assert_eq!(
        outcome(services.service.deliver("com.example.none", &apple(1), &call(1, 9)).await),
        refused("UnknownApp")
    );
    let bare = PushService::new(system(), vec![(APP.into(), AppPush::default())], &Metrics::new()).unwrap();
    assert_eq!(outcome(bare.deliver(APP, &google(1), &call(1, 9)).await), refused("ServiceNotConfigured"));
    for token in ["../../1/x".to_owned(), "zz".repeat(40), String::new(), "a".repeat(64) + "?x"] {
        let target = target(Provider::ApnsProduction, &token);
        assert_eq!(outcome(ring(&services, &target).await), (Verdict::Gone { since: None }, 0), "{token}");
    }
    assert_eq!(services.apns.requests(), 0);
    let printed = PushService::printed().deliver("any", &apple(1), &call(1, 9)).await;
    assert_eq!(printed.verdict, Verdict::Accepted);
}

#[tokio::test]
async fn the_stand_in_objects_to_what_apple_objects_to() {
    let authority = Authority::new();
    let apns = Apns::start(&authority).await;
    let refused = |reason| Verdict::Refused { reason };
    let key = |key_file, key_id: &str, team_id: &str| {
        let credentials = ApnsCredentials::Key { key_file, key_id: key_id.into(), team_id: team_id.into() };
        relay::push::apns::Settings { credentials, ..apns.settings() }
    };
    let foreign = key(apns.key_file(), apns::KEY_ID, "OTHER12345");
    let with = |app: &str, settings| {
        PushService::new(
            system(),
            vec![(app.into(), AppPush { apns: Some(settings), fcm: None, ..AppPush::default() })],
            &Metrics::new(),
        )
    };
    let delivery = with(APP, foreign).unwrap().deliver(APP, &apple(1), &call(1, 9)).await;
    assert_eq!(delivery.verdict, refused("InvalidProviderToken"));
    let other = "com.example.other";
    let delivery = with(other, apns.settings()).unwrap().deliver(other, &apple(1), &call(1, 9)).await;
    assert_eq!(delivery.verdict, refused("BadTopic"));
    let service = with(APP, apns.settings()).unwrap();
    for _ in 0..2 {
        assert_eq!(service.deliver(APP, &apple(1), &call(1, 9)).await.verdict, Verdict::Accepted);
    }
    let violations = apns.violations();
    assert_eq!(violations[..2], ["403 InvalidProviderToken", "400 BadTopic"]);
    assert!(violations[2].starts_with("a second VoIP push"), "{violations:?}");
    assert_eq!(violations.len(), 3);
}

#[tokio::test]
async fn a_check_names_what_is_wrong_with_a_key_and_never_repeats_it() {
    let authority = Authority::new();
    let (apns, fcm) = (Apns::start(&authority).await, Fcm::start(&authority).await);
    let good = AppPush { apns: Some(apns.settings()), fcm: Some(fcm.settings()), ..AppPush::default() };
    assert!(check(APP, &good).is_empty());

    let key = |key_file: std::path::PathBuf, key_id: &str| {
        let credentials = ApnsCredentials::Key { key_file, key_id: key_id.into(), team_id: apns::TEAM_ID.into() };
        relay::push::apns::Settings { credentials, ..apns.settings() }
    };
    let p8 = |text: &str| {
        let key_file = authority.write("wrong.p8", text);
        let settings = key(key_file, apns::KEY_ID);
        check(APP, &AppPush { apns: Some(settings), fcm: None, ..AppPush::default() })
    };
    let account = |text: &str| {
        let service_account_file = authority.write("wrong.json", text);
        let settings = relay::push::fcm::Settings { service_account_file, ..fcm.settings() };
        check(APP, &AppPush { apns: None, fcm: Some(settings), ..AppPush::default() })
    };
    let json: serde_json::Value = serde_json::from_str(fcm.service_account_json()).unwrap();
    let rsa = json["private_key"].as_str().unwrap();
    let middle = rsa.lines().nth(3).unwrap();
    let without = |member: &str| {
        let mut json = json.clone();
        json.as_object_mut().unwrap().remove(member);
        json.to_string()
    };
    let mut not_a_key = json.clone();
    not_a_key["private_key"] = rsa.replace(middle, &middle.to_lowercase()).into();
    let mut found = Vec::new();
    found.extend(p8(rsa));
    found.extend(p8(middle));
    found.extend(p8(""));
    found.extend(account(&fcm.service_account_json().replace("\"client_id\"", "client_id")));
    found.extend(account(middle));
    found.extend(account(&without("client_email")));
    found.extend(account(&without("private_key")));
    found.extend(account(&not_a_key.to_string()));
    let settings = key(apns.key_file(), "short");
    found.extend(check(APP, &AppPush { apns: Some(settings), fcm: None, ..AppPush::default() }));
    let settings = relay::push::apns::Settings { endpoint: Some("http://localhost".into()), ..apns.settings() };
    found.extend(check(APP, &AppPush { apns: Some(settings), fcm: None, ..AppPush::default() }));
    let settings = key("/nonexistent/key.p8".into(), apns::KEY_ID);
    found.extend(check(APP, &AppPush { apns: Some(settings), fcm: None, ..AppPush::default() }));

    assert_eq!(found.len(), 11, "{found:?}");
    assert!(matches!(found[0].problem, Problem::WrongKey { .. }));
    assert!(matches!(found[1].problem, Problem::NoKey { .. }));
    assert!(matches!(found[3].problem, Problem::NotJson { .. }));
    assert!(matches!(found[5].problem, Problem::Member { member: "client_email", .. }));
    assert!(matches!(found[10].problem, Problem::Unreadable { .. }));
    for error in &found {
        let text = format!("{error} {error:?}");
        assert!(text.contains(APP), "{text}");
        assert!(!text.contains(middle) && !text.contains(&middle.to_lowercase()), "{text}");
        assert!(!text.contains("PRIVATE KEY-----"), "{text}");
    }
}
