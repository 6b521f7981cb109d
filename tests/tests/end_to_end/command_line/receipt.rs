//! `sipwake receipt verify`, as somebody asks who was promised that nothing is left.

use std::process::{Command, Output};

use serde_json::json;
use tests::board::Missed;
use tests::relay_process::binary;
use tests::scratch::Scratch;
use tests::world::World;

#[tokio::test]
async fn a_receipt_verifies_against_the_relays_keys_and_not_when_it_was_altered() -> Result<(), Missed> {
    let (world, instance) = World::lent().await?;
    let keys = world.api.get("/v1/keys").await?;
    let receipt = world.api.disable(&instance).await?.json();
    let scratch = Scratch::new();
    let keys = scratch.file("keys.json", keys.text());
    let verify = |receipt: &serde_json::Value| -> Result<Output, Missed> {
        let file = scratch.file("receipt.json", receipt.to_string());
        Ok(Command::new(binary()?).args(["receipt", "verify"]).arg(file).arg("--keys").arg(&keys).output()?)
    };
    let right = verify(&receipt)?;
    let said = String::from_utf8_lossy(&right.stdout);
    assert!(right.status.success() && said.contains(&instance.id) && said.contains("disabled"), "{said}");
    let mut altered = receipt.clone();
    altered["reason"] = json!("expired");
    let wrong = verify(&altered)?;
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("altered"));
    let none = verify(&json!({"instance": 1}))?;
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("receipt.json is no receipt"), "which of the two is said");
    // A shell of Windows writes a byte order mark.
    let marked = scratch.file("marked.json", format!("\u{feff}{receipt}"));
    let verify_with = |keys: &std::path::Path| -> Result<Output, Missed> {
        Ok(Command::new(binary()?).args(["receipt", "verify"]).arg(&marked).arg("--keys").arg(keys).output()?)
    };
    assert!(verify_with(keys.as_ref())?.status.success());
    let keyless = verify_with(marked.as_ref())?;
    assert!(String::from_utf8_lossy(&keyless.stderr).contains("marked.json holds no keys"));
    // Straight from the relay, too.
    let api = format!("https://localhost:{}", world.relay.api_address().port());
    let ca = scratch.file("ca.pem", world.authority.ca_pem());
    let file = scratch.file("receipt.json", receipt.to_string());
    let mut ask = Command::new(binary()?);
    ask.args(["receipt", "verify"]).arg(file).args(["--api", &api]).arg("--ca").arg(ca);
    assert!(ask.output()?.status.success());
    Ok(())
}
