//! The shard's reactions to requests of the use cases.
//!
//! Invariant: the proof in a device's request is verified, in constant time, before anything else of the request is used.

use std::time::{Duration, Instant};

use sip::endpoint::{CallState, Input};
use sip::id::{BindingId, CallId, InstanceId, UpstreamId};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::Shard;
use super::call_pushes::ReconsiderReason;
use super::expected_calls::AnnouncedCall;
use super::wipes::refuse;
use crate::agent::ShardInput;
use crate::agent::request::{
    AtServer, CallDenied, CallRequest, ChangedRecord, Denied, EndKind, FirstAnswer, FirstRegistration, InstanceStatus,
    LeaseExpiry, LeftOpen, NewInstance, Principal, Request, SettlingNews, TestDenied, WipeWaiter, Woken,
};
use crate::agent::tables::calls::Call;
use crate::agent::tables::instances::Row;
use crate::agent::tables::timeline::TimelineEvent;
use crate::clock::{self, Frame, advertised_now, unix_now};
use crate::domain::{InstanceState, story};
use crate::vault::record::{Presence, PushBindingRecord, StoredRecord};
use crate::vault::{Fence, Lookup, Sealed};

/// The interval at which the calls of an instance that another run has taken over are counted, until the last one has ended.
const CALLS_LOOKED_AT: Duration = Duration::from_millis(500);
/// For how many seconds an account may have no answer of its SIP server, which has never accepted it, until further devices are enabled where they were asked
/// for: this node may not reach the server at all.
const UNANSWERED_S: u64 = 60;

