//! Calls that the SIP server holds itself: it has the relay wake the devices, and sends the INVITE when one is there.

use serde_json::{Value, json};
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::dns::{Dns, Record};
use tests::push_phone::Service;
use tests::redis_server::RedisServer;
use tests::registrar::{Registrar, Settings};
use tests::wire::Transport;
use tests::world::{FCM_TOKEN, SOON, TOKEN, World, text};
use tests::{apns, fcm};

use super::Outcome;

/// A world with a SIP server that may wake, and its key.
async fn world(ring_timeout: &str) -> Result<(World, String), Missed> {
    let mut key = String::new();
    let world = World::with(|setup| {
        setup.ring_timeout = ring_timeout.to_owned();
        key = setup.sip_server("pbx-1", &["example.test"]);
    })
    .await?;
    Ok((world, key))
}

fn wish(world: &World) -> Value {
    json!({"aor": world.aor(), "wait_ms": 15_000, "call": {"from": "sip:carol@example.test", "name": "Carol"}})
}

#[tokio::test]
async fn a_call_that_was_announced_reaches_the_device_that_came_for_it_without_a_second_push() -> Outcome {
    let (world, key) = world("30s").await?;
    let instance = world.enable().await?;
    let body = wish(&world);
    let (answer, woken) = tokio::join!(world.api.wake(&key, &body), async {
        let push = world.apns.next_push(SOON).await.ok_or_else(|| Missed::new("a push", ""))?;
        assert_eq!((push.push_type.as_str(), push.priority, push.expiration), ("voip", 10, 0));
        let phone = world.wake(&instance).await?;
        Ok::<_, Missed>((push.payload["sipwake"].clone(), phone))
    });
    let (push, phone) = woken?;
    let answer = answer?;
    assert_eq!((answer.status, answer.json()), (200, json!({"awake": 1, "known": 1})), "{}", answer.text());
    assert_eq!((&push["event"], &push["instance"]), (&json!("call"), &json!(instance.id)));
    assert_eq!((&push["from"], &push["name"]), (&json!("sip:carol@example.test"), &json!("Carol")));
    assert_eq!(push["deadline"], json!(push["sent_at"].as_u64().unwrap_or(0) + 30));
    world.await_state(&instance, &push, "ringing").await?;

    let (caller, call) = world.answered_at(&phone).await?;
    world.await_state(&instance, &push, "answered").await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!(world.apns.requests(), 1, "one VoIP push for one call");
    world.content()
}

#[tokio::test]
async fn an_invite_that_comes_before_the_device_waits_for_it_without_a_second_push() -> Outcome {
    let (world, key) = world("30s").await?;
    let instance = world.enable().await?;
    let mut body = wish(&world);
    body["wait_ms"] = json!(1);
    let answer = world.api.wake(&key, &body).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (504, Some("no-device-in-time")));
    let push = world.push().await?;
    let caller = world.call()?;
    caller.expect(180, SOON).await?;
    let phone = world.wake(&instance).await?;
    let call = phone.next_invite(SOON).await?;
    world.answer(&caller, &call).await?;
    world.await_state(&instance, &push, "answered").await?;
    caller.bye(SOON).await?;
    assert_eq!(world.apns.requests(), 1);
    world.content()
}

#[tokio::test]
async fn a_device_that_is_there_already_is_awake_without_a_push() -> Outcome {
    let (world, key) = world("30s").await?;
    let instance = world.enable().await?;
    let phone = world.wake(&instance).await?;
    let answer = world.api.wake(&key, &wish(&world)).await?;
    assert_eq!((answer.status, answer.json()), (200, json!({"awake": 1, "known": 1})));
    let (caller, _) = world.answered_at(&phone).await?;
    caller.bye(SOON).await?;
    assert_eq!(world.apns.requests(), 0);
    world.content()
}

#[tokio::test]
async fn an_announced_call_that_never_comes_ends_for_the_phone_too() -> Outcome {
    let (world, key) = world("4s").await?;
    let instance = world.enable_android().await?;
    let body = wish(&world);
    let (answer, woken) = tokio::join!(world.api.wake(&key, &body), async {
        let push = world.android_push().await?;
        Ok::<_, Missed>((push, world.wake(&instance).await?))
    });
    let (push, phone) = woken?;
    assert_eq!(answer?.status, 200);
    let ended = world.android_push().await?;
    assert_eq!((&ended["event"], &ended["call"]), (&json!("call-ended"), &push["call"]));
    world.await_state(&instance, &push, "timed-out").await?;
    assert_eq!(phone.invited(), 0);
    world.content()
}

