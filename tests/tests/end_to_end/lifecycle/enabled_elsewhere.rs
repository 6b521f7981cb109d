//! An enabling that ends at another node than the one that was asked.

use std::time::Duration;

use hyper::Version;
use serde_json::Value;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::redis_server::RedisServer;
use tests::registrar::{Behaviour, Settings};
use tests::relay_process::RelayProcess;
use tests::world::{FCM_TOKEN, OTHER_TOKEN, SOON, World};

use super::Outcome;
use super::nodes::{nodes_between, two_nodes_with};

/// A registrar that allows an account one Contact.
fn of_one_contact(server: &mut Settings) {
    server.contacts = 1;
}

async fn is_registered_at(world: &World, node: &RelayProcess, instance: &Instance) -> Outcome {
    let is_registered = || async {
        let told = node.api().read(instance).await.ok()?;
        (told.status == 200 && told.json()["registration"]["state"] == "registered").then_some(())
    };
    world.until("a registration", is_registered).await
}

/// Waits for one more REGISTER of the account.
async fn registers(world: &World) -> Outcome {
    let before = world.registrar.registers(&world.aor()).len();
    let is_asked = || async { (world.registrar.registers(&world.aor()).len() > before).then_some(()) };
    world.until("a REGISTER", is_asked).await
}

/// Enables at a node that is told to end while the SIP server is slow.
async fn enable_at_its_end(world: &World, request: &Value) -> Result<Instance, Missed> {
    world.registrar.behave(&world.aor(), Behaviour::Slow(Duration::from_secs(2)));
    let api = world.relay.api();
    let ends = async {
        registers(world).await?;
        world.relay.terminate(SOON * 2).await
    };
    let (answer, left) = tokio::join!(api.enable(request), ends);
    assert!(left?.success());
    let answer = answer?;
    assert_eq!(answer.status, 202, "no SIP server is waited for: {}", answer.text());
    Ok(Instance::new(request, answer.json()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_enabled_when_its_node_is_told_to_end_is_handed_over_with_the_rest() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    let enabled = enable_at_its_end(&world, &world.android_enable_request(FCM_TOKEN)).await?;
    is_registered_at(&world, &other, &enabled).await?;
    world.await_contacts(1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_enabled_again_when_its_node_is_told_to_end_goes_on_at_another() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    let request = world.android_enable_request(FCM_TOKEN);
    let earlier = world.enable_as(&request).await?;
    let enabled = enable_at_its_end(&world, &request).await?;
    is_registered_at(&world, &other, &enabled).await?;
    let is_gone = || async { (other.api().read(&earlier).await.ok()?.status == 404).then_some(()) };
    world.until("the end of the earlier one", is_gone).await?;
    world.await_contacts(1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_hangs_up_has_enabled_nothing_and_ended_nothing_at_the_node_that_enables_its_device() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = two_nodes_with(&redis, |_| {}).await?;
    let first = world.enable().await?;
    let request = world.android_enable_request(FCM_TOKEN);
    let records = || redis.keys().into_iter().filter(|key| key.starts_with("sipwake:i:")).count();
    for (count, version) in [Version::HTTP_11, Version::HTTP_2].into_iter().enumerate() {
        world.registrar.behave(&world.aor(), Behaviour::Slow(Duration::from_millis(700)));
        let api = other.setup().api_over(version);
        // The connection ends with the client.
        tokio::select! {
            biased;
            asked = registers(&world) => asked?,
            answer = api.enable(&request) => panic!("it was answered: {answer:?}"),
        }
        drop(api);
        let given_up = || async { (world.relay.log().matches("enabling-given-up").count() > count).then_some(()) };
        world.until("an enabling that is given up", given_up).await?;
        assert_eq!(records(), 1 + count, "nothing is kept of it");
        world.registrar.behave(&world.aor(), Behaviour::Accept);
        if count == 0 {
            // From here on beside an earlier one.
            other.api().enabled(&request).await?;
        }
    }
    world.await_metric("sipwake_instances{state=\"registered\"}", 2.0).await?;
    is_registered_at(&world, &other, &first).await
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_two_nodes_enable_while_their_sip_server_is_away_share_a_contact() -> Outcome {
    let redis = RedisServer::start();
    let (world, other) = nodes_between(&redis, of_one_contact, |_| {}).await?;
    world.registrar.behave(&world.aor(), Behaviour::RetryAfter(3));
    let one = world.api.enabled(&world.android_enable_request(FCM_TOKEN)).await?;
    let two = other.api().enabled(&world.enable_request(OTHER_TOKEN)).await?;
    assert_eq!(two.edge, one.edge, "the node that has the account has both");
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    for instance in [&one, &two] {
        is_registered_at(&world, &other, instance).await?;
    }
    world.await_contacts(1).await?;
    Ok(())
}
