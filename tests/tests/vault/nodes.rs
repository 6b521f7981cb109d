//! Several nodes over one Redis: what one believes of another, and of a store that has lost something; what they tell each other.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use relay::clock::{DAY_S, unix_now};
use relay::vault::peer_messages::Letter;
use relay::vault::{AwayReason, Lease, Naming, Owner, RecordOwner, RecordToWrite, StoreError, Stored, Vault};

use super::{Bench, LEASE, claim_all, claim_until, enable, id, load, record, to_write, until};

pub async fn a_redis_that_was_away_for_long_does_not_make_nodes_rob_each_other(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    a.hold_lease().await.expect("leased");
    b.hold_lease().await.expect("leased");
    enable(&a, 1, "alice").await;
    assert_eq!(claim_all(&b, 10).await, []);
    leases_that_vanish_make_nobody_rob(bench, &a, &b, true).await;
}

pub async fn a_redis_that_somebody_flushes_does_not_make_nodes_rob_each_other(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    // As long as the connection must have served before a missing lease counts.
    let until = Instant::now() + LEASE * 2;
    while Instant::now() < until {
        a.hold_lease().await.expect("leased");
        b.hold_lease().await.expect("leased");
        tokio::time::sleep(LEASE / 10).await;
    }
    enable(&a, 1, "alice").await;
    leases_that_vanish_make_nobody_rob(bench, &a, &b, false).await;
}

/// Redis has lost both leases, and perhaps the connections: the second node waits, the first notices and keeps what it has.
async fn leases_that_vanish_make_nobody_rob(bench: &Bench, a: &Vault, b: &Vault, cut: bool) {
    for lease in ["sipwake:lease:a", "sipwake:lease:b"] {
        bench.server().ask::<()>(redis::cmd("DEL").arg(lease));
    }
    if cut {
        bench.server().kill_connections();
    }
    assert_eq!(claim_all(b, 10).await, [], "missing, but not for long");
    assert_eq!(a.hold_lease().await, Ok(Lease::Lapsed));
    assert_eq!(claim_all(b, 10).await, []);
    assert!(load(a, 1).await.expect("stored").owned);
}

pub async fn a_redis_that_has_lost_what_it_was_told_is_noticed_and_one_that_was_only_away_is_not(bench: &Bench) {
    // A Cluster orders nothing between its slots: whatever it has, it is in doubt when it was away.
    let doubts = bench.is_cluster();
    let (a, b) = (bench.node("a"), bench.node("b"));
    assert_eq!(a.losses(false).await, Ok(0), "nothing was written");
    let (lookup, _) = enable(&a, 1, "alice").await;
    assert_eq!(a.losses(true).await, Ok(u64::from(doubts)));
    bench.server().kill_connections();
    assert_eq!(b.erase(id(1), &lookup).await, Ok(true));
    enable(&a, 2, "bob").await;
    let mut losses = u64::from(doubts);
    assert_eq!(a.losses(false).await, Ok(losses), "what another node has erased is not lost");
    bench.server().ask::<()>(&redis::cmd("FLUSHALL"));
    losses += 1;
    assert_eq!(a.losses(doubts).await, Ok(losses));
    assert!(a.is_being_restored());
    enable(&a, 3, "carol").await;
    assert_eq!(a.losses(false).await, Ok(losses), "it begins anew");
    // What was claimed is as what was put.
    a.release_lease().await.expect("asked");
    a.hold_lease().await.expect("leased");
    a.release_lease().await.expect("released");
    claim_until(&b, 1).await;
    assert_eq!(b.losses(false).await, Ok(u64::from(!doubts)), "what it had erased may have come back, and once");
    assert_eq!(b.losses(false).await, Ok(u64::from(!doubts)));
}

