//! Claims: taking over instances without an owner, after a restart, and when another node has died or leaves.
//!
//! ```text
//! store ── claimed, a batch ahead ── opened, some ahead ── bound, some at once ── registered, at the pace of registrations
//!                                      │                                            └── registered, refused, or no answer came ─┐
//!                                      ├── cannot be opened ────────────────────────────────────────────────────────── a letter to its previous owner
//!                                      └── was wiped ─── erased, and released by ───────────────────────────────────── its previous owner
//! ```
//!
//! The endpoint sets the pace of registrations (`upstream.registrations_per_second`). Claiming, opening and binding run in parallel, as fast as they can. An
//! instance for which a call waits is claimed, opened and bound next ([`Vault::want`](crate::vault::Vault::want)): a call waits for two batches at most.
//!
//! An instance whose registration was refused may be registered later: its previous owner is told again and again that it is not, for [`HAND_OVER_LIMIT`], so
//! that a leaving one still serves it meanwhile.
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
use tokio::time::{interval, sleep, timeout};

use crate::agent::Binding;
use crate::agent::request::{FirstAnswer, KnownPushBinding, LeaseExpiry, NewInstance, Request, SettlingNews};
use crate::agent::transport::upstreams::Route;
use crate::limits::holdings::Holding;
use crate::lock::Mutex;
use crate::metrics::labels::StoreOperation;
use crate::service::Inner;
use crate::vault::peer_messages::Letter;
use crate::vault::record::StoredRecord;
use crate::vault::{AorKey, Owner, Sealed, Stored};

/// How long the takers of a leaving node's instances may take to register them; after that, the node ends without the rest.
pub(crate) const HAND_OVER_LIMIT: Duration = Duration::from_secs(30);
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
/// How often the earlier owner of instances hears that they are not registered yet: more often than it takes letters for lost.
const STILL_FAILED: Duration = Duration::from_secs(4);
/// Instances that one letter names.
const LETTER_MAX: usize = 1_000;

/// The hosts of other nodes' Contacts, as far as they were asked for.
type Hosts = BTreeMap<Arc<str>, Option<Arc<ContactHosts>>>;

/// Claimed instances whose registration has yet to be told.
#[derive(Default)]
struct Settling {
    waiting: Mutex<HashMap<InstanceId, Waiting>>,
    claimed_all: AtomicBool,
}

/// One claimed record.
struct Waiting {
    /// The run that it was taken from.
    from: Option<Owner>,
    /// Its registration has failed, and is tried again.
    has_failed: bool,
}

/// Reports on instances that were taken over.
enum Taken {
    /// They are registered.
    Registered,
    /// They are left to others: nobody needs to wait for them.
    Left,
    /// Their registration has failed, and is tried again.
    Failed,
}

/// A claimed record, opened.
enum OpenedRecord {
    /// A lent account, which is registered from here.
    Lent(Box<NewInstance>),
    /// A registration that passed through, whose device registers it.
    PushBinding(Box<KnownPushBinding>),
    /// The record was wiped.
    Ended,
    /// The record cannot be opened.
    Damaged(Sealed),
    /// The record is over, or is of a keyring that the nodes do not agree on.
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
            let (answered, answers) = mpsc::unbounded_channel();
            let (registered, registrations) = mpsc::unbounded_channel();
            let (settled, settling) = (SettlingNews { answered, registered }, Arc::new(Settling::default()));
            tokio::spawn(self.clone().settle(settling.clone(), answers));
            tokio::spawn(self.clone().follow_failed(settling.clone(), registrations));
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
    async fn settle(self: Arc<Self>, settling: Arc<Settling>, mut news: mpsc::UnboundedReceiver<FirstAnswer>) {
        let mut answered = Vec::new();
        loop {
            match timeout(SILENCE, news.recv_many(&mut answered, LETTER_MAX)).await {
                Ok(0) => break,
                Ok(_) => {}
                Err(_) if settling.claimed_all.load(Ordering::Relaxed) => break,
                Err(_) => continue,
            }
            sleep(GATHER).await;
            while let Ok(answer) = news.try_recv() {
                answered.push(answer);
            }
            let (mut settled, mut failed) = (Vec::new(), Vec::new());
            for answer in answered.drain(..) {
                match answer {
                    FirstAnswer::Settled(id) => settled.push(id),
                    FirstAnswer::Failed(id) => failed.push(id),
                }
            }
            self.tell_settled(&settling, settled.into_iter()).await;
            for (from, ids) in settling.fail(failed.into_iter()) {
                self.tell_taken(&from, Taken::Failed, &ids).await;
            }
        }
        self.dependencies.agent.end_settling().await;
        // These are retried without an end; nothing waits for them.
        for (from, ids) in settling.take_silent() {
            self.tell_taken(&from, Taken::Left, &ids).await;
        }
    }

