//! A Redis that answers and refuses: each kind of refusal of a real one is told by its code, with what to do.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use relay::vault::{AwayReason, Keyring, StoreError, Vault};
use tests::redis_server::RedisServer;

use super::{id, settings, until};

fn open(url: &str) -> Vault {
    Vault::open_with(url, Keyring::ephemeral(), "a", settings()).expect("opened")
}

fn set(server: &RedisServer, setting: &str, value: &str) {
    server.ask::<()>(redis::cmd("CONFIG").arg("SET").arg(setting).arg(value));
}

/// That it comes to refuse with this code, and that whoever runs it is told what to do.
async fn refuses<T>(code: &str, mut ask: impl AsyncFnMut() -> Result<T, StoreError>) {
    let refused = StoreError::Away(AwayReason::Refused(code.into()));
    let mut last = None;
    for _ in 0..200 {
        let answer = ask().await.err();
        if answer.as_ref() == Some(&refused) {
            assert_ne!(refused.in_words(), "the store refuses; the log has the code", "{code}");
            assert!(refused.in_words().ends_with(refused.remedy()), "{code}");
            return;
        }
        last = answer;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{code} is not told, but {last:?}");
}

#[tokio::test]
async fn a_redis_that_takes_no_writes_says_why() {
    let server = RedisServer::start();
    let vault = open(&server.url());
    set(&server, "maxmemory", "1");
    refuses("OOM", async || vault.hold_lease().await).await;
    set(&server, "maxmemory", "0");
    set(&server, "min-replicas-to-write", "1");
    refuses("NOREPLICAS", async || vault.hold_lease().await).await;
    set(&server, "min-replicas-to-write", "0");
    assert!(vault.hold_lease().await.is_ok());
    let replica = RedisServer::start();
    replica.follow(&server);
    let of_the_replica = open(&replica.url());
    refuses("READONLY", async || of_the_replica.hold_lease().await).await;
    set(&replica, "replica-serve-stale-data", "no");
    replica.ask::<()>(redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1));
    refuses("MASTERDOWN", async || of_the_replica.load(id(1)).await).await;
    server.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg("default").arg("-set"));
    refuses("NOPERM", async || vault.hold_lease().await).await;
    server.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg("default").arg("+@all"));
    server.lose_disk();
    set(&server, "save", "900 1");
    server.ask::<()>(&redis::cmd("BGSAVE"));
    refuses("MISCONF", async || vault.hold_lease().await).await;
    set(&server, "save", "");
    assert!(vault.hold_lease().await.is_ok());
}

#[tokio::test]
async fn a_redis_that_is_busy_with_a_script_says_so() {
    let server = RedisServer::start();
    let vault = open(&server.url());
    set(&server, "busy-reply-threshold", "20");
    let url = server.url();
    let script = std::thread::spawn(move || {
        let mut connection = redis::Client::open(url).expect("a client").get_connection().expect("a connection");
        redis::cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut connection)
    });
    refuses("BUSY", async || vault.hold_lease().await).await;
    server.ask::<()>(redis::cmd("SCRIPT").arg("KILL"));
    assert!(script.join().expect("ended").is_err(), "it was killed");
    assert!(vault.hold_lease().await.is_ok());
}

#[tokio::test]
async fn a_cluster_that_misses_a_part_says_so() {
    let server = RedisServer::start_cluster();
    let one = open(&server.url().replace("redis+cluster", "redis"));
    assert!(one.load(id(1)).await.is_ok());
    server.ask::<()>(redis::cmd("CLUSTER").arg("DELSLOTSRANGE").arg(0).arg(16_383));
    refuses("CLUSTERDOWN", async || one.load(id(1)).await).await;
}

#[tokio::test]
async fn a_cluster_that_has_lost_a_part_is_told_although_the_rest_of_it_answers() {
    let server = RedisServer::start_cluster();
    let (cluster, one) = (open(&server.url()), open(&server.url().replace("redis+cluster", "redis")));
    set(&server, "cluster-require-full-coverage", "no");
    assert_eq!((cluster.store_part_away().await, one.store_part_away().await), (Ok(None), Ok(None)));
    server.ask::<()>(redis::cmd("CLUSTER").arg("DELSLOTSRANGE").arg(0).arg(5_460));
    refuses("CLUSTERDOWN", async || cluster.store_part_away().await.map_or(Ok(()), |found| found.map_or(Ok(()), Err)))
        .await;
    assert!(cluster.ping().await.is_ok());
    // Its lease need not lie there, and nothing else tells that something may be lost.
    let before = cluster.losses(false).await;
    assert_eq!(cluster.losses(false).await, before);
    cluster.note_part_back();
    assert!(cluster.is_being_restored(), "nothing is claimed meanwhile");
    assert_eq!(cluster.losses(false).await, before.map(|losses| losses + 1));
}

