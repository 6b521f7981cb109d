//! The audit trail of a relay: what it tells, and of whom it does not.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tests::board::Missed;
use tests::push_phone::Service;
use tests::registrar::Behaviour;
use tests::relay_process::binary;
use tests::scratch::Scratch;
use tests::world::{FCM_TOKEN, OTHER_TOKEN, SOON, TOKEN, World};

use super::Outcome;

async fn world_with(trail: &Path) -> Result<World, Missed> {
    World::with(|setup| setup.further += &format!("\n[audit]\ndirectory = {trail:?}\nkeep = \"2d\"\n")).await
}

fn lines(trail: &Path) -> Vec<Value> {
    let mut files: Vec<_> = std::fs::read_dir(trail).expect("a trail").filter_map(Result::ok).collect();
    files.sort_by_key(std::fs::DirEntry::path);
    let text: String = files.iter().map(|file| std::fs::read_to_string(file.path()).expect("text")).collect();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What was done, with why.
fn acts(trail: &Path) -> Vec<String> {
    let act = |line: &Value| match line["why"].as_str() {
        Some(why) => format!("{}: {why}", line["what"].as_str().unwrap_or_default()),
        None => line["what"].as_str().unwrap_or_default().to_owned(),
    };
    lines(trail).iter().map(act).collect()
}

fn sipwake(arguments: &[&str]) -> Result<Output, Missed> {
    Ok(Command::new(binary()?).args(arguments).output()?)
}

#[tokio::test]
async fn the_audit_trail_tells_what_was_done_and_of_nobody() -> Outcome {
    let scratch = Scratch::new();
    let trail = scratch.path().join("audit");
    let world = world_with(&trail).await?;
    let instance = world.enable().await?;
    world.rings_on(&instance).await?;
    let change = json!({"lifetime_s": 300_000, "device": {"call_push": {"provider": "apns", "token": OTHER_TOKEN}}});
    let changed = world.api.change(&instance, &change).await?;
    assert_eq!(changed.status, 200, "{}", changed.text());
    let (operator, token) = (world.relay.operator(), world.relay.setup().operator_token.clone());
    for path in ["", "/export"] {
        let path = format!("/v1/operator/instances/{}{path}", instance.id);
        assert_eq!(operator.json("GET", &path, Some(&token), None).await?.status, 200, "{path}");
    }
    assert_eq!(world.api.disable(&instance).await?.status, 200);
    let done = [
        "started",
        "registered",
        "enabled",
        "woken",
        "renewed",
        "token-changed",
        "read: show",
        "read: export",
        "wiped: disabled",
    ];
    let told = || async {
        let mut acts = acts(&trail);
        // Both happen at once.
        if acts.len() > 2 {
            acts[1..3].sort_by(|one, other| other.cmp(one));
        }
        (acts == done).then_some(())
    };
    world.until("every act, once", told).await?;
    let all = lines(&trail);
    assert!(
        all[1..].iter().all(|line| line["instance"] == instance.id.as_str() && line["app"] == "com.example.phone"),
        "{all:?}"
    );
    assert!(all[1..].windows(2).all(|two| two[0]["account"] == two[1]["account"]), "one account: {all:?}");
    let text = format!("{all:?}");
    for secret in ["alice", "bob", "wonderland", "example.test", TOKEN, OTHER_TOKEN, instance.secret.as_str()] {
        assert!(!text.contains(secret), "{secret}");
    }
    // Another account is another one, and what a crash ends goes on.
    let mut world = world;
    world.relay.kill_9().await?;
    world.relay.restart().await?;
    world.enable_as(&world.enable_request(TOKEN)).await?;
    world
        .until("the second one", || async {
            (acts(&trail).last()? == "enabled" || acts(&trail).last()? == "registered").then_some(())
        })
        .await?;

    let directory = trail.to_str().unwrap_or_default();
    let kept = lines(&trail)[3]["chain"].as_str().unwrap_or_default().to_owned();
    let whole = sipwake(&["audit", "verify", directory, "--has", &kept])?;
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let today = lines(&trail)[0]["at"].as_str().unwrap_or_default()[..10].to_owned();
    let report = sipwake(&["report", "--from", &today, "--to", &today, "--audit", directory, "--json"])?;
    let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert_eq!((&report["accounts"], &report["instances"]), (&json!(1), &json!({"com.example.phone": 2})), "{report}");
    assert_eq!((&report["done"]["woken"], &report["done"]["wiped: disabled"]), (&json!(1), &json!(1)), "{report}");
    assert_eq!(report["trail"]["whole"], true, "{report}");

    // Somebody takes out that he has read.
    let file = std::fs::read_dir(&trail)?.filter_map(Result::ok).map(|file| file.path()).next().expect("a file");
    let text = std::fs::read_to_string(&file)?;
    std::fs::write(&file, text.split_inclusive('\n').filter(|line| !line.contains("export")).collect::<String>())?;
    let broken = sipwake(&["audit", "verify", directory])?;
    assert_eq!(broken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&broken.stderr).contains("does not follow"), "{broken:?}");
    let told = sipwake(&["report", "--from", &today, "--to", &today, "--audit", directory, "--json"])?;
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    let told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    assert_eq!((&told["accounts"], &told["trail"]["whole"]), (&json!(1), &json!(false)), "{told}");
    let nowhere = sipwake(&["report", "--from", &today, "--to", &today, "--audit", "/nowhere"])?;
    assert_eq!(nowhere.status.code(), Some(1), "{nowhere:?}");
    for (from, to) in [("2026-11-30", "2026-11-28"), ("2026-13-45", "2026-99-99")] {
        let wrong = sipwake(&["report", "--from", from, "--to", to, "--audit", directory])?;
        assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(sipwake(&["report", "--from", "today", "--to", &today, "--audit", directory])?.status.code(), Some(2));
    world.registrar.await_contacts(&world.aor(), 1, SOON).await?;
    Ok(())
}

#[tokio::test]
async fn a_wipe_that_the_next_run_goes_on_with_stands_in_the_trail_once() -> Outcome {
    let scratch = Scratch::new();
    let trail = scratch.path().join("audit");
    let mut world = world_with(&trail).await?;
    let instance = world.enable().await?;
    // The SIP server is asked for 3 s.
    world.registrar.behave(&world.aor(), Behaviour::Silence);
    let (api, wiped) = (world.relay.api(), instance.clone());
    let disabling = tokio::spawn(async move { api.disable(&wiped).await });
    let wipes = || acts(&trail).iter().filter(|act| **act == "wiped: disabled").count();
    world.until("the wipe in the trail", || async { (wipes() == 1).then_some(()) }).await?;
    assert!(!disabling.is_finished(), "nobody has answered yet");
    world.relay.kill_9().await?;
    let _ = disabling.await;
    world.registrar.behave(&world.aor(), Behaviour::Accept);
    world.relay.restart().await?;
    world.await_gone(&instance).await?;
    assert_eq!(wipes(), 1, "{:?}", acts(&trail));
    let line = lines(&trail).into_iter().find(|line| line["what"] == "wiped").expect("its line");
    assert_eq!((&line["instance"], &line["app"]), (&json!(instance.id), &json!("com.example.phone")), "{line}");
    assert!(line["account"].is_string(), "{line}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_the_trace_of_a_registration_that_is_gone_is_in_the_trail() -> Outcome {
    let scratch = Scratch::new();
    let trail = scratch.path().join("audit");
    let world = world_with(&trail).await?;
    let phone = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    let id = phone.register_and_sleep(SOON).await?.purr.ok_or_else(|| Missed::new("its id", ""))?;
    let path = format!("/v1/operator/instances/{id}/trace");
    let (operator, token) = (world.relay.operator(), world.relay.setup().operator_token.clone());
    assert_eq!(operator.json("POST", &path, Some(&token), Some(&json!({"for_s": 60}))).await?.status, 202);
    phone.expires(0).try_to_register(SOON).await?;
    world.await_metric("sipwake_push_registrations", 0.0).await?;
    assert_eq!(operator.json("GET", &path, Some(&token), None).await?.status, 200);
    let reads = || lines(&trail).into_iter().filter(|line| line["why"] == "trace").collect::<Vec<_>>();
    world.until("both", || async { (reads().len() == 2).then_some(()) }).await?;
    assert!(reads().iter().all(|line| line["what"] == "read" && line["instance"] == *id), "{:?}", reads());
    Ok(())
}
