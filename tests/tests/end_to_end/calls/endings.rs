//! Calls that nobody answers: cancelled, declined, timed out, disabled. The caller hears why, the device stays quiet.

use std::time::Duration;

use tests::api_client::Instance;
use tests::scene::{Ringing, SOON, Scene, text};

use super::Outcome;

/// A device that comes now is let in and not rung.
async fn comes_late_and_is_not_rung(scene: &Scene, instance: &Instance) -> Outcome {
    let phone = scene.wake(instance).await?;
    // The pong comes after whatever followed the registration.
    phone.ping(SOON).await?;
    assert_eq!(phone.invited(), 0);
    phone.unregister(SOON).await?;
    scene.content_with(&[], &[&phone])
}

#[tokio::test]
async fn a_cancelled_call_never_rings_the_phone_that_wakes_late() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let (caller, push) = scene.call_and_push().await?;
    scene.await_state(&instance, &push, "ringing").await?;
    scene.cancel(&caller).await?;
    scene.await_state(&instance, &push, "cancelled").await?;
    comes_late_and_is_not_rung(&scene, &instance).await?;
    assert_eq!(scene.apns.requests(), 1);
    scene.content_with(&[&caller], &[])
}

#[tokio::test]
async fn a_call_that_is_cancelled_while_the_phone_rings_stops_ringing() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let Ringing { caller, push, phone, call } = scene.rings(&instance).await?;
    call.ring();
    caller.expect(180, SOON).await?;
    caller.cancel().await?;
    call.expect_cancel(SOON).await?;
    caller.expect(487, SOON).await?;
    call.expect_ack(SOON).await?;
    scene.await_state(&instance, &push, "cancelled").await?;
    scene.content_with(&[&caller], &[&phone])
}

#[tokio::test]
async fn a_call_that_was_answered_elsewhere_says_so() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let (caller, push) = scene.call_and_push().await?;
    caller.cancel_answered_elsewhere().await?;
    caller.expect(487, SOON).await?;
    scene.await_state(&instance, &push, "answered-elsewhere").await?;
    comes_late_and_is_not_rung(&scene, &instance).await
}

#[tokio::test]
async fn a_call_for_which_no_phone_comes_is_answered_480_at_the_ring_timeout() -> Outcome {
    let scene = Scene::with(|setup| setup.ring_timeout = "2s".to_owned()).await?;
    let instance = scene.enable().await?;
    let (caller, push) = scene.call_and_push().await?;
    caller.expect(480, SOON).await?;
    let after = caller.responses().last().map(|(after, _)| *after).unwrap_or_default();
    assert!((Duration::from_millis(1_900)..Duration::from_secs(15)).contains(&after), "{after:?}");
    assert_eq!(push["deadline"].as_u64(), push["sent_at"].as_u64().map(|sent| sent + 2));
    scene.await_state(&instance, &push, "timed-out").await?;
    comes_late_and_is_not_rung(&scene, &instance).await?;
    assert_eq!(scene.apns.requests(), 1);
    scene.content_with(&[&caller], &[])
}

#[tokio::test]
async fn a_call_that_is_declined_by_the_app_is_answered_603() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let (caller, push) = scene.call_and_push().await?;
    let id = text(&push["call"]);
    assert_eq!(scene.api.decline(&instance, &id).await?.status, 204);
    caller.expect(603, SOON).await?;
    scene.await_state(&instance, &push, "declined").await?;
    assert_eq!(scene.api.decline(&instance, &id).await?.status, 204, "again is no error");
    assert_eq!(scene.api.progress(&instance, &id).await?.status, 409, "it is over");
    assert_eq!(scene.api.decline(&instance, "c_unknown").await?.status, 404);
    comes_late_and_is_not_rung(&scene, &instance).await?;
    scene.content_with(&[&caller], &[])
}

#[tokio::test]
async fn a_call_that_the_phone_declines_is_answered_as_it_says() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let phone = scene.wake(&instance).await?;
    for status in [486, 603, 488] {
        let (caller, call) = scene.rings_at(&phone).await?;
        call.ring();
        call.decline(status);
        caller.expect(status, SOON).await?;
        call.expect_ack(SOON).await?;
        scene.content_with(&[&caller], &[&phone])?;
    }
    phone.unregister(SOON).await?;
    let (caller, push) = scene.call_and_push().await?;
    let phone = scene.wake(&instance).await?;
    phone.next_invite(SOON).await?.decline(486);
    caller.expect(486, SOON).await?;
    scene.await_state(&instance, &push, "declined").await
}

#[tokio::test]
async fn a_call_that_rings_and_is_never_answered_ends_at_the_answer_timeout() -> Outcome {
    let scene = Scene::with(|setup| {
        setup.ring_timeout = "4s".to_owned();
        setup.answer_timeout = "4s".to_owned();
    })
    .await?;
    let instance = scene.enable().await?;
    let Ringing { caller, push, phone, call } = scene.rings(&instance).await?;
    call.ring();
    caller.expect(180, SOON).await?;
    caller.expect(408, SOON).await?;
    call.expect_cancel(SOON).await?;
    scene.await_state(&instance, &push, "timed-out").await?;
    scene.content_with(&[&caller], &[&phone])
}

#[tokio::test]
async fn disabling_while_a_call_is_held_ends_the_call_and_wipes_all() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let (caller, push) = scene.call_and_push().await?;
    let receipt = scene.api.disable(&instance).await?;
    assert_eq!((receipt.status, &receipt.json()["unregistered"]), (200, &serde_json::json!(true)));
    caller.expect(480, SOON).await?;
    scene.registrar.await_contacts(&scene.aor(), 0, SOON).await?;
    assert_eq!(scene.api.read(&instance).await?.status, 404);
    assert_eq!(scene.api.call(&instance, &text(&push["call"])).await?.status, 404);
    assert_eq!(scene.api.disable(&instance).await?.json(), receipt.json(), "again: the same");
    assert!(scene.wake(&instance).await.is_err(), "the secret opens nothing any more");
    scene.await_metric("sipwake_wipes_total{reason=\"disabled\"}", 1.0).await?;
    assert_eq!(scene.apns.requests(), 1);
    scene.content_with(&[&caller], &[])
}

#[tokio::test]
async fn a_call_whose_push_the_service_refuses_ends_at_once() -> Outcome {
    let scene = Scene::start().await?;
    scene.enable().await?;
    scene.apns.answer_all(Some(tests::apns::Answer::DeviceTokenNotForTopic));
    let caller = scene.call()?;
    caller.expect(480, SOON).await?;
    scene.content_with(&[&caller], &[])
}
