//! Every metric of the relay: one enum of names, and the handles that count.
//!
//! A [`Metrics`] owns a registry of its own, so that several relays can live in one process. Handles are made once, in
//! [`Metrics::new`], and found by index; counting is then one atomic operation, observing a duration one uncontended lock
//! of a histogram. The families, their labels and the exposition are those of `prometheus-client`.
//!
//! Invariant: no series goes out whose name is not a [`Metric`]; each metric is there with HELP and TYPE from the first
//! scrape on, at zero; label values come from [`labels`], never from what a peer sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::clock;
use crate::domain::{CanaryStep, InstanceState, MessageOutcome, PushOutcome, PushProvider, WipeReason, Word};
use crate::log;

pub mod labels;
mod lost_phones;
mod process;
pub mod reading;
mod registered;

use labels::{
    Canary, CanaryOutcome, CertificateOrder, EdgeRegisterOutcome, HandshakeOutcome, HttpRequest, InviteOutcome, Limit,
    Listener, LostWithin, MissedCallOutcome, MwiNotify, OfApp, PassedEnd, PassedRegisterOutcome, RegistrationOutcome,
    SipRefusal, StoreOperation, TraceOutcome, Warning,
};

pub use lost_phones::Failing;
use lost_phones::LostPhones;
use process::Process;
use registered::{Series, Table, family, histogram, register, series, single, table};

/// The kind of a metric, by how it may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in seconds, in buckets.
    Histogram,
}

