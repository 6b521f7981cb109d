//! One of two nodes does not reach the store for a while: what happens meanwhile at the other one stands.

use std::path::Path;

use serde_json::json;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::caller::Caller;
use tests::fcm::Answer;
use tests::gate::Gate;
use tests::push_phone::Service;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::{Ports, Setup};
use tests::scratch::Scratch;
use tests::world::{FCM_TOKEN, OTHER_TOKEN, SOON, TOKEN, World};

use super::Outcome;

/// Registrations that passed through.
const PASSED: &str = "sipwake_push_registrations";

/// A world whose node reaches the store through a door, and a second node that needs none.
pub(super) async fn two_nodes_and_a_gate(redis: &RedisServer) -> Result<(World, RelayProcess, Gate), Missed> {
    two_nodes_and_a_gate_with(redis, |_| {}, "").await
}

/// Likewise, with these settings, and what the first one alone has in its configuration.
async fn two_nodes_and_a_gate_with(
    redis: &RedisServer,
    change: impl FnOnce(&mut Setup),
    alone: &str,
) -> Result<(World, RelayProcess, Gate), Missed> {
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    gate.open()?;
    let store = format!("redis://{}", gate.address());
    let change = |setup: &mut Setup| {
        change(setup);
        setup.store = store;
        setup.further += alone;
    };
    let world = World::between(|server| server.contacts = 2, change).await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    setup.store = redis.url();
    setup.further = setup.further.replace(alone, "");
    let other = RelayProcess::start(setup).await?;
    Ok((world, other, gate))
}

async fn await_registered(world: &World, relay: &RelayProcess, count: f64) -> Outcome {
    let look = || async {
        let registered = relay.metric("sipwake_instances{state=\"registered\"}").await?;
        (registered == count).then_some(())
    };
    world.until(&format!("{count} instances that are registered"), look).await
}

#[tokio::test]
async fn a_node_that_was_cut_off_brings_nothing_back_that_was_taken_over_and_wiped_meanwhile() -> Outcome {
    let redis = RedisServer::start();
    let (world, other, mut gate) = two_nodes_and_a_gate(&redis).await?;
    let instance = world.enable().await?;
    gate.close();
    await_registered(&world, &other, 1.0).await?;
    let receipt = other.api().disable(&instance).await?;
    assert_eq!(receipt.status, 200, "{}", receipt.text());
    assert!(redis.instance_keys().is_empty(), "{:?}", redis.instance_keys());
    gate.open()?;
    // The node lets go of it, though not one of its records is there.
    world.await_gone(&instance).await?;
    assert!(redis.instance_keys().is_empty(), "{:?}", redis.instance_keys());
    world.await_contacts(0).await?;
    assert_eq!(other.api().disable(&instance).await?.json(), receipt.json());
    Ok(())
}

/// Its account has another owner by then, and its caller has not.
#[tokio::test]
async fn a_call_that_rings_at_a_node_that_was_cut_off_is_answered_there_before_the_node_lets_go() -> Outcome {
    let redis = RedisServer::start();
    let (world, other, mut gate) = two_nodes_and_a_gate(&redis).await?;
    let instance = world.enable().await?;
    let caller = world.call()?;
    world.push().await?;
    let phone = world.wake(&instance).await?;
    let call = phone.next_invite(SOON).await?;
    call.ring();
    caller.expect(180, SOON).await?;
    gate.close();
    await_registered(&world, &other, 1.0).await?;
    gate.open()?;
    world.relay.await_log("lease-lapsed", SOON * 2).await?;
    await_registered(&world, &other, 1.0).await?;
    call.answer();
    caller.answered(SOON).await?;
    world.await_metric("sipwake_instances{state=\"registered\"}", 0.0).await?;
    world.hang_up(&caller, &call).await
}

/// Two nodes, and a phone that rings by the one that had its account until the other one took it over.
async fn ringing_where_it_was(redis: &RedisServer) -> Result<(World, RelayProcess, Gate, (Instance, Caller)), Missed> {
    let (world, other, mut gate) = two_nodes_and_a_gate(redis).await?;
    let instance = world.enable().await?;
    let caller = world.call()?;
    world.push().await?;
    let phone = world.wake(&instance).await?;
    phone.next_invite(SOON).await?.ring();
    caller.expect(180, SOON).await?;
    gate.close();
    await_registered(&world, &other, 1.0).await?;
    gate.open()?;
    world.relay.await_log("lease-lapsed", SOON * 2).await?;
    await_registered(&world, &other, 1.0).await?;
    Ok((world, other, gate, (instance, caller)))
}

