//! NOTIFY message-summary, unsolicited, as many SIP servers send it: counts become a push when they change.

use serde_json::{Value, json};
use sip::message::{Message, Name};
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::world::{OTHER_TOKEN, SOON, World};

use super::{Outcome, steps, words};

async fn notify(world: &World, event: &str, body: &str) -> Result<Message, Missed> {
    let options = CallOptions::request("NOTIFY").header("Event", event).header("Subscription-State", "active");
    let options = options.body("application/simple-message-summary", body);
    world.call_with(&options)?.final_response(SOON).await
}

async fn told(world: &World, voice: &str) -> Outcome {
    let waiting = if voice.starts_with("0/") { "no" } else { "yes" };
    let body =
        format!("Messages-Waiting: {waiting}\r\nMessage-Account: sip:alice@vm.test\r\nVoice-Message: {voice}\r\n");
    match notify(world, "message-summary", &body).await?.status() {
        Some(200) => Ok(()),
        other => Err(Missed::new("200 to NOTIFY", format!("{other:?}"))),
    }
}

#[tokio::test]
async fn counts_are_pushed_when_they_change_and_shown() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let voicemail = || async { Ok::<Value, Missed>(world.api.read(&instance).await?.json()["voicemail"].clone()) };
    told(&world, "0/0").await?;
    assert_eq!(voicemail().await?, Value::Null, "an empty mailbox is nothing to tell");
    told(&world, "2/8 (1/2)").await?;
    let push = world.alert("voicemail").await?;
    let counts = ["new", "old", "urgent", "waiting", "account"].map(|key| push[key].clone());
    assert_eq!(counts, [json!(2), json!(8), json!(1), json!(true), json!("sip:alice@vm.test")]);
    assert_eq!(voicemail().await?, json!({"waiting": true, "new": 2, "old": 8, "urgent": 1}));
    // The same again is nothing new; that all were heard is, and shows the user nothing.
    told(&world, "2/8 (1/2)").await?;
    told(&world, "0/10").await?;
    let emptied = world.apple_push().await?;
    assert_eq!((emptied.token.as_str(), emptied.push_type.as_str()), (OTHER_TOKEN, "background"));
    assert_eq!(emptied.payload["aps"], json!({"content-available": 1}));
    assert_eq!(emptied.payload["sipwake"]["new"], 0);
    assert_eq!(voicemail().await?, json!({"waiting": false, "new": 0, "old": 10}));
    let told = words(&steps(&world, &instance).await?);
    assert_eq!(told.iter().filter(|word| *word == "voicemail").count(), 2, "{told:?}");
    world.await_metric("sipwake_mwi_notifies_total{notice=\"changed\"}", 2.0).await?;
    world.await_metric("sipwake_mwi_notifies_total{notice=\"unchanged\"}", 2.0).await?;
    world.content()
}

#[tokio::test]
async fn what_was_true_before_is_tried_no_more_once_the_newest_is_told() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    world.apns.answer_all(Some(tests::apns::Answer::Unavailable { retry_after: None }));
    told(&world, "3/0").await?;
    world.until("its first try", || async { (world.apns.requests() > 0).then_some(()) }).await?;
    told(&world, "0/3").await?;
    world.apns.answer_all(None);
    let emptied = world.apple_push().await?;
    assert_eq!((emptied.push_type.as_str(), &emptied.payload["sipwake"]["new"]), ("background", &json!(0)));
    assert_eq!(world.api.of("POST", &instance, "/test").await?.status, 202);
    world.alert("test").await?;
    let pushes = world.apns.pushes();
    assert!(pushes.iter().all(|push| push.payload["sipwake"]["new"] != 3), "{pushes:?}");
    world.content()
}

#[tokio::test]
async fn who_does_not_want_voicemail_is_not_pushed_and_what_is_not_understood_is_refused() -> Outcome {
    let world = World::start().await?;
    let mut request = world.enable_request_with_alerts();
    request["wake_for"] = json!(["call", "message"]);
    let instance = world.enable_as(&request).await?;
    told(&world, "1/0").await?;
    assert_eq!(world.api.read(&instance).await?.json()["voicemail"]["new"], 1);
    let presence = notify(&world, "presence", "Messages-Waiting: no\r\n").await?;
    assert_eq!(
        (presence.status(), presence.values_written("Allow-Events").next()),
        (Some(489), Some(&b"message-summary"[..]))
    );
    assert_eq!(notify(&world, "message-summary", "nonsense").await?.status(), Some(400));
    let options = world.call_with(&CallOptions::request("OPTIONS"))?;
    let options = options.expect(200, SOON).await?;
    assert!(options.lists(Name::Allow, "MESSAGE") && options.lists(Name::Allow, "NOTIFY"));
    assert_eq!(world.apns.requests(), 0);
    world.content()
}

/// What one node was told of is known to whichever has the account next.
#[tokio::test]
async fn how_a_mailbox_stands_is_told_and_not_pushed_again_by_the_next_node_and_the_next_run() -> Outcome {
    let redis = RedisServer::start();
    let world = World::with(|setup| setup.store = redis.url()).await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    told(&world, "2/8 (1/2)").await?;
    world.alert("voicemail").await?;
    let is_kept = || async { redis.keys().iter().any(|key| key.starts_with("sipwake:v:")).then_some(()) };
    world.until("that it is in the store", is_kept).await?;
    let other = RelayProcess::start(setup).await?;
    world.relay.terminate(SOON).await?;
    let is_taken = || async {
        let registered = other.metric("sipwake_instances{state=\"registered\"}").await?;
        (registered == 1.0).then_some(())
    };
    world.until("the other node has it", is_taken).await?;
    world.await_contacts(1).await?;
    let stands = json!({"waiting": true, "new": 2, "old": 8, "urgent": 1});
    assert_eq!(other.api().read(&instance).await?.json()["voicemail"], stands);
    told(&world, "2/8 (1/2)").await?;
    let is_judged = || async {
        let unchanged = other.metric("sipwake_mwi_notifies_total{notice=\"unchanged\"}").await?;
        (unchanged == 1.0).then_some(())
    };
    world.until("that it is nothing new", is_judged).await?;
    // What the earlier node had not heard of is, also that all were heard.
    told(&world, "0/10").await?;
    let emptied = world.apple_push().await?;
    assert_eq!((emptied.push_type.as_str(), &emptied.payload["sipwake"]["new"]), ("background", &json!(0)));
    assert_eq!(world.apns.requests(), 2);
    assert_eq!(other.api().disable(&instance).await?.status, 200);
    assert!(redis.instance_keys().is_empty(), "{:?}", redis.instance_keys());
    Ok(())
}
