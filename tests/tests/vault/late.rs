//! What arrives at the store when its asker has given up, because the connection that carried it stalled while others were well.

use std::time::Duration;

use relay::clock::{DAY_S, unix_now};
use relay::vault::{Keyring, Lease, RecordToWrite, Settings, StoreError, Vault};
use tests::stall::Stall;

use super::{Bench, claim_all, enable, id, lasting, load, record, to_write, until};

/// A node whose way to the store may stall, and which waits for no answer for long.
async fn node_behind_a_stall(bench: &Bench) -> (Vault, Stall) {
    let stall = Stall::to(([127, 0, 0, 1], bench.server().port()).into()).await.expect("a way");
    let short = Settings { operation_limit: Duration::from_secs(2), ..lasting() };
    let url = format!("redis://{}", stall.address());
    let vault = Vault::open_with(&url, Keyring::ephemeral(), "a", short).expect("opened");
    (vault, stall)
}

#[tokio::test]
async fn a_record_whose_put_has_failed_is_not_there_when_the_put_arrives_late() {
    let bench = Bench::redis();
    let (vault, stall) = node_behind_a_stall(&bench).await;
    enable(&vault, 1, "alice").await;
    let (sealed, lookup) = vault.seal_new(id(2), || record("bob"));
    stall.hold(format!("sipwake:i:{{{}}}", id(2)).as_bytes());
    let put = vault.put(to_write(id(2), &sealed, unix_now() + DAY_S, &lookup)).await;
    assert!(matches!(put, Err(StoreError::Away(_))) && stall.has_stalled(), "{put:?}");
    assert_eq!(vault.erase(id(2), &lookup).await, Ok(false), "nothing is there yet");
    stall.release().await;
    assert!(load(&vault, 2).await.is_none());
    assert_eq!(vault.find(&lookup).await, Ok(None));
    enable(&vault, 2, "bob").await;
}

#[tokio::test]
async fn a_record_that_is_written_again_late_does_not_come_back_after_its_wipe() {
    let bench = Bench::redis();
    let (vault, stall) = node_behind_a_stall(&bench).await;
    let (lookup, fence) = enable(&vault, 1, "alice").await;
    let sealed = vault.seal(id(1), &record("alice"));
    stall.hold(format!("sipwake:i:{{{}}}", id(1)).as_bytes());
    let restored =
        vault.restore(RecordToWrite { fence, ..to_write(id(1), &sealed, unix_now() + DAY_S, &lookup) }).await;
    assert!(matches!(restored, Err(StoreError::Away(_))) && stall.has_stalled(), "{restored:?}");
    assert_eq!(vault.erase(id(1), &lookup).await, Ok(true));
    stall.release().await;
    assert!(load(&vault, 1).await.is_none());
}

#[tokio::test]
async fn a_lookup_that_is_pointed_late_does_not_hide_the_instance_that_has_it_since() {
    let bench = Bench::redis();
    let (vault, stall) = node_behind_a_stall(&bench).await;
    enable(&vault, 1, "alice").await;
    let (sealed, lookup) = vault.seal_new(id(2), || record("bob"));
    stall.hold(format!("sipwake:l:{lookup}").as_bytes());
    let put = vault.put(to_write(id(2), &sealed, unix_now() + DAY_S, &lookup)).await;
    assert!(matches!(put, Err(StoreError::Away(_))) && stall.has_stalled(), "{put:?}");
    assert_eq!(vault.erase(id(2), &lookup).await, Ok(true));
    enable(&vault, 3, "bob").await;
    stall.release().await;
    assert_eq!(vault.find(&lookup).await, Ok(Some(id(3))));
}

#[tokio::test]
async fn a_letter_to_the_run_before_that_arrives_late_makes_nobody_dead() {
    let bench = Bench::redis();
    let (one, stall) = node_behind_a_stall(&bench).await;
    one.hold_lease().await.expect("leased");
    enable(&one, 1, "alice").await;
    let two = one.as_node("a");
    two.hold_lease().await.expect("leased");
    stall.hold(b"sipwake:letters:");
    let claimed = two.claim(8).await;
    assert!(matches!(claimed, Err(StoreError::Away(_))) && stall.has_stalled(), "{claimed:?}");
    let reads = one.clone();
    let reading = tokio::spawn(async move {
        loop {
            let _ = reads.next_letter().await;
        }
    });
    stall.release().await;
    for _ in 0..4 {
        assert_eq!(claim_all(&two, 8).await, [], "it lives");
        one.hold_lease().await.expect("leased");
        two.hold_lease().await.expect("leased");
    }
    assert!(two.is_contested() && load(&one, 1).await.expect("stored").owned);
    assert_eq!(two.hold_lease().await, Ok(Lease::GivenWay));
    reading.abort();
}

#[tokio::test]
async fn a_claim_that_arrives_late_takes_nothing_from_a_node_that_lives_again() {
    let bench = Bench::redis();
    let (b, stall) = node_behind_a_stall(&bench).await;
    let dead = b.as_node("dead");
    enable(&dead, 1, "alice").await;
    dead.hold_lease().await.expect("leased");
    dead.release_lease().await.expect("released");
    stall.hold(format!("sipwake:i:{{{}}}", id(1)).as_bytes());
    assert!(matches!(b.claim(8).await, Err(StoreError::Away(_))) && stall.has_stalled());
    let again = b.as_node("dead");
    again.hold_lease().await.expect("leased");
    assert_eq!(claim_all(&again, 8).await, [id(1)]);
    stall.release().await;
    assert!(load(&again, 1).await.expect("stored").owned);
    until("a round that takes nothing", async || b.claim(8).await.is_ok_and(|taken| taken.is_empty())).await;
    assert!(load(&again, 1).await.expect("stored").owned);
}
