//! Nodes with copies of a keyring, over days; and a node with another one.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use relay::vault::{Keyring, Receipt, verify_receipt};
use tests::api_client::Instance;
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::redis_server::RedisServer;
use tests::relay_process::{RelayProcess, binary};
use tests::relay_setup::Ports;
use tests::scratch::Scratch;
use tests::skewed_clock::SkewedClock;
use tests::world::{OTHER_TOKEN, SOON, World, text};

use super::Outcome;

const DAY_S: i64 = 86_400;

#[tokio::test]
async fn what_a_node_has_sealed_days_later_opens_at_another_that_has_a_copy_of_its_keyring() -> Outcome {
    let (clock, scratch) = (SkewedClock::new(), Scratch::new());
    let redis = RedisServer::start_by(&clock);
    let mut world = World::with(|setup| {
        setup.store = redis.url();
        setup.environment.extend(clock.environment());
    })
    .await?;
    let copy = scratch.path().join("keyring");
    std::fs::copy(world.relay.setup().keyring.as_ref().expect("a file"), &copy)?;
    let mut setup = world.relay.setup().clone();
    (setup.ports, setup.keyring) = (Ports::default(), Some(copy));
    let mut other = RelayProcess::start(setup).await?;
    world.relay.kill_9().await?;
    other.kill_9().await?;
    for day in 1..=3 {
        clock.set(day * DAY_S);
        // Both day by day, so that both have made a key of that day before they meet.
        world.relay.restart().await?;
        other.restart().await?;
        if day < 3 {
            world.relay.kill_9().await?;
            other.kill_9().await?;
        }
    }
    let instance = world.enable_other().await?;
    world.relay.kill_9().await?;
    let taken = world.until("the other node has it", || async {
        let answer = other.api().read(&instance).await.ok()?.json();
        (answer["registration"]["state"] == "registered").then_some(())
    });
    taken.await?;
    Ok(())
}

