//! Restarts, refreshes, dead tokens; and what lies in Redis and in the relay's memory: no credential, for there is none.

use std::time::Duration;

use serde_json::json;
use tests::apns;
use tests::board::Missed;
use tests::caller::{CallOptions, Caller};
use tests::fcm::Answer;
use tests::gate::Gate;
use tests::push_phone::{Learned, PushPhone, Service, sleep};
use tests::redis_server::RedisServer;
use tests::registrar::Behaviour;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::world::{FCM_TOKEN, OTHER_TOKEN, SOON, TOKEN, World, text};
use tokio::time::timeout;

use super::calls::android;

type Outcome = tests::world::Outcome;

pub(super) const REGISTRATIONS: &str = "sipwake_push_registrations";

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_was_killed_still_wakes_a_phone_that_lent_nothing() -> Outcome {
    let (mut world, redis) = World::on_redis(|_| {}).await?;
    let phone = world.push_phone(&android());
    let learned = phone.register_and_sleep(SOON).await?;
    stored(&world, &redis, 1).await?;
    world.relay.kill_9().await?;
    world.relay.restart().await?;
    world.await_metric(REGISTRATIONS, 1.0).await?;
    // The SIP server's connections are gone, too: it dials the Path. Until the relay knows its addresses again, it waits.
    let caller = world.registrar.call_by_path(&world.aor(), &CallOptions::default()).await?;
    caller.expect(180, SOON).await?;
    let push = world.android_push().await?;
    assert_eq!((text(&push["event"]), Some(text(&push["instance"]))), ("call".to_owned(), learned.purr));
    let (_device, call) = world.wake_to_call(&phone).await?;
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    world.watch_caller(&caller);
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_a_phone_that_lent_nothing_waits_for_a_store_that_does_not_answer_and_is_never_told_that_the_phone_is_unknown()
-> Outcome {
    let (mut world, redis) = World::on_redis(|_| {}).await?;
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    stored(&world, &redis, 1).await?;
    world.relay.kill_9().await?;
    redis.freeze();
    world.relay.relaunch()?;
    world.relay.await_log("serving", SOON).await?;
    let in_vain = world.registrar.call_by_path(&world.aor(), &CallOptions::default()).await?;
    assert_eq!(
        in_vain.final_response(SOON * 2).await?.status(),
        Some(503),
        "its registrar may try again, and drops nothing"
    );
    let caller = world.registrar.call_by_path(&world.aor(), &CallOptions::default()).await?;
    caller.expect(100, SOON).await?;
    redis.thaw();
    let push = world.android_push().await?;
    assert_eq!(text(&push["event"]), "call");
    let (_device, call) = world.wake_to_call(&phone).await?;
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    world.watch_caller(&caller);
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_its_caller_gave_up_while_it_waited_for_the_store_pushes_nobody() -> Outcome {
    let (mut world, redis) = World::on_redis(|_| {}).await?;
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    stored(&world, &redis, 1).await?;
    world.relay.kill_9().await?;
    redis.freeze();
    world.relay.relaunch()?;
    world.relay.await_log("serving", SOON).await?;
    let before = world.fcm.count();
    let given_up = world.registrar.call_by_path(&world.aor(), &CallOptions::default()).await?;
    given_up.expect(100, SOON).await?;
    let behind = async {
        let caller = world.registrar.call_by_path(&world.aor(), &CallOptions::default()).await?;
        caller.expect(100, SOON).await?;
        redis.thaw();
        Ok::<_, Missed>(caller)
    };
    // It is answered when the store has answered.
    let (cancelled, caller) = tokio::join!(given_up.cancel(), behind);
    let caller = cancelled.and(caller)?;
    given_up.expect(487, SOON).await?;
    world.android_push().await?;
    caller.expect(180, SOON).await?;
    assert_eq!(world.fcm.count(), before + 1, "the other one's alone");
    let (_device, call) = world.wake_to_call(&phone).await?;
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!(world.fcm.count(), before + 1);
    world.content()
}

/// Another node with the store and the keyring of a world's.
pub(super) async fn another_node(world: &World) -> Result<RelayProcess, Missed> {
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    RelayProcess::start(setup).await
}

/// A node is believed dead after a lease of silence, and another one of watching.
pub(super) async fn takes_over(other: &RelayProcess) -> Outcome {
    let taken = || async { other.metric(REGISTRATIONS).await.filter(|count| *count > 0.5) };
    let again = async {
        while taken().await.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON * 9, again).await.map_err(|_| Missed::new("a takeover", other.log()))
}

/// Another node has taken over what a phone has registered here, and this one is back.
pub(super) struct TakenOver {
    pub(super) world: World,
    pub(super) redis: RedisServer,
    pub(super) other: RelayProcess,
    pub(super) phone: PushPhone,
    pub(super) learned: Learned,
}

pub(super) async fn taken_over() -> Result<TakenOver, Missed> {
    let (mut world, redis) = World::on_redis(|_| {}).await?;
    let phone = world.push_phone(&android());
    let learned = phone.register_and_sleep(SOON).await?;
    stored(&world, &redis, 1).await?;
    world.relay.kill_9().await?;
    let other = another_node(&world).await?;
    takes_over(&other).await?;
    world.relay.restart().await?;
    assert_eq!(world.relay.metric(REGISTRATIONS).await, Some(0.0));
    Ok(TakenOver { world, redis, other, phone, learned })
}

/// Its Path leads nowhere, until it has registered by the `edge` of the push.
#[tokio::test(flavor = "multi_thread")]
async fn a_phone_of_a_node_that_is_gone_is_pushed_to_register_by_the_one_that_took_it_over() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    stored(&world, &redis, 1).await?;
    world.relay.kill_9().await?;
    let mut other = another_node(&world).await?;
    takes_over(&other).await?;
    // Its next run knows by the record which node the Path leads to.
    for run in 1..=2 {
        let push = world.fcm.next_push(SOON * 4).await.ok_or_else(|| Missed::new("a push", other.log()))?.payload;
        assert_eq!((&push["event"], &push["edge"]), (&json!("renew"), &json!(other.edge_address().to_string())));
        assert_eq!(world.fcm.count(), run, "once");
        if run == 1 {
            other.kill_9().await?;
            other.restart().await?;
        }
    }
    Ok(())
}

/// After each rolling restart most of what a node's Paths lead to is owned by others.
#[tokio::test(flavor = "multi_thread")]
async fn a_phone_of_a_node_that_has_come_back_and_is_gone_again_is_pushed_to_register() -> Outcome {
    let TakenOver { world, redis: _redis, other, phone: _phone, learned: _learned } = taken_over().await?;
    // Longer than a node is waited for.
    let pushed = world.fcm.next_push(Duration::from_secs(8)).await;
    assert!(pushed.is_none(), "{}", other.log());
    world.relay.kill_9().await?;
    let push = world.fcm.next_push(SOON * 4).await.ok_or_else(|| Missed::new("a push", other.log()))?.payload;
    assert_eq!((&push["event"], &push["edge"]), (&json!("renew"), &json!(other.edge_address().to_string())));
    Ok(())
}

/// An update ends with the node's return: its Paths lead somewhere again.
#[tokio::test(flavor = "multi_thread")]
async fn no_phone_is_pushed_to_register_while_a_node_that_has_said_that_it_leaves_may_be_back() -> Outcome {
    let (mut world, redis) = World::on_redis(|_| {}).await?;
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    stored(&world, &redis, 1).await?;
    let other = another_node(&world).await?;
    world.relay.terminate(SOON * 9).await?;
    takes_over(&other).await?;
    // Longer than any other node is waited for.
    let pushed = world.fcm.next_push(std::time::Duration::from_secs(8)).await;
    assert!(pushed.is_none(), "{}", other.log());
    world.relay.restart().await?;
    Ok(())
}

/// While a node is away another one takes its records over; but the SIP servers go on calling by the Path that names it.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_serves_its_paths_though_another_one_has_their_records() -> Outcome {
    let TakenOver { world, redis: _redis, other: _other, phone, learned: _learned } = taken_over().await?;
    let caller = world.registrar.call_by_path(&world.aor(), &CallOptions::default()).await?;
    let pushed = world.until("a call's push", || async {
        let push = world.fcm.next_push(std::time::Duration::from_secs(1)).await?.payload;
        (push["event"] == "call").then_some(push)
    });
    assert_eq!(pushed.await?["edge"], world.relay.edge_address().to_string());
    let (_device, call) = world.wake_to_call(&phone).await?;
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    world.await_metric(REGISTRATIONS, 1.0).await?;
    world.watch_caller(&caller);
    world.content()
}