impl Shard {
    pub(crate) fn on_request(&mut self, request: Request) {
        // The requester may be gone: an answer that nobody receives is no error.
        match request {
            Request::Bind { new, first } => self.bind(*new, Some(first), None),
            Request::TakeOver { new, settled, reply } => {
                new.into_iter().for_each(|new| self.take_over(new, &settled));
                let _ = reply.send(());
            }
            Request::Stored { id, sealed, fence, vouched, reply } => {
                let _ = reply.send(self.stored(id, sealed, fence, vouched));
            }
            Request::Look { id, who, reply } => {
                let _ = reply.send(self.admit(id, &who).and_then(|()| self.status_of(id)));
            }
            Request::Replace { id, record, reply } => {
                let _ = reply.send(self.replace(id, record));
            }
            Request::End { id, who, kind, reply } => self.end_for(id, &who, kind, reply),
            Request::Silence { id, reply } => {
                self.abort_final_pushes(id);
                let _ = reply.send(());
            }
            Request::Succeed { earlier, successor } => self.succeed(earlier, successor),
            Request::RetryNow { id } => self.drive(clock::now(), Input::RetryNow(id)),
            Request::RegisterAgain { id } => self.drive(clock::now(), Input::RegisterAgain(id)),
            Request::EndAhead { id, kind, reply } => self.end_ahead(id, kind, reply),
            Request::EndPassed { id, sealed, reply } => {
                let ends = self.shared.vault.passed_ends();
                let has_ended = |it: &PushBindingRecord| ends.has_ended(id, it).then_some(());
                match self.opened(id, &sealed, |record| record.push_binding().and_then(has_ended)) {
                    Some(()) => self.end_ahead(id, EndKind::NeverOurs, reply),
                    None => refuse(Some(reply), Denied::Unknown),
                }
            }
            Request::EndLeft { new, kind, reply } => self.end_left(*new, kind, reply),
            Request::Call { id, who, call, request, reply } => {
                let _ = reply.send(self.call(id, &who, call, request));
            }
            Request::ExpectCall { aor, servers, looks: true, reply, .. } => {
                let _ = reply.send(self.expect_call(aor, &servers, None));
            }
            Request::ExpectCall { aor, servers, from, name, requester, reply, .. } => {
                let call = AnnouncedCall { from: &from, name: name.as_deref(), requester: &requester };
                let _ = reply.send(self.expect_call(aor, &servers, Some(call)));
            }
            Request::Calls { id, reply } => {
                let _ = reply.send(self.calls.all_of(id));
            }
            Request::Stories { reply } => {
                self.begin_stories();
                let _ = reply.send(self.stories.all());
            }
            Request::Timeline { id, who, reply } => {
                let _ = reply.send(self.admit(id, &who).map(|()| self.timeline_of(id)));
            }
            Request::Test { id, who, reply } => {
                let admitted = self.admit(id, &who).map_err(TestDenied::Denied);
                let _ = reply.send(admitted.and_then(|()| self.test(id)));
            }
            Request::Trace { id, who, request, reply } => {
                let _ = reply.send(self.trace(id, &who, request));
            }
            Request::List { after, limit, reply } => {
                let _ = reply.send(self.list(after, limit));
            }
            Request::IsInCall { id, reply } => {
                let _ = reply.send(self.is_in_call(id));
            }
            Request::IsRegistered { binding, besides, reply } => {
                let _ = reply.send(self.serves_another(binding, besides));
            }
            Request::OfAccount { aor, reply } => {
                let mut ids = self.instances.of_account(aor);
                ids.extend(self.push_bindings.of_account(aor));
                let _ = reply.send(self.statuses(ids));
            }
            Request::Adopt { new, reply } => {
                let _ = reply.send(self.adopt(*new));
            }
            Request::Release { id, fence, why } => {
                self.path_lookups.doubt(id);
                self.release_push_binding(id, fence, why);
            }
            Request::LeaveToOwner { id, fence, until, record } => self.leave_to_owner(id, fence, until, record),
            // `on_input` does it after every request.
            Request::JudgeClaimed => {}
            Request::LoseTime { lost, for_sure } => self.drive(clock::now(), Input::TimeLost { lost, for_sure }),
            Request::HandOver { woken, reply } => {
                self.leave(woken);
                let _ = reply.send(());
            }
            Request::WokenElsewhere(woken) => self.hand_over.note_woken_elsewhere(&woken),
            Request::TakenOver(ids) => self.hand_over.note_taken(&ids),
            Request::TokenDead { id, token } => self.hear_of_dead_token(id, token),
            Request::Ids(reply) => {
                let _ = reply.send(self.instances.ids_and_whether_registered(unix_now()));
            }
            Request::Owned(reply) => {
                let _ = reply.send(self.owned());
            }
            Request::AtServer { upstreams, reply } => {
                let _ = reply.send(self.at_servers(&upstreams));
            }
            Request::OpenCalls(reply) => {
                let (calls, requests) = (self.endpoint.open_calls(), self.endpoint.open_requests());
                let _ = reply.send(calls + requests + self.endpoint.unacknowledged(clock::now()));
            }
            Request::RefuseCalls { failover, reply } => {
                self.refuses_calls = true;
                self.drive(clock::now(), Input::RefuseCalls(failover));
                let _ = reply.send(());
            }
            Request::EndCalls { failover, reply } => {
                let open = self.endpoint.open_calls() + self.endpoint.expected_calls();
                let (requests, registers) = (self.endpoint.open_requests(), self.endpoint.registers_under_way());
                self.drive(clock::now(), Input::EndCalls(failover));
                let _ = reply.send(LeftOpen { calls: open + self.refuse_what_waits(), requests, registers });
            }
        }
    }

    fn take_over(&mut self, new: NewInstance, settled: &SettlingNews) {
        // The record may have been read before the instance's end.
        let barred = self.shared.vault.tombstones().bars_claimed(new.id, new.fence);
        match barred.or_else(|| self.hand_over.has_ended_ahead(new.id).then_some(None)) {
            Some(lookup) => self.turn_away(new, lookup, settled),
            None => {
                // An instance that this node had ended by itself, and another node had taken, is here again.
                self.shared.vault.tombstones().leave(new.id);
                self.bind(new, None, Some(settled));
            }
        }
    }

