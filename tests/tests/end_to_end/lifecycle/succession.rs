//! An account that is enabled again while its SIP server cannot say yet whether the new credentials are right.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sip::message::Name;
use tests::api_client::{ApiClient, Instance};
use tests::board::Missed;
use tests::digest::Algorithm;
use tests::redis_server::RedisServer;
use tests::registrar::{Behaviour, RegisterSeen};
use tests::relay_setup::Setup;
use tests::wire::Transport;
use tests::world::{OTHER_TOKEN, TOKEN, World};

use super::Outcome;
use super::nodes::two_nodes_with;

/// Waits of seconds are waits of tenths.
fn quick(setup: &mut Setup) {
    setup.timing = 0.1;
}

/// What enables Alice's account with right credentials that nobody can compare with her password.
fn with_ha1(world: &World) -> Value {
    let mut request = world.enable_request(TOKEN);
    let account = request["account"].as_object_mut().expect("an account");
    account.remove("password");
    let ha1 = Algorithm::Sha256.ha1("alice", "example.test", "wonderland");
    account.insert("ha1".to_owned(), json!({"realm": "example.test", "SHA-256": ha1}));
    request
}

/// The same with a password that is wrong.
fn with_another_password(world: &World) -> Value {
    let mut request = world.enable_request(TOKEN);
    request["account"]["password"] = "looking glass".into();
    request
}

/// Enables while the server says 503 to all.
async fn enabled_in_vain(world: &World, request: &Value) -> Result<Instance, Missed> {
    enabled_in_vain_at(&world.api, world, request).await
}

/// The same, on one of several nodes.
async fn enabled_in_vain_at(api: &ApiClient, world: &World, request: &Value) -> Result<Instance, Missed> {
    world.registrar.behave(&world.aor(), Behaviour::RetryAfter(1));
    let answer = api.enable(request).await?;
    assert_eq!((answer.status, &answer.json()["registration"]["status"]), (202, &json!(503)), "{}", answer.text());
    Ok(Instance::new(request, answer.json()))
}

/// Enables while the server says nothing, whatever it is shown.
async fn enabled_in_silence(world: &World, request: &Value) -> Result<Instance, Missed> {
    world.registrar.behave(&world.aor(), Behaviour::Silence);
    let answer = world.api.enable(request).await?;
    assert_eq!(answer.status, 202, "{}", answer.text());
    Ok(Instance::new(request, answer.json()))
}

/// A call is pushed once, in the name of this instance.
async fn is_called_as(world: &World, instance: &Instance) -> Outcome {
    let before = world.apns.count();
    let caller = world.call()?;
    assert_eq!(world.push().await?["instance"], instance.id.as_str());
    world.cancel(&caller).await?;
    assert_eq!(world.apns.count(), before + 1);
    Ok(())
}

async fn ended_as(world: &World, instance: &Instance, reason: &str) -> Outcome {
    world.await_gone(instance).await?;
    let receipt = world.api.disable(instance).await?;
    assert_eq!((receipt.status, &receipt.json()["reason"]), (200, &json!(reason)), "{}", receipt.text());
    Ok(())
}

/// What is enabled from now on was enabled later, by a record's clock of seconds.
async fn in_the_next_second(world: &World) -> Outcome {
    let second = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let began = second();
    world.until("the next second", || async { (second() > began).then_some(()) }).await
}

/// Its receipt comes when the store has erased it.
async fn is_receipted_as(world: &World, instance: &Instance, reason: &str) -> Outcome {
    let is_receipted = || async {
        let receipt = world.api.disable(instance).await.ok()?;
        (receipt.status == 200 && receipt.json()["reason"] == reason).then_some(())
    };
    world.until("a receipt", is_receipted).await
}

