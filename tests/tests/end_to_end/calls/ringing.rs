//! When the caller hears ringing: the three settings of `call.early_ringing`, and the device's own word.

use std::time::Duration;

use tests::apns::Answer;
use tests::caller::Caller;
use tests::scene::{SOON, Scene, text};

use super::Outcome;

async fn scene(early_ringing: &str) -> Result<Scene, tests::board::Missed> {
    let scene = Scene::with(|setup| setup.early_ringing = early_ringing.to_owned()).await?;
    Ok(scene)
}

/// When the first 180 came.
fn rang_after(caller: &Caller) -> Option<Duration> {
    caller.responses().iter().find(|(_, status)| *status == 180).map(|(after, _)| *after)
}

#[tokio::test]
async fn ringing_immediately_does_not_wait_for_the_push_service() -> Outcome {
    let scene = scene("immediately").await?;
    let instance = scene.enable().await?;
    scene.apns.answer_all(Some(Answer::Slow(Duration::from_secs(3))));
    let caller = scene.call()?;
    caller.expect(180, SOON).await?;
    assert!(rang_after(&caller) < Some(Duration::from_millis(2_500)));
    let push = scene.push().await?;
    scene.await_state(&instance, &push, "ringing").await?;
    scene.cancel(&caller).await?;
    scene.content_with(&[&caller], &[])
}

#[tokio::test]
async fn ringing_after_the_push_was_accepted_waits_for_the_push_service() -> Outcome {
    let scene = scene("after-push-accepted").await?;
    let instance = scene.enable().await?;
    scene.apns.answer_all(Some(Answer::Slow(Duration::from_millis(1_200))));
    let (caller, push) = scene.call_and_push().await?;
    scene.await_state(&instance, &push, "waking").await?;
    caller.expect(180, SOON).await?;
    assert!(rang_after(&caller) >= Some(Duration::from_millis(1_200)));
    scene.await_state(&instance, &push, "ringing").await?;
    scene.cancel(&caller).await?;
    scene.content_with(&[&caller], &[])
}

#[tokio::test]
async fn ringing_after_the_device_rings_waits_for_the_device() -> Outcome {
    let scene = scene("after-device-rings").await?;
    let instance = scene.enable().await?;
    let (caller, push) = scene.call_and_push().await?;
    scene.await_metric("sipwake_pushes_total{provider=\"apns\",outcome=\"accepted\"}", 1.0).await?;
    let phone = scene.wake(&instance).await?;
    let call = phone.next_invite(SOON).await?;
    scene.await_state(&instance, &push, "waking").await?;
    assert_eq!(rang_after(&caller), None);
    call.ring();
    caller.expect(180, SOON).await?;
    scene.await_state(&instance, &push, "ringing").await?;
    scene.answer(&caller, &call).await?;
    caller.bye(SOON).await?;
    scene.content_with(&[&caller], &[&phone])
}

#[tokio::test]
async fn a_device_that_says_it_makes_progress_lets_the_caller_hear_ringing() -> Outcome {
    let scene = scene("after-device-rings").await?;
    let instance = scene.enable().await?;
    let (caller, push) = scene.call_and_push().await?;
    scene.await_metric("sipwake_pushes_total{provider=\"apns\",outcome=\"accepted\"}", 1.0).await?;
    assert_eq!(rang_after(&caller), None);
    for _ in 0..2 {
        assert_eq!(scene.api.progress(&instance, &text(&push["call"])).await?.status, 204);
    }
    caller.expect(180, SOON).await?;
    scene.await_state(&instance, &push, "ringing").await?;
    let phone = scene.wake(&instance).await?;
    let call = phone.next_invite(SOON).await?;
    scene.answer(&caller, &call).await?;
    assert_eq!(caller.responses().iter().filter(|(_, status)| *status == 180).count(), 1, "ringing is said once");
    assert_eq!(scene.api.progress(&instance, &text(&push["call"])).await?.status, 409, "it is answered");
    caller.bye(SOON).await?;
    scene.content_with(&[&caller], &[&phone])
}
