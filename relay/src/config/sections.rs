//! The sections of the configuration, one function each, and what must hold between them.
//!
//! Invariant: each function reads every key of its section, gives a value even where one is wrong (so that all
//! problems are found), and leaves the verdict to [`read`], which gives a [`Config`] only when there was none.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use toml::Table;

use super::acme_section::acme;
use super::distinct::{distinct, distinct_keys, distinct_listeners};
use super::environment::MAX_ENTRIES;
use super::problem::{Problem, Problems};
use super::reader::{MIN_KEY, Reader, Shared, repeated};
use super::secret_files::Held;
use super::values::{self, DomainRules, HostPort};
use super::*;
use crate::random;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// The port for devices where `edge.public` names none.
pub(super) const PORT_OF_EDGE: u16 = 5061;
/// The keyring where none is named.
pub(super) const KEYRING: &str = "secrets/keyring";
/// The longest life of a push instance: no setting goes above it.
const MAX_LIFETIME: Duration = Duration::from_secs(6 * 86_400);
/// Below this a lifetime is allowed, and said at start-up: phones that sleep over a weekend lose their registration.
const USUAL_MIN_LIFETIME: Duration = Duration::from_secs(3 * 86_400);
/// The longest registration asked for upstream.
const MAX_REGISTER_EXPIRES: Duration = DAY;
/// The longest that a better SIP server is not looked for.
const MAX_FAILBACK_INTERVAL: Duration = Duration::from_secs(3_600);
/// How long the audit trail is kept when the operator names nothing, and at most.
const USUAL_AUDIT: Duration = Duration::from_secs(30 * 86_400);
const MAX_AUDIT: Duration = Duration::from_secs(366 * 86_400);
/// Name servers that can be named.
const MAX_NAME_SERVERS: usize = 8;
/// A faster pace is none.
const MAX_REGISTRATIONS_PER_SECOND: u32 = 1_000_000;
/// Below this a registration is allowed, and said at start-up: it loads the SIP servers.
const USUAL_MIN_REGISTER_EXPIRES: Duration = Duration::from_secs(60);
/// The longest wait for a device; past three minutes SIP proxies give a call up (RFC 3261 §16.6, Timer C).
const MAX_RING_TIMEOUT: Duration = Duration::from_secs(180);
/// The longest wait for an answer.
const MAX_ANSWER_TIMEOUT: Duration = Duration::from_secs(600);
/// The body of a MESSAGE that is taken when the operator names none, and the largest that can be allowed: a whole message
/// is at most 64 KiB.
const USUAL_MAX_BODY: usize = 16 * 1024;
const LARGEST_MAX_BODY: usize = 48 * 1024;

/// The purpose of reading: a file must name every value without a sensible default, development makes it on the spot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Profile {
    File,
    Development,
}

/// Reads everything; gives the configuration or all that is wrong with it.
pub(super) fn read(
    text: &str,
    directory: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
    profile: Profile,
) -> Result<Config, Problems> {
    let mut table = text.parse::<Table>().map_err(|error| Problems::one(syntax(text, &error)))?;
    let mut problems = Vec::new();
    let environment: Vec<(String, String)> = environment.into_iter().collect();
    let origins = environment::apply(&mut table, &environment, &mut problems);
    let shared = Shared {
        directory: directory.to_owned(),
        credentials: credentials(&environment),
        handed_over: RefCell::default(),
        origins,
        problems: RefCell::new(problems),
        cautions: RefCell::default(),
        lines: Lines::read(text),
        asked: RefCell::default(),
        set: RefCell::default(),
        secret_files: RefCell::default(),
    };
    let mut root = Reader::new(&shared, String::new(), table);
    let edge = edge(&mut root, profile);
    let api = api(&mut root, profile);
    let operator = operator(&mut root, profile);
    let upstream = upstream(&mut root, profile, &edge);
    let store = store(&mut root, profile);
    let acme = acme(&mut root, &edge, &api, &upstream, &store);
    let mut config = Config {
        api,
        operator,
        tls: tls(&mut root, profile, acme.as_ref()),
        acme,
        upstream,
        store,
        audit: audit(&mut root),
        otlp: otlp(&mut root),
        lifetime: lifetime(&mut root),
        call: call(&mut root),
        messages: messages(&mut root),
        limits: limits(&mut root),
        apps: apps(&mut root, profile),
        sip_servers: sip_servers(&mut root),
        timing: Timing::of_this_process(),
        cautions: Vec::new(),
        faults: Vec::new(),
        lines: shared.lines.clone(),
        settings: Vec::new(),
        source: None,
        edge,
    };
    distinct_listeners(&config, &root);
    distinct_keys(&config, &root);
    root.finish();
    config.cautions = shared.cautions.take();
    config.settings = settings(&shared);
    let (meant, strays) = environment::strays(&environment, &shared.asked.take());
    config.faults = strays;
    let is_told = shared.problems.borrow().iter().any(|problem| problem.place == "app");
    if config.apps.is_empty() && !is_told && profile == Profile::File {
        let what = "is missing: no app can enable push, and no device can register through the edge";
        config.faults.push(Problem::new(
            "app",
            what,
            "add an [[app]] with id, api_key_file, and [app.apns], [app.fcm] or [app.webpush]",
        ));
    }
    let mut problems = shared.problems.take();
    problems.extend(meant);
    if !problems.is_empty() {
        problems.append(&mut config.faults);
    }
    Problems::some(problems).map_or(Ok(config), Err)
}

