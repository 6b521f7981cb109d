//! Requests from the use cases to a shard, and their answers.
//!
//! Invariant: a request that carries a proof is carried out only if the proof is the instance's own secret. An answer holds a record in its sealed form alone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sip::endpoint::{CallState, Failover, Mailbox, NewBinding, PushBinding};
use sip::id::{BindingId, CallId, InstanceId, UpstreamId};
use tokio::sync::{mpsc, oneshot, watch};

use crate::agent::tables::calls::Call;
pub use crate::agent::tables::instances::{Denied, EndKind, Erasure, FirstRegistration, WipeDone, WipeWaiter};
pub use crate::agent::tables::lease::LeaseExpiry;
use crate::agent::tables::timeline::Step;
pub use crate::agent::tables::woken_elsewhere::Woken;
use crate::domain::InstanceState;
use crate::domain::story::Story;
use crate::limits::holdings::Holding;
use crate::secret::InstanceSecret;
use crate::vault::record::{Presence, Provider, Reminder};
use crate::vault::{AorKey, Fence, Sealed};

/// Why this node releases a registration that passed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseReason {
    /// Its device has registered at another node.
    Moved,
    /// Another node has taken it over: its Path leads here alone.
    TakenOver,
    /// Another node has ended it, or it is no longer in the store.
    Ended,
}

/// The outcome of an instance's first registration after it was taken over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum FirstAnswer {
    /// It is registered, or there is nothing to register.
    Settled(InstanceId),
    /// It has failed, and is tried again.
    Failed(InstanceId),
}

/// Hears which state instances that were taken over reach.
#[derive(Clone)]
pub struct SettlingNews {
    /// Hears of each when its SIP server has answered for the first time, or when it registers none.
    pub answered: mpsc::UnboundedSender<FirstAnswer>,
    /// Hears of each whose registration has failed at first, when it is registered, or registers none any more.
    pub registered: mpsc::UnboundedSender<InstanceId>,
}

impl SettlingNews {
    /// Nobody waits for it.
    pub fn for_nobody() -> Self {
        Self { answered: mpsc::unbounded_channel().0, registered: mpsc::unbounded_channel().0 }
    }
}

/// By when a SIP server has answered the unregistration of another node, or has had its time: then what it may have removed is [registered
/// again](Request::RegisterAgain).
pub(crate) const UNREGISTERED: Duration = Duration::from_secs(4);