    fn end_for(&mut self, id: InstanceId, who: &Principal, kind: EndKind, waiter: Option<WipeWaiter>) {
        match self.admit(id, who) {
            // Another run has the instance, and only that run can confirm its end.
            Ok(()) if matches!(kind, EndKind::Wiped(_)) && self.hand_over.calls_have_ended(id) => {
                self.end_here(id, EndKind::HandedOver, None);
                refuse(waiter, Denied::Unknown);
            }
            Ok(()) => self.end_here(id, kind, waiter),
            Err(denied) => {
                if matches!(who, Principal::Relay) {
                    self.forget_trace(id);
                }
                refuse(waiter, denied);
            }
        }
    }

    fn end_ahead(&mut self, id: InstanceId, kind: EndKind, waiter: WipeWaiter) {
        let admitted = self.admit(id, &Principal::Relay);
        // The requester erases the record.
        if self.is_handed_over() {
            if admitted.is_err() {
                self.hand_over.note_ended_ahead(id);
            }
            // The waiter is answered when nothing of the instance is here any more.
            return self.end_released(id, waiter);
        }
        match admitted {
            Ok(()) => self.end_here(id, kind, Some(waiter)),
            Err(denied) => {
                self.forget_trace(id);
                self.abort_final_pushes(id);
                self.end_calls_of_released(id);
                self.hand_over.note_ended_ahead(id);
                refuse(Some(waiter), denied);
            }
        }
    }

    /// Hands all instances over to other nodes. `woken` is told the calls for which devices were woken lately, and later ones as they come.
    fn leave(&mut self, woken: mpsc::UnboundedSender<Woken>) {
        for call in self.calls.woken(clock::now()) {
            let _ = woken.send(call);
        }
        self.hand_over.leave(woken);
        self.drive(clock::now(), Input::HandOver);
    }

    /// Whether a binding is here for another device than this one, and is registered or may soon be: then one more device is enabled here.
    fn serves_another(&self, binding: BindingId, besides: Option<InstanceId>) -> bool {
        // A binding that is about to be registered removes the Contacts of earlier nodes, also of one that has come back and registers the account for
        // another device.
        let is_registered = self.endpoint.has_its_flow(binding) || self.endpoint.is_taking_over(binding);
        let all = self.endpoint.all_instances(binding);
        // The minute is the account's: a device that has come to it meanwhile begins no other one.
        let unproven = all.iter().filter_map(|id| self.instances.get(*id)).filter(|row| !row.is_proven);
        let longest_s = unproven.map(|row| row.lost_for(advertised_now())).max().unwrap_or_default();
        let serves = |row: &Row| {
            let is_silent = self.shared.silent_servers.is_silent(&self.shared.upstreams, row.upstream);
            let unproven_s = if row.is_proven { 0 } else { longest_s };
            let may_soon_be = || may_soon_be_registered(row.state, row.status, unproven_s);
            !is_silent && (is_registered || row.is_stored && may_soon_be())
        };
        let others = all.into_iter().filter(|id| Some(*id) != besides);
        others.filter_map(|id| self.instances.get(id)).any(serves)
    }

    fn list(&self, after: Option<InstanceId>, limit: usize) -> Vec<InstanceStatus> {
        let mut ids = self.instances.ids_after(after, limit);
        ids.extend(self.push_bindings.ids_after(after, limit));
        ids.sort_unstable();
        ids.truncate(limit);
        self.statuses(ids)
    }

    fn owned(&self) -> Vec<(InstanceId, Fence)> {
        let mut owned = self.instances.owned();
        owned.retain(|(id, _)| !self.hand_over.is_left(*id));
        owned.extend(self.push_bindings.owned());
        owned.sort_unstable();
        owned
    }

