//! Questions between the nodes of one store: an app may ask any node about an instance that another one owns.
//!
//! ```text
//! app ── any node ── the record: is the secret right, who owns it? ── letter ── its owner ── letter ── any node ── app
//! ```
//!
//! A question is the app's own request, which is opaque here (except for the questions of [`missing_records`](super::ownership::missing_records)): the owner
//! treats it as if it had come directly. A SIP server's question about an address goes to every node, because no index maps addresses to instances. Messages
//! about leaving nodes have the form of a question, too (`drain_messages`).
//!
//! | room | what it is |
//! | --- | --- |
//! | `letter_reader`, `peer_request_queues` | the letters that arrive, and the order in which they are answered |
//! | `drain_messages` | messages between nodes that are no request of an app |
//! | `forwarded_requests`, `unresponsive_peers` | where requests were sent, and which nodes do not answer |
//! | `given_up_requests` | requests that were given up at the node which was asked |
//!
//! A question that changes something carries a deadline by the store's clock, which all nodes share. An owner that reads it later, because it stood still or
//! was cut off, ignores it. A requester without an answer does not know whether the change was made, and says so.
//!
//! Invariant: a question is forwarded only for a requester that has shown the instance's secret or the SIP server's key, and the answering node checks it
//! again. A question waits at most [`ANSWER_WAIT`] for its first answer; the number of unanswered ones is limited by kind (`peer_request_queues`).

pub(super) mod drain_messages;
pub(super) mod forwarded_requests;
pub(super) mod given_up_requests;
mod letter_reader;
mod peer_request_queues;
pub(super) mod unresponsive_peers;

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sip::id::InstanceId;
use tokio::sync::mpsc;
use tokio::time::timeout;
use zeroize::Zeroizing;

pub use self::drain_messages::HEARD_WITHIN;
use self::drain_messages::NodeMessage;
use super::devices::AccessError;
use super::{Inner, Service};
use crate::agent::request::{Denied, Principal, Request};
use crate::clock;
use crate::lock::Mutex;
use crate::random;
use crate::secret::InstanceSecret;
use crate::vault::peer_messages::{Letter, LetterNumber};
use crate::vault::record::StoredRecord;
use crate::vault::{AwayReason, Owner, StoreError, Stored};

/// How long the owner of an instance may take to answer for it, an unregistration included; then the node that was asked answers
/// by itself. An owner without a lease is not asked.
pub const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// The part of the wait for an answer that is left when a question is wanted no longer: whoever begins with it before may answer in that time.
const ANSWERED_IN: u32 = 5;

/// The body of a question or an answer, in bytes that only the floor above reads.
pub type Body = Zeroizing<Vec<u8>>;

/// Takes the answers to one question: one, or an early one and what comes of it.
pub type AnswerSender = mpsc::UnboundedSender<Body>;

/// Answers what another node asks, until its future ends.
pub type Answering = Arc<dyn Fn(Body, AnswerSender) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// The questions of this node that have no answer yet.
#[derive(Default)]
pub(super) struct Questions(Mutex<HashMap<LetterNumber, AnswerSender>>);

/// A question that was asked; forgotten when this is dropped.
struct PendingQuestion<'a>(&'a Questions, LetterNumber);

impl Drop for PendingQuestion<'_> {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

/// The answer of an instance's owner.
pub enum OwnerAnswer {
    /// Its answer.
    Said(Body),
    /// No answer in time: the owner may have done what it was asked.
    Nothing,
    /// It was not asked, since it has no lease.
    NotAsked,
}

impl OwnerAnswer {
    /// Its answer, if there is one.
    pub fn said(self) -> Option<Body> {
        if let Self::Said(body) = self { Some(body) } else { None }
    }

    /// Whether it may have done what it was asked without a word.
    pub const fn is_unsure(&self) -> bool {
        matches!(self, Self::Nothing)
    }
}

