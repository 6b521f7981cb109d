//! Limits on the passwords that are tried through this relay: by HTTPS and by SIP, on any shard, for any App.
//!
//! | counted by | free | then |
//! | --- | --- | --- |
//! | account at a server, and source | `limits.failures_per_account` | pauses of 2 s, doubled up to 15 min |
//! | user at a server, whatever domain it is used with, and source | four times as many | pauses of 1 s, doubled up to 30 s |
//! | user at a server, likewise, from any source | sixteen times as many | as for an account from any source |
//! | account at a server, from any source | four times as many | pauses of 1 s, doubled up to 30 s, after each of which one may try: the first of those that have not failed (`line`); a source whose proof was right within the hour for all that is named is let past |
//! | source, whichever accounts | `limits.failures_per_source` | one each second, and pauses of up to 60 s |
//!
//! A refused proof that may have been for another address of its server is excused as far as [`doubts`] has it, and counts as a failure beyond that.
//!
//! A REGISTER that renews what is kept here is counted apart: a stranger who does not know the device cannot keep its owner waiting. An account is
//! both the AOR and each user name that its proof may be read with; a user is such a name without what a server may strip of it (`bare`), and each name is in
//! one spelling for all that a server's database may take for it (`spelling`); a server is the host and port where requests go, without the parts that can be
//! spelt in many ways, and each address that its name leads to where that is known. A right proof forgets the failures of its source, when it can be of one
//! user only, also those of attempts that renewed nothing; an hour without a failure forgets all.
//!
//! Invariant: an attempt that is under way counts as a failure until it has ended, so that many at once are no way around. The table remembers keyed
//! hashes: no name lies here. A table holds at most [`ENTRIES_MAX`] entries; a source that fills it, with accounts of its own server for instance,
//! keeps no other source waiting, and has no account forgotten that fails more than its own. Attempts under way take a part of it for each source
//! ([`under_way`]).

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use sip::auth::text_of;
use sip::bucket::{Bucket, Rate};

use super::counted_as;
use crate::clock;
use crate::lock::Mutex;
use doubts::Doubts;
use line::{Line, TURN};
use spelling::folded;
use under_way::UnderWay;

mod doubts;
mod line;
mod spelling;
mod under_way;

/// The most keys that are remembered, about 12 MB; at the limit a tenth of those go that are not under way: what only succeeded,
/// then what failed least and longest ago. While nearly all are under way newcomers wait a second.
const ENTRIES_MAX: usize = 200_000;
/// Addresses of one server that an attempt is counted by.
const ADDRESSES_MAX: usize = 4;
/// How long a failure is remembered after the last one.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// The first pause of one source, and its longest.
const SOURCE_PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(900));
/// The first pause of an account for all sources, and its longest: short, for the right owner may be among those who wait.
const ACCOUNT_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How many times more failures an account has free than one source has for it.
const ACCOUNT_SHARE: u32 = 4;
/// Likewise a user whatever stands beside his name: a server of many domains may have many of one name.
const USER_SHARE: u32 = 16;
/// Attempts for an account that may be under way at once while none has failed.
const UNDER_WAY: u32 = 64;
/// How soon a source gets one of its failures back.
const SOURCE_EVERY: Duration = Duration::from_secs(1);
/// The longest pause of a source.
const SOURCE_DEBT: Duration = Duration::from_secs(60);
/// The wait of a source that may try as soon as another attempt has ended.
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
    /// The user names that its proof may be read with, where they are known.
    pub usernames: &'a [Box<str>],
    /// The server that the proof goes to: host and port.
    pub server: &'a str,
    /// The addresses behind that name, where they are known: many names may lead to one server.
    pub addresses: &'a [SocketAddr],
    /// The source of the attempt.
    pub source: IpAddr,
    /// The attempt renews a registration that is kept here, and so knows more than a stranger does.
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
    /// Accounts and sources that failed within the hour, or have an attempt under way.
    entries: BTreeMap<u64, Entry>,
    /// From where a right proof came, and has not failed since: each account that is enabled has been here within the hour. When that
    /// was, in seconds since `began`.
    right: BTreeMap<u64, u32>,
    /// The moment of the first attempt.
    began: Option<Instant>,
    sources: BTreeMap<IpAddr, Budget>,
    under_way: UnderWay,
    doubts: Doubts,
    swept_at: Option<Instant>,
    /// When next to nothing could be forgotten: it is looked again [`SOON`].
    full_at: Option<Instant>,
}

