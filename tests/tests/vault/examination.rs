//! What kind of store it is: each fault of a real Redis is found and named.

use std::net::SocketAddr;
use std::time::Duration;

use relay::vault::{AwayReason, Keyring, RecordToWrite, Settings, StoreError, StoreFault, StoreTls, Vault};
use tests::gate::Gate;
use tests::redis_server::RedisServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

use super::{Bench, enable, id, lasting, open_on, record, settings, tls_of, to_write, until};

async fn faults_of(server: &RedisServer) -> Vec<StoreFault> {
    let vault = open_on(server, settings());
    vault.examine().await.expect("examined")
}

fn set(server: &RedisServer, setting: &str, value: &str) {
    server.ask::<()>(redis::cmd("CONFIG").arg("SET").arg(setting).arg(value));
}

#[tokio::test]
async fn a_store_that_forgets_has_no_fault_and_an_examination_leaves_nothing_behind() {
    assert_eq!(Bench::memory().first.examine().await, Ok(Vec::new()));
    let (one, cluster) = (RedisServer::start(), RedisServer::start_cluster());
    let sentinel = one.start_sentinel();
    for (name, server) in [("one", &one), ("cluster", &cluster), ("sentinel", &sentinel)] {
        assert_eq!(faults_of(server).await, [], "{name}");
    }
    for server in [&one, &cluster] {
        let keys = server.keys();
        let lasting = keys.iter().filter(|key| server.ask::<i64>(redis::cmd("PTTL").arg(key)) < 0).count();
        assert_eq!(lasting, 0, "{keys:?}");
        assert!(keys.iter().all(|key| key.starts_with("sipwake:check:")), "{keys:?}");
    }
}

/// A way to a server by which so many pieces of what it is asked come through, and nothing after them.
async fn way_that_ends(server: SocketAddr, pieces: usize) -> SocketAddr {
    let door = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = door.local_addr().expect("bound");
    tokio::spawn(async move {
        let (from, _) = door.accept().await?;
        let to = TcpStream::connect(server).await?;
        let ((mut asks, mut hears), (mut answers, mut asked)) = (from.into_split(), to.into_split());
        let back = tokio::spawn(async move { copy(&mut answers, &mut hears).await });
        let mut piece = vec![0; 65_536];
        for _ in 0..pieces {
            let read = asks.read(&mut piece).await?;
            asked.write_all(&piece[..read]).await?;
        }
        // Held open: a server does what it has heard.
        let _ = back.await;
        drop(asked);
        std::io::Result::Ok(())
    });
    address
}

