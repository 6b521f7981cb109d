//! Claims: taking over instances without an owner, after a restart, and when another node has died or leaves.
//!
//! ```text
//! store ── claimed, a batch ahead ── opened, some ahead ── bound, some at once ── registered, at the pace of registrations
//!                                      │                                            └── registered, or its SIP server is silent ─┐
//!                                      ├── cannot be opened ─────────────────────────────────────────────────────────── a letter to its previous owner
//!                                      └── was wiped ─── erased, and released by ───────────────────────────────────── its previous owner
//! ```
//!
//! The endpoint sets the pace of registrations (`upstream.registrations_per_second`). Claiming, opening and binding run in parallel, as fast as they can. An
//! instance for which a call waits is claimed, opened and bound next ([`Vault::want`](crate::vault::Vault::want)): a call waits for two batches at most.
//!
//! Invariant: a shard is given at most [`BOUND_AT_ONCE`] instances, and further ones with the last one's tag, before it has bound the earlier ones, so that
//! calls go on. The devices of an account are bound in one turn, so that a call finds all of them. Requests for an instance that may be on its way here wait
//! until its SIP server has answered, or counts as silent. An instance that ends on its way is not bound: the shard asks for its tombstone once more, and a
//! leaving node that still serves it is told to end it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use sip::endpoint::{ContactHosts, NewBinding};
use sip::id::InstanceId;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::agent::Binding;
use crate::agent::request::{KnownPushBinding, LeaseExpiry, NewInstance, Request};
use crate::agent::transport::upstreams::Route;
use crate::limits::holdings::Holding;
use crate::lock::Mutex;
use crate::metrics::labels::StoreOperation;
use crate::service::Inner;
use crate::vault::peer_messages::Letter;
use crate::vault::record::{Record, StoredRecord};
use crate::vault::{AorKey, Owner, Stored};

/// Instances that are claimed at once.
const BATCH: usize = 256;
/// Instances bound at once; a shard does nothing else meanwhile.
const BOUND_AT_ONCE: usize = 32;
/// The same, if the last of them have one shard tag.
const BOUND_AT_MOST: usize = 4 * BOUND_AT_ONCE;
/// The number of such batches that are being opened or wait to be bound: enough to keep every core busy.
const OPENED_AHEAD: usize = 4;
/// The time without any answer of a SIP server for claimed instances after which nothing waits for them any more.
const SILENCE: Duration = Duration::from_secs(10);
/// How long answers are gathered for one letter.
const GATHER: Duration = Duration::from_millis(50);
/// Instances that one letter names.
const LETTER_MAX: usize = 1_000;

/// The hosts of other nodes' Contacts, as far as they were asked for.
type Hosts = BTreeMap<Arc<str>, Option<Arc<ContactHosts>>>;

/// Claimed instances that wait for the first answer of their SIP server, each with the run that it was taken from.
#[derive(Default)]
struct Settling {
    from: Mutex<HashMap<InstanceId, Option<Owner>>>,
    claimed_all: AtomicBool,
}

/// A claimed record, opened.
enum OpenedRecord {
    /// A lent account, which is registered from here.
    Lent(Box<NewInstance>),
    /// A registration that passed through, whose device registers it.
    PushBinding(Box<KnownPushBinding>),
    /// The record was wiped.
    Ended,
    /// The record cannot be opened, or is over.
    Unusable,
}