    fn at_servers(&self, upstreams: &[UpstreamId]) -> Vec<AtServer> {
        let at_server = |(id, state)| {
            let (binding, row) = (self.endpoint.binding_of_instance(id)?, self.instances.get(id)?);
            let was_registered = row.registered_at != 0 || self.endpoint.was_granted(binding);
            Some(AtServer { id, binding, state, is_refused: row.status >= 300, was_registered })
        };
        self.instances.of_upstreams(upstreams).into_iter().filter_map(at_server).collect()
    }

    /// Releases an instance that its owner ends. `waiter` is told if it is unknown here.
    fn end_released(&mut self, id: InstanceId, waiter: WipeWaiter) {
        if self.push_bindings.knows(id) {
            self.end_push_binding(id, EndKind::NeverOurs, Some(waiter));
        } else if self.instances.get(id).is_some() {
            self.end(id, EndKind::NeverOurs, Some(waiter));
        } else {
            self.abort_final_pushes(id);
            self.end_calls_of_released(id);
            refuse(Some(waiter), Denied::Unknown);
        }
    }

    /// Ends a push binding that another node has taken over and for which a call still waits here: its phone gets no more pushes from this node.
    fn end_calls_of_released(&mut self, id: InstanceId) {
        if self.push_bindings.released(id).is_some() {
            self.drive(clock::now(), Input::RemovePushBinding(id));
        }
    }

    fn end_here(&mut self, id: InstanceId, kind: EndKind, waiter: Option<WipeWaiter>) {
        if self.push_bindings.knows(id) { self.end_push_binding(id, kind, waiter) } else { self.end(id, kind, waiter) }
    }

    /// Ends the waiting calls first, because the instance's new node does not have them. Nothing is unregistered: a SIP server may take the Contact of the
    /// same device at its new node for this one (RFC 5626 §6). The next call of a push binding comes by the Path of its new node.
    fn leave_to_owner(&mut self, id: InstanceId, fence: Fence, until: Instant, record: Option<Sealed>) {
        let is_same = self.instances.get(id).is_none_or(|row| row.fence == fence);
        let waits = self.instances.get(id).is_some() && clock::now() < until && self.endpoint.has_waiting_call(id);
        if !is_same || !waits {
            self.hand_over.calls_have_ended(id);
            if is_same {
                self.end_here(id, EndKind::HandedOver, None);
            }
            return;
        }
        if let Some(record) = record {
            if !self.hand_over.waits_for_calls(id) {
                return;
            }
            // Changes by the app since then, above all of its token, apply to the calls here.
            let opens = self.opened(id, &record, |it| matches!(it, StoredRecord::Lent(_)).then_some(())).is_some();
            let targets = self.targets_of(id);
            if let Some(row) = self.instances.get_mut(id).filter(|_| opens) {
                row.sealed = record;
                self.on_targets_changed(id, &targets);
            }
            self.drive(clock::now(), Input::Taken(id));
        }
        let (shared, shard) = (self.shared.clone(), self.index);
        tokio::spawn(async move {
            sleep(CALLS_LOOKED_AT).await;
            let again = Box::new(Request::LeaveToOwner { id, fence, until, record: None });
            shared.shards.send(shard, ShardInput::Request(again)).await;
        });
    }

    /// Ends an instance that no node serves, without registering it first.
    fn end_left(&mut self, mut new: NewInstance, kind: EndKind, waiter: WipeWaiter) {
        let id = new.id;
        if self.is_handed_over() || self.instances.get(id).is_some() {
            self.shared.upstreams.release(new.binding.upstream);
        } else {
            new.binding.presence = Presence::Foreground;
            self.bind(new, None, None);
        }
        match self.admit(id, &Principal::Relay) {
            Ok(()) => self.end_here(id, kind, Some(waiter)),
            Err(denied) => refuse(Some(waiter), denied),
        }
    }

