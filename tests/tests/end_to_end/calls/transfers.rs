//! Calls that take the place of a call (RFC 3891), as the second half of an attended transfer does.

use tests::caller::CallOptions;
use tests::world::{FCM_TOKEN, SOON, World};

use super::Outcome;

/// An INVITE in place of the call with this Call-ID.
fn in_place_of(call_id: &str) -> CallOptions {
    CallOptions::default().header("Replaces", &format!("{call_id};to-tag=alice;from-tag=bob"))
}

#[tokio::test]
async fn a_transfer_to_the_device_that_is_in_the_call_wakes_no_other_device_of_the_account() -> Outcome {
    for required in [true, false] {
        let (world, phone) = World::lent().await?;
        let talk = world.answered(&phone).await?;
        let _sleeps = world.enable_android().await?;
        let options = in_place_of(talk.call.invite().call_id().unwrap_or_default());
        let caller = world.call_with(&if required { options.header("Require", "replaces") } else { options })?;
        let transferred = talk.phone.next_invite(SOON).await?;
        world.answer(&caller, &transferred).await?;
        world.hang_up(&talk.caller, &talk.call).await?;
        world.hang_up(&caller, &transferred).await?;
        assert_eq!((world.apns.count(), world.fcm.count()), (1, 0), "the phone's first call; {FCM_TOKEN} sleeps");
        world.content()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_transfer_of_a_call_that_nobody_knows_waits_for_the_device_that_is_in_it() -> Outcome {
    let (world, phone) = World::lent().await?;
    let caller = world.call_with(&in_place_of("before-a-restart").header("Require", "replaces"))?;
    caller.expect(100, SOON).await?;
    let (_phone, call) = world.wake_to_call(&phone).await?;
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!(world.apns.count(), 0, "it came by itself");
    world.content()
}

#[tokio::test]
async fn a_call_that_may_be_any_call_for_a_phone_without_replaces_wakes_it() -> Outcome {
    let (world, phone) = World::lent().await?;
    let caller = world.call_with(&in_place_of("of-somebody-else"))?;
    world.push().await?;
    world.talks(&caller, &phone).await?;
    world.content()
}
