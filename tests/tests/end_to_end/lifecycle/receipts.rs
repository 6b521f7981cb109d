//! A receipt is a promise: whatever dies, and whenever, what was receipted never comes back.

use std::path::PathBuf;
use std::time::Duration;

use relay::vault::{Keyring, Receipt, verify_receipt};
use serde_json::{Value, json};
use tests::api_client::{Answer, Instance};
use tests::board::Missed;
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::world::{SOON, World};

use super::Outcome;

async fn world(redis: &RedisServer) -> Result<World, Missed> {
    World::with(|setup| setup.store = redis.url()).await
}

/// The receipt in an answer, its signature verified.
fn receipt(world: &World, answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let receipt: Receipt = serde_json::from_value(answer.json()).expect("a receipt");
    let keyring = Keyring::open(world.relay.setup().keyring.as_ref().expect("a file")).expect("the keyring");
    assert_eq!(verify_receipt(&receipt, &keyring.receipt_public_key()), Ok(()));
    answer.json()
}

async fn await_receipt(world: &World, instance: &Instance) -> Result<Value, Missed> {
    let look = || async { world.api.disable(instance).await.ok().filter(|answer| answer.status == 200) };
    Ok(receipt(world, &world.until("the receipt", look).await?))
}

/// Nothing of it is left, and nothing comes back.
async fn is_gone(world: &World, redis: &RedisServer, instance: &Instance) -> Outcome {
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    world.until("404", || async { (world.api.read(instance).await.ok()?.status == 404).then_some(()) }).await?;
    world.await_contacts(0).await.map(drop)
}

/// The file of the node's tombstones.
fn tombstones(world: &World) -> Result<PathBuf, Missed> {
    let keyring = world.relay.setup().keyring.clone().expect("a file");
    let begin = format!("{}.wiped-", keyring.file_name().and_then(|name| name.to_str()).expect("a name"));
    let is_ours = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&begin));
    let beside = std::fs::read_dir(keyring.parent().expect("a folder"))?;
    Ok(beside.filter_map(|entry| Some(entry.ok()?.path())).find(is_ours).expect("the tombstones"))
}

#[tokio::test]
async fn an_instance_that_is_renewed_while_it_is_wiped_is_barred_until_its_new_end() -> Outcome {
    let redis = RedisServer::start();
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    gate.open_slow(Duration::from_millis(1))?;
    let store = format!("redis://{}", gate.address());
    let lifetime = ["1s", "3600s", "6d"].map(str::to_owned);
    let world = World::with(|setup| (setup.store, setup.lifetime) = (store, lifetime)).await?;
    let instance = world.enable().await?;
    let end = || -> u64 {
        let record = format!("sipwake:i:{{{}}}", instance.id);
        redis.ask::<Option<u64>>(redis::cmd("HGET").arg(record).arg("e")).unwrap_or_default()
    };
    let first = end();
    gate.slow_down(Duration::from_millis(150));
    let renewal = json!({"lifetime_s": 500_000});
    let wipe = async {
        // The store has it, and the node does not know yet.
        let renewed = world.until("a renewed record", || async { Some(end()).filter(|end| *end > first) }).await?;
        world.api.disable(&instance).await?;
        Ok::<_, Missed>(renewed)
    };
    let (changed, renewed) = tokio::join!(world.api.change(&instance, &renewal), wipe);
    assert_eq!(changed?.status, 404);
    let (file, renewed) = (tombstones(&world)?, renewed?);
    let barred = format!("wipe {} ", instance.id);
    let is_barred = || async {
        let text = std::fs::read_to_string(&file).ok()?;
        let last = text.lines().rfind(|line| line.starts_with(&barred))?;
        last.split(' ').nth(3)?.parse().ok().filter(|end: &u64| *end >= renewed).map(drop)
    };
    world.until("a tombstone of its new end", is_barred).await?;
    gate.slow_down(Duration::ZERO);
    await_receipt(&world, &instance).await.map(drop)
}

