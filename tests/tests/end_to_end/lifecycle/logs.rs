//! What the relay logs: one event a line, JSON for programs, an outage told once, numbers of requests and calls.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::authority::Authority;
use tests::relay_process::binary;
use tests::relay_setup::{App, Setup};
use tests::scratch::Scratch;
use tests::world::{Outcome, SOON, World, text};

#[tokio::test(flavor = "multi_thread")]
async fn json_logs_are_an_event_a_line_and_serving_names_every_listener() -> Outcome {
    let (authority, scratch) = (Authority::new(), Scratch::new());
    let (apns, fcm) = (tests::apns::Apns::start(&authority).await, tests::fcm::Fcm::start(&authority).await);
    let setup = Setup::new(&authority, vec![App::served_by(&apns, &fcm)]);
    let file = setup.write(&scratch);
    let mut command = Command::new(binary()?);
    command.args(["serve", "--log-format", "json", "--config"]).arg(file).env("RUST_LOG", "relay=debug,sipwake=debug");
    let mut relay = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let pid = rustix::process::Pid::from_child(&relay);
    let lines = BufReader::new(relay.stderr.take().expect("a pipe")).lines();
    let mut told: Vec<Value> = Vec::new();
    for line in lines.map_while(Result::ok) {
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        if event["fields"]["event"] == "serving" {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        }
        told.push(event);
    }
    assert!(relay.wait().expect("it ends").success());
    let of = |name: &str| told.iter().find(|line| line["fields"]["event"] == name).map(|line| line["fields"].clone());
    let serving = of("serving").unwrap_or_default();
    for listener in ["edge", "websocket", "api", "operator", "upstream_tls"] {
        assert!(serving[listener].as_str().is_some_and(|at| at.contains(':')), "{listener}: {serving}");
    }
    assert!(of("drained").is_some());
    let ours = told.iter().filter(|line| text(&line["target"]).starts_with("relay"));
    for line in ours {
        assert!(line["fields"]["event"].is_string(), "no event: {line}");
        // Rust's debug form of a variant with fields.
        assert!(!line["fields"].to_string().contains(" { "), "{line}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_does_not_start_says_why_in_json_to_who_reads_json() -> Outcome {
    let (authority, scratch) = (Authority::new(), Scratch::new());
    let (apns, fcm) = (tests::apns::Apns::start(&authority).await, tests::fcm::Fcm::start(&authority).await);
    let setup = Setup::new(&authority, vec![App::served_by(&apns, &fcm)]);
    let file = setup.write(&scratch);
    let told = |arguments: &[&str], log: &str, variable: Option<(&str, &str)>| {
        let mut command = Command::new(binary()?);
        command.args(["serve", "--config"]).arg(&file).args(arguments).env("RUST_LOG", log).envs(variable);
        let ended = command.stdin(Stdio::null()).output().expect("the binary starts");
        assert_eq!(ended.status.code(), Some(1));
        Ok::<_, tests::board::Missed>(String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let json = |said: &str| -> Vec<Value> {
        let parsed = said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")));
        parsed.filter(|line: &Value| line["fields"]["event"] == "not-started").collect()
    };
    // A problem of the configuration, and a port that somebody else has.
    let wrong = Some(("SIPWAKE_CALL__RING_TIMEOUT", "soon"));
    let why = json(&told(&["--log-format", "json"], "info", wrong)?);
    assert_eq!((why.len(), &why[0]["level"]), (1, &"ERROR".into()), "{why:?}");
    assert!(text(&why[0]["fields"]["place"]).contains("call.ring_timeout"), "{why:?}");
    assert!(text(&why[0]["fields"]["remedy"]).contains("duration"), "{why:?}");
    let _taken = std::net::TcpListener::bind((setup.edge_ip, setup.ports.api)).expect("a free port");
    let why = json(&told(&["--log-format", "json"], "info", None)?);
    assert!(why.len() == 1 && text(&why[0]["fields"]["why"]).contains("api.listen"), "{why:?}");
    // A person reads lines, and so does whoever has turned the log off.
    for (arguments, log) in [(&[][..], "info"), (&["--log-format", "json"], "off")] {
        let said = told(arguments, log, wrong)?;
        assert!(said.lines().any(|line| line.starts_with("error: call.ring_timeout")), "{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_store_is_a_line_when_it_begins_and_one_when_it_is_over() -> Outcome {
    let (world, redis, _alice) = World::lent_on_redis().await?;
    redis.freeze();
    world.await_metric("sipwake_store_up", 0.0).await?;
    // Three renewals later it is as it was.
    let errors = || world.metric("sipwake_store_errors_total{operation=\"lease\"}");
    let before = errors().await.unwrap_or(0.0);
    world
        .until("three failures more", || async { errors().await.filter(|now| *now >= before + 3.0).map(drop) })
        .await?;
    assert_eq!(world.relay.log().matches("lease-not-renewed").count(), 1, "{}", world.relay.log());
    redis.thaw();
    world.relay.await_log("lease-renewed-again", Duration::from_secs(20)).await?;
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_a_number_in_its_answer_and_its_lines_and_a_call_has_one_in_each_of_its_own() -> Outcome {
    let world = World::start().await?;
    let request = world.enable_request(tests::world::TOKEN);
    let answer = world.api.enable(&request).await?;
    let number = answer.headers.get("x-request-id").and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    assert!(number.len() == 18 && number.starts_with("r_"), "{number}");
    let lines = |needle: &str| {
        world.relay.log().lines().filter(|line| line.contains(needle)).map(str::to_owned).collect::<Vec<_>>()
    };
    for event in ["event=\"enabled\"", "event=\"http-request\""] {
        let told = || async { lines(&number).iter().any(|line| line.contains(event)).then_some(()) };
        world.until(event, told).await?;
    }
    let again = world.relay.operator().get("/healthz").await?;
    assert!(again.headers.contains_key("x-request-id") && again.headers["x-request-id"] != number.as_str());

    let caller = world.call()?;
    let call = text(&world.push().await?["call"]);
    // The service's verdict has come: a call that is cancelled before it waits for none.
    caller.expect(180, SOON).await?;
    world.cancel(&caller).await?;
    world.relay.await_log("step=\"cancelled\"", Duration::from_secs(10)).await?;
    for step in ["invite", "push-sent", "push-ended", "cancelled"] {
        assert!(
            lines(&call).iter().any(|line| line.contains(&format!("step=\"{step}\""))),
            "{step}: {:?}",
            lines(&call)
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_up_neither_calls_nor_operators_nor_the_end() -> Outcome {
    const ASKED: usize = 1_000;
    let (world, alice) = World::lent_with(|_| {}).await?;
    let (relay, operator) = (&world.relay, world.relay.operator());
    relay.stop_reading_log();
    // Each has a line; a pipe holds 64 KiB of them.
    for _ in 0..ASKED {
        assert_eq!(operator.get("/healthz").await?.status, 200);
    }
    world.whole_call(&alice).await?;
    relay.read_on_log("route=\"/healthz\"", ASKED, SOON).await?;
    relay.await_log("step=\"device-attached\"", SOON).await?;
    assert!(!relay.log().contains("log-lines-dropped"), "{}", relay.log());

    relay.stop_reading_log();
    for _ in 0..ASKED {
        assert_eq!(operator.get("/healthz").await?.status, 200);
    }
    assert!(relay.terminate(Duration::from_secs(30)).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_are_lost_are_counted_in_sipwake_log_lines_dropped_total() -> Outcome {
    let (authority, scratch) = (Authority::new(), Scratch::new());
    let (apns, fcm) = (tests::apns::Apns::start(&authority).await, tests::fcm::Fcm::start(&authority).await);
    let setup = Setup::new(&authority, vec![App::served_by(&apns, &fcm)]);
    let mut command = Command::new(binary()?);
    command.args(["serve", "--config"]).arg(setup.write(&scratch)).env("RUST_LOG", "relay=debug,sipwake=debug");
    let mut relay = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let mut log = BufReader::new(relay.stderr.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("event=\"serving\"") {
        line.clear();
        assert!(log.read_line(&mut line).expect("it reads") > 0, "it ended");
    }
    // Whoever read it is gone.
    drop(log);
    let within = tokio::time::timeout(SOON, async {
        while setup.metric("sipwake_log_lines_dropped_total").await.unwrap_or_default() < 10.0 {}
    });
    let counted = within.await;
    let pid = rustix::process::Pid::from_child(&relay);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    assert!(relay.wait().expect("it ends").success());
    assert!(counted.is_ok(), "each answer has a line, which was lost");
    Ok(())
}
