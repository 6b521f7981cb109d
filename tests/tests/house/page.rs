//! Pages that are made from what the code says of itself.
//!
//! Invariant: a page that is stale fails; with `SIPWAKE_REWRITE=1` it is written.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The variable that has pages written.
const REWRITE: &str = "SIPWAKE_REWRITE";

/// Whether the page is the one that is made, but for blank lines.
pub fn is_current(page: &str, mut made: String) {
    while made.contains("\n\n\n") {
        made = made.replace("\n\n\n", "\n\n");
    }
    made.truncate(made.trim_end().len());
    made.push('\n');
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page);
    if std::env::var_os(REWRITE).is_some() {
        fs::write(&file, &made).unwrap_or_else(|error| panic!("{page}: {error}"));
    }
    let there = fs::read_to_string(&file).unwrap_or_default();
    assert!(there == made, "{page} is stale: {REWRITE}=1 cargo test -p tests --test house reference");
}

pub fn code(word: &str) -> String {
    format!("`{word}`")
}

pub fn section(page: &mut String, title: &str) {
    let _ = writeln!(page, "\n## {title}\n");
}

pub fn table(page: &mut String, head: &str) {
    let _ = writeln!(page, "| {head} |\n|{}", " --- |".repeat(head.split('|').count()));
}

/// A row; a bar within a cell would end it.
pub fn row(page: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    let _ = writeln!(page, "| {} |", cells.join(" | "));
}
