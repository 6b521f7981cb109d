//! A MESSAGE to a sleeping device is kept, pushed, fetched and deleted; to one that is attached it goes on its flow.

use serde_json::json;
use tests::caller::CallOptions;
use tests::wire::Transport;
use tests::world::{FCM_TOKEN, SOON, World, text};

use super::{Outcome, write};

#[tokio::test]
async fn a_message_to_a_sleeping_phone_is_202_pushed_fetched_and_deleted() -> Outcome {
    for transport in [Transport::Tls, Transport::Udp, Transport::Tcp] {
        let world = World::over(transport).await?;
        let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
        let caller = write(&world, "Grüße, bis gleich")?;
        caller.expect(202, SOON).await?;
        let push = world.alert("message").await?;
        let id = text(&push["message"]);
        assert_eq!((&push["from"], &push["name"]), (&json!("sip:bob@example.test"), &json!("Bob")));
        assert!(id.starts_with("m_") && push.get("call").is_none() && !push.to_string().contains("gleich"), "{push}");
        let messages = world.kept(&instance, "messages").await?;
        let [message] = &messages[..] else { panic!("{messages:?}") };
        assert_eq!((&message["body"], &message["encoding"]), (&json!("Grüße, bis gleich"), &json!("utf-8")));
        assert_eq!((&message["content_type"], text(&message["message"])), (&json!("text/plain"), id.clone()));
        assert_eq!((&message["from"], &message["name"]), (&push["from"], &push["name"]));
        assert_eq!(world.api.read(&instance).await?.json()["messages"], 1);
        let path = format!("/messages/{id}");
        assert_eq!(world.api.of("DELETE", &instance, &path).await?.status, 204);
        let again = world.api.of("DELETE", &instance, &path).await?;
        assert_eq!((again.status, again.problem().as_deref()), (404, Some("unknown-message")));
        assert_eq!(world.kept(&instance, "messages").await?, Vec::<serde_json::Value>::new());
        world.await_metric("sipwake_messages_total{outcome=\"kept\"}", 1.0).await?;
        assert_eq!(world.apns.requests(), 1);
        world.content()?;
    }
    Ok(())
}

#[tokio::test]
async fn a_message_to_an_attached_phone_goes_on_its_flow_and_is_neither_kept_nor_pushed() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let phone = world.wake(&instance).await?;
    let caller = write(&world, "hello, phone")?;
    let came = phone.next_request("MESSAGE", SOON).await?;
    assert_eq!(&came.body()[..], b"hello, phone");
    caller.expect(200, SOON).await?;
    assert_eq!(world.kept(&instance, "messages").await?.len(), 0);
    world.await_metric("sipwake_messages_total{outcome=\"delivered\"}", 1.0).await?;
    // When it has left, the next one is kept.
    phone.unregister(SOON).await?;
    write(&world, "hello, later")?.expect(202, SOON).await?;
    world.alert("message").await?;
    assert_eq!(world.kept(&instance, "messages").await?.len(), 1);
    assert_eq!(world.apns.requests(), 1);
    world.content()
}

#[tokio::test]
async fn a_message_to_a_phone_that_is_out_of_reach_without_knowing_is_kept_instead() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let phone = world.wake(&instance).await?;
    phone.fall_silent();
    write(&world, "are you there?")?.expect(202, SOON).await?;
    world.alert("message").await?;
    assert_eq!(world.kept(&instance, "messages").await?[0]["body"], "are you there?");
    Ok(())
}

#[tokio::test]
async fn a_message_waits_for_a_store_that_is_away_at_its_own_server_and_survives_a_restart() -> Outcome {
    let (mut world, redis) = World::on_redis(|_| {}).await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    redis.freeze();
    let refused = write(&world, "not yet")?.final_response(SOON).await?;
    assert_eq!(refused.status(), Some(503));
    assert!(refused.has(sip::message::Name::RetryAfter));
    let away = world.api.of("GET", &instance, "/messages").await?;
    assert_eq!((away.status, away.problem().as_deref()), (503, Some("store-away")));
    redis.thaw();
    let keeps = || async { write(&world, "now").ok()?.expect(202, SOON).await.ok().map(drop) };
    world.until("202", keeps).await?;
    world.alert("message").await?;
    world.relay.restart().await?;
    // What was answered 503 may have reached the store, which stood still, all the same.
    let there = || async {
        let messages = world.kept(&instance, "messages").await.ok()?;
        messages.iter().any(|message| message["body"] == "now").then_some(())
    };
    world.until("the message, after a restart", there).await?;
    world.disable(&instance).await?;
    world
        .until("an empty store", || async {
            let left = redis.keys().into_iter().any(|key| key.contains(&instance.id));
            (!left).then_some(())
        })
        .await
}

