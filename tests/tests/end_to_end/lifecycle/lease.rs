//! What the user of a lease is told before it ends. Its table of times is tested beside `relay::agent::lease`; here the
//! lifetimes end a few seconds behind a reminder's time, so that it falls due while the test looks.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::board::Missed;
use tests::redis_server::RedisServer;
use tests::registrar::{Behaviour, Registrar, Settings};
use tests::relay_setup::Setup;
use tests::world::{FCM_TOKEN, OTHER_TOKEN, SOON, TOKEN, World, hasty};
use tests::{apns, fcm};

use super::Outcome;

const HOUR: u64 = 3_600;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn any_lifetime(setup: &mut Setup) {
    setup.lifetime = ["1s", "5d", "6d"].map(str::to_owned);
}

/// An iPhone whose lease ends `behind` seconds after a moment that many hours before its end.
async fn iphone(world: &World, number: usize, hours: u64, behind: u64) -> Result<(Instance, String), Missed> {
    let token = |kind: char| format!("{kind}{number}").repeat(32);
    let alert = json!({"provider": "apns", "token": token('a')});
    let mut request =
        world.enable_request_for(json!({"call_push": {"provider": "apns", "token": token('c')}, "alert_push": alert}));
    request["lifetime_s"] = json!(hours * HOUR + behind);
    Ok((world.enable_as(&request).await?, token('a')))
}

async fn apple(world: &World) -> Result<apns::ReceivedPush, Missed> {
    world.apns.next_push(SOON * 2).await.ok_or_else(|| Missed::new("a push on APNs", world.relay.log()))
}

async fn google(world: &World) -> Result<fcm::ReceivedPush, Missed> {
    world.fcm.next_push(SOON * 2).await.ok_or_else(|| Missed::new("a push on FCM", world.relay.log()))
}

/// What a push says, but for its moments.
fn is_reminder(push: &Value, event: &str, instance: &Instance, next_h: u64) {
    let expires_at = push["expires_at"].as_u64().unwrap_or_default();
    assert_eq!((&push["v"], &push["event"], &push["instance"]), (&json!(1), &json!(event), &json!(instance.id)));
    assert_eq!(push["deadline"], json!(expires_at - next_h * HOUR), "worth it until the next one: {push}");
    assert!(push["sent_at"].as_u64().is_some_and(|sent| sent.abs_diff(now()) < 60), "{push}");
    assert!(push["call"].is_null() && push["from"].is_null(), "{push}");
}

#[tokio::test]
async fn a_day_before_its_end_a_lease_asks_silently_to_be_renewed() -> Outcome {
    let world = World::with(any_lifetime).await?;
    let (instance, token) = iphone(&world, 1, 24, 3).await?;
    let push = apple(&world).await?;
    assert_eq!((push.token.as_str(), push.topic.as_str()), (token.as_str(), apns::BUNDLE));
    assert_eq!((push.push_type.as_str(), push.priority), ("background", 5));
    assert_eq!(push.payload["aps"], json!({"content-available": 1}));
    is_reminder(&push.payload["sipwake"], "renew", &instance, 12);
    world.content()
}

#[tokio::test]
async fn half_a_day_and_an_hour_before_its_end_the_user_sees_that_a_lease_ends() -> Outcome {
    let world = World::with(any_lifetime).await?;
    for (number, hours, next_h) in [(1, 12, 1), (2, 1, 0)] {
        let (instance, token) = iphone(&world, number, hours, 2).await?;
        let push = apple(&world).await?;
        assert_eq!((push.token.as_str(), push.topic.as_str()), (token.as_str(), apns::BUNDLE));
        assert_eq!((push.push_type.as_str(), push.priority), ("alert", 10));
        assert!(push.payload["aps"]["alert"]["title"].as_str().is_some_and(|title| title.ends_with('.')));
        is_reminder(&push.payload["sipwake"], "expiring", &instance, next_h);
    }
    world.content()
}

#[tokio::test]
async fn an_android_phone_is_told_by_its_one_token_without_waking_it_from_doze() -> Outcome {
    let world = World::with(any_lifetime).await?;
    for (hours, event, next_h) in [(24, "renew", 12), (12, "expiring", 1), (1, "expiring", 0)] {
        let mut request = world.android_enable_request(FCM_TOKEN);
        request["lifetime_s"] = json!(hours * HOUR + 2);
        let instance = world.enable_as(&request).await?;
        let push = google(&world).await?;
        assert_eq!((push.token.as_str(), push.priority.as_str()), (FCM_TOKEN, "NORMAL"));
        is_reminder(&push.payload, event, &instance, next_h);
        world.api.disable(&instance).await?;
    }
    world.content()
}

