//! What happens to a phone beside its calls: Kamailio relays what sipsak and SIPp write, to a phone that sleeps and to baresip that is attached; and
//! what a voicemail server tells.

use std::process::Command;

use serde_json::{Value, json};
use tests::api_client::Instance;
use tests::board::Missed;
use tests::child::Child;
use tests::digest::token;
use tests::scratch::Scratch;
use tests::sipp::Scenario;
use tests::wire::Transport;
use tests::world::OTHER_TOKEN;
use tests::world::real::{Plan, SOON};

use crate::{Outcome, World};

const WRITTEN: &str = "the parcel is at the neighbours";

/// sipsak writes to the account through Kamailio; what it printed. The message is given to it as a file, for its own mode
/// for messages (`-M`) ends in a segmentation fault in Debian 12's version.
async fn sipsak_writes(world: &World) -> Result<String, Missed> {
    let (server, aor, id) =
        (world.registrar.address(Transport::Udp), world.registrar.aor(&world.registrar.user), token());
    let scratch = Scratch::new();
    let text = format!(
        "MESSAGE {aor} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK{id}\r\nMax-Forwards: 70\r\n\
         From: <sip:carol@{}>;tag={id}\r\nTo: <{aor}>\r\nCall-ID: {id}\r\nCSeq: 1 MESSAGE\r\n\
         Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{WRITTEN}",
        world.registrar.domain(),
        WRITTEN.len()
    );
    let mut sipsak = Command::new("sipsak");
    sipsak.args(["-vvv", "-p", &server.to_string(), "-s", &aor, "-f"]).arg(scratch.file("message.sip", text));
    let sipsak = Child::spawn(sipsak, "sipsak").unwrap();
    let exit = sipsak.exit(SOON).await?;
    assert!(exit.success(), "{exit}\n{}\n{}", sipsak.output(), world.relay.log());
    Ok(sipsak.output())
}

/// Alerts of the account's phone go to a token of their own.
async fn set_alert(world: &World, instance: &Instance) -> Outcome {
    let target = json!({"provider": "apns", "token": OTHER_TOKEN, "environment": "production"});
    world.change(instance, json!({"device": {"alert_push": target}})).await.map(drop)
}

#[tokio::test]
async fn what_sipsak_and_sipp_write_to_a_sleeping_phone_is_202_pushed_fetched_and_deleted() -> Outcome {
    for transport in [Transport::Tls, Transport::Udp] {
        let world = World::real(Plan { redis: true, ..Plan::over(transport) }).await?;
        world.secrets.keep("what was written", WRITTEN);
        world.secrets.keep("what SIPp wrote", "Call me back");
        let instance = world.lend_own().await?;
        set_alert(&world, &instance).await?;
        let printed = sipsak_writes(&world).await?;
        assert!(printed.contains("SIP/2.0 202"), "{printed}");
        let push = world.alert("message").await?;
        assert_eq!(push["from"], format!("sip:carol@{}", world.registrar.domain()));
        assert!(!push.to_string().contains("parcel"), "{push}");
        world.sipp_calls(Scenario::Writes(202))?.finish(SOON).await?;
        assert_eq!(world.alert("message").await?["name"], "Carol");
        let kept = world.kept(&instance, "messages").await?;
        let mut bodies: Vec<_> = kept.iter().map(|message| message["body"].as_str().unwrap_or_default()).collect();
        bodies.sort_unstable();
        assert_eq!(bodies.len(), 2, "{bodies:?}");
        assert!(bodies[0].starts_with("Call me back, please") && bodies[1].trim_end() == WRITTEN, "{bodies:?}");
        for message in &kept {
            let path = format!("/messages/{}", message["message"].as_str().unwrap());
            assert_eq!(world.api.of("DELETE", &instance, &path).await?.status, 204);
        }
        assert_eq!(world.kept(&instance, "messages").await?, Vec::<Value>::new());
        assert_eq!(world.pushes(), 2);
        world.farewell(&instance).await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_written_to_baresip_that_is_attached_goes_on_its_flow() -> Outcome {
    let (world, instance) = World::real_and_lent(Plan::over(Transport::Tls)).await?;
    let phone = world.baresip(&instance).await?;
    // baresip answers a text with 200 by itself.
    let messages_before = world.kept(&instance, "messages").await?.len();
    let printed = sipsak_writes(&world).await?;
    assert!(printed.contains("SIP/2.0 200"), "{printed}");
    assert_eq!((world.kept(&instance, "messages").await?.len(), messages_before), (0, 0));
    assert_eq!(world.pushes(), 0);
    drop(phone);
    world.farewell(&instance).await
}

#[tokio::test]
async fn what_a_voicemail_server_tells_through_kamailio_becomes_a_push_with_its_counts() -> Outcome {
    let (world, instance) = World::real_and_lent(Plan::over(Transport::Udp)).await?;
    set_alert(&world, &instance).await?;
    world.sipp_calls(Scenario::MailboxChanges)?.finish(SOON).await?;
    let push = world.alert("voicemail").await?;
    assert_eq!(["new", "old", "urgent"].map(|key| push[key].clone()), [json!(3), json!(4), json!(1)]);
    let read = world.api.read(&instance).await?.json();
    assert_eq!(read["voicemail"], json!({"waiting": true, "new": 3, "old": 4, "urgent": 1}));
    // A call that is cancelled at SIPp is missed.
    world.sipp_calls(Scenario::CallerCancels)?.finish(SOON).await?;
    let voip = world.apple_push().await?;
    assert_eq!(voip.push_type, "voip");
    let missed = world.alert("missed-call").await?;
    assert_eq!((&missed["name"], &missed["call"]), (&json!("Carol"), &voip.payload["sipwake"]["call"]));
    world.farewell(&instance).await
}
