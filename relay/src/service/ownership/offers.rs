//! Offers: accounts go to another node if their SIP server cannot be reached from here, or this node cannot push for them.
//!
//! ```text
//! node that is cut off ── "take these" ─┬─ it does not reach the server either ── the next node
//!                                       └─ claims them ── registers them
//! node that is cut off ── the store: who owns them? ── releases them, without a word to the SIP server; a call that waits here ends first
//!                      ── "is it registered?" ── yes: the others follow
//! ```
//!
//! The taking node claims with the script that also claims from dead nodes, so that a fence separates the two owners at each moment. The offer is the owner's
//! consent: nobody takes anything from a living node without one.
//!
//! Invariant: an instance is released here only when the store names another owner. A wipe waits until the owner is known, because the receipt comes from
//! there. A node that is alone, that leaves, or whose store is in doubt offers nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use sip::id::{BindingId, InstanceId};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use zeroize::Zeroizing;

use super::unreachable_servers::{OfferOutcome, Step, UnreachableServers};
use crate::agent::request::{AtServer, Request};
use crate::clock;
use crate::domain::InstanceState;
use crate::service::keyed_mutex::{KeyedGuard, KeyedMutex};
use crate::service::{Inner, Service};
use crate::vault::Owner;
use crate::vault::record::Provider;

/// The number of checks within the time after which another node is asked.
const LOOKS: u32 = 12;
/// How long another node may take to accept an offer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How long it may take to claim the offer: longer than its claim may take.
const TAKEN_WITHIN: Duration = Duration::from_secs(8);
/// How long after its arrival an offer may be claimed: its writer checks the owners for longer.
pub(super) const OFFER_HOLDS: Duration = Duration::from_secs(4);
/// How long it may take to register it.
const REGISTERED_WITHIN: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Instances of one offer: a claim's batch.
const OFFERED_AT_ONCE: usize = 256;
/// SIP servers that are tried at other nodes at once.
const TRIED_AT_ONCE: usize = 8;
/// The longest name and port of a server.
const SERVER_MAX: usize = 300;

const OFFER: &[u8] = b"OFFR";
const REGISTERED: &[u8] = b"REGD";
const SERVES: &[u8] = b"SERV";
/// The push services by their number in a word.
const PROVIDERS: [Provider; 4] = [Provider::ApnsProduction, Provider::ApnsSandbox, Provider::Fcm, Provider::WebPush];
const YES: &[u8] = b"yes";
const NO: &[u8] = b"no";

/// A message about accounts whose SIP server the writer does not reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// The reader may claim these of the writer.
    Take {
        /// The host and port where their requests go.
        server: Box<str>,
        /// Whether the reader is to take them only if the server has granted something there.
        only_if_reached: bool,
        /// The instances.
        ids: Vec<InstanceId>,
    },
    /// Whether an instance is registered at the reader.
    IsRegistered(InstanceId),
    /// Whether the reader can push for an app by this service.
    Serves {
        /// The app.
        app: Box<str>,
        /// The push service.
        provider: Provider,
    },
}

/// Why instances are offered.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum OfferReason {
    /// Their SIP server is not reached from here.
    NotReached,
    /// Their app, or its push service, is not in this node's configuration.
    NotConfigured,
    /// Their SIP server has not registered them here, and the node for which it had registered them has come back.
    Returned,
}

/// The instances whose owner is not known at this moment.
pub(crate) struct Offered(watch::Sender<HashSet<InstanceId>>);

/// Instances on offer; withdrawn when this is dropped.
struct OnOffer<'a>(&'a Offered, &'a [InstanceId]);

/// The outcome of an offer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The node does not reach the server, or takes nothing.
    Declined,
    /// Nothing was claimed in time.
    NotTaken,
    /// At least one was claimed.
    Taken,
}

impl Offer {
    fn write(&self) -> Zeroizing<Vec<u8>> {
        let mut body;
        match self {
            Self::Take { server, only_if_reached, ids } => {
                body = OFFER.to_vec();
                body.push(u8::from(*only_if_reached));
                body.extend_from_slice(&u16::try_from(server.len()).unwrap_or(0).to_be_bytes());
                body.extend_from_slice(server.as_bytes());
                for id in ids {
                    body.extend_from_slice(&id.to_bytes());
                }
            }
            Self::IsRegistered(id) => {
                body = REGISTERED.to_vec();
                body.extend_from_slice(&id.to_bytes());
            }
            Self::Serves { app, provider } => {
                body = SERVES.to_vec();
                body.extend(PROVIDERS.iter().position(|it| it == provider).and_then(|it| u8::try_from(it).ok()));
                body.extend_from_slice(app.as_bytes());
            }
        }
        Zeroizing::new(body)
    }

