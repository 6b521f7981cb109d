//! A relay that dies between storing a new instance and ending the one that it replaces.

use std::time::{Duration, Instant};

use serde_json::Value;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::world::{TOKEN, World};

use super::Outcome;

/// How long each answer of the store is held back while an instance takes another one's place: long enough to die in between.
const HELD_BACK: Duration = Duration::from_millis(150);

/// A world whose nodes ask the store through this door.
async fn through(gate: &mut Gate) -> Result<World, Missed> {
    gate.open_slow(Duration::from_millis(1))?;
    let store = format!("redis://{}", gate.address());
    World::between(|server| server.contacts = 2, |setup| (setup.store, setup.timing) = (store, 0.1)).await
}

/// How many instances the store has.
fn records(redis: &RedisServer) -> usize {
    redis.keys().into_iter().filter(|key| key.starts_with("sipwake:i:")).count()
}

/// Which instances the store finds by a name.
fn named(redis: &RedisServer) -> Vec<String> {
    let lookups = redis.keys().into_iter().filter(|key| key.starts_with("sipwake:l:"));
    lookups.filter_map(|lookup| redis.ask::<Option<String>>(redis::cmd("GET").arg(lookup))).collect()
}

/// Enables, and kills the node when the store names the new instance in place of the earlier one; the time of its death.
async fn dies_when_it_has_the_name<T>(
    world: &World,
    (redis, gate): (&RedisServer, &Gate),
    node: &RelayProcess,
    earlier: &Instance,
    enabling: impl Future<Output = T>,
) -> Result<Instant, Missed> {
    gate.slow_down(HELD_BACK);
    let names_another = || async { named(redis).iter().any(|id| *id != earlier.id).then_some(()) };
    tokio::select! {
        biased;
        named = world.until("another instance of the name", names_another) => named?,
        _ = enabling => return Err(Missed::new("another instance of the name", "an answer before")),
    }
    node.kill_9().await?;
    let died_at = Instant::now();
    assert_eq!(records(redis), 2, "the earlier one has not ended yet");
    gate.slow_down(Duration::ZERO);
    Ok(died_at)
}

/// One instance is left, and `ended` is not it.
async fn one_is_left_and_not(world: &World, redis: &RedisServer, ended: &Instance, died_at: Instant) -> Outcome {
    world.await_gone(ended).await?;
    world.until("one record", || async { (records(redis) == 1).then_some(()) }).await?;
    // The SIP server has that of the node that died, too, by a connection that has ended, until it is registered again.
    let contacts = || async { matches!(&world.contacts()[..], [one] if one.registered_at > died_at).then_some(()) };
    world.until("one Contact, registered since", contacts).await?;
    let before = world.apns.count();
    let caller = world.call()?;
    assert_ne!(world.push().await?["instance"], ended.id.as_str());
    world.cancel(&caller).await?;
    assert_eq!(world.apns.count(), before + 1);
    Ok(())
}

/// What enables the same device by another way to the server, which is of another binding.
fn with_another_proxy(world: &World) -> Value {
    let mut request = world.enable_request(TOKEN);
    request["account"]["outbound_proxy"] = request["account"]["registrar"].clone();
    request
}

#[tokio::test]
async fn after_kill_9_what_was_about_to_be_replaced_is_not_served_beside_the_new_one() -> Outcome {
    let redis = RedisServer::start();
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    let mut world = through(&mut gate).await?;
    for request in [world.enable_request(TOKEN), with_another_proxy(&world)] {
        let earlier = world.enable().await?;
        let is_named = || async { (named(&redis) == [earlier.id.clone()]).then_some(()) };
        world.until("it alone, by its name", is_named).await?;
        let enabling = world.api.enable(&request);
        let died_at = dies_when_it_has_the_name(&world, (&redis, &gate), &world.relay, &earlier, enabling).await?;
        world.relay.restart().await?;
        one_is_left_and_not(&world, &redis, &earlier, died_at).await?;
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
    there.open_slow(Duration::from_millis(1))?;
    (setup.ports, setup.store) = (Ports::default(), format!("redis://{}", there.address()));
    let mut other = RelayProcess::start(setup).await?;
    let earlier = world.enable().await?;
    let (api, request) = (other.api(), world.enable_request(TOKEN));
    let enabling = api.enable(&request);
    let died_at = dies_when_it_has_the_name(&world, (&redis, &there), &other, &earlier, enabling).await?;
    other.restart().await?;
    one_is_left_and_not(&world, &redis, &earlier, died_at).await
}
