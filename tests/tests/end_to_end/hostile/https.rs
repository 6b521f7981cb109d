//! What an app or an operator should never send over HTTPS.

use bytes::Bytes;
use hyper::Version;
use serde_json::{Value, json};
use tests::api_client::{Answer, ApiClient};
use tests::raw::{ELSEWHERE, Raw};
use tests::relay_process::Setup;
use tests::wire::Transport;
use tests::world::{Outcome, SOON, World};
use tokio::net::TcpListener;

/// Stands in every bad value, so that an echo is seen.
const MARK: &str = "zq7xmark";
const JSON: Option<&str> = Some("application/json");

/// One request that must be refused.
struct Wrong {
    what: &'static str,
    method: &'static str,
    path: String,
    bearer: Option<String>,
    media: Option<&'static str>,
    body: Bytes,
    expected: u16,
}

fn refused(answer: &Answer, expected: u16, what: &str) {
    assert_eq!(answer.status, expected, "{what}: {}", answer.text());
    assert_eq!(answer.headers["content-type"], "application/problem+json", "{what}");
    let problem = answer.json();
    assert_eq!(problem["status"], expected, "{what}");
    assert!(answer.problem().is_some() && problem["detail"].is_string(), "{what}: {problem}");
    assert!(!answer.text().contains(MARK), "{what}: {problem}");
}

/// Enablings that are wrong in one place each; the rest of the body is right.
fn wrong_bodies(world: &World) -> Vec<(&'static str, Bytes, u16)> {
    let right = world.enable_request_anew("mallory");
    let with = |pointer: &str, value: Value| {
        let mut body = right.clone();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[key] = value;
        Bytes::from(body.to_string())
    };
    let text = right.to_string();
    let deep = "[".repeat(8_000) + &"]".repeat(8_000);
    vec![
        ("nothing", Bytes::new(), 400),
        ("half of it", Bytes::from(text[..text.len() / 2].to_owned()), 400),
        ("no JSON", Bytes::from(format!("{{\"account\": {MARK}}}")), 400),
        ("bytes that are not UTF-8", Bytes::from_static(b"{\"account\": \"\xff\xfe\"}"), 400),
        ("two documents", Bytes::from(format!("{text}{text}")), 400),
        ("sixteen thousand brackets", Bytes::from(deep), 422),
        ("a list", Bytes::from_static(b"[]"), 422),
        ("a number", Bytes::from_static(b"1e999999"), 422),
        ("an unknown key", with("/account/surprise", json!(MARK)), 422),
        ("the key twice", Bytes::from(text.replacen('{', "{\"account\":{\"aor\":\"zq7xmark\"},", 1)), 422),
        ("a number for the AOR", with("/account/aor", json!(7)), 422),
        ("a list for the password", with("/account/password", json!([MARK])), 422),
        ("null for the device", with("/device", Value::Null), 422),
        ("a password with a line end", with("/account/password", json!("zq7xmark\r\nX: y")), 422),
        ("a user with a NUL", with("/account/auth_username", json!("zq7xmark\u{0}")), 422),
        ("an AOR with a line end", with("/account/aor", json!("sip:alice\r\nX: zq7xmark@example.test")), 422),
        ("an AOR with headers", with("/account/aor", json!("sip:alice@example.test?Route=zq7xmark")), 422),
        ("an AOR beyond 255", with("/account/aor", json!(format!("sip:{MARK}{}@example.test", "a".repeat(255)))), 422),
        ("a registrar beyond port 65535", with("/account/registrar", json!("sip:127.0.0.1:65536")), 422),
        ("a registrar with a user", with("/account/registrar", json!("sip:zq7xmark@127.0.0.1")), 422),
        ("a registrar that is no SIP", with("/account/registrar", json!("https://zq7xmark.test/")), 422),
        ("a token with a path", with("/device/call_push/token", json!("../../zq7xmark")), 422),
        ("a provider that is none", with("/device/call_push/provider", json!(MARK)), 422),
        ("a lifetime below zero", with("/lifetime_s", json!(-1)), 422),
        ("a lifetime beyond the range", with("/lifetime_s", json!(u64::MAX)), 422),
        ("a lifetime that is half a second", with("/lifetime_s", json!(0.5)), 422),
        ("a thousand events", with("/wake_for", json!(vec![MARK; 1_000])), 422),
        ("a label of 16,000", with("/device/label", json!(MARK.repeat(1_900))), 422),
        ("an HA1 beside a password", with("/account/ha1", json!({"realm": MARK, "MD5": "0".repeat(32)})), 422),
        ("more than 16 KiB", Bytes::from(format!("{text}{}", " ".repeat(16 * 1024))), 413),
        ("a million bytes", Bytes::from(vec![b' '; 1_000_000]), 413),
    ]
}

