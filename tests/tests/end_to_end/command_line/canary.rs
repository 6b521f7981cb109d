//! `sipwake canary` on a schedule, on the relay's machine.

use std::process::Command;

use std::time::Duration;

use relay::net::tls::RELOAD_INTERVAL;
use rustix::process::Signal;
use tests::child::Child;
use tests::registrar::Behaviour;
use tests::relay_process::binary;
use tests::scratch::Scratch;
use tests::wire::Transport;
use tests::world::{Outcome, SOON, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_goes_on_through_the_relays_next_certificate() -> Outcome {
    let (world, scratch) = (World::start().await?, Scratch::new());
    let (password, token) = (scratch.file("password", "not hers"), scratch.file("push-token", "a-token-of-a-canary"));
    let mut command = Command::new(binary()?);
    command.args(["canary", "--every", "10", "--app", "com.example.phone", "--provider", "fcm", "--aor", &world.aor()]);
    // Without it each round would wait for what the machine's name servers say of the address.
    command.args(["--registrar", &world.registrar.uri(Transport::Tls)]);
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

/// As `systemctl stop` ends it, Ctrl-C, and a terminal that is closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_is_told_to_end_takes_the_account_back_even_where_the_relay_has_not_answered_yet() -> Outcome {
    let (world, scratch) = (World::start().await?, Scratch::new());
    let password = scratch.file("password", world.registrar.password("alice").unwrap_or_default());
    let token = scratch.file("push-token", "a-token-of-a-canary");
    // The answer to the enabling waits for the SIP server's.
    world.registrar.behave(&world.aor(), Behaviour::Slow(Duration::from_secs(2)));
    let once = &["--once"][..];
    for (nth, (signal, how)) in
        [(Signal::TERM, &["--every", "10"][..]), (Signal::INT, once), (Signal::HUP, once)].into_iter().enumerate()
    {
        let seen = world.registrar.register_count();
        let mut command = Command::new(binary()?);
        command.arg("canary").args(how).args(["--app", "com.example.phone", "--provider", "fcm"]);
        command.args(["--aor", &world.aor(), "--registrar", &world.registrar.uri(Transport::Tls)]);
        command.arg("--password-file").arg(&password).arg("--push-token-file").arg(&token);
        command.arg("--config").arg(world.relay.config());
        let bird = Child::spawn(command, "(built by cargo)")?;
        let registers = || async { (world.registrar.register_count() > seen).then_some(()) };
        world.until("the canary's REGISTER", registers).await?;
        bird.signal(signal);
        let exit = bird.exit(3 * SOON).await?;
        // One that was to ring once has not; one on a schedule was stopped.
        assert_eq!(exit.code(), Some(i32::from(how == once)), "{signal:?}: {}", bird.output());
        assert!(bird.output().contains("stopped before it was reached"), "{signal:?}: {}", bird.output());
        world.await_metric("sipwake_wipes_total{reason=\"disabled\"}", (nth + 1) as f64).await?;
    }
    world.await_metric("sipwake_instances{state=\"registered\"}", 0.0).await?;
    Ok(())
}