#[tokio::test]
async fn a_wipe_that_cannot_be_written_down_is_202_and_told_and_its_receipt_is_signed_when_it_is() -> Outcome {
    let redis = RedisServer::start();
    let world = world(&redis).await?;
    let instance = world.enable().await?;
    let file = tombstones(&world)?;
    // Nothing can be put in the place of a folder.
    std::fs::remove_file(&file)?;
    std::fs::create_dir_all(file.join("inside"))?;
    for _ in 0..2 {
        let answer = world.api.disable(&instance).await?;
        assert_eq!((answer.status, answer.json()), (202, json!({"state": "wiping"})), "{}", answer.text());
        is_gone(&world, &redis, &instance).await?;
    }
    let operator = world.relay.operator();
    let warns = |does: bool| {
        let operator = &operator;
        move || async move {
            let said = operator.get("/readyz").await.ok()?.text();
            (said.contains("wipes cannot be written down") == does).then_some(())
        }
    };
    world.until("a warning", warns(true)).await?;
    std::fs::remove_dir_all(&file)?;
    await_receipt(&world, &instance).await?;
    world.until("no warning", warns(false)).await
}

#[tokio::test]
async fn a_wipe_that_neither_the_store_nor_the_disk_takes_down_is_503_and_does_not_say_that_nothing_was_changed()
-> Outcome {
    let mut redis = RedisServer::start_durable();
    let world = world(&redis).await?;
    let instance = world.enable().await?;
    let file = tombstones(&world)?;
    std::fs::remove_file(&file)?;
    std::fs::create_dir_all(file.join("inside"))?;
    redis.stop();
    for answer in [
        world.api.disable(&instance).await?,
        world.api.disable(&instance).await?,
        world.relay.wipe(&instance.id).await?,
    ] {
        assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
        assert!(answer.text().contains("has ended"), "{}", answer.text());
    }
    world.await_contacts(0).await?;
    assert_eq!(world.api.read(&instance).await?.status, 404);
    std::fs::remove_dir_all(&file)?;
    let written = || async { (world.api.disable(&instance).await.ok()?.status == 202).then_some(()) };
    world.until("a wipe that is written down", written).await?;
    redis.restart();
    await_receipt(&world, &instance).await.map(drop)
}

#[tokio::test]
async fn with_the_store_away_a_wipe_is_202_and_its_receipt_is_signed_when_nothing_is_left() -> Outcome {
    let mut redis = RedisServer::start_durable();
    let world = world(&redis).await?;
    let instance = world.enable().await?;
    redis.stop();
    for _ in 0..2 {
        let answer = world.api.disable(&instance).await?;
        assert_eq!((answer.status, answer.json()), (202, json!({"state": "wiping"})), "{}", answer.text());
        world.await_contacts(0).await?;
        assert_eq!(world.api.read(&instance).await?.status, 404);
    }
    let stranger = Instance { secret: "x".repeat(43), ..instance.clone() };
    assert_eq!(world.api.disable(&stranger).await?.status, 401, "the receipt is its device's alone");
    assert_eq!(world.relay.wipe(&instance.id).await?.status, 202);
    redis.restart();
    let first = await_receipt(&world, &instance).await?;
    assert_eq!((&first["reason"], &first["unregistered"]), (&json!("disabled"), &json!(true)));
    is_gone(&world, &redis, &instance).await?;
    assert_eq!(receipt(&world, &world.api.disable(&instance).await?), first, "again: the same");
    assert_eq!(world.relay.wipe(&instance.id).await?.json(), first);
    world.content()
}

#[tokio::test]
async fn what_was_being_wiped_when_the_relay_ended_is_erased_by_the_next_and_not_registered() -> Outcome {
    for clean in [false, true] {
        let mut redis = RedisServer::start_durable();
        let mut world = world(&redis).await?;
        let instance = world.enable().await?;
        redis.stop();
        assert_eq!(world.api.disable(&instance).await?.status, 202);
        if clean {
            assert_eq!(world.relay.terminate(Duration::from_secs(20)).await?.code(), Some(0));
        } else {
            world.relay.kill_9().await?;
        }
        redis.restart();
        assert!(!redis.instance_keys().is_empty(), "it came back with its data");
        let registers = world.registrar.registers(&world.aor()).len();
        world.relay.restart().await?;
        is_gone(&world, &redis, &instance).await?;
        await_receipt(&world, &instance).await?;
        assert_eq!(world.registrar.registers(&world.aor()).len(), registers, "its SIP server heard nothing more of it");
        let again = world.enable().await?;
        assert_eq!(world.api.read(&again).await?.status, 200, "the account can be lent again");
    }
    Ok(())
}

