//! The operator listener, as the command line asks it.
//!
//! Values that are not given are taken from the configuration of a relay on this machine: where it listens, the token, and its
//! certificate, which is then trusted as it is. Where `operator.listen` was changed since that relay started, it is found where it has noted that it listens,
//! unless a CA is named.
//!
//! Invariant: the relay is verified, always: by a CA, or by the very certificate that its configuration names or that it has noted. A configuration decides to
//! whom the token is shown, so that none is taken that the operator has not named, but root's: the current folder may be anybody's. The token is in no error.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use serde_json::Value;

use super::https::Https;
use super::{CommandError, key_from};
use crate::config::{Config, Tls};
use crate::net::tls::ClientTls;
use crate::secret::ApiKey;
use crate::serve::running_relay;

/// The places where an unnamed configuration is looked for: root alone writes there.
const CONFIGURATIONS: [&str; 2] = ["/etc/sipwake/sipwake.toml", "/etc/sipwake/relay.toml"];
/// The possible causes of a refused token.
const CHANGED: &str = "If operator.token_file was changed, have the relay take it: sipwake reload, or SIGHUP; where systemd hands it over (LoadCredential): systemctl restart sipwake.";
/// The usual address of the listener.
const USUAL: &str = "https://127.0.0.1:9443";

/// Where a relay's operator listener is.
#[derive(Args)]
pub(super) struct At {
    /// The relay's operator listener [default: that of the configuration, else https://127.0.0.1:9443]
    #[arg(long, value_name = "URL")]
    operator: Option<String>,
    /// The file with the operator's token [default: that of the configuration]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A CA that vouches for the relay's certificate, beside the system's (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The configuration of a relay on this machine [default: /etc/sipwake/sipwake.toml, /etc/sipwake/relay.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    pub(super) json: bool,
}

/// An operator listener, and what is shown to it.
pub(super) struct Listener {
    https: Https,
    token: ApiKey,
    /// The token is that of the configuration.
    of_configuration: bool,
}

impl At {
    /// The configuration of a relay on this machine, where there is one.
    pub(super) fn configuration(&self) -> Result<Option<Config>, CommandError> {
        configuration(self.config.as_deref())
    }

    /// The CA that was named.
    pub(super) fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    pub(super) fn open(&self) -> Result<Listener, CommandError> {
        let needed = self.operator.is_none() || self.token_file.is_none();
        let config = if needed || self.config.is_some() { self.configuration()? } else { None };
        let https = match (&self.operator, &config) {
            (None, Some(config)) if self.ca.is_none() => of_this_machine(config)?,
            (None, Some(config)) => Https::new(&format!("https://{}", config.operator_address()), self.ca.as_deref())?,
            (address, _) => Https::new(address.as_deref().unwrap_or(USUAL), self.ca.as_deref())?,
        };
        let of_configuration = self.token_file.is_none();
        let token = match (&self.token_file, config) {
            (Some(file), _) => key_from(file)?,
            (None, Some(config)) => config.operator.token,
            (None, None) => return Err(CommandError::NoToken),
        };
        Ok(Listener { https, token, of_configuration })
    }
}

/// The configuration in `file`; without one, where one is looked for that nobody names.
pub(super) fn configuration(file: Option<&Path>) -> Result<Option<Config>, CommandError> {
    named(file).map(read).transpose()
}

/// The file that is named, or the first where one is looked for that nobody names.
pub(super) fn named(file: Option<&Path>) -> Option<&Path> {
    file.or_else(|| CONFIGURATIONS.iter().map(Path::new).find(|file| file.exists()))
}

fn read(file: &Path) -> Result<Config, CommandError> {
    Config::load(file).map_err(|problems| CommandError::Configuration(problems.to_string()))
}

pub(super) fn of_this_machine(config: &Config) -> Result<Https, CommandError> {
    Ok(at_this_machine(config, config.operator_address())?.or_at(running_relay::noted_listener(config)))
}

/// A listener of the relay with this configuration, by its very certificate: that of the file, or the one that the relay has noted as in use.
pub(super) fn at_this_machine(config: &Config, address: SocketAddr) -> Result<Https, CommandError> {
    let tls = running_relay::client(config).unwrap_or_else(|| ClientTls::web(None))?;
    let file = match &config.tls {
        Tls::Files { certificate, .. } => Some(certificate.clone()),
        Tls::Development { .. } => None,
    };
    Ok(Https::at(address, tls, file))
}

impl Listener {
    /// Asks for what is below `/v1/operator`.
    pub(super) async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, CommandError> {
        let answer = self.https.ask(method, &format!("/v1/operator{path}"), self.token.expose(), body).await;
        answer.map_err(|error| self.explained(error))
    }

    /// A token that the relay does not know is mostly one that it was not told of yet.
    fn explained(&self, error: CommandError) -> CommandError {
        match error {
            CommandError::Refused { status: 401, detail } if self.of_configuration => {
                CommandError::Refused { status: 401, detail: format!("{detail} {CHANGED}") }
            }
            error => error,
        }
    }

    /// Asks for any path, and takes what is no JSON.
    pub(super) async fn get(&self, path: &str) -> Result<Bytes, CommandError> {
        self.https.ask_bytes("GET", path, self.token.expose(), None).await.map_err(|error| self.explained(error))
    }

    /// Asks about an instance; `rest` stands behind its path.
    pub(super) async fn ask(&self, method: &str, id: &str, rest: &str) -> Result<Value, CommandError> {
        self.ask_with(method, id, rest, None).await
    }

    /// The same with a body.
    pub(super) async fn ask_with(
        &self,
        method: &str,
        id: &str,
        rest: &str,
        body: Option<&Value>,
    ) -> Result<Value, CommandError> {
        self.call(method, &path_of(id, rest), body).await
    }

    /// Fetches an answer that is not JSON.
    pub(super) async fn fetch(&self, id: &str, rest: &str) -> Result<Bytes, CommandError> {
        self.get(&format!("/v1/operator{}", path_of(id, rest))).await
    }
}

/// An id has no character that would end a part of a path; any other text is unknown to the relay.
fn path_of(id: &str, rest: &str) -> String {
    let id: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    format!("/instances/{id}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_nobody_names_is_never_one_of_the_current_folder() {
        assert!(CONFIGURATIONS.iter().all(|file| file.starts_with("/etc/sipwake/")));
        assert_eq!(named(Some(Path::new("relay.toml"))), Some(Path::new("relay.toml")), "it may be named");
    }
}
