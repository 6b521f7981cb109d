//! The store loses records and nothing else: a clock that jumped has ended them, they were evicted, or somebody has deleted them. Their owner writes them
//! again, no node says that they have ended, and what was wiped stays wiped.

use relay::vault::{LEASE, RENEWAL};
use serde_json::json;
use tests::api_client::{Answer, Instance};
use tests::board::Missed;
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::skewed_clock::SkewedClock;
use tests::world::{OTHER_TOKEN, SOON, TOKEN, World};

use super::Outcome;
use super::nodes::two_nodes_with;
use super::partitions::two_nodes_and_a_gate;

const HOUR_S: i64 = 3_600;

fn key(instance: &Instance) -> String {
    format!("sipwake:i:{{{}}}", instance.id)
}

fn lose(redis: &RedisServer, instance: &Instance) {
    assert_eq!(redis.ask::<u64>(redis::cmd("DEL").arg(key(instance))), 1);
}

async fn await_record(world: &World, redis: &RedisServer, instance: &Instance) -> Outcome {
    world.until("the record again", || async { redis.keys().contains(&key(instance)).then_some(()) }).await
}

async fn await_empty(world: &World, redis: &RedisServer) -> Outcome {
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await
}

#[tokio::test]
async fn a_redis_whose_clock_jumps_ahead_ends_no_account_on_any_node_and_brings_none_back() -> Outcome {
    let clock = SkewedClock::new();
    let redis = RedisServer::start_by(&clock);
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    let (here, wiped) = (world.enable().await?, world.enable_android().await?);
    let there = other.api().enabled(&world.enable_request_by_proxy(OTHER_TOKEN)).await;
    let there = there?;
    assert_eq!(other.api().disable(&wiped).await?.status, 200);
    for ahead in [130 * HOUR_S, 0] {
        clock.set(ahead);
        if ahead > 0 {
            world.relay.await_log("records-restored", SOON).await?;
            other.await_log("records-restored", SOON).await?;
        }
        for instance in [&here, &there] {
            await_record(&world, &redis, instance).await?;
            for api in [&world.api, &other.api()] {
                world
                    .until("an instance that is read", || async {
                        (api.read(instance).await.ok()?.status == 200).then_some(())
                    })
                    .await?;
            }
        }
        assert_eq!(world.api.read(&wiped).await?.status, 404);
    }
    assert!(!redis.keys().contains(&key(&wiped)), "what was wiped does not come back");
    for (api, instance) in [(&world.api, &here), (&other.api(), &there)] {
        assert_eq!(api.disable(instance).await?.status, 200);
    }
    world.await_contacts(0).await?;
    await_empty(&world, &redis).await
}

#[tokio::test]
async fn what_is_lost_together_with_the_lease_goes_on_also_where_something_odd_lies_in_its_place() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let (lost, odd) = (world.enable().await?, world.enable_other().await?);
    for instance in [&lost, &odd] {
        lose(&redis, instance);
    }
    redis.ask::<()>(redis::cmd("SET").arg(key(&odd)).arg("x"));
    let lease = redis.keys().into_iter().find(|key| key.starts_with("sipwake:lease:")).expect("a lease");
    redis.ask::<u64>(redis::cmd("DEL").arg(lease));
    world.relay.await_log("lease-lapsed", SOON).await?;
    for instance in [&lost, &odd] {
        world
            .until("the record again", || async {
                let owner = redis.try_to_ask::<Option<String>>(redis::cmd("HGET").arg(key(instance)).arg("o"));
                owner.ok().flatten().map(drop)
            })
            .await?;
        assert_eq!(world.api.read(instance).await?.status, 200);
    }
    world.whole_call(&odd).await?;
    world.content()
}

#[tokio::test]
async fn a_damaged_record_is_written_again_by_its_owner_and_is_none_where_nobody_has_it() -> Outcome {
    let (mut world, redis) = World::on_redis(|_| {}).await?;
    let instance = world.enable().await?;
    let owner = || redis.ask::<Vec<u8>>(redis::cmd("HGET").arg(key(&instance)).arg("o"));
    let written = owner();
    redis.ask::<u64>(redis::cmd("HSET").arg(key(&instance)).arg("o").arg(&b"\xff"[..]));
    world.change(&instance, json!({"lifetime_s": 300_000})).await?;
    assert_eq!(owner(), written);
    world.relay.kill_9().await?;
    redis.ask::<u64>(redis::cmd("HSET").arg(key(&instance)).arg("f").arg("x"));
    world.relay.restart().await?;
    world.relay.await_log("record-damaged", SOON).await?;
    for asked in [world.api.read(&instance).await?, world.api.disable(&instance).await?] {
        assert_eq!((asked.status, asked.problem().as_deref()), (404, Some("unknown-instance")), "{}", asked.text());
    }
    assert_eq!(world.relay.log().matches("record-damaged").count(), 1);
    Ok(())
}

