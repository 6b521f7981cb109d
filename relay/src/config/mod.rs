//! The configuration: typed TOML, unknown keys refused, every problem reported at once.
//!
//! A value comes from the file, or from the environment as `SIPWAKE_SECTION__KEY` (which wins), or from its default.
//! A relative path is relative to the directory of the configuration file. Secrets are never written in the file
//! itself: it names files that hold them.
//!
//! | room | what it is |
//! | --- | --- |
//! | `sections`, `acme_section`, `push_sections` | the sections |
//! | `reader`, `values` | a table, and the values in it |
//! | `environment`, `effective` | what the environment overrides, and what is in force |
//! | `secret_files`, `distinct` | the files that hold secrets, and what no two sections share |
//! | `lines`, `problem` | where a setting stands, and what is wrong with it |
//! | `operator_listen`, `operator_token` | the settings that commands read alone |
//!
//! Invariant: a [`Config`] that exists is right: each address, duration, domain and key in it has been parsed and is
//! within its bounds, so nothing downstream checks again. `Debug` shows no secret. Deliberately absent: whether a
//! port can be bound or a store answers (`sipwake check` asks those that own them), and any change while running.
//!
#![doc = include_str!("settings.md")]

mod acme_section;
mod distinct;
mod effective;
mod environment;
mod lines;
mod operator_listen;
mod operator_token;
mod problem;
mod push_sections;
mod reader;
mod secret_files;
mod sections;
pub(crate) mod values;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::regular_file;
use crate::secret::{ApiKey, SecretText};
use crate::timing::Timing;

pub use effective::{Origin, Setting};
pub use lines::Lines;
pub use operator_listen::{operator_listener, place_of_notes};
pub use operator_token::operator_token;
pub use problem::{Problem, Problems};
pub use reader::{token_in, token_of};
pub(crate) use values::host as canonical_host;
pub use values::{DomainRules, HostPort};

/// Everything an operator can set.
#[derive(Debug, Clone)]
pub struct Config {
    /// SIP over TLS, for devices.
    pub edge: Edge,
    /// HTTPS, for apps and SIP servers.
    pub api: Api,
    /// HTTPS, for operators.
    pub operator: Operator,
    /// The certificate of every listener.
    pub tls: Tls,
    /// `[acme]`; `None`: the certificate is that of `[tls]`.
    pub acme: Option<Acme>,
    /// Toward the accounts' SIP servers.
    pub upstream: Upstream,
    /// The store of sealed records.
    pub store: Store,
    /// `[audit]`; `None`: nothing is written down.
    pub audit: Option<Audit>,
    /// `[otlp]`; `None`: no traces are sent.
    pub otlp: Option<Otlp>,
    /// How long a push instance may live.
    pub lifetime: Lifetime,
    /// How long a call waits.
    pub call: Call,
    /// SIP MESSAGEs that are kept for a device.
    pub messages: Messages,
    /// The limits of each source, account and SIP server.
    pub limits: Limits,
    /// The mobile applications served; ids and keys are unique.
    pub apps: Vec<App>,
    /// The SIP servers that may ask for a wake; ids and keys are unique.
    pub sip_servers: Vec<SipServer>,
    /// The waits that nobody configures; no key of the file sets them.
    pub timing: Timing,
    /// Allowed settings that deserve a word at start-up: a place and its meaning.
    pub cautions: Vec<Problem>,
    /// Settings that `check` refuses although `serve` goes on with a warning: they keep the relay running, and are most likely a mistake.
    pub faults: Vec<Problem>,
    /// The line of each setting in the file.
    pub lines: Lines,
    /// Each setting as it is in force.
    pub settings: Vec<Setting>,
    /// The file that it was read from.
    pub source: Option<PathBuf>,
}

/// `[edge]`: SIP over TLS, for devices.
#[derive(Debug, Clone)]
pub struct Edge {
    /// The address for devices; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The address that pushes and Record-Route name. Port 0, allowed only while `listen` has port 0, means the port it got.
    pub public: HostPort,
    /// SIP over secure WebSocket (RFC 7118), when set.
    pub websocket: Option<SocketAddr>,
    /// The SIP domains whose devices may register through the edge without push parameters.
    pub flow_domains: DomainRules,
}

/// `[api]`: HTTPS, for apps and SIP servers.
#[derive(Debug, Clone)]
pub struct Api {
    /// The address for apps; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The origins of web pages that may call it.
    pub origins: Vec<Box<str>>,
}

