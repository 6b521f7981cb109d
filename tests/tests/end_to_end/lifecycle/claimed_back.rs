//! What a node had let another one have, and claims back, is served by it again.

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
