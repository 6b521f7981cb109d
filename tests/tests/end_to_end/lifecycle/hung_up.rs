//! An app that hangs up before it has the answer to its enabling.

use std::time::Duration;

use hyper::Version;
use serde_json::Value;
use tests::api_client::{ApiClient, Instance};
use tests::board::Missed;
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::registrar::Behaviour;
use tests::world::World;

use super::Outcome;

/// Asks, and hangs up when the SIP server has been asked.
async fn hangs_up(world: &World, api: ApiClient, request: &Value) -> Outcome {
    let before = world.registrar.registers(&world.aor()).len();
    let is_asked = || async { (world.registrar.registers(&world.aor()).len() > before).then_some(()) };
    hangs_up_at(world.until("a REGISTER", is_asked), api, request).await
}

/// Asks, and hangs up at this moment.
async fn hangs_up_at(moment: impl Future<Output = Outcome>, api: ApiClient, request: &Value) -> Outcome {
    tokio::select! {
        biased;
        come = moment => come,
        answer = api.enable(request) => panic!("it was answered: {answer:?}"),
    }
}

/// Nobody but these is served any more.
async fn serves(world: &World, registered: f64) -> Outcome {
    for (state, count) in [("registering", 0.0), ("retrying", 0.0), ("registered", registered), ("ending", 0.0)] {
        world.await_metric(&format!("sipwake_instances{{state=\"{state}\"}}"), count).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_hangs_up_before_its_answer_has_enabled_nothing_and_ended_nothing() -> Outcome {
    let world = World::start().await?;
    let request = world.android_enable_request("token-of-who-hangs-up");
    let slow = || world.registrar.behave(&world.aor(), Behaviour::Slow(Duration::from_millis(500)));
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let api = || world.relay.setup().api_over(version);
        // Before the SIP server has answered.
        world.registrar.behave(&world.aor(), Behaviour::Silence);
        hangs_up(&world, api(), &request).await?;
        serves(&world, 0.0).await?;
        // While it answers.
        slow();
        hangs_up(&world, api(), &request).await?;
        world.await_contacts(1).await?;
        world.await_contacts(0).await?;
        serves(&world, 0.0).await?;
        // Beside an earlier one.
        world.registrar.behave(&world.aor(), Behaviour::Accept);
        let standing = world.enable_as(&request).await?;
        slow();
        hangs_up(&world, api(), &request).await?;
        serves(&world, 1.0).await?;
        world.registrar.behave(&world.aor(), Behaviour::Accept);
        world.whole_call(&standing).await?;
        world.disable(&standing).await?;
        world.await_contacts(0).await?;
    }
    Ok(())
}

/// A relay whose way to the store can be slowed down, with an instance, and the request that enabled it.
async fn behind_a_slow_gate(redis: &RedisServer) -> Result<(World, Gate, Value, Instance), Missed> {
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    gate.open_slow(Duration::from_millis(1))?;
    let store = format!("redis://{}", gate.address());
    let world = World::between(|_| {}, |setup| setup.store = store).await?;
    let request = world.android_enable_request("token-of-who-hangs-up");
    let standing = world.enable_as(&request).await?;
    Ok((world, gate, request, standing))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_sip_server_accepts_at_last_is_not_stored_before_its_enabling_has_stored_it() -> Outcome {
    let redis = RedisServer::start();
    let (world, gate, request, standing) = behind_a_slow_gate(&redis).await?;
    // Just longer than an enabling waits; what it asks the store then takes longer than the rest.
    world.registrar.behave(&world.aor(), Behaviour::Slow(Duration::from_millis(6_050)));
    gate.slow_down(Duration::from_millis(200));
    let records = || redis.keys().into_iter().filter(|key| key.starts_with("sipwake:i:")).count();
    let is_stored = || async { (records() > 1).then_some(()) };
    let stored = world.until("a second record", is_stored);
    hangs_up_at(stored, world.relay.setup().api_over(Version::HTTP_11), &request).await?;
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    gate.slow_down(Duration::ZERO);
    let is_gone = || async { (records() == 1).then_some(()) };
    world.until("nothing of what was given up", is_gone).await?;
    assert_eq!(world.api.read(&standing).await?.status, 200, "the earlier one stands");
    serves(&world, 1.0).await?;
    world.whole_call(&standing).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_hangs_up_while_its_instance_is_being_stored_has_ended_no_earlier_one() -> Outcome {
    let redis = RedisServer::start();
    let (world, gate, request, standing) = behind_a_slow_gate(&redis).await?;
    let named = || -> Vec<Option<String>> {
        let lookups = redis.keys().into_iter().filter(|key| key.starts_with("sipwake:l:"));
        lookups.map(|lookup| redis.ask(redis::cmd("GET").arg(lookup))).collect()
    };
    for (count, version) in [Version::HTTP_11, Version::HTTP_2].into_iter().enumerate() {
        gate.slow_down(Duration::from_millis(100));
        let records = || redis.keys().into_iter().filter(|key| key.starts_with("sipwake:i:")).count();
        let is_stored = || async { (records() > 1).then_some(()) };
        let stored = world.until("a second record", is_stored);
        hangs_up_at(stored, world.relay.setup().api_over(version), &request).await?;
        gate.slow_down(Duration::ZERO);
        let undelivered = || async { (world.relay.log().matches("answer-undelivered").count() > count).then_some(()) };
        world.until("an answer that nobody waits for", undelivered).await?;
        serves(&world, 1.0).await?;
        assert_eq!(world.api.read(&standing).await?.status, 200);
        let is_named = || async { (named() == [Some(standing.id.clone())]).then_some(()) };
        world.until("the one that stands, to be found again", is_named).await?;
        world.whole_call(&standing).await?;
    }
    // What is enabled then takes its place.
    let next = world.enable_as(&request).await?;
    world.await_gone(&standing).await?;
    serves(&world, 1.0).await?;
    world.whole_call(&next).await
}