#[derive(Default)]
struct Entry {
    failures: u32,
    under_way: u32,
    /// When it failed last.
    last: Option<Instant>,
    /// When the last attempt ended, however it did.
    ended: Option<Instant>,
    /// The sources that have the next attempts.
    line: Option<Box<Line>>,
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
    /// The proof can be of one user only.
    is_of_one: bool,
    /// Of an attempt that renews: the keys of its source where it is counted with those that do not, such as proofs in other requests.
    forgives: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Key {
    hash: u64,
    /// The account that it is of: 0 is the AOR, the user names follow.
    of: usize,
    /// The key is of one source and one account; else of all sources, or of one source and any domain.
    own: bool,
    /// How many times more failures it has free than an account from one source.
    share: u32,
    /// The key is of all sources.
    shared: bool,
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
        // A source that was right for an account of its own is still a stranger to another account that it names beside it.
        let known = (0..=attempt.usernames.len()).all(|of| {
            let mut own = keys.iter().filter(|key| key.own && key.of == of).peekable();
            own.peek().is_none() || own.any(|key| table.right.contains_key(&key.hash))
        });
        let budget = table.sources.get(&source).filter(|_| !known && !attempt.renews);
        if let Some(after) = budget.and_then(|budget| budget.wait(now, self.0.free.of_source())) {
            return Err(Wait { after, by_source: true });
        }
        if let Some(after) = self.wait_for(&keys, known, source, &mut table, now) {
            return Err(Wait { after, by_source: false });
        }
        let is_trusted = known || attempt.renews;
        if !table.under_way.has_room(source, keys.len(), is_trusted) || !table.make_room(keys.len(), now) {
            return Err(Wait { after: SOON, by_source: true });
        }
        table.under_way.begin(source, keys.len());
        for key in &keys {
            let entry = table.entries.entry(key.hash).or_default();
            entry.under_way += 1;
            // A source that is let past has no part in the line.
            if !known && entry.line.as_mut().is_some_and(|line| !line.attempted(source)) {
                entry.line = None;
            }
        }
        let full = Budget { failures: Bucket::full(now), under_way: 0 };
        table.sources.entry(source).or_insert(full).under_way += 1;
        drop(table);
        let is_of_one = attempt.usernames.len() <= 1;
        let others = attempt.renews.then(|| self.keys(&Attempt { renews: false, ..*attempt }, source));
        let forgives = others.into_iter().flatten().filter(|key| key.own).map(|key| key.hash).collect();
        Ok(Permit { guesses: self.clone(), keys, source, is_of_one, forgives })
    }

    /// How long an attempt must wait for its account; a source that has not failed has a place in the line from then on.
    fn wait_for(&self, keys: &[Key], known: bool, source: IpAddr, table: &mut Table, now: Instant) -> Option<Duration> {
        let Table { entries, right, .. } = table;
        let mut longest = None;
        for key in keys.iter().filter(|key| key.own || !known) {
            let Some(entry) = entries.get_mut(&key.hash) else { continue };
            let (free, right) = (self.0.free.times(key.share), right.contains_key(&key.hash));
            let wait = entry.wait(now, free, pauses(key.own), right);
            longest = longest.max(wait.or_else(|| entry.turn_of_another(now, free, pauses(key.own), source)));
        }
        longest?;
        let has_failed = |key: &Key| entries.get(&key.hash).is_some_and(|entry| entry.failures_at(now) > 0);
        if !keys.iter().filter(|key| key.own).any(has_failed) {
            for key in keys.iter().filter(|key| key.shared) {
                let entry = entries.get_mut(&key.hash);
                let free = self.0.free.times(key.share).max(1);
                if let Some(entry) = entry.filter(|entry| entry.failures_at(now) >= free) {
                    entry.line.get_or_insert_default().join(source, now);
                }
            }
        }
        longest
    }

    fn keys(&self, attempt: &Attempt<'_>, source: IpAddr) -> Vec<Key> {
        let server = attempt.server.to_ascii_lowercase();
        let key = |server: &str, of, name: &(String, Option<String>), source: Option<IpAddr>, share| {
            let hash = self.0.hash.hash_one((server, name, source, attempt.renews));
            Key { hash, of, own: share == 1, share, shared: source.is_none() }
        };
        let aor = account(attempt.aor);
        let aor = (folded(&aor.0), Some(aor.1));
        let account = |server: &str, of, name: &_| {
            [key(server, of, name, Some(source), 1), key(server, of, name, None, ACCOUNT_SHARE)]
        };
        let mut keys = Vec::from(account(&server, 0, &aor));
        let addresses: Vec<String> =
            attempt.addresses.iter().take(ADDRESSES_MAX).map(|to| canonical(*to).to_string()).collect();
        keys.extend(addresses.iter().flat_map(|address| account(address, 0, &aor)));
        for (of, name) in (1..).zip(attempt.usernames) {
            let name = (folded(&plain(name)), None);
            keys.extend(account(&server, of, &name));
            // Servers of many domains have many of the same name, and some look for the user alone, whatever domain is named.
            let user = (bare(&name.0).to_owned(), Some(String::new()));
            for server in std::iter::once(&server).chain(&addresses) {
                keys.push(key(server, of, &user, Some(source), ACCOUNT_SHARE));
                keys.push(key(server, of, &user, None, USER_SHARE));
            }
        }
        // A server that is named by its address has it as its name, too: each failure counts once.
        keys.sort_unstable_by_key(|key| key.hash);
        keys.dedup_by_key(|key| key.hash);
        keys
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock()
    }
}

