//! `POST /v1/doctor`, as an app sees it.

use relay::api::limits::{Limits, Rate};
use serde_json::json;

use super::PASSWORD;
use super::scripted::{APP_KEY, Door, SERVER_KEY};

const ALICE: &str = r#"{"account": {"aor": "sip:alice@example.com"}}"#;

#[tokio::test]
async fn an_examination_is_answered_in_words_and_ends_the_connection() {
    let door = Door::new();
    let body = json!({"account": {
        "aor": "sip:alice@example.com", "auth_username": "alice", "password": PASSWORD,
        "registrar": "sip:example.com;transport=tls", "outbound_proxy": "sip:edge.example.com",
    }});
    let answer = door.ask.of("POST", "/v1/doctor", APP_KEY, &body.to_string()).await;
    let finding = json!({"step": "register", "verdict": "good", "what": "21"});
    assert_eq!((answer.status, answer.json()), (200, json!({"healthy": true, "findings": [finding]})));
    assert!(answer.ends_connection, "a password was shown on it");
    let hashed = json!({"account": {
        "aor": "sip:alice@example.com", "ha1": {"realm": "example.com", "MD5": "0123456789abcdef".repeat(2)},
    }});
    let answer = door.ask.of("POST", "/v1/doctor", APP_KEY, &hashed.to_string()).await;
    assert_eq!((answer.status, &answer.json()["healthy"]), (200, &json!(true)), "what enabling takes: {}", answer.text);
    let answer = door.ask.of("POST", "/v1/doctor", APP_KEY, ALICE).await;
    assert_eq!((answer.status, &answer.json()["healthy"]), (200, &json!(false)), "without a password");
}

#[tokio::test]
async fn each_wrong_examination_has_its_status_and_repeats_nothing() {
    let door = Door::new();
    for (key, body, status, name) in [
        ("", ALICE, 401, "unauthorized"),
        (SERVER_KEY, ALICE, 401, "unauthorized"),
        (APP_KEY, "{", 400, "malformed-json"),
        (APP_KEY, "{}", 422, "invalid-body"),
        (APP_KEY, r#"{"account": {"aor": "alice"}}"#, 422, "invalid-body"),
        (APP_KEY, r#"{"account": {"aor": "sip:alice@example.com", "ha1": {}}}"#, 422, "invalid-body"),
        (APP_KEY, r#"{"account": {"aor": "sip:alice@example.com", "ha1": {"realm": "r"}}}"#, 422, "invalid-body"),
        (
            APP_KEY,
            r#"{"account": {"aor": "sip:alice@example.com", "password": "x", "ha1": {"realm": "r", "MD5": "00"}}}"#,
            422,
            "invalid-body",
        ),
        (APP_KEY, r#"{"account": {"aor": "sip:alice@example.com", "password": ""}}"#, 422, "invalid-body"),
        (APP_KEY, r#"{"account": {"aor": "sip:alice@example.com", "registrar": "tel:1"}}"#, 422, "invalid-body"),
    ] {
        let answer = door.ask.of("POST", "/v1/doctor", key, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, name), "{body}");
        assert!(!answer.text.contains("alice"), "{}", answer.text);
    }
}

#[tokio::test]
async fn examinations_are_limited_by_address_and_by_app() {
    let (wide, narrow) = (Rate::per_second(1000, 1000), Rate::per_second(1, 1));
    for limits in [
        Limits { examine_per_address: narrow, examine_per_app: wide, ..Limits::default() },
        Limits { examine_per_address: wide, examine_per_app: narrow, ..Limits::default() },
    ] {
        let door = Door::limited(limits);
        assert_eq!(door.ask.of("POST", "/v1/doctor", APP_KEY, ALICE).await.status, 200);
        let again = door.ask.of("POST", "/v1/doctor", APP_KEY, ALICE).await;
        assert_eq!((again.status, again.problem().as_str()), (429, "too-many-requests"));
        assert!(!again.header("retry-after").is_empty());
    }
}
