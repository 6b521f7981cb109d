//! One call, from its announcement or its INVITE to its final answer, and the devices that it rings.
//!
//! | stage | announced again | INVITE | final answer | deadline | all devices gone |
//! | --- | --- | --- | --- | --- | --- |
//! | – | → Expected: wake the device | → Waiting | – | – | – |
//! | Expected | wake a device that was not | → Waiting with the same identifier; declined before: 603 → – | – | → – | → – |
//! | Waiting | – | – | → Closed | see below | see below |
//! | Closed | – | – | a winner's 2xx passes again | – | – |
//!
//! The next INVITE to a binding is taken for the one that was announced for it: a SIP server that announces a call sends
//! its INVITE as soon as it knows that a device is awake. While a call waits, it is in one of these states:
//!
//! | state | a device attached | device 1xx | device 2xx | device ≥ 300 | device 6xx | CANCEL, or its Expires ran out | deadline |
//! | --- | --- | --- | --- | --- | --- | --- | --- |
//! | Waking | fork | → Ringing | → Answered | this device is out; the last: → Declined | → Declined | 487 → Cancelled | 480 → TimedOut |
//! | Ringing | fork | pass | → Answered | likewise | → Declined | → Cancelled | 408 → TimedOut |
//! | final | – | – | a late 2xx is ended with ACK and BYE | – | – | – | – |
//!
//! Each device has a state of its own: one that declines is out while others ring, and those that did not answer first are `AnsweredElsewhere`.
//! Refusals are kept in [`super::refusals`], and the best goes up when no device is left that may still answer, or at the deadline (RFC 3261 §16.7).
//!
//! A [leg](legs) is the INVITE forked to one flow of a device. A leg whose flow is lost does not end the call while there is time for the
//! device to come back, which may still answer it then.
//!
//! A device that refuses a leg while another one of its legs is Sent may ring by that one: its refusal counts when it has not said so within
//! [`EdgeTiming::first_sign`].
//!
//! When the caller gives up, a device that is there and has said something may still answer: its 200 crosses the CANCEL and wins (RFC 3261 §9.1).
//! For all other devices the call ends at once, and their 200 comes too late.
//!
//! A waiting caller gets a provisional response each [`EdgeTiming::provisional_interval`]: the [last one](provisional)
//! again, or 183.
//!
//! A device that comes at the end of the time gets the INVITE, and time to say that it rings: the deadline is
//! [`EdgeTiming::first_sign`] after that at least. One that says so has `answer_timeout` from then on, whatever the caller has heard before: a push, an
//! app or another device may have rung first. Both end with the INVITE's Expires, and with all the time that a call may take: that of its devices to come, and
//! then `answer_timeout`.
//!
//! | room | what it is |
//! | --- | --- |
//! | `announced`, `invite`, `legs` | the call before its INVITE; the INVITE; its forks to the flows of devices |
//! | `provisional`, `refused` | the last 1xx; the consequences of one device's refusal |
//! | `lost`, `succession` | devices between two connections, and enabled again |
//! | `described` | the call as the shell is told of it |
//! | `lost_time` | time that has passed without this machine |
//!
//! Invariant: the caller gets exactly one final answer; no leg begins after it; each leg is answered or cancelled. A device
//! is woken at most once.

mod announced;
mod described;
pub mod invite;
mod legs;
mod lost;
mod lost_time;
pub mod provisional;
mod refused;
mod succession;

use std::time::{Duration, Instant};

use super::CallState;
use super::caller::Caller;
use super::caller_key::CallerKey;
use super::invite_mark::InviteMark;
use super::replaces::Replaces;
use crate::id::{BindingId, BranchId, CallId, FlowId, InstanceId};
use crate::message::Message;
use crate::timing::EdgeTiming;
use crate::transaction::ServerId;
pub use announced::Announced;
use announced::WakeRequest;
use bytes::Bytes;
pub use invite::Invite;
use legs::{Legs, Phase};
use lost::Lost;
pub use refused::MERGED;
use refused::Refused;

