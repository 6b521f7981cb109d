//! The facts for a notice of a breach (GDPR Art. 33(3)): whose data were held in a time, of which kinds, and the actions on them.
//!
//! An account counts as held from its first line in the trails up to its wipe, unless another node had it by then (`handed-over`). A lease lasts six days
//! at most, and is renewed by a line; so every account that was held leaves a line in the week before. One that has left none since has ended unheard, while no node ran: the
//! store has erased it by itself, and it counts up to six days behind its last line.
//!
//! Invariant: the figures come from the lines alone, and the faults of a trail stand beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Act;
use super::chain::{self, Fault};
use super::files::{self, AuditError};
use super::owed;
use crate::clock::{DAY_S, rfc3339};
use crate::net::tls::validity::days_since_1970;
use crate::vault::MAX_LIFETIME_S;

/// The data held of an account, in the words of a notice.
pub const CATEGORIES: &[&str] = &[
    "SIP address and authentication user name, the SIP server's and its proxy's address",
    "authentication hash (HA1), or the password where store.keep_passwords says so or the SIP server has not asked yet",
    "push tokens, their provider, a name that the user gave the device",
    "callers (address, name, time) of missed calls; text messages that wait, at most 100 for a device",
    "of each call of the last 24 hours, at most 50 for a device: its times, its steps and how it ended, and of its caller the first three and last two digits, or the first letter of the name",
    "in memory alone: the steps of registrations and calls with their times (timeline); who has called lately, as a hash; while a trace was asked for, the device's SIP, scrubbed",
];

/// How it is held.
pub const PROTECTION: &str = "sealed with AES-256-GCM under a key of its own; the day's keys lie in store.keyring alone and are destroyed after 7 days";

/// How far back a time may be behind the one before it, in seconds: threads write side by side, and time services step a clock.
const APART_S: u64 = 60;

/// The faults of one trail that are told each by itself.
const FAULTS: usize = 20;

/// A summary of the trails of a relay's nodes for a time.
#[derive(Debug, Default)]
pub struct Report {
    /// Lines that were read.
    pub lines: u64,
    /// Lines that could not be written, and may be of that time.
    pub lost: u64,
    /// Lines that wait to be written, or were lost with the last run.
    pub waiting: u64,
    /// Lines that are dated well before one that stands before them, by a clock that was wrong then or earlier, and may be of that time.
    pub misdated: u64,
    /// The faults of the trails, at most 20 of each; if there are any, or lines are missing, the figures come from the lines that can be read, and are too
    /// small.
    pub faults: Vec<Fault>,
    /// How many more there are.
    pub further_faults: u64,
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
    let (mut walked, known_from) = (BTreeSet::new(), lease_before(from));
    for directory in directories {
        // A trail that is named twice is one.
        if !walked.insert(std::fs::canonicalize(directory).unwrap_or_else(|_| directory.clone())) {
            continue;
        }
        let (mut faults, mut further) = (Vec::new(), 0);
        let mut before = String::new();
        let mut order = Order::default();
        let seen = |line: &Value| {
            let at = line["at"].as_str().unwrap_or_default();
            if !is_of_start(line) {
                order.see(at);
            }
            // The lost lines are from the time between the previous line and this one.
            if *before <= *last && *at >= *known_from {
                report.lost += line["lines"].as_u64().unwrap_or(0);
            }
            at.clone_into(&mut before);
            report_line(&mut report, &mut held, line, (&first, &last));
        };
        walk_directory(directory, seen, |fault| if faults.len() < FAULTS { faults.push(fault) } else { further += 1 });
        report.misdated += order.end(&known_from, &last);
        report.faults.append(&mut faults);
        report.further_faults += further;
        report.waiting += owed::read(directory);
    }
    let live: Vec<&Held> = held.values().filter(|it| it.is_held(&first, &last, &known_from)).collect();
    report.accounts = live.iter().filter_map(|it| it.account.as_deref()).collect::<BTreeSet<_>>().len() as u64;
    for it in &live {
        *report.instances.entry(it.app.clone().unwrap_or_else(|| "unknown".into())).or_default() += 1;
    }
    report
}

/// Whether a run has written a line at its start: it is dated by the machine's clock, for the store was not heard yet by whose clock the others may go, and
/// tells of no account.
fn is_of_start(line: &Value) -> bool {
    [Act::Started, Act::Torn].iter().any(|act| line["what"] == act.word())
}

/// The order of the times in one trail. A clock that was wrong shows where they run backwards; which of the lines it has dated shows nowhere, and it may be
/// any from the earlier time on until the times are past the later one.
#[derive(Default)]
struct Order {
    newest: String,
    /// The times that are in doubt, the latest last: from, to, and how many lines went backwards in them.
    doubts: Vec<(String, String, u64)>,
    is_behind: bool,
}