/// The API's questions about other nodes.
pub trait NodeService: Clone + Send + Sync + 'static {
    /// The owner of an instance that is not this node, for a requester that has shown the instance's secret; `None`: this node is to answer, from its
    /// own data. `from`: the address of the requester.
    ///
    /// # Errors
    /// The error that this node would answer after asking the store once more. [`AccessError::StoreAway`] also at a leaving node that has the
    /// instance: it cannot know whether another node has taken that over.
    fn owner_elsewhere(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        from: IpAddr,
    ) -> impl Future<Output = Result<Option<Owner>, AccessError>> + Send;

    /// Asks the owner, which has [`ANSWER_WAIT`].
    fn ask_owner(&self, owner: &Owner, body: Body) -> impl Future<Output = OwnerAnswer> + Send;

    /// Until when a question is wanted that is asked now, and whose answer is waited for `within` this time, in milliseconds since 1970 by the
    /// [clock of questions](crate::vault::Vault::question_time_ms); `None`: the store does not tell, and is away.
    fn wanted_until(&self, _within: Duration) -> impl Future<Output = Option<u64>> + Send {
        async { Some(u64::MAX) }
    }

    /// Whether this node leaves: others have taken over what it has, or will.
    fn is_leaving(&self) -> bool {
        false
    }

    /// Whether this node ends, and has nothing left but calls that wait with it.
    fn is_draining(&self) -> bool {
        false
    }

    /// Waits until this node leaves.
    fn leaves(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// The nodes that leave, and serve on the calls that wait with them.
    fn leavers(&self) -> Vec<Owner> {
        Vec::new()
    }

    /// Asks a node that leaves; `None`: it did not answer within a second.
    fn ask_leaver(&self, leaver: &Owner, body: Body) -> impl Future<Output = Option<Body>> + Send {
        async move {
            let mut answer = None;
            let first = |body| {
                answer = Some(body);
                ControlFlow::Break(())
            };
            // Too late is as never.
            let _ = timeout(HEARD_WITHIN, self.ask(leaver, body, HEARD_WITHIN, first)).await;
            answer
        }
    }

    /// Whether a node has its lease, as far as the store tells.
    fn lives(&self, _node: &Owner) -> impl Future<Output = bool> + Send {
        async { true }
    }

    /// The other nodes that live; `None`: the store is away.
    fn others(&self) -> impl Future<Output = Option<Vec<Owner>>> + Send;

    /// Whether [`Self::others`], asked before, were all: a store that has lost its data names each node again with that one's next renewal.
    fn were_all(&self) -> impl Future<Output = bool> + Send {
        async { true }
    }

    /// Waits until the request of this number is given up at the node that was asked for it.
    fn request_given_up(&self, _number: u128) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Tells these nodes that the request of this number is given up.
    fn give_up_request(&self, _number: u128, _nodes: &[Owner]) {}

    /// Tells these nodes that the SIP server which has asked for the wake of this number was sent elsewhere.
    fn send_elsewhere(&self, _number: u128, _nodes: &[Owner]) {}

    /// Asks a node, and gives `heard` each answer until it wants no more, or the first one is not there `within`.
    fn ask(
        &self,
        node: &Owner,
        body: Body,
        within: Duration,
        heard: impl FnMut(Body) -> ControlFlow<()> + Send,
    ) -> impl Future<Output = ()> + Send;
}

impl NodeService for Service {
    async fn owner_elsewhere(
        &self,
        id: InstanceId,
        proof: &InstanceSecret,
        from: IpAddr,
    ) -> Result<Option<Owner>, AccessError> {
        let it = &self.0;
        let who = Principal::Device(proof.clone());
        let look = it.dependencies.agent.ask(id, |reply| Request::Look { id, who, reply }).await;
        let is_here = !matches!(look, Some(Err(Denied::Unknown)));
        // A node that leaves shows what it had until nobody asks it any more; another one may have that, and change it.
        let may_be_taken = matches!(look, Some(Ok(_))) && it.is_leaving();
        let tombstones = it.dependencies.vault.tombstones();
        if is_here && !may_be_taken || tombstones.bars(id, None).is_some() {
            return Ok(None);
        }
        let stored = match it.dependencies.vault.load(id).await {
            // An instance that this node has ended by itself may go on at another node.
            Ok(Some(stored)) if tombstones.bars(id, Some(stored.fence)).is_some() => return Ok(None),
            Ok(Some(stored)) => stored,
            Ok(None) | Err(StoreError::Malformed) if is_here || tombstones.look(id).is_some() => return Ok(None),
            Err(_) if tombstones.look(id).is_some() => return Ok(None),
            // A damaged record is as good as none; a node that has the instance writes it again.
            Ok(None) | Err(StoreError::Malformed) => match it.who_wiped(id, Some(proof)).await {
                Err(AccessError::Unknown) => it.seek(id, Some(from)).await?.ok_or(AccessError::Unknown)?,
                told => return told,
            },
            Err(_) => return Err(AccessError::StoreAway),
        };
        if stored.owned {
            // The instance is on its way here.
            return Ok(None);
        }
        match it.is_secret_of(&stored, proof) {
            Some(true) => {
                it.passed_on.note(id, it.dependencies.vault.wipe_proof(id, proof), stored.owner.node());
                Ok(Some(stored.owner))
            }
            Some(false) => Err(AccessError::Forbidden),
            // Its owner, if it lives, has it in memory, and knows the secret.
            None if it.dependencies.vault.is_damaged(id, &stored.sealed) => Ok(Some(stored.owner)),
            None => Ok(None),
        }
    }

