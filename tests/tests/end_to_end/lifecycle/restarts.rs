//! The process ends, by itself or not: bindings are never unregistered for it, and everything is there again after it.

use std::time::Duration;

use serde_json::json;
use tests::redis_server::RedisServer;
use tests::scene::{FCM_TOKEN, OTHER_TOKEN, SOON, Scene};

use super::Outcome;
use super::registrations::rings;

#[tokio::test]
async fn after_kill_9_all_live_instances_are_registered_again_and_their_secrets_work() -> Outcome {
    let redis = RedisServer::start();
    let mut scene = Scene::with(|setup| setup.store = redis.url()).await?;
    let one = scene.enable().await?;
    let android = scene.wish_for(json!({"call_push": {"provider": "fcm", "token": FCM_TOKEN}}));
    let two = scene.enable_as(&android).await?;
    let away = scene.enable_as(&scene.wish(OTHER_TOKEN)).await?;
    let gone = scene.enable_as(&scene.wish(&OTHER_TOKEN.replace('0', "f"))).await?;
    assert_eq!(scene.api.change(&away, &json!({"presence": "foreground"})).await?.status, 200);
    assert_eq!(scene.api.disable(&gone).await?.status, 200);
    // Those of one account share a Contact.
    scene.registrar.await_contacts(&scene.aor(), 1, SOON).await?;
    for _ in 0..2 {
        let seen = scene.registrar.registers(&scene.aor()).len();
        scene.relay.kill_9().await?;
        // The SIP server forgets them too: whatever is there afterwards was registered anew.
        scene.registrar.forget();
        scene.relay.restart().await?;
        scene.registrar.await_contacts(&scene.aor(), 1, SOON).await?;
        assert!(scene.registrar.registers(&scene.aor()).len() > seen);
    }
    for (instance, state) in [(&one, "active"), (&two, "active"), (&away, "foreground")] {
        scene
            .until(state, || async {
                let answer = scene.api.read(instance).await.ok()?;
                (answer.status == 200 && answer.json()["state"] == state).then_some(())
            })
            .await?;
    }
    assert_eq!(scene.api.read(&gone).await?.status, 404, "what was wiped stays wiped");
    for instance in [&one, &two] {
        let caller = scene.call()?;
        let (push, _) = (scene.push().await?, scene.android_push().await?);
        assert_eq!(push["instance"], one.id.as_str());
        let phone = scene.wake(instance).await?;
        let call = phone.next_invite(SOON).await?;
        scene.answer(&caller, &call).await?;
        caller.bye(SOON).await?;
        // It has been told that the other one answered.
        if instance.id == one.id {
            assert_eq!(scene.android_push().await?["event"], "call-ended");
        }
        phone.unregister(SOON).await?;
        scene.content_with(&[&caller], &[&phone])?;
    }
    for instance in [&one, &two, &away] {
        assert_eq!(scene.api.disable(instance).await?.status, 200);
    }
    scene.registrar.await_contacts(&scene.aor(), 0, SOON).await?;
    assert_eq!(redis.instance_keys(), Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn after_kill_9_no_stale_contact_is_left_beside_the_new_one() -> Outcome {
    let redis = RedisServer::start();
    let mut scene = Scene::with(|setup| setup.store = redis.url()).await?;
    let instance = scene.enable().await?;
    let before = scene.registrar.contacts(&scene.aor());
    scene.relay.kill_9().await?;
    scene.relay.restart().await?;
    let registrar = scene.registrar.clone();
    scene
        .until("a new flow", || async {
            registrar.contacts(&scene.aor()).iter().any(|it| it.flow.id() != before[0].flow.id()).then_some(())
        })
        .await?;
    let after = scene.registrar.contacts(&scene.aor());
    assert_eq!((after.len(), &after[0].instance), (1, &before[0].instance));
    rings(&scene, &instance).await
}

#[tokio::test]
async fn a_held_call_is_handed_over_while_the_relay_drains() -> Outcome {
    let redis = RedisServer::start();
    let mut scene = Scene::with(|setup| setup.store = redis.url()).await?;
    let instance = scene.enable().await?;
    let (caller, _) = scene.call_and_push().await?;
    let relay = &scene.relay;
    let meanwhile = async {
        relay.await_log("drain", SOON).await?;
        let phone = scene.wake(&instance).await?;
        let call = phone.next_invite(SOON).await?;
        scene.answer(&caller, &call).await?;
        scene.content_with(&[&caller], &[&phone])
    };
    let (exit, answered) = tokio::join!(relay.terminate(Duration::from_secs(20)), meanwhile);
    answered?;
    assert_eq!(exit?.code(), Some(0));
    let contacts = scene.registrar.contacts(&scene.aor());
    assert_eq!(contacts.len(), 1, "another process takes the binding over");
    assert!(!redis.instance_keys().is_empty());
    scene.relay.restart().await?;
    scene
        .until("the instance again", || async {
            let contacts = scene.registrar.contacts(&scene.aor());
            contacts.iter().any(|contact| contact.flow.is_open()).then_some(())
        })
        .await?;
    rings(&scene, &instance).await
}

#[tokio::test]
async fn a_drain_ends_in_time_although_a_phone_never_comes() -> Outcome {
    let scene = Scene::start().await?;
    scene.enable().await?;
    let (caller, _) = scene.call_and_push().await?;
    let exit = scene.relay.terminate(Duration::from_secs(20)).await?;
    assert_eq!(exit.code(), Some(0));
    let last = caller.final_response(SOON).await;
    assert!(last.is_ok(), "a held call is finished or answered: {last:?}");
    assert_eq!(scene.registrar.contacts(&scene.aor()).len(), 1, "a drain unregisters nothing");
    Ok(())
}

#[tokio::test]
async fn a_relay_without_calls_drains_at_once() -> Outcome {
    let scene = Scene::start().await?;
    scene.enable().await?;
    let began = std::time::Instant::now();
    let exit = scene.relay.terminate(Duration::from_secs(20)).await?;
    assert_eq!(exit.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(9));
    assert_eq!(scene.registrar.contacts(&scene.aor()).len(), 1);
    Ok(())
}
