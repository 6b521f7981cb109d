//! A whole relay in one process: wiring, listeners, drain.
//!
//! ```text
//! config ─ TLS, DNS, push keys, keyring, store ─ listeners ─ agent ─ service ─ api, operator
//! ```
//!
//! | room | what it is |
//! | --- | --- |
//! | `settings`, `listeners`, `push_services`, `unconfigured` | what a relay is made of, also without a configuration |
//! | `check`, `check_push`, `open_files`, `running_relay`, `swap` | whether it could start |
//! | `reload` | what changes while it runs |
//! | `chores` | the parts that work beside everything else |
//! | `audit_watch`, `certificate_watch`, `clock_watch`, `doubt_watch`, `keyring_watch`, `lost_time_watch`, `push_certificate_watch`, `shard_watch`, `store_watch` | what is watched, and told to the operator |
//!
//! Invariant: a relay that has started is reachable on every address that [`Running`] names. A drain ends within
//! [`CALLS_DRAIN`] and [`LAST_ANSWERS`]; it unregisters nothing: another process takes the bindings over.

mod audit_watch;
mod certificate_watch;
pub mod check;
pub mod check_push;
mod chores;
mod clock_watch;
mod doubt_watch;
mod keyring_watch;
mod listeners;
mod lost_time_watch;
pub mod open_files;
mod push_certificate_watch;
mod push_services;
mod reload;
pub mod running_relay;
mod settings;
mod shard_watch;
mod store_watch;
mod swap;
pub mod unconfigured;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sip::endpoint::{ContactHosts, Failover};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::agent::{self, Agent, NodeNews, RecordNote};
use crate::api::{self, Api};
use crate::aside::aside;
use crate::audit::{Audit, AuditError};
use crate::config::{self, Config};
use crate::doctor::Doctor;
use crate::limits::Quotas;
use crate::lock::Mutex;
use crate::metrics::Metrics;
use crate::net::dns::resolve::ResolveError;
use crate::net::drain::{Drain, Trigger, drain};
use crate::net::https;
use crate::net::listen::Listener;
use crate::net::tls::{ClientTls, ServerTls, TlsError};
use crate::operator::Operator;
use crate::operator::controls::Reloaded;
use crate::operator::readiness::{Check, Readiness, SHUTTING_DOWN};
use crate::otlp::Exporter;
use crate::push::{Network, PushService, SetupError, System};
use crate::service::{self, Service};
use crate::timing::ConnectionTiming;
use crate::vault::{Keyring, KeyringError, KeyringMismatch, StoreError, StoreFault, Vault};

use chores::chore;
use listeners::Listeners;
use push_services::{push_service, services};
use reload::{InForce, Reloader};
use settings::{PublicNames, Resolvers};

/// The time that calls being set up, and requests in others, have to end when the drain begins; then they are ended.
pub const CALLS_DRAIN: Duration = Duration::from_secs(10);

/// How long of it new calls are taken, while others wait with this node: one that comes later would have too little time left to be answered.
const CALLS_TAKEN: Duration = Duration::from_secs(5);
/// The least that those get of it which have come last.
const LAST_CALLS: Duration = Duration::from_secs(1);
/// The least that apps get which have asked last: an answer may wait for the store, or for the SIP server that an account is unregistered at.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// How long the request after a last answer may take to arrive: its ACK is a round trip away, and a phone without it ends its call.
const FOLLOWING: Duration = Duration::from_secs(1);