/// One bit flips in the sealed part: in its form, in the name of its key, in the ciphertext.
#[tokio::test]
async fn a_record_that_is_damaged_where_it_is_sealed_is_none_and_goes_when_its_phone_enables_again() -> Outcome {
    let (mut world, redis) = World::on_redis(|_| {}).await?;
    let instance = world.enable().await?;
    let sealed = redis.ask::<Vec<u8>>(redis::cmd("HGET").arg(key(&instance)).arg("s"));
    world.relay.terminate(SOON).await?;
    for at in [0, 4, 100] {
        let mut damaged = sealed.clone();
        damaged[at] ^= 1;
        redis.ask::<u64>(redis::cmd("HSET").arg(key(&instance)).arg("s").arg(&damaged[..]));
        world.relay.restart().await?;
        for method in ["GET", "DELETE"] {
            let none = || async { (world.api.of(method, &instance, "").await.ok()?.status == 404).then_some(()) };
            world.until("a 404", none).await?;
        }
        let stranger = Instance { secret: "x".repeat(43), ..instance.clone() };
        assert_eq!(world.api.read(&stranger).await?.status, 404);
        assert!(redis.keys().contains(&key(&instance)), "{at}: it is left to its expiry");
        if at != 100 {
            world.relay.terminate(SOON).await?;
        }
    }
    world.enable().await?;
    world.until("the damaged one to go", || async { (!redis.keys().contains(&key(&instance))).then_some(()) }).await?;
    world.await_contacts(1).await?;
    Ok(())
}

/// Memory runs out: all stalls, the system kills Redis, and it is back empty before the relay runs on.
#[tokio::test]
async fn what_is_lost_while_its_node_stands_still_is_written_again() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let (one, two) = (world.enable().await?, world.enable_other().await?);
    let kept = redis.instance_keys().len();
    world.relay.freeze();
    tokio::time::sleep(LEASE + RENEWAL).await;
    redis.ask::<()>(&redis::cmd("FLUSHALL"));
    world.relay.thaw();
    world.relay.await_log("lease-lapsed", SOON).await?;
    world.until("the records again", || async { (redis.instance_keys().len() == kept).then_some(()) }).await?;
    for instance in [&one, &two] {
        assert_eq!(world.api.read(instance).await?.status, 200);
        world.whole_call(instance).await?;
    }
    world.content()
}

/// A machine that sleeps over the end of a lease: the store has forgotten the record by itself.
#[tokio::test]
async fn what_has_ended_while_its_node_stood_still_is_told_to_its_user_and_has_a_receipt() -> Outcome {
    let lifetime = ["1s", "5d", "6d"].map(str::to_owned);
    let (world, redis) = World::on_redis(|setup| setup.lifetime = lifetime).await?;
    let mut request = world.enable_request(TOKEN);
    request["lifetime_s"] = json!(LEASE.as_secs() - 1);
    let instance = world.enable_as(&request).await?;
    world.relay.freeze();
    tokio::time::sleep(LEASE + RENEWAL).await;
    assert!(!redis.keys().contains(&key(&instance)), "its time is over");
    world.relay.thaw();
    world.relay.await_log("lease-lapsed", SOON).await?;
    world.await_gone(&instance).await?;
    let receipt = world.api.disable(&instance).await?;
    assert_eq!((receipt.status, &receipt.json()["reason"]), (200, &json!("expired")), "{}", receipt.text());
    world.await_contacts(0).await?;
    Ok(())
}

#[tokio::test]
async fn a_record_that_the_store_alone_has_lost_is_written_again() -> Outcome {
    let (world, redis, instance) = World::lent_on_redis().await?;
    lose(&redis, &instance);
    await_record(&world, &redis, &instance).await?;
    lose(&redis, &instance);
    // Its owner answers as if nothing had happened.
    let changed = world.change(&instance, json!({"lifetime_s": 300_000})).await?;
    assert_eq!(changed["instance"], json!(instance.id));
    assert!(redis.keys().contains(&key(&instance)));
    world.whole_call(&instance).await?;
    world.disable(&instance).await?;
    await_empty(&world, &redis).await?;
    world.content()
}

