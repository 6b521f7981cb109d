//! What comes beside calls over the real binary: messages, voicemail, missed calls, the timeline, the export, the test push.
//! Stand-ins at every side; the real peers are in `peers`.
//!
//! Invariant: each test has a world of its own; nobody sleeps to synchronise.

use serde_json::Value;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::caller::{CallOptions, Caller};
use tests::world::World;

mod fail_over;
mod hostile;
mod messages;
mod missed;
mod privacy;
mod timeline;
mod voicemail;

/// What a test comes to: nothing was missed.
type Outcome = tests::world::Outcome;

/// Bob writes to Alice.
fn write(world: &World, text: &str) -> Result<Caller, Missed> {
    world.call_with(&CallOptions::request("MESSAGE").body("text/plain", text))
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
