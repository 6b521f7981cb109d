//! `sipwake reload`, `drain` and `config`: what a running relay is told, and what is in force.
//!
//! Invariant: a printed configuration holds no secret.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::answer::{list, text};
use super::operator::{At, configuration};
use super::question::confirm;
use super::table::{cell, pretty, table};
use super::{CommandError, print_done};
use crate::config::Origin;
use crate::log::say_line;

/// Have a running relay read its configuration and the files that it names again; says what changed and what needs a restart
#[derive(Args)]
pub struct Reload {
    #[command(flatten)]
    at: At,
}

/// Have a running relay hand its instances over, end its calls in peace, and end
#[derive(Args)]
pub struct Drain {
    /// Do not ask; without a terminal to ask at, nothing is done without it
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    at: At,
}

/// Look at a configuration
#[derive(Args)]
pub struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Each setting as it is in force: its value, and whether that comes from the file, the environment or nowhere; no secret
    Show {
        /// The configuration file (TOML) [default: /etc/sipwake/sipwake.toml, /etc/sipwake/relay.toml]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Those alone that are set
        #[arg(long)]
        set: bool,
        /// Print JSON instead of a table
        #[arg(long)]
        json: bool,
    },
}

/// Reloads, and says what became of it.
///
/// # Errors
/// [`CommandError`] when the listener is not reached, or the configuration cannot be used.
pub async fn reload(reload: Reload) -> Result<(), CommandError> {
    let listener = reload.at.open()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let told = tokio::select! {
        told = listener.call("POST", "/reload", None) => told?,
        // A service manager that stops the relay ends its reload first, and takes an end by a signal for a failure of the service.
        _ = terminate.recv() => {
            say_line("ended by SIGTERM before the relay has said what became of the reload");
            return Ok(());
        }
    };
    let list = |member: &str| Ok::<_, CommandError>(list(&told, member)?.iter().map(cell).collect::<Vec<_>>());
    let (taken, needs_restart) = (list("taken")?, list("needs_restart")?);
    if reload.at.json {
        return print_done(&pretty(&told));
    }
    let mut text = match taken.as_slice() {
        [] => "nothing has changed\n".to_owned(),
        taken => format!("taken: {}\n", taken.join(", ")),
    };
    if !needs_restart.is_empty() {
        text += &format!("in force after a restart: {}\n", needs_restart.join(", "));
    }
    print_done(&text)
}

/// A note on restarts, which a drain does not prevent.
const STARTS_AGAIN: &str = "Who starts it whatever it ended with (sipwake.socket, restart: unless-stopped, a StatefulSet) starts it again. To keep it away: systemctl stop sipwake.socket sipwake, or what ends it there.";

/// Tells a relay to drain.
///
/// # Errors
/// [`CommandError`] when the listener is not reached, or nobody said yes.
pub async fn drain(drain: Drain) -> Result<(), CommandError> {
    let listener = drain.at.open()?;
    confirm("The relay will end.", drain.yes)?;
    let told = listener.call("POST", "/drain", None).await?;
    if text(&told, "state")? != "draining" {
        return Err(CommandError::NotARelay);
    }
    let text = if drain.at.json { pretty(&told) } else { format!("{}\n", cell(&told["state"])) };
    let printed = print_done(&text);
    if !drain.at.json {
        say_line(STARTS_AGAIN);
    }
    printed
}

/// Shows a configuration.
///
/// # Errors
/// [`CommandError::Configuration`] with every problem that it has; [`CommandError::Usage`] when none is named and none is found.
pub fn config(config: Config) -> Result<(), CommandError> {
    let Action::Show { config, set, json } = config.action;
    let nameless = CommandError::Usage("name a --config: there is none in /etc/sipwake");
    let loaded = configuration(config.as_deref())?.ok_or(nameless)?;
    let shown = loaded.settings.iter().filter(|setting| !set || setting.origin != Origin::Default);
    let origin = |origin: &Origin| match origin {
        Origin::File(Some(line)) => format!("line {line}"),
        Origin::File(None) => "file".to_owned(),
        Origin::Environment(variable) => variable.clone(),
        Origin::Default => "default".to_owned(),
    };
    let text = if json {
        let one = |setting: &crate::config::Setting| json!({"setting": setting.place, "value": setting.value, "from": origin(&setting.origin)});
        pretty(&Value::from(shown.map(one).collect::<Vec<_>>()))
    } else {
        let row = |setting: &crate::config::Setting| {
            [setting.place.clone(), cell(&Value::from(setting.value.as_str())), origin(&setting.origin)]
        };
        table(["SETTING", "VALUE", "FROM"], shown.map(row))
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
