//! Several calls, and calls that come in an awkward moment.

use std::time::Duration;

use tests::caller::CallOptions;
use tests::registrar::Behaviour;
use tests::wire::Transport;
use tests::world::{Ringing, SOON, World};

use super::Outcome;

#[tokio::test]
async fn two_calls_at_once_for_one_phone_both_reach_it() -> Outcome {
    let (world, instance) = World::lent().await?;
    let options = |name: &str| CallOptions::default().from(&format!("<sip:{name}@example.test>"));
    let first = world.call_with(&options("bob"))?;
    let second = world.call_with(&options("carol"))?;
    let (one, two) = (world.push().await?, world.push().await?);
    assert_ne!(one["call"], two["call"]);
    assert_ne!(one["from"], two["from"]);
    let phone = world.wake(&instance).await?;
    let (a, b) = (phone.next_invite(SOON).await?, phone.next_invite(SOON).await?);
    let is_bobs = |text: Option<&str>| text.unwrap_or_default().contains("bob@");
    let (bobs, carols) = if is_bobs(a.invite().from().and_then(|from| from.target())) { (a, b) } else { (b, a) };
    world.answer(&first, &bobs).await?;
    carols.decline(486);
    second.expect(486, SOON).await?;
    world.hang_up(&first, &bobs).await?;
    assert_eq!(world.apns.count(), 2);
    world.content()
}

#[tokio::test]
async fn a_second_call_during_the_first_reaches_the_phone_without_a_push() -> Outcome {
    let (world, instance) = World::lent().await?;
    let Ringing { caller: first, phone, .. } = world.answered(&instance).await?;
    let (second, waiting) = world.answered_at(&phone).await?;
    first.bye(SOON).await?;
    world.phone_hangs_up(&second, &waiting).await?;
    assert_eq!(world.apns.count(), 1);
    world.content()
}

async fn a_call_in_the_moment_of_a_refresh_over(transport: Transport) -> Outcome {
    let world = World::over_with(transport, |setup| setup.register_expires = "5s".to_owned()).await?;
    let instance = world.enable().await?;
    let aor = world.aor();
    let before = world.registrar.registers(&aor).len();
    world.registrar.behave(&aor, Behaviour::Slow(Duration::from_millis(700)));
    // The refresh has come and is not answered yet.
    world.registrar.await_registers(&aor, before + 1, SOON).await?;
    let Ringing { caller, push, phone: _phone, .. } = world.answered(&instance).await?;
    world.await_state(&instance, &push, "answered").await?;
    caller.bye(SOON).await?;
    let contacts = world.registrar.await_contacts(&aor, 1, SOON).await?;
    assert!(contacts[0].flow.is_open());
    world.await_metric("sipwake_instances{state=\"registered\"}", 1.0).await?;
    world.content()
}

plays! { a_call_in_the_moment_of_a_refresh_over:
    fn a_call_in_the_very_moment_of_a_refresh_rings_over_tls(Transport::Tls);
    fn a_call_in_the_very_moment_of_a_refresh_rings_over_udp(Transport::Udp);
}

#[tokio::test]
async fn a_phone_that_comes_before_the_push_is_answered_gets_the_call_once() -> Outcome {
    let (world, instance) = World::lent().await?;
    world.apns.answer_all(Some(tests::apns::Answer::Slow(Duration::from_secs(1))));
    let Ringing { caller, push, phone, .. } = world.answered(&instance).await?;
    world.await_state(&instance, &push, "answered").await?;
    caller.bye(SOON).await?;
    assert_eq!((phone.invited(), world.apns.requests()), (1, 1));
    assert_eq!(caller.responses().iter().filter(|(_, status)| *status >= 200).count(), 1);
    world.content()
}
