//! The house's own rules: which floor may import which, what a file opens with, which names are not used.
//!
//! Invariant: the floors here are those of `sip/src/lib.rs` and `relay/src/lib.rs`; a module that is not listed fails.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str;

/// Each crate's modules with their floor; a module imports from its own floor or a lower one.
const SIP: &[(&str, u8)] = &[
    ("message", 0),
    ("id", 0),
    ("bucket", 0),
    ("random", 0),
    ("timers", 0),
    ("auth", 1),
    ("transaction", 1),
    ("timing", 1),
    ("flow", 2),
    ("registration", 2),
    ("subscription", 2),
    ("edge", 3),
    ("endpoint", 4),
    ("lib", 5),
];
const RELAY: &[(&str, u8)] = &[
    ("aside", 0),
    ("clock", 0),
    ("config", 0),
    ("cores", 0),
    ("domain", 0),
    ("file_owner", 0),
    ("hpke", 0),
    ("lock", 0),
    ("log", 0),
    ("log_filter", 0),
    ("metrics", 0),
    ("outage", 0),
    ("process", 0),
    ("random", 0),
    ("regular_file", 0),
    ("secret", 0),
    ("systemd", 0),
    ("timing", 0),
    ("audit", 1),
    ("limits", 1),
    ("vault", 1),
    ("otlp", 1),
    ("push", 1),
    ("net", 1),
    ("agent", 2),
    ("acme", 2),
    ("development", 2),
    ("softphone", 2),
    ("doctor", 3),
    ("service", 3),
    ("api", 4),
    ("operator", 4),
    ("serve", 5),
    ("cli", 5),
    ("main", 6),
    ("lib", 6),
];

/// What the top level holds; anything else has a room further down, or is ignored by git.
const TOP: &[&str] = &[
    ".ci",
    ".github",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "certs",
    "deny.toml",
    "docker",
    "docs",
    "relay",
    "rustfmt.toml",
    "sip",
    "tests",
];

/// How libFuzzer names the inputs that it found.
const FINDINGS: &[&str] = &["crash-", "leak-", "oom-", "slow-unit-", "timeout-"];

/// Names that say nothing about what is inside.
const BANNED: &[&str] = &["utils", "util", "common", "common_types", "helpers", "helper", "manager", "misc", "types"];

/// Children from which on a folder has a map.
const MAPPED_FROM: usize = 6;

/// Lines that a file may have before it must be two rooms.
const LINES_MAX: usize = 700;

