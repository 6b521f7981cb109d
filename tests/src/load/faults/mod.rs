//! The table of faults: a push service of one app misbehaves; how many of that app's calls are pushed in time, and what the calls
//! of two other apps feel.
//!
//! | room | what it is |
//! | --- | --- |
//! | `script` | the faults |
//! | `services` | the push services of the three apps |
//! | `one` | one fault, from the relay's start to its figures |
//! | `row` | figures and table |
//!
//! Invariant: traffic stays on loopback; each fault ends within [`one::bound`], with its figures or with what was in their way.

use std::io;
use std::path::{Path, PathBuf};

use clap::Parser;

mod one;
mod row;
mod script;
mod services;

pub use row::{Row, Table};
use script::{FAULTS, Fault};

/// How to read the table; the end of `faults --help`.
const HOW_TO_READ: &str = "\
How to read the table
  One relay serves three apps. The push service of one of them has the fault; of the others one is on APNs and one on FCM, and
  nothing is wrong with theirs. 10 calls a second to the first, 50 a second to the others, each to a sleeping device and an account of
  its own; a call is cancelled 0.3 s after its caller hears 180, and ends with 480 after 30 s.
  own calls pushed     the push service took their push while they waited
  twice                of them those whose push it took more than once; two copies are the most on FCM and Web Push, one on APNs
  heard 180            the relay knew that the push was taken, and told the caller
  INVITE → push        from just before the INVITE is written until the service has read the push that it takes, not until it answers
  connections          TCP connections to that service that the relay began, from its start on
  requests a call      requests that the service got, over the calls
The environment variable SIPWAKE_BINARY names another relay than the one of these sources: an earlier one, whose figures `--before` then shows
beside.";

/// Measures what a push service that misbehaves costs the calls of its own app, and those of others.
#[derive(Clone, Debug, Parser)]
#[command(name = "faults", version, after_long_help = HOW_TO_READ)]
pub struct Arguments {
    /// Faults by name, or by its beginning (`fcm`, `apns-503`); all unless told
    pub names: Vec<String>,
    /// Calls to the app whose push service misbehaves; the others get five times as many
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub calls: u32,
    /// Tell the faults, and measure nothing
    #[arg(long)]
    pub list: bool,
    /// Print JSON, a line for each fault, in place of the table
    #[arg(long)]
    pub json: bool,
    /// JSON output of earlier runs (`--json`), to be shown beside this one
    #[arg(long, value_name = "JSON")]
    pub before: Vec<PathBuf>,
    /// JSON output of earlier runs (`--json`): the table is made of it, and nothing is measured
    #[arg(long, value_name = "JSON")]
    pub table_of: Vec<PathBuf>,
    /// `RUST_LOG` of the relay
    #[arg(long, default_value = "warn")]
    pub relay_log: String,
}

impl Arguments {
    /// The faults that are meant.
    ///
    /// # Errors
    /// A name that no fault begins with.
    pub fn faults(&self) -> Result<Vec<&'static Fault>, String> {
        if let Some(unknown) = self.names.iter().find(|name| !FAULTS.iter().any(|fault| fault.name.starts_with(*name)))
        {
            return Err(format!("no fault's name begins with {unknown}; --list tells them"));
        }
        let is_meant =
            |fault: &&Fault| self.names.is_empty() || self.names.iter().any(|name| fault.name.starts_with(name));
        Ok(FAULTS.iter().filter(is_meant).collect())
    }
}

/// The names of the faults, each with what it is.
pub fn list() -> impl Iterator<Item = (&'static str, &'static str)> {
    FAULTS.iter().map(|fault| (fault.name, fault.words))
}

/// Reads what earlier runs have printed with `--json`, in the order of the faults; of one that was measured twice the later.
///
/// # Errors
/// When a file cannot be read, or a line is none of it.
pub fn read(files: &[PathBuf]) -> io::Result<Vec<Row>> {
    let of = |file: &PathBuf| -> io::Result<Vec<Row>> {
        let text = std::fs::read_to_string(file).map_err(|error| named(file, &error))?;
        text.lines().map(|line| serde_json::from_str(line).map_err(|error| named(file, &error))).collect()
    };
    let mut rows = files.iter().map(of).collect::<io::Result<Vec<_>>>()?.concat();
    rows.sort_by_key(|row| FAULTS.iter().position(|fault| fault.name == row.fault));
    rows.dedup_by(|later, kept| {
        let same = later.fault == kept.fault;
        if same {
            std::mem::swap(later, kept);
        }
        same
    });
    Ok(rows)
}

fn named(file: &Path, error: &dyn std::error::Error) -> io::Error {
    io::Error::other(format!("{}: {error}", file.display()))
}

/// Measures them, one after the other; `each` is told of each as soon as it is known.
pub async fn run(arguments: &Arguments, faults: &[&'static Fault], mut each: impl FnMut(&Row)) -> Table {
    let mut table = Table::default();
    let bound = one::bound(arguments.calls) * faults.len() as u32;
    eprintln!("faults: this run ends within {} s, with its figures or with what was in their way", bound.as_secs());
    if cfg!(debug_assertions) {
        eprintln!("faults: this is a debug build; a relay that SIPWAKE_BINARY names is what it is");
    }
    for fault in faults {
        eprintln!("faults: {}: {}", fault.name, fault.words);
        match one::measure(fault, arguments.calls, &arguments.relay_log).await {
            Ok(row) => {
                each(&row);
                table.rows.push(row);
            }
            Err(why) => {
                eprintln!("faults: {} was not measured: {why}", fault.name);
                table.failed.push((fault.name, fault.words, why.to_string()));
            }
        }
    }
    table
}
