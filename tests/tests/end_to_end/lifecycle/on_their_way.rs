//! A relay has claimed what an earlier run has left, and its shards do not have all of it yet: whatever ends then has ended.

use serde_json::{Value, json};
use tests::api_client::{Answer, Instance};
use tests::board::Missed;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::world::{SOON, TOKEN, World};
use tokio::task::JoinSet;

use super::Outcome;
use super::seeded::seed;

/// Enough that a start is not over when it is first asked.
const MANY: u128 = 1_500;

/// The record of an instance, taken out of the store.
struct Record {
    key: String,
    value: Vec<u8>,
}

impl Record {
    fn of(redis: &RedisServer, instance: &Instance) -> Self {
        let key = format!("sipwake:i:{{{}}}", instance.id);
        let value = redis.ask(redis::cmd("DUMP").arg(&key));
        redis.ask::<()>(redis::cmd("DEL").arg(&key));
        Self { key, value }
    }

    fn put_back(&self, redis: &RedisServer) {
        redis
            .ask::<String>(redis::cmd("RESTORE").arg(&self.key).arg(300_000).arg(self.value.as_slice()).arg("REPLACE"));
    }

    /// As the run has it that holds the node's lease now, and has claimed it.
    fn put_back_claimed(&self, redis: &RedisServer, node: &str) {
        self.put_back(redis);
        let run: String = redis.ask(redis::cmd("GET").arg(format!("sipwake:lease:{node}")));
        redis.ask::<()>(redis::cmd("HSET").arg(&self.key).arg("o").arg(format!("{node}#{run}")));
    }
}

/// A relay that has claimed Alice's account, and whose shards do not have it.
async fn on_its_way() -> Result<(World, RedisServer, Instance, Record), Missed> {
    let (mut world, redis, alice) = World::lent_on_redis().await?;
    world.relay.kill_9().await?;
    let record = Record::of(&redis, &alice);
    world.relay.restart().await?;
    record.put_back_claimed(&redis, &node_of(&world));
    Ok((world, redis, alice, record))
}

fn node_of(world: &World) -> String {
    let setup = world.relay.setup();
    format!("{}:{}", setup.edge_ip, setup.ports.edge)
}

async fn asks(world: &World, method: &str, rest: &str) -> Result<Answer, Missed> {
    let (path, token) = (format!("/v1/operator/instances{rest}"), world.relay.setup().operator_token.as_str());
    Ok(world.relay.operator().json(method, &path, Some(token), None).await?)
}

#[tokio::test]
async fn what_is_disabled_before_its_shard_has_it_is_wiped_with_a_receipt_and_does_not_come_back() -> Outcome {
    for by_operator in [false, true] {
        let (mut world, redis, alice, record) = on_its_way().await?;
        assert_eq!(world.api.read(&alice).await?.status, 200, "it is there, as its record says");
        assert_eq!(asks(&world, "GET", &format!("/{}", alice.id)).await?.status, 200);
        let stranger = Instance { secret: "x".repeat(43), ..alice.clone() };
        assert_eq!(world.api.disable(&stranger).await?.status, 401);
        let answer = if !by_operator {
            world.api.disable(&alice).await?
        } else {
            asks(&world, "POST", &format!("/{}/wipe", alice.id)).await?
        };
        assert_eq!((answer.status, &answer.json()["instance"]), (200, &json!(alice.id)), "{}", answer.text());
        assert!(answer.json()["signature"].is_string(), "{}", answer.text());
        assert_eq!(world.api.disable(&alice).await?.json(), answer.json(), "asked again: the same");
        assert_eq!(world.api.read(&alice).await?.status, 404);
        assert_eq!(redis.instance_keys(), Vec::<String>::new());
        // As the next run would find it.
        record.put_back(&redis);
        world.relay.restart().await?;
        world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
        assert_eq!(listed(&world).await?, Vec::<String>::new());
    }
    Ok(())
}