    /// Turns away an instance that ended before it arrived. Its record is erased, unless this node leaves: then its owner does that.
    fn turn_away(&self, new: NewInstance, lookup: Option<Lookup>, settled: &SettlingNews) {
        tracing::info!(event = "ended-ahead", instance = %new.id, "an instance ended on its way here; it is turned away");
        self.shared.upstreams.release(new.binding.upstream);
        if !self.is_handed_over() {
            self.shared.erasures.later(new.id, lookup);
        }
        // An error means that nobody waits any more.
        let _ = settled.answered.send(FirstAnswer::Settled(new.id));
    }

    fn bind(
        &mut self,
        new: NewInstance,
        first: Option<oneshot::Sender<FirstRegistration>>,
        settled: Option<&SettlingNews>,
    ) {
        if let Some(settled) = settled {
            self.hand_over.settles(new.id, settled.clone());
        }
        if self.instances.get(new.id).is_some() {
            return self.bind_again(new);
        }
        let NewInstance { id, sealed, lease, aor, fence, told_failing, mut binding, place } = new;
        let mut row = Row::new(id, sealed, binding.upstream, fence, lease, aor, place);
        row.is_stored = first.is_none();
        row.is_proven = binding.proven;
        row.first = first.map(Box::new);
        if binding.presence == Presence::Foreground {
            row.state = InstanceState::Foreground;
        }
        self.shared.metrics.instance_enters(row.state);
        if row.is_stored {
            self.shared.stories.recall(id);
        }
        self.instances.insert(row);
        self.instances.set_lease_clock(id, if fence == Fence::NEW { Frame::of_grants() } else { Frame::of_found() });
        if told_failing && binding.presence == Presence::Background {
            self.instances.set_told_lost(id, advertised_now());
        }
        let shared = binding.binding;
        self.awaiting_claim.note_bound(shared);
        binding.same_as = self.twin_of(id, shared);
        self.drive(clock::now(), Input::Bind(Box::new(binding)));
        self.share_registration(id, shared);
        self.note_settled(id);
    }

    /// An instance that is here still comes back from another run, which has changed its record since this one had it, and may have registered it: it is bound
    /// as a new one is, and its calls go on.
    fn bind_again(&mut self, new: NewInstance) {
        let NewInstance { id, sealed, lease, fence, mut binding, .. } = new;
        self.shared.upstreams.release(binding.upstream);
        let targets = self.targets_of(id);
        let Some(row) = self.instances.get_mut(id) else { return };
        let is_newer = fence > row.fence && row.ending.is_none();
        row.fence = row.fence.max(fence);
        if is_newer {
            row.sealed = sealed;
            binding.proven |= row.is_proven;
            let (presence, proven, shared) = (binding.presence, binding.proven, binding.binding);
            self.hand_over.calls_have_ended(id);
            self.instances.set_lease(id, lease, Frame::of_found());
            self.be_present(id, presence);
            if self.instances.get(id).is_some_and(|row| row.state == InstanceState::Registered) {
                self.set_state(id, InstanceState::Registering);
            }
            binding.same_as = self.twin_of(id, shared);
            self.drive(clock::now(), Input::Bind(Box::new(binding)));
            // The run that had it may have removed this node's Contact, whether or not this node has seen that it was taken.
            self.drive(clock::now(), Input::RegisterAgain(id));
            if proven {
                self.be_proven(id);
            }
            self.share_registration(id, shared);
            self.on_targets_changed(id, &targets);
        }
        self.note_settled(id);
    }

    /// Another instance of this binding with the very credentials.
    fn twin_of(&self, id: InstanceId, binding: BindingId) -> Option<InstanceId> {
        let others = self.endpoint.all_instances(binding);
        others.into_iter().find(|other| *other != id && self.have_same_credentials(id, *other))
    }

    /// Ends the wait for a claimed instance: its SIP server has answered, or it does not register. The node from which it was claimed is also told that its
    /// registration has failed, because only that node's Contact is registered.
    pub(super) fn note_settled(&mut self, id: InstanceId) {
        match self.instances.get(id).filter(|row| row.ending.is_none()).map(|row| row.state) {
            Some(InstanceState::Registering) => {}
            Some(InstanceState::Retrying) => self.hand_over.failed(id),
            _ => self.hand_over.settled(id),
        }
    }

