//! Calls that the SIP server announces at a node that does not have the devices: it asks the others, and each judges by itself.

use serde_json::{Value, json};
use tests::board::Missed;
use tests::gate::Gate;
use tests::push_phone::Service;
use tests::redis_server::RedisServer;
use tests::registrar::{Registrar, Settings};
use tests::relay_process::RelayProcess;
use tests::relay_setup::{Ports, Setup};
use tests::wire::Transport;
use tests::world::{FCM_TOKEN, SOON, TOKEN, World, text};

use super::Outcome;

/// A world, a second node with its store and keyring, and the key of a SIP server that asks the second.
struct Nodes {
    world: World,
    other: RelayProcess,
    key: String,
    redis: RedisServer,
}

impl Nodes {
    async fn start() -> Result<Self, Missed> {
        Self::with(|_| {}).await
    }

    /// With another configuration of the second node.
    async fn with(change: impl FnOnce(&mut Setup)) -> Result<Self, Missed> {
        Self::over(RedisServer::start(), change).await
    }

    async fn over(redis: RedisServer, change: impl FnOnce(&mut Setup)) -> Result<Self, Missed> {
        let mut key = String::new();
        let world = World::between(
            |server| server.contacts = 2,
            |setup| {
                setup.store = redis.url();
                key = setup.sip_server("pbx-1", &["example.test"]);
            },
        )
        .await?;
        let mut setup = world.relay.setup().clone();
        setup.ports = Ports::default();
        change(&mut setup);
        Ok(Self { world, other: RelayProcess::start(setup).await?, key, redis })
    }

    fn enable_request(&self, wait_ms: u64) -> Value {
        json!({"aor": self.world.aor(), "wait_ms": wait_ms, "call": {"from": "sip:carol@example.test", "name": "Carol"}})
    }

    /// The status and what the body says at the second node.
    async fn ask(&self, wait_ms: u64) -> Result<(u16, Value), Missed> {
        let answer = self.other.api().wake(&self.key, &self.enable_request(wait_ms)).await?;
        let told = answer.problem().map_or_else(|| answer.json(), Value::from);
        Ok((answer.status, told))
    }
}

fn public_edge(node: &RelayProcess) -> String {
    format!("127.0.0.1:{}", node.setup().ports.edge)
}

