//! `sipwake` as it is started: usage, exit codes, what it says.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tests::authority::Authority;
use tests::relay_process::{RelayProcess, binary};
use tests::relay_setup::{App, Setup};
use tests::scratch::Scratch;
use tests::{apns, fcm};

mod device;
mod doctor;
mod instances;
mod receipt;
mod trace;

pub fn sipwake(arguments: &[&str]) -> Output {
    let binary = binary().expect("the binary is built");
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::null()).output().expect("the binary starts")
}

pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A configuration that is right, with its push services.
async fn setup(authority: &Authority) -> (Setup, apns::Apns, fcm::Fcm) {
    let (apns, fcm) = (apns::Apns::start(authority).await, fcm::Fcm::start(authority).await);
    let app = App { fcm: None, ..App::served_by(&apns, &fcm) };
    (Setup::new(authority, vec![app]), apns, fcm)
}

#[test]
fn bad_usage_is_2_and_an_error_at_the_start_is_1() {
    assert_eq!(sipwake(&["bogus"]).status.code(), Some(2));
    assert_eq!(sipwake(&["check"]).status.code(), Some(2), "check wants a file");
    assert_eq!(sipwake(&["device"]).status.code(), Some(2), "device wants an account");
    let among = ["device", "--aor", "sip:a@b", "--app-key-file", "k", "--password", "secret"];
    assert_eq!(sipwake(&among).status.code(), Some(2), "a password never stands among the arguments");
    let absent = sipwake(&["serve", "--config", "/nonexistent/sipwake.toml"]);
    assert_eq!(absent.status.code(), Some(1));
    assert!(said(&absent).contains("/nonexistent/sipwake.toml"), "{}", said(&absent));
    for arguments in [
        &["--help"][..],
        &["serve", "--help"],
        &["check", "--help"],
        &["device", "--help"],
        &["doctor", "--help"],
        &["instances", "--help"],
        &["instances", "list", "--help"],
        &["trace", "--help"],
        &["--version"],
    ] {
        assert_eq!(sipwake(arguments).status.code(), Some(0), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_finds_every_problem_with_its_place_and_remedy() {
    let authority = Authority::new();
    let (mut setup, _apns, _fcm) = setup(&authority).await;
    let scratch = Scratch::new();
    let file = setup.write(&scratch);
    let right = sipwake(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(right.status.code(), Some(0), "{}", said(&right));

    let taken = std::net::TcpListener::bind(("127.0.0.1", setup.ports.api)).unwrap();
    setup.store = "redis://127.0.0.1:1".to_owned();
    if let Some(apns) = &mut setup.apps[0].apns {
        apns.key_file = scratch.file("broken.p8", "-----BEGIN PRIVATE KEY-----\nnone\n-----END PRIVATE KEY-----\n");
    }
    let file = setup.write(&scratch);
    let wrong = sipwake(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(wrong.status.code(), Some(1));
    for place in ["api.listen", "store.url", "app com.example.phone"] {
        assert!(said(&wrong).contains(&format!("error: {place}: ")), "{place}: {}", said(&wrong));
    }
    drop(taken);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_told_to_stop_drains_and_ends_with_0() {
    let authority = Authority::new();
    let (setup, _apns, _fcm) = setup(&authority).await;
    let relay = RelayProcess::start(setup.clone()).await.unwrap();
    let second = Scratch::new();
    let file = setup.write(&second);
    let beside = sipwake(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(beside.status.code(), Some(1));
    assert!(said(&beside).contains("edge.listen"), "{}", said(&beside));
    let ended = relay.terminate(Duration::from_secs(15)).await.unwrap();
    assert_eq!(ended.code(), Some(0), "{}", relay.log());
}
