//! A TOML table that is read key by key and complains about what it does not like.
//!
//! Invariant: reading never stops at a problem. Every key that was not asked for is reported by [`Reader::finish`],
//! with the nearest known name when there is one. A value's text is repeated only by settings that hold no secret.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::{Table, Value};
use zeroize::Zeroizing;

use super::effective;
use super::environment::Origins;
use super::lines::Lines;
use super::problem::Problem;
use super::secret_files::{Held, SecretFiles};
use super::values;
use crate::regular_file::{self, BYTE_ORDER_MARK, MAX_SECRET};
use crate::secret::{ApiKey, MAX_KEY, SecretText};

/// The shortest key or token accepted, in characters.
pub(super) const MIN_KEY: usize = 16;

/// The remedy for a secret that anybody may make up.
const RANDOM: &str = "put a random secret there, for example from: openssl rand -hex 32";

/// A value with fewer bytes is no key.
const NO_SECRET: usize = 16;

/// The state that all readers of one configuration share.
pub(super) struct Shared {
    /// The folder that relative paths start from.
    pub directory: PathBuf,
    /// The folder where systemd has put the files that it hands over.
    pub credentials: Option<PathBuf>,
    /// The files read in place of others, by the path where they were handed over.
    pub handed_over: RefCell<BTreeMap<PathBuf, PathBuf>>,
    /// The settings that came from the environment.
    pub origins: Origins,
    /// The problems so far.
    pub problems: RefCell<Vec<Problem>>,
    /// Allowed settings that deserve a word.
    pub cautions: RefCell<Vec<Problem>>,
    /// The line of each setting in the file.
    pub lines: Lines,
    /// The places that were asked for.
    pub asked: RefCell<Vec<String>>,
    /// The settings, as the file would have them.
    pub set: RefCell<HashMap<String, String>>,
    /// The files that hold secrets, so far.
    pub secret_files: RefCell<SecretFiles>,
}

