//! What somebody wrote, and who, stands nowhere once the instance is wiped, and meanwhile only sealed.
//!
//! Invariant: memory is read through `/proc/PID/mem`, which a process that forbids dumps gives to root alone.

use serde_json::json;
use tests::caller::CallOptions;
use tests::digest::token;
use tests::redis_server::RedisServer;
use tests::wire::Transport;
use tests::world::{Outcome, SOON, World};

/// Everything that must not be found, by name.
fn needles(text: &str, sender: &str, name: &str) -> Vec<(String, Vec<u8>)> {
    let of = |what: &str, bytes: &str| (what.to_owned(), bytes.as_bytes().to_vec());
    vec![of("what was written", text), of("who wrote", sender), of("the sender's name", name)]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_sealed_while_it_waits_and_gone_after_the_wipe() -> Outcome {
    // Over UDP in real time.
    tokio::try_join!(sealed_and_gone(Transport::Tls, 0.1), sealed_and_gone(Transport::Udp, 1.0)).map(drop)
}

async fn sealed_and_gone(transport: Transport, timing: f64) -> Outcome {
    let redis = RedisServer::start();
    let url = redis.url();
    let world = World::attacked_alone(move |setup| {
        setup.store = url;
        setup.timing = timing;
    })
    .await?;
    let (text, sender, name) =
        (format!("secret-{}", token()), format!("sender-{}", token()), format!("Name {}", token()));
    for secret in [&text, &sender, &name] {
        world.secrets.keep("a secret of the test", secret);
    }
    let mut request = world.enable_request_anew("mallory");
    request["account"]["registrar"] = json!(world.registrar.uri(transport));
    request["device"]["alert_push"] = json!({"provider": "apns", "token": token().repeat(4)});
    let lent = world.enable_as(&request).await?;
    let from = format!("\"{name}\" <sip:{sender}@example.test>");
    let long = format!("{text} {}", "and so on, ".repeat(300));
    let message = CallOptions::request("MESSAGE").from(&from).body("text/plain", &long);
    world.call_to(&lent.aor, &message)?.expect(202, SOON).await?;
    let missed = world.call_to(&lent.aor, &CallOptions::default().from(&from))?;
    missed.cancel().await?;
    let fetched = world.relay.api().of("GET", &lent, "/messages").await?;
    assert_eq!(fetched.json()["messages"][0]["body"], long.as_str(), "{}", fetched.text());
    let export = world.relay.api().of("GET", &lent, "/export").await?;
    assert!(export.status == 200 && export.text().contains(&text));
    // Another phone's keep-alives and datagrams go on meanwhile; what was written must not need them to go away.
    let held = world.relay.memory_keeps(&needles(&text, &sender, &name)[..1], SOON).await?;
    assert_eq!(held, Vec::<String>::new(), "while it waits, over {transport:?}");
    let keys = redis.keys();
    assert!(keys.iter().any(|key| key.starts_with("sipwake:m:")), "{keys:?}");
    for key in &keys {
        let lying: Vec<u8> = redis.ask(redis::cmd("DUMP").arg(key));
        for (what, needle) in needles(&text, &sender, &name) {
            assert!(memchr::memmem::find(&lying, &needle).is_none(), "{key} shows {what}");
        }
    }
    let receipt = world.relay.api().disable(&lent).await?;
    assert_eq!(receipt.status, 200, "{}", receipt.text());
    let left: Vec<_> = redis.keys().into_iter().filter(|key| key.contains(&lent.id)).collect();
    assert_eq!(left, Vec::<String>::new(), "erased with the instance, at once");
    // A connection to a push service keeps what it has sent last, until as much is sent again (SECURITY.md).
    let mut request = world.enable_request_anew("trent");
    request["account"]["registrar"] = json!(world.registrar.uri(transport));
    request["device"]["alert_push"] = json!({"provider": "apns", "token": token().repeat(4)});
    let other = world.enable_as(&request).await?;
    let from = format!("\"{}\" <sip:another-caller-of-another-phone@example.test>", "Somebody else ".repeat(9));
    for _ in 0..2 {
        world.call_to(&other.aor, &CallOptions::default().from(&from))?.cancel().await?;
    }
    // The responses to the sender are kept for as long as it may send again (RFC 3261 §17.2.2, timer J: 32 s).
    let held = world.relay.memory_keeps(&needles(&text, &sender, &name), SOON * 4).await?;
    assert_eq!(held, Vec::<String>::new(), "after the wipe, over {transport:?}");
    world.unharmed().await
}
