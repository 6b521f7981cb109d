//! A trial of the start: everything that `serve` needs, tried and given back.
//!
//! Invariant: nothing is sent to anyone but the store, which is examined with keys of the examination's own, and a relay that holds
//! the addresses; every problem is found, not only the first. No keyring is made: beside a relay that has lost the file of its own, a new one would be
//! taken for it by the next run. (A folder of ACME that does not exist yet is made, as `serve` would, for the user whose folder it is in.)

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, UdpSocket};

use super::push_services::push_settings;
use super::settings::{hosts, open_vault, resolver};
use super::{open_files, running_relay, swap};
use crate::acme;
use crate::audit;
use crate::clock;
use crate::config::{ApnsCredentials, Config, Otlp, Problem, Tls};
use crate::net::tls::{ClientTls, Doubt, ServerTls, dated, doubts, doubts_of};
use crate::push;
use crate::vault::{Keyring, KeyringMismatch, StoreError, Vault};

/// The findings of a look at everything.
#[derive(Debug, Default)]
pub struct Findings {
    /// The problems that a start with this configuration would meet, or its peers would; empty: all right.
    pub problems: Vec<Problem>,
    /// Remarks that keep nobody from anything.
    pub notes: Vec<Problem>,
}

/// Looks at all that a start with this configuration needs.
pub async fn check(config: &Config) -> Findings {
    let mut findings = Findings { problems: config.faults.clone(), notes: config.cautions.clone() };
    let problems = &mut findings.problems;
    check_tls(config, problems);
    for (index, app) in config.apps.iter().enumerate() {
        for error in push::check(&app.id, &push_settings(app, &config.upstream)) {
            let remedy = match error.service {
                "webpush" => "name the file of the App's VAPID key, and a subject that push services can write to",
                _ => "name the file and the ids as the push service gave them",
            };
            let what = format!("{}: {}", error.service, error.problem);
            let line = config.lines.of(&format!("app[{index}].{}", error.service));
            problems.push(Problem::new(&format!("app {}", error.app), what, remedy).at_line(line));
        }
    }
    if config.acme.as_ref().is_some_and(|acme| acme::Files::new(&acme.state).has_stand_in()) {
        let what = "the CA has issued no certificate yet: until it has, no phone and no app connects";
        let remedy = "start the relay, which orders one; one that runs says in /readyz (warnings) why there is none";
        findings.notes.push(config.problem("acme", what, remedy));
    }
    for doubt in certificate(config) {
        let (what, remedy) = (doubt.to_string(), doubt.remedy());
        let problem = config.problem("tls.certificate", what, remedy);
        // With ACME the start orders another one.
        let is_problem = doubt.is_fatal() && config.acme.is_none();
        if is_problem { findings.problems.push(problem) } else { findings.notes.push(problem) }
    }
    if config.upstream.transports.tls
        && let Tls::Files { certificate, .. } = &config.tls
        && let Ok(Some(doubt)) = crate::net::tls::by_wildcard(certificate, &config.upstream.public_host)
    {
        findings.notes.push(config.problem("tls.certificate", doubt.to_string(), doubt.remedy()));
    }
    for (problem, is_fatal) in push_certificates(config) {
        if is_fatal { findings.problems.push(problem) } else { findings.notes.push(problem) }
    }
    check_rest(config, &mut findings);
    if swap::may_be_written() {
        let what = "this machine swaps to a disk (/proc/swaps): passwords that the relay holds may be written there, and stay after a wipe";
        let remedy = "swapoff -a, or encrypt the swap; the packaged unit (MemorySwapMax=0) and docker/compose.yaml (memswap_limit) keep the relay from it, and Redis is to be kept likewise";
        findings.notes.push(Problem::new("swap", what, remedy));
    }
    findings.notes.extend(open_files::too_few(config));
    check_store(config, &mut findings).await;
    check_listeners(config, &mut findings).await;
    findings
}

