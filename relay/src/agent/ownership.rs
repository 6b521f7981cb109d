//! Whether this node knows that it owns its instances; shared with every shard.
//!
//! | state | from | to | a shard |
//! | --- | --- | --- | --- |
//! | claiming | the start | the first answer of the SIP server of each claimed instance | lets requests wait for instances that are not here, or not served yet |
//! | taking | the start | the arrival of all claimed instances at their shards | reports no instance as unknown |
//! | doubtful | a whole lease without a renewal: the process stood still | the store's answer, once the shard has read it | acts on nothing from the network |
//!
//! A store that is away causes no doubt: the node goes on with its instances.
//!
//! Invariant: a query costs the load of an atomic, and for the doubt a look at the clock. It never waits.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::Agent;
use crate::clock::since_boot;
use crate::vault::LEASE;

/// The ownership, as far as it is known.
pub struct Ownership {
    /// How many claims are under way; the first one is from the start.
    claims: AtomicUsize,
    /// How many of them are not with their shards yet.
    taking: AtomicUsize,
    /// How many of those have found something.
    bringing: AtomicUsize,
    /// Whether all that was to be taken at the start is with its shards.
    has_taken: AtomicBool,
    /// When the store was asked that spoke last of the lease, or was away, in milliseconds since boot: a machine that is suspended
    /// stands still, too.
    sure_at: AtomicU64,
    /// How often the lease had lapsed and what is here was looked up.
    lapses: AtomicU64,
}

impl Default for Ownership {
    /// Of a node that starts.
    fn default() -> Self {
        let (claims, taking) = (AtomicUsize::new(1), AtomicUsize::new(1));
        let (bringing, has_taken) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self {
            claims,
            taking,
            bringing,
            has_taken,
            sure_at: AtomicU64::new(millis(since_boot())),
            lapses: AtomicU64::new(0),
        }
    }
}

impl Ownership {
    /// Whether something may be on its way here.
    pub fn is_claiming(&self) -> bool {
        self.claims.load(Ordering::Relaxed) > 0
    }

    /// Whether something may be on its way to its shard.
    pub fn is_taking(&self) -> bool {
        self.taking.load(Ordering::Acquire) > 0
    }

    /// Whether instances are on their way to their shards, as far as is known: that a claim asks for some is not to say that there are any.
    pub fn expects_instances(&self) -> bool {
        self.is_taking() && (!self.has_taken.load(Ordering::Acquire) || self.bringing.load(Ordering::Acquire) > 0)
    }

    pub(super) fn begin_bringing(&self) {
        self.bringing.fetch_add(1, Ordering::Release);
    }

    pub(super) fn end_bringing(&self) {
        self.bringing.fetch_sub(1, Ordering::Release);
    }

    pub(super) fn begin_claim(&self) {
        self.taking.fetch_add(1, Ordering::Relaxed);
        self.begin_settling();
    }

    /// Whether it was the last one.
    pub(super) fn end_claim(&self) -> bool {
        if self.taking.fetch_sub(1, Ordering::Release) == 1 {
            self.has_taken.store(true, Ordering::Release);
        }
        self.end_settling()
    }

    pub(super) fn begin_settling(&self) {
        self.claims.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether it was the last one.
    pub(super) fn end_settling(&self) -> bool {
        self.claims.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// Whether another node may own by now what is here.
    pub fn is_doubtful(&self) -> bool {
        self.is_doubtful_at(since_boot())
    }

    fn is_doubtful_at(&self, now: Duration) -> bool {
        millis(now).saturating_sub(self.sure_at.load(Ordering::Acquire)) > millis(LEASE)
    }

    /// How often the lease had lapsed: a shard that slept through the doubt sees by it that there was one.
    pub fn lapses(&self) -> u64 {
        self.lapses.load(Ordering::Relaxed)
    }

    /// The lease had lapsed, and each shard was told what it lost.
    pub(super) fn lapsed(&self) {
        self.lapses.fetch_add(1, Ordering::Relaxed);
    }

    /// The store, asked at this time since boot, has spoken of the lease, or is away.
    pub(super) fn be_sure(&self, asked_at: Duration) {
        self.sure_at.fetch_max(millis(asked_at), Ordering::AcqRel);
    }
}

impl Agent {
    /// The instances taken over have yet to meet their SIP server, until [`Self::end_settling`], and their shards, until [`Self::end_bringing`].
    pub fn begin_bringing(&self) {
        self.0.ownership.begin_settling();
        self.0.ownership.begin_bringing();
    }

    /// The instances taken over are with their shards.
    pub fn end_bringing(&self) {
        self.0.ownership.end_bringing();
    }

    /// The store, asked at this time [since boot](crate::clock::since_boot), has spoken of this node's lease, or is away: the instances here may be
    /// acted on for a lease from then on. An answer may have waited for a process that stood still.
    pub fn be_sure(&self, asked_at: Duration) {
        self.0.ownership.be_sure(asked_at);
    }

    /// The lease had lapsed, and what was lost by it has been told: each shard reads that before what waits.
    pub fn lapsed(&self) {
        self.0.ownership.lapsed();
    }

    /// Whether this node may have lost its lease without noticing.
    pub fn is_doubtful(&self) -> bool {
        self.0.ownership.is_doubtful()
    }
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_stood_still_for_a_lease_is_in_doubt_until_the_store_has_spoken() {
        let ownership = Ownership::default();
        let start = since_boot();
        assert!(!ownership.is_doubtful() && !ownership.is_doubtful_at(start + LEASE));
        let late = start + LEASE + Duration::from_secs(1);
        assert!(ownership.is_doubtful_at(late));
        ownership.be_sure(late);
        assert!(!ownership.is_doubtful_at(late + LEASE) && ownership.is_doubtful_at(late + LEASE * 2));
    }
}
