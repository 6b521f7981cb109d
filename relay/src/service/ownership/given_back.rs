//! Accounts that were taken over from a node that was gone, and that their SIP server refuses to register from here: it has the Contact of that node alone.
//! When that node lives again, it gets them back, and pushes for the calls that reach it.
//!
//! ```text
//! claimed, opened ── noted ── that node lives ──┬── refused, and retrying: offered to it ── claimed there
//!                                               ├── registering, or unanswered, which may have been registered: looked at again
//!                                               └── else forgotten: the SIP server has this node's Contact, or calls reach nobody
//! ```
//!
//! The devices of an account have one Contact, and go back together: also those whose apps are in the foreground, or that were enabled here since.
//!
//! Invariant: an account one of whose devices was registered here goes back with none of them. A node does not note the accounts that it was offered, so none
//! goes back and forth. A node that starts, or has stood still, calls no Contact unknown before it could be offered its accounts ([`OFFERED_WITHIN`]).

use std::collections::{BTreeMap, BTreeSet};
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

/// How often the store is asked whether a node lives again.
const EVERY: Duration = Duration::from_secs(1);
/// How soon a node that lives again is offered its accounts: a look at the store, and the answers.
const OFFERED_WITHIN: Duration = Duration::from_secs(4);
/// How long it waits for further offers at most, from its return on.
const OFFERED_IN_ALL: Duration = Duration::from_secs(60);
/// How long a node's return is expected: its Contacts do not stay at the SIP servers for much longer.
const EXPECTED_FOR: Duration = Duration::from_secs(3_600);
/// A record that was opened is bound within this time, or never.
const BOUND_WITHIN: Duration = Duration::from_secs(60);
/// An instance that was offered is claimed within this time, or never.
const CLAIMED_WITHIN: Duration = Duration::from_secs(10);

/// Instances that were taken over, and may go back.
#[derive(Default)]
pub(crate) struct GivenBack(Mutex<Noted>);

#[derive(Default)]
struct Noted {
    /// The instances by the node that had them and by their SIP server, each with the time at which it was opened.
    taken: BTreeMap<(Arc<str>, Box<str>), BTreeMap<InstanceId, Instant>>,
    /// The instances that this node was offered, and when.
    offered: BTreeMap<InstanceId, Instant>,
    /// When the last offer came.
    heard_at: Option<Instant>,
}

impl GivenBack {
    /// Notes an instance that was taken over and opened, and that one of these nodes had registered last.
    fn note<'a>(&self, now: Instant, nodes: impl IntoIterator<Item = &'a Arc<str>>, server: &str, id: InstanceId) {
        let mut noted = self.0.lock();
        if noted.offered.remove(&id).is_none_or(|at| now.saturating_duration_since(at) > CLAIMED_WITHIN) {
            for node in nodes {
                noted.taken.entry((node.clone(), server.into())).or_default().insert(id, now);
            }
        }
    }

    /// Notes instances that this node may claim from one that lives.
    pub(super) fn note_offered(&self, now: Instant, ids: &[InstanceId]) {
        let mut noted = self.0.lock();
        noted.offered.retain(|_, at| now.saturating_duration_since(*at) <= CLAIMED_WITHIN);
        noted.offered.extend(ids.iter().map(|id| (*id, now)));
        noted.heard_at = Some(now);
    }

    /// The end of the time in which a node that came back at this time may be offered its accounts. It begins anew with each offer, because many accounts
    /// come in many offers.
    fn offered_until(&self, back_at: Instant) -> Instant {
        let heard_at = self.0.lock().heard_at.unwrap_or(back_at);
        (heard_at.max(back_at) + OFFERED_WITHIN).min(back_at + OFFERED_IN_ALL)
    }

    /// The SIP servers of the instances that were taken from a node.
    fn servers_of(&self, node: &str) -> Vec<Box<str>> {
        let noted = self.0.lock();
        noted.taken.keys().filter(|(of, _)| **of == *node).map(|(_, server)| server.clone()).collect()
    }

    /// Whether nothing is expected to go back; instances that were taken too long ago are forgotten.
    fn is_empty(&self, now: Instant) -> bool {
        let mut noted = self.0.lock();
        noted.taken.retain(|_, ids| {
            let last = ids.values().max().copied();
            last.is_some_and(|last| now.saturating_duration_since(last) < EXPECTED_FOR)
        });
        noted.taken.is_empty()
    }

    /// The accounts that go back to a node, each with all its devices, of what is here for a SIP server. Accounts that are registered here, or have ended,
    /// are forgotten.
    fn judge(&self, now: Instant, node: &Arc<str>, server: &str, here: &[AtServer]) -> Vec<Vec<InstanceId>> {
        let mut accounts = BTreeMap::<_, Account>::new();
        for it in here {
            accounts.entry((it.id.tag().0, it.binding)).or_default().add(it);
        }
        let mut noted = self.0.lock();
        let of = (node.clone(), server.into());
        let Some(ids) = noted.taken.get_mut(&of) else { return Vec::new() };
        let mut back = Vec::new();
        for account in accounts.into_values() {
            let is_noted = account.ids.iter().any(|id| ids.contains_key(id));
            if !account.may_go_back() {
                for id in &account.all {
                    ids.remove(id);
                }
            } else if is_noted && account.is_refused {
                back.push(account.ids);
            }
        }
        let is_here: BTreeSet<_> = here.iter().map(|it| it.id).collect();
        ids.retain(|id, opened_at| is_here.contains(id) || now.saturating_duration_since(*opened_at) < BOUND_WITHIN);
        if ids.is_empty() {
            noted.taken.remove(&of);
        }
        back
    }
}

