//! One of two nodes does not reach the store for a while: what happens meanwhile at the other one stands.

use serde_json::json;
use tests::board::Missed;
use tests::fcm::Answer;
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::world::{FCM_TOKEN, SOON, World};

use super::Outcome;

/// A world whose node reaches the store through a door, and a second node that needs none.
pub(super) async fn two_nodes_and_a_gate(redis: &RedisServer) -> Result<(World, RelayProcess, Gate), Missed> {
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    gate.open().map_err(|error| Missed::new("an open door", error.to_string()))?;
    let store = format!("redis://{}", gate.address());
    let world = World::between(|server| server.contacts = 2, |setup| setup.store = store).await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    setup.store = redis.url();
    let other = RelayProcess::start(setup).await?;
    Ok((world, other, gate))
}

async fn await_registered(world: &World, relay: &RelayProcess, count: f64) -> Outcome {
    let look = || async {
        let registered = relay.metric("sipwake_instances{state=\"registered\"}").await?;
        (registered == count).then_some(())
    };
    world.until(&format!("{count} instances that are registered"), look).await
}

#[tokio::test]
async fn a_node_that_was_cut_off_brings_nothing_back_that_was_taken_over_and_wiped_meanwhile() -> Outcome {
    let redis = RedisServer::start();
    let (world, other, mut gate) = two_nodes_and_a_gate(&redis).await?;
    let instance = world.enable().await?;
    gate.close();
    await_registered(&world, &other, 1.0).await?;
    let receipt = other.api().disable(&instance).await?;
    assert_eq!(receipt.status, 200, "{}", receipt.text());
    assert!(redis.instance_keys().is_empty(), "{:?}", redis.instance_keys());
    gate.open().map_err(|error| Missed::new("an open door", error.to_string()))?;
    // The node lets go of it, though not one of its records is there.
    world.await_gone(&instance).await?;
    assert!(redis.instance_keys().is_empty(), "{:?}", redis.instance_keys());
    world.await_contacts(0).await?;
    assert_eq!(other.api().disable(&instance).await?.json(), receipt.json());
    Ok(())
}

/// It has heard neither of the other node nor of the token that the app has given to that one.
#[tokio::test]
async fn what_a_node_that_is_cut_off_ends_by_itself_goes_on_where_it_was_taken_over_and_renewed() -> Outcome {
    for by_next_run in [false, true] {
        let redis = RedisServer::start();
        let (mut world, other, mut gate) = two_nodes_and_a_gate(&redis).await?;
        let instance = world.enable_android().await?;
        gate.close();
        await_registered(&world, &other, 1.0).await?;
        let device = json!({"call_push": {"provider": "fcm", "token": "another-token"}});
        let changed = other.api().change(&instance, &json!({"device": device, "lifetime_s": 400_000})).await?;
        assert_eq!(changed.status, 200, "{}", changed.text());
        world.fcm.answer_with(FCM_TOKEN, [Answer::Unregistered]);
        assert_eq!(world.api.of("POST", &instance, "/test").await?.status, 202);
        world.await_metric("sipwake_wipes_total{reason=\"push-token-gone\"}", 1.0).await?;
        world.await_metric("sipwake_instances{state=\"ending\"}", 0.0).await?;
        if by_next_run {
            world.relay.kill_9().await?;
        }
        gate.open().map_err(|error| Missed::new("an open door", error.to_string()))?;
        if by_next_run {
            world.relay.restart().await?;
        }
        world.relay.await_log("end-left", SOON * 2).await?;
        let read = other.api().read(&instance).await?;
        let state = &read.json()["registration"]["state"];
        assert_eq!((read.status, state), (200, &json!("registered")), "{}", read.text());
        assert!(redis.keys().contains(&format!("sipwake:i:{{{}}}", instance.id)));
        // Somebody's word ends it, wherever it is.
        let receipt = world.api.disable(&instance).await?;
        assert_eq!((receipt.status, &receipt.json()["reason"]), (200, &json!("disabled")), "{}", receipt.text());
        world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_was_cut_off_writes_again_what_the_store_has_lost_meanwhile() -> Outcome {
    let redis = RedisServer::start();
    let (world, other, mut gate) = two_nodes_and_a_gate(&redis).await?;
    let (one, two) = (world.enable().await?, world.enable_other().await?);
    let kept = redis.instance_keys().len();
    gate.close();
    world.await_metric("sipwake_store_up", 0.0).await?;
    redis.ask::<()>(&redis::cmd("FLUSHALL"));
    gate.open().map_err(|error| Missed::new("an open door", error.to_string()))?;
    world.until("the records again", || async { (redis.instance_keys().len() == kept).then_some(()) }).await?;
    for instance in [&one, &two] {
        assert_eq!(other.api().read(instance).await?.status, 200);
        assert_eq!(other.api().disable(instance).await?.status, 200);
    }
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await
}