impl Inner {
    /// Claims until nothing is left, which ends that many earlier claims as well. Returns the number still to be ended, because the store did not answer for
    /// all.
    pub(crate) async fn resume(self: Arc<Self>, ends: usize) -> usize {
        let agent = &self.dependencies.agent;
        // This comes before the question to the store: an end that another node reports from then on waits until the instance is here.
        agent.begin_claim();
        let first_batch = self.claim_next().await;
        let is_told = Arc::new(AtomicBool::new(first_batch.is_some()));
        if let Some(first_batch) = first_batch.filter(|batch| !batch.is_empty()) {
            agent.begin_bringing();
            let (settled, news) = mpsc::unbounded_channel();
            let settling = Arc::new(Settling::default());
            tokio::spawn(self.clone().settle(settling.clone(), news));
            let (claims, mut claimed) = mpsc::channel(1);
            let (it, told) = (self.clone(), is_told.clone());
            tokio::spawn(async move {
                // Nothing is claimed before there is room, so that an instance with a waiting call finds no queue.
                while let Ok(room) = claims.reserve().await {
                    match it.claim_next().await {
                        Some(batch) if batch.is_empty() => return,
                        Some(batch) => room.send(batch),
                        None => return told.store(false, Ordering::Relaxed),
                    }
                }
            });
            let mut taking = TakingOver::new(&self, &settling, &settled);
            let mut batch = Some(first_batch);
            while let Some(claimed_now) = batch {
                taking.take_over(claimed_now).await;
                batch = claimed.recv().await;
            }
            let (resumed, left_behind) = taking.end().await;
            agent.end_bringing();
            settling.claimed_all.store(true, Ordering::Relaxed);
            tracing::info!(
                event = "instances-taken-over",
                resumed,
                left_behind,
                "instances were taken over, and are registered again"
            );
        }
        agent.end_claim().await;
        if !is_told.load(Ordering::Relaxed) {
            return ends;
        }
        for _ in 0..ends {
            agent.end_claim().await;
        }
        0
    }

    /// The next batch, empty if nothing is left. `None`: the store does not answer.
    async fn claim_next(&self) -> Option<Vec<Stored>> {
        if self.is_leaving() {
            return Some(Vec::new());
        }
        let claimed = self.timed(StoreOperation::Claim, self.dependencies.vault.claim(BATCH)).await;
        let mut outage = self.unclaimed.lock();
        match &claimed {
            Ok(_) => {
                if let Some(times) = outage.over() {
                    tracing::info!(event = "claiming-goes-on", times, "claiming goes on");
                }
            }
            Err(error) => {
                if let Some(times) = outage.again() {
                    tracing::warn!(event = "claiming-stopped", %error, times, "claiming stopped; it goes on with the next lease");
                }
            }
        }
        claimed.ok()
    }

