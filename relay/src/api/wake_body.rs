//! The body of `POST /v1/wake`.
//!
//! Invariant: every error of a body is reported in one answer; none repeats a value.

use std::sync::Arc;
use std::time::Duration;

use sip::endpoint::{ANONYMOUS, shown, told};

use super::json::{At, Errors, Json};
use super::problem::Problem;
use super::sip_uri::{IN_ASCII, SipUri};
use crate::secret::Aor;
use crate::service::sip_servers::Wake;

/// How long a SIP server may wait for a device, and how long it waits when it does not say, in milliseconds.
const WAIT_MS: (u64, u64, u64) = (1, 30_000, 20_000);
/// The longest caller, in characters, and the longest name of one: the rest of a name is cut off.
const MAX_CALLER: usize = 255;

/// Reads the body of a wake.
pub fn read(body: &Json) -> Result<Wake, Problem> {
    let mut errors = Errors::default();
    let wake = wake(body, &mut errors);
    errors.into_result(wake)
}

fn wake(body: &Json, errors: &mut Errors) -> Option<Wake> {
    let (min, max, default) = WAIT_MS;
    let body = At::root(body).object(&["aor", "wait_ms", "call"], errors)?;
    let aor = body.require("aor", errors).and_then(|at| aor(&at, errors));
    let wait_ms = match body.get("wait_ms") {
        None => Some(default),
        Some(at) => at.whole(min, max, errors),
    };
    let call = body.get("call").and_then(|at| at.object(&["from", "name"], errors));
    let from = call.as_ref().and_then(|call| caller(&call.get("from")?, errors));
    let name = call.as_ref().and_then(|call| name(&call.get("name")?, errors));
    // An anonymous caller has no name either.
    let name = name.filter(|_| from.as_deref() != Some(ANONYMOUS));
    let from = from.unwrap_or_else(|| ANONYMOUS.into());
    let wait = Duration::from_millis(wait_ms?);
    Some(Wake { aor: aor?, from, name, wait, registrars: Arc::default(), looks: false })
}

/// The name of a caller, as a device may be told; `None`: there is none, as for most callers from a telephone network, or it is an error. No call
/// goes unannounced for an odd name.
fn name(at: &At, errors: &mut Errors) -> Option<Box<str>> {
    let Json::Text(text) = at.value else {
        return errors.add(&at.pointer, "expected a string");
    };
    let cut = text.char_indices().nth(MAX_CALLER).map_or(text.len(), |(end, _)| end);
    shown(text[..cut].into()).filter(|name| !name.trim().is_empty())
}

/// A caller, as a device may be told; `None`: it is nobody, or an error.
fn caller(at: &At, errors: &mut Errors) -> Option<Box<str>> {
    let text = at.text(0, MAX_CALLER, errors)?;
    if text.trim().is_empty() {
        return None;
    }
    let (scheme, rest) = text.split_once(':').unwrap_or_default();
    // A server that does not know who calls may well write this; nobody is called so.
    let is_nobody = (scheme.eq_ignore_ascii_case("sip") || scheme.eq_ignore_ascii_case("sips"))
        && (rest.is_empty() || rest.starts_with('@') && !rest[1..].contains('@'));
    if is_nobody {
        return None;
    }
    let told = told(text);
    if told.is_none() && rest.rsplit_once('@').is_some_and(|(_, host)| !host.is_ascii()) {
        return errors.add(&at.pointer, IN_ASCII);
    }
    if told.is_none() {
        errors.add::<()>(
            &at.pointer,
            "expected who calls, as sip:user@host or tel:+number; leave it out when nobody knows",
        );
    }
    told
}

