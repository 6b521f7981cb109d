//! A push token that its service calls gone ends the instance, whichever push met it.
//!
//! Invariant: each test's answers go to the one token of an Android phone, in the order of its pushes.

use serde_json::json;
use tests::caller::CallOptions;
use tests::fcm::Answer::{self, Accept, Unregistered};
use tests::world::{FCM_TOKEN, SOON, World};

use super::Outcome;

const HOUR: u64 = 3_600;

/// An Android phone whose token answers so, and whose lease ends in `lifetime_s` seconds. The instance is gone when `meet` has
/// had the pushes sent, and no push follows.
async fn ends<F>(lifetime_s: u64, answers: &[Answer], meet: impl FnOnce(std::sync::Arc<World>) -> F) -> Outcome
where
    F: Future<Output = Outcome>,
{
    let world = World::with(|setup| setup.lifetime = ["1s", "5d", "6d"].map(str::to_owned)).await?;
    let world = std::sync::Arc::new(world);
    world.fcm.answer_with(FCM_TOKEN, answers.iter().cloned());
    let mut request = world.android_enable_request(FCM_TOKEN);
    request["lifetime_s"] = json!(lifetime_s);
    let instance = world.enable_as(&request).await?;
    meet(world.clone()).await?;
    world.await_gone(&instance).await?;
    world.await_contacts(0).await?;
    world.await_metric("sipwake_wipes_total{reason=\"push-token-gone\"}", 1.0).await?;
    assert_eq!(world.fcm.requests(), answers.len() as u64, "a dead token gets nothing more");
    Ok(())
}

const DAYS: u64 = 3 * 24 * HOUR;

#[tokio::test]
async fn a_reminder_that_meets_a_dead_token_ends_the_instance() -> Outcome {
    // `renew`, `expiring` and `expiring` again.
    for lifetime_s in [24 * HOUR + 2, 12 * HOUR + 2, HOUR + 2] {
        ends(lifetime_s, &[Unregistered], |_| async { Ok(()) }).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_message_that_meets_a_dead_token_ends_the_instance() -> Outcome {
    ends(DAYS, &[Unregistered], |world| async move {
        let options = CallOptions::request("MESSAGE").body("text/plain", "hello");
        world.call_with(&options)?.expect(202, SOON).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn a_call_whose_caller_has_hung_up_before_it_meets_a_dead_token_ends_the_instance() -> Outcome {
    let world = World::start().await?;
    let late = Answer::Late(std::time::Duration::from_millis(700), Box::new(Unregistered));
    world.fcm.answer_with(FCM_TOKEN, [late, Accept, Accept]);
    let instance = world.enable_android().await?;
    let caller = world.call()?;
    assert!(world.fcm.wait_for_requests(1, SOON).await);
    world.cancel(&caller).await?;
    world.await_gone(&instance).await?;
    world.await_metric("sipwake_wipes_total{reason=\"push-token-gone\"}", 1.0).await?;
    world.await_metric("sipwake_pushes_total{provider=\"fcm\",outcome=\"gone\"}", 1.0).await
}

#[tokio::test]
async fn voicemail_that_meets_a_dead_token_ends_the_instance() -> Outcome {
    ends(DAYS, &[Unregistered], |world| async move {
        let options = CallOptions::request("NOTIFY").header("Event", "message-summary");
        let options = options.header("Subscription-State", "active");
        let body = "Messages-Waiting: yes\r\nVoice-Message: 1/0\r\n";
        let options = options.body("application/simple-message-summary", body);
        world.call_with(&options)?.expect(200, SOON).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn a_test_push_that_meets_a_dead_token_ends_the_instance() -> Outcome {
    let world = World::start().await?;
    world.fcm.answer_with(FCM_TOKEN, [Unregistered]);
    let instance = world.enable_android().await?;
    assert_eq!(world.api.of("POST", &instance, "/test").await?.status, 202);
    world.await_gone(&instance).await?;
    world.await_metric("sipwake_wipes_total{reason=\"push-token-gone\"}", 1.0).await
}

#[tokio::test]
async fn call_ended_that_meets_a_dead_token_ends_the_instance() -> Outcome {
    ends(DAYS, &[Accept, Unregistered], |world| async move {
        let caller = world.call()?;
        world.android_push().await?;
        // That another device has it: a missed call would be told, too.
        caller.cancel_answered_elsewhere().await?;
        caller.expect(487, SOON).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn the_second_push_of_a_call_that_meets_a_dead_token_ends_the_instance() -> Outcome {
    ends(DAYS, &[Accept, Unregistered], |world| async move {
        let caller = world.call()?;
        world.android_push().await?;
        caller.expect(480, SOON).await.map(drop)
    })
    .await
}

#[tokio::test]
async fn a_missed_call_that_meets_a_dead_token_ends_the_instance() -> Outcome {
    let world = World::start().await?;
    let alert = json!({"provider": "fcm", "token": "the-token-for-alerts"});
    let device = json!({"call_push": {"provider": "fcm", "token": FCM_TOKEN}, "alert_push": alert});
    world.fcm.answer_with("the-token-for-alerts", [Unregistered]);
    let instance = world.enable_as(&world.enable_request_for(device)).await?;
    let caller = world.call()?;
    world.android_push().await?;
    caller.cancel().await?;
    caller.expect(487, SOON).await?;
    world.await_gone(&instance).await?;
    world.await_metric("sipwake_wipes_total{reason=\"push-token-gone\"}", 1.0).await
}
