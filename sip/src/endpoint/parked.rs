//! Requests inside a dialog for a peer that is away for a moment: a device whose flow broke or that moves to another network,
//! or a SIP server to which the flow is being opened again, or is opened for it.
//!
//! | the peer is away and | what happens | it comes back | it does not |
//! | --- | --- | --- | --- |
//! | a request comes | it waits, an INVITE with a 100 | it is sent on the new flow | 480 |
//! | a device was sent one, unanswered | it waits | it is sent again, as a retransmission | 480; an INVITE 408 |
//! | a device that rings was sent a CANCEL | it waits, as long as its transaction lives | it is sent again | – |
//! | a device was sent the INVITE of a call, unanswered | likewise, also when the call is over | what it says of it comes by the new flow, and a CANCEL that waits for that goes there | – |
//! | a device had answered an INVITE | its 2xx may come again by the new flow, for the ACK was lost (RFC 3261 §13.3.1.4) | – | – |
//! | a SIP server was sent one, unanswered, by a stream | it waits; a BYE longer | it is sent again, once | 480; an INVITE 408 |
//! | a waiting INVITE is cancelled | 487 | – | – |
//!
//! The dialog is found again by its signed token, which names the device, and not the flow that it had (RFC 5626 §5.3).
//!
//! Invariant: at most [`WAITING_PER_DEVICE`] requests wait for a device and [`WAITING_PER_SERVER`] for a SIP server that were not sent; an INVITE for no longer than a device may take to
//! answer, another request for no longer than [`EdgeTiming::parked`](crate::timing::EdgeTiming::parked), because its sender gives up at 64·T1 and must not be told
//! later (RFC 4320 §4.2).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

use super::core::OfflinePeer;
use super::dialogs::{NextHop, Passage};
use super::{ClientOwner, Endpoint, ServerOwner, Side, Timer};
use crate::id::{BindingId, BranchId, FlowId, InstanceId, UpstreamId};
use crate::message::{Composer, Message, Method};
use crate::transaction::{Reply, ServerId};

/// Requests that may wait for one device; a further one is answered 480. Those of one dialog take a half of it at most, and leave room for others.
pub const WAITING_PER_DEVICE: usize = 16;
/// Requests of all its devices that may wait for one SIP server; a further one is answered 480.
pub const WAITING_PER_SERVER: usize = 1000;
/// Requests that may wait for one SIP server altogether, so that what it was sent and has not answered waits as well; a further one of these is
/// given up.
pub const ASKED_PER_SERVER: usize = 4_000;

/// A request that waits for its peer.
#[derive(Debug)]
struct Parked {
    branch: BranchId,
    until: Instant,
    what: What,
}

#[derive(Debug)]
enum What {
    /// It came while the peer was away. `device`: that of its dialog.
    Unsent { server: ServerId, request: Box<Message>, passage: Passage, device: InstanceId },
    /// It was sent on a device's flow that has ended.
    Sent,
    /// It was sent on a SIP server's stream that has ended, to this address.
    Asked { address: Option<IpAddr> },
}

/// The requests of dialogs that wait for a peer to come back, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct ParkedRequests(HashMap<OfflinePeer, Vec<Parked>>);

impl ParkedRequests {
    /// How many peers are waited for.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn unsent(&self, who: &OfflinePeer) -> impl Iterator<Item = &Message> {
        let waiting = self.0.get(who).map(|waiting| &waiting[..]).unwrap_or_default();
        waiting.iter().filter_map(|it| match &it.what {
            What::Unsent { request, .. } => Some(&**request),
            What::Sent | What::Asked { .. } => None,
        })
    }

    /// How many requests wait for a peer that were not sent.
    fn kept(&self, who: &OfflinePeer) -> usize {
        self.unsent(who).count()
    }

    /// How many of them are of the dialog of this one, as its Call-ID says: whoever once was in it can make up the rest.
    fn kept_of(&self, who: &OfflinePeer, request: &Message) -> usize {
        self.unsent(who).filter(|it| it.call_id() == request.call_id()).count()
    }
}

