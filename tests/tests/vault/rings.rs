//! Keyrings of several nodes: one that is another's takes over nothing and takes nothing.

use relay::clock::Reading;
use relay::vault::{AwayReason, Keyring, KeyringMismatch, RecordToWrite, StoreError, Vault};
use tests::redis_server::RedisServer;
use tests::scratch::Scratch;

use super::{Bench, LEASE, Lease, claim_all, claim_until, enable, id, load, record, to_write, until};

/// A node of its own machine: with a copy of the keyring.
fn node(bench: &Bench, name: &str, keyring: &Keyring) -> Vault {
    bench.open(name, keyring.clone())
}

fn copy_of(scratch: &Scratch, keyring: &std::path::Path, name: &str) -> Keyring {
    let file = scratch.path().join(name);
    std::fs::copy(keyring, &file).expect("copied");
    Keyring::open(&file).expect("opened")
}

async fn put_new(vault: &Vault, number: u128) -> Result<(), StoreError> {
    let record = record("bob");
    let (sealed, lookup) = (vault.seal(id(number), &record), vault.lookup_of(&record));
    vault.put(to_write(id(number), &sealed, u64::MAX, &lookup)).await.map(drop)
}

pub async fn a_node_with_another_keyring_takes_nothing_over_and_takes_nothing(bench: &Bench) {
    let (a, b) = (node(bench, "a", &Keyring::ephemeral()), node(bench, "b", &Keyring::ephemeral()));
    assert_eq!(a.check_keyring().await, Ok(None));
    assert_eq!(b.peek_keyring().await, Ok(Some(KeyringMismatch::Other)));
    a.hold_lease().await.expect("leased");
    enable(&a, 1, "alice").await;
    a.release_lease().await.expect("released");
    assert_eq!(claim_all(&b, 10).await, [], "which it could not open");
    assert_eq!(put_new(&b, 2).await, Err(StoreError::Away(AwayReason::OtherKeyring)));
    // Nobody who has the first one lives any more.
    bench.server().ask::<()>(redis::cmd("DEL").arg("sipwake:ring"));
    until("b's keyring stands", async || b.check_keyring().await == Ok(None)).await;
    assert_eq!(put_new(&b, 2).await, Ok(()));
    assert_eq!(a.check_keyring().await, Ok(Some(KeyringMismatch::Other)));
}

pub async fn a_store_that_has_lost_everything_makes_a_wrong_keyring_no_right_one(bench: &Bench) {
    let right = Keyring::ephemeral();
    let (a, b, wrong) =
        (node(bench, "a", &right), node(bench, "b", &right), node(bench, "wrong", &Keyring::ephemeral()));
    for node in [&a, &b] {
        assert_eq!(node.check_keyring().await, Ok(None));
        node.hold_lease().await.expect("leased");
    }
    wrong.hold_lease().await.expect("leased");
    assert_eq!(wrong.check_keyring().await, Ok(Some(KeyringMismatch::Other)));
    bench.server().ask::<()>(&redis::cmd("FLUSHALL"));
    // It looks first, and its own is not written.
    assert_eq!(wrong.check_keyring().await, Ok(Some(KeyringMismatch::Other)));
    a.hold_lease().await.expect("leased");
    tokio::time::sleep(LEASE + LEASE / 4).await;
    assert_eq!(wrong.check_keyring().await, Ok(Some(KeyringMismatch::Other)));
    assert_eq!((a.check_keyring().await, b.check_keyring().await), (Ok(None), Ok(None)));
    // One that begins, and finds none while others live, takes nothing before they had the time to write theirs.
    enable(&a, 1, "alice").await;
    bench.server().ask::<()>(redis::cmd("DEL").arg("sipwake:ring"));
    let new = node(bench, "new", &Keyring::ephemeral());
    a.release_lease().await.expect("released");
    b.hold_lease().await.expect("leased");
    assert!(new.claim(10).await.expect("answered").is_empty());
    assert_eq!(b.check_keyring().await, Ok(None));
    assert_eq!(new.check_keyring().await, Ok(Some(KeyringMismatch::Other)));
}