#[tokio::test]
async fn a_phone_on_fcm_is_told_by_its_one_token_and_one_that_does_not_want_it_is_not() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_android().await?;
    write(&world, "hello, Android")?.expect(202, SOON).await?;
    let push = world.android_push().await?;
    assert_eq!((&push["event"], &push["from"]), (&json!("message"), &json!("sip:bob@example.test")));
    assert_eq!(world.kept(&instance, "messages").await?.len(), 1);
    // What tells the app that a message was displayed is kept for it, and no news for its user.
    let notification = "NS: imdn <urn:ietf:params:imdn>\r\n\r\nContent-Type: message/imdn+xml\r\n\r\n<imdn/>";
    let notified = CallOptions::request("MESSAGE").body("message/cpim", notification);
    world.call_with(&notified)?.expect(202, SOON).await?;
    assert_eq!(world.kept(&instance, "messages").await?.len(), 2);
    let change = json!({"wake_for": ["call"]});
    assert_eq!(world.api.change(&instance, &change).await?.status, 200);
    write(&world, "silently")?.expect(202, SOON).await?;
    assert_eq!(world.kept(&instance, "messages").await?.len(), 3, "kept all the same");
    // A test push comes next: nothing was sent before it.
    assert_eq!(world.api.of("POST", &instance, "/test").await?.status, 202);
    let push = world.google_push().await?;
    assert_eq!((push.payload["event"].as_str(), push.token.as_str()), (Some("test"), FCM_TOKEN));
    world.content()
}

#[tokio::test]
async fn a_composing_notice_goes_to_a_phone_that_is_there_and_is_kept_for_none() -> Outcome {
    let (world, instance) = World::lent().await?;
    let phone = world.wake(&instance).await?;
    let composing = CallOptions::request("MESSAGE").body("application/im-iscomposing+xml", "<isComposing/>");
    let sender = world.call_with(&composing)?;
    let came = phone.next_request("MESSAGE", SOON).await?;
    assert_eq!(&came.body()[..], b"<isComposing/>");
    sender.expect(200, SOON).await?;
    assert_eq!(world.kept(&instance, "messages").await?.len(), 0);
    world.content()
}

#[tokio::test]
async fn a_composing_notice_is_dropped_a_private_sender_is_anonymous_and_a_large_body_is_413() -> Outcome {
    let world = World::with(|setup| setup.further += "\n[messages]\nmax_body = \"100B\"\n").await?;
    let instance = world.enable_as(&world.enable_request_with_alerts()).await?;
    let call = |options: &CallOptions| world.call_with(options);
    let composing = CallOptions::request("MESSAGE").body("application/im-iscomposing+xml", "<isComposing/>");
    call(&composing)?.expect(200, SOON).await?;
    call(&CallOptions::request("MESSAGE").body("text/plain", &"x".repeat(101)))?.expect(413, SOON).await?;
    let private = CallOptions::request("MESSAGE").body("text/plain", "guess who").private("<sip:bob@example.test>");
    call(&private)?.expect(202, SOON).await?;
    let push = world.alert("message").await?;
    assert_eq!((&push["from"], push.get("name")), (&json!("sip:anonymous@anonymous.invalid"), None));
    let messages = world.kept(&instance, "messages").await?;
    assert_eq!((messages.len(), &messages[0]["from"]), (1, &push["from"]));
    for outcome in ["composing", "too-large", "kept"] {
        world.await_metric(&format!("sipwake_messages_total{{outcome=\"{outcome}\"}}"), 1.0).await?;
    }
    world.content()
}