/// It serves a copy, of which the owner ends the record.
#[tokio::test(flavor = "multi_thread")]
async fn no_phone_is_pushed_after_the_receipt_of_its_registration_by_a_node_that_has_adopted_it() -> Outcome {
    let TakenOver { world, redis: _redis, other, phone: _phone, learned } = taken_over().await?;
    let caller = world.registrar.call_by_path(&world.aor(), &CallOptions::default()).await?;
    caller.expect(180, SOON).await?;
    world.android_push().await?;
    world.cancel(&caller).await?;
    world.await_metric(REGISTRATIONS, 1.0).await?;
    let id = learned.purr.ok_or_else(|| Missed::new("a PURR", "none"))?;
    let wiped = other.wipe(&id).await?;
    assert_eq!(wiped.status, 200, "{}", wiped.text());
    assert_eq!(world.metric(REGISTRATIONS).await, Some(0.0), "at the receipt, and not later");
    let pushed = world.fcm.count();
    let caller = world.registrar.call_by_path(&world.aor(), &CallOptions::default()).await?;
    let status = caller.final_response(SOON).await?.status();
    assert!(matches!(status, Some(404 | 430)), "{status:?}");
    assert_eq!(world.fcm.count(), pushed);
    Ok(())
}

/// It asks the store, which still has the record, after it has heard of its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_adopted_while_the_store_has_yet_to_erase_its_record_is_let_go_of_when_it_has() -> Outcome {
    let TakenOver { world, redis, other, phone: _phone, learned } = taken_over().await?;
    let may_erase = |right: &str| redis.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg("default").arg(right));
    may_erase("-del");
    let id = learned.purr.ok_or_else(|| Missed::new("a PURR", "none"))?;
    let wiped = other.wipe(&id).await?;
    assert!(wiped.json()["signature"].is_null(), "{}", wiped.text());
    let caller = world.registrar.call_by_path(&world.aor(), &CallOptions::default()).await?;
    caller.expect(180, SOON).await?;
    world.android_push().await?;
    world.cancel(&caller).await?;
    world.await_metric(REGISTRATIONS, 1.0).await?;
    may_erase("+del");
    world.await_metric(REGISTRATIONS, 0.0).await
}

