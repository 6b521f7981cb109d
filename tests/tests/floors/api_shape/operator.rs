//! The operators' listener: who is let in, what health and readiness say, and that nothing tells whose an instance is.

use hyper_util::service::TowerToHyperService;
use relay::metrics::Metrics;
use relay::operator::readiness::{Check, Readiness};
use relay::operator::{Endpoint, Operator};
use relay::secret::ApiKey;
use serde_json::json;

use super::scripted::{Ask, SECRET, Scripted, instance, ringing_call};

const TOKEN: &str = "operator-token-1";

struct Desk {
    script: Scripted,
    readiness: Readiness,
    ask: Ask,
}

impl Desk {
    fn new() -> Self {
        let (script, readiness) = (Scripted::default(), Readiness::default());
        let operator = Operator::new(&ApiKey::new(TOKEN), script.clone(), Metrics::new(), readiness.clone());
        Self { script, readiness, ask: Ask::new(TowerToHyperService::new(operator.router())) }
    }
}

fn path_of(endpoint: Endpoint) -> String {
    endpoint.template().replace("{id}", &instance().to_string())
}

#[tokio::test]
async fn health_and_readiness_are_open_and_nothing_else_is() {
    let desk = Desk::new();
    for &endpoint in Endpoint::ALL {
        let (method, path) = (endpoint.method(), path_of(endpoint));
        for key in ["", "wrong", SECRET] {
            let answer = desk.ask.of(method.as_str(), &path, key, "").await;
            assert_eq!(answer.status == 401, !endpoint.is_open(), "{endpoint:?} {key}");
            if answer.status == 401 {
                assert_eq!(answer.problem(), "unauthorized");
                assert!(answer.header("www-authenticate").starts_with("Bearer"));
            }
        }
    }
    assert_eq!(desk.ask.of("GET", "/nothing", "", "").await.status, 401);
    assert_eq!(desk.ask.of("GET", "/nothing", TOKEN, "").await.problem(), "not-found");
    assert_eq!(desk.ask.of("DELETE", "/metrics", TOKEN, "").await.problem(), "method-not-allowed");
    assert!(!desk.script.with(|script| script.wiped));
}

/// RFC 7617, as a browser sends it.
fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

#[tokio::test]
async fn a_browser_is_asked_for_the_token_as_a_password_and_let_in_with_it_alone() {
    let desk = Desk::new();
    let asked = desk.ask.of("GET", "/", "", "").await;
    let challenges = asked.headers("www-authenticate");
    assert!(challenges.iter().any(|challenge| challenge.starts_with("Basic realm=")), "{challenges:?}");
    for (credentials, status) in [
        (basic("", TOKEN), 200),
        (basic("anybody", TOKEN), 200),
        (basic(TOKEN, ""), 401),
        (basic("anybody", "wrong"), 401),
        ("Basic !!!".to_owned(), 401),
        (format!("Basic {}", "A".repeat(4_000)), 401),
    ] {
        assert_eq!(desk.ask.with_authorization("GET", "/", &credentials).await.status, status, "{credentials}");
    }
    let mut statuses = Vec::new();
    for _ in 0..200 {
        statuses.push(desk.ask.with_authorization("GET", "/", &basic("x", "guess")).await.status);
    }
    assert!(statuses.last() == Some(&429), "guesses are slowed down like any other");
}

/// A page of a stranger can have a browser send a form with the credentials that it remembers.
#[tokio::test]
async fn a_browsers_password_changes_nothing() {
    let desk = Desk::new();
    for &endpoint in Endpoint::ALL.iter().filter(|endpoint| !endpoint.is_open()) {
        let (method, path) = (endpoint.method(), path_of(endpoint));
        let answer = desk.ask.with_authorization(method.as_str(), &path, &basic("", TOKEN)).await;
        assert_eq!(answer.status == 401, method != "GET", "{endpoint:?}: {}", answer.status);
        if answer.status == 401 {
            let challenges = answer.headers("www-authenticate");
            assert!(challenges.iter().all(|challenge| challenge.starts_with("Bearer")), "{challenges:?}");
        }
    }
    assert!(!desk.script.with(|script| script.wiped));
}

