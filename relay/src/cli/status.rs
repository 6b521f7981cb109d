//! `sipwake status` and `sipwake nodes`: how a relay stands, on one screen; and the nodes of its store.
//!
//! Invariant: its text is the status page's; the exit status is that of its banner.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::colour::{Colour, paint};
use super::operator::At;
use super::table::{cell, pretty, printable, table, table_in};
use super::{CommandError, answer};
use crate::log::say_line;

/// How a relay stands, on one screen; ends with 0: well, 1: to be looked at, 2: calls fail, or no answer
#[derive(Args)]
pub struct Status {
    #[command(flatten)]
    at: At,
}

/// The nodes of the store: version, since when, instances, lease, keyring, and whether each is ready
#[derive(Args)]
pub struct Nodes {
    #[command(flatten)]
    at: At,
}

/// Prints how a relay stands, and says with which status to end.
///
/// # Errors
/// [`CommandError`] when the listener is not reached or refuses.
pub async fn status(status: Status) -> Result<ExitCode, CommandError> {
    let told = status.at.open()?.call("GET", "/status", None).await?;
    let state = answer::text(&told, "state")?;
    let text = if status.at.json { pretty(&told) } else { screen(&told) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::from(match state {
        "good" => 0,
        "warn" => 1,
        _ => 2,
    }))
}

fn screen(told: &Value) -> String {
    let of = |member: &str| cell(&told[member]);
    let colour = |state: &Value| match state.as_str() {
        Some("good") => Some(Colour::Good),
        Some("warn") => Some(Colour::Warn),
        _ => Some(Colour::Bad),
    };
    let banner = match told["state"].as_str() {
        Some("good") if told["says"].as_array().is_some_and(|says| !says.is_empty()) => "Ready.",
        Some("good") => "Ready. A call can wake its phone. Nothing is to be done.",
        Some("warn") => "Look at this.",
        _ => "Calls fail.",
    };
    let mut text = format!("{} {} at {}\n", of("node"), of("version"), of("at"));
    text += &format!("{}\n", paint(colour(&told["state"]), banner));
    for word in told["says"].as_array().into_iter().flatten() {
        text += &format!("  {}\n", paint(colour(&word["state"]), &format!("{}.", cell(&word["what"]))));
        if word["next"].as_str().is_some_and(|next| !next.is_empty()) {
            text += &format!("    Next: {}.\n", cell(&word["next"]));
        }
    }
    let number = |member: &str| cell(&told["numbers"][member]).trim_end_matches(".0").to_owned();
    let pushes = told["numbers"]["pushes_accepted_5_min"].as_object().into_iter().flatten();
    let pushes: Vec<_> =
        pushes.map(|(name, count)| format!("{} {}", cell(count).trim_end_matches(".0"), printable(name))).collect();
    text.push('\n');
    for (what, value) in [
        ("phones reachable", format!("{} of {}", number("phones_reachable"), number("phones"))),
        ("calls waiting", number("calls_waiting")),
        ("pushes accepted, 5 min", pushes.join(", ")),
        ("9 of 10 phones woke within", number("wake_p90")),
    ] {
        text += &format!("{what:<28}{value}\n");
    }
    let attention = told["attention"].as_array().map(Vec::as_slice).unwrap_or_default();
    if attention.is_empty() {
        let nothing = if told["state"] == "good" { "Nothing" } else { "Nothing else" };
        return text + &format!("\n{nothing} has gone wrong since the start.\n");
    }
    let row = |row: &Value| {
        let count = |member: &str| cell(&row[member]).trim_end_matches(".0").to_owned();
        let is_recent = row["last_5_min"].as_f64() > Some(0.0);
        let colour =
            if is_recent { Some(Colour::Bad) } else { Some(Colour::Faint).filter(|_| row["last_hour"] == 0.0) };
        let [short, long, total] = ["last_5_min", "last_hour", "since_start"].map(count);
        (colour, [cell(&row["what"]), short, long, total, cell(&row["why"])])
    };
    text + "\n" + &table_in(["NEEDS ATTENTION", "5 MIN", "1 H", "TOTAL", "WHAT IT MEANS"], attention.iter().map(row))
}

/// Prints the nodes.
///
/// # Errors
/// [`CommandError`] when the listener is not reached or refuses.
pub async fn nodes(nodes: Nodes) -> Result<(), CommandError> {
    let told = nodes.at.open()?.call("GET", "/nodes", None).await?;
    let list = answer::list(&told, "nodes")?;
    let text = if nodes.at.json {
        pretty(&told["nodes"])
    } else {
        let columns =
            ["node", "version", "since", "instances", "push_registrations", "lease", "keyring", "state", "why"];
        let row = |node: &Value| {
            let colour = match node["state"].as_str() {
                Some("ready") => Colour::Good,
                Some("gone") => Colour::Faint,
                Some("degraded" | "draining") => Colour::Warn,
                _ => Colour::Bad,
            };
            (Some(colour), columns.map(|column| cell(&node[column])))
        };
        let names = ["NODE", "VERSION", "SINCE", "INSTANCES", "PASSED", "LEASE", "KEYRING", "STATE", "WHY"];
        if list.is_empty() { table(names, []) } else { table_in(names, list.iter().map(row)) }
    };
    std::io::stdout().write_all(text.as_bytes())?;
    if told["incomplete"] == true {
        say_line("incomplete: the store does not answer, so that only this node is known");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_screen_tells_the_banner_the_numbers_and_what_needs_attention() {
        let told = json!({
            "node": "relay1:5061", "version": "1", "at": "2026-11-27T09:00:00Z", "state": "warn",
            "says": [{"state": "warn", "what": "The store is away", "next": "look at Redis"}],
            "numbers": {
                "phones_reachable": 3.0, "phones": 4.0, "calls_waiting": 0.0, "pushes_accepted_5_min": {"APNs": 7.0},
                "wake_p90": "2.5 s",
            },
            "attention": [{"what": "Calls at a limit", "last_5_min": 0.0, "last_hour": 2.0, "since_start": 10.0, "why": "too many"}],
        });
        let text = screen(&told);
        for line in [
            "Look at this.\n  The store is away.\n    Next: look at Redis.\n",
            "phones reachable            3 of 4\n",
            "pushes accepted, 5 min      7 APNs\n",
            "Calls at a limit  0      2    10     too many\n",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        let told = json!({"state": "good", "says": [{"state": "good", "what": "1 of 38 phones has none", "next": ""}]});
        let text = screen(&told);
        assert!(
            text.contains("Ready.\n  1 of 38 phones has none.\n") && !text.contains("Nothing is to be done"),
            "{text}"
        );
        assert!(
            screen(&json!({"state": "good", "says": []}))
                .contains("Ready. A call can wake its phone. Nothing is to be done.")
        );
    }
}