#[tokio::test]
async fn a_node_with_another_keyring_says_so_and_is_not_ready_until_it_has_that_of_the_others() -> Outcome {
    let (redis, scratch) = (RedisServer::start(), Scratch::new());
    let world = World::with(|setup| setup.store = redis.url()).await?;
    let mut setup = world.relay.setup().clone();
    let keyring = scratch.path().join("another");
    (setup.ports, setup.keyring) = (Ports::default(), Some(keyring.clone()));
    let mut other = RelayProcess::launch(setup)?;
    let unready = world.until("not ready, and why", || async {
        let answer = other.operator().get("/readyz").await.ok().filter(|answer| answer.status == 503)?.text();
        answer.contains("the other nodes use another keyring").then_some(())
    });
    unready.await?;
    let answer = other.api().enable(&world.enable_request(OTHER_TOKEN)).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
    assert_eq!(world.registrar.registers(&world.aor()).len(), 0, "the SIP server was not bothered");
    other.kill_9().await?;
    let check = sipwake(&["check", "--config"], other.config())?;
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(!check.status.success() && said.contains("error: store.keyring: the other nodes"), "{said}");
    std::fs::copy(world.relay.setup().keyring.as_ref().expect("a file"), &keyring)?;
    other.restart().await?;
    assert_eq!(other.api().enable(&world.enable_request(OTHER_TOKEN)).await?.status, 201);
    other.await_log("serving", SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_that_comes_back_without_its_keyring_leaves_what_it_had_to_the_others() -> Outcome {
    let (redis, scratch) = (RedisServer::start(), Scratch::new());
    let mut world = World::between(|server| server.contacts = 2, |setup| setup.store = redis.url()).await?;
    let instance = world.enable().await?;
    let keyring = world.relay.setup().keyring.clone().expect("a file");
    let copy = scratch.path().join("keyring");
    std::fs::copy(&keyring, &copy)?;
    let mut setup = world.relay.setup().clone();
    (setup.ports, setup.keyring) = (Ports::default(), Some(copy.clone()));
    let other = RelayProcess::start(setup).await?;
    world.relay.kill_9().await?;
    std::fs::remove_file(&keyring)?;
    world.relay.relaunch()?;
    let taken = world.until("the other node has it", || async {
        let answer = other.api().read(&instance).await.ok()?.json();
        (answer["registration"]["state"] == "registered").then_some(())
    });
    taken.await?;
    world.relay.await_log("lease-left-to-others", SOON).await?;
    assert_eq!(world.relay.operator().get("/readyz").await?.status, 503);
    // Its keyring is there again, and so it is a node as any other.
    std::fs::copy(&copy, &keyring)?;
    let ready = || async { (world.relay.operator().get("/readyz").await.ok()?.status == 200).then_some(()) };
    world.until("ready by itself", ready).await?;
    assert_eq!(world.relay.api().enable(&world.enable_request(OTHER_TOKEN)).await?.status, 201);
    Ok(())
}

#[tokio::test]
async fn a_node_that_gets_the_keyring_of_the_others_while_it_runs_tells_the_key_of_its_receipts() -> Outcome {
    let (redis, scratch) = (RedisServer::start(), Scratch::new());
    let world = World::with(|setup| setup.store = redis.url()).await?;
    let mut setup = world.relay.setup().clone();
    let keyring = scratch.path().join("another");
    (setup.ports, setup.keyring) = (Ports::default(), Some(keyring.clone()));
    let other = RelayProcess::launch(setup)?;
    let keys = async || Some(other.api().get("/v1/keys").await.ok()?.text());
    let own = world.until("its own key", || async { keys().await }).await?;
    let unready = || async { (other.operator().get("/readyz").await.ok()?.status == 503).then_some(()) };
    world.until("not ready", unready).await?;
    std::fs::copy(world.relay.setup().keyring.as_ref().expect("a file"), &keyring)?;
    other.await_log("serving", SOON).await?;
    let ready = || async { (other.operator().get("/readyz").await.ok()?.status == 200).then_some(()) };
    world.until("ready by itself", ready).await?;
    let theirs = world.api.get("/v1/keys").await?.text();
    assert_ne!(theirs, own);
    let same = || async { keys().await.filter(|told| *told == theirs) };
    world.until("one keyring, one key", same).await?;
    let instance = other.api().enabled(&world.enable_request(OTHER_TOKEN)).await?;
    let receipt: Receipt = serde_json::from_value(other.api().disable(&instance).await?.json()).expect("a receipt");
    let key = Keyring::open(&keyring).expect("the keyring").receipt_public_key();
    verify_receipt(&receipt, &key).expect("a receipt of this key");
    Ok(())
}

#[tokio::test]
async fn a_start_without_the_keyring_of_what_is_stored_is_refused_until_it_is_there_or_its_operator_begins_anew()
-> Outcome {
    let server = RedisServer::start();
    let mut world = World::with(|setup| setup.store = server.url()).await?;
    let instance = world.enable().await?;
    let keyring = world.relay.setup().keyring.clone().expect("a file");
    let aside = keyring.with_extension("aside");
    std::fs::copy(&keyring, &aside)?;
    let lose_keyring = async |world: &mut World, is_long_ago: bool| -> Outcome {
        world.relay.kill_9().await?;
        std::fs::remove_file(&keyring)?;
        if is_long_ago {
            // It stands for ten minutes after the last run.
            server.ask::<()>(redis::cmd("DEL").arg("sipwake:ring"));
        }
        // The second start finds the keyring that the first one has made.
        for _ in 0..2 {
            world.relay.relaunch()?;
            assert_eq!(world.relay.ended(SOON).await?.code(), Some(1));
            assert!(world.relay.log().contains("sipwake keys accept"), "{}", world.relay.log());
        }
        Ok(())
    };
    lose_keyring(&mut world, false).await?;
    let check = sipwake(&["check", "--config"], world.relay.config())?;
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(!check.status.success() && said.contains("sipwake keys accept"), "{said}");
    // Its disk is there, or a copy is.
    std::fs::copy(&aside, &keyring)?;
    world.relay.restart().await?;
    let back = world.until("it is served again", || async {
        let answer = world.api.read(&instance).await.ok()?.json();
        (answer["registration"]["state"] == "registered").then_some(())
    });
    back.await?;
    lose_keyring(&mut world, true).await?;
    let accepted = sipwake(&["keys", "accept", "--config"], world.relay.config())?;
    assert!(accepted.status.success(), "{}", String::from_utf8_lossy(&accepted.stderr));
    world.relay.restart().await?;
    world.relay.await_log("records-of-earlier-keyring", SOON).await?;
    assert!(!world.relay.log().contains("record-damaged"));
    assert!(!server.instance_keys().is_empty(), "the earlier keyring may be found again");
    let is_answered = || async { (world.api.read(&instance).await.ok()?.status == 404).then_some(()) };
    world.until("it is claimed, and not opened", is_answered).await?;
    // What its user ends stays ended then, also in a store that comes back with it.
    let dump = |key: String| (server.ask::<Vec<u8>>(redis::cmd("DUMP").arg(&key)), key);
    let kept: Vec<_> = server.instance_keys().into_iter().map(dump).collect();
    assert_eq!(world.api.disable(&instance).await?.status, 404);
    let is_erased = || async { server.instance_keys().is_empty().then_some(()) };
    world.until("nothing of it", is_erased).await?;
    assert_eq!(world.api.disable(&instance).await?.status, 404);
    world.relay.kill_9().await?;
    for (dump, key) in kept {
        server.ask::<()>(redis::cmd("RESTORE").arg(key).arg(600_000).arg(dump));
    }
    server.ask::<()>(redis::cmd("DEL").arg("sipwake:ring"));
    std::fs::copy(&aside, &keyring)?;
    world.relay.restart().await?;
    world.until("nothing of it again", is_erased).await?;
    assert_eq!(world.api.read(&instance).await?.status, 404);
    // Its SIP server has the Contact that nobody refreshes any more until its grant ends.
    world.registrar.forget();
    assert_eq!(world.api.enable(&world.enable_request(OTHER_TOKEN)).await?.status, 201);
    Ok(())
}

#[tokio::test]
async fn a_node_with_another_keyring_shows_nobody_what_is_kept_and_loses_nothing_of_it() -> Outcome {
    let (redis, scratch) = (RedisServer::start(), Scratch::new());
    let world = World::with(|setup| setup.store = redis.url()).await?;
    let alice = world.enable_as(&world.enable_request_with_alerts()).await?;
    let message = world.call_with(&CallOptions::request("MESSAGE").body("text/plain", "hello"))?;
    message.expect(202, SOON).await?;
    world.alert("message").await?;
    let kept = world.kept(&alice, "messages").await?;
    assert_eq!(kept.len(), 1);
    let mut setup = world.relay.setup().clone();
    (setup.ports, setup.keyring) = (Ports::default(), Some(scratch.path().join("another")));
    let other = RelayProcess::launch(setup)?;
    let unready = world.until("not ready, and why", || async {
        let answer = other.operator().get("/readyz").await.ok().filter(|answer| answer.status == 503)?.text();
        answer.contains("the other nodes use another keyring").then_some(())
    });
    unready.await?;
    let nobody = Instance { secret: "A".repeat(alice.secret.len()), ..alice.clone() };
    let delete = format!("/messages/{}", text(&kept[0]["message"]));
    for who in [&nobody, &alice] {
        for (method, rest) in [("GET", "/messages"), ("GET", "/missed-calls"), ("DELETE", &delete)] {
            let answer = other.api().of(method, who, rest).await?;
            assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("owner-away")), "{}", answer.text());
        }
    }
    assert_eq!(world.kept(&alice, "messages").await?, kept);
    Ok(())
}

