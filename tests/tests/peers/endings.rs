//! Calls that are not answered: cancelled, timed out, declined; and which phone needs a push at all.

use tests::api_client::Instance;
use tests::sipp::Scenario;
use tests::wire::Transport;

use crate::world::{Plan, SOON, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_never_rings_the_phone_that_wakes_late() {
    for transport in [Transport::Udp, Transport::Tls] {
        let mut world = World::start(Plan::over(transport)).await;
        let instance = world.enable().await;
        let caller = world.call(Scenario::CallerCancels);
        let call = world.next_call_push(&instance).await;
        let wire = caller.finish(SOON).await.unwrap();
        assert!(wire.contains("SIP/2.0 487"), "{wire}");
        assert_eq!(world.call_state(&instance, &call).await, "cancelled");

        let phone = world.wake(&instance).await;
        // A call that follows is the first to ring: the cancelled one did not.
        let caller = world.call(Scenario::Refused(486));
        phone.await_rung(1, SOON).await.unwrap();
        phone.hang_up().await.unwrap();
        caller.finish(SOON).await.unwrap();
        assert_eq!(phone.rung(), 1);
        assert_eq!(world.pushes(), 1, "the phone was there for the second call");
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_no_device_comes_for_ends_with_480_at_the_ring_timeout() {
    let plan = Plan { ring_timeout: "2s", ..Plan::over(Transport::Tls) };
    let mut world = World::start(plan).await;
    let instance = world.enable().await;
    let began = std::time::Instant::now();
    let caller = world.call(Scenario::Refused(480));
    let call = world.next_call_push(&instance).await;
    caller.finish(SOON).await.unwrap();
    let lasted = began.elapsed().as_secs_f64();
    assert!((2.0..6.0).contains(&lasted), "{lasted} s");
    assert_eq!(world.call_state(&instance, &call).await, "timed-out");

    let phone = world.wake(&instance).await;
    let caller = world.call(Scenario::Refused(486));
    phone.await_rung(1, SOON).await.unwrap();
    phone.hang_up().await.unwrap();
    caller.finish(SOON).await.unwrap();
    assert_eq!((phone.rung(), world.pushes()), (1, 1), "the call that was given up never rang");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_declined_from_the_notification_ends_with_603() {
    let plan = Plan { provider: "fcm", ..Plan::over(Transport::Udp) };
    let mut world = World::start(plan).await;
    let instance = world.enable().await;
    let caller = world.call(Scenario::Refused(603));
    let call = world.next_call_push(&instance).await;
    let answer = world.api.decline(&instance, &call).await.unwrap();
    assert_eq!(answer.status, 204, "{}", answer.text());
    caller.finish(SOON).await.unwrap();
    assert_eq!(world.call_state(&instance, &call).await, "declined");
    assert_eq!(world.next_push().await["event"], "call-ended");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_is_attached_gets_the_call_at_once_and_a_dead_one_gets_the_push() {
    let mut world = World::start(Plan::over(Transport::Tls)).await;
    let instance = world.enable().await;
    let phone = world.wake(&instance).await;
    for (nth, scenario) in [Scenario::CallerHangsUp, Scenario::CalleeHangsUp].into_iter().enumerate() {
        let caller = world.call(scenario);
        phone.await_rung(nth + 1, SOON).await.unwrap();
        phone.accept().await.unwrap();
        phone.await_event("CALL_ESTABLISHED", SOON).await.unwrap();
        if scenario == Scenario::CalleeHangsUp {
            phone.hang_up().await.unwrap();
        }
        caller.finish(SOON).await.unwrap();
        phone.await_event("CALL_CLOSED", SOON).await.unwrap();
    }
    assert_eq!(world.pushes(), 0);

    phone.kill().await.unwrap();
    one_push_wakes_the_phone_that_answers(world, &instance).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_whose_connection_is_open_but_silent_gets_the_push() {
    let mut world = World::start(Plan::over(Transport::Tls)).await;
    let instance = world.enable().await;
    let frozen = world.wake(&instance).await;
    frozen.freeze();
    one_push_wakes_the_phone_that_answers(world, &instance).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_calls_at_once_for_one_phone_both_reach_it() {
    let mut world = World::start(Plan::over(Transport::Tls)).await;
    let instance = world.enable().await;
    let callers = [world.call(Scenario::Refused(486)), world.call(Scenario::Refused(486))];
    let mut calls = [world.next_call_push(&instance).await, world.next_call_push(&instance).await];
    calls.sort_unstable();
    assert_ne!(calls[0], calls[1]);
    let phone = world.wake(&instance).await;
    phone.await_rung(2, SOON).await.unwrap();
    for _ in &callers {
        phone.hang_up().await.unwrap();
    }
    for caller in callers {
        caller.finish(SOON).await.unwrap();
    }
    assert_eq!((phone.rung(), world.pushes()), (2, 2));
    world.end().await;
}

/// The first push of this world.
async fn one_push_wakes_the_phone_that_answers(world: World, instance: &Instance) {
    let (caller, call, _phone) = world.answered(instance, Scenario::CallerHangsUp).await;
    caller.finish(SOON).await.unwrap();
    assert_eq!(world.call_state(instance, &call).await, "answered");
    assert_eq!(world.pushes(), 1);
    world.end().await;
}
