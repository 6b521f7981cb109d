//! What follows from the messages that a leaving node and the others exchange (`drain_messages`).
//!
//! ```text
//! shard: an instance is wiped ──────────────── each leaving node: releases it ────── the receipt
//! shard: a push binding ends ───────────────── each other node: releases its copy ── the receipt
//! shard of a leaving node: a dead token ────── the owner: decides by its own record
//! node that has unregistered a predecessor ─── the owner of the successor: registers again
//! ```
//!
//! Invariant: a leaving node only reads from the store and releases instances; it writes no records. The sender of a message waits for its effect, but at most
//! [`HEARD_WITHIN`](crate::service::nodes::drain_messages::HEARD_WITHIN).

use std::sync::Arc;
use std::time::Duration;

use sip::id::InstanceId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::sleep;
use zeroize::Zeroizing;

use crate::agent::request::{
    ChangedRecord, DeadToken, EndKind, LeaseExpiry, Principal, ReleaseReason, Request, SettlingNews, UNREGISTERED,
};
use crate::agent::{Audience, NodeNews};
use crate::audit::Act;
use crate::clock;
use crate::random;
use crate::service::nodes::drain_messages::{HEARD, NOT_SO, NodeMessage};
use crate::service::nodes::given_up_requests::ASKED_AGAIN;
use crate::service::nodes::{Body, NodeService as _};
use crate::service::{Inner, Service, status};
use crate::vault::peer_messages::Letter;
use crate::vault::{Fence, Owner};

/// How soon, and how often, the store is asked again for the owner of an instance whose token is dead: it may be on its way to that one.
const OWNER_AGAIN: Duration = Duration::from_secs(1);
const OWNER_TRIES: usize = 10;

impl Service {
    /// Tells other nodes what concerns them of what happens on the shards, until the process ends.
    pub async fn tell_nodes(self, mut news: mpsc::UnboundedReceiver<NodeNews>) {
        while let Some(news) = news.recv().await {
            let it = self.clone();
            match news {
                NodeNews::Wiped { id, audience, told } => {
                    if audience == Audience::AllNodes || !it.0.leavers.living(clock::now()).is_empty() {
                        tokio::spawn(async move {
                            it.0.tell_end(id, audience).await;
                            drop(told);
                        });
                    }
                }
                NodeNews::Left { id, is_noted } => drop(tokio::spawn(it.0.have_what_was_left_registered(id, is_noted))),
                NodeNews::Shown(id) => it.0.serve_if_released(id),
                NodeNews::ContactsRemoved(removed) => drop(tokio::spawn(it.0.end_removed_contacts(removed))),
                NodeNews::Registered(new) => drop(tokio::spawn(it.0.end_other_tokens(new))),
                NodeNews::TokenDead { id, token } => drop(tokio::spawn(async move { it.tell_dead(id, token).await })),
            }
        }
    }

    /// Tells the owner of an instance that was handed over that its token is dead.
    async fn tell_dead(&self, id: InstanceId, token: DeadToken) {
        let vault = &self.0.dependencies.vault;
        for _ in 0..OWNER_TRIES {
            match vault.load(id).await {
                Ok(None) => return,
                Ok(Some(stored)) if !stored.owned => {
                    if self
                        .ask_owner(&stored.owner, NodeMessage::TokenDead { id, token }.encode())
                        .await
                        .said()
                        .is_some()
                    {
                        return;
                    }
                }
                Ok(Some(_)) | Err(_) => {}
            }
            sleep(OWNER_AGAIN).await;
        }
        tracing::warn!(event = "dead-token-not-told", instance = %id, "the owner of an instance that was handed over could not be told that its push token is dead; it finds out with its next push");
    }

    /// Tells the other nodes that no call waits here any more.
    pub async fn tell_left(&self) {
        if !self.0.is_leaving() {
            return;
        }
        self.0.given_up_requests.all_told().await;
        // A node that does not get the message believes for a while longer that this one is leaving.
        let mut told = JoinSet::new();
        for peer in self.0.dependencies.vault.living_peers().await.unwrap_or_default() {
            let it = self.0.clone();
            told.spawn(async move { it.tell(&peer, NodeMessage::Left).await });
        }
        told.join_all().await;
    }
}

