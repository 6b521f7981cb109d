//! Calls: expected, waiting for their devices, or just closed.
//!
//! | room | what it holds |
//! | --- | --- |
//! | `expected` | calls that a SIP server has announced, before their INVITE comes |
//! | `invites` | an INVITE, and the devices that it is forked to or that are woken for it |
//! | `overtaking` | an INVITE that came before its binding's first REGISTER was answered |
//! | `answers` | what devices and callers say afterwards, and how a call ends |
//!
//! A call is for all instances of its binding that are callable: it is forked to those that are attached, the others are
//! woken, and the first that answers has it (RFC 3261 §16.7). Its machine is `crate::edge::call`.
//!
//! Invariant: every INVITE that becomes a call ends with exactly one final answer, and with one final
//! [`CallState`](super::CallState) for each of its devices; each of them is woken at most once. A binding has at most one
//! expected call; it ends by its INVITE or at its deadline.

mod answers;
mod expected;
mod invites;
pub mod overtaking;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::edge::call::{Announced, Call, Invite};
use crate::edge::caller::Caller;
use crate::edge::caller_key::CallerKey;
use crate::edge::invite_mark::InviteMark;
use crate::id::{BindingId, BranchId, CallId, FlowId, InstanceId};
use crate::timing::EdgeTiming;
use crate::transaction::ServerId;
use overtaking::Overtaking;

/// Calls that one instance may have waiting at once; a further one is answered 486, unpushed. A caller has as many of them at most as
/// are left: alone a half, so that one more caller always finds room.
pub const CALLS_PER_INSTANCE: usize = 16;

/// Whether there is room for one more call by a caller who has some of those that wait.
fn is_room(waiting: usize, of_caller: usize) -> bool {
    waiting + of_caller < CALLS_PER_INSTANCE
}

/// The calls of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Calls {
    rows: HashMap<CallId, Call>,
    /// The calls that wait for an instance.
    waiting: HashMap<InstanceId, Vec<CallId>>,
    /// The call that the next INVITE to a binding is taken for.
    expected: HashMap<BindingId, CallId>,
    /// The calls whose INVITEs have a mark: one, or one for each binding that a server has forked it to.
    marked: HashMap<InviteMark, Vec<CallId>>,
    /// INVITEs that wait for their binding's first REGISTER.
    overtaking: Vec<Overtaking>,
    /// A registration has changed since they were looked at.
    pub(super) registration_changed: bool,
}

impl Calls {
    pub(super) fn get(&self, call: CallId) -> Option<&Call> {
        self.rows.get(&call)
    }

    fn get_mut(&mut self, call: CallId) -> Option<&mut Call> {
        self.rows.get_mut(&call)
    }

    /// Rows of all tables, for counts.
    pub(super) fn len(&self) -> usize {
        self.rows.len() + self.waiting.len() + self.marked.len() + self.overtaking.len()
    }

    /// Calls whose caller waits for its final answer.
    pub(super) fn open(&self) -> Vec<CallId> {
        self.sorted(|call| !call.is_closed() && !call.is_expected())
    }

    /// The calls that wait for an instance, in the order in which they came.
    pub(super) fn waiting_for(&self, instance: InstanceId) -> Vec<CallId> {
        self.waiting.get(&instance).cloned().unwrap_or_default()
    }

    /// Whether a call waits for a device, and was not forked to it by this flow.
    pub(super) fn wants(&mut self, call: CallId, instance: InstanceId, flow: FlowId) -> bool {
        self.rows.get_mut(&call).is_some_and(|call| call.wants(instance, flow))
    }

    /// The device of a call's leg is by this flow.
    pub(super) fn turn_leg(&mut self, call: CallId, branch: BranchId, flow: FlowId) {
        if let Some(row) = self.rows.get_mut(&call) {
            row.turn_leg(branch, flow);
        }
    }

    /// Whether an INVITE to these instances is a copy of one that has come to one of them (RFC 3261 §8.2.2.2), which may be as `late` as this when
    /// that one has been refused and its ACK has not come. The same INVITE to somebody else's devices is a call of its own.
    fn is_merged(
        &self,
        now: Instant,
        instances: &[InstanceId],
        mark: InviteMark,
        late: Duration,
        is_acknowledged: impl Fn(ServerId) -> bool,
        current: impl Fn(InstanceId) -> InstanceId,
    ) -> bool {
        let calls = self.marked.get(&mark).into_iter().flatten().filter_map(|call| self.rows.get(call));
        calls
            .filter(|call| call.is_merged_with(now, mark, late, &is_acknowledged))
            .any(|call| call.instances().any(|it| instances.contains(&current(it))))
    }