async fn stands(world: &World, instance: &Instance) -> Outcome {
    assert_eq!(world.api.read(instance).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn the_same_credentials_again_while_the_server_fails_ring_the_new_instance_at_once() -> Outcome {
    let world = World::with(quick).await?;
    let old = world.enable().await?;
    let new = enabled_in_vain(&world, &world.enable_request(TOKEN)).await?;
    ended_as(&world, &old, "replaced").await?;
    is_called_as(&world, &new).await?;
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    world.whole_call(&new).await?;
    assert_eq!(world.await_contacts(1).await?.len(), 1);
    world.content()
}

#[tokio::test]
async fn the_same_credentials_again_while_the_server_says_nothing_ring_the_new_instance() -> Outcome {
    let world = World::over_with(Transport::Udp, quick).await?;
    let old = world.enable().await?;
    let new = enabled_in_silence(&world, &world.enable_request(TOKEN)).await?;
    ended_as(&world, &old, "replaced").await?;
    is_called_as(&world, &new).await
}

#[tokio::test]
async fn an_earlier_instance_is_called_until_other_credentials_are_accepted() -> Outcome {
    let world = World::with(quick).await?;
    let old = world.enable().await?;
    let new = enabled_in_vain(&world, &with_ha1(&world)).await?;
    is_called_as(&world, &old).await?;
    stands(&world, &new).await?;
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    world.await_gone(&old).await?;
    ended_as(&world, &old, "replaced").await?;
    is_called_as(&world, &new).await?;
    world.whole_call(&new).await?;
    // It is the earlier one from now on.
    let third = world.enable().await?;
    ended_as(&world, &new, "replaced").await?;
    is_called_as(&world, &third).await?;
    world.content()
}

#[tokio::test]
async fn an_earlier_instance_stands_when_the_later_credentials_are_refused_late() -> Outcome {
    let world = World::over_with(Transport::Udp, quick).await?;
    let old = world.enable().await?;
    let new = enabled_in_silence(&world, &with_another_password(&world)).await?;
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    ended_as(&world, &new, "refused-upstream").await?;
    is_called_as(&world, &old).await?;
    world.whole_call(&old).await?;
    // Its name is its own still.
    let third = world.enable().await?;
    ended_as(&world, &old, "replaced").await?;
    world.whole_call(&third).await
}

#[tokio::test]
async fn a_third_enabling_ends_the_second_one_that_is_not_proven_yet() -> Outcome {
    let world = World::over_with(Transport::Udp, quick).await?;
    let old = world.enable().await?;
    let second = enabled_in_silence(&world, &with_another_password(&world)).await?;
    let third = enabled_in_silence(&world, &with_ha1(&world)).await?;
    ended_as(&world, &second, "replaced").await?;
    is_called_as(&world, &old).await?;
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    ended_as(&world, &old, "replaced").await?;
    is_called_as(&world, &third).await
}

#[tokio::test]
async fn who_disables_the_new_instance_disables_the_one_that_stands_for_it() -> Outcome {
    let world = World::with(quick).await?;
    let old = world.enable().await?;
    let new = enabled_in_vain(&world, &with_ha1(&world)).await?;
    world.disable(&new).await?;
    ended_as(&world, &old, "disabled").await?;
    world.await_metric("sipwake_instances{state=\"retrying\"}", 0.0).await?;
    world.await_metric("sipwake_instances{state=\"registered\"}", 0.0).await
}

#[tokio::test]
async fn after_kill_9_the_new_instance_still_replaces_the_one_that_stands_for_it() -> Outcome {
    let (mut world, redis) = World::on_redis(quick).await?;
    let old = world.enable().await?;
    let alone = redis.instance_keys().len();
    let new = enabled_in_vain(&world, &with_ha1(&world)).await?;
    world.relay.kill_9().await?;
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    world.relay.restart().await?;
    ended_as(&world, &old, "replaced").await?;
    world.until("one instance in the store", || async { (redis.instance_keys().len() == alone).then_some(()) }).await?;
    is_called_as(&world, &new).await?;
    world.content()
}

#[tokio::test]
async fn one_that_is_accepted_late_leaves_a_later_one_of_another_node_alone() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, quick).await?;
    let old = world.enable().await?;
    let second = enabled_in_vain_at(&other.api(), &world, &with_ha1(&world)).await?;
    stands(&world, &old).await?;
    in_the_next_second(&world).await?;
    let third = enabled_in_vain(&world, &world.enable_request(TOKEN)).await?;
    ended_as(&world, &old, "replaced").await?;
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    ended_as(&world, &second, "replaced").await?;
    assert_eq!(world.await_contacts(1).await?.len(), 1);
    is_called_as(&world, &third).await?;
    world.whole_call(&third).await
}