pub async fn an_erasure_that_the_store_has_lost_is_noticed_also_by_a_run_that_has_written_nothing_else(bench: &Bench) {
    if bench.is_cluster() {
        return;
    }
    let (a, redis) = (bench.node("a"), bench.server());
    let (lookup, _) = enable(&a, 1, "alice").await;
    let keys = [format!("sipwake:i:{{{}}}", id(1)), format!("sipwake:mark:{}", a.owner())];
    let dumps = keys.clone().map(|key| redis.ask::<Vec<u8>>(redis::cmd("DUMP").arg(key)));
    let come_back = || {
        for (key, dump) in keys.iter().zip(&dumps) {
            redis.ask::<()>(redis::cmd("RESTORE").arg(key).arg(100_000).arg(dump).arg("REPLACE"));
        }
    };
    assert_eq!(a.erase(id(1), &lookup).await, Ok(true));
    assert_eq!(a.losses(false).await, Ok(0));
    come_back();
    assert!(load(&a, 1).await.is_some());
    assert_eq!(a.losses(false).await, Ok(1));
    // What comes back a second time had been erased a second time.
    assert_eq!(a.erase(id(1), &lookup).await, Ok(true));
    come_back();
    assert_eq!(a.losses(false).await, Ok(2));
    // The next run has the tombstones of this one.
    let next = bench.node("a");
    assert_eq!(next.losses(false).await, Ok(0));
    redis.ask::<()>(&redis::cmd("FLUSHALL"));
    assert_eq!(next.losses(false).await, Ok(1));
}

pub async fn a_renewal_that_is_carried_out_late_does_not_hide_that_the_lease_had_run_out(bench: &Bench) {
    let (a, redis) = (bench.node("a"), bench.server());
    a.hold_lease().await.expect("leased");
    let lease = "sipwake:lease:a";
    until("the lease to run out", async || !redis.ask::<bool>(redis::cmd("EXISTS").arg(lease))).await;
    let owner = a.owner().to_string();
    let (_, run) = owner.rsplit_once('#').expect("a run");
    redis.ask::<()>(redis::cmd("SET").arg(lease).arg(run).arg("PX").arg(60_000));
    assert_eq!(a.hold_lease().await, Ok(Lease::Lapsed));
    assert_eq!(a.hold_lease().await, Ok(Lease::Held));
}

pub async fn a_lease_that_is_missing_before_its_time_is_a_loss_and_one_that_another_run_has_is_none(bench: &Bench) {
    let (a, redis, lease) = (bench.node("a"), bench.server(), "sipwake:lease:a");
    a.hold_lease().await.expect("leased");
    redis.ask::<()>(redis::cmd("SET").arg(lease).arg("another").arg("PX").arg(60_000));
    assert_eq!((a.hold_lease().await, a.losses(false).await), (Ok(Lease::Lapsed), Ok(0)));
    until("the lease to run out", async || !redis.ask::<bool>(redis::cmd("EXISTS").arg(lease))).await;
    assert_eq!((a.hold_lease().await, a.losses(false).await), (Ok(Lease::Lapsed), Ok(0)), "in its time");
    until("a loss", async || {
        // A machine that stands still for a lease has missed its time.
        redis.ask::<()>(redis::cmd("DEL").arg(lease));
        assert_eq!(a.hold_lease().await, Ok(Lease::Lapsed));
        a.losses(false).await == Ok(1)
    })
    .await;
    assert!(a.is_being_restored());
}

pub async fn a_lease_that_a_clock_set_back_makes_last_is_no_sign_of_life(bench: &Bench) {
    let (a, b, redis) = (bench.node("a"), bench.node("b"), bench.server());
    a.hold_lease().await.expect("leased");
    enable(&a, 1, "alice").await;
    redis.ask::<()>(redis::cmd("PEXPIRE").arg("sipwake:lease:a").arg(7_200_000));
    assert_eq!(claim_until(&b, 1).await, [id(1)]);
}

