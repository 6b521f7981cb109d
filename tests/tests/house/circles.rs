//! Files of one folder import each other in one direction only.
//!
//! A circle of files is one file in disguise: none of them can be read, tested or moved alone. What counts is a path in a `use` or in an
//! expression (`super::x`, `crate::a::x`), also through a name that the folder's `mod.rs` imports; tests may look wherever they like.
//!
//! Invariant: no circle is let pass.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// A module's path below its crate: `["net", "tls"]`.
type ModulePath = Vec<String>;

#[test]
fn files_of_one_folder_import_in_one_direction() {
    let mut wrong = Vec::new();
    for krate in ["sip", "relay"] {
        for (folder, edges) in Crate::read(krate).imports_between_siblings() {
            for circle in circles(&edges) {
                let place = format!("{krate}/src/{}", folder.join("/"));
                let inside = |(from, to, _): &&Import| circle.contains(from) && circle.contains(to);
                let imports =
                    edges.iter().filter(inside).map(|(from, to, file)| format!("    {from} → {to} in {file}"));
                wrong.push(format!("{place}: a circle\n{}", imports.collect::<Vec<_>>().join("\n")));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_circle_is_found_through_every_kind_of_import() {
    let modules = [
        ("", "pub mod a; pub mod b; pub mod c;"),
        ("a", "mod one; mod two; mod three; use two::Two; pub(super) mod four;"),
        ("a/one", "use super::{Two, three as t}; // use super::four::Four;"),
        ("a/two", "fn f() { let _ = \"super::one::x\"; super::three::g('\\'', crate::a::four::h) }"),
        ("a/three", "use crate::{a::{one::One}, b};"),
        ("a/four", "#[cfg(test)]\nmod tests { use super::super::one::One; }"),
        ("b", "use crate::c::C;"),
        ("c", "use std::{fmt, io::{self, Read}};"),
    ];
    let krate = Crate::of(modules.iter().map(|(path, text)| {
        let path: ModulePath = path.split('/').filter(|it| !it.is_empty()).map(str::to_owned).collect();
        (path, (String::new(), (*text).to_owned()))
    }));
    let found = krate.imports_between_siblings();
    let circles: Vec<_> =
        found.iter().flat_map(|(folder, edges)| circles(edges).into_iter().map(move |it| (folder, it))).collect();
    let [(folder, circle)] = circles.as_slice() else { panic!("{circles:?}") };
    assert_eq!(folder.join("/"), "a");
    assert_eq!(circle.iter().map(String::as_str).collect::<Vec<_>>(), ["one", "three", "two"]);
}

/// A file's name, that of a sibling that it imports, and the file where it does.
type Import = (String, String, String);

/// The library of one crate.
struct Crate {
    modules: BTreeMap<ModulePath, Module>,
}

struct Module {
    file: String,
    /// Every path that its code names, as it is written.
    named: Vec<Vec<String>>,
    /// What a `use` brings into it: the name here, and the path.
    brought: BTreeMap<String, Vec<String>>,
}

impl Crate {
    fn read(krate: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned();
        let source = root.join(krate).join("src");
        let mut files = Vec::new();
        gather(&source, &mut files);
        Self::of(files.into_iter().filter_map(|path| {
            let below = path.strip_prefix(&source).expect("below src").with_extension("");
            let mut module: ModulePath = below.iter().map(|it| it.to_string_lossy().into_owned()).collect();
            let last = module.pop()?;
            match last.as_str() {
                "lib" | "mod" => {}
                "tests" => return None,
                "main" if module.is_empty() => return None,
                _ => module.push(last),
            }
            let of_a_binary = module.first().is_some_and(|it| it == "bin");
            let name = path.strip_prefix(&root).expect("below the workspace").display().to_string();
            (!of_a_binary).then(|| (module, (name, fs::read_to_string(&path).expect("a source file"))))
        }))
    }

    fn of(files: impl Iterator<Item = (ModulePath, (String, String))>) -> Self {
        Self { modules: files.map(|(path, (file, text))| (path, Module::read(file, &text))).collect() }
    }

    /// For each folder, which of its files (or folders) imports which.
    fn imports_between_siblings(&self) -> BTreeMap<ModulePath, BTreeSet<Import>> {
        let mut found: BTreeMap<ModulePath, BTreeSet<Import>> = BTreeMap::new();
        for (path, module) in &self.modules {
            for named in &module.named {
                let Some(target) = self.absolute(path, named).map(|it| self.locate(&it, 0)) else { continue };
                let shared = path.iter().zip(&target).take_while(|(a, b)| a == b).count();
                if let (Some(from), Some(to)) = (path.get(shared), target.get(shared)) {
                    let import = (from.clone(), to.clone(), module.file.clone());
                    found.entry(path[..shared].to_vec()).or_default().insert(import);
                }
            }
        }
        found
    }

    /// The path from the crate's root; none for another crate.
    fn absolute(&self, module: &[String], named: &[String]) -> Option<Vec<String>> {
        let first = named.first()?;
        if first == "crate" {
            return Some(named[1..].to_vec());
        }
        let supers = named.iter().take_while(|it| *it == "super").count();
        let own = supers == 0 && first == "self";
        let child = || self.modules.contains_key(&[module, &named[..1]].concat());
        if supers == 0 && !own && !child() {
            return None;
        }
        let base = module.len().checked_sub(supers)?;
        Some([&module[..base], &named[supers + usize::from(own)..]].concat())
    }

    /// The module that a path leads to, through what modules bring in.
    fn locate(&self, path: &[String], depth: usize) -> ModulePath {
        let mut at = 0;
        while at < path.len() && self.modules.contains_key(&path[..=at]) {
            at += 1;
        }
        let here = &path[..at];
        let brought = path.get(at).and_then(|name| self.modules.get(here)?.brought.get(name));
        match brought.and_then(|brought| self.absolute(here, brought)) {
            Some(target) if depth < 8 => self.locate(&[&target, &path[at + 1..]].concat(), depth + 1),
            _ => here.to_vec(),
        }
    }
}

impl Module {
    fn read(file: String, text: &str) -> Self {
        let tokens = tokens(without_tests(text));
        let (mut named, mut brought) = (Vec::new(), BTreeMap::new());
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at] == "use" {
                let end = at + tokens[at..].iter().position(|it| it == ";").unwrap_or(tokens.len() - at);
                let mut place = at + 1;
                use_tree(&tokens[..end], &mut place, &[], &mut |path, name| {
                    brought.insert(name.to_owned(), path.clone());
                    named.push(path);
                });
                at = end;
                continue;
            }
            let starts = matches!(tokens[at].as_str(), "super" | "crate" | "self");
            if starts && tokens.get(at + 1).is_some_and(|it| it == "::") {
                let mut path = vec![tokens[at].clone()];
                while tokens.get(at + 1).is_some_and(|it| it == "::")
                    && tokens.get(at + 2).is_some_and(|it| is_name(it))
                {
                    path.push(tokens[at + 2].clone());
                    at += 2;
                }
                named.push(path);
            }
            at += 1;
        }
        Self { file, named, brought }
    }
}

/// Walks `a::{b, c as d}` and tells each path with the name that it gets.
fn use_tree(tokens: &[String], at: &mut usize, before: &[String], tell: &mut dyn FnMut(Vec<String>, &str)) {
    let mut path = before.to_vec();
    while let Some(token) = tokens.get(*at) {
        *at += 1;
        match token.as_str() {
            "::" => {}
            "{" => {
                while tokens.get(*at).is_some_and(|it| it != "}") {
                    use_tree(tokens, at, &path, tell);
                    if tokens.get(*at).is_some_and(|it| it == ",") {
                        *at += 1;
                    }
                }
                *at += 1;
                return;
            }
            "*" => return tell(path, "*"),
            "as" => {
                let name = tokens.get(*at).cloned().unwrap_or_default();
                *at += 1;
                return tell(path, &name);
            }
            "self" if !path.is_empty() => {}
            _ => path.push(token.clone()),
        }
        if tokens.get(*at).is_none_or(|it| it == "," || it == "}") {
            let name = path.last().cloned().unwrap_or_default();
            return tell(path, &name);
        }
    }
}

/// The code before the tests at its end.
fn without_tests(text: &str) -> &str {
    match text.find("#[cfg(test)]\nmod tests {") {
        Some(at) => &text[..at],
        None => text,
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::` and single signs; comments and literals are left out.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let size = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(size) = literal(rest) {
            size
        } else if is_name(rest) {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(rest[..end].to_owned());
            end
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[size..];
    }
    tokens
}

/// The length of a string or of a character at the beginning.
fn literal(text: &str) -> Option<usize> {
    let raw = text.trim_start_matches('b');
    if let Some(raw) = raw.strip_prefix('r').filter(|_| text.len() - raw.len() <= 1) {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = text.len() - raw.len() + hashes + 1;
            return Some(text[start..].find(&end).map_or(text.len(), |at| start + at + end.len()));
        }
    }
    let quoted = text.strip_prefix('b').unwrap_or(text);
    let before = text.len() - quoted.len();
    if quoted.starts_with('"') {
        return Some(before + closing(quoted, '"'));
    }
    // A lifetime has no second quote.
    let mut chars = quoted.strip_prefix('\'')?.chars();
    match chars.next()? {
        '\\' => Some(before + closing(quoted, '\'')),
        _ if chars.next() == Some('\'') => Some(before + closing(quoted, '\'')),
        _ => None,
    }
}

/// The length up to the second `quote`, with escapes.
fn closing(quoted: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in quoted.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    quoted.len()
}

/// The groups of files that reach each other.
fn circles(imports: &BTreeSet<Import>) -> Vec<BTreeSet<String>> {
    let reach = |from: &str| {
        let mut reached = BTreeSet::new();
        let mut open = vec![from.to_owned()];
        while let Some(file) = open.pop() {
            for (_, to, _) in imports.iter().filter(|(from, ..)| *from == file) {
                if reached.insert(to.clone()) {
                    open.push(to.clone());
                }
            }
        }
        reached
    };
    let files: BTreeSet<&String> = imports.iter().flat_map(|(from, to, _)| [from, to]).collect();
    let reached: BTreeMap<&str, BTreeSet<String>> = files.iter().map(|file| (file.as_str(), reach(file))).collect();
    let mut found: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for (file, reaches) in &reached {
        let circle: BTreeSet<String> =
            reaches.iter().filter(|other| reached[other.as_str()].contains(*file)).cloned().collect();
        if !circle.is_empty() {
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("a folder entry").path();
        if path.is_dir() {
            gather(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
