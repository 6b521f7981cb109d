//! The configuration of a relay under test: typed knobs, written as the TOML of the settings.
//!
//! Invariant: it names loopback addresses alone, and ports that nobody else has.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use hyper::Version;

use crate::api_client::ApiClient;
use crate::authority::Authority;
use crate::digest::token;
use crate::ports;
use crate::scratch::Scratch;
use crate::wire::Transport;
use relay::push::webpush::Settings;

use crate::{apns, fcm};

/// Where APNs is, and with what the relay signs.
#[derive(Clone, Debug)]
pub struct Apns {
    /// The `.p8` file.
    pub key_file: PathBuf,
    /// Ten characters.
    pub key_id: String,
    /// Ten characters.
    pub team_id: String,
    /// The app's certificate with its key, in place of the `.p8` file.
    pub certificate_file: Option<PathBuf>,
    /// `https://127.0.0.1:port`
    pub endpoint: String,
    /// The authority that the relay trusts for it.
    pub ca_file: PathBuf,
}

/// Where FCM is, and who the relay is to it.
#[derive(Clone, Debug)]
pub struct Fcm {
    /// The service account's JSON.
    pub service_account_file: PathBuf,
    /// `https://127.0.0.1:port`
    pub endpoint: String,
    /// The authority that the relay trusts for it.
    pub ca_file: PathBuf,
}

impl From<&apns::Apns> for Apns {
    /// Leads to this stand-in.
    fn from(apns: &apns::Apns) -> Self {
        Self {
            key_file: apns.key_file(),
            key_id: apns::KEY_ID.to_owned(),
            team_id: apns::TEAM_ID.to_owned(),
            certificate_file: None,
            endpoint: apns.endpoint(),
            ca_file: apns.settings().ca_file.unwrap_or_default(),
        }
    }
}

impl From<&fcm::Fcm> for Fcm {
    /// Leads to this stand-in.
    fn from(fcm: &fcm::Fcm) -> Self {
        Self {
            service_account_file: fcm.service_account_file(),
            endpoint: fcm.endpoint(),
            ca_file: fcm.settings().ca_file.unwrap_or_default(),
        }
    }
}

/// One app that the relay serves.
#[derive(Clone, Debug)]
pub struct App {
    /// Its id.
    pub id: String,
    /// Its API key.
    pub api_key: String,
    /// Its APNs.
    pub apns: Option<Apns>,
    /// Its FCM.
    pub fcm: Option<Fcm>,
    /// Its Web Push.
    pub webpush: Option<Settings>,
}

impl App {
    /// An app with a key of its own and no push service yet.
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), api_key: format!("app-{}{}", token(), token()), apns: None, fcm: None, webpush: None }
    }

    /// The app `com.example.phone`, whose pushes go to these stand-ins.
    pub fn served_by(apns: &apns::Apns, fcm: &fcm::Fcm) -> Self {
        Self { apns: Some(apns.into()), fcm: Some(fcm.into()), ..Self::new(apns::BUNDLE) }
    }
}

/// The settings of a relay. Durations are written as in its file: `30s`, `3d`.
#[derive(Clone)]
pub struct Setup {
    /// The issuer of its certificate, which it also trusts upstream.
    pub authority: Authority,
    /// The transports toward SIP servers.
    pub transports: Vec<Transport>,
    /// `memory:` or a Redis URL.
    pub store: String,
    /// The keyring; a file of this relay alone unless told.
    pub keyring: Option<PathBuf>,
    /// Lines of `[store]` besides.
    pub store_lines: String,
    /// `call.ring_timeout`
    pub ring_timeout: String,
    /// `call.answer_timeout`
    pub answer_timeout: String,
    /// `call.early_ringing`
    pub early_ringing: String,
    /// `lifetime.min`, `default` and `max`.
    pub lifetime: [String; 3],
    /// `upstream.register_expires`
    pub register_expires: String,
    /// `upstream.allow_addresses`; loopback unless told.
    pub allow_addresses: Vec<String>,
    /// `upstream.domains`
    pub domains: Vec<String>,
    /// Further lines of `[upstream]`.
    pub upstream: String,
    /// The apps.
    pub apps: Vec<App>,
    /// Further TOML, at the end.
    pub further: String,
    /// `RUST_LOG`
    pub log: String,
    /// By how much the waits are shortened that nobody configures; 1 is real time.
    pub timing: f64,
    /// The factor for the waits of minutes: those after refusals, and until a user is told of a loss.
    pub minutes: f64,
    /// Further variables of the environment.
    pub environment: Vec<(String, String)>,
    /// The contents of its `/etc/hosts`, where that is not the machine's own file.
    pub hosts: Option<String>,
    /// The address on which devices reach it; an IPv6 address in brackets.
    pub edge_ip: String,
    /// Where it listens.
    pub ports: Ports,
    /// The operator's token.
    pub operator_token: String,
}