/// By a proxy name with two addresses, or by the `edge` of an earlier push.
#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_registers_at_another_node_while_it_is_called_is_told_that_the_call_has_ended() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    stored(&world, &redis, 1).await?;
    let other = another_node(&world).await?;
    let caller = world.call()?;
    let call = world.android_push().await?;
    assert_eq!(call["event"], "call");
    caller.expect(180, SOON).await?;
    let mut elsewhere = phone.clone();
    elsewhere.settings.server = other.edge_uri();
    elsewhere.register_and_sleep(SOON).await?;
    // The first node hears that the registration is the other one's, and lets go of it.
    // Its SIP server says that it goes by flows, and tries the next one.
    caller.expect(430, SOON).await?;
    let ended = world.android_push().await?;
    assert_eq!((&ended["event"], &ended["call"]), (&"call-ended".into(), &call["call"]));
    world.await_metric(REGISTRATIONS, 0.0).await?;
    assert_eq!(other.metric(REGISTRATIONS).await, Some(1.0));
    world.content()
}

/// Its earlier token is pushed no more, whichever node it was registered by.
#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_registers_at_another_node_by_another_push_token_is_not_pushed_by_its_earlier_one() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    stored(&world, &redis, 1).await?;
    let other = another_node(&world).await?;
    let caller = world.call()?;
    assert_eq!(world.android_push().await?["event"], "call");
    caller.expect(180, SOON).await?;
    let mut elsewhere = phone.clone().woken_by(&Service::Fcm(OTHER_TOKEN.to_owned()));
    elsewhere.settings.server = other.edge_uri();
    elsewhere.register_and_sleep(SOON).await?;
    // Its SIP server says that it goes by flows, and tries the next one.
    caller.expect(430, SOON).await?;
    world.await_metric(REGISTRATIONS, 0.0).await?;
    stored(&world, &redis, 1).await?;
    assert_eq!(other.metric(REGISTRATIONS).await, Some(1.0));
    Ok(())
}

