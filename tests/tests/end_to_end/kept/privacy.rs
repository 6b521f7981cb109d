//! What somebody wrote, and who, stands nowhere once the instance is wiped, and meanwhile only sealed.
//!
//! Invariant: memory is read through `/proc/PID/mem`, which a process that forbids dumps gives to root alone.

use serde_json::json;
use tests::bystander::{SOON, Stage};
use tests::caller::CallOptions;
use tests::digest::token;
use tests::redis_server::RedisServer;
use tests::wire::Transport;

/// Everything that must not be found, by name.
fn needles(text: &str, sender: &str, name: &str) -> Vec<(String, Vec<u8>)> {
    let of = |what: &str, bytes: &str| (what.to_owned(), bytes.as_bytes().to_vec());
    vec![of("what was written", text), of("who wrote", sender), of("the sender's name", name)]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_sealed_while_it_waits_and_gone_after_the_wipe() {
    // Over UDP in real time.
    tokio::join!(sealed_and_gone(Transport::Tls, 0.1), sealed_and_gone(Transport::Udp, 1.0));
}

async fn sealed_and_gone(transport: Transport, timing: f64) {
    let redis = RedisServer::start();
    let url = redis.url();
    let stage = Stage::start_alone(move |setup| {
        setup.store = url;
        setup.timing = timing;
    })
    .await;
    let (text, sender, name) =
        (format!("secret-{}", token()), format!("sender-{}", token()), format!("Name {}", token()));
    for secret in [&text, &sender, &name] {
        stage.keep_secret(secret);
    }
    let mut wish = stage.wish("mallory");
    wish["account"]["registrar"] = json!(stage.registrar.uri(transport));
    wish["device"]["alert_push"] = json!({"provider": "apns", "token": token().repeat(4)});
    let lent = stage.lend_as(&wish).await;
    let from = format!("\"{name}\" <sip:{sender}@example.test>");
    let long = format!("{text} {}", "and so on, ".repeat(300));
    let message = CallOptions::request("MESSAGE").from(&from).body("text/plain", &long);
    stage.registrar.call(&lent.aor, &message).unwrap().expect(202, SOON).await.unwrap();
    let missed = stage.registrar.call(&lent.aor, &CallOptions::default().from(&from)).unwrap();
    missed.cancel().await.unwrap();
    let fetched = stage.relay.api().of("GET", &lent.instance, "/messages").await.unwrap();
    assert_eq!(fetched.json()["messages"][0]["body"], long.as_str(), "{}", fetched.text());
    let export = stage.relay.api().of("GET", &lent.instance, "/export").await.unwrap();
    assert!(export.status == 200 && export.text().contains(&text));
    // Another phone's keep-alives and datagrams go on meanwhile; what was written must not need them to go away.
    let held = stage.relay.memory_keeps(&needles(&text, &sender, &name)[..1], SOON).await.unwrap();
    assert_eq!(held, Vec::<String>::new(), "while it waits, over {transport:?}");
    let keys = redis.keys();
    assert!(keys.iter().any(|key| key.starts_with("sipwake:m:")), "{keys:?}");
    for key in &keys {
        let lying: Vec<u8> = redis.ask(redis::cmd("DUMP").arg(key));
        for (what, needle) in needles(&text, &sender, &name) {
            assert!(memchr::memmem::find(&lying, &needle).is_none(), "{key} shows {what}");
        }
    }
    let receipt = stage.relay.api().disable(&lent.instance).await.unwrap();
    assert_eq!(receipt.status, 200, "{}", receipt.text());
    let left: Vec<_> = redis.keys().into_iter().filter(|key| key.contains(&lent.instance.id)).collect();
    assert_eq!(left, Vec::<String>::new(), "erased with the instance, at once");
    // The responses to the sender are kept for as long as it may send again (RFC 3261 §17.2.2, timer J: 32 s).
    let held = stage.relay.memory_keeps(&needles(&text, &sender, &name), SOON * 4).await.unwrap();
    assert_eq!(held, Vec::<String>::new(), "after the wipe, over {transport:?}");
    stage.unharmed().await;
}
