//! Two nodes with one store: what one of them ends, the other lets go of.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sip::message::Name;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::push_phone::Service;
use tests::redis_server::RedisServer;
use tests::registrar;
use tests::registrar::{RegisterSeen, Settings};
use tests::relay_process::RelayProcess;
use tests::relay_setup::{Ports, Setup};
use tests::world::{FCM_TOKEN, OTHER_TOKEN, SOON, TOKEN, World};

use super::Outcome;

/// A world, and a second node with its store and its keyring.
async fn two_nodes(redis: &RedisServer) -> Result<(World, RelayProcess), Missed> {
    two_nodes_with(redis, |_| {}).await
}

/// The same, both of them changed.
pub(super) async fn two_nodes_with(
    redis: &RedisServer,
    change: fn(&mut Setup),
) -> Result<(World, RelayProcess), Missed> {
    let sip_server = |server: &mut Settings| {
        server.contacts = 2;
        server.users.insert("carol".to_owned(), "carols-password".to_owned());
    };
    nodes_between(redis, sip_server, change).await
}

/// The same, with a SIP server of its own.
pub(super) async fn nodes_between(
    redis: &RedisServer,
    sip_server: impl FnOnce(&mut Settings),
    change: fn(&mut Setup),
) -> Result<(World, RelayProcess), Missed> {
    let of_both = |setup: &mut Setup| {
        setup.store = redis.url();
        change(setup);
    };
    let world = World::between(sip_server, of_both).await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    Ok((world, other))
}

/// A balancer before the API sends the devices of an account to different nodes, and their SIP server keeps one Contact.
#[tokio::test(flavor = "multi_thread")]
async fn devices_of_one_account_share_its_contact_whichever_nodes_enable_them() -> Outcome {
    let redis = RedisServer::start();
    let world = World::between(|server| server.contacts = 1, |setup| setup.store = redis.url()).await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    let one = world.enable().await?;
    let two = other.api().enabled(&world.enable_request(OTHER_TOKEN)).await?;
    assert_eq!(two.edge, one.edge);
    let contact = world.await_contacts(1).await?[0].uri.clone();
    let caller = world.call()?;
    let mut rung = [world.apple_push().await?.token, world.apple_push().await?.token];
    rung.sort_unstable();
    let mut tokens = [TOKEN, OTHER_TOKEN];
    tokens.sort_unstable();
    assert_eq!(rung, tokens);
    world.cancel(&caller).await?;

    // The app enables at each start, wherever it is sent.
    let anew = other.api().enabled(&world.enable_request(TOKEN)).await?;
    let gone = || async { (world.api.read(&one).await.ok()?.status == 404).then_some(()) };
    world.until("the end of the earlier one", gone).await?;
    assert_eq!(world.await_contacts(1).await?[0].uri, contact, "it stands by the node that had it");
    for instance in [&two, &anew] {
        assert_eq!(other.api().read(instance).await?.json()["registration"]["state"], "registered");
    }
    Ok(())
}

