//! The nodes that leave, and serve on the calls that wait with them, while others have taken over what they handed over: what these do to an instance is
//! told there, and what is found out there is told to its owner.
//!
//! | word | from | to | what the reader does |
//! | --- | --- | --- | --- |
//! | [`Word::Leaving`] | a node that leaves | each other one | believes for [`LEAVES_WITHIN`] that it serves on |
//! | [`Word::Left`] | the same, at its end | each other one | believes that no more |
//! | [`Word::Ended`] | the owner that has ended an instance | each node that leaves | lets go of it: its device is pushed and let in no more, calls that wait for it alone get 480 |
//! | [`Word::Changed`] | the owner, when it has stored a change | likewise | reads the record again: pushes go to the present token |
//! | [`Word::Succeeded`] | the owner of the later of two instances | likewise | takes the later one in, unregistered, and gives it the calls of the earlier one |
//! | [`Word::TokenDead`] | a node that leaves | the owner | compares with what it knows of the device, and ends the instance or not |
//!
//! A word is the body of a question ([`Letter::Ask`](crate::vault::letters::Letter::Ask)), and begins with a byte that no request of an app begins with: an earlier version answers
//! that it is no request, and goes on.
//!
//! Invariant: a node that leaves ends nothing but what it is told to let go of: its records are another's, or will be. Whoever tells it waits [`HEARD_WITHIN`]
//! at most, also before a receipt: one that is silent may have died.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sip::id::InstanceId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::nodes::{Body, NodeService as _};
use super::{Inner, Service};
use crate::agent::NodeNews;
use crate::agent::request::{DeadToken, LeaseExpiry, Principal, Request};
use crate::clock;
use crate::random;
use crate::vault::Owner;
use crate::vault::letters::Letter;

/// How long a node is believed to serve on that has said that it leaves, unless it says that it has left: longer than it takes.
const LEAVES_WITHIN: Duration = Duration::from_secs(60);
/// How long a node that leaves may take to say that it has heard a word, or how a call stands; then it is gone on without.
pub const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// How soon, and how often, the store is asked again for the owner of an instance whose token is dead: it may be on its way to that one.
const OWNER_AGAIN: Duration = Duration::from_secs(1);
const OWNER_TRIES: usize = 10;

/// What begins a word.
const MARK: u8 = 0;
/// What a word that was understood is answered.
const HEARD: &[u8] = &[1];

/// What two nodes tell each other when one of them leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The writer leaves, and serves on the calls that wait with it.
    Leaving,
    /// It serves no more.
    Left,
    /// An instance has ended.
    Ended(InstanceId),
    /// Its record has changed.
    Changed(InstanceId),
    /// It ends for one that was enabled later for the same device.
    Succeeded {
        /// The one that ends.
        earlier: InstanceId,
        /// The other one.
        later: InstanceId,
    },
    /// A push service calls a token gone.
    TokenDead {
        /// Whose.
        id: InstanceId,
        /// Which, and since when.
        token: DeadToken,
    },
}

/// The runs that leave, each with until when that is believed.
#[derive(Default)]
pub(super) struct Leavers(Mutex<BTreeMap<Owner, Instant>>);

impl Word {
    fn encode(self) -> Body {
        let mut out = Zeroizing::new(Vec::with_capacity(48));
        out.push(MARK);
        match self {
            Self::Leaving => out.push(1),
            Self::Left => out.push(2),
            Self::Ended(id) => {
                out.push(3);
                out.extend_from_slice(&id.to_bytes());
            }
            Self::Changed(id) => {
                out.push(4);
                out.extend_from_slice(&id.to_bytes());
            }
            Self::Succeeded { earlier, later } => {
                out.push(5);
                out.extend_from_slice(&earlier.to_bytes());
                out.extend_from_slice(&later.to_bytes());
            }
            Self::TokenDead { id, token: DeadToken { mark, since_ms } } => {
                out.push(6);
                out.extend_from_slice(&id.to_bytes());
                out.extend_from_slice(&mark);
                out.extend_from_slice(&since_ms.to_be_bytes());
            }
        }
        out
    }