/// The devices of one account, and the state of its registration.
#[derive(Default)]
struct Account {
    all: Vec<InstanceId>,
    /// The instances that are not ending.
    ids: Vec<InstanceId>,
    /// An instance was registered from here, so the SIP server has this node's Contact.
    was_registered: bool,
    /// An instance is to be registered.
    is_wanted: bool,
    /// An instance that the SIP server has refused is tried again.
    is_refused: bool,
}

impl Account {
    fn add(&mut self, it: &AtServer) {
        self.all.push(it.id);
        if it.state != InstanceState::Ending {
            self.ids.push(it.id);
        }
        self.was_registered |= it.was_registered || it.state == InstanceState::Registered;
        self.is_wanted |= matches!(it.state, InstanceState::Registering | InstanceState::Retrying);
        self.is_refused |= it.state == InstanceState::Retrying && it.is_refused;
    }

    fn may_go_back(&self) -> bool {
        self.is_wanted && !self.was_registered
    }
}

impl Service {
    /// Until the process ends, gives back accounts that were taken over and not registered here, as soon as their earlier node lives again.
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
    /// Notes an account that was taken over. `dead`: nodes that had it before `from`, which may not have registered it.
    pub(super) fn note_taken(&self, id: InstanceId, from: Option<&Owner>, dead: &[Arc<str>], server: &str) {
        let own = self.dependencies.vault.owner().node();
        if let Some(from) = from.filter(|from| from.node() != own) {
            let nodes = [from.node()].into_iter().chain(dead).filter(|node| *node != own);
            self.given_back.note(clock::now(), nodes, server, id);
        }
    }

    /// Makes requests wait for instances that may come back from another node.
    pub(super) fn await_given_back(self: Arc<Self>) {
        self.dependencies.agent.begin_settling();
        tokio::spawn(async move {
            // A store that does not answer keeps what is unknown waiting, too.
            if self.dependencies.vault.living_peers().await.map_or(true, |peers| !peers.is_empty()) {
                let back_at = clock::now();
                loop {
                    let left = self.given_back.offered_until(back_at).saturating_duration_since(clock::now());
                    if left.is_zero() {
                        break;
                    }
                    sleep(left).await;
                }
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
                    self.offer_accounts(&peer, &server, back, OfferReason::Returned).await;
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
    fn a_node_that_is_back_waits_on_while_offers_come_and_not_for_ever() {
        let (given_back, back_at) = (GivenBack::default(), Instant::now());
        given_back.note_offered(back_at, &[]);
        assert_eq!(given_back.offered_until(back_at), back_at + OFFERED_WITHIN);
        let second = Duration::from_secs(1);
        assert_eq!(given_back.offered_until(back_at + second), back_at + second + OFFERED_WITHIN, "it came before");
        given_back.note_offered(back_at + 3 * second, &[]);
        assert_eq!(given_back.offered_until(back_at), back_at + 3 * second + OFFERED_WITHIN);
        given_back.note_offered(back_at + OFFERED_IN_ALL, &[]);
        assert_eq!(given_back.offered_until(back_at), back_at + OFFERED_IN_ALL);
    }

    #[test]
    fn what_is_not_registered_here_goes_back_to_the_node_that_had_it_and_what_was_offered_stays() {
        let (given_back, now) = (GivenBack::default(), Instant::now());
        let (node, server) = (Arc::<str>::from("one"), "sip.example.net:5061");
        let id = |number: u128| InstanceId::new(number << 32, ShardTag(1));
        // Two devices of each account.
        let at = |number: u128, state, is_refused, was_registered| {
            let binding = BindingId::new((number / 2) << 32, ShardTag(1));
            AtServer { id: id(number), binding, state, is_refused, was_registered }
        };
        given_back.note_offered(now, &[id(22)]);
        for number in [2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22] {
            given_back.note(now, [&node], server, id(number));
        }
        assert_eq!((given_back.servers_of("one").len(), given_back.servers_of("two").len()), (1, 0));
        let mut here = vec![
            at(2, InstanceState::Retrying, true, false),
            // Its app is in the foreground, or it was enabled here since.
            at(3, InstanceState::Foreground, false, false),
            at(4, InstanceState::Retrying, false, false),
            at(6, InstanceState::Registered, false, true),
            at(8, InstanceState::Registering, false, false),
            at(10, InstanceState::Foreground, true, false),
            at(12, InstanceState::Ending, true, false),
            at(14, InstanceState::Retrying, true, false),
            at(15, InstanceState::Registered, false, true),
            at(16, InstanceState::Retrying, true, true),
            at(18, InstanceState::Retrying, true, false),
            at(19, InstanceState::Ending, true, false),
            at(22, InstanceState::Retrying, true, false),
        ];
        let back = |here: &[AtServer]| given_back.judge(now, &node, server, here);
        assert_eq!(back(&here), [vec![id(2), id(3)], vec![id(18)]]);
        // An instance that was registered here at any time has this node's Contact.
        for it in &mut here {
            (it.state, it.is_refused, it.was_registered) = (InstanceState::Retrying, true, false);
        }
        assert_eq!(back(&here), [vec![id(2), id(3)], vec![id(4)], vec![id(8)], vec![id(18), id(19)]]);
        // It has gone.
        assert!(given_back.judge(now + BOUND_WITHIN, &node, server, &[]).is_empty());
        assert!(given_back.is_empty(now));
        given_back.note(now, [&node], server, id(22));
        assert!(!given_back.is_empty(now), "it was taken once more, from a node that was gone");
        assert!(given_back.is_empty(now + EXPECTED_FOR));
        let earlier = Arc::<str>::from("zero");
        given_back.note(now, [&node, &earlier], server, id(1));
        let back = given_back.judge(now, &earlier, server, &[at(1, InstanceState::Retrying, true, false)]);
        assert_eq!(back, [vec![id(1)]], "who had it last has not registered it, either");
    }
}
