//! `sipwake canary` on a schedule, on the relay's machine.

use std::process::Command;

use relay::net::tls::RELOAD_INTERVAL;
use tests::child::Child;
use tests::relay_process::binary;
use tests::scratch::Scratch;
use tests::world::{Outcome, SOON, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_goes_on_through_the_relays_next_certificate() -> Outcome {
    let (world, scratch) = (World::start().await?, Scratch::new());
    let (password, token) = (scratch.file("password", "not hers"), scratch.file("push-token", "a-token-of-a-canary"));
    let mut command = Command::new(binary()?);
    command.args(["canary", "--every", "10", "--app", "com.example.phone", "--provider", "fcm", "--aor", &world.aor()]);
    command.arg("--password-file").arg(password).arg("--push-token-file").arg(token);
    command.arg("--config").arg(world.relay.config());
    let bird = Child::spawn(command, "(built by cargo)")?;
    // Nobody has this password: each round that reaches the relay ends there.
    let refused = bird.await_line("FAILED", SOON).await?;
    let (certificate, key) = world.relay.certificate_files();
    let next = world.authority.loopback();
    std::fs::rename(next.key_file, &key)?;
    std::fs::rename(next.certificate_file, &certificate)?;
    world.relay.await_log("certificate-taken", 3 * RELOAD_INTERVAL).await?;
    bird.await_lines("FAILED", 3, 3 * SOON).await?;
    let rounds: Vec<String> = bird.output().lines().filter(|line| line.contains("FAILED")).map(str::to_owned).collect();
    // The one in the middle may have met the moment of the exchange.
    assert!(rounds[0] == refused && rounds[2] == refused, "{rounds:?}");
    Ok(())
}
