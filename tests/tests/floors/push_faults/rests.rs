//! Services that ask to be left alone, that take no credentials, and how the operator learns of it.

use std::time::Duration;

use relay::metrics::Metric;
use relay::metrics::reading::Reading;
use relay::push::{Departure, Event, Fixed, Push, State, Verdict};
use relay::vault::record::Provider;
use tests::apns::Answer;
use tests::authority::Authority;
use tests::fcm::{self, TokenAnswer};
use tokio::time::{Instant, sleep, timeout};

use super::{APP, Calls, World, apple, apple_token, call, google, google_token};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn accepted(deliveries: &[relay::push::Delivery]) -> usize {
    deliveries.iter().filter(|delivery| delivery.verdict == Verdict::Accepted).count()
}

/// How the service stands, and the word for why.
fn standing(world: &World, service: &str) -> (State, &'static str) {
    let reports = world.service.health();
    let report = reports.iter().find(|report| report.service == service).expect("it is configured");
    (report.state, report.reason.as_ref().map_or("", |(reason, _)| *reason))
}

#[tokio::test(start_paused = true)]
async fn what_a_service_asks_of_one_call_later_calls_keep_as_well() {
    for (http_date, attempts) in [(false, 2), (true, 2)] {
        let world = World::new();
        let after = if !http_date { "10".to_owned() } else { httpdate(10) };
        let busy = Answer::Http { status: 503, headers: vec![("retry-after", after)], body: String::new() };
        world.apns.answer_with(&apple_token(1), [busy]);
        let began = Instant::now();
        let first = tokio::spawn({
            let service = world.service.clone();
            async move { service.deliver(APP, &apple(1), &call(1)).await }
        });
        sleep(SECOND).await;
        let later = world.ring_each(100 * MS, 2, 20, apple).await.ended().await;
        assert_eq!(accepted(&later), 20);
        assert!(began.elapsed() >= 8 * SECOND, "they were kept back: {:?}", began.elapsed());
        let first = first.await.expect("a delivery does not panic");
        assert_eq!((first.verdict, first.attempts), (Verdict::Accepted, attempts));
        assert_eq!(world.apns.requests(), 22);
        world.assert_clean();
    }
}

fn httpdate(seconds: u64) -> String {
    // RFC 9110 §5.6.7, by hand: the tests know no calendar beyond this.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later than 1970");
    let at = now.as_secs() + seconds;
    let (days, rest) = (at / 86_400, at % 86_400);
    let (year, month, day) = civil(days as i64);
    let names = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{weekday}, {day:02} {} {year} {hour:02}:{minute:02}:{second:02} GMT", names[month - 1])
}

