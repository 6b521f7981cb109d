//! A push service that fails: the operator hears which, why and since when, in the log, `/readyz`, the metrics and the page, and
//! before a start by `check --push`.

use serde_json::Value;
use tests::apns::Answer;
use tests::fcm;
use tests::world::{SOON, World};

use super::Outcome;
use crate::command_line::{said, sipwake};

#[tokio::test(flavor = "multi_thread")]
async fn a_push_service_that_fails_is_named_everywhere_and_takes_no_relay_out_of_service() -> Outcome {
    let (world, _instance) = World::lent().await?;
    let readyz = async || {
        let answer = world.relay.operator().get("/readyz").await.ok()?;
        Some((answer.status, answer.json()))
    };
    let fails = |body: &Value, service: &str| {
        let degraded = body["degraded"].as_array().cloned().unwrap_or_default();
        degraded.into_iter().find(|one| one["service"] == service)
    };
    assert_eq!(readyz().await.map(|(status, body)| (status, body["degraded"].clone())), Some((200, Value::Null)));
    world.apns.answer_all(Some(Answer::InvalidProviderToken));
    let caller = world.call()?;
    caller.expect(480, SOON).await?;
    let (status, body) = world.until("the answer of /readyz", readyz).await?;
    let apns = fails(&body, "apns").expect("it is named");
    assert_eq!(status, 200, "the app's other service has not failed");
    assert_eq!((&apns["app"], &apns["reason"]), (&"com.example.phone".into(), &"InvalidProviderToken".into()));
    assert!(apns["since"].is_string() && apns["last_accepted"].is_null(), "{apns}");
    assert!(apns["why"].as_str().is_some_and(|why| why.contains("key_id")), "{apns}");
    let told = world.relay.await_log("the push service fails", SOON).await?;
    assert!(
        told.contains("WARN") && told.contains("InvalidProviderToken") && told.contains("com.example.phone"),
        "{told}"
    );
    world.await_metric("sipwake_push_service_up{provider=\"apns\",app=\"com.example.phone\"}", 0.0).await?;
    world
        .await_metric("sipwake_app_pushes_total{provider=\"apns\",outcome=\"refused\",app=\"com.example.phone\"}", 1.0)
        .await?;
    let page = world.relay.operator().get("/").await?;
    assert!(page.text().contains("APNs com.example.phone") && page.text().contains("key_id"), "{}", page.text());

    let check = sipwake(&["check", "--push", "--config", world.relay.config().to_str().unwrap_or_default()]);
    assert_eq!(check.status.code(), Some(1));
    assert!(said(&check).contains("apns takes no push: InvalidProviderToken"), "{}", said(&check));
    assert!(String::from_utf8_lossy(&check.stdout).contains("fcm takes pushes"), "{check:?}");

    let _android = world.enable_android().await?;
    world.fcm.answer_all(Some(fcm::Answer::denied()));
    let caller = world.call()?;
    caller.expect(480, SOON).await?;
    world.await_metric("sipwake_push_service_up{provider=\"fcm\",app=\"com.example.phone\"}", 0.0).await?;
    let (status, body) = world.until("the answer of /readyz", readyz).await?;
    assert!(fails(&body, "apns").is_some() && fails(&body, "fcm").is_some(), "{body}");
    assert_eq!((status, &body["status"]), (200, &"degraded".into()), "what needs no push is served: {body}");

    world.apns.answer_all(None);
    let caller = world.call()?;
    caller.expect(180, SOON).await?;
    let (status, body) = world.until("the answer of /readyz", readyz).await?;
    assert_eq!((status, fails(&body, "apns")), (200, None), "it is well again: {body}");
    assert_eq!(world.relay.log().matches("the push service fails").count(), 2, "one line for one change of each");
    Ok(())
}
