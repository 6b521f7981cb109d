//! Calls that nobody answered: told once, remembered until fetched, and never for a call that was answered or declined.

use serde_json::json;
use tests::caller::CallOptions;
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tests::world::{SOON, World, text};

use super::{Outcome, await_kept, steps, words};

#[tokio::test]
async fn a_call_that_was_given_up_is_told_and_remembered_until_it_is_deleted() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let caller = world.call()?;
    let call = text(&world.push().await?["call"]);
    world.cancel(&caller).await?;
    let push = world.alert("missed-call").await?;
    assert_eq!(
        (text(&push["call"]), &push["from"], &push["name"]),
        (call.clone(), &json!("sip:bob@example.test"), &json!("Bob"))
    );
    assert!(push["sent_at"].is_u64(), "{push}");
    let missed = await_kept(&world, &instance, "missed-calls", 1).await?;
    assert_eq!((text(&missed[0]["call"]), text(&missed[0]["state"])), (call.clone(), "cancelled".to_owned()));
    assert_eq!((&missed[0]["from"], &missed[0]["name"]), (&push["from"], &push["name"]));
    let seen = world.api.read(&instance).await?.json();
    assert_eq!((&seen["missed_calls"], &seen["messages"]), (&json!(1), &json!(0)));
    let changed = world.api.change(&instance, &json!({"presence": "background"})).await?.json();
    let members = |view: &serde_json::Value| view.as_object().map(|view| view.keys().cloned().collect::<Vec<_>>());
    assert_eq!((members(&changed), &changed["missed_calls"]), (members(&seen), &json!(1)), "a change answers as GET");
    let path = format!("/missed-calls/{call}");
    assert_eq!(world.api.of("DELETE", &instance, &path).await?.status, 204);
    assert_eq!(world.api.of("DELETE", &instance, &path).await?.status, 404);
    assert_eq!(world.kept(&instance, "missed-calls").await?.len(), 0);
    assert_eq!(world.apns.requests(), 2, "one VoIP push for the call, one alert for its end");
    world.content()
}

#[tokio::test]
async fn a_call_that_was_given_up_while_the_store_was_away_is_listed_when_that_is_back() -> Outcome {
    let redis = RedisServer::start();
    let mut gate = Gate::closed(([127, 0, 0, 1], redis.port()).into());
    gate.open()?;
    let store = format!("redis://{}", gate.address());
    let world = World::between(|_| {}, |setup| setup.store = store).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let (caller, push) = world.call_and_push().await?;
    gate.close();
    world.cancel(&caller).await?;
    assert_eq!(world.alert("missed-call").await?["call"], push["call"]);
    let failed =
        || async { world.metric("sipwake_store_errors_total{operation=\"put\"}").await.filter(|it| *it >= 1.0) };
    world.until("the note was not taken", failed).await?;
    gate.open()?;
    let kept = || async { world.kept(&instance, "missed-calls").await.ok().filter(|kept| !kept.is_empty()) };
    let kept = world.until("the missed call", kept).await?;
    assert_eq!((kept.len(), &kept[0]["call"]), (1, &push["call"]));
    world.await_metric("sipwake_missed_calls_total{outcome=\"kept\"}", 1.0).await
}

#[tokio::test]
async fn a_call_that_was_given_up_while_redis_was_away_is_listed_when_that_is_back_empty() -> Outcome {
    let mut redis = RedisServer::start();
    let store = redis.url();
    let world = World::between(|_| {}, |setup| setup.store = store).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let (caller, push) = world.call_and_push().await?;
    redis.stop();
    world.cancel(&caller).await?;
    assert_eq!(world.alert("missed-call").await?["call"], push["call"]);
    let failed =
        || async { world.metric("sipwake_store_errors_total{operation=\"put\"}").await.filter(|it| *it >= 1.0) };
    world.until("the note was not taken", failed).await?;
    redis.restart();
    let kept = || async { world.kept(&instance, "missed-calls").await.ok().filter(|kept| !kept.is_empty()) };
    let kept = world.until("the missed call", kept).await?;
    assert_eq!((kept.len(), &kept[0]["call"]), (1, &push["call"]));
    world.await_metric("sipwake_missed_calls_total{outcome=\"kept\"}", 1.0).await
}

#[tokio::test]
async fn a_call_that_nobody_came_for_is_missed_and_one_that_was_declined_or_answered_elsewhere_is_not() -> Outcome {
    let world = World::with(|setup| setup.ring_timeout = "2s".to_owned()).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let declined = world.call()?;
    let call = text(&world.push().await?["call"]);
    assert_eq!(world.api.decline(&instance, &call).await?.status, 204);
    declined.expect(603, SOON).await?;
    let (elsewhere, _) = world.call_and_push().await?;
    elsewhere.cancel_answered_elsewhere().await?;
    elsewhere.expect(487, SOON).await?;
    let missed = world.call()?;
    let push = world.push().await?;
    let call = text(&push["call"]);
    missed.expect(480, SOON).await?;
    assert_eq!(text(&world.alert("missed-call").await?["call"]), call);
    let kept = await_kept(&world, &instance, "missed-calls", 1).await?;
    assert_eq!((text(&kept[0]["call"]), text(&kept[0]["state"])), (call, "timed-out".to_owned()));
    // The moment at which it came, two seconds before its end; its push left within that second, or the next one.
    let sent_at = push["sent_at"].as_u64().expect("seconds since 1970");
    let came: Vec<_> = [sent_at - 1, sent_at].map(relay::clock::rfc3339).into();
    assert!(came.contains(&text(&kept[0]["at"])), "{} of {came:?}", kept[0]);
    world.content()
}

