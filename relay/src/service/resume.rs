//! Ownership: the node's lease, and the instances that nobody looks after.
//!
//! After a restart, and when another node has died, instances are claimed in batches and registered again at a bounded
//! pace ([`RESUMED_PER_SECOND`]), so that a restart is no storm.
//!
//! Invariant: an instance is registered from here only while the store says that this node owns it, as far as the store
//! can be asked; a store that is away changes nothing for the instances that are here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sip::endpoint::{ContactHosts, NewBinding};
use sip::id::InstanceId;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::Inner;
use crate::agent::request::{EndKind, KnownPushBinding, LeaseExpiry, NewInstance, Principal, Request};
use crate::agent::transport::upstreams::Route;
use crate::clock::since_boot;
use crate::limits::holdings::Place;
use crate::metrics::labels::StoreOperation;
use crate::vault::record::StoredRecord;
use crate::vault::{AorKey, Fence, LEASE, Lease, Owner, RENEWAL, StoreError, Stored};

/// Instances claimed at once.
const BATCH: usize = 200;
/// Instances registered again in a second, on the whole node.
const RESUMED_PER_SECOND: u32 = 1_000;
/// Instances that are looked up at once.
const AT_ONCE: usize = 128;
/// What was taken over.
enum Taken {
    /// A lent account, which is registered from here.
    Lent,
    /// A registration that passed through, whose device registers it.
    PushBinding,
}

/// How often the sealing keys are looked after.
const TEND_KEYS: Duration = Duration::from_secs(10);

impl super::Service {
    /// Holds the node's lease and resumes what is its own or was left behind, until the drain. `told` hears after each
    /// renewal whether the store answers.
    pub async fn keep_ownership(self, told: impl Fn(bool)) {
        let it = self.0;
        let mut ticks = interval(RENEWAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut keys = interval(TEND_KEYS);
        let mut was_away = false;
        let mut held_at = since_boot();
        // Since the lease lapsed the instances are to be looked up; whether the store may have come back empty.
        let mut unsure: Option<bool> = None;
        let mut looking: Option<JoinHandle<bool>> = None;
        let mut resuming: Option<JoinHandle<()>> = None;
        let agent = &it.dependencies.agent;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = keys.tick() => {
                    if let Err(error) = it.dependencies.vault.tend_keys() {
                        tracing::warn!(%error, "the keyring could not be looked after");
                    }
                    continue;
                }
                () = it.dependencies.drain.begun() => break,
            }
            if it.is_leaving() {
                // What is here is served until the end, whoever owns it by now.
                agent.be_sure(since_boot());
                continue;
            }
            let asked_at = since_boot();
            let held = it.timed(StoreOperation::Lease, it.dependencies.vault.hold_lease()).await;
            it.dependencies.metrics.store_up(held.is_ok());
            told(held.is_ok());
            match held {
                // A lease that is missing before its time was lost with the rest of the store's data.
                Ok(Lease::Lapsed) => {
                    unsure = Some(was_away || since_boot().saturating_sub(held_at) < LEASE);
                    // What was looked up until now may have changed.
                    if let Some(looking) = looking.take() {
                        looking.abort();
                    }
                }
                Ok(Lease::Held) => {}
                Err(ref error) => tracing::warn!(%error, "the lease of this node could not be renewed"),
            }
            if let Some(may_be_empty) = unsure.filter(|_| held.is_ok()) {
                // Beside the renewals: it may take longer than a lease.
                let task = looking.get_or_insert_with(|| tokio::spawn(it.clone().look_up_all(may_be_empty)));
                if let Ok(ended) = timeout(RENEWAL, task).await {
                    looking = None;
                    if ended.unwrap_or(false) {
                        unsure = None;
                        agent.lapsed();
                    }
                }
            }
            if unsure.is_none() || held.is_err() {
                agent.be_sure(asked_at);
            }
            if held.is_ok() {
                if was_away {
                    // What it holds may be older than a wipe.
                    for (id, lookup) in it.dependencies.vault.tombstones().erased() {
                        agent.erase(id, lookup);
                    }
                }
                it.let_go_of_ended().await;
                // Beside the renewals: it may take longer than a lease.
                if resuming.as_ref().is_none_or(JoinHandle::is_finished) {
                    let first = resuming.is_none();
                    resuming = Some(tokio::spawn(it.clone().resume(first)));
                }
                held_at = asked_at;
            }
            was_away = held.is_err();
        }
        // The drain waits for calls, and they are served.
        loop {
            agent.be_sure(since_boot());
            ticks.tick().await;
        }
    }
}

