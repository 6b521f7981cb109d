//! What Asterisk runs for a call that waits: the script of its recipe, by a shell as Asterisk runs it.

use std::process::Command;

use rustix::process::{Pid, Signal, test_kill_process_group};
use tests::child::Child;
use tests::scratch::Scratch;
use tests::world::{SOON, World};

use super::Outcome;
use tests::board::Missed;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docker/recipes/asterisk-wake.agi");

/// A world at whose SIP server calls wait, and the folder of its Asterisk's configuration.
async fn with_asterisk() -> Result<(World, Scratch), Missed> {
    let mut key = String::new();
    let world = World::with(|setup| key = setup.sip_server("pbx-1", &["example.test"])).await?;
    let folder = Scratch::new();
    folder.file("sipwake-header", format!("Authorization: Bearer {key}\n"));
    Ok((world, folder))
}

/// Runs the script for a call of Carol's to Alice.
fn wake(world: &World, folder: &Scratch) -> Result<Child, Missed> {
    let setup = world.relay.setup();
    let mut command = Command::new("sh");
    command.args([SCRIPT, &format!("https://127.0.0.1:{}/v1/wake", setup.ports.api), &world.aor()]);
    command.arg("sip:carol@example.test").env("AST_CONFIG_DIR", folder.path());
    command.env("CURL_CA_BUNDLE", setup.authority.ca_file());
    Child::spawn(command, "curl")
}

#[tokio::test]
async fn the_script_for_asterisk_tells_the_dialplan_that_a_phone_has_come() -> Outcome {
    let (world, folder) = with_asterisk().await?;
    let alice = world.enable().await?;
    let script = wake(&world, &folder)?;
    let push = world.push_for(&alice).await?;
    assert_eq!(push["from"], "sip:carol@example.test");
    let phone = world.wake(&alice).await?;
    script.await_line("SET VARIABLE SIPWAKE 200", SOON).await?;
    let (caller, call) = world.answered_at(&phone).await?;
    world.hang_up(&caller, &call).await?;
    world.content()
}

#[tokio::test]
async fn a_caller_of_asterisk_who_hangs_up_ends_the_wait_and_the_ringing() -> Outcome {
    let (world, folder) = with_asterisk().await?;
    let alice = world.enable().await?;
    let script = wake(&world, &folder)?;
    let push = world.push_for(&alice).await?;
    script.signal(Signal::HUP);
    script.exit(SOON).await?;
    let group = Pid::from_raw(script.pid().cast_signed());
    assert!(group.is_some_and(|group| test_kill_process_group(group).is_err()), "a process waits on");
    world.await_state(&alice, &push, "timed-out").await?;
    world.content()
}
