//! Calls: expected, waiting for their devices, or just closed.
//!
//! | room | what it holds |
//! | --- | --- |
//! | `expected` | calls that a SIP server has announced, before their INVITE comes |
//! | `invites` | an INVITE, and the devices that it is forked to or that are woken for it |
//! | `at_end` | an INVITE that comes when the process is about to end |
//! | `overtaking` | an INVITE that came before its binding's first REGISTER was answered |
//! | `answers` | later answers of devices and callers, and the end of a call |
//! | `early_dialog` | the dialog that the relay's own provisional responses establish |
//! | `missed` | the devices that have missed a call, and when that is told |
//!
//! A call is for all callable instances of its binding: it is forked to those that are attached, the others are woken, and the first that answers gets it (RFC
//! 3261 §16.7). `crate::edge::call` is its state machine.
//!
//! Invariant: every INVITE that becomes a call ends with exactly one final answer, and with one final [`CallState`](super::CallState) for each of its devices;
//! each of them is woken at most once. A binding has at most [`CALLS_PER_INSTANCE`] expected calls, one of each caller; each ends by its INVITE, or when that
//! is expected no longer.

mod answers;
pub(super) mod at_end;
mod early_dialog;
mod expected;
mod invites;
mod missed;
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
use at_end::AtEnd;
use missed::PendingMissed;
use overtaking::Overtaking;

/// Calls that one instance may have waiting at once; a further one is answered 486, unpushed. A caller has as many of them at most as
/// are left: alone a half, so that one more caller always finds room.
pub const CALLS_PER_INSTANCE: usize = 16;

/// Whether there is room for one more call by a caller who has some of those that wait.
fn is_room(waiting: usize, of_caller: usize) -> bool {
    waiting + of_caller < CALLS_PER_INSTANCE
}

/// A call whose INVITE has not come.
#[derive(Clone, Copy, Debug)]
struct Expected {
    call: CallId,
    /// No other caller was expected at its binding when it was announced, and none has been announced there since.
    alone: bool,
}

/// The calls of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Calls {
    rows: HashMap<CallId, Call>,
    /// The calls that wait for an instance.
    waiting: HashMap<InstanceId, Vec<CallId>>,
    /// The calls that the next INVITEs to a binding are taken for, one of each caller, in the order in which they were announced.
    expected: HashMap<BindingId, Vec<Expected>>,
    /// The calls of a binding whose INVITEs have a mark: one, or those that a server has sent there one after the other. A server forks an INVITE to
    /// many bindings, too, each with calls of its own.
    marked: HashMap<(InviteMark, BindingId), Vec<CallId>>,
    /// INVITEs that wait for their binding's first REGISTER.
    overtaking: Vec<Overtaking>,
    /// The devices that have missed calls which may come again.
    pending_missed: PendingMissed,
    /// Whether a registration has changed since the overtaking INVITEs were looked at.
    pub(super) registration_changed: bool,
    /// The process is about to end: no new INVITE is taken.
    pub(super) refused: Option<AtEnd>,
}