#[tokio::test]
async fn an_instance_with_a_voip_token_alone_gets_no_push_for_a_missed_call_and_finds_it_all_the_same() -> Outcome {
    let (world, instance) = World::lent().await?;
    let (caller, _) = world.call_and_push().await?;
    caller.cancel().await?;
    await_kept(&world, &instance, "missed-calls", 1).await?;
    // The next push is the next call's.
    let again = world.call()?;
    assert_eq!(world.push().await?["event"], "call");
    again.cancel().await?;
    assert_eq!(world.apns.pushes().iter().filter(|push| push.push_type != "voip").count(), 0);
    world.content()
}

/// Alice's phone may have sixteen calls waiting: of a stranger eight, so that others get through.
#[tokio::test]
async fn a_call_that_finds_no_room_at_a_phone_is_missed_and_one_strangers_calls_leave_room() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let by = |name: &str| world.call_with(&CallOptions::default().from(&format!("<sip:{name}@example.test>")));
    for _ in 0..8 {
        by("stranger")?.expect(180, SOON).await?;
    }
    by("stranger")?.expect(486, SOON).await?;
    await_kept(&world, &instance, "missed-calls", 1).await?;
    for number in 0..8 {
        by(&format!("name{number}"))?.expect(180, SOON).await?;
    }
    by("mother")?.expect(486, SOON).await?;
    let missed = await_kept(&world, &instance, "missed-calls", 2).await?;
    let hers = missed.iter().find(|call| call["from"] == "sip:mother@example.test").expect("her call");
    assert_eq!(text(&hers["state"]), "timed-out");
    let told: Vec<_> = steps(&world, &instance).await?.into_iter().filter(|it| it["call"] == hers["call"]).collect();
    assert_eq!(words(&told)[..2], ["invite", "timed-out"].map(String::from), "{told:?}");
    world.await_metric("sipwake_invites_total{outcome=\"limited\"}", 2.0).await?;
    world.content()
}

#[tokio::test]
async fn who_withholds_his_number_drives_no_call_of_another_who_does_so_out_of_the_list() -> Outcome {
    let (world, instance) = World::lent().await?;
    let by = |name: &str| world.call_with(&CallOptions::default().private(&format!("<sip:{name}@example.test>")));
    let doctor = by("doctor")?;
    let hers = text(&world.push().await?["call"]);
    world.cancel(&doctor).await?;
    await_kept(&world, &instance, "missed-calls", 1).await?;
    let _phone = world.wake(&instance).await?;
    for _ in 0..70 {
        let stranger = by("stranger")?;
        // An error: it was refused before.
        drop(stranger.cancel().await);
        stranger.final_response(SOON).await?;
    }
    // More than a half of what is kept.
    let missed = await_kept(&world, &instance, "missed-calls", 26).await?;
    assert!(missed.iter().all(|call| call["from"] == "sip:anonymous@anonymous.invalid"), "{missed:?}");
    assert!(missed.iter().any(|call| text(&call["call"]) == hers), "{missed:?}");
    world.content()
}

#[tokio::test]
async fn one_strangers_calls_keep_nobody_from_a_phone_that_is_there_and_leave_a_friends_missed_call_in_the_list()
-> Outcome {
    let (world, instance) = World::lent().await?;
    let friend = CallOptions::default().from("<sip:friend@example.test>");
    let first = world.call_with(&friend)?;
    first.expect(180, SOON).await?;
    world.cancel(&first).await?;
    await_kept(&world, &instance, "missed-calls", 1).await?;
    let phone = world.wake(&instance).await?;
    for _ in 0..70 {
        let stranger = world.call_with(&CallOptions::default().from("<sip:stranger@example.test>"))?;
        // An error: it was refused before.
        drop(stranger.cancel().await);
        stranger.final_response(SOON).await?;
    }
    let missed = world.kept(&instance, "missed-calls").await?;
    assert!(missed.iter().any(|call| call["from"] == "sip:friend@example.test"), "{missed:?}");
    let caller = world.call_with(&friend)?;
    // The stranger's come first.
    let call = loop {
        let call = phone.next_invite(SOON).await?;
        if String::from_utf8_lossy(call.invite().head()).contains("sip:friend@") {
            break call;
        }
    };
    world.answer(&caller, &call).await
}