/// The folder where a service manager has put the files that it hands over to this process.
pub(super) fn credentials(environment: &[(String, String)]) -> Option<PathBuf> {
    let named = environment.iter().find(|(name, _)| name == "CREDENTIALS_DIRECTORY");
    named.map(|(_, folder)| PathBuf::from(folder)).filter(|folder| folder.is_absolute())
}

/// Everything that was asked for and is a setting, in the order of the table.
fn settings(shared: &Shared) -> Vec<Setting> {
    let set = shared.set.borrow();
    let one = |place: &String| {
        let default = effective::default_of(place)?;
        let variable = shared.origins.iter().find(|(known, _)| known == place);
        let (value, origin) = match (set.get(place), variable) {
            (Some(value), Some((_, variable))) => (value.clone(), Origin::Environment(variable.clone())),
            (Some(value), None) => (value.clone(), Origin::File(shared.lines.of(place))),
            (None, _) => (default, Origin::Default),
        };
        Some(Setting { place: place.clone(), value, origin })
    };
    shared.asked.borrow().iter().filter_map(one).collect()
}

/// A syntax error with its line; the line itself is not repeated.
fn syntax(text: &str, error: &toml::de::Error) -> Problem {
    let line = lines::line(text, error.span().map_or(0, |span| span.start));
    Problem::new(&format!("line {line}"), format!("is not TOML: {}", error.message()), "see https://toml.io")
}

/// The section `name`, empty when it is absent.
fn section<'a>(root: &mut Reader<'a>, name: &'static str) -> Reader<'a> {
    root.section_or_empty(name)
}

fn edge(root: &mut Reader<'_>, profile: Profile) -> Edge {
    let mut edge = section(root, "edge");
    let listen = address(&mut edge, "listen", profile, 5061);
    let websocket = edge.optional("websocket", ADDRESS, values::socket_address);
    let fallback = HostPort { host: "127.0.0.1".into(), port: listen.port() };
    let must_be_named = profile == Profile::File && !edge.has("public");
    let public = edge.parsed("public", HOST_PORT, |text| values::host_port(text, PORT_OF_EDGE), fallback);
    if must_be_named {
        edge.problem("public", "is missing", "name the host and port where devices reach this relay");
    } else if public.port == 0 && listen.port() != 0 {
        edge.problem("public", "has port 0", "name the port where devices reach this relay");
    } else if profile == Profile::File && is_this_machine(&public.host) && !listen.ip().is_loopback() {
        let what = "names this machine to itself: phones dial it, and SIP servers find it in the Contact (unless \
                    upstream.public_host names another host), and both find nobody but themselves there";
        edge.caution("public", what, "name the host that others reach this relay by, but for a trial on one machine");
    }
    let flow_domains = flow_domains(&mut edge);
    edge.finish();
    Edge { listen, public, websocket, flow_domains }
}

fn operator(root: &mut Reader<'_>, profile: Profile) -> Operator {
    let mut operator = section(root, "operator");
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, 9443));
    let listen = operator.parsed("listen", ADDRESS, values::socket_address, default);
    let token_file = operator.named_path("token_file");
    let token = key(&mut operator, "token_file", profile);
    operator.finish();
    Operator { listen, token, token_file }
}

