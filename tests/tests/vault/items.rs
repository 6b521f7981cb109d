//! What is kept beside a record: messages and missed calls, in each kind of store.
//!
//! Invariant: each function here runs in the conformance suite of `vault.rs`.

use relay::clock::{DAY_S, unix_now, unix_now_ms};
use relay::domain::story::{Moment, Story};
use relay::vault::items::{Counts, MESSAGES_MAX, MISSED_CALLS_MAX, Message, MissedCall, Placement};
use relay::vault::{RecordToWrite, StoreError, Vault};
use sip::id::{CallId, MessageId, ShardTag};

use super::{Bench, claim_all, enable, id, record, to_write, until};

pub fn message(number: u128) -> Message {
    Message {
        id: MessageId::new((number + 77) << 71, ShardTag(9)),
        from: "sip:bob@sender.example".into(),
        name: Some("Bob".into()),
        content_type: "text/plain".into(),
        body: format!("meet me at {number} o'clock").as_bytes().into(),
        received_at: 1_795_000_000 + number as u64,
        expires_at: 4_000_000_000,
    }
}

pub fn missed(number: u128) -> MissedCall {
    MissedCall {
        call: CallId::new(number << 64, ShardTag(7)),
        from: "sip:bob@sender.example".into(),
        name: None,
        at: 1_795_000_000 + number as u64,
        expires_at: 4_000_000_000,
        given_up: true,
    }
}

pub async fn put_item(vault: &Vault, number: u128, message: &Message) -> Result<Placement, StoreError> {
    vault.put_item(id(number), &vault.seal_message(id(number), || message.clone())).await
}

pub async fn keep_missed(vault: &Vault, number: u128, missed: &MissedCall) -> Result<Placement, StoreError> {
    vault.put_item(id(number), &vault.seal_missed_call(id(number), || missed.clone())).await
}

/// Whether Redis, where it is one, holds any of this in the clear; a key that names what is kept counts too.
fn shows(bench: &Bench, needle: &str) -> bool {
    let Some(server) = &bench.server else { return false };
    let all = server.keys().into_iter().flat_map(|key| {
        let dumped: Vec<u8> = server.ask(redis::cmd("DUMP").arg(&key));
        [key.into_bytes(), dumped].concat()
    });
    let all: Vec<u8> = all.collect();
    memchr::memmem::find(&all, needle.as_bytes()).is_some()
}

pub async fn a_message_that_was_kept_is_there_until_it_is_dropped(bench: &Bench) {
    let vault = bench.node("a");
    enable(&vault, 1, "alice").await;
    enable(&vault, 2, "carol").await;
    for number in [1, 2] {
        assert_eq!(put_item(&vault, 1, &message(number)).await, Ok(Placement::Kept));
    }
    assert_eq!(keep_missed(&vault, 1, &missed(3)).await, Ok(Placement::Kept));
    assert_eq!(vault.messages(id(1)).await, Ok(vec![message(1), message(2)]));
    assert_eq!(vault.missed_calls(id(1)).await, Ok(vec![missed(3)]));
    assert_eq!(vault.item_counts(id(1)).await, Ok(Counts { messages: 2, missed_calls: 1 }));
    assert_eq!(vault.item_counts(id(2)).await, Ok(Counts::default()), "of another");
    for needle in
        ["sender.example", "o'clock", "text/plain", &message(1).id.to_string(), &message(1).id.to_string()[2..]]
    {
        assert!(!shows(bench, needle), "{needle} lies in Redis");
    }
    assert_eq!(vault.remove_message(id(2), message(1).id).await, Ok(false));
    assert_eq!(vault.remove_message(id(1), message(1).id).await, Ok(true));
    assert_eq!(vault.remove_message(id(1), message(1).id).await, Ok(false));
    assert_eq!(vault.remove_missed_call(id(1), missed(3).call).await, Ok(true));
    assert_eq!(vault.messages(id(1)).await, Ok(vec![message(2)]));
    assert_eq!(vault.missed_calls(id(1)).await, Ok(vec![]));
}

