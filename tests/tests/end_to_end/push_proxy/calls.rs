//! A call to a phone that lent nothing: it sleeps, is pushed, refreshes its registration, and gets the call.

use tests::apns;
use tests::caller::CallOptions;
use tests::push_phone::{Service, sleep};
use tests::wire::Transport;
use tests::world::{FCM_TOKEN, OTHER_TOKEN, SOON, TOKEN, World, text};

type Outcome = tests::world::Outcome;

pub fn android() -> Service {
    Service::Fcm(FCM_TOKEN.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_wakes_a_phone_that_lent_nothing_and_each_side_ends_one() -> Outcome {
    each_side_ends_one(World::start().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_come_by_udp_to_a_phone_that_lent_nothing() -> Outcome {
    each_side_ends_one(World::over(Transport::Udp).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_come_by_tcp_to_a_phone_on_a_websocket_that_lent_nothing() -> Outcome {
    let mut world = World::over(Transport::Tcp).await?;
    world.edge = Transport::Wss;
    each_side_ends_one(world).await
}

async fn each_side_ends_one(world: World) -> Outcome {
    let phone = world.push_phone(&android());
    let learned = phone.register_and_sleep(SOON).await?;
    assert_eq!((learned.services, learned.refresh_before_s), (vec!["fcm".to_owned()], None));
    for caller_ends in [true, false] {
        world.await_all_asleep().await?;
        let caller = world.call()?;
        let push = world.android_push().await?;
        assert_eq!((text(&push["event"]), Some(text(&push["instance"]))), ("call".to_owned(), learned.purr.clone()));
        caller.expect(180, SOON).await?;
        let (device, call) = world.wake_to_call(&phone).await?;
        call.ring();
        world.answer(&caller, &call).await?;
        world.end(caller_ends, &caller, &call).await?;
        world.content()?;
        sleep(device);
    }
    assert_eq!(world.fcm.count(), 2, "one push for one call");
    Ok(())
}

/// What waits for a phone is as large as strangers make it, and is handed over in one go when the phone comes.
#[tokio::test(flavor = "multi_thread")]
async fn large_messages_that_wait_for_a_phone_do_not_end_its_connection_before_its_call() -> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    world.await_all_asleep().await?;
    let body = "x".repeat(60_000);
    let messages: Vec<_> = (0..16)
        .map(|_| world.call_with(&CallOptions::request("MESSAGE").body("text/plain", &body)))
        .collect::<Result<_, _>>()?;
    world.android_push().await?;
    let caller = world.call()?;
    caller.expect(180, SOON).await?;
    let (device, call) = world.wake_to_call(&phone).await?;
    call.ring();
    world.answer(&caller, &call).await?;
    for message in &messages {
        message.expect(200, SOON).await?;
    }
    world.end(true, &caller, &call).await?;
    sleep(device);
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iphone_gets_one_voip_push_for_a_call_and_none_for_anything_else() -> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&Service::Apns(TOKEN.to_owned(), OTHER_TOKEN.to_owned()));
    let learned = phone.register_and_sleep(SOON).await?;
    assert_eq!(learned.services, ["apns"]);
    let caller = world.call()?;
    let push = world.apple_push().await?;
    let topic = format!("{}.voip", apns::BUNDLE);
    assert_eq!((push.token.as_str(), push.topic.as_str(), push.push_type.as_str()), (TOKEN, topic.as_str(), "voip"));
    let (device, call) = world.wake_to_call(&phone).await?;
    call.decline(603);
    caller.expect(603, SOON).await?;
    sleep(device);
    world.await_all_asleep().await?;
    // A MESSAGE waits for its phone as well, which is asked to come without being told of a call.
    let message = CallOptions::request("MESSAGE").body("text/plain", "hello");
    let message = world.call_with(&message)?;
    let push = world.apple_push().await?;
    let seen = (push.token.as_str(), push.topic.as_str(), push.push_type.as_str());
    assert_eq!(seen, (OTHER_TOKEN, apns::BUNDLE, "background"));
    assert_eq!(push.payload["sipwake"]["event"], "renew");
    let device = world.wake(&phone).await?;
    assert_eq!(device.next_request("MESSAGE", SOON).await?.body().as_ref(), b"hello");
    message.expect(200, SOON).await?;
    world.content()?;
    assert_eq!(world.apns.count(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_never_rings_the_phone_that_wakes_late() -> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    world.await_all_asleep().await?;
    let caller = world.call()?;
    assert_eq!(world.android_push().await?["event"], "call");
    world.cancel(&caller).await?;
    assert_eq!(world.android_push().await?["event"], "call-ended");
    let device = world.wake(&phone).await?;
    device.ping(SOON).await?;
    assert_eq!(device.invited(), 0);
    world.content()
}

/// RFC 8599 §4.1.1: its push service gives the app another token, and it registers with that one.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_for_a_phone_that_comes_with_another_push_token() -> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&android());
    let earlier = phone.register_and_sleep(SOON).await?;
    world.await_all_asleep().await?;
    let caller = world.call()?;
    assert_eq!(world.android_push().await?["event"], "call");
    let later = phone.woken_by(&Service::Fcm(format!("{FCM_TOKEN}-later")));
    let (device, call) = world.wake_to_call(&later).await?;
    call.ring();
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    let answer = device.register(SOON).await?;
    assert_ne!(tests::push_phone::learned(&answer).purr, earlier.purr);
    assert_eq!(world.relay.metric("sipwake_push_registrations").await, Some(1.0), "it has one registration");
    assert_eq!(world.fcm.count(), 1, "and was pushed once");
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_does_not_come_is_480() -> Outcome {
    let world = World::with(|setup| setup.ring_timeout = "2s".to_owned()).await?;
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    world.await_all_asleep().await?;
    let caller = world.call()?;
    caller.expect(180, SOON).await?;
    caller.expect(480, SOON).await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_is_awake_gets_its_calls_without_a_push() -> Outcome {
    let world = World::start().await?;
    let (device, _) = world.push_phone(&android()).wake(SOON).await?;
    let (first, second) = (world.call()?, world.call()?);
    for caller in [&first, &second] {
        let call = device.next_invite(SOON).await?;
        call.ring();
        world.answer(caller, &call).await?;
        world.hang_up(caller, &call).await?;
    }
    assert_eq!(world.fcm.count(), 0);
    world.watch_phone(&device);
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_half_of_an_attended_transfer_wakes_a_phone_that_lent_nothing() -> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    for required in [true, false] {
        world.await_all_asleep().await?;
        // Of the calls of such a phone the relay remembers nothing.
        let options = CallOptions::default().header("Replaces", "a-call-of-before;to-tag=alice;from-tag=bob");
        let caller = world.call_with(&if required { options.header("Require", "replaces") } else { options })?;
        assert_eq!(world.android_push().await?["event"], "call", "required: {required}");
        let (device, call) = world.wake_to_call(&phone).await?;
        world.answer(&caller, &call).await?;
        world.hang_up(&caller, &call).await?;
        world.content()?;
        sleep(device);
    }
    assert_eq!(world.fcm.count(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_lent_and_one_that_is_not_live_beside_each_other() -> Outcome {
    let world = World::among(&[("bob", "builder")], |_| {}).await?;
    let lent = world.enable().await?;
    let bob = ("bob", "builder");
    let (edge, registrar) = (world.relay.edge_uri(), world.registrar.uri(world.transport));
    let phone =
        tests::push_phone::PushPhone::new(&edge, &registrar, &world.registrar.aor("bob"), bob, &world.authority)
            .woken_by(&android());
    phone.register_and_sleep(SOON).await?;
    world.await_all_asleep().await?;
    let to_bob = world.call_to(&world.registrar.aor("bob"), &CallOptions::default())?;
    let (_device, call) = world.wake_to_call(&phone).await?;
    world.answer(&to_bob, &call).await?;
    let to_alice = world.call()?;
    assert_eq!(text(&world.push().await?["instance"]), lent.id);
    let (_alice, other) = world.wake_to_call(&lent).await?;
    world.answer(&to_alice, &other).await?;
    world.hang_up(&to_bob, &call).await?;
    world.phone_hangs_up(&to_alice, &other).await?;
    world.content()
}