/// What another node says when it has ended something of a node's.
fn tells_ended(redis: &RedisServer, relay: &RelayProcess, id: &str) {
    let node = format!("{}:{}", relay.setup().edge_ip, relay.setup().ports.edge);
    redis.ask::<()>(redis::cmd("SADD").arg(format!("sipwake:ended:{node}")).arg(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_that_passed_through_and_is_another_nodes_by_now_is_let_go_of_and_not_erased() -> Outcome {
    let redis = RedisServer::start();
    let world = World::between(|server| server.contacts = 2, |setup| setup.store = redis.url()).await?;
    let phone = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    let learned = phone.register_and_sleep(SOON).await?;
    let id = learned.purr.ok_or_else(|| Missed::new("a PURR", "none"))?;
    let record = format!("sipwake:i:{{{id}}}");
    let is_stored = || async { redis.keys().contains(&record).then_some(()) };
    world.until("its record", is_stored).await?;
    tells_ended(&redis, &world.relay, &id);
    let is_told = || async { redis.keys().iter().all(|key| !key.starts_with("sipwake:ended:")).then_some(()) };
    world.until("a node that has heard it", is_told).await?;
    world.await_metric("sipwake_push_registrations", 1.0).await?;
    redis.ask::<()>(redis::cmd("HSET").arg(&record).arg("o").arg("elsewhere:5061#run"));
    tells_ended(&redis, &world.relay, &id);
    world.await_metric("sipwake_push_registrations", 0.0).await?;
    world.await_metric("sipwake_push_registrations_ended_total{end=\"moved\"}", 1.0).await?;
    assert!(redis.keys().contains(&record), "it is the other node's");
    world.content()
}

#[tokio::test]
async fn an_account_that_is_enabled_again_on_another_node_is_let_go_of_by_the_first() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    let earlier = world.enable().await?;
    let alone = redis.instance_keys().len();
    let later = other.api().enabled(&world.enable_request(TOKEN)).await?;
    world.await_gone(&earlier).await?;
    let contacts = world.await_contacts(1).await?;
    assert_eq!(contacts.len(), 1, "the first node has unregistered its Contact");
    assert_eq!(other.api().read(&later).await?.status, 200);
    world.until("one record", || async { (redis.instance_keys().len() == alone).then_some(()) }).await
}

/// An app that enables at each start is started by the push, and asks any node.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_while_its_device_is_enabled_again_by_another_node_goes_on_in_the_name_of_the_new_instance()
-> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    let request = world.enable_request_with_alerts();
    let earlier = world.enable_as(&request).await?;
    let (caller, push) = world.call_and_push().await?;
    let enabled = other.api().enabled(&request).await;
    let later = enabled?;
    assert_eq!(
        (&later.edge, &push["edge"]),
        (&earlier.edge, &json!(later.edge.trim_start_matches("sip:").split(';').next()))
    );
    let (_phone, invite) = world.wake_to_call(&later).await?;
    world.answer(&caller, &invite).await?;
    world.await_gone(&earlier).await?;
    // While the call goes on, too.
    let enabled = other.api().enabled(&request).await;
    let last = enabled?;
    assert_eq!(last.edge, earlier.edge);
    world.hang_up(&caller, &invite).await?;
    world.await_gone(&later).await?;
    assert_eq!(world.apns.requests(), 1, "a call, and nothing that was missed");
    let enabled = other.api().enabled(&request).await;
    let elsewhere = enabled?;
    assert_ne!(elsewhere.edge, earlier.edge, "without a call it is enabled where its app asks");
    Ok(())
}

/// The node that has the call does not answer: the new instance has missed it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_at_a_node_that_stands_still_is_missed_by_the_instance_that_is_enabled_again_elsewhere() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    let request = world.enable_request_with_alerts();
    world.enable_as(&request).await?;
    let (caller, push) = world.call_and_push().await?;
    world.relay.freeze();
    let enabled = other.api().enabled(&request).await;
    world.relay.thaw();
    let later = enabled?;
    caller.expect(480, SOON).await?;
    let alert = world.alert("missed-call").await?;
    assert_eq!((&alert["call"], &alert["instance"]), (&push["call"], &json!(later.id)));
    let missed = || async { world.kept(&later, "missed-calls").await.ok().filter(|kept| !kept.is_empty()) };
    let missed = world.until("the missed call", missed).await?;
    assert_eq!((&missed[0]["call"], &missed[0]["state"]), (&push["call"], &json!("timed-out")));
    assert_eq!((missed.len(), world.apns.requests()), (1, 2), "a call and an alert");
    Ok(())
}

/// It has its `+sip.instance` again, with which the other one has gone on.
#[tokio::test]
async fn an_account_that_comes_back_to_its_node_stays_registered_when_the_other_one_unregisters_it() -> Outcome {
    let redis = RedisServer::start();
    let server = |settings: &mut Settings| (settings.contacts, settings.outbound) = (2, true);
    let mut world = World::between(server, |setup| setup.store = redis.url()).await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let _other = RelayProcess::start(setup).await?;
    let earlier = world.enable().await?;
    let home = world.await_contacts(1).await?.remove(0).uri;
    world.relay.kill_9().await?;
    let is_taken = || async { world.contacts().iter().all(|contact| contact.uri != home).then_some(()) };
    world.until("the other node's Contact", is_taken).await?;
    world.relay.restart().await?;
    let later = world.enable().await?;
    world.await_gone(&earlier).await?;
    let registers = || world.registrar.registers(&world.aor());
    let is_unregistered =
        |seen: &RegisterSeen| seen.status == Some(200) && seen.request.number(Name::Expires) == Some(0);
    world.until("its end", || async { registers().iter().any(is_unregistered).then_some(()) }).await?;
    let stands = || async { matches!(&world.contacts()[..], [contact] if contact.uri == home).then_some(()) };
    world.until("its Contact", stands).await?;
    world.whole_call(&later).await
}

