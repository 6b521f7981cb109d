//! The store goes away in the middle: what is known goes on, what is new waits, and what was wiped stays wiped.

use tests::redis_server::RedisServer;
use tests::scene::{OTHER_TOKEN, Ringing, SOON, Scene, TOKEN, text};

use super::Outcome;
use super::registrations::rings;

/// Waits until `/readyz` says so: "ready" and "degraded" are 200, "not-ready" is 503.
async fn await_readiness(scene: &Scene, says: &str) -> Result<String, tests::board::Missed> {
    let operator = scene.relay.operator();
    let look = || async {
        let answer = operator.get("/readyz").await.ok()?;
        let told = answer.problem().unwrap_or_else(|| text(&answer.json()["status"]));
        let status = if says == "not-ready" { 503 } else { 200 };
        (told == says && answer.status == status).then(|| answer.text())
    };
    scene.until(&format!("{says} from /readyz"), look).await
}

#[tokio::test]
async fn without_redis_known_bindings_ring_enabling_is_503_and_readyz_says_why() -> Outcome {
    let mut redis = RedisServer::start();
    let scene = Scene::with(|setup| setup.store = redis.url()).await?;
    let (one, two) = (scene.enable().await?, scene.enable_as(&scene.wish(OTHER_TOKEN)).await?);
    let kept = redis.instance_keys().len();
    redis.stop();
    for _ in 0..2 {
        let Ringing { caller, phone, .. } = scene.answered(&two).await?;
        caller.bye(SOON).await?;
        phone.unregister(SOON).await?;
    }
    let registered = scene.registrar.registers(&scene.aor()).len();
    let answer = scene.api.enable(&scene.wish(&TOKEN.replace('a', "b"))).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
    assert_eq!(scene.registrar.registers(&scene.aor()).len(), registered, "the SIP server was not bothered");
    assert_eq!(scene.api.read(&one).await?.status, 200, "what is here can be read");
    let change = serde_json::json!({"lifetime_s": 300_000});
    assert_eq!(scene.api.change(&one, &change).await?.status, 503, "a change that is not stored is not made");
    assert!(await_readiness(&scene, "degraded").await?.contains("known phones still ring"));
    assert_eq!(scene.relay.operator().get("/healthz").await?.status, 200, "the process serves");
    scene.await_metric("sipwake_store_up", 0.0).await?;

    redis.restart();
    await_readiness(&scene, "ready").await?;
    scene.await_metric("sipwake_store_up", 1.0).await?;
    // It came back empty: what is known here is written again.
    scene.until("the records again", || async { (redis.instance_keys().len() == kept).then_some(()) }).await?;
    assert_eq!(scene.api.change(&one, &change).await?.status, 200);
    let three = scene.enable_as(&scene.wish(&TOKEN.replace('a', "b"))).await?;
    scene.registrar.await_contacts(&scene.aor(), 1, SOON).await?;
    rings(&scene, &three).await?;
    for instance in [&one, &two, &three] {
        assert_eq!(scene.api.disable(instance).await?.status, 200);
    }
    scene.registrar.await_contacts(&scene.aor(), 0, SOON).await?;
    scene.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    scene.content()
}

#[tokio::test]
async fn a_wipe_while_redis_does_not_answer_is_completed_when_it_does() -> Outcome {
    let redis = RedisServer::start();
    let scene = Scene::with(|setup| setup.store = redis.url()).await?;
    let instance = scene.enable().await?;
    assert!(!redis.instance_keys().is_empty());
    redis.freeze();
    let answer = scene.api.disable(&instance).await?;
    assert_eq!((answer.status, answer.json()), (202, serde_json::json!({"state": "wiping"})), "{}", answer.text());
    scene.registrar.await_contacts(&scene.aor(), 0, SOON).await?;
    assert!(scene.wake(&instance).await.is_err());
    redis.thaw();
    scene.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    assert_eq!(scene.api.read(&instance).await?.status, 404);
    let answer = scene.api.disable(&instance).await?;
    assert_eq!((answer.status, &answer.json()["unregistered"]), (200, &serde_json::json!(true)), "{}", answer.text());
    // It does not come back by itself either.
    await_readiness(&scene, "ready").await?;
    assert_eq!(scene.registrar.contacts(&scene.aor()).len(), 0);
    scene.content()
}

#[tokio::test]
async fn an_enabling_that_cannot_be_stored_in_the_end_is_unregistered_again() -> Outcome {
    let redis = RedisServer::start();
    let scene = Scene::with(|setup| setup.store = redis.url()).await?;
    let aor = scene.aor();
    scene.registrar.behave(&aor, tests::registrar::Behaviour::Slow(std::time::Duration::from_millis(800)));
    let wish = scene.wish(TOKEN);
    let freeze = async {
        scene.registrar.await_registers(&aor, 1, SOON).await?;
        redis.freeze();
        Ok::<_, tests::board::Missed>(())
    };
    let (answer, frozen) = tokio::join!(scene.api.enable(&wish), freeze);
    frozen?;
    let answer = answer?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
    redis.thaw();
    scene.registrar.behave(&aor, tests::registrar::Behaviour::Accept);
    scene.registrar.await_contacts(&aor, 0, SOON).await?;
    scene.until("an empty store", || async { redis.instance_keys().is_empty().then_some(()) }).await?;
    let instance = scene.enable().await?;
    rings(&scene, &instance).await
}

#[tokio::test]
async fn a_relay_that_starts_before_its_store_becomes_ready_with_it() -> Outcome {
    let mut redis = RedisServer::start();
    let mut scene = Scene::with(|setup| setup.store = redis.url()).await?;
    let instance = scene.enable().await?;
    redis.freeze();
    scene.relay.kill_9().await?;
    scene.relay.relaunch()?;
    assert!(await_readiness(&scene, "not-ready").await?.contains("store"));
    let answer = scene.api.read(&instance).await?;
    assert_eq!(answer.status, 503, "it may be there: {}", answer.text());
    redis.thaw();
    await_readiness(&scene, "ready").await?;
    scene
        .until("the instance", || async {
            let answer = scene.api.read(&instance).await.ok()?;
            (answer.status == 200 && answer.json()["registration"]["state"] == "registered").then_some(())
        })
        .await?;
    rings(&scene, &instance).await?;
    redis.stop();
    Ok(())
}
