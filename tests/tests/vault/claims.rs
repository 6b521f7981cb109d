//! Records that a node takes over: its own after a restart, those of a node that is gone, and those alone.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use relay::vault::{Lease, RecordToWrite, StoreError};
use sip::id::{InstanceId, ShardTag};

use super::{Bench, LEASE, PATIENCE, claim_all, claim_until, enable, id, load, record, to_write};

pub async fn a_restarted_node_claims_its_own_at_once_each_once_and_in_batches(bench: &Bench) {
    let before = bench.node("a");
    before.hold_lease().await.expect("leased");
    let mut fences = Vec::new();
    for number in 0..25 {
        fences.push(enable(&before, number, &format!("user{number}")).await.1);
    }
    let after = bench.node("a");
    assert_eq!(after.hold_lease().await, Ok(Lease::Held));
    let first = after.claim(10).await.expect("claimed");
    assert_eq!(first.len(), 10);
    assert!(first.iter().all(|stored| stored.owned && stored.fence > fences[0]));
    assert!(first.iter().all(|stored| after.open_lent(stored.id, &stored.sealed, |_| ()).is_ok()));
    let mut ids: Vec<_> = first.iter().map(|stored| stored.id).collect();
    ids.extend(claim_all(&after, 10).await);
    ids.sort_unstable();
    assert_eq!(ids, (0..25).map(id).collect::<Vec<_>>());
    assert_eq!(claim_all(&after, 10).await, []);
}

pub async fn what_is_wanted_is_claimed_first_all_of_it_and_what_is_invented_costs_nothing(bench: &Bench) {
    let before = bench.node("a");
    before.hold_lease().await.expect("leased");
    let tagged = |number: u128| InstanceId::new(number << 32, ShardTag(number as u16 / 3));
    for number in 0..60 {
        let record = record(&format!("user{number}"));
        let sealed = before.seal(tagged(number), &record);
        let lookup = before.lookup_of(&record);
        before.put(to_write(tagged(number), &sealed, record.expires_at, &lookup)).await.expect("put");
    }
    let after = bench.node("a");
    assert_eq!(after.hold_lease().await, Ok(Lease::Held));
    let claim = async || {
        let claimed = after.claim(10).await.expect("claimed");
        claimed.iter().map(|stored| stored.id).collect::<Vec<_>>()
    };
    let mut ids = claim().await;
    for tag in [19, 300, 17, 17] {
        after.want(ShardTag(tag));
    }
    let mut wanted = claim().await;
    wanted.sort_unstable();
    assert_eq!(wanted, [51, 52, 53, 57, 58, 59].map(tagged), "both tags, whole, and nothing else");
    ids.extend(wanted);
    // Invented, or here by now.
    for tag in [17, 4_000] {
        after.want(ShardTag(tag));
    }
    ids.extend(claim_all(&after, 10).await);
    ids.sort_unstable();
    assert_eq!(ids, (0..60).map(tagged).collect::<Vec<_>>());
}

pub async fn what_this_run_enabled_is_not_claimed_by_it(bench: &Bench) {
    let vault = bench.node("a");
    vault.hold_lease().await.expect("leased");
    enable(&vault, 1, "alice").await;
    assert_eq!(claim_all(&vault, 10).await, []);
    assert_eq!(load(&vault, 1).await.expect("stored").fence.number(), 1);
}

pub async fn the_records_of_a_living_node_are_left_to_it(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    a.hold_lease().await.expect("leased");
    enable(&a, 1, "alice").await;
    let until = Instant::now() + 3 * LEASE;
    while Instant::now() < until {
        assert_eq!(a.hold_lease().await, Ok(Lease::Held));
        assert_eq!(b.hold_lease().await, Ok(Lease::Held));
        assert_eq!(claim_all(&b, 10).await, []);
        tokio::time::sleep(LEASE / 8).await;
    }
}

pub async fn the_records_of_a_dead_node_are_claimed_and_its_late_put_is_refused(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    a.hold_lease().await.expect("leased");
    let (lookup, old) = enable(&a, 1, "alice").await;
    enable(&a, 2, "bob").await;
    let mut claimed = claim_until(&b, 2).await;
    claimed.sort_unstable();
    assert_eq!(claimed, [id(1), id(2)]);
    let stored = load(&b, 1).await.expect("stored");
    assert!(stored.owned && stored.fence > old);
    assert!(!load(&a, 1).await.expect("stored").owned);
    for fence in [old, stored.fence] {
        let late = a.put(RecordToWrite { fence, ..to_write(id(1), &stored.sealed, stored.expires_at, &lookup) }).await;
        assert_eq!(late, Err(StoreError::NotOwner));
    }
    let older =
        b.put(RecordToWrite { fence: old, ..to_write(id(1), &stored.sealed, stored.expires_at, &lookup) }).await;
    assert_eq!(older, Err(StoreError::NotOwner));
    let newer = b
        .put(RecordToWrite { fence: stored.fence, ..to_write(id(1), &stored.sealed, stored.expires_at, &lookup) })
        .await;
    assert_eq!(newer.map(|placed| placed.fence), Ok(stored.fence));
}

