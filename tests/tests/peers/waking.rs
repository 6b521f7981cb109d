//! Kamailio holds the call by `docker/recipes/kamailio-wake.cfg`: it suspends the INVITE, asks the relay to wake the phone,
//! and sends the call on when the phone is there. With several relays it asks any of them.

use tests::sipp::Scenario;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};

use crate::{Outcome, World};

const WOKEN: &str = "sipwake_http_requests_total{route=\"/v1/wake\",status=\"200\"}";

#[tokio::test(flavor = "multi_thread")]
async fn kamailio_suspends_a_call_has_the_phone_woken_and_sends_the_call_to_it_without_a_second_push() -> Outcome {
    for transport in [Transport::Tls, Transport::Udp] {
        let (world, instance) = World::real_and_lent(Plan { wake: true, ..Plan::over(transport) }).await?;
        let caller = world.sipp_calls(Scenario::CallerHangsUp)?;
        let push = world.next_call_push(&instance).await?;
        // Kamailio holds the INVITE: the relay has pushed a call that it waits for itself.
        let phone = world.baresip(&instance).await?;
        phone.answer(1, SOON).await?;
        assert_eq!(world.state(&instance, &push).await?, "answered");
        caller.finish(SOON).await.unwrap_or_else(|missed| panic!("{missed}\n{}", world.registrar.output()));
        phone.await_event("CALL_CLOSED", SOON).await?;
        assert_eq!(world.pushes(), 1, "one push for one call");
        assert!(world.registrar.output().contains("sipwake answered 200"), "{}", world.registrar.output());
        assert_eq!(world.relay.metric(WOKEN).await, Some(1.0));

        // The phone is still there: the next call reaches it with no push at all.
        let caller = world.sipp_calls(Scenario::CallerHangsUp)?;
        phone.answer(2, SOON).await?;
        world.finished(caller).await?;
        assert_eq!((world.pushes(), world.relay.metric(WOKEN).await), (1, Some(2.0)));
        world.farewell(&instance).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kamailio_asks_one_node_to_wake_a_phone_that_another_one_has_and_sends_the_call_to_that_one() -> Outcome {
    let mut world = World::real(Plan { wake: true, redis: true, ..Plan::over(Transport::Tls) }).await?;
    let asked = world.move_to_another_node().await?;
    let instance = world.lend_own().await?;
    let (caller, push, _phone) = world.sipp_is_answered(&instance, Scenario::CallerHangsUp).await?;
    assert_eq!(world.state(&instance, &push).await?, "answered", "the call that was pushed");
    caller.finish(SOON).await.unwrap_or_else(|missed| panic!("{missed}\n{}", world.registrar.output()));
    assert_eq!(world.pushes(), 1, "one push for one call");
    assert!(world.registrar.output().contains("sipwake answered 200"), "{}", world.registrar.output());
    assert_eq!(asked.metric(WOKEN).await, Some(1.0));
    world.leave_last(&instance).await?;
    world.keep_log_of(asked);
    world.end().await
}
