//! Every metric of the relay: one enum of names, and the handles that count.
//!
//! A [`Metrics`] owns a Prometheus recorder of its own, so that several relays can live in one process; nothing is
//! installed globally. Handles are made once, in [`Metrics::new`]; counting is then an atomic operation on a handle
//! found by index: no hash, no lock. (A histogram keeps samples in blocks until [`Metrics::upkeep`] or
//! [`Metrics::render`] folds them into buckets; one allocation is made for some hundred samples.)
//!
//! Invariant: no series goes out whose name is not a [`Metric`]; each metric is there with HELP and TYPE from the first
//! scrape on, at zero; label values come from [`labels`], never from what a peer sent.

use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::clock;

pub mod labels;
pub mod reading;

use labels::{
    AdmissionOutcome, HandshakeOutcome, InstanceState, InviteOutcome, Label, Listener, MailboxNotice, MessageOutcome,
    MissedCallOutcome, PushOutcome, PushProvider, RegistrationOutcome, SipRefusal, StoreOperation, WipeReason,
};

/// The upper bounds of the buckets of each histogram of durations, in seconds.
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

/// What a metric measures, by how it may change.
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
    ($($variant:ident = $name:literal, $kind:ident, $unit:ident, $help:literal;)*) => {
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

            /// What kind it is.
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }

            /// The unit that it counts in.
            pub const fn unit(self) -> Unit {
                match self { $(Self::$variant => Unit::$unit,)* }
            }

            /// The HELP line.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }
        }
    };
}

metrics! {
    Instances = "sipwake_instances", Gauge, Count, "Push instances that this node serves, by state.";
    Registrations = "sipwake_registrations_total", Counter, Count, "REGISTER requests to the accounts' servers, by how they ended.";
    Invites = "sipwake_invites_total", Counter, Count, "INVITE requests from the accounts' servers, by how they ended.";
    Pushes = "sipwake_pushes_total", Counter, Count, "Pushes, by service and by how they ended, retries included.";
    PushRetries = "sipwake_push_retries_total", Counter, Count, "Further attempts at a push, by service.";
    PushResends = "sipwake_push_resends_total", Counter, Count, "Pushes of a call that were sent a second time, because the device gave no sign (FCM alone).";
    PushDuration = "sipwake_push_duration_seconds", Histogram, Seconds, "From the decision to push until the service's verdict.";
    InviteToPush = "sipwake_invite_to_push_seconds", Histogram, Seconds, "From an INVITE's arrival until its push is handed to the connection of the service.";
    Wake = "sipwake_wake_seconds", Histogram, Seconds, "From an INVITE's arrival until its device is attached.";
    Wipes = "sipwake_wipes_total", Counter, Count, "Instances wiped, by reason.";
    Messages = "sipwake_messages_total", Counter, Count, "MESSAGE requests from the accounts' servers, by how they ended.";
    MissedCalls = "sipwake_missed_calls_total", Counter, Count, "Calls that nobody answered, by what became of the note of them.";
    Mailboxes = "sipwake_mailbox_notices_total", Counter, Count, "NOTIFY requests about mailboxes, by whether they said anything new.";
    CallsHeld = "sipwake_calls_held", Gauge, Count, "Calls that wait for their device.";
    SipRefused = "sipwake_sip_refused_total", Counter, Count, "SIP messages dropped or refused before they reached a binding, by reason.";
    PushRegistrations = "sipwake_push_registrations", Gauge, Count, "Registrations that passed through the edge and are pushed for (RFC 8599).";
    EdgeFlows = "sipwake_edge_flows", Gauge, Count, "Devices attached at the edge.";
    Admissions = "sipwake_edge_admissions_total", Counter, Count, "REGISTER requests of devices at the edge, by how they ended.";
    UpstreamFlows = "sipwake_upstream_flows", Gauge, Count, "Connections open to the accounts' servers.";
    Connections = "sipwake_connections", Gauge, Count, "Inbound connections open, by listener.";
    Handshakes = "sipwake_tls_handshakes_total", Counter, Count, "Inbound TLS handshakes, by listener and by how they ended.";
    StoreUp = "sipwake_store_up", Gauge, Count, "1 while the store answers, else 0.";
    StoreDuration = "sipwake_store_duration_seconds", Histogram, Seconds, "How long the store took to answer.";
    StoreErrors = "sipwake_store_errors_total", Counter, Count, "Requests that the store did not answer or refused, by operation.";
    HttpRequests = "sipwake_http_requests_total", Counter, Count, "HTTP requests answered, by route template and status.";
    HttpDuration = "sipwake_http_duration_seconds", Histogram, Seconds, "From an HTTP request's arrival until its answer is ready.";
    CertificateExpiry = "sipwake_certificate_expiry_seconds", Gauge, Seconds, "Seconds until the TLS certificate in use ends; negative when it has ended, 0 while none is loaded.";
    ResidentMemory = "sipwake_resident_memory_bytes", Gauge, Bytes, "Resident memory of this process.";
    StartTime = "sipwake_start_time_seconds", Gauge, Seconds, "When this relay started, in seconds since 1970.";
    Build = "sipwake_build_info", Gauge, Count, "1, with the version that runs.";
}