/// Without the name by which a device is found, another node would lend its account once more, and both would be called.
#[tokio::test]
async fn a_device_whose_name_alone_the_store_has_lost_is_found_at_another_node_again() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    let earlier = world.enable().await?;
    let names = || redis.keys().into_iter().filter(|key| key.starts_with("sipwake:l:")).collect::<Vec<_>>();
    let lost = names();
    for name in &lost {
        assert_eq!(redis.ask::<u64>(redis::cmd("DEL").arg(name)), 1);
    }
    world.until("the name again", || async { (names() == lost).then_some(()) }).await?;
    let later = other.api().enabled(&world.enable_request(TOKEN)).await?;
    let is_replaced = || async { (!redis.keys().contains(&key(&earlier))).then_some(()) };
    world.until("the end of the earlier one", is_replaced).await?;
    world.await_contacts(1).await?;
    assert_eq!(other.api().disable(&later).await?.status, 200);
    await_empty(&world, &redis).await?;
    assert!(names().is_empty());
    world.content()
}

#[tokio::test]
async fn a_record_that_the_store_would_keep_for_too_long_ends_with_its_lease() -> Outcome {
    const TOO_LONG_S: i64 = 12 * 24 * HOUR_S;
    let (world, redis, instance) = World::lent_on_redis().await?;
    let lasts = |key: &str| redis.ask::<i64>(redis::cmd("TTL").arg(key));
    let keys = || redis.keys().into_iter().filter(|key| key.starts_with("sipwake:i:") || key.starts_with("sipwake:l:"));
    let before = lasts(&key(&instance));
    for key in keys() {
        redis.ask::<u64>(redis::cmd("EXPIRE").arg(&key).arg(TOO_LONG_S));
    }
    world.until("the end of the lease", || async { keys().all(|key| lasts(&key) <= before).then_some(()) }).await?;
    assert!(keys().count() == 2 && keys().all(|key| lasts(&key) > before - HOUR_S));
    world.whole_call(&instance).await?;
    world.content()
}

/// A store that did not show a record for a while, when its node had to ask.
async fn let_go_of_since_it_was_hidden() -> Result<(World, RedisServer, Instance), Missed> {
    let (world, redis, instance) = World::lent_on_redis().await?;
    let hidden = format!("hidden:{}", instance.id);
    world.relay.freeze();
    tokio::time::sleep(LEASE + RENEWAL).await;
    redis.ask::<()>(redis::cmd("RENAME").arg(key(&instance)).arg(&hidden));
    world.relay.thaw();
    world.relay.await_log("missing-let-go", SOON).await?;
    world.await_metric("sipwake_instances{state=\"registered\"}", 0.0).await?;
    redis.ask::<()>(redis::cmd("RENAME").arg(&hidden).arg(key(&instance)));
    Ok((world, redis, instance))
}

#[tokio::test]
async fn an_account_that_the_store_did_not_show_for_a_while_is_served_once_its_app_asks_for_it() -> Outcome {
    let (world, _redis, instance) = let_go_of_since_it_was_hidden().await?;
    assert_eq!(world.api.read(&instance).await?.status, 200);
    world.relay.await_log("let-go-served-again", SOON).await?;
    world.await_metric("sipwake_instances{state=\"registered\"}", 1.0).await?;
    world.whole_call(&instance).await?;
    world.content()
}

#[tokio::test]
async fn an_account_that_the_store_did_not_show_for_a_while_is_served_once_its_phone_registers() -> Outcome {
    let (world, _redis, instance) = let_go_of_since_it_was_hidden().await?;
    assert!(world.wake(&instance).await.is_err(), "it is told to come again");
    world.await_metric("sipwake_instances{state=\"registered\"}", 1.0).await?;
    world.whole_call(&instance).await?;
    world.content()
}

#[tokio::test]
async fn an_account_that_the_store_did_not_show_for_a_while_is_wiped_as_any_other() -> Outcome {
    let (world, redis, instance) = let_go_of_since_it_was_hidden().await?;
    let receipt = world.api.disable(&instance).await?;
    assert_eq!(receipt.status, 200, "{}", receipt.text());
    world.await_contacts(0).await?;
    await_empty(&world, &redis).await
}