#[tokio::test]
async fn an_examination_that_breaks_off_leaves_no_key_for_ever_wherever_that_is() {
    let server = RedisServer::start();
    let limit = Duration::from_millis(150);
    for pieces in 1.. {
        assert!(pieces < 200, "it comes to no end");
        let way = way_that_ends(([127, 0, 0, 1], server.port()).into(), pieces).await;
        let settings = Settings { operation_limit: limit, ..settings() };
        let vault = Vault::open_with(&format!("redis://{way}"), Keyring::ephemeral(), "first", settings);
        let examined = vault.expect("opened").examine().await;
        for key in server.keys() {
            assert_ne!(server.ask::<i64>(redis::cmd("PTTL").arg(&key)), -1, "{key}, behind {pieces} pieces");
        }
        if examined.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn a_store_that_keeps_or_throws_away_is_named_with_its_consequence() {
    for server in [RedisServer::start(), RedisServer::start_cluster()] {
        set(&server, "appendonly", "yes");
        assert_eq!(faults_of(&server).await, [StoreFault::AppendOnlyFile]);
        set(&server, "appendonly", "no");
        set(&server, "save", "900 1");
        assert_eq!(faults_of(&server).await, [StoreFault::Snapshots]);
        set(&server, "save", "");
        for policy in ["allkeys-lru", "volatile-ttl", "allkeys-random"] {
            set(&server, "maxmemory-policy", policy);
            assert_eq!(faults_of(&server).await, [StoreFault::Evicts(policy.into())]);
        }
    }
}

#[tokio::test]
async fn a_store_that_fills_is_named_before_it_is_full() {
    let server = RedisServer::start();
    set(&server, "maxmemory-policy", "noeviction");
    server.ask::<()>(redis::cmd("SETRANGE").arg("others").arg(40 << 20).arg("x"));
    let told: String = server.ask(redis::cmd("INFO").arg("memory"));
    let used = told.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<u64>().ok());
    let used = used.expect("it says so");
    for (most, faults) in [(used * 2, &[][..]), (used * 100 / 94, &[StoreFault::Fills]), (0, &[])] {
        set(&server, "maxmemory", &most.to_string());
        assert_eq!(faults_of(&server).await, faults, "{used} of {most}");
    }
}

#[tokio::test]
async fn each_right_that_is_missing_is_named() {
    let page = include_str!("../../../docs/operators.md");
    let line = page.lines().map(str::trim).find(|line| line.starts_with("~sipwake:* +")).unwrap_or_default();
    let server = RedisServer::start();
    let url = server.url().replace("redis://", "redis://relay:a-long-password@");
    let granted: Vec<&str> = line.split(' ').filter(|word| word.starts_with('+')).collect();
    assert!(granted.len() > 20, "{line}");
    for missing in granted.iter().copied().chain(["+nothing"]) {
        let mut user = redis::cmd("ACL");
        user.arg("SETUSER").arg("relay").arg("reset").arg("on").arg(">a-long-password");
        user.arg(line.split(' ').filter(|word| *word != missing).collect::<Vec<_>>());
        server.ask::<()>(&user);
        let vault = Vault::open_with(&url, Keyring::ephemeral(), "first", settings()).expect("opened");
        let faults = vault.examine().await.expect("examined");
        let named = missing.trim_start_matches('+').replace('|', " ").to_uppercase();
        match missing {
            "+nothing" => assert_eq!(faults, []),
            "+info" | "+config|get" => assert!(faults.is_empty() || faults == [StoreFault::Unreadable], "{faults:?}"),
            _ => assert!(
                faults.iter().any(|fault| matches!(fault, StoreFault::Forbidden(name) if *name == named)),
                "{missing}: {faults:?}"
            ),
        }
        assert_eq!(faults.iter().any(StoreFault::is_grave), !["+nothing", "+info", "+config|get"].contains(&missing));
    }
}

#[tokio::test]
async fn a_store_that_must_forget_gets_no_account_while_it_does_not() {
    let servers = [RedisServer::start(), RedisServer::start_cluster()];
    for server in &servers {
        set(server, "appendonly", "yes");
        let vault = open_on(server, Settings { require_ephemeral: true, ..settings() });
        let record = record("alice");
        let (sealed, lookup) = (vault.seal(id(1), &record), vault.lookup_of(&record));
        let put = async || vault.put(to_write(id(1), &sealed, u64::MAX, &lookup)).await;
        let refused = Err(StoreError::Away(AwayReason::MayPersist));
        assert_eq!(put().await, refused, "from the first on");
        assert_eq!(vault.takes_new().await, Err(StoreError::Away(AwayReason::MayPersist)));
        assert_eq!(vault.examine().await, Ok(vec![StoreFault::AppendOnlyFile]));
        set(server, "appendonly", "no");
        until("it takes accounts", async || put().await.is_ok()).await;
        set(server, "save", "3600 1");
        until("it takes none", async || put().await == refused).await;
        set(server, "save", "");
        until("it takes accounts again", async || put().await.is_ok()).await;
    }
}

#[tokio::test]
async fn another_redis_that_takes_over_is_looked_at_before_an_account_is_written_there() {
    let (forgets, keeps) = (RedisServer::start(), RedisServer::start_durable());
    let at = |server: &RedisServer| ([127, 0, 0, 1], server.port()).into();
    let mut gate = Gate::closed(at(&forgets));
    gate.open().expect("opened");
    let wants = Settings { require_ephemeral: true, ..settings() };
    let url = format!("redis://{}", gate.address());
    let vault = Vault::open_with(&url, Keyring::ephemeral(), "first", wants).expect("opened");
    let record = record("alice");
    let (sealed, lookup) = (vault.seal(id(1), &record), vault.lookup_of(&record));
    let restore =
        async |fence| vault.restore(RecordToWrite { fence, ..to_write(id(1), &sealed, u64::MAX, &lookup) }).await;
    for round in 0..3 {
        let (bobs, fence) = enable(&vault, 2, "bob").await;
        gate.lead_to(at(&keeps)).await.expect("opened");
        // It is known of the other one that it forgets, since less than a second.
        let put = vault.put(to_write(id(1), &sealed, u64::MAX, &lookup)).await;
        assert_eq!(put, Err(StoreError::Away(AwayReason::MayPersist)), "round {round}");
        assert_eq!(restore(fence).await, Err(StoreError::Away(AwayReason::MayPersist)), "round {round}");
        assert_eq!(keeps.instance_keys(), [] as [String; 0], "round {round}");
        assert!(vault.load(id(2)).await.is_ok() && vault.erase(id(2), &bobs).await.is_ok(), "the rest goes on");
        assert_eq!(
            vault.put(RecordToWrite { fence, ..to_write(id(2), &sealed, u64::MAX, &bobs) }).await,
            Err(StoreError::Gone)
        );
        gate.lead_to(at(&forgets)).await.expect("opened");
        assert!(restore(fence).await.is_ok(), "at once, round {round}");
        vault.erase(id(1), &lookup).await.expect("erased");
        vault.erase(id(2), &bobs).await.expect("erased");
    }
}

#[tokio::test]
async fn a_redis_that_asks_for_a_certificate_gets_one_wherever_it_stands() {
    let (one, cluster) = (RedisServer::start_mutual_tls(), RedisServer::start_mutual_tls_cluster());
    let sentinel = one.start_sentinel();
    for (name, server) in [("one", &one), ("cluster", &cluster), ("sentinel", &sentinel)] {
        let vault = open_on(server, lasting());
        // A sentinel does not know the master at once.
        until(name, async || vault.ping().await.is_ok()).await;
        let without = Settings { tls: StoreTls { client: None, ..tls_of(server) }, ..lasting() };
        let vault = Vault::open_with(&server.url(), Keyring::ephemeral(), "first", without).expect("opened");
        assert!(vault.ping().await.is_err(), "{name} lets in who shows nothing");
    }
}

#[test]
fn what_is_no_certificate_or_not_the_keys_is_said() {
    let server = RedisServer::start_mutual_tls();
    let (other, tls) = (RedisServer::start_mutual_tls(), tls_of(&server));
    let (certificate, key) = tls.client.clone().expect("a client");
    let others_key = tls_of(&other).client.expect("a client").1;
    for tls in [
        StoreTls { ca: Some(b"hush".to_vec()), client: None },
        StoreTls { client: Some((b"hush".to_vec(), key.clone())), ..tls.clone() },
        StoreTls { client: Some((certificate.clone(), b"hush".to_vec().into())), ..tls.clone() },
        StoreTls { client: Some((certificate, others_key)), ..tls },
    ] {
        let opened = Vault::open_with(&server.url(), Keyring::ephemeral(), "first", Settings { tls, ..settings() });
        let error = opened.err().expect("refused");
        assert!(matches!(error, StoreError::Tls(_)) && !format!("{error} {error:?}").contains("hush"), "{error}");
    }
    let plain = Vault::open_with(
        "redis://localhost",
        Keyring::ephemeral(),
        "first",
        Settings { tls: tls_of(&server), ..settings() },
    );
    assert!(matches!(plain.err(), Some(StoreError::Url(_))));
}