impl Endpoint {
    /// Keeps a request of this device's dialog that came from `side`, for the other side, which has no flow at this moment.
    /// 480 when nothing is known of it.
    pub(super) fn park(
        &mut self,
        now: Instant,
        reply: Reply<'_>,
        request: &Message,
        side: Side,
        device: InstanceId,
        passage: Passage,
    ) {
        let binding = self.devices.binding_of(device);
        let who = binding.and_then(|binding| match side {
            Side::Upstream => Some(OfflinePeer::Device(device)),
            Side::Device => self.upstream_of(binding).map(OfflinePeer::Server),
        });
        let room = |who: &OfflinePeer| match who {
            OfflinePeer::Device(_) => self.parked.kept(who) + self.parked.kept_of(who, request) < WAITING_PER_DEVICE,
            OfflinePeer::Server(_) => self.parked.kept(who) < WAITING_PER_SERVER,
        };
        let Some(who) = who.filter(room) else {
            return self.refuse(now, reply, request, 480);
        };
        let branch = self.core.branch();
        let owner = ServerOwner::Parked(who, branch);
        let Some(server) = self.open_forwarded(now, reply, request, owner, device, 480) else { return };
        let what = What::Unsent { server, request: Box::new(request.clone()), passage, device };
        let wait = if request.method() == Some(Method::Invite) {
            self.core.settings.answer_timeout
        } else {
            self.core.settings.timing.edge.parked
        };
        self.add_parked(now, who, Parked { branch, until: now + wait, what });
        if let OfflinePeer::Server(upstream) = who {
            self.want_flow_soon(now, upstream);
        }
    }

    /// A CANCEL of an INVITE that waits: nobody has seen it but us.
    pub(super) fn cancel_parked(&mut self, now: Instant, who: OfflinePeer, branch: BranchId) {
        let Some(waiting) = self.parked.0.get_mut(&who) else { return };
        let Some(at) = waiting.iter().position(|it| it.branch == branch) else { return };
        let Parked { what: What::Unsent { server, request, .. }, .. } = waiting.remove(at) else { return };
        self.dialogs.settle(server);
        let tag = self.core.random.tag();
        let response = Composer::response(&request, 487, Composer::reason(487), Some(&tag)).finish();
        self.core.transactions.respond(now, server, 487, response);
    }

    /// A device's flow has ended: what was forwarded on it, and has not gone to another one since, may still be answered by the next one.
    pub(super) fn lose_forwarded(&mut self, now: Instant, ended: FlowId, instance: InstanceId, branch: BranchId) {
        let is_there = self.core.transactions.flow_of(branch) == Some(ended);
        if !is_there {
            return;
        }
        if !self.park_sent(now, instance, branch) {
            return self.abandon_forwarded(now, branch);
        }
        // It is by another one already: its next REGISTER may be minutes away.
        let who = OfflinePeer::Device(instance);
        if self.attachments.is_attached(instance) {
            self.send_parked(now, who);
        } else if self.attachments.dialog_flow(instance).is_some_and(|dialogs| dialogs.flow != ended) {
            self.send_parked_in_dialogs(now, instance);
        }
    }

    /// The device has another flow, while its earlier one may be dead without either side knowing.
    pub(super) fn leave_flow(&mut self, now: Instant, instance: InstanceId, earlier: FlowId) {
        for branch in self.attachments.forwarded_to(instance, earlier) {
            self.park_sent(now, instance, branch);
        }
    }

    /// Parks what was sent on a flow for the next one.
    fn park_sent(&mut self, now: Instant, instance: InstanceId, branch: BranchId) -> bool {
        let owner = self.core.transactions.progress(branch).map(|(owner, _)| owner);
        let waits = matches!(owner, Some(ClientOwner::Forwarded(..) | ClientOwner::Leg(_)));
        if waits && self.devices.knows(instance) {
            let until = now + self.core.settings.timing.edge.parked;
            self.add_parked(now, OfflinePeer::Device(instance), Parked { branch, until, what: What::Sent });
            return true;
        }
        false
    }

