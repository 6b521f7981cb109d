//! A whole relay in one process: wiring, listeners, drain.
//!
//! ```text
//! config ─ TLS, DNS, push keys, keyring, store ─ listeners ─ agent ─ service ─ api, operator
//! ```
//!
//! | room | what it is |
//! | --- | --- |
//! | `listeners`, `push_services`, `unconfigured` | what a relay is made of, also without a configuration |
//! | `check`, `check_push`, `open_files`, `running_relay`, `swap` | whether it could start |
//! | `reload` | what changes while it runs |
//! | `chore` | a part that works beside everything else |
//! | `audit_watch`, `certificate_watch`, `clock_watch`, `doubt_watch`, `keyring_watch`, `lost_time_watch`, `shard_watch`, `store_watch` | what is watched, and told to the operator |
//!
//! Invariant: a relay that has started is reachable on every address that [`Running`] names. A drain ends within
//! [`CALLS_DRAIN`] and the HTTPS listener's own limit; it unregisters nothing: another process takes the bindings over.

mod audit_watch;
mod certificate_watch;
pub mod check;
pub mod check_push;
mod chore;
mod clock_watch;
mod doubt_watch;
mod keyring_watch;
mod listeners;
mod lost_time_watch;
pub mod open_files;
mod push_services;
mod reload;
pub mod running_relay;
mod shard_watch;
mod store_watch;
mod swap;
pub mod unconfigured;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sip::endpoint::{ContactHosts, Settings, UpstreamPolicy};
use sip::id::ShardTag;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use crate::acme::{self, Acme};
use crate::agent::{self, Agent, NodeNews, RecordNote};
use crate::api::{self, Api};
use crate::aside::aside;
use crate::audit::{self, Audit, AuditError};
use crate::clock::DAY_S;
use crate::config::{self, Config, HostPort, Tls};
use crate::doctor::Doctor;
use crate::limits::Quotas;
use crate::metrics::Metrics;
use crate::metrics::labels::Warning;
use crate::net::address_policy::Reach;
use crate::net::dns::resolve::{ResolveError, Resolver};
use crate::net::drain::{Drain, Trigger, drain};
use crate::net::https;
use crate::net::listen::Listener;
use crate::net::tls::{ClientTls, ServerTls, TlsError};
use crate::net::udp::Udp;
use crate::operator::Operator;
use crate::operator::controls::Reloaded;
use crate::operator::readiness::{Check, Readiness};
use crate::otlp::Exporter;
use crate::push::{Network, PushService, SetupError, System, webpush};
use crate::regular_file;
use crate::service::{self, Service};
use crate::timing::ConnectionTiming;
use crate::vault::{self, Keyring, KeyringError, KeyringMismatch, StoreError, StoreFault, StoreTls, Vault};

use chore::chore;
use listeners::Listeners;
use push_services::{has_none, push_service, services, warn_of_unserved};
use reload::{InForce, Reloader};

/// The time that calls being set up have to end when the drain begins; then they are ended.
pub const CALLS_DRAIN: Duration = Duration::from_secs(10);

