//! A Redis that keeps, evicts or forbids: the operator hears of it before and while the relay runs.

use std::time::Duration;

use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::{Ports, Setup};
use tests::world::{OTHER_TOKEN, SOON, TOKEN, World};

use super::Outcome;
use crate::command_line::{said, sipwake};

#[tokio::test]
async fn a_redis_that_keeps_or_evicts_is_named_by_check_and_readyz_and_one_that_forbids_makes_unready() -> Outcome {
    let redis = RedisServer::start_durable();
    redis.ask::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru"));
    let world = World::with(|setup| setup.store = redis.url()).await?;
    let warned = world.until("the warnings in /readyz", || async {
        let text = world.relay.operator().get("/readyz").await.ok().filter(|answer| answer.status == 200)?.text();
        ["append-only", "allkeys-lru"].iter().all(|word| text.contains(word)).then_some(text)
    });
    assert!(warned.await?.contains("\"ready\""));
    let log = world.relay.log();
    assert_eq!(log.matches("append-only").count(), 1, "{log}");
    let check = sipwake(&["check", "--config", world.relay.config().to_str().unwrap_or_default()]);
    for words in ["note: store.url: Redis writes an append-only file", "note: store.url: Redis evicts"] {
        assert!(said(&check).contains(words), "{}", said(&check));
    }

    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    redis.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg("few").arg(&[
        "on",
        ">a-long-password",
        "~*",
        "+@all",
        "-hincrby",
    ]));
    setup.store = redis.url().replace("redis://", "redis://few:a-long-password@");
    let other = RelayProcess::launch(setup)?;
    let unready = world.until("not ready, and why", || async {
        let answer = other.operator().get("/readyz").await.ok().filter(|answer| answer.status == 503)?.text();
        answer.contains("the store refuses").then_some(answer)
    });
    unready.await?;
    assert!(other.log().contains("may not use HINCRBY"), "{}", other.log());
    world.content()
}

#[tokio::test]
async fn with_require_ephemeral_no_account_lies_where_a_disk_keeps_it() -> Outcome {
    let redis = RedisServer::start_durable();
    let world = World::start().await?;
    let mut setup = world.relay.setup().clone();
    (setup.ports, setup.store) = (Ports::default(), redis.url());
    setup.store_lines = "require_ephemeral = true".to_owned();
    let refused = RelayProcess::launch(setup.clone())?;
    let ended = refused.exit(Duration::from_secs(10)).await?;
    assert_eq!(ended.code(), Some(1), "{}", refused.log());
    assert!(refused.log().contains("store.require_ephemeral: Redis writes an append-only file"), "{}", refused.log());

    // One that does not answer at the start, and keeps what it is told when it does.
    redis.freeze();
    let relay = RelayProcess::launch(setup)?;
    relay.await_log("serving", SOON).await?;
    redis.thaw();
    let unready = world.until("not ready, and why", || async {
        let answer = relay.operator().get("/readyz").await.ok().filter(|answer| answer.status == 503)?.text();
        answer.contains("store.require_ephemeral").then_some(())
    });
    unready.await?;
    let answer = relay.api().enable(&world.enable_request(TOKEN)).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
    assert!(answer.text().contains("may write to a disk"), "{}", answer.text());
    assert_eq!(redis.instance_keys(), [] as [String; 0]);
    Ok(())
}

