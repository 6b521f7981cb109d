//! Requests for a peer that is away for a moment: a device whose flow broke or that moves to another network; or a SIP server to which a flow is being opened,
//! for requests inside a dialog and for those that a device begins.
//!
//! | the peer is away and | action | it comes back | it does not |
//! | --- | --- | --- | --- |
//! | a request comes | it waits, an INVITE with a 100 | it is sent on the new flow | 480 |
//! | a device begins something | it waits for [`BEGUN_WAIT`], an INVITE with a 100 | it is sent on the new flow | 503, at once if no flow can be had |
//! | a device was sent one, unanswered | it waits | it is sent again, as a retransmission | 480 |
//! | a BYE was answered 480 that way | it waits [`LATE`]: whoever is not told stays in a dead call, and a device cannot take the next | it is sent on the new flow, and its answer goes nowhere | – |
//! | a device that rings was sent a CANCEL | it waits, as long as its transaction lives | it is sent again | – |
//! | a device was sent the INVITE of a call, unanswered | it waits, as long as its transaction lives | the device's response comes by the new flow | – |
//! | likewise, and the call is over for it | likewise | a CANCEL goes there, whether the device has responded or not | – |
//! | a device had answered an INVITE | its 2xx may come again by the new flow, because the ACK was lost (RFC 3261 §13.3.1.4) | – | – |
//! | a SIP server was sent one, unanswered, by a stream | it waits; a BYE longer | it is sent again, once | 480; an INVITE 408 |
//! | a waiting INVITE is cancelled | 487 | – | – |
//!
//! The dialog is found again by its signed token, which names the device, and not the flow that it had (RFC 5626 §5.3).
//!
//! Invariant: at most [`WAITING_PER_DEVICE`] unsent requests wait for a device and [`WAITING_PER_SERVER`] for a SIP server, of which devices begin at most
//! twice [`BEGUN_PER_SERVER`]. An INVITE waits no longer than a device may take to answer, another request no longer than
//! [`EdgeTiming::parked`](crate::timing::EdgeTiming::parked), because its sender gives up at 64·T1 and must not be answered later (RFC 4320 §4.2). Of unsent
//! BYEs whose senders have been answered, [`OWED_PER_DEVICE`] wait for a device, and [`WAITING_PER_SERVER`] for a SIP server, one of each Call-ID, and
//! [`OWED_MAX`] in all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::OfflinePeer;
use super::dialogs::{HeaderEdits, LATE_BYTES, NextHop};
use super::outgoing::{Transactions, is_emergency};
use super::{ClientOwner, Endpoint, ServerOwner, Side, Source, Timer};
use crate::id::{BindingId, BranchId, FlowId, InstanceId, UpstreamId};
use crate::message::{Composer, Message, Method};
use crate::transaction::{LATE, Reply, ServerId};

/// Requests that may wait for one device, half of them of one dialog at most; a further one is answered 480.
pub const WAITING_PER_DEVICE: usize = 16;
/// Requests of all its devices that may wait for one SIP server; a further one is answered 480.
pub const WAITING_PER_SERVER: usize = 1000;
/// The part of these for INVITEs that devices begin, and the same for their other new requests; the rest is for requests that end or change calls.
pub const BEGUN_PER_SERVER: usize = WAITING_PER_SERVER / 4;
/// Requests that may wait for one SIP server in all, including those that were sent and not answered; a further one of the latter is given up.
pub const ASKED_PER_SERVER: usize = 4_000;

/// How long a request that a device begins waits for a flow to its SIP server.
const BEGUN_WAIT: Duration = Duration::from_secs(8);

/// BYEs for one device that are still delivered after their senders were answered; a further one is lost.
pub const OWED_PER_DEVICE: usize = 8;
/// The same for all devices and SIP servers, of at most 4 KiB each.
pub const OWED_MAX: usize = 4_096;

/// A request that waits for its peer.
#[derive(Debug)]
pub(super) struct Parked {
    branch: BranchId,
    until: Instant,
    kind: ParkedKind,
}

