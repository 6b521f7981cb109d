//! Phones without Google, and browsers: Web Push from the enabling to the wipe.

use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::authority::Authority;
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::redis_server::RedisServer;
use tests::webpush::{Answer, ReceivedPush, Subscription, WebPush, application_key};
use tests::world::{SOON, World, text};

type Outcome = tests::world::Outcome;

/// A world whose app has Web Push, and the service that its devices have chosen.
async fn world(change: impl FnOnce(&mut tests::relay_setup::Setup)) -> Result<(World, WebPush, Authority), Missed> {
    let authority = Authority::new();
    let push_server = WebPush::start(&authority).await;
    let settings = push_server.settings();
    let world = World::with(|setup| {
        setup.apps[0].webpush = Some(settings);
        change(setup);
    })
    .await?;
    Ok((world, push_server, authority))
}

async fn enabled(world: &World, device: &Subscription) -> Result<Instance, Missed> {
    let instance = world.api.enabled(&world.enable_request_for(json!({"call_push": device.target()}))).await?;
    for (what, secret) in [("an instance's secret", &instance.secret), ("an endpoint", &device.token)] {
        world.secrets.keep(what, secret);
    }
    Ok(instance)
}

async fn next(push_server: &WebPush) -> Result<ReceivedPush, Missed> {
    push_server
        .next_push(SOON * 2)
        .await
        .ok_or_else(|| Missed::new("a push by Web Push", push_server.violations().join("; ")))
}

/// The next pushes are of these events, in whatever order.
async fn events(push_server: &WebPush, awaited: &[&str]) -> Result<Vec<Value>, Missed> {
    let mut pushes = Vec::new();
    for _ in awaited {
        pushes.push(next(push_server).await?.payload);
    }
    let mut found: Vec<String> = pushes.iter().map(|push| text(&push["event"])).collect();
    found.sort_unstable();
    assert_eq!(found, awaited);
    Ok(pushes)
}

#[tokio::test]
async fn a_phone_without_google_rings_is_told_of_the_end_and_of_messages_and_its_gone_subscription_wipes_it() -> Outcome
{
    let redis = RedisServer::start();
    let (mut world, push_server, authority) = world(|setup| setup.store = redis.url()).await?;
    let key = world.api.get("/v1/webpush-key").await?;
    assert_eq!((key.status, key.json()), (200, json!({"public_key": application_key(&authority)})));
    let device = push_server.subscribe();
    let instance = enabled(&world, &device).await?;
    let export = world.api.of("GET", &instance, "/export").await?;
    assert_eq!(export.json()["device"]["call_push"], json!({"provider": "webpush"}));
    assert!(!export.text().contains(&device.token), "{}", export.text());

    let caller = world.call()?;
    let push = next(&push_server).await?;
    assert_eq!((push.token.as_str(), push.ttl, push.urgency.as_str()), (device.token.as_str(), 0, "high"));
    assert_eq!((&push.payload["event"], &push.payload["from"]), (&json!("call"), &json!("sip:bob@example.test")));
    assert_eq!(push.payload["instance"], instance.id.as_str());
    assert!(!String::from_utf8_lossy(&push.body).contains("bob"), "the service reads nothing");
    caller.expect(180, SOON).await?;
    world.talks(&caller, &instance).await?;

    let caller = world.call()?;
    events(&push_server, &["call"]).await?;
    world.cancel(&caller).await?;
    let pushes = events(&push_server, &["call-ended", "missed-call"]).await?;
    assert!(pushes.iter().all(|push| push["call"].is_string()), "{pushes:?}");

    world.call_with(&CallOptions::request("MESSAGE").body("text/plain", "hello"))?.expect(202, SOON).await?;
    let push = next(&push_server).await?;
    assert_eq!((&push.payload["event"], push.urgency.as_str()), (&json!("message"), "normal"));
    assert!(push.ttl > 2 * 86_400, "as long as it is kept: {}", push.ttl);

    world.relay.kill_9().await?;
    world.registrar.forget();
    world.relay.restart().await?;
    world.await_contacts(1).await?;
    let caller = world.call()?;
    events(&push_server, &["call"]).await?;
    world.cancel(&caller).await?;
    events(&push_server, &["call-ended", "missed-call"]).await?;

    push_server.answer_with(&device.token, [Answer::Status(410, None)]);
    world.call()?.expect(480, SOON).await?;
    world.await_gone(&instance).await?;
    world.await_metric("sipwake_wipes_total{reason=\"push-token-gone\"}", 1.0).await?;
    let pushed = "sipwake_app_pushes_total{provider=\"webpush\",outcome=\"gone\",app=\"com.example.phone\"}";
    world.await_metric(pushed, 1.0).await?;
    assert_eq!(push_server.violations(), Vec::<String>::new());
    world.content()
}

#[tokio::test]
async fn what_is_no_subscription_is_refused_and_an_endpoint_that_leads_inside_reaches_nobody() -> Outcome {
    let (world, push_server, _authority) = world(|_| {}).await?;
    let good = push_server.subscribe().target();
    for (member, wrong) in [
        ("endpoint", json!("http://push.example.net/x")),
        ("endpoint", json!("https://user@push.example.net/x")),
        ("endpoint", json!("push.example.net")),
        ("endpoint", json!("https://push.example.net:99999/x")),
        ("endpoint", json!(format!("https://push.example.net/{}", "x".repeat(2_048)))),
        ("endpoint", Value::Null),
        ("p256dh", json!("AAAA")),
        ("p256dh", json!(format!("BA{}", "A".repeat(85)))),
        ("p256dh", Value::Null),
        ("auth", json!("short")),
        ("auth", json!(7)),
        ("token", json!("x")),
        ("environment", json!("production")),
    ] {
        let mut target = good.clone();
        target[member] = wrong.clone();
        let answer = world.api.enable(&world.enable_request_for(json!({"call_push": target}))).await?;
        let pointer = format!("/device/call_push/{member}");
        assert_eq!((answer.status, &answer.json()["errors"][0]["pointer"]), (422, &json!(pointer)), "{wrong}");
    }
    let mut inside = good.clone();
    inside["endpoint"] = json!("https://10.0.0.1/x");
    let instance = world.api.enabled(&world.enable_request_for(json!({"call_push": inside}))).await?;
    world.call()?.expect(480, SOON).await?;
    let steps = world.api.of("GET", &instance, "/timeline").await?.json();
    let ended = steps["steps"].as_array().into_iter().flatten().find(|step| step["step"] == "push-ended");
    assert_eq!(ended.map(|step| step["reason"].clone()), Some(json!("EndpointNotAllowed")), "{steps}");
    // A new subscription mends it.
    let device = push_server.subscribe();
    world.change(&instance, json!({"device": {"call_push": device.target()}})).await?;
    let caller = world.call()?;
    assert_eq!(next(&push_server).await?.payload["event"], "call");
    world.cancel(&caller).await?;
    world.content()
}
