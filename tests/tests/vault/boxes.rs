//! What one device fetches as often as it likes: the store holds little of it at once, and what a lease needs does not stand behind it.

use std::time::{Duration, Instant};

use relay::vault::Lease;
use relay::vault::items::{MESSAGES_MAX, Message};
use sip::id::{MessageId, ShardTag};
use tests::redis_server::RedisServer;

use super::{Bench, enable, id};

/// Bytes of a message's body.
const BODY: usize = 16 << 10;
/// How often the box is asked for at once.
const ASKED: usize = 640;

fn peak(server: &RedisServer) -> usize {
    let memory: String = server.ask(redis::cmd("INFO").arg("memory"));
    let peak = memory.lines().find_map(|line| line.strip_prefix("used_memory_peak:")).expect("told");
    peak.trim().parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_box_that_is_fetched_over_and_over_costs_the_store_little_and_the_lease_nothing() {
    let bench = Bench::redis();
    let vault = bench.node("a");
    assert_eq!(vault.hold_lease().await, Ok(Lease::Held));
    enable(&vault, 1, "alice").await;
    for number in 0..MESSAGES_MAX as u128 {
        let message = || Message {
            id: MessageId::new((number + 77) << 71, ShardTag(9)),
            from: "sip:bob@sender.example".into(),
            name: None,
            content_type: "text/plain".into(),
            body: vec![b'x'; BODY].into(),
            received_at: 1_795_000_000,
            expires_at: 4_000_000_000,
        };
        vault.put_item(id(1), &vault.seal_message(id(1), message)).await.expect("kept");
    }
    let before = peak(bench.server());
    let asked: Vec<_> = (0..ASKED)
        .map(|_| {
            let vault = vault.clone();
            tokio::spawn(async move { vault.messages(id(1)).await.map(|all| all.len()) })
        })
        .collect();
    // What a lease, a claim and a record need is asked for meanwhile.
    let mut longest = Duration::ZERO;
    while !asked.iter().all(|asked| asked.is_finished()) {
        let begun = Instant::now();
        vault.ping().await.expect("answered");
        longest = longest.max(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut whole = 0;
    for asked in asked {
        // One whose turn did not come is told so.
        whole += usize::from(asked.await.expect("ended") == Ok(MESSAGES_MAX));
    }
    assert!(whole > 0, "one after the other they are read");
    let grown = peak(bench.server()) - before;
    assert!(grown < 8 * MESSAGES_MAX * BODY, "{grown} bytes in the store for one box, asked for {ASKED} times at once");
    assert!(longest < Duration::from_millis(700), "what a lease waits for took {longest:?}");
}
