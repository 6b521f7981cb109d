//! SIP servers that accept connections and say nothing, named by accounts without number.

use std::time::{Duration, Instant};

use serde_json::json;
use tests::world::World;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

type Outcome = tests::world::Outcome;

/// Accepts every connection and never says a word.
async fn silent_server() -> std::net::SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn six_hundred_accounts_at_a_silent_server_keep_no_dialler_from_a_user() -> Outcome {
    let world = World::start().await?;
    let silent = silent_server().await;
    let mut enablings = JoinSet::new();
    for n in 0..600 {
        let mut request = world.enable_request(&format!("{n:064x}"));
        request["account"]["aor"] = json!(format!("sip:u{n}@n{n}.example.test"));
        request["account"]["auth_username"] = json!(format!("u{n}"));
        request["account"]["registrar"] = json!(format!("sip:{silent};transport=tls"));
        // The relay's HTTPS takes so many handshakes of one address at once: those before are done when this one is.
        if n % 30 == 29 {
            world.relay.api().get("/v1/push-instances/none").await?;
        }
        let api = world.relay.api();
        enablings.spawn(async move { api.enable(&request).await.map(|answer| answer.status) });
    }
    // They are all under way, and each waits for ten seconds. What follows waits for no handshake, only for a dialler.
    world.api.get("/v1/push-instances/none").await?;
    let began = Instant::now();
    world.enable().await?;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "a user waited for {took:?}");
    while let Some(ended) = enablings.join_next().await {
        let status = ended.unwrap()?;
        assert_eq!(status, 202);
    }
    world.content()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_at_a_registrar_or_proxy_of_a_foreign_domain_is_403() -> Outcome {
    let world = World::with(|setup| setup.domains = ["127.0.0.1", "example.test"].map(str::to_owned).to_vec()).await?;
    for place in ["registrar", "outbound_proxy"] {
        let mut request = world.enable_request(tests::world::TOKEN);
        request["account"][place] = json!("sip:8.8.8.8;transport=tls");
        let answer = world.api.enable(&request).await?;
        assert_eq!((answer.status, answer.problem().as_deref()), (403, Some("domain-not-allowed")), "{place}");
    }
    world.enable().await?;
    world.content()
}
