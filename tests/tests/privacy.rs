//! Where a secret could be left behind: Redis and what goes to it, the log, what operators see, files, and the process's
//! own memory. The real binary, and the stand-ins around it.
//!
//! Invariant: loopback alone. Memory is read through `/proc/PID/mem`, which a process that forbids dumps gives to root
//! alone.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use sip::auth::{Ha1, Hash};
use tests::api_client::Instance;
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::digest::{Algorithm, token};
use tests::phone::{self, Phone, Proof};
use tests::redis_server::RedisServer;
use tests::registrar::Behaviour;
use tests::world::{Outcome, SOON, World};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

/// What must stand nowhere once an account is wiped, by name: its password or digests, its token, its secret.
fn traces(world: &World, lent: &Instance, user: &str) -> Vec<(String, Vec<u8>)> {
    let password = world.registrar.password(user).unwrap();
    let mut all = vec![
        ("the password".to_owned(), password.clone().into_bytes()),
        ("the push token".to_owned(), lent.push_token.clone().into_bytes()),
        ("the instance's secret".to_owned(), lent.secret.clone().into_bytes()),
    ];
    for hash in [Hash::Md5, Hash::Sha256, Hash::Sha512_256] {
        let text = Ha1::compute(hash, user, "example.test", &password).expose().to_owned();
        let raw = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect();
        all.push((format!("the HA1 by {hash:?}, in letters"), text.into_bytes()));
        all.push((format!("the HA1 by {hash:?}, in bytes"), raw));
    }
    all
}

/// Enables, is called, wakes, answers, is declined once more: everything in which a secret is used.
async fn live(world: &World, user: &str, proof: Proof) -> Result<Instance, Missed> {
    let lent = world.lend(user).await?;
    let caller = world.call_for(&lent)?;
    world.push_for(&lent).await?;
    let phone = Phone::registered(phone::Settings { proof, ..world.device(&lent) }, SOON).await?;
    let call = phone.next_invite(SOON).await?;
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    phone.unregister(SOON).await?;
    // A client of its own: while a connection is open, its tables hold what was shown on it.
    assert_eq!(world.relay.api().read(&lent).await?.status, 200);
    Ok(lent)
}