/// One table of the configuration.
pub(super) struct Reader<'a> {
    shared: &'a Shared,
    prefix: String,
    table: Table,
    asked: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// Reads `table`, whose keys are found under `prefix` (empty, or ending in a dot).
    pub fn new(shared: &'a Shared, prefix: String, table: Table) -> Self {
        Self { shared, prefix, table, asked: Vec::new() }
    }

    /// Reports every key that nobody asked for.
    pub fn finish(self) {
        for key in self.table.keys() {
            let near = self.asked.iter().find(|known| is_near(known, key));
            let remedy = match near {
                Some(known) => format!("did you mean {known:?}?"),
                None => format!("remove it; known here: {}", self.asked.join(", ")),
            };
            self.problem(key, "is not a setting", remedy);
        }
    }

    /// Reports what is wrong with `key`.
    pub fn problem(&self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        let problem = Problem::new(&self.place(key), what, remedy).at_line(self.line(key));
        self.shared.problems.borrow_mut().push(problem);
    }

    /// Says what `key` means although it is allowed.
    pub fn caution(&self, key: &str, what: impl Into<String>, remedy: impl Into<String>) {
        let caution = Problem::new(&self.place(key), what, remedy).at_line(self.line(key));
        self.shared.cautions.borrow_mut().push(caution);
    }

    /// Whether `key` is set and not yet read.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Marks `key` as known although nobody reads it now.
    pub fn known(&mut self, key: &'static str) {
        self.asked.push(key);
        self.shared.asked.borrow_mut().push(format!("{}{key}", self.prefix));
    }

    /// Takes `key` as known without looking at its value.
    pub fn ignore(&mut self, key: &'static str) {
        let _ = self.take(key);
    }

    /// The folder that relative paths start from.
    pub fn directory(&self) -> &Path {
        &self.shared.directory
    }

    /// The table under `key`; `None` when it is not there.
    pub fn section(&mut self, key: &'static str) -> Option<Reader<'a>> {
        match self.take(key)? {
            Value::Table(table) => Some(Reader::new(self.shared, format!("{}{key}.", self.prefix), table)),
            _ => {
                self.problem(key, "is not a section", format!("write it as [{}{key}]", self.prefix));
                None
            }
        }
    }

    /// The table under `key`, an empty one when it is not there.
    pub fn section_or_empty(&mut self, key: &'static str) -> Reader<'a> {
        let empty = Reader::new(self.shared, format!("{}{key}.", self.prefix), Table::new());
        self.section(key).unwrap_or(empty)
    }

    /// The tables of the array under `key`, at most `max`.
    pub fn sections(&mut self, key: &'static str, max: usize) -> Vec<Reader<'a>> {
        let Some(value) = self.take(key) else { return Vec::new() };
        let tables =
            value.as_array().map(|array| array.iter().filter_map(Value::as_table).cloned().collect::<Vec<_>>());
        match tables {
            Some(tables) if tables.len() > max => {
                self.problem(key, format!("is there {} times", tables.len()), format!("keep it to {max}"));
                Vec::new()
            }
            Some(tables) if Some(tables.len()) == value.as_array().map(Vec::len) => tables
                .into_iter()
                .enumerate()
                .map(|(index, table)| Reader::new(self.shared, format!("{}{key}[{index}].", self.prefix), table))
                .collect(),
            _ => {
                self.problem(key, "is not a list of sections", format!("write each as [[{key}]]"));
                Vec::new()
            }
        }
    }

    /// A text; `None` when it is absent or no text (which is reported).
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => {
                self.problem(key, format!("is {}, not a text", a_kind(&other)), "write it in quotes");
                None
            }
        }
    }

    /// A text read by `parse` that must be there.
    pub fn required_parsed<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.require(key, &format!("write {wanted}"));
        self.optional(key, wanted, parse)
    }

    /// The path of a file that can be opened and must be named; an empty path when there is a problem.
    pub fn required_file(&mut self, key: &'static str, remedy: &str) -> PathBuf {
        self.require(key, remedy);
        self.file(key).unwrap_or_default()
    }

    /// The content of a secret file that must be named.
    pub fn required_secret(&mut self, key: &'static str, min: usize, remedy: &str) -> Option<SecretText> {
        self.require(key, remedy);
        self.secret(key, min)
    }

    /// A key that must be named and that somebody shows in an HTTP header: visible ASCII, at least `min` and at most [`MAX_KEY`] characters.
    pub fn required_key(&mut self, key: &'static str, min: usize, remedy: &str) -> Option<SecretText> {
        let secret = self.required_secret(key, min, remedy)?;
        let Some(what) = why_nobody_can_show(secret.expose()) else { return Some(secret) };
        self.problem(key, format!("the key in its file {what}, and nobody can show it"), remedy);
        None
    }

    /// A secret file that must be there, for who reads it again: its path, and its content to be looked at.
    pub fn required_secret_file(
        &mut self,
        key: &'static str,
        held: Held,
        remedy: &str,
    ) -> Option<(PathBuf, SecretText)> {
        self.require(key, remedy);
        let path = self.path(key)?;
        self.holds(key, &path, held);
        Some((path.clone(), self.secret_at(key, &path, 1, remedy)?))
    }

    /// Notes that the file holds a secret, and reports one that holds another already.
    pub fn holds(&self, key: &str, path: &Path, held: Held) {
        let taken = self.shared.secret_files.borrow_mut().take(&self.place(key), path, held);
        if let Some(other) = taken {
            self.problem(key, format!("is the file of {other}, too"), "give each secret a file of its own");
        }
    }

    /// A text read by `parse`; `default` when absent or wrong (the latter is reported, with what is `wanted`).
    pub fn parsed<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
        default: T,
    ) -> T {
        self.optional(key, wanted, parse).unwrap_or(default)
    }

    /// A text read by `parse`, when it is there.
    pub fn optional<T>(&mut self, key: &'static str, wanted: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(key)?;
        let value = parse(&text);
        if value.is_none() {
            self.problem(key, format!("{} is not valid", repeated(&text)), format!("write {wanted}"));
        }
        value
    }

    /// A list of texts; from the environment also `a, b`.
    pub fn list(&mut self, key: &'static str) -> Option<Vec<String>> {
        let value = self.take(key)?;
        let value = match value {
            Value::String(text) if self.origin(key).is_some() => from_environment(&text),
            other => other,
        };
        let texts = value
            .as_array()
            .map(|array| array.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>());
        match texts {
            Some(Some(texts)) => Some(texts),
            _ => {
                self.problem(key, "is not a list of texts", format!("write {key} = [\"…\", \"…\"]"));
                None
            }
        }
    }

    /// `true` or `false`; from the environment also as text.
    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        let value = match self.take(key) {
            None => return default,
            Some(Value::String(text)) if self.origin(key).is_some() => text.parse().ok(),
            Some(other) => other.as_bool(),
        };
        if value.is_none() {
            self.problem(key, "is neither true nor false", "write true or false, without quotes");
        }
        value.unwrap_or(default)
    }

    /// A whole number between `min` and `max`, both allowed; from the environment also as text.
    pub fn number(&mut self, key: &'static str, default: u32, min: u32, max: u32) -> u32 {
        let value = match self.take(key) {
            None => return default,
            Some(Value::String(text)) if self.origin(key).is_some() => text.parse().ok(),
            Some(other) => other.as_integer().and_then(|number| u32::try_from(number).ok()),
        };
        let value = value.filter(|number| (min..=max).contains(number));
        if value.is_none() {
            self.problem(key, "is not valid", format!("write a whole number from {min} to {max}, without quotes"));
        }
        value.unwrap_or(default)
    }

    /// A duration between `min` and `max`, both allowed.
    pub fn duration(&mut self, key: &'static str, default: Duration, min: Duration, max: Duration) -> Duration {
        let wanted = format!("a duration from {} to {}", values::duration_text(min), values::duration_text(max));
        let parse = |text: &str| values::duration(text).filter(|value| (min..=max).contains(value));
        self.parsed(key, &format!("{wanted}, like \"600s\", \"90m\", \"12h\" or \"3d\""), parse, default)
    }

    /// A path, made absolute against the configuration's directory.
    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let text = self.text(key)?;
        if text.is_empty() {
            self.problem(key, "is empty", "name a file");
            return None;
        }
        let found = self.found(&text);
        let written = self.shared.directory.join(&text);
        let mut handed_over = self.shared.handed_over.borrow_mut();
        if found != written
            && let other = handed_over.entry(found.clone()).or_insert_with(|| written.clone())
            && *other != written
        {
            let what = format!(
                "is {} in $CREDENTIALS_DIRECTORY, which {} has already: one of two files of the same name",
                found.file_name().unwrap_or_default().display(),
                other.display()
            );
            let remedy = "give the two files different names, and hand each over (LoadCredential=NAME:FILE)";
            drop(handed_over);
            self.problem(key, what, remedy);
        }
        Some(found)
    }

    /// The path under `key`, which is read later.
    pub fn named_path(&self, key: &str) -> Option<PathBuf> {
        self.table.get(key)?.as_str().map(|text| self.found(text))
    }

    fn found(&self, text: &str) -> PathBuf {
        found(text, &self.shared.directory, self.shared.credentials.as_deref())
    }

    /// The path of a file that can be opened.
    pub fn file(&mut self, key: &'static str) -> Option<PathBuf> {
        let path = self.path(key)?;
        match regular_file::open(&path) {
            Ok(_) => Some(path),
            Err(error) => {
                self.unreadable(key, &path, &error);
                None
            }
        }
    }

    /// The content of a secret file, without its trailing line break; at least `min` characters.
    pub fn secret(&mut self, key: &'static str, min: usize) -> Option<SecretText> {
        let path = self.path(key)?;
        self.holds(key, &path, Held::Token);
        self.secret_at(key, &path, min, RANDOM)
    }

    fn secret_at(&self, key: &'static str, path: &Path, min: usize, remedy: &str) -> Option<SecretText> {
        let content = match read_secret(path) {
            Ok(content) => content,
            Err(error) => {
                self.unreadable(key, path, &error);
                return None;
            }
        };
        let Ok(text) = std::str::from_utf8(&content) else {
            let remedy = if remedy == RANDOM { "write the secret as UTF-8 text" } else { remedy };
            self.problem(key, format!("{} is not text", path.display()), remedy);
            return None;
        };
        let text = text.trim_start_matches(BYTE_ORDER_MARK).trim_end_matches(['\r', '\n']);
        if text.chars().count() < min {
            let what = if text.is_empty() {
                format!("{} is empty", path.display())
            } else {
                format!("the secret in {} is shorter than {min} characters", path.display())
            };
            self.problem(key, what, remedy);
            return None;
        }
        self.caution_if_others_can_read(key, path);
        Some(SecretText::new(text))
    }

    fn unreadable(&self, key: &str, path: &Path, error: &std::io::Error) {
        let remedy = match &self.shared.credentials {
            // The relay's user may not read what root has, and need not.
            Some(folder) if !path.starts_with(folder) => {
                "name a file that the relay's user can read, or have systemd hand it over under its name: LoadCredential=NAME:FILE in the unit's [Service], \
                 and restart"
            }
            _ => {
                "name a file that the relay's user can read; a relative path starts at the configuration file's directory"
            }
        };
        if self.may_be_told(path) {
            self.problem(key, format!("{} cannot be read: {error}", path.display()), remedy);
        } else {
            self.problem(key, "names no file that is there", format!("{remedy}; a secret itself stands in no setting"));
        }
    }

    /// Whether a path may be repeated: what neither is there nor begins with a folder that is may be a secret, pasted in the place of its file.
    fn may_be_told(&self, path: &Path) -> bool {
        let written = path.strip_prefix(&self.shared.directory).unwrap_or(path);
        let mut folders =
            written.ancestors().skip(1).filter(|folder| folder.file_name().is_some() || folder.ends_with(".."));
        let is_short = written.as_os_str().len() < NO_SECRET;
        is_short || path.exists() || folders.any(|folder| self.shared.directory.join(folder).is_dir())
    }

    /// Says it of a file with a secret that every user of this machine can read.
    pub fn caution_if_others_can_read(&self, key: &str, path: &Path) {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o004 != 0) {
            let what = format!("{} can be read by every user of this machine", path.display());
            self.caution(key, what, "chmod 600 it; 640 where the relay reads it by its group");
        }
    }

    fn require(&self, key: &str, remedy: &str) {
        if !self.has(key) {
            self.problem(key, "is missing", remedy);
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known(key);
        let value = self.table.remove(key);
        if let Some(value) = &value {
            let place = format!("{}{key}", self.prefix);
            let written = effective::written(&place, value);
            self.shared.set.borrow_mut().insert(place, written);
        }
        value
    }

    fn origin(&self, key: &str) -> Option<&str> {
        let place = format!("{}{key}", self.prefix);
        let origin = self.shared.origins.iter().find(|(known, _)| *known == place);
        origin.map(|(_, variable)| &**variable)
    }

    /// Its line in the file; none when it came from the environment.
    fn line(&self, key: &str) -> Option<usize> {
        match self.variable(key) {
            Some(_) => None,
            None => self.shared.lines.of(&format!("{}{key}", self.prefix)),
        }
    }

    fn place(&self, key: &str) -> String {
        match self.variable(key) {
            Some((variable, Part::OfIt)) => format!("{}{key} (from {variable})", self.prefix),
            Some((variable, Part::Around)) => format!("{}{key} (beside {variable})", self.prefix),
            None => format!("{}{key}", self.prefix),
        }
    }

    /// The variable that set `key`, or something in it; else one that set something in the `[[section]]` around it, where the file has no such one.
    fn variable(&self, key: &str) -> Option<(&str, Part)> {
        let mut place = format!("{}{key}", self.prefix);
        let mut part = Part::OfIt;
        loop {
            let of_it = |known: &str| {
                known.strip_prefix(&place).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
            };
            let origin = self.shared.origins.iter().find(|(known, _)| of_it(known));
            let is_in_file = self.shared.lines.has(&place);
            if let Some((known, variable)) = origin
                && (*known == place || !is_in_file)
                && (matches!(part, Part::OfIt) || place.ends_with(']'))
            {
                return Some((variable, part));
            }
            if is_in_file {
                return None;
            }
            place.truncate(place.rfind(['.', '['])?);
            part = Part::Around;
        }
    }
}