/// `[operator]`: HTTPS, for operators.
#[derive(Debug, Clone)]
pub struct Operator {
    /// The address for operators; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The bearer token of everything but `/healthz` and `/readyz`; at least 16 characters.
    pub token: ApiKey,
    /// The file that it was read from; `None` where it was made up.
    pub token_file: Option<PathBuf>,
}

/// `[tls]`: the certificate of every listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// PEM files, re-read when they change.
    Files {
        /// The chain, leaf first.
        certificate: PathBuf,
        /// The leaf's private key.
        key: PathBuf,
    },
    /// Made on the spot; only [`Config::development`] has this.
    Development {
        /// The key of the CA that vouches for it, in PEM; without it, the CA is made on the spot, too.
        ca_key: Option<SecretText>,
    },
}

/// `[acme]`: a certificate from a CA that speaks ACME (RFC 8555). [`Config::tls`] then names its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acme {
    /// The CA's directory, an `https` URL.
    pub directory_url: Box<str>,
    /// The addresses that the CA may write to, as `mailto:` URIs.
    pub contact: Vec<Box<str>>,
    /// The folder of the account, the certificate and its key.
    pub state: PathBuf,
    /// How the CA is shown that the names are this relay's.
    pub challenge: AcmeChallenge,
    /// The address for the CA; `None`: at the API's listener.
    pub listen: Option<SocketAddr>,
    /// The names in the certificate; at least one, each a DNS name.
    pub names: Vec<String>,
    /// PEM certificates trusted for the directory beside the system's roots.
    pub ca_file: Option<PathBuf>,
}

/// How a CA is shown that a name is this relay's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcmeChallenge {
    /// By TLS (RFC 8737), at port 443.
    TlsAlpn01,
    /// By HTTP in the clear (RFC 8555 §8.3), at port 80.
    Http01,
}

/// `[upstream]`: toward the accounts' SIP servers.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// The transports in use; at least one.
    pub transports: Transports,
    /// Local address of the UDP socket, used when UDP is named; port 0 takes a free one.
    pub udp_listen: SocketAddr,
    /// The address for SIP servers over TCP, used when TCP is named; port 0 takes a free one.
    pub tcp_listen: SocketAddr,
    /// The address for SIP servers over TLS, used when TLS is named; port 0 takes a free one.
    pub tls_listen: SocketAddr,
    /// The host that Contact and Via name: a host name, an IPv4 address or a bracketed IPv6 address.
    pub public_host: Box<str>,
    /// PEM certificates trusted beside the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Networks reachable although private, loopback or link-local.
    pub allow_addresses: Vec<IpNet>,
    /// The SIP domains that accounts may belong to.
    pub domains: DomainRules,
    /// The Expires asked for, 1 s to 24 h.
    pub register_expires: Duration,
    /// The name servers that are asked; the system's when empty.
    pub name_servers: Vec<SocketAddr>,
    /// How long an address that failed is left alone at first, and how often a better one is looked for; 1 s to 1 h.
    pub failback_interval: Duration,
    /// Hosts whose SIP servers see a bare LF as the end of a line, whatever they say of themselves; as SIP writes them.
    pub bare_lf_servers: Vec<Box<str>>,
    /// Whether a digest may be made with MD5.
    pub allow_md5: bool,
    /// Registrations that may begin in a second at one registrar, 1 to 1,000,000, of the whole node.
    pub registrations_per_second: u32,
}

/// The transports that may be used toward SIP servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transports {
    /// Plain datagrams.
    pub udp: bool,
    /// Plain streams.
    pub tcp: bool,
    /// TLS over TCP, verified.
    pub tls: bool,
}

/// `[store]`: where sealed records are kept.
#[derive(Debug, Clone)]
pub struct Store {
    /// `memory:` or a Redis URL; secret because it may hold a password.
    pub url: SecretText,
    /// For `rediss`: the CA's certificates, in PEM, instead of the system's roots.
    pub ca_file: Option<PathBuf>,
    /// For a Redis that asks for one: the relay's certificate (PEM, leaf first) and its key.
    pub client: Option<(PathBuf, SecretText)>,
    /// Whether a store that may write to a disk is refused.
    pub require_ephemeral: bool,
    /// Whether a password stays when the HA1 that answers its SIP server is known.
    pub keep_passwords: bool,
    /// The file of the sealing keys, made on first start. `None`, only in development: keys that die with the process.
    pub keyring: Option<PathBuf>,
}