/// A device that the call is for.
#[derive(Debug)]
struct Target {
    instance: InstanceId,
    state: CallState,
    woken: bool,
    attached: bool,
    /// Whether no push reaches the device; it counts only while it is attached.
    unreachable: bool,
    /// Whether the device says that it has the INVITE already (482): a push would tell it nothing.
    has_it: bool,
    /// Whether the device has said that it rings.
    rings: bool,
    /// The refusal that the device has sent by one leg, while it may ring by another one.
    refused: Option<Box<Refused>>,
    /// Whether the device's stack has refused, so that its user knows nothing of the call.
    refused_itself: bool,
    /// The time at which the device is given up, if it is lost.
    lost: Option<Lost>,
}

impl Target {
    fn new(instance: InstanceId) -> Self {
        Self {
            instance,
            state: CallState::Waking,
            woken: false,
            attached: false,
            unreachable: false,
            has_it: false,
            rings: false,
            refused: None,
            refused_itself: false,
            lost: None,
        }
    }
}

/// The consequence of a leg's response for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is to be done.
    Ignore,
    /// Pass this provisional response.
    Pass,
    /// Likewise; the response says of no device that it rings.
    Tell,
    /// Pass this 2xx; cancel the other legs.
    Answer,
    /// A 2xx that comes too late, or from a second device: ACK and BYE it.
    TooLate,
    /// No device is left, or one has refused for all: the best refusal is the call's final answer. Cancel the other legs.
    Fail,
    /// All legs have ended after a CANCEL: 487.
    Terminated,
}

/// How far a call has come.
#[derive(Debug)]
enum Stage {
    /// The SIP server has announced the call; the INVITE has not come.
    Expected,
    /// The caller waits for a final answer.
    Waiting(Box<Invite>),
    /// The caller has it. A winner's 2xx that comes again passes by the INVITE's transaction.
    Closed { server: ServerId },
}

/// One call, from its announcement or its INVITE to its final answer.
#[derive(Debug)]
pub struct Call {
    id: CallId,
    binding: BindingId,
    stage: Stage,
    from: Box<str>,
    name: Option<Box<str>>,
    /// The key by which the caller is counted.
    caller: CallerKey,
    state: CallState,
    targets: Vec<Target>,
    legs: Legs,
    /// Devices whose state has changed since [`Self::take_changes`].
    changes: Vec<(InstanceId, CallState)>,
    /// Devices that have left the call by their own final response since [`Self::take_refusals`], each with its status.
    refusals: Vec<(InstanceId, u16)>,
    timing: EdgeTiming,
    arrived: Instant,
    /// Until when a device may come for its INVITE.
    comes_until: Instant,
    deadline: Instant,
    answered_by: Option<BranchId>,
    mark: Option<InviteMark>,
    replaces: Option<Replaces>,
    /// Devices that it would be for if they had not had too many.
    limited: Vec<InstanceId>,
    /// The request that waits for one of its devices before its INVITE comes.
    asked: WakeRequest,
}

impl Call {
    /// Whether an INVITE of this mark is a copy of this call's that came by another way. It is the server's next try instead when nobody has
    /// answered and the server is done with this one: a hunt group forks one after the other (RFC 3261 §16.6), with the same Call-ID, From tag
    /// and CSeq. It is done when it has cancelled it, when it has acknowledged its final answer (only a transaction that goes on has copies,
    /// §8.2.2.2), and `late` after it came, when its ACK may be lost. A call that found nobody may be tried again at once.
    pub fn is_merged_with(
        &self,
        now: Instant,
        mark: InviteMark,
        late: Duration,
        is_acknowledged: impl FnOnce(ServerId) -> bool,
    ) -> bool {
        if self.mark != Some(mark) {
            return false;
        }
        match (self.state, &self.stage) {
            (CallState::Answered | CallState::AnsweredElsewhere, _) => true,
            (CallState::Cancelled | CallState::TimedOut, _) => false,
            (_, Stage::Closed { server }) => now < self.arrived + late && !is_acknowledged(*server),
            (_, Stage::Expected | Stage::Waiting(_)) => true,
        }
    }