/// Why a relay cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificate, its key or a trusted CA.
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    /// No resolver can be built.
    #[error("DNS: {0}")]
    Dns(#[from] ResolveError),
    /// A push key cannot be used.
    #[error("push: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Push(Vec<SetupError>),
    /// The sealing keys.
    #[error("store.keyring: {0}")]
    Keyring(#[from] KeyringError),
    /// The sealing keys are not those of what is stored.
    #[error("store.keyring: {0}; {remedy}", remedy = .0.remedy())]
    Untried(KeyringMismatch),
    /// The store's URL.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The store may keep what was wiped.
    #[error("store.require_ephemeral: {0}; {remedy}", remedy = .0.remedy())]
    NotEphemeral(StoreFault),
    /// The audit trail.
    #[error("audit.directory: {0}")]
    Audit(#[from] AuditError),
    /// The folder of ACME.
    #[error("acme.state: {} cannot be used: {why}", folder.display())]
    Acme {
        /// The folder.
        folder: PathBuf,
        /// The system's word.
        why: io::Error,
    },
    /// No thread for a core.
    #[error("the system gives no thread for each core: {0}")]
    Threads(io::Error),
    /// A listener's address.
    #[error("{setting}: {address} cannot be listened on: {why}")]
    Listen {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: SocketAddr,
        /// The system's word.
        why: io::Error,
    },
}

/// A relay that is not running yet.
pub struct Relay;

/// A relay at work. Dropping it stops it without a drain.
pub struct Running {
    /// The address for devices.
    pub edge: SocketAddr,
    /// The address for devices by WebSocket, when they may.
    pub websocket: Option<SocketAddr>,
    /// The address that pushes and Record-Route name.
    pub public_edge: Box<str>,
    /// The address for apps.
    pub api: SocketAddr,
    /// The address for operators.
    pub operator: SocketAddr,
    /// The socket toward SIP servers, where UDP is in use.
    pub upstream_udp: Option<SocketAddr>,
    /// The address for SIP servers over TCP, where it is in use.
    pub upstream_tcp: Option<SocketAddr>,
    /// The address for SIP servers over TLS, where it is in use.
    pub upstream_tls: Option<SocketAddr>,
    /// The CA of a development certificate, in PEM.
    pub development_ca: Option<String>,
    /// The metrics of this relay.
    pub metrics: Metrics,
    agent: Agent,
    service: Service,
    vault: Vault,
    readiness: Readiness,
    stop: Trigger,
    close: Trigger,
    end: Trigger,
    https: Https,
    chores: Vec<JoinHandle<()>>,
    reloader: Arc<Reloader>,
    leave: Arc<Notify>,
}

/// The HTTPS servers.
struct Https {
    api: JoinHandle<()>,
    operator: JoinHandle<()>,
}

impl Relay {
    /// Starts a relay on the current runtime.
    ///
    /// # Errors
    /// [`StartError`] when something that the configuration names cannot be used. A store that does not answer is none:
    /// the relay starts, and is not ready.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        // One provider for all code that asks for the default (the Redis client); another relay may have been here before.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let ends = Ends::new();
        let metrics = Metrics::new();
        settings::prepare_acme(&config)?;
        let (tls, development_ca) = settings::server_tls(&config)?;
        let listeners = Listeners::open(&config, &tls, &metrics, &ends).await?;
        let public = PublicNames::of(&config.edge.public, &listeners);
        let vault = open_store(&config.store, &public.edge).await?;
        let audit = settings::audit(&config, &public.edge)?;
        let exporter = Exporter::start(config.otlp.as_ref(), &public.edge, &metrics)?;
        let resolvers = Resolvers::of(&config)?;
        let network: Arc<dyn Network> = Arc::new(System::new(resolvers.of_push_services().clone()));
        let (push, push_is_printed) = push_service(&config, &network, &metrics, None)?;
        let upstream_tls = ClientTls::new(config.upstream.ca_file.as_deref())?;
        let foundations = Foundations {
            quotas: Quotas::new(&config.limits, metrics.clone()),
            config,
            public,
            metrics,
            vault,
            audit,
            resolvers,
            network,
            push,
            push_is_printed,
            tls,
            order_again: Arc::default(),
            upstream_tls,
            development_ca,
        };
        let (to_record, record_notes) = mpsc::unbounded_channel();
        let (to_nodes, node_news) = mpsc::unbounded_channel();
        let agent = foundations.start_agent(&listeners, exporter, to_record, to_nodes, ends.ending.clone())?;
        let service = foundations.service(&agent, ends.stopping.clone());
        let opened = Opened { foundations, agent, service };
        Ok(opened.serve(listeners, Notes { record_notes, node_news }, ends))
    }
}

impl Running {
    /// Drains and stops: the requests being answered and the calls that are being set up to their end, at most [`CALLS_DRAIN`]; no new call once none
    /// waits any more, at the latest after half of that. Apps begin nothing; they are answered of their calls until those are over, operators until the
    /// end. Nothing is unregistered.
    pub async fn shutdown(mut self) {
        self.readiness.fail(Check::Serving, SHUTTING_DOWN);
        self.service.leave().await;
        self.stop.begin();
        let begun = Instant::now();
        // The store is asked for no longer than its own time limit; away, it knows of no other node.
        let failover = match self.vault.living_peers().await {
            Ok(peers) if !peers.is_empty() => Failover::OtherNode,
            _ => Failover::Nobody,
        };
        let (agent, api, close) = (&self.agent, &mut self.https.api, &self.close);
        let quiet = async {
            let were_open = agent.wait_for_calls().await;
            close.begin();
            // An error means that the task is gone, which is what is waited for.
            were_open | tokio::join!(&mut *api, agent.wait_for_calls()).1
        };
        let mut were_open = timeout(CALLS_TAKEN, quiet).await.unwrap_or(true);
        // From here on nothing begins to wait that would wait in vain, whatever the rest of the end takes.
        agent.refuse_calls(failover).await;
        let left = CALLS_DRAIN.saturating_sub(begun.elapsed()).max(LAST_CALLS);
        let last_calls = timeout(left, async {
            were_open |= agent.wait_for_calls().await;
            if were_open {
                sleep(FOLLOWING).await;
            }
        });
        let _ = last_calls.await;
        agent.end_calls(failover).await;
        close.begin();
        if !api.is_finished() {
            let left = CALLS_DRAIN.saturating_sub(begun.elapsed()).max(LAST_ANSWERS);
            let _ = timeout(left, api).await;
        }
        self.service.tell_left().await;
        self.agent.flush_erasures().await;
        if let Err(error) = self.service.give_up_lease().await {
            tracing::warn!(event = "lease-not-released", %error, "the lease could not be given up; others wait until it runs out");
        }
        self.end.begin();
        let (_, ()) = tokio::join!(&mut self.https.operator, self.agent.ended());
    }

    /// Reads the configuration and its files again, takes what can change, and says what became of it. Files may be slow: nothing but this waits for them.
    ///
    /// # Errors
    /// The system gives no thread to read with.
    pub fn reload(&self) -> io::Result<oneshot::Receiver<Reloaded>> {
        let reloader = self.reloader.clone();
        aside(move || reloader.reload())
    }

    /// Comes back when an operator has the relay drain.
    pub async fn asked_to_leave(&self) {
        self.leave.notified().await;
    }

    /// Tells whether the process serves, or may again by itself, as `/healthz` does.
    pub fn liveness(&self) -> impl Fn() -> bool + Send + use<> {
        let readiness = self.readiness.clone();
        move || readiness.is_alive()
    }

    /// How the agent is asked, for measurements.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.begin();
        self.close.begin();
        self.end.begin();
        for chore in &self.chores {
            chore.abort();
        }
    }
}

