//! The agent: drives the SIP endpoints, and joins them to the network, the vault and the push services.
//!
//! ```text
//!  edge, upstream TLS/TCP ── transport::connections ─┐                        ┌─ Output::Send ── connections, datagrams
//!  upstream UDP ───────────── transport::datagrams ──┼─ ShardInput ── shard ──┼─ Output::Dial ── transport::dial
//!  use cases ──────────────── request::Request ──────┤   (one loop, one timer)├─ Event ───────── digest, pushes, wipes
//!  push verdicts, dials, erasures ───────────────────┘                        └─ replies
//! ```
//!
//! | room | what it is |
//! | --- | --- |
//! | `shard` | the loop around one [`Endpoint`], and what it does with each event and request |
//! | [`tables`] | what a shard remembers: instances, calls, timelines, leases |
//! | [`trace`] | the SIP of one instance, recorded with consent |
//! | [`transport`] | connections, listeners, datagrams, dialling, SIP servers |
//! | [`request`] | what the use cases ask of a shard, and its answers |
//! | `asking` | questions to the shards, and their answers |
//! | `claims` | what comes from other nodes, and goes to them |
//! | `delivery` | how a push is sent and its verdict named |
//! | `departures` | which nodes have said that they leave, and which live |
//! | `digest` | what is computed with a secret |
//! | `erasures` | what the store still has to erase |
//! | `refusal_doubts` | whether a SIP server is believed that it refuses an account |
//! | `silent_servers` | SIP servers that answer nothing here |
//! | [`stories`] | the stories of calls that are over |
//! | `token_doubts` | whether APNs is believed that a token is bad |
//! | `ownership` | whether this node is sure of what it owns |
//! | `last_calls` | the calls of a node that ends |
//! | `late_notes` | notes of missed calls that the store has not taken yet |
//! | `lost_time` | telling the shards that time has passed without this machine |
//!
//! Invariant: an instance lives on one shard, the one that its id names. Nothing in a shard's loop waits for the store, a
//! push service, DNS or a peer: what takes time runs in a task and comes back as a [`ShardInput`].

mod asking;
mod claims;
mod delivery;
mod departures;
pub(crate) mod digest;
mod erasures;
mod last_calls;
mod late_notes;
mod lost_time;
mod ownership;
mod refusal_doubts;
pub mod request;
mod shard;
mod silent_servers;
pub mod stories;
pub(crate) mod tables;
mod token_doubts;
pub(crate) mod trace;
pub(crate) mod transport;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sip::bucket::Rate;
use sip::endpoint::{ContactsRemoved, Endpoint, Input, Settings, Side, Source};
use sip::id::{FlowId, InstanceId, ShardTag};
use sip::message::Message;
use tokio::sync::{mpsc, oneshot};

use crate::audit::Audit;
use crate::clock;
use crate::config::{DomainRules, EarlyRinging};
use crate::cores::Cores;
use crate::limits::Quotas;
use crate::metrics::Metrics;
use crate::net::dns::resolve::Resolver;
use crate::net::drain::Drain;
use crate::net::listen::Listener;
use crate::net::tls::ClientTls;
use crate::net::udp::Udp;
use crate::otlp::Exporter;
use crate::push::{Event, Push, PushService, Unsent, Verdict};
use crate::timing::ConnectionTiming;
use crate::vault::record::{PushTarget, Reminder};
use crate::vault::{AorKey, Vault};
use departures::Departures;
use erasures::Erasures;
use late_notes::LateNotes;
use ownership::Ownership;
use refusal_doubts::RefusalDoubts;
use request::{DeadToken, NewInstance, Request, SettlingNews};
use shard::Shard;
use silent_servers::SilentServers;
use stories::Stories;
use token_doubts::TokenDoubts;
use transport::datagrams;
use transport::dial::Dialler;
use transport::invite_shards::InviteShards;
use transport::large::LargeStreams;
use transport::listeners::{self, ListenerKind};
use transport::name_shards::NameShards;
use transport::outbox::Writer;
use transport::servers::{LfServers, OwnNames};
use transport::upstreams::Upstreams;

pub(crate) use digest::same_credentials;
#[doc(hidden)]
pub use digest::verify_device;
pub use digest::{Asked, Unanswerable, give_up_password};
pub use silent_servers::SilentServer;
pub use tables::calls::Call;

