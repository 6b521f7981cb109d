//! Push bindings (RFC 8599): registrations that passed through the edge, their records in the store, and the pushes to their devices.
//! [`forwarded_registers`](super::forwarded_registers) decides which registrations may pass.
//!
//! Invariant: a row holds its record in the sealed form alone, and the record holds no credential. The store keeps a record no longer than the SIP server has
//! granted. At most one operation on a registration is under way in the store, and the last one is about the newest state: a registration that has ended
//! meanwhile is not written.
//!
//! The end of a push binding leaves no tombstone, because its device may register it again under the same id; it is
//! [remembered](crate::vault::PassedEnds) as long as this run lives. It is confirmed only when the store has erased the record and no push for it is on its way
//! ([`final_pushes`](super::final_pushes)). The loop never waits for the store: a request for a registration that only the store knows waits in
//! [`path_lookups`](super::path_lookups).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sip::endpoint::{
    Input, NewOwner, PushBinding, PushBindingEnd, PushContact, RestoredPushBinding, names_device, server_of,
};
use sip::id::InstanceId;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Shard;
use super::alerts::AlertContent;
use super::forwarded_registers::passed_end;
use super::wipes::{TOLD_WITHIN, refuse, tell_wiped};
use crate::agent::ShardInput;
use crate::agent::erasures::{self, Answer};
use crate::agent::request::{
    Denied, EndKind, Erasure, InstanceStatus, KnownPushBinding, ReleaseReason, Request, WipeDone, WipeWaiter,
};
use crate::agent::tables::addresses::Addresses;
use crate::agent::transport::upstreams::{Route, Upstreams};
use crate::agent::{Audience, NodeNews, Registered, Shared};
use crate::clock::{self, confirmed_now, latest_now, unix_ms_of, unix_now_ms};
use crate::domain::{InstanceState, WipeReason, Word as _};
use crate::limits::holdings::Holding;
use crate::metrics::Failing;
use crate::metrics::labels::{PassedEnd, StoreOperation};
use crate::push::Event;
use crate::secret::{Aor, PushToken};
use crate::vault::record::PushBindingRecord;
use crate::vault::{AorKey, Fence, Lookup, RecordToWrite, Sealed, StoreError};

/// The pause before a record that the store did not take is written again.
const STORE_AGAIN: Duration = Duration::from_secs(2);
/// How long an operator waits for the store to erase a registration; then the answer is that the store is away.
const WAIT_FOR_STORE: Duration = Duration::from_secs(2);
/// The least time that a push for a refresh has to reach its device.
const REFRESH_LIFE_MIN_S: u64 = 30;

/// The registrations of one shard.
#[derive(Default)]
pub(crate) struct PushBindings {
    rows: HashMap<InstanceId, Row>,
    addresses: Addresses,
    /// The records of registrations that another node owns by now, kept as long as calls wait here for their devices.
    released: HashMap<InstanceId, Sealed>,
    /// Whether the store did not take the last record.
    is_store_away: bool,
}

struct Row {
    /// The record that the store should have. `None`: none.
    wanted: Option<(Sealed, u64)>,
    /// The keyed hash of its account.
    aor: AorKey,
    lookup: Lookup,
    fence: Fence,
    /// Whether an operation is under way in the store.
    busy: bool,
    /// Whether the write under way is outdated.
    stale: bool,
    /// The store has not answered a write since it has taken the last one.
    is_unkept: bool,
    /// The same flag, shared with the writing task: an outdated record is not written.
    superseded: Arc<AtomicBool>,
    /// Its quota place, as long as this row exists.
    _place: Holding,
    /// Requesters that wait until the store has erased the registration.
    waiters: Vec<WipeWaiter>,
    /// Whether the waiters are answered, whatever the store has done, once the pushes under way have had their time.
    is_heard_out: bool,
    /// Whether the registration was wiped: its receipt waits until the other nodes have heard that the store has erased it, or have had their time.
    is_wiped: bool,
    /// Whether the registration is another node's, or nobody's any more: its end is not reported to the store.
    is_released: bool,
    /// Its last refresh failed.
    failing: Option<Failing>,
    /// The node that its Path names, as long as its device has not registered here.
    left_by: Option<Arc<str>>,
    /// For a registration whose place a later one of its device took: it is erased when the later one is kept, or has ended.
    erased_behind: Option<oneshot::Receiver<()>>,
    /// The earlier ones that are erased behind it.
    earlier: ErasedBehind,
}