pub async fn a_loss_is_noticed_that_later_writes_have_made_up_and_nothing_is_claimed_at_first(bench: &Bench) {
    if bench.is_cluster() {
        return;
    }
    let (a, b) = (bench.node("a"), bench.node("b"));
    enable(&a, 1, "alice").await;
    let (mark, redis) = (format!("sipwake:mark:{}", a.owner()), bench.server());
    let dumped: Vec<u8> = redis.ask(redis::cmd("DUMP").arg(&mark));
    for number in 2..=5 {
        enable(&a, number, &format!("user{number}")).await;
    }
    let (lookup, _) = enable(&b, 31, "bob").await;
    b.hold_lease().await.expect("leased");
    b.release_lease().await.expect("released");
    redis.ask::<()>(redis::cmd("RESTORE").arg(&mark).arg(100_000).arg(dumped).arg("REPLACE"));
    for number in 6..=20 {
        enable(&a, number, &format!("user{number}")).await;
    }
    assert_eq!(claim_all(&a, 10).await, [], "it may be another node's, which is about to say so");
    assert_eq!(a.losses(false).await, Ok(1));
    assert_eq!(claim_until(&a, 1).await, [id(31)]);
    assert_eq!(a.erase(id(31), &lookup).await, Ok(true));
    assert_eq!(a.losses(false).await, Ok(1));
}

pub async fn what_is_missing_is_restored_with_its_fence_and_what_another_node_took_later_is_left_to_it(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    a.hold_lease().await.expect("leased");
    b.hold_lease().await.expect("leased");
    let (lookup, first) = enable(&a, 1, "alice").await;
    let (sealed, ends) = (a.seal(id(1), &record("alice")), unix_now() + DAY_S);
    assert_eq!(
        a.restore(RecordToWrite { fence: first, ..to_write(id(1), &sealed, ends, &lookup) }).await,
        Ok(()),
        "another form"
    );
    assert_eq!(load(&a, 1).await.expect("stored").expires_at, ends);
    assert_eq!(
        b.restore(RecordToWrite { fence: first, ..to_write(id(1), &sealed, ends, &lookup) }).await,
        Err(StoreError::NotOwner),
        "the same fence"
    );
    a.release_lease().await.expect("released");
    assert_eq!(claim_until(&b, 1).await, [id(1)]);
    let second = load(&b, 1).await.expect("stored").fence;
    assert_eq!(
        a.restore(RecordToWrite { fence: first, ..to_write(id(1), &sealed, ends, &lookup) }).await,
        Err(StoreError::NotOwner)
    );
    assert!(load(&b, 1).await.expect("stored").owned);
    b.erase(id(1), &lookup).await.expect("erased");
    assert_eq!(b.restore(RecordToWrite { fence: second, ..to_write(id(1), &sealed, ends, &lookup) }).await, Ok(()));
    let stored = load(&b, 1).await.expect("stored");
    assert_eq!((stored.fence, stored.owned), (second, true));
    assert_eq!(b.find(&lookup).await, Ok(Some(id(1))));
    // It is as if it had never been away.
    assert_eq!(
        b.put(RecordToWrite { fence: second, ..to_write(id(1), &sealed, ends, &lookup) })
            .await
            .map(|placed| placed.fence),
        Ok(second)
    );
    assert_eq!(claim_until(&bench.node("b"), 1).await, [id(1)]);
}

pub async fn what_came_back_with_an_earlier_owner_is_its_later_ones_and_the_earlier_one_is_told(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    a.hold_lease().await.expect("leased");
    let (lookup, first) = enable(&a, 1, "alice").await;
    let key = format!("sipwake:i:{{{}}}", id(1));
    let redis = bench.server();
    let earlier: Vec<u8> = redis.ask(redis::cmd("DUMP").arg(&key));
    a.release_lease().await.expect("released");
    assert_eq!(claim_until(&b, 1).await, [id(1)]);
    let taken = load(&b, 1).await.expect("stored");
    redis.ask::<()>(redis::cmd("RESTORE").arg(&key).arg(100_000).arg(earlier).arg("REPLACE"));
    assert!(load(&a, 1).await.expect("stored").owned, "as it was");
    a.hold_lease().await.expect("leased");
    assert_eq!(
        b.restore(RecordToWrite { fence: taken.fence, ..to_write(id(1), &taken.sealed, taken.expires_at, &lookup) })
            .await,
        Ok(())
    );
    let stored = load(&b, 1).await.expect("stored");
    assert_eq!((stored.fence, stored.owned), (taken.fence, true));
    assert_eq!(
        a.put(RecordToWrite { fence: first, ..to_write(id(1), &taken.sealed, taken.expires_at, &lookup) }).await,
        Err(StoreError::NotOwner)
    );
    assert_eq!((a.ended_elsewhere().await, b.ended_elsewhere().await), (Ok(vec![id(1)]), Ok(vec![])));
}

