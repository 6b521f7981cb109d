//! Each line of the log is one event with a stable name, and `docs/logs.md` lists them all.
//!
//! Invariant: the page is made from the sources and from nothing else; one that is stale fails. With `SIPWAKE_REWRITE=1` the test
//! writes it. A message is a fixed sentence, and what differs is a field. No field is written with `Debug`: what a program reads does not change its form with
//! a type in Rust.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use super::page::is_current;

/// Fields that would hold whom or what nobody may read in a log.
const FORBIDDEN: &[&str] = &[
    "from", "to", "caller", "aor", "account", "user", "name", "number", "token", "password", "secret", "key", "body",
    "contact",
];

/// What stands above the table.
const HEAD: &str = "# Logs

Made from the sources; `SIPWAKE_REWRITE=1 cargo test -p tests --test house reference` writes this page.

The relay logs to standard error, a line for each event, as text or with `--log-format json` as JSON. `event` is its stable name, and what a program should look for; the words may change.
`RUST_LOG` sets the level (`RUST_LOG=relay=debug` tells each step of each call); where it says nothing, `INFO` is told, and what it has that is no directive is left out (`log-directive-ignored`). Libraries say what is of level `ERROR`; one that `RUST_LOG` names says more, down to `INFO` (`RUST_LOG=info,hickory_net=warn`). Nobody is named at any level: no address, number, name, token or credential of a person, of an
instance its id alone.

- **A request** has a number, `request`, in the answer's header `x-request-id` and in each line that the relay logs while it answers, also on the node that it is carried to.
- **A call** has the id that its push carries, `call`, in each line from its INVITE to its push and its end; `sipwake calls show` takes it. At `debug`, `call-step` tells each step.
- **What goes wrong again and again** is a line when it begins, one each minute with `times`, how often since the last one, and one when it is over.
- **A relay that does not start** says why: with `--log-format json` by one `not-started` for each problem, as text by lines that begin with `error:`.
- **A panic** is `panic` in JSON, of level `ERROR`, with `thread` and `trace`; as text it is several lines. It is a fault of the relay: please report it.
- **A push that is printed** (`print_pushes`) is `push-printed` in JSON, at any level, with `app`, `service` and `push`; as text it is several lines, for a person.

| event | level | fields | says |
| --- | --- | --- | --- |
";

/// The levels, fields and words of one event.
type Row = (Vec<String>, Vec<String>, Vec<String>);

struct Event {
    name: String,
    level: String,
    fields: Vec<String>,
    says: String,
    place: String,
}

#[test]
fn the_reference_of_the_log_names_each_event_of_the_sources() {
    let (events, mut wrong) = events();
    let varied = events.iter().filter(|event| event.says.is_empty() || event.says.contains('{'));
    wrong.extend(varied.map(|event| format!("{}: the message is no fixed sentence: {:?}", event.place, event.says)));
    assert!(events.len() > 80, "{} events", events.len());
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for event in events {
        if event.name.is_empty() || !event.name.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
            wrong.push(format!("{}: no event = \"stable-name\"", event.place));
        }
        wrong.extend(
            event
                .fields
                .iter()
                .filter(|field| FORBIDDEN.contains(&field.as_str()))
                .map(|field| format!("{}: the field {field}", event.place)),
        );
        let (levels, fields, says) = rows.entry(event.name).or_default();
        for (all, one) in [(levels, vec![event.level]), (fields, event.fields), (says, vec![event.says])] {
            one.into_iter().for_each(|one| {
                if !all.contains(&one) {
                    all.push(one);
                }
            });
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let mut made = HEAD.to_owned();
    for (name, (mut levels, fields, says)) in rows {
        levels.sort();
        let fields: Vec<_> = fields.iter().map(|field| format!("`{field}`")).collect();
        let _ = writeln!(made, "| `{name}` | {} | {} | {} |", levels.join(", "), fields.join(", "), says.join(" · "));
    }
    is_current("docs/logs.md", made);
}

/// Every event of the relay's sources, and what is wrong with its form.
fn events() -> (Vec<Event>, Vec<String>) {
    let (mut events, mut wrong) = (Vec::new(), Vec::new());
    for path in sources(&root().join("relay/src")) {
        let text = fs::read_to_string(&path).expect("a source file");
        // A line for tests alone may stand among the others.
        let is_of_tests = |(at, mark): &(usize, &str)| {
            text[at + mark.len()..].lines().next().is_some_and(|line| line.contains("mod tests"))
        };
        let end = text.match_indices("\n#[cfg(test)]\n").find(is_of_tests).map_or(text.len(), |(at, _)| at);
        let code = &text[..end];
        let short = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
        for (at, _) in code.match_indices("tracing::") {
            let rest = &code[at + "tracing::".len()..];
            let Some((level, _)) = rest.split_once("!(") else { continue };
            if !["error", "warn", "info", "debug", "trace"].contains(&level) {
                continue;
            }
            let place = format!("{short}:{}", code[..at].lines().count());
            let inside = balanced(&rest[level.len() + 2..]);
            let (mut name, mut says, mut fields) = (String::new(), String::new(), Vec::new());
            for part in parts(inside) {
                let (field, value) = part.split_once(" = ").unwrap_or((part.as_str(), part.as_str()));
                if part.starts_with('"') {
                    let line: Vec<&str> =
                        part.trim_matches('"').split_whitespace().filter(|word| *word != "\\").collect();
                    says = line.join(" ");
                } else if field == "event" {
                    name = value.trim_matches('"').to_owned();
                } else if value.starts_with('?') || field.starts_with('?') {
                    wrong.push(format!("{place}: {part} is written with Debug"));
                } else if says.is_empty() {
                    fields.push(field.trim_start_matches('%').rsplit('.').next().unwrap_or(field).to_owned());
                }
            }
            events.push(Event { name, level: level.to_owned(), fields, says, place });
        }
    }
    (events, wrong)
}

/// What stands before the parenthesis that closes.
fn balanced(text: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (1, false, false);
    for (at, char) in text.char_indices() {
        match char {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &text[..at];
        }
    }
    text
}

/// The arguments of a macro.
fn parts(text: &str) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    for char in text.chars() {
        match char {
            ',' if depth == 0 && !quoted => parts.push(std::mem::take(&mut part)),
            _ => part.push(char),
        }
        match char {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '(' | '[' | '{' if !quoted => depth += 1,
            ')' | ']' | '}' if !quoted => depth -= 1,
            _ => {}
        }
    }
    parts.push(part);
    parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}