    /// Parks what was sent to a SIP server for its next flow; whether it has room.
    pub(super) fn park_for_server(
        &mut self,
        now: Instant,
        id: UpstreamId,
        branch: BranchId,
        address: Option<IpAddr>,
    ) -> bool {
        let who = OfflinePeer::Server(id);
        let has_room = self.parked.0.get(&who).map_or(0, Vec::len) < ASKED_PER_SERVER;
        if has_room {
            let until = now + self.core.settings.timing.edge.parked;
            self.add_parked(now, who, Parked { branch, until, what: What::Asked { address } });
        }
        has_room
    }

    /// The peer is back: what waits goes to its flow, in the order in which it came.
    pub(super) fn send_parked(&mut self, now: Instant, who: OfflinePeer) {
        for waiting in self.parked.0.remove(&who).unwrap_or_default() {
            let hop = match (who, &waiting.what) {
                (OfflinePeer::Device(device), _) => self.hop_to_device(device),
                (OfflinePeer::Server(id), What::Unsent { device, .. }) => self.hop_to_server(id, *device),
                (OfflinePeer::Server(_), What::Sent) => None,
                (OfflinePeer::Server(id), What::Asked { address }) => {
                    if let Some(flow) = self.flow_to(id) {
                        self.ask_again(now, waiting.branch, flow, *address);
                    }
                    continue;
                }
            };
            match hop {
                Some(hop) => self.send_one(now, waiting, hop),
                None => self.give_up_one(now, waiting),
            }
        }
    }