pub async fn what_is_written_over_is_never_missing_and_its_earlier_owner_is_told(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    a.hold_lease().await.expect("leased");
    b.hold_lease().await.expect("leased");
    let (lookup, first) = enable(&a, 1, "alice").await;
    let (sealed, ends) = (b.seal(id(1), &record("alice")), unix_now() + DAY_S);
    let redis = bench.server();
    let key = format!("sipwake:i:{{{}}}", id(1));
    let before: Vec<u8> = redis.ask(redis::cmd("DUMP").arg(&key));
    assert_eq!(b.put(to_write(id(1), &sealed, ends, &lookup)).await, Err(StoreError::NotOwner));
    // Twice: an answer may be lost.
    for _ in 0..2 {
        let placed = b.take_over(to_write(id(1), &sealed, ends, &lookup)).await.expect("written");
        let stored = load(&b, 1).await.expect("stored");
        assert_eq!((stored.owned, stored.fence, stored.sealed == sealed), (true, placed.fence, true));
        assert_eq!(placed.fence.number(), first.number() + 1, "it was not erased between the two");
    }
    assert_eq!(
        a.put(RecordToWrite { fence: first, ..to_write(id(1), &sealed, ends, &lookup) }).await,
        Err(StoreError::NotOwner)
    );
    assert_eq!((a.ended_elsewhere().await, b.ended_elsewhere().await), (Ok(vec![id(1)]), Ok(vec![])));
    assert_eq!(b.find(&lookup).await, Ok(Some(id(1))));
    let is_named =
        |node| redis.ask::<bool>(redis::cmd("SISMEMBER").arg(format!("sipwake:n:{node}")).arg(id(1).to_string()));
    assert_eq!((is_named("a"), is_named("b")), (false, true));
    // What the store has again from before is the earlier one.
    let stored = load(&b, 1).await.expect("stored");
    redis.ask::<()>(redis::cmd("RESTORE").arg(&key).arg(100_000).arg(before).arg("REPLACE"));
    assert_eq!(
        b.restore(RecordToWrite { fence: stored.fence, ..to_write(id(1), &sealed, ends, &lookup) }).await,
        Ok(())
    );
    assert_eq!(b.erase(id(1), &lookup).await, Ok(true));
    assert_eq!(b.take_over(to_write(id(1), &sealed, ends, &lookup)).await, Err(StoreError::Gone));
}

pub async fn a_damaged_record_of_another_run_is_written_over_as_well_and_its_owner_is_told(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    a.hold_lease().await.expect("leased");
    b.hold_lease().await.expect("leased");
    let redis = bench.server();
    for (number, missing) in [(1, "f"), (2, "e"), (3, "s")] {
        let user = format!("alice-{number}");
        let (lookup, _) = enable(&a, number, &user).await;
        let (sealed, ends) = (b.seal(id(number), &record(&user)), unix_now() + DAY_S);
        let key = format!("sipwake:i:{{{}}}", id(number));
        redis.ask::<()>(redis::cmd("HDEL").arg(&key).arg(missing));
        assert_eq!(b.put(to_write(id(number), &sealed, ends, &lookup)).await, Err(StoreError::NotOwner), "{missing}");
        assert_eq!(b.take_over(to_write(id(number), &sealed, ends, &lookup)).await, Err(StoreError::Gone), "{missing}");
        assert!(b.put(to_write(id(number), &sealed, ends, &lookup)).await.is_ok(), "{missing}");
        assert!(load(&b, number).await.is_some_and(|stored| stored.owned), "{missing}");
        assert_eq!(a.ended_elsewhere().await, Ok(vec![id(number)]), "{missing}");
        a.forget_ended(&[id(number)]).await.expect("noted");
    }
}