    /// `None`: a word of a later version.
    fn decode(body: &[u8]) -> Option<Self> {
        let [MARK, kind, rest @ ..] = body else { return None };
        let id = |bytes: &[u8; 16]| InstanceId::from_bytes(*bytes);
        let (ids, tail) = rest.as_chunks::<16>();
        match (kind, ids, tail) {
            (1, [], []) => Some(Self::Leaving),
            (2, [], []) => Some(Self::Left),
            (3, [one], []) => Some(Self::Ended(id(one))),
            (4, [one], []) => Some(Self::Changed(id(one))),
            (5, [earlier, later], []) => Some(Self::Succeeded { earlier: id(earlier), later: id(later) }),
            (6, [one, mark], tail) => {
                let since_ms = u64::from_be_bytes(tail.try_into().ok()?);
                Some(Self::TokenDead { id: id(one), token: DeadToken { mark: *mark, since_ms } })
            }
            _ => None,
        }
    }
}

/// Whether what another node asks is a word, and no request of an app.
pub(super) fn is_word(body: &[u8]) -> bool {
    body.first() == Some(&MARK)
}

impl Leavers {
    fn note(&self, run: Owner, now: Instant) {
        let mut leavers = self.lock();
        leavers.retain(|_, until| *until > now);
        leavers.insert(run, now + LEAVES_WITHIN);
    }

    fn forget(&self, run: &Owner) {
        self.lock().remove(run);
    }

    /// Those that serve on.
    pub(super) fn living(&self, now: Instant) -> Vec<Owner> {
        self.lock().iter().filter(|(_, until)| **until > now).map(|(run, _)| run.clone()).collect()
    }

    // A panic while the lock was held leaves a whole table behind: each change is one statement.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Owner, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Service {
    /// Tells other nodes what concerns them of what happens on the shards, until the process ends.
    pub async fn tell_nodes(self, mut news: mpsc::UnboundedReceiver<NodeNews>) {
        while let Some(news) = news.recv().await {
            let it = self.clone();
            match news {
                NodeNews::Wiped { id, told } => {
                    if !it.0.leavers.living(clock::now()).is_empty() {
                        tokio::spawn(async move {
                            it.0.tell_leavers(Word::Ended(id)).await;
                            drop(told);
                        });
                    }
                }
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
                    if self.ask_owner(&stored.owner, Word::TokenDead { id, token }.encode()).await.is_some() {
                        return;
                    }
                }
                Ok(Some(_)) | Err(_) => {}
            }
            sleep(OWNER_AGAIN).await;
        }
    }

    /// Tells the other nodes that no call waits here any more.
    pub async fn tell_left(&self) {
        if !self.0.is_leaving() {
            return;
        }
        // Who is not told believes it for a while longer.
        for peer in self.0.dependencies.vault.living_peers().await.unwrap_or_default() {
            self.0.tell(&peer, Word::Left).await;
        }
    }
}

impl Inner {
    /// Tells a node, which need not answer; whether the store has taken that.
    pub(super) async fn tell(&self, node: &Owner, word: Word) -> bool {
        let vault = &self.dependencies.vault;
        let ask = Letter::Ask { number: random::bytes(), from: vault.owner().clone(), body: word.encode() };
        vault.write_letter(node, &ask).await.is_ok()
    }

    /// Tells each node that leaves, and waits until they have done what follows, [`HEARD_WITHIN`] at most.
    pub(super) async fn tell_leavers(self: &Arc<Self>, word: Word) {
        let mut told = JoinSet::new();
        for leaver in self.leavers.living(clock::now()) {
            let service = Service(self.clone());
            told.spawn(async move { service.ask_leaver(&leaver, word.encode()).await });
        }
        while told.join_next().await.is_some() {}
    }

