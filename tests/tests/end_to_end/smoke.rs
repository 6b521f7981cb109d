//! The main job in one process, on stand-ins.

use std::process::{Command, Output};
use std::time::Duration;

use tests::story;

#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_phone_rings_and_disabling_leaves_nothing() {
    let mut steps = Vec::new();
    let mut tell = |at: Duration, what: &str| steps.push(format!("{:>9.3} s  {what}", at.as_secs_f64()));
    let played = story::play(&mut tell).await;
    assert!(played.is_ok(), "{}\nMISSED: {}", steps.join("\n"), played.unwrap_err());
}

#[test]
fn the_demo_says_what_it_is_and_plays_for_no_argument_that_it_does_not_know() {
    let demo = |argument: &str| -> (Option<i32>, String) {
        let Output { status, stdout, .. } =
            Command::new(env!("CARGO_BIN_EXE_demo")).arg(argument).output().expect("the demo starts");
        (status.code(), String::from_utf8_lossy(&stdout).into_owned())
    };
    let (help, version) = (demo("--help"), demo("--version"));
    assert!(help.0 == Some(0) && help.1.contains("Usage: demo"), "{help:?}");
    assert_eq!(version, (Some(0), format!("demo {}\n", env!("CARGO_PKG_VERSION"))));
    assert_eq!(demo("--hepl"), (Some(2), String::new()));
}