/// Inputs that wait for one shard; with more, their senders wait (streams, use cases) or they are dropped (datagrams).
const INBOX: usize = 8 * 1024;
/// Shards at most: a flow remembers which it has told in as many bits.
const SHARDS_MAX: usize = 128;

/// An input of a shard.
enum ShardInput {
    /// For its endpoint.
    Sip {
        /// When it was read from the network.
        at: Instant,
        /// The endpoint's input.
        input: Input,
    },
    /// How to write on a stream; comes before anything from it.
    Flow {
        /// The stream.
        flow: FlowId,
        /// The way to write.
        writer: Writer,
        /// The address at its other end.
        peer: SocketAddr,
    },
    /// The outcome of a call's push.
    Pushed(Box<Pushed>),
    /// A call's push was taken a while ago: it is sent a second time unless its device has given a sign.
    SignDue(Box<Pushed>),
    /// A call's push was held back for a device that had come: what becomes of it now.
    PushResumed { pushed: Box<Pushed>, is_silent: bool },
    /// A requester that waited for devices is there no more, and had no answer.
    RequesterGone(shard::expected_calls::RequesterGone),
    /// A push is to be tried again: where it goes now.
    TargetAsked {
        /// The device.
        instance: InstanceId,
        /// The event to push.
        event: Event,
        /// The App and the token; `None`: nowhere else.
        reply: oneshot::Sender<Option<(Box<str>, PushTarget)>>,
    },
    /// Whether a connection's peer is a SIP server of a binding there.
    ServerAsked {
        /// The connection.
        source: Box<Source>,
        /// Whether it is.
        reply: oneshot::Sender<bool>,
    },
    /// The store's outcome for a message.
    MessageStored(Box<shard::messages::MessageStored>),
    /// How a mailbox stood when a run told the store last, if one has.
    MailboxRead(Box<(InstanceId, Option<sip::endpoint::Mailbox>)>),
    /// The outcome of an alert push.
    AlertEnded(Box<shard::alerts::AlertEnded>),
    /// The store was asked to erase this instance.
    Erased(InstanceId, Option<request::Erasure>),
    /// The store has done what it was asked about a registration that passed through.
    PushBindingStored {
        /// The registration's id.
        id: InstanceId,
        /// The fence for the next write.
        fence: crate::vault::Fence,
    },
    /// Whether the node lives that these registrations passed through.
    OrphanedBindings {
        /// The node's name.
        node: Arc<str>,
        /// The registrations whose turn it is, if any.
        ids: Vec<InstanceId>,
        /// The node has its lease; `None`: the store does not say.
        lives: Option<bool>,
    },
    /// The outcome of a look-up for requests that name a registration by our Path.
    PathLookedUp(Box<(shard::path_lookups::LookupSubject, shard::path_lookups::LookedUp)>),
    /// The store's verdict on the proof of a device whose instance is not here, by the method that the device used.
    ProofJudged(Box<(sip::endpoint::VerificationId, Box<str>, shard::elsewhere::Judged)>),
    /// The addresses of the SIP server of a REGISTER that passes through and carries a proof.
    ServerFound(Box<(sip::endpoint::RouteRequest, Vec<SocketAddr>)>),
    /// The store does not take the record of a registration at present.
    PushBindingUnkept(InstanceId),
    /// An operator has waited long enough for the store to erase a registration that passed through.
    PushBindingWaited(InstanceId),
    /// A push that outlives its instance has ended.
    FinalPushEnded(InstanceId, u64),
    /// A requester of a receipt has waited long enough for such pushes.
    ReceiptWaitOver(InstanceId),
    /// From a use case.
    Request(Box<Request>),
}

impl ShardInput {
    /// For the endpoint, now.
    fn sip(input: Input) -> Self {
        Self::Sip { at: clock::now(), input }
    }
}

/// The outcome of a call's push.
struct Pushed {
    /// The token that it was pushed to.
    target: PushTarget,
    push: Push,
    round: PushRound,
    verdict: Verdict,
    /// How many copies of it the service may have taken for this token, in earlier rounds as well.
    copies: u32,
    /// Why it was not taken, as far as is known.
    said: Option<&'static str>,
    /// It has not left, and another one may go in its place.
    unsent: Option<Unsent>,
}