    /// Waits until the SIP servers of all have answered, tells the runs that they were taken from, and ends the claim.
    async fn settle(self: Arc<Self>, settling: Arc<Settling>, mut news: mpsc::UnboundedReceiver<InstanceId>) {
        let mut settled = Vec::new();
        loop {
            match timeout(SILENCE, news.recv_many(&mut settled, LETTER_MAX)).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) if settling.claimed_all.load(Ordering::Relaxed) => break,
                Err(_) => continue,
            }
            sleep(GATHER).await;
            while let Ok(id) = news.try_recv() {
                settled.push(id);
            }
            for (from, ids) in settling.take(settled.drain(..)) {
                let tombstones = self.dependencies.vault.tombstones();
                let (ended, registered) = ids.into_iter().partition(|id| tombstones.look(*id).is_some());
                self.tell_taken(&from, registered, Vec::new()).await;
                self.tell_ended(&from, ended).await;
            }
        }
        self.dependencies.agent.end_settling().await;
        // These are retried without an end; nothing waits for them.
        let silent: Vec<InstanceId> = settling.lock().keys().copied().collect();
        for (from, ids) in settling.take(silent.into_iter()) {
            self.tell_taken(&from, Vec::new(), ids).await;
        }
    }

    async fn tell_taken(&self, from: &Owner, registered: Vec<InstanceId>, left: Vec<InstanceId>) {
        let letter = |registered: &[InstanceId], left: &[InstanceId]| Letter::TakenOver {
            registered: registered.to_vec(),
            left: left.to_vec(),
        };
        let registered = registered.chunks(LETTER_MAX).map(|some| letter(some, &[]));
        for letter in registered.chain(left.chunks(LETTER_MAX).map(|some| letter(&[], some))) {
            // A node that is not waiting any more does not read it.
            let _ = self.dependencies.vault.write_letter(from, &letter).await;
        }
    }

    /// Tells the run that had these instances, and may still serve them, to release them, because they have ended.
    async fn tell_ended(&self, from: &Owner, ended: Vec<InstanceId>) {
        for some in ended.chunks(LETTER_MAX) {
            if let Err(error) = self.dependencies.vault.tell_ended(from, some).await {
                tracing::warn!(event = "end-not-told", %error, instances = some.len(), "a node that leaves could not be told what has ended; it serves that until it is gone");
            }
        }
    }

    /// Moves the lookup of an instance that an earlier version stored under its AOR as written.
    fn name_as_compared(self: &Arc<Self>, id: InstanceId, record: &Record) {
        let vault = &self.dependencies.vault;
        let as_written = vault.lookup_as_written(&record.app, &record.account.aor, &record.device.call_push.token);
        // A node that leaves puts nothing.
        if as_written.is_some() && !self.is_leaving() {
            let (it, lookup) = (self.clone(), vault.lookup_of(record));
            tokio::spawn(async move { it.name_again(id, None, &lookup).await });
        }
    }

    /// The hosts of a node's Contacts, as far as they are known.
    async fn contact_hosts_of(&self, node: &str) -> Option<Arc<ContactHosts>> {
        // Without it the registrar forgets the Contact when it expires.
        let note = self.dependencies.vault.note_of(node).await.ok().flatten();
        note.and_then(|note| read_note(&note)).map(Arc::new)
    }

    /// The binding data of an abandoned instance of `node`, whose Contact is removed with its end.
    pub(crate) async fn open_left(self: &Arc<Self>, stored: Stored, node: Option<&str>) -> Option<Box<NewInstance>> {
        let hosts = match node {
            Some(node) => self.contact_hosts_of(node).await,
            None => None,
        };
        match self.open_claimed(stored, hosts) {
            OpenedRecord::Lent(new) => Some(new),
            OpenedRecord::PushBinding(known) => {
                self.dependencies.agent.upstreams().release(known.upstream);
                None
            }
            OpenedRecord::Ended | OpenedRecord::Unusable => None,
        }
    }

    /// The binding data of another node's instance, if that one gets calls.
    pub(crate) fn open_proven(self: &Arc<Self>, stored: Stored) -> Option<Box<NewInstance>> {
        match self.open_claimed(stored, None) {
            OpenedRecord::Lent(new) if new.binding.proven => Some(new),
            OpenedRecord::Lent(new) => {
                self.dependencies.agent.upstreams().release(new.binding.upstream);
                None
            }
            OpenedRecord::PushBinding(_) | OpenedRecord::Ended | OpenedRecord::Unusable => None,
        }
    }

    fn open_claimed(self: &Arc<Self>, stored: Stored, taken_from: Option<Arc<ContactHosts>>) -> OpenedRecord {
        let Stored { id, sealed, fence, put_by, .. } = stored;
        // This comes first, because the store may have come back with data from before a wipe.
        if let Some(lookup) = self.dependencies.vault.tombstones().forbids_claimed(id, fence) {
            tracing::warn!(event = "wiped-record-returned", instance = %id, "a record that was wiped is in the store again; it is erased");
            self.dependencies.agent.erase(id, lookup);
            return OpenedRecord::Ended;
        }
        enum Read {
            Lent(NewBinding, (LeaseExpiry, bool), AorKey, Holding),
            PushBinding(Option<KnownPushBinding>),
        }
        let vault = &self.dependencies.vault;
        let read = vault.open_record(id, &sealed, |record| match record {
            StoredRecord::Lent(record) => Route::of(&record.account).ok().map(|route| {
                self.name_as_compared(id, record);
                let aor = vault.aor_key(&record.account.aor);
                let place = self.count_instance(record, &route);
                self.note_unserved(id, record, route.server());
                let binding = NewBinding { taken_from, ..self.binding_of(id, record, route, None) };
                Read::Lent(binding, (LeaseExpiry::of(record), record.told_failing), aor, place)
            }),
            StoredRecord::PushBinding(record) => {
                let upstreams = self.dependencies.agent.upstreams();
                let left_by = put_by.filter(|node| node != vault.owner().node());
                let known = KnownPushBinding::of(id, sealed.clone(), fence, record, upstreams);
                Some(Read::PushBinding(known.map(|known| KnownPushBinding { left_by, ..known })))
            }
        });
        match read.ok().flatten() {
            Some(Read::Lent(binding, (lease, told_failing), aor, place)) => OpenedRecord::Lent(Box::new(NewInstance {
                id,
                sealed,
                lease,
                aor,
                fence,
                told_failing,
                binding,
                place,
            })),
            // A registration that is over, or leads nowhere, is left to its TTL.
            Some(Read::PushBinding(None)) => OpenedRecord::Unusable,
            Some(Read::PushBinding(Some(known))) => OpenedRecord::PushBinding(Box::new(known)),
            // The record can never be read again: the TTL takes it.
            None if vault.is_damaged(id, &sealed) => {
                tracing::error!(event = "record-damaged", instance = %id, "a stored record is damaged, or in a form of another version: nobody takes it over; it is left to its expiry, and its phone enables again when its app is told that there is none");
                OpenedRecord::Unusable
            }
            None => {
                tracing::error!(event = "record-of-another-keyring", instance = %id, "a stored record does not open with this keyring; it is left to its expiry");
                OpenedRecord::Unusable
            }
        }
    }
}