#[derive(Debug)]
enum ParkedKind {
    /// The request came while the peer was away. `device`: that of its dialog.
    Unsent { server: ServerId, request: Box<Message>, continuation: Continuation, device: InstanceId },
    /// The request is a BYE that came while the peer was away, and was answered 480. `_place`: one of [`OWED_MAX`].
    Owed { bye: Box<Message>, edits: HeaderEdits, device: InstanceId, _place: Arc<()> },
    /// The request was sent on a device's flow that has ended.
    Sent,
    /// The request was sent on a SIP server's stream that has ended, to this address.
    Asked { address: Option<IpAddr> },
}

/// How an unsent request is forwarded once its peer is back.
#[derive(Debug)]
enum Continuation {
    /// Inside its dialog.
    InDialog(HeaderEdits),
    /// A new request of a device, from this source.
    Begun(Source),
}

/// The requests that wait for a peer to come back, in their order of arrival.
#[derive(Debug, Default)]
pub(super) struct ParkedRequests {
    waiting: HashMap<OfflinePeer, Vec<Parked>>,
    /// Each [`ParkedKind::Owed`] has a copy.
    places: Arc<()>,
}

impl ParkedRequests {
    /// The number of peers that are waited for.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether anything waits for a peer.
    pub(super) fn waits_for(&self, who: &OfflinePeer) -> bool {
        self.waiting.contains_key(who)
    }

    fn of(&self, who: &OfflinePeer) -> &[Parked] {
        self.waiting.get(who).map(|waiting| &waiting[..]).unwrap_or_default()
    }

    fn unsent(&self, who: &OfflinePeer) -> impl Iterator<Item = &Message> {
        self.of(who).iter().filter_map(|it| match &it.kind {
            ParkedKind::Unsent { request, .. } => Some(&**request),
            ParkedKind::Owed { .. } | ParkedKind::Sent | ParkedKind::Asked { .. } => None,
        })
    }

    /// A place for a BYE that its peer must still get, if there is room.
    fn place_of(&self, who: &OfflinePeer, bye: &Message) -> Option<Arc<()>> {
        let owed = || {
            self.of(who).iter().filter_map(|it| match &it.kind {
                ParkedKind::Owed { bye, .. } => Some(bye),
                ParkedKind::Unsent { .. } | ParkedKind::Sent | ParkedKind::Asked { .. } => None,
            })
        };
        let most = match who {
            OfflinePeer::Device(_) => OWED_PER_DEVICE,
            OfflinePeer::Server(_) => WAITING_PER_SERVER,
        };
        let has_room = owed().count() < most && Arc::strong_count(&self.places) <= OWED_MAX;
        let is_new = owed().all(|other| other.call_id() != bye.call_id());
        (has_room && is_new).then(|| self.places.clone())
    }

    /// The number of unsent requests that wait for a peer.
    fn kept(&self, who: &OfflinePeer) -> usize {
        self.unsent(who).count()
    }

    /// The number of new requests of devices among them: INVITEs, or all others.
    fn kept_begun(&self, who: &OfflinePeer, is_invite: bool) -> usize {
        let begun = |it: &&Parked| match &it.kind {
            ParkedKind::Unsent { request, continuation: Continuation::Begun(_), .. } => {
                is_invite == (request.method() == Some(Method::Invite))
            }
            ParkedKind::Unsent { .. } | ParkedKind::Owed { .. } | ParkedKind::Sent | ParkedKind::Asked { .. } => false,
        };
        self.of(who).iter().filter(begun).count()
    }

    /// The number of them with the Call-ID of this request: anybody who once was in the dialog can forge the other headers.
    fn kept_of(&self, who: &OfflinePeer, request: &Message) -> usize {
        self.unsent(who).filter(|it| it.call_id() == request.call_id()).count()
    }
}

