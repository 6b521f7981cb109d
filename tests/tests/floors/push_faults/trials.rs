//! What `check --push` asks the services.

use tests::apns::Answer;
use tests::fcm::TokenAnswer;

use super::{APP, World, apple, call};

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