impl Pushed {
    /// How many copies of it the service may have taken for this token.
    fn copies_for(&self, target: &PushTarget) -> u32 {
        if target.is_same_token(&self.target) { self.copies } else { 0 }
    }
}

/// Which push of a call to a device it is; what is repeated after a failure stays of its round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PushRound {
    First,
    /// The device has given no sign after the first.
    Second,
}

/// A push service took a reminder of a lease's end, or may have: the record should say so.
#[derive(Clone, Copy, Debug)]
pub struct Reminded {
    /// The instance.
    pub id: InstanceId,
    /// The end that it was reminded of, in seconds since 1970.
    pub expires_at: u64,
    /// The reminder.
    pub reminder: Reminder,
}

/// An event on a shard that an instance's record is to hold.
#[derive(Clone, Debug)]
pub enum RecordNote {
    /// A push service took a reminder of the lease's end.
    Reminded(Reminded),
    /// A push service took that the registration fails, or that it is back.
    ToldFailing {
        /// The instance.
        id: InstanceId,
        /// The registration fails.
        fails: bool,
    },
    /// The end of this lease was told by another clock than the one that is trusted now, and was moved.
    EndMoved(InstanceId),
    /// A SIP server has accepted the credentials of this instance for the first time, after it was stored.
    Proven(InstanceId),
    /// A SIP server has accepted a password, and this is what it had asked for.
    Accepted {
        /// The instance.
        id: InstanceId,
        /// The challenges of the SIP server.
        asked: Vec<Asked>,
    },
}

/// A registration that passed through, and was not known here.
#[derive(Debug)]
pub struct Registered {
    /// Its id.
    pub id: InstanceId,
    /// Its account.
    pub account: AorKey,
    /// The mark of its device there: [`Vault::device_mark`].
    pub device: [u8; 16],
    /// When its REGISTER was sent on, in milliseconds since 1970.
    pub sent_ms: u64,
}

/// The nodes that hear of the end of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Leaving shards, which go on serving the calls of instances that they have handed over.
    LeavingNodes,
    /// All that live.
    AllNodes,
}

/// An event on a shard that concerns other nodes.
#[derive(Debug)]
pub enum NodeNews {
    /// An instance is being wiped.
    Wiped {
        /// The registration's id.
        id: InstanceId,
        /// The nodes that may have a copy of it.
        audience: Audience,
        /// Dropped when the nodes that may have it have heard it, or have had their time.
        told: oneshot::Sender<Infallible>,
    },
    /// A device has taken back what is not known here.
    ContactsRemoved(Box<ContactsRemoved>),
    /// A device has registered here what was not known here: what it has registered before at other nodes, by other push tokens, is over.
    Registered(Box<Registered>),
    /// This node had ended, and unregistered, what another one goes on with.
    Left {
        /// The instance.
        id: InstanceId,
        /// The audit trail says so, or will.
        is_noted: bool,
    },
    /// A device has shown the secret of an instance whose record is this node's, and which is not here.
    Shown(InstanceId),
    /// A push service calls the token of an instance gone that was handed over.
    TokenDead {
        /// The instance.
        id: InstanceId,
        /// The token, and since when it is dead.
        token: DeadToken,
    },
}

/// The way to every shard; cheap to clone.
#[derive(Clone)]
pub(crate) struct Shards {
    inboxes: Arc<[mpsc::Sender<ShardInput>]>,
    invites: InviteShards,
    names: NameShards,
    lf_servers: LfServers,
    /// The threads that the shards run on, with the state that belongs to them.
    cores: Cores,
}

impl Shards {
    fn new(inboxes: Vec<mpsc::Sender<ShardInput>>, cores: Cores) -> Self {
        let (invites, names) = match inboxes.len() {
            ..=1 => (InviteShards::default(), NameShards::default()),
            _ => (InviteShards::new(), NameShards::new()),
        };
        Self { inboxes: inboxes.into(), invites, names, lf_servers: LfServers::default(), cores }
    }

    fn knowing(self, lf_servers: LfServers) -> Self {
        Self { lf_servers, ..self }
    }

    fn len(&self) -> usize {
        self.inboxes.len()
    }