#[tokio::test]
async fn a_receipt_that_is_asked_for_where_a_call_still_rings_comes_from_the_node_that_has_the_account() -> Outcome {
    let redis = RedisServer::start();
    let (world, other, _gate, (instance, caller)) = ringing_where_it_was(&redis).await?;
    let receipt = || async {
        let answer = world.relay.api().disable(&instance).await.ok()?;
        (answer.status == 200).then_some(answer)
    };
    let receipt = world.until("a receipt", receipt).await?;
    assert_eq!(receipt.json()["unregistered"], json!(true), "{}", receipt.text());
    assert_eq!(world.registrar.contacts(&world.aor()).len(), 0, "at the time of the receipt");
    assert_eq!(other.metric("sipwake_instances{state=\"registered\"}").await, Some(0.0));
    assert!(redis.instance_keys().is_empty(), "{:?}", redis.instance_keys());
    caller.final_response(SOON).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_wiped_by_the_node_that_has_it_ends_where_a_call_still_rings() -> Outcome {
    let redis = RedisServer::start();
    let (world, other, _gate, (instance, caller)) = ringing_where_it_was(&redis).await?;
    let receipt = other.api().disable(&instance).await?;
    assert_eq!(receipt.status, 200, "{}", receipt.text());
    caller.final_response(SOON).await?;
    world.await_metric("sipwake_instances{state=\"registered\"}", 0.0).await?;
    world.await_contacts(0).await?;
    Ok(())
}

/// It would go on with its calls, as long as its SIP server knows its Contact.
#[tokio::test]
async fn what_is_wiped_elsewhere_is_unregistered_although_its_node_is_cut_off_and_knows_of_nothing() -> Outcome {
    let redis = RedisServer::start();
    let (world, other, mut gate) = two_nodes_and_a_gate(&redis).await?;
    let instance = world.enable().await?;
    gate.close();
    let receipt = || async {
        let answer = other.api().disable(&instance).await.ok()?;
        (answer.status == 200).then_some(answer)
    };
    let receipt = world.until("a receipt", receipt).await?;
    assert_eq!(receipt.json()["unregistered"], json!(true), "{}", receipt.text());
    assert_eq!(world.registrar.contacts(&world.aor()).len(), 0, "at the time of the receipt");
    assert!(redis.instance_keys().is_empty(), "{:?}", redis.instance_keys());
    gate.open()?;
    world.await_gone(&instance).await?;
    world.relay.await_log("ended-elsewhere", SOON).await?;
    world.await_contacts(0).await?;
    assert_eq!(other.api().disable(&instance).await?.json(), receipt.json());
    Ok(())
}

/// Its lease still runs when the device is enabled again, or another instance takes its token, at another node.
#[tokio::test]
async fn what_is_replaced_elsewhere_leaves_no_contact_of_a_node_that_is_cut_off_within_its_lease() -> Outcome {
    for by_change in [false, true] {
        let redis = RedisServer::start();
        let (world, other, mut gate) = two_nodes_and_a_gate(&redis).await?;
        let earlier = world.enable().await?;
        // By a proxy, so that it is no device of the first one's Contact, which its node would enable.
        let of_taker = world.enable_request_by_proxy(OTHER_TOKEN);
        let taker = if by_change { Some(other.api().enabled(&of_taker).await?) } else { None };
        gate.close();
        let request = world.enable_request(TOKEN);
        match taker {
            Some(taker) => {
                let changed = other
                    .api()
                    .change(&taker, &json!({"device": {"call_push": request["device"]["call_push"]}}))
                    .await?;
                assert_eq!(changed.status, 200, "{}", changed.text());
            }
            None => drop(other.api().enabled(&request).await?),
        }
        world.await_contacts(1).await?;
        let receipt = other.api().disable(&earlier).await?;
        assert_eq!(receipt.json()["reason"], json!("replaced"), "{}", receipt.text());
        gate.open()?;
        world.await_gone(&earlier).await?;
        world.await_contacts(1).await?;
    }
    Ok(())
}

/// It has heard neither of the other node nor of the token that the app has given to that one.
#[tokio::test]
async fn what_a_node_that_is_cut_off_ends_by_itself_goes_on_where_it_was_taken_over_and_renewed() -> Outcome {
    for by_next_run in [false, true] {
        let (redis, trail) = (RedisServer::start(), Scratch::new());
        let audit = format!("\n[audit]\ndirectory = {:?}\n", trail.path());
        let (mut world, other, mut gate) = two_nodes_and_a_gate_with(&redis, |_| {}, &audit).await?;
        let instance = world.enable_android().await?;
        gate.close();
        await_registered(&world, &other, 1.0).await?;
        let device = json!({"call_push": {"provider": "fcm", "token": "another-token"}});
        let changed = other.api().change(&instance, &json!({"device": device, "lifetime_s": 400_000})).await?;
        assert_eq!(changed.status, 200, "{}", changed.text());
        world.fcm.answer_with(FCM_TOKEN, [Answer::Unregistered]);
        assert_eq!(world.api.of("POST", &instance, "/test").await?.status, 202);
        world.await_metric("sipwake_wipes_total{reason=\"push-token-gone\"}", 1.0).await?;
        world.await_metric("sipwake_instances{state=\"ending\"}", 0.0).await?;
        if by_next_run {
            world.relay.kill_9().await?;
        }
        gate.open()?;
        if by_next_run {
            world.relay.restart().await?;
        }
        world.relay.await_log("end-left", SOON * 2).await?;
        let acts = || async {
            let acts = acts(trail.path());
            acts.ends_with(&["handed-over".to_owned()]).then_some(acts)
        };
        let acts = world.until("a line of whose it is", acts).await?;
        let ended: Vec<_> = acts.iter().filter(|act| ["wiped", "handed-over"].contains(&&***act)).collect();
        assert_eq!(ended, ["wiped", "handed-over"], "{acts:?}");
        let read = other.api().read(&instance).await?;
        let state = &read.json()["registration"]["state"];
        assert_eq!((read.status, state), (200, &json!("registered")), "{}", read.text());
        assert!(redis.keys().contains(&format!("sipwake:i:{{{}}}", instance.id)));
        // Somebody's word ends it, wherever it is.
        let receipt = world.api.disable(&instance).await?;
        assert_eq!((receipt.status, &receipt.json()["reason"]), (200, &json!("disabled")), "{}", receipt.text());
        world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    }
    Ok(())
}

/// What was done, as an audit trail tells it.
fn acts(trail: &Path) -> Vec<String> {
    let files = std::fs::read_dir(trail).expect("a trail").filter_map(Result::ok);
    let text: String = files.map(|file| std::fs::read_to_string(file.path()).expect("text")).collect();
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    lines.map(|line| line["what"].as_str().unwrap_or_default().to_owned()).collect()
}

/// It finds nothing to erase, and must not count what is nobody's there as ended for everybody.
#[tokio::test]
async fn what_a_node_that_is_cut_off_ends_by_itself_goes_on_also_where_the_store_has_lost_it_meanwhile() -> Outcome {
    let redis = RedisServer::start();
    let (world, other, mut gate) = two_nodes_and_a_gate(&redis).await?;
    let instance = world.enable_android().await?;
    gate.close();
    await_registered(&world, &other, 1.0).await?;
    world.fcm.answer_with(FCM_TOKEN, [Answer::Unregistered]);
    assert_eq!(world.api.of("POST", &instance, "/test").await?.status, 202);
    world.await_metric("sipwake_wipes_total{reason=\"push-token-gone\"}", 1.0).await?;
    world.await_metric("sipwake_instances{state=\"ending\"}", 0.0).await?;
    other.freeze();
    redis.ask::<()>(&redis::cmd("FLUSHALL"));
    gate.open()?;
    world.await_metric("sipwake_store_up", 1.0).await?;
    let erased = format!("erased {} ", instance.id);
    let keyring = world.relay.setup().keyring.clone().expect("a file");
    let is_erased = || async {
        let beside = std::fs::read_dir(keyring.parent()?).ok()?.filter_map(Result::ok);
        let text: String = beside.filter_map(|file| std::fs::read_to_string(file.path()).ok()).collect();
        text.contains(&erased).then_some(())
    };
    world.until("an erasure of nothing", is_erased).await?;
    other.thaw();
    let record = format!("sipwake:i:{{{}}}", instance.id);
    world.until("its record again", || async { redis.keys().contains(&record).then_some(()) }).await?;
    for api in [&other.api(), &world.api] {
        let read = api.read(&instance).await?;
        let state = &read.json()["registration"]["state"];
        assert_eq!((read.status, state), (200, &json!("registered")), "{}", read.text());
    }
    // Somebody's word ends it, whichever node is asked.
    let receipt = world.api.disable(&instance).await?;
    assert_eq!((receipt.status, &receipt.json()["reason"]), (200, &json!("disabled")), "{}", receipt.text());
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await
}

/// It has lost its lease, and cannot be asked whether it still tries.
#[tokio::test]
async fn no_receipt_is_told_beside_a_node_that_is_cut_off_and_may_still_tell_the_phone_of_the_end() -> Outcome {
    let redis = RedisServer::start();
    let lifetime = |setup: &mut Setup| setup.lifetime = ["1s", "2s", "6d"].map(str::to_owned);
    let (world, other, mut gate) = two_nodes_and_a_gate_with(&redis, lifetime, "").await?;
    let unavailable = || Answer::Unavailable { retry_after: Some(1) };
    world.fcm.answer_with(FCM_TOKEN, std::iter::repeat_with(unavailable).take(100));
    let instance = world.enable_android().await?;
    world.await_gone(&instance).await?;
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    gate.close();
    let lease = format!("sipwake:lease:{}:{}", world.relay.setup().edge_ip, world.relay.setup().ports.edge);
    world.until("no lease", || async { (!redis.keys().contains(&lease)).then_some(()) }).await?;
    let tries = world.fcm.requests();
    world.until("another try", || async { (world.fcm.requests() > tries).then_some(()) }).await?;
    let answer = other.api().disable(&instance).await?;
    assert_eq!((answer.status, answer.json()), (202, json!({"state": "wiping"})), "{}", answer.text());
    let tries = world.fcm.requests();
    world.until("another try", || async { (world.fcm.requests() > tries).then_some(()) }).await?;
    gate.open()?;
    let receipt = || async { other.api().disable(&instance).await.ok().filter(|answer| answer.status == 200) };
    assert_eq!(world.until("the receipt", receipt).await?.json()["reason"], "expired");
    Ok(())
}

#[tokio::test]
async fn a_node_that_was_cut_off_writes_again_what_the_store_has_lost_meanwhile() -> Outcome {
    let redis = RedisServer::start();
    let (world, other, mut gate) = two_nodes_and_a_gate(&redis).await?;
    let (one, two) = (world.enable().await?, world.enable_other().await?);
    let kept = redis.instance_keys().len();
    gate.close();
    world.await_metric("sipwake_store_up", 0.0).await?;
    redis.ask::<()>(&redis::cmd("FLUSHALL"));
    gate.open()?;
    world.until("the records again", || async { (redis.instance_keys().len() == kept).then_some(()) }).await?;
    for instance in [&one, &two] {
        assert_eq!(other.api().read(instance).await?.status, 200);
        assert_eq!(other.api().disable(instance).await?.status, 200);
    }
    world.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await
}

/// Its SIP server has the call at the first node, and its phone comes to the edge that the push has named.
#[tokio::test]
async fn a_call_waits_for_a_phone_that_lent_nothing_at_a_node_that_was_cut_off_until_another_had_it() -> Outcome {
    let redis = RedisServer::start();
    let (world, other, mut gate) = two_nodes_and_a_gate(&redis).await?;
    let phone = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    phone.register_and_sleep(SOON).await?;
    world.await_metric(PASSED, 1.0).await?;
    let caller = world.call()?;
    world.android_push().await?;
    caller.expect(180, SOON).await?;
    gate.close();
    world.until("the other node", || async { (other.metric(PASSED).await? == 1.0).then_some(()) }).await?;
    gate.open()?;
    world.relay.await_log("passed-let-go", SOON * 2).await?;
    let (_device, call) = world.wake_to_call(&phone).await?;
    call.ring();
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await
}
