//! What a running relay is told: reload, by SIGHUP or through the operator listener, and drain; and `config show`.

use std::time::Duration;

use rustix::process::Signal;
use tests::apns::BUNDLE;
use tests::board::Missed;
use tests::child::Child;
use tests::relay_process::{RelayProcess, binary};
use tests::relay_setup::Ports;
use tests::scratch::Scratch;
use tests::world::{SOON, World};

use super::{said, sipwake};

/// How soon a relay ends whose reload reads on: sooner than that gives up.
const END: Duration = Duration::from_secs(20);

type Outcome = Result<(), Missed>;

/// Where the relay's configuration has a file of this setting.
fn file_of(relay: &RelayProcess, setting: &str) -> std::path::PathBuf {
    file_of_text(&std::fs::read_to_string(relay.config()).unwrap_or_default(), setting).into()
}

/// The file that a configuration's text has for this setting.
fn file_of_text(text: &str, setting: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{setting} = "))).unwrap_or_default();
    line.trim_matches('"').to_owned()
}

/// A service manager that is told to stop a relay while it reloads ends `sipwake reload` first.
#[tokio::test]
async fn a_reload_that_is_ended_by_sigterm_is_no_failure() -> Outcome {
    let (silent, scratch) = (std::net::TcpListener::bind("127.0.0.1:0").unwrap(), Scratch::new());
    let mut command = std::process::Command::new(binary()?);
    command.args(["reload", "--operator", &format!("https://{}", silent.local_addr().unwrap()), "--token-file"]);
    command.arg(scratch.file("token", "operator-token-0123456789"));
    let reload = Child::spawn(command, "(built by cargo)")?;
    let _connection = silent.accept().unwrap();
    reload.signal(Signal::TERM);
    assert_eq!(reload.exit(SOON).await?.code(), Some(0), "{}", reload.output());
    assert!(reload.output().contains("ended by SIGTERM"), "{}", reload.output());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_takes_new_tokens_and_keys_and_says_what_waits_for_a_restart() -> Outcome {
    let world = World::start().await?;
    let relay = &world.relay;
    let config = relay.config().display().to_string();
    assert_eq!(relay.operator().get("/metrics").await?.status, 200);

    relay.hang_up();
    relay.await_log("reloaded: nothing has changed", SOON).await?;

    std::fs::write(file_of(relay, "token_file"), "another-operator-token").unwrap();
    std::fs::write(file_of(relay, "api_key_file"), "another-key-of-the-app").unwrap();
    let text = std::fs::read_to_string(relay.config()).unwrap();
    std::fs::write(relay.config(), text.replace("ring_timeout = \"30s\"", "ring_timeout = \"20s\"")).unwrap();
    relay.hang_up();
    let taken = relay.await_log("taken=", SOON).await;
    let line = relay.await_log("taken=operator.token_file, app[0].api_key_file", SOON).await;
    assert!(line.is_ok(), "{taken:?}: {}", relay.log());
    relay.await_log("settings=call.ring_timeout", SOON).await?;
    assert_eq!(relay.operator().get("/metrics").await?.status, 401, "the old token opens nothing");
    assert_eq!(world.api.enable(&world.enable_request(tests::world::TOKEN)).await?.status, 401, "nor does the old key");
    let table = sipwake(&["instances", "list", "--config", &config]);
    assert_eq!(table.status.code(), Some(0), "{}", said(&table));

    // The same through the listener; what waits for a restart is said each time.
    let again = sipwake(&["reload", "--config", &config]);
    let told = String::from_utf8_lossy(&again.stdout).into_owned();
    assert_eq!(
        (again.status.code(), told.as_str()),
        (Some(0), "nothing has changed\nin force after a restart: call.ring_timeout\n")
    );

    // A file with a problem changes nothing.
    let good = std::fs::read_to_string(relay.config()).unwrap();
    std::fs::write(file_of(relay, "token_file"), "a-third-token-of-the-operator").unwrap();
    std::fs::write(relay.config(), format!("{good}\n[nonsense]\n")).unwrap();
    relay.hang_up();
    relay.await_log("problem=nonsense: is not a setting", SOON).await?;
    for (wanted, code) in [("--live", 0), ("--ready", 1)] {
        let told = sipwake(&["check", wanted, "--config", &config]);
        assert_eq!(told.status.code(), Some(code), "a relay is alive whatever its file has become: {}", said(&told));
    }
    let token = relay.directory().join("second-token");
    std::fs::write(&token, "another-operator-token").unwrap();
    let at = [
        "--operator",
        &format!("https://{}", relay.operator_address()),
        "--ca",
        &world.authority.ca_file().display().to_string(),
    ]
    .map(str::to_owned);
    let refused =
        sipwake(&["reload", &at[0], &at[1], &at[2], &at[3], "--token-file", token.to_str().unwrap_or_default()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("nonsense: is not a setting"), "{}", said(&refused));
    std::fs::write(relay.config(), good).unwrap();
    let third =
        sipwake(&["reload", &at[0], &at[1], &at[2], &at[3], "--token-file", token.to_str().unwrap_or_default()]);
    assert!(String::from_utf8_lossy(&third.stdout).contains("taken: operator.token_file"), "{}", said(&third));
    // Who has nothing but the new token has it taken: the earlier one may be a thief's.
    std::fs::write(file_of(relay, "token_file"), "a-fourth-token-of-the-operator").unwrap();
    let early = sipwake(&["instances", "list", "--config", &config]);
    assert!(early.status.code() == Some(1) && said(&early).contains("sipwake reload"), "{}", said(&early));
    let fourth = sipwake(&["reload", "--config", &config]);
    assert!(String::from_utf8_lossy(&fourth.stdout).contains("taken: operator.token_file"), "{}", said(&fourth));
    let list = sipwake(&["instances", "list", "--config", &config]);
    assert_eq!(list.status.code(), Some(0), "{}", said(&list));
    std::fs::write(&token, "a-third-token-of-the-operator").unwrap();
    let stolen =
        sipwake(&["reload", &at[0], &at[1], &at[2], &at[3], "--token-file", token.to_str().unwrap_or_default()]);
    assert_eq!(stolen.status.code(), Some(1), "{}", said(&stolen));
    for secret in ["another-operator-token", "a-third-token", "a-fourth-token", "another-key"] {
        assert!(!relay.log().contains(secret), "{secret}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_takes_what_it_can_where_the_cas_are_in_another_file_and_the_one_of_before_is_gone() -> Outcome {
    let world = World::start().await?;
    let relay = &world.relay;
    let config = relay.config().display().to_string();
    let (old, new) = (world.authority.ca_file(), relay.directory().join("sip-ca.pem"));
    std::fs::rename(&old, &new).unwrap();
    let text = std::fs::read_to_string(relay.config()).unwrap();
    std::fs::write(relay.config(), text.replace(&old.display().to_string(), &new.display().to_string())).unwrap();
    std::fs::write(file_of(relay, "token_file"), "another-operator-token").unwrap();
    let told = sipwake(&["reload", "--config", &config]);
    assert_eq!(told.status.code(), Some(0), "{}", said(&told));
    let lines = String::from_utf8_lossy(&told.stdout).into_owned();
    let taken = lines.lines().find(|line| line.starts_with("taken: "));
    assert!(taken.is_some_and(|taken| taken.contains("operator.token_file")), "{lines}");
    assert!(lines.contains("in force after a restart: upstream.ca_file"), "{lines}");
    // The log tells it, too, whoever asked for the reload.
    let logged = relay.await_log("event=\"reloaded\"", SOON).await?;
    assert!(logged.contains("taken=") && logged.contains("operator.token_file"), "{logged}");
    relay.await_log("settings=upstream.ca_file", SOON).await?;
    assert_eq!(relay.operator().get("/metrics").await?.status, 401, "the old token opens nothing");
    std::fs::write(relay.config(), "x = [").unwrap();
    let at = format!("https://{}", relay.operator_address());
    let (ca, token) = (new.display().to_string(), file_of_text(&text, "token_file"));
    let refused = sipwake(&["reload", "--operator", &at, "--ca", &ca, "--token-file", &token]);
    assert_eq!(refused.status.code(), Some(1), "{}", said(&refused));
    relay.await_log("event=\"not-reloaded\"", SOON).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_reload_reads_what_nobody_writes_serves_on_and_ends_when_it_is_told_to() -> Outcome {
    let world = World::start().await?;
    let relay = &world.relay;
    let config = relay.config().to_owned();
    // A store that no start could read waits for none.
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("url = \"memory:\"", "url = \"redis://127.0.0.1:1/x\"")).unwrap();
    relay.hang_up();
    relay.await_log("problem=store.url: has a host, a port, a user or a database that cannot be read", SOON).await?;
    assert!(!relay.log().contains("restart-needed"), "{}", relay.log());

    std::fs::remove_file(&config).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&config).status().unwrap().success());
    relay.hang_up();
    // It opens once the relay reads there, and stays open: the end does not come.
    let (told, opened) = std::sync::mpsc::channel();
    std::thread::spawn(move || told.send(std::fs::OpenOptions::new().write(true).open(config)));
    let held = opened.recv_timeout(SOON).expect("the relay reads its file").unwrap();
    assert_eq!(relay.operator().get("/readyz").await?.status, 200);
    let ended = relay.signal(Signal::TERM, END).await?;
    assert!(ended.success() && relay.log().contains("event=\"drained\""), "{}", relay.log());
    drop(held);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_in_another_file_is_taken_by_a_reload_that_shows_it() -> Outcome {
    let world = World::start().await?;
    let relay = &world.relay;
    let config = relay.config().display().to_string();
    let (old, new) = (file_of(relay, "token_file"), relay.directory().join("token-2"));
    std::fs::write(&new, "another-operator-token").unwrap();
    let text = std::fs::read_to_string(relay.config()).unwrap();
    std::fs::write(relay.config(), text.replace(&old.display().to_string(), &new.display().to_string())).unwrap();
    let early = sipwake(&["instances", "list", "--config", &config]);
    assert!(early.status.code() == Some(1) && said(&early).contains("sipwake reload"), "{}", said(&early));
    let told = sipwake(&["reload", "--config", &config]);
    assert_eq!(told.status.code(), Some(0), "{}", said(&told));
    assert!(String::from_utf8_lossy(&told.stdout).contains("taken: operator.token_file"), "{}", said(&told));
    assert_eq!(relay.operator().get("/metrics").await?.status, 401, "the old token opens nothing");
    let list = sipwake(&["instances", "list", "--config", &config]);
    assert_eq!(list.status.code(), Some(0), "{}", said(&list));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_takes_a_new_certificate_for_apns_and_leaves_one_that_has_ended() -> Outcome {
    let mut file = std::path::PathBuf::new();
    let (world, _alice) = World::lent_with(|setup| {
        let ended = setup.authority.issue_ended(&[BUNDLE]).both();
        file = setup.authority.write("push.pem", &ended);
        for apns in setup.apps.iter_mut().filter_map(|app| app.apns.as_mut()) {
            apns.certificate_file = Some(file.clone());
        }
    })
    .await?;
    let relay = &world.relay;
    let config = relay.config().display().to_string();
    relay.await_log("push-certificate-doubt", SOON).await?;
    let warns = async || {
        let ready = relay.operator().get("/readyz").await?.text();
        std::io::Result::Ok(ready.contains("push.pem: the certificate has expired") && ready.contains("sipwake reload"))
    };
    assert!(warns().await?, "a relay that runs says so");
    world.await_metric("sipwake_warnings{about=\"push-certificate\"}", 1.0).await?;
    world.call()?.expect(480, SOON).await?;
    relay.await_log("CertificateExpired", SOON).await?;
    let check = sipwake(&["check", "--push", "--config", &config]);
    assert_eq!(check.status.code(), Some(1));
    for told in ["error: app[0].apns.certificate_file: ", "the certificate has expired", "get a new one from Apple"] {
        assert!(said(&check).contains(told), "{told}: {}", said(&check));
    }
    assert!(said(&check).contains("apns takes no push: CertificateExpired"), "{}", said(&check));

    world.authority.write("push.pem", &world.authority.issue(&[BUNDLE]).both());
    relay.hang_up();
    relay.await_log("taken=app[0].apns.certificate_file", SOON).await?;
    world.await_metric("sipwake_warnings{about=\"push-certificate\"}", 0.0).await?;
    assert!(!warns().await?);
    let check = sipwake(&["check", "--push", "--config", &config]);
    assert_eq!(check.status.code(), Some(0), "{}", said(&check));
    world.call()?.expect(180, SOON).await?;
    let pushes = world.apns.pushes();
    assert!(pushes.iter().any(|push| push.topic == format!("{BUNDLE}.voip")), "{pushes:?}");
    assert!(pushes.iter().all(|push| push.provider_token.is_empty()));

    // One that has ended changes nothing: the one in force goes on.
    world.authority.write("push.pem", &world.authority.issue_ended(&[BUNDLE]).both());
    relay.hang_up();
    let told = relay.await_log("event=\"not-reloaded\" problem=app[0].apns.certificate_file", SOON).await?;
    assert!(told.contains("has expired"), "{told}");
    world.call()?.expect(180, SOON).await?;
    assert!(!relay.log().contains("PRIVATE KEY"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_is_found_while_its_configuration_names_another_operator_listener() -> Outcome {
    let world = World::start().await?;
    let relay = &world.relay;
    let config = relay.config().display().to_string();
    let noted = || {
        let files: Vec<_> = std::fs::read_dir(world.authority.directory()).into_iter().flatten().flatten().collect();
        let is_of = |kind: &str, name: &str| name.starts_with(kind) && !name.ends_with(".new");
        let [certificate, listener] = ["keyring.certificate-", "keyring.operator-"].map(|kind| {
            files.iter().find(|file| is_of(kind, &file.file_name().to_string_lossy())).map(std::fs::DirEntry::path)
        });
        certificate.and(listener)
    };
    let note = world.until("a note of the listener", || async { noted() }).await?;
    let text = std::fs::read_to_string(relay.config()).unwrap();
    let (own, other) = (relay.operator_address().port(), Ports::default().operator);
    let text = text.replace(&format!(":{own}\""), &format!(":{other}\""));
    // While it is edited.
    std::fs::write(relay.config(), format!("{text}\n[nonsense")).unwrap();
    let told = sipwake(&["check", "--live", "--config", &config]);
    assert_eq!(told.status.code(), Some(0), "{}", said(&told));
    std::fs::write(relay.config(), text).unwrap();
    for (arguments, told) in [
        (&["reload"][..], "in force after a restart: operator.listen\n"),
        (&["check", "--live"], "serves, and is ready\n"),
        (&["check", "--ready"], "serves, and is ready\n"),
        (&["check"], ": all right\n"),
        (&["nodes"], "ready"),
        (&["status"], "Ready."),
        (&["drain", "--yes"], "draining\n"),
    ] {
        let output = sipwake(&[arguments, &["--config", &config]].concat());
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
        assert!(printed.contains(told), "{arguments:?}: {printed}");
    }
    relay.exit(SOON).await?;
    assert_eq!(sipwake(&["check", "--live", "--config", &config]).status.code(), Some(1), "nobody serves");
    let stranger = World::start().await?;
    std::fs::write(note, stranger.relay.operator_address().to_string()).unwrap();
    let told = sipwake(&["check", "--live", "--config", &config]);
    assert_eq!(told.status.code(), Some(1), "another relay is where it was: {}", said(&told));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_has_a_relay_drain_and_it_ends_with_0() -> Outcome {
    let world = World::start().await?;
    let config = world.relay.config().display().to_string();
    // Without a terminal nobody can be asked: no answer is a yes.
    let unasked = sipwake(&["drain", "--config", &config]);
    assert_eq!(unasked.status.code(), Some(1), "{}", said(&unasked));
    assert!(said(&unasked).contains("nobody said yes (--yes says so beforehand)"), "{}", said(&unasked));
    let told = sipwake(&["drain", "--yes", "--config", &config]);
    assert_eq!(
        (told.status.code(), String::from_utf8_lossy(&told.stdout).as_ref()),
        (Some(0), "draining\n"),
        "{}",
        said(&told)
    );
    assert_eq!(world.relay.ended(Duration::from_secs(15)).await?.code(), Some(0), "{}", world.relay.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_is_shown_as_it_is_in_force_and_without_its_secrets() -> Outcome {
    let world = World::with(|setup| setup.further = "[limits]\ndials_per_source = 7\n".to_owned()).await?;
    let config = world.relay.config().display().to_string();
    let unnamed = sipwake(&["config", "show"]);
    assert_eq!(unnamed.status.code(), Some(2), "one of the current folder may be anybody's: {}", said(&unnamed));
    let shown = sipwake(&["config", "show", "--config", &config]);
    assert_eq!(shown.status.code(), Some(0), "{}", said(&shown));
    let text = String::from_utf8_lossy(&shown.stdout).into_owned();
    let line = |place: &str| text.lines().find(|line| line.starts_with(place)).unwrap_or_default().to_owned();
    assert!(
        line("limits.dials_per_source").contains('7') && line("limits.dials_per_source").contains("line "),
        "{text}"
    );
    assert!(line("upstream.allow_md5").contains("true") && line("upstream.allow_md5").ends_with("default"), "{text}");
    assert!(line("app[0].id").contains("com.example.phone"), "{text}");
    let setup = world.relay.setup();
    for secret in [&setup.operator_token, &setup.apps[0].api_key] {
        assert!(!text.contains(secret.as_str()), "{text}");
    }
    let set = sipwake(&["config", "show", "--set", "--json", "--config", &config]);
    let set: serde_json::Value = serde_json::from_slice(&set.stdout).unwrap_or_default();
    assert!(
        set.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(|one| one["from"] != "default")),
        "{set}"
    );
    Ok(())
}
