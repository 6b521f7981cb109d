//! The life of a push instance, from enabling to wipe, on stand-ins.
//!
//! | room | subject |
//! | --- | --- |
//! | *one instance* |  |
//! | `registrations`, `presence`, `ha1`, `policy` | how an account stays registered |
//! | `flows`, `targets` | the way to its SIP server |
//! | `lease`, `changed_tokens`, `dead_tokens` | the lease and the push token |
//! | `hung_up`, `succession`, `cut_off` | enabling that is interrupted, or done again |
//! | `ends`, `receipts`, `receipts_elsewhere` | the end, and the promise that it is one |
//! | *one node* |  |
//! | `restarts`, `on_their_way`, `seeded` | the process ends and starts |
//! | `outages`, `slow_store`, `store_kind`, `lost_records` | a store that is away, slow, of the wrong kind, or loses records |
//! | `clock` | a wall clock that jumps |
//! | `push_health`, `warnings`, `logs`, `traces`, `audit` | what operators are told |
//! | *several nodes* |  |
//! | `nodes`, `leaving`, `hand_over`, `stood_still` | nodes that share a store, leave it, or stand still |
//! | `partitions`, `unreachable_servers`, `given_back`, `keyrings` | nodes that do not reach the store or a SIP server, are back, or have another keyring |

use std::time::Duration;

use serde_json::json;
use tests::api_client::Instance;
use tests::fcm;
use tests::registrar::Behaviour;
use tests::wire::Transport;
use tests::world::{SOON, World, text};

mod audit;
mod changed_tokens;
mod claimed_back;
mod clock;
mod cut_off;
mod dead_tokens;
mod enabled_elsewhere;
mod ends;
mod flows;
mod given_back;
mod ha1;
mod hand_over;
mod hung_up;
mod keyrings;
mod lease;
mod leaving;
mod logs;
mod lost_records;
mod nodes;
mod on_their_way;
mod outages;
mod partitions;
mod policy;
mod presence;
mod push_health;
mod receipts;
mod receipts_elsewhere;
mod registrations;
mod restarts;
mod rolling_restart;
mod seeded;
mod slow_store;
mod stood_still;
mod store_kind;
mod succession;
mod targets;
mod traces;
mod unreachable_servers;
mod warnings;

