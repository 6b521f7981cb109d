//! The core that every room of the endpoint uses: its settings, randomness, deadlines, transactions and outputs.
//!
//! Invariant: everything leaves an endpoint through [`Core::outputs`], in the order in which it was made.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::returns::Return;
use super::{Event, ForwardedRegisterId, MessageRequestId, Output, Settings};
use crate::edge::caller_key::CallerKey;
use crate::flow::TokenKey;
use crate::id::{BindingId, BranchId, CallId, FlowId, InstanceId, UpstreamId};
use crate::random::Random;
use crate::timers::Timers;
use crate::transaction::{ServerId, Table};

/// Transactions of either kind that run at once on one shard. Beyond it a request is answered 503, and a REGISTER waits
/// for its back-off. Requests that are refused take a quarter of it at most, and are then answered without one.
pub const TRANSACTIONS_MAX: usize = 200_000;

/// Deadlines, beyond twice those that count, before stale ones are looked for; about 400 KB.
pub(super) const TIMERS_SPARE: usize = 4_096;

/// How a REGISTER begins.
const REGISTER: &[u8] = b"REGISTER ";

/// The small core that the owners of the state stand around.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) settings: Settings,
    pub(super) random: Random,
    /// Signs flow tokens and names push bindings.
    pub(super) token_key: TokenKey,
    /// Makes this endpoint's Call-IDs and From tags its own.
    pub(super) epoch: String,
    pub(super) outputs: VecDeque<Output>,
    pub(super) timers: Timers<Timer>,
    /// How many deadlines there may be before those that mean nothing any more are looked for.
    pub(super) sweep_timers_at: usize,
    pub(super) transactions: Table<ClientOwner, ServerOwner>,
    /// The addresses to which a REGISTER was sent again since they were looked at last.
    pub(super) sent_again: Vec<IpAddr>,
    /// The peers of streams that have ended before their requests were answered.
    pub(super) returns: HashMap<FlowId, Return>,
}

/// The owner of a deadline. Each binding has one in the heap, so long and rare variants are boxed.
#[derive(Debug)]
pub(super) enum Timer {
    Binding(BindingId),
    /// The credentials of a joining device may be tried again.
    Check(BindingId),
    /// An unregistration has taken long enough.
    Unbind(BindingId),
    /// A REGISTER that an unregistration has overtaken is sent again no more.
    Again(BindingId),
    Upstream(UpstreamId),
    /// A SIP server was remembered for long enough after its last REGISTER had failed.
    Held(UpstreamId),
    /// The next few registrations of an upstream may start.
    Pace(UpstreamId),
    /// A device's registration ends.
    Device(InstanceId),
    Call(CallId),
    /// An INVITE has waited long enough for its binding's first REGISTER.
    Overtaking,
    /// The flow that a better one has replaced is no longer needed.
    ReplacedFlow(UpstreamId, Box<FlowId>),
    /// The peer of an ended stream is no longer needed: none of its requests can still be answered.
    Return(Box<FlowId>),
    /// A stream is of no further use.
    Linger(Box<FlowId>),
    /// A request has waited long enough for its peer to come back.
    Parked(OfflinePeer),
    /// A device has had long enough to come back for what it has asked.
    Asked(InstanceId),
    /// The messages by this flow have waited long enough for their device to prove itself there.
    Unproven(Box<FlowId>),
    /// The call can be forgotten.
    Forget(CallId),
    /// A call of this caller was missed, and has not come again.
    Missed(Box<(BindingId, CallerKey)>),
    /// The dialogs of an instance that was enabled again are over.
    Successors,
    Message(MessageRequestId),
    /// A device may have left what it was sent without any response.
    Unheard(BranchId),
    Subscription(BindingId),
    /// A REGISTER has waited long enough for a flow to its SIP server.
    ForwardedRegister(ForwardedRegisterId),
    /// A registration that passed through is to be refreshed, or ends.
    PushBinding(InstanceId),
    /// The answer to its REGISTER has waited long enough.
    HeldAnswer(InstanceId),
    /// The dialogs of an instance that another node has may be over.
    Elsewhere(InstanceId),
}

