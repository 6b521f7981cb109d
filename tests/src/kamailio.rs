//! The real Kamailio as the account's registrar and proxy: UDP, TCP and TLS on loopback, digest, locations in memory.
//!
//! Invariant: it answers only for its own domain and users; it and its children end with the handle.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::UnixDatagram;

use crate::authority::Authority;
use crate::board::Missed;
use crate::child::Child;
use crate::digest::Algorithm;
use crate::ports;
use crate::scratch::Scratch;
use crate::wire::Transport;

/// Debian's packages with Kamailio and its TLS module.
const PACKAGES: &str = "kamailio kamailio-tls-modules kamailio-utils-modules";
/// How a call waits at a Kamailio until the relay has woken a device.
const WAKE_RECIPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docker/recipes/kamailio-wake.cfg");
/// How long it may take to start.
const START_WITHIN: Duration = Duration::from_secs(20);
/// How long a command may take.
const COMMAND_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait between two looks at what Kamailio cannot announce by itself.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// How Kamailio reaches a registered Contact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// By the Path that a proxy put on its way (RFC 3327).
    Path,
    /// Along the connection, or to the address, that it registered from.
    Flow,
    /// At the address that the Contact names.
    Contact,
}

/// How it treats REGISTERs, beside what every registrar does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As it is.
    Plain,
    /// The proxy before the registrar asks for credentials, too (407), for a realm of its own.
    ProxyAsksToo,
    /// Before its own challenge stands one with an algorithm that nobody knows.
    OddChallengeFirst,
    /// A nonce may be used often, with a count that rises; else it is stale.
    CountsNonces,
    /// A nonce may be used once; else it is stale.
    OneTimeNonces,
    /// No qop: digests as RFC 2069 has them.
    WithoutQop,
    /// The account has moved to a host that nobody allowed.
    Moved,
    /// The first REGISTER whose digest is right is answered 503 with a Retry-After of this many seconds.
    BusyOnce(u32),
    /// The server does not see `+sip.instance`, and tells Contacts apart by their URIs alone.
    ByUri,
    /// The server tells the account's other addresses and the way of its requests (RFC 3608, RFC 7315).
    TellsMore,
    /// The server names another product in its answers to REGISTER, and none elsewhere.
    Disguised,
}

/// How it is set up.
#[derive(Clone)]
pub struct Settings {
    /// Its SIP domain, and the digest's realm.
    pub domain: String,
    /// User and password.
    pub users: Vec<(String, String)>,
    /// The digest's algorithm.
    pub algorithm: Algorithm,
    /// How it reaches a Contact.
    pub reach: Reach,
    /// The shortest lifetime that it takes, in seconds; less is 423.
    pub min_expires: u32,
    /// The most Contacts that it takes of an account; 0: as many as come.
    pub max_contacts: u32,
    /// How it treats REGISTERs.
    pub manner: Manner,
    /// Whether a caller of its domain must authenticate (407).
    pub asks_callers: bool,
    /// The relay that must wake a device before a call is sent on, where calls are held.
    pub wake: Option<Wake>,
}

/// The relay that a Kamailio asks to wake devices.
#[derive(Clone)]
pub struct Wake {
    /// Where its API listens.
    pub api: SocketAddr,
    /// The SIP server's key.
    pub key: String,
    /// How long it waits for a device, in milliseconds.
    pub wait_ms: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            domain: "example.test".to_owned(),
            users: vec![("alice".to_owned(), "wonderland".to_owned())],
            algorithm: Algorithm::Md5,
            reach: Reach::Flow,
            min_expires: 0,
            max_contacts: 0,
            manner: Manner::Plain,
            asks_callers: false,
            wake: None,
        }
    }
}

/// A running Kamailio.
pub struct Kamailio {
    settings: Settings,
    child: Child,
    scratch: Scratch,
    udp: u16,
    tcp: u16,
    tls: u16,
}

/// A Contact in Kamailio's location table.
#[derive(Clone, Debug)]
pub struct Located {
    /// The Contact's URI.
    pub uri: String,
    /// `+sip.instance`, if one was given.
    pub instance: Option<String>,
    /// Seconds until it expires.
    pub expires_s: i64,
    /// The address that it was registered from, when it is reached by its flow.
    pub received: Option<String>,
}