/// Some records that are being opened, each with the run that it was taken from.
type Opening = JoinHandle<Vec<(InstanceId, Option<Owner>, OpenedRecord)>>;

/// Instances under way between the store and the shards.
struct TakingOver<'a> {
    inner: &'a Arc<Inner>,
    settling: &'a Settling,
    settled: &'a mpsc::UnboundedSender<InstanceId>,
    hosts: Hosts,
    opening: VecDeque<Opening>,
    binding: Option<Binding>,
    taken: usize,
    /// The number of them that passed through another node: their devices are pushed to register by this one.
    left_behind: usize,
}

impl<'a> TakingOver<'a> {
    fn new(inner: &'a Arc<Inner>, settling: &'a Settling, settled: &'a mpsc::UnboundedSender<InstanceId>) -> Self {
        let (hosts, opening) = (Hosts::new(), VecDeque::new());
        Self { inner, settling, settled, hosts, opening, binding: None, taken: 0, left_behind: 0 }
    }

    /// Has what was claimed opened, and binds what is open.
    async fn take_over(&mut self, batch: Vec<Stored>) {
        let mut batch = batch.into_iter().peekable();
        while batch.peek().is_some() {
            let (mut some, mut last) = (Vec::with_capacity(BOUND_AT_ONCE), None);
            let is_next = |stored: &Stored, count, last| {
                count < BOUND_AT_ONCE || count < BOUND_AT_MOST && last == Some(stored.id.tag())
            };
            while let Some(stored) = batch.next_if(|stored| is_next(stored, some.len(), last)) {
                last = Some(stored.id.tag());
                let contacts = match &stored.taken_from {
                    Some(from) => self.contact_hosts(&from.node().clone()).await,
                    None => None,
                };
                some.push((stored, contacts));
            }
            if self.opening.len() == OPENED_AHEAD {
                self.bind_first().await;
            }
            let inner = self.inner.clone();
            self.opening.push_back(tokio::spawn(async move {
                let open = |(stored, contacts): (Stored, _)| {
                    (stored.id, stored.taken_from.clone(), inner.open_claimed(stored, contacts))
                };
                some.into_iter().map(open).collect()
            }));
        }
    }

