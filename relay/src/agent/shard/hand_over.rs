//! Instances on their way between nodes, as one shard sees them: those that it takes over, and those that it has handed over.
//!
//! Invariant: nothing is kept of any other instance.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use sip::endpoint::InviteMark;
use sip::id::InstanceId;
use tokio::sync::mpsc;

use crate::agent::request::{FirstAnswer, SettlingNews};
use crate::agent::tables::ended_ahead::EndedAhead;
use crate::agent::tables::woken_elsewhere::{Woken, WokenElsewhere};
use crate::clock;

#[derive(Default)]
pub(super) struct HandOver {
    /// Claimed instances that wait for the first answer of their SIP server, each with the channels for it.
    settling: HashMap<InstanceId, SettlingNews>,
    /// Claimed instances whose first registration has failed, each with the channel that is told of a later success.
    failed: HashMap<InstanceId, mpsc::UnboundedSender<InstanceId>>,
    /// Instances that ended before they arrived here.
    ended_ahead: EndedAhead,
    /// The calls for which a leaving node has woken devices that are here now.
    woken_elsewhere: WokenElsewhere,
    /// While this node leaves: the receiver of the calls for which devices are woken here.
    leaving: Option<mpsc::UnboundedSender<Woken>>,
    /// Instances that another node owns, and that are released when their calls have ended.
    waiting_for_calls: HashSet<InstanceId>,
    /// Ending instances that another node has taken over from this one, and since when.
    taken: HashMap<InstanceId, Instant>,
    /// The instances that replace ending ones without taking over their calls.
    heirs: HashMap<InstanceId, InstanceId>,
}

impl HandOver {
    /// Notes that an instance waits for the end of its calls. `false`: it was noted before.
    pub(super) fn waits_for_calls(&mut self, id: InstanceId) -> bool {
        self.waiting_for_calls.insert(id)
    }

    /// Whether another node owns the instance.
    pub(super) fn is_left(&self, id: InstanceId) -> bool {
        self.waiting_for_calls.contains(&id)
    }

    /// Ends the wait for the calls of an instance. Returns whether it waited.
    pub(super) fn calls_have_ended(&mut self, id: InstanceId) -> bool {
        self.waiting_for_calls.remove(&id)
    }

    /// Notes a claimed instance; `news` is told when it has [settled](Self::settled), or [failed](Self::failed) to.
    pub(super) fn settles(&mut self, id: InstanceId, news: SettlingNews) {
        self.settling.insert(id, news);
    }

    /// Ends the wait for a claimed instance.
    pub(super) fn settled(&mut self, id: InstanceId) {
        // An error means that nobody waits any more.
        if let Some(news) = self.take_settling(id) {
            let _ = news.answered.send(FirstAnswer::Settled(id));
        } else if let Some(registered) = self.failed.remove(&id) {
            let _ = registered.send(id);
        }
    }

    /// Notes that the first registration of a claimed instance has failed. A later success is told as long as anybody waits for it.
    pub(super) fn failed(&mut self, id: InstanceId) {
        let Some(news) = self.take_settling(id) else { return };
        let _ = news.answered.send(FirstAnswer::Failed(id));
        self.failed.retain(|_, registered| !registered.is_closed());
        if !news.registered.is_closed() {
            self.failed.insert(id, news.registered);
        }
    }

    fn take_settling(&mut self, id: InstanceId) -> Option<SettlingNews> {
        let news = self.settling.remove(&id)?;
        if self.settling.is_empty() {
            // The map may have held all instances.
            self.settling = HashMap::new();
        }
        Some(news)
    }

    /// Notes the end of an instance that may be on its way here.
    pub(super) fn note_ended_ahead(&mut self, id: InstanceId) {
        self.ended_ahead.note(clock::now(), id);
    }

    pub(super) fn has_ended_ahead(&self, id: InstanceId) -> bool {
        self.ended_ahead.has(clock::now(), id)
    }

    /// A device has registered an ended push binding again.
    pub(super) fn forget_end(&mut self, id: InstanceId) {
        self.ended_ahead.forget(id);
    }

    /// A leaving node has woken these devices.
    pub(super) fn note_woken_elsewhere(&mut self, woken: &[Woken]) {
        self.woken_elsewhere.note(clock::now(), woken);
    }

    /// Whether a leaving node has woken this device for the call.
    pub(super) fn is_woken_elsewhere(&self, instance: InstanceId, mark: InviteMark) -> bool {
        self.woken_elsewhere.has(clock::now(), instance, mark)
    }

    /// This node leaves: `woken` is told the devices that are woken from now on.
    pub(super) fn leave(&mut self, woken: mpsc::UnboundedSender<Woken>) {
        self.leaving = Some(woken);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// The receiver of the calls for which devices are woken here, while this node leaves.
    pub(super) fn leaving(&self) -> Option<&mpsc::UnboundedSender<Woken>> {
        self.leaving.as_ref()
    }

    /// Another node has claimed these instances.
    pub(super) fn note_taken(&mut self, ids: &[InstanceId]) {
        self.taken.extend(ids.iter().map(|id| (*id, clock::now())));
    }

    /// An instance is about to end in favour of this one, and its calls with it.
    pub(super) fn note_heir(&mut self, earlier: InstanceId, heir: InstanceId) {
        self.heirs.insert(earlier, heir);
    }

    /// The instance in whose name the calls of an ending one are missed.
    pub(super) fn heir_of(&self, earlier: InstanceId) -> Option<InstanceId> {
        self.heirs.get(&earlier).copied()
    }

    /// Forgets an instance that is not here any more.
    pub(super) fn forget_heir_of(&mut self, earlier: InstanceId) {
        self.heirs.remove(&earlier);
    }

    /// The time since which another node owns an instance of this node.
    pub(super) fn taken_since(&self, id: InstanceId) -> Option<Instant> {
        self.taken.get(&id).copied()
    }
}
