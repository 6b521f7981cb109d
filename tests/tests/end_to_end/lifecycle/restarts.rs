//! The process ends, by itself or not: bindings are never unregistered for it, and everything is there again after it.

use std::time::Duration;

use serde_json::json;
use sip::message::Name;
use tests::caller::CallOptions;
use tests::phone::{self, Phone, Proof};
use tests::world::{FCM_TOKEN, OTHER_TOKEN, Ringing, SOON, World};

use super::Outcome;

#[tokio::test]
async fn after_kill_9_all_live_instances_are_registered_again_and_their_secrets_work() -> Outcome {
    let (mut world, redis) = World::on_redis(|_| {}).await?;
    let one = world.enable().await?;
    let android = world.android_enable_request(FCM_TOKEN);
    let two = world.enable_as(&android).await?;
    let away = world.enable_other().await?;
    let gone = world.enable_as(&world.enable_request(&OTHER_TOKEN.replace('0', "f"))).await?;
    world.change(&away, json!({"presence": "foreground"})).await?;
    world.disable(&gone).await?;
    // Those of one account share a Contact.
    world.await_contacts(1).await?;
    for _ in 0..2 {
        let seen = world.registrar.registers(&world.aor()).len();
        world.relay.kill_9().await?;
        // The SIP server forgets them too: whatever is there afterwards was registered anew.
        world.registrar.forget();
        world.relay.restart().await?;
        world.await_contacts(1).await?;
        assert!(world.registrar.registers(&world.aor()).len() > seen);
    }
    for (instance, state) in [(&one, "active"), (&two, "active"), (&away, "foreground")] {
        world
            .until(state, || async {
                let answer = world.api.read(instance).await.ok()?;
                (answer.status == 200 && answer.json()["state"] == state).then_some(())
            })
            .await?;
    }
    assert_eq!(world.api.read(&gone).await?.status, 404, "what was wiped stays wiped");
    for instance in [&one, &two] {
        let caller = world.call()?;
        let (push, _) = (world.push().await?, world.android_push().await?);
        assert_eq!(push["instance"], one.id.as_str());
        let (phone, call) = world.wake_to_call(instance).await?;
        world.answer(&caller, &call).await?;
        caller.bye(SOON).await?;
        // It has been told that the other one answered.
        if instance.id == one.id {
            assert_eq!(world.android_push().await?["event"], "call-ended");
        }
        phone.unregister(SOON).await?;
        world.content()?;
    }
    for instance in [&one, &two, &away] {
        world.disable(instance).await?;
    }
    world.await_contacts(0).await?;
    assert_eq!(redis.instance_keys(), Vec::<String>::new());
    Ok(())
}

/// At a 403 it would give up (RFC 3261 §21.4.4).
#[tokio::test]
async fn a_phone_that_comes_back_before_a_relay_has_read_its_store_is_told_to_try_again() -> Outcome {
    let (mut world, redis) = World::on_redis(|_| {}).await?;
    let instance = world.enable().await?;
    world.relay.kill_9().await?;
    redis.freeze();
    world.relay.relaunch()?;
    let device = || phone::Settings { proof: Proof::Bearer, ..world.device(&instance) };
    let phone = world.until("an edge", || async { Phone::connect(device()).await.ok() }).await?;
    // Not even by the number of its tries.
    for secret in [&instance.secret, "wrong"].repeat(4) {
        let answer = phone.register_once(Some(format!("Bearer {secret}")), 600, SOON).await?;
        assert_eq!((answer.status(), answer.has(Name::RetryAfter)), (Some(503), true), "{secret}");
    }
    redis.thaw();
    let attached = || async {
        let answer = phone.register_once(Some(format!("Bearer {}", instance.secret)), 600, SOON).await.ok()?;
        (answer.status() == Some(200)).then_some(())
    };
    world.until("the phone attached", attached).await
}

#[tokio::test]
async fn after_kill_9_no_stale_contact_is_left_beside_the_new_one() -> Outcome {
    let (mut world, _redis, instance) = World::lent_on_redis().await?;
    let before = world.contacts();
    world.relay.kill_9().await?;
    world.relay.restart().await?;
    let registrar = world.registrar.clone();
    world
        .until("a new flow", || async {
            registrar.contacts(&world.aor()).iter().any(|it| it.flow.id() != before[0].flow.id()).then_some(())
        })
        .await?;
    let after = world.contacts();
    assert_eq!((after.len(), &after[0].instance), (1, &before[0].instance));
    world.whole_call(&instance).await
}

