//! The push of a call, exactly as it is published.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::apns;
use tests::board::Missed;
use tests::caller::{CallOptions, Caller};
use tests::fcm::Answer;
use tests::world::{FCM_TOKEN, SOON, TOKEN, World, text};

use super::Outcome;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The next push on FCM about a call that goes on or has ended; that it was missed is told beside it.
async fn push_of_a_call(world: &World) -> Result<Value, tests::board::Missed> {
    loop {
        let push = world.android_push().await?;
        if push["event"] != "missed-call" {
            return Ok(push);
        }
    }
}

/// The push of a call with these options, which is given up.
async fn push_of(world: &World, options: &CallOptions) -> Result<Value, tests::board::Missed> {
    let caller = world.call_with(options)?;
    let push = world.push().await?;
    world.cancel(&caller).await?;
    Ok(push)
}

/// The object must be exactly this one; its moments are checked and taken from it.
fn is_the_push(push: &Value, event: &str, instance: &str, life_s: u64, caller: Value, edge: u16) {
    let (sent, deadline) = (push["sent_at"].as_u64().unwrap_or(0), push["deadline"].as_u64().unwrap_or(0));
    assert!(sent.abs_diff(now()) <= 15, "sent_at is seconds since 1970: {push}");
    assert!((life_s.saturating_sub(15)..=life_s).contains(&deadline.saturating_sub(sent)), "{push}");
    let call = text(&push["call"]);
    assert!(call.starts_with("c_"), "{push}");
    let mut expected = json!({
        "v": 1, "event": event, "instance": instance, "call": call,
        "edge": format!("127.0.0.1:{edge}"), "sent_at": sent, "deadline": deadline,
    });
    for (key, value) in caller.as_object().into_iter().flatten() {
        expected[key] = value.clone();
    }
    assert_eq!(*push, expected);
}

#[tokio::test]
async fn a_voip_push_is_the_contracts_and_is_sent_once() -> Outcome {
    let (world, instance) = World::lent_with(|setup| setup.ring_timeout = "25s".to_owned()).await?;
    let edge = world.relay.setup().ports.edge;
    let caller = world.call()?;
    let push = world.apple_push().await?;
    assert_eq!(push.token, TOKEN);
    assert_eq!(push.topic, format!("{}.voip", apns::BUNDLE));
    assert_eq!((push.push_type.as_str(), push.priority, push.expiration), ("voip", 10, 0));
    assert_eq!(push.payload["aps"], json!({}));
    assert_eq!(push.payload.as_object().map(serde_json::Map::len), Some(2), "nothing but aps and sipwake");
    let caller_of = json!({"from": "sip:bob@example.test", "name": "Bob"});
    is_the_push(&push.payload["sipwake"], "call", &instance.id, 25, caller_of, edge);
    world.talks(&caller, &instance).await?;
    assert_eq!(world.apns.requests(), 1);
    world.content()
}

#[tokio::test]
async fn a_push_that_the_service_could_not_take_is_tried_again_and_taken_once() -> Outcome {
    let (world, instance) = World::lent().await?;
    world.apns.answer_with(TOKEN, [apns::Answer::Unavailable { retry_after: None }, apns::Answer::ServerError]);
    let (caller, _) = world.call_and_push().await?;
    caller.expect(180, SOON).await?;
    world.talks(&caller, &instance).await?;
    assert_eq!((world.apns.requests(), world.apns.count()), (3, 1));
    world.content()
}

#[tokio::test]
async fn a_caller_who_asks_for_privacy_is_anonymous_in_the_push() -> Outcome {
    let (world, _) = World::lent().await?;
    for options in [
        CallOptions::default().private("\"Bob\" <sip:bob@example.test>"),
        CallOptions::default().header("Privacy", "user;id"),
        CallOptions::default()
            .header("Privacy", "header")
            .header("Remote-Party-ID", "<sip:bob@example.test>;privacy=full"),
    ] {
        let push = push_of(&world, &options).await?;
        assert_eq!(push["from"], "sip:anonymous@anonymous.invalid");
        let text = push.to_string().to_lowercase();
        // An id may hold the three letters by chance.
        assert!(!["bob@", ":bob", "\"bob"].iter().any(|name| text.contains(name)), "{push}");
    }
    world.content()
}