#[tokio::test]
async fn a_lent_account_of_another_node_is_woken_and_its_device_gets_the_announced_call_without_a_second_push()
-> Outcome {
    let nodes = Nodes::start().await?;
    let world = &nodes.world;
    let instance = world.enable().await?;
    let (answer, woken) = tokio::join!(nodes.ask(15_000), async {
        let push = world.push().await?;
        Ok::<_, Missed>((push, world.wake(&instance).await?))
    });
    let (push, phone) = woken?;
    assert_eq!(answer?, (200, json!({"awake": 1, "known": 1})), "{}", nodes.other.log());
    assert_eq!((&push["from"], &push["name"]), (&json!("sip:carol@example.test"), &json!("Carol")));
    assert_eq!(text(&push["edge"]), public_edge(&world.relay), "the node that has it");
    let (caller, call) = world.answered_at(&phone).await?;
    world.await_state(&instance, &push, "answered").await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!(world.apns.requests(), 1, "one push for one call");

    // It is there already: it is counted without a push.
    assert_eq!(nodes.ask(15_000).await?, (200, json!({"awake": 1, "known": 1})));
    assert_eq!(world.apns.requests(), 1);
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_lent_nothing_is_woken_by_way_of_a_node_that_it_has_not_registered_through() -> Outcome {
    let nodes = Nodes::start().await?;
    let world = &nodes.world;
    let phone = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    phone.register_and_sleep(SOON).await?;
    world.await_all_asleep().await?;
    let (answer, device) = tokio::join!(nodes.ask(15_000), async {
        assert_eq!(world.android_push().await?["event"], "call");
        world.wake(&phone).await
    });
    let device = device?;
    assert_eq!(answer?, (200, json!({"awake": 1, "known": 1})), "{}", nodes.other.log());
    let (caller, call) = world.answered_at(&device).await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!(world.fcm.count(), 1, "one push for one call");
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_of_another_node_rings_no_longer_than_its_own_when_the_sip_server_gives_up_before_an_answer() -> Outcome
{
    let nodes = Nodes::start().await?;
    let world = &nodes.world;
    world.enable_android().await?;
    // The connection ends with the request.
    let push = tokio::select! {
        answer = nodes.ask(29_000) => panic!("nobody has come: {answer:?}"),
        push = world.android_push() => push?,
    };
    ends_soon(world, &push).await
}

/// The call that is pushed is over, long before the SIP server's time.
async fn ends_soon(world: &World, pushed: &Value) -> Outcome {
    let ended = loop {
        let push = world.android_push().await?;
        // The call's own may be sent twice, and that it was missed may arrive first.
        if push["event"] != "call" && push["event"] != "missed-call" {
            break push;
        }
    };
    assert_eq!((&ended["event"], &ended["call"]), (&json!("call-ended"), &pushed["call"]));
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_rings_no_longer_when_the_node_that_its_sip_server_has_asked_leaves() -> Outcome {
    let nodes = Nodes::start().await?;
    let world = &nodes.world;
    world.enable_android().await?;
    let (answer, push) = tokio::join!(nodes.ask(29_000), async {
        let push = world.android_push().await?;
        nodes.other.terminate(SOON).await?;
        Ok::<_, Missed>(push)
    });
    assert_eq!(answer?.0, 503);
    ends_soon(world, &push?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_rings_no_longer_when_the_asked_node_does_not_reach_the_store_as_the_sip_server_gives_up() -> Outcome {
    let redis = RedisServer::start();
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    gate.open()?;
    let through = format!("redis://{}", gate.address());
    let nodes = Nodes::over(redis, |setup| setup.store = through).await?;
    let world = &nodes.world;
    world.enable_android().await?;
    let push = tokio::select! {
        answer = nodes.ask(29_000) => panic!("nobody has come: {answer:?}"),
        push = world.android_push() => {
            gate.close();
            push?
        }
    };
    nodes.other.await_log("lease-not-renewed", SOON).await?;
    gate.open()?;
    ends_soon(world, &push).await
}

/// It names a node again with that one's next renewal.
#[tokio::test]
async fn nobody_is_called_unknown_by_a_store_that_has_just_lost_which_nodes_there_are() -> Outcome {
    let nodes = Nodes::start().await?;
    nodes.world.enable().await?;
    nodes.redis.ask::<()>(&redis::cmd("FLUSHALL"));
    let (status, told) = nodes.ask(1).await?;
    assert_ne!(status, 404, "{told}");
    nodes.world.content()
}

#[tokio::test]
async fn the_devices_of_an_address_are_woken_and_counted_at_all_nodes_and_the_first_that_comes_is_enough() -> Outcome {
    let nodes = Nodes::start().await?;
    let world = &nodes.world;
    let apple = world.enable().await?;
    // Without a Contact of its own it would be enabled where the first one is.
    let mut android = world.android_enable_request(FCM_TOKEN);
    android["account"]["outbound_proxy"] = android["account"]["registrar"].clone();
    nodes.other.api().enabled(&android).await?;
    let (answer, phone) = tokio::join!(nodes.ask(15_000), async {
        let (here, there) = (world.push().await?, world.android_push().await?);
        assert_eq!(text(&here["edge"]), public_edge(&world.relay));
        assert_eq!(text(&there["edge"]), public_edge(&nodes.other));
        world.wake(&apple).await
    });
    assert_eq!(answer?, (200, json!({"awake": 1, "known": 2})), "{}", nodes.other.log());
    // Asked at the other node, it is the same.
    let answer = world.api.wake(&nodes.key, &nodes.enable_request(1)).await?;
    assert_eq!((answer.status, answer.json()), (200, json!({"awake": 1, "known": 2})));
    assert_eq!((world.apns.requests(), world.fcm.requests()), (1, 1), "nobody is pushed twice");
    drop(phone);
    Ok(())
}

#[tokio::test]
async fn from_the_death_of_a_node_until_its_accounts_are_taken_over_none_of_them_is_called_unknown() -> Outcome {
    let nodes = Nodes::start().await?;
    nodes.world.enable().await?;
    nodes.world.relay.kill_9().await?;
    let begun = std::time::Instant::now();
    let (mut asking, mut told) = (tokio::task::JoinSet::new(), Vec::new());
    // Whoever finds it has it woken, and does not wait for it.
    while !told.contains(&504) && begun.elapsed() < SOON {
        let (api, key, request) = (nodes.other.api(), nodes.key.clone(), nodes.enable_request(1));
        asking.spawn(async move { api.wake(&key, &request).await.map_or(0, |answer| answer.status) });
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        while let Some(Ok(status)) = asking.try_join_next() {
            told.push(status);
        }
    }
    // One address may be asked for so often, and no more.
    assert!(told.contains(&504) && told.iter().all(|status| [429, 503, 504].contains(status)), "{told:?}");
    let stranger = json!({"aor": nodes.world.aor().replace("alice", "nobody"), "wait_ms": 1});
    let answer = nodes.other.api().wake(&nodes.key, &stranger).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (404, Some("unknown-aor")), "{}", answer.text());
    Ok(())
}

#[tokio::test]
async fn who_declines_at_another_node_or_does_not_come_is_not_waited_for() -> Outcome {
    let nodes = Nodes::start().await?;
    let world = &nodes.world;
    assert_eq!(nodes.ask(15_000).await?, (404, json!("unknown-aor")), "no node knows it");
    let instance = world.enable().await?;
    let (answer, declined) = tokio::join!(nodes.ask(15_000), async {
        let push = world.push().await?;
        world.api.decline(&instance, &text(&push["call"])).await.map_err(Missed::from)
    });
    assert_eq!((declined?.status, answer?), (204, (504, json!("no-device-in-time"))));
    let (late, push) = tokio::join!(nodes.ask(300), world.push());
    assert_eq!((late?.0, &push?["event"]), (504, &json!("call")));
    world.content()
}

#[tokio::test]
async fn an_app_that_is_opened_at_another_node_or_a_node_that_leaves_is_not_waited_for() -> Outcome {
    let nodes = Nodes::start().await?;
    let world = &nodes.world;
    let instance = world.enable().await?;
    let (answer, changed) = tokio::join!(nodes.ask(15_000), async {
        world.push().await?;
        world.api.change(&instance, &json!({"presence": "foreground"})).await.map_err(Missed::from)
    });
    assert_eq!((changed?.status, answer?), (200, (404, json!("unknown-aor"))));
    world.change(&instance, json!({"presence": "background"})).await?;
    // Where the second node has taken the device over before it looks for its own, it waits for that.
    let (answer, ended) = tokio::join!(nodes.ask(15_000), async {
        world.push().await?;
        world.relay.terminate(SOON * 4).await
    });
    assert_eq!(answer?, (503, json!("owner-away")), "its SIP server goes on as without a relay");
    ended?;
    Ok(())
}

#[tokio::test]
async fn a_node_that_dies_is_waited_for_no_longer_than_its_lease() -> Outcome {
    let nodes = Nodes::start().await?;
    let world = &nodes.world;
    world.enable().await?;
    let (answer, killed) = tokio::join!(nodes.ask(30_000), async {
        world.push().await?;
        world.relay.kill_9().await
    });
    killed?;
    assert_eq!(answer?, (503, json!("owner-away")), "its SIP server asks again, and the next owner wakes it");
    Ok(())
}

#[tokio::test]
async fn a_device_is_woken_by_whom_its_own_node_believes_and_not_by_whom_the_asked_one_does() -> Outcome {
    let mut generous = String::new();
    let nodes = Nodes::with(|setup| generous = setup.sip_server_at("pbx-2", &["*"], &["localhost"])).await?;
    let world = &nodes.world;
    let certified = Some(vec!["example.test".to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()]);
    let authority = Some(world.authority.clone());
    let stranger = Settings { domain: "example.test".into(), authority, certified, ..Settings::default() };
    let stranger = Registrar::start(stranger).await?;
    let mut lent = world.enable_request(TOKEN);
    let elsewhere = format!("sip:localhost:{};transport=tls", stranger.address(Transport::Tls).port());
    lent["account"]["registrar"] = json!(elsewhere);
    world.enable_as(&lent).await?;
    // The key is the asked node's alone, and names the stranger's host; then both have the key, and neither names it.
    for key in [&generous, &nodes.key] {
        let answer = nodes.other.api().wake(key, &nodes.enable_request(1)).await?;
        assert_eq!((answer.status, answer.problem().as_deref()), (404, Some("unknown-aor")), "{}", answer.text());
    }
    assert_eq!(world.apns.requests(), 0, "the stranger's device was told nothing");
    Ok(())
}

#[tokio::test]
async fn while_a_node_or_the_store_does_not_answer_nobody_is_called_unknown_and_who_is_known_is_woken() -> Outcome {
    let mut nodes = Nodes::start().await?;
    let world = &nodes.world;
    let android = world.android_enable_request(FCM_TOKEN);
    let silent = || json!("owner-away");
    let instance = world.enable().await?;
    nodes.world.relay.kill_9().await?;
    assert_eq!(nodes.ask(1).await?, (503, silent()), "it may know some");
    nodes
        .world
        .until("the other node has taken it over", || async {
            let seen = nodes.other.api().read(&instance).await.ok()?.json();
            (seen["registration"]["state"] == "registered").then_some(())
        })
        .await?;
    nodes.other.api().enabled(&android).await?;
    nodes.redis.stop();
    let stranger = json!({"aor": "sip:nobody@example.test", "wait_ms": 1});
    let answer = nodes.other.api().wake(&nodes.key, &stranger).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("owner-away")));
    assert_eq!(nodes.ask(1).await?.0, 504, "its own devices are woken as ever");
    assert_eq!(nodes.world.android_push().await?["event"], "call");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_of_the_asked_node_and_one_of_another_node_are_both_woken() -> Outcome {
    let nodes = Nodes::start().await?;
    let world = &nodes.world;
    let mut phone = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    phone.settings.server = nodes.other.edge_uri();
    phone.register_and_sleep(SOON).await?;
    world.enable().await?;
    let (answer, device) = tokio::join!(nodes.ask(15_000), async {
        world.push().await?;
        world.android_push().await?;
        world.wake(&phone).await
    });
    let device = device?;
    assert_eq!(answer?, (200, json!({"awake": 1, "known": 2})), "{}", nodes.other.log());
    drop(device);
    Ok(())
}

/// Its node waits for it in vain: it is not the one that has woken it.
#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_is_woken_by_one_node_and_comes_to_another_one_is_awake() -> Outcome {
    let nodes = Nodes::start().await?;
    let world = &nodes.world;
    let phone = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    phone.register_and_sleep(SOON).await?;
    world.await_all_asleep().await?;
    let mut elsewhere = phone.clone();
    elsewhere.settings.server = nodes.other.edge_uri();
    let (answer, device) = tokio::join!(nodes.ask(15_000), async {
        assert_eq!(world.android_push().await?["event"], "call");
        world.wake(&elsewhere).await
    });
    let _device = device?;
    assert_eq!(answer?, (200, json!({"awake": 1, "known": 1})), "{}", nodes.other.log());
    let (first, answer) = (&world.relay, nodes.enable_request(15_000));
    let answer = first.api().wake(&nodes.key, &answer).await?;
    assert_eq!((answer.status, answer.json()), (200, json!({"awake": 1, "known": 1})));
    Ok(())
}
