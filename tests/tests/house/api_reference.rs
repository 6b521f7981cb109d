//! `docs/api.md` is the description that the relay gives of its API, as a page.
//!
//! Invariant: the page is made from `relay/src/api/openapi.json` and from nothing else.

use std::fmt::Write as _;

use relay::api::problem::ProblemType;
use serde_json::{Map, Value};

use super::page::{code, is_current, row, section, table};

/// What stands above the tables.
const HEAD: &str = "# API reference

Made from [openapi.json](../relay/src/api/openapi.json), which every relay answers to `GET /v1/openapi.json`; `SIPWAKE_REWRITE=1 cargo test
-p tests --test house reference` writes this page. How the calls go together is told in [App developers](app-developers.md).

JSON in and out, over HTTP/1.1 or HTTP/2 and TLS 1.2 or 1.3. A request of HTTP/1.1 has one Host (400), any at most 64 header fields (431), and no transfer coding but `chunked` (501). A body is at most 16 KiB (413), its media type `application/json`, that of a PATCH `application/merge-patch+json` as well (415),
an unknown key is 422; an operation that takes no body looks at none. A member that may be left out may be `null`, too, which is its absence unless a PATCH removes something by it. A time is RFC 3339 in UTC, or seconds since 1970 where it says so;
the steps of a timeline and call stories have milliseconds (`2026-11-29T23:12:04.864Z`), all else whole seconds (`2026-11-29T23:12:04Z`). An error is `application/problem+json` (RFC 9457) with a stable `type`.
";

#[test]
fn the_reference_of_the_api_is_what_the_relay_says_of_it() {
    let description: Value = serde_json::from_str(relay::api::OPENAPI).expect("openapi.json is JSON");
    is_current("docs/api.md", reference(&description));
}

#[test]
fn app_developers_are_told_what_to_do_about_every_problem() {
    let page = include_str!("../../../docs/app-developers.md");
    let section =
        page.split("\n**Errors** ").nth(1).and_then(|rest| rest.split("\n\n|").nth(1)).expect("the table of errors");
    for kind in ProblemType::ALL {
        let row = section.lines().find(|line| line.contains(&code(kind.name())));
        let row = row.unwrap_or_else(|| panic!("{} has no row", kind.name()));
        assert!(row.contains(&kind.status().to_string()), "{}: {row}", kind.name());
    }
}

#[test]
fn app_developers_are_told_of_every_push_and_of_every_state_of_a_call() {
    let page = include_str!("../../../docs/app-developers.md");
    let description: Value = serde_json::from_str(relay::api::OPENAPI).expect("openapi.json is JSON");
    let schemas = &description["components"]["schemas"];
    for words in [&schemas["Push"]["properties"]["event"], &schemas["Call"]["properties"]["state"]] {
        let words: Vec<&str> = words["enum"].as_array().into_iter().flatten().map(text).collect();
        assert!(words.len() > 5, "{words:?}");
        // What a call's push says has a section of its own.
        for word in words.into_iter().filter(|word| *word != "call") {
            assert!(page.contains(&format!("\n| {} | ", code(word))), "{word} has no row");
        }
    }
}

fn reference(description: &Value) -> String {
    let mut page = HEAD.to_owned();
    section(&mut page, "Who asks");
    table(&mut page, "key | what it is");
    for (name, scheme) in members(&description["components"]["securitySchemes"]) {
        row(&mut page, &[&code(name), text(&scheme["description"])]);
    }
    page.push_str("\nEach is shown as `Authorization: Bearer KEY`.\n");
    section(&mut page, "Calls");
    for (path, item) in members(&description["paths"]) {
        for (method, call) in members(item).filter(|(method, _)| *method != "parameters") {
            operation(&mut page, (method, path), call);
        }
    }
    section(&mut page, "Refusals");
    table(&mut page, "answer | body | means");
    for (status, response) in members(&description["components"]["responses"]) {
        answer(&mut page, status, response);
    }
    page.push_str("\nEach kind has one status; `type` is `urn:sipwake:problem:` and the word:\n\n");
    table(&mut page, "problem | status | means");
    for kind in ProblemType::ALL {
        row(&mut page, &[&code(kind.name()), &kind.status().to_string(), kind.title()]);
    }
    section(&mut page, "Types");
    for (name, schema) in members(&description["components"]["schemas"]) {
        type_section(&mut page, name, schema);
    }
    page
}

/// One call: who asks, what is sent, what is answered.
fn operation(page: &mut String, (method, path): (&str, &str), call: &Value) {
    let _ = writeln!(page, "### {} {path}\n\n{}.", method.to_uppercase(), text(&call["summary"]));
    if let Some(more) = call["description"].as_str() {
        let _ = writeln!(page, "{more}");
    }
    let keys: Vec<String> = call["security"].as_array().into_iter().flatten().flat_map(names).collect();
    let who = if keys.is_empty() { "anybody".to_owned() } else { keys.join(", ") };
    let _ = write!(page, "\nAsked by: {who}.");
    let sent = &call["requestBody"]["content"]["application/json"]["schema"];
    if !sent.is_null() {
        let _ = write!(page, " Body: {}.", kind(sent));
    }
    page.push_str("\n\n");
    table(page, "answer | body | means");
    let (refusals, answers): (Vec<_>, Vec<_>) =
        members(&call["responses"]).partition(|(_, response)| response["$ref"].is_string());
    for (status, response) in answers {
        answer(page, status, response);
    }
    if !refusals.is_empty() {
        let statuses: Vec<&str> = refusals.iter().map(|(status, _)| *status).collect();
        row(page, &[&statuses.join(", "), "[Problem](#problem)", "see [refusals](#refusals)"]);
    }
    page.push('\n');
}