impl Kamailio {
    /// Starts Kamailio with a certificate for its domain and for loopback, and waits until it serves.
    ///
    /// # Errors
    /// [`Missed`] when it is not installed or does not start.
    pub async fn start(settings: Settings, authority: &Authority) -> Result<Self, Missed> {
        let scratch = Scratch::new();
        let (udp, tcp, tls) = (ports::free(), ports::free(), ports::free());
        let issued = authority.issue(&[&settings.domain, "localhost", "127.0.0.1", "::1"]);
        let (certificate, key) = (issued.certificate_file.display(), issued.key_file.display());
        scratch.file(
            "tls.cfg",
            format!(
                "[server:default]\nmethod = TLSv1.2+\nverify_certificate = no\nrequire_certificate = no\n\
                 private_key = {key}\ncertificate = {certificate}\n\
                 [client:default]\nmethod = TLSv1.2+\nverify_certificate = yes\nrequire_certificate = yes\nca_list = {}\n",
                authority.ca_file().display()
            ),
        );
        let config = scratch.file("kamailio.cfg", configuration(&settings, &scratch, authority, [udp, tcp, tls]));
        let mut command = Command::new("/usr/sbin/kamailio");
        command.arg("-f").arg(config).args(["-DD", "-E", "-m", "64", "-M", "8"]);
        command.arg("-Y").arg(scratch.path()).arg("-w").arg(scratch.path());
        let child = Child::spawn(command, PACKAGES)?;
        let kamailio = Self { settings, child, scratch, udp, tcp, tls };
        kamailio.await_rpc().await?;
        Ok(kamailio)
    }