/// The ends of a relay: it stops taking what is new, closes the apps' door once no call waits, and then everything ends.
struct Ends {
    stop: Trigger,
    stopping: Drain,
    close: Trigger,
    closing: Drain,
    end: Trigger,
    ending: Drain,
}

impl Ends {
    fn new() -> Self {
        let (stop, stopping) = drain();
        let (close, closing) = drain();
        let (end, ending) = drain();
        Self { stop, stopping, close, closing, end, ending }
    }
}

/// The vault with its keys, as far as the store answers.
async fn open_store(store: &config::Store, node: &str) -> Result<Vault, StartError> {
    let keyring = match &store.keyring {
        Some(path) => Keyring::open_or_read(path)?,
        None => Keyring::ephemeral(),
    };
    let vault = settings::open_vault(store, keyring, node)?;
    vault.keep_tombstones()?;
    clock_watch::begin(&vault).await;
    // A store that does not answer is asked again before anything is stored.
    if let Ok(Some(fault)) = vault.begin_keyring().await {
        return Err(StartError::Untried(fault));
    }
    // A failed attempt is repeated, and reported, by the task that tends the keys.
    let _ = vault.tend_keys();
    if store.require_ephemeral {
        store_watch::require_ephemeral(&vault).await?;
    }
    Ok(vault)
}

