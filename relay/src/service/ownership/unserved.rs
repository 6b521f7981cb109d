//! Accounts whose app, or its push service, is not in this node's configuration. A node that has it takes them.
//!
//! ```text
//! claimed, opened ── no such app here ── noted ── "have you it?" ── yes: offered ── claimed there
//!                                                              └─── no: the next node
//! ```
//!
//! Invariant: nothing is offered before a node has said that it has the app and the push service, so that no account goes back and forth. An account that no
//! other node serves stays, and the log warns of it as long as it is here. An account that is opened and not bound yet is not forgotten meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use sip::id::InstanceId;
use tokio::time::{MissedTickBehavior, interval};

use super::offers::{Offer, OfferReason, Outcome};
use crate::agent::request::Request;
use crate::clock;
use crate::lock::Mutex;
use crate::service::{Inner, Service};
use crate::vault::record::{Provider, Record};

/// How often it is looked whether another node serves what this one does not.
const EVERY: Duration = Duration::from_secs(2);
/// A record that was opened is bound within this time, or never.
const BOUND_WITHIN: Duration = Duration::from_secs(60);

/// The instances that this node took over and cannot push for.
#[derive(Default)]
pub(crate) struct Unserved(Mutex<BTreeMap<InstanceId, Noted>>);

struct Noted {
    need: Need,
    /// When it was opened; `None`: it has been here.
    opened_at: Option<Instant>,
}

/// The configuration that an instance needs at its node.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    app: Box<str>,
    provider: Provider,
    server: Box<str>,
}

impl Unserved {
    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn note(&self, id: InstanceId, need: Need) {
        self.lock().insert(id, Noted { need, opened_at: Some(clock::now()) });
    }

    /// It is served here by now.
    pub fn forget(&self, id: InstanceId) {
        self.lock().remove(&id);
    }

    /// Forgets what is not among these any more, which are here, or has not come there in time. What is here, by what it needs.
    fn keep(&self, here: &BTreeSet<InstanceId>) -> BTreeMap<Need, Vec<InstanceId>> {
        let (mut unserved, now) = (self.lock(), clock::now());
        let mut by_need: BTreeMap<Need, Vec<InstanceId>> = BTreeMap::new();
        unserved.retain(|id, noted| {
            if here.contains(id) {
                noted.opened_at = None;
                by_need.entry(noted.need.clone()).or_default().push(*id);
                return true;
            }
            noted.opened_at.is_some_and(|at| now.saturating_duration_since(at) < BOUND_WITHIN)
        });
        by_need
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Noted>> {
        self.0.lock()
    }
}

impl Service {
    /// Has other nodes take what this one cannot push for, until the process ends. `told` hears of how many there are, each time that it is another number.
    pub async fn leave_unserved(self, told: impl Fn(usize)) {
        let (it, mut ticks, mut known) = (self.0, interval(EVERY), 0);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let count = it.look_for_unserved().await;
            if count > known {
                tracing::warn!(
                    event = "app-not-configured",
                    instances = count,
                    "this node has taken over instances whose app, or a push service of it, is not in its configuration; calls for them fail, unless another node takes them"
                );
            }
            if count != known {
                told(count);
            }
            known = count;
        }
    }
}

impl Inner {
    /// Takes note of an account that was taken over, if this node cannot push for it.
    pub(super) fn note_unserved(&self, id: InstanceId, record: &Record, server: String) {
        let provider = record.device.call_push.provider;
        if !self.serves(&record.app, provider) {
            self.unserved.note(id, Need { app: record.app.clone(), provider, server: server.into() });
        }
    }

    /// Offers what is not served here to those who serve it; how many are left.
    async fn look_for_unserved(self: &Arc<Self>) -> usize {
        if self.unserved.is_empty() {
            return 0;
        }
        let (agent, vault) = (&self.dependencies.agent, &self.dependencies.vault);
        let here = async || -> BTreeSet<InstanceId> {
            agent.ask_all(Request::Owned).await.into_iter().flatten().map(|(id, _)| id).collect()
        };
        let by_need = self.unserved.keep(&here().await);
        let may_offer = !self.is_leaving() && !agent.is_doubtful() && !vault.is_being_restored();
        let peers = if may_offer && !by_need.is_empty() { self.takers().await } else { Vec::new() };
        for (Need { app, provider, server }, ids) in by_need {
            let serves = Offer::Serves { app, provider };
            for peer in &peers {
                if self.is_leaving() || !self.agrees(peer, &serves).await {
                    continue;
                }
                if self.offer_all(peer, &server, &ids, OfferReason::NotConfigured).await == Outcome::Taken {
                    break;
                }
            }
        }
        self.unserved.keep(&here().await).values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    fn id(number: u128) -> InstanceId {
        InstanceId::new(number << 32, ShardTag(1))
    }

    fn need(app: &str) -> Need {
        Need { app: app.into(), provider: Provider::Fcm, server: "sip.example.net".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_opened_and_not_bound_yet_is_known_once_it_is_here_and_forgotten_when_it_does_not_come() {
        let unserved = Unserved::default();
        for number in [1, 2, 3] {
            unserved.note(id(number), need("a"));
        }
        assert_eq!(unserved.keep(&BTreeSet::new()).len(), 0, "not here yet");
        tokio::time::advance(EVERY).await;
        assert!(unserved.keep(&[1, 2].map(id).into()) == [(need("a"), vec![id(1), id(2)])].into());
        unserved.forget(id(2));
        assert!(unserved.keep(&[1, 2].map(id).into()) == [(need("a"), vec![id(1)])].into(), "it is served by now");
        assert_eq!(unserved.keep(&BTreeSet::new()).len(), 0);
        assert_eq!(unserved.keep(&[id(1)].into()).len(), 0, "it was here, and is no more");
        tokio::time::advance(BOUND_WITHIN).await;
        assert_eq!(unserved.keep(&BTreeSet::new()).len(), 0);
        assert!(unserved.is_empty());
    }

    #[test]
    fn what_is_here_no_more_is_forgotten_and_the_rest_is_told_by_what_it_needs() {
        let unserved = Unserved::default();
        for (number, app) in [(1, "a"), (2, "b"), (3, "a"), (4, "a")] {
            unserved.note(id(number), need(app));
        }
        unserved.keep(&[1, 2, 3, 4].map(id).into());
        let kept = unserved.keep(&[1, 2, 3].map(id).into());
        assert!(kept == [(need("a"), vec![id(1), id(3)]), (need("b"), vec![id(2)])].into());
        assert!(unserved.keep(&BTreeSet::new()).is_empty() && unserved.is_empty());
    }
}