#[tokio::test]
async fn who_declines_an_announced_call_is_not_waited_for_and_its_invite_is_declined() -> Outcome {
    let (world, key) = world("30s").await?;
    let instance = world.enable().await?;
    let body = wish(&world);
    let (answer, declined) = tokio::join!(world.api.wake(&key, &body), async {
        let push = world.push().await?;
        world.api.decline(&instance, &text(&push["call"])).await.map_err(Missed::from)
    });
    assert_eq!(declined?.status, 204);
    let answer = answer?;
    assert_eq!((answer.status, answer.problem().as_deref()), (504, Some("no-device-in-time")));
    let caller = world.call()?;
    caller.expect(603, SOON).await?;
    assert_eq!(world.apns.requests(), 1);
    world.content()
}

#[tokio::test]
async fn every_device_of_the_address_is_woken_and_the_first_that_comes_is_answered() -> Outcome {
    let (world, key) = world("30s").await?;
    let android = world.enable_android().await?;
    let apple = world.enable().await?;
    let body = wish(&world);
    let (answer, woken) = tokio::join!(world.api.wake(&key, &body), async {
        assert_eq!(world.push().await?["instance"], json!(apple.id));
        assert_eq!(world.android_push().await?["instance"], json!(android.id));
        world.wake(&android).await
    });
    assert_eq!(answer?.json(), json!({"awake": 1, "known": 2}));
    let _phone = woken?;
    // The same address, asked for again before the INVITE: nobody is pushed twice.
    assert_eq!(world.api.wake(&key, &body).await?.json(), json!({"awake": 1, "known": 2}));
    assert_eq!((world.apns.requests(), world.fcm.requests()), (1, 1));
    world.content()
}

#[tokio::test]
async fn nobody_is_woken_whom_the_relay_or_the_server_does_not_know_or_may_not_wake() -> Outcome {
    let (world, key) = world("30s").await?;
    let instance = world.enable().await?;
    for (aor, key, status) in [
        ("sip:nobody@example.test", key.as_str(), 404),
        ("sip:alice@example.org", key.as_str(), 403),
        ("sip:alice@example.test", "some-other-key-0123456789", 401),
    ] {
        assert_eq!(world.api.wake(key, &json!({"aor": aor})).await?.status, status, "{aor}");
    }
    assert_eq!(world.api.disable(&instance).await?.status, 200);
    assert_eq!(world.api.wake(&key, &wish(&world)).await?.status, 404, "it is not kept that there was one");
    assert_eq!(world.apns.requests(), 0);
    world.content()
}

#[tokio::test]
async fn a_device_that_cannot_be_reached_is_not_waited_for() -> Outcome {
    let (world, key) = world("30s").await?;
    let instance = world.enable().await?;
    world.apns.answer_with(TOKEN, [apns::Answer::Gone { timestamp: u64::MAX }]);
    let answer = world.api.wake(&key, &wish(&world)).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (504, Some("no-device-in-time")));
    world.await_gone(&instance).await?;
    let android = world.enable_android().await?;
    world.fcm.answer_with(FCM_TOKEN, [fcm::Answer::Unregistered]);
    assert_eq!(world.api.wake(&key, &wish(&world)).await?.status, 504);
    world.await_gone(&android).await?;
    world.enable_other().await?;
    let caller = world.call_with(&CallOptions::default())?;
    assert_eq!(world.push().await?["event"], "call", "a call of its own");
    caller.cancel().await
}

/// Alice's account, lent by somebody who calls it so at a registrar of his own.
fn lent_elsewhere(world: &World, stranger: &Registrar, by_proxy: bool) -> Value {
    let elsewhere = format!("sip:localhost:{};transport=tls", stranger.address(Transport::Tls).port());
    let mut wish = world.wish_for(json!({"call_push": {"provider": "fcm", "token": FCM_TOKEN}}));
    let place = if by_proxy { "outbound_proxy" } else { "registrar" };
    wish["account"][place] = json!(elsewhere);
    wish
}

async fn registrar(world: &World, domain: &str) -> Result<Registrar, Missed> {
    let certified = Some(vec![domain.to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()]);
    let authority = Some(world.authority.clone());
    Ok(Registrar::start(Settings { domain: domain.into(), authority, certified, ..Settings::default() }).await?)
}