    /// The address of a listener.
    pub fn address(&self, transport: Transport) -> SocketAddr {
        let port = match transport {
            Transport::Udp => self.udp,
            Transport::Tcp => self.tcp,
            Transport::Tls => self.tls,
            Transport::Wss => panic!("this Kamailio is not reached by WebSocket"),
        };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// The listener as a URI: `sip:127.0.0.1:5061;transport=tls`.
    pub fn uri(&self, transport: Transport) -> String {
        format!("sip:{};transport={}", self.address(transport), transport.param())
    }

    /// Its SIP domain.
    pub fn domain(&self) -> &str {
        &self.settings.domain
    }

    /// The AOR of a user, as a URI.
    pub fn aor(&self, user: &str) -> String {
        format!("sip:{user}@{}", self.settings.domain)
    }

    /// The Contacts of a user, from Kamailio's own location table.
    ///
    /// # Errors
    /// [`Missed`] when Kamailio does not answer.
    pub async fn location(&self, user: &str) -> Result<Vec<Located>, Missed> {
        let answer = self.command("ul.lookup", json!(["location", user])).await?;
        let contacts = answer["result"]["Contacts"].as_array().cloned().unwrap_or_default();
        Ok(contacts.iter().map(|entry| located(&entry["Contact"])).collect())
    }

    /// Waits until a user has exactly `count` Contacts.
    ///
    /// # Errors
    /// [`Missed`] when it has not `within` the time.
    pub async fn await_location(&self, user: &str, count: usize, within: Duration) -> Result<Vec<Located>, Missed> {
        let look = async {
            loop {
                let contacts = self.location(user).await?;
                if contacts.len() == count {
                    return Ok(contacts);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let late = |_| Err(self.child.missed(&format!("{count} Contacts of {user}")));
        tokio::time::timeout(within, look).await.unwrap_or_else(late)
    }

    /// Removes every Contact of a user, as a server that lost its table.
    ///
    /// # Errors
    /// [`Missed`] when they are not gone.
    pub async fn forget(&self, user: &str) -> Result<(), Missed> {
        self.command("ul.rm", json!(["location", user])).await?;
        self.await_location(user, 0, COMMAND_WITHIN).await.map(drop)
    }

    /// Adds a Contact of a user that somebody else registered, for so many seconds.
    ///
    /// # Errors
    /// [`Missed`] when Kamailio does not answer.
    pub async fn add(&self, user: &str, contact: &str, expires_s: u32) -> Result<(), Missed> {
        let params = json!(["location", user, contact, expires_s, 1.0, "", 0, 0, 4294967295_u32]);
        self.command("ul.add", params).await.map(drop)
    }

    /// The Authorization of each REGISTER that came so far, in order; empty where there was none.
    pub fn asked(&self) -> Vec<String> {
        let output = self.output();
        let lines = output.lines().filter_map(|line| line.split_once("asked: REGISTER "));
        lines.map(|(_, rest)| rest.split_once(' ').map_or("", |(_, value)| value).replace("<null>", "")).collect()
    }

    /// Everything that it printed.
    pub fn output(&self) -> String {
        self.child.output()
    }

    /// Kills it, as a crash would.
    ///
    /// # Errors
    /// [`Missed`] when it does not end.
    pub async fn kill(&self) -> Result<(), Missed> {
        self.child.kill().await.map(drop)
    }

    /// Runs a command of its JSON-RPC interface.
    ///
    /// # Errors
    /// [`Missed`] when it does not answer.
    pub async fn command(&self, method: &str, params: Value) -> Result<Value, Missed> {
        let own = self.scratch.path().join(format!("reply-{}", crate::digest::token()));
        let ask = async {
            let socket = UnixDatagram::bind(&own)?;
            let request = json!({"jsonrpc": "2.0", "method": method, "params": params, "id": 1}).to_string();
            socket.send_to(request.as_bytes(), self.scratch.path().join("rpc.sock")).await?;
            let mut buffer = vec![0; 256 * 1024];
            let length = socket.recv(&mut buffer).await?;
            Ok::<Value, std::io::Error>(serde_json::from_slice(&buffer[..length]).unwrap_or_default())
        };
        let answer = tokio::time::timeout(COMMAND_WITHIN, ask).await;
        let _ = std::fs::remove_file(&own);
        answer.ok().and_then(Result::ok).ok_or_else(|| self.child.missed(&format!("an answer to {method}")))
    }

    async fn await_rpc(&self) -> Result<(), Missed> {
        let look = async {
            while self.child.is_running() && self.command("core.version", json!([])).await.is_err() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            self.child.is_running().then_some(())
        };
        let started = tokio::time::timeout(START_WITHIN, look).await.ok().flatten();
        started.ok_or_else(|| self.child.missed("the start"))
    }
}

fn configuration(settings: &Settings, scratch: &Scratch, authority: &Authority, [udp, tcp, tls]: [u16; 3]) -> String {
    let users: Vec<String> = settings
        .users
        .iter()
        .map(|(user, password)| {
            format!("        case \"{user}\":\n            $var(password) = \"{password}\";\n            break;")
        })
        .collect();
    let algorithm = match settings.algorithm {
        Algorithm::Md5 => "",
        Algorithm::Sha256 => "SHA-256",
    };
    let (auth, before, challenge, after) = settings.manner.script();
    include_str!("kamailio.cfg")
        .replace("@AUTH@", auth)
        .replace("@BEFORE@", before)
        .replace("@CHALLENGE@", challenge)
        .replace("@AFTER@", &after)
        .replace("@WAKE@", &settings.wake.as_ref().map(|wake| recipe(wake, authority)).unwrap_or_default())
        .replace("@ASKS_CALLERS@", if settings.asks_callers { "1 == 1" } else { "1 == 0" })
        .replace("@DOMAIN@", &settings.domain)
        .replace("@UDP@", &udp.to_string())
        .replace("@TCP@", &tcp.to_string())
        .replace("@TLS@", &tls.to_string())
        .replace("@DIR@", &scratch.path().display().to_string())
        .replace("@MIN_EXPIRES@", &settings.min_expires.to_string())
        .replace("@MAX_CONTACTS@", &settings.max_contacts.to_string())
        .replace("@ALGORITHM@", algorithm)
        .replace("@USERS@", &users.join("\n"))
        .replace("@USE_PATH@", if settings.reach == Reach::Path { "1" } else { "0" })
        .replace("@BY_FLOW@", if settings.reach == Reach::Flow { "1 == 1" } else { "1 == 0" })
}

/// The settings that the recipe's head tells an operator to write.
fn recipe(wake: &Wake, authority: &Authority) -> String {
    format!(
        "#!define SIPWAKE_URL \"https://{}/v1/wake\"\n\
         #!define SIPWAKE_HEADERS \"Authorization: Bearer {}\\r\\nContent-Type: application/json\"\n\
         #!define SIPWAKE_CA \"{}\"\n#!define SIPWAKE_HOSTS \"^localhost$\"\n#!define SIPWAKE_WAIT_MS {}\ninclude_file \"{WAKE_RECIPE}\"\n",
        wake.api,
        wake.key,
        authority.ca_file().display(),
        wake.wait_ms,
    )
}

impl Manner {
    /// Parameters of the auth module; what is asked before the registrar's digest; its challenge; what follows the digest.
    fn script(self) -> (&'static str, &'static str, &'static str, String) {
        const CHALLENGE: &str = "www_challenge(\"@DOMAIN@\", \"1\");";
        const STALE: &str = "switch ($rc) {\ncase -4:\ncase -6:\nwww_challenge(\"@DOMAIN@\", \"17\");\nbreak;\n\
                             default:\nwww_challenge(\"@DOMAIN@\", \"1\");\n}";
        const PROXY: &str = "if (!pv_proxy_authenticate(\"edge.@DOMAIN@\", \"$var(password)\", \"0\")) {\n\
                             proxy_challenge(\"edge.@DOMAIN@\", \"1\");\nexit;\n}";
        const ODD: &str = "append_to_reply(\"WWW-Authenticate: Digest realm=\\\"@DOMAIN@\\\", nonce=\\\"odd\\\", \
                           algorithm=SHA3-512, qop=\\\"auth\\\"\\r\\n\");\nwww_challenge(\"@DOMAIN@\", \"1\");";
        const COUNT: &str = "modparam(\"auth\", \"nonce_count\", 1)\nmodparam(\"auth\", \"qop\", \"auth\")";
        const ONCE: &str = "modparam(\"auth\", \"one_time_nonce\", 1)";
        match self {
            Self::Plain => ("", "", CHALLENGE, String::new()),
            Self::ProxyAsksToo => ("", PROXY, CHALLENGE, String::new()),
            Self::OddChallengeFirst => ("", "", ODD, String::new()),
            Self::CountsNonces => (COUNT, "", STALE, String::new()),
            Self::OneTimeNonces => (ONCE, "", STALE, String::new()),
            Self::WithoutQop => ("", "", "www_challenge(\"@DOMAIN@\", \"0\");", String::new()),
            Self::Moved => {
                let moved = "append_to_reply(\"Contact: <sip:elsewhere.@DOMAIN@>\\r\\n\");\n\
                             sl_send_reply(\"302\", \"Moved Temporarily\");\nexit;";
                ("", "", CHALLENGE, moved.to_owned())
            }
            Self::BusyOnce(seconds) => {
                let busy = format!(
                    "if ($shv(busy) == 1) {{\n$shv(busy) = 0;\nappend_to_reply(\"Retry-After: {seconds}\\r\\n\");\n\
                     sl_send_reply(\"503\", \"Busy\");\nexit;\n}}"
                );
                ("", "", CHALLENGE, busy)
            }
            Self::ByUri => {
                let blind = "subst('/;\\+sip\\.instance=\"[^\"]*\"(;reg-id=[0-9]+)?//g');\nmsg_apply_changes();";
                ("", "", CHALLENGE, blind.to_owned())
            }
            Self::Disguised => (
                "server_signature=no",
                "append_to_reply(\"Server: Asterisk PBX 20.0.0\\r\\n\");",
                CHALLENGE,
                String::new(),
            ),
            Self::TellsMore => {
                let more = "append_to_reply(\"P-Associated-URI: <$tu>, <tel:+4930123>\\r\\n\
                            Service-Route: <sip:127.0.0.1:@UDP@;lr>\\r\\n\");";
                ("", "", CHALLENGE, more.to_owned())
            }
        }
    }
}

fn located(contact: &Value) -> Located {
    let text = |name: &str| contact[name].as_str().filter(|text| !text.starts_with("[not set]")).map(str::to_owned);
    Located {
        uri: text("Address").unwrap_or_default(),
        instance: text("Instance"),
        expires_s: contact["Expires"].as_i64().unwrap_or_default(),
        received: text("Received"),
    }
}