/// All in one second, and most in one millisecond.
pub async fn what_is_kept_is_listed_in_the_order_in_which_it_came(bench: &Bench) {
    const SECOND: u64 = 1_795_000_000;
    // Names that tell nothing of the order.
    let named = |number: u128| (number * 37 + 11) % 64;
    let message = |number| Message { received_at: SECOND, ..message(named(number)) };
    let missed = |number| MissedCall { at: SECOND, ..missed(named(number)) };
    let vault = bench.node("a");
    enable(&vault, 1, "alice").await;
    // The one that was there first reaches the store last.
    let first = vault.seal_message(id(1), || message(0));
    for number in 1..20 {
        assert_eq!(put_item(&vault, 1, &message(number)).await, Ok(Placement::Kept));
        assert_eq!(keep_missed(&vault, 1, &missed(number)).await, Ok(Placement::Kept));
    }
    assert_eq!(vault.put_item(id(1), &first).await, Ok(Placement::Kept));
    assert_eq!(vault.messages(id(1)).await, Ok((0..20).map(message).collect::<Vec<_>>()));
    assert_eq!(vault.missed_calls(id(1)).await, Ok((1..20).map(missed).collect::<Vec<_>>()));
    // Its places are ahead of the clock by as many milliseconds as it has kept things, at most; no node comes back as fast.
    let before = unix_now_ms();
    until("the clock has gone on", async || unix_now_ms() > before + 40).await;
    let after = bench.node("a");
    assert_eq!(claim_all(&after, 8).await, [id(1)]);
    for number in 20..30 {
        assert_eq!(put_item(&after, 1, &message(number)).await, Ok(Placement::Kept));
    }
    let listed = after.messages(id(1)).await.expect("the store answers");
    assert_eq!(listed, (0..30).map(message).collect::<Vec<_>>());
}

/// A device that renews finds what came before, as long as each lasts by itself.
pub async fn what_is_kept_goes_on_with_a_lease_that_is_renewed_and_ends_with_one_that_is_shortened(bench: &Bench) {
    let vault = bench.node("a");
    let record = record("alice");
    let (sealed, lookup) = (vault.seal(id(1), &record), vault.lookup_of(&record));
    let placed = vault.put(to_write(id(1), &sealed, unix_now() + 3, &lookup)).await.expect("put");
    let put_until = async |until| {
        vault.put(RecordToWrite { fence: placed.fence, ..to_write(id(1), &sealed, until, &lookup) }).await
    };
    assert_eq!(put_item(&vault, 1, &message(1)).await, Ok(Placement::Kept));
    let over = unix_now() + 4;
    assert_eq!(put_item(&vault, 1, &Message { expires_at: over, ..message(2) }).await, Ok(Placement::Kept));
    assert_eq!(keep_missed(&vault, 1, &missed(3)).await, Ok(Placement::Kept));
    assert!(put_until(unix_now() + DAY_S).await.is_ok());
    until("the time of the first lease, and of one message", async || unix_now() > over).await;
    assert_eq!(vault.messages(id(1)).await, Ok(vec![message(1)]));
    assert_eq!(vault.missed_calls(id(1)).await, Ok(vec![missed(3)]));
    let lasts = |collection: &str| {
        let key = format!("sipwake:{collection}:{{{}}}", id(1));
        bench.server.as_ref().map(|server| server.ask::<i64>(redis::cmd("TTL").arg(&key)))
    };
    for collection in ["m", "c"] {
        assert!(lasts(collection).is_none_or(|left| (86_000..=86_400).contains(&left)), "{:?}", lasts(collection));
    }
    assert!(put_until(unix_now() + 2).await.is_ok());
    for collection in ["m", "c"] {
        assert!(lasts(collection).is_none_or(|left| (0..=2).contains(&left)), "{:?}", lasts(collection));
    }
    until("the end", async || vault.messages(id(1)).await == Ok(vec![])).await;
}

