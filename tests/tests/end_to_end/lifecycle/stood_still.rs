//! A node that stood still goes on in the middle of calls: it pushes nothing, and believes no push service, before the store has said whose they are.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::world::{FCM_TOKEN, OTHER_TOKEN, SOON, TOKEN, World, apple, text};
use tests::{apns, fcm};

use super::Outcome;
use super::nodes::two_nodes_with;

/// The node of a call stands still until the other one has its account.
async fn stand_still(world: &World, other: &RelayProcess) -> Outcome {
    world.relay.freeze();
    let has_it =
        || async { (other.metric("sipwake_instances{state=\"registered\"}").await == Some(1.0)).then_some(()) };
    world.until("the account at the other node", has_it).await
}

async fn two_nodes(redis: &RedisServer) -> Result<(World, RelayProcess), Missed> {
    two_nodes_with(redis, |_| {}).await
}

/// The service calls the token dead, as of now, when the node stands still.
fn gone_late() -> apns::Answer {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let timestamp = u64::try_from(now.as_millis()).unwrap_or(u64::MAX) + 1_000;
    apns::Answer::Late(Duration::from_secs(3), Box::new(apns::Answer::Gone { timestamp }))
}

/// The calls that nobody answered, as the other node tells them.
async fn await_missed(world: &World, other: &RelayProcess, instance: &Instance, call: &str) -> Outcome {
    let is_listed = || async {
        let answer = other.api().of("GET", instance, "/missed-calls").await.ok()?;
        answer.text().contains(call).then_some(())
    };
    world.until("the missed call", is_listed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_instance_was_wiped_meanwhile_is_neither_pushed_again_nor_told() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    world.apns.answer_with(TOKEN, [apns::Answer::TooManyRequests { retry_after: Some(4) }]);
    let caller = world.call()?;
    assert!(world.apns.wait_for_requests(1, SOON).await);
    stand_still(&world, &other).await?;
    let receipt = other.api().disable(&instance).await?;
    assert_eq!(receipt.status, 200, "{}", receipt.text());
    world.relay.thaw();
    caller.expect(480, SOON).await?;
    world.relay.await_log("ended-elsewhere", SOON).await?;
    let pushed = world.apns.next_push(Duration::from_secs(1)).await;
    assert!(pushed.is_none() && world.apns.requests() == 1, "after the receipt: {pushed:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_cancel_lies_in_the_socket_is_not_pushed_again() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    world.enable_android().await?;
    world.fcm.answer_with(FCM_TOKEN, [fcm::Answer::QuotaExceeded { retry_after: Some(4) }]);
    let caller = world.call()?;
    assert!(world.fcm.wait_for_requests(1, SOON).await);
    stand_still(&world, &other).await?;
    let (cancelled, ()) = tokio::join!(world.cancel(&caller), async { world.relay.thaw() });
    cancelled?;
    // And no second copy beside them.
    world.android_pushes(&["missed-call", "call-ended"]).await?;
    assert_eq!(world.fcm.requests(), 3, "the one that was refused, and these");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_token_is_called_gone_goes_to_the_one_that_the_app_gave_another_node_meanwhile() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    world.apns.answer_with(TOKEN, [gone_late()]);
    let caller = world.call()?;
    assert!(world.apns.wait_for_requests(1, SOON).await);
    stand_still(&world, &other).await?;
    let changed = other.api().change(&instance, &json!({"device": {"call_push": apple(OTHER_TOKEN)}})).await?;
    assert_eq!(changed.status, 200, "{}", changed.text());
    world.relay.thaw();
    let push = world.apple_push().await?;
    assert_eq!((push.token.as_str(), &push.payload["sipwake"]["event"]), (OTHER_TOKEN, &json!("call")));
    world.cancel(&caller).await?;
    await_missed(&world, &other, &instance, &text(&push.payload["sipwake"]["call"])).await?;
    assert_eq!(other.api().read(&instance).await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_token_is_called_gone_is_missed_by_the_instance_that_is_enabled_again_elsewhere() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    let request = world.enable_request_with_alerts();
    world.enable_as(&request).await?;
    world.apns.answer_with(TOKEN, [gone_late()]);
    let caller = world.call()?;
    assert!(world.apns.wait_for_requests(1, SOON).await);
    stand_still(&world, &other).await?;
    let enabled = other.api().enabled(&request).await;
    let later = enabled?;
    world.relay.thaw();
    caller.expect(480, SOON).await?;
    let alert = world.alert("missed-call").await?;
    assert_eq!(alert["instance"], json!(later.id));
    await_missed(&world, &other, &later, &text(&alert["call"])).await
}

/// The store is well: it is the node that came late.
#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_asked_while_its_node_stood_still_is_not_told_that_the_store_is_away() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes(&redis).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    stand_still(&world, &other).await?;
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let (api, instance) = (world.relay.api(), instance.clone());
            tokio::spawn(async move { api.change(&instance, &json!({"presence": "background"})).await })
        })
        .collect();
    world.relay.thaw();
    for answer in asked {
        let answer = answer.await.map_err(|error| Missed::new("an answer", error.to_string()))??;
        let told = (answer.status, answer.problem());
        assert!(matches!(&told, (200, None) | (503, Some(_))), "{told:?}");
        assert_ne!(told.1.as_deref(), Some("store-away"), "{}", answer.text());
    }
    Ok(())
}

/// Two devices of an account have one Contact, and the node that ends one of them removes it.
#[tokio::test(flavor = "multi_thread")]
async fn the_other_device_of_an_account_is_called_after_one_was_wiped_elsewhere_with_their_contact() -> Outcome {
    let redis = RedisServer::start();
    let world = World::between(|server| server.contacts = 2, |setup| setup.store = redis.url()).await?;
    let lease = redis.keys().into_iter().find(|key| key.starts_with("sipwake:lease:")).expect("a lease");
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    let wiped = world.enable().await?;
    let mut request = world.enable_request(TOKEN);
    request["device"]["call_push"]["token"] = OTHER_TOKEN.into();
    let stays = world.enable_as(&request).await?;
    world.await_contacts(1).await?;
    world.relay.freeze();
    // The lease ends at once: the other node has not taken anything over yet.
    assert_eq!(redis.ask::<u64>(redis::cmd("DEL").arg(lease)), 1);
    let receipt = other.api().disable(&wiped).await?;
    assert_eq!((receipt.status, &receipt.json()["unregistered"]), (200, &json!(true)), "{}", receipt.text());
    world.relay.thaw();
    world.await_contacts(1).await?;
    let _caller = world.call()?;
    assert_eq!(world.push().await?["instance"], stays.id.as_str());
    Ok(())
}