/// `[audit]`: the trail of actions on the accounts that are lent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The folder of its files.
    pub directory: PathBuf,
    /// How long a day's file is kept, 1 to 366 days.
    pub keep: Duration,
}

/// `[otlp]`: the collector that traces of calls are sent to.
#[derive(Debug, Clone, PartialEq)]
pub struct Otlp {
    /// HTTPS; else plain HTTP, on this machine alone.
    pub is_tls: bool,
    /// Its host; in brackets when it is IPv6.
    pub host: Box<str>,
    /// Its port.
    pub port: u16,
    /// Trusted beside the system's roots.
    pub ca_file: Option<PathBuf>,
    /// The token that the collector is shown as `Authorization: Bearer`.
    pub token: Option<ApiKey>,
}

/// `[lifetime]`: how long a push instance may live; 1 s ≤ min ≤ default ≤ max ≤ 6 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// A shorter one that is asked for is raised to this or refused.
    pub min: Duration,
    /// Given when the app names none.
    pub default: Duration,
    /// A longer one that is asked for is cut to this or refused.
    pub max: Duration,
}

/// `[call]`: how long a call waits, and what its caller hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// From INVITE to a device on the edge, 1 s to 180 s; then 480.
    pub ring_timeout: Duration,
    /// From INVITE to its answer, 1 s to 600 s, never below `ring_timeout`.
    pub answer_timeout: Duration,
    /// When the caller first hears 180.
    pub early_ringing: EarlyRinging,
}

/// `[messages]`: SIP MESSAGEs that are kept for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Messages {
    /// The largest body, in bytes, 1 to 48 KiB; a larger one is answered 413.
    pub max_body: usize,
    /// Whether the accounts' servers are asked to tell how mailboxes stand (RFC 3842); unsolicited notices are taken anyway.
    pub subscribe_voicemail: bool,
}

/// `[limits]`: limits on each source, account and SIP server. A source is an IPv4 address or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte of a SIP message to its last, 1 s to 10 min; then its connection is closed.
    pub message_timeout: Duration,
    /// Open connections of one source at a listener for devices, 1 to 1,000,000; a further one is closed at once.
    pub connections_per_source: u32,
    /// SIP servers that are connected to at once because one source asked for them, 1 to 1,000.
    pub dials_per_source: u32,
    /// How long a SIP server may take to be found and connected to, over all of its addresses, 1 s to 10 min.
    pub dial_timeout: Duration,
    /// Instances of this node, 1 to 100,000,000; a further one is answered 503.
    pub instances_per_node: u32,
    /// Instances of one App on this node, 1 to 100,000,000; a further one is answered 429.
    pub instances_per_app: u32,
    /// Instances of one account at its SIP server, over all Apps, 1 to 10,000; a further one is answered 429.
    pub instances_per_account: u32,
    /// Instances that one source has enabled on this node, 1 to 100,000,000; a further one is answered 429.
    pub instances_per_source: u32,
    /// Registrations that passed through this node (RFC 8599), 1 to 10,000,000; a further one is answered 503.
    pub registrations_per_node: u32,
    /// Of these, at one SIP server, 1 to 10,000,000; a further one is answered 503.
    pub registrations_per_server: u32,
    /// Of these, from one source, 1 to 10,000,000; a further one is answered 503.
    pub registrations_per_source: u32,
    /// Pushes of one device in a minute, 2 to 10,000; alerts but the end of a call that was pushed are left out from half of it on, a further call is
    /// answered 480.
    pub pushes_per_device: u32,
    /// Calls of one caller that are pushed to one device in a minute, 1 to 10,000; a further one is answered 480.
    pub pushes_per_caller: u32,
    /// Pushes of one App in a day, 10 to 4,000,000,000; alerts are left out from nine tenths on, a further call is 480.
    pub pushes_per_app: u32,
    /// Wrong passwords for one account from one source, 1 to 1,000, before its pauses begin.
    pub failures_per_account: u32,
    /// Wrong passwords from one source, 1 to 1,000,000, before only one is let through each second.
    pub failures_per_source: u32,
}

/// When the caller first hears 180.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyRinging {
    /// As soon as the call waits.
    Immediately,
    /// When the push service has accepted the push.
    AfterPushAccepted,
    /// When the device itself rings.
    AfterDeviceRings,
}

