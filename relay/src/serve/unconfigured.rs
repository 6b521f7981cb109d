//! A relay without a configuration: the values that it keeps for the next time, the SIP server that comes with it, and its words at the start.
//!
//! Invariant: it says loudly that it is for trying alone. The text that it offers to paste works as it stands, on the machine that it was
//! said on. A folder that cannot be used costs the values that would be kept in it, and nothing else; a SIP server that was asked for and
//! cannot be had keeps it from starting.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::Running;
use crate::config::{App, Config};
use crate::development::adopt;
use crate::development::folder::{APP_KEY, Addresses, CA, Folder, OPERATOR_TOKEN, PASSWORD};
use crate::development::sip_server::{Account, SipServer};
use crate::log;
use crate::secret::Password;

/// The usual address of SIP servers.
const SIP_SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5060);
/// The users with an account at that SIP server.
pub const USERS: [&str; 2] = ["alice", "bob"];

/// The parts beside a relay without a configuration.
pub struct Unconfigured {
    folder: Option<Folder>,
    apps: Vec<App>,
    sip_server: Option<SipServer>,
    /// The environment names another store than memory.
    has_store: bool,
}

impl Unconfigured {
    /// Prepares the folder and the SIP server: at `registrar`, or where it finds room when nobody has named a place. The folder
    /// is the usual one unless another is named.
    ///
    /// # Errors
    /// When the folder or the place that was named cannot be had.
    pub async fn prepare(
        config: &mut Config,
        folder: Option<PathBuf>,
        registrar: Option<SocketAddr>,
    ) -> io::Result<Self> {
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
            has_store: !config.store.url.expose().starts_with("memory:"),
        })
    }

    /// Says what it is and what to paste.
    pub fn say(&self, running: &Running) {
        if let (Some(folder), Some(ca)) = (&self.folder, &running.development_ca) {
            let addresses = Addresses {
                api: format!("https://{}", running.api),
                sip_server: self.sip_server.as_ref().map(|server| server.address().to_string()),
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
        format!(
            "\nDEVELOPMENT: no --config was given. Nothing here is for production: {},\n\
             {}, pushes are printed instead of sent.\n\n",
            if everything.iter().chain(&running.websocket).all(|address| address.ip().is_loopback()) {
                "everything listens on this machine alone"
            } else {
                "the environment has it listen beyond this machine"
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
        let state = if Folder::usual().as_deref() == Some(folder.path()) {
            String::new()
        } else {
            format!(" --state {}", shown(folder.path()))
        };
        let (ca, token) = (shown(&folder.file(CA)), shown(&folder.file(OPERATOR_TOKEN)));
        format!(
            "Try it; paste each line into a terminal of its own:\n\n\
             {program} device{state} --asleep    # Alice's phone sleeps until you press Enter there\n\
             {program} device{state} --call      # Bob calls her: the push is printed here; now press Enter\n\
             {program} instances list --operator https://{} --ca {ca} --token-file {token}\n\n",
            running.operator
        )
    }

    fn addresses(&self, running: &Running) -> String {
        let mut text = String::new();
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
}