/// How long of it new calls are taken, while others wait with this node: one that comes later would have too little time left to be answered.
const CALLS_TAKEN: Duration = Duration::from_secs(5);
/// The least that those get of it which have come last.
const LAST_CALLS: Duration = Duration::from_secs(1);
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
        let (stop, stopping) = drain();
        let (end, ending) = drain();
        let metrics = Metrics::new();
        if let Some(acme) = &config.acme {
            let prepared = acme::Files::new(&acme.state).prepare(&acme.names);
            prepared.map_err(|why| StartError::Acme { folder: acme.state.clone(), why })?;
        }
        let (tls, development_ca) = server_tls(&config)?;
        let listeners = Listeners::open(&config, &tls, &metrics, &stopping, &ending).await?;
        let public_edge = named(&config.edge.public, listeners.edge.local_address());
        let public_websocket = listeners.websocket.as_ref().map(|listener| {
            let port = listener.local_address().port();
            named(&HostPort { port, host: config.edge.public.host.clone() }, listener.local_address())
        });
        let keyring = match &config.store.keyring {
            Some(path) => Keyring::open_or_read(path)?,
            None => Keyring::ephemeral(),
        };
        let vault = open_vault(&config.store, keyring, &public_edge)?;
        vault.keep_tombstones()?;
        clock_watch::begin(&vault).await;
        // A store that does not answer is asked again before anything is stored.
        if let Ok(Some(fault)) = vault.begin_keyring().await {
            return Err(StartError::Untried(fault));
        }
        // A failed attempt is repeated, and reported, by the task that tends the keys.
        let _ = vault.tend_keys();
        if config.store.require_ephemeral {
            store_watch::require_ephemeral(&vault).await?;
        }
        let audit = audit(&config, &public_edge)?;
        let exporter = Exporter::start(config.otlp.as_ref(), &public_edge, &metrics)?;
        let resolver = resolver(&config)?;
        let mut names = vec![resolver.clone()];
        if !config.upstream.name_servers.is_empty() && !config.apps.iter().all(has_none) {
            names.push(push_services::names(&config)?);
        }
        let network: Arc<dyn Network> = Arc::new(System::new(names[names.len() - 1].clone()));
        let (push, push_is_printed) = push_service(&config, &network, &metrics, None)?;
        let (to_record, record_notes) = mpsc::unbounded_channel();
        let (to_nodes, node_news) = mpsc::unbounded_channel();
        let quotas = Quotas::new(&config.limits, metrics.clone());
        let message = config.limits.message_timeout;
        let endpoint = endpoint_settings(&config, &listeners, &public_edge, public_websocket.as_deref(), &vault);
        vault.say(&service::write_note(&ContactHosts {
            udp: endpoint.upstream_udp.clone(),
            tcp: endpoint.upstream_tcp.clone(),
            tls: endpoint.upstream_tls.clone(),
        }));
        let upstream_tls = ClientTls::new(config.upstream.ca_file.as_deref())?;
        let doctor = Doctor::of_relay(resolver.clone(), upstream_tls.clone(), &config.upstream);
        let agent = Agent::start(agent::Dependencies {
            quotas: quotas.clone(),
            vault: vault.clone(),
            push: push.clone(),
            push_is_printed,
            domains: config.upstream.domains.clone(),
            flow_domains: config.edge.flow_domains.clone(),
            metrics: metrics.clone(),
            resolver: resolver.clone(),
            tls: upstream_tls.clone(),
            failback_interval: config.upstream.failback_interval,
            bare_lf_servers: config.upstream.bare_lf_servers.clone(),
            connection_timing: ConnectionTiming { message, ..config.timing.connection },
            udp: listeners.udp.clone(),
            early_ringing: config.call.early_ringing,
            subscribe: config.messages.subscribe_voicemail,
            keep_passwords: config.store.keep_passwords,
            audit: audit.clone(),
            exporter,
            lost_notice: config.timing.lost_notice.0,
            endpoint,
            shards: crate::timing::shards(),
            record_notes: to_record,
            node_news: to_nodes,
            end: ending.clone(),
        });
        let agent = agent.map_err(StartError::Threads)?;
        let service = Service::new(service::Dependencies {
            agent: agent.clone(),
            vault: vault.clone(),
            metrics: metrics.clone(),
            quotas: quotas.clone(),
            resolver,
            doctor,
            audit: audit.clone(),
            domains: config.upstream.domains.clone(),
            edge: public_edge.clone(),
            websocket: public_websocket,
            services: services(&config.apps, push_is_printed),
            drain: stopping.clone(),
        });
        let running = Opened {
            config,
            public_edge,
            metrics,
            push,
            agent,
            vault,
            quotas,
            service,
            record_notes,
            node_news,
            tls,
            upstream_tls,
            names,
            network,
            audit,
            development_ca,
        };
        Ok(running.serve(listeners, (stop, stopping), (end, ending)))
    }
}