/// A variable's part in a place.
enum Part {
    OfIt,
    Around,
}

/// The file that a configuration in `directory` means by `text`; `credentials`: where a service manager hands files over.
pub(super) fn found(text: &str, directory: &Path, credentials: Option<&Path>) -> PathBuf {
    // A file that systemd hands over (LoadCredential) goes before the file that root alone may read.
    let handed_over = credentials.zip(Path::new(text).file_name());
    let handed_over = handed_over.map(|(folder, name)| folder.join(name)).filter(|file| file.is_file());
    handed_over.unwrap_or_else(|| directory.join(text))
}

/// The key in the file at `path` that somebody shows in an HTTP header; `None` where there is none that a configuration could name.
pub fn token_in(path: &Path) -> Option<ApiKey> {
    let content = read_secret(path).ok()?;
    token_of(std::str::from_utf8(&content).ok()?).map(ApiKey::new)
}

/// The same of the content of a file.
pub fn token_of(text: &str) -> Option<&str> {
    let text = text.trim_start_matches(BYTE_ORDER_MARK).trim_end_matches(['\r', '\n']);
    (text.chars().count() >= MIN_KEY && why_nobody_can_show(text).is_none()).then_some(text)
}

/// The kind of a value, with its article.
fn a_kind(value: &Value) -> String {
    let kind = value.type_str();
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// A text as a problem repeats it: not where it may hold a user and a password, or another secret of a URL.
pub(super) fn repeated(text: &str) -> String {
    let is_address = ["mailto:", "sip:", "sips:"].iter().any(|scheme| text.starts_with(scheme));
    if text.contains('@') && !is_address {
        "what it says (it has an @, before which a password may stand, and is not repeated)".to_owned()
    } else if text.split_once("://").is_some_and(|(_, rest)| rest.contains(['?', '#'])) {
        "what it says (it has a part after ? or #, which may be a secret, and is not repeated)".to_owned()
    } else {
        format!("{text:?}")
    }
}

/// Why a key cannot stand in an HTTP header.
fn why_nobody_can_show(text: &str) -> Option<&'static str> {
    if text.contains(['\r', '\n']) {
        Some("has several lines")
    } else if text.len() > MAX_KEY {
        Some("is longer than 512 characters")
    } else if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        Some("has characters other than visible ASCII")
    } else if text.trim() != text {
        Some("begins or ends with a space")
    } else {
        None
    }
}