pub async fn what_is_here_is_written_again_whichever_keyring_stands(bench: &Bench) {
    let (a, b) = (node(bench, "a", &Keyring::ephemeral()), node(bench, "b", &Keyring::ephemeral()));
    assert_eq!(a.check_keyring().await, Ok(None));
    let (lookup, fence) = enable(&a, 1, "alice").await;
    let sealed = load(&a, 1).await.expect("there").sealed;
    for key in bench.server().keys() {
        bench.server().ask::<()>(redis::cmd("DEL").arg(key));
    }
    assert_eq!(b.check_keyring().await, Ok(None));
    assert_eq!(a.check_keyring().await, Ok(Some(KeyringMismatch::Other)));
    assert_eq!(a.restore(RecordToWrite { fence, ..to_write(id(1), &sealed, u64::MAX, &lookup) }).await, Ok(()));
    assert_eq!(put_new(&a, 2).await, Err(StoreError::Away(AwayReason::OtherKeyring)), "nothing new");
}

pub async fn copies_are_one_keyring_until_something_is_mixed_into_one_of_them(bench: &Bench) {
    let scratch = Scratch::new();
    let file = scratch.path().join("keyring");
    let first = Keyring::open(&file).expect("made");
    let (second, third) = (copy_of(&scratch, &file, "second"), copy_of(&scratch, &file, "third"));
    let (a, b, c) = (node(bench, "a", &first), node(bench, "b", &second), node(bench, "c", &third));
    for node in [&a, &b, &c] {
        assert_eq!(node.check_keyring().await, Ok(None));
        node.hold_lease().await.expect("leased");
    }
    enable(&a, 1, "alice").await;
    a.release_lease().await.expect("released");
    assert_eq!(claim_until(&b, 1).await.len(), 1, "a copy takes over what the other had");

    second.mix(b"rolled a die sixteen times", Reading::now()).expect("mixed");
    assert_eq!(b.check_keyring().await, Ok(None), "who has rotated is ahead");
    assert_eq!(a.check_keyring().await, Ok(Some(KeyringMismatch::Behind)));
    assert_eq!(put_new(&a, 2).await, Err(StoreError::Away(AwayReason::OtherKeyring)));
    third.mix(b"something else altogether", Reading::now()).expect("mixed");
    assert_eq!(c.check_keyring().await, Ok(Some(KeyringMismatch::Parted)));
    first.mix(b"rolled a die sixteen times", Reading::now()).expect("mixed");
    assert_eq!(a.check_keyring().await, Ok(None));
    assert_eq!(put_new(&a, 2).await, Ok(()));
}

pub async fn a_keyring_that_was_made_for_want_of_one_takes_nothing_of_a_store_that_holds_something(bench: &Bench) {
    let scratch = Scratch::new();
    let file = scratch.path().join("keyring");
    let lost = node(bench, "a", &Keyring::ephemeral());
    assert_eq!(lost.check_keyring().await, Ok(None));
    lost.hold_lease().await.expect("leased");
    enable(&lost, 1, "alice").await;
    lost.release_lease().await.expect("released");
    // A node whose own keyring is gone is told so, while the name of its earlier run stands; beside another one that lives it has another one.
    let early = node(bench, "a", &Keyring::open(&scratch.path().join("early")).expect("made"));
    assert_eq!(early.begin_keyring().await, Ok(Some(KeyringMismatch::Untried)));
    assert_eq!(early.peek_keyring().await, Ok(Some(KeyringMismatch::Untried)));
    assert_eq!(early.check_keyring().await, Ok(Some(KeyringMismatch::Untried)));
    let living = node(bench, "c", &Keyring::ephemeral());
    living.hold_lease().await.expect("leased");
    assert_eq!(early.begin_keyring().await, Ok(None));
    assert_eq!(early.check_keyring().await, Ok(Some(KeyringMismatch::Other)));
    living.release_lease().await.expect("released");
    // Longer ago than a name lasts.
    bench.server().ask::<()>(redis::cmd("DEL").arg("sipwake:ring"));
    let made = Keyring::open(&file).expect("made");
    let b = node(bench, "b", &made);
    assert_eq!(put_new(&b, 2).await, Err(StoreError::Away(AwayReason::OtherKeyring)), "before anybody has compared");
    assert_eq!(b.begin_keyring().await, Ok(Some(KeyringMismatch::Untried)));
    assert_eq!(b.check_keyring().await, Ok(Some(KeyringMismatch::Untried)));
    assert_eq!(claim_all(&b, 10).await, [], "which it could not open");
    // Another run finds it there, and it is no better.
    let again = node(bench, "b", &Keyring::open(&file).expect("opened"));
    assert_eq!(again.begin_keyring().await, Ok(Some(KeyringMismatch::Untried)));
    // The right one in its place is tried.
    let right = scratch.path().join("right");
    Keyring::open(&right).expect("made").accept().expect("accepted");
    let kept = std::fs::read(&file).expect("read");
    std::fs::copy(&right, &file).expect("copied");
    let restored = node(bench, "b", &Keyring::open(&file).expect("opened"));
    assert_eq!(restored.begin_keyring().await, Ok(None));
    std::fs::write(&file, kept).expect("written");
    // Its operator has nothing else.
    Keyring::open(&file).expect("opened").accept().expect("accepted");
    until("b's keyring stands", async || b.check_keyring().await == Ok(None)).await;
    assert_eq!(put_new(&b, 2).await, Ok(()));
}