    /// Does what a word of another node says; the answer.
    pub(super) async fn hear(self: Arc<Self>, from: Owner, body: Body) -> Body {
        let Some(word) = Word::decode(&body) else { return Body::default() };
        match word {
            Word::Leaving => self.leavers.note(from, clock::now()),
            Word::Left => self.leavers.forget(&from),
            Word::TokenDead { id, token } => {
                self.dependencies.agent.tell(id, Request::TokenDead { id, token }).await;
            }
            // What a node has that does not leave is its own.
            Word::Ended(_) | Word::Changed(_) | Word::Succeeded { .. } if !self.is_leaving() => {}
            Word::Ended(id) => self.let_go_at_once(id).await,
            Word::Changed(id) => self.take_change(id).await,
            Word::Succeeded { earlier, later } => self.take_successor(earlier, later).await,
        }
        Zeroizing::new(HEARD.to_vec())
    }

    /// The owner has ended an instance that is served here still.
    async fn let_go_at_once(&self, id: InstanceId) {
        if self.look_as_relay(id).await.is_err() {
            return;
        }
        tracing::info!(event = "ended-elsewhere", instances = 1, "another node has ended instances of this one");
        // What the store cannot be asked about is served until the end.
        let _ = self.let_go_of_one(id).await;
        // Behind it: then it is done.
        let _ = self.dependencies.agent.ask(id, |reply| Request::Look { id, who: Principal::Relay, reply }).await;
    }

    /// The owner has stored another record of an instance.
    async fn take_change(&self, id: InstanceId) {
        let vault = &self.dependencies.vault;
        let (Ok(status), Ok(Some(stored))) = (self.look_as_relay(id).await, vault.load(id).await) else { return };
        let Ok(lease) = vault.open_lent(id, &stored.sealed, LeaseExpiry::of) else { return };
        // Nothing is put from here any more.
        let (sealed, fence) = (stored.sealed, status.fence);
        let replace = |reply| Request::Replace { id, sealed, lease, fence, foreground: None, reply };
        let _ = self.dependencies.agent.ask(id, replace).await;
    }

    /// The owner has enabled the device of an instance again.
    async fn take_successor(&self, earlier: InstanceId, later: InstanceId) {
        let agent = &self.dependencies.agent;
        if earlier.tag() != later.tag() || self.look_as_relay(earlier).await.is_err() {
            return;
        }
        if self.look_as_relay(later).await.is_err() {
            let Ok(Some(stored)) = self.dependencies.vault.load(later).await else { return };
            let Some(new) = self.open_proven(stored) else { return };
            // Nobody waits for its registration: another node's is.
            let (settled, _) = mpsc::unbounded_channel();
            agent.bind_all(vec![*new], &settled).await.ended().await;
        }
        agent.tell(earlier, Request::Succeed { earlier, successor: later }).await;
    }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn a_word_reads_back_and_is_no_request_of_an_app() {
        let id = |number: u128| InstanceId::new(number << 32, ShardTag(1));
        let token = DeadToken { mark: [7; 16], since_ms: 1_700_000_000_000 };
        let words = [
            Word::Leaving,
            Word::Left,
            Word::Ended(id(1)),
            Word::Changed(id(2)),
            Word::Succeeded { earlier: id(3), later: id(4) },
            Word::TokenDead { id: id(5), token },
        ];
        for word in words {
            let mut body = word.encode();
            assert_eq!((is_word(&body), Word::decode(&body)), (true, Some(word)));
            body.push(0);
            assert_eq!(Word::decode(&body), None, "of another length");
        }
        assert_eq!(Word::decode(&[MARK, 200]), None, "a later version's");
        assert!(!is_word(b"GET /v1/instances/pi_1") && !is_word(b""));
    }

    #[test]
    fn a_node_that_leaves_is_told_until_it_says_that_it_has_left_or_must_have() {
        let (leavers, now) = (Leavers::default(), Instant::now());
        let [one, other] =
            ["relay1.example.net:5061#1", "relay2.example.net:5061#2"].map(|run| Owner::parse(run).unwrap());
        leavers.note(one.clone(), now);
        leavers.note(other.clone(), now + LEAVES_WITHIN / 2);
        assert_eq!(leavers.living(now).len(), 2);
        assert_eq!(leavers.living(now + LEAVES_WITHIN), [other.clone()]);
        leavers.forget(&other);
        assert_eq!(leavers.living(now), [one]);
    }
}
