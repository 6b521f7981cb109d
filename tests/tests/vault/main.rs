//! The vault's stores: one conformance suite against each, and what only a real Redis can show.
//!
//! | room | subject |
//! | --- | --- |
//! | `items`, `boxes` | what is kept beside a record, and how much of it is read at once |
//! | `claims`, `nodes`, `rings` | records that are taken over; several nodes; keyrings of several nodes |
//! | `away`, `silent`, `late`, `cut` | a Redis that is away or silent, requests that arrive late, and replies that end in their middle |
//! | `refusals`, `examination`, `odd` | a Redis that refuses, that is of the wrong kind, or holds odd values |
//!
//! Invariant: each Redis is a real redis-server of the test's own. Nothing here waits for a time to pass, but for a
//! condition, with a deadline.

use std::time::{Duration, Instant};

use relay::clock::{DAY_S, unix_now};
use relay::secret::{Aor, InstanceSecret, Password, PushToken};
use relay::vault::peer_messages::Letter;
use relay::vault::record::{Account, Device, Ha1s, Presence, Proof, Provider, PushTarget, Record, WakeFor};
use relay::vault::{
    Fence, Keyring, Lease, Lookup, MAX_LIFETIME_S, Naming, RecordToWrite, Sealed, Settings, StoreError, StoreTls,
    Stored, Vault,
};
use sip::id::{BindingId, InstanceId, ShardTag};
use tests::redis_server::RedisServer;

mod away;
mod boxes;
mod claims;
mod cut;
mod examination;
mod items;
mod late;
mod nodes;
mod odd;
mod refusals;
mod rings;
mod silent;

use self::{claims::*, items::*, nodes::*, odd::*, rings::*};

/// The leases of the tests in which one runs out; short, so that a dead node is found soon.
const LEASE: Duration = Duration::from_secs(1);
/// The leases of all others: none runs out, however slow the machine is.
const LASTING: Duration = Duration::from_secs(600);
/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(15);

/// A store to be tested, and where it is.
struct Bench {
    first: Vault,
    settings: Settings,
    /// The data's server.
    server: Option<RedisServer>,
    /// Who tells where that is.
    sentinel: Option<RedisServer>,
}

impl Bench {
    fn memory() -> Self {
        let first = Vault::open_with("memory:", Keyring::ephemeral(), "first", settings()).expect("opened");
        Self { first, settings: settings(), server: None, sentinel: None }
    }

    fn on(server: RedisServer) -> Self {
        let first = open_on(&server, settings());
        Self { first, settings: settings(), server: Some(server), sentinel: None }
    }

    async fn behind_sentinel() -> Self {
        let master = RedisServer::start();
        let sentinel = master.start_sentinel();
        let first = open_on(&sentinel, lasting());
        until("the sentinel knows the master", async || first.ping().await.is_ok()).await;
        Self { first, settings: lasting(), server: Some(master), sentinel: Some(sentinel) }
    }

    /// The same store, or another one in memory, for nodes with these settings.
    fn with(self, settings: Settings) -> Self {
        let first = match self.sentinel.as_ref().or(self.server.as_ref()) {
            Some(server) => open_on(server, settings.clone()),
            None => Vault::open_with("memory:", Keyring::ephemeral(), "first", settings.clone()).expect("opened"),
        };
        Self { first, settings, ..self }
    }

    /// Where its nodes ask for it.
    fn url(&self) -> String {
        self.sentinel.as_ref().unwrap_or(self.server()).url()
    }

    /// A vault with a keyring of its own.
    fn open(&self, name: &str, keyring: Keyring) -> Vault {
        Vault::open_with(&self.url(), keyring, name, self.settings.clone()).expect("opened")
    }

    fn is_cluster(&self) -> bool {
        self.server().is_cluster()
    }

    fn redis() -> Self {
        Self::on(RedisServer::start())
    }

    /// A run of the node of this name that begins now.
    fn node(&self, name: &str) -> Vault {
        self.first.as_node(name)
    }

    fn server(&self) -> &RedisServer {
        self.server.as_ref().expect("a bench with a server")
    }
}

fn open_on(server: &RedisServer, settings: Settings) -> Vault {
    let settings = Settings { tls: tls_of(server), ..settings };
    Vault::open_with(&server.url(), Keyring::ephemeral(), "first", settings).expect("opened")
}

