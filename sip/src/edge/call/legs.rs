//! The legs of a call: its INVITE on the flows of its devices.
//!
//! | a leg | response 100 | another 1xx | response ≥ 200 | its device is by that flow no more | the device comes by another flow |
//! | --- | --- | --- | --- | --- | --- |
//! | Sent | → Alive | → Rings; earlier legs of the device → Ended | → Ended; by 482 earlier legs of the device that are Sent → Alive | is adrift | follows it; beside it begins another leg |
//! | Alive | – | likewise | likewise | is adrift | likewise |
//! | Rings | – | earlier legs of the device → Ended | likewise | is adrift | likewise |
//! | Ended | – | – | – | – | – |
//!
//! A phone whose connection breaks while it rings may ring on, and answers by its next connection; or it has let the call go with the
//! connection, or has started again. Nobody can tell which. So it gets the INVITE again, as a leg of its own: a phone that has
//! it takes this for a copy (482 of RFC 3261 §8.2.2.2, or 486), and its earlier leg is the one that counts; from one that rings by it
//! the earlier leg is taken away. A mere retransmission, with the branch of the earlier leg, would say the same in a simpler way
//! (§17.2.3), but Linphone, as of 5.1, crashes on one that comes by another connection.
//!
//! What a phone has refused in the moment in which its connection broke is lost, and by a stream nothing repeats it (§17.2.1: Timer G is for datagrams). So the
//! earlier leg is repeated, with its branch, once the phone has called the next one a copy: a phone that rings on says so again, one that has
//! refused says that again, and one that calls the repetition a copy, too, has no transaction by which it could answer: it is out. Linphone is spared.
//!
//! A leg of which nothing was heard is no other: the phone may ring by it, and its 180 be lost with the connection. That it calls the next leg a
//! copy says that it has the earlier one, as a 100 would.
//!
//! Nor can anybody tell whether the earlier connection has broken: a phone may have opened the next one beside it, or be two, with one secret.
//! So a leg is answered where it began (§18.2.2) as well as where its device is, and its CANCEL goes to both. Of one of which nothing was heard the CANCEL
//! goes to the device's next flow, when the call is over for it: see [`transaction`](crate::transaction).
//!
//! Invariant: a flow gets at most one INVITE of a call for each device. At most [`UNHEARD_MAX`] legs of a device are without any response.

use crate::id::{BranchId, FlowId, InstanceId};

/// Legs of one device that may be Sent at once: connections that it has changed before it said anything by any of them. With a further one the oldest
/// is cancelled.
const UNHEARD_MAX: usize = 4;

/// The INVITE on one flow of a device.
#[derive(Debug)]
pub(super) struct Leg {
    /// The client transaction.
    pub(super) branch: BranchId,
    pub(super) instance: InstanceId,
    /// The device's flow that it began on.
    begun_on: FlowId,
    /// The flow by which the device is attached now, and may answer as well.
    flow: FlowId,
    pub(super) phase: Phase,
    /// Whether the flow has ended, or the device is not attached by it.
    adrift: bool,
    /// The flow by which it was repeated last.
    repeated_on: Option<FlowId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No response yet.
    Sent,
    /// The device has it: it has said 100, or that a later one is a copy.
    Alive,
    /// The device has said that it rings, by any other provisional response.
    Rings,
    /// A final response came, or none is waited for.
    Ended,
}

/// All legs of a call, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct Legs(pub(super) Vec<Leg>);

impl Legs {
    pub(super) fn get(&self, branch: BranchId) -> Option<&Leg> {
        self.0.iter().find(|leg| leg.branch == branch)
    }

    pub(super) fn get_mut(&mut self, branch: BranchId) -> Option<&mut Leg> {
        self.0.iter_mut().find(|leg| leg.branch == branch)
    }

    /// Whether this device has got the INVITE by this flow.
    pub(super) fn has_been_on(&self, instance: InstanceId, flow: FlowId) -> bool {
        self.of(instance).any(|leg| leg.begun_on == flow)
    }

    /// The flow that a leg began on, and that by which its device is.
    pub(super) fn flows_of(&self, branch: BranchId) -> Vec<FlowId> {
        self.get(branch).map(|leg| vec![leg.begun_on, leg.flow]).unwrap_or_default()
    }

    /// Whether a leg may be answered by this flow.
    pub(super) fn go_by(&self, branch: BranchId, flow: FlowId) -> bool {
        self.get(branch).is_some_and(|leg| leg.begun_on == flow || leg.flow == flow)
    }

    /// How many legs this device has had.
    pub(super) fn count_of(&self, instance: InstanceId) -> usize {
        self.of(instance).count()
    }

    /// Whether any leg of this device may be answered where the device is at this moment.
    pub(super) fn any_live_of(&self, instance: InstanceId) -> bool {
        self.of(instance).any(Leg::is_live)
    }

    /// Whether any leg that may be answered so has had a provisional response.
    pub(super) fn any_alive(&self) -> bool {
        self.0.iter().any(Leg::is_alive)
    }

    /// Likewise a leg of this device.
    pub(super) fn any_alive_of(&self, instance: InstanceId) -> bool {
        self.of(instance).any(Leg::is_alive)
    }

    /// Whether this device has said something to a leg that is not over, wherever it is.
    pub(super) fn any_heard_of(&self, instance: InstanceId) -> bool {
        self.of(instance).any(|leg| matches!(leg.phase, Phase::Alive | Phase::Rings))
    }