/// The doubts of clients about the certificate: devices and apps by the name of `edge.public`, SIP servers by
/// that of `upstream.public_host`.
pub fn certificate(config: &Config) -> Vec<Doubt> {
    let Tls::Files { certificate, .. } = &config.tls else { return Vec::new() };
    // A certificate is on its way, and its failures are told.
    if config.acme.as_ref().is_some_and(|acme| acme::Files::new(&acme.state).has_stand_in()) {
        return Vec::new();
    }
    doubts(certificate, &hosts(config), config.upstream.ca_file.as_deref(), clock::advertised_now()).unwrap_or_default()
}

/// The same of a chain that is in use, leaf first.
pub fn certificate_in_use(config: &Config, chain: &[CertificateDer<'_>]) -> Vec<Doubt> {
    if chain.first().is_some_and(acme::stands_in) {
        return Vec::new();
    }
    doubts_of(chain, &hosts(config), config.upstream.ca_file.as_deref(), clock::advertised_now())
}

/// The doubts about the dates of the certificates that push services are shown, and whether they take no push for it.
pub(super) fn push_certificates(config: &Config) -> Vec<(Problem, bool)> {
    let mut found = Vec::new();
    for (index, app) in config.apps.iter().enumerate() {
        let Some(ApnsCredentials::Certificate { file, .. }) = app.apns.as_ref().map(|apns| &apns.credentials) else {
            continue;
        };
        // A file without a certificate is told by `push::check`.
        let chain = push::chain(file).unwrap_or_default();
        for doubt in dated(&chain[..chain.len().min(1)], clock::advertised_now()) {
            let place = format!("app[{index}].apns.certificate_file");
            let what = format!("{}: {doubt}", file.display());
            let problem = config.problem(&place, what, push_certificate_remedy(&doubt));
            found.push((problem, doubt.is_fatal()));
        }
    }
    found
}

/// The remedy for a doubt about the dates of such a certificate.
pub(super) fn push_certificate_remedy(doubt: &Doubt) -> &'static str {
    match doubt {
        Doubt::NotYet(..) => doubt.remedy(),
        _ => "get a new one from Apple, put it into the file, and reload: sipwake reload, or SIGHUP",
    }
}

fn check_tls(config: &Config, problems: &mut Vec<Problem>) {
    if let Some(acme) = &config.acme
        && let Err(error) = acme::Files::new(&acme.state).prepare(&acme.names)
    {
        let what = format!("{} cannot be used: {error}", acme.state.display());
        let remedy = "name a folder that the relay's user can write to";
        problems.push(config.problem("acme.state", what, remedy));
        return;
    }
    if let Tls::Files { certificate, key } = &config.tls
        && let Err(error) = ServerTls::load(certificate, key)
    {
        let remedy = "name a PEM chain (leaf first) and the leaf's private key";
        problems.push(Problem::new("tls", error.to_string(), remedy).at_line(config.lines.of("tls.certificate")));
    }
    if let Err(error) = ClientTls::new(config.upstream.ca_file.as_deref()) {
        let remedy = "name a PEM file of CA certificates";
        problems.push(config.problem("upstream.ca_file", error.to_string(), remedy));
    }
}