    /// Binds what was opened first.
    async fn bind_first(&mut self) {
        let Some(opening) = self.opening.pop_front() else { return };
        // An error means that the runtime ends.
        let opened = opening.await.unwrap_or_default();
        let agent = &self.inner.dependencies.agent;
        let (mut some, mut adopting) = (Vec::with_capacity(opened.len()), Vec::new());
        let (mut ended, mut left) = (BTreeMap::<Owner, Vec<_>>::new(), BTreeMap::<Owner, Vec<_>>::new());
        for (id, from, opened) in opened {
            match opened {
                OpenedRecord::Lent(new) => {
                    self.settling.lock().insert(id, from);
                    some.push(*new);
                }
                OpenedRecord::PushBinding(known) => {
                    self.taken += 1;
                    self.left_behind += usize::from(known.left_by.is_some());
                    let (reply, adopted) = oneshot::channel();
                    agent.tell(id, Request::Adopt { new: known, reply }).await;
                    adopting.extend(from.map(|from| (id, from, adopted)));
                }
                OpenedRecord::Ended => {
                    if let Some(from) = from {
                        ended.entry(from).or_default().push(id);
                    }
                }
                OpenedRecord::Unusable => {
                    if let Some(from) = from {
                        left.entry(from).or_default().push(id);
                    }
                }
            }
        }
        self.taken += some.len();
        if let Some(earlier) = self.binding.take() {
            earlier.ended().await;
        }
        self.binding = Some(agent.bind_all(some, self.settled).await);
        for (id, from, adopted) in adopting {
            // An error means that the shards have ended.
            if !adopted.await.unwrap_or(true) {
                ended.entry(from).or_default().push(id);
            }
        }
        for (from, ended) in ended {
            self.inner.tell_ended(&from, ended).await;
        }
        for (from, left) in left {
            self.inner.tell_taken(&from, Vec::new(), left).await;
        }
    }

    /// Waits until all are bound. Returns their number, and how many of them passed through another node.
    async fn end(mut self) -> (usize, usize) {
        while !self.opening.is_empty() {
            self.bind_first().await;
        }
        if let Some(last) = self.binding.take() {
            last.ended().await;
        }
        (self.taken, self.left_behind)
    }

    /// The hosts that the Contacts of a node lead to from which instances were claimed.
    async fn contact_hosts(&mut self, node: &Arc<str>) -> Option<Arc<ContactHosts>> {
        if let Some(known) = self.hosts.get(node) {
            return known.clone();
        }
        let hosts = self.inner.contact_hosts_of(node).await;
        self.hosts.insert(node.clone(), hosts.clone());
        hosts
    }
}

impl Settling {
    /// Takes these out of the waiting instances, by the run that they were taken from; an instance that was this node's own is reported to no other
    /// node.
    fn take(&self, ids: impl Iterator<Item = InstanceId>) -> BTreeMap<Owner, Vec<InstanceId>> {
        let mut waiting = self.lock();
        let mut taken: BTreeMap<Owner, Vec<InstanceId>> = BTreeMap::new();
        for id in ids {
            if let Some(from) = waiting.remove(&id).flatten() {
                taken.entry(from).or_default().push(id);
            }
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, Option<Owner>>> {
        self.from.lock()
    }
}

/// The note about the hosts that this node's Contacts lead to, as the other nodes read it.
pub fn write_note(hosts: &ContactHosts) -> String {
    let ContactHosts { udp, tcp, tls } = hosts;
    format!("{udp} {tcp} {tls}")
}

fn read_note(note: &str) -> Option<ContactHosts> {
    let mut hosts = note.split(' ').map(Box::from);
    Some(ContactHosts { udp: hosts.next()?, tcp: hosts.next()?, tls: hosts.next()? })
}