impl Order {
    fn see(&mut self, at: &str) {
        if *at >= *self.newest {
            at.clone_into(&mut self.newest);
            if std::mem::take(&mut self.is_behind)
                && let Some((_, to, _)) = self.doubts.last_mut()
            {
                // A clock that was behind has come right with this line.
                at.clone_into(to);
            }
            return;
        }
        let is_far = seconds(at).zip(seconds(&self.newest)).is_none_or(|(at, newest)| newest - at > APART_S);
        match self.doubts.last_mut().filter(|_| self.is_behind) {
            Some((from, _, lines)) => {
                *lines += 1;
                if *at < **from {
                    at.clone_into(from);
                }
            }
            None if is_far => {
                self.is_behind = true;
                self.doubts.push((at.to_owned(), self.newest.clone(), 1));
            }
            None => {}
        }
    }

    /// How many lines went backwards in times that touch these.
    fn end(&self, first: &str, last: &str) -> u64 {
        let touching = self.doubts.iter().filter(|(from, to, _)| **from <= *last && **to >= *first);
        touching.map(|(.., lines)| lines).sum()
    }
}

/// Walks through all files of a node's trail, and shows each line and each fault; the chain of the last line.
pub fn walk_directory(
    directory: &Path,
    mut each: impl FnMut(&Value),
    mut fault: impl FnMut(Fault),
) -> Option<[u8; 32]> {
    let shown: Box<str> = directory.display().to_string().into();
    let days = match files::days(directory) {
        Ok(days) => days,
        Err(AuditError::File { why, .. }) => {
            fault(Fault::Read { file: shown, why: why.to_string().into() });
            return None;
        }
        Err(error) => {
            fault(Fault::Read { file: shown, why: error.to_string().into() });
            return None;
        }
    };
    let opened = days.into_iter().map(|(_, path)| {
        let file = std::fs::File::open(&path).map(BufReader::new);
        (path.display().to_string().into(), file)
    });
    let (mut lines, mut faults) = (0_u64, 0_u64);
    let chain = chain::walk(
        opened,
        |line| {
            lines += 1;
            each(line);
        },
        |found| {
            faults += 1;
            fault(found);
        },
    );
    // A run writes a line when it starts: what has none is none, or all was taken out.
    if lines == 0 && faults == 0 {
        fault(Fault::Empty { directory: shown });
    }
    chain
}

/// Checks all files of a node's trail, and shows each line; the chain of the last one.
///
/// # Errors
/// The first [`Fault`], with its place.
pub fn verify_directory(directory: &Path, each: impl FnMut(&Value)) -> Result<Option<[u8; 32]>, Fault> {
    let mut first = None;
    let chain = walk_directory(directory, each, |fault| {
        first.get_or_insert(fault);
    });
    first.map_or(Ok(chain), Err)
}