/// Checks the files that a start reads besides, or that it would report as failing from its beginning.
fn check_rest(config: &Config, findings: &mut Findings) {
    let problems = &mut findings.problems;
    if let Some(Otlp { is_tls: true, ca_file, .. }) = &config.otlp
        && let Err(error) = ClientTls::web(ca_file.as_deref())
    {
        problems.push(config.problem("otlp.ca_file", error.to_string(), "name a PEM file of CA certificates"));
    }
    if let Err(error) = resolver(config) {
        let place = if config.upstream.name_servers.is_empty() { "DNS" } else { "upstream.name_servers" };
        problems.push(config.problem(place, error.to_string(), "name servers that this machine can ask"));
    }
    if let Some(trail) = &config.audit
        && let Err(error) = audit::look(&trail.directory)
    {
        let remedy = "name a directory that the relay's user can write to: the packaged unit lets it write below /var/lib/sipwake alone";
        problems.push(config.problem("audit.directory", error.to_string(), remedy));
    }
    if let Some(keyring) = &config.store.keyring
        && rustix::process::geteuid().is_root()
        && is_anothers(keyring)
    {
        let what = "root has looked, who may read and write more than the user whose folder it is in";
        let remedy =
            "what that user may not is told by the relay alone: where it runs, sipwake reload checks with its rights";
        findings.notes.push(config.problem("store.keyring", what, remedy));
    }
}

/// Whether a file is, or would be, in a folder that is not root's.
fn is_anothers(file: &Path) -> bool {
    let folder = file.ancestors().skip(1).find_map(|folder| std::fs::metadata(folder).ok());
    folder.is_some_and(|folder| folder.uid() != 0)
}

async fn check_store(config: &Config, findings: &mut Findings) {
    let Findings { problems, notes } = findings;
    let keyring = match config.store.keyring.as_deref().map(Keyring::look) {
        None => Keyring::ephemeral(),
        Some(Ok(keyring)) => keyring,
        Some(Err(error)) => {
            return problems.push(config.problem("store.keyring", error.to_string(), error.remedy()));
        }
    };
    if let Err(error) = keyring.try_to_write() {
        problems.push(config.problem("store.keyring", error.to_string(), error.remedy()));
    }
    let is_missing = keyring.is_to_be_made();
    let file = config.store.keyring.as_deref().unwrap_or(Path::new("")).display();
    let runs = is_missing && running_relay::runs(config).await;
    if runs {
        let what = format!("{file}: there is no keyring, and the relay that runs here has read it");
        let remedy = "put the file back, from a copy or from another node, before that relay ends: no run after it could open what is stored";
        problems.push(config.problem("store.keyring", what, remedy));
    }
    let vault = open_vault(&config.store, keyring, &config.edge.public.to_string());
    if let Ok(Err(error)) = vault.as_ref().map(Vault::look_at_tombstones) {
        let remedy = "make the file readable and writable for the relay's user alone";
        problems.push(config.problem("store.keyring", error.to_string(), remedy));
    }
    let vault = match vault {
        Ok(vault) => vault,
        Err(error) => return problems.push(store_problem(config, error)),
    };
    let faults = match vault.examine().await {
        Ok(faults) => faults,
        Err(error) => return problems.push(store_problem(config, error)),
    };
    match vault.peek_keyring().await {
        Ok(Some(_)) if runs => {}
        Ok(Some(_)) if is_missing => {
            let what = format!(
                "{file}: there is no keyring, and the store holds what one has sealed, or other nodes have one"
            );
            problems.push(config.problem("store.keyring", what, KeyringMismatch::Untried.remedy()));
        }
        Ok(Some(fault)) => problems.push(Problem::new("store.keyring", fault.to_string(), fault.remedy())),
        Ok(None) if is_missing && !runs => {
            let what = format!("{file}: there is no keyring yet, and there is nothing that it would have to open");
            notes.push(config.problem("store.keyring", what, "the first start makes it; check makes none"));
        }
        Ok(None) | Err(_) => {}
    }
    for fault in faults {
        let is_required = config.store.require_ephemeral && fault.is_persistence();
        let place = if is_required { "store.require_ephemeral" } else { "store.url" };
        let problem = config.problem(place, fault.to_string(), fault.remedy());
        if fault.is_grave() || is_required { problems.push(problem) } else { notes.push(problem) }
    }
}

/// The problem of a store that cannot be examined.
fn store_problem(config: &Config, error: StoreError) -> Problem {
    match error {
        StoreError::Tls(what) => Problem::new("store", what, "name the PEM files"),
        StoreError::Url(what) => unreadable_store_url(config, what),
        error => config.problem("store.url", error.to_string(), error.remedy()),
    }
}