#[tokio::test]
async fn an_iphone_without_an_alert_token_is_never_sent_a_reminder_as_a_voip_push() -> Outcome {
    let world = World::with(any_lifetime).await?;
    let mut request = world.enable_request(TOKEN);
    request["lifetime_s"] = json!(HOUR + 1);
    world.enable_as(&request).await?;
    // Enabled after it, so due after it.
    iphone(&world, 1, 1, 2).await?;
    assert_ne!(apple(&world).await?.token, TOKEN);
    assert_eq!(world.apns.requests(), 1);
    world.content()
}

#[tokio::test]
async fn a_lease_that_is_renewed_is_not_said_to_end_and_is_reminded_of_its_new_end() -> Outcome {
    let world = World::with(any_lifetime).await?;
    let (renewed, _) = iphone(&world, 1, 1, 10).await?;
    world.change(&renewed, json!({"lifetime_s": 3 * 24 * HOUR})).await?;
    let (_, other) = iphone(&world, 2, 1, 10).await?;
    assert_eq!(apple(&world).await?.token, other, "due after the renewed one would have been");
    assert_eq!(world.apns.requests(), 1);
    world.change(&renewed, json!({"lifetime_s": 12 * HOUR + 2})).await?;
    is_reminder(&apple(&world).await?.payload["sipwake"], "expiring", &renewed, 1);
    world.content()
}

#[tokio::test]
async fn a_restart_repeats_no_reminder_and_forgets_none() -> Outcome {
    let redis = RedisServer::start();
    let mut world = World::with(|setup| {
        any_lifetime(setup);
        setup.store = redis.url();
    })
    .await?;
    let sealed = |instance: &Instance| -> Vec<u8> {
        let keys = redis.instance_keys();
        let key = keys.iter().find(|key| key.contains(&instance.id)).cloned().unwrap_or_default();
        redis.ask(redis::cmd("HGET").arg(key).arg("s"))
    };
    let (told, told_token) = iphone(&world, 1, 1, 2).await?;
    let before = sealed(&told);
    assert_eq!(apple(&world).await?.token, told_token);
    world.until("a reminder that is written down", || async { (sealed(&told) != before).then_some(()) }).await?;
    let (_, late_token) = iphone(&world, 2, 1, 10).await?;
    world.relay.kill_9().await?;
    assert_eq!(world.apns.requests(), 1, "it was not due before the process died");
    let due = now() + 11;
    world.until("the time of the reminder", || async { (now() >= due).then_some(()) }).await?;
    world.relay.restart().await?;
    assert_eq!(apple(&world).await?.token, late_token);
    // Both are looked after again: whatever was due has been sent before what falls due only now.
    let (_, next_token) = iphone(&world, 3, 1, 2).await?;
    assert_eq!(apple(&world).await?.token, next_token);
    let tokens: Vec<String> = world.apns.pushes().into_iter().map(|push| push.token).collect();
    assert_eq!(tokens, [told_token, late_token, next_token]);
    assert_eq!(world.api.read(&told).await?.status, 200);
    world.content()
}

async fn on_redis(redis: &RedisServer, change: fn(&mut Setup)) -> Result<World, Missed> {
    World::with(|setup| {
        change(setup);
        setup.store = redis.url();
    })
    .await
}

#[tokio::test]
async fn a_reminder_that_no_push_service_took_is_sent_by_the_next_run() -> Outcome {
    let redis = RedisServer::start();
    let mut world = on_redis(&redis, any_lifetime).await?;
    world.apns.answer_all(Some(apns::Answer::InvalidProviderToken));
    let (instance, token) = iphone(&world, 1, 24, 2).await?;
    world.relay.await_log("the push service fails", SOON).await?;
    world.relay.kill_9().await?;
    world.apns.answer_all(None);
    world.relay.restart().await?;
    let push = apple(&world).await?;
    assert_eq!(push.token, token);
    is_reminder(&push.payload["sipwake"], "renew", &instance, 12);
    world.content()
}

#[tokio::test]
async fn a_registration_that_was_said_to_fail_is_said_to_be_back_by_the_next_run() -> Outcome {
    let redis = RedisServer::start();
    let mut world = on_redis(&redis, hasty).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    world.registrar.behave(&world.aor(), Behaviour::RetryAfter(3));
    assert_eq!(apple(&world).await?.payload["sipwake"]["event"], "registration-failing");
    // What was told is written down until the drain's end.
    assert_eq!(world.relay.terminate(SOON * 4).await?.code(), Some(0));
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    world.relay.restart().await?;
    let push = apple(&world).await?.payload["sipwake"].clone();
    assert_eq!((&push["event"], &push["instance"]), (&json!("registration-restored"), &json!(instance.id)));
    assert_eq!(world.apns.requests(), 2, "each is told once");
    world.content()
}