impl Permit {
    /// The SIP server has taken the proof.
    pub fn accepted(self, now: Instant) {
        if !self.is_of_one {
            // The result does not say whose proof was right.
            return;
        }
        let mut table = self.guesses.lock();
        let at = table.seconds(now);
        let table = &mut *table;
        for key in self.keys.iter().filter(|key| key.own) {
            if let Some(entry) = table.entries.get_mut(&key.hash) {
                *entry = Entry { under_way: entry.under_way, ..Entry::default() };
                table.right.insert(key.hash, at);
            }
        }
        for hash in &self.forgives {
            if let Some(entry) = table.entries.get_mut(hash) {
                *entry = Entry { under_way: entry.under_way, ..Entry::default() };
            }
        }
    }

    /// The SIP server has refused the proof, which may have been for another address of it.
    pub fn doubted(self, now: Instant) {
        let users = self.keys.iter().filter(|key| key.of > 0).map(|key| (key.hash, key.shared));
        if !self.guesses.lock().doubts.excuse(users.collect(), self.source, now) {
            self.refused(now);
        }
    }

    /// The SIP server has refused the proof.
    pub fn refused(self, now: Instant) {
        let free = self.guesses.0.free;
        let mut table = self.guesses.lock();
        let table = &mut *table;
        for key in &self.keys {
            if let Some(entry) = table.entries.get_mut(&key.hash) {
                entry.fail(now);
                table.right.remove(&key.hash);
            }
        }
        if let Some(budget) = table.sources.get_mut(&self.source) {
            budget.failures.owe_at_most(now, free.of_source(), 1, SOURCE_DEBT);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let now = clock::now();
        let mut table = self.guesses.lock();
        for key in &self.keys {
            if let Some(entry) = table.entries.get_mut(&key.hash) {
                entry.under_way = entry.under_way.saturating_sub(1);
                entry.ended = entry.last.and(Some(now));
                if entry.under_way == 0 && entry.last.is_none() {
                    table.entries.remove(&key.hash);
                }
            }
        }
        if let Some(budget) = table.sources.get_mut(&self.source) {
            budget.under_way = budget.under_way.saturating_sub(1);
        }
        table.under_way.end(self.source, self.keys.len());
    }
}

/// The first pause and the longest: of an account from one source, or from all.
fn pauses(own: bool) -> (Duration, Duration) {
    if own { SOURCE_PAUSE } else { ACCOUNT_PAUSE }
}

impl Free {
    fn times(self, share: u32) -> u32 {
        self.per_account.saturating_mul(share)
    }

    fn of_source(self) -> Rate {
        Rate { burst: self.per_source, interval: SOURCE_EVERY }
    }
}

impl Table {
    /// Forgets what is at rest, at most once a second.
    fn sweep(&mut self, now: Instant) {
        let crowded =
            self.len() >= ENTRIES_MAX / 2 || self.sources.len() >= ENTRIES_MAX / 2 || self.doubts.is_crowded();
        let every = if crowded { SOON } else { REMEMBERED };
        if self.swept_at.is_some_and(|at| now.saturating_duration_since(at) < every) {
            return;
        }
        self.swept_at = Some(now);
        self.entries.retain(|_, entry| entry.under_way > 0 || !entry.is_old(now));
        self.doubts.sweep(now);
        let seconds = self.seconds(now);
        self.right.retain(|_, at| seconds.saturating_sub(*at) < REMEMBERED.as_secs() as u32);
        self.sources.retain(|_, budget| budget.under_way > 0 || !budget.failures.is_full(now));
    }
}

/// The keys of at most so many that have the least before them.
fn least<T: Ord>(mut all: Vec<(T, u64)>, most: usize) -> Vec<u64> {
    if most < all.len() {
        all.select_nth_unstable(most);
        all.truncate(most);
    }
    all.into_iter().map(|(_, key)| key).collect()
}

impl Table {
    fn len(&self) -> usize {
        self.entries.len() + self.right.len()
    }

