//! The end of an instance: unregister, erase, forget. An instance whose binding stands on for other devices of the account
//! leaves it, and nothing is unregistered.
//!
//! ```text
//! end ─────────┬── Unbind ─────────────── Unbound ──┐
//!              └── tombstone, then erase ─ Erased ──┴── finish: the row is dropped, the receipt's facts are told
//! ```
//!
//! The sealed record stays in the row until the SIP server has answered or [`UNREGISTER_DEADLINE`] is over, because a
//! challenge to the unregistration needs it; the store forgets it at once.
//!
//! An instance that this node ends by itself, and not on request, is erased only where it is still this node's: another node may have claimed it
//! while this one did not reach the store, and its lease, its token or its credentials may have changed by then.
//!
//! A node that leaves wipes nothing: its instances are another node's, or will be, and are only released.
//!
//! Invariant: a wipe that has begun ends: no step waits longer than its deadline. A store that is away is
//! asked again by `erasures`, and the row does not wait for that. The requester is told the store's state when the row is
//! dropped, after the wipe's tombstone was made durable, and no push for it is on its way ([`final_pushes`](super::final_pushes)).

use std::convert::Infallible;
use std::time::Duration;

use sip::endpoint::{Input, Unbinding};
use sip::id::InstanceId;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Shard;
use crate::agent::erasures::{self, Answer};
use crate::agent::request::{Request, UNREGISTERED};
use crate::agent::tables::instances::{Denied, EndKind, Ending, Erasure, Row, WipeDone, WipeWaiter};
use crate::agent::{Audience, NodeNews, ShardInput, Shared};
use crate::audit::{Act, AuditSubject};
use crate::clock::{self, DAY_S};
use crate::domain::{InstanceState, WipeReason, Word as _};
use crate::metrics::labels::RegistrationOutcome;
use crate::push::Event;
use crate::vault::record::Record;
use crate::vault::{Fence, Tombstone, WRITE_LIMIT};

/// How long a SIP server may take to confirm an unregistration.
const UNREGISTER_DEADLINE: Duration = Duration::from_secs(3);
/// How long an erasure waits for the nodes that may have a copy.
pub(super) const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// How long a notice that a lease has ended is worth delivering, in seconds: phones are off at night.
const END_LIFE_S: u64 = DAY_S;

impl Shard {
    /// Begins the end of an instance, or joins the one that has begun.
    pub(crate) fn end(&mut self, id: InstanceId, kind: EndKind, waiter: Option<WipeWaiter>) {
        if matches!(kind, EndKind::Wiped(_)) && self.is_handed_over() {
            // The owner ends it.
            return refuse(waiter, Denied::Unknown);
        }
        let Some(row) = self.instances.get_mut(id) else { return };
        if let Some(ending) = &mut row.ending {
            match ending.kind {
                EndKind::Wiped(_) | EndKind::NeverOurs => {
                    if matches!(kind, EndKind::Wiped(reason) if !reason.is_nobodys_word()) {
                        self.shared.vault.tombstones().insist(id);
                    }
                    ending.waiters.extend(waiter);
                }
                // An instance that is not wiped has no receipt; another node has it.
                EndKind::HandedOver => refuse(waiter, Denied::Unknown),
            }
            return;
        }
        let erasure = (!matches!(kind, EndKind::Wiped(_))).then_some(Erasure::Done);
        let ending =
            Ending { kind, unbound: None, erasure, waiters: waiter.into_iter().collect(), is_heard_out: false };
        row.ending = Some(Box::new(ending));
        let (status, unanswerable, is_stored) = (row.status, row.unanswerable, row.is_stored);
        self.shared.refusal_doubts.forget(&self.shared.upstreams, row.upstream, id);
        match kind {
            EndKind::Wiped(WipeReason::RefusedUpstream) => self.tell_registration_lost(id, status, unanswerable),
            EndKind::Wiped(WipeReason::Expired) => drop(self.tell_user(Event::Expired, id, END_LIFE_S, Vec::new())),
            EndKind::Wiped(_) | EndKind::NeverOurs | EndKind::HandedOver => {}
        }
        // A leaving node that waits for its registration here serves the instance until then.
        self.note_settled(id);
        self.set_state(id, InstanceState::Ending);
        self.asked.remove(&id);
        self.forget_trace(id);
        self.forget_activity(id);
        if kind != EndKind::HandedOver {
            self.drop_pushes(id);
        }
        if let EndKind::Wiped(reason) = kind {
            self.erase(id, reason);
        }
        // Of what was in no store no other node knows.
        let is_anothers = is_stored && !matches!(kind, EndKind::Wiped(_));
        let another = self.another_of_binding(id).filter(|_| is_anothers);
        self.next.push_back(match kind {
            EndKind::HandedOver => Input::Release(id),
            EndKind::Wiped(_) | EndKind::NeverOurs => Input::Unbind { instance: id, deadline: UNREGISTER_DEADLINE },
        });
        if let Some(another) = another {
            self.have_registered_again(another, kind);
        }
    }

