//! The results of one fault, and the table of all of them, perhaps beside earlier results.
//!
//! Invariant: every figure that is printed is in the JSON too.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use crate::load::calls::Outcome;

/// The results of one fault.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Its name.
    pub fault: String,
    /// The description of the fault.
    pub words: String,
    /// The calls to the app whose push service has it.
    pub own: Figures,
    /// The calls to the two other apps.
    pub others: Figures,
    /// Connections to that push service that the relay began, from its start on.
    pub connections: usize,
    /// Requests for the pushes of calls that the service got.
    pub requests: u64,
    /// Requests for access tokens.
    pub exchanges: u64,
    /// Pushes that were taken when their call was over.
    pub late_pushes: u64,
    /// The objections of the service.
    pub objections: Vec<String>,
    /// How late a 1 ms timer was beside it: a floor below every latency.
    pub timer_lag_p99_ms: f64,
}

/// The outcome of some calls.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Calls.
    pub calls: u64,
    /// Those whose push the service took while they waited.
    pub pushed: u64,
    /// Of them those whose push it took more than once.
    pub pushed_twice: u64,
    /// Those whose caller heard 180: the relay knew that the service had taken the push.
    pub rung: u64,
    /// From the INVITE until the service had the push, in milliseconds.
    pub push_p50_ms: f64,
    /// The same.
    pub push_p99_ms: f64,
    /// From the INVITE to 180, in milliseconds.
    pub ringing_p50_ms: f64,
    /// The same.
    pub ringing_p99_ms: f64,
    /// Calls by final status.
    pub statuses: BTreeMap<u16, u64>,
}

impl Figures {
    /// Of an outcome.
    pub fn of(outcome: &Outcome) -> Self {
        let (push, ringing) = (outcome.invite_to_push, outcome.invite_to_ringing);
        Self {
            calls: outcome.calls,
            pushed: outcome.pushed,
            pushed_twice: outcome.pushed_twice,
            rung: ringing.count,
            push_p50_ms: push.p50_us / 1e3,
            push_p99_ms: push.p99_us / 1e3,
            ringing_p50_ms: ringing.p50_us / 1e3,
            ringing_p99_ms: ringing.p99_us / 1e3,
            statuses: outcome.statuses.clone(),
        }
    }
}

/// A table.
#[derive(Debug, Default)]
pub struct Table {
    /// The rows of this run.
    pub rows: Vec<Row>,
    /// The rows of earlier runs, shown beside them.
    pub before: Vec<Row>,
    /// Faults that could not be measured, each with its name, what it is and why.
    pub failed: Vec<(&'static str, &'static str, String)>,
}

/// A column: its head, and its cell.
type Column = (&'static str, fn(&Row) -> String);

const COLUMNS: &[Column] = &[
    ("own calls pushed", |row| format!("{} of {}", row.own.pushed, row.own.calls)),
    ("twice", |row| row.own.pushed_twice.to_string()),
    ("heard 180", |row| row.own.rung.to_string()),
    ("INVITE → push p50 / p99", |row| spread(row.own.pushed, row.own.push_p50_ms, row.own.push_p99_ms)),
    ("connections", |row| row.connections.to_string()),
    ("requests a call", |row| format!("{:.1}", row.requests as f64 / row.own.calls.max(1) as f64)),
    ("others pushed", |row| format!("{} of {}", row.others.pushed, row.others.calls)),
    ("p50 / p99", |row| spread(row.others.pushed, row.others.push_p50_ms, row.others.push_p99_ms)),
];

fn spread(count: u64, p50: f64, p99: f64) -> String {
    if count == 0 { "–".to_owned() } else { format!("{} / {}", time(p50), time(p99)) }
}

fn time(ms: f64) -> String {
    if ms >= 1_000.0 { format!("{:.1} s", ms / 1e3) } else { format!("{ms:.1} ms") }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "| fault |")?;
        for (head, _) in COLUMNS {
            write!(f, " {head} |")?;
        }
        writeln!(f, "\n|{}", " --- |".repeat(COLUMNS.len() + 1))?;
        for row in &self.rows {
            let before = self.before.iter().find(|before| before.fault == row.fault);
            write!(f, "| {} |", row.words)?;
            for (_, cell) in COLUMNS {
                let now = cell(row);
                match before.map(cell) {
                    Some(before) if before != now => write!(f, " {before} → **{now}** |")?,
                    None if !self.before.is_empty() => write!(f, " – → **{now}** |")?,
                    _ => write!(f, " {now} |")?,
                }
            }
            writeln!(f)?;
        }
        for (_, words, _) in &self.failed {
            writeln!(f, "| {words} |{}", " – |".repeat(COLUMNS.len()))?;
        }
        for row in self.rows.iter().filter(|row| row.late_pushes > 0 || !row.objections.is_empty()) {
            writeln!(
                f,
                "\n{}: {} pushes after the end of their call; {:?}",
                row.fault, row.late_pushes, row.objections
            )?;
        }
        for (name, _, why) in &self.failed {
            writeln!(f, "\n{name} was not measured: {why}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shows_what_was_before_where_it_has_changed() {
        let own = Figures { calls: 40, pushed: 40, push_p50_ms: 0.31, push_p99_ms: 1_260.0, ..Figures::default() };
        let row = Row {
            fault: "apns-3.5s".into(),
            words: "slow".into(),
            others: Figures { pushed: 200, calls: 200, ..own.clone() },
            own,
            connections: 1,
            requests: 40,
            exchanges: 0,
            late_pushes: 0,
            objections: Vec::new(),
            timer_lag_p99_ms: 0.1,
        };
        let before = Row { own: Figures { pushed: 9, ..row.own.clone() }, connections: 11, ..row.clone() };
        let read: Row = serde_json::from_str(&serde_json::to_string(&before).unwrap()).unwrap();
        let table =
            Table { rows: vec![row], before: vec![read], failed: vec![("webpush-6s", "slow, too", "no".into())] };
        let text = table.to_string();
        assert!(text.contains("| slow | 9 of 40 → **40 of 40** | 0 |"), "{text}");
        assert!(text.contains("| 11 → **1** | 1.0 | 200 of 200 | 0.3 ms / 1.3 s |"), "{text}");
        assert!(text.ends_with("webpush-6s was not measured: no\n"), "{text}");
    }
}
