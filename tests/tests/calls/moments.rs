//! Several calls, several devices, and calls that come in an awkward moment.

use std::time::Duration;

use tests::caller::CallOptions;
use tests::registrar::Behaviour;
use tests::scene::{OTHER_TOKEN, SOON, Scene};
use tests::wire::Transport;

use super::Outcome;

#[tokio::test]
async fn two_calls_at_once_for_one_phone_both_reach_it() -> Outcome {
    let scene = Scene::start().await?;
    let instance = scene.enable().await?;
    let options = |name: &str| CallOptions::default().from(&format!("<sip:{name}@example.test>"));
    let first = scene.registrar.call(&scene.aor(), &options("bob"))?;
    let second = scene.registrar.call(&scene.aor(), &options("carol"))?;
    let (one, two) = (scene.push().await?, scene.push().await?);
    assert_ne!(one["call"], two["call"]);
    assert_ne!(one["from"], two["from"]);
    let phone = scene.wake(&instance).await?;
    let (a, b) = (phone.next_invite(SOON).await?, phone.next_invite(SOON).await?);
    let is_bobs = |text: Option<&str>| text.unwrap_or_default().contains("bob@");
    let (bobs, carols) = if is_bobs(a.invite().from().map(|from| from.uri.text)) { (a, b) } else { (b, a) };
    scene.answer(&first, &bobs).await?;
    carols.decline(486);
    second.expect(486, SOON).await?;
    first.bye(SOON).await?;
    bobs.expect_bye(SOON).await?;
    assert_eq!(scene.apns.count(), 2);
    scene.content_with(&[&first, &second], &[&phone])
}

#[tokio::test]
async fn a_second_call_during_the_first_reaches_the_phone_without_a_push() -> Outcome {
    let scene = Scene::start().await?;
    let instance = scene.enable().await?;
    let first = scene.call()?;
    scene.push().await?;
    let phone = scene.wake(&instance).await?;
    let talking = phone.next_invite(SOON).await?;
    scene.answer(&first, &talking).await?;
    let second = scene.call()?;
    let waiting = phone.next_invite(SOON).await?;
    scene.answer(&second, &waiting).await?;
    first.bye(SOON).await?;
    waiting.hang_up(SOON).await?;
    second.expect_bye(SOON).await?;
    assert_eq!(scene.apns.count(), 1);
    scene.content_with(&[&first, &second], &[&phone])
}

#[tokio::test]
async fn of_two_devices_of_one_aor_the_first_answer_wins_and_the_other_is_cancelled() -> Outcome {
    let scene = Scene::start().await?;
    let mine = scene.enable().await?;
    let tablet = scene.enable_as(&scene.wish(OTHER_TOKEN)).await?;
    let contacts = scene.registrar.await_contacts(&scene.aor(), 2, SOON).await?;
    // The SIP server forks: one branch for each Contact.
    let fork = |index: usize| {
        let contact = &contacts[index];
        scene.registrar.call_contact(&scene.aor(), &contact.uri, &contact.flow, &CallOptions::default())
    };
    let (to_mine, to_tablet) = (fork(0), fork(1));
    let (a, b) = (scene.push().await?, scene.push().await?);
    let (push, other) = if a["instance"] == mine.id.as_str() { (a, b) } else { (b, a) };
    assert_eq!((push["instance"].as_str(), other["instance"].as_str()), (Some(&*mine.id), Some(&*tablet.id)));
    let (phone, second) = (scene.wake(&mine).await?, scene.wake(&tablet).await?);
    let (call, ringing) = (phone.next_invite(SOON).await?, second.next_invite(SOON).await?);
    ringing.ring();
    to_tablet.expect(180, SOON).await?;
    scene.answer(&to_mine, &call).await?;
    to_tablet.cancel_answered_elsewhere().await?;
    let cancel = ringing.expect_cancel(SOON).await?;
    assert!(
        memchr::memmem::find(cancel.head(), b"Call completed elsewhere").is_some(),
        "the phone shows no missed call: {}",
        String::from_utf8_lossy(cancel.head())
    );
    to_tablet.expect(487, SOON).await?;
    scene.await_state(&mine, &push, "answered").await?;
    scene.await_state(&tablet, &other, "answered-elsewhere").await?;
    to_mine.bye(SOON).await?;
    assert_eq!((phone.invited(), second.invited(), scene.apns.count()), (1, 1, 2));
    scene.content_with(&[&to_mine, &to_tablet], &[&phone, &second])
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
    let caller = scene.call()?;
    let push = scene.push().await?;
    let phone = scene.wake(&instance).await?;
    let call = phone.next_invite(SOON).await?;
    scene.answer(&caller, &call).await?;
    scene.await_state(&instance, &push, "answered").await?;
    caller.bye(SOON).await?;
    let contacts = scene.registrar.await_contacts(&aor, 1, SOON).await?;
    assert!(contacts[0].flow.is_open());
    scene.await_metric("sipwake_instances{state=\"registered\"}", 1.0).await?;
    scene.content_with(&[&caller], &[&phone])
}

#[tokio::test]
async fn a_call_in_the_very_moment_of_a_refresh_rings_over_tls() -> Outcome {
    a_call_in_the_moment_of_a_refresh_over(Transport::Tls).await
}

#[tokio::test]
async fn a_call_in_the_very_moment_of_a_refresh_rings_over_udp() -> Outcome {
    a_call_in_the_moment_of_a_refresh_over(Transport::Udp).await
}

#[tokio::test]
async fn a_phone_that_comes_before_the_push_is_answered_gets_the_call_once() -> Outcome {
    let scene = Scene::start().await?;
    let instance = scene.enable().await?;
    scene.apns.answer_all(Some(tests::apns::Answer::Slow(Duration::from_secs(1))));
    let caller = scene.call()?;
    let push = scene.push().await?;
    let phone = scene.wake(&instance).await?;
    let call = phone.next_invite(SOON).await?;
    scene.answer(&caller, &call).await?;
    scene.await_state(&instance, &push, "answered").await?;
    caller.bye(SOON).await?;
    assert_eq!((phone.invited(), scene.apns.requests()), (1, 1));
    assert_eq!(caller.responses().iter().filter(|(_, status)| *status >= 200).count(), 1);
    scene.content_with(&[&caller], &[&phone])
}