pub async fn a_keyring_that_is_made_for_an_empty_store_stands_at_once_and_stays(bench: &Bench) {
    let scratch = Scratch::new();
    let file = scratch.path().join("keyring");
    let first = node(bench, "a", &Keyring::open(&file).expect("made"));
    first.hold_lease().await.expect("leased");
    assert_eq!(put_new(&first, 1).await, Ok(()), "before anybody has compared");
    bench.server().ask::<()>(redis::cmd("DEL").arg("sipwake:ring"));
    let again = node(bench, "a", &Keyring::open(&file).expect("opened"));
    assert_eq!((again.begin_keyring().await, again.check_keyring().await), (Ok(None), Ok(None)));
    bench.server().ask::<()>(&redis::cmd("FLUSHALL"));
    let other = scratch.path().join("other");
    let begun = node(bench, "a", &Keyring::open(&other).expect("made"));
    assert_eq!(begun.begin_keyring().await, Ok(None));
    begun.hold_lease().await.expect("leased");
    enable(&begun, 2, "bob").await;
    assert_eq!(begun.check_keyring().await, Ok(None), "what it has stored itself is its own");
}

/// Has what stands be forgotten, as ten minutes do.
fn forget_name(bench: &Bench) {
    for key in bench.server().keys().into_iter().filter(|key| key.starts_with("sipwake:ring")) {
        bench.server().ask::<()>(redis::cmd("DEL").arg(key));
    }
}

pub async fn a_node_that_opens_nothing_of_what_it_has_leaves_it_to_those_who_do(bench: &Bench) {
    let right = Keyring::ephemeral();
    let (a, b) = (node(bench, "a", &right), node(bench, "b", &right));
    for node in [&a, &b] {
        assert_eq!(node.check_keyring().await, Ok(None));
        node.hold_lease().await.expect("leased");
    }
    enable(&a, 1, "alice").await;
    // Killed, and back at once with another keyring: before it has compared it has its lease.
    let astray = node(bench, "a", &Keyring::ephemeral());
    assert_eq!(astray.hold_lease().await, Ok(Lease::Held));
    assert_eq!(astray.check_keyring().await, Ok(Some(KeyringMismatch::Other)));
    assert_eq!(astray.hold_lease().await, Ok(Lease::GivenWay));
    assert!(!b.holds_lease(astray.owner()).await.expect("answered"));
    b.hold_lease().await.expect("leased");
    assert_eq!(claim_until(&b, 1).await, [id(1)]);
    assert_eq!(put_new(&astray, 2).await, Err(StoreError::Away(AwayReason::OtherKeyring)));
    // With the right one it is a node as any other.
    let back = node(bench, "a", &right);
    assert_eq!((back.check_keyring().await, back.hold_lease().await), (Ok(None), Ok(Lease::Held)));
    assert_eq!(claim_all(&back, 10).await, []);
    assert!(load(&b, 1).await.expect("there").owned);
}

pub async fn a_node_keeps_its_lease_while_it_is_alone_or_serves_something_or_opens_something(bench: &Bench) {
    let right = Keyring::ephemeral();
    let (a, b) = (node(bench, "a", &right), node(bench, "b", &right));
    assert_eq!(a.check_keyring().await, Ok(None));
    a.hold_lease().await.expect("leased");
    enable(&a, 1, "alice").await;
    let astray = node(bench, "a", &Keyring::ephemeral());
    assert_eq!(astray.check_keyring().await, Ok(Some(KeyringMismatch::Foreign)), "it is alone");
    assert_eq!(astray.hold_lease().await, Ok(Lease::Held));
    b.hold_lease().await.expect("leased");
    // The name in the store is another one all at once.
    bench.server().ask::<()>(redis::cmd("SET").arg("sipwake:ring").arg("0123456789abcdef"));
    assert_eq!(a.check_keyring().await, Ok(Some(KeyringMismatch::Other)));
    assert_ne!(a.hold_lease().await, Ok(Lease::GivenWay), "its keyring has stood");
    let again = node(bench, "a", &right);
    assert_eq!(again.check_keyring().await, Ok(Some(KeyringMismatch::Other)));
    assert_ne!(again.hold_lease().await, Ok(Lease::GivenWay), "it opens what the node has");
}

