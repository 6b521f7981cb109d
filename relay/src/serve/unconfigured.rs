//! A relay without a configuration: the values that it keeps for the next time, the SIP server that comes with it, and its words at the start.
//!
//! Invariant: it says loudly that it is for trying alone. The text that it offers to paste works as it stands, on the machine that it was
//! said on. A folder that cannot be used costs the values that would be kept in it, and nothing else; a SIP server that was asked for and
//! cannot be had keeps it from starting.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::{Running, StartError};
use crate::config::{App, Config};
use crate::development::adopt;
use crate::development::folder::{APP_KEY, Addresses, CA, Folder, OPERATOR_TOKEN, PASSWORD};
use crate::development::sip_server::{Account, SipServer};
use crate::log;
use crate::secret::Password;

/// The usual address of SIP servers.
const SIP_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5060);
/// Networks that are nobody's on the Internet, and in which a SIP server of somebody who tries the relay may be.
const LANS: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];
/// The users with an account at that SIP server.
pub const USERS: [&str; 2] = ["alice", "bob"];

/// The parts beside a relay without a configuration.
pub struct Unconfigured {
    folder: Option<Folder>,
    apps: Vec<App>,
    sip_server: Option<SipServer>,
    /// The host by which SIP servers elsewhere find it.
    public: Option<Box<str>>,
    /// The environment names another store than memory.
    has_store: bool,
}

impl Unconfigured {
    /// Prepares the folder and the SIP server: at `registrar`, or where it finds room when nobody has named a place. The folder
    /// is the usual one unless another is named. A relay that is `public` at an address is for SIP servers elsewhere, and brings none: that one
    /// knows loopback alone.
    ///
    /// # Errors
    /// When the folder or the place that was named cannot be had, or the address is public nowhere.
    pub async fn prepare(
        config: &mut Config,
        folder: Option<PathBuf>,
        registrar: Option<SocketAddr>,
        public: Option<IpAddr>,
    ) -> io::Result<Self> {
        if let Some(public) = public {
            lead_out(config, public)?;
        }
        let of = |what: String| move |error: io::Error| io::Error::other(format!("{what}: {error}"));
        let is_named = folder.is_some();
        let folder = match folder.or_else(Folder::usual) {
            None => None,
            Some(path) => {
                let opened = Folder::open(&path).and_then(|folder| adopt(config, &folder).map(|()| folder));
                match opened.map_err(of(path.display().to_string())) {
                    Ok(folder) => Some(folder),
                    Err(error) if is_named => return Err(error),
                    Err(error) => {
                        tracing::warn!(event = "state-not-kept", %error, "nothing is kept for the next start");
                        None
                    }
                }
            }
        };
        let password = match &folder {
            Some(folder) => folder.password()?,
            None => Folder::password_of_this_run(),
        };
        let accounts = || USERS.map(|user| Account { user, password: Password::new(&password) }).into();
        let sip_server = match registrar {
            Some(address) => {
                let started = SipServer::start(address, accounts()).await;
                Some(started.map_err(of(format!("--with-registrar: {address} cannot be listened on")))?)
            }
            None if public.is_some() => None,
            None => match SipServer::start(SIP_SERVER, accounts()).await {
                Ok(server) => Some(server),
                // Another program is there: most likely a SIP server to try the relay with.
                Err(_) => SipServer::start(SocketAddr::new(SIP_SERVER.ip(), 0), accounts()).await.ok(),
            },
        };
        Ok(Self {
            folder,
            apps: config.apps.clone(),
            sip_server,
            public: Some(config.upstream.public_host.clone()).filter(|host| !is_loopback(host)),
            has_store: !config.store.url.expose().starts_with("memory:"),
        })
    }

    /// Says what it is and what to paste.
    pub fn say(&self, running: &Running) {
        if let (Some(folder), Some(ca)) = (&self.folder, &running.development_ca) {
            let addresses = Addresses {
                api: format!("https://{}", running.api),
                sip_server: self.sip_server.as_ref().map(|server| server.address().to_string()),
                public: self.public.as_deref().map(str::to_owned),
            };
            if let Err(error) = folder.keep_ca(ca).and_then(|()| folder.say(&addresses)) {
                tracing::warn!(event = "state-not-kept", %error, "sipwake device will not find this relay by itself");
            }
        }
        log::say(&self.told(running));
    }

    /// The text for the person who has started the relay.
    fn told(&self, running: &Running) -> String {
        format!("{}{}{}\n", self.warning(running), self.commands_to_try(running), self.addresses(running))
    }

