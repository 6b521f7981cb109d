//! How an instance ends: disabled, expired, replaced, its push token dead; each time unregistered, erased, signed for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relay::domain::Word as _;
use relay::vault::{Keyring, Receipt, verify_receipt};
use serde_json::json;
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::redis_server::RedisServer;
use tests::registrar::Behaviour;
use tests::world::{FCM_TOKEN, OTHER_TOKEN, SOON, TOKEN, World, text};
use tests::{apns, fcm};

use super::Outcome;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Nothing is left of what was there: at the SIP server, in the store, at the API.
async fn nothing_is_left(world: &World, redis: &RedisServer, reason: &str) -> Outcome {
    world.await_contacts(0).await?;
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    world.await_metric(&format!("sipwake_wipes_total{{reason=\"{reason}\"}}"), 1.0).await?;
    for state in ["registered", "registering", "retrying", "foreground", "ending"] {
        world.await_metric(&format!("sipwake_instances{{state=\"{state}\"}}"), 0.0).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_receipt_of_a_wipe_verifies_with_the_public_key_and_not_when_it_is_altered() -> Outcome {
    let (world, redis, instance) = World::lent_on_redis().await?;
    let answer = world.api.disable(&instance).await?;
    assert_eq!(answer.status, 200);
    let receipt: Receipt = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(
        (receipt.instance.as_str(), receipt.reason.word(), receipt.unregistered),
        (&*instance.id, "disabled", true)
    );
    let mut keys: Vec<String> = answer.json().as_object().unwrap().keys().cloned().collect();
    keys.sort_unstable();
    assert_eq!(keys, ["instance", "reason", "signature", "unregistered", "wiped_at"]);
    let keyring = Keyring::open(world.relay.setup().keyring.as_deref().unwrap()).unwrap();
    let public = keyring.receipt_public_key();
    verify_receipt(&receipt, &public).unwrap();
    for altered in [
        Receipt { unregistered: false, ..receipt.clone() },
        Receipt { instance: "pi_another".to_owned(), ..receipt.clone() },
        Receipt { wiped_at: "2026-01-01T00:00:00Z".to_owned(), ..receipt.clone() },
    ] {
        assert!(verify_receipt(&altered, &public).is_err(), "{altered:?}");
    }
    nothing_is_left(&world, &redis, "disabled").await?;
    world.content()
}

#[tokio::test]
async fn an_instance_that_expires_is_unregistered_wiped_and_unknown() -> Outcome {
    let (world, redis) = World::on_redis(|setup| setup.lifetime = ["1s", "2s", "6d"].map(str::to_owned)).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    nothing_is_left(&world, &redis, "expired").await?;
    assert_eq!(world.api.read(&instance).await?.status, 404);
    let receipt = world.api.disable(&instance).await?;
    assert_eq!((receipt.status, &receipt.json()["reason"]), (200, &json!("expired")));
    assert!(world.wake(&instance).await.is_err());
    let push = world.push().await?;
    assert_eq!((push["event"].as_str(), push["instance"].as_str()), (Some("expired"), Some(&*instance.id)));
    world.content()
}

#[tokio::test]
async fn a_receipt_is_told_when_no_push_of_the_end_is_tried_any_more() -> Outcome {
    let world = World::with(|setup| setup.lifetime = ["1s", "2s", "6d"].map(str::to_owned)).await?;
    let instance = world.enable_as(&world.android_enable_request(FCM_TOKEN)).await?;
    let unavailable = || fcm::Answer::Unavailable { retry_after: Some(1) };
    world.fcm.answer_with(FCM_TOKEN, std::iter::repeat_with(unavailable).take(100));
    world.await_gone(&instance).await?;
    let is_tried = world.is_tried_on().await?;
    let receipt = world.api.disable(&instance).await?;
    assert_eq!((receipt.status, &receipt.json()["reason"]), (200, &json!("expired")));
    assert!(!is_tried().await, "its push token is known still");
    Ok(())
}

#[tokio::test]
async fn a_renewed_lifetime_keeps_the_instance_beyond_its_first_end() -> Outcome {
    let (world, redis) = World::on_redis(|setup| setup.lifetime = ["1s", "3s", "6d"].map(str::to_owned)).await?;
    let (kept, lost) = (world.enable().await?, world.enable_other().await?);
    let changed = world.change(&kept, json!({"lifetime_s": 1_000})).await?;
    let until = text(&changed["expires_at"]);
    assert!(until > text(&kept.answer["expires_at"]), "{until}");
    // The other one, enabled after it, ends: so would this one have.
    world.await_gone(&lost).await?;
    assert_eq!(world.api.read(&kept).await?.json()["expires_at"], until.as_str());
    world.await_contacts(1).await?;
    world.whole_call(&kept).await?;
    let key = redis
        .instance_keys()
        .into_iter()
        .find(|key| key.contains(&kept.id))
        .unwrap_or_else(|| redis.instance_keys()[0].clone());
    let ttl: i64 = redis.ask(redis::cmd("TTL").arg(&key));
    assert!((900..=1_100).contains(&ttl), "the store keeps it as long: {key} {ttl}");
    let too_long = world.api.change(&kept, &json!({"lifetime_s": 518_401})).await?;
    assert_eq!(too_long.status, 422, "never above six days");
    Ok(())
}

#[tokio::test]
async fn an_instance_that_is_enabled_again_replaces_the_earlier_one_everywhere() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let mut earlier = world.enable().await?;
    let alone = redis.instance_keys().len();
    for round in 1..=3 {
        let later = world.enable().await?;
        assert_ne!(later.id, earlier.id);
        world.await_gone(&earlier).await?;
        world.await_metric("sipwake_wipes_total{reason=\"replaced\"}", f64::from(round)).await?;
        let receipt = world.api.disable(&earlier).await?;
        assert_eq!((receipt.status, &receipt.json()["reason"]), (200, &json!("replaced")));
        assert!(world.wake(&earlier).await.is_err(), "its secret opens nothing any more");
        assert_eq!(world.await_contacts(1).await?.len(), 1);
        assert_eq!(redis.instance_keys().len(), alone);
        world.whole_call(&later).await?;
        earlier = later;
    }
    world.disable(&earlier).await?;
    nothing_is_left(&world, &redis, "disabled").await?;
    world.content()
}

#[tokio::test]
async fn a_token_that_apns_calls_gone_wipes_the_instance() -> Outcome {
    let (world, redis, instance) = World::lent_on_redis().await?;
    world.apns.answer_with(TOKEN, [apns::Answer::Gone { timestamp: (now() + 60) * 1_000 }]);
    let caller = world.call()?;
    caller.expect(480, SOON).await?;
    world.await_gone(&instance).await?;
    nothing_is_left(&world, &redis, "push-token-gone").await?;
    assert_eq!(world.apns.requests(), 1, "a dead token is not tried again");
    world.content()
}

#[tokio::test]
async fn a_bad_token_wipes_the_instance_where_pushes_were_accepted_also_before_a_restart() -> Outcome {
    let (mut world, redis) = World::on_redis(|_| {}).await?;
    let good = world.enable().await?;
    world.whole_call(&good).await?;
    world
        .until("it is written down", || async {
            redis.keys().iter().any(|key| key.starts_with("sipwake:memo:")).then_some(())
        })
        .await?;
    for restart in [false, true] {
        if restart {
            world.relay.kill_9().await?;
            world.relay.restart().await?;
            world.api = world.relay.api();
            // The Contact is still the earlier run's: the phone is called once this run has its account.
            world.await_metric("sipwake_instances{state=\"registered\"}", 1.0).await?;
        }
        let bad = world.enable_other().await?;
        world.apns.answer_with(OTHER_TOKEN, [apns::Answer::BadDeviceToken]);
        let caller = world.call()?;
        world.push().await?;
        world.await_gone(&bad).await?;
        assert_eq!(world.api.read(&good).await?.status, 200);
        caller.cancel().await?;
        caller.final_response(SOON).await?;
    }
    // An operator who has mixed up the environments restarts as often as he looks for it: that is no new beginning.
    world.relay.kill_9().await?;
    world.relay.restart().await?;
    world.api = world.relay.api();
    world.await_metric("sipwake_instances{state=\"registered\"}", 1.0).await?;
    let third = world.enable_other().await?;
    world.apns.answer_with(OTHER_TOKEN, [apns::Answer::BadDeviceToken]);
    let caller = world.call()?;
    world.await_metric("sipwake_push_tokens_doubted_total{provider=\"apns\"}", 1.0).await?;
    assert_eq!(world.api.read(&third).await?.status, 200);
    caller.cancel().await?;
    caller.final_response(SOON).await.map(drop)
}

#[tokio::test]
async fn when_apns_calls_every_token_bad_nobody_is_wiped_and_the_operator_hears_of_it() -> Outcome {
    const DEVICES: usize = 5;
    let names: Vec<String> = (0..DEVICES).map(|n| format!("u{n}")).collect();
    let accounts: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "a password of theirs")).collect();
    let world = World::among(&accounts, |_| {}).await?;
    world.apns.answer_all(Some(apns::Answer::BadDeviceToken));
    let mut instances = Vec::new();
    for name in &names {
        let mut request = world.enable_request(TOKEN);
        request["account"]["aor"] = json!(world.registrar.aor(name));
        request["account"]["auth_username"] = json!(name);
        request["account"]["password"] = json!("a password of theirs");
        instances.push(world.enable_as(&request).await?);
        let caller = world.call_to(&world.registrar.aor(name), &CallOptions::default())?;
        caller.expect(480, SOON).await?;
    }
    for instance in &instances {
        assert_eq!(world.api.read(instance).await?.json()["registration"]["state"], "registered");
    }
    world.await_metric("sipwake_push_tokens_doubted_total{provider=\"apns\"}", DEVICES as f64).await?;
    world.relay.await_log("BadDeviceToken", SOON).await?;
    world.apns.answer_all(None);
    let caller = world.call_to(&world.registrar.aor("u0"), &CallOptions::default())?;
    caller.expect(180, SOON).await.map(drop)
}

