//! A server that is silent, beside others that answer: a sentinel, a node of a Cluster, a Redis that is slow.

use std::time::{Duration, Instant};

use relay::vault::{AwayReason, Keyring, Settings, StoreError, Vault};
use sip::id::InstanceId;
use tests::redis_cluster::RedisCluster;
use tests::redis_server::RedisServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{enable, id, settings, until};

fn open(url: &str) -> Vault {
    Vault::open_with(url, Keyring::ephemeral(), "a", settings()).expect("opened")
}

#[tokio::test]
async fn a_silent_sentinel_hides_the_master_from_nobody_wherever_it_stands_in_the_url() {
    let master = RedisServer::start();
    let (silent, other, refusing) = (master.start_sentinel(), master.start_sentinel(), "127.0.0.1:1");
    let port = |sentinel: &RedisServer| format!("127.0.0.1:{}", sentinel.port());
    let url = |sentinels: [&str; 3]| format!("redis+sentinel://{}/main", sentinels.join(","));
    until("the sentinel knows the master", async || open(&other.url()).ping().await.is_ok()).await;
    silent.freeze();
    let (silent_at, other_at) = (port(&silent), port(&other));
    for sentinels in
        [[&*silent_at, refusing, &*other_at], [&*silent_at, &*other_at, refusing], [refusing, &*silent_at, &*other_at]]
    {
        let vault = open(&url(sentinels));
        assert!(vault.ping().await.is_ok(), "{sentinels:?}");
        master.kill_connections();
        assert!(vault.ping().await.is_ok(), "again, {sentinels:?}");
    }
    silent.thaw();
    assert_eq!(
        open(&url([refusing, refusing, refusing])).ping().await,
        Err(StoreError::Away(AwayReason::Unreachable)),
        "there is none"
    );
}

/// An instance whose record the last master has, and one that it has not.
fn of_the_last_and_of_another(cluster: &RedisCluster) -> (InstanceId, InstanceId) {
    let is_of_the_last = |id: &InstanceId| cluster.is_of_the_last(&format!("sipwake:i:{{{id}}}"));
    let (last, others): (Vec<_>, Vec<_>) = (1..60).map(id).partition(is_of_the_last);
    (last[0], others[0])
}