fn answer(page: &mut String, status: &str, response: &Value) {
    let body = members(&response["content"]).map(|(media, content)| match media {
        "application/json" | "application/problem+json" => kind(&content["schema"]),
        other => code(other),
    });
    let headers = members(&response["headers"]).map(|(name, _)| code(name)).collect::<Vec<_>>();
    let also = if headers.is_empty() { String::new() } else { format!(" (with {})", headers.join(", ")) };
    let means = format!("{}{also}", text(&response["description"]));
    row(page, &[status, &body.collect::<Vec<_>>().join(", "), &means]);
}

/// One named type: a table of its members, or a line.
fn type_section(page: &mut String, name: &str, schema: &Value) {
    let _ = writeln!(page, "### {name}\n");
    if let Some(description) = schema["description"].as_str() {
        let _ = writeln!(page, "{description}\n");
    }
    let variants = schema["oneOf"].as_array().filter(|variants| variants[0]["properties"].is_object());
    for object in variants.into_iter().flatten().chain(schema["properties"].is_object().then_some(schema)) {
        table(page, "member | type | needed | means");
        fields(page, "", object);
        page.push('\n');
    }
    if schema["properties"].is_null() && variants.is_none() {
        let _ = writeln!(page, "{}\n", kind(schema));
    }
}

/// The members of an object, those of objects within it by their path.
fn fields(page: &mut String, within: &str, object: &Value) {
    let required: Vec<&str> = object["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let is_needed = |name: &str| required.contains(&name);
    let (first, then): (Vec<_>, Vec<_>) = members(&object["properties"]).partition(|(name, _)| is_needed(name));
    for (name, schema) in first.into_iter().chain(then) {
        let place = format!("{within}{name}");
        let needed = if is_needed(name) { "yes" } else { "" };
        row(page, &[&code(&place), &kind(schema), needed, text(&schema["description"])]);
        let inner = if schema["type"] == "array" { &schema["items"] } else { schema };
        if inner["properties"].is_object() {
            let dots = if schema["type"] == "array" { "[]." } else { "." };
            fields(page, &format!("{place}{dots}"), inner);
        }
    }
}

/// What a value may be, in a few words: its type, bounds, unit and words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|it| it.rsplit('/').next()) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    let listed = |key: &str| schema[key].as_array().map(|all| all.iter().map(kind).collect::<Vec<_>>().join(" or "));
    if let Some(value) = schema.get("const") {
        return code(&plain(value));
    }
    if let Some(words) = schema["enum"].as_array() {
        if words.iter().all(|word| plain(word).starts_with("urn:sipwake:problem:")) {
            return "`urn:sipwake:problem:` and a word of the [refusals](#refusals)".to_owned();
        }
        return words.iter().map(|word| code(&plain(word))).collect::<Vec<_>>().join(", ") + &default(schema);
    }
    if let Some(either) = listed("oneOf") {
        return either;
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(some) => some.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if types == ["array"] {
        let mut told = format!("list of {}", kind(&schema["items"]));
        told += &match (bound(schema, "minItems"), bound(schema, "maxItems")) {
            (Some(least), Some(most)) => format!(", {least} to {most}"),
            (Some(least), None) => format!(", at least {least}"),
            (None, Some(most)) => format!(", at most {most}"),
            (None, None) => String::new(),
        };
        return told + if schema["uniqueItems"] == true { ", each once" } else { "" };
    }
    let format = schema["format"].as_str().map(|format| if format == "date-time" { " (time)" } else { " (bytes)" });
    let mut told = format!("{}{}", types.join(" or "), format.unwrap_or_default());
    told += &match (bound(schema, "minimum"), bound(schema, "maximum")) {
        (Some(least), Some(most)) => format!(" {least} to {most}"),
        (Some(least), None) => format!(" ≥ {least}"),
        (None, Some(most)) => format!(" ≤ {most}"),
        (None, None) => String::new(),
    };
    told += &match (bound(schema, "minLength"), bound(schema, "maxLength")) {
        (Some(least), Some(most)) => format!(", {least} to {most} characters"),
        (None, Some(most)) => format!(", at most {most} characters"),
        _ => String::new(),
    };
    if let Some(pattern) = schema["pattern"].as_str() {
        let _ = write!(told, ", {}", code(pattern));
    }
    told + &default(schema)
}

fn default(schema: &Value) -> String {
    schema.get("default").map(|value| format!("; {} when left out", code(&plain(value)))).unwrap_or_default()
}

fn bound(schema: &Value, name: &str) -> Option<i64> {
    schema[name].as_i64()
}

fn names(object: &Value) -> Vec<String> {
    members(object).map(|(name, _)| code(name)).collect()
}

fn members(object: &Value) -> impl Iterator<Item = (&str, &Value)> {
    object.as_object().into_iter().flat_map(Map::iter).map(|(name, value)| (name.as_str(), value))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default().trim_end_matches('.')
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
