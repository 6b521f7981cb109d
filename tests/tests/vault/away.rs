//! A Redis that is away, each for another reason, and that serves again.

use std::time::{Duration, Instant};

use relay::net::tls_fault::TlsFault;
use relay::vault::{AwayReason, Keyring, OPERATION_LIMIT, Settings, StoreError, StoreTls, Vault};
use tests::redis_server::RedisServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Bench, a_record_that_was_put_is_loaded_and_opens, enable, id, lasting, load, settings, tls_of, until};

#[tokio::test]
async fn a_redis_that_stops_is_away_at_once_and_serves_again_when_it_returns() {
    let mut bench = Bench::redis();
    let vault = bench.node("a");
    enable(&vault, 1, "alice").await;
    bench.server.as_mut().expect("a server").stop();
    for _ in 0..3 {
        let asked = Instant::now();
        let answer = vault.load(id(1)).await;
        assert!(matches!(answer, Err(StoreError::Away(AwayReason::Unreachable))), "{answer:?}");
        assert!(asked.elapsed() <= 2 * OPERATION_LIMIT);
    }
    assert!(matches!(vault.ping().await, Err(StoreError::Away(_))));
    assert!(matches!(vault.hold_lease().await, Err(StoreError::Away(_))));
    assert!(matches!(vault.claim(1).await, Err(StoreError::Away(_))));
    bench.server.as_mut().expect("a server").restart();
    assert!(vault.ping().await.is_ok());
    assert!(load(&vault, 1).await.is_none(), "this one came back empty");
    enable(&vault, 1, "alice").await;
    assert!(load(&vault, 1).await.is_some());
}

#[tokio::test]
async fn a_redis_that_hangs_is_away_within_the_limit_and_serves_again_when_it_goes_on() {
    let server = RedisServer::start();
    let short = Settings { operation_limit: Duration::from_millis(200), ..settings() };
    let vault = Vault::open_with(&server.url(), Keyring::ephemeral(), "a", short).expect("opened");
    enable(&vault, 1, "alice").await;
    server.freeze();
    for _ in 0..3 {
        let asked = Instant::now();
        let answer = vault.load(id(1)).await;
        assert!(matches!(answer, Err(StoreError::Away(AwayReason::TimedOut))), "{answer:?}");
        assert!(asked.elapsed() < OPERATION_LIMIT);
    }
    server.thaw();
    until("it answers", async || vault.ping().await.is_ok()).await;
    assert!(load(&vault, 1).await.is_some());
}

#[tokio::test]
async fn a_vault_opens_without_redis_and_tells_that_it_is_away() {
    let mut server = RedisServer::start();
    server.stop();
    let vault = Vault::open(&server.url(), Keyring::ephemeral(), "a").expect("opened");
    assert_eq!(vault.ping().await, Err(StoreError::Away(AwayReason::Unreachable)));
    server.restart();
    assert!(vault.ping().await.is_ok());
}

#[tokio::test]
async fn a_redis_that_wants_a_password_is_away_until_the_url_has_it() {
    let server = RedisServer::start();
    server.ask::<()>(redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("p%hush"));
    let open = |url: &str| Vault::open(url, Keyring::ephemeral(), "a").expect("opened");
    let without = open(&server.url()).ping().await;
    assert!(matches!(&without, Err(StoreError::Away(AwayReason::Refused(code))) if **code == *"NOAUTH"), "{without:?}");
    let wrong = open(&format!("redis://:p%25wrong@127.0.0.1:{}", server.port())).ping().await;
    assert!(matches!(wrong, Err(StoreError::Away(AwayReason::Refused(_)))), "{wrong:?}");
    assert!(!format!("{wrong:?}").contains("wrong"));
    assert!(open(&format!("redis://:p%25hush@127.0.0.1:{}", server.port())).ping().await.is_ok());
}

#[tokio::test]
async fn redis_over_tls_is_trusted_by_its_ca_alone() {
    let bench = Bench::on(RedisServer::start_tls());
    a_record_that_was_put_is_loaded_and_opens(&bench).await;
    let stranger = Vault::open(&bench.server().url(), Keyring::ephemeral(), "a").expect("opened");
    assert_eq!(stranger.ping().await, Err(StoreError::Away(AwayReason::Tls(TlsFault::UnknownCa))));
}

#[tokio::test]
async fn why_tls_fails_is_told() {
    let why = async |url: &str, tls: StoreTls| {
        let settings = Settings { tls, ..lasting() };
        match Vault::open_with(url, Keyring::ephemeral(), "a", settings).expect("opened").ping().await {
            Err(StoreError::Away(AwayReason::Tls(fault))) => fault,
            other => panic!("{url}: {other:?}"),
        }
    };
    let (other, over) =
        (RedisServer::start_tls_for(&["redis.example.net"], false), RedisServer::start_tls_for(&["localhost"], true));
    assert_eq!(why(&other.url(), tls_of(&other)).await, TlsFault::OtherName);
    assert_eq!(why(&over.url(), tls_of(&over)).await, TlsFault::Expired);
    let mutual = RedisServer::start_mutual_tls();
    let without = StoreTls { client: None, ..tls_of(&mutual) };
    assert_eq!(why(&mutual.url(), without.clone()).await, TlsFault::OursRefused);
    assert_eq!(why(&mutual.start_sentinel().url(), without).await, TlsFault::OursRefused, "by a sentinel");
    let cluster = RedisServer::start_mutual_tls_cluster();
    assert_eq!(why(&cluster.url(), StoreTls::default()).await, TlsFault::UnknownCa, "a Cluster");
    // Whatever this one is, it says so at once and in the clear.
    let clear = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("rediss://localhost:{}", clear.local_addr().expect("bound").port());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = clear.accept().await {
            stream.write_all(b"220 mail.example.net\r\n").await.expect("written");
            // Until the other side has read it.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    assert_eq!(why(&url, tls_of(&mutual)).await, TlsFault::NoCommonTls);
}

#[tokio::test]
async fn a_redis_that_is_full_erases_all_the_same() {
    let server = RedisServer::start();
    let vault = Vault::open_with(&server.url(), Keyring::ephemeral(), "a", settings()).expect("opened");
    let (lookup, _) = enable(&vault, 1, "alice").await;
    vault.hold_lease().await.expect("held");
    assert_eq!(vault.losses(false).await, Ok(0));
    let limit = |bytes: &str| server.ask::<()>(redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes));
    limit("1");
    assert_eq!(vault.erase(id(1), &lookup).await, Ok(true));
    let left = server.instance_keys();
    assert_eq!(left, Vec::<String>::new(), "no name is left either");
    limit("0");
    assert_eq!(vault.losses(false).await, Ok(1), "it may have lost the erasure");
}
