//! The store goes away in the middle: what is known goes on, what is new waits, and what was wiped stays wiped.

use std::time::{Duration, Instant};

use relay::vault::{LEASE, RENEWAL};
use serde_json::json;
use tests::board::Missed;
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::stall::Stall;
use tests::world::{Ringing, SOON, TOKEN, World};

use super::Outcome;

#[tokio::test]
async fn without_redis_known_bindings_ring_enabling_is_503_and_readyz_says_why() -> Outcome {
    let (world, mut redis) = World::on_redis(|_| {}).await?;
    let (one, two) = (world.enable().await?, world.enable_other().await?);
    let kept = redis.instance_keys().len();
    redis.stop();
    for _ in 0..2 {
        let Ringing { caller, phone, .. } = world.answered(&two).await?;
        caller.bye(SOON).await?;
        phone.unregister(SOON).await?;
    }
    let registered = world.registrar.registers(&world.aor()).len();
    let answer = world.api.enable(&world.enable_request(&TOKEN.replace('a', "b"))).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
    assert_eq!(world.registrar.registers(&world.aor()).len(), registered, "the SIP server was not bothered");
    assert_eq!(world.api.read(&one).await?.status, 200, "what is here can be read");
    let change = serde_json::json!({"lifetime_s": 300_000});
    assert_eq!(world.api.change(&one, &change).await?.status, 503, "a change that is not stored is not made");
    assert!(world.await_readiness("degraded").await?.contains("known phones still ring"));
    assert_eq!(world.relay.operator().get("/healthz").await?.status, 200, "the process serves");
    world.await_metric("sipwake_store_up", 0.0).await?;

    redis.restart();
    world.await_readiness("ready").await?;
    world.await_metric("sipwake_store_up", 1.0).await?;
    // It came back empty: what is known here is written again.
    world.until("the records again", || async { (redis.instance_keys().len() == kept).then_some(()) }).await?;
    assert_eq!(world.api.change(&one, &change).await?.status, 200);
    let three = world.enable_as(&world.enable_request(&TOKEN.replace('a', "b"))).await?;
    world.await_contacts(1).await?;
    world.whole_call(&three).await?;
    for instance in [&one, &two, &three] {
        world.disable(instance).await?;
    }
    world.await_contacts(0).await?;
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    world.content()
}

#[tokio::test]
async fn what_an_older_dump_of_the_store_does_not_have_is_written_again_and_what_it_has_that_was_wiped_is_not()
-> Outcome {
    let (mut world, mut redis) = World::on_redis(|_| {}).await?;
    let wiped = world.enable().await?;
    let (dump, dumped) = (redis.dump(), Instant::now());
    let instance = world.enable_other().await?;
    world.disable(&wiped).await?;
    let kept = redis.instance_keys();
    redis.restart_with(&dump);
    let is_young = dumped.elapsed() < LEASE / 2;
    let is_as_before = || async { (redis.instance_keys() == kept).then_some(()) };
    world.until("the records as they were", is_as_before).await?;
    world.relay.await_log("records-restored", SOON).await?;
    assert!(!is_young || !world.relay.log().contains("lease-lapsed"), "the dump had the lease, too");
    world.whole_call(&instance).await?;
    // The store is as if nothing had happened: the next run has the one, and not the other.
    world.relay.kill_9().await?;
    world.relay.restart().await?;
    world.await_metric("sipwake_instances{state=\"registered\"}", 1.0).await?;
    world.whole_call(&instance).await?;
    assert_eq!((world.api.read(&instance).await?.status, world.api.read(&wiped).await?.status), (200, 404));
    assert!(!redis.instance_keys().iter().any(|key| key.contains(&wiped.id)), "{:?}", redis.instance_keys());
    world.content()
}

#[tokio::test]
async fn a_wipe_that_a_store_forgets_which_is_back_at_once_is_done_again() -> Outcome {
    let (world, mut redis, instance) = World::lent_on_redis().await?;
    let dump = redis.dump();
    world.disable(&instance).await?;
    redis.restart_with(&dump);
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    assert_eq!(world.api.read(&instance).await?.status, 404);
    world.content()
}

/// Its lease was shortened: the earlier form of its record would live longer than that which was wiped.
#[tokio::test]
async fn a_wipe_is_remembered_as_long_as_any_earlier_form_of_its_record_may_live() -> Outcome {
    let lifetime = ["1s", "5d", "6d"].map(str::to_owned);
    let (world, mut redis) = World::on_redis(|setup| setup.lifetime = lifetime).await?;
    let instance = world.enable().await?;
    let dump = redis.dump();
    let shortened = Instant::now();
    world.change(&instance, serde_json::json!({"lifetime_s": 5})).await?;
    world.disable(&instance).await?;
    tokio::time::sleep(Duration::from_secs(7).saturating_sub(shortened.elapsed())).await;
    redis.restart_with(&dump);
    world.relay.await_log("wiped-record-returned", SOON).await?;
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    assert_eq!(world.api.read(&instance).await?.status, 404);
    world.content()
}