    /// The device has proved itself by a request of a dialog: what waits of its dialogs goes by the same flow.
    pub(super) fn send_parked_in_dialogs(&mut self, now: Instant, device: InstanceId) {
        let who = OfflinePeer::Device(device);
        let Some(dialogs) = self.attachments.dialog_flow(device) else { return };
        let hop = NextHop { flow: dialogs.flow, side: Side::Device, transport: dialogs.transport, device };
        let in_dialog = |request: &Message| request.to().is_some_and(|to| to.tag().is_some());
        let waiting = self.parked.0.remove(&who).unwrap_or_default();
        let (go, stay): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|waiting| match &waiting.what {
            What::Unsent { request, .. } => in_dialog(request),
            What::Sent | What::Asked { .. } => !self.rings(waiting.branch),
        });
        if !stay.is_empty() {
            self.parked.0.insert(who, stay);
        }
        for waiting in go {
            self.send_one(now, waiting, hop);
        }
    }

    fn send_one(&mut self, now: Instant, waiting: Parked, hop: NextHop) {
        match waiting.what {
            What::Unsent { server, request, passage, .. } => {
                self.core.transactions.adopt(server, ServerOwner::Forwarded(waiting.branch));
                self.send_forwarded(now, server, waiting.branch, &request, passage, hop);
            }
            // Not again: the copy of a call that waits is a leg of its own.
            What::Sent if self.rings(waiting.branch) && !self.has_cancelled(waiting.branch) => {
                self.turn_leg(waiting.branch, hop);
            }
            What::Sent => {
                self.core.transactions.carry(now, waiting.branch, hop.flow);
                self.note_forwarded(hop.flow, hop.device, waiting.branch);
            }
            What::Asked { .. } => {}
        }
    }

    /// A leg that is not cancelled, or whose CANCEL waits for its first response (RFC 3261 §9.1), goes on by this flow: its device may ring by it when the
    /// call is long over.
    fn turn_leg(&mut self, branch: BranchId, NextHop { flow, device, .. }: NextHop) {
        let Some((ClientOwner::Leg(call), _)) = self.core.transactions.progress(branch) else { return };
        self.calls.turn_leg(call, branch, flow);
        self.core.transactions.follow(branch, flow);
        if !self.attachments.forwarded_to(device, flow).contains(&branch) {
            self.note_forwarded(flow, device, branch);
        }
    }

    /// The device is enabled again: what waits for it waits for its successor, and what comes from it is the successor's.
    pub(super) fn succeed_parked(
        &mut self,
        now: Instant,
        earlier: InstanceId,
        successor: InstanceId,
        binding: BindingId,
    ) {
        let rename = |waiting: &mut Parked| match &mut waiting.what {
            What::Unsent { device, .. } if *device == earlier => *device = successor,
            What::Unsent { .. } | What::Sent | What::Asked { .. } => {}
        };
        let server = self.upstream_of(binding).map(OfflinePeer::Server);
        if let Some(waiting) = server.and_then(|server| self.parked.0.get_mut(&server)) {
            waiting.iter_mut().for_each(rename);
        }
        let who = OfflinePeer::Device(successor);
        for mut waiting in self.parked.0.remove(&OfflinePeer::Device(earlier)).unwrap_or_default() {
            rename(&mut waiting);
            if let What::Unsent { server, .. } = &waiting.what {
                self.core.transactions.adopt(*server, ServerOwner::Parked(who, waiting.branch));
            }
            self.add_parked(now, who, waiting);
        }
    }

    /// The device is wiped: what waits for it or comes from it goes nowhere.
    pub(super) fn give_up_parked(&mut self, now: Instant, device: InstanceId, binding: BindingId) {
        let server = self.upstream_of(binding).map(OfflinePeer::Server);
        let own = |waiting: &Parked| matches!(waiting.what, What::Unsent { device: of, .. } if of == device);
        for waiting in self.parked.0.remove(&OfflinePeer::Device(device)).unwrap_or_default() {
            self.give_up_one(now, waiting);
        }
        let Some((server, waiting)) = server.and_then(|server| Some((server, self.parked.0.remove(&server)?))) else {
            return;
        };
        let (gone, left): (Vec<_>, Vec<_>) = waiting.into_iter().partition(own);
        if !left.is_empty() {
            self.parked.0.insert(server, left);
        }
        for waiting in gone {
            self.give_up_one(now, waiting);
        }
    }

    pub(super) fn on_parked_due(&mut self, now: Instant, who: OfflinePeer) {
        let Some(waiting) = self.parked.0.get_mut(&who) else { return };
        let (due, left): (Vec<_>, Vec<_>) = std::mem::take(waiting).into_iter().partition(|it| it.until <= now);
        if left.is_empty() {
            self.parked.0.remove(&who);
        } else {
            *waiting = left;
        }
        for waiting in due {
            let waits_on =
                matches!(waiting.what, What::Asked { .. }) && self.core.transactions.is_patient(waiting.branch);
            if self.rings(waiting.branch) || waits_on {
                let until = now + self.core.settings.timing.edge.parked;
                self.add_parked(now, who, Parked { until, ..waiting });
            } else {
                self.give_up_one(now, waiting);
            }
        }
    }

    fn give_up_one(&mut self, now: Instant, waiting: Parked) {
        match waiting.what {
            What::Unsent { server, .. } => self.on_forwarded_silence(now, server),
            What::Sent if self.rings(waiting.branch) => {}
            What::Sent | What::Asked { .. } => self.abandon_forwarded(now, waiting.branch),
        }
    }

    /// Whether this is a leg of a call that has no final answer: it lives as long as its transaction.
    fn rings(&self, branch: BranchId) -> bool {
        matches!(self.core.transactions.progress(branch), Some((ClientOwner::Leg(_), true)))
    }

    fn has_cancelled(&self, branch: BranchId) -> bool {
        self.core.transactions.has_cancelled(branch)
    }

    pub(super) fn abandon_forwarded(&mut self, now: Instant, branch: BranchId) {
        if let Some(owner) = self.core.transactions.abandon(branch) {
            self.on_unanswered(now, branch, owner);
        }
    }

    fn add_parked(&mut self, now: Instant, who: OfflinePeer, waiting: Parked) {
        self.core.later(now, waiting.until.saturating_duration_since(now), Timer::Parked(who));
        self.parked.0.entry(who).or_default().push(waiting);
    }
}