/// Whoever adds a story takes the old ones away; the TTL takes the last.
pub async fn a_story_goes_after_a_day_and_with_its_instance(bench: &Bench) {
    let vault = bench.node("a");
    let (lookup, fence) = enable(&vault, 1, "alice").await;
    let of = |number: u128| {
        let call = CallId::new(number << 64, ShardTag(7));
        Story::new(call, id(1), "com.example.phone", "sip:bob@sender.example", unix_now_ms() + number as u64)
    };
    let (mut one, two) = (of(1), of(2));
    assert_eq!(vault.put_item(id(1), &vault.seal_story(&one)).await, Ok(Placement::Kept));
    one.tell(unix_now_ms() + 9, Moment::HungUp { by_device: true });
    for story in [&one, &two] {
        assert_eq!(vault.put_item(id(1), &vault.seal_story(story)).await, Ok(Placement::Kept), "in place of the first");
    }
    assert_eq!(vault.stories(id(1)).await, Ok(vec![one.clone(), two.clone()]));
    for needle in ["sender.example", "bob", "com.example.phone"] {
        assert!(!shows(bench, needle), "{needle} lies in Redis");
    }
    if let Some(server) = &bench.server {
        let key = server.keys().into_iter().find(|key| key.starts_with("sipwake:s:")).unwrap_or_default();
        let ttl = || server.ask::<i64>(redis::cmd("TTL").arg(&key));
        assert!((86_000..=86_400).contains(&ttl()), "{}", ttl());
        // A story whose order is a day and more old goes with the next; the record's renewal brings no day back.
        let old = [&1_u64.to_be_bytes()[..], b"old"].concat();
        server.ask::<i64>(redis::cmd("HSET").arg(&key).arg("an item key that is").arg(old));
        assert_eq!(vault.put_item(id(1), &vault.seal_story(&two)).await, Ok(Placement::Kept));
        assert_eq!(server.ask::<i64>(redis::cmd("HLEN").arg(&key)), 2);
        server.ask::<i64>(redis::cmd("EXPIRE").arg(&key).arg(60));
        let renewed = record("alice");
        assert!(
            vault
                .put(RecordToWrite {
                    fence,
                    ..to_write(id(1), &vault.seal(id(1), &renewed), renewed.expires_at, &lookup)
                })
                .await
                .is_ok()
        );
        assert!(
            (86_000..=86_400).contains(&ttl()),
            "a record that is renewed keeps its stories for their day: {}",
            ttl()
        );
    }
    assert_eq!(vault.remove_story(id(1), two.call).await, Ok(true));
    assert_eq!(vault.stories(id(1)).await, Ok(vec![one]));
    vault.erase(id(1), &lookup).await.expect("erased");
    assert_eq!(vault.stories(id(1)).await, Ok(vec![]));
    assert_eq!(vault.put_item(id(1), &vault.seal_story(&two)).await, Err(StoreError::Gone));
}