macro_rules! metrics {
    ($($variant:ident = $name:literal, $kind:ident, $help:literal;)*) => {
        /// Every metric that the relay gives out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Metric { $(#[doc = $help] $variant,)* }

        impl Metric {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name in the exposition.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The kind.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }

            /// The HELP line.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

metrics! {
    Instances = "sipwake_instances", Gauge, "Push instances that this node serves, by state.";
    RegistrationsWaiting = "sipwake_registrations_waiting", Gauge, "Registrations, refreshes included, that wait for their turn at their SIP server (upstream.registrations_per_second).";
    InstancesGiven = "sipwake_instances_given_total", Counter, "Instances that another node has taken over because their SIP server cannot be reached from this one, or their app is not configured here.";
    Registrations = "sipwake_registrations_total", Counter, "REGISTER requests to the accounts' servers, by how they ended.";
    Invites = "sipwake_invites_total", Counter, "INVITE requests from the accounts' servers, by how they ended.";
    Pushes = "sipwake_pushes_total", Counter, "Pushes, by service and by how they ended, retries included.";
    PushRetries = "sipwake_push_retries_total", Counter, "Further attempts at a push, by service.";
    PushTokensDoubted = "sipwake_push_tokens_doubted_total", Counter, "Tokens that APNs called bad (BadDeviceToken) and that are not believed to be: an operator's mistake wipes nobody.";
    PushResends = "sipwake_push_resends_total", Counter, "Pushes of a call that were sent a second time, because the device gave no sign (FCM and Web Push).";
    AppPushes = "sipwake_app_pushes_total", Counter, "Pushes, by service, by how they ended and by app.";
    PushServiceUp = "sipwake_push_service_up", Gauge, "1 while a push service takes the pushes of an app, or has not been needed yet, else 0.";
    PushServiceWaiting = "sipwake_push_service_waiting", Gauge, "Pushes that wait for a push service, by app.";
    PushServiceAccepted = "sipwake_push_service_last_accepted_seconds", Gauge, "When a push service last took a push of an app, in seconds since 1970; 0: not yet.";
    CanaryRounds = "sipwake_canary_rounds_total", Counter, "Rounds that a canary has told of, by app: whole, or the step that failed.";
    CanaryLastRound = "sipwake_canary_last_round_seconds", Gauge, "When a canary told of a round last, in seconds since 1970, by app.";
    CanaryLastWhole = "sipwake_canary_last_success_seconds", Gauge, "When a canary's round was whole last, in seconds since 1970, by app; 0: not since the start.";
    CanarySeconds = "sipwake_canary_seconds", Gauge, "From the INVITE of a canary's last whole round until each step; enable and wipe: how long they took.";
    CallPushesUnsent = "sipwake_call_pushes_unsent_total", Counter, "Pushes of calls that never left: no connection, or the call ended or its phone came first.";
    PushDuration = "sipwake_push_duration_seconds", Histogram, "From the decision to push until the service's verdict.";
    InviteToPush = "sipwake_invite_to_push_seconds", Histogram, "From an INVITE's arrival until the last byte of its push is handed to the TLS of a connection to the service.";
    Wake = "sipwake_wake_seconds", Histogram, "From an INVITE's arrival until its device is attached.";
    Wipes = "sipwake_wipes_total", Counter, "Instances wiped, by reason.";
    Messages = "sipwake_messages_total", Counter, "MESSAGE requests from the accounts' servers, by how they ended.";
    MissedCalls = "sipwake_missed_calls_total", Counter, "Calls that nobody answered, by what became of the note of them.";
    CallStories = "sipwake_call_stories_total", Counter, "Stories of calls, for each device, by whether they were kept for operators.";
    Traces = "sipwake_traces_total", Counter, "Traces of calls for the OTLP collector, by whether it took them.";
    MwiNotifies = "sipwake_mwi_notifies_total", Counter, "NOTIFY requests about mailboxes, by whether they said anything new.";
    CallsWaiting = "sipwake_calls_waiting", Gauge, "Calls that wait for their device.";
    SipRefused = "sipwake_sip_refused_total", Counter, "SIP messages dropped or refused before they reached a binding, by reason.";
    Limits = "sipwake_limits_total", Counter, "Requests, connections and dials refused or ended at a limit, by limit.";
    PushRegistrations = "sipwake_push_registrations", Gauge, "Registrations that passed through the edge and are pushed for (RFC 8599).";
    PushRegistrationsFailing = "sipwake_push_registrations_failing", Gauge, "Those of them whose last refresh failed; their phones are called as long as the last grant stands.";
    PushRegistrationsLost = "sipwake_push_registrations_lost", Gauge, "Those that ran out at this node within the last hour, or day, and whose accounts have registered no phone again.";
    PushRegistrationsEnded = "sipwake_push_registrations_ended_total", Counter, "Registrations that passed through and are pushed for no more, by why they ended.";
    PassedRegisters = "sipwake_passed_registers_total", Counter, "REGISTER requests of devices to their own SIP servers through the edge, by how they ended.";
    FlowRegistrations = "sipwake_flow_registrations", Gauge, "Registrations that passed through the edge without push parameters (edge.flow_domains): reachable while their connections are open.";
    EdgeFlows = "sipwake_edge_flows", Gauge, "Devices attached at the edge.";
    EdgeRegisters = "sipwake_edge_registers_total", Counter, "REGISTER requests of devices at the edge, by how they ended.";
    UpstreamFlows = "sipwake_upstream_flows", Gauge, "Connections open to the accounts' servers.";
    Connections = "sipwake_connections", Gauge, "Inbound connections open, by listener.";
    Handshakes = "sipwake_tls_handshakes_total", Counter, "Inbound TLS handshakes, by listener and by how they ended.";
    StoreUp = "sipwake_store_up", Gauge, "1 while the store answers, else 0.";
    StoreDuration = "sipwake_store_duration_seconds", Histogram, "How long the store took to answer.";
    StoreErrors = "sipwake_store_errors_total", Counter, "Requests that the store did not answer or refused, by operation.";
    HttpRequests = "sipwake_http_requests_total", Counter, "HTTP requests answered, by route template and status.";
    HttpDuration = "sipwake_http_duration_seconds", Histogram, "From an HTTP request's arrival until its answer is ready.";
    CertificateExpiry = "sipwake_certificate_expiry_seconds", Gauge, "Seconds until the TLS certificate in use ends; negative when it has ended, 0 while there is none but what stands in until a CA has issued one.";
    CertificateLifetime = "sipwake_certificate_lifetime_seconds", Gauge, "Seconds from the begin of the TLS certificate in use to its end, 0 likewise.";
    CertificateOrders = "sipwake_certificate_orders_total", Counter, "Certificates ordered by ACME, by how it ended.";
    LogLinesDropped = "sipwake_log_lines_dropped_total", Counter, "Lines of the log that this process has lost: nobody read the standard error in time, or it could not be written to.";
    Warnings = "sipwake_warnings", Gauge, "What /readyz warns of, by what it is about: how many sentences.";
    Ready = "sipwake_ready", Gauge, "1 while calls can be served (/readyz is 200), else 0.";
    ResidentMemory = "process_resident_memory_bytes", Gauge, "Resident memory of this process.";
    VirtualMemory = "process_virtual_memory_bytes", Gauge, "Virtual memory of this process.";
    CpuTime = "process_cpu_seconds_total", Counter, "Processor time that this process has used, user and system.";
    OpenDescriptors = "process_open_fds", Gauge, "Open file descriptors of this process.";
    MaxDescriptors = "process_max_fds", Gauge, "How many file descriptors this process may have.";
    StartTime = "process_start_time_seconds", Gauge, "When this relay started, in seconds since 1970.";
    Build = "sipwake_build_info", Gauge, "1, with the version that runs.";
}

/// The route label of a request that fits no route.
pub const UNMATCHED: &str = "unmatched";

/// The handles of one relay; cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Handles>);

struct Handles {
    registry: Registry,
    instances: Series<InstanceState, Gauge>,
    registrations: Series<RegistrationOutcome, Counter>,
    invites: Series<InviteOutcome, Counter>,
    pushes: Table<PushProvider, PushOutcome>,
    push_retries: Series<PushProvider, Counter>,
    push_tokens_doubted: Series<PushProvider, Counter>,
    push_resends: Counter,
    app_pushes: Family<OfApp<PushOutcome>, Counter>,
    push_service_up: Family<OfApp<()>, Gauge>,
    push_service_waiting: Family<OfApp<()>, Gauge>,
    push_service_accepted: Family<OfApp<()>, Gauge>,
    canary_rounds: Family<Canary<CanaryOutcome>, Counter>,
    canary_last_round: Family<Canary<()>, Gauge>,
    canary_last_whole: Family<Canary<()>, Gauge>,
    canary_seconds: Family<Canary<CanaryStep>, Gauge<f64, AtomicU64>>,
    call_pushes_unsent: Counter,
    instances_given: Counter,
    push_duration: Histogram,
    invite_to_push: Histogram,
    wake: Histogram,
    wipes: Series<WipeReason, Counter>,
    messages: Series<MessageOutcome, Counter>,
    missed_calls: Series<MissedCallOutcome, Counter>,
    call_stories: Series<MissedCallOutcome, Counter>,
    traces: Series<TraceOutcome, Counter>,
    mwi_notifies: Series<MwiNotify, Counter>,
    registrations_waiting: Gauge,
    calls_waiting: Gauge,
    sip_refused: Series<SipRefusal, Counter>,
    limits: Series<Limit, Counter>,
    push_registrations: Gauge,
    push_registrations_failing: Gauge,
    push_registrations_lost: Series<LostWithin, Gauge>,
    lost_phones: LostPhones,
    push_registrations_ended: Series<PassedEnd, Counter>,
    passed_registers: Series<PassedRegisterOutcome, Counter>,
    flow_registrations: Gauge,
    edge_flows: Gauge,
    edge_registers: Series<EdgeRegisterOutcome, Counter>,
    upstream_flows: Gauge,
    connections: Series<Listener, Gauge>,
    handshakes: Table<Listener, HandshakeOutcome>,
    store_up: Gauge,
    store_duration: Histogram,
    store_errors: Series<StoreOperation, Counter>,
    http_requests: Family<HttpRequest, Counter>,
    http_duration: Histogram,
    certificate_expiry: Gauge,
    certificate_lifetime: Gauge,
    certificate_orders: Series<CertificateOrder, Counter>,
    /// When this began, as the time since boot.
    began: Duration,
    /// When the certificate in use ends, in seconds since 1970; 0: none is loaded.
    certificate_not_after: AtomicU64,
    log_lines_dropped: Counter,
    warnings: Series<Warning, Gauge>,
    ready: Gauge,
    resident_memory: Gauge,
    virtual_memory: Gauge,
    cpu_time: Counter<f64, AtomicU64>,
    open_descriptors: Gauge,
    max_descriptors: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry of its own with every metric at zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        let start_time: Gauge = single(r, Metric::StartTime);
        start_time.set(i64::try_from(clock::unix_now()).unwrap_or(i64::MAX));
        let build = Family::<[(&str, &str); 1], Gauge>::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        register(r, Metric::Build, build);
        let http_requests = Family::<HttpRequest, Counter>::default();
        drop(http_requests.get_or_create(&HttpRequest { route: UNMATCHED, status: 404 }));
        register(r, Metric::HttpRequests, http_requests.clone());
        Self(Arc::new(Handles {
            instances: series(r, Metric::Instances),
            registrations: series(r, Metric::Registrations),
            invites: series(r, Metric::Invites),
            pushes: table(r, Metric::Pushes),
            push_retries: series(r, Metric::PushRetries),
            push_tokens_doubted: series(r, Metric::PushTokensDoubted),
            push_resends: single(r, Metric::PushResends),
            app_pushes: family(r, Metric::AppPushes),
            push_service_up: family(r, Metric::PushServiceUp),
            push_service_waiting: family(r, Metric::PushServiceWaiting),
            push_service_accepted: family(r, Metric::PushServiceAccepted),
            canary_rounds: family(r, Metric::CanaryRounds),
            canary_last_round: family(r, Metric::CanaryLastRound),
            canary_last_whole: family(r, Metric::CanaryLastWhole),
            canary_seconds: family(r, Metric::CanarySeconds),
            call_pushes_unsent: single(r, Metric::CallPushesUnsent),
            instances_given: single(r, Metric::InstancesGiven),
            push_duration: histogram(r, Metric::PushDuration),
            invite_to_push: histogram(r, Metric::InviteToPush),
            wake: histogram(r, Metric::Wake),
            wipes: series(r, Metric::Wipes),
            messages: series(r, Metric::Messages),
            missed_calls: series(r, Metric::MissedCalls),
            call_stories: series(r, Metric::CallStories),
            traces: series(r, Metric::Traces),
            mwi_notifies: series(r, Metric::MwiNotifies),
            registrations_waiting: single(r, Metric::RegistrationsWaiting),
            calls_waiting: single(r, Metric::CallsWaiting),
            sip_refused: series(r, Metric::SipRefused),
            limits: series(r, Metric::Limits),
            push_registrations: single(r, Metric::PushRegistrations),
            push_registrations_failing: single(r, Metric::PushRegistrationsFailing),
            push_registrations_lost: series(r, Metric::PushRegistrationsLost),
            lost_phones: LostPhones::default(),
            push_registrations_ended: series(r, Metric::PushRegistrationsEnded),
            passed_registers: series(r, Metric::PassedRegisters),
            flow_registrations: single(r, Metric::FlowRegistrations),
            edge_flows: single(r, Metric::EdgeFlows),
            edge_registers: series(r, Metric::EdgeRegisters),
            upstream_flows: single(r, Metric::UpstreamFlows),
            connections: series(r, Metric::Connections),
            handshakes: table(r, Metric::Handshakes),
            store_up: single(r, Metric::StoreUp),
            store_duration: histogram(r, Metric::StoreDuration),
            store_errors: series(r, Metric::StoreErrors),
            http_requests,
            http_duration: histogram(r, Metric::HttpDuration),
            certificate_expiry: single(r, Metric::CertificateExpiry),
            certificate_lifetime: single(r, Metric::CertificateLifetime),
            certificate_orders: series(r, Metric::CertificateOrders),
            began: clock::since_boot(),
            certificate_not_after: AtomicU64::new(0),
            log_lines_dropped: single(r, Metric::LogLinesDropped),
            warnings: series(r, Metric::Warnings),
            ready: single(r, Metric::Ready),
            resident_memory: single(r, Metric::ResidentMemory),
            virtual_memory: single(r, Metric::VirtualMemory),
            cpu_time: single(r, Metric::CpuTime),
            open_descriptors: single(r, Metric::OpenDescriptors),
            max_descriptors: single(r, Metric::MaxDescriptors),
            registry,
        }))
    }

    /// How long the relay has been up, whatever the wall clock has been meanwhile.
    pub fn up(&self) -> Duration {
        clock::since_boot().saturating_sub(self.0.began)
    }

    /// An instance came into `state` (it left none: it was enabled or resumed).
    pub fn instance_enters(&self, state: InstanceState) {
        self.0.instances.of(state).inc();
    }

    /// An instance left `state` for none: it was wiped or handed to another node.
    pub fn instance_leaves(&self, state: InstanceState) {
        self.0.instances.of(state).dec();
    }

    /// An instance went from one state to another.
    pub fn instance_moves(&self, from: InstanceState, to: InstanceState) {
        self.instance_leaves(from);
        self.instance_enters(to);
    }

    /// A REGISTER to an account's server ended.
    pub fn registration(&self, outcome: RegistrationOutcome) {
        self.0.registrations.of(outcome).inc();
    }

    /// Counts a limit that was met.
    pub fn limit(&self, limit: Limit) {
        self.0.limits.of(limit).inc();
    }

    /// An INVITE ended.
    pub fn invite(&self, outcome: InviteOutcome) {
        self.0.invites.of(outcome).inc();
    }

    /// A push ended, `took` after it was decided.
    pub fn push(&self, provider: PushProvider, outcome: PushOutcome, took: Duration) {
        self.0.pushes.of(provider, outcome).inc();
        self.0.push_duration.observe(took.as_secs_f64());
    }

    /// A push is tried once more.
    pub fn push_retry(&self, provider: PushProvider) {
        self.0.push_retries.of(provider).inc();
    }

    /// A token that APNs calls bad is not believed to be.
    pub fn push_token_doubted(&self, provider: PushProvider) {
        self.0.push_tokens_doubted.of(provider).inc();
    }

    /// The push of a call is sent a second time.
    pub fn push_resend(&self) {
        self.0.push_resends.inc();
    }

    /// Another node has taken over so many instances whose SIP server cannot be reached from here.
    pub fn instances_given(&self, count: usize) {
        self.0.instances_given.inc_by(count as u64);
    }

    /// The push of a call ended without having left.
    pub fn call_push_unsent(&self) {
        self.0.call_pushes_unsent.inc();
    }

    /// The series of one push service of one app. Both come from the configuration, which bounds them.
    pub fn push_service(&self, app: &str, provider: &'static str) -> PushServiceSeries {
        let of = |gauges: &Family<OfApp<()>, Gauge>| {
            gauges.get_or_create_owned(&OfApp { provider, app: app.into(), label: None })
        };
        let pushes = |outcome: &PushOutcome| {
            let label = Some(*outcome);
            self.0.app_pushes.get_or_create_owned(&OfApp { provider, app: app.into(), label })
        };
        PushServiceSeries {
            up: of(&self.0.push_service_up),
            waiting: of(&self.0.push_service_waiting),
            last_accepted: of(&self.0.push_service_accepted),
            pushes: PushOutcome::ALL.iter().map(pushes).collect(),
        }
    }

    /// A canary of this app has told of a round at `at` (seconds since 1970): the step that failed, and those that were reached,
    /// with their milliseconds.
    pub fn canary(&self, app: &str, at: u64, failed: Option<CanaryStep>, steps: &[(CanaryStep, u64)]) {
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        let of_app = || Canary { app: app.into(), label: () };
        // All outcomes, so that a rate is known from the first round on.
        for outcome in [None].into_iter().chain(CanaryStep::ALL.iter().copied().map(Some)) {
            let labels = Canary { app: app.into(), label: CanaryOutcome(outcome) };
            let rounds = self.0.canary_rounds.get_or_create_owned(&labels);
            rounds.inc_by(u64::from(outcome == failed));
        }
        self.0.canary_last_round.get_or_create_owned(&of_app()).set(at);
        let last_whole = self.0.canary_last_whole.get_or_create_owned(&of_app());
        if failed.is_some() {
            return;
        }
        last_whole.set(at);
        for (step, ms) in steps {
            let seconds = self.0.canary_seconds.get_or_create_owned(&Canary { app: app.into(), label: *step });
            seconds.set(*ms as f64 / 1_000.0);
        }
    }

    /// The push of an INVITE left by the service's connection, `after` the INVITE came.
    pub fn invite_to_push(&self, after: Duration) {
        self.0.invite_to_push.observe(after.as_secs_f64());
    }

    /// The device of a waiting INVITE was attached, `after` the INVITE came.
    pub fn wake(&self, after: Duration) {
        self.0.wake.observe(after.as_secs_f64());
    }

    /// An instance was wiped.
    pub fn wipe(&self, reason: WipeReason) {
        self.0.wipes.of(reason).inc();
    }

    /// A MESSAGE ended.
    pub fn message(&self, outcome: MessageOutcome) {
        self.0.messages.of(outcome).inc();
    }

    /// A call ended that nobody answered.
    pub fn missed_call(&self, outcome: MissedCallOutcome) {
        self.0.missed_calls.of(outcome).inc();
    }

    /// Counts the outcome of so many traces.
    pub fn traces(&self, outcome: TraceOutcome, count: u64) {
        self.0.traces.of(outcome).inc_by(count);
    }

    /// Counts the outcome of storing a call's story.
    pub fn call_story(&self, outcome: MissedCallOutcome) {
        self.0.call_stories.of(outcome).inc();
    }

    /// A SIP server said how a mailbox stands.
    pub fn mwi_notify(&self, notify: MwiNotify) {
        self.0.mwi_notifies.of(notify).inc();
    }

    /// The number of registrations that wait for their turn changed by `change`.
    pub fn registrations_waiting(&self, change: i64) {
        self.0.registrations_waiting.inc_by(change);
    }

    /// The number of calls that wait for their device changed by `change`.
    pub fn calls_waiting(&self, change: i32) {
        self.0.calls_waiting.inc_by(i64::from(change));
    }

    /// A SIP message was dropped or refused before it reached a binding.
    pub fn sip_refused(&self, reason: SipRefusal) {
        self.0.sip_refused.of(reason).inc();
    }

    /// The number of registrations that passed through and are pushed for changed by `change`.
    pub fn push_registrations(&self, change: i32) {
        self.0.push_registrations.inc_by(i64::from(change));
    }

    /// The last refresh of a registration that passed through has failed: it counts so while the value lives.
    pub fn push_registration_fails(&self) -> Failing {
        Failing::new(&self.0.push_registrations_failing)
    }

    /// A registration of this account that passed through is there that was not. See [`LostPhones`] for its names.
    pub fn push_registration_begins(&self, account: [u8; 16], registration: [u8; 16]) {
        self.push_registrations(1);
        self.0.lost_phones.find(account, registration);
    }

    /// A registration of this account that passed through ran out.
    pub fn push_registration_runs_out(&self, account: [u8; 16], registration: [u8; 16]) {
        self.0.lost_phones.lose(account, registration, clock::since_boot());
    }

    /// A registration that passed through has ended.
    pub fn push_registration_ended(&self, end: PassedEnd) {
        self.0.push_registrations_ended.of(end).inc();
    }

    /// A REGISTER that was to pass through ended.
    pub fn passed_register(&self, outcome: PassedRegisterOutcome) {
        self.0.passed_registers.of(outcome).inc();
    }

    /// The number of registrations that their flows alone lead to changed by `change`.
    pub fn flow_registrations(&self, change: i32) {
        self.0.flow_registrations.inc_by(i64::from(change));
    }

    /// The number of devices attached changed by `change`.
    pub fn edge_flows(&self, change: i32) {
        self.0.edge_flows.inc_by(i64::from(change));
    }

    /// A REGISTER of a device ended.
    pub fn edge_register(&self, outcome: EdgeRegisterOutcome) {
        self.0.edge_registers.of(outcome).inc();
    }

    /// The number of connections to the accounts' servers changed by `change`.
    pub fn upstream_flows(&self, change: i32) {
        self.0.upstream_flows.inc_by(i64::from(change));
    }

    /// The number of connections open on `listener` changed by `change`.
    pub fn connections(&self, listener: Listener, change: i32) {
        self.0.connections.of(listener).inc_by(i64::from(change));
    }

    /// A certificate was ordered by ACME.
    pub fn certificate_order(&self, outcome: CertificateOrder) {
        self.0.certificate_orders.of(outcome).inc();
    }

    /// An inbound TLS handshake ended.
    pub fn handshake(&self, listener: Listener, outcome: HandshakeOutcome) {
        self.0.handshakes.of(listener, outcome).inc();
    }

    /// Whether the store answers.
    pub fn store_up(&self, up: bool) {
        self.0.store_up.set(i64::from(up));
    }

    /// The store answered after `took`.
    pub fn store_answered(&self, took: Duration) {
        self.0.store_duration.observe(took.as_secs_f64());
    }

    /// The store did not answer, or refused.
    pub fn store_error(&self, operation: StoreOperation) {
        self.0.store_errors.of(operation).inc();
    }

    /// An HTTP request on the route of template `route` was answered with `status` after `took`.
    ///
    /// The only method that looks a handle up by hash: HTTP is not on the path from INVITE to push.
    pub fn http(&self, route: &'static str, status: u16, took: Duration) {
        self.0.http_requests.get_or_create(&HttpRequest { route, status }).inc();
        self.0.http_duration.observe(took.as_secs_f64());
    }

    /// When the certificate in use begins and ends, in seconds since 1970; 0 while there is none.
    pub fn certificate_of(&self, (begins, ends): (u64, u64)) {
        self.0.certificate_not_after.store(ends, Ordering::Relaxed);
        self.0.certificate_lifetime.set(whole(ends.saturating_sub(begins)));
    }

    /// So many things are to be mended there.
    pub fn warnings(&self, about: Warning, count: usize) {
        self.0.warnings.of(about).set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Whether calls can be served.
    pub fn ready(&self, ready: bool) {
        self.0.ready.set(i64::from(ready));
    }

    /// The Prometheus text exposition, version 0.0.4.
    pub fn render(&self) -> String {
        let not_after = self.0.certificate_not_after.load(Ordering::Relaxed);
        let left = if not_after > 0 { whole(not_after) - whole(clock::advertised_now()) } else { 0 };
        self.0.certificate_expiry.set(left);
        for within in [LostWithin::Hour, LostWithin::Day] {
            let lost = self.0.lost_phones.count(within, clock::since_boot());
            self.0.push_registrations_lost.of(within).set(i64::try_from(lost).unwrap_or(i64::MAX));
        }
        let process = Process::read();
        self.0.resident_memory.set(whole(process.resident_bytes));
        self.0.virtual_memory.set(whole(process.virtual_bytes));
        self.0.open_descriptors.set(whole(process.open_descriptors));
        self.0.max_descriptors.set(whole(process.max_descriptors));
        // A counter only grows; two scrapes at once may read it in either order.
        self.0.log_lines_dropped.inner().fetch_max(log::dropped(), Ordering::Relaxed);
        self.0.cpu_time.inc_by((process.cpu_seconds - self.0.cpu_time.get()).max(0.0));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &self.0.registry).expect("a String takes whatever is written to it");
        text
    }
}

/// The series of one push service of one app.
#[derive(Clone)]
pub struct PushServiceSeries {
    /// 1 unless it fails.
    pub up: Gauge,
    /// Pushes that wait for it.
    pub waiting: Gauge,
    /// When it last took one, in seconds since 1970; 0: not yet.
    pub last_accepted: Gauge,
    pushes: Box<[Counter]>,
}

impl PushServiceSeries {
    /// A push through it ended so.
    pub fn push(&self, outcome: PushOutcome) {
        self.pushes[outcome.index()].inc();
    }
}

/// A number as a gauge holds it.
fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The names that `docs/metrics.md` lists.
    const PROMISED: &[&str] = &[
        "sipwake_instances",
        "sipwake_registrations_total",
        "sipwake_invites_total",
        "sipwake_pushes_total",
        "sipwake_push_duration_seconds",
        "sipwake_invite_to_push_seconds",
        "sipwake_wake_seconds",
        "sipwake_wipes_total",
        "sipwake_edge_flows",
        "sipwake_store_up",
        "sipwake_store_duration_seconds",
        "sipwake_http_requests_total",
        "sipwake_certificate_expiry_seconds",
        "sipwake_certificate_lifetime_seconds",
    ];

    #[test]
    fn every_metric_is_there_from_the_first_scrape_with_help_and_type() {
        let metrics = Metrics::new();
        drop(metrics.push_service("com.example.phone", "apns"));
        metrics.canary("com.example.phone", 1, None, &[(CanaryStep::Push, 1)]);
        let text = metrics.render();
        for metric in Metric::ALL {
            let name = metric.name();
            let kind = match metric.kind() {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            assert!(text.contains(&format!("# HELP {name} {}\n", metric.help())), "HELP of {name}");
            assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "TYPE of {name}");
            assert!(text.lines().any(|line| line.starts_with(name)), "a value of {name}");
        }
        for name in PROMISED {
            assert!(Metric::ALL.iter().any(|metric| metric.name() == *name), "{name}");
        }
    }

    #[test]
    fn no_metric_goes_out_that_is_not_in_the_enum() {
        let metrics = Metrics::new();
        metrics.http("/v1/instances", 201, Duration::from_millis(3));
        let text = metrics.render();
        let known: BTreeSet<_> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(known.contains(name), "{name}");
        }
        assert_eq!(known.len(), Metric::ALL.len(), "a name is used twice");
    }

    #[test]
    fn two_relays_in_one_process_count_apart() {
        let (one, other) = (Metrics::new(), Metrics::new());
        one.push(PushProvider::Fcm, PushOutcome::Accepted, Duration::from_millis(4));
        one.invite_to_push(Duration::from_micros(300));
        let line = "sipwake_pushes_total{provider=\"fcm\",outcome=\"accepted\"}";
        assert!(one.render().contains(&format!("{line} 1")));
        assert!(other.render().contains(&format!("{line} 0")));
        assert!(one.render().contains("sipwake_invite_to_push_seconds_bucket{le=\"0.0005\"} 1"));
    }

    #[test]
    fn the_expiry_of_the_certificate_is_counted_down() {
        let metrics = Metrics::new();
        metrics.certificate_of((clock::unix_now(), clock::unix_now() + 1000));
        let left = reading::Reading::of(&metrics).value(Metric::CertificateExpiry, &[]);
        assert!((990.0..=1000.0).contains(&left), "{left}");
    }
}
