//! One account on several devices, at a SIP server that takes one Contact of it: all are woken, and one answers.

use serde_json::json;
use tests::api_client::Instance;
use tests::apns;
use tests::redis_server::RedisServer;
use tests::registrar::Behaviour;
use tests::scene::{FCM_TOKEN, OTHER_TOKEN, SOON, Scene};

use super::Outcome;

const ELSEWHERE: &[u8] = b"Call completed elsewhere";

/// Alice's iPhone, her tablet and her Android phone.
async fn three(scene: &Scene) -> Result<[Instance; 3], tests::board::Missed> {
    let phone = scene.enable().await?;
    let tablet = scene.enable_as(&scene.wish(OTHER_TOKEN)).await?;
    let android = scene.enable_android().await?;
    scene.registrar.await_contacts(&scene.aor(), 1, SOON).await?;
    Ok([phone, tablet, android])
}

/// The pushes of one call for these three, in their order.
async fn pushes(
    scene: &Scene,
    [phone, tablet, _]: &[Instance; 3],
) -> Result<[serde_json::Value; 3], tests::board::Missed> {
    let (a, b, android) = (scene.push().await?, scene.push().await?, scene.android_push().await?);
    let (a, b) = if a["instance"] == phone.id.as_str() { (a, b) } else { (b, a) };
    assert_eq!((a["instance"].as_str(), b["instance"].as_str()), (Some(&*phone.id), Some(&*tablet.id)));
    assert!(a["call"] == b["call"] && a["call"] == android["call"], "one call");
    Ok([a, b, android])
}

#[tokio::test]
async fn three_devices_share_one_contact_and_the_first_that_answers_has_the_call() -> Outcome {
    let scene = Scene::start().await?;
    let devices = three(&scene).await?;
    let caller = scene.call()?;
    let told = pushes(&scene, &devices).await?;
    let (phone, tablet) = (scene.wake(&devices[0]).await?, scene.wake(&devices[1]).await?);
    let (call, ringing) = (phone.next_invite(SOON).await?, tablet.next_invite(SOON).await?);
    ringing.ring();
    caller.expect(180, SOON).await?;
    scene.answer(&caller, &call).await?;
    let cancel = ringing.expect_cancel(SOON).await?;
    assert!(memchr::memmem::find(cancel.head(), ELSEWHERE).is_some(), "the tablet shows no missed call");
    scene.await_state(&devices[0], &told[0], "answered").await?;
    scene.await_state(&devices[1], &told[1], "answered-elsewhere").await?;
    scene.await_state(&devices[2], &told[2], "answered-elsewhere").await?;
    let ended = scene.android_push().await?;
    assert_eq!((&ended["event"], &ended["call"]), (&json!("call-ended"), &told[2]["call"]));
    // It comes late: the call is no longer its own.
    let late = scene.wake(&devices[2]).await?;
    scene.hang_up(&caller, &call).await?;
    assert_eq!((phone.invited(), tablet.invited(), late.invited()), (1, 1, 0));
    assert_eq!((scene.apns.count(), scene.fcm.count()), (2, 2), "each is woken once");
    scene.await_metric("sipwake_invites_total{outcome=\"answered\"}", 1.0).await?;
    scene.await_metric("sipwake_calls_waiting", 0.0).await?;
    scene.content_with(&[&caller], &[&phone, &tablet, &late])
}

#[tokio::test]
async fn who_is_busy_leaves_the_call_to_the_others_and_who_declines_by_the_api_ends_it_for_all() -> Outcome {
    let scene = Scene::start().await?;
    let devices = three(&scene).await?;
    let caller = scene.call()?;
    let told = pushes(&scene, &devices).await?;
    let phone = scene.wake(&devices[0]).await?;
    phone.next_invite(SOON).await?.decline(486);
    scene.await_state(&devices[0], &told[0], "declined").await?;
    let tablet = scene.wake(&devices[1]).await?;
    let ringing = tablet.next_invite(SOON).await?;
    ringing.ring();
    scene.await_state(&devices[1], &told[1], "ringing").await?;
    let call = told[2]["call"].as_str().unwrap_or_default();
    assert_eq!(scene.api.progress(&devices[2], call).await?.status, 204);
    assert_eq!(scene.api.decline(&devices[2], call).await?.status, 204);
    ringing.expect_cancel(SOON).await?;
    caller.expect(603, SOON).await?;
    for (device, told) in devices.iter().zip(&told) {
        scene.await_state(device, told, "declined").await?;
    }
    scene.await_metric("sipwake_invites_total{outcome=\"declined\"}", 1.0).await?;
    scene.content_with(&[&caller], &[&phone, &tablet])
}