/// The route label of a request that fits no route.
pub const UNMATCHED: &str = "unmatched";

/// The handles of one relay; cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Handles>);

struct Handles {
    recorder: PrometheusRecorder,
    prometheus: PrometheusHandle,
    instances: Family<InstanceState, Gauge>,
    registrations: Family<RegistrationOutcome, Counter>,
    invites: Family<InviteOutcome, Counter>,
    pushes: Vec<Family<PushOutcome, Counter>>,
    push_retries: Family<PushProvider, Counter>,
    push_resends: Counter,
    push_duration: Histogram,
    invite_to_push: Histogram,
    wake: Histogram,
    wipes: Family<WipeReason, Counter>,
    messages: Family<MessageOutcome, Counter>,
    missed_calls: Family<MissedCallOutcome, Counter>,
    mailboxes: Family<MailboxNotice, Counter>,
    calls_held: Gauge,
    sip_refused: Family<SipRefusal, Counter>,
    push_registrations: Gauge,
    edge_flows: Gauge,
    admissions: Family<AdmissionOutcome, Counter>,
    upstream_flows: Gauge,
    connections: Family<Listener, Gauge>,
    handshakes: Vec<Family<HandshakeOutcome, Counter>>,
    store_up: Gauge,
    store_duration: Histogram,
    store_errors: Family<StoreOperation, Counter>,
    http_duration: Histogram,
    certificate_expiry: Gauge,
    /// When the certificate in use ends, in seconds since 1970; 0: none is loaded.
    certificate_not_after: AtomicU64,
    resident_memory: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A recorder of its own with every metric at zero.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new()
            .set_buckets(SECONDS)
            .expect("the list of buckets is a constant and not empty")
            .build_recorder();
        for &metric in Metric::ALL {
            describe(&recorder, metric);
        }
        let r = &recorder;
        gauge(r, Metric::StartTime, &[]).set(clock::unix_now() as f64);
        gauge(r, Metric::Build, &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        counter(r, Metric::HttpRequests, &[("route", UNMATCHED), ("status", "404")]).absolute(0);
        Self(Arc::new(Handles {
            prometheus: recorder.handle(),
            instances: gauges(r, Metric::Instances),
            registrations: counters(r, Metric::Registrations, None),
            invites: counters(r, Metric::Invites, None),
            pushes: families::<PushProvider, _>(r, Metric::Pushes),
            push_retries: counters(r, Metric::PushRetries, None),
            push_resends: counter(r, Metric::PushResends, &[]),
            push_duration: histogram(r, Metric::PushDuration),
            invite_to_push: histogram(r, Metric::InviteToPush),
            wake: histogram(r, Metric::Wake),
            wipes: counters(r, Metric::Wipes, None),
            messages: counters(r, Metric::Messages, None),
            missed_calls: counters(r, Metric::MissedCalls, None),
            mailboxes: counters(r, Metric::Mailboxes, None),
            calls_held: gauge(r, Metric::CallsHeld, &[]),
            sip_refused: counters(r, Metric::SipRefused, None),
            push_registrations: gauge(r, Metric::PushRegistrations, &[]),
            edge_flows: gauge(r, Metric::EdgeFlows, &[]),
            admissions: counters(r, Metric::Admissions, None),
            upstream_flows: gauge(r, Metric::UpstreamFlows, &[]),
            connections: gauges(r, Metric::Connections),
            handshakes: families::<Listener, _>(r, Metric::Handshakes),
            store_up: gauge(r, Metric::StoreUp, &[]),
            store_duration: histogram(r, Metric::StoreDuration),
            store_errors: counters(r, Metric::StoreErrors, None),
            http_duration: histogram(r, Metric::HttpDuration),
            certificate_expiry: gauge(r, Metric::CertificateExpiry, &[]),
            certificate_not_after: AtomicU64::new(0),
            resident_memory: gauge(r, Metric::ResidentMemory, &[]),
            recorder,
        }))
    }

