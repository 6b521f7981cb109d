//! Kamailio keeps the call waiting by `docker/recipes/kamailio-wake.cfg`: it suspends the INVITE, asks the relay to wake the phone,
//! and sends the call on when the phone is there. With several relays it asks any of them.

use tests::relay_setup::Setup;
use tests::sipp::Scenario;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};

use crate::desk_phone::DeskPhone;
use crate::{Outcome, World};

const WOKEN: &str = "sipwake_http_requests_total{route=\"/v1/wake\",status=\"200\"}";
/// The host of the relay's Contact where another one of the account is known by its address alone.
const PUBLIC_HOST: (&str, &str) = ("SIPWAKE_UPSTREAM__PUBLIC_HOST", "localhost");

#[tokio::test(flavor = "multi_thread")]
async fn kamailio_suspends_a_call_has_the_phone_woken_and_sends_the_call_to_it_without_a_second_push() -> Outcome {
    for transport in [Transport::Tls, Transport::Udp] {
        let (world, instance) = World::real_and_lent(Plan { wake: true, ..Plan::over(transport) }).await?;
        let caller = world.sipp_calls(Scenario::CallerHangsUp)?;
        let push = world.next_call_push(&instance).await?;
        // Kamailio keeps the INVITE waiting: the relay has pushed a call that it waits for itself.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_desk_phone_beside_the_relay_rings_when_no_phone_of_the_relay_has_come() -> Outcome {
    for transport in [Transport::Udp, Transport::Tls] {
        let plan = Plan { wake: true, wake_wait_ms: 2_000, ..Plan::over(transport) };
        let named = |setup: &mut Setup| setup.environment.push((PUBLIC_HOST.0.to_owned(), PUBLIC_HOST.1.to_owned()));
        let world = World::real_with(plan, named).await?;
        let instance = world.lend_own().await?;
        let desk = DeskPhone::start(&world).await?;
        // The phone sleeps for good.
        let caller = world.sipp_calls(Scenario::CallerHangsUp)?;
        world.next_call_push(&instance).await?;
        desk.takes(&world, 1, caller).await?;
        assert!(world.registrar.output().contains("sipwake answered 504"), "{}", world.registrar.output());
        assert_eq!(world.pushes(), 1, "the relay got no INVITE");

        // Where nothing else is registered the caller hears that nobody is there, and the phone may come to the next call.
        desk.leaves(&world).await?;
        world.finished(world.sipp_calls(Scenario::Refused(480))?).await?;
        let told = world.registrar.output().matches("sipwake answered 504").count();
        assert_eq!((told, world.pushes()), (2, 2), "another call, and another push");
        world.farewell(&instance).await?;
    }
    Ok(())
}