    fn warning(&self, running: &Running) -> String {
        let everything = [running.edge, running.api, running.operator];
        let upstream = [running.upstream_udp, running.upstream_tcp, running.upstream_tls];
        let beyond = running.websocket.iter().chain(upstream.iter().flatten());
        format!(
            "\nDEVELOPMENT: no --config was given. Nothing here is for production: {},\n\
             {}, pushes are printed instead of sent.\n\n",
            if everything.iter().chain(beyond).all(|address| address.ip().is_loopback()) {
                "everything listens on this machine alone"
            } else {
                "it listens beyond this machine, as the environment or --public has it"
            },
            if self.has_store {
                "the store is the one that the environment names"
            } else {
                "the store is in memory (a restart forgets every push instance)"
            },
        )
    }

    /// Command lines that show a call; none without a state folder and a SIP server.
    fn commands_to_try(&self, running: &Running) -> String {
        let (Some(folder), Some(_)) = (&self.folder, &self.sip_server) else { return String::new() };
        let program = std::env::args().next().map_or_else(|| "sipwake".to_owned(), |program| quoted(&program));
        let state = self.state_argument();
        let (ca, token) = (shown(&folder.file(CA)), shown(&folder.file(OPERATOR_TOKEN)));
        format!(
            "Try it; paste each line into a terminal of its own:\n\n\
             {program} device{state} --asleep    # Alice's phone sleeps until you press Enter there\n\
             {program} device{state} --call      # Bob calls her: the push is printed here; now press Enter\n\
             {program} instances list --operator https://{} --ca {ca} --token-file {token}\n\n",
            running.operator
        )
    }

    /// The argument by which `device` finds the state folder: none where that is the usual one.
    fn state_argument(&self) -> String {
        match &self.folder {
            Some(folder) if Folder::usual().as_deref() != Some(folder.path()) => {
                format!(" --state {}", shown(folder.path()))
            }
            _ => String::new(),
        }
    }

    fn addresses(&self, running: &Running) -> String {
        let (mut text, state) = (String::new(), self.state_argument());
        if let Some(server) = &self.sip_server {
            let password = match &self.folder {
                Some(folder) => format!("password in {}", shown(&folder.file(PASSWORD))),
                None => "no password is kept: name a folder with --state".to_owned(),
            };
            text += &format!(
                "  SIP server   {} (UDP and TCP), accounts {}; {password}\n",
                server.address(),
                USERS.join(" and ")
            );
        }
        text += &match &self.public {
            Some(host) => format!(
                "  SIP servers  find this relay at {host}; yours: sipwake device{state} --aor sip:you@example.com\n"
            ),
            None => "  SIP servers  on this machine alone: for one elsewhere, start with --public ADDRESS, this machine's as that one sees it\n"
                .to_owned(),
        };
        text += &format!("  enable       POST https://{}/v1/instances\n", running.api);
        text += &format!("  devices      sip:{};transport=tls\n", running.edge);
        text += &format!(
            "  status page  https://{}/ (any user name, the operator's token as the password)\n",
            running.operator
        );
        match &self.folder {
            Some(folder) => {
                text += &format!("  CA           {}, also on the standard output\n", shown(&folder.file(CA)));
                text += &format!("  operator     the token is in {}\n", shown(&folder.file(OPERATOR_TOKEN)));
                text += &format!("  App's key    in {}\n", shown(&folder.file(APP_KEY)));
            }
            None => {
                text += "  CA           on the standard output; the operator's token is known to nobody: name a folder with --state\n"
            }
        }
        for app in &self.apps {
            text += &format!("  app {}: Authorization: Bearer {}\n", app.id, app.api_key.expose());
        }
        text
    }
}

/// Why a relay without a configuration does not start: of its addresses its user has named none.
pub fn not_started(error: &StartError) -> String {
    match error {
        StartError::Listen { why, .. } if why.kind() == io::ErrorKind::AddrInUse => format!(
            "another relay runs here already, or another program has its address ({error}); end that one, or name other addresses (SIPWAKE_EDGE__LISTEN and the like)"
        ),
        error => error.to_string(),
    }
}