    /// Reads what [`Self::write`] has written; `None` for a request of the API, which begins with its method and a space.
    pub(crate) fn read(body: &[u8]) -> Option<Self> {
        let (word, rest) = body.split_first_chunk::<4>()?;
        let id = |bytes: &[u8; 16]| InstanceId::from_bytes(*bytes);
        match &word[..] {
            OFFER => {
                let ([only_if_reached, high, low], rest) = rest.split_first_chunk::<3>()?;
                let (server, ids) = rest.split_at_checked(u16::from_be_bytes([*high, *low]).into())?;
                let (ids, []) = ids.as_chunks::<16>() else { return None };
                let server = std::str::from_utf8(server).ok()?.into();
                Some(Self::Take { server, only_if_reached: *only_if_reached != 0, ids: ids.iter().map(id).collect() })
            }
            REGISTERED => Some(Self::IsRegistered(id(rest.try_into().ok()?))),
            SERVES => {
                let (provider, app) = rest.split_first()?;
                let provider = *PROVIDERS.get(usize::from(*provider))?;
                Some(Self::Serves { app: std::str::from_utf8(app).ok()?.into(), provider })
            }
            _ => None,
        }
    }
}

impl Default for Offered {
    fn default() -> Self {
        Self(watch::Sender::new(HashSet::new()))
    }
}

impl Offered {
    fn put<'a>(&'a self, ids: &'a [InstanceId]) -> OnOffer<'a> {
        self.0.send_modify(|offered| offered.extend(ids));
        OnOffer(self, ids)
    }

    /// Waits until the owner of an instance is known.
    pub(crate) async fn settled(&self, id: InstanceId) {
        if self.0.borrow().is_empty() {
            return;
        }
        // There is no error: the sender lives as long as this node.
        let _ = self.0.subscribe().wait_for(|offered| !offered.contains(&id)).await;
    }

    /// Locks an instance whose owner is known. The order matters: an offer that was taken ends only after it has had the lock.
    pub(in crate::service) async fn lock_settled<'a>(
        &self,
        changing: &'a KeyedMutex<InstanceId>,
        id: InstanceId,
    ) -> KeyedGuard<'a, InstanceId> {
        loop {
            self.settled(id).await;
            let guard = changing.lock_key(id).await;
            // It may have been offered while the lock was waited for.
            if !self.0.borrow().contains(&id) {
                return guard;
            }
        }
    }
}

impl Drop for OnOffer<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|offered| offered.retain(|id| !self.1.contains(id)));
    }
}