/// The parts that agent and service stand on.
struct Foundations {
    config: Config,
    public: PublicNames,
    metrics: Metrics,
    vault: Vault,
    audit: Audit,
    resolvers: Resolvers,
    network: Arc<dyn Network>,
    push: PushService,
    push_is_printed: bool,
    quotas: Quotas,
    tls: Arc<ServerTls>,
    /// A certificate that could not be ordered is to be ordered now.
    order_again: Arc<Notify>,
    upstream_tls: ClientTls,
    development_ca: Option<String>,
}

impl Foundations {
    /// Starts the shards. The store is given the Contact hosts of this node, for the node that takes its accounts over.
    fn start_agent(
        &self,
        listeners: &Listeners,
        exporter: Exporter,
        record_notes: mpsc::UnboundedSender<RecordNote>,
        node_news: mpsc::UnboundedSender<NodeNews>,
        end: Drain,
    ) -> Result<Agent, StartError> {
        let config = &self.config;
        let endpoint = settings::endpoint(config, listeners, &self.public, &self.vault);
        self.vault.say(&service::write_note(&ContactHosts {
            udp: endpoint.upstream_udp.clone(),
            tcp: endpoint.upstream_tcp.clone(),
            tls: endpoint.upstream_tls.clone(),
        }));
        let agent = Agent::start(agent::Dependencies {
            vault: self.vault.clone(),
            push: self.push.clone(),
            push_is_printed: self.push_is_printed,
            domains: config.upstream.domains.clone(),
            flow_domains: config.edge.flow_domains.clone(),
            metrics: self.metrics.clone(),
            quotas: self.quotas.clone(),
            resolver: self.resolvers.of_sip_servers.clone(),
            tls: self.upstream_tls.clone(),
            failback_interval: config.upstream.failback_interval,
            bare_lf_servers: config.upstream.bare_lf_servers.clone(),
            connection_timing: ConnectionTiming { message: config.limits.message_timeout, ..config.timing.connection },
            udp: listeners.udp.clone(),
            early_ringing: config.call.early_ringing,
            subscribe: config.messages.subscribe_voicemail,
            keep_passwords: config.store.keep_passwords,
            audit: self.audit.clone(),
            exporter,
            lost_notice: config.timing.lost_notice.0,
            endpoint,
            shards: crate::timing::shards(),
            record_notes,
            node_news,
            end,
        });
        agent.map_err(StartError::Threads)
    }

    /// The use cases, which enable nothing any more when `drain` begins.
    fn service(&self, agent: &Agent, drain: Drain) -> Service {
        let (config, resolver) = (&self.config, self.resolvers.of_sip_servers.clone());
        Service::new(service::Dependencies {
            agent: agent.clone(),
            vault: self.vault.clone(),
            metrics: self.metrics.clone(),
            quotas: self.quotas.clone(),
            doctor: Doctor::of_relay(resolver.clone(), self.upstream_tls.clone(), &config.upstream),
            resolver,
            audit: self.audit.clone(),
            domains: config.upstream.domains.clone(),
            edge: self.public.edge.clone(),
            websocket: self.public.websocket.clone(),
            services: services(&config.apps, self.push_is_printed),
            drain,
        })
    }
}

/// The agent's requests to the service.
struct Notes {
    record_notes: mpsc::UnboundedReceiver<RecordNote>,
    node_news: mpsc::UnboundedReceiver<NodeNews>,
}

/// Everything there is before the first connection is served.
struct Opened {
    foundations: Foundations,
    agent: Agent,
    service: Service,
}