#[tokio::test]
async fn an_enabling_that_has_failed_is_not_there_when_its_record_arrives_late() -> Outcome {
    let redis = RedisServer::start();
    let stall = Stall::to(([127, 0, 0, 1], redis.port()).into()).await;
    let stall = stall.map_err(|error| Missed::new("a way to the store", error.to_string()))?;
    let store = format!("redis://{}", stall.address());
    let mut world = World::between(|_| {}, |setup| setup.store = store).await?;
    stall.hold(b"sipwake:i:{");
    let answer = world.api.enable(&world.enable_request(TOKEN)).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
    assert!(stall.has_stalled());
    stall.release().await;
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    let registered = world.registrar.registers(&world.aor()).len();
    world.relay.kill_9().await?;
    world.relay.restart().await?;
    let instance = world.enable_other().await?;
    world.whole_call(&instance).await?;
    assert!(redis.instance_keys().iter().filter(|key| key.starts_with("sipwake:i:")).count() == 1);
    assert!(world.registrar.registers(&world.aor()).len() > registered);
    world.content()
}

#[tokio::test]
async fn an_odd_record_costs_no_other_account_its_calls_when_the_lease_has_lapsed() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let (odd, instance) = (world.enable().await?, world.enable_other().await?);
    let key = format!("sipwake:i:{{{}}}", odd.id);
    redis.ask::<u64>(redis::cmd("DEL").arg(&key));
    redis.ask::<()>(redis::cmd("SET").arg(&key).arg("x"));
    let lease = redis.keys().into_iter().find(|key| key.starts_with("sipwake:lease:")).expect("a lease");
    redis.ask::<u64>(redis::cmd("DEL").arg(lease));
    world.relay.await_log("lease-lapsed", SOON).await?;
    // The odd one, too, is written again.
    world.await_metric("sipwake_instances{state=\"registered\"}", 2.0).await?;
    world.whole_call(&instance).await?;
    world.content()
}

#[tokio::test]
async fn what_a_part_of_a_cluster_has_lost_together_with_the_lease_is_written_again() -> Outcome {
    let redis = RedisServer::start_cluster();
    let world = World::between(|_| {}, |setup| setup.store = redis.url()).await?;
    let (lost, other) = (world.enable().await?, world.enable_other().await?);
    world.await_contacts(1).await?;
    let key = format!("sipwake:i:{{{}}}", lost.id);
    let lease = redis.keys().into_iter().find(|key| key.starts_with("sipwake:lease:")).expect("a lease");
    for key in [&key, &lease] {
        redis.ask::<u64>(redis::cmd("DEL").arg(key));
    }
    world.relay.await_log("lease-lapsed", SOON).await?;
    world.until("the record again", || async { redis.keys().contains(&key).then_some(()) }).await?;
    for instance in [&lost, &other] {
        assert_eq!(world.api.read(instance).await?.status, 200);
        world.whole_call(instance).await?;
    }
    world.content()
}

/// The lease has run out meanwhile, and the records of the other part are there as they were.
#[tokio::test]
async fn what_a_part_of_a_cluster_has_lost_while_it_was_away_is_written_again_where_nobody_has_taken_anything_over()
-> Outcome {
    let redis = RedisServer::start_cluster();
    let world = World::between(|_| {}, |setup| setup.store = redis.url()).await?;
    let (lost, other) = (world.enable().await?, world.enable_other().await?);
    let (key, others) = (format!("sipwake:i:{{{}}}", lost.id), format!("sipwake:i:{{{}}}", other.id));
    redis.ask::<u64>(redis::cmd("DEL").arg(&key));
    redis.freeze();
    tokio::time::sleep(LEASE + RENEWAL).await;
    redis.thaw();
    world.relay.await_log("lease-lapsed", SOON).await?;
    world.until("the record again", || async { redis.keys().contains(&key).then_some(()) }).await?;
    assert!(redis.keys().contains(&others), "what was there stays");
    for instance in [&lost, &other] {
        assert_eq!(world.api.read(instance).await?.status, 200);
        world.whole_call(instance).await?;
    }
    world.content()
}

