//! How fast passwords may be tried through this relay: by HTTPS and by SIP, on whatever shard, whatever App is named.
//!
//! | counted by | free | then |
//! | --- | --- | --- |
//! | account at a server, and source | `limits.failures_per_account` | pauses of 2 s, doubled up to 15 min |
//! | account at a server, whoever asks | four times as many | pauses of 1 s, doubled up to 30 s; a source whose proof was right within the hour is let past |
//! | source, whichever accounts | `limits.failures_per_source` | one each second, and pauses of up to 60 s |
//!
//! A REGISTER that renews what is kept here is counted apart: a stranger who does not know the device cannot keep its owner
//! waiting. An account is both the AOR and the user name that proves it; a server is the host and port where requests go, without what
//! can be spelt in many ways. A right proof forgets the failures of its source; an hour without a failure forgets all.
//!
//! Invariant: an attempt that is under way counts as a failure until it has ended, so that many at once are no way around.
//! What is remembered is a keyed hash: no name lies here. A table holds at most [`ENTRIES_MAX`] entries.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sip::bucket::{Bucket, Rate};

use super::counted_as;

/// The most keys that are remembered, about 10 MB; at the limit those that are at rest go, and then newcomers wait a second.
const ENTRIES_MAX: usize = 100_000;
/// How long a failure is remembered after the last one.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// The first pause of one source, and its longest.
const SOURCE_PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(900));
/// The first pause of an account whoever asks, and its longest: short, for the right owner may be among those who wait.
const ACCOUNT_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How many times more failures an account has free than one source has for it.
const ACCOUNT_SHARE: u32 = 4;
/// Attempts for an account that may be under way at once while none has failed.
const UNDER_WAY: u32 = 64;
/// How soon a source gets one of its failures back.
const SOURCE_EVERY: Duration = Duration::from_secs(1);
/// The longest pause of a source.
const SOURCE_DEBT: Duration = Duration::from_secs(60);
/// What somebody is told to wait who may try as soon as another attempt has ended.
const SOON: Duration = Duration::from_secs(1);

/// How many failures are free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// For one account from one source.
    pub per_account: u32,
    /// For one source, whichever accounts.
    pub per_source: u32,
}

/// One attempt to prove an account to its SIP server.
pub struct Attempt<'a> {
    /// The address of record.
    pub aor: &'a str,
    /// The user name of the proof, where it is known.
    pub username: Option<&'a str>,
    /// Where the proof goes: host and port.
    pub server: &'a str,
    /// Who asks.
    pub source: IpAddr,
    /// It renews a registration that is kept here, and so knows more than a stranger does.
    pub renews: bool,
}

/// Why an attempt must wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// So long.
    pub after: Duration,
    /// Because of its source, not of its account.
    pub by_source: bool,
}

impl Wait {
    /// In whole seconds, at least one.
    pub fn seconds(self) -> u64 {
        self.after.as_millis().div_ceil(1000).max(1) as u64
    }
}

/// All that is remembered; cheap to clone.
#[derive(Clone)]
pub struct Guesses(Arc<Inner>);

struct Inner {
    free: Free,
    hash: RandomState,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<u64, Entry>,
    sources: BTreeMap<IpAddr, Budget>,
    swept_at: Option<Instant>,
}

#[derive(Default)]
struct Entry {
    failures: u32,
    under_way: u32,
    until: Option<Instant>,
    /// When it failed last; of one that only succeeded, when it did.
    last: Option<Instant>,
    /// A right proof came from here.
    right: bool,
}

struct Budget {
    failures: Bucket,
    under_way: u32,
}

/// An attempt under way. Dropped without a word it has told nothing about the password.
pub struct Permit {
    guesses: Guesses,
    keys: Vec<Key>,
    source: IpAddr,
}

#[derive(Clone, Copy)]
struct Key {
    hash: u64,
    /// Of one source; else of whoever asks.
    own: bool,
}

impl Guesses {
    /// Nothing remembered.
    pub fn new(free: Free) -> Self {
        Self(Arc::new(Inner { free, hash: RandomState::new(), table: Mutex::default() }))
    }

