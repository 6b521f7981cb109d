//! What the use cases ask of a shard, and what it answers.
//!
//! Invariant: a request that carries a proof is obeyed only when the proof is the instance's own secret. An answer holds
//! a record in the sealed form alone.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sip::endpoint::{CallState, Mailbox, NewBinding, PushBinding};
use sip::id::{CallId, InstanceId, UpstreamId};
use tokio::sync::{mpsc, oneshot};

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

/// What a shard is asked.
pub enum Request {
    /// Bind an instance that is enabled.
    Bind {
        /// The instance.
        new: Box<NewInstance>,
        /// Where the outcome of the first registration goes.
        first: oneshot::Sender<FirstRegistration>,
    },
    /// Bind instances that were stored, and are taken over. One that is there already takes the new fence, and what comes with it; one that has ended before it came is
    /// turned away.
    TakeOver {
        /// The instances.
        new: Vec<NewInstance>,
        /// Where each is named when its SIP server has answered for the first time, or when it registers none.
        settled: mpsc::UnboundedSender<InstanceId>,
        /// The answer, when all are bound.
        reply: oneshot::Sender<()>,
    },
    /// The record of a new instance is stored; `false` when the instance has ended meanwhile.
    Stored {
        /// The instance.
        id: InstanceId,
        /// As it was stored, where that is not as it was bound.
        sealed: Option<Sealed>,
        /// What it was stored with.
        fence: Fence,
        /// It has the very credentials of a proven one of its binding, and gets calls from now on.
        vouched: bool,
        /// The answer.
        reply: oneshot::Sender<bool>,
    },
    /// How an instance stands.
    Look {
        /// The instance.
        id: InstanceId,
        /// Who asks.
        who: Principal,
        /// The answer.
        reply: oneshot::Sender<Result<InstanceStatus, Denied>>,
    },
    /// A changed record, already stored.
    Replace {
        /// The instance.
        id: InstanceId,
        /// The record.
        sealed: Sealed,
        /// When it ends.
        lease: LeaseExpiry,
        /// What it was stored with.
        fence: Fence,
        /// Which side registers from now on; `None`: as before.
        presence: Option<Presence>,
        /// The answer: how it stands now.
        reply: oneshot::Sender<Result<InstanceStatus, Denied>>,
    },
    /// End an instance.
    End {
        /// The instance.
        id: InstanceId,
        /// Who asks.
        who: Principal,
        /// How it ends.
        kind: EndKind,
        /// The answer, when all is done; `None`: nobody waits.
        reply: Option<WipeWaiter>,
    },
    /// What is still pushed for an instance that has ended is broken off: who may have its receipt asks for that.
    Silence {
        /// The instance.
        id: InstanceId,
        /// It is.
        reply: oneshot::Sender<()>,
    },
    /// One is about to end, and another one takes its place: calls and dialogs go on in that one's name, where it may.
    Succeed {
        /// The one that ends.
        earlier: InstanceId,
        /// The other one.
        successor: InstanceId,
    },
    /// Register an instance at once that waits after a failure: what may have stood in its way is gone.
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
    /// A call's state; with a request, after that was tried.
    Call {
        /// The instance.
        id: InstanceId,
        /// Who asks.
        who: Principal,
        /// The call.
        call: CallId,
        /// What is to be done with it.
        request: CallRequest,
        /// The answer.
        reply: oneshot::Sender<Result<Call, CallDenied>>,
    },
    /// Wake the devices of an account for a call that its SIP server holds.
    ExpectCall {
        /// Whose.
        aor: AorKey,
        /// Whose registrations of it are believed.
        servers: Servers,
        /// The caller, as the server names it; may be empty.
        from: Box<str>,
        /// The caller's display name.
        name: Option<Box<str>>,
        /// Where each device that was woken is named when it attaches; let go when none can come any more.
        arrivals: mpsc::UnboundedSender<InstanceId>,
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
    /// What happened to an instance, and how its mailbox stands.
    Activity {
        /// The instance.
        id: InstanceId,
        /// Who asks.
        who: Principal,
        /// The answer.
        reply: oneshot::Sender<Result<ActivityView, Denied>>,
    },
    /// Send a test push.
    Test {
        /// The instance.
        id: InstanceId,
        /// Who asks.
        who: Principal,
        /// The answer: where it goes.
        reply: oneshot::Sender<Result<Tested, TestDenied>>,
    },
    /// Record the SIP of an instance, or what about the recording.
    Trace {
        /// The instance.
        id: InstanceId,
        /// Who asks.
        who: Principal,
        /// What for.
        request: TraceRequest,
        /// The answer.
        reply: oneshot::Sender<Result<TraceAnswer, TraceDenied>>,
    },
    /// At most `limit` instances behind `after`, in the order of their ids.
    List {
        /// Where to go on.
        after: Option<InstanceId>,
        /// How many at most.
        limit: usize,
        /// The answer.
        reply: oneshot::Sender<Vec<InstanceStatus>>,
    },
    /// The instances of an account, however they came here, in order.
    OfAccount {
        /// Whose.
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
    /// Let go of a registration that passed through, which another node has ended, or has by now; unless it is another one than was looked at.
    LetGo {
        /// The registration.
        id: InstanceId,
        /// What it was put with when it was looked at.
        fence: Fence,
    },
    /// What waited for an instance to come here is judged: nothing more comes.
    JudgeEarly,
    /// Time has passed that no clock here has counted.
    LoseTime {
        /// So much of it, unless a clock was set.
        lost: Duration,
        /// So much for sure.
        for_sure: Duration,
    },
    /// Nothing is registered from here any more: another node takes it over.
    HandOver {
        /// Where it is named, from now on and of late, for which calls devices were woken.
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
        /// Which token, and since when.
        token: DeadToken,
    },
    /// The ids of all instances.
    Ids(oneshot::Sender<Vec<InstanceId>>),
    /// All whose record the store is to have as this node's, each with what it is put with; none that is on its way into the store, or out of it.
    Owned(oneshot::Sender<Vec<(InstanceId, Fence)>>),
    /// How many calls wait or are being set up.
    OpenCalls(oneshot::Sender<usize>),
    /// End every call that has no final answer yet; how many there were.
    EndCalls {
        /// Another node can take them.
        elsewhere: bool,
        /// The answer.
        reply: oneshot::Sender<usize>,
    },
}

/// An instance to bind.
pub struct NewInstance {
    /// Its id.
    pub id: InstanceId,
    /// Its record.
    pub sealed: Sealed,
    /// When it ends.
    pub lease: LeaseExpiry,
    /// Under which name its account is found.
    pub aor: AorKey,
    /// What its record is put with.
    pub fence: Fence,
    /// Its user was told that its registration fails, by an earlier run or another node.
    pub told_failing: bool,
    /// What the endpoint is told.
    pub binding: NewBinding,
    /// Where it counts.
    pub place: Holding,
}

/// A token that a push service calls gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadToken {
    /// By what it is known among the nodes ([`Vault::token_mark`](crate::vault::Vault::token_mark)).
    pub mark: [u8; 16],
    /// Since when, in milliseconds since 1970: by the service's word, or else when that came.
    pub since_ms: u64,
}

/// The SIP servers whose registrations of an AOR are believed: anybody may lend an account that he calls by that AOR, at a
/// registrar of his own.
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

/// What a shard has of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DevicesFound {
    /// Its instances whose devices are attached, or waited for.
    pub known: usize,
    /// Those whose device is attached already.
    pub attached: usize,
    /// Those whose device gets no call now that is announced; in none of the other numbers.
    pub silent: usize,
    /// Those that only the domain's addresses can decide about; in none of the other numbers.
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
    /// What its record is put with.
    pub fence: Fence,
    /// What the endpoint is told.
    pub registration: PushBinding,
    /// Its SIP server.
    pub upstream: UpstreamId,
    /// The Request-URI of that server.
    pub upstream_registrar: Box<str>,
    /// Where its requests go: host and port.
    pub server: String,
    /// The node that it was taken over from: the Path that its SIP server knows leads there.
    pub left_by: Option<Arc<str>>,
}

