//! What `check --push` asks the services.

use std::time::Duration;

use relay::push::{Event, Push, State, Verdict};
use relay::vault::record::Provider;
use tests::apns::Answer;
use tests::fcm::{self, TokenAnswer};
use tokio::time::sleep;

use super::{APP, World, apple, apple_token, call, google, target};

async fn tried(world: &World) -> Vec<(&'static str, Option<&'static str>)> {
    let trials = world.service.try_out().await;
    trials.into_iter().map(|trial| (trial.service, trial.problem.map(|(reason, _)| reason))).collect()
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_taken_are_told_without_a_push_to_any_device() {
    let world = World::new();
    world.apns.answer_all(Some(Answer::BadDeviceToken));
    assert_eq!(tried(&world).await, [("apns", None), ("fcm", None)]);
    assert_eq!((world.apns.count(), world.fcm.count()), (0, 0));
    world.assert_clean();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_refused_is_told_with_the_service_s_word() {
    let world = World::new();
    world.apns.answer_all(Some(Answer::InvalidProviderToken));
    world.fcm.answer_token_with([TokenAnswer::InvalidGrant]);
    assert_eq!(tried(&world).await, [("apns", Some("InvalidProviderToken")), ("fcm", Some("ServiceAccountRefused"))]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_away_is_told_as_away() {
    let world = World::new();
    let address = "192.0.2.1".parse().expect("an address");
    world.net.place(world.apns.port(), &[(address, tests::virtual_net::Mood::Refuses)]);
    world.fcm.answer_token_with(std::iter::repeat_n(TokenAnswer::Unavailable, 30));
    assert_eq!(tried(&world).await, [("apns", Some("Unreachable")), ("fcm", Some("TokenEndpointAway"))]);
    let delivery = world.service.deliver(APP, &apple(1), &call(1)).await;
    assert_ne!(delivery.attempts, 0);
}

/// How both stand.
fn standing(world: &World) -> [State; 2] {
    ["apns", "fcm"].map(|service| {
        let reports = world.service.health();
        reports.iter().find(|report| report.service == service).expect("it is configured").state
    })
}

/// Both take no push, and know a token that is none before they look further.
fn takes_nothing(world: &World) {
    world.apns.answer_all(Some(Answer::ServerError));
    world.apns.answer_with(&apple_token(0), std::iter::repeat_n(Answer::BadDeviceToken, 1_000));
    world.fcm.answer_all(Some(fcm::Answer::Unavailable { retry_after: None }));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_takes_no_push_is_not_well_for_knowing_a_token_that_is_none() {
    let world = World::new();
    let tending = tokio::spawn(world.service.clone().tend());
    takes_nothing(&world);
    for number in 1..=20 {
        let (one, other) = tokio::join!(world.ring(apple(number), number), world.ring(google(number), number));
        assert!(one.verdict != Verdict::Accepted && other.verdict != Verdict::Accepted);
        for _ in 0..30 {
            assert_eq!(standing(&world), [State::Failing; 2], "call {number}");
            sleep(Duration::from_secs(1)).await;
        }
        // Nor for the token of a device that is none.
        world.fcm.answer_with("cNoToken:APA91b", [fcm::Answer::InvalidToken]);
        let none = target(Provider::Fcm, "cNoToken:APA91b");
        world.service.deliver(APP, &none, &call(100)).await;
    }
    world.apns.answer_all(None);
    world.fcm.answer_all(None);
    assert_eq!(world.ring(apple(1), 1).await.verdict, Verdict::Accepted);
    assert_eq!(standing(&world), [State::Well, State::Failing]);
    assert_eq!(world.ring(google(1), 1).await.verdict, Verdict::Accepted);
    assert_eq!(standing(&world), [State::Well; 2]);
    // Where nobody is called, it is well when nothing has gone wrong for a while.
    takes_nothing(&world);
    tokio::join!(world.ring(apple(1), 1), world.ring(google(1), 1));
    sleep(Duration::from_secs(500)).await;
    assert_eq!(standing(&world), [State::Failing; 2]);
    sleep(Duration::from_secs(200)).await;
    assert_eq!(standing(&world), [State::Well; 2]);
    tending.abort();
}

#[tokio::test(start_paused = true)]
async fn a_trial_lets_no_alerts_go_that_wait_for_the_service_to_take_one() {
    let world = World::new();
    let tending = tokio::spawn(world.service.clone().tend());
    takes_nothing(&world);
    world.apns.answer_all(Some(Answer::Late(Duration::from_secs(1), Box::new(Answer::ServerError))));
    let alerts: Vec<_> = (1..=300)
        .map(|number| {
            let now = call(number);
            let alert = Push { event: Event::Message, call: None, deadline: now.sent_at + 3_600, ..now };
            let service = world.service.clone();
            tokio::spawn(async move { service.deliver(APP, &apple(number), &alert).await })
        })
        .collect();
    sleep(Duration::from_secs(1_800)).await;
    let tries = world.apns.requests();
    assert!(tries < 300 + 200, "{tries} in half an hour");
    alerts.iter().for_each(tokio::task::JoinHandle::abort);
    tending.abort();
}

#[tokio::test(start_paused = true)]
async fn a_service_that_takes_no_more_or_does_not_answer_is_told_as_that_and_all_are_asked_at_once() {
    let world = World::new();
    world.apns.answer_all(Some(Answer::TooManyRequests { retry_after: None }));
    assert_eq!(tried(&world).await, [("apns", Some("TooManyRequests")), ("fcm", None)]);
    let world = World::new();
    world.apns.answer_all(Some(Answer::Stall));
    world.fcm.answer_token_with(std::iter::repeat_n(TokenAnswer::Unavailable, 30));
    let began = tokio::time::Instant::now();
    assert_eq!(tried(&world).await, [("apns", Some("Unanswered")), ("fcm", Some("TokenEndpointAway"))]);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