#[tokio::test]
async fn an_account_that_a_stranger_calls_so_at_his_own_registrar_is_neither_woken_nor_counted_nor_told_the_caller()
-> Outcome {
    let (world, key) = world("30s").await?;
    let stranger = registrar(&world, "example.test").await?;
    let mut body = wish(&world);
    body["wait_ms"] = json!(1);
    for by_proxy in [false, true] {
        let lent = world.enable_as(&lent_elsewhere(&world, &stranger, by_proxy)).await?;
        assert_eq!(stranger.contacts(&world.aor()).len(), 1, "it is registered there");
        let answer = world.api.wake(&key, &body).await?;
        assert_eq!((answer.status, answer.problem().as_deref()), (404, Some("unknown-aor")), "{}", answer.text());
        // Not by being there either.
        let phone = world.wake(&lent).await?;
        assert_eq!(world.api.wake(&key, &body).await?.status, 404);
        let own = world.enable().await?;
        let answer = world.api.wake(&key, &body).await?;
        assert_eq!((answer.status, answer.problem().as_deref()), (504, Some("no-device-in-time")));
        assert_eq!(world.push().await?["instance"], own.id.as_str());
        drop(phone);
        for instance in [&lent, &own] {
            assert_eq!(world.api.disable(instance).await?.status, 200);
        }
    }
    assert_eq!(world.fcm.requests(), 0, "the stranger's device was told nothing");
    Ok(())
}

#[tokio::test]
async fn a_registration_at_an_address_of_the_aors_domain_is_woken_without_being_named() -> Outcome {
    let dns = Dns::start(vec![Record::address("alices.test", "127.0.0.1")]).await?;
    let mut key = String::new();
    let world = World::with(|setup| {
        setup.upstream = format!("name_servers = [\"{}\"]\n", dns.address());
        key = setup.sip_server_at("pbx-1", &["*"], &[]);
    })
    .await?;
    for (domain, status) in [("alices.test", 504), ("example.test", 404)] {
        let server = registrar(&world, domain).await?;
        let mut lent = lent_elsewhere(&world, &server, false);
        lent["account"]["aor"] = json!(format!("sip:alice@{domain}"));
        let instance = world.enable_as(&lent).await?;
        let body = json!({"aor": format!("sip:alice@{domain}"), "wait_ms": 1});
        let answer = world.api.wake(&key, &body).await?;
        assert_eq!(answer.status, status, "{domain}: {}", answer.text());
        assert_eq!(world.api.disable(&instance).await?.status, 200);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_lent_nothing_is_woken_for_an_announced_call_and_gets_it_without_a_second_push() -> Outcome {
    let (world, key) = world("30s").await?;
    let phone = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    let learned = phone.register_and_sleep(SOON).await?;
    world.await_metric("sipwake_edge_flows", 0.0).await?;
    let body = wish(&world);
    let (answer, woken) = tokio::join!(world.api.wake(&key, &body), async {
        let push = world.android_push().await?;
        Ok::<_, Missed>((push, phone.wake(SOON).await?.0))
    });
    let ((push, device), answer) = (woken?, answer?);
    assert_eq!((answer.status, answer.json()), (200, json!({"awake": 1, "known": 1})), "{}", answer.text());
    assert_eq!((text(&push["event"]), Some(text(&push["instance"]))), ("call".to_owned(), learned.purr));
    assert_eq!((&push["from"], &push["name"]), (&json!("sip:carol@example.test"), &json!("Carol")));
    let (caller, call) = world.answered_at(&device).await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!(world.fcm.count(), 1, "one push for one call");

    // It is unregistered: nobody is known any more.
    device.unregister(SOON).await?;
    let answer = world.api.wake(&key, &wish(&world)).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (404, Some("unknown-aor")));
    world.watch_phone(&device);
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_a_phone_that_lent_nothing_is_still_woken_for_an_announced_call() -> Outcome {
    let redis = RedisServer::start();
    let mut key = String::new();
    let mut world = World::with(|setup| {
        setup.store = redis.url();
        key = setup.sip_server("pbx-1", &["example.test"]);
    })
    .await?;
    let phone = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    phone.register_and_sleep(SOON).await?;
    let stored = || async { redis.keys().iter().any(|key| key.starts_with("sipwake:i:")).then_some(()) };
    world.until("a stored record", stored).await?;
    world.relay.kill_9().await?;
    world.relay.restart().await?;
    let mut body = wish(&world);
    body["wait_ms"] = json!(1);
    let woken = || async {
        let answer = world.api.wake(&key, &body).await.ok()?;
        (answer.problem().as_deref() == Some("no-device-in-time")).then_some(())
    };
    world.until("a registration that was adopted", woken).await?;
    assert_eq!(world.android_push().await?["event"], "call");
    world.content()
}
