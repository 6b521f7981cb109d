//! Bodies that nobody should send: whatever they hold, the API answers as it must and repeats none of it.

use proptest::prelude::*;
use serde_json::Value;

use super::scripted::{APP_KEY, Door, SECRET};
use super::{PASSWORD, apns_token, enable_body, instance_path};

/// A word that no answer of ours holds, so that an echo is seen.
fn marked() -> impl Strategy<Value = String> {
    "[ -~]{0,12}".prop_map(|text| format!("zq7x{text}"))
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(|number| Value::from(number | 1 << 40)),
        marked().prop_map(Value::from),
        "\\PC{0,20}".prop_map(|text| Value::from(format!("zq7x{text}"))),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..6).prop_map(|pairs| pairs.into_iter().collect::<Value>()),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] =
        &["account", "device", "aor", "password", "ha1", "realm", "MD5", "call_push", "provider", "token"];
    prop_oneof![prop::sample::select(KNOWN).prop_map(str::to_owned), marked().prop_map(|text| format!("{text} !"))]
}

/// A body that is right but for one place.
fn nearly_right() -> impl Strategy<Value = Value> {
    const PLACES: &[&str] = &[
        "/account",
        "/account/aor",
        "/account/auth_username",
        "/account/password",
        "/account/registrar",
        "/account/outbound_proxy",
        "/device",
        "/device/call_push",
        "/device/call_push/provider",
        "/device/call_push/token",
        "/device/call_push/environment",
        "/device/alert_push/token",
        "/device/label",
        "/lifetime_s",
        "/wake_for",
        "/wake_for/0",
    ];
    (prop::sample::select(PLACES), any_json()).prop_map(|(place, value)| {
        let mut body = enable_body();
        *body.pointer_mut(place).unwrap() = value;
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_body_whatever_breaks_the_api_or_is_echoed(
        body in prop_oneof![any_json(), nearly_right()],
        change in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let door = Door::new();
        let (method, path, key) = if change { ("PATCH", instance_path(), SECRET) } else { ("POST", "/v1/instances".to_owned(), APP_KEY) };
        let answer = runtime.block_on(door.ask.of(method, &path, key, &body.to_string()));
        prop_assert!(matches!(answer.status, 200 | 201 | 400 | 413 | 415 | 422), "{}", answer.status);
        prop_assert!(!answer.text.contains("zq7x"), "{}", answer.text);
        prop_assert!(!answer.text.contains(PASSWORD) && !answer.text.contains(&apns_token()));
        if answer.status >= 400 {
            answer.problem();
        }
    }
}
