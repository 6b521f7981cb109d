//! Single records that the store has lost while their owners have them: evicted, deleted, or expired by a clock that jumped. The store has lost nothing else,
//! so only a comparison finds them.
//!
//! | who compares | which records | consequence |
//! | --- | --- | --- |
//! | the owner, with each renewal of its lease | [some](COMPARED_WITHIN) of those that it owns | writes again what is missing |
//! | the owner, at the same time | one that the store would keep beyond its end | writes it again |
//! | the owner, at the same time | one that the store does not name for its device | has it named |
//! | the owner, when a change finds no record | that one | writes it again |
//! | the owner, when it finds a record that another run took over later | that one | releases it: it was claimed here before a lapse of the lease, and bound after it |
//! | another node, before it says that an instance does not exist | asks every living node | the node that has it writes it again |
//!
//! ```text
//! node that is asked ── the store: has it lost something just now? ── each living node: SEEK ──┬── has it ─────── written again, and looked up again
//!                                                                                            ├── none has it ── there is none
//!                                                                                            └── one is silent ── 503: nobody can say
//! owner ── each living node: HAVE ── which of these have you wiped? ──┬── none ── written again ── HAVE
//!                                                                     └── some ── released; that node has erased them once more
//! ```
//!
//! The owner asks because it may have stood still, and its clock with it: then another node may have taken over its instances, and wiped some. All listed nodes
//! are asked at once; a silent one is waited for as [`unresponsive_peers`](crate::service::nodes::unresponsive_peers) says.
//!
//! Invariant: a question names instances alone, and its answer tells only another node whether one exists: the requester still has to show the instance's
//! secret. A node that knows neither question does not answer, and counts as having nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use sip::id::InstanceId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use crate::agent::request::{EndKind, Principal, Request};
use crate::clock;
use crate::domain::InstanceState;
use crate::limits::counted_as;
use crate::limits::shares::{Share, Shares};
use crate::service::Inner;
use crate::service::devices::AccessError;
use crate::vault::{Fence, Owner, Peer, RENEWAL, RecordOwner, Stored};

/// In what time all that a node owns is compared once, at the longest: of 100,000 instances 45 with each renewal, at the cost of one short answer of the store
/// each. A few go round within seconds.
const COMPARED_WITHIN: Duration = Duration::from_mins(30);
/// How long the nodes may take to say whether one has it; then nobody can say.
const SEEK_WAIT: Duration = Duration::from_secs(2);
/// Searches at once; a further one waits, and fails after [`SEEK_WAIT`] because no node can tell.
const SEEKS: usize = 32;
/// How many of them one address may have, and all together that come from none: a requester of invented ids is told so alone.
const SEEKS_EACH: usize = 8;
/// For how long each takes its place at least: an invented id costs the other nodes no more than 128 questions a second.
const SEEK_PACE: Duration = Duration::from_millis(250);
/// Instances that one letter names.
pub(crate) const LETTER_MAX: usize = 1_000;

const SEEK: &[u8] = b"SEEK";
const HAVE: &[u8] = b"HAVE";
/// The answer of a node that has it.
const HERE: &[u8] = b"here";
const NOT_HERE: &[u8] = b"none";
/// How the place of an id begins that holds the fence of the one before it. No id is like that, so that a node that knows of no fences has nothing of it.
const FENCE: [u8; 8] = [0xff; 8];

/// A question about records from one node to another.
pub(crate) enum Question {
    /// The store has nothing of this instance: the node that has it writes it again.
    Seek(InstanceId),
    /// The writer has these, each with the fence that it names; one of an earlier version names none. A node that has wiped some erases them, and
    /// says which.
    Have(Vec<(InstanceId, Option<Fence>)>),
}

/// Whether all nodes have answered that are waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PeerAnswers {
    All,
    NotAll,
    /// The store did not say who they are, or took no letter to one that is waited for.
    StoreAway,
}

/// Searches under way.
pub(crate) struct Seeks {
    places: Arc<Semaphore>,
    shares: Shares<Option<IpAddr>>,
}

/// A place among what is sought; given back when dropped.
struct Seeking {
    _place: OwnedSemaphorePermit,
    _share: Share,
}

/// How far a node is in comparing what it owns with the store.
#[derive(Default)]
pub(super) struct Comparing {
    left: Vec<InstanceId>,
    /// How many are compared at once.
    share: usize,
    under_way: Option<JoinHandle<()>>,
}