type Outcome = tests::world::Outcome;

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_registered_over_every_transport_that_the_operator_named() -> Outcome {
    let mut world =
        World::with(|setup| setup.transports = vec![Transport::Tls, Transport::Tcp, Transport::Udp]).await?;
    for transport in [Transport::Tls, Transport::Tcp, Transport::Udp] {
        world.transport = transport;
        let instance = world.enable_android().await?;
        world.await_contacts(1).await?;
        world.whole_call(&instance).await?;
        world.disable(&instance).await?;
        world.await_contacts(0).await?;
    }
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transport_or_address_or_domain_that_is_not_allowed_is_refused_before_anything_is_sent() -> Outcome {
    let world = World::with(|setup| setup.domains = vec!["example.test".to_owned()]).await?;
    let refused = async |change: fn(&mut serde_json::Value)| {
        let mut request = world.android_enable_request("a-token-that-is-refused");
        change(&mut request);
        let answer = world.api.enable(&request).await.expect("an answer");
        (answer.status, answer.problem().unwrap_or_default())
    };
    let udp = refused(|request| request["account"]["registrar"] = json!("sip:127.0.0.1:5999;transport=udp")).await;
    let inside = refused(|request| request["account"]["registrar"] = json!("sip:10.1.2.3:5061;transport=tls")).await;
    let domain = refused(|request| request["account"]["aor"] = json!("sip:alice@example.org")).await;
    assert_eq!((udp.0, inside.0, domain.0), (403, 403, 403), "{udp:?} {inside:?} {domain:?}");
    assert_eq!(world.registrar.register_count(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_are_answered_at_once_and_nothing_is_kept() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let mut request = world.android_enable_request("token-of-a-stranger");
    request["account"]["password"] = json!("looking-glass");
    let answer = world.api.enable(&request).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (422, Some("upstream-refused")), "{}", answer.text());
    assert!(!answer.text().contains("looking-glass"));
    world.await_contacts(0).await?;
    assert_eq!(redis.instance_keys(), Vec::<String>::new());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_enabled_again_replaces_the_earlier_instance_without_losing_its_registration() -> Outcome {
    let world = World::start().await?;
    let mut request = world.android_enable_request("one-token-for-both");
    let mut later = world.enable_as(&request).await?;
    // However its user is written (RFC 3261 §19.1.4).
    for aor in [world.aor(), world.aor().replace("alice", "%61lice"), world.aor()] {
        request["account"]["aor"] = json!(aor);
        let earlier = std::mem::replace(&mut later, world.enable_as(&request).await?);
        world.await_gone(&earlier).await?;
        world.await_contacts(1).await?;
    }
    let caller = world.call()?;
    assert_eq!(text(&world.android_push().await?["instance"]), later.id);
    caller.cancel().await?;
    caller.expect(487, SOON).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_the_push_service_calls_gone_wipes_the_instance() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.android_enable_request("token-of-a-lost-phone")).await?;
    world.fcm.answer_with("token-of-a-lost-phone", [fcm::Answer::Unregistered]);
    let caller = world.call()?;
    caller.expect(480, SOON).await?;
    world.await_gone(&instance).await?;
    world.await_contacts(0).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_ends_with_its_lease() -> Outcome {
    let world = World::with(|setup| setup.lifetime = ["1s", "4s", "6d"].map(str::to_owned)).await?;
    let instance = world.enable_as(&world.android_enable_request("token-of-a-short-lease")).await?;
    world.await_gone(&instance).await?;
    world.await_contacts(0).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_in_the_foreground_is_unregistered_and_registered_again_behind() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.android_enable_request("token-that-comes-and-goes")).await?;
    let answer = world.api.change(&instance, &json!({"presence": "foreground"})).await?;
    assert_eq!((answer.status, answer.json()["state"].as_str()), (200, Some("foreground")), "{}", answer.text());
    world.await_contacts(0).await?;
    world.change(&instance, json!({"presence": "background"})).await?;
    world.await_contacts(1).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_push_token_is_used_from_then_on() -> Outcome {
    let world = World::start().await?;
    let instance = world.enable_as(&world.android_enable_request("the-old-token")).await?;
    let change = json!({"device": {"call_push": {"provider": "fcm", "token": "the-new-token"}}});
    let answer = world.api.change(&instance, &change).await?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let caller = world.call()?;
    assert_eq!(world.google_push().await?.token, "the-new-token");
    caller.cancel().await
}

#[tokio::test(flavor = "multi_thread")]
async fn disabling_ends_a_held_call_and_is_complete_although_the_sip_server_is_silent() -> Outcome {
    let (world, redis) = World::on_redis(|_| {}).await?;
    let instance = world.enable_as(&world.android_enable_request("token-of-a-held-call")).await?;
    let caller = world.call()?;
    world.android_push().await?;
    world.registrar.behave(&world.aor(), Behaviour::Silence);
    let answer = world.api.disable(&instance).await?;
    assert_eq!((answer.status, &answer.json()["unregistered"]), (200, &json!(false)), "{}", answer.text());
    caller.expect(480, SOON).await?;
    assert_eq!(redis.instance_keys(), Vec::<String>::new());
    let again = world.api.disable(&instance).await?;
    assert_eq!((again.status, again.json()), (200, answer.json()), "the receipt, for a day");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_sip_server_is_waited_for_after_a_202() -> Outcome {
    let world = World::start().await?;
    // Its challenge after five seconds, its 200 after five more; the API answers after six, or a little more.
    world.registrar.behave(&world.aor(), Behaviour::Slow(Duration::from_secs(5)));
    let request = world.android_enable_request("token-of-patience");
    let answer = world.api.enable(&request).await?;
    assert_eq!((answer.status, answer.json()["registration"]["state"].as_str()), (202, Some("registering")));
    let instance = Instance::new(&request, answer.json());
    world.await_contacts(1).await?;
    let registered = || async {
        let answer = world.api.read(&instance).await.ok()?;
        (answer.json()["registration"]["state"] == "registered").then_some(())
    };
    world.until("registered", registered).await?;
    let caller = world.call()?;
    assert_eq!(text(&world.android_push().await?["instance"]), instance.id);
    caller.cancel().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sip_server_that_is_busy_now_is_tried_again_after_a_202() -> Outcome {
    let world = World::start().await?;
    world.registrar.script(&world.aor(), &[Behaviour::RetryAfter(1), Behaviour::Accept]);
    let request = world.android_enable_request("token-of-patience");
    let answer = world.api.enable(&request).await?;
    assert_eq!((answer.status, answer.json()["registration"]["state"].as_str()), (202, Some("retrying")));
    assert_eq!(answer.json()["registration"]["status"], 503);
    // The wait of RFC 5626 §4.5 is half a minute; that it ends is shown in virtual time.
    assert_eq!(world.contacts().len(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_calls_ring_and_enabling_is_answered_503_until_it_is_back() -> Outcome {
    let (world, mut redis) = World::on_redis(|_| {}).await?;
    let instance = world.enable_as(&world.android_enable_request("token-before-the-outage")).await?;
    redis.stop();
    let _in_call = world.answered(&instance).await?;
    let answer = world.api.enable(&world.android_enable_request("token-in-the-outage")).await?;
    assert_eq!((answer.status, answer.problem().as_deref()), (503, Some("store-away")), "{}", answer.text());
    assert!(world.await_readiness("degraded").await?.contains("the store does not answer"));
    redis.restart();
    world.await_readiness("ready").await?;
    let later = world.enable_as(&world.android_enable_request("token-after-the-outage")).await?;
    for instance in [&instance, &later] {
        world.disable(instance).await?;
    }
    world.await_contacts(0).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_and_a_restart_every_instance_is_registered_again() -> Outcome {
    let (mut world, _redis) = World::on_redis(|_| {}).await?;
    let instance = world.enable_as(&world.android_enable_request("token-that-survives")).await?;
    world.await_contacts(1).await?;
    world.relay.kill_9().await?;
    world.registrar.forget();
    world.relay.restart().await?;
    world.await_contacts(1).await?;
    world.rings_on(&instance).await?;
    let drained = world.relay.terminate(Duration::from_secs(20)).await?;
    assert_eq!(drained.code(), Some(0), "{}", world.relay.log());
    world.await_contacts(1).await.map(drop)
}

/// To clear a huge page takes milliseconds, in which calls wait.
#[tokio::test(flavor = "multi_thread")]
async fn memory_comes_in_small_pages_also_where_the_system_gives_everybody_huge_ones() -> Outcome {
    let world = World::with(|_| {}).await?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.relay.pid())).expect("its status");
    let huge = status.lines().find_map(|line| line.strip_prefix("THP_enabled:")).map(str::trim);
    assert_eq!(huge, Some("0"), "{status}");
    world.content()
}
