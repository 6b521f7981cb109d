//! One account on several devices, at a SIP server that takes one Contact of it: all are woken, and one answers.

use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::apns;
use tests::board::Missed;
use tests::caller::Caller;
use tests::registrar::Behaviour;
use tests::world::{FCM_TOKEN, OTHER_TOKEN, SOON, World};

use super::Outcome;

const ELSEWHERE: &[u8] = b"Call completed elsewhere";

/// Alice's iPhone, her tablet and her Android phone.
async fn three(world: &World) -> Result<[Instance; 3], Missed> {
    let phone = world.enable().await?;
    let tablet = world.enable_other().await?;
    let android = world.enable_android().await?;
    world.await_contacts(1).await?;
    Ok([phone, tablet, android])
}

/// Alice's iPhone and her Android phone.
async fn two() -> Result<(World, Instance, Instance), Missed> {
    let (world, phone) = World::lent().await?;
    let android = world.enable_android().await?;
    Ok((world, phone, android))
}

/// The pushes of one call for these three, in their order.
async fn pushes(world: &World, [phone, tablet, _]: &[Instance; 3]) -> Result<[Value; 3], Missed> {
    let (a, b, android) = (world.push().await?, world.push().await?, world.android_push().await?);
    let (a, b) = if a["instance"] == phone.id.as_str() { (a, b) } else { (b, a) };
    assert_eq!((a["instance"].as_str(), b["instance"].as_str()), (Some(&*phone.id), Some(&*tablet.id)));
    assert!(a["call"] == b["call"] && a["call"] == android["call"], "one call");
    Ok([a, b, android])
}

/// A call of Bob's for the three, which sleep: each has its push.
async fn three_called() -> Result<(World, [Instance; 3], Caller, [Value; 3]), Missed> {
    let world = World::start().await?;
    let devices = three(&world).await?;
    let caller = world.call()?;
    let told = pushes(&world, &devices).await?;
    Ok((world, devices, caller, told))
}

#[tokio::test]
async fn three_devices_share_one_contact_and_the_first_that_answers_has_the_call() -> Outcome {
    let (world, devices, caller, told) = three_called().await?;
    let (phone, tablet) = (world.wake(&devices[0]).await?, world.wake(&devices[1]).await?);
    let (call, ringing) = (phone.next_invite(SOON).await?, tablet.next_invite(SOON).await?);
    world.ring(&caller, &ringing).await?;
    world.answer(&caller, &call).await?;
    let cancel = ringing.expect_cancel(SOON).await?;
    assert!(memchr::memmem::find(cancel.head(), ELSEWHERE).is_some(), "the tablet shows no missed call");
    world.await_state(&devices[0], &told[0], "answered").await?;
    world.await_state(&devices[1], &told[1], "answered-elsewhere").await?;
    world.await_state(&devices[2], &told[2], "answered-elsewhere").await?;
    let ended = world.android_push().await?;
    assert_eq!((&ended["event"], &ended["call"]), (&json!("call-ended"), &told[2]["call"]));
    // It comes late: the call is no longer its own.
    let late = world.wake(&devices[2]).await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!((phone.invited(), tablet.invited(), late.invited()), (1, 1, 0));
    assert_eq!((world.apns.count(), world.fcm.count()), (2, 2), "each is woken once");
    world.await_metric("sipwake_invites_total{outcome=\"answered\"}", 1.0).await?;
    world.await_metric("sipwake_calls_waiting", 0.0).await?;
    world.content()
}

#[tokio::test]
async fn who_is_busy_leaves_the_call_to_the_others_and_who_declines_by_the_api_ends_it_for_all() -> Outcome {
    let (world, devices, caller, told) = three_called().await?;
    let phone = world.wake(&devices[0]).await?;
    phone.next_invite(SOON).await?.decline(486);
    world.await_state(&devices[0], &told[0], "declined").await?;
    let (_tablet, ringing) = world.wake_to_call(&devices[1]).await?;
    ringing.ring();
    world.await_state(&devices[1], &told[1], "ringing").await?;
    let call = told[2]["call"].as_str().unwrap_or_default();
    assert_eq!(world.api.progress(&devices[2], call).await?.status, 204);
    assert_eq!(world.api.decline(&devices[2], call).await?.status, 204);
    ringing.expect_cancel(SOON).await?;
    caller.expect(603, SOON).await?;
    for (device, told) in devices.iter().zip(&told) {
        world.await_state(device, told, "declined").await?;
    }
    world.await_metric("sipwake_invites_total{outcome=\"declined\"}", 1.0).await?;
    world.content()
}