    async fn ask_owner(&self, owner: &Owner, body: Body) -> OwnerAnswer {
        let asked = async {
            if !self.0.dependencies.vault.holds_lease(owner).await.is_ok_and(|holds| holds) {
                return OwnerAnswer::NotAsked;
            }
            self.0.ask_within(owner, body, ANSWER_WAIT).await.map_or(OwnerAnswer::Nothing, OwnerAnswer::Said)
        };
        // Too late is as never.
        timeout(ANSWER_WAIT, asked).await.unwrap_or(OwnerAnswer::Nothing)
    }

    async fn wanted_until(&self, within: Duration) -> Option<u64> {
        self.0.wanted_until(within).await
    }

    fn is_leaving(&self) -> bool {
        self.0.is_leaving()
    }

    fn is_draining(&self) -> bool {
        self.0.dependencies.drain.has_begun()
    }

    async fn leaves(&self) {
        self.0.leaves().await;
    }

    fn leavers(&self) -> Vec<Owner> {
        self.0.leavers.living(clock::now())
    }

    async fn lives(&self, node: &Owner) -> bool {
        self.0.dependencies.vault.holds_lease(node).await.unwrap_or(true)
    }

    async fn others(&self) -> Option<Vec<Owner>> {
        self.0.dependencies.vault.living_peers().await.ok()
    }

    async fn request_given_up(&self, number: u128) {
        self.0.given_up_requests.wait(number).await;
    }

    fn give_up_request(&self, number: u128, nodes: &[Owner]) {
        self.0.tell_given_up(NodeMessage::GivenUp(number), nodes);
    }

    fn send_elsewhere(&self, number: u128, nodes: &[Owner]) {
        self.0.tell_given_up(NodeMessage::SentElsewhere(number), nodes);
    }

    async fn were_all(&self) -> bool {
        self.0.dependencies.vault.is_whole().await == Ok(true)
    }

    async fn ask(&self, node: &Owner, body: Body, within: Duration, heard: impl FnMut(Body) -> ControlFlow<()> + Send) {
        // A letter that was not written has no answer.
        let _ = self.0.ask_node(node, body, within, heard).await;
    }
}

impl Inner {
    /// Why an owner that lives has not answered: it is slow, or the store takes no letter for it.
    pub(super) async fn silence_of(&self, owner: &Owner) -> AccessError {
        // A letter sent in vain costs its reader one look.
        let told = self.dependencies.vault.write_letter(owner, &Letter::Ended).await;
        told.map_or(AccessError::StoreAway, |()| AccessError::OwnerAway)
    }

    /// As [`NodeService::wanted_until`] says.
    pub(super) async fn wanted_until(&self, within: Duration) -> Option<u64> {
        let asked = clock::now();
        let now_ms = self.dependencies.vault.question_time_ms().await.ok()?;
        // The store may have said this at once, or at last.
        let wanted = (within - within / ANSWERED_IN).saturating_sub(asked.elapsed());
        Some(now_ms.saturating_add(wanted.as_millis() as u64))
    }