#[tokio::test]
async fn a_held_call_is_handed_over_while_the_relay_drains() -> Outcome {
    let (mut world, redis, instance) = World::lent_on_redis().await?;
    let (caller, _) = world.call_and_push().await?;
    let relay = &world.relay;
    let meanwhile = async {
        relay.await_log("drain", SOON).await?;
        let (_phone, call) = world.wake_to_call(&instance).await?;
        let ready = relay.operator().get("/readyz").await?;
        assert_eq!(ready.status, 503, "operators see that it drains: {}", ready.text());
        assert!(ready.text().contains("shutting down"), "{}", ready.text());
        world.answer(&caller, &call).await?;
        world.content()
    };
    let (exit, answered) = tokio::join!(relay.terminate(Duration::from_secs(20)), meanwhile);
    answered?;
    assert_eq!(exit?.code(), Some(0));
    let contacts = world.contacts();
    assert_eq!(contacts.len(), 1, "another process takes the binding over");
    assert!(!redis.instance_keys().is_empty());
    world.relay.restart().await?;
    world
        .until("the instance again", || async {
            let contacts = world.contacts();
            contacts.iter().any(|contact| contact.flow.is_open()).then_some(())
        })
        .await?;
    world.whole_call(&instance).await
}

#[tokio::test]
async fn a_drain_ends_in_time_although_a_phone_never_comes_and_each_caller_is_answered() -> Outcome {
    let world = World::start().await?;
    world.enable().await?;
    let (caller, _) = world.call_and_push().await?;
    // Others come until the end.
    let (mut callers, mut ticks) = (vec![caller], tokio::time::interval(Duration::from_secs(1)));
    let ending = world.relay.terminate(Duration::from_secs(20));
    tokio::pin!(ending);
    let exit = loop {
        tokio::select! {
            exit = &mut ending => break exit?,
            _ = ticks.tick() => callers.extend(world.call().ok()),
        }
    };
    assert_eq!(exit.code(), Some(0));
    let mut refused = 0;
    for caller in &callers {
        let last = caller.final_response(SOON).await?;
        if last.status() == Some(503) {
            assert!(last.text(Name::RetryAfter).is_some());
            assert!(caller.responses().iter().all(|(_, status)| *status != 180), "{:?}", caller.responses());
            refused += 1;
        }
    }
    assert!(refused > 0, "those that come last are told to try again");
    let mut pushes = 1;
    while world.apns.next_push(Duration::from_millis(300)).await.is_some() {
        pushes += 1;
    }
    assert_eq!(pushes, callers.len() - refused, "what is refused wakes nobody");
    assert_eq!(world.contacts().len(), 1, "a drain unregisters nothing");
    Ok(())
}

/// A phone that was woken has nobody else to ask.
#[tokio::test]
async fn a_relay_that_is_alone_answers_of_its_calls_while_it_drains_and_begins_nothing() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable().await?;
    let (caller, push) = world.call_and_push().await?;
    let meanwhile = async {
        world.relay.await_log("drain", SOON).await?;
        let refused = || async {
            let answer = world.api.change(&instance, &json!({"presence": "background"})).await.ok()?;
            let has_wait = answer.headers.contains_key("retry-after");
            ((answer.status, answer.problem().as_deref(), has_wait) == (503, Some("draining"), true)).then_some(())
        };
        world.until("503 to a change", refused).await?;
        let enabled = world.api.enable(&world.enable_request(OTHER_TOKEN)).await?;
        assert_eq!((enabled.status, enabled.problem().as_deref()), (503, Some("draining")));
        assert_eq!(world.api.call(&instance, push["call"].as_str().unwrap()).await?.status, 200);
        assert_eq!(world.api.read(&instance).await?.status, 200);
        world.decline(&caller, &instance, &push).await
    };
    let began = std::time::Instant::now();
    let (exit, declined) = tokio::join!(world.relay.terminate(Duration::from_secs(20)), meanwhile);
    declined?;
    assert_eq!(exit?.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(9), "nothing waits any more");
    Ok(())
}

/// RFC 3261 §17.2: what was taken gets a final response; behind a 100 a SIP server does not repeat it.
#[tokio::test]
async fn a_relay_that_drains_answers_what_is_asked_in_calls_and_keeps_texts_for_silent_phones() -> Outcome {
    let (mut world, _redis, instance) = World::lent_on_redis().await?;
    let Ringing { caller, phone, .. } = world.answered(&instance).await?;
    phone.fall_silent();
    let text = world.call_with(&CallOptions::request("MESSAGE").body("text/plain", "are you there?"))?;
    let reinvite = caller.reinvite(Duration::from_secs(20));
    let (exit, asked, kept) =
        tokio::join!(world.relay.terminate(Duration::from_secs(20)), reinvite, text.expect(202, SOON));
    kept?;
    let asked = asked?;
    assert_eq!((asked.status(), asked.has(Name::RetryAfter)), (Some(503), true));
    assert_eq!(exit?.code(), Some(0));
    world.relay.restart().await?;
    let there = || async {
        let messages = world.kept(&instance, "messages").await.ok()?;
        messages.iter().any(|message| message["body"] == "are you there?").then_some(())
    };
    world.until("the text, after the restart", there).await
}

#[tokio::test]
async fn a_relay_without_calls_drains_at_once() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable().await?;
    // A call that is established asks for nothing.
    let _call = world.answered(&instance).await?;
    let began = std::time::Instant::now();
    let exit = world.relay.terminate(Duration::from_secs(20)).await?;
    assert_eq!(exit.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(9));
    assert_eq!(world.contacts().len(), 1);
    Ok(())
}