fn api(root: &mut Reader<'_>, profile: Profile) -> Api {
    let mut api = section(root, "api");
    let listen = address(&mut api, "listen", profile, 8443);
    let mut origins = Vec::new();
    for entry in limited_list(&mut api, "origins").unwrap_or_default() {
        match values::page_origin(&entry) {
            Some(origin) => origins.push(origin),
            None => api.problem(
                "origins",
                format!("holds {}, which is no origin of a web page", repeated(&entry)),
                "write scheme and host, such as \"https://phone.example.com\"; http for localhost alone",
            ),
        }
    }
    api.finish();
    Api { listen, origins }
}

fn tls(root: &mut Reader<'_>, profile: Profile, acme: Option<&Acme>) -> Tls {
    let mut tls = section(root, "tls");
    if let Some(acme) = acme {
        for key in ["certificate", "key"] {
            if tls.has(key) {
                tls.problem(key, "stands beside [acme], which gets a certificate by itself", "remove one of the two");
            }
            tls.ignore(key);
        }
        tls.finish();
        let (certificate, key) = (acme.state.join("certificate.pem"), acme.state.join("certificate.key"));
        return Tls::Files { certificate, key };
    }
    let on_the_spot = profile == Profile::Development && !tls.has("certificate") && !tls.has("key");
    let result = if on_the_spot {
        Tls::Development { ca_key: None }
    } else {
        let certificate = tls.required_file("certificate", "name the PEM file of the certificate chain, leaf first");
        let key = tls.required_file("key", "name the PEM file of the certificate's private key");
        tls.holds("key", &key, Held::TlsKey);
        tls.caution_if_others_can_read("key", &key);
        Tls::Files { certificate, key }
    };
    tls.finish();
    result
}

fn upstream(root: &mut Reader<'_>, profile: Profile, edge: &Edge) -> Upstream {
    let mut upstream = section(root, "upstream");
    let transports = transports(&mut upstream, profile);
    let allow_addresses = networks(&mut upstream, profile);
    let register_expires =
        upstream.duration("register_expires", Duration::from_secs(600), SECOND, MAX_REGISTER_EXPIRES);
    if register_expires < USUAL_MIN_REGISTER_EXPIRES {
        upstream.caution("register_expires", "is below 60s", "expect the SIP servers to refuse it or to feel the load");
    }
    let failback_interval =
        upstream.duration("failback_interval", Duration::from_secs(60), SECOND, MAX_FAILBACK_INTERVAL);
    let name_servers = name_servers(&mut upstream);
    let allow_md5 = upstream.flag("allow_md5", true);
    let registrations_per_second = upstream.number("registrations_per_second", 2_000, 1, MAX_REGISTRATIONS_PER_SECOND);
    let result = Upstream {
        transports,
        udp_listen: address(&mut upstream, "udp_listen", profile, 5070),
        tcp_listen: address(&mut upstream, "tcp_listen", profile, 5070),
        tls_listen: address(&mut upstream, "tls_listen", profile, 5071),
        public_host: upstream.parsed("public_host", HOST, values::host, edge.public.host.clone()),
        ca_file: upstream.file("ca_file"),
        allow_addresses,
        domains: domains(&mut upstream, "is empty, so no account could be enabled"),
        register_expires,
        name_servers,
        failback_interval,
        bare_lf_servers: bare_lf_servers(&mut upstream),
        allow_md5,
        registrations_per_second,
    };
    if let Some(beyond) = edge.flow_domains.first_beyond(&result.domains) {
        let what = format!("does not hold {beyond}, which edge.flow_domains lists: its devices are answered 403");
        upstream.caution("domains", what, "list it here, too");
    }
    upstream.finish();
    result
}

fn transports(upstream: &mut Reader<'_>, profile: Profile) -> Transports {
    let remedy = "name at least one of \"tls\", \"tcp\", \"udp\"";
    let all = profile == Profile::Development;
    let mut transports = Transports { udp: all, tcp: all, tls: true };
    let Some(names) = upstream.list("transports") else { return transports };
    transports = Transports { udp: false, tcp: false, tls: false };
    for name in &names {
        match &**name {
            "tls" => transports.tls = true,
            "tcp" => transports.tcp = true,
            "udp" => transports.udp = true,
            other => upstream.problem("transports", format!("{other:?} is no transport"), remedy),
        }
    }
    if names.is_empty() {
        upstream.problem("transports", "is empty", remedy);
    }
    if transports.udp || transports.tcp {
        let what = "lets accounts talk to SIP servers in the clear: calls and registrations can be read on the way";
        upstream.caution("transports", what, "leave only \"tls\" where every SIP server speaks it");
    }
    transports
}