#[tokio::test]
async fn another_node_ends_what_the_store_has_lost_and_does_not_say_that_it_had_ended() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    let there = other.api();
    let instance = world.enable().await?;
    for (method, rest) in [("GET", ""), ("GET", "/timeline"), ("GET", "/messages")] {
        lose(&redis, &instance);
        let answer = there.of(method, &instance, rest).await?;
        assert_eq!(answer.status, 200, "{method} {rest}: {}", answer.text());
        await_record(&world, &redis, &instance).await?;
    }
    lose(&redis, &instance);
    let stranger = Instance { secret: "x".repeat(43), ..instance.clone() };
    assert_eq!(there.disable(&stranger).await?.status, 401, "who has not its secret ends nothing");
    await_record(&world, &redis, &instance).await?;
    lose(&redis, &instance);
    let receipt = there.disable(&instance).await?;
    assert_eq!((receipt.status, &receipt.json()["unregistered"]), (200, &json!(true)), "{}", receipt.text());
    world.await_contacts(0).await?;
    assert_eq!(there.read(&instance).await?.status, 404);
    await_empty(&world, &redis).await
}

#[tokio::test]
async fn a_node_that_says_nothing_keeps_the_others_from_saying_that_there_is_no_such_instance() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    let instance = world.enable().await?;
    world.relay.freeze();
    lose(&redis, &instance);
    let answer = other.api().disable(&instance).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("owner-away")), "{}", answer.text());
    world.relay.thaw();
    Ok(())
}