    /// Another device of the same binding, where that is registered from here.
    fn another_of_binding(&self, id: InstanceId) -> Option<InstanceId> {
        if self.is_handed_over() {
            return None;
        }
        let all = self.endpoint.all_instances(self.endpoint.binding_of_instance(id)?);
        all.into_iter().find(|other| *other != id)
    }

    /// Another node has ended one of several devices of a binding, or has taken it over. If it did so while this node had no lease, it has removed this node's
    /// Contact, and the other devices are called by that: they are registered again. At once only where the end is all that was heard, for of what is
    /// taken over the other devices may be next; and when that node's unregistration, which this node may have overtaken, has been answered.
    fn have_registered_again(&mut self, another: InstanceId, kind: EndKind) {
        if kind == EndKind::NeverOurs {
            self.next.push_back(Input::RegisterAgain(another));
        }
        let (shards, shard) = (self.shared.shards.clone(), self.index);
        tokio::spawn(async move {
            sleep(UNREGISTERED).await;
            let again = Box::new(Request::RegisterAgain { id: another });
            shards.send(shard, ShardInput::Request(again)).await;
        });
    }

    /// Ends an instance whose lease is over.
    pub(crate) fn expire(&mut self, id: InstanceId) {
        self.end(id, EndKind::Wiped(WipeReason::Expired), None);
        self.settle(clock::now());
    }

    pub(crate) fn on_unbound(&mut self, id: InstanceId, outcome: Unbinding) {
        // A binding that other devices keep was not unregistered.
        match outcome {
            Unbinding::Confirmed => self.shared.metrics.registration(RegistrationOutcome::Unregistered),
            Unbinding::Unconfirmed => self.shared.metrics.registration(RegistrationOutcome::TimedOut),
            Unbinding::Shared => {}
        }
        if let Some(ending) = self.instances.get_mut(id).and_then(|row| row.ending.as_mut()) {
            ending.unbound = Some(outcome == Unbinding::Confirmed);
        }
        self.finish(id);
    }

    /// `None`: another node owns the record by now, and keeps it.
    pub(crate) fn on_erased(&mut self, id: InstanceId, erasure: Option<Erasure>) {
        if let Some(ending) = self.instances.get_mut(id).and_then(|row| row.ending.as_mut()) {
            if erasure.is_none() {
                ending.kind = EndKind::HandedOver;
            }
            ending.erasure = Some(erasure.unwrap_or(Erasure::Done));
        }
        self.finish(id);
    }