/// As a fail-over to a replica that lagged: the store has the collection, and this run's mark, as they were.
pub async fn what_was_deleted_is_deleted_again_by_whoever_did_so(bench: &Bench) {
    let (a, b, redis) = (bench.node("a"), bench.node("b"), bench.server());
    assert_eq!(a.losses(false).await, Ok(0));
    enable(&a, 1, "alice").await;
    for number in [1, 2] {
        assert_eq!(put_item(&a, 1, &message(number)).await, Ok(Placement::Kept));
    }
    assert_eq!(keep_missed(&a, 1, &missed(3)).await, Ok(Placement::Kept));
    let of = |collection: &str| format!("sipwake:{collection}:{{{}}}", id(1));
    let mut keys = vec![of("m"), of("c")];
    if !bench.is_cluster() {
        keys.push(format!("sipwake:mark:{}", a.owner()));
    }
    let dumps: Vec<Vec<u8>> = keys.iter().map(|key| redis.ask(redis::cmd("DUMP").arg(key))).collect();
    assert_eq!(a.remove_message(id(1), message(9).id).await, Ok(false), "never there");
    assert_eq!(a.remove_message(id(1), message(1).id).await, Ok(true));
    assert_eq!(a.remove_missed_call(id(1), missed(3).call).await, Ok(true));
    for (key, dump) in keys.iter().zip(&dumps) {
        redis.ask::<()>(redis::cmd("RESTORE").arg(key).arg(100_000).arg(dump).arg("REPLACE"));
    }
    assert_eq!(b.messages(id(1)).await, Ok(vec![message(1), message(2)]), "it is back");
    assert_eq!((a.messages(id(1)).await, a.missed_calls(id(1)).await), (Ok(vec![message(2)]), Ok(vec![])));
    assert_eq!(put_item(&a, 1, &message(1)).await, Ok(Placement::Known), "nor is it kept again");
    assert_eq!(put_item(&a, 1, &message(9)).await, Ok(Placement::Kept), "what was never there may come");
    assert_eq!(a.losses(bench.is_cluster()).await, Ok(1), "the deletion was the last that this run had written");
    assert_eq!(a.delete_again().await, Ok(()));
    assert_eq!(b.messages(id(1)).await, Ok(vec![message(2), message(9)]));
    assert_eq!(b.missed_calls(id(1)).await, Ok(vec![]));
    assert_eq!(a.losses(false).await, Ok(1));
}

/// Of what strangers drive out of a list nothing is remembered: they would fill the memory of what devices have deleted.
pub async fn what_gave_its_place_to_another_is_not_remembered(bench: &Bench) {
    let (a, redis) = (bench.node("a"), bench.server());
    enable(&a, 1, "alice").await;
    assert_eq!(keep_missed(&a, 1, &missed(3)).await, Ok(Placement::Kept));
    let key = format!("sipwake:c:{{{}}}", id(1));
    let dump: Vec<u8> = redis.ask(redis::cmd("DUMP").arg(&key));
    assert_eq!(a.displace_missed_call(id(1), missed(3).call).await, Ok(true));
    assert_eq!(a.displace_missed_call(id(1), missed(3).call).await, Ok(false));
    assert_eq!(a.missed_calls(id(1)).await, Ok(vec![]));
    redis.ask::<()>(redis::cmd("RESTORE").arg(&key).arg(100_000).arg(dump).arg("REPLACE"));
    assert_eq!(a.delete_again().await, Ok(()));
    assert_eq!(a.missed_calls(id(1)).await, Ok(vec![missed(3)]), "one more of them");
}

pub async fn the_same_message_is_kept_once(bench: &Bench) {
    let vault = bench.node("a");
    enable(&vault, 1, "alice").await;
    let item = vault.seal_message(id(1), || message(1));
    assert_eq!(vault.put_item(id(1), &item).await, Ok(Placement::Kept));
    assert_eq!(vault.put_item(id(1), &item).await, Ok(Placement::Kept), "the answer was lost, and it is asked again");
    assert_eq!(put_item(&vault, 1, &message(1)).await, Ok(Placement::Known), "sent again");
    assert_eq!(vault.messages(id(1)).await.map(|all| all.len()), Ok(1));
}

pub async fn what_is_kept_is_bounded_and_of_missed_calls_the_oldest_goes(bench: &Bench) {
    let vault = bench.node("a");
    enable(&vault, 1, "alice").await;
    for number in 0..MESSAGES_MAX as u128 {
        assert_eq!(put_item(&vault, 1, &message(number)).await, Ok(Placement::Kept));
    }
    assert_eq!(put_item(&vault, 1, &message(1_000)).await, Ok(Placement::Full));
    assert_eq!(put_item(&vault, 1, &message(1)).await, Ok(Placement::Known), "what is there needs no room");
    assert_eq!(vault.remove_message(id(1), message(7).id).await, Ok(true));
    let few = vault.seal_message(id(1), || message(1_000)).within(MESSAGES_MAX - 1);
    assert_eq!(vault.put_item(id(1), &few).await, Ok(Placement::Full), "the last place is for somebody else");
    assert_eq!(put_item(&vault, 1, &message(1_000)).await, Ok(Placement::Kept));
    for number in 0..MISSED_CALLS_MAX as u128 + 5 {
        assert_eq!(keep_missed(&vault, 1, &missed(number)).await, Ok(Placement::Kept));
    }
    let left = vault.missed_calls(id(1)).await.expect("the store answers");
    assert_eq!(left.len(), MISSED_CALLS_MAX);
    assert!(left.contains(&missed(MISSED_CALLS_MAX as u128 + 4)), "the latest is there");
}

