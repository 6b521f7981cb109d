//! JSON bodies that may hold credentials: a tree that keeps duplicate keys, and a reader that collects every error.
//!
//! Invariant: each string of the tree is wiped when the tree is dropped; no error repeats a value, and a key is repeated
//! in a pointer only when it looks like a name (1 to 40 letters, digits, `_` or `-`).

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

use super::problem::{FieldError, Problem, ProblemType};

/// The longest key that a pointer repeats.
const MAX_KEY_SHOWN: usize = 40;
/// How many steps a pointer to what cannot be held has at most.
const MAX_DEPTH_SHOWN: usize = 8;

/// A JSON value.
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// A whole number from 0 to 2⁶⁴−1, however it is written: `432000.0` is one, too (RFC 8259 §6).
    Whole(u64),
    /// Any other number.
    Number,
    /// A string.
    Text(Zeroizing<String>),
    /// An array.
    List(Vec<Json>),
    /// An object; keys in the order of the body, duplicates included.
    Object(Vec<(Zeroizing<String>, Json)>),
}

/// Reads a body. A byte order mark before it is skipped (RFC 8259 §8.1). JSON that cannot be held (a number out of range, text with
/// half a surrogate pair, more than 127 levels) is an error at its place.
pub fn parse(body: &[u8]) -> Result<Json, Problem> {
    let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    let (mut json, place) = (serde_json::Deserializer::from_slice(body), RefCell::default());
    let read = Tree(&place).deserialize(&mut json).and_then(|tree| json.end().map(|()| tree));
    read.map_err(|error| match unheld(&error) {
        Some(detail) => {
            let mut errors = Errors::default();
            errors.add::<()>(&pointer(&place.borrow()), detail);
            Problem::invalid_body(errors.0)
        }
        None => {
            let (line, column) = (error.line(), error.column());
            let detail = format!("Send one JSON object in UTF-8; it breaks off at line {line}, column {column}.");
            Problem::new(ProblemType::MalformedJson, detail)
        }
    })
}

/// The expectation in place of a value that is JSON and cannot be held: only the text of the library's error tells it.
fn unheld(error: &serde_json::Error) -> Option<&'static str> {
    let text = error.to_string();
    [
        ("number out of range", "expected a smaller number"),
        ("lone leading surrogate", "expected text without half a surrogate pair (\\ud800 to \\udfff)"),
        ("unexpected end of hex escape", "expected text without half a surrogate pair (\\ud800 to \\udfff)"),
        ("recursion limit exceeded", "expected fewer levels of objects and arrays"),
    ]
    .into_iter()
    .find_map(|(begin, detail)| text.starts_with(begin).then_some(detail))
}

/// The place of the reader: a key that does not look like a name is none.
#[derive(Default)]
struct Place {
    depth: usize,
    steps: Vec<Option<String>>,
}

impl Place {
    fn enter(&mut self, step: impl FnOnce() -> Option<String>) {
        if self.depth < MAX_DEPTH_SHOWN {
            self.steps.push(step());
        }
        self.depth += 1;
    }

    fn leave(&mut self) {
        self.depth -= 1;
        self.steps.truncate(self.depth);
    }
}

/// As far as it can be shown.
fn pointer(place: &Place) -> String {
    place.steps.iter().map_while(Option::as_deref).flat_map(|step| ["/", step]).collect()
}

/// The errors found so far.
#[derive(Default)]
pub struct Errors(Vec<FieldError>);

impl Errors {
    /// Adds one; gives `None`, so that a reader can end with it.
    pub fn add<T>(&mut self, pointer: &str, detail: impl Into<Cow<'static, str>>) -> Option<T> {
        self.0.push(FieldError { pointer: pointer.to_owned(), detail: detail.into() });
        None
    }

    /// `value`, if there is one and no error was found. A missing value without an error is an error of the whole body.
    pub fn into_result<T>(mut self, value: Option<T>) -> Result<T, Problem> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => {
                if self.0.is_empty() {
                    self.add::<()>("", "expected another body");
                }
                Err(Problem::invalid_body(self.0))
            }
        }
    }
}

/// A value and where it stands.
pub struct At<'a> {
    /// The value.
    pub value: &'a Json,
    /// Its JSON pointer.
    pub pointer: String,
}

/// An object whose keys are all known and named once; other keys were added to the errors.
pub struct Fields<'a> {
    entries: &'a [(Zeroizing<String>, Json)],
    pointer: String,
}