#[tokio::test]
async fn what_is_enabled_again_before_its_shard_has_it_ends_and_does_not_come_back() -> Outcome {
    let (mut world, redis, alice, record) = on_its_way().await?;
    let later = world.enable_as(&world.enable_request(TOKEN)).await?;
    let is_alone = || async { (!redis.keys().contains(&record.key)).then_some(()) };
    world.until("the record of the later one alone", is_alone).await?;
    world.until("404", || async { (world.api.read(&alice).await.ok()?.status == 404).then_some(()) }).await?;
    record.put_back(&redis);
    world.relay.restart().await?;
    world.until("the record of the later one alone", is_alone).await?;
    let is_back = || async { (listed(&world).await.ok()? == [later.id.clone()]).then_some(()) };
    world.until("the later one alone", is_back).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_disables_while_a_relay_starts_hears_of_no_instance_that_was_never_there_and_none_comes_back() -> Outcome
{
    let (mut world, redis) = World::on_redis(|_| {}).await?;
    world.relay.kill_9().await?;
    let all = seed(&world, &redis.url(), MANY).await?;
    world.relay.relaunch()?;
    let mut asking = JoinSet::new();
    // Those that come last are asked for first.
    for some in all.chunks(50).rev() {
        let (api, some) = (world.relay.api(), some.to_vec());
        asking.spawn(async move {
            let mut told = Vec::new();
            for instance in some {
                let begun = std::time::Instant::now();
                let answer = loop {
                    match api.disable(&instance).await {
                        Ok(answer) if answer.status != 503 => break (answer.status, String::new()),
                        last if begun.elapsed() > SOON => {
                            break (0, format!("{}: {:?}", instance.id, last.map(|answer| answer.text())));
                        }
                        _ => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
                    }
                };
                told.push(answer);
            }
            told
        });
    }
    let told: Vec<(u16, String)> = asking.join_all().await.into_iter().flatten().collect();
    let other: Vec<_> = told.iter().filter(|(status, _)| *status != 200).collect();
    assert!(other.is_empty(), "{} of {}: {other:?}", other.len(), told.len());
    world.relay.await_ready(SOON).await?;
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    assert_eq!(listed(&world).await?, Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_on_its_way_while_a_relay_starts_is_no_unknown_address() -> Outcome {
    let mut key = String::new();
    let (mut world, redis) = World::on_redis(|setup| key = setup.sip_server("pbx-1", &["example.test"])).await?;
    world.enable().await?;
    world.relay.kill_9().await?;
    seed(&world, &redis.url(), MANY).await?;
    world.relay.relaunch()?;
    let (mut told, begun) = (Vec::new(), std::time::Instant::now());
    let request = json!({"aor": world.aor(), "wait_ms": 1});
    while !told.contains(&504) && begun.elapsed() < SOON {
        match world.relay.api().wake(&key, &request).await {
            Ok(answer) => told.push(answer.status),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(2)).await,
        }
    }
    assert_eq!(told.pop(), Some(504), "it is woken, and not waited for: {told:?}");
    assert!(told.iter().all(|status| *status == 503), "{told:?}");
    Ok(())
}

#[tokio::test]
async fn a_node_that_leaves_lets_go_of_what_was_wiped_while_it_was_on_its_way_to_another() -> Outcome {
    let redis = RedisServer::start();
    let world = World::between(|server| server.contacts = 2, |setup| setup.store = redis.url()).await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    let alice = world.enable().await?;
    world.await_contacts(1).await?;
    // The other node has claimed it, and none of its shards has it yet.
    let record = Record::of(&redis, &alice);
    let theirs = format!("{}:{}", other.setup().edge_ip, other.setup().ports.edge);
    record.put_back_claimed(&redis, &theirs);
    let answer = other.api().disable(&alice).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    record.put_back(&redis);
    world.relay.terminate(SOON).await?;
    world.await_contacts(0).await?;
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    assert_eq!(world.relay.log().matches("ended-elsewhere").count(), 1);
    Ok(())
}

/// What an operator sees.
async fn listed(world: &World) -> Result<Vec<String>, Missed> {
    let page = asks(world, "GET", "?limit=1000").await?.json();
    let id = |one: &Value| one["instance"].as_str().unwrap_or_default().to_owned();
    Ok(page["instances"].as_array().into_iter().flatten().map(id).collect())
}