#[tokio::test]
async fn the_command_shows_and_rotates_a_keyring_and_prints_no_key() -> Outcome {
    let (world, instance) = World::lent().await?;
    let scratch = Scratch::new();
    let keyring = world.relay.setup().keyring.clone().expect("a file");
    let copy = scratch.path().join("copy");
    std::fs::copy(&keyring, &copy)?;
    let show = |file: &Path| -> Result<String, Missed> {
        Ok(String::from_utf8_lossy(&sipwake(&["keys", "show", "--json", "--keyring"], file)?.stdout).into_owned())
    };
    let before = show(&keyring)?;
    assert_eq!(before, show(&copy)?);
    let shown: serde_json::Value = serde_json::from_str(&before).unwrap_or_default();
    assert_eq!(shown["rotation"], 0, "{before}");
    let text = std::fs::read_to_string(&keyring)?;
    for word in text.split_ascii_whitespace().filter(|word| word.len() == 64) {
        assert!(!before.contains(&word[..16]), "{before}");
    }
    let entropy = scratch.file("entropy", "sixteen throws of a die and more");
    for file in [&keyring, &copy] {
        let entropy = entropy.to_str().unwrap_or_default();
        let rotated = sipwake(&["keys", "rotate", "--entropy", entropy, "--keyring"], file)?;
        assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    }
    assert_eq!(show(&keyring)?, show(&copy)?);
    assert_ne!(show(&keyring)?, before);
    world.whole_call(&instance).await?;
    let few = scratch.file("few", "few");
    let refused = sipwake(&["keys", "rotate", "--entropy", few.to_str().unwrap_or_default(), "--keyring"], &copy)?;
    assert_eq!(refused.status.code(), Some(1));
    let by_config = sipwake(&["keys", "show", "--json", "--config"], world.relay.config())?;
    assert_eq!(String::from_utf8_lossy(&by_config.stdout), show(&keyring)?);
    world.disable(&instance).await?;
    Ok(())
}

fn sipwake(arguments: &[&str], file: &Path) -> Result<Output, Missed> {
    Ok(Command::new(binary()?).args(arguments).arg(file).stdin(Stdio::null()).output()?)
}
