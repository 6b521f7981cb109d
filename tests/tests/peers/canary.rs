//! `sipwake canary` against a real Kamailio: it is app, caller and device, and the relay tells how it went.

use std::process::Command;

use tests::authority::Authority;
use tests::child::Child;
use tests::fcm;
use tests::relay_process::binary;
use tests::scratch::Scratch;
use tests::webpush::WebPush;
use tests::wire::Transport;
use tests::world::real::{Plan, SOON};
use tests::world::{FCM_TOKEN, Outcome, SipServer as _};

use crate::World;

/// A canary at the world's relay, as an operator starts it on the relay's machine.
fn canary(world: &World, files: &Scratch, caller: bool, further: &[&str]) -> Result<Child, tests::board::Missed> {
    canary_on(("fcm", FCM_TOKEN), world, files, caller, further)
}

/// One whose device is pushed to by this service, with this token.
fn canary_on(
    (provider, token): (&str, &str),
    world: &World,
    files: &Scratch,
    caller: bool,
    further: &[&str],
) -> Result<Child, tests::board::Missed> {
    let server = &world.registrar;
    let password = files.file("password", &server.password);
    let mut command = Command::new(binary()?);
    command.arg("canary").arg("--config").arg(world.relay.config()).args(["--app", "com.example.phone"]);
    command.args(["--aor", &world.aor(), "--registrar", &server.uri(world.transport)]);
    command.arg("--password-file").arg(password).args(["--provider", provider]);
    command.arg("--push-token-file").arg(files.file("token", token));
    if caller {
        let (user, password) = &server.other;
        command.args(["--caller", &server.aor(user), "--caller-password-file"]).arg(files.file("other", password));
    }
    Child::spawn(command_with(command, further), "(built by cargo)")
}

fn command_with(mut command: Command, further: &[&str]) -> Command {
    command.args(further);
    command
}

async fn page(world: &World) -> Result<String, tests::board::Missed> {
    Ok(world.relay.operator().get("/").await?.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_rings_end_to_end_through_a_server_that_asks_its_callers_and_tells_the_step_that_fails() -> Outcome {
    for (transport, caller) in [(Transport::Tls, true), (Transport::Udp, false)] {
        let world = World::real(Plan { provider: "fcm", asks_callers: true, ..Plan::over(transport) }).await?;
        let files = Scratch::new();
        let bird = canary(&world, &files, caller, &["--once"])?;
        let status = bird.exit(SOON * 2).await?;
        assert_eq!(status.code(), Some(0), "{}\n{}", bird.output(), world.relay.log());
        for step in ["enable", "invite", "push", "attach", "ring", "answer", "end", "wipe"] {
            assert!(bird.output().lines().any(|line| line.starts_with(step)), "{step}: {}", bird.output());
        }
        assert_eq!(world.android_push().await?["event"], "call");
        world.await_location(0).await?;
        let rounds =
            |outcome| format!("sipwake_canary_rounds_total{{app=\"com.example.phone\",outcome=\"{outcome}\"}}");
        assert_eq!(world.relay.metric(&rounds("whole")).await, Some(1.0));
        let answered = "sipwake_canary_seconds{app=\"com.example.phone\",step=\"answer\"}";
        assert!(world.relay.metric(answered).await.is_some_and(|seconds| seconds > 0.0));
        for moment in ["sipwake_canary_last_round_seconds", "sipwake_canary_last_success_seconds"] {
            let series = format!("{moment}{{app=\"com.example.phone\"}}");
            assert!(world.relay.metric(&series).await.is_some_and(|at| at > 0.0), "{series}");
        }
        let shown = page(&world).await?;
        assert!(shown.contains("Canaries") && shown.contains("answered after"), "{shown}");

        // A push service that takes no push: the call would wake nobody.
        world.fcm.answer_all(Some(fcm::Answer::SenderIdMismatch));
        let bird = canary(&world, &files, caller, &["--once"])?;
        assert_eq!(bird.exit(SOON * 2).await?.code(), Some(1), "{}", bird.output());
        assert!(bird.output().contains("push    FAILED: the push ended as refused"), "{}", bird.output());
        assert_eq!(world.relay.metric(&rounds("push")).await, Some(1.0));
        let shown = page(&world).await?;
        assert!(shown.contains("banner bad") && shown.contains("The canary of com.example.phone failed"), "{shown}");
        world.await_location(0).await?;
        world.fcm.answer_all(None);
        for secret in [&world.registrar.password, &world.registrar.user, FCM_TOKEN] {
            assert!(!bird.output().contains(secret), "{}", bird.output());
        }

        // On a schedule, and stopped in the middle of it: nothing stays lent.
        let bird = canary(&world, &files, caller, &["--every", "10"])?;
        bird.await_line("rung, answered and taken back", SOON * 2).await?;
        bird.signal(rustix::process::Signal::TERM);
        assert_eq!(bird.exit(SOON).await?.code(), Some(0), "{}", bird.output());
        world.await_location(0).await?;
        world.content()?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_is_woken_by_web_push_where_its_device_has_a_subscription() -> Outcome {
    let authority = Authority::new();
    let push_server = WebPush::start(&authority).await;
    let settings = push_server.settings();
    let world = World::real_with(Plan::over(Transport::Tls), |setup| setup.apps[0].webpush = Some(settings)).await?;
    let (files, device) = (Scratch::new(), push_server.subscribe());
    let bird = canary_on(("webpush", &device.to_json().to_string()), &world, &files, false, &["--once"])?;
    assert_eq!(bird.exit(SOON * 2).await?.code(), Some(0), "{}\n{}", bird.output(), world.relay.log());
    assert!(push_server.pushes().iter().any(|push| push.token == device.token && push.payload["event"] == "call"));
    assert!(!bird.output().contains(&device.token), "{}", bird.output());
    let bird = canary_on(("webpush", FCM_TOKEN), &world, &files, false, &["--once"])?;
    assert_eq!(bird.exit(SOON).await?.code(), Some(1));
    assert!(bird.output().contains("is no Web Push subscription"), "{}", bird.output());
    world.await_location(0).await?;
    assert_eq!(push_server.violations(), Vec::<String>::new());
    world.content()
}