pub async fn of_many_instances_that_another_node_has_ended_the_owner_hears_in_several_answers(bench: &Bench) {
    const MANY: u128 = 700;
    let (a, b) = (bench.node("a"), bench.node("b"));
    for number in 1..=MANY {
        let (lookup, _) = enable(&a, number, &format!("user{number}")).await;
        assert_eq!(b.erase(id(number), &lookup).await, Ok(true));
    }
    let (mut told, mut most) = (BTreeSet::new(), 0);
    loop {
        let some = a.ended_elsewhere().await.expect("the store answers");
        if some.is_empty() {
            break;
        }
        most = most.max(some.len());
        a.forget_ended(&some).await.expect("forgotten");
        told.extend(some);
    }
    assert_eq!(told, (1..=MANY).map(id).collect());
    assert!(most < MANY as usize / 2, "{most} in one answer");
}

pub async fn a_letter_is_for_one_run_is_read_once_and_says_nothing_to_who_reads_the_store(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    let (earlier, list) = (bench.node("b"), format!("sipwake:letters:{}", b.owner()));
    let ask = || Letter::Ask { number: [7; 16], from: a.owner().clone(), body: b"hush".to_vec().into() };
    a.write_letter(b.owner(), &ask()).await.expect("written");
    let raw: Vec<Vec<u8>> = bench.server().ask(redis::cmd("LRANGE").arg(&list).arg(0).arg(-1));
    assert!(raw.len() == 1 && !raw[0].windows(4).any(|some| some == b"hush"), "sealed");
    assert!(bench.server().ask::<i64>(redis::cmd("PTTL").arg(&list)) > 0, "it ends by itself");
    assert!(earlier.next_letter().await.expect("asked").is_none(), "another run does not see it");
    let Some(Letter::Ask { from, body, .. }) = b.next_letter().await.expect("asked") else { panic!("a letter") };
    assert_eq!((&from, body.as_slice()), (a.owner(), &b"hush"[..]));
    let forge = |letter: &[u8], run: &Owner| {
        bench.server().ask::<i64>(redis::cmd("RPUSH").arg(format!("sipwake:letters:{run}")).arg(letter))
    };
    forge(&raw[0], b.owner());
    assert!(b.next_letter().await.expect("asked").is_none(), "what comes again is dropped");
    forge(&raw[0], earlier.owner());
    assert!(earlier.next_letter().await.expect("asked").is_none(), "it opens for its own reader alone");
    forge(b"not a letter", b.owner());
    assert!(b.next_letter().await.expect("asked").is_none());
}

pub async fn what_a_node_says_of_itself_is_believed_from_the_node_alone(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    a.say("udp.test tcp.test tls.test");
    a.hold_lease().await.expect("leased");
    assert_eq!(b.note_of("a").await.expect("asked").as_deref(), Some("udp.test tcp.test tls.test"));
    let raw: Vec<u8> = bench.server().ask(redis::cmd("GET").arg("sipwake:note:a"));
    for (node, note) in [("a", &b"evil evil evil"[..]), ("c", &raw)] {
        bench.server().ask::<()>(redis::cmd("SET").arg(format!("sipwake:note:{node}")).arg(note));
        assert_eq!(b.note_of(node).await, Ok(None), "{node}");
    }
    assert_eq!(b.note_of("d").await, Ok(None));
}