impl Running {
    /// Drains and stops: no new request of an app, the requests being answered and the calls that are being set up to their end,
    /// at most [`CALLS_DRAIN`]; no new call once none waits any more, at the latest after half of that. Operators are answered until the end. Nothing is
    /// unregistered.
    pub async fn shutdown(mut self) {
        self.readiness.fail(Check::Serving, "shutting down");
        self.service.leave().await;
        self.stop.begin();
        let begun = Instant::now();
        // The store is asked for no longer than its own time limit; away, it knows of no other node.
        let elsewhere = self.vault.living_peers().await.is_ok_and(|peers| !peers.is_empty());
        let (agent, api) = (&self.agent, &mut self.https.api);
        // An error means that the task is gone, which is what is waited for.
        let quiet = async { tokio::join!(&mut *api, agent.wait_for_calls()).1 };
        let mut were_open = timeout(CALLS_TAKEN, quiet).await.unwrap_or(true);
        // From here on nothing begins to wait that would wait in vain, whatever the rest of the end takes.
        agent.refuse_calls(elsewhere).await;
        let left = CALLS_DRAIN.saturating_sub(begun.elapsed()).max(LAST_CALLS);
        let last_calls = timeout(left, async {
            were_open |= agent.wait_for_calls().await;
            if were_open {
                sleep(FOLLOWING).await;
            }
        });
        let last_answers = async {
            if !api.is_finished() {
                let _ = api.await;
            }
        };
        let _ = tokio::join!(last_answers, last_calls);
        agent.end_calls(elsewhere).await;
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

    /// Whether everything that is needed is there.
    pub fn is_ready(&self) -> bool {
        self.readiness.is_ready()
    }

    /// How the agent is asked, for measurements.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.begin();
        self.end.begin();
        for chore in &self.chores {
            chore.abort();
        }
    }
}

/// Everything there is before the first connection is served.
struct Opened {
    config: Config,
    public_edge: Box<str>,
    metrics: Metrics,
    push: PushService,
    agent: Agent,
    vault: Vault,
    quotas: Quotas,
    service: Service,
    record_notes: mpsc::UnboundedReceiver<RecordNote>,
    node_news: mpsc::UnboundedReceiver<NodeNews>,
    tls: Arc<ServerTls>,
    upstream_tls: ClientTls,
    /// For SIP servers, and for push services where those are found by others.
    names: Vec<Resolver>,
    network: Arc<dyn Network>,
    audit: Audit,
    development_ca: Option<String>,
}

