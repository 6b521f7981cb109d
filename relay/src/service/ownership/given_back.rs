//! Accounts that were taken over from a node that was gone, and that their SIP server refuses to register from here: it has the Contact of that node alone.
//! When that node lives again, it gets them back, and pushes for the calls that reach it.
//!
//! ```text
//! claimed, opened ── noted ── that node lives ──┬── refused, and retrying: offered to it ── claimed there
//!                                               ├── registering, or unanswered, which may have been registered: looked at again
//!                                               └── else forgotten: the SIP server has this node's Contact, or calls reach nobody
//! ```
//!
//! Invariant: what a node was offered is not noted there, so no account goes back and forth. A node that starts, or has stood still, calls no Contact unknown
//! before it could be offered what it had ([`OFFERED_WITHIN`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sip::id::InstanceId;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::offers::OfferReason;
use crate::agent::request::AtServer;
use crate::clock;
use crate::domain::InstanceState;
use crate::lock::Mutex;
use crate::service::{Inner, Service};
use crate::vault::Owner;

/// How often it is looked whether a node lives again.
const EVERY: Duration = Duration::from_secs(1);
/// How soon a node that lives again is offered what it had: a look, and the answers that it takes.
const OFFERED_WITHIN: Duration = Duration::from_secs(4);
/// For how long a node is expected: its Contacts do not stand at the SIP servers for much longer.
const EXPECTED_FOR: Duration = Duration::from_secs(3_600);
/// What was opened is bound within this time, or never.
const BOUND_WITHIN: Duration = Duration::from_secs(60);
/// What was offered is claimed within this time, or never.
const CLAIMED_WITHIN: Duration = Duration::from_secs(10);

/// What was taken over, and may go back.
#[derive(Default)]
pub(crate) struct GivenBack(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    /// By the node that had them and by their SIP server, each with when it was opened.
    taken: BTreeMap<(Arc<str>, Box<str>), BTreeMap<InstanceId, Instant>>,
    /// What this node was offered, and when.
    offered: BTreeMap<InstanceId, Instant>,
}

impl GivenBack {
    /// An instance was taken over from a node, and opened.
    fn note(&self, now: Instant, node: &Arc<str>, server: &str, id: InstanceId) {
        let mut noted = self.0.lock();
        if noted.offered.remove(&id).is_none_or(|at| now.saturating_duration_since(at) > CLAIMED_WITHIN) {
            noted.taken.entry((node.clone(), server.into())).or_default().insert(id, now);
        }
    }

    /// This node may claim these from one that lives.
    pub(super) fn note_offered(&self, now: Instant, ids: &[InstanceId]) {
        let mut noted = self.0.lock();
        noted.offered.retain(|_, at| now.saturating_duration_since(*at) <= CLAIMED_WITHIN);
        noted.offered.extend(ids.iter().map(|id| (*id, now)));
    }

    /// The SIP servers of what was taken from a node.
    fn servers_of(&self, node: &str) -> Vec<Box<str>> {
        let noted = self.0.lock();
        noted.taken.keys().filter(|(of, _)| **of == *node).map(|(_, server)| server.clone()).collect()
    }

    /// Whether nothing is expected to go back; what was taken too long ago is forgotten.
    fn is_empty(&self, now: Instant) -> bool {
        let mut noted = self.0.lock();
        noted.taken.retain(|_, ids| {
            let last = ids.values().max().copied();
            last.is_some_and(|last| now.saturating_duration_since(last) < EXPECTED_FOR)
        });
        noted.taken.is_empty()
    }

    /// What goes back to a node, of what is here for a SIP server. What is registered here, or is over, is forgotten.
    fn judge(&self, now: Instant, node: &Arc<str>, server: &str, here: &[AtServer]) -> Vec<InstanceId> {
        let here: BTreeMap<_, _> = here.iter().map(|it| (it.id, (it.state, it.is_refused))).collect();
        let (mut noted, mut back) = (self.0.lock(), Vec::new());
        let of = (node.clone(), server.into());
        let Some(ids) = noted.taken.get_mut(&of) else { return back };
        ids.retain(|id, opened_at| match here.get(id) {
            Some((InstanceState::Retrying, true)) => {
                back.push(*id);
                true
            }
            Some((state, _)) => matches!(state, InstanceState::Registering | InstanceState::Retrying),
            None => now.saturating_duration_since(*opened_at) < BOUND_WITHIN,
        });
        if ids.is_empty() {
            noted.taken.remove(&of);
        }
        back
    }
}

