//! Calls that the SIP server announces at a node that does not have the devices: it asks the others, and each judges by itself.

use serde_json::{Value, json};
use tests::board::Missed;
use tests::push_phone::{PushPhone, Service};
use tests::redis_server::RedisServer;
use tests::registrar::{Registrar, Settings};
use tests::relay_process::RelayProcess;
use tests::relay_setup::{Ports, Setup};
use tests::scene::{FCM_TOKEN, SOON, Scene, TOKEN, text};
use tests::wire::Transport;

use super::Outcome;

/// A scene, a second node with its store and keyring, and the key of a SIP server that asks the second.
struct Nodes {
    scene: Scene,
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
        let (redis, mut key) = (RedisServer::start(), String::new());
        let scene = Scene::between(
            |server| server.contacts = 2,
            |setup| {
                setup.store = redis.url();
                key = setup.sip_server("pbx-1", &["example.test"]);
            },
        )
        .await?;
        let mut setup = scene.relay.setup().clone();
        setup.ports = Ports::default();
        change(&mut setup);
        Ok(Self { scene, other: RelayProcess::start(setup).await?, key, redis })
    }

    fn wish(&self, wait_ms: u64) -> Value {
        json!({"aor": self.scene.aor(), "wait_ms": wait_ms, "call": {"from": "sip:carol@example.test", "name": "Carol"}})
    }

    /// The status and what the body says at the second node.
    async fn ask(&self, wait_ms: u64) -> Result<(u16, Value), Missed> {
        let answer = self.other.api().wake(&self.key, &self.wish(wait_ms)).await?;
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
    let scene = &nodes.scene;
    let instance = scene.enable().await?;
    let (answer, woken) = tokio::join!(nodes.ask(15_000), async {
        let push = scene.push().await?;
        Ok::<_, Missed>((push, scene.wake(&instance).await?))
    });
    let (push, phone) = woken?;
    assert_eq!(answer?, (200, json!({"awake": 1, "known": 1})), "{}", nodes.other.log());
    assert_eq!((&push["from"], &push["name"]), (&json!("sip:carol@example.test"), &json!("Carol")));
    assert_eq!(text(&push["edge"]), public_edge(&scene.relay), "the node that has it");
    let (caller, call) = scene.answered_at(&phone).await?;
    scene.await_state(&instance, &push, "answered").await?;
    scene.hang_up(&caller, &call).await?;
    assert_eq!(scene.apns.requests(), 1, "one push for one call");

    // It is there already: it is counted without a push.
    assert_eq!(nodes.ask(15_000).await?, (200, json!({"awake": 1, "known": 1})));
    assert_eq!(scene.apns.requests(), 1);
    scene.content_with(&[&caller], &[&phone])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_lent_nothing_is_woken_by_way_of_a_node_that_it_has_not_registered_through() -> Outcome {
    let nodes = Nodes::start().await?;
    let scene = &nodes.scene;
    let phone = scene.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    phone.register_and_sleep(SOON).await?;
    scene.await_metric("sipwake_edge_flows", 0.0).await?;
    let (answer, device) = tokio::join!(nodes.ask(15_000), async {
        assert_eq!(scene.android_push().await?["event"], "call");
        Ok::<_, Missed>(phone.wake(SOON).await?.0)
    });
    let device = device?;
    assert_eq!(answer?, (200, json!({"awake": 1, "known": 1})), "{}", nodes.other.log());
    let (caller, call) = scene.answered_at(&device).await?;
    scene.hang_up(&caller, &call).await?;
    assert_eq!(scene.fcm.count(), 1, "one push for one call");
    scene.content_with(&[&caller], &[&device])
}

#[tokio::test]
async fn the_devices_of_an_address_are_woken_and_counted_at_all_nodes_and_the_first_that_comes_is_enough() -> Outcome {
    let nodes = Nodes::start().await?;
    let scene = &nodes.scene;
    let apple = scene.enable().await?;
    let android = scene.wish_for(json!({"call_push": {"provider": "fcm", "token": FCM_TOKEN}}));
    nodes.other.api().enabled(&android).await?;
    let (answer, phone) = tokio::join!(nodes.ask(15_000), async {
        let (here, there) = (scene.push().await?, scene.android_push().await?);
        assert_eq!(text(&here["edge"]), public_edge(&scene.relay));
        assert_eq!(text(&there["edge"]), public_edge(&nodes.other));
        scene.wake(&apple).await
    });
    assert_eq!(answer?, (200, json!({"awake": 1, "known": 2})), "{}", nodes.other.log());
    // Asked at the other node, it is the same.
    let answer = scene.api.wake(&nodes.key, &nodes.wish(1)).await?;
    assert_eq!((answer.status, answer.json()), (200, json!({"awake": 1, "known": 2})));
    assert_eq!((scene.apns.requests(), scene.fcm.requests()), (1, 1), "nobody is pushed twice");
    drop(phone);
    Ok(())
}

#[tokio::test]
async fn who_declines_at_another_node_or_does_not_come_is_not_waited_for() -> Outcome {
    let nodes = Nodes::start().await?;
    let scene = &nodes.scene;
    assert_eq!(nodes.ask(15_000).await?, (404, json!("unknown-aor")), "no node knows it");
    let instance = scene.enable().await?;
    let (answer, declined) = tokio::join!(nodes.ask(15_000), async {
        let push = scene.push().await?;
        scene.api.decline(&instance, &text(&push["call"])).await.map_err(Missed::from)
    });
    assert_eq!((declined?.status, answer?), (204, (504, json!("no-device-in-time"))));
    let (late, push) = tokio::join!(nodes.ask(300), scene.push());
    assert_eq!((late?.0, &push?["event"]), (504, &json!("call")));
    scene.content()
}

#[tokio::test]
async fn a_device_is_woken_by_whom_its_own_node_believes_and_not_by_whom_the_asked_one_does() -> Outcome {
    let mut generous = String::new();
    let nodes = Nodes::with(|setup| generous = setup.sip_server_at("pbx-2", &["*"], &["localhost"])).await?;
    let scene = &nodes.scene;
    let certified = Some(vec!["example.test".to_owned(), "localhost".to_owned(), "127.0.0.1".to_owned()]);
    let authority = Some(scene.authority.clone());
    let stranger = Settings { domain: "example.test".into(), authority, certified, ..Settings::default() };
    let stranger = Registrar::start(stranger).await?;
    let mut lent = scene.wish(TOKEN);
    let elsewhere = format!("sip:localhost:{};transport=tls", stranger.address(Transport::Tls).port());
    lent["account"]["registrar"] = json!(elsewhere);
    scene.enable_as(&lent).await?;
    // The key is the asked node's alone, and names the stranger's host; then both have the key, and neither names it.
    for key in [&generous, &nodes.key] {
        let answer = nodes.other.api().wake(key, &nodes.wish(1)).await?;
        assert_eq!((answer.status, answer.problem().as_deref()), (404, Some("unknown-aor")), "{}", answer.text());
    }
    assert_eq!(scene.apns.requests(), 0, "the stranger's device was told nothing");
    Ok(())
}

#[tokio::test]
async fn while_a_node_or_the_store_does_not_answer_nobody_is_called_unknown_and_who_is_known_is_woken() -> Outcome {
    let mut nodes = Nodes::start().await?;
    let scene = &nodes.scene;
    let android = scene.wish_for(json!({"call_push": {"provider": "fcm", "token": FCM_TOKEN}}));
    let silent = || json!("owner-away");
    let instance = scene.enable().await?;
    nodes.scene.relay.kill_9().await?;
    assert_eq!(nodes.ask(1).await?, (503, silent()), "it may know some");
    nodes
        .scene
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
    assert_eq!(nodes.scene.android_push().await?["event"], "call");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_of_the_asked_node_and_one_of_another_node_are_both_woken() -> Outcome {
    let nodes = Nodes::start().await?;
    let scene = &nodes.scene;
    let alice = ("alice", "wonderland");
    let edge = nodes.other.edge_uri();
    let registrar = scene.registrar.uri(Transport::Tls);
    let phone = PushPhone::new(&edge, &registrar, &scene.aor(), alice, &scene.authority)
        .woken_by(&Service::Fcm(FCM_TOKEN.to_owned()));
    phone.register_and_sleep(SOON).await?;
    scene.enable().await?;
    let (answer, device) = tokio::join!(nodes.ask(15_000), async {
        scene.push().await?;
        scene.android_push().await?;
        Ok::<_, Missed>(phone.wake(SOON).await?.0)
    });
    let device = device?;
    assert_eq!(answer?, (200, json!({"awake": 1, "known": 2})), "{}", nodes.other.log());
    drop(device);
    Ok(())
}