impl Opened {
    fn serve(self, listeners: Listeners, stop: (Trigger, Drain), end: (Trigger, Drain)) -> Running {
        let readiness = Readiness::default();
        readiness.ask_push(self.push.clone());
        let Listeners { edge, websocket, api, operator, acme, tls, tcp, udp } = listeners;
        let local = |listener: &Option<Listener>| listener.as_ref().map(Listener::local_address);
        let (edge_at, api_at, operator_at) = (edge.local_address(), api.local_address(), operator.local_address());
        let (upstream_tls, upstream_tcp, websocket_at) = (local(&tls), local(&tcp), local(&websocket));
        self.agent.open_edge(edge);
        if let Some(listener) = websocket {
            self.agent.open_websocket(listener);
        }
        for listener in [tls, tcp].into_iter().flatten() {
            self.agent.open_upstream(listener);
        }
        self.agent.receive_datagrams(end.1.clone());
        let apps_door = Api::new(api_settings(&self.config, &self.vault), self.service.clone(), self.metrics.clone());
        let api_routes = apps_door.router();
        let token = &self.config.operator.token;
        let operators_door = Operator::new(token, self.service.clone(), self.metrics.clone(), readiness.clone());
        operators_door.take_token(&self.config.operator, self.config.source.as_deref());
        operators_door.introduce(&self.public_edge);
        let history = operators_door.history().clone().keep(self.metrics.clone());
        let operator_routes = operators_door.router();
        let answering = api::answering(api_routes.clone(), operator_routes.clone(), self.vault.clone());
        let letters = self.service.clone().read_letters(answering);
        let controls = operators_door.controls().clone();
        let reloader = Arc::new(Reloader {
            running: Mutex::new(InForce::of(self.config.clone())),
            tls: self.tls.clone(),
            upstream_tls: self.upstream_tls.clone(),
            push: self.push.clone(),
            network: self.network.clone(),
            metrics: self.metrics.clone(),
            api: apps_door,
            operator: operators_door,
            vault: self.vault.clone(),
        });
        let leave = Arc::new(Notify::new());
        // The reloader has the operator's door, and that its controls: held from there, too, none of them would ever go.
        let (reloading, leaving) = (Arc::downgrade(&reloader), leave.clone());
        let reload = move || reloading.upgrade().map(|reloader| reloader.reload()).unwrap_or_default();
        controls.connect(Box::new(reload), Box::new(move || leaving.notify_one()));
        let api = tokio::spawn(https::serve(api, api_routes, stop.1));
        let operator = tokio::spawn(https::serve(operator, operator_routes, end.1.clone()));
        for check in [Check::Edge, Check::Api, Check::Upstream, Check::Serving] {
            readiness.pass(check);
        }
        let mut chores = self.chores(&readiness);
        chores.extend(self.certificate_by_acme(acme, &readiness, end.1));
        let service = self.service.clone();
        let agent = self.agent.clone();
        let shards = 0..agent.shard_count();
        let answers = async move |shard| agent.answers(shard).await;
        chores.extend([
            chore(&readiness, "telling other nodes", service.clone().tell_nodes(self.node_news)),
            chore(&readiness, "writing down records", self.service.write_down_notes(self.record_notes)),
            chore(&readiness, "letters of other nodes", letters),
            chore(&readiness, "the last hour of the metrics", history),
            chore(&readiness, "watching the shards", shard_watch::watch(shards, answers, readiness.clone())),
        ]);
        Running {
            edge: edge_at,
            websocket: websocket_at,
            public_edge: self.public_edge,
            api: api_at,
            operator: operator_at,
            https: Https { api, operator },
            upstream_udp: udp.as_ref().map(Udp::local_address),
            upstream_tcp,
            upstream_tls,
            development_ca: self.development_ca,
            metrics: self.metrics,
            agent: self.agent,
            service,
            vault: self.vault,
            readiness,
            stop: stop.0,
            end: end.0,
            chores,
            reloader,
            leave,
        }
    }

    /// With ACME in the configuration: renews the certificate, and answers at the door for the CA.
    fn certificate_by_acme(&self, door: Option<Listener>, readiness: &Readiness, ending: Drain) -> Vec<JoinHandle<()>> {
        let Some(settings) = self.config.acme.clone() else { return Vec::new() };
        let acme = Acme::new(settings, self.tls.clone(), self.metrics.clone(), self.config.timing.acme_retry.0);
        let door = door.map(|door| tokio::spawn(https::serve(door, acme.answers(), ending)));
        let (watched, readiness) = (readiness.clone(), readiness.clone());
        let told = move |problem: Option<String>| {
            readiness.warn_of(Warning::Acme, problem.into_iter().map(Into::into).collect());
        };
        door.into_iter().chain([chore(&watched, "certificates by ACME", acme.keep(told))]).collect()
    }