/// A request to a shard.
pub enum Request {
    /// Bind an instance that is enabled.
    Bind {
        /// The instance.
        new: Box<NewInstance>,
        /// Receives the outcome of the first registration.
        first: oneshot::Sender<FirstRegistration>,
    },
    /// Bind instances that were stored, and are taken over. An instance that is there already takes the new fence, and the rest of the record; one
    /// that has ended before it came is turned away.
    TakeOver {
        /// The instances.
        new: Vec<NewInstance>,
        /// Hears which state they reach.
        settled: SettlingNews,
        /// The answer, when all are bound.
        reply: oneshot::Sender<()>,
    },
    /// The record of a new instance is stored; `false` when the instance has ended meanwhile.
    Stored {
        /// The instance.
        id: InstanceId,
        /// The record as stored, where it differs from the bound one.
        sealed: Option<Sealed>,
        /// The fence under which the record was stored.
        fence: Fence,
        /// The instance has the very credentials of a proven one of its binding, and gets calls from now on.
        vouched: bool,
        /// The answer.
        reply: oneshot::Sender<bool>,
    },
    /// How an instance stands.
    Look {
        /// The instance.
        id: InstanceId,
        /// The requesting principal.
        who: Principal,
        /// The answer.
        reply: oneshot::Sender<Result<InstanceStatus, Denied>>,
    },
    /// A changed record, already stored.
    Replace {
        /// The instance.
        id: InstanceId,
        /// Its record.
        record: ChangedRecord,
        /// The answer: how it stands now.
        reply: oneshot::Sender<Result<InstanceStatus, Denied>>,
    },
    /// End an instance.
    End {
        /// The instance.
        id: InstanceId,
        /// The requesting principal.
        who: Principal,
        /// How it ends.
        kind: EndKind,
        /// The answer, when all is done; `None`: nobody waits.
        reply: Option<WipeWaiter>,
    },
    /// Break off the pushes still in flight for an ended instance: its receipt has been asked for.
    Silence {
        /// The instance.
        id: InstanceId,
        /// Answered when those pushes are broken off.
        reply: oneshot::Sender<()>,
    },
    /// An instance is about to end, and another one takes its place: its calls and dialogs go on in the name of the successor, where they may.
    Succeed {
        /// The instance that ends.
        earlier: InstanceId,
        /// The instance that takes its place.
        successor: InstanceId,
    },
    /// Register an instance at once that waits after a failure: the obstacle may be gone.
    RetryNow {
        /// The instance.
        id: InstanceId,
    },
    /// Register an instance again at once: what another node has unregistered may have been its registration.
    RegisterAgain {
        /// The instance.
        id: InstanceId,
    },
    /// End an instance on the relay's word, also when it comes here later: then it is turned away.
    EndAhead {
        /// The instance.
        id: InstanceId,
        /// How it ends.
        kind: EndKind,
        /// The answer, when all is done; [`Denied::Unknown`]: it is not here, and does not come.
        reply: WipeWaiter,
    },
    /// Release a registration that passed through, also when it comes here later, unless its device has made it anew since it ended.
    EndPassed {
        /// The registration.
        id: InstanceId,
        /// Its record, as it has ended.
        sealed: Sealed,
        /// The answer, as of [`Self::EndAhead`].
        reply: WipeWaiter,
    },
    /// End an instance that no node looks after, as its owner would: one that is not here is bound for its unregistration alone.
    EndLeft {
        /// The instance.
        new: Box<NewInstance>,
        /// How it ends.
        kind: EndKind,
        /// The answer, when all is done; [`Denied::Unknown`]: this node leaves.
        reply: WipeWaiter,
    },
    /// A call's state; with a request, after that was tried.
    Call {
        /// The instance.
        id: InstanceId,
        /// The requesting principal.
        who: Principal,
        /// The call.
        call: CallId,
        /// The action on the call.
        request: CallRequest,
        /// The answer.
        reply: oneshot::Sender<Result<Call, CallDenied>>,
    },
    /// Wake the devices of an account for a call that its SIP server holds.
    ExpectCall {
        /// The account's AOR, as its key.
        aor: AorKey,
        /// The SIP servers whose registrations of the AOR are believed.
        servers: Servers,
        /// The caller, as the server names it; may be empty.
        from: Box<str>,
        /// The caller's display name.
        name: Option<Box<str>>,
        /// Whether it is only looked who is there.
        looks: bool,
        /// The receiver of the answer.
        requester: WakeRequester,
        /// The answer, at once.
        reply: oneshot::Sender<DevicesFound>,
    },
    /// All calls of an instance that are still known.
    Calls {
        /// The instance.
        id: InstanceId,
        /// The answer.
        reply: oneshot::Sender<Vec<(CallId, Call)>>,
    },
    /// The stories of calls that go on.
    Stories {
        /// The answer.
        reply: oneshot::Sender<Vec<Story>>,
    },
    /// The steps of an instance's timeline, oldest first.
    Timeline {
        /// The instance.
        id: InstanceId,
        /// The requesting principal.
        who: Principal,
        /// The answer.
        reply: oneshot::Sender<Result<Vec<Step>, Denied>>,
    },
    /// Send a test push.
    Test {
        /// The instance.
        id: InstanceId,
        /// The requesting principal.
        who: Principal,
        /// The answer: where it goes.
        reply: oneshot::Sender<Result<Tested, TestDenied>>,
    },
    /// Record the SIP of an instance, or what about the recording.
    Trace {
        /// The instance.
        id: InstanceId,
        /// The requesting principal.
        who: Principal,
        /// The action on the recording.
        request: TraceRequest,
        /// The answer.
        reply: oneshot::Sender<Result<TraceAnswer, TraceDenied>>,
    },
    /// At most `limit` instances behind `after`, in the order of their ids.
    List {
        /// The id to go on after.
        after: Option<InstanceId>,
        /// How many at most.
        limit: usize,
        /// The answer.
        reply: oneshot::Sender<Vec<InstanceStatus>>,
    },
    /// Whether a call waits for the instance here, or goes on, or one is expected.
    IsInCall {
        /// The instance.
        id: InstanceId,
        /// The answer.
        reply: oneshot::Sender<bool>,
    },
    /// Whether a binding is registered here for another device than this one.
    IsRegistered {
        /// The binding.
        binding: BindingId,
        /// The device's instance, if it has one.
        besides: Option<InstanceId>,
        /// The answer.
        reply: oneshot::Sender<bool>,
    },
    /// The instances of an account, however they came here, in order.
    OfAccount {
        /// The account's AOR, as its key.
        aor: AorKey,
        /// The answer.
        reply: oneshot::Sender<Vec<InstanceStatus>>,
    },
    /// Keep a registration that passed through an earlier run.
    Adopt {
        /// The registration.
        new: Box<KnownPushBinding>,
        /// The answer, at once: `false` when it has ended before it came.
        reply: oneshot::Sender<bool>,
    },
    /// Release a registration that passed through, which another node has ended, or has by now; unless it is another one than was looked at.
    Release {
        /// The registration.
        id: InstanceId,
        /// Whether another node has it, or its device has removed it.
        why: ReleaseReason,
        /// The fence of the record at the time of the look-up.
        fence: Fence,
    },
    /// Release an instance that another run has taken over, when no call waits for it here any more; unless it is another one than was looked at.
    LeaveToOwner {
        /// The instance.
        id: InstanceId,
        /// Its fence here at the time of the look-up.
        fence: Fence,
        /// Until when calls are waited for.
        until: Instant,
        /// Its record, as that run has it; `None`: this is another look.
        record: Option<Sealed>,
    },
    /// Judge the requests that waited for an instance to arrive here: no more instances come.
    JudgeClaimed,
    /// Time has passed that no clock here has counted.
    LoseTime {
        /// So much of it, unless a clock was set.
        lost: Duration,
        /// So much for sure.
        for_sure: Duration,
    },
    /// Stop registering from here: another node takes everything over.
    HandOver {
        /// Receives the calls for which devices were woken, from now on and of late.
        woken: mpsc::UnboundedSender<Woken>,
        /// The answer, when those of late are named.
        reply: oneshot::Sender<()>,
    },
    /// A node that leaves has woken these.
    WokenElsewhere(Box<[Woken]>),
    /// Another node has taken these over, while this one ends.
    TakenOver(Box<[InstanceId]>),
    /// A node that leaves was told by a push service that a token is gone.
    TokenDead {
        /// The instance that has it, or had it.
        id: InstanceId,
        /// The token, and since when it is dead.
        token: DeadToken,
    },
    /// The ids of all instances, each with whether its Contact stands at its SIP server.
    Ids(oneshot::Sender<Vec<(InstanceId, bool)>>),
    /// All whose record the store is to have as this node's, each with what it is put with; none that is on its way into the store, or out of it.
    Owned(oneshot::Sender<Vec<(InstanceId, Fence)>>),
    /// The stored instances that do not end, and whose requests go to one of these SIP servers.
    AtServer {
        /// The SIP servers, in order.
        upstreams: Arc<[UpstreamId]>,
        /// The answer, in no order.
        reply: oneshot::Sender<Vec<AtServer>>,
    },
    /// How many calls wait or are being set up.
    OpenCalls(oneshot::Sender<usize>),
    /// Take no new call from now on: it is refused, and wakes nobody.
    RefuseCalls {
        /// The next owner of the calls.
        failover: Failover,
        /// The answer.
        reply: oneshot::Sender<()>,
    },
    /// End every call that has no final answer yet, and answer every other request; how many there were.
    EndCalls {
        /// The next owner of the calls.
        failover: Failover,
        /// The answer.
        reply: oneshot::Sender<LeftOpen>,
    },
}