impl Question {
    fn write(&self) -> Zeroizing<Vec<u8>> {
        let mut body;
        match self {
            Self::Seek(id) => {
                body = SEEK.to_vec();
                body.extend_from_slice(&id.to_bytes());
            }
            Self::Have(held) => {
                body = HAVE.to_vec();
                for (id, fence) in held {
                    body.extend_from_slice(&id.to_bytes());
                    if let Some(fence) = fence {
                        body.extend_from_slice(&FENCE);
                        body.extend_from_slice(&fence.number().to_be_bytes());
                    }
                }
            }
        }
        Zeroizing::new(body)
    }

    /// Reads what [`Self::write`] has written; `None` for a request of the API, which begins with its method and a space.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let (word, ids) = body.split_first_chunk::<4>()?;
        let (ids, []) = ids.as_chunks::<16>() else { return None };
        match (&word[..], ids) {
            (SEEK, [id]) => Some(Self::Seek(InstanceId::from_bytes(*id))),
            (HAVE, ids) => {
                let mut held: Vec<(InstanceId, Option<Fence>)> = Vec::with_capacity(ids.len());
                for place in ids {
                    let number = place.strip_prefix(&FENCE).and_then(|number| number.try_into().ok());
                    match (number.map(u64::from_be_bytes), held.last_mut()) {
                        (Some(number), Some((_, fence))) => *fence = Some(Fence::from_number(number)),
                        _ => held.push((InstanceId::from_bytes(*place), None)),
                    }
                }
                Some(Self::Have(held))
            }
            _ => None,
        }
    }
}

impl Seeks {
    pub(crate) fn new() -> Self {
        Self { places: Arc::new(Semaphore::new(SEEKS)), shares: Shares::new(SEEKS_EACH) }
    }

    /// A place, as soon as one is free for who asks; `None`: none is in time.
    async fn take(&self, from: Option<IpAddr>) -> Option<Seeking> {
        let taken = async {
            let share = self.shares.take(from.map(counted_as)).await;
            // The semaphore is never closed.
            Some(Seeking { _place: self.places.clone().acquire_owned().await.ok()?, _share: share })
        };
        timeout(SEEK_WAIT, taken).await.ok().flatten()
    }
}

impl Seeking {
    /// Keeps the place for as long as the others are to be spared.
    fn pace(self) {
        tokio::spawn(async move {
            sleep(SEEK_PACE).await;
            drop(self);
        });
    }
}

impl Comparing {
    /// Compares some more, beside the renewals.
    pub(crate) async fn go_on(&mut self, it: &Arc<Inner>) {
        if self.under_way.as_ref().is_some_and(|under_way| !under_way.is_finished()) {
            return;
        }
        if self.left.is_empty() {
            let owned = it.dependencies.agent.ask_all(Request::Owned).await.into_iter().flatten();
            self.left = owned.map(|(id, _)| id).collect();
            let times = COMPARED_WITHIN.as_millis() / RENEWAL.as_millis();
            self.share = self.left.len().div_ceil(usize::try_from(times).unwrap_or(usize::MAX));
        }
        let some = self.left.split_off(self.left.len().saturating_sub(self.share));
        self.under_way = (!some.is_empty()).then(|| tokio::spawn(it.clone().compare(some)));
    }
}

impl Inner {
    /// Writes the records of these instances again where the store has lost them, releases instances that another run has taken since, and ends those that
    /// a later instance has replaced.
    async fn compare(self: Arc<Self>, ids: Vec<InstanceId>) {
        let mut under_way = JoinSet::new();
        for id in ids {
            let it = self.clone();
            under_way.spawn(async move {
                // A store that is away is asked again in the next round.
                let owner = it.dependencies.vault.record_owner(id).await;
                match owner {
                    Ok(RecordOwner::Nobody) => {
                        let _guard = it.changing.lock_key(id).await;
                        let _ = it.write_again(id).await;
                    }
                    Ok(RecordOwner::AnotherRun) => {
                        let _guard = it.changing.lock_key(id).await;
                        it.release_if_taken(id).await;
                    }
                    Ok(RecordOwner::ThisRun) => {
                        it.end_if_replaced(id).await;
                        let _ = it.name_where_none_is(id).await;
                        it.cut_to_its_end(id).await;
                    }
                    Err(_) => it.end_if_replaced(id).await,
                }
                (owner == Ok(RecordOwner::ThisRun)).then_some(id)
            });
        }
        let mut ours = Vec::new();
        while let Some(compared) = under_way.join_next().await {
            ours.extend(compared.ok().flatten());
        }
        let _ = self.dependencies.vault.name_again(&ours).await;
    }