impl Opened {
    fn serve(self, listeners: Listeners, notes: Notes, ends: Ends) -> Running {
        let readiness = Readiness::default();
        readiness.ask_push(self.foundations.push.clone());
        let at = listeners.addresses();
        let Listeners { edge, websocket, api, operator, acme, tls, tcp, udp: _ } = listeners;
        self.serve_sip(edge, websocket, [tls, tcp], ends.ending.clone());
        let handlers = self.handlers(&readiness);
        let (api_routes, operator_routes) = (handlers.api.router(), handlers.operator.router());
        let history = handlers.operator.history().clone().keep(self.foundations.metrics.clone());
        let answering = api::answering(api_routes.clone(), operator_routes.clone(), self.foundations.vault.clone());
        let letters = self.service.clone().read_letters(answering);
        let leave = Arc::new(Notify::new());
        let reloader = self.connect_controls(handlers, leave.clone());
        let https = Https {
            api: tokio::spawn(https::serve(api, api_routes, ends.closing)),
            operator: tokio::spawn(https::serve(operator, operator_routes, ends.ending.clone())),
        };
        for check in [Check::Edge, Check::Api, Check::Upstream, Check::Serving] {
            readiness.pass(check);
        }
        let mut chores = self.chores(&readiness);
        chores.extend(self.certificate_by_acme(acme, &readiness, ends.ending));
        chores.extend([
            chore(&readiness, "telling other nodes", self.service.clone().tell_nodes(notes.node_news)),
            chore(&readiness, "writing down records", self.service.clone().write_down_notes(notes.record_notes)),
            chore(&readiness, "letters of other nodes", letters),
            chore(&readiness, "the last hour of the metrics", history),
            self.watch_shards(&readiness),
        ]);
        let Self { foundations, agent, service } = self;
        Running {
            edge: at.edge,
            websocket: at.websocket,
            public_edge: foundations.public.edge,
            api: at.api,
            operator: at.operator,
            upstream_udp: at.upstream_udp,
            upstream_tcp: at.upstream_tcp,
            upstream_tls: at.upstream_tls,
            development_ca: foundations.development_ca,
            metrics: foundations.metrics,
            agent,
            service,
            vault: foundations.vault,
            readiness,
            stop: ends.stop,
            close: ends.close,
            end: ends.end,
            https,
            chores,
            reloader,
            leave,
        }
    }

    /// Lets devices and SIP servers in.
    fn serve_sip(&self, edge: Listener, websocket: Option<Listener>, upstream: [Option<Listener>; 2], end: Drain) {
        self.agent.open_edge(edge);
        if let Some(listener) = websocket {
            self.agent.open_websocket(listener);
        }
        for listener in upstream.into_iter().flatten() {
            self.agent.open_upstream(listener);
        }
        self.agent.receive_datagrams(end);
    }

    /// The handlers of requests of apps and operators.
    fn handlers(&self, readiness: &Readiness) -> Handlers {
        let Foundations { config, public, metrics, vault, .. } = &self.foundations;
        let api = Api::new(settings::api(config, vault), self.service.clone(), metrics.clone());
        let operator = Operator::new(&config.operator.token, self.service.clone(), metrics.clone(), readiness.clone());
        operator.take_token(&config.operator, config.source.as_deref());
        operator.introduce(&public.edge);
        operator.know_apps(config.apps.iter().map(|app| app.id.clone()).collect());
        Handlers { api, operator }
    }

    /// Has the operator's door reload the relay, and have it leave by `leave`.
    fn connect_controls(&self, handlers: Handlers, leave: Arc<Notify>) -> Arc<Reloader> {
        let foundations = &self.foundations;
        let controls = handlers.operator.controls().clone();
        let reloader = Arc::new(Reloader {
            running: Mutex::new(InForce::of(foundations.config.clone())),
            tls: foundations.tls.clone(),
            order_again: foundations.order_again.clone(),
            upstream_tls: foundations.upstream_tls.clone(),
            push: foundations.push.clone(),
            network: foundations.network.clone(),
            metrics: foundations.metrics.clone(),
            api: handlers.api,
            operator: handlers.operator,
            vault: foundations.vault.clone(),
        });
        // The reloader has the operator's door, and that its controls: held from there, too, none of them would ever go.
        let reloading = Arc::downgrade(&reloader);
        let reload = move || reloading.upgrade().map(|reloader| reloader.reload()).unwrap_or_default();
        controls.connect(Box::new(reload), Box::new(move || leave.notify_one()));
        reloader
    }
}

/// The handlers of requests by HTTPS.
struct Handlers {
    api: Api<Service>,
    operator: Operator<Service>,
}

#[cfg(test)]
mod tests;