#[tokio::test]
async fn a_silent_node_of_a_cluster_keeps_nobody_from_the_others_and_its_replica_is_followed() {
    let cluster = RedisCluster::start();
    let (of_the_last, of_another) = of_the_last_and_of_another(&cluster);
    let earlier = open(&cluster.url());
    for id in [of_the_last, of_another] {
        assert!(matches!(earlier.load(id).await, Ok(None)));
    }
    cluster.last_master().freeze();
    // While one waits in vain for the silent node, and after it, the others answer.
    let waits = async { earlier.load(of_the_last).await.is_err() };
    let asks = async {
        for round in 0..100 {
            let answer = earlier.load(of_another).await;
            // The Cluster itself refuses while it is about to replace the node.
            let refused = matches!(&answer, Err(StoreError::Away(AwayReason::Refused(_))));
            assert!(refused || matches!(answer, Ok(None)), "round {round}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (_, ()) = tokio::join!(waits, asks);
    cluster.wait_until_replaced();
    for (name, vault) in [("of earlier", &earlier), ("opened now", &open(&cluster.url()))] {
        until(name, async || matches!(vault.load(of_the_last).await, Ok(None))).await;
        assert!(matches!(vault.load(of_another).await, Ok(None)), "{name}");
    }
    cluster.last_master().thaw();
}

#[tokio::test]
async fn of_a_cluster_that_has_lost_a_part_the_rest_of_a_dead_node_is_taken_over_and_it_is_not_connected_to_ever_anew()
{
    let mut cluster = RedisCluster::start();
    let is_served = |name: &String| {
        let keys = ["n", "lease", "ended", "note"].map(|kind| format!("sipwake:{kind}:{name}"));
        keys.iter().all(|key| !cluster.is_of_the_last(key))
    };
    let names: Vec<String> = (0..200).map(|number| format!("node{number}")).filter(is_served).take(2).collect();
    let dead = Vault::open_with(&cluster.url(), Keyring::ephemeral(), &names[0], settings()).expect("opened");
    let living = dead.as_node(&names[1]);
    let (mut lost, mut served) = (0, Vec::new());
    for number in 1..60 {
        if cluster.is_of_the_last(&format!("sipwake:i:{{{}}}", id(number))) {
            lost += 1;
        } else {
            served.push(id(number));
        }
    }
    // What names the nodes goes as well.
    assert!(lost > 0 && cluster.is_of_the_last("sipwake:nodes"));
    for node in [&dead, &living] {
        node.hold_lease().await.expect("leased");
    }
    for number in 1..60 {
        enable(&dead, number, &format!("user{number}")).await;
    }
    assert_eq!(living.claim(100).await.map(|claimed| claimed.len()), Ok(0), "its owner lives");
    cluster.lose_the_last();
    let (begun, before) = (Instant::now(), living.connections());
    let mut taken = Vec::new();
    until("what is there", async || {
        let _ = living.hold_lease().await;
        taken.extend(living.claim(100).await.unwrap_or_default().into_iter().map(|stored| stored.id));
        taken.sort_unstable();
        taken == served
    })
    .await;
    // Once in four limits of an operation, and once more.
    let most = begun.elapsed().as_millis() / (settings().operation_limit * 4).as_millis() + 2;
    assert!(u128::from(living.connections() - before) <= most, "{} of {most}", living.connections() - before);
}

#[tokio::test]
async fn what_an_earlier_run_had_is_claimed_also_when_the_server_of_its_index_was_silent_at_first() {
    let cluster = RedisCluster::start();
    // The node's own index is of the silent server, and all that a claim asks beside it is not.
    let has_a_silent_index = |name: &String| {
        let keys = ["lease", "ended", "note"].map(|kind| format!("sipwake:{kind}:{name}"));
        cluster.is_of_the_last(&format!("sipwake:n:{name}")) && keys.iter().all(|key| !cluster.is_of_the_last(key))
    };
    let name = (0..400).map(|number| format!("node{number}")).find(has_a_silent_index).expect("a name");
    let served = |number: &u128| !cluster.is_of_the_last(&format!("sipwake:i:{{{}}}", id(*number)));
    let served: Vec<u128> = (1..60).filter(served).collect();
    let earlier = Vault::open_with(&cluster.url(), Keyring::ephemeral(), &name, settings()).expect("opened");
    earlier.hold_lease().await.expect("leased");
    for number in &served {
        enable(&earlier, *number, &format!("user{number}")).await;
    }
    earlier.release_lease().await.expect("released");
    let later = earlier.as_node(&name);
    later.hold_lease().await.expect("leased");
    later.check_keyring().await.expect("compared");
    cluster.freeze_the_last();
    // A whole round: nothing else of it needs an answer of that server.
    let first = later.claim(100).await;
    assert!(matches!(first, Err(StoreError::Away(AwayReason::Unreachable))), "{first:?}");
    cluster.thaw_the_last();
    cluster.wait_until_whole();
    let mut taken = Vec::new();
    until("what the earlier run had", async || {
        let _ = later.hold_lease().await;
        taken.extend(later.claim(100).await.unwrap_or_default().into_iter().map(|stored| stored.id));
        taken.len() >= served.len()
    })
    .await;
    taken.sort_unstable();
    assert_eq!(taken, served.iter().map(|number| id(*number)).collect::<Vec<_>>());
}

/// A Redis whose first connection stays without an answer; from then on each takes `late` for one.
async fn slow(late: Duration) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let first = listener.accept().await.expect("a connection");
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut heard = vec![0; 4_096];
                while let Ok(length @ 1..) = stream.read(&mut heard).await {
                    tokio::time::sleep(late).await;
                    let asked = heard[..length].iter().filter(|byte| **byte == b'*').count();
                    stream.write_all("+PONG\r\n".repeat(asked).as_bytes()).await.expect("written");
                }
            });
        }
        drop(first);
    });
    port
}

#[tokio::test]
async fn a_connection_is_made_also_when_it_takes_longer_than_the_rest_of_each_who_waits_for_it() {
    let limit = Duration::from_millis(500);
    let url = format!("redis://127.0.0.1:{}", slow(limit / 5).await);
    let vault = Vault::open_with(&url, Keyring::ephemeral(), "a", Settings { operation_limit: limit, ..settings() });
    let vault = vault.expect("opened");
    let mut asked = Vec::new();
    for _ in 0..200 {
        let vault = vault.clone();
        asked.push(tokio::spawn(async move { vault.ping().await.is_ok() }));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut answered = 0;
    for asked in asked {
        answered += usize::from(asked.await.expect("asked"));
    }
    assert!(answered > 0, "nobody of 200 has got through");
}