#[tokio::test]
async fn sentinels_that_want_a_password_get_that_of_the_url_and_are_named_where_they_refuse_it() {
    const PASSWORD: &str = "a-long-password";
    let master = RedisServer::start();
    let sentinel = master.start_sentinel();
    until("the sentinel knows the master", async || open(&sentinel.url()).ping().await.is_ok()).await;
    let as_user = |who: &str| sentinel.url().replace("://", &format!("://{who}@"));
    let hush = format!(":{PASSWORD}");
    sentinel.ask::<()>(redis::cmd("SENTINEL").arg("SET").arg("main").arg("auth-pass").arg(PASSWORD));
    set(&master, "requirepass", PASSWORD);
    let open_sentinel = open(&as_user(&hush));
    until("an open sentinel", async || open_sentinel.ping().await.is_ok()).await;
    let unknown = open(&as_user(&hush).replace("/main", "/other"));
    refuses("no such service at the sentinels", async || unknown.ping().await).await;
    let user = ["SETUSER", "relay", "on", &format!(">{PASSWORD}"), "~*", "&*", "+@all"];
    let mut at_master = redis::Client::open(master.url().replace("://", &format!("://{hush}@"))).expect("a client");
    redis::cmd("ACL").arg(&user).query::<()>(&mut at_master).expect("a user");
    let wants_it = ["SETUSER", "default", "resetpass", &format!(">{PASSWORD}")];
    sentinel.ask::<()>(redis::cmd("ACL").arg(&wants_it));
    for who in [&*hush, &format!("default{hush}"), &format!("relay{hush}")] {
        let vault = open(&as_user(who));
        assert!(vault.ping().await.is_ok(), "{who}: {:?}", vault.ping().await);
    }
    // A connection that broke is made anew by the way that was found.
    let mut at_sentinel =
        redis::Client::open(format!("redis://{hush}@127.0.0.1:{}", sentinel.port())).expect("a client");
    redis::cmd("ACL")
        .arg("SETUSER")
        .arg("default")
        .arg("resetpass")
        .arg(">another-password")
        .query::<()>(&mut at_sentinel)
        .expect("set");
    let refused = open(&as_user(&hush));
    refuses("NOAUTH of a sentinel", async || refused.ping().await).await;
}

#[tokio::test]
async fn a_database_that_is_absent_or_refused_is_named() {
    let (one, cluster) = (RedisServer::start(), RedisServer::start_cluster());
    let vault = open(&format!("{}/99", one.url()));
    refuses("ERR DB index is out of range", async || vault.ping().await).await;
    let user = ["relay", "on", ">a-long-password", "~*", "+@all", "-select"];
    one.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg(&user));
    let url = one.url().replace("://", "://relay:a-long-password@");
    let vault = open(&format!("{url}/3"));
    refuses("NOPERM for SELECT", async || vault.ping().await).await;
    assert!(open(&format!("{url}/0")).ping().await.is_ok(), "which is the first one");
    one.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg("relay").arg("+select"));
    assert!(vault.ping().await.is_ok());
    let vault = open(&format!("{}/3", cluster.url().replace("redis+cluster", "redis")));
    refuses("ERR SELECT is not allowed in cluster mode", async || vault.ping().await).await;
}

const CLIENTS_MAX: usize = 4;

/// All the clients that a server takes. Those of earlier questions may still be leaving.
async fn hold_all_clients(server: &RedisServer) -> Vec<TcpStream> {
    let mut held = Vec::new();
    until("the server has all its clients", async || {
        let mut client = TcpStream::connect(("127.0.0.1", server.port())).expect("connected");
        let mut answer = [0; 5];
        // One that is turned away may be closed before it has asked.
        if client.write_all(b"PING\r\n").and_then(|()| client.read_exact(&mut answer)).is_ok() && &answer == b"+PONG" {
            held.push(client);
        }
        held.len() == CLIENTS_MAX
    })
    .await;
    held
}

#[tokio::test]
async fn a_redis_that_has_all_its_clients_says_so_whatever_is_asked_of_it_first() {
    let (one, cluster) = (RedisServer::start(), RedisServer::start_cluster());
    let mut urls = vec![one.url(), format!("{}/3", one.url()), cluster.url()];
    for server in [&one, &cluster] {
        let user = ["relay", "on", ">a-long-password", "~*", "+@all"];
        server.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg(&user));
        urls.push(server.url().replace("://", "://relay:a-long-password@"));
    }
    urls.push(format!("{}/3", one.url().replace("://", "://relay:a-long-password@")));
    urls.push(format!("{}/?protocol=resp3", one.url()));
    for server in [&one, &cluster] {
        set(server, "maxclients", &CLIENTS_MAX.to_string());
    }
    let held = [hold_all_clients(&one).await, hold_all_clients(&cluster).await];
    for url in &urls {
        let vault = open(url);
        refuses("MAXCLIENTS", async || vault.ping().await).await;
    }
    drop(held);
    for url in &urls {
        let vault = open(url);
        until("it takes connections", async || vault.ping().await.is_ok()).await;
        let wrong = open(&url.replace("a-long-password", "another"));
        if url.contains('@') {
            let refused = wrong.ping().await;
            assert!(matches!(&refused, Err(StoreError::Away(AwayReason::Refused(code))) if **code != *"MAXCLIENTS"));
        }
    }
}