fn report_line(report: &mut Report, held: &mut BTreeMap<Box<str>, Held>, line: &Value, (first, last): (&str, &str)) {
    let text = |name: &str| line[name].as_str();
    let (Some(at), Some(what)) = (text("at"), text("what")) else { return };
    report.lines += 1;
    if first <= at && at <= last {
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
    if what == "wiped" && it.wiped_at.as_deref().is_none_or(|earlier| earlier < at) {
        it.wiped_at = Some(at.into());
    }
    // Another node has it, and goes on with it.
    if what == "handed-over" && it.wiped_at.as_deref().is_some_and(|wiped| wiped <= at) {
        it.wiped_at = None;
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
    day_s(day).map(|day_s| rfc3339(day_s.saturating_sub(MAX_LIFETIME_S))).unwrap_or_default()
}

/// The beginning of a day, in seconds since 1970.
fn day_s(day: &str) -> Option<u64> {
    let mut parts = day.split('-').map(|part| part.parse().ok());
    let days = days_since_1970(parts.next()??, parts.next()??, parts.next()??)?;
    Some(days * DAY_S)
}

/// The time of a line in seconds since 1970.
fn seconds(at: &str) -> Option<u64> {
    let (day, time) = at.split_once('T')?;
    let of_day = time.get(..8)?.split(':').try_fold(0_u64, |sum, part| Some(sum * 60 + part.parse::<u64>().ok()?))?;
    Some(day_s(day)? + of_day)
}

/// How many lines of a node's trail wait to be written, or were lost with its last run.
pub fn waiting(directory: &Path) -> u64 {
    owed::read(directory)
}

impl Report {
    /// Whether no line is missing or dated wrongly: else the figures are too small.
    pub fn is_whole(&self) -> bool {
        self.faults.is_empty() && self.lost == 0 && self.waiting == 0 && self.misdated == 0
    }

    /// For programs.
    pub fn to_json(&self) -> Value {
        json!({
            "accounts": self.accounts,
            "at_least": !self.is_whole(),
            "instances": self.instances,
            "done": self.done,
            "categories": CATEGORIES,
            "protection": PROTECTION,
            "trail": {
                "lines": self.lines,
                "lost": self.lost,
                "waiting": self.waiting,
                "misdated": self.misdated,
                "whole": self.faults.is_empty(),
                "faults": self.faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "further_faults": self.further_faults,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::chain::{BEGINNING, chained};
    use super::*;
    use crate::random;
    use crate::vault::hex;

    #[test]
    fn a_report_counts_what_follows_a_fault_and_each_trail_once() {
        let folder = std::env::temp_dir().join(format!("sipwake-report-{}", hex(&random::bytes::<8>())));
        std::fs::create_dir_all(&folder).unwrap();
        let mut chain = BEGINNING;
        let day = |day: u64, seqs: std::ops::RangeInclusive<u64>, chain: &mut [u8; 32]| {
            let line = |seq: u64| {
                let at = format!("2026-11-{day}T09:00:00.000Z");
                chained(
                    chain,
                    &json!({"seq": seq, "at": at, "what": "enabled", "instance": format!("pi_{seq}"), "account": seq.to_string(), "app": "a"}),
                )
            };
            seqs.map(line).collect::<Vec<String>>()
        };
        let (first, second) = (day(28, 1..=3, &mut chain), day(29, 4..=5, &mut chain));
        std::fs::write(folder.join("audit-2026-11-29.jsonl"), second.concat()).unwrap();
        let write = |lines: &[String]| std::fs::write(folder.join("audit-2026-11-28.jsonl"), lines.concat()).unwrap();
        let told = |directories: &[PathBuf]| {
            let told = report(directories, "2026-11-28", "2026-11-29");
            (told.accounts, told.done.get("enabled").copied(), told.faults.len())
        };
        write(&first);
        let twice = [folder.clone(), folder.join("."), folder.clone()];
        assert_eq!(told(&twice), (5, Some(5), 0));
        write(&[first[0].clone(), first[2].clone()]);
        assert_eq!(told(&twice[..1]), (4, Some(4), 1));
        write(&vec!["no line\n".to_owned(); 30]);
        let torn = report(&twice[..1], "2026-11-28", "2026-11-29");
        assert_eq!((torn.accounts, torn.faults.len(), torn.further_faults), (2, FAULTS, 10));
        assert_eq!(told(&[folder.join("none")]), (0, None, 1));
        std::fs::create_dir(folder.join("empty")).unwrap();
        assert!(matches!(verify_directory(&folder.join("empty"), |_| ()), Err(Fault::Empty { .. })));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn lines_that_are_missing_make_the_figures_of_their_days_a_least_and_those_of_no_other_day() {
        let folder = std::env::temp_dir().join(format!("sipwake-report-lost-{}", hex(&random::bytes::<8>())));
        std::fs::create_dir_all(&folder).unwrap();
        let mut chain = BEGINNING;
        let lines = [("20", "enabled"), ("21", "lost"), ("22", "enabled")].map(|(day, what)| {
            let at = format!("2026-11-{day}T09:00:00.000Z");
            let line = match what {
                "lost" => json!({"seq": 2, "at": at, "what": what, "lines": 26}),
                _ => json!({"seq": if day == "20" { 1 } else { 3 }, "at": at, "what": what, "instance": "pi_1"}),
            };
            chained(&mut chain, &line)
        });
        std::fs::write(folder.join("audit-2026-11-20.jsonl"), lines.concat()).unwrap();
        let told = |from: &str, to: &str| {
            let told = report(std::slice::from_ref(&folder), from, to);
            assert!(told.faults.is_empty(), "{:?}", told.faults);
            assert_eq!(told.to_json()["at_least"], !told.is_whole());
            (told.is_whole(), told.lost)
        };
        // Counted a day later, and of an account that is still held days later.
        for (from, to) in [("2026-11-20", "2026-11-20"), ("2026-11-21", "2026-11-22"), ("2026-11-26", "2026-11-27")] {
            assert_eq!(told(from, to), (false, 26), "{from} {to}");
        }
        for (from, to) in [("2026-11-10", "2026-11-19"), ("2026-11-28", "2026-11-29")] {
            assert_eq!(told(from, to), (true, 0), "{from} {to}");
        }
        std::os::unix::fs::symlink("3", folder.join(".waiting")).unwrap();
        assert_eq!((told("2026-11-28", "2026-11-29"), waiting(&folder)), ((false, 0), 3));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn times_that_run_backwards_make_the_figures_of_what_lies_between_a_least_and_those_of_no_other_day() {
        let misdated = |times: &[&str], from: &str, to: &str| {
            let mut order = Order::default();
            times.iter().for_each(|at| order.see(&format!("2026-{at}:00.000Z")));
            order.end(&format!("2026-{from}"), &format!("2026-{to}T~"))
        };
        let ahead = ["11-30T09:00", "11-30T09:01", "12-10T09:02", "11-30T09:04", "11-30T10:00", "12-12T08:00"];
        let behind = ["11-30T09:00", "11-20T09:01", "11-20T09:02", "12-01T09:00", "12-02T09:00"];
        for (times, from, to, lines) in [
            (&ahead[..], "11-30", "11-30", 2),
            (&ahead, "12-05", "12-06", 2),
            (&ahead, "11-01", "11-29", 0),
            (&ahead, "12-13", "12-14", 0),
            (&ahead[..4], "11-30", "11-30", 1),
            (&behind, "11-30", "11-30", 2),
            (&behind, "12-01", "12-01", 2),
            (&behind, "11-21", "11-22", 2),
            (&behind, "12-02", "12-03", 0),
            (&["11-30T09:01", "11-30T09:00", "11-30T09:02"], "11-30", "11-30", 0),
        ] {
            assert_eq!(misdated(times, from, to), lines, "{times:?} {from} {to}");
        }
        let whole = Report { misdated: 1, ..Report::default() };
        assert!(!whole.is_whole() && whole.to_json()["at_least"] == json!(true));
    }

    #[test]
    fn the_start_of_a_run_on_a_machine_whose_clock_is_ahead_of_the_stores_misdates_nothing() {
        let folder = std::env::temp_dir().join(format!("sipwake-report-start-{}", hex(&random::bytes::<8>())));
        std::fs::create_dir_all(&folder).unwrap();
        let told = |second: &str| {
            let mut chain = BEGINNING;
            let lines = [("09:00", "enabled"), ("09:07", second), ("09:02", "renewed"), ("09:03", "woken")];
            let mut seq = 0;
            let lines = lines.map(|(at, what)| {
                seq += 1;
                let at = format!("2026-11-28T{at}:00.000Z");
                chained(&mut chain, &json!({"seq": seq, "at": at, "what": what, "instance": "pi_1"}))
            });
            std::fs::write(folder.join("audit-2026-11-28.jsonl"), lines.concat()).unwrap();
            let told = report(std::slice::from_ref(&folder), "2026-11-28", "2026-11-28");
            (told.is_whole(), told.misdated)
        };
        assert_eq!(told("started"), (true, 0));
        assert_eq!(told("torn"), (true, 0));
        assert_eq!(told("renewed"), (false, 2));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_account_counts_up_to_its_wipe_or_to_the_longest_lease_behind_its_last_line() {
        assert_eq!(
            (lease_before("2026-03-02"), lease_before("no day")),
            ("2026-02-24T00:00:00Z".into(), String::new())
        );
        let held = |acts: &[(&str, &str)]| {
            let (mut report, mut held) = (Report::default(), BTreeMap::new());
            for (at, what) in [&[("2026-02-01T10:00:00Z", "enabled")], acts].concat() {
                let line = json!({"at": at, "what": what, "instance": "pi_1"});
                report_line(&mut report, &mut held, &line, ("2026-03-02T", "2026-03-03T~"));
            }
            held["pi_1"].is_held("2026-03-02T", "2026-03-03T~", &lease_before("2026-03-02"))
        };
        assert!(held(&[("2026-02-24T00:00:01Z", "renewed")]) && held(&[("2026-03-02T08:00:00Z", "wiped")]));
        assert!(!held(&[("2026-02-23T23:59:59Z", "renewed")]), "no node has seen its end");
        assert!(!held(&[("2026-03-01T08:00:00Z", "wiped")]));
        // A node that was cut off had begun to end what another one has, and goes on with; its trail is read before that one's, or behind it.
        let left = [("2026-02-28T08:00:00Z", "wiped"), ("2026-02-28T08:00:01Z", "handed-over")];
        assert!(held(&left));
        let ended = [("2026-03-01T08:00:00Z", "wiped")];
        assert!(!held(&[&left[..], &ended].concat()) && !held(&[&ended[..], &left].concat()));
    }
}