    /// Whether an instance has as many calls as it may have, or as this caller may.
    fn is_busy(&self, instance: InstanceId, caller: CallerKey) -> bool {
        let Some(calls) = self.waiting.get(&instance) else { return false };
        let rows = calls.iter().filter_map(|call| self.rows.get(call));
        !is_room(calls.len(), rows.filter(|row| row.caller() == caller).count())
    }

    /// The call that an INVITE to this binding is expected for.
    fn expected_for(&self, now: Instant, binding: BindingId) -> Option<&Call> {
        self.rows.get(self.expected.get(&binding)?).filter(|call| call.until() > now)
    }

    /// The call of a binding whose INVITE has not come, also after its deadline.
    fn expected_by(&mut self, binding: BindingId) -> Option<&mut Call> {
        self.rows.get_mut(self.expected.get(&binding)?)
    }

    /// All calls whose INVITE has not come.
    fn all_expected(&self) -> Vec<CallId> {
        self.sorted(Call::is_expected)
    }

    /// Expects one more call; it takes the place of an earlier one that the binding still expects.
    fn expect(&mut self, call: Call) {
        let (id, binding) = (call.id(), call.binding());
        self.rows.insert(id, call);
        if let Some(earlier) = self.expected.insert(binding, id) {
            self.rows.remove(&earlier);
        }
    }

    /// Expects a call no longer.
    fn forget_expected(&mut self, binding: BindingId) {
        if let Some(call) = self.expected.remove(&binding) {
            self.rows.remove(&call);
        }
    }

    /// The INVITE of a call has come, for these instances; what was known of it if it was expected.
    fn arrive(
        &mut self,
        now: Instant,
        (timing, wait): (EdgeTiming, Duration),
        id: CallId,
        binding: BindingId,
        instances: &[InstanceId],
        (invite, caller, key): (Invite, Caller, CallerKey),
    ) -> Option<Announced> {
        let was_expected = self.expected.get(&binding) == Some(&id);
        if was_expected {
            self.expected.remove(&binding);
        }
        let call = self.rows.entry(id).or_insert_with(|| Call::expected(now, timing, wait, id, binding, key));
        let announced = call.arrive(now, wait, instances, (invite, caller));
        if let Some(mark) = call.mark() {
            self.marked.entry(mark).or_default().push(id);
        }
        for instance in instances {
            self.waiting.entry(*instance).or_default().push(id);
        }
        was_expected.then_some(announced)
    }

    /// The call that is expected for an instance of this binding.
    pub(super) fn expected_of(&self, binding: BindingId, instance: InstanceId) -> Option<CallId> {
        let call = self.rows.get(self.expected.get(&binding)?)?;
        call.has_woken(instance).then(|| call.id())
    }

    /// What waits for an instance, or is expected for it, goes on for the one that takes its place.
    pub(super) fn succeed(&mut self, earlier: InstanceId, successor: InstanceId, binding: BindingId) {
        if let Some(call) = self.expected_by(binding).filter(|call| call.has_woken(earlier)) {
            call.succeed(earlier, successor);
        }
        let Some(calls) = self.waiting.remove(&earlier) else { return };
        for call in &calls {
            if let Some(row) = self.rows.get_mut(call) {
                row.succeed(earlier, successor);
            }
        }
        let theirs = self.waiting.entry(successor).or_default();
        let later: Vec<CallId> = theirs.drain(..).filter(|call| !calls.contains(call)).collect();
        theirs.extend(calls.into_iter().chain(later));
    }

    /// A call waits for an instance no longer.
    fn leave(&mut self, instance: InstanceId, call: CallId) {
        if let Some(calls) = self.waiting.get_mut(&instance) {
            calls.retain(|other| *other != call);
            if calls.is_empty() {
                self.waiting.remove(&instance);
            }
        }
    }

    /// Nothing more can come for a call.
    pub(super) fn forget(&mut self, call: CallId) {
        let Some(mark) = self.rows.remove(&call).and_then(|row| row.mark()) else { return };
        if let Some(calls) = self.marked.get_mut(&mark) {
            calls.retain(|other| *other != call);
            if calls.is_empty() {
                self.marked.remove(&mark);
            }
        }
    }

    fn sorted(&self, which: impl Fn(&Call) -> bool) -> Vec<CallId> {
        #[expect(clippy::disallowed_methods, reason = "sorted before anybody sees it")]
        let mut calls: Vec<CallId> = self.rows.iter().filter(|(_, call)| which(call)).map(|(id, _)| *id).collect();
        calls.sort_unstable();
        calls
    }
}