    /// The periodic tasks beside everything else.
    fn chores(&self, readiness: &Readiness) -> Vec<JoinHandle<()>> {
        let store = readiness.clone();
        let told = move |trouble: Option<&StoreError>| match trouble {
            None => store.pass(Check::Store),
            Some(trouble) => store.fail(Check::Store, trouble.in_words()),
        };
        let agent = self.agent.clone();
        let is_doubtful = move || agent.is_doubtful();
        let vault = self.vault.clone();
        let is_contested = move || vault.is_contested();
        let quotas = self.quotas.clone();
        let warning = readiness.clone();
        let refused = move |why: Option<String>| {
            let words = why.map(|why| format!("tls: {why}; the old certificate stays in use").into());
            warning.warn_of(Warning::Certificate, words.into_iter().collect());
        };
        let mut chores = self.watch_names(readiness);
        chores.extend([
            chore(readiness, "keeping what this node owns", self.service.clone().keep_ownership(told)),
            chore(
                readiness,
                "looking for SIP servers that another node reaches",
                self.service.clone().leave_unreachable_servers(self.config.timing.marooned_after.0),
            ),
            chore(
                readiness,
                "looking for apps that another node serves",
                self.service.clone().leave_unserved(warn_of_unserved(readiness)),
            ),
            chore(readiness, "taking new certificates", self.tls.clone().watch(refused)),
            chore(readiness, "taking new CAs of SIP servers", self.upstream_tls.clone().watch()),
            chore(readiness, "watching the keyring", keyring_watch::watch(self.vault.clone(), readiness.clone())),
            chore(readiness, "watching the clocks", clock_watch::watch(self.vault.clone(), readiness.clone())),
            chore(
                readiness,
                "watching the store",
                store_watch::watch(self.vault.clone(), self.config.store.require_ephemeral, readiness.clone()),
            ),
            chore(readiness, "watching for lost time", lost_time_watch::watch(self.agent.clone())),
            chore(readiness, "watching the lease", doubt_watch::watch(is_doubtful, is_contested, readiness.clone())),
            chore(
                readiness,
                "watching the certificate",
                certificate_watch::watch(
                    self.config.clone(),
                    self.tls.clone(),
                    self.metrics.clone(),
                    readiness.clone(),
                ),
            ),
            chore(readiness, "watching the audit trail", audit_watch::watch(self.audit.clone(), readiness.clone())),
            chore(
                readiness,
                "changing keys",
                keyring_watch::tend(self.vault.clone(), move || quotas.instances(), readiness.clone()),
            ),
            chore(readiness, "asking push services", self.push.clone().tend()),
        ]);
        chores
    }

    /// Reports trouble with name servers, whatever part of the relay asks them.
    fn watch_names(&self, readiness: &Readiness) -> Vec<JoinHandle<()>> {
        let told: Arc<Mutex<Vec<Vec<String>>>> = Arc::new(Mutex::new(vec![Vec::new(); self.names.len()]));
        let watch = |(place, names): (usize, &Resolver)| {
            let (names, told, readiness) = (names.clone(), told.clone(), readiness.clone());
            let watched = readiness.clone();
            let tell = move |why: Vec<String>| {
                // A panic while the lock was held leaves whole lists behind.
                let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                told[place] = why;
                readiness.warn_of(Warning::NameServers, told.concat().into_iter().map(Into::into).collect());
            };
            chore(&watched, "watching the name servers", async move { names.watch_files(tell).await })
        };
        self.names.iter().enumerate().map(watch).collect()
    }
}

/// The vault in the store that is named; it is not asked anything yet.
fn open_vault(store: &config::Store, keyring: Keyring, node: &str) -> Result<Vault, StoreError> {
    let read = |path: &Path, failed| regular_file::read(path).map_err(|_| StoreError::Tls(failed));
    let ca = store.ca_file.as_deref().map(|path| read(path, "the file of store.ca_file cannot be read"));
    let client = store.client.as_ref().map(|(certificate, key)| {
        let certificate = read(certificate, "the file of store.client_certificate cannot be read")?;
        Ok((certificate, Zeroizing::new(key.expose().as_bytes().to_vec())))
    });
    let tls = StoreTls { ca: ca.transpose()?, client: client.transpose()? };
    let settings = vault::Settings { tls, require_ephemeral: store.require_ephemeral, ..vault::Settings::default() };
    Vault::open_with(store.url.expose(), keyring, node, settings)
}

/// The audit trail, where the operator wants one.
fn audit(config: &Config, node: &str) -> Result<Audit, AuditError> {
    let Some(config::Audit { directory, keep }) = &config.audit else { return Ok(Audit::default()) };
    let keep_days = u16::try_from(keep.as_secs() / DAY_S).unwrap_or(u16::MAX);
    Audit::open(audit::Settings { directory: directory.clone(), keep_days, node: node.into() })
}

