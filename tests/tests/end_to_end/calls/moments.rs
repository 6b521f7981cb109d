//! Several calls, and calls that come in an awkward moment.

use std::time::Duration;

use tests::caller::CallOptions;
use tests::registrar::Behaviour;
use tests::scene::{Ringing, SOON, Scene};
use tests::wire::Transport;

use super::Outcome;

#[tokio::test]
async fn two_calls_at_once_for_one_phone_both_reach_it() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let options = |name: &str| CallOptions::default().from(&format!("<sip:{name}@example.test>"));
    let first = scene.registrar.call(&scene.aor(), &options("bob"))?;
    let second = scene.registrar.call(&scene.aor(), &options("carol"))?;
    let (one, two) = (scene.push().await?, scene.push().await?);
    assert_ne!(one["call"], two["call"]);
    assert_ne!(one["from"], two["from"]);
    let phone = scene.wake(&instance).await?;
    let (a, b) = (phone.next_invite(SOON).await?, phone.next_invite(SOON).await?);
    let is_bobs = |text: Option<&str>| text.unwrap_or_default().contains("bob@");
    let (bobs, carols) = if is_bobs(a.invite().from().and_then(|from| from.target())) { (a, b) } else { (b, a) };
    scene.answer(&first, &bobs).await?;
    carols.decline(486);
    second.expect(486, SOON).await?;
    scene.hang_up(&first, &bobs).await?;
    assert_eq!(scene.apns.count(), 2);
    scene.content_with(&[&first, &second], &[&phone])
}

#[tokio::test]
async fn a_second_call_during_the_first_reaches_the_phone_without_a_push() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    let Ringing { caller: first, phone, .. } = scene.answered(&instance).await?;
    let (second, waiting) = scene.answered_at(&phone).await?;
    first.bye(SOON).await?;
    scene.phone_hangs_up(&second, &waiting).await?;
    assert_eq!(scene.apns.count(), 1);
    scene.content_with(&[&first, &second], &[&phone])
}

async fn a_call_in_the_moment_of_a_refresh_over(transport: Transport) -> Outcome {
    let mut scene = Scene::with(|setup| {
        setup.register_expires = "5s".to_owned();
        setup.transports = vec![Transport::Tls, Transport::Udp];
    })
    .await?;
    scene.transport = transport;
    let instance = scene.enable().await?;
    let aor = scene.aor();
    let before = scene.registrar.registers(&aor).len();
    scene.registrar.behave(&aor, Behaviour::Slow(Duration::from_millis(700)));
    // The refresh has come and is not answered yet.
    scene.registrar.await_registers(&aor, before + 1, SOON).await?;
    let Ringing { caller, push, phone, .. } = scene.answered(&instance).await?;
    scene.await_state(&instance, &push, "answered").await?;
    caller.bye(SOON).await?;
    let contacts = scene.registrar.await_contacts(&aor, 1, SOON).await?;
    assert!(contacts[0].flow.is_open());
    scene.await_metric("sipwake_instances{state=\"registered\"}", 1.0).await?;
    scene.content_with(&[&caller], &[&phone])
}

plays! { a_call_in_the_moment_of_a_refresh_over:
    fn a_call_in_the_very_moment_of_a_refresh_rings_over_tls(Transport::Tls);
    fn a_call_in_the_very_moment_of_a_refresh_rings_over_udp(Transport::Udp);
}

#[tokio::test]
async fn a_phone_that_comes_before_the_push_is_answered_gets_the_call_once() -> Outcome {
    let (scene, instance) = Scene::enabled().await?;
    scene.apns.answer_all(Some(tests::apns::Answer::Slow(Duration::from_secs(1))));
    let Ringing { caller, push, phone, .. } = scene.answered(&instance).await?;
    scene.await_state(&instance, &push, "answered").await?;
    caller.bye(SOON).await?;
    assert_eq!((phone.invited(), scene.apns.requests()), (1, 1));
    assert_eq!(caller.responses().iter().filter(|(_, status)| *status >= 200).count(), 1);
    scene.content_with(&[&caller], &[&phone])
}
