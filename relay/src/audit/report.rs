//! The facts for a notice of a breach (GDPR Art. 33(3)): whose data were held in a time, of which kinds, and the actions on them.
//!
//! An account counts as held from its first line in the trails up to its wipe. A lease lasts six days at most, and is renewed by a
//! line; so every account that was held leaves a line in the week before.
//!
//! Invariant: the figures come from the lines alone, and the faults of a trail stand beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::chain::{self, Fault};
use super::files;

/// The data held of an account, in the words of a notice.
pub const CATEGORIES: &[&str] = &[
    "SIP address and authentication user name",
    "authentication hash (HA1), or the password where store.keep_passwords says so or the SIP server has not asked yet",
    "push tokens, their provider, a name that the user gave the device",
    "callers (address, name, time) of missed calls; text messages that wait, at most 100 for a device",
];

/// How it is held.
pub const PROTECTION: &str = "sealed with AES-256-GCM under a key of its own; the day's keys lie in store.keyring alone and are destroyed after 7 days";

/// A summary of the trails of a relay's nodes for a time.
#[derive(Debug, Default)]
pub struct Report {
    /// Lines that were read.
    pub lines: u64,
    /// Lines that could not be written at the time.
    pub lost: u64,
    /// The faults of the trails; if there are any, the figures come from the sound lines.
    pub faults: Vec<Fault>,
    /// Accounts that were held.
    pub accounts: u64,
    /// Instances that were held, by App.
    pub instances: BTreeMap<Box<str>, u64>,
    /// How often each thing was done: `enabled`, `wiped: expired`, `read: export`.
    pub done: BTreeMap<String, u64>,
}

#[derive(Default)]
struct Held {
    account: Option<Box<str>>,
    app: Option<Box<str>>,
    from: Box<str>,
    wiped_at: Option<Box<str>>,
}

/// Reads the trails in these directories, one for each node, and reports on the days `from` to `to`, both included (`2026-11-27`, UTC).
pub fn report(directories: &[PathBuf], from: &str, to: &str) -> Report {
    let (mut report, mut held) = (Report::default(), BTreeMap::<Box<str>, Held>::new());
    let (first, last) = (format!("{from}T"), format!("{to}T~"));
    for directory in directories {
        let seen = |line: &Value| report_line(&mut report, &mut held, line, (&first, &last));
        if let Err(fault) = verify_directory(directory, seen) {
            report.faults.push(fault);
        }
    }
    let live = |it: &&Held| *it.from <= *last && it.wiped_at.as_deref().is_none_or(|at| at >= first.as_str());
    let live: Vec<&Held> = held.values().filter(live).collect();
    report.accounts = live.iter().filter_map(|it| it.account.as_deref()).collect::<BTreeSet<_>>().len() as u64;
    for it in &live {
        *report.instances.entry(it.app.clone().unwrap_or_else(|| "unknown".into())).or_default() += 1;
    }
    report
}

/// Checks all files of a node's trail, and shows each line; the chain of the last one.
///
/// # Errors
/// [`Fault`], with its place.
pub fn verify_directory(directory: &Path, each: impl FnMut(&Value)) -> Result<Option<[u8; 32]>, Fault> {
    let unreadable =
        |path: &Path, why: String| Fault::Read { file: path.display().to_string().into(), why: why.into() };
    let days = files::days(directory).map_err(|error| unreadable(directory, error.to_string()))?;
    let mut opened = Vec::new();
    for (_, path) in days {
        let file = std::fs::File::open(&path).map_err(|error| unreadable(&path, error.to_string()))?;
        opened.push((path.display().to_string().into(), BufReader::new(file)));
    }
    chain::verify(opened, each)
}

fn report_line(report: &mut Report, held: &mut BTreeMap<Box<str>, Held>, line: &Value, (first, last): (&str, &str)) {
    let text = |name: &str| line[name].as_str();
    let (Some(at), Some(what)) = (text("at"), text("what")) else { return };
    report.lines += 1;
    if first <= at && at <= last {
        report.lost += line["lines"].as_u64().unwrap_or(0);
        let done = match text("why") {
            Some(why) => format!("{what}: {why}"),
            None => what.to_owned(),
        };
        *report.done.entry(done).or_default() += 1;
    }
    let Some(instance) = text("instance") else { return };
    let it = held.entry(instance.into()).or_default();
    if it.from.is_empty() || at < &*it.from {
        it.from = at.into();
    }
    it.account = it.account.take().or_else(|| text("account").map(Into::into));
    it.app = it.app.take().or_else(|| text("app").map(Into::into));
    if what == "wiped" {
        it.wiped_at = Some(at.into());
    }
}

impl Report {
    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({
            "accounts": self.accounts,
            "instances": self.instances,
            "done": self.done,
            "categories": CATEGORIES,
            "protection": PROTECTION,
            "trail": {
                "lines": self.lines,
                "lost": self.lost,
                "whole": self.faults.is_empty(),
                "faults": self.faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
            },
        })
    }
}