/// As a phone does whose proxy name has two addresses: its connection to the one node stands, and it registers by the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_rings_here_and_registers_at_another_node_is_answered_here() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    stored(&world, &redis, 1).await?;
    let other = another_node(&world).await?;
    let caller = world.call()?;
    assert_eq!(world.android_push().await?["event"], "call");
    let (_device, call) = world.wake_to_call(&phone).await?;
    call.ring();
    caller.expect(180, SOON).await?;
    let mut elsewhere = phone.clone();
    elsewhere.settings.server = other.edge_uri();
    elsewhere.register_and_sleep(SOON).await?;
    world.await_metric(REGISTRATIONS, 0.0).await?;
    assert_eq!(other.metric(REGISTRATIONS).await, Some(1.0));
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_and_memory_hold_no_credential_and_no_push_token_in_the_clear() -> Outcome {
    let (world, redis) = World::on_redis(|setup| {
        setup.log = "trace".to_owned();
    })
    .await?;
    let before = redis.instance_keys().len();
    let phone = world.push_phone(&android());
    let device = world.wake(&phone).await?;
    stored(&world, &redis, 1).await?;
    let told = all_of(&redis);
    for secret in [FCM_TOKEN, "alice", "wonderland", "example.test", "pn-prid"] {
        assert!(memchr::memmem::find(&told, secret.as_bytes()).is_none(), "{secret} lies in Redis");
    }
    let registers = world.registrar.registers(&world.aor());
    let proof = registers.iter().rev().find_map(|seen| seen.request.text(sip::message::Name::Authorization));
    let response = proof.and_then(|proof| proof.split("response=\"").nth(1)).and_then(|rest| rest.get(..32));
    let response = response.ok_or_else(|| Missed::new("a digest's response", "none"))?.to_owned();
    let ha1 = tests::digest::Algorithm::Sha256.ha1("alice", "example.test", "wonderland");
    let needles = [("the password", "wonderland"), ("the HA1", ha1.as_str())];
    let needles = needles.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    assert_eq!(world.relay.memory_keeps(&needles, SOON).await?, Vec::<String>::new());
    for secret in ["wonderland", FCM_TOKEN, response.as_str()] {
        assert!(!world.relay.log().contains(secret), "{secret} stands in the log");
    }
    // Taken back, nothing is left; and what passed through goes with its connection, whose buffers held it.
    assert_eq!(device.unregister(SOON).await?.status(), Some(200));
    world.await_metric(REGISTRATIONS, 0.0).await?;
    world.until("an empty store", || async { (redis.instance_keys().len() <= before).then_some(()) }).await?;
    sleep(device);
    let needles = [("the push token", FCM_TOKEN), ("the digest", response.as_str())];
    let needles = needles.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    assert_eq!(world.relay.memory_keeps(&needles, SOON).await?, Vec::<String>::new());
    world.content()
}

/// Waits until so many records lie in Redis.
pub(super) async fn stored(world: &World, redis: &RedisServer, count: usize) -> Outcome {
    let records = || redis.keys().iter().filter(|key| key.starts_with("sipwake:i:")).count();
    world.until("a stored record", || async { (records() == count).then_some(()) }).await
}