#[tokio::test]
async fn a_drain_erases_what_is_still_to_be_erased_when_the_store_answers_again() -> Outcome {
    let redis = RedisServer::start();
    let world = world(&redis).await?;
    let instance = world.enable().await?;
    redis.freeze();
    assert_eq!(world.api.disable(&instance).await?.status, 202);
    let relay = &world.relay;
    let thaw = async {
        let draining = relay.await_log("drain", SOON).await;
        redis.thaw();
        draining
    };
    let (exit, draining) = tokio::join!(relay.terminate(Duration::from_secs(20)), thaw);
    draining?;
    assert_eq!(exit?.code(), Some(0));
    assert_eq!(redis.instance_keys(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn a_store_that_comes_back_with_what_it_had_before_a_receipt_brings_nobody_back() -> Outcome {
    let redis = RedisServer::start();
    let mut world = world(&redis).await?;
    let instance = world.enable().await?;
    let had: Vec<(String, Vec<u8>)> =
        redis.instance_keys().into_iter().map(|key| (key.clone(), redis.ask(redis::cmd("DUMP").arg(&key)))).collect();
    receipt(&world, &world.api.disable(&instance).await?);
    world.relay.kill_9().await?;
    for (key, value) in &had {
        redis.ask::<String>(redis::cmd("RESTORE").arg(key).arg(300_000).arg(value.as_slice()));
    }
    let registers = world.registrar.registers(&world.aor()).len();
    world.relay.restart().await?;
    is_gone(&world, &redis, &instance).await?;
    assert_eq!(world.registrar.registers(&world.aor()).len(), registers);
    Ok(())
}

#[tokio::test]
async fn kill_9_at_every_moment_of_a_wipe_brings_nobody_back_who_was_answered() -> Outcome {
    let redis = RedisServer::start_durable();
    let mut world = world(&redis).await?;
    let mut answered = 0;
    for away in [false, true] {
        for after_ms in [0, 1, 3, 7, 15, 40, 150, 1_200, 2_500] {
            let instance = world.enable().await?;
            if away {
                redis.freeze();
            }
            let api = world.relay.api();
            let asked = instance.clone();
            let asking = tokio::spawn(async move { api.disable(&asked).await.map(|answer| answer.status) });
            // This is the moment of the crash.
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            world.relay.kill_9().await?;
            let promised = matches!(asking.await, Ok(Ok(200 | 202)));
            if away {
                redis.thaw();
            }
            // Whatever is there afterwards was registered anew.
            world.registrar.forget();
            world.relay.restart().await?;
            if promised {
                answered += 1;
                is_gone(&world, &redis, &instance).await?;
            }
            await_settled(&world, &instance).await?;
            await_receipt(&world, &instance).await?;
            is_gone(&world, &redis, &instance).await?;
        }
    }
    assert!(answered >= 4, "{answered} were answered before the end");
    Ok(())
}

/// Waits until the relay knows whether it has the instance.
async fn await_settled(world: &World, instance: &Instance) -> Outcome {
    let look = || async { (world.api.read(instance).await.ok()?.status != 503).then_some(()) };
    world.until("200 or 404", look).await
}

/// The app has its 202 by then: a refusal that comes later ends an instance that is in the store.
#[tokio::test]
async fn a_refusal_that_comes_after_the_202_wipes_what_was_stored() -> Outcome {
    let redis = RedisServer::start_durable();
    let world = World::with(|setup| {
        setup.store = redis.url();
        setup.environment.push(("SIPWAKE_UPSTREAM__REGISTRATIONS_PER_SECOND".to_owned(), "1".to_owned()));
    })
    .await?;
    let mut enabling = tokio::task::JoinSet::new();
    for n in 0..40 {
        let (api, mut request) = (world.relay.api(), world.enable_request(&format!("{n:064x}")));
        request["account"]["aor"] = json!(world.aor().replace("alice", &format!("nobody{n}")));
        request["account"]["auth_username"] = json!(format!("nobody{n}"));
        enabling.spawn(async move { api.enable(&request).await });
    }
    let mut late = Vec::new();
    while let Some(answer) = enabling.join_next().await {
        let answer = answer.expect("no panic")?;
        if answer.status == 202 {
            late.push(Instance::new(&json!({}), answer.json()));
        }
    }
    assert!(!late.is_empty(), "some must wait for their turn");
    for instance in &late {
        is_gone(&world, &redis, instance).await?;
        let said = receipt(&world, &world.api.disable(instance).await?);
        assert_eq!(said["reason"], json!("refused-upstream"));
    }
    Ok(())
}
