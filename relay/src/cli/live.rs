//! `sipwake check --live`: whether the relay of a configuration serves, for a container's health check.
//!
//! Invariant: it asks this machine's operator listener and shows no token. A relay that serves is alive, ready or not, whatever its files
//! have become since it started: who restarts it loses its calls, and it starts with those files. So `--live` reads nothing of the
//! configuration but where to ask, and takes whatever certificate is shown. If nobody listens there, it reads where the relay's notes are, and asks where it
//! has noted that it listens: there it trusts the noted certificate alone, for the note may be old, and the address a stranger's by now. `--ready` reads all,
//! and trusts the relay's own certificate alone.

use std::path::Path;

use serde_json::Value;

use super::CommandError;
use super::https::Https;
use super::operator::{configuration, named, of_this_machine};
use super::table::printable;
use crate::config::{operator_listener, place_of_notes};
use crate::net::tls::ClientTls;
use crate::serve::running_relay::noted_relay;

/// Asks `/healthz`, and says in a line what `/readyz` says.
///
/// # Errors
/// [`CommandError`] when the relay does not serve, or is not ready when `ready` asks for that.
pub async fn live(file: Option<&Path>, ready: bool) -> Result<String, CommandError> {
    let nameless = CommandError::Usage("name a --config");
    let https = if ready {
        of_this_machine(&configuration(file)?.ok_or(nameless)?)?
    } else {
        let file = named(file).ok_or(nameless)?;
        let address = operator_listener(file);
        let nobody = |error: &CommandError| matches!(error, CommandError::Dial(_) | CommandError::Timeout);
        let https = Https::at(address, ClientTls::anyone(), None);
        match https.get_open("/healthz").await {
            // The file may name another listener since the relay was started.
            Err(error) if nobody(&error) => {
                let noted = place_of_notes(file).and_then(|(keyring, public)| noted_relay(&keyring, &public));
                let (noted, tls) = noted.filter(|(noted, _)| *noted != address).ok_or(error)?;
                Https::at(noted, tls, None)
            }
            _ => https,
        }
    };
    if https.get_open("/healthz").await?.0 != 200 {
        return Err(CommandError::NotReady("does not serve".to_owned()));
    }
    let (status, told) = https.get_open("/readyz").await?;
    let told: Value = serde_json::from_slice(&told).unwrap_or_default();
    let detail = told["detail"].as_str().map(|detail| format!(": {}", printable(detail))).unwrap_or_default();
    let line = match (status, told["status"].as_str()) {
        (200, Some("degraded")) => format!("serves, degraded{detail}"),
        (200, _) => "serves, and is ready".to_owned(),
        _ => format!("serves, and is not ready{detail}"),
    };
    if ready && status != 200 { Err(CommandError::NotReady(line)) } else { Ok(line) }
}
