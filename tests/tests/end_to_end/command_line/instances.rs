//! `sipwake instances`, as an operator uses it.

use std::process::Output;

use serde_json::{Value, json};
use tests::scratch::Scratch;
use tests::world::{FCM_TOKEN, TOKEN, World};

use super::{said, sipwake};

type Outcome = tests::world::Outcome;

/// The operator of the world's relay.
struct Operator {
    files: Scratch,
    url: String,
    ca: String,
    token: String,
}

impl Operator {
    fn of(world: &World) -> Self {
        let files = Scratch::new();
        let token = files.file("token", &world.relay.setup().operator_token).display().to_string();
        let url = format!("https://{}", world.relay.operator_address());
        Self { files, url, ca: world.authority.ca_file().display().to_string(), token }
    }

    fn runs(&self, action: &[&str]) -> Output {
        let at = ["--operator", &self.url, "--token-file", &self.token, "--ca", &self.ca];
        sipwake(&[&["instances"], action, &at].concat())
    }

    /// What it prints; it must end with 0.
    fn prints(&self, action: &[&str]) -> String {
        let output = self.runs(action);
        assert_eq!(output.status.code(), Some(0), "{action:?}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn json(&self, action: &[&str]) -> Value {
        serde_json::from_str(&self.prints(action)).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_listed_shown_exported_and_wiped_without_telling_whose_they_are() -> Outcome {
    let world = World::start().await?;
    let operator = Operator::of(&world);
    assert_eq!(operator.prints(&["list"]).lines().count(), 1, "the columns alone");
    assert_eq!(operator.json(&["list", "--json"]), json!([]));
    let (one, two) = (world.enable().await?, world.enable_android().await?);

    let table = operator.prints(&["list"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    for id in [&one.id, &two.id] {
        let line = table.lines().find(|line| line.starts_with(id.as_str())).unwrap_or_default();
        assert!(line.contains("com.example.phone") && line.contains("registered 200"), "{table}");
    }
    let listed = operator.json(&["list", "--json"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(2));

    let shown = operator.prints(&["show", &one.id]);
    assert!(shown.contains(&format!("instance: {}", one.id)) && shown.contains("state: active"), "{shown}");
    assert_eq!(operator.json(&["show", &one.id, "--json"])["instance"], json!(one.id));
    let export = operator.json(&["export", &two.id]);
    assert_eq!((&export["instance"], &export["presence"]), (&json!(two.id), &json!("background")));

    for printed in [table, listed.to_string(), shown, export.to_string()] {
        for secret in ["alice", "wonderland", TOKEN, FCM_TOKEN, &one.secret, &two.secret] {
            assert!(!printed.contains(secret), "{secret}: {printed}");
        }
    }

    let receipt = operator.prints(&["wipe", &one.id]);
    assert!(receipt.contains("reason: operator") && receipt.contains("signature: "), "{receipt}");
    world.await_gone(&one).await?;
    // The account's last device: now it is unregistered.
    let receipt = operator.json(&["wipe", &two.id, "--json"]);
    assert_eq!((&receipt["reason"], &receipt["unregistered"]), (&json!("operator"), &json!(true)));
    world.await_contacts(0).await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_gets_wrong_is_said_and_ends_with_1() -> Outcome {
    let world = World::start().await?;
    let mut operator = Operator::of(&world);
    for (action, why) in [
        (["show", "pi_aaaaaaaaaaaaaaaaaaaaaaaaaa"], "the relay refused with 404: There is no such push instance"),
        (["wipe", "../../healthz"], "the relay refused with 404"),
        (["export", "x"], "the relay refused with 404"),
    ] {
        let output = operator.runs(&action);
        assert_eq!(output.status.code(), Some(1), "{action:?}");
        assert!(said(&output).contains(why), "{action:?}: {}", said(&output));
    }
    operator.token = operator.files.file("wrong", "another-token-0123456789").display().to_string();
    let output = operator.runs(&["list"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("refused with 401"), "{}", said(&output));
    assert!(!said(&output).contains("another-token"), "{}", said(&output));
    operator.token = "/nonexistent/token".to_owned();
    assert!(said(&operator.runs(&["list"])).contains("/nonexistent/token cannot be read"));
    assert_eq!(sipwake(&["instances"]).status.code(), Some(2), "bad usage");
    Ok(())
}
