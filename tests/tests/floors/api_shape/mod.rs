//! The HTTPS API and the operators' listener, asked without a network: the shapes of `docs/api.md`, and every refusal.
//!
//! Invariant: the use cases behind the routers are scripted, so each test sees the border alone.

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use relay::api::Endpoint;
use relay::api::limits::{Limits, Rate};
use relay::api::problem::ProblemType;
use relay::domain::WipeReason;
use relay::service::apps::{EnableError, Refusal};
use relay::service::devices::Field;
use relay::vault::record::Presence;
use serde_json::{Value, json};

mod activity;
mod conditional;
mod elsewhere;
mod examining;
mod hostile;
mod operator;
mod pages;
mod scripted;
mod waking;

use self::scripted::{APP_KEY, Door, SECRET, SERVER_KEY, cancelled_call, instance, message, ringing_call};

const PASSWORD: &str = "wonderland-7";

fn apns_token() -> String {
    "0123456789abcdef".repeat(4)
}

fn enable_body() -> Value {
    json!({
        "account": {
            "aor": "sip:alice@example.com",
            "auth_username": "alice",
            "password": PASSWORD,
            "registrar": "sip:example.com;transport=tls",
            "outbound_proxy": "sip:edge.example.com:5061;transport=tls",
        },
        "device": {
            "call_push": {"provider": "apns", "token": apns_token(), "environment": "production"},
            "alert_push": {"provider": "apns", "token": apns_token(), "environment": "production"},
            "label": "Pixel 8",
        },
        "lifetime_s": 432_000,
        "wake_for": ["call", "message", "voicemail", "missed-call"],
    })
}

fn path_of(endpoint: Endpoint) -> String {
    let path = endpoint.template().replace("{id}", &instance().to_string());
    path.replace("{call}", &ringing_call().to_string()).replace("{message}", &message().to_string())
}

fn instance_path() -> String {
    path_of(Endpoint::Read)
}

#[tokio::test]
async fn enabling_answers_as_the_contract_says_and_ends_the_connection() {
    let door = Door::new();
    let answer = door.ask.of("POST", "/v1/instances", APP_KEY, &enable_body().to_string()).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let id = instance().to_string();
    let expected = json!({
        "instance": id, "secret": SECRET, "expires_at": "2026-11-27T09:00:00Z",
        "registration": {"state": "registered", "status": 200, "expires_in_s": 600},
        "edge": {"proxy": "sip:relay1.example.net:5061;transport=tls", "username": id, "realm": "sipwake"},
    });
    assert_eq!(answer.json(), expected);
    assert_eq!(answer.header("location"), instance_path());
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert!(answer.ends_connection);
    let (app, request) = door.script.with(|script| script.enabled.remove(0));
    assert_eq!(app, "com.example.phone");
    assert_eq!(request.account.aor.expose(), "sip:alice@example.com");
    assert_eq!(request.account.outbound_proxy.as_deref(), Some("sip:edge.example.com:5061;transport=tls"));
}

#[tokio::test]
async fn a_slow_sip_server_makes_it_202_in_the_same_shape() {
    let door = Door::new();
    door.script.with(|script| script.slow = true);
    let answer = door.ask.of("POST", "/v1/instances", APP_KEY, &enable_body().to_string()).await;
    assert_eq!(answer.status, 202);
    assert_eq!(answer.json()["registration"], json!({"state": "registering"}));
    assert_eq!(answer.json()["secret"], SECRET);
}

#[tokio::test]
async fn each_reason_not_to_enable_has_its_problem() {
    let refused = |status, reason| EnableError::UpstreamRefused { status, reason };
    for (error, status, name) in [
        (EnableError::DomainNotAllowed, 403, "domain-not-allowed"),
        (EnableError::AddressNotAllowed, 403, "address-not-allowed"),
        (EnableError::TransportNotAllowed, 403, "transport-not-allowed"),
        (EnableError::UpstreamNotFound, 422, "upstream-not-found"),
        (refused(403, Refusal::Forbidden), 422, "upstream-refused"),
        (refused(401, Refusal::Credentials), 422, "upstream-refused"),
        (EnableError::Overtaken, 422, "overtaken"),
        (EnableError::Ended { reason: Some(WipeReason::Operator) }, 422, "ended"),
        (EnableError::Ended { reason: None }, 422, "ended"),
        (EnableError::StoreAway, 503, "store-away"),
        (EnableError::StoreMayPersist, 503, "store-away"),
        (EnableError::TooMany, 503, "full"),
        (EnableError::Draining, 503, "draining"),
    ] {
        let door = Door::new();
        door.script.with(|script| script.refuse = Some(error));
        let answer = door.ask.of("POST", "/v1/instances", APP_KEY, &enable_body().to_string()).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, name));
        assert!(answer.ends_connection, "the request carried a password");
        assert_eq!(answer.header("retry-after").is_empty(), status != 503);
        if let EnableError::UpstreamRefused { status, .. } = error {
            assert_eq!(answer.json()["sip_status"], status);
        }
    }
}

