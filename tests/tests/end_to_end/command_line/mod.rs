//! `sipwake` as it is started: usage, exit codes, what it says.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tests::authority::Authority;
use tests::relay_process::{RelayProcess, binary};
use tests::relay_setup::{App, Setup};
use tests::scratch::Scratch;
use tests::{apns, fcm};

mod calls;
mod canary;
mod check;
mod control;
mod device;
mod doctor;
mod instances;
mod json;
mod receipt;
mod status;
mod trace;
mod unconfigured;

pub fn sipwake(arguments: &[&str]) -> Output {
    let binary = binary().expect("the binary is built");
    let mut command = Command::new(binary);
    // A relay that somebody tries on this machine is none of the tests'.
    command.env("XDG_STATE_HOME", "/nonexistent");
    command.args(arguments).stdin(Stdio::null()).output().expect("the binary starts")
}

/// The same, with something on the standard input.
fn sipwake_hears(arguments: &[&str], input: &str) -> Output {
    use std::io::Write;
    let binary = binary().expect("the binary is built");
    let mut command = Command::new(binary);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    child.wait_with_output().expect("it ends")
}

/// The same, where what goes to `full` (`stdout`, `stderr`) finds no room.
fn sipwake_without_room(arguments: &[&str], full: &[&str]) -> Output {
    let to = |name: &str| {
        let device = || std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device of Linux");
        if full.contains(&name) { Stdio::from(device()) } else { Stdio::piped() }
    };
    let mut command = Command::new(binary().expect("the binary is built"));
    command.env("XDG_STATE_HOME", "/nonexistent").args(arguments).stdin(Stdio::null());
    command.stdout(to("stdout")).stderr(to("stderr")).output().expect("the binary starts")
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

/// As a disk that is full would: by the system's default the process would end by a signal.
#[test]
fn a_limit_of_file_size_is_an_error_and_ends_no_process() {
    let state = Scratch::new();
    let mut limited = Command::new("sh");
    limited.arg("-c").arg("ulimit -f 0; exec \"$@\"").arg("sh").arg(binary().expect("the binary is built"));
    limited.args(["serve", "--state"]).arg(state.path().join("state"));
    let refused = limited.stdin(Stdio::null()).output().expect("a shell");
    assert_eq!(refused.status.code(), Some(1), "{:?} {}", refused.status, said(&refused));
    assert!(said(&refused).contains("File too large"), "{}", said(&refused));
}

/// What a command does, and how it ends, does not depend on who reads its words.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_output_finds_no_room_does_what_it_was_asked_and_says_so_elsewhere() {
    let authority = Authority::new();
    let (setup, _apns, _fcm) = setup(&authority).await;
    let relay = RelayProcess::start(setup).await.unwrap();
    let (config, ring) =
        (relay.config().display().to_string(), relay.directory().join("keyring").display().to_string());
    let rotation = || {
        let shown = sipwake(&["keys", "show", "--json", "--keyring", &ring]);
        serde_json::from_slice::<serde_json::Value>(&shown.stdout).unwrap_or_default()["rotation"].clone()
    };
    let code = |arguments: &[&str], full: &[&str]| sipwake_without_room(arguments, full).status.code();
    for (arguments, expected) in [
        (&["check", "--config", &config][..], 0),
        (&["check", "--live", "--config", &config], 0),
        (&["reload", "--config", &config], 0),
        (&["keys", "rotate", "--keyring", &ring], 0),
        (&["check", "--config", "/nonexistent/sipwake.toml"], 1),
        (&["instances", "list", "--config", "/nonexistent/sipwake.toml"], 1),
        (&["status", "--config", "/nonexistent/sipwake.toml"], 2),
        (&["drain", "--config", &config], 1),
    ] {
        assert_eq!(code(arguments, &["stderr"]), Some(expected), "{arguments:?}");
        if expected != 0 {
            assert_eq!(code(arguments, &["stdout", "stderr"]), Some(expected), "{arguments:?}");
        }
    }
    let before = rotation();
    let rotated = sipwake_without_room(&["keys", "rotate", "--keyring", &ring], &["stdout"]);
    assert_eq!(rotated.status.code(), Some(1));
    for told in ["rotation ", "it was done", "takes it over within 10 s"] {
        assert!(said(&rotated).contains(told), "{}", said(&rotated));
    }
    assert_ne!(rotation(), before);
    assert_eq!(code(&["drain", "--yes", "--config", &config], &["stdout", "stderr"]), Some(1));
    relay.ended(Duration::from_secs(15)).await.unwrap();
}

#[test]
fn bad_usage_is_2_and_an_error_at_the_start_is_1() {
    assert_eq!(sipwake(&["bogus"]).status.code(), Some(2));
    assert_eq!(sipwake(&["check"]).status.code(), Some(2), "check wants a file");
    assert_eq!(sipwake(&["device"]).status.code(), Some(2), "device wants an account");
    assert_eq!(sipwake(&["device", "--call"]).status.code(), Some(2), "and somebody to call");
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
        &["calls", "--help"],
        &["calls", "show", "--help"],
        &["status", "--help"],
        &["nodes", "--help"],
        &["completions", "--help"],
        &["man", "--help"],
        &["--version"],
    ] {
        assert_eq!(sipwake(arguments).status.code(), Some(0), "{arguments:?}");
    }
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
