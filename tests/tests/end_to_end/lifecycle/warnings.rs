//! What is to be mended although a relay does its work: told in `/readyz` while it lasts, and counted.

use std::fs;
use std::process::{Command, Output, Stdio};

use relay::vault::Keyring;
use tests::relay_process::binary;
use tests::scratch::Scratch;
use tests::world::{TOKEN, World};

use super::Outcome;

/// The gauge that counts them.
const GAUGE: &str = "sipwake_warnings";

/// A command of the binary that asks this relay by its configuration.
fn sipwake(world: &World, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary().expect("the binary"));
    command.args(arguments).arg("--config").arg(world.relay.config()).stdin(Stdio::null()).output().expect("it runs")
}

/// Waits until `/readyz` warns of `what`, and the gauge has it; or until neither does.
async fn warns(world: &World, about: &str, what: &str, does: bool) -> Outcome {
    let operator = world.relay.operator();
    let line = format!("{GAUGE}{{about=\"{about}\"}} {}\n", u8::from(does));
    let told = || async {
        let (ready, metrics) = (operator.get("/readyz").await.ok()?, operator.get("/metrics").await.ok()?);
        let is_told = ready.text().contains(what) == does && metrics.text().contains(&line);
        (ready.status == 200 && is_told).then_some(())
    };
    world.until(what, told).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_not_taken_and_told_until_one_for_this_name_is_there() -> Outcome {
    let world = World::start().await?;
    let (certificate, key) = world.relay.certificate_files();
    let is_for = |names: &[&str]| {
        let issued = world.authority.issue(names);
        fs::rename(issued.key_file, &key).expect("renamed");
        fs::rename(issued.certificate_file, &certificate).expect("renamed");
    };
    let right = [fs::read(&certificate)?, fs::read(&key)?];
    is_for(&["another.example", "127.0.0.2"]);
    warns(&world, "certificate", "does not name", true).await?;
    assert_eq!(world.api.enable(&world.enable_request(TOKEN)).await?.status, 201, "apps are served by the one in use");
    fs::write(&key, &right[1])?;
    fs::write(&certificate, &right[0])?;
    warns(&world, "certificate", "does not name", false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_whose_file_is_gone_and_an_audit_file_that_was_taken_away_are_told() -> Outcome {
    let scratch = Scratch::new();
    let trail = scratch.path().join("audit");
    let world = World::with(|setup| setup.further += &format!("\n[audit]\ndirectory = {trail:?}\n")).await?;
    let own = world.relay.directory().join("keyring");
    let keyring = world.relay.setup().keyring.clone().unwrap_or(own);
    let kept = fs::read(&keyring)?;
    fs::remove_file(&keyring)?;
    warns(&world, "keyring-file", "put the file back, from a copy", true).await?;
    // What was read is still there to seal with.
    let instance = world.enable_as(&world.enable_request(TOKEN)).await?;
    let check = sipwake(&world, &["check"]);
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(!check.status.success() && said.contains("put the file back"), "{said}");
    assert!(!keyring.exists(), "a check makes no keyring");
    // Another one in its place, as a start would have made it.
    let other = scratch.path().join("another");
    drop(Keyring::open(&other).expect("made"));
    fs::rename(&other, &keyring)?;
    warns(&world, "keyring-file", "another keyring lies there", true).await?;
    assert_eq!(world.api.read(&instance).await?.status, 200);
    assert_eq!(world.api.enable(&world.enable_request(tests::world::OTHER_TOKEN)).await?.status, 201);
    fs::write(&keyring, kept)?;
    fs::set_permissions(&keyring, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    warns(&world, "keyring-file", "put the file back", false).await?;

    let file = fs::read_dir(&trail)?.filter_map(Result::ok).next().expect("a file").path();
    fs::rename(&file, scratch.path().join("rotated"))?;
    world.enable_as(&world.enable_request(tests::world::OTHER_TOKEN)).await?;
    warns(&world, "audit", "was removed or renamed", true).await?;
    assert!(fs::read_to_string(&file)?.contains("\"enabled\""), "the trail goes on");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_reaches_the_relay_whatever_lies_where_its_certificate_was_and_a_pipe_there_stops_nothing() -> Outcome
{
    let world = World::start().await?;
    let (certificate, key) = world.relay.certificate_files();
    let kept = fs::read(&certificate)?;
    let reaches = |arguments: &[&str]| {
        let output = sipwake(&world, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.code() != Some(2) && !said.contains("shows another certificate"),
            "{arguments:?}: {said}"
        );
        assert!(!said.contains("in PEM"), "{arguments:?}: {said}");
    };
    // Half a file, as a copy leaves it for a moment.
    fs::write(&certificate, &kept[..kept.len() / 2])?;
    for arguments in [&["status"][..], &["nodes"], &["check", "--ready"]] {
        reaches(arguments);
    }
    warns(&world, "certificate", "old certificate stays in use", true).await?;
    reaches(&["status"]);
    fs::remove_file(&certificate)?;
    assert!(Command::new("mkfifo").arg(&certificate).status()?.success());
    warns(&world, "certificate", "no regular file", true).await?;
    // A renewal, and its hook at once.
    let issued = world.authority.issue(&["localhost", "127.0.0.1"]);
    fs::rename(issued.key_file, &key)?;
    fs::rename(issued.certificate_file, &certificate)?;
    let reloaded = sipwake(&world, &["reload"]);
    assert!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
    warns(&world, "certificate", "old certificate stays in use", false).await?;
    reaches(&["status"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_of_trusted_certificates_is_said_to_wait_for_a_restart_each_time() -> Outcome {
    let mut file = std::path::PathBuf::new();
    let world = World::with(|setup| {
        file = setup.authority.write("collector-ca.pem", setup.authority.ca_pem());
        setup.further += &format!("\n[otlp]\nendpoint = \"https://127.0.0.1:1\"\nca_file = {file:?}\n");
    })
    .await?;
    fs::write(&file, format!("{}\n", world.authority.ca_pem()))?;
    for _ in 0..2 {
        let begun = world.relay.log().len();
        world.relay.hang_up();
        let told = || async {
            let log = world.relay.log();
            log.get(begun..)?.contains("settings=otlp.ca_file").then_some(())
        };
        world.until("what waits for a restart", told).await?;
    }
    Ok(())
}