#[tokio::test]
async fn a_wipe_while_redis_does_not_answer_is_completed_when_it_does() -> Outcome {
    let (world, redis, instance) = World::lent_on_redis().await?;
    assert!(!redis.instance_keys().is_empty());
    redis.freeze();
    let answer = world.api.disable(&instance).await?;
    assert_eq!((answer.status, answer.json()), (202, serde_json::json!({"state": "wiping"})), "{}", answer.text());
    world.await_contacts(0).await?;
    assert!(world.wake(&instance).await.is_err());
    redis.thaw();
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    assert_eq!(world.api.read(&instance).await?.status, 404);
    let answer = world.api.disable(&instance).await?;
    assert_eq!((answer.status, &answer.json()["unregistered"]), (200, &serde_json::json!(true)), "{}", answer.text());
    // It does not come back by itself either.
    world.await_readiness("ready").await?;
    assert_eq!(world.contacts().len(), 0);
    world.content()
}

#[tokio::test]
async fn an_enabling_that_cannot_be_stored_in_the_end_is_unregistered_again() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let aor = world.aor();
    world.registrar.behave(&aor, tests::registrar::Behaviour::Slow(std::time::Duration::from_millis(800)));
    let request = world.enable_request(TOKEN);
    let freeze = async {
        world.registrar.await_registers(&aor, 1, SOON).await?;
        redis.freeze();
        Ok::<_, tests::board::Missed>(())
    };
    let (answer, frozen) = tokio::join!(world.api.enable(&request), freeze);
    frozen?;
    let answer = answer?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
    redis.thaw();
    world.registrar.behave(&aor, tests::registrar::Behaviour::Accept);
    world.registrar.await_contacts(&aor, 0, SOON).await?;
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    let instance = world.enable().await?;
    world.whole_call(&instance).await
}

/// The store has carried it out, and its answer was lost.
#[tokio::test]
async fn a_change_that_was_refused_is_taken_back_where_the_store_has_it_all_the_same() -> Outcome {
    let redis = RedisServer::start();
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    gate.open()?;
    let store = format!("redis://{}", gate.address());
    let world = World::between(|_| {}, |setup| setup.store = store).await?;
    let instance = world.enable().await?;
    let key = format!("sipwake:i:{{{}}}", instance.id);
    let stored = || redis.ask::<Vec<u8>>(redis::cmd("HGET").arg(&key).arg("s"));
    let other = stored();
    assert_eq!(world.api.change(&instance, &json!({"presence": "foreground"})).await?.status, 200);
    let standing = stored();
    gate.close();
    let answer = world.api.change(&instance, &json!({"presence": "background"})).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
    redis.ask::<()>(redis::cmd("HSET").arg(&key).arg("s").arg(other.as_slice()));
    gate.open()?;
    world.until("the record as it was", || async { (stored() == standing).then_some(()) }).await?;
    world.relay.await_log("change-taken-back", SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_relay_that_starts_before_its_store_becomes_ready_with_it() -> Outcome {
    let (mut world, mut redis, instance) = World::lent_on_redis().await?;
    redis.freeze();
    world.relay.kill_9().await?;
    world.relay.relaunch()?;
    assert!(world.await_readiness("not-ready").await?.contains("store"));
    let answer = world.api.read(&instance).await?;
    assert_eq!(answer.status, 503, "it may be there: {}", answer.text());
    redis.thaw();
    world.await_readiness("ready").await?;
    world
        .until("the instance", || async {
            let answer = world.api.read(&instance).await.ok()?;
            (answer.status == 200 && answer.json()["registration"]["state"] == "registered").then_some(())
        })
        .await?;
    world.whole_call(&instance).await?;
    redis.stop();
    Ok(())
}

#[tokio::test]
async fn after_an_outage_what_was_wiped_is_looked_for_and_nothing_is_erased_that_is_gone() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    for _ in 0..12 {
        let instance = world.enable().await?;
        world.disable(&instance).await?;
    }
    let standing = world.enable().await?;
    let calls_of = |command: &str| -> u64 {
        let stats: String = redis.ask(redis::cmd("INFO").arg("commandstats"));
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    };
    let _: () = redis.ask(redis::cmd("CONFIG").arg("RESETSTAT"));
    redis.freeze();
    world.relay.await_log("lease-not-renewed", SOON).await?;
    redis.thaw();
    world.relay.await_log("lease-renewed-again", SOON).await?;
    let has_looked = || async { (calls_of("exists") >= 12).then_some(()) };
    world.until("a look for each that was wiped", has_looked).await?;
    world.disable(&standing).await?;
    // The record, and what was kept beside it, of the one that was wiped now; of others nothing.
    assert!(calls_of("del") < 12, "{}", calls_of("del"));
    Ok(())
}