#[tokio::test]
async fn the_same_device_that_is_enabled_elsewhere_replaces_what_the_store_has_lost() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    let earlier = world.enable().await?;
    lose(&redis, &earlier);
    let later = other.api().enabled(&world.enable_request(TOKEN)).await?;
    world.await_gone(&earlier).await?;
    assert_eq!(world.await_contacts(1).await?.len(), 1);
    assert_eq!(other.api().read(&later).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn what_was_wiped_while_its_earlier_node_was_cut_off_does_not_come_back_with_a_loss() -> Outcome {
    let redis = RedisServer::start();
    let (world, other, mut gate) = two_nodes_and_a_gate(&redis).await?;
    let instance = world.enable().await?;
    gate.close();
    let receipt = wiped_by(&world, &other, &instance).await?;
    redis.ask::<()>(&redis::cmd("FLUSHALL"));
    other.await_log("store-lost-records", SOON).await?;
    // That node has done with the loss when the other one comes back and notices it.
    tokio::time::sleep(LEASE * 2).await;
    gate.open()?;
    world.await_gone(&instance).await?;
    world.await_contacts(0).await?;
    await_empty(&world, &redis).await?;
    assert_eq!(other.api().disable(&instance).await?.json(), receipt.json());
    Ok(())
}

#[tokio::test]
async fn what_another_node_has_taken_over_later_is_let_go_of_and_what_the_store_has_as_it_was_before_is_not() -> Outcome
{
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    let (taken, older) = (world.enable().await?, world.enable_other().await?);
    let node = format!("{}:{}", other.setup().edge_ip, other.setup().ports.edge);
    let run: String = redis.ask(redis::cmd("GET").arg(format!("sipwake:lease:{node}")));
    let fence = redis.ask::<u64>(redis::cmd("HGET").arg(key(&taken)).arg("f"));
    for (instance, fence) in [(&older, fence), (&taken, fence + 1)] {
        let owner = format!("{node}#{run}");
        redis.ask::<u64>(redis::cmd("HSET").arg(key(instance)).arg("o").arg(owner).arg("f").arg(fence));
    }
    // Nobody has asked for either.
    world.await_metric("sipwake_instances{state=\"registered\"}", 1.0).await?;
    let asked = world.registrar.registers(&world.aor()).len();
    tokio::time::sleep(RENEWAL * 4).await;
    assert_eq!(world.metric("sipwake_instances{state=\"registered\"}").await, Some(1.0), "the other one stays");
    assert!(redis.keys().contains(&key(&taken)), "nothing is erased");
    world.await_contacts(1).await?;
    assert_eq!(world.registrar.registers(&world.aor()).len(), asked, "without a word to the SIP server");
    Ok(())
}

/// What is missing is not what another node has ended: that one serves it.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_was_taken_over_and_whose_record_is_lost_is_not_unregistered_by_the_node_that_had_it() -> Outcome
{
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    let instance = world.enable().await?;
    world.relay.freeze();
    let has_it =
        || async { (other.metric("sipwake_instances{state=\"registered\"}").await == Some(1.0)).then_some(()) };
    world.until("the account at the other node", has_it).await?;
    let asked = world.registrar.registers(&world.aor()).len();
    lose(&redis, &instance);
    world.relay.thaw();
    world.relay.await_log("lease-lapsed", SOON).await?;
    world.await_metric("sipwake_instances{state=\"registered\"}", 0.0).await?;
    await_record(&world, &redis, &instance).await?;
    assert_eq!(world.registrar.registers(&world.aor()).len(), asked, "without a word to the SIP server");
    assert_eq!(other.metric("sipwake_instances{state=\"registered\"}").await, Some(1.0));
    Ok(())
}

/// Waits until the other node has taken an instance over, and wipes it there.
async fn wiped_by(world: &World, other: &RelayProcess, instance: &Instance) -> Result<Answer, Missed> {
    world
        .until("the other node to have it", || async {
            (other.metric("sipwake_instances{state=\"registered\"}").await? == 1.0).then_some(())
        })
        .await?;
    let receipt = other.api().disable(instance).await?;
    assert_eq!(receipt.status, 200, "{}", receipt.text());
    Ok(receipt)
}

/// Two nodes, one of them behind a door that is closed; the other one has taken over what this one had, and wiped it.
async fn wiped_while_cut_off(redis: &RedisServer) -> Result<(World, RelayProcess, Gate, Instance), Missed> {
    let (world, beside, mut gate) = two_nodes_and_a_gate(redis).await?;
    let mut setup = beside.setup().clone();
    drop(beside);
    // What it has wiped stands on its own machine.
    let keyring = world.authority.directory().join("apart").join("keyring");
    std::fs::create_dir(keyring.with_file_name("")).expect("a directory");
    std::fs::copy(setup.keyring.as_ref().expect("a file"), &keyring).expect("copied");
    setup.keyring = Some(keyring);
    let other = RelayProcess::start(setup).await?;
    let instance = world.enable().await?;
    gate.close();
    wiped_by(&world, &other, &instance).await?;
    Ok((world, other, gate, instance))
}

#[tokio::test]
async fn nothing_is_written_again_while_a_node_without_a_lease_may_have_wiped_it() -> Outcome {
    let redis = RedisServer::start();
    let (world, other, mut gate, instance) = wiped_while_cut_off(&redis).await?;
    other.freeze();
    redis.ask::<()>(&redis::cmd("FLUSHALL"));
    let name = format!("{}:{}", other.setup().edge_ip, other.setup().ports.edge);
    redis.ask::<()>(redis::cmd("SADD").arg("sipwake:nodes").arg(name));
    gate.open()?;
    world.relay.await_log("store-lost-records", SOON).await?;
    // It is looked up at once, and with each renewal.
    tokio::time::sleep(RENEWAL * 2).await;
    other.thaw();
    world.await_gone(&instance).await?;
    world.await_contacts(0).await?;
    await_empty(&world, &redis).await?;
    assert!(!world.relay.log().contains("records-restored"), "{}", world.relay.log());
    Ok(())
}

#[tokio::test]
async fn what_was_written_again_while_the_node_that_had_wiped_it_was_dead_goes_when_that_one_starts() -> Outcome {
    let redis = RedisServer::start();
    let (world, mut other, mut gate, instance) = wiped_while_cut_off(&redis).await?;
    other.kill_9().await?;
    redis.ask::<()>(&redis::cmd("FLUSHALL"));
    gate.open()?;
    // Nothing names the dead node any more.
    await_record(&world, &redis, &instance).await?;
    world.relay.await_log("records-restored", SOON).await?;
    other.restart().await?;
    world.await_gone(&instance).await?;
    world.await_contacts(0).await?;
    await_empty(&world, &redis).await
}

#[tokio::test]
async fn a_node_that_cannot_be_told_because_the_store_is_full_is_not_said_to_be_taken_over() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    let instance = world.enable().await?;
    let full = |bytes: u64| redis.ask::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes));
    full(1);
    let answer = other.api().disable(&instance).await?;
    let change = other.api().change(&instance, &json!({"lifetime_s": 300_000})).await?;
    full(0);
    for answer in [answer, change] {
        assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
    }
    world
        .until("its end", || async { (other.api().disable(&instance).await.ok()?.status == 200).then_some(()) })
        .await?;
    await_empty(&world, &redis).await
}
