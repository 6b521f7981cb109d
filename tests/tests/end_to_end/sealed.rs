//! With the public key of a device, whom a push tells of is read by the device alone.

use relay::hpke::PrivateKey;
use relay::push::payload::sealed;
use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::world::{FCM_TOKEN, OTHER_TOKEN, SOON, TOKEN, World, apple, google, text};

type Outcome = tests::world::Outcome;

/// The caller, and parts of what names him: none may be seen.
const CALLER: &str = "\"Ludovico Settembrini\" <sip:+390112233445@caller.test>";
const NAMES: [&str; 4] = ["ludovico", "settembrini", "390112233445", "caller.test"];

fn key() -> (PrivateKey, String) {
    let private = PrivateKey::generate().expect("randomness");
    let public = private.public().expect("a key").to_string();
    (private, public)
}

fn by(caller: &str) -> CallOptions {
    CallOptions::default().from(caller)
}

fn opened(key: &PrivateKey, push: &Value) -> Value {
    sealed::opened(key, push).unwrap_or_else(|| panic!("it cannot be opened: {push}"))
}

fn names_the_caller(push: &Value) {
    let expected = (json!("sip:+390112233445@caller.test"), json!("Ludovico Settembrini"));
    assert_eq!((push["from"].clone(), push["name"].clone()), expected, "{push}");
}

/// The next push of a call on APNs, opened.
async fn call_is_sealed_to(world: &World, key: &PrivateKey) -> Outcome {
    let caller = world.call_with(&by(CALLER))?;
    names_the_caller(&opened(key, &world.push().await?));
    world.cancel(&caller).await
}

#[tokio::test]
async fn no_push_of_any_kind_names_the_caller_on_any_service_and_the_device_reads_who_it_is() -> Outcome {
    let world = World::start().await?;
    let (private, public) = key();
    let iphone = json!({"call_push": apple(TOKEN), "alert_push": apple(OTHER_TOKEN), "public_key": public});
    let iphone = world.enable_as(&world.enable_request_for(iphone)).await?;
    let android = json!({"call_push": google(FCM_TOKEN), "public_key": public});
    world.enable_as(&world.enable_request_for(android)).await?;

    let caller = world.call_with(&by(CALLER))?;
    for push in [world.push().await?, world.android_push().await?] {
        names_the_caller(&opened(&private, &push));
        assert_eq!((&push["event"], push.get("from"), push.get("name")), (&json!("call"), None, None));
        assert!(push["call"].is_string() && push["edge"].is_string() && push["deadline"].is_u64(), "{push}");
    }
    world.cancel(&caller).await?;
    names_the_caller(&opened(&private, &world.alert("missed-call").await?));
    world.android_pushes(&["missed-call", "call-ended"]).await?;

    let writing = CallOptions::request("MESSAGE").from(CALLER).body("text/plain", "it is Ludovico");
    world.call_with(&writing)?.expect(202, SOON).await?;
    let told = opened(&private, &world.alert("message").await?);
    names_the_caller(&told);
    assert!(text(&told["message"]).starts_with("m_"), "{told}");
    world.android_pushes(&["message"]).await?;

    let notice = "Messages-Waiting: yes\r\nMessage-Account: sip:+390112233445@caller.test\r\nVoice-Message: 1/0\r\n";
    let notify = CallOptions::request("NOTIFY").header("Event", "message-summary");
    let notify = notify.body("application/simple-message-summary", notice);
    world.call_with(&notify)?.expect(200, SOON).await?;
    let told = opened(&private, &world.alert("voicemail").await?);
    assert_eq!((&told["account"], &told["new"]), (&json!("sip:+390112233445@caller.test"), &json!(1)));
    world.android_pushes(&["voicemail"]).await?;

    assert_eq!(world.api.of("POST", &iphone, "/test").await?.status, 202);
    world.alert("test").await?;

    let apple = world.apns.pushes().into_iter().map(|push| push.payload);
    let pushes: Vec<Value> = apple.chain(world.fcm.pushes().into_iter().map(|push| push.payload)).collect();
    assert!(pushes.len() >= 10, "{pushes:?}");
    for push in &pushes {
        let body = push.to_string().to_lowercase();
        assert!(NAMES.iter().all(|name| !body.contains(name)), "{body}");
    }
    world.content()
}

