//! `sipwake trace`: one instance's SIP for a while, as a file that Wireshark opens.
//!
//! Invariant: the file was scrubbed by the relay, and can be read by its owner alone; when the command ends, the relay's copy is erased.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::operator::{At, Listener};
use super::table::{one_line, printable};
use super::{CommandError, answer, interrupted, print_done, secret_file};
use crate::config::values::duration;
use crate::log::say_line;

/// The beginning of a pcapng file: the type of its first block.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// How often the file is written anew.
const EVERY: Duration = Duration::from_secs(2);
/// The relay's copy is fetched for the last time so long before it erases itself.
const BEFORE_THE_END: Duration = Duration::from_secs(1);
/// The longest recording, in seconds; a longer one is refused by the relay.
const LONGEST_S: u64 = 3_600;

/// Record one instance's SIP for a while, scrubbed, as pcapng; ends at the end of its time, or with Ctrl-C
#[derive(Args)]
pub struct Trace {
    /// The instance's id: pi_…
    id: String,
    /// How long: 30s, 10m, 1h at most
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = parsed)]
    time: Duration,
    /// The file that is written; - is the standard output, at the end
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
    can_be_written(&trace.output)?;
    let body = json!({"for_s": asked_s(trace.time)});
    let begun = listener.ask_with("POST", &trace.id, "/trace", Some(&body)).await?;
    let until = printable(answer::text(&begun, "until")?);
    let place = if is_output(&trace.output) { "the standard output".into() } else { trace.output.to_string_lossy() };
    say_line(format_args!("recording until {until} into {place}"));
    let recorded = record(&listener, &trace).await;
    // However it ended. It may have erased itself by now.
    drop(listener.ask("DELETE", &trace.id, "/trace").await);
    recorded?;
    if trace.at.json && !is_output(&trace.output) {
        let told = json!({"instance": trace.id, "file": trace.output, "until": begun["until"]});
        print_done(&format!("{}\n", one_line(&told)))?;
    }
    Ok(())
}

/// For how long the relay is asked to record, in seconds: its last whole second has begun before this command, and it erases itself then.
fn asked_s(time: Duration) -> u64 {
    let seconds = time.as_millis().div_ceil(1_000) as u64;
    if seconds > LONGEST_S { seconds } else { (seconds + BEFORE_THE_END.as_secs() + 1).min(LONGEST_S) }
}

fn is_output(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// That the file can be there. What else keeps it from being written is told with its first writing.
fn can_be_written(output: &Path) -> Result<(), CommandError> {
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let why =
        if output.is_dir() { Some(ErrorKind::IsADirectory) } else { folder.metadata().err().map(|why| why.kind()) };
    let not_written = |why: ErrorKind| CommandError::NotWritten { file: output.to_owned(), why: why.into() };
    why.map_or(Ok(()), |why| Err(not_written(why)))
}

async fn record(listener: &Listener, trace: &Trace) -> Result<(), CommandError> {
    let end = Instant::now() + trace.time.min(Duration::from_secs(asked_s(trace.time)).saturating_sub(BEFORE_THE_END));
    let mut stopped = pin!(interrupted());
    let mut last = None;
    loop {
        let over = tokio::select! {
            () = sleep_until(end) => true,
            () = sleep(EVERY) => false,
            () = &mut stopped => true,
        };
        let file = match listener.fetch(&trace.id, "/trace").await {
            Ok(file) => file,
            Err(CommandError::Refused { status: 404, .. }) => return Err(ended_by_another(&trace.output, last)),
            Err(error) => return Err(error),
        };
        if !file.starts_with(&PCAPNG) {
            return Err(CommandError::NotARelay);
        }
        if !is_output(&trace.output) {
            secret_file::write(&trace.output, &file)
                .map_err(|why| CommandError::NotWritten { file: trace.output.clone(), why })?;
        } else if over {
            std::io::stdout().write_all(&file)?;
        }
        if over {
            return Ok(());
        }
        last = Some(file);
    }
}

/// The relay has no recording any more, before its time: what came last is written, and that is told.
fn ended_by_another(output: &Path, last: Option<Bytes>) -> CommandError {
    let kept = match &last {
        None => "nothing was recorded",
        // A reader that is gone wants nothing more.
        Some(file) if is_output(output) => {
            drop(std::io::stdout().write_all(file));
            "what had come a moment before is on the standard output"
        }
        Some(_) => "the file has what had come a moment before",
    };
    CommandError::TraceEnded(kept)
}

fn parsed(text: &str) -> Result<Duration, String> {
    duration(text).filter(|time| !time.is_zero()).ok_or_else(|| "write a time such as 30s or 10m".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relay_is_asked_for_so_much_more_that_the_last_second_is_in_the_file() {
        for (time, asked) in [("500ms", 3), ("1s", 3), ("10m", 602), ("3598s", 3_600), ("1h", 3_600), ("2h", 7_200)] {
            let time = duration(time).unwrap_or(Duration::from_millis(500));
            assert_eq!(asked_s(time), asked, "{time:?}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_there_is_told_before_a_recording_begins() {
        for right in ["-", "sipwake.pcapng", "/dev/null", "/tmp/sipwake.pcapng"] {
            assert!(can_be_written(Path::new(right)).is_ok(), "{right}");
        }
        for wrong in ["/tmp", "/nowhere/at/all/sipwake.pcapng"] {
            assert!(matches!(can_be_written(Path::new(wrong)), Err(CommandError::NotWritten { .. })), "{wrong}");
        }
    }
}