fn networks(upstream: &mut Reader<'_>, profile: Profile) -> Vec<IpNet> {
    // The listed networks are added to loopback, where the SIP server of a trial is.
    let loopback = ["127.0.0.0/8", "::1/128"].iter().filter(|_| profile == Profile::Development);
    let mut networks: Vec<IpNet> = loopback.filter_map(|net| net.parse().ok()).collect();
    for entry in &limited_list(upstream, "allow_addresses").unwrap_or_default() {
        match values::network(entry) {
            Some(network) => networks.push(network),
            None => upstream.problem(
                "allow_addresses",
                format!("{entry:?} is not a network"),
                "write networks like \"10.20.0.0/16\" or single addresses",
            ),
        }
    }
    if networks.iter().any(|network| network.prefix_len() == 0) {
        let what = "allows every address: an account can make the relay connect to inside services";
        upstream.caution("allow_addresses", what, "name only the networks of your SIP servers");
    }
    networks
}

fn name_servers(upstream: &mut Reader<'_>) -> Vec<SocketAddr> {
    let remedy = "write addresses like \"192.0.2.53\", \"[2001:db8::53]:53\"";
    let entries = upstream.list("name_servers").unwrap_or_default();
    if entries.len() > MAX_NAME_SERVERS {
        upstream.problem(
            "name_servers",
            format!("has {} entries", entries.len()),
            format!("keep it to {MAX_NAME_SERVERS}"),
        );
    }
    let mut servers = Vec::new();
    for entry in entries.iter().take(MAX_NAME_SERVERS) {
        let alone = || entry.trim_matches(['[', ']']).parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, 53));
        match entry.parse().ok().or_else(alone).filter(|server: &SocketAddr| server.port() != 0) {
            Some(server) => servers.push(server),
            None => upstream.problem("name_servers", format!("{entry:?} is not an address"), remedy),
        }
    }
    servers
}

fn domains(section: &mut Reader<'_>, empty: &'static str) -> DomainRules {
    let remedy = "write \"*\", \"example.com\" or \"*.example.com\"";
    let entries = limited_list(section, "domains");
    if entries.as_ref().is_some_and(Vec::is_empty) {
        section.problem("domains", empty, remedy);
    }
    let entries = entries.unwrap_or_else(|| vec!["*".to_owned()]);
    DomainRules::parse(&entries).unwrap_or_else(|what| {
        section.problem("domains", what, remedy);
        DomainRules::none()
    })
}

fn flow_domains(edge: &mut Reader<'_>) -> DomainRules {
    let entries = limited_list(edge, "flow_domains").unwrap_or_default();
    let rules = DomainRules::parse(&entries).unwrap_or_else(|what| {
        edge.problem("flow_domains", what, "write \"example.com\" or \"*.example.com\"");
        DomainRules::none()
    });
    if rules.allow_any() {
        let what = "lets anybody register at any SIP server, and call there, from this relay's address";
        edge.caution(
            "flow_domains",
            what,
            "name only the domains whose devices register through the edge without push",
        );
    }
    rules
}

fn bare_lf_servers(upstream: &mut Reader<'_>) -> Vec<Box<str>> {
    let hosts = limited_list(upstream, "bare_lf_servers").unwrap_or_default();
    let wrong = hosts.iter().find(|host| values::host(host).is_none());
    if let Some(wrong) = wrong {
        upstream.problem("bare_lf_servers", format!("{wrong:?} is no host"), "write \"sip.example.com\" or an address");
    }
    hosts.iter().filter_map(|host| values::host(host)).collect()
}

fn limited_list(section: &mut Reader<'_>, key: &'static str) -> Option<Vec<String>> {
    let list = section.list(key)?;
    if list.len() > MAX_ENTRIES {
        section.problem(key, format!("has {} entries", list.len()), format!("keep it to {MAX_ENTRIES}"));
        return Some(Vec::new());
    }
    Some(list)
}

