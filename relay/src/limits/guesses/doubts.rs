//! Refused proofs that may have been for another address of their SIP server, and count as no failure.
//!
//! | excused | at once | then one each |
//! | --- | --- | --- |
//! | user at a server, and source | [`OF_ONE`] | 5 min |
//! | user at a server, from any source | [`OF_ALL`] | 1 min |
//! | source, whichever users | [`OF_SOURCE`] | 20 s |
//!
//! Whoever guesses chooses the nonce of his proof and the address of record beside it, so neither is looked at; a phone has a nonce of the address that has
//! refused it from then on, and needs one for each address.
//!
//! Invariant: a proof is excused only where its user, its source and both together have one left; at most [`KNOWN_MAX`] of each are known, and what has no
//! room is not excused.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sip::bucket::{Bucket, Rate};

/// Excused ones of a user from one source.
const OF_ONE: Rate = Rate { burst: 2, interval: Duration::from_secs(300) };
/// Likewise from all sources.
const OF_ALL: Rate = Rate { burst: 8, interval: Duration::from_secs(60) };
/// Excused ones of a source: the phones of one office move at once.
const OF_SOURCE: Rate = Rate { burst: 30, interval: Duration::from_secs(20) };
/// Users that are known, and sources.
const KNOWN_MAX: usize = 50_000;

/// The ones that were excused.
#[derive(Default)]
pub(super) struct Doubts {
    /// By the hash of a user at a server, from one source or from all.
    users: BTreeMap<u64, Bucket>,
    sources: BTreeMap<IpAddr, Bucket>,
}

impl Doubts {
    /// Whether a refused proof is excused, by its users' names: the hash of each, and whether it is of all sources. One of no user is not.
    pub(super) fn excuse(&mut self, users: Vec<(u64, bool)>, source: IpAddr, now: Instant) -> bool {
        let rate = |is_of_all: bool| if is_of_all { OF_ALL } else { OF_ONE };
        let has = |bucket: Option<&Bucket>, rate: Rate| bucket.is_none_or(|bucket| bucket.level(now, rate) > 0);
        let has_room = self.users.len() + users.len() <= KNOWN_MAX && self.sources.len() < KNOWN_MAX;
        let is_excused = has_room
            && !users.is_empty()
            && has(self.sources.get(&source), OF_SOURCE)
            && users.iter().all(|(user, is_of_all)| has(self.users.get(user), rate(*is_of_all)));
        if is_excused {
            for (user, is_of_all) in users {
                self.users.entry(user).or_insert_with(|| Bucket::full(now)).owe(now, rate(is_of_all), 1);
            }
            self.sources.entry(source).or_insert_with(|| Bucket::full(now)).owe(now, OF_SOURCE, 1);
        }
        is_excused
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.users.len() >= KNOWN_MAX / 2 || self.sources.len() >= KNOWN_MAX / 2
    }

    /// Forgets those who have all of theirs.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.users.retain(|_, bucket| !bucket.is_full(now));
        self.sources.retain(|_, bucket| !bucket.is_full(now));
    }
}