#[tokio::test]
async fn readiness_says_what_is_missing() {
    let desk = Desk::new();
    assert_eq!(desk.ask.of("GET", "/healthz", "", "").await.status, 200);
    let answer = desk.ask.of("GET", "/readyz", "", "").await;
    assert_eq!((answer.status, answer.problem().as_str()), (503, "not-ready"));
    for &check in Check::ALL {
        desk.readiness.pass(check);
    }
    assert_eq!(desk.ask.of("GET", "/readyz", "", "").await.status, 200);
    desk.readiness.fail(Check::Store, "Redis does not answer");
    let answer = desk.ask.of("GET", "/readyz", "", "").await;
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("degraded")), "known phones ring");
    assert!(answer.json()["detail"].as_str().unwrap_or_default().contains("enabling and changes are answered 503"));
    desk.readiness.fail(Check::Serving, "shutting down");
    let answer = desk.ask.of("GET", "/readyz", "", "").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["detail"], "store: Redis does not answer; serving: shutting down");
    assert_eq!(answer.json()["checks"][0], json!({"check": "store", "ok": false, "why": "Redis does not answer"}));
    assert_eq!(desk.ask.of("GET", "/healthz", "", "").await.status, 200, "it still serves");
}

#[tokio::test]
async fn metrics_and_the_status_page_are_for_the_operator() {
    let desk = Desk::new();
    let metrics = desk.ask.of("GET", "/metrics", TOKEN, "").await;
    assert_eq!(metrics.status, 200);
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert!(metrics.text.contains("# TYPE sipwake_instances gauge"));
    let page = desk.ask.of("GET", "/", TOKEN, "").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").starts_with("default-src 'none'"));
    assert!(page.text.contains("width=device-width") && page.text.contains("prefers-color-scheme"));
    for answer in [metrics, page] {
        assert!(!answer.text.contains(TOKEN) && !answer.text.contains("pi_"));
    }
}

#[tokio::test]
async fn instances_are_listed_page_by_page() {
    let desk = Desk::new();
    let id = instance().to_string();
    let one = json!({
        "instance": id, "kind": "lent", "app": "com.example.phone", "state": "active",
        "registration": {"state": "registered", "status": 200, "expires_in_s": 600},
        "created_at": "2026-11-22T09:00:00Z", "expires_at": "2026-11-27T09:00:00Z",
        "call_push": {"provider": "apns", "environment": "sandbox"}, "alert_push": null,
    });
    let list = desk.ask.of("GET", "/v1/operator/instances?limit=1", TOKEN, "").await;
    assert_eq!((list.status, list.json()), (200, json!({"instances": [one], "next": id})));
    let rest = desk.ask.of("GET", &format!("/v1/operator/instances?after={id}&limit=1"), TOKEN, "").await;
    assert_eq!(rest.json(), json!({"instances": [], "next": null}));
    let chosen = desk.ask.of("GET", "/v1/operator/instances?app=com.example.phone&domain=Example.com", TOKEN, "").await;
    assert_eq!(chosen.json()["instances"], json!([one]));
    for query in ["limit=0", "limit=1001", "limit=x", "after=x", "limit", "offset=3", "app=", "domain="] {
        let answer = desk.ask.of("GET", &format!("/v1/operator/instances?{query}"), TOKEN, "").await;
        assert_eq!((answer.status, answer.problem().as_str()), (400, "bad-request"), "{query}");
    }
    assert_eq!(desk.ask.of("GET", &path_of(Endpoint::Show), TOKEN, "").await.json(), one);
}

#[tokio::test]
async fn an_account_is_found_by_the_hash_of_its_aor_and_by_nothing_else() {
    let desk = Desk::new();
    // printf alice@example.com | sha256sum
    let hash = "ff8d9819fc0e12bf0d24892e45987e249a28dce836a85cad60e28eaaa8c6d976";
    let find = async |body: &str| desk.ask.of("POST", "/v1/operator/instances/find", TOKEN, body).await;
    let found = find(&json!({"aor_sha256": hash}).to_string()).await;
    assert_eq!((found.status, &found.json()["instances"][0]["instance"]), (200, &json!(instance().to_string())));
    let nobody = find(&json!({"aor_sha256": "0".repeat(64)}).to_string()).await;
    assert_eq!((nobody.status, nobody.json()), (200, json!({"instances": []})));
    for wrong in
        [json!({}), json!({"aor_sha256": "ff"}), json!({"aor_sha256": 7}), json!({"aor": "sip:alice@example.com"})]
    {
        assert_eq!(find(&wrong.to_string()).await.status, 422, "{wrong}");
    }
}