    /// Lets go, without a word to its SIP server, of an instance that another run has taken over since it came here. Its lock is held. A record that
    /// is in the store as it was before is no taking over: that has no later fence.
    pub(crate) async fn release_if_taken(self: &Arc<Self>, id: InstanceId) {
        let here = self.is_here(id).await.filter(|_| !self.dependencies.agent.is_doubtful());
        let Some(status) = here else { return };
        if let Ok(Some(stored)) = self.dependencies.vault.load(id).await
            && !stored.owned
            && stored.fence > status.fence
        {
            self.leave_to_owner(id, status.fence, stored.sealed).await;
        }
    }

    /// Looks for an instance of which the store has nothing, and its record when a node had it. `from`: the address of who asks, where that is known.
    ///
    /// # Errors
    /// [`AccessError::StoreAway`] while those who have it may be about to write it again; [`AccessError::OwnerAway`] while a node that may have it says
    /// nothing, and when too many are sought.
    pub(crate) async fn seek(&self, id: InstanceId, from: Option<IpAddr>) -> Result<Option<Stored>, AccessError> {
        // A request without a permit could be answered only from this node's knowledge, and its 404 would mean that the account is wiped.
        let place = self.seeks.take(from).await.ok_or(AccessError::OwnerAway)?;
        let vault = &self.dependencies.vault;
        // The record may have been lost in this moment.
        if vault.is_whole().await != Ok(true) {
            return Err(AccessError::StoreAway);
        }
        let peers = vault.peers().await.map_err(|_| AccessError::StoreAway)?;
        if peers.is_empty() {
            return Ok(None);
        }
        place.pace();
        let ask = async |peer: &Peer| self.ask_within(peer.run.as_ref()?, Question::Seek(id).write(), SEEK_WAIT).await;
        let (mut answers, mut is_silent) = (peers.iter().map(ask).collect::<FuturesUnordered<_>>(), false);
        while let Some(answer) = answers.next().await {
            match answer.as_deref().map(Vec::as_slice) {
                Some(HERE) => {
                    let found = vault.load(id).await.map_err(|_| AccessError::StoreAway)?;
                    return found.map(Some).ok_or(AccessError::OwnerAway);
                }
                Some(_) => {}
                None => is_silent = true,
            }
        }
        if is_silent { Err(AccessError::OwnerAway) } else { Ok(None) }
    }

    /// The instances among these that other nodes have wiped, as far as they say so in time; they erase those once more. And whether all were heard:
    /// one that is silent is asked once for all.
    pub(crate) async fn wiped_elsewhere(&self, held: &[(InstanceId, Fence)]) -> (Vec<InstanceId>, PeerAnswers) {
        if held.is_empty() {
            return (Vec::new(), PeerAnswers::All);
        }
        let Ok(peers) = self.dependencies.vault.peers().await else { return (Vec::new(), PeerAnswers::StoreAway) };
        let (mut wiped, mut heard, mut living) = (Vec::new(), PeerAnswers::All, Vec::new());
        let mut is_away = false;
        let mut note_silent = |peer: &Peer| {
            let word = self.silences.note(peer, clock::now());
            if word == PeerAnswers::NotAll {
                heard = PeerAnswers::NotAll;
            }
            word
        };
        for peer in &peers {
            match &peer.run {
                Some(run) => living.push((peer, run)),
                None => {
                    note_silent(peer);
                }
            }
        }
        for some in held.chunks(LETTER_MAX) {
            let have = Question::Have(some.iter().map(|(id, fence)| (*id, Some(*fence))).collect()).write();
            let ask = async |(_, run): (&'_ Peer, &'_ Owner)| self.ask_first(run, have.clone(), SEEK_WAIT).await;
            let answers = join_all(living.iter().copied().map(ask)).await;
            let mut answered = answers.into_iter();
            living.retain(|(peer, _)| match answered.next() {
                Some(Ok(Some(answer))) => {
                    let named = answer.as_chunks::<16>().0.iter().map(|id| InstanceId::from_bytes(*id));
                    wiped.extend(named.filter(|id| some.iter().any(|(asked, _)| asked == id)));
                    true
                }
                unheard => {
                    // A part of the store that takes no letters for one node is not waited for longer than the node.
                    is_away |= note_silent(peer) == PeerAnswers::NotAll && matches!(unheard, Some(Err(_)));
                    false
                }
            });
        }
        for (peer, _) in living {
            self.silences.forget(&peer.node);
        }
        (wiped, if is_away { PeerAnswers::StoreAway } else { heard })
    }