    /// Since the first attempt.
    fn seconds(&mut self, now: Instant) -> u32 {
        let began = *self.began.get_or_insert(now);
        now.saturating_duration_since(began).as_secs().try_into().unwrap_or(u32::MAX)
    }

    /// Whether so many more keys have room, after what says least was forgotten.
    fn make_room(&mut self, wanted: usize, now: Instant) -> bool {
        let was_full = self.full_at.is_some_and(|at| now.saturating_duration_since(at) < SOON);
        if self.len() + wanted > ENTRIES_MAX && !was_full {
            let before = self.len();
            let right = least(self.right.iter().map(|(key, at)| (*at, *key)).collect(), ENTRIES_MAX / 10);
            let failed = self.entries.iter().filter(|(_, entry)| entry.under_way == 0);
            let failed = failed.map(|(key, entry)| ((entry.failures, entry.last), *key)).collect();
            for key in least(failed, ENTRIES_MAX / 10 - right.len()) {
                self.entries.remove(&key);
            }
            for key in right {
                self.right.remove(&key);
            }
            // Each look goes over all of it.
            self.full_at = (before - self.len() < ENTRIES_MAX / 100).then_some(now);
        }
        if self.sources.len() >= ENTRIES_MAX {
            // A client with more sources than these is not held by the limit of each.
            self.sources.retain(|_, budget| budget.under_way > 0);
        }
        self.len() + wanted <= ENTRIES_MAX && self.sources.len() < ENTRIES_MAX
    }
}

impl Entry {
    fn is_old(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.saturating_duration_since(last) >= REMEMBERED)
    }

    /// How long an attempt must wait; `None`: it may begin.
    fn wait(&self, now: Instant, free: u32, pauses: (Duration, Duration), right: bool) -> Option<Duration> {
        if let Some(until) = self.paused_until(free, pauses).filter(|until| *until > now) {
            return Some(until - now);
        }
        let room = match self.failures_at(now) {
            0 if right => UNDER_WAY,
            0 => free.max(1),
            failures if failures < free => free - failures,
            // One after the other.
            _ => 1,
        };
        (self.under_way >= room).then_some(SOON)
    }

    fn failures_at(&self, now: Instant) -> u32 {
        if self.is_old(now) { 0 } else { self.failures }
    }

    /// How long the next attempt is for another one than this source.
    fn turn_of_another(
        &mut self,
        now: Instant,
        free: u32,
        pauses: (Duration, Duration),
        source: IpAddr,
    ) -> Option<Duration> {
        let since = self.paused_until(free, pauses)?.max(self.ended?);
        let first = self.line.as_mut()?.first(now)?;
        (first != source).then(|| (since + TURN).checked_duration_since(now)).flatten().filter(|left| !left.is_zero())
    }

    fn fail(&mut self, now: Instant) {
        self.failures = if self.is_old(now) { 1 } else { self.failures.saturating_add(1) };
        self.last = Some(now);
    }

    /// Until when nobody is let past after the last failure; `None`: it was free.
    fn paused_until(&self, free: u32, (first, longest): (Duration, Duration)) -> Option<Instant> {
        let beyond = self.failures.checked_sub(free.max(1))?;
        Some(self.last? + first.saturating_mul(1 << beyond.min(16)).min(longest))
    }
}

impl Budget {
    /// How long an attempt must wait; `None`: it may begin. Attempts under way count from the half on: before, nothing speaks against the source.
    fn wait(&self, now: Instant, rate: Rate) -> Option<Duration> {
        let left = self.failures.level(now, rate);
        if left == 0 {
            return Some((self.failures.when(now, rate, 1) - now).max(SOON));
        }
        (left < rate.burst / 2 && self.under_way >= left).then_some(SOON)
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The user and the domain of an AOR in one spelling each.
pub(super) fn account(aor: &str) -> (String, String) {
    let rest = aor.split_once(':').map_or(aor, |(_, rest)| rest);
    let (user, domain) = rest.rsplit_once('@').unwrap_or(("", rest));
    (plain(user), domain.to_ascii_lowercase())
}

/// The user in such a name, without what a server may strip of it: space around it, a scheme, a domain before or behind it, parameters, a password.
fn bare(name: &str) -> &str {
    let is_around = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '<' | '>');
    let name = name.trim_matches(is_around);
    let name = ["sip:", "sips:", "tel:"].into_iter().find_map(|scheme| name.strip_prefix(scheme)).unwrap_or(name);
    let user = name.split(['@', ';', ':', '?']).next().unwrap_or_default();
    user.rsplit(['\\', '/']).next().unwrap_or(user).trim_matches(is_around)
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
    text_of(&out).to_lowercase()
}

#[cfg(test)]
mod tests;