impl Inner {
    /// Tells a node, which need not answer; whether the store has taken that.
    pub(crate) async fn tell(&self, node: &Owner, message: NodeMessage) -> bool {
        let vault = &self.dependencies.vault;
        let ask = Letter::Ask { number: random::bytes(), from: vault.owner().clone(), body: message.encode() };
        vault.write_letter(node, &ask).await.is_ok()
    }

    /// Tells these nodes that this one leaves.
    pub(super) async fn tell_leaving(&self, peers: &[Owner]) {
        for peer in peers {
            // A node that is not told believes this one gone 5 s later, and wakes devices once more.
            let _ = self.tell(peer, NodeMessage::Leaving).await;
        }
    }

    /// Tells each node that leaves, and waits until they have done what follows, [`HEARD_WITHIN`](crate::service::nodes::drain_messages::HEARD_WITHIN) at most.
    pub(crate) async fn tell_leavers(self: &Arc<Self>, message: NodeMessage) {
        self.tell_all(self.leavers.living(clock::now()), message).await;
    }

    /// Tells these nodes that an instance has ended, and waits likewise.
    pub(crate) async fn tell_end(self: &Arc<Self>, id: InstanceId, audience: Audience) {
        let mut nodes = self.leavers.living(clock::now());
        if audience == Audience::AllNodes {
            // Without the store nothing is erased, and no receipt is signed.
            nodes.extend(self.dependencies.vault.living_peers().await.unwrap_or_default());
            nodes.sort_unstable();
            nodes.dedup();
        }
        self.tell_all(nodes, NodeMessage::Ended(id)).await;
    }

    pub(crate) async fn tell_all(self: &Arc<Self>, nodes: Vec<Owner>, message: NodeMessage) {
        let mut told = JoinSet::new();
        for node in nodes {
            let service = Service(self.clone());
            told.spawn(async move { service.ask_leaver(&node, message.encode()).await });
        }
        while told.join_next().await.is_some() {}
    }

    /// Does what a message of another node asks for; returns the answer.
    pub(crate) async fn hear(self: Arc<Self>, from: Owner, message: NodeMessage) -> Body {
        match message {
            NodeMessage::Leaving => {
                self.dependencies.agent.note_leaving(from.node().clone());
                self.leavers.note(from, clock::now());
            }
            NodeMessage::Left => self.leavers.forget(&from),
            NodeMessage::TokenDead { id, token } => {
                self.dependencies.agent.tell(id, Request::TokenDead { id, token }).await;
            }
            NodeMessage::Silence(id) => {
                // The answer says only that it was done.
                let _ = self.dependencies.agent.ask(id, |reply| Request::Silence { id, reply }).await;
            }
            NodeMessage::RegisterAgain(id) => self.dependencies.agent.tell(id, Request::RegisterAgain { id }).await,
            NodeMessage::ContactRemoved(removal) => self.end_removed_here(removal).await,
            NodeMessage::InCall(id) if !self.has_call_of(id).await => return Zeroizing::new(NOT_SO.to_vec()),
            NodeMessage::InCall(_) => {}
            NodeMessage::Registers { binding, besides } if !self.registers(binding, besides).await => {
                return Zeroizing::new(NOT_SO.to_vec());
            }
            NodeMessage::Registers { .. } => {}
            NodeMessage::GivenUp(number) => self.given_up_requests.note(number),
            NodeMessage::SentElsewhere(number) => {
                tokio::spawn(async move {
                    sleep(ASKED_AGAIN).await;
                    self.given_up_requests.note(number);
                });
            }
            NodeMessage::Ended(id) if !self.is_leaving() => self.release_copy(id).await,
            // A node that is not leaving owns its instances.
            NodeMessage::Ended(_) | NodeMessage::Changed(_) | NodeMessage::Succeeded { .. } if !self.is_leaving() => {}
            NodeMessage::Ended(id) => self.release_at_once(id).await,
            NodeMessage::Changed(id) => self.take_change(id).await,
            NodeMessage::Succeeded { earlier, later } => self.take_successor(earlier, later).await,
        }
        Zeroizing::new(HEARD.to_vec())
    }

