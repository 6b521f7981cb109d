//! An app that hangs up before it has the answer to its enabling.

use std::time::Duration;

use hyper::Version;
use serde_json::Value;
use tests::api_client::ApiClient;
use tests::registrar::Behaviour;
use tests::world::World;

use super::Outcome;

/// Asks, and hangs up when the SIP server has been asked.
async fn hangs_up(world: &World, api: ApiClient, wish: &Value) -> Outcome {
    let before = world.registrar.registers(&world.aor()).len();
    let is_asked = || async { (world.registrar.registers(&world.aor()).len() > before).then_some(()) };
    let asked = world.until("a REGISTER", is_asked);
    tokio::select! {
        biased;
        asked = asked => asked,
        answer = api.enable(wish) => panic!("it was answered: {answer:?}"),
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
    let wish = world.android_wish("token-of-who-hangs-up");
    let slow = || world.registrar.behave(&world.aor(), Behaviour::Slow(Duration::from_millis(500)));
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let api = || world.relay.setup().api_over(version);
        // Before the SIP server has answered.
        world.registrar.behave(&world.aor(), Behaviour::Silence);
        hangs_up(&world, api(), &wish).await?;
        serves(&world, 0.0).await?;
        // While it answers.
        slow();
        hangs_up(&world, api(), &wish).await?;
        world.await_contacts(1).await?;
        world.await_contacts(0).await?;
        serves(&world, 0.0).await?;
        // Beside an earlier one.
        world.registrar.behave(&world.aor(), Behaviour::Accept);
        let standing = world.enable_as(&wish).await?;
        slow();
        hangs_up(&world, api(), &wish).await?;
        serves(&world, 1.0).await?;
        world.registrar.behave(&world.aor(), Behaviour::Accept);
        world.whole_call(&standing).await?;
        world.disable(&standing).await?;
        world.await_contacts(0).await?;
    }
    Ok(())
}
