//! `sipwake check --live`: whether the relay of a configuration serves, for a container's health check.
//!
//! Invariant: it asks this machine's operator listener, shows no token, and trusts the relay's own certificate alone. A relay that
//! serves and is not ready is alive: who restarts it loses its calls and mends nothing.

use std::path::Path;

use serde_json::Value;

use super::CommandError;
use super::operator::{configuration, of_this_machine};

/// Asks `/healthz`, and says in a line what `/readyz` says.
///
/// # Errors
/// [`CommandError`] when the relay does not serve, or is not ready when `ready` asks for that.
pub async fn live(file: Option<&Path>, ready: bool) -> Result<String, CommandError> {
    let config = configuration(file)?.ok_or(CommandError::Usage("name a --config"))?;
    let https = of_this_machine(&config)?;
    if https.get_open("/healthz").await?.0 != 200 {
        return Err(CommandError::NotReady("does not serve".to_owned()));
    }
    let (status, told) = https.get_open("/readyz").await?;
    let told: Value = serde_json::from_slice(&told).unwrap_or_default();
    let detail = told["detail"].as_str().map(|detail| format!(": {detail}")).unwrap_or_default();
    let line = match (status, told["status"].as_str()) {
        (200, Some("degraded")) => format!("serves, degraded{detail}"),
        (200, _) => "serves, and is ready".to_owned(),
        _ => format!("serves, and is not ready{detail}"),
    };
    if ready && status != 200 { Err(CommandError::NotReady(line)) } else { Ok(line) }
}
