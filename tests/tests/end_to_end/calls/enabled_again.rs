//! An app that enables again while a call waits for its phone, rings there, or stands: the call goes on in the name of the new instance.

use serde_json::json;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::world::{OTHER_TOKEN, Ringing, SOON, TOKEN, World, text};

use super::Outcome;

/// The same app, account and push token; the earlier instance has ended.
async fn again(world: &World, earlier: &Instance) -> Result<Instance, Missed> {
    let later = world.enable().await?;
    world.await_gone(earlier).await?;
    Ok(later)
}

#[tokio::test]
async fn a_call_that_waits_rings_the_new_instance_with_the_push_of_the_earlier_one() -> Outcome {
    let (world, earlier) = World::lent().await?;
    let (caller, push) = world.call_and_push().await?;
    let later = again(&world, &earlier).await?;
    world.await_state(&later, &push, "ringing").await?;
    assert_eq!(world.api.call(&earlier, &text(&push["call"])).await?.status, 404, "its secret is gone");
    world.await_metric("sipwake_calls_waiting", 1.0).await?;
    let (phone, call) = world.wake_to_call(&later).await?;
    world.answer(&caller, &call).await?;
    world.await_state(&later, &push, "answered").await?;
    world.hang_up(&caller, &call).await?;
    phone.unregister(SOON).await?;
    assert_eq!(world.apns.requests(), 1);
    world.await_metric("sipwake_calls_waiting", 0.0).await?;
    // And it is called.
    world.whole_call(&later).await
}

#[tokio::test]
async fn a_call_that_waits_is_declined_in_the_name_of_the_new_instance() -> Outcome {
    let (world, earlier) = World::lent().await?;
    let (caller, push) = world.call_and_push().await?;
    let later = again(&world, &earlier).await?;
    world.decline(&caller, &later, &push).await?;
    world.await_state(&later, &push, "declined").await?;
    world.content()
}

#[tokio::test]
async fn a_call_that_was_over_before_is_told_of_to_the_new_instance() -> Outcome {
    let (world, earlier) = World::lent().await?;
    let (caller, push) = world.call_and_push().await?;
    world.cancel(&caller).await?;
    world.await_state(&earlier, &push, "cancelled").await?;
    let later = again(&world, &earlier).await?;
    world.await_state(&later, &push, "cancelled").await?;
    assert_eq!(world.api.decline(&later, &text(&push["call"])).await?.status, 409);
    let third = again(&world, &later).await?;
    world.await_state(&third, &push, "cancelled").await?;
    let other = world.enable_other().await?;
    assert_eq!(world.api.call(&other, &text(&push["call"])).await?.status, 404, "it is no other device's");
    world.content()
}

#[tokio::test]
async fn a_phone_that_rings_as_the_earlier_instance_rings_on() -> Outcome {
    for caller_ends in [true, false] {
        let (world, earlier) = World::lent().await?;
        let Ringing { caller, push, phone: _phone, call } = world.rings(&earlier).await?;
        world.ring(&caller, &call).await?;
        let later = again(&world, &earlier).await?;
        world.answer(&caller, &call).await?;
        world.await_state(&later, &push, "answered").await?;
        world.end(caller_ends, &caller, &call).await?;
        assert_eq!(world.apns.requests(), 1);
        world.content()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_call_that_stands_goes_on_and_its_end_is_in_the_story_of_the_new_instance() -> Outcome {
    let (world, earlier) = World::lent().await?;
    let Ringing { caller, phone: _phone, call, .. } = world.answered(&earlier).await?;
    let later = again(&world, &earlier).await?;
    world.phone_hangs_up(&caller, &call).await?;
    let hung_up = || async {
        let timeline = world.api.of("GET", &later, "/timeline").await.ok()?;
        timeline.text().contains(r#""by":"device""#).then_some(())
    };
    world.until("the end of the call", hung_up).await?;
    world.content()
}

#[tokio::test]
async fn a_call_of_an_account_that_is_enabled_again_in_vain_or_on_another_device_is_the_earlier_one_s() -> Outcome {
    let (world, earlier) = World::lent().await?;
    let (caller, push) = world.call_and_push().await?;
    let mut wrong = world.enable_request(TOKEN);
    wrong["account"]["password"] = "looking glass".into();
    let refused = world.api.enable(&wrong).await?;
    assert_eq!((refused.status, &refused.json()["type"]), (422, &json!("urn:sipwake:problem:upstream-refused")));
    let other = world.enable_as(&world.enable_request(OTHER_TOKEN)).await?;
    assert_eq!(world.api.call(&other, &text(&push["call"])).await?.status, 404);
    let (_phone, call) = world.wake_to_call(&earlier).await?;
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!(world.apns.requests(), 1);
    world.content()
}

#[tokio::test]
async fn a_call_of_an_instance_that_is_disabled_ends_with_it() -> Outcome {
    let (world, earlier) = World::lent().await?;
    let (caller, _push) = world.call_and_push().await?;
    world.disable(&earlier).await?;
    caller.expect(480, SOON).await?;
    let later = world.enable().await?;
    world.wakes_in_vain(&later).await?;
    world.content()
}
