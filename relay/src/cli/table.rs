//! A relay's answers, as a person reads them: a table, or a line for each member.
//!
//! Invariant: nothing that a terminal would take for a command is printed.

use std::fmt::Write as _;

use serde_json::Value;

use super::colour::{Colour, paint};
use crate::doctor::is_obeyed;

/// JSON for a program, indented for a person who looks on.
pub(super) fn pretty(value: &Value) -> String {
    escaped(&format!("{value:#}\n"))
}

/// JSON for a program, on one line.
pub(super) fn one_line(value: &Value) -> String {
    escaped(&value.to_string())
}

/// JSON in which the characters are escaped that it may hold as they are, and that a terminal would obey. Only its texts have any.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\0'..='~' => text.push(c),
            c if is_obeyed(c) => drop(write!(text, "\\u{:04x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// A text on one line, with an escape in the place of each character that a terminal would obey.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

/// A line for each row, below the columns' names.
pub(super) fn table<const N: usize>(columns: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    table_in(columns, rows.into_iter().map(|row| (None, row)))
}

/// The same, each row in its colour.
pub(super) fn table_in<const N: usize>(
    columns: [&str; N],
    rows: impl IntoIterator<Item = (Option<Colour>, [String; N])>,
) -> String {
    let names = (Some(Colour::Faint), columns.map(str::to_owned));
    let rows: Vec<_> = std::iter::once(names).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|(_, row)| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let mut text = String::new();
    for (colour, row) in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += &paint(*colour, cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A line for each member, nested ones by their path.
pub(super) fn lines(value: &Value) -> String {
    fn write(text: &mut String, path: &str, value: &Value) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    let key = printable(key);
                    let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                    write(text, &path, value);
                }
            }
            Value::Null => {}
            value => drop(writeln!(text, "{path}: {}", cell(value))),
        }
    }
    let mut text = String::new();
    write(&mut text, "", value);
    text
}

/// A value without quotes, and without what a terminal would take for a command.
pub(super) fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    text.chars().filter(|c| !is_obeyed(*c)).collect()
}

/// The notice for a list that lacks a node's part; `unknown` stands for nodes that the store could not name.
pub(super) fn incomplete(node: &str, why: &str) -> String {
    match node {
        "unknown" => "incomplete: the store does not answer, so that other nodes are not known".to_owned(),
        node => format!("incomplete: the node {node} {why}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_control_character() {
        let row = |value: &str| [cell(&json!(value)), cell(&json!(200))];
        let text = table(["NAME", "STATUS"], [row("com.example.phone\u{1b}[2J"), row("a")]);
        assert_eq!(text, "NAME                  STATUS\ncom.example.phone[2J  200\na                     200\n");
        assert_eq!(table(["NAME"], []).lines().count(), 1);
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped_and_json_stays_the_same() {
        let odd = json!({"a\u{9b}2J": "\u{1b}[2J\u{7f}\u{85}\u{202e}é\u{2028}\r"});
        for text in [pretty(&odd), one_line(&odd)] {
            let obeyed: String = text.chars().filter(|c| is_obeyed(*c) && *c != '\n').collect();
            assert_eq!(obeyed, "", "{text}");
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), odd);
        }
        assert_eq!(printable("a\u{1b}[2J\rb\u{9b}é\u{202e}"), "a\\u{1b}[2J\\u{d}b\\u{9b}é\\u{202e}");
        assert!(lines(&odd).chars().all(|c| c == '\n' || !is_obeyed(c)));
    }

    #[test]
    fn one_thing_is_told_member_by_member() {
        let one = json!({"instance": "pi_a", "alert_push": null, "registration": {"state": "retrying", "status": 503}});
        assert_eq!(lines(&one), "instance: pi_a\nregistration.state: retrying\nregistration.status: 503\n");
    }
}
