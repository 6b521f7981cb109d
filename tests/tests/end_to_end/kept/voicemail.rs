//! NOTIFY message-summary, unsolicited, as many SIP servers send it: counts become a push when they change.

use serde_json::{Value, json};
use sip::message::{Message, Name};
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::scene::{OTHER_TOKEN, SOON, Scene};

use super::{Outcome, alert, steps, wish, words};

async fn notify(scene: &Scene, event: &str, body: &str) -> Result<Message, Missed> {
    let options = CallOptions::request("NOTIFY").header("Event", event).header("Subscription-State", "active");
    let options = options.body("application/simple-message-summary", body);
    scene.registrar.call(&scene.aor(), &options)?.final_response(SOON).await
}

async fn told(scene: &Scene, voice: &str) -> Outcome {
    let waiting = if voice.starts_with("0/") { "no" } else { "yes" };
    let body =
        format!("Messages-Waiting: {waiting}\r\nMessage-Account: sip:alice@vm.test\r\nVoice-Message: {voice}\r\n");
    match notify(scene, "message-summary", &body).await?.status() {
        Some(200) => Ok(()),
        other => Err(Missed::new("200 to NOTIFY", format!("{other:?}"))),
    }
}

#[tokio::test]
async fn counts_are_pushed_when_they_change_and_shown() -> Outcome {
    let scene = Scene::start().await?;
    let instance = scene.enable_as(&wish(&scene)).await?;
    let voicemail = || async { Ok::<Value, Missed>(scene.api.read(&instance).await?.json()["voicemail"].clone()) };
    told(&scene, "0/0").await?;
    assert_eq!(voicemail().await?, Value::Null, "an empty mailbox is nothing to tell");
    told(&scene, "2/8 (1/2)").await?;
    let push = alert(&scene, "voicemail").await?;
    let counts = ["new", "old", "urgent", "waiting", "account"].map(|key| push[key].clone());
    assert_eq!(counts, [json!(2), json!(8), json!(1), json!(true), json!("sip:alice@vm.test")]);
    assert_eq!(voicemail().await?, json!({"waiting": true, "new": 2, "old": 8, "urgent": 1}));
    // The same again is nothing new; that all were heard is, and shows the user nothing.
    told(&scene, "2/8 (1/2)").await?;
    told(&scene, "0/10").await?;
    let emptied = scene.apns.next_push(SOON).await.ok_or_else(|| Missed::new("a push", "none"))?;
    assert_eq!((emptied.token.as_str(), emptied.push_type.as_str()), (OTHER_TOKEN, "background"));
    assert_eq!(emptied.payload["aps"], json!({"content-available": 1}));
    assert_eq!(emptied.payload["sipwake"]["new"], 0);
    assert_eq!(voicemail().await?, json!({"waiting": false, "new": 0, "old": 10}));
    let told = words(&steps(&scene, &instance).await?);
    assert_eq!(told.iter().filter(|word| *word == "voicemail").count(), 2, "{told:?}");
    scene.await_metric("sipwake_mwi_notifies_total{notice=\"changed\"}", 2.0).await?;
    scene.await_metric("sipwake_mwi_notifies_total{notice=\"unchanged\"}", 2.0).await?;
    scene.content()
}

#[tokio::test]
async fn who_does_not_want_voicemail_is_not_pushed_and_what_is_not_understood_is_refused() -> Outcome {
    let scene = Scene::start().await?;
    let mut wish = wish(&scene);
    wish["wake_for"] = json!(["call", "message"]);
    let instance = scene.enable_as(&wish).await?;
    told(&scene, "1/0").await?;
    assert_eq!(scene.api.read(&instance).await?.json()["voicemail"]["new"], 1);
    let presence = notify(&scene, "presence", "Messages-Waiting: no\r\n").await?;
    assert_eq!(
        (presence.status(), presence.values_written("Allow-Events").next()),
        (Some(489), Some(&b"message-summary"[..]))
    );
    assert_eq!(notify(&scene, "message-summary", "nonsense").await?.status(), Some(400));
    let options = scene.registrar.call(&scene.aor(), &CallOptions::request("OPTIONS"))?;
    let options = options.expect(200, SOON).await?;
    assert!(options.lists(Name::Allow, "MESSAGE") && options.lists(Name::Allow, "NOTIFY"));
    assert_eq!(scene.apns.requests(), 0);
    scene.content()
}