pub async fn nothing_is_kept_for_an_instance_that_is_not_there(bench: &Bench) {
    let vault = bench.node("a");
    assert_eq!(put_item(&vault, 1, &message(1)).await, Err(StoreError::Gone));
    let (lookup, _) = enable(&vault, 1, "alice").await;
    vault.erase(id(1), &lookup).await.expect("erased");
    assert_eq!(put_item(&vault, 1, &message(1)).await, Err(StoreError::Gone), "a wipe is not undone by a late message");
    assert_eq!(vault.messages(id(1)).await, Ok(vec![]));
}

pub async fn what_is_kept_goes_with_its_instance_and_survives_a_change_and_a_claim(bench: &Bench) {
    let vault = bench.node("a");
    let (lookup, fence) = enable(&vault, 1, "alice").await;
    put_item(&vault, 1, &message(1)).await.expect("kept");
    keep_missed(&vault, 1, &missed(1)).await.expect("kept");
    let sealed = vault.seal(id(1), &record("alice"));
    vault.put(RecordToWrite { fence, ..to_write(id(1), &sealed, unix_now() + DAY_S, &lookup) }).await.expect("put");
    assert_eq!(vault.item_counts(id(1)).await, Ok(Counts { messages: 1, missed_calls: 1 }));
    if let Some(server) = &bench.server {
        let left = |key: String| -> i64 { server.ask(redis::cmd("PTTL").arg(key)) };
        let record = left(format!("sipwake:i:{{{}}}", id(1)));
        for collection in ["m", "c"] {
            let beside = left(format!("sipwake:{collection}:{{{}}}", id(1)));
            assert!((1..=record + 1_000).contains(&beside), "{beside} ms beside {record} ms");
        }
    }
    let after = bench.node("a");
    assert_eq!(claim_all(&after, 8).await, [id(1)]);
    assert_eq!(after.messages(id(1)).await, Ok(vec![message(1)]), "after a restart of the node");
    // Enabling again displaces the instance, and its owner wipes it.
    let placed = after.put(to_write(id(2), &after.seal(id(2), &record("alice")), unix_now() + DAY_S, &lookup)).await;
    assert_eq!(placed.expect("put").displaced, Some(id(1)));
    assert_eq!(after.erase(id(1), &lookup).await, Ok(true));
    assert_eq!(after.item_counts(id(1)).await, Ok(Counts::default()));
    assert!(!shows(bench, &id(1).to_string()), "not even its name");
}

pub async fn a_message_that_is_over_is_not_given_out(bench: &Bench) {
    let vault = bench.node("a");
    let record = record("alice");
    let (sealed, lookup) = (vault.seal(id(1), &record), vault.lookup_of(&record));
    vault.put(to_write(id(1), &sealed, unix_now() + 3, &lookup)).await.expect("put");
    let over = Message { expires_at: unix_now(), ..message(1) };
    put_item(&vault, 1, &over).await.expect("kept");
    assert_eq!(vault.messages(id(1)).await, Ok(vec![]));
    assert_eq!(vault.item_counts(id(1)).await, Ok(Counts::default()), "it was forgotten on the way");
    // With the end of the instance everything goes by itself.
    put_item(&vault, 1, &message(2)).await.expect("kept");
    let empty = async || vault.item_counts(id(1)).await == Ok(Counts::default());
    until("what is kept ends with the record", empty).await;
}