fn unreadable_store_url(config: &Config, what: &str) -> Problem {
    let remedy =
        "correct it: redis://USER:PASSWORD@HOST:PORT/DATABASE, with each %-encoded that holds one of @ : / ? # %";
    config.problem("store.url", what, remedy)
}

/// The fault of a `store.url` that cannot be read; nothing is connected to.
pub(super) fn store_url(config: &Config) -> Option<Problem> {
    match open_vault(&config.store, Keyring::ephemeral(), &config.edge.public.to_string()) {
        Err(StoreError::Url(what)) => Some(unreadable_store_url(config, what)),
        _ => None,
    }
}

/// An address that cannot be listened on.
struct FailedListener {
    setting: &'static str,
    address: SocketAddr,
    error: io::Error,
}

async fn check_listeners(config: &Config, findings: &mut Findings) {
    // All are released before a running relay is looked for, because none answers where this command itself listens.
    let failed = failed_listeners(config).await;
    let is_taken = failed.iter().any(|failed| failed.error.kind() == ErrorKind::AddrInUse);
    // A running relay is found by its operator listener; its listeners in the clear cannot be asked.
    let runs = is_taken && running_relay::runs(config).await;
    let mut of_a_relay = Vec::new();
    for FailedListener { setting, address, error } in failed {
        let in_use = error.kind() == ErrorKind::AddrInUse;
        let clear = matches!(setting, "upstream.tcp_listen" | "upstream.udp_listen");
        if runs && in_use && (clear || running_relay::is_ours(config, address).await) {
            of_a_relay.push(setting);
            continue;
        }
        let (what, remedy) = if in_use {
            (
                format!("{address} is in use by another program"),
                "stop what uses it, or name another address; systemd's sipwake.socket, which holds it while no relay runs, is in nobody's way where a ListenStream= of it names this very address, or its port alone: else edit that too (systemctl edit sipwake.socket)",
            )
        } else {
            let remedy = "name an address of this machine, and a port that the relay's user may open";
            (format!("{address} cannot be listened on: {error}"), remedy)
        };
        findings.problems.push(config.problem(setting, what, remedy));
    }
    if !of_a_relay.is_empty() {
        let what = "a relay with this certificate runs and holds these addresses";
        findings.notes.push(Problem::new(
            &of_a_relay.join(", "),
            what,
            "end it before another one is started with this file; where an address is another one now, sipwake.socket of systemd is to name it, too",
        ));
    }
}

/// Tries to listen on every address of the configuration. Each is held until all are tried, so that two settings with one address are found.
async fn failed_listeners(config: &Config) -> Vec<FailedListener> {
    let transports = config.upstream.transports;
    let acme = config.acme.as_ref().and_then(|acme| acme.listen);
    let streams = [
        ("edge.listen", Some(config.edge.listen)),
        ("edge.websocket", config.edge.websocket),
        ("api.listen", Some(config.api.listen)),
        ("operator.listen", Some(config.operator.listen)),
        ("upstream.tls_listen", transports.tls.then_some(config.upstream.tls_listen)),
        ("upstream.tcp_listen", transports.tcp.then_some(config.upstream.tcp_listen)),
        ("acme.listen", acme),
    ];
    let mut held = Vec::new();
    let mut failed = Vec::new();
    for (setting, address) in streams {
        let Some(address) = address else { continue };
        match TcpListener::bind(address).await {
            Ok(listener) => held.push(listener),
            Err(error) => failed.push(FailedListener { setting, address, error }),
        }
    }
    if transports.udp
        && let Err(error) = UdpSocket::bind(config.upstream.udp_listen).await
    {
        failed.push(FailedListener { setting: "upstream.udp_listen", address: config.upstream.udp_listen, error });
    }
    failed
}