impl Inner {
    /// Unregisters and forgets what another node has ended: its account was enabled again there, or wiped.
    pub(super) async fn let_go_of_ended(&self) {
        // A store that is away tells them with the next lease.
        while let Ok(ended) = self.dependencies.vault.ended_elsewhere().await {
            if ended.is_empty() {
                return;
            }
            tracing::info!(instances = ended.len(), "another node has ended instances of this one");
            for id in &ended {
                let end = Request::End { id: *id, who: Principal::Relay, kind: EndKind::NeverOurs, reply: None };
                self.dependencies.agent.tell(*id, end).await;
            }
            if self.dependencies.vault.forget_ended(&ended).await.is_err() {
                // They are told again, and then there is nothing to let go of.
                return;
            }
        }
    }

    /// Claims until nothing is left, at the pace of registrations. The `first` claim has begun with the agent.
    async fn resume(self: Arc<Self>, first: bool) {
        let (mut resumed, mut hosts) = (0, BTreeMap::new());
        while !self.is_leaving() {
            let batch = match self.timed(StoreOperation::Claim, self.dependencies.vault.claim(BATCH)).await {
                Ok(batch) if batch.is_empty() => break,
                Ok(batch) => batch,
                Err(error) => {
                    tracing::warn!(%error, "claiming stopped; it goes on with the next lease");
                    break;
                }
            };
            let count = batch.len() as u32;
            self.dependencies.agent.begin_claim();
            let mut taken: BTreeMap<Option<Owner>, Vec<InstanceId>> = BTreeMap::new();
            for stored in batch {
                let (id, from) = (stored.id, stored.taken_from.clone());
                let contacts = match &from {
                    Some(from) => self.contact_hosts(&mut hosts, from.node()).await,
                    None => None,
                };
                match self.take_over(stored, contacts).await {
                    Some(Taken::Lent) => taken.entry(from).or_default().push(id),
                    Some(Taken::PushBinding) => {}
                    None => continue,
                }
                resumed += 1;
            }
            for (from, ids) in taken {
                self.dependencies.agent.begin_claim();
                tokio::spawn(self.clone().settle(from, ids.into()));
            }
            self.dependencies.agent.end_claim().await;
            sleep(Duration::from_secs(1) * count / RESUMED_PER_SECOND).await;
        }
        if first {
            self.dependencies.agent.end_claim().await;
        }
        if resumed > 0 {
            tracing::info!(resumed, "instances are registered again");
        }
    }

    /// Where the Contacts of a node lead from which something was claimed.
    async fn contact_hosts(
        &self,
        known: &mut BTreeMap<Arc<str>, Option<Arc<ContactHosts>>>,
        node: &Arc<str>,
    ) -> Option<Arc<ContactHosts>> {
        if let Some(known) = known.get(node) {
            return known.clone();
        }
        // Without it the registrar forgets the Contact when it expires.
        let note = self.dependencies.vault.note_of(node).await.ok().flatten();
        let hosts = note.and_then(|note| read_note(&note)).map(Arc::new);
        known.insert(node.clone(), hosts.clone());
        hosts
    }

    /// Binds a claimed instance; `None`: it could not be opened, or is over.
    async fn take_over(&self, stored: Stored, taken_from: Option<Arc<ContactHosts>>) -> Option<Taken> {
        let Stored { id, sealed, fence, .. } = stored;
        // Before anything else: the store may have come back with what it had before a wipe.
        if let Some(lookup) = self.dependencies.vault.tombstones().forbids(id) {
            tracing::warn!(instance = %id, "a record that was wiped is in the store again; it is erased");
            self.dependencies.agent.erase(id, lookup);
            return None;
        }
        enum Opened {
            Lent(NewBinding, LeaseExpiry, AorKey, Place),
            PushBinding(Option<KnownPushBinding>),
        }
        let vault = &self.dependencies.vault;
        let opened = vault.open_record(id, &sealed, |record| match record {
            StoredRecord::Lent(record) => Route::of(&record.account).ok().map(|route| {
                let aor = vault.aor_key(&record.account.aor);
                let place = self.count_instance(record, &route);
                let binding = NewBinding { taken_from, ..self.binding_of(id, record, route, None) };
                Opened::Lent(binding, LeaseExpiry::of(record), aor, place)
            }),
            StoredRecord::PushBinding(record) => {
                let upstreams = self.dependencies.agent.upstreams();
                Some(Opened::PushBinding(KnownPushBinding::of(id, sealed.clone(), fence, record, upstreams)))
            }
        });
        let (binding, lease, aor, place) = match opened.ok().flatten() {
            Some(Opened::Lent(binding, lease, aor, place)) => (binding, lease, aor, place),
            // One that is over, or leads nowhere, is left to its TTL.
            Some(Opened::PushBinding(None)) => return None,
            Some(Opened::PushBinding(Some(known))) => {
                self.dependencies.agent.tell(id, Request::Adopt(Box::new(known))).await;
                return Some(Taken::PushBinding);
            }
            None => {
                // Nobody can ever read it again: the TTL takes it.
                tracing::error!(instance = %id, "a stored record does not open with this keyring; it is left to its expiry");
                return None;
            }
        };
        let new = NewInstance { id, sealed, lease, aor, fence, binding, place };
        self.dependencies.agent.tell(id, Request::Bind { new: Box::new(new), first: None }).await;
        Some(Taken::Lent)
    }