    /// The shard that a message from this side is for; `None`: any may answer it.
    fn of(&self, message: &Message, side: Side) -> Option<usize> {
        let transaction = || {
            let key = self.invites.is_kept().then(|| Endpoint::key_of_cancelled_or_acked(message, side)).flatten()?;
            self.invites.find(&key)
        };
        let said = || Endpoint::shard_of(message).map(|tag| tag.shard(self.len()));
        transaction().or_else(said).or_else(|| self.named(message).filter(|_| side == Side::Upstream))
    }

    /// The shard of what a registrar has named.
    fn named(&self, request: &Message) -> Option<usize> {
        self.names.find(&Endpoint::canonical_name(request.request_uri()?).0)
    }

    /// Tells a shard: at once, and where it has no room, when it has. So no connection that waits has room in its future for what it
    /// tells.
    fn send(&self, shard: usize, input: ShardInput) -> impl Future<Output = ()> + Send {
        let inbox = &self.inboxes[shard];
        // Another error means that the shard has ended, with the process about to.
        let full = match inbox.try_send(input) {
            Err(mpsc::error::TrySendError::Full(input)) => Some(Box::pin(inbox.send(input))),
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => None,
        };
        async {
            if let Some(full) = full {
                let _ = full.await;
            }
        }
    }

    /// Tells a shard if it has room.
    fn try_send(&self, shard: usize, input: ShardInput) {
        let _ = self.inboxes[shard].try_send(input);
    }
}

/// The dependencies of the agent.
pub struct Dependencies {
    /// The store.
    pub vault: Vault,
    /// The push services.
    pub push: PushService,
    /// Pushes are printed instead of sent.
    pub push_is_printed: bool,
    /// The SIP domains that registrations may pass through to.
    pub domains: DomainRules,
    /// Of these, those whose registrations may live by their flow alone, without push parameters.
    pub flow_domains: DomainRules,
    /// The metrics.
    pub metrics: Metrics,
    /// The limits of each source, account and SIP server.
    pub quotas: Quotas,
    /// DNS and the address policy.
    pub resolver: Resolver,
    /// TLS toward SIP servers, with the roots that it trusts.
    pub tls: ClientTls,
    /// How long an address that failed is left alone at first, and how often a better one is looked for.
    pub failback_interval: Duration,
    /// Hosts whose SIP servers see a bare LF as the end of a line, whatever they say.
    pub bare_lf_servers: Vec<Box<str>>,
    /// The waits of connections for SIP.
    pub connection_timing: ConnectionTiming,
    /// The upstream UDP socket, where UDP is in use.
    pub udp: Option<Udp>,
    /// When the caller first hears ringing.
    pub early_ringing: EarlyRinging,
    /// Whether the SIP servers are asked to tell how mailboxes stand.
    pub subscribe: bool,
    /// Whether a password stays when what it answers with is known.
    pub keep_passwords: bool,
    /// The audit trail.
    pub audit: Audit,
    /// The exporter of call traces.
    pub exporter: Exporter,
    /// How long a registration is lost before its user is told.
    pub lost_notice: Duration,
    /// The settings of each endpoint; the tag is set for each, and the node's pace is divided among them.
    pub endpoint: Settings,
    /// How many shards; 1 to 128.
    pub shards: usize,
    /// Receives the reminders that the agent has sent.
    pub record_notes: mpsc::UnboundedSender<RecordNote>,
    /// Receives events that concern other nodes.
    pub node_news: mpsc::UnboundedSender<NodeNews>,
    /// When everything ends, after the drain.
    pub end: Drain,
}

/// The state that the shards share.
struct Shared {
    departures: Departures,
    ownership: Ownership,
    quotas: Quotas,
    vault: Vault,
    push: PushService,
    token_doubts: TokenDoubts,
    refusal_doubts: RefusalDoubts,
    silent_servers: SilentServers,
    push_is_printed: bool,
    domains: DomainRules,
    flow_domains: DomainRules,
    metrics: Metrics,
    early_ringing: EarlyRinging,
    /// Whether the SIP servers are asked to tell how mailboxes stand.
    subscribe: bool,
    keep_passwords: bool,
    pub(crate) audit: Audit,
    exporter: Exporter,
    lost_notice: Duration,
    /// How long a call waits for a device, and how long that may ring.
    ring_timeout: Duration,
    answer_timeout: Duration,
    /// How long a device that is there may say nothing of a call.
    no_response: Duration,
    /// The edge's public address, as pushes name it.
    edge: Box<str>,
    udp: Option<Udp>,
    connection_timing: ConnectionTiming,
    shards: Shards,
    upstreams: Upstreams,
    dialler: Dialler,
    large: LargeStreams,
    erasures: Erasures,
    late_notes: LateNotes,
    stories: Stories,
    record_notes: mpsc::UnboundedSender<RecordNote>,
    node_news: mpsc::UnboundedSender<NodeNews>,
}