/// The relay's ports on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// SIP over TLS, for devices.
    pub edge: u16,
    /// SIP over secure WebSocket, for devices.
    pub websocket: u16,
    /// HTTPS, for apps.
    pub api: u16,
    /// HTTPS, for operators.
    pub operator: u16,
    /// UDP toward SIP servers.
    pub udp: u16,
    /// TCP toward SIP servers.
    pub tcp: u16,
    /// TLS toward SIP servers.
    pub tls: u16,
}

impl Default for Ports {
    /// Ports that nobody else has.
    fn default() -> Self {
        let port = ports::free;
        let (edge, websocket, api, operator) = (port(), port(), port(), port());
        Self { edge, websocket, api, operator, udp: port(), tcp: port(), tls: port() }
    }
}

impl Setup {
    /// A relay on loopback with these apps; TLS upstream, the store in memory, the default settings.
    pub fn new(authority: &Authority, apps: Vec<App>) -> Self {
        let text = str::to_owned;
        Self {
            authority: authority.clone(),
            transports: vec![Transport::Tls],
            store: text("memory:"),
            keyring: None,
            store_lines: String::new(),
            ring_timeout: text("30s"),
            answer_timeout: text("120s"),
            early_ringing: text("after-push-accepted"),
            lifetime: ["3d", "5d", "6d"].map(text),
            register_expires: text("600s"),
            allow_addresses: vec![text("127.0.0.0/8"), text("::1/128")],
            domains: vec![text("*")],
            upstream: String::new(),
            apps,
            further: String::new(),
            log: text("info,relay=debug,sip=debug,sipwake=debug"),
            timing: 1.0,
            minutes: 1.0,
            environment: Vec::new(),
            hosts: None,
            edge_ip: text("127.0.0.1"),
            ports: Ports::default(),
            operator_token: format!("operator-{}{}", token(), token()),
        }
    }

    /// Lets a SIP server wake devices of these domains; gives its key.
    ///
    /// # Panics
    /// When the key cannot be written.
    pub fn sip_server(&mut self, id: &str, domains: &[&str]) -> String {
        // `example.test` has no address: the stand-ins are known by theirs.
        self.sip_server_at(id, domains, &["127.0.0.1"])
    }

    /// As [`Self::sip_server`], with other hosts whose registrations it may wake.
    ///
    /// # Panics
    /// When the key cannot be written.
    pub fn sip_server_at(&mut self, id: &str, domains: &[&str], registrars: &[&str]) -> String {
        let key = format!("server-{}{}", token(), token());
        let file = self.authority.directory().join(format!("{id}-key"));
        std::fs::write(&file, &key).expect("the authority's directory can be written");
        // Writing to a String cannot fail.
        let _ = writeln!(self.further, "\n[[sip_server]]\nid = {id:?}\nkey_file = {file:?}\ndomains = {domains:?}");
        let _ = writeln!(self.further, "registrars = {registrars:?}");
        key
    }