/// Has a relay speak with SIP servers beyond this machine, where it is found at this address, and with those of its LAN.
///
/// # Errors
/// When it is nobody's address, or leads nowhere without the name of a network card.
pub fn lead_out(config: &mut Config, public: IpAddr) -> io::Result<()> {
    let is_nobodys = match public {
        IpAddr::V4(public) => public.is_broadcast(),
        IpAddr::V6(public) => public.is_unicast_link_local(),
    };
    if is_nobodys || public.is_loopback() || public.is_unspecified() || public.is_multicast() {
        return Err(io::Error::other(format!(
            "--public: {public} is no address by which a SIP server finds this machine"
        )));
    }
    let upstream = &mut config.upstream;
    let (any, host) = match public {
        IpAddr::V4(_) => (IpAddr::V4(Ipv4Addr::UNSPECIFIED), public.to_string()),
        IpAddr::V6(_) => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), format!("[{public}]")),
    };
    for address in [&mut upstream.udp_listen, &mut upstream.tcp_listen, &mut upstream.tls_listen] {
        // The environment may have named another one.
        if address.ip().is_loopback() {
            address.set_ip(any);
        }
    }
    upstream.public_host = host.into();
    let lans = LANS.iter().filter_map(|net| net.parse::<IpNet>().ok());
    upstream.allow_addresses.extend(lans.filter(|net| net.contains(&public)));
    Ok(())
}

/// This machine's address as a person writes it.
///
/// # Errors
/// When it is no IP address, in words.
pub fn public_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse()
        .map_err(|_| "write the IP address of this machine as SIP servers see it, and no name or port".to_owned())
}

/// Whether a host, as a URI names it, is this machine to itself.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// A path for a person and for a shell, from the home directory on where it lies there.
fn shown(path: &Path) -> String {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute() && home.parent().is_some());
    match home.and_then(|home| path.strip_prefix(home).ok().map(Path::to_owned)) {
        Some(rest) => format!("~/{}", quoted(&rest.to_string_lossy())),
        None => quoted(&path.to_string_lossy()),
    }
}

/// A word of a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_one_for_the_shell_whatever_it_holds() {
        assert_eq!(quoted("target/release/sipwake"), "target/release/sipwake");
        assert_eq!(quoted("/home/a b/it's"), "'/home/a b/it'\\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn a_second_relay_says_that_another_one_runs() {
        let failed = |kind: io::ErrorKind| StartError::Listen {
            setting: "edge.listen",
            address: SIP_SERVER,
            why: io::Error::from(kind),
        };
        assert!(not_started(&failed(io::ErrorKind::AddrInUse)).starts_with("another relay runs here already"));
        let other = failed(io::ErrorKind::AddrNotAvailable);
        assert_eq!(not_started(&other), other.to_string());
    }

    #[test]
    fn a_relay_that_is_public_speaks_with_the_sip_servers_of_its_lan_and_names_itself_to_them() {
        let led_out = |public: &str| {
            let mut config = Config::development().unwrap();
            lead_out(&mut config, public.parse().unwrap()).map(|()| config.upstream)
        };
        for (public, host, any, reached) in [
            ("192.168.77.9", "192.168.77.9", "0.0.0.0", vec!["192.168.77.1", "127.0.0.1"]),
            ("10.1.2.3", "10.1.2.3", "0.0.0.0", vec!["10.200.0.1", "127.0.0.1"]),
            ("203.0.113.9", "203.0.113.9", "0.0.0.0", vec!["127.0.0.1"]),
            ("fd12::9", "[fd12::9]", "::", vec!["fd34::1", "127.0.0.1"]),
        ] {
            let upstream = led_out(public).unwrap();
            assert_eq!(&*upstream.public_host, host);
            let sockets = [upstream.udp_listen, upstream.tcp_listen, upstream.tls_listen];
            assert!(
                sockets.iter().all(|address| address.ip().to_string() == any && address.port() != 0),
                "{sockets:?}"
            );
            let reaches =
                |ip: &str| upstream.allow_addresses.iter().any(|net| net.contains(&ip.parse::<IpAddr>().unwrap()));
            let all = ["192.168.77.1", "10.200.0.1", "172.16.0.1", "fd34::1", "127.0.0.1", "169.254.169.254"];
            assert_eq!(all.into_iter().filter(|ip| reaches(ip)).collect::<Vec<_>>(), reached, "{public}");
        }
        for nobodys in ["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "fe80::1"] {
            assert!(led_out(nobodys).is_err(), "{nobodys}");
        }
        let read = |text: &str| public_address(text).map(|ip| ip.to_string()).ok();
        assert_eq!(read("[fd77::9]").as_deref(), Some("fd77::9"));
        assert_eq!(
            (read("fd77::9"), read("192.168.77.9")),
            (Some("fd77::9".to_owned()), Some("192.168.77.9".to_owned()))
        );
        assert!(["relay.lan", "192.168.77.9:5060", "[fd77::9]:5060", ""].into_iter().all(|it| read(it).is_none()));
        assert!(["localhost", "127.0.0.2", "[::1]"].into_iter().all(is_loopback));
        assert!(!["pbx.lan", "192.168.77.1", "[fd12::9]"].into_iter().any(is_loopback));
    }
}
