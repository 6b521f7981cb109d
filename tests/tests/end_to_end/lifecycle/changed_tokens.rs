//! A device gives another push token while a push to the earlier one is under way.
//!
//! Invariant: what is said of the earlier token comes after the change was answered.

use std::time::Duration;

use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::board::Missed;
use tests::world::{FCM_TOKEN, OTHER_TOKEN, SOON, TOKEN, World, apple, google};
use tests::{apns, fcm};

use super::Outcome;

/// The token after the change, and the one for alerts.
const NEXT: &str = "the-token-after-the-change";
const ALERTS: &str = "the-token-for-alerts";
/// How late a service answers: long enough for a change meanwhile.
const LATE: Duration = Duration::from_secs(3);

/// What FCM says of a dead token, late.
fn unregistered() -> fcm::Answer {
    fcm::Answer::Late(LATE, Box::new(fcm::Answer::Unregistered))
}

/// More refusals than there are tries while a token is changed.
fn unavailable() -> Vec<fcm::Answer> {
    vec![fcm::Answer::Unavailable { retry_after: None }; 30]
}

/// Gives these tokens when a service has got this many requests.
async fn change(world: &World, instance: &Instance, device: Value, requests: impl Fn() -> bool) -> Outcome {
    world.until("the push to the earlier token", || async { requests().then_some(()) }).await?;
    world.change(instance, json!({"device": device})).await.map(drop)
}

/// The next push of this event is at this token.
async fn goes_to(world: &World, event: &str, token: &str) -> Outcome {
    loop {
        let push = world.google_push().await?;
        if push.payload["event"] == event {
            assert_eq!(push.token, token, "{}", push.payload);
            return Ok(());
        }
    }
}

/// An Android phone that takes calls by [`FCM_TOKEN`] and alerts by [`ALERTS`].
async fn with_alerts(world: &World) -> Result<Instance, Missed> {
    let device = json!({"call_push": google(FCM_TOKEN), "alert_push": google(ALERTS)});
    world.enable_as(&world.enable_request_for(device)).await
}

#[tokio::test]
async fn a_late_word_that_the_earlier_token_is_gone_wipes_nobody_and_the_call_goes_to_the_new_one() -> Outcome {
    let world = World::start().await?;
    world.fcm.answer_with(FCM_TOKEN, [unregistered()]);
    let instance = world.enable_android().await?;
    let caller = world.call()?;
    change(&world, &instance, json!({"call_push": google(NEXT)}), || world.fcm.requests() == 1).await?;
    goes_to(&world, "call", NEXT).await?;
    caller.expect(180, SOON).await?;
    world.talks(&caller, &instance).await?;
    assert_eq!(world.metric("sipwake_wipes_total{reason=\"push-token-gone\"}").await, Some(0.0));
    world.content()
}

#[tokio::test]
async fn an_iphones_call_goes_to_its_new_token_whatever_is_said_of_the_earlier_one() -> Outcome {
    for said in [
        apns::Answer::Gone { timestamp: u64::MAX },
        apns::Answer::BadDeviceToken,
        apns::Answer::DeviceTokenNotForTopic,
        apns::Answer::Unavailable { retry_after: None },
    ] {
        let world = World::start().await?;
        world.apns.answer_with(TOKEN, [apns::Answer::Late(LATE, Box::new(said))]);
        let instance = world.enable().await?;
        let caller = world.call()?;
        change(&world, &instance, json!({"call_push": apple(OTHER_TOKEN)}), || world.apns.requests() == 1).await?;
        let push = world.apple_push().await?;
        assert_eq!((push.token.as_str(), &push.payload["sipwake"]["event"]), (OTHER_TOKEN, &json!("call")));
        caller.expect(180, SOON).await?;
        world.talks(&caller, &instance).await?;
        assert_eq!((world.apns.requests(), world.apns.count()), (2, 1));
    }
    Ok(())
}

#[tokio::test]
async fn the_second_push_of_a_call_goes_to_the_token_that_the_device_has_by_then() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_android().await?;
    let caller = world.call()?;
    goes_to(&world, "call", FCM_TOKEN).await?;
    world.change(&instance, json!({"device": {"call_push": google(NEXT)}})).await?;
    goes_to(&world, "call", NEXT).await?;
    assert_eq!(world.metric("sipwake_push_resends_total").await, Some(1.0));
    world.talks(&caller, &instance).await?;
    assert_eq!(world.fcm.requests(), 2);
    world.content()
}