    /// The mark of its INVITE, when that has come.
    pub fn mark(&self) -> Option<InviteMark> {
        self.mark
    }

    /// A call whose INVITE is expected within `wait`; no device is woken for it yet.
    pub fn expected(
        now: Instant,
        timing: EdgeTiming,
        wait: Duration,
        id: CallId,
        binding: BindingId,
        caller: CallerKey,
    ) -> Self {
        Self {
            id,
            binding,
            stage: Stage::Expected,
            from: "".into(),
            name: None,
            caller,
            state: CallState::Waking,
            targets: Vec::new(),
            legs: Legs::default(),
            changes: Vec::new(),
            refusals: Vec::new(),
            timing,
            arrived: now,
            comes_until: now + wait,
            deadline: now + wait,
            answered_by: None,
            mark: None,
            replaces: None,
            limited: Vec::new(),
            asked: WakeRequest { until: now, has_come: false },
        }
    }

    /// The INVITE has come, for these devices, which may take `wait` to come for it.
    pub fn arrive(
        &mut self,
        now: Instant,
        wait: Duration,
        instances: &[InstanceId],
        invite: Invite,
        caller: Caller,
    ) -> Announced {
        let targets = std::mem::take(&mut self.targets);
        let all = |filter: fn(&Target) -> bool| {
            targets.iter().filter(|target| filter(target)).map(|target| target.instance).collect::<Vec<_>>()
        };
        let rang = all(|target| target.state == CallState::Ringing);
        let announced = Announced { woken: all(|target| target.woken), rang, until: self.deadline };
        let woken = |instance| announced.woken.contains(&instance);
        let target = |instance| Target { woken: woken(instance), ..Target::new(instance) };
        self.targets = instances.iter().copied().map(target).collect();
        (self.from, self.name) = caller;
        (self.mark, self.replaces) = (Some(invite.mark), Replaces::of(&invite.message));
        (self.state, self.arrived) = (CallState::Waking, now);
        (self.comes_until, self.deadline) = (now + wait, now + wait);
        self.stage = Stage::Waiting(Box::new(invite));
        announced
    }

    /// The call's identifier, which pushes carry.
    pub fn id(&self) -> CallId {
        self.id
    }

    /// The binding that it came by, or is expected by.
    pub fn binding(&self) -> BindingId {
        self.binding
    }

    /// The INVITE while its caller waits.
    pub fn invite(&self) -> Option<&Invite> {
        match &self.stage {
            Stage::Waiting(invite) => Some(invite),
            Stage::Expected | Stage::Closed { .. } => None,
        }
    }

    /// The INVITE's server transaction, when it has come.
    pub fn server(&self) -> Option<ServerId> {
        match &self.stage {
            Stage::Expected => None,
            Stage::Waiting(invite) => Some(invite.server),
            Stage::Closed { server } => Some(*server),
        }
    }

    /// The key by which the caller is counted.
    pub fn caller(&self) -> CallerKey {
        self.caller
    }

    /// Counts the call for this caller; these devices have had too many calls, and do not get this one.
    pub fn limit(&mut self, caller: CallerKey, instances: Vec<InstanceId>) {
        (self.caller, self.limited) = (caller, instances);
    }

    /// Takes the devices that did not get the call because they have had too many.
    pub fn take_limited(&mut self) -> Vec<InstanceId> {
        std::mem::take(&mut self.limited)
    }

    /// Whether this device was woken.
    pub fn has_woken(&self, instance: InstanceId) -> bool {
        self.targets.iter().any(|target| target.instance == instance && target.woken)
    }

    /// Until when it waits.
    pub fn until(&self) -> Instant {
        self.deadline
    }

    /// How the call stands, as its caller sees it.
    pub fn state(&self) -> CallState {
        self.state
    }

