//! `--json`: whatever offers it prints one JSON document on the standard output, and nothing else there.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tests::scratch::Scratch;
use tests::world::{Outcome, World, text};

use super::{said, sipwake, sipwake_hears};

/// The commands that have a man page with `--json`, as their pages are called.
fn that_offer_it() -> BTreeSet<String> {
    let scratch = Scratch::new();
    let written = sipwake(&["man", &scratch.path().display().to_string()]);
    assert_eq!(written.status.code(), Some(0), "{}", said(&written));
    let pages = std::fs::read_dir(scratch.path()).expect("pages").filter_map(Result::ok).map(|page| page.path());
    let name = |page: &Path| Some(page.file_name()?.to_str()?.strip_prefix("sipwake-")?.strip_suffix(".1")?.to_owned());
    let offers = |page: &Path| std::fs::read_to_string(page).is_ok_and(|text| text.contains("\\-\\-json"));
    pages.filter(|page| offers(page)).filter_map(|page| name(&page)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_that_offers_json_prints_one_document_that_tells_what_its_lines_tell() -> Outcome {
    let scratch = Scratch::new();
    let trail = scratch.path().join("audit").display().to_string();
    let world = World::with(|setup| setup.further += &format!("\n[audit]\ndirectory = {trail:?}\n")).await?;
    let instance = world.enable().await?;
    let call = {
        let _caller = world.call()?;
        text(&world.push().await?["call"])
    };
    let keys = scratch.file("keys.json", world.api.get("/v1/keys").await?.text()).display().to_string();
    let wiped = world.enable_android().await?;
    let receipt = world.api.disable(&wiped).await?.text();
    let receipt = scratch.file("receipt.json", receipt).display().to_string();
    let config = world.relay.config().display().to_string();
    let (pcapng, id) = (scratch.path().join("call.pcapng").display().to_string(), instance.id.as_str());
    let today = &relay::clock::rfc3339(relay::clock::unix_now())[..10];
    let (password, token) = (scratch.file("password", "not hers"), scratch.file("push-token", "a-token-of-a-canary"));
    let (password, token) = (password.display().to_string(), token.display().to_string());
    let aor = world.aor();
    let canary = vec![
        "canary",
        "--once",
        "--app",
        "com.example.phone",
        "--aor",
        &aor,
        "--password-file",
        &password,
        "--provider",
        "fcm",
        "--push-token-file",
        &token,
        "--config",
        &config,
    ];

    // The page, how it is called, where in the document to look, and what stands there (null: something).
    let rows: Vec<(&str, Vec<&str>, &str, Value)> = vec![
        ("audit-verify", vec!["audit", "verify", &trail], "/whole", json!(true)),
        ("audit-verify", vec!["audit", "verify", &trail], "/chain", Value::Null),
        ("calls", vec!["calls", "--config", &config], "/0/call", json!(call)),
        ("calls-show", vec!["calls", "show", &call, "--config", &config], "/0/steps/0/step", json!("invite")),
        ("canary", canary, "/failed", json!("enable")),
        ("check", vec!["check", "--config", &config], "/ok", json!(true)),
        ("check", vec!["check", "--config", &config], "/problems", json!([])),
        ("config-show", vec!["config", "show", "--set", "--config", &config], "/0/setting", Value::Null),
        ("instances-export", vec!["instances", "export", id, "--config", &config], "/instance", json!(id)),
        ("instances-find", vec!["instances", "find", "--config", &config], "/0/instance", json!(id)),
        ("instances-list", vec!["instances", "list", "--config", &config], "/0/instance", json!(id)),
        ("instances-show", vec!["instances", "show", id, "--config", &config], "/instance", json!(id)),
        ("keys-show", vec!["keys", "show", "--config", &config], "/chain", Value::Null),
        ("nodes", vec!["nodes", "--config", &config], "", Value::Null),
        ("receipt-verify", vec!["receipt", "verify", &receipt, "--keys", &keys], "/signed", json!(true)),
        ("receipt-verify", vec!["receipt", "verify", &receipt, "--keys", &keys], "/instance", json!(wiped.id)),
        ("receipt-verify", vec!["receipt", "verify", &receipt, "--keys", &keys], "/reason", json!("disabled")),
        ("reload", vec!["reload", "--config", &config], "/taken", json!([])),
        ("report", vec!["report", "--from", today, "--to", today, "--audit", &trail], "/trail/whole", json!(true)),
        ("status", vec!["status", "--config", &config], "", Value::Null),
        ("trace", vec!["trace", id, "--for", "1s", "--output", &pcapng, "--config", &config], "/file", json!(pcapng)),
        ("instances-wipe", vec!["instances", "wipe", id, "--yes", "--config", &config], "/instance", json!(id)),
        ("drain", vec!["drain", "--yes", "--config", &config], "/state", json!("draining")),
    ];
    let mut seen: BTreeSet<String> = rows.iter().map(|(page, ..)| (*page).to_owned()).collect();
    for (page, arguments, pointer, wanted) in rows {
        let output = sipwake_hears(&[&arguments[..], &["--json"]].concat(), &format!("{aor}\n"));
        // A status that is not well, and a canary that does not come through, are told by it, too.
        assert!(output.status.code() == Some(0) || ["status", "canary"].contains(&page), "{page}: {}", said(&output));
        let told: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{page}: {error}: {}", String::from_utf8_lossy(&output.stdout)));
        let there = told.pointer(pointer).unwrap_or(&Value::Null);
        assert!(!there.is_null() && (wanted.is_null() || *there == wanted), "{page}: {pointer} of {told:#}");
    }
    // The doctor wants a SIP server's side of the story, and has it in doctor.rs.
    seen.insert("doctor".to_owned());
    assert_eq!(that_offer_it(), seen, "a row for each command that offers --json");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_told_as_json_with_its_place_its_remedy_and_its_line() {
    let scratch = Scratch::new();
    let wrong = scratch.file("relay.toml", "[edge]\npublic = \"relay.example.net:5061\"\nlissten = 1\n");
    let output = sipwake(&["check", "--json", "--config", &wrong.display().to_string()]);
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["ok"], false, "{told:#}");
    let problems = told["problems"].as_array().expect("a list");
    let of = |place: &str| problems.iter().find(|problem| problem["place"] == place).unwrap_or(&Value::Null).clone();
    assert_eq!(of("edge.lissten")["line"], 3, "{told:#}");
    assert!(problems.iter().all(|problem| problem["what"].is_string() && problem["remedy"].is_string()), "{told:#}");
    assert!(!of("operator.token_file").is_null(), "what is missing is told, too: {told:#}");
}