#[tokio::test]
async fn a_push_names_whom_the_accounts_server_asserts_and_not_whom_the_caller_says() -> Outcome {
    // RFC 3325 §9.1.
    let (world, _) = World::lent().await?;
    let options = CallOptions::default()
        .from("\"Your bank\" <sip:bank@example.test>")
        .header("P-Asserted-Identity", "\"Mallory\" <sip:+4930123@example.test;user=phone>");
    let push = push_of(&world, &options).await?;
    assert_eq!((push["from"].as_str(), push["name"].as_str()), (Some("sip:+4930123@example.test"), Some("Mallory")));
    world.content()
}

#[tokio::test]
async fn a_callers_name_cannot_break_or_mislead_the_push() -> Outcome {
    let (world, instance) = World::lent().await?;
    let name = "\"Bo\\\"b \u{202e}evil\u{2028} {}</x>\" <sip:bob%0d%0aX@example.test>";
    let push = push_of(&world, &CallOptions::default().from(name)).await?;
    assert_eq!(push["name"], "Bo\"b evil {}</x>");
    // It is one name wherever it is told.
    let missed = loop {
        let missed = world.api.of("GET", &instance, "/missed-calls").await?.json();
        if missed["missed_calls"][0].is_object() {
            break missed;
        }
    };
    assert_eq!(missed["missed_calls"][0]["name"], push["name"]);
    let from = text(&push["from"]);
    assert!(!from.contains(['\r', '\n']), "{from:?}");
    let long = format!("\"{}\" <sip:bob@example.test>", "\u{1f4de}".repeat(3_000));
    let caller = world.call_with(&CallOptions::default().from(&long))?;
    world.push().await?;
    caller.cancel().await?;
    world.content()
}

#[tokio::test]
async fn an_fcm_push_is_the_contracts_and_says_when_the_call_has_ended() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_android().await?;
    let edge = world.relay.setup().ports.edge;
    let caller = world.call()?;
    let push = world.google_push().await?;
    assert_eq!((push.token.as_str(), push.priority.as_str(), push.ttl.as_str()), (FCM_TOKEN, "HIGH", "0s"));
    let caller_of = json!({"from": "sip:bob@example.test", "name": "Bob"});
    is_the_push(&push.payload, "call", &instance.id, 30, caller_of, edge);
    caller.expect(180, SOON).await?;
    world.cancel(&caller).await?;
    let ended = loop {
        let push = world.google_push().await?;
        if push.payload["event"] != "missed-call" {
            break push;
        }
    };
    assert_eq!(ended.priority, "NORMAL");
    // It is no call: it names no place to connect to, and nothing to be in time for.
    let sent_at = &ended.payload["sent_at"];
    let call = &push.payload["call"];
    let expected = json!({"v": 1, "event": "call-ended", "instance": instance.id, "call": call, "sent_at": sent_at});
    assert_eq!(ended.payload, expected);
    assert_eq!(world.apns.requests(), 0);
    world.content()
}

#[tokio::test]
async fn an_android_phone_is_told_that_a_call_has_ended_unless_it_answered_it() -> Outcome {
    let world = World::with(|setup| setup.ring_timeout = "3s".to_owned()).await?;
    let instance = world.enable_android().await?;
    let timed_out = world.call()?;
    assert_eq!(push_of_a_call(&world).await?["event"], "call");
    timed_out.expect(480, SOON).await?;
    assert_eq!(push_of_a_call(&world).await?["event"], "call-ended");

    let declined = world.call()?;
    let push = push_of_a_call(&world).await?;
    world.api.decline(&instance, &text(&push["call"])).await?;
    declined.expect(603, SOON).await?;
    assert_eq!(push_of_a_call(&world).await?["event"], "call-ended");

    let answered = world.call()?;
    push_of_a_call(&world).await?;
    let (phone, call) = world.wake_to_call(&instance).await?;
    world.answer(&answered, &call).await?;
    answered.bye(SOON).await?;
    phone.unregister(SOON).await?;
    // Whatever the answered call had caused would come before the next call's push.
    let next = world.call()?;
    assert_eq!(push_of_a_call(&world).await?["event"], "call");
    next.cancel().await?;
    world.content()
}