pub async fn a_keyring_that_opens_nothing_of_its_node_does_not_stand_and_the_right_one_does_at_once(bench: &Bench) {
    let right = Keyring::ephemeral();
    let a = node(bench, "a", &right);
    assert_eq!(a.check_keyring().await, Ok(None));
    enable(&a, 1, "alice").await;
    forget_name(bench);
    let scratch = Scratch::new();
    let file = scratch.path().join("keyring");
    let wrong = Keyring::open(&file).expect("made");
    std::fs::remove_file(scratch.path().join("keyring.untried")).expect("it is of another cluster");
    let astray = node(bench, "a", &wrong);
    assert_eq!(
        put_new(&astray, 2).await,
        Err(StoreError::Away(AwayReason::OtherKeyring)),
        "before anybody has compared"
    );
    assert_eq!(astray.check_keyring().await, Ok(Some(KeyringMismatch::Foreign)));
    assert_eq!(astray.peek_keyring().await, Ok(Some(KeyringMismatch::Foreign)));
    tokio::time::sleep(LEASE + LEASE / 4).await;
    assert_eq!(astray.check_keyring().await, Ok(Some(KeyringMismatch::Foreign)), "however long none stands");
    let back = node(bench, "a", &right);
    assert_eq!(back.check_keyring().await, Ok(None));
    // An earlier version has written the wrong one down.
    bench
        .server()
        .ask::<()>(redis::cmd("SET").arg("sipwake:ring").arg(wrong.fingerprint(Reading::now()).identity_text()));
    let back = node(bench, "a", &right);
    assert_eq!(back.check_keyring().await, Ok(None));
    assert_eq!(claim_all(&back, 10).await, [id(1)]);
    // The right one is lost for good.
    wrong.accept().expect("accepted");
    let anew = node(bench, "a", &wrong);
    assert_eq!((anew.check_keyring().await, put_new(&anew, 2).await), (Ok(None), Ok(())));
}

pub async fn a_keyring_that_was_accepted_beside_others_leaves_theirs_standing_while_they_begin_again(bench: &Bench) {
    let right = Keyring::ephemeral();
    let b = node(bench, "b", &right);
    assert_eq!(b.check_keyring().await, Ok(None));
    b.hold_lease().await.expect("leased");
    enable(&b, 1, "alice").await;
    let scratch = Scratch::new();
    let made = Keyring::open(&scratch.path().join("keyring")).expect("made");
    made.accept().expect("accepted");
    let a = node(bench, "a", &made);
    assert_eq!(a.check_keyring().await, Ok(Some(KeyringMismatch::Other)));
    b.release_lease().await.expect("released");
    assert_eq!(a.check_keyring().await, Ok(Some(KeyringMismatch::Other)), "the others are back in a moment");
    assert_eq!(claim_all(&a, 10).await, []);
    let back = node(bench, "b", &right);
    assert_eq!((back.check_keyring().await, back.hold_lease().await), (Ok(None), Ok(Lease::Held)));
    assert_eq!(claim_until(&back, 1).await, [id(1)]);
    back.release_lease().await.expect("released");
    // None of them has run for ten minutes.
    forget_name(bench);
    until("the accepted one stands", async || a.check_keyring().await == Ok(None)).await;
}

pub async fn a_copy_from_before_a_rotation_does_not_stand_when_the_name_is_forgotten(bench: &Bench) {
    let scratch = Scratch::new();
    let file = scratch.path().join("keyring");
    let rotated = Keyring::open(&file).expect("made");
    let before = copy_of(&scratch, &file, "before");
    let a = node(bench, "a", &rotated);
    assert_eq!(a.check_keyring().await, Ok(None));
    rotated.mix(b"sixteen bytes or more", Reading::now()).expect("mixed");
    assert_eq!(a.check_keyring().await, Ok(None));
    forget_name(bench);
    let old = node(bench, "a", &before);
    assert_eq!(old.check_keyring().await, Ok(Some(KeyringMismatch::Behind)));
    // The rotated one is lost for good.
    before.accept().expect("accepted");
    until("the copy stands", async || old.check_keyring().await == Ok(None)).await;
    assert_eq!(node(bench, "a", &rotated).check_keyring().await, Ok(None));
}