#[tokio::test]
async fn a_token_that_another_instance_takes_by_a_change_ends_its_earlier_holder_there_or_elsewhere() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    for api in [&world.api, &other.api()] {
        let holder = world.enable().await?;
        let taker = api.enabled(&world.enable_request(OTHER_TOKEN)).await?;
        let change = json!({"device": {"call_push": {"provider": "apns", "token": TOKEN}}});
        assert_eq!(api.change(&taker, &change).await?.status, 200);
        world.await_gone(&holder).await?;
        assert_eq!(api.read(&taker).await?.status, 200);
        assert_eq!(world.await_contacts(1).await?.len(), 1);
        assert_eq!(api.disable(&taker).await?.status, 200);
        world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    }
    Ok(())
}

#[tokio::test]
async fn any_node_answers_an_app_for_an_instance_that_another_one_owns() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    let instance = world.enable().await?;
    let (here, there) = (&world.api, &other.api());
    // The seconds that are left of a registration may pass between two answers.
    let without_seconds = |mut body: Value| {
        if let Some(left) = body.pointer_mut("/registration/expires_in_s") {
            *left = Value::Null;
        }
        body
    };
    let (asked, direct) = (there.read(&instance).await?.json(), here.read(&instance).await?.json());
    assert_eq!(without_seconds(asked), without_seconds(direct));
    for rest in ["/timeline", "/export", "/messages", "/missed-calls"] {
        let (asked, direct) = (there.of("GET", &instance, rest).await?, here.of("GET", &instance, rest).await?);
        assert_eq!((asked.status, without_seconds(asked.json())), (200, without_seconds(direct.json())), "{rest}");
    }
    let (_caller, push) = world.call_and_push().await?;
    let call = push["call"].as_str().unwrap_or_default();
    assert_eq!(there.call(&instance, call).await?.json(), here.call(&instance, call).await?.json());
    assert_eq!(there.decline(&instance, call).await?.status, 204);
    assert_eq!(here.call(&instance, call).await?.json()["state"], "declined");
    let changed = there.change(&instance, &json!({"presence": "foreground"})).await?;
    assert_eq!((changed.status, &changed.json()["presence"]), (200, &json!("foreground")), "{}", changed.text());
    world.await_contacts(0).await?;
    let wrong = there.change(&instance, &json!({"presence": "nowhere"})).await?;
    assert_eq!((wrong.status, wrong.problem().as_deref()), (422, Some("invalid-body")), "the owner's refusal is told");
    // Who has not its secret learns what he learns from the owner.
    let stranger = Instance { secret: "x".repeat(43), ..instance.clone() };
    for rest in ["", "/messages", "/timeline"] {
        let (asked, direct) = (there.of("GET", &stranger, rest).await?, here.of("GET", &stranger, rest).await?);
        assert_eq!((asked.status, asked.problem()), (401, direct.problem()), "{rest}");
    }
    let receipt = there.disable(&instance).await?;
    assert_eq!((receipt.status, &receipt.json()["reason"]), (200, &json!("disabled")), "{}", receipt.text());
    assert_eq!(here.disable(&instance).await?.json(), receipt.json(), "its owner has the same");
    assert_eq!(there.read(&instance).await?.status, 404);
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await
}