#[tokio::test]
async fn an_instance_is_exported_and_wiped_on_the_operators_word() {
    let desk = Desk::new();
    let export = desk.ask.of("GET", &path_of(Endpoint::Export), TOKEN, "").await.json();
    assert_eq!(export["wake_for"], json!(["call"]));
    let call = json!({"call": ringing_call().to_string(), "state": "ringing", "deadline": 1_795_770_000});
    assert_eq!(export["calls"], json!([call]));
    let receipt = desk.ask.of("POST", &path_of(Endpoint::Wipe), TOKEN, "").await;
    assert_eq!((receipt.status, &receipt.json()["reason"]), (200, &json!("operator")));
    let again = desk.ask.of("POST", &path_of(Endpoint::Wipe), TOKEN, "").await;
    assert_eq!((again.status, again.problem().as_str()), (404, "unknown-instance"));
    desk.script.with(|script| script.store_away = true);
    assert_eq!(desk.ask.of("GET", "/v1/operator/instances", TOKEN, "").await.problem(), "store-away");
}

#[tokio::test]
async fn an_operators_wipe_that_waits_for_the_store_is_202_without_a_receipt() {
    let desk = Desk::new();
    desk.script.with(|script| script.wiping = true);
    let answer = desk.ask.of("POST", &path_of(Endpoint::Wipe), TOKEN, "").await;
    assert_eq!((answer.status, answer.json()), (202, json!({"state": "wiping"})));
}

#[tokio::test]
async fn guesses_of_the_token_are_slowed_down_and_the_operator_at_the_same_address_is_let_in() {
    let desk = Desk::new();
    let mut statuses = Vec::new();
    for _ in 0..200 {
        statuses.push(desk.ask.of("GET", "/metrics", "guess", "").await.status);
        assert_eq!(desk.ask.of("GET", "/metrics", TOKEN, "").await.status, 200);
    }
    assert!(statuses[..50].iter().all(|&status| status == 401));
    assert!(statuses[150..].iter().all(|&status| status == 429));
}

#[tokio::test]
async fn an_operator_records_an_instance_and_fetches_and_erases_the_trace() {
    let desk = Desk::new();
    let path = path_of(Endpoint::Trace);
    assert_eq!(desk.ask.of("GET", &path, TOKEN, "").await.problem(), "no-trace");
    assert_eq!(desk.ask.of("POST", &path, TOKEN, "{\"for_s\": 60}").await.status, 202);
    let answer = desk.ask.of("GET", &path, TOKEN, "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/x-pcapng"));
    assert_eq!(desk.ask.of("DELETE", &path, TOKEN, "").await.status, 204);
    assert_eq!(desk.ask.of("POST", &path, "not-the-token", "{}").await.status, 401);
}

#[tokio::test]
async fn a_canary_of_an_app_that_the_relay_does_not_have_is_refused() {
    let readiness = Readiness::default();
    let operator = Operator::new(&ApiKey::new(TOKEN), Scripted::default(), Metrics::new(), readiness);
    operator.know_apps(Box::new(["com.example.phone".into()]));
    let ask = Ask::new(TowerToHyperService::new(operator.router()));
    for (app, status) in [("com.example.phone", 204), ("com.nope", 422), ("com.example.phone2", 422)] {
        let told = format!("{{\"app\": \"{app}\", \"ms\": {{\"push\": 5}}}}");
        let answer = ask.of("POST", "/v1/operator/canary", TOKEN, &told).await;
        assert_eq!(answer.status, status, "{app}: {}", answer.text);
    }
    let metrics = ask.of("GET", "/metrics", TOKEN, "").await;
    assert!(metrics.text.contains("app=\"com.example.phone\"") && !metrics.text.contains("com.nope"));
}