/// The date of a day counted from 1970.
fn civil(days: i64) -> (i64, usize, i64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as usize, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_to_one_device_is_not_the_end_of_all_calls() {
    let world = World::new();
    world.fcm.answer_with(&google_token(1), [fcm::Answer::Unavailable { retry_after: Some(120) }]);
    assert_eq!(accepted(&world.ring_each(10 * MS, 1, 20, google).await.ended().await), 20);
    assert!(world.fcm.requests() <= 22, "{} requests for 20 calls", world.fcm.requests());
    assert_eq!(standing(&world, "fcm"), (State::Well, ""));
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_minutes_makes_no_flood_of_alerts_and_each_arrives_after_it() {
    const ALERTS: u32 = 300;
    let world = World::new();
    world.fcm.answer_all(Some(fcm::Answer::Unavailable { retry_after: None }));
    let alerts: Vec<_> = (1..=ALERTS)
        .map(|number| {
            let now = call(number);
            let alert = Push { event: Event::Message, deadline: now.sent_at + 3_600, ..now };
            let service = world.service.clone();
            tokio::spawn(async move { service.deliver(APP, &google(number), &alert).await })
        })
        .collect();
    sleep(900 * SECOND).await;
    let tries = world.fcm.requests();
    assert!(tries < u64::from(ALERTS) + 100, "{tries} requests in a quarter of an hour");
    // A call waits for none of them, but for the next dial where the last one of theirs has just ended.
    world.fcm.answer_all(None);
    let ring = world.ring(google(1_000), 1_000).await;
    assert!(ring.verdict == Verdict::Accepted && ring.elapsed <= 5 * SECOND, "{ring:?}");
    let well = Instant::now();
    assert_eq!(accepted(&Calls(alerts).ended().await), ALERTS as usize);
    assert!(well.elapsed() < 10 * SECOND, "{:?}", well.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_tried_for_a_minute_waits_for_none_of_those_that_are_tried_for_an_hour_and_each_ends_with_its_time() {
    let world = World::new();
    world.fcm.answer_all(Some(fcm::Answer::Unavailable { retry_after: None }));
    let tried = |event, number: u32, seconds: u64| {
        let now = call(number);
        // Worth delivering for a day.
        let alert = Push { event, call: None, deadline: now.sent_at + 86_400, ..now };
        let (service, until) = (world.service.clone(), relay::clock::now() + Duration::from_secs(seconds));
        tokio::spawn(async move {
            let departure = Departure::unmeasured();
            service.deliver_measured(APP, &google(number), &alert, until, &departure, &Fixed).await
        })
    };
    let alerts: Vec<_> = (1..=20).map(|number| tried(Event::Message, number, 3_600)).collect();
    sleep(10 * SECOND).await;
    for event in [Event::RegistrationLost, Event::Renew] {
        let last = tried(event, 30, 60).await.expect("no panic");
        assert!(last.attempts >= 10 && last.elapsed <= 60 * SECOND, "{last:?}");
        assert!(matches!(last.verdict, Verdict::Retry { .. }), "{last:?}");
    }
    for alert in alerts {
        let alert = alert.await.expect("no panic");
        assert!(matches!(alert.verdict, Verdict::Retry { .. }), "{alert:?}");
        assert!((3_400 * SECOND..=3_600 * SECOND).contains(&alert.elapsed), "{alert:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rest_that_is_longer_than_calls_wait_lets_one_ask_every_two_seconds() {
    let world = World::new();
    world.fcm.answer_all(Some(fcm::Answer::Unavailable { retry_after: Some(120) }));
    let deliveries = world.ring_each(10 * MS, 1, 20, google).await.ended().await;
    assert_eq!(accepted(&deliveries), 0);
    assert!(deliveries.iter().all(|delivery| delivery.elapsed > 20 * SECOND), "each has waited for its time");
    // The first, those that were on their way with it, and one every 2 s.
    assert!(world.fcm.requests() <= 36, "{} requests for 20 calls", world.fcm.requests());
    assert_eq!(standing(&world, "fcm").0, State::Failing);
    world.fcm.answer_all(None);
    assert_eq!(world.ring(google(30), 30).await.verdict, Verdict::Accepted);
    assert_eq!(standing(&world, "fcm"), (State::Well, ""));
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_that_concerns_one_device_holds_no_other_back() {
    let world = World::new();
    world.apns.answer_with(&apple_token(1), [Answer::TooManyRequests { retry_after: Some(600) }]);
    assert!(matches!(world.ring(apple(1), 1).await.verdict, Verdict::Retry { .. }));
    assert_eq!(standing(&world, "apns"), (State::Unknown, ""), "it says nothing of the service");
    assert_eq!(accepted(&world.ring_each(10 * MS, 2, 20, apple).await.ended().await), 20);
    assert_eq!(standing(&world, "apns").0, State::Well);
    // Also when no time is named, and the call waits in vain.
    world.apns.answer_with(&apple_token(1), std::iter::repeat_n(Answer::TooManyRequests { retry_after: None }, 100));
    assert_ne!(world.ring(apple(1), 30).await.verdict, Verdict::Accepted);
    assert_eq!(standing(&world, "apns").0, State::Well);
    let body = r#"{"error":{"status":"RESOURCE_EXHAUSTED","message":"Device message rate exceeded."}}"#.to_owned();
    let headers = vec![("retry-after", "600".to_owned())];
    world.fcm.answer_with(&google_token(1), [fcm::Answer::Http { status: 429, headers, body }]);
    assert!(matches!(world.ring(google(1), 1).await.verdict, Verdict::Retry { .. }));
    assert_eq!(standing(&world, "fcm"), (State::Unknown, ""));
    // Nor does one of which nothing is said, though it asks for long.
    let unsaid = |times| {
        let headers = vec![("retry-after", "600".to_owned())];
        let body = r#"{"error":{"status":"RESOURCE_EXHAUSTED","message":"my-device-app"}}"#.to_owned();
        std::iter::repeat_n(fcm::Answer::Http { status: 429, headers, body }, times)
    };
    world.fcm.answer_with(&google_token(2), unsaid(5));
    let limited = tokio::spawn({
        let service = world.service.clone();
        async move { service.deliver(APP, &google(2), &call(2)).await }
    });
    sleep(MS).await;
    let others = world.ring_each(10 * MS, 3, 20, google).await.ended().await;
    assert_eq!(accepted(&others), 20);
    assert!(others.iter().all(|other| other.elapsed < SECOND), "{others:?}");
    assert_eq!(limited.await.expect("no panic").verdict, Verdict::Accepted, "it is asked every 2 s");
    // Nor when no time is named: its call ends, and neither the service fails nor do alerts of others wait for each other.
    world.fcm.answer_with(&google_token(2), std::iter::repeat_n(fcm::Answer::QuotaExceeded { retry_after: None }, 100));
    assert!(matches!(world.ring(google(2), 30).await.verdict, Verdict::Retry { .. } | Verdict::TooLate));
    assert_eq!(standing(&world, "fcm").0, State::Well);
    // Of many devices it is the project's.
    for number in 100..108 {
        world.fcm.answer_with(&google_token(number), unsaid(1));
    }
    let told = world.ring_each(Duration::ZERO, 100, 8, google).await;
    sleep(100 * MS).await;
    let later = Push { event: Event::Message, ..call(200) };
    assert!(matches!(world.service.deliver(APP, &google(200), &later).await.verdict, Verdict::Retry { .. }));
    assert_eq!(accepted(&told.ended().await), 8);
}

#[tokio::test(start_paused = true)]
async fn too_many_provider_tokens_let_the_channel_rest_and_the_operator_know() {
    let world = World::new();
    world.apns.answer_all(Some(Answer::Error { status: 429, reason: "TooManyProviderTokenUpdates" }));
    let deliveries = world.ring_each(50 * MS, 1, 20, apple).await.ended().await;
    assert_eq!(accepted(&deliveries), 0);
    assert!(world.apns.requests() <= 14, "{} requests for 20 calls", world.apns.requests());
    assert_eq!(standing(&world, "apns"), (State::Failing, "TooManyProviderTokenUpdates"));
    world.apns.answer_all(None);
    sleep(60 * SECOND).await;
    assert_eq!(accepted(&world.ring_each(50 * MS, 100, 20, apple).await.ended().await), 20);
    assert_eq!(standing(&world, "apns"), (State::Well, ""));
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn fresh_tokens_that_are_refused_ground_the_channel() {
    let world = World::new();
    world.fcm.answer_all(Some(fcm::Answer::Unauthenticated));
    let deliveries = world.ring_each(50 * MS, 1, 20, google).await.ended().await;
    assert_eq!(accepted(&deliveries), 0);
    assert!(world.fcm.token_requests() <= 3, "{} exchanges", world.fcm.token_requests());
    assert!(world.fcm.requests() <= 40, "{} requests for 20 calls", world.fcm.requests());
    assert_eq!(standing(&world, "fcm"), (State::Failing, "UNAUTHENTICATED"));
    // Calls that still wait are taken as soon as the service is well.
    let calls = world.ring_each(50 * MS, 100, 20, google).await;
    world.fcm.answer_all(None);
    let deliveries = timeout(8 * SECOND, calls.ended()).await.expect("within the longest rest");
    assert_eq!(accepted(&deliveries), 20);
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_a_token_endpoint_that_is_away_and_go_when_it_is_back() {
    let world = World::new();
    world.fcm.answer_token_with(std::iter::repeat_n(TokenAnswer::Unavailable, 6));
    let deliveries = world.ring_each(200 * MS, 1, 50, google).await.ended().await;
    assert_eq!(accepted(&deliveries), 50, "none is refused untried");
    assert_eq!(world.fcm.token_requests(), 7);
    let slowest = deliveries.iter().map(|delivery| delivery.elapsed).max().expect("there are some");
    assert!(slowest < 20 * SECOND, "{slowest:?}");
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn after_a_long_outage_of_the_token_endpoint_the_first_call_waits_5_s_at_most() {
    let world = World::new();
    world.fcm.answer_token_with(std::iter::repeat_n(TokenAnswer::Unavailable, 12));
    // Somebody always asks, until the script has run out.
    for number in 1.. {
        drop(timeout(10 * SECOND, world.ring(google(number), number)).await);
        if world.fcm.token_requests() >= 12 {
            break;
        }
    }
    let began = Instant::now();
    assert_eq!(world.ring(google(1), 1_000).await.verdict, Verdict::Accepted);
    assert!(began.elapsed() <= 6 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_long_retry_after_of_a_token_endpoint_is_not_the_end_of_all_calls() {
    let world = World::new();
    world.fcm.answer_token_with([TokenAnswer::Busy(300)]);
    let delivery = world.ring(google(1), 1).await;
    assert_eq!(delivery.verdict, Verdict::Accepted);
    assert!(delivery.elapsed < 3 * SECOND, "{:?}", delivery.elapsed);
    assert_eq!(world.fcm.token_requests(), 2);
    let world = World::new();
    world.fcm.answer_token_with(std::iter::repeat_n(TokenAnswer::Busy(300), 100));
    assert_eq!(accepted(&world.ring_each(10 * MS, 1, 20, google).await.ended().await), 0);
    assert!((4..=15).contains(&world.fcm.token_requests()), "{} in 30 s", world.fcm.token_requests());
    // Where no call waits it is left alone.
    let world = World::new();
    world.fcm.answer_token_with(std::iter::repeat_n(TokenAnswer::Busy(300), 100));
    for number in 0..6 {
        let alert = Push { event: Event::Message, ..call(number) };
        assert_ne!(world.service.deliver(APP, &google(number), &alert).await.verdict, Verdict::Accepted);
        sleep(5 * SECOND).await;
    }
    assert_eq!(world.fcm.token_requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn whatever_waits_for_an_access_token_a_call_asks_an_endpoint_that_rests_within_four_seconds() {
    let authority = Authority::new();
    for alerts in 0..50 {
        let world = World::within(&authority);
        world.fcm.answer_token_with([TokenAnswer::Busy(120)]);
        let waiting: Vec<_> = (0..=alerts)
            .map(|number| {
                let now = call(number);
                let alert = Push { event: Event::Message, deadline: now.sent_at + 3_600, ..now };
                let service = world.service.clone();
                tokio::spawn(async move { service.deliver(APP, &google(number), &alert).await })
            })
            .collect();
        // Long enough for whatever they do to have its longest pauses.
        sleep(20 * SECOND + alerts * 37 * MS).await;
        assert_eq!(world.fcm.token_requests(), 1, "no alert asks");
        let delivery = world.ring(google(1_000), 1_000).await;
        assert_eq!(delivery.verdict, Verdict::Accepted);
        assert!(delivery.elapsed < 4 * SECOND, "{:?} beside {alerts} alerts", delivery.elapsed);
        // The token is for all, though the time that was asked for is not over.
        for alert in waiting {
            let taken = timeout(6 * SECOND, alert).await.expect("in time").expect("a delivery does not panic");
            assert_eq!(taken.verdict, Verdict::Accepted);
        }
        world.assert_clean();
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_rests_and_then_hangs_gets_a_call_every_two_seconds() {
    let world = World::new();
    assert_eq!(world.ring(apple(1), 1).await.verdict, Verdict::Accepted);
    world.apns.answer_with(&apple_token(2), [Answer::Unavailable { retry_after: Some(60) }, Answer::Stall]);
    let first = world.ring_each(MS, 2, 1, apple).await;
    // It has asked once more by then.
    sleep(3 * SECOND).await;
    let later = world.ring_each(100 * MS, 3, 10, apple).await.ended().await;
    assert_eq!(accepted(&later), 10);
    let slowest = later.iter().map(|delivery| delivery.elapsed).max().expect("there are some");
    assert!(slowest < 5 * SECOND, "{slowest:?}");
    assert!(!matches!(first.ended().await[0].verdict, Verdict::Accepted), "that one is lost");
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_call_asks_a_service_that_rests_as_the_call_does() {
    let ended = |number| Push { event: Event::CallEnded, ..call(number) };
    let world = World::new();
    world.fcm.answer_with(&google_token(1), [fcm::Answer::Unavailable { retry_after: Some(120) }]);
    let delivery = world.service.deliver(APP, &google(1), &ended(1)).await;
    assert_eq!((delivery.verdict, delivery.attempts), (Verdict::Accepted, 2));
    assert!(delivery.elapsed < 4 * SECOND, "{:?}", delivery.elapsed);
    // It waits its turn beside calls.
    world.fcm.answer_with(&google_token(2), [fcm::Answer::Unavailable { retry_after: Some(120) }]);
    world.fcm.answer_with(&google_token(2), std::iter::repeat_n(fcm::Answer::Stall, 10));
    let calls = world.ring_each(MS, 2, 1, google).await;
    sleep(3 * SECOND).await;
    let delivery = world.service.deliver(APP, &google(3), &ended(3)).await;
    assert_eq!(delivery.verdict, Verdict::Accepted);
    assert!(delivery.elapsed < 4 * SECOND, "{:?}", delivery.elapsed);
    drop(calls);
    // Also at the token endpoint.
    let world = World::new();
    world.fcm.answer_token_with([TokenAnswer::Busy(300)]);
    let delivery = world.service.deliver(APP, &google(1), &ended(1)).await;
    assert_eq!(delivery.verdict, Verdict::Accepted);
    assert!(delivery.elapsed < 4 * SECOND, "{:?}", delivery.elapsed);
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_token_endpoint_that_hangs_is_asked_again() {
    let world = World::new();
    world.fcm.answer_token_with([TokenAnswer::Stall]);
    let delivery = world.ring(google(1), 1).await;
    assert_eq!(delivery.verdict, Verdict::Accepted);
    assert!(delivery.elapsed < 7 * SECOND, "{:?}", delivery.elapsed);
}

#[tokio::test(start_paused = true)]
async fn a_service_account_that_is_refused_is_tried_by_each_call_that_comes_later() {
    let world = World::new();
    world.fcm.answer_token_with([TokenAnswer::InvalidGrant]);
    assert_eq!(world.ring(google(1), 1).await.verdict, Verdict::Refused { reason: "ServiceAccountRefused" });
    assert_eq!(standing(&world, "fcm"), (State::Failing, "ServiceAccountRefused"));
    assert_eq!(world.ring(google(2), 2).await.verdict, Verdict::Accepted, "not refused for what another was told");
}

#[tokio::test(start_paused = true)]
async fn the_operator_learns_which_service_fails_why_and_since_when() {
    let world = World::new();
    assert_eq!(standing(&world, "apns"), (State::Unknown, ""));
    world.apns.answer_all(Some(Answer::InvalidProviderToken));
    world.ring(apple(1), 1).await;
    let reports = world.service.health();
    let apns = reports.iter().find(|report| report.service == "apns").expect("it is configured");
    let (reason, words) = apns.reason.clone().expect("it fails");
    assert_eq!((apns.state, reason, &*apns.app), (State::Failing, "InvalidProviderToken", APP));
    assert!(words.contains("key_id") && apns.since > 0 && apns.last_accepted == 0, "{apns:?}");
    assert_eq!(standing(&world, "fcm").0, State::Unknown, "the other is another matter");
    let up =
        |provider| Reading::of(&world.metrics).value(Metric::PushServiceUp, &[("provider", provider), ("app", APP)]);
    assert_eq!((up("apns"), up("fcm")), (0.0, 1.0));
    world.apns.answer_all(None);
    world.ring(apple(2), 2).await;
    assert_eq!(standing(&world, "apns"), (State::Well, ""));
    assert_eq!(up("apns"), 1.0);
    let accepted = Reading::of(&world.metrics).value(Metric::PushServiceAccepted, &[("provider", "apns")]);
    assert!(accepted > 1_700_000_000.0, "{accepted}");
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_devices_own_tokens_says_nothing_of_the_service_and_of_good_ones_it_does() {
    let world = World::new();
    for (apns, fcm) in [
        (Answer::DeviceTokenNotForTopic, fcm::Answer::SenderIdMismatch),
        (Answer::DeviceTokenNotForTopic, fcm::Answer::ThirdPartyAuthError),
    ] {
        world.apns.answer_all(Some(apns));
        world.fcm.answer_all(Some(fcm));
        for number in 100..109 {
            world.ring(apple(number), number).await;
            world.ring(google(number), number).await;
            world.service.note_doubted_token(APP, Provider::ApnsProduction, &apple(number).token);
        }
        assert_eq!([standing(&world, "apns").0, standing(&world, "fcm").0], [State::Unknown; 2]);
    }
    world.apns.answer_all(None);
    world.fcm.answer_all(None);
    for number in 1..4 {
        assert_eq!(world.ring(google(number), number).await.verdict, Verdict::Accepted);
        assert_eq!(world.ring(apple(number), number).await.verdict, Verdict::Accepted);
    }
    world.fcm.answer_all(Some(fcm::Answer::SenderIdMismatch));
    for (number, state) in [(1, State::Well), (1, State::Well), (2, State::Well), (3, State::Failing)] {
        world.ring(google(number), number).await;
        assert_eq!(standing(&world, "fcm").0, state, "{number}");
        world.service.note_doubted_token(APP, Provider::ApnsProduction, &apple(number).token);
        assert_eq!(standing(&world, "apns").0, state, "{number}");
    }
    assert_eq!(standing(&world, "fcm").1, "SENDER_ID_MISMATCH");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_takes_none_of_many_tokens_since_the_start_fails_and_one_that_has_taken_any_does_not() {
    for has_taken in [false, true] {
        let world = World::new();
        if has_taken {
            world.ring(google(1), 1).await;
            world.ring(apple(1), 1).await;
        }
        world.apns.answer_all(Some(Answer::DeviceTokenNotForTopic));
        world.fcm.answer_all(Some(fcm::Answer::SenderIdMismatch));
        let tending = tokio::spawn(world.service.clone().tend());
        for number in 100..120 {
            world.ring(apple(number), number).await;
            world.ring(google(number), number).await;
            sleep(20 * SECOND).await;
        }
        let wanted = |reason| if has_taken { (State::Well, "") } else { (State::Failing, reason) };
        assert_eq!(standing(&world, "apns"), wanted("DeviceTokenNotForTopic"));
        assert_eq!(standing(&world, "fcm"), wanted("SENDER_ID_MISMATCH"));
        world.apns.answer_all(None);
        world.fcm.answer_all(None);
        world.ring(google(1), 1).await;
        world.ring(apple(1), 1).await;
        assert_eq!([standing(&world, "apns").0, standing(&world, "fcm").0], [State::Well; 2]);
        tending.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_is_asked_each_minute_and_is_well_when_it_would_take_a_push() {
    let world = World::new();
    world.apns.answer_all(Some(Answer::InvalidProviderToken));
    world.fcm.answer_all(Some(fcm::Answer::denied()));
    world.ring(apple(1), 1).await;
    world.ring(google(1), 1).await;
    let tending = tokio::spawn(world.service.clone().tend());
    sleep(150 * SECOND).await;
    assert_eq!(standing(&world, "apns").0, State::Failing);
    world.apns.answer_all(Some(Answer::BadDeviceToken));
    sleep(61 * SECOND).await;
    assert_eq!([standing(&world, "apns").0, standing(&world, "fcm").0], [State::Well; 2], "nobody was called");
    tending.abort();
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_reached_is_named_with_what_the_system_says() {
    let world = World::new();
    let address = "192.0.2.1".parse().expect("an address");
    world.net.place(world.apns.port(), &[(address, tests::virtual_net::Mood::Refuses)]);
    assert!(matches!(world.ring(apple(1), 1).await.verdict, Verdict::Retry { .. } | Verdict::TooLate));
    let reports = world.service.health();
    let (reason, words) = reports[0].reason.clone().expect("it fails");
    assert_eq!((reports[0].service, reason), ("apns", "Unreachable"));
    assert!(words.contains("refused"), "{words}");
}

#[tokio::test(start_paused = true)]
async fn the_way_from_an_invite_to_its_push_is_measured_when_it_leaves_and_one_that_never_leaves_is_counted() {
    let world = World::new();
    let invites = || Reading::of(&world.metrics).count(Metric::InviteToPush);
    let unsent = || Reading::of(&world.metrics).value(Metric::CallPushesUnsent, &[]);
    let measured = async |number: u32| {
        let departure = Departure::of_call(std::time::Instant::now(), &world.metrics);
        let (target, push) = (apple(number), call(number));
        timeout(20 * SECOND, world.service.deliver_measured(APP, &target, &push, push.until(), &departure, &Fixed))
            .await
    };
    drop(measured(1).await);
    assert_eq!((invites(), unsent()), (1.0, 0.0));
    let address = "192.0.2.1".parse().expect("an address");
    world.net.place(world.apns.port(), &[(address, tests::virtual_net::Mood::Mute)]);
    world.apns.drain();
    sleep(50 * MS).await;
    assert!(measured(2).await.is_err(), "it waits for a connection");
    assert_eq!((invites(), unsent()), (1.0, 1.0));
}