    /// How it stands for one of its devices.
    pub fn state_of(&self, instance: InstanceId) -> Option<CallState> {
        self.targets.iter().find(|target| target.instance == instance).map(|target| target.state)
    }

    /// The devices that it is for, or was.
    pub fn instances(&self) -> impl Iterator<Item = InstanceId> {
        self.targets.iter().map(|target| target.instance)
    }

    /// The devices whose state has changed, since this was asked last.
    pub fn take_changes(&mut self) -> Vec<(InstanceId, CallState)> {
        std::mem::take(&mut self.changes)
    }

    /// Whether a device shall be woken now; true once, and not while what it has refused may count. One that seemed to be there has still to come.
    pub fn wake(&mut self, instance: InstanceId) -> bool {
        let waits = self.open(instance).filter(|target| target.refused.is_none() && !target.woken);
        waits.map(|target| (target.woken, target.attached) = (true, false)).is_some()
    }

    /// Waits for its devices until this moment at most.
    pub fn wait_until(&mut self, deadline: Instant) {
        self.deadline = self.deadline.min(deadline);
    }

    /// A device has come: the time since the INVITE; `Some` once, and once more when it was woken although it seemed to be there.
    pub fn note_attached(&mut self, now: Instant, instance: InstanceId) -> Option<Duration> {
        let target = self.targets.iter_mut().find(|target| target.instance == instance)?;
        target.unreachable = false;
        (!std::mem::replace(&mut target.attached, true)).then(|| now.saturating_duration_since(self.arrived))
    }

    /// Whether to fork the call to a device by this flow: it waits for the device, which has refused nothing that may count, and was not forked
    /// to it there before.
    pub fn wants(&mut self, instance: InstanceId, flow: FlowId) -> bool {
        !self.legs.has_been_on(instance, flow) && self.open(instance).is_some_and(|target| target.refused.is_none())
    }

    /// Notes a new leg. The legs to cancel: the oldest of a device of many connections that has said nothing.
    pub fn forked(&mut self, branch: BranchId, instance: InstanceId, flow: FlowId) -> Vec<BranchId> {
        self.legs.begin(branch, instance, flow)
    }

    /// A leg has begun: it has [`EdgeTiming::first_sign`] to ring or be answered, at most until `longest` after the call came.
    pub fn wait_for_sign(&mut self, now: Instant, longest: Duration) {
        self.wait_longer((now + self.timing.first_sign).min(self.arrived + longest));
    }

    /// A device has come by this flow: its legs that it answers by it from now on.
    pub fn on_flow_found(&mut self, instance: InstanceId, flow: FlowId) -> Vec<BranchId> {
        self.legs.follow(instance, flow)
    }

    /// The device of a leg is by this flow, whether the call waits for the leg or not: what it says of it comes by that.
    pub fn turn_leg(&mut self, branch: BranchId, flow: FlowId) {
        self.legs.turn(branch, flow);
    }

    /// A device has said that a leg is a copy: the earlier ones, of which it has one.
    pub fn confirmed_by(&mut self, branch: BranchId) -> Vec<BranchId> {
        self.legs.confirm_before(branch)
    }

    /// The flow that a leg began on, and that by which its device is.
    pub fn flows_of(&self, branch: BranchId) -> Vec<FlowId> {
        self.legs.flows_of(branch)
    }

    /// Whether a leg may be answered by this flow.
    pub fn goes_by(&self, branch: BranchId, flow: FlowId) -> bool {
        self.legs.go_by(branch, flow)
    }

    /// A device rings by a leg: its earlier ones, which count as ended from now on.
    pub fn replaced_by(&mut self, branch: BranchId) -> Vec<BranchId> {
        self.legs.end_before(branch)
    }

    /// A device is not by this flow any more, which may have ended: what that means for the caller. `None`: nothing was there.
    pub fn on_flow_left(&mut self, instance: InstanceId, flow: FlowId) -> Option<Outcome> {
        self.legs.leave(instance, flow).then(|| self.after_a_loss())
    }