    /// The lease had run out: whatever another node took, or wiped, meanwhile is let go without a word to its SIP server.
    ///
    /// A store that went away under this node's eyes, has come back with not one of the records and
    /// [cannot vouch](crate::vault::Vault::may_have_lost) for what it was told, has lost its data. Then they are stored again from
    /// what is sealed in memory. A node that itself stood still for a lease has no such excuse, and lets go. Whether the store
    /// told all; else it is to be asked again.
    async fn look_up_all(self: Arc<Self>, may_be_empty: bool) -> bool {
        let ids: Vec<InstanceId> = self.dependencies.agent.ask_all(Request::Ids).await.into_iter().flatten().collect();
        tracing::warn!(instances = ids.len(), "the lease of this node had lapsed; each instance is looked up again");
        let (mut lost, mut missing, mut found) = (Vec::new(), Vec::new(), false);
        for some in ids.chunks(AT_ONCE) {
            let mut under_way = JoinSet::new();
            for id in some.iter().copied() {
                let vault = self.dependencies.vault.clone();
                under_way.spawn(async move { (id, vault.load(id).await) });
            }
            while let Some(Ok((id, looked_up))) = under_way.join_next().await {
                match looked_up {
                    Ok(Some(stored)) if stored.owned => found = true,
                    Ok(Some(_)) | Err(StoreError::Malformed) => lost.push(id),
                    Ok(None) => missing.push(id),
                    Err(_) => return false,
                }
            }
        }
        let is_empty = may_be_empty && !found && lost.is_empty() && !missing.is_empty();
        let may_have_lost = match is_empty {
            true => self.dependencies.vault.may_have_lost().await,
            false => Ok(false),
        };
        let Ok(may_have_lost) = may_have_lost else { return false };
        if may_have_lost {
            tracing::warn!(instances = missing.len(), "the store came back empty; its records are written again");
            for id in missing {
                self.store_again(id).await;
            }
            return true;
        }
        for id in lost.into_iter().chain(missing) {
            self.dependencies
                .agent
                .tell(id, Request::End { id, who: Principal::Relay, kind: EndKind::HandedOver, reply: None })
                .await;
        }
        true
    }

    async fn store_again(&self, id: InstanceId) {
        let Ok(status) = self.look_as_relay(id).await else { return };
        if self.dependencies.vault.tombstones().look(id).is_some() {
            return;
        }
        let vault = &self.dependencies.vault;
        let Ok(lookup) = vault.open_lent(id, &status.sealed, |record| vault.lookup_of(record)) else { return };
        let put = self.dependencies.vault.put(id, &status.sealed, status.expires_at, &lookup, Fence::NEW);
        match self.timed(StoreOperation::Put, put).await {
            Ok(placed) => {
                let stored = |reply| Request::Stored { id, sealed: None, fence: placed.fence, reply };
                if self.dependencies.agent.ask(id, stored).await != Some(true) {
                    self.dependencies.agent.erase(id, lookup);
                }
            }
            Err(error) => tracing::warn!(instance = %id, %error, "a record could not be written again"),
        }
    }
}

/// Where the Contacts of this node lead, as it says to the others.
pub fn write_note(hosts: &ContactHosts) -> String {
    let ContactHosts { udp, tcp, tls } = hosts;
    format!("{udp} {tcp} {tls}")
}

fn read_note(note: &str) -> Option<ContactHosts> {
    let mut hosts = note.split(' ').map(Box::from);
    Some(ContactHosts { udp: hosts.next()?, tcp: hosts.next()?, tls: hosts.next()? })
}