/// `[[app]]`: one mobile application.
#[derive(Debug, Clone)]
pub struct App {
    /// The application's id: on APNs its bundle.
    pub id: Box<str>,
    /// The key that the application shows at the API; at least 16 characters.
    pub api_key: ApiKey,
    /// Its APNs access.
    pub apns: Option<Apns>,
    /// Its FCM access.
    pub fcm: Option<Fcm>,
    /// Its Web Push access. In a file one of the three is always there.
    pub webpush: Option<WebPush>,
}

/// The sender's credentials at Apple.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApnsCredentials {
    /// A provider key, which signs tokens.
    Key {
        /// PKCS #8 in PEM: the `.p8` file.
        key_file: PathBuf,
        /// The key's id, ten letters or digits.
        key_id: Box<str>,
        /// The team's id, ten letters or digits.
        team_id: Box<str>,
    },
    /// A certificate of the app (mutual TLS).
    Certificate {
        /// The certificate, its chain, and its private key, in one PEM file.
        file: PathBuf,
        /// The team's id, where devices that register through the edge name it (RFC 8599).
        team_id: Option<Box<str>>,
    },
}

/// `[app.apns]`.
#[derive(Debug, Clone)]
pub struct Apns {
    /// The relay's credentials at Apple.
    pub credentials: ApnsCredentials,
    /// Another APNs, as `https://host[:port]`.
    pub endpoint: Option<Box<str>>,
    /// PEM certificates trusted for `endpoint` beside the system's roots.
    pub ca_file: Option<PathBuf>,
}

/// `[app.fcm]`.
#[derive(Debug, Clone)]
pub struct Fcm {
    /// The service account's JSON.
    pub service_account_file: PathBuf,
    /// Another FCM, as `https://host[:port]`.
    pub endpoint: Option<Box<str>>,
    /// PEM certificates trusted for `endpoint` and the account's `token_uri` beside the system's roots.
    pub ca_file: Option<PathBuf>,
}

/// `[app.webpush]`.
#[derive(Debug, Clone)]
pub struct WebPush {
    /// The VAPID key: P-256, PKCS #8 in PEM.
    pub key_file: PathBuf,
    /// The contact that push services tell of trouble: `mailto:` or `https:`.
    pub subject: Box<str>,
    /// PEM certificates trusted beside the system's roots.
    pub ca_file: Option<PathBuf>,
}

/// `[[sip_server]]`: a SIP server that may call `POST /v1/wake`.
#[derive(Debug, Clone)]
pub struct SipServer {
    /// A name for logs and audit.
    pub id: Box<str>,
    /// The key that it shows at the API; at least 16 characters.
    pub key: ApiKey,
    /// The SIP domains whose accounts it may wake.
    pub domains: DomainRules,
    /// Hosts whose registrations it may wake beside those that serve the AOR's own domain; as [`HostPort::host`] is written.
    pub registrars: Vec<Box<str>>,
}

impl Config {
    /// Reads the file and the process's environment. Fails with every problem there is, in the order of the file.
    pub fn load(file: &Path) -> Result<Config, Problems> {
        let text = whole_text(file).map_err(Problems::one)?;
        let directory = file.parent().unwrap_or(Path::new(""));
        let read = Config::read(&text, directory, environment::of_this_process());
        let mut config = Problems::before(environment::unreadable(std::env::vars_os()), read)?;
        config.source = Some(file.to_owned());
        if config.tells_a_password() && can_be_read_by_all(file) {
            let what = "holds a password, and every user of this machine can read this file";
            let remedy = "chmod 640 it, with the group of the relay's user, or set SIPWAKE_STORE__URL instead";
            let caution = config.problem("store.url", what, remedy);
            config.cautions.push(caution);
        }
        Ok(config)
    }

    /// A problem with a setting, which names the line or the variable that set it.
    pub fn problem(&self, place: &str, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
        match self.settings.iter().find(|setting| setting.place == place).map(|setting| &setting.origin) {
            Some(Origin::Environment(variable)) => Problem::new(&format!("{place} (from {variable})"), what, remedy),
            _ => Problem::new(place, what, remedy).at_line(self.lines.of(place)),
        }
    }

    /// Whether the file itself holds the store's password.
    fn tells_a_password(&self) -> bool {
        let url = self.settings.iter().find(|setting| setting.place == "store.url");
        url.is_some_and(|url| matches!(url.origin, Origin::File(_))) && values::has_password(self.store.url.expose())
    }