#[tokio::test]
async fn reading_tells_the_state_and_no_secret() {
    let door = Door::new();
    let answer = door.ask.of("GET", &instance_path(), SECRET, "").await;
    assert_eq!(answer.status, 200);
    let id = instance().to_string();
    let expected = json!({
        "instance": id, "state": "active",
        "registration": {"state": "registered", "status": 200, "expires_in_s": 600},
        "created_at": "2026-11-22T09:00:00Z", "expires_at": "2026-11-27T09:00:00Z",
        "device": {
            "label": "Pixel 8",
            "call_push": {"provider": "apns", "environment": "production"},
            "alert_push": {"provider": "fcm"},
        },
        "wake_for": ["call", "voicemail", "missed-call"],
        "presence": "background",
        "edge": {"proxy": "sip:relay1.example.net:5061;transport=tls", "username": id, "realm": "sipwake"},
        "voicemail": {"waiting": true, "new": 2, "old": 1}, "messages": 1, "missed_calls": 3,
    });
    assert_eq!(answer.json(), expected);
    assert!(!answer.ends_connection);
}

#[tokio::test]
async fn a_change_reaches_the_use_case_and_answers_with_the_state() {
    let door = Door::new();
    let body = json!({"device": {"alert_push": null}, "presence": "foreground", "lifetime_s": 259_200});
    let answer = door.ask.of("PATCH", &instance_path(), SECRET, &body.to_string()).await;
    assert_eq!((answer.status, answer.ends_connection), (200, true));
    assert_eq!(answer.json()["instance"], instance().to_string());
    let change = door.script.with(|script| script.changed.remove(0));
    assert_eq!(change.alert_push, Field::Clear);
    assert_eq!((change.presence, change.lifetime_s), (Some(Presence::Foreground), Some(259_200)));

    door.script.with(|script| script.no_provider = true);
    let answer = door.ask.of("PATCH", &instance_path(), SECRET, &body.to_string()).await;
    assert_eq!((answer.status, answer.pointers()), (422, vec!["/device/call_push/provider".to_owned()]));
}

#[tokio::test]
async fn disabling_gives_a_receipt_once() {
    let door = Door::new();
    let answer = door.ask.of("DELETE", &instance_path(), SECRET, "").await;
    let expected = json!({
        "instance": instance().to_string(), "wiped_at": "2026-11-27T09:00:00Z", "reason": "disabled",
        "unregistered": true, "signature": "c2ln",
    });
    assert_eq!((answer.status, answer.json()), (200, expected));
    let again = door.ask.of("DELETE", &instance_path(), SECRET, "").await;
    assert_eq!((again.status, again.problem().as_str()), (404, "unknown-instance"));
}

#[tokio::test]
async fn a_wipe_that_waits_for_the_store_is_202_without_a_receipt() {
    let door = Door::new();
    door.script.with(|script| script.wiping = true);
    let answer = door.ask.of("DELETE", &instance_path(), SECRET, "").await;
    assert_eq!((answer.status, answer.json()), (202, json!({"state": "wiping"})));
    assert!(answer.ends_connection, "the request carried the secret of what is wiped");
}

