//! What the process holds and says of an account: nothing, before and after the wipe.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;
use sip::auth::{Ha1, Hash};
use tests::board::Missed;
use tests::caller::CallOptions;
use tests::digest::token;
use tests::redis_server::RedisServer;
use tests::registrar::{self, Registrar};
use tests::relay_process::RelayProcess;
use tests::stage::{STEP, Stage};
use tests::wire::Transport;

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_is_left_in_memory_in_the_store_or_in_the_log() -> Result<(), Missed> {
    let redis = RedisServer::start();
    let stage = Stage::with(|_| {}).await?;
    let password = format!("{}{}", token(), token());
    let users = registrar::Settings {
        authority: Some(stage.authority.clone()),
        users: HashMap::from([("carol".to_owned(), password.clone())]),
        ..registrar::Settings::default()
    };
    let registrar = Registrar::start(users).await.map_err(|error| Missed::new("a registrar", error.to_string()))?;
    let mut setup = stage.setup.clone();
    setup.ports = tests::relay_setup::Ports::default();
    setup.store = redis.url();
    setup.log = "trace".to_owned();
    let relay = RelayProcess::start(setup).await?;

    let push_token = format!("{}{}", token(), token());
    let wish = json!({
        "account": {
            "aor": registrar.aor("carol"), "password": password,
            "registrar": registrar.uri(Transport::Tls),
        },
        "device": {"call_push": {"provider": "fcm", "token": push_token}},
    });
    let instance = relay.api().enabled(&wish).await.map_err(|error| Missed::new("201", error.to_string()))?;
    registrar.await_contacts(&registrar.aor("carol"), 1, STEP).await?;
    let caller = registrar.call(&registrar.aor("carol"), &CallOptions::default())?;
    stage.push("call").await?;
    let phone = stage.wake(&instance).await?;
    let call = phone.next_invite(STEP).await?;
    call.answer();
    caller.answered(STEP).await?;
    caller.bye(STEP).await?;
    call.expect_bye(STEP).await?;

    let mut secrets = vec![("password", password.clone()), ("instance secret", instance.secret.clone())];
    for hash in [Hash::Md5, Hash::Sha256] {
        let ha1 = Ha1::compute(hash, "carol", "example.test", &password);
        secrets.push(("HA1", ha1.expose().to_owned()));
    }
    let stored = stored(&redis);
    for (what, secret) in &secrets {
        assert!(!contains(&stored, secret), "the store holds the {what}");
    }
    assert!(!contains(&stored, &push_token) && !contains(&stored, "carol"), "the store tells whose it is");

    drop(phone);
    let answer = relay.api().disable(&instance).await.map_err(|error| Missed::new("200", error.to_string()))?;
    assert_eq!(answer.status, 200, "{}", answer.text());
    registrar.await_contacts(&registrar.aor("carol"), 0, STEP).await?;
    // The device's connection, and what its task held, ends beside the wipe. (The push token is not looked for: the
    // connection to the push service lives on, and its buffer holds what was written last.)
    await_forgotten(&relay, &secrets).await?;
    secrets.push(("push token", push_token));
    let log = relay.log();
    for (what, secret) in &secrets {
        assert!(!log.contains(secret), "the log holds the {what}");
    }
    Ok(())
}

async fn await_forgotten(relay: &RelayProcess, secrets: &[(&str, String)]) -> Result<(), Missed> {
    let mut left = Vec::new();
    let look = async {
        loop {
            left.clear();
            for (what, secret) in secrets {
                if relay.memory_contains(secret.as_bytes()).unwrap_or(true) {
                    left.push(*what);
                }
            }
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let forgotten = tokio::time::timeout(STEP, look).await;
    forgotten.map_err(|_| Missed::new("a memory without secrets", left.join(", ")))
}

/// Every key and value of the store.
fn stored(redis: &RedisServer) -> Vec<u8> {
    let mut all = Vec::new();
    for key in redis.keys() {
        all.extend_from_slice(key.as_bytes());
        let dump: Option<Vec<u8>> = redis.ask(redis::cmd("DUMP").arg(&key));
        all.extend(dump.unwrap_or_default());
    }
    all
}

fn contains(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle.as_bytes())
}