/// Asks the name servers that the operator named, else the system's.
fn resolver(config: &Config) -> Result<Resolver, ResolveError> {
    let upstream = &config.upstream;
    let reach = Reach::new(&upstream.allow_addresses);
    let resolver = if upstream.name_servers.is_empty() {
        Resolver::new(reach, upstream.transports)?
    } else {
        Resolver::with_nameservers(&upstream.name_servers, reach, upstream.transports)?
    };
    Ok(resolver.sending_from(upstream.udp_listen.ip()))
}

fn server_tls(config: &Config) -> Result<(Arc<ServerTls>, Option<String>), TlsError> {
    match &config.tls {
        Tls::Files { certificate, key } => Ok((ServerTls::load(certificate, key)?, None)),
        Tls::Development { ca_key } => {
            let listeners = [config.edge.listen, config.api.listen, config.operator.listen];
            let addresses: Vec<IpAddr> = listeners.iter().chain(&config.edge.websocket).map(SocketAddr::ip).collect();
            ServerTls::development(ca_key.as_ref(), &addresses).map(|(tls, ca)| (tls, Some(ca)))
        }
    }
}

/// The public name, with the port that the listener got where none was named.
fn named(public: &HostPort, listener: SocketAddr) -> Box<str> {
    let port = if public.port == 0 { listener.port() } else { public.port };
    HostPort { host: public.host.clone(), port }.to_string().into()
}

fn endpoint_settings(
    config: &Config,
    listeners: &Listeners,
    edge: &str,
    websocket: Option<&str>,
    vault: &Vault,
) -> Settings {
    let upstream = &config.upstream;
    let at = |bound: Option<SocketAddr>, configured: SocketAddr| -> Box<str> {
        format!("{}:{}", upstream.public_host, bound.unwrap_or(configured).port()).into()
    };
    Settings {
        tag: ShardTag(0),
        edge: edge.into(),
        edge_websocket: websocket.unwrap_or(edge).into(),
        upstream_udp: at(listeners.udp.as_ref().map(Udp::local_address), upstream.udp_listen),
        upstream_tcp: at(listeners.tcp.as_ref().map(Listener::local_address), upstream.tcp_listen),
        upstream_tls: at(listeners.tls.as_ref().map(Listener::local_address), upstream.tls_listen),
        register_expires: upstream.register_expires,
        ring_timeout: config.call.ring_timeout,
        answer_timeout: config.call.answer_timeout,
        limits: sip::message::Limits::default(),
        token_key: *vault.flow_token_key().expose(),
        timing: config.timing.sip,
        message_bytes: config.messages.max_body,
        upstream: UpstreamPolicy {
            allow_md5: upstream.allow_md5,
            allow_tcp: upstream.transports.tcp,
            registrations_per_second: upstream.registrations_per_second,
        },
    }
}

fn api_settings(config: &Config, vault: &Vault) -> api::Settings {
    let services = services(&config.apps, config.apps.iter().all(has_none));
    let app = |app: &config::App| api::access::App {
        id: app.id.clone(),
        key: app.api_key.clone(),
        apns: services.get(&app.id).is_some_and(|services| services.apns),
        fcm: services.get(&app.id).is_some_and(|services| services.fcm),
        webpush: services.get(&app.id).is_some_and(|services| services.webpush),
        // A key that cannot be read was told when the push services were made.
        webpush_key: app.webpush.as_ref().and_then(|webpush| webpush::public_key(&webpush.key_file).ok()),
    };
    let sip_server = |server: &config::SipServer| api::access::SipServer {
        id: server.id.clone(),
        key: server.key.clone(),
        domains: server.domains.clone(),
        registrars: server.registrars.clone().into(),
    };
    let (lifetime, vault) = (config.lifetime, vault.clone());
    api::Settings {
        apps: config.apps.iter().map(app).collect(),
        sip_servers: config.sip_servers.iter().map(sip_server).collect(),
        lifetime: api::device_body::LifetimeRange {
            min_s: lifetime.min.as_secs(),
            default_s: lifetime.default.as_secs(),
            max_s: lifetime.max.as_secs(),
        },
        limits: api::limits::Limits::default(),
        receipt_key: Box::new(move || vault.receipt_public_key()),
        origins: config.api.origins.clone().into(),
    }
}

#[cfg(test)]
mod tests;
