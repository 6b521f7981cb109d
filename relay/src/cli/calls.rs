//! `sipwake calls`: the last calls of all nodes, and the story of one.
//!
//! Invariant: a caller is shown as shortened as the relay tells it.

use std::io::Write as _;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::CommandError;
use super::answer::list;
use super::colour::{Colour, paint};
use super::operator::At;
use super::table::{cell, incomplete, pretty, printable, table_in};
use crate::log::say_line;

/// The last calls of all nodes: for whom, how each ended, and why nobody answered; kept for a day
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Calls {
    #[command(subcommand)]
    action: Option<Action>,
    /// Those of the last hours alone: 1 to 24
    #[arg(long, value_name = "N")]
    hours: Option<u8>,
    /// Those that ended, or stand, like this alone; missed: cancelled, timed-out or unreachable
    #[arg(long, value_parser = PossibleValuesParser::new([
        "missed", "waking", "ringing", "answered", "cancelled", "answered-elsewhere", "declined", "timed-out", "unreachable",
    ]))]
    outcome: Option<String>,
    /// Those of this App alone
    #[arg(long, value_name = "ID")]
    app: Option<String>,
    /// Those of this instance alone
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// The newest so many: 1 to 1000
    #[arg(long, value_name = "N", default_value = "50")]
    limit: u16,
    #[command(flatten)]
    at: At,
}

#[derive(Subcommand)]
enum Action {
    /// One call, step by step: INVITE, push, device, ringing, answer, end
    Show {
        /// Its id: c_…, as the push names it
        call: String,
        #[command(flatten)]
        at: At,
    },
}

/// Prints what was asked for.
///
/// # Errors
/// [`CommandError`] when the listener is not reached or refuses.
pub async fn run(calls: Calls) -> Result<(), CommandError> {
    if let Some(Action::Show { call, at }) = &calls.action {
        let id: String = call.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let told = at.open()?.call("GET", &format!("/calls/{id}"), None).await?;
        let list = list(&told, "calls")?;
        if at.json {
            print(&pretty(&told["calls"]))?;
            return say_missing(&told);
        }
        let all: Vec<String> = list.iter().map(story).collect();
        print(&all.join("\n"))?;
        return say_missing(&told);
    }
    let mut path = format!("/calls?limit={}", calls.limit);
    let hours = calls.hours.map(|hours| hours.to_string());
    for (key, value) in
        [("hours", &hours), ("outcome", &calls.outcome), ("app", &calls.app), ("instance", &calls.instance)]
    {
        if let Some(value) = value {
            if value.is_empty() || !value.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)) {
                return Err(CommandError::NoSuchFilter(key));
            }
            path += &format!("&{key}={value}");
        }
    }
    let told = calls.at.open()?.call("GET", &path, None).await?;
    let list = list(&told, "calls")?;
    if calls.at.json {
        print(&pretty(&told["calls"]))?;
        return say_missing(&told);
    }
    let row = |call: &Value| {
        let columns = ["at", "call", "instance", "app", "from", "outcome", "why"].map(|column| cell(&call[column]));
        (colour(call), columns)
    };
    let rows = list.iter().map(row);
    print(&table_in(["AT", "CALL", "INSTANCE", "APP", "FROM", "OUTCOME", "WHY"], rows))?;
    say_missing(&told)
}

fn print(text: &str) -> Result<(), CommandError> {
    std::io::stdout().write_all(text.as_bytes()).map_err(CommandError::Output)
}

/// A list with a hole says so.
fn say_missing(told: &Value) -> Result<(), CommandError> {
    if told["incomplete"] == true {
        say_line(
            "incomplete: the store does not answer, a node is still reading what an earlier run has kept, or had more calls than it knows (--instance tells all of one)",
        );
    }
    for node in told["silent"].as_array().into_iter().flatten() {
        say_line(incomplete(&cell(node), "did not answer"));
    }
    Ok(())
}

fn colour(call: &Value) -> Option<Colour> {
    match call["outcome"].as_str()? {
        "answered" => Some(Colour::Good),
        "unreachable" => Some(Colour::Bad),
        "timed-out" => Some(Colour::Warn),
        "cancelled" | "declined" | "answered-elsewhere" => Some(Colour::Faint),
        _ => None,
    }
}

fn story(call: &Value) -> String {
    let of = |member: &str| cell(&call[member]);
    let mut text = format!("{} for {} ({}), from {}: ", of("call"), of("instance"), of("app"), of("from"));
    text += &paint(colour(call), &of("outcome"));
    if call["why"].is_string() {
        text += &format!("; {}", of("why"));
    }
    text.push('\n');
    let steps = call["steps"].as_array().map(Vec::as_slice).unwrap_or_default();
    let after: Vec<String> = steps.iter().map(|step| format!("+{} ms", cell(&step["after_ms"]))).collect();
    let width = after.iter().map(String::len).max().unwrap_or(0);
    for (step, after) in steps.iter().zip(after) {
        text += &format!("  {}  {after:>width$}  {}\n", cell(&step["at"]), words(step));
    }
    text
}

/// A step as a person says it.
fn words(step: &Value) -> String {
    let of = |member: &str| cell(&step[member]);
    let reason = if step["reason"].is_string() { format!(" ({})", of("reason")) } else { String::new() };
    match step["step"].as_str().unwrap_or_default() {
        "announced" => "announced by the SIP server".to_owned(),
        "invite" => "INVITE came".to_owned(),
        "push-withheld" => format!("no push was sent{reason}"),
        "push-sent" => format!("push sent by {}", of("provider")),
        "push-ended" => format!("push {}{reason}", of("outcome")),
        "device-attached" => "the device came".to_owned(),
        "invite-sent" => "INVITE left for the device".to_owned(),
        "caller-hears-ringing" => "180 to the caller".to_owned(),
        "ringing" => "the device rings".to_owned(),
        "device-refused" => format!("the device refused the call with {}", of("status")),
        "declined-by-app" => "the app declined".to_owned(),
        "invite-expired" => "the INVITE's Expires ran out".to_owned(),
        "ended" => format!("the {} hung up", of("by")),
        "answered" => "answered".to_owned(),
        other => printable(other),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_story_is_told_line_by_line() {
        let call = json!({
            "call": "c_a", "instance": "pi_b", "app": "com.example.phone", "from": "b…", "outcome": "timed-out",
            "why": "nobody answered", "steps": [
                {"at": "2026-11-27T09:00:00.000Z", "after_ms": 0, "step": "invite"},
                {"at": "2026-11-27T09:00:00.012Z", "after_ms": 12, "step": "push-ended", "outcome": "refused", "reason": "BadTopic\u{1b}[2J"},
            ],
        });
        assert_eq!(
            story(&call),
            "c_a for pi_b (com.example.phone), from b…: timed-out; nobody answered\n  \
             2026-11-27T09:00:00.000Z   +0 ms  INVITE came\n  \
             2026-11-27T09:00:00.012Z  +12 ms  push refused (BadTopic[2J)\n"
        );
    }
}