#[tokio::test]
async fn a_push_that_is_tried_again_goes_to_the_token_that_the_device_has_by_then() -> Outcome {
    let world = World::start().await?;
    world.fcm.answer_with(FCM_TOKEN, unavailable());
    let instance = world.enable_android().await?;
    let caller = world.call()?;
    change(&world, &instance, json!({"call_push": google(NEXT)}), || world.fcm.requests() >= 1).await?;
    goes_to(&world, "call", NEXT).await?;
    caller.expect(180, SOON).await?;
    world.talks(&caller, &instance).await?;
    world.content()
}

#[tokio::test]
async fn an_alert_follows_its_token_when_it_is_tried_again_and_when_the_earlier_one_is_called_gone() -> Outcome {
    for answers in [unavailable(), vec![unregistered()]] {
        let world = World::start().await?;
        world.fcm.answer_with(ALERTS, answers);
        let instance = with_alerts(&world).await?;
        let (caller, _) = (world.call()?, goes_to(&world, "call", FCM_TOKEN).await?);
        world.cancel(&caller).await?;
        goes_to(&world, "call-ended", FCM_TOKEN).await?;
        let device = json!({"call_push": google(FCM_TOKEN), "alert_push": google(NEXT)});
        change(&world, &instance, device, || world.fcm.requests() >= 3).await?;
        goes_to(&world, "missed-call", NEXT).await?;
        assert_eq!(world.api.of("GET", &instance, "").await?.status, 200);
        world.content()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_token_that_an_alert_meets_dead_ends_the_instance_whose_calls_still_go_there() -> Outcome {
    let world = World::start().await?;
    world.fcm.answer_with(FCM_TOKEN, [unregistered()]);
    let instance = world.enable_android().await?;
    assert_eq!(world.api.of("POST", &instance, "/test").await?.status, 202);
    let device = json!({"call_push": google(FCM_TOKEN), "alert_push": google(NEXT)});
    change(&world, &instance, device, || world.fcm.requests() == 1).await?;
    world.await_gone(&instance).await?;
    world.await_metric("sipwake_wipes_total{reason=\"push-token-gone\"}", 1.0).await
}

/// A world whose calls wait for longer than a test does.
async fn patient() -> Result<World, Missed> {
    World::with(|setup| setup.ring_timeout = "90s".to_owned()).await
}

/// Longer than a test waits for a push.
const LONG: Option<u64> = Some(80);

#[tokio::test]
async fn what_an_earlier_token_holds_back_goes_to_the_new_one_at_once() -> Outcome {
    // The device is asked to wait, and then the service, which the next token is not of.
    for held_back in [
        apns::Answer::TooManyRequests { retry_after: LONG },
        apns::Answer::Late(LATE, Box::new(apns::Answer::TooManyRequests { retry_after: LONG })),
    ] {
        let world = patient().await?;
        world.apns.answer_with(TOKEN, [held_back]);
        let instance = world.enable().await?;
        let caller = world.call()?;
        change(&world, &instance, json!({"call_push": apple(OTHER_TOKEN)}), || world.apns.requests() == 1).await?;
        assert_eq!(world.apple_push().await?.token, OTHER_TOKEN);
        caller.expect(180, SOON).await?;
        world.talks(&caller, &instance).await?;
        assert_eq!((world.apns.requests(), world.apns.count()), (2, 1));
        world.content()?;
    }
    let world = patient().await?;
    world.fcm.answer_with(FCM_TOKEN, vec![fcm::Answer::Unavailable { retry_after: LONG }; 60]);
    let instance = world.enable_android().await?;
    let caller = world.call()?;
    change(&world, &instance, json!({"call_push": apple(TOKEN)}), || world.fcm.requests() >= 1).await?;
    assert_eq!(world.apple_push().await?.token, TOKEN);
    caller.expect(180, SOON).await?;
    world.talks(&caller, &instance).await?;
    world.content()
}

#[tokio::test]
async fn an_alert_that_an_earlier_token_holds_back_goes_to_the_new_one_at_once() -> Outcome {
    let world = World::start().await?;
    world.fcm.answer_with(ALERTS, vec![fcm::Answer::QuotaExceeded { retry_after: LONG }; 9]);
    let instance = with_alerts(&world).await?;
    let (caller, _) = (world.call()?, goes_to(&world, "call", FCM_TOKEN).await?);
    world.cancel(&caller).await?;
    goes_to(&world, "call-ended", FCM_TOKEN).await?;
    let device = json!({"call_push": google(FCM_TOKEN), "alert_push": google(NEXT)});
    change(&world, &instance, device, || world.fcm.requests() >= 3).await?;
    goes_to(&world, "missed-call", NEXT).await?;
    world.content()
}
