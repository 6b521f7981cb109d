//! What a node wipes of another one: it has what every wipe has, and any node tells its receipt.

use std::path::Path;

use serde_json::json;
use tests::board::Missed;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::scratch::Scratch;
use tests::world::{TOKEN, World};

use super::Outcome;

/// A world, and a second node with its store and its keyring; the trails of both lie in folders of `trails`.
async fn two_nodes(redis: &RedisServer, trails: &Path) -> Result<(World, RelayProcess), Missed> {
    let trail = |name: &str| format!("\n[audit]\ndirectory = {:?}\n", trails.join(name));
    let here = trail("here");
    let world = World::between(
        |server| server.contacts = 2,
        |setup| {
            setup.store = redis.url();
            setup.further += &here;
        },
    )
    .await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    setup.further = setup.further.replace(&here, &trail("there"));
    Ok((world, RelayProcess::start(setup).await?))
}

/// The lines that say so, of both trails.
fn wiped(trails: &Path, id: &str, why: &str) -> usize {
    let folders = std::fs::read_dir(trails).expect("trails").filter_map(Result::ok);
    let files = folders.flat_map(|folder| std::fs::read_dir(folder.path()).expect("a trail").filter_map(Result::ok));
    let text: String = files.map(|file| std::fs::read_to_string(file.path()).expect("text")).collect();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let says_so = |line: &serde_json::Value| {
        (&line["what"], &line["why"], &line["instance"]) == (&json!("wiped"), &json!(why), &json!(id))
            && line["app"] == "com.example.phone"
            && line["account"].is_string()
    };
    lines.filter(says_so).count()
}

#[tokio::test]
async fn what_an_enabling_at_another_node_replaces_has_a_receipt_a_line_and_a_count() -> Outcome {
    let (redis, trails) = (RedisServer::start(), Scratch::new());
    let (world, other) = two_nodes(&redis, trails.path()).await?;
    let earlier = world.enable().await?;
    other.api().enabled(&world.enable_request(TOKEN)).await?;
    world.await_gone(&earlier).await?;
    let look = || async { world.api.disable(&earlier).await.ok().filter(|answer| answer.status == 200) };
    let receipt = world.until("its receipt", look).await?.json();
    assert_eq!((&receipt["instance"], &receipt["reason"]), (&json!(earlier.id), &json!("replaced")));
    assert_eq!(other.api().disable(&earlier).await?.json(), receipt, "the same at the node that replaced it");
    let is_told = || async { (wiped(trails.path(), &earlier.id, "replaced") == 1).then_some(()) };
    world.until("a line of it, once", is_told).await?;
    assert_eq!(other.metric("sipwake_wipes_total{reason=\"replaced\"}").await, Some(1.0));
    world.await_contacts(1).await.map(drop)
}

#[tokio::test]
async fn what_another_node_replaced_does_not_come_back_with_a_store_as_it_was_before() -> Outcome {
    let (mut redis, trails) = (RedisServer::start(), Scratch::new());
    let (mut world, other) = two_nodes(&redis, trails.path()).await?;
    let earlier = world.enable().await?;
    let dump = redis.dump();
    let later = other.api().enabled(&world.enable_request(TOKEN)).await?;
    world.await_gone(&earlier).await?;
    redis.restart_with(&dump);
    let holds = |id: &str| redis.keys().iter().any(|key| key.starts_with("sipwake:i:") && key.contains(id));
    let is_restored = || async { (holds(&later.id) && !holds(&earlier.id)).then_some(()) };
    world.until("the later record, and it alone", is_restored).await?;
    world.relay.kill_9().await?;
    world.relay.restart().await?;
    world.until("the later record, and it alone", is_restored).await?;
    for api in [&world.api, &other.api()] {
        assert_eq!(api.read(&earlier).await?.status, 404);
        assert_eq!(api.read(&later).await?.status, 200);
        assert_eq!(api.disable(&earlier).await?.json()["reason"], "replaced");
    }
    world.await_contacts(1).await.map(drop)
}