    /// Unregisters what gives way to a later one and is here, and has that one's owner register it again then. Nodes behind one name have one Contact, and a
    /// node that had an account before, and has it again, has the `+sip.instance` that it had: then one of the two has taken the other's registration away.
    pub(crate) async fn give_way(
        self: &Arc<Self>,
        id: InstanceId,
        later: impl Future<Output = Option<InstanceId>> + Send + 'static,
    ) {
        let (reply, ended) = oneshot::channel();
        let end = Request::End { id, who: Principal::Relay, kind: EndKind::NeverOurs, reply: Some(reply) };
        self.dependencies.agent.tell(id, end).await;
        let it = self.clone();
        tokio::spawn(async move {
            // Its SIP server has answered, or has had its time; it has no receipt.
            let _ = ended.await;
            if let Some(later) = later.await {
                it.have_registered_again(later).await;
            }
        });
    }

    /// An instance that this node has ended by itself, and that another one now serves, may have had the same Contact there.
    async fn have_what_was_left_registered(self: Arc<Self>, id: InstanceId, is_noted: bool) {
        if !is_noted && let Ok(Some(stored)) = self.dependencies.vault.load(id).await {
            // The trail has it as wiped.
            self.audit(Act::HandedOver, &status::by_record(stored));
        }
        sleep(UNREGISTERED).await;
        self.have_registered_again(id).await;
    }

    /// Has the owner of an instance register it at once.
    pub(crate) async fn have_registered_again(self: &Arc<Self>, id: InstanceId) {
        if self.look_as_relay(id).await.is_ok() {
            return self.dependencies.agent.tell(id, Request::RegisterAgain { id }).await;
        }
        // A node that is away registers it when it is back, and who takes it over does.
        if let Ok(Some(stored)) = self.dependencies.vault.load(id).await {
            let _ = Service(self.clone()).ask_owner(&stored.owner, NodeMessage::RegisterAgain(id).encode()).await;
        }
    }

    /// The owner has ended an instance that is served here still.
    async fn release_at_once(self: &Arc<Self>, id: InstanceId) {
        if self.look_as_relay(id).await.is_err() {
            // The instance may be on its way here, as the successor of another one.
            let kind = EndKind::NeverOurs;
            let _ = self.dependencies.agent.ask(id, |reply| Request::EndAhead { id, kind, reply }).await;
            // So may a call be for one that passed through, and that another node has had.
            return self.release_copy(id).await;
        }
        tracing::info!(event = "ended-elsewhere", instances = 1, "another node has ended instances of this one");
        // An instance that the store cannot be asked about is served until the end.
        let _ = self.release_one(id).await;
        // Behind it: then it is done.
        let _ = self.dependencies.agent.ask(id, |reply| Request::Look { id, who: Principal::Relay, reply }).await;
    }

    /// The owner has ended a registration that passed through, of which this node may have adopted a copy. Later registrations of the device at this
    /// node are this node's own.
    async fn release_copy(&self, id: InstanceId) {
        self.dependencies.agent.tell(id, Request::Release { id, fence: Fence::NEW, why: ReleaseReason::Ended }).await;
        // Behind it: then it is done.
        let _ = self.dependencies.agent.ask(id, |reply| Request::Look { id, who: Principal::Relay, reply }).await;
    }

    /// The owner has stored another record of an instance.
    pub(crate) async fn take_change(&self, id: InstanceId) {
        let vault = &self.dependencies.vault;
        let (Ok(status), Ok(Some(stored))) = (self.look_as_relay(id).await, vault.load(id).await) else { return };
        let Ok(lease) = vault.open_lent(id, &stored.sealed, LeaseExpiry::of) else { return };
        // No record is put from here any more.
        let record = ChangedRecord { sealed: stored.sealed, lease, was: None, fence: status.fence, presence: None };
        let replace = |reply| Request::Replace { id, record, reply };
        let _ = self.dependencies.agent.ask(id, replace).await;
    }

    /// The owner has enabled the device of an instance again.
    async fn take_successor(self: &Arc<Self>, earlier: InstanceId, later: InstanceId) {
        let agent = &self.dependencies.agent;
        if earlier.tag() != later.tag() || self.look_as_relay(earlier).await.is_err() {
            return;
        }
        if self.look_as_relay(later).await.is_err() {
            let Ok(Some(stored)) = self.dependencies.vault.load(later).await else { return };
            let Some(new) = self.open_proven(stored) else { return };
            // Nobody waits for its registration, because another node's is in force.
            agent.bind_all(vec![*new], &SettlingNews::for_nobody()).await.ended().await;
        }
        agent.tell(earlier, Request::Succeed { earlier, successor: later }).await;
    }
}
