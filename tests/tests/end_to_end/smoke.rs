//! The main job in one process, on stand-ins.

use std::time::Duration;

use tests::story;

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_phone_rings_and_disabling_leaves_nothing() {
    let mut steps = Vec::new();
    let mut tell = |at: Duration, what: &str| steps.push(format!("{:>9.3} s  {what}", at.as_secs_f64()));
    let played = story::play(&mut tell).await;
    assert!(played.is_ok(), "{}\nMISSED: {}", steps.join("\n"), played.unwrap_err());
}