/// It had asked for its next letter, and the answer came while it stood still.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_owner_that_stands_still_for_a_second_is_asked_meanwhile_is_answered_when_it_goes_on() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    let (one, two) = (world.enable().await?, world.enable_other().await?);
    let there = other.api();
    world.relay.freeze();
    let thaw = async {
        // Longer than the question for a letter is waited for.
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        world.relay.thaw();
    };
    let (one, two, ()) = tokio::join!(there.disable(&one), there.disable(&two), thaw);
    for receipt in [one?, two?] {
        assert_eq!((receipt.status, &receipt.json()["reason"]), (200, &json!("disabled")), "{}", receipt.text());
    }
    Ok(())
}

/// The id of an instance that never was.
fn invented(id: &str) -> String {
    let last = if id.ends_with('a') { 'b' } else { 'a' };
    format!("{}{last}", &id[..id.len() - 1])
}

#[tokio::test]
async fn what_a_node_does_not_know_costs_it_one_look_up_in_the_store() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    let instance = world.enable().await?;
    let there = other.api();
    let gone = world.enable_android().await?;
    // Each node but that one hears of it for the first time.
    world.disable(&gone).await?;
    let unknown = Instance { id: invented(&gone.id), ..instance.clone() };
    let stranger = Instance { secret: "x".repeat(43), ..instance.clone() };
    let look_ups = || -> u64 {
        let stats: String = redis.ask(redis::cmd("INFO").arg("commandstats"));
        let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hmget:calls=")?.split(',').next());
        calls.and_then(|calls| calls.parse().ok()).unwrap_or(0)
    };
    for (asker, status) in [(&unknown, 404), (&stranger, 401)] {
        for (method, rest) in [("GET", ""), ("DELETE", ""), ("GET", "/timeline")] {
            // A node compares what it has beside it.
            let mut least = u64::MAX;
            for _ in 0..5 {
                let before = look_ups();
                assert_eq!(there.of(method, asker, rest).await?.status, status, "{method} {rest}");
                least = least.min(look_ups() - before);
            }
            assert_eq!(least, 1, "{method} {rest} answered {status}");
        }
    }
    let (path, token) = (format!("/v1/operator/instances/{}", unknown.id), other.setup().operator_token.as_str());
    let mut least = u64::MAX;
    for _ in 0..5 {
        let before = look_ups();
        let shown = other.operator().json("GET", &path, Some(token), None).await?;
        assert_eq!(shown.status, 404);
        least = least.min(look_ups() - before);
    }
    assert_eq!(least, 1);
    Ok(())
}

#[tokio::test]
async fn an_instance_whose_owner_has_died_is_seen_and_wiped_at_another_node() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    // Of two accounts: a device that shares a Contact with another one is not unregistered once both are taken over.
    let (kept, wiped) = (world.lend("carol").await?, world.enable_android().await?);
    world.relay.kill_9().await?;
    let there = other.api();
    let seen = there.read(&kept).await?;
    assert_eq!((seen.status, &seen.json()["state"]), (200, &json!("active")), "{}", seen.text());
    let receipt = there.disable(&wiped).await?;
    assert_eq!((receipt.status, &receipt.json()["instance"]), (200, &json!(wiped.id)), "{}", receipt.text());
    assert_eq!(receipt.json()["unregistered"], json!(true), "{}", receipt.text());
    assert_eq!(there.disable(&wiped).await?.json(), receipt.json());
    assert_eq!(there.read(&wiped).await?.status, 404);
    world
        .until("the other one is registered again", || async {
            let seen = there.read(&kept).await.ok()?.json();
            (seen["registration"]["state"] == "registered").then_some(())
        })
        .await
}

#[tokio::test]
async fn what_a_killed_node_leaves_is_shared_and_registered_within_eight_seconds_without_its_contacts() -> Outcome {
    what_a_killed_node_leaves(true).await
}

#[tokio::test]
async fn a_server_that_knows_contacts_by_their_uris_alone_forgets_those_of_a_killed_node() -> Outcome {
    what_a_killed_node_leaves(false).await
}

