//! Kamailio holds the call by `docker/recipes/kamailio-wake.cfg`: it suspends the INVITE, asks the relay to wake the phone,
//! and sends the call on when the phone is there. With several relays it asks any of them.

use tests::sipp::Scenario;
use tests::wire::Transport;

use crate::world::{Plan, SOON, World};

const WOKEN: &str = "sipwake_http_requests_total{route=\"/v1/wake\",status=\"200\"}";

#[tokio::test(flavor = "multi_thread")]
async fn kamailio_suspends_a_call_has_the_phone_woken_and_sends_the_call_to_it_without_a_second_push() {
    for transport in [Transport::Tls, Transport::Udp] {
        let mut world = World::start(Plan { wake: true, ..Plan::over(transport) }).await;
        let instance = world.enable().await;
        let caller = world.call(Scenario::CallerHangsUp);
        let call = world.next_call_push(&instance).await;
        // Kamailio holds the INVITE: the relay has pushed a call that it waits for itself.
        let phone = world.wake(&instance).await;
        phone.await_rung(1, SOON).await.unwrap();
        phone.accept().await.unwrap();
        phone.await_event("CALL_ESTABLISHED", SOON).await.unwrap();
        assert_eq!(world.call_state(&instance, &call).await, "answered", "the call that was pushed");
        caller.finish(SOON).await.unwrap_or_else(|missed| panic!("{missed}\n{}", world.kamailio.output()));
        phone.await_event("CALL_CLOSED", SOON).await.unwrap();
        assert_eq!(world.pushes(), 1, "one push for one call");
        assert!(world.kamailio.output().contains("sipwake answered 200"), "{}", world.kamailio.output());
        assert_eq!(world.relay.metric(WOKEN).await, Some(1.0));

        // The phone is still there: the next call reaches it with no push at all.
        let caller = world.call(Scenario::CallerHangsUp);
        phone.await_rung(2, SOON).await.unwrap();
        phone.accept().await.unwrap();
        caller.finish(SOON).await.unwrap();
        assert_eq!((world.pushes(), world.relay.metric(WOKEN).await), (1, Some(2.0)));
        world.disable(&instance).await;
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kamailio_asks_one_node_to_wake_a_phone_that_another_one_has_and_sends_the_call_to_that_one() {
    let mut world = World::start(Plan { wake: true, redis: true, ..Plan::over(Transport::Tls) }).await;
    let asked = world.move_to_another_node().await;
    let instance = world.enable().await;
    let (caller, call, phone) = world.answered(&instance, Scenario::CallerHangsUp).await;
    phone.await_event("CALL_ESTABLISHED", SOON).await.unwrap();
    assert_eq!(world.call_state(&instance, &call).await, "answered", "the call that was pushed");
    caller.finish(SOON).await.unwrap_or_else(|missed| panic!("{missed}\n{}", world.kamailio.output()));
    assert_eq!(world.pushes(), 1, "one push for one call");
    assert!(world.kamailio.output().contains("sipwake answered 200"), "{}", world.kamailio.output());
    assert_eq!(asked.metric(WOKEN).await, Some(1.0));
    world.disable(&instance).await;
    world.keep_log_of(asked);
    world.end().await;
}
