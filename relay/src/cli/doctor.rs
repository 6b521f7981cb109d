//! `sipwake doctor`: what would go wrong with an account, before anybody lends it.
//!
//! Invariant: it goes as a relay with the same configuration goes, from this machine. No password stands among the arguments.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use sip::message::Uri;

use super::{CommandError, password, secret_file};
use crate::api::{enable_body, json};
use crate::config::{Config, Problems};
use crate::development::folder::Folder;
use crate::doctor::{Doctor as Examiner, Patient};
use crate::serve::unconfigured::{lead_out, public_address};
use crate::vault::record::Proof;

/// Walk an account's path to its SIP server as the relay would, and say what would go wrong and what to do
///
/// DNS, connections, certificates, OPTIONS, and REGISTER up to the challenge. With --password-file, --ask-password for the
/// standard input, or --ha1-file, the account is registered, too, and unregistered again. Ends with 1 when a call would not come.
#[derive(Args)]
pub struct Doctor {
    /// The relay's configuration (TOML); without it that of `serve` without one, with the --public of the relay that was started last
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Without a configuration: the state folder of that relay [default: ~/.local/state/sipwake]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    state: Option<PathBuf>,
    /// Without a configuration: look as `serve --public ADDRESS` does
    #[arg(long, value_name = "ADDRESS", value_parser = public_address, conflicts_with_all = ["config", "state"])]
    public: Option<IpAddr>,
    /// The account: sip:user@domain
    #[arg(long, value_name = "URI")]
    aor: String,
    /// The account's registrar, when it is not the AOR's domain
    #[arg(long, value_name = "URI")]
    registrar: Option<String>,
    /// Where requests go instead of the registrar
    #[arg(long, value_name = "URI")]
    outbound_proxy: Option<String>,
    /// The user name for the SIP server's digest, when it is not the AOR's user
    #[arg(long, value_name = "NAME")]
    auth_username: Option<String>,
    /// The file whose first line is the account's password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Read the password from the first line of the standard input, which is asked on a terminal
    #[arg(long, conflicts_with = "password_file")]
    ask_password: bool,
    /// The file with the account's HA1 in place of its password, as enabling takes it: {"realm": "…", "MD5": "…", "SHA-256": "…"}
    #[arg(long, value_name = "FILE", conflicts_with_all = ["password_file", "ask_password"])]
    ha1_file: Option<PathBuf>,
    /// Print JSON, as POST /v1/doctor answers
    #[arg(long)]
    json: bool,
}

/// Examines, and prints what was found.
///
/// # Errors
/// [`CommandError`] when something is bad, or nothing could be examined.
pub async fn run(doctor: Doctor) -> Result<(), CommandError> {
    let unread = |problems: Problems| CommandError::Configuration(problems.to_string());
    let config = match &doctor.config {
        Some(file) => Config::load(file).map_err(unread)?,
        None => {
            let mut config = Config::development().map_err(unread)?;
            if let Some(public) = doctor.public.or_else(|| started_with(doctor.state.clone())) {
                lead_out(&mut config, public).map_err(|why| CommandError::Configuration(why.to_string()))?;
            }
            config
        }
    };
    let user = Uri::parse(&doctor.aor).and_then(|uri| uri.user.map(str::to_owned)).unwrap_or_default();
    let username = doctor.auth_username.unwrap_or(user).into_boxed_str();
    let credentials = if let Some(file) = &doctor.ha1_file {
        Some((username, ha1(file)?))
    } else if doctor.password_file.is_some() || doctor.ask_password {
        Some((username, Proof::Password(password::read(doctor.password_file.as_deref())?)))
    } else {
        None
    };
    let patient = Patient {
        aor: doctor.aor.into(),
        registrar: doctor.registrar.map(Into::into),
        outbound_proxy: doctor.outbound_proxy.map(Into::into),
        credentials,
    };
    let report = Examiner::new(&config.upstream)?.examine(&patient).await;
    let mut out = std::io::stdout();
    if doctor.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report.to_json()).unwrap_or_default())?
    } else {
        write!(out, "{report}")?
    }
    if report.is_healthy() { Ok(()) } else { Err(CommandError::Unhealthy) }
}

/// The --public of the relay of this state folder.
fn started_with(state: Option<PathBuf>) -> Option<IpAddr> {
    let addresses = Folder::existing(&state.or_else(Folder::usual)?)?.addresses()?;
    public_address(&addresses.public?).ok()
}

/// # Errors
/// [`CommandError`] when the file cannot be read, or holds something else.
fn ha1(file: &Path) -> Result<Proof, CommandError> {
    let text = secret_file::read(file)?;
    let read = json::parse(text.as_bytes()).and_then(|tree| enable_body::read_ha1(&tree));
    read.map_err(|_| CommandError::NotHa1(file.to_owned()))
}
