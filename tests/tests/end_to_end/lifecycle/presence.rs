//! The app comes to the foreground, where it registers by itself, and goes to the background; quickly, and with a SIP
//! server that takes its time. Every moment of it is walked in virtual time in `sip/tests/virtual_time/presence.rs`.

use std::time::Duration;

use serde_json::json;
use tests::api_client::Instance;
use tests::caller::CallOptions;
use tests::registrar::Behaviour;
use tests::world::{OTHER_TOKEN, SOON, World, text};

use super::Outcome;

async fn say(world: &World, instance: &Instance, presence: &str) -> Outcome {
    let answer = world.api.change(instance, &json!({"presence": presence})).await?;
    assert_eq!((answer.status, &answer.json()["presence"]), (200, &json!(presence)), "{}", answer.text());
    Ok(())
}

#[tokio::test]
async fn ten_quick_changes_of_presence_end_in_the_last_one() -> Outcome {
    let (world, instance) = World::lent().await?;
    let aor = world.aor();
    world.registrar.behave(&aor, Behaviour::Slow(Duration::from_millis(300)));
    for (last, contacts, state) in [("background", 1, "active"), ("foreground", 0, "foreground")] {
        let before = world.registrar.registers(&aor).len();
        let other = if last == "background" { "foreground" } else { "background" };
        for change in 0..10 {
            say(&world, &instance, if change % 2 == 0 { other } else { last }).await?;
        }
        world.registrar.behave(&aor, Behaviour::Accept);
        world.registrar.await_contacts(&aor, contacts, SOON).await?;
        let settled = || async {
            let read = world.api.read(&instance).await.ok()?.json();
            let registration = if contacts == 1 { "registered" } else { "unregistered" };
            (read["state"] == state && read["registration"]["state"] == registration).then_some(())
        };
        world.until(state, settled).await?;
        assert_eq!(world.registrar.contacts(&aor).len(), contacts);
        assert!(world.registrar.registers(&aor).len() - before <= 10, "never more REGISTERs than changes");
        world.registrar.behave(&aor, Behaviour::Slow(Duration::from_millis(300)));
    }
    world.content()
}

#[tokio::test]
async fn a_call_that_crosses_a_switch_is_pushed_and_handed_over() -> Outcome {
    let (world, instance) = World::lent().await?;
    let aor = world.aor();
    let contact = world.registrar.await_contacts(&aor, 1, SOON).await?.remove(0);
    world.registrar.behave(&aor, Behaviour::Slow(Duration::from_secs(3)));
    for presence in ["foreground", "background"] {
        let registers = world.registrar.registers(&aor).len();
        say(&world, &instance, presence).await?;
        // The SIP server has the REGISTER and has not answered it; it sends the call to the Contact that it has, or had.
        world.registrar.await_registers(&aor, registers + 1, SOON).await?;
        let caller = world.registrar.call_contact(&aor, &contact.uri, &contact.flow, &CallOptions::default());
        assert_eq!(text(&world.push().await?["instance"]), instance.id, "{presence}");
        let (phone, call) = world.wake_to_call(&instance).await?;
        world.answer(&caller, &call).await?;
        world.hang_up(&caller, &call).await?;
        phone.unregister(SOON).await?;
        world.watch_caller(&caller);
        world.content()?;
        let contacts = if presence == "background" { 1 } else { 0 };
        world.registrar.await_contacts(&aor, contacts, SOON * 2).await?;
    }
    assert_eq!(world.apns.requests(), 2, "one push for each call");
    world.content()
}

#[tokio::test]
async fn an_unregistration_that_is_refused_counts_as_no_failed_registration() -> Outcome {
    let (world, instance) = World::lent().await?;
    world.registrar.behave(&world.aor(), Behaviour::Refuse(403));
    say(&world, &instance, "foreground").await?;
    world.await_metric("sipwake_registrations_total{outcome=\"unregistration-failed\"}", 1.0).await?;
    for outcome in ["failed", "refused"] {
        let counted = world.metric(&format!("sipwake_registrations_total{{outcome=\"{outcome}\"}}")).await;
        assert_eq!(counted.unwrap_or_default(), 0.0, "{outcome}");
    }
    world.content()
}

/// Another device of the account, or a stranger who knows its address, shows a wrong password; its answer.
async fn joins_wrongly(world: &World) -> Outcome {
    let mut request = world.enable_request(OTHER_TOKEN);
    request["account"]["password"] = "a guess".into();
    let answer = world.api.enable(&request).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (422, Some("upstream-refused")), "{}", answer.text());
    Ok(())
}

async fn is(world: &World, instance: &Instance, registration: &str) -> Outcome {
    let is = || async {
        let read = world.api.read(instance).await.ok()?.json();
        (read["registration"]["state"] == registration).then_some(())
    };
    world.until(registration, is).await
}

#[tokio::test]
async fn a_device_that_joins_with_a_wrong_password_takes_no_call_from_who_comes_and_goes_meanwhile() -> Outcome {
    let (world, instance) = World::lent().await?;
    let aor = world.aor();
    for (joins_at, back_at) in [(50, 900), (50, 150), (150, 50), (0, 250)] {
        world.registrar.behave(&aor, Behaviour::Slow(Duration::from_millis(200)));
        let comes = async {
            say(&world, &instance, "foreground").await?;
            tokio::time::sleep(Duration::from_millis(back_at)).await;
            say(&world, &instance, "background").await
        };
        let joins = async {
            tokio::time::sleep(Duration::from_millis(joins_at)).await;
            joins_wrongly(&world).await
        };
        let (came, joined) = tokio::join!(comes, joins);
        came?;
        joined?;
        world.registrar.behave(&aor, Behaviour::Accept);
        is(&world, &instance, "registered").await?;
        assert_eq!(world.registrar.contacts(&aor).len(), 1, "{joins_at} {back_at}");
        let (caller, push) = world.call_and_push().await?;
        assert_eq!(text(&push["instance"]), instance.id);
        world.cancel(&caller).await?;
    }
    // An app that stays in the foreground has no Contact of the relay's beside its own.
    world.registrar.behave(&aor, Behaviour::Slow(Duration::from_millis(200)));
    let (said, joined) = tokio::join!(say(&world, &instance, "foreground"), joins_wrongly(&world));
    said?;
    joined?;
    is(&world, &instance, "unregistered").await?;
    world.registrar.await_contacts(&aor, 0, SOON).await?;
    world.content()
}

#[tokio::test]
async fn a_device_that_joins_with_a_wrong_password_keeps_no_contact_of_who_leaves_meanwhile() -> Outcome {
    let world = World::start().await?;
    let aor = world.aor();
    for leaves_at in [50, 250, 500] {
        let instance = world.enable().await?;
        world.registrar.behave(&aor, Behaviour::Slow(Duration::from_millis(200)));
        let leaves = async {
            tokio::time::sleep(Duration::from_millis(leaves_at)).await;
            world.disable(&instance).await
        };
        let (receipt, joined) = tokio::join!(leaves, joins_wrongly(&world));
        assert_eq!(receipt?["unregistered"], true, "{leaves_at}");
        joined?;
        world.registrar.behave(&aor, Behaviour::Accept);
        assert_eq!(world.registrar.contacts(&aor).len(), 0, "{leaves_at}");
    }
    world.content()
}
