//! A store that answers, each time after a while: what a node does between two renewals of its lease takes longer than a lease then.

use std::time::{Duration, Instant};

use relay::vault::LEASE;
use sip::id::{InstanceId, ShardTag};
use tests::board::Missed;
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::world::World;

use super::Outcome;

/// How long each answer takes: far below the limit of one question, also where two wait for each other.
const EACH: Duration = Duration::from_millis(300);
/// Instances that another node has ended: a node lets go of some hundreds with two questions.
const ENDED: u128 = 10_000;
/// The push of a call is on its way long before, unless the node doubts that the call is its own.
const AT_ONCE: Duration = Duration::from_millis(1_500);

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_beside_work_that_takes_longer_than_it_and_calls_ring_meanwhile() -> Outcome {
    let redis = RedisServer::start();
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    let opened = gate.open_slow(Duration::from_millis(1));
    opened.map_err(|error| Missed::new("an open door", error.to_string()))?;
    let store = format!("redis://{}", gate.address());
    let world = World::between(|_| {}, |setup| setup.store = store).await?;
    let instance = world.enable().await?;
    world.await_contacts(1).await?;
    gate.slow_down(EACH);
    let ended = format!("sipwake:ended:{}:{}", world.relay.setup().edge_ip, world.relay.setup().ports.edge);
    let ids: Vec<String> = (1..=ENDED).map(|id| InstanceId::new(id << 64, ShardTag(7)).to_string()).collect();
    redis.ask::<()>(redis::cmd("SADD").arg(&ended).arg(ids));
    let (begun, mut calls, mut worked) = (Instant::now(), 0, Duration::ZERO);
    // Few enough for the share of one caller.
    let mut times = tokio::time::interval(LEASE / 2);
    while begun.elapsed() < LEASE * 5 / 2 {
        times.tick().await;
        let called = Instant::now();
        let caller = world.call()?;
        world.push().await?;
        assert!(called.elapsed() < AT_ONCE, "call {calls} is pushed {:?} after its INVITE", called.elapsed());
        world.cancel(&caller).await?;
        calls += 1;
        if redis.ask::<bool>(redis::cmd("EXISTS").arg(&ended)) {
            worked = begun.elapsed();
        }
    }
    assert!(calls > 3 && worked > LEASE * 2, "{calls} calls in {worked:?}");
    let log = world.relay.log();
    assert!(!log.contains("ownership-in-doubt") && !log.contains("lease-lapsed"), "{log}");
    gate.slow_down(Duration::ZERO);
    world.whole_call(&instance).await?;
    world.content()
}
