//! A store that answers, each time after a while: what a node does between two renewals of its lease takes longer than a lease then.

use std::time::{Duration, Instant};

use relay::vault::LEASE;
use sip::id::{InstanceId, ShardTag};
use tests::api_client::Instance;
use tests::board::Missed;
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::world::{SOON, World};
use tokio::time::sleep;

use super::Outcome;

/// How long each answer takes: far below the limit of one question, also where two wait for each other.
const EACH: Duration = Duration::from_millis(300);
/// Instances that another node has ended: a node lets go of some hundreds with two questions.
const ENDED: u128 = 10_000;
/// The push of a call is on its way long before, unless the node doubts that the call is its own.
const AT_ONCE: Duration = Duration::from_millis(1_500);

/// A node that lets go of what another one has ended, for as long as its store is slow.
struct Busy {
    world: World,
    redis: RedisServer,
    gate: Gate,
    instance: Instance,
    /// The name of the node.
    node: String,
}

impl Busy {
    /// One that is about to be, with an account that was lent to it.
    async fn soon() -> Result<Self, Missed> {
        let redis = RedisServer::start();
        let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
        gate.open_slow(Duration::from_millis(1))?;
        let store = format!("redis://{}", gate.address());
        let world = World::between(|server| server.contacts = 2, |setup| setup.store = store).await?;
        let instance = world.enable().await?;
        world.await_contacts(1).await?;
        let node = format!("{}:{}", world.relay.setup().edge_ip, world.relay.setup().ports.edge);
        Ok(Self { world, redis, gate, instance, node })
    }

    fn begin(&self) {
        self.gate.slow_down(EACH);
        let ids: Vec<String> = (1..=ENDED).map(|id| InstanceId::new(id << 64, ShardTag(7)).to_string()).collect();
        self.redis.ask::<()>(redis::cmd("SADD").arg(self.ended()).arg(ids));
    }

    /// Its work is done.
    fn end(&self) {
        self.gate.slow_down(Duration::ZERO);
        self.redis.ask::<()>(redis::cmd("DEL").arg(self.ended()));
    }

    fn ended(&self) -> String {
        format!("sipwake:ended:{}", self.node)
    }

    fn lease(&self) -> String {
        format!("sipwake:lease:{}", self.node)
    }

    /// Whether it has work still.
    fn works(&self) -> bool {
        self.redis.ask(redis::cmd("EXISTS").arg(self.ended()))
    }

    /// Who has its lease.
    fn holder(&self) -> Option<String> {
        self.redis.ask(redis::cmd("GET").arg(self.lease()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_beside_work_that_takes_longer_than_it_and_calls_ring_meanwhile() -> Outcome {
    let busy = Busy::soon().await?;
    let world = &busy.world;
    busy.begin();
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
        if busy.works() {
            worked = begun.elapsed();
        }
    }
    assert!(calls > 3 && worked > LEASE * 2, "{calls} calls in {worked:?}");
    let log = world.relay.log();
    assert!(!log.contains("ownership-in-doubt") && !log.contains("lease-lapsed"), "{log}");
    busy.gate.slow_down(Duration::ZERO);
    world.whole_call(&busy.instance).await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_while_it_is_busy_does_not_take_the_lease_again_that_it_has_released() -> Outcome {
    let busy = Busy::soon().await?;
    let world = &busy.world;
    let mut setup = world.relay.setup().clone();
    (setup.ports, setup.store) = (Ports::default(), busy.redis.url());
    let other = RelayProcess::start(setup).await?;
    // It serves on until its call has ended.
    let (caller, _) = world.call_and_push().await?;
    busy.begin();
    world.relay.await_log("ended-elsewhere", SOON).await?;
    let is_released = |holder: Option<String>| holder.as_deref() == Some("-");
    let watches = async {
        world.until("a lease that is released", || async { is_released(busy.holder()).then_some(()) }).await?;
        let released = Instant::now();
        // As long as the store says so.
        while released.elapsed() < LEASE * 3 / 4 {
            let holder = busy.holder();
            assert!(is_released(holder.clone()), "{holder:?} has it {:?} later", released.elapsed());
            assert!(busy.works() && world.relay.is_running(), "after {:?}", released.elapsed());
            sleep(Duration::from_millis(50)).await;
        }
        busy.end();
        world.cancel(&caller).await
    };
    let (ended, watched) = tokio::join!(world.relay.terminate(SOON * 3), watches);
    watched?;
    assert!(ended?.success());
    assert_eq!(other.api().read(&busy.instance).await?.json()["registration"]["state"], "registered");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_lost_while_its_node_is_busy_is_a_loss_however_late_that_is_judged() -> Outcome {
    let busy = Busy::soon().await?;
    let (world, redis) = (&busy.world, &busy.redis);
    busy.begin();
    world.relay.await_log("ended-elsewhere", SOON).await?;
    let record = format!("sipwake:i:{{{}}}", busy.instance.id);
    assert_eq!(redis.ask::<u64>(redis::cmd("DEL").arg(busy.lease()).arg(&record)), 2);
    world.until("the lease again", || async { busy.holder().map(drop) }).await?;
    let heard = Instant::now();
    while heard.elapsed() < LEASE * 3 / 2 {
        assert!(busy.works(), "after {:?}", heard.elapsed());
        assert!(busy.holder().is_some(), "it has the lease, {:?} later", heard.elapsed());
        sleep(Duration::from_millis(50)).await;
    }
    assert!(!world.relay.log().contains("lease-lapsed"), "it is judged when its node has done its work");
    busy.end();
    world.relay.await_log("lease-lapsed", SOON).await?;
    world.until("the record again", || async { redis.keys().contains(&record).then_some(()) }).await?;
    assert_eq!(world.api.read(&busy.instance).await?.status, 200);
    world.whole_call(&busy.instance).await?;
    world.content()
}