pub async fn whoever_claims_a_record_in_the_moment_in_which_it_is_erased_hears_of_its_end(bench: &Bench) {
    let (b, c) = (bench.node("b"), bench.node("c"));
    b.hold_lease().await.expect("leased");
    for number in 1..=60 {
        let a = bench.node("a");
        a.hold_lease().await.expect("leased");
        let (lookup, _) = enable(&a, number, &format!("user{number}")).await;
        a.release_lease().await.expect("released");
        let (erased, claimed) = tokio::join!(c.erase(id(number), &lookup), claim_all(&b, 8));
        assert_eq!(erased, Ok(true));
        let told = b.ended_elsewhere().await.expect("asked");
        assert!(claimed.iter().all(|id| told.contains(id)), "it was claimed, and nobody says that it has ended");
        if !told.is_empty() {
            b.forget_ended(&told).await.expect("forgotten");
        }
    }
}

pub async fn what_a_node_stores_whose_lease_ran_out_as_it_was_about_to_leave_is_claimed_all_the_same(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    a.hold_lease().await.expect("leased");
    enable(&a, 1, "alice").await;
    a.note_leaving();
    assert_eq!(a.hold_lease().await, Ok(Lease::Held), "a renewal changes nothing of that");
    assert_eq!(claim_until(&b, 1).await, [id(1)]);
    // It finds nothing more of that node, and strikes its name off.
    assert!(b.claim(8).await.expect("asked").is_empty());
    enable(&a, 2, "bob").await;
    assert_eq!(claim_until(&b, 1).await, [id(2)]);
}

/// The Path of a registration that passed through leads to that node, whoever had the record since.
/// An enabling, or a registration that passed through, may be stored behind the claims of the others.
pub async fn what_a_node_stores_that_has_left_is_claimed_all_the_same(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    for vault in [&a, &b] {
        vault.hold_lease().await.expect("leased");
    }
    enable(&a, 1, "alice").await;
    a.release_lease().await.expect("released");
    for (number, user) in [(1, "alice"), (2, "bob"), (3, "carol")] {
        if number > 1 {
            enable(&a, number, user).await;
        }
        until("a claim", async || {
            let claimed = b.claim(8).await.expect("asked");
            claimed.iter().any(|stored| stored.id == id(number))
        })
        .await;
        // It finds nothing more of that node, and strikes its name off.
        assert!(b.claim(8).await.expect("asked").is_empty());
    }
}

pub async fn of_what_was_claimed_it_is_known_which_node_has_put_it_last_and_which_have_had_it(bench: &Bench) {
    let claimed = async |node: &str| {
        let vault = bench.node(node);
        vault.hold_lease().await.expect("leased");
        let mut stored = None;
        until("a claim", async || {
            stored = vault.claim(8).await.expect("asked").pop();
            stored.is_some()
        })
        .await;
        (vault, stored.expect("awaited"))
    };
    let a = bench.node("a");
    a.hold_lease().await.expect("leased");
    let (lookup, _) = enable(&a, 1, "alice").await;
    a.release_lease().await.expect("released");
    let (a, own) = claimed("a").await;
    assert_eq!(own.put_by, None);
    a.release_lease().await.expect("released");
    let put_by = |stored: &Stored| stored.put_by.as_deref().map(str::to_owned);
    for (node, had_by) in
        [("b", &["a"][..]), ("b", &["a"]), ("c", &["b", "a"]), ("a", &["c", "b", "a"]), ("c", &["c", "b", "a"])]
    {
        let (vault, stored) = claimed(node).await;
        assert_eq!(put_by(&stored).as_deref(), Some("a"), "{node}");
        assert_eq!(stored.had_by.iter().map(|node| &**node).collect::<Vec<_>>(), had_by, "{node}");
        vault.release_lease().await.expect("released");
    }
    let (c, stored) = claimed("c").await;
    c.put(RecordToWrite { fence: stored.fence, ..to_write(id(1), &stored.sealed, stored.expires_at, &lookup) })
        .await
        .expect("put");
    c.release_lease().await.expect("released");
    let (c, stored) = claimed("c").await;
    assert_eq!((stored.put_by, stored.had_by.len()), (None, 3), "its Contacts may stand all the same");
    let record = RecordToWrite { fence: stored.fence, ..to_write(id(1), &stored.sealed, stored.expires_at, &lookup) };
    c.put_named(record, Naming::TakesRegistered).await.expect("put");
    c.release_lease().await.expect("released");
    let (c, stored) = claimed("c").await;
    assert!(stored.had_by.is_empty(), "it was registered from here, and their Contacts are gone");
    c.release_lease().await.expect("released");
    let mut vault = claimed("b").await;
    assert_eq!(put_by(&vault.1).as_deref(), Some("c"));
    // Where more have it than are remembered, and none is registered, the one before them is named still.
    for node in ["d", "e", "f", "g"] {
        vault.0.release_lease().await.expect("released");
        vault = claimed(node).await;
    }
    assert_eq!(vault.1.had_by.iter().map(|node| &**node).collect::<Vec<_>>(), ["f", "e", "d", "c"]);
    // Also where it has the record again meanwhile.
    for node in ["c", "h", "i", "j"] {
        vault.0.release_lease().await.expect("released");
        vault = claimed(node).await;
    }
    assert_eq!(vault.1.had_by.iter().map(|node| &**node).collect::<Vec<_>>(), ["i", "h", "g", "c"]);
}