#[tokio::test]
async fn a_wrong_password_of_a_second_device_is_422_after_one_attempt_and_the_first_still_rings() -> Outcome {
    let scene = Scene::start().await?;
    let first = scene.enable().await?;
    let aor = scene.aor();
    let before = scene.registrar.registers(&aor).len();
    let mut wish = scene.wish(OTHER_TOKEN);
    wish["account"]["password"] = "queen of hearts".into();
    let answer = scene.api.enable(&wish).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (422, Some("upstream-refused")), "{}", answer.text());
    let seen = scene.registrar.registers(&aor);
    let offered = seen[before..].iter().filter(|it| it.request.text(sip::message::Name::Authorization).is_some());
    assert_eq!(offered.count(), 1, "nobody is banned for it");
    scene.await_metric("sipwake_instances{state=\"registered\"}", 1.0).await?;
    let caller = scene.call()?;
    assert_eq!(scene.push().await?["instance"], first.id.as_str());
    let phone = scene.wake(&first).await?;
    let call = phone.next_invite(SOON).await?;
    scene.answer(&caller, &call).await?;
    caller.bye(SOON).await?;
    assert_eq!(scene.apns.count(), 1);
    // With the right one it joins, in the same Contact.
    let second = scene.enable_as(&scene.wish(OTHER_TOKEN)).await?;
    assert_eq!(scene.registrar.contacts(&aor).len(), 1);
    assert_eq!(scene.api.disable(&second).await?.status, 200);
    scene.content_with(&[&caller], &[&phone])
}

#[tokio::test]
async fn a_device_that_is_wiped_leaves_the_contact_to_the_other_and_the_last_one_takes_it_along() -> Outcome {
    let scene = Scene::start().await?;
    let phone = scene.enable().await?;
    let android = scene.enable_android().await?;
    let before = scene.registrar.contacts(&scene.aor());
    let answer = scene.api.disable(&phone).await?;
    assert_eq!((answer.status, &answer.json()["unregistered"]), (200, &json!(false)), "the Contact stays");
    let after = scene.registrar.contacts(&scene.aor());
    assert_eq!((after.len(), &after[0].uri), (1, &before[0].uri));
    let caller = scene.call()?;
    let push = scene.android_push().await?;
    let device = scene.wake(&android).await?;
    let call = device.next_invite(SOON).await?;
    scene.answer(&caller, &call).await?;
    caller.bye(SOON).await?;
    scene.await_state(&android, &push, "answered").await?;
    assert_eq!(scene.apns.count(), 0);
    let answer = scene.api.disable(&android).await?;
    assert_eq!((answer.status, &answer.json()["unregistered"]), (200, &json!(true)));
    scene.registrar.await_contacts(&scene.aor(), 0, SOON).await?;
    scene.content_with(&[&caller], &[&device])
}

#[tokio::test]
async fn a_dead_push_token_wipes_its_own_device_and_the_call_goes_to_the_other() -> Outcome {
    let scene = Scene::start().await?;
    let phone = scene.enable().await?;
    let android = scene.enable_android().await?;
    scene.apns.answer_all(Some(apns::Answer::Gone { timestamp: u64::MAX }));
    let caller = scene.call()?;
    scene.android_push().await?;
    scene.await_gone(&phone).await?;
    let device = scene.wake(&android).await?;
    let call = device.next_invite(SOON).await?;
    scene.answer(&caller, &call).await?;
    caller.bye(SOON).await?;
    assert_eq!(scene.registrar.contacts(&scene.aor()).len(), 1);
    scene.content_with(&[&caller], &[&device])
}

#[tokio::test]
async fn an_app_in_the_foreground_is_not_woken_and_the_last_one_unregisters() -> Outcome {
    let scene = Scene::start().await?;
    let phone = scene.enable().await?;
    let android = scene.enable_android().await?;
    let presence = |value: &str| json!({"presence": value});
    assert_eq!(scene.api.change(&phone, &presence("foreground")).await?.status, 200);
    let caller = scene.call()?;
    scene.android_push().await?;
    scene.cancel(&caller).await?;
    assert_eq!(scene.apns.count(), 0);
    assert_eq!(scene.api.change(&android, &presence("foreground")).await?.status, 200);
    scene.registrar.await_contacts(&scene.aor(), 0, SOON).await?;
    assert_eq!(scene.api.change(&phone, &presence("background")).await?.status, 200);
    scene.registrar.await_contacts(&scene.aor(), 1, SOON).await?;
    // The other one finds the registration there.
    let answer = scene.api.change(&android, &presence("background")).await?;
    assert_eq!((answer.status, &answer.json()["registration"]["state"]), (200, &json!("registered")));
    scene.content_with(&[&caller], &[])
}