/// Its user turns "do not disturb" on, as one does while it rings.
#[tokio::test]
async fn the_end_of_a_call_is_told_to_a_phone_that_wants_no_calls_since_it_was_woken() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_android().await?;
    for end in ["cancelled", "declined"] {
        world.change(&instance, json!({"wake_for": ["call", "message"]})).await?;
        let caller = world.call()?;
        let push = push_of_a_call(&world).await?;
        assert_eq!(push["event"], "call");
        world.change(&instance, json!({"wake_for": ["message"]})).await?;
        match end {
            "cancelled" => world.cancel(&caller).await?,
            _ => drop(world.api.decline(&instance, &text(&push["call"])).await?),
        }
        let ended = push_of_a_call(&world).await?;
        assert_eq!((&ended["event"], &ended["call"]), (&json!("call-ended"), &push["call"]), "{end}");
    }
    world.content()
}

#[tokio::test]
async fn the_end_of_a_call_is_not_told_to_a_phone_whose_push_was_refused() -> Outcome {
    let world = World::start().await?;
    world.enable_android().await?;
    world.fcm.answer_with(FCM_TOKEN, [Answer::Http { status: 400, headers: Vec::new(), body: "{}".to_owned() }]);
    world.call()?.expect(480, SOON).await?;
    // Whatever the refused call had caused would come before the next call's push.
    let next = world.call()?;
    assert_eq!(push_of_a_call(&world).await?["event"], "call");
    world.cancel(&next).await?;
    assert_eq!(push_of_a_call(&world).await?["event"], "call-ended");
    world.content()
}

#[tokio::test]
async fn that_a_call_has_ended_is_told_however_many_alerts_wait_at_the_service() -> Outcome {
    let world = World::start().await?;
    world.enable_android().await?;
    let body = r#"{"error":{"status":"RESOURCE_EXHAUSTED","message":"Device message rate exceeded: device"}}"#;
    let full = || Answer::Http { status: 429, headers: vec![("retry-after", "300".to_owned())], body: body.to_owned() };
    world.fcm.answer_with(FCM_TOKEN, std::iter::repeat_n(full(), 16));
    for number in 1..=16 {
        world
            .call_with(&CallOptions::request("MESSAGE").body("text/plain", "are you there?"))?
            .expect(202, SOON)
            .await?;
        assert!(world.fcm.wait_for_requests(number, SOON).await, "alert {number}");
    }
    let caller = world.call()?;
    let push = push_of_a_call(&world).await?;
    assert_eq!(push["event"], "call");
    world.cancel(&caller).await?;
    let ended = push_of_a_call(&world).await?;
    assert_eq!((&ended["event"], &ended["call"]), (&json!("call-ended"), &push["call"]));
    world.content()
}

#[tokio::test]
async fn an_iphone_is_never_sent_a_voip_push_that_is_no_call() -> Outcome {
    let (world, instance) = World::lent().await?;
    let (cancelled, _) = world.call_and_push().await?;
    world.cancel(&cancelled).await?;
    let (declined, push) = world.call_and_push().await?;
    world.api.decline(&instance, &text(&push["call"])).await?;
    declined.expect(603, SOON).await?;
    world.api.disable(&instance).await?;
    assert!(world.apns.pushes().iter().all(|push| push.payload["sipwake"]["event"] == "call"));
    assert_eq!(world.apns.requests(), 2);
    world.content()
}