#[test]
fn imports_point_downward_only() {
    let mut wrong = Vec::new();
    for (krate, floors) in [("sip", SIP), ("relay", RELAY)] {
        for (path, text) in sources(krate) {
            let own = module_of(krate, &path);
            let Some(floor) = floor_of(floors, &own) else {
                wrong.push(format!("{}: `{own}` is on no floor of {krate}/src/lib.rs", path.display()));
                continue;
            };
            for (number, line) in text.lines().enumerate() {
                for used in crate_paths(line) {
                    if floor_of(floors, used).is_some_and(|other| other > floor) {
                        wrong.push(format!("{}:{}: {own} imports {used}, which is above", path.display(), number + 1));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_protocol_knows_neither_the_service_nor_sockets_nor_the_clock() {
    let mut wrong = Vec::new();
    for (path, text) in sources("sip").into_iter().filter(|(path, _)| !path.ends_with("tests.rs")) {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in code.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for banned in ["relay::", "tokio", "std::thread", "UdpSocket", "TcpStream", "Instant::now", "SystemTime"] {
                if line.contains(banned) {
                    wrong.push(format!("{}:{}: {banned}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_top_level_has_its_rooms_and_nothing_that_was_left_lying() {
    let tracked = Command::new("git").args(["-c", "safe.directory=*", "ls-files"]).current_dir(root()).output();
    let tracked = tracked.expect("git is not here: apt-get install git").stdout;
    let strangers: BTreeSet<_> = str::from_utf8(&tracked)
        .unwrap()
        .lines()
        .filter_map(|path| path.split('/').next())
        .filter(|name| !TOP.contains(name))
        .collect();
    assert!(strangers.is_empty(), "committed at the top level, and no room of it: {strangers:?}");
    let findings: Vec<_> = str::from_utf8(&tracked)
        .unwrap()
        .lines()
        .filter(|path| FINDINGS.iter().any(|kind| path.rsplit('/').next().unwrap_or(path).starts_with(kind)))
        .collect();
    assert!(
        findings.is_empty(),
        "what a fuzzer left belongs into the target's corpus, under a name that says what it is: {findings:?}"
    );
}

#[test]
fn every_module_opens_with_what_it_is_for() {
    let missing: Vec<_> = ["sip", "relay", "tests"]
        .into_iter()
        .flat_map(sources)
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(missing.is_empty(), "no //! at the top of:\n{}", missing.join("\n"));
}

#[test]
fn modules_state_what_they_promise() {
    let missing: Vec<_> = ["sip", "relay"]
        .into_iter()
        .flat_map(sources)
        .filter(|(path, text)| !path.ends_with("tests.rs") && !text.contains("//! Invariant:"))
        .filter(|(path, _)| !path.ends_with("lib.rs") && !path.ends_with("main.rs"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(missing.is_empty(), "no `Invariant:` in:\n{}", missing.join("\n"));
}

#[test]
fn names_say_what_is_inside_and_files_are_one_room() {
    let mut wrong = Vec::new();
    for (path, text) in ["sip", "relay", "tests"].into_iter().flat_map(sources) {
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if BANNED.contains(&stem) {
            wrong.push(format!("{}: a name that says nothing", path.display()));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_big_folder_has_a_map_of_its_rooms() {
    let mut wrong = Vec::new();
    for (path, text) in ["sip", "relay"].into_iter().flat_map(sources).filter(|(path, _)| path.ends_with("mod.rs")) {
        let rooms = rooms(&text);
        let map: String = text.lines().filter(|line| line.starts_with("//! |")).collect();
        let is_named =
            |room: &str| [format!("`{room}`"), format!("`mod@{room}`")].iter().any(|name| map.contains(name));
        if rooms.len() >= MAPPED_FROM {
            let missing = rooms.into_iter().filter(|room| !is_named(room));
            wrong.extend(missing.map(|room| format!("{}: `{room}` is not in the table of rooms", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The modules that a file declares in files of their own, those for tests aside.
fn rooms(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut before = "";
    for line in text.lines() {
        let declared = line.split_once("mod ").filter(|(visible, _)| visible.is_empty() || visible.starts_with("pub"));
        let name = declared.and_then(|(_, name)| name.strip_suffix(';'));
        found.extend(name.filter(|_| before != "#[cfg(test)]"));
        before = line;
    }
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every source file of a crate, with its path below the crate.
fn sources(krate: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(krate).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder") {
            let path = entry.expect("a folder entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no sources of {krate}");
    found.sort();
    found
}

/// The top module that a file belongs to.
fn module_of(krate: &str, path: &Path) -> String {
    let below = path.strip_prefix(root().join(krate).join("src")).expect("below src");
    let first = below.components().next().expect("a name").as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn floor_of(floors: &[(&str, u8)], module: &str) -> Option<u8> {
    floors.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// The modules that a line of code names as `crate::module`, the inside of `crate::{…}` included.
fn crate_paths(line: &str) -> Vec<&str> {
    let code = line.split("//").next().unwrap_or_default();
    let mut found = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let list = rest.strip_prefix('{').map_or(rest, |list| list);
        let parts = if rest.starts_with('{') { list.split(',').collect() } else { vec![list] };
        for part in parts {
            let part = part.trim_start();
            let end = part.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(part.len());
            found.push(&part[..end]);
        }
    }
    found
}
