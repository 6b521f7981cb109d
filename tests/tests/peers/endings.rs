//! Calls that are not answered: cancelled, timed out, declined; and which phone needs a push at all.

use tests::api_client::Instance;
use tests::sipp::Scenario;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};
use tests::world::text;

use crate::{Outcome, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_never_rings_the_phone_that_wakes_late() -> Outcome {
    for transport in [Transport::Udp, Transport::Tls] {
        let (world, instance) = World::real_and_lent(Plan::over(transport)).await?;
        let caller = world.sipp_calls(Scenario::CallerCancels)?;
        let push = world.next_call_push(&instance).await?;
        let wire = world.finished(caller).await?;
        assert!(wire.contains("SIP/2.0 487"), "{wire}");
        assert_eq!(world.state(&instance, &push).await?, "cancelled");

        let phone = world.baresip(&instance).await?;
        // A call that follows is the first to ring: the cancelled one did not.
        world.sipp_is_refused(&phone, 1).await?;
        assert_eq!(phone.rung(), 1);
        assert_eq!(world.pushes(), 1, "the phone was there for the second call");
        world.end().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_no_device_comes_for_ends_with_480_at_the_ring_timeout() -> Outcome {
    let plan = Plan { ring_timeout: "2s", ..Plan::over(Transport::Tls) };
    let (world, instance) = World::real_and_lent(plan).await?;
    let began = std::time::Instant::now();
    let caller = world.sipp_calls(Scenario::Refused(480))?;
    let push = world.next_call_push(&instance).await?;
    world.finished(caller).await?;
    let lasted = began.elapsed().as_secs_f64();
    assert!((2.0..6.0).contains(&lasted), "{lasted} s");
    assert_eq!(world.state(&instance, &push).await?, "timed-out");

    let phone = world.baresip(&instance).await?;
    world.sipp_is_refused(&phone, 1).await?;
    assert_eq!((phone.rung(), world.pushes()), (1, 1), "the call that was given up never rang");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_declined_from_the_notification_ends_with_603() -> Outcome {
    let plan = Plan { provider: "fcm", ..Plan::over(Transport::Udp) };
    let (world, instance) = World::real_and_lent(plan).await?;
    let caller = world.sipp_calls(Scenario::Refused(603))?;
    let push = world.next_call_push(&instance).await?;
    let answer = world.api.decline(&instance, &text(&push["call"])).await?;
    assert_eq!(answer.status, 204, "{}", answer.text());
    world.finished(caller).await?;
    assert_eq!(world.state(&instance, &push).await?, "declined");
    assert_eq!(world.next_push(&instance).await?["event"], "call-ended");
    world.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_is_attached_gets_the_call_at_once_and_a_dead_one_gets_the_push() -> Outcome {
    let (world, instance) = World::real_and_lent(Plan::over(Transport::Tls)).await?;
    let phone = world.baresip(&instance).await?;
    for (nth, scenario) in [Scenario::CallerHangsUp, Scenario::CalleeHangsUp].into_iter().enumerate() {
        let caller = world.sipp_calls(scenario)?;
        phone.answer(nth + 1, SOON).await?;
        if scenario == Scenario::CalleeHangsUp {
            phone.hang_up().await?;
        }
        world.finished(caller).await?;
        phone.await_event("CALL_CLOSED", SOON).await?;
    }
    assert_eq!(world.pushes(), 0);

    phone.kill().await?;
    one_push_wakes_the_phone_that_answers(world, &instance).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_whose_connection_is_open_but_silent_gets_the_push() -> Outcome {
    let (world, instance) = World::real_and_lent(Plan::over(Transport::Tls)).await?;
    let frozen = world.baresip(&instance).await?;
    frozen.freeze();
    one_push_wakes_the_phone_that_answers(world, &instance).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_calls_at_once_for_one_phone_both_reach_it() -> Outcome {
    let (world, instance) = World::real_and_lent(Plan::over(Transport::Tls)).await?;
    let callers = [world.sipp_calls(Scenario::Refused(486))?, world.sipp_calls(Scenario::Refused(486))?];
    let calls = [world.next_call_push(&instance).await?, world.next_call_push(&instance).await?];
    assert_ne!(calls[0]["call"], calls[1]["call"]);
    let phone = world.baresip(&instance).await?;
    phone.await_rung(2, SOON).await?;
    for _ in &callers {
        phone.hang_up().await?;
    }
    for caller in callers {
        world.finished(caller).await?;
    }
    assert_eq!((phone.rung(), world.pushes()), (2, 2));
    world.end().await
}

/// The first push of this world.
async fn one_push_wakes_the_phone_that_answers(world: World, instance: &Instance) -> Outcome {
    let (caller, push, _phone) = world.sipp_is_answered(instance, Scenario::CallerHangsUp).await?;
    world.finished(caller).await?;
    assert_eq!(world.state(instance, &push).await?, "answered");
    assert_eq!(world.pushes(), 1);
    world.end().await
}