    /// Begins a leg. The oldest of the same device that are Sent beyond [`UNHEARD_MAX`] are over, and returned.
    pub(super) fn begin(&mut self, branch: BranchId, instance: InstanceId, flow: FlowId) -> Vec<BranchId> {
        self.0.push(Leg {
            branch,
            instance,
            begun_on: flow,
            flow,
            phase: Phase::Sent,
            adrift: false,
            repeated_on: None,
        });
        let unheard = |leg: &Leg| leg.instance == instance && leg.phase == Phase::Sent;
        let surplus = self.0.iter().filter(|leg| unheard(leg)).count().saturating_sub(UNHEARD_MAX);
        let oldest = self.0.iter_mut().filter(|leg| unheard(leg)).take(surplus);
        oldest.map(Leg::end).collect()
    }

    /// A device is by a flow no more; whether that concerns a leg.
    pub(super) fn leave(&mut self, instance: InstanceId, flow: FlowId) -> bool {
        let theirs = self.0.iter_mut().filter(|leg| leg.instance == instance && leg.flow == flow && leg.is_live());
        theirs.map(|leg| leg.adrift = true).count() > 0
    }

    /// A device is by this flow; its legs that follow it there.
    pub(super) fn follow(&mut self, instance: InstanceId, flow: FlowId) -> Vec<BranchId> {
        let theirs =
            self.0.iter_mut().filter(|leg| leg.instance == instance && leg.phase != Phase::Ended && leg.adrift);
        theirs
            .map(|leg| {
                leg.turn_to(flow);
                leg.branch
            })
            .collect()
    }

    /// The device of a leg, whichever phase that is in, is by this flow.
    pub(super) fn turn(&mut self, branch: BranchId, flow: FlowId) {
        if let Some(leg) = self.get_mut(branch) {
            leg.turn_to(flow);
        }
    }

    /// A device takes a leg for a copy: the earlier ones, of which it has one. Those of which nothing was heard are Alive.
    pub(super) fn confirm_before(&mut self, branch: BranchId) -> Vec<BranchId> {
        let earlier = self.earlier(branch).map(|leg| {
            leg.phase = if leg.phase == Phase::Sent { Phase::Alive } else { leg.phase };
            leg.branch
        });
        earlier.collect()
    }

    /// A device has refused this leg, and has said something of earlier ones: those of them to repeat where the device is by now. `is_lost`: whether the flow
    /// that one began on has ended, or the device is known to be the same.
    pub(super) fn repeat_before(
        &mut self,
        branch: BranchId,
        is_lost: impl Fn(FlowId) -> bool,
    ) -> Vec<(BranchId, FlowId)> {
        let moved = |leg: &&mut Leg| leg.is_alive() && leg.begun_on != leg.flow && leg.repeated_on != Some(leg.flow);
        let again = self.earlier(branch).filter(moved).filter(|leg| is_lost(leg.begun_on)).map(|leg| {
            leg.repeated_on = Some(leg.flow);
            (leg.branch, leg.flow)
        });
        again.collect()
    }

    /// The legs to which no final response has come.
    pub(super) fn unanswered(&self) -> Vec<BranchId> {
        self.0.iter().filter(|leg| leg.phase != Phase::Ended).map(|leg| leg.branch).collect()
    }

    /// Ends those of them that these are.
    pub(super) fn end(&mut self, which: impl Fn(&Leg) -> bool) -> Vec<BranchId> {
        let theirs = self.0.iter_mut().filter(|leg| leg.phase != Phase::Ended && which(leg));
        theirs.map(Leg::end).collect()
    }

    /// Ends the other legs of the same device.
    pub(super) fn end_beside(&mut self, branch: BranchId) -> Vec<BranchId> {
        let instance = self.get(branch).map(|leg| leg.instance);
        self.end(|leg| leg.branch != branch && Some(leg.instance) == instance)
    }

    /// Ends the legs of the same device that began before this one.
    pub(super) fn end_before(&mut self, branch: BranchId) -> Vec<BranchId> {
        self.earlier(branch).filter(|leg| leg.phase != Phase::Ended).map(Leg::end).collect()
    }

    /// The legs of the same device that began before this one.
    fn earlier(&mut self, branch: BranchId) -> impl Iterator<Item = &mut Leg> {
        let at = self.0.iter().position(|leg| leg.branch == branch).unwrap_or(0);
        let (before, rest) = self.0.split_at_mut(at);
        let instance = rest.first().map(|leg| leg.instance);
        before.iter_mut().filter(move |leg| Some(leg.instance) == instance)
    }

    fn of(&self, instance: InstanceId) -> impl Iterator<Item = &Leg> {
        self.0.iter().filter(move |leg| leg.instance == instance)
    }
}

impl Leg {
    fn is_live(&self) -> bool {
        self.phase != Phase::Ended && !self.adrift
    }

    /// Whether the device has got it by two flows.
    pub(super) fn is_repeated(&self) -> bool {
        self.repeated_on.is_some()
    }

    fn is_alive(&self) -> bool {
        matches!(self.phase, Phase::Alive | Phase::Rings) && !self.adrift
    }

    fn turn_to(&mut self, flow: FlowId) {
        (self.flow, self.adrift) = (flow, false);
    }

    fn end(&mut self) -> BranchId {
        self.phase = Phase::Ended;
        self.branch
    }
}
