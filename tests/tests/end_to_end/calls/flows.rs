//! Devices whose connection is dead, breaks, or is replaced in the middle of a call.

use std::time::{Duration, Instant};

use tests::api_client::Instance;
use tests::board::Missed;
use tests::phone::{IncomingCall, Phone};
use tests::scene::{SOON, Scene};

use super::Outcome;

/// Four times real time: a relay that waits 8 s for a sign of life of a device, however busy this machine is.
const SLOW: f64 = 4.0;

#[tokio::test]
async fn a_phone_whose_flow_is_silent_gets_the_push_after_two_seconds() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let asleep = scene.wake(&instance).await?;
    asleep.fall_silent();
    let began = Instant::now();
    let caller = scene.call()?;
    let push = scene.apns.next_push(SOON).await;
    let after = push.map(|push| push.at.duration_since(began)).unwrap_or_default();
    assert!((Duration::from_millis(1_900)..Duration::from_secs(15)).contains(&after), "{after:?}");
    let phone = scene.wake(&instance).await?;
    let call = phone.next_invite(SOON).await?;
    scene.answer(&caller, &call).await?;
    scene.phone_hangs_up(&caller, &call).await?;
    assert_eq!((asleep.invited(), scene.apns.count()), (0, 1));
    scene.content_with(&[&caller], &[&phone])
}

#[tokio::test]
async fn a_phone_that_answers_on_its_flow_in_time_gets_no_push() -> Outcome {
    let scene = Scene::with(|setup| setup.timing = SLOW).await?;
    let instance = scene.enable().await?;
    let phone = scene.wake(&instance).await?;
    let (caller, call) = scene.rings_at(&phone).await?;
    call.leg().respond(100, &[], None);
    // Longer than the relay waits for a sign of life: the deadline passes on the relay's side while the call rings here.
    assert!(scene.apns.next_push(Duration::from_secs(9)).await.is_none());
    scene.answer(&caller, &call).await?;
    caller.bye(SOON).await?;
    assert_eq!(scene.apns.requests(), 0);
    scene.content_with(&[&caller], &[&phone])
}

#[tokio::test]
async fn a_phone_whose_flow_has_broken_gets_the_push_at_once() -> Outcome {
    let scene = Scene::with(|setup| setup.timing = SLOW).await?;
    let instance = scene.enable().await?;
    for _ in 0..3 {
        let gone = scene.wake(&instance).await?;
        gone.drop_connection();
        let began = Instant::now();
        let caller = scene.call()?;
        let push = scene.apns.next_push(SOON).await;
        let after = push.map(|push| push.at.duration_since(began));
        assert!(after.is_some_and(|after| after < Duration::from_secs(7)), "{after:?}");
        let phone = scene.wake(&instance).await?;
        let call = phone.next_invite(SOON).await?;
        scene.answer(&caller, &call).await?;
        caller.bye(SOON).await?;
        scene.content_with(&[&caller], &[&phone])?;
    }
    Ok(())
}

#[tokio::test]
async fn a_phone_that_loses_its_flow_while_it_rings_is_offered_the_call_again() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let (caller, _) = scene.call_and_push().await?;
    let first = scene.wake(&instance).await?;
    first.next_invite(SOON).await?.ring();
    caller.expect(180, SOON).await?;
    first.drop_connection();
    let phone = scene.wake(&instance).await?;
    let call = phone.next_invite(SOON).await?;
    scene.answer(&caller, &call).await?;
    scene.hang_up(&caller, &call).await?;
    assert_eq!(scene.apns.count(), 1, "never a second push for one call");
    scene.content_with(&[&caller], &[&phone])
}

#[tokio::test]
async fn a_call_whose_phone_changed_its_network_is_hung_up_from_either_side() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let mut phone = scene.wake(&instance).await?;
    for caller_ends in [true, false] {
        let (caller, call) = scene.answered_at(&phone).await?;
        phone.drop_connection();
        phone = scene.wake(&instance).await?;
        let call = phone.take_over(&call);
        scene.end(caller_ends, &caller, &call).await?;
        scene.content_with(&[&caller], &[&phone])?;
    }
    Ok(())
}

/// The phone comes back: its call goes on by a new connection, which is there before anything can come by it.
async fn comes_back(scene: &Scene, instance: &Instance, call: &IncomingCall) -> Result<(Phone, IncomingCall), Missed> {
    let phone = Phone::connect(scene.device(instance)).await?;
    let call = phone.take_over(call);
    assert_eq!(phone.register(SOON).await?.status(), Some(200));
    Ok((phone, call))
}

#[tokio::test]
async fn a_caller_who_hangs_up_while_the_phone_is_away_is_answered_when_it_comes_back() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let phone = scene.wake(&instance).await?;
    let (caller, call) = scene.answered_at(&phone).await?;
    phone.drop_connection();
    scene.await_metric("sipwake_edge_flows", 0.0).await?;
    let bye = caller.leg().send("BYE", &[], None);
    let (phone, call) = comes_back(&scene, &instance, &call).await?;
    call.expect_bye(SOON).await?;
    assert_eq!(caller.leg().final_response(&bye, SOON).await?.status(), Some(200));
    scene.content_with(&[&caller], &[&phone])
}

#[tokio::test]
async fn a_bye_that_was_lost_with_a_flow_comes_by_the_next_one() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let phone = scene.wake(&instance).await?;
    let (caller, call) = scene.answered_at(&phone).await?;
    phone.fall_silent();
    let bye = caller.leg().send("BYE", &[], None);
    // The relay's answer about its metrics comes after it has taken the BYE, sent before.
    scene.await_metric("sipwake_edge_flows", 1.0).await?;
    phone.drop_connection();
    let (phone, call) = comes_back(&scene, &instance, &call).await?;
    call.expect_bye(SOON).await?;
    assert_eq!(caller.leg().final_response(&bye, SOON).await?.status(), Some(200));
    scene.content_with(&[&caller], &[&phone])
}