/// The owner of a client transaction, which its outcome concerns.
#[derive(Clone, Copy, Debug)]
pub(super) enum ClientOwner {
    Register(BindingId),
    /// OPTIONS to a better address.
    FailbackProbe(UpstreamId),
    Leg(CallId),
    Subscribe(BindingId),
    /// A MESSAGE that was sent to a device.
    Message(MessageRequestId),
    /// A request that is forwarded, inside a dialog or to begin one, and the SIP server that it is forwarded to.
    Forwarded(ServerId, Option<UpstreamId>),
    /// A REGISTER that passes through.
    ForwardedRegister(ForwardedRegisterId),
    /// The answer has no receiver.
    Nobody,
}

impl ClientOwner {
    /// Whether the request is this relay's own: its responses have one Via. All others have the Via of the original sender as well.
    pub(super) fn begins_here(self) -> bool {
        matches!(self, Self::Register(_) | Self::FailbackProbe(_) | Self::Subscribe(_))
    }
}

/// The owner of a server transaction, which a CANCEL concerns.
#[derive(Clone, Copy, Debug)]
pub(super) enum ServerOwner {
    Call(CallId),
    Forwarded(BranchId),
    /// An INVITE that waits for the first REGISTER of its binding, and which of them.
    Overtaking(BindingId, BranchId),
    /// A request that waits for its peer, and the branch that it will have.
    Parked(OfflinePeer, BranchId),
    Nobody,
}

/// The peer of a dialog that has no flow at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum OfflinePeer {
    /// A device that has no flow.
    Device(InstanceId),
    /// A SIP server to which no flow is up.
    Server(UpstreamId),
}

impl Core {
    pub(super) fn new(settings: Settings, mut random: Random) -> Self {
        Self {
            token_key: TokenKey::new(settings.token_key),
            epoch: random.tag(),
            random,
            outputs: VecDeque::new(),
            timers: Timers::default(),
            sweep_timers_at: TIMERS_SPARE,
            sent_again: Vec::new(),
            returns: HashMap::new(),
            transactions: Table::new(TRANSACTIONS_MAX, settings.timing.transaction, settings.upstream.allow_tcp),
            settings,
        }
    }

    pub(super) fn flush(&mut self) {
        // Before the response after which a CANCEL or an ACK may come.
        while let Some(change) = self.transactions.poll_invite() {
            self.event(Event::InviteTransaction(change));
        }
        while let Some(transmit) = self.transactions.poll_transmit() {
            if let FlowId::Datagram(peer) = transmit.flow
                && transmit.again
                && transmit.bytes.starts_with(REGISTER)
            {
                self.sent_again.push(peer.ip());
            }
            let otherwise = match transmit.flow {
                FlowId::Datagram(peer) if transmit.by_stream => {
                    Some(Output::SendLarge { peer, bytes: transmit.bytes.clone() })
                }
                ended @ FlowId::Stream(_) => self.returns.get(&ended).and_then(|way| way.answer(&transmit.bytes)),
                FlowId::Datagram(_) => None,
            };
            let usual = || Output::Send { flow: transmit.flow, bytes: transmit.bytes };
            self.outputs.push_back(otherwise.unwrap_or_else(usual));
        }
    }

    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    pub(super) fn send(&mut self, flow: FlowId, bytes: Bytes) {
        self.outputs.push_back(Output::Send { flow, bytes });
    }

    /// A fresh client transaction's branch, on this shard.
    pub(super) fn branch(&mut self) -> BranchId {
        BranchId::new(self.random.wide(), self.settings.tag)
    }

    pub(super) fn later(&mut self, now: Instant, after: Duration, timer: Timer) {
        self.timers.set(now + after, timer);
    }
}