#[tokio::test]
async fn a_call_can_be_asked_rung_and_declined_until_it_is_over() {
    let door = Door::new();
    let call = path_of(Endpoint::Call);
    let answer = door.ask.of("GET", &call, SECRET, "").await;
    assert_eq!((answer.status, answer.json()), (200, json!({"state": "ringing", "deadline": 1_795_770_000})));
    for action in ["progress", "decline"] {
        let answer = door.ask.of("POST", &format!("{call}/{action}"), SECRET, "").await;
        assert_eq!((answer.status, answer.text.as_str()), (204, ""));
        let over = format!("{}/calls/{}/{action}", instance_path(), cancelled_call());
        let answer = door.ask.of("POST", &over, SECRET, "").await;
        assert_eq!((answer.status, answer.problem().as_str()), (409, "call-over"));
        assert_eq!(answer.json()["state"], "cancelled");
    }
    for unknown in ["c_aaaaaaaaaaaaaaaaaaaaaaaaaa", "nonsense", "%00"] {
        let path = format!("{}/calls/{unknown}", instance_path());
        let answer = door.ask.of("GET", &path, SECRET, "").await;
        assert_eq!((answer.status, answer.problem().as_str()), (404, "unknown-call"), "{unknown}");
        assert_eq!(door.ask.of("GET", &path, "another", "").await.status, 401);
    }
}

#[tokio::test]
async fn without_the_right_key_every_route_is_401_with_a_challenge() {
    for &endpoint in Endpoint::ALL.iter().filter(|endpoint| !matches!(endpoint, Endpoint::Keys | Endpoint::OpenApi)) {
        let door = Door::new();
        let (method, path) = (endpoint.method(), path_of(endpoint));
        // The right key of the other kind is as wrong as any.
        let apps = matches!(endpoint, Endpoint::Enable | Endpoint::Doctor | Endpoint::WebPushKey);
        let other = if apps { SECRET } else { APP_KEY };
        for key in ["", "wr0ng-k3y", other] {
            let answer = door.ask.of(method.as_str(), &path, key, &enable_body().to_string()).await;
            assert_eq!((answer.status, answer.problem().as_str()), (401, "unauthorized"), "{endpoint:?} {key}");
            assert!(answer.header("www-authenticate").starts_with("Bearer realm=\"sipwake\""));
            assert!(key.is_empty() || !answer.text.contains(key));
        }
        assert!(door.script.with(|script| script.enabled.is_empty() && script.changed.is_empty()));
    }
}

#[tokio::test]
async fn an_instance_that_is_not_there_is_404_whatever_secret_is_shown() {
    let door = Door::new();
    for id in ["pi_aaaaaaaaaaaaaaaaaaaaaaaaaa", "pi_", "x", "..", "%2e%2e", "pi_AAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        for method in ["GET", "PATCH", "DELETE"] {
            let answer = door.ask.of(method, &format!("/v1/instances/{id}"), SECRET, "{}").await;
            assert_eq!((answer.status, answer.problem().as_str()), (404, "unknown-instance"), "{method} {id}");
        }
    }
}

#[tokio::test]
async fn while_the_store_is_away_everything_says_so_and_when_to_come_back() {
    let door = Door::new();
    door.script.with(|script| script.store_away = true);
    for &endpoint in Endpoint::ALL {
        if matches!(
            endpoint,
            Endpoint::Enable
                | Endpoint::Wake
                | Endpoint::Doctor
                | Endpoint::Keys
                | Endpoint::WebPushKey
                | Endpoint::OpenApi
        ) {
            continue;
        }
        let answer = door.ask.of(endpoint.method().as_str(), &path_of(endpoint), SECRET, "{}").await;
        assert_eq!((answer.status, answer.problem().as_str()), (503, "store-away"), "{endpoint:?}");
        assert_eq!(answer.header("retry-after"), "5");
    }
}

