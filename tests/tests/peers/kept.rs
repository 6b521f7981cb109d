//! What is kept for a phone: Kamailio relays what sipsak and SIPp write, to a phone that sleeps and to baresip that is attached; and
//! what a voicemail server tells.

use std::process::Command;

use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::child::Child;
use tests::digest::token;
use tests::scene::OTHER_TOKEN;
use tests::scratch::Scratch;
use tests::sipp::Scenario;
use tests::wire::Transport;

use super::world::{Plan, SOON, World};

const WRITTEN: &str = "the parcel is at the neighbours";

/// sipsak writes to the account through Kamailio; what it printed. The message is given to it as a file, for its own mode
/// for messages (`-M`) ends in a segmentation fault in Debian 12's version.
async fn sipsak_writes(world: &World) -> String {
    let (server, aor, id) = (world.kamailio.address(Transport::Udp), world.kamailio.aor(&world.user), token());
    let scratch = Scratch::new();
    let text = format!(
        "MESSAGE {aor} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK{id}\r\nMax-Forwards: 70\r\n\
         From: <sip:carol@{}>;tag={id}\r\nTo: <{aor}>\r\nCall-ID: {id}\r\nCSeq: 1 MESSAGE\r\n\
         Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{WRITTEN}",
        world.kamailio.domain(),
        WRITTEN.len()
    );
    let mut sipsak = Command::new("sipsak");
    sipsak.args(["-vvv", "-p", &server.to_string(), "-s", &aor, "-f"]).arg(scratch.file("message.sip", text));
    let sipsak = Child::spawn(sipsak, "sipsak").unwrap();
    let exit = sipsak.exit(SOON).await.unwrap();
    assert!(exit.success(), "{exit}\n{}\n{}", sipsak.output(), world.relay.log());
    sipsak.output()
}

/// Alerts of the account's phone go to a token of their own.
async fn set_alert(world: &World, instance: &Instance) {
    let target = json!({"provider": "apns", "token": OTHER_TOKEN, "environment": "production"});
    let answer = world.api.change(instance, &json!({"device": {"alert_push": target}})).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
}

async fn next_alert(world: &World, event: &str) -> Value {
    let push = world.apns.next_push(SOON).await.unwrap_or_else(|| panic!("no push\n{}", world.relay.log()));
    assert_eq!((push.token.as_str(), push.push_type.as_str()), (OTHER_TOKEN, "alert"), "{}", push.payload);
    assert_eq!(push.payload["sipwake"]["event"], event);
    push.payload["sipwake"].clone()
}

async fn messages(world: &World, instance: &Instance) -> Vec<Value> {
    let answer = world.relay.api().of("GET", instance, "/messages").await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["messages"].as_array().cloned().unwrap_or_default()
}

#[tokio::test]
async fn what_sipsak_and_sipp_write_to_a_sleeping_phone_is_202_pushed_fetched_and_deleted() {
    for transport in [Transport::Tls, Transport::Udp] {
        let mut world = World::start(Plan { redis: true, ..Plan::over(transport) }).await;
        world.keep("what was written", WRITTEN);
        world.keep("what SIPp wrote", "Call me back");
        let instance = world.enable().await;
        set_alert(&world, &instance).await;
        let printed = sipsak_writes(&world).await;
        assert!(printed.contains("SIP/2.0 202"), "{printed}");
        let push = next_alert(&world, "message").await;
        assert_eq!(push["from"], format!("sip:carol@{}", world.kamailio.domain()));
        assert!(!push.to_string().contains("parcel"), "{push}");
        world.call(Scenario::Writes(202)).finish(SOON).await.unwrap();
        assert_eq!(next_alert(&world, "message").await["name"], "Carol");
        let kept = messages(&world, &instance).await;
        let mut bodies: Vec<_> = kept.iter().map(|message| message["body"].as_str().unwrap_or_default()).collect();
        bodies.sort_unstable();
        assert_eq!(bodies.len(), 2, "{bodies:?}");
        assert!(bodies[0].starts_with("Call me back, please") && bodies[1].trim_end() == WRITTEN, "{bodies:?}");
        for message in &kept {
            let path = format!("/messages/{}", message["message"].as_str().unwrap());
            assert_eq!(world.api.of("DELETE", &instance, &path).await.unwrap().status, 204);
        }
        assert_eq!(messages(&world, &instance).await, Vec::<Value>::new());
        assert_eq!(world.pushes(), 2);
        world.disable(&instance).await;
        world.end().await;
    }
}

#[tokio::test]
async fn what_is_written_to_baresip_that_is_attached_goes_on_its_flow() {
    let mut world = World::start(Plan::over(Transport::Tls)).await;
    let instance = world.enable().await;
    let phone = world.wake(&instance).await;
    // baresip answers a text with 200 by itself.
    let messages_before = messages(&world, &instance).await.len();
    let printed = sipsak_writes(&world).await;
    assert!(printed.contains("SIP/2.0 200"), "{printed}");
    assert_eq!((messages(&world, &instance).await.len(), messages_before), (0, 0));
    assert_eq!(world.pushes(), 0);
    drop(phone);
    world.disable(&instance).await;
    world.end().await;
}

#[tokio::test]
async fn what_a_voicemail_server_tells_through_kamailio_becomes_a_push_with_its_counts() {
    let mut world = World::start(Plan::over(Transport::Udp)).await;
    let instance = world.enable().await;
    set_alert(&world, &instance).await;
    world.call(Scenario::MailboxChanges).finish(SOON).await.unwrap();
    let push = next_alert(&world, "voicemail").await;
    assert_eq!(["new", "old", "urgent"].map(|key| push[key].clone()), [json!(3), json!(4), json!(1)]);
    let read = world.api.read(&instance).await.unwrap().json();
    assert_eq!(read["voicemail"], json!({"waiting": true, "new": 3, "old": 4, "urgent": 1}));
    // A call that is cancelled at SIPp is missed.
    world.call(Scenario::CallerCancels).finish(SOON).await.unwrap();
    let voip = world.apns.next_push(SOON).await.unwrap();
    assert_eq!(voip.push_type, "voip");
    let missed = next_alert(&world, "missed-call").await;
    assert_eq!((&missed["name"], &missed["call"]), (&json!("Carol"), &voip.payload["sipwake"]["call"]));
    world.disable(&instance).await;
    world.end().await;
}