    /// Reads a configuration's text. `directory` is what relative paths are relative to, `environment` the variables
    /// that may override (those of other names are ignored). Fails with every problem there is.
    pub fn read(
        text: &str,
        directory: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, Problems> {
        sections::read(text, directory, environment, sections::Profile::File)
    }

    /// The address of the operator listener, as it is reached from this machine.
    pub fn operator_address(&self) -> SocketAddr {
        values::reachable(self.operator.listen)
    }

    /// The address of the API, as it is reached from this machine.
    pub fn api_address(&self) -> SocketAddr {
        values::reachable(self.api.listen)
    }

    /// The configuration of `serve` without a file: loopback listeners, a development certificate, the store in memory, one app
    /// without a push service and with a key made on the spot. The environment still overrides.
    pub fn development() -> Result<Config, Problems> {
        let read = sections::read("", Path::new(""), environment::of_this_process(), sections::Profile::Development);
        Problems::before(environment::unreadable(std::env::vars_os()), read)
    }
}

/// The text of a configuration's file, or of a pipe in its place (`--config <(…)`); at most [`regular_file::MAX_FILE`] bytes.
fn whole_text(file: &Path) -> Result<String, Problem> {
    let problem = |what: String, remedy: &str| Problem::new(&file.display().to_string(), what, remedy);
    let content = regular_file::read_anything(file, regular_file::MAX_FILE)
        .map_err(|error| problem(format!("cannot be read: {error}"), "name an existing file with --config"))?;
    String::from_utf8(content).map_err(|error| {
        let (place, content) = (error.utf8_error().valid_up_to(), error.as_bytes());
        if content.starts_with(b"\xff\xfe") || content.starts_with(b"\xfe\xff") {
            return problem("is written in UTF-16".to_owned(), "save it as UTF-8");
        }
        let line = content[..place].iter().filter(|byte| **byte == b'\n').count() + 1;
        problem("holds a byte that is no UTF-8".to_owned(), "save it as UTF-8").at_line(Some(line))
    })
}

fn can_be_read_by_all(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    /// The problems of a file with this content, and with these files beside it.
    fn told(content: &[u8], beside: &[(&str, &str)]) -> String {
        let folder = std::env::temp_dir().join(format!("sipwake-config-{:016x}", u64::from_ne_bytes(random::bytes())));
        std::fs::create_dir(&folder).unwrap();
        for (name, content) in beside {
            std::fs::write(folder.join(name), content).unwrap();
        }
        let file = folder.join("relay.toml");
        std::fs::write(&file, content).unwrap();
        let told = Config::load(&file).unwrap_err().to_string();
        std::fs::remove_dir_all(&folder).unwrap();
        told
    }

    #[test]
    fn a_file_that_is_no_utf_8_is_foundwith_its_line_and_how_to_save_it() {
        for (content, wanted) in [
            (&b"[edge]\n# f\xfcr\n"[..], "holds a byte that is no UTF-8; save it as UTF-8 (line 2)"),
            (b"\xff\xfe[\0e\0", "is written in UTF-16; save it as UTF-8"),
            (b"\xfe\xff\0[\0e", "is written in UTF-16; save it as UTF-8"),
        ] {
            let told = told(content, &[]);
            assert!(told.ends_with(wanted), "{told}");
        }
        assert!(told(b"\xef\xbb\xbf[edge]\nlisten = 30\n", &[]).contains("edge.listen: is an integer, not a text"));
    }

    #[test]
    fn a_remedy_is_that_of_the_file_that_is_empty_and_too_many_sections_are_not_none() {
        let app = "[[app]]\nid = \"com.example.phone\"\napi_key_file = \"key\"\n";
        let text =
            format!("{app}[app.fcm]\nservice_account_file = \"fcm.json\"\n[app.webpush]\nkey_file = \"vapid\"\n");
        let found = told(text.as_bytes(), &[("key", ""), ("fcm.json", ""), ("vapid", "")]);
        let line = |place: &str| found.lines().find(|line| line.starts_with(place)).unwrap_or_default();
        assert!(line("app[0].api_key_file").contains("openssl rand"), "{found}");
        assert!(line("app[0].fcm").ends_with("name the JSON file of the service account (line 5)"), "{found}");
        assert!(line("app[0].webpush").contains("openssl genpkey"), "{found}");

        let many = told(app.repeat(1_025).as_bytes(), &[]);
        assert!(many.contains("app: is there 1025 times") && !many.contains("app: is missing"), "{many}");
    }
}