#[tokio::test]
async fn an_android_phone_that_gives_no_sign_is_pushed_once_more_with_the_same_push() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_android().await?;
    let caller = world.call()?;
    let first = world.google_push().await?;
    let second = world.google_push().await?;
    assert!(second.at - first.at >= std::time::Duration::from_millis(4_900), "not before five seconds");
    let waits = |push: &Value| push["deadline"].as_u64().zip(push["sent_at"].as_u64()).map(|(until, at)| until - at);
    let (first_waits, second_waits) = (waits(&first.payload), waits(&second.payload));
    assert!(
        second_waits < first_waits && second_waits <= Some(25),
        "it says how long the call waits still: {}",
        second.payload
    );
    let mut same = second.payload.clone();
    same["sent_at"] = first.payload["sent_at"].clone();
    assert_eq!((&same, &second.token), (&first.payload, &first.token), "all else is the same");
    assert_eq!((second.priority.as_str(), second.ttl.as_str()), ("HIGH", "0s"));
    assert_eq!(world.relay.metric("sipwake_push_resends_total").await, Some(1.0));
    world.talks(&caller, &instance).await?;
    assert_eq!(world.fcm.requests(), 2, "once more, not again and again");
    let pushes = |steps: &serde_json::Value| {
        let steps =
            steps.as_array().into_iter().flatten().filter(|step| step.get("event").is_none_or(|it| it == "call"));
        let words = steps.filter_map(|step| step["step"].as_str()).filter(|word| word.starts_with("push-"));
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let export = world.api.of("GET", &instance, "/export").await?.json();
    let both = ["push-sent", "push-ended"].repeat(2);
    assert_eq!(pushes(&export["timeline"]), both, "each push has its verdict: {}", export["timeline"]);
    assert_eq!(pushes(&export["call_stories"][0]["steps"]), both, "{}", export["call_stories"]);
    world.content()
}

#[tokio::test]
async fn any_sign_of_an_android_phone_or_the_end_of_its_call_stands_for_the_second_push() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_android().await?;
    let mut signs = Vec::new();
    for sign in ["asks", "rings", "attaches", "declines", "is cancelled"] {
        let caller = world.call()?;
        let push = push_of_a_call(&world).await?;
        let call = text(&push["call"]);
        match sign {
            "asks" => drop(world.api.call(&instance, &call).await?),
            "rings" => drop(world.api.progress(&instance, &call).await?),
            "attaches" => {
                let phone = world.wake(&instance).await?;
                phone.next_invite(SOON).await?;
                phone.unregister(SOON).await?;
            }
            "declines" => {
                drop(world.api.decline(&instance, &call).await?);
                assert_eq!(push_of_a_call(&world).await?["event"], "call-ended");
            }
            _ => {
                caller.cancel().await?;
                assert_eq!(push_of_a_call(&world).await?["event"], "call-ended");
            }
        }
        signs.push(caller);
    }
    let silent = world.call()?;
    let call = text(&push_of_a_call(&world).await?["call"]);
    // The last call's second push comes after any that the earlier ones might have had.
    let second = push_of_a_call(&world).await?;
    assert_eq!((second["event"].as_str(), text(&second["call"])), (Some("call"), call));
    assert_eq!(world.relay.metric("sipwake_push_resends_total").await, Some(1.0));
    world.cancel(&silent).await?;
    world.content()
}

/// Waits until the push of a call has ended because its device had come.
async fn push_has_given_way(world: &World, instance: &Instance) -> Outcome {
    push_has_given_way_times(world, instance, 1).await
}

/// Likewise, so often.
async fn push_has_given_way_times(world: &World, instance: &Instance, times: usize) -> Outcome {
    let look = || async {
        let export = world.api.of("GET", instance, "/export").await.ok()?.json();
        let steps = export["timeline"].as_array()?.clone();
        let gave_way = steps.iter().filter(|step| step["step"] == "push-ended" && step["reason"] == "DeviceCame");
        (gave_way.count() >= times).then_some(())
    };
    world.until("a push that ends because its device came", look).await
}