    /// Reports to the earlier owners how instances go on whose first registration has failed here.
    async fn follow_failed(self: Arc<Self>, settling: Arc<Settling>, mut news: mpsc::UnboundedReceiver<InstanceId>) {
        let told = async {
            let (mut registered, mut again) = (Vec::new(), interval(STILL_FAILED));
            loop {
                tokio::select! {
                    count = news.recv_many(&mut registered, LETTER_MAX) => {
                        if count == 0 {
                            return;
                        }
                        sleep(GATHER).await;
                        while let Ok(id) = news.try_recv() {
                            registered.push(id);
                        }
                        self.tell_settled(&settling, registered.drain(..)).await;
                    }
                    _ = again.tick() => {
                        for (from, ids) in settling.failed() {
                            self.tell_taken(&from, Taken::Failed, &ids).await;
                        }
                    }
                }
            }
        };
        // No run waits longer.
        let _ = timeout(HAND_OVER_LIMIT, told).await;
    }

    /// Tells that these are registered, or have ended.
    async fn tell_settled(&self, settling: &Settling, ids: impl Iterator<Item = InstanceId>) {
        for (from, ids) in settling.take(ids) {
            let tombstones = self.dependencies.vault.tombstones();
            let (ended, registered): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| tombstones.look(*id).is_some());
            self.tell_taken(&from, Taken::Registered, &registered).await;
            self.tell_ended(&from, ended).await;
        }
    }

    async fn tell_taken(&self, from: &Owner, taken: Taken, ids: &[InstanceId]) {
        for some in ids.chunks(LETTER_MAX) {
            let letter = match taken {
                Taken::Registered => Letter::TakenOver { registered: some.to_vec(), left: Vec::new() },
                Taken::Left => Letter::TakenOver { registered: Vec::new(), left: some.to_vec() },
                Taken::Failed => Letter::NotRegistered(some.to_vec()),
            };
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

    /// The dead ones of these nodes, without this one. A living node may have a device of the account registered.
    async fn dead_among(&self, nodes: &[Arc<str>]) -> Vec<Arc<str>> {
        let vault = &self.dependencies.vault;
        let others: Vec<Arc<str>> = nodes.iter().filter(|node| *node != vault.owner().node()).cloned().collect();
        if others.is_empty() {
            return others;
        }
        let Ok(living) = vault.living_peers().await else { return Vec::new() };
        others.into_iter().filter(|node| living.iter().all(|peer| peer.node() != node)).collect()
    }

    /// The hosts of a node's Contacts, as far as they are known.
    async fn contact_hosts_of(&self, node: &str) -> Option<Arc<ContactHosts>> {
        // Without it the registrar forgets the Contact when it expires.
        let note = self.dependencies.vault.note_of(node).await.ok().flatten();
        note.and_then(|note| read_note(&note)).map(Arc::new)
    }

    /// The binding data of an abandoned instance of `node`, whose Contact is removed with its end.
    pub(crate) async fn open_left(self: &Arc<Self>, stored: Stored, node: Option<&str>) -> Option<Box<NewInstance>> {
        let mut hosts = Vec::new();
        if let Some(node) = node {
            hosts.extend(self.contact_hosts_of(node).await);
        }
        // Where that node's Contact cannot be named, no other one is in its place.
        if node.is_none() || !hosts.is_empty() {
            for earlier in self.dead_among(&stored.had_by).await {
                hosts.extend(self.contact_hosts_of(&earlier).await.filter(|it| !hosts.contains(it)));
            }
        }
        let id = stored.id;
        match self.open_claimed(stored, hosts) {
            OpenedRecord::Lent(new) => Some(new),
            OpenedRecord::PushBinding(known) => {
                self.dependencies.agent.upstreams().release(known.upstream);
                None
            }
            OpenedRecord::Damaged(sealed) => {
                self.tell_damaged(vec![(id, sealed)]);
                None
            }
            OpenedRecord::Ended | OpenedRecord::Unusable => None,
        }
    }

    /// The binding data of another node's instance, if that one gets calls.
    pub(crate) fn open_proven(self: &Arc<Self>, stored: Stored) -> Option<Box<NewInstance>> {
        let id = stored.id;
        match self.open_claimed(stored, Vec::new()) {
            OpenedRecord::Damaged(sealed) => {
                self.tell_damaged(vec![(id, sealed)]);
                None
            }
            OpenedRecord::Lent(new) if new.binding.proven => Some(new),
            OpenedRecord::Lent(new) => {
                self.dependencies.agent.upstreams().release(new.binding.upstream);
                None
            }
            OpenedRecord::PushBinding(_) | OpenedRecord::Ended | OpenedRecord::Unusable => None,
        }
    }

    fn open_claimed(self: &Arc<Self>, stored: Stored, taken_from: Vec<Arc<ContactHosts>>) -> OpenedRecord {
        let Stored { id, sealed, fence, put_by, taken_from: had, had_by, .. } = stored;
        // This comes first, because the store may have come back with data from before a wipe.
        if let Some(lookup) = self.dependencies.vault.tombstones().forbids_claimed(id, fence) {
            tracing::warn!(event = "wiped-record-returned", instance = %id, "a record that was wiped is in the store again; it is erased");
            self.dependencies.agent.erase(id, lookup);
            return OpenedRecord::Ended;
        }
        enum Read {
            Lent(NewBinding, (LeaseExpiry, bool), AorKey, Holding),
            PushBinding(Option<KnownPushBinding>),
            /// A registration that its device has removed by another node.
            Removed,
        }
        let vault = &self.dependencies.vault;
        let read = vault.open_record(id, &sealed, |record| match record {
            StoredRecord::Lent(record) => Route::of(&record.account).ok().map(|route| {
                let aor = vault.aor_key(&record.account.aor);
                let place = self.count_instance(record, &route);
                self.note_taken(id, had.as_ref(), &had_by, &route.server());
                self.note_unserved(id, record, route.server());
                let binding = NewBinding { taken_from, ..self.binding_of(id, record, route, None) };
                Read::Lent(binding, (LeaseExpiry::of(record), record.told_failing), aor, place)
            }),
            StoredRecord::PushBinding(record) if self.is_removed(id, record) => Some(Read::Removed),
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
            Some(Read::Removed) => {
                vault.note_passed_end(id, &sealed);
                tokio::spawn(self.clone().end_taken(id));
                OpenedRecord::Ended
            }
            // A registration that is over, or leads nowhere, is left to its TTL.
            Some(Read::PushBinding(None)) => OpenedRecord::Unusable,
            Some(Read::PushBinding(Some(known))) => OpenedRecord::PushBinding(Box::new(known)),
            // The TTL takes it.
            None if vault.is_damaged(id, &sealed) => OpenedRecord::Damaged(sealed),
            None => {
                tracing::error!(event = "record-of-another-keyring", instance = %id, "a stored record does not open with this keyring; it is left to its expiry");
                OpenedRecord::Unusable
            }
        }
    }
}

impl Inner {
    /// Says which of these records are damaged. How many are not, but are of a keyring in whose place another one was accepted.
    fn tell_damaged(&self, some: Vec<(InstanceId, Sealed)>) -> usize {
        let (given_up, damaged) = self.dependencies.vault.without_given_up(some);
        for id in damaged {
            tracing::error!(event = "record-damaged", instance = %id, "a stored record is damaged, or in a form of another version: nobody takes it over; it is left to its expiry, and its phone enables again when its app is told that there is none");
        }
        given_up
    }
}

/// Some records that are being opened, each with the run that it was taken from.
type Opening = JoinHandle<Vec<(InstanceId, Option<Owner>, OpenedRecord)>>;

/// Instances under way between the store and the shards.
struct TakingOver<'a> {
    inner: &'a Arc<Inner>,
    settling: &'a Settling,
    settled: &'a SettlingNews,
    hosts: Hosts,
    /// Whether each earlier node is dead.
    are_dead: BTreeMap<Arc<str>, bool>,
    opening: VecDeque<Opening>,
    binding: Option<Binding>,
    taken: usize,
    /// The number of them that passed through another node: their devices are pushed to register by this one.
    left_behind: usize,
    /// The number of records of a keyring in whose place another one was accepted.
    given_up: usize,
}

impl<'a> TakingOver<'a> {
    fn new(inner: &'a Arc<Inner>, settling: &'a Settling, settled: &'a SettlingNews) -> Self {
        let (hosts, opening, are_dead) = (Hosts::new(), VecDeque::new(), BTreeMap::new());
        Self {
            inner,
            settling,
            settled,
            hosts,
            are_dead,
            opening,
            binding: None,
            taken: 0,
            left_behind: 0,
            given_up: 0,
        }
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
                let (contacts, had_by) = self.contacts_of_earlier(&stored).await;
                some.push((Stored { had_by, ..stored }, contacts));
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
        let (mut some, mut adopting, mut damaged) = (Vec::with_capacity(opened.len()), Vec::new(), Vec::new());
        let (mut ended, mut left) = (BTreeMap::<Owner, Vec<_>>::new(), BTreeMap::<Owner, Vec<_>>::new());
        for (id, from, opened) in opened {
            match opened {
                OpenedRecord::Lent(new) => {
                    self.settling.lock().insert(id, Waiting { from, has_failed: false });
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
                OpenedRecord::Damaged(_) | OpenedRecord::Unusable => {
                    if let OpenedRecord::Damaged(sealed) = opened {
                        damaged.push((id, sealed));
                    }
                    if let Some(from) = from {
                        left.entry(from).or_default().push(id);
                    }
                }
            }
        }
        self.taken += some.len();
        self.given_up += self.inner.tell_damaged(damaged);
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
            self.inner.tell_taken(&from, Taken::Left, &left).await;
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
        if self.given_up > 0 {
            tracing::info!(
                event = "records-of-earlier-keyring",
                records = self.given_up,
                "another keyring has sealed these, in whose place the operator has accepted this one; they are left to their expiry"
            );
        }
        (self.taken, self.left_behind)
    }

    /// The hosts of the Contacts that may stand at the registrar: of the node that it was claimed from, and of dead ones before that, whose taker may
    /// have died before it was registered there; and these dead ones.
    async fn contacts_of_earlier(&mut self, stored: &Stored) -> (Vec<Arc<ContactHosts>>, Vec<Arc<str>>) {
        let from = stored.taken_from.as_ref().map(|from| from.node().clone());
        let mut contacts: Vec<_> = match &from {
            Some(from) => self.contact_hosts(from).await.into_iter().collect(),
            None => Vec::new(),
        };
        let mut dead = Vec::new();
        for node in stored.had_by.iter().filter(|node| Some(*node) != from.as_ref()) {
            let is_dead = match self.are_dead.get(node) {
                Some(is_dead) => *is_dead,
                None => !self.inner.dead_among(std::slice::from_ref(node)).await.is_empty(),
            };
            self.are_dead.insert(node.clone(), is_dead);
            if is_dead {
                contacts.extend(self.contact_hosts(node).await.filter(|hosts| !contacts.contains(hosts)));
                dead.push(node.clone());
            }
        }
        (contacts, dead)
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
        by_run(ids.filter_map(|id| Some((id, waiting.remove(&id)?.from?))))
    }

    /// Takes out the instances without any answer.
    fn take_silent(&self) -> BTreeMap<Owner, Vec<InstanceId>> {
        let mut waiting = self.lock();
        let silent = waiting.extract_if(|_, it| !it.has_failed);
        by_run(silent.filter_map(|(id, it)| Some((id, it.from?))))
    }

    /// Notes that the registration of these has failed; they go on waiting.
    fn fail(&self, ids: impl Iterator<Item = InstanceId>) -> BTreeMap<Owner, Vec<InstanceId>> {
        let mut waiting = self.lock();
        by_run(ids.filter_map(|id| {
            let it = waiting.get_mut(&id)?;
            it.has_failed = true;
            Some((id, it.from.clone()?))
        }))
    }

    /// The instances whose registration has failed.
    fn failed(&self) -> BTreeMap<Owner, Vec<InstanceId>> {
        let waiting = self.lock();
        let mut failed: Vec<_> = waiting.iter().filter(|(_, it)| it.has_failed).collect();
        failed.sort_unstable_by_key(|(id, _)| **id);
        by_run(failed.into_iter().filter_map(|(id, it)| Some((*id, it.from.clone()?))))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<InstanceId, Waiting>> {
        self.waiting.lock()
    }
}

fn by_run(ids: impl Iterator<Item = (InstanceId, Owner)>) -> BTreeMap<Owner, Vec<InstanceId>> {
    let mut of_run: BTreeMap<Owner, Vec<InstanceId>> = BTreeMap::new();
    for (id, from) in ids {
        of_run.entry(from).or_default().push(id);
    }
    of_run
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
