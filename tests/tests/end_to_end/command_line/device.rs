//! `sipwake device`, as somebody tries a relay with it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;
use tests::authority::Authority;
use tests::board::Missed;
use tests::child::Child;
use tests::registrar::{self, Registrar};
use tests::relay_process::binary;
use tests::scratch::Scratch;
use tests::webpush::WebPush;
use tests::wire::Transport;
use tests::world::{SOON, World};

type Outcome = tests::world::Outcome;

/// A device that is about to be started.
struct Trial {
    scratch: Scratch,
    command: Command,
}

impl Trial {
    /// Alice's device at the world's relay, with her password in a file.
    fn new(world: &World) -> Result<Self, Missed> {
        Ok(Self::without_password(world)?.password("wonderland"))
    }

    fn without_password(world: &World) -> Result<Self, Missed> {
        let api = format!("https://{}", world.relay.api_address());
        let key = &world.relay.setup().apps[0].api_key;
        Self::at(&api, world.authority.ca_file(), key, &world.registrar, Transport::Tls)
    }

    fn at(api: &str, ca: PathBuf, key: &str, registrar: &Registrar, transport: Transport) -> Result<Self, Missed> {
        let scratch = Scratch::new();
        let mut command = Command::new(binary()?);
        command.args(["device", "--api", api, "--aor", &registrar.aor("alice"), "--auth-username", "alice"]);
        command.args(["--registrar", &registrar.uri(transport)]).arg("--ca").arg(ca);
        command.arg("--app-key-file").arg(scratch.file("app-key", key)).current_dir(scratch.path());
        Ok(Self { scratch, command })
    }

    fn password(mut self, password: &str) -> Self {
        self.command.arg("--password-file").arg(self.scratch.file("password", password));
        self
    }

    fn with(mut self, arguments: &[&str]) -> Self {
        self.command.args(arguments);
        self
    }

    /// Starts it; the directory stays as long as the device.
    fn start(self) -> Result<(Child, Scratch), Missed> {
        Ok((Child::spawn(self.command, "(built by cargo)")?, self.scratch))
    }

    fn start_listening(self) -> Result<(Child, Scratch), Missed> {
        Ok((Child::spawn_listening(self.command, "(built by cargo)")?, self.scratch))
    }
}

