//! `sipwake instances`, as an operator uses it.

use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tests::board::Missed;
use tests::push_phone::Service;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::scratch::Scratch;
use tests::world::{FCM_TOKEN, SOON, TOKEN, World};
use tokio::task::JoinSet;

use super::{said, sipwake, sipwake_hears, sipwake_without_room};

type Outcome = tests::world::Outcome;

/// The operator of the world's relay.
struct Operator {
    files: Scratch,
    url: String,
    ca: String,
    token: String,
}

impl Operator {
    fn of(world: &World) -> Self {
        Self::at(world, &world.relay)
    }

    /// The same, who asks this node.
    fn at(world: &World, relay: &RelayProcess) -> Self {
        let files = Scratch::new();
        let token = files.file("token", &relay.setup().operator_token).display().to_string();
        let url = format!("https://{}", relay.operator_address());
        Self { files, url, ca: world.authority.ca_file().display().to_string(), token }
    }

    fn runs(&self, action: &[&str]) -> Output {
        let at = ["--operator", &self.url, "--token-file", &self.token, "--ca", &self.ca];
        sipwake(&[&["instances"], action, &at].concat())
    }

    /// The same, where what goes to `full` finds no room.
    fn runs_without_room(&self, action: &[&str], full: &[&str]) -> Output {
        let at = ["--operator", &self.url, "--token-file", &self.token, "--ca", &self.ca];
        sipwake_without_room(&[&["instances"], action, &at].concat(), full)
    }

