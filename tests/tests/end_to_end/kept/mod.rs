//! What comes beside calls over the real binary: messages, voicemail, missed calls, the timeline, the export, the test push.
//! Stand-ins at every side; the real peers are in `peers`.
//!
//! Invariant: each test has a world of its own; nobody sleeps to synchronise.

use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::board::Missed;
use tests::caller::{CallOptions, Caller};
use tests::world::{OTHER_TOKEN, SOON, TOKEN, World};

mod hostile;
mod messages;
mod missed;
mod privacy;
mod timeline;
mod voicemail;

/// What a test comes to: nothing was missed.
type Outcome = tests::world::Outcome;

/// The body that enables push for Alice on an iPhone that is told of what is no call at [`OTHER_TOKEN`].
fn wish(world: &World) -> Value {
    world.wish_for(json!({
        "call_push": {"provider": "apns", "token": TOKEN},
        "alert_push": {"provider": "apns", "token": OTHER_TOKEN},
    }))
}

/// Bob writes to Alice.
fn write(world: &World, text: &str) -> Result<Caller, Missed> {
    world.call_with(&CallOptions::request("MESSAGE").body("text/plain", text))
}

/// The next push, which must be an alert of this event.
async fn alert(world: &World, event: &str) -> Result<Value, Missed> {
    let push = world.apns.next_push(SOON).await.ok_or_else(|| Missed::new(format!("a push: {event}"), "none"))?;
    assert_eq!(push.token, OTHER_TOKEN, "never the VoIP token: {}", push.payload);
    assert_eq!((push.topic.as_str(), push.push_type.as_str()), (tests::apns::BUNDLE, "alert"));
    let told = push.payload["sipwake"].clone();
    assert_eq!(told["event"], event, "{told}");
    Ok(told)
}

/// What is kept on this shelf: `messages` or `missed-calls`.
async fn kept(world: &World, instance: &Instance, shelf: &str) -> Result<Vec<Value>, Missed> {
    let answer = world.api.of("GET", instance, &format!("/{shelf}")).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let list = answer.json()[shelf.replace('-', "_")].as_array().cloned();
    list.ok_or_else(|| Missed::new(format!("a list of {shelf}"), answer.text()))
}

/// Waits until so much is kept on a shelf, and gives it.
async fn await_kept(world: &World, instance: &Instance, shelf: &str, count: usize) -> Result<Vec<Value>, Missed> {
    let look = || async {
        let answer = world.api.of("GET", instance, &format!("/{shelf}")).await.ok()?;
        answer.json()[shelf.replace('-', "_")].as_array().cloned().filter(|kept| kept.len() == count)
    };
    world.until(&format!("{count} {shelf}"), look).await
}

/// The steps of the timeline, as words.
async fn steps(world: &World, instance: &Instance) -> Result<Vec<Value>, Missed> {
    let answer = world.api.of("GET", instance, "/timeline").await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    Ok(answer.json()["steps"].as_array().cloned().unwrap_or_default())
}

fn words(steps: &[Value]) -> Vec<String> {
    steps.iter().map(|step| tests::world::text(&step["step"])).collect()
}
