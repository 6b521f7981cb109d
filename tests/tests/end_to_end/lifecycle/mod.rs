//! The life of a push instance, from enabling to wipe, on stand-ins.

use std::time::Duration;

use serde_json::json;
use tests::api_client::Instance;
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::fcm;
use tests::redis_server::RedisServer;
use tests::registrar::Behaviour;
use tests::relay_process::RelayProcess;
use tests::stage::{STEP, Stage, text};
use tests::wire::Transport;

mod audit;
mod clock;
mod dead_tokens;
mod ends;
mod flows;
mod ha1;
mod hand_over;
mod keyrings;
mod lease;
mod nodes;
mod outages;
mod partitions;
mod policy;
mod presence;
mod push_health;
mod receipts;
mod registrations;
mod restarts;
mod store_kind;
mod targets;

type Outcome = Result<(), Missed>;

async fn contacts(stage: &Stage, count: usize) -> Outcome {
    stage.registrar.await_contacts(&stage.aor(), count, STEP).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_registered_over_every_transport_that_the_operator_named() -> Outcome {
    let stage = Stage::with(|setup| setup.transports = vec![Transport::Tls, Transport::Tcp, Transport::Udp]).await?;
    for transport in [Transport::Tls, Transport::Tcp, Transport::Udp] {
        let instance = stage.enabled(&stage.wish(transport, "token-of-every-transport")).await?;
        contacts(&stage, 1).await?;
        let (caller, _phone, call) = stage.answered(&instance).await?;
        caller.bye(STEP).await?;
        call.expect_bye(STEP).await?;
        assert_eq!(stage.api.disable(&instance).await.unwrap().status, 200);
        contacts(&stage, 0).await?;
    }
    assert_eq!(stage.violations(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transport_or_address_or_domain_that_is_not_allowed_is_refused_before_anything_is_sent() -> Outcome {
    let stage = Stage::with(|setup| setup.domains = vec!["example.test".to_owned()]).await?;
    let refused = async |change: fn(&mut serde_json::Value)| {
        let mut wish = stage.wish(Transport::Tls, "a-token-that-is-refused");
        change(&mut wish);
        let answer = stage.api.enable(&wish).await.unwrap();
        (answer.status, answer.problem().unwrap_or_default())
    };
    let udp = refused(|wish| wish["account"]["registrar"] = json!("sip:127.0.0.1:5999;transport=udp")).await;
    let inside = refused(|wish| wish["account"]["registrar"] = json!("sip:10.1.2.3:5061;transport=tls")).await;
    let domain = refused(|wish| wish["account"]["aor"] = json!("sip:alice@example.org")).await;
    assert_eq!((udp.0, inside.0, domain.0), (403, 403, 403), "{udp:?} {inside:?} {domain:?}");
    assert_eq!(stage.registrar.register_count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_are_answered_at_once_and_nothing_is_kept() -> Outcome {
    let redis = RedisServer::start();
    let stage = Stage::with(|setup| setup.store = redis.url()).await?;
    let mut wish = stage.wish(Transport::Tls, "token-of-a-stranger");
    wish["account"]["password"] = json!("looking-glass");
    let answer = stage.api.enable(&wish).await.unwrap();
    assert_eq!((answer.status, answer.problem().as_deref()), (422, Some("upstream-refused")), "{}", answer.text());
    assert!(!answer.text().contains("looking-glass"));
    contacts(&stage, 0).await?;
    assert_eq!(redis.instance_keys(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_enabled_again_replaces_the_earlier_instance_without_losing_its_registration() -> Outcome {
    let stage = Stage::with(|_| {}).await?;
    let wish = stage.wish(Transport::Tls, "one-token-for-both");
    let earlier = stage.enabled(&wish).await?;
    let later = stage.enabled(&wish).await?;
    stage.await_gone(&earlier, STEP).await?;
    contacts(&stage, 1).await?;
    let caller = stage.registrar.call(&stage.aor(), &CallOptions::default())?;
    assert_eq!(text(&stage.push("call").await?["instance"]), later.id);
    caller.cancel().await?;
    caller.expect(487, STEP).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_push_service_calls_gone_wipes_the_instance() -> Outcome {
    let stage = Stage::with(|_| {}).await?;
    let instance = stage.enabled(&stage.wish(Transport::Tls, "token-of-a-lost-phone")).await?;
    stage.fcm.answer_with("token-of-a-lost-phone", [fcm::Answer::Unregistered]);
    let caller = stage.registrar.call(&stage.aor(), &CallOptions::default())?;
    caller.expect(480, STEP).await?;
    stage.await_gone(&instance, STEP).await?;
    contacts(&stage, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_ends_with_its_lease() -> Outcome {
    let stage = Stage::with(|setup| setup.lifetime = ["1s", "4s", "6d"].map(str::to_owned)).await?;
    let instance = stage.enabled(&stage.wish(Transport::Tls, "token-of-a-short-lease")).await?;
    stage.await_gone(&instance, STEP).await?;
    contacts(&stage, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_in_the_foreground_is_unregistered_and_registered_again_behind() -> Outcome {
    let stage = Stage::with(|_| {}).await?;
    let instance = stage.enabled(&stage.wish(Transport::Tls, "token-that-comes-and-goes")).await?;
    let answer = stage.api.change(&instance, &json!({"presence": "foreground"})).await.unwrap();
    assert_eq!((answer.status, answer.json()["state"].as_str()), (200, Some("foreground")), "{}", answer.text());
    contacts(&stage, 0).await?;
    let answer = stage.api.change(&instance, &json!({"presence": "background"})).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    contacts(&stage, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_push_token_is_used_from_then_on() -> Outcome {
    let stage = Stage::with(|_| {}).await?;
    let instance = stage.enabled(&stage.wish(Transport::Tls, "the-old-token")).await?;
    let change = json!({"device": {"call_push": {"provider": "fcm", "token": "the-new-token"}}});
    let answer = stage.api.change(&instance, &change).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let caller = stage.registrar.call(&stage.aor(), &CallOptions::default())?;
    let push = stage.fcm.next_push(STEP).await.ok_or_else(|| Missed::new("a push", "none"))?;
    assert_eq!(push.token, "the-new-token");
    caller.cancel().await
}

#[tokio::test(flavor = "multi_thread")]
async fn disabling_ends_a_held_call_and_is_complete_although_the_sip_server_is_silent() -> Outcome {
    let redis = RedisServer::start();
    let stage = Stage::with(|setup| setup.store = redis.url()).await?;
    let instance = stage.enabled(&stage.wish(Transport::Tls, "token-of-a-held-call")).await?;
    let caller = stage.registrar.call(&stage.aor(), &CallOptions::default())?;
    stage.push("call").await?;
    stage.registrar.behave(&stage.aor(), Behaviour::Silence);
    let answer = stage.api.disable(&instance).await.unwrap();
    assert_eq!((answer.status, &answer.json()["unregistered"]), (200, &json!(false)), "{}", answer.text());
    caller.expect(480, STEP).await?;
    assert_eq!(redis.instance_keys(), Vec::<String>::new());
    let again = stage.api.disable(&instance).await.unwrap();
    assert_eq!((again.status, again.json()), (200, answer.json()), "the receipt, for a day");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_sip_server_is_waited_for_after_a_202() -> Outcome {
    let stage = Stage::with(|_| {}).await?;
    // Its challenge after six seconds, its 200 after six more; the API answers after ten.
    stage.registrar.behave(&stage.aor(), Behaviour::Slow(Duration::from_secs(6)));
    let answer = stage.api.enable(&stage.wish(Transport::Tls, "token-of-patience")).await.unwrap();
    assert_eq!((answer.status, answer.json()["registration"]["state"].as_str()), (202, Some("registering")));
    let instance = Instance {
        id: text(&answer.json()["instance"]),
        secret: text(&answer.json()["secret"]),
        edge: text(&answer.json()["edge"]["proxy"]),
        answer: answer.json(),
    };
    contacts(&stage, 1).await?;
    let registered = async {
        while stage.api.read(&instance).await.map(|answer| answer.json()["registration"]["state"] == "registered").ok()
            != Some(true)
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(STEP * 2, registered).await.map_err(|_| Missed::new("registered", "another state"))?;
    let caller = stage.registrar.call(&stage.aor(), &CallOptions::default())?;
    assert_eq!(text(&stage.push("call").await?["instance"]), instance.id);
    caller.cancel().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sip_server_that_is_busy_now_is_tried_again_after_a_202() -> Outcome {
    let stage = Stage::with(|_| {}).await?;
    stage.registrar.script(&stage.aor(), &[Behaviour::RetryAfter(1), Behaviour::Accept]);
    let wish = stage.wish(Transport::Tls, "token-of-patience");
    let answer = stage.api.enable(&wish).await.unwrap();
    assert_eq!((answer.status, answer.json()["registration"]["state"].as_str()), (202, Some("retrying")));
    assert_eq!(answer.json()["registration"]["status"], 503);
    // The wait of RFC 5626 §4.5 is half a minute; that it ends is shown in virtual time.
    assert_eq!(stage.registrar.contacts(&stage.aor()).len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_calls_ring_and_enabling_is_answered_503_until_it_is_back() -> Outcome {
    let mut redis = RedisServer::start();
    let stage = Stage::with(|setup| setup.store = redis.url()).await?;
    let instance = stage.enabled(&stage.wish(Transport::Tls, "token-before-the-outage")).await?;
    redis.stop();
    let _in_call = stage.answered(&instance).await?;
    let answer = stage.api.enable(&stage.wish(Transport::Tls, "token-in-the-outage")).await.unwrap();
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
    await_ready(&stage, "degraded").await?;
    assert!(stage.operator.get("/readyz").await.unwrap().text().contains("the store does not answer"));
    redis.restart();
    await_ready(&stage, "ready").await?;
    let later = stage.enabled(&stage.wish(Transport::Tls, "token-after-the-outage")).await?;
    for instance in [&instance, &later] {
        assert_eq!(stage.api.disable(instance).await.unwrap().status, 200);
    }
    contacts(&stage, 0).await
}

async fn await_ready(stage: &Stage, says: &str) -> Outcome {
    let look = async {
        while stage.operator.get("/readyz").await.is_ok_and(|answer| answer.json()["status"] != says) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(20), look).await;
    seen.map_err(|_| Missed::new(format!("{says} from /readyz"), "something else"))
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_and_a_restart_every_instance_is_registered_again() -> Outcome {
    let redis = RedisServer::start();
    let stage = Stage::with(|_| {}).await?;
    let mut setup = stage.setup.clone();
    setup.ports = tests::relay_setup::Ports::default();
    setup.store = redis.url();
    let mut relay = RelayProcess::start(setup).await?;
    let wish = stage.wish(Transport::Tls, "token-that-survives");
    let instance = relay.api().enabled(&wish).await.map_err(|error| Missed::new("201", error.to_string()))?;
    contacts(&stage, 1).await?;
    relay.kill_9().await?;
    stage.registrar.forget();
    relay.restart().await?;
    contacts(&stage, 1).await?;
    let caller = stage.registrar.call(&stage.aor(), &CallOptions::default())?;
    let push = stage.push("call").await?;
    assert_eq!(text(&push["instance"]), instance.id);
    let phone = stage.wake(&instance).await?;
    let call = phone.next_invite(STEP).await?;
    call.answer();
    caller.answered(STEP).await?;
    caller.bye(STEP).await?;
    call.expect_bye(STEP).await?;
    let drained = relay.terminate(Duration::from_secs(20)).await?;
    assert_eq!(drained.code(), Some(0), "{}", relay.log());
    contacts(&stage, 1).await
}
