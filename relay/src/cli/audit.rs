//! `sipwake audit verify` and `sipwake report`: whether an audit trail is whole, and what it tells for a notice of a breach.
//!
//! Invariant: both only read.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::CommandError;
use crate::audit::report::{CATEGORIES, PROTECTION, Report as Found, report as report_on, verify_directory, waiting};

/// Check the audit trail
#[derive(Args)]
pub struct Audit {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Say whether a node's trail is whole, and its last line's chain, to be kept elsewhere; ends with 1 when not
    Verify {
        /// The directory of a node's trail (audit.directory)
        directory: PathBuf,
        /// A chain that was kept: that line must be in the trail
        #[arg(long, value_name = "CHAIN")]
        has: Option<String>,
        /// JSON instead of text
        #[arg(long)]
        json: bool,
    },
}

/// Tell what a notice of a breach needs: how many accounts were held in a time, which kinds of data, what was done; ends with 1 where a trail is not whole or
/// lacks lines
#[derive(Args)]
pub struct Report {
    /// The first day (UTC), as 2026-11-27
    #[arg(long, value_name = "DAY", value_parser = day)]
    from: String,
    /// The last day (UTC)
    #[arg(long, value_name = "DAY", value_parser = day)]
    to: String,
    /// The directory of a node's trail (audit.directory); once for each node
    #[arg(long = "audit", value_name = "DIRECTORY", required = true)]
    directories: Vec<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
}

fn day(text: &str) -> Result<String, &'static str> {
    if crate::audit::is_day(text) { Ok(text.to_owned()) } else { Err("write a day as 2026-11-27") }
}

/// Checks a trail.
///
/// # Errors
/// [`CommandError`] when it is not whole, or cannot be read.
pub fn run(audit: Audit) -> Result<(), CommandError> {
    let Action::Verify { directory, has, json } = audit.action;
    let (mut lines, mut lost, mut found, mut first) = (0_u64, 0, false, None);
    let chain = verify_directory(&directory, |line| {
        lines += 1;
        first.get_or_insert_with(|| {
            (line["seq"].as_u64().unwrap_or(0), line["at"].as_str().unwrap_or_default().to_owned())
        });
        lost += line["lines"].as_u64().unwrap_or(0);
        found |= has.as_deref().is_some_and(|chain| line["chain"] == chain);
    })?;
    if let Some(chain) = has.filter(|_| !found) {
        return Err(CommandError::NotInTrail(chain));
    }
    let chain: String = chain.iter().flatten().map(|byte| format!("{byte:02x}")).collect();
    let (mut out, waiting) = (std::io::stdout(), waiting(&directory));
    let (first, at) = first.unwrap_or_default();
    if json {
        let told =
            json!({"whole": true, "first": first, "lines": lines, "lost": lost, "waiting": waiting, "chain": chain});
        writeln!(out, "{told}")?;
        return Ok(());
    }
    writeln!(out, "whole: {lines} lines, {lost} lost for want of room")?;
    tell_waiting(&mut out, waiting)?;
    if first > 1 {
        writeln!(
            out,
            "begins with line {first} of this trail, of {at}: what was before is gone, with a day whose time was over (audit.keep), or by somebody's hand"
        )?;
    }
    writeln!(out, "last chain: {chain}")?;
    Ok(())
}

/// Reports.
///
/// # Errors
/// [`CommandError`] when the last day is before the first, when nothing can be printed, or, behind the report, when a trail is not whole.
pub fn report(report: Report) -> Result<(), CommandError> {
    let Report { from, to, directories, json } = report;
    if to < from {
        return Err(CommandError::Usage("--to is a day before --from"));
    }
    let found = report_on(&directories, &from, &to);
    let mut out = std::io::stdout();
    if json {
        writeln!(out, "{:#}", found.to_json())?;
        return whole(&found);
    }
    let about = if found.is_whole() { "about" } else { "at least" };
    writeln!(out, "Accounts held between {from} and {to} (UTC): {about} {}", found.accounts)?;
    for (app, count) in &found.instances {
        writeln!(out, "  {count} devices of {app}")?;
    }
    writeln!(out, "Whose: users of these apps who lent a SIP account\nWhat is held of each:")?;
    for category in CATEGORIES {
        writeln!(out, "  {category}")?;
    }
    writeln!(out, "How: {PROTECTION}\nWhat was done in that time:")?;
    for (done, count) in &found.done {
        writeln!(out, "  {count:>8} {done}")?;
    }
    writeln!(out, "Trails: {} lines, {} lost for want of room", found.lines, found.lost)?;
    tell_waiting(&mut out, found.waiting)?;
    if found.misdated > 0 {
        writeln!(
            out,
            "  NOT SURE: {} lines are dated before one that stands before them: a clock was wrong",
            found.misdated
        )?;
    }
    for fault in &found.faults {
        writeln!(out, "  NOT WHOLE: {fault}")?;
    }
    if found.further_faults > 0 {
        writeln!(out, "  NOT WHOLE: {} faults more", found.further_faults)?;
    }
    whole(&found)
}

/// Lines that are in no file.
fn tell_waiting(out: &mut impl std::io::Write, waiting: u64) -> std::io::Result<()> {
    match waiting {
        0 => Ok(()),
        _ => writeln!(
            out,
            "{waiting} lines wait to be written, or were lost with the last run, which had no room for them"
        ),
    }
}

fn whole(found: &Found) -> Result<(), CommandError> {
    if found.is_whole() { Ok(()) } else { Err(CommandError::NotWhole) }
}
