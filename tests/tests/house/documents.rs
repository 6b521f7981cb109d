//! What the documents say of this repository is there: files, headings and tests.
//!
//! Invariant: a link or a path that leads nowhere fails, and so does a threat whose test does not exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What a command makes, and git ignores.
const MADE: &[&str] = &["certs/dev/"];

/// Folders whose contents are named in documents by a path.
const FOLDERS: &[&str] = &["sip/", "relay/", "tests/", "docs/", "docker/", "certs/"];

/// The lines that the first page may have: what is read without a search.
const FIRST_PAGE_MAX: usize = 64;

/// The readers of the changelog, by its headings.
const READERS: &[&str] = &["Apps", "SIP servers", "Operators", "Configuration", "Security"];

/// The characters of a line of the changelog.
const LINE_OF_CHANGELOG_MAX: usize = 200;

#[test]
fn links_and_paths_lead_somewhere() {
    let root = root();
    let mut wrong = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a document");
        let folder = document.parent().expect("a folder");
        for target in links(&text) {
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { document.clone() } else { folder.join(file) };
            let found = file.exists() && (heading.is_empty() || headings(&file).contains(heading));
            if !found {
                wrong.push(format!("{}: [{target}]", document.display()));
            }
        }
        for path in code(&text).filter(|it| FOLDERS.iter().any(|below| it.starts_with(below))) {
            // A word that stands for many, or a command with arguments, is no path.
            let names_many = path.contains([' ', '*', '{', '<', '…']) || path.contains("NAME");
            let made = MADE.iter().any(|made| path.starts_with(made));
            if !names_many && !made && !root.join(path).exists() && !folder.join(path).exists() {
                wrong.push(format!("{}: `{path}`", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A password, a token or a receipt that a page has its reader write is not to end in a commit.
#[test]
fn git_ignores_what_the_pages_have_their_reader_write() {
    let ignored = fs::read_to_string(root().join(".gitignore")).expect(".gitignore");
    let ignored: BTreeSet<&str> = ignored.lines().map(|line| line.trim_matches('/')).collect();
    let mut found = BTreeSet::new();
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a document");
        for line in text.split("```").skip(1).step_by(2).flat_map(str::lines) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let written = words.windows(2).filter(|pair| matches!(pair[0], ">" | "2>" | "&>" | "-o" | "-out"));
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
            let files =
                written.map(|pair| pair[1]).filter(|file| file.chars().all(plain) && !file.starts_with(['/', '-']));
            found.extend(files.filter(|file| file.contains(char::is_alphabetic)).map(|file| file.to_owned()));
        }
    }
    let begin = |file: &str| file.split('/').next().unwrap_or_default().to_owned();
    let loose: Vec<&String> =
        found.iter().filter(|file| !ignored.contains(&*begin(file)) && !file.starts_with("certs/dev/")).collect();
    assert!(found.len() > 5, "{found:?}");
    assert!(loose.is_empty(), ".gitignore lacks {loose:?}");
}

#[test]
fn the_first_page_is_short_and_every_page_is_found_from_another() {
    let first = fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(first.lines().count() <= FIRST_PAGE_MAX, "README.md has {} lines", first.lines().count());
    let mut linked = BTreeSet::new();
    for document in documents() {
        let text = fs::read_to_string(&document).expect("a document");
        let files =
            links(&text).map(|target| target.split('#').next().unwrap_or_default()).filter(|file| !file.is_empty());
        let others = files.filter_map(|file| document.parent()?.join(file).canonicalize().ok());
        linked.extend(others.filter(|other| *other != document));
    }
    let pages = documents().into_iter().filter(|it| it.parent().is_some_and(|folder| folder == root().join("docs")));
    let lost: Vec<PathBuf> = pages.filter(|page| !linked.contains(page)).collect();
    assert!(lost.is_empty(), "nobody links to {lost:?}");
}

/// A reader of a new version looks for what concerns them, and not for how it came to be.
#[test]
fn the_changelog_has_short_lines_under_the_headings_of_its_readers() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).expect("CHANGELOG.md");
    let (mut heading, mut wrong) = ("", Vec::new());
    for line in text.lines() {
        match line.strip_prefix("### ") {
            Some(reader) if READERS.contains(&reader) => heading = reader,
            Some(reader) => wrong.push(format!("{reader:?} is no heading of the changelog")),
            None if line.starts_with("## ") => heading = "",
            None if line.starts_with("- ") && heading.is_empty() => wrong.push(format!("under no heading: {line}")),
            None if line.starts_with("- ") && line.chars().count() > LINE_OF_CHANGELOG_MAX => {
                wrong.push(format!("longer than {LINE_OF_CHANGELOG_MAX} characters: {line}"));
            }
            None => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_promise_and_every_kept_thing_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("docs/privacy.md")).expect("docs/privacy.md");
    for (heading, few) in [("Promises", 6), ("Retention", 8)] {
        let table = text.split("\n## ").find(|section| section.starts_with(heading)).expect("the table");
        let (told, tests) = table.split_once("<details>").expect("the tests");
        let rows: Vec<&str> = tests.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
        let kept = told
            .lines()
            .filter(|line| line.starts_with("- "))
            .count()
            .max(told.lines().filter(|line| line.starts_with("| ")).skip(2).count());
        assert!(rows.len() > few, "few rows: {rows:?}");
        assert_eq!(rows.len(), kept, "{heading}: a row of tests for each");
        assert_eq!(tests_that_are_missing(&rows), [] as [String; 0]);
    }
}

#[test]
fn every_border_and_every_threat_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let section = |heading: &str| text.split("\n## ").find(|it| it.starts_with(heading)).expect("the section");
    let borders: Vec<&str> = section("Borders").lines().filter(|line| line.starts_with("| **")).collect();
    assert!(borders.len() > 6, "few rows: {borders:?}");
    let mut wrong = tests_that_are_missing(&borders);

    // Each attacker has a heading, what can and cannot be done, and the tests of it as a list.
    let attackers: Vec<&str> = section("Threats").split("\n### ").skip(1).collect();
    assert!(attackers.len() > 10, "few attackers: {attackers:?}");
    let functions = functions();
    for attacker in attackers {
        let name = attacker.lines().next().unwrap_or_default();
        if !attacker.contains("\nCan:\n- ") || !attacker.contains("\nCannot:\n- ") {
            wrong.push(format!("{name}: no list of what can and what cannot be done"));
        }
        let shown: Vec<&str> =
            attacker.lines().filter_map(|line| line.strip_prefix("- `")?.strip_suffix('`')).collect();
        if shown.is_empty() || !attacker.contains(&format!("Shown by {} tests", shown.len())) {
            wrong.push(format!("{name}: shown by {} tests, or by none", shown.len()));
        }
        wrong.extend(
            shown.iter().filter(|it| !functions.contains(**it)).map(|it| format!("{name}: no such test: {it}")),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the last cell of each row of a table names that is no test, and rows that name none.
fn tests_that_are_missing(rows: &[&str]) -> Vec<String> {
    let functions = functions();
    let mut wrong = Vec::new();
    for row in rows {
        let shown = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
        if code(shown).next().is_none() {
            wrong.push(format!("no test: {row}"));
        }
        wrong.extend(code(shown).filter(|name| !functions.contains(*name)).map(|name| format!("no such test: {name}")));
    }
    wrong
}

/// Every function of the workspace.
fn functions() -> BTreeSet<String> {
    let mut files = Vec::new();
    for krate in ["sip", "relay", "tests"] {
        for part in ["src", "tests"].map(|part| root().join(krate).join(part)).iter().filter(|it| it.is_dir()) {
            gather(part, "rs", &mut files);
        }
    }
    let mut found = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source file");
        for rest in text.split("fn ").skip(1) {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            found.insert(rest[..end].to_owned());
        }
    }
    found
}

/// The targets of `[…](…)` that stay in the repository.
fn links(text: &str) -> impl Iterator<Item = &str> {
    prose(text).flat_map(|line| line.split("](").skip(1)).filter_map(|rest| {
        let target = rest.split(')').next()?;
        (!target.contains("://") && !target.starts_with("mailto:")).then_some(target)
    })
}

/// What stands between backticks in a line.
fn code(text: &str) -> impl Iterator<Item = &str> {
    prose(text).flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The lines outside fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut fenced = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// The anchors of a document's headings, as the forges make them.
fn headings(file: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let headings = prose(&text).filter(|line| line.starts_with('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        title
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .collect::<String>()
            .replace(' ', "-")
    });
    headings.collect()
}

fn documents() -> Vec<PathBuf> {
    let root = root();
    let mut found: Vec<PathBuf> = fs::read_dir(&root)
        .expect("the workspace")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|it| it == "md"))
        .collect();
    for folder in ["docs", "docker", "certs", "sip", "relay/src", "relay/fuzz"] {
        gather(&root.join(folder), "md", &mut found);
    }
    found
}

fn gather(folder: &Path, extension: &str, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            gather(&path, extension, files);
        } else if path.extension().is_some_and(|it| it == extension) {
            files.push(path);
        }
    }
}

fn root() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    workspace.canonicalize().expect("the workspace")
}
