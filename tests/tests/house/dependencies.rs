//! What `deny.toml` says of dependencies: licences, banned crates, one version of each cryptographic crate, sources.
//!
//! The rules are read from the file that cargo-deny reads, and held without it: a check that needs another tool and a network is
//! one that is skipped. `[advisories]` alone is left to cargo-deny.
//!
//! Invariant: a key of `deny.toml` that is not held here fails; so nothing in that file is only written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// The parts of `deny.toml` that are held here; an unknown key is an error.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Rules {
    #[serde(rename = "advisories")]
    _advisories: toml::Table,
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Bans {
    multiple_versions: String,
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Ban {
    /// A name, or `name:<version`.
    #[serde(rename = "crate")]
    spec: String,
    #[serde(default)]
    deny_multiple_versions: bool,
    reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Sources {
    unknown_registry: String,
    unknown_git: String,
    allow_registry: Vec<String>,
}

/// A crate that is compiled for this machine, tests and build scripts included.
struct Dependency {
    name: String,
    version: String,
    license: String,
}

#[test]
fn every_dependency_has_a_licence_that_may_be_used() {
    let allowed = rules().licenses.allow;
    let wrong: Vec<_> = dependencies()
        .into_iter()
        .filter(|it| !permits(&it.license, &allowed))
        .map(|it| format!("{} {}: {:?}", it.name, it.version, it.license))
        .collect();
    assert!(wrong.is_empty(), "no licence that deny.toml allows:\n{}", wrong.join("\n"));
}

#[test]
fn no_banned_crate_is_compiled_and_cryptography_has_one_version() {
    let bans = rules().bans;
    assert_eq!(bans.multiple_versions, "allow", "what else it says is held by cargo-deny alone");
    let dependencies = dependencies();
    let mut wrong = Vec::new();
    for ban in &bans.deny {
        let (name, requirement) = ban.spec.split_once(':').unwrap_or((&ban.spec, ""));
        let met: Vec<_> = dependencies.iter().filter(|it| it.name == name).map(|it| it.version.as_str()).collect();
        if ban.deny_multiple_versions {
            match met.len() {
                0 => wrong.push(format!("{name}: not used any more, so its line in deny.toml says nothing")),
                1 => {}
                _ => wrong.push(format!("{name}: more than one version: {}", met.join(", "))),
            }
        } else if let Some(version) = met.into_iter().find(|version| is_below(version, requirement)) {
            wrong.push(format!("{name} {version}: {}", ban.reason.as_deref().unwrap_or("banned")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_dependency_comes_from_a_known_registry_with_its_checksum() {
    let sources = rules().sources;
    assert_eq!((sources.unknown_registry.as_str(), sources.unknown_git.as_str()), ("deny", "deny"));
    let mut wrong = Vec::new();
    for lock in ["Cargo.lock", "sip/fuzz/Cargo.lock", "relay/fuzz/Cargo.lock"] {
        let lock: toml::Table = read(lock).parse().expect("a lock file");
        for package in lock["package"].as_array().expect("packages") {
            let Some(source) = package.get("source").and_then(|source| source.as_str()) else { continue };
            let known =
                source.strip_prefix("registry+").is_some_and(|it| sources.allow_registry.iter().any(|ok| ok == it));
            if !known || package.get("checksum").is_none() {
                wrong.push(format!("{}: {source}", package["name"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_fuzz_workspaces_lock_the_versions_of_the_product() {
    let product = locked("Cargo.lock");
    for krate in ["sip", "relay"] {
        let place = format!("{krate}/fuzz");
        let own = locked(&format!("{place}/Cargo.lock"));
        let names: BTreeSet<&String> = product.iter().map(|(name, _)| name).collect();
        let other: Vec<_> = own.difference(&product).filter(|(name, _)| names.contains(name)).collect();
        assert!(other.is_empty(), "{place} locks other versions than the product; `cargo update` there: {other:?}");
    }
}

#[test]
fn licence_expressions_are_read_as_spdx_has_them() {
    let allowed = ["MIT".to_owned(), "ISC".to_owned()];
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("MIT OR GPL-3.0 AND Zlib", true),
        ("(MIT OR GPL-3.0) AND ISC", true),
        ("ISC AND (GPL-3.0 OR Zlib)", false),
        ("MIT WITH Something-exception", false),
    ] {
        assert_eq!(permits(expression, &allowed), expected, "{expression}");
    }
    assert!(is_below("0.23.17", "<0.23.18") && !is_below("0.23.18", "<0.23.18") && !is_below("0.100.0", "<0.23.18"));
    assert!(is_below("9.9.9", ""), "without a version all are meant");
}

/// Whether an SPDX expression is met by the allowed licences: OR of ANDs, with parentheses; `/` is an older OR.
fn permits(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any_of(&words, &mut at, allowed);
    met && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at, allowed);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let word = words.get(*at).copied().unwrap_or_default();
    *at += 1;
    if word == "(" {
        let met = any_of(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return met && closed;
    }
    let mut license = word.to_owned();
    if let [Some(&"WITH"), Some(exception)] = [words.get(*at), words.get(*at + 1)] {
        license = format!("{word} WITH {exception}");
        *at += 2;
    }
    allowed.contains(&license)
}

/// Whether `version` is below that of `<version`; every version is, when none is named.
fn is_below(version: &str, requirement: &str) -> bool {
    let numbers = |text: &str| text.split(['.', '-', '+']).map(|it| it.parse().unwrap_or(0)).collect::<Vec<u64>>();
    match requirement.strip_prefix('<') {
        Some(limit) => numbers(version) < numbers(limit),
        None => {
            assert!(requirement.is_empty(), "{requirement}: only `<version` is understood");
            true
        }
    }
}

/// What cargo compiles for this machine; `cargo metadata` would also name what no feature asks for.
fn dependencies() -> Vec<Dependency> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--workspace", "--edges", "normal,build,dev", "--prefix", "none", "--locked", "--offline"])
        .args(["--format", "{p}|{l}"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let mut lines: Vec<&str> = text.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    lines.sort_unstable();
    lines.dedup();
    let dependencies: Vec<_> = lines.into_iter().filter(|line| !line.is_empty()).map(dependency).collect();
    assert!(dependencies.len() > 100, "cargo tree said little: {text}");
    dependencies
}

/// `name v1.2.3 (proc-macro)|MIT`
fn dependency(line: &str) -> Dependency {
    let (package, license) = line.split_once('|').expect("a package and its licence");
    let mut words = package.split(' ');
    let name = words.next().expect("a name").to_owned();
    let version = words.next().and_then(|it| it.strip_prefix('v')).expect("a version").to_owned();
    Dependency { name, version, license: license.to_owned() }
}

/// The packages of a lock file, with their versions.
fn locked(path: &str) -> BTreeSet<(String, String)> {
    let lock: toml::Table = read(path).parse().expect("a lock file");
    let text = |value: &toml::Value| value.as_str().unwrap_or_default().to_owned();
    let packages = lock["package"].as_array().expect("packages");
    packages.iter().map(|package| (text(&package["name"]), text(&package["version"]))).collect()
}

fn rules() -> Rules {
    toml::from_str(&read("deny.toml")).expect("deny.toml says what is held here, and no more")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}