async fn wipe(world: &World, lent: &Instance) -> Outcome {
    let receipt = world.relay.api().disable(lent).await?;
    assert_eq!((receipt.status, receipt.json()["unregistered"].as_bool()), (200, Some(true)), "{}", receipt.text());
    world.secrets.assert_none_in("the receipt", &receipt.text());
    world.registrar.await_contacts(&lent.aor, 0, SOON).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_wipe_the_process_remembers_neither_password_nor_digest_nor_token() -> Outcome {
    let world = World::attacked_alone(|_| {}).await?;
    for (user, proof) in [("mallory", Proof::Digest(Algorithm::Sha256)), ("trent", Proof::Bearer)] {
        let lent = live(&world, user, proof).await?;
        let traces = traces(&world, &lent, user);
        let held = world.relay.memory_keeps(&traces, SOON).await?;
        assert_eq!(held, Vec::<String>::new(), "while the account is lent, sealed");
        wipe(&world, &lent).await?;
        let mut traces = traces;
        traces.push(("the AOR".to_owned(), lent.aor.trim_start_matches("sip:").as_bytes().to_vec()));
        let held = world.relay.memory_keeps(&traces, SOON).await?;
        assert_eq!(held, Vec::<String>::new(), "after the wipe");
    }
    // The search finds what is there: the realm of the edge is a constant of the program.
    assert!(world.relay.memory_contains(b"sipwake").unwrap());
    world.unharmed().await
}

/// A call to a phone that never came is nobody's any more.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_wipe_the_process_remembers_no_caller_of_a_call_that_has_ended_nor_of_one_that_waits() -> Outcome {
    let world = World::attacked_alone(|_| {}).await?;
    for (name, user, is_cancelled) in [("Wilhelmina", "mallory", true), ("Theodora", "trent", false)] {
        let lent = world.lend(user).await?;
        let (address, name) = (format!("{}@example.test", token()), format!("{name} {}", token()));
        let options = CallOptions::default().from(&format!("\"{name}\" <sip:{address}>"));
        let caller = world.call_to(&lent.aor, &options)?;
        world.push_for(&lent).await?;
        if is_cancelled {
            world.cancel(&caller).await?;
        }
        wipe(&world, &lent).await?;
        if !is_cancelled {
            caller.expect(480, SOON).await?;
        }
        let traces = [("the caller's name", name), ("the caller's address", address)]
            .map(|(what, value)| (what.to_owned(), value.into_bytes()));
        let held = world.relay.memory_keeps(&traces, SOON).await?;
        assert_eq!(
            held,
            Vec::<String>::new(),
            "of a call that was {}",
            if is_cancelled { "given up" } else { "waiting" }
        );
    }
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_and_wrong_enablings_leave_nothing_in_memory() -> Outcome {
    let world = World::attacked_alone(|_| {}).await?;
    let secret = format!("refused-{}", token());
    world.secrets.keep("a secret of the test", &secret);
    let mut needles = vec![("the password".to_owned(), secret.clone().into_bytes())];
    for behaviour in [None, Some(Behaviour::Refuse(403)), Some(Behaviour::AskForever)] {
        let mut request = world.enable_request_anew("peggy");
        request["account"]["password"] = json!(secret);
        if let Some(behaviour) = behaviour {
            world.registrar.behave(&world.registrar.aor("peggy"), behaviour);
        }
        let refused = world.api.enable(&request).await?;
        assert_eq!(refused.status, 422, "{}", refused.text());
        assert_eq!(refused.problem().as_deref(), Some("upstream-refused"));
        world.secrets.assert_none_in("a refusal", &refused.text());
        let token = request["device"]["call_push"]["token"].as_str().unwrap();
        needles.push(("a push token".to_owned(), token.as_bytes().to_vec()));
    }
    for (key, value) in [("lifetime_s", json!(1)), ("surprise", json!(secret))] {
        let mut request = world.enable_request_anew("peggy");
        request["account"]["password"] = json!(secret);
        request[key] = value;
        assert_eq!(world.api.enable(&request).await?.status, 422);
    }
    // Broken off in the middle of the password.
    let half = format!("{{\"account\": {{\"aor\": \"sip:peggy@example.test\", \"password\": \"{secret}");
    let key = world.relay.setup().apps[0].api_key.clone();
    let broken = world.api.raw("POST", "/v1/instances", Some(&key), Some("application/json"), half.into()).await?;
    assert_eq!(broken.status, 400);
    let held = world.relay.memory_keeps(&needles, SOON).await?;
    assert_eq!(held, Vec::<String>::new());
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_lent_by_its_digest_works_and_its_password_never_comes_near() -> Outcome {
    let world = World::attacked_alone(|_| {}).await?;
    let (password, domain) = (world.registrar.password("mallory").unwrap(), "example.test");
    let ha1 = |hash| Ha1::compute(hash, "mallory", domain, &password).expose().to_owned();
    let mut request = world.enable_request_anew("mallory");
    request["account"].as_object_mut().unwrap().remove("password");
    request["account"]["ha1"] = json!({
        "realm": domain, "MD5": ha1(Hash::Md5), "SHA-256": ha1(Hash::Sha256), "SHA-512-256": ha1(Hash::Sha512_256),
    });
    world.secrets.keep("a secret of the test", &ha1(Hash::Sha512_256));
    let lent = world.enable_as(&request).await?;
    assert!(world.registrar.registers(&lent.aor).iter().any(|seen| seen.proven && seen.status == Some(200)));
    let caller = world.call_for(&lent)?;
    world.push_for(&lent).await?;
    let phone = world.wake(&lent).await?;
    let call = phone.next_invite(SOON).await?;
    call.answer();
    caller.answered(SOON).await?;
    call.hang_up(SOON).await?;
    phone.unregister(SOON).await?;
    let traces = traces(&world, &lent, "mallory");
    let held = world.relay.memory_keeps(&traces, SOON).await?;
    assert_eq!(held, Vec::<String>::new(), "while it is lent");
    wipe(&world, &lent).await?;
    let held = world.relay.memory_keeps(&traces, SOON).await?;
    assert_eq!(held, Vec::<String>::new(), "after the wipe");
    // Digests of another realm are no use, and are refused and forgotten.
    let mut other = request.clone();
    other["account"]["ha1"]["realm"] = json!("elsewhere.test");
    let refused = world.api.enable(&other).await?;
    assert_eq!(refused.status, 422, "{}", refused.text());
    world.unharmed().await
}

/// Everything that goes to Redis, as MONITOR tells it, until asked.
async fn monitor(port: u16) -> (oneshot::Sender<()>, tokio::task::JoinHandle<String>) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(b"MONITOR\r\n").await.unwrap();
    let mut begun = [0; 5];
    stream.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"+OK\r\n");
    let (stop, mut stopped) = oneshot::channel();
    let listening = tokio::spawn(async move {
        let (mut seen, mut space) = (Vec::new(), vec![0; 65_536]);
        loop {
            tokio::select! {
                biased;
                read = stream.read(&mut space) => match read {
                    Ok(length @ 1..) => seen.extend_from_slice(&space[..length]),
                    _ => break,
                },
                _ = &mut stopped => break,
            }
        }
        String::from_utf8_lossy(&seen).into_owned()
    });
    (stop, listening)
}