#[tokio::test]
async fn a_caller_that_hangs_up_while_the_phone_that_rings_is_silent_ends_the_call_for_the_others_at_once() -> Outcome {
    // The relay gives the phone 16 s to end its leg, however busy this machine is.
    let (world, phone) = World::lent_with(|setup| setup.timing = 4.0).await?;
    let android = world.enable_android().await?;
    let caller = world.call()?;
    let (told, other) = (world.push().await?, world.android_push().await?);
    let (silent, ringing) = world.wake_to_call(&phone).await?;
    world.ring(&caller, &ringing).await?;
    silent.fall_silent();
    caller.cancel().await?;
    let ended = world.android_push().await?;
    assert_eq!((&ended["event"], &ended["call"]), (&json!("call-ended"), &other["call"]));
    world.await_state(&android, &other, "cancelled").await?;
    world.await_state(&phone, &told, "cancelled").await?;
    let late = world.wake(&android).await?;
    let is_answered = caller.responses().iter().any(|(_, status)| *status >= 200);
    assert!(!is_answered, "an answer of the phone that rings would still count");
    caller.expect(487, SOON).await?;
    assert_eq!((late.invited(), world.fcm.count()), (0, 2));
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_of_a_second_device_is_422_after_one_attempt_and_the_first_still_rings() -> Outcome {
    let world = World::start().await?;
    let first = world.enable().await?;
    let aor = world.aor();
    let before = world.registrar.registers(&aor).len();
    let mut request = world.enable_request(OTHER_TOKEN);
    request["account"]["password"] = "queen of hearts".into();
    let answer = world.api.enable(&request).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (422, Some("upstream-refused")), "{}", answer.text());
    let seen = world.registrar.registers(&aor);
    let offered = seen[before..].iter().filter(|it| it.request.text(sip::message::Name::Authorization).is_some());
    assert_eq!(offered.count(), 1, "nobody is banned for it");
    world.await_metric("sipwake_instances{state=\"registered\"}", 1.0).await?;
    world.rings_on(&first).await?;
    assert_eq!(world.apns.count(), 1);
    // With the right one it joins, in the same Contact.
    let second = world.enable_other().await?;
    assert_eq!(world.registrar.contacts(&aor).len(), 1);
    world.disable(&second).await?;
    world.content()
}

#[tokio::test]
async fn a_device_that_is_wiped_leaves_the_contact_to_the_other_and_the_last_one_takes_it_along() -> Outcome {
    let (world, phone, android) = two().await?;
    let before = world.contacts();
    let answer = world.api.disable(&phone).await?;
    assert_eq!((answer.status, &answer.json()["unregistered"]), (200, &json!(false)), "the Contact stays");
    let after = world.contacts();
    assert_eq!((after.len(), &after[0].uri), (1, &before[0].uri));
    let caller = world.call()?;
    let push = world.android_push().await?;
    world.talks(&caller, &android).await?;
    world.await_state(&android, &push, "answered").await?;
    assert_eq!(world.apns.count(), 0);
    let answer = world.api.disable(&android).await?;
    assert_eq!((answer.status, &answer.json()["unregistered"]), (200, &json!(true)));
    world.await_contacts(0).await?;
    world.content()
}

#[tokio::test]
async fn a_dead_push_token_wipes_its_own_device_and_the_call_goes_to_the_other() -> Outcome {
    let (world, phone, android) = two().await?;
    world.apns.answer_all(Some(apns::Answer::Gone { timestamp: u64::MAX }));
    let caller = world.call()?;
    world.android_push().await?;
    world.await_gone(&phone).await?;
    world.talks(&caller, &android).await?;
    assert_eq!(world.contacts().len(), 1);
    world.content()
}