/// It ended as asked, and nothing is left at the SIP server.
async fn ended(device: &Child, code: i32, world: &World) -> Outcome {
    let status = device.exit(SOON * 2).await?;
    assert_eq!(status.code(), Some(code), "{}", device.output());
    world.await_contacts(0).await?;
    assert!(!device.output().contains("wonderland"), "{}", device.output());
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_enables_answers_hangs_up_and_disables() -> Outcome {
    let world = World::start().await?;
    let (device, _files) = Trial::new(&world)?.with(&["--talk", "1"]).start()?;
    device.await_line("attached to 127.0.0.1", SOON * 2).await?;
    let caller = world.call()?;
    caller.expect(180, SOON).await?;
    let answer = caller.answered(SOON).await?;
    let body = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(body.contains("m=audio 9 ") && body.contains("a=inactive"), "it signals only: {body}");
    caller.expect_bye(SOON).await?;
    ended(&device, 0, &world).await?;
    for step in ["enabled pi_", "registration: registered 200", "call from sip:bob@", "answered", "hung up", "disabled"]
    {
        assert!(device.output().contains(step), "{step}: {}", device.output());
    }
    assert_eq!(world.fcm.requests(), 0, "it was there");
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_sleeps_is_pushed_wakes_and_lets_the_caller_hang_up() -> Outcome {
    let world = World::start().await?;
    let trial = Trial::without_password(&world)?.with(&["--asleep"]);
    let (device, _files) = trial.start_listening()?;
    device.say("wonderland")?;
    device.await_line("asleep", SOON * 2).await?;
    let caller = world.call()?;
    assert_eq!(world.android_push().await?["event"], "call");
    device.say("")?;
    caller.answered(SOON).await?;
    caller.bye(SOON).await?;
    ended(&device, 0, &world).await?;
    assert!(device.output().contains("the caller hung up"), "{}", device.output());
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_makes_a_key_gives_its_public_half_and_opens_the_push_that_wakes_it() -> Outcome {
    let world = World::start().await?;
    let trial = Trial::without_password(&world)?.with(&["--asleep", "--seal-key", "seal.key"]);
    let (device, files) = trial.start_listening()?;
    device.say("wonderland")?;
    device.await_line("pushes are sealed to ", SOON * 2).await?;
    device.await_line("asleep", SOON * 2).await?;
    let caller = world.call()?;
    let push = world.android_push().await?;
    assert!(push["sealed"].is_string() && push.get("from").is_none(), "{push}");
    device.say(&push.to_string())?;
    let woken = device.await_line("woken by ", SOON).await?;
    assert!(woken.contains("sip:bob@example.test"), "{woken}");
    caller.answered(SOON).await?;
    caller.bye(SOON).await?;
    ended(&device, 0, &world).await?;
    let file = files.path().join("seal.key");
    let private = std::fs::read_to_string(&file)?;
    assert!(!device.output().contains(private.trim()), "the private key stays in its file");
    assert_eq!(std::fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    // As each service has it, and one that was sealed to somebody else.
    let apns = serde_json::json!({"aps": {}, "sipwake": push});
    let fcm = serde_json::json!({"sipwake": push.to_string()});
    for (line, code, said) in [
        (apns.to_string(), 0, "\"name\":\"Bob\""),
        (fcm.to_string(), 0, "\"name\":\"Bob\""),
        (push.to_string().replace("\"event\":\"call\"", "\"event\":\"test\""), 1, "sealed to another key"),
        ("hello".to_owned(), 1, "no push"),
    ] {
        let mut command = Command::new(binary()?);
        command.args(["device", "--open", "--seal-key"]).arg(&file);
        let opening = Child::spawn_listening(command, "(built by cargo)")?;
        opening.say(&line)?;
        opening.await_line(said, SOON).await?;
        opening.close_input();
        assert_eq!(opening.exit(SOON).await?.code(), Some(code), "{}", opening.output());
    }
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_pushed_by_web_push_to_the_subscription_in_its_file() -> Outcome {
    let authority = Authority::new();
    let push_server = WebPush::start(&authority).await;
    let settings = push_server.settings();
    let world = World::with(|setup| setup.apps[0].webpush = Some(settings)).await?;
    let subscribed = push_server.subscribe();
    let trial = Trial::without_password(&world)?;
    trial.scratch.file("subscription.json", subscribed.to_json().to_string());
    let trial = trial.with(&["--asleep", "--provider", "webpush", "--subscription", "subscription.json"]);
    let (device, _files) = trial.start_listening()?;
    device.say("wonderland")?;
    device.await_line("asleep", SOON * 2).await?;
    let caller = world.call()?;
    let push = push_server.next_push(SOON * 2).await.ok_or_else(|| Missed::new("a push by Web Push", ""))?;
    assert_eq!((push.token.as_str(), &push.payload["event"]), (subscribed.token.as_str(), &"call".into()));
    device.say("")?;
    caller.answered(SOON).await?;
    caller.bye(SOON).await?;
    ended(&device, 0, &world).await?;
    assert!(!device.output().contains(&subscribed.token), "{}", device.output());
    for wrong in [&["--provider", "webpush"][..], &["--subscription", "subscription.json"]] {
        let trial = Trial::new(&world)?;
        trial.scratch.file("subscription.json", subscribed.to_json().to_string());
        let (device, _files) = trial.with(wrong).start()?;
        ended(&device, 2, &world).await?;
        assert!(device.output().contains("--subscription"), "{}", device.output());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_device_is_told_to_decline_is_answered_603() -> Outcome {
    let world = World::start().await?;
    let (device, _files) = Trial::new(&world)?.with(&["--on-call", "decline", "--ring", "0"]).start()?;
    device.await_line("attached", SOON * 2).await?;
    let caller = world.call()?;
    caller.expect(603, SOON).await?;
    ended(&device, 0, &world).await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_goes_wrong_is_said_and_ends_with_1_and_nothing_is_kept() -> Outcome {
    let world = World::start().await?;
    let api = format!("https://{}", world.relay.api_address());
    let key = world.relay.setup().apps[0].api_key.clone();
    let at = |api: &str, key: &str| Trial::at(api, world.authority.ca_file(), key, &world.registrar, Transport::Tls);
    let stranger = tests::authority::Authority::new();
    for (trial, said) in [
        (at(&api, "another-key-0123456789")?.password("wonderland"), "the relay refused with 401"),
        (at(&api, &key)?.password("looking-glass"), "(SIP status 401)"),
        (at(&api, &key)?, "no password"),
        (at("https://127.0.0.1:1", &key)?.password("wonderland"), "127.0.0.1:1 cannot be connected to"),
        (at("http://127.0.0.1", &key)?.password("wonderland"), "is not an address such as https://"),
        (
            Trial::at(&api, stranger.ca_file(), &key, &world.registrar, Transport::Tls)?.password("wonderland"),
            "the certificate of",
        ),
        (Trial::new(&world)?.with(&["--wait", "1"]), "no call came in time"),
    ] {
        let (device, _files) = trial.start()?;
        ended(&device, 1, &world).await?;
        assert!(device.output().contains(said), "{said}: {}", device.output());
        assert!(!device.output().contains("looking-glass"), "{}", device.output());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_for_ever_is_stopped_and_takes_the_account_back() -> Outcome {
    let world = World::start().await?;
    let (device, _files) = Trial::new(&world)?.with(&["--calls", "0"]).start()?;
    device.await_line("attached", SOON * 2).await?;
    for _ in 0..2 {
        let caller = world.call()?;
        caller.answered(SOON).await?;
        caller.bye(SOON).await?;
    }
    device.await_lines("the caller hung up", 2, SOON).await?;
    device.signal(Signal::TERM);
    ended(&device, 0, &world).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_stopped_while_it_waits_takes_the_account_back_and_calls_it_no_error() -> Outcome {
    let world = World::start().await?;
    let (device, _files) = Trial::new(&world)?.with(&["--asleep"]).start_listening()?;
    device.await_line("asleep: a call is pushed", SOON * 2).await?;
    // Its terminal is closed.
    device.signal(Signal::HUP);
    ended(&device, 0, &world).await?;
    assert!(device.output().contains("stopped") && !device.output().contains("error"), "{}", device.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_account_is_not_registered_yet_does_not_promise_a_push() -> Outcome {
    let world = World::start().await?;
    world.registrar.behave(&world.registrar.aor("alice"), registrar::Behaviour::Refuse(503));
    let (device, _files) = Trial::new(&world)?.with(&["--asleep"]).start_listening()?;
    device.await_line("asleep, and not registered: no call can come", SOON * 2).await?;
    assert!(!device.output().contains("a call is pushed"), "{}", device.output());
    device.signal(Signal::TERM);
    ended(&device, 0, &world).await
}