    /// Asks a node, as [`NodeService::ask`] says.
    ///
    /// # Errors
    /// [`StoreError::Away`]: the store has not taken the question, for another reason than that the node reads none.
    async fn ask_node(
        &self,
        node: &Owner,
        body: Body,
        within: Duration,
        mut heard: impl FnMut(Body) -> ControlFlow<()> + Send,
    ) -> Result<(), StoreError> {
        let (number, (tell, mut answers)) = (random::bytes(), mpsc::unbounded_channel());
        self.questions.lock().insert(number, tell);
        // Also when the requester has gone.
        let _forgotten = PendingQuestion(&self.questions, number);
        let vault = &self.dependencies.vault;
        let mut written = Err(StoreError::Away(AwayReason::TimedOut));
        let first = async {
            let ask = Letter::Ask { number, from: vault.owner().clone(), body };
            let taken = vault.write_letter(node, &ask).await;
            drop(ask);
            let is_taken = taken.is_ok();
            // A run that reads no letters is silent, and the store is not away.
            written = match taken {
                Err(StoreError::Away(why)) if why.is_of_reader() => Ok(()),
                taken => taken,
            };
            if is_taken { answers.recv().await } else { None }
        };
        let mut answer = timeout(within, first).await.ok().flatten();
        while let Some(body) = answer {
            answer = match heard(body) {
                ControlFlow::Continue(()) => answers.recv().await,
                ControlFlow::Break(()) => None,
            };
        }
        written
    }

    /// Asks a node for its first answer; `None`: it has none within this time.
    pub(super) async fn ask_within(&self, node: &Owner, body: Body, within: Duration) -> Option<Body> {
        self.ask_first(node, body, within).await.ok().flatten()
    }

    /// The same, for who is to know why there is none.
    ///
    /// # Errors
    /// [`StoreError::Away`]: the store has not taken the question.
    pub(super) async fn ask_first(
        &self,
        node: &Owner,
        body: Body,
        within: Duration,
    ) -> Result<Option<Body>, StoreError> {
        let mut answer = None;
        let first = |body| {
            answer = Some(body);
            ControlFlow::Break(())
        };
        self.ask_node(node, body, within, first).await?;
        Ok(answer)
    }

    /// The record of an instance that no shard here has, for who has shown its secret.
    pub(super) async fn kept_elsewhere(&self, id: InstanceId, proof: &InstanceSecret) -> Option<Stored> {
        let stored = self.record_elsewhere(id).await?;
        (self.is_secret_of(&stored, proof) == Some(true)).then_some(stored)
    }

    /// The node that has wiped an instance which the store does not have, as far as its tombstones lie beside ours, or as an earlier request
    /// was passed on to it: it tells the receipt, and waits for one that is not signed yet. `None`: this node is to answer from that file, for that
    /// one is gone, or `proof` is wrong.
    pub(super) async fn who_wiped(
        &self,
        id: InstanceId,
        proof: Option<&InstanceSecret>,
    ) -> Result<Option<Owner>, AccessError> {
        let vault = &self.dependencies.vault;
        let proof = proof.map(|proof| vault.wipe_proof(id, proof));
        let beside = vault.tombstones().look_beside(id).await;
        if let (Some(beside), Some(proof)) = (&beside, &proof)
            && !beside.tombstone.is_of(proof)
        {
            return Ok(None);
        }
        let passed_on = proof.and_then(|proof| self.passed_on.node_of(id, &proof));
        if beside.is_none() && passed_on.is_none() {
            return Err(AccessError::Unknown);
        }
        let has_wiped = |peer: &Owner| match &beside {
            Some(beside) => beside.is_of_node(peer.node()),
            None => passed_on.as_deref() == Some(&**peer.node()),
        };
        let peers = vault.living_peers().await.map_err(|_| AccessError::StoreAway)?;
        Ok(peers.into_iter().find(has_wiped))
    }

    /// The record of an instance that no shard here has, for an operator: another node owns it, or it is on its way here.
    pub(super) async fn record_elsewhere(&self, id: InstanceId) -> Option<Stored> {
        let vault = &self.dependencies.vault;
        let stored = vault.load(id).await.ok()??;
        // The instance was wiped; a record that a store still holds that was away does not count.
        let tombstone = vault.tombstones().look_anywhere(id).await;
        (!tombstone.is_some_and(|tombstone| tombstone.counts_for(Some(stored.fence)))).then_some(stored)
    }

    /// Whether a record's secret is the one that was shown; `None`: it does not open with this keyring. A registration that
    /// passed through has none.
    pub(super) fn is_secret_of(&self, stored: &Stored, proof: &InstanceSecret) -> Option<bool> {
        let is_theirs = |record: &StoredRecord| record.lent().is_some_and(|record| record.secret == *proof);
        self.dependencies.vault.open_record(stored.id, &stored.sealed, is_theirs).ok()
    }
}

impl Questions {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<LetterNumber, AnswerSender>> {
        self.0.lock()
    }
}