/// A record that was changed and stored.
pub struct ChangedRecord {
    /// The record.
    pub sealed: Sealed,
    /// Its end.
    pub lease: LeaseExpiry,
    /// Its end before this node changed it, in seconds since 1970; `None`: another node has changed it.
    pub was: Option<u64>,
    /// The fence under which it was stored.
    pub fence: Fence,
    /// Which side registers from now on; `None`: as before.
    pub presence: Option<Presence>,
}

/// What a shard had open when it ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeftOpen {
    /// Calls that were being set up.
    pub calls: usize,
    /// Other requests, in calls and outside.
    pub requests: usize,
    /// REGISTERs that pass through: nobody waits for them, for phones send one after the other.
    pub registers: usize,
}

impl Request {
    /// Whether it leads to a push, or has a push service's word end an instance.
    pub(crate) fn is_of_pushes(&self) -> bool {
        matches!(self, Self::ExpectCall { .. } | Self::Test { .. } | Self::TokenDead { .. })
    }

    /// Whether the push that it is to lead to is wanted by nobody any more: who asked for it is gone.
    pub(crate) fn is_given_up(&self) -> bool {
        match self {
            Self::ExpectCall { requester, reply, .. } => reply.is_closed() || requester.answered.has_changed().is_err(),
            Self::Test { reply, .. } => reply.is_closed(),
            _ => false,
        }
    }
}