impl<'a> At<'a> {
    /// The whole body.
    pub fn root(value: &'a Json) -> Self {
        Self { value, pointer: String::new() }
    }

    /// As an object with no keys but `known`.
    pub fn object(&self, known: &[&'static str], errors: &mut Errors) -> Option<Fields<'a>> {
        let Json::Object(entries) = self.value else {
            return errors.add(&self.pointer, "expected an object");
        };
        for (place, (key, _)) in entries.iter().enumerate() {
            if !known.contains(&key.as_str()) {
                let keys = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let pointer =
                    if is_name(key) { format!("{}/{}", self.pointer, key.as_str()) } else { self.pointer.clone() };
                errors.add::<()>(&pointer, format!("unknown key; the known ones are: {keys}"));
            } else if entries[..place].iter().any(|(earlier, _)| earlier == key) {
                errors.add::<()>(&format!("{}/{}", self.pointer, key.as_str()), "name this key once");
            }
        }
        Some(Fields { entries, pointer: self.pointer.clone() })
    }

    /// As a string of `min` to `max` characters without control characters.
    pub fn text(&self, min: usize, max: usize, errors: &mut Errors) -> Option<&'a str> {
        let Json::Text(text) = self.value else {
            return errors.add(&self.pointer, "expected a string");
        };
        let length = text.chars().count();
        if !(min..=max).contains(&length) {
            let at_most = format!("expected {max} characters at most");
            return errors
                .add(&self.pointer, if min == 0 { at_most } else { format!("expected {min} to {max} characters") });
        }
        if text.chars().any(char::is_control) {
            return errors.add(&self.pointer, "expected text without control characters");
        }
        Some(text.as_str())
    }

    /// As a whole number within `min..=max`.
    pub fn whole(&self, min: u64, max: u64, errors: &mut Errors) -> Option<u64> {
        match self.value {
            Json::Whole(number) if (min..=max).contains(number) => Some(*number),
            Json::Whole(_) => errors.add(&self.pointer, format!("expected {min} to {max}")),
            _ => errors.add(&self.pointer, format!("expected a whole number from {min} to {max}")),
        }
    }

    /// As one of a few words.
    pub fn choice<T: Copy>(&self, words: &[(&'static str, T)], errors: &mut Errors) -> Option<T> {
        if let Json::Text(text) = self.value
            && let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text.as_str())
        {
            return Some(*meaning);
        }
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        errors.add(&self.pointer, format!("expected one of: {}", words.join(", ")))
    }

    /// As an array.
    pub fn list(&self, errors: &mut Errors) -> Option<Vec<At<'a>>> {
        let Json::List(list) = self.value else {
            return errors.add(&self.pointer, "expected an array");
        };
        let at = |(place, value)| At { value, pointer: format!("{}/{place}", self.pointer) };
        Some(list.iter().enumerate().map(at).collect())
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Json::Null)
    }
}

