//! The nodes that did not say which instances they have wiped, and since when.
//!
//! | a node | counts as |
//! | --- | --- |
//! | answers | heard |
//! | has no lease, does not answer, or the store takes no letter for it | silent: records that it may have wiped are not written again yet |
//! | the same for [`WAITED_FOR`] without a break | given up: otherwise its accounts would be in no store as long as one node is gone |
//! | gets a lease, or another run of it does | silent anew, until it answers |
//!
//! Invariant: a silence that was neither [noted](Silences::note) nor [watched](Silences::watch) for a [`GAP`] is over: the next one begins anew.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use crate::lock::Mutex;
use crate::service::ownership::missing_records::PeerAnswers;
use crate::vault::{Owner, Peer};

/// How long a silent node is waited for: several times what a restart takes.
pub(super) const WAITED_FOR: Duration = Duration::from_secs(60);
/// The longest gap between two looks that count as one silence.
const GAP: Duration = Duration::from_secs(10);

/// The nodes that are silent.
#[derive(Default)]
pub(crate) struct Silences(Mutex<BTreeMap<Arc<str>, Silence>>);

struct Silence {
    /// The run that held the node's lease.
    run: Option<Owner>,
    since: Instant,
    seen_at: Instant,
}

impl Silences {
    /// A node is silent; whether it is not to be waited for any more, and counts as heard.
    pub(crate) fn note(&self, peer: &Peer, now: Instant) -> PeerAnswers {
        let mut silences = self.lock();
        let begun = Silence { run: peer.run.clone(), since: now, seen_at: now };
        let silence = silences.entry(peer.node.clone()).or_insert(begun);
        if silence.run != peer.run || now.saturating_duration_since(silence.seen_at) >= GAP {
            *silence = Silence { run: peer.run.clone(), since: now, seen_at: now };
        }
        silence.seen_at = now;
        if now.saturating_duration_since(silence.since) >= WAITED_FOR { PeerAnswers::All } else { PeerAnswers::NotAll }
    }

    /// Forgets the silence of a node that has answered.
    pub(crate) fn forget(&self, node: &str) {
        self.lock().remove(node);
    }

    /// Whether nobody is silent, so that there is nothing to watch.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Looks at the silent ones: the silence of one without a lease goes on, that of one that has got one, or is no node any more, is over.
    pub(crate) fn watch(&self, peers: &[Peer], now: Instant) {
        self.lock().retain(|node, silence| {
            let Some(peer) = peers.iter().find(|peer| peer.node == *node) else { return false };
            if peer.run.is_none() && silence.run.is_none() {
                silence.seen_at = now;
            }
            peer.run == silence.run && now.saturating_duration_since(silence.seen_at) < GAP
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Silence>> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(1);

    fn peer(lives: bool) -> Peer {
        let run = Owner::parse("relay2.example.net:5061#1").unwrap();
        Peer { node: run.node().clone(), run: lives.then_some(run) }
    }

    /// How long it is waited for when it is noted at once and `watched` until then.
    fn waited(silences: &Silences, from: Instant, watched: &[Peer]) -> Option<Duration> {
        let all = (0..300).map(|step| STEP * step);
        all.into_iter().find(|after| {
            silences.watch(watched, from + *after);
            silences.note(&peer(false), from + *after) == PeerAnswers::All
        })
    }

    #[test]
    fn a_node_without_a_lease_is_waited_for_for_a_while_and_no_longer() {
        let (silences, now) = (Silences::default(), Instant::now());
        assert_eq!(waited(&silences, now, &[peer(false)]), Some(WAITED_FOR));
        silences.forget(&peer(false).node);
        let later = now + WAITED_FOR * 2;
        assert!(silences.note(&peer(false), later) == PeerAnswers::NotAll, "it has answered meanwhile");
    }

    #[test]
    fn a_silence_that_was_broken_begins_anew() {
        let (silences, now) = (Silences::default(), Instant::now());
        assert!(silences.note(&peer(false), now) == PeerAnswers::NotAll);
        assert!(silences.note(&peer(true), now + STEP) == PeerAnswers::NotAll);
        silences.watch(&[peer(false)], now + STEP * 2);
        assert!(silences.is_empty(), "another state is another silence");
        assert!(silences.note(&peer(false), now + STEP * 3) == PeerAnswers::NotAll);
        silences.watch(&[], now + STEP * 4);
        assert!(silences.is_empty(), "it is no node any more");
        assert!(silences.note(&peer(false), now) == PeerAnswers::NotAll);
        assert!(silences.note(&peer(false), now + WAITED_FOR) == PeerAnswers::NotAll, "nobody has looked meanwhile");
    }

    #[test]
    fn one_that_was_asked_once_is_watched_until_it_is_asked_again() {
        let (silences, now) = (Silences::default(), Instant::now());
        assert!(silences.note(&peer(false), now) == PeerAnswers::NotAll);
        for second in 1..=WAITED_FOR.as_secs() {
            silences.watch(&[peer(false)], now + Duration::from_secs(second));
        }
        assert!(silences.note(&peer(false), now + WAITED_FOR) == PeerAnswers::All);
    }
}