impl Service {
    /// Checks for SIP servers that this node does not reach, and offers their accounts to other nodes, until the process ends. `after`: the silence of a
    /// server before that.
    pub async fn leave_unreachable_servers(self, after: Duration) {
        let (it, mut unreachable_servers, mut ticks) =
            (self.0, UnreachableServers::new(after), interval(after / LOOKS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            it.look_for_silent_servers(&mut unreachable_servers).await;
        }
    }
}

impl Inner {
    async fn look_for_silent_servers(self: &Arc<Self>, unreachable_servers: &mut UnreachableServers) {
        let (agent, vault) = (&self.dependencies.agent, &self.dependencies.vault);
        let steps = unreachable_servers.due(clock::now(), &agent.silent_servers(clock::now()));
        vault.yield_claims(unreachable_servers.yields());
        if steps.is_empty() || self.is_leaving() || agent.is_doubtful() || vault.is_being_restored() {
            return;
        }
        let (mut tries, mut given) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                Step::Forget(server) => agent.forget_silence(&server),
                Step::Try(server, times) => tries.push((server, times)),
                Step::GiveAll(server) => given.push(server),
            }
        }
        let peers = self.takers().await;
        // A node that is alone keeps what it has.
        if peers.is_empty() {
            return;
        }
        for server in given {
            self.give_all(&server, &peers).await;
        }
        for some in tries.chunks(TRIED_AT_ONCE) {
            let tried = some.iter().map(|(server, times)| self.try_elsewhere(server, *times, &peers));
            let tried: Vec<OfferOutcome> = join_all(tried).await;
            let mut reached = Vec::new();
            for ((server, _), tried) in some.iter().zip(tried) {
                unreachable_servers.note(server, tried, clock::now());
                if tried == OfferOutcome::Registered {
                    reached.push(server);
                }
            }
            vault.yield_claims(unreachable_servers.yields());
            for server in reached {
                tracing::warn!(
                    event = "sip-server-reached-elsewhere",
                    upstream = agent.upstreams().of_server(server).first().map(|upstream| upstream.0),
                    "this node does not reach a SIP server that another node reaches: the others take its accounts there; look at this node's routes, firewall and name servers"
                );
                self.ask_standing(server).await;
                self.give_all(server, &peers).await;
            }
        }
    }

    /// The nodes that may take something.
    pub(super) async fn takers(&self) -> Vec<Owner> {
        let leavers = self.leavers.living(clock::now());
        // A store that is away is asked again with the next check.
        let mut peers = self.dependencies.vault.living_peers().await.unwrap_or_default();
        peers.retain(|peer| !leavers.contains(peer));
        peers.sort_unstable();
        peers
    }

    /// The instances here whose requests go to a server.
    pub(super) async fn at_server(&self, server: &str) -> Vec<AtServer> {
        let agent = &self.dependencies.agent;
        let upstreams: Arc<[_]> = agent.upstreams().of_server(server).into();
        let of_shards = agent.ask_all(|reply| Request::AtServer { upstreams: upstreams.clone(), reply }).await;
        of_shards.into_iter().flatten().collect()
    }

    /// The accounts that fail at a server, each with its instances; those of a shard tag follow each other.
    async fn failing_at(&self, server: &str) -> Vec<Vec<InstanceId>> {
        let mut accounts: BTreeMap<(u16, BindingId), (Vec<InstanceId>, bool)> = BTreeMap::new();
        for AtServer { id, binding, state, .. } in self.at_server(server).await {
            let (ids, fails) = accounts.entry((id.tag().0, binding)).or_default();
            ids.push(id);
            *fails |= state == InstanceState::Retrying;
        }
        accounts.into_values().filter(|(_, fails)| *fails).map(|(ids, _)| ids).collect()
    }

    /// Makes the accounts with an earlier grant register as well, to see whether the server answers them.
    async fn ask_standing(&self, server: &str) {
        let mut asked = BTreeSet::new();
        for AtServer { id, binding, state, .. } in self.at_server(server).await {
            if state == InstanceState::Registered && asked.insert(binding) {
                self.dependencies.agent.tell(id, Request::RegisterAgain { id }).await;
            }
        }
    }

    /// Offers one account of a server to another node, to be tried there.
    async fn try_elsewhere(self: &Arc<Self>, server: &str, times: usize, peers: &[Owner]) -> OfferOutcome {
        let failing = self.failing_at(server).await;
        let Some(ids) = failing.get(times % failing.len().max(1)) else { return OfferOutcome::NotRegistered };
        for turn in 0..peers.len() {
            let peer = &peers[(times + turn) % peers.len()];
            match self.offer(peer, server, ids, (OfferReason::NotReached, false)).await {
                // Another node may take it, because this node still owns it.
                Outcome::Declined | Outcome::NotTaken => {}
                Outcome::Taken => {
                    let registered = self.await_registered(peer, ids);
                    let registered = timeout(REGISTERED_WITHIN, registered).await.is_ok();
                    return if registered { OfferOutcome::Registered } else { OfferOutcome::NotRegistered };
                }
            }
        }
        OfferOutcome::NotRegistered
    }

    async fn await_registered(&self, peer: &Owner, ids: &[InstanceId]) {
        loop {
            for id in ids {
                if self.agrees(peer, &Offer::IsRegistered(*id)).await {
                    return;
                }
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Offers all accounts that fail at a server, divided among the nodes that reach it.
    async fn give_all(self: &Arc<Self>, server: &str, peers: &[Owner]) {
        let mut shares = vec![Vec::new(); peers.len()];
        for ids in self.failing_at(server).await {
            // The devices of one account, and of those that are claimed with it, go to one node.
            let tag = ids.first().map_or(0, |id| usize::from(id.tag().0));
            shares[tag % peers.len()].extend(ids);
        }
        for (share, ids) in shares.into_iter().enumerate() {
            for some in ids.chunks(OFFERED_AT_ONCE) {
                for turn in 0..peers.len() {
                    if self.is_leaving() {
                        return;
                    }
                    let peer = &peers[(share + turn) % peers.len()];
                    match self.offer(peer, server, some, (OfferReason::NotReached, true)).await {
                        // Another node may take the rest, because this node still owns it.
                        Outcome::Declined | Outcome::NotTaken => {}
                        Outcome::Taken => break,
                    }
                }
            }
        }
    }

    /// Whether a node accepts this.
    pub(super) async fn agrees(&self, peer: &Owner, question: &Offer) -> bool {
        self.ask_within(peer, question.write(), ANSWER_WITHIN).await.is_some_and(|answer| **answer == *YES)
    }

    /// Offers instances to a node, some at a time, until it takes none of them.
    pub(super) async fn offer_all(
        self: &Arc<Self>,
        peer: &Owner,
        server: &str,
        ids: &[InstanceId],
        why: OfferReason,
    ) -> Outcome {
        let mut outcome = Outcome::NotTaken;
        for some in ids.chunks(OFFERED_AT_ONCE) {
            outcome = self.offer(peer, server, some, (why, false)).await;
            if outcome != Outcome::Taken {
                break;
            }
        }
        outcome
    }

    /// Offers accounts to a node, each with all its devices at once, until it takes none of them.
    pub(super) async fn offer_accounts(
        self: &Arc<Self>,
        peer: &Owner,
        server: &str,
        accounts: Vec<Vec<InstanceId>>,
        why: OfferReason,
    ) {
        for some in in_batches(accounts, OFFERED_AT_ONCE) {
            if self.offer_all(peer, server, &some, why).await != Outcome::Taken {
                break;
            }
        }
    }

    /// Offers some instances to a node, and releases what it claims.
    async fn offer(
        self: &Arc<Self>,
        peer: &Owner,
        server: &str,
        ids: &[InstanceId],
        (why, only_if_reached): (OfferReason, bool),
    ) -> Outcome {
        let _on_offer = self.offered.put(ids);
        let offer = Offer::Take { server: server.into(), only_if_reached, ids: ids.to_vec() };
        let begun = Instant::now();
        if let Some(answer) = self.ask_within(peer, offer.write(), ANSWER_WITHIN).await
            && **answer != *YES
        {
            return Outcome::Declined;
        }
        let (mut left, mut taken) = (ids.to_vec(), 0);
        while !left.is_empty() && begun.elapsed() < TAKEN_WITHIN {
            sleep(LOOK_AGAIN).await;
            let (mut ended, mut gone) = (BTreeSet::new(), BTreeSet::new());
            self.look_up(&left, |id, stored| match stored {
                Ok(None) => drop(ended.insert(id)),
                Ok(Some(stored)) if !stored.owned => drop(gone.insert(id)),
                // Instances that this node still owns, or about which the store could not be asked, are checked again.
                Ok(Some(_)) | Err(_) => {}
            })
            .await;
            for id in &gone {
                let _guard = self.changing.lock_key(*id).await;
                self.release_if_taken(*id).await;
            }
            taken += gone.len();
            left.retain(|id| !ended.contains(id) && !gone.contains(id));
        }
        if taken == 0 {
            return Outcome::NotTaken;
        }
        self.dependencies.metrics.instances_given(taken);
        match why {
            OfferReason::NotReached => tracing::info!(
                event = "instances-given",
                instances = taken,
                "another node has taken instances over whose SIP server this node does not reach"
            ),
            OfferReason::NotConfigured => tracing::info!(
                event = "instances-given",
                instances = taken,
                "another node has taken instances over whose app is not in this node's configuration"
            ),
            OfferReason::Returned => tracing::info!(
                event = "instances-given",
                instances = taken,
                "another node has instances again that it had before, and that are not registered from here"
            ),
        }
        Outcome::Taken
    }

    /// Answers an offer of another node.
    pub(crate) async fn hear_offer(&self, from: &Owner, offer: Offer) -> Zeroizing<Vec<u8>> {
        let is_yes = match offer {
            Offer::IsRegistered(id) => {
                self.look_as_relay(id).await.is_ok_and(|status| status.state == InstanceState::Registered)
            }
            Offer::Serves { app, provider } => self.serves(&app, provider),
            Offer::Take { server, only_if_reached, ids } => {
                let (agent, vault) = (&self.dependencies.agent, &self.dependencies.vault);
                let is_silent = agent.silent_servers(clock::now()).iter().any(|silent| silent.server == server);
                let takes =
                    !self.is_leaving() && !agent.is_doubtful() && !vault.is_contested() && !vault.is_being_restored();
                let reaches = !is_silent && (!only_if_reached || agent.upstreams().has_granted(&server));
                let may_be = server.len() <= SERVER_MAX && ids.len() <= OFFERED_AT_ONCE;
                let takes = takes && reaches && may_be;
                if takes {
                    self.given_back.note_offered(clock::now(), &ids);
                    vault.take_offered(from, ids, clock::now() + OFFER_HOLDS);
                }
                takes
            }
        };
        Zeroizing::new(if is_yes { YES } else { NO }.to_vec())
    }
}

/// Groups whole accounts into parts of this many instances, as far as that can be.
fn in_batches(accounts: Vec<Vec<InstanceId>>, most: usize) -> Vec<Vec<InstanceId>> {
    let mut batches: Vec<Vec<InstanceId>> = Vec::new();
    for ids in accounts {
        match batches.last_mut().filter(|last| last.len() + ids.len() <= most) {
            Some(last) => last.extend(ids),
            None => batches.push(ids),
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use sip::id::ShardTag;

    use super::*;

    fn id(number: u128) -> InstanceId {
        InstanceId::new(number << 32, ShardTag(1))
    }

    #[test]
    fn an_offer_reads_back_and_a_request_of_the_api_is_none() {
        let server: Box<str> = "sip.example.net:5061".into();
        for offer in [
            Offer::Take { server: server.clone(), only_if_reached: true, ids: vec![id(1), id(2)] },
            Offer::Take { server, only_if_reached: false, ids: Vec::new() },
            Offer::IsRegistered(id(3)),
        ] {
            let mut body = offer.write();
            assert_eq!(Offer::read(&body), Some(offer));
            body.push(0);
            assert_eq!(Offer::read(&body), None, "of another length");
        }
        for other in [&b"GET /v1/instances/pi_1\n\n"[..], b"OFFR", b"OFFR\0\0\x09short", b"REGD", b""] {
            assert_eq!(Offer::read(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_question_about_an_app_reads_back_for_each_push_service() {
        for provider in PROVIDERS {
            let serves = Offer::Serves { app: "com.example.phone".into(), provider };
            assert_eq!(Offer::read(&serves.write()), Some(serves));
        }
        assert_eq!(Offer::read(b"SERV	com.example.phone"), None, "a service of a later version");
    }

    #[test]
    fn no_account_is_divided_among_offers_that_has_room_in_one() {
        let accounts = |sizes: &[u128]| -> Vec<Vec<InstanceId>> {
            sizes.iter().map(|size| (0..*size).map(|number| id(100 * size + number)).collect()).collect()
        };
        let sizes = |batches: Vec<Vec<InstanceId>>| -> Vec<usize> { batches.iter().map(Vec::len).collect() };
        assert_eq!(sizes(in_batches(accounts(&[2, 1, 2, 3, 1, 5, 1]), 4)), [3, 2, 4, 5, 1]);
        assert!(in_batches(Vec::new(), 4).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wipe_waits_until_it_is_known_whose_the_instance_is_and_no_other_one_does() {
        let (offered, ids) = (Offered::default(), [id(1), id(2)]);
        let on_offer = offered.put(&ids);
        assert!(timeout(TAKEN_WITHIN, offered.settled(id(3))).await.is_ok());
        assert!(timeout(TAKEN_WITHIN, offered.settled(id(1))).await.is_err());
        drop(on_offer);
        assert!(timeout(TAKEN_WITHIN, offered.settled(id(1))).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_offer_that_was_taken_ends_also_while_somebody_waits_to_end_the_instance() {
        let (offered, changing, ids) = (Offered::default(), KeyedMutex::default(), [id(1), id(2)]);
        let on_offer = offered.put(&ids);
        let mut ending = pin!(offered.lock_settled(&changing, id(1)));
        assert!(timeout(TAKEN_WITHIN, &mut ending).await.is_err());
        let releasing = timeout(TAKEN_WITHIN, changing.lock_key(id(1))).await;
        assert!(releasing.is_ok(), "it is not locked yet");
        drop((releasing, on_offer));
        assert!(timeout(TAKEN_WITHIN, ending).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_offer_that_begins_while_a_wipe_waits_for_the_lock_is_waited_for_as_well() {
        let (offered, changing, ids) = (Offered::default(), KeyedMutex::default(), [id(1)]);
        let change = changing.lock_key(id(1)).await;
        let mut ending = pin!(offered.lock_settled(&changing, id(1)));
        assert!(timeout(TAKEN_WITHIN, &mut ending).await.is_err(), "a change is under way");
        let on_offer = offered.put(&ids);
        drop(change);
        assert!(timeout(TAKEN_WITHIN, &mut ending).await.is_err(), "it is on offer by now");
        drop(on_offer);
        assert!(timeout(TAKEN_WITHIN, ending).await.is_ok());
    }
}
