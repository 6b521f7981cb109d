//! `sipwake trace`: one instance's SIP for a while, as a file that Wireshark opens.
//!
//! Invariant: the file was scrubbed by the relay, and can be read by its owner alone; when the command ends, the relay's copy is erased.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use super::operator::{At, Listener};
use super::{CommandError, secret_file};
use crate::config::values::duration;

/// How often the file is written anew.
const EVERY: Duration = Duration::from_secs(2);
/// The relay's copy is fetched for the last time so long before it erases itself.
const BEFORE_THE_END: Duration = Duration::from_secs(1);

/// Record one instance's SIP for a while, scrubbed, as pcapng; ends at the end of its time, or with Ctrl-C
#[derive(Args)]
pub struct Trace {
    /// The instance's id: pi_…
    id: String,
    /// How long: 30s, 10m, 1h at most
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = parsed)]
    time: Duration,
    /// The file that is written
    #[arg(long, value_name = "FILE", default_value = "sipwake.pcapng")]
    output: PathBuf,
    #[command(flatten)]
    at: At,
}

/// Records until the end, and writes what there is every few seconds.
///
/// # Errors
/// [`CommandError`] when the listener is not reached or refuses, or when the file cannot be written.
pub async fn run(trace: Trace) -> Result<(), CommandError> {
    let listener = trace.at.open()?;
    let body = json!({"for_s": trace.time.as_secs().max(1)});
    let begun = listener.ask_with("POST", &trace.id, "/trace", Some(&body)).await?;
    eprintln!("recording until {} into {}", begun["until"].as_str().unwrap_or("?"), trace.output.display());
    let recorded = record(&listener, &trace).await;
    // However it ended. It may have erased itself by now.
    drop(listener.ask("DELETE", &trace.id, "/trace").await);
    recorded?;
    if trace.at.json {
        let told = json!({"instance": trace.id, "file": trace.output, "until": begun["until"]});
        writeln!(std::io::stdout(), "{told}")?;
    }
    Ok(())
}

async fn record(listener: &Listener, trace: &Trace) -> Result<(), CommandError> {
    let end = Instant::now() + trace.time.saturating_sub(BEFORE_THE_END);
    let mut terminate = signal(SignalKind::terminate())?;
    loop {
        let over = tokio::select! {
            () = sleep_until(end) => true,
            () = sleep(EVERY) => false,
            _ = tokio::signal::ctrl_c() => true,
            _ = terminate.recv() => true,
        };
        let file = listener.fetch(&trace.id, "/trace").await?;
        secret_file::write(&trace.output, &file)
            .map_err(|why| CommandError::NotWritten { file: trace.output.clone(), why })?;
        if over {
            return Ok(());
        }
    }
}

fn parsed(text: &str) -> Result<Duration, String> {
    duration(text).filter(|time| !time.is_zero()).ok_or_else(|| "write a time such as 30s or 10m".to_owned())
}