impl<'a> Fields<'a> {
    /// The value of `key`, if the object has it; `null` is its absence.
    pub fn get(&self, key: &'static str) -> Option<At<'a>> {
        self.get_or_null(key).filter(|at| !at.is_null())
    }

    /// The value of `key`, if the object has it, where `null` says something.
    pub fn get_or_null(&self, key: &'static str) -> Option<At<'a>> {
        let (_, value) = self.entries.iter().find(|(name, _)| name.as_str() == key)?;
        Some(At { value, pointer: self.pointer_to(key) })
    }

    /// The value of `key`, which the object must have.
    pub fn require(&self, key: &'static str, errors: &mut Errors) -> Option<At<'a>> {
        let found = self.get(key);
        if found.is_none() {
            errors.add::<()>(&self.pointer_to(key), "this key is required");
        }
        found
    }

    /// The place where `key` stands or would stand.
    pub fn pointer_to(&self, key: &str) -> String {
        format!("{}/{key}", self.pointer)
    }

    /// The place of the object.
    pub fn pointer(&self) -> &str {
        &self.pointer
    }
}

fn is_name(key: &str) -> bool {
    (1..=MAX_KEY_SHOWN).contains(&key.len())
        && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

/// Reads a tree, and keeps where it is.
#[derive(Clone, Copy)]
struct Tree<'p>(&'p RefCell<Place>);

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Bool)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Whole(number))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        /// Up to here each whole number is one of its own.
        const EXACT: f64 = (1_u64 << 53) as f64;
        let whole = number.fract() == 0.0 && (0.0..=EXACT).contains(&number);
        Ok(if whole { Json::Whole(number as u64) } else { Json::Number })
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(Zeroizing::new(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(Json::Text(Zeroizing::new(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        loop {
            self.0.borrow_mut().enter(|| Some(list.len().to_string()));
            let value = seq.next_element_seed(self)?;
            self.0.borrow_mut().leave();
            match value {
                Some(value) => list.push(value),
                None => return Ok(Json::List(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let key = Zeroizing::new(key);
            self.0.borrow_mut().enter(|| is_name(&key).then(|| key.to_string()));
            entries.push((key, map.next_value_seed(self)?));
            self.0.borrow_mut().leave();
        }
        Ok(Json::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors_of(body: &str, known: &[&'static str]) -> Vec<FieldError> {
        let json = parse(body.as_bytes()).unwrap();
        let mut errors = Errors::default();
        At::root(&json).object(known, &mut errors);
        errors.0
    }

    #[test]
    fn unknown_and_repeated_keys_are_all_reported() {
        let errors = errors_of(r#"{"a": 1, "a": 2, "b": 3, "hunter 2": 4}"#, &["a"]);
        let places: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(places, ["/a", "/b", ""]);
        assert!(errors.iter().all(|error| !error.detail.contains("hunter")));
    }

    #[test]
    fn json_is_read_as_clients_write_it() {
        let json =
            parse("\u{feff}{\"a\": null, \"b\": 432000.0, \"c\": 4.32e5, \"d\": 1.5, \"e\": -1.0}".as_bytes()).unwrap();
        let mut errors = Errors::default();
        let fields = At::root(&json).object(&["a", "b", "c", "d", "e"], &mut errors).unwrap();
        assert!(fields.get("a").is_none() && fields.get_or_null("a").is_some());
        let whole = |key, errors: &mut Errors| fields.get(key).unwrap().whole(0, 500_000, errors);
        assert_eq!(["b", "c", "d", "e"].map(|key| whole(key, &mut errors)), [Some(432_000), Some(432_000), None, None]);
        assert_eq!(errors.0.len(), 2);
    }

    #[test]
    fn what_is_not_json_is_refused_with_its_place_alone() {
        for body in [
            "",
            "{",
            "nul",
            "{\"a\": \"hunter2",
            "{\"a\":1} x",
            "\u{feff}",
            "{}\u{feff}",
            "[1,]",
            "{\"a\": \"\\uzzzz\"}",
            "{\"a\": 01}",
        ] {
            let problem = parse(body.as_bytes()).err().unwrap();
            assert_eq!(problem.kind(), ProblemType::MalformedJson, "{body}");
            assert!(!format!("{problem:?}").contains("hunter2"));
        }
        assert!(parse(&[b'"', 0xff, b'"']).is_err(), "not UTF-8");
    }

    #[test]
    fn what_is_json_and_cannot_be_held_is_an_error_at_its_place() {
        let nested = |levels| format!("{{\"a\": {}1{}}}", "[".repeat(levels), "]".repeat(levels));
        for (body, place, expected) in [
            (r#"{"a": {"b": [0, 1e999]}}"#, "/a/b/1", "number"),
            (r#"{"a": -1e999}"#, "/a", "number"),
            (r#"{"a": 1, "b": "\ud800"}"#, "/b", "surrogate"),
            (r#"{"a": "\ud800\u0041"}"#, "/a", "surrogate"),
            (r#"{"a": "\udc00"}"#, "/a", "surrogate"),
            (r#"{"a": {"\ud800": 1}}"#, "/a", "surrogate"),
            (r#"{"a": {"hunter 2": 1e999}}"#, "/a", "number"),
            (&nested(1_000), "/a/0/0/0/0/0/0/0", "levels"),
            (&"[".repeat(10_000), "/0/0/0/0/0/0/0/0", "levels"),
        ] {
            let problem = parse(body.as_bytes()).err().unwrap();
            assert_eq!(problem.kind(), ProblemType::InvalidBody, "{body}");
            let errors: Vec<_> = problem.errors().cloned().collect();
            assert_eq!(errors.len(), 1, "{body}");
            assert_eq!(errors[0]["pointer"], place, "{body}");
            assert!(errors[0]["detail"].as_str().unwrap().contains(expected), "{body}: {errors:?}");
        }
        for held in
            [&nested(100), r#"{"a": 1e-999}"#, r#"{"a": "\ud83d\ude00"}"#, r#"{"a": 1e30, "b": 99999999999999999999}"#]
        {
            assert!(parse(held.as_bytes()).is_ok(), "{held}");
        }
    }
}