/// The values of every key, as they lie there, and the file that SAVE would leave on a disk.
fn stored(redis: &RedisServer, directory: &Path) -> (Vec<String>, Vec<u8>) {
    let keys = redis.keys();
    let mut all = keys.join("\n").into_bytes();
    for key in &keys {
        all.extend(redis.ask::<Vec<u8>>(redis::cmd("DUMP").arg(key)));
    }
    let set = |name: &str, value: &str| redis.ask::<()>(redis::cmd("CONFIG").arg("SET").arg(name).arg(value));
    set("rdbcompression", "no");
    let _: () = redis.ask(&redis::cmd("SAVE"));
    let place: Vec<String> = redis.ask(redis::cmd("CONFIG").arg("GET").arg("dir"));
    let file = Path::new(place.last().map_or("", String::as_str)).join("dump.rdb");
    let saved = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert!(!saved.is_empty() && directory != file);
    all.extend(saved);
    (keys, all)
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_learns_no_name_and_no_secret_and_keeps_nothing_of_a_wiped_instance() -> Outcome {
    let redis = RedisServer::start();
    let (stop, listening) = monitor(redis.port()).await;
    let url = redis.url();
    let world = World::attacked_alone(move |setup| setup.store = url).await?;
    let before = redis.instance_keys();
    let lent = live(&world, "mallory", Proof::Digest(Algorithm::Sha256)).await?;
    let (keys, lying) = stored(&redis, world.relay.directory());
    assert!(keys.len() > before.len(), "it is stored: {keys:?}");
    let text = String::from_utf8_lossy(&lying);
    world.secrets.assert_none_in("what lies in Redis", &text);
    for (name, bytes) in traces(&world, &lent, "mallory") {
        assert!(memchr::memmem::find(&lying, &bytes).is_none(), "{name} lies in Redis");
    }
    // What a node left of itself, its number and no more, outlives the instances.
    let of_instances = redis.instance_keys();
    for key in of_instances.iter().filter(|key| !before.contains(key) && !key.starts_with("sipwake:n:")) {
        let left: i64 = redis.ask(redis::cmd("PTTL").arg(key));
        let six_days = 6 * 24 * 3600 * 1000 + 3_600_000;
        assert!((1..=six_days).contains(&left), "{key} lives {left} ms");
    }
    wipe(&world, &lent).await?;
    let deadline = tokio::time::Instant::now() + SOON;
    // The words of the AOR's account are gone with it: what is left was there before, or counts nodes.
    while redis.instance_keys().len() > before.len() {
        assert!(tokio::time::Instant::now() < deadline, "left: {:?}, before: {before:?}", redis.keys());
        tokio::task::yield_now().await;
    }
    let _ = stop.send(());
    let told = listening.await.unwrap();
    assert!(told.contains("EVALSHA") || told.contains("SET"), "MONITOR was on");
    world.secrets.assert_none_in("what went to Redis", &told);
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_operators_see_names_no_secret_and_metrics_name_nobody() -> Outcome {
    let world = World::attacked_alone(|_| {}).await?;
    let lent = live(&world, "mallory", Proof::Bearer).await?;
    let operator = world.relay.operator();
    let of_one = format!("/v1/operator/instances/{}", lent.id);
    let export = format!("{of_one}/export");
    for path in ["/", "/metrics", "/readyz", "/v1/operator/instances", &of_one, &export] {
        let answer = operator.get(path).await?;
        assert_eq!(answer.status, 200, "{path}");
        let text = answer.text();
        for (name, bytes) in traces(&world, &lent, "mallory") {
            assert!(memchr::memmem::find(&answer.body, &bytes).is_none(), "{path} shows {name}: {text}");
        }
        let names = ["mallory", "bob@", &lent.id, &lent.id[3..]];
        let anonymous = matches!(path, "/" | "/metrics" | "/readyz");
        assert!(!anonymous || names.iter().all(|name| !text.contains(name)), "{path} names somebody: {text}");
    }
    wipe(&world, &lent).await?;
    assert_eq!(operator.get(&export).await?.status, 404);
    world.unharmed().await
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_no_argument_and_no_core_dump_holds_a_secret() -> Outcome {
    let world = World::attacked_alone(|_| {}).await?;
    let given = files(world.relay.directory());
    let lent = live(&world, "mallory", Proof::Digest(Algorithm::Md5)).await?;
    let pid = world.relay.pid();
    let place = format!("/proc/{pid}");
    let limits = std::fs::read_to_string(format!("{place}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
    for name in ["cmdline", "environ", "comm"] {
        let bytes = std::fs::read(format!("{place}/{name}")).unwrap();
        world.secrets.assert_none_in(name, &String::from_utf8_lossy(&bytes));
    }
    let open: Vec<_> = std::fs::read_dir(format!("{place}/fd")).unwrap().flatten().collect();
    let open: Vec<_> = open.iter().filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect();
    let on_disk =
        |path: &&std::path::PathBuf| path.is_absolute() && !path.starts_with("/dev") && !path.starts_with("/proc");
    assert_eq!(open.iter().filter(on_disk).collect::<Vec<_>>(), Vec::<&std::path::PathBuf>::new(), "open files");
    let ended = world.relay.signal(Signal::ABORT, SOON).await?;
    assert!(ended.signal().is_some() && !ended.core_dumped(), "{ended}");
    let left = files(world.relay.directory());
    assert!(left.iter().all(|path| !path.to_string_lossy().contains("core")), "{left:?}");
    // The relay's own files, the time that it last saw and what it is known by here, may come before or after the first look.
    let is_own = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let of_node = ["keyring.certificate-", "keyring.operator-"].iter().any(|kind| name.starts_with(kind));
        of_node || name == "keyring.clock" || name == "keyring.boot"
    };
    let wrote: Vec<_> = left.iter().filter(|path| !given.contains(path) && !is_own(path)).collect();
    assert!(wrote.is_empty(), "files that appeared: {wrote:?}");
    // What the operator wrote down himself holds the app's key and the operator's token, and nothing of an account.
    for path in left {
        let bytes = std::fs::read(&path).unwrap();
        for (name, needle) in traces(&world, &lent, "mallory") {
            assert!(memchr::memmem::find(&bytes, &needle).is_none(), "{} holds {name}", path.display());
        }
    }
    world.secrets.assert_none_in("the log at trace level", &world.relay.log());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_at_trace_level_holds_no_secret_when_things_go_wrong() -> Outcome {
    let world = World::attacked().await?;
    let lent = world.lend("mallory").await?;
    // A push service that refuses, a device that fails to prove itself, a server that stops answering, a wipe in silence.
    world.apns.answer_all(Some(tests::apns::Answer::ServerError));
    let caller = world.call_to(&lent.aor, &CallOptions::default().private("<sip:bob@example.test>"))?;
    caller.leg().any_response(&caller.first(), SOON).await?;
    caller.cancel().await?;
    world.apns.answer_all(None);
    let wrong = phone::Settings { password: "not-the-secret".into(), ..world.device(&lent) };
    world.secrets.keep("a secret of the test", "not-the-secret");
    let refused = Phone::connect(wrong).await?.register(SOON).await?;
    assert_eq!(refused.status(), Some(403));
    world.registrar.behave(&lent.aor, Behaviour::Silence);
    let receipt = world.relay.api().disable(&lent).await?;
    assert_eq!((receipt.status, receipt.json()["unregistered"].as_bool()), (200, Some(false)), "{}", receipt.text());
    let traces = traces(&world, &lent, "mallory");
    assert_eq!(world.relay.memory_keeps(&traces, SOON).await?, Vec::<String>::new());
    world.registrar.drop_flows();
    let deadline = tokio::time::Instant::now() + SOON;
    while world.registrar.contacts(&world.bystander().aor).iter().all(|contact| !contact.flow.is_open()) {
        assert!(tokio::time::Instant::now() < deadline, "the bystander's flow is made anew");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.unharmed().await
}