    /// An instance came into `state` (it left none: it was enabled or resumed).
    pub fn instance_enters(&self, state: InstanceState) {
        self.0.instances.of(state).increment(1.0);
    }

    /// An instance left `state` for none: it was wiped or handed to another node.
    pub fn instance_leaves(&self, state: InstanceState) {
        self.0.instances.of(state).decrement(1.0);
    }

    /// An instance went from one state to another.
    pub fn instance_moves(&self, from: InstanceState, to: InstanceState) {
        self.instance_leaves(from);
        self.instance_enters(to);
    }

    /// A REGISTER to an account's server ended.
    pub fn registration(&self, outcome: RegistrationOutcome) {
        self.0.registrations.of(outcome).increment(1);
    }

    /// An INVITE ended.
    pub fn invite(&self, outcome: InviteOutcome) {
        self.0.invites.of(outcome).increment(1);
    }

    /// A push ended, `took` after it was decided.
    pub fn push(&self, provider: PushProvider, outcome: PushOutcome, took: Duration) {
        self.0.pushes[provider.index()].of(outcome).increment(1);
        self.0.push_duration.record(took.as_secs_f64());
    }

    /// A push is tried once more.
    pub fn push_retry(&self, provider: PushProvider) {
        self.0.push_retries.of(provider).increment(1);
    }

    /// The push of a call is sent a second time.
    pub fn push_resend(&self) {
        self.0.push_resends.increment(1);
    }

    /// The push of an INVITE was handed to the service's connection, `after` the INVITE came.
    pub fn invite_to_push(&self, after: Duration) {
        self.0.invite_to_push.record(after.as_secs_f64());
    }

    /// The device of a held INVITE was attached, `after` the INVITE came.
    pub fn wake(&self, after: Duration) {
        self.0.wake.record(after.as_secs_f64());
    }

    /// An instance was wiped.
    pub fn wipe(&self, reason: WipeReason) {
        self.0.wipes.of(reason).increment(1);
    }

    /// A MESSAGE ended.
    pub fn message(&self, outcome: MessageOutcome) {
        self.0.messages.of(outcome).increment(1);
    }

    /// A call ended that nobody answered.
    pub fn missed_call(&self, outcome: MissedCallOutcome) {
        self.0.missed_calls.of(outcome).increment(1);
    }

    /// A SIP server said how a mailbox stands.
    pub fn mailbox(&self, notice: MailboxNotice) {
        self.0.mailboxes.of(notice).increment(1);
    }

    /// The number of calls that wait for their device changed by `change`.
    pub fn calls_held(&self, change: i32) {
        self.0.calls_held.increment(f64::from(change));
    }

    /// A SIP message was dropped or refused before it reached a binding.
    pub fn sip_refused(&self, reason: SipRefusal) {
        self.0.sip_refused.of(reason).increment(1);
    }

    /// The number of registrations that passed through and are pushed for changed by `change`.
    pub fn push_registrations(&self, change: i32) {
        self.0.push_registrations.increment(f64::from(change));
    }

    /// The number of devices attached changed by `change`.
    pub fn edge_flows(&self, change: i32) {
        self.0.edge_flows.increment(f64::from(change));
    }

    /// A REGISTER of a device ended.
    pub fn admission(&self, outcome: AdmissionOutcome) {
        self.0.admissions.of(outcome).increment(1);
    }

    /// The number of connections to the accounts' servers changed by `change`.
    pub fn upstream_flows(&self, change: i32) {
        self.0.upstream_flows.increment(f64::from(change));
    }

    /// The number of connections open on `listener` changed by `change`.
    pub fn connections(&self, listener: Listener, change: i32) {
        self.0.connections.of(listener).increment(f64::from(change));
    }

    /// An inbound TLS handshake ended.
    pub fn handshake(&self, listener: Listener, outcome: HandshakeOutcome) {
        self.0.handshakes[listener.index()].of(outcome).increment(1);
    }

    /// Whether the store answers.
    pub fn store_up(&self, up: bool) {
        self.0.store_up.set(f64::from(u8::from(up)));
    }

    /// The store answered after `took`.
    pub fn store_answered(&self, took: Duration) {
        self.0.store_duration.record(took.as_secs_f64());
    }

    /// The store did not answer, or refused.
    pub fn store_error(&self, operation: StoreOperation) {
        self.0.store_errors.of(operation).increment(1);
    }

