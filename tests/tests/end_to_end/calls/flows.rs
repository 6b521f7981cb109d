//! Devices whose connection is dead, breaks, or is replaced in the middle of a call.

use std::time::{Duration, Instant};

use tests::api_client::Instance;
use tests::caller::{CallOptions, Caller};
use tests::leg::Sent;
use tests::phone::{IncomingCall, Phone};
use tests::wire::Transport;
use tests::world::{Ringing, SOON, World};

use super::Outcome;

/// Four times real time: a relay that waits 8 s for a sign of life of a device, however busy this machine is.
const SLOW: f64 = 4.0;

#[tokio::test]
async fn a_phone_whose_flow_is_silent_gets_the_push_after_two_seconds() -> Outcome {
    let (world, instance) = World::lent().await?;
    let asleep = world.wake(&instance).await?;
    asleep.fall_silent();
    let began = Instant::now();
    let caller = world.call()?;
    let push = world.apns.next_push(SOON).await;
    let after = push.map(|push| push.at.duration_since(began)).unwrap_or_default();
    assert!((Duration::from_millis(1_900)..Duration::from_secs(15)).contains(&after), "{after:?}");
    let (_phone, call) = world.wake_to_call(&instance).await?;
    world.answer(&caller, &call).await?;
    world.phone_hangs_up(&caller, &call).await?;
    assert_eq!((asleep.invited(), world.apns.count()), (0, 1));
    world.content()
}

#[tokio::test]
async fn a_phone_that_answers_on_its_flow_in_time_gets_no_push() -> Outcome {
    let (world, instance) = World::lent_with(|setup| setup.timing = SLOW).await?;
    let phone = world.wake(&instance).await?;
    let (caller, call) = world.rings_at(&phone).await?;
    call.leg().respond(100, &[], None);
    // Longer than the relay waits for a sign of life: the deadline passes on the relay's side while the call rings here.
    assert!(world.apns.next_push(Duration::from_secs(9)).await.is_none());
    world.answer(&caller, &call).await?;
    caller.bye(SOON).await?;
    assert_eq!(world.apns.requests(), 0);
    world.content()
}

#[tokio::test]
async fn a_phone_whose_flow_has_broken_gets_the_push_at_once() -> Outcome {
    let (world, instance) = World::lent_with(|setup| setup.timing = SLOW).await?;
    for _ in 0..3 {
        let gone = world.wake(&instance).await?;
        gone.drop_connection();
        let began = Instant::now();
        let caller = world.call()?;
        let push = world.apns.next_push(SOON).await;
        let after = push.map(|push| push.at.duration_since(began));
        assert!(after.is_some_and(|after| after < Duration::from_secs(7)), "{after:?}");
        world.talks(&caller, &instance).await?;
        world.content()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_phone_that_loses_its_flow_while_it_rings_is_offered_the_call_again() -> Outcome {
    let (world, instance) = World::lent().await?;
    let (caller, _) = world.call_and_push().await?;
    let first = world.wake(&instance).await?;
    first.next_invite(SOON).await?.ring();
    caller.expect(180, SOON).await?;
    first.drop_connection();
    let (_phone, call) = world.wake_to_call(&instance).await?;
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!(world.apns.count(), 1, "never a second push for one call");
    world.content()
}

#[tokio::test]
async fn a_call_whose_phone_changed_its_network_is_hung_up_from_either_side() -> Outcome {
    let (world, instance) = World::lent().await?;
    let mut phone = world.wake(&instance).await?;
    for caller_ends in [true, false] {
        let (caller, call) = world.answered_at(&phone).await?;
        phone.drop_connection();
        phone = world.wake(&instance).await?;
        let call = phone.take_over(&call);
        world.end(caller_ends, &caller, &call).await?;
        world.content()?;
    }
    Ok(())
}

/// The phone comes back: its call goes on by a new connection, which is there before anything can come by it. The BYE that the
/// caller has sent meanwhile reaches it, and is answered.
async fn comes_back_to_a_bye(
    world: &World,
    instance: &Instance,
    caller: &Caller,
    bye: &Sent,
    call: &IncomingCall,
) -> Outcome {
    let phone = Phone::connect(world.device(instance)).await?;
    world.watch_phone(&phone);
    let call = phone.take_over(call);
    assert_eq!(phone.register(SOON).await?.status(), Some(200));
    call.expect_bye(SOON).await?;
    assert_eq!(caller.leg().final_response(bye, SOON).await?.status(), Some(200));
    world.content()
}

#[tokio::test]
async fn a_caller_who_hangs_up_while_the_phone_is_away_is_answered_when_it_comes_back() -> Outcome {
    let (world, instance) = World::lent().await?;
    let Ringing { caller, phone, call, .. } = world.answered(&instance).await?;
    phone.drop_connection();
    world.await_all_asleep().await?;
    let bye = caller.leg().send("BYE", &[], None);
    comes_back_to_a_bye(&world, &instance, &caller, &bye, &call).await
}

#[tokio::test]
async fn a_bye_that_was_lost_with_a_flow_comes_by_the_next_one() -> Outcome {
    let (world, instance) = World::lent().await?;
    let Ringing { caller, phone, call, .. } = world.answered(&instance).await?;
    phone.fall_silent();
    let bye = caller.leg().send("BYE", &[], None);
    // The relay's answer about its metrics comes after it has taken the BYE, sent before.
    world.await_metric("sipwake_edge_flows", 1.0).await?;
    phone.drop_connection();
    comes_back_to_a_bye(&world, &instance, &caller, &bye, &call).await
}

#[tokio::test]
async fn a_server_whose_own_connection_ends_hears_the_answer_by_one_that_the_relay_opens() -> Outcome {
    // RFC 3261 §18.2.2. The account is registered by UDP, and called by TLS.
    let world = World::over(Transport::Udp).await?;
    let instance = world.enable().await?;
    let phone = world.wake(&instance).await?;
    let relay = world.relay.upstream(Transport::Tls);
    let caller = world.registrar.call_anew(&world.aor(), relay, &CallOptions::default()).await?;
    let call = phone.next_invite(SOON).await?;
    world.ring(&caller, &call).await?;
    caller.leg().drop_connection();
    // The phone repeats it until it is acknowledged, so nothing hangs on which of the two reaches the relay first.
    call.answer();
    caller.answered(SOON).await.map(drop)
}