impl Endpoint {
    /// Keeps a request of this device's dialog that came from `side` for the other side, which has no flow now. 480: that peer is unknown.
    pub(super) fn park(
        &mut self,
        now: Instant,
        reply: Reply<'_>,
        request: &Message,
        side: Side,
        device: InstanceId,
        edits: HeaderEdits,
    ) {
        let who = self.server_of(device).map(|server| match side {
            Side::Upstream => OfflinePeer::Device(device),
            Side::Device => OfflinePeer::Server(server),
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
        let continuation = Continuation::InDialog(edits);
        let kind = ParkedKind::Unsent { server, request: Box::new(request.clone()), continuation, device };
        let wait = self.patience_for(request.method() == Some(Method::Invite));
        self.add_parked(now, who, Parked { branch, until: now + wait, kind });
        if let OfflinePeer::Server(upstream) = who {
            self.want_flow_soon(now, upstream);
        }
    }

    /// Keeps a new request of a device until a flow to its SIP server is up. 503: none comes in time, or none can be had.
    pub(super) fn park_begun(
        &mut self,
        now: Instant,
        source: Source,
        reply: Reply<'_>,
        request: &Message,
        (device, upstream): (InstanceId, UpstreamId),
    ) {
        let who = OfflinePeer::Server(upstream);
        let begun = self.parked.kept_begun(&who, request.method() == Some(Method::Invite));
        let has_share = begun < BEGUN_PER_SERVER || is_emergency(request);
        let has_room = has_share && self.parked.kept(&who) < WAITING_PER_SERVER;
        if has_room {
            let branch = self.core.branch();
            let owner = ServerOwner::Parked(who, branch);
            let Some(server) = self.open_forwarded(now, reply, request, owner, device, 503) else { return };
            let failure = self.try_later(request);
            self.dialogs.fail_with(server, (503, failure));
            let kind = ParkedKind::Unsent {
                server,
                request: Box::new(request.clone()),
                continuation: Continuation::Begun(source),
                device,
            };
            self.add_parked(now, who, Parked { branch, until: now + BEGUN_WAIT, kind });
        } else {
            let response = self.try_later(request);
            self.respond_once(now, reply, request, 503, response);
        }
        self.want_flow_soon(now, upstream);
    }

    /// No flow to a SIP server can be had now: senders of new requests may try another way.
    pub(super) fn give_up_begun(&mut self, now: Instant, id: UpstreamId) {
        let who = OfflinePeer::Server(id);
        let Some(waiting) = self.parked.waiting.get_mut(&who) else { return };
        let begun =
            |it: &mut Parked| matches!(it.kind, ParkedKind::Unsent { continuation: Continuation::Begun(_), .. });
        let begun: Vec<_> = waiting.extract_if(.., begun).collect();
        if waiting.is_empty() {
            self.parked.waiting.remove(&who);
        }
        for waiting in begun {
            self.give_up_one(now, waiting);
        }
    }

    /// How long a request waits for its peer.
    fn patience_for(&self, is_invite: bool) -> Duration {
        if is_invite { self.core.settings.answer_timeout } else { self.core.settings.timing.edge.parked }
    }

    /// A CANCEL of a waiting INVITE, which nobody else has seen.
    pub(super) fn cancel_parked(&mut self, now: Instant, who: OfflinePeer, branch: BranchId) {
        let Some(waiting) = self.parked.waiting.get_mut(&who) else { return };
        let Some(at) = waiting.iter().position(|it| it.branch == branch) else { return };
        let Parked { kind: ParkedKind::Unsent { server, request, .. }, .. } = waiting.remove(at) else { return };
        self.settle_forwarded(server);
        let tag = self.core.random.tag();
        let response = Composer::response(&request, 487, Composer::reason(487), Some(&tag)).finish();
        self.core.transactions.respond(now, server, 487, response);
    }

    /// A device's flow has ended: requests that were forwarded on it, and by no other flow since, may still be answered by the next one.
    pub(super) fn lose_forwarded(&mut self, now: Instant, ended: FlowId, instance: InstanceId, branch: BranchId) {
        let is_there = self.core.transactions.flow_of(branch) == Some(ended);
        if !is_there {
            return;
        }
        if !self.park_sent(now, instance, branch) {
            return self.abandon_forwarded(now, branch);
        }
        // The device may be attached by another flow already, and its next REGISTER may be minutes away.
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

    /// Parks the requests that were sent on a flow, for the next one.
    fn park_sent(&mut self, now: Instant, instance: InstanceId, branch: BranchId) -> bool {
        let owner = self.core.transactions.progress(branch).map(|(owner, _)| owner);
        // A BYE whose sender was answered has no owner.
        let waits = matches!(owner, Some(ClientOwner::Forwarded(..) | ClientOwner::Leg(_) | ClientOwner::Nobody));
        if waits && self.carries_instance(instance) {
            let until = now + self.patience_for(self.core.transactions.is_invite(branch));
            self.add_parked(now, OfflinePeer::Device(instance), Parked { branch, until, kind: ParkedKind::Sent });
            return true;
        }
        false
    }

    /// Parks a request that was sent to a SIP server, for its next flow. Returns whether there is room.
    pub(super) fn park_for_server(
        &mut self,
        now: Instant,
        id: UpstreamId,
        branch: BranchId,
        address: Option<IpAddr>,
    ) -> bool {
        let who = OfflinePeer::Server(id);
        let has_room = self.parked.waiting.get(&who).map_or(0, Vec::len) < ASKED_PER_SERVER;
        if has_room {
            let until = now + self.core.settings.timing.edge.parked;
            self.add_parked(now, who, Parked { branch, until, kind: ParkedKind::Asked { address } });
        }
        has_room
    }

    /// The peer is back: waiting requests go by its flow, in their order of arrival.
    pub(super) fn send_parked(&mut self, now: Instant, who: OfflinePeer) {
        for waiting in self.parked.waiting.remove(&who).unwrap_or_default() {
            let hop = match (who, &waiting.kind) {
                (OfflinePeer::Device(device), _) => self.hop_to_device(device),
                (OfflinePeer::Server(id), ParkedKind::Unsent { device, .. } | ParkedKind::Owed { device, .. }) => {
                    self.hop_to_server(id, *device)
                }
                (OfflinePeer::Server(_), ParkedKind::Sent) => None,
                (OfflinePeer::Server(id), ParkedKind::Asked { address }) => {
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

    /// The device has proved itself by a request of a dialog: waiting requests of its dialogs go by the same flow.
    pub(super) fn send_parked_in_dialogs(&mut self, now: Instant, device: InstanceId) {
        let who = OfflinePeer::Device(device);
        let Some(dialogs) = self.attachments.dialog_flow(device) else { return };
        let hop = NextHop { flow: dialogs.flow, side: Side::Device, transport: dialogs.transport, device };
        let in_dialog = |request: &Message| request.to().is_some_and(|to| to.tag().is_some());
        let waiting = self.parked.waiting.remove(&who).unwrap_or_default();
        let (go, stay): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|waiting| match &waiting.kind {
            ParkedKind::Unsent { request, .. } => in_dialog(request),
            ParkedKind::Owed { .. } => true,
            ParkedKind::Sent | ParkedKind::Asked { .. } => !self.rings(waiting.branch),
        });
        if !stay.is_empty() {
            self.parked.waiting.insert(who, stay);
        }
        for waiting in go {
            self.send_one(now, waiting, hop);
        }
    }

    fn send_one(&mut self, now: Instant, waiting: Parked, hop: NextHop) {
        match waiting.kind {
            ParkedKind::Unsent { server, request, continuation, .. } => {
                self.core.transactions.adopt(server, ServerOwner::Forwarded(waiting.branch));
                match continuation {
                    Continuation::InDialog(edits) => {
                        self.send_forwarded(now, server, waiting.branch, &request, edits, hop);
                    }
                    Continuation::Begun(source) => {
                        let transactions = Transactions { server, branch: waiting.branch };
                        self.send_begun(now, &source, transactions, &request, hop)
                    }
                }
            }
            ParkedKind::Owed { bye, edits, .. } => self.send_owed(now, waiting.branch, &bye, edits, hop),
            // It is not sent again: the copy of a waiting call is a leg of its own.
            ParkedKind::Sent if self.rings(waiting.branch) && !self.has_cancelled(waiting.branch) => {
                self.turn_leg(waiting.branch, hop);
            }
            ParkedKind::Sent => {
                self.core.transactions.carry(now, waiting.branch, hop.flow);
                self.note_forwarded(hop.flow, hop.device, waiting.branch);
            }
            ParkedKind::Asked { .. } => {}
        }
    }

    /// Sends a BYE without an owner to its peer, which may be away again before it gets it.
    fn send_owed(&mut self, now: Instant, branch: BranchId, bye: &Message, edits: HeaderEdits, hop: NextHop) {
        let bytes = self.forwarded_bytes(bye, edits, &hop, branch);
        // Without room, the device's own session timer, or its user, ends the call.
        if self.core.transactions.send(now, branch, Method::Bye, bytes, hop.flow, ClientOwner::Nobody).is_ok() {
            self.core.transactions.expect_late(branch, hop.device);
            if hop.side == Side::Device {
                self.note_forwarded(hop.flow, hop.device, branch);
            }
        }
    }

    /// A leg that is not cancelled, or whose device has the call by another leg, so that its CANCEL waits for its first response (RFC 3261 §9.1), goes on by
    /// this flow: its device may ring by it when the call is long over.
    fn turn_leg(&mut self, branch: BranchId, NextHop { flow, device, .. }: NextHop) {
        let Some((ClientOwner::Leg(call), _)) = self.core.transactions.progress(branch) else { return };
        self.calls.turn_leg(call, branch, flow);
        self.core.transactions.follow(branch, flow);
        if !self.attachments.forwarded_to(device, flow).contains(&branch) {
            self.note_forwarded(flow, device, branch);
        }
    }

    /// The device is enabled again: requests for it wait for its successor, and its own are the successor's.
    pub(super) fn succeed_parked(
        &mut self,
        now: Instant,
        earlier: InstanceId,
        successor: InstanceId,
        binding: BindingId,
    ) {
        let rename = |waiting: &mut Parked| match &mut waiting.kind {
            ParkedKind::Unsent { device, .. } | ParkedKind::Owed { device, .. } if *device == earlier => {
                *device = successor;
            }
            ParkedKind::Unsent { .. } | ParkedKind::Owed { .. } | ParkedKind::Sent | ParkedKind::Asked { .. } => {}
        };
        let server = self.upstream_of(binding).map(OfflinePeer::Server);
        if let Some(waiting) = server.and_then(|server| self.parked.waiting.get_mut(&server)) {
            waiting.iter_mut().for_each(rename);
        }
        let who = OfflinePeer::Device(successor);
        for mut waiting in self.parked.waiting.remove(&OfflinePeer::Device(earlier)).unwrap_or_default() {
            rename(&mut waiting);
            if let ParkedKind::Unsent { server, .. } = &waiting.kind {
                self.core.transactions.adopt(*server, ServerOwner::Parked(who, waiting.branch));
            }
            self.add_parked(now, who, waiting);
        }
    }

    /// The device is wiped: waiting requests for it or from it are refused.
    pub(super) fn give_up_parked(&mut self, now: Instant, device: InstanceId, server: Option<UpstreamId>) {
        let server = server.map(OfflinePeer::Server);
        let own = |waiting: &Parked| match waiting.kind {
            ParkedKind::Unsent { device: of, .. } | ParkedKind::Owed { device: of, .. } => of == device,
            ParkedKind::Sent | ParkedKind::Asked { .. } => false,
        };
        for waiting in self.parked.waiting.remove(&OfflinePeer::Device(device)).unwrap_or_default() {
            self.give_up_one(now, waiting);
        }
        let Some((server, waiting)) = server.and_then(|server| Some((server, self.parked.waiting.remove(&server)?)))
        else {
            return;
        };
        let (gone, left): (Vec<_>, Vec<_>) = waiting.into_iter().partition(own);
        if !left.is_empty() {
            self.parked.waiting.insert(server, left);
        }
        for waiting in gone {
            self.give_up_one(now, waiting);
        }
    }

    /// The device is another node's by now: waiting requests for it are answered 480. Returns the BYEs among them.
    pub(super) fn take_owed(&mut self, now: Instant, device: InstanceId) -> Vec<Parked> {
        let who = OfflinePeer::Device(device);
        let mut all = Vec::new();
        for waiting in self.parked.waiting.remove(&who).unwrap_or_default() {
            let owed = self.owed(now, who, &waiting);
            match &waiting.kind {
                ParkedKind::Owed { .. } => all.push(waiting),
                _ => self.give_up_one(now, waiting),
            }
            all.extend(owed);
        }
        all
    }

    /// The device may come back.
    pub(super) fn keep_owed(&mut self, now: Instant, device: InstanceId, owed: Vec<Parked>) {
        for waiting in owed {
            self.add_parked(now, OfflinePeer::Device(device), waiting);
        }
    }

    pub(super) fn on_parked_due(&mut self, now: Instant, who: OfflinePeer) {
        let Some(waiting) = self.parked.waiting.get_mut(&who) else { return };
        let (due, left): (Vec<_>, Vec<_>) = std::mem::take(waiting).into_iter().partition(|it| it.until <= now);
        if left.is_empty() {
            self.parked.waiting.remove(&who);
        } else {
            *waiting = left;
        }
        for waiting in due {
            let was_sent = matches!(waiting.kind, ParkedKind::Sent | ParkedKind::Asked { .. });
            let waits_on = was_sent && self.core.transactions.is_patient(waiting.branch);
            if self.rings(waiting.branch) || waits_on {
                self.tell_of_silence(now, &waiting);
                let until = now + self.core.settings.timing.edge.parked;
                self.add_parked(now, who, Parked { until, ..waiting });
            } else if let Some(owed) = self.owed(now, who, &waiting) {
                self.give_up_one(now, waiting);
                self.add_parked(now, who, owed);
            } else {
                self.give_up_one(now, waiting);
            }
        }
    }

    /// A request of a dialog has waited as long as its sender does; its device may still get it.
    fn tell_of_silence(&mut self, now: Instant, waiting: &Parked) {
        if let (ParkedKind::Sent, Some((ClientOwner::Forwarded(server, _), _))) =
            (&waiting.kind, self.core.transactions.progress(waiting.branch))
        {
            self.on_forwarded_silence(now, server);
        }
    }

    /// The request that its peer must still get after its sender was answered 480: the BYE of a call.
    fn owed(&self, now: Instant, who: OfflinePeer, waiting: &Parked) -> Option<Parked> {
        let ParkedKind::Unsent { request, continuation: Continuation::InDialog(edits), device, .. } = &waiting.kind
        else {
            return None;
        };
        // The wipe of what another node has is not told here.
        if matches!(who, OfflinePeer::Server(_)) && !self.devices.knows(*device) {
            return None;
        }
        let is_short = request.head().len() + request.body().len() <= LATE_BYTES;
        if request.method() != Some(Method::Bye) || !is_short {
            return None;
        }
        let place = self.parked.place_of(&who, request)?;
        let kind = ParkedKind::Owed { bye: request.clone(), edits: *edits, device: *device, _place: place };
        Some(Parked { branch: waiting.branch, until: now + LATE, kind })
    }

    fn give_up_one(&mut self, now: Instant, waiting: Parked) {
        match waiting.kind {
            ParkedKind::Unsent { server, .. } => self.on_forwarded_silence(now, server),
            ParkedKind::Owed { .. } => {}
            ParkedKind::Sent if self.rings(waiting.branch) => {}
            ParkedKind::Sent | ParkedKind::Asked { .. } => self.abandon_forwarded(now, waiting.branch),
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
        self.parked.waiting.entry(who).or_default().push(waiting);
    }
}