    /// A proven instance that joins a registered binding counts as registered at once, unless the Contact of another node still has to be removed.
    fn share_registration(&mut self, id: InstanceId, binding: BindingId) {
        let is_member = self.endpoint.callable_instances(binding).contains(&id) && !self.endpoint.is_replacing(binding);
        let stands_until = self.endpoint.stands_until(binding).filter(|_| is_member);
        let row = self.instances.get_mut(id).filter(|row| row.state != InstanceState::Foreground);
        let Some((row, until)) = row.zip(stands_until) else { return };
        row.status = 200;
        row.set_registered_until(unix_now() + until.saturating_duration_since(clock::now()).as_secs());
        self.set_state(id, InstanceState::Registered);
    }

    fn stored(&mut self, id: InstanceId, sealed: Option<Sealed>, fence: Fence, vouched: bool) -> bool {
        let Some(row) = self.instances.get_mut(id).filter(|row| row.ending.is_none()) else { return false };
        row.is_stored = true;
        row.fence = fence;
        row.sealed = sealed.unwrap_or_else(|| row.sealed.clone());
        if row.is_proven {
            if self.with_record(id, |record| record.proven) == Some(false) {
                // The SIP server has answered while the record was being stored.
                self.note_proven(id);
            }
        } else if vouched {
            self.be_proven(id);
        }
        true
    }

    /// Notes in the record that the SIP server has accepted the credentials, or that another instance vouches for them.
    fn be_proven(&mut self, id: InstanceId) {
        let Some(row) = self.instances.get_mut(id).filter(|row| !row.is_proven) else { return };
        row.is_proven = true;
        self.drive(clock::now(), Input::Vouch(id));
        if let Some(binding) = self.endpoint.binding_of_instance(id) {
            self.share_registration(id, binding);
        }
    }

    /// Notes in the record whether the app is in the foreground.
    fn be_present(&mut self, id: InstanceId, presence: Presence) {
        let Some(row) = self.instances.get_mut(id) else { return };
        match (presence, row.state == InstanceState::Foreground) {
            (Presence::Foreground, false) => {
                self.set_state(id, InstanceState::Foreground);
                self.instances.set_not_lost(id);
                self.note(id, None, TimelineEvent::Foreground);
                self.next.push_back(Input::Suspend(id));
            }
            (Presence::Background, true) => {
                self.set_state(id, InstanceState::Registering);
                self.note(id, None, TimelineEvent::Background);
                self.drive(clock::now(), Input::Resume(id));
                if let Some(binding) = self.endpoint.binding_of_instance(id) {
                    self.share_registration(id, binding);
                }
            }
            (Presence::Foreground, true) | (Presence::Background, false) => {}
        }
    }

    fn replace(&mut self, id: InstanceId, changed: ChangedRecord) -> Result<InstanceStatus, Denied> {
        let ChangedRecord { sealed, lease, was, fence, presence } = changed;
        let targets = self.targets_of(id);
        let row = self.instances.get_mut(id).filter(|row| row.ending.is_none()).ok_or(Denied::Unknown)?;
        row.sealed = sealed;
        row.fence = fence;
        // Since the record was read, a reminder may have been sent, or the end converted to another clock without a renewal.
        let same_end = lease.expires_at == row.expires_at() || was == Some(lease.expires_at);
        let expires_at = if same_end { row.expires_at() } else { lease.expires_at };
        let reminded = if same_end { lease.reminded.max(row.reminded()) } else { lease.reminded };
        let frame = if was.is_some() { Frame::of_grants() } else { Frame::of_found() };
        self.instances.set_lease(id, LeaseExpiry { expires_at, reminded }, frame);
        if let Some(presence) = presence {
            self.be_present(id, presence);
        }
        if presence == Some(Presence::Foreground) || self.with_record(id, |it| it.wake_for.call) == Some(false) {
            self.want_no_calls(id);
        }
        self.on_targets_changed(id, &targets);
        self.status_of(id)
    }