impl Shared {
    fn new(dependencies: Dependencies, shards: Shards) -> Self {
        let (metrics, endpoint) = (dependencies.metrics, dependencies.endpoint);
        let own = OwnNames { tls: endpoint.upstream_tls.clone(), tcp: endpoint.upstream_tcp.clone() };
        let shards = shards.knowing(LfServers::new(own, &dependencies.bare_lf_servers));
        let upstreams = Upstreams::new(dependencies.tls.clone());
        // Of the node, as the REGISTERs behind the connections are counted for each shard; as many at once as in a second.
        let per_second = endpoint.upstream.registrations_per_second.saturating_mul(shards.len() as u32);
        let dials_pace = Rate::per_second(per_second, per_second);
        let dialler = Dialler::new(
            (dependencies.resolver, dependencies.tls),
            (dependencies.failback_interval, dials_pace),
            dependencies.connection_timing,
            upstreams.clone(),
            shards.clone(),
            metrics.clone(),
            dependencies.quotas.limits(),
        );
        let large = LargeStreams::new(dependencies.connection_timing, shards.clone(), metrics.clone());
        Self {
            departures: Departures::default(),
            ownership: Ownership::default(),
            erasures: Erasures::start(dependencies.vault.clone(), metrics.clone(), dependencies.node_news.clone()),
            late_notes: LateNotes::start(dependencies.vault.clone(), metrics.clone()),
            stories: Stories::start(dependencies.vault.clone(), metrics.clone()),
            quotas: dependencies.quotas,
            vault: dependencies.vault,
            push: dependencies.push,
            token_doubts: TokenDoubts::default(),
            refusal_doubts: RefusalDoubts::default(),
            silent_servers: SilentServers::default(),
            push_is_printed: dependencies.push_is_printed,
            domains: dependencies.domains,
            flow_domains: dependencies.flow_domains,
            metrics,
            early_ringing: dependencies.early_ringing,
            subscribe: dependencies.subscribe,
            keep_passwords: dependencies.keep_passwords,
            audit: dependencies.audit,
            exporter: dependencies.exporter,
            lost_notice: dependencies.lost_notice,
            ring_timeout: endpoint.ring_timeout,
            answer_timeout: endpoint.answer_timeout,
            no_response: endpoint.timing.edge.no_response,
            edge: endpoint.edge,
            udp: dependencies.udp,
            connection_timing: dependencies.connection_timing,
            shards,
            upstreams,
            dialler,
            large,
            record_notes: dependencies.record_notes,
            node_news: dependencies.node_news,
        }
    }
}

/// The answers of shards that are binding instances.
pub struct Binding(Vec<oneshot::Receiver<()>>);

impl Binding {
    /// Waits until they have bound all of it.
    pub async fn ended(self) {
        for bound in self.0 {
            // An error means that the shards have ended.
            let _ = bound.await;
        }
    }
}

/// The agent of one relay; cheap to clone.
#[derive(Clone)]
pub struct Agent(Arc<Shared>);

/// The sockets for SIP over UDP: one for each of so many shards.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind_datagrams(shards: usize, address: SocketAddr) -> io::Result<Udp> {
    let shards = shards.clamp(1, SHARDS_MAX);
    Udp::bind(shards, address, &transport::steering::steering(shards))
}

