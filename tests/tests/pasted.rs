//! Every page's shell blocks, pasted into one shell from the top of the page to its end, in a checkout of its own.
//!
//! Invariant: a block runs as it stands, but for the ports, which are free ones. In the checkout `cargo` is a stand-in, because
//! what it would build is built, and so is `tests/run`, because it runs this; of `load`, which measures for minutes, the options are tried alone. A line that
//! fails, and a variable that nobody has assigned, fail the page. What a block leaves running ends with its page.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tests::board::Missed;
use tests::child::Child;
use tests::ports;
use tests::relay_process::binary;
use tests::scratch::Scratch;

/// How long a page may take.
const PAGE_WITHIN: Duration = Duration::from_secs(150);

/// The ports that pages name, with the settings of the listeners, where they are the relay's.
const PORTS: [(&str, &[&str]); 7] = [
    ("5061", &["EDGE__LISTEN"]),
    ("5070", &["UPSTREAM__UDP_LISTEN", "UPSTREAM__TCP_LISTEN"]),
    ("5071", &["UPSTREAM__TLS_LISTEN"]),
    ("8443", &["API__LISTEN"]),
    ("9443", &["OPERATOR__LISTEN"]),
    ("5060", &[]),
    ("6379", &[]),
];

/// Every page that has a shell block, by its test.
macro_rules! pages {
    ($($name:ident = $page:literal;)*) => {
        $(
            #[tokio::test]
            async fn $name() -> Result<(), Missed> {
                paste($page).await
            }
        )*
        const PASTED: &[&str] = &[$($page,)*];
    };
}

pages! {
    the_first_page_runs_as_it_is_pasted = "README.md";
    the_page_of_contributors_runs_as_it_is_pasted = "CONTRIBUTING.md";
    the_page_of_app_developers_runs_as_it_is_pasted = "docs/app-developers.md";
    the_page_of_sip_servers_runs_as_it_is_pasted = "docs/sip-servers.md";
    the_page_of_operators_runs_as_it_is_pasted = "docs/operators.md";
    the_page_of_privacy_runs_as_it_is_pasted = "docs/privacy.md";
    the_page_of_measurements_names_options_that_there_are = "docs/performance.md";
}

#[test]
fn no_page_with_a_shell_block_is_left_out() {
    let mut pages: Vec<PathBuf> = Vec::new();
    for folder in ["", "docs", "docker", "certs", "relay/src/config"] {
        let entries = fs::read_dir(root().join(folder)).expect("a folder");
        pages.extend(
            entries
                .map(|entry| entry.expect("an entry").path())
                .filter(|it| it.extension().is_some_and(|it| it == "md")),
        );
    }
    let with_shell: BTreeSet<String> = pages
        .iter()
        .filter(|page| blocks(&fs::read_to_string(page).expect("a page")).iter().any(|block| block.language == "sh"))
        .map(|page| page.strip_prefix(root()).expect("below it").display().to_string())
        .collect();
    assert_eq!(with_shell, PASTED.iter().map(|page| (*page).to_owned()).collect::<BTreeSet<_>>());
}