#[tokio::test]
async fn a_token_that_fcm_calls_unregistered_wipes_the_instance() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let instance = world.enable_android().await?;
    world.fcm.answer_with(FCM_TOKEN, [fcm::Answer::Unregistered]);
    let caller = world.call()?;
    caller.expect(480, SOON).await?;
    world.await_gone(&instance).await?;
    nothing_is_left(&world, &redis, "push-token-gone").await?;
    world.content()
}

#[tokio::test]
async fn a_410_that_is_older_than_the_tokens_last_enabling_wipes_nothing() -> Outcome {
    let (world, instance) = World::lent().await?;
    world.apns.answer_with(TOKEN, [apns::Answer::Gone { timestamp: (now() - 3_600) * 1_000 }]);
    let caller = world.call()?;
    caller.expect(480, SOON).await?;
    assert_eq!(world.api.read(&instance).await?.status, 200);
    world.await_contacts(1).await?;
    world.whole_call(&instance).await
}

#[tokio::test]
async fn a_new_push_token_takes_the_place_of_the_old_one_in_the_store_too() -> Outcome {
    let (world, redis, instance) = World::lent_on_redis().await?;
    let alone = redis.instance_keys().len();
    let change = json!({"device": {"call_push": {"provider": "apns", "token": OTHER_TOKEN}}});
    assert_eq!(world.api.change(&instance, &change).await?.status, 200);
    assert_eq!(redis.instance_keys().len(), alone);
    let caller = world.call()?;
    let push = world.apns.next_push(SOON).await.map(|push| push.token);
    assert_eq!(push.as_deref(), Some(OTHER_TOKEN));
    world.cancel(&caller).await?;
    // With the new token it is the same device; with the old one another.
    let again = world.enable_other().await?;
    world.await_gone(&instance).await?;
    world.await_contacts(1).await?;
    let other = world.enable().await?;
    world.await_metric("sipwake_instances{state=\"registered\"}", 2.0).await?;
    for (left, instance) in [(1, &again), (0, &other)] {
        world.disable(instance).await?;
        world.await_contacts(left).await?;
    }
    assert_eq!(redis.instance_keys(), Vec::<String>::new());
    world.content()
}