#[tokio::test]
async fn a_call_whose_push_may_not_be_tried_again_in_its_time_lives_as_long_for_a_phone_that_comes() -> Outcome {
    let (world, instance) = World::lent_with(|setup| setup.ring_timeout = "12s".to_owned()).await?;
    let too_long = || [apns::Answer::TooManyRequests { retry_after: Some(600) }];
    world.apns.answer_with(TOKEN, too_long());
    let caller = world.call()?;
    world.until("the push", || async { (world.apns.requests() == 1).then_some(()) }).await?;
    let (phone, call) = world.wake_to_call(&instance).await?;
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    phone.unregister(SOON).await?;
    world.await_all_asleep().await?;
    // One that nobody comes for ends in its own time.
    world.apns.answer_with(TOKEN, too_long());
    let began = std::time::Instant::now();
    world.call()?.expect(480, SOON * 2).await?;
    assert!(began.elapsed() > std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!((world.apns.requests(), world.apns.count()), (2, 0));
    world.content()
}

/// A call that rings for 90 s, whose push Apple wants to be tried again after 80 s.
async fn call_whose_push_waits() -> Result<(World, Instance, Caller), Missed> {
    let (world, instance) = World::lent_with(|setup| setup.ring_timeout = "90s".to_owned()).await?;
    world.apns.answer_with(TOKEN, [apns::Answer::TooManyRequests { retry_after: Some(80) }]);
    let caller = world.call()?;
    world.until("the first push", || async { (world.apns.requests() == 1).then_some(()) }).await?;
    Ok((world, instance, caller))
}

#[tokio::test]
async fn a_push_that_waits_to_be_tried_again_is_not_when_its_phone_rings_or_knows_of_the_call() -> Outcome {
    let (world, instance, caller) = call_whose_push_waits().await?;
    let (_phone, call) = world.wake_to_call(&instance).await?;
    push_has_given_way(&world, &instance).await?;
    world.ring(&caller, &call).await?;
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!((world.apns.requests(), world.apns.count()), (1, 0));
    world.content()
}

#[tokio::test]
async fn a_call_whose_phone_says_by_the_api_that_it_rings_waits_for_it_although_no_push_was_taken() -> Outcome {
    let world = World::start().await?;
    // The first copy is taken, and its answer lost; the second is to wait.
    let answers = std::iter::once(Answer::ConnectionLost);
    world.fcm.answer_with(FCM_TOKEN, answers.chain(vec![Answer::QuotaExceeded { retry_after: Some(25) }; 20]));
    let instance = world.enable_android().await?;
    let caller = world.call()?;
    let push = world.android_push().await?;
    world.until("the second copy", || async { (world.fcm.requests() >= 2).then_some(()) }).await?;
    world.api.progress(&instance, &text(&push["call"])).await?;
    push_has_given_way(&world, &instance).await?;
    let requests = world.fcm.requests();
    caller.expect(180, SOON).await?;
    let (_phone, call) = world.wake_to_call(&instance).await?;
    world.answer(&caller, &call).await?;
    world.hang_up(&caller, &call).await?;
    assert_eq!(world.fcm.requests(), requests);
    world.content()
}

#[tokio::test]
async fn a_push_that_gave_way_to_its_phone_goes_on_when_that_leaves_without_a_word() -> Outcome {
    let (world, instance, caller) = call_whose_push_waits().await?;
    let (phone, _) = world.wake_to_call(&instance).await?;
    push_has_given_way(&world, &instance).await?;
    assert_eq!(world.apns.requests(), 1);
    phone.drop_connection();
    assert_eq!(world.apple_push().await?.token, TOKEN);
    caller.expect(180, SOON).await?;
    world.talks(&caller, &instance).await?;
    assert_eq!((world.apns.requests(), world.apns.count()), (2, 1));
    Ok(())
}

#[tokio::test]
async fn a_push_that_gave_way_to_its_phone_goes_on_when_that_stays_and_says_nothing() -> Outcome {
    let (world, instance, caller) = call_whose_push_waits().await?;
    // Its app is suspended, and its connection stands.
    let suspended = world.wake(&instance).await?;
    suspended.fall_silent();
    push_has_given_way(&world, &instance).await?;
    assert_eq!(world.apple_push().await?.token, TOKEN);
    caller.expect(180, SOON).await?;
    world.talks(&caller, &instance).await?;
    assert_eq!((world.apns.requests(), world.apns.count()), (2, 1));
    Ok(())
}

#[tokio::test]
async fn a_phone_that_comes_and_goes_gets_no_more_copies_of_a_push_for_it() -> Outcome {
    let world = World::with(|setup| setup.ring_timeout = "90s".to_owned()).await?;
    // Each time a copy is taken, and its answer lost; the next one is to wait.
    let each = || [Answer::ConnectionLost, Answer::QuotaExceeded { retry_after: Some(80) }];
    world.fcm.answer_with(FCM_TOKEN, [each(), each(), each()].into_iter().flatten());
    let instance = world.enable_android().await?;
    let caller = world.call()?;
    for time in 1..=2 {
        assert_eq!(push_of_a_call(&world).await?["event"], "call");
        world.until("the copy that waits", || async { (world.fcm.requests() == 2 * time).then_some(()) }).await?;
        let phone = world.wake(&instance).await?;
        push_has_given_way_times(&world, &instance, usize::try_from(time).unwrap_or_default()).await?;
        phone.drop_connection();
    }
    world.await_metric("sipwake_edge_flows", 0.0).await?;
    caller.cancel().await?;
    assert_eq!(push_of_a_call(&world).await?["event"], "call-ended");
    Ok(())
}

#[tokio::test]
async fn an_iphone_that_gives_no_sign_is_not_pushed_again() -> Outcome {
    let world = World::with(|setup| setup.ring_timeout = "7s".to_owned()).await?;
    world.enable().await?;
    let (caller, _) = world.call_and_push().await?;
    caller.expect(480, SOON * 2).await?;
    assert_eq!(world.apns.requests(), 1, "seven seconds later");
    assert_eq!(world.relay.metric("sipwake_push_resends_total").await, Some(0.0));
    world.content()
}

#[tokio::test]
async fn one_caller_causes_so_many_pushes_of_a_device_in_a_minute_and_another_still_gets_through() -> Outcome {
    let world = World::with(|setup| setup.further.push_str("\n[limits]\npushes_per_caller = 2\n")).await?;
    world.enable().await?;
    for _ in 0..2 {
        let (caller, _) = world.call_and_push().await?;
        world.cancel(&caller).await?;
    }
    let caller = world.call()?;
    caller.expect(480, SOON).await?;
    world.await_metric("sipwake_limits_total{limit=\"pushes-caller\"}", 1.0).await?;
    assert_eq!(world.apns.requests(), 2);
    let carol = CallOptions::default().from("\"Carol\" <sip:carol@example.test>");
    let caller = world.registrar.call(&world.aor(), &carol)?;
    caller.expect(180, SOON).await?;
    assert_eq!(world.apns.requests(), 3);
    world.cancel(&caller).await
}

#[tokio::test]
async fn who_withholds_his_number_has_pushes_of_his_own_where_his_server_asserts_who_he_is() -> Outcome {
    let world = World::with(|setup| setup.further.push_str("\n[limits]\npushes_per_caller = 2\n")).await?;
    world.enable().await?;
    let by = |name: &str| world.call_with(&CallOptions::default().private(&format!("<sip:{name}@example.test>")));
    for _ in 0..2 {
        let caller = by("stranger")?;
        assert_eq!(world.push().await?["from"], "sip:anonymous@anonymous.invalid");
        world.cancel(&caller).await?;
    }
    by("stranger")?.expect(480, SOON).await?;
    world.await_metric("sipwake_limits_total{limit=\"pushes-caller\"}", 1.0).await?;
    let doctor = by("doctor")?;
    doctor.expect(180, SOON).await?;
    world.cancel(&doctor).await?;
    // Of whom nothing is asserted there is one.
    let nobody = CallOptions::default().from("<sip:anonymous@anonymous.invalid>");
    for _ in 0..2 {
        let caller = world.call_with(&nobody)?;
        caller.expect(180, SOON).await?;
        world.cancel(&caller).await?;
    }
    world.call_with(&nobody)?.expect(480, SOON).await?;
    assert_eq!(world.apns.requests(), 5);
    world.content()
}

#[tokio::test]
async fn calls_that_are_given_up_at_once_cause_one_push_each_at_most_and_leave_none_behind() -> Outcome {
    let world = World::with(|setup| setup.further.push_str("\n[limits]\npushes_per_device = 10\n")).await?;
    world.enable().await?;
    for _ in 0..15 {
        let caller = world.call()?;
        // An error: it was refused before.
        drop(caller.cancel().await);
        caller.final_response(SOON).await?;
    }
    // One more flows in each 6 s.
    assert!((1..=12).contains(&world.apns.requests()), "{}", world.apns.requests());
    world.content()
}
