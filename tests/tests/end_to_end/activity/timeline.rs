//! The timeline, the export and the test push.

use serde_json::json;
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::registrar::Behaviour;
use tests::world::{OTHER_TOKEN, SOON, TOKEN, World, text};

use super::{Outcome, await_kept, steps, words, write};

#[tokio::test]
async fn a_call_is_told_step_by_step() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    assert_eq!(words(&steps(&world, &instance).await?), ["enabled", "registered"]);
    let caller = world.call()?;
    let call = text(&world.push().await?["call"]);
    caller.expect(180, SOON).await?;
    world.talks(&caller, &instance).await?;
    let look = || async { steps(&world, &instance).await.ok().filter(|steps| words(steps).contains(&"ended".into())) };
    let told = world.until("the end of the call", look).await?;
    let of_call: Vec<_> = told.iter().filter(|step| step["call"] == call.as_str()).cloned().collect();
    assert_eq!(
        words(&of_call),
        ["invite", "push-sent", "push-ended", "caller-hears-ringing", "device-attached", "answered", "ended"],
        "{told:?}"
    );
    assert_eq!(of_call[6]["by"], json!("caller"));
    assert_eq!((&of_call[1]["provider"], &of_call[2]["outcome"]), (&json!("apns"), &json!("accepted")));
    assert!(of_call[4]["after_ms"].is_u64(), "{}", of_call[4]);
    let times: Vec<_> = told.iter().map(|step| text(&step["at"])).collect();
    assert!(times.iter().all(|at| at.len() == 24 && at.ends_with('Z')) && times.is_sorted(), "{times:?}");
    let all = told.iter().map(ToString::to_string).collect::<String>();
    // An id may hold the three letters by chance.
    let names_him = ["bob@", ":bob", "\"bob"].iter().any(|name| all.contains(name));
    assert!(!names_him && !all.contains(&instance.secret) && !all.contains(TOKEN), "{all}");
    world.content()
}

#[tokio::test]
async fn a_phone_rings_by_its_own_word_and_not_by_being_there() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let caller = world.call()?;
    world.push().await?;
    caller.expect(180, SOON).await?;
    let phone = world.wake(&instance).await?;
    let call = phone.next_invite(SOON).await?;
    let told = words(&steps(&world, &instance).await?);
    assert!(told.contains(&"device-attached".to_owned()) && !told.contains(&"ringing".to_owned()), "{told:?}");
    call.ring();
    let look =
        || async { steps(&world, &instance).await.ok().filter(|steps| words(steps).contains(&"ringing".into())) };
    world.until("its own word", look).await?;
    call.answer();
    caller.answered(SOON).await?;
    world.hang_up(&caller, &call).await?;
    world.content()
}

#[tokio::test]
async fn a_registration_that_fails_and_a_push_that_is_refused_say_why() -> Outcome {
    let world = World::with(|setup| setup.register_expires = "60s".to_owned()).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    world.apns.answer_with(TOKEN, [tests::apns::Answer::Error { status: 400, reason: "BadTopic" }]);
    let caller = world.call()?;
    caller.expect(480, SOON).await?;
    let look = || async {
        let steps = steps(&world, &instance).await.ok()?;
        steps.into_iter().find(|step| step["step"] == "push-ended" && step["event"] == "call")
    };
    let refused = world.until("a push that was refused", look).await?;
    assert_eq!((&refused["outcome"], &refused["reason"]), (&json!("refused"), &json!("BadTopic")), "{refused}");
    // The app comes to the foreground and goes; then the SIP server asks to wait.
    for presence in ["foreground", "background"] {
        if presence == "background" {
            world.registrar.behave(&world.aor(), Behaviour::RetryAfter(30));
        }
        world.change(&instance, json!({"presence": presence})).await?;
        world.await_contacts(0).await?;
    }
    let look = || async {
        let steps = steps(&world, &instance).await.ok()?;
        steps.into_iter().find(|step| step["step"] == "registration-retry")
    };
    let retry = world.until("a registration that is tried again", look).await?;
    assert_eq!((&retry["status"], retry["retry_in_s"].as_u64().is_some_and(|wait| wait >= 30)), (&json!(503), true));
    let told = words(&steps(&world, &instance).await?);
    let at = |word: &str| told.iter().position(|told| told == word);
    assert!(at("foreground") < at("background") && at("background") < at("registration-retry"), "{told:?}");
    world.content()
}