#[tokio::test]
async fn unknown_paths_are_404_and_wrong_methods_405_with_allow() {
    let door = Door::new();
    for path in ["/", "/v1", "/v1/instances/", "/v2/instances", "/v1/wakes", "/v1/instances/a/calls", "//", "/healthz"]
    {
        let answer = door.ask.of("GET", path, APP_KEY, "").await;
        assert_eq!((answer.status, answer.problem().as_str()), (404, "not-found"), "{path}");
    }
    for (method, path, allow) in [
        ("GET", "/v1/instances".to_owned(), "POST"),
        ("PUT", instance_path(), "GET,HEAD,PATCH,DELETE"),
        ("POST", instance_path(), "GET,HEAD,PATCH,DELETE"),
        ("GET", "/v1/wake".to_owned(), "POST"),
        ("DELETE", path_of(Endpoint::Call), "GET,HEAD"),
        ("GET", path_of(Endpoint::Decline), "POST"),
        ("POST", "/v1/openapi.json".to_owned(), "GET,HEAD"),
    ] {
        let answer = door.ask.of(method, &path, SECRET, "").await;
        assert_eq!((answer.status, answer.problem().as_str()), (405, "method-not-allowed"), "{method} {path}");
        let mut allowed: Vec<_> = answer.header("allow").split(',').collect();
        let mut expected: Vec<_> = allow.split(',').collect();
        allowed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(allowed, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn bodies_of_another_type_size_or_grammar_have_each_their_status() {
    let door = Door::new();
    let valid = enable_body().to_string();
    let send = |content_type: &'static str, extra: (&'static str, &'static str), body: String| {
        let request = Request::post("/v1/instances")
            .header("authorization", format!("Bearer {APP_KEY}"))
            .header("content-type", content_type)
            .header(extra.0, extra.1);
        door.ask.send(request.body(Full::<Bytes>::from(body)).unwrap())
    };
    let none = ("accept", "*/*");
    let padded = format!("{valid}{}", " ".repeat(16 * 1024 - valid.len()));
    for (content_type, extra, body, status, name) in [
        ("text/plain", none, valid.clone(), 415, "unsupported-media-type"),
        ("application/x-www-form-urlencoded", none, valid.clone(), 415, "unsupported-media-type"),
        ("application/merge-patch+json", none, valid.clone(), 415, "unsupported-media-type"),
        ("application/json; charset=utf-16", none, valid.clone(), 415, "unsupported-media-type"),
        ("application/json", ("content-encoding", "gzip"), valid.clone(), 415, "unsupported-media-type"),
        ("application/json", ("content-length", "16385"), valid.clone(), 413, "body-too-large"),
        ("application/json", none, format!("{padded} "), 413, "body-too-large"),
        ("application/json", none, String::new(), 400, "malformed-json"),
        ("application/json", none, valid[..valid.len() - 1].to_owned(), 400, "malformed-json"),
        ("application/json", none, format!("{valid}{valid}"), 400, "malformed-json"),
        ("application/json", none, "[]".to_owned(), 422, "invalid-body"),
        ("application/json", none, "null".to_owned(), 422, "invalid-body"),
    ] {
        let answer = send(content_type, extra, body).await;
        assert_eq!((answer.status, answer.problem().as_str()), (status, name), "{content_type} {extra:?}");
        assert!(!answer.text.contains(PASSWORD));
        assert!(answer.ends_connection);
    }
    assert_eq!(send("application/json", none, padded).await.status, 201, "16 KiB exactly");
}

#[tokio::test]
async fn an_invalid_body_is_answered_with_all_of_its_errors_at_once() {
    let door = Door::new();
    let body = json!({
        "account": {"aor": "sip:alice@example.com\r\nVia: x", "password": 7, "registrar": "ftp://x"},
        "device": {"call_push": {"provider": "apns", "token": "abc", "environment": "staging"}, "colour": "red"},
        "lifetime_s": "long",
        "wake_for": "call",
    });
    let answer = door.ask.of("POST", "/v1/instances", APP_KEY, &body.to_string()).await;
    assert_eq!((answer.status, answer.problem().as_str()), (422, "invalid-body"));
    let expected = [
        "/account/aor",
        "/account/password",
        "/account/registrar",
        "/device/colour",
        "/device/call_push/environment",
        "/device/call_push/token",
        "/lifetime_s",
        "/wake_for",
    ];
    assert_eq!(answer.pointers(), expected);
    let duplicate = r#"{"account": {"aor": "sip:a@b", "password": "p", "password": "q"}, "device": {}}"#;
    let answer = door.ask.of("POST", "/v1/instances", APP_KEY, duplicate).await;
    assert_eq!(answer.pointers(), ["/account/password", "/device/call_push"]);
    assert!(door.script.with(|script| script.enabled.is_empty()));
}

#[tokio::test]
async fn wrong_keys_wait_longer_and_longer_and_right_ones_from_their_address_are_always_served() {
    let limits = Limits { failures_per_address: Rate::per_second(1, 3), ..Limits::default() };
    let door = Door::limited(limits);
    let (enable, wake) = (enable_body().to_string(), json!({"aor": "sip:alice@example.com"}).to_string());
    let path = instance_path();
    let mut pauses = Vec::new();
    for guess in 0..170 {
        // Keys of every kind are counted together.
        let answer = match guess % 3 {
            0 => door.ask.from("192.0.2.1:1", "GET", &path, "guess", "").await,
            1 => door.ask.from("192.0.2.1:2", "POST", "/v1/instances", "guess", &enable).await,
            _ => door.ask.from("192.0.2.1:3", "POST", "/v1/wake", "guess", &wake).await,
        };
        match answer.status {
            401 => assert!(pauses.is_empty(), "once slowed down, a guesser stays so"),
            429 => pauses.push(answer.header("retry-after").parse::<u64>().unwrap()),
            other => panic!("{other}"),
        }
    }
    assert!((164..=167).contains(&pauses.len()), "{} of 170 were slowed down", pauses.len());
    assert!(pauses.is_sorted() && pauses[0] == 1 && *pauses.last().unwrap() > 100, "{pauses:?}");
    for _ in 0..10 {
        assert_eq!(door.ask.from("192.0.2.1:4", "GET", &path, SECRET, "").await.status, 200);
        assert_eq!(door.ask.from("192.0.2.1:5", "POST", "/v1/instances", APP_KEY, &enable).await.status, 201);
    }
    assert_eq!(door.ask.from("192.0.2.1:6", "POST", "/v1/wake", SERVER_KEY, &wake).await.status, 200);
    assert_eq!(door.ask.from("192.0.2.9:1", "GET", &path, "guess", "").await.status, 401, "another address");
}

#[tokio::test]
async fn enablings_are_limited_by_address_and_by_app() {
    let (wide, narrow) = (Rate::per_second(1000, 1000), Rate::per_second(1, 1));
    let wide_open = Limits { failures_per_address: wide, ..Limits::default() };
    for (limits, other_passes) in [
        (Limits { enable_per_app: wide, enable_per_address: narrow, ..wide_open }, true),
        (Limits { enable_per_app: narrow, enable_per_address: wide, ..wide_open }, false),
    ] {
        let door = Door::limited(limits);
        let body = enable_body().to_string();
        let from = |peer: &'static str| door.ask.from(peer, "POST", "/v1/instances", APP_KEY, &body);
        assert_eq!(from("192.0.2.1:1").await.status, 201);
        assert_eq!(from("192.0.2.1:2").await.status, 429);
        assert_eq!(from("192.0.2.2:1").await.status == 201, other_passes);
    }
}

#[tokio::test]
async fn requests_are_counted_by_template_and_never_by_path() {
    let door = Door::new();
    door.ask.of("GET", &instance_path(), SECRET, "").await;
    door.ask.of("GET", &instance_path(), "wrong", "").await;
    door.ask.of("GET", "/v1/private-thing", SECRET, "").await;
    let text = door.metrics.render();
    for line in [
        r#"sipwake_http_requests_total{route="/v1/instances/{id}",status="200"} 1"#,
        r#"sipwake_http_requests_total{route="/v1/instances/{id}",status="401"} 1"#,
        r#"sipwake_http_requests_total{route="unmatched",status="404"} 1"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains(&instance().to_string()) && !text.contains("private-thing"));
}

#[tokio::test]
async fn the_description_and_the_routes_tell_the_same() {
    let door = Door::new();
    let answer = door.ask.of("GET", "/v1/openapi.json", "", "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let openapi = answer.json();
    let mut described = Vec::new();
    for (path, item) in openapi["paths"].as_object().unwrap() {
        let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
        described.extend(methods.map(|method| (method.to_uppercase(), path.clone())));
    }
    let served = Endpoint::ALL.iter().map(|endpoint| (endpoint.method().to_string(), endpoint.template().to_owned()));
    let mut served: Vec<_> = served.collect();
    described.sort();
    served.sort();
    assert_eq!(described, served);
    let kinds = openapi["components"]["schemas"]["Problem"]["properties"]["type"]["enum"].as_array().unwrap();
    let kinds: Vec<_> = kinds.iter().map(|kind| kind.as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ProblemType::ALL.iter().map(|kind| kind.urn()).collect::<Vec<_>>());
    for reference in references(&openapi) {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(openapi.pointer(pointer).is_some(), "{reference}");
    }
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| match value {
                Value::String(text) if key == "$ref" => vec![text.clone()],
                value => references(value),
            })
            .collect(),
        Value::Array(list) => list.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn anybody_may_have_the_key_that_receipts_are_signed_with() {
    let answer = Door::new().ask.of("GET", "/v1/keys", "", "").await;
    let key = &answer.json()["keys"][0];
    assert_eq!((answer.status, &key["crv"], &key["x"]), (200, &json!("Ed25519"), &json!("BwcH".repeat(10) + "Bwc")));
}