fn aor(at: &At, errors: &mut Errors) -> Option<Aor> {
    let Json::Text(text) = at.value else {
        return errors.add(&at.pointer, "expected a string");
    };
    match SipUri::address_of_record(text) {
        Ok(uri) => Some(Aor::new(&uri.to_string())),
        Err(what) => errors.add(&at.pointer, what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::json;

    fn parsed(body: &str) -> Result<Wake, Problem> {
        read(&json::parse(body.as_bytes()).unwrap())
    }

    #[test]
    fn an_aor_is_enough_and_is_read_as_an_account_is() {
        let wake = parsed(r#"{"aor": "sip:alice@EXAMPLE.com"}"#).unwrap();
        assert_eq!((wake.aor.expose(), &*wake.from, wake.name), ("sip:alice@example.com", ANONYMOUS, None));
        assert_eq!(wake.wait, Duration::from_secs(20));
        let call = r#"{"aor": "sip:a@b", "wait_ms": 30000, "call": {"from": "sip:bob@example.com", "name": "Bob"}}"#;
        let wake = parsed(call).unwrap();
        assert_eq!((&*wake.from, wake.name.as_deref()), ("sip:bob@example.com", Some("Bob")));
        assert_eq!(wake.wait, Duration::from_secs(30));
        for nobody in ["sip:@example.com", "SIPS:@example.com:5061", "sip:", "", " "] {
            let wake = parsed(&format!(r#"{{"aor": "sip:a@b", "call": {{"from": "{nobody}"}}}}"#)).unwrap();
            assert_eq!(&*wake.from, ANONYMOUS, "nobody is called so");
        }
        let wake = parsed(r#"{"aor": "sip:a@b", "call": {"name": "Bob"}}"#).unwrap();
        assert_eq!((&*wake.from, wake.name.as_deref()), (ANONYMOUS, Some("Bob")), "its server knows no more");
    }

    #[test]
    fn a_caller_is_told_by_user_and_host_alone() {
        for (from, name, told) in [
            ("sip:bob:hunter2@example.com:5061;transport=tls?Subject=x", "Bob", ("sip:bob@example.com", Some("Bob"))),
            ("sips:bob:hunter2@h;;", "sip:bob:hunter2@h", ("sip:bob@h", Some("sip:bob@h"))),
            ("tel:+4930;phone-context=x;pw=hunter2", "Bob", ("tel:+4930;phone-context=x", Some("Bob"))),
            ("sip:x:hunter2@Anonymous.invalid", "Bob", ("sip:anonymous@anonymous.invalid", None)),
        ] {
            let wake =
                parsed(&format!(r#"{{"aor": "sip:a@b", "call": {{"from": "{from}", "name": "{name}"}}}}"#)).unwrap();
            assert_eq!((&*wake.from, wake.name.as_deref()), told, "{from}");
        }
        for nonsense in
            ["bob", "bob:hunter2@h", "sip:bob:hun@ter2@h", "<sip:bob@h>", "sip:b ob@h", "https://b:hunter2@h/"]
        {
            let problem = parsed(&format!(r#"{{"aor": "sip:a@b", "call": {{"from": "{nonsense}"}}}}"#)).unwrap_err();
            assert_eq!(problem.errors().next().unwrap()["pointer"], "/call/from", "{nonsense}");
            assert!(!format!("{problem:?}").contains("hun"), "{nonsense}");
        }
    }

    #[test]
    fn no_name_keeps_a_call_from_being_announced() {
        let long = "ö".repeat(300);
        for (name, told) in [
            ("", None),
            (" ", None),
            ("\\t", None),
            ("Bob\\tBuilder\\u0000", Some("BobBuilder")),
            (&*long, Some(&long[..2 * MAX_CALLER])),
        ] {
            let call = format!(r#"{{"from": "sip:bob@h", "name": "{name}"}}"#);
            let wake = parsed(&format!(r#"{{"aor": "sip:a@b", "call": {call}}}"#)).unwrap();
            assert_eq!((&*wake.from, wake.name.as_deref()), ("sip:bob@h", told), "{name}");
        }
    }

    #[test]
    fn a_wrong_wake_is_refused_with_every_place() {
        for (body, places) in [
            (r#"{}"#, vec!["/aor"]),
            (r#"{"aor": "alice", "wait_ms": 0, "call": {"form": "x"}}"#, vec!["/aor", "/wait_ms", "/call/form"]),
            (r#"{"aor": 7, "wait_ms": 30001}"#, vec!["/aor", "/wait_ms"]),
            (r#"{"aor": "sip:a@b", "call": {"from": "sip:b\u0000", "name": 7}}"#, vec!["/call/from", "/call/name"]),
            (r#"{"aor": "sip:example.com"}"#, vec!["/aor"]),
        ] {
            let problem = parsed(body).unwrap_err();
            let found: Vec<_> = problem.errors().map(|error| error["pointer"].as_str().unwrap()).collect();
            assert_eq!(found, places, "{body}");
        }
        let long = format!(r#"{{"aor": "sip:a@b", "call": {{"from": "sip:{}@b"}}}}"#, "o".repeat(300));
        assert_eq!(parsed(&long).unwrap_err().errors().next().unwrap()["detail"], "expected 255 characters at most");
    }
}