#[tokio::test]
async fn a_wipe_does_not_wait_for_a_sip_server_that_is_silent() -> Outcome {
    let (world, instance) = World::lent().await?;
    world.registrar.behave(&world.aor(), tests::registrar::Behaviour::Silence);
    let began = std::time::Instant::now();
    let answer = world.api.disable(&instance).await?;
    assert_eq!((answer.status, &answer.json()["unregistered"]), (200, &json!(false)));
    assert!(began.elapsed() < Duration::from_secs(15));
    assert_eq!(world.api.read(&instance).await?.status, 404);
    Ok(())
}

#[tokio::test]
async fn an_enabling_that_an_operator_wipes_while_the_sip_server_is_slow_is_told_so() -> Outcome {
    let world = World::start().await?;
    for wait in [Behaviour::Slow(Duration::from_secs(2)), Behaviour::Silence] {
        world.registrar.behave(&world.aor(), wait);
        let (operator, token) = (world.relay.operator(), world.relay.setup().operator_token.clone());
        let request = world.enable_request(TOKEN);
        let wipe = async {
            let under_way = || async {
                let listed = operator.json("GET", "/v1/operator/instances", Some(&token), None).await.ok()?.json();
                Some(listed["instances"][0]["instance"].as_str()?.to_owned())
            };
            let id = world.until("an instance", under_way).await?;
            Ok::<_, Missed>(world.relay.wipe(&id).await?)
        };
        let (answer, wiped) = tokio::join!(world.api.enable(&request), wipe);
        let (answer, wiped) = (answer?, wiped?);
        assert_eq!((wiped.status, &wiped.json()["reason"]), (200, &json!("operator")), "{}", wiped.text());
        assert_eq!((answer.status, answer.problem().as_deref()), (422, Some("ended")), "{}", answer.text());
        assert_eq!(answer.json()["reason"], json!("operator"));
        world.await_contacts(0).await?;
    }
    Ok(())
}