/// Reads a file into a buffer sized beforehand, so that no copy of its content stays behind.
fn read_secret(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    use std::io::{Error, Read};
    let file = regular_file::open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_SECRET {
        return Err(Error::other(format!("it is larger than {MAX_SECRET} bytes")));
    }
    let mut content = Zeroizing::new(vec![0; length as usize]);
    let mut file = file.take(length);
    let mut filled = 0;
    while filled < content.len() {
        match file.read(&mut content[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    content.truncate(filled);
    Ok(content)
}

/// `["a", "b"]` or `a, b`, which may begin with an IPv6 address in brackets; empty text is an empty list.
fn from_environment(text: &str) -> Value {
    if text.trim_start().starts_with('[')
        && let Ok(mut table) = format!("list = {text}").parse::<Table>()
        && let Some(list) = table.remove("list")
    {
        return list;
    }
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    Value::Array(items.map(|item| Value::String(item.to_owned())).collect())
}

/// Whether two keys differ by one letter added, left out, changed or swapped with its neighbour, or by `-` for `_`.
fn is_near(known: &str, key: &str) -> bool {
    let (a, b) = (known.as_bytes(), key.as_bytes());
    let front = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let back = a[front..].iter().rev().zip(b[front..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (left_a, left_b) = (&a[front..a.len() - back], &b[front..b.len() - back]);
    let swapped = left_a.len() == 2 && left_b.len() == 2 && left_a[0] == left_b[1] && left_a[1] == left_b[0];
    key.replace('-', "_") == known || swapped || (left_a.len() <= 1 && left_b.len() <= 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_systemd_could_hand_over_and_does_not_is_told_with_how_it_would() {
        let folder = std::env::temp_dir();
        let told = |environment: Vec<(String, String)>| {
            let text = "[[app]]\nid = \"com.example.one\"\napi_key_file = \"app-key\"\n";
            let read = crate::config::Config::read(text, Path::new("/nowhere"), environment);
            let problems = read.err().map(|problems| problems.to_string()).unwrap_or_default();
            problems.lines().find(|line| line.contains("api_key_file")).unwrap_or_default().to_owned()
        };
        let credentials = ("CREDENTIALS_DIRECTORY".to_owned(), folder.display().to_string());
        let (by_systemd, by_itself) = (told(vec![credentials]), told(Vec::new()));
        assert!(by_systemd.contains("/nowhere/app-key") && by_systemd.contains("LoadCredential="), "{by_systemd}");
        assert!(by_itself.contains("/nowhere/app-key") && !by_itself.contains("LoadCredential="), "{by_itself}");
    }

    #[test]
    fn a_problem_repeats_no_part_of_a_url_that_may_be_a_secret() {
        for text in ["https://host:4318/v1?token=hunter2", "https://host/#hunter2", "https://me:hunter2@host"] {
            assert!(!repeated(text).contains("hunter2"), "{text}");
        }
        assert_eq!(repeated("https://host:4318/v1"), "\"https://host:4318/v1\"");
    }

    #[test]
    fn two_files_of_one_name_are_not_both_read_from_what_systemd_hands_over() {
        let folder = std::env::temp_dir().join(format!("sipwake-handed-over-{}", std::process::id()));
        for (file, content) in [("key", "the-key-of-app-one-0123"), ("other", "the-key-of-app-two-0123")] {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(file), content).unwrap();
        }
        let problems = |one: &str, two: &str| {
            let app = |id: &str, file: &str| format!("[[app]]\nid = \"com.example.{id}\"\napi_key_file = \"{file}\"\n");
            let text = app("one", one) + &app("two", two);
            let environment = [("CREDENTIALS_DIRECTORY".to_owned(), folder.display().to_string())];
            let read = crate::config::Config::read(&text, Path::new("/nowhere"), environment);
            let problems = read.err().map(|problems| problems.to_string()).unwrap_or_default();
            problems.lines().filter(|line| line.contains("api_key_file")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(problems("one/key", "two/other"), Vec::<String>::new());
        let told = problems("one/key", "two/key");
        assert!(told.iter().any(|line| line.contains("/nowhere/one/key has already")), "{told:?}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_private_key_of_tls_that_everybody_can_read_is_told() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("sipwake-open-key-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for file in ["relay.pem", "relay.key"] {
            std::fs::write(folder.join(file), "").unwrap();
        }
        let told = |mode: u32| {
            std::fs::set_permissions(folder.join("relay.key"), std::fs::Permissions::from_mode(mode)).unwrap();
            let text = "[tls]\ncertificate = \"relay.pem\"\nkey = \"relay.key\"\n";
            let profile = crate::config::sections::Profile::Development;
            let read = crate::config::sections::read(text, &folder, [], profile).expect("a configuration");
            read.cautions.iter().any(|caution| caution.place == "tls.key" && caution.line == Some(3))
        };
        assert_eq!([0o644, 0o640, 0o600].map(told), [true, false, false]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_trail_is_kept_for_whole_days() {
        for (keep, is_right) in [("30d", true), ("48h", true), ("47h", false), ("367d", false)] {
            let text = format!("[audit]\ndirectory = \"audit\"\nkeep = \"{keep}\"\n");
            let read = crate::config::Config::read(&text, Path::new("/nowhere"), []);
            let told = read.err().map(|problems| problems.to_string()).unwrap_or_default();
            assert_eq!(!told.contains("audit.keep"), is_right, "{keep}: {told}");
        }
    }

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        for key in ["listn", "listenn", "lisetn", "lisben"] {
            assert!(is_near("listen", key), "{key}");
        }
        assert!(is_near("key_file", "key-file"));
        assert!(!is_near("listen", "public"));
    }

    #[test]
    fn a_list_from_the_environment_is_commas_or_toml() {
        let list = |items: &[&str]| Value::Array(items.iter().map(|item| Value::String((*item).into())).collect());
        assert_eq!(from_environment("tls, udp"), list(&["tls", "udp"]));
        assert_eq!(from_environment(r#"["tls", "udp"]"#), list(&["tls", "udp"]));
        assert_eq!(from_environment(""), list(&[]));
        for (text, items) in [
            ("[2001:db8::53]:53", &["[2001:db8::53]:53"][..]),
            ("[2001:db8::53]:53, 192.0.2.53", &["[2001:db8::53]:53", "192.0.2.53"]),
            (" [2001:db8::1],[::1]", &["[2001:db8::1]", "[::1]"]),
            ("[tls", &["[tls"]),
        ] {
            assert_eq!(from_environment(text), list(items), "{text}");
        }
    }

    #[test]
    fn a_list_from_the_environment_may_begin_with_an_address_in_brackets_and_each_entry_is_judged_by_its_setting() {
        let told = |value: &str| {
            let set = [("SIPWAKE_UPSTREAM__NAME_SERVERS".to_owned(), value.to_owned())];
            let read = crate::config::Config::read("", Path::new("/nowhere"), set);
            let told = read.err().map(|problems| problems.to_string()).unwrap_or_default();
            told.lines().filter(|line| line.contains("name_servers")).map(str::to_owned).collect::<Vec<_>>()
        };
        for right in ["[2001:db8::53]:53", "[2001:db8::53]:53,192.0.2.53", r#"["[2001:db8::53]:53"]"#] {
            assert_eq!(told(right), Vec::<String>::new(), "{right}");
        }
        for wrong in ["[tls", "[2001:db8::53]:dns", "[53]", "[\"192.0.2.53\""] {
            assert_eq!(told(wrong).len(), 1, "{wrong}: {:?}", told(wrong));
        }
    }
}
