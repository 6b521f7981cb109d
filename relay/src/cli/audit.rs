//! `sipwake audit verify` and `sipwake report`: whether an audit trail is whole, and what it tells for a notice of a breach.
//!
//! Invariant: both only read.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::CommandError;
use crate::audit::report::{CATEGORIES, PROTECTION, report as report_on, verify_directory};

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

/// Tell what a notice of a breach needs: how many accounts were held in a time, which kinds of data, what was done
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
    if crate::audit::is_day(text) { Ok(text.to_owned()) } else { Err("write it as 2026-11-27") }
}

/// Checks a trail.
///
/// # Errors
/// [`CommandError`] when it is not whole, or cannot be read.
pub fn run(audit: Audit) -> Result<(), CommandError> {
    let Action::Verify { directory, has, json } = audit.action;
    let (mut lines, mut lost, mut found) = (0_u64, 0, false);
    let chain = verify_directory(&directory, |line| {
        lines += 1;
        lost += line["lines"].as_u64().unwrap_or(0);
        found |= has.as_deref().is_some_and(|chain| line["chain"] == chain);
    })?;
    if let Some(chain) = has.filter(|_| !found) {
        return Err(CommandError::NotInTrail(chain));
    }
    let chain: String = chain.iter().flatten().map(|byte| format!("{byte:02x}")).collect();
    let mut out = std::io::stdout();
    if json {
        writeln!(out, "{}", json!({"whole": true, "lines": lines, "lost": lost, "chain": chain}))?;
        return Ok(());
    }
    writeln!(out, "whole: {lines} lines, {lost} lost for want of room\nlast chain: {chain}")?;
    Ok(())
}

/// Reports.
///
/// # Errors
/// [`CommandError`] when nothing can be printed; the faults of a trail stand in the report.
pub fn report(report: Report) -> Result<(), CommandError> {
    let Report { from, to, directories, json } = report;
    let found = report_on(&directories, &from, &to);
    let mut out = std::io::stdout();
    if json {
        writeln!(out, "{:#}", found.to_json())?;
        return Ok(());
    }
    writeln!(out, "Accounts held between {from} and {to} (UTC): about {}", found.accounts)?;
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
    for fault in &found.faults {
        writeln!(out, "  NOT WHOLE: {fault}")?;
    }
    Ok(())
}