#[tokio::test]
async fn with_require_ephemeral_a_redis_that_takes_over_and_keeps_gets_no_account_from_the_first_on() -> Outcome {
    let (forgets, keeps) = (RedisServer::start(), RedisServer::start_durable());
    let at = |server: &RedisServer| ([127, 0, 0, 1], server.port()).into();
    let mut gate = Gate::closed(at(&forgets));
    gate.open()?;
    let store = format!("redis://{}", gate.address());
    let change = |setup: &mut Setup| (setup.store, setup.store_lines) = (store, "require_ephemeral = true".to_owned());
    let world = World::between(|_| {}, change).await?;
    let instance = world.enable().await?;
    keeps.follow(&forgets);
    keeps.follow_nobody();
    gate.lead_to(at(&keeps)).await?;
    let answer = world.api.enable(&world.enable_request(OTHER_TOKEN)).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
    let accounts = |server: &RedisServer| server.keys().into_iter().filter(|key| key.starts_with("sipwake:i:")).count();
    assert_eq!(accounts(&keeps), 1, "the one that the earlier one had");
    let unready = world.until("not ready, and why", || async {
        let answer = world.relay.operator().get("/readyz").await.ok().filter(|answer| answer.status == 503)?.text();
        answer.contains("store.require_ephemeral").then_some(())
    });
    unready.await?;
    world.whole_call(&instance).await?;
    world.disable(&instance).await?;
    assert_eq!(accounts(&keeps), 0);
    gate.lead_to(at(&forgets)).await?;
    world.await_readiness("ready").await?;
    let instance = world.enable_other().await?;
    world.whole_call(&instance).await?;
    world.content()
}

#[tokio::test]
async fn a_redis_that_refuses_is_not_said_to_be_silent() -> Outcome {
    let redis = RedisServer::start();
    let world = World::with(|setup| setup.store = redis.url()).await?;
    let says = async |words: &str| {
        let look = || async {
            let ready = world.relay.operator().get("/readyz").await.ok()?.text();
            ready.contains(words).then_some(())
        };
        world.until(words, look).await
    };
    redis.ask::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1"));
    says("store: the store is full (OOM): give it more memory (maxmemory); known phones still ring").await?;
    redis.ask::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0"));
    says("\"status\":\"ready\"").await?;
    // A lease can be had without it, and nothing else.
    redis.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg("default").arg("-get").arg("-mget").arg("-hmget"));
    says("store: the store refuses what the relay needs (NOPERM)").await?;
    redis.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg("default").arg("+@all"));
    says("\"status\":\"ready\"").await?;
    // Nothing but a change needs it, and the first one that is refused has it told.
    redis.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg("default").arg("-evalsha"));
    let answer = world.api.enable(&world.enable_request(TOKEN)).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
    says("its Redis user may not use EVALSHA").await?;
    world.relay.await_log("may not use EVALSHA", SOON).await?;
    redis.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg("default").arg("+@all"));
    says("\"status\":\"ready\"").await?;
    world.enable().await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_has_all_its_clients_is_named_in_readyz_the_log_and_check() -> Outcome {
    let redis = RedisServer::start();
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    gate.open()?;
    let store = format!("redis://{}", gate.address());
    let world = World::between(|_| {}, |setup| setup.store = store).await?;
    redis.ask::<()>(redis::cmd("CONFIG").arg("SET").arg("maxclients").arg(8));
    gate.close();
    let alone = || async {
        redis.ask::<String>(redis::cmd("INFO").arg("clients")).contains("connected_clients:1\r").then_some(())
    };
    world.until("the relay's connections gone", alone).await?;
    let at = ("127.0.0.1", redis.port());
    let held: Vec<_> = (0..12).map(|_| std::net::TcpStream::connect(at).expect("connected")).collect();
    // Its port is free when the runtime has let go of it.
    while gate.open().is_err() {
        tokio::task::yield_now().await;
    }
    let named = world.until("why it is not ready", || async {
        let ready = world.relay.operator().get("/readyz").await.ok()?.text();
        ready.contains("the store takes no further connection (maxclients): raise maxclients").then_some(())
    });
    named.await?;
    world.relay.await_log("it refused with MAXCLIENTS", SOON).await?;
    let check = sipwake(&["check", "--config", world.relay.config().to_str().unwrap_or_default()]);
    assert!(said(&check).contains("raise maxclients"), "{}", said(&check));
    drop(held);
    world.await_readiness("ready").await.map(drop)
}