    /// Looks after the nodes that were silent, with each renewal.
    pub(super) async fn watch_silent(&self) {
        if self.silences.is_empty() {
            return;
        }
        if let Ok(peers) = self.dependencies.vault.peers().await {
            self.silences.watch(&peers, clock::now());
        }
    }

    /// Releases these, which other nodes have wiped.
    pub(super) async fn release_wiped(self: &Arc<Self>, wiped: &[InstanceId]) {
        if wiped.is_empty() {
            return;
        }
        // Word is left before anything is erased.
        let under_way = self.dependencies.vault.ended_elsewhere().await.unwrap_or_default();
        for id in wiped.iter().copied() {
            let status = self.look_as_relay(id).await.ok();
            let lives = status.as_ref().is_some_and(|status| status.state != InstanceState::Ending);
            if lives && !under_way.contains(&id) {
                tracing::warn!(event = "ended-elsewhere-unheard", instance = %id, "another node has wiped an instance, and this one had not heard of it; it lets go of it");
            } else {
                tracing::info!(
                    event = "ended-elsewhere",
                    instances = 1,
                    "another node has ended instances of this one"
                );
            }
            if status.as_ref().is_some_and(|status| !self.passed_through(status)) {
                self.give_way_to_successor(id, status.as_ref()).await;
                continue;
            }
            let end = Request::End { id, who: Principal::Relay, kind: EndKind::NeverOurs, reply: None };
            self.dependencies.agent.tell(id, end).await;
        }
    }

    /// Answers another node.
    pub(crate) async fn answer_lost(self: &Arc<Self>, question: Question) -> Zeroizing<Vec<u8>> {
        let answer = match question {
            Question::Seek(id) => {
                let _guard = self.changing.lock_key(id).await;
                match self.is_here(id).await {
                    Some(_) => {
                        // If that fails, the requester is told to ask again.
                        let _ = self.write_again(id).await;
                        HERE.to_vec()
                    }
                    None => NOT_HERE.to_vec(),
                }
            }
            Question::Have(ids) => {
                let vault = &self.dependencies.vault;
                let mut wiped = Vec::new();
                // An instance that this node has ended by itself may have been claimed since: the claiming node goes on with it.
                let barred = |(id, fence)| Some((id, vault.tombstones().bars(id, fence)?));
                for (id, lookup) in ids.into_iter().filter_map(barred) {
                    self.dependencies.agent.erase(id, lookup);
                    wiped.extend(id.to_bytes());
                }
                wiped
            }
        };
        Zeroizing::new(answer)
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn a_question_reads_back_and_a_request_of_the_api_is_none() {
        let id = |number: u128| InstanceId::new(number << 32, ShardTag(1));
        let Some(Question::Seek(sought)) = Question::read(&Question::Seek(id(1)).write()) else { panic!("a question") };
        assert_eq!(sought, id(1));
        let fence = |number| Some(Fence::from_number(number));
        for many in [vec![(id(1), None), (id(2), None)], vec![(id(1), fence(7)), (id(2), fence(u64::MAX))], Vec::new()]
        {
            let Some(Question::Have(had)) = Question::read(&Question::Have(many.clone()).write()) else {
                panic!("news")
            };
            assert_eq!(had, many);
        }
        for other in
            [&b"GET /v1/instances/pi_1\n\n"[..], b"SEEK", b"HAVE1", b"", b"SEEK0123456789abcdef0123456789abcdef"]
        {
            assert!(Question::read(other).is_none(), "{other:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_much_that_there_is_not_keeps_nobody_else_from_an_answer() {
        let (seeks, stranger) = (Seeks::new(), Some(IpAddr::from([192, 0, 2, 1])));
        let mut held = Vec::new();
        while let Some(place) = seeks.take(stranger).await {
            held.push(place);
        }
        assert_eq!(held.len(), SEEKS_EACH);
        for other in [Some(IpAddr::from([192, 0, 2, 2])), None] {
            assert!(seeks.take(other).await.is_some());
        }
        held.into_iter().for_each(Seeking::pace);
        assert!(seeks.take(stranger).await.is_some(), "it waits for its turn");
    }
}
