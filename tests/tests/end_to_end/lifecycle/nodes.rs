//! Two nodes with one store: what one of them ends, the other lets go of.

use serde_json::json;
use tests::board::Missed;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::scene::{OTHER_TOKEN, SOON, Scene, TOKEN};

use super::{Outcome, records};

/// A scene, and a second node with its store and its keyring.
async fn two_nodes(redis: &RedisServer) -> Result<(Scene, RelayProcess), Missed> {
    let scene = Scene::between(|server| server.contacts = 2, |setup| setup.store = redis.url()).await?;
    let mut setup = scene.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    Ok((scene, other))
}

#[tokio::test]
async fn an_account_that_is_enabled_again_on_another_node_is_let_go_of_by_the_first() -> Outcome {
    let redis = RedisServer::start();
    let (scene, other) = two_nodes(&redis).await?;
    let earlier = scene.enable().await?;
    let alone = records(&redis).len();
    let later = other.api().enabled(&scene.wish(TOKEN)).await.map_err(|error| Missed::new("201", error.to_string()))?;
    scene.await_gone(&earlier).await?;
    let contacts = scene.registrar.await_contacts(&scene.aor(), 1, SOON).await?;
    assert_eq!(contacts.len(), 1, "the first node has unregistered its Contact");
    assert_eq!(other.api().read(&later).await?.status, 200);
    scene.until("one record", || async { (records(&redis).len() == alone).then_some(()) }).await
}

#[tokio::test]
async fn a_token_that_another_instance_takes_by_a_change_ends_its_earlier_holder_there_or_elsewhere() -> Outcome {
    let redis = RedisServer::start();
    let (scene, other) = two_nodes(&redis).await?;
    for api in [&scene.api, &other.api()] {
        let holder = scene.enable().await?;
        let taker =
            api.enabled(&scene.wish(OTHER_TOKEN)).await.map_err(|error| Missed::new("201", error.to_string()))?;
        let change = json!({"device": {"call_push": {"provider": "apns", "token": TOKEN}}});
        assert_eq!(api.change(&taker, &change).await?.status, 200);
        scene.await_gone(&holder).await?;
        assert_eq!(api.read(&taker).await?.status, 200);
        assert_eq!(scene.registrar.await_contacts(&scene.aor(), 1, SOON).await?.len(), 1);
        assert_eq!(api.disable(&taker).await?.status, 200);
        scene.until("an empty store", || async { records(&redis).is_empty().then_some(()) }).await?;
    }
    Ok(())
}