/// Every value that lies in Redis, with its key.
fn all_of(redis: &RedisServer) -> Vec<u8> {
    let mut all = Vec::new();
    for key in redis.keys() {
        all.extend_from_slice(key.as_bytes());
        let dump: Option<Vec<u8>> = redis.ask(redis::cmd("DUMP").arg(&key));
        all.extend(dump.unwrap_or_default());
        let kind: String = redis.ask(redis::cmd("TYPE").arg(&key));
        if kind == "hash" {
            let values: Vec<Vec<u8>> = redis.ask(redis::cmd("HVALS").arg(&key));
            all.extend(values.concat());
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_phone_is_pushed_in_time_to_refresh_and_never_by_voip() -> Outcome {
    let world = World::start().await?;
    world.registrar.behave(&world.aor(), Behaviour::Grant(20));
    let phone = world.push_phone(&Service::Apns(TOKEN.to_owned(), OTHER_TOKEN.to_owned()));
    phone.register_and_sleep(SOON).await?;
    for _ in 0..2 {
        let push = world.apple_push().await?;
        let seen = (push.token.as_str(), push.topic.as_str(), push.push_type.as_str());
        assert_eq!(seen, (OTHER_TOKEN, apns::BUNDLE, "background"));
        assert_eq!(push.payload["sipwake"]["event"], "renew");
        let life = push.payload["sipwake"]["deadline"].as_u64().zip(push.payload["sipwake"]["sent_at"].as_u64());
        assert_eq!(life.map(|(deadline, sent_at)| deadline - sent_at), Some(30), "the least, for it ends before");
        phone.register_and_sleep(SOON).await?;
    }
    world.await_metric(REGISTRATIONS, 1.0).await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_to_refresh_is_kept_for_a_phone_that_dozes_as_long_as_its_registration_stands() -> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&Service::Apns(TOKEN.to_owned(), OTHER_TOKEN.to_owned()));
    phone.register_and_sleep(SOON).await?;
    let message = world.call_with(&CallOptions::request("MESSAGE").body("text/plain", "hello"))?;
    let push = world.apple_push().await?.payload["sipwake"].clone();
    assert_eq!(push["event"], "renew");
    let life = push["deadline"].as_u64().unwrap_or(0) - push["sent_at"].as_u64().unwrap_or(0);
    assert!((260..=300).contains(&life), "{push}");
    let device = world.wake(&phone).await?;
    device.next_request("MESSAGE", SOON).await?;
    message.expect(200, SOON).await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_has_logged_out_is_not_asked_to_register_again() -> Outcome {
    let world = World::start().await?;
    let unavailable = || Answer::Unavailable { retry_after: Some(1) };
    world.fcm.answer_with(FCM_TOKEN, std::iter::repeat_with(unavailable).take(100));
    world.registrar.behave(&world.aor(), Behaviour::Grant(60));
    let phone = world.push_phone(&android());
    phone.register_and_sleep(SOON).await?;
    // It asks for a refresh, for the phone is to be attached.
    let message = world.call_with(&CallOptions::request("MESSAGE").body("text/plain", "hello"))?;
    let is_tried = world.is_tried_on().await?;
    let (device, answer) = phone.expires(0).try_to_register(SOON).await?;
    assert_eq!(answer.status(), Some(200));
    sleep(device);
    world.await_metric(REGISTRATIONS, 0.0).await?;
    assert!(!is_tried().await, "it is woken to register");
    drop(message);
    Ok(())
}

/// Registers a phone that sleeps then, and calls it: its push is taken, and every later one is put off. Returns its instance, and the caller.
async fn called_and_pushed(world: &World, phone: &PushPhone) -> Result<(String, Caller), Missed> {
    let learned = phone.register_and_sleep(SOON).await?;
    let id = learned.purr.ok_or_else(|| Missed::new("a PURR", "none"))?;
    let caller = world.call()?;
    caller.expect(180, SOON).await?;
    world.android_push().await?;
    let unavailable = || Answer::Unavailable { retry_after: Some(1) };
    world.fcm.answer_with(FCM_TOKEN, std::iter::repeat_with(unavailable).take(100));
    Ok((id, caller))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_has_the_receipt_of_a_registration_when_no_push_with_its_token_is_tried_any_more() -> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&android());
    let (id, caller) = called_and_pushed(&world, &phone).await?;
    let before = world.fcm.requests();
    let wiped = world.relay.wipe(&id).await?;
    assert_eq!(wiped.status, 200, "{}", wiped.text());
    caller.final_response(SOON).await?;
    let tried = world.fcm.requests();
    assert!(tried > before, "the phone was to hear that the call has ended");
    let again = world.until("another try", || async { (world.fcm.requests() > tried).then_some(()) });
    assert!(timeout(Duration::from_secs(4), again).await.is_err(), "its push token is known still");
    Ok(())
}

/// What is pushed by then is for the registration that has come since.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_wipe_breaks_no_push_off_when_its_phone_has_registered_again() -> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&android());
    let (id, _caller) = called_and_pushed(&world, &phone).await?;
    let before = world.fcm.requests();
    let (wiped, back) = tokio::join!(world.relay.wipe(&id), async {
        world.until("a push", || async { (world.fcm.requests() > before).then_some(()) }).await?;
        phone.register_and_sleep(SOON).await
    });
    assert_eq!(back?.purr.as_deref(), Some(&*id), "{:?}", wiped?.status);
    assert!(world.is_tried_on().await?().await);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_nobody_refreshes_is_forgotten_at_its_end() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    world.registrar.behave(&world.aor(), Behaviour::Grant(4));
    // A VoIP token alone: Apple takes no push for it but a call's.
    let phone = world.push_phone(&Service::ApnsVoip(TOKEN.to_owned()));
    phone.register_and_sleep(SOON).await?;
    stored(&world, &redis, 1).await?;
    world.await_metric(REGISTRATIONS, 0.0).await?;
    stored(&world, &redis, 0).await?;
    assert_eq!(world.apns.count(), 0);
    world.await_metric("sipwake_push_registrations_lost{within=\"hour\"}", 1.0).await?;
    world.registrar.behave(&world.aor(), Behaviour::Grant(600));
    phone.register_and_sleep(SOON).await?;
    world.await_metric("sipwake_push_registrations_lost{within=\"hour\"}", 0.0).await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_push_token_ends_the_registration() -> Outcome {
    let world = World::start().await?;
    world.fcm.answer_with(FCM_TOKEN, [Answer::Unregistered]);
    world.push_phone(&android()).register_and_sleep(SOON).await?;
    world.await_all_asleep().await?;
    let caller = world.call()?;
    caller.expect(480, SOON).await?;
    world.await_metric(REGISTRATIONS, 0.0).await?;
    let again = world.registrar.call_by_path(&world.aor(), &CallOptions::default()).await?;
    assert_eq!(again.final_response(SOON).await?.status(), Some(430), "its Path leads nowhere any more");
    assert_eq!(world.fcm.requests(), 1, "nobody is there to be told of the end");
    Ok(())
}

/// EVALSHA, the script's hash, how many keys, the five keys, the node, whom it is erased from, a fence and a form of the record: an erasure. What writes a
/// record has more words.
const ERASURE: usize = 12;

/// What the store was asked about this record, each by how many words.
fn asked_about(redis: &RedisServer, record: &str) -> Vec<usize> {
    type Entry = (u64, u64, u64, Vec<Vec<u8>>, String, String);
    let all: Vec<Entry> = redis.ask(redis::cmd("SLOWLOG").arg("GET").arg(10_000));
    let of_record = |words: &Vec<Vec<u8>>| words.iter().any(|word| word == record.as_bytes());
    all.into_iter().map(|entry| entry.3).filter(of_record).map(|words| words.len()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_ended_while_the_store_is_away_is_not_written_when_it_is_back() -> Outcome {
    let redis = RedisServer::start();
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    gate.open()?;
    let store = format!("redis://{}", gate.address());
    let world = World::with(|setup| setup.store = store).await?;
    gate.close();
    let phone = world.push_phone(&android());
    let learned = phone.register_and_sleep(SOON).await?;
    let id = learned.purr.ok_or_else(|| Missed::new("a PURR", "none"))?;
    world.await_metric(REGISTRATIONS, 1.0).await?;
    let wiped = world.relay.wipe(&id).await?;
    assert_eq!(wiped.status, 503, "nothing holds a promise: {}", wiped.text());
    world.await_metric(REGISTRATIONS, 0.0).await?;
    for (setting, value) in [("slowlog-max-len", 10_000), ("slowlog-log-slower-than", 0)] {
        redis.ask::<()>(redis::cmd("CONFIG").arg("SET").arg(setting).arg(value));
    }
    gate.open()?;
    let record = format!("sipwake:i:{{{id}}}");
    let is_asked = || async { Some(asked_about(&redis, &record)).filter(|asked| asked.contains(&ERASURE)) };
    let asked = world.until("an erasure", is_asked).await?;
    assert_eq!(asked.iter().max(), Some(&ERASURE), "its address and token do not come into the store: {asked:?}");
    world.content()
}
