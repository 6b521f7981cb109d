//! `sipwake receipt`: whether a receipt of a wipe is a relay's.
//!
//! Invariant: a receipt is said to be right only when one of the keys that were named has signed exactly it.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::https::Https;
use super::{CommandError, secret_file};
use crate::domain::Word as _;
use crate::vault::{Receipt as Signed, verify_receipt};

/// Check receipts of wipes
#[derive(Args)]
pub struct Receipt {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Say whether a receipt, as DELETE answered it, was signed by a relay; ends with 1 when not
    Verify {
        /// The receipt (JSON)
        file: PathBuf,
        /// The relay's keys, as GET /v1/keys answered
        #[arg(long, value_name = "FILE", conflicts_with = "api", required_unless_present = "api")]
        keys: Option<PathBuf>,
        /// The address of the relay whose keys are asked for, as https URL
        #[arg(long, value_name = "URL")]
        api: Option<String>,
        /// The CA of the relay's certificate, beside the system's
        #[arg(long, value_name = "FILE", requires = "api")]
        ca: Option<PathBuf>,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
    },
}

/// Checks, and prints what was checked.
///
/// # Errors
/// [`CommandError`] when the receipt is not right, or cannot be checked.
pub async fn run(receipt: Receipt) -> Result<(), CommandError> {
    let Action::Verify { file, keys, api, ca, json } = receipt.action;
    let receipt: Signed = read(&file, CommandError::NotAReceipt)?;
    let asked_keys = keys.clone();
    let keys: Value = match (keys, api) {
        (Some(keys), _) => read(&keys, CommandError::NoKeys)?,
        (None, Some(api)) => Https::new(&api, ca.as_deref())?.ask("GET", "/v1/keys", "", None).await?,
        // The command line asks for one of them.
        (None, None) => Value::Null,
    };
    if public_keys(&keys).next().is_none() {
        return Err(asked_keys.map_or(CommandError::NotARelay, CommandError::NoKeys));
    }
    if !public_keys(&keys).any(|key| verify_receipt(&receipt, &key).is_ok()) {
        return Err(CommandError::WrongReceipt);
    }
    let Signed { instance, wiped_at, reason, unregistered, .. } = &receipt;
    if json {
        let told = json!({"signed": true, "instance": instance, "wiped_at": wiped_at, "reason": reason.word(), "unregistered": unregistered});
        writeln!(std::io::stdout(), "{told}")?;
        return Ok(());
    }
    let registered = if *unregistered { "and unregistered" } else { "not confirmed as unregistered" };
    writeln!(std::io::stdout(), "signed: {instance} was wiped at {wiped_at} ({}), {registered}", reason.word())?;
    Ok(())
}

/// Reads JSON, also behind a byte order mark; `none` is said of a file that is something else.
fn read<T: DeserializeOwned>(file: &Path, none: fn(PathBuf) -> CommandError) -> Result<T, CommandError> {
    let text = secret_file::text(file).map_err(|why| CommandError::File { file: file.to_owned(), why })?;
    serde_json::from_str(text.trim_start_matches('\u{feff}')).map_err(|_| none(file.to_owned()))
}

/// The Ed25519 keys of a JWK Set (RFC 8037 §2).
fn public_keys(keys: &Value) -> impl Iterator<Item = [u8; 32]> {
    let keys = keys["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ed25519 = keys.iter().filter(|key| key["kty"] == "OKP" && key["crv"] == "Ed25519");
    ed25519.filter_map(|key| URL_SAFE_NO_PAD.decode(key["x"].as_str()?).ok()?.try_into().ok())
}