/// What a server that speaks TLS wants.
fn tls_of(server: &RedisServer) -> StoreTls {
    let client = server.client().map(|(certificate, key)| (certificate.clone(), key.clone().into()));
    StoreTls { ca: server.ca().map(Into::into), client }
}

fn settings() -> Settings {
    Settings { lease: LEASE, ..Settings::default() }
}

/// Where nothing runs out.
fn lasting() -> Settings {
    Settings { lease: LASTING, operation_limit: PATIENCE, ..Settings::default() }
}

fn id(number: u128) -> InstanceId {
    InstanceId::new(number << 64, ShardTag(7))
}

fn record(user: &str) -> Record {
    let push = |token: &str| {
        PushTarget::new(Provider::ApnsProduction, PushToken::new(&format!("{token}-{user}")), 1_795_000_000)
    };
    Record {
        app: "com.example.phone".into(),
        account: Account {
            aor: Aor::new(&format!("sip:{user}@aor.example")),
            auth_username: format!("auth-{user}").into(),
            proof: Proof::Password(Password::new("open-sesame")),
            registrar: Some("sip:registrar.example".into()),
            outbound_proxy: None,
        },
        device: Device {
            call_push: push("voip-token"),
            alert_push: Some(push("alert-token")),
            label: Some("Pixel".into()),
        },
        wake_for: WakeFor { call: true, message: true, voicemail: false, missed_call: true },
        secret: InstanceSecret::new("device-secret"),
        binding: BindingId::new(1 << 100, ShardTag(7)),
        sip_instance: [9; 16],
        proven: true,
        created_at: unix_now(),
        expires_at: unix_now() + 5 * DAY_S,
        presence: Presence::Background,
        reminded: None,
        told_failing: false,
    }
}

/// A record that there is not yet, to be written.
fn to_write<'a>(id: InstanceId, sealed: &'a Sealed, expires_at: u64, lookup: &'a Lookup) -> RecordToWrite<'a> {
    RecordToWrite { id, sealed, expires_at, lookup, fence: Fence::NEW }
}

/// Enables `user` as instance `number`, for five days.
async fn enable(vault: &Vault, number: u128, user: &str) -> (Lookup, Fence) {
    let record = record(user);
    let lookup = vault.lookup_of(&record);
    let sealed = vault.seal(id(number), &record);
    let placed = vault.put(to_write(id(number), &sealed, record.expires_at, &lookup)).await.expect("put");
    (lookup, placed.fence)
}

async fn load(vault: &Vault, number: u128) -> Option<Stored> {
    vault.load(id(number)).await.expect("the store answers")
}

/// Claims until a round ends, `batch` at a time.
async fn claim_all(vault: &Vault, batch: usize) -> Vec<InstanceId> {
    let mut ids = Vec::new();
    loop {
        let claimed = vault.claim(batch).await.expect("the store answers");
        assert!(claimed.len() <= batch);
        if claimed.is_empty() {
            return ids;
        }
        ids.extend(claimed.iter().map(|stored| stored.id));
    }
}

