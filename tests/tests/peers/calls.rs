//! The main job over each transport: a call wakes the phone, is answered, and ends.

use tests::digest::Algorithm;
use tests::kamailio::Reach;
use tests::sipp::Scenario;
use tests::wire::Transport;

use crate::world::{Plan, SOON, World, new_push_token};

plays! { ring:
    fn a_call_over_udp_wakes_the_phone_and_the_caller_ends_it(Plan::over(Transport::Udp), Scenario::CallerHangsUp);
    fn a_call_over_udp_wakes_the_phone_and_the_phone_ends_it(Plan { provider: "fcm", ..Plan::over(Transport::Udp) }, Scenario::CalleeHangsUp);
    fn a_call_over_tls_wakes_the_phone_and_the_caller_ends_it(Plan::over(Transport::Tls), Scenario::CallerHangsUp);
    fn a_call_over_tls_wakes_the_phone_through_fcm_and_the_phone_ends_it(Plan { provider: "fcm", ..Plan::over(Transport::Tls) }, Scenario::CalleeHangsUp);
    fn a_call_over_tcp_wakes_the_phone_and_the_caller_ends_it(Plan::over(Transport::Tcp), Scenario::CallerHangsUp);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_sha_256_is_answered_with_it() {
    let plan = Plan { algorithm: Algorithm::Sha256, ..Plan::over(Transport::Tls) };
    ring(plan, Scenario::CalleeHangsUp).await;
}

plays! { ring:
    fn a_server_that_dials_the_contact_over_tls_reaches_the_relay(Plan { reach: Reach::Contact, ..Plan::over(Transport::Tls) }, Scenario::CalleeHangsUp);
    fn a_server_that_dials_the_contact_over_tcp_reaches_the_relay(Plan { reach: Reach::Contact, ..Plan::over(Transport::Tcp) }, Scenario::CallerHangsUp);
    fn a_server_that_sends_to_the_contact_over_udp_reaches_the_relay(Plan { reach: Reach::Contact, ..Plan::over(Transport::Udp) }, Scenario::CallerHangsUp);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_one_contact_of_an_account_rings_both_of_its_devices() {
    let mut world = World::start(Plan { max_contacts: 1, ..Plan::over(Transport::Tls) }).await;
    let first = world.enable().await;
    let first_token = std::mem::replace(&mut world.push_token, new_push_token("apns"));
    world.keep("the other push token", &world.push_token.clone());
    let second = world.enable_another().await;
    assert_eq!(world.location().await.len(), 1);

    let caller = world.call(Scenario::CallerHangsUp);
    world.both_are_pushed(&first_token).await;
    let (phone, tablet) = (world.wake(&first).await, world.wake(&second).await);
    phone.await_rung(1, SOON).await.unwrap();
    tablet.await_rung(1, SOON).await.unwrap();
    phone.accept().await.unwrap();
    tablet.await_event("CALL_CLOSED", SOON).await.unwrap();
    caller.finish(SOON).await.unwrap();
    assert_eq!(world.pushes(), 2);
    world.leave(&first).await;
    world.disable(&second).await;
    world.end().await;
}

/// Enables, calls, sees one push, wakes the phone, answers, ends the call as the scenario has it, disables.
async fn ring(plan: Plan, scenario: Scenario) {
    let mut world = World::start(plan).await;
    let instance = world.enable().await;
    contact_is_opaque(&world).await;

    let caller = world.call(scenario);
    let call = world.next_call_push(&instance).await;
    let phone = world.wake(&instance).await;
    phone.await_rung(1, SOON).await.unwrap();
    phone.accept().await.unwrap();
    phone.await_event("CALL_ESTABLISHED", SOON).await.unwrap();
    assert_eq!(world.call_state(&instance, &call).await, "answered");
    if scenario == Scenario::CalleeHangsUp {
        phone.hang_up().await.unwrap();
    }
    let wire = match caller.finish(SOON).await {
        Ok(wire) => wire,
        Err(missed) => panic!("{missed}\n{}", world.relay.log()),
    };
    phone.await_event("CALL_CLOSED", SOON).await.unwrap();

    assert!(wire.contains("SIP/2.0 180"), "the caller heard no ringing:\n{wire}");
    media_goes_past_the_relay(&wire, &phone.output());
    assert_eq!(world.pushes(), 1, "one push for one call");
    world.disable(&instance).await;
    world.end().await;
}

/// The Contact in Kamailio's own table names neither the account nor the device, and lives as long as it should.
async fn contact_is_opaque(world: &World) {
    let contacts = world.location().await;
    assert_eq!(contacts.len(), 1, "{contacts:?}");
    let uri = sip::message::Uri::parse(&contacts[0].uri).unwrap();
    let user = uri.user.unwrap();
    assert!(user.len() >= 16 && !user.contains(&world.user) && !contacts[0].uri.contains("pi_"), "{}", uri.text);
    assert_eq!(uri.host, "127.0.0.1");
    let port = world.relay.upstream(world.plan.transport).port();
    assert_eq!(uri.port, Some(port), "{}", uri.text);
    assert!((580..=600).contains(&contacts[0].expires_s), "{contacts:?}");
    assert!(contacts[0].instance.is_some(), "{contacts:?}");
}

/// Offer and answer passed untouched: each side's own address and port is what the other side was told.
fn media_goes_past_the_relay(caller: &str, phone: &str) {
    let media = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|line| line.starts_with("m=audio") || line.starts_with("c=IN"));
        lines.map(str::to_owned).collect()
    };
    let (caller, phone) = (media(caller), media(phone));
    // The caller's offer, then the phone's answer.
    assert!(caller.len() >= 4, "{caller:?}");
    for line in &caller {
        assert!(phone.contains(line), "{line} is not what the phone saw or said: {phone:?}");
    }
}
