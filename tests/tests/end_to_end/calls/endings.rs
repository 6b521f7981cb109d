//! Calls that nobody answers: cancelled, declined, timed out, disabled. The caller hears why, the device stays quiet.

use std::time::Duration;

use tests::api_client::Instance;
use tests::world::{Ringing, SOON, World, text};

use super::Outcome;

/// A device that comes now is let in, is not rung, and leaves; it was pushed once.
async fn comes_late_and_is_not_rung(world: &World, alice: &Instance) -> Outcome {
    world.wakes_in_vain(alice).await?.unregister(SOON).await?;
    assert_eq!(world.apns.requests(), 1);
    world.content()
}

#[tokio::test]
async fn a_cancelled_call_never_rings_the_phone_that_wakes_late() -> Outcome {
    let (world, instance) = World::lent().await?;
    let (caller, push) = world.call_and_push().await?;
    world.await_state(&instance, &push, "ringing").await?;
    world.cancel(&caller).await?;
    world.await_state(&instance, &push, "cancelled").await?;
    comes_late_and_is_not_rung(&world, &instance).await
}

#[tokio::test]
async fn a_call_that_is_cancelled_while_the_phone_rings_stops_ringing() -> Outcome {
    let (world, instance) = World::lent().await?;
    let Ringing { caller, push, phone: _phone, call } = world.rings(&instance).await?;
    world.ring(&caller, &call).await?;
    world.cancel_ringing(&caller, &call).await?;
    world.await_state(&instance, &push, "cancelled").await?;
    world.content()
}

#[tokio::test]
async fn a_call_that_was_answered_elsewhere_says_so() -> Outcome {
    let (world, instance) = World::lent().await?;
    let (caller, push) = world.call_and_push().await?;
    caller.cancel_answered_elsewhere().await?;
    caller.expect(487, SOON).await?;
    world.await_state(&instance, &push, "answered-elsewhere").await?;
    comes_late_and_is_not_rung(&world, &instance).await
}

#[tokio::test]
async fn a_call_for_which_no_phone_comes_is_answered_480_at_the_ring_timeout() -> Outcome {
    let (world, instance) = World::lent_with(|setup| setup.ring_timeout = "2s".to_owned()).await?;
    let (caller, push) = world.call_and_push().await?;
    caller.expect(480, SOON).await?;
    let after = caller.responses().last().map(|(after, _)| *after).unwrap_or_default();
    assert!((Duration::from_millis(1_900)..Duration::from_secs(15)).contains(&after), "{after:?}");
    assert_eq!(push["deadline"].as_u64(), push["sent_at"].as_u64().map(|sent| sent + 2));
    world.await_state(&instance, &push, "timed-out").await?;
    comes_late_and_is_not_rung(&world, &instance).await
}

#[tokio::test]
async fn a_call_that_is_declined_by_the_app_is_answered_603() -> Outcome {
    let (world, instance) = World::lent().await?;
    let (caller, push) = world.call_and_push().await?;
    world.decline(&caller, &instance, &push).await?;
    world.await_state(&instance, &push, "declined").await?;
    let id = text(&push["call"]);
    assert_eq!(world.api.decline(&instance, &id).await?.status, 204, "again is no error");
    assert_eq!(world.api.progress(&instance, &id).await?.status, 409, "it is over");
    assert_eq!(world.api.decline(&instance, "c_unknown").await?.status, 404);
    comes_late_and_is_not_rung(&world, &instance).await
}

#[tokio::test]
async fn a_call_that_the_phone_declines_is_answered_as_it_says() -> Outcome {
    let (world, instance) = World::lent().await?;
    let phone = world.wake(&instance).await?;
    for status in [486, 603, 488] {
        let (caller, call) = world.rings_at(&phone).await?;
        call.ring();
        world.refuse(&caller, &call, status).await?;
        world.content()?;
    }
    phone.unregister(SOON).await?;
    let (caller, push) = world.call_and_push().await?;
    let phone = world.wake(&instance).await?;
    phone.next_invite(SOON).await?.decline(486);
    caller.expect(486, SOON).await?;
    world.await_state(&instance, &push, "declined").await
}

#[tokio::test]
async fn a_call_that_rings_and_is_never_answered_ends_at_the_answer_timeout() -> Outcome {
    let (world, instance) = World::lent_with(|setup| {
        setup.ring_timeout = "4s".to_owned();
        setup.answer_timeout = "4s".to_owned();
    })
    .await?;
    let Ringing { caller, push, phone: _phone, call } = world.rings(&instance).await?;
    world.ring(&caller, &call).await?;
    caller.expect(408, SOON).await?;
    call.expect_cancel(SOON).await?;
    world.await_state(&instance, &push, "timed-out").await?;
    world.content()
}

#[tokio::test]
async fn disabling_while_a_call_waits_ends_the_call_and_wipes_all() -> Outcome {
    let (world, instance) = World::lent().await?;
    let (caller, push) = world.call_and_push().await?;
    let receipt = world.api.disable(&instance).await?;
    assert_eq!((receipt.status, &receipt.json()["unregistered"]), (200, &serde_json::json!(true)));
    caller.expect(480, SOON).await?;
    world.await_contacts(0).await?;
    assert_eq!(world.api.read(&instance).await?.status, 404);
    assert_eq!(world.api.call(&instance, &text(&push["call"])).await?.status, 404);
    assert_eq!(world.api.disable(&instance).await?.json(), receipt.json(), "again: the same");
    assert!(world.wake(&instance).await.is_err(), "the secret opens nothing any more");
    world.await_metric("sipwake_wipes_total{reason=\"disabled\"}", 1.0).await?;
    assert_eq!(world.apns.requests(), 1);
    world.content()
}

#[tokio::test]
async fn a_call_whose_push_the_service_refuses_ends_at_once() -> Outcome {
    let world = World::start().await?;
    world.enable().await?;
    world.apns.answer_all(Some(tests::apns::Answer::DeviceTokenNotForTopic));
    let caller = world.call()?;
    caller.expect(480, SOON).await?;
    world.content()
}