/// The INVITE of a call that has come, and its sender.
struct Arrival {
    invite: Invite,
    caller: Caller,
    /// The caller, as it is counted.
    key: CallerKey,
    timing: EdgeTiming,
    /// How long it waits for its devices.
    wait: Duration,
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
        self.rows.len() + self.waiting.len() + self.marked.len() + self.overtaking.len() + self.pending_missed.len()
    }

    /// Calls whose caller waits for its final answer.
    pub(super) fn open(&self) -> Vec<CallId> {
        self.sorted(|call| !call.is_closed() && !call.is_expected())
    }

    /// The calls that have a deadline, those that are expected among them.
    fn unfinished(&self) -> Vec<CallId> {
        self.sorted(|call| !call.is_closed())
    }

    /// INVITEs that wait for their binding's first REGISTER.
    pub(super) fn overtaking(&self) -> usize {
        self.overtaking.len()
    }

    /// Callers whose calls were missed, which nobody has been told yet.
    pub(super) fn pending_missed(&self) -> usize {
        self.pending_missed.len()
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

    /// Whether an INVITE to these instances of a binding is a copy of one that has come to one of them (RFC 3261 §8.2.2.2), which may be as `late` as this when
    /// that one has been refused and its ACK has not come. The same INVITE to somebody else's devices is a call of its own.
    fn is_merged(
        &self,
        now: Instant,
        (binding, instances): (BindingId, &[InstanceId]),
        mark: InviteMark,
        late: Duration,
        is_acknowledged: impl Fn(ServerId) -> bool,
        current: impl Fn(InstanceId) -> InstanceId,
    ) -> bool {
        let calls = self.marked.get(&(mark, binding)).into_iter().flatten().filter_map(|call| self.rows.get(call));
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

    /// The calls of a binding whose INVITEs have not come, in the order in which they were announced, also after their deadlines.
    fn expected_by(&self, binding: BindingId) -> impl Iterator<Item = &Call> {
        self.expected.get(&binding).into_iter().flatten().filter_map(|row| self.rows.get(&row.call))
    }

    /// The call that an INVITE of this caller to this binding is expected for: the announced call of the same caller, else the call that was
    /// announced first, since a server may name a caller otherwise than the INVITE does. A call that was declined stands for another caller's INVITE
    /// only where no other caller was announced in its time: the INVITE may as well be from a caller that the user would answer.
    fn expected_for(&self, binding: BindingId, caller: CallerKey, is_fresh: impl Fn(&Call) -> bool) -> Option<&Call> {
        let theirs = || self.expected_by(binding).filter(|call| is_fresh(call));
        theirs()
            .find(|call| call.caller() == caller)
            .or_else(|| theirs().find(|call| !call.state().is_final()))
            .or_else(|| theirs().find(|_| self.is_alone(binding)))
    }

    /// The call of this caller that was announced to this binding.
    fn announced_by(&self, binding: BindingId, caller: CallerKey) -> Option<&Call> {
        self.expected_by(binding).find(|call| call.caller() == caller)
    }

    /// Whether one caller alone has been announced to this binding in the time of the call that is expected there.
    fn is_alone(&self, binding: BindingId) -> bool {
        self.expected.get(&binding).is_some_and(|rows| rows.iter().all(|row| row.alone))
    }

    /// Records that a caller was announced to a binding, whether its call is expected there then or not.
    fn note_announced(&mut self, binding: BindingId, caller: CallerKey) {
        let Self { rows, expected, .. } = self;
        for row in expected.get_mut(&binding).into_iter().flatten() {
            row.alone &= rows.get(&row.call).is_some_and(|call| call.caller() == caller);
        }
    }

    /// All calls whose INVITE has not come.
    pub(super) fn all_expected(&self) -> Vec<CallId> {
        self.sorted(Call::is_expected)
    }

    /// Expects one more call; it takes the place of an earlier one of the same caller that the binding still expects.
    fn expect(&mut self, call: Call) {
        let (id, binding) = (call.id(), call.binding());
        let earlier = self.expected_by(binding).find(|other| other.caller() == call.caller()).map(Call::id);
        if let Some(earlier) = earlier {
            self.forget_expected(binding, earlier);
        }
        self.rows.insert(id, call);
        let rows = self.expected.entry(binding).or_default();
        let alone = rows.is_empty();
        rows.push(Expected { call: id, alone });
    }

    /// Expects a call no longer.
    fn forget_expected(&mut self, binding: BindingId, call: CallId) {
        if self.expects_no_more(binding, call) {
            self.rows.remove(&call);
        }
    }

    /// The next INVITE is not taken for this call any more; whether it would have been.
    fn expects_no_more(&mut self, binding: BindingId, call: CallId) -> bool {
        let Some(calls) = self.expected.get_mut(&binding) else { return false };
        let before = calls.len();
        calls.retain(|row| row.call != call);
        let was_expected = calls.len() < before;
        if calls.is_empty() {
            self.expected.remove(&binding);
        }
        was_expected
    }

    /// The INVITE of a call has come, for these instances; what was known of it if it was expected.
    fn arrive(
        &mut self,
        now: Instant,
        id: CallId,
        binding: BindingId,
        instances: &[InstanceId],
        Arrival { invite, caller, key, timing, wait }: Arrival,
    ) -> Option<Announced> {
        let was_expected = self.expects_no_more(binding, id);
        let call = self.rows.entry(id).or_insert_with(|| Call::expected(now, timing, wait, id, binding, key));
        let announced = call.arrive(now, wait, instances, invite, caller);
        if let Some(mark) = call.mark() {
            self.marked.entry((mark, binding)).or_default().push(id);
        }
        for instance in instances {
            self.waiting.entry(*instance).or_default().push(id);
        }
        was_expected.then_some(announced)
    }

    /// The calls that are expected for an instance of this binding.
    pub(super) fn expected_of(&self, binding: BindingId, instance: InstanceId) -> Vec<CallId> {
        let is_for = |call: &&Call| call.instances().any(|it| it == instance);
        self.expected_by(binding).filter(is_for).map(Call::id).collect()
    }

    /// A call that waits for an instance, or is expected for it, goes on for the one that takes its place, which may be of another binding.
    pub(super) fn succeed(
        &mut self,
        earlier: InstanceId,
        successor: InstanceId,
        (binding, later): (BindingId, BindingId),
    ) {
        for call in self.expected_of(binding, earlier) {
            if let Some(call) = self.rows.get_mut(&call) {
                call.succeed(earlier, successor);
            }
        }
        if binding != later
            && let Some(expected) = self.expected.remove(&binding)
        {
            for row in &expected {
                if let Some(call) = self.rows.get_mut(&row.call) {
                    call.rebind(later);
                }
            }
            self.expected.entry(later).or_default().extend(expected);
        }
        let Some(calls) = self.waiting.remove(&earlier) else { return };
        for call in &calls {
            let Some(row) = self.rows.get_mut(call) else { continue };
            row.succeed(earlier, successor);
            if binding != later {
                row.rebind(later);
                let mark = row.mark();
                self.mark_anew(*call, mark, binding, later);
            }
        }
        let theirs = self.waiting.entry(successor).or_default();
        let later: Vec<CallId> = theirs.drain(..).filter(|call| !calls.contains(call)).collect();
        theirs.extend(calls.into_iter().chain(later));
    }

    /// A call that is known by this mark is of another binding.
    fn mark_anew(&mut self, call: CallId, mark: Option<InviteMark>, binding: BindingId, later: BindingId) {
        let Some(mark) = mark else { return };
        self.unmark(call, (mark, binding));
        self.marked.entry((mark, later)).or_default().push(call);
    }

    fn unmark(&mut self, call: CallId, key: (InviteMark, BindingId)) {
        if let Some(calls) = self.marked.get_mut(&key) {
            calls.retain(|other| *other != call);
            if calls.is_empty() {
                self.marked.remove(&key);
            }
        }
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

    /// Forgets a call for which nothing more can come.
    pub(super) fn forget(&mut self, call: CallId) {
        let Some(row) = self.rows.remove(&call) else { return };
        if let Some(mark) = row.mark() {
            self.unmark(call, (mark, row.binding()));
        }
    }

    fn sorted(&self, which: impl Fn(&Call) -> bool) -> Vec<CallId> {
        #[expect(clippy::disallowed_methods, reason = "sorted before anybody sees it")]
        let mut calls: Vec<CallId> = self.rows.iter().filter(|(_, call)| which(call)).map(|(id, _)| *id).collect();
        calls.sort_unstable();
        calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::caller::caller;
    use crate::edge::caller_key::CallerKeys;
    use crate::flow::{Side, Source, Transport};
    use crate::id::ShardTag;
    use crate::message::{Limits, Message};
    use crate::transaction::{Reply, RequestKey, Table, Timing};

    const WAIT: Duration = Duration::from_secs(30);

    fn arrival(now: Instant) -> Arrival {
        let text = "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP p;branch=z9hG4bK1\r\nFrom: <sip:bob@example.com>;tag=1\r\n\
                    To: <sip:a@b>\r\nCall-ID: i\r\nCSeq: 1 INVITE\r\n\r\n";
        let invite = Message::parse(&text.into(), &Limits::default()).unwrap();
        let peer = "192.0.2.1:5060".parse().unwrap();
        let flow = FlowId::Datagram(peer);
        let source = Source { flow, side: Side::Upstream, transport: Transport::Udp, peer, split: false };
        let key = RequestKey::of(&invite, invite.via().as_ref(), source.side);
        let reply = Reply { flow, side: source.side, key: &key };
        let server = Table::<(), ()>::new(1, Timing::default(), false).open(&invite, reply, ()).unwrap();
        let (mark, caller) = (InviteMark::of(&invite), caller(&invite));
        let key = CallerKeys::default().of(&caller.0);
        let timing = EdgeTiming::default();
        let invite = Invite::new(now, timing, server, source, (invite, mark, None), "tag".into());
        Arrival { invite, caller, key, timing, wait: WAIT }
    }

    #[test]
    fn one_invite_to_many_bindings_is_looked_for_among_the_calls_of_its_own() {
        let (now, mut calls, tag) = (Instant::now(), Calls::default(), ShardTag(0));
        let of = |number: u128| {
            let number = (number + 1) << 32;
            (CallId::new(number, tag), BindingId::new(number, tag), InstanceId::new(number, tag))
        };
        for number in 0..1_000 {
            let (call, binding, instance) = of(number);
            calls.arrive(now, call, binding, &[instance], arrival(now));
        }
        #[expect(clippy::disallowed_methods, reason = "the longest of all")]
        let longest = calls.marked.values().map(Vec::len).max();
        assert_eq!(longest, Some(1), "of these each INVITE, and each call that ends, is compared with all");
        let mark = calls.get(of(0).0).and_then(Call::mark).expect("its INVITE has come");
        for number in 0..1_000 {
            let (call, binding, instance) = of(number);
            let is_merged =
                |it: InstanceId| calls.is_merged(now, (binding, &[it]), mark, Duration::ZERO, |_| false, |it| it);
            assert_eq!((is_merged(instance), is_merged(of(1_000).2)), (true, false));
            calls.forget(call);
        }
        assert!(calls.marked.is_empty());
    }
}