    /// What it prints; it must end with 0.
    fn prints(&self, action: &[&str]) -> String {
        let output = self.runs(action);
        assert_eq!(output.status.code(), Some(0), "{action:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn json(&self, action: &[&str]) -> Value {
        serde_json::from_str(&self.prints(action)).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_listed_shown_exported_and_wiped_without_telling_whose_they_are() -> Outcome {
    let world = World::start().await?;
    let operator = Operator::of(&world);
    assert_eq!(operator.prints(&["list"]).lines().count(), 1, "the columns alone");
    assert_eq!(operator.json(&["list", "--json"]), json!([]));
    let (one, two) = (world.enable().await?, world.enable_android().await?);

    let table = operator.prints(&["list"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    for id in [&one.id, &two.id] {
        let line = table.lines().find(|line| line.starts_with(id.as_str())).unwrap_or_default();
        assert!(line.contains("com.example.phone") && line.contains("registered 200"), "{table}");
    }
    let listed = operator.json(&["list", "--json"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(2));

    let shown = operator.prints(&["show", &one.id]);
    assert!(shown.contains(&format!("instance: {}", one.id)) && shown.contains("state: active"), "{shown}");
    assert_eq!(operator.json(&["show", &one.id, "--json"])["instance"], json!(one.id));
    let export = operator.json(&["export", &two.id]);
    assert_eq!((&export["instance"], &export["presence"]), (&json!(two.id), &json!("background")));

    for printed in [table, listed.to_string(), shown, export.to_string()] {
        for secret in ["alice", "wonderland", TOKEN, FCM_TOKEN, &one.secret, &two.secret] {
            assert!(!printed.contains(secret), "{secret}: {printed}");
        }
    }

    let receipt = operator.prints(&["wipe", &one.id]);
    assert!(receipt.contains("reason: operator") && receipt.contains("signature: "), "{receipt}");
    world.await_gone(&one).await?;
    // The account's last device: now it is unregistered.
    let receipt = operator.json(&["wipe", &two.id, "--json"]);
    assert_eq!((&receipt["reason"], &receipt["unregistered"]), (&json!("operator"), &json!(true)));
    world.await_contacts(0).await?;
    world.content()
}

/// A world, and a second node with its store.
async fn two_nodes(redis: &RedisServer) -> Result<(World, RelayProcess), Missed> {
    let world = World::between(|server| server.contacts = 2, |setup| setup.store = redis.url()).await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    Ok((world, other))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_names_a_dead_node_until_all_that_it_had_is_in_the_list() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    let ids = [world.enable().await?.id, world.enable_android().await?.id];
    world.relay.kill_9().await?;
    let begun = Instant::now();
    let (mut asking, mut is_whole) = (JoinSet::new(), false);
    while !is_whole && begun.elapsed() < SOON {
        let (operator, token) = (other.operator(), other.setup().operator_token.clone());
        asking.spawn(async move { operator.json("GET", "/v1/operator/instances", Some(&token), None).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        while let Some(Ok(answer)) = asking.try_join_next() {
            let page = answer?.json();
            let seen = ids.iter().filter(|id| page.to_string().contains(id.as_str())).count();
            assert!(seen == ids.len() || page["silent"].is_array(), "{page}");
            is_whole |= seen == ids.len() && page["silent"].is_null();
        }
    }
    assert!(is_whole);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wipe_of_all_waits_for_what_a_dead_node_has_left_and_never_says_that_there_is_none() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    world.enable().await?;
    world.enable_android().await?;
    world.relay.kill_9().await?;
    // Its lease is over, and nobody has taken over yet what it had.
    let lease = format!("sipwake:lease:{}:{}", world.relay.setup().edge_ip, world.relay.setup().ports.edge);
    world.until("the end of its lease", || async { (!redis.keys().contains(&lease)).then_some(()) }).await?;
    let operator = Operator::at(&world, &other);
    let listed = operator.runs(&["list"]);
    assert!(said(&listed).contains("incomplete: the node"), "{}", said(&listed));
    let wiped = operator.runs(&["wipe", "--app", "com.example.phone", "--yes"]);
    assert_eq!(wiped.status.code(), Some(0), "{}", said(&wiped));
    assert!(said(&wiped).contains("2 of 2 wiped"), "{}", said(&wiped));
    // Where the other node had not taken over yet what it wiped, the dead one is told by name, should it come back.
    let told = |key: &String| key.starts_with("sipwake:ended:");
    let left = || redis.instance_keys().into_iter().filter(|key| !told(key)).collect::<Vec<_>>();
    world.until("an empty store", || async { left().is_empty().then_some(()) }).await?;
    world.await_contacts(0).await.map(drop)
}

/// A registration that passed through (RFC 8599), on its phone that sleeps.
async fn passed_through(world: &World) -> Result<String, Missed> {
    let phone = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    let learned = phone.register_and_sleep(SOON).await?;
    learned.purr.ok_or_else(|| Missed::new("a PURR", "none"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_passed_through_is_seen_and_wiped_like_any_other() -> Outcome {
    let world = World::between(|server| server.contacts = 2, |_| {}).await?;
    let operator = Operator::of(&world);
    let (lent, passed) = (world.enable().await?.id, passed_through(&world).await?);
    let listed = operator.json(&["list", "--json"]);
    let kinds = |all: &Value| {
        let one = |one: &Value| (one["instance"].as_str().unwrap_or_default().to_owned(), one["kind"].clone());
        all.as_array().into_iter().flatten().map(one).collect::<std::collections::BTreeMap<_, _>>()
    };
    let expected = [(lent.clone(), json!("lent")), (passed.clone(), json!("passed-through"))];
    assert_eq!(kinds(&listed), expected.into_iter().collect());
    let alone =
        operator.json(&["list", "--kind", "passed-through", "--push", "fcm", "--state", "registered", "--json"]);
    assert!(kinds(&alone).into_keys().eq([passed.clone()]));
    let shown = operator.json(&["show", &passed, "--json"]);
    assert_eq!((&shown["app"], &shown["registration"]["state"]), (&json!("com.example.phone"), &json!("registered")));
    let export = operator.json(&["export", &passed]);
    assert_eq!((&export["instance"], &export["kind"]), (&json!(passed), &json!("passed-through")));
    assert!(!export.to_string().contains("alice") && !export.to_string().contains(FCM_TOKEN));

    let receipt = operator.json(&["wipe", &passed, "--json"]);
    assert_eq!((&receipt["reason"], &receipt["unregistered"]), (&json!("operator"), &json!(false)));
    assert!(receipt["signature"].is_string(), "{receipt}");
    assert_eq!(kinds(&operator.json(&["list", "--json"])).into_keys().collect::<Vec<_>>(), [lent]);
    world.await_metric("sipwake_push_registrations", 0.0).await?;
    assert!(said(&operator.runs(&["show", &passed])).contains("404"));
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_found_by_the_aor_which_never_leaves_the_command_and_is_wiped_once_somebody_says_yes() -> Outcome {
    let world = World::between(|server| server.contacts = 2, |setup| setup.log = "trace".to_owned()).await?;
    let operator = Operator::of(&world);
    let (one, two, passed) =
        (world.enable().await?.id, world.enable_android().await?.id, passed_through(&world).await?);
    let at = ["--operator", &operator.url, "--token-file", &operator.token, "--ca", &operator.ca];
    let hears = |action: &[&str], input: &str| sipwake_hears(&[&["instances"], action, &at].concat(), input);
    let aor = world.aor();
    let mut all = [one.clone(), two.clone(), passed.clone()];
    all.sort();
    for input in [aor.clone(), format!("{aor}\n"), aor.replace("sip:", ""), aor.replace("sip:", "SIP:")] {
        let found = hears(&["find", "--json"], &input);
        assert_eq!(found.status.code(), Some(0), "{}", said(&found));
        let found: Value = serde_json::from_slice(&found.stdout).unwrap_or_default();
        let mut ids: Vec<_> =
            found.as_array().into_iter().flatten().map(|one| one["instance"].as_str().unwrap_or_default()).collect();
        ids.sort_unstable();
        assert_eq!(ids, all, "{input}");
    }
    let nobody = hears(&["find"], "sip:nobody@example.test");
    assert_eq!((nobody.status.code(), nobody.stdout.iter().filter(|byte| **byte == b'\n').count()), (Some(0), 1));
    let wrong = hears(&["find"], "no address\n");
    assert!(wrong.status.code() == Some(1) && said(&wrong).contains("no AOR"), "{}", said(&wrong));
    assert!(!world.relay.log().contains("alice"), "the log knows nobody");

    // Nobody is there to be asked, and nobody said yes: nothing is done.
    for action in
        [&["wipe", "--app", "com.example.phone"][..], &["wipe", "--domain", "example.test"], &["wipe", &one, &two]]
    {
        let refused = operator.runs(action);
        assert_eq!(refused.status.code(), Some(1), "{action:?}");
        assert!(said(&refused).contains("nobody said yes"), "{}", said(&refused));
    }
    assert_eq!(operator.json(&["list", "--json"]).as_array().map(Vec::len), Some(3));
    assert!(said(&operator.runs(&["wipe", "--app", "com.example.other", "--yes"])).contains("nothing was wiped"));
    assert!(said(&operator.runs(&["wipe", "--domain", "example.org", "--yes"])).contains("nothing was wiped"));
    assert_eq!(
        operator
            .json(&["list", "--domain", "Example.test", "--app", "com.example.phone", "--json"])
            .as_array()
            .map(Vec::len),
        Some(3)
    );

    let half = hears(&["wipe", "--aor", "--yes"], &format!("{aor}\nno address\n"));
    assert!(half.status.code() == Some(1) && said(&half).contains("line 2"), "{}", said(&half));
    assert_eq!(
        operator.json(&["list", "--json"]).as_array().map(Vec::len),
        Some(3),
        "a list is done whole or not at all"
    );
    let wiped = hears(&["wipe", "--aor", "--yes", "--json"], &format!("sip:nobody@example.test\n\n{aor}\n"));
    assert!(said(&wiped).contains("line 1 of the standard input: there is no instance"), "{}", said(&wiped));
    assert_eq!(wiped.status.code(), Some(0), "{}", said(&wiped));
    assert!(said(&wiped).contains("3 of 3 wiped"), "{}", said(&wiped));
    let receipts: Vec<Value> =
        String::from_utf8_lossy(&wiped.stdout).lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(receipts.len(), 3);
    assert!(receipts.iter().all(|receipt| receipt["reason"] == "operator" && receipt["signature"].is_string()));
    assert_eq!(operator.json(&["list", "--json"]), json!([]));
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_registers_by_an_address_with_a_port_is_found_woken_and_wiped_by_either() -> Outcome {
    let mut key = String::new();
    let world = World::between(
        |server| server.domain = "127.0.0.1".to_owned(),
        |setup| key = setup.sip_server("pbx-1", &["127.0.0.1"]),
    )
    .await?;
    let operator = Operator::of(&world);
    let at = ["--operator", &operator.url, "--token-file", &operator.token, "--ca", &operator.ca];
    let hears = |action: &[&str], input: &str| sipwake_hears(&[&["instances"], action, &at].concat(), input);
    let mut phone = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    let through = phone.settings.through.as_ref().map(|through| through.registrar.clone()).unwrap_or_default();
    let port = through.trim_start_matches("sip:127.0.0.1:").split(';').next().unwrap_or_default();
    let (bare, written) = (world.aor(), format!("{}:{port}", world.aor()));
    phone.settings.aor = written.clone();
    for address in [&bare, &written] {
        let id = phone.register_and_sleep(SOON).await?.purr.unwrap_or_default();
        for asked in [&bare, &written] {
            let found = hears(&["find", "--json"], asked);
            let found: Value = serde_json::from_slice(&found.stdout).unwrap_or_default();
            assert_eq!(found.as_array().map(Vec::len), Some(1), "{asked}: {found}");
            assert_eq!(found[0]["instance"], json!(id), "{asked}");
        }
        // It is known, and does not come.
        let wake = json!({"aor": address, "wait_ms": 1, "call": {"from": "sip:bob@example.com"}});
        assert_eq!(world.relay.api().wake(&key, &wake).await?.status, 504, "{address}");
        let others = format!("{bare}:9");
        let none = hears(&["wipe", "--aor", "--yes"], &others);
        assert!(said(&none).contains("nothing was wiped"), "another server's account: {}", said(&none));
        let wiped = hears(&["wipe", "--aor", "--yes"], address);
        assert!(said(&wiped).contains("1 of 1 wiped"), "{address}: {}", said(&wiped));
        assert_eq!(operator.json(&["list", "--json"]), json!([]), "{address}");
    }
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_has_not_erased_is_not_called_wiped() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let ids = [world.enable().await?.id, world.enable_android().await?.id];
    let may_erase = |right: &str| redis.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg("default").arg(right));
    may_erase("-del");
    let operator = Operator::of(&world);
    let wiping = operator.runs(&["wipe", "--app", "com.example.phone", "--yes"]);
    assert_eq!(wiping.status.code(), Some(1), "{}", said(&wiping));
    for told in ["0 of 2 wiped", "2 being wiped, and not erased yet"] {
        assert!(said(&wiping).contains(told), "{}", said(&wiping));
    }
    let printed = String::from_utf8_lossy(&wiping.stdout).into_owned();
    assert!(ids.iter().all(|id| printed.contains(&format!("{id}  wiping\n"))), "{printed}");
    let single = operator.runs(&["wipe", &ids[0], "--yes"]);
    assert_eq!(single.status.code(), Some(1), "{}", said(&single));

    may_erase("+del");
    let erased = || async { redis.instance_keys().is_empty().then_some(()) };
    world.until("an empty store", erased).await?;
    let [one, two] = &ids;
    let receipts = || async {
        let wiped = operator.runs(&["wipe", one, two, "--yes"]);
        (wiped.status.code() == Some(0) && said(&wiped).contains("2 of 2 wiped")).then_some(())
    };
    world.until("the receipts", receipts).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wipe_goes_on_to_its_end_where_its_receipts_cannot_be_printed_and_says_them_elsewhere() -> Outcome {
    let world = World::between(|server| server.contacts = 2, |_| {}).await?;
    let operator = Operator::of(&world);
    let all = ["wipe", "--app", "com.example.phone", "--yes"];
    for (more, full, code) in [
        (&[][..], &["stdout"][..], 1),
        (&["--json"], &["stdout"], 1),
        (&[], &["stderr"], 0),
        (&[], &["stdout", "stderr"], 1),
    ] {
        let ids = [world.enable().await?.id, world.enable_android().await?.id];
        let wiped = operator.runs_without_room(&[&all, more].concat(), full);
        assert_eq!(operator.json(&["list", "--json"]), json!([]), "{full:?}");
        assert_eq!(wiped.status.code(), Some(code), "{full:?}: {}", said(&wiped));
        let told = said(&wiped);
        if full == ["stdout"] {
            for part in ["2 of 2 wiped", "it was done", &ids[0], &ids[1]] {
                assert!(told.contains(part), "{part}: {told}");
            }
        }
    }
    let id = world.enable().await?.id;
    let single = operator.runs_without_room(&["wipe", &id], &["stdout"]);
    assert_eq!(single.status.code(), Some(1));
    assert!(said(&single).contains("signature: ") && said(&single).contains("it was done"), "{}", said(&single));
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_relays_machine_its_configuration_is_enough() -> Outcome {
    let world = World::start().await?;
    let one = world.enable().await?.id;
    let config = world.relay.config().display().to_string();
    let listed = sipwake(&["instances", "list", "--config", &config]);
    assert_eq!(listed.status.code(), Some(0), "{}", said(&listed));
    assert!(String::from_utf8_lossy(&listed.stdout).contains(&one));
    let nameless =
        sipwake(&["instances", "list", "--operator", &format!("https://{}", world.relay.operator_address())]);
    assert_eq!(nameless.status.code(), Some(1));
    assert!(said(&nameless).contains("no token: name a --token-file"), "{}", said(&nameless));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_gets_wrong_is_said_and_ends_with_1() -> Outcome {
    let world = World::start().await?;
    let mut operator = Operator::of(&world);
    for (action, why) in [
        (["show", "pi_aaaaaaaaaaaaaaaaaaaaaaaaaa"], "the relay refused with 404: There is no such push instance"),
        (["wipe", "../../healthz"], "the relay refused with 404"),
        (["export", "x"], "the relay refused with 404"),
    ] {
        let output = operator.runs(&action);
        assert_eq!(output.status.code(), Some(1), "{action:?}");
        assert!(said(&output).contains(why), "{action:?}: {}", said(&output));
    }
    operator.token = operator.files.file("wrong", "another-token-0123456789").display().to_string();
    let output = operator.runs(&["list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("refused with 401"), "{}", said(&output));
    assert!(!said(&output).contains("another-token"), "{}", said(&output));
    operator.token = "/nonexistent/token".to_owned();
    assert!(said(&operator.runs(&["list"])).contains("/nonexistent/token cannot be read"));
    assert_eq!(sipwake(&["instances"]).status.code(), Some(2), "bad usage");
    Ok(())
}