    /// Lets an attempt begin, or says how long it must wait.
    pub fn admit(&self, attempt: &Attempt<'_>, now: Instant) -> Result<Permit, Wait> {
        let source = counted_as(attempt.source);
        let keys = self.keys(attempt, source);
        let mut table = self.lock();
        table.sweep(now);
        let known = keys.iter().any(|key| key.own && table.entries.get(&key.hash).is_some_and(|entry| entry.right));
        let budget = table.sources.get(&source).filter(|_| !known && !attempt.renews);
        if let Some(after) = budget.and_then(|budget| budget.wait(now, self.0.free.of_source())) {
            return Err(Wait { after, by_source: true });
        }
        for key in keys.iter().filter(|key| key.own || !known) {
            let Some(entry) = table.entries.get(&key.hash) else { continue };
            if let Some(after) = entry.wait(now, self.0.free.of(key.own)) {
                return Err(Wait { after, by_source: false });
            }
        }
        if table.entries.len() + keys.len() > ENTRIES_MAX || table.sources.len() >= ENTRIES_MAX {
            return Err(Wait { after: SOON, by_source: true });
        }
        for key in &keys {
            table.entries.entry(key.hash).or_default().under_way += 1;
        }
        let full = Budget { failures: Bucket::full(now), under_way: 0 };
        table.sources.entry(source).or_insert(full).under_way += 1;
        drop(table);
        Ok(Permit { guesses: self.clone(), keys, source })
    }

    fn keys(&self, attempt: &Attempt<'_>, source: IpAddr) -> Vec<Key> {
        let server = attempt.server.to_ascii_lowercase();
        let (user, domain) = account(attempt.aor);
        let mut names = vec![(user, Some(domain))];
        if let Some(username) = attempt.username {
            names.push((plain(username), None));
        }
        let keys = names.iter().flat_map(|name| {
            let whose = |own: bool| Key {
                hash: self.0.hash.hash_one((&server, name, own.then_some(source), attempt.renews)),
                own,
            };
            [whose(true), whose(false)]
        });
        keys.collect()
    }

    // A panic while the lock was held leaves whole tables behind: each change is one statement.
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// The SIP server has taken the proof.
    pub fn accepted(self, now: Instant) {
        let mut table = self.guesses.lock();
        for key in self.keys.iter().filter(|key| key.own) {
            if let Some(entry) = table.entries.get_mut(&key.hash) {
                *entry = Entry { under_way: entry.under_way, last: Some(now), right: true, ..Entry::default() };
            }
        }
    }

    /// The SIP server has refused the proof.
    pub fn refused(self, now: Instant) {
        let free = self.guesses.0.free;
        let mut table = self.guesses.lock();
        for key in &self.keys {
            if let Some(entry) = table.entries.get_mut(&key.hash) {
                entry.fail(now, free.of(key.own), if key.own { SOURCE_PAUSE } else { ACCOUNT_PAUSE });
            }
        }
        if let Some(budget) = table.sources.get_mut(&self.source) {
            budget.failures.owe_at_most(now, free.of_source(), 1, SOURCE_DEBT);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut table = self.guesses.lock();
        for key in &self.keys {
            if let Some(entry) = table.entries.get_mut(&key.hash) {
                entry.under_way = entry.under_way.saturating_sub(1);
                if entry.under_way == 0 && entry.last.is_none() {
                    table.entries.remove(&key.hash);
                }
            }
        }
        if let Some(budget) = table.sources.get_mut(&self.source) {
            budget.under_way = budget.under_way.saturating_sub(1);
        }
    }
}

impl Free {
    fn of(self, own: bool) -> u32 {
        if own { self.per_account } else { self.per_account.saturating_mul(ACCOUNT_SHARE) }
    }

    fn of_source(self) -> Rate {
        Rate { burst: self.per_source, interval: SOURCE_EVERY }
    }
}

impl Table {
    /// Forgets what is at rest, at most once a second.
    fn sweep(&mut self, now: Instant) {
        let crowded = self.entries.len() >= ENTRIES_MAX / 2 || self.sources.len() >= ENTRIES_MAX / 2;
        let every = if crowded { SOON } else { REMEMBERED };
        if self.swept_at.is_some_and(|at| now.saturating_duration_since(at) < every) {
            return;
        }
        self.swept_at = Some(now);
        self.entries.retain(|_, entry| entry.under_way > 0 || !entry.is_old(now));
        self.sources.retain(|_, budget| budget.under_way > 0 || !budget.failures.is_full(now));
    }
}

impl Entry {
    fn is_old(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= REMEMBERED)
    }