    /// An HTTP request on the route of template `route` was answered with `status` after `took`.
    ///
    /// The only method that looks a handle up by hash: HTTP is not on the path from INVITE to push.
    pub fn http(&self, route: &'static str, status: u16, took: Duration) {
        let status = status.to_string();
        let key = Key::from_parts(
            Metric::HttpRequests.name(),
            vec![metrics::Label::new("route", route), metrics::Label::new("status", status)],
        );
        self.0.recorder.register_counter(&key, &METADATA).increment(1);
        self.0.http_duration.record(took.as_secs_f64());
    }

    /// The certificate in use ends at `not_after`, in seconds since 1970.
    pub fn certificate_ends(&self, not_after: u64) {
        self.0.certificate_not_after.store(not_after, Ordering::Relaxed);
    }

    /// Folds the samples of the histograms into their buckets. Call it every few seconds, so that memory does not grow
    /// while nobody scrapes.
    pub fn upkeep(&self) {
        self.0.prometheus.run_upkeep();
    }

    /// The Prometheus text exposition, version 0.0.4.
    pub fn render(&self) -> String {
        let not_after = self.0.certificate_not_after.load(Ordering::Relaxed);
        if not_after > 0 {
            self.0.certificate_expiry.set(not_after as f64 - clock::unix_now() as f64);
        }
        if let Some(bytes) = resident_bytes() {
            self.0.resident_memory.set(bytes as f64);
        }
        self.0.prometheus.render()
    }
}

/// The handles of one metric, one for each value of a label.
struct Family<L, H> {
    handles: Box<[H]>,
    label: PhantomData<L>,
}

impl<L: Label, H> Family<L, H> {
    fn new(make: impl Fn(L) -> H) -> Self {
        Self { handles: L::ALL.iter().map(|&value| make(value)).collect(), label: PhantomData }
    }

    fn of(&self, value: L) -> &H {
        &self.handles[value.index()]
    }
}

const METADATA: Metadata<'static> = Metadata::new("relay", Level::INFO, None);

fn describe(recorder: &PrometheusRecorder, metric: Metric) {
    let (name, unit, help) = (KeyName::from_const_str(metric.name()), Some(metric.unit()), metric.help().into());
    match metric.kind() {
        Kind::Counter => recorder.describe_counter(name, unit, help),
        Kind::Gauge => recorder.describe_gauge(name, unit, help),
        Kind::Histogram => recorder.describe_histogram(name, unit, help),
    }
}

fn key(metric: Metric, labels: &[(&'static str, &'static str)]) -> Key {
    let labels: Vec<_> = labels.iter().map(|&(name, value)| metrics::Label::new(name, value)).collect();
    Key::from_parts(metric.name(), labels)
}

fn counter(recorder: &PrometheusRecorder, metric: Metric, labels: &[(&'static str, &'static str)]) -> Counter {
    recorder.register_counter(&key(metric, labels), &METADATA)
}

fn gauge(recorder: &PrometheusRecorder, metric: Metric, labels: &[(&'static str, &'static str)]) -> Gauge {
    recorder.register_gauge(&key(metric, labels), &METADATA)
}

fn histogram(recorder: &PrometheusRecorder, metric: Metric) -> Histogram {
    recorder.register_histogram(&key(metric, &[]), &METADATA)
}

fn gauges<L: Label>(recorder: &PrometheusRecorder, metric: Metric) -> Family<L, Gauge> {
    Family::new(|value: L| gauge(recorder, metric, &[(L::NAME, value.value())]))
}

fn counters<L: Label>(
    recorder: &PrometheusRecorder,
    metric: Metric,
    outer: Option<(&'static str, &'static str)>,
) -> Family<L, Counter> {
    Family::new(|value: L| {
        let mut labels: Vec<_> = outer.into_iter().collect();
        labels.push((L::NAME, value.value()));
        counter(recorder, metric, &labels)
    })
}

/// One family for each value of an outer label.
fn families<O: Label, L: Label>(recorder: &PrometheusRecorder, metric: Metric) -> Vec<Family<L, Counter>> {
    O::ALL.iter().map(|outer| counters(recorder, metric, Some((O::NAME, outer.value())))).collect()
}

/// The resident set of this process; `None` where the kernel does not tell.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The names that CONTRACT.md promises.
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
    ];

    #[test]
    fn every_metric_is_there_from_the_first_scrape_with_help_and_type() {
        let text = Metrics::new().render();
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
        metrics.certificate_ends(clock::unix_now() + 1000);
        let left = reading::Reading::of(&metrics).value(Metric::CertificateExpiry, &[]);
        assert!((990.0..=1000.0).contains(&left), "{left}");
    }
}
