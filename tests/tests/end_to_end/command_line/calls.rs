//! `sipwake calls`: what an operator is told of calls, from any node, for a day, and no longer than there is the instance.

use serde_json::{Value, json};
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::push_phone::Service;
use tests::redis_server::RedisServer;
use tests::relay_process::RelayProcess;
use tests::relay_setup::Ports;
use tests::world::{FCM_TOKEN, Outcome, Ringing, SOON, World, text};

use super::{said, sipwake};

/// What `sipwake calls` prints as JSON, asked of this relay.
fn calls(relay: &RelayProcess, arguments: &[&str]) -> Vec<Value> {
    let config = relay.config().display().to_string();
    let output = sipwake(&[&["calls"], arguments, &["--json", "--config", &config]].concat());
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn printed(relay: &RelayProcess, arguments: &[&str]) -> String {
    let config = relay.config().display().to_string();
    let output = sipwake(&[&["calls"], arguments, &["--config", &config]].concat());
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", said(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn steps(call: &Value) -> Vec<String> {
    call["steps"].as_array().into_iter().flatten().map(|step| text(&step["step"])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_told_from_its_invite_to_its_end_and_a_missed_one_says_why() -> Outcome {
    let (world, alice) = World::lent().await?;
    let caller = world.call_with(&CallOptions::default().from("\"Bob Long\" <sip:+4930123456@example.test>"))?;
    let push = world.push().await?;
    let id = text(&push["call"]);
    let open = calls(&world.relay, &[]);
    assert_eq!((&open[0]["call"], open.len()), (&push["call"], 1), "one that goes on is told, too: {open:?}");
    let (phone, call) = world.wake_to_call(&alice).await?;
    world.ring(&caller, &call).await?;
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    let told = world
        .until("the end of the call", || async {
            calls(&world.relay, &["show", &id])
                .pop()
                .filter(|call| steps(call).last().is_some_and(|last| last == "ended"))
        })
        .await?;
    assert_eq!(
        steps(&told),
        [
            "invite",
            "push-sent",
            "push-ended",
            "caller-hears-ringing",
            "device-attached",
            "invite-sent",
            "ringing",
            "answered",
            "ended"
        ],
        "{told}"
    );
    assert_eq!(
        (&told["outcome"], &told["from"], &told["app"]),
        (&json!("answered"), &json!("+49…56"), &json!("com.example.phone"))
    );
    assert!(
        told["why"].is_null() && told["push_accepted_ms"].is_u64() && told["device_attached_ms"].is_u64(),
        "{told}"
    );
    let words = printed(&world.relay, &["show", &id]);
    for word in ["INVITE came", "push sent by apns", "push accepted", "180 to the caller", "the caller hung up"] {
        assert!(words.contains(word), "{word}: {words}");
    }

    drop(phone);
    world.await_all_asleep().await?;

    // One that nobody answers, and one that no push is taken for.
    let missed = world.call()?;
    world.push().await?;
    missed.expect(180, SOON).await?;
    world.cancel(&missed).await?;
    world
        .apns
        .answer_with(tests::world::TOKEN, [tests::apns::Answer::Error { status: 400, reason: "TopicDisallowed" }]);
    world.call()?.expect(480, SOON).await?;
    let all = world
        .until("both", || async { Some(calls(&world.relay, &["--outcome", "missed"])).filter(|all| all.len() == 2) })
        .await?;
    assert_eq!((&all[0]["outcome"], &all[1]["outcome"]), (&json!("unreachable"), &json!("cancelled")), "newest first");
    assert!(text(&all[0]["why"]).contains("the push service refused the push (TopicDisallowed)"), "{all:?}");
    assert!(text(&all[1]["why"]).contains("and the phone did not come"), "{all:?}");

    for (filter, count) in [
        (&["--hours", "1"][..], 3),
        (&["--limit", "2"], 2),
        (&["--outcome", "answered"], 1),
        (&["--app", "com.example.phone"], 3),
        (&["--app", "com.example.other"], 0),
        (&["--instance", &alice.id], 3),
    ] {
        assert_eq!(calls(&world.relay, filter).len(), count, "{filter:?}");
    }
    let table = printed(&world.relay, &[]);
    assert!(table.lines().count() == 4 && !table.contains('\u{1b}'), "no colours in a pipe: {table}");
    let page = world.relay.operator().json("GET", "/?all", Some(&world.relay.setup().operator_token), None).await?;
    assert!(page.text().contains("Last calls") && page.text().contains("TopicDisallowed"), "{}", page.text());
    for told in [table, words, page.text(), calls(&world.relay, &[]).iter().map(Value::to_string).collect()] {
        for secret in ["bob@", ":bob", "\"bob", "Bob", "30123", "alice", &alice.secret, tests::world::TOKEN] {
            assert!(!told.contains(secret), "{secret}: {told}");
        }
    }
    world.await_metric("sipwake_call_stories_total{outcome=\"kept\"}", 4.0).await?;
    let config = world.relay.config().display().to_string();
    let unknown = sipwake(&["calls", "show", "c_aaaaaaaaaaaaaaaaaaaaaaaaaa", "--config", &config]);
    assert!(unknown.status.code() == Some(1) && said(&unknown).contains("404"), "{}", said(&unknown));
    assert_eq!(sipwake(&["calls", "--outcome", "lost", "--config", &config]).status.code(), Some(2));
    Ok(())
}

/// The story of a call that is over.
async fn story(world: &World, id: &str) -> Result<Value, Missed> {
    let is_over = |call: &Value| call["why"].is_string();
    world.until("the story", || async { calls(&world.relay, &["show", id]).pop().filter(is_over) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_phone_refused_is_told_with_its_status_and_one_that_was_declined_with_who_did() -> Outcome {
    let (world, alice) = World::lent().await?;
    let phone = world.wake(&alice).await?;
    for (rings, status, outcome, why) in [
        (false, 488, "timed-out", "(488 Not Acceptable Here)"),
        (true, 500, "timed-out", "(500 Server Internal Error); it rang from"),
        (true, 486, "declined", "the phone declined after"),
    ] {
        let (caller, call) = world.rings_at(&phone).await?;
        if rings {
            world.ring(&caller, &call).await?;
        }
        world.refuse(&caller, &call, status).await?;
        let id = calls(&world.relay, &[]).first().map(|call| text(&call["call"])).unwrap_or_default();
        let told = story(&world, &id).await?;
        assert!(told["outcome"] == outcome && text(&told["why"]).contains(why), "{told}");
        let refused = told["steps"].as_array().into_iter().flatten().find(|step| step["step"] == "device-refused");
        assert_eq!(refused.map(|step| &step["status"]), Some(&json!(status)), "{told}");
        let words = printed(&world.relay, &["show", &id]);
        assert!(words.contains(&format!("the device refused the call with {status}")), "{words}");
    }
    for outcome in ["refused-by-device", "timed-out", "declined"] {
        world.await_metric(&format!("sipwake_invites_total{{outcome=\"{outcome}\"}}"), 1.0).await?;
    }
    let timeline = world.api.of("GET", &alice, "/timeline").await?.json();
    let refused = timeline["steps"].as_array().into_iter().flatten().filter(|step| step["step"] == "device-refused");
    assert_eq!(refused.map(|step| step["status"].clone()).collect::<Vec<_>>(), [json!(488), json!(500), json!(486)]);
    phone.unregister(SOON).await?;
    drop(phone);
    world.await_all_asleep().await?;
    let (caller, push) = world.call_and_push().await?;
    world.decline(&caller, &alice, &push).await?;
    let told = story(&world, &text(&push["call"])).await?;
    assert!(steps(&told).contains(&"declined-by-app".to_owned()), "{told}");
    assert!(text(&told["why"]).starts_with("the phone declined after"), "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stories_are_sealed_told_by_any_node_also_after_a_restart_and_gone_with_the_instance() -> Outcome {
    let redis = RedisServer::start();
    let mut world = World::between(|server| server.contacts = 2, |setup| setup.store = redis.url()).await?;
    let alice = world.enable().await?;
    let caller = world.call_with(&CallOptions::default().from("<sip:+4930123456@example.test>"))?;
    let id = text(&world.push().await?["call"]);
    world.cancel(&caller).await?;
    let kept = |key: &String| key.starts_with("sipwake:s:") && key.contains(&alice.id);
    let key = world.until("a story in Redis", || async { redis.keys().into_iter().find(kept) }).await?;
    let left: i64 = redis.ask(redis::cmd("TTL").arg(&key));
    assert!((86_000..=86_400).contains(&left), "{left}");
    for key in redis.keys() {
        let lying: Vec<u8> = redis.ask(redis::cmd("DUMP").arg(&key));
        for needle in ["30123", "+49…56", "com.example.phone", &id] {
            assert!(memchr::memmem::find(&lying, needle.as_bytes()).is_none(), "{key} shows {needle}");
        }
    }

    let mut setup = world.relay.setup().clone();
    setup.ports = Ports::default();
    let other = RelayProcess::start(setup).await?;
    for relay in [&world.relay, &other] {
        let told = calls(relay, &["show", &id]);
        assert_eq!((told.len(), &told[0]["outcome"], &told[0]["from"]), (1, &json!("cancelled"), &json!("+49…56")));
        assert_eq!(calls(relay, &[]).len(), 1);
    }

    world.relay.kill_9().await?;
    world.relay.restart().await?;
    for relay in [&world.relay, &other] {
        world
            .until("the same after a restart", || async { Some(calls(relay, &[])).filter(|all| all.len() == 1) })
            .await?;
    }

    let Ringing { caller, call, .. } = world.rings(&alice).await?;
    assert_eq!(world.api.disable(&alice).await?.status, 200);
    assert!(!redis.keys().iter().any(|key| key.contains(&alice.id)), "{:?}", redis.keys());
    for relay in [&world.relay, &other] {
        assert_eq!(calls(relay, &[]), Vec::<Value>::new(), "at once, the one that goes on too");
    }
    drop((caller, call));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_answered_call_of_a_registration_that_passed_through_is_told_whoever_hangs_up() -> Outcome {
    let world = World::start().await?;
    let (device, _) = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned())).wake(SOON).await?;
    for (by_caller, by) in [(true, "caller"), (false, "device")] {
        let caller = world.call()?;
        let call = device.next_invite(SOON).await?;
        call.ring();
        world.answer(&caller, &call).await?;
        let goes_on = |call: &Value| call["answered_ms"].is_u64() && call["ended_ms"].is_null();
        let answered = || calls(&world.relay, &["--outcome", "answered"]);
        let open = world.until("the answer", || async { answered().into_iter().find(goes_on) }).await?;
        let id = text(&open["call"]);
        if by_caller {
            world.hang_up(&caller, &call).await?
        } else {
            world.phone_hangs_up(&caller, &call).await?
        }
        let is_over = |told: &Value| told["ended_ms"].is_u64();
        let shown =
            world.until("its end", || async { calls(&world.relay, &["show", &id]).pop().filter(is_over) }).await?;
        let last = shown["steps"].as_array().and_then(|steps| steps.last()).cloned().unwrap_or_default();
        assert_eq!((&last["step"], &last["by"]), (&json!("ended"), &json!(by)), "{shown}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_a_registration_that_passed_through_is_told_like_any_other() -> Outcome {
    let world = World::start().await?;
    let phone = world.push_phone(&Service::Fcm(FCM_TOKEN.to_owned()));
    let purr = phone.register_and_sleep(SOON).await?.purr.unwrap_or_default();
    world.await_all_asleep().await?;
    let caller = world.call_for(&phone)?;
    world.android_push().await?;
    caller.expect(180, SOON).await?;
    world.cancel(&caller).await?;
    let told = world.until("the call", || async { calls(&world.relay, &["--outcome", "cancelled"]).pop() }).await?;
    assert_eq!((&told["instance"], &told["from"]), (&json!(purr), &json!("b…")), "{told}");
    let id = text(&told["call"]);
    let shown = world.until("its steps", || async { calls(&world.relay, &["show", &id]).pop() }).await?;
    assert_eq!(steps(&shown), ["invite", "push-sent", "push-ended", "caller-hears-ringing", "cancelled"], "{shown}");
    let config = world.relay.config().display().to_string();
    let wiped = sipwake(&["instances", "wipe", &purr, "--config", &config]);
    assert_eq!(wiped.status.code(), Some(0), "{}", said(&wiped));
    assert_eq!(calls(&world.relay, &[]), Vec::<Value>::new(), "gone with it");
    Ok(())
}