#[tokio::test]
async fn a_test_push_goes_to_the_alert_target_and_its_result_is_told() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let answer = world.api.of("POST", &instance, "/test").await?;
    let expected = json!({"target": "alert_push", "provider": "apns", "environment": "production"});
    assert_eq!((answer.status, answer.json()), (202, expected));
    world.alert("test").await?;
    let look = || async {
        let steps = steps(&world, &instance).await.ok()?;
        steps.into_iter().find(|step| step["step"] == "push-ended" && step["event"] == "test")
    };
    assert_eq!(world.until("the test's result", look).await?["outcome"], "accepted");
    let limited =
        || async { world.api.of("POST", &instance, "/test").await.ok().filter(|answer| answer.status == 429) };
    let answer = world.until("429", limited).await?;
    assert!(answer.headers.contains_key("retry-after"), "{}", answer.text());
    // With a VoIP token alone there is nowhere to test, and the reason is said.
    let change = json!({"device": {"alert_push": null}});
    assert_eq!(world.api.change(&instance, &change).await?.status, 200);
    let answer = world.api.of("POST", &instance, "/test").await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (409, Some("no-alert-target")), "{}", answer.text());
    assert_eq!(world.apns.pushes().iter().filter(|push| push.token == TOKEN).count(), 0, "never a VoIP push");
    world.content()
}

/// Whether it has a target or not.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_being_wiped_is_unknown_to_who_asks_for_a_test_push() -> Outcome {
    let world = World::start().await?;
    for request in [world.enable_request_with_alerts(), world.enable_request(TOKEN)] {
        let instance = world.enable_as(&request).await?;
        let disabling = world.disable_unanswered(&instance).await?;
        let answer = world.api.of("POST", &instance, "/test").await?;
        assert_eq!((answer.status, answer.problem().as_deref()), (404, Some("unknown-instance")), "{}", answer.text());
        let receipt = disabling.await.map_err(|error| Missed::new("a receipt", error.to_string()))??;
        assert_eq!(receipt.status, 200);
        world.registrar.behave(&world.aor(), Behaviour::Accept);
    }
    world.content()
}

#[tokio::test]
async fn a_test_push_to_a_dead_token_ends_the_instance() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    world.apns.answer_with(OTHER_TOKEN, [tests::apns::Answer::Gone { timestamp: u64::MAX }]);
    assert_eq!(world.api.of("POST", &instance, "/test").await?.status, 202);
    world.await_gone(&instance).await?;
    world.await_contacts(0).await?;
    world.content()
}

#[tokio::test]
async fn the_export_holds_what_is_held_and_no_secret() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    write(&world, "for the export")?.expect(202, SOON).await?;
    let caller = world.call()?;
    caller.cancel().await?;
    await_kept(&world, &instance, "missed-calls", 1).await?;
    world.call_with(&CallOptions::request("OPTIONS"))?.expect(200, SOON).await?;
    let answer = world.api.of("GET", &instance, "/export").await?;
    let export = answer.json();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(export["account"]["aor"], world.aor());
    assert_eq!(export["messages"][0]["body"], "for the export");
    assert_eq!(export["missed_calls"][0]["from"], "sip:bob@example.test");
    assert_eq!(export["calls"][0]["state"], "cancelled");
    assert!(export["timeline"].as_array().is_some_and(|steps| steps.len() > 3));
    for secret in ["wonderland", TOKEN, OTHER_TOKEN, &instance.secret] {
        assert!(!answer.text().contains(secret), "{secret}");
    }
    let other = world.api.json("GET", &format!("/v1/instances/{}/export", instance.id), Some("wrong"), None).await?;
    assert_eq!(other.status, 401);
    Ok(())
}
