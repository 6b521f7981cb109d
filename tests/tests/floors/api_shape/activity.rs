//! The routes beside calls: what is kept, the timeline, the export, the test push.

use serde_json::json;

use super::scripted::{Door, SECRET, cancelled_call, instance, message, ringing_call};
use super::{Endpoint, instance_path, path_of};

#[tokio::test]
async fn messages_are_text_where_they_are_text_and_base64_where_not() {
    let door = Door::new();
    let answer = door.ask.of("GET", &path_of(Endpoint::Messages), SECRET, "").await;
    let both = json!({"message": message().to_string(), "from": "sip:bob@example.com",
        "received_at": "2026-11-27T08:59:00Z", "expires_at": "2026-11-27T09:00:00Z"});
    let (mut text, mut bytes) = (both.clone(), both);
    for (key, value) in [("name", "Bob"), ("content_type", "text/plain"), ("encoding", "utf-8"), ("body", "Grüße\0")]
    {
        text[key] = value.into();
    }
    for (key, value) in [("content_type", "application/octet-stream"), ("encoding", "base64"), ("body", "/wA=")] {
        bytes[key] = value.into();
    }
    assert_eq!((answer.status, answer.json()), (200, json!({"messages": [text, bytes]})));
    assert!(answer.ends_connection, "buffers of an open connection would keep what somebody wrote");
}

#[tokio::test]
async fn what_is_fetched_is_forgotten_once_asked_and_what_is_not_there_is_404() {
    let door = Door::new();
    for endpoint in [Endpoint::ForgetMessage, Endpoint::ForgetMissedCall] {
        let answer = door.ask.of("DELETE", &path_of(endpoint), SECRET, "").await;
        assert_eq!((answer.status, answer.text.as_str()), (204, ""), "{endpoint:?}");
    }
    for (shelf, problem, id) in [
        ("messages", "unknown-message", "m_aaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("messages", "unknown-message", "nonsense"),
        ("missed-calls", "unknown-call", "c_aaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("missed-calls", "unknown-call", "%00"),
    ] {
        let path = format!("{}/{shelf}/{id}", instance_path());
        let answer = door.ask.of("DELETE", &path, SECRET, "").await;
        assert_eq!((answer.status, answer.problem().as_str()), (404, problem), "{path}");
        assert_eq!(door.ask.of("DELETE", &path, "another", "").await.status, 401);
    }
}

#[tokio::test]
async fn missed_calls_tell_who_called_when_and_how_it_ended() {
    let door = Door::new();
    let answer = door.ask.of("GET", &path_of(Endpoint::MissedCalls), SECRET, "").await;
    let call = json!({"call": cancelled_call().to_string(), "from": "sip:bob@example.com", "name": "Bob",
        "state": "cancelled", "at": "2026-11-27T08:59:00Z", "expires_at": "2026-11-27T09:00:00Z"});
    assert_eq!((answer.status, answer.json()), (200, json!({"missed_calls": [call]})));
    assert!(answer.ends_connection);
}

#[tokio::test]
async fn the_timeline_tells_each_step_with_its_time() {
    let door = Door::new();
    let answer = door.ask.of("GET", &path_of(Endpoint::Timeline), SECRET, "").await;
    let (at, call) = ("2026-11-27T09:00:00.007Z", ringing_call().to_string());
    let expected = json!({"instance": instance().to_string(), "steps": [
        {"at": "2026-11-27T09:00:00.000Z", "step": "enabled"},
        {"at": at, "step": "registered", "count": 3, "last_at": "2026-11-27T09:00:02.007Z"},
        {"at": at, "step": "registration-retry", "status": 503, "retry_in_s": 30},
        {"at": at, "step": "invite", "call": call},
        {"at": at, "step": "push-sent", "call": call, "event": "call", "provider": "apns"},
        {"at": at, "step": "push-ended", "call": call, "event": "call", "outcome": "refused", "reason": "BadTopic"},
        {"at": at, "step": "device-attached", "call": call, "after_ms": 950},
        {"at": at, "step": "answered", "call": call},
        {"at": at, "step": "message", "outcome": "kept"},
        {"at": at, "step": "voicemail", "new": 2},
    ]});
    assert_eq!((answer.status, answer.json()), (200, expected));
}

#[tokio::test]
async fn the_export_holds_all_and_no_secret() {
    let door = Door::new();
    let answer = door.ask.of("GET", &path_of(Endpoint::Export), SECRET, "").await;
    let export = answer.json();
    assert_eq!(export["account"]["aor"], "sip:alice@example.com");
    assert_eq!(export["account"]["credential"], "password");
    assert_eq!(export["messages"][0]["body"], "hello");
    assert_eq!(export["missed_calls"][0]["name"], "Bob");
    assert_eq!(export["calls"][0]["state"], "ringing");
    assert_eq!(export["timeline"][0]["step"], "enabled");
    assert!(answer.status == 200 && answer.ends_connection && !answer.text.contains(SECRET));
}

#[tokio::test]
async fn a_test_push_is_202_or_says_why_not() {
    let door = Door::new();
    let path = path_of(Endpoint::Test);
    let answer = door.ask.of("POST", &path, SECRET, "").await;
    assert_eq!((answer.status, answer.json()), (202, json!({"target": "alert_push", "provider": "fcm"})));
    door.script.with(|script| script.test_wait_s = 7);
    let answer = door.ask.of("POST", &path, SECRET, "").await;
    assert_eq!(
        (answer.status, answer.problem().as_str(), answer.header("retry-after")),
        (429, "too-many-requests", "7")
    );
    door.script.with(|script| script.no_target = true);
    let answer = door.ask.of("POST", &path, SECRET, "").await;
    assert_eq!((answer.status, answer.problem().as_str()), (409, "no-alert-target"));
    assert!(answer.json()["detail"].as_str().unwrap().contains("alert_push"));
}

#[tokio::test]
async fn a_trace_is_begun_fetched_and_erased_by_who_holds_the_secret() {
    let door = Door::new();
    let path = path_of(Endpoint::Trace);
    assert_eq!(door.ask.of("GET", &path, SECRET, "").await.problem(), "no-trace");
    for (body, until) in [("{}", "2026-11-27T09:10:00Z"), ("{\"for_s\": 60}", "2026-11-27T09:01:00Z")] {
        let answer = door.ask.of("POST", &path, SECRET, body).await;
        assert_eq!((answer.status, answer.json()), (202, json!({"until": until})));
    }
    for body in ["{\"for_s\": 0}", "{\"for_s\": 3601}", "{\"for\": 60}"] {
        assert_eq!(door.ask.of("POST", &path, SECRET, body).await.status, 422, "{body}");
    }
    let answer = door.ask.of("GET", &path, SECRET, "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-pcapng"));
    assert!(answer.ends_connection);
    assert_eq!(door.ask.of("DELETE", &path, SECRET, "").await.status, 204);
    assert_eq!(door.ask.of("DELETE", &path, SECRET, "").await.problem(), "no-trace");
}