fn wrong_requests(world: &World, other: &str) -> Vec<Wrong> {
    let key = Some(world.relay.setup().apps[0].api_key.clone());
    let (id, secret) = (&world.bystander().id, Some(world.bystander().secret.clone()));
    let right = Bytes::from(world.enable_request_anew("mallory").to_string());
    let (enable, own) = ("/v1/instances", format!("/v1/instances/{id}"));
    let wrong = |what, method, path: &str, bearer: &Option<String>, media, body: &Bytes, expected| Wrong {
        what,
        method,
        path: path.to_owned(),
        bearer: bearer.clone(),
        media,
        body: body.clone(),
        expected,
    };
    let mark = Some(MARK.to_owned());
    let others = Some(other.to_owned());
    let long = Some(MARK.repeat(200));
    let (none, empty) = (None, Bytes::new());
    let call = format!("{own}/calls/c_{MARK}");
    let mut all = vec![
        wrong("no key", "POST", enable, &none, JSON, &right, 401),
        wrong("a wrong key", "POST", enable, &mark, JSON, &right, 401),
        wrong("a key of 1,600", "POST", enable, &long, JSON, &right, 401),
        wrong("an instance's secret for a key", "POST", enable, &secret, JSON, &right, 401),
        wrong("no media type", "POST", enable, &key, None, &right, 415),
        wrong("a form", "POST", enable, &key, Some("application/x-www-form-urlencoded"), &right, 415),
        wrong("JSON in UTF-16", "POST", enable, &key, Some("application/json; charset=utf-16"), &right, 415),
        wrong("no secret", "GET", &own, &none, None, &empty, 401),
        wrong("a wrong secret", "GET", &own, &mark, None, &empty, 401),
        wrong("the app's key for a secret", "GET", &own, &key, None, &empty, 401),
        wrong("another instance's secret", "GET", &own, &others, None, &empty, 401),
        wrong("its end by another", "DELETE", &own, &others, None, &empty, 401),
        wrong("a change by another", "PATCH", &own, &others, JSON, &Bytes::from_static(b"{}"), 401),
        wrong("a call of another", "GET", &call, &others, None, &empty, 401),
        wrong("a call that is none", "GET", &call, &secret, None, &empty, 404),
        wrong("no such instance", "GET", "/v1/instances/pi_zq7xmark", &secret, None, &empty, 404),
        wrong("a climb", "GET", "/v1/instances/../../etc/passwd", &key, None, &empty, 404),
        wrong("an escaped climb", "GET", "/v1/instances/%2e%2e%2f%00zq7xmark", &secret, None, &empty, 404),
        wrong("an unknown method", "BREW", enable, &key, None, &empty, 405),
    ];
    for (what, body, expected) in wrong_bodies(world) {
        all.push(wrong(what, "POST", enable, &key, JSON, &body, expected));
    }
    let changes = [
        ("no JSON in a change", "{", 400),
        ("an unknown key in a change", "{\"surprise\": \"zq7xmark\"}", 422),
        ("a presence that is none", "{\"presence\": \"zq7xmark\"}", 422),
        ("a lifetime that is text", "{\"lifetime_s\": \"zq7xmark\"}", 422),
    ];
    for (what, body, expected) in changes {
        all.push(wrong(what, "PATCH", &own, &secret, JSON, &Bytes::from_static(body.as_bytes()), expected));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_app_should_send_is_refused_as_the_contract_says_and_leaves_nothing() -> Outcome {
    let world = World::attacked().await?;
    let other = world.lend("trent").await?;
    let registers = world.registrar.register_count();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let api = world.relay.api_over(version);
        for wrong in wrong_requests(&world, &other.secret) {
            let Wrong { what, method, path, bearer, media, body, expected } = wrong;
            let answer = api.raw(method, &path, bearer.as_deref(), media, body).await;
            let answer = answer.unwrap_or_else(|error| panic!("{what} over {version:?}: {error}"));
            refused(&answer, expected, what);
            world.secrets.assert_none_in(what, &answer.text());
        }
    }
    assert_eq!(world.registrar.register_count(), registers, "no SIP server was spoken to");
    assert_eq!(world.relay.metric("sipwake_instances{state=\"registered\"}").await, Some(2.0));
    assert_eq!(world.api.read(&other).await?.status, 200);
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_secrets_is_slowed_down_and_the_owner_is_still_let_in() -> Outcome {
    let world = World::attacked().await?;
    let path = format!("/v1/instances/{}", world.bystander().id);
    let api = world.relay.api();
    let mut limited = 0;
    let owner = world.bystander().clone();
    for guess in 0..300 {
        let answer = api.raw("GET", &path, Some(&format!("{MARK}{guess}")), None, Bytes::new()).await?;
        refused(&answer, if answer.status == 429 { 429 } else { 401 }, "a guess");
        if answer.status == 429 {
            assert!(answer.headers.contains_key("retry-after"));
            limited += 1;
        }
        if guess % 10 == 0 {
            assert_eq!(api.read(&owner).await?.status, 200, "after {guess} guesses from the same address");
        }
    }
    assert!(limited > 100, "{limited} of 300 guesses were slowed down");
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_needs_the_token_for_all_but_the_health() -> Outcome {
    let world = World::attacked().await?;
    let setup = world.relay.setup();
    let open = ApiClient::new(world.relay.operator_address(), Version::HTTP_11, &setup.authority, None);
    assert_eq!(open.get("/healthz").await?.status, 200);
    assert_eq!(open.get("/readyz").await?.status, 200);
    let key = setup.apps[0].api_key.as_str();
    let secret = world.bystander().secret.as_str();
    let of_one = format!("/v1/operator/instances/{}", world.bystander().id);
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/v1/operator/instances"),
        ("GET", &of_one),
        ("GET", &format!("{of_one}/export")),
        ("POST", &format!("{of_one}/wipe")),
    ] {
        for shown in [None, Some(MARK), Some(""), Some(key), Some(secret)] {
            let answer = open.raw(method, path, shown, None, Bytes::new()).await?;
            refused(&answer, 401, path);
            world.secrets.assert_none_in(path, &answer.text());
        }
    }
    world.unharmed().await
}

/// Every way to write an address that the relay may not reach; `{port}` is the trap's.
const INSIDE: &[(&str, u16)] = &[
    ("127.0.0.2:{port}", 403),
    ("127.255.255.254:{port}", 403),
    ("0.0.0.0:{port}", 403),
    ("10.0.0.1:5061", 403),
    ("172.16.0.1", 403),
    ("192.168.0.1:5061", 403),
    ("100.64.0.1", 403),
    ("169.254.169.254:80", 403),
    ("224.0.0.1", 403),
    ("255.255.255.255", 403),
    ("[::1]:{port}", 403),
    ("[::]:{port}", 403),
    ("[::127.0.0.2]:{port}", 403),
    ("[::ffff:127.0.0.2]:{port}", 403),
    ("[::ffff:10.0.0.1]:5061", 403),
    ("[::ffff:a9fe:a9fe]", 403),
    ("[64:ff9b::7f00:2]:{port}", 403),
    ("[2002:7f00:2::1]:{port}", 403),
    ("[fe80::1]", 403),
    ("[fd00::1]", 403),
    ("[ff02::1]", 403),
    // Names that every resolver answers with loopback.
    ("localhost:{port}", 403),
    ("localhost.localdomain.localhost:{port}", 403),
    // What some resolvers read as 127.0.0.2, and we as nothing.
    ("2130706434:{port}", 422),
    ("0x7f000002:{port}", 422),
    ("0x7f.0.0.2:{port}", 422),
    ("0177.0.0.2:{port}", 422),
    ("127.2:{port}", 422),
    ("127.0.0.02:{port}", 422),
    ("127.0.0.2.:{port}", 422),
    ("[fe80::1%25lo]:{port}", 422),
    ("[::ffff:0x7f.0.0.2]:{port}", 422),
    ("127.0.0.2%00.example.test:{port}", 422),
    ("127.0.0.2#@example.test", 422),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_account_makes_the_relay_speak_to_an_inside_address() -> Outcome {
    let world = World::attacked_with(|setup| setup.allow_addresses = vec!["127.0.0.1/32".to_owned()]).await?;
    let trap = TcpListener::bind(("127.0.0.2", 0)).await?;
    let port = trap.local_addr().unwrap().port().to_string();
    for (host, expected) in INSIDE {
        let host = host.replace("{port}", &port);
        // 127.0.0.1 alone is listed, and that is what a name of loopback leads to.
        let loopback_name = host.starts_with("localhost");
        for key in ["registrar", "outbound_proxy"] {
            let mut request = world.enable_request_anew("mallory");
            request["account"][key] = json!(format!("sip:{host};transport=tcp"));
            let answer = world.api.enable(&request).await?;
            if loopback_name {
                assert!(matches!(answer.status, 202 | 403 | 422), "{host}: {}", answer.text());
                continue;
            }
            refused(&answer, *expected, &host);
            let named = answer.problem().unwrap();
            let kinds = ["address-not-allowed", "invalid-body", "upstream-not-found"];
            assert!(kinds.contains(&named.as_str()), "{host}: {named}");
        }
    }
    let caught = tokio::time::timeout(std::time::Duration::from_millis(1), trap.accept()).await;
    assert!(caught.is_err(), "the relay dialled an address that it may not");
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_listed_network_loopback_is_refused_by_name_and_by_number() -> Outcome {
    let only_tls = |setup: &mut Setup| {
        setup.allow_addresses = Vec::new();
        setup.transports = vec![Transport::Tls];
        let hosts = ["example.test", "127.0.0.1", "localhost", "*.localhost", "[::1]", "[::ffff:127.0.0.1]"];
        setup.domains = hosts.map(str::to_owned).to_vec();
    };
    let world = World::attacked_alone(only_tls).await?;
    let trap = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = trap.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost", "LOCALHOST", "sip.localhost", "[::1]", "[::ffff:127.0.0.1]"] {
        let mut request = world.enable_request_anew("mallory");
        request["account"]["registrar"] = json!(format!("sip:{host}:{port};transport=tls"));
        let answer = world.api.enable(&request).await?;
        refused(&answer, 403, host);
        assert_eq!(answer.problem().as_deref(), Some("address-not-allowed"), "{host}");
    }
    for (registrar, problem) in [
        ("sip:127.0.0.1;transport=udp", "transport-not-allowed"),
        ("sip:127.0.0.1;transport=tcp", "transport-not-allowed"),
    ] {
        let mut request = world.enable_request_anew("mallory");
        request["account"]["registrar"] = json!(registrar);
        let answer = world.api.enable(&request).await?;
        refused(&answer, 403, registrar);
        assert!([Some(problem), Some("address-not-allowed")].contains(&answer.problem().as_deref()), "{registrar}");
    }
    for aor in ["sip:mallory@elsewhere.test", "sip:mallory@example.test.elsewhere.test", "sip:mallory@test"] {
        let mut request = world.enable_request_anew("mallory");
        request["account"]["aor"] = json!(aor);
        let answer = world.api.enable(&request).await?;
        refused(&answer, 403, aor);
        assert_eq!(answer.problem().as_deref(), Some("domain-not-allowed"), "{aor}");
    }
    assert!(tokio::time::timeout(std::time::Duration::from_millis(1), trap.accept()).await.is_err());
    world.unharmed().await
}

/// Requests of HTTP/1.1 whose end, or whose head, is in doubt. None may be answered as two requests with success, and
/// the connection must end.
fn doubtful() -> Vec<(&'static str, Vec<u8>)> {
    let hidden = "GET /v1/openapi.json HTTP/1.1\r\nHost: hidden\r\n\r\n";
    let post = |headers: &str, body: &str| format!("POST /v1/instances HTTP/1.1\r\nHost: relay\r\n{headers}\r\n{body}");
    let many: String = (0..2_000).map(|number| format!("X-{number}: y\r\n")).collect();
    vec![
        ("two lengths", post("Content-Length: 4\r\nContent-Length: 60\r\n", hidden).into()),
        ("a negative length", post("Content-Length: -1\r\n", hidden).into()),
        ("a length with a sign", post("Content-Length: +4\r\n", hidden).into()),
        ("a length of 2^64", post("Content-Length: 18446744073709551620\r\n", hidden).into()),
        ("a hexadecimal length", post("Content-Length: 0x4\r\n", hidden).into()),
        ("a list of lengths", post("Content-Length: 4, 60\r\n", hidden).into()),
        ("a coding that is not chunked", post("Transfer-Encoding: gzip\r\n", hidden).into()),
        ("chunked before another coding", post("Transfer-Encoding: chunked, gzip\r\n", hidden).into()),
        ("a misspelt chunked", post("Transfer-Encoding: xchunked\r\n", hidden).into()),
        ("a chunk beyond 2^64", post("Transfer-Encoding: chunked\r\n", "fffffffffffffffff\r\nx\r\n").into()),
        ("a chunk that is no number", post("Transfer-Encoding: chunked\r\n", "zz\r\nx\r\n0\r\n\r\n").into()),
        ("space before a colon", post("Content-Length : 4\r\n", hidden).into()),
        ("a folded header", post("X: a\r\n b\r\nContent-Length: 0\r\n", "").into()),
        ("a NUL in a header", post("X: a\0b\r\nContent-Length: 0\r\n", "").into()),
        ("a return in a header", post("X: a\rContent-Length: 4\r\n", hidden).into()),
        ("two thousand headers", post(&many, "").into()),
        ("a header of 100 kB", post(&format!("X: {}\r\n", "y".repeat(100_000)), "").into()),
        ("a path of 100 kB", format!("GET /{} HTTP/1.1\r\nHost: relay\r\n\r\n", "y".repeat(100_000)).into()),
        ("another version", b"GET / HTTP/3.7\r\nHost: relay\r\n\r\n".to_vec()),
        ("no version", b"GET /v1/openapi.json\r\n\r\n".to_vec()),
        ("a tunnel", b"CONNECT 127.0.0.2:22 HTTP/1.1\r\nHost: 127.0.0.2:22\r\n\r\n".to_vec()),
        ("another protocol", b"INVITE sip:alice@example.test SIP/2.0\r\nContent-Length: 0\r\n\r\n".to_vec()),
        ("HTTP/2 without its ALPN", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("zeros", vec![0; 4_096]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_end_is_in_doubt_is_not_read_as_two() -> Outcome {
    let world = World::attacked().await?;
    for address in [world.relay.api_address(), world.relay.operator_address()] {
        for (what, bytes) in doubtful() {
            let mut raw = Raw::tls(ELSEWHERE, address, &world.authority, &[b"http/1.1"]).await?;
            raw.send_while_reading(&bytes).await;
            raw.finish().await;
            let seen = raw.await_end(SOON).await.unwrap_or_else(|| panic!("{what} was left open"));
            let statuses = tests::raw::statuses(&seen);
            assert!(statuses.len() <= 1, "{what}: {seen}");
            assert!(statuses.iter().all(|status| (400..600).contains(status)), "{what}: {seen}");
        }
    }
    world.unharmed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_a_bad_head_is_told_what_is_wrong_with_it() -> Outcome {
    let world = World::attacked().await?;
    let head = |path: &str, rest: &str| format!("GET {path} HTTP/1.1\r\n{rest}Connection: close\r\n\r\n");
    let relay = &world.relay;
    for (address, path) in [(relay.api_address(), "/v1/keys"), (relay.operator_address(), "/healthz")] {
        let many = format!("Host: relay\r\n{}", "X: y\r\n".repeat(64));
        for (hosts, status) in [
            ("Host: relay\r\n", 200),
            ("", 400),
            ("Host: relay\r\nHost: relay\r\n", 400),
            ("Host: user@relay\r\n", 400),
            ("Host: a, b\r\n", 400),
            (&many, 431),
            ("Host: relay\r\nTransfer-Encoding: gzip, chunked\r\n", 501),
        ] {
            let mut raw = Raw::tls(ELSEWHERE, address, &world.authority, &[b"http/1.1"]).await?;
            raw.send_while_reading(head(path, hosts).as_bytes()).await;
            let seen = raw.await_end(SOON).await.unwrap_or_else(|| panic!("{hosts} was left open"));
            assert_eq!(tests::raw::statuses(&seen), [status], "{hosts}: {seen}");
            assert_eq!(seen.contains("content-type: application/problem+json"), status >= 400, "{hosts}: {seen}");
        }
    }
    world.unharmed().await
}