    /// When [`Self::on_deadline`], [`Self::silent`] or [`Self::settle_refusal`] must be asked; `None` when the caller has its answer.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        match self.stage {
            Stage::Expected => return Some(self.deadline),
            Stage::Waiting(_) => {}
            Stage::Closed { .. } => return None,
        }
        let silence = self.arrived + self.timing.no_response;
        let waits = self.targets.iter().any(|target| !target.woken && !target.state.is_final());
        let next = if !waits || silence <= now { self.deadline } else { self.deadline.min(silence) };
        let next = [self.refusal_due(), self.lost_due()].into_iter().flatten().fold(next, Instant::min);
        // A caller that has given up gets no more provisional responses, and waits for the end alone.
        let repeat_at = self.invite()?.last_provisional.repeat_at().filter(|_| !self.state.is_final());
        Some(repeat_at.map_or(next, |at| at.min(next)))
    }

    /// The devices that have left the INVITE without any response for [`EdgeTiming::no_response`], and were not woken.
    pub fn silent(&self, now: Instant) -> Vec<InstanceId> {
        let due = self.arrived + self.timing.no_response <= now;
        let alive = |instance| self.legs.any_alive_of(instance);
        let says_nothing = |target: &&Target| !target.has_it && target.refused.is_none() && !alive(target.instance);
        let silent = self.targets.iter().filter(|target| due && !target.woken).filter(says_nothing);
        silent.map(|target| target.instance).collect()
    }

    /// The device that answered.
    pub fn answered_by(&self) -> Option<InstanceId> {
        let answered = self.targets.iter().find(|target| target.state == CallState::Answered);
        answered.map(|target| target.instance)
    }

    /// A device, or its push service, says that it will ring; whether the caller shall hear it now.
    pub fn ring(&mut self, instance: InstanceId) -> bool {
        let Some(target) = self.open(instance) else { return false };
        if target.state == CallState::Waking {
            target.state = CallState::Ringing;
            self.changes.push((instance, CallState::Ringing));
        }
        let first = self.state == CallState::Waking;
        self.state = CallState::Ringing;
        first
    }

    /// The device itself rings, whatever the caller has heard before: told once.
    fn device_rings(&mut self, instance: InstanceId) {
        let Some(target) = self.targets.iter_mut().find(|target| target.instance == instance && !target.rings) else {
            return;
        };
        target.rings = true;
        if target.state == CallState::Ringing {
            self.changes.push((instance, CallState::Ringing));
        }
    }

    /// A response on a leg. `answer_wait`: how long a ringing device may take from now on.
    pub fn on_response(
        &mut self,
        now: Instant,
        branch: BranchId,
        response: &Message,
        answer_wait: Duration,
    ) -> Outcome {
        let Some(leg) = self.legs.get_mut(branch) else { return Outcome::Ignore };
        let (instance, status) = (leg.instance, response.status().unwrap_or(500));
        match status {
            // 199: an early dialog of something behind the device has ended (RFC 6228), and nobody rings by that.
            ..=100 | 199 => {
                leg.phase = if leg.phase == Phase::Sent { Phase::Alive } else { leg.phase };
                self.forget_refusal(instance);
                let tells = status == 199 && !self.is_closed() && !self.state.is_final();
                if tells { Outcome::Tell } else { Outcome::Ignore }
            }
            101..199 => {
                let begins = matches!(leg.phase, Phase::Sent | Phase::Alive);
                leg.phase = if begins { Phase::Rings } else { leg.phase };
                if self.is_closed() || self.state.is_final() {
                    return Outcome::Ignore;
                }
                self.state = CallState::Ringing;
                self.forget_refusal(instance);
                self.ring(instance);
                self.device_rings(instance);
                if begins {
                    self.wait_longer(now.min(self.comes_until) + answer_wait);
                }
                Outcome::Pass
            }
            200..300 => self.on_answer(branch),
            _ => {
                let (again, is_repeated) = (leg.phase == Phase::Ended, leg.is_repeated());
                leg.phase = Phase::Ended;
                if again || self.is_closed() {
                    return Outcome::Ignore;
                }
                self.on_refusal(now, instance, response, is_repeated)
            }
        }
    }

    /// A leg's flow is lost, or the device never answered at all.
    pub fn on_leg_lost(&mut self, branch: BranchId) -> Outcome {
        if let Some(leg) = self.legs.get_mut(branch) {
            leg.phase = Phase::Ended;
        }
        self.after_a_loss()
    }

    /// The device that a leg leads to.
    pub fn instance_of(&self, branch: BranchId) -> Option<InstanceId> {
        self.legs.get(branch).map(|leg| leg.instance)
    }

    /// Whether a device's leg may still be answered where the device is.
    pub fn has_live_leg(&self, instance: InstanceId) -> bool {
        self.legs.any_live_of(instance)
    }

    /// Whether this device has said something to a leg that it may still answer where it is.
    pub fn is_heard_by(&self, instance: InstanceId) -> bool {
        self.legs.any_alive_of(instance)
    }

    /// No push reaches this device; whether nobody is left that may answer.
    pub fn give_up(&mut self, instance: InstanceId) -> bool {
        if self.has_live_leg(instance) {
            return false;
        }
        match self.open(instance) {
            Some(target) => target.unreachable = true,
            None => return false,
        }
        !self.may_be_answered()
    }

    /// A device has nothing to do with the call any more: the legs to cancel, and what that means for the caller.
    pub fn drop_target(&mut self, now: Instant, instance: InstanceId) -> (Vec<BranchId>, Outcome) {
        let legs = self.legs.end(|leg| leg.instance == instance);
        let Some(target) = self.open(instance) else { return (legs, self.after_a_loss()) };
        target.state = CallState::TimedOut;
        self.changes.push((instance, CallState::TimedOut));
        self.forget_provisional(instance);
        (legs, if self.goes_on_without(now) { Outcome::Ignore } else { Outcome::Fail })
    }

    /// Ends it by a CANCEL, whose reason is `state`: the legs to cancel, and whether to answer 487 at once, for none of them is alive.
    pub fn cancel(&mut self, now: Instant, state: CallState) -> (Vec<BranchId>, bool) {
        if self.is_closed() || self.state.is_final() {
            return (Vec::new(), false);
        }
        self.state = state;
        self.deadline = now + self.timing.cancel;
        for target in self.targets.iter_mut().filter(|it| !it.state.is_final() && !self.legs.any_alive_of(it.instance))
        {
            target.state = self.state;
            self.changes.push((target.instance, self.state));
        }
        (self.legs.unanswered(), !self.legs.any_alive())
    }

    /// The devices that may still answer a call whose caller has given up.
    pub fn crossing(&self) -> Vec<InstanceId> {
        let left = self.targets.iter().filter(|target| !target.state.is_final() && !self.is_closed());
        left.map(|target| target.instance).collect()
    }

    /// Ends the call for a reason of the relay's own: the legs to cancel. `None` when it has ended before.
    pub fn end(&mut self, state: CallState) -> Option<Vec<BranchId>> {
        if self.is_closed() || self.state.is_final() {
            return None;
        }
        self.state = state;
        Some(self.legs.end(|_| true))
    }

    /// Whether its caller waits no longer by the INVITE's own Expires: the same as its CANCEL.
    pub fn has_expired(&self, now: Instant) -> bool {
        !self.state.is_final() && self.invite().is_some_and(|invite| invite.has_expired(now))
    }

    /// Whether the deadline has come, and then the status of the answer: 408 when a device rang, 480 when none came, 487
    /// when the caller had given up.
    pub fn on_deadline(&self, now: Instant) -> Option<u16> {
        let alive = self.legs.any_alive();
        match self.state {
            _ if self.is_closed() || self.deadline > now => None,
            CallState::Cancelled | CallState::AnsweredElsewhere | CallState::Declined => Some(487),
            CallState::Waking | CallState::Ringing => Some(if alive { 408 } else { 480 }),
            _ => None,
        }
    }

    /// The best refusal and its status, unless the relay's own answer with the status `own` is better (RFC 3261 §16.7.6).
    pub fn best_refusal(&self, own: Option<u16>) -> Option<(u16, Bytes)> {
        let invite = self.invite()?;
        invite.refusals.best(own, &invite.message, &invite.tag)
    }

    /// The caller has its final answer; each device that was not out before is told how it ended for it. The legs to cancel: all that may still be
    /// answered but the winner's.
    pub fn close(&mut self) -> Vec<BranchId> {
        let answered_by = self.answered_by;
        let legs = self.legs.end(|leg| Some(leg.branch) != answered_by);
        let winner = self.answered_by.and_then(|branch| self.instance_of(branch));
        if !self.state.is_final() {
            self.end_refused();
        }
        let rest = if self.state == CallState::Answered { CallState::AnsweredElsewhere } else { self.state };
        for target in self.targets.iter_mut().filter(|target| !target.state.is_final()) {
            target.state = if winner == Some(target.instance) { CallState::Answered } else { rest };
            self.changes.push((target.instance, target.state));
        }
        // A call is remembered for a while: what was said in it is not.
        self.targets.iter_mut().for_each(|target| target.refused = None);
        if let Some(server) = self.server() {
            self.stage = Stage::Closed { server };
        }
        legs
    }

    /// Whether the caller has its final answer.
    pub fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed { .. })
    }

    /// The other legs that may still be answered; they count as ended from now on. First those of the same device.
    pub fn others(&mut self, branch: BranchId) -> (Vec<BranchId>, Vec<BranchId>) {
        let own = self.legs.end_beside(branch);
        (own, self.legs.end(|leg| leg.branch != branch))
    }

    fn open(&mut self, instance: InstanceId) -> Option<&mut Target> {
        if self.is_closed() || self.state.is_final() {
            return None;
        }
        self.targets.iter_mut().find(|target| target.instance == instance && !target.state.is_final())
    }

    /// Whether a device is left that may still answer.
    fn may_be_answered(&self) -> bool {
        let open = self.targets.iter().filter(|target| !target.state.is_final());
        let mut left = open.filter(|target| !target.unreachable || self.has_live_leg(target.instance));
        left.next().is_some()
    }

    /// Waits until this moment at least, unless its Expires ends before.
    fn wait_longer(&mut self, until: Instant) {
        let until = self.invite().map_or(until, |invite| invite.limit(until));
        self.deadline = self.deadline.max(until);
    }

    fn after_a_loss(&self) -> Outcome {
        if self.state.is_given_up() && !self.is_closed() && !self.legs.any_alive() {
            Outcome::Terminated
        } else {
            Outcome::Ignore
        }
    }

    fn on_answer(&mut self, branch: BranchId) -> Outcome {
        match self.answered_by {
            Some(winner) if winner == branch => Outcome::Answer,
            Some(_) => Outcome::TooLate,
            None if self.is_closed() || self.is_given_up_for(branch) => Outcome::TooLate,
            // The caller's CANCEL and the device's 200 crossed: the 200 wins (RFC 3261 §9.1).
            None => {
                self.answered_by = Some(branch);
                self.state = CallState::Answered;
                Outcome::Answer
            }
        }
    }

    /// Whether the caller has given up, and waits for this leg's device no longer.
    fn is_given_up_for(&self, branch: BranchId) -> bool {
        let state = self.instance_of(branch).and_then(|instance| self.state_of(instance));
        self.state.is_given_up() && state.is_none_or(CallState::is_final)
    }

    /// No device is left that may answer, and one has refused: a device that no push reached has only missed the call.
    fn end_refused(&mut self) {
        self.state = CallState::Declined;
        for target in self.targets.iter_mut().filter(|target| !target.state.is_final()) {
            target.state = CallState::TimedOut;
            self.changes.push((target.instance, CallState::TimedOut));
        }
    }
}

#[cfg(test)]
mod tests;
