//! Odd values in the store, which somebody has put there by hand: each costs nobody but the one whose it is.

use relay::clock::{DAY_S, unix_now};
use relay::vault::peer_messages::Letter;
use relay::vault::{Lease, RecordOwner, RecordToWrite, StoreError};

use super::{Bench, claim_until, enable, id, load, record, to_write, until};

const NO_TEXT: &[u8] = &[0xff, 0xfe];

pub async fn an_odd_value_keeps_nobody_else_from_anything(bench: &Bench) {
    let (a, b, redis) = (bench.node("a"), bench.node("b"), bench.server());
    let set = |key: &str, value: &[u8]| redis.ask::<()>(redis::cmd("SET").arg(key).arg(value));
    let lists = |key: &str| redis.ask::<u64>(redis::cmd("RPUSH").arg(key).arg("x"));
    let joins = |key: &str, member: &[u8]| redis.ask::<u64>(redis::cmd("SADD").arg(key).arg(member));
    let changes = |number, field: &str, value: &str| {
        let key = format!("sipwake:i:{{{}}}", id(number));
        redis.ask::<u64>(redis::cmd("HSET").arg(key).arg(field).arg(value))
    };
    a.hold_lease().await.expect("leased");
    for number in 1..=5 {
        enable(&a, number, &format!("user{number}")).await;
    }
    let odd = format!("sipwake:i:{{{}}}", id(1));
    redis.ask::<u64>(redis::cmd("DEL").arg(&odd));
    set(&odd, b"x");
    let digits = "9".repeat(40);
    changes(2, "f", &digits);
    changes(3, "e", &digits);
    changes(4, "f", "99999999999999999999");
    assert_eq!(a.load(id(1)).await.map(drop), Err(StoreError::Malformed));
    // Other nodes' names, leases and indexes.
    joins("sipwake:nodes", NO_TEXT);
    for node in ["c", "d", "e"] {
        joins("sipwake:nodes", node.as_bytes());
    }
    lists("sipwake:lease:c");
    set("sipwake:lease:d", NO_TEXT);
    set("sipwake:n:c", b"x");
    joins("sipwake:n:a", NO_TEXT);
    set("sipwake:note:c", NO_TEXT);
    lists("sipwake:note:d");
    a.release_lease().await.expect("released");
    b.hold_lease().await.expect("leased");
    assert_eq!(claim_until(&b, 1).await, [id(5)], "the one that is as it was written");
    assert!(b.known_nodes().await.is_ok() && b.living_peers().await.is_ok_and(|peers| peers.is_empty()));
    assert_eq!((b.note_of("c").await, b.note_of("d").await), (Ok(None), Ok(None)));
    if !bench.is_cluster() {
        // From the second round on all records are looked through.
        set("sipwake:i:x", b"x");
        let key = [&b"sipwake:i:{"[..], NO_TEXT, b"}"].concat();
        redis.ask::<u64>(redis::cmd("HSET").arg(key).arg("s").arg("x"));
        for _ in 0..3 {
            assert_eq!(b.claim(8).await.map(|taken| taken.len()), Ok(0));
        }
    }
    // Whatever it is, it can be wiped, and written anew.
    for (number, owner) in [(2, &b"x"[..]), (3, NO_TEXT)] {
        let key = format!("sipwake:i:{{{}}}", id(number));
        redis.ask::<u64>(redis::cmd("HSET").arg(&key).arg("o").arg(owner).arg("l").arg(NO_TEXT));
        assert_eq!(b.erase_all_of(id(number), None).await, Ok(true));
        assert!(!redis.ask::<bool>(redis::cmd("EXISTS").arg(&key)), "{number}");
    }
    let (sealed, lookup) = b.seal_new(id(1), || record("user1"));
    assert_eq!(b.erase(id(1), &lookup).await, Ok(true));
    assert!(load(&b, 1).await.is_none());
    set(&odd, b"x");
    let ends = unix_now() + DAY_S;
    assert!(b.put(to_write(id(1), &sealed, ends, &lookup)).await.is_ok());
    assert!(load(&b, 1).await.expect("stored").owned);
}