fn store(root: &mut Reader<'_>, profile: Profile) -> Store {
    const SCHEMES: [&str; 6] =
        ["redis://", "rediss://", "redis+sentinel://", "rediss+sentinel://", "redis+cluster://", "rediss+cluster://"];
    let mut store = section(root, "store");
    let url = store.text("url").map(zeroize::Zeroizing::new);
    let url = url.as_ref().map_or("memory:", |url| &***url);
    let known = SCHEMES.iter().any(|scheme| url.len() > scheme.len() && url.starts_with(scheme));
    if url != "memory:" && !known {
        let remedy = format!("write \"memory:\" or a URL that begins with one of {}", SCHEMES.join(", "));
        store.problem("url", "is not the URL of a store", remedy);
    }
    if profile == Profile::File && url == "memory:" {
        let what = "is \"memory:\": a restart forgets every push instance";
        store.caution("url", what, "name a Redis for anything but a trial");
    }
    let keyring = store.path("keyring");
    if let Some(path) = &keyring {
        store.holds("keyring", path, Held::Keyring);
    }
    let keyring = match (keyring, profile) {
        (Some(path), _) => Some(path),
        (None, Profile::File) => Some(store.directory().join(KEYRING)),
        (None, Profile::Development) => None,
    };
    let ca_file = store.file("ca_file");
    let client = store_client(&mut store);
    for (key, is_set) in [("ca_file", ca_file.is_some()), ("client_certificate", client.is_some())] {
        if is_set && !url.starts_with("rediss") {
            store.problem(key, "has no use: store.url speaks no TLS", "write rediss:// (or rediss+…://), or remove it");
        }
    }
    let require_ephemeral = store.flag("require_ephemeral", false);
    let keep_passwords = store.flag("keep_passwords", false);
    let url = SecretText::new(url);
    store.finish();
    Store { url, ca_file, client, require_ephemeral, keep_passwords, keyring }
}

/// The certificate and key by which the relay shows a Redis who it is: both or none.
fn store_client(store: &mut Reader<'_>) -> Option<(PathBuf, SecretText)> {
    match (store.has("client_certificate"), store.has("client_key")) {
        (true, false) => store.problem("client_key", "is missing", "name the key of store.client_certificate"),
        (false, true) => store.problem("client_certificate", "is missing", "name the certificate of store.client_key"),
        _ => {}
    }
    store.file("client_certificate").zip(store.secret("client_key", 1))
}

fn audit(root: &mut Reader<'_>) -> Option<Audit> {
    let mut section = section(root, "audit");
    let directory = section.path("directory");
    // Its files are those of days.
    let is_right = |keep: &Duration| (DAY..=MAX_AUDIT).contains(keep) && keep.as_secs().is_multiple_of(DAY.as_secs());
    let days = |text: &str| values::duration(text).filter(is_right);
    let keep = section.parsed("keep", "whole days, from \"1d\" to \"366d\"", days, USUAL_AUDIT);
    section.finish();
    directory.map(|directory| Audit { directory, keep })
}

fn otlp(root: &mut Reader<'_>) -> Option<Otlp> {
    let mut section = section(root, "otlp");
    let wanted = "https://host:port, or http:// on this machine (localhost, 127.0.0.1, [::1])";
    let endpoint = section.optional("endpoint", wanted, values::collector);
    let ca_file = section.file("ca_file");
    let token = section.has("token_file").then(|| {
        section.required_secret_file("token_file", Held::CollectorToken, "name the file with the collector's token")
    });
    let token = token.flatten().map(|(_, token)| ApiKey::new(token.expose().trim()));
    if endpoint.is_none() && (ca_file.is_some() || token.is_some()) {
        section.problem("endpoint", "is missing", "name the collector, or remove the section");
    }
    section.finish();
    endpoint.map(|(is_tls, HostPort { host, port })| Otlp { is_tls, host, port, ca_file, token })
}

fn lifetime(root: &mut Reader<'_>) -> Lifetime {
    let mut section = section(root, "lifetime");
    let mut bounded = |key, default| section.duration(key, default, SECOND, MAX_LIFETIME);
    let lifetime =
        Lifetime { min: bounded("min", 3 * DAY), default: bounded("default", 5 * DAY), max: bounded("max", 6 * DAY) };
    if lifetime.min > lifetime.default {
        section.problem("default", "is below lifetime.min", "keep min ≤ default ≤ max");
    }
    if lifetime.default > lifetime.max {
        section.problem("max", "is below lifetime.default", "keep min ≤ default ≤ max");
    }
    if lifetime.min < USUAL_MIN_LIFETIME {
        let what = "is below 3d: a phone that its user does not open for a weekend stops ringing";
        section.caution("min", what, "leave it at 3d outside of trials");
    }
    section.finish();
    lifetime
}