pub async fn a_node_that_released_its_lease_is_followed_at_once(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    a.hold_lease().await.expect("leased");
    enable(&a, 1, "alice").await;
    a.release_lease().await.expect("released");
    assert_eq!(claim_all(&b, 10).await, [id(1)]);
}

pub async fn what_a_living_node_has_offered_is_claimed_by_the_node_that_it_was_offered_to_and_nothing_else(
    bench: &Bench,
) {
    let (a, b, c) = (bench.node("a"), bench.node("b"), bench.node("c"));
    for node in [&a, &b, &c] {
        node.hold_lease().await.expect("leased");
    }
    for number in 1..=3 {
        enable(&a, number, &format!("user{number}")).await;
    }
    let (soon, now) = (Instant::now() + PATIENCE, Instant::now());
    // Too late; by a run that has not its lease; of what it has not.
    b.take_offered(a.owner(), vec![id(3)], now);
    b.take_offered(bench.node("a").owner(), vec![id(3)], soon);
    b.take_offered(a.owner(), vec![id(1), id(2), id(9)], soon);
    assert_eq!(claim_all(&c, 10).await, []);
    // On a slow machine it has lapsed by now, and a node without a lease has nothing to offer.
    a.hold_lease().await.expect("leased");
    let claimed = b.claim(10).await.expect("claimed");
    let mut ids: Vec<_> = claimed.iter().map(|stored| stored.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [id(1), id(2)]);
    assert!(claimed.iter().all(|stored| stored.owned && stored.taken_from.as_ref() == Some(a.owner())));
    assert_eq!(claim_all(&b, 10).await, [], "each once");
    assert!(load(&a, 3).await.expect("stored").owned);
    assert!(!load(&a, 1).await.expect("stored").owned);
}

pub async fn two_nodes_that_claim_at_once_never_get_the_same_record(bench: &Bench) {
    let a = bench.node("a");
    a.hold_lease().await.expect("leased");
    for number in 0..40 {
        enable(&a, number, &format!("user{number}")).await;
    }
    a.release_lease().await.expect("released");
    let (b, c) = (bench.node("b"), bench.node("c"));
    b.hold_lease().await.expect("leased");
    c.hold_lease().await.expect("leased");
    // On a slow machine the lease lapsed before it was released, and the others wait for one lease time.
    let deadline = Instant::now() + PATIENCE;
    let mut all = Vec::new();
    while all.len() < 40 {
        assert!(Instant::now() < deadline, "{} of 40 were claimed", all.len());
        // Else one of them is dead for the other on a slow machine.
        b.hold_lease().await.expect("leased");
        c.hold_lease().await.expect("leased");
        let (of_b, of_c) = tokio::join!(claim_all(&b, 3), claim_all(&c, 3));
        all.extend(of_b.into_iter().chain(of_c));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    all.sort_unstable();
    assert_eq!(all, (0..40).map(id).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_are_broken_off_again_and_again_still_take_each_record_once() {
    let bench = Bench::redis();
    let before = bench.node("a");
    let users = 0..300;
    for number in users.clone() {
        enable(&before, number, &format!("user{number}")).await;
    }
    let (after, done, tries) = (bench.node("a"), AtomicBool::new(false), AtomicUsize::new(0));
    let mut claimed = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // One blow for each try: a slow machine gets its claims through as a fast one does.
            let mut struck = 0;
            while !done.load(Ordering::Relaxed) {
                let begun = tries.load(Ordering::Relaxed);
                if begun > struck {
                    bench.server().kill_connections();
                    struck = begun;
                }
                std::thread::yield_now();
            }
        });
        let claim = async {
            let deadline = Instant::now() + PATIENCE;
            while claimed.len() < users.end as usize && Instant::now() < deadline {
                // Given up half-way as often as not, but never every time.
                let patience = match tries.fetch_add(1, Ordering::Relaxed) % 4 {
                    3 => PATIENCE,
                    impatient => Duration::from_millis(2 + 3 * impatient as u64),
                };
                let batch = tokio::time::timeout(patience, after.claim(7)).await;
                claimed.extend(batch.into_iter().flatten().flatten().map(|stored| stored.id));
            }
            done.store(true, Ordering::Relaxed);
        };
        tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(claim));
    });
    let distinct: BTreeSet<_> = claimed.iter().copied().collect();
    assert_eq!((claimed.len(), distinct.len()), (300, 300));
}
