//! The main job over each transport: a call wakes the phone, is answered, and ends.

use tests::digest::Algorithm;
use tests::kamailio::Reach;
use tests::sipp::Scenario;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};

use crate::{Outcome, World};

plays! { ring:
    fn a_call_over_udp_wakes_the_phone_and_the_caller_ends_it(Plan::over(Transport::Udp), Scenario::CallerHangsUp);
    fn a_call_over_udp_wakes_the_phone_and_the_phone_ends_it(Plan { provider: "fcm", ..Plan::over(Transport::Udp) }, Scenario::CalleeHangsUp);
    fn a_call_over_tls_wakes_the_phone_and_the_caller_ends_it(Plan::over(Transport::Tls), Scenario::CallerHangsUp);
    fn a_call_over_tls_wakes_the_phone_through_fcm_and_the_phone_ends_it(Plan { provider: "fcm", ..Plan::over(Transport::Tls) }, Scenario::CalleeHangsUp);
    fn a_call_over_tcp_wakes_the_phone_and_the_caller_ends_it(Plan::over(Transport::Tcp), Scenario::CallerHangsUp);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_sha_256_is_answered_with_it() -> Outcome {
    let plan = Plan { algorithm: Algorithm::Sha256, ..Plan::over(Transport::Tls) };
    ring(plan, Scenario::CalleeHangsUp).await
}

plays! { ring:
    fn a_server_that_dials_the_contact_over_tls_reaches_the_relay(Plan { reach: Reach::Contact, ..Plan::over(Transport::Tls) }, Scenario::CalleeHangsUp);
    fn a_server_that_dials_the_contact_over_tcp_reaches_the_relay(Plan { reach: Reach::Contact, ..Plan::over(Transport::Tcp) }, Scenario::CallerHangsUp);
    fn a_server_that_sends_to_the_contact_over_udp_reaches_the_relay(Plan { reach: Reach::Contact, ..Plan::over(Transport::Udp) }, Scenario::CallerHangsUp);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_one_contact_of_an_account_rings_both_of_its_devices() -> Outcome {
    let (world, first) = World::real_and_lent(Plan { max_contacts: 1, ..Plan::over(Transport::Tls) }).await?;
    let second = world.lend_another().await?;
    assert_eq!(world.location().await?.len(), 1);

    let caller = world.sipp_calls(Scenario::CallerHangsUp)?;
    world.both_are_pushed([&first, &second]).await?;
    let (phone, tablet) = (world.baresip(&first).await?, world.baresip(&second).await?);
    phone.await_rung(1, SOON).await?;
    tablet.await_rung(1, SOON).await?;
    phone.accept().await?;
    tablet.await_event("CALL_CLOSED", SOON).await?;
    world.finished(caller).await?;
    assert_eq!(world.pushes(), 2);
    world.leave(&first).await?;
    world.farewell(&second).await
}

/// Enables, calls, sees one push, wakes the phone, answers, ends the call as the scenario has it, disables.
async fn ring(plan: Plan, scenario: Scenario) -> Outcome {
    let (world, instance) = World::real_and_lent(plan).await?;
    contact_is_opaque(&world).await?;

    let caller = world.sipp_calls(scenario)?;
    let push = world.next_call_push(&instance).await?;
    let phone = world.baresip(&instance).await?;
    phone.answer(1, SOON).await?;
    assert_eq!(world.state(&instance, &push).await?, "answered");
    if scenario == Scenario::CalleeHangsUp {
        phone.hang_up().await?;
    }
    let wire = world.finished(caller).await?;
    phone.await_event("CALL_CLOSED", SOON).await?;

    assert!(wire.contains("SIP/2.0 180"), "the caller heard no ringing:\n{wire}");
    media_goes_past_the_relay(&wire, &phone.output());
    assert_eq!(world.pushes(), 1, "one push for one call");
    world.farewell(&instance).await
}

/// The Contact in Kamailio's own table names neither the account nor the device, and lives as long as it should.
async fn contact_is_opaque(world: &World) -> Outcome {
    let contacts = world.location().await?;
    assert_eq!(contacts.len(), 1, "{contacts:?}");
    let uri = sip::message::Uri::parse(&contacts[0].uri).unwrap();
    let user = uri.user.unwrap();
    assert!(
        user.len() >= 16 && !user.contains(&world.registrar.user) && !contacts[0].uri.contains("pi_"),
        "{}",
        uri.text
    );
    assert_eq!(uri.host, "127.0.0.1");
    let port = world.relay.upstream(world.registrar.plan.transport).port();
    assert_eq!(uri.port, Some(port), "{}", uri.text);
    assert!((580..=600).contains(&contacts[0].expires_s), "{contacts:?}");
    assert!(contacts[0].instance.is_some(), "{contacts:?}");
    Ok(())
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