/// Registrations whose place a later one has taken. Each is erased when its sender is dropped.
#[derive(Default)]
struct ErasedBehind(Vec<(InstanceId, oneshot::Sender<()>)>);

impl ErasedBehind {
    fn add(&mut self, id: InstanceId) -> oneshot::Receiver<()> {
        let (kept, is_kept) = oneshot::channel();
        self.0.push((id, kept));
        is_kept
    }

    /// Takes on the waiting registrations of one whose place `successor` takes before it was kept. The successor does not wait for itself.
    fn take_on(&mut self, theirs: Self, successor: InstanceId) {
        self.0.extend(theirs.0.into_iter().filter(|(id, _)| *id != successor));
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

impl Row {
    /// A registration whose record is not in the store yet.
    fn new(aor: AorKey, lookup: Lookup, place: Holding) -> Self {
        Self {
            wanted: None,
            aor,
            lookup,
            fence: Fence::NEW,
            busy: false,
            stale: false,
            is_unkept: false,
            superseded: Arc::default(),
            _place: place,
            waiters: Vec::new(),
            is_heard_out: false,
            is_wiped: false,
            is_released: false,
            failing: None,
            left_by: None,
            erased_behind: None,
            earlier: ErasedBehind::default(),
        }
    }
}

impl PushBindings {
    /// Whether a registration is known here.
    pub(crate) fn knows(&self, id: InstanceId) -> bool {
        self.sealed(id).is_some()
    }

    pub(crate) fn sealed(&self, id: InstanceId) -> Option<&Sealed> {
        self.rows.get(&id)?.wanted.as_ref().map(|(sealed, _)| sealed)
    }

    /// Whether it is useless that a device waits for the store to have its registration.
    pub(crate) fn is_store_away(&self) -> bool {
        self.is_store_away
    }

    /// The record of a registration that another node owns by now, while a call waits here for its device.
    pub(crate) fn released(&self, id: InstanceId) -> Option<&Sealed> {
        self.released.get(&id)
    }

    /// The last refresh of a registration failed, or did not.
    pub(crate) fn set_failing(&mut self, id: InstanceId, failing: Option<Failing>) {
        if let Some(row) = self.rows.get_mut(&id).filter(|row| row.wanted.is_some()) {
            row.failing = failing;
        }
    }

    /// The node that the Path of a registration names, if it is another one.
    pub(crate) fn left_by(&self, id: InstanceId) -> Option<&Arc<str>> {
        self.rows.get(&id).filter(|row| row.wanted.is_some())?.left_by.as_ref()
    }

    /// When a registration ends, in seconds since 1970.
    pub(crate) fn ends_at(&self, id: InstanceId) -> Option<u64> {
        self.rows.get(&id)?.wanted.as_ref().map(|(_, ends_at)| *ends_at)
    }

    /// The registrations by an address, in order.
    pub(crate) fn of_account(&self, address: AorKey) -> Vec<InstanceId> {
        self.addresses.of(address).filter(|id| self.knows(*id)).collect()
    }

    /// At most `limit` ids after `after`, in no order.
    pub(crate) fn ids_after(&self, after: Option<InstanceId>, limit: usize) -> Vec<InstanceId> {
        let known = self.rows.iter().filter(|(_, row)| row.wanted.is_some()).map(|(id, _)| *id);
        let mut ids: Vec<_> = known.filter(|id| after.is_none_or(|after| *id > after)).collect();
        if ids.len() > limit {
            ids.select_nth_unstable(limit);
            ids.truncate(limit);
        }
        ids
    }

    /// The registrations whose records this node has stored, each with its fence; in no order.
    pub(crate) fn owned(&self) -> Vec<(InstanceId, Fence)> {
        let is_owned = |row: &Row| row.wanted.is_some() && !row.busy && row.fence != Fence::NEW;
        self.rows.iter().filter(|(_, row)| is_owned(row)).map(|(id, row)| (*id, row.fence)).collect()
    }

    /// The status of a registration: the SIP server has accepted it until its end.
    pub(crate) fn status_of(&self, id: InstanceId) -> Option<InstanceStatus> {
        let row = self.rows.get(&id)?;
        let (sealed, expires_at) = row.wanted.clone()?;
        Some(InstanceStatus {
            id,
            sealed,
            fence: row.fence,
            state: InstanceState::Registered,
            status: Some(200),
            registered_until: expires_at,
            failing_since: None,
            expires_at,
            reminded: None,
            mailbox: None,
            is_replacing: false,
        })
    }

    /// A registration has taken the place of an earlier one of its device. The store has one of the two, whatever dies. Registrations that wait for the
    /// earlier one wait for this one from now on.
    pub(crate) fn note_successor(&mut self, earlier: InstanceId, successor: InstanceId) {
        if !self.rows.get(&successor).is_some_and(|row| row.busy && row.wanted.is_some()) {
            return;
        }
        let theirs = self.rows.get_mut(&earlier).map(|row| std::mem::take(&mut row.earlier));
        let Some(row) = self.rows.get_mut(&successor) else { return };
        row.earlier.take_on(theirs.unwrap_or_default(), successor);
        let is_kept = row.earlier.add(earlier);
        if let Some(row) = self.rows.get_mut(&earlier) {
            row.erased_behind = Some(is_kept);
        }
    }

    fn remove(&mut self, id: InstanceId) {
        if let Some(row) = self.rows.remove(&id) {
            self.addresses.remove(id, row.aor);
        }
    }
}

impl KnownPushBinding {
    /// A registration by its record. `None`: it is over, or leads nowhere.
    pub fn of(
        id: InstanceId,
        sealed: Sealed,
        fence: Fence,
        record: &PushBindingRecord,
        upstreams: &Upstreams,
    ) -> Option<Self> {
        let left = record.expires_at.checked_sub(confirmed_now()).filter(|left| *left > 0)?;
        let route = Route::through(record.aor.expose(), &record.registrar, record.proxy.as_deref()).ok()?;
        let (expires_at, upstream_registrar) = (record.expires_at, route.registrar().into());
        let registration = PushBinding {
            instance: id,
            aor: record.aor.expose().into(),
            contact: record.contact.clone(),
            registrar: record.registrar.clone(),
            proxy: record.proxy.clone(),
            push: contact_of(record),
            expires: Duration::from_secs(left),
            refreshes_itself: record.refreshes_itself,
            source: None,
            sent_at: None,
        };
        let server = route.server();
        let upstream = upstreams.acquire_kept(route);
        let (left_by, confirmed_at_ms) = (None, record.confirmed_at_ms);
        Some(Self {
            id,
            sealed,
            expires_at,
            fence,
            registration,
            upstream,
            upstream_registrar,
            server,
            left_by,
            confirmed_at_ms,
        })
    }
}

impl Shard {
    /// A SIP server has accepted a registration, or its refresh: its record is stored.
    pub(crate) fn on_push_binding(&mut self, registration: PushBinding) {
        let PushBinding { instance, aor, contact, registrar, proxy, push, expires, refreshes_itself, source, sent_at } =
            registration;
        let Ok(route) = Route::through(&aor, &registrar, proxy.as_deref()) else { return };
        let Ok(address) = self.shared.push.address(&push, unix_now_ms()) else { return };
        let expires_at = latest_now() + expires.as_secs();
        let aor = Aor::new(&aor);
        let known = self.push_bindings.rows.get(&instance).map(|row| row.aor);
        let account = known.unwrap_or_else(|| self.shared.vault.aor_key(&aor));
        let with_port = self.shared.vault.aor_key_with_port(&aor, &registrar);
        let sent_ms = unix_ms_of(sent_at);
        if !self.push_bindings.knows(instance) && names_device(&contact) {
            let server = server_of(&registrar, proxy.as_deref()).unwrap_or_default();
            let device = self.shared.vault.device_mark(&aor, &server, &contact);
            let new = Registered { id: instance, account, device, sent_ms };
            // An error means that the process ends.
            let _ = self.shared.node_news.send(NodeNews::Registered(Box::new(new)));
        }
        let (sealed, lookup) = self.shared.vault.seal_new(instance, || PushBindingRecord {
            app: address.app,
            aor,
            contact,
            registrar,
            proxy,
            provider: push.provider,
            param: push.param,
            prid: PushToken::new(&push.prid),
            refreshes_itself,
            // A later request at another node overrides it, whichever is answered first.
            confirmed_at_ms: sent_ms,
            expires_at,
        });
        self.hand_over.forget_end(instance);
        self.shared.vault.passed_ends().forget(instance);
        if !self.push_bindings.knows(instance) {
            self.shared.metrics.push_registration_begins(account.to_bytes(), instance.to_bytes());
        }
        let fresh = || Row::new(account, lookup, self.shared.quotas.count_registration(&route.server(), source));
        self.push_bindings.addresses.add(instance, account, with_port);
        self.push_bindings.released.remove(&instance);
        let row = self.push_bindings.rows.entry(instance).or_insert_with(fresh);
        (row.wanted, row.left_by, row.is_heard_out) = (Some((sealed, expires_at)), None, false);
        self.tell_store(instance);
    }

    /// Has the store write the wanted record, or erase it: one operation at a time for each registration.
    fn tell_store(&mut self, id: InstanceId) {
        let Some(row) = self.push_bindings.rows.get_mut(&id) else { return };
        row.stale = row.busy;
        if row.busy {
            row.superseded.store(true, Ordering::Relaxed);
            return;
        }
        row.busy = true;
        let superseded = Arc::<AtomicBool>::default();
        row.superseded = superseded.clone();
        let (wanted, lookup, fence, is_unkept) = (row.wanted.clone(), row.lookup, row.fence, row.is_unkept);
        let is_wiped = wanted.is_none() && std::mem::take(&mut row.is_wiped);
        let erased_behind = row.erased_behind.take();
        let (shared, shard) = (self.shared.clone(), self.index);
        tokio::spawn(async move {
            let stored = match wanted {
                Some((sealed, expires_at)) => {
                    let record = RecordToWrite { id, sealed: &sealed, expires_at, lookup: &lookup, fence };
                    put(&shared, shard, record, &superseded, is_unkept).await
                }
                None => {
                    if let Some(kept) = erased_behind {
                        // Nothing is ever sent.
                        let _ = kept.await;
                    }
                    while erasures::erase(&shared.vault, &shared.metrics, id, Some(lookup)).await == Answer::Away {
                        tokio::time::sleep(STORE_AGAIN).await;
                    }
                    if is_wiped {
                        // Since the first round a node may have adopted what the store still had. An error means that all have heard, or died.
                        let _ = timeout(TOLD_WITHIN, tell_wiped(&shared, id, Audience::AllNodes)).await;
                    }
                    Some(Fence::NEW)
                }
            };
            let fence = stored.unwrap_or(fence);
            shared.shards.send(shard, ShardInput::PushBindingStored { id, fence }).await;
            if stored.is_none() {
                let release = Request::Release { id, fence, why: ReleaseReason::Moved };
                shared.shards.send(shard, ShardInput::Request(Box::new(release))).await;
            }
        });
    }

    /// The store has not taken a record, and is asked again. The device gets its answer before that.
    pub(crate) fn on_push_binding_unkept(&mut self, id: InstanceId) {
        self.push_bindings.is_store_away = true;
        if let Some(row) = self.push_bindings.rows.get_mut(&id) {
            row.is_unkept = true;
        }
        self.drive(clock::now(), Input::PushBindingKept(id));
    }

    /// An operation in the store has ended.
    pub(crate) fn on_push_binding_stored(&mut self, id: InstanceId, fence: Fence) {
        self.push_bindings.is_store_away = false;
        // It may be the erasure of an earlier registration.
        if self.push_bindings.rows.get(&id).is_none_or(|row| !row.stale) {
            self.drive(clock::now(), Input::PushBindingKept(id));
        }
        let Some(row) = self.push_bindings.rows.get_mut(&id) else { return };
        (row.fence, row.busy) = (fence, false);
        row.is_unkept &= row.stale;
        if row.stale {
            return self.tell_store(id);
        }
        row.earlier.clear();
        if row.wanted.is_none() {
            self.finish_push_binding(id);
        }
    }

    /// Drops the row of an erased registration, if nobody waits for its receipt or no push for it is under way any more.
    pub(super) fn finish_push_binding(&mut self, id: InstanceId) {
        let has_no_final_push = self.has_no_final_push(id);
        let is_erased = |row: &&mut Row| row.wanted.is_none() && !row.busy;
        let Some(row) = self.push_bindings.rows.get_mut(&id).filter(is_erased) else { return };
        if !row.waiters.is_empty() && !has_no_final_push {
            return self.limit_receipt_wait_of_push_binding(id);
        }
        answer(&mut row.waiters, Erasure::Unmarked);
        self.push_bindings.remove(id);
    }

    fn limit_receipt_wait_of_push_binding(&mut self, id: InstanceId) {
        if let Some(row) = self.push_bindings.rows.get_mut(&id)
            && !std::mem::replace(&mut row.is_heard_out, true)
        {
            self.limit_receipt_wait(id);
        }
    }

    /// An operator ends a registration: nothing is left of it here, and its device gets no more pushes until it registers again. The relay has registered
    /// nothing, and so unregisters nothing.
    pub(crate) fn end_push_binding(&mut self, id: InstanceId, kind: EndKind, waiter: Option<WipeWaiter>) {
        let EndKind::Wiped(reason) = kind else {
            self.leave_push_binding(id, kind);
            return refuse(waiter, Denied::Unknown);
        };
        // A node that the device's Path names may have adopted it, and stops pushing. It is told again when the store has erased the record.
        drop(tell_wiped(&self.shared, id, Audience::AllNodes));
        if let Some(row) = self.push_bindings.rows.get_mut(&id) {
            row.waiters.extend(waiter);
            row.is_wiped = true;
        }
        self.shared.metrics.wipe(reason);
        tracing::info!(event = "passed-wiped", instance = %id, reason = reason.word(), "a registration that passed through is wiped");
        // This ends its calls, which their devices are told.
        self.drive(clock::now(), Input::RemovePushBinding(id));
        if !self.has_no_final_push(id) {
            self.limit_receipt_wait_of_push_binding(id);
        }
        let (shards, shard) = (self.shared.shards.clone(), self.index);
        tokio::spawn(async move {
            tokio::time::sleep(WAIT_FOR_STORE).await;
            shards.send(shard, ShardInput::PushBindingWaited(id)).await;
        });
    }

    /// Another node owns a registration, or has ended it: its device gets no more pushes from here.
    fn leave_push_binding(&mut self, id: InstanceId, kind: EndKind) {
        let Some(row) = self.push_bindings.rows.get(&id) else { return };
        match (row.busy, row.fence) {
            (false, fence) => {
                let is_taken_over = kind == EndKind::HandedOver;
                let why = if is_taken_over { ReleaseReason::TakenOver } else { ReleaseReason::Ended };
                self.release_push_binding(id, fence, why);
            }
            // The write under way is followed by an erasure.
            (true, _) if kind == EndKind::NeverOurs => self.drive(clock::now(), Input::RemovePushBinding(id)),
            // Its outcome shows who owns the record.
            (true, _) => {}
        }
    }

    /// A requester has waited long enough for the store to erase a registration. The store is still asked, as long as this run lives.
    pub(crate) fn on_push_binding_waited(&mut self, id: InstanceId) {
        let is_erased = |row: &Row| row.wanted.is_none() && !row.busy;
        if let Some(row) = self.push_bindings.rows.get_mut(&id).filter(|row| !is_erased(row)) {
            answer(&mut row.waiters, Erasure::Unsure);
        }
    }

    /// Takes in a registration of an earlier run. `false`: it ended before it arrived.
    pub(crate) fn adopt(&mut self, new: KnownPushBinding) -> bool {
        let KnownPushBinding { id, sealed, expires_at, fence, registration, upstream, left_by, .. } = new;
        let (upstream_registrar, server, confirmed_at_ms) = (new.upstream_registrar, new.server, new.confirmed_at_ms);
        let is_here = self.push_bindings.rows.contains_key(&id);
        if is_here || self.hand_over.has_ended_ahead(id) {
            self.shared.upstreams.release(upstream);
            return is_here;
        }
        let lookup = self.opened(id, &sealed, |record| record.push_binding().map(|it| self.shared.vault.lookup_of(it)));
        let Some(lookup) = lookup else {
            self.shared.upstreams.release(upstream);
            return true;
        };
        let place = self.shared.quotas.count_registration(&server, None);
        let aor = Aor::new(&registration.aor);
        let with_port = self.shared.vault.aor_key_with_port(&aor, &registration.registrar);
        let aor = self.shared.vault.aor_key(&aor);
        let row = Row { wanted: Some((sealed, expires_at)), fence, left_by, ..Row::new(aor, lookup, place) };
        if let Some(node) = &row.left_by {
            self.orphaned_bindings.add(clock::now(), node, upstream, id);
        }
        self.push_bindings.addresses.add(id, aor, with_port);
        self.push_bindings.released.remove(&id);
        self.push_bindings.rows.insert(id, row);
        self.shared.stories.recall(id);
        self.shared.metrics.push_registration_begins(aor.to_bytes(), id.to_bytes());
        self.next.push_back(Input::RestorePushBinding(Box::new(RestoredPushBinding {
            registration,
            upstream,
            upstream_registrar,
            confirmed_at_ms,
        })));
        true
    }

    pub(crate) fn on_push_binding_ended(&mut self, id: InstanceId, end: PushBindingEnd) {
        if end == PushBindingEnd::Removed {
            self.forget_trace(id);
        }
        if self.push_bindings.rows.get(&id).is_none_or(|row| !row.is_wiped) {
            self.export_answered(id);
        }
        self.forget_stories(id);
        self.push_bindings.released.remove(&id);
        let goes_on = |row: &&mut Row| row.wanted.is_some() && !row.is_released;
        let Some(row) = self.push_bindings.rows.get_mut(&id).filter(goes_on) else { return };
        let (ended, is_busy, account) = (row.wanted.take(), row.busy, row.aor);
        row.failing = None;
        row.earlier.clear();
        if end == PushBindingEnd::Expired {
            self.shared.metrics.push_registration_runs_out(account.to_bytes(), id.to_bytes());
        } else {
            self.abort_refresh_pushes(id);
            self.drop_pushes(id);
            if let Some((sealed, _)) = ended {
                self.shared.vault.note_passed_end(id, &sealed);
            }
        }
        self.shared.metrics.push_registrations(-1);
        self.shared.metrics.push_registration_ended(passed_end(end));
        tracing::info!(event = "passed-forgotten", instance = %id, end = end.as_str(), "a registration that passed through is forgotten");
        // An expired record leaves the store by itself, and another node may own the registration again by now.
        if end != PushBindingEnd::Expired {
            self.tell_store(id);
            // A node that has released it, and where a call still waits for it, stops pushing.
            let audience = match end {
                PushBindingEnd::Replaced => Audience::LeavingNodes,
                _ => Audience::AllNodes,
            };
            drop(tell_wiped(&self.shared, id, audience));
        } else if !is_busy {
            self.push_bindings.remove(id);
        }
    }

    /// The store has lost a registration, or has it from another node: its device gets no more pushes from here, except for calls that wait here while another
    /// node owns it. The store is left as it is.
    pub(crate) fn release_push_binding(&mut self, id: InstanceId, fence: Fence, why: ReleaseReason) {
        if why == ReleaseReason::Ended && self.push_bindings.released.contains_key(&id) {
            // Its later owner has ended it.
            return self.drive(clock::now(), Input::RemovePushBinding(id));
        }
        let is_as_looked_at = |row: &&mut Row| row.wanted.is_some() && !row.busy && row.fence == fence;
        let Some(row) = self.push_bindings.rows.get_mut(&id).filter(is_as_looked_at) else { return };
        row.is_released = true;
        self.abort_refresh_pushes(id);
        tracing::info!(event = "passed-let-go", instance = %id, "another node has ended a registration that passed through, or has it by now; it is let go of");
        // Its calls end first, because their devices, which are told, are found by its record.
        let end = match why {
            ReleaseReason::Moved => Input::ReleasePushBinding { instance: id, to: NewOwner::Chosen },
            ReleaseReason::TakenOver => Input::ReleasePushBinding { instance: id, to: NewOwner::Successor },
            ReleaseReason::Ended => Input::RemovePushBinding(id),
        };
        self.drive(clock::now(), end);
        let waits = self.endpoint.push_binding_upstream(id).is_some();
        if let Some(sealed) = self.push_bindings.sealed(id).filter(|_| waits).cloned() {
            self.push_bindings.released.insert(id, sealed);
        }
        self.push_bindings.remove(id);
        self.shared.metrics.push_registrations(-1);
        self.shared.metrics.push_registration_ended(PassedEnd::Moved);
    }

    /// Pushes the device of a registration to register again.
    pub(crate) fn refresh(&mut self, id: InstanceId) {
        let Some((app, target)) = self.target_of(id, Event::Renew) else {
            tracing::debug!(event = "passed-not-refreshed", instance = %id, "nothing can ask this device to refresh its registration");
            return;
        };
        // A device in Doze gets it in its next maintenance window: it is useful as long as the registration is valid.
        let life_s =
            self.push_bindings.ends_at(id).unwrap_or_default().saturating_sub(latest_now()).max(REFRESH_LIFE_MIN_S);
        self.send_alert_to(app, target, id, Event::Renew, life_s, AlertContent::default());
    }
}

/// Answers those who wait for an end.
fn answer(waiters: &mut Vec<WipeWaiter>, erasure: Erasure) {
    for waiter in waiters.drain(..) {
        // An error means that nobody waits any more.
        let _ = waiter.send(Ok(WipeDone { reason: WipeReason::Operator, unregistered: false, erasure }));
    }
}

/// Whether another run has a later registration of the same device.
async fn is_outdated(shared: &Shared, id: InstanceId, sealed: &Sealed) -> bool {
    let Ok(Some(stored)) = shared.vault.load(id).await else { return false };
    let confirmed_at_ms = |sealed: &Sealed| {
        let opened = shared.vault.open_record(id, sealed, |record| record.push_binding().map(|it| it.confirmed_at_ms));
        opened.ok().flatten()
    };
    match (confirmed_at_ms(&stored.sealed), confirmed_at_ms(sealed)) {
        // A time in the future is of another clock, and shows nothing.
        (Some(theirs), Some(ours)) => !stored.owned && theirs > ours && theirs <= unix_now_ms(),
        _ => false,
    }
}

/// Writes a record, repeatedly until the store has taken it, it has expired, or it is not wanted any more. Returns the fence of the next write. `None`: the
/// device has registered through another node since, while this node did not reach the store; `has_failed`: it did not, before this write.
async fn put(
    shared: &Shared,
    shard: usize,
    mut record: RecordToWrite<'_>,
    superseded: &AtomicBool,
    mut has_failed: bool,
) -> Option<Fence> {
    let RecordToWrite { id, sealed, expires_at, .. } = record;
    let (mut is_anothers, mut was_gone) = (false, false);
    while confirmed_now() < expires_at && !superseded.load(Ordering::Relaxed) {
        if is_anothers && has_failed && is_outdated(shared, id, sealed).await {
            return None;
        }
        let began = clock::now();
        let written = if is_anothers { shared.vault.take_over(record).await } else { shared.vault.put(record).await };
        match written {
            Ok(placed) => {
                shared.metrics.store_answered(began.elapsed());
                return Some(placed.fence);
            }
            Err(StoreError::Away(_)) => {
                shared.metrics.store_error(StoreOperation::Put);
                if !std::mem::replace(&mut has_failed, true) {
                    shared.shards.send(shard, ShardInput::PushBindingUnkept(id)).await;
                }
                tokio::time::sleep(STORE_AGAIN).await;
            }
            // The device had registered through another node, or an earlier run of this one, and is here now.
            Err(StoreError::NotOwner) => {
                if is_anothers || was_gone {
                    // It changes all the time.
                    tokio::time::sleep(STORE_AGAIN).await;
                }
                is_anothers = true;
            }
            Err(StoreError::Gone) if is_anothers || record.fence != Fence::NEW => {
                (is_anothers, was_gone, record.fence) = (false, true, Fence::NEW);
            }
            Err(error) => {
                tracing::error!(event = "passed-not-kept", instance = %id, %error, "the store did not take a registration");
                return Some(Fence::NEW);
            }
        }
    }
    Some(record.fence)
}

pub(crate) fn contact_of(record: &PushBindingRecord) -> PushContact {
    PushContact { provider: record.provider.clone(), param: record.param.clone(), prid: record.prid.expose().into() }
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    #[test]
    fn what_waits_for_one_that_is_replaced_before_it_is_kept_waits_for_its_successor_and_nobody_for_itself() {
        let id = |number: u128| InstanceId::new(number << 32, ShardTag(1));
        let (mut second, mut third, mut first) =
            (ErasedBehind::default(), ErasedBehind::default(), ErasedBehind::default());
        let mut of_first = second.add(id(1));
        third.take_on(std::mem::take(&mut second), id(3));
        let mut of_second = third.add(id(2));
        second.clear();
        let waits = |of: &mut oneshot::Receiver<()>| of.try_recv() == Err(TryRecvError::Empty);
        assert!(waits(&mut of_first) && waits(&mut of_second));
        // The first one is back in its place.
        first.take_on(std::mem::take(&mut third), id(1));
        assert!(!waits(&mut of_first) && waits(&mut of_second));
        first.clear();
        assert!(!waits(&mut of_second));
    }
}
