//! `POST /v1/wake`, as a SIP server sees it.

use relay::api::limits::{Limits, Rate};
use serde_json::json;

use super::scripted::{APP_KEY, Door, OTHER_SERVER_KEY, SERVER_KEY};

const ALICE: &str = r#"{"aor": "sip:alice@example.com"}"#;

#[tokio::test]
async fn a_sip_server_is_told_how_many_devices_are_awake() {
    let door = Door::new();
    let body = json!({
        "aor": "sip:alice@example.com", "wait_ms": 1500, "call": {"from": "sip:bob@example.com", "name": "Bob"},
    });
    let answer = door.ask.of("POST", "/v1/wake", SERVER_KEY, &body.to_string()).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"awake": 1, "known": 2})));
    assert!(!answer.ends_connection, "it holds nothing that must not stay: the next call uses it again");
    door.script.with(|script| {
        let request = &script.woken[0];
        assert_eq!((request.aor.expose(), &*request.from), ("sip:alice@example.com", "sip:bob@example.com"));
        assert_eq!((request.name.as_deref(), request.wait.as_millis()), (Some("Bob"), 1500));
    });
}

#[tokio::test]
async fn each_way_to_find_nobody_has_its_status() {
    let door = Door::new();
    for (key, body, status, name) in [
        ("", ALICE, 401, "unauthorized"),
        ("guess", ALICE, 401, "unauthorized"),
        (APP_KEY, ALICE, 401, "unauthorized"),
        (SERVER_KEY, "{", 400, "malformed-json"),
        (SERVER_KEY, r#"{"aor": "alice"}"#, 422, "invalid-body"),
        (SERVER_KEY, r#"{"aor": "sip:alice@example.com", "ring": true}"#, 422, "invalid-body"),
        (SERVER_KEY, r#"{"aor": "sip:alice@example.org"}"#, 403, "domain-not-allowed"),
        (SERVER_KEY, r#"{"aor": "sip:nobody@example.com"}"#, 404, "unknown-aor"),
        (SERVER_KEY, r#"{"aor": "sip:asleep@example.com"}"#, 504, "no-device-in-time"),
    ] {
        let answer = door.ask.of("POST", "/v1/wake", key, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, name), "{body}");
        assert!(!answer.text.contains("alice"), "{}", answer.text);
    }
    assert!(
        door.script.with(|script| script.woken.iter().all(|request| !request.aor.expose().contains("example.org")))
    );
}

#[tokio::test]
async fn without_the_store_nobody_is_called_unknown_for_another_node_may_have_him() {
    let door = Door::new();
    door.script.with(|script| script.store_away = true);
    let answer = door.ask.of("POST", "/v1/wake", SERVER_KEY, r#"{"aor": "sip:nobody@example.com"}"#).await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "owner-away"));
    assert!(!answer.header("retry-after").is_empty());
    assert_eq!(door.ask.of("POST", "/v1/wake", SERVER_KEY, ALICE).await.status, 200);
}

#[tokio::test]
async fn a_store_that_may_not_name_all_nodes_is_believed_of_those_that_it_names_alone() {
    let door = Door::new();
    door.script.with(|script| script.nodes.are_lost = true);
    for (aor, status, name) in [("nobody", 503, "owner-away"), ("asleep", 504, "no-device-in-time")] {
        let body = format!(r#"{{"aor": "sip:{aor}@example.com"}}"#);
        let answer = door.ask.of("POST", "/v1/wake", SERVER_KEY, &body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, name));
    }
    assert_eq!(door.ask.of("POST", "/v1/wake", SERVER_KEY, ALICE).await.status, 200);
}

#[tokio::test]
async fn wakes_are_limited_by_address_of_record_and_by_sip_server() {
    let (wide, narrow) = (Rate::per_second(1000, 1000), Rate::per_second(1, 1));
    for (limits, other_passes) in [
        (Limits { wake_per_aor: narrow, wake_per_server: wide, ..Limits::default() }, true),
        (Limits { wake_per_aor: wide, wake_per_server: narrow, ..Limits::default() }, false),
    ] {
        let door = Door::limited(limits);
        assert_eq!(door.ask.of("POST", "/v1/wake", SERVER_KEY, ALICE).await.status, 200);
        let again = door.ask.of("POST", "/v1/wake", SERVER_KEY, ALICE).await;
        assert_eq!((again.status, again.problem().as_str()), (429, "too-many-requests"));
        assert!(!again.header("retry-after").is_empty());
        let other = door.ask.of("POST", "/v1/wake", SERVER_KEY, r#"{"aor": "sip:asleep@example.com"}"#).await;
        assert_eq!(other.status == 504, other_passes);
        let by_other = door.ask.of("POST", "/v1/wake", OTHER_SERVER_KEY, ALICE).await;
        assert_eq!(by_other.status, 200, "one server uses up nothing of another");
    }
}