#[test]
fn every_block_says_what_it_is_and_what_is_data_can_be_read() {
    let settings = settings();
    let mut wrong = Vec::new();
    for page in fs::read_dir(root().join("docs")).expect("docs").map(|entry| entry.expect("an entry").path()) {
        for block in blocks(&fs::read_to_string(&page).expect("a page")) {
            let fault = match block.language.as_str() {
                "sh" | "text" | "swift" | "kotlin" | "xml" | "kamailio" | "opensips" | "ini" | "sip" => None,
                "json" => serde_json::from_str::<serde_json::Value>(&block.text).err().map(|error| error.to_string()),
                "toml" => unknown_setting(&block.text, &settings),
                other => Some(format!("{other:?} is no language of these pages")),
            };
            wrong.extend(fault.map(|fault| format!("{}:{}: {fault}", page.display(), block.line)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The names in the table of settings, without the index of a list.
fn settings() -> BTreeSet<String> {
    let table = include_str!("../../relay/src/config/settings.md");
    let cells = table.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    let mut names = BTreeSet::new();
    for cell in cells {
        // `app[].apns.key_id`, `team_id`
        let mut words = cell.split('`').step_by(2).filter(|word| !word.is_empty());
        let first = words.next().unwrap_or_default().replace("[]", "");
        let section = first.rsplit_once('.').map_or(String::new(), |(section, _)| section.to_owned());
        names.extend(words.map(|word| format!("{section}.{word}")));
        names.insert(first);
    }
    names
}

/// What is wrong with a piece of a configuration: it is no TOML, or names a setting that there is not.
fn unknown_setting(text: &str, settings: &BTreeSet<String>) -> Option<String> {
    fn walk(place: &str, value: &toml::Value, found: &mut Vec<String>) {
        match value {
            toml::Value::Table(table) => table.iter().for_each(|(key, value)| {
                walk(&if place.is_empty() { key.clone() } else { format!("{place}.{key}") }, value, found);
            }),
            toml::Value::Array(array) if array.iter().any(toml::Value::is_table) => {
                array.iter().for_each(|value| walk(place, value, found));
            }
            _ => found.push(place.to_owned()),
        }
    }
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => return Some(error.to_string()),
    };
    let mut found = Vec::new();
    walk("", &toml::Value::Table(table), &mut found);
    found.into_iter().find(|name| !settings.contains(name)).map(|name| format!("{name} is no setting"))
}

/// Pastes a page into a shell.
async fn paste(page: &str) -> Result<(), Missed> {
    let text = fs::read_to_string(root().join(page)).expect("a page");
    let free = PORTS.map(|(port, settings)| (port, ports::free(), settings));
    let mut script = String::from("set -euo pipefail\n");
    for block in blocks(&text).into_iter().filter(|block| block.language == "sh") {
        let pasted = free.iter().fold(block.text, |text, (port, free, _)| with_port(&text, port, *free));
        let _ = write!(script, "printf '\\n%s\\n' '::: {page}:{}'\n{pasted}\n", block.line);
    }
    script += "printf '\\n%s\\n' '::: the end'\n";
    let checkout = checkout()?;
    let mut command = Command::new("bash");
    command.arg(checkout.file("pasted.sh", script)).current_dir(checkout.path());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SIPWAKE_")) {
        command.env_remove(name);
    }
    for (_, port, settings) in &free {
        for setting in *settings {
            command.env(format!("SIPWAKE_{setting}"), format!("127.0.0.1:{port}"));
        }
    }
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:{path}:/usr/sbin:/sbin", checkout.path().join("stand-ins").display()));
    command.env("HOME", checkout.path().join("home")).env_remove("XDG_STATE_HOME").env_remove("RUST_LOG");
    // Each process of the program would read all roots of the system, which no page needs.
    let roots = checkout.file("unused-root.pem", include_str!("../src/unused-root.pem"));
    command.env("SSL_CERT_FILE", roots).env_remove("SSL_CERT_DIR");
    let shell = Child::spawn(command, "bash")?;
    let status = shell.exit(PAGE_WITHIN).await?;
    if status.success() && shell.output().contains("::: the end") {
        return Ok(());
    }
    Err(shell.missed(&format!("{page} to run as it is pasted")))
}

/// The number as a word of its own is another one.
fn with_port(text: &str, port: &str, free: u16) -> String {
    let is_digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
    let mut pasted = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(port) {
        let (before, after) = (&rest[..at], &rest[at + port.len()..]);
        pasted.push_str(before);
        let alone = !is_digit(before.chars().next_back()) && !is_digit(after.chars().next());
        if alone {
            pasted.push_str(&free.to_string());
        } else {
            pasted.push_str(port);
        };
        rest = after;
    }
    pasted + rest
}

/// A folder that looks like a fresh clone whose build is done.
fn checkout() -> Result<Scratch, Missed> {
    let scratch = Scratch::new();
    let at = |name: &str| scratch.path().join(name);
    for folder in ["target/release", "tests", "stand-ins", "home", "certs"] {
        fs::create_dir_all(at(folder)).expect("a folder");
    }
    for there in ["relay", "sip", "docs", "docker"] {
        symlink(root().join(there), at(there)).expect("a link");
    }
    symlink(binary()?, at("target/release/sipwake")).expect("a link");
    // It writes beside itself.
    fs::copy(root().join("certs/make-dev"), at("certs/make-dev")).expect("certs/make-dev");
    let program = |name: &str, text: &str| {
        let file = scratch.file(name, text);
        fs::set_permissions(file, fs::Permissions::from_mode(0o700)).expect("the file is ours");
    };
    program("tests/run", "#!/bin/sh\n");
    program("tests/bench", "#!/bin/sh\n");
    let cargo = include_str!("../src/cargo-stand-in.sh");
    let demo = env!("CARGO_BIN_EXE_demo");
    let cargo = cargo.replace("@DEMO@", demo).replace("@LOAD@", env!("CARGO_BIN_EXE_load"));
    program("stand-ins/cargo", &cargo.replace("@ROOT@", &root().display().to_string()));
    Ok(scratch)
}

/// A fenced block of a page.
struct Block {
    /// The line of its fence.
    line: usize,
    language: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut within: Option<usize> = None;
    for (number, line) in page.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match (line.trim_start().strip_prefix("```"), within) {
            (Some(_), Some(_)) => within = None,
            (Some(language), None) => {
                within = Some(indent);
                found.push(Block { line: number + 1, language: language.trim().to_owned(), text: String::new() });
            }
            (None, Some(indent)) => {
                let block = found.last_mut().expect("its fence was read");
                block.text.push_str(line.get(indent..).unwrap_or_default());
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}