    fn call(
        &mut self,
        id: InstanceId,
        who: &Principal,
        call: CallId,
        request: CallRequest,
    ) -> Result<Call, CallDenied> {
        self.admit(id, who).map_err(CallDenied::Denied)?;
        let known = *self.call_of(id, call).ok_or(CallDenied::UnknownCall)?;
        if let Some(call) = self.calls.get_mut(call, id) {
            (call.sign, call.knows) = (true, true);
        }
        self.reconsider_push(call, id, ReconsiderReason::DeviceCame);
        match request {
            CallRequest::Look => {}
            CallRequest::Decline if known.reported_state() == CallState::Declined => {}
            _ if known.reported_state().is_final() => return Err(CallDenied::Over(known.reported_state())),
            CallRequest::Ring => {
                self.drive(clock::now(), Input::Ring { call, instance: id });
                self.note_device_rings(call, id);
            }
            CallRequest::Decline => {
                self.tell_moment(id, call, story::Moment::DeclinedByApp);
                self.drive(clock::now(), Input::Decline(call));
            }
        }
        Ok(*self.calls.of(id, call).unwrap_or(&known))
    }

    pub(super) fn admit(&self, id: InstanceId, who: &Principal) -> Result<(), Denied> {
        match who {
            Principal::Relay if self.instances.get(id).is_some() || self.push_bindings.knows(id) => Ok(()),
            Principal::Relay => Err(Denied::Unknown),
            Principal::Device(shown) => match self.with_record(id, |record| record.secret == *shown) {
                None => Err(Denied::Unknown),
                Some(false) => Err(Denied::Forbidden),
                Some(true) => Ok(()),
            },
        }
    }

    fn statuses(&self, ids: Vec<InstanceId>) -> Vec<InstanceStatus> {
        ids.into_iter().filter_map(|id| self.status_of(id).ok()).collect()
    }

    fn status_of(&self, id: InstanceId) -> Result<InstanceStatus, Denied> {
        if let Some(passed) = self.push_bindings.status_of(id) {
            return Ok(passed);
        }
        let row = self.instances.get(id).ok_or(Denied::Unknown)?;
        let registered = row.state == InstanceState::Registered;
        Ok(InstanceStatus {
            id,
            sealed: row.sealed.clone(),
            fence: row.fence,
            state: row.state,
            status: Some(row.status).filter(|status| *status != 0),
            registered_until: if registered { row.registered_until() } else { 0 },
            failing_since: row.failing_since(),
            expires_at: row.expires_at(),
            reminded: row.reminded(),
            mailbox: row.activity.as_ref().and_then(|activity| activity.mailbox.clone()),
            is_replacing: self.endpoint.binding_of_instance(id).is_some_and(|it| self.endpoint.is_replacing(it)),
        })
    }
}

/// Whether an account is being registered, or waits for its SIP server to be well again. One that its server refuses may be refused from this node alone, and
/// one that it has never accepted, and not answered for so long, may not reach it from here.
const fn may_soon_be_registered(state: InstanceState, status: u16, unproven_s: u64) -> bool {
    let is_reached = status != 0 || unproven_s < UNANSWERED_S;
    match state {
        InstanceState::Registering => is_reached,
        InstanceState::Retrying => is_reached && matches!(status, 0 | 408 | 429 | 430 | 480 | 500..=599),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_that_a_server_has_never_answered_draws_others_here_for_a_minute() {
        let may = |status, unproven_s| may_soon_be_registered(InstanceState::Retrying, status, unproven_s);
        assert!(may_soon_be_registered(InstanceState::Registering, 0, 0));
        assert!(may(0, 0) && may(0, UNANSWERED_S - 1) && !may(0, UNANSWERED_S));
        assert!(may(503, UNANSWERED_S), "the server is reached");
        assert!(!may(403, 0), "it may be refused from here alone");
    }
}
