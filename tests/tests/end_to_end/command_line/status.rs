//! `sipwake status`, `nodes`, `completions` and `man`.

use std::process::Output;

use serde_json::{Value, json};
use tests::apns::Answer;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::scratch::Scratch;
use tests::world::{Outcome, SOON, TOKEN, World};

use super::{said, sipwake};

fn run(relay: &RelayProcess, arguments: &[&str]) -> Output {
    let config = relay.config().display().to_string();
    sipwake(&[arguments, &["--config", &config]].concat())
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_screen_says_how_a_relay_stands_and_its_exit_status_tells_scripts() -> Outcome {
    let (world, _alice) = World::lent().await?;
    let well = run(&world.relay, &["status"]);
    assert_eq!(well.status.code(), Some(0), "{}{}", text(&well), said(&well));
    for line in ["Ready. A call can wake its phone.", "phones reachable            1 of 1", "Nothing has gone wrong"] {
        assert!(text(&well).contains(line), "{line}: {}", text(&well));
    }
    assert!(!text(&well).contains('\u{1b}'), "no colours in a pipe");

    world.apns.answer_with(TOKEN, [Answer::Error { status: 400, reason: "TopicDisallowed" }]);
    world.call()?.expect(480, SOON).await?;
    let troubled = run(&world.relay, &["status", "--json"]);
    let told: Value = serde_json::from_slice(&troubled.stdout).unwrap_or_default();
    assert_eq!(troubled.status.code(), Some(if told["state"] == "warn" { 1 } else { 2 }), "{told}");
    assert!(told["says"][0]["what"].as_str().is_some_and(|what| what.contains("com.example.phone")), "{told}");
    let attention = told["attention"].as_array().cloned().unwrap_or_default();
    let refused = attention.iter().find(|row| row["what"] == "APNs: pushes refused");
    assert_eq!(refused.map(|row| &row["last_5_min"]), Some(&json!(1)), "{told}");
    let screen = text(&run(&world.relay, &["status"]));
    assert!(screen.contains("NEEDS ATTENTION") && screen.contains("APNs: pushes refused"), "{screen}");

    world.relay.kill_9().await?;
    let dead = run(&world.relay, &["status"]);
    assert_eq!(dead.status.code(), Some(2), "{}", said(&dead));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_of_a_store_are_told_with_what_each_says_of_itself_and_of_those_that_are_gone() -> Outcome {
    let redis = RedisServer::start();
    let world = World::between(|server| server.contacts = 2, |setup| setup.store = redis.url()).await?;
    world.enable().await?;
    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    let nodes = |relay: &RelayProcess| {
        let told: Value = serde_json::from_slice(&run(relay, &["nodes", "--json"]).stdout).unwrap_or_default();
        told.as_array().cloned().unwrap_or_default()
    };
    let told = world.until("two nodes that are ready", || async {
        Some(nodes(&other)).filter(|all| all.len() == 2 && all.iter().all(|node| node["state"] == "ready"))
    });
    let told = told.await?;
    assert_eq!(told[0]["keyring"], told[1]["keyring"]);
    assert!(told[0]["keyring"].as_str().is_some_and(|keyring| keyring.len() == 16), "{told:?}");
    let owned: u64 = told.iter().filter_map(|node| node["instances"].as_u64()).sum();
    assert_eq!((owned, &told[0]["lease"], &told[0]["version"]), (1, &json!("held"), &json!(env!("CARGO_PKG_VERSION"))));
    let table = text(&run(&world.relay, &["nodes"]));
    assert!(table.lines().count() == 3 && table.starts_with("NODE"), "{table}");

    other.kill_9().await?;
    // Once what it had is taken over, nobody knows of it any more.
    world
        .until("a node that is gone", || async {
            let all = nodes(&world.relay);
            let lives = |node: &&Value| node["state"] == "ready" || node["lease"] == "held";
            (all.iter().filter(lives).count() == 1).then_some(())
        })
        .await?;
    Ok(())
}

#[test]
fn completions_and_man_pages_tell_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let made = sipwake(&["completions", shell]);
        assert_eq!(made.status.code(), Some(0), "{}", said(&made));
        for command in ["instances", "calls", "nodes", "serve", "--operator"] {
            let command = if shell == "fish" { command.trim_start_matches('-') } else { command };
            assert!(text(&made).contains(command), "{shell}: {command}");
        }
    }
    assert_eq!(sipwake(&["completions", "tcsh"]).status.code(), Some(2));
    let folder = Scratch::new();
    let into = folder.path().join("man1");
    let made = sipwake(&["man", &into.display().to_string()]);
    assert_eq!(made.status.code(), Some(0), "{}", said(&made));
    for page in ["sipwake.1", "sipwake-serve.1", "sipwake-calls.1", "sipwake-calls-show.1", "sipwake-instances-wipe.1"]
    {
        let written = std::fs::read_to_string(into.join(page)).unwrap_or_default();
        assert!(written.contains(".SH NAME"), "{page}");
    }
    let nowhere = sipwake(&["man", "/dev/null/man"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(said(&nowhere).contains("/dev/null/man cannot be written"), "{}", said(&nowhere));
}