#[tokio::test]
async fn an_app_in_the_foreground_is_not_woken_and_the_last_one_unregisters() -> Outcome {
    let (world, phone, android) = two().await?;
    let presence = |value: &str| json!({"presence": value});
    assert_eq!(world.api.change(&phone, &presence("foreground")).await?.status, 200);
    let caller = world.call()?;
    world.android_push().await?;
    world.cancel(&caller).await?;
    assert_eq!(world.apns.count(), 0);
    assert_eq!(world.api.change(&android, &presence("foreground")).await?.status, 200);
    world.await_contacts(0).await?;
    assert_eq!(world.api.change(&phone, &presence("background")).await?.status, 200);
    world.await_contacts(1).await?;
    // The other one finds the registration there.
    let answer = world.api.change(&android, &presence("background")).await?;
    assert_eq!((answer.status, &answer.json()["registration"]["state"]), (200, &json!("registered")));
    world.content()
}

#[tokio::test]
async fn an_instance_that_is_replaced_leaves_no_gap_in_the_registration() -> Outcome {
    let world = World::start().await?;
    let old = world.enable().await?;
    let new = world.enable().await?;
    world.await_gone(&old).await?;
    let registers = world.registrar.registers(&world.aor());
    let ended = registers.iter().filter(|it| it.request.number(sip::message::Name::Expires) == Some(0)).count();
    assert_eq!((ended, world.contacts().len()), (0, 1));
    let caller = world.call()?;
    assert_eq!(world.push().await?["instance"], new.id.as_str());
    world.cancel(&caller).await?;
    assert_eq!(world.apns.count(), 1);
    world.content()
}

#[tokio::test]
async fn a_device_that_joins_while_the_server_is_slow_gets_no_call_before_it_has_proven_itself() -> Outcome {
    let world = World::with(|setup| setup.register_expires = "20s".to_owned()).await?;
    world.enable().await?;
    world.registrar.script(&world.aor(), &[Behaviour::RetryAfter(1), Behaviour::Accept]);
    let answer = world.api.enable(&world.enable_request(OTHER_TOKEN)).await?;
    assert_eq!((answer.status, &answer.json()["registration"]["status"]), (202, &json!(503)), "{}", answer.text());
    let (caller, _) = world.call_and_push().await?;
    world.cancel(&caller).await?;
    assert_eq!(world.apns.count(), 1);
    // With the next refresh it proves itself.
    world.await_metric("sipwake_instances{state=\"registered\"}", 2.0).await?;
    let caller = world.call()?;
    for _ in 0..2 {
        world.push().await?;
    }
    world.cancel(&caller).await?;
    world.content()
}

#[tokio::test]
async fn a_password_that_is_changed_ends_those_that_have_the_old_one_after_three_attempts_of_one() -> Outcome {
    let world = World::with(|setup| {
        setup.register_expires = "6s".to_owned();
        setup.minutes = 0.001;
    })
    .await?;
    let (one, two) = (world.enable().await?, world.enable_other().await?);
    let aor = world.aor();
    world.registrar.change_password("alice", "looking glass");
    let mut request = world.android_enable_request(FCM_TOKEN);
    request["account"]["password"] = "looking glass".into();
    let android = world.enable_as(&request).await?;
    let joined = world.registrar.registers(&aor).len();
    world.disable(&android).await?;
    for gone in [&one, &two] {
        world.await_gone(gone).await?;
    }
    let seen = world.registrar.registers(&aor);
    let wrong =
        seen[joined..].iter().filter(|it| !it.proven && it.request.text(sip::message::Name::Authorization).is_some());
    assert_eq!(wrong.count(), 3, "the other would have offered the same");
    world.content()
}

#[tokio::test]
async fn after_kill_9_the_devices_of_an_account_share_their_contact_again_and_all_are_woken() -> Outcome {
    let (mut world, _redis) = World::on_redis(|_| {}).await?;
    let devices = three(&world).await?;
    let before = world.contacts();
    world.relay.kill_9().await?;
    world.registrar.forget();
    world.relay.restart().await?;
    world.await_metric("sipwake_instances{state=\"registered\"}", 3.0).await?;
    let after = world.await_contacts(1).await?;
    assert_eq!((&after[0].uri, &after[0].instance), (&before[0].uri, &before[0].instance));
    let caller = world.call()?;
    let told = pushes(&world, &devices).await?;
    let (_android, call) = world.wake_to_call(&devices[2]).await?;
    world.answer(&caller, &call).await?;
    world.await_state(&devices[0], &told[0], "answered-elsewhere").await?;
    caller.bye(SOON).await?;
    for device in &devices {
        world.disable(device).await?;
    }
    world.await_contacts(0).await?;
    world.content()
}