pub async fn what_no_index_names_any_more_is_named_again_by_its_owner(bench: &Bench) {
    let (a, server) = (bench.node("a"), bench.server());
    a.hold_lease().await.expect("leased");
    let (lookup, fence) = enable(&a, 1, "alice").await;
    server.ask::<()>(redis::cmd("DEL").arg("sipwake:n:a"));
    assert_eq!(a.record_owner(id(1)).await, Ok(RecordOwner::ThisRun));
    a.name_again(&[id(1)]).await.expect("named");
    let next = bench.node("a");
    assert_eq!(claim_until(&next, 1).await, [id(1)]);
    // What the earlier run still tries takes nothing off the index of the node.
    assert_eq!(a.record_owner(id(1)).await, Ok(RecordOwner::AnotherRun));
    let stored = load(&a, 1).await.expect("there");
    assert_eq!(
        a.put(RecordToWrite { fence, ..to_write(id(1), &stored.sealed, stored.expires_at, &lookup) }).await,
        Err(StoreError::NotOwner)
    );
    let is_named = |id: String| server.ask::<bool>(redis::cmd("SISMEMBER").arg("sipwake:n:a").arg(id));
    assert!(is_named(id(1).to_string()));
    assert_eq!(a.erase(id(1), &lookup).await, Ok(true));
    assert_eq!(a.record_owner(id(1)).await, Ok(RecordOwner::Nobody));
}

pub async fn what_a_node_has_ended_by_itself_is_erased_unless_another_one_has_claimed_it_since(bench: &Bench) {
    let (a, b, c) = (bench.node("a"), bench.node("b"), bench.node("c"));
    let gives_up = async |node: &Vault| {
        node.hold_lease().await.expect("leased");
        node.release_lease().await.expect("released");
    };
    // One that was claimed twice has a later fence than one that was claimed once.
    enable(&a, 2, "bob").await;
    gives_up(&a).await;
    claim_until(&b, 1).await;
    gives_up(&b).await;
    claim_until(&c, 1).await;
    let later = load(&c, 2).await.expect("stored").fence;
    a.hold_lease().await.expect("leased");
    let (lookup, first) = enable(&a, 1, "alice").await;
    gives_up(&a).await;
    claim_until(&c, 1).await;
    let claimed = load(&c, 1).await.expect("stored").fence;
    assert!(first < claimed && claimed < later);
    assert_eq!(a.erase_own(id(1), Some(lookup), first).await, Ok(false), "the other node goes on with it");
    assert!(load(&c, 1).await.is_some());
    // What the store came back with is older than what has ended.
    assert_eq!(a.erase_own(id(1), Some(lookup), later).await, Ok(true));
    assert!(load(&c, 1).await.is_none());
    assert_eq!(c.ended_elsewhere().await, Ok(vec![id(1)]), "and its node is told");
}