async fn what_a_killed_node_leaves(outbound: bool) -> Outcome {
    const ACCOUNTS: usize = 30;
    let redis = RedisServer::start();
    let names: Vec<String> = (0..ACCOUNTS).map(|n| format!("u{n}")).collect();
    let server = |settings: &mut registrar::Settings| {
        settings.users.extend(names.iter().map(|name| (name.clone(), "a password of theirs".to_owned())));
        // It forks to as many Contacts as come.
        (settings.contacts, settings.outbound) = (usize::MAX, outbound);
    };
    let world = World::between(server, |setup| setup.store = redis.url()).await?;
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut setup = world.relay.setup().clone();
        setup.ports = Ports::default();
        others.push(RelayProcess::start(setup).await?);
    }
    for name in &names {
        let mut request = world.enable_request(TOKEN);
        request["account"]["aor"] = json!(world.registrar.aor(name));
        request["account"]["auth_username"] = json!(name);
        request["account"]["password"] = json!("a password of theirs");
        world.enable_as(&request).await?;
    }
    let before: Vec<_> = names.iter().map(|name| world.registrar.contacts(&world.registrar.aor(name))).collect();
    let killed_at = Instant::now();
    world.relay.kill_9().await?;
    let moved = || async {
        let now = names.iter().map(|name| world.registrar.contacts(&world.registrar.aor(name)));
        let moved = now.zip(&before).filter(|(now, before)| now.len() == 1 && now[0].uri != before[0].uri).count();
        (moved == ACCOUNTS).then_some(())
    };
    world.until("each account has one Contact, and another than before", moved).await?;
    let took = killed_at.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    for other in &others {
        let taken = other.metric("sipwake_instances{state=\"registered\"}").await.unwrap_or_default();
        assert!((5.0..=25.0).contains(&taken), "{taken} of {ACCOUNTS}");
    }
    Ok(())
}

#[tokio::test]
async fn the_rights_that_the_operators_page_names_are_enough_for_everything_and_no_command_more_is_asked() -> Outcome {
    let page = include_str!("../../../../docs/operators.md");
    let line = page.lines().map(str::trim).find(|line| line.starts_with("~sipwake:* +")).unwrap_or_default();
    let redis = RedisServer::start();
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("relay").arg("on").arg(">a-long-password").arg("resetchannels");
    redis.ask::<()>(user.arg(line.split(' ').collect::<Vec<_>>()));
    let url = redis.url().replace("redis://", "redis://relay:a-long-password@");
    let world = World::between(|server| server.contacts = 2, |setup| setup.store = url).await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    let instance = world.enable().await?;
    let there = other.api();
    let (caller, push) = world.call_and_push().await?;
    assert_eq!(there.decline(&instance, push["call"].as_str().unwrap_or_default()).await?.status, 204);
    caller.expect(603, SOON).await?;
    let written = world.call_with(&CallOptions::request("MESSAGE").body("text/plain", "hello"))?;
    written.expect(202, SOON).await?;
    let kept = there.of("GET", &instance, "/messages").await?.json();
    let message = kept["messages"][0]["message"].as_str().unwrap_or_default().to_owned();
    assert_eq!(there.of("DELETE", &instance, &format!("/messages/{message}")).await?.status, 204);
    assert_eq!(there.change(&instance, &json!({"lifetime_s": 300_000})).await?.status, 200);
    world.relay.kill_9().await?;
    world
        .until("the other node has it", || async {
            (there.read(&instance).await.ok()?.json()["registration"]["state"] == "registered").then_some(())
        })
        .await?;
    assert_eq!(there.disable(&instance).await?.status, 200);
    let log: Vec<Vec<redis::Value>> = redis.ask(redis::cmd("ACL").arg("LOG"));
    assert!(log.is_empty(), "denied: {log:?}");
    Ok(())
}

#[tokio::test]
async fn what_does_not_open_with_a_nodes_keyring_is_no_wrong_secret_and_nobody_says_that_there_is_nothing() -> Outcome {
    let (world, _redis) = World::on_redis(|_| {}).await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    setup.keyring = Some(world.authority.directory().join("another-keyring"));
    let other = RelayProcess::launch(setup)?;
    other.await_log("serving", SOON).await?;
    let instance = world.enable().await?;
    let answer = other.api().read(&instance).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("owner-away")), "{}", answer.text());
    // It cannot ask the other whether that has what the store has not.
    for id in [instance.id.as_str(), "pi_aaaaaaaaaaaaaaaaaaaaaaaaaa"] {
        let wiped = other.wipe(id).await?;
        assert_eq!(wiped.status, 503, "{id}: {}", wiped.text());
    }
    Ok(())
}

