//! `sipwake instances`: the operator's view, through the operator listener.
//!
//! Invariant: it shows what the listener tells, which is nothing of whose an instance is.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::https::Https;
use super::{CommandError, key_from};
use crate::secret::ApiKey;

/// How many instances are asked for at once.
const PAGE: usize = 1_000;

/// Look at a relay's push instances, or wipe one
#[derive(Args)]
pub struct Instances {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// All instances of this node
    List {
        #[command(flatten)]
        at: At,
    },
    /// One instance
    Show {
        /// Its id: pi_…
        id: String,
        #[command(flatten)]
        at: At,
    },
    /// Unregister and wipe one instance; prints the signed receipt, or "wiping" while the store is away
    Wipe {
        /// Its id: pi_…
        id: String,
        #[command(flatten)]
        at: At,
    },
    /// Everything that is held about one instance, but for what tells whose it is; as JSON
    Export {
        /// Its id: pi_…
        id: String,
        #[command(flatten)]
        at: At,
    },
}

/// Where a relay's operator listener is.
#[derive(Args)]
pub(super) struct At {
    /// The relay's operator listener
    #[arg(long, value_name = "URL", default_value = "https://127.0.0.1:9443")]
    operator: String,
    /// The file with the operator's token
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// A CA that vouches for the relay's certificate, beside the system's (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Does what was asked, and prints it.
///
/// # Errors
/// [`CommandError`] when the listener is not reached or refuses.
pub async fn run(instances: Instances) -> Result<(), CommandError> {
    let printed = match instances.action {
        Action::List { at } => {
            let all = at.open()?.all().await?;
            if at.json { pretty(&Value::from(all)) } else { table(&all) }
        }
        Action::Show { id, at } => {
            let one = at.open()?.ask("GET", &id, "").await?;
            if at.json { pretty(&one) } else { lines(&one) }
        }
        Action::Wipe { id, at } => {
            let receipt = at.open()?.ask("POST", &id, "/wipe").await?;
            if at.json { pretty(&receipt) } else { lines(&receipt) }
        }
        Action::Export { id, at } => pretty(&at.open()?.ask("GET", &id, "/export").await?),
    };
    std::io::stdout().write_all(printed.as_bytes()).map_err(CommandError::Output)
}

/// An operator listener, and what is shown to it.
pub(super) struct Listener {
    https: Https,
    token: ApiKey,
}

impl At {
    pub(super) fn open(&self) -> Result<Listener, CommandError> {
        Ok(Listener { https: Https::new(&self.operator, self.ca.as_deref())?, token: key_from(&self.token_file)? })
    }
}

impl Listener {
    /// Asks about an instance; `rest` stands behind its path.
    pub(super) async fn ask(&self, method: &str, id: &str, rest: &str) -> Result<Value, CommandError> {
        self.ask_with(method, id, rest, None).await
    }

    /// The same with a body.
    pub(super) async fn ask_with(
        &self,
        method: &str,
        id: &str,
        rest: &str,
        body: Option<&Value>,
    ) -> Result<Value, CommandError> {
        self.https.ask(method, &path_of(id, rest), self.token.expose(), body).await
    }

    /// What is no JSON.
    pub(super) async fn fetch(&self, id: &str, rest: &str) -> Result<Bytes, CommandError> {
        self.https.ask_bytes("GET", &path_of(id, rest), self.token.expose(), None).await
    }

    async fn all(&self) -> Result<Vec<Value>, CommandError> {
        let mut all = Vec::new();
        let mut path = format!("/v1/operator/instances?limit={PAGE}");
        loop {
            let mut page = self.https.ask("GET", &path, self.token.expose(), None).await?;
            match page["instances"].take() {
                Value::Array(instances) => all.extend(instances),
                _ => return Err(CommandError::NotARelay),
            }
            match page["next"].as_str() {
                Some(next) => path = format!("/v1/operator/instances?limit={PAGE}&after={next}"),
                None => return Ok(all),
            }
        }
    }
}

/// An id has no character that would end a part of a path; what is none is unknown to the relay.
fn path_of(id: &str, rest: &str) -> String {
    let id: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
    format!("/v1/operator/instances/{id}{rest}")
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// A line for each instance, below the columns' names.
fn table(all: &[Value]) -> String {
    let mut rows = vec![["INSTANCE", "APP", "STATE", "REGISTRATION", "PUSH", "EXPIRES"].map(str::to_owned)];
    rows.extend(all.iter().map(|one| {
        let registration = [cell(&one["registration"]["state"]), cell(&one["registration"]["status"])];
        [
            cell(&one["instance"]),
            cell(&one["app"]),
            cell(&one["state"]),
            registration.join(" ").trim_end().to_owned(),
            cell(&one["call_push"]["provider"]),
            cell(&one["expires_at"]),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// A line for each member, nested ones by their path.
fn lines(value: &Value) -> String {
    fn write(text: &mut String, path: &str, value: &Value) {
        match value {
            Value::Object(members) => {
                for (key, value) in members {
                    let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
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
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_instance_and_no_control_character() {
        let one = json!({
            "instance": "pi_a", "app": "com.example.phone\u{1b}[2J", "state": "active",
            "registration": {"state": "registered", "status": 200}, "call_push": {"provider": "fcm"},
            "expires_at": "2026-11-27T09:00:00Z",
        });
        let text = table(&[one]);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 2);
        assert!(rows[0].starts_with("INSTANCE  APP"));
        assert!(rows[1].contains("registered 200") && rows[1].ends_with("2026-11-27T09:00:00Z"));
        assert!(!text.contains('\u{1b}'));
        assert_eq!(table(&[]).lines().count(), 1);
    }

    #[test]
    fn one_instance_is_told_member_by_member() {
        let one = json!({"instance": "pi_a", "alert_push": null, "registration": {"state": "retrying", "status": 503}});
        assert_eq!(lines(&one), "instance: pi_a\nregistration.state: retrying\nregistration.status: 503\n");
    }
}