pub async fn what_a_store_has_shown_is_erased_unless_it_was_written_since_whoever_owns_it(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    b.hold_lease().await.expect("leased");
    let (lookup, fence) = enable(&b, 1, "alice").await;
    let shown = load(&a, 1).await.expect("stored");
    // The same registration once more, a moment later: its owner and its fence are the same.
    let renewed = b.seal(id(1), &record("alice"));
    b.put(RecordToWrite { fence, ..to_write(id(1), &renewed, shown.expires_at, &lookup) }).await.expect("put");
    assert_eq!(a.erase_unchanged(&shown, lookup).await, Ok(false), "it is a later one");
    let later = load(&a, 1).await.expect("stays");
    assert_eq!((later.sealed.as_bytes(), later.fence), (renewed.as_bytes(), fence));
    assert_eq!(b.ended_elsewhere().await, Ok(vec![]), "and its node goes on with it");
    assert_eq!(a.erase_unchanged(&later, lookup).await, Ok(true));
    assert!(load(&a, 1).await.is_none());
    assert_eq!(a.erase_unchanged(&later, lookup).await, Ok(true), "nothing of it is left");
}

pub async fn of_two_processes_by_one_name_the_later_takes_nothing_and_leaves_the_lease_to_the_other(bench: &Bench) {
    let one = bench.node("a");
    one.hold_lease().await.expect("leased");
    enable(&one, 1, "alice").await;
    let reads = one.clone();
    let reading = tokio::spawn(async move {
        loop {
            let _ = reads.next_letter().await;
        }
    });
    let two = one.as_node("a");
    two.hold_lease().await.expect("leased");
    assert_eq!(claim_all(&two, 10).await, []);
    for _ in 0..2 {
        one.hold_lease().await.expect("leased");
        two.hold_lease().await.expect("leased");
        assert_eq!(claim_all(&two, 10).await, [], "it lives");
    }
    assert!(one.is_contested() && two.is_contested());
    let until = Instant::now() + LEASE * 2;
    one.hold_lease().await.expect("leased");
    while Instant::now() < until {
        // It has lapsed before, and nothing is to be looked up again; and what it stored would be nobody's for other nodes.
        assert_eq!(two.hold_lease().await, Ok(Lease::GivenWay));
        assert_eq!(two.takes_new().await, Err(StoreError::Away(AwayReason::GivenWay)));
        assert_eq!(one.hold_lease().await, Ok(Lease::Held), "nobody takes it any more");
        assert_eq!(one.takes_new().await, Ok(()));
        assert_eq!(claim_all(&two, 10).await, []);
        tokio::time::sleep(LEASE / 10).await;
    }
    assert!(!one.is_contested() && two.is_contested());
    // It dies: the other one is what an ordinary next run is.
    reading.abort();
    until_claimed(&two).await;
    assert!(!two.is_contested());
    assert_eq!(two.takes_new().await, Ok(()));
}

async fn until_claimed(vault: &Vault) {
    until("a claim", async || {
        vault.hold_lease().await.expect("leased");
        claim_all(vault, 10).await == [id(1)]
    })
    .await;
}

pub async fn what_may_happen_so_often_is_counted_for_all_nodes_until_its_time_is_over_or_it_is_given_back(
    bench: &Bench,
) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    let take = async |node: &Vault, life| node.take_turn("com.example.phone bad", 2, life).await;
    let long = Duration::from_secs(3_600);
    for (node, is_taken) in [(&a, true), (&b, true), (&a, false), (&b, false)] {
        assert_eq!(take(node, long).await, Ok(is_taken));
    }
    assert_eq!(a.take_turn("com.example.other bad", 2, long).await, Ok(true), "another one");
    b.give_turns_back("com.example.phone bad", 2).await.expect("it is there");
    let short = Duration::from_millis(1);
    assert_eq!((take(&a, short).await, take(&a, long).await), (Ok(true), Ok(true)));
    until("the first one's time is over", async || take(&b, long).await == Ok(true)).await;
    assert_eq!(take(&b, long).await, Ok(false));
}