#[tokio::test]
async fn one_that_was_enabled_elsewhere_while_the_server_was_silent_stands_until_the_slow_one_is_accepted() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, quick).await?;
    let is_asked = |times: usize| {
        let registers = || world.registrar.registers(&world.aor()).len();
        world.until("a REGISTER", move || async move { (registers() >= times).then_some(()) })
    };
    // The one that is to stand begins first: of two that begin in one second it does not matter then where the second ends.
    world.registrar.behave(&world.aor(), Behaviour::Slow(Duration::from_secs(1)));
    let (there, request) = (other.api(), with_another_password(&world));
    let meanwhile = async {
        is_asked(1).await?;
        world.registrar.behave(&world.aor(), Behaviour::Silence);
        let is_lost = async {
            is_asked(2).await?;
            world.registrar.behave(&world.aor(), Behaviour::Accept);
            Ok::<_, Missed>(())
        };
        let (answer, lost) = tokio::join!(there.enable(&request), is_lost);
        lost?;
        Ok::<_, Missed>(answer?)
    };
    let (standing, answer) = tokio::join!(world.enable(), meanwhile);
    let (answer, standing) = (answer?, standing?);
    assert_eq!(answer.status, 202, "{}", answer.text());
    let slow = Instance::new(&request, answer.json());
    ended_as(&world, &slow, "refused-upstream").await?;
    world.whole_call(&standing).await
}

#[tokio::test]
async fn one_that_has_overtaken_another_is_registered_again_when_that_is_unregistered() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    world.registrar.behave(&world.aor(), Behaviour::Slow(Duration::from_secs(3)));
    let registers = || world.registrar.registers(&world.aor());
    let (there, request) = (other.api(), world.enable_request(TOKEN));
    let meanwhile = async {
        world.until("a REGISTER of the other node", || async { (!registers().is_empty()).then_some(()) }).await?;
        in_the_next_second(&world).await?;
        world.registrar.behave(&world.aor(), Behaviour::Accept);
        world.enable().await
    };
    let (answer, later) = tokio::join!(there.enable(&request), meanwhile);
    let (answer, later) = (answer?, later?);
    assert_eq!(answer.status, 422, "{}", answer.text());
    let is_registered_again = || async {
        let all = registers();
        let seconds = |seen: &RegisterSeen| seen.request.number(Name::Expires).filter(|_| seen.status == Some(200));
        let end = all.iter().position(|seen| seconds(seen) == Some(0))?;
        all[end..].iter().any(|seen| seconds(seen) > Some(0)).then_some(())
    };
    world.until("the later one, registered again", is_registered_again).await?;
    assert_eq!(world.await_contacts(1).await?.len(), 1);
    stands(&world, &later).await?;
    world.whole_call(&later).await
}

#[tokio::test]
async fn who_disables_the_new_instance_disables_the_one_that_stands_for_it_also_while_the_store_is_away() -> Outcome {
    let (world, redis) = World::on_redis(quick).await?;
    let old = world.enable().await?;
    let new = enabled_in_vain(&world, &with_ha1(&world)).await?;
    redis.freeze();
    let answer = world.api.disable(&new).await?;
    assert_eq!(answer.status, 202, "{}", answer.text());
    world.await_gone(&old).await?;
    redis.thaw();
    is_receipted_as(&world, &old, "disabled").await?;
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await
}

