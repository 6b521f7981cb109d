//! A relay that dies between storing a new instance and ending the one that it replaces.

use std::time::Duration;

use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::board::Missed;
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::world::{OTHER_TOKEN, TOKEN, World};

use super::Outcome;

/// How long each answer of the store is held back while an instance takes another one's place: long enough to die in between.
const HELD_BACK: Duration = Duration::from_millis(150);

/// A world whose nodes ask the store through this door.
async fn through(gate: &mut Gate) -> Result<World, Missed> {
    gate.open_slow(Duration::from_millis(1)).map_err(|error| Missed::new("an open door", error.to_string()))?;
    let store = format!("redis://{}", gate.address());
    World::between(|server| server.contacts = 2, |setup| (setup.store, setup.timing) = (store, 0.1)).await
}

/// What the store has of each record's name.
fn names(redis: &RedisServer) -> Vec<(String, Option<String>)> {
    let records = redis.keys().into_iter().filter(|key| key.starts_with("sipwake:i:"));
    records.map(|record| (record.clone(), redis.ask(redis::cmd("HGET").arg(&record).arg("l")))).collect()
}

/// Which instances the store finds by a name.
fn named(redis: &RedisServer) -> Vec<String> {
    let lookups = redis.keys().into_iter().filter(|key| key.starts_with("sipwake:l:"));
    lookups.filter_map(|lookup| redis.ask::<Option<String>>(redis::cmd("GET").arg(lookup))).collect()
}

/// Does something that has a second record of this name stored, and kills the node when the store has it.
async fn dies_when_two_have_a_name<T>(
    world: &World,
    (redis, gate): (&RedisServer, &Gate),
    node: &RelayProcess,
    work: impl Future<Output = T>,
) -> Outcome {
    gate.slow_down(HELD_BACK);
    let are_two = || async {
        let names = names(redis);
        let is_double =
            |(at, one): (usize, &(String, Option<String>))| names[..at].iter().any(|(_, name)| *name == one.1);
        names.iter().enumerate().any(is_double).then_some(())
    };
    tokio::select! {
        biased;
        two = world.until("two records of one name", are_two) => two?,
        _ = work => return Err(Missed::new("two records of one name", "an answer before")),
    }
    node.kill_9().await?;
    gate.slow_down(Duration::ZERO);
    Ok(())
}

/// One instance is left, and `ended` is not it.
async fn one_is_left_and_not(world: &World, redis: &RedisServer, ended: &Instance) -> Outcome {
    world.await_gone(ended).await?;
    world.until("one record", || async { (names(redis).len() == 1).then_some(()) }).await?;
    let contacts = || async { (world.contacts().len() == 1).then_some(()) };
    world.until("one Contact", contacts).await?;
    let before = world.apns.count();
    let caller = world.call()?;
    assert_ne!(world.push().await?["instance"], ended.id.as_str());
    world.cancel(&caller).await?;
    assert_eq!(world.apns.count(), before + 1);
    Ok(())
}

/// What enables the same device by another way to the server, which is of another binding.
fn with_another_proxy(world: &World) -> Value {
    let mut wish = world.wish(TOKEN);
    wish["account"]["outbound_proxy"] = wish["account"]["registrar"].clone();
    wish
}

#[tokio::test]
async fn after_kill_9_what_was_about_to_be_replaced_is_not_served_beside_the_new_one() -> Outcome {
    let redis = RedisServer::start();
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    let mut world = through(&mut gate).await?;
    for wish in [world.wish(TOKEN), with_another_proxy(&world)] {
        let earlier = world.enable().await?;
        let is_named = || async { (named(&redis) == [earlier.id.clone()]).then_some(()) };
        world.until("it alone, by its name", is_named).await?;
        dies_when_two_have_a_name(&world, (&redis, &gate), &world.relay, world.api.enable(&wish)).await?;
        world.relay.restart().await?;
        one_is_left_and_not(&world, &redis, &earlier).await?;
    }
    Ok(())
}

#[tokio::test]
async fn after_kill_9_what_another_node_was_about_to_replace_is_let_go_of_where_it_is() -> Outcome {
    let redis = RedisServer::start();
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    let world = through(&mut gate).await?;
    let mut setup = world.relay.setup().clone();
    let mut there = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    there.open_slow(Duration::from_millis(1)).map_err(|error| Missed::new("an open door", error.to_string()))?;
    (setup.ports, setup.store) = (Ports::default(), format!("redis://{}", there.address()));
    let mut other = RelayProcess::start(setup).await?;
    let earlier = world.enable().await?;
    let api = other.api();
    dies_when_two_have_a_name(&world, (&redis, &there), &other, api.enable(&world.wish(TOKEN))).await?;
    other.restart().await?;
    one_is_left_and_not(&world, &redis, &earlier).await
}

#[tokio::test]
async fn after_kill_9_the_holder_of_a_token_that_another_instance_was_about_to_take_is_not_served_beside_it() -> Outcome
{
    let redis = RedisServer::start();
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    let mut world = through(&mut gate).await?;
    let holder = world.enable().await?;
    let taker = world.enable_as(&world.wish(OTHER_TOKEN)).await?;
    let change = json!({"device": {"call_push": {"provider": "apns", "token": TOKEN}}});
    dies_when_two_have_a_name(&world, (&redis, &gate), &world.relay, world.api.change(&taker, &change)).await?;
    world.relay.restart().await?;
    one_is_left_and_not(&world, &redis, &holder).await?;
    assert_eq!(world.api.read(&taker).await?.status, 200);
    Ok(())
}