impl Agent {
    /// Starts the shards, each on a core of its own, which run until the end that `dependencies` names.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(mut dependencies: Dependencies) -> io::Result<Self> {
        let count = dependencies.shards.clamp(1, SHARDS_MAX);
        // The operator's figure is the node's.
        let pace = &mut dependencies.endpoint.upstream.registrations_per_second;
        *pace = (*pace / count as u32).max(1);
        let (endpoint, end) = (dependencies.endpoint.clone(), dependencies.end.clone());
        let (senders, inboxes): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(INBOX)).unzip();
        let (ways, cores) = Cores::start(count)?;
        let shared = Arc::new(Shared::new(dependencies, Shards::new(senders, ways)));
        for (index, (inbox, core)) in inboxes.into_iter().zip(cores).enumerate() {
            let settings = Settings { tag: ShardTag(index as u16), ..endpoint.clone() };
            core.begin(Shard::new(index, settings, shared.clone()).run(inbox, end.clone()));
        }
        tokio::spawn(shared.dialler.clone().refresh(end));
        Ok(Self(shared))
    }

    /// A node has said that it leaves; it is expected back.
    pub fn note_leaving(&self, node: Arc<str>) {
        self.0.departures.note(node, clock::now());
    }

    /// Receives datagrams until `end`.
    pub fn receive_datagrams(&self, end: Drain) {
        if let Some(udp) = self.0.udp.clone() {
            for core in 0..udp.cores() {
                let (shards, metrics) = (self.0.shards.clone(), self.0.metrics.clone());
                self.0.shards.cores.carry(core, datagrams::receive(core, udp.clone(), shards, metrics, end.clone()));
            }
        }
    }

    /// Serves devices that connect here, until the listener ends.
    pub fn open_edge(&self, listener: Listener) {
        self.open(listener, ListenerKind::Edge);
    }

    /// Serves devices that connect here by WebSocket, until the listener ends.
    pub fn open_websocket(&self, listener: Listener) {
        self.open(listener, ListenerKind::Websocket);
    }

    /// Serves SIP servers that connect here, until the listener ends.
    pub fn open_upstream(&self, listener: Listener) {
        self.open(listener, ListenerKind::Upstream);
    }

    fn open(&self, listener: Listener, kind: ListenerKind) {
        let shared = &self.0;
        let (shards, metrics) = (shared.shards.clone(), shared.metrics.clone());
        tokio::spawn(listeners::serve(listener, kind, shared.connection_timing, shards, metrics));
    }

    /// The numbers of the SIP servers.
    pub fn upstreams(&self) -> &Upstreams {
        &self.0.upstreams
    }

    /// The stories of calls that are over.
    pub fn stories(&self) -> &Stories {
        &self.0.stories
    }

    /// Tells the shard of an instance.
    pub async fn tell(&self, id: InstanceId, request: Request) {
        let shard = id.tag().shard(self.0.shards.len());
        self.0.shards.send(shard, ShardInput::Request(Box::new(request))).await;
    }

    /// Has the shards bind the instances that were taken over; `settled` hears the state that each reaches.
    pub async fn bind_all(&self, new: Vec<NewInstance>, settled: &SettlingNews) -> Binding {
        let mut of_shard: Vec<Vec<NewInstance>> = (0..self.0.shards.len()).map(|_| Vec::new()).collect();
        for new in new {
            of_shard[new.id.tag().shard(self.0.shards.len())].push(new);
        }
        let mut binding = Vec::new();
        for (shard, new) in of_shard.into_iter().enumerate().filter(|(_, new)| !new.is_empty()) {
            let (reply, bound) = oneshot::channel();
            let take_over = Request::TakeOver { new, settled: settled.clone(), reply };
            self.0.shards.send(shard, ShardInput::Request(Box::new(take_over))).await;
            binding.push(bound);
        }
        Binding(binding)
    }

    /// Has the store erase an instance, and repeats that until it has.
    pub fn erase(&self, id: InstanceId, lookup: impl Into<Option<crate::vault::Lookup>>) {
        self.0.erasures.later(id, lookup.into());
    }

    /// Erases the waiting records in the store, as far as it answers; the next run goes on with the rest.
    pub async fn flush_erasures(&self) {
        /// How long a store may take that has just come back.
        const FLUSH: Duration = Duration::from_secs(2);
        let left = self.0.erasures.flush(FLUSH).await;
        if left > 0 {
            tracing::warn!(event = "erasures-left", left, "the store is away; the next run erases what is left");
        }
    }

    /// Waits until every shard has ended, and the connections have said their last words.
    pub async fn ended(&self) {
        self.0.shards.cores.ended().await;
    }
}