/// An instance of a SIP server.
#[derive(Clone, Copy, Debug)]
pub struct AtServer {
    /// Its id.
    pub id: InstanceId,
    /// The binding that it shares with the other devices of its account.
    pub binding: BindingId,
    /// How it stands.
    pub state: InstanceState,
    /// Whether its SIP server has said no.
    pub is_refused: bool,
    /// Whether it, or its binding, was ever registered from here.
    pub was_registered: bool,
}

/// An instance to bind.
pub struct NewInstance {
    /// Its id.
    pub id: InstanceId,
    /// Its record.
    pub sealed: Sealed,
    /// When it ends.
    pub lease: LeaseExpiry,
    /// The key by which its account is found.
    pub aor: AorKey,
    /// The fence under which its record is stored.
    pub fence: Fence,
    /// Its user was told that its registration fails, by an earlier run or another node.
    pub told_failing: bool,
    /// The binding as the endpoint gets it.
    pub binding: NewBinding,
    /// The instance's count in the holdings.
    pub place: Holding,
}

/// A token that a push service calls gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadToken {
    /// The mark by which the nodes know it ([`Vault::token_mark`](crate::vault::Vault::token_mark)).
    pub mark: [u8; 16],
    /// Since when, in milliseconds since 1970: by the service's word, or else when that came.
    pub since_ms: u64,
}

/// The SIP servers whose registrations of an AOR are believed. Any user may lend an account under any AOR, at a registrar of their own.
#[derive(Clone, Debug)]
pub struct Servers {
    /// The AOR's domain.
    pub domain: Box<str>,
    /// Hosts that the operator names beside it.
    pub registrars: Arc<[Box<str>]>,
    /// The domain's addresses. `None`: they are not known yet, and only names decide; `Some`: they decide about the
    /// registrations that no name decided about.
    pub addresses: Option<Arc<[IpAddr]>>,
}

/// The request of a SIP server that holds a call until its devices are awake.
#[derive(Clone, Debug)]
pub struct WakeRequester {
    /// The longest wait.
    pub wait: Duration,
    /// Reports each device that was woken; closed when no further device can come.
    pub arrivals: mpsc::UnboundedSender<Arrival>,
    /// `true` once the SIP server has its answer. Closed without it, the SIP server has hung up.
    pub answered: watch::Receiver<bool>,
}

/// The state of a device that was woken for a call which its SIP server holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It has attached.
    Came,
    /// Its app has come to the foreground, or wants no calls any more.
    Unwanted,
}

/// The devices of an account on a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DevicesFound {
    /// Its instances whose devices are attached, or waited for.
    pub known: usize,
    /// Instances whose device is attached already.
    pub attached: usize,
    /// Instances whose device gets no announced call now; in none of the other numbers.
    pub silent: usize,
    /// Instances that only the domain's addresses can decide about; in none of the other numbers.
    pub undecided: usize,
}

/// A registration that passed through an earlier run (RFC 8599).
pub struct KnownPushBinding {
    /// Its id.
    pub id: InstanceId,
    /// Its record.
    pub sealed: Sealed,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
    /// The fence under which its record is stored.
    pub fence: Fence,
    /// The registration as the endpoint gets it.
    pub registration: PushBinding,
    /// Its SIP server.
    pub upstream: UpstreamId,
    /// The Request-URI of that server.
    pub upstream_registrar: Box<str>,
    /// The server that its requests go to: host and port.
    pub server: String,
    /// The node that its device registered by, where that is another one: the Path that its SIP server knows leads there.
    pub left_by: Option<Arc<str>>,
    /// When its SIP server was asked for it last, in milliseconds since 1970.
    pub confirmed_at_ms: u64,
}