#[tokio::test]
async fn any_node_tells_the_same_receipt_also_to_two_who_ask_at_once() -> Outcome {
    let (redis, trails) = (RedisServer::start(), Scratch::new());
    let (world, other) = two_nodes(&redis, trails.path()).await?;
    let there = other.api();
    for asks_owner in [true, false] {
        let instance = world.enable().await?;
        let first = if asks_owner { &world.api } else { &there };
        let (one, two) = tokio::join!(first.disable(&instance), there.disable(&instance));
        let (one, two) = (one?, two?);
        assert_eq!((one.status, two.status), (200, 200), "{} {}", one.text(), two.text());
        assert_eq!(one.json(), two.json());
        for api in [&world.api, &there] {
            assert_eq!(api.disable(&instance).await?.json(), one.json());
            assert_eq!(api.read(&instance).await?.status, 404);
            let stranger = tests::api_client::Instance { secret: "x".repeat(43), ..instance.clone() };
            assert_eq!(api.disable(&stranger).await?.status, 401, "the receipt is its device's alone");
        }
        for relay in [&world.relay, &other] {
            assert_eq!(relay.wipe(&instance.id).await?.json(), one.json());
        }
    }
    Ok(())
}

#[tokio::test]
async fn with_a_copy_of_the_keyring_on_each_machine_the_node_that_passed_a_wipe_on_tells_its_receipt() -> Outcome {
    let (redis, scratch) = (RedisServer::start(), Scratch::new());
    let world = World::between(|server| server.contacts = 2, |setup| setup.store = redis.url()).await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let copy = scratch.path().join("keyring");
    std::fs::copy(setup.keyring.as_ref().expect("a file"), &copy)?;
    setup.keyring = Some(copy);
    let other = RelayProcess::start(setup).await?;
    let there = other.api();
    let instance = world.enable().await?;
    let (one, two) = tokio::join!(there.disable(&instance), there.disable(&instance));
    let (one, two) = (one?, two?);
    assert_eq!((one.status, two.status), (200, 200), "{} {}", one.text(), two.text());
    for api in [&world.api, &there] {
        assert_eq!(api.disable(&instance).await?.json(), one.json());
        assert_eq!(api.read(&instance).await?.status, 404);
    }
    let stranger = tests::api_client::Instance { secret: "x".repeat(43), ..instance.clone() };
    assert_eq!(there.disable(&stranger).await?.status, 404, "nothing is carried for a stranger");
    assert_eq!(one.json(), two.json());
    Ok(())
}

#[tokio::test]
async fn a_wipe_for_an_owner_that_has_died_has_a_line_in_the_trail_and_one_receipt() -> Outcome {
    let (redis, trails) = (RedisServer::start(), Scratch::new());
    let (world, other) = two_nodes(&redis, trails.path()).await?;
    let instance = world.enable().await?;
    world.relay.kill_9().await?;
    let there = other.api();
    // Either may find the other one's tombstone, or the owner's lease not yet over.
    let look = || async { there.disable(&instance).await.ok().filter(|answer| answer.status == 200) };
    let receipt = world.until("a receipt", look).await?.json();
    assert_eq!(there.disable(&instance).await?.json(), receipt);
    let is_told = || async { (wiped(trails.path(), &instance.id, "disabled") == 1).then_some(()) };
    world.until("a line of it, once", is_told).await
}

#[tokio::test]
async fn what_a_node_had_begun_to_wipe_when_it_died_for_good_is_gone_on_with_by_the_one_that_is_asked() -> Outcome {
    let (mut redis, trails) = (RedisServer::start_durable(), Scratch::new());
    let (world, other) = two_nodes(&redis, trails.path()).await?;
    let instance = world.enable().await?;
    redis.stop();
    assert_eq!(world.api.disable(&instance).await?.status, 202);
    world.relay.kill_9().await?;
    redis.restart();
    let there = other.api();
    let look = || async { there.disable(&instance).await.ok().filter(|answer| answer.status == 200) };
    let receipt = world.until("a receipt", look).await?.json();
    assert_eq!((&receipt["instance"], &receipt["reason"]), (&json!(instance.id), &json!("disabled")));
    let names_it = |key: &String| key.contains(&instance.id);
    assert!(!redis.keys().iter().any(names_it), "nothing is left in the store");
    assert_eq!(there.disable(&instance).await?.json(), receipt);
    assert_eq!(there.read(&instance).await?.status, 404);
    let stranger = tests::api_client::Instance { secret: "x".repeat(43), ..instance.clone() };
    assert_eq!(there.disable(&stranger).await?.status, 401, "the receipt is its device's alone");
    Ok(())
}