fn messages(root: &mut Reader<'_>) -> Messages {
    let mut section = section(root, "messages");
    let size = |text: &str| values::size(text).filter(|size| (1..=LARGEST_MAX_BODY).contains(size));
    let max_body = section.parsed("max_body", "a size from 1B to 48KiB, like \"16KiB\"", size, USUAL_MAX_BODY);
    let subscribe_voicemail = section.flag("subscribe_voicemail", false);
    section.finish();
    Messages { max_body, subscribe_voicemail }
}

fn limits(root: &mut Reader<'_>) -> Limits {
    let mut section = section(root, "limits");
    let limits = Limits {
        message_timeout: section.duration("message_timeout", 30 * SECOND, SECOND, 600 * SECOND),
        connections_per_source: section.number("connections_per_source", 20_000, 1, 1_000_000),
        dials_per_source: section.number("dials_per_source", 16, 1, 1_000),
        dial_timeout: section.duration("dial_timeout", 30 * SECOND, SECOND, 600 * SECOND),
        instances_per_node: section.number("instances_per_node", 2_000_000, 1, 100_000_000),
        instances_per_app: section.number("instances_per_app", 2_000_000, 1, 100_000_000),
        instances_per_account: section.number("instances_per_account", 32, 1, 10_000),
        instances_per_source: section.number("instances_per_source", 500_000, 1, 100_000_000),
        registrations_per_node: section.number("registrations_per_node", 500_000, 1, 10_000_000),
        registrations_per_server: section.number("registrations_per_server", 200_000, 1, 10_000_000),
        registrations_per_source: section.number("registrations_per_source", 1_000, 1, 10_000_000),
        pushes_per_device: section.number("pushes_per_device", 120, 2, 10_000),
        pushes_per_caller: section.number("pushes_per_caller", 60, 1, 10_000),
        pushes_per_app: section.number("pushes_per_app", 100_000_000, 10, 4_000_000_000),
        failures_per_account: section.number("failures_per_account", 5, 1, 1_000),
        failures_per_source: section.number("failures_per_source", 60, 1, 1_000_000),
    };
    section.finish();
    limits
}

fn call(root: &mut Reader<'_>) -> Call {
    let mut section = section(root, "call");
    let early = |text: &str| match text {
        "immediately" => Some(EarlyRinging::Immediately),
        "after-push-accepted" => Some(EarlyRinging::AfterPushAccepted),
        "after-device-rings" => Some(EarlyRinging::AfterDeviceRings),
        _ => None,
    };
    let wanted = "\"immediately\", \"after-push-accepted\" or \"after-device-rings\"";
    let call = Call {
        ring_timeout: section.duration("ring_timeout", 30 * SECOND, SECOND, MAX_RING_TIMEOUT),
        answer_timeout: section.duration("answer_timeout", 120 * SECOND, SECOND, MAX_ANSWER_TIMEOUT),
        early_ringing: section.parsed("early_ringing", wanted, early, EarlyRinging::AfterPushAccepted),
    };
    if call.answer_timeout < call.ring_timeout {
        section.problem(
            "answer_timeout",
            "is below call.ring_timeout",
            "give the user time to answer after the device is there",
        );
    }
    section.finish();
    call
}