/// The requesting party.
pub enum Principal {
    /// A device, with what it shows.
    Device(InstanceSecret),
    /// The relay itself, or its operator.
    Relay,
}

/// The action on a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallRequest {
    /// Nothing.
    Look,
    /// The device rings.
    Ring,
    /// The device declines.
    Decline,
}

/// How an instance stands.
#[derive(Clone, Debug)]
pub struct InstanceStatus {
    /// The instance's id.
    pub id: InstanceId,
    /// Its record.
    pub sealed: Sealed,
    /// The fence under which its record is stored.
    pub fence: Fence,
    /// How it stands.
    pub state: InstanceState,
    /// The SIP status of the last answer.
    pub status: Option<u16>,
    /// Until when its registration stands, in seconds since 1970; 0: it does not.
    pub registered_until: u64,
    /// Since when its registration has been lost, in seconds since 1970, once its user was told.
    pub failing_since: Option<u64>,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
    /// The last reminder of its end.
    pub reminded: Option<Reminder>,
    /// How its mailbox stands, once the SIP server has told.
    pub mailbox: Option<Box<Mailbox>>,
    /// Whether the Contact of a relay that had it before may still be registered.
    pub is_replacing: bool,
}

/// The destination of a test push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tested {
    /// To the alert target; else to the call target.
    pub alert: bool,
    /// The service.
    pub provider: Provider,
}

/// The action on the recording of an instance's SIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceRequest {
    /// Record from now on; an earlier recording is erased.
    Begin {
        /// For so many seconds; then all of it is erased.
        for_s: u64,
    },
    /// Read the recording so far.
    Read,
    /// Erase the recording.
    End,
}

/// The outcome of a [`TraceRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceAnswer {
    /// The recording is under way.
    Begun {
        /// Until then, in seconds since 1970.
        until: u64,
    },
    /// A pcapng file.
    File(Vec<u8>),
    /// The recording is erased.
    Ended,
}

/// Why nothing is told of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceDenied {
    /// The requester has no access.
    Denied(Denied),
    /// Nothing is recorded.
    None,
    /// Too many are recorded at once.
    TooMany,
}

/// Why no test push is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestDenied {
    /// The requester has no access.
    Denied(Denied),
    /// There is only a VoIP token, which is for calls alone.
    NoTarget,
    /// The last test pushes were too recent.
    TooSoon {
        /// How long to wait, in seconds.
        wait_s: u64,
    },
}

/// Why a call's state is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallDenied {
    /// The requester has no access.
    Denied(Denied),
    /// The instance has no such call, or not any more.
    UnknownCall,
    /// The call has ended like this, so the action is not possible.
    Over(CallState),
}

#[cfg(test)]
mod tests {
    use sip::id::ShardTag;

    use super::*;

    #[test]
    fn a_push_is_given_up_when_who_asked_for_it_is_gone() {
        let id = InstanceId::new(1 << 64, ShardTag(1));
        let (reply, answer) = oneshot::channel();
        let test = Request::Test { id, who: Principal::Relay, reply };
        assert!(!test.is_given_up());
        drop(answer);
        assert!(test.is_given_up());
        for is_answer_waited_for in [true, false] {
            let ((reply, answer), (asked, answered)) = (oneshot::channel(), watch::channel(false));
            let requester = WakeRequester { wait: Duration::ZERO, arrivals: mpsc::unbounded_channel().0, answered };
            let servers = Servers { domain: "example.test".into(), registrars: Arc::new([]), addresses: None };
            let aor = AorKey::of_number(1);
            let expect =
                Request::ExpectCall { aor, servers, from: "".into(), name: None, looks: false, requester, reply };
            assert!(!expect.is_given_up());
            if is_answer_waited_for {
                drop(asked);
            } else {
                drop(answer);
            }
            assert!(expect.is_given_up());
        }
    }
}