pub async fn a_damaged_record_is_its_owners_to_write_again_and_nobody_elses_to_take(bench: &Bench) {
    let (a, b, redis) = (bench.node("a"), bench.node("b"), bench.server());
    a.hold_lease().await.expect("leased");
    let key = format!("sipwake:i:{{{}}}", id(1));
    let digits = "9".repeat(20);
    let (lookup, mut fence) = enable(&a, 1, "alice").await;
    let sealed = a.seal(id(1), &record("alice"));
    let ends = unix_now() + DAY_S;
    for (field, value) in [
        ("o", &b""[..]),
        ("o", b"x"),
        ("o", NO_TEXT),
        ("f", b""),
        ("f", b"-1"),
        ("f", digits.as_bytes()),
        ("e", NO_TEXT),
        ("", b""),
    ] {
        if field.is_empty() {
            redis.ask::<()>(redis::cmd("SET").arg(&key).arg("x"));
        } else {
            redis.ask::<u64>(redis::cmd("HSET").arg(&key).arg(field).arg(value));
        }
        let what = format!("{field} {value:?}");
        assert_eq!(a.load(id(1)).await.map(drop), Err(StoreError::Malformed), "{what}");
        assert_eq!(a.record_owner(id(1)).await, Ok(RecordOwner::Nobody), "{what}");
        if field != "e" {
            assert_eq!(
                a.put(RecordToWrite { fence, ..to_write(id(1), &sealed, ends, &lookup) }).await.map(drop),
                Err(StoreError::Gone),
                "{what}"
            );
        }
        assert_eq!(
            a.restore(RecordToWrite { fence, ..to_write(id(1), &sealed, ends, &lookup) }).await,
            Ok(()),
            "{what}"
        );
        let stored = load(&a, 1).await.expect("stored");
        assert!(stored.owned && stored.fence == fence, "{what}");
        fence = stored.fence;
        assert_eq!(a.record_owner(id(1)).await, Ok(RecordOwner::ThisRun), "{what}");
    }
    // What another node owns is its own, whatever its fence.
    redis.ask::<u64>(redis::cmd("HSET").arg(&key).arg("o").arg(b.owner().to_string()).arg("f").arg("x"));
    assert_eq!(
        a.put(RecordToWrite { fence, ..to_write(id(1), &sealed, ends, &lookup) }).await.map(drop),
        Err(StoreError::NotOwner)
    );
}

pub async fn an_odd_value_under_a_name_of_ones_own_gives_way(bench: &Bench) {
    let (a, redis) = (bench.node("a"), bench.server());
    let set = |key: &str, value: &[u8]| redis.ask::<()>(redis::cmd("SET").arg(key).arg(value));
    let becomes_a_list = |key: &str| {
        redis.ask::<u64>(redis::cmd("DEL").arg(key));
        redis.ask::<u64>(redis::cmd("RPUSH").arg(key).arg("x"))
    };
    assert_eq!(a.check_keyring().await, Ok(None));
    a.hold_lease().await.expect("leased");
    let (lookup, fence) = enable(&a, 1, "alice").await;
    becomes_a_list("sipwake:lease:a");
    assert_eq!(a.hold_lease().await, Ok(Lease::Lapsed));
    assert_eq!(a.hold_lease().await, Ok(Lease::Held));
    // Its index, the nodes, its mark, what another node has ended, its lookup and its letters.
    set("sipwake:n:a", b"x");
    set("sipwake:nodes", b"x");
    set("sipwake:ended:a", b"x");
    let letters = format!("sipwake:letters:{}", a.owner());
    set(&letters, b"x");
    becomes_a_list(&format!("sipwake:l:{lookup}"));
    assert_eq!(a.find(&lookup).await, Ok(None));
    assert_eq!(a.ended_elsewhere().await, Ok(vec![]));
    assert!(a.next_letter().await.expect("asked").is_none());
    let losses = a.losses(false).await.expect("asked");
    let mark = format!("sipwake:mark:{}", a.owner());
    for odd in [None, Some(&b"x"[..]), Some(b"9e99"), Some(NO_TEXT)] {
        match odd {
            None => drop(becomes_a_list(&mark)),
            Some(odd) => set(&mark, odd),
        }
        let sealed = a.seal(id(1), &record("alice"));
        let put = a.put(RecordToWrite { fence, ..to_write(id(1), &sealed, unix_now() + DAY_S, &lookup) }).await;
        assert!(put.is_ok(), "{put:?}");
        let noticed = a.losses(false).await.expect("asked");
        assert!(bench.is_cluster() || noticed > losses);
    }
    assert_eq!(a.find(&lookup).await, Ok(Some(id(1))));
    set("sipwake:ended:a", b"x");
    let b = bench.node("b");
    assert_eq!(b.erase(id(1), &lookup).await, Ok(true));
    assert_eq!(a.ended_elsewhere().await, Ok(vec![id(1)]));
    set(&letters, b"x");
    b.write_letter(a.owner(), &Letter::Ended).await.expect("written");
    assert!(matches!(a.next_letter().await, Ok(Some(Letter::Ended))));
    becomes_a_list("sipwake:ring");
    assert_eq!(a.check_keyring().await, Ok(None));
    // A node whose name is missing is named again.
    redis.ask::<u64>(redis::cmd("DEL").arg("sipwake:nodes"));
    until("its name", async || {
        let _ = (a.claim(8).await, a.hold_lease().await);
        redis.ask::<bool>(redis::cmd("SISMEMBER").arg("sipwake:nodes").arg("a"))
    })
    .await;
    // What is kept beside a record.
    enable(&a, 2, "bob").await;
    becomes_a_list(&format!("sipwake:s:{{{}}}", id(2)));
    let sealed = a.seal(id(2), &record("bob"));
    let fence = load(&a, 2).await.expect("stored").fence;
    assert!(
        a.put(RecordToWrite { fence, ..to_write(id(2), &sealed, unix_now() + DAY_S, &a.lookup_of(&record("bob"))) })
            .await
            .is_ok()
    );
}