#[tokio::test]
async fn who_disables_the_new_instance_disables_one_of_another_node_as_soon_as_the_store_names_it() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, quick).await?;
    let old = world.enable().await?;
    let new = enabled_in_vain_at(&other.api(), &world, &with_ha1(&world)).await?;
    redis.freeze();
    let answer = other.api().disable(&new).await?;
    assert_eq!(answer.status, 202, "{}", answer.text());
    redis.thaw();
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    world.await_gone(&old).await
}

#[tokio::test]
async fn a_call_is_pushed_once_when_the_new_instance_is_accepted_while_the_store_is_away() -> Outcome {
    let (world, redis) = World::on_redis(quick).await?;
    let old = world.enable().await?;
    in_the_next_second(&world).await?;
    let new = enabled_in_vain(&world, &with_ha1(&world)).await?;
    redis.freeze();
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    world.await_gone(&old).await?;
    is_called_as(&world, &new).await?;
    redis.thaw();
    is_receipted_as(&world, &old, "replaced").await
}

#[tokio::test]
async fn a_new_push_token_of_one_that_is_not_proven_ends_the_one_that_stood_for_it() -> Outcome {
    let world = World::with(quick).await?;
    let old = world.enable().await?;
    let new = enabled_in_vain(&world, &with_ha1(&world)).await?;
    let change = json!({"device": {"call_push": {"provider": "apns", "token": OTHER_TOKEN}}});
    world.change(&new, change).await?;
    ended_as(&world, &old, "replaced").await?;
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    world.until("a registration", || async { (world.contacts().len() == 1).then_some(()) }).await?;
    stands(&world, &new).await
}

#[tokio::test]
async fn one_that_is_not_proven_takes_the_push_token_of_another_one_when_it_is() -> Outcome {
    let world = World::with(quick).await?;
    let holder = world.enable().await?;
    let mut request = with_ha1(&world);
    request["device"]["call_push"]["token"] = OTHER_TOKEN.into();
    let taker = enabled_in_vain(&world, &request).await?;
    let change = json!({"device": {"call_push": {"provider": "apns", "token": TOKEN}}});
    world.change(&taker, change).await?;
    is_called_as(&world, &holder).await?;
    stands(&world, &taker).await?;
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    ended_as(&world, &holder, "replaced").await?;
    is_called_as(&world, &taker).await
}

/// The phone asks one node by Wi-Fi, hears nothing, and asks another one by its mobile network.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_enabled_later_at_another_node_stands_when_the_sip_server_accepts_the_first_one_at_last() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    let request = world.android_enable_request("token-of-who-asks-twice");
    let slow = Behaviour::Slow(Duration::from_secs(4));
    world.registrar.script(&world.aor(), &[slow, Behaviour::Accept]);
    let there = other.api();
    let (first, second) = tokio::join!(world.api.enable(&request), async {
        // Proven, and not answered yet.
        let is_asked = || async { (world.registrar.registers(&world.aor()).len() > 1).then_some(()) };
        world.until("the first node's REGISTER", is_asked).await?;
        // A record tells the second in which it was enabled.
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        there.enabled(&request).await.map_err(Missed::from)
    });
    let (first, second) = (first?, second?);
    assert_eq!((first.status, &first.json()["type"]), (422, &json!("urn:sipwake:problem:overtaken")));
    assert!(!first.headers.contains_key("retry-after"), "sent again, it would be the later one");
    world.await_contacts(1).await?;
    let records = || redis.keys().into_iter().filter(|key| key.starts_with("sipwake:i:")).count();
    assert_eq!(records(), 1);
    let caller = world.call()?;
    let push = world.android_push().await?;
    assert_eq!(push["instance"], json!(second.id));
    world.cancel(&caller).await?;
    let receipt = there.disable(&second).await?;
    assert_eq!(receipt.status, 200, "{}", receipt.text());
    world.await_contacts(0).await?;
    Ok(())
}