impl Service {
    /// Gives back what was taken over and not registered here, as soon as the node lives that had it, until the process ends.
    pub async fn give_back(self) {
        let (it, mut ticks) = (self.0, interval(EVERY));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        it.clone().await_given_back();
        loop {
            ticks.tick().await;
            it.look_for_returned().await;
        }
    }
}

impl Inner {
    /// Takes note of an account that was taken over.
    pub(super) fn note_taken(&self, id: InstanceId, from: Option<&Owner>, server: &str) {
        if let Some(from) = from.filter(|from| from.node() != self.dependencies.vault.owner().node()) {
            self.given_back.note(clock::now(), from.node(), server, id);
        }
    }

    /// Has what may come back waited for, where another node may have it.
    pub(super) fn await_given_back(self: Arc<Self>) {
        self.dependencies.agent.begin_settling();
        tokio::spawn(async move {
            // A store that does not answer keeps what is unknown waiting, too.
            if self.dependencies.vault.living_peers().await.map_or(true, |peers| !peers.is_empty()) {
                sleep(OFFERED_WITHIN).await;
            }
            self.dependencies.agent.end_settling().await;
        });
    }

    async fn look_for_returned(self: &Arc<Self>) {
        let (agent, vault) = (&self.dependencies.agent, &self.dependencies.vault);
        let may_offer = !self.is_leaving() && !agent.is_doubtful() && !vault.is_being_restored();
        if self.given_back.is_empty(clock::now()) || !may_offer {
            return;
        }
        let silent = agent.silent_servers(clock::now());
        for peer in self.takers().await {
            for server in self.given_back.servers_of(peer.node()) {
                if silent.iter().any(|silent| silent.server == server) {
                    continue;
                }
                let here = self.at_server(&server).await;
                let back = self.given_back.judge(clock::now(), peer.node(), &server, &here);
                if !back.is_empty() && !self.is_leaving() {
                    self.offer_all(&peer, &server, &back, OfferReason::Returned).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sip::id::{BindingId, ShardTag};

    use super::*;

    #[test]
    fn what_is_not_registered_here_goes_back_to_the_node_that_had_it_and_what_was_offered_stays() {
        let (given_back, now) = (GivenBack::default(), Instant::now());
        let (node, server) = (Arc::<str>::from("one"), "sip.example.net:5061");
        let id = |number: u128| InstanceId::new(number << 32, ShardTag(1));
        let at = |number, state, is_refused| {
            let binding = BindingId::new(number << 32, ShardTag(1));
            AtServer { id: id(number), binding, state, is_refused }
        };
        given_back.note_offered(now, &[id(8)]);
        (1..=8).for_each(|number| given_back.note(now, &node, server, id(number)));
        assert_eq!((given_back.servers_of("one").len(), given_back.servers_of("two").len()), (1, 0));
        let mut here = vec![
            at(1, InstanceState::Retrying, true),
            at(2, InstanceState::Retrying, false),
            at(3, InstanceState::Registered, false),
            at(4, InstanceState::Registering, false),
            at(5, InstanceState::Foreground, true),
            at(6, InstanceState::Ending, true),
            at(8, InstanceState::Retrying, true),
        ];
        assert_eq!(given_back.judge(now, &node, server, &here), [id(1)]);
        // What was registered here at any time has this node's Contact.
        here.iter_mut().for_each(|it| (it.state, it.is_refused) = (InstanceState::Retrying, true));
        assert_eq!(given_back.judge(now, &node, server, &here), [id(1), id(2), id(4)]);
        // It has gone.
        assert_eq!(given_back.judge(now + BOUND_WITHIN, &node, server, &[]), []);
        assert!(given_back.is_empty(now));
        given_back.note(now, &node, server, id(8));
        assert!(!given_back.is_empty(now), "it was taken once more, from a node that was gone");
        assert!(given_back.is_empty(now + EXPECTED_FOR));
    }
}