    /// Writes the configuration and the files it names, and gives its path.
    pub fn write(&self, scratch: &Scratch) -> PathBuf {
        let issued = self.authority.loopback();
        let Ports { edge, websocket, api, operator, udp, tcp, tls } = self.ports;
        let edge_ip = &self.edge_ip;
        let operator_token = scratch.file("operator-token", &self.operator_token);
        let keyring = self.keyring.clone().unwrap_or_else(|| scratch.path().join("keyring"));
        let transports: Vec<&str> = self.transports.iter().map(|transport| transport.param()).collect();
        let [shortest, usual, longest] = &self.lifetime;
        // A Rust string's debug form is a TOML basic string for all that stands here.
        let mut text = format!(
            "[edge]\nlisten = \"{edge_ip}:{edge}\"\npublic = \"{edge_ip}:{edge}\"\n\
             websocket = \"{edge_ip}:{websocket}\"\n\n\
             [api]\nlisten = \"127.0.0.1:{api}\"\n\n\
             [operator]\nlisten = \"127.0.0.1:{operator}\"\ntoken_file = {operator_token:?}\n\n\
             [tls]\ncertificate = {:?}\nkey = {:?}\n\n\
             [upstream]\ntransports = {transports:?}\nudp_listen = \"127.0.0.1:{udp}\"\n\
             tcp_listen = \"127.0.0.1:{tcp}\"\ntls_listen = \"127.0.0.1:{tls}\"\npublic_host = \"127.0.0.1\"\n\
             ca_file = {:?}\nallow_addresses = {:?}\ndomains = {:?}\nregister_expires = {:?}\n{}\n\
             [store]\nurl = {:?}\nkeyring = {keyring:?}\n{}\n\n\
             [lifetime]\nmin = {shortest:?}\ndefault = {usual:?}\nmax = {longest:?}\n\n\
             [call]\nring_timeout = {:?}\nanswer_timeout = {:?}\nearly_ringing = {:?}\n",
            issued.certificate_file,
            issued.key_file,
            self.authority.ca_file(),
            self.allow_addresses,
            self.domains,
            self.register_expires,
            self.upstream,
            self.store,
            self.store_lines,
            self.ring_timeout,
            self.answer_timeout,
            self.early_ringing,
        );
        for (index, app) in self.apps.iter().enumerate() {
            write_app(&mut text, scratch, index, app);
        }
        text += &self.further;
        scratch.file("sipwake.toml", &text)
    }

    /// A client of the relay's API with the key of the first app, over HTTP/2.
    pub fn api(&self) -> ApiClient {
        self.api_over(Version::HTTP_2)
    }

    /// A client of the relay's API with the key of the first app.
    pub fn api_over(&self, version: Version) -> ApiClient {
        let key = self.apps.first().map(|app| app.api_key.as_str());
        ApiClient::new(Self::at(self.ports.api), version, &self.authority, key)
    }

    /// A client of the relay's operator listener with the operator's token.
    pub fn operator(&self) -> ApiClient {
        ApiClient::new(Self::at(self.ports.operator), Version::HTTP_11, &self.authority, Some(&self.operator_token))
    }

    /// The value of a metric as `/metrics` prints it, such as `sipwake_store_up` or `sipwake_wipes_total{reason="disabled"}`.
    /// `None` when it is absent.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let page = self.operator().get("/metrics").await.ok()?.text();
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
        line.trim().parse().ok()
    }

    /// The address of a port.
    pub(crate) fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }
}

fn write_app(text: &mut String, scratch: &Scratch, index: usize, app: &App) {
    let key_file = scratch.file(&format!("app-key-{index}"), &app.api_key);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n[[app]]\nid = {:?}\napi_key_file = {key_file:?}", app.id);
    if let Some(Apns { key_file, key_id, team_id, certificate_file, endpoint, ca_file }) = &app.apns {
        let known_by = match certificate_file {
            Some(file) => format!("certificate_file = {file:?}"),
            None => format!("key_file = {key_file:?}\nkey_id = {key_id:?}"),
        };
        let _ = writeln!(
            text,
            "[app.apns]\n{known_by}\nteam_id = {team_id:?}\nendpoint = {endpoint:?}\nca_file = {ca_file:?}"
        );
    }
    if let Some(Fcm { service_account_file, endpoint, ca_file }) = &app.fcm {
        let _ = writeln!(
            text,
            "[app.fcm]\nservice_account_file = {service_account_file:?}\nendpoint = {endpoint:?}\nca_file = {ca_file:?}"
        );
    }
    if let Some(Settings { key_file, subject, ca_file, .. }) = &app.webpush {
        let _ = writeln!(text, "[app.webpush]\nkey_file = {key_file:?}\nsubject = {subject:?}");
        if let Some(ca_file) = ca_file {
            let _ = writeln!(text, "ca_file = {ca_file:?}");
        }
    }
}