#[tokio::test]
async fn an_operator_asks_any_node_of_all_instances_and_wipes_them_wherever_they_are() -> Outcome {
    let redis = RedisServer::start();
    let world = World::between(|server| server.contacts = 2, |setup| setup.store = redis.url()).await?;
    let mut setup = world.relay.setup().clone();
    // Each node has a token of its own: what another node asks needs none.
    (setup.ports, setup.operator_token) = (Ports::default(), "a-token-of-the-other-node".to_owned());
    let other = RelayProcess::start(setup).await?;
    let (here, there) =
        (world.enable().await?, other.api().enabled(&world.enable_request_by_proxy(OTHER_TOKEN)).await?);
    let asks = async |relay: &RelayProcess, method: &str, path: &str, body: Option<&serde_json::Value>| {
        let path = format!("/v1/operator/instances{path}");
        relay.operator().json(method, &path, Some(relay.setup().operator_token.as_str()), body).await
    };
    let ids = |page: &serde_json::Value| {
        let all = page["instances"].as_array().cloned().unwrap_or_default();
        let mut ids: Vec<String> =
            all.iter().map(|it| it["instance"].as_str().unwrap_or_default().to_owned()).collect();
        ids.sort_unstable();
        ids
    };
    let mut both = vec![here.id.clone(), there.id.clone()];
    both.sort_unstable();
    let hash = sha256(&world.aor()[4..]);
    for relay in [&world.relay, &other] {
        assert_eq!(ids(&asks(relay, "GET", "", None).await?.json()), both);
        let found = asks(relay, "POST", "/find", Some(&json!({"aor_sha256": hash}))).await?.json();
        assert_eq!(ids(&found), both, "{found}");
        for id in &both {
            let (shown, export) = (
                asks(relay, "GET", &format!("/{id}"), None).await?,
                asks(relay, "GET", &format!("/{id}/export"), None).await?,
            );
            assert_eq!((shown.status, export.status), (200, 200), "{}", shown.text());
            assert_eq!(shown.json()["registration"]["state"], "registered", "{}", shown.text());
        }
        // Page by page nothing is left out and nothing told twice.
        let first = asks(relay, "GET", "?limit=1", None).await?.json();
        let next = first["next"].as_str().unwrap_or_default();
        let second = asks(relay, "GET", &format!("?limit=1&after={next}"), None).await?.json();
        let mut paged = [ids(&first), ids(&second)].concat();
        paged.sort_unstable();
        assert_eq!(paged, both, "{first} {second}");
    }
    let door = world.relay.operator();
    let stranger = door.json("GET", "/v1/operator/instances", Some("a-token-of-the-other-node"), None);
    assert_eq!(stranger.await?.status, 401, "what opens the one node's door opens not the other's");
    // The owner is asked, and unregisters.
    let wiped = asks(&world.relay, "POST", &format!("/{}/wipe", there.id), None).await?;
    assert_eq!((wiped.status, &wiped.json()["unregistered"]), (200, &json!(true)), "{}", wiped.text());
    assert_eq!(other.api().read(&there).await?.status, 404);
    // One whose owner is gone, before it is taken over.
    let there = other.api().enabled(&world.enable_request_by_proxy(OTHER_TOKEN)).await?;
    other.kill_9().await?;
    let shown = asks(&world.relay, "GET", &format!("/{}", there.id), None).await?;
    assert_eq!(shown.status, 200, "{}", shown.text());
    let gone = world.until("wiped without its owner, or after it", || async {
        let wiped = asks(&world.relay, "POST", &format!("/{}/wipe", there.id), None).await.ok()?;
        (wiped.status == 200).then_some(())
    });
    gone.await?;
    assert!(!redis.instance_keys().iter().any(|key| key.contains(&there.id)));
    assert_eq!(ids(&asks(&world.relay, "GET", "", None).await?.json()), std::slice::from_ref(&here.id));
    Ok(())
}

fn sha256(text: &str) -> String {
    use sha2::Digest as _;
    sha2::Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
