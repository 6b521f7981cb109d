//! When the caller hears ringing: the three settings of `call.early_ringing`, and the device's own word.

use std::time::Duration;

use serde_json::Value;
use sip::message::Name;
use tests::api_client::Instance;
use tests::apns::Answer;
use tests::board::Missed;
use tests::caller::Caller;
use tests::phone::IncomingCall;
use tests::world::{SOON, World, text};

use super::Outcome;

/// Alice's iPhone sleeps, and `call.early_ringing` is this.
async fn lent(early_ringing: &str) -> Result<(World, Instance), Missed> {
    World::lent_with(|setup| setup.early_ringing = early_ringing.to_owned()).await
}

/// The push of a call of Bob's, which the push service has accepted; he has heard nothing yet.
async fn pushed(world: &World) -> Result<(Caller, Value), Missed> {
    let (caller, push) = world.call_and_push().await?;
    world.await_metric("sipwake_pushes_total{provider=\"apns\",outcome=\"accepted\"}", 1.0).await?;
    assert_eq!(rang_after(&caller), None);
    Ok((caller, push))
}

/// When the first 180 came.
fn rang_after(caller: &Caller) -> Option<Duration> {
    caller.responses().iter().find(|(_, status)| *status == 180).map(|(after, _)| *after)
}

/// The call rings, as the device is told; Bob gives up.
async fn rings_until_given_up(world: &World, alice: &Instance, caller: &Caller, push: &Value) -> Outcome {
    world.await_state(alice, push, "ringing").await?;
    world.cancel(caller).await?;
    world.content()
}

#[tokio::test]
async fn ringing_immediately_does_not_wait_for_the_push_service() -> Outcome {
    let (world, alice) = lent("immediately").await?;
    world.apns.answer_all(Some(Answer::Slow(Duration::from_secs(3))));
    let caller = world.call()?;
    caller.expect(180, SOON).await?;
    assert!(rang_after(&caller) < Some(Duration::from_millis(2_500)));
    let push = world.push().await?;
    rings_until_given_up(&world, &alice, &caller, &push).await
}

#[tokio::test]
async fn ringing_after_the_push_was_accepted_waits_for_the_push_service() -> Outcome {
    let (world, alice) = lent("after-push-accepted").await?;
    world.apns.answer_all(Some(Answer::Slow(Duration::from_millis(1_200))));
    let (caller, push) = world.call_and_push().await?;
    world.await_state(&alice, &push, "waking").await?;
    caller.expect(180, SOON).await?;
    assert!(rang_after(&caller) >= Some(Duration::from_millis(1_200)));
    rings_until_given_up(&world, &alice, &caller, &push).await
}

#[tokio::test]
async fn ringing_after_the_device_rings_waits_for_the_device() -> Outcome {
    let (world, alice) = lent("after-device-rings").await?;
    let (caller, push) = pushed(&world).await?;
    let (_phone, call) = world.wake_to_call(&alice).await?;
    world.await_state(&alice, &push, "waking").await?;
    assert_eq!(rang_after(&caller), None);
    world.ring(&caller, &call).await?;
    world.await_state(&alice, &push, "ringing").await?;
    world.answer(&caller, &call).await?;
    caller.bye(SOON).await?;
    world.content()
}

#[tokio::test]
async fn a_device_that_says_it_makes_progress_lets_the_caller_hear_ringing() -> Outcome {
    let (world, alice) = lent("after-device-rings").await?;
    let (caller, push) = pushed(&world).await?;
    for _ in 0..2 {
        assert_eq!(world.api.progress(&alice, &text(&push["call"])).await?.status, 204);
    }
    caller.expect(180, SOON).await?;
    world.await_state(&alice, &push, "ringing").await?;
    let (_phone, call) = world.wake_to_call(&alice).await?;
    world.answer(&caller, &call).await?;
    assert_eq!(caller.responses().iter().filter(|(_, status)| *status == 180).count(), 1, "ringing is said once");
    assert_eq!(world.api.progress(&alice, &text(&push["call"])).await?.status, 409, "it is answered");
    caller.bye(SOON).await?;
    world.content()
}

/// The phone rings, and as its app is told, the call waits for its answer: longer than until this moment, by a minute at least.
async fn waits_for_answer(world: &World, alice: &Instance, call: &IncomingCall, until: u64) -> Outcome {
    call.ring();
    let id = call.invite().text(Name::SipwakeCall).unwrap_or_default();
    let is_later = || async {
        let deadline = world.api.call(alice, id).await.ok()?.json()["deadline"].as_u64();
        deadline.filter(|deadline| *deadline > until + 60)
    };
    world.until("a deadline that leaves time to answer", is_later).await.map(drop)
}

#[tokio::test]
async fn a_phone_that_rings_has_the_time_to_answer_whether_it_was_there_or_was_pushed_after_all() -> Outcome {
    let (world, alice) = World::lent().await?;
    let phone = world.wake(&alice).await?;
    let (caller, call) = world.rings_at(&phone).await?;
    let ring_timeout = world.api.call(&alice, call.invite().text(Name::SipwakeCall).unwrap_or_default()).await?.json();
    waits_for_answer(&world, &alice, &call, ring_timeout["deadline"].as_u64().unwrap_or_default()).await?;
    world.answer(&caller, &call).await?;
    world.phone_hangs_up(&caller, &call).await?;
    // Its app is suspended, and its kernel keeps the connection.
    phone.fall_silent();
    let (caller, push) = world.call_and_push().await?;
    let (_phone, call) = world.wake_to_call(&alice).await?;
    waits_for_answer(&world, &alice, &call, push["deadline"].as_u64().unwrap_or_default()).await?;
    world.await_metric("sipwake_calls_waiting", 0.0).await?;
    world.answer(&caller, &call).await?;
    world.phone_hangs_up(&caller, &call).await?;
    world.content()
}