#[tokio::test]
async fn an_instance_that_is_replaced_leaves_no_gap_in_the_registration() -> Outcome {
    let scene = Scene::start().await?;
    let old = scene.enable().await?;
    let new = scene.enable().await?;
    scene.await_gone(&old).await?;
    let registers = scene.registrar.registers(&scene.aor());
    let ended = registers.iter().filter(|it| it.request.number(sip::message::Name::Expires) == Some(0)).count();
    assert_eq!((ended, scene.registrar.contacts(&scene.aor()).len()), (0, 1));
    let caller = scene.call()?;
    assert_eq!(scene.push().await?["instance"], new.id.as_str());
    scene.cancel(&caller).await?;
    assert_eq!(scene.apns.count(), 1);
    scene.content_with(&[&caller], &[])
}

#[tokio::test]
async fn a_device_that_joins_while_the_server_is_slow_gets_no_call_before_it_has_proven_itself() -> Outcome {
    let scene = Scene::with(|setup| setup.register_expires = "20s".to_owned()).await?;
    scene.enable().await?;
    scene.registrar.script(&scene.aor(), &[Behaviour::RetryAfter(1), Behaviour::Accept]);
    let answer = scene.api.enable(&scene.wish(OTHER_TOKEN)).await?;
    assert_eq!((answer.status, &answer.json()["registration"]["status"]), (202, &json!(503)), "{}", answer.text());
    let (caller, _) = scene.call_and_push().await?;
    scene.cancel(&caller).await?;
    assert_eq!(scene.apns.count(), 1);
    // With the next refresh it proves itself.
    scene.await_metric("sipwake_instances{state=\"registered\"}", 2.0).await?;
    let caller = scene.call()?;
    for _ in 0..2 {
        scene.push().await?;
    }
    scene.cancel(&caller).await?;
    scene.content_with(&[&caller], &[])
}

#[tokio::test]
async fn a_password_that_is_changed_ends_those_that_have_the_old_one_after_three_attempts_of_one() -> Outcome {
    let scene = Scene::with(|setup| {
        setup.register_expires = "6s".to_owned();
        setup.minutes = 0.001;
    })
    .await?;
    let (one, two) = (scene.enable().await?, scene.enable_as(&scene.wish(OTHER_TOKEN)).await?);
    let aor = scene.aor();
    scene.registrar.change_password("alice", "looking glass");
    let mut wish = scene.wish_for(json!({"call_push": {"provider": "fcm", "token": FCM_TOKEN}}));
    wish["account"]["password"] = "looking glass".into();
    let android = scene.enable_as(&wish).await?;
    let joined = scene.registrar.registers(&aor).len();
    assert_eq!(scene.api.disable(&android).await?.status, 200);
    for gone in [&one, &two] {
        scene.await_gone(gone).await?;
    }
    let seen = scene.registrar.registers(&aor);
    let wrong =
        seen[joined..].iter().filter(|it| !it.proven && it.request.text(sip::message::Name::Authorization).is_some());
    assert_eq!(wrong.count(), 3, "the other would have offered the same");
    scene.content()
}

#[tokio::test]
async fn after_kill_9_the_devices_of_an_account_share_their_contact_again_and_all_are_woken() -> Outcome {
    let redis = RedisServer::start();
    let mut scene = Scene::with(|setup| setup.store = redis.url()).await?;
    let devices = three(&scene).await?;
    let before = scene.registrar.contacts(&scene.aor());
    scene.relay.kill_9().await?;
    scene.registrar.forget();
    scene.relay.restart().await?;
    scene.await_metric("sipwake_instances{state=\"registered\"}", 3.0).await?;
    let after = scene.registrar.await_contacts(&scene.aor(), 1, SOON).await?;
    assert_eq!((&after[0].uri, &after[0].instance), (&before[0].uri, &before[0].instance));
    let caller = scene.call()?;
    let told = pushes(&scene, &devices).await?;
    let android = scene.wake(&devices[2]).await?;
    let call = android.next_invite(SOON).await?;
    scene.answer(&caller, &call).await?;
    scene.await_state(&devices[0], &told[0], "answered-elsewhere").await?;
    caller.bye(SOON).await?;
    for device in &devices {
        assert_eq!(scene.api.disable(device).await?.status, 200);
    }
    scene.registrar.await_contacts(&scene.aor(), 0, SOON).await?;
    scene.content_with(&[&caller], &[&android])
}