    /// How long an attempt must wait; `None`: it may begin.
    fn wait(&self, now: Instant, free: u32) -> Option<Duration> {
        if let Some(until) = self.until.filter(|until| *until > now) {
            return Some(until - now);
        }
        let failures = if self.is_old(now) { 0 } else { self.failures };
        let room = match failures {
            0 if self.right => UNDER_WAY,
            0 => free.max(1),
            failures if failures < free => free - failures,
            // One after the other.
            _ => 1,
        };
        (self.under_way >= room).then_some(SOON)
    }

    fn fail(&mut self, now: Instant, free: u32, (first, longest): (Duration, Duration)) {
        self.failures = if self.is_old(now) { 1 } else { self.failures.saturating_add(1) };
        (self.last, self.right) = (Some(now), false);
        if let Some(beyond) = self.failures.checked_sub(free.max(1)) {
            self.until = Some(now + first.saturating_mul(1 << beyond.min(16)).min(longest));
        }
    }
}

impl Budget {
    /// How long an attempt must wait; `None`: it may begin. What is under way counts from the half on: before, nothing speaks
    /// against the source.
    fn wait(&self, now: Instant, rate: Rate) -> Option<Duration> {
        let left = self.failures.level(now, rate);
        if left == 0 {
            return Some((self.failures.when(now, rate, 1) - now).max(SOON));
        }
        (left < rate.burst / 2 && self.under_way >= left).then_some(SOON)
    }
}

/// The user and the domain of an AOR in one spelling each.
pub(super) fn account(aor: &str) -> (String, String) {
    let rest = aor.split_once(':').map_or(aor, |(_, rest)| rest);
    let (user, domain) = rest.rsplit_once('@').unwrap_or(("", rest));
    (plain(user), domain.to_ascii_lowercase())
}