#[tokio::test]
async fn a_key_is_changed_and_dropped_survives_a_restart_and_goes_with_the_instance_to_another_node() -> Outcome {
    let redis = RedisServer::start();
    let mut world = World::between(|server| server.contacts = 2, |setup| setup.store = redis.url()).await?;
    let (first, public) = key();
    let instance = json!({"call_push": apple(TOKEN), "public_key": public});
    let instance = world.enable_as(&world.enable_request_for(instance)).await?;
    for rest in ["", "/export"] {
        let seen = world.api.of("GET", &instance, rest).await?.json();
        assert_eq!(seen["device"]["public_key"], public, "{seen}");
    }
    call_is_sealed_to(&world, &first).await?;

    let (second, public) = key();
    let changed = world.change(&instance, json!({"device": {"public_key": public}})).await?;
    assert_eq!(changed["device"]["public_key"], public);
    call_is_sealed_to(&world, &second).await?;
    // A new token, or alerts, keep it.
    world.change(&instance, json!({"device": {"call_push": apple(TOKEN), "alert_push": apple(OTHER_TOKEN)}})).await?;
    call_is_sealed_to(&world, &second).await?;
    names_the_caller(&opened(&second, &world.alert("missed-call").await?));

    world.relay.kill_9().await?;
    world.registrar.forget();
    world.relay.restart().await?;
    world.await_contacts(1).await?;
    call_is_sealed_to(&world, &second).await?;
    names_the_caller(&opened(&second, &world.alert("missed-call").await?));

    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    world.relay.kill_9().await?;
    world.registrar.forget();
    world.await_contacts(1).await?;
    call_is_sealed_to(&world, &second).await?;
    names_the_caller(&opened(&second, &world.alert("missed-call").await?));

    let dropped = other.api().change(&instance, &json!({"device": {"public_key": null}})).await?.json();
    assert_eq!(dropped["device"]["public_key"], Value::Null, "{dropped}");
    let caller = world.call_with(&by(CALLER))?;
    names_the_caller(&world.push().await?);
    world.cancel(&caller).await
}

#[tokio::test]
async fn a_key_that_nothing_can_be_sealed_to_is_refused_and_changes_nothing() -> Outcome {
    let (world, instance) = World::lent().await?;
    for (wrong, why) in [
        (json!("AAAA"), "32 bytes"),
        (json!("A".repeat(43)), "low order"),
        (json!(format!("AQ{}", "A".repeat(41))), "low order"),
        (json!(format!("{}8", "_".repeat(42))), "canonical"),
        (json!("0f".repeat(32)), "32 bytes"),
        (json!("not base64url!"), "base64url"),
        (json!(7), "a string"),
    ] {
        let request = world.enable_request_for(json!({"call_push": apple(OTHER_TOKEN), "public_key": wrong}));
        for answer in [
            world.api.enable(&request).await?,
            world.api.change(&instance, &json!({"device": {"public_key": wrong}})).await?,
        ] {
            let error = answer.json()["errors"][0].clone();
            assert_eq!((answer.status, &error["pointer"]), (422, &json!("/device/public_key")), "{}", answer.text());
            assert!(text(&error["detail"]).contains(why), "{wrong}: {error}");
        }
    }
    is_without(&world, &instance).await?;
    world.content()
}

async fn is_without(world: &World, instance: &Instance) -> Result<(), Missed> {
    assert_eq!(world.api.read(instance).await?.json()["device"]["public_key"], Value::Null);
    let caller = world.call_with(&by(CALLER))?;
    names_the_caller(&world.push().await?);
    world.cancel(&caller).await
}