    /// Raises the tombstone and has the store erase the record: now, and again until a store that is away has done it.
    fn erase(&self, id: InstanceId, reason: WipeReason) {
        let vault = &self.shared.vault;
        let facts = |record: &Record| {
            let proof = vault.wipe_proof(id, &record.secret);
            (vault.lookup_of(record), record.expires_at, proof, record.app.clone())
        };
        // An instance whose key is gone is erased as well, by its id alone.
        let (lookup, ends_at, proof, app) = match self.with_record(id, facts) {
            Some((lookup, ends_at, proof, app)) => (Some(lookup), ends_at, Some(proof), Some(app)),
            None => (None, self.instances.get(id).map_or(0, Row::expires_at), None, None),
        };
        let whose = AuditSubject { instance: Some(id), account: self.instances.get(id).map(Row::aor), app };
        // If nobody has asked for the end, another node may know better.
        let fence = self.instances.get(id).map(|row| row.fence).filter(|fence| *fence != Fence::NEW);
        let fence = fence.filter(|_| reason.is_nobodys_word());
        let mut tombstone = Tombstone::outliving(lookup, ends_at, reason, proof);
        tombstone.fence = fence;
        let written = vault.tombstones().raise(id, tombstone);
        let (shared, shard) = (self.shared.clone(), self.index);
        let told = tell_wiped(&self.shared, id, Audience::LeavingNodes);
        tokio::spawn(async move {
            // The tombstone comes first, so that an erased record always has one, and with it a receipt.
            let is_written = matches!(timeout(WRITE_LIMIT, written).await, Ok(Ok(())));
            // From here on the next run goes on with the wipe, without knowing the account, so the trail is written now. If another node turns out to own the
            // record, a later line says so.
            shared.audit.note(Act::Wiped(reason), || whose);
            let answer = erasures::erase(&shared.vault, &shared.metrics, id, lookup).await;
            if answer != Answer::Left {
                shared.metrics.wipe(reason);
            }
            let erasure = match answer {
                Answer::Erased => Some(Erasure::Done),
                Answer::Left => {
                    // An error means that the relay ends. The trail says at the row's end that another node owns the record.
                    let _ = shared.node_news.send(NodeNews::Left { id, is_noted: true });
                    None
                }
                Answer::Away => {
                    shared.erasures.later(id, lookup);
                    Some(if is_written { Erasure::Pending } else { Erasure::Unsure })
                }
            };
            // A leaving node, which was told above, must not push once there is a receipt. An error means that it has done so, or died.
            let _ = timeout(TOLD_WITHIN, told).await;
            shared.shards.send(shard, ShardInput::Erased(id, erasure)).await;
        });
    }

    /// Drops the row once the SIP server and the store are done with it.
    pub(super) fn finish(&mut self, id: InstanceId) {
        let has_no_final_push = self.has_no_final_push(id);
        let Some(ending) = self.instances.get_mut(id).and_then(|row| row.ending.as_mut()) else { return };
        let (Some(unregistered), Some(erasure)) = (ending.unbound, ending.erasure) else { return };
        if !ending.waiters.is_empty() && !has_no_final_push {
            if !std::mem::replace(&mut ending.is_heard_out, true) {
                self.limit_receipt_wait(id);
            }
            return;
        }
        if ending.kind == EndKind::HandedOver {
            self.audit(id, Act::HandedOver);
        }
        // A trace that began meanwhile is dropped as well.
        self.forget_trace(id);
        self.hand_over.forget_heir_of(id);
        let Some(row) = self.instances.remove(id) else { return };
        if self.attached.remove(id) {
            self.shared.metrics.edge_flows(-1);
        }
        self.shared.metrics.instance_leaves(row.state);
        self.shared.upstreams.release(row.upstream);
        let Some(Ending { kind, waiters, .. }) = row.ending.map(|ending| *ending) else { return };
        if let EndKind::Wiped(reason) = kind {
            tracing::info!(event = "wiped", instance = %id, reason = reason.word(), unregistered, store = erasure.word(), "wiped");
            self.shared.vault.tombstones().note_unregistered(id, unregistered);
            for waiter in waiters {
                // An error means that nobody waits any more.
                let _ = waiter.send(Ok(WipeDone { reason, unregistered, erasure }));
            }
        } else {
            // An instance that is not wiped has no receipt.
            waiters.into_iter().for_each(|waiter| refuse(Some(waiter), Denied::Unknown));
        }
    }
}

/// Tells these nodes to release their copy of an instance. The receiver closes when they have, or their time is over.
pub(super) fn tell_wiped(shared: &Shared, id: InstanceId, audience: Audience) -> oneshot::Receiver<Infallible> {
    let (told, end) = oneshot::channel();
    // An error means that the process ends.
    let _ = shared.node_news.send(NodeNews::Wiped { id, audience, told });
    end
}

/// Tells a waiter that there will be no wipe.
pub(crate) fn refuse(waiter: Option<WipeWaiter>, why: Denied) {
    if let Some(waiter) = waiter {
        // An error means that nobody waits any more.
        let _ = waiter.send(Err(why));
    }
}