/// Who asks.
pub enum Principal {
    /// A device, with what it shows.
    Device(InstanceSecret),
    /// The relay itself, or its operator.
    Relay,
}

/// What is to be done with a call.
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
    /// Which one.
    pub id: InstanceId,
    /// Its record.
    pub sealed: Sealed,
    /// What its record is put with.
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
}

/// What is known of an instance beside its record.
#[derive(Clone, Debug, Default)]
pub struct ActivityView {
    /// What happened, oldest first.
    pub steps: Vec<Step>,
    /// How its mailbox stands, once the SIP server has told.
    pub mailbox: Option<Box<Mailbox>>,
}

/// Where a test push goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tested {
    /// To the alert target; else to the call target.
    pub alert: bool,
    /// The service.
    pub provider: Provider,
}

/// What is asked about the recording of an instance's SIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceRequest {
    /// Record from now on; what was recorded before is erased.
    Begin {
        /// For so many seconds; then all of it is erased.
        for_s: u64,
    },
    /// What has been recorded so far.
    Read,
    /// Erase it.
    End,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceAnswer {
    /// It is recorded.
    Begun {
        /// Until then, in seconds since 1970.
        until: u64,
    },
    /// A pcapng file.
    File(Vec<u8>),
    /// It is erased.
    Ended,
}

/// Why nothing is told of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceDenied {
    /// The one who asks may not.
    Denied(Denied),
    /// Nothing is recorded.
    None,
    /// Too many are recorded at once.
    TooMany,
}

/// Why no test push is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestDenied {
    /// The one who asks may not.
    Denied(Denied),
    /// There is only a VoIP token, which is for calls alone.
    NoTarget,
    /// It is too soon after the last ones.
    TooSoon {
        /// How long to wait, in seconds.
        wait_s: u64,
    },
}

/// Why a call's state is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallDenied {
    /// The one who asks may not.
    Denied(Denied),
    /// The instance has no such call, or not any more.
    UnknownCall,
    /// It has ended like this, so what is asked for cannot be.
    Over(CallState),
}