/// Claims, round after round, until `count` records were taken.
async fn claim_until(vault: &Vault, count: usize) -> Vec<InstanceId> {
    let deadline = Instant::now() + PATIENCE;
    let mut ids = Vec::new();
    while ids.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} were claimed", ids.len());
        ids.extend(claim_all(vault, 8).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    ids
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Each function named here runs against each kind of store; those behind the `;` ask the server itself, so that a store in memory
/// has no part in them. Leases run out in those of the second part alone.
macro_rules! conformance {
    (
        $($name:ident),* $(,)?; $($asks:ident),* $(,)?;
        where leases run out: $($short:ident),* $(,)?; $($short_asks:ident),* $(,)?
    ) => {
        mod in_memory {
            $(#[tokio::test] async fn $name() { super::$name(&super::Bench::memory().with(super::lasting())).await })*
            $(#[tokio::test] async fn $short() { super::$short(&super::Bench::memory()).await })*
        }
        mod in_redis {
            $(#[tokio::test] async fn $name() { super::$name(&super::Bench::redis().with(super::lasting())).await })*
            $(#[tokio::test] async fn $asks() { super::$asks(&super::Bench::redis().with(super::lasting())).await })*
            $(#[tokio::test] async fn $short() { super::$short(&super::Bench::redis()).await })*
            $(#[tokio::test] async fn $short_asks() { super::$short_asks(&super::Bench::redis()).await })*
        }
        // On one server each, in turn: they take seconds to come up.
        #[tokio::test]
        async fn a_redis_cluster_keeps_the_whole_suite() {
            whole_suite("in a Redis Cluster", Bench::on(RedisServer::start_cluster())).await;
        }
        #[tokio::test]
        async fn a_redis_behind_a_sentinel_keeps_the_whole_suite() {
            whole_suite("behind a Sentinel", Bench::behind_sentinel().await).await;
        }
        async fn whole_suite(place: &str, bench: Bench) {
            let bench = bench.with(lasting());
            $(run!(place, $name, bench);)*
            $(run!(place, $asks, bench);)*
            let bench = bench.with(settings());
            $(run!(place, $short, bench);)*
            $(run!(place, $short_asks, bench);)*
        }
    };
}

macro_rules! run {
    ($place:ident, $name:ident, $bench:ident) => {
        eprintln!("{}: {}", $place, stringify!($name));
        $bench.server().ask::<()>(&redis::cmd("FLUSHALL"));
        $name(&$bench).await;
    };
}

conformance! {
    what_may_happen_so_often_is_counted_for_all_nodes_until_its_time_is_over_or_it_is_given_back,
    a_record_that_was_put_is_loaded_and_opens,
    a_put_whose_answer_was_lost_may_be_repeated,
    a_record_can_be_changed_by_its_owner,
    an_erased_instance_is_gone_and_so_is_its_lookup,
    an_erased_instance_is_not_brought_back_by_a_late_change,
    a_record_ends_by_itself_at_its_expiry,
    no_record_is_kept_for_longer_than_six_days,
    enabling_again_displaces_the_earlier_instance,
    a_new_push_token_moves_the_lookup,
    a_restarted_node_claims_its_own_at_once_each_once_and_in_batches,
    what_is_wanted_is_claimed_first_all_of_it_and_what_is_invented_costs_nothing,
    what_this_run_enabled_is_not_claimed_by_it,
    a_node_that_released_its_lease_is_followed_at_once,
    what_a_living_node_has_offered_is_claimed_by_the_node_that_it_was_offered_to_and_nothing_else,
    two_nodes_that_claim_at_once_never_get_the_same_record,
    a_node_hears_that_its_lease_lapsed,
    a_message_that_was_kept_is_there_until_it_is_dropped,
    what_is_kept_is_listed_in_the_order_in_which_it_came,
    a_story_goes_after_a_day_and_with_its_instance,
    the_same_message_is_kept_once,
    what_is_kept_is_bounded_and_of_missed_calls_the_oldest_goes,
    nothing_is_kept_for_an_instance_that_is_not_there,
    what_is_kept_goes_with_its_instance_and_survives_a_change_and_a_claim,
    a_message_that_is_over_is_not_given_out,
    what_is_kept_goes_on_with_a_lease_that_is_renewed_and_ends_with_one_that_is_shortened,
    what_is_missing_is_restored_with_its_fence_and_what_another_node_took_later_is_left_to_it,
    what_a_node_stores_that_has_left_is_claimed_all_the_same,
    of_what_was_claimed_it_is_known_which_node_has_put_it_last_and_which_have_had_it,
    the_store_gives_a_sign_of_life;
    after_an_erase_no_key_of_the_instance_is_left_in_redis,
    every_key_in_redis_ends_by_itself,
    what_cannot_be_given_an_end_is_not_written,
    nothing_is_in_the_clear_in_redis,
    a_connection_that_redis_kills_is_replaced_without_anyone_noticing,
    what_is_no_record_keeps_no_other_from_being_claimed,
    records_that_an_index_has_lost_are_found,
    what_came_back_with_an_earlier_owner_is_its_later_ones_and_the_earlier_one_is_told,
    what_is_written_over_is_never_missing_and_its_earlier_owner_is_told,
    a_damaged_record_of_another_run_is_written_over_as_well_and_its_owner_is_told,
    of_many_instances_that_another_node_has_ended_the_owner_hears_in_several_answers,
    a_letter_is_for_one_run_is_read_once_and_says_nothing_to_who_reads_the_store,
    what_a_node_says_of_itself_is_believed_from_the_node_alone,
    an_erasure_that_the_store_has_lost_is_noticed_also_by_a_run_that_has_written_nothing_else,
    what_was_deleted_is_deleted_again_by_whoever_did_so,
    what_gave_its_place_to_another_is_not_remembered,
    an_odd_value_keeps_nobody_else_from_anything,
    a_damaged_record_is_its_owners_to_write_again_and_nobody_elses_to_take,
    an_odd_value_under_a_name_of_ones_own_gives_way,
    copies_are_one_keyring_until_something_is_mixed_into_one_of_them,
    a_keyring_that_is_made_for_an_empty_store_stands_at_once_and_stays,
    a_file_that_is_shared_is_rotated_for_all,
    what_is_here_is_written_again_whichever_keyring_stands,
    whoever_claims_a_record_in_the_moment_in_which_it_is_erased_hears_of_its_end,
    what_no_index_names_any_more_is_named_again_by_its_owner,
    what_a_node_has_ended_by_itself_is_erased_unless_another_one_has_claimed_it_since,
    what_a_store_has_shown_is_erased_unless_it_was_written_since_whoever_owns_it;
    where leases run out:
    the_records_of_a_living_node_are_left_to_it,
    the_records_of_a_dead_node_are_claimed_and_its_late_put_is_refused;
    a_redis_that_was_away_for_long_does_not_make_nodes_rob_each_other,
    a_redis_that_somebody_flushes_does_not_make_nodes_rob_each_other,
    a_redis_that_has_lost_what_it_was_told_is_noticed_and_one_that_was_only_away_is_not,
    a_loss_is_noticed_that_later_writes_have_made_up_and_nothing_is_claimed_at_first,
    a_renewal_that_is_carried_out_late_does_not_hide_that_the_lease_had_run_out,
    a_lease_that_is_missing_before_its_time_is_a_loss_and_one_that_another_run_has_is_none,
    what_a_node_stores_whose_lease_ran_out_as_it_was_about_to_leave_is_claimed_all_the_same,
    a_node_with_another_keyring_takes_nothing_over_and_takes_nothing,
    a_keyring_that_was_made_for_want_of_one_takes_nothing_of_a_store_that_holds_something,
    a_store_that_has_lost_everything_makes_a_wrong_keyring_no_right_one,
    a_node_that_opens_nothing_of_what_it_has_leaves_it_to_those_who_do,
    a_node_keeps_its_lease_while_it_is_alone_or_serves_something_or_opens_something,
    a_keyring_that_opens_nothing_of_its_node_does_not_stand_and_the_right_one_does_at_once,
    a_keyring_that_was_accepted_beside_others_leaves_theirs_standing_while_they_begin_again,
    a_copy_from_before_a_rotation_does_not_stand_when_the_name_is_forgotten,
    a_copy_from_before_a_rotation_leaves_what_its_node_has_to_those_who_have_rotated,
    of_two_processes_by_one_name_the_later_takes_nothing_and_leaves_the_lease_to_the_other,
    a_lease_that_a_clock_set_back_makes_last_is_no_sign_of_life,
}

async fn a_record_that_was_put_is_loaded_and_opens(bench: &Bench) {
    let vault = bench.node("a");
    let (lookup, fence) = enable(&vault, 1, "alice").await;
    let stored = load(&vault, 1).await.expect("stored");
    assert_eq!((stored.id, stored.fence, stored.owned), (id(1), fence, true));
    let opened = vault.open_lent(id(1), &stored.sealed, Clone::clone).expect("opens");
    assert_eq!(opened.account, record("alice").account);
    assert_eq!(stored.expires_at, opened.expires_at);
    assert_eq!(vault.find(&lookup).await, Ok(Some(id(1))));
    assert!(load(&vault, 2).await.is_none());
    let other = vault.lookup("com.example.phone", &Aor::new("sip:alice@aor.example"), &PushToken::new("another"));
    assert_eq!(vault.find(&other).await, Ok(None));
    assert!(!load(&bench.node("b"), 1).await.expect("stored").owned);
}

async fn a_put_whose_answer_was_lost_may_be_repeated(bench: &Bench) {
    let vault = bench.node("a");
    let first = enable(&vault, 1, "alice").await;
    assert_eq!(enable(&vault, 1, "alice").await, first);
    let other = bench.node("b");
    let (lookup, sealed) = (first.0, vault.seal(id(1), &record("alice")));
    let put = other.put(to_write(id(1), &sealed, unix_now() + 60, &lookup)).await;
    assert_eq!(put, Err(StoreError::NotOwner), "another node's instance is not new");
}

async fn a_record_can_be_changed_by_its_owner(bench: &Bench) {
    let vault = bench.node("a");
    let (lookup, fence) = enable(&vault, 1, "alice").await;
    let mut changed = record("alice");
    changed.presence = Presence::Foreground;
    let expires_at = unix_now() + 4 * DAY_S;
    let placed = vault
        .put(RecordToWrite { fence, ..to_write(id(1), &vault.seal(id(1), &changed), expires_at, &lookup) })
        .await
        .expect("put");
    assert_eq!((placed.fence, placed.displaced), (fence, None));
    let stored = load(&vault, 1).await.expect("stored");
    assert_eq!(stored.expires_at, expires_at);
    assert_eq!(vault.open_lent(id(1), &stored.sealed, |record| record.presence).expect("opens"), Presence::Foreground);
}

async fn an_erased_instance_is_gone_and_so_is_its_lookup(bench: &Bench) {
    let vault = bench.node("a");
    let (lookup, _) = enable(&vault, 1, "alice").await;
    enable(&vault, 2, "bob").await;
    let other = bench.node("b");
    assert_eq!(other.erase(id(1), &lookup).await, Ok(true), "whichever node hears of it");
    assert!(load(&vault, 1).await.is_none());
    assert_eq!(vault.find(&lookup).await, Ok(None));
    assert_eq!(vault.erase(id(1), &lookup).await, Ok(false));
    assert!(load(&vault, 2).await.is_some(), "the others stay");
}

async fn an_erased_instance_is_not_brought_back_by_a_late_change(bench: &Bench) {
    let vault = bench.node("a");
    let (lookup, fence) = enable(&vault, 1, "alice").await;
    vault.erase(id(1), &lookup).await.expect("erased");
    let sealed = vault.seal(id(1), &record("alice"));
    let put = vault.put(RecordToWrite { fence, ..to_write(id(1), &sealed, unix_now() + 60, &lookup) }).await;
    assert_eq!(put, Err(StoreError::Gone));
    assert!(load(&vault, 1).await.is_none());
    assert_eq!(vault.find(&lookup).await, Ok(None));
}

async fn a_record_ends_by_itself_at_its_expiry(bench: &Bench) {
    let vault = bench.node("a");
    let record = record("alice");
    let (sealed, lookup) = (vault.seal(id(1), &record), vault.lookup_of(&record));
    vault.put(to_write(id(1), &sealed, unix_now() + 2, &lookup)).await.expect("put");
    assert!(load(&vault, 1).await.is_some());
    until("the record is over", async || load(&vault, 1).await.is_none()).await;
    assert_eq!(vault.find(&lookup).await, Ok(None));
    assert_eq!(claim_all(&bench.node("a"), 8).await, []);
}

async fn no_record_is_kept_for_longer_than_six_days(bench: &Bench) {
    let vault = bench.node("a");
    let record = record("alice");
    let (sealed, lookup) = (vault.seal(id(1), &record), vault.lookup_of(&record));
    vault.put(to_write(id(1), &sealed, unix_now() + 30 * DAY_S, &lookup)).await.expect("put");
    assert!(load(&vault, 1).await.expect("stored").expires_at <= unix_now() + MAX_LIFETIME_S);
}

async fn enabling_again_displaces_the_earlier_instance(bench: &Bench) {
    let vault = bench.node("a");
    let (lookup, _) = enable(&vault, 1, "alice").await;
    let sealed = vault.seal(id(2), &record("alice"));
    let placed = bench.node("b").put(to_write(id(2), &sealed, unix_now() + DAY_S, &lookup)).await.expect("put");
    assert_eq!(placed.displaced, Some(id(1)));
    assert_eq!(vault.find(&lookup).await, Ok(Some(id(2))));
    let late = vault
        .put(RecordToWrite {
            fence: placed.fence,
            ..to_write(id(1), &vault.seal(id(1), &record("alice")), unix_now() + DAY_S, &lookup)
        })
        .await;
    assert_eq!(late.expect("still owned").displaced, None, "a change does not take the lookup back");
    assert_eq!(vault.erase(id(1), &lookup).await, Ok(true));
    assert_eq!(vault.find(&lookup).await, Ok(Some(id(2))), "wiping the earlier one leaves the later one's lookup");
    // One that is not proven yet leaves the lookup, and takes it later.
    let sealed = vault.seal(id(3), &record("alice"));
    let beside = vault.put_named(to_write(id(3), &sealed, unix_now() + DAY_S, &lookup), Naming::Leaves).await;
    assert_eq!(beside.expect("put").displaced, None);
    assert_eq!(vault.find(&lookup).await, Ok(Some(id(2))));
    assert_eq!(vault.take_lookup(id(3), unix_now() + DAY_S, &lookup).await, Ok(()));
    assert_eq!(vault.erase(id(2), &lookup).await, Ok(true));
    assert_eq!(vault.find(&lookup).await, Ok(Some(id(3))));
    assert_eq!(vault.erase(id(3), &lookup).await, Ok(true));
    let sealed = vault.seal(id(4), &record("alice"));
    let alone = vault.put_named(to_write(id(4), &sealed, unix_now() + DAY_S, &lookup), Naming::Leaves).await;
    assert_eq!(alone.expect("put").displaced, None);
    assert_eq!(vault.find(&lookup).await, Ok(Some(id(4))), "nobody had it");
}

async fn a_new_push_token_moves_the_lookup(bench: &Bench) {
    let vault = bench.node("a");
    let (old, fence) = enable(&vault, 1, "alice").await;
    let mut changed = record("alice");
    changed.device.call_push.token = PushToken::new("a-new-token");
    let new = vault.lookup_of(&changed);
    let expires_at = changed.expires_at;
    vault
        .put(RecordToWrite { fence, ..to_write(id(1), &vault.seal(id(1), &changed), expires_at, &new) })
        .await
        .expect("put");
    assert_eq!(vault.find(&old).await, Ok(None));
    assert_eq!(vault.find(&new).await, Ok(Some(id(1))));
    // An earlier try has written the record, and was cut off before the names.
    changed.device.call_push.token = PushToken::new("another-new-token");
    let (moved, fence) = (vault.lookup_of(&changed), load(&vault, 1).await.expect("stored").fence);
    vault.put(to_write(id(2), &vault.seal(id(2), &changed), expires_at, &moved)).await.expect("put");
    let sealed = vault.seal(id(1), &changed);
    let record = RecordToWrite { fence, ..to_write(id(1), &sealed, expires_at, &moved) };
    vault.put_named(record, Naming::Leaves).await.expect("put");
    assert_eq!(vault.find(&moved).await, Ok(Some(id(2))));
    let placed = vault.put_named(record, Naming::Moves { from: &new }).await.expect("put");
    assert_eq!((placed.displaced, vault.find(&moved).await), (Some(id(2)), Ok(Some(id(1)))));
    assert_eq!(vault.find(&new).await, Ok(None));
    assert_eq!(vault.erase(id(1), &old).await, Ok(true));
    assert_eq!(vault.find(&moved).await, Ok(None), "also when the one who erases knows only the old one");
}

async fn a_node_hears_that_its_lease_lapsed(bench: &Bench) {
    let before = bench.node("a");
    assert_eq!(before.hold_lease().await, Ok(Lease::Held));
    assert_eq!(before.hold_lease().await, Ok(Lease::Held));
    let after = bench.node("a");
    assert_eq!(after.hold_lease().await, Ok(Lease::Held));
    assert_eq!(before.hold_lease().await, Ok(Lease::Lapsed), "a later run took it");
}

async fn the_store_gives_a_sign_of_life(bench: &Bench) {
    assert!(bench.node("a").ping().await.is_ok());
}

/// The keys that may stay when no instance is left.
fn is_a_nodes_own(key: &str) -> bool {
    key == "sipwake:nodes"
        || key.starts_with("sipwake:lease:")
        || key.starts_with("sipwake:letters:")
        || key.starts_with("sipwake:mark:")
        || key.starts_with("sipwake:ring")
}

async fn after_an_erase_no_key_of_the_instance_is_left_in_redis(bench: &Bench) {
    let (a, b) = (bench.node("a"), bench.node("b"));
    a.hold_lease().await.expect("leased");
    let (lookup, fence) = enable(&a, 1, "alice").await;
    let mut changed = record("alice");
    changed.device.call_push.token = PushToken::new("a-new-token");
    let moved = a.lookup_of(&changed);
    a.put(RecordToWrite { fence, ..to_write(id(1), &a.seal(id(1), &changed), changed.expires_at, &moved) })
        .await
        .expect("put");
    a.release_lease().await.expect("released");
    assert_eq!(claim_all(&b, 10).await, [id(1)]);
    assert!(bench.server().keys().iter().any(|key| !is_a_nodes_own(key)));
    assert_eq!(a.erase(id(1), &lookup).await, Ok(true));
    let put =
        a.put(RecordToWrite { fence, ..to_write(id(1), &a.seal(id(1), &changed), changed.expires_at, &moved) }).await;
    assert_eq!(put, Err(StoreError::Gone));
    let (lookup, _) = enable(&b, 2, "bob").await;
    assert_eq!(b.erase(id(2), &lookup).await, Ok(true), "by its owner");
    // Its owner is told, so that it lets go; what it erases itself is no news to it.
    assert_eq!((a.ended_elsewhere().await, b.ended_elsewhere().await), (Ok(vec![]), Ok(vec![id(1)])));
    assert_eq!(b.forget_ended(&[id(1)]).await, Ok(()));
    assert_eq!(b.ended_elsewhere().await, Ok(vec![]));
    let left: Vec<_> = bench.server().keys().into_iter().filter(|key| !is_a_nodes_own(key)).collect();
    assert_eq!(left, Vec::<String>::new());
}

/// A node that holds its lease, with one account.
async fn leased_with_one(bench: &Bench) -> Vault {
    let vault = bench.node("a");
    vault.hold_lease().await.expect("leased");
    enable(&vault, 1, "alice").await;
    vault
}

async fn every_key_in_redis_ends_by_itself(bench: &Bench) {
    leased_with_one(bench).await;
    let longest = Duration::from_secs(MAX_LIFETIME_S + DAY_S);
    for key in bench.server().keys() {
        let left: i64 = bench.server().ask(redis::cmd("PTTL").arg(&key));
        assert!((1..=longest.as_millis() as i64).contains(&left), "{key}: {left} ms");
    }
}

/// Redis undoes nothing of a script that fails.
async fn what_cannot_be_given_an_end_is_not_written(bench: &Bench) {
    let (a, b) = (leased_with_one(bench).await, bench.node("b"));
    let stored = load(&a, 1).await.expect("stored");
    put_item(&a, 1, &message(1)).await.expect("kept");
    let (server, sealed) = (bench.server(), a.seal(id(1), &record("alice")));
    let grant = |rule: &str| server.ask::<()>(redis::cmd("ACL").arg("SETUSER").arg("default").arg(rule));
    // The first try in a collection, a set and a list, and a further one.
    for round in 0..2 {
        grant("-pexpire");
        assert!(put_item(&a, 1, &message(2)).await.is_err(), "{round}");
        assert!(keep_missed(&a, 1, &missed(1)).await.is_err() || round == 1, "{round}");
        let lookup = a.lookup_of(&record("alice"));
        assert!(
            a.put(RecordToWrite { fence: stored.fence, ..to_write(id(1), &sealed, unix_now() + DAY_S, &lookup) })
                .await
                .is_err(),
            "{round}"
        );
        let (other, other_lookup) = a.seal_new(id(2), || record("bob"));
        assert!(a.put(to_write(id(2), &other, unix_now() + DAY_S, &other_lookup)).await.is_err(), "{round}");
        assert!(a.write_letter(b.owner(), &Letter::Ended).await.is_err(), "{round}");
        for key in server.keys() {
            assert!(server.ask::<i64>(redis::cmd("PTTL").arg(&key)) > 0, "{key} has no end");
        }
        grant("+pexpire");
        assert_eq!(a.messages(id(1)).await, Ok(vec![message(1)]), "{round}");
        let as_before = load(&a, 1).await.expect("stored");
        assert_eq!((as_before.sealed.as_bytes(), as_before.fence), (stored.sealed.as_bytes(), stored.fence), "{round}");
        assert!(load(&a, 2).await.is_none(), "{round}");
        if round == 0 {
            a.write_letter(b.owner(), &Letter::Ended).await.expect("written");
            keep_missed(&a, 1, &missed(1)).await.expect("kept");
        }
    }
    assert!(matches!(b.next_letter().await, Ok(Some(Letter::Ended))), "the one that was taken");
    assert!(!server.keys().contains(&format!("sipwake:letters:{}", b.owner())), "and no other");
}

async fn nothing_is_in_the_clear_in_redis(bench: &Bench) {
    let vault = leased_with_one(bench).await;
    let mut by_ha1 = record("bob");
    let ha1 = relay::secret::Ha1Text::new("5f4dcc3b5aa765d61d8327deb882cf99");
    by_ha1.account.proof =
        Proof::Ha1(Ha1s { realm: "realm.example".into(), md5: Some(ha1), sha256: None, sha512_256: None });
    let lookup = vault.lookup_of(&by_ha1);
    vault.put(to_write(id(2), &vault.seal(id(2), &by_ha1), by_ha1.expires_at, &lookup)).await.expect("put");

    let keys = bench.server().keys();
    assert!(keys.len() >= 6, "{keys:?}");
    for key in keys {
        let mut held: Vec<u8> = bench.server().ask(redis::cmd("DUMP").arg(&key));
        held.extend_from_slice(key.as_bytes());
        for secret in [
            "alice",
            "bob",
            "example",
            "open-sesame",
            "5f4dcc3b5aa765d61d8327deb882cf99",
            "voip-token",
            "alert-token",
            "device-secret",
            "Pixel",
            "sip:",
        ] {
            assert!(!held.windows(secret.len()).any(|held| held == secret.as_bytes()), "{secret} in {key}");
        }
    }
}

async fn a_connection_that_redis_kills_is_replaced_without_anyone_noticing(bench: &Bench) {
    let vault = bench.node("a");
    enable(&vault, 1, "alice").await;
    for _ in 0..20 {
        assert!(bench.server().kill_connections() >= 1);
        assert!(load(&vault, 1).await.is_some());
    }
}

async fn what_is_no_record_keeps_no_other_from_being_claimed(bench: &Bench) {
    let before = bench.node("a");
    for number in 0..6 {
        enable(&before, number, &format!("user{number}")).await;
    }
    let (server, key) = (bench.server(), |number: u128| format!("sipwake:i:{{{}}}", id(number)));
    server.ask::<()>(redis::cmd("DEL").arg(key(0)));
    server.ask::<()>(redis::cmd("SET").arg(key(0)).arg("not even a hash"));
    server.ask::<()>(redis::cmd("HDEL").arg(key(1)).arg("s"));
    server.ask::<()>(redis::cmd("HSET").arg(key(2)).arg("e").arg("never"));
    server.ask::<()>(redis::cmd("HSET").arg(key(3)).arg("f").arg("the first"));
    server.ask::<()>(redis::cmd("HSET").arg(key(4)).arg("o").arg(&b"\xff\xfe"[..]));
    assert_eq!(claim_all(&bench.node("a"), 10).await, [id(5)]);
}

/// An index is a hint: what it has lost is looked for among all records, some in each round; in a Cluster nobody has them all.
async fn records_that_an_index_has_lost_are_found(bench: &Bench) {
    let before = bench.node("a");
    for number in 0..40 {
        enable(&before, number, &format!("user{number}")).await;
    }
    bench.server().ask::<()>(redis::cmd("DEL").arg("sipwake:n:a"));
    let after = bench.node("a");
    after.hold_lease().await.expect("leased");
    assert_eq!(claim_all(&after, 64).await, [], "the first round believes the index");
    if !bench.is_cluster() {
        let mut found = claim_until(&after, 40).await;
        found.sort_unstable();
        assert_eq!(found, (0..40).map(id).collect::<Vec<_>>());
    }
}