fn apps(root: &mut Reader<'_>, profile: Profile) -> Vec<App> {
    if profile == Profile::Development && !root.has("app") {
        root.known("app");
        return vec![App {
            id: "com.example.phone".into(),
            api_key: random_key(),
            apns: None,
            fcm: None,
            webpush: None,
        }];
    }
    let mut apps: Vec<App> = Vec::new();
    let mut printing = Vec::new();
    for mut section in root.sections("app", MAX_ENTRIES) {
        let prints = section.flag("print_pushes", false);
        let app = App {
            id: id(&mut section),
            api_key: key(&mut section, "api_key_file", Profile::File),
            apns: section.section("apns").map(push_sections::apns),
            fcm: section.section("fcm").map(push_sections::fcm),
            webpush: section.section("webpush").map(push_sections::webpush),
        };
        let has_service = app.apns.is_some() || app.fcm.is_some() || app.webpush.is_some();
        if prints && has_service {
            section.problem("print_pushes", "stands beside a push service", "remove one of the two");
        } else if prints {
            let what = "is true: pushes are printed to the standard error, with their callers, and wake no phone";
            section.caution("print_pushes", what, "name a push service for anything but a trial");
        } else if !has_service && profile == Profile::File {
            section.problem(
                "apns",
                "is missing, and so are fcm and webpush: nothing could wake a phone",
                "add [app.apns], [app.fcm] or [app.webpush]; for a trial: print_pushes = true",
            );
        }
        printing.push(prints);
        if printing[0] != prints {
            let remedy = "a relay prints the pushes of all of its Apps, or of none";
            section.problem("print_pushes", "is not the same for each App", remedy);
        }
        let taken = apps.iter().map(|other| (&*other.id, &other.api_key));
        distinct(&section, &app.id, &app.api_key, taken, "api_key_file");
        section.finish();
        apps.push(app);
    }
    apps
}

fn sip_servers(root: &mut Reader<'_>) -> Vec<SipServer> {
    let mut servers: Vec<SipServer> = Vec::new();
    for mut section in root.sections("sip_server", MAX_ENTRIES) {
        let server = SipServer {
            id: id(&mut section),
            key: key(&mut section, "key_file", Profile::File),
            domains: domains(&mut section, "is empty, so it could wake nobody"),
            registrars: registrars(&mut section),
        };
        let taken = servers.iter().map(|other| (&*other.id, &other.key));
        distinct(&section, &server.id, &server.key, taken, "key_file");
        section.finish();
        servers.push(server);
    }
    servers
}

fn registrars(section: &mut Reader<'_>) -> Vec<Box<str>> {
    let mut hosts = Vec::new();
    for entry in limited_list(section, "registrars").unwrap_or_default() {
        match values::host(&entry) {
            Some(host) => hosts.push(host),
            None => section.problem(
                "registrars",
                format!("holds {entry:?}, which is no host"),
                "write names or addresses without a port, such as \"sip1.example.net\"",
            ),
        }
    }
    hosts
}

/// Whether a host is a name that every machine has for itself.
fn is_this_machine(host: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.is_loopback())
}

const ADDRESS: &str = "an address and a port, like \"0.0.0.0:5061\" or \"[::]:5061\"";
const HOST: &str = "a host name or an address, like \"relay1.example.net\"";
const HOST_PORT: &str = "a host and a port, like \"relay1.example.net:5061\"";

/// A listener's address; on loopback in development.
fn address(section: &mut Reader<'_>, key: &'static str, profile: Profile, port: u16) -> SocketAddr {
    let ip = match profile {
        Profile::File => Ipv4Addr::UNSPECIFIED,
        Profile::Development => Ipv4Addr::LOCALHOST,
    };
    section.parsed(key, ADDRESS, values::socket_address, SocketAddr::from((IpAddr::V4(ip), port)))
}

/// An id: 1 to 128 characters that are safe in a log line, a label and a file name.
fn id(section: &mut Reader<'_>) -> Box<str> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let parse = |text: &str| ((1..=128).contains(&text.len()) && text.bytes().all(safe)).then(|| text.into());
    section.required_parsed("id", "1 to 128 letters, digits, dots, hyphens and underscores", parse).unwrap_or_default()
}

/// A key from its file; in development one made on the spot when no file is named.
fn key(section: &mut Reader<'_>, setting: &'static str, profile: Profile) -> ApiKey {
    if profile == Profile::Development && !section.has(setting) {
        section.known(setting);
        return random_key();
    }
    let remedy = "name a file with a random key, for example from: openssl rand -hex 32";
    let secret = section.required_key(setting, MIN_KEY, remedy);
    ApiKey::new(secret.as_ref().map_or("", SecretText::expose))
}

/// 128 random bits in hex.
fn random_key() -> ApiKey {
    let mut bytes = zeroize::Zeroizing::new([0u8; 16]);
    random::fill(&mut *bytes);
    let mut text = zeroize::Zeroizing::new(String::with_capacity(32));
    for byte in bytes.iter() {
        text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
    }
    ApiKey::new(&text)
}
