//! What the store says is a node's own is served by that node: also what it had let another one have, and what none of its shards has.

use relay::vault::RENEWAL;
use tests::api_client::Instance;
use tests::redis_server::RedisServer;
use tests::world::{SOON, World};

use super::Outcome;

/// A node that has had the account, and is dead.
const GONE: &str = "192.0.2.1:5061";

fn key(instance: &Instance) -> String {
    format!("sipwake:i:{{{}}}", instance.id)
}

fn owner(redis: &RedisServer, instance: &Instance) -> String {
    redis.ask(redis::cmd("HGET").arg(key(instance)).arg("o"))
}

/// Another run has taken it over by the next fence.
fn give(redis: &RedisServer, instance: &Instance, owner: &str) {
    redis.ask::<u64>(redis::cmd("HSET").arg(key(instance)).arg("o").arg(owner));
    redis.ask::<u64>(redis::cmd("HINCRBY").arg(key(instance)).arg("f").arg(1));
}

/// A call waits for a phone that is asleep: its node serves that call, and does not register the account meanwhile.
#[tokio::test]
async fn what_is_left_to_another_node_while_its_call_waits_and_comes_back_is_registered_again() -> Outcome {
    let (world, redis, instance) = World::lent_on_redis().await?;
    let (own, asked) = (owner(&redis, &instance), world.registrar.registers(&world.aor()).len());
    let (caller, _) = world.call_and_push().await?;
    give(&redis, &instance, &format!("{GONE}#1"));
    // It is compared with each renewal.
    tokio::time::sleep(RENEWAL * 4).await;
    redis.ask::<u64>(redis::cmd("SADD").arg(format!("sipwake:n:{GONE}")).arg(&instance.id));
    redis.ask::<u64>(redis::cmd("SADD").arg("sipwake:nodes").arg(GONE));
    world.relay.await_log("instances-taken-over", SOON).await?;
    assert_eq!(owner(&redis, &instance), own);
    world
        .until("another registration", || async {
            (world.registrar.registers(&world.aor()).len() > asked).then_some(())
        })
        .await?;
    world.await_metric("sipwake_instances{state=\"registered\"}", 1.0).await?;
    world.await_contacts(1).await?;
    caller.cancel().await?;
    world.whole_call(&instance).await?;
    world.await_contacts(1).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_a_nodes_own_in_the_store_and_in_no_shard_is_served_and_what_was_wiped_is_not() -> Outcome {
    let (world, redis, instance) = World::lent_on_redis().await?;
    let own = owner(&redis, &instance);
    give(&redis, &instance, &format!("{GONE}#1"));
    world.await_metric("sipwake_instances{state=\"registered\"}", 0.0).await?;
    give(&redis, &instance, &own);
    world.relay.await_log("owned-and-unserved", SOON).await?;
    world.await_metric("sipwake_instances{state=\"registered\"}", 1.0).await?;
    world.await_contacts(1).await?;
    world.whole_call(&instance).await?;
    let record: Vec<u8> = redis.ask(redis::cmd("DUMP").arg(key(&instance)));
    let receipt = world.api.disable(&instance).await?;
    assert_eq!(receipt.status, 200, "{}", receipt.text());
    redis.ask::<()>(redis::cmd("RESTORE").arg(key(&instance)).arg(600_000).arg(record));
    let node = own.split_once('#').map(|(node, _)| node).unwrap_or_default();
    redis.ask::<u64>(redis::cmd("SADD").arg(format!("sipwake:n:{node}")).arg(&instance.id));
    // All names are looked at with each renewal.
    tokio::time::sleep(RENEWAL * 4).await;
    assert_eq!(world.metric("sipwake_instances{state=\"registered\"}").await, Some(0.0));
    assert_eq!(world.relay.log().matches("owned-and-unserved").count(), 1);
    world.await_contacts(0).await?;
    Ok(())
}
