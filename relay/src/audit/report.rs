//! The facts for a notice of a breach (GDPR Art. 33(3)): whose data were held in a time, of which kinds, and the actions on them.
//!
//! An account counts as held from its first line in the trails up to its wipe. A lease lasts six days at most, and is renewed by a
//! line; so every account that was held leaves a line in the week before. One that has left none since has ended unheard, while no node ran: the
//! store has erased it by itself, and it counts up to six days behind its last line.
//!
//! Invariant: the figures come from the lines alone, and the faults of a trail stand beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::chain::{self, Fault};
use super::files;
use crate::clock::{DAY_S, rfc3339};
use crate::net::tls::validity::days_since_1970;
use crate::vault::MAX_LIFETIME_S;

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
    last: Box<str>,
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
    let known_from = lease_before(from);
    let live: Vec<&Held> = held.values().filter(|it| it.is_held(&first, &last, &known_from)).collect();
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
    if at > &*it.last {
        it.last = at.into();
    }
    it.account = it.account.take().or_else(|| text("account").map(Into::into));
    it.app = it.app.take().or_else(|| text("app").map(Into::into));
    if what == "wiped" {
        it.wiped_at = Some(at.into());
    }
}

impl Held {
    /// Whether it was held between two times. `known_from`: the longest lease that ends with the first began then.
    fn is_held(&self, first: &str, last: &str, known_from: &str) -> bool {
        *self.from <= *last && *self.last >= *known_from && self.wiped_at.as_deref().is_none_or(|at| at >= first)
    }
}

/// The beginning of a day (`2026-11-27`), less the longest lease; empty where it is no day.
fn lease_before(day: &str) -> String {
    let mut parts = day.split('-').map(str::parse);
    let (Some(Ok(year)), Some(Ok(month)), Some(Ok(date))) = (parts.next(), parts.next(), parts.next()) else {
        return String::new();
    };
    let days = days_since_1970(year, month, date);
    days.map(|days| rfc3339((days * DAY_S).saturating_sub(MAX_LIFETIME_S))).unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_counts_up_to_its_wipe_or_to_the_longest_lease_behind_its_last_line() {
        assert_eq!(
            (lease_before("2026-03-02"), lease_before("no day")),
            ("2026-02-24T00:00:00Z".into(), String::new())
        );
        let held = |last: &str, wiped: bool| {
            let (mut report, mut held) = (Report::default(), BTreeMap::new());
            let what = if wiped { "wiped" } else { "renewed" };
            for (at, what) in [("2026-02-01T10:00:00Z", "enabled"), (last, what)] {
                let line = json!({"at": at, "what": what, "instance": "pi_1"});
                report_line(&mut report, &mut held, &line, ("2026-03-02T", "2026-03-03T~"));
            }
            held["pi_1"].is_held("2026-03-02T", "2026-03-03T~", &lease_before("2026-03-02"))
        };
        assert!(held("2026-02-24T00:00:01Z", false) && held("2026-03-02T08:00:00Z", true));
        assert!(!held("2026-02-23T23:59:59Z", false), "no node has seen its end");
        assert!(!held("2026-03-01T08:00:00Z", true));
    }
}