/// A user name without escapes and in lower case: many servers tell no two such apart.
fn plain(user: &str) -> String {
    let mut out = Vec::with_capacity(user.len());
    let mut rest = user.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = (byte == b'%').then(|| after.first_chunk::<2>()).flatten();
        let value = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(value.unwrap_or(byte));
        rest = if value.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&out).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guesses() -> Guesses {
        Guesses::new(Free { per_account: 5, per_source: 60 })
    }

    fn attempt<'a>(aor: &'a str, source: &str) -> Attempt<'a> {
        Attempt { aor, username: None, server: "example.com", source: source.parse().unwrap(), renews: false }
    }

    /// How many of so many wrong proofs, one after the other, begin within a time.
    fn wrong(guesses: &Guesses, start: Instant, seconds: u64, of: impl Fn(u64) -> (String, String)) -> usize {
        let mut begun = 0;
        for n in 0..seconds * 100 {
            let now = start + Duration::from_millis(n * 10);
            let (aor, source) = of(n);
            if let Ok(permit) = guesses.admit(&attempt(&aor, &source), now) {
                permit.refused(now);
                begun += 1;
            }
        }
        begun
    }

    #[test]
    fn two_hundred_wrong_passwords_for_one_account_are_six_in_a_second_and_a_dozen_in_an_hour() {
        let now = Instant::now();
        let one = |_| ("sip:alice@example.com".to_owned(), "192.0.2.1".to_owned());
        assert_eq!(wrong(&guesses(), now, 1, one), 5);
        let hour = wrong(&guesses(), now, 3600, one);
        assert!((12..20).contains(&hour), "{hour}");
    }

    #[test]
    fn many_at_once_are_no_way_around() {
        let (guesses, now) = (guesses(), Instant::now());
        let begun: Vec<_> =
            (0..200).filter_map(|_| guesses.admit(&attempt("sip:alice@example.com", "192.0.2.1"), now).ok()).collect();
        assert_eq!(begun.len(), 5);
        for permit in begun {
            permit.refused(now);
        }
        assert!(guesses.admit(&attempt("sip:alice@example.com", "192.0.2.1"), now).is_err());
    }

    #[test]
    fn an_account_spelt_in_many_ways_is_one() {
        let (guesses, now) = (guesses(), Instant::now());
        let spellings =
            ["sip:alice@example.com", "sips:ALICE@Example.Com", "sip:%61lice@example.com", "sip:al%69ce@example.com"];
        let begun = wrong(&guesses, now, 1, |n| (spellings[n as usize % 4].to_owned(), "192.0.2.1".to_owned()));
        assert_eq!(begun, 5);
        let named = |aor| Attempt { username: Some("bob"), ..attempt(aor, "192.0.2.2") };
        let aors: Vec<String> = (0..50).map(|n| format!("sip:x{n}@example.com")).collect();
        let begun = aors.iter().filter(|aor| guesses.admit(&named(aor), now).map(|it| it.refused(now)).is_ok()).count();
        assert_eq!(begun, 5, "one user name under many addresses");
    }

    #[test]
    fn a_crowd_of_sources_guesses_one_account_slowly_and_its_owner_is_let_past() {
        let (guesses, start) = (guesses(), Instant::now());
        guesses.admit(&attempt("sip:alice@example.com", "198.51.100.1"), start).ok().unwrap().accepted(start);
        let crowd = |n| ("sip:alice@example.com".to_owned(), format!("10.{}.{}.1", n / 256 % 256, n % 256));
        let begun = wrong(&guesses, start, 600, crowd);
        assert!((20..50).contains(&begun), "{begun}");
        let end = start + Duration::from_secs(600);
        assert!(guesses.admit(&attempt("sip:alice@example.com", "198.51.100.1"), end).is_ok(), "the owner");
        let wait = guesses.admit(&attempt("sip:alice@example.com", "198.51.100.2"), end).err().unwrap();
        assert!(wait.after <= ACCOUNT_PAUSE.1 && !wait.by_source, "anybody else waits {wait:?} at most");
    }

    #[test]
    fn a_source_that_tries_many_accounts_is_slowed_down_and_others_are_not() {
        let (guesses, start) = (guesses(), Instant::now());
        let spray = |n| (format!("sip:u{n}@example.com"), "192.0.2.1".to_owned());
        let begun = wrong(&guesses, start, 60, spray);
        assert!((60..=125).contains(&begun), "{begun}");
        let end = start + Duration::from_secs(60);
        assert!(guesses.admit(&attempt("sip:bob@example.com", "192.0.2.9"), end).is_ok());
        assert!(guesses.admit(&attempt("sip:u1@example.com", "192.0.2.1"), end + Duration::from_secs(120)).is_ok());
    }

    #[test]
    fn a_stranger_keeps_no_owner_waiting_who_renews_what_is_kept_here() {
        let (guesses, start) = (guesses(), Instant::now());
        let crowd = |n| ("sip:alice@example.com".to_owned(), format!("10.{}.{}.1", n / 256 % 256, n % 256));
        wrong(&guesses, start, 60, crowd);
        wrong(&guesses, start, 60, |n| (format!("sip:u{n}@example.com"), "192.0.2.1".to_owned()));
        let end = start + Duration::from_secs(60);
        let renewal = Attempt { renews: true, ..attempt("sip:alice@example.com", "192.0.2.1") };
        assert!(guesses.admit(&renewal, end).is_ok(), "by the address of one who guesses, even");
        // Nor is it a way around: who knows the device has no more than his own.
        let begun = (0..100).filter(|_| guesses.admit(&renewal, end).map(|it| it.refused(end)).is_ok()).count();
        assert_eq!(begun, 5);
    }

    #[test]
    fn right_proofs_are_never_slowed_down_and_leave_little() {
        let (guesses, now) = (guesses(), Instant::now());
        for n in 0..1000 {
            let aor = format!("sip:u{n}@example.com");
            let permit = guesses.admit(&attempt(&aor, "192.0.2.1"), now).ok().unwrap();
            permit.accepted(now);
        }
        for _ in 0..3 {
            for _ in 0..4 {
                guesses.admit(&attempt("sip:alice@example.com", "192.0.2.1"), now).ok().unwrap().refused(now);
            }
            guesses.admit(&attempt("sip:alice@example.com", "192.0.2.1"), now).ok().unwrap().accepted(now);
        }
        let later = now + REMEMBERED;
        drop(guesses.admit(&attempt("sip:x@example.com", "192.0.2.2"), later));
        assert!(guesses.lock().entries.len() <= 2, "an hour later all is forgotten");
    }
}