#[tokio::test]
async fn a_part_of_a_cluster_that_is_away_keeps_no_right_keyring_from_standing() {
    let bench = Bench::on(RedisServer::start_cluster());
    let server = bench.server();
    let (right, wrong) = (Keyring::ephemeral(), Keyring::ephemeral());
    let a = node(&bench, "a", &right);
    assert_eq!(a.check_keyring().await, Ok(None));
    a.hold_lease().await.expect("leased");
    for number in 1..=30 {
        enable(&a, number, &format!("user{number}")).await;
    }
    server.ask::<()>(redis::cmd("CONFIG").arg("SET").arg("cluster-require-full-coverage").arg("no"));
    let slot = |key: &str| server.ask::<u16>(redis::cmd("CLUSTER").arg("KEYSLOT").arg(key));
    let is_there =
        |key: &String| ["sipwake:ring", "sipwake:nodes", "sipwake:lease:"].iter().any(|of| key.starts_with(of));
    let names: Vec<u16> = server.keys().iter().filter(|key| is_there(key)).map(|key| slot(key)).collect();
    let index = slot("sipwake:n:a");
    let is_away = |slot: &u16| (*slot >= 5_461 || *slot == index) && !names.contains(slot);
    forget_name(&bench);
    let away: Vec<u16> = (0..16_384).filter(is_away).collect();
    server.ask::<()>(redis::cmd("CLUSTER").arg("DELSLOTS").arg(away));
    // What there is to be opened cannot be found.
    let back = node(&bench, "a", &right);
    until("it stands without the index", async || back.check_keyring().await == Ok(None)).await;
    forget_name(&bench);
    server.ask::<()>(redis::cmd("CLUSTER").arg("ADDSLOTS").arg(index));
    // A third of it can be read.
    let astray = node(&bench, "a", &wrong);
    until("it is told", async || astray.check_keyring().await == Ok(Some(KeyringMismatch::Foreign))).await;
    let back = node(&bench, "a", &right);
    until("it stands without most records", async || back.check_keyring().await == Ok(None)).await;
}

pub async fn a_copy_from_before_a_rotation_leaves_what_its_node_has_to_those_who_have_rotated(bench: &Bench) {
    let scratch = Scratch::new();
    let file = scratch.path().join("keyring");
    let rotated = Keyring::open(&file).expect("made");
    let before = copy_of(&scratch, &file, "before");
    let (a, b) = (node(bench, "a", &rotated), node(bench, "b", &before));
    for node in [&a, &b] {
        assert_eq!(node.check_keyring().await, Ok(None));
        node.hold_lease().await.expect("leased");
    }
    enable(&b, 1, "alice").await;
    rotated.mix(b"sixteen bytes or more", Reading::now()).expect("mixed");
    assert_eq!(a.check_keyring().await, Ok(None));
    assert_eq!(b.check_keyring().await, Ok(Some(KeyringMismatch::Behind)));
    // Also when it comes late.
    assert_ne!(b.hold_lease().await, Ok(Lease::GivenWay), "it serves what it has");
    let again = node(bench, "b", &before);
    assert_eq!(again.check_keyring().await, Ok(Some(KeyringMismatch::Behind)));
    assert_eq!(again.hold_lease().await, Ok(Lease::GivenWay));
    a.hold_lease().await.expect("leased");
    assert_eq!(claim_until(&a, 1).await, [id(1)]);
}

pub async fn a_file_that_is_shared_is_rotated_for_all(bench: &Bench) {
    let scratch = Scratch::new();
    let file = scratch.path().join("keyring");
    let (one, two) = (Keyring::open(&file).expect("made"), Keyring::open(&file).expect("opened"));
    let (a, b) = (node(bench, "a", &one), node(bench, "b", &two));
    assert_eq!((a.check_keyring().await, b.check_keyring().await), (Ok(None), Ok(None)));
    one.mix(b"sixteen bytes or more", Reading::now()).expect("mixed");
    assert_eq!((a.check_keyring().await, b.check_keyring().await), (Ok(None), Ok(None)));
}