#[tokio::test]
async fn a_registration_that_is_lost_is_told_with_the_status_and_why() -> Outcome {
    let world = World::with(hasty).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    world.registrar.change_password("alice", "changed");
    for event in ["registration-failing", "registration-lost"] {
        let push = apple(&world).await?;
        assert_eq!((push.token.as_str(), push.push_type.as_str()), (OTHER_TOKEN, "alert"));
        let said = &push.payload["sipwake"];
        assert_eq!((&said["event"], &said["instance"]), (&json!(event), &json!(instance.id)));
        assert_eq!((&said["status"], &said["reason"]), (&json!(401), &json!("the SIP server refused the password")));
    }
    world.await_gone(&instance).await?;
    world.content()
}

#[tokio::test]
async fn a_registration_that_fails_for_long_is_told_once_and_again_when_it_is_back() -> Outcome {
    let world = World::with(hasty).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let begun = now();
    // What a server says that has lost its memory: no reason to end an account.
    world.registrar.behave(&world.aor(), Behaviour::RetryAfter(3));
    let push = apple(&world).await?;
    let said = &push.payload["sipwake"];
    assert_eq!(
        (push.push_type.as_str(), &said["event"], &said["status"]),
        ("alert", &json!("registration-failing"), &json!(503))
    );
    assert!(said["since"].as_u64().is_some_and(|since| (begun..=now()).contains(&since)), "{said}");
    let registration = world.api.read(&instance).await?.json()["registration"].clone();
    assert_eq!(registration["state"], "retrying");
    assert!(registration["failing_since"].is_string(), "{registration}");
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    let push = apple(&world).await?;
    let event = push.payload["sipwake"]["event"].clone();
    assert_eq!((push.push_type.as_str(), event), ("background", json!("registration-restored")));
    let registration = world.api.read(&instance).await?.json()["registration"].clone();
    assert_eq!((&registration["state"], &registration["failing_since"]), (&json!("registered"), &Value::Null));
    let timeline = world.api.of("GET", &instance, "/timeline").await?.text();
    assert!(timeline.contains("registration-failing") && timeline.contains("registration-restored"), "{timeline}");
    assert_eq!(world.apns.requests(), 2, "each is told once");
    world.content()
}

#[tokio::test]
async fn a_sip_server_that_cannot_be_reached_is_told_to_each_device_of_the_account() -> Outcome {
    let mut world = World::with(|setup| {
        setup.minutes = 0.001;
    })
    .await?;
    let mut tokens = ["1", "2"].map(|number| (format!("c{number}").repeat(32), format!("a{number}").repeat(32)));
    for (call, alert) in &tokens {
        let target = |token: &str| json!({"provider": "apns", "token": token});
        let request = world.enable_request_for(json!({"call_push": target(call), "alert_push": target(alert)}));
        world.enable_as(&request).await?;
    }
    // Another one at another address: nobody listens at the old one.
    world.registrar = Registrar::start(Settings::default()).await?;
    let mut told = Vec::new();
    for _ in &tokens {
        let push = apple(&world).await?;
        let said = &push.payload["sipwake"];
        assert_eq!((&said["event"], &said["status"]), (&json!("registration-failing"), &Value::Null), "{said}");
        assert_eq!(said["reason"], "the SIP server cannot be reached");
        told.push(push.token);
    }
    told.sort_unstable();
    tokens.sort_unstable();
    assert_eq!(told, tokens.map(|(_, alert)| alert));
    world.content()
}

#[tokio::test]
async fn an_account_that_was_never_registered_is_told_of_when_its_sip_server_fails_for_long() -> Outcome {
    let world = World::with(hasty).await?;
    world.registrar.behave(&world.aor(), Behaviour::Silence);
    let answer = world.api.enable(&world.enable_request_with_alerts()).await?;
    assert_eq!(answer.status, 202, "{}", answer.text());
    // Sooner than half a minute of silence.
    world.registrar.behave(&world.aor(), Behaviour::Refuse(503));
    world.registrar.drop_flows();
    let push = apple(&world).await?;
    let said = &push.payload["sipwake"];
    assert_eq!((&said["event"], &said["instance"]), (&json!("registration-failing"), &answer.json()["instance"]));
    world.content()
}
