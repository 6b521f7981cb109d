//! A registration that has moved to another node, or has ended, and what a store makes of it that comes back as it was before.

use tests::gate::Gate;
use tests::push_phone::{PushPhone, Service, sleep};
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::world::{OTHER_TOKEN, SOON, World};

use super::calls::android;
use super::keeping::{REGISTRATIONS, another_node, stored};

type Outcome = tests::world::Outcome;

fn by(phone: &PushPhone, node: &RelayProcess) -> PushPhone {
    let mut phone = phone.clone();
    phone.settings.server = node.edge_uri();
    phone
}

/// The only record that there is: its key, its owner and its fence.
fn record(redis: &RedisServer) -> Option<(String, String, u64)> {
    let key = redis.keys().into_iter().find(|key| key.starts_with("sipwake:i:"))?;
    let (owner, fence) = redis.try_to_ask(redis::cmd("HMGET").arg(&key).arg("o").arg("f")).ok()?;
    Some((key, owner, fence))
}

/// With the 200 its device sleeps: the record is that node's by then, and there was one all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_moves_has_its_200_when_its_record_is_the_other_nodes_and_that_was_never_erased() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let (phone, other) = (world.push_phone(&android()), another_node(&world).await?);
    phone.register_and_sleep(SOON).await?;
    let (key, first, fence) = record(&redis).expect("stored with the 200");
    by(&phone, &other).register_and_sleep(SOON).await?;
    let moved = record(&redis).expect("stored with the 200");
    assert_eq!((&moved.0, moved.2), (&key, fence + 1), "written over");
    assert_ne!(moved.1, first);
    world.await_metric(REGISTRATIONS, 0.0).await?;
    assert_eq!(other.metric(REGISTRATIONS).await, Some(1.0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_did_not_reach_the_store_leaves_to_another_one_what_has_registered_there_since() -> Outcome {
    let redis = RedisServer::start();
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    gate.open()?;
    let store = format!("redis://{}", gate.address());
    let world = World::with(|setup| setup.store = store).await?;
    let mut setup = world.relay.setup().clone();
    (setup.ports, setup.store) = (Ports::default(), redis.url());
    let (phone, other) = (world.push_phone(&android()), RelayProcess::start(setup).await?);
    gate.close();
    phone.register_and_sleep(SOON).await?;
    by(&phone, &other).register_and_sleep(SOON).await?;
    let later = record(&redis).expect("stored with the 200");
    world.await_metric(REGISTRATIONS, 1.0).await?;
    gate.open()?;
    world.await_metric(REGISTRATIONS, 0.0).await?;
    assert_eq!(record(&redis), Some(later), "neither written over nor erased");
    assert_eq!(other.metric(REGISTRATIONS).await, Some(1.0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_dump_of_the_store_brings_back_no_registration_that_has_ended_since_and_no_earlier_push_token()
-> Outcome {
    for (by_other, is_renamed) in [(false, false), (false, true), (true, false), (true, true)] {
        let (world, mut redis) = World::on_redis(|_| {}).await?;
        let (phone, other) = (world.push_phone(&android()), another_node(&world).await?);
        phone.register_and_sleep(SOON).await?;
        let (earlier, ..) = record(&redis).expect("stored with the 200");
        let dump = redis.dump();
        let phone = by(&phone, if by_other { &other } else { &world.relay });
        if is_renamed {
            phone.woken_by(&Service::Fcm(OTHER_TOKEN.to_owned())).register_and_sleep(SOON).await?;
        } else {
            let (device, answer) = phone.expires(0).try_to_register(SOON).await?;
            assert_eq!(answer.status(), Some(200));
            sleep(device);
        }
        stored(&world, &redis, usize::from(is_renamed)).await?;
        redis.restart_with(&dump);
        // It has the earlier one at first.
        let is_gone = || async { (!redis.keys().contains(&earlier)).then_some(()) };
        world.until("a store without what has ended", is_gone).await?;
        stored(&world, &redis, usize::from(is_renamed)).await?;
        assert!(!redis.keys().contains(&earlier), "{by_other} {is_renamed}");
    }
    Ok(())
}
